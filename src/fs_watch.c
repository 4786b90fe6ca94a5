/* SPDX-License-Identifier: MIT */
/*
 * fs_watch - requests that are looked at again from time to time, until they are answered.
 *
 * The kernel says once that a request is interrupted, for whatever signal, and also where
 * io_uring has something to do for the task and no signal came at all.  Nobody expects
 * EINTR of a file for that.  So it is given only to who was told to end; for the others it
 * is watched whether that comes later.
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "cleanup.h"
#include "clock.h"
#include "fs-session.h"
#include "thread.h"

#define STATUS_SIZE 4096
#define BIT(number) (UINT64_C(1) << ((number)-1))

/* What people end programs with, who may have a handler for it that waits for EINTR. */
#define ENDING (BIT(SIGHUP) | BIT(SIGINT) | BIT(SIGQUIT) | BIT(SIGTERM))

/* What does nothing to a program that does not handle it, or stops it. */
#define HARMLESS                                                                    \
	(BIT(SIGCHLD) | BIT(SIGCONT) | BIT(SIGURG) | BIT(SIGWINCH) | BIT(SIGSTOP) | \
	 BIT(SIGTSTP) | BIT(SIGTTIN) | BIT(SIGTTOU))

/* A line of /proc/PID/status: the signals of a set. */
static uint64_t signals_of(const char *status, const char *name)
{
	const char *line = strstr(status, name);
	uint64_t set = 0;

	if (line)
		set = strtoull(line + strlen(name), NULL, 16);
	return set;
}

bool fs_is_told_to_end(pid_t pid)
{
	char path[64], status[STATUS_SIZE];
	uint64_t pending, caught;
	FILE *file;
	size_t size;

	/* It is in no name space that we can see. */
	if (!pid)
		return true;
	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	file = fopen(path, "re");
	if (!file)
		return errno == ENOENT;
	size = fread(status, 1, sizeof(status) - 1, file);
	fclose(file);
	status[size] = '\0';
	pending = signals_of(status, "\nSigPnd:") | signals_of(status, "\nShdPnd:");
	if (pending & BIT(SIGKILL))
		return true;
	pending &= ~(signals_of(status, "\nSigBlk:") | signals_of(status, "\nSigIgn:"));
	caught = signals_of(status, "\nSigCgt:");
	return pending & ((caught & ENDING) | ~(caught | HARMLESS));
}

/* ---- the thread ---- */

/* Look at all that is due.  Called with the lock.  Returns when the next is (clock.h). */
static uint64_t look_at_all(struct watch *watch)
{
	uint64_t now = clock_ms(), next_ms = UINT64_MAX;
	struct watched *watched, *next;

	for (watched = LIST_FIRST(&watch->list); watched; watched = next) {
		next = LIST_NEXT(watched, link);
		if (watched->due_ms <= now) {
			LIST_REMOVE(watched, link);
			watched->is_watched = false;
			if (watched->look(watched))
				continue;
			watched->due_ms = now + watched->every_ms;
			watched->is_watched = true;
			LIST_INSERT_HEAD(&watch->list, watched, link);
		}
		next_ms = MIN(next_ms, watched->due_ms);
	}
	return next_ms;
}

static void *be_watch(void *context)
{
	struct watch *watch = context;

	pthread_mutex_lock(&watch->lock);
	while (!watch->ending) {
		uint64_t next_ms = look_at_all(watch);

		if (next_ms == UINT64_MAX)
			pthread_cond_wait(&watch->wanted, &watch->lock);
		else
			cond_wait_until(&watch->wanted, &watch->lock, next_ms);
	}
	pthread_mutex_unlock(&watch->lock);
	return NULL;
}

int watch_init(struct watch *watch)
{
	LIST_INIT(&watch->list);
	pthread_mutex_init(&watch->lock, NULL);
	cond_init(&watch->wanted);
	watch->ending = false;
	return thread_start(be_watch, watch, &watch->thread);
}

void watch_end(struct watch *watch)
{
	struct watched *watched;
	bool ended;

	pthread_mutex_lock(&watch->lock);
	ended = watch->ending;
	watch->ending = true;
	pthread_cond_signal(&watch->wanted);
	pthread_mutex_unlock(&watch->lock);
	if (ended)
		return;
	pthread_join(watch->thread, NULL);
	pthread_mutex_lock(&watch->lock);
	while ((watched = LIST_FIRST(&watch->list))) {
		LIST_REMOVE(watched, link);
		watched->is_watched = false;
		if (watched->end)
			watched->end(watched);
	}
	pthread_mutex_unlock(&watch->lock);
}

void watch_fini(struct watch *watch)
{
	pthread_cond_destroy(&watch->wanted);
	pthread_mutex_destroy(&watch->lock);
}

void watch_add(struct watch *watch, struct watched *watched)
{
	pthread_mutex_lock(&watch->lock);
	watched->due_ms = clock_ms() + watched->every_ms;
	LIST_INSERT_HEAD(&watch->list, watched, link);
	watched->is_watched = true;
	pthread_cond_signal(&watch->wanted);
	pthread_mutex_unlock(&watch->lock);
}

void watch_remove(struct watch *watch, struct watched *watched)
{
	pthread_mutex_lock(&watch->lock);
	if (watched->is_watched)
		LIST_REMOVE(watched, link);
	watched->is_watched = false;
	pthread_mutex_unlock(&watch->lock);
}
