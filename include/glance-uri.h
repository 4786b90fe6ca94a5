/* SPDX-License-Identifier: MIT */
/*
 * glance-uri - which Glance, as it is written:
 *
 *	glance+http://HOST[:PORT]/[PREFIX/][?PARAMETERS]	the URL of the image endpoint
 *	glance+https://...					the same with TLS
 *	glance:///, glance+http:///, glance+https:///		the endpoint is looked up
 *
 * Parameters are env=PATH, a file with the variables OS_* (glance-env.h), and filters for
 * the list: the names in the API of "List images" (Image service API v2).
 */
#ifndef IMAGEFS_GLANCE_URI_H
#define IMAGEFS_GLANCE_URI_H

#include <stdbool.h>

struct glance_uri {
	char *endpoint; /* as glance_endpoint() makes it; NULL: to be looked up */
	bool secure; /* only https will do */
	char *env_file; /* absolute path, or NULL */
	char *filters; /* "&NAME=VALUE" for each, "" if none */
};

/*
 * Parse @text.  The caller ends *@ret_uri with glance_uri_fini().  Returns 0, -ENOMEM, or
 * -EINVAL with what is wrong, a constant, in *@ret_problem.
 */
int glance_uri_init(struct glance_uri *ret_uri, const char *text,
		    const char **ret_problem);
void glance_uri_fini(struct glance_uri *uri);

/*
 * The endpoint that @url is: SCHEME://HOST[:PORT][/PREFIX], without /v2 and slashes at its
 * end.  The caller frees it.  Returns NULL if it is none, with why in *@ret_problem, a
 * constant, or "" if out of memory.
 */
char *glance_endpoint(const char *url, const char **ret_problem);

/* The length of SCHEME://HOST[:PORT] in @url. */
unsigned long glance_origin(const char *url);

#endif
