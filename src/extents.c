/* SPDX-License-Identifier: MIT */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>

#include "call.h"
#include "cleanup.h"
#include "extents.h"
#include "imagefs-store.h"

#define FIRST_ROOM 64

struct run {
	uint64_t start;
	uint64_t end;
};

struct extents {
	uint64_t size; /* of the image */
	struct run *runs;
	size_t count, room;
	atomic_size_t refs;
};

static int add(struct extents *extents, uint64_t start, uint64_t end)
{
	struct run *last = extents->count ? &extents->runs[extents->count - 1] : NULL;

	if (last && start == last->end) {
		last->end = end;
		return 0;
	}
	if (extents->count == extents->room) {
		size_t room = extents->room ? 2 * extents->room : FIRST_ROOM;
		struct run *runs = reallocarray(extents->runs, room, sizeof(*runs));

		if (!runs)
			return -ENOMEM;
		extents->runs = runs;
		extents->room = room;
	}
	extents->runs[extents->count++] = (struct run){start, end};
	return 0;
}

/* A decimal number at *@text, which is moved behind it and behind @after. */
static bool take_number(const char **text, char after, uint64_t *ret_value)
{
	char *end;

	if (!isdigit((unsigned char)**text))
		return false;
	errno = 0;
	*ret_value = strtoull(*text, &end, 10);
	if (errno || *end != after)
		return false;
	*text = end + (after != '\0');
	return true;
}

static int take_line(void *context, char *line, size_t size)
{
	struct extents *extents = context;
	uint64_t last = extents->count ? extents->runs[extents->count - 1].end : 0;
	const char *text = line;
	uint64_t offset, length;

	if (!take_number(&text, ' ', &offset) || !take_number(&text, '\0', &length) ||
	    strlen(line) != size || !length || offset < last || offset > extents->size ||
	    length > extents->size - offset)
		return -EBADMSG;
	return add(extents, offset, offset + length);
}

static void extents_unrefp(struct extents **extents)
{
	extents_unref(*extents);
}

int extents_new(const struct store *store, struct image *image, int wake_fd,
		struct extents **ret_extents)
{
	CLEANUP(extents_unrefp) struct extents *extents = calloc(1, sizeof(*extents));
	CLEANUP(freep) char *text = NULL;
	int ret;

	if (!extents)
		return -ENOMEM;
	extents->refs = 1;
	extents->size = image->size;
	ret = call_store(store, "extents", image->id, wake_fd, take_line, extents, &text);
	if (ret == STORE_USAGE) {
		extents->count = 0;
		ret = image->size ? add(extents, 0, image->size) : 0;
	}
	if (ret > 0) {
		image_set_error(image,
				"the store program's extents failed with status %d%s%s",
				ret, text && *text ? ": " : "", text ? text : "");
		return store_errno(ret);
	}
	if (ret == -ECANCELED || ret == -ENOMEM)
		return ret;
	if (ret < 0) {
		image_set_error(image, "the store program's extents failed: %s",
				ret == -EBADMSG ? "a line that is no extent"
						: strerror(-ret));
		return -EIO;
	}
	*ret_extents = STEAL(extents);
	return 0;
}

struct extents *extents_ref(struct extents *extents)
{
	atomic_fetch_add(&extents->refs, 1);
	return extents;
}

void extents_unref(struct extents *extents)
{
	if (!extents || atomic_fetch_sub(&extents->refs, 1) > 1)
		return;
	free(extents->runs);
	free(extents);
}

/* The first run that ends behind @offset, or the number of runs. */
static size_t find(const struct extents *extents, uint64_t offset)
{
	size_t low = 0, high = extents->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (extents->runs[middle].end > offset)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

uint64_t extents_data(const struct extents *extents, uint64_t offset)
{
	size_t i = find(extents, offset);

	return i < extents->count ? MAX(offset, extents->runs[i].start) : extents->size;
}

uint64_t extents_hole(const struct extents *extents, uint64_t offset)
{
	size_t i = find(extents, offset);

	if (i == extents->count || offset < extents->runs[i].start)
		return MIN(offset, extents->size);
	return extents->runs[i].end;
}
