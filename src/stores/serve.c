/* SPDX-License-Identifier: MIT */
/*
 * serve - what the store programs written in C share.
 *
 * Lists and extents go through a buffer of our own instead of stdio's, so that the errno
 * of the write that failed is still known at the end: a reader that went away (EPIPE) is
 * nobody's fault, a full disk is.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "serve.h"


static struct {
	int error; /* negative errno of the first write that failed; nothing is written
		      after */
	size_t used;
	char bytes[64 * 1024];
} output;

/* The run of data that is not printed yet, since the next one may go on with it. */
static struct {
	uint64_t start;
	uint64_t end;
} run;

/* A write to standard output met EPIPE. */
static bool unread;

void store_error(const char *format, ...)
{
	char line[1024];
	va_list arguments;
	int length;

	va_start(arguments, format);
	length = vsnprintf(line, sizeof(line), format, arguments);
	va_end(arguments);
	if (length < 0)
		length = 0;
	if ((size_t)length > sizeof(line) - 1)
		length = sizeof(line) - 1;
	for (int i = 0; i < length; i++) {
		unsigned char byte = line[i];

		if (byte < 0x20 || byte == 0x7f)
			line[i] = '?';
	}
	line[length] = '\n';
	(void)!write(STDERR_FILENO, line, length + 1);
}

