/* SPDX-License-Identifier: MIT */
/*
 * sheepdog-maps - which VDIs a cluster has, by their numbers.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "sheepdog-gateway.h"
#include "sheepdog-maps.h"

/* The proof of a gateway: it counts the same nodes as the first one. */
static bool check_gateway(void *context, const struct sheep_call *call)
{
	struct sheep_maps *maps = context;

	if (maps->is_proven)
		return sheep_nodes_hash(call) == maps->nodes_hash;
	maps->nodes_hash = sheep_nodes_hash(call);
	maps->is_proven = true;
	sheep_cluster_learn(maps->cluster, call);
	sheep_cluster_spread(maps->cluster);
	return true;
}

static void state_done(struct sheep_call *call)
{
	struct sheep_maps *maps = call->owner;

	sheep_cluster_progress(maps->cluster);
	maps->is_running = true;
}

/* One of the two bitmaps came.  An old sheep does not know which VDIs are deleted. */
static void map_done(struct sheep_call *call)
{
	struct sheep_maps *maps = call->owner;

	sheep_cluster_progress(maps->cluster);
	if (call->answer.result != SHEEP_SUCCESS)
		memset(call->buffer, 0, SHEEP_BITMAP_BYTES);
	maps->count++;
}

static void ask_for(struct sheep_maps *maps, struct sheep_call *call, uint8_t op,
		    void *buffer, uint32_t length, void (*done)(struct sheep_call *call))
{
	*call = (struct sheep_call){
		.request = {.op = op, .length = length},
		.buffer = buffer,
		.whole = true,
		.done = done,
		.owner = maps,
	};
	sheep_cluster_call(maps->cluster, call);
}

static int ask_all(struct sheep_maps *maps)
{
	int error = 0;

	while (error == 0 && !maps->is_proven)
		error = sheep_cluster_wait(maps->cluster, NULL, 0, -1);
	ask_for(maps, &maps->state_call, SHEEP_STAT_RECOVERY, maps->state,
		sizeof(maps->state), state_done);
	while (error == 0 && !maps->is_running)
		error = sheep_cluster_wait(maps->cluster, NULL, 0, -1);
	ask_for(maps, &maps->calls[0], SHEEP_READ_VDIS, maps->used, SHEEP_BITMAP_BYTES,
		map_done);
	ask_for(maps, &maps->calls[1], SHEEP_READ_DEL_VDIS, maps->deleted,
		SHEEP_BITMAP_BYTES, map_done);
	while (error == 0 && maps->count < 2)
		error = sheep_cluster_wait(maps->cluster, NULL, 0, -1);
	return error;
}

int sheep_maps_get(struct sheep_maps *maps, const struct sheep_uri *uri)
{
	size_t size = 2 * (size_t)SHEEP_BITMAP_BYTES;
	int error;

	maps->used = aligned_alloc(SHEEP_BITMAP_BYTES, size);
	if (!maps->used)
		return -ENOMEM;
	/* A thousand page faults take as long as some dozen VDIs. */
	(void)madvise(maps->used, size, MADV_HUGEPAGE);
	maps->deleted = maps->used + SHEEP_BITMAP_BYTES;
	maps->proof.request.op = SHEEP_GET_NODE_LIST;
	maps->proof.request.length = SHEEP_NODE_LIST_BYTES;
	maps->proof.check = check_gateway;
	maps->proof.context = maps;
	error = sheep_cluster_new(uri, &maps->proof, true, &maps->cluster);
	return error < 0 ? error : ask_all(maps);
}

void sheep_maps_fini(struct sheep_maps *maps)
{
	sheep_cluster_free(maps->cluster);
	free(maps->used);
}

bool sheep_maps_given(const struct sheep_maps *maps, uint32_t vid)
{
	return sheep_bitmap_has(maps->used, vid) || sheep_bitmap_has(maps->deleted, vid);
}

uint32_t sheep_maps_next(const struct sheep_maps *maps, uint32_t vid)
{
	vid = sheep_bitmap_next(maps->used, vid);
	while (vid < SHEEP_VDIS && sheep_bitmap_has(maps->deleted, vid))
		vid = sheep_bitmap_next(maps->used, vid + 1);
	return vid;
}
