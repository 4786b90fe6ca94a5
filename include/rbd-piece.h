/* SPDX-License-Identifier: MIT */
/*
 * rbd-piece - a part of one object of an image, being read.
 */
#ifndef IMAGEFS_RBD_PIECE_H
#define IMAGEFS_RBD_PIECE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rbd-done.h"
#include "rbd-image.h"

#define CEPH_PIECE_BYTES ((size_t)1 << 20) /* at most */

struct ceph_piece {
	struct ceph_work work;
	struct ceph_image *image;
	uint64_t offset; /* in the image */
	size_t length;
	char *buffer; /* of @length */
	void (*finish)(struct ceph_piece *piece); /* the results are set then */
	void *owner; /* whatever @finish needs */

	bool is_under_way;
	int error; /* 0 or a negative errno */
	bool is_void; /* nothing, or only zeros, came for a part of it */
	int64_t done_ns;

	int64_t result; /* of the read that is under way: bytes, or a negative errno */
	rados_completion_t completion;
	rbd_completion_t librbd;
};

/*
 * How many bytes from @offset on a piece may have: it lies in one object, and does not
 * cross a multiple of CEPH_PIECE_BYTES.
 */
size_t ceph_piece_limit(const struct ceph_image *image, uint64_t offset);

/*
 * Begin to read @piece, all up to @owner being set, and work.done; @is_inherited if it
 * is known that its object is not there and the parent has to be asked.  Opens the image
 * with librbd if need be, which blocks.  Calls @finish from ceph_done_run().
 */
void ceph_piece_read(struct ceph_piece *piece, bool is_inherited);

/* Have it end soon if it can; it is finished nevertheless. */
void ceph_piece_cancel(struct ceph_piece *piece);

#endif
