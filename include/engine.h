/* SPDX-License-Identifier: MIT */
/*
 * engine - what all open files share: the store, the limits, the memory, the threads.
 */
#ifndef IMAGEFS_ENGINE_H
#define IMAGEFS_ENGINE_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#include "store.h"

#define ENGINE_RING_MIN (2u << 20) /* of each stream, whatever the limit says */

struct engine {
	/* constant */
	const struct store *store;
	size_t ring_size; /* bytes, a power of two */
	uint64_t memory_limit; /* bytes, of all rings together */
	uint64_t idle_ms; /* after which readers and rings are given back */
	pthread_mutex_t lock; /* guards the rest; taken after a handle's lock */
	pthread_cond_t no_threads;
	uint64_t memory_used;
	size_t threads;
};

void engine_init(struct engine *engine, const struct store *store);
void engine_fini(struct engine *engine);

/*
 * The size of a new stream's ring, a power of two, counted from here on: as large as the
 * limit lets it be, but at least ENGINE_RING_MIN.  Give it back with engine_give_back().
 */
size_t engine_take_memory(struct engine *engine);
void engine_give_back(struct engine *engine, size_t size);

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
