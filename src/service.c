/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/statfs.h>
#include <unistd.h>

#ifdef HAVE_SYSTEMD
#include <systemd/sd-daemon.h>
#endif

#include "cleanup.h"
#include "clock.h"
#include "log.h"
#include "service.h"
#include "thread.h"

#define MORE_SIGNAL SIGUSR1
#define LESS_SIGNAL SIGUSR2

struct service {
	struct service_options options;
	int signals;
	int end_fd; /* an eventfd: the thread is to end */
	uint64_t interval_ms; /* at which the watchdog is answered; 0: there is none */
	pthread_t thread;
	struct catalog_wait wait; /* for the listing of a reload */
	struct listing *old; /* a reference to the last one before */
	atomic_bool reloading; /* the two are in use */
	atomic_bool again; /* a reload was asked for, and has not begun */
	atomic_bool ending; /* set with the lock held, as a reload begins */
	pthread_mutex_t lock;
};

#ifdef HAVE_SYSTEMD
static void notify(const char *state)
{
	sd_notify(0, state);
}

/* Half of the time after which the service manager acts. */
static uint64_t watchdog_interval_ms(void)
{
	uint64_t usec;

	return sd_watchdog_enabled(0, &usec) > 0 ? MAX(usec / 2000, (uint64_t)1) : 0;
}
#else
static void notify(const char *state)
{
}

static uint64_t watchdog_interval_ms(void)
{
	return 0;
}
#endif

void service_add_signals(sigset_t *set)
{
	sigaddset(set, MORE_SIGNAL);
	sigaddset(set, LESS_SIGNAL);
}

/* Say that the daemon is ready, and how it is. */
static void notify_ready(const struct service *service, const char *how)
{
	CLEANUP(freep) char *state = NULL;

	if (asprintf(&state, "READY=1\nSTATUS=%s is mounted on %s%s",
		     service->options.uri, service->options.mountpoint, how) < 0)
		state = NULL;
	notify(state ? state : "READY=1");
}

/* ---- reloads ---- */

/* As sd_notify(3) wants it: the time is for Type=notify-reload. */
static void notify_reloading(void)
{
	char state[64];

	snprintf(state, sizeof(state), "RELOADING=1\nMONOTONIC_USEC=%" PRIu64,
		 clock_us());
	notify(state);
}

/* Called by the catalog, maybe with the lock: it is not taken here. */
static void reload_done(struct catalog_wait *wait, int err, struct listing *listing)
{
	struct service *service = CONTAINER_OF(wait, struct service, wait);
	bool late = !err && listing == service->old;

	listing_unref(STEAL(service->old));
	if (service->ending)
		return;
	if (err)
		notify_ready(service, "; it cannot be listed");
	else
		notify_ready(service, late ? "; it has not been listed anew yet" : "");
	service->reloading = false;
	if (service->again)
		kill(getpid(), SIGHUP);
}

/* Have the store listed anew; once more, if that is under way. */
static void reload(struct service *service)
{
	pthread_mutex_lock(&service->lock);
	service->again = true;
	if (!service->ending && !atomic_exchange(&service->reloading, true)) {
		service->again = false;
		notify_reloading();
		service->old = catalog_last(service->options.catalog);
		service->wait.done = reload_done;
		catalog_expire(service->options.catalog);
		catalog_get(service->options.catalog, &service->wait);
	}
	pthread_mutex_unlock(&service->lock);
}

/* The signals that have come. */
static void take_signals(struct service *service)
{
	struct signalfd_siginfo info;

	while (read(service->signals, &info, sizeof(info)) == sizeof(info)) {
		if (info.ssi_signo == SIGHUP)
			reload(service);
		else
			log_step_level(info.ssi_signo == MORE_SIGNAL);
	}
}

/* That the mount is gone is an answer, too: the daemon is about to end. */
static void answer_watchdog(const struct service *service)
{
	struct statfs fs;

	statfs(service->options.mountpoint, &fs);
	notify("WATCHDOG=1");
}

static void *be_service(void *context)
{
	struct service *service = context;
	struct pollfd fds[] = {
		{.fd = service->signals, .events = POLLIN},
		{.fd = service->end_fd, .events = POLLIN},
	};
	uint64_t next_ms = clock_ms();

	while (!fds[1].revents) {
		int left = service->interval_ms ? clock_left_ms(next_ms) : -1;

		if (poll(fds, ARRAY_SIZE(fds), left) < 0)
			continue;
		if (fds[0].revents)
			take_signals(service);
		if (service->interval_ms && clock_ms() >= next_ms) {
			next_ms = clock_ms() + service->interval_ms;
			answer_watchdog(service);
		}
	}
	return NULL;
}

static void service_fini(struct service *service)
{
	closep(&service->signals);
	closep(&service->end_fd);
	pthread_mutex_destroy(&service->lock);
	free(service);
}

static void service_finip(struct service **service)
{
	if (*service)
		service_fini(*service);
}

int service_new(const struct service_options *options, struct service **ret_service)
{
	CLEANUP(service_finip) struct service *service = calloc(1, sizeof(*service));
	sigset_t signals;
	int ret;

	if (!service)
		return -ENOMEM;
	pthread_mutex_init(&service->lock, NULL);
	sigemptyset(&signals);
	service_add_signals(&signals);
	if (options->reload)
		sigaddset(&signals, SIGHUP);
	service->options = *options;
	service->interval_ms = watchdog_interval_ms();
	service->signals = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
	service->end_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (service->signals < 0 || service->end_fd < 0)
		return -errno;
	ret = thread_start(be_service, service, &service->thread);
	if (ret < 0)
		return ret;
	notify_ready(service, "");
	*ret_service = STEAL(service);
	return 0;
}

void service_end(struct service *service)
{
	if (!service)
		return;
	pthread_mutex_lock(&service->lock);
	service->ending = true;
	pthread_mutex_unlock(&service->lock);
	notify("STOPPING=1");
}

void service_free(struct service *service)
{
	if (!service)
		return;
	eventfd_write(service->end_fd, 1);
	pthread_join(service->thread, NULL);
	service_fini(service);
}
