/* SPDX-License-Identifier: MIT */
/*
 * show - a listing for people or for programs.
 */
#ifndef IMAGEFS_SHOW_H
#define IMAGEFS_SHOW_H

#include <stdio.h>

#include "listing.h"
#include "options.h"

/*
 * Print the images in the order that @options say, as a table for people, or as one JSON
 * object a line: file, name (or name_hex), id, size, and where the store gives them
 * allocated, mtime, immutable, attrs.  Returns 0 or a negative errno.
 */
int show_list(FILE *file, const struct listing *listing, const struct options *options);

#endif
