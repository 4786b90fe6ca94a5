/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "show.h"
#include "terminal.h"
#include "top.h"

#define CLEAR_REST "\x1b[K"
#define USEC_PER_SEC 1e6
#define BAR_MAX 30
#define NAME_MIN 12
#define FIXED_COLUMNS 52 /* of an image's line: all but its name and the bar */
#define HEAD_ROWS 6
#define FREE_ROWS 1 /* the last, so that nothing scrolls */
#define PERCENT 100

/* ---- one screen ---- */

/* A row: an image, with how much was read of it in a second. */
struct row {
	const struct figure_set *now, *before;
	double rate;
};

/* By how much a counter grew in a second; what began meanwhile began at 0. */
static double rate_of(const struct figure_set *now, const struct figure_set *before,
		      int figure, double seconds)
{
	uint64_t last = before ? before->values[figure] : 0;

	if (seconds <= 0 || now->values[figure] < last)
		return 0;
	return (double)(now->values[figure] - last) / seconds;
}

static void print_rate(FILE *out, const struct figure_set *now,
		       const struct figure_set *before, int figure, double seconds)
{
	char size[SHOW_SIZE_ROOM];

	show_size(size, (uint64_t)rate_of(now, before, figure, seconds), false);
	fprintf(out, " %6s/s", seconds > 0 ? size : "-");
}

/* How many of the reads were answered at once. */
static void print_share(FILE *out, const struct figure_set *now,
			const struct figure_set *before, double seconds)
{
	double all = rate_of(now, before, COUNT_READS, seconds);
	double ring = rate_of(now, before, COUNT_RING, seconds) +
		      rate_of(now, before, COUNT_HOLES, seconds);

	if (all > 0)
		fprintf(out, " %4.0f%%", PERCENT * MIN(ring / all, 1.0));
	else
		fputs("     -", out);
}

static void print_bar(FILE *out, const struct figure_set *set, int width)
{
	uint64_t size = set->values[FIGURE_SIZE];
	double part = size ? (double)set->values[FIGURE_POSITION] / (double)size : 0;
	int full;

	part = MIN(part, 1.0);
	full = (int)(part * width);
	fputc('[', out);
	for (int i = 0; i < width; i++)
		fputc(i < full ? '#' : '.', out);
	fprintf(out, "] %3.0f%%", PERCENT * part);
}

/* A name in @width columns; a long one is cut before a character, and ends in '+'. */
static void print_name(FILE *out, const char *name, int width)
{
	int columns = show_columns(name);

	if (columns <= width) {
		fprintf(out, "%s%*s", name, width - columns, "");
		return;
	}
	for (columns = 0; columns < width - 1; columns++) {
		fputc(*name++, out);
		while ((*name & 0xc0) == 0x80)
			fputc(*name++, out);
	}
	fputc('+', out);
}

static int compare_rows(const void *a, const void *b)
{
	const struct row *x = a, *y = b;

	if (x->rate != y->rate)
		return x->rate > y->rate ? -1 : 1;
	return strcmp(x->now->image, y->now->image);
}

/* The images that are open, those that are read most first. */
static struct row *make_rows(const struct figures *now, const struct figures *before,
			     double seconds, size_t *ret_count)
{
	struct row *rows = calloc(now->count + 1, sizeof(*rows));
	size_t count = 0;

	for (size_t i = 0; rows && i < now->count; i++) {
		const struct figure_set *set = &now->images[i];

		if (!set->values[COUNT_OPEN])
			continue;
		rows[count] = (struct row){
			.now = set,
			.before = before ? figures_find(before, set) : NULL,
		};
		rows[count].rate = rate_of(set, rows[count].before, COUNT_BYTES, seconds);
		count++;
	}
	if (rows)
		qsort(rows, count, sizeof(*rows), compare_rows);
	*ret_count = count;
	return rows;
}

