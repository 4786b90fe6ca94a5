/* SPDX-License-Identifier: MIT */
/*
 * image - one version of an image, as a store listed it.
 *
 * Constant but for its error text and extents; shared by reference counts.  Any thread.
 */
#ifndef IMAGEFS_IMAGE_H
#define IMAGEFS_IMAGE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <time.h>

struct stats;

struct attribute {
	char *key;
	char *value;
};

struct image {
	char *name; /* as the store calls it */
	char *file_name;
	char *id;
	uint64_t ino; /* from name and id: the same in each listing and each mount */
	uint64_t size; /* bytes */
	uint64_t allocated;
	struct timespec mtime;
	bool immutable;
	struct attribute *attributes;
	size_t attribute_count;
	atomic_size_t refs;
	LIST_ENTRY(image) link; /* the file system's, as the next */
	uint64_t lookups; /* that the kernel remembers */
	struct stats *_Atomic stats; /* from image_count() on; NULL: nobody opened it */
	struct image *origin; /* a reference: the stats are its; NULL: they are its own */
	/* When and where the tries to read it were used up, without a byte since; 0: never. */
	atomic_uint_least64_t failed_ms, failed_at;
	pthread_mutex_t lock; /* guards the rest */
	char *error; /* what went wrong last, or NULL */
};

/*
 * Parse one line of a list (imagefs-store.h).  The caller owns a reference to
 * *@ret_image. Returns 0; -EBADMSG with *@ret_why set to a constant text; or -ENOMEM.
 */
int image_parse(const char *line, size_t size, struct image **ret_image,
		const char **ret_why);

/* Whether two are the same in all that the store says. */
bool image_equal(const struct image *a, const struct image *b);

struct image *image_ref(struct image *image);
void image_unref(struct image *image);
void image_unrefp(struct image **image);

/*
 * Have the image's stats counted from now on.  Returns 0 or -ENOMEM, when they are not.
 */
int image_count(struct image *image);

/*
 * Have @image, which nobody else knows yet, go on with the stats of @was, if the two are one
 * content of which the store says something else now.
 */
void image_go_on(struct image *image, struct image *was);

/* Remember and log what went wrong with the image; any bytes, made printable. */
void image_set_error(struct image *image, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* The same of what went wrong at the byte @offset; the text is to say where, too. */
void image_set_error_at(struct image *image, uint64_t offset, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* A copy of what went wrong last, for the caller to free, or NULL. */
char *image_error(struct image *image);

#endif
