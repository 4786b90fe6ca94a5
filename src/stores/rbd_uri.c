/* SPDX-License-Identifier: MIT */
/*
 * rbd-uri - which images of which Ceph cluster, as people, qemu and Glance write it.
 *
 * Both kinds of URI are cut at their delimiters first and decoded piece by piece, so that
 * what was escaped is never taken for a delimiter.
 */
#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "rbd-uri.h"

#define PARTS_MAX 5 /* one more than there can be */

static const char out_of_memory[] = "";

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)tolower((unsigned char)c);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Decode the percent signs of @text in place.  Returns what is wrong, or NULL. */
static const char *decode_percent(char *text)
{
	char *to = text;

	for (const char *from = text; *from; from++) {
		int high, low;

		if (*from != '%') {
			*to++ = *from;
			continue;
		}
		high = hex_digit(from[1]);
		low = high < 0 ? -1 : hex_digit(from[2]);
		if (low < 0)
			return "a percent sign without two hexadecimal digits";
		if (high + low == 0)
			return "a name cannot have a NUL";
		*to++ = (char)(high * 16 + low);
		from += 2;
	}
	*to = '\0';
	return NULL;
}

/* Take the backslashes of @text away, in place, each making the next byte literal. */
static const char *decode_backslash(char *text)
{
	char *to = text;

	for (const char *from = text; *from; from++) {
		if (*from == '\\' && from[1])
			from++;
		*to++ = *from;
	}
	*to = '\0';
	return NULL;
}

/* The two kinds of escapes. */
struct syntax {
	const char *(*decode)(char *text);
	bool has_backslash;
};

static const struct syntax web = {.decode = decode_percent};
static const struct syntax qemu = {.decode = decode_backslash, .has_backslash = true};

/* The first @mark in @text that is not escaped, or NULL. */
static char *find(const struct syntax *syntax, char *text, char mark)
{
	for (; *text; text++) {
		if (*text == mark)
			return text;
		if (syntax->has_backslash && *text == '\\' && text[1])
			text++;
	}
	return NULL;
}

/* Cut @text at the first @mark.  Returns what is behind it, or NULL if there is none. */
static char *cut(const struct syntax *syntax, char *text, char mark)
{
	char *found = find(syntax, text, mark);

	if (found)
		*found++ = '\0';
	return found;
}

/* Set *@field to @text, decoded. */
static const char *set(const struct syntax *syntax, char **field, char *text)
{
	const char *problem = syntax->decode(text);

	if (problem)
		return problem;
	free(*field);
	*field = strdup(text);
	return *field ? NULL : out_of_memory;
}

static const char *set_image(const struct syntax *syntax, struct ceph_uri *uri,
			     char *text)
{
	char *snapshot = cut(syntax, text, '@');
	const char *problem;

	if (!*text)
		return "a snapshot without its image";
	if (snapshot && !*snapshot)
		return "a snapshot without a name";
	if (snapshot && find(syntax, snapshot, '@'))
		return "an @ that is part of a name must be escaped";
	problem = set(syntax, &uri->image, text);
	if (!problem && snapshot)
		problem = set(syntax, &uri->snapshot, snapshot);
	return problem;
}

/* RFC 4122, section 3. */
static bool is_uuid(const char *text)
{
	static const char form[] = "00000000-0000-0000-0000-000000000000";
	size_t i;

	for (i = 0; form[i] && text[i]; i++)
		if (form[i] == '-' ? text[i] != '-' : !isxdigit((unsigned char)text[i]))
			return false;
	return !form[i] && !text[i];
}

static const char *set_glance(struct ceph_uri *uri, char *parts[])
{
	char **fields[] = {&uri->fsid, &uri->pool, &uri->image, &uri->snapshot};
	const char *problem = NULL;

	if (!is_uuid(parts[0]))
		return "the path is more than a pool, a namespace and an image";
	for (int i = 0; i < 4 && !problem; i++)
		problem = set(&web, fields[i], parts[i]);
	return problem;
}

/* Set what the path names; it is taken apart. */
static const char *set_path(const struct syntax *syntax, struct ceph_uri *uri, char *path)
{
	char *parts[PARTS_MAX];
	size_t count = 0;
	const char *problem;
	char *last;

	for (; path && count < PARTS_MAX; path = cut(syntax, parts[count++], '/'))
		parts[count] = path;
	last = parts[count - 1];
	if (!*parts[0])
		return "no pool is named";
	for (size_t i = 1; i + 1 < count; i++)
		if (!*parts[i])
			return "a part of the path is empty";
	if (syntax == &web && count == 4 && *last)
		return set_glance(uri, parts);
	if (count > 3)
		return "the path is more than a pool, a namespace and an image";
	problem = set(syntax, &uri->pool, parts[0]);
	if (!problem && count == 3)
		problem = set(syntax, &uri->space, parts[1]);
	if (!problem && count > 1 && *last)
		problem = set_image(syntax, uri, last);
	return problem;
}

