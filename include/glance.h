/* SPDX-License-Identifier: MIT */
/*
 * glance - the operations of the store program imagefs-store-glance (serve.h).
 */
#ifndef IMAGEFS_GLANCE_H
#define IMAGEFS_GLANCE_H

int glance_list(const char *uri);
int glance_read(const char *uri, const char *id);

#endif
