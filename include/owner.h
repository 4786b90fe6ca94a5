/* SPDX-License-Identifier: MIT */
/*
 * owner - what a stream or a lane asks and tells the pool that it belongs to.
 *
 * All are called with the lock held that the stream or lane was made with.
 */
#ifndef IMAGEFS_OWNER_H
#define IMAGEFS_OWNER_H

#include <stdbool.h>
#include <stdint.h>

struct owner {
	/*
	 * The least offset in [@kept, @needed) from which one of those who read side by
	 * side is about to read on, and in *@ret_until_ms (clock.h) until when that is to
	 * be believed; or UINT64_MAX and 0.  Of a stream.
	 */
	uint64_t (*held_from)(void *context, uint64_t kept, uint64_t needed,
			      uint64_t *ret_until_ms);
	/* Whether more than one reads the image.  Of a stream. */
	bool (*shared)(void *context);
	/*
	 * Reads within [@start, @end) are about to be answered with the final error @err;
	 * @lost as source_is_lost().
	 */
	void (*failed)(void *context, int err, bool lost, uint64_t start, uint64_t end);
	/* The program has confirmed all up to the image's end, or failed to.  Of a stream. */
	void (*ended)(void *context, bool confirmed);
	void *context;
};

#endif
