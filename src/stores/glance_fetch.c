/* SPDX-License-Identifier: MIT */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cleanup.h"
#include "glance-fetch.h"
#include "imagefs-store.h"

#define BUFFER_BYTES (512l << 10) /* the most that libcurl takes */
#define BUFFER_BYTES_SPLICE (16l << 10)

void window_take(struct window *window, size_t size)
{
	window->start += size;
	window->offset += size;
	if (window->start == window->fill)
		window->start = window->fill = 0;
}

uint64_t window_end(const struct window *window)
{
	return window->offset + (window->fill - window->start);
}

/* Note what is wrong with the answer, which ends it. */
__attribute__((format(printf, 3, 4))) static void fault(struct fetch *fetch, int status,
							const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(fetch->text, sizeof(fetch->text), format, arguments);
	va_end(arguments);
	fetch->status = status;
}

/* ---- the head of an answer ---- */

/* The value of the header @name on @line of @size bytes; NULL if it is another one. */
static const char *value_of(const char *line, size_t size, const char *name)
{
	size_t length = strlen(name);

	if (size <= length || line[length] != ':' || strncasecmp(line, name, length) != 0)
		return NULL;
	line += length + 1;
	return line + strspn(line, " \t");
}

/* "bytes FIRST-LAST/SIZE", or "bytes" with "*" for a part that is not there. */
static void take_content_range(struct fetch *fetch, const char *value)
{
	unsigned long long first, last, total;

	if (sscanf(value, "bytes %llu-%llu/%llu", &first, &last, &total) == 3) {
		fetch->range_start = first;
		fetch->range_end = last + 1;
		fetch->range_total = total;
	} else if (sscanf(value, "bytes %llu-%llu/*", &first, &last) == 2) {
		fetch->range_start = first;
		fetch->range_end = last + 1;
	} else if (sscanf(value, "bytes */%llu", &total) == 1) {
		fetch->range_total = total;
	}
}

static void begin_head(struct fetch *fetch)
{
	fetch->is_judged = fetch->is_good = fetch->encoded = false;
	fetch->range_start = fetch->range_end = fetch->range_total = UINT64_MAX;
	fetch->md5[0] = '\0';
	fetch->body_size = 0;
}

static size_t take_header(char *data, size_t one, size_t size, void *context)
{
	struct fetch *fetch = context;
	char line[256];
	size_t length = size < sizeof(line) ? size : sizeof(line) - 1;
	const char *value;

	fetch->heard_ms = glance_now_ms();
	memcpy(line, data, length);
	line[length] = '\0';
	line[strcspn(line, "\r\n")] = '\0';
	/* There may be more than one: "100 Continue", or a proxy's. */
	if (strncmp(line, "HTTP/", 5) == 0)
		begin_head(fetch);
	value = value_of(line, length, "Content-Range");
	if (value)
		take_content_range(fetch, value);
	value = value_of(line, length, "Content-MD5");
	if (value)
		snprintf(fetch->md5, sizeof(fetch->md5), "%.63s", value);
	value = value_of(line, length, "Content-Encoding");
	if (value && *value && strcasecmp(value, "identity") != 0)
		fetch->encoded = true;
	return size;
}

/* See whether the answer is about the same content as the others were. */
static bool check_version(struct fetch *fetch, uint64_t size)
{
	struct glance_image *image = fetch->image;

	if (size != UINT64_MAX && image->size == UINT64_MAX)
		image->size = size;
	if (*fetch->md5 && !*image->md5)
		snprintf(image->md5, sizeof(image->md5), "%s", fetch->md5);
	if (size != UINT64_MAX && size != image->size)
		fault(fetch, STORE_GONE,
		      "the image has changed: it had %" PRIu64 " bytes, now %" PRIu64,
		      image->size, size);
	else if (*fetch->md5 && strcmp(fetch->md5, image->md5) != 0)
		fault(fetch, STORE_GONE,
		      "the image has changed: its checksum is another one");
	return fetch->status == STORE_OK;
}

/* An answer to a request with a Range: of that part, or of the beginning of it. */
static bool judge_part(struct fetch *fetch)
{
	if (fetch->range_start != fetch->start || fetch->range_end <= fetch->start ||
	    fetch->range_end > fetch->end) {
		fault(fetch, STORE_IO,
		      "asked for the bytes %" PRIu64 "-%" PRIu64
		      ", Glance answers with others, or does not say with which",
		      fetch->start, fetch->end - 1);
		return false;
	}
	return check_version(fetch, fetch->range_total);
}

