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

/*
 * What a line is of: the mount, or an image.  A version that is listed no more, but open
 * or known to the kernel, is told from the one that took its name.
 */
struct subject {
	const struct stats *stats;
	struct image *image; /* a reference; NULL: the mount */
	bool is_old;
};

static void put_labels(FILE *out, const struct fs *fs, const struct subject *subject)
{
	fputc('{', out);
	put_label(out, "store", fs->engine->store->shown);
	if (subject->image) {
		fputc(',', out);
		put_label(out, "image", subject->image->file_name);
	}
	if (subject->image && subject->is_old) {
		fputc(',', out);
		put_label(out, "old_id", subject->image->id);
	}
}

static void put_head(FILE *out, const char *prefix, const char *name, const char *type,
		     const char *help)
{
	fprintf(out, "# HELP %s%s %s\n# TYPE %s%s %s\n", prefix, name, help, prefix, name,
		type);
}

static void put_value(FILE *out, const struct fs *fs, const struct subject *subject,
		      const char *prefix, const char *name, uint64_t value)
{
	fprintf(out, "%s%s", prefix, name);
	put_labels(out, fs, subject);
	fprintf(out, "} %" PRIu64 "\n", value);
}

static void put_buckets(FILE *out, const struct fs *fs, const struct subject *subject,
			const char *prefix, const char *name, int first)
{
	static const uint64_t ends[] = STATS_BUCKET_ENDS_US;
	uint64_t sum_us = stats_get(subject->stats, first + STATS_BUCKETS), count = 0;

	for (int i = 0; i < STATS_BUCKETS; i++) {
		count += stats_get(subject->stats, first + i);
		fprintf(out, "%s%s_bucket", prefix, name);
		put_labels(out, fs, subject);
		if (i + 1 < STATS_BUCKETS)
			fprintf(out, ",le=\"%g\"} %" PRIu64 "\n",
				(double)ends[i] / USEC_PER_SEC, count);
		else
			fprintf(out, ",le=\"+Inf\"} %" PRIu64 "\n", count);
	}
	fprintf(out, "%s%s_sum", prefix, name);
	put_labels(out, fs, subject);
	fprintf(out, "} %.6f\n%s%s_count", (double)sum_us / USEC_PER_SEC, prefix, name);
	put_labels(out, fs, subject);
	fprintf(out, "} %" PRIu64 "\n", count);
}

/* All that is counted, of each subject. */
static void put_counted(FILE *out, const struct fs *fs, const char *prefix,
			const struct subject *subjects, size_t count)
{
	static const struct {
		const char *name;
		const char *help;
		int first;
	} histograms[] = {
		{"read_wait_seconds", "How long reads took to be answered.", COUNT_WAITS},
		{"stall_seconds", "How long those took that waited for the store.",
		 COUNT_STALLS},
	};

	for (size_t m = 0; m < ARRAY_SIZE(stats_metrics); m++) {
		const struct metric *metric = &stats_metrics[m];

		put_head(out, prefix, metric->name, metric->type, metric->help);
		for (size_t i = 0; i < count; i++)
			put_value(out, fs, &subjects[i], prefix, metric->name,
				  stats_get(subjects[i].stats, (int)m));
	}
	for (size_t h = 0; h < ARRAY_SIZE(histograms); h++) {
		put_head(out, prefix, histograms[h].name, "histogram",
			 histograms[h].help);
		for (size_t i = 0; i < count; i++)
			put_buckets(out, fs, &subjects[i], prefix, histograms[h].name,
				    histograms[h].first);
	}
}

static void put_mount(FILE *out, const struct fs *fs, const struct listing *listing)
{
	static const char prefix[] = "imagefs_";
	const struct engine *engine = fs->engine;
	const struct subject mount = {.stats = &engine->stats};
	const struct {
		const char *name;
		const char *help;
		uint64_t value;
	} gauges[] = {
		{"images", "Images that the store lists.", listing->count},
		{"memory_limit_bytes", "What readers may hold, but for a minimum.",
		 engine->memory_limit},
		{"streams", "Sequential readers.", engine->streams},
	};

	for (size_t i = 0; i < ARRAY_SIZE(gauges); i++) {
		put_head(out, prefix, gauges[i].name, "gauge", gauges[i].help);
		put_value(out, fs, &mount, prefix, gauges[i].name, gauges[i].value);
	}
	put_counted(out, fs, prefix, &mount, 1);
}

static size_t add_subject(struct subject *subjects, size_t count, struct image *image,
			  bool is_old)
{
	if (!image->stats)
		return count;
	subjects[count] = (struct subject){
		.stats = image->stats,
		.image = image_ref(image),
		.is_old = is_old,
	};
	return count + 1;
}

/* The images that have figures. */
static struct subject *find_images(struct fs *fs, const struct listing *listing,
				   size_t *ret_count)
{
	struct subject *subjects;
	struct image *image;
	size_t count = 0, room = listing->count;

	pthread_mutex_lock(&fs->lock);
	LIST_FOREACH (image, &fs->nodes, link) {
		room++;
	}
	subjects = calloc(room + 1, sizeof(*subjects));
	for (size_t i = 0; subjects && i < listing->count; i++)
		count = add_subject(subjects, count, listing->images[i], false);
	LIST_FOREACH (image, &fs->nodes, link) {
		const struct image *listed = listing_find(listing, image->file_name);

		if (subjects && listed != image &&
		    (!listed || listed->stats != image->stats))
			count = add_subject(subjects, count, image, true);
	}
	pthread_mutex_unlock(&fs->lock);
	*ret_count = count;
	return subjects;
}

static void put_images(FILE *out, const struct fs *fs, const struct subject *images,
		       size_t count)
{
	static const char prefix[] = "imagefs_image_";

	put_head(out, prefix, "size_bytes", "gauge", "The size of the image.");
	for (size_t i = 0; i < count; i++)
		put_value(out, fs, &images[i], prefix, "size_bytes",
			  images[i].image->size);
	put_head(out, prefix, "position_bytes", "gauge", "Where the last read ended.");
	for (size_t i = 0; i < count; i++)
		put_value(out, fs, &images[i], prefix, "position_bytes",
			  stats_get(images[i].stats, COUNT_POSITION));
	put_counted(out, fs, prefix, images, count);
}

static void put_stats(FILE *out, struct fs *fs)
{
	struct listing *listing = catalog_last(fs->catalog);
	CLEANUP(freep) struct subject *images = NULL;
	size_t count;

	put_mount(out, fs, listing);
	images = find_images(fs, listing, &count);
	if (images && count)
		put_images(out, fs, images, count);
	for (size_t i = 0; images && i < count; i++)
		image_unref(images[i].image);
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
