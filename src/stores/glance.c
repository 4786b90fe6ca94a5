/* SPDX-License-Identifier: MIT */
/* imagefs-store-glance - the images of an OpenStack Glance: imagefs-glance(7). */
#include <stddef.h>

#include "glance.h"
#include "serve.h"

int main(int argc, char **argv)
{
	static const struct store store = {
		.scheme = "glance",
		.list = glance_list,
		.read = glance_read,
	};

	return store_main(argc, argv, &store);
}
