/* SPDX-License-Identifier: MIT */
/*
 * glance-read - answer asks: many requests under way, the answers in order.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "glance-serving.h"
#include "glance.h"
#include "pipe.h"
#include "serve.h"

#define SPLICE_AT_ONCE ((uint64_t)16 << 20) /* before others have their turn */

static void serving_freep(struct serving **serving)
{
	if (!*serving)
		return;
	serving_fini(*serving);
	glance_session_free((*serving)->session);
	free(*serving);
}

/* ---- what is written ---- */

/* The bytes of the first piece that are in its window, whose front they are then. */
static size_t ready_bytes(struct serving *serving, struct piece *piece)
{
	struct window *window = piece_window(serving, piece);
	uint64_t next = piece_next(piece);

	if (!window->data)
		return 0;
	/* What nobody asked for is taken off the stream. */
	if (window->offset < next)
		window_take(window, MIN(next, window_end(window)) - window->offset);
	return window->offset == next
		       ? MIN(window_end(window), piece_end(piece)) - window->offset
		       : 0;
}

/* Note what came of moving bytes to standard output. */
static void note_written(struct serving *serving, ssize_t written, int error)
{
	/* However long it takes to be read, the store has not been waited for. */
	serving->since_ms = glance_now_ms();
	if (written < 0 && error == EAGAIN)
		serving->is_blocked = true;
	else if (written < 0)
		serving->error = -error;
	else
		piece_at(serving, 0)->sent += written;
}

void serving_drain(void *context)
{
	struct serving *serving = context;
	struct piece *piece = piece_at(serving, 0);
	struct window *window = piece_window(serving, piece);
	size_t size;

	while (serving->count > 0 && serving->error == 0 && !serving->is_blocked &&
	       (size = ready_bytes(serving, piece)) > 0) {
		ssize_t written =
			write(STDOUT_FILENO, window->data + window->start, size);

		if (written < 0 && errno == EINTR)
			continue;
		note_written(serving, written, errno);
		if (written > 0)
			window_take(window, written);
	}
}

static bool is_full(int fd)
{
	struct pollfd pollfd = {.fd = fd, .events = POLLOUT};

	return poll(&pollfd, 1, 0) == 0;
}

/* How many bytes of the first piece can be moved by splice(2), or are in the way of it. */
static uint64_t splice_bytes(struct serving *serving, const struct piece *piece)
{
	const struct window *window = &serving->stream;
	uint64_t end = piece_next(piece);

	if (!piece->fetch || piece->fetch->way != WAY_SPLICE || window->fill > 0)
		return 0;
	if (window->offset == end)
		end = piece_end(piece);
	return MIN(end, fetch_limit(piece->fetch)) - window->offset;
}

/* Move bytes of the first piece from its socket, as far as that goes without waiting. */
static void splice_out(struct serving *serving)
{
	struct piece *piece = piece_at(serving, 0);
	uint64_t total = 0, size;

	while (serving->count > 0 && serving->error == 0 && !serving->is_blocked &&
	       total < SPLICE_AT_ONCE && (size = splice_bytes(serving, piece)) > 0) {
		bool wanted = serving->stream.offset == piece_next(piece);
		ssize_t moved =
			fetch_splice(piece->fetch, wanted ? STDOUT_FILENO : -1, size);

		if (moved == -EAGAIN && !(wanted && is_full(STDOUT_FILENO)))
			return;
		if (moved == 0) {
			serving_finish_piece(serving, piece, CURLE_PARTIAL_FILE);
			return;
		}
		if (wanted)
			note_written(serving, moved, (int)-moved);
		total += moved > 0 ? moved : 0;
	}
	if (serving->count > 0 && piece->fetch && piece->fetch->way == WAY_SPLICE &&
	    serving->stream.offset == fetch_limit(piece->fetch))
		serving_finish_piece(serving, piece, CURLE_OK);
}

/*
 * Write what can be written, of one piece after the other.  Returns whether that was the
 * end of one: the next is to be looked after.
 */
static bool write_out(struct serving *serving)
{
	/* As long as nobody read, nothing was waited for. */
	if (serving->is_blocked) {
		serving->since_ms = glance_now_ms();
		if (piece_at(serving, 0)->fetch)
			piece_at(serving, 0)->fetch->heard_ms = serving->since_ms;
	}
	serving->is_blocked = false;
	for (bool popped = false;; popped = true) {
		struct piece *piece = piece_at(serving, 0);

		serving_drain(serving);
		splice_out(serving);
		if (serving->count == 0 || serving->error < 0 ||
		    piece->sent < piece->length)
			return popped;
		/* The request for the last byte may not have said yet that it is done. */
		if (piece->fetch && !piece->is_streamed)
			return popped;
		serving_pop(serving);
	}
}

/* ---- what is asked ---- */

