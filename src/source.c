/* SPDX-License-Identifier: MIT */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

#include "cleanup.h"
#include "clock.h"
#include "imagefs-store.h"
#include "reader.h"
#include "source.h"

#define FIRST_PAUSE_MS 100
#define LONGEST_PAUSE_MS 5000
#define FAILED_MS 1000
#define FAILED_NEAR (1u << 20)
#define RATE_ASK (256u << 10) /* answers from that size on tell of the rate */
#define RATE_BYTES (4u << 20)

struct span {
	uint64_t offset;
	uint64_t length;
};

/* Where bytes are put: in pieces of memory, or in a pipe. */
struct sink {
	const struct iovec *iov;
	int count; /* 0: the pipe */
	int pipe;
	uint64_t size; /* bytes in all, at most */
};

struct source {
	/* constant */
	struct engine *engine;
	struct image *image;
	pthread_mutex_t *lock; /* guards the rest */
	int wake_fd;
	struct reader *reader; /* NULL: none runs; only the thread that reads ends it */
	bool reading; /* a thread is in source_readv(), and sees what comes unasked */
	bool finishing; /* the program was told that nothing more is asked */
	bool lost; /* the final error is for good */
	unsigned int failures; /* in a row, without a byte between */
	uint64_t waited_ms; /* since when, for the byte that they did not bring */
	unsigned int strikes; /* ever: after these, what it sent before is in doubt */
	uint64_t paused_until_ms;
	uint64_t started_us; /* when the program was; 0 once its first byte has come */
	uint64_t last_ms; /* when a byte came, or the first ask was made */
	uint64_t asked_ms; /* since when the first ask is the first */
	uint64_t begin_ms;
	bool begun; /* the first ask's first byte has come */
	uint64_t run_bytes, run_us; /* of long answers, not told to the engine yet */
	size_t answered; /* asks that the running program has answered in full */
	size_t first, count;
	struct span asks[SOURCE_ASKS_MAX]; /* a ring; those that are not fully answered */
};

int source_new(struct engine *engine, struct image *image, pthread_mutex_t *lock,
	       struct source **ret_source)
{
	CLEANUP(freep) struct source *source = calloc(1, sizeof(*source));

	if (!source)
		return -ENOMEM;
	source->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (source->wake_fd < 0)
		return -errno;
	source->engine = engine;
	source->image = image_ref(image);
	source->lock = lock;
	*ret_source = STEAL(source);
	return 0;
}

static void count_up(struct source *source, enum counter counter, uint64_t n)
{
	stats_add(&source->engine->stats, source->image->stats, counter, n);
}

static void stop_program(struct source *source)
{
	if (source->reader)
		stats_subtract(&source->engine->stats, source->image->stats,
			       COUNT_RUNNING, 1);
	reader_free(source->reader);
	source->reader = NULL;
	source->finishing = false;
	source->answered = 0;
}

void source_free(struct source *source)
{
	if (!source)
		return;
	stop_program(source);
	closep(&source->wake_fd);
	image_unref(source->image);
	free(source);
}

void source_wake(struct source *source)
{
	eventfd_write(source->wake_fd, 1);
}

/* The wake-up was seen. */
static int awake(struct source *source)
{
	eventfd_t value;

	eventfd_read(source->wake_fd, &value);
	return -ECANCELED;
}

bool source_is_read(const struct source *source)
{
	return source->reading;
}

size_t source_asked(const struct source *source)
{
	return source->count;
}

static struct span *ask_at(struct source *source, size_t index)
{
	return &source->asks[(source->first + index) % SOURCE_ASKS_MAX];
}

/* The final error: nothing is asked any more. */
static int fail(struct source *source, int err)
{
	stop_program(source);
	source->count = 0;
	source->failures = 0;
	source->waited_ms = 0;
	return err;
}

/* Where the program is, for people. */
static uint64_t position(struct source *source)
{
	return source->count ? ask_at(source, 0)->offset : source->image->size;
}

/*
 * Whether so much of the stall limit has passed without a byte that another program would
 * not have enough of it left.  A program that tries as long as it may, and then says what
 * was wrong, has the last word; it counts as the stall limit.
 */
static bool has_waited_long(const struct source *source, const unsigned int *failures)
{
	return failures == &source->failures && source->waited_ms &&
	       clock_ms() - source->waited_ms > source->engine->store->stall_ms / 2;
}

/*
 * Whether all tries there were used up a moment ago.  The kernel asks again for what has
 * failed, and who got a part of what he read asks for the rest: that is no reason to go
 * through all of them again.
 */
