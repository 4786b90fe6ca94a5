/* SPDX-License-Identifier: MIT */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pipe.h"
#include "serve.h"

/* What a program did that ran in a process of its own. */
struct result {
	int status; /* as waitpid() tells */
	char out[16384]; /* its standard output and error, as strings */
	char err[16384];
};

/* Put all that can be read from @fd into @ret_text, and close it. */
static void read_text(int fd, char *ret_text, size_t size)
{
	size_t used = 0;
	ssize_t count;

	while ((count = read(fd, ret_text + used, size - 1 - used)) > 0)
		used += count;
	assert_int_equal(count, 0);
	ret_text[used] = '\0';
	close(fd);
}

/*
 * Run store_main() in a child, as what that does to standard output and to signals is for
 * a whole process.  @input is its standard input; the files stand for pipes, so that no
 * side waits for the other.
 */
static void run_store(const struct store *store, const char *const *arguments,
		      const char *input, struct result *ret_result)
{
	FILE *files[3] = {tmpfile(), tmpfile(), tmpfile()};
	char *argv[8] = {(char *)"store"};
	int argc = 1;
	pid_t child;

	for (; arguments[argc - 1]; argc++)
		argv[argc] = (char *)arguments[argc - 1];
	assert_int_equal(write(fileno(files[0]), input, strlen(input)), strlen(input));
	lseek(fileno(files[0]), 0, SEEK_SET);
	child = fork();
	if (child == 0) {
		for (int fd = 0; fd < 3; fd++)
			dup2(fileno(files[fd]), fd);
		_exit(store_main(argc, argv, store));
	}
	assert_int_equal(waitpid(child, &ret_result->status, 0), child);
	for (int fd = 1; fd < 3; fd++)
		lseek(fileno(files[fd]), 0, SEEK_SET);
	read_text(dup(fileno(files[1])), ret_result->out, sizeof(ret_result->out));
	read_text(dup(fileno(files[2])), ret_result->err, sizeof(ret_result->err));
	for (int fd = 0; fd < 3; fd++)
		fclose(files[fd]);
}

#define RUN(store, input, ret_result, ...) \
	run_store(store, (const char *const[]){__VA_ARGS__, NULL}, input, ret_result)

static void assert_exited(const struct result *result, int status)
{
	assert_true(WIFEXITED(result->status));
	assert_int_equal(WEXITSTATUS(result->status), status);
}

/* ---- arguments ---- */

static int echo_list(const char *uri)
{
	store_error("list %s", uri);
	return STORE_OK;
}

static int echo_read(const char *uri, const char *id)
{
	store_error("read %s %s", uri, id);
	return STORE_GONE;
}

static int echo_extents(const char *uri, const char *id)
{
	store_error("extents %s %s", uri, id);
	return STORE_IO;
}

static const struct store echo = {"echo", echo_list, echo_read, echo_extents};
static const struct store without_extents = {"echo", echo_list, echo_read, NULL};

static void the_call_decides_which_operation_runs(void **state)
{
	struct result result;

	RUN(&echo, "", &result, "list", "--", "echo:a");
	assert_exited(&result, STORE_OK);
	assert_string_equal(result.err, "list echo:a\n");
	RUN(&echo, "", &result, "read", "--", "echo:a", "id");
	assert_exited(&result, STORE_GONE);
	assert_string_equal(result.err, "read echo:a id\n");
	RUN(&echo, "", &result, "extents", "--", "echo:a", "id");
	assert_exited(&result, STORE_IO);
	assert_string_equal(result.err, "extents echo:a id\n");
}

static void what_follows_dashes_is_never_an_option(void **state)
{
	struct result result;

	RUN(&echo, "", &result, "list", "--", "--");
	assert_string_equal(result.err, "list --\n");
	RUN(&echo, "", &result, "read", "--", "-x", "--");
	assert_string_equal(result.err, "read -x --\n");
}

static void people_may_leave_the_dashes_out(void **state)
{
	struct result result;

	RUN(&echo, "", &result, "read", "echo:a", "id");
	assert_string_equal(result.err, "read echo:a id\n");
}