/* Take the asks that have come.  Returns STORE_OK, or a status, having said why. */
static int take_asks(struct serving *serving)
{
	while (serving->count < GLANCE_PIECES && !serving->has_ended) {
		struct ask ask;
		int found = asks_next(&serving->asks, &ask);

		if (found == -EAGAIN)
			return STORE_OK;
		if (found == -EBADMSG)
			return STORE_USAGE;
		if (found < 0) {
			store_error("cannot read what is asked: %s", strerror(-found));
			return STORE_IO;
		}
		serving->has_ended = found == 0;
		if (found == 0)
			return STORE_OK;
		if (serving->count == 0)
			serving->since_ms = glance_now_ms();
		*piece_at(serving, serving->count++) = (struct piece){
			.offset = ask.offset,
			.length = ask.length,
			.failed_at = ask.offset,
			.goes_on = ask.offset == serving->asked_end,
		};
		serving->asked_end = ask.offset + ask.length;
	}
	return STORE_OK;
}

/* ---- the loop ---- */

/* See whether the first piece is at its end.  Returns STORE_OK or a status, said. */
static int check_head(struct serving *serving)
{
	struct piece *piece = piece_at(serving, 0);
	int64_t waited_ms = glance_now_ms() - serving->since_ms;

	if (serving->count == 0 || serving->is_blocked)
		return STORE_OK;
	if (piece->status != STORE_OK) {
		if (piece->text)
			store_error("%s", piece->text);
		return piece->status;
	}
	if (waited_ms < serving->session->http.patience_ms)
		return STORE_OK;
	if (serving->no_range && piece->fetch && piece->failures == 0) {
		store_error(
			"Glance gives no parts of this image (it is at an HTTP location), "
			"and the byte %" PRIu64 " is too far away",
			piece_next(piece));
		return STORE_USAGE;
	}
	store_error("%s", piece->text ? piece->text : "Glance does not answer");
	return STORE_UNAVAILABLE;
}

static bool is_done(const struct serving *serving)
{
	return serving->error != 0 || (serving->has_ended && serving->count == 0);
}

static void wait_for_any(struct serving *serving)
{
	struct piece *piece = piece_at(serving, 0);
	struct curl_waitfd more[3];
	unsigned count = 0;
	int64_t left_ms = serving_next_ms(serving) - glance_now_ms();

	if (!serving->has_ended && serving->count < GLANCE_PIECES)
		more[count++] = (struct curl_waitfd){STDIN_FILENO, CURL_WAIT_POLLIN, 0};
	if (serving->is_blocked)
		more[count++] = (struct curl_waitfd){STDOUT_FILENO, CURL_WAIT_POLLOUT, 0};
	else if (serving->count > 0 && splice_bytes(serving, piece) > 0)
		more[count++] =
			(struct curl_waitfd){piece->fetch->taken, CURL_WAIT_POLLIN, 0};
	/* With nothing to do but to wait for asks there is no time to look at. */
	if (serving->count == 0)
		left_ms = INT32_MAX;
	curl_multi_poll(serving->image.multi, more, count, left_ms > 0 ? (int)left_ms : 0,
			NULL);
}

/* Serve until the end of input.  Returns the status to exit with, having said why. */
static int serve(struct serving *serving)
{
	for (;;) {
		int status = take_asks(serving);
		bool again;
		int running;

		if (status != STORE_OK)
			return status;
		serving_start(serving);
		curl_multi_perform(serving->image.multi, &running);
		again = serving_finish(serving);
		again = write_out(serving) || again;
		again = serving_resume(serving) || again;
		status = check_head(serving);
		if (status != STORE_OK || is_done(serving))
			return status;
		if (!again)
			wait_for_any(serving);
	}
}

/* Whether what was asked can be a path below the endpoint. */
static bool is_id(const char *id)
{
	return *id &&
	       strspn(id, "0123456789abcdefghijklmnopqrstuvwxyz"
			  "ABCDEFGHIJKLMNOPQRSTUVWXYZ-_.") == strlen(id) &&
	       strspn(id, ".") != strlen(id);
}

static int serve_image(struct serving *serving)
{
	int in, out, status;

	serving->asks.fd = STDIN_FILENO;
	serving->is_pipe = pipe_enlarge(STDOUT_FILENO, PIPE_BYTES) > 0;
	in = store_make_nonblocking(STDIN_FILENO);
	out = store_make_nonblocking(STDOUT_FILENO);
	status = serve(serving);
	store_set_flags(STDIN_FILENO, in);
	store_set_flags(STDOUT_FILENO, out);
	if (status == STORE_OK && serving->error < 0 && serving->error != -EPIPE) {
		store_error("cannot write the answer: %s", strerror(-serving->error));
		status = STORE_IO;
	}
	return status;
}

int glance_read(const char *uri, const char *id)
{
	CLEANUP(serving_freep) struct serving *serving = calloc(1, sizeof(*serving));
	int status;

	if (!serving) {
		store_error("out of memory");
		return STORE_AGAIN;
	}
	if (!is_id(id)) {
		store_error("no such image: %s", id);
		return STORE_GONE;
	}
	status = glance_session_new(uri, &serving->session);
	if (status != STORE_OK)
		return status;
	if (serving_init(serving, id) < 0) {
		store_error("out of memory");
		return STORE_AGAIN;
	}
	return serve_image(serving);
}
