/* SPDX-License-Identifier: MIT */
/*
 * rbd-guard - whether what the cluster answers still is of the version that was opened,
 * and where that has nothing.
 *
 * The cluster goes on answering, with success, when a version is gone: objects that were
 * removed read as zeros, those of a removed snapshot as zeros or as what was written
 * since, those of a removed clone as what its parent has.  librbd does so as well: without
 * a watch, which needs the right to write, nobody tells it.
 *
 * So the cluster is asked again and again, and an answer is good when the version was
 * still there after it came.  Removing begins with a mark: a snapshot is moved to the
 * trash, an image as well, and objects of an image that shrinks become "pending" in the
 * object map.  The first object is touched several round trips later; so an answer that
 * has data in it is good as well if there was no mark a moment before it came; or always,
 * if it is of an image itself without a parent.  An answer that has nothing in it is what
 * removing looks like, and waits for a check that begins after it.
 *
 * An image that shrinks has its old size until all of its objects behind the new one are
 * removed.  Whether that or a guest discards objects cannot be told at first.  If some are
 * gone that were there when the image was opened, empty answers wait till either the size
 * tells, or nothing more has gone for a while.
 *
 * Threads: it has one of its own, which asks the cluster; any thread may call.  While
 * there is a guard, the image's layers are the guard's.
 */
#ifndef IMAGEFS_RBD_GUARD_H
#define IMAGEFS_RBD_GUARD_H

#include <stdbool.h>
#include <stdint.h>

#include "rbd-image.h"

struct ceph_guard;

/*
 * Guard @image, which is borrowed.  The caller frees *@ret_guard with ceph_guard_free().
 * Returns 0 or a negative errno.
 */
int ceph_guard_new(struct ceph_image *image, struct ceph_guard **ret_guard);

/* Nobody may be waiting.  NULL is taken. */
void ceph_guard_free(struct ceph_guard *guard);

/*
 * Wait till an answer that came at @since_ns, or before, is known to be good; @is_void if
 * nothing was in it.  Returns STORE_OK, or the status to exit with, having said why.
 */
int ceph_guard_wait(struct ceph_guard *guard, int64_t since_ns, bool is_void);

/* Whether it is known already.  Does not block. */
bool ceph_guard_knows(struct ceph_guard *guard, int64_t since_ns, bool is_void);

/* Something is about to be asked: have what is needed be known when the answer comes. */
void ceph_guard_prepare(struct ceph_guard *guard);

/* What there is at a place of the image. */
enum ceph_place {
	PLACE_DATA, /* or not: it is to be asked for */
	PLACE_PARENT, /* the same, and the image itself has no object there */
	PLACE_HOLE, /* zeros */
};

/*
 * What there is at @offset, up to *@ret_end, which is not beyond @limit.  Of an image that
 * may be written to, as it was at @since_ns or later: what was known before is looked at
 * again if @may_wait, else it is to be asked for.
 */
enum ceph_place ceph_guard_find(struct ceph_guard *guard, uint64_t offset, uint64_t limit,
				int64_t since_ns, bool may_wait, uint64_t *ret_end);

#endif
