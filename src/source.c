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

struct span {
	uint64_t offset;
	uint64_t length;
};

struct source {
	const struct store *store;
	struct image *image;
	struct reader *reader; /* NULL: none runs */
	int wake_fd;
	unsigned int failures; /* in a row, without a byte between */
	unsigned int strikes; /* ever: after these, what it sent before is in doubt */
	bool finishing; /* the program was told that nothing more is asked */
	uint64_t paused_until_ms;
	uint64_t asked_ms; /* when the first ask was sent, or its last byte came */
	uint64_t begin_ms;
	bool begun; /* the first ask's first byte has come */
	size_t answered; /* asks that the running program has answered in full */
	size_t first, count;
	struct span asks[SOURCE_ASKS_MAX]; /* a ring; those that are not fully answered */
};

int source_new(const struct store *store, struct image *image, struct source **ret_source)
{
	CLEANUP(freep) struct source *source = calloc(1, sizeof(*source));

	if (!source)
		return -ENOMEM;
	source->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (source->wake_fd < 0)
		return -errno;
	source->store = store;
	source->image = image_ref(image);
	*ret_source = STEAL(source);
	return 0;
}

void source_free(struct source *source)
{
	if (!source)
		return;
	reader_free(source->reader);
	closep(&source->wake_fd);
	image_unref(source->image);
	free(source);
}

void source_wake(struct source *source)
{
	eventfd_write(source->wake_fd, 1);
}

void source_awake(struct source *source)
{
	eventfd_t value;

	eventfd_read(source->wake_fd, &value);
}

size_t source_asked(const struct source *source)
{
	return source->count;
}

static struct span *ask_at(struct source *source, size_t index)
{
	return &source->asks[(source->first + index) % SOURCE_ASKS_MAX];
}

static void stop_program(struct source *source)
{
	reader_free(source->reader);
	source->reader = NULL;
	source->finishing = false;
	source->answered = 0;
}

/* The final error: nothing is asked any more. */
static int fail(struct source *source, int err)
{
	stop_program(source);
	source->count = 0;
	source->failures = 0;
	return err;
}

/* Where the program is, for people. */
static uint64_t position(struct source *source)
{
	return source->count ? ask_at(source, 0)->offset : source->image->size;
}

/*
 * The program did not do its part: it is ended, and another is to be started after a
 * pause.  @what says what it did, @failures counts how often in a row.  Returns 0, or the
 * final error.
 */
static int note_failure(struct source *source, const char *what, int err, bool may_retry,
			unsigned int *failures)
{
	const char *said = source->reader ? reader_text(source->reader) : "";
	uint64_t pause = FIRST_PAUSE_MS;
	bool again = may_retry && *failures < SOURCE_TRIES;

	image_set_error(source->image, "%s at byte %" PRIu64 "%s%s%s", what,
			position(source), *said ? ": " : "", said,
			again ? " (started again)" : "");
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
	char what[64];

	if (status == -ECANCELED)
		return status;
	if (status == -ETIMEDOUT)
		return note_failure(source,
				    "the store program closed its output and goes on",
				    -ETIMEDOUT, false, failures);
	if (status < 0)
		return note_failure(source, "the store program is lost", -EIO, true,
				    failures);
	if (!status)
		return note_failure(source, "the store program ended too early", -EIO,
				    true, failures);
	snprintf(what, sizeof(what), "the store program ended with status %d", status);
	return note_failure(source, what, store_errno(status), store_may_retry(status),
			    failures);
}

/* The same after its output has ended. */
static int note_end(struct source *source)
{
	uint64_t deadline = clock_ms() + source->store->stall_ms;

	return note_status(source, reader_status(source->reader, deadline),
			   &source->failures);
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

	if (n == -ETIMEDOUT || n == -ECANCELED)
		return 0;
	/* An end is found by source_readv(), which can be woken. */
	return n > 0 ? note_surplus(source) : 0;
}

