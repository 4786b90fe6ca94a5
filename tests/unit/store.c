/* SPDX-License-Identifier: MIT */
/*
 * A store for the unit tests.  The URI is a folder of the test's, after "unit:".  The
 * N-th process of a CALL (list, read, extents) does what the lines of the file CALL.N
 * say, or of the file CALL if there is no such one, and then answers all that is asked
 * (read) and exits with 0:
 *
 *   serve        answer asks until the end of input
 *   send N       send the next N bytes of what is asked
 *   skip N       leave out the next N
 *   extra N      send N bytes that nobody asked for
 *   end          wait for the end of input, answering nothing
 *   print TEXT   a line of standard output
 *   say TEXT     a line of standard error
 *   mutter TEXT  the same without its end
 *   flood N      N bytes of standard error, in lines
 *   wait MARK    until there is a file MARK
 *   mark MARK    make that file
 *   child MARK   a process that does nothing and holds the pipes; its number is in MARK
 *   close        close standard output
 *   hang         for ever
 *   exit STATUS  signal NUMBER
 *
 * The file "log" gets a line "CALL N PID" for each process, and "ask N OFFSET LENGTH" for
 * each ask, written when its answer is begun.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "pattern.h"
#include "serve.h"

#define PIECE 65536
#define PRE "unit:"

static const char *folder;
static const char *call;
static unsigned int run;
static struct asks asks = {.fd = STDIN_FILENO};
static struct ask current; /* what is left of the ask that is being answered */

static void path_of(char path[PATH_MAX], const char *name)
{
	if (snprintf(path, PATH_MAX, "%s/%s", folder, name) >= PATH_MAX)
		_exit(STORE_USAGE);
}

static void add_line(const char *name, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

static void add_line(const char *name, const char *format, ...)
{
	char path[PATH_MAX], line[256];
	va_list args;
	int fd, size;

	va_start(args, format);
	size = vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	path_of(path, name);
	fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, line, (size_t)size) != size)
		_exit(STORE_USAGE);
	close(fd);
}

/* Be the first process of the call that has this number. */
static void take_number(void)
{
	char path[PATH_MAX], name[64];
	int fd;

	do {
		snprintf(name, sizeof(name), "started.%s.%u", call, ++run);
		path_of(path, name);
		fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	} while (fd < 0 && errno == EEXIST);
	if (fd < 0)
		_exit(STORE_USAGE);
	close(fd);
	add_line("log", "%s %u %d\n", call, run, (int)getpid());
}

static void hang(void)
{
	for (;;)
		pause();
}

static void wait_for_mark(const char *mark)
{
	char path[PATH_MAX];

	path_of(path, mark);
	while (access(path, F_OK))
		nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
}

/* A mark is there with all that it says, or not at all. */
static void make_mark(const char *mark, long number)
{
	char path[PATH_MAX], temporary[PATH_MAX];

	snprintf(temporary, sizeof(temporary), ".%s.%d", mark, (int)getpid());
	add_line(temporary, "%ld\n", number);
	path_of(path, temporary);
	path_of(temporary, mark);
	if (rename(path, temporary))
		_exit(STORE_USAGE);
}

static void write_out(const void *data, size_t size)
{
	/* Nobody reads any more: the test is over. */
	if (write_all(STDOUT_FILENO, data, size))
		_exit(STORE_OK);
}

/* Have something to answer.  Returns false at the end of input. */
static bool have_ask(void)
{
	int ret;

	if (current.length)
		return true;
	ret = asks_next(&asks, &current);
	if (ret < 0)
		_exit(STORE_USAGE);
	if (ret)
		add_line("log", "ask %u %" PRIu64 " %" PRIu64 "\n", run, current.offset,
			 current.length);
	return ret;
}

/* Answer @length bytes at most, or leave them out. */
static void answer(uint64_t length, bool silent)
{
	static unsigned char data[PIECE];

	while (length && have_ask()) {
		uint64_t size = current.length < length ? current.length : length;

		if (size > PIECE)
			size = PIECE;
		if (!silent) {
			pattern_fill(data, current.offset, size);
			write_out(data, size);
		}
		current.offset += size;
		current.length -= size;
		length -= size;
	}
}

static void flood(uint64_t size)
{
	while (size--)
		fputc(size % 64 ? 'x' : '\n', stderr);
	fflush(stderr);
}

static void fork_child(const char *mark)
{
	pid_t pid = fork();

	if (!pid)
		hang();
	make_mark(mark, pid);
}

static void surplus(uint64_t size)
{
	while (size--)
		write_out("\xee", 1);
}

static void do_words(const char *verb, const char *rest)
{
	uint64_t number = strtoull(rest, NULL, 10);

	if (!strcmp(verb, "serve"))
		answer(UINT64_MAX, false);
	else if (!strcmp(verb, "send"))
		answer(number, false);
	else if (!strcmp(verb, "skip"))
		answer(number, true);
	else if (!strcmp(verb, "extra"))
		surplus(number);
	else if (!strcmp(verb, "end"))
		answer(UINT64_MAX, true);
	else if (!strcmp(verb, "print"))
		printf("%s\n", rest), fflush(stdout);
	else if (!strcmp(verb, "say"))
		fprintf(stderr, "%s\n", rest);
	else if (!strcmp(verb, "mutter"))
		fprintf(stderr, "%s", rest);
	else if (!strcmp(verb, "flood"))
		flood(number);
	else if (!strcmp(verb, "wait"))
		wait_for_mark(rest);
	else if (!strcmp(verb, "mark"))
		make_mark(rest, getpid());
	else if (!strcmp(verb, "child"))
		fork_child(rest);
	else if (!strcmp(verb, "close"))
		close(STDOUT_FILENO);
	else if (!strcmp(verb, "hang"))
		hang();
	else if (!strcmp(verb, "exit"))
		_exit((int)number);
	else if (!strcmp(verb, "signal"))
		raise((int)number);
	else
		_exit(STORE_USAGE);
}

static FILE *open_script(void)
{
	char path[PATH_MAX], name[64];
	FILE *file;

	snprintf(name, sizeof(name), "%s.%u", call, run);
	path_of(path, name);
	file = fopen(path, "re");
	if (!file) {
		path_of(path, call);
		file = fopen(path, "re");
	}
	return file;
}

int main(int argc, char **argv)
{
	char *line = NULL;
	size_t room = 0;
	FILE *script;

	if (argc < 4 || strcmp(argv[2], "--") || strncmp(argv[3], PRE, strlen(PRE)))
		return STORE_USAGE;
	signal(SIGPIPE, SIG_IGN);
	call = argv[1];
	folder = argv[3] + strlen(PRE);
	take_number();
	script = open_script();
	while (script && getline(&line, &room, script) > 0) {
		char *rest;

		line[strcspn(line, "\n")] = '\0';
		rest = line + strcspn(line, " ");
		if (*rest)
			*rest++ = '\0';
		do_words(line, rest);
	}
	free(line);
	if (script)
		fclose(script);
	if (!strcmp(call, "read"))
		answer(UINT64_MAX, false);
	return STORE_OK;
}
