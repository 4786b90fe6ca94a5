/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cleanup.h"
#include "glance-login.h"
#include "glance-session.h"
#include "serve.h"

static void session_freep(struct glance_session **session)
{
	glance_session_free(*session);
}

/* Read the variables anew: whoever renews the file renews what is in it. */
static int read_variables(struct glance_session *session)
{
	char problem[GLANCE_TEXT_MAX];
	struct glance_env *env;
	int error = glance_env_new(session->uri.env_file, &env, problem, sizeof(problem));

	if (error < 0) {
		store_error("%s", problem);
		if (error == -ENOMEM)
			return STORE_AGAIN;
		return error == -EACCES || error == -EPERM ? STORE_DENIED : STORE_USAGE;
	}
	glance_env_free(session->env);
	session->env = env;
	glance_http_init(&session->http, env);
	return STORE_OK;
}

static struct curl_slist *make_headers(const char *token)
{
	struct curl_slist *headers;
	char *header;

	if (asprintf(&header, "X-Auth-Token: %s", token) < 0)
		return NULL;
	headers = curl_slist_append(NULL, header);
	explicit_bzero(header, strlen(header));
	free(header);
	return headers;
}

/* Make @token the one that is used; it is NULL where none is needed. */
static int set_token(struct glance_session *session, const char *token)
{
	struct curl_slist **old, *headers = token ? make_headers(token) : NULL;

	old = reallocarray(session->old_headers, session->old_count + 1, sizeof(*old));
	if (!old || (token && !headers)) {
		store_error("out of memory");
		session->old_headers = old ? old : session->old_headers;
		curl_slist_free_all(headers);
		return STORE_AGAIN;
	}
	session->old_headers = old;
	if (session->headers)
		old[session->old_count++] = session->headers;
	session->headers = headers;
	session->logins++;
	return STORE_OK;
}

static int log_in(struct glance_session *session, int64_t deadline_ms)
{
	bool wanted = !session->endpoint;
	struct glance_login login;
	int status =
		glance_login(&session->http, session->env, wanted, deadline_ms, &login);

	if (status != STORE_OK)
		return status;
	if (wanted && session->uri.secure &&
	    strncasecmp(login.endpoint, "https:", 6) != 0) {
		store_error("the endpoint %s has no TLS, which the store's URI asks for",
			    login.endpoint);
		status = STORE_USAGE;
	} else if (wanted) {
		session->endpoint = STEAL(login.endpoint);
	}
	if (status == STORE_OK)
		status = set_token(session, login.token);
	glance_login_fini(&login);
	return status;
}

int glance_session_new(const char *uri, struct glance_session **ret_session)
{
	CLEANUP(session_freep)
	struct glance_session *session = calloc(1, sizeof(*session));
	const char *problem = "";
	int status;

	if (!session || curl_global_init(CURL_GLOBAL_DEFAULT)) {
		store_error("out of memory");
		return STORE_AGAIN;
	}
	if (glance_uri_init(&session->uri, uri, &problem) < 0) {
		/* Not the URI: it may have what does not belong in it. */
		store_error("not the URI of a Glance (glance+http://HOST[:PORT]/): %s",
			    *problem ? problem : "out of memory");
		return *problem ? STORE_USAGE : STORE_AGAIN;
	}
	status = read_variables(session);
	if (status == STORE_OK && session->uri.endpoint) {
		session->endpoint = strdup(session->uri.endpoint);
		if (!session->endpoint)
			status = STORE_AGAIN;
	}
	if (status == STORE_OK)
		status = log_in(session, glance_now_ms() + session->http.patience_ms);
	if (status == STORE_OK)
		*ret_session = STEAL(session);
	return status;
}

static void wipe_headers(struct curl_slist *headers)
{
	for (struct curl_slist *each = headers; each; each = each->next)
		explicit_bzero(each->data, strlen(each->data));
	curl_slist_free_all(headers);
}

void glance_session_free(struct glance_session *session)
{
	if (!session)
		return;
	wipe_headers(session->headers);
	for (size_t i = 0; i < session->old_count; i++)
		wipe_headers(session->old_headers[i]);
	free(session->old_headers);
	free(session->endpoint);
	glance_uri_fini(&session->uri);
	glance_env_free(session->env);
	free(session);
	curl_global_cleanup();
}

/* Whether @before and what is used now are one token. */
static bool is_same(const struct curl_slist *before, const struct curl_slist *now)
{
	if (!before || !now)
		return before == now;
	return strcmp(before->data, now->data) == 0;
}

void glance_session_accepted(struct glance_session *session)
{
	session->refusals = 0;
}

int glance_session_renew(struct glance_session *session, unsigned login,
			 int64_t deadline_ms)
{
	const struct curl_slist *before = session->headers;
	int status;

	if (login != session->logins)
		return STORE_OK;
	if (!before || session->refusals++ > 0) {
		store_error(
			before ? "Glance does not take the token (401)"
			       : "Glance wants a login (401): set OS_AUTH_URL, OS_USERNAME, "
				 "... (imagefs-glance(7))");
		return STORE_DENIED;
	}
	status = read_variables(session);
	if (status == STORE_OK)
		status = log_in(session, deadline_ms);
	if (status == STORE_OK && is_same(before, session->headers)) {
		store_error("the token in OS_TOKEN is no longer good (401)");
		status = STORE_DENIED;
	}
	return status;
}

int glance_session_get(struct glance_session *session, const char *url,
		       struct glance_answer *ret_answer)
{
	int64_t deadline_ms = glance_now_ms() + session->http.patience_ms;

	for (;;) {
		unsigned login = session->logins;
		int status = glance_http_call(&session->http, url, NULL, session->headers,
					      deadline_ms, ret_answer);

		if (ret_answer->code != 401)
			glance_session_accepted(session);
		if (status != STORE_DENIED || ret_answer->code != 401)
			return status;
		ret_answer->text[0] = '\0';
		status = glance_session_renew(session, login, deadline_ms);
		if (status != STORE_OK)
			return status;
	}
}
