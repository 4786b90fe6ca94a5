/* SPDX-License-Identifier: MIT */
/*
 * sheepdog-image - one version of a VDI: its inode, and where its data is.
 *
 * One request is under way at a time.  After each part of the index the inode is read
 * once more: that of a deleted VDI has no name, and an index of zeros.
 *
 * Deleting a VDI begins with its index: dog overwrites it with zeros, from the front,
 * while the inode still looks as ever.  What was known to have an owner therefore does
 * not become a hole because the index says so now, and an object that is gone does only
 * if what is before it has an owner still (a guest that discards does not begin at the
 * front).  Otherwise the image is given up as gone, even if the inode goes on to look
 * well: who opened it anew, to try again, could not know that the zeros are none.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "imagefs-store.h"
#include "serve.h"
#include "sheepdog-image.h"
#include "sheepdog-maps.h"

/* The array index is read in pages; so many entries, and so many pages at a time. */
#define PAGE_ENTRIES 1024
#define PAGE_BYTES (PAGE_ENTRIES * 4)
#define PAGES_AT_ONCE 16
#define PAGES_MAX (SHEEP_INDEX_BYTES / PAGE_BYTES)
#define LEAF_FIRST_BYTES 65536 /* of a leaf, as a first try */
#define FIRST_BYTES (SHEEP_INDEX_OFFSET + PAGE_BYTES)

#define RUN_MAX 65536 /* objects of a hole that are looked at at once */
#define GONE_TRIES 5 /* that the inode is not there is believed then */
#define RETRY_MS 50 /* the first pause before something is asked for again */

enum loading { NOTHING, INODE, PAGES, ROOT, LEAF };

struct sheep_image {
	struct sheep_uri uri;
	struct sheep_id id;
	struct sheep_proof proof;
	struct sheep_cluster *cluster;
	struct sheep_inode inode;
	bool is_open;
	bool is_missing; /* a gateway that was asked found no inode */
	bool is_gone;
	bool is_bad;
	bool is_vanishing; /* the index looks as if the image were being deleted */
	uint64_t lost; /* the object that the cluster does not have, UINT64_MAX: none */

	/* An array index: @owners, of which the pages that were read are valid. */
	uint32_t *owners;
	int64_t page_ms[PAGES_MAX]; /* when it was read; 0: it was not */

	/* A tree: the root that the inode holds, and the leaf that was used last. */
	uint8_t *root;
	struct sheep_tree_head root_head;
	int64_t root_ms;
	uint8_t *leaf;
	struct sheep_tree_head leaf_head;
	uint64_t leaf_object;
	int64_t leaf_ms;

	enum loading loading;
	unsigned failures; /* in a row */
	enum loading failing; /* what cannot be had */
	int64_t failing_ms; /* since when */
	uint32_t first_page; /* PAGES: which */
	int64_t asked_ms;
	struct sheep_call call;
	uint8_t *buffer; /* of the call; NULL or malloc()ed */

	/* What is valid as of asked_ms once the inode was seen to be the same. */
	int64_t *stamps;
	size_t stamp_count;
};

struct sheep_id sheep_id_of(const struct sheep_inode *inode)
{
	return (struct sheep_id){.vid = inode->vid,
				 .created = inode->created,
				 .is_snapshot = inode->snapped != 0};
}

void sheep_id_format(const struct sheep_id *id, char text[SHEEP_ID_BYTES])
{
	snprintf(text, SHEEP_ID_BYTES, "%06x-%016" PRIx64 "%s", id->vid & 0xffffff,
		 id->created, id->is_snapshot ? "-s" : "");
}

bool sheep_id_parse(const char *text, struct sheep_id *ret_id)
{
	struct sheep_id id = {0};
	char again[SHEEP_ID_BYTES];

	if (sscanf(text, "%6" SCNx32 "-%16" SCNx64, &id.vid, &id.created) != 2)
		return false;
	id.is_snapshot = strlen(text) > 2 && strcmp(text + strlen(text) - 2, "-s") == 0;
	sheep_id_format(&id, again);
	if (strcmp(text, again) != 0)
		return false;
	*ret_id = id;
	return true;
}

