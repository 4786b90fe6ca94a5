/* SPDX-License-Identifier: MIT */
/*
 * fuzz_serve - the read loop of the store programs, and what they print of names.
 *
 * The first byte says what: 'l' has the rest be the name of an image, which imagefs has to
 * read from the list as it was; any other says in what pieces the rest comes to be asked.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "image.h"
#include "serve.h"

#define LINE_MOST 4095 /* what an ask may have, with its newline: more than enough */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What is not parsed yet, for a parser that is another one. */
static const char *expected, *expected_end;

/* The next ask by the rules of imagefs-store.h.  Returns whether there is one. */
static bool expect_ask(struct ask *ret_ask)
{
	const char *newline = memchr(expected, '\n', (size_t)(expected_end - expected));
	unsigned __int128 numbers[2] = {0, 0};
	int index = 0, digits = 0;

	if (!newline)
		return false;
	for (const char *c = expected; c < newline; c++) {
		if (*c == ' ' && !index && digits) {
			index = 1;
			digits = 0;
			continue;
		}
		if (*c < '0' || *c > '9')
			return false;
		digits++;
		numbers[index] = numbers[index] * 10 + (unsigned)(*c - '0');
		if (numbers[index] > INT64_MAX)
			return false;
	}
	if (!index || !digits || !numbers[1] || numbers[0] + numbers[1] > INT64_MAX)
		return false;
	*ret_ask = (struct ask){(uint64_t)numbers[0], (uint64_t)numbers[1]};
	expected = newline + 1;
	return true;
}

static void check_ask(const struct ask *ask)
{
	struct ask right = {0};
	bool found = expect_ask(&right);

	assert(found && right.offset == ask->offset && right.length == ask->length);
}

/* Pieces through a pipe that does not block. */
static void fuzz_asks(const uint8_t *data, size_t size, size_t piece)
{
	struct asks asks = {0};
	struct ask ask;
	int ends[2], ret = pipe2(ends, O_NONBLOCK);
	size_t done = 0;

	assert(!ret);
	asks.fd = ends[0];
	expected = (const char *)data;
	expected_end = expected + size;
	do {
		size_t more = size - done < piece ? size - done : piece;
		ssize_t n = more ? write(ends[1], data + done, more) : 0;

		assert(n == (ssize_t)more);
		done += more;
		if (done == size && ends[1] >= 0) {
			close(ends[1]);
			ends[1] = -1;
		}
		while ((ret = asks_next(&asks, &ask)) > 0)
			check_ask(&ask);
	} while (ret == -EAGAIN);
	if (ret == 0) {
		assert(expected == expected_end);
	} else {
		const char *newline =
			memchr(expected, '\n', (size_t)(expected_end - expected));
		bool too_long = (newline ? newline : expected_end) - expected > LINE_MOST;

		assert(ret == -EBADMSG);
		assert(too_long || !expect_ask(&ask));
	}
	close(ends[0]);
	if (ends[1] >= 0)
		close(ends[1]);
}

static const char *name;

static int list_name(const char *uri)
{
	const char *const attrs[] = {"key", name, NULL};
	struct store_image image = {
		.name = name,
		.id = "id",
		.size = strlen(name),
		.allocated = UINT64_MAX,
		.mtime = INT64_MIN,
		.attrs = attrs,
	};

	store_print_image(&image);
	return STORE_OK;
}

static int read_nothing(const char *uri, const char *id)
{
	return STORE_OK;
}

static void fuzz_name(const uint8_t *data, size_t size)
{
	static const struct store store = {
		.scheme = "fuzz", .list = list_name, .read = read_nothing};
	char *argv[] = {(char *)"imagefs-store-fuzz", (char *)"list", (char *)"--",
			(char *)"fuzz:", NULL};
	char *text = malloc(size + 1), *line;
	int out = memfd_create("out", 0), saved = dup(STDOUT_FILENO);
	struct image *image;
	const char *why;
	off_t length;
	ssize_t n;

	assert(text && out >= 0);
	memcpy(text, data, size);
	text[size] = '\0';
	name = text;
	dup2(out, STDOUT_FILENO);
	assert(store_main(4, argv, &store) == STORE_OK);
	dup2(saved, STDOUT_FILENO);
	close(saved);
	length = lseek(out, 0, SEEK_END);
	line = malloc((size_t)length);
	n = pread(out, line, (size_t)length, 0);
	assert(n == length && line[n - 1] == '\n' &&
	       memchr(line, '\n', (size_t)n) == line + n - 1);
	if (*text) {
		assert(!image_parse(line, (size_t)n - 1, &image, &why));
		assert(!strcmp(image->name, text) && image->size == strlen(text));
		image_unref(image);
	}
	close(out);
	free(line);
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!size)
		return 0;
	if (data[0] == 'l')
		fuzz_name(data + 1, size - 1);
	else
		fuzz_asks(data + 1, size - 1, 1 + (size_t)data[0] * 7);
	return 0;
}
