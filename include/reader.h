/* SPDX-License-Identifier: MIT */
/*
 * reader - one running store program: what it is asked, what it answers, how it ended.
 *
 * Threads: used by one thread at a time; wake_fd (an eventfd) may be written by any.
 */
#ifndef IMAGEFS_READER_H
#define IMAGEFS_READER_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "store.h"

#define READER_TEXT_MAX 512

struct reader;

/*
 * Start @store's program with @call for @id (store.h).  @wake_fd, borrowed, or -1: an
 * eventfd that ends a wait.  The caller owns *@ret_reader.  Returns 0 or a negative
 * errno.
 */
int reader_new(const struct store *store, const char *call, const char *id, int wake_fd,
	       struct reader **ret_reader);

/* Kill the program if it still runs.  NULL is taken.  Does not block. */
void reader_free(struct reader *reader);

/*
 * Ask for @length bytes from @offset; it is sent when there is enough of it, or by
 * reader_flush().  That the program does not take it, having ended, is found by reading.
 */
void reader_ask(struct reader *reader, uint64_t offset, uint64_t length);
void reader_flush(struct reader *reader);

/* Tell it that there is nothing more to ask. */
void reader_end_asks(struct reader *reader);

/*
 * Read what it sent, @size bytes at most, waiting until @deadline_ms for the first.
 * Standard error is drained meanwhile.  Returns their number, 0 at the end of its output,
 * -ETIMEDOUT, -ECANCELED if @wake_fd became readable while waiting (it is not read), or
 * another negative errno.
 */
ssize_t reader_read(struct reader *reader, void *data, size_t size, uint64_t deadline_ms);

/* The same into two pieces of memory, the second of which may be empty. */
struct iovec;
ssize_t reader_readv(struct reader *reader, const struct iovec *iov, int count,
		     uint64_t deadline_ms);

/*
 * The same into a pipe, without a copy; -ENOBUFS if that takes no more.
 */
ssize_t reader_splice(struct reader *reader, int pipe, size_t size, uint64_t deadline_ms);

/*
 * The same, without waiting and without a look at standard error: -ETIMEDOUT if nothing
 * is there.
 */
ssize_t reader_try_readv(struct reader *reader, const struct iovec *iov, int count);

/*
 * Wait until reader_read() would not block, as it does.  Returns 0, -ETIMEDOUT,
 * -ECANCELED, or another negative errno.
 */
int reader_wait(struct reader *reader, uint64_t deadline_ms);

/*
 * Wait for its end, until @deadline_ms, after reader_read() gave 0.  Returns the exit
 * status (child_status()), -ETIMEDOUT, -ECANCELED, or another negative errno.
 */
int reader_status(struct reader *reader, uint64_t deadline_ms);

/*
 * The last line that it wrote on standard error, "" if none; valid until the next call.
 */
const char *reader_text(struct reader *reader);

#endif
