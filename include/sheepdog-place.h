/* SPDX-License-Identifier: MIT */
/*
 * sheepdog-place - on which nodes of a cluster an object is.
 *
 * Sheep find out by consistent hashing, and so can we: a node that holds an object
 * answers it from its own disk, any other one has to fetch it from there first.  It is a
 * hint: any node answers for any object.
 */
#ifndef IMAGEFS_SHEEPDOG_PLACE_H
#define IMAGEFS_SHEEPDOG_PLACE_H

#include <stddef.h>
#include <stdint.h>

#include "sheepdog-wire.h"

#define SHEEP_PLACES_MAX 31 /* copies, or strips, that an object can have */

struct sheep_place;

/*
 * Lay out the @count nodes at @nodes, which are borrowed for the call.  The caller owns
 * *@ret_place and frees it with sheep_place_free().  Returns 0, -ENOMEM, or -E2BIG if
 * the cluster is so large that it is not worth it.
 */
int sheep_place_new(const struct sheep_node *nodes, size_t count,
		    struct sheep_place **ret_place);

void sheep_place_free(struct sheep_place *place);

/*
 * Find the nodes that hold the @copies copies of @object: fewer if there are not so many
 * zones.  Puts their places in the list of nodes into @nodes and returns how many.
 */
size_t sheep_place_find(const struct sheep_place *place, uint64_t object, size_t copies,
			uint16_t nodes[SHEEP_PLACES_MAX]);

#endif
