/* SPDX-License-Identifier: MIT */
/*
 * fs_xattr - extended attributes: what the store says of an image, and what went wrong.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cleanup.h"
#include "fs-session.h"

#define XATTR_PREFIX "user.imagefs."

/* The value of the attribute, for the caller to free, or NULL. */
static char *attribute_value(const struct fs *fs, struct image *image, const char *key)
{
	if (!strcmp(key, "id"))
		return strdup(image->id);
	if (!strcmp(key, "store"))
		return strdup(fs->engine->store->shown);
	if (!strcmp(key, "error"))
		return image_error(image);
	for (size_t i = 0; i < image->attribute_count; i++)
		if (!strcmp(image->attributes[i].key, key))
			return strdup(image->attributes[i].value);
	return NULL;
}

/* A value, or a list, as the kernel wants it: its size alone if it asks with none. */
static void reply_text(fuse_req_t req, const char *text, size_t text_size, size_t size)
{
	if (!size)
		fuse_reply_xattr(req, text_size);
	else if (text_size > size)
		fuse_reply_err(req, ERANGE);
	else
		fuse_reply_buf(req, text, text_size);
}

void fs_getxattr(fuse_req_t req, fuse_ino_t node, const char *name, size_t size)
{
	size_t prefix = strlen(XATTR_PREFIX);
	CLEANUP(freep) char *value = NULL;

	if (is_image(node) && !strncmp(name, XATTR_PREFIX, prefix))
		value = attribute_value(fs_of(req), image_of(node), name + prefix);
	if (!value)
		fuse_reply_err(req, ENODATA);
	else
		reply_text(req, value, strlen(value), size);
}

/* Add a name, with its NUL, to a list that has room for it. */
static size_t add_name(char *list, size_t used, const char *key)
{
	return used + (size_t)sprintf(list + used, "%s%s", XATTR_PREFIX, key) + 1;
}

static bool is_own_key(const char *key)
{
	return !strcmp(key, "id") || !strcmp(key, "store") || !strcmp(key, "error");
}

void fs_listxattr(fuse_req_t req, fuse_ino_t node, size_t size)
{
	struct image *image = image_of(node);
	CLEANUP(freep) char *list = NULL, *error = NULL;
	size_t room = 3 * sizeof(XATTR_PREFIX "store"), used = 0;

	if (!is_image(node)) {
		reply_text(req, "", 0, size);
		return;
	}
	for (size_t i = 0; i < image->attribute_count; i++)
		room += sizeof(XATTR_PREFIX) + strlen(image->attributes[i].key);
	list = malloc(room);
	if (!list) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	used = add_name(list, used, "id");
	used = add_name(list, used, "store");
	error = image_error(image);
	if (error)
		used = add_name(list, used, "error");
	for (size_t i = 0; i < image->attribute_count; i++)
		if (!is_own_key(image->attributes[i].key))
			used = add_name(list, used, image->attributes[i].key);
	reply_text(req, list, used, size);
}
