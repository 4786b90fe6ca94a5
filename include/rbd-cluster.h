/* SPDX-License-Identifier: MIT */
/*
 * rbd-cluster - a connection to a Ceph cluster and to one of its pools.
 *
 * Every wait ends: the time-outs that Ceph leaves without a limit are set by
 * IMAGEFS_STALL_MS, unless the URI or the user's own configuration says otherwise.
 */
#ifndef IMAGEFS_RBD_CLUSTER_H
#define IMAGEFS_RBD_CLUSTER_H

#include <rados/librados.h>
#include <stdbool.h>
#include <stdint.h>

#include "rbd-uri.h"

struct ceph_cluster {
	struct ceph_uri uri;
	rados_t rados;
	rados_ioctx_t pool; /* in the namespace of @uri */
};

/*
 * Connect to what @text names; blocks till that is done.  An OSD is waited for a fifth of
 * the stall limit at most or, if @is_patient, for nearly all of it: librados goes on by
 * itself when the OSD is back, and if it is not, what is said comes before imagefs ends the
 * program.  The caller frees *@ret_cluster with ceph_cluster_fini().  Returns STORE_OK;
 * STORE_GONE, without having said so, if there is no such pool or namespace; or another
 * status to exit with, having said why.
 */
int ceph_cluster_init(struct ceph_cluster *ret_cluster, const char *text,
		      bool is_patient);

void ceph_cluster_fini(struct ceph_cluster *cluster);

/* Say that there is no such pool or namespace.  Returns @status. */
int ceph_cluster_lacks(const struct ceph_cluster *cluster, int status);

/*
 * Another pool by its number, with namespace @space, which the caller gives back with
 * rados_ioctx_destroy().  Returns 0 or a negative errno.
 */
int ceph_cluster_pool(const struct ceph_cluster *cluster, int64_t number,
		      const char *space, rados_ioctx_t *ret_pool);

/* The exit status for @error, a negative errno of librados or librbd. */
int ceph_status(int error);

/* The milliseconds after which the daemon takes a program to be hanging. */
uint64_t ceph_stall_ms(void);

/* Nanoseconds of a clock that only goes forward. */
int64_t ceph_now_ns(void);

#endif
