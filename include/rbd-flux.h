/* SPDX-License-Identifier: MIT */
/*
 * rbd-flux - what it means that objects of an image go.
 *
 * Those of an image that is removed or that shrinks are marked in its object map first,
 * then removed, then marked as not being there; last of all its header changes.  A guest
 * that discards data does the same to some of them, and no header changes then.
 *
 * Does not block, knows no clock.
 */
#ifndef IMAGEFS_RBD_FLUX_H
#define IMAGEFS_RBD_FLUX_H

#include <stdbool.h>
#include <stdint.h>

#include "rbd-wire.h"

struct ceph_flux {
	int64_t since_ns; /* when some were found to be gone, or going; 0: none are */
	int64_t change_ns; /* when their number changed last */
	uint64_t gone;
	bool is_old; /* those that were going from the first have been left so */
};

/*
 * See what became of the objects of @was in @now, the map as it is at @now_ns; the header
 * is known to be unchanged.  Objects that have been gone for a while are taken out of
 * @was.  Returns 0 if nothing is in doubt; -EAGAIN if it is to be looked again soon; or
 * -ESTALE if objects have been going for @limit_ns.
 */
int ceph_flux_judge(struct ceph_flux *flux, struct ceph_map *was,
		    const struct ceph_map *now, int64_t now_ns, int64_t limit_ns);

#endif
