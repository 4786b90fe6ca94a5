/* SPDX-License-Identifier: MIT */
#include <stddef.h>

#include "stats.h"

const struct metric stats_metrics[] = {
	[COUNT_READS] = {"reads_total", "counter", "Reads that were answered."},
	[COUNT_BYTES] = {"read_bytes_total", "counter", "Bytes that they were given."},
	[COUNT_RING] = {"reads_ring_total", "counter",
			"Reads answered at once, from what a stream held."},
	[COUNT_PARKED] = {"reads_parked_total", "counter",
			  "Reads that waited for a stream."},
	[COUNT_PASSED] = {"reads_passed_total", "counter",
			  "Of them, reads answered from pipe to pipe."},
	[COUNT_RANDOM] = {"reads_random_total", "counter",
			  "Reads that were asked for by themselves."},
	[COUNT_HOLES] = {"reads_hole_total", "counter",
			 "Reads answered with zeros, without the store."},
	[COUNT_ERRORS] = {"read_errors_total", "counter", "Reads that failed."},
	[COUNT_RECEIVED] = {"store_bytes_total", "counter",
			    "Bytes that store programs sent."},
	[COUNT_SKIPPED] = {"skipped_bytes_total", "counter",
			   "Of them, bytes that were thrown away."},
	[COUNT_STARTED] = {"programs_started_total", "counter",
			   "Store programs that were started to read."},
	[COUNT_RESTARTED] = {"programs_restarted_total", "counter",
			     "Of them, those started again after a failure."},
	[COUNT_STALLED] = {"programs_stalled_total", "counter",
			   "Store programs that were ended at the stall limit."},
	[COUNT_RUNNING] = {"programs_running", "gauge",
			   "Store programs that run, to read."},
	[COUNT_OPEN] = {"open_files", "gauge", "Open files."},
	[COUNT_MEMORY] = {"memory_bytes", "gauge", "Memory that readers hold."},
};

static void add(struct stats *stats, int counter, uint64_t n)
{
	if (stats)
		atomic_fetch_add_explicit(&stats->values[counter], n,
					  memory_order_relaxed);
}

void stats_add(struct stats *all, struct stats *image, enum counter counter, uint64_t n)
{
	add(all, counter, n);
	add(image, counter, n);
}

void stats_subtract(struct stats *all, struct stats *image, enum counter counter,
		    uint64_t n)
{
	/* Wraps around to what is meant. */
	stats_add(all, image, counter, -n);
}

void stats_set(struct stats *image, enum counter counter, uint64_t value)
{
	if (image)
		atomic_store_explicit(&image->values[counter], value,
				      memory_order_relaxed);
}

void stats_add_time(struct stats *all, struct stats *image, enum counter first,
		    uint64_t time_us)
{
	static const uint64_t ends[] = STATS_BUCKET_ENDS_US;
	int bucket = 0;

	while (bucket < STATS_BUCKETS - 1 && time_us > ends[bucket])
		bucket++;
	stats_add(all, image, first + bucket, 1);
	stats_add(all, image, first + STATS_BUCKETS, time_us);
}

uint64_t stats_get(const struct stats *stats, int counter)
{
	return atomic_load_explicit(&stats->values[counter], memory_order_relaxed);
}
