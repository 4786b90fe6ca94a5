/* SPDX-License-Identifier: MIT */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "glance-env.h"

#define FILE_MAX ((size_t)1 << 20)

struct variable {
	char *name;
	char *value;
};

struct glance_env {
	bool from_file;
	size_t count;
	struct variable *variables; /* the later of two with one name is meant */
};

static void env_freep(struct glance_env **env)
{
	glance_env_free(*env);
}

static void wipe(char *text)
{
	if (text)
		explicit_bzero(text, strlen(text));
	free(text);
}

static void wipep(char **text)
{
	wipe(*text);
}

static bool is_name(char c, bool first)
{
	return c == '_' || isalpha((unsigned char)c) ||
	       (!first && isdigit((unsigned char)c));
}

static size_t name_length(const char *text)
{
	size_t length = 0;

	while (is_name(text[length], length == 0))
		length++;
	return length;
}

/* The part of a value in single quotes, at *@from, to *@to.  Returns what is wrong. */
static const char *take_single(const char **from, char **to)
{
	const char *end = strchr(++*from, '\'');

	if (!end)
		return "a quote has no end on its line";
	memcpy(*to, *from, end - *from);
	*to += end - *from;
	*from = end + 1;
	return NULL;
}

static const char *take_double(const char **from, char **to)
{
	for (++*from; **from != '"'; ++*from) {
		if (**from == '\0')
			return "a quote has no end on its line";
		if (strchr("$`", **from))
			return "nothing is expanded here: put \\ before a $ or `, or the value "
			       "in single quotes";
		if (**from == '\\' && (*from)[1] && strchr("$`\"\\", (*from)[1]))
			++*from;
		*(*to)++ = **from;
	}
	++*from;
	return NULL;
}

static const char *take_plain(const char **from, char **to)
{
	if (strchr("$`", **from))
		return "nothing is expanded here: put the value in single quotes";
	if (strchr(";&|<>()", **from))
		return "only NAME=VALUE is understood here, no commands; put the value in "
		       "single quotes";
	if (**from == '\\' && (*from)[1])
		++*from;
	*(*to)++ = *(*from)++;
	return NULL;
}

/*
 * Parse the value at @from, up to the end of its line, to @to, which has room for as much.
 * Returns what is wrong, or NULL.
 */
static const char *parse_value(const char *from, char *to)
{
	const char *problem = NULL;

	while (!problem && *from && !isspace((unsigned char)*from)) {
		if (*from == '\'')
			problem = take_single(&from, &to);
		else if (*from == '"')
			problem = take_double(&from, &to);
		else
			problem = take_plain(&from, &to);
	}
	*to = '\0';
	from += strspn(from, " \t\r");
	if (!problem && *from && *from != '#')
		problem = "a value with spaces needs quotes";
	return problem;
}

/* Returns what is wrong with the line, "" if out of memory, or NULL. */
static const char *take_line(struct glance_env *env, const char *line)
{
	CLEANUP(wipep) char *value = strdup(line);
	struct variable *more;
	const char *problem;
	size_t length;

	if (!value)
		return "";
	line += strspn(line, " \t\r");
	if (*line == '\0' || *line == '#')
		return NULL;
	if (strncmp(line, "export", 6) == 0 && isspace((unsigned char)line[6]))
		line += 6 + strspn(line + 6, " \t");
	length = name_length(line);
	if (length == 5 && strncmp(line, "unset", 5) == 0 &&
	    isspace((unsigned char)line[5]))
		return NULL;
	if (length == 0 || line[length] != '=')
		return "a line is NAME=VALUE, with or without \"export\" before it";
	problem = parse_value(line + length + 1, value);
	if (problem)
		return problem;
	more = reallocarray(env->variables, env->count + 1, sizeof(*more));
	if (!more)
		return "";
	env->variables = more;
	more[env->count] = (struct variable){strndup(line, length), STEAL(value)};
	return more[env->count++].name ? NULL : "";
}

/* All of the file, with a NUL at its end, for the caller to wipe. */
static int read_file(const char *path, char **ret_text)
{
	CLEANUP(closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	char *text;
	size_t size = 0;

	if (fd < 0)
		return -errno;
	text = calloc(1, FILE_MAX + 1);
	if (!text)
		return -ENOMEM;
	while (size < FILE_MAX) {
		ssize_t n = read(fd, text + size, FILE_MAX - size);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			int error = -errno;

			free(text);
			return error;
		}
		if (n == 0)
			break;
		size += n;
	}
	*ret_text = text;
	return 0;
}

static int take_file(struct glance_env *env, const char *path, char *problem, size_t room)
{
	CLEANUP(wipep) char *text = NULL;
	int ret = read_file(path, &text);
	char *rest = text, *line;

	if (ret < 0) {
		snprintf(problem, room, "%s: %s", path, strerror(-ret));
		return ret;
	}
	for (int number = 1; (line = strsep(&rest, "\n")); number++) {
		const char *wrong = take_line(env, line);

		/* strsep() took the newlines: what is wiped later ends at the first. */
		explicit_bzero(line, strlen(line));
		if (!wrong)
			continue;
		if (rest)
			explicit_bzero(rest, strlen(rest));
		snprintf(problem, room, "%s: line %d: %s", path, number,
			 *wrong ? wrong : strerror(ENOMEM));
		return *wrong ? -EINVAL : -ENOMEM;
	}
	return 0;
}

int glance_env_new(const char *path, struct glance_env **ret_env, char *problem,
		   size_t room)
{
	CLEANUP(env_freep) struct glance_env *env = calloc(1, sizeof(*env));
	int ret = 0;

	if (!env) {
		snprintf(problem, room, "%s", strerror(ENOMEM));
		return -ENOMEM;
	}
	env->from_file = path != NULL;
	if (path)
		ret = take_file(env, path, problem, room);
	if (ret == 0)
		*ret_env = STEAL(env);
	return ret;
}

void glance_env_free(struct glance_env *env)
{
	if (!env)
		return;
	for (size_t i = 0; i < env->count; i++) {
		free(env->variables[i].name);
		wipe(env->variables[i].value);
	}
	free(env->variables);
	free(env);
}

const char *glance_env_get(const struct glance_env *env, const char *name)
{
	const char *value = env->from_file ? NULL : getenv(name);

	for (size_t i = env->count; i-- > 0;) {
		if (strcmp(env->variables[i].name, name) == 0) {
			value = env->variables[i].value;
			break;
		}
	}
	return value && *value ? value : NULL;
}