static void assert_usage(const struct result *result)
{
	assert_exited(result, STORE_USAGE);
	assert_string_equal(result->out, "");
	assert_true(strlen(result->err) > 1);
}

static void wrong_arguments_exit_64(void **state)
{
	struct result result;

	run_store(&echo, (const char *const[]){NULL}, "", &result);
	assert_usage(&result);
	RUN(&echo, "", &result, "list");
	assert_usage(&result);
	RUN(&echo, "", &result, "list", "--");
	assert_usage(&result);
	RUN(&echo, "", &result, "list", "--", "echo:a", "id");
	assert_usage(&result);
	RUN(&echo, "", &result, "read", "--", "echo:a");
	assert_usage(&result);
	RUN(&echo, "", &result, "extents", "--", "echo:a");
	assert_usage(&result);
	RUN(&echo, "", &result, "write", "--", "echo:a", "id");
	assert_usage(&result);
}

static void a_store_without_extents_exits_64(void **state)
{
	struct result result;

	RUN(&without_extents, "", &result, "extents", "--", "echo:a", "id");
	assert_usage(&result);
}

/* ---- lists and extents ---- */

static int odd_list(const char *uri)
{
	static const char *const attrs[] = {"a", "1\"\\\t", "b-2", "\xff\xc3\xa9", NULL};
	static const char *const none[] = {NULL};

	store_print_image(
		&(struct store_image){"plain", "id:1", 0, UINT64_MAX, INT64_MIN});
	store_print_image(&(struct store_image){
		.name = "quote\" back\\ line\n del\x7f \xc3\xa9 \xf0\x9f\x90\x91",
		.id = "2",
		.size = INT64_MAX,
		.allocated = 0,
		.mtime = -1,
		.immutable = true,
		.attrs = attrs,
	});
	store_print_image(&(struct store_image){"\xff/\x80", "3", 1, 2, 3, false, none});
	return STORE_OK;
}

static void each_image_is_a_line_of_json(void **state)
{
	static const struct store store = {"odd", odd_list, echo_read, NULL};
	struct result result;

	RUN(&store, "", &result, "list", "--", "odd:");
	assert_exited(&result, STORE_OK);
	assert_string_equal(
		result.out,
		"{\"name\": \"plain\", \"id\": \"id:1\", \"size\": 0}\n"
		"{\"name\": \"quote\\\" back\\\\ line\\u000a del\\u007f \xc3\xa9 "
		"\xf0\x9f\x90\x91\", \"id\": \"2\", \"size\": 9223372036854775807, "
		"\"allocated\": 0, \"mtime\": -1, \"immutable\": true, "
		"\"attrs\": {\"a\": \"1\\\"\\\\\\u0009\", \"b-2\": \"\\ufffd\xc3\xa9\"}}\n"
		"{\"name_hex\": \"ff2f80\", \"id\": \"3\", \"size\": 1, \"allocated\": 2, "
		"\"mtime\": 3}\n");
}

static const char *one_name;

static int list_one(const char *uri)
{
	store_print_image(&(struct store_image){one_name, "1", 1, UINT64_MAX, INT64_MIN});
	return STORE_OK;
}

/* Whether a list says @name in hexadecimal. */
static bool is_in_hex(const char *name)
{
	static const struct store store = {"one", list_one, echo_read, NULL};
	struct result result;

	one_name = name;
	RUN(&store, "", &result, "list", "--", "one:");
	assert_exited(&result, STORE_OK);
	return strstr(result.out, "\"name_hex\"") != NULL;
}

