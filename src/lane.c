/* SPDX-License-Identifier: MIT */
/*
 * Whoever parks a read asks the program for it, so that the lane's thread has only answers
 * to take; it takes as many small ones at once as have come.
 *
 * Large answers go from the program's pipe to the kernel as they are (pass.h).
 *
 * Answers have no names: they come in the order of asking.  So a read that is given up
 * (an interrupt) leaves its ask in its place, and its bytes are thrown away.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "cleanup.h"
#include "clock.h"
#include "lane.h"
#include "pass.h"
#include "source.h"

#define BUFFER_SIZE (128u << 10)
#define SMALL (64u << 10) /* answers up to that are taken together */

struct ask {
	TAILQ_ENTRY(ask) link;
	uint64_t offset;
	size_t size;
	struct read *read; /* NULL: nobody waits for it any more */
};

TAILQ_HEAD(asks, ask);

struct lane {
	/* constant */
	struct engine *engine;
	struct image *image;
	pthread_mutex_t *lock; /* guards the rest */
	struct source *source;
	const struct owner *owner;
	struct asks asks; /* in the order of asking */
	size_t count;
	size_t sent; /* of them, the first so many were sent to the program */
	uint64_t used_ms;
	bool ending;
	bool retiring; /* that is, once nothing is asked */
	bool attended; /* the thread leaves it to another to take what comes */
	pthread_cond_t unattended;
	bool taking; /* somebody does, and the rest is his own */
	unsigned char *data; /* from the first ask's first byte on */
	size_t room, have;
	struct pass pass; /* the bytes that follow those */
	bool never_passes; /* it did not go well */
};

int lane_new(struct engine *engine, struct image *image, pthread_mutex_t *lock,
	     const struct owner *owner, struct lane **ret_lane)
{
	struct lane *lane = calloc(1, sizeof(*lane));
	int ret = lane ? source_new(engine, image, lock, &lane->source) : -ENOMEM;

	if (!ret) {
		lane->data = malloc(BUFFER_SIZE);
		ret = lane->data ? 0 : -ENOMEM;
	}
	if (ret < 0) {
		if (lane)
			source_free(lane->source);
		free(lane);
		return ret;
	}
	lane->room = BUFFER_SIZE;
	lane->engine = engine;
	lane->image = image;
	lane->lock = lock;
	lane->owner = owner;
	lane->used_ms = clock_ms();
	lane->pass = PASS_INIT;
	TAILQ_INIT(&lane->asks);
	cond_init(&lane->unattended);
	engine_ring_changes(engine, image->stats, 0, lane->room);
	*ret_lane = lane;
	return 0;
}

void lane_free(struct lane *lane)
{
	if (!lane)
		return;
	assert(TAILQ_EMPTY(&lane->asks));
	engine_ring_changes(lane->engine, lane->image->stats, lane->room, 0);
	source_free(lane->source);
	pthread_cond_destroy(&lane->unattended);
	pass_fini(&lane->pass);
	free(lane->data);
	free(lane);
}

bool lane_is_open(const struct lane *lane)
{
	return !lane->ending && !lane->retiring;
}

size_t lane_load(const struct lane *lane)
{
	return lane->count;
}

uint64_t lane_waiting_since(const struct lane *lane)
{
	const struct ask *ask = TAILQ_FIRST(&lane->asks);

	while (ask && !ask->read)
		ask = TAILQ_NEXT(ask, link);
	return ask ? ask->read->parked_ms : UINT64_MAX;
}

void lane_end(struct lane *lane)
{
	lane->ending = true;
	source_wake(lane->source);
	pthread_cond_signal(&lane->unattended);
}

void lane_retire(struct lane *lane)
{
	lane->retiring = true;
	if (TAILQ_EMPTY(&lane->asks))
		lane_end(lane);
}

static struct ask *first_unsent(struct lane *lane)
{
	struct ask *ask = TAILQ_FIRST(&lane->asks);

	for (size_t i = 0; ask && i < lane->sent; i++)
		ask = TAILQ_NEXT(ask, link);
	return ask;
}

/* Ask for what was not asked for yet.  Returns 0, or a final error. */
static int send_asks(struct lane *lane)
{
	struct ask *ask = lane->sent < lane->count ? first_unsent(lane) : NULL;
	int ret = 0;

	for (; !ret && ask && lane->sent < SOURCE_ASKS_MAX; ask = TAILQ_NEXT(ask, link)) {
		lane->sent++;
		ret = source_ask(lane->source, ask->offset, ask->size);
	}
	return ret;
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
	/* While the thread is elsewhere only it asks: it may find that all has failed. */
	if (lane->sent + 1 == lane->count && lane->sent < SOURCE_ASKS_MAX &&
	    (source_is_read(lane->source) || lane->attended)) {
		lane->sent++;
		source_ask_later(lane->source, ask->offset, ask->size);
	}
	return 0;
}

