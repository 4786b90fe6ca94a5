/* SPDX-License-Identifier: MIT */
/*
 * sheepdog-wire - what sheepdog's protocol looks like in bytes.
 *
 * Requests below 0x80 are sent as version 1, as qemu did: an older sheep that is spoken
 * to in version 2 leaves out the zeros at both ends of what it answers.  So an answer is
 * as long as what was asked, and one that is shorter is no answer.
 */
#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "sheepdog-wire.h"

#define PUBLIC_VERSION 0x01
#define PUBLIC_VERSION_MAX 0x02
#define CLUSTER_VERSION 0x0a /* of operations from 0x80 on */

#define INODE_BIT (UINT64_C(1) << 63)
#define OWNER_SHIFT 32

#define TREE_MAGIC 0x6274
#define ARRAY_ENTRIES (SHEEP_INDEX_BYTES / 4)
#define SHIFT_DEFAULT 22
#define SHIFT_MIN 12
#define SHIFT_MAX 31

/* Nodes as 0.9 and 1.0 list them, and how much of one is used in hashing its places. */
#define NODE_BYTES 80
#define NODE_ID 24
#define NODE_ID_HASHED 18

#define FNV_BASIS UINT64_C(0xcbf29ce484222325)
#define FNV_PRIME UINT64_C(0x100000001b3)

static uint16_t get16(const uint8_t *bytes)
{
	uint16_t value;

	memcpy(&value, bytes, sizeof(value));
	return le16toh(value);
}

static uint32_t get32(const uint8_t *bytes)
{
	uint32_t value;

	memcpy(&value, bytes, sizeof(value));
	return le32toh(value);
}

static uint64_t get64(const uint8_t *bytes)
{
	uint64_t value;

	memcpy(&value, bytes, sizeof(value));
	return le64toh(value);
}

static void put32(uint8_t *bytes, uint32_t value)
{
	value = htole32(value);
	memcpy(bytes, &value, sizeof(value));
}

static void put64(uint8_t *bytes, uint64_t value)
{
	value = htole64(value);
	memcpy(bytes, &value, sizeof(value));
}

void sheep_request_encode(const struct sheep_request *request, uint32_t id,
			  uint8_t *bytes)
{
	memset(bytes, 0, SHEEP_HEADER_BYTES);
	bytes[0] = request->op < 0x80 ? PUBLIC_VERSION : CLUSTER_VERSION;
	bytes[1] = request->op;
	put32(bytes + 8, id);
	put32(bytes + 12, request->length);
	put64(bytes + 16, request->object);
	put32(bytes + 40, request->offset);
}

int sheep_answer_decode(const uint8_t *bytes, struct sheep_answer *ret_answer)
{
	struct sheep_answer answer = {
		.id = get32(bytes + 8),
		.length = get32(bytes + 12),
		.result = get32(bytes + 16),
		.nodes = get32(bytes + 20),
		.op = bytes[1],
	};

	/* Sheep leave the version of most answers 0. */
	if (bytes[0] > PUBLIC_VERSION_MAX && bytes[0] != CLUSTER_VERSION)
		return -EPROTO;
	switch (answer.op) {
	case SHEEP_READ_OBJ:
	case SHEEP_READ_VDIS:
	case SHEEP_GET_NODE_LIST:
	case SHEEP_STAT_RECOVERY:
	case SHEEP_READ_DEL_VDIS:
		break;
	default:
		return -EPROTO;
	}
	*ret_answer = answer;
	return 0;
}

bool sheep_answer_fits(const struct sheep_answer *answer,
		       const struct sheep_request *request)
{
	if (answer->op != request->op)
		return false;
	if (answer->result != SHEEP_SUCCESS || request->op == SHEEP_GET_NODE_LIST ||
	    request->op == SHEEP_STAT_RECOVERY)
		return answer->length <= request->length;
	return answer->length == request->length;
}

