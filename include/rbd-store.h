/* SPDX-License-Identifier: MIT */
/*
 * rbd-store - the calls of the protocol, one file each.  They are those of struct store.
 */
#ifndef IMAGEFS_RBD_STORE_H
#define IMAGEFS_RBD_STORE_H

int ceph_list(const char *uri);
int ceph_read(const char *uri, const char *id);
int ceph_extents(const char *uri, const char *id);

#endif