void lane_flush(struct lane *lane)
{
	source_flush(lane->source);
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

/* ---- the thread ---- */

/* Move the first ask to @list. */
static void take_first(struct lane *lane, struct asks *list)
{
	struct ask *ask = TAILQ_FIRST(&lane->asks);

	TAILQ_REMOVE(&lane->asks, ask, link);
	TAILQ_INSERT_TAIL(list, ask, link);
	lane->count--;
	lane->sent -= lane->sent > 0;
}

/*
 * Answer all asks on @list, with @err or from the data.  Drops the lock meanwhile.
 * Returns the number of bytes that they had.
 */
static size_t answer(struct lane *lane, struct asks *list, int err)
{
	size_t at = 0;
	struct ask *ask;

	pthread_mutex_unlock(lane->lock);
	while ((ask = TAILQ_FIRST(list))) {
		struct iovec iov = {lane->data + at, ask->size};

		TAILQ_REMOVE(list, ask, link);
		if (ask->read)
			ask->read->reply(ask->read, err, err ? NULL : &iov, !err);
		at += ask->size;
		free(ask);
	}
	pthread_mutex_lock(lane->lock);
	return at;
}

/* Answer the first @count asks with @err. */
static void fail_first(struct lane *lane, size_t count, int err)
{
	struct asks failed = TAILQ_HEAD_INITIALIZER(failed);

	while (count-- && !TAILQ_EMPTY(&lane->asks))
		take_first(lane, &failed);
	lane->have = 0;
	pass_fini(&lane->pass);
	answer(lane, &failed, err);
}

/* The source has failed finally, and has forgotten what was sent. */
static void fail(struct lane *lane, int err)
{
	size_t count = MAX(lane->sent, (size_t)1);
	uint64_t start = UINT64_MAX, end = 0;
	const struct ask *ask = TAILQ_FIRST(&lane->asks);

	for (size_t i = 0; ask && i < count; i++, ask = TAILQ_NEXT(ask, link)) {
		start = MIN(start, ask->offset);
		end = MAX(end, ask->offset + ask->size);
	}
	lane->owner->failed(lane->owner->context, err, source_is_lost(lane->source),
			    start, end);
	fail_first(lane, count, err);
}

/* Make room for the whole of the first answer. */
static int make_room(struct lane *lane)
{
	const struct ask *ask = TAILQ_FIRST(&lane->asks);
	unsigned char *data;

	if (!ask || ask->size <= lane->room)
		return 0;
	data = realloc(lane->data, ask->size);
	if (!data)
		return -ENOMEM;
	engine_ring_changes(lane->engine, lane->image->stats, lane->room, ask->size);
	lane->data = data;
	lane->room = ask->size;
	return 0;
}

/* How much to read: the rest of a long answer, or what there is of short ones. */
static size_t wanted(const struct lane *lane)
{
	const struct ask *ask = TAILQ_FIRST(&lane->asks);

	return ask && ask->size > SMALL ? ask->size - lane->have
					: BUFFER_SIZE - lane->have;
}

/*
 * Answer those whose bytes are all there, and keep the rest for the next time.  Returns
 * how many.
 */
static size_t deliver(struct lane *lane)
{
	struct asks done = TAILQ_HEAD_INITIALIZER(done);
	size_t bytes = 0, count = 0;
	struct ask *ask;

	while ((ask = TAILQ_FIRST(&lane->asks)) && ask->size <= lane->have - bytes) {
		bytes += ask->size;
		count++;
		take_first(lane, &done);
	}
	if (!count)
		return 0;
	lane->used_ms = clock_ms();
	answer(lane, &done, 0);
	lane->have -= bytes;
	memmove(lane->data, lane->data + bytes, lane->have);
	if (lane->retiring && TAILQ_EMPTY(&lane->asks))
		lane_end(lane);
	return count;
}

/* Whether all of the first answer is yet to come, and is worth a pipe. */
static bool can_pass(const struct lane *lane)
{
	const struct ask *ask = TAILQ_FIRST(&lane->asks);

	return ask && ask->read && ask->read->pass && ask->size >= PASS_MIN &&
	       lane->sent && !lane->have && !lane->pass.gathered && !lane->never_passes;
}

/* Whether the reply that was gathered can be given out. */
static bool is_still_wanted(const struct lane *lane)
{
	const struct read *read = TAILQ_FIRST(&lane->asks)->read;

	return !lane->ending && read &&
	       pass_is_of(&lane->pass, read->header, read->header_size);
}

/* Give out what was gathered for the first ask.  Returns 0 or a final error. */
static int give_out(struct lane *lane)
{
	struct asks done = TAILQ_HEAD_INITIALIZER(done);
	struct ask *ask = TAILQ_FIRST(&lane->asks);
	int ret;

	take_first(lane, &done);
	lane->used_ms = clock_ms();
	pthread_mutex_unlock(lane->lock);
	ret = ask->read->pass(ask->read, lane->pass.fds[0]);
	pthread_mutex_lock(lane->lock);
	if (!ret) {
		pass_done(&lane->pass);
		stats_add(&lane->engine->stats, lane->image->stats, COUNT_PASSED, 1);
		free(ask);
		return 0;
	}
	/* The kernel is short of memory for it. */
	lane->never_passes = true;
	TAILQ_INSERT_HEAD(&lane->asks, ask, link);
	lane->count++;
	lane->sent++;
	return pass_is_whole(&lane->pass) ? 0 : -EIO;
}

/*
 * Have the first answer go to the kernel from pipe to pipe.  If that does not come about,
 * what was gathered is read from there.  Returns 0 or a final error.
 */
static int pass_on(struct lane *lane)
{
	const struct ask *ask = TAILQ_FIRST(&lane->asks);
	size_t size = ask->size;
	ssize_t n = 1;

	if (pass_begin(&lane->pass, ask->read->header, ask->read->header_size, size) <
	    0) {
		lane->never_passes = true;
		return 0;
	}
	while (n > 0 && lane->pass.gathered < size && is_still_wanted(lane)) {
		n = source_splice(lane->source, lane->pass.fds[1],
				  size - lane->pass.gathered);
		if (n > 0)
			lane->pass.gathered += (size_t)n;
	}
	if (n == -ENOBUFS)
		lane->never_passes = true;
	else if (n < 0 && n != -ECANCELED)
		return (int)n;
	else if (lane->pass.gathered == size && is_still_wanted(lane))
		return give_out(lane);
	return 0;
}

/* Take what the program sends.  Returns 0 or a final error. */
static int receive(struct lane *lane)
{
	uint64_t idle_ms = lane->used_ms + lane->engine->idle_ms;
	int ret = make_room(lane);
	struct iovec iov;
	ssize_t n;

	if (ret < 0)
		return ret;
	iov = (struct iovec){lane->data + lane->have, wanted(lane)};
	n = lane->pass.gathered ? pass_readv(&lane->pass, &iov, 1)
				: source_readv(lane->source, &iov, 1, idle_ms);
	if (n < 0)
		return n == -ECANCELED ? 0 : (int)n;
	lane->have += (size_t)n;
	if (n)
		deliver(lane);
	else if (TAILQ_EMPTY(&lane->asks) &&
		 clock_ms() >= lane->used_ms + lane->engine->idle_ms)
		lane->ending = true;
	return 0;
}

void lane_unattend(struct lane *lane)
{
	if (!lane->attended)
		return;
	lane->attended = false;
	pthread_cond_signal(&lane->unattended);
}

size_t lane_attend(struct lane *lane)
{
	const struct ask *ask = TAILQ_FIRST(&lane->asks);
	struct iovec iov;
	size_t count = 0;
	ssize_t n;

	if (!ask || lane->ending || ask->size > SMALL || lane->sent < lane->count) {
		lane_unattend(lane);
		return 0;
	}
	if (!lane->attended)
		source_wake(lane->source);
	lane->attended = true;
	/* The thread is on its way out. */
	if (lane->taking)
		return 0;
	lane->taking = true;
	iov = (struct iovec){lane->data + lane->have, wanted(lane)};
	n = source_try_readv(lane->source, &iov, 1);
	if (n > 0) {
		lane->have += (size_t)n;
		count = deliver(lane);
	}
	lane->taking = false;
	if (n < 0)
		lane->attended = false;
	/* It may have been unattended meanwhile: the thread waits for both. */
	if (!lane->attended)
		pthread_cond_signal(&lane->unattended);
	return count;
}

void lane_run(struct lane *lane)
{
	while (!lane->ending) {
		int ret;

		if (lane->attended || lane->taking) {
			pthread_cond_wait(&lane->unattended, lane->lock);
			continue;
		}
		lane->taking = true;
		ret = send_asks(lane);
		if (!ret)
			ret = can_pass(lane) ? pass_on(lane) : receive(lane);
		/* Without memory an answer under way cannot be read to its end. */
		if (ret == -ENOMEM)
			lane->ending = true;
		/* What was not sent is tried anew. */
		if (ret < 0)
			fail(lane, ret);
		if (lane->retiring && TAILQ_EMPTY(&lane->asks))
			lane->ending = true;
		lane->taking = false;
	}
	while (lane->taking)
		pthread_cond_wait(&lane->unattended, lane->lock);
	fail_first(lane, lane->count, -EIO);
}