/* The limits of each row of the table in RFC 3629, section 4. */
static void names_that_are_not_utf8_are_in_hexadecimal(void **state)
{
	static const char *const good[] = {
		"\x01",
		"\x7f",
		"\xc2\x80",
		"\xdf\xbf",
		"\xe0\xa0\x80",
		"\xec\xbf\xbf",
		"\xed\x80\x80",
		"\xed\x9f\xbf",
		"\xee\x80\x80",
		"\xef\xbf\xbf",
		"\xf0\x90\x80\x80",
		"\xf3\xbf\xbf\xbf",
		"\xf4\x80\x80\x80",
		"\xf4\x8f\xbf\xbf",
	};
	static const char *const bad[] = {
		"\x80",
		"\xbf",
		"\xc0\x80",
		"\xc1\xbf",
		"\xc2",
		"\xc2\x7f",
		"\xc2\xc0",
		"\xe0\x9f\xbf",
		"\xed\xa0\x80",
		"\xef\xbf",
		"\xef\xbf\xc0",
		"\xf0\x8f\xbf\xbf",
		"\xf0\x90\x80",
		"\xf4\x90\x80\x80",
		"\xf5\x80\x80\x80",
		"\xff",
		"\xf0\x90\x80\x7f",
	};

	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++)
		assert_false(is_in_hex(good[i]));
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		assert_true(is_in_hex(bad[i]));
}

static int list_much(const char *uri)
{
	char name[64];

	for (int i = 0; i < 10000; i++) {
		snprintf(name, sizeof(name), "image %d", i);
		store_print_image(&(struct store_image){name, "1", i, UINT64_MAX, 0});
	}
	return STORE_OK;
}

static const struct store much = {"much", list_much, echo_read, NULL};

static void a_list_that_cannot_be_written_exits_74(void **state)
{
	int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
	const char *argv[] = {"much", "list", "--", "much:"};
	int status;
	pid_t child;

	assert_true(full >= 0);
	child = fork();
	if (child == 0) {
		dup2(full, STDOUT_FILENO);
		dup2(full, STDERR_FILENO);
		_exit(store_main(4, (char **)argv, &much));
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), STORE_IO);
	close(full);
}

static void a_list_that_nobody_reads_exits_0(void **state)
{
	const char *argv[] = {"much", "list", "--", "much:"};
	int pipe_fds[2], status;
	pid_t child;

	assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
	child = fork();
	if (child == 0) {
		dup2(pipe_fds[1], STDOUT_FILENO);
		close(pipe_fds[0]);
		_exit(store_main(4, (char **)argv, &much));
	}
	close(pipe_fds[0]);
	close(pipe_fds[1]);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), STORE_OK);
}

/* A file opened by the store must not become what it believes to be standard output. */
static void a_list_without_standard_output_exits_74(void **state)
{
	const char *argv[] = {"much", "list", "--", "much:"};
	int status;
	pid_t child = fork();

	if (child == 0) {
		close(STDIN_FILENO);
		close(STDOUT_FILENO);
		close(STDERR_FILENO);
		_exit(store_main(4, (char **)argv, &much));
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), STORE_IO);
}

static int list_then_fail(const char *uri)
{
	list_one(uri);
	store_error("the store is gone");
	return STORE_UNAVAILABLE;
}

static void a_list_that_fails_prints_nothing_that_was_buffered(void **state)
{
	static const struct store store = {"one", list_then_fail, echo_read, NULL};
	struct result result;

	one_name = "a";
	RUN(&store, "", &result, "list", "--", "one:");
	assert_exited(&result, STORE_UNAVAILABLE);
	assert_string_equal(result.out, "");
}

static int some_extents(const char *uri, const char *id)
{
	store_print_extent(0, 10);
	store_print_extent(10, 5);
	store_print_extent(20, 0);
	store_print_extent(30, 1);
	store_print_extent(31, 0);
	store_print_extent(40, INT64_MAX - 40);
	return STORE_OK;
}

static int no_extents(const char *uri, const char *id)
{
	return STORE_OK;
}

static void extents_that_touch_become_one(void **state)
{
	static const struct store some = {"some", echo_list, echo_read, some_extents};
	static const struct store none = {"none", echo_list, echo_read, no_extents};
	struct result result;

	RUN(&some, "", &result, "extents", "--", "some:", "1");
	assert_exited(&result, STORE_OK);
	assert_string_equal(result.out, "0 15\n30 1\n40 9223372036854775767\n");
	RUN(&none, "", &result, "extents", "--", "none:", "1");
	assert_exited(&result, STORE_OK);
	assert_string_equal(result.out, "");
}

/* ---- asks ---- */

