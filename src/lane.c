/* SPDX-License-Identifier: MIT */
/*
 * Answers have no names: they come in the order of asking.  So a read that is given up
 * (an interrupt) leaves its ask in its place, and its bytes are thrown away.
 */
#include <assert.h>
#include <errno.h>

#include "cleanup.h"
#include "clock.h"
#include "lane.h"
#include "source.h"

struct ask {
	TAILQ_ENTRY(ask) link;
	uint64_t offset;
	size_t size;
	struct read *read; /* NULL: nobody waits for it any more */
};

struct lane {
	/* constant */
	struct engine *engine;
	pthread_mutex_t *lock;
	struct source *source; /* used by the thread alone */
	/* the lock guards the rest */
	pthread_cond_t work;
	TAILQ_HEAD(asks, ask) asks; /* in the order of asking */
	size_t count;
	size_t sent; /* of them, the first so many were sent to the program */
	uint64_t used_ms;
	uint64_t stalled_ms;
	bool in_source; /* the thread waits there, and has to be woken for more */
	bool ending;
	/* the thread's own */
	unsigned char *data; /* of the first ask */
	size_t room, have;
};

int lane_new(struct engine *engine, struct image *image, pthread_mutex_t *lock,
	     struct lane **ret_lane)
{
	struct lane *lane = calloc(1, sizeof(*lane));
	int ret = lane ? source_new(engine->store, image, &lane->source) : -ENOMEM;

	if (ret < 0) {
		free(lane);
		return ret;
	}
	lane->engine = engine;
	lane->lock = lock;
	lane->used_ms = clock_ms();
	TAILQ_INIT(&lane->asks);
	cond_init(&lane->work);
	*ret_lane = lane;
	return 0;
}

void lane_free(struct lane *lane)
{
	if (!lane)
		return;
	assert(TAILQ_EMPTY(&lane->asks));
	source_free(lane->source);
	pthread_cond_destroy(&lane->work);
	free(lane->data);
	free(lane);
}

bool lane_is_open(const struct lane *lane)
{
	return !lane->ending;
}

size_t lane_load(const struct lane *lane)
{
	return lane->count;
}

static void wake(struct lane *lane)
{
	if (lane->in_source)
		source_wake(lane->source);
	else
		pthread_cond_signal(&lane->work);
}

int lane_park(struct lane *lane, struct read *read)
{
	struct ask *ask = malloc(sizeof(*ask));

	if (!ask)
		return -ENOMEM;
	*ask = (struct ask){.offset = read->offset, .size = read->size, .read = read};
	TAILQ_INSERT_TAIL(&lane->asks, ask, link);
	lane->count++;
	lane->used_ms = clock_ms();
	wake(lane);
	return 0;
}

bool lane_unpark(struct lane *lane, const struct read *read)
{
	struct ask *ask = TAILQ_FIRST(&lane->asks);
	size_t before = 0;

	for (; ask && ask->read != read; ask = TAILQ_NEXT(ask, link))
		before++;
	if (!ask)
		return false;
	ask->read = NULL;
	if (before >= lane->sent) {
		TAILQ_REMOVE(&lane->asks, ask, link);
		lane->count--;
		free(ask);
	}
	return true;
}

uint64_t lane_stalled_ms(const struct lane *lane)
{
	return lane->stalled_ms;
}

void lane_end(struct lane *lane)
{
	lane->ending = true;
	wake(lane);
}

/* ---- the thread ---- */

static struct read *take_first(struct lane *lane)
{
	struct ask *ask = TAILQ_FIRST(&lane->asks);
	struct read *read = ask->read;

	TAILQ_REMOVE(&lane->asks, ask, link);
	lane->count--;
	lane->sent -= lane->sent > 0;
	lane->have = 0;
	free(ask);
	return read;
}

