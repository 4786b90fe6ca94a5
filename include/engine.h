/* SPDX-License-Identifier: MIT */
/*
 * engine - what all open files share: the store, the limits, the memory, the threads, and
 * what the store was measured to cost.
 */
#ifndef IMAGEFS_ENGINE_H
#define IMAGEFS_ENGINE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "stats.h"
#include "store.h"

/* Of each stream, whatever the limit says: a read of 1 MiB and some more. */
#define ENGINE_RING_MIN (1280u << 10)
#define ENGINE_RING_UNIT (64u << 10)

struct pool;

struct engine {
	/* constant */
	const struct store *store;
	size_t ring_size; /* bytes, a multiple of the unit */
	uint64_t memory_limit; /* bytes, of all rings together */
	uint64_t idle_ms; /* after which readers and rings are given back */
	uint64_t answer_ms; /* in which every read is answered, come what may; 0: no limit */
	/* by themselves */
	struct stats stats;
	atomic_size_t streams;
	atomic_uint_least64_t start_us; /* from a program's start to its first byte */
	atomic_uint_least64_t rate; /* bytes that a program gives in a millisecond */
	/* guarded by the next */
	pthread_mutex_t pools_lock; /* taken before that of a pool */
	LIST_HEAD(pools, pool) pools; /* those that handles may share */
	pthread_mutex_t lock; /* guards the rest; taken after a pool's lock */
	pthread_cond_t no_threads;
	size_t threads;
};

void engine_init(struct engine *engine, const struct store *store);
void engine_fini(struct engine *engine);

/*
 * The size that each stream's ring should have now, so that all are within the limit, a
 * multiple of ENGINE_RING_UNIT and at least ENGINE_RING_MIN.
 */
size_t engine_fair_ring(const struct engine *engine);

/*
 * A stream begins.  Returns the size of its ring, which is counted from here on, also for
 * @image, whose stats they are or NULL.
 */
size_t engine_stream_begins(struct engine *engine, struct stats *image);

/* Whether more memory is in use than the limit says. */
bool engine_is_over(const struct engine *engine);

/* A stream ends, or its ring or another buffer changes its size: the memory is counted. */
void engine_stream_ends(struct engine *engine, struct stats *image, size_t ring_size);
void engine_ring_changes(struct engine *engine, struct stats *image, size_t from,
			 size_t to);

/* A program took @start_us microseconds from its start to its first byte. */
void engine_note_start(struct engine *engine, uint64_t start_us);

/* A program gave @bytes in @us microseconds. */
void engine_note_rate(struct engine *engine, uint64_t bytes, uint64_t us);

/*
 * How many bytes are read and thrown away in the time that it takes to start a program:
 * what lies no further ahead is better skipped to.
 */
uint64_t engine_skip_max(const struct engine *engine);

/*
 * Run @run with @context on a detached thread with all signals blocked; it calls
 * engine_thread_ends() last.  Returns 0 or a negative errno.
 */
int engine_start_thread(struct engine *engine, void *(*run)(void *), void *context);
void engine_thread_ends(struct engine *engine);

/*
 * Wait until no such thread runs, at most until @deadline_ms.  Returns 0 or -ETIMEDOUT.
 */
int engine_wait(struct engine *engine, uint64_t deadline_ms);

#endif