struct sheep_cluster *sheep_image_cluster(struct sheep_image *image)
{
	return image->cluster;
}

const struct sheep_inode *sheep_image_inode(const struct sheep_image *image)
{
	return &image->inode;
}

/* Whether what was read at @read_ms can be used for what is wanted as of @since_ms. */
static bool is_fresh(const struct sheep_image *image, int64_t read_ms, int64_t since_ms)
{
	return read_ms > 0 && (image->inode.snapped != 0 || read_ms >= since_ms);
}

/* Take the inode that @call brought.  Returns 0, -ENODATA, -ESTALE or -EBADMSG. */
static int decode_inode(struct sheep_image *image, const struct sheep_call *call,
			struct sheep_inode *ret_inode)
{
	struct sheep_inode inode;
	int error;

	if (call->answer.result != SHEEP_SUCCESS)
		return -ENODATA;
	error = sheep_inode_decode(call->buffer, image->id.vid, &inode);
	if (error < 0)
		return error == -ENOENT ? -ESTALE : error;
	if (inode.created != image->id.created ||
	    (image->id.is_snapshot && inode.snapped == 0))
		return -ESTALE;
	*ret_inode = inode;
	return 0;
}

/* Take @count entries of an array index from @bytes, the first being @first. */
static void take_owners(struct sheep_image *image, const uint8_t *bytes, uint64_t first,
			uint32_t count)
{
	uint64_t objects = sheep_inode_objects(&image->inode);
	bool owner_before = false;

	for (uint32_t i = 0; i < count && first + i < objects; i++) {
		uint32_t *owner = &image->owners[first + i];
		uint32_t now = sheep_array_entry(bytes, i);

		if (now != 0 || *owner == 0)
			*owner = now;
		else if (first + i == image->lost && !owner_before)
			image->is_vanishing = true;
		else if (first + i == image->lost && image->inode.snapped == 0)
			*owner = 0;
		owner_before = owner_before || now != 0;
	}
}

/* What is loaded at @stamps counts from now on, or once the inode was seen. */
static void stamp(struct sheep_image *image, int64_t *stamps, size_t count)
{
	image->stamps = stamps;
	image->stamp_count = count;
}

static void put_stamps(struct sheep_image *image)
{
	for (size_t i = 0; i < image->stamp_count; i++)
		image->stamps[i] = image->asked_ms;
	image->stamp_count = 0;
}

/*
 * Take the root at @bytes, of which there are @size.  Returns 0; how many bytes it has if
 * it has more; or -EBADMSG or -ENOMEM.
 */
static int take_root(struct sheep_image *image, const uint8_t *bytes, uint32_t size)
{
	struct sheep_tree_head head;
	uint8_t *root;

	if (sheep_tree_root(bytes, &head) < 0)
		return -EBADMSG;
	if (image->root && image->root_head.entries > 0 && head.entries == 0) {
		image->is_vanishing = true;
		return -EBADMSG;
	}
	if (head.bytes > size)
		return head.bytes;
	root = malloc(head.bytes);
	if (!root)
		return -ENOMEM;
	memcpy(root, bytes, head.bytes);
	free(image->root);
	image->root = root;
	image->root_head = head;
	stamp(image, &image->root_ms, 1);
	return 0;
}

/* Take the leaf in the buffer.  Returns as take_root() does. */
static int take_leaf(struct sheep_image *image, uint32_t size)
{
	struct sheep_tree_head head;

	if (sheep_tree_leaf(image->buffer, &head) < 0)
		return -EBADMSG;
	if (head.bytes > size)
		return head.bytes;
	free(image->leaf);
	image->leaf = image->buffer;
	image->buffer = NULL;
	image->leaf_head = head;
	image->leaf_object = image->call.request.object;
	stamp(image, &image->leaf_ms, 1);
	return 0;
}

/* Remember the inode, and the part of the index that came with it.  Returns 0 or -errno.
 */
