/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
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

#define LEVEL_SIGNAL SIGUSR2

struct service {
	const char *mountpoint;
	int signals;
	int end_fd; /* an eventfd: the thread is to end */
	uint64_t interval_ms; /* at which the watchdog is answered; 0: there is none */
	pthread_t thread;
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
	sigaddset(set, LEVEL_SIGNAL);
}

/* The signals that have come. */
static void take_signals(const struct service *service)
{
	struct signalfd_siginfo info;

	while (read(service->signals, &info, sizeof(info)) == sizeof(info))
		log_next_level();
}

/* That the mount is gone is an answer, too: the daemon is about to end. */
static void answer_watchdog(const struct service *service)
{
	struct statfs fs;

	statfs(service->mountpoint, &fs);
	notify("WATCHDOG=1");
}

static void *be_service(void *context)
{
	const struct service *service = context;
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
	free(service);
}

static void service_finip(struct service **service)
{
	if (*service)
		service_fini(*service);
}

int service_new(const char *mountpoint, const char *uri, struct service **ret_service)
{
	CLEANUP(service_finip) struct service *service = calloc(1, sizeof(*service));
	CLEANUP(freep) char *state = NULL;
	sigset_t signals;
	int ret;

	if (!service)
		return -ENOMEM;
	sigemptyset(&signals);
	service_add_signals(&signals);
	service->mountpoint = mountpoint;
	service->interval_ms = watchdog_interval_ms();
	service->signals = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
	service->end_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (service->signals < 0 || service->end_fd < 0)
		return -errno;
	ret = thread_start(be_service, service, &service->thread);
	if (ret < 0)
		return ret;
	if (asprintf(&state, "READY=1\nSTATUS=%s is mounted on %s", uri, mountpoint) < 0)
		state = NULL;
	notify(state ? state : "READY=1");
	*ret_service = STEAL(service);
	return 0;
}

void service_end(struct service *service)
{
	if (service)
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
