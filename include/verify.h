/* SPDX-License-Identifier: MIT */
/*
 * verify - read images and compare them with the hashes that their store gives.
 *
 * A store gives a hash of an image's bytes as attributes (imagefs-store.h), as Glance does:
 *
 *	os_hash_algo, os_hash_value	"sha512" or another name that OpenSSL knows, and
 *					hexadecimal digits
 *	checksum			hexadecimal digits of MD5; for want of the others
 */
#ifndef IMAGEFS_VERIFY_H
#define IMAGEFS_VERIFY_H

#include <stdbool.h>
#include <stddef.h>

#include "store.h"

/* Not 2, which says that the arguments are wrong. */
#define VERIFY_NO_HASH 3

/* What is to be done. */
struct verify {
	const struct store *store;
	char *const *names; /* file names or ids of images; if there are none, all */
	size_t name_count;
	bool json;
};

/*
 * Do it: a table on standard output, a line for each image; a progress bar on standard
 * error if that is a terminal.  Several images are read side by side, by threads that are
 * gone when it returns.  Returns 0 if all are equal; 1 if one is not, could not be read, or
 * is not there; VERIFY_NO_HASH if none is wrong, but one has no hash to compare it with; -ENOTSUP if it
 * was built without a library for hashes; or another negative errno, having said why.
 */
int verify_store(const struct verify *verify);

#endif
