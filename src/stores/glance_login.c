/* SPDX-License-Identifier: MIT */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cleanup.h"
#include "glance-login.h"
#include "glance-uri.h"
#include "serve.h"

#define DEFAULT_DOMAIN "default" /* the id of the one that every Keystone has */

enum method { METHOD_NONE, METHOD_TOKEN, METHOD_PASSWORD, METHOD_CREDENTIAL };

static const struct {
	const char *name;
	enum method method;
} types[] = {
	{"none", METHOD_NONE},
	{"noauth", METHOD_NONE},
	{"token", METHOD_TOKEN},
	{"v3token", METHOD_TOKEN},
	{"admin_token", METHOD_TOKEN},
	{"password", METHOD_PASSWORD},
	{"v3password", METHOD_PASSWORD},
	{"v3applicationcredential", METHOD_CREDENTIAL},
	{"application_credential", METHOD_CREDENTIAL},
};

/* What a login goes by. */
struct attempt {
	struct glance_http *http;
	const struct glance_env *env;
	int64_t deadline_ms;
	enum method method;
};

static void json_freep(json_t **json)
{
	json_decref(*json);
}

static void wipep(char **text)
{
	if (*text)
		explicit_bzero(*text, strlen(*text));
	free(*text);
}

/* The value of the first of the names that is set. */
static const char *either(const struct glance_env *env, const char *one,
			  const char *other)
{
	const char *value = glance_env_get(env, one);

	return value ? value : glance_env_get(env, other);
}

static const char *given_token(const struct glance_env *env)
{
	return either(env, "OS_TOKEN", "OS_AUTH_TOKEN");
}

/* Find the method.  Returns STORE_OK or STORE_USAGE, having said why. */
static int choose(const struct glance_env *env, enum method *ret_method)
{
	const char *type = glance_env_get(env, "OS_AUTH_TYPE");

	for (size_t i = 0; type && i < ARRAY_SIZE(types); i++) {
		if (strcasecmp(type, types[i].name) == 0) {
			*ret_method = types[i].method;
			return STORE_OK;
		}
	}
	if (type) {
		store_error("OS_AUTH_TYPE is none of none, token, password, "
			    "v3applicationcredential");
		return STORE_USAGE;
	}
	if (given_token(env))
		*ret_method = METHOD_TOKEN;
	else if (glance_env_get(env, "OS_APPLICATION_CREDENTIAL_SECRET"))
		*ret_method = METHOD_CREDENTIAL;
	else if (either(env, "OS_USERNAME", "OS_USER_ID"))
		*ret_method = METHOD_PASSWORD;
	else
		*ret_method = METHOD_NONE;
	return STORE_OK;
}

static int need(const struct glance_env *env, const char *one, const char *other)
{
	if (other ? either(env, one, other) : glance_env_get(env, one))
		return STORE_OK;
	store_error("%s is not set, which is needed to log in", one);
	return STORE_USAGE;
}

/* ---- what is asked ---- */

/* A domain: {"id": ...} or {"name": ...}. */
static json_t *domain(const struct glance_env *env, const char *id_name,
		      const char *name_name)
{
	const char *id = glance_env_get(env, id_name);
	const char *name = glance_env_get(env, name_name);

	if (!id && name)
		return json_pack("{s:s}", "name", name);
	return json_pack("{s:s}", "id", id ? id : DEFAULT_DOMAIN);
}

/* Who logs in: by id, or by name and domain. */
static json_t *user(const struct glance_env *env)
{
	const char *id = glance_env_get(env, "OS_USER_ID");

	if (id)
		return json_pack("{s:s}", "id", id);
	return json_pack("{s:s?, s:o}", "name", glance_env_get(env, "OS_USERNAME"),
			 "domain",
			 domain(env, "OS_USER_DOMAIN_ID", "OS_USER_DOMAIN_NAME"));
}

static json_t *with_password(const struct glance_env *env)
{
	json_t *who = user(env);

	json_object_set_new(who, "password",
			    json_string(glance_env_get(env, "OS_PASSWORD")));
	return json_pack("{s:[s], s:{s:o}}", "methods", "password", "password", "user",
			 who);
}

