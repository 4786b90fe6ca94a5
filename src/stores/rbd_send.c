/* SPDX-License-Identifier: MIT */
/*
 * rbd-send - write the answers: the queue's head, when it is there and known to be right.
 *
 * A pipe is lent the pages of large pieces instead of being given a copy (measured: 1.15
 * times the rate through a mount, where it is the processor that limits).  They are used
 * again when as many bytes as it holds were written after them: whoever reads has read
 * them then.  Somebody who moves pages on from pipe to pipe (splice(2)) would still have
 * them; so it is done for imagefs only, which does not.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "cleanup.h"
#include "imagefs-store.h"
#include "pipe.h"
#include "rbd-send.h"
#include "serve.h"

#define PARTS 16 /* pieces that are written at once */
#define LEND_BYTES ((uint64_t)64 << 10) /* pieces of so many are not copied to a pipe */
#define LOANS 64

/* A buffer that is free when so many bytes were written. */
struct loan {
	char *buffer;
	uint64_t until;
};

struct sending {
	struct ceph_queue *queue;
	struct ceph_guard **guard;
	int status; /* STORE_OK, or what to exit with: it was said why */
	bool is_unread; /* nobody reads any more */
	size_t pipe_bytes; /* that the pipe holds; 0: what is written to is none */
	bool may_lend;
	uint64_t written; /* bytes, in all */
	int64_t last_ns; /* when the last of them were */
	struct loan loans[LOANS]; /* those that the pipe has, a ring from first_loan */
	size_t first_loan;
	size_t loan_count;
};

/* Give back the buffers that the pipe cannot have any more. */
static void end_loans(struct sending *sending)
{
	while (sending->loan_count > 0) {
		struct loan *loan = &sending->loans[sending->first_loan];

		if (sending->written < loan->until)
			break;
		ceph_queue_give_back(sending->queue, loan->buffer);
		sending->first_loan = (sending->first_loan + 1) % LOANS;
		sending->loan_count--;
	}
}

static void lend(struct sending *sending, char *buffer)
{
	size_t place = (sending->first_loan + sending->loan_count++) % LOANS;

	sending->loans[place] = (struct loan){
		.buffer = buffer,
		.until = sending->written + sending->pipe_bytes,
	};
}

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

/* Write all @parts, or lend them to the pipe.  Returns whether that was done. */
static bool write_parts(struct sending *sending, struct iovec *parts, int count,
			bool is_lent)
{
	while (count > 0) {
		ssize_t written = is_lent ? vmsplice(STDOUT_FILENO, parts, count, 0)
					  : writev(STDOUT_FILENO, parts, count);

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

	if (!segment->has_piece || segment->length >= LEND_BYTES)
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
	bool is_lent = sending->may_lend && head->length >= LEND_BYTES;
	int count = 0;

	await(sending, &head->piece);
	if (sending->status != STORE_OK)
		return;
	do {
		buffers[count] = segment->piece.buffer;
		parts[count] = (struct iovec){buffers[count], segment->piece.length};
		segment = ceph_queue_at(sending->queue, ++count);
	} while (head->length < LEND_BYTES && count < PARTS && segment &&
		 is_ready(sending, segment));
	if (!write_parts(sending, parts, count, is_lent))
		return;
	for (int i = 0; i < count; i++) {
		ceph_queue_take(sending->queue);
		if (is_lent)
			lend(sending, buffers[i]);
		else
			ceph_queue_give_back(sending->queue, buffers[i]);
	}
	end_loans(sending);
}

int ceph_send(struct ceph_queue *queue, struct ceph_guard **guard)
{
	struct sending sending = {
		.queue = queue,
		.guard = guard,
		.status = STORE_OK,
		.pipe_bytes = pipe_enlarge(STDOUT_FILENO, PIPE_BYTES),
	};
	struct ceph_segment *segment;

	sending.may_lend = sending.pipe_bytes > 0 && getenv("IMAGEFS_STORE_PROTOCOL");
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
