/* SPDX-License-Identifier: MIT */
#include "kit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "pattern.h"
#include "ring.h"

#define SIZE 4096

/* Put the next @length bytes of the pattern. */
static void put(struct ring *ring, size_t length)
{
	uint64_t offset = ring->head;
	struct iovec iov[2];
	int count = ring_space(ring, length, iov);

	for (int i = 0; i < count; i++) {
		pattern_fill(iov[i].iov_base, offset, iov[i].iov_len);
		offset += iov[i].iov_len;
	}
	assert_int_equal(offset - ring->head, length);
	ring_put(ring, length);
}

static void assert_holds(const struct ring *ring, uint64_t offset, size_t length)
{
	struct iovec iov[2];
	int count = ring_get(ring, offset, length, iov);
	size_t size = 0;

	assert_true(count == 1 || count == 2);
	for (int i = 0; i < count; i++) {
		assert_true(pattern_is(iov[i].iov_base, offset + size, iov[i].iov_len));
		size += iov[i].iov_len;
	}
	assert_int_equal(size, length);
}

static void a_size_that_is_not_of_whole_pages_is_refused(void **state)
{
	static const size_t sizes[] = {0, 1, 3, 1000, SIZE - 1, SIZE + 1, SIZE_MAX};
	struct ring ring = {.size = 42};

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
		assert_int_equal(ring_init(&ring, sizes[i], 0), -EINVAL);
	assert_int_equal(ring.size, 42);
}

static void more_than_there_is_memory_is_refused(void **state)
{
	struct ring ring = {.size = 42};

	assert_int_equal(ring_init(&ring, (size_t)1 << 62, 0), -ENOMEM);
	assert_int_equal(ring.size, 42);
}

static void a_new_ring_is_empty_at_its_start(void **state)
{
	struct ring ring;

	assert_int_equal(ring_init(&ring, SIZE, 12345), 0);
	assert_true(ring.kept == 12345 && ring.head == 12345);
	assert_int_equal(ring_room(&ring), SIZE);
	ring_fini(&ring);
}

static void what_was_put_is_got(void **state)
{
	struct ring ring;

	assert_int_equal(ring_init(&ring, SIZE, 100), 0);
	put(&ring, 1000);
	assert_int_equal(ring_room(&ring), SIZE - 1000);
	assert_holds(&ring, 100, 1000);
	assert_holds(&ring, 1099, 1);
	assert_holds(&ring, 600, 0);
	ring_fini(&ring);
}

static void a_full_ring_has_no_room(void **state)
{
	struct ring ring;

	assert_int_equal(ring_init(&ring, SIZE, 777), 0);
	put(&ring, SIZE);
	assert_int_equal(ring_room(&ring), 0);
	assert_holds(&ring, 777, SIZE);
	ring_fini(&ring);
}

static void bytes_that_wrap_come_in_two_pieces(void **state)
{
	struct ring ring;
	struct iovec iov[2];

	assert_int_equal(ring_init(&ring, SIZE, 0), 0);
	put(&ring, SIZE - 10);
	ring_drop(&ring, SIZE - 10);
	assert_int_equal(ring_space(&ring, 10, iov), 1);
	assert_int_equal(ring_space(&ring, 11, iov), 2);
	assert_int_equal(iov[0].iov_len, 10);
	assert_int_equal(iov[1].iov_len, 1);
	put(&ring, 100);
	assert_int_equal(ring_get(&ring, SIZE - 10, 100, iov), 2);
	assert_holds(&ring, SIZE - 10, 100);
	assert_int_equal(ring_get(&ring, SIZE, 50, iov), 1);
	assert_holds(&ring, SIZE, 50);
	ring_fini(&ring);
}

static void what_is_dropped_makes_room(void **state)
{
	struct ring ring;

	assert_int_equal(ring_init(&ring, SIZE, 0), 0);
	put(&ring, SIZE);
	ring_drop(&ring, 100);
	assert_int_equal(ring.kept, 100);
	assert_int_equal(ring_room(&ring), 100);
	assert_holds(&ring, 100, SIZE - 100);
	ring_drop(&ring, ring.head);
	assert_int_equal(ring_room(&ring), SIZE);
	ring_fini(&ring);
}

static void what_was_dropped_does_not_come_back(void **state)
{
	struct ring ring;

	assert_int_equal(ring_init(&ring, SIZE, 50), 0);
	put(&ring, 1000);
	ring_drop(&ring, 500);
	ring_drop(&ring, 0);
	ring_drop(&ring, 499);
	assert_int_equal(ring.kept, 500);
	ring_fini(&ring);
}

