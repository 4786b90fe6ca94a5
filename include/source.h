/* SPDX-License-Identifier: MIT */
/*
 * source - the bytes of an image, in the order of asking, however often the store program
 * that brings them has to be started again.
 *
 * What a program sent is taken as it comes.  A program that ends early, that sends what
 * nobody asked for or that exits with an error is started again and asked for what is
 * missing from the exact byte, SOURCE_TRIES times in a row at most without a byte
 * between, and not when half of the store's stall limit has passed without one, or when
 * all tries at that place of the image were used up less than a second ago; after pauses
 * that grow from 100 ms; one that sends too much, or that fails after all was
 * sent, SOURCE_TRIES times in all.  A program that gives nothing for the store's stall
 * limit is killed, and that is final.
 *
 * Threads: all calls but source_new() and source_free() are made with the lock held that
 * it was made with.  One thread at a time reads, finishes or rests; others may ask and
 * wake meanwhile.
 */
#ifndef IMAGEFS_SOURCE_H
#define IMAGEFS_SOURCE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "engine.h"
#include "image.h"

#define SOURCE_TRIES 5
#define SOURCE_ASKS_MAX 64

struct source;

/*
 * A source of @image, of which a reference is kept; @engine and @lock are borrowed.  No
 * program is started before something is asked.  The caller owns *@ret_source.  Returns 0
 * or a negative errno.
 */
int source_new(struct engine *engine, struct image *image, pthread_mutex_t *lock,
	       struct source **ret_source);

/* Kills the program.  Called without the lock.  NULL is taken. */
void source_free(struct source *source);

/* Make the thread that waits in the source, or is the next to, return -ECANCELED. */
void source_wake(struct source *source);

/* The same, but the program may get to know of it only at source_flush(). */
int source_ask_later(struct source *source, uint64_t offset, uint64_t length);
void source_flush(struct source *source);

/* Whether a thread is in source_readv(): it deals with what comes of an ask. */
bool source_is_read(const struct source *source);

/* The number of asks that are not fully answered. */
size_t source_asked(const struct source *source);

/*
 * Ask for @length bytes, not 0, from @offset; the image has them.  There is room for
 * SOURCE_ASKS_MAX asks that are not fully answered.  Does not block, and does not start a
 * program: source_readv() does.  Returns 0, or a final error as source_readv() does: the
 * program was found to have done wrong.
 */
int source_ask(struct source *source, uint64_t offset, uint64_t length);

/*
 * Read bytes of what was asked, in the order of asking, waiting for the first of them;
 * the lock is dropped meanwhile.  With nothing asked, wait until @idle_ms (clock.h) for
 * another thread to ask.  Returns their number; 0 if nothing was asked until then;
 * -ECANCELED (source_wake()); or the final error: -ESTALE, -EACCES, -EIO, -ETIMEDOUT (the
 * stall limit) or -ENOMEM, having told the image why; the asks are gone then.
 */
ssize_t source_readv(struct source *source, const struct iovec *iov, int count,
		     uint64_t idle_ms);

/*
 * The same into a pipe, @size bytes at most, without a copy.  -ENOBUFS if it takes no more;
 * nothing is lost then.
 */
ssize_t source_splice(struct source *source, int pipe, size_t size);

/*
 * The same without waiting, keeping the lock.  Returns 0 if nothing has come yet, -EAGAIN
 * if it takes source_readv() to go on: to start a program, or to see how one has ended.
 */
ssize_t source_try_readv(struct source *source, const struct iovec *iov, int count);

/*
 * With all answered: end the program, and have it confirm with its exit status that all
 * it sent is right.  Drops the lock meanwhile.  Returns 0; -EAGAIN, if it died instead:
 * what was not passed on yet has to be asked again; -ECANCELED (call it again); or a final
 * error as above.
 */
int source_finish(struct source *source);

/*
 * Whether the final error that was returned last says that the version is lost, or what
 * was sent of it wrong, whoever asks again (STORE_GONE, STORE_BAD_DATA).
 */
bool source_is_lost(const struct source *source);

/* How long the first byte of an ask took to come, the last time, in milliseconds. */
uint64_t source_begin_ms(const struct source *source);

#endif
