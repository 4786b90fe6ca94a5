/* SPDX-License-Identifier: MIT */
/*
 * glance-list - all images of a Glance.
 *
 * All pages are taken before anything is printed: an image whose name another one has as
 * well is called NAME~ID, and whether there is one is known at the end.  So is an image
 * that is called as another is or could be, after its id: people give names, also to
 * images that others see.  The list is made anew when it changes so much under way that a
 * page is refused.
 */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include "cleanup.h"
#include "glance-session.h"
#include "glance.h"
#include "serve.h"

#define FIRST_PAGE "/v2/images?limit=1000&status=active"
#define RESTARTS_MAX 3
#define ATTRIBUTES_MAX 32 /* keys and values */

struct listing {
	struct glance_session *session;
	json_t **images; /* those to be printed */
	size_t count;
	size_t room;
	size_t pages;
	char *landmark; /* the URL of an earlier page, which must not come again */
};

static void json_freep(json_t **json)
{
	json_decref(*json);
}

static const char *text_of(const json_t *image, const char *key)
{
	return json_string_value(json_object_get(image, key));
}

static void clear(struct listing *listing)
{
	for (size_t i = 0; i < listing->count; i++)
		json_decref(listing->images[i]);
	listing->count = 0;
	listing->pages = 0;
	free(STEAL(listing->landmark));
}

/* ---- pages ---- */

/* Whether it can be an id of this protocol, and a part of a URL as it is. */
static bool is_id(const char *id)
{
	return *id && strlen(id) <= STORE_ID_MAX &&
	       strspn(id, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
			  "-_.") == strlen(id) &&
	       strspn(id, ".") != strlen(id);
}

/* Whether @image is one that can be read; says so if it should be and is not. */
static bool is_wanted(const json_t *image)
{
	const char *id = text_of(image, "id");
	const char *status = text_of(image, "status");
	const json_t *size = json_object_get(image, "size");

	if (!status || strcmp(status, "active") != 0)
		return false;
	if (!id || !is_id(id)) {
		store_error("left out: an image whose id is none");
		return false;
	}
	if (!json_is_integer(size) || json_integer_value(size) < 0) {
		store_error("left out: %s: Glance does not know its size", id);
		return false;
	}
	return true;
}

static int keep(struct listing *listing, json_t *image)
{
	if (listing->count == listing->room) {
		size_t room = listing->room ? 2 * listing->room : 1024;
		json_t **images = reallocarray(listing->images, room, sizeof(json_t *));

		if (!images)
			return -ENOMEM;
		listing->images = images;
		listing->room = room;
	}
	/* Locations can have passwords in them, and need not be kept. */
	json_object_del(image, "locations");
	listing->images[listing->count++] = json_incref(image);
	return 0;
}

/*
 * The URL of the next page, for the caller to free: @next is a path from the API's root
 * on, which is not the endpoint's where that has a prefix.
 */
static char *next_url(const struct glance_session *session, const char *next)
{
	const char *endpoint = session->endpoint;
	size_t origin = glance_origin(endpoint);
	const char *prefix = endpoint + origin;
	char *url;

	/* A whole URL, as some proxies make of it, is good if it leads to the same host. */
	if (*next != '/') {
		if (glance_origin(next) != origin ||
		    strncasecmp(next, endpoint, origin) != 0)
			return NULL;
		next += origin;
	}
	if (*prefix && strncmp(next, prefix, strlen(prefix)) == 0 &&
	    next[strlen(prefix)] == '/')
		next += strlen(prefix);
	return asprintf(&url, "%s%s", endpoint, next) < 0 ? NULL : url;
}

/* Take the images of a page.  Returns a status, having said why. */
static int take_page(struct listing *listing, const json_t *page, const char *url)
{
	const json_t *images = json_object_get(page, "images");
	json_t *image;
	size_t i;

	if (!json_is_array(images)) {
		store_error("%.*s: not an answer of Glance's", (int)strcspn(url, "?"),
			    url);
		return STORE_UNAVAILABLE;
	}
	json_array_foreach(images, i, image)
	{
		if (is_wanted(image) && keep(listing, image) < 0) {
			store_error("out of memory");
			return STORE_AGAIN;
		}
	}
	/*
	 * A sign of life: whoever waits for the list gives up when nothing comes for long.
	 * A space before an object is none of it.
	 */
	if (listing->count > 0)
		(void)!write_all(STDOUT_FILENO, " ", 1);
	listing->pages++;
	return STORE_OK;
}

/*
 * Whether @url, which is not the first page's, was met before: pages may lead in a circle.
 * (Brent's way to find one: compare with a page that is moved on at each power of two.)
 */
static bool is_circle(struct listing *listing, const char *url)
{
	if (listing->landmark && strcmp(listing->landmark, url) == 0)
		return true;
	if ((listing->pages & (listing->pages - 1)) == 0) {
		free(listing->landmark);
		listing->landmark = strdup(url);
	}
	return false;
}

