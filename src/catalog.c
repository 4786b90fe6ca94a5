/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/eventfd.h>

#include "catalog.h"
#include "cleanup.h"
#include "clock.h"
#include "log.h"
#include "thread.h"

#define GRACE_MS 1000

TAILQ_HEAD(waits, catalog_wait);

struct catalog {
	const struct store *store;
	uint64_t ttl_ms;
	int wake_fd; /* ends a listing that is under way */
	pthread_t lister, server;
	pthread_mutex_t lock; /* guards the rest */
	pthread_cond_t wanted; /* a listing is wanted, or the end: for the lister */
	pthread_cond_t waiting; /* somebody waits, a listing is done: for the server */
	struct waits waits; /* for a listing that is still to begin */
	struct waits attended; /* for the one that runs */
	struct waits finished; /* for one that has ended, as err says */
	struct listing *listing;
	uint64_t listed_ms; /* when the listing was begun */
	uint64_t turn; /* counts the listings that ended */
	int err; /* how the last one ended */
	bool expired;
	bool failing; /* the last one failed, and that was logged */
	bool ending;
};

static bool is_fresh(const struct catalog *catalog)
{
	return !catalog->expired && clock_ms() - catalog->listed_ms < catalog->ttl_ms;
}

/* Call back everybody on @list, which is emptied. */
static void serve_all(struct waits *list, int err, struct listing *listing)
{
	struct catalog_wait *wait;

	while ((wait = TAILQ_FIRST(list))) {
		TAILQ_REMOVE(list, wait, link);
		wait->done(wait, err, listing);
	}
}

/* List once.  Called and returns with the lock held, without it meanwhile. */
static void list_locked(struct catalog *catalog)
{
	struct listing *old = listing_ref(catalog->listing), *new = NULL;
	CLEANUP(freep) char *text = NULL;
	uint64_t begun = clock_ms();
	bool failing = catalog->failing;
	int err;

	catalog->expired = false;
	TAILQ_CONCAT(&catalog->attended, &catalog->waits, link);
	pthread_mutex_unlock(&catalog->lock);
	err = listing_new(catalog->store, old, catalog->wake_fd, &new, &text);
	listing_unref(old);
	if (err && err != -ECANCELED && !failing)
		log_line(LOG_ERR, "%s: %s", catalog->store->shown,
			 text ? text : strerror(-err));
	if (!err && failing)
		log_line(LOG_INFO, "%s: the store is listed again",
			 catalog->store->shown);
	pthread_mutex_lock(&catalog->lock);
	/* A store that hangs stops no ls: the old listing goes on serving. */
	catalog->err = err == -ETIMEDOUT ? 0 : err;
	catalog->failing = err;
	if (!err) {
		old = catalog->listing;
		catalog->listing = new;
		catalog->listed_ms = begun;
		listing_unref(old);
	}
	TAILQ_CONCAT(&catalog->finished, &catalog->attended, link);
	/* Those who came meanwhile are as well served, unless it was expired meanwhile. */
	if (is_fresh(catalog))
		TAILQ_CONCAT(&catalog->finished, &catalog->waits, link);
	pthread_cond_signal(&catalog->waiting);
}

static void *be_lister(void *context)
{
	struct catalog *catalog = context;

	pthread_mutex_lock(&catalog->lock);
	while (!catalog->ending) {
		if (!TAILQ_EMPTY(&catalog->waits) && !is_fresh(catalog))
			list_locked(catalog);
		else
			pthread_cond_wait(&catalog->wanted, &catalog->lock);
	}
	pthread_mutex_unlock(&catalog->lock);
	return NULL;
}

/* Move those whose grace is used up.  Returns when the next one's is. */
static uint64_t move_late(struct waits *from, struct waits *to)
{
	struct catalog_wait *wait;

	while ((wait = TAILQ_FIRST(from)) && wait->deadline_ms <= clock_ms()) {
		TAILQ_REMOVE(from, wait, link);
		TAILQ_INSERT_TAIL(to, wait, link);
	}
	return wait ? wait->deadline_ms : UINT64_MAX;
}

static void *be_server(void *context)
{
	struct catalog *catalog = context;

	pthread_mutex_lock(&catalog->lock);
	while (!catalog->ending) {
		struct waits finished = TAILQ_HEAD_INITIALIZER(finished);
		struct waits late = TAILQ_HEAD_INITIALIZER(late);
		uint64_t next = move_late(&catalog->attended, &late);
		struct listing *listing;
		int err = catalog->err;

		next = MIN(next, move_late(&catalog->waits, &late));
		TAILQ_CONCAT(&finished, &catalog->finished, link);
		if (TAILQ_EMPTY(&finished) && TAILQ_EMPTY(&late)) {
			if (next == UINT64_MAX)
				pthread_cond_wait(&catalog->waiting, &catalog->lock);
			else
				cond_wait_until(&catalog->waiting, &catalog->lock, next);
			continue;
		}
		listing = listing_ref(catalog->listing);
		pthread_mutex_unlock(&catalog->lock);
		serve_all(&finished, err, listing);
		/* A failure is told to those who waited for it; who gave up gets the old one. */
		serve_all(&late, 0, listing);
		listing_unref(listing);
		pthread_mutex_lock(&catalog->lock);
	}
	pthread_mutex_unlock(&catalog->lock);
	return NULL;
}

