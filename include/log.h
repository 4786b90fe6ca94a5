/* SPDX-License-Identifier: MIT */
/*
 * log - lines for whoever runs the mount: to standard error in the foreground, to
 * syslog(3) otherwise.  Any thread may log.
 */
#ifndef IMAGEFS_LOG_H
#define IMAGEFS_LOG_H

#include <stdbool.h>
#include <syslog.h>

/* From here on log to syslog(3), facility daemon. */
void log_to_syslog(void);

/* Whether lines of LOG_DEBUG are written; they are not at first. */
void log_set_debug(bool on);

/* The last lines, with their times, for the caller to free, or NULL without memory. */
char *log_last(void);

/*
 * Write one line of @level (LOG_ERR, LOG_WARNING, LOG_INFO or LOG_DEBUG).  Bytes that a
 * terminal would act on are written as '?': names and texts of stores may be passed.
 */
void log_line(int level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
