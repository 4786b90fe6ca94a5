/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "cleanup.h"
#include "clock.h"
#include "engine.h"
#include "thread.h"

#define RING_SIZE (4u << 20) /* measured: larger ones leave the processor's cache */
#define MEMORY_LIMIT (256u << 20)
#define RING_PARTS 7
#define RING_PARTS_ALL 8
#define IDLE_MS 10000
#define SKIP_UNKNOWN (16u << 20) /* before anything was measured */
#define SKIP_MIN (1u << 20)
#define SKIP_MOST (64u << 20)
#define OLD_PARTS 7 /* of 8, that what was measured before counts */

void engine_init(struct engine *engine, const struct store *store)
{
	*engine = (struct engine){
		.store = store,
		.ring_size = RING_SIZE,
		.memory_limit = MEMORY_LIMIT,
		.idle_ms = IDLE_MS,
	};
	LIST_INIT(&engine->pools);
	pthread_mutex_init(&engine->pools_lock, NULL);
	pthread_mutex_init(&engine->lock, NULL);
	cond_init(&engine->no_threads);
}

void engine_fini(struct engine *engine)
{
	pthread_cond_destroy(&engine->no_threads);
	pthread_mutex_destroy(&engine->lock);
	pthread_mutex_destroy(&engine->pools_lock);
}

size_t engine_fair_ring(const struct engine *engine)
{
	/* A part is left: not every ring is fitted at once, nor to the byte. */
	uint64_t fair = engine->memory_limit / RING_PARTS_ALL * RING_PARTS /
			MAX(engine->streams, (size_t)1);

	fair = MIN(fair, (uint64_t)engine->ring_size);
	return MAX((size_t)fair & ~(size_t)(ENGINE_RING_UNIT - 1),
		   (size_t)ENGINE_RING_MIN);
}

size_t engine_stream_begins(struct engine *engine, struct stats *image)
{
	engine->streams++;
	stats_add(&engine->stats, image, COUNT_MEMORY, ENGINE_RING_MIN);
	return ENGINE_RING_MIN;
}

bool engine_is_over(const struct engine *engine)
{
	return stats_get(&engine->stats, COUNT_MEMORY) > engine->memory_limit;
}

void engine_stream_ends(struct engine *engine, struct stats *image, size_t ring_size)
{
	engine->streams--;
	stats_subtract(&engine->stats, image, COUNT_MEMORY, ring_size);
}

void engine_ring_changes(struct engine *engine, struct stats *image, size_t from,
			 size_t to)
{
	/* What is less wraps around to what is meant. */
	stats_add(&engine->stats, image, COUNT_MEMORY, to - from);
}

/* A race loses a measurement, which does not matter. */
static void average(atomic_uint_least64_t *value, uint64_t measured)
{
	uint64_t old = *value;

	*value = old ? (OLD_PARTS * old + measured) / (OLD_PARTS + 1) : measured;
}

void engine_note_start(struct engine *engine, uint64_t start_us)
{
	average(&engine->start_us, MAX(start_us, (uint64_t)1));
}

void engine_note_rate(struct engine *engine, uint64_t bytes, uint64_t us)
{
	average(&engine->rate, bytes * 1000 / (us + 1) + 1);
}

uint64_t engine_skip_max(const struct engine *engine)
{
	uint64_t start_us = engine->start_us, rate = engine->rate, skip;

	if (!start_us || !rate)
		return SKIP_UNKNOWN;
	skip = start_us * rate / 1000;
	skip = MIN(skip, (uint64_t)SKIP_MOST);
	return MAX(skip, (uint64_t)SKIP_MIN);
}

int engine_start_thread(struct engine *engine, void *(*run)(void *), void *context)
{
	int ret;

	pthread_mutex_lock(&engine->lock);
	engine->threads++;
	pthread_mutex_unlock(&engine->lock);
	ret = thread_start(run, context, NULL);
	if (ret < 0)
		engine_thread_ends(engine);
	return ret;
}

void engine_thread_ends(struct engine *engine)
{
	pthread_mutex_lock(&engine->lock);
	engine->threads--;
	if (!engine->threads)
		pthread_cond_broadcast(&engine->no_threads);
	pthread_mutex_unlock(&engine->lock);
}

int engine_wait(struct engine *engine, uint64_t deadline_ms)
{
	int ret = 0;

	pthread_mutex_lock(&engine->lock);
	while (engine->threads && !ret)
		ret = cond_wait_until(&engine->no_threads, &engine->lock, deadline_ms);
	pthread_mutex_unlock(&engine->lock);
	return ret;
}