/* Asks that were written in these pieces, each read before the next one is written. */
struct pipe_asks {
	struct asks asks;
	int write_fd;
};

static int setup_asks(void **state)
{
	struct pipe_asks *pipe_asks = calloc(1, sizeof(*pipe_asks));
	int fds[2];

	assert_non_null(pipe_asks);
	assert_int_equal(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
	pipe_asks->asks.fd = fds[0];
	pipe_asks->write_fd = fds[1];
	*state = pipe_asks;
	return 0;
}

static int teardown_asks(void **state)
{
	struct pipe_asks *pipe_asks = *state;

	close(pipe_asks->asks.fd);
	if (pipe_asks->write_fd >= 0)
		close(pipe_asks->write_fd);
	free(pipe_asks);
	return 0;
}

static void put(struct pipe_asks *pipe_asks, const char *text)
{
	assert_int_equal(write(pipe_asks->write_fd, text, strlen(text)), strlen(text));
}

static void end(struct pipe_asks *pipe_asks)
{
	close(pipe_asks->write_fd);
	pipe_asks->write_fd = -1;
}

static void assert_next(struct pipe_asks *pipe_asks, uint64_t offset, uint64_t length)
{
	struct ask ask;

	assert_int_equal(asks_next(&pipe_asks->asks, &ask), 1);
	assert_int_equal(ask.offset, offset);
	assert_int_equal(ask.length, length);
}

static void assert_none(struct pipe_asks *pipe_asks, int error)
{
	struct ask ask = {.offset = 111, .length = 222};

	assert_int_equal(asks_next(&pipe_asks->asks, &ask), error);
	assert_int_equal(ask.offset, 111);
	assert_int_equal(ask.length, 222);
}

static void asks_are_parsed_one_by_one(void **state)
{
	struct pipe_asks *pipe_asks = *state;

	put(pipe_asks, "0 1\n4096 1048576\n");
	assert_next(pipe_asks, 0, 1);
	assert_next(pipe_asks, 4096, 1048576);
	assert_none(pipe_asks, -EAGAIN);
	put(pipe_asks, "5 6\n");
	end(pipe_asks);
	assert_next(pipe_asks, 5, 6);
	assert_none(pipe_asks, 0);
	assert_none(pipe_asks, 0);
}

static void an_ask_may_arrive_byte_by_byte(void **state)
{
	struct pipe_asks *pipe_asks = *state;
	const char *text = "123 456\n";

	for (const char *byte = text; *byte; byte++) {
		assert_none(pipe_asks, -EAGAIN);
		put(pipe_asks, (char[]){*byte, '\0'});
	}
	assert_next(pipe_asks, 123, 456);
	assert_none(pipe_asks, -EAGAIN);
}

/* More than the buffer holds, so that lines are cut by its end and moved to its front. */
static void thousands_of_asks_can_be_queued(void **state)
{
	FILE *file = tmpfile();
	struct asks asks = {.fd = fileno(file)};
	struct ask ask;

	for (int i = 0; i < 10000; i++)
		fprintf(file, "%d %d\n", i * 1000, i + 1);
	rewind(file);
	for (int i = 0; i < 10000; i++) {
		assert_int_equal(asks_next(&asks, &ask), 1);
		assert_int_equal(ask.offset, i * 1000);
		assert_int_equal(ask.length, i + 1);
	}
	assert_int_equal(asks_next(&asks, &ask), 0);
	fclose(file);
}

static void the_largest_ask_is_an_ask(void **state)
{
	struct pipe_asks *pipe_asks = *state;

	put(pipe_asks, "9223372036854775806 1\n0 9223372036854775807\n");
	assert_next(pipe_asks, INT64_MAX - 1, 1);
	assert_next(pipe_asks, 0, INT64_MAX);
}

/* store_error() tells of each; the test's own standard error is kept clean of that. */
static void assert_no_ask(const char *text)
{
	struct pipe_asks *pipe_asks;
	int kept = dup(STDERR_FILENO);
	int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

	setup_asks((void **)&pipe_asks);
	put(pipe_asks, text);
	end(pipe_asks);
	dup2(null, STDERR_FILENO);
	assert_none(pipe_asks, -EBADMSG);
	dup2(kept, STDERR_FILENO);
	close(kept);
	close(null);
	teardown_asks((void **)&pipe_asks);
}

static void what_is_no_ask_is_refused(void **state)
{
	static const char *const lines[] = {
		"\n",
		" \n",
		"1\n",
		"1 \n",
		" 1\n",
		"a b\n",
		"1 2 3\n",
		"1 2 \n",
		"1  2\n",
		" 1 2\n",
		"1\t2\n",
		"-1 2\n",
		"1 -2\n",
		"+1 2\n",
		"1 2\r\n",
		"0x1 2\n",
		"1.0 2\n",
		"1 0\n",
		"0 9223372036854775808\n",
		"9223372036854775807 1\n",
		"1 9223372036854775807\n",
		"18446744073709551616 1\n",
		"99999999999999999999999999999999999999 1\n",
		"1 2",
		"1",
		"read\n",
	};
	char long_line[8192];

	for (size_t i = 0; i < sizeof(lines) / sizeof(*lines); i++)
		assert_no_ask(lines[i]);
	memset(long_line, '1', sizeof(long_line));
	long_line[sizeof(long_line) - 1] = '\0';
	assert_no_ask(long_line);
}

static int answer_in_words(void *context, const struct ask *ask)
{
	char text[64];
	int *left = context;

	if (left && (*left)-- == 0) {
		store_error("no more");
		return STORE_GONE;
	}
	snprintf(text, sizeof(text), "%d+%d;", (int)ask->offset, (int)ask->length);
	return write_all(STDOUT_FILENO, text, strlen(text)) < 0 ? STORE_IO : STORE_OK;
}

static int words_read(const char *uri, const char *id)
{
	int left = 2;

	return store_serve(answer_in_words, strcmp(id, "two") == 0 ? &left : NULL);
}

static const struct store words = {"words", echo_list, words_read, NULL};

static void asks_are_answered_until_the_end_of_input(void **state)
{
	struct result result;

	RUN(&words, "0 1\n2 3\n4 5\n", &result, "read", "--", "words:", "all");
	assert_exited(&result, STORE_OK);
	assert_string_equal(result.out, "0+1;2+3;4+5;");
	assert_string_equal(result.err, "");
	RUN(&words, "", &result, "read", "--", "words:", "all");
	assert_exited(&result, STORE_OK);
	assert_string_equal(result.out, "");
}

static void an_answer_that_fails_ends_it_with_that_status(void **state)
{
	struct result result;

	RUN(&words, "0 1\n2 3\n4 5\n6 7\n", &result, "read", "--", "words:", "two");
	assert_exited(&result, STORE_GONE);
	assert_string_equal(result.out, "0+1;2+3;");
	assert_string_equal(result.err, "no more\n");
}

static void what_is_no_ask_ends_it_with_64(void **state)
{
	struct result result;

	RUN(&words, "0 1\nnonsense\n4 5\n", &result, "read", "--", "words:", "all");
	assert_exited(&result, STORE_USAGE);
	assert_string_equal(result.out, "0+1;");
	assert_true(strlen(result.err) > 0);
}

/* Asks and answers on a socket that does not block, to a peer that is slow. */
static void store_serve_waits_where_input_does_not_block(void **state)
{
	const char *argv[] = {"words", "read", "--", "words:", "all"};
	int sockets[2], status;
	char text[64];
	pid_t child;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
	child = fork();
	if (child == 0) {
		fcntl(sockets[1], F_SETFL, O_NONBLOCK);
		dup2(sockets[1], STDIN_FILENO);
		dup2(sockets[1], STDOUT_FILENO);
		close(sockets[0]);
		_exit(store_main(5, (char **)argv, &words));
	}
	close(sockets[1]);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(write(sockets[0], "1 2\n", 4), 4);
		assert_int_equal(recv(sockets[0], text, 4, MSG_WAITALL), 4);
		assert_memory_equal(text, "1+2;", 4);
	}
	shutdown(sockets[0], SHUT_WR);
	assert_int_equal(read(sockets[0], text, sizeof(text)), 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), STORE_OK);
	close(sockets[0]);
}