const char *sheep_result_text(uint32_t result)
{
	static const char *const texts[] = {
		[0x00] = "all is well",
		[0x01] = "unknown error",
		[SHEEP_NO_OBJ] = "no such object",
		[SHEEP_EIO] = "input/output error",
		[SHEEP_INVALID_PARMS] = "invalid parameters",
		[0x06] = "system error",
		[0x07] = "the VDI is locked",
		[SHEEP_NO_VDI] = "no such VDI",
		[0x0a] = "the VDI cannot be read",
		[0x0e] = "no such tag",
		[SHEEP_STARTUP] = "sheepdog is starting up",
		[SHEEP_SHUTDOWN] = "sheepdog is shutting down",
		[0x12] = "sheep has no memory",
		[SHEEP_VER_MISMATCH] = "another version of the protocol",
		[SHEEP_WAIT_FOR_FORMAT] = "the cluster is not formatted",
		[SHEEP_WAIT_FOR_JOIN] = "the cluster waits for nodes to join",
		[0x18] = "the node could not join",
		[SHEEP_HALT] = "sheepdog is halted: too few nodes are alive",
		[0x1a] = "the object is read-only",
		[0x1d] = "the inode is out of date",
		[0x81] = "the request is of an old epoch",
		[0x82] = "the request is of a new epoch",
		[0x83] = "the cluster is not formatted yet",
		[0x85] = "invalid epoch",
		[0x86] = "network error between sheep",
		[0x8a] = "no such store",
		[0x8b] = "the operation is not supported",
		[0x8c] = "the node is recovering",
		[SHEEP_KILLED] = "the node is killed",
		[0x8f] = "try again",
		[0x90] = "the object may be stale",
		[0x91] = "the cluster driver failed",
		[0x95] = "the node is learning the state of the cluster",
		[0x97] = "the node is a gateway",
	};

	if (result < sizeof(texts) / sizeof(texts[0]) && texts[result])
		return texts[result];
	return "a result without a name";
}

uint64_t sheep_inode_object(uint32_t vid)
{
	return INODE_BIT | (uint64_t)vid << OWNER_SHIFT;
}

uint64_t sheep_data_object(uint32_t vid, uint32_t index)
{
	return (uint64_t)vid << OWNER_SHIFT | index;
}

bool sheep_bitmap_has(const uint8_t *bitmap, uint32_t vid)
{
	return bitmap[vid / 8] >> vid % 8 & 1;
}

uint32_t sheep_bitmap_next(const uint8_t *bitmap, uint32_t vid)
{
	while (vid < SHEEP_VDIS) {
		if (vid % 64 == 0 && get64(bitmap + vid / 8) == 0)
			vid += 64;
		else if (sheep_bitmap_has(bitmap, vid))
			return vid;
		else
			vid++;
	}
	return SHEEP_VDIS;
}

static uint64_t hash_bytes(const void *bytes, size_t size)
{
	const uint8_t *next = bytes;
	uint64_t hash = FNV_BASIS;

	while (size-- > 0) {
		hash ^= *next++;
		hash *= FNV_PRIME;
	}
	return hash;
}

uint64_t sheep_hash_step(uint64_t number, uint64_t hash)
{
	for (int i = 0; i < 64; i += 8) {
		hash ^= number >> i & 0xff;
		hash *= FNV_PRIME;
	}
	return hash;
}

uint64_t sheep_object_hash(uint64_t object)
{
	uint64_t hash = sheep_hash_step(object, FNV_BASIS);

	return sheep_hash_step(hash, hash);
}

uint32_t sheep_name_hash(const char *name)
{
	uint32_t vid = hash_bytes(name, strlen(name)) & (SHEEP_VDIS - 1);

	return vid ? vid : 1;
}

int sheep_inode_decode(const uint8_t *bytes, uint32_t vid, struct sheep_inode *ret_inode)
{
	struct sheep_inode inode = {
		.created = get64(bytes + 512),
		.snapped = get64(bytes + 520),
		.size = get64(bytes + 536),
		.copy_policy = bytes[552],
		.is_tree = bytes[553] == 1,
		.copies = bytes[554],
		.shift = bytes[555],
		.snapshot_id = get32(bytes + 556),
		.vid = get32(bytes + 560),
		.parent = get32(bytes + 564),
	};

	if (bytes[0] == '\0')
		return -ENOENT;
	memcpy(inode.name, bytes, SHEEP_TEXT_BYTES);
	memcpy(inode.tag, bytes + SHEEP_TEXT_BYTES, SHEEP_TEXT_BYTES);
	if (inode.shift == 0)
		inode.shift = SHIFT_DEFAULT; /* 0.8 and older did not set it */
	if (inode.vid != vid || bytes[553] > 1 || inode.shift < SHIFT_MIN ||
	    inode.shift > SHIFT_MAX || inode.size > INT64_MAX)
		return -EBADMSG;
	if (sheep_inode_objects(&inode) >
	    (inode.is_tree ? UINT64_C(1) << 32 : ARRAY_ENTRIES))
		return -EBADMSG;
	*ret_inode = inode;
	return 0;
}

uint64_t sheep_inode_objects(const struct sheep_inode *inode)
{
	uint64_t object_bytes = UINT64_C(1) << inode->shift;

	return inode->size / object_bytes + (inode->size % object_bytes != 0);
}

void sheep_inode_copies(const struct sheep_inode *inode, char text[16])
{
	if (inode->copy_policy)
		snprintf(text, 16, "%d:%d", (inode->copy_policy >> 4) * 2,
			 inode->copy_policy & 0x0f);
	else
		snprintf(text, 16, "%d", inode->copies);
}

