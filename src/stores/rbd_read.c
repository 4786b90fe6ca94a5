/* SPDX-License-Identifier: MIT */
/*
 * rbd-read - answer asks: many reads under way, the answers in order.
 *
 * Asks are cut into segments, each a run of zeros or a piece of one object.  The segments
 * are a queue: they are planned at its tail, as far as there is room, whichever ask they
 * belong to; their pieces are read in any order; and they are written from its head, as
 * far as they have come and the guard lets them.
 *
 * An image itself may be written to meanwhile.  Each ask is answered with what is there
 * when it comes or later: what the object map said before is only good for a run of zeros
 * if it says so still.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "cleanup.h"
#include "imagefs-store.h"
#include "rbd-guard.h"
#include "rbd-piece.h"
#include "rbd-store.h"
#include "serve.h"

#define BUFFERS 64
#define SEGMENTS 128
#define WINDOW_BYTES (8 * CEPH_PIECE_BYTES) /* under way or not yet written, at most */
#define ZEROS_BYTES ((size_t)256 << 10)
#define PARTS 16 /* that are written at once */
#define WRITE_AT_ONCE ((ssize_t)4 << 20) /* before the others have their turn */
#define MAP_BYTES ((uint64_t)4 << 20) /* for an ask of so many the map is read anew */
#define MAP_NS INT64_C(1000000000) /* and in a long one so often */

struct segment {
	uint64_t length;
	uint64_t sent;
	bool has_piece; /* else zeros */
	struct ceph_piece piece;
};

struct serving {
	struct ceph_image *image;
	struct ceph_done done;
	struct ceph_guard guard;
	int status; /* STORE_OK, or what to exit with: it was said why */
	struct asks asks;
	struct ask ask; /* what is left of it to be planned; length 0: none */
	uint64_t ask_length; /* all of it */
	int64_t ask_ns; /* when it came */
	int64_t last_ns; /* when the last bytes were written; 0: there were none */
	bool has_ended; /* nothing more will be asked */
	bool is_blocked; /* nothing more can be written now */
	bool is_pipe; /* what is written to */

	struct segment segments[SEGMENTS]; /* from head, as many as count */
	size_t head;
	size_t count;
	size_t under_way; /* pieces */
	size_t window; /* bytes of all pieces */
	char *buffers[BUFFERS]; /* those that are free */
	size_t free_buffers;
};

static struct segment *segment_at(struct serving *serving, size_t place)
{
	return &serving->segments[(serving->head + place) % SEGMENTS];
}

/* ---- planning ---- */

static bool has_room(const struct serving *serving)
{
	return serving->count < SEGMENTS && serving->free_buffers > 0 &&
	       serving->window < WINDOW_BYTES;
}

static void piece_finished(struct ceph_piece *piece)
{
	struct serving *serving = piece->owner;

	serving->under_way--;
	if (piece->error < 0 && serving->status == STORE_OK)
		serving->status =
			ceph_image_fail(piece->image, "cannot read", piece->error);
}

/* Put @length bytes from @offset at the tail of the queue. */
static void plan_piece(struct serving *serving, uint64_t offset, size_t length)
{
	struct segment *segment = segment_at(serving, serving->count++);
	const struct ceph_header *header = &serving->image->header;
	bool is_inherited =
		offset < header->overlap && header->parent.pool >= 0 &&
		!ceph_guard_may_exist(&serving->guard, offset >> header->order);

	*segment = (struct segment){
		.length = length,
		.has_piece = true,
		.piece =
			{
				.work.done = &serving->done,
				.image = serving->image,
				.offset = offset,
				.length = length,
				.buffer = serving->buffers[--serving->free_buffers],
				.finish = piece_finished,
				.owner = serving,
			},
	};
	serving->window += length;
	serving->under_way++;
	ceph_guard_prepare(&serving->guard);
	ceph_piece_read(&segment->piece, is_inherited);
}

