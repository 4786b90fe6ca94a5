/* SPDX-License-Identifier: MIT */
#include <ctype.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "cleanup.h"
#include "glance-http.h"
#include "glance-uri.h"
#include "imagefs-store.h"

#define STALL_MS_DEFAULT 30000
#define ANSWER_MAX ((size_t)64 << 20)
#define FIRST_PAUSE_MS 100

static void curl_easyp(CURL **easy)
{
	curl_easy_cleanup(*easy);
}

static void json_freep(json_t **json)
{
	json_decref(*json);
}

int64_t glance_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void glance_http_init(struct glance_http *http, const struct glance_env *env)
{
	const char *text = getenv("IMAGEFS_STALL_MS");
	long long stall_ms = text ? atoll(text) : 0;

	if (stall_ms <= 0 || stall_ms > INT32_MAX)
		stall_ms = STALL_MS_DEFAULT;
	*http = (struct glance_http){
		.ca_file = glance_env_get(env, "OS_CACERT"),
		.cert_file = glance_env_get(env, "OS_CERT"),
		.key_file = glance_env_get(env, "OS_KEY"),
		/* What is left is for saying so before this program is killed. */
		.patience_ms = stall_ms - (stall_ms > 15000 ? 3000 : stall_ms / 5),
	};
}

CURL *glance_http_handle(const struct glance_http *http)
{
	CURL *easy = curl_easy_init();

	if (!easy)
		return NULL;
	/* That the peer is verified is libcurl's default, and nothing turns it off. */
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1l);
	curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
	/* Requests side by side have connections of their own. */
	curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(easy, CURLOPT_USERAGENT, "imagefs/" VERSION);
	curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1l);
	curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)http->patience_ms);
	if (http->ca_file) {
		curl_easy_setopt(easy, CURLOPT_CAINFO, http->ca_file);
		/* These alone, and not the system's as well. */
		curl_easy_setopt(easy, CURLOPT_CAPATH, NULL);
	}
	if (http->cert_file)
		curl_easy_setopt(easy, CURLOPT_SSLCERT, http->cert_file);
	if (http->key_file)
		curl_easy_setopt(easy, CURLOPT_SSLKEY, http->key_file);
	return easy;
}

/* ---- what came of a request ---- */

void glance_outcome_take(struct glance_outcome *outcome, CURL *easy, CURLcode error)
{
	curl_off_t seconds = 0;

	outcome->error = error;
	outcome->code = 0;
	outcome->retry_after_ms = -1;
	curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &outcome->code);
	if (!curl_easy_getinfo(easy, CURLINFO_RETRY_AFTER, &seconds) && seconds > 0)
		outcome->retry_after_ms =
			seconds < INT32_MAX ? seconds * 1000 : INT32_MAX;
}

static int status_of_error(CURLcode error, bool *ret_again)
{
	switch (error) {
	case CURLE_OUT_OF_MEMORY:
		return STORE_AGAIN;
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_CACERT_BADFILE:
	case CURLE_SSL_CERTPROBLEM:
	case CURLE_SSL_CIPHER:
	case CURLE_SSL_ISSUER_ERROR:
	case CURLE_UNSUPPORTED_PROTOCOL:
	case CURLE_URL_MALFORMAT:
		*ret_again = false;
		return STORE_UNAVAILABLE;
	default:
		return STORE_UNAVAILABLE;
	}
}

int glance_outcome_status(const struct glance_outcome *outcome, bool *ret_again)
{
	long code = outcome->code;

	*ret_again = true;
	if (outcome->error)
		return status_of_error(outcome->error, ret_again);
	if (code == 413 || code == 429 || code == 503)
		return STORE_AGAIN;
	if (code >= 500)
		return STORE_UNAVAILABLE;
	*ret_again = code == 408 || code == 425;
	if (code == 401 || code == 403 || code == 407)
		return STORE_DENIED;
	if (code == 404 || code == 410)
		return STORE_GONE;
	return STORE_IO;
}

