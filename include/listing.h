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

struct id_entry;

struct listing {
	struct image **images; /* a reference to each */
	size_t count;
	/* the same by their ids' file names, once somebody wants to know; guarded by a lock */
	struct id_entry *by_id;
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

/* The file name of the image's id, for the caller to free, or NULL. */
char *listing_id_name(const struct image *image);

/*
 * The same by the file name of its id; of several with one id, any.  Returns 0, with NULL
 * if there is none, or -ENOMEM.
 */
int listing_find_id(struct listing *listing, const char *id_name,
		    struct image **ret_image);

struct listing *listing_ref(struct listing *listing);
void listing_unref(struct listing *listing);

#endif