static bool has_just_failed(struct source *source, const unsigned int *failures)
{
	const struct image *image = source->image;
	uint64_t failed_ms = image->failed_ms, failed_at = image->failed_at;
	uint64_t at = position(source);

	return failures == &source->failures && failed_ms &&
	       clock_ms() < failed_ms + FAILED_MS && at + FAILED_NEAR >= failed_at &&
	       at <= failed_at + FAILED_NEAR;
}

/*
 * The program did not do its part: it is ended, and another is to be started after a
 * pause.  @what says what it did, @failures counts how often in a row.  Drops the lock.
 * Returns 0, or the final error.
 */
static int note_failure(struct source *source, const char *what, int err, bool may_retry,
			unsigned int *failures)
{
	const char *said = source->reader ? reader_text(source->reader) : "";
	uint64_t pause = FIRST_PAUSE_MS, at = position(source);
	bool again = may_retry && *failures < SOURCE_TRIES &&
		     !has_just_failed(source, failures);

	if (may_retry && !again && failures == &source->failures) {
		source->image->failed_at = at;
		source->image->failed_ms = clock_ms();
	}
	if (again && has_waited_long(source, failures)) {
		again = false;
		err = -ETIMEDOUT;
	}
	pthread_mutex_unlock(source->lock);
	image_set_error(source->image, "%s at byte %" PRIu64 "%s%s%s", what, at,
			*said ? ": " : "", said, again ? " (started again)" : "");
	pthread_mutex_lock(source->lock);
	if (!again)
		return fail(source, err);
	stop_program(source);
	for (unsigned int i = 0; i < *failures && pause < LONGEST_PAUSE_MS; i++)
		pause *= 2;
	++*failures;
	source->paused_until_ms = clock_ms() + MIN(pause, (uint64_t)LONGEST_PAUSE_MS);
	return 0;
}

/* The program has ended with @status, which was not wanted; returns as note_failure(). */
static int note_status(struct source *source, int status, unsigned int *failures)
{
	char what[128];

	if (status == -ECANCELED)
		return awake(source);
	if (status == -ETIMEDOUT)
		return note_failure(source,
				    "the store program closed its output and goes on",
				    -ETIMEDOUT, false, failures);
	if (status == -ECONNRESET)
		return note_failure(source, "the store program is lost", -EIO, true,
				    failures);
	if (status < 0) {
		snprintf(what, sizeof(what), "the store program cannot be started: %s",
			 strerror(-status));
		return note_failure(source, what, -EIO, true, failures);
	}
	if (!status)
		return note_failure(source, "the store program ended too early", -EIO,
				    true, failures);
	source->lost = status == STORE_GONE || status == STORE_BAD_DATA;
	snprintf(what, sizeof(what), "the store program ended with status %d", status);
	return note_failure(source, what, store_errno(status), store_may_retry(status),
			    failures);
}

/*
 * It sent too much.  After one ask that is what came last; after more it may be anything
 * that came, and what was passed on is in doubt.
 */
static int note_surplus(struct source *source)
{
	return note_failure(source, "the store program sent more than it was asked for",
			    -EIO, source->answered <= 1, &source->strikes);
}

/* What comes while nothing is asked is too much.  Returns 0, or the final error. */
static int check_silence(struct source *source)
{
	char byte;
	ssize_t n = reader_read(source->reader, &byte, 1, 0);

	/* An end is found by source_readv(), which can be woken. */
	return n > 0 ? note_surplus(source) : 0;
}

int source_ask_later(struct source *source, uint64_t offset, uint64_t length)
{
	bool unseen = source->reader && !source->count && !source->reading;
	int ret = unseen ? check_silence(source) : 0;

	assert(length && source->count < SOURCE_ASKS_MAX);
	if (ret < 0)
		return ret;
	*ask_at(source, source->count++) = (struct span){offset, length};
	if (source->count == 1) {
		source->asked_ms = source->last_ms = clock_ms();
		source->begun = false;
	}
	/*
	 * A program that does not take it has ended: source_readv() will find that out.
	 */
	if (source->reader)
		reader_ask(source->reader, offset, length);
	else if (source->reading)
		source_wake(source);
	return 0;
}

int source_ask(struct source *source, uint64_t offset, uint64_t length)
{
	int ret = source_ask_later(source, offset, length);

	source_flush(source);
	return ret;
}

void source_flush(struct source *source)
{
	if (source->reader)
		reader_flush(source->reader);
}

/* Wait for source_wake(), until @deadline_ms.  Returns 0 or -ECANCELED. */
static int wait_for_wake(struct source *source, uint64_t deadline_ms)
{
	struct pollfd pollfd = {.fd = source->wake_fd, .events = POLLIN};
	int left, ready = 0;

	pthread_mutex_unlock(source->lock);
	while (ready <= 0 && (left = clock_left_ms(deadline_ms)))
		ready = poll(&pollfd, 1, left);
	pthread_mutex_lock(source->lock);
	return ready > 0 ? awake(source) : 0;
}