static int take_first(struct sheep_image *image, const struct sheep_inode *inode,
		      const uint8_t *index)
{
	uint64_t objects = sheep_inode_objects(inode);
	int error;

	image->inode = *inode;
	image->asked_ms = sheep_now_ms();
	if (inode->is_tree) {
		error = take_root(image, index, PAGE_BYTES);
		if (error < 0)
			return error;
	} else {
		image->owners = calloc(objects ? objects : 1, sizeof(*image->owners));
		if (!image->owners)
			return -ENOMEM;
		take_owners(image, index, 0, PAGE_ENTRIES);
		stamp(image, image->page_ms, 1);
	}
	put_stamps(image);
	return 0;
}

/* Whether the gateway that answered @call has the image: the proof of all gateways. */
static bool check_gateway(void *context, const struct sheep_call *call)
{
	struct sheep_image *image = context;
	const uint8_t *bytes = call->buffer;
	struct sheep_inode inode;
	int error = decode_inode(image, call, &inode);

	if (image->is_open)
		return error == 0;
	if (error == 0) {
		error = take_first(image, &inode, bytes + SHEEP_INDEX_OFFSET);
		image->is_open = error == 0;
		/* From now on the inode is proof enough. */
		image->proof.request.length = SHEEP_INODE_BYTES;
	}
	image->is_missing = image->is_missing || error == -ENODATA;
	image->is_bad = error < 0 && error != -ENODATA && error != -ESTALE;
	return error == 0;
}

/*
 * No inode was found.  That of a deleted VDI stays, but its number may never have been
 * given out in this cluster; or else the inode is lost.  Says why and returns the status
 * to exit with.
 */
static int explain_missing(struct sheep_image *image, const char *id)
{
	struct sheep_maps maps = {.is_proven = false};
	int error = sheep_maps_get(&maps, &image->uri);
	int status = STORE_IO;

	if (error < 0 && maps.cluster) {
		store_error("%s", sheep_cluster_trouble(maps.cluster, &status));
	} else if (error < 0) {
		store_error("%s", strerror(-error));
	} else if (sheep_maps_next(&maps, image->id.vid) == image->id.vid) {
		store_error("VDI %s: its inode is lost", id);
	} else {
		store_error("VDI %s is gone", id);
		status = STORE_GONE;
	}
	sheep_maps_fini(&maps);
	return status;
}

int sheep_image_fail(struct sheep_image *image, int error)
{
	const char *trouble = "";
	int status = STORE_IO;
	char id[SHEEP_ID_BYTES];

	sheep_id_format(&image->id, id);
	if (image->cluster)
		trouble = sheep_cluster_trouble(image->cluster, &status);
	if (image->is_bad || error == -EBADMSG) {
		store_error("VDI %s: its inode or index makes no sense", id);
		return STORE_IO;
	}
	if (image->is_gone || error == -ESTALE || error == -ENOENT) {
		if (image->is_missing)
			return explain_missing(image, id);
		store_error("VDI %s is gone", id);
		return STORE_GONE;
	}
	if (error == -ECONNREFUSED || error == -EHOSTUNREACH || error == -EIO) {
		store_error("%s", trouble);
		return status;
	}
	if (error == -ETIMEDOUT) {
		store_error("gave up after %" PRId64 " ms: %s",
			    sheep_cluster_patience_ms(image->cluster), trouble);
		return status;
	}
	store_error("cannot wait for the cluster: %s", strerror(-error));
	return STORE_IO;
}

static int open_image(struct sheep_image *image)
{
	int error;

	image->lost = UINT64_MAX;
	image->proof.request.op = SHEEP_READ_OBJ;
	image->proof.request.object = sheep_inode_object(image->id.vid);
	image->proof.request.length = FIRST_BYTES;
	image->proof.check = check_gateway;
	image->proof.context = image;
	error = sheep_cluster_new(&image->uri, &image->proof, false, &image->cluster);
	while (error == 0 && !image->is_open && !image->is_bad)
		error = sheep_cluster_wait(image->cluster, NULL, 0, -1);
	if (error < 0 || image->is_bad)
		return sheep_image_fail(image, error);
	return STORE_OK;
}

