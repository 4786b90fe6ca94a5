/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>

#include "cleanup.h"
#include "clock.h"
#include "reader.h"

#define DRAIN_SIZE 4096
#define ASK_MAX 48
#define ASKS_SIZE 1024
#define DRAIN_TURNS \
	64 /* of standard error at a time: a flood must not starve the data \
			*/

struct reader {
	struct child child;
	int wake_fd;
	size_t asks_size;
	char asks[ASKS_SIZE]; /* to be sent */
	bool line_ended;
	size_t text_size;
	char text[READER_TEXT_MAX];
};

int reader_new(const struct store *store, const char *call, const char *id, int wake_fd,
	       struct reader **ret_reader)
{
	CLEANUP(freep) struct reader *reader = calloc(1, sizeof(*reader));
	int ret;

	if (!reader)
		return -ENOMEM;
	reader->wake_fd = wake_fd;
	ret = store_run(store, call, id, &reader->child);
	if (ret < 0)
		return ret;
	*ret_reader = STEAL(reader);
	return 0;
}

void reader_free(struct reader *reader)
{
	if (!reader)
		return;
	child_kill(&reader->child);
	free(reader);
}

void reader_ask(struct reader *reader, uint64_t offset, uint64_t length)
{
	if (sizeof(reader->asks) - reader->asks_size < ASK_MAX)
		reader_flush(reader);
	reader->asks_size +=
		(size_t)snprintf(reader->asks + reader->asks_size, ASK_MAX,
				 "%" PRIu64 " %" PRIu64 "\n", offset, length);
}

void reader_flush(struct reader *reader)
{
	ssize_t n;

	/*
	 * SIGPIPE is blocked in every thread.  There is room: what was asked and not
	 * answered yet is less than PIPE_BUF, so it is all written, or none.
	 */
	do {
		n = reader->asks_size
			    ? write(reader->child.in, reader->asks, reader->asks_size)
			    : 0;
	} while (n < 0 && errno == EINTR);
	reader->asks_size = 0;
}

void reader_end_asks(struct reader *reader)
{
	reader_flush(reader);
	closep(&reader->child.in);
}

/* Keep the last line that is not empty, cut where it is too long. */
static void take_text(struct reader *reader, const char *data, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		if (data[i] == '\n' || data[i] == '\0') {
			reader->line_ended = true;
			continue;
		}
		if (reader->line_ended)
			reader->text_size = 0;
		reader->line_ended = false;
		if (reader->text_size < sizeof(reader->text) - 1)
			reader->text[reader->text_size++] = data[i];
	}
	reader->text[reader->text_size] = '\0';
}

static void drain_text(struct reader *reader)
{
	char data[DRAIN_SIZE];

	for (int i = 0; i < DRAIN_TURNS && reader->child.err >= 0; i++) {
		ssize_t n = read(reader->child.err, data, sizeof(data));

		if (n > 0)
			take_text(reader, data, (size_t)n);
		else if (n < 0 && errno == EINTR)
			continue;
		else if (n < 0 && errno == EAGAIN)
			return;
		else
			closep(&reader->child.err);
	}
}

/*
 * Wait until @fd has something, draining standard error.  Returns 0, -ETIMEDOUT,
 * -ECANCELED, or another negative errno.
 */
static int wait_for(struct reader *reader, int fd, uint64_t deadline_ms)
{
	for (;;) {
		struct pollfd fds[] = {
			{.fd = fd, .events = POLLIN},
			{.fd = reader->wake_fd, .events = POLLIN},
			{.fd = reader->child.err, .events = POLLIN},
		};
		int ready = poll(fds, ARRAY_SIZE(fds), clock_left_ms(deadline_ms));

		if (ready < 0 && errno != EINTR)
			return -errno;
		if (ready > 0 && fds[2].revents)
			drain_text(reader);
		if (ready > 0 && fds[1].revents)
			return -ECANCELED;
		if (ready > 0 && fds[0].revents)
			return 0;
		if (!clock_left_ms(deadline_ms))
			return -ETIMEDOUT;
	}
}

int reader_wait(struct reader *reader, uint64_t deadline_ms)
{
	return wait_for(reader, reader->child.out, deadline_ms);
}

ssize_t reader_readv(struct reader *reader, const struct iovec *iov, int count,
		     uint64_t deadline_ms)
{
	for (;;) {
		ssize_t n = readv(reader->child.out, iov, count);
		int ret;

		if (n >= 0)
			return n;
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		ret = wait_for(reader, reader->child.out, deadline_ms);
		if (ret < 0)
			return ret;
	}
}

ssize_t reader_splice(struct reader *reader, int pipe, size_t size, uint64_t deadline_ms)
{
	bool was_ready = false;

	for (;;) {
		ssize_t n = splice(reader->child.out, NULL, pipe, NULL, size,
				   SPLICE_F_NONBLOCK);
		int ret;

		if (n >= 0)
			return n;
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		/* There is something, but it does not go in. */
		if (errno == EAGAIN && was_ready)
			return -ENOBUFS;
		ret = wait_for(reader, reader->child.out, deadline_ms);
		if (ret < 0)
			return ret;
		was_ready = true;
	}
}

ssize_t reader_try_readv(struct reader *reader, const struct iovec *iov, int count)
{
	ssize_t n = readv(reader->child.out, iov, count);

	if (n >= 0)
		return n;
	return errno == EAGAIN || errno == EINTR ? -ETIMEDOUT : -errno;
}

ssize_t reader_read(struct reader *reader, void *data, size_t size, uint64_t deadline_ms)
{
	return reader_readv(reader, &(struct iovec){data, size}, 1, deadline_ms);
}

int reader_status(struct reader *reader, uint64_t deadline_ms)
{
	int ret = wait_for(reader, reader->child.lifeline, deadline_ms);

	if (ret < 0)
		return ret;
	return child_status(&reader->child, deadline_ms);
}

const char *reader_text(struct reader *reader)
{
	drain_text(reader);
	return reader->text;
}
