/* SPDX-License-Identifier: MIT */
/*
 * rbd-header - what the header object of an image says of it or of one of its snapshots.
 */
#ifndef IMAGEFS_RBD_HEADER_H
#define IMAGEFS_RBD_HEADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rbd-cls.h"
#include "rbd-wire.h"

#define CEPH_OBJECT_BYTES 2048 /* the name of an object, at most */

/* The snapshot that an image was cloned from. */
struct ceph_parent {
	int64_t pool; /* -1: there is none */
	char *space;
	char *image; /* its id */
	uint64_t snap;
};

struct ceph_header {
	uint8_t order; /* objects have 2^order bytes */
	uint64_t size;
	uint64_t features; /* RBD_FEATURE_… */
	uint64_t flags; /* RBD_FLAG_… */
	int64_t created, modified; /* seconds since 1970; INT64_MIN if not known */
	int64_t data_pool; /* where the data is; -1: with the header */
	uint64_t stripe_count; /* objects that take turns; 1: one after another */
	char *prefix; /* of the names of objects of data */
	struct ceph_parent parent;
	uint64_t overlap; /* bytes that may come from the parent */
	uint64_t *snaps; /* their numbers; of the image itself only */
	size_t snap_count;
	struct ceph_snap snap; /* of a snapshot only */
};

/* The name of the object that has the header of the image @id. */
void ceph_header_name(const char *id, char ret_name[CEPH_OBJECT_BYTES]);

/* The name of that with the object map of @snap of it, or CEPH_HEAD. */
void ceph_map_name(const char *id, uint64_t snap, char ret_name[CEPH_OBJECT_BYTES]);

/*
 * Add the calls that ask for the header of @snap, or CEPH_HEAD, to @op, which has none;
 * and take their answers apart.  The second returns 0; -ENOENT if there is no such image
 * or snapshot; -EBADMSG or another negative errno.  The caller frees *@ret_header with ceph_header_fini().
 */
void ceph_header_ask(struct cls_op *op, uint64_t snap);
int ceph_header_take(const struct cls_op *op, uint64_t snap,
		     struct ceph_header *ret_header);

void ceph_header_fini(struct ceph_header *header);

/* Whether there is an object map that can be relied upon. */
bool ceph_header_has_map(const struct ceph_header *header);

/* How many objects the image has, there or not. */
uint64_t ceph_header_objects(const struct ceph_header *header);

#endif
