/* SPDX-License-Identifier: MIT */
/*
 * rbd-image - one version of an image, opened to be read.
 *
 * What needs no more is read from the objects of data themselves, by librados; what does
 * (a clone's parent, stripes, an image that is being migrated) by librbd, which is only
 * opened then.  Measured on one machine, one OSD in memory: 1.6 times the rate of librbd
 * for half of its processor time, and 1.4 times for single reads of 4 KiB.  And an object
 * that is not there is told from one with zeros in it, which librbd does not.
 */
#ifndef IMAGEFS_RBD_IMAGE_H
#define IMAGEFS_RBD_IMAGE_H

#include <pthread.h>
#include <rados/librados.h>
#include <rbd/librbd.h>
#include <stdbool.h>
#include <stdint.h>

#include "rbd-cluster.h"
#include "rbd-header.h"
#include "rbd-layers.h"

#define CEPH_ID_BYTES 160

/*
 * The identity of a version: the id of the image, which stays when it is renamed and is
 * never given to another, and "@" and the number of the snapshot.
 */
void ceph_id_format(const char *image, uint64_t snap, char ret_id[CEPH_ID_BYTES]);

/* Returns whether @id is one; *@ret_image then has the image's, of CEPH_ID_BYTES. */
bool ceph_id_parse(const char *id, char ret_image[CEPH_ID_BYTES], uint64_t *ret_snap);

struct ceph_image {
	struct ceph_cluster cluster;
	char id[CEPH_ID_BYTES];
	uint64_t snap; /* CEPH_HEAD: the image itself */
	int64_t known_ns; /* that it was there, and as the header says */
	struct ceph_header header;
	struct ceph_layers layers;
	bool is_direct; /* its objects may be read by librados */
	rados_ioctx_t data; /* the pool that they are in, at the snapshot */
	pthread_mutex_t librbd_lock; /* guards what follows */
	rbd_image_t librbd; /* NULL until it is needed */
};

/*
 * Open the version @id of the store @uri; blocks.  The caller frees *@ret_image with
 * ceph_image_close().  Returns STORE_OK, or the status to exit with, having said why.
 */
int ceph_image_open(const char *uri, const char *id, struct ceph_image *ret_image);

void ceph_image_close(struct ceph_image *image);

/*
 * Read the header and the maps anew, of an image that may have grown; blocks, and nothing
 * may be under way.  Returns as ceph_image_open() does.
 */
int ceph_image_refresh(struct ceph_image *image);

/*
 * Open it with librbd, if it is not; blocks.  On any thread.  Returns 0 or a negative errno.
 */
int ceph_image_librbd(struct ceph_image *image);

/* Say that this version is gone.  Returns STORE_GONE. */
int ceph_image_gone(const struct ceph_image *image);

/*
 * Say that one cannot @what the image, because of @error, a negative errno.
 * Returns the status to exit with.
 */
int ceph_image_fail(const struct ceph_image *image, const char *what, int error);

#endif
