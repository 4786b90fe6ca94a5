/* SPDX-License-Identifier: MIT */
/*
 * sheepdog-list - the VDIs and snapshots of a cluster.
 *
 * The cluster's maps say which VDI numbers are in use.  Of each one request brings the
 * inode and the part of the index that most need; many of them are under way.  It is a
 * sheep's processor that limits this, so the fewer requests the better, and each goes to
 * a sheep that has the inode itself.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "imagefs-store.h"
#include "serve.h"
#include "sheepdog.h"
#include "sheepdog-cluster.h"
#include "sheepdog-image.h"
#include "sheepdog-maps.h"

#define SLOTS 96 /* VDIs that are looked at at the same time */
#define FIRST_SLOTS 8 /* until it is known what they are like */
#define FIRST_MIN 512 /* entries of the index that are asked for with an inode */
#define FIRST_MAX 8192
#define PART_ENTRIES 16384 /* of the rest of the index, at a time */
#define PART_BYTES (PART_ENTRIES * 4)
#define LOST_TRIES 4 /* that an inode is not there is believed then */
#define LOST_PAUSE_MS 50

/* What is kept of a VDI. */
struct record {
	char *name;
	char *tag;
	char *shown; /* its name in the list */
	struct sheep_id id;
	uint64_t created;
	uint64_t snapped;
	uint64_t size;
	uint64_t allocated; /* UINT64_MAX: not known */
	uint32_t snapshot_id;
	uint32_t parent;
	uint8_t shift;
	bool is_tag_unclear; /* another snapshot of that name could be meant */
	char copies[16];
};

struct listing;

/* A VDI that is being looked at. */
struct slot {
	struct listing *listing;
	struct sheep_call call;
	uint8_t buffer[PART_BYTES];
	uint32_t vid;
	uint32_t first; /* entries of the index that were asked for with the inode */
	unsigned losses; /* times that its inode was not there */
	struct record record;
	uint64_t objects;
	uint64_t counted; /* entries of the index that were looked at */
	uint64_t owned; /* of them, those that have an owner */
	uint64_t *leaves; /* of a tree, to be looked at */
	uint32_t leaf_count;
};

struct listing {
	struct sheep_uri uri;
	struct sheep_maps maps;

	uint32_t next_vid;
	uint32_t end_vid;
	uint32_t first; /* entries of an index that most VDIs seem to need */
	size_t started; /* slots that are, or were, in use */
	size_t active; /* slots that are in use */
	bool has_failed; /* no memory */
	struct slot *slots;

	struct record *records;
	size_t count;
	size_t room;
};

static void free_record(struct record *record)
{
	free(record->name);
	free(record->tag);
	free(record->shown);
}

/* Ask for @length bytes of @object from @offset on, for @slot. */
static void ask(struct slot *slot, uint64_t object, uint32_t offset, uint32_t length,
		void (*done)(struct sheep_call *call))
{
	slot->call = (struct sheep_call){
		.request = {.op = SHEEP_READ_OBJ,
			    .object = object,
			    .offset = offset,
			    .length = length},
		.buffer = slot->buffer,
		.whole = true,
		.done = done,
		.owner = slot,
	};
	sheep_cluster_call(slot->listing->maps.cluster, &slot->call);
}

static void start(struct slot *slot);
static void start_another(struct listing *listing);

/* Nothing more is to be known of the VDI of @slot. */
static void keep(struct slot *slot)
{
	struct listing *listing = slot->listing;
	struct record *record = &slot->record;

	if (record->allocated != UINT64_MAX)
		record->allocated = slot->owned << record->shift;
	if (listing->count == listing->room) {
		size_t room = listing->room ? listing->room * 2 : 256;
		struct record *records =
			realloc(listing->records, room * sizeof(*records));

		if (records) {
			listing->records = records;
			listing->room = room;
		}
	}
	if (listing->count < listing->room)
		listing->records[listing->count++] = *record;
	else
		listing->has_failed = true;
	*record = (struct record){0};
	start(slot);
}

