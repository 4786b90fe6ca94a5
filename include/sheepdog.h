/* SPDX-License-Identifier: MIT */
/*
 * sheepdog - the operations of imagefs-store-sheepdog, as struct store of serve.h has
 * them.  Nothing is locked, and nothing is written to the cluster.
 */
#ifndef IMAGEFS_SHEEPDOG_H
#define IMAGEFS_SHEEPDOG_H

int sheepdog_list(const char *uri);
int sheepdog_read(const char *uri, const char *id);
int sheepdog_extents(const char *uri, const char *id);

#endif
