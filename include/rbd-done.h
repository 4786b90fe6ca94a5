/* SPDX-License-Identifier: MIT */
/*
 * rbd-done - finished work, on its way from the threads of librados to the program's own.
 *
 * librados and librbd tell on threads of theirs that something is done.  All that follows
 * from it is done on one thread, so nothing else here needs a lock.
 */
#ifndef IMAGEFS_RBD_DONE_H
#define IMAGEFS_RBD_DONE_H

#include <pthread.h>
#include <sys/queue.h>

struct ceph_done;

/* Embedded in what @finish needs; must stay where it is until that is called. */
struct ceph_work {
	STAILQ_ENTRY(ceph_work) link;
	struct ceph_done *done;
	void (*finish)(struct ceph_work *work); /* called on the program's own thread */
	void *owner; /* whatever @finish needs */
};

STAILQ_HEAD(ceph_works, ceph_work);

struct ceph_done {
	pthread_mutex_t lock; /* guards @works */
	struct ceph_works works;
	int fd; /* readable while there are works */
};

/* Returns 0 or a negative errno. */
int ceph_done_init(struct ceph_done *done);

/* No work may be under way any more. */
void ceph_done_fini(struct ceph_done *done);

/* @work is done: on any thread, does not block. */
void ceph_done_put(struct ceph_work *work);

/* Finish all works that are done. */
void ceph_done_run(struct ceph_done *done);

/* Wait till one is done, for ever if need be, and finish all that are. */
void ceph_done_wait(struct ceph_done *done);

#endif
