/* SPDX-License-Identifier: MIT */
/*
 * quiet - makes the lines of the log, and drops them.
 */
#include <stdarg.h>
#include <stdio.h>

#include "log.h"
#include "text.h"

#define LINE_SIZE 2048

static void make(const char *format, va_list args)
{
	char line[LINE_SIZE];

	vsnprintf(line, sizeof(line), format, args);
	text_make_printable(line);
}

void log_line(int level, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	make(format, args);
	va_end(args);
}

void log_image(int level, const char *image, uint64_t offset, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	make(format, args);
	va_end(args);
}
