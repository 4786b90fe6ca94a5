/* SPDX-License-Identifier: MIT */
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "log.h"
#include "text.h"

#define LINE_SIZE 2048

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
