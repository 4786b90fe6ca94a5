/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include "cleanup.h"
#include "environment.h"

static const char allowed[] =
	/* of any program */
	"PATH:HOME:USER:LOGNAME:SHELL:LANG:LC_ALL:TZ:TMPDIR:XDG_RUNTIME_DIR:"
	/* of the daemon */
	"IMAGEFS_*:"
	/* sheepdog's tools, Ceph, OpenStack's clients, ssh */
	"SHEEPDOG_*:CEPH_*:OS_*:SSH_AUTH_SOCK:"
	/* libcurl and TLS */
	"http_proxy:https_proxy:all_proxy:no_proxy:HTTP_PROXY:HTTPS_PROXY:ALL_PROXY:NO_PROXY:"
	"SSL_CERT_FILE:SSL_CERT_DIR:CURL_CA_BUNDLE:"
	/* a program that was built with a sanitizer */
	"ASAN_OPTIONS:LSAN_OPTIONS:TSAN_OPTIONS:UBSAN_OPTIONS";

static bool is_in(const char *name, size_t size, const char *list)
{
	while (*list) {
		size_t length = strcspn(list, ":");
		bool open = length && list[length - 1] == '*';

		if (open ? size >= length - 1 && !strncmp(name, list, length - 1)
			 : size == length && !strncmp(name, list, length))
			return true;
		list += length + (list[length] == ':');
	}
	return false;
}

bool environment_allows(const char *name, const char *more)
{
	size_t size = strlen(name);

	return is_in(name, size, allowed) || (more && is_in(name, size, more));
}

int environment_clean(const char *more)
{
	size_t i = 0;

	while (environ[i]) {
		CLEANUP(freep) char *name = strndup(environ[i], strcspn(environ[i], "="));

		if (!name)
			return -ENOMEM;
		/* The next one comes into the place of one that is taken out. */
		if (environment_allows(name, more) || unsetenv(name) < 0)
			i++;
	}
	return 0;
}
