/* SPDX-License-Identifier: MIT */
/*
 * Short asks are a request each, for a Range on a kept connection, many side by side.  A
 * long one is the stream: a request that goes on with the next ask where that begins at its
 * end, so that a copy of an image is one request, however it is asked for.
 *
 * Where the server gives no parts of an image (Glance, of one that is at an HTTP location,
 * answers 400) the stream is all of the image, from its start.  It is read up to what is
 * asked for, goes on with the next ask where that lies ahead, and begins anew where it does
 * not.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "glance-serving.h"

#define CONNECTIONS 20 /* kept */
#define STREAM_BYTES ((uint64_t)2 << 20) /* an ask that long is worth a connection */
#define LONGEST_WAIT_MS 10000

struct piece *piece_at(struct serving *serving, size_t place)
{
	return &serving->pieces[(serving->head + place) % GLANCE_PIECES];
}

uint64_t piece_next(const struct piece *piece)
{
	return piece->offset + piece->sent;
}

uint64_t piece_end(const struct piece *piece)
{
	return piece->offset + piece->length;
}

struct window *piece_window(struct serving *serving, struct piece *piece)
{
	return piece->is_streamed ? &serving->stream : &piece->window;
}

int serving_init(struct serving *serving, const char *id)
{
	struct glance_image *image = &serving->image;

	image->session = serving->session;
	image->size = UINT64_MAX;
	image->multi = curl_multi_init();
	/* Memory that is not used is not there. */
	serving->memory = malloc((GLANCE_PIECES + 1) * GLANCE_WINDOW_BYTES);
	if (!image->multi || !serving->memory ||
	    asprintf(&image->url, "%s/v2/images/%s/file", serving->session->endpoint,
		     id) < 0)
		return -ENOMEM;
	curl_multi_setopt(image->multi, CURLMOPT_MAXCONNECTS, (long)CONNECTIONS);
	serving->stream.data = serving->memory;
	serving->stream.room = GLANCE_WINDOW_BYTES;
	for (size_t i = 0; i < GLANCE_PIECES; i++)
		serving->buffers[serving->free_buffers++] =
			serving->memory + (i + 1) * GLANCE_WINDOW_BYTES;
	for (size_t i = 0; i < GLANCE_FETCHES; i++)
		if (fetch_init(&serving->fetches[i], image) < 0)
			return -ENOMEM;
	return 0;
}

void serving_fini(struct serving *serving)
{
	for (size_t i = 0; i < serving->count; i++)
		free(piece_at(serving, i)->text);
	for (size_t i = 0; i < GLANCE_FETCHES; i++)
		fetch_fini(&serving->fetches[i]);
	curl_multi_cleanup(serving->image.multi);
	free(serving->image.url);
	free(serving->memory);
}

static struct fetch *stream_fetch(struct serving *serving)
{
	return &serving->fetches[0];
}

static void stop_fetch(struct piece *piece)
{
	if (piece->fetch)
		fetch_stop(piece->fetch);
	piece->fetch = NULL;
}

static void drop_window(struct serving *serving, struct piece *piece)
{
	if (piece->window.data)
		serving->buffers[serving->free_buffers++] = piece->window.data;
	piece->window = (struct window){0};
}

void serving_pop(struct serving *serving)
{
	struct piece *piece = piece_at(serving, 0);

	/* The stream goes on. */
	if (!piece->is_streamed)
		stop_fetch(piece);
	drop_window(serving, piece);
	free(piece->text);
	serving->head = (serving->head + 1) % GLANCE_PIECES;
	serving->count--;
}

/* ---- what went wrong ---- */

/*
 * The request for @piece has failed: try again later, or not at all.  @text, of which a
 * copy is kept, is said once it is the piece's turn to be written.
 */
static void note_failure(struct serving *serving, struct piece *piece, int status,
			 const char *text, bool may_retry, int64_t pause_ms)
{
	uint64_t at = piece->is_streamed ? piece_next(piece) : window_end(&piece->window);
	const struct glance_outcome outcome = {.retry_after_ms = pause_ms};
	int64_t deadline_ms = serving->since_ms + serving->session->http.patience_ms;
	/* A Glance that is started again is away for seconds. */
	bool is_lost = status == STORE_UNAVAILABLE && serving->image.size != UINT64_MAX;
	unsigned tries = is_lost ? GLANCE_TRIES_LOST : GLANCE_TRIES;

	if (at > piece->failed_at)
		piece->failures = 0;
	piece->failed_at = at;
	piece->failures++;
	piece->fresh = true;
	piece->retry_ms = glance_now_ms() + glance_pause_ms(&outcome, piece->failures);
	free(piece->text);
	piece->text = strdup(text);
	if (!may_retry || piece->failures >= tries || piece->retry_ms >= deadline_ms)
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
		piece->is_streamed = true;
	}
	serving->no_range = true;
}

