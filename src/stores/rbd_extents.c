/* SPDX-License-Identifier: MIT */
/*
 * rbd-extents - where an image has data.
 *
 * By the object maps, in a few round trips; where there is one missing, by librbd, which
 * then looks at each object.  That takes a second for some ten thousand of them, and
 * nobody waits for longer than the stall limit: what it did not come to may hold data.
 */
#include <errno.h>

#include "cleanup.h"
#include "imagefs-store.h"
#include "rbd-guard.h"
#include "rbd-store.h"
#include "serve.h"

#define STEP_OBJECTS 1024 /* that librbd looks at in one call */

static void print_maps(const struct ceph_image *image)
{
	uint64_t offset = 0, size = image->header.size;

	while (offset < size) {
		uint64_t end;

		if (ceph_layers_find(&image->layers, offset, size, &end))
			store_print_extent(offset, end - offset);
		offset = end;
	}
}

static int print_found(uint64_t offset, size_t length, int exists, void *context)
{
	if (exists)
		store_print_extent(offset, length);
	return 0;
}

/* Returns 0 or a negative errno. */
static int print_diff(struct ceph_image *image)
{
	int64_t end_ns = ceph_now_ns() + (int64_t)ceph_stall_ms() * 1000000 / 3;
	uint64_t step = (uint64_t)STEP_OBJECTS << image->header.order;
	uint64_t offset = 0, size = image->header.size;
	int error = ceph_image_librbd(image);

	for (; offset < size && error >= 0; offset += step) {
		uint64_t length = MIN(step, size - offset);

		if (ceph_now_ns() > end_ns) {
			store_print_extent(offset, size - offset);
			return 0;
		}
		error = rbd_diff_iterate2(image->librbd, NULL, offset, length, 1, 1,
					  print_found, NULL);
	}
	return error;
}

/*
 * What is not printed is zeros: see that it is not because the image is going.  Returns
 * the status to exit with, having said why.
 */
static int check(struct ceph_image *image)
{
	int64_t since_ns = ceph_now_ns();
	struct ceph_guard *guard;
	int error = ceph_guard_new(image, &guard);
	int status;

	if (error < 0)
		return ceph_image_fail(image, "look after", error);
	status = ceph_guard_wait(guard, since_ns, true);
	ceph_guard_free(guard);
	return status;
}

int ceph_extents(const char *uri, const char *id)
{
	struct ceph_image image;
	int status = ceph_image_open(uri, id, &image);
	int error = 0;

	if (status != STORE_OK)
		return status;
	if (image.layers.is_exact)
		print_maps(&image);
	else
		error = print_diff(&image);
	if (error < 0)
		status = ceph_image_fail(&image, "find the holes of", error);
	else
		status = check(&image);
	ceph_image_close(&image);
	return status;
}
