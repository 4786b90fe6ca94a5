/* SPDX-License-Identifier: MIT */
#include "kit.h"

#include <errno.h>
#include <string.h>

#include "clock.h"

#define HOUR_MS 3600000

static void time_does_not_go_back(void **state)
{
	uint64_t last = clock_ms();

	for (int i = 0; i < 100000; i++) {
		uint64_t now = clock_ms();

		assert_true(now >= last);
		last = now;
	}
}

static void nothing_is_left_of_a_time_that_is_over(void **state)
{
	assert_int_equal(clock_left_ms(0), 0);
	assert_int_equal(clock_left_ms(clock_ms()), 0);
	assert_int_equal(clock_left_ms(clock_ms() - 1), 0);
}

static void what_is_left_is_not_more_than_there_was(void **state)
{
	int left = clock_left_ms(clock_ms() + 60000);

	assert_true(left >= 0 && left <= 60000);
}

static void no_more_than_an_hour_is_left(void **state)
{
	assert_int_equal(clock_left_ms(clock_ms() + UINT64_C(100) * HOUR_MS), HOUR_MS);
	assert_int_equal(clock_left_ms(UINT64_MAX), HOUR_MS);
}

/* What a thread signals, and what waits for it. */
struct signal {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool come;
};

static void signal_init(struct signal *signal)
{
	*signal = (struct signal){.lock = PTHREAD_MUTEX_INITIALIZER};
	cond_init(&signal->cond);
}

static void *give_signal(void *context)
{
	struct signal *signal = context;

	pthread_mutex_lock(&signal->lock);
	signal->come = true;
	pthread_cond_signal(&signal->cond);
	pthread_mutex_unlock(&signal->lock);
	return NULL;
}

static void a_wait_ends_at_its_deadline_and_not_before(void **state)
{
	struct signal signal;
	uint64_t deadline = clock_ms() + 30;
	int ret;

	signal_init(&signal);
	pthread_mutex_lock(&signal.lock);
	do {
		ret = cond_wait_until(&signal.cond, &signal.lock, deadline);
	} while (!ret);
	assert_int_equal(ret, -ETIMEDOUT);
	assert_true(clock_ms() >= deadline);
	/* The caller holds it again. */
	assert_int_equal(pthread_mutex_trylock(&signal.lock), EBUSY);
	pthread_mutex_unlock(&signal.lock);
	pthread_cond_destroy(&signal.cond);
}

static void a_wait_for_a_time_that_is_over_ends(void **state)
{
	struct signal signal;

	signal_init(&signal);
	pthread_mutex_lock(&signal.lock);
	assert_int_equal(cond_wait_until(&signal.cond, &signal.lock, 0), -ETIMEDOUT);
	pthread_mutex_unlock(&signal.lock);
	pthread_cond_destroy(&signal.cond);
}

static void a_signal_ends_a_wait(void **state)
{
	struct signal signal;
	pthread_t thread;
	int ret = 0;

	signal_init(&signal);
	pthread_mutex_lock(&signal.lock);
	assert_int_equal(pthread_create(&thread, NULL, give_signal, &signal), 0);
	while (!signal.come && !ret)
		ret = cond_wait_until(&signal.cond, &signal.lock, clock_ms() + LIMIT_MS);
	assert_int_equal(ret, 0);
	pthread_mutex_unlock(&signal.lock);
	pthread_join(thread, NULL);
	pthread_cond_destroy(&signal.cond);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(time_does_not_go_back),
		cmocka_unit_test(nothing_is_left_of_a_time_that_is_over),
		cmocka_unit_test(what_is_left_is_not_more_than_there_was),
		cmocka_unit_test(no_more_than_an_hour_is_left),
		cmocka_unit_test(a_wait_ends_at_its_deadline_and_not_before),
		cmocka_unit_test(a_wait_for_a_time_that_is_over_ends),
		cmocka_unit_test(a_signal_ends_a_wait),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