static void renew_login(struct serving *serving, struct piece *piece, unsigned login)
{
	int64_t deadline_ms = serving->since_ms + serving->session->http.patience_ms;
	int status = glance_session_renew(serving->session, login, deadline_ms);

	if (status == STORE_OK)
		return;
	/* Why was said already. */
	free(STEAL(piece->text));
	piece->status = status;
}

/* The stream is done: see that it reaches far enough. */
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

void serving_finish_piece(struct serving *serving, struct piece *piece, CURLcode error)
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

/* The piece that @fetch is for, or NULL: a stream between two asks. */
static struct piece *piece_of(struct serving *serving, const struct fetch *fetch)
{
	for (size_t i = 0; i < serving->count; i++)
		if (piece_at(serving, i)->fetch == fetch)
			return piece_at(serving, i);
	return NULL;
}

/* How long a request may be silent. */
static int64_t silence_ms(const struct serving *serving)
{
	return serving->session->http.patience_ms / 2;
}

/* Give up requests that nothing comes of; others are made instead. */
static bool end_silent(struct serving *serving)
{
	bool ended = false;
	int64_t patience_ms = silence_ms(serving);
	int64_t now_ms = glance_now_ms();

	for (size_t i = 0; i < serving->count; i++) {
		struct piece *piece = piece_at(serving, i);
		char text[GLANCE_TEXT_MAX];

		if (!piece->fetch || piece->fetch->is_paused ||
		    now_ms - piece->fetch->heard_ms < patience_ms ||
		    (i == 0 && serving->is_blocked))
			continue;
		stop_fetch(piece);
		snprintf(text, sizeof(text), "%s: nothing came for %g s",
			 serving->image.url, (double)patience_ms / 1000);
		note_failure(serving, piece, STORE_UNAVAILABLE, text, true, 0);
		ended = true;
	}
	return ended;
}

bool serving_finish(struct serving *serving)
{
	bool ended = false;
	CURLMsg *message;
	int left;

	while ((message = curl_multi_info_read(serving->image.multi, &left))) {
		CURLcode error = message->data.result;
		struct piece *piece;
		struct fetch *fetch;

		if (message->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE,
				  (char **)&fetch);
		piece = piece_of(serving, fetch);
		if (piece)
			serving_finish_piece(serving, piece, error);
		else
			fetch_stop(fetch);
		ended = true;
	}
	return end_silent(serving) || ended;
}

/* ---- requests ---- */

static struct fetch *free_fetch(struct serving *serving)
{
	for (size_t i = 1; i < GLANCE_FETCHES; i++)
		if (!serving->fetches[i].is_running)
			return &serving->fetches[i];
	return NULL;
}

/* Begin @fetch for @piece, up to @end. */
static void start(struct serving *serving, struct piece *piece, struct fetch *fetch,
		  uint64_t end)
{
	fetch->drain = NULL;
	fetch->context = serving;
	fetch->skip_to = piece_next(piece);
	if (fetch_start(fetch, piece_window(serving, piece), end, piece->fresh) < 0)
		note_failure(serving, piece, STORE_AGAIN, "out of memory", true, -1);
	else
		piece->fetch = fetch;
}

/* Ask for what is missing of @piece.  Returns false if nothing more can be asked for. */
static bool start_piece(struct serving *serving, struct piece *piece)
{
	struct fetch *fetch = free_fetch(serving);
	size_t room = MIN(piece->length, (uint64_t)GLANCE_WINDOW_BYTES);

	if (!fetch)
		return false;
	if (!piece->window.data) {
		piece->window = (struct window){
			.data = serving->buffers[--serving->free_buffers],
			.room = room,
			.offset = piece->offset,
		};
	}
	fetch->way = WAY_WINDOW;
	start(serving, piece, fetch, piece_end(piece));
	return true;
}