static const char *add_option(const struct syntax *syntax, struct ceph_uri *uri,
			      char *key, char *value)
{
	struct ceph_option *options =
		reallocarray(uri->options, uri->option_count + 1, sizeof(*options));
	struct ceph_option *option;

	if (!options)
		return out_of_memory;
	uri->options = options;
	option = &options[uri->option_count];
	*option = (struct ceph_option){.key = strdup(key)};
	uri->option_count++;
	return option->key ? set(syntax, &option->value, value) : out_of_memory;
}

static const char *check_timeout(const char *text)
{
	size_t digits = strspn(text, "0123456789");

	return digits == 0 || digits > 9 || text[digits]
		       ? "timeout= is a whole number of seconds"
		       : NULL;
}

static const char *set_option(const struct syntax *syntax, struct ceph_uri *uri,
			      char *text)
{
	const struct {
		const char *key;
		char **field;
	} known[] = {
		{"id", &uri->id},	    {"conf", &uri->conf},
		{"cluster", &uri->cluster}, {"keyring", &uri->keyring},
		{"timeout", &uri->timeout},
	};
	char *value = cut(syntax, text, '=');
	const char *problem = value ? syntax->decode(text) : "an option without a value";

	if (problem)
		return problem;
	/* Ceph takes all three for the same. */
	for (char *c = text; *c; c++)
		if (*c == '-' || *c == ' ')
			*c = '_';
	if (strcmp(text, "key") == 0 || strstr(text, "secret"))
		return "a key in a URI is seen by all: use keyring=PATH";
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		if (strcmp(text, known[i].key) != 0)
			continue;
		if (!*value)
			return "an option without a value";
		problem = set(syntax, known[i].field, value);
		if (!problem && uri->timeout)
			problem = check_timeout(uri->timeout);
		return problem;
	}
	return *text ? add_option(syntax, uri, text, value) : "an option without a name";
}

/* Set the options in @text, one behind each @mark; NULL if there are none. */
static const char *set_options(const struct syntax *syntax, struct ceph_uri *uri,
			       char *text, char mark)
{
	const char *problem = NULL;

	while (text && !problem) {
		char *next = cut(syntax, text, mark);

		problem = set_option(syntax, uri, text);
		text = next;
	}
	return problem;
}

/*
 * Parse what is behind "rbd:", in place.  Returns what is wrong, or NULL.
 */
static const char *parse(struct ceph_uri *uri, char *rest)
{
	bool is_web = strncmp(rest, "//", 2) == 0;
	const struct syntax *syntax = is_web ? &web : &qemu;
	const char *problem;
	char *options;

	if (is_web)
		rest += 2;
	options = cut(syntax, rest, is_web ? '?' : ':');
	if (is_web && strchr(rest, '#'))
		return "a # that is part of a name is written %23";
	problem = set_path(syntax, uri, rest);
	if (!problem)
		problem = set_options(syntax, uri, options, is_web ? '&' : ':');
	return problem;
}

int ceph_uri_init(struct ceph_uri *ret_uri, const char *text, const char **ret_problem)
{
	struct ceph_uri uri = {.space = strdup(""), .id = strdup("admin")};
	const char *problem = out_of_memory;
	char *copy = strdup(text);

	if (copy && uri.space && uri.id)
		problem = strncasecmp(copy, "rbd:", 4) == 0 ? parse(&uri, copy + 4)
							    : "the scheme is not rbd";
	free(copy);
	if (!problem) {
		*ret_uri = uri;
		return 0;
	}
	ceph_uri_fini(&uri);
	if (problem == out_of_memory)
		return -ENOMEM;
	*ret_problem = problem;
	return -EINVAL;
}

void ceph_uri_fini(struct ceph_uri *uri)
{
	for (size_t i = 0; i < uri->option_count; i++) {
		free(uri->options[i].key);
		free(uri->options[i].value);
	}
	free(uri->options);
	free(uri->fsid);
	free(uri->pool);
	free(uri->space);
	free(uri->image);
	free(uri->snapshot);
	free(uri->id);
	free(uri->conf);
	free(uri->cluster);
	free(uri->keyring);
	free(uri->timeout);
	*uri = (struct ceph_uri){0};
}

static void put_escaped(FILE *to, const char *before, const char *text)
{
	fputs(before, to);
	for (; *text; text++) {
		if (strchr("\\:@/=", *text))
			fputc('\\', to);
		fputc(*text, to);
	}
}

char *ceph_uri_of_image(const struct ceph_uri *uri, const char *image,
			const char *snapshot)
{
	char *text = NULL;
	size_t size;
	FILE *to = open_memstream(&text, &size);
	bool failed;

	if (!to)
		return NULL;
	put_escaped(to, "rbd:", uri->pool);
	if (*uri->space)
		put_escaped(to, "/", uri->space);
	put_escaped(to, "/", image);
	if (snapshot)
		put_escaped(to, "@", snapshot);
	put_escaped(to, ":id=", uri->id);
	if (uri->conf)
		put_escaped(to, ":conf=", uri->conf);
	failed = ferror(to);
	if (fclose(to) != 0 || failed) {
		free(text);
		return NULL;
	}
	return text;
}