/* The words of RFC 9110 for the codes that people meet. */
static const char *reason(long code)
{
	static const struct {
		long code;
		const char *text;
	} reasons[] = {
		{204, "No Content"},	    {400, "Bad Request"},
		{401, "Unauthorized"},	    {403, "Forbidden"},
		{404, "Not Found"},	    {410, "Gone"},
		{413, "Content Too Large"}, {416, "Range Not Satisfiable"},
		{429, "Too Many Requests"}, {500, "Internal Server Error"},
		{502, "Bad Gateway"},	    {503, "Service Unavailable"},
		{504, "Gateway Timeout"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(reasons); i++)
		if (reasons[i].code == code)
			return reasons[i].text;
	return "";
}

/*
 * Skip what is not for people in HTML: tags, and title and headline, which say the code
 * again.
 */
static const char *skip_tag(const char *body)
{
	const char *end = NULL;

	if (strncasecmp(body, "<title>", 7) == 0)
		end = strcasestr(body, "</title>");
	else if (strncasecmp(body, "<h1>", 4) == 0)
		end = strcasestr(body, "</h1>");
	end = strchr(end ? end : body, '>');
	return end ? end : body + strlen(body) - 1;
}

/* The words of a body, whether HTML or not, on one line. */
static void append_body(char *text, size_t room, const char *body)
{
	size_t used = strlen(text);
	bool space = false;

	if (*body && used + 3 < room) {
		memcpy(text + used, ": ", 3);
		used += 2;
	}
	for (const char *from = body; *from && used + 2 < room; from++) {
		unsigned char c = *from;

		if (c == '<') {
			from = skip_tag(from);
			space = true;
		} else if (isspace(c)) {
			space = true;
		} else {
			if (space && text[used - 1] != ' ')
				text[used++] = ' ';
			space = false;
			text[used++] = c;
		}
	}
	while (used > 0 && strchr(": ", text[used - 1]))
		used--;
	text[used] = '\0';
}

/* The words of an answer: Keystone's are {"error": {"message": ...}}. */
static void append_words(char *text, size_t room, const char *body)
{
	CLEANUP(json_freep) json_t *json = json_loads(body, 0, NULL);
	const json_t *error = json_object_get(json, "error");
	const char *message = json_string_value(json_object_get(error, "message"));

	append_body(text, room, message ? message : body);
}

void glance_outcome_text(const struct glance_outcome *outcome, const char *url,
			 char text[GLANCE_TEXT_MAX])
{
	const char *query = strchr(url, '?');
	int length = query ? (int)(query - url) : (int)strlen(url);

	if (outcome->error) {
		snprintf(text, GLANCE_TEXT_MAX, "%.*s: %s", length, url,
			 outcome->error_text && *outcome->error_text
				 ? outcome->error_text
				 : curl_easy_strerror(outcome->error));
		return;
	}
	snprintf(text, GLANCE_TEXT_MAX, "%.*s: %ld %s", length, url, outcome->code,
		 reason(outcome->code));
	if (outcome->body)
		append_words(text, GLANCE_TEXT_MAX, outcome->body);
}

int64_t glance_pause_ms(const struct glance_outcome *outcome, unsigned tries)
{
	if (outcome->retry_after_ms >= 0)
		return outcome->retry_after_ms;
	return FIRST_PAUSE_MS << (tries < 6 ? tries - 1 : 5);
}

char *glance_redirect(CURL *easy, long code, bool *ret_elsewhere)
{
	const char *from = NULL, *to = NULL;
	size_t origin;

	if (code != 301 && code != 302 && code != 303 && code != 307 && code != 308)
		return NULL;
	curl_easy_getinfo(easy, CURLINFO_EFFECTIVE_URL, &from);
	curl_easy_getinfo(easy, CURLINFO_REDIRECT_URL, &to);
	if (!from || !to || strncasecmp(from, to, strcspn(from, ":") + 1) != 0)
		return NULL;
	origin = glance_origin(from);
	*ret_elsewhere =
		glance_origin(to) != origin || strncasecmp(from, to, origin) != 0;
	return strdup(to);
}

/* ---- answers that are kept whole ---- */

static size_t take_body(char *data, size_t one, size_t size, void *context)
{
	struct glance_answer *answer = context;

	if (answer->size + size > ANSWER_MAX) {
		answer->too_large = true;
		return 0;
	}
	if (answer->size + size >= answer->room) {
		size_t room = 2 * answer->room + size + 4096;
		char *body = malloc(room);

		if (!body)
			return 0;
		/* Not realloc(3): a token may be in it, which must not stay behind. */
		if (answer->body) {
			memcpy(body, answer->body, answer->size);
			explicit_bzero(answer->body, answer->size);
			free(answer->body);
		}
		answer->body = body;
		answer->room = room;
	}
	memcpy(answer->body + answer->size, data, size);
	answer->size += size;
	answer->body[answer->size] = '\0';
	return size;
}

static size_t take_header(char *line, size_t one, size_t size, void *context)
{
	static const char name[] = "X-Subject-Token:";
	struct glance_answer *answer = context;
	size_t start = sizeof(name) - 1, end = size;

	if (size < start || strncasecmp(line, name, start) != 0)
		return size;
	while (start < end && isspace((unsigned char)line[start]))
		start++;
	while (end > start && isspace((unsigned char)line[end - 1]))
		end--;
	free(answer->token);
	answer->token = strndup(line + start, end - start);
	return answer->token ? size : 0;
}

static void forget(struct glance_answer *answer)
{
	if (answer->body)
		explicit_bzero(answer->body, answer->size);
	if (answer->token)
		explicit_bzero(answer->token, strlen(answer->token));
	free(answer->body);
	free(answer->token);
	answer->body = answer->token = NULL;
	answer->size = answer->room = 0;
	answer->code = 0;
}

void glance_answer_fini(struct glance_answer *answer)
{
	forget(answer);
}

/* One try, which may follow redirections.  Returns what it came to. */
static struct glance_outcome try(struct glance_http *http, CURL *easy, const char *post,
				 int64_t deadline_ms, struct glance_answer *answer)
{
	struct glance_outcome outcome;

	for (int redirects = 0;; redirects++) {
		int64_t left_ms = deadline_ms - glance_now_ms();
		CLEANUP(freep) char *to = NULL;
		bool elsewhere;

		forget(answer);
		http->error[0] = '\0';
		curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS,
				 (long)(left_ms > 1 ? left_ms : 1));
		outcome = (struct glance_outcome){.error_text = http->error};
		glance_outcome_take(&outcome, easy, curl_easy_perform(easy));
		answer->code = outcome.code;
		outcome.body = answer->body;
		/* What was posted is for nobody else. */
		if (outcome.error || post || redirects == GLANCE_REDIRECTS_MAX)
			return outcome;
		to = glance_redirect(easy, outcome.code, &elsewhere);
		if (!to)
			return outcome;
		curl_easy_setopt(easy, CURLOPT_URL, to);
		if (elsewhere)
			curl_easy_setopt(easy, CURLOPT_HTTPHEADER, NULL);
	}
}

