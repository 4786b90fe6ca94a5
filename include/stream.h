/* SPDX-License-Identifier: MIT */
/*
 * stream - a source and a ring, and the thread that moves bytes from one to the other and
 * answers the reads that wait for them.
 *
 * It covers [kept, head) of the image and grows at the head.  All calls but stream_new(),
 * stream_run() and stream_free() are made with the lock held that it was made with.
 */
#ifndef IMAGEFS_STREAM_H
#define IMAGEFS_STREAM_H

#include <pthread.h>
#include <stdbool.h>
#include <sys/queue.h>

#include "engine.h"
#include "extents.h"
#include "image.h"
#include "owner.h"
#include "read.h"
#include "ring.h"

struct stream;

/*
 * Make a stream of @image that begins at @start.  @engine, @image, @lock and @owner
 * are borrowed and outlive it.  The caller owns *@ret_stream.  Returns 0 or a negative errno.
 */
int stream_new(struct engine *engine, struct image *image, uint64_t start,
	       pthread_mutex_t *lock, const struct owner *owner,
	       struct stream **ret_stream);

/*
 * Be the stream's thread, until it was told to end, was idle for the engine's limit, or
 * failed.  Called and returns with the lock held.  Then no read waits for it any more,
 * and it is the caller's to free, without the lock.
 */
void stream_run(struct stream *stream);
void stream_free(struct stream *stream);

/* Whether it has all of the read's bytes. */
bool stream_has(const struct stream *stream, const struct read *read);

/* Answer a read that it has, on the calling thread; the lock is dropped meanwhile. */
void stream_answer(struct stream *stream, struct read *read);

/* Whether the read lies so close before it that waiting for it is best. */
bool stream_reaches(struct stream *stream, const struct read *read);

/*
 * Whether it can be sent on to this read, skipping what lies between, at less than what a
 * new one would cost.
 */
bool stream_can_skip(const struct stream *stream, const struct read *read);

/* Have the stream's thread answer the read, which lies not before what it holds. */
void stream_park(struct stream *stream, struct read *read);

/* Take back a read that waits; returns whether it did. */
bool stream_unpark(struct stream *stream, const struct read *read);

/* From now on, do not ask for what @extents, of which a reference is kept, says is zeros. */
void stream_set_extents(struct stream *stream, struct extents *extents);

/* Whether it does nothing but read runs ahead, and has what it asked for. */
bool stream_rests(const struct stream *stream);

/*
 * It is new, or rests, and is from now on for runs of @length bytes: one at @start, and each
 * @stride bytes behind (or before) the one before it.  No more is asked for, and the next
 * one is as soon as the last one was read.
 */
void stream_set_runs(struct stream *stream, uint64_t start, uint64_t length,
		     int64_t stride);

/*
 * Memory is short: end it if it has more than the others leave it, and nobody has read
 * from it for a moment.  Returns whether that was done.
 */
bool stream_squeeze(struct stream *stream);

/* Have the thread look again at who holds it up. */
void stream_look(struct stream *stream);

/* End the thread as soon as possible; reads that still wait are answered with @err. */
void stream_end(struct stream *stream, int err);

/* Whether it has failed or was told to end: nothing can be parked on it. */
bool stream_ended(const struct stream *stream);

/* Since when (clock.h) a read waits for it, UINT64_MAX if none does. */
uint64_t stream_waiting_since(const struct stream *stream);

/* Whether nobody waits for it, and since when (clock.h), to choose one to end. */
bool stream_unused(const struct stream *stream, uint64_t *ret_since_ms);

/* Where the reading has come to. */
uint64_t stream_position(const struct stream *stream);

#endif