/* Make the page behind @page, which is at *@url, that at *@url: NULL at the end. */
static int turn_page(struct listing *listing, const json_t *page, char **url)
{
	const char *next = text_of(page, "next");
	char *next_page = next ? next_url(listing->session, next) : NULL;

	if (next && (!next_page || strcmp(next_page, *url) == 0 ||
		     is_circle(listing, next_page))) {
		store_error("%.*s: what is said to be the next page is none",
			    (int)strcspn(*url, "?"), *url);
		free(next_page);
		return STORE_UNAVAILABLE;
	}
	free(*url);
	*url = next_page;
	return STORE_OK;
}

/* Get the page at *@url, and make that the next one's, NULL at the end. */
static int get_page(struct listing *listing, char **url, bool *ret_changed)
{
	struct glance_answer answer = {0};
	CLEANUP(json_freep) json_t *page = NULL;
	int status = glance_session_get(listing->session, *url, &answer);

	*ret_changed = listing->pages > 0 && (answer.code == 400 || answer.code == 404);
	if (status == STORE_OK) {
		page = json_loadb(answer.body ? answer.body : "", answer.size,
				  JSON_ALLOW_NUL, NULL);
		glance_answer_fini(&answer);
		status = take_page(listing, page, *url);
		return status == STORE_OK ? turn_page(listing, page, url) : status;
	}
	if (*answer.text && !*ret_changed)
		store_error("%s", answer.text);
	/* Of the first page: a filter that Glance does not take. */
	if (answer.code == 400 && !*ret_changed)
		status = STORE_USAGE;
	glance_answer_fini(&answer);
	return status == STORE_GONE ? STORE_UNAVAILABLE : status;
}

static int get_pages(struct listing *listing)
{
	CLEANUP(freep) char *url = NULL;
	int restarts = 0, status = STORE_OK;

	do {
		bool changed;

		if (!url &&
		    asprintf(&url, "%s" FIRST_PAGE "%s", listing->session->endpoint,
			     listing->session->uri.filters) < 0) {
			store_error("out of memory");
			return STORE_AGAIN;
		}
		status = get_page(listing, &url, &changed);
		if (changed && restarts++ < RESTARTS_MAX) {
			clear(listing);
			free(STEAL(url));
			status = STORE_OK;
			continue;
		}
		if (changed)
			store_error("the images change faster than they can be listed");
	} while (status == STORE_OK && (url || listing->pages == 0));
	return status;
}

/* ---- names ---- */

/* A text of the image's without NULs, which a name cannot have, for the caller to free. */
static char *without_nul(const json_t *text)
{
	const char *bytes = json_string_value(text);
	size_t size = json_string_length(text), used = 0;
	char *copy = malloc(3 * size + 1);

	for (size_t i = 0; copy && i < size; i++) {
		if (bytes[i])
			copy[used++] = bytes[i];
		else
			used += sprintf(copy + used, "\xef\xbf\xbd");
	}
	if (copy)
		copy[used] = '\0';
	return copy;
}

/* What people call the image: its name, or its id where it has none. */
static char *name_of(const json_t *image)
{
	const json_t *name = json_object_get(image, "name");

	if (json_string_length(name) > 0)
		return without_nul(name);
	return strdup(text_of(image, "id"));
}

struct named {
	char *name;
	json_t *image;
	bool is_borrowed; /* the name has the id of another image */
};

static int compare(const void *a, const void *b)
{
	const struct named *x = a, *y = b;
	int order = strcmp(x->name, y->name);

	return order ? order : strcmp(text_of(x->image, "id"), text_of(y->image, "id"));
}

static int compare_ids(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Note whose name is the id of another image, or ends in "~" and that. */
static int find_borrowed(struct named *all, size_t count)
{
	const char **ids = calloc(count + 1, sizeof(*ids));

	if (!ids)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++)
		ids[i] = text_of(all[i].image, "id");
	qsort(ids, count, sizeof(*ids), compare_ids);
	for (size_t i = 0; i < count; i++) {
		const char *tilde = strrchr(all[i].name, '~');
		const char *end = tilde ? tilde + 1 : all[i].name;

		all[i].is_borrowed = strcmp(end, text_of(all[i].image, "id")) != 0 &&
				     bsearch(&end, ids, count, sizeof(*ids), compare_ids);
	}
	free(ids);
	return 0;
}

/* ---- printing ---- */

/* Attributes as they are printed, and the memory that belongs to them. */
struct attributes {
	size_t count;
	const char *texts[ATTRIBUTES_MAX + 1];
	char *owned[ATTRIBUTES_MAX / 2];
	size_t owned_count;
};

static void add_owned(struct attributes *attributes, const char *key, char *value)
{
	if (!value)
		return;
	attributes->owned[attributes->owned_count++] = value;
	attributes->texts[attributes->count++] = key;
	attributes->texts[attributes->count++] = value;
}

