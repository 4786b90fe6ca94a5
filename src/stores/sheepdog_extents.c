/* SPDX-License-Identifier: MIT */
/*
 * sheepdog-extents - where an image has data: the objects that have an owner.
 */
#include <errno.h>

#include "imagefs-store.h"
#include "serve.h"
#include "sheepdog.h"
#include "sheepdog-image.h"

/* Print the @run objects from @object on, the last of which may be cut. */
static void print_run(const struct sheep_inode *inode, uint64_t object, uint64_t run)
{
	uint64_t offset = object << inode->shift;
	uint64_t length = run << inode->shift;

	if (length > inode->size - offset)
		length = inode->size - offset;
	store_print_extent(offset, length);
}

int sheepdog_extents(const char *uri, const char *id)
{
	struct sheep_image *image;
	int64_t since_ms = sheep_now_ms();
	uint64_t object = 0;
	int status = sheep_image_open(uri, id, &image);
	int error = 0;

	if (status != STORE_OK)
		return status;
	while (object < sheep_inode_objects(sheep_image_inode(image))) {
		uint32_t vid;
		uint64_t run;

		error = sheep_image_find(image, object, since_ms, &vid, &run);
		if (error == 0) {
			if (vid != 0)
				print_run(sheep_image_inode(image), object, run);
			object += run;
			sheep_cluster_progress(sheep_image_cluster(image));
			continue;
		}
		if (error == -EAGAIN)
			error = sheep_cluster_wait(sheep_image_cluster(image), NULL, 0,
						   -1);
		if (error < 0)
			break;
	}
	/* What is not printed is zeros: not of an image that was deleted meanwhile. */
	status = error < 0 ? sheep_image_fail(image, error) : sheep_image_check(image);
	sheep_image_close(image);
	return status;
}
