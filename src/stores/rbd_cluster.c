/* SPDX-License-Identifier: MIT */
/*
 * rbd-cluster - a connection to a Ceph cluster and to one of its pools.
 *
 * What librados would write to standard error by itself is turned off: the last line
 * there is the one that people are shown, and it is ours.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cleanup.h"
#include "imagefs-store.h"
#include "rbd-cluster.h"
#include "serve.h"

#define STALL_MS 30000 /* if nobody says */
#define STALL_SHARE 5 /* one operation has a fifth of it */
#define VALUE_MAX 4096

int ceph_status(int error)
{
	switch (-error) {
	case ENOENT:
		return STORE_GONE;
	case EPERM:
	case EACCES:
		return STORE_DENIED;
	case ETIMEDOUT:
	case ECONNREFUSED:
	case ENOTCONN:
	case EHOSTUNREACH:
	case ENETUNREACH:
	case ESHUTDOWN: /* this client is on the cluster's list of those to be kept out */
		return STORE_UNAVAILABLE;
	case ENOMEM:
	case EMFILE:
	case ENFILE:
	case EAGAIN:
	case EBUSY:
		return STORE_AGAIN;
	default:
		return STORE_IO;
	}
}

uint64_t ceph_stall_ms(void)
{
	const char *text = getenv("IMAGEFS_STALL_MS");
	char *end;
	uint64_t ms;

	if (!text || !*text)
		return STALL_MS;
	ms = strtoull(text, &end, 10);
	return *end || ms == 0 || ms > INT32_MAX ? STALL_MS : ms;
}

int64_t ceph_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* Whether the option @key still has the number that Ceph gives it. */
static bool is_default(rados_t rados, const char *key, double number)
{
	char value[64];
	char *end;

	if (rados_conf_get(rados, key, value, sizeof(value)) < 0)
		return false;
	return strtod(value, &end) == number && end != value;
}

/*
 * Set what has no limit, or a very high one.  An explicit 0 of the user's ceph.conf
 * cannot be told from that of nobody; one in the URI comes later, and can.
 */
static void set_timeouts(const struct ceph_cluster *cluster, bool is_patient)
{
	uint64_t stall = ceph_stall_ms() / 1000;
	uint64_t share = MAX(stall / STALL_SHARE, (uint64_t)1);
	uint64_t patience = MAX(stall, (uint64_t)2) - 1;
	const struct {
		const char *key;
		double number;
		uint64_t seconds;
	} timeouts[] = {
		{"rados_osd_op_timeout", 0, is_patient ? patience : share},
		{"rados_mon_op_timeout", 0, share},
		{"client_mount_timeout", 300, share},
	};
	const char *wanted = cluster->uri.timeout;
	char value[24];

	for (size_t i = 0; i < ARRAY_SIZE(timeouts); i++) {
		snprintf(value, sizeof(value), "%" PRIu64, timeouts[i].seconds);
		if (wanted ||
		    is_default(cluster->rados, timeouts[i].key, timeouts[i].number))
			(void)rados_conf_set(cluster->rados, timeouts[i].key,
					     wanted ? wanted : value);
	}
}