/* Wait until @fd is ready for @events.  Returns 0 or a negative errno. */
static int wait_for(int fd, short events)
{
	struct pollfd poll_fd = {.fd = fd, .events = events};

	while (poll(&poll_fd, 1, -1) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

/*
 * What to do after a write to @fd failed with @error.  Returns 0 to try again, once it is
 * of use, or the negative errno.
 */
static int write_failed(int fd, int error)
{
	if (error == EINTR)
		return 0;
	if (error == EAGAIN)
		return wait_for(fd, POLLOUT);
	if (error == EPIPE && fd == STDOUT_FILENO)
		unread = true;
	return -error;
}

int write_all(int fd, const void *data, size_t size)
{
	const char *next = data;

	while (size > 0) {
		ssize_t written = write(fd, next, size);

		if (written < 0) {
			int error = write_failed(fd, errno);

			if (error < 0)
				return error;
			continue;
		}
		next += written;
		size -= written;
	}
	return 0;
}

int write_zeros(int fd, uint64_t length)
{
	static char zeros[256 * 1024];
	bool is_pipe = true;

	while (length > 0) {
		struct iovec part = {.iov_base = zeros, .iov_len = sizeof(zeros)};
		ssize_t written;

		if (part.iov_len > length)
			part.iov_len = length;
		/* The pipe may refer to these pages as long as it likes: nobody writes to
		 * them. */
		written = is_pipe ? vmsplice(fd, &part, 1, 0)
				  : write(fd, zeros, part.iov_len);
		if (written >= 0) {
			length -= written;
		} else if (is_pipe && (errno == EBADF || errno == EINVAL)) {
			is_pipe = false;
		} else {
			int error = write_failed(fd, errno);

			if (error < 0)
				return error;
		}
	}
	return 0;
}

/*
 * Parse the decimal number at *@text, which @end ends, up to 2^63-1.  Returns whether
 * there is one; *@text is then behind it.
 */
static bool parse_number(const char **text, char end, uint64_t *ret_number)
{
	const char *at = *text;
	uint64_t number = 0;

	for (; *at >= '0' && *at <= '9'; at++) {
		if (number > (uint64_t)(INT64_MAX - (*at - '0')) / 10)
			return false;
		number = number * 10 + (*at - '0');
	}
	if (at == *text || *at != end)
		return false;
	*text = at + 1;
	*ret_number = number;
	return true;
}

/* Parse one line, which ends with its newline.  Returns 1 or -EBADMSG. */
static int parse_ask(const char *line, struct ask *ret_ask)
{
	const char *at = line;
	struct ask ask;

	if (!parse_number(&at, ' ', &ask.offset) ||
	    !parse_number(&at, '\n', &ask.length) || ask.length == 0 ||
	    ask.length > INT64_MAX - ask.offset) {
		store_error("not an ask (OFFSET LENGTH): %.*s", (int)strcspn(line, "\n"),
			    line);
		return -EBADMSG;
	}
	*ret_ask = ask;
	return 1;
}

int asks_next(struct asks *asks, struct ask *ret_ask)
{
	for (;;) {
		char *line = asks->line + asks->taken;
		char *newline = memchr(line, '\n', asks->used - asks->taken);
		ssize_t count;

		if (newline) {
			int found = parse_ask(line, ret_ask);

			if (found > 0)
				asks->taken = newline + 1 - asks->line;
			return found;
		}
		if (asks->ended && asks->taken == asks->used)
			return 0;
		memmove(asks->line, line, asks->used - asks->taken);
		asks->used -= asks->taken;
		asks->taken = 0;
		if (asks->ended || asks->used == sizeof(asks->line)) {
			store_error("%s", asks->ended ? "the last ask has no newline"
						      : "an ask is too long");
			return -EBADMSG;
		}
		count = read(asks->fd, asks->line + asks->used,
			     sizeof(asks->line) - asks->used);
		if (count < 0 && errno != EINTR)
			return -errno;
		if (count == 0)
			asks->ended = true;
		if (count > 0)
			asks->used += count;
	}
}

/* Whether the next ask is there already, in whole. */
static bool is_pending(const struct asks *asks)
{
	return memchr(asks->line + asks->taken, '\n', asks->used - asks->taken);
}

int store_serve_batches(int (*answer)(void *context, const struct ask *ask),
			int (*flush)(void *context), void *context)
{
	struct asks asks = {.fd = STDIN_FILENO};
	struct ask ask;

	for (;;) {
		int status = is_pending(&asks) ? STORE_OK : flush(context);
		int found;

		if (status != STORE_OK || unread)
			return status;
		found = asks_next(&asks, &ask);
		if (found == -EAGAIN)
			found = wait_for(STDIN_FILENO, POLLIN);
		else if (found == 0)
			return STORE_OK;
		if (found == -EBADMSG)
			return STORE_USAGE;
		if (found < 0) {
			store_error("cannot read what is asked: %s", strerror(-found));
			return STORE_IO;
		}
		if (found == 0)
			continue;
		status = answer(context, &ask);
		if (status != STORE_OK || unread)
			return status;
	}
}

static int flush_nothing(void *context)
{
	(void)context;
	return STORE_OK;
}

int store_serve(int (*answer)(void *context, const struct ask *ask), void *context)
{
	return store_serve_batches(answer, flush_nothing, context);
}

static void flush(void)
{
	if (output.error == 0)
		output.error = write_all(STDOUT_FILENO, output.bytes, output.used);
	output.used = 0;
}

static void put(const char *data, size_t size)
{
	while (size > 0) {
		size_t part = sizeof(output.bytes) - output.used;

		if (part > size)
			part = size;
		memcpy(output.bytes + output.used, data, part);
		output.used += part;
		data += part;
		size -= part;
		if (output.used == sizeof(output.bytes))
			flush();
	}
}

__attribute__((format(printf, 1, 2))) static void put_format(const char *format, ...)
{
	char text[128];
	va_list arguments;
	int length;

	va_start(arguments, format);
	length = vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	put(text, length);
}

/*
 * The length of the UTF-8 character at @text (RFC 3629, section 4), or 0 if there is
 * none: overlong forms, surrogates and what is above U+10FFFF are not UTF-8.
 */
static size_t utf8_length(const unsigned char *text)
{
	unsigned char low = 0x80, high = 0xbf;
	size_t length;

	if (text[0] < 0x80)
		return 1;
	if (text[0] < 0xc2 || text[0] > 0xf4)
		return 0;
	length = text[0] < 0xe0 ? 2 : text[0] < 0xf0 ? 3 : 4;
	if (text[0] == 0xe0)
		low = 0xa0;
	else if (text[0] == 0xed)
		high = 0x9f;
	else if (text[0] == 0xf0)
		low = 0x90;
	else if (text[0] == 0xf4)
		high = 0x8f;
	for (size_t i = 1; i < length; i++, low = 0x80, high = 0xbf)
		if (text[i] < low || text[i] > high)
			return 0;
	return length;
}

static bool is_utf8(const char *text)
{
	while (*text) {
		size_t length = utf8_length((const unsigned char *)text);

		if (length == 0)
			return false;
		text += length;
	}
	return true;
}

/*
 * Put @text as a JSON string (RFC 8259, section 7); U+FFFD for bytes that are not UTF-8.
 */
static void put_string(const char *text)
{
	put("\"", 1);
	while (*text) {
		size_t length = utf8_length((const unsigned char *)text);

		if (length == 0) {
			put_format("\\ufffd");
			length = 1;
		} else if (*text == '"' || *text == '\\') {
			put_format("\\%c", *text);
		} else if ((unsigned char)*text < 0x20 || *text == 0x7f) {
			put_format("\\u%04x", *text);
		} else {
			put(text, length);
		}
		text += length;
	}
	put("\"", 1);
}

static void put_name(const char *name)
{
	if (is_utf8(name)) {
		put_format("\"name\": ");
		put_string(name);
		return;
	}
	put_format("\"name_hex\": \"");
	for (; *name; name++)
		put_format("%02x", (unsigned char)*name);
	put_format("\"");
}

void store_print_image(const struct store_image *image)
{
	put_format("{");
	put_name(image->name);
	put_format(", \"id\": ");
	put_string(image->id);
	put_format(", \"size\": %" PRIu64, image->size);
	if (image->allocated != UINT64_MAX)
		put_format(", \"allocated\": %" PRIu64, image->allocated);
	if (image->mtime != INT64_MIN)
		put_format(", \"mtime\": %" PRId64, image->mtime);
	if (image->immutable)
		put_format(", \"immutable\": true");
	if (image->attrs && image->attrs[0]) {
		const char *before = ", \"attrs\": {";

		for (const char *const *attr = image->attrs; *attr; attr += 2) {
			put_format("%s", before);
			put_string(attr[0]);
			put_format(": ");
			put_string(attr[1]);
			before = ", ";
		}
		put_format("}");
	}
	put_format("}\n");
}

static void put_run(void)
{
	if (run.end > run.start)
		put_format("%" PRIu64 " %" PRIu64 "\n", run.start, run.end - run.start);
}

void store_print_extent(uint64_t offset, uint64_t length)
{
	if (offset != run.end) {
		put_run();
		run.start = offset;
	}
	run.end = offset + length;
}

/* Send what is buffered.  Returns the status to exit with. */
static int finish_output(void)
{
	put_run();
	flush();
	if (output.error == 0)
		return STORE_OK;
	store_error("cannot write the answer: %s", strerror(-output.error));
	return STORE_IO;
}

static int usage(const struct store *store)
{
	store_error("usage: imagefs-store-%s list -- URI, or read -- URI ID, "
		    "or extents -- URI ID",
		    store->scheme);
	return STORE_USAGE;
}

static int run_call(int argc, char **argv, const struct store *store)
{
	const char *call = argc > 1 ? argv[1] : "";
	int first = argc > 2 && strcmp(argv[2], "--") == 0 ? 3 : 2;
	char **arguments = argv + first;
	int count = argc - first;

	if (strcmp(call, "list") == 0 && count == 1)
		return store->list(arguments[0]);
	if (strcmp(call, "read") == 0 && count == 2)
		return store->read(arguments[0], arguments[1]);
	if (strcmp(call, "extents") != 0 || count != 2)
		return usage(store);
	if (store->extents)
		return store->extents(arguments[0], arguments[1]);
	store_error("this store cannot tell where an image has data");
	return STORE_USAGE;
}

int store_main(int argc, char **argv, const struct store *store)
{
	struct sigaction ignore = {.sa_handler = SIG_IGN};
	int fd, status;

	/* What is closed stays out of reach of open(2): reads and writes there fail
	 * (EBADF). */
	do
		fd = open("/", O_PATH | O_CLOEXEC);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
	sigaction(SIGPIPE, &ignore, NULL);

	status = run_call(argc, argv, store);
	if (status == STORE_OK && !unread)
		status = finish_output();
	return unread ? STORE_OK : status;
}

int store_make_nonblocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags >= 0)
		(void)fcntl(fd, F_SETFL, flags | O_NONBLOCK);
	return flags;
}

void store_set_flags(int fd, int flags)
{
	if (flags >= 0)
		(void)fcntl(fd, F_SETFL, flags);
}
