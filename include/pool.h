/* SPDX-License-Identifier: MIT */
/*
 * pool - the readers of one image: the streams and lanes, and which of them answers a read.
 *
 * A read that a stream has is answered at once; one just ahead of a stream waits for it;
 * one that runs on from earlier reads, is at the image's start, or is as far from the last
 * ones as they were from one another, makes a stream; any other goes to a lane.  No call
 * waits for the store.
 *
 * Those who have the same version of an image open share one pool.  If it can change
 * nonetheless, each has only what was begun to be fetched since he opened it.
 *
 * Threads: any.
 */
#ifndef IMAGEFS_POOL_H
#define IMAGEFS_POOL_H

#include <stdbool.h>

#include "engine.h"
#include "holes.h"
#include "image.h"
#include "read.h"

struct pool;

/* One of those who read from a pool. */
struct member {
	LIST_ENTRY(member) link;
	uint64_t joined_ms; /* clock.h */
	uint64_t serial;
	uint64_t position; /* where its reads go on, if they run */
	uint64_t run_start; /* where the first of them was */
	uint64_t read_ms; /* when it last read */
	bool runs; /* its last reads came one after the other */
	/* Of those that no stream answered: the run that was read on end last, */
	uint64_t last_start, last_end;
	uint64_t before_start; /* the one before it, */
	uint64_t length; /* which was so long, */
	int64_t stride; /* and so far behind the one before that; */
	unsigned int times; /* as often as both were the same */
};

/*
 * Join the pool of @image, of which a reference is kept; @engine is borrowed.  The caller
 * gives *@ret_pool up with pool_leave().  Returns 0 or -ENOMEM.
 */
int pool_join(struct engine *engine, struct image *image, struct member *member,
	      struct pool **ret_pool);

/*
 * Leave it.  With its last member gone, its readers are killed, reads that still wait are
 * answered with -EIO, and its memory is freed when its last thread has ended.  Does not
 * wait for that.
 */
void pool_leave(struct pool *pool, struct member *member);

/*
 * Answer a read inside of the image.  @read is replied to, once.  What a store program is
 * asked for it may be kept back on this thread until pool_flush(), to be sent with more.
 */
void pool_read(struct pool *pool, struct member *member, struct read *read);

/*
 * Send what pool_read() kept back on this thread, of whichever pool.
 */
void pool_flush(void);

/*
 * Flush, and see whether store programs have answered what this thread asked for last.
 * Replies to those reads without waiting; returns how many.  To be called again and again
 * until pool_rest(): meanwhile no other thread does it.
 */
size_t pool_attend(void);

/* Flush, and leave all to the pool's own threads; to be called before any wait. */
void pool_rest(void);

/*
 * Give up a read, having set its given_up.  Returns whether it was waiting: it is the
 * caller's again then; else it has been, is being, or will be replied to.
 */
bool pool_cancel(struct pool *pool, const struct read *read);

/* Tell where data or a hole begins, at or after an offset inside of the image. */
void pool_seek(struct pool *pool, const struct member *member, struct seek *seek);

/* The same as pool_cancel(). */
bool pool_cancel_seek(struct pool *pool, const struct seek *seek);

/* Since when (clock.h) a read has waited, UINT64_MAX if none does. */
uint64_t pool_waiting_since(struct pool *pool);

#endif