static void drop(struct slot *slot)
{
	free_record(&slot->record);
	slot->record = (struct record){0};
	start(slot);
}

/* Count those of the next @count entries in the buffer that have an owner. */
static void count_owned(struct slot *slot, const uint8_t *entries, uint64_t count)
{
	if (count > slot->objects - slot->counted)
		count = slot->objects - slot->counted;
	slot->owned += sheep_array_owned(entries, count);
	slot->counted += count;
}

static void count_part(struct sheep_call *call);

static void ask_part(struct slot *slot)
{
	uint64_t count = slot->objects - slot->counted;

	if (count == 0) {
		keep(slot);
		return;
	}
	if (count > PART_ENTRIES)
		count = PART_ENTRIES;
	ask(slot, sheep_inode_object(slot->vid), SHEEP_INDEX_OFFSET + slot->counted * 4,
	    count * 4, count_part);
}

static void count_part(struct sheep_call *call)
{
	struct slot *slot = call->owner;

	sheep_cluster_progress(slot->listing->maps.cluster);
	if (call->answer.result != SHEEP_SUCCESS) {
		drop(slot); /* it was deleted */
		return;
	}
	count_owned(slot, slot->buffer, call->request.length / 4);
	ask_part(slot);
}

static void count_leaf(struct sheep_call *call);

static void ask_leaf(struct slot *slot)
{
	if (slot->leaf_count == 0) {
		keep(slot);
		return;
	}
	ask(slot, slot->leaves[--slot->leaf_count], 0, SHEEP_NODE_HEAD_BYTES, count_leaf);
}

static void count_leaf(struct sheep_call *call)
{
	struct slot *slot = call->owner;
	struct sheep_tree_head head;

	sheep_cluster_progress(slot->listing->maps.cluster);
	if (call->answer.result == SHEEP_SUCCESS &&
	    sheep_tree_leaf(slot->buffer, &head) == 0) {
		slot->owned += head.entries;
	} else {
		slot->record.allocated = UINT64_MAX;
		slot->leaf_count = 0;
	}
	ask_leaf(slot);
}

/*
 * Count the entries of a tree by the heads of its leaves: the few that a guest discarded
 * are counted too, but it is no more than a request for 2 TiB.
 */
static void count_tree(struct slot *slot, const uint8_t *root, uint32_t size)
{
	struct sheep_tree_head head;

	if (sheep_tree_root(root, &head) < 0) {
		slot->record.allocated = UINT64_MAX;
	} else if (head.is_leaf) {
		slot->owned = head.entries;
	} else if (head.bytes > size) {
		slot->record.allocated = UINT64_MAX;
	} else {
		free(slot->leaves);
		slot->leaves = calloc(head.entries + 1, sizeof(*slot->leaves));
		for (uint32_t i = 0; slot->leaves && i < head.entries; i++)
			slot->leaves[i] = sheep_root_leaf(root, i);
		slot->leaf_count = slot->leaves ? head.entries : 0;
		if (!slot->leaves)
			slot->record.allocated = UINT64_MAX;
	}
	ask_leaf(slot);
}

/* Fill the record of @slot.  Returns whether there was memory for it. */
static bool fill(struct slot *slot, const struct sheep_inode *inode)
{
	struct record *record = &slot->record;

	*record = (struct record){
		.name = strdup(inode->name),
		.tag = strdup(inode->snapped ? inode->tag : ""),
		.id = sheep_id_of(inode),
		.created = inode->created,
		.snapped = inode->snapped,
		.size = inode->size,
		.snapshot_id = inode->snapshot_id,
		.parent = inode->parent,
		.shift = inode->shift,
	};
	sheep_inode_copies(inode, record->copies);
	return record->name && record->tag;
}

/*
 * VDIs of one cluster are often alike, and a second request costs more than some more
 * bytes of the first one.
 */
static void learn_first(struct listing *listing, uint64_t objects)
{
	if (objects > listing->first && objects <= FIRST_MAX)
		listing->first = objects;
	else if (objects < listing->first / 2)
		listing->first -= listing->first / 16;
	if (listing->first < FIRST_MIN)
		listing->first = FIRST_MIN;
}