int sheep_image_open(const char *uri_text, const char *id, struct sheep_image **ret_image)
{
	struct sheep_image *image = calloc(1, sizeof(*image));
	const char *problem = strerror(ENOMEM);
	int error = -ENOMEM, status;

	if (image)
		error = sheep_uri_init(&image->uri, uri_text, &problem);
	if (error < 0) {
		store_error("%s: %s", uri_text, problem);
		free(image);
		return error == -ENOMEM ? STORE_IO : STORE_USAGE;
	}
	if (sheep_id_parse(id, &image->id)) {
		status = open_image(image);
	} else {
		store_error("%s: there is no such VDI", id);
		status = STORE_GONE;
	}
	if (status == STORE_OK)
		*ret_image = image;
	else
		sheep_image_close(image);
	return status;
}

void sheep_image_close(struct sheep_image *image)
{
	if (!image)
		return;
	sheep_cluster_free(image->cluster);
	sheep_uri_fini(&image->uri);
	free(image->owners);
	free(image->root);
	free(image->leaf);
	free(image->buffer);
	free(image);
}

static void load_done(struct sheep_call *call);

/* Ask for @length bytes of @object from @offset on, after @pause_ms. */
static void load(struct sheep_image *image, enum loading loading, uint64_t object,
		 uint32_t offset, uint32_t length, int64_t pause_ms)
{
	free(image->buffer);
	image->buffer = malloc(length);
	image->loading = image->buffer ? loading : NOTHING;
	if (!image->buffer)
		return; /* it is tried again when it is wanted again */
	/* What is read is as of when it was asked for; the inode only confirms it. */
	if (loading != INODE)
		image->asked_ms = sheep_now_ms();
	image->call = (struct sheep_call){
		.request = {.op = SHEEP_READ_OBJ,
			    .object = object,
			    .offset = offset,
			    .length = length},
		.buffer = image->buffer,
		.copies = image->inode.copies,
		.whole = true,
		.done = load_done,
		.owner = image,
	};
	sheep_cluster_call_later(image->cluster, &image->call, pause_ms);
}

static void load_inode(struct sheep_image *image, int64_t pause_ms)
{
	load(image, INODE, sheep_inode_object(image->id.vid), 0, SHEEP_INODE_BYTES,
	     pause_ms);
}

static void load_index(struct sheep_image *image, enum loading loading, uint32_t offset,
		       uint32_t length)
{
	load(image, loading, sheep_inode_object(image->id.vid),
	     SHEEP_INDEX_OFFSET + offset, length, 0);
}

static void load_pages(struct sheep_image *image, uint64_t object)
{
	uint64_t objects = sheep_inode_objects(&image->inode);
	uint32_t pages = (objects + PAGE_ENTRIES - 1) / PAGE_ENTRIES;
	uint32_t page = object / PAGE_ENTRIES;
	uint32_t count = PAGES_AT_ONCE;

	/* Whether a lost object may become a hole depends on those before it. */
	if (object == image->lost && page > 0)
		page--;
	if (count > pages - page)
		count = pages - page;
	image->first_page = page;
	load_index(image, PAGES, page * PAGE_BYTES, count * PAGE_BYTES);
}

/* The VDI got larger: make room for more of an array index. */
static int grow(struct sheep_image *image, const struct sheep_inode *inode)
{
	uint64_t before = sheep_inode_objects(&image->inode);
	uint64_t after = sheep_inode_objects(inode);
	uint32_t *owners;

	if (inode->is_tree || after <= before)
		return 0;
	owners = realloc(image->owners, after * sizeof(*owners));
	if (!owners)
		return -ENOMEM;
	memset(owners + before, 0, (after - before) * sizeof(*owners));
	image->owners = owners;
	image->page_ms[before / PAGE_ENTRIES] = 0;
	return 0;
}

