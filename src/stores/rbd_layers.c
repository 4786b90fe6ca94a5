/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "rbd-layers.h"

static void release_poolp(rados_ioctx_t *pool)
{
	if (*pool)
		rados_ioctx_destroy(*pool);
}

/* Returns 0, also if there is no map to be had, -ETIMEDOUT or -ENOMEM. */
static int load_map(rados_ioctx_t pool, const char *id, uint64_t snap,
		    const struct ceph_header *header, struct ceph_layer *layer)
{
	char name[CEPH_OBJECT_BYTES];
	struct cls_call *call;
	struct cls_op op;
	int error;

	/* With stripes, an object is in many places. */
	if (!ceph_header_has_map(header) || header->stripe_count != 1)
		return 0;
	error = cls_op_init(&op);
	if (error < 0)
		return error;
	ceph_map_name(id, snap, name);
	call = cls_op_add(&op, "object_map_load", NULL, 0, false);
	error = cls_op_run(&op, pool, name);
	if (error == 0)
		error = ceph_map_decode(call->output, call->size, &layer->map);
	cls_op_fini(&op);
	/* A map of fewer objects than the image has is one that is being changed. */
	layer->has_map = error == 0 && layer->map.count >= ceph_header_objects(header);
	return error == -ETIMEDOUT || error == -ENOMEM ? error : 0;
}

/*
 * Add the layer of an image, up to @end.  Returns 0, -ETIMEDOUT or -ENOMEM.
 */
static int add_layer(struct ceph_layers *layers, rados_ioctx_t pool, const char *id,
		     uint64_t snap, const struct ceph_header *header, uint64_t end)
{
	struct ceph_layer *more = reallocarray(layers->layers, layers->count + 1,
					       sizeof(struct ceph_layer));
	struct ceph_layer *layer;

	if (!more)
		return -ENOMEM;
	layers->layers = more;
	layer = &more[layers->count++];
	*layer = (struct ceph_layer){.order = header->order};
	layer->end = MIN(end, header->size);
	return load_map(pool, id, snap, header, layer);
}

/* Find the parent of @child.  Returns 0 or a negative errno. */
static int find_parent(const struct ceph_cluster *cluster,
		       const struct ceph_parent *parent, rados_ioctx_t *ret_pool,
		       struct ceph_header *ret_header)
{
	char name[CEPH_OBJECT_BYTES];
	struct cls_op op;
	int error = ceph_cluster_pool(cluster, parent->pool, parent->space, ret_pool);

	if (error < 0)
		return error;
	error = cls_op_init(&op);
	if (error < 0)
		return error;
	ceph_header_name(parent->image, name);
	ceph_header_ask(&op, parent->snap);
	(void)cls_op_run(&op, *ret_pool, name);
	error = ceph_header_take(&op, parent->snap, ret_header);
	cls_op_fini(&op);
	return error;
}

/*
 * Add the layers of the parent of @child and of all before it, up to @end.  What cannot be
 * looked at counts as data.  Returns 0, -ETIMEDOUT or -ENOMEM.
 */
static int add_parent(struct ceph_layers *layers, const struct ceph_cluster *cluster,
		      const struct ceph_header *child, uint64_t end)
{
	CLEANUP(release_poolp) rados_ioctx_t pool = NULL;
	CLEANUP(ceph_header_fini) struct ceph_header header = {0};
	const struct ceph_parent *parent = &child->parent;
	int error = -ELOOP;

	if (parent->pool < 0)
		return 0;
	end = MIN(end, child->overlap);
	if (layers->count < CEPH_LAYERS_MAX)
		error = find_parent(cluster, parent, &pool, &header);
	if (error == -ETIMEDOUT || error == -ENOMEM)
		return error;
	if (error != 0) {
		header.order = child->order;
		header.size = end;
		return add_layer(layers, NULL, "", CEPH_HEAD, &header, end);
	}
	error = add_layer(layers, pool, parent->image, parent->snap, &header, end);
	if (error == 0 && header.parent.pool >= 0) {
		struct ceph_layer *layer = &layers->layers[layers->count - 1];

		layer->id = strdup(parent->image);
		if (!layer->id)
			return -ENOMEM;
		layer->snap = parent->snap;
		layer->overlap = header.overlap;
		layer->pool = STEAL(pool);
	}
	return error == 0 ? add_parent(layers, cluster, &header, end) : error;
}

