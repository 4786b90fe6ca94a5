/* SPDX-License-Identifier: MIT */
/*
 * fuzz_extents - extents say anything; what is made of them covers the image, in order.
 *
 * The first byte is the size of the image, as a power of two less one.
 */
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "canned.h"
#include "extents.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* From hole to data and on to the next hole, until the end, and always forwards. */
static void walk(const struct extents *extents, uint64_t size)
{
	uint64_t at = 0;

	while (at < size) {
		uint64_t start = extents_data(extents, at), end;

		assert(start >= at && start <= size);
		if (start == size)
			break;
		assert(extents_data(extents, start) == start);
		end = extents_hole(extents, start);
		assert(end > start && end <= size);
		assert(extents_hole(extents, end - 1) == end);
		at = end;
	}
	assert(extents_data(extents, size) == size &&
	       extents_hole(extents, size) == size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct store store = {.uri = (char *)"fuzz:",
			      .program = (char *)"imagefs-store-fuzz"};
	struct extents *extents = NULL;
	struct image *image;
	const char *why;
	static const char line[] = "{\"name\": \"a\", \"id\": \"a\", \"size\": 1}";
	int ret;

	if (!size || image_parse(line, strlen(line), &image, &why) < 0)
		return 0;
	image->size = (UINT64_C(1) << data[0] % 64) - 1;
	canned_set(data + 1, size - 1);
	ret = extents_new(&store, image, -1, &extents);
	if (!ret) {
		walk(extents, image->size);
		extents_unref(extents);
	} else {
		char *error = image_error(image);

		assert(ret == -EIO || ret == -ESTALE || ret == -EACCES);
		assert(error && *error);
		free(error);
	}
	image_unref(image);
	return 0;
}
