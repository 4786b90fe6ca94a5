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

/*
 * A histogram of times: a counter for each bucket, up to these ends in microseconds, then
 * the rest; and the sum of all in microseconds.
 */
#define STATS_BUCKET_ENDS_US                                          \
	{                                                             \
		100, 1000, 10000, 100000, 1000000, 10000000, 30000000 \
	}
#define STATS_BUCKETS 8

enum counter {
	COUNT_READS, /* the kernel's, that were answered, however */
	COUNT_BYTES, /* that they were answered with */
	COUNT_RING, /* reads answered at once with what a stream held */
	COUNT_PARKED, /* reads that waited for a stream */
	COUNT_PASSED, /* of them, those that were answered from pipe to pipe */
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
	COUNT_MEMORY, /* gauge: bytes that readers hold */
	COUNT_PLAIN, /* how many there are of those above */
	COUNT_POSITION = COUNT_PLAIN, /* gauge, of an image: where the last read ended */
	COUNT_WAITS, /* the first of a histogram: of all reads */
	COUNT_STALLS = COUNT_WAITS + STATS_BUCKETS + 1, /* of those that waited */
	COUNTERS = COUNT_STALLS + STATS_BUCKETS + 1,
};

/* What those before COUNT_PLAIN are called, without a prefix, and what is said of them. */
struct metric {
	const char *name;
	const char *type; /* as Prometheus calls it */
	const char *help;
};

extern const struct metric stats_metrics[COUNT_PLAIN];

struct stats {
	atomic_uint_least64_t values[COUNTERS];
};

/* Add @n to @counter of each of the two; @image may be NULL. */
void stats_add(struct stats *all, struct stats *image, enum counter counter, uint64_t n);
void stats_subtract(struct stats *all, struct stats *image, enum counter counter,
		    uint64_t n);

/* Set a gauge of an image; @image may be NULL. */
void stats_set(struct stats *image, enum counter counter, uint64_t value);

/* Count a time in the histogram that begins at @first. */
void stats_add_time(struct stats *all, struct stats *image, enum counter first,
		    uint64_t time_us);

uint64_t stats_get(const struct stats *stats, int counter);

#endif
