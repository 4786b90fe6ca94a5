/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <sys/eventfd.h>

#include "cleanup.h"
#include "rbd-done.h"

int ceph_done_init(struct ceph_done *done)
{
	done->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (done->fd < 0)
		return -errno;
	pthread_mutex_init(&done->lock, NULL);
	STAILQ_INIT(&done->works);
	return 0;
}

void ceph_done_fini(struct ceph_done *done)
{
	pthread_mutex_destroy(&done->lock);
	closep(&done->fd);
}

void ceph_done_put(struct ceph_work *work)
{
	struct ceph_done *done = work->done;
	bool is_first;

	pthread_mutex_lock(&done->lock);
	is_first = STAILQ_EMPTY(&done->works);
	STAILQ_INSERT_TAIL(&done->works, work, link);
	pthread_mutex_unlock(&done->lock);
	if (is_first)
		(void)eventfd_write(done->fd, 1);
}

void ceph_done_run(struct ceph_done *done)
{
	struct ceph_works works = STAILQ_HEAD_INITIALIZER(works);
	struct ceph_work *work;
	eventfd_t count;

	/* Before the works are taken, so that whoever puts one then is not missed. */
	(void)eventfd_read(done->fd, &count);
	pthread_mutex_lock(&done->lock);
	STAILQ_CONCAT(&works, &done->works);
	pthread_mutex_unlock(&done->lock);
	while ((work = STAILQ_FIRST(&works))) {
		STAILQ_REMOVE_HEAD(&works, link);
		work->finish(work);
	}
}

void ceph_done_wait(struct ceph_done *done)
{
	struct pollfd pollfd = {.fd = done->fd, .events = POLLIN};

	while (poll(&pollfd, 1, -1) < 0 && errno == EINTR)
		;
	ceph_done_run(done);
}
