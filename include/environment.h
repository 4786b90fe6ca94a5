/* SPDX-License-Identifier: MIT */
/*
 * environment - what a store program finds in its environment: what stores are known to
 * need, and what the user names; nothing else.
 */
#ifndef IMAGEFS_ENVIRONMENT_H
#define IMAGEFS_ENVIRONMENT_H

#include <stdbool.h>

/*
 * Whether a store program gets the variable @name: it is in the list of environment.c or
 * in @more, names separated by ':', or NULL.  A name in a list that ends in '*' stands for
 * all that begin so.
 */
bool environment_allows(const char *name, const char *more);

/*
 * Take all other variables out of this process's environment.  No other thread may run.
 * Returns 0 or -ENOMEM.
 */
int environment_clean(const char *more);

#endif
