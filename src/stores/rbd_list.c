/* SPDX-License-Identifier: MIT */
/*
 * rbd-list - the images and snapshots of a pool, or one of them.
 *
 * No image is opened: two round trips for each bring what is shown, and many are under way
 * at the same time.
 */
#include <errno.h>
#include <inttypes.h>
#include <rbd/librbd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cleanup.h"
#include "imagefs-store.h"
#include "rbd-image.h"
#include "rbd-nodes.h"
#include "rbd-store.h"
#include "serve.h"

#define FIRST_NAMES 1024
#define ATTRS_MAX 24

/* The attributes of an image, as they are printed. */
struct attrs {
	const char *list[ATTRS_MAX + 1]; /* key, value, …, NULL */
	char *values[ATTRS_MAX / 2]; /* those that have to be freed */
	size_t count;
	bool has_failed; /* no memory */
};

static void attrs_fini(struct attrs *attrs)
{
	for (size_t i = 0; i < attrs->count / 2; i++)
		free(attrs->values[i]);
}

/* Add an attribute; @value is freed with the rest. */
static void add_attr(struct attrs *attrs, const char *key, char *value)
{
	attrs->values[attrs->count / 2] = value;
	attrs->list[attrs->count++] = key;
	attrs->list[attrs->count++] = value;
	attrs->has_failed = attrs->has_failed || !value;
}

__attribute__((format(printf, 3, 4))) static void
add_format(struct attrs *attrs, const char *key, const char *format, ...)
{
	va_list arguments;
	char *value;

	va_start(arguments, format);
	if (vasprintf(&value, format, arguments) < 0)
		value = NULL;
	va_end(arguments);
	add_attr(attrs, key, value);
}

static void add_time(struct attrs *attrs, const char *key, int64_t seconds)
{
	time_t time = (time_t)seconds;
	char text[32];
	struct tm tm;

	if (seconds == INT64_MIN || !gmtime_r(&time, &tm))
		return;
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
	add_format(attrs, key, "%s", text);
}

static void add_features(struct attrs *attrs, uint64_t features)
{
	char text[1024];
	size_t size = sizeof(text);

	if (rbd_features_to_string(features, text, &size) < 0)
		add_format(attrs, "features", "%#" PRIx64, features);
	else
		add_format(attrs, "features", "%s", text);
}

/* Add the name of a pool by its number. */
static char *pool_name(const struct ceph_cluster *cluster, int64_t number)
{
	char name[256];

	if (rados_pool_reverse_lookup(cluster->rados, number, name, sizeof(name)) < 0)
		snprintf(name, sizeof(name), "%" PRId64, number);
	return strdup(name);
}

static void add_parent(struct attrs *attrs, const struct ceph_cluster *cluster,
		       const struct ceph_node *parent)
{
	CLEANUP(freep) char *pool = pool_name(cluster, parent->pool);
	CLEANUP(freep) char *snap = NULL;
	const char *slash = *parent->space ? "/" : "";

	/* What it was called when it was removed, its clones keeping it, says nothing. */
	if (parent->error == 0 && parent->header.snap.kind != SNAP_TRASH)
		snap = strdup(parent->header.snap.name);
	else if (asprintf(&snap, "%" PRIu64, parent->snap) < 0)
		snap = NULL;
	if (!pool || !snap)
		add_attr(attrs, "parent", NULL);
	else
		add_format(attrs, "parent", "%s%s%s/%s@%s", pool, slash, parent->space,
			   parent->name ? parent->name : parent->id, snap);
}

static void add_attrs(struct attrs *attrs, const struct ceph_cluster *cluster,
		      const struct ceph_node *node)
{
	const struct ceph_header *header = &node->header;
	bool is_head = node->snap == CEPH_HEAD;

	add_format(attrs, "image-id", "%s", node->id);
	if (!is_head)
		add_format(attrs, "snapshot-id", "%" PRIu64, node->snap);
	add_features(attrs, header->features);
	add_format(attrs, "object-size", "%" PRIu64, UINT64_C(1) << header->order);
	if (header->data_pool >= 0)
		add_attr(attrs, "data-pool", pool_name(cluster, header->data_pool));
	if (node->parent)
		add_parent(attrs, cluster, node->parent);
	add_time(attrs, "created", is_head ? header->created : header->snap.created);
	add_attr(attrs, "uri",
		 ceph_uri_of_image(&cluster->uri, node->name,
				   is_head ? NULL : header->snap.name));
}

/* Print @node.  Returns 0 or -ENOMEM. */
static int print_node(const struct ceph_cluster *cluster, const struct ceph_node *node)
{
	CLEANUP(attrs_fini) struct attrs attrs = {0};
	CLEANUP(freep) char *name = NULL;
	const struct ceph_header *header = &node->header;
	bool is_head = node->snap == CEPH_HEAD;
	int64_t modified =
		header->modified != INT64_MIN ? header->modified : header->created;
	char id[CEPH_ID_BYTES];

	add_attrs(&attrs, cluster, node);
	if (asprintf(&name, "%s%s%s", node->name, is_head ? "" : "@",
		     is_head ? "" : header->snap.name) < 0)
		name = NULL;
	if (!name || attrs.has_failed)
		return -ENOMEM;
	ceph_id_format(node->id, node->snap, id);
	store_print_image(&(struct store_image){
		.name = name,
		.id = id,
		.size = is_head ? header->size : header->snap.size,
		.allocated = ceph_node_allocated(node),
		.mtime = is_head ? modified : header->snap.created,
		.immutable = !is_head,
		.attrs = attrs.list,
	});
	return 0;
}

