/* SPDX-License-Identifier: MIT */
/*
 * call - run a store program to its end and take its output line by line.
 */
#ifndef IMAGEFS_CALL_H
#define IMAGEFS_CALL_H

#include <stddef.h>

#include "store.h"

/*
 * Run @store's program with @call for @id (NULL for a list).  @take gets each line, its
 * newline replaced by a NUL; it returns 0, or a negative errno that ends the call.
 * Blocks: until nothing came for the store's stall limit, or @wake_fd (reader.h) became
 * readable.  Returns 0 when the program exited with 0 after a whole last line; its exit
 * status, positive, with its last words in *@ret_text, for the caller to free;
 * -ETIMEDOUT, -ECANCELED, -EBADMSG (a line without an end, or one over STORE_LINE_MAX),
 * what @take returned, or another negative errno.
 */
int call_store(const struct store *store, const char *call, const char *id, int wake_fd,
	       int (*take)(void *context, char *line, size_t size), void *context,
	       char **ret_text);

#endif