static void add(struct attributes *attributes, const json_t *image, const char *key)
{
	const json_t *value = json_object_get(image, key);
	char *text = NULL;

	if (json_is_string(value))
		text = without_nul(value);
	else if (json_is_boolean(value))
		text = strdup(json_is_true(value) ? "true" : "false");
	else if (!json_is_integer(value) ||
		 asprintf(&text, "%" JSON_INTEGER_FORMAT, json_integer_value(value)) < 0)
		text = NULL;
	add_owned(attributes, key, text);
}

/* Tags, separated by commas. */
static void add_tags(struct attributes *attributes, const json_t *image)
{
	const json_t *tags = json_object_get(image, "tags"), *tag;
	char *text = NULL;
	size_t size, i;
	FILE *to;

	if (json_array_size(tags) == 0)
		return;
	to = open_memstream(&text, &size);
	if (!to)
		return;
	json_array_foreach(tags, i, tag)
	{
		const char *word = json_string_value(tag);

		fprintf(to, "%s%s", i > 0 ? "," : "", word ? word : "");
	}
	if (fclose(to) != 0) {
		free(text);
		text = NULL;
	}
	add_owned(attributes, "tags", text);
}

/* Seconds since 1970 of "2026-08-22T12:00:00Z", or INT64_MIN. */
static int64_t time_of(const char *text)
{
	struct tm tm = {0};
	const char *end = text ? strptime(text, "%Y-%m-%dT%H:%M:%S", &tm) : NULL;

	return end && (*end == 'Z' || *end == '.' || *end == '\0') ? timegm(&tm)
								   : INT64_MIN;
}

static void print(const json_t *image, const char *name)
{
	static const char *const keys[] = {
		"disk_format",	 "container_format", "checksum", "os_hash_algo",
		"os_hash_value", "visibility",	     "owner",	 "created_at",
		"updated_at",	 "virtual_size",     "min_disk", "min_ram",
		"protected",	 "os_hidden",
	};
	struct attributes attributes = {0};

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		add(&attributes, image, keys[i]);
	add_tags(&attributes, image);
	store_print_image(&(struct store_image){
		.name = name,
		.id = text_of(image, "id"),
		.size = json_integer_value(json_object_get(image, "size")),
		.allocated = UINT64_MAX,
		.mtime = time_of(text_of(image, "created_at")),
		/* The data of an active image is never changed (Image service API v2). */
		.immutable = true,
		.attrs = attributes.texts,
	});
	for (size_t i = 0; i < attributes.owned_count; i++)
		free(attributes.owned[i]);
}

/* Print @named, by its name alone or with its id. */
static int print_named(const struct named *named, bool alone)
{
	CLEANUP(freep) char *with_id = NULL;

	if (!alone &&
	    asprintf(&with_id, "%s~%s", named->name, text_of(named->image, "id")) < 0)
		return -ENOMEM;
	print(named->image, alone ? named->name : with_id);
	return 0;
}

static int print_sorted(const struct named *all, size_t count)
{
	for (size_t i = 0, end; i < count; i = end) {
		size_t different = 1;

		for (end = i + 1; end < count && !strcmp(all[i].name, all[end].name);
		     end++)
			different += compare(&all[end - 1], &all[end]) != 0;
		for (size_t j = i; j < end; j++) {
			/* Pages that move under way have an image twice. */
			if (j > i && compare(&all[j - 1], &all[j]) == 0)
				continue;
			if (print_named(&all[j], different == 1 && !all[j].is_borrowed) <
			    0)
				return -ENOMEM;
		}
	}
	return 0;
}

static int print_all(const struct listing *listing)
{
	struct named *all = calloc(listing->count + 1, sizeof(*all));
	int error = all ? 0 : -ENOMEM;

	for (size_t i = 0; i < listing->count && error == 0; i++) {
		all[i].image = listing->images[i];
		all[i].name = name_of(all[i].image);
		if (!all[i].name)
			error = -ENOMEM;
	}
	if (error == 0)
		error = find_borrowed(all, listing->count);
	if (error == 0) {
		qsort(all, listing->count, sizeof(*all), compare);
		error = print_sorted(all, listing->count);
	}
	for (size_t i = 0; all && i < listing->count; i++)
		free(all[i].name);
	free(all);
	if (error == 0)
		return STORE_OK;
	store_error("out of memory");
	return STORE_AGAIN;
}

int glance_list(const char *uri)
{
	struct listing listing = {0};
	int status = glance_session_new(uri, &listing.session);

	if (status != STORE_OK)
		return status;
	status = get_pages(&listing);
	if (status == STORE_OK)
		status = print_all(&listing);
	clear(&listing);
	free(listing.images);
	glance_session_free(listing.session);
	return status;
}