/* What this program wants of librados and librbd, whatever the configuration says. */
static void set_own(rados_t rados)
{
	static const char *const own[][2] = {
		{"log_to_stderr", "false"},
		{"err_to_stderr", "false"},
		/* An image that others write to must be read anew each time. */
		{"rbd_cache", "false"},
		{"rbd_readahead_max_bytes", "0"},
		{"rbd_parent_cache_enabled", "false"},
		/* Nothing is written, not even when the image was last read. */
		{"rbd_atime_update_interval", "0"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(own); i++)
		(void)rados_conf_set(rados, own[i][0], own[i][1]);
}

/* The option @key is wrong. */
static int refuse_option(const struct ceph_option *option, int error)
{
	if (error == -ENOENT)
		store_error("Ceph has no option %s", option->key);
	else
		store_error("Ceph does not take this for the option %s", option->key);
	return STORE_USAGE;
}

static bool has_monitors(rados_t rados)
{
	char value[VALUE_MAX];
	int error = rados_conf_get(rados, "mon_host", value, sizeof(value));

	return error == -ENAMETOOLONG || (error == 0 && value[0]);
}

/* Read the configuration.  Returns STORE_OK, or another status, having said why. */
static int configure(struct ceph_cluster *cluster, bool is_patient)
{
	const struct ceph_uri *uri = &cluster->uri;
	int error;

	set_own(cluster->rados);
	error = rados_conf_read_file(cluster->rados, uri->conf);
	if (error < 0 && (uri->conf || error != -ENOENT)) {
		store_error("cannot read %s: %s", uri->conf ? uri->conf : "ceph.conf",
			    error == -EINVAL ? "it is not well-formed"
					     : strerror(-error));
		return error == -EACCES ? STORE_DENIED : STORE_UNAVAILABLE;
	}
	error = rados_conf_parse_env(cluster->rados, NULL);
	if (error < 0) {
		store_error("cannot use CEPH_ARGS: %s", strerror(-error));
		return STORE_USAGE;
	}
	if (uri->keyring)
		(void)rados_conf_set(cluster->rados, "keyring", uri->keyring);
	/* Twice: the configuration may say otherwise, and the URI has the last word. */
	set_own(cluster->rados);
	set_timeouts(cluster, is_patient);
	for (size_t i = 0; i < uri->option_count; i++) {
		error = rados_conf_set(cluster->rados, uri->options[i].key,
				       uri->options[i].value);
		if (error < 0)
			return refuse_option(&uri->options[i], error);
	}
	if (has_monitors(cluster->rados))
		return STORE_OK;
	store_error("there is no /etc/ceph/%s.conf that says where the monitors are",
		    uri->cluster ? uri->cluster : "ceph");
	return STORE_UNAVAILABLE;
}

/* Say why there is no connection.  Returns the status to exit with. */
static int refuse_connection(const struct ceph_cluster *cluster, int error)
{
	char keyring[VALUE_MAX];
	int status = ceph_status(error);

	if (error != -ENOENT && status != STORE_DENIED) {
		store_error("cannot connect to the cluster: %s", strerror(-error));
		return status == STORE_IO ? STORE_UNAVAILABLE : status;
	}
	if (rados_conf_get(cluster->rados, "keyring", keyring, sizeof(keyring)) < 0)
		strcpy(keyring, "?");
	if (error == -ENOENT)
		store_error("there is no key of client.%s in %s", cluster->uri.id,
			    keyring);
	else
		store_error("the cluster does not let client.%s in: %s (keyring %s)",
			    cluster->uri.id, strerror(-error), keyring);
	return STORE_DENIED;
}

static int check_fsid(const struct ceph_cluster *cluster)
{
	char fsid[64] = "";

	if (!cluster->uri.fsid)
		return STORE_OK;
	(void)rados_cluster_fsid(cluster->rados, fsid, sizeof(fsid));
	if (strcasecmp(fsid, cluster->uri.fsid) == 0)
		return STORE_OK;
	store_error("this is the cluster %s, not %s", fsid, cluster->uri.fsid);
	return STORE_USAGE;
}

/*
 * See whether the namespace is there: librbd lists one that is not as an empty one.  Who
 * has rights in it alone may not ask; they have been given a name that is there.
 */
static int check_space(const struct ceph_cluster *cluster)
{
	CLEANUP(freep) char *key = NULL;
	rados_read_op_t op = rados_create_read_op();
	rados_omap_iter_t found = NULL;
	bool is_there = false;
	int result = 0;
	int error = asprintf(&key, "name_%s", cluster->uri.space);

	if (error >= 0) {
		size_t size = strlen(key);

		rados_read_op_omap_get_vals_by_keys2(op, (const char *const *)&key, 1,
						     &size, &found, &result);
		error = rados_read_op_operate(op, cluster->pool, "rbd_namespace", 0);
		is_there = error == 0 && result == 0 && rados_omap_iter_size(found) > 0;
	}
	if (found)
		rados_omap_get_end(found);
	rados_release_read_op(op);
	if (is_there || error == -EPERM || error == -EACCES)
		return STORE_OK;
	if (error == 0 || error == -ENOENT)
		return STORE_GONE;
	store_error("cannot look for the namespace: %s", strerror(-error));
	return ceph_status(error);
}

static int open_pool(struct ceph_cluster *cluster)
{
	int error = rados_ioctx_create(cluster->rados, cluster->uri.pool, &cluster->pool);
	int status;

	if (error == -ENOENT)
		return STORE_GONE;
	if (error < 0) {
		store_error("cannot open the pool: %s", strerror(-error));
		return ceph_status(error);
	}
	status = *cluster->uri.space ? check_space(cluster) : STORE_OK;
	rados_ioctx_set_namespace(cluster->pool, cluster->uri.space);
	return status;
}

static int connect_to(struct ceph_cluster *cluster, bool is_patient)
{
	CLEANUP(freep) char *name = NULL;
	const char *of = cluster->uri.cluster ? cluster->uri.cluster : "ceph";
	int error = asprintf(&name, "client.%s", cluster->uri.id);
	int status;

	error = error < 0 ? -ENOMEM : rados_create2(&cluster->rados, of, name, 0);
	if (error < 0) {
		cluster->rados = NULL;
		store_error("cannot use librados: %s", strerror(-error));
		return ceph_status(error);
	}
	status = configure(cluster, is_patient);
	if (status != STORE_OK)
		return status;
	error = rados_connect(cluster->rados);
	if (error < 0)
		return refuse_connection(cluster, error);
	status = check_fsid(cluster);
	return status == STORE_OK ? open_pool(cluster) : status;
}

int ceph_cluster_init(struct ceph_cluster *ret_cluster, const char *text, bool is_patient)
{
	struct ceph_cluster cluster = {0};
	const char *problem;
	int status;
	int error = ceph_uri_init(&cluster.uri, text, &problem);

	if (error < 0) {
		store_error("not the URI of Ceph images (rbd://POOL/): %s",
			    error == -EINVAL ? problem : strerror(-error));
		return error == -EINVAL ? STORE_USAGE : STORE_AGAIN;
	}
	status = connect_to(&cluster, is_patient);
	if (status == STORE_OK || status == STORE_GONE)
		*ret_cluster = cluster;
	else
		ceph_cluster_fini(&cluster);
	return status;
}

void ceph_cluster_fini(struct ceph_cluster *cluster)
{
	if (cluster->pool)
		rados_ioctx_destroy(cluster->pool);
	if (cluster->rados)
		rados_shutdown(cluster->rados);
	ceph_uri_fini(&cluster->uri);
	*cluster = (struct ceph_cluster){0};
}

int ceph_cluster_lacks(const struct ceph_cluster *cluster, int status)
{
	if (cluster->pool)
		store_error("there is no namespace %s in the pool %s", cluster->uri.space,
			    cluster->uri.pool);
	else
		store_error("there is no pool %s", cluster->uri.pool);
	return status;
}

int ceph_cluster_pool(const struct ceph_cluster *cluster, int64_t number,
		      const char *space, rados_ioctx_t *ret_pool)
{
	rados_ioctx_t pool;
	int error = rados_ioctx_create2(cluster->rados, number, &pool);

	if (error < 0)
		return error;
	rados_ioctx_set_namespace(pool, space);
	*ret_pool = pool;
	return 0;
}
