/* SPDX-License-Identifier: MIT */
#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cleanup.h"
#include "image.h"
#include "imagefs-store.h"
#include "log.h"
#include "stats.h"
#include "text.h"

#define ATTRIBUTES_MAX 64
#define KEY_MAX_SIZE 128
#define MTIME_LIMIT 1e12 /* seconds; some 30,000 years */
#define NSEC_PER_SEC 1000000000L

static void json_freep(json_t **json)
{
	json_decref(*json);
}

static int hex_digit(char c)
{
	if (isdigit((unsigned char)c))
		return c - '0';
	return isxdigit((unsigned char)c) ? tolower((unsigned char)c) - 'a' + 10 : -1;
}

/* The bytes that @hex spells, NULL if it does not spell any, or spells a NUL. */
static char *from_hex(const char *hex)
{
	size_t size = strlen(hex) / 2;
	CLEANUP(freep) char *bytes = calloc(1, size + 1);

	if (!bytes || !size || strlen(hex) % 2)
		return NULL;
	for (size_t i = 0; i < size; i++) {
		int high = hex_digit(hex[2 * i]), low = hex_digit(hex[2 * i + 1]);

		if (high < 0 || low < 0 || !(high + low))
			return NULL;
		bytes[i] = (char)(high << 4 | low);
	}
	return STEAL(bytes);
}

static const char *parse_name(struct image *image, const json_t *json)
{
	const char *name = json_string_value(json_object_get(json, "name"));
	const char *hex = json_string_value(json_object_get(json, "name_hex"));

	if (name && *name)
		image->name = strdup(name);
	else if (hex)
		image->name = from_hex(hex);
	return image->name ? NULL : "no name";
}

static const char *parse_id(struct image *image, const json_t *json)
{
	const char *id = json_string_value(json_object_get(json, "id"));

	if (!id || !*id || strlen(id) > STORE_ID_MAX)
		return "no id, or one that is too long";
	for (const char *c = id; *c; c++)
		if (!isgraph((unsigned char)*c))
			return "an id that is not printable ASCII";
	image->id = strdup(id);
	return image->id ? NULL : "no memory";
}

/* A number of bytes that may be absent: UINT64_MAX then.  Returns false if it is none. */
static bool parse_bytes(const json_t *json, const char *key, uint64_t *ret_bytes)
{
	const json_t *value = json_object_get(json, key);

	if (!value) {
		*ret_bytes = UINT64_MAX;
		return true;
	}
	if (!json_is_integer(value) || json_integer_value(value) < 0)
		return false;
	*ret_bytes = (uint64_t)json_integer_value(value);
	return true;
}

static const char *parse_mtime(struct image *image, const json_t *json)
{
	const json_t *value = json_object_get(json, "mtime");
	double seconds;

	if (!value)
		return NULL;
	seconds = json_number_value(value);
	if (!json_is_number(value) || !(fabs(seconds) < MTIME_LIMIT))
		return "an mtime that is no time";
	image->mtime.tv_sec = (time_t)floor(seconds);
	if (json_is_real(value))
		image->mtime.tv_nsec =
			MIN((long)((seconds - floor(seconds)) * (double)NSEC_PER_SEC),
			    NSEC_PER_SEC - 1);
	return NULL;
}

static bool is_key(const char *key)
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyz0123456789._-";

	return *key && strlen(key) < KEY_MAX_SIZE && strspn(key, allowed) == strlen(key);
}

static const char *parse_attributes(struct image *image, json_t *json)
{
	json_t *attrs = json_object_get(json, "attrs"), *value;
	const char *key;

	if (!attrs)
		return NULL;
	if (!json_is_object(attrs) || json_object_size(attrs) > ATTRIBUTES_MAX)
		return "attrs that are no object, or too many";
	image->attributes =
		calloc(json_object_size(attrs) + 1, sizeof(*image->attributes));
	if (!image->attributes)
		return "no memory";
	json_object_foreach(attrs, key, value)
	{
		struct attribute *attribute = &image->attributes[image->attribute_count];

		if (!is_key(key) || !json_is_string(value))
			return "an attribute with a wrong key or no string";
		image->attribute_count++;
		attribute->key = strdup(key);
		attribute->value = strdup(json_string_value(value));
		if (!attribute->key || !attribute->value)
			return "no memory";
	}
	return NULL;
}

