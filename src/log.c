/* SPDX-License-Identifier: MIT */
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "log.h"
#include "text.h"

#define LINE_SIZE 2048
#define KEPT_LINES 200

/* The last lines; kept_lock guards them. */
static pthread_mutex_t kept_lock = PTHREAD_MUTEX_INITIALIZER;
static char *kept[KEPT_LINES];
static size_t kept_next;

static atomic_bool use_syslog;
static atomic_bool debug;

void log_to_syslog(void)
{
	openlog("imagefs", LOG_PID, LOG_DAEMON);
	use_syslog = true;
}

void log_set_debug(bool on)
{
	debug = on;
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

void log_line(int level, const char *format, ...)
{
	static const char prefix[] = "imagefs: ";
	char line[LINE_SIZE];
	size_t size = sizeof(prefix) - 1;
	va_list args;
	ssize_t n;

	if (level == LOG_DEBUG && !debug)
		return;
	memcpy(line, prefix, sizeof(prefix));
	va_start(args, format);
	vsnprintf(line + size, sizeof(line) - size - 1, format, args);
	va_end(args);
	text_make_printable(line);
	keep(line + size);
	if (use_syslog) {
		syslog(level, "%s", line + size);
		return;
	}
	size = strlen(line);
	line[size++] = '\n';
	/* One write, so that lines of several threads do not mix. */
	n = write(STDERR_FILENO, line, size);
	(void)n;
}
