/* SPDX-License-Identifier: MIT */
/*
 * What the OSDs answer is taken apart, whatever it is, and what it means that objects go.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "rbd-flux.h"
#include "rbd-wire.h"

#define MS INT64_C(1000000)
#define LIMIT_NS (10000 * MS)

/* As Ceph 16 gave them. */
static const char map_of_3[] = "\x0e\0\0\0\x01\x01\x08\0\0\0\x03\0\0\0\0\0\0\0"
			       "\x4c" /* 1, 0, 3 */
			       "\x0c\0\0\0\1\2\3\4\1\0\0\0\5\6\7\x08";
static const char snap_v1[] = "\x01\x01,\0\0\0\x04\0\0\0\0\0\0\0"
			      "\x01\x01\x04\0\0\0\0\0\0\0"
			      "\x02\0\0\0v1\0\0\0@\0\0\0\0\x03\xe7\x06k\xa4Wx5\0\0\0\0";
static const char trash_dp[] = "\x02\x01\x18\0\0\0\0\x02\0\0\0dpa\xe8\x06k\xa4\xbcS\x13"
			       "a\xe8\x06k\xa4\xbcS\x13\0";

/* A map of the states that the digits of @text are. */
static struct ceph_map map_of(const char *text)
{
	struct ceph_map map = {.count = strlen(text), .size = (strlen(text) + 3) / 4};

	map.bits = calloc(1, map.size + 1);
	for (size_t i = 0; i < map.count; i++)
		map.bits[i / 4] |= (text[i] - '0') << (6 - i % 4 * 2);
	return map;
}

static void assert_map(const struct ceph_map *map, const char *text)
{
	assert_int_equal(map->count, strlen(text));
	for (size_t i = 0; i < map->count; i++)
		assert_int_equal(ceph_map_get(map, i), text[i] - '0');
}

static void a_map_is_decoded(void **state)
{
	CLEANUP(ceph_map_fini) struct ceph_map map;

	assert_int_equal(ceph_map_decode(map_of_3, sizeof(map_of_3) - 1, &map), 0);
	assert_map(&map, "103");
	assert_int_equal(ceph_map_get(&map, 3), OBJECT_NONE);
	assert_int_equal(ceph_map_get(&map, UINT64_MAX), OBJECT_NONE);
}

static void objects_that_exist_are_counted(void **state)
{
	CLEANUP(ceph_map_fini) struct ceph_map map = map_of("1000000030200001");

	assert_int_equal(ceph_map_count(&map, 0), 0);
	assert_int_equal(ceph_map_count(&map, 1), 1);
	assert_int_equal(ceph_map_count(&map, 9), 2);
	assert_int_equal(ceph_map_count(&map, 15), 3);
	assert_int_equal(ceph_map_count(&map, UINT64_MAX), 4);
}

static void a_snapshot_is_decoded(void **state)
{
	CLEANUP(ceph_snap_fini) struct ceph_snap snap;

	assert_int_equal(ceph_snap_decode(snap_v1, sizeof(snap_v1) - 1, &snap), 0);
	assert_int_equal(snap.id, 4);
	assert_int_equal(snap.kind, SNAP_USER);
	assert_string_equal(snap.name, "v1");
	assert_int_equal(snap.size, 1 << 30);
	assert_int_equal(snap.created, 0x6b06e703);
}

static void what_is_in_the_trash_may_be_on_its_way(void **state)
{
	char spec[sizeof(trash_dp) - 1];
	bool is_removed = true;

	memcpy(spec, trash_dp, sizeof(spec));
	assert_int_equal(ceph_trash_decode(spec, sizeof(spec), &is_removed), 0);
	assert_false(is_removed);
	spec[6] = 3; /* removed, not moved to the trash */
	assert_int_equal(ceph_trash_decode(spec, sizeof(spec), &is_removed), 0);
	assert_true(is_removed);
	spec[6] = 0;
	spec[sizeof(spec) - 1] = 2; /* being removed from there */
	assert_int_equal(ceph_trash_decode(spec, sizeof(spec), &is_removed), 0);
	assert_true(is_removed);
	/* The first version ends before that. */
	spec[0] = 1;
	spec[2] = sizeof(spec) - 7;
	assert_int_equal(ceph_trash_decode(spec, sizeof(spec) - 1, &is_removed), 0);
	assert_false(is_removed);
}

/* Decode @data in all three ways. */
static void decode(const char *data, size_t size)
{
	/* A copy of the exact size, so that reading beyond it is found. */
	CLEANUP(freep) char *copy = malloc(size + 1);
	struct ceph_map map;
	struct ceph_snap snap;
	bool is_removed;

	memcpy(copy, data, size);
	if (ceph_map_decode(copy, size, &map) == 0) {
		(void)ceph_map_count(&map, UINT64_MAX);
		ceph_map_fini(&map);
	}
	if (ceph_snap_decode(copy, size, &snap) == 0)
		ceph_snap_fini(&snap);
	(void)ceph_trash_decode(copy, size, &is_removed);
}

static void what_is_cut_short_is_refused(void **state)
{
	struct ceph_map map;
	struct ceph_snap snap;
	bool is_removed;

	for (size_t size = 0; size < 19; size++)
		assert_int_equal(ceph_map_decode(map_of_3, size, &map), -EBADMSG);
	for (size_t size = 0; size < sizeof(snap_v1) - 1; size++)
		assert_int_equal(ceph_snap_decode(snap_v1, size, &snap), -EBADMSG);
	for (size_t size = 0; size < sizeof(trash_dp) - 1; size++)
		assert_int_equal(ceph_trash_decode(trash_dp, size, &is_removed),
				 -EBADMSG);
}

