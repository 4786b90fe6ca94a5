/* SPDX-License-Identifier: MIT */
/*
 * rbd-layers - where an image has data, as the object maps say: its own and, of a clone,
 * those of the snapshots that it comes from.
 *
 * A map says more than is there rather than less.  Where there is none all is data.
 */
#ifndef IMAGEFS_RBD_LAYERS_H
#define IMAGEFS_RBD_LAYERS_H

#include <stdbool.h>
#include <stdint.h>

#include "rbd-cluster.h"
#include "rbd-header.h"

#define CEPH_LAYERS_MAX 64

struct ceph_layer {
	uint64_t end; /* bytes from the start of the image that it may have data in */
	uint8_t order;
	bool has_map;
	struct ceph_map map;
	/* of a parent that has a parent; else NULL */
	rados_ioctx_t pool;
	char *id;
	uint64_t snap;
	uint64_t overlap; /* bytes of it that may come from its parent */
};

struct ceph_layers {
	size_t count;
	struct ceph_layer *layers; /* the image's own first */
	bool is_exact; /* all have maps */
};

/*
 * Load the maps of snapshot @snap of the image @id of @cluster, or of CEPH_HEAD, whose
 * header is @header; blocks.  Returns 0, -ETIMEDOUT or -ENOMEM.  The caller frees
 * *@ret_layers with ceph_layers_fini().
 */
int ceph_layers_load(const struct ceph_cluster *cluster, const char *id, uint64_t snap,
		     const struct ceph_header *header, struct ceph_layers *ret_layers);

void ceph_layers_fini(struct ceph_layers *layers);

/*
 * See whether of all parents as much shows in their children as did; blocks, if there is
 * more than one.  Returns 0, -EXDEV if it is less, or another negative errno.
 */
int ceph_layers_check(const struct ceph_layers *layers);

/*
 * The same for one, by the answer @call to "parent_overlap_get": whether @overlap bytes
 * show still.  When an image was flattened, its parent can be removed, and librbd takes
 * what that has to be there still; where objects were discarded since, or the image was
 * shrunk and made larger again, nothing of it shows.  Returns 0, -EXDEV or -EBADMSG.
 */
int ceph_overlap_check(const struct cls_call *call, uint64_t overlap);

/*
 * Whether there may be data at @offset, and in *@ret_end where that ends to be so: at
 * @limit, behind @offset, or before it.
 */
bool ceph_layers_find(const struct ceph_layers *layers, uint64_t offset, uint64_t limit,
		      uint64_t *ret_end);

#endif
