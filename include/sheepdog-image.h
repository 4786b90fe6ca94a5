/* SPDX-License-Identifier: MIT */
/*
 * sheepdog-image - one version of a VDI: its inode, and where its data is.
 *
 * The index of an image says which VDI owns each of its objects.  It is read as far as it
 * is needed.  That of a snapshot is read once; that of a VDI in use again and again,
 * since the guest goes on writing.
 */
#ifndef IMAGEFS_SHEEPDOG_IMAGE_H
#define IMAGEFS_SHEEPDOG_IMAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "sheepdog-cluster.h"

#define SHEEP_ID_BYTES 32

/*
 * The identity of an image: "VID-CREATED" in hexadecimal digits, since a VDI's number is
 * given to another one some time after it was deleted, and "-s" for a snapshot.  That of
 * a VDI in use stays good when it becomes a snapshot.
 */
struct sheep_id {
	uint32_t vid;
	uint64_t created;
	bool is_snapshot;
};

/* The identity of @inode. */
struct sheep_id sheep_id_of(const struct sheep_inode *inode);

void sheep_id_format(const struct sheep_id *id, char text[SHEEP_ID_BYTES]);

/* Returns whether @text is an identity. */
bool sheep_id_parse(const char *text, struct sheep_id *ret_id);

struct sheep_image;

/*
 * Find the image @id in the cluster that @uri_text names; blocks till it is there.  The
 * caller owns *@ret_image and frees it with sheep_image_close().  Returns STORE_OK, or
 * the status to exit with, having said why.
 */
int sheep_image_open(const char *uri_text, const char *id,
		     struct sheep_image **ret_image);

void sheep_image_close(struct sheep_image *image);

struct sheep_cluster *sheep_image_cluster(struct sheep_image *image);

/* As it was read last. */
const struct sheep_inode *sheep_image_inode(const struct sheep_image *image);

/*
 * Which VDI owns @object, as it was known at @since_ms or later if the image is in use;
 * 0 in *@ret_vid if nobody does, and it is zeros.  *@ret_run is for how many objects from
 * there on that is known to be so.  Returns 0; -EAGAIN while that part of the index is
 * being read, which goes on in sheep_cluster_wait(); -ESTALE if the image is gone; or
 * -EBADMSG if the index makes no sense.
 */
int sheep_image_find(struct sheep_image *image, uint64_t object, int64_t since_ms,
		     uint32_t *ret_vid, uint64_t *ret_run);

/*
 * The cluster has no @object of the owner that sheep_image_find() named: the index is to
 * be read again.  Sooner or later there is another owner or none, or the image is gone.
 */
void sheep_image_lost(struct sheep_image *image, uint64_t object);

/* Whether an object that was lost may be so because the image is being deleted. */
bool sheep_image_is_vanishing(const struct sheep_image *image);

/*
 * Read the inode again; blocks.  Returns STORE_OK, or the status to exit with, having
 * said why.
 */
int sheep_image_check(struct sheep_image *image);

/*
 * Say why the image cannot be read, @error being what sheep_image_find() or
 * sheep_cluster_wait() returned.  Returns the status to exit with.
 */
int sheep_image_fail(struct sheep_image *image, int error);

#endif
