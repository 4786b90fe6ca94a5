/* SPDX-License-Identifier: MIT */
/*
 * fs - the file system: what the kernel asks, and the threads that answer it.
 */
#ifndef IMAGEFS_FS_H
#define IMAGEFS_FS_H

#include "catalog.h"
#include "engine.h"
#include "options.h"

struct fs;

/*
 * Mount at @options->mountpoint.  All are borrowed and outlive it.  The caller owns
 * *@ret_fs and ends it with fs_free().  Returns 0, or a negative errno, having logged
 * why.
 */
int fs_new(const struct options *options, struct engine *engine, struct catalog *catalog,
	   struct fs **ret_fs);

/*
 * Serve, until it is unmounted or one of the signals SIGINT, SIGTERM and, unless
 * @options->managed, SIGHUP comes, which the caller has blocked in all threads.  @ready is called once, when files can be
 * opened.  Returns 0, or a negative errno, having logged why.
 */
int fs_serve(struct fs *fs, void (*ready)(void *context), void *context);

/* Close all that is open: readers are killed, reads that wait are answered. */
void fs_close_all(struct fs *fs);

/* Unmount.  No thread uses it any more.  NULL is taken. */
void fs_free(struct fs *fs);

#endif
