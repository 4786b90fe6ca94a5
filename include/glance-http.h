/* SPDX-License-Identifier: MIT */
/*
 * glance-http - what all requests have in common: TLS, time limits, redirections, what
 * answers mean, and when to try again.
 *
 * Statuses are those of imagefs-store.h.  Texts have URLs in them, but nothing secret.
 */
#ifndef IMAGEFS_GLANCE_HTTP_H
#define IMAGEFS_GLANCE_HTTP_H

#include <curl/curl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "glance-env.h"

#define GLANCE_TRIES 4 /* of one request in a row, without success */
#define GLANCE_TRIES_LOST 7 /* where it had worked, and now nobody answers: 6 s */
#define GLANCE_TEXT_MAX 400
#define GLANCE_REDIRECTS_MAX 5

/* What is the same for all requests.  Strings are borrowed from the glance_env. */
struct glance_http {
	const char *ca_file; /* the certificates that are trusted; NULL: the system's */
	const char *cert_file, *key_file; /* to show to the server, or NULL */
	int64_t patience_ms; /* without a byte so long: give up */
	char error[CURL_ERROR_SIZE]; /* of glance_http_call() */
};

void glance_http_init(struct glance_http *http, const struct glance_env *env);

/* Milliseconds of CLOCK_MONOTONIC. */
int64_t glance_now_ms(void);

/* A new handle for requests to http and https, or NULL: out of memory. */
CURL *glance_http_handle(const struct glance_http *http);

/* What came of a request, for glance_outcome_status() and people. */
struct glance_outcome {
	CURLcode error;
	const char *error_text; /* CURLOPT_ERRORBUFFER, or NULL */
	long code; /* HTTP status, 0 if there was none */
	const char *body; /* the beginning of it, where the code is no success; or NULL */
	int64_t retry_after_ms; /* -1: not said */
};

/* Fill in @error, @code and @retry_after_ms from a finished request. */
void glance_outcome_take(struct glance_outcome *outcome, CURL *easy, CURLcode error);

/*
 * The status for what is no success; *@ret_again says whether the same request may do
 * better later.
 */
int glance_outcome_status(const struct glance_outcome *outcome, bool *ret_again);

/* Say it in words: "URL: 503 Service Unavailable: ...". */
void glance_outcome_text(const struct glance_outcome *outcome, const char *url,
			 char text[GLANCE_TEXT_MAX]);

/*
 * How long to wait before try number @tries, from 1, in milliseconds: as the server said,
 * else longer each time.
 */
int64_t glance_pause_ms(const struct glance_outcome *outcome, unsigned tries);

/*
 * Where the answer of @easy redirects to, for the caller to free; *@ret_elsewhere says
 * whether that is another host, which no token may be sent to.  NULL if it does not
 * redirect, or to another scheme, which is not followed.
 */
char *glance_redirect(CURL *easy, long code, bool *ret_elsewhere);

/* An answer with all of its body.  Zero-initialize; ended with glance_answer_fini(). */
struct glance_answer {
	long code;
	char *body; /* @size bytes and a NUL */
	size_t size;
	size_t room;
	bool too_large;
	char *token; /* X-Subject-Token, or NULL */
	char text[GLANCE_TEXT_MAX]; /* what went wrong */
};

/*
 * Make one request: POST @post (JSON) if it is not NULL, else GET.  @headers may be NULL.
 * Tries again where that may help, until @deadline_ms.  Blocks.  Returns STORE_OK with the
 * answer, a success, in *@ret_answer, or another status with @text in it.
 */
int glance_http_call(struct glance_http *http, const char *url, const char *post,
		     struct curl_slist *headers, int64_t deadline_ms,
		     struct glance_answer *ret_answer);

/* Forgets what is secret. */
void glance_answer_fini(struct glance_answer *answer);

#endif