static json_t *with_credential(const struct glance_env *env)
{
	const char *id = glance_env_get(env, "OS_APPLICATION_CREDENTIAL_ID");
	json_t *credential =
		json_pack("{s:s}", "secret",
			  glance_env_get(env, "OS_APPLICATION_CREDENTIAL_SECRET"));

	if (id) {
		json_object_set_new(credential, "id", json_string(id));
	} else {
		json_object_set_new(credential, "name",
				    json_string(glance_env_get(
					    env, "OS_APPLICATION_CREDENTIAL_NAME")));
		json_object_set_new(credential, "user", user(env));
	}
	return json_pack("{s:[s], s:o}", "methods", "application_credential",
			 "application_credential", credential);
}

/* What the token is for; NULL if nothing is said. */
static json_t *scope(const struct glance_env *env)
{
	const char *id = either(env, "OS_PROJECT_ID", "OS_TENANT_ID");
	const char *name = either(env, "OS_PROJECT_NAME", "OS_TENANT_NAME");

	if (id)
		return json_pack("{s:{s:s}}", "project", "id", id);
	if (name)
		return json_pack(
			"{s:{s:s, s:o}}", "project", "name", name, "domain",
			domain(env, "OS_PROJECT_DOMAIN_ID", "OS_PROJECT_DOMAIN_NAME"));
	if (either(env, "OS_DOMAIN_ID", "OS_DOMAIN_NAME"))
		return json_pack("{s:o}", "domain",
				 domain(env, "OS_DOMAIN_ID", "OS_DOMAIN_NAME"));
	if (glance_env_get(env, "OS_SYSTEM_SCOPE"))
		return json_pack("{s:{s:b}}", "system", "all", 1);
	return NULL;
}

/* The request for a token, as text, for the caller to wipe; NULL: out of memory. */
static char *write_request(const struct attempt *attempt)
{
	const struct glance_env *env = attempt->env;
	CLEANUP(json_freep) json_t *request = NULL;
	json_t *identity, *wanted = NULL;

	if (attempt->method == METHOD_TOKEN)
		identity = json_pack("{s:[s], s:{s:s}}", "methods", "token", "token",
				     "id", given_token(env));
	else if (attempt->method == METHOD_PASSWORD)
		identity = with_password(env);
	else
		identity = with_credential(env);
	/* An application credential has its scope in itself. */
	if (attempt->method != METHOD_CREDENTIAL)
		wanted = scope(env);
	request = json_pack("{s:{s:o, s:o*}}", "auth", "identity", identity, "scope",
			    wanted);
	return request ? json_dumps(request, JSON_COMPACT) : NULL;
}

/* OS_AUTH_URL with the version behind it, and @path, for the caller to free. */
static char *keystone_url(const struct glance_env *env, const char *path)
{
	const char *url = glance_env_get(env, "OS_AUTH_URL");
	size_t length = strlen(url);
	char *text;

	while (length > 0 && url[length - 1] == '/')
		length--;
	if (length > 3 && strncmp(url + length - 3, "/v3", 3) == 0)
		length -= 3;
	else if (length > 5 && strncmp(url + length - 5, "/v2.0", 5) == 0)
		length -= 5;
	return asprintf(&text, "%.*s/v3%s", (int)length, url, path) < 0 ? NULL : text;
}

/* ---- what is answered ---- */

static bool is_equal(const json_t *object, const char *key, const char *text)
{
	const char *value = json_string_value(json_object_get(object, key));

	return value && strcmp(value, text) == 0;
}

/* Whether the endpoint of the catalog is in the region and for those that are wanted. */
static bool fits(const json_t *endpoint, const char *interface, const char *region)
{
	const char *value = json_string_value(json_object_get(endpoint, "interface"));
	size_t length = strcspn(interface, "U"); /* publicURL is public */

	if (!value || strlen(value) != length || strncmp(value, interface, length) != 0)
		return false;
	return !region || is_equal(endpoint, "region_id", region) ||
	       is_equal(endpoint, "region", region);
}

/* The URL of the image service in @catalog, borrowed from it, or NULL. */
static const char *find_image(const json_t *catalog, const char *interface,
			      const char *region)
{
	const json_t *service, *endpoint;
	size_t i, j;

	json_array_foreach(catalog, i, service)
	{
		const json_t *endpoints = json_object_get(service, "endpoints");

		if (!is_equal(service, "type", "image"))
			continue;
		json_array_foreach(endpoints, j, endpoint)
		{
			const char *url =
				json_string_value(json_object_get(endpoint, "url"));

			if (url && fits(endpoint, interface, region))
				return url;
		}
	}
	return NULL;
}

