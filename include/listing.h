/* SPDX-License-Identifier: MIT */
/*
 * listing - all images of a store at one time, in the order of their file names.
 *
 * Constant once made; shared by reference counts.  Any thread.
 */
#ifndef IMAGEFS_LISTING_H
#define IMAGEFS_LISTING_H

#include <stdatomic.h>
#include <stddef.h>

#include "image.h"
#include "store.h"

struct listing {
	struct image **images; /* a reference to each */
	size_t count;
	atomic_size_t refs;
};

/*
 * Run the store's list to its end, on the calling thread, which waits; @wake_fd
 * (reader.h) ends the wait.  An image that is as it was in @old, which may be NULL, is
 * the same struct image again.  Lines that are wrong are logged and left out.  The caller
 * owns a reference to *@ret_listing.  Returns 0; -EIO, -ESTALE, -EACCES, -ETIMEDOUT,
 * -ECANCELED or -ENOMEM, and in *@ret_text, for the caller to free, why.
 */
int listing_new(const struct store *store, const struct listing *old, int wake_fd,
		struct listing **ret_listing, char **ret_text);

/* The image with this file name, borrowed, or NULL. */
struct image *listing_find(const struct listing *listing, const char *file_name);

struct listing *listing_ref(struct listing *listing);
void listing_unref(struct listing *listing);

#endif