static void the_newest_bytes_can_be_taken_back(void **state)
{
	struct ring ring;

	assert_int_equal(ring_init(&ring, SIZE, 0), 0);
	put(&ring, 1000);
	ring_rewind(&ring, 600);
	assert_int_equal(ring.head, 600);
	assert_int_equal(ring_room(&ring), SIZE - 600);
	put(&ring, 200);
	assert_holds(&ring, 0, 800);
	ring_rewind(&ring, 0);
	assert_int_equal(ring_room(&ring), SIZE);
	ring_fini(&ring);
}

static void offsets_of_the_largest_image_are_held(void **state)
{
	uint64_t start = (uint64_t)INT64_MAX - 100;
	struct ring ring;

	assert_int_equal(ring_init(&ring, SIZE, start), 0);
	put(&ring, 100);
	assert_true(ring.head == INT64_MAX);
	assert_holds(&ring, start, 100);
	ring_fini(&ring);
}

static void a_size_that_is_no_power_of_two_works(void **state)
{
	struct ring ring;

	assert_int_equal(ring_init(&ring, 3 * SIZE, 7), 0);
	for (int i = 0; i < 40; i++) {
		put(&ring, SIZE + 1000);
		assert_holds(&ring, ring.kept, ring.head - ring.kept);
		ring_drop(&ring, ring.head - SIZE);
	}
	ring_fini(&ring);
}

static void a_ring_that_grows_keeps_all(void **state)
{
	struct ring ring;

	assert_int_equal(ring_init(&ring, SIZE, 1000), 0);
	put(&ring, SIZE);
	assert_int_equal(ring_resize(&ring, 3 * SIZE), 0);
	assert_int_equal(ring_room(&ring), 2 * SIZE);
	put(&ring, 2 * SIZE);
	assert_holds(&ring, 1000, 3 * SIZE);
	ring_fini(&ring);
}

static void a_ring_that_shrinks_keeps_the_newest(void **state)
{
	struct ring ring;

	assert_int_equal(ring_init(&ring, 4 * SIZE, 1000), 0);
	put(&ring, 4 * SIZE);
	ring_drop(&ring, 3000);
	put(&ring, 1500);
	assert_int_equal(ring_resize(&ring, SIZE), 0);
	assert_true(ring.head == 1000 + 4 * SIZE + 1500);
	assert_holds(&ring, ring.head - SIZE, SIZE);
	assert_int_equal(ring_resize(&ring, SIZE + 1), -EINVAL);
	assert_holds(&ring, ring.head - SIZE, SIZE);
	ring_fini(&ring);
}

static void memory_is_given_back_once(void **state)
{
	struct ring ring = {0};

	ring_fini(&ring);
	assert_int_equal(ring_init(&ring, SIZE, 0), 0);
	ring_fini(&ring);
	assert_null(ring.data);
	ring_fini(&ring);
}

/* Against the pattern: any order of calls, from a fixed seed. */
static void whatever_the_order_what_is_held_is_right(void **state)
{
	unsigned int seed = 1;
	struct ring ring;

	assert_int_equal(ring_init(&ring, SIZE, 123456789), 0);
	for (int i = 0; i < 3000; i++) {
		uint64_t held = ring.head - ring.kept;
		size_t part = (size_t)rand_r(&seed);

		switch (rand_r(&seed) % 4) {
		case 0:
			ring_drop(&ring, ring.kept + part % (held + 1));
			break;
		case 1:
			ring_rewind(&ring, ring.head - part % (held / 8 + 1));
			break;
		default:
			put(&ring, part % (ring_room(&ring) + 1));
		}
		held = ring.head - ring.kept;
		assert_int_equal(ring_room(&ring), SIZE - held);
		assert_holds(&ring, ring.kept, (size_t)held);
	}
	ring_fini(&ring);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_size_that_is_not_of_whole_pages_is_refused),
		cmocka_unit_test(more_than_there_is_memory_is_refused),
		cmocka_unit_test(a_new_ring_is_empty_at_its_start),
		cmocka_unit_test(what_was_put_is_got),
		cmocka_unit_test(a_full_ring_has_no_room),
		cmocka_unit_test(bytes_that_wrap_come_in_two_pieces),
		cmocka_unit_test(what_is_dropped_makes_room),
		cmocka_unit_test(what_was_dropped_does_not_come_back),
		cmocka_unit_test(the_newest_bytes_can_be_taken_back),
		cmocka_unit_test(offsets_of_the_largest_image_are_held),
		cmocka_unit_test(a_size_that_is_no_power_of_two_works),
		cmocka_unit_test(a_ring_that_grows_keeps_all),
		cmocka_unit_test(a_ring_that_shrinks_keeps_the_newest),
		cmocka_unit_test(memory_is_given_back_once),
		cmocka_unit_test(whatever_the_order_what_is_held_is_right),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
