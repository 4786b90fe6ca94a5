/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "cleanup.h"
#include "clock.h"
#include "engine.h"
#include "thread.h"

#define RING_SIZE (4u << 20) /* measured: larger ones leave the processor's cache */
#define MEMORY_LIMIT (256u << 20)
#define IDLE_MS 10000

void engine_init(struct engine *engine, const struct store *store)
{
	*engine = (struct engine){
		.store = store,
		.ring_size = RING_SIZE,
		.memory_limit = MEMORY_LIMIT,
		.idle_ms = IDLE_MS,
	};
	pthread_mutex_init(&engine->lock, NULL);
	cond_init(&engine->no_threads);
}

void engine_fini(struct engine *engine)
{
	pthread_cond_destroy(&engine->no_threads);
	pthread_mutex_destroy(&engine->lock);
}

size_t engine_take_memory(struct engine *engine)
{
	size_t size = engine->ring_size;

	pthread_mutex_lock(&engine->lock);
	while (size > ENGINE_RING_MIN &&
	       engine->memory_used + size > engine->memory_limit)
		size /= 2;
	engine->memory_used += size;
	pthread_mutex_unlock(&engine->lock);
	return size;
}

void engine_give_back(struct engine *engine, size_t size)
{
	pthread_mutex_lock(&engine->lock);
	engine->memory_used -= size;
	pthread_mutex_unlock(&engine->lock);
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
