/* SPDX-License-Identifier: MIT */
/*
 * glance-read - answer asks: many requests under way, the answers in order.
 *
 * Each ask is one request for a Range, however long it is: it is taken off its socket as
 * fast as it can be written, and waits there otherwise.  Those behind the first one fill
 * their windows meanwhile.
 *
 * Where the server gives no parts of an image (Glance, of one that is at an HTTP location,
 * answers 400) there is one request for all of it.  It is read up to what is asked for,
 * goes on with the next ask where that lies ahead, and begins anew where it does not.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "glance-fetch.h"
#include "glance.h"
#include "serve.h"

#define WINDOW_BYTES ((size_t)1 << 20)
#define PIECES 32
#define FETCHES 16 /* requests under way */
#define CONNECTIONS 20 /* kept */
#define TICK_MS 1000 /* how often it is looked at the clock at least */

/* One ask. */
struct piece {
	uint64_t offset, length;
	uint64_t sent;
	struct window window; /* data NULL: none yet, or not needed */
	struct fetch *fetch; /* the request for it; NULL: none is under way */
	unsigned failures; /* in a row, without a byte between */
	uint64_t failed_at; /* where it had come to at the last one */
	bool fresh; /* on a new connection */
	int64_t retry_ms;
	int status; /* STORE_OK, or final */
	char *text; /* what went wrong last, or NULL */
};

struct serving {
	struct glance_session *session;
	struct glance_image image;
	struct asks asks;
	bool has_ended; /* nothing more will be asked */
	bool is_blocked; /* nothing more can be written now */
	int error; /* of a write, negative; nothing is written any more */
	int64_t since_ms; /* when something last went on */
	struct piece pieces[PIECES]; /* from head, as many as count */
	size_t head, count;
	struct fetch fetches[FETCHES];
	char *buffers[PIECES]; /* those that are free */
	size_t free_buffers;
	bool no_range;
	struct window stream; /* with no_range, of fetches[0] */
};

static struct piece *piece_at(struct serving *serving, size_t place)
{
	return &serving->pieces[(serving->head + place) % PIECES];
}

/* Where the bytes of @piece that were not written yet begin. */
static uint64_t next_byte(const struct piece *piece)
{
	return piece->offset + piece->sent;
}

static uint64_t piece_end(const struct piece *piece)
{
	return piece->offset + piece->length;
}

static struct window *window_of(struct serving *serving, struct piece *piece)
{
	return serving->no_range ? &serving->stream : &piece->window;
}

/* ---- what is written ---- */

/* Take off the front of the stream what nobody asked for. */
static void skip(struct window *window, uint64_t to)
{
	uint64_t at = window->offset;

	if (at < to)
		window_take(window, MIN(to, window_end(window)) - at);
}

/* The bytes of the first piece that are there. */
static size_t ready_bytes(struct serving *serving, struct piece *piece)
{
	struct window *window = window_of(serving, piece);
	uint64_t end;

	if (!window->data)
		return 0;
	skip(window, next_byte(piece));
	end = MIN(window_end(window), piece_end(piece));
	return window->offset == next_byte(piece) ? end - window->offset : 0;
}

/* Write what there is of the first piece, as far as that goes without waiting. */
static void drain(void *context)
{
	struct serving *serving = context;
	struct piece *piece = piece_at(serving, 0);
	struct window *window = window_of(serving, piece);
	size_t size;

	while (serving->error == 0 && serving->count > 0 &&
	       (size = ready_bytes(serving, piece)) > 0) {
		ssize_t written =
			write(STDOUT_FILENO, window->data + window->start, size);

		if (written < 0 && errno == EINTR)
			continue;
		/* However long it takes to be read, the store has not been waited for. */
		serving->since_ms = glance_now_ms();
		serving->is_blocked = written < 0 && errno == EAGAIN;
		if (serving->is_blocked)
			return;
		if (written < 0) {
			serving->error = -errno;
			return;
		}
		piece->sent += written;
		window_take(window, written);
	}
}

static void stop_fetch(struct piece *piece)
{
	if (!piece->fetch)
		return;
	fetch_stop(piece->fetch);
	piece->fetch->window = NULL;
	piece->fetch = NULL;
}

static void drop_window(struct serving *serving, struct piece *piece)
{
	if (piece->window.data)
		serving->buffers[serving->free_buffers++] = piece->window.data;
	piece->window = (struct window){0};
}

