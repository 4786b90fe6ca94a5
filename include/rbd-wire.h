/* SPDX-License-Identifier: MIT */
/*
 * rbd-wire - what the OSDs' class "rbd" is asked and answers, taken apart.
 *
 * Numbers are little-endian.  A string is its length in 32 bits and its bytes.  A struct
 * has a version, the oldest version that can read it, the number of bytes that follow in
 * 32 bits, and its fields; a reader skips those that it does not know.  (Ceph,
 * doc/dev/encoding.rst and src/include/encoding.h; the methods are those of
 * src/cls/rbd/cls_rbd.cc.)
 *
 * Nothing blocks, nothing is read beyond the end: what is missing makes the wire bad, and
 * all that is taken from it from then on is 0.
 */
#ifndef IMAGEFS_RBD_WIRE_H
#define IMAGEFS_RBD_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CEPH_HEAD ((uint64_t)-2) /* the image itself, among the numbers of snapshots */

struct wire {
	const unsigned char *at;
	const unsigned char *end;
	bool is_bad;
};

struct wire wire_of(const void *data, size_t size);

uint8_t wire_u8(struct wire *wire);
uint32_t wire_u32(struct wire *wire);
uint64_t wire_u64(struct wire *wire);

/* @size bytes, borrowed from what the wire is of; NULL if there are not so many. */
const void *wire_bytes(struct wire *wire, uint64_t size);

/* A string without NUL bytes, which the caller frees; NULL if it is none. */
char *wire_string(struct wire *wire);

/* A struct's fields; @wire is then behind it. */
struct wire wire_struct(struct wire *wire);

/* Where a snapshot comes from (SnapshotNamespace). */
enum ceph_snap_kind {
	SNAP_USER = 0,
	SNAP_GROUP = 1,
	SNAP_TRASH = 2, /* being removed, or as soon as no clone needs it */
	SNAP_MIRROR = 3,
};

/* A snapshot, as "snapshot_get" tells (SnapshotInfo). */
struct ceph_snap {
	uint64_t id;
	uint32_t kind; /* enum ceph_snap_kind */
	char *name;
	uint64_t size;
	int64_t created; /* seconds since 1970 */
};

/* Returns 0, -EBADMSG or -ENOMEM.  The caller frees what is in it. */
int ceph_snap_decode(const void *data, size_t size, struct ceph_snap *ret_snap);

void ceph_snap_fini(struct ceph_snap *snap);

/*
 * Whether an image in the trash, as "trash_get" tells (TrashImageSpec), is being removed:
 * its objects may be gone.  Returns 0, or -EBADMSG.
 */
int ceph_trash_decode(const void *data, size_t size, bool *ret_is_removed);

/* Of an object, in an object map (include/rbd/object_map_types.h). */
enum ceph_object {
	OBJECT_NONE = 0, /* there is none: zeros, or the parent's data */
	OBJECT_EXISTS = 1,
	OBJECT_PENDING = 2, /* being removed */
	OBJECT_CLEAN = 3, /* exists, not written to since the last snapshot */
};

/* An object map, as "object_map_load" tells: two bits for each object of an image. */
struct ceph_map {
	uint64_t count;
	unsigned char *bits;
	size_t size; /* bytes in @bits */
};

/* Returns 0, -EBADMSG or -ENOMEM. */
int ceph_map_decode(const void *data, size_t size, struct ceph_map *ret_map);

void ceph_map_fini(struct ceph_map *map);

/* The state of object @number; OBJECT_NONE if the map ends before it. */
enum ceph_object ceph_map_get(const struct ceph_map *map, uint64_t number);

/* How many of the first @limit objects exist. */
uint64_t ceph_map_count(const struct ceph_map *map, uint64_t limit);

#endif
