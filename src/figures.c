/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "figures.h"

#define MOUNT_PREFIX "imagefs_"
#define IMAGE_PREFIX "imagefs_image_"
#define USEC_PER_SEC 1e6

struct parser {
	struct figures *figures;
	size_t next; /* where to look first: lines of images come in the same order */
};

/* A line, taken apart in place. */
struct sample {
	char *name;
	char *store, *image, *old_id, *le; /* labels; NULL: not there */
	char *value;
};

const char *figure_name(int figure)
{
	static const char *const names[] = {
		[FIGURE_IMAGES] = "images",
		[FIGURE_MEMORY_LIMIT] = "memory_limit_bytes",
		[FIGURE_STREAMS] = "streams",
		[FIGURE_SIZE] = "size_bytes",
		[FIGURE_POSITION] = "position_bytes",
	};

	return figure < COUNT_PLAIN ? stats_metrics[figure].name : names[figure];
}

/* Put the value of a label, up to its quote, in place of its escapes; returns its end. */
static char *unescape(char *text)
{
	char *out = text;

	while (*text && *text != '"') {
		if (*text == '\\' && text[1])
			text++;
		*out++ = *text++;
	}
	if (!*text)
		return NULL;
	*out = '\0';
	return text + 1;
}

/* The labels, from behind the brace on; returns what is behind the other brace. */
static char *take_labels(char *text, struct sample *sample)
{
	while (*text != '}') {
		char *name = text, *value = strstr(text, "=\"");
		char **field;

		if (!value)
			return NULL;
		*value = '\0';
		value += 2;
		text = unescape(value);
		if (!text)
			return NULL;
		field = !strcmp(name, "store")	  ? &sample->store
			: !strcmp(name, "image")  ? &sample->image
			: !strcmp(name, "old_id") ? &sample->old_id
			: !strcmp(name, "le")	  ? &sample->le
						  : NULL;
		if (field)
			*field = value;
		if (*text == ',')
			text++;
		else if (*text != '}')
			return NULL;
	}
	return text + 1;
}

static int take_line(char *line, struct sample *ret_sample)
{
	struct sample sample = {.name = line};
	char *rest = line + strcspn(line, "{ ");

	if (*rest == '{') {
		*rest = '\0';
		rest = take_labels(rest + 1, &sample);
	}
	if (!rest || *rest != ' ')
		return -EBADMSG;
	*rest = '\0';
	sample.value = rest + 1;
	*ret_sample = sample;
	return 0;
}

static bool same(const char *a, const char *b)
{
	return a && b ? !strcmp(a, b) : a == b;
}

/* The set of an image, which is added if it is not there; NULL: no memory. */
static struct figure_set *set_of(struct parser *parser, const struct sample *sample)
{
	struct figures *figures = parser->figures;
	struct figure_set *set, *sets;

	for (size_t i = 0; i < figures->count; i++) {
		size_t at = (parser->next + i) % figures->count;

		set = &figures->images[at];
		if (same(set->image, sample->image) &&
		    same(set->old_id, sample->old_id)) {
			/* A histogram has several lines, one after another. */
			parser->next = at;
			return set;
		}
	}
	sets = reallocarray(figures->images, figures->count + 1, sizeof(*sets));
	if (!sets)
		return NULL;
	figures->images = sets;
	set = &sets[figures->count];
	*set = (struct figure_set){
		.image = strdup(sample->image),
		.old_id = sample->old_id ? strdup(sample->old_id) : NULL,
	};
	figures->count++;
	return set->image && (set->old_id || !sample->old_id) ? set : NULL;
}

/* Which bucket ends there, -1 if none does. */
static int bucket_of(const char *le)
{
	static const uint64_t ends[] = STATS_BUCKET_ENDS_US;

	if (!strcmp(le, "+Inf"))
		return STATS_BUCKETS - 1;
	for (int i = 0; i < STATS_BUCKETS - 1; i++)
		if ((uint64_t)(strtod(le, NULL) * USEC_PER_SEC + 0.5) == ends[i])
			return i;
	return -1;
}

static void set_histogram(struct histogram *histogram, const char *part,
			  const struct sample *sample)
{
	int bucket;

	if (!strcmp(part, "_sum"))
		histogram->seconds = strtod(sample->value, NULL);
	if (strcmp(part, "_bucket") != 0 || !sample->le)
		return;
	bucket = bucket_of(sample->le);
	if (bucket >= 0)
		histogram->buckets[bucket] = strtoull(sample->value, NULL, 10);
}

static void set_figure(struct figure_set *set, const char *name,
		       const struct sample *sample)
{
	static const char waits[] = "read_wait_seconds", stalls[] = "stall_seconds";

	if (!strncmp(name, waits, sizeof(waits) - 1))
		set_histogram(&set->waits, name + sizeof(waits) - 1, sample);
	else if (!strncmp(name, stalls, sizeof(stalls) - 1))
		set_histogram(&set->stalls, name + sizeof(stalls) - 1, sample);
	for (int i = 0; i < FIGURES; i++)
		if (!strcmp(name, figure_name(i)))
			set->values[i] = strtoull(sample->value, NULL, 10);
}

static int add_line(struct parser *parser, char *line)
{
	struct figures *figures = parser->figures;
	struct figure_set *set = &figures->mount;
	size_t prefix = sizeof(MOUNT_PREFIX) - 1;
	struct sample sample;
	int ret;

	if (!*line || *line == '#')
		return 0;
	ret = take_line(line, &sample);
	if (ret < 0)
		return ret;
	if (strncmp(sample.name, MOUNT_PREFIX, prefix) != 0)
		return 0;
	if (sample.store && !figures->store) {
		figures->store = strdup(sample.store);
		if (!figures->store)
			return -ENOMEM;
	}
	if (sample.image &&
	    !strncmp(sample.name, IMAGE_PREFIX, sizeof(IMAGE_PREFIX) - 1)) {
		prefix = sizeof(IMAGE_PREFIX) - 1;
		set = set_of(parser, &sample);
		if (!set)
			return -ENOMEM;
	}
	set_figure(set, sample.name + prefix, &sample);
	return 0;
}

static void figures_freep(struct figures **figures)
{
	figures_free(*figures);
}

int figures_parse(const char *text, struct figures **ret_figures)
{
	CLEANUP(figures_freep) struct figures *figures = calloc(1, sizeof(*figures));
	CLEANUP(freep) char *copy = strdup(text);
	struct parser parser = {.figures = figures};
	char *rest = copy, *line;

	if (!figures || !copy)
		return -ENOMEM;
	while ((line = strsep(&rest, "\n"))) {
		int ret = add_line(&parser, line);

		if (ret < 0)
			return ret;
	}
	if (!figures->store)
		return -EBADMSG;
	*ret_figures = STEAL(figures);
	return 0;
}

const struct figure_set *figures_find(const struct figures *figures,
				      const struct figure_set *set)
{
	for (size_t i = 0; i < figures->count; i++)
		if (same(figures->images[i].image, set->image) &&
		    same(figures->images[i].old_id, set->old_id))
			return &figures->images[i];
	return NULL;
}

void figures_free(struct figures *figures)
{
	if (!figures)
		return;
	for (size_t i = 0; i < figures->count; i++) {
		free(figures->images[i].image);
		free(figures->images[i].old_id);
	}
	free(figures->images);
	free(figures->store);
	free(figures);
}
