/* SPDX-License-Identifier: MIT */
/*
 * read - one read that somebody waits for.
 */
#ifndef IMAGEFS_READ_H
#define IMAGEFS_READ_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/uio.h>

/*
 * Embedded in what @reply needs; owned by whom it was handed to until @reply is called.
 */
struct read {
	TAILQ_ENTRY(read) link;
	uint64_t offset;
	size_t size; /* bytes, not beyond the image's end once a handle has it */
	bool direct; /* past the page cache: the kernel does not ask again by itself */
	uint64_t parked_ms; /* when it began to wait (clock.h) */
	atomic_bool given_up; /* set before handle_cancel(): it is not to begin waiting */
	/*
	 * Called exactly once, on any thread, no lock being held: with @err 0 and all of
	 * the bytes in @count pieces, borrowed for the call, or a negative errno.  Frees
	 * @read.
	 */
	void (*reply)(struct read *read, int err, const struct iovec *iov, int count);
	/*
	 * Or NULL: called instead of it, if at all, with @pipe holding a reply of
	 * @header_size bytes of @header, which are then what the read has, and all of its
	 * bytes.  Returns 0, or a negative errno without having freed it.
	 */
	int (*pass)(struct read *read, int pipe);
	const void *header;
	size_t header_size;
};

TAILQ_HEAD(reads, read);

/* Reply to all reads on @reads, which is emptied, with @err. */
static inline void reads_fail(struct reads *reads, int err)
{
	struct read *read;

	while ((read = TAILQ_FIRST(reads))) {
		TAILQ_REMOVE(reads, read, link);
		read->reply(read, err, NULL, 0);
	}
}

#endif
