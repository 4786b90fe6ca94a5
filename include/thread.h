/* SPDX-License-Identifier: MIT */
/*
 * thread - threads on which no signal lands, whatever the thread that starts them takes.
 */
#ifndef IMAGEFS_THREAD_H
#define IMAGEFS_THREAD_H

#include <pthread.h>

/*
 * Run @run with @context on a thread with all signals blocked: one to be joined, or, if
 * @ret_thread is NULL, a detached one with a small stack.  Returns 0 or a negative errno.
 */
int thread_start(void *(*run)(void *), void *context, pthread_t *ret_thread);

#endif
