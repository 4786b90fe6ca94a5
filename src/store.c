/* SPDX-License-Identifier: MIT */
#include <ctype.h>
#include <errno.h>
#include <glob.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "cleanup.h"
#include "imagefs-store.h"
#include "log.h"
#include "store.h"
#include "text.h"

#define SCHEME_MAX 32

/* The length of the scheme of @uri (RFC 3986, section 3.1), 0 if it is no URI. */
static size_t scheme_length(const char *uri)
{
	size_t size = 0;

	if (!isalpha((unsigned char)*uri))
		return 0;
	while (isalnum((unsigned char)uri[size]) ||
	       (uri[size] && strchr("+-.", uri[size])))
		size++;
	return size <= SCHEME_MAX && uri[size] == ':' ? size : 0;
}

/* The URI with *** in the place of a password: USER:PASSWORD@ (RFC 3986, section 3.2.1). */
static char *hide_password(const char *uri)
{
	const char *authority = strstr(uri, "://");
	const char *at, *colon;
	char *shown;

	if (!authority)
		return strdup(uri);
	authority += 3;
	at = memrchr(authority, '@', strcspn(authority, "/?#"));
	colon = at ? memchr(authority, ':', (size_t)(at - authority)) : NULL;
	if (!colon)
		return strdup(uri);
	return asprintf(&shown, "%.*s:***%s", (int)(colon - uri), uri, at) < 0 ? NULL
									       : shown;
}

/* The dir:// URI of the folder at @path. */
static int folder_uri(const char *path, char **ret_uri)
{
	CLEANUP(freep) char *absolute = realpath(path, NULL);
	CLEANUP(freep) char *escaped = NULL;
	struct stat st;

	if (!absolute || stat(absolute, &st) < 0) {
		int err = errno;

		log_line(LOG_ERR,
			 "%s: %s (a store is a folder or a URI, such as "
			 "dir:///srv/images)",
			 path, strerror(err));
		return -err;
	}
	if (!S_ISDIR(st.st_mode)) {
		log_line(LOG_ERR,
			 "%s: not a folder (name the folder that holds the images)",
			 path);
		return -ENOTDIR;
	}
	escaped = text_uri_path(absolute);
	if (!escaped || asprintf(ret_uri, "dir://%s", escaped) < 0)
		return -ENOMEM;
	return 0;
}

/* Where programs are looked for, with colons between, for the caller to free, or NULL. */
static char *all_folders(const char *folders)
{
	char *all;

	return asprintf(&all, "%s:%s", folders ? folders : "", STORE_FOLDER) < 0 ? NULL
										 : all;
}

/*
 * Find the program.  What stands before a '+' is the program's name too, so that
 * sheepdog+unix:// needs no program of its own.
 */
static char *find_program(const char *folders, const char *scheme)
{
	CLEANUP(freep) char *all = all_folders(folders);
	char *rest = all, *folder;

	while ((folder = strsep(&rest, ":"))) {
		for (const char *end = scheme + strlen(scheme); end;
		     end = memchr(scheme, '+', (size_t)(end - scheme))) {
			char *program;

			if (!*folder)
				break;
			if (asprintf(&program, "%s/imagefs-store-%.*s", folder,
				     (int)(end - scheme), scheme) < 0)
				return NULL;
			if (!access(program, X_OK))
				return program;
			free(program);
		}
	}
	return NULL;
}

/* The schemes for which there are programs, with commas between, or NULL. */
static char *list_schemes(const char *folders)
{
	static const char prefix[] = "/imagefs-store-";
	CLEANUP(freep) char *all = all_folders(folders);
	char *schemes = NULL, *rest = all, *folder;
	int flags = GLOB_MARK; /* "/" behind what is a folder */
	glob_t found = {0};

	while ((folder = strsep(&rest, ":"))) {
		CLEANUP(freep) char *pattern = NULL;

		if (!*folder || asprintf(&pattern, "%s%s*", folder, prefix) < 0)
			continue;
		glob(pattern, flags, NULL, &found);
		flags |= GLOB_APPEND;
	}
	for (size_t i = 0; i < found.gl_pathc; i++) {
		const char *path = found.gl_pathv[i];
		char *more;

		if (path[strlen(path) - 1] == '/' || access(path, X_OK) ||
		    asprintf(&more, "%s%s%s", schemes ? schemes : "", schemes ? ", " : "",
			     strrchr(path, '/') + sizeof(prefix) - 1) < 0)
			continue;
		free(schemes);
		schemes = more;
	}
	globfree(&found);
	return schemes;
}

static int set_program(struct store *store, const char *folders)
{
	CLEANUP(freep) char *found = find_program(folders, store->scheme);
	CLEANUP(freep) char *schemes = found ? NULL : list_schemes(folders);

	if (!found) {
		log_line(LOG_ERR,
			 "%s: no store program for the scheme '%s' "
			 "(no imagefs-store-%s in %s%s%s); there are: %s",
			 store->shown, store->scheme, store->scheme,
			 folders ? folders : "", folders ? " or " : "", STORE_FOLDER,
			 schemes ? schemes : "none");
		return -ENOENT;
	}
	store->program = STEAL(found);
	return 0;
}

static void store_freep(struct store **store)
{
	store_free(*store);
}

int store_new(const char *where, const char *folders, struct store **ret_store)
{
	CLEANUP(store_freep) struct store *store = calloc(1, sizeof(*store));
	size_t length = scheme_length(where);
	int ret = 0;

	if (!store)
		return -ENOMEM;
	if (length) {
		store->uri = strdup(where);
		store->source = strdup(where);
	} else {
		ret = folder_uri(where, &store->uri);
		store->source = realpath(where, NULL);
	}
	if (ret < 0)
		return ret;
	store->shown = store->uri && store->source ? hide_password(store->uri) : NULL;
	store->scheme =
		store->shown ? strndup(store->uri, scheme_length(store->uri)) : NULL;
	if (!store->scheme)
		return -ENOMEM;
	for (char *c = store->scheme; *c; c++)
		*c = (char)tolower((unsigned char)*c);
	ret = set_program(store, folders);
	if (ret < 0)
		return ret;
	*ret_store = STEAL(store);
	return 0;
}

void store_free(struct store *store)
{
	if (!store)
		return;
	free(store->uri);
	free(store->shown);
	free(store->source);
	free(store->scheme);
	free(store->program);
	free(store);
}

int store_run(const struct store *store, const char *call, const char *id,
	      struct child *ret_child)
{
	const char *argv[] = {store->program, call, "--", store->uri, id, NULL};

	return warden_spawn(store->warden, argv, ret_child);
}

int store_errno(int status)
{
	switch (status) {
	case STORE_OK:
		return 0;
	case STORE_GONE:
		return -ESTALE;
	case STORE_DENIED:
		return -EACCES;
	default:
		return -EIO;
	}
}

int store_may_retry(int status)
{
	switch (status) {
	case STORE_GONE:
	case STORE_DENIED:
	case STORE_USAGE:
	case STORE_BAD_DATA:
		return 0;
	default:
		return 1;
	}
}
