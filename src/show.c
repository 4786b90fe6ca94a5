/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cleanup.h"
#include "show.h"
#include "text.h"

/* Bytes in at most six characters: "1.5G", "512", "16E". */
static void print_size(char *text, size_t room, uint64_t bytes)
{
	static const char units[] = " KMGTPE";
	double value = (double)bytes;
	size_t unit = 0;

	while (value >= 1024 && unit + 1 < sizeof(units) - 1) {
		value /= 1024;
		unit++;
	}
	if (bytes == UINT64_MAX)
		snprintf(text, room, "-");
	else if (!unit)
		snprintf(text, room, "%" PRIu64, bytes);
	else
		snprintf(text, room, value < 9.95 ? "%.1f%c" : "%.0f%c", value,
			 units[unit]);
}

static void print_time(char *text, size_t room, const struct timespec *when)
{
	struct tm tm;

	if (!when->tv_sec || !localtime_r(&when->tv_sec, &tm) ||
	    !strftime(text, room, "%Y-%m-%d %H:%M", &tm))
		snprintf(text, room, "-");
}

int show_table(FILE *file, const struct listing *listing)
{
	/* What a terminal acts on is not printed; a pipe gets the name as it is. */
	bool terminal = isatty(fileno(file));
	int width = 4;

	for (size_t i = 0; i < listing->count; i++)
		width = MAX(width, (int)strlen(listing->images[i]->file_name));
	width = MIN(width, 60);
	fprintf(file, "%-*s  %8s  %9s  %s\n", width, "NAME", "SIZE", "ALLOCATED", "TIME");
	for (size_t i = 0; i < listing->count; i++) {
		const struct image *image = listing->images[i];
		CLEANUP(freep) char *name = strdup(image->file_name);
		char size[32], allocated[32], when[32];

		if (!name)
			return -ENOMEM;
		if (terminal)
			text_make_printable(name);
		print_size(size, sizeof(size), image->size);
		print_size(allocated, sizeof(allocated), image->allocated);
		print_time(when, sizeof(when), &image->mtime);
		fprintf(file, "%-*s  %8s  %9s  %s\n", width, name, size, allocated, when);
	}
	return fflush(file) ? -EIO : 0;
}

static void json_freep(json_t **json)
{
	json_decref(*json);
}

/* Set @key to the text, or @key_hex to its bytes where it is not UTF-8. */
static int set_text(json_t *json, const char *key, const char *text)
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

	if (!json || set_text(json, "file", image->file_name) < 0 ||
	    set_text(json, "name", image->name) < 0 ||
	    set_text(json, "id", image->id) < 0)
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
	return json_dumpf(json, file, JSON_COMPACT) || fputc('\n', file) == EOF ? -EIO
										: 0;
}

int show_json(FILE *file, const struct listing *listing)
{
	int ret = 0;

	for (size_t i = 0; i < listing->count && !ret; i++)
		ret = show_image(file, listing->images[i]);
	return !ret && fflush(file) ? -EIO : ret;
}