/* The inode came, or there is none. */
static void look_at_inode(struct sheep_call *call)
{
	struct slot *slot = call->owner;
	struct listing *listing = slot->listing;
	struct sheep_inode inode;
	int error;

	sheep_cluster_progress(listing->maps.cluster);
	if (call->answer.result != SHEEP_SUCCESS) {
		if (slot->losses++ < LOST_TRIES) {
			sheep_cluster_call_later(listing->maps.cluster, call,
						 LOST_PAUSE_MS);
			return;
		}
		store_error("VDI %06" PRIx32 " is left out: its inode is lost",
			    slot->vid);
		start(slot);
		return;
	}
	error = sheep_inode_decode(slot->buffer, slot->vid, &inode);
	if (error == -EBADMSG)
		store_error("VDI %06" PRIx32 " is left out: its inode makes no sense",
			    slot->vid);
	if (error < 0) {
		start(slot);
		return;
	}
	if (!fill(slot, &inode)) {
		listing->has_failed = true;
		drop(slot);
		return;
	}
	slot->objects = sheep_inode_objects(&inode);
	slot->counted = 0;
	slot->owned = 0;
	if (!inode.is_tree)
		learn_first(listing, slot->objects);
	start_another(listing);
	if (inode.is_tree) {
		count_tree(slot, slot->buffer + SHEEP_INDEX_OFFSET, slot->first * 4);
		return;
	}
	count_owned(slot, slot->buffer + SHEEP_INDEX_OFFSET, slot->first);
	ask_part(slot);
}

/* Go on with the next VDI. */
static void start(struct slot *slot)
{
	struct listing *listing = slot->listing;
	uint32_t vid = sheep_maps_next(&listing->maps, listing->next_vid);

	if (vid >= listing->end_vid || listing->has_failed) {
		listing->next_vid = listing->end_vid;
		listing->active--;
		return;
	}
	listing->next_vid = vid + 1;
	slot->vid = vid;
	slot->losses = 0;
	slot->first = listing->first;
	ask(slot, sheep_inode_object(vid), 0, SHEEP_INDEX_OFFSET + slot->first * 4,
	    look_at_inode);
}

/* Use another slot, if there is one. */
static void start_another(struct listing *listing)
{
	if (listing->started == SLOTS)
		return;
	listing->active++;
	start(&listing->slots[listing->started++]);
}

/* Look at the VDIs from @first to @end. */
static int look_at(struct listing *listing, uint32_t first, uint32_t end)
{
	int error = 0;

	listing->next_vid = first;
	listing->end_vid = end;
	if (listing->first == 0)
		listing->first = FIRST_MIN;
	listing->active = 0;
	listing->started = 0;
	while (listing->started < FIRST_SLOTS)
		start_another(listing);
	while (listing->active > 0 && error == 0)
		error = sheep_cluster_wait(listing->maps.cluster, NULL, 0, -1);
	return listing->has_failed ? -ENOMEM : error;
}

static int compare_records(const void *left, const void *right)
{
	const struct record *a = left, *b = right;
	int order = strcmp(a->name, b->name);

	if (order == 0)
		order = (a->snapped == 0) - (b->snapped == 0);
	if (order == 0)
		order = (a->snapshot_id > b->snapshot_id) -
			(a->snapshot_id < b->snapshot_id);
	return order ? order : (a->id.vid > b->id.vid) - (a->id.vid < b->id.vid);
}

/* Whether @text is the number of a snapshot as one would write it; 0 if it is none. */
static uint32_t number_of(const char *text)
{
	char again[16];
	uint32_t number = strtoul(text, NULL, 10);

	snprintf(again, sizeof(again), "%" PRIu32, number);
	return strcmp(text, again) == 0 ? number : 0;
}

/*
 * See which tags do not say which snapshot is meant, of the records from @first to @end,
 * which have one name.
 */
