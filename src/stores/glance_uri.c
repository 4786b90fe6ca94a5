/* SPDX-License-Identifier: MIT */
#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cleanup.h"
#include "glance-uri.h"

static const char *const filter_names[] = {
	"container_format", "disk_format", "member_status", "name",
	"os_hidden",	    "owner",	   "tag",	    "visibility",
};

static void curl_freep(char **text)
{
	curl_free(*text);
}

static void url_freep(CURLU **url)
{
	curl_url_cleanup(*url);
}

unsigned long glance_origin(const char *url)
{
	const char *host = strstr(url, "://");

	host = host ? host + 3 : url;
	return host - url + strcspn(host, "/?#");
}

/* Whether the segment of a path at @text, up to its end, is v2 or v2.NUMBER. */
static bool is_version(const char *text)
{
	if (strncmp(text, "v2", 2) != 0)
		return false;
	text += 2;
	return *text == '\0' ||
	       (*text == '.' && text[1 + strspn(text + 1, "0123456789")] == '\0');
}

/* Cut slashes and a version from the end of @endpoint, but not from its host. */
static void cut_version(char *endpoint)
{
	char *least = endpoint + glance_origin(endpoint);
	char *end = endpoint + strlen(endpoint);

	while (end > least && end[-1] == '/')
		*--end = '\0';
	while (end > least && end[-1] != '/')
		end--;
	if (end > least && is_version(end))
		*end = '\0';
	end = endpoint + strlen(endpoint);
	while (end > least && end[-1] == '/')
		*--end = '\0';
}

/* What is wrong with @parsed as an endpoint, or NULL. */
static const char *refuse(CURLU *parsed)
{
	static const CURLUPart secret[] = {CURLUPART_USER, CURLUPART_PASSWORD};
	static const CURLUPart unknown[] = {CURLUPART_QUERY, CURLUPART_FRAGMENT};

	for (size_t i = 0; i < ARRAY_SIZE(secret); i++) {
		CLEANUP(curl_freep) char *part = NULL;

		if (!curl_url_get(parsed, secret[i], &part, 0))
			return "a URL with a user or a password in it would be seen by all; "
			       "they belong in OS_USERNAME and OS_PASSWORD";
	}
	for (size_t i = 0; i < ARRAY_SIZE(unknown); i++) {
		CLEANUP(curl_freep) char *part = NULL;

		if (!curl_url_get(parsed, unknown[i], &part, 0))
			return "an endpoint has neither ? nor #";
	}
	return NULL;
}

char *glance_endpoint(const char *url, const char **ret_problem)
{
	CLEANUP(url_freep) CURLU *parsed = curl_url();
	CLEANUP(curl_freep) char *text = NULL;
	CURLUcode error;
	char *endpoint;

	*ret_problem = "";
	if (!parsed)
		return NULL;
	if (strncasecmp(url, "http://", 7) != 0 && strncasecmp(url, "https://", 8) != 0) {
		*ret_problem = "an endpoint begins with http:// or https://";
		return NULL;
	}
	error = curl_url_set(parsed, CURLUPART_URL, url, 0);
	if (error) {
		*ret_problem = error == CURLUE_OUT_OF_MEMORY ? "" : "not a URL";
		return NULL;
	}
	*ret_problem = refuse(parsed);
	if (*ret_problem)
		return NULL;
	*ret_problem = "";
	if (curl_url_get(parsed, CURLUPART_URL, &text, 0))
		return NULL;
	endpoint = strdup(text);
	if (endpoint)
		cut_version(endpoint);
	return endpoint;
}

/* Add one parameter of the query, still encoded.  Returns what is wrong, or NULL. */
static const char *add_parameter(struct glance_uri *uri, const char *text)
{
	const char *equals = strchr(text, '=');
	size_t length = equals ? (size_t)(equals - text) : strlen(text);
	CLEANUP(curl_freep) char *value = NULL;
	CLEANUP(curl_freep) char *encoded = NULL;
	char *more;
	int size;

	if (!equals)
		return "a parameter is NAME=VALUE";
	value = curl_easy_unescape(NULL, equals + 1, 0, &size);
	if (!value)
		return "";
	if (strlen(value) != (size_t)size)
		return "a parameter has a NUL byte";
	if (length == 3 && strncmp(text, "env", 3) == 0) {
		if (*value != '/')
			return "env= needs an absolute path";
		free(uri->env_file);
		uri->env_file = strdup(value);
		return uri->env_file ? NULL : "";
	}
	for (size_t i = 0; i < ARRAY_SIZE(filter_names); i++) {
		if (strlen(filter_names[i]) != length ||
		    strncmp(filter_names[i], text, length) != 0)
			continue;
		encoded = curl_easy_escape(NULL, value, size);
		if (!encoded || asprintf(&more, "%s&%s=%s", uri->filters, filter_names[i],
					 encoded) < 0)
			return "";
		free(uri->filters);
		uri->filters = more;
		return NULL;
	}
	return "the parameters are env, container_format, disk_format, member_status, "
	       "name, os_hidden, owner, tag and visibility";
}

static const char *add_parameters(struct glance_uri *uri, char *query)
{
	const char *problem = NULL;
	char *parameter;

	while (!problem && (parameter = strsep(&query, "&")))
		if (*parameter)
			problem = add_parameter(uri, parameter);
	return problem;
}

/* Parse "SCHEME://..." in place.  Returns what is wrong, "" if out of memory, or NULL. */
static const char *parse(struct glance_uri *uri, char *text)
{
	static const char *const schemes[] = {"glance+http:", "glance+https:", "glance:"};
	char *rest = NULL, *query;
	const char *problem;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(schemes) && !rest; i++)
		if (strncasecmp(text, schemes[i], strlen(schemes[i])) == 0)
			rest = text + strlen(schemes[i]);
	if (!rest)
		return "the scheme is none of glance+http, glance+https, glance";
	uri->secure = i == 2;
	if (strncmp(rest, "//", 2) != 0)
		return "expected // behind the scheme";
	if (strchr(rest, '#'))
		return "there is no # in the URI of a store";
	query = strchr(rest, '?');
	if (query)
		*query++ = '\0';
	problem = add_parameters(uri, query);
	if (problem)
		return problem;
	if (rest[2] == '\0' || strcmp(rest, "///") == 0)
		return NULL;
	if (i == 3)
		return "a host needs glance+http:// or glance+https://";
	if (rest[2] == '/')
		return "a path needs a host before it";
	uri->endpoint = glance_endpoint(text + strlen("glance+"), &problem);
	return uri->endpoint ? NULL : problem;
}

int glance_uri_init(struct glance_uri *ret_uri, const char *text,
		    const char **ret_problem)
{
	CLEANUP(freep) char *copy = strdup(text);
	struct glance_uri uri = {.filters = strdup("")};
	const char *problem = copy && uri.filters ? parse(&uri, copy) : "";

	if (!problem) {
		*ret_uri = uri;
		return 0;
	}
	glance_uri_fini(&uri);
	*ret_problem = problem;
	return *problem ? -EINVAL : -ENOMEM;
}

void glance_uri_fini(struct glance_uri *uri)
{
	free(uri->endpoint);
	free(uri->env_file);
	free(uri->filters);
	*uri = (struct glance_uri){0};
}