static void sleep_ms(int64_t ms)
{
	struct timespec left = {ms / 1000, ms % 1000 * 1000000};

	nanosleep(&left, NULL);
}

static void prepare(struct glance_http *http, CURL *easy, const char *url,
		    const char *post, struct curl_slist *headers,
		    struct glance_answer *answer)
{
	curl_easy_setopt(easy, CURLOPT_URL, url);
	curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, http->error);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_body);
	curl_easy_setopt(easy, CURLOPT_WRITEDATA, answer);
	curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, take_header);
	curl_easy_setopt(easy, CURLOPT_HEADERDATA, answer);
	if (post) {
		curl_easy_setopt(easy, CURLOPT_POST, 1l);
		curl_easy_setopt(easy, CURLOPT_POSTFIELDS, post);
		curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE,
				 (curl_off_t)strlen(post));
	}
}

int glance_http_call(struct glance_http *http, const char *url, const char *post,
		     struct curl_slist *headers, int64_t deadline_ms,
		     struct glance_answer *ret_answer)
{
	CLEANUP(curl_easyp) CURL *easy = glance_http_handle(http);
	struct glance_answer *answer = ret_answer;

	if (!easy) {
		snprintf(answer->text, sizeof(answer->text), "out of memory");
		return STORE_AGAIN;
	}
	for (unsigned tries = 1;; tries++) {
		struct glance_outcome outcome;
		int64_t pause_ms;
		bool again;
		int status;

		prepare(http, easy, url, post, headers, answer);
		outcome = try(http, easy, post, deadline_ms, answer);
		if (!outcome.error && outcome.code >= 200 && outcome.code < 300)
			return STORE_OK;
		status = glance_outcome_status(&outcome, &again);
		glance_outcome_text(&outcome, url, answer->text);
		if (answer->too_large) {
			snprintf(answer->text, sizeof(answer->text),
				 "the answer is larger than %zu bytes", ANSWER_MAX);
			return STORE_IO;
		}
		pause_ms = glance_pause_ms(&outcome, tries);
		if (!again || tries == GLANCE_TRIES ||
		    glance_now_ms() + pause_ms >= deadline_ms)
			return status;
		sleep_ms(pause_ms);
	}
}
