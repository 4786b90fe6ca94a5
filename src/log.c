/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifdef HAVE_SYSTEMD
/* Where the call is in the sources is of no use to who reads the journal. */
#define SD_JOURNAL_SUPPRESS_LOCATION
#include <systemd/sd-journal.h>
#endif

#include "cleanup.h"
#include "log.h"
#include "terminal.h"
#include "text.h"

#define LINE_SIZE 2048
#define KEPT_LINES 200
#define NAME "imagefs"

enum target { TARGET_STDERR, TARGET_SYSLOG, TARGET_JOURNAL };

/* A line, and what it is about. */
struct line {
	int level;
	const char *image; /* NULL: none */
	uint64_t offset;
	char text[LINE_SIZE];
};

/* The last lines; kept_lock guards them. */
static pthread_mutex_t kept_lock = PTHREAD_MUTEX_INITIALIZER;
static char *kept[KEPT_LINES];
static size_t kept_next;

static _Atomic int target; /* an enum target */
static atomic_bool coloured;
static atomic_int least = LOG_INFO;
static char *store;

static const struct {
	int level;
	const char *name;
} levels[] = {{LOG_WARNING, "warning"}, {LOG_INFO, "info"}, {LOG_DEBUG, "debug"}};

#ifdef HAVE_SYSTEMD
static bool has_journal(void)
{
	struct stat st;

	return !stat("/run/systemd/journal/socket", &st) && S_ISSOCK(st.st_mode);
}

/* Whether standard error is the one that JOURNAL_STREAM tells of. */
static bool is_journal(int fd)
{
	const char *stream = getenv("JOURNAL_STREAM");
	uintmax_t device, inode;
	struct stat st;

	return stream && sscanf(stream, "%ju:%ju", &device, &inode) == 2 &&
	       !fstat(fd, &st) && st.st_dev == device && st.st_ino == inode;
}

static void write_journal(const struct line *line)
{
	bool somewhere = line->offset != LOG_NOWHERE;

	/* The fields that may be missing come last. */
	sd_journal_send("MESSAGE=%s", line->text, "PRIORITY=%d", line->level,
			"SYSLOG_IDENTIFIER=" NAME, "STORE=%s", store ? store : "",
			line->image ? "IMAGE=%s" : NULL, line->image,
			somewhere ? "OFFSET=%" PRIu64 : NULL, line->offset, NULL);
}
#else
static bool has_journal(void)
{
	return false;
}

static bool is_journal(int fd)
{
	return false;
}

static void write_journal(const struct line *line)
{
}
#endif

void log_open(void)
{
	if (is_journal(STDERR_FILENO))
		target = TARGET_JOURNAL;
	coloured = terminal_has_colours(STDERR_FILENO);
}

void log_to_system(void)
{
	if (has_journal()) {
		target = TARGET_JOURNAL;
		return;
	}
	openlog(NAME, LOG_PID, LOG_DAEMON);
	target = TARGET_SYSLOG;
}

void log_set_store(const char *uri)
{
	free(store);
	store = uri ? strdup(uri) : NULL;
}

void log_set_level(int level)
{
	least = level;
}

/* Syslog has no fields, and there may be several mounts. */
static void write_syslog(const struct line *line)
{
	if (!store || !strncmp(line->text, store, strlen(store)))
		syslog(line->level, "%s", line->text);
	else
		syslog(line->level, "%s (%s)", line->text, store);
}

/* Keep the line in the place of the oldest. */
static void keep(const char *line)
{
	char when[32], *text;
	time_t now = time(NULL);
	struct tm tm;

	if (!localtime_r(&now, &tm) ||
	    !strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%S%z", &tm) ||
	    asprintf(&text, "%s %s\n", when, line) < 0)
		return;
	pthread_mutex_lock(&kept_lock);
	free(kept[kept_next]);
	kept[kept_next] = text;
	kept_next = (kept_next + 1) % KEPT_LINES;
	pthread_mutex_unlock(&kept_lock);
}

char *log_last(void)
{
	char *text = NULL, *end;
	size_t size = 1;

	pthread_mutex_lock(&kept_lock);
	for (size_t i = 0; i < KEPT_LINES; i++)
		size += kept[i] ? strlen(kept[i]) : 0;
	text = malloc(size);
	end = text;
	for (size_t i = 0; text && i < KEPT_LINES; i++) {
		const char *line = kept[(kept_next + i) % KEPT_LINES];

		end = stpcpy(end, line ? line : "");
	}
	pthread_mutex_unlock(&kept_lock);
	return text;
}

/* Lines that standard error did not take; stderr_lock guards it. */
static pthread_mutex_t stderr_lock = PTHREAD_MUTEX_INITIALIZER;
static size_t lost;

/*
 * One write, so that lines of several threads do not mix; and not one that waits: a pipe
 * that nobody reads is not to hold up who reads images.  What a pipe has room for at all
 * is PIPE_BUF, which is more than this.
 */
static void write_stderr(const struct line *line)
{
	struct pollfd pollfd = {.fd = STDERR_FILENO, .events = POLLOUT};
	bool red = coloured && line->level <= LOG_ERR;
	char out[LINE_SIZE + 96];
	int size = 0;
	ssize_t n;

	pthread_mutex_lock(&stderr_lock);
	if (!poll(&pollfd, 1, 0)) {
		lost++;
	} else {
		if (lost)
			size = snprintf(out, sizeof(out),
					NAME ": (%zu lines are not here)\n", lost);
		lost = 0;
		size += snprintf(out + size, sizeof(out) - (size_t)size,
				 "%s" NAME ":%s %s\n", red ? TERMINAL_RED : "",
				 red ? TERMINAL_OFF : "", line->text);
		n = write(STDERR_FILENO, out, (size_t)size);
		(void)n;
	}
	pthread_mutex_unlock(&stderr_lock);
}

static void write_line(struct line *line)
{
	text_make_printable(line->text);
	keep(line->text);
	switch (atomic_load(&target)) {
	case TARGET_JOURNAL:
		write_journal(line);
		break;
	case TARGET_SYSLOG:
		write_syslog(line);
		break;
	case TARGET_STDERR:
		write_stderr(line);
	}
}

void log_step_level(bool more)
{
	struct line line = {.level = LOG_NOTICE, .offset = LOG_NOWHERE};
	size_t i = 0;

	while (i < ARRAY_SIZE(levels) - 1 && levels[i].level != least)
		i++;
	if (more && i < ARRAY_SIZE(levels) - 1)
		i++;
	else if (!more && i > 0)
		i--;
	least = levels[i].level;
	/* Whatever the level is: who asked for it is to see it. */
	snprintf(line.text, sizeof(line.text), "the log's level is %s now",
		 levels[i].name);
	write_line(&line);
}

void log_line(int level, const char *format, ...)
{
	struct line line = {.level = level, .offset = LOG_NOWHERE};
	va_list args;

	if (level > least)
		return;
	va_start(args, format);
	vsnprintf(line.text, sizeof(line.text), format, args);
	va_end(args);
	write_line(&line);
}

void log_image(int level, const char *image, uint64_t offset, const char *format, ...)
{
	struct line line = {.level = level, .image = image, .offset = offset};
	va_list args;

	if (level > least)
		return;
	va_start(args, format);
	vsnprintf(line.text, sizeof(line.text), format, args);
	va_end(args);
	write_line(&line);
}