static void find_unclear(struct record *records, size_t first, size_t end)
{
	for (size_t i = first; i < end; i++) {
		const char *tag = records[i].tag;
		uint32_t number = number_of(tag);

		records[i].is_tag_unclear = tag[0] == '\0';
		for (size_t j = first; j < end; j++)
			if (i != j && records[j].snapped != 0 &&
			    (strcmp(records[j].tag, tag) == 0 ||
			     (number > 0 && records[j].snapshot_id == number)))
				records[i].is_tag_unclear = true;
	}
}

/* What a snapshot is called behind its name: its tag, or its number. */
static const char *snapshot_text(const struct record *record, char number[16])
{
	if (!record->is_tag_unclear)
		return record->tag;
	snprintf(number, 16, "%" PRIu32, record->snapshot_id);
	return number;
}

static bool name_record(struct record *record)
{
	char number[16];

	if (record->snapped == 0) {
		record->shown = strdup(record->name);
		return record->shown != NULL;
	}
	return asprintf(&record->shown, "%s@%s", record->name,
			snapshot_text(record, number)) >= 0;
}

/* Sort the records and say what they are called.  Returns 0 or -ENOMEM. */
static int name_all(struct listing *listing)
{
	struct record *records = listing->records;
	size_t first = 0;

	if (listing->count > 0)
		qsort(records, listing->count, sizeof(*records), compare_records);
	for (size_t i = 1; i <= listing->count; i++) {
		if (i < listing->count &&
		    strcmp(records[i].name, records[first].name) == 0)
			continue;
		find_unclear(records, first, i);
		first = i;
	}
	for (size_t i = 0; i < listing->count; i++)
		if (!name_record(&records[i])) {
			records[i].shown = NULL;
			return -ENOMEM;
		}
	return 0;
}

static void print(const struct listing *listing, const struct record *record)
{
	char id[SHEEP_ID_BYTES], vid[16], parent[16], object_size[16], number[16];
	char snapshot_id[16];
	bool is_snapshot = record->snapped != 0;
	char *uri = sheep_uri_of_vdi(&listing->uri, record->name,
				     is_snapshot ? snapshot_text(record, number) : NULL);
	const char *attrs[16];
	size_t count = 0;

	sheep_id_format(&record->id, id);
	snprintf(vid, sizeof(vid), "%06" PRIx32, record->id.vid);
	snprintf(parent, sizeof(parent), "%06" PRIx32, record->parent);
	snprintf(snapshot_id, sizeof(snapshot_id), "%" PRIu32, record->snapshot_id);
	snprintf(object_size, sizeof(object_size), "%" PRIu32,
		 UINT32_C(1) << record->shift);
	attrs[count++] = "vid";
	attrs[count++] = vid;
	if (is_snapshot) {
		attrs[count++] = "snapshot-id";
		attrs[count++] = snapshot_id;
	}
	if (record->tag[0]) {
		attrs[count++] = "tag";
		attrs[count++] = record->tag;
	}
	attrs[count++] = "copies";
	attrs[count++] = record->copies;
	attrs[count++] = "object-size";
	attrs[count++] = object_size;
	if (record->parent) {
		attrs[count++] = "parent";
		attrs[count++] = parent;
	}
	if (uri) {
		attrs[count++] = "uri";
		attrs[count++] = uri;
	}
	attrs[count] = NULL;
	store_print_image(&(struct store_image){
		.name = record->shown,
		.id = id,
		.size = record->size,
		.allocated = record->allocated,
		.mtime = (is_snapshot ? record->snapped : record->created) >> 32,
		.immutable = is_snapshot,
		.attrs = attrs,
	});
	free(uri);
}

/* Whether @record is the image that the URI names. */
static bool is_meant(const struct listing *listing, const struct record *record)
{
	const struct sheep_uri *uri = &listing->uri;

	if (!uri->vdi)
		return true;
	if (strcmp(record->name, uri->vdi) != 0)
		return false;
	if (!uri->tag && uri->snapshot_id == 0)
		return record->snapped == 0;
	return record->snapped != 0 &&
	       (uri->tag ? strcmp(record->tag, uri->tag) == 0
			 : record->snapshot_id == uri->snapshot_id);
}

