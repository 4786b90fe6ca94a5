/* SPDX-License-Identifier: MIT */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "imagefs-store.h"
#include "rbd-image.h"
#include "serve.h"

/* With any other feature, or more than one stripe, librbd has to know what to do. */
#define DIRECT_FEATURES                                                               \
	(RBD_FEATURE_LAYERING | RBD_FEATURE_STRIPINGV2 | RBD_FEATURE_EXCLUSIVE_LOCK | \
	 RBD_FEATURE_OBJECT_MAP | RBD_FEATURE_FAST_DIFF | RBD_FEATURE_DEEP_FLATTEN |  \
	 RBD_FEATURE_JOURNALING | RBD_FEATURE_DATA_POOL | RBD_FEATURE_OPERATIONS |    \
	 RBD_FEATURE_NON_PRIMARY)

void ceph_id_format(const char *image, uint64_t snap, char ret_id[CEPH_ID_BYTES])
{
	if (snap == CEPH_HEAD)
		snprintf(ret_id, CEPH_ID_BYTES, "%s", image);
	else
		snprintf(ret_id, CEPH_ID_BYTES, "%s@%" PRIu64, image, snap);
}

bool ceph_id_parse(const char *id, char ret_image[CEPH_ID_BYTES], uint64_t *ret_snap)
{
	size_t length = 0;
	const char *number;
	char *end;

	while (isalnum((unsigned char)id[length]) ||
	       (id[length] && strchr("-._", id[length])))
		length++;
	/* There must be room for the number of a snapshot behind it. */
	if (length == 0 || length > CEPH_ID_BYTES - 24)
		return false;
	snprintf(ret_image, CEPH_ID_BYTES, "%.*s", (int)length, id);
	*ret_snap = CEPH_HEAD;
	number = id + length;
	if (!*number)
		return true;
	/* One way to write a number only, so that no version has two ids. */
	if (*number++ != '@' || *number < '1' || *number > '9')
		return false;
	errno = 0;
	*ret_snap = strtoull(number, &end, 10);
	return errno == 0 && !*end && *ret_snap < CEPH_HEAD;
}

int ceph_image_gone(const struct ceph_image *image)
{
	if (image->snap == CEPH_HEAD)
		store_error("there is no image with the id %s any more", image->id);
	else
		store_error("the image with the id %s has no snapshot %" PRIu64
			    " any more",
			    image->id, image->snap);
	return STORE_GONE;
}

int ceph_image_fail(const struct ceph_image *image, const char *what, int error)
{
	if (error == -ENOENT)
		return ceph_image_gone(image);
	store_error("cannot %s the image with the id %s: %s", what, image->id,
		    strerror(-error));
	return ceph_status(error);
}

/*
 * Whether it is being removed: an image goes to the trash first, then its objects, then
 * its header.  Returns 0, -ENOENT if it is, or another negative errno.
 */
static int check_trash(const struct ceph_image *image)
{
	struct cls_op op;
	struct cls_call *call;
	bool is_removed = false;
	int error = cls_op_init(&op);

	if (error < 0)
		return error;
	call = cls_op_add_string(&op, "trash_get", image->id, false);
	error = cls_op_run(&op, image->cluster.pool, "rbd_trash");
	if (error == 0)
		error = ceph_trash_decode(call->output, call->size, &is_removed);
	else if (error == -ENOENT || error == -EPERM)
		error = 0;
	cls_op_fini(&op);
	return is_removed ? -ENOENT : error;
}

static int load_header(struct ceph_image *image)
{
	char name[CEPH_OBJECT_BYTES];
	struct cls_op op;
	int error = cls_op_init(&op);

	if (error < 0)
		return error;
	ceph_header_name(image->id, name);
	ceph_header_ask(&op, image->snap);
	(void)cls_op_run(&op, image->cluster.pool, name);
	error = ceph_header_take(&op, image->snap, &image->header);
	cls_op_fini(&op);
	if (error == 0 && image->snap != CEPH_HEAD &&
	    image->header.snap.kind == SNAP_TRASH)
		return -ENOENT;
	return error;
}

static int open_data(struct ceph_image *image)
{
	const struct ceph_header *header = &image->header;
	int64_t number = header->data_pool;
	int error;

	image->is_direct =
		!(header->features & ~DIRECT_FEATURES) && header->stripe_count == 1;
	if (number < 0)
		number = rados_ioctx_get_id(image->cluster.pool);
	error = ceph_cluster_pool(&image->cluster, number, image->cluster.uri.space,
				  &image->data);
	if (error == 0 && image->snap != CEPH_HEAD)
		rados_ioctx_snap_set_read(image->data, image->snap);
	/* Without its data the image is there nevertheless. */
	return error == -ENOENT ? -EIO : error;
}

/* Returns 0 or a negative errno. */
static int load(struct ceph_image *image)
{
	int error;

	image->known_ns = ceph_now_ns();
	error = image->snap == CEPH_HEAD ? check_trash(image) : 0;
	if (error == 0)
		error = load_header(image);
	if (error == 0)
		error = ceph_layers_load(&image->cluster, image->id, image->snap,
					 &image->header, &image->layers);
	if (error == 0)
		error = open_data(image);
	return error;
}

/* Free what load() has made. */
static void unload(struct ceph_image *image)
{
	if (image->librbd)
		(void)rbd_close(image->librbd);
	if (image->data)
		rados_ioctx_destroy(image->data);
	image->librbd = NULL;
	image->data = NULL;
	ceph_layers_fini(&image->layers);
	ceph_header_fini(&image->header);
}

int ceph_image_open(const char *uri, const char *id, struct ceph_image *ret_image)
{
	struct ceph_image image = {.librbd_lock = PTHREAD_MUTEX_INITIALIZER};
	int status = ceph_cluster_init(&image.cluster, uri, true);
	int error;

	if (status == STORE_GONE) {
		ceph_cluster_lacks(&image.cluster, STORE_GONE);
	} else if (status == STORE_OK && !ceph_id_parse(id, image.id, &image.snap)) {
		store_error("there is no image with the id %.100s", id);
		status = STORE_GONE;
	} else if (status == STORE_OK) {
		error = load(&image);
		if (error < 0)
			status = ceph_image_fail(&image, "open", error);
	} else {
		return status;
	}
	if (status == STORE_OK)
		*ret_image = image;
	else
		ceph_image_close(&image);
	return status;
}

void ceph_image_close(struct ceph_image *image)
{
	unload(image);
	ceph_cluster_fini(&image->cluster);
}

int ceph_image_refresh(struct ceph_image *image)
{
	int error;

	unload(image);
	error = load(image);
	return error < 0 ? ceph_image_fail(image, "open", error) : STORE_OK;
}

static int open_librbd(struct ceph_image *image)
{
	int error;

	if (image->librbd)
		return 0;
	error = rbd_open_by_id_read_only(image->cluster.pool, image->id, &image->librbd,
					 NULL);
	if (error < 0)
		image->librbd = NULL;
	if (error < 0 || image->snap == CEPH_HEAD)
		return error;
	error = rbd_snap_set_by_id(image->librbd, image->snap);
	if (error < 0) {
		(void)rbd_close(image->librbd);
		image->librbd = NULL;
	}
	return error;
}

int ceph_image_librbd(struct ceph_image *image)
{
	int error;

	pthread_mutex_lock(&image->librbd_lock);
	error = open_librbd(image);
	pthread_mutex_unlock(&image->librbd_lock);
	return error;
}
