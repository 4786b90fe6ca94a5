/* SPDX-License-Identifier: MIT */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "fault.h"
#include "serve.h"

#define FAULTS_MAX 64
#define ANY UINT64_MAX

enum when { AT_BEGIN, AT_END, AT_BYTE, PAST_BYTE };

struct fault {
	enum when when;
	uint64_t byte;
	uint64_t after;
	uint64_t times;
	char *words; /* what to do */
};

static const char *folder;
static const char *what;
static struct fault faults[FAULTS_MAX];
static size_t n_faults;
static uint64_t drip_bytes; /* 0: all at once */
static uint64_t drip_ms;

static void path_of(char *path, const char *kind, const char *name)
{
	int length = snprintf(path, PATH_MAX, "%s/%s/%s", folder, kind, name);

	assert(length > 0 && length < PATH_MAX);
}

static void sleep_ms(uint64_t ms)
{
	struct timespec pause = {ms / 1000, (long)(ms % 1000) * 1000000};

	while (nanosleep(&pause, &pause) < 0 && errno == EINTR)
		;
}

void fault_log(const char *format, ...)
{
	char path[PATH_MAX], line[8192];
	int fd, length;
	va_list args;

	length = snprintf(line, sizeof(line), "%d ", getpid());
	va_start(args, format);
	length += vsnprintf(line + length, sizeof(line) - length - 1, format, args);
	va_end(args);
	assert(length < (int)sizeof(line) - 1);
	line[length++] = '\n';
	path_of(path, ".", "log");
	fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
	if (fd >= 0 && write(fd, line, length) < 0)
		store_error("log: %s", strerror(errno));
	close(fd);
}

static uint64_t number(const char *text)
{
	char *end;
	uint64_t value = strtoull(text, &end, 10);

	assert(end != text);
	return value;
}

/* The value of @word if it is @name=VALUE, else NULL. */
static const char *value_of(const char *word, const char *name)
{
	size_t length = strlen(name);

	return strncmp(word, name, length) || word[length] != '=' ? NULL
								  : word + length + 1;
}

/* Take @word into @fault if it says when. */
static int parse_when(struct fault *fault, const char *word)
{
	const char *value;

	if (!strcmp(word, "at=begin")) {
		fault->when = AT_BEGIN;
	} else if (!strcmp(word, "at=end")) {
		fault->when = AT_END;
	} else if ((value = value_of(word, "at"))) {
		fault->when = AT_BYTE;
		fault->byte = number(value);
	} else if ((value = value_of(word, "past"))) {
		fault->when = PAST_BYTE;
		fault->byte = number(value);
	} else if ((value = value_of(word, "after"))) {
		fault->after = number(value);
	} else if ((value = value_of(word, "times"))) {
		fault->times = number(value);
	} else {
		return 0;
	}
	return 1;
}

static void parse_line(const char *line)
{
	struct fault *fault = &faults[n_faults++];
	char *copy = strdup(line), *rest = copy, *word;

	assert(copy && n_faults <= FAULTS_MAX);
	fault->times = ANY;
	fault->words = strdup("");
	while ((word = strsep(&rest, " \n"))) {
		char *longer;

		if (!*word || parse_when(fault, word))
			continue;
		if (asprintf(&longer, "%s %s", fault->words, word) < 0)
			abort();
		free(fault->words);
		fault->words = longer;
	}
	free(copy);
}

void fault_load(const char *in_folder, const char *of_what)
{
	char path[PATH_MAX], *line = NULL;
	size_t size = 0;
	FILE *file;

	folder = in_folder;
	what = of_what;
	path_of(path, "faults", what);
	file = fopen(path, "re");
	if (!file)
		return;
	while (getline(&line, &size, file) > 0)
		parse_line(line);
	free(line);
	fclose(file);
}

/*
 * Has it come to pass neither too few nor too many times?  Each time takes the next
 * number by making the file of that number, which works between processes and over their
 * deaths.
 */
static int is_due(const struct fault *fault)
{
	if (!fault->after && fault->times == ANY)
		return 1;
	for (uint64_t time = 0;; time++) {
		char path[PATH_MAX], name[PATH_MAX];
		int fd;

		snprintf(name, sizeof(name), "%s.%zu.%" PRIu64, what,
			 (size_t)(fault - faults), time);
		path_of(path, "fired", name);
		fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
		if (fd < 0 && errno == EEXIST)
			continue;
		assert(fd >= 0);
		close(fd);
		return time >= fault->after && time - fault->after < fault->times;
	}
}

static void hang(int deaf)
{
	static const int signals[] = {SIGTERM, SIGINT, SIGHUP, SIGPIPE, SIGQUIT, SIGALRM};

	for (size_t i = 0; deaf && i < sizeof(signals) / sizeof(signals[0]); i++)
		signal(signals[i], SIG_IGN);
	for (;;)
		pause();
}

static void make_mark(const char *name)
{
	char path[PATH_MAX];
	int fd;

	path_of(path, "marks", name);
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
	assert(fd >= 0);
	close(fd);
}