static void print_head(FILE *out, const struct top_view *view, const struct figures *now,
		       const struct figures *before, double seconds)
{
	const struct figure_set *mount = &now->mount,
				*last = before ? &before->mount : NULL;
	char memory[SHOW_SIZE_ROOM], limit[SHOW_SIZE_ROOM];
	const uint64_t *values = mount->values;

	show_size(memory, values[COUNT_MEMORY], false);
	show_size(limit, values[FIGURE_MEMORY_LIMIT], false);
	print_name(out, view->mountpoint,
		   MIN(view->columns / 2, show_columns(view->mountpoint)));
	fputs(": ", out);
	print_name(out, now->store, MIN(view->columns / 2 - 2, show_columns(now->store)));
	fprintf(out,
		CLEAR_REST "\n%" PRIu64 " images, %" PRIu64 " open files, %" PRIu64
			   " store programs, memory %s of %s" CLEAR_REST "\nread",
		values[FIGURE_IMAGES], values[COUNT_OPEN], values[COUNT_RUNNING], memory,
		limit);
	print_rate(out, mount, last, COUNT_BYTES, seconds);
	fputs(", of the store", out);
	print_rate(out, mount, last, COUNT_RECEIVED, seconds);
	fputs(", from the ring", out);
	print_share(out, mount, last, seconds);
	fprintf(out,
		CLEAR_REST "\n%" PRIu64 " reads failed, %" PRIu64
			   " programs started again, %" PRIu64 " stalled" CLEAR_REST
			   "\n" CLEAR_REST "\n",
		values[COUNT_ERRORS], values[COUNT_RESTARTED], values[COUNT_STALLED]);
}

static void print_row(FILE *out, const struct row *row, int name, int bar, double seconds)
{
	const uint64_t *values = row->now->values;
	char memory[SHOW_SIZE_ROOM];

	show_size(memory, values[COUNT_MEMORY], false);
	print_name(out, row->now->image, name);
	fputc(' ', out);
	print_bar(out, row->now, bar);
	print_rate(out, row->now, row->before, COUNT_BYTES, seconds);
	print_rate(out, row->now, row->before, COUNT_RECEIVED, seconds);
	print_share(out, row->now, row->before, seconds);
	fprintf(out, " %5" PRIu64 " %6s %6" PRIu64 CLEAR_REST "\n", values[COUNT_RUNNING],
		memory, values[COUNT_ERRORS]);
}

int top_screen(FILE *out, const struct top_view *view, const struct figures *now,
	       const struct figures *before)
{
	double seconds =
		before ? (double)(now->taken_us - before->taken_us) / USEC_PER_SEC : 0;
	int room = MAX(view->columns - FIXED_COLUMNS, NAME_MIN + 2);
	int bar = MIN(room / 2, BAR_MAX), name = room - bar;
	size_t count, rows = (size_t)MAX(view->rows - HEAD_ROWS - FREE_ROWS, 0);
	CLEANUP(freep) struct row *images = make_rows(now, before, seconds, &count);

	if (!images)
		return -ENOMEM;
	print_head(out, view, now, before, seconds);
	fprintf(out, "%s%-*s %-*s %8s %8s %5s %5s %6s %6s%s" CLEAR_REST "\n",
		view->colours ? TERMINAL_BOLD : "", name, "IMAGE", bar + 7, "POSITION",
		"READ", "STORE", "RING", "PROGS", "MEMORY", "ERRORS",
		view->colours ? TERMINAL_OFF : "");
	for (size_t i = 0; i < MIN(count, rows); i++)
		print_row(out, &images[i], name, bar, seconds);
	return 0;
}

/* ---- all at once ---- */

