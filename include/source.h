/* SPDX-License-Identifier: MIT */
/*
 * source - the bytes of an image, in the order of asking, however often the store program
 * that brings them has to be started again.
 *
 * What a program sent is taken as it comes.  A program that ends early, that sends what
 * nobody asked for or that exits with an error is started again and asked for what is
 * missing from the exact byte, SOURCE_TRIES times in a row at most without a byte
 * between, after pauses that grow from 100 ms; one that sends too much, or that fails
 * after all was sent, SOURCE_TRIES times in all.  A program that gives nothing for the
 * store's stall limit is killed, and that is final.
 *
 * Threads: used by one at a time, but for source_wake().
 */
#ifndef IMAGEFS_SOURCE_H
#define IMAGEFS_SOURCE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "image.h"
#include "store.h"

#define SOURCE_TRIES 5
#define SOURCE_ASKS_MAX 32

struct source;

/*
 * A source of @image, of which a reference is kept; @store is borrowed.  No program is
 * started before something is asked.  The caller owns *@ret_source.  Returns 0 or a
 * negative errno.
 */
int source_new(const struct store *store, struct image *image,
	       struct source **ret_source);

/* Kills the program.  NULL is taken. */
void source_free(struct source *source);

/*
 * Make the thread that waits in source_readv() return -ECANCELED; until source_awake().
 */
void source_wake(struct source *source);
void source_awake(struct source *source);

/* The number of asks that are not fully answered. */
size_t source_asked(const struct source *source);

/*
 * Ask for @length bytes, not 0, from @offset; the image has them.  There is room for
 * SOURCE_ASKS_MAX asks that are not fully answered.  Does not block.  Returns 0, or a
 * final error as source_readv() does: the program was found to have done wrong.
 */
int source_ask(struct source *source, uint64_t offset, uint64_t length);

/*
 * Read bytes of the first ask that is not fully answered, waiting for the first of them.
 * Returns their number, never 0; -ECANCELED (source_wake()); or the final error:
 * -ESTALE, -EACCES, -EIO, -ETIMEDOUT (the stall limit) or -ENOMEM, having told the image
 * why; the asks are gone then.
 */
ssize_t source_readv(struct source *source, const struct iovec *iov, int count);

/*
 * With all answered: end the program, and have it confirm with its exit status that all
 * it sent is right.  Returns 0; -EAGAIN, if it died instead: what was not passed on yet
 * has to be asked again; -ECANCELED (call it again); or a final error as above.
 */
int source_finish(struct source *source);

/*
 * Let the program go, unconfirmed, if nothing is under way; the next ask starts another.
 */
void source_rest(struct source *source);

/* How long the first byte of an ask took to come, the last time, in milliseconds. */
uint64_t source_begin_ms(const struct source *source);

#endif
