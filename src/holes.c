/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <sys/eventfd.h>

#include "cleanup.h"
#include "clock.h"
#include "holes.h"

#define GOOD_MS 1000 /* how long the holes of an image that can change are believed */
#define PAUSE 10 /* and asked for in vain, or again, after so many times what it took */

void holes_init(struct holes *holes, struct engine *engine, struct image *image,
		pthread_mutex_t *lock)
{
	*holes = (struct holes){
		.engine = engine, .image = image, .lock = lock, .wake_fd = -1};
	TAILQ_INIT(&holes->seeks);
}

void holes_fini(struct holes *holes)
{
	extents_unref(holes->extents);
}

static bool is_good(const struct holes *holes, uint64_t since_ms)
{
	if (!holes->extents || holes->image->immutable)
		return holes->extents;
	return holes->asked_ms >= since_ms && clock_ms() - holes->asked_ms < GOOD_MS;
}

bool holes_cover(const struct holes *holes, uint64_t since_ms, uint64_t offset,
		 size_t size)
{
	return is_good(holes, since_ms) &&
	       extents_data(holes->extents, offset) >= offset + size;
}

/* Answer all on @seeks, without the lock. */
static void answer(struct seeks *seeks, int err, const struct extents *extents)
{
	struct seek *seek;

	while ((seek = TAILQ_FIRST(seeks))) {
		uint64_t offset = 0;

		TAILQ_REMOVE(seeks, seek, link);
		if (!err)
			offset = seek->hole ? extents_hole(extents, seek->offset)
					    : extents_data(extents, seek->offset);
		seek->done(seek, err, offset);
	}
}

/* Answer all who wait for what was asked at @asked_ms.  Drops the lock meanwhile. */
static void answer_all(struct holes *holes, int err, const struct extents *extents,
		       uint64_t asked_ms)
{
	struct seeks seeks = TAILQ_HEAD_INITIALIZER(seeks);
	struct seek *seek, *next;

	for (seek = TAILQ_FIRST(&holes->seeks); seek; seek = next) {
		next = TAILQ_NEXT(seek, link);
		if (seek->since_ms > asked_ms)
			continue;
		TAILQ_REMOVE(&holes->seeks, seek, link);
		TAILQ_INSERT_TAIL(&seeks, seek, link);
	}
	pthread_mutex_unlock(holes->lock);
	answer(&seeks, err, extents);
	pthread_mutex_lock(holes->lock);
}

int holes_seek(struct holes *holes, struct seek *seek)
{
	struct seeks seeks = TAILQ_HEAD_INITIALIZER(seeks);
	struct extents *extents;
	bool run;

	if (seek->given_up)
		return -EINTR;
	if (!is_good(holes, seek->since_ms)) {
		run = !holes->asking;
		TAILQ_INSERT_TAIL(&holes->seeks, seek, link);
		holes->asking = true;
		return run;
	}
	extents = extents_ref(holes->extents);
	TAILQ_INSERT_TAIL(&seeks, seek, link);
	pthread_mutex_unlock(holes->lock);
	answer(&seeks, 0, extents);
	extents_unref(extents);
	pthread_mutex_lock(holes->lock);
	return 0;
}

/*
 * Call the store, unless this has ended.  Drops the lock meanwhile.  An image that is open
 * and not asked about has no descriptor.
 */
static int call(struct holes *holes, struct extents **ret_extents)
{
	int err, fd;

	if (holes->ended)
		return -ECANCELED;
	fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd < 0)
		return -EIO;
	holes->wake_fd = fd;
	pthread_mutex_unlock(holes->lock);
	err = extents_new(holes->engine->store, holes->image, fd, ret_extents);
	pthread_mutex_lock(holes->lock);
	closep(&holes->wake_fd);
	return err;
}

static void ask(struct holes *holes)
{
	struct extents *extents = NULL;
	uint64_t asked_ms = clock_ms();
	int err = call(holes, &extents);

	holes->next_ms =
		clock_ms() + PAUSE * (clock_ms() - asked_ms) + (err ? GOOD_MS : 0);
	if (!err) {
		extents_unref(holes->extents);
		holes->extents = extents_ref(extents);
		holes->asked_ms = asked_ms;
		if (holes->take)
			holes->take(holes->context, extents);
	}
	/* Ended: those who come later are answered, too. */
	if (err == -ECANCELED)
		asked_ms = UINT64_MAX;
	answer_all(holes, err == -ECANCELED ? -EIO : err, extents, asked_ms);
	extents_unref(extents);
}

bool holes_want(struct holes *holes, uint64_t since_ms)
{
	uint64_t now = clock_ms();

	if (holes->asking || now < holes->next_ms)
		return false;
	/* Those that will not be good for long are looked for early. */
	if (is_good(holes, since_ms) &&
	    (holes->image->immutable || now - holes->asked_ms < GOOD_MS / 2))
		return false;
	holes->wanted = holes->asking = true;
	return true;
}

void holes_run(struct holes *holes)
{
	while (holes->wanted || !TAILQ_EMPTY(&holes->seeks)) {
		holes->wanted = false;
		ask(holes);
	}
	holes->asking = false;
}

void holes_fail(struct holes *holes, int err)
{
	holes->asking = holes->wanted = false;
	holes->next_ms = clock_ms() + GOOD_MS;
	answer_all(holes, err, NULL, UINT64_MAX);
}

bool holes_cancel(struct holes *holes, const struct seek *seek)
{
	struct seek *waiting;

	TAILQ_FOREACH (waiting, &holes->seeks, link) {
		if (waiting == seek) {
			TAILQ_REMOVE(&holes->seeks, waiting, link);
			return true;
		}
	}
	return false;
}

void holes_end(struct holes *holes)
{
	holes->ended = true;
	if (holes->wake_fd >= 0)
		eventfd_write(holes->wake_fd, 1);
}
