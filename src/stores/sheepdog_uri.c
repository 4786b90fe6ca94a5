/* SPDX-License-Identifier: MIT */
/*
 * sheepdog-uri - where a sheepdog cluster is, as people and qemu write it.
 */
#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "sheepdog-uri.h"
#include "sheepdog-wire.h"

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = tolower((unsigned char)c);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Decode the percent signs of @text in place.  Returns whether they are well-formed. */
static bool decode(char *text)
{
	char *to = text;

	for (const char *from = text; *from; from++) {
		if (*from == '%') {
			int high = hex_digit(from[1]);
			int low = high < 0 ? -1 : hex_digit(from[2]);

			if (low < 0 || (high == 0 && low == 0))
				return false;
			*to++ = high * 16 + low;
			from += 2;
		} else {
			*to++ = *from;
		}
	}
	*to = '\0';
	return true;
}

/* Parse all of @text as a decimal number of 1 to @max; 0 if it is none. */
static uint32_t parse_number(const char *text, uint32_t max)
{
	uint64_t number = 0;

	if (!*text)
		return 0;
	for (; *text; text++) {
		if (!isdigit((unsigned char)*text))
			return 0;
		number = number * 10 + (*text - '0');
		if (number > max)
			return 0;
	}
	return number;
}

/* Add the host that @text names, "HOST", "HOST:PORT" or nothing, which is taken apart. */
static const char *add_host(struct sheep_uri *uri, char *text)
{
	struct sheep_host *host = &uri->hosts[uri->host_count];
	char *end = text + strcspn(text, ":");

	if (uri->host_count == SHEEP_HOSTS_MAX)
		return "too many hosts";
	if (*text == '[') {
		text++;
		end = strchr(text, ']');
		if (!end)
			return "an IPv6 address without its closing bracket";
		*end++ = '\0';
	}
	host->port = SHEEP_PORT;
	if (*end == ':') {
		host->port = parse_number(end + 1, UINT16_MAX);
		if (host->port == 0)
			return "a port is a number from 1 to 65535";
	} else if (*end) {
		return "what follows an address in brackets is no port";
	}
	*end = '\0';
	if (!decode(text))
		return "a host has a percent sign without two hexadecimal digits";
	host->name = strdup(*text ? text : "127.0.0.1");
	uri->host_count += host->name != NULL;
	return host->name ? NULL : "";
}

static const char *add_hosts(struct sheep_uri *uri, char *text)
{
	const char *problem;

	do {
		char *next = strchr(text, ',');

		if (next)
			*next++ = '\0';
		problem = add_host(uri, text);
		text = next;
	} while (!problem && text);
	return problem;
}

static const char *add_snapshot(struct sheep_uri *uri, char *text)
{
	if (!decode(text))
		return "the snapshot has a percent sign without two hexadecimal digits";
	if (strlen(text) >= SHEEP_TEXT_BYTES)
		return "the snapshot's tag is too long";
	uri->snapshot_id = parse_number(text, UINT32_MAX);
	if (uri->snapshot_id)
		return NULL;
	uri->tag = strdup(text);
	return uri->tag ? NULL : "";
}

static const char *add_vdi(struct sheep_uri *uri, char *text)
{
	if (strchr(text, '/'))
		return "the path is more than the name of one VDI";
	if (!decode(text))
		return "the VDI has a percent sign without two hexadecimal digits";
	if (strlen(text) >= SHEEP_TEXT_BYTES)
		return "the name of the VDI is too long";
	uri->vdi = strdup(text);
	return uri->vdi ? NULL : "";
}

static const char *add_query(struct sheep_uri *uri, char *text)
{
	if (strncmp(text, "socket=", 7) != 0 || strchr(text, '&'))
		return "the only parameter is socket=PATH";
	if (!decode(text + 7) || text[7] == '\0')
		return "socket= needs a path";
	uri->socket = strdup(text + 7);
	return uri->socket ? NULL : "";
}

/* Cut @text at the first @mark.  Returns what is behind it, or NULL if there is none. */
static char *cut(char *text, char mark)
{
	char *found = strchr(text, mark);

	if (found)
		*found++ = '\0';
	return found;
}

/*
 * In HOST:PORT:VDI, end the hosts before the VDI and return that; NULL if it is another
 * form.
 */