/* Whether the stream, as it runs, comes to the bytes of @piece. */
static bool stream_comes_to(struct serving *serving, const struct piece *piece)
{
	struct fetch *fetch = stream_fetch(serving);
	uint64_t at = serving->stream.offset;

	if (!fetch->is_running || at > piece_next(piece))
		return false;
	return serving->no_range ||
	       (at == piece_next(piece) && fetch->end >= piece_end(piece));
}

/* Have the stream come to what is missing of @piece. */
static void start_stream(struct serving *serving, struct piece *piece)
{
	struct window *window = &serving->stream;
	struct fetch *fetch = stream_fetch(serving);
	uint64_t end = piece_end(piece);

	if (stream_comes_to(serving, piece)) {
		fetch->skip_to = piece_next(piece);
		fetch->heard_ms = glance_now_ms();
		piece->fetch = fetch;
		return;
	}
	fetch_stop(fetch);
	window->start = window->fill = 0;
	window->offset = serving->no_range ? 0 : piece_next(piece);
	/* Who goes on reading will want the rest. */
	if (serving->no_range)
		end = UINT64_MAX;
	else if (piece->goes_on && serving->image.size != UINT64_MAX)
		end = MAX(end, serving->image.size);
	fetch->way = serving->is_pipe ? WAY_MAY_SPLICE : WAY_WINDOW;
	start(serving, piece, fetch, end);
}

/* Whether all of @piece that is not written yet is there. */
static bool is_complete(struct serving *serving, struct piece *piece)
{
	struct window *window = piece_window(serving, piece);

	return piece->sent == piece->length ||
	       (window->data && window->offset <= piece_next(piece) &&
		window_end(window) >= piece_end(piece));
}

/* Choose how the bytes of the first piece come, if that is still open. */
static void choose_way(struct serving *serving, struct piece *piece)
{
	struct fetch *fetch = stream_fetch(serving);

	if (piece->fetch || piece->window.data || piece->is_streamed)
		return;
	piece->is_streamed = serving->no_range || piece->length >= STREAM_BYTES ||
			     stream_comes_to(serving, piece);
	/* Somebody who reads here and there: the server need not keep it. */
	if (!piece->is_streamed && fetch->is_running)
		fetch_stop(fetch);
}

/* Whether @piece is to be asked for. */
static bool is_due(struct serving *serving, struct piece *piece)
{
	return !piece->fetch && piece->status == STORE_OK && !is_complete(serving, piece);
}

void serving_start(struct serving *serving)
{
	int64_t now_ms = glance_now_ms();
	struct piece *first = piece_at(serving, 0);

	if (serving->count > 0)
		choose_way(serving, first);
	for (size_t i = 0; i < serving->count; i++) {
		struct piece *piece = piece_at(serving, i);

		if (i > 0 && (serving->no_range || piece->length >= STREAM_BYTES))
			break;
		if (!is_due(serving, piece) || piece->retry_ms > now_ms)
			continue;
		if (piece->is_streamed)
			start_stream(serving, piece);
		else if (!start_piece(serving, piece))
			break;
	}
	/* What comes for the first can be written at once. */
	if (serving->count > 0 && first->fetch)
		first->fetch->drain = serving_drain;
}

int64_t serving_next_ms(struct serving *serving)
{
	int64_t next_ms = glance_now_ms() + LONGEST_WAIT_MS;

	/* Who does not read is waited for. */
	if (serving->count > 0 && !serving->is_blocked)
		next_ms = MIN(next_ms,
			      serving->since_ms + serving->session->http.patience_ms);
	for (size_t i = 0; i < serving->count; i++) {
		struct piece *piece = piece_at(serving, i);

		if (is_due(serving, piece) && piece->retry_ms > 0)
			next_ms = MIN(next_ms, piece->retry_ms);
		else if (piece->fetch && !piece->fetch->is_paused)
			next_ms = MIN(next_ms,
				      piece->fetch->heard_ms + silence_ms(serving));
	}
	return next_ms;
}

bool serving_resume(struct serving *serving)
{
	bool resumed = false;

	for (size_t i = 0; i < serving->count; i++) {
		struct piece *piece = piece_at(serving, i);
		struct fetch *fetch = piece->fetch;

		if (fetch && fetch->way == WAY_STOPPED) {
			resumed = true;
			if (!fetch_begin_splice(fetch) && !fetch->is_running)
				piece->fetch = fetch = NULL;
		}
		if (fetch && fetch->is_paused &&
		    piece_window(serving, piece)->fill == 0) {
			resumed = true;
			fetch_resume(fetch);
		}
	}
	return resumed;
}
