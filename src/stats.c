/* SPDX-License-Identifier: MIT */
#include <stddef.h>

#include "stats.h"

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

void stats_add_wait(struct stats *all, struct stats *image, uint64_t wait_us)
{
	static const uint64_t ends[] = STATS_WAIT_ENDS_US;
	int bucket = 0;

	while (bucket < STATS_WAITS - 1 && wait_us > ends[bucket])
		bucket++;
	stats_add(all, image, COUNT_WAITED_US, wait_us);
	stats_add(all, image, COUNT_WAITS + bucket, 1);
}

uint64_t stats_get(const struct stats *stats, int counter)
{
	return atomic_load_explicit(&stats->values[counter], memory_order_relaxed);
}