/* Write what can be written, of one piece after the other. */
static void write_out(struct serving *serving)
{
	serving->is_blocked = false;
	while (serving->count > 0 && serving->error == 0 && !serving->is_blocked) {
		struct piece *piece = piece_at(serving, 0);

		drain(serving);
		if (piece->sent < piece->length)
			return;
		/* The request for the last byte may not have said yet that it is done. */
		if (piece->fetch && !serving->no_range)
			return;
		drop_window(serving, piece);
		free(piece->text);
		serving->head = (serving->head + 1) % PIECES;
		serving->count--;
	}
}

/* ---- what is asked ---- */

/* Take the asks that have come.  Returns STORE_OK, or a status, having said why. */
static int take_asks(struct serving *serving)
{
	while (serving->count < PIECES && !serving->has_ended) {
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
		};
	}
	return STORE_OK;
}

/* ---- the requests ---- */

/*
 * The request for @piece has failed: try again later, or not at all.  @text, of which a
 * copy is kept, is said once it is the piece's turn to be written.
 */
static void note_failure(struct serving *serving, struct piece *piece, int status,
			 const char *text, bool may_retry, int64_t pause_ms)
{
	uint64_t at = serving->no_range ? next_byte(piece) : window_end(&piece->window);
	const struct glance_outcome outcome = {.retry_after_ms = pause_ms};
	int64_t deadline_ms = serving->since_ms + serving->session->http.patience_ms;

	if (at > piece->failed_at)
		piece->failures = 0;
	piece->failed_at = at;
	piece->failures++;
	piece->fresh = true;
	piece->retry_ms = glance_now_ms() + glance_pause_ms(&outcome, piece->failures);
	free(piece->text);
	piece->text = strdup(text);
	if (!may_retry || piece->failures == GLANCE_TRIES ||
	    piece->retry_ms >= deadline_ms)
		piece->status = status;
}

/* The server gives no parts: go over to one request for all. */
static void give_up_ranges(struct serving *serving)
{
	for (size_t i = 0; i < serving->count; i++) {
		struct piece *piece = piece_at(serving, i);

		stop_fetch(piece);
		drop_window(serving, piece);
		piece->failed_at = piece->offset;
	}
	serving->no_range = true;
	serving->stream.data = serving->buffers[--serving->free_buffers];
	serving->stream.room = WINDOW_BYTES;
}

static void renew_login(struct serving *serving, struct piece *piece, unsigned login)
{
	int status = glance_session_renew(serving->session, login,
					  serving->since_ms +
						  serving->session->http.patience_ms);

	/* Why was said already. */
	if (status != STORE_OK)
		piece->status = status;
}

/* The one request for all of the image is done: see that it reaches far enough. */
static void check_end(struct serving *serving, struct piece *piece)
{
	uint64_t end = window_end(&serving->stream);
	char text[GLANCE_TEXT_MAX];

	if (!serving->no_range || end >= piece_end(piece))
		return;
	snprintf(text, sizeof(text), "%s: the image ends at byte %" PRIu64,
		 serving->image.url, end);
	note_failure(serving, piece, STORE_GONE, text, false, -1);
}

/* The request for @piece has come to its end. */
static void finish_piece(struct serving *serving, struct piece *piece, CURLcode error)
{
	struct fetch *fetch = piece->fetch;
	enum fetch_result result = fetch_finish(fetch, error);

	if (result == FETCH_AGAIN)
		return;
	piece->fetch = NULL;
	switch (result) {
	case FETCH_NO_RANGE:
		give_up_ranges(serving);
		break;
	case FETCH_REFUSED:
		renew_login(serving, piece, fetch->login);
		break;
	case FETCH_CUT:
	case FETCH_FAILED:
		note_failure(serving, piece, fetch->status, fetch->text, fetch->may_retry,
			     fetch->pause_ms);
		break;
	default:
		check_end(serving, piece);
	}
}

/* The piece that @fetch is for, or NULL: a stream that goes on between asks. */
static struct piece *piece_of(struct serving *serving, const struct fetch *fetch)
{
	for (size_t i = 0; i < serving->count; i++)
		if (piece_at(serving, i)->fetch == fetch)
			return piece_at(serving, i);
	return NULL;
}

/* Take note of the requests that have come to their end. */
static void finish_fetches(struct serving *serving)
{
	CURLMsg *message;
	int left;

	while ((message = curl_multi_info_read(serving->image.multi, &left))) {
		CURLcode error = message->data.result;
		struct piece *piece;
		char *private;

		if (message->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &private);
		piece = piece_of(serving, (struct fetch *)private);
		if (piece)
			finish_piece(serving, piece, error);
		else
			fetch_stop((struct fetch *)private);
	}
}