void catalog_get(struct catalog *catalog, struct catalog_wait *wait)
{
	struct listing *listing = NULL;

	pthread_mutex_lock(&catalog->lock);
	if (is_fresh(catalog)) {
		listing = listing_ref(catalog->listing);
	} else {
		wait->deadline_ms = clock_ms() + GRACE_MS;
		TAILQ_INSERT_TAIL(&catalog->waits, wait, link);
		pthread_cond_signal(&catalog->wanted);
		pthread_cond_signal(&catalog->waiting);
	}
	pthread_mutex_unlock(&catalog->lock);
	if (listing)
		wait->done(wait, 0, listing);
	listing_unref(listing);
}

struct listing *catalog_last(struct catalog *catalog)
{
	struct listing *listing;

	pthread_mutex_lock(&catalog->lock);
	listing = listing_ref(catalog->listing);
	pthread_mutex_unlock(&catalog->lock);
	return listing;
}

void catalog_expire(struct catalog *catalog)
{
	pthread_mutex_lock(&catalog->lock);
	catalog->expired = true;
	pthread_mutex_unlock(&catalog->lock);
}

static void catalog_freep(struct catalog **catalog)
{
	catalog_free(*catalog);
}

static int start(struct catalog *catalog)
{
	int ret = thread_start(be_lister, catalog, &catalog->lister);

	if (ret < 0)
		return ret;
	ret = thread_start(be_server, catalog, &catalog->server);
	if (!ret)
		return 0;
	pthread_mutex_lock(&catalog->lock);
	catalog->ending = true;
	pthread_cond_signal(&catalog->wanted);
	pthread_mutex_unlock(&catalog->lock);
	pthread_join(catalog->lister, NULL);
	return ret;
}

int catalog_new(const struct store *store, uint64_t ttl_ms, struct catalog **ret_catalog)
{
	CLEANUP(catalog_freep) struct catalog *catalog = calloc(1, sizeof(*catalog));
	CLEANUP(freep) char *text = NULL;
	int ret;

	if (!catalog)
		return -ENOMEM;
	catalog->store = store;
	catalog->ttl_ms = ttl_ms;
	TAILQ_INIT(&catalog->waits);
	TAILQ_INIT(&catalog->attended);
	TAILQ_INIT(&catalog->finished);
	pthread_mutex_init(&catalog->lock, NULL);
	cond_init(&catalog->wanted);
	cond_init(&catalog->waiting);
	catalog->ending = true; /* until there are threads */
	catalog->listed_ms = clock_ms();
	catalog->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (catalog->wake_fd < 0)
		return -errno;
	ret = listing_new(store, NULL, -1, &catalog->listing, &text);
	if (!ret) {
		catalog->ending = false;
		ret = start(catalog);
		if (ret < 0)
			catalog->ending = true;
	}
	if (ret < 0) {
		log_line(LOG_ERR, "%s: %s", store->shown, text ? text : strerror(-ret));
		return ret;
	}
	*ret_catalog = STEAL(catalog);
	return 0;
}

void catalog_end(struct catalog *catalog)
{
	bool started;

	pthread_mutex_lock(&catalog->lock);
	started = !catalog->ending;
	catalog->ending = true;
	pthread_cond_signal(&catalog->wanted);
	pthread_cond_signal(&catalog->waiting);
	pthread_mutex_unlock(&catalog->lock);
	if (started) {
		eventfd_write(catalog->wake_fd, 1);
		pthread_join(catalog->lister, NULL);
		pthread_join(catalog->server, NULL);
	}
	serve_all(&catalog->finished, -EIO, NULL);
	serve_all(&catalog->attended, -EIO, NULL);
	serve_all(&catalog->waits, -EIO, NULL);
}

void catalog_free(struct catalog *catalog)
{
	if (!catalog)
		return;
	catalog_end(catalog);
	listing_unref(catalog->listing);
	closep(&catalog->wake_fd);
	pthread_cond_destroy(&catalog->waiting);
	pthread_cond_destroy(&catalog->wanted);
	pthread_mutex_destroy(&catalog->lock);
	free(catalog);
}