int ceph_layers_load(const struct ceph_cluster *cluster, const char *id, uint64_t snap,
		     const struct ceph_header *header, struct ceph_layers *ret_layers)
{
	struct ceph_layers layers = {0};
	int error = add_layer(&layers, cluster->pool, id, snap, header, header->size);

	if (error == 0)
		error = add_parent(&layers, cluster, header, header->size);
	if (error < 0) {
		ceph_layers_fini(&layers);
		return error;
	}
	layers.is_exact = true;
	for (size_t i = 0; i < layers.count; i++)
		layers.is_exact = layers.is_exact && layers.layers[i].has_map;
	*ret_layers = layers;
	return 0;
}

void ceph_layers_fini(struct ceph_layers *layers)
{
	for (size_t i = 0; i < layers->count; i++) {
		struct ceph_layer *layer = &layers->layers[i];

		ceph_map_fini(&layer->map);
		release_poolp(&layer->pool);
		free(layer->id);
	}
	free(layers->layers);
	*layers = (struct ceph_layers){0};
}

int ceph_overlap_check(const struct cls_call *call, uint64_t overlap)
{
	struct wire wire = wire_of(call->output, call->size);
	bool has_overlap = wire_u8(&wire);
	uint64_t bytes = has_overlap ? wire_u64(&wire) : 0;

	if (wire.is_bad)
		return -EBADMSG;
	return bytes < overlap ? -EXDEV : 0;
}

static int check_layer(const struct ceph_layer *layer)
{
	char name[CEPH_OBJECT_BYTES];
	struct cls_call *call;
	struct cls_op op;
	int error = cls_op_init(&op);

	if (error < 0)
		return error;
	ceph_header_name(layer->id, name);
	call = cls_op_add_number(&op, "parent_overlap_get", layer->snap, false);
	error = cls_op_run(&op, layer->pool, name);
	if (error == 0)
		error = ceph_overlap_check(call, layer->overlap);
	cls_op_fini(&op);
	return error == -ENOENT ? -EXDEV : error;
}

int ceph_layers_check(const struct ceph_layers *layers)
{
	int error = 0;

	for (size_t i = 0; i < layers->count && error == 0; i++)
		if (layers->layers[i].pool)
			error = check_layer(&layers->layers[i]);
	return error;
}

/*
 * Whether there may be data at @offset; *@end is moved to where the object ends that says
 * so, or the first of those that say that there is none.
 */
static bool is_data(const struct ceph_layers *layers, uint64_t offset, uint64_t *end)
{
	for (size_t i = 0; i < layers->count; i++) {
		const struct ceph_layer *layer = &layers->layers[i];
		uint64_t number = offset >> layer->order;
		uint64_t object_end = MIN((number + 1) << layer->order, layer->end);

		if (offset >= layer->end)
			continue;
		if (!layer->has_map || ceph_map_get(&layer->map, number) != OBJECT_NONE) {
			*end = object_end;
			return true;
		}
		*end = MIN(*end, object_end);
	}
	return false;
}

bool ceph_layers_find(const struct ceph_layers *layers, uint64_t offset, uint64_t limit,
		      uint64_t *ret_end)
{
	uint64_t end = limit;
	bool found = is_data(layers, offset, &end);

	while (end < limit) {
		uint64_t next = limit;

		if (is_data(layers, end, &next) != found)
			break;
		end = next;
	}
	*ret_end = MIN(end, limit);
	return found;
}
