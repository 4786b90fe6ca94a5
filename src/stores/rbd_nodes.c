/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "rbd-nodes.h"

#define SLOTS 64 /* nodes that are looked at at the same time */
#define MAP_OBJECTS ((uint64_t)4 << 20) /* a map of more is not counted: 1 MiB */

/* A pool with one of its namespaces. */
struct nodes_pool {
	struct nodes_pool *next;
	int64_t number;
	char *space;
	rados_ioctx_t pool;
};

/* A node that is being looked at. */
struct look {
	struct ceph_nodes *nodes;
	struct ceph_node *node;
	struct cls_op op;
	rados_ioctx_t pool;
};

/* ---- the collection ---- */

static int compare(const void *a, const void *b)
{
	const struct ceph_node *x = a, *y = b;
	int order;

	if (x->pool != y->pool)
		return x->pool < y->pool ? -1 : 1;
	order = strcmp(x->id, y->id);
	if (order == 0)
		order = strcmp(x->space, y->space);
	if (order != 0)
		return order;
	return x->snap < y->snap ? -1 : x->snap > y->snap;
}

static void free_node(struct ceph_node *node)
{
	if (!node)
		return;
	ceph_header_fini(&node->header);
	free(node->space);
	free(node->id);
	free(node->name);
	free(node);
}

static int make_room(struct ceph_nodes *nodes)
{
	size_t room = nodes->room ? 2 * nodes->room : 64;
	struct ceph_node **more;

	if (nodes->count < nodes->room)
		return 0;
	more = reallocarray(nodes->nodes, room, sizeof(*more));
	if (!more)
		return -ENOMEM;
	nodes->nodes = more;
	nodes->room = room;
	return 0;
}

/* The node that is @key, which is added if it is not there; NULL if out of memory. */
static struct ceph_node *get_node(struct ceph_nodes *nodes, const struct ceph_node *key)
{
	struct ceph_node **found = tfind(key, &nodes->tree, compare);
	struct ceph_node *node;

	if (found)
		return *found;
	node = calloc(1, sizeof(*node));
	if (node) {
		node->pool = key->pool;
		node->space = strdup(key->space);
		node->id = strdup(key->id);
		node->snap = key->snap;
		node->own = UINT64_MAX;
	}
	if (!node || !node->space || !node->id || make_room(nodes) < 0 ||
	    !tsearch(node, &nodes->tree, compare)) {
		free_node(node);
		nodes->error = -ENOMEM;
		return NULL;
	}
	nodes->nodes[nodes->count++] = node;
	return node;
}

static int set_name(struct ceph_nodes *nodes, struct ceph_node *node, const char *name)
{
	if (!node->name)
		node->name = strdup(name);
	if (!node->name)
		nodes->error = -ENOMEM;
	return nodes->error;
}

struct ceph_node *ceph_nodes_add(struct ceph_nodes *nodes, const char *id,
				 const char *name, bool with_snaps)
{
	const struct ceph_node key = {
		.pool = rados_ioctx_get_id(nodes->cluster->pool),
		.space = nodes->cluster->uri.space,
		.id = (char *)id,
		.snap = CEPH_HEAD,
	};
	struct ceph_node *node = get_node(nodes, &key);

	if (!node || set_name(nodes, node, name) < 0)
		return NULL;
	node->is_listed = true;
	node->is_asked_for_snaps = with_snaps;
	return node;
}

static void add_snaps(struct ceph_nodes *nodes, const struct ceph_node *image)
{
	for (size_t i = 0; i < image->header.snap_count; i++) {
		struct ceph_node key = *image, *node;

		key.snap = image->header.snaps[i];
		node = get_node(nodes, &key);
		if (!node || set_name(nodes, node, image->name) < 0)
			return;
		node->is_listed = true;
	}
}

static void add_parent(struct ceph_nodes *nodes, struct ceph_node *node)
{
	const struct ceph_parent *parent = &node->header.parent;
	const struct ceph_node key = {
		.pool = parent->pool,
		.space = parent->space,
		.id = parent->image,
		.snap = parent->snap,
	};

	node->parent = get_node(nodes, &key);
}

/* The pool that @node is in.  Returns 0 or a negative errno. */
static int find_pool(struct ceph_nodes *nodes, const struct ceph_node *node,
		     rados_ioctx_t *ret_pool)
{
	struct nodes_pool *pool;
	int error;

	for (pool = nodes->pools; pool; pool = pool->next) {
		if (pool->number != node->pool || strcmp(pool->space, node->space) != 0)
			continue;
		*ret_pool = pool->pool;
		return 0;
	}
	pool = calloc(1, sizeof(*pool));
	if (!pool)
		return -ENOMEM;
	pool->number = node->pool;
	pool->space = strdup(node->space);
	error = pool->space ? ceph_cluster_pool(nodes->cluster, node->pool, node->space,
						&pool->pool)
			    : -ENOMEM;
	if (error < 0) {
		free(pool->space);
		free(pool);
		return error;
	}
	pool->next = nodes->pools;
	nodes->pools = pool;
	*ret_pool = pool->pool;
	return 0;
}

/* ---- looking at a node: its header, its map, its name ---- */

static void end_look(struct look *look)
{
	look->nodes->under_way--;
	cls_op_fini(&look->op);
	free(look);
}

