/* SPDX-License-Identifier: MIT */
/*
 * rbd-guard - whether what the cluster answers still is of the version that was opened.
 *
 * It goes on answering, with success, when that is gone: objects that were removed read
 * as zeros, those of a removed snapshot as zeros or as what was written since, those of a
 * removed clone as what its parent has.  librbd does so as well: without a watch, which
 * needs the right to write, nobody tells it.
 *
 * So the cluster is asked again and again, and an answer is good when the version was
 * still there after it came.  Removing begins with a mark: a snapshot is moved to the
 * trash, an image as well, and objects of an image that shrinks become "pending" in the
 * object map.  The first object is touched several round trips later; so an answer that
 * has data in it is good as well if there was no mark a moment before it came.  An answer
 * that has nothing in it is what removing looks like, and waits for a check that begins
 * after it.
 *
 * An image that shrinks has its old size until all of its objects behind the new one are
 * removed.  Whether that or a guest discards objects cannot be told at first.  If some are
 * gone that were there when the image was opened, empty answers wait till either the size
 * tells, or nothing more has gone for a while.
 */
#ifndef IMAGEFS_RBD_GUARD_H
#define IMAGEFS_RBD_GUARD_H

#include <stdbool.h>
#include <stdint.h>

#include "rbd-cls.h"
#include "rbd-done.h"
#include "rbd-image.h"

struct ceph_guard {
	struct ceph_image *image;
	struct ceph_done *done;
	int status; /* STORE_OK, or the status to exit with: it was said why */
	int64_t good_ns; /* answers with data that came a moment after are good */
	int64_t void_ns; /* answers without that came before are good */
	int64_t map_ns; /* @map is not older */
	struct ceph_map map; /* of the image itself; empty if there is none */

	/* the check that is under way */
	bool is_checking;
	int64_t began_ns;
	struct cls_op trash_op, header_op, map_op;
	bool has_map_op;
	size_t under_way; /* of the last two */

	/* objects that were there when the image was opened, and are not, or soon */
	int64_t flux_ns; /* since when; 0: there are none */
	int64_t change_ns; /* when their number changed last */
	uint64_t missing;
	int64_t again_ns; /* when to look again; 0: not by itself */
	bool is_pending_old; /* those that were on their way already will stay so */
};

/* @image and @done are borrowed. */
void ceph_guard_init(struct ceph_guard *guard, struct ceph_image *image,
		     struct ceph_done *done);

/* No more checks are wanted, and nothing is to be said of the one under way. */
void ceph_guard_stop(struct ceph_guard *guard);

/* No check may be under way, see is_checking. */
void ceph_guard_fini(struct ceph_guard *guard);

/*
 * Whether an answer that came at @since_ns is good; @is_void if nothing was in it.  If
 * that is not known, it is found out: ask again when works were done.
 */
bool ceph_guard_allows(struct ceph_guard *guard, int64_t since_ns, bool is_void);

/*
 * Have the map of an image in use read, if it is older than @since_ns.  Returns whether
 * it is not, or there is none.
 */
bool ceph_guard_map(struct ceph_guard *guard, int64_t since_ns);

/* Whether there may be data in object @number, as the map was read last. */
bool ceph_guard_may_exist(const struct ceph_guard *guard, uint64_t number);

/* Something is about to be asked: have the answer be good when it comes. */
void ceph_guard_prepare(struct ceph_guard *guard);

/* Wait until something that bears on it is done: works of @done, or the time to look. */
void ceph_guard_wait(struct ceph_guard *guard);

/* Look again if it is time to.  Returns when it is next, INT64_MAX if not by itself. */
int64_t ceph_guard_step(struct ceph_guard *guard);

#endif
