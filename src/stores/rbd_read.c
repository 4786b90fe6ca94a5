/* SPDX-License-Identifier: MIT */
/*
 * rbd-read - answer asks: many reads under way, the answers in order.
 *
 * One thread takes asks, cuts them into segments and begins to read them, as far as the
 * queue has room, whichever ask they belong to.  The other writes them.
 *
 * An image itself may be written to meanwhile.  Each ask is answered with what is there
 * when it comes or later: what the object map said before is only good for a run of zeros
 * if it says so still.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "imagefs-store.h"
#include "rbd-guard.h"
#include "rbd-queue.h"
#include "rbd-send.h"
#include "rbd-store.h"
#include "serve.h"

#define MAP_BYTES ((uint64_t)4 << 20) /* for an ask of so many the map is read anew */
#define MAP_NS INT64_C(1000000000) /* and in a long one so often */

struct serving {
	struct ceph_image *image;
	struct ceph_guard *guard;
	struct ceph_queue *queue;
	int status; /* of the thread that takes asks */
	struct asks asks;
	struct ask ask;
	int64_t ask_ns; /* when it came */
};

/* ---- the thread that takes asks ---- */

/* Put the first segment of @ask, or of what is left of it.  Returns false if stopped. */
static bool put_segment(struct serving *serving, struct ask *ask, bool may_wait)
{
	struct ceph_segment *segment = ceph_queue_room(serving->queue);
	int64_t since_ns = MAX(serving->ask_ns, ceph_now_ns() - MAP_NS);
	enum ceph_place place;
	uint64_t end;

	if (!segment)
		return false;
	place = ceph_guard_find(serving->guard, ask->offset, ask->offset + ask->length,
				since_ns, may_wait, &end);
	segment->length = end - ask->offset;
	segment->has_piece = place != PLACE_HOLE;
	if (segment->has_piece) {
		struct ceph_piece *piece = &segment->piece;

		piece->length = MIN(segment->length,
				    ceph_piece_limit(serving->image, ask->offset));
		piece->image = serving->image;
		piece->offset = ask->offset;
		segment->length = piece->length;
		ceph_piece_begin(piece, place == PLACE_PARENT);
	}
	ask->offset += segment->length;
	ask->length -= segment->length;
	ceph_queue_put(serving->queue);
	if (segment->has_piece)
		ceph_guard_prepare(serving->guard);
	return true;
}

/*
 * The ask is not within the image as it was opened, but that may have grown.  Returns
 * STORE_OK if it has, or the status to exit with, having said why.
 */
static int look_beyond(struct serving *serving, const struct ask *ask)
{
	struct ceph_image *image = serving->image;
	int status, error;

	if (image->snap != CEPH_HEAD) {
		store_error("asked for %" PRIu64 " bytes from %" PRIu64
			    " of an image of %" PRIu64,
			    ask->length, ask->offset, image->header.size);
		return STORE_USAGE;
	}
	ceph_guard_free(serving->guard);
	serving->guard = NULL;
	status = ceph_image_refresh(image);
	if (status != STORE_OK)
		return status;
	error = ceph_guard_new(image, &serving->guard);
	if (error < 0)
		return ceph_image_fail(image, "look after", error);
	if (ask->offset + ask->length <= image->header.size)
		return STORE_OK;
	store_error("the image with the id %s has %" PRIu64 " bytes now", image->id,
		    image->header.size);
	return STORE_GONE;
}

/* Answer one ask.  Returns false if that is of no use any more. */
static bool answer(struct serving *serving)
{
	struct ask ask = serving->ask;
	bool may_wait = ask.length >= MAP_BYTES;

	/* The first one was sent before all that is known of the image. */
	serving->ask_ns = serving->ask_ns ? ceph_now_ns() : serving->image->known_ns;
	if (ask.offset + ask.length > serving->image->header.size) {
		if (!ceph_queue_drained(serving->queue))
			return false;
		serving->status = look_beyond(serving, &ask);
		if (serving->status != STORE_OK)
			return false;
	}
	while (ask.length > 0)
		if (!put_segment(serving, &ask, may_wait))
			return false;
	return true;
}

/* Wait for more asks.  Returns false if the queue was stopped. */
static bool await_asks(struct serving *serving)
{
	struct pollfd fds[] = {
		{.fd = serving->asks.fd, .events = POLLIN},
		{.fd = ceph_queue_stop_fd(serving->queue), .events = POLLIN},
	};

	while (poll(fds, ARRAY_SIZE(fds), -1) < 0)
		if (errno != EINTR)
			return false;
	return !fds[1].revents;
}

static void *take_asks(void *context)
{
	struct serving *serving = context;
	int result;

	for (;;) {
		result = asks_next(&serving->asks, &serving->ask);
		if (result == -EAGAIN ? !await_asks(serving)
				      : result <= 0 || !answer(serving))
			break;
	}
	if (result == -EBADMSG) {
		serving->status = STORE_USAGE;
	} else if (result < 0 && result != -EAGAIN) {
		store_error("cannot read what is asked: %s", strerror(-result));
		serving->status = STORE_IO;
	}
	/* What was asked before is answered nevertheless. */
	ceph_queue_end(serving->queue);
	return NULL;
}

/* ---- both ---- */

/* Returns the status to exit with, having said why. */
static int serve(struct serving *serving)
{
	pthread_t thread;
	int status;
	int error = pthread_create(&thread, NULL, take_asks, serving);

	if (error)
		return ceph_image_fail(serving->image, "start a thread for", -error);
	status = ceph_send(serving->queue, &serving->guard);
	ceph_queue_stop(serving->queue);
	pthread_join(thread, NULL);
	return status != STORE_OK ? status : serving->status;
}

static int serve_image(struct ceph_image *image)
{
	struct serving serving = {.image = image, .asks.fd = STDIN_FILENO};
	/* Others may have the same open file, a terminal for instance. */
	int flags = fcntl(STDIN_FILENO, F_GETFL);
	int error = ceph_queue_new(&serving.queue);
	int status;

	if (error == 0)
		error = ceph_guard_new(image, &serving.guard);
	if (flags >= 0)
		(void)fcntl(STDIN_FILENO, F_SETFL, flags | O_NONBLOCK);
	status = error < 0 ? ceph_image_fail(image, "read", error) : serve(&serving);
	if (flags >= 0)
		(void)fcntl(STDIN_FILENO, F_SETFL, flags);
	ceph_queue_free(serving.queue);
	ceph_guard_free(serving.guard);
	return status;
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
