/* SPDX-License-Identifier: MIT */
#include <signal.h>

#include "thread.h"

#define SMALL_STACK (256 << 10)

int thread_start(void *(*run)(void *), void *context, pthread_t *ret_thread)
{
	pthread_t thread;
	pthread_attr_t attr;
	sigset_t all, old;
	int err;

	pthread_attr_init(&attr);
	if (!ret_thread) {
		pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
		pthread_attr_setstacksize(&attr, SMALL_STACK);
	}
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = pthread_create(ret_thread ? ret_thread : &thread, &attr, run, context);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	return -err;
}