static bool judge_whole(struct fetch *fetch)
{
	curl_off_t length = -1;

	curl_easy_getinfo(fetch->easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
	return check_version(fetch, length < 0 ? UINT64_MAX : (uint64_t)length);
}

/* Look at the head of the answer, whose body begins. */
static void judge(struct fetch *fetch)
{
	bool whole = fetch->end == UINT64_MAX;
	long code = 0;

	fetch->is_judged = true;
	curl_easy_getinfo(fetch->easy, CURLINFO_RESPONSE_CODE, &code);
	if (code == 200 && !whole)
		fetch->no_range = true;
	else if (fetch->encoded && (code == 200 || code == 206))
		fault(fetch, STORE_IO,
		      "the answer is compressed, which was not asked for");
	else if (code == 206 && !whole)
		fetch->is_good = judge_part(fetch);
	else if (code == 200)
		fetch->is_good = judge_whole(fetch);
}

/* ---- its body ---- */

/* Keep the beginning of what is said instead of the image. */
static size_t take_words(struct fetch *fetch, const char *data, size_t size)
{
	size_t room = sizeof(fetch->body) - 1 - fetch->body_size;
	size_t part = size < room ? size : room;

	memcpy(fetch->body + fetch->body_size, data, part);
	fetch->body_size += part;
	fetch->body[fetch->body_size] = '\0';
	return size;
}

static size_t room_of(const struct window *window)
{
	return window->room - window->fill;
}

/* Have libcurl leave what comes next in the socket, if it can be taken from there. */
static void stop_reading(struct fetch *fetch)
{
	bool can = fetch->window->offset >= fetch->skip_to && fetch_can_splice(fetch) &&
		   !curl_easy_pause(fetch->easy, CURLPAUSE_RECV);

	fetch->way = can ? WAY_STOPPED : WAY_WINDOW;
}

static size_t take_body(char *data, size_t one, size_t size, void *context)
{
	struct fetch *fetch = context;
	struct window *window = fetch->window;
	uint64_t at = window_end(window);
	size_t skipped = 0;

	fetch->heard_ms = glance_now_ms();
	if (!fetch->is_judged)
		judge(fetch);
	if (fetch->no_range || fetch->status != STORE_OK)
		return 0;
	if (!fetch->is_good)
		return take_words(fetch, data, size);
	if (size > fetch->end - at ||
	    (fetch->range_end != UINT64_MAX && size > fetch->range_end - at)) {
		fault(fetch, STORE_IO, "Glance sends more than it was asked for");
		return 0;
	}
	if (at < fetch->skip_to && window->fill == 0)
		skipped = size < fetch->skip_to - at ? size : fetch->skip_to - at;
	if (size - skipped > room_of(window) && fetch->drain)
		fetch->drain(fetch->context);
	if (size - skipped > room_of(window)) {
		fetch->is_paused = true;
		return CURL_WRITEFUNC_PAUSE;
	}
	window->offset += skipped;
	memcpy(window->data + window->fill, data + skipped, size - skipped);
	window->fill += size - skipped;
	if (fetch->way == WAY_MAY_SPLICE)
		stop_reading(fetch);
	return size;
}

/* ---- the request ---- */

int fetch_init(struct fetch *fetch, struct glance_image *image)
{
	CURL *easy = glance_http_handle(&image->session->http);

	if (!easy)
		return -ENOMEM;
	fetch->image = image;
	fetch->easy = easy;
	curl_easy_setopt(easy, CURLOPT_PRIVATE, fetch);
	curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, fetch->error);
	curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, take_header);
	curl_easy_setopt(easy, CURLOPT_HEADERDATA, fetch);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_body);
	curl_easy_setopt(easy, CURLOPT_WRITEDATA, fetch);
	fetch_init_splice(fetch);
	return 0;
}

void fetch_fini(struct fetch *fetch)
{
	if (!fetch->easy)
		return;
	fetch_stop(fetch);
	curl_easy_cleanup(fetch->easy);
	fetch->easy = NULL;
}

/* Send the request for what is still missing to @url. */
static int send_request(struct fetch *fetch, const char *url, bool with_token)
{
	struct glance_session *session = fetch->image->session;
	char range[64];

	begin_head(fetch);
	fetch_forget_sockets(fetch);
	fetch->start = window_end(fetch->window);
	fetch->no_range = fetch->is_paused = false;
	fetch->status = STORE_OK;
	fetch->text[0] = fetch->error[0] = '\0';
	fetch->heard_ms = glance_now_ms();
	fetch->login = session->logins;
	snprintf(range, sizeof(range), "%" PRIu64 "-%" PRIu64, fetch->start,
		 fetch->end - 1);
	if (curl_easy_setopt(fetch->easy, CURLOPT_URL, url) ||
	    curl_easy_setopt(fetch->easy, CURLOPT_RANGE,
			     fetch->end == UINT64_MAX ? NULL : range) ||
	    curl_easy_setopt(fetch->easy, CURLOPT_HTTPHEADER,
			     with_token ? session->headers : NULL) ||
	    curl_multi_add_handle(fetch->image->multi, fetch->easy))
		return -ENOMEM;
	fetch->is_running = true;
	return 0;
}