static int take_endpoint(const char *url, const char *from, char **ret_endpoint)
{
	const char *problem;

	*ret_endpoint = glance_endpoint(url, &problem);
	if (*ret_endpoint)
		return STORE_OK;
	store_error("the endpoint in %s: %s", from, *problem ? problem : "out of memory");
	return *problem ? STORE_USAGE : STORE_AGAIN;
}

/* Take the endpoint from an answer: of tokens, or of the catalog alone. */
static int take_catalog(const struct glance_env *env, const struct glance_answer *answer,
			char **ret_endpoint)
{
	const char *interface = either(env, "OS_INTERFACE", "OS_ENDPOINT_TYPE");
	const char *region = glance_env_get(env, "OS_REGION_NAME");
	CLEANUP(json_freep)
	json_t *json = json_loadb(answer->body ? answer->body : "", answer->size,
				  JSON_ALLOW_NUL, NULL);
	const json_t *token = json_object_get(json, "token");
	const json_t *catalog = json_object_get(token ? token : json, "catalog");
	const char *url;

	if (!interface)
		interface = "public";
	url = find_image(catalog, interface, region);
	if (url)
		return take_endpoint(url, "the catalog", ret_endpoint);
	if (!json_array_size(catalog))
		store_error("Keystone has given no catalog: set OS_PROJECT_NAME, or "
			    "OS_ENDPOINT");
	else
		store_error(
			"Keystone's catalog has no image service for the interface %s%s%s",
			interface, region ? " in the region " : "", region ? region : "");
	return STORE_USAGE;
}

/* ---- the ways to log in ---- */

static int say_failure(const struct glance_answer *answer, int status)
{
	store_error("cannot log in: %s", answer->text);
	/* Not an image that is gone: something else is there than Keystone. */
	return status == STORE_GONE ? STORE_UNAVAILABLE : status;
}

/* Ask for a token, and for the catalog with it if the endpoint is wanted. */
static int ask_token(const struct attempt *attempt, bool endpoint_wanted,
		     struct glance_login *login)
{
	CLEANUP(freep) char *url = keystone_url(attempt->env, "/auth/tokens");
	CLEANUP(wipep) char *post = write_request(attempt);
	struct curl_slist *headers =
		curl_slist_append(NULL, "Content-Type: application/json");
	struct glance_answer answer = {0};
	int status = STORE_AGAIN;

	if (!url || !post || !headers)
		store_error("out of memory, or a variable OS_* that is not UTF-8");
	else
		status = glance_http_call(attempt->http, url, post, headers,
					  attempt->deadline_ms, &answer);
	if (status != STORE_OK && *answer.text)
		status = say_failure(&answer, status);
	if (status == STORE_OK && !answer.token) {
		store_error("cannot log in: %s gives no token: is it Keystone?", url);
		status = STORE_UNAVAILABLE;
	}
	if (status == STORE_OK && endpoint_wanted)
		status = take_catalog(attempt->env, &answer, &login->endpoint);
	if (status == STORE_OK)
		login->token = STEAL(answer.token);
	glance_answer_fini(&answer);
	curl_slist_free_all(headers);
	return status;
}

/* Ask for the catalog that belongs to the token that was given. */
static int ask_catalog(const struct attempt *attempt, struct glance_login *login)
{
	CLEANUP(freep) char *url = keystone_url(attempt->env, "/auth/catalog");
	CLEANUP(wipep) char *header = NULL;
	struct curl_slist *headers = NULL;
	struct glance_answer answer = {0};
	int status = STORE_AGAIN;

	if (asprintf(&header, "X-Auth-Token: %s", given_token(attempt->env)) < 0)
		header = NULL;
	else
		headers = curl_slist_append(NULL, header);
	if (!url || !headers)
		store_error("out of memory");
	else
		status = glance_http_call(attempt->http, url, NULL, headers,
					  attempt->deadline_ms, &answer);
	if (status != STORE_OK && *answer.text)
		status = say_failure(&answer, status);
	if (status == STORE_OK)
		status = take_catalog(attempt->env, &answer, &login->endpoint);
	glance_answer_fini(&answer);
	curl_slist_free_all(headers);
	return status;
}

