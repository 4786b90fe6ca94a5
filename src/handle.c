/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "cleanup.h"
#include "handle.h"
#include "pool.h"

struct handle {
	/* constant, but for what the pool's lock guards in member */
	struct engine *engine;
	struct image *image;
	struct pool *pool;
	struct member member;
};

int handle_new(struct engine *engine, struct image *image, struct handle **ret_handle)
{
	CLEANUP(freep) struct handle *handle = calloc(1, sizeof(*handle));
	int ret;

	if (!handle)
		return -ENOMEM;
	ret = image_count(image);
	if (!ret)
		ret = pool_join(engine, image, &handle->member, &handle->pool);
	if (ret < 0)
		return ret;
	handle->engine = engine;
	handle->image = image_ref(image);
	stats_add(&engine->stats, image->stats, COUNT_OPEN, 1);
	*ret_handle = STEAL(handle);
	return 0;
}

void handle_close(struct handle *handle)
{
	stats_subtract(&handle->engine->stats, handle->image->stats, COUNT_OPEN, 1);
	pool_leave(handle->pool, &handle->member);
	image_unref(handle->image);
	free(handle);
}

struct image *handle_image(struct handle *handle)
{
	return handle->image;
}

void handle_read(struct handle *handle, struct read *read)
{
	uint64_t size = handle->image->size;

	if (read->offset >= size)
		read->size = 0;
	else
		read->size = (size_t)MIN((uint64_t)read->size, size - read->offset);
	if (read->size)
		pool_read(handle->pool, &handle->member, read);
	else
		read->reply(read, 0, NULL, 0);
}

bool handle_cancel(struct handle *handle, struct read *read)
{
	return pool_cancel(handle->pool, read);
}

void handle_seek(struct handle *handle, struct seek *seek)
{
	pool_seek(handle->pool, &handle->member, seek);
}

bool handle_cancel_seek(struct handle *handle, struct seek *seek)
{
	return pool_cancel_seek(handle->pool, seek);
}

uint64_t handle_waiting_since(struct handle *handle)
{
	return pool_waiting_since(handle->pool);
}
