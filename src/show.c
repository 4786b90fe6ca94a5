/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cleanup.h"
#include "show.h"
#include "terminal.h"
#include "text.h"

#define SIZE_DIGITS 19 /* of 2^63 */
#define NAME_COLUMNS 60

void show_size(char text[SHOW_SIZE_ROOM], uint64_t bytes, bool exact)
{
	static const char units[] = " KMGTPE";
	double value = (double)bytes;
	size_t unit = 0;

	while (!exact && value >= 1024 && unit + 1 < sizeof(units) - 1) {
		value /= 1024;
		unit++;
	}
	if (bytes == UINT64_MAX)
		snprintf(text, SHOW_SIZE_ROOM, "-");
	else if (!unit)
		snprintf(text, SHOW_SIZE_ROOM, "%" PRIu64, bytes);
	else
		snprintf(text, SHOW_SIZE_ROOM, value < 9.95 ? "%.1f%c" : "%.0f%c", value,
			 units[unit]);
}

static void print_time(char *text, size_t room, const struct timespec *when)
{
	struct tm tm;

	if (!when->tv_sec || !localtime_r(&when->tv_sec, &tm) ||
	    !strftime(text, room, "%Y-%m-%d %H:%M", &tm))
		snprintf(text, room, "-");
}

int show_columns(const char *name)
{
	int count = 0;

	for (; *name; name++)
		count += (*name & 0xc0) != 0x80;
	return count;
}

static int show_row(FILE *file, const struct image *image, int width, bool bytes)
{
	CLEANUP(freep) char *name = strdup(image->file_name);
	char size[SHOW_SIZE_ROOM], allocated[SHOW_SIZE_ROOM], when[32];

	if (!name)
		return -ENOMEM;
	/* What a terminal acts on is not printed; a pipe gets the name as it is. */
	if (isatty(fileno(file)))
		text_make_printable(name);
	show_size(size, image->size, bytes);
	show_size(allocated, image->allocated, bytes);
	print_time(when, sizeof(when), &image->mtime);
	fprintf(file, "%s%*s  %*s  %*s  %s\n", name, MAX(width - show_columns(name), 0),
		"", bytes ? SIZE_DIGITS : 8, size, bytes ? SIZE_DIGITS : 9, allocated,
		when);
	return 0;
}

static int show_table(FILE *file, struct image *const *images, size_t count, bool bytes)
{
	bool bold = terminal_has_colours(fileno(file));
	int width = 4, ret = 0;

	for (size_t i = 0; i < count; i++)
		width = MAX(width, show_columns(images[i]->file_name));
	width = MIN(width, NAME_COLUMNS);
	fprintf(file, "%s%-*s  %*s  %*s  %s%s\n", bold ? TERMINAL_BOLD : "", width,
		"NAME", bytes ? SIZE_DIGITS : 8, "SIZE", bytes ? SIZE_DIGITS : 9,
		"ALLOCATED", "TIME", bold ? TERMINAL_OFF : "");
	for (size_t i = 0; i < count && !ret; i++)
		ret = show_row(file, images[i], width, bytes);
	return ret;
}

static void json_freep(json_t **json)
{
	json_decref(*json);
}

int show_set_text(json_t *json, const char *key, const char *text)
{
	CLEANUP(freep) char *hex = NULL;
	char *out, key_hex[32];

	if (!json_object_set_new(json, key, json_string(text)))
		return 0;
	hex = malloc(2 * strlen(text) + 1);
	if (!hex)
		return -ENOMEM;
	out = hex;
	for (const unsigned char *c = (const unsigned char *)text; *c; c++)
		out += sprintf(out, "%02x", *c);
	*out = '\0';
	snprintf(key_hex, sizeof(key_hex), "%s_hex", key);
	return json_object_set_new(json, key_hex, json_string(hex)) ? -ENOMEM : 0;
}

static int set_attributes(json_t *json, const struct image *image)
{
	json_t *attrs = json_object();

	if (json_object_set_new(json, "attrs", attrs))
		return -ENOMEM;
	for (size_t i = 0; i < image->attribute_count; i++)
		if (json_object_set_new(attrs, image->attributes[i].key,
					json_string(image->attributes[i].value)))
			return -ENOMEM;
	return 0;
}

static int show_image(FILE *file, const struct image *image)
{
	CLEANUP(json_freep) json_t *json = json_object();
	double mtime = (double)image->mtime.tv_sec + (double)image->mtime.tv_nsec / 1e9;
	int ret;

	if (!json || show_set_text(json, "file", image->file_name) < 0 ||
	    show_set_text(json, "name", image->name) < 0 ||
	    show_set_text(json, "id", image->id) < 0)
		return -ENOMEM;
	ret = json_object_set_new(json, "size", json_integer((json_int_t)image->size));
	if (image->allocated <= INT64_MAX)
		ret |= json_object_set_new(json, "allocated",
					   json_integer((json_int_t)image->allocated));
	if (image->mtime.tv_sec)
		ret |= json_object_set_new(json, "mtime", json_real(mtime));
	ret |= json_object_set_new(json, "immutable", json_boolean(image->immutable));
	if (ret || set_attributes(json, image) < 0)
		return -ENOMEM;
	return json_dumpf(json, file, JSON_COMPACT) || fputc('\n', file) == EOF ? -errno
										: 0;
}

/* What images are compared by: the largest comes first. */
static uint64_t weight(const struct image *image, enum order order)
{
	switch (order) {
	case ORDER_SIZE:
		return image->size;
	case ORDER_TIME:
		/* Times before 1970 are less than those after. */
		return (uint64_t)image->mtime.tv_sec + (UINT64_C(1) << 63);
	case ORDER_ALLOCATED:
		/* Where it is not known, behind all others. */
		return image->allocated == UINT64_MAX ? 0 : image->allocated + 1;
	case ORDER_NAME:
		break;
	}
	return 0;
}

static int compare(const void *a, const void *b, void *context)
{
	const struct image *x = *(struct image *const *)a, *y = *(struct image *const *)b;
	const struct options *options = context;
	uint64_t wx = weight(x, options->order), wy = weight(y, options->order);
	int order = wx == wy ? strcmp(x->file_name, y->file_name) : wx > wy ? -1 : 1;

	return options->reverse ? -order : order;
}

int show_list(FILE *file, const struct listing *listing, const struct options *options)
{
	size_t count = listing->count;
	CLEANUP(freep) struct image **images = calloc(count + 1, sizeof(*images));
	int ret = 0;

	if (!images)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++)
		images[i] = listing->images[i];
	qsort_r(images, count, sizeof(*images), compare, (void *)options);
	if (!options->json)
		ret = show_table(file, images, count, options->bytes);
	for (size_t i = 0; options->json && i < count && !ret; i++)
		ret = show_image(file, images[i]);
	return !ret && fflush(file) ? -errno : ret;
}
