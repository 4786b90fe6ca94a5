/* SPDX-License-Identifier: MIT */
#include <assert.h>
#include <errno.h>
#include <sys/mman.h>

#include "cleanup.h"
#include "ring.h"

int ring_init(struct ring *ring, size_t size, uint64_t start)
{
	void *data;

	if (!size || size & (size - 1))
		return -EINVAL;
	data = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		    0);
	if (data == MAP_FAILED)
		return -ENOMEM;
	*ring = (struct ring){.data = data, .size = size, .kept = start, .head = start};
	return 0;
}

void ring_fini(struct ring *ring)
{
	if (ring->data)
		munmap(ring->data, ring->size);
	ring->data = NULL;
}

size_t ring_room(const struct ring *ring)
{
	return ring->size - (size_t)(ring->head - ring->kept);
}

/* The pieces of memory that the image's bytes from @offset on have or would have. */
static int pieces(const struct ring *ring, uint64_t offset, size_t length,
		  struct iovec iov[2])
{
	size_t at = (size_t)(offset & (ring->size - 1));
	size_t first = MIN(length, ring->size - at);

	iov[0] = (struct iovec){ring->data + at, first};
	iov[1] = (struct iovec){ring->data, length - first};
	return length > first ? 2 : 1;
}

int ring_space(const struct ring *ring, size_t length, struct iovec iov[2])
{
	assert(length <= ring_room(ring));
	return pieces(ring, ring->head, length, iov);
}

void ring_put(struct ring *ring, size_t length)
{
	assert(length <= ring_room(ring));
	ring->head += length;
}

int ring_get(const struct ring *ring, uint64_t offset, size_t length, struct iovec iov[2])
{
	assert(offset >= ring->kept && offset + length <= ring->head);
	return pieces(ring, offset, length, iov);
}

void ring_drop(struct ring *ring, uint64_t offset)
{
	assert(offset <= ring->head);
	ring->kept = MAX(ring->kept, offset);
}

void ring_rewind(struct ring *ring, uint64_t offset)
{
	assert(offset >= ring->kept && offset <= ring->head);
	ring->head = offset;
}