static int answer_zeros(void *context, const struct ask *ask)
{
	return write_zeros(STDOUT_FILENO, ask->length) < 0 ? STORE_IO : STORE_OK;
}

static int zeros_read(const char *uri, const char *id)
{
	return store_serve(answer_zeros, NULL);
}

/* With its input still open, the program can only end because its output is closed. */
static void a_reader_that_goes_away_ends_it_with_0(void **state)
{
	static const struct store store = {"zeros", echo_list, zeros_read, NULL};
	const char *argv[] = {"zeros", "read", "--", "zeros:", "all"};
	int input[2], output[2], status;
	char byte;
	pid_t child;

	assert_int_equal(pipe2(input, O_CLOEXEC), 0);
	assert_int_equal(pipe2(output, O_CLOEXEC), 0);
	child = fork();
	if (child == 0) {
		dup2(input[0], STDIN_FILENO);
		dup2(output[1], STDOUT_FILENO);
		close(input[1]);
		close(output[0]);
		close(output[1]);
		_exit(store_main(5, (char **)argv, &store));
	}
	close(output[1]);
	assert_int_equal(write(input[1], "0 1000000000000\n", 16), 16);
	assert_int_equal(read(output[0], &byte, 1), 1);
	close(output[0]);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), STORE_OK);
	close(input[0]);
	close(input[1]);
}

