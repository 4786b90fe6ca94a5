/* SPDX-License-Identifier: MIT */
/*
 * verify-show - what verify tells people and programs.
 *
 * Threads: the caller keeps calls apart.
 */
#ifndef IMAGEFS_VERIFY_SHOW_H
#define IMAGEFS_VERIFY_SHOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "image.h"

enum verdict {
	VERDICT_EQUAL,
	VERDICT_DIFFERENT,
	VERDICT_UNREAD,
	VERDICT_NO_HASH, /* nothing to compare with */
};

/* What came of one image.  Strings are borrowed for the call. */
struct finding {
	struct image *image;
	enum verdict verdict;
	const char *algorithm; /* NULL: none */
	const char *expected, *found; /* hexadecimal digits, or NULL */
	const char *error; /* for VERDICT_UNREAD */
};

struct verify_show {
	bool json;
	bool bar; /* there is a terminal for it */
	bool color;
	int name_width;
	uint64_t total; /* bytes to be read */
	uint64_t started_ms, shown_ms; /* clock.h */
};

/* Begin: the head of the table. */
void verify_show_begin(struct verify_show *show, struct image *const *images,
		       size_t count, bool json);

/* @done bytes are read, of all images together; shown now and then. */
void verify_show_progress(struct verify_show *show, uint64_t done);

/* Print a finding.  Returns 0, -EIO or -ENOMEM. */
int verify_show_finding(struct verify_show *show, const struct finding *finding);

/* End: take the progress bar away. */
void verify_show_end(struct verify_show *show);

#endif