static void print_totals(FILE *out, const struct figure_set *set, int width)
{
	static const int sizes[] = {COUNT_BYTES, COUNT_RECEIVED, COUNT_SKIPPED,
				    COUNT_MEMORY};
	static const int counts[] = {
		COUNT_READS,  COUNT_RING, COUNT_PARKED,	 COUNT_RANDOM,	  COUNT_HOLES,
		COUNT_ERRORS, COUNT_OPEN, COUNT_RUNNING, COUNT_RESTARTED, COUNT_STALLED};
	const char *name = set->image ? set->image : "(all)";

	fprintf(out, "%s%*s", name, MAX(width - show_columns(name), 0), "");
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		char size[SHOW_SIZE_ROOM];

		show_size(size, set->values[sizes[i]], false);
		fprintf(out, " %7s", size);
	}
	for (size_t i = 0; i < ARRAY_SIZE(counts); i++)
		fprintf(out, " %8" PRIu64, set->values[counts[i]]);
	fprintf(out, " %9.3f\n", set->stalls.seconds);
}

void top_table(FILE *out, const struct figures *figures)
{
	int width = 5;

	for (size_t i = 0; i < figures->count; i++)
		width = MAX(width, show_columns(figures->images[i].image));
	fprintf(out, "%-*s %7s %7s %7s %7s %8s %8s %8s %8s %8s %8s %8s %8s %8s %8s %9s\n",
		width, "IMAGE", "READ", "STORE", "SKIPPED", "MEMORY", "READS", "RING",
		"PARKED", "RANDOM", "HOLES", "ERRORS", "OPEN", "PROGRAMS", "RESTARTS",
		"STALLED", "STALL-S");
	print_totals(out, &figures->mount, width);
	for (size_t i = 0; i < figures->count; i++)
		print_totals(out, &figures->images[i], width);
}

/* ---- JSON ---- */

static int set_histogram(json_t *json, const char *name,
			 const struct histogram *histogram)
{
	static const uint64_t ends[] = STATS_BUCKET_ENDS_US;
	json_t *object = json_object(), *buckets = json_object();
	uint64_t count = histogram->buckets[STATS_BUCKETS - 1];
	int ret = json_object_set_new(json, name, object);

	ret |= json_object_set_new(object, "count", json_integer((json_int_t)count));
	ret |= json_object_set_new(object, "sum", json_real(histogram->seconds));
	ret |= json_object_set_new(object, "buckets", buckets);
	for (int i = 0; i < STATS_BUCKETS; i++) {
		char le[32] = "+Inf";

		if (i < STATS_BUCKETS - 1)
			snprintf(le, sizeof(le), "%g", (double)ends[i] / USEC_PER_SEC);
		ret |= json_object_set_new(
			buckets, le, json_integer((json_int_t)histogram->buckets[i]));
	}
	return ret;
}

static json_t *json_of(const struct figure_set *set)
{
	json_t *json = json_object();
	int ret = 0;

	if (set->image)
		ret |= json_object_set_new(json, "image", json_string(set->image));
	if (set->old_id)
		ret |= json_object_set_new(json, "old_id", json_string(set->old_id));
	for (int i = 0; i < FIGURES; i++) {
		bool of_mount = i >= FIGURE_IMAGES && i <= FIGURE_STREAMS;

		if (i < COUNT_PLAIN || of_mount == !set->image)
			ret |= json_object_set_new(
				json, figure_name(i),
				json_integer((json_int_t)set->values[i]));
	}
	ret |= set_histogram(json, "read_wait_seconds", &set->waits);
	ret |= set_histogram(json, "stall_seconds", &set->stalls);
	if (!ret)
		return json;
	json_decref(json);
	return NULL;
}

int top_json(FILE *out, const char *mountpoint, const struct figures *figures)
{
	json_t *json = json_object(), *images = json_array();
	int ret = json_object_set_new(json, "store", json_string(figures->store));

	ret |= show_set_text(json, "mountpoint", mountpoint);
	ret |= json_object_set_new(json, "mount", json_of(&figures->mount));
	ret |= json_object_set_new(json, "images", images);
	for (size_t i = 0; i < figures->count; i++)
		ret |= json_array_append_new(images, json_of(&figures->images[i]));
	ret = ret ? -ENOMEM : 0;
	if (!ret && (json_dumpf(json, out, JSON_COMPACT) || fputc('\n', out) == EOF))
		ret = -EIO;
	json_decref(json);
	return ret;
}
