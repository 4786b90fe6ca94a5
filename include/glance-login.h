/* SPDX-License-Identifier: MIT */
/*
 * glance-login - get a token, and where Glance is, from Keystone (Identity API v3).
 *
 * How is said by the variables of keystoneauth's plug-ins none, token, password and
 * v3applicationcredential: OS_AUTH_TYPE, or what is set.
 */
#ifndef IMAGEFS_GLANCE_LOGIN_H
#define IMAGEFS_GLANCE_LOGIN_H

#include <stdbool.h>
#include <stdint.h>

#include "glance-env.h"
#include "glance-http.h"

struct glance_login {
	char *token; /* NULL: none is needed */
	char *endpoint; /* as glance_endpoint() makes it; NULL: it was not asked for */
};

/*
 * Log in.  With @endpoint_wanted the endpoint is taken from OS_ENDPOINT or the catalog.
 * Blocks, until @deadline_ms.  Returns STORE_OK, and the caller ends *@ret_login with
 * glance_login_fini(); or another status, having said why.
 */
int glance_login(struct glance_http *http, const struct glance_env *env,
		 bool endpoint_wanted, int64_t deadline_ms,
		 struct glance_login *ret_login);

void glance_login_fini(struct glance_login *login);

#endif