/* The inode came, after a part of the index or because it was asked for. */
static int take_inode(struct sheep_image *image, const struct sheep_call *call)
{
	struct sheep_inode inode;
	int error = decode_inode(image, call, &inode);

	/* These never change; the index would have to be read as something else. */
	if (error == 0 &&
	    (inode.is_tree != image->inode.is_tree || inode.shift != image->inode.shift))
		error = -EBADMSG;
	if (error == 0)
		error = grow(image, &inode);
	if (error == 0) {
		put_stamps(image);
		image->inode = inode;
	}
	return error;
}

/*
 * Take what was loaded.  Returns 0; how many bytes have to be loaded instead; or
 * -ENODATA, -ESTALE, -EBADMSG or -ENOMEM.
 */
static int take_loaded(struct sheep_image *image, const struct sheep_call *call)
{
	uint32_t length = call->request.length;

	if (call->answer.result != SHEEP_SUCCESS)
		return -ENODATA;
	switch (image->loading) {
	case INODE:
		return take_inode(image, call);
	case PAGES:
		take_owners(image, call->buffer,
			    (uint64_t)image->first_page * PAGE_ENTRIES, length / 4);
		stamp(image, image->page_ms + image->first_page, length / PAGE_BYTES);
		return 0;
	case ROOT:
		return take_root(image, call->buffer, length);
	case LEAF:
		return take_leaf(image, length);
	case NOTHING:
		break;
	}
	return 0;
}

/*
 * What was asked for cannot be had.  If it is a part of the index, the inode is looked at
 * after a while: that of a VDI that is being deleted will say so in the end.
 */
static void load_failed(struct sheep_image *image, int error)
{
	static const char *const parts[] = {
		[PAGES] = "index", [ROOT] = "index", [LEAF] = "part of the index"};
	int64_t pause_ms = (int64_t)RETRY_MS
			   << (image->failures < 4 ? image->failures : 4);
	bool is_answer = image->call.answer.result == SHEEP_SUCCESS;

	image->failures++;
	image->stamp_count = 0;
	if (image->loading == INODE && (is_answer || image->failures > GONE_TRIES)) {
		image->loading = NOTHING;
		image->is_missing = error == -ENODATA;
		image->is_gone = error == -ENODATA || error == -ESTALE;
		image->is_bad = !image->is_gone;
		return;
	}
	if (image->loading != INODE) {
		int64_t now_ms = sheep_now_ms();

		sheep_cluster_note(image->cluster, STORE_IO, "VDI %06x: the %s %s",
				   image->id.vid, parts[image->loading],
				   is_answer ? "makes no sense" : "is lost");
		if (image->failing != image->loading) {
			image->failing = image->loading;
			image->failing_ms = now_ms;
		} else if (now_ms - image->failing_ms >
			   sheep_cluster_errors_ms(image->cluster)) {
			image->is_gone = image->is_vanishing;
			if (!image->is_gone)
				sheep_cluster_give_up(image->cluster);
		}
	}
	image->root_ms = 0;
	image->leaf_ms = 0;
	if (image->is_gone)
		image->loading = NOTHING;
	else
		load_inode(image, pause_ms);
}

static void load_done(struct sheep_call *call)
{
	struct sheep_image *image = call->owner;
	int result = take_loaded(image, call);

	if (result < 0) {
		load_failed(image, result);
	} else if (result > 0) {
		load(image, image->loading, call->request.object, call->request.offset,
		     result, 0);
	} else if (image->loading == INODE) {
		image->loading = NOTHING;
	} else {
		image->failures = 0;
		if (image->failing == image->loading)
			image->failing = NOTHING;
		load_inode(image, 0);
	}
}

/* How many objects from @object on have no owner, as far as that is known; 0 if it has.
 */
static uint64_t hole_of_pages(const struct sheep_image *image, uint64_t object,
			      int64_t since_ms)
{
	uint64_t end = sheep_inode_objects(&image->inode);
	uint64_t at = object;

	if (end - object > RUN_MAX)
		end = object + RUN_MAX;
	while (at < end && image->owners[at] == 0 &&
	       is_fresh(image, image->page_ms[at / PAGE_ENTRIES], since_ms))
		at++;
	return at - object;
}

