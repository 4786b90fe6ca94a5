/* SPDX-License-Identifier: MIT */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "text.h"

#define HASH_PRIME 0x100000001b3u
#define MARK_SIZE (2 + 16) /* "%~" and the digits of a hash */

uint64_t text_hash(uint64_t hash, const void *data, size_t size)
{
	const unsigned char *bytes = data;

	for (size_t i = 0; i < size; i++)
		hash = (hash ^ bytes[i]) * HASH_PRIME;
	return hash;
}

static bool is_reserved(const char *name)
{
	return !strcmp(name, ".") || !strcmp(name, "..") || !strcmp(name, ".imagefs");
}

/* @name with '/', '%' and, where it is reserved, its dots before a letter escaped. */
static char *escape_name(const char *name)
{
	bool reserved = is_reserved(name);
	char *escaped = calloc(3, strlen(name) + 1);
	char *out = escaped;

	if (!escaped)
		return NULL;
	for (; *name; name++) {
		if (*name == '/' || *name == '%' || (reserved && *name == '.'))
			out += sprintf(out, "%%%02X", (unsigned char)*name);
		else
			*out++ = *name;
	}
	*out = '\0';
	return escaped;
}

/* Cut @name, at no place inside of an escape, so that the mark fits behind it. */
static char *marked(char *name, uint64_t hash)
{
	CLEANUP(freep) __attribute__((unused)) char *owned = name;
	size_t size = strlen(name);
	char *ret;

	if (size > NAME_MAX - MARK_SIZE) {
		size = NAME_MAX - MARK_SIZE;
		for (size_t back = 1; back <= 2; back++)
			if (name[size - back] == '%')
				size -= back;
	}
	if (asprintf(&ret, "%.*s%%~%016" PRIx64, (int)size, name, hash) < 0)
		return NULL;
	return ret;
}

char *text_file_name(const char *name)
{
	char *escaped = escape_name(name);

	if (!escaped || strlen(escaped) <= NAME_MAX)
		return escaped;
	return marked(escaped, text_hash(TEXT_HASH_START, name, strlen(name)));
}

char *text_file_name_of_id(const char *name, const char *id)
{
	char *escaped = escape_name(name);
	uint64_t hash = text_hash(TEXT_HASH_START, name, strlen(name) + 1);

	if (!escaped)
		return NULL;
	return marked(escaped, text_hash(hash, id, strlen(id)));
}

char *text_uri_path(const char *path)
{
	char *uri = malloc(3 * strlen(path) + 1);
	char *out = uri;

	if (!uri)
		return NULL;
	for (; *path; path++) {
		unsigned char c = (unsigned char)*path;

		if ((c < 0x80 && isalnum(c)) || strchr("-._~/", c))
			*out++ = *path;
		else
			out += sprintf(out, "%%%02X", c);
	}
	*out = '\0';
	return uri;
}

/* The length of the UTF-8 sequence at @s (RFC 3629), 0 if there is no good one. */
static size_t utf8_length(const unsigned char *s)
{
	static const unsigned char least[] = {0, 0, 0xc2, 0xe0, 0xf0};
	size_t size = *s < 0x80 ? 1 : *s < 0xc2 ? 0 : *s < 0xe0 ? 2 : *s < 0xf0 ? 3 : 4;

	if (size < 2 || *s > 0xf4 || *s < least[size])
		return size < 2 ? size : 0;
	for (size_t i = 1; i < size; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	if ((*s == 0xe0 && s[1] < 0xa0) || (*s == 0xed && s[1] > 0x9f) ||
	    (*s == 0xf0 && s[1] < 0x90) || (*s == 0xf4 && s[1] > 0x8f))
		return 0;
	return size;
}

void text_make_printable(char *text)
{
	unsigned char *s = (unsigned char *)text;

	while (*s) {
		size_t size = utf8_length(s);
		bool control = *s < 0x20 || *s == 0x7f || (*s == 0xc2 && s[1] < 0xa0);

		if (!size || control)
			*s = '?';
		/* The second byte of a C1 control is a bad sequence: the next turn's. */
		s += size && !control ? size : 1;
	}
}

void text_unescape_octal(char *text)
{
	char *out = text;

	while (*text) {
		if (text[0] == '\\' && text[1] >= '0' && text[1] <= '3' &&
		    text[2] >= '0' && text[2] <= '7' && text[3] >= '0' &&
		    text[3] <= '7') {
			*out++ = (char)((text[1] - '0') << 6 | (text[2] - '0') << 3 |
					(text[3] - '0'));
			text += 4;
		} else {
			*out++ = *text++;
		}
	}
	*out = '\0';
}

int text_parse_size(const char *text, uint64_t *ret_bytes)
{
	static const char units[] = "KMGT";
	const char *unit;
	char *end;
	unsigned long long value;
	unsigned int shift = 0;

	if (!isdigit((unsigned char)*text))
		return -EINVAL;
	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno)
		return -errno;
	if (*end) {
		unit = strchr(units, toupper((unsigned char)*end));
		if (!unit || end[1])
			return -EINVAL;
		shift = 10 * (unsigned int)(unit - units + 1);
	}
	if (value > UINT64_MAX >> shift)
		return -ERANGE;
	*ret_bytes = (uint64_t)value << shift;
	return 0;
}
