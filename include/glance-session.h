/* SPDX-License-Identifier: MIT */
/*
 * glance-session - a Glance that one is logged in to, and stays so: a token that has become
 * worthless is renewed.
 */
#ifndef IMAGEFS_GLANCE_SESSION_H
#define IMAGEFS_GLANCE_SESSION_H

#include <stdbool.h>
#include <stdint.h>

#include "glance-env.h"
#include "glance-http.h"
#include "glance-uri.h"

struct glance_session {
	struct glance_uri uri;
	struct glance_env *env;
	struct glance_http http;
	char *endpoint;
	unsigned logins; /* how many there were: names the token */
	unsigned refusals; /* 401s in a row, without a token that was taken between */
	struct curl_slist *headers; /* with the token; NULL: none is needed */
	/* Those of tokens before it, which requests under way may still refer to. */
	struct curl_slist **old_headers;
	size_t old_count;
};

/*
 * Log in to the Glance that @uri names.  The caller owns *@ret_session.  Returns STORE_OK,
 * or another status, having said why.
 */
int glance_session_new(const char *uri, struct glance_session **ret_session);

/* NULL is taken. */
void glance_session_free(struct glance_session *session);

/* A request with the token that is used now was no 401. */
void glance_session_accepted(struct glance_session *session);

/*
 * A request with the token of login number @login was answered 401.  Log in again, if
 * nobody has since and this is the first one in a row.  Blocks, until @deadline_ms.
 * Returns STORE_OK: try again; or another status, having said why.
 */
int glance_session_renew(struct glance_session *session, unsigned login,
			 int64_t deadline_ms);

/*
 * Get @url, which is the endpoint's, with the token.  Blocks, for the store's patience.
 * Returns STORE_OK with the answer, or another status with @text in it, unless it was
 * said.  The caller ends the answer.
 */
int glance_session_get(struct glance_session *session, const char *url,
		       struct glance_answer *ret_answer);

#endif