static void random_answers_do_no_harm(void **state)
{
	static const struct {
		const char *data;
		size_t size;
	} seeds[] = {
		{map_of_3, sizeof(map_of_3) - 1},
		{snap_v1, sizeof(snap_v1) - 1},
		{trash_dp, sizeof(trash_dp) - 1},
	};
	unsigned seed = 1;

	for (int turn = 0; turn < 100000; turn++) {
		char data[64];
		size_t size = seeds[turn % 3].size;

		memcpy(data, seeds[turn % 3].data, size);
		for (int i = rand_r(&seed) % 4; i >= 0; i--)
			data[rand_r(&seed) % size] = (char)rand_r(&seed);
		decode(data, rand_r(&seed) % (size + 1));
		decode(data, size);
	}
}

static void nothing_is_in_doubt_while_no_object_goes(void **state)
{
	CLEANUP(ceph_map_fini) struct ceph_map was = map_of("10310");
	CLEANUP(ceph_map_fini) struct ceph_map now = map_of("13111");
	struct ceph_flux flux = {0};

	assert_int_equal(ceph_flux_judge(&flux, &was, &now, 1, LIMIT_NS), 0);
	assert_map(&was, "10310");
}

static void objects_that_have_been_gone_for_a_while_were_discarded(void **state)
{
	CLEANUP(ceph_map_fini) struct ceph_map was = map_of("11111");
	CLEANUP(ceph_map_fini) struct ceph_map one = map_of("11011");
	CLEANUP(ceph_map_fini) struct ceph_map two = map_of("10011");
	struct ceph_flux flux = {0};

	assert_int_equal(ceph_flux_judge(&flux, &was, &one, 1 * MS, LIMIT_NS), -EAGAIN);
	assert_int_equal(ceph_flux_judge(&flux, &was, &one, 400 * MS, LIMIT_NS), -EAGAIN);
	/* Another one goes, and the while begins anew. */
	assert_int_equal(ceph_flux_judge(&flux, &was, &two, 500 * MS, LIMIT_NS), -EAGAIN);
	assert_int_equal(ceph_flux_judge(&flux, &was, &two, 900 * MS, LIMIT_NS), -EAGAIN);
	assert_int_equal(ceph_flux_judge(&flux, &was, &two, 1000 * MS, LIMIT_NS), 0);
	assert_map(&was, "10011");
	assert_int_equal(ceph_flux_judge(&flux, &was, &two, 1001 * MS, LIMIT_NS), 0);
}

static void objects_that_are_going_are_waited_for(void **state)
{
	CLEANUP(ceph_map_fini) struct ceph_map was = map_of("1111");
	CLEANUP(ceph_map_fini) struct ceph_map now = map_of("1222");
	struct ceph_flux flux = {0};
	int64_t ns = 1;

	for (; ns < LIMIT_NS; ns += 50 * MS)
		assert_int_equal(ceph_flux_judge(&flux, &was, &now, ns, LIMIT_NS),
				 -EAGAIN);
	assert_int_equal(ceph_flux_judge(&flux, &was, &now, ns + 50 * MS, LIMIT_NS),
			 -ESTALE);
}

static void objects_that_were_left_on_their_way_are_so(void **state)
{
	CLEANUP(ceph_map_fini) struct ceph_map was = map_of("1221");
	CLEANUP(ceph_map_fini) struct ceph_map now = map_of("1221");
	CLEANUP(ceph_map_fini) struct ceph_map gone = map_of("1220");
	struct ceph_flux flux = {0};

	assert_int_equal(ceph_flux_judge(&flux, &was, &now, 1 * MS, LIMIT_NS), -EAGAIN);
	assert_int_equal(ceph_flux_judge(&flux, &was, &now, 2900 * MS, LIMIT_NS),
			 -EAGAIN);
	assert_int_equal(ceph_flux_judge(&flux, &was, &now, 3100 * MS, LIMIT_NS), 0);
	assert_int_equal(ceph_flux_judge(&flux, &was, &now, 3200 * MS, LIMIT_NS), 0);
	assert_int_equal(ceph_flux_judge(&flux, &was, &gone, 3300 * MS, LIMIT_NS),
			 -EAGAIN);
}

static void objects_behind_the_end_of_a_smaller_map_are_gone(void **state)
{
	CLEANUP(ceph_map_fini) struct ceph_map was = map_of("11111");
	CLEANUP(ceph_map_fini) struct ceph_map now = map_of("11");
	CLEANUP(ceph_map_fini) struct ceph_map larger = map_of("1111111111");
	struct ceph_flux flux = {0};

	assert_int_equal(ceph_flux_judge(&flux, &was, &larger, 1, LIMIT_NS), 0);
	assert_int_equal(ceph_flux_judge(&flux, &was, &now, 2, LIMIT_NS), -EAGAIN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_map_is_decoded),
		cmocka_unit_test(objects_that_exist_are_counted),
		cmocka_unit_test(a_snapshot_is_decoded),
		cmocka_unit_test(what_is_in_the_trash_may_be_on_its_way),
		cmocka_unit_test(what_is_cut_short_is_refused),
		cmocka_unit_test(random_answers_do_no_harm),
		cmocka_unit_test(nothing_is_in_doubt_while_no_object_goes),
		cmocka_unit_test(objects_that_have_been_gone_for_a_while_were_discarded),
		cmocka_unit_test(objects_that_are_going_are_waited_for),
		cmocka_unit_test(objects_that_were_left_on_their_way_are_so),
		cmocka_unit_test(objects_behind_the_end_of_a_smaller_map_are_gone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