static void await_mark(const char *name)
{
	char path[PATH_MAX];
	struct stat status;

	path_of(path, "marks", name);
	while (stat(path, &status) < 0)
		sleep_ms(5);
}

/* %XX in @text becomes a byte.  Returns the length; the result is freed by the process's
 * end. */
static size_t decode(const char *text, char **ret_bytes)
{
	char *bytes = malloc(strlen(text) + 1);
	size_t length = 0;

	assert(bytes);
	for (; *text; text++) {
		char digits[3] = {0};

		if (*text == '%' && text[1] && text[2]) {
			memcpy(digits, text + 1, 2);
			bytes[length++] = (char)strtoul(digits, NULL, 16);
			text += 2;
		} else {
			bytes[length++] = *text;
		}
	}
	bytes[length] = 0;
	*ret_bytes = bytes;
	return length;
}

static void print_text(const char *text)
{
	char *bytes;
	size_t length = decode(text, &bytes);

	write_all(STDOUT_FILENO, bytes, length);
	free(bytes);
}

static void say_error(const char *text)
{
	char *bytes;

	decode(text, &bytes);
	store_error("%s", bytes);
	free(bytes);
}

/* @length bytes that are nobody's data. */
static void print_noise(int fd, uint64_t length)
{
	char noise[4096];

	for (size_t i = 0; i < sizeof(noise); i++)
		noise[i] = i % 64 == 63 ? '\n' : '#';
	while (length) {
		size_t piece = length < sizeof(noise) ? length : sizeof(noise);

		if (write_all(fd, noise, piece) < 0)
			return;
		length -= piece;
	}
}

static void exit_with(int status)
{
	fault_log("exit %d", status);
	_exit(status);
}

static void drip(const char *value)
{
	const char *slash = strchr(value, '/');

	assert(slash);
	drip_bytes = number(value);
	drip_ms = number(slash + 1);
}

static void grandchild(int deaf)
{
	if (fork() == 0)
		hang(deaf);
}

static void die_by(int number)
{
	fault_log("signal %d", number);
	signal(number, SIG_DFL);
	raise(number);
	hang(0);
}

/* Do what @word says.  Returns how many bytes it leaves out. */
static uint64_t do_word(const char *word)
{
	const char *value;

	if ((value = value_of(word, "exit")))
		exit_with((int)number(value));
	else if ((value = value_of(word, "signal")))
		die_by((int)number(value));
	else if (!strcmp(word, "hang") || !strcmp(word, "hang=deaf"))
		hang(word[4] == '=');
	else if ((value = value_of(word, "delay")))
		sleep_ms(number(value));
	else if ((value = value_of(word, "until")))
		await_mark(value);
	else if ((value = value_of(word, "say")))
		make_mark(value);
	else if ((value = value_of(word, "drip")))
		drip(value);
	else if ((value = value_of(word, "print")))
		print_text(value);
	else if ((value = value_of(word, "surplus")))
		print_noise(STDOUT_FILENO, number(value));
	else if ((value = value_of(word, "short")))
		return number(value);
	else if ((value = value_of(word, "stderr")))
		say_error(value);
	else if ((value = value_of(word, "flood")))
		print_noise(STDERR_FILENO, number(value));
	else if (!strcmp(word, "grandchild") || !strcmp(word, "grandchild=deaf"))
		grandchild(word[10] == '=');
	else if ((value = value_of(word, "fork")) && fork() > 0)
		exit_with((int)number(value));
	else if (!strcmp(word, "close"))
		close(STDOUT_FILENO);
	else if (!value)
		abort(); /* a test that says what nobody understands */
	return 0;
}

static uint64_t do_due(enum when when, uint64_t byte)
{
	uint64_t left_out = 0;

	for (size_t i = 0; i < n_faults; i++) {
		struct fault *fault = &faults[i];
		char *copy, *rest, *word;

		if (fault->when != when || fault->byte != byte || !is_due(fault))
			continue;
		copy = rest = strdup(fault->words);
		while ((word = strsep(&rest, " ")))
			if (*word)
				left_out += do_word(word);
		free(copy);
	}
	return left_out;
}

void fault_begin(void)
{
	do_due(AT_BEGIN, 0);
}

void fault_end(void)
{
	do_due(AT_END, 0);
}

uint64_t fault_at(uint64_t position, int sent)
{
	return do_due(sent ? PAST_BYTE : AT_BYTE, position);
}

uint64_t fault_free_run(uint64_t position, uint64_t length)
{
	for (size_t i = 0; i < n_faults; i++) {
		const struct fault *fault = &faults[i];

		if (fault->when != AT_BYTE && fault->when != PAST_BYTE)
			continue;
		if (fault->byte > position && fault->byte - position < length)
			length = fault->byte - position;
	}
	return drip_bytes && drip_bytes < length ? drip_bytes : length;
}

void fault_pause(void)
{
	if (drip_bytes)
		sleep_ms(drip_ms);
}
