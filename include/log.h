/* SPDX-License-Identifier: MIT */
/*
 * log - lines for whoever runs the mount: to standard error in the foreground; to the
 * journal, where the store, the image and the place in it are fields of their own (STORE,
 * IMAGE, OFFSET), when standard error goes there or in the background; else to syslog(3).
 * Any thread may log.
 */
#ifndef IMAGEFS_LOG_H
#define IMAGEFS_LOG_H

#include <stdbool.h>
#include <stdint.h>
#include <syslog.h>

#define LOG_NOWHERE UINT64_MAX /* no place in an image */

/* If standard error is the journal's (JOURNAL_STREAM, systemd.exec(5)), log there. */
void log_open(void);

/* From here on log to the journal, or where there is none to syslog(3). */
void log_to_system(void);

/* What the lines are about: a copy is kept.  Called before there are threads. */
void log_set_store(const char *uri);

/*
 * The least important lines that are written: LOG_WARNING, LOG_INFO (at first) or
 * LOG_DEBUG.
 */
void log_set_level(int level);

/* Go on to the next of these that tells @more or less, if any; a line says which it is. */
void log_step_level(bool more);

/* The last lines, with their times, for the caller to free, or NULL without memory. */
char *log_last(void);

/*
 * Write one line of @level (LOG_ERR, LOG_WARNING, LOG_INFO or LOG_DEBUG).  Bytes that a
 * terminal would act on are written as '?': names and texts of stores may be passed.
 */
void log_line(int level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/*
 * The same of what happened to an image, called @image by its store, at the byte @offset
 * or LOG_NOWHERE.  The text says it, too.
 */
void log_image(int level, const char *image, uint64_t offset, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

#endif
