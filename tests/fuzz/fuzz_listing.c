/* SPDX-License-Identifier: MIT */
/*
 * fuzz_listing - a list says anything; what comes of it is file names, each of one image.
 */
#include <assert.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "canned.h"
#include "listing.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_image(struct listing *listing, size_t index)
{
	struct image *image = listing->images[index], *found = NULL;
	const char *name = image->file_name;
	char *id_name = listing_id_name(image);

	assert(*name && strlen(name) <= NAME_MAX && !strchr(name, '/'));
	assert(strcmp(name, ".") != 0 && strcmp(name, "..") != 0);
	assert(*image->name && *image->id && image->size <= INT64_MAX);
	assert(index == 0 || strcmp(listing->images[index - 1]->file_name, name) < 0);
	assert(listing_find(listing, name) == image);
	assert(id_name && listing_find_id(listing, id_name, &found) == 0 && found);
	free(id_name);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct store store = {.uri = (char *)"fuzz:",
			      .program = (char *)"imagefs-store-fuzz"};
	struct listing *listing = NULL, *again = NULL;
	char *text = NULL;
	int ret;

	canned_set(data, size);
	ret = listing_new(&store, NULL, -1, &listing, &text);
	if (ret < 0) {
		assert(text && *text);
		free(text);
		return 0;
	}
	for (size_t i = 0; i < listing->count; i++)
		check_image(listing, i);
	/* What has not changed is the same image, as long as somebody has it. */
	ret = listing_new(&store, listing, -1, &again, &text);
	assert(!ret && again->count == listing->count);
	for (size_t i = 0; i < listing->count; i++)
		assert(again->images[i] == listing->images[i]);
	listing_unref(listing);
	listing_unref(again);
	return 0;
}
