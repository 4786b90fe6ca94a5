/* SPDX-License-Identifier: MIT */
/*
 * ring - the bounded window of bytes around the reading position of a stream.
 *
 * It holds the bytes [kept, head) of an image.  Threads: none of its own; the caller's
 * lock guards the numbers.  The memory of bytes that are held may be read, and that of
 * ring_space() be written, without the lock, as long as the caller moves neither end over
 * them.
 */
#ifndef IMAGEFS_RING_H
#define IMAGEFS_RING_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct ring {
	unsigned char *data;
	size_t size; /* bytes, a multiple of 4096 */
	uint64_t kept; /* image offset of the oldest byte that is held */
	uint64_t head; /* image offset behind the newest */
};

/*
 * Make a ring of @size bytes, a multiple of 4096, empty at image offset @start.  Returns 0,
 * -EINVAL (size) or -ENOMEM.
 */
int ring_init(struct ring *ring, size_t size, uint64_t start);

/*
 * Make it a ring of @size bytes, which keeps the newest of what is held.  No byte may be
 * in use.  Returns as ring_init(); the ring is as it was then.
 */
int ring_resize(struct ring *ring, size_t size);

/* Give the memory back.  A ring of zeros is taken. */
void ring_fini(struct ring *ring);

/* How many bytes can be put before something has to be dropped. */
size_t ring_room(const struct ring *ring);

/*
 * The memory for the next @length bytes, within ring_room(): 1 or 2 pieces, their count.
 */
int ring_space(const struct ring *ring, size_t length, struct iovec iov[2]);

/* @length bytes were put there. */
void ring_put(struct ring *ring, size_t length);

/* The memory of the bytes [@offset, @offset + @length), all held: 1 or 2 pieces. */
int ring_get(const struct ring *ring, uint64_t offset, size_t length,
	     struct iovec iov[2]);

/* Drop what is before @offset, which is at most head. */
void ring_drop(struct ring *ring, uint64_t offset);

/* Take back the newest bytes, from @offset, which is at least kept. */
void ring_rewind(struct ring *ring, uint64_t offset);

#endif