/* Start the program and ask it for all that is missing. */
static int start_program(struct source *source)
{
	struct reader *reader;
	int ret = wait_for_wake(source, source->paused_until_ms);

	if (ret < 0)
		return ret;
	source->started_us = clock_us();
	pthread_mutex_unlock(source->lock);
	ret = reader_new(source->engine->store, "read", source->image->id,
			 source->wake_fd, &reader);
	pthread_mutex_lock(source->lock);
	if (ret < 0)
		return note_failure(source, strerror(-ret), -EIO, true,
				    &source->failures);
	source->reader = reader;
	count_up(source, COUNT_STARTED, 1);
	count_up(source, COUNT_RUNNING, 1);
	if (source->failures || source->strikes)
		count_up(source, COUNT_RESTARTED, 1);
	for (size_t i = 0; i < source->count; i++) {
		const struct span *ask = ask_at(source, i);

		reader_ask(reader, ask->offset, ask->length);
	}
	reader_flush(reader);
	source->asked_ms = source->last_ms = clock_ms();
	source->begun = false;
	return 0;
}

/* Bytes that were asked for and did not come yet, @most at most. */
static uint64_t missing(struct source *source, uint64_t most)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < source->count && sum < most; i++)
		sum += ask_at(source, i)->length;
	return MIN(sum, most);
}

/* Cut the pieces to the @limit bytes that were asked for. */
static int limit_pieces(struct iovec *limited, const struct iovec *iov, int count,
			uint64_t limit)
{
	int used = 0;

	for (; used < count && limit; used++) {
		limited[used] = iov[used];
		limited[used].iov_len = (size_t)MIN((uint64_t)iov[used].iov_len, limit);
		limit -= limited[used].iov_len;
	}
	return used;
}

static void take_bytes(struct source *source, size_t size)
{
	uint64_t now = clock_ms();

	count_up(source, COUNT_RECEIVED, size);
	source->failures = 0;
	source->image->failed_ms = 0;
	source->waited_ms = 0;
	source->last_ms = now;
	if (source->started_us)
		engine_note_start(source->engine, clock_us() - source->started_us);
	source->started_us = 0;
	while (size) {
		struct span *ask = ask_at(source, 0);
		size_t part = (size_t)MIN((uint64_t)size, ask->length);

		if (!source->begun)
			source->begin_ms = now - source->asked_ms;
		source->begun = true;
		ask->offset += part;
		ask->length -= part;
		size -= part;
		if (ask->length)
			return;
		source->first = (source->first + 1) % SOURCE_ASKS_MAX;
		source->count--;
		source->answered++;
		source->begun = false;
		source->asked_ms = now;
	}
}

/* Have the engine know how fast long answers come. */
static void note_rate(struct source *source, uint64_t bytes, uint64_t us)
{
	source->run_bytes += bytes;
	source->run_us += us;
	if (source->run_bytes < RATE_BYTES)
		return;
	engine_note_rate(source->engine, source->run_bytes, source->run_us);
	source->run_bytes = source->run_us = 0;
}

/* Nothing is asked: wait for that, but look for what comes unasked, too. */
static int wait_for_ask(struct source *source, uint64_t idle_ms)
{
	uint64_t stall_ms = clock_ms() + source->engine->store->stall_ms;
	uint64_t deadline = MIN(idle_ms, stall_ms); /* asks do not wake us */
	int ret;
	char byte;
	ssize_t n;

	if (!source->reader) {
		ret = wait_for_wake(source, idle_ms);
		return source->count ? 0 : ret;
	}
	pthread_mutex_unlock(source->lock);
	ret = reader_wait(source->reader, deadline);
	pthread_mutex_lock(source->lock);
	if (ret == -ECANCELED)
		return awake(source);
	if (ret < 0 || source->count)
		return 0;
	n = reader_read(source->reader, &byte, 1, 0);
	if (n > 0)
		return note_surplus(source);
	/* It has ended, owing nothing. */
	stop_program(source);
	return 0;
}

ssize_t source_try_readv(struct source *source, const struct iovec *iov, int count)
{
	struct iovec limited[2];
	size_t most = 0;
	ssize_t n;
	int used;

	assert(!source->reading && count <= 2);
	if (!source->count)
		return 0;
	for (int i = 0; i < count; i++)
		most += iov[i].iov_len;
	used = limit_pieces(limited, iov, count, missing(source, most));
	n = source->reader ? reader_try_readv(source->reader, limited, used) : 0;
	if (n > 0)
		take_bytes(source, (size_t)n);
	else
		n = n == -ETIMEDOUT ? 0 : -EAGAIN;
	return n;
}

