/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "call.h"
#include "cleanup.h"
#include "clock.h"
#include "imagefs-store.h"
#include "reader.h"

#define FIRST_SIZE 65536

struct lines {
	char *data;
	size_t used;
	size_t size;
};

static void lines_fini(struct lines *lines)
{
	free(lines->data);
}

/* Make room for more; a line has at most STORE_LINE_MAX bytes. */
static int lines_grow(struct lines *lines)
{
	size_t size = lines->size ? 2 * lines->size : FIRST_SIZE;
	char *data;

	if (lines->used < lines->size)
		return 0;
	if (lines->size >= STORE_LINE_MAX)
		return -EBADMSG;
	data = realloc(lines->data, size);
	if (!data)
		return -ENOMEM;
	lines->data = data;
	lines->size = size;
	return 0;
}

/* Hand over the whole lines; keep the part of one behind them. */
static int lines_take(struct lines *lines, int (*take)(void *context, char *line, size_t),
		      void *context)
{
	char *start = lines->data, *all = lines->data + lines->used, *end;

	while ((end = memchr(start, '\n', (size_t)(all - start)))) {
		int ret;

		*end = '\0';
		ret = take(context, start, (size_t)(end - start));
		if (ret < 0)
			return ret;
		start = end + 1;
	}
	lines->used = (size_t)(all - start);
	memmove(lines->data, start, lines->used);
	return 0;
}

static void reader_freep(struct reader **reader)
{
	reader_free(*reader);
}

int call_store(const struct store *store, const char *call, const char *id, int wake_fd,
	       int (*take)(void *context, char *line, size_t size), void *context,
	       char **ret_text)
{
	CLEANUP(lines_fini) struct lines lines = {0};
	CLEANUP(reader_freep) struct reader *reader = NULL;
	ssize_t n;
	int ret = reader_new(store, call, id, wake_fd, &reader);

	if (ret < 0)
		return ret;
	reader_end_asks(reader);
	do {
		ret = lines_grow(&lines);
		if (ret < 0)
			return ret;
		n = reader_read(reader, lines.data + lines.used, lines.size - lines.used,
				clock_ms() + store->stall_ms);
		if (n < 0)
			return (int)n;
		lines.used += (size_t)n;
		ret = lines_take(&lines, take, context);
		if (ret < 0)
			return ret;
	} while (n);
	ret = reader_status(reader, clock_ms() + store->stall_ms);
	if (ret > 0)
		*ret_text = strdup(reader_text(reader));
	return ret || !lines.used ? ret : -EBADMSG;
}