int source_ask(struct source *source, uint64_t offset, uint64_t length)
{
	int ret = source->reader && !source->count ? check_silence(source) : 0;

	assert(length && source->count < SOURCE_ASKS_MAX);
	if (ret < 0)
		return ret;
	*ask_at(source, source->count++) = (struct span){offset, length};
	if (source->count == 1) {
		source->asked_ms = clock_ms();
		source->begun = false;
	}
	/*
	 * A program that does not take it has ended: source_readv() will find that out.
	 */
	if (source->reader)
		(void)reader_ask(source->reader, offset, length);
	return 0;
}

/* Wait until the pause before the next try is over.  Returns 0 or -ECANCELED. */
static int pause_over(struct source *source)
{
	struct pollfd pollfd = {.fd = source->wake_fd, .events = POLLIN};
	int left;

	while ((left = clock_left_ms(source->paused_until_ms))) {
		if (poll(&pollfd, 1, left) > 0)
			return -ECANCELED;
	}
	return 0;
}

/* Start the program and ask it for all that is missing. */
static int start_program(struct source *source)
{
	int ret = pause_over(source);

	if (ret < 0)
		return ret;
	ret = reader_new(source->store, "read", source->image->id, source->wake_fd,
			 &source->reader);
	if (ret < 0)
		return note_failure(source, strerror(-ret), -EIO, true,
				    &source->failures);
	for (size_t i = 0; i < source->count; i++) {
		const struct span *ask = ask_at(source, i);

		if (reader_ask(source->reader, ask->offset, ask->length) < 0)
			break;
	}
	source->asked_ms = clock_ms();
	source->begun = false;
	return 0;
}

/* Cut the pieces to the @limit bytes that belong to one ask. */
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
	struct span *ask = ask_at(source, 0);
	uint64_t now = clock_ms();

	source->failures = 0;
	if (!source->begun)
		source->begin_ms = now - source->asked_ms;
	source->begun = true;
	ask->offset += size;
	ask->length -= size;
	if (ask->length)
		return;
	source->first = (source->first + 1) % SOURCE_ASKS_MAX;
	source->count--;
	source->answered++;
	source->begun = false;
	source->asked_ms = now;
}

ssize_t source_readv(struct source *source, const struct iovec *iov, int count)
{
	assert(source->count && count <= 2);
	for (;;) {
		struct iovec limited[2];
		int used = limit_pieces(limited, iov, count, ask_at(source, 0)->length);
		ssize_t n;
		int ret;

		if (!source->reader) {
			ret = start_program(source);
			if (ret < 0)
				return ret;
			continue;
		}
		n = reader_readv(source->reader, limited, used,
				 clock_ms() + source->store->stall_ms);
		if (n > 0) {
			take_bytes(source, (size_t)n);
			return n;
		}
		if (n == -ECANCELED)
			return n;
		if (n == -ETIMEDOUT)
			ret = note_failure(source,
					   "the store gave nothing until the stall limit",
					   -ETIMEDOUT, false, &source->failures);
		else if (n < 0)
			ret = note_failure(source, strerror((int)-n), -EIO, true,
					   &source->failures);
		else
			ret = note_end(source);
		if (ret < 0)
			return ret;
	}
}

/* See that nothing more comes, and that its output ends.  Returns as note_failure(). */
static int read_end(struct source *source)
{
	char byte;
	ssize_t n = reader_read(source->reader, &byte, 1,
				clock_ms() + source->store->stall_ms);

	if (n == -ECANCELED)
		return (int)n;
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
	int ret;

	assert(!source->count);
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
	ret = reader_status(source->reader, clock_ms() + source->store->stall_ms);
	if (!ret) {
		stop_program(source);
		return 0;
	}
	ret = note_status(source, ret, &source->strikes);
	return ret < 0 ? ret : -EAGAIN;
}

void source_rest(struct source *source)
{
	if (!source->count)
		stop_program(source);
}

uint64_t source_begin_ms(const struct source *source)
{
	return source->begin_ms;
}
