/* SPDX-License-Identifier: MIT */
/*
 * handle - one open file: it decides for each read which stream or lane answers it.
 *
 * A read that a stream has is answered at once; one just ahead of a stream waits for it;
 * one that runs on from earlier reads, or is at the image's start, makes a stream; any
 * other goes to a lane.  No call waits for the store.
 */
#ifndef IMAGEFS_HANDLE_H
#define IMAGEFS_HANDLE_H

#include <stdbool.h>

#include "engine.h"
#include "image.h"
#include "read.h"

struct handle;

/*
 * Somebody who wants to know where data or a hole begins.  Embedded in what @done needs.
 */
struct seek {
	TAILQ_ENTRY(seek) link;
	uint64_t offset;
	bool hole; /* SEEK_HOLE, else SEEK_DATA */
	atomic_bool given_up; /* as that of struct read */
	/*
	 * Called once, on any thread, no lock being held: with 0 and the offset (the
	 * image's size if there is no such place), or a negative errno.  Frees @seek.
	 */
	void (*done)(struct seek *seek, int err, uint64_t offset);
};

/*
 * Open @image, of which a reference is kept; @engine is borrowed.  The caller owns
 * *@ret_handle and gives it up with handle_close().  Returns 0 or -ENOMEM.
 */
int handle_new(struct engine *engine, struct image *image, struct handle **ret_handle);

/*
 * Close it: its readers are killed, reads that still wait are answered with -EIO, and its
 * memory is freed when its last thread has ended.  Does not wait for that.
 */
void handle_close(struct handle *handle);

/* Read; a part beyond the image's end is cut off first.  @read is replied to, once. */
void handle_read(struct handle *handle, struct read *read);

/*
 * Give up a read, having set its given_up.  Returns whether it was waiting: it is the
 * caller's again then; else it has been, is being, or will be replied to.
 */
bool handle_cancel(struct handle *handle, struct read *read);

/* Tell where data or a hole begins, at or after an offset inside of the image. */
void handle_seek(struct handle *handle, struct seek *seek);

/* The same as handle_cancel(). */
bool handle_cancel_seek(struct handle *handle, struct seek *seek);

struct image *handle_image(struct handle *handle);

#endif
