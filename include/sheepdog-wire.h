/* SPDX-License-Identifier: MIT */
/*
 * sheepdog-wire - what sheepdog's protocol looks like in bytes.
 *
 * The protocol is that of sheepdog 0.7 to 1.0: include/sheepdog_proto.h and
 * include/internal_proto.h of its source.  All numbers are little-endian.  Nothing here
 * does I/O, and any bytes may be given: what they say is checked before it is used.
 */
#ifndef IMAGEFS_SHEEPDOG_WIRE_H
#define IMAGEFS_SHEEPDOG_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SHEEP_HEADER_BYTES 48 /* of a request, and of an answer */
#define SHEEP_VDIS (1U << 24) /* the numbers that a VDI can have; 0 is none */
#define SHEEP_BITMAP_BYTES (SHEEP_VDIS / 8)
#define SHEEP_NODE_LIST_BYTES 491520 /* room for the list of the largest cluster */
#define SHEEP_RECOVERY_BYTES 256 /* more than any STAT_RECOVERY answers */
#define SHEEP_TEXT_BYTES 256 /* a VDI's name, or its tag */

enum sheep_op {
	SHEEP_READ_OBJ = 0x02,
	SHEEP_READ_VDIS = 0x15,
	SHEEP_GET_NODE_LIST = 0x82,
	SHEEP_STAT_RECOVERY = 0x97,
	SHEEP_READ_DEL_VDIS = 0xc9,
};

/* What became of a request: the results that are told from the others here. */
enum sheep_result {
	SHEEP_SUCCESS = 0x00,
	SHEEP_NO_OBJ = 0x02,
	SHEEP_EIO = 0x03,
	SHEEP_INVALID_PARMS = 0x05,
	SHEEP_NO_VDI = 0x08,
	SHEEP_STARTUP = 0x0f,
	SHEEP_SHUTDOWN = 0x11,
	SHEEP_VER_MISMATCH = 0x14,
	SHEEP_WAIT_FOR_FORMAT = 0x16,
	SHEEP_WAIT_FOR_JOIN = 0x17,
	SHEEP_HALT = 0x19,
	SHEEP_KILLED = 0x8d,
};

/* A request for @length bytes from @offset of object @object (READ_OBJ), or for a list.
 */
struct sheep_request {
	uint64_t object;
	uint32_t offset;
	uint32_t length;
	uint8_t op;
};

struct sheep_answer {
	uint32_t id;
	uint32_t length; /* bytes that follow the header */
	uint32_t result; /* enum sheep_result, or one that has no name here */
	uint32_t nodes; /* of a node list: how many there are */
	uint8_t op;
};

/* Put the header of @request, numbered @id, into @bytes (SHEEP_HEADER_BYTES). */
void sheep_request_encode(const struct sheep_request *request, uint32_t id,
			  uint8_t *bytes);

/*
 * Take the header of an answer apart.  Returns 0, or -EPROTO if it is none: a protocol
 * version or an operation that is not in use here.
 */
int sheep_answer_decode(const uint8_t *bytes, struct sheep_answer *ret_answer);

/*
 * Whether @answer fits @request: of the same operation, and as long as was asked if it
 * says that all is well.  Those about nodes may be shorter.
 */
bool sheep_answer_fits(const struct sheep_answer *answer,
		       const struct sheep_request *request);

/* What sheepdog calls @result, in a few words. */
const char *sheep_result_text(uint32_t result);

/* The number of an inode, a part of a VDI's data. */
uint64_t sheep_inode_object(uint32_t vid);
uint64_t sheep_data_object(uint32_t vid, uint32_t index);

/* Whether @bitmap (SHEEP_BITMAP_BYTES) has the bit of @vid. */
bool sheep_bitmap_has(const uint8_t *bitmap, uint32_t vid);

/* The first VDI number from @vid on that is in @bitmap; SHEEP_VDIS if none is. */
uint32_t sheep_bitmap_next(const uint8_t *bitmap, uint32_t vid);

/* The VDI number at which sheepdog looks for a VDI called @name first. */
uint32_t sheep_name_hash(const char *name);

/* The inode: 4,664 bytes of which the first SHEEP_INODE_BYTES matter; then its index. */
#define SHEEP_INODE_BYTES 572
#define SHEEP_INDEX_OFFSET 4664
#define SHEEP_INDEX_BYTES (4U << 20)

