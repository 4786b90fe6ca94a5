/* SPDX-License-Identifier: MIT */
/*
 * rbd-piece - a part of one object of an image, being read.
 */
#ifndef IMAGEFS_RBD_PIECE_H
#define IMAGEFS_RBD_PIECE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rbd-image.h"

#define CEPH_PIECE_BYTES ((size_t)1 << 20) /* at most */

struct ceph_piece {
	struct ceph_image *image;
	uint64_t offset; /* in the image */
	size_t length;
	char *buffer; /* of @length */

	int error; /* 0 or a negative errno */
	bool is_void; /* nothing, or only zeros, came for a part of it */
	int64_t done_ns; /* it was done then; 0: that is not known */

	rados_completion_t completion; /* either is under way, or none */
	rbd_completion_t librbd;
};

/*
 * How many bytes from @offset on a piece may have: it lies in one object, and does not
 * cross a multiple of CEPH_PIECE_BYTES.
 */
size_t ceph_piece_limit(const struct ceph_image *image, uint64_t offset);

/*
 * Begin to read @piece, whose first four fields are set; @of_parent if its object is not
 * there and the parent's is to be read.  Opens the image with librbd if need be, which
 * blocks.  ceph_piece_wait() is to be called.
 */
void ceph_piece_begin(struct ceph_piece *piece, bool of_parent);

/* Note when it was done, if it is.  Does not block. */
void ceph_piece_look(struct ceph_piece *piece);

/* Wait till it is done; the results are set then. */
void ceph_piece_wait(struct ceph_piece *piece);

#endif