/* Answer the first @count asks with @err.  The lock is dropped meanwhile. */
static void fail_first(struct lane *lane, size_t count, int err)
{
	struct reads failed = TAILQ_HEAD_INITIALIZER(failed);

	while (count-- && !TAILQ_EMPTY(&lane->asks)) {
		struct read *read = take_first(lane);

		if (read)
			TAILQ_INSERT_TAIL(&failed, read, link);
	}
	pthread_mutex_unlock(lane->lock);
	reads_fail(&failed, err);
	pthread_mutex_lock(lane->lock);
}

static struct ask *first_unsent(struct lane *lane)
{
	struct ask *ask = TAILQ_FIRST(&lane->asks);

	for (size_t i = 0; ask && i < lane->sent; i++)
		ask = TAILQ_NEXT(ask, link);
	return ask;
}

/* Ask for what was not asked for yet.  Returns 0, or a final error.  Drops the lock. */
static int send_asks(struct lane *lane)
{
	struct ask *ask;
	int ret = 0;

	while (!ret && lane->sent < SOURCE_ASKS_MAX && (ask = first_unsent(lane))) {
		uint64_t offset = ask->offset, size = ask->size;

		lane->sent++;
		pthread_mutex_unlock(lane->lock);
		ret = source_ask(lane->source, offset, size);
		pthread_mutex_lock(lane->lock);
	}
	return ret;
}

static int make_room(struct lane *lane, size_t size)
{
	unsigned char *data;

	if (size <= lane->room)
		return 0;
	data = realloc(lane->data, size);
	if (!data)
		return -ENOMEM;
	lane->data = data;
	lane->room = size;
	return 0;
}

/* Read on in the first answer.  Returns 0 or a final error.  Drops the lock. */
static int receive(struct lane *lane)
{
	struct ask *ask = TAILQ_FIRST(&lane->asks);
	int ret = make_room(lane, ask->size);
	struct iovec iov;
	struct read *read;
	ssize_t n;

	if (ret < 0)
		return ret;
	iov = (struct iovec){lane->data + lane->have, ask->size - lane->have};
	lane->in_source = true;
	pthread_mutex_unlock(lane->lock);
	n = source_readv(lane->source, &iov, 1);
	pthread_mutex_lock(lane->lock);
	lane->in_source = false;
	source_awake(lane->source);
	if (n == -ECANCELED)
		return 0;
	if (n < 0)
		return (int)n;
	lane->have += (size_t)n;
	if (lane->have < ask->size)
		return 0;
	iov = (struct iovec){lane->data, ask->size};
	read = take_first(lane);
	lane->used_ms = clock_ms();
	if (read) {
		pthread_mutex_unlock(lane->lock);
		read->reply(read, 0, &iov, 1);
		pthread_mutex_lock(lane->lock);
	}
	return 0;
}

/* Nothing is asked: wait, and end when that has been so for long. */
static void rest(struct lane *lane)
{
	uint64_t deadline = lane->used_ms + lane->engine->idle_ms;

	if (cond_wait_until(&lane->work, lane->lock, deadline) == -ETIMEDOUT &&
	    TAILQ_EMPTY(&lane->asks) &&
	    clock_ms() >= lane->used_ms + lane->engine->idle_ms)
		lane->ending = true;
}

void lane_run(struct lane *lane)
{
	while (!lane->ending) {
		int ret;

		if (TAILQ_EMPTY(&lane->asks)) {
			rest(lane);
			continue;
		}
		ret = send_asks(lane);
		if (!ret && !lane->ending)
			ret = receive(lane);
		if (ret == -ETIMEDOUT)
			lane->stalled_ms = clock_ms();
		/* Without memory an answer under way cannot be read to its end. */
		if (ret == -ENOMEM)
			lane->ending = true;
		/* The source has forgotten what was sent; what was not is tried anew. */
		if (ret < 0)
			fail_first(lane, MAX(lane->sent, (size_t)1), ret);
	}
	fail_first(lane, lane->count, -EIO);
}
