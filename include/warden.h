/* SPDX-License-Identifier: MIT */
/*
 * warden - a small process that starts the store programs and outlives the daemon.
 *
 * It is forked before the daemon has threads, so that starting a program is a fork of
 * something small, and the programs are the children of one thread that stays.  Each
 * program leads a process group of its own.  When a program ends, what is left of its
 * group is killed; when the daemon ends, in whatever way, all groups are, and the mount
 * is taken away if it is still there and nobody serves it.
 *
 * Threads: warden_spawn() may be called on any thread.
 */
#ifndef IMAGEFS_WARDEN_H
#define IMAGEFS_WARDEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct warden;

/* A running program.  Its descriptors are the caller's, close-on-exec, -1 when closed. */
struct child {
	int in; /* to its standard input; blocking */
	int out; /* from its standard output; non-blocking, as large as allowed */
	int err; /* from its standard error; non-blocking */
	int lifeline; /* child_status() reads it; closing it kills the process group */
};

#define CHILD_NONE ((struct child){-1, -1, -1, -1})

/* How programs are run. */
struct warden_options {
	const char *env; /* more variables that they get: environment.h; NULL: none */
	bool as_user; /* they are run as @uid, @gid and in @groups; needs root */
	uid_t uid;
	gid_t gid;
	gid_t *groups;
	size_t group_count;
};

/*
 * Fork the warden.  To be called before any thread exists.  @options, borrowed for the
 * call, may be NULL.  The caller owns *@ret_warden and ends it with warden_free().
 * Returns 0 or a negative errno.
 */
int warden_new(const struct warden_options *options, struct warden **ret_warden);

/* Tell the warden what to unmount, should the daemon die.  Returns 0 or an errno. */
int warden_watch_mount(struct warden *warden, const char *mountpoint);

/*
 * Run the program @argv[0], a path, with @argv, NULL at the end, and what environment.h
 * allows of the warden's environment.  It can gain no privileges (no_new_privs).  The caller owns *@ret_child and ends it with child_kill().  Does not wait
 * for the program to run: that it could not be started is seen in its status (127, with
 * a line on its standard error).  Returns 0, -E2BIG, or another negative errno.
 */
int warden_spawn(struct warden *warden, const char *const *argv, struct child *ret_child);

/*
 * The status of a program that has ended: its exit status, or 128 and the number of the
 * signal that ended it.  Waits until @deadline_ms (clock.h).  Returns the status,
 * -ETIMEDOUT, or a negative errno: -EAGAIN or -ENOMEM if it could not be forked,
 * -ECONNRESET if the warden is gone.
 */
int child_status(struct child *child, uint64_t deadline_ms);

/* Kill the process group, if it is still there, and close the descriptors. */
void child_kill(struct child *child);

/* Kill all programs and wait for the warden's end.  NULL is taken. */
void warden_free(struct warden *warden);

#endif
