/* SPDX-License-Identifier: MIT */
/*
 * lane - a source for reads in any order: each is asked for exactly, many are under way.
 *
 * All calls but lane_new(), lane_run() and lane_free() are made with the lock held that
 * it was made with.
 */
#ifndef IMAGEFS_LANE_H
#define IMAGEFS_LANE_H

#include <pthread.h>
#include <stdbool.h>

#include "engine.h"
#include "image.h"
#include "owner.h"
#include "read.h"

struct lane;

/*
 * Make a lane for @image.  @engine, @image, @lock and @owner are borrowed and outlive it.
 * The caller owns *@ret_lane.  Returns 0 or a negative errno.
 */
int lane_new(struct engine *engine, struct image *image, pthread_mutex_t *lock,
	     const struct owner *owner, struct lane **ret_lane);

/*
 * Be the lane's thread, until it was told to end or was idle for the engine's limit.
 * Called and returns with the lock held.  Then no read waits for it any more, and it is
 * the caller's to free, without the lock.
 */
void lane_run(struct lane *lane);
void lane_free(struct lane *lane);

/* Whether it takes more reads. */
bool lane_is_open(const struct lane *lane);

/* How many reads wait for it. */
size_t lane_load(const struct lane *lane);

/*
 * Have the lane's thread answer the read.  The program may get to know of it only at
 * lane_flush().  Returns 0, or -ENOMEM: it is not taken then.
 */
int lane_park(struct lane *lane, struct read *read);
void lane_flush(struct lane *lane);

/*
 * Have the calling thread, instead of the lane's, take what comes, by calling this again
 * and again, until lane_unattend().  That saves waking the other where answers come
 * sooner than that takes.  Does not wait, but replies to reads, dropping the lock.
 * Returns how many.
 */
size_t lane_attend(struct lane *lane);
void lane_unattend(struct lane *lane);

/* Take back a read that waits; returns whether it did. */
bool lane_unpark(struct lane *lane, const struct read *read);

/* Since when (clock.h) a read waits for it, UINT64_MAX if none does. */
uint64_t lane_waiting_since(const struct lane *lane);

/* Take no more reads, and end when those that wait were answered. */
void lane_retire(struct lane *lane);

/* End the thread as soon as possible; reads that still wait are answered with -EIO. */
void lane_end(struct lane *lane);

#endif
