/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <inttypes.h>
#include <rbd/librbd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "rbd-header.h"

#define ORDER_MIN 12 /* librbd takes no others */
#define ORDER_MAX 25

/* The calls of one header, in their order; the second ones are of one kind only. */
enum header_call {
	CALL_SIZE,
	CALL_FEATURES,
	CALL_FLAGS,
	CALL_PREFIX,
	CALL_PARENT,
	CALL_OVERLAP,
	CALL_DATA_POOL,
	CALL_STRIPES,
	CALL_CREATED,
	CALL_MODIFIED,
	CALL_SNAPS, /* of an image */
	CALL_SNAP = CALL_SNAPS, /* of a snapshot */
};

void ceph_header_name(const char *id, char ret_name[CEPH_OBJECT_BYTES])
{
	snprintf(ret_name, CEPH_OBJECT_BYTES, "rbd_header.%s", id);
}

void ceph_map_name(const char *id, uint64_t snap, char ret_name[CEPH_OBJECT_BYTES])
{
	if (snap == CEPH_HEAD)
		snprintf(ret_name, CEPH_OBJECT_BYTES, "rbd_object_map.%s", id);
	else
		snprintf(ret_name, CEPH_OBJECT_BYTES, "rbd_object_map.%s.%016" PRIx64, id,
			 snap);
}

void ceph_header_ask(struct cls_op *op, uint64_t snap)
{
	cls_op_add_number(op, "get_size", snap, false);
	cls_op_add_number(op, "get_features", snap, false);
	cls_op_add_number(op, "get_flags", snap, true);
	cls_op_add(op, "get_object_prefix", NULL, 0, false);
	cls_op_add(op, "parent_get", NULL, 0, true);
	cls_op_add_number(op, "parent_overlap_get", snap, true);
	cls_op_add(op, "get_data_pool", NULL, 0, true);
	cls_op_add(op, "get_stripe_unit_count", NULL, 0, true);
	cls_op_add(op, "get_create_timestamp", NULL, 0, true);
	cls_op_add(op, "get_modify_timestamp", NULL, 0, true);
	if (snap == CEPH_HEAD)
		cls_op_add(op, "get_snapcontext", NULL, 0, false);
	else
		cls_op_add_number(op, "snapshot_get", snap, false);
}

/* The answer of a call; nothing, and bad, if it failed. */
static struct wire answer(const struct cls_op *op, enum header_call call)
{
	const struct cls_call *of = &op->calls[call];

	if (of->result < 0)
		return (struct wire){.is_bad = true};
	return wire_of(of->output, of->size);
}

static int64_t take_time(const struct cls_op *op, enum header_call call)
{
	struct wire wire = answer(op, call);
	uint32_t seconds = wire_u32(&wire);

	return wire.is_bad || seconds == 0 ? INT64_MIN : (int64_t)seconds;
}

/* Returns 0 or a negative errno. */
static int take_parent(const struct cls_op *op, struct ceph_header *header)
{
	struct wire wire = answer(op, CALL_PARENT);
	struct wire overlap = answer(op, CALL_OVERLAP);
	struct wire fields;
	bool has_overlap;

	header->parent.pool = -1;
	/* OSDs before Ceph 14 have no such calls: whether there is a parent is not known. */
	if (wire.is_bad)
		return op->calls[CALL_PARENT].result;
	fields = wire_struct(&wire);
	header->parent.pool = (int64_t)wire_u64(&fields);
	header->parent.space = wire_string(&fields);
	header->parent.image = wire_string(&fields);
	header->parent.snap = wire_u64(&fields);
	has_overlap = wire_u8(&overlap);
	header->overlap = has_overlap ? wire_u64(&overlap) : 0;
	if (fields.is_bad || overlap.is_bad)
		return -EBADMSG;
	if (!has_overlap)
		header->parent.pool = -1;
	return header->parent.space && header->parent.image ? 0 : -ENOMEM;
}

static int take_snaps(const struct cls_op *op, struct ceph_header *header)
{
	struct wire wire = answer(op, CALL_SNAPS);
	uint32_t count;

	(void)wire_u64(&wire); /* the highest number that was given out */
	count = wire_u32(&wire);
	if (wire.is_bad || count > op->calls[CALL_SNAPS].size / sizeof(uint64_t))
		return -EBADMSG;
	header->snaps = calloc(count + 1, sizeof(*header->snaps));
	if (!header->snaps)
		return -ENOMEM;
	/* The youngest comes first. */
	for (header->snap_count = count; count > 0; count--)
		header->snaps[count - 1] = wire_u64(&wire);
	return wire.is_bad ? -EBADMSG : 0;
}

static int take_snap(const struct cls_op *op, struct ceph_header *header)
{
	const struct cls_call *call = &op->calls[CALL_SNAP];

	return ceph_snap_decode(call->output, call->size, &header->snap);
}

/* Take what all have.  Returns 0, -EBADMSG or -ENOMEM. */
static int take_basics(const struct cls_op *op, struct ceph_header *header)
{
	struct wire size = answer(op, CALL_SIZE);
	struct wire features = answer(op, CALL_FEATURES);
	struct wire flags = answer(op, CALL_FLAGS);
	struct wire prefix = answer(op, CALL_PREFIX);
	struct wire pool = answer(op, CALL_DATA_POOL);
	struct wire stripes = answer(op, CALL_STRIPES);

	header->order = wire_u8(&size);
	header->size = wire_u64(&size);
	header->features = wire_u64(&features);
	header->flags = wire_u64(&flags);
	header->prefix = wire_string(&prefix);
	header->data_pool = (int64_t)wire_u64(&pool);
	if (pool.is_bad)
		header->data_pool = -1;
	(void)wire_u64(&stripes); /* the unit */
	header->stripe_count = wire_u64(&stripes);
	if (stripes.is_bad)
		header->stripe_count = 1;
	header->created = take_time(op, CALL_CREATED);
	header->modified = take_time(op, CALL_MODIFIED);
	/* Without flags nothing is known of the object map. */
	if (flags.is_bad)
		header->flags = RBD_FLAG_OBJECT_MAP_INVALID;
	if (size.is_bad || features.is_bad || prefix.is_bad || header->size > INT64_MAX ||
	    header->order < ORDER_MIN || header->order > ORDER_MAX)
		return -EBADMSG;
	return header->prefix ? 0 : -ENOMEM;
}

int ceph_header_take(const struct cls_op *op, uint64_t snap,
		     struct ceph_header *ret_header)
{
	struct ceph_header header = {0};
	int error = op->result;

	if (error < 0)
		return error;
	error = take_basics(op, &header);
	if (error == 0)
		error = take_parent(op, &header);
	if (error == 0)
		error = snap == CEPH_HEAD ? take_snaps(op, &header)
					  : take_snap(op, &header);
	if (error < 0)
		ceph_header_fini(&header);
	else
		*ret_header = header;
	return error;
}

void ceph_header_fini(struct ceph_header *header)
{
	free(header->prefix);
	free(header->parent.space);
	free(header->parent.image);
	free(header->snaps);
	ceph_snap_fini(&header->snap);
	*header = (struct ceph_header){0};
}

bool ceph_header_has_map(const struct ceph_header *header)
{
	return (header->features & RBD_FEATURE_OBJECT_MAP) &&
	       !(header->flags & RBD_FLAG_OBJECT_MAP_INVALID) &&
	       !(header->features & RBD_FEATURE_MIGRATING);
}

uint64_t ceph_header_objects(const struct ceph_header *header)
{
	uint64_t bytes = UINT64_C(1) << header->order;

	return header->size / bytes + (header->size % bytes != 0);
}
