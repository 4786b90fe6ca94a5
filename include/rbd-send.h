/* SPDX-License-Identifier: MIT */
/*
 * rbd-send - write the answers: the queue's head, when it is there and known to be right.
 */
#ifndef IMAGEFS_RBD_SEND_H
#define IMAGEFS_RBD_SEND_H

#include "rbd-guard.h"
#include "rbd-queue.h"

/*
 * Send all that is put into @queue to standard output, till its end or till it is stopped;
 * and see that it was right.  *@guard may be replaced while the queue is
 * empty; it is NULL if that failed.  Returns
 * STORE_OK, also if nobody reads any more; or the status to exit with, having said why.
 */
int ceph_send(struct ceph_queue *queue, struct ceph_guard **guard);

#endif