int fetch_start(struct fetch *fetch, struct window *window, uint64_t end, bool fresh)
{
	bool may_splice = fetch->way == WAY_MAY_SPLICE;

	fetch->window = window;
	fetch->end = end;
	fetch->redirects = 0;
	/*
	 * How much libcurl has read is known of a new connection only; and it had better not
	 * be much.
	 */
	curl_easy_setopt(fetch->easy, CURLOPT_FRESH_CONNECT, (long)(fresh || may_splice));
	curl_easy_setopt(fetch->easy, CURLOPT_BUFFERSIZE,
			 may_splice ? BUFFER_BYTES_SPLICE : BUFFER_BYTES);
	return send_request(fetch, fetch->image->url, true);
}

void fetch_stop(struct fetch *fetch)
{
	if (fetch->is_running && fetch->way != WAY_SPLICE)
		curl_multi_remove_handle(fetch->image->multi, fetch->easy);
	fetch_end_splice(fetch);
	fetch->is_running = false;
}

void fetch_resume(struct fetch *fetch)
{
	if (!fetch->is_paused)
		return;
	fetch->is_paused = false;
	fetch->heard_ms = glance_now_ms();
	curl_easy_pause(fetch->easy, CURLPAUSE_CONT);
}

/* ---- the end of it ---- */

static enum fetch_result fail(struct fetch *fetch, bool may_retry)
{
	fetch->may_retry = may_retry;
	return FETCH_FAILED;
}

/* An answer that is no success, or none at all. */
static enum fetch_result fail_outcome(struct fetch *fetch, struct glance_outcome *outcome)
{
	outcome->body = fetch->body_size > 0 ? fetch->body : NULL;
	fetch->status = glance_outcome_status(outcome, &fetch->may_retry);
	fetch->pause_ms = outcome->retry_after_ms;
	glance_outcome_text(outcome, fetch->image->url, fetch->text);
	return FETCH_FAILED;
}

/* A success, as far as it came. */
static enum fetch_result finish_good(struct fetch *fetch, struct glance_outcome *outcome)
{
	uint64_t at = window_end(fetch->window);
	uint64_t end = fetch->end == UINT64_MAX ? fetch->image->size : fetch->end;

	glance_session_accepted(fetch->image->session);
	if (at == end || (end == UINT64_MAX && !outcome->error))
		return FETCH_DONE;
	fail_outcome(fetch, outcome);
	if (!outcome->error)
		fault(fetch, STORE_UNAVAILABLE, "%s: the answer ends at byte %" PRIu64,
		      fetch->image->url, at);
	/* What did come is good. */
	fetch->may_retry = true;
	fetch->pause_ms = -1;
	return FETCH_CUT;
}

/* Follow a redirection if that is allowed. */
static bool follow(struct fetch *fetch, long code)
{
	bool elsewhere;
	CLEANUP(freep) char *to = glance_redirect(fetch->easy, code, &elsewhere);

	if (!to || fetch->redirects++ == GLANCE_REDIRECTS_MAX)
		return false;
	return send_request(fetch, to, !elsewhere) == 0;
}

enum fetch_result fetch_finish(struct fetch *fetch, CURLcode error)
{
	struct glance_outcome outcome = {.error_text = fetch->error};

	fetch_stop(fetch);
	fetch->pause_ms = -1;
	glance_outcome_take(&outcome, fetch->easy, error);
	if (!fetch->is_judged && outcome.code)
		judge(fetch);
	if (fetch->no_range)
		return FETCH_NO_RANGE;
	if (fetch->status != STORE_OK)
		return fail(fetch, fetch->status == STORE_IO);
	if (fetch->is_good)
		return finish_good(fetch, &outcome);
	if (error)
		return fail_outcome(fetch, &outcome);
	if (outcome.code == 401)
		return FETCH_REFUSED;
	/* Glance's answer to any Range of an image that its store has no seek for. */
	if (outcome.code == 400 && fetch->end != UINT64_MAX)
		return FETCH_NO_RANGE;
	if (follow(fetch, outcome.code))
		return FETCH_AGAIN;
	fail_outcome(fetch, &outcome);
	if (outcome.code == 416) {
		fault(fetch, STORE_GONE, "%s: the image has no byte %" PRIu64 " (416)",
		      fetch->image->url, fetch->end - 1);
	} else if (outcome.code == 204) {
		fetch->may_retry = true;
		fault(fetch, STORE_IO, "%s: Glance has no data for this image (204)",
		      fetch->image->url);
	} else if (outcome.code >= 300 && outcome.code < 400) {
		fault(fetch, STORE_UNAVAILABLE,
		      "%s: redirected (%ld) to where is not followed; name the right host in the "
		      "store's URI",
		      fetch->image->url, outcome.code);
	}
	return FETCH_FAILED;
}
