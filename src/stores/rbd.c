/* SPDX-License-Identifier: MIT */
/*
 * imagefs-store-rbd - the images and snapshots of a Ceph pool.
 */
#include "rbd-store.h"
#include "serve.h"

static const struct store store = {
	.scheme = "rbd",
	.list = ceph_list,
	.read = ceph_read,
	.extents = ceph_extents,
};

int main(int argc, char **argv)
{
	return store_main(argc, argv, &store);
}
