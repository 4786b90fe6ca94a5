/* SPDX-License-Identifier: MIT */
/*
 * service - the daemon while it serves, as its operators have hold of it: a thread that
 * takes their signals and answers the service manager's watchdog (sd_notify(3)).
 *
 * SIGUSR2 goes on to the next level of the log.
 *
 * The watchdog is answered as long as the mount answers statfs(2), which no store has a
 * part in: when it does not, none of the threads takes requests any more.
 */
#ifndef IMAGEFS_SERVICE_H
#define IMAGEFS_SERVICE_H

#include <signal.h>

struct service;

/* Add the signals that the thread takes: they are to be blocked in all threads. */
void service_add_signals(sigset_t *set);

/*
 * The mount at @mountpoint, which is borrowed, is ready: say so, and start the thread.
 * @uri is for people.  The caller owns *@ret_service.  Returns 0 or a negative errno.
 */
int service_new(const char *mountpoint, const char *uri, struct service **ret_service);

/* The end has begun: say so. */
void service_end(struct service *service);

/*
 * End the thread, which may wait for the mount: to be called when it is no longer there.
 * NULL is taken, by both.
 */
void service_free(struct service *service);

#endif
