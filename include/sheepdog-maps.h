/* SPDX-License-Identifier: MIT */
/*
 * sheepdog-maps - which VDIs a cluster has, by their numbers.
 *
 * A bitmap says which numbers were ever given out, another one which of those VDIs are
 * deleted.  Sheep answer with a bitmap whether their cluster runs or not, and if it does
 * not, of none or of a part of its VDIs.  So it is asked before, by a request that is
 * only answered by a cluster that runs.
 */
#ifndef IMAGEFS_SHEEPDOG_MAPS_H
#define IMAGEFS_SHEEPDOG_MAPS_H

#include <stdbool.h>
#include <stdint.h>

#include "sheepdog-cluster.h"

/* Zero-initialize. */
struct sheep_maps {
	struct sheep_cluster *cluster; /* to go on with */

	/* Private. */
	struct sheep_proof proof;
	uint64_t nodes_hash; /* of the list of nodes */
	bool is_proven;
	bool is_running;
	int count; /* how many of the two maps are there */
	struct sheep_call state_call;
	uint8_t state[SHEEP_RECOVERY_BYTES];
	struct sheep_call calls[2];
	uint8_t *used; /* allocated with the other one */
	uint8_t *deleted;
};

/*
 * Ask the cluster of @uri, which is borrowed, for its maps; blocks.  Returns 0 or what
 * sheep_cluster_new() and sheep_cluster_wait() do; maps->cluster may be NULL then.  What
 * is there is freed with sheep_maps_fini() in any case.
 */
int sheep_maps_get(struct sheep_maps *maps, const struct sheep_uri *uri);

void sheep_maps_fini(struct sheep_maps *maps);

/* Whether VDI number @vid was given out, to a VDI that may be deleted by now. */
bool sheep_maps_given(const struct sheep_maps *maps, uint32_t vid);

/* The first VDI from @vid on that is there; SHEEP_VDIS if there is none. */
uint32_t sheep_maps_next(const struct sheep_maps *maps, uint32_t vid);

#endif