/* Begin the next call of @look.  Returns whether there is memory for it. */
static bool begin_op(struct look *look, void (*finish)(struct ceph_work *work))
{
	cls_op_fini(&look->op);
	if (cls_op_init(&look->op) < 0) {
		look->nodes->error = -ENOMEM;
		return false;
	}
	look->op.work.done = &look->nodes->done;
	look->op.work.finish = finish;
	look->op.work.owner = look;
	return true;
}

/* Take over @error if it is one that ends all. */
static void note_error(struct ceph_nodes *nodes, int error)
{
	if (error == -ETIMEDOUT || error == -ESHUTDOWN || error == -ENOMEM)
		nodes->error = error;
}

static void name_done(struct ceph_work *work)
{
	struct look *look = work->owner;
	const struct cls_call *call = &look->op.calls[0];
	struct wire wire = wire_of(call->output, call->size);

	note_error(look->nodes, look->op.result);
	if (look->op.result == 0 && !look->node->name)
		look->node->name = wire_string(&wire);
	end_look(look);
}

static void ask_name(struct look *look)
{
	if (look->node->name || !begin_op(look, name_done)) {
		end_look(look);
		return;
	}
	cls_op_add_string(&look->op, "dir_get_name", look->node->id, false);
	cls_op_send(&look->op, look->pool, "rbd_directory");
}

static void map_done(struct ceph_work *work)
{
	struct look *look = work->owner;
	const struct cls_call *call = &look->op.calls[0];
	const struct ceph_header *header = &look->node->header;
	struct ceph_map map;
	int error = look->op.result;

	if (error == 0)
		error = ceph_map_decode(call->output, call->size, &map);
	note_error(look->nodes, error);
	if (error == 0) {
		uint64_t count = ceph_map_count(&map, ceph_header_objects(header));

		look->node->own = MIN(count << header->order, header->size);
		ceph_map_fini(&map);
	}
	ask_name(look);
}

static void ask_map(struct look *look)
{
	const struct ceph_header *header = &look->node->header;
	char name[CEPH_OBJECT_BYTES];

	if (!ceph_header_has_map(header) || ceph_header_objects(header) > MAP_OBJECTS) {
		ask_name(look);
		return;
	}
	if (!begin_op(look, map_done)) {
		end_look(look);
		return;
	}
	ceph_map_name(look->node->id, look->node->snap, name);
	cls_op_add(&look->op, "object_map_load", NULL, 0, false);
	cls_op_send(&look->op, look->pool, name);
}

static void header_done(struct ceph_work *work)
{
	struct look *look = work->owner;
	struct ceph_node *node = look->node;

	node->error = ceph_header_take(&look->op, node->snap, &node->header);
	note_error(look->nodes, node->error);
	if (node->error < 0) {
		end_look(look);
		return;
	}
	if (node->is_asked_for_snaps)
		add_snaps(look->nodes, node);
	if (node->header.parent.pool >= 0)
		add_parent(look->nodes, node);
	ask_map(look);
}

static void begin_look(struct ceph_nodes *nodes, struct ceph_node *node)
{
	struct look *look = calloc(1, sizeof(*look));
	char name[CEPH_OBJECT_BYTES];

	if (!look) {
		nodes->error = -ENOMEM;
		return;
	}
	nodes->under_way++;
	*look = (struct look){.nodes = nodes, .node = node};
	node->error = find_pool(nodes, node, &look->pool);
	note_error(nodes, node->error);
	if (node->error < 0 || !begin_op(look, header_done)) {
		end_look(look);
		return;
	}
	ceph_header_name(node->id, name);
	ceph_header_ask(&look->op, node->snap);
	cls_op_send(&look->op, look->pool, name);
}

int ceph_nodes_look(struct ceph_nodes *nodes)
{
	for (;;) {
		while (nodes->error == 0 && nodes->next < nodes->count &&
		       nodes->under_way < SLOTS)
			begin_look(nodes, nodes->nodes[nodes->next++]);
		if (nodes->under_way == 0)
			return nodes->error;
		ceph_done_wait(&nodes->done);
	}
}

uint64_t ceph_node_allocated(const struct ceph_node *node)
{
	uint64_t inherited = 0;

	if (node->error < 0 || node->own == UINT64_MAX)
		return UINT64_MAX;
	if (node->parent) {
		inherited = ceph_node_allocated(node->parent);
		if (inherited == UINT64_MAX)
			return UINT64_MAX;
		inherited = MIN(inherited, node->header.overlap);
	}
	return MIN(node->own + inherited, node->header.size);
}

int ceph_nodes_init(struct ceph_nodes *nodes, struct ceph_cluster *cluster)
{
	*nodes = (struct ceph_nodes){.cluster = cluster};
	return ceph_done_init(&nodes->done);
}

static void keep(void *node)
{
	(void)node; /* it is in the array as well */
}

void ceph_nodes_fini(struct ceph_nodes *nodes)
{
	tdestroy(nodes->tree, keep);
	for (size_t i = 0; i < nodes->count; i++)
		free_node(nodes->nodes[i]);
	free(nodes->nodes);
	while (nodes->pools) {
		struct nodes_pool *pool = nodes->pools;

		nodes->pools = pool->next;
		rados_ioctx_destroy(pool->pool);
		free(pool->space);
		free(pool);
	}
	ceph_done_fini(&nodes->done);
}
