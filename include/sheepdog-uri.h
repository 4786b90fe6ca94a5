/* SPDX-License-Identifier: MIT */
/*
 * sheepdog-uri - where a sheepdog cluster is, as people and qemu write it.
 *
 *   sheepdog://[HOST[:PORT][,HOST[:PORT]…]]/[VDI[#SNAPSHOT]]
 *   sheepdog+tcp://…                                  the same
 *   sheepdog+unix:///[VDI]?socket=PATH[#SNAPSHOT]
 *   sheepdog://HOST:PORT:VDI                          as Glance kept them
 *
 * Percent signs are decoded (RFC 3986, section 2.1), an IPv6 address is in brackets.
 * Without a host it is 127.0.0.1, without a port 7000.  Without a VDI it is the whole
 * store.
 */
#ifndef IMAGEFS_SHEEPDOG_URI_H
#define IMAGEFS_SHEEPDOG_URI_H

#include <stddef.h>
#include <stdint.h>

#define SHEEP_HOSTS_MAX 16
#define SHEEP_PORT 7000

struct sheep_host {
	char *name; /* without brackets */
	uint16_t port;
};

struct sheep_uri {
	struct sheep_host hosts[SHEEP_HOSTS_MAX];
	size_t host_count; /* 0 if @socket is set */
	char *socket; /* path of a Unix socket, or NULL */
	char *vdi; /* NULL: all of them */
	char *tag; /* of a snapshot, or NULL */
	uint32_t snapshot_id; /* the same by number, or 0; @tag is NULL then */
};

/*
 * Take @text apart.  The caller frees what *@ret_uri holds with sheep_uri_fini().
 * Returns 0, -EINVAL with *@ret_problem saying what is wrong (static), or -ENOMEM.
 */
int sheep_uri_init(struct sheep_uri *ret_uri, const char *text, const char **ret_problem);

void sheep_uri_fini(struct sheep_uri *uri);

/*
 * The URI by which qemu knew VDI @name, with the snapshot called @fragment unless that is
 * NULL, of the cluster of @uri.  The caller frees it; NULL if there is no memory.
 */
char *sheep_uri_of_vdi(const struct sheep_uri *uri, const char *name,
		       const char *fragment);

#endif
