/* SPDX-License-Identifier: MIT */
/*
 * cleanup - locals that free themselves, in the manner of systemd's and GLib's.
 *
 *	CLEANUP(freep) char *text = strdup(…);
 *	…
 *	return STEAL(text);
 */
#ifndef IMAGEFS_CLEANUP_H
#define IMAGEFS_CLEANUP_H

#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

#define CLEANUP(fn) __attribute__((cleanup(fn)))

/* The value of the pointer @p, which no longer owns it. */
#define STEAL(p)                             \
	__extension__({                      \
		__typeof__(p) stolen_ = (p); \
		(p) = NULL;                  \
		stolen_;                     \
	})

/* The same for a descriptor. */
#define STEAL_FD(fd)                \
	__extension__({             \
		int stolen_ = (fd); \
		(fd) = -1;          \
		stolen_;            \
	})

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* The struct @type whose member @member is at @p. */
#define CONTAINER_OF(p, type, member) ((type *)((char *)(p)-offsetof(type, member)))

#define MIN(a, b)                     \
	__extension__({               \
		__auto_type a_ = (a); \
		__auto_type b_ = (b); \
		a_ < b_ ? a_ : b_;    \
	})

#define MAX(a, b)                     \
	__extension__({               \
		__auto_type a_ = (a); \
		__auto_type b_ = (b); \
		a_ > b_ ? a_ : b_;    \
	})

static inline void freep(void *p)
{
	free(*(void **)p);
}

/* Close *@fd unless it is negative, and make it so. */
static inline void closep(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

#endif