static struct fetch *free_fetch(struct serving *serving)
{
	for (size_t i = 0; i < FETCHES; i++)
		if (!serving->fetches[i].is_running)
			return &serving->fetches[i];
	return NULL;
}

/* Ask for what is missing of @piece.  Returns false if nothing more can be asked for. */
static bool start_piece(struct serving *serving, struct piece *piece)
{
	struct fetch *fetch = free_fetch(serving);

	if (!fetch)
		return false;
	if (!piece->window.data) {
		piece->window = (struct window){
			.data = serving->buffers[--serving->free_buffers],
			.room = MIN(piece->length, (uint64_t)WINDOW_BYTES),
			.offset = piece->offset,
		};
	}
	fetch->drain = NULL;
	fetch->context = serving;
	fetch->skip_to = 0;
	if (fetch_start(fetch, &piece->window, piece_end(piece), piece->fresh) < 0)
		note_failure(serving, piece, STORE_AGAIN, "out of memory", true, -1);
	else
		piece->fetch = fetch;
	return true;
}

/* Have the one request for all of the image come to what is missing of @piece. */
static void start_stream(struct serving *serving, struct piece *piece)
{
	struct window *window = &serving->stream;
	struct fetch *fetch = &serving->fetches[0];

	if (fetch->is_running && window->offset <= next_byte(piece)) {
		skip(window, next_byte(piece));
	} else {
		fetch_stop(fetch);
		window->offset = window->start = window->fill = 0;
		fetch->context = serving;
		if (fetch_start(fetch, window, UINT64_MAX, piece->fresh) < 0) {
			note_failure(serving, piece, STORE_AGAIN, "out of memory", true,
				     -1);
			return;
		}
	}
	fetch->skip_to = next_byte(piece);
	piece->fetch = fetch;
}

/* Whether all of @piece that is not written yet is there. */
static bool is_complete(struct serving *serving, struct piece *piece)
{
	struct window *window = window_of(serving, piece);

	return piece->sent == piece->length ||
	       (window->data && window->offset <= next_byte(piece) &&
		window_end(window) >= piece_end(piece));
}

/* Ask for what is missing.  Returns when there is to be tried something again. */
static int64_t start_fetches(struct serving *serving)
{
	size_t count =
		serving->no_range ? MIN(serving->count, (size_t)1) : serving->count;
	int64_t now_ms = glance_now_ms(), next_ms = now_ms + TICK_MS;
	struct piece *first = piece_at(serving, 0);

	for (size_t i = 0; i < count; i++) {
		struct piece *piece = piece_at(serving, i);

		if (piece->fetch || piece->status != STORE_OK ||
		    is_complete(serving, piece))
			continue;
		if (piece->retry_ms > now_ms)
			next_ms = MIN(next_ms, piece->retry_ms);
		else if (serving->no_range)
			start_stream(serving, piece);
		else if (!start_piece(serving, piece))
			break;
	}
	/* What comes for the first can be written at once. */
	if (serving->count > 0 && first->fetch)
		first->fetch->drain = drain;
	return next_ms;
}

/* Let those go on that were paused, and are in a place to. */
static void resume_fetches(struct serving *serving)
{
	for (size_t i = 0; i < serving->count; i++) {
		struct piece *piece = piece_at(serving, i);
		struct fetch *fetch = piece->fetch;
		struct window *window = window_of(serving, piece);

		if (!fetch || !fetch->is_paused)
			continue;
		if (window->fill == 0)
			fetch_resume(fetch);
	}
}

/* Give up requests that nothing comes of; others are made instead. */
static void end_silent(struct serving *serving)
{
	int64_t patience_ms = serving->session->http.patience_ms / 2;
	int64_t now_ms = glance_now_ms();

	for (size_t i = 0; i < serving->count; i++) {
		struct piece *piece = piece_at(serving, i);
		char text[GLANCE_TEXT_MAX];

		if (!piece->fetch || piece->fetch->is_paused ||
		    now_ms - piece->fetch->heard_ms < patience_ms)
			continue;
		stop_fetch(piece);
		snprintf(text, sizeof(text), "%s: nothing came for %g s",
			 serving->image.url, (double)patience_ms / 1000);
		note_failure(serving, piece, STORE_UNAVAILABLE, text, true, 0);
	}
}

