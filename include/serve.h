/* SPDX-License-Identifier: MIT */
/*
 * serve - what the store programs written in C share: arguments, asks, answers, lists.
 *
 * The protocol is that of imagefs-store.h.  A program has a const struct store and
 *
 *	int main(int argc, char **argv) { return store_main(argc, argv, &store); }
 *
 * Single threaded, but for store_error() which may be called on any thread.
 */
#ifndef IMAGEFS_SERVE_H
#define IMAGEFS_SERVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "imagefs-store.h"

/*
 * A store's operations.  @uri is the whole URI as given, @id that of one image.  Each
 * returns an exit status (enum store_exit), having said with store_error() what went
 * wrong.  @extents may be NULL: STORE_USAGE then.
 */
struct store {
	const char *scheme;
	int (*list)(const char *uri);
	int (*read)(const char *uri, const char *id);
	int (*extents)(const char *uri, const char *id);
};

/*
 * Parse the arguments, run the operation, and return the status to exit with.  SIGPIPE is
 * ignored: a write to a pipe that nobody reads fails with EPIPE, and the program then
 * ends with STORE_OK, since nobody is left to be told.
 */
int store_main(int argc, char **argv, const struct store *store);

/*
 * One line on standard error, with the newline, in one write; control bytes become '?'.
 */
void store_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* One ask: @length bytes, never 0, from @offset of the image; the sum fits 63 bits. */
struct ask {
	uint64_t offset;
	uint64_t length;
};

/*
 * The asks that arrive on a descriptor, taken apart.  It may be non-blocking, for a
 * program that has many asks under way.  Zero-initialize, set @fd.
 */
struct asks {
	int fd;
	size_t used; /* bytes in @line that were read */
	size_t taken; /* of them, bytes that were parsed */
	bool ended; /* end of input was seen */
	char line[4096];
};

/*
 * The next ask.  Returns 1 with *@ret_ask set, 0 at end of input, -EAGAIN if none is
 * there yet (a non-blocking @fd), -EBADMSG for a line that is no ask (said with
 * store_error()), or the errno of read(2), negative.  Blocks as @fd does.
 */
int asks_next(struct asks *asks, struct ask *ret_ask);

/*
 * Serve asks from standard input one after another until its end, on the calling thread:
 * @answer writes exactly the bytes of the ask to standard output and returns STORE_OK, or
 * the status to exit with.  Returns the status to exit with.
 */
int store_serve(int (*answer)(void *context, const struct ask *ask), void *context);

/*
 * The same, but @answer may keep bytes back until @flush, which is called when no further
 * ask has come, before more are waited for, and at the end of input.
 */
int store_serve_batches(int (*answer)(void *context, const struct ask *ask),
			int (*flush)(void *context), void *context);

/*
 * Write all of @data to @fd, which may block or not.  Returns 0 or a negative errno
 * (-EPIPE: nobody reads any more).
 */
int write_all(int fd, const void *data, size_t size);

/* The same for @length zeros. */
int write_zeros(int fd, uint64_t length);

/* One image of a list.  Strings are borrowed for the call. */
struct store_image {
	const char *name; /* any bytes but NUL */
	const char *id;
	uint64_t size;
	uint64_t allocated; /* UINT64_MAX if not known */
	int64_t mtime; /* seconds since 1970; INT64_MIN if not known */
	bool immutable;
	const char *const *attrs; /* key, value, key, value, …, NULL; or NULL */
};

/* Print @image as a line of a list.  Buffered: store_main() flushes and checks. */
void store_print_image(const struct store_image *image);

/* Print a run of data as a line of extents; runs that touch become one line. */
void store_print_extent(uint64_t offset, uint64_t length);

/*
 * Make @fd non-blocking.  Returns its flags as they were, negative if they cannot be told,
 * for store_set_flags(): others may have the same open file, a terminal for instance.
 */
int store_make_nonblocking(int fd);
void store_set_flags(int fd, int flags);

#endif