/* ---- writing ---- */

#define MUCH ((size_t)3 * 1024 * 1024 + 17)

/* Read MUCH bytes from @fd in a child, which exits 0 if they are those of @data. */
static pid_t read_much(int fd, int other, const char *data)
{
	static char got[MUCH + 1];
	pid_t child = fork();
	size_t used = 0;
	ssize_t count;

	if (child != 0)
		return child;
	close(other);
	while ((count = read(fd, got + used, sizeof(got) - used)) > 0)
		used += count;
	_exit(count == 0 && used == MUCH && memcmp(got, data, MUCH) == 0 ? 0 : 1);
}

static void assert_arrives(int fds[2], const char *data, bool zeros)
{
	pid_t child = read_much(fds[0], fds[1], data);
	int status;

	close(fds[0]);
	if (zeros)
		assert_int_equal(write_zeros(fds[1], MUCH), 0);
	else
		assert_int_equal(write_all(fds[1], data, MUCH), 0);
	close(fds[1]);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

static void all_is_written_to_a_pipe_and_to_a_socket(void **state)
{
	static const int flags[] = {0, O_NONBLOCK};
	static char data[MUCH], zeros[MUCH];
	int fds[2];

	for (size_t i = 0; i < MUCH; i++)
		data[i] = (char)(i * 7 + i / 4096);
	for (int i = 0; i < 8; i++) {
		if (i < 4)
			assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
		else
			assert_int_equal(
				socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds),
				0);
		fcntl(fds[1], F_SETFL, flags[i & 1]);
		assert_arrives(fds, i & 2 ? zeros : data, i & 2);
	}
}

static void zeros_are_written_to_a_file(void **state)
{
	FILE *file = tmpfile();
	char got[100];

	assert_non_null(file);
	assert_int_equal(write_zeros(fileno(file), 70), 0);
	lseek(fileno(file), 0, SEEK_SET);
	assert_int_equal(read(fileno(file), got, sizeof(got)), 70);
	for (int i = 0; i < 70; i++)
		assert_int_equal(got[i], 0);
	fclose(file);
}

static void a_write_that_cannot_be_says_why(void **state)
{
	int fds[2], full = open("/dev/full", O_WRONLY | O_CLOEXEC);

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	close(fds[0]);
	assert_int_equal(write_all(fds[1], "a", 1), -EPIPE);
	assert_int_equal(write_zeros(fds[1], 1), -EPIPE);
	close(fds[1]);
	assert_int_equal(write_all(full, "a", 1), -ENOSPC);
	assert_int_equal(write_zeros(full, 1), -ENOSPC);
	close(full);
	assert_int_equal(write_all(-1, "a", 1), -EBADF);
	assert_int_equal(write_zeros(-1, 1), -EBADF);
	assert_int_equal(write_all(-1, "", 0), 0);
	assert_int_equal(write_zeros(-1, 0), 0);
}

