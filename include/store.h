/* SPDX-License-Identifier: MIT */
/*
 * store - where the images come from: a URI, and the program that speaks for it.
 *
 * Constant once made; any thread may use it.
 */
#ifndef IMAGEFS_STORE_PROGRAM_H
#define IMAGEFS_STORE_PROGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "warden.h"

struct store {
	char *uri;
	char *shown; /* the URI for people: without a password that is in it */
	char *source; /* what the user calls it: the URI, or the path of a folder */
	char *scheme;
	char *program; /* path of imagefs-store-SCHEME */
	uint64_t stall_ms;
	bool immutable; /* every image is taken for immutable, whatever the list says */
	struct warden *warden; /* borrowed */
};

/*
 * Find the program for @where: a URI, or the path of a folder, which is made a dir:// URI
 * of its absolute path.  It is looked for in @folders (separated by ':', may be NULL) and
 * then in the installed folder.  @warden is borrowed, and may be NULL until a program is
 * to run.  The caller owns *@ret_store.  Returns 0, or having logged why -ENOENT (no program
 * for this scheme), -ENOTDIR or what realpath(3) says; or -ENOMEM.
 */
int store_new(const char *where, const char *folders, struct store **ret_store);

void store_free(struct store *store);

/*
 * Start the program's @call ("list", "read", "extents") for @id, NULL for a list.  The
 * caller ends *@ret_child with child_kill().  Returns 0 or a negative errno.
 */
int store_run(const struct store *store, const char *call, const char *id,
	      struct child *ret_child);

/*
 * What an exit status of a store program (imagefs-store.h) means to whoever reads a file:
 * 0, -ESTALE, -EACCES or -EIO.
 */
int store_errno(int status);

/* Whether a program that ended with @status may do better when it is started again. */
int store_may_retry(int status);

#endif
