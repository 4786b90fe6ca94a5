/* SPDX-License-Identifier: MIT */
/*
 * stats - what is counted, for each image that was opened and for the whole mount.
 *
 * Any thread; nothing is locked.  Counters only grow, gauges do not.
 */
#ifndef IMAGEFS_STATS_H
#define IMAGEFS_STATS_H

#include <stdatomic.h>
#include <stdint.h>

enum counter {
	COUNT_READS, /* the kernel's, that were answered, however */
	COUNT_BYTES, /* that they were answered with */
	COUNT_RING, /* reads answered at once with what a stream held */
	COUNT_PARKED, /* reads that waited for a stream */
	COUNT_RANDOM, /* reads that were asked for by themselves */
	COUNT_HOLES, /* reads answered with zeros, without the store */
	COUNT_ERRORS, /* reads that failed; an interrupted one is none of these */
	COUNT_RECEIVED, /* bytes that store programs sent */
	COUNT_SKIPPED, /* of them, bytes that were thrown away to get to what was wanted */
	COUNT_STARTED, /* store programs that were started to read */
	COUNT_RESTARTED, /* of them, those started again after one had failed */
	COUNT_STALLED, /* store programs that were killed at the stall limit */
	COUNT_RUNNING, /* gauge: store programs that run */
	COUNT_OPEN, /* gauge: open files */
	COUNT_WAITED_US, /* the sum of all waits, microseconds */
	COUNT_WAITS, /* the first of STATS_WAITS: waits by their time */
};

/* The upper ends of the waits that are counted together, in microseconds; then the rest. */
#define STATS_WAIT_ENDS_US                                  \
	{                                                   \
		100, 1000, 10000, 100000, 1000000, 10000000 \
	}
#define STATS_WAITS 7
#define COUNTERS (COUNT_WAITS + STATS_WAITS)

struct stats {
	atomic_uint_least64_t values[COUNTERS];
};

/* Add @n to @counter of each of the two; @image may be NULL. */
void stats_add(struct stats *all, struct stats *image, enum counter counter, uint64_t n);
void stats_subtract(struct stats *all, struct stats *image, enum counter counter,
		    uint64_t n);

/* Count a read that was answered after @wait_us microseconds. */
void stats_add_wait(struct stats *all, struct stats *image, uint64_t wait_us);

uint64_t stats_get(const struct stats *stats, int counter);

#endif
