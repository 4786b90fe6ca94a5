/* SPDX-License-Identifier: MIT */
/*
 * rbd-queue - what is being read, between the thread that takes asks and the one that
 * writes answers.
 *
 * It is made of segments, each a run of zeros or a piece of an object, in the order of
 * asking whichever ask they belong to.  Both may wait for each other.
 *
 * Threads: one puts, another takes; either may stop it.
 */
#ifndef IMAGEFS_RBD_QUEUE_H
#define IMAGEFS_RBD_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

#include "rbd-piece.h"

struct ceph_segment {
	uint64_t length;
	bool has_piece; /* else zeros */
	struct ceph_piece piece;
};

struct ceph_queue;

/* The caller frees *@ret_queue with ceph_queue_free().  Returns 0 or a negative errno. */
int ceph_queue_new(struct ceph_queue **ret_queue);

/* Waits for all pieces in it.  NULL is taken. */
void ceph_queue_free(struct ceph_queue *queue);

/* ---- who puts ---- */

/*
 * Wait for room.  Returns the segment to be filled, whose piece has a buffer, for
 * ceph_queue_put(); or NULL if the queue was stopped.
 */
struct ceph_segment *ceph_queue_room(struct ceph_queue *queue);

/* Put the segment, filled and with its piece begun, at the tail. */
void ceph_queue_put(struct ceph_queue *queue);

/* Wait till all that was put is taken.  Returns false if the queue was stopped. */
bool ceph_queue_drained(struct ceph_queue *queue);

/* Nothing more will be put. */
void ceph_queue_end(struct ceph_queue *queue);

/* ---- who takes ---- */

/*
 * The segment @place behind the head.  For place 0 waits till there is one; else, and at
 * the end of all, NULL if there is none.
 */
struct ceph_segment *ceph_queue_at(struct ceph_queue *queue, size_t place);

/* Note which pieces are done. */
void ceph_queue_look(struct ceph_queue *queue);

/* Take the head off.  Its buffer, if it has a piece, is the caller's until given back. */
void ceph_queue_take(struct ceph_queue *queue);
void ceph_queue_give_back(struct ceph_queue *queue, char *buffer);

/* ---- either ---- */

/* It is over: who waits to put returns, and wakes when this is readable. */
void ceph_queue_stop(struct ceph_queue *queue);
int ceph_queue_stop_fd(const struct ceph_queue *queue);

#endif
