/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "call.h"
#include "cleanup.h"
#include "listing.h"
#include "log.h"
#include "text.h"

#define FIRST_ROOM 64
#define LOGGED_MAX 10 /* wrong lines of one list; the rest is counted */

struct id_entry {
	char *name;
	struct image *image; /* borrowed from the listing */
};

struct collection {
	const struct store *store;
	struct listing *listing;
	size_t room;
	size_t wrong;
};

static void listing_unrefp(struct listing **listing)
{
	listing_unref(*listing);
}

static int take_line(void *context, char *line, size_t size)
{
	struct collection *all = context;
	struct listing *listing = all->listing;
	const char *why;
	int ret;

	if (listing->count == all->room) {
		size_t room = all->room ? 2 * all->room : FIRST_ROOM;
		struct image **images =
			reallocarray(listing->images, room, sizeof(struct image *));

		if (!images)
			return -ENOMEM;
		listing->images = images;
		all->room = room;
	}
	ret = image_parse(line, size, &listing->images[listing->count], &why);
	if (ret == -EBADMSG) {
		if (all->wrong++ < LOGGED_MAX)
			log_line(LOG_WARNING,
				 "a line of the store's list is left out: %s: %.200s",
				 why, line);
		return 0;
	}
	if (ret < 0)
		return ret;
	if (all->store->immutable)
		listing->images[listing->count]->immutable = true;
	listing->count++;
	return 0;
}

static int compare_names(const void *a, const void *b)
{
	const struct image *const *x = a, *const *y = b;

	return strcmp((*x)->file_name, (*y)->file_name);
}

static int compare_names_and_ids(const void *a, const void *b)
{
	const struct image *const *x = a, *const *y = b;
	int order = compare_names(a, b);

	return order ? order : strcmp((*x)->id, (*y)->id);
}

static void sort(struct listing *listing)
{
	if (listing->count)
		qsort(listing->images, listing->count, sizeof(struct image *),
		      compare_names_and_ids);
}

/* Leave out what is listed twice, and tell images of one name apart by their ids. */
static int make_unique(struct listing *listing)
{
	const struct image *first = NULL; /* the one that keeps the name */
	size_t kept = 0;
	bool renamed = false;

	for (size_t i = 0; i < listing->count; i++) {
		struct image *image = listing->images[i];
		bool same = first && !strcmp(first->file_name, image->file_name);

		if (same && !strcmp(listing->images[kept - 1]->id, image->id)) {
			image_unref(image);
			continue;
		}
		listing->images[kept++] = image;
		if (!same) {
			/* The name is to be compared with, so it must not change here. */
			first = image;
			continue;
		}
		free(image->file_name);
		image->file_name = text_file_name_of_id(image->name, image->id);
		if (!image->file_name) {
			listing->count = kept;
			return -ENOMEM;
		}
		renamed = true;
	}
	listing->count = kept;
	if (renamed)
		sort(listing);
	return 0;
}

/*
 * Take over from @old what has not changed: the same image is the same file, and what was
 * counted goes on where only what is said of it has changed.
 */
static void reuse(struct listing *listing, const struct listing *old)
{
	for (size_t i = 0; i < listing->count; i++) {
		struct image *was = listing_find(old, listing->images[i]->file_name);

		if (was && image_equal(was, listing->images[i])) {
			image_unref(listing->images[i]);
			listing->images[i] = image_ref(was);
		} else if (was) {
			image_go_on(listing->images[i], was);
		}
	}
}