static void plan_zeros(struct serving *serving, uint64_t length)
{
	if (serving->count > 0) {
		struct segment *last = segment_at(serving, serving->count - 1);

		if (!last->has_piece) {
			last->length += length;
			return;
		}
	}
	*segment_at(serving, serving->count++) = (struct segment){.length = length};
}

/*
 * The maps that the image was opened with have a hole from @offset to @end.  See whether
 * it still is one, of an image that may be written to.  Returns 0, with where it ends in
 * *@ret_end, which is @offset if it has to be asked for; or -EAGAIN if that is not known.
 */
static int check_hole(struct serving *serving, uint64_t offset, uint64_t end,
		      uint64_t *ret_end)
{
	unsigned order = serving->image->header.order;
	int64_t now_ns = ceph_now_ns();
	int64_t since_ns = MAX(serving->ask_ns, now_ns - MAP_NS);

	*ret_end = end;
	if (serving->image->snap != CEPH_HEAD)
		return 0;
	if (serving->guard.map_ns < since_ns && serving->ask_length < MAP_BYTES) {
		*ret_end = offset;
		return 0;
	}
	if (!ceph_guard_map(&serving->guard, since_ns))
		return -EAGAIN;
	while (offset < end && !ceph_guard_may_exist(&serving->guard, offset >> order))
		offset = ((offset >> order) + 1) << order;
	*ret_end = MIN(offset, end);
	return 0;
}

/* Plan the next segment of the ask.  Returns 0, or -EAGAIN if it has to wait. */
static int plan(struct serving *serving)
{
	struct ask *ask = &serving->ask;
	uint64_t end = ask->offset + ask->length, hole_end = ask->offset;
	uint64_t run_end;

	if (!ceph_layers_find(&serving->image->layers, ask->offset, end, &run_end)) {
		if (check_hole(serving, ask->offset, run_end, &hole_end) < 0)
			return -EAGAIN;
	}
	if (hole_end > ask->offset) {
		plan_zeros(serving, hole_end - ask->offset);
	} else {
		size_t limit = ceph_piece_limit(serving->image, ask->offset);

		hole_end = MIN(ask->offset + limit, run_end);
		plan_piece(serving, ask->offset, hole_end - ask->offset);
	}
	ask->length = end - hole_end;
	ask->offset = hole_end;
	return 0;
}

/*
 * The ask is not within the image as it was opened.  One that is in use may have grown.
 * Returns whether to go on; else it has to wait, or all is over.
 */
static bool look_beyond(struct serving *serving)
{
	const struct ceph_header *header = &serving->image->header;
	const struct ask *ask = &serving->ask;

	if (serving->image->snap != CEPH_HEAD) {
		store_error("asked for %" PRIu64 " bytes from %" PRIu64
			    " of an image of %" PRIu64,
			    ask->length, ask->offset, header->size);
		serving->status = STORE_USAGE;
		return false;
	}
	if (serving->count > 0 || serving->under_way > 0 || serving->guard.is_checking)
		return false;
	ceph_guard_fini(&serving->guard);
	serving->status = ceph_image_refresh(serving->image);
	if (serving->status != STORE_OK)
		return false;
	ceph_guard_init(&serving->guard, serving->image, &serving->done);
	if (ask->offset + ask->length <= header->size)
		return true;
	store_error("the image with the id %s has %" PRIu64 " bytes now",
		    serving->image->id, header->size);
	serving->status = STORE_GONE;
	return false;
}

/* Take the next ask, if there is one.  Returns whether there is. */
static bool take_ask(struct serving *serving)
{
	int result = asks_next(&serving->asks, &serving->ask);

	if (result > 0) {
		/* The first one was sent before all that is known of the image. */
		serving->ask_ns =
			serving->ask_ns ? ceph_now_ns() : serving->image->known_ns;
		serving->ask_length = serving->ask.length;
		return true;
	}
	serving->ask.length = 0;
	if (result == 0)
		serving->has_ended = true;
	else if (result == -EBADMSG)
		serving->status = STORE_USAGE;
	else if (result != -EAGAIN) {
		store_error("cannot read what is asked: %s", strerror(-result));
		serving->status = STORE_IO;
	}
	return false;
}

