/* SPDX-License-Identifier: MIT */
/*
 * rbd-uri - which images of which Ceph cluster, as people, qemu and Glance write it.
 *
 *   rbd://POOL[/]                              a pool
 *   rbd://POOL/NAMESPACE/                      a namespace of it
 *   rbd://POOL/[NAMESPACE/]IMAGE[@SNAPSHOT]    one image
 *   rbd://FSID/POOL/IMAGE/SNAPSHOT             one, as Glance keeps them
 *   rbd:POOL[/NAMESPACE]/IMAGE[@SNAPSHOT][:KEY=VALUE…]   one, as qemu takes it
 *
 * The first four have percent signs (RFC 3986, section 2.1) and "?KEY=VALUE&…", qemu's
 * has a backslash before what is meant literally, and may end behind a '/' too.  With
 * four parts it is Glance's: its FSID is a UUID (RFC 4122), which keeps a mistyped path
 * from being taken for one.
 *
 * KEY is id, conf, cluster, keyring, timeout, or any option of Ceph's configuration; but
 * no key: what is in a URI is seen by everybody who can list processes.
 */
#ifndef IMAGEFS_RBD_URI_H
#define IMAGEFS_RBD_URI_H

#include <stddef.h>

struct ceph_option {
	char *key; /* as Ceph spells it, with underscores */
	char *value;
};

struct ceph_uri {
	char *fsid; /* of the cluster that is meant, or NULL */
	char *pool;
	char *space; /* the namespace; "" is the one without a name */
	char *image; /* NULL: all of them */
	char *snapshot; /* NULL: the image itself */
	char *id; /* of the user, "admin" for client.admin */
	char *conf; /* path of a ceph.conf, or NULL */
	char *cluster; /* its name, or NULL */
	char *keyring; /* path, or NULL */
	char *timeout; /* seconds, a whole number, 0 for no limit; or NULL */
	struct ceph_option *options; /* all others, in their order */
	size_t option_count;
};

/*
 * Take @text apart.  The caller frees what *@ret_uri holds with ceph_uri_fini().
 * Returns 0, -EINVAL with *@ret_problem saying what is wrong (static), or -ENOMEM.
 */
int ceph_uri_init(struct ceph_uri *ret_uri, const char *text, const char **ret_problem);

void ceph_uri_fini(struct ceph_uri *uri);

/*
 * The URI by which qemu knows @image of the pool of @uri, or its @snapshot unless that is
 * NULL.  The caller frees it; NULL if there is no memory.
 */
char *ceph_uri_of_image(const struct ceph_uri *uri, const char *image,
			const char *snapshot);

#endif
