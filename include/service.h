/* SPDX-License-Identifier: MIT */
/*
 * service - the daemon while it serves, as its operators have hold of it: a thread that
 * takes their signals and answers the service manager's watchdog (sd_notify(3)).
 *
 * SIGUSR1 has the log tell more, SIGUSR2 less.  SIGHUP, where it is to reload, has the
 * store listed anew: the manager is told when that begins and when it is done, or after
 * a grace (catalog.h), with a status that says which.
 *
 * The watchdog is answered as long as the mount answers statfs(2), which no store has a
 * part in: when it does not, none of the threads takes requests any more.
 */
#ifndef IMAGEFS_SERVICE_H
#define IMAGEFS_SERVICE_H

#include <signal.h>

#include "catalog.h"

struct service;

/* All are borrowed, and outlive the service but for the catalog. */
struct service_options {
	const char *mountpoint;
	const char *uri; /* for people */
	struct catalog *catalog; /* until service_end() */
	bool reload; /* on SIGHUP */
};

/* Add the signals that the thread takes: they are to be blocked in all threads. */
void service_add_signals(sigset_t *set);

/*
 * The mount is ready: say so, and start the thread.  The caller owns *@ret_service, and
 * ends the catalog before it frees it.  Returns 0 or a negative errno.
 */
int service_new(const struct service_options *options, struct service **ret_service);

/* The end has begun: say so.  Nothing is reloaded from here on. */
void service_end(struct service *service);

/*
 * End the thread, which may wait for the mount: to be called when it is no longer there.
 * NULL is taken, by both.
 */
void service_free(struct service *service);

#endif
