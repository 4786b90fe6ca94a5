/* SPDX-License-Identifier: MIT */
/*
 * figures - what .imagefs/stats in a mount said at one time, read back from its text.
 */
#ifndef IMAGEFS_FIGURES_H
#define IMAGEFS_FIGURES_H

#include <stddef.h>
#include <stdint.h>

#include "stats.h"

/* Those that are one number: first the counters of stats_metrics. */
enum figure {
	FIGURE_IMAGES = COUNT_PLAIN, /* of the mount, as the two that follow */
	FIGURE_MEMORY_LIMIT,
	FIGURE_STREAMS,
	FIGURE_SIZE, /* of an image, as the next */
	FIGURE_POSITION,
	FIGURES,
};

/* What a figure is called in the text, but for the prefix. */
const char *figure_name(int figure);

struct histogram {
	uint64_t buckets[STATS_BUCKETS]; /* up to each end: the last is the count */
	double seconds; /* the sum */
};

struct figure_set {
	char *image; /* a file name, printable; NULL: the mount */
	char *old_id; /* of a version that is listed no more; else NULL */
	uint64_t values[FIGURES];
	struct histogram waits, stalls;
};

struct figures {
	uint64_t taken_us; /* when (clock.h); the caller's to set */
	char *store; /* its URI */
	struct figure_set mount;
	struct figure_set *images;
	size_t count;
};

/*
 * Read the text.  What is not known is passed over.  The caller frees *@ret_figures.
 * Returns 0, -EBADMSG (the text is not of this form) or -ENOMEM.
 */
int figures_parse(const char *text, struct figures **ret_figures);

/* The figures of the image that @set is of, or NULL. */
const struct figure_set *figures_find(const struct figures *figures,
				      const struct figure_set *set);

/* NULL is taken. */
void figures_free(struct figures *figures);

#endif
