/* SPDX-License-Identifier: MIT */
/*
 * pass - a pipe in which the reply to one read is put together, so that its bytes go from
 * the store program's pipe to the kernel without being copied into our memory.
 *
 * The kernel's part of this is splice(2) from a pipe to /dev/fuse (fs/fuse/dev.c,
 * fuse_dev_splice_write()), which takes one reply, header and all, at a time.
 *
 * Threads: used by one at a time.
 */
#ifndef IMAGEFS_PASS_H
#define IMAGEFS_PASS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

#define PASS_HEADER_MAX 16
#define PASS_MIN ((size_t)128 << 10) /* a reply that is worth it, in bytes */

struct pass {
	int fds[2]; /* of the pipe; -1: none */
	size_t size; /* bytes that it holds, at most */
	size_t header; /* bytes in it, in front of the others */
	unsigned char copy[PASS_HEADER_MAX]; /* of them, as they were put in */
	size_t gathered; /* bytes in it behind the header */
};

#define PASS_INIT ((struct pass){.fds = {-1, -1}})

/*
 * The most bytes of a reply that a pipe holds, its header being in a page of its own, and
 * the first of the bytes where they lie within one; 0 if there is no such pipe.  As the
 * system's limits for pipes are now (pipe(7)).
 */
size_t pass_most(void);

void pass_fini(struct pass *pass);

/*
 * Begin a reply of @size bytes with @header, of PASS_HEADER_MAX bytes at most, into a pipe
 * in which nothing is gathered, and which is made when there is none.  Returns 0, -EMSGSIZE
 * if it does not hold so many, or another negative errno, after which it is empty.
 */
int pass_begin(struct pass *pass, const void *header, size_t header_size, size_t size);

/* Read back what was gathered, as readv(2) does; a reply that was begun is given up. */
ssize_t pass_readv(struct pass *pass, const struct iovec *iov, int count);

/* Whether the reply that was begun is the one with @header. */
bool pass_is_of(const struct pass *pass, const void *header, size_t header_size);

/* Whether the pipe still holds all that was put into it: the kernel took none of it. */
bool pass_is_whole(const struct pass *pass);

/* The kernel has taken it. */
void pass_done(struct pass *pass);

#endif
