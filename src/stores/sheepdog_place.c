/* SPDX-License-Identifier: MIT */
/*
 * sheepdog-place - on which nodes of a cluster an object is.
 *
 * Each node has many points on a ring of hashes.  The copies of an object are on the
 * nodes of the points that follow the object's own hash, no two in one zone
 * (oid_to_vnodes() in include/sheep.h of sheepdog).
 */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#include "sheepdog-place.h"

#define POINTS_MAX 65536

struct point {
	uint64_t hash;
	uint32_t zone;
	uint16_t node;
};

struct sheep_place {
	size_t count;
	struct point points[];
};

static int compare(const void *left, const void *right)
{
	const struct point *a = left, *b = right;

	return (a->hash > b->hash) - (a->hash < b->hash);
}

int sheep_place_new(const struct sheep_node *nodes, size_t count,
		    struct sheep_place **ret_place)
{
	struct sheep_place *place;
	size_t points = 0;

	for (size_t i = 0; i < count; i++)
		points += nodes[i].points;
	if (points > POINTS_MAX || count > UINT16_MAX)
		return -E2BIG;
	place = malloc(sizeof(*place) + points * sizeof(place->points[0]));
	if (!place)
		return -ENOMEM;
	place->count = 0;
	for (size_t i = 0; i < count; i++) {
		uint64_t hash = nodes[i].hash;

		for (int j = 0; j < nodes[i].points; j++) {
			hash = sheep_hash_step(hash, hash);
			place->points[place->count++] = (struct point){
				.hash = hash, .zone = nodes[i].zone, .node = i};
		}
	}
	qsort(place->points, place->count, sizeof(place->points[0]), compare);
	*ret_place = place;
	return 0;
}

void sheep_place_free(struct sheep_place *place)
{
	free(place);
}

/* The first point at @hash or behind it, around the ring. */
static size_t first_point(const struct sheep_place *place, uint64_t hash)
{
	size_t low = 0, high = place->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (place->points[middle].hash < hash)
			low = middle + 1;
		else
			high = middle;
	}
	return low == place->count ? 0 : low;
}

size_t sheep_place_find(const struct sheep_place *place, uint64_t object, size_t copies,
			uint16_t nodes[SHEEP_PLACES_MAX])
{
	uint32_t zones[SHEEP_PLACES_MAX];
	size_t at, found = 0;

	if (copies > SHEEP_PLACES_MAX)
		copies = SHEEP_PLACES_MAX;
	if (place->count == 0)
		return 0;
	at = first_point(place, sheep_object_hash(object));
	for (size_t seen = 0; seen < place->count && found < copies; seen++) {
		const struct point *point = &place->points[at];
		bool taken = false;

		for (size_t i = 0; i < found; i++)
			taken = taken || zones[i] == point->zone;
		if (!taken) {
			zones[found] = point->zone;
			nodes[found++] = point->node;
		}
		at = at + 1 == place->count ? 0 : at + 1;
	}
	return found;
}