/* Plan what was asked, as far as it goes. */
static void plan_all(struct serving *serving)
{
	while (has_room(serving) && serving->status == STORE_OK) {
		const struct ask *ask = &serving->ask;

		if (ask->length == 0 && (serving->has_ended || !take_ask(serving)))
			return;
		if (ask->offset + ask->length > serving->image->header.size &&
		    !look_beyond(serving))
			return;
		if (plan(serving) < 0)
			return;
	}
}

/* ---- writing ---- */

/* Write zeros of the segment at the head.  Returns what write(2) does. */
static ssize_t write_hole(struct serving *serving)
{
	static char zeros[ZEROS_BYTES];
	const struct segment *segment = segment_at(serving, 0);
	struct iovec part = {.iov_base = zeros, .iov_len = sizeof(zeros)};

	part.iov_len = MIN(part.iov_len, segment->length - segment->sent);
	/* Whoever has these pages may keep them: nobody writes to them. */
	if (serving->is_pipe)
		return vmsplice(STDOUT_FILENO, &part, 1, SPLICE_F_NONBLOCK);
	return write(STDOUT_FILENO, zeros, part.iov_len);
}

/*
 * Collect the data at the head that can be written, up to the first byte that is not
 * there, or not known to be right.  Returns how many parts it is in.
 */
static int collect(struct serving *serving, struct iovec parts[PARTS])
{
	int count = 0;

	for (size_t i = 0; i < serving->count && count < PARTS; i++) {
		struct segment *segment = segment_at(serving, i);
		const struct ceph_piece *piece = &segment->piece;

		if (!segment->has_piece || piece->is_under_way ||
		    !ceph_guard_allows(&serving->guard, piece->done_ns, piece->is_void))
			break;
		parts[count++] = (struct iovec){
			.iov_base = piece->buffer + segment->sent,
			.iov_len = segment->length - segment->sent,
		};
	}
	return count;
}

/* Take @written bytes, and what was written whole, off the head. */
static void advance(struct serving *serving, size_t written)
{
	while (serving->count > 0) {
		struct segment *segment = segment_at(serving, 0);
		uint64_t part = MIN(segment->length - segment->sent, (uint64_t)written);

		segment->sent += part;
		written -= part;
		if (segment->sent < segment->length)
			break;
		if (segment->has_piece) {
			serving->buffers[serving->free_buffers++] = segment->piece.buffer;
			serving->window -= segment->piece.length;
		}
		serving->head = (serving->head + 1) % SEGMENTS;
		serving->count--;
	}
}

/*
 * Write what can be written without waiting, or some of it: others have their turn too.
 * Returns how many bytes, or a negative errno.
 */
static ssize_t write_out(struct serving *serving)
{
	ssize_t total = 0;

	serving->is_blocked = false;
	while (serving->count > 0 && total < WRITE_AT_ONCE) {
		struct iovec parts[PARTS];
		ssize_t written;

		if (segment_at(serving, 0)->has_piece) {
			int count = collect(serving, parts);

			if (count == 0)
				break;
			written = writev(STDOUT_FILENO, parts, count);
		} else {
			written = write_hole(serving);
		}
		if (written < 0 && errno == EINTR)
			continue;
		if (written < 0 && errno == EAGAIN) {
			serving->is_blocked = true;
			break;
		}
		if (written < 0)
			return -errno;
		advance(serving, written);
		total += written;
	}
	if (total > 0)
		serving->last_ns = ceph_now_ns();
	return total;
}

/* ---- the loop ---- */

