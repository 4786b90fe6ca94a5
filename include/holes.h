/* SPDX-License-Identifier: MIT */
/*
 * holes - where an image has data, asked of the store when somebody wants to know.
 *
 * Those of an image that can change are believed for a short time only.  Embedded; all
 * calls are made with the lock held that holes_init() was given, if nothing else is said.
 */
#ifndef IMAGEFS_HOLES_H
#define IMAGEFS_HOLES_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/queue.h>

#include "engine.h"
#include "extents.h"
#include "image.h"

/*
 * Somebody who wants to know where data or a hole begins.  Embedded in what @done needs.
 */
struct seek {
	TAILQ_ENTRY(seek) link;
	uint64_t offset; /* inside of the image */
	bool hole; /* SEEK_HOLE, else SEEK_DATA */
	uint64_t since_ms; /* what was asked before that (clock.h) does not do */
	atomic_bool given_up; /* as that of struct read */
	/*
	 * Called once, on any thread, no lock being held: with 0 and the offset (the
	 * image's size if there is no such place), or a negative errno.  Frees @seek.
	 */
	void (*done)(struct seek *seek, int err, uint64_t offset);
};

TAILQ_HEAD(seeks, seek);

struct holes {
	/* constant */
	struct engine *engine;
	struct image *image;
	pthread_mutex_t *lock;
	/* told of new extents, borrowed, with the lock held; may be NULL */
	void (*take)(void *context, struct extents *extents);
	void *context;
	/* guarded by the lock */
	int wake_fd; /* ends the call of the store that is under way, or -1 */
	bool ended;
	struct extents *extents; /* the last ones, or NULL */
	uint64_t asked_ms; /* when they were asked for */
	uint64_t next_ms; /* before that they are not asked for unless somebody waits */
	bool wanted; /* though nobody waits */
	struct seeks seeks; /* wait for the next */
	bool asking;
};

/* @engine, @image and @lock are borrowed; @take and @context may be set then. */
void holes_init(struct holes *holes, struct engine *engine, struct image *image,
		pthread_mutex_t *lock);
void holes_fini(struct holes *holes);

/*
 * Whether all of [@offset, @offset + @size) is known to be zeros, for one who opened the
 * image at @since_ms.
 */
bool holes_cover(const struct holes *holes, uint64_t since_ms, uint64_t offset,
		 size_t size);

/*
 * Have @seek answered: at once, the lock being dropped meanwhile, or when the store has
 * told.  Returns 0; 1 if holes_run() is to be run on a thread for it; or, with the seek
 * not taken, -EINTR if it was given up.
 */
int holes_seek(struct holes *holes, struct seek *seek);

/*
 * Somebody who opened the image at @since_ms reads much of it, and would gain from knowing
 * the holes.  Returns whether holes_run() is to be run on a thread.
 */
bool holes_want(struct holes *holes, uint64_t since_ms);

/* Ask the store, on this thread, and answer all who wait.  Drops the lock meanwhile. */
void holes_run(struct holes *holes);

/* No thread could be had for holes_run(): answer all who wait with @err. */
void holes_fail(struct holes *holes, int err);

/* Take back one that waits; returns whether it did. */
bool holes_cancel(struct holes *holes, const struct seek *seek);

/* End a call that is under way: those who wait are answered with -EIO. */
void holes_end(struct holes *holes);

#endif