/*
 * Print what the URI names: of several snapshots of one tag the last, as dog does.
 * Returns whether there is anything.
 */
static bool print_meant(const struct listing *listing)
{
	const struct record *last = NULL;

	for (size_t i = 0; i < listing->count; i++)
		if (is_meant(listing, &listing->records[i])) {
			last = &listing->records[i];
			if (!listing->uri.vdi)
				print(listing, last);
		}
	if (listing->uri.vdi && last)
		print(listing, last);
	return last != NULL;
}

static void forget_records(struct listing *listing)
{
	for (size_t i = 0; i < listing->count; i++)
		free_record(&listing->records[i]);
	listing->count = 0;
}

/*
 * Look for the one VDI of the URI: its number and those of its snapshots follow the hash
 * of its name, without a gap.  Returns 0, with whether it was printed in *@ret_found.
 */
static int look_for_one(struct listing *listing, bool *ret_found)
{
	uint32_t first = sheep_name_hash(listing->uri.vdi);
	uint32_t end = first;
	int error;

	while (end < SHEEP_VDIS && sheep_maps_given(&listing->maps, end))
		end++;
	error = look_at(listing, first, end);
	if (error == 0)
		error = name_all(listing);
	if (error == 0)
		*ret_found = print_meant(listing);
	return error;
}

/* List what there is.  Returns 0, with whether there is anything, or a negative errno. */
static int list(struct listing *listing, bool *ret_found)
{
	int error = sheep_maps_get(&listing->maps, &listing->uri);

	*ret_found = false;
	if (error == 0 && listing->uri.vdi) {
		error = look_for_one(listing, ret_found);
		if (error < 0 || *ret_found)
			return error;
		/* Where numbers are used again there may be gaps. */
		forget_records(listing);
	}
	if (error == 0)
		error = look_at(listing, 1, SHEEP_VDIS);
	if (error == 0)
		error = name_all(listing);
	if (error == 0)
		*ret_found = print_meant(listing) || !listing->uri.vdi;
	return error;
}

/* Say why there is no list.  Returns the status to exit with. */
static int fail(const struct listing *listing, int error)
{
	const char *trouble = "";
	int status = STORE_UNAVAILABLE;

	if (error == -ENOMEM) {
		store_error("out of memory");
		return STORE_IO;
	}
	trouble = sheep_cluster_trouble(listing->maps.cluster, &status);
	if (error == -ETIMEDOUT)
		store_error("gave up after %" PRId64 " ms: %s",
			    sheep_cluster_patience_ms(listing->maps.cluster), trouble);
	else
		store_error("%s", trouble);
	return status;
}

static int list_uri(struct listing *listing)
{
	bool found = false;
	int error;

	listing->slots = calloc(SLOTS, sizeof(*listing->slots));
	if (!listing->slots)
		return fail(listing, -ENOMEM);
	for (size_t i = 0; i < SLOTS; i++)
		listing->slots[i].listing = listing;
	error = list(listing, &found);
	if (error < 0)
		return fail(listing, error);
	if (!found)
		store_error("there is no such VDI or snapshot");
	return found ? STORE_OK : STORE_GONE;
}

int sheepdog_list(const char *uri)
{
	struct listing listing = {.next_vid = 0};
	const char *problem = strerror(ENOMEM);
	int error = sheep_uri_init(&listing.uri, uri, &problem);
	int status;

	if (error < 0) {
		store_error("%s: %s", uri, problem);
		return error == -ENOMEM ? STORE_IO : STORE_USAGE;
	}
	status = list_uri(&listing);
	forget_records(&listing);
	free(listing.records);
	for (size_t i = 0; listing.slots && i < SLOTS; i++) {
		free_record(&listing.slots[i].record);
		free(listing.slots[i].leaves);
	}
	free(listing.slots);
	sheep_maps_fini(&listing.maps);
	sheep_uri_fini(&listing.uri);
	return status;
}