/* Wait for the cluster, more asks, or room for answers. */
static void wait_for_any(struct serving *serving)
{
	struct pollfd fds[3] = {{.fd = serving->done.fd, .events = POLLIN}};
	int64_t again_ns = ceph_guard_step(&serving->guard);
	int count = 1, timeout_ms = -1;

	if (!serving->has_ended && serving->ask.length == 0 && has_room(serving))
		fds[count++] = (struct pollfd){.fd = STDIN_FILENO, .events = POLLIN};
	if (serving->is_blocked)
		fds[count++] = (struct pollfd){.fd = STDOUT_FILENO, .events = POLLOUT};
	if (again_ns < INT64_MAX)
		timeout_ms = (int)MAX((again_ns - ceph_now_ns()) / 1000000 + 1, 0);
	(void)poll(fds, count, timeout_ms);
	ceph_done_run(&serving->done);
	if (serving->status == STORE_OK)
		serving->status = serving->guard.status;
}

/*
 * Whether all is answered, and of the version that was asked for: what was written is as
 * good as what is said by the exit status.
 */
static bool is_finished(struct serving *serving)
{
	return serving->has_ended && serving->count == 0 && serving->ask.length == 0 &&
	       (serving->last_ns == 0 ||
		ceph_guard_allows(&serving->guard, serving->last_ns, true));
}

static void serve(struct serving *serving)
{
	while (serving->status == STORE_OK) {
		ssize_t written;

		plan_all(serving);
		if (serving->status != STORE_OK)
			break;
		written = write_out(serving);
		/* When nobody reads any more, nobody is left to be told anything. */
		if (written == -EPIPE || is_finished(serving))
			break;
		if (written < 0) {
			store_error("cannot write the answer: %s",
				    strerror((int)-written));
			serving->status = STORE_IO;
		} else if (written == 0) {
			wait_for_any(serving);
		} else {
			/* What was written made room. */
			ceph_done_run(&serving->done);
		}
	}
}

/* Wait till nothing is under way: librados has our buffers. */
static void drain(struct serving *serving)
{
	ceph_guard_stop(&serving->guard);
	for (size_t i = 0; i < serving->count; i++) {
		struct segment *segment = segment_at(serving, i);

		if (segment->has_piece)
			ceph_piece_cancel(&segment->piece);
	}
	while (serving->under_way > 0 || serving->guard.is_checking)
		ceph_done_wait(&serving->done);
}

/* Make @fd non-blocking.  Returns its flags as they were, for set_flags(). */
static int make_nonblocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags >= 0)
		(void)fcntl(fd, F_SETFL, flags | O_NONBLOCK);
	return flags;
}

/* Others may have the same open file, a terminal for instance. */
static void set_flags(int fd, int flags)
{
	if (flags >= 0)
		(void)fcntl(fd, F_SETFL, flags);
}

static int serve_image(struct ceph_image *image)
{
	CLEANUP(freep) struct serving *serving = calloc(1, sizeof(*serving));
	/* Only as much of it is ever touched as is under way at the same time. */
	CLEANUP(freep) char *memory = malloc(BUFFERS * CEPH_PIECE_BYTES);
	int flags[2];

	if (!serving || !memory || ceph_done_init(&serving->done) < 0) {
		store_error("out of memory");
		return STORE_AGAIN;
	}
	serving->image = image;
	serving->status = STORE_OK;
	serving->asks.fd = STDIN_FILENO;
	serving->is_pipe = pipe_enlarge(STDOUT_FILENO) > 0;
	for (size_t i = 0; i < BUFFERS; i++)
		serving->buffers[serving->free_buffers++] = memory + i * CEPH_PIECE_BYTES;
	ceph_guard_init(&serving->guard, image, &serving->done);
	flags[0] = make_nonblocking(STDIN_FILENO);
	flags[1] = make_nonblocking(STDOUT_FILENO);
	serve(serving);
	set_flags(STDIN_FILENO, flags[0]);
	set_flags(STDOUT_FILENO, flags[1]);
	drain(serving);
	ceph_guard_fini(&serving->guard);
	ceph_done_fini(&serving->done);
	return serving->status;
}

int ceph_read(const char *uri, const char *id)
{
	struct ceph_image image;
	int status = ceph_image_open(uri, id, &image);

	if (status != STORE_OK)
		return status;
	status = serve_image(&image);
	ceph_image_close(&image);
	return status;
}