static char *cut_glance(char *authority)
{
	char *start = *authority == '[' ? strchr(authority, ']') : authority;
	char *port = start ? strchr(start, ':') : NULL;
	char *vdi = port ? strchr(port + 1, ':') : NULL;

	if (vdi)
		*vdi++ = '\0';
	return vdi;
}

/* Parse what is behind "SCHEME:", in place.  Returns what is wrong; "" if out of memory.
 */
static const char *parse(struct sheep_uri *uri, char *rest, bool is_unix)
{
	char *fragment, *query, *path;
	const char *problem = NULL;

	if (strncmp(rest, "//", 2) != 0)
		return "expected // behind the scheme";
	rest += 2;
	fragment = cut(rest, '#');
	query = cut(rest, '?');
	path = cut(rest, '/');
	if (!path && !is_unix)
		path = cut_glance(rest);
	if (path && *path)
		problem = add_vdi(uri, path);
	if (!problem && fragment && !uri->vdi)
		problem = "a snapshot without its VDI";
	if (!problem && fragment && *fragment)
		problem = add_snapshot(uri, fragment);
	if (!problem && query)
		problem = is_unix ? add_query(uri, query) : "there are no parameters";
	if (!problem && !is_unix)
		problem = add_hosts(uri, rest);
	if (!problem && is_unix && *rest)
		problem = "a Unix socket has no host: sheepdog+unix:///?socket=PATH";
	if (!problem && is_unix && !uri->socket)
		problem = "a Unix socket needs ?socket=PATH";
	return problem;
}

int sheep_uri_init(struct sheep_uri *ret_uri, const char *text, const char **ret_problem)
{
	static const char *const schemes[] = {
		"sheepdog:", "sheepdog+tcp:", "sheepdog+unix:"};
	const char *problem = "the scheme is none of sheepdog, sheepdog+tcp, "
			      "sheepdog+unix";
	struct sheep_uri uri = {0};
	char *copy = strdup(text);

	if (!copy)
		return -ENOMEM;
	for (int i = 0; i < 3; i++) {
		size_t length = strlen(schemes[i]);

		if (strncasecmp(copy, schemes[i], length) == 0)
			problem = parse(&uri, copy + length, i == 2);
	}
	free(copy);
	if (!problem) {
		*ret_uri = uri;
		return 0;
	}
	sheep_uri_fini(&uri);
	if (!*problem)
		return -ENOMEM;
	*ret_problem = problem;
	return -EINVAL;
}

void sheep_uri_fini(struct sheep_uri *uri)
{
	for (size_t i = 0; i < uri->host_count; i++)
		free(uri->hosts[i].name);
	free(uri->socket);
	free(uri->vdi);
	free(uri->tag);
	*uri = (struct sheep_uri){0};
}

/* Write @text with percent signs for what cannot be in a part of a URI, but for @keep. */
static void put_encoded(FILE *to, const char *text, const char *keep)
{
	for (; *text; text++) {
		unsigned char c = *text;

		if ((c < 0x80 && isalnum(c)) || strchr("-._~", c) || strchr(keep, c))
			fputc(c, to);
		else
			fprintf(to, "%%%02X", c);
	}
}

static void put_host(FILE *to, const struct sheep_host *host)
{
	bool bracket = strchr(host->name, ':') != NULL;

	fputs(bracket ? "[" : "", to);
	put_encoded(to, host->name, ":");
	fprintf(to, "%s:%u", bracket ? "]" : "", host->port);
}

char *sheep_uri_of_vdi(const struct sheep_uri *uri, const char *name,
		       const char *fragment)
{
	char *text = NULL;
	size_t size;
	FILE *to = open_memstream(&text, &size);
	bool failed;

	if (!to)
		return NULL;
	fprintf(to, "sheepdog%s://", uri->socket ? "+unix" : "");
	if (!uri->socket)
		put_host(to, &uri->hosts[0]);
	fputc('/', to);
	put_encoded(to, name, "");
	if (uri->socket) {
		fputs("?socket=", to);
		put_encoded(to, uri->socket, "/");
	}
	if (fragment) {
		fputc('#', to);
		put_encoded(to, fragment, "");
	}
	failed = ferror(to);
	if (fclose(to) != 0 || failed) {
		free(text);
		return NULL;
	}
	return text;
}