/* Have the bytes of the program, @size at most. */
static ssize_t have_bytes(struct source *source, const struct sink *sink, uint64_t size,
			  uint64_t deadline_ms)
{
	struct iovec limited[2];
	int used;

	if (!sink->count)
		return reader_splice(source->reader, sink->pipe, (size_t)size,
				     deadline_ms);
	used = limit_pieces(limited, sink->iov, sink->count, size);
	return reader_readv(source->reader, limited, used, deadline_ms);
}

/* Read what was asked.  Returns the number of bytes, 0 to look again, or an error. */
static ssize_t receive(struct source *source, const struct sink *sink)
{
	uint64_t asked = missing(source, sink->size), begun_us = clock_us();
	uint64_t deadline =
		MAX(source->last_ms, clock_ms()) + source->engine->store->stall_ms;
	ssize_t n;

	if (!source->waited_ms)
		source->waited_ms = clock_ms();
	pthread_mutex_unlock(source->lock);
	n = have_bytes(source, sink, asked, deadline);
	pthread_mutex_lock(source->lock);
	if (n > 0) {
		take_bytes(source, (size_t)n);
		if (asked >= RATE_ASK)
			note_rate(source, (uint64_t)n, clock_us() - begun_us);
		return n;
	}
	if (n == -ECANCELED)
		return awake(source);
	if (n == -ENOBUFS)
		return n;
	if (n == -ETIMEDOUT) {
		count_up(source, COUNT_STALLED, 1);
		return note_failure(source,
				    "the store gave nothing until the stall limit",
				    -ETIMEDOUT, false, &source->failures);
	}
	if (n < 0)
		return note_failure(source, strerror((int)-n), -EIO, true,
				    &source->failures);
	deadline = clock_ms() + source->engine->store->stall_ms;
	pthread_mutex_unlock(source->lock);
	n = reader_status(source->reader, deadline);
	pthread_mutex_lock(source->lock);
	return note_status(source, (int)n, &source->failures);
}

static ssize_t read_into(struct source *source, const struct sink *sink, uint64_t idle_ms)
{
	ssize_t n = 0;

	assert(!source->reading && sink->count <= 2);
	source->reading = true;
	source->lost = false;
	while (!n) {
		if (!source->count && clock_ms() >= idle_ms)
			break;
		if (!source->count)
			n = wait_for_ask(source, idle_ms);
		else if (!source->reader)
			n = start_program(source);
		else
			n = receive(source, sink);
	}
	source->reading = false;
	return n;
}

ssize_t source_readv(struct source *source, const struct iovec *iov, int count,
		     uint64_t idle_ms)
{
	struct sink sink = {.iov = iov, .count = count};

	for (int i = 0; i < count; i++)
		sink.size += iov[i].iov_len;
	return read_into(source, &sink, idle_ms);
}

ssize_t source_splice(struct source *source, int pipe, size_t size)
{
	struct sink sink = {.pipe = pipe, .size = size};

	return read_into(source, &sink, UINT64_MAX);
}

/* See that nothing more comes, and that its output ends.  Returns as note_failure(). */
static int read_end(struct source *source)
{
	uint64_t deadline = clock_ms() + source->engine->store->stall_ms;
	char byte;
	ssize_t n;

	pthread_mutex_unlock(source->lock);
	n = reader_read(source->reader, &byte, 1, deadline);
	pthread_mutex_lock(source->lock);
	if (n == -ECANCELED)
		return awake(source);
	if (n > 0)
		return note_surplus(source);
	if (n == -ETIMEDOUT)
		return note_failure(source, "the store program did not end", -ETIMEDOUT,
				    false, &source->strikes);
	if (n < 0)
		return note_failure(source, strerror((int)-n), -EIO, true,
				    &source->strikes);
	return 0;
}

int source_finish(struct source *source)
{
	uint64_t deadline;
	int ret;

	assert(!source->count && !source->reading);
	source->lost = false;
	if (!source->reader)
		return -EAGAIN;
	if (!source->finishing)
		reader_end_asks(source->reader);
	source->finishing = true;
	ret = read_end(source);
	if (ret < 0)
		return ret;
	if (!source->reader)
		return -EAGAIN;
	deadline = clock_ms() + source->engine->store->stall_ms;
	pthread_mutex_unlock(source->lock);
	ret = reader_status(source->reader, deadline);
	pthread_mutex_lock(source->lock);
	if (!ret) {
		stop_program(source);
		return 0;
	}
	ret = note_status(source, ret, &source->strikes);
	return ret < 0 ? ret : -EAGAIN;
}

bool source_is_lost(const struct source *source)
{
	return source->lost;
}

uint64_t source_begin_ms(const struct source *source)
{
	return source->begin_ms;
}