uint32_t sheep_array_entry(const uint8_t *index, size_t entry)
{
	return get32(index + entry * 4);
}

size_t sheep_array_owned(const uint8_t *index, size_t count)
{
	size_t owned = 0;

	for (size_t i = 0; i < count; i++) {
		uint32_t entry;

		memcpy(&entry, index + i * 4, sizeof(entry));
		owned += entry != 0;
	}
	return owned;
}

static int decode_tree_head(const uint8_t *bytes, struct sheep_tree_head *ret_head)
{
	uint16_t depth = get16(bytes + 2);
	struct sheep_tree_head head = {.is_leaf = depth == 1,
				       .entries = get32(bytes + 4)};
	uint64_t size = SHEEP_NODE_HEAD_BYTES +
			(uint64_t)head.entries * (head.is_leaf ? SHEEP_LEAF_ENTRY_BYTES
							       : SHEEP_ROOT_ENTRY_BYTES);

	if (get16(bytes) != TREE_MAGIC || depth < 1 || depth > 2 ||
	    size > SHEEP_INDEX_BYTES)
		return -EBADMSG;
	head.bytes = size;
	*ret_head = head;
	return 0;
}

int sheep_tree_root(const uint8_t *bytes, struct sheep_tree_head *ret_head)
{
	if (get64(bytes) == 0) {
		*ret_head = (struct sheep_tree_head){.is_leaf = true,
						     .bytes = SHEEP_NODE_HEAD_BYTES};
		return 0;
	}
	return decode_tree_head(bytes, ret_head);
}

int sheep_tree_leaf(const uint8_t *bytes, struct sheep_tree_head *ret_head)
{
	struct sheep_tree_head head;
	int error = decode_tree_head(bytes, &head);

	if (error < 0)
		return error;
	if (!head.is_leaf)
		return -EBADMSG;
	*ret_head = head;
	return 0;
}

/*
 * The first of @count entries of @entry_bytes, which begin with a number of 32 bits and
 * ascend, whose number is at least @wanted; @count if there is none.
 */
static uint32_t first_from(const uint8_t *entries, size_t entry_bytes, uint32_t count,
			   uint32_t wanted)
{
	uint32_t low = 0, high = count;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (get32(entries + middle * entry_bytes) < wanted)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

void sheep_leaf_find(const uint8_t *leaf, uint32_t entries, uint32_t index,
		     uint32_t *ret_vid, uint64_t *ret_next)
{
	const uint8_t *first = leaf + SHEEP_NODE_HEAD_BYTES;
	uint32_t place = first_from(first, SHEEP_LEAF_ENTRY_BYTES, entries, index);
	const uint8_t *entry = first + (size_t)place * SHEEP_LEAF_ENTRY_BYTES;

	*ret_vid = 0;
	*ret_next = UINT64_MAX;
	if (place < entries && get32(entry) == index) {
		*ret_vid = get32(entry + 4);
		place++;
		entry += SHEEP_LEAF_ENTRY_BYTES;
	}
	if (place < entries && get32(entry) > index)
		*ret_next = get32(entry);
}

uint32_t sheep_root_find(const uint8_t *root, uint32_t entries, uint32_t index)
{
	return first_from(root + SHEEP_NODE_HEAD_BYTES, SHEEP_ROOT_ENTRY_BYTES, entries,
			  index);
}

uint64_t sheep_root_leaf(const uint8_t *root, uint32_t place)
{
	return get64(root + SHEEP_NODE_HEAD_BYTES +
		     (size_t)place * SHEEP_ROOT_ENTRY_BYTES + 8);
}

uint32_t sheep_root_last(const uint8_t *root, uint32_t place)
{
	return get32(root + SHEEP_NODE_HEAD_BYTES +
		     (size_t)place * SHEEP_ROOT_ENTRY_BYTES);
}

int sheep_node_decode(const uint8_t *bytes, const struct sheep_answer *answer,
		      uint32_t place, struct sheep_node *ret_node)
{
	const uint8_t *node = bytes + (size_t)place * NODE_BYTES;
	struct sheep_node result = {0};

	if (place >= answer->nodes || answer->length / NODE_BYTES != answer->nodes ||
	    answer->length % NODE_BYTES != 0)
		return -EBADMSG;
	memcpy(result.address, node + NODE_ID, sizeof(result.address));
	result.port = get16(node + NODE_ID + 16);
	result.points = get16(node + 64);
	result.zone = get32(node + 68);
	result.hash = hash_bytes(node + NODE_ID, NODE_ID_HASHED);
	result.hash = sheep_hash_step(result.hash, result.hash);
	*ret_node = result;
	return 0;
}