/* See whether the first piece is at its end.  Returns STORE_OK or a status, said. */
static int check_head(struct serving *serving)
{
	struct piece *piece = piece_at(serving, 0);
	int64_t waited_ms = glance_now_ms() - serving->since_ms;
	int status = piece->status;

	if (serving->count == 0 || serving->is_blocked)
		return STORE_OK;
	if (status != STORE_OK) {
		if (piece->text)
			store_error("%s", piece->text);
		return status;
	}
	if (waited_ms < serving->session->http.patience_ms)
		return STORE_OK;
	if (serving->no_range && piece->fetch && piece->failures == 0) {
		store_error(
			"Glance gives no parts of this image (it is at an HTTP location), "
			"and the byte %" PRIu64 " is too far away",
			next_byte(piece));
		return STORE_USAGE;
	}
	store_error("%s", piece->text ? piece->text : "Glance does not answer");
	return STORE_UNAVAILABLE;
}

/* ---- the loop ---- */

static bool is_done(const struct serving *serving)
{
	return serving->error != 0 || (serving->has_ended && serving->count == 0);
}

static void wait_for_any(struct serving *serving, int64_t until_ms)
{
	struct curl_waitfd more[2];
	unsigned count = 0;
	int64_t left_ms = until_ms - glance_now_ms();

	if (!serving->has_ended && serving->count < PIECES)
		more[count++] = (struct curl_waitfd){STDIN_FILENO, CURL_WAIT_POLLIN, 0};
	if (serving->is_blocked)
		more[count++] = (struct curl_waitfd){STDOUT_FILENO, CURL_WAIT_POLLOUT, 0};
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
		int64_t next_ms;
		int running;

		if (status != STORE_OK)
			return status;
		next_ms = start_fetches(serving);
		curl_multi_perform(serving->image.multi, &running);
		finish_fetches(serving);
		end_silent(serving);
		write_out(serving);
		resume_fetches(serving);
		status = check_head(serving);
		if (status != STORE_OK || is_done(serving))
			return status;
		wait_for_any(serving, next_ms);
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

/* Make all that is needed.  Returns 0 or -ENOMEM. */
static int prepare(struct serving *serving, const char *id, char *memory)
{
	struct glance_image *image = &serving->image;

	image->session = serving->session;
	image->size = UINT64_MAX;
	image->multi = curl_multi_init();
	if (!image->multi || asprintf(&image->url, "%s/v2/images/%s/file",
				      serving->session->endpoint, id) < 0)
		return -ENOMEM;
	curl_multi_setopt(image->multi, CURLMOPT_MAXCONNECTS, (long)CONNECTIONS);
	for (size_t i = 0; i < PIECES; i++)
		serving->buffers[serving->free_buffers++] = memory + i * WINDOW_BYTES;
	for (size_t i = 0; i < FETCHES; i++)
		if (fetch_init(&serving->fetches[i], image) < 0)
			return -ENOMEM;
	serving->asks.fd = STDIN_FILENO;
	return 0;
}

static void clean_up(struct serving *serving)
{
	for (size_t i = 0; i < serving->count; i++)
		free(piece_at(serving, i)->text);
	for (size_t i = 0; i < FETCHES; i++)
		fetch_fini(&serving->fetches[i]);
	curl_multi_cleanup(serving->image.multi);
	free(serving->image.url);
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

static int serve_image(struct serving *serving, const char *id)
{
	/* Memory that is not used is not there. */
	CLEANUP(freep) char *memory = malloc(PIECES * WINDOW_BYTES);
	int in = -1, out = -1;
	int status = STORE_AGAIN;

	if (!memory || prepare(serving, id, memory) < 0) {
		store_error("out of memory");
	} else {
		pipe_enlarge(STDOUT_FILENO);
		in = make_nonblocking(STDIN_FILENO);
		out = make_nonblocking(STDOUT_FILENO);
		status = serve(serving);
	}
	set_flags(STDIN_FILENO, in);
	set_flags(STDOUT_FILENO, out);
	if (status == STORE_OK && serving->error < 0 && serving->error != -EPIPE) {
		store_error("cannot write the answer: %s", strerror(-serving->error));
		status = STORE_IO;
	}
	clean_up(serving);
	return status;
}

int glance_read(const char *uri, const char *id)
{
	CLEANUP(freep) struct serving *serving = calloc(1, sizeof(*serving));
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
	if (status == STORE_OK)
		status = serve_image(serving, id);
	glance_session_free(serving->session);
	return status;
}
