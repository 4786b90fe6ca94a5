/* SPDX-License-Identifier: MIT */
/*
 * extents - the runs of an image that may hold data; the rest is zeros.
 *
 * Constant once made; any thread may use it.
 */
#ifndef IMAGEFS_EXTENTS_H
#define IMAGEFS_EXTENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "image.h"
#include "store.h"

struct extents;

/*
 * Ask the store for them, on the calling thread, which waits; @wake_fd (reader.h) ends
 * the wait.  A store that cannot tell has one run, the whole image.  The caller owns
 * a reference to *@ret_extents.  Returns 0, -ESTALE, -EACCES, -EIO (the image is told why), -ECANCELED
 * or -ENOMEM.
 */
int extents_new(const struct store *store, struct image *image, int wake_fd,
		struct extents **ret_extents);

struct extents *extents_ref(struct extents *extents);

/* NULL is taken. */
void extents_unref(struct extents *extents);

/*
 * The first data, or the first hole, from @offset on: the image's size if there is none.
 */
uint64_t extents_data(const struct extents *extents, uint64_t offset);
uint64_t extents_hole(const struct extents *extents, uint64_t offset);

#endif
