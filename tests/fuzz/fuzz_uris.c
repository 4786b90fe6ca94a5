/* SPDX-License-Identifier: MIT */
/*
 * fuzz_uris - the stores' URIs: what is wrong is told, what is right means what it says.
 *
 * The first byte says whose: 'r' Ceph's, 'g' Glance's, any other sheepdog's.
 */
#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef HAVE_GLANCE
#include "glance-uri.h"
#endif
#include "rbd-uri.h"
#include "sheepdog-uri.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_ceph(const char *text)
{
	struct ceph_uri uri, same;
	const char *problem = NULL;
	char *again;

	if (ceph_uri_init(&uri, text, &problem) < 0) {
		assert(problem);
		return;
	}
	assert(uri.pool && *uri.pool);
	/* How qemu calls the image is the image. */
	again = ceph_uri_of_image(&uri, uri.image ? uri.image : "x", uri.snapshot);
	assert(again);
	if (ceph_uri_init(&same, again, &problem) == 0) {
		assert(strcmp(same.pool, uri.pool) == 0);
		assert(strcmp(same.space ? same.space : "", uri.space ? uri.space : "") ==
		       0);
		assert(same.image &&
		       strcmp(same.image, uri.image ? uri.image : "x") == 0);
		ceph_uri_fini(&same);
	} else {
		abort();
	}
	free(again);
	ceph_uri_fini(&uri);
}

static void fuzz_sheepdog(const char *text)
{
	struct sheep_uri uri;
	const char *problem = NULL;

	if (sheep_uri_init(&uri, text, &problem) == 0)
		sheep_uri_fini(&uri);
	else
		assert(problem && *problem);
}

static void fuzz_glance(const char *text)
{
#ifdef HAVE_GLANCE
	struct glance_uri uri;
	const char *problem = NULL;

	if (glance_uri_init(&uri, text, &problem) < 0) {
		assert(problem && *problem);
		return;
	}
	assert(uri.filters && (!*uri.filters || uri.filters[0] == '&'));
	assert(!uri.env_file || uri.env_file[0] == '/');
	if (uri.endpoint) {
		assert(strncmp(uri.endpoint, "http", 4) == 0);
		assert(glance_origin(uri.endpoint) <= strlen(uri.endpoint));
	}
	glance_uri_fini(&uri);
#endif
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);

	assert(text);
	memcpy(text, data, size);
	text[size] = '\0';
	if (text[0] == 'r')
		fuzz_ceph(text + 1);
	else if (text[0] == 'g')
		fuzz_glance(text + 1);
	else if (text[0])
		fuzz_sheepdog(text + 1);
	free(text);
	return 0;
}
