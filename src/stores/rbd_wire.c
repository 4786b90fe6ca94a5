/* SPDX-License-Identifier: MIT */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "rbd-wire.h"

struct wire wire_of(const void *data, size_t size)
{
	return (struct wire){.at = data, .end = (const unsigned char *)data + size};
}

const void *wire_bytes(struct wire *wire, uint64_t size)
{
	const void *bytes = wire->at;

	if (wire->is_bad || size > (uint64_t)(wire->end - wire->at)) {
		wire->is_bad = true;
		return NULL;
	}
	wire->at += size;
	return bytes;
}

uint8_t wire_u8(struct wire *wire)
{
	const uint8_t *bytes = wire_bytes(wire, 1);

	return bytes ? *bytes : 0;
}

uint32_t wire_u32(struct wire *wire)
{
	const void *bytes = wire_bytes(wire, 4);
	uint32_t number = 0;

	if (bytes)
		memcpy(&number, bytes, sizeof(number));
	return le32toh(number);
}

uint64_t wire_u64(struct wire *wire)
{
	const void *bytes = wire_bytes(wire, 8);
	uint64_t number = 0;

	if (bytes)
		memcpy(&number, bytes, sizeof(number));
	return le64toh(number);
}

char *wire_string(struct wire *wire)
{
	uint32_t length = wire_u32(wire);
	const void *bytes = wire_bytes(wire, length);

	if (!bytes || memchr(bytes, '\0', length)) {
		wire->is_bad = true;
		return NULL;
	}
	return strndup(bytes, length);
}

struct wire wire_struct(struct wire *wire)
{
	const void *bytes;
	uint32_t size;

	(void)wire_bytes(wire, 2);
	size = wire_u32(wire);
	bytes = wire_bytes(wire, size);
	if (!bytes)
		return (struct wire){.is_bad = true};
	return wire_of(bytes, size);
}

int ceph_snap_decode(const void *data, size_t size, struct ceph_snap *ret_snap)
{
	struct wire all = wire_of(data, size);
	struct wire info = wire_struct(&all);
	struct ceph_snap snap = {.id = wire_u64(&info)};
	struct wire space = wire_struct(&info);

	snap.kind = wire_u32(&space);
	snap.name = wire_string(&info);
	snap.size = wire_u64(&info);
	snap.created = wire_u32(&info);
	if (info.is_bad || space.is_bad || !snap.name) {
		free(snap.name);
		return info.is_bad || space.is_bad ? -EBADMSG : -ENOMEM;
	}
	*ret_snap = snap;
	return 0;
}

void ceph_snap_fini(struct ceph_snap *snap)
{
	free(snap->name);
	snap->name = NULL;
}

int ceph_trash_decode(const void *data, size_t size, bool *ret_is_removed)
{
	/* TrashImageSource and TrashImageState, src/cls/rbd/cls_rbd_types.h */
	enum { SOURCE_REMOVING = 3, STATE_REMOVING = 2 };
	struct wire all = wire_of(data, size);
	struct wire spec = wire_struct(&all);
	uint8_t source = wire_u8(&spec);
	uint8_t state;

	(void)wire_bytes(&spec, wire_u32(&spec)); /* the name */
	(void)wire_bytes(&spec, 8); /* when it was put there */
	(void)wire_bytes(&spec, 8); /* and till when it stays */
	if (spec.is_bad)
		return -EBADMSG;
	state = wire_u8(&spec); /* not there in version 1: 0 */
	*ret_is_removed = source == SOURCE_REMOVING || state == STATE_REMOVING;
	return 0;
}

/*
 * A BitVector (src/common/bit_vector.hpp): a struct of the count, the bits, and checksums
 * that may be left out.  The first object has the two highest bits of the first byte.
 */
int ceph_map_decode(const void *data, size_t size, struct ceph_map *ret_map)
{
	struct wire all = wire_of(data, size);
	uint32_t length = wire_u32(&all);
	const void *bits = wire_bytes(&all, length);
	struct wire header = wire_of(bits, bits ? length : 0);
	struct wire fields = wire_struct(&header);
	struct ceph_map map = {.count = wire_u64(&fields)};

	if (all.is_bad || fields.is_bad || map.count > UINT64_MAX / 2)
		return -EBADMSG;
	map.size = (map.count + 3) / 4;
	bits = wire_bytes(&all, map.size);
	if (!bits)
		return -EBADMSG;
	map.bits = malloc(map.size + 1);
	if (!map.bits)
		return -ENOMEM;
	memcpy(map.bits, bits, map.size);
	*ret_map = map;
	return 0;
}

void ceph_map_fini(struct ceph_map *map)
{
	free(map->bits);
	*map = (struct ceph_map){0};
}

enum ceph_object ceph_map_get(const struct ceph_map *map, uint64_t number)
{
	if (number >= map->count)
		return OBJECT_NONE;
	return map->bits[number / 4] >> (6 - number % 4 * 2) & 3;
}

uint64_t ceph_map_count(const struct ceph_map *map, uint64_t limit)
{
	uint64_t end = MIN(limit, map->count), count = 0;

	for (uint64_t i = 0; i < end; i++) {
		/* Four at once, where there are none. */
		if (i % 4 == 0 && !map->bits[i / 4])
			i += 3;
		else
			count += ceph_map_get(map, i) != OBJECT_NONE;
	}
	return count;
}