/* Turn the outcome of the call into an errno that says something to whoever lists. */
static int explain(const struct store *store, int ret, char **text)
{
	const char *said = *text && **text ? *text : "it said nothing";
	char *why = NULL;
	int n = 0;

	if (ret > 0)
		n = asprintf(&why, "the store's list failed: %s (%s, status %d)", said,
			     store->program, ret);
	else if (ret == -ETIMEDOUT)
		n = asprintf(&why, "the store's list gave nothing for %g s",
			     (double)store->stall_ms / 1000);
	else if (ret == -EBADMSG)
		n = asprintf(&why,
			     "the store's list ends in the middle of a line, or has one "
			     "that is too long");
	else
		n = asprintf(&why, "the store's list failed: %s", strerror(-ret));
	free(*text);
	*text = n < 0 ? NULL : why;
	if (ret > 0)
		return store_errno(ret);
	return ret == -ETIMEDOUT || ret == -ECANCELED || ret == -ENOMEM ? ret : -EIO;
}

int listing_new(const struct store *store, const struct listing *old, int wake_fd,
		struct listing **ret_listing, char **ret_text)
{
	CLEANUP(listing_unrefp) struct listing *listing = calloc(1, sizeof(*listing));
	struct collection all = {.store = store, .listing = listing};
	CLEANUP(freep) char *text = NULL;
	int ret;

	if (!listing)
		return -ENOMEM;
	listing->refs = 1;
	ret = call_store(store, "list", NULL, wake_fd, take_line, &all, &text);
	if (all.wrong > LOGGED_MAX)
		log_line(LOG_WARNING, "%zu more lines of the store's list are left out",
			 all.wrong - LOGGED_MAX);
	if (!ret) {
		sort(listing);
		ret = make_unique(listing);
	}
	if (ret) {
		ret = explain(store, ret, &text);
		*ret_text = STEAL(text);
		return ret;
	}
	if (old)
		reuse(listing, old);
	*ret_listing = STEAL(listing);
	return 0;
}

struct image *listing_find(const struct listing *listing, const char *file_name)
{
	struct image key = {.file_name = (char *)file_name}, *const wanted = &key;
	struct image **found;

	if (!listing->count)
		return NULL;
	found = bsearch(&wanted, listing->images, listing->count, sizeof(struct image *),
			compare_names);
	return found ? *found : NULL;
}

char *listing_id_name(const struct image *image)
{
	return text_file_name(image->id);
}

static int compare_id_names(const void *a, const void *b)
{
	const struct id_entry *x = a, *y = b;

	return strcmp(x->name, y->name);
}

static void free_by_id(struct id_entry *by_id, size_t count)
{
	for (size_t i = 0; by_id && i < count; i++)
		free(by_id[i].name);
	free(by_id);
}

static struct id_entry *sort_by_id(const struct listing *listing)
{
	struct id_entry *by_id = calloc(listing->count + 1, sizeof(*by_id));

	for (size_t i = 0; by_id && i < listing->count; i++) {
		by_id[i].image = listing->images[i];
		by_id[i].name = listing_id_name(by_id[i].image);
		if (!by_id[i].name) {
			free_by_id(by_id, i);
			return NULL;
		}
	}
	if (by_id)
		qsort(by_id, listing->count, sizeof(*by_id), compare_id_names);
	return by_id;
}

int listing_find_id(struct listing *listing, const char *id_name,
		    struct image **ret_image)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	struct id_entry key = {.name = (char *)id_name}, *found = NULL;
	bool sorted;

	pthread_mutex_lock(&lock);
	if (!listing->by_id)
		listing->by_id = sort_by_id(listing);
	sorted = listing->by_id;
	pthread_mutex_unlock(&lock);
	if (!sorted)
		return -ENOMEM;
	found = bsearch(&key, listing->by_id, listing->count, sizeof(key),
			compare_id_names);
	*ret_image = found ? found->image : NULL;
	return 0;
}

struct listing *listing_ref(struct listing *listing)
{
	atomic_fetch_add(&listing->refs, 1);
	return listing;
}

void listing_unref(struct listing *listing)
{
	if (!listing || atomic_fetch_sub(&listing->refs, 1) > 1)
		return;
	for (size_t i = 0; i < listing->count; i++)
		image_unref(listing->images[i]);
	free_by_id(listing->by_id, listing->count);
	free(listing->images);
	free(listing);
}
