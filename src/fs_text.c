/* SPDX-License-Identifier: MIT */
/*
 * fs_text - what the files of the hidden folder say.
 *
 * The figures are in the text format of Prometheus, version 0.0.4: those of the mount,
 * then the same for each image that was opened since it was last listed anew.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cleanup.h"
#include "fs-session.h"
#include "log.h"
#include "text.h"

#define USEC_PER_SEC 1e6

/* Each counter: its name, and what is said of it. */
static const struct {
	const char *name;
	const char *type;
	const char *help;
} metrics[] = {
	[COUNT_READS] = {"reads_total", "counter", "Reads that were answered."},
	[COUNT_BYTES] = {"read_bytes_total", "counter", "Bytes that they were given."},
	[COUNT_RING] = {"reads_ring_total", "counter",
			"Reads answered at once, from what a stream held."},
	[COUNT_PARKED] = {"reads_parked_total", "counter",
			  "Reads that waited for a stream."},
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
};

/* Print @text as the value of a label: what is not UTF-8 becomes '?'. */
static void put_label(FILE *out, const char *name, const char *text)
{
	CLEANUP(freep) char *printable = strdup(text);

	fprintf(out, "%s=\"", name);
	if (printable)
		text_make_printable(printable);
	for (const char *c = printable; c && *c; c++) {
		if (*c == '"' || *c == '\\')
			fputc('\\', out);
		fputc(*c, out);
	}
	fputc('"', out);
}

static void put_labels(FILE *out, const struct fs *fs, const struct image *image)
{
	fputc('{', out);
	put_label(out, "store", fs->engine->store->shown);
	if (image) {
		fputc(',', out);
		put_label(out, "image", image->file_name);
	}
}

static void put_head(FILE *out, const char *prefix, const char *name, const char *type,
		     const char *help)
{
	fprintf(out, "# HELP %s%s %s\n# TYPE %s%s %s\n", prefix, name, help, prefix, name,
		type);
}

static void put_wait(FILE *out, const struct fs *fs)
{
	static const char name[] = "imagefs_read_wait_seconds";
	static const uint64_t ends[] = STATS_WAIT_ENDS_US;
	const struct stats *stats = &fs->engine->stats;
	uint64_t sum = 0;

	put_head(out, "", name, "histogram", "How long reads took to be answered.");
	for (int i = 0; i < STATS_WAITS; i++) {
		sum += stats_get(stats, COUNT_WAITS + i);
		fprintf(out, "%s_bucket", name);
		put_labels(out, fs, NULL);
		if (i + 1 < STATS_WAITS)
			fprintf(out, ",le=\"%g\"} %" PRIu64 "\n",
				(double)ends[i] / USEC_PER_SEC, sum);
		else
			fprintf(out, ",le=\"+Inf\"} %" PRIu64 "\n", sum);
	}
	fprintf(out, "%s_sum", name);
	put_labels(out, fs, NULL);
	fprintf(out, "} %g\n", (double)stats_get(stats, COUNT_WAITED_US) / USEC_PER_SEC);
	fprintf(out, "%s_count", name);
	put_labels(out, fs, NULL);
	fprintf(out, "} %" PRIu64 "\n", sum);
}

static void put_gauge(FILE *out, const struct fs *fs, const char *name, const char *help,
		      uint64_t value)
{
	put_head(out, "imagefs_", name, "gauge", help);
	fprintf(out, "imagefs_%s", name);
	put_labels(out, fs, NULL);
	fprintf(out, "} %" PRIu64 "\n", value);
}

/* The images that have figures, a reference to each. */
static struct image **find_images(struct fs *fs, struct listing *listing,
				  size_t *ret_count)
{
	struct image **images, *image;
	size_t count = 0, room = listing->count;

	pthread_mutex_lock(&fs->lock);
	LIST_FOREACH (image, &fs->nodes, link) {
		room++;
	}
	images = calloc(room + 1, sizeof(struct image *));
	for (size_t i = 0; images && i < listing->count; i++)
		if (listing->images[i]->stats)
			images[count++] = image_ref(listing->images[i]);
	LIST_FOREACH (image, &fs->nodes, link) {
		/* What is listed no more may still be open. */
		if (images && image->stats &&
		    listing_find(listing, image->file_name) != image)
			images[count++] = image_ref(image);
	}
	pthread_mutex_unlock(&fs->lock);
	*ret_count = count;
	return images;
}

static void put_images(FILE *out, struct fs *fs, struct image **images, size_t count)
{
	static const char prefix[] = "imagefs_image_";

	for (size_t m = 0; m < ARRAY_SIZE(metrics); m++) {
		put_head(out, prefix, metrics[m].name, metrics[m].type, metrics[m].help);
		for (size_t i = 0; i < count; i++) {
			const struct stats *stats = images[i]->stats;

			fprintf(out, "%s%s", prefix, metrics[m].name);
			put_labels(out, fs, images[i]);
			fprintf(out, "} %" PRIu64 "\n",
				stats ? stats_get(stats, (int)m) : 0);
		}
	}
}

static void put_stats(FILE *out, struct fs *fs)
{
	struct listing *listing = catalog_last(fs->catalog);
	const struct engine *engine = fs->engine;
	CLEANUP(freep) struct image **images = NULL;
	size_t count;

	put_gauge(out, fs, "images", "Images that the store lists.", listing->count);
	put_gauge(out, fs, "memory_bytes", "Memory that readers hold.",
		  engine->memory_used);
	put_gauge(out, fs, "memory_limit_bytes", "What they may hold, but for a minimum.",
		  engine->memory_limit);
	put_gauge(out, fs, "streams", "Sequential readers.", engine->streams);
	for (size_t m = 0; m < ARRAY_SIZE(metrics); m++) {
		put_head(out, "imagefs_", metrics[m].name, metrics[m].type,
			 metrics[m].help);
		fprintf(out, "imagefs_%s", metrics[m].name);
		put_labels(out, fs, NULL);
		fprintf(out, "} %" PRIu64 "\n", stats_get(&engine->stats, (int)m));
	}
	put_wait(out, fs);
	images = find_images(fs, listing, &count);
	if (images && count)
		put_images(out, fs, images, count);
	for (size_t i = 0; images && i < count; i++)
		image_unref(images[i]);
	listing_unref(listing);
}

char *fs_text_of(struct fs *fs, fuse_ino_t node)
{
	char *text = NULL;
	size_t size;
	FILE *out;

	if (node == NODE_LOG)
		return log_last();
	out = open_memstream(&text, &size);
	if (!out)
		return NULL;
	put_stats(out, fs);
	if (!fclose(out))
		return text;
	free(text);
	return NULL;
}
