/* SPDX-License-Identifier: MIT */
/*
 * imagefs-store-sheepdog - the VDIs of a sheepdog cluster, by its own protocol.
 */
#include "serve.h"
#include "sheepdog.h"

static const struct store store = {
	.scheme = "sheepdog",
	.list = sheepdog_list,
	.read = sheepdog_read,
	.extents = sheepdog_extents,
};

int main(int argc, char **argv)
{
	return store_main(argc, argv, &store);
}
