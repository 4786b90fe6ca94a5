/* SPDX-License-Identifier: MIT */
/*
 * terminal - what is shown in colours, and where.
 */
#ifndef IMAGEFS_TERMINAL_H
#define IMAGEFS_TERMINAL_H

#include <stdbool.h>

#define TERMINAL_BOLD "\x1b[1m"
#define TERMINAL_RED "\x1b[31m"
#define TERMINAL_GREEN "\x1b[32m"
#define TERMINAL_YELLOW "\x1b[33m"
#define TERMINAL_OFF "\x1b[0m"

/* Whether @fd is a terminal of somebody who wants colours (https://no-color.org). */
bool terminal_has_colours(int fd);

#endif