struct sheep_inode {
	char name[SHEEP_TEXT_BYTES + 1];
	char tag[SHEEP_TEXT_BYTES + 1];
	uint64_t created; /* seconds << 32 | nanoseconds */
	uint64_t snapped; /* the same; 0 if it is no snapshot */
	uint64_t size;
	uint8_t copy_policy; /* erasure code: data strips / 2 << 4 | parity strips; or 0
			      */
	bool is_tree; /* the index is a B-tree (a hypervolume) */
	uint8_t copies;
	uint8_t shift; /* objects are 1 << shift bytes */
	uint32_t snapshot_id;
	uint32_t vid;
	uint32_t parent;
};

/*
 * Take apart an inode that was read as VDI @vid, from its first SHEEP_INODE_BYTES.
 * Returns 0, -ENOENT if the VDI is deleted, or -EBADMSG if that is no inode of @vid.
 */
int sheep_inode_decode(const uint8_t *bytes, uint32_t vid, struct sheep_inode *ret_inode);

/* How many objects @inode's size needs. */
uint64_t sheep_inode_objects(const struct sheep_inode *inode);

/* How an object is stored: "3", or "4:2" for an erasure code. */
void sheep_inode_copies(const struct sheep_inode *inode, char text[16]);

/* The VDI that owns entry @entry of an array index, whose first bytes are @index. */
uint32_t sheep_array_entry(const uint8_t *index, size_t entry);

/* How many of the first @count entries have an owner. */
size_t sheep_array_owned(const uint8_t *index, size_t count);

/*
 * The head of a B-tree's node.  A leaf (depth 1) has entries of 8 bytes (object, VDI),
 * the root of a larger tree (depth 2) of 16 (last object, number of the leaf), ascending.
 */
#define SHEEP_NODE_HEAD_BYTES 8
#define SHEEP_LEAF_ENTRY_BYTES 8
#define SHEEP_ROOT_ENTRY_BYTES 16

struct sheep_tree_head {
	bool is_leaf;
	uint32_t entries;
	uint32_t bytes; /* the whole node, this head included */
};

/*
 * Take apart the head of the root that an inode holds.  One that is all zeros is an
 * empty leaf.  Returns 0, or -EBADMSG if it is neither, or larger than a node can be.
 */
int sheep_tree_root(const uint8_t *bytes, struct sheep_tree_head *ret_head);

/* The same for a leaf below the root, which is never all zeros. */
int sheep_tree_leaf(const uint8_t *bytes, struct sheep_tree_head *ret_head);

/*
 * Look up object @index in a whole leaf.  *@ret_vid is its owner, or 0; *@ret_next is the
 * next object after @index that is in the leaf, or UINT64_MAX.
 */
void sheep_leaf_find(const uint8_t *leaf, uint32_t entries, uint32_t index,
		     uint32_t *ret_vid, uint64_t *ret_next);

/*
 * Find the leaf where object @index belongs in a whole root of depth 2.  Returns its
 * place among the entries, or @entries if no leaf reaches so far.
 */
uint32_t sheep_root_find(const uint8_t *root, uint32_t entries, uint32_t index);

/* The number of the leaf at @place of a root, and the last object that belongs there. */
uint64_t sheep_root_leaf(const uint8_t *root, uint32_t place);
uint32_t sheep_root_last(const uint8_t *root, uint32_t place);

/* A node of the cluster. */
struct sheep_node {
	uint8_t address[16]; /* IPv6, or IPv4 in its last four bytes behind zeros */
	uint16_t port;
	uint16_t points; /* how many places on the ring of hashes are its own */
	uint32_t zone;
	uint64_t hash; /* of address and port, from which the places follow */
};

/*
 * Take apart node @place of the list in @bytes, which came with @answer.  Returns 0, or
 * -EBADMSG if the list is not of a form that is known.
 */
int sheep_node_decode(const uint8_t *bytes, const struct sheep_answer *answer,
		      uint32_t place, struct sheep_node *ret_node);

/* FNV-1a over the bytes of @number, on top of @hash: sheepdog's sd_hash and its like. */
uint64_t sheep_hash_step(uint64_t number, uint64_t hash);

/* Where object @object is on the ring of hashes. */
uint64_t sheep_object_hash(uint64_t object);

#endif
