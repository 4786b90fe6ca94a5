/* SPDX-License-Identifier: MIT */
/*
 * show - a listing for people or for programs.
 */
#ifndef IMAGEFS_SHOW_H
#define IMAGEFS_SHOW_H

#include <stdio.h>

#include "listing.h"

/* Print a table: name, size, allocated, time.  Returns 0 or -EIO. */
int show_table(FILE *file, const struct listing *listing);

/*
 * Print one JSON object a line: file, name (or name_hex), id, size, and where the store
 * gives them allocated, mtime, immutable, attrs.  Returns 0, -EIO or -ENOMEM.
 */
int show_json(FILE *file, const struct listing *listing);

#endif
