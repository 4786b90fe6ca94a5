/* SPDX-License-Identifier: MIT */
#include <assert.h>
#include <time.h>

#include "cleanup.h"
#include "clock.h"

#define MSEC_PER_SEC 1000
#define USEC_PER_SEC 1000000
#define LONGEST_MS (3600 * MSEC_PER_SEC)

uint64_t clock_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * MSEC_PER_SEC +
	       (uint64_t)now.tv_nsec / NSEC_PER_MSEC;
}

uint64_t clock_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * USEC_PER_SEC +
	       (uint64_t)now.tv_nsec / NSEC_PER_USEC;
}

void cond_init(pthread_cond_t *cond)
{
	pthread_condattr_t attr;
	int err;

	pthread_condattr_init(&attr);
	err = pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	assert(!err);
	err = pthread_cond_init(cond, &attr);
	assert(!err);
	(void)err;
	pthread_condattr_destroy(&attr);
}

int cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *mutex, uint64_t deadline_ms)
{
	struct timespec until = {
		.tv_sec = (time_t)(deadline_ms / MSEC_PER_SEC),
		.tv_nsec = (long)(deadline_ms % MSEC_PER_SEC) * NSEC_PER_MSEC,
	};

	return -pthread_cond_timedwait(cond, mutex, &until);
}

int clock_left_ms(uint64_t deadline_ms)
{
	uint64_t now = clock_ms();

	if (now >= deadline_ms)
		return 0;
	return (int)MIN(deadline_ms - now, (uint64_t)LONGEST_MS);
}