static void a_pipe_is_enlarged_and_nothing_else(void **state)
{
	int fds[2], file = open("/dev/null", O_RDWR | O_CLOEXEC);
	size_t size;

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	size = pipe_enlarge(fds[1], PIPE_BYTES);
	assert_int_equal(size, fcntl(fds[0], F_GETPIPE_SZ));
	assert_true(size >= 4096);
	assert_int_equal(pipe_enlarge(fds[0], PIPE_BYTES), size);
	assert_int_equal(pipe_enlarge(file, PIPE_BYTES), 0);
	assert_int_equal(pipe_enlarge(-1, PIPE_BYTES), 0);
	close(fds[0]);
	close(fds[1]);
	close(file);
}

/* ---- errors ---- */

static void capture_error(const char *text, struct result *ret_result)
{
	FILE *file = tmpfile();
	int kept = dup(STDERR_FILENO);

	dup2(fileno(file), STDERR_FILENO);
	store_error("%s", text);
	dup2(kept, STDERR_FILENO);
	close(kept);
	lseek(fileno(file), 0, SEEK_SET);
	read_text(dup(fileno(file)), ret_result->err, sizeof(ret_result->err));
	fclose(file);
}

static void an_error_is_one_line_without_control_bytes(void **state)
{
	struct result result;
	char text[5000];

	capture_error("name\nwith\x1b[1m and \xc3\xa9\x7f", &result);
	assert_string_equal(result.err, "name?with?[1m and \xc3\xa9?\n");
	memset(text, 'a', sizeof(text));
	text[sizeof(text) - 1] = '\0';
	capture_error(text, &result);
	assert_true(strlen(result.err) > 500);
	assert_ptr_equal(strchr(result.err, '\n'), result.err + strlen(result.err) - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_call_decides_which_operation_runs),
		cmocka_unit_test(what_follows_dashes_is_never_an_option),
		cmocka_unit_test(people_may_leave_the_dashes_out),
		cmocka_unit_test(wrong_arguments_exit_64),
		cmocka_unit_test(a_store_without_extents_exits_64),
		cmocka_unit_test(each_image_is_a_line_of_json),
		cmocka_unit_test(names_that_are_not_utf8_are_in_hexadecimal),
		cmocka_unit_test(a_list_that_cannot_be_written_exits_74),
		cmocka_unit_test(a_list_that_nobody_reads_exits_0),
		cmocka_unit_test(a_list_without_standard_output_exits_74),
		cmocka_unit_test(a_list_that_fails_prints_nothing_that_was_buffered),
		cmocka_unit_test(extents_that_touch_become_one),
		cmocka_unit_test_setup_teardown(asks_are_parsed_one_by_one, setup_asks,
						teardown_asks),
		cmocka_unit_test_setup_teardown(an_ask_may_arrive_byte_by_byte,
						setup_asks, teardown_asks),
		cmocka_unit_test_setup_teardown(thousands_of_asks_can_be_queued,
						setup_asks, teardown_asks),
		cmocka_unit_test_setup_teardown(the_largest_ask_is_an_ask, setup_asks,
						teardown_asks),
		cmocka_unit_test(what_is_no_ask_is_refused),
		cmocka_unit_test(asks_are_answered_until_the_end_of_input),
		cmocka_unit_test(an_answer_that_fails_ends_it_with_that_status),
		cmocka_unit_test(what_is_no_ask_ends_it_with_64),
		cmocka_unit_test(store_serve_waits_where_input_does_not_block),
		cmocka_unit_test(a_reader_that_goes_away_ends_it_with_0),
		cmocka_unit_test(all_is_written_to_a_pipe_and_to_a_socket),
		cmocka_unit_test(zeros_are_written_to_a_file),
		cmocka_unit_test(a_write_that_cannot_be_says_why),
		cmocka_unit_test(a_pipe_is_enlarged_and_nothing_else),
		cmocka_unit_test(an_error_is_one_line_without_control_bytes),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