/* Whether @node is to be shown: what the URI is about, and no snapshot of Ceph's own. */
static bool is_shown(const struct ceph_uri *uri, const struct ceph_node *node)
{
	if (!node->is_listed)
		return false;
	if (node->snap == CEPH_HEAD)
		return !uri->snapshot;
	if (node->error < 0 || node->header.snap.kind != SNAP_USER)
		return false;
	return !uri->snapshot || strcmp(uri->snapshot, node->header.snap.name) == 0;
}

/* Print all that is to be shown.  Returns the status to exit with, having said why. */
static int print_nodes(const struct ceph_nodes *nodes)
{
	const struct ceph_uri *uri = &nodes->cluster->uri;
	size_t count = 0;

	for (size_t i = 0; i < nodes->count; i++) {
		const struct ceph_node *node = nodes->nodes[i];

		if (node->is_listed && node->error < 0)
			store_error("left out: %s%s: %s", node->name,
				    node->snap == CEPH_HEAD ? "" : ", a snapshot of it",
				    strerror(-node->error));
		if (!is_shown(uri, node) || node->error < 0)
			continue;
		if (print_node(nodes->cluster, node) < 0) {
			store_error("out of memory");
			return STORE_AGAIN;
		}
		count++;
	}
	if (!uri->image || count > 0)
		return STORE_OK;
	if (uri->snapshot)
		store_error("there is no snapshot %s of the image %s", uri->snapshot,
			    uri->image);
	else
		store_error("the image %s cannot be opened", uri->image);
	return STORE_GONE;
}

/* Add all images of the pool.  Returns 0 or a negative errno. */
static int add_all(struct ceph_nodes *nodes)
{
	rbd_image_spec_t *specs = NULL;
	size_t count = FIRST_NAMES, room;
	int error;

	/* There may be more the next time. */
	do {
		free(specs);
		room = count;
		specs = calloc(room, sizeof(*specs));
		error = specs ? rbd_list2(nodes->cluster->pool, specs, &count) : -ENOMEM;
	} while (error == -ERANGE);
	for (size_t i = 0; error >= 0 && i < count; i++) {
		if (!*specs[i].id)
			store_error("left out: %s: it is of format 1", specs[i].name);
		else if (!ceph_nodes_add(nodes, specs[i].id, specs[i].name, true))
			error = -ENOMEM;
	}
	if (specs && error != -ERANGE && error >= 0)
		rbd_image_spec_list_cleanup(specs, count);
	free(specs);
	return error < 0 ? error : 0;
}

/* Add the one image that the URI names.  Returns 0 or a negative errno. */
static int add_one(struct ceph_nodes *nodes)
{
	const struct ceph_uri *uri = &nodes->cluster->uri;
	struct cls_call *call;
	struct cls_op op;
	int error = cls_op_init(&op);

	if (error < 0)
		return error;
	call = cls_op_add_string(&op, "dir_get_id", uri->image, false);
	error = cls_op_run(&op, nodes->cluster->pool, "rbd_directory");
	if (error == 0) {
		struct wire wire = wire_of(call->output, call->size);
		CLEANUP(freep) char *id = wire_string(&wire);

		if (!id)
			error = wire.is_bad ? -EBADMSG : -ENOMEM;
		else if (!ceph_nodes_add(nodes, id, uri->image, uri->snapshot != NULL))
			error = -ENOMEM;
	}
	cls_op_fini(&op);
	return error;
}

/* Say that listing failed with @error.  Returns the status to exit with. */
static int fail(const struct ceph_cluster *cluster, int error)
{
	if (error == -ENOENT && cluster->uri.image) {
		store_error("there is no image %s", cluster->uri.image);
		return STORE_GONE;
	}
	store_error("cannot list the images: %s", strerror(-error));
	return ceph_status(error);
}

static int list(struct ceph_cluster *cluster)
{
	struct ceph_nodes nodes;
	int error = ceph_nodes_init(&nodes, cluster);
	int status;

	if (error < 0)
		return fail(cluster, error);
	error = cluster->uri.image ? add_one(&nodes) : add_all(&nodes);
	if (error == 0)
		error = ceph_nodes_look(&nodes);
	status = error < 0 ? fail(cluster, error) : print_nodes(&nodes);
	ceph_nodes_fini(&nodes);
	return status;
}

int ceph_list(const char *uri)
{
	struct ceph_cluster cluster;
	int status = ceph_cluster_init(&cluster, uri, false);

	if (status == STORE_GONE)
		status = ceph_cluster_lacks(&cluster, STORE_UNAVAILABLE);
	else if (status == STORE_OK)
		status = list(&cluster);
	else
		return status;
	ceph_cluster_fini(&cluster);
	return status;
}
