/* SPDX-License-Identifier: MIT */
/*
 * handle - one open file.
 *
 * It cuts reads to the image, and hands them to the pool that it has or shares.  No call
 * waits for the store.
 */
#ifndef IMAGEFS_HANDLE_H
#define IMAGEFS_HANDLE_H

#include <stdbool.h>

#include "engine.h"
#include "holes.h"
#include "image.h"
#include "read.h"

struct handle;

/*
 * Open @image, of which a reference is kept; @engine is borrowed.  The caller owns
 * *@ret_handle and gives it up with handle_close().  Returns 0 or -ENOMEM.
 */
int handle_new(struct engine *engine, struct image *image, struct handle **ret_handle);

/*
 * Close it: if nobody shares its readers they are killed, and reads that still wait are
 * answered with -EIO.  Does not wait.
 */
void handle_close(struct handle *handle);

/* Read; a part beyond the image's end is cut off first.  @read is replied to, once. */
void handle_read(struct handle *handle, struct read *read);

/*
 * Give up a read, having set its given_up.  Returns whether it was waiting: it is the
 * caller's again then; else it has been, is being, or will be replied to.
 */
bool handle_cancel(struct handle *handle, struct read *read);

/* Tell where data or a hole begins, at or after an offset inside of the image. */
void handle_seek(struct handle *handle, struct seek *seek);

/* The same as handle_cancel(). */
bool handle_cancel_seek(struct handle *handle, struct seek *seek);

/* Since when (clock.h) a read has waited, UINT64_MAX if none does. */
uint64_t handle_waiting_since(struct handle *handle);

struct image *handle_image(struct handle *handle);

#endif
