/* SPDX-License-Identifier: MIT */
/*
 * rbd-send - write the answers: the queue's head, when it is there and known to be right.
 *
 * The pipe is given a copy.  Its pages may be moved on (splice(2)), as imagefs does, so to
 * lend it ours (vmsplice(2)) would need somebody to tell when they are free again; and it
 * gains next to nothing (measured: 1.01 times the rate through a mount).
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "cleanup.h"
#include "imagefs-store.h"
#include "pipe.h"
#include "rbd-send.h"
#include "serve.h"

#define PARTS 16 /* pieces that are written at once */
#define LARGE_BYTES ((uint64_t)64 << 10) /* a piece of so many is written by itself */

struct sending {
	struct ceph_queue *queue;
	struct ceph_guard **guard;
	int status; /* STORE_OK, or what to exit with: it was said why */
	bool is_unread; /* nobody reads any more */
	uint64_t written; /* bytes, in all */
	int64_t last_ns; /* when the last of them were */
};

/* Writing failed with @error.  Returns whether to try again. */
static bool try_again(struct sending *sending, int error)
{
	struct pollfd out = {.fd = STDOUT_FILENO, .events = POLLOUT};

	if (error == EINTR)
		return true;
	if (error == EAGAIN)
		return poll(&out, 1, -1) >= 0 || errno == EINTR;
	if (error == EPIPE) {
		sending->is_unread = true;
	} else {
		store_error("cannot write the answer: %s", strerror(error));
		sending->status = STORE_IO;
	}
	return false;
}

/* Write all @parts.  Returns whether that was done. */
static bool write_parts(struct sending *sending, struct iovec *parts, int count)
{
	while (count > 0) {
		ssize_t written = writev(STDOUT_FILENO, parts, count);

		if (written < 0 && !try_again(sending, errno))
			return false;
		if (written <= 0)
			continue;
		sending->written += written;
		for (; count > 0 && (size_t)written >= parts->iov_len; parts++, count--)
			written -= parts->iov_len;
		if (count > 0) {
			parts->iov_base = (char *)parts->iov_base + written;
			parts->iov_len -= written;
		}
	}
	sending->last_ns = ceph_now_ns();
	return true;
}

static void send_zeros(struct sending *sending, const struct ceph_segment *segment)
{
	int error = write_zeros(STDOUT_FILENO, segment->length);

	if (error < 0) {
		(void)try_again(sending, -error);
		return;
	}
	sending->written += segment->length;
	sending->last_ns = ceph_now_ns();
	ceph_queue_take(sending->queue);
}

/* Wait for the piece at the head, and till it is known to be right. */
static void await(struct sending *sending, struct ceph_piece *piece)
{
	ceph_piece_wait(piece);
	/* That the version is gone may be why, and says more. */
	if (piece->error < 0 && piece->error != -ETIMEDOUT)
		sending->status = ceph_guard_wait(*sending->guard, piece->done_ns, true);
	if (piece->error < 0 && sending->status == STORE_OK)
		sending->status = ceph_image_fail(piece->image, "read", piece->error);
	if (sending->status != STORE_OK)
		return;
	if (ceph_guard_knows(*sending->guard, piece->done_ns, piece->is_void))
		return;
	/* One check does for all that is there before it begins. */
	ceph_queue_look(sending->queue);
	sending->status =
		ceph_guard_wait(*sending->guard, piece->done_ns, piece->is_void);
}

/* Whether @segment can be sent together with those before it, without waiting. */
static bool is_ready(struct sending *sending, struct ceph_segment *segment)
{
	struct ceph_piece *piece = &segment->piece;

	if (!segment->has_piece || segment->length >= LARGE_BYTES)
		return false;
	ceph_piece_look(piece);
	if (piece->done_ns == 0)
		return false;
	ceph_piece_wait(piece);
	return piece->error == 0 &&
	       ceph_guard_knows(*sending->guard, piece->done_ns, piece->is_void);
}

/* Send the piece at the head, and small ones behind it that are there as well. */
static void send_pieces(struct sending *sending, struct ceph_segment *head)
{
	struct ceph_segment *segment = head;
	struct iovec parts[PARTS];
	char *buffers[PARTS];
	int count = 0;

	await(sending, &head->piece);
	if (sending->status != STORE_OK)
		return;
	do {
		buffers[count] = segment->piece.buffer;
		parts[count] = (struct iovec){buffers[count], segment->piece.length};
		segment = ceph_queue_at(sending->queue, ++count);
	} while (head->length < LARGE_BYTES && count < PARTS && segment &&
		 is_ready(sending, segment));
	if (!write_parts(sending, parts, count))
		return;
	for (int i = 0; i < count; i++) {
		ceph_queue_take(sending->queue);
		ceph_queue_give_back(sending->queue, buffers[i]);
	}
}

int ceph_send(struct ceph_queue *queue, struct ceph_guard **guard)
{
	struct sending sending = {
		.queue = queue,
		.guard = guard,
		.status = STORE_OK,
	};
	struct ceph_segment *segment;

	pipe_enlarge(STDOUT_FILENO, PIPE_BYTES);
	while (sending.status == STORE_OK && !sending.is_unread &&
	       (segment = ceph_queue_at(queue, 0))) {
		if (segment->has_piece)
			send_pieces(&sending, segment);
		else
			send_zeros(&sending, segment);
	}
	/* All was right if nothing has changed since it was written. */
	if (sending.status == STORE_OK && !sending.is_unread && sending.written > 0 &&
	    *guard)
		sending.status = ceph_guard_wait(*guard, sending.last_ns, true);
	return sending.status;
}
