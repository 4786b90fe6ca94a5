/* SPDX-License-Identifier: MIT */
/*
 * top - the figures of a mount for people: as a table, as JSON, or live on a terminal.
 */
#ifndef IMAGEFS_TOP_H
#define IMAGEFS_TOP_H

#include <stdbool.h>
#include <stdio.h>

#include "figures.h"

/* A terminal, and what is shown on it. */
struct top_view {
	const char *mountpoint;
	int columns, rows;
	bool colours;
};

/*
 * One screen: what changed between @before and @now, a second or so later, as rates, with
 * a bar for each open image that says where it is read; those that are read most come
 * first.  @before may be NULL.  Each line ends with the sequence that clears the rest of
 * it.  Returns 0 or -ENOMEM.
 */
int top_screen(FILE *out, const struct top_view *view, const struct figures *now,
	       const struct figures *before);

/* All that was counted since the mount: a row for it, and one for each image. */
void top_table(FILE *out, const struct figures *figures);

/* The same, and the histograms, as one JSON object.  Returns 0 or a negative errno. */
int top_json(FILE *out, const char *mountpoint, const struct figures *figures);

/*
 * Show the figures of the mount at @mountpoint on standard output: live, until q or a
 * signal ends it, if that is a terminal and neither @once nor @json is set; else once.
 * Returns 0 or a negative errno, having logged why.
 */
int top_show(const char *mountpoint, bool once, bool json);

#endif