/* Take the token that was given, and ask Keystone only for what is not known. */
static int use_token(const struct attempt *attempt, bool endpoint_wanted,
		     struct glance_login *login)
{
	const struct glance_env *env = attempt->env;
	CLEANUP(json_freep) json_t *wanted = scope(env);
	int status = need(env, "OS_TOKEN", "OS_AUTH_TOKEN");

	if (status == STORE_OK && endpoint_wanted)
		status = need(env, "OS_AUTH_URL", "OS_ENDPOINT");
	if (status != STORE_OK)
		return status;
	if (endpoint_wanted && wanted)
		return ask_token(attempt, true, login);
	if (endpoint_wanted)
		status = ask_catalog(attempt, login);
	if (status == STORE_OK) {
		login->token = strdup(given_token(env));
		status = login->token ? STORE_OK : STORE_AGAIN;
	}
	return status;
}

static int use_secret(const struct attempt *attempt, bool endpoint_wanted,
		      struct glance_login *login)
{
	const struct glance_env *env = attempt->env;
	int status = need(env, "OS_AUTH_URL", NULL);

	if (status == STORE_OK && attempt->method == METHOD_PASSWORD) {
		status = need(env, "OS_USERNAME", "OS_USER_ID");
		if (status == STORE_OK)
			status = need(env, "OS_PASSWORD", NULL);
	} else if (status == STORE_OK) {
		status = need(env, "OS_APPLICATION_CREDENTIAL_SECRET", NULL);
		if (status == STORE_OK)
			status = need(env, "OS_APPLICATION_CREDENTIAL_ID",
				      "OS_APPLICATION_CREDENTIAL_NAME");
		if (status == STORE_OK &&
		    !glance_env_get(env, "OS_APPLICATION_CREDENTIAL_ID"))
			status = need(env, "OS_USERNAME", "OS_USER_ID");
	}
	return status == STORE_OK ? ask_token(attempt, endpoint_wanted, login) : status;
}

/* OS_AUTH_URL is shown in messages: it must have no password in it. */
static int check_url(const struct glance_env *env)
{
	const char *url = glance_env_get(env, "OS_AUTH_URL");
	CLEANUP(freep) char *endpoint = NULL;
	const char *problem;

	if (!url)
		return STORE_OK;
	endpoint = glance_endpoint(url, &problem);
	if (!endpoint)
		store_error("OS_AUTH_URL: %s", *problem ? problem : "out of memory");
	return endpoint ? STORE_OK : STORE_USAGE;
}

int glance_login(struct glance_http *http, const struct glance_env *env,
		 bool endpoint_wanted, int64_t deadline_ms,
		 struct glance_login *ret_login)
{
	struct attempt attempt = {.http = http, .env = env, .deadline_ms = deadline_ms};
	const char *known = endpoint_wanted ? glance_env_get(env, "OS_ENDPOINT") : NULL;
	struct glance_login login = {0};
	int status = choose(env, &attempt.method);

	if (status == STORE_OK)
		status = check_url(env);
	if (status == STORE_OK && known)
		status = take_endpoint(known, "OS_ENDPOINT", &login.endpoint);
	if (status == STORE_OK && attempt.method == METHOD_TOKEN)
		status = use_token(&attempt, endpoint_wanted && !known, &login);
	else if (status == STORE_OK && attempt.method != METHOD_NONE)
		status = use_secret(&attempt, endpoint_wanted && !known, &login);
	if (status == STORE_OK && endpoint_wanted && !login.endpoint) {
		store_error(
			"where is Glance? The URI names no host, and neither OS_ENDPOINT nor "
			"OS_AUTH_URL and who logs in are set");
		status = STORE_USAGE;
	}
	if (status == STORE_OK)
		*ret_login = login;
	else
		glance_login_fini(&login);
	return status;
}

void glance_login_fini(struct glance_login *login)
{
	if (login->token)
		explicit_bzero(login->token, strlen(login->token));
	free(login->token);
	free(login->endpoint);
	*login = (struct glance_login){0};
}