static const char *parse_object(struct image *image, json_t *json)
{
	const json_t *immutable = json_object_get(json, "immutable");
	const char *why = parse_name(image, json);

	if (!why)
		why = parse_id(image, json);
	if (!why && (!parse_bytes(json, "size", &image->size) || image->size > INT64_MAX))
		why = "no size, or one that is no number of bytes";
	if (!why && !parse_bytes(json, "allocated", &image->allocated))
		why = "an allocated that is no number of bytes";
	if (!why && immutable && !json_is_boolean(immutable))
		why = "an immutable that is neither true nor false";
	if (!why)
		why = parse_mtime(image, json);
	if (!why)
		why = parse_attributes(image, json);
	if (why)
		return why;
	image->immutable = json_is_true(immutable);
	image->file_name = text_file_name(image->name);
	image->ino = text_hash(TEXT_HASH_START, image->name, strlen(image->name) + 1);
	image->ino = text_hash(image->ino, image->id, strlen(image->id));
	return image->file_name ? NULL : "no memory";
}

int image_parse(const char *line, size_t size, struct image **ret_image,
		const char **ret_why)
{
	CLEANUP(image_unrefp) struct image *image = calloc(1, sizeof(*image));
	CLEANUP(json_freep) json_t *json = NULL;
	json_error_t error;

	if (!image)
		return -ENOMEM;
	image->refs = 1;
	pthread_mutex_init(&image->lock, NULL);
	json = json_loadb(line, size, JSON_REJECT_DUPLICATES, &error);
	*ret_why = json_is_object(json) ? parse_object(image, json) : "not a JSON object";
	if (*ret_why)
		return -EBADMSG;
	*ret_image = STEAL(image);
	return 0;
}

bool image_equal(const struct image *a, const struct image *b)
{
	if (strcmp(a->name, b->name) || strcmp(a->id, b->id) || a->size != b->size ||
	    a->allocated != b->allocated || a->mtime.tv_sec != b->mtime.tv_sec ||
	    a->mtime.tv_nsec != b->mtime.tv_nsec || a->immutable != b->immutable ||
	    a->attribute_count != b->attribute_count ||
	    strcmp(a->file_name, b->file_name))
		return false;
	for (size_t i = 0; i < a->attribute_count; i++)
		if (strcmp(a->attributes[i].key, b->attributes[i].key) ||
		    strcmp(a->attributes[i].value, b->attributes[i].value))
			return false;
	return true;
}

struct image *image_ref(struct image *image)
{
	atomic_fetch_add(&image->refs, 1);
	return image;
}

void image_unref(struct image *image)
{
	if (!image || atomic_fetch_sub(&image->refs, 1) > 1)
		return;
	for (size_t i = 0; i < image->attribute_count; i++) {
		free(image->attributes[i].key);
		free(image->attributes[i].value);
	}
	free(image->attributes);
	free(image->name);
	free(image->file_name);
	free(image->id);
	free(image->error);
	if (!image->origin)
		free(image->stats);
	image_unref(image->origin);
	pthread_mutex_destroy(&image->lock);
	free(image);
}

void image_unrefp(struct image **image)
{
	image_unref(*image);
}

int image_count(struct image *image)
{
	struct stats *stats = image->stats ? NULL : calloc(1, sizeof(*stats)),
		     *none = NULL;

	if (!image->stats && !stats)
		return -ENOMEM;
	/* Who comes second gives his away. */
	if (stats && !atomic_compare_exchange_strong(&image->stats, &none, stats))
		free(stats);
	return 0;
}

void image_go_on(struct image *image, struct image *was)
{
	if (!was->stats || was->ino != image->ino || was->size != image->size ||
	    strcmp(was->id, image->id) != 0)
		return;
	image->origin = image_ref(was->origin ? was->origin : was);
	image->stats = image->origin->stats;
}

static void set_error(struct image *image, uint64_t offset, const char *format,
		      va_list args)
{
	CLEANUP(freep) char *old = NULL;
	char *text = NULL;

	if (vasprintf(&text, format, args) < 0)
		return;
	text_make_printable(text);
	log_image(LOG_WARNING, image->name, offset, "%s: %s", image->name, text);
	pthread_mutex_lock(&image->lock);
	old = image->error;
	image->error = text;
	pthread_mutex_unlock(&image->lock);
}

void image_set_error(struct image *image, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	set_error(image, LOG_NOWHERE, format, args);
	va_end(args);
}

void image_set_error_at(struct image *image, uint64_t offset, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	set_error(image, offset, format, args);
	va_end(args);
}

char *image_error(struct image *image)
{
	char *text;

	pthread_mutex_lock(&image->lock);
	text = image->error ? strdup(image->error) : NULL;
	pthread_mutex_unlock(&image->lock);
	return text;
}