static int find_in_pages(struct sheep_image *image, uint64_t object, int64_t since_ms,
			 uint32_t *ret_vid, uint64_t *ret_run)
{
	uint64_t hole;

	if (!is_fresh(image, image->page_ms[object / PAGE_ENTRIES], since_ms)) {
		if (image->loading == NOTHING)
			load_pages(image, object);
		return -EAGAIN;
	}
	hole = hole_of_pages(image, object, since_ms);
	*ret_vid = image->owners[object];
	*ret_run = hole ? hole : 1;
	return 0;
}

/* Find @object in a leaf that reaches to object @end. */
static void find_in_leaf(const uint8_t *leaf, const struct sheep_tree_head *head,
			 uint64_t object, uint64_t end, uint32_t *ret_vid,
			 uint64_t *ret_run)
{
	uint64_t next;

	sheep_leaf_find(leaf, head->entries, object, ret_vid, &next);
	if (next > end)
		next = end;
	*ret_run = *ret_vid != 0 || next <= object ? 1 : next - object;
}

static int find_in_tree(struct sheep_image *image, uint64_t object, int64_t since_ms,
			uint32_t *ret_vid, uint64_t *ret_run)
{
	uint64_t end = sheep_inode_objects(&image->inode);
	uint64_t leaf_object, last;
	uint32_t place;

	if (!is_fresh(image, image->root_ms, since_ms)) {
		uint32_t bytes = image->root ? image->root_head.bytes : 0;

		if (image->loading == NOTHING)
			load_index(image, ROOT, 0,
				   bytes > PAGE_BYTES ? bytes : PAGE_BYTES);
		return -EAGAIN;
	}
	if (image->root_head.is_leaf) {
		find_in_leaf(image->root, &image->root_head, object, end, ret_vid,
			     ret_run);
		return 0;
	}
	place = sheep_root_find(image->root, image->root_head.entries, object);
	if (place == image->root_head.entries) {
		*ret_vid = 0;
		*ret_run = end - object;
		return 0;
	}
	leaf_object = sheep_root_leaf(image->root, place);
	if (image->leaf_object != leaf_object ||
	    !is_fresh(image, image->leaf_ms, since_ms)) {
		if (image->loading == NOTHING)
			load(image, LEAF, leaf_object, 0, LEAF_FIRST_BYTES, 0);
		return -EAGAIN;
	}
	last = sheep_root_last(image->root, place);
	find_in_leaf(image->leaf, &image->leaf_head, object, last < end ? last + 1 : end,
		     ret_vid, ret_run);
	return 0;
}

int sheep_image_find(struct sheep_image *image, uint64_t object, int64_t since_ms,
		     uint32_t *ret_vid, uint64_t *ret_run)
{
	if (image->is_bad)
		return -EBADMSG;
	if (image->is_gone)
		return -ESTALE;
	assert(object < sheep_inode_objects(&image->inode));
	if (image->inode.is_tree)
		return find_in_tree(image, object, since_ms, ret_vid, ret_run);
	return find_in_pages(image, object, since_ms, ret_vid, ret_run);
}

void sheep_image_lost(struct sheep_image *image, uint64_t object)
{
	image->lost = object;
	image->root_ms = 0;
	image->leaf_ms = 0;
	if (!image->inode.is_tree)
		image->page_ms[object / PAGE_ENTRIES] = 0;
}

bool sheep_image_is_vanishing(const struct sheep_image *image)
{
	return image->is_vanishing;
}

int sheep_image_check(struct sheep_image *image)
{
	bool is_asked = false;

	while (!image->is_gone && !image->is_bad &&
	       !(is_asked && image->loading == NOTHING)) {
		int error;

		if (image->loading == NOTHING) {
			is_asked = true;
			load_inode(image, 0);
			continue;
		}
		error = sheep_cluster_wait(image->cluster, NULL, 0, -1);
		if (error < 0)
			return sheep_image_fail(image, error);
	}
	if (image->is_gone || image->is_bad)
		return sheep_image_fail(image, 0);
	return STORE_OK;
}
