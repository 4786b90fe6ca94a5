/* SPDX-License-Identifier: MIT */
/*
 * rbd-nodes - images and snapshots that are being looked at, many at the same time.
 *
 * Of each the header is asked for, and how much the object map counts; of what it was
 * cloned from the same, as far back as there is something.
 */
#ifndef IMAGEFS_RBD_NODES_H
#define IMAGEFS_RBD_NODES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rbd-cluster.h"
#include "rbd-done.h"
#include "rbd-header.h"

/* An image or a snapshot; constant once it was looked at. */
struct ceph_node {
	int64_t pool;
	char *space;
	char *id;
	uint64_t snap;
	char *name; /* of the image; NULL if not known */
	bool is_listed; /* it was asked for, and not only the origin of another */
	bool is_asked_for_snaps; /* they are as well, when they are known */
	int error; /* 0, or why it cannot be looked at: a negative errno */
	struct ceph_header header; /* if there is no error */
	uint64_t own; /* bytes of the objects that exist; UINT64_MAX if not known */
	struct ceph_node *parent; /* NULL: none */
};

struct ceph_nodes {
	struct ceph_cluster *cluster;
	int error; /* that nothing can be done about: negative */
	struct ceph_node **nodes; /* in the order of their coming */
	size_t count;

	size_t room;
	size_t next; /* to be looked at */
	size_t under_way;
	void *tree; /* of the same, by what they are (tsearch(3)) */
	struct ceph_done done;
	struct nodes_pool *pools;
};

/* @cluster is borrowed.  Returns 0 or a negative errno. */
int ceph_nodes_init(struct ceph_nodes *nodes, struct ceph_cluster *cluster);

void ceph_nodes_fini(struct ceph_nodes *nodes);

/*
 * Have the image @id of the cluster's pool looked at, called @name, and its snapshots if
 * @with_snaps.  Returns the node, which @nodes owns, or NULL if there is no memory.
 */
struct ceph_node *ceph_nodes_add(struct ceph_nodes *nodes, const char *id,
				 const char *name, bool with_snaps);

/*
 * Look at all; blocks.  Returns 0 or a negative errno that makes it of no use to go on:
 * -ETIMEDOUT, -ENOMEM.
 */
int ceph_nodes_look(struct ceph_nodes *nodes);

/*
 * How many bytes @node takes up, at most: what it shares with its parent is counted twice
 * where both have it.  UINT64_MAX if that is not known.
 */
uint64_t ceph_node_allocated(const struct ceph_node *node);

#endif
