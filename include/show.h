/* SPDX-License-Identifier: MIT */
/*
 * show - a listing for people or for programs.
 */
#ifndef IMAGEFS_SHOW_H
#define IMAGEFS_SHOW_H

#include <jansson.h>
#include <stdint.h>
#include <stdio.h>

#include "listing.h"
#include "options.h"

#define SHOW_SIZE_ROOM 32

/*
 * Write @bytes, or unless @exact at most six characters: "1.5G", "512", "16E"; "-" for
 * UINT64_MAX.
 */
void show_size(char text[SHOW_SIZE_ROOM], uint64_t bytes, bool exact);

/*
 * Set @key of the object to the text, or @key_hex to its bytes where it is not UTF-8.
 * Returns 0 or -ENOMEM.
 */
int show_set_text(json_t *json, const char *key, const char *text);

/* The characters of a name that is UTF-8. */
int show_columns(const char *name);

/*
 * Print the images in the order that @options say, as a table for people, or as one JSON
 * object a line: file, name (or name_hex), id, size, and where the store gives them
 * allocated, mtime, immutable, attrs.  Returns 0 or a negative errno.
 */
int show_list(FILE *file, const struct listing *listing, const struct options *options);

#endif
