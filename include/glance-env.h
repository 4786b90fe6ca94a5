/* SPDX-License-Identifier: MIT */
/*
 * glance-env - the variables OS_* that OpenStack's clients log in with, from the process's
 * environment or from a file.
 *
 * A file has lines NAME=VALUE, as a shell and systemd(1) take them: "export" may be before
 * the name, a # begins a comment, VALUE may be in single or in double quotes.  Nothing is
 * run and nothing expanded: a $ or ` that a shell would act on is refused, and so is any
 * other line but "unset NAME".  Only the file counts then.
 */
#ifndef IMAGEFS_GLANCE_ENV_H
#define IMAGEFS_GLANCE_ENV_H

#include <stddef.h>

struct glance_env;

/*
 * Read the variables, from @path or, if that is NULL, those of the process.  The caller
 * owns *@ret_env.  Returns 0; or a negative errno with why in @problem, of @room bytes,
 * which has nothing of a value in it: -EINVAL for a line that is wrong.
 */
int glance_env_new(const char *path, struct glance_env **ret_env, char *problem,
		   size_t room);

/* Forgets the values as well.  NULL is taken. */
void glance_env_free(struct glance_env *env);

/* The value of @name, borrowed, or NULL if it is not set or empty. */
const char *glance_env_get(const struct glance_env *env, const char *name);

#endif
