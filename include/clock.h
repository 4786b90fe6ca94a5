/* SPDX-License-Identifier: MIT */
/*
 * clock - the time that waits are counted in: CLOCK_MONOTONIC, in milliseconds.
 */
#ifndef IMAGEFS_CLOCK_H
#define IMAGEFS_CLOCK_H

#include <pthread.h>
#include <stdint.h>

#define NSEC_PER_MSEC 1000000
#define NSEC_PER_USEC 1000

uint64_t clock_ms(void);

/* The same in microseconds, for what is measured. */
uint64_t clock_us(void);

/* Initialize @cond so that cond_wait_until() can be used on it.  Cannot fail. */
void cond_init(pthread_cond_t *cond);

/*
 * Wait for @cond, which cond_init() made, until clock_ms() is @deadline_ms at the latest.
 * The caller holds @mutex.  Returns 0 or -ETIMEDOUT.
 */
int cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *mutex, uint64_t deadline_ms);

/* For poll(2): the time left until @deadline_ms, 0 if it is over, an hour at most. */
int clock_left_ms(uint64_t deadline_ms);

#endif
