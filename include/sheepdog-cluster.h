/* SPDX-License-Identifier: MIT */
/*
 * sheepdog-cluster - requests to a cluster, whichever of its nodes answers.
 *
 * Every sheep is a gateway to the whole cluster.  A request goes to one that holds the
 * object if that is known, and somewhere else when the connection breaks, when the answer
 * is wrong or long in coming, or when the cluster says that it cannot answer now.  Before
 * a gateway is used it has to prove that it belongs to the cluster.
 *
 * Single threaded.  All that happens does so in sheep_cluster_wait().
 */
#ifndef IMAGEFS_SHEEPDOG_CLUSTER_H
#define IMAGEFS_SHEEPDOG_CLUSTER_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sheepdog-conn.h"
#include "sheepdog-uri.h"

struct sheep_cluster;

/*
 * What a gateway has to answer first, and what to think of it.  @check is called with the
 * answer: it returns whether the gateway is one of the cluster.
 */
struct sheep_proof {
	struct sheep_request request;
	bool (*check)(void *context, const struct sheep_call *call);
	void *context;
};

/*
 * Make a cluster of the hosts that @uri names, which are looked up now, blocking.  If
 * @impatient, that none of them can be connected to is final at once.  The caller owns
 * *@ret_cluster and frees it with sheep_cluster_free(); @uri and @proof are borrowed till
 * then.  Returns 0, -ENOMEM, or -EHOSTUNREACH with the reason as the trouble of
 * *@ret_cluster.
 */
int sheep_cluster_new(const struct sheep_uri *uri, const struct sheep_proof *proof,
		      bool impatient, struct sheep_cluster **ret_cluster);

void sheep_cluster_free(struct sheep_cluster *cluster);

/*
 * Ask for @call.  Its done() is called when the answer is one of SHEEP_SUCCESS,
 * SHEEP_NO_OBJ, SHEEP_NO_VDI, and for a list of nodes or of deleted VDIs also those that
 * say that this sheep knows no such request.  Anything else is tried again.
 */
void sheep_cluster_call(struct sheep_cluster *cluster, struct sheep_call *call);

/* The same, not before @pause_ms have passed and rather not where it was answered last.
 */
void sheep_cluster_call_later(struct sheep_cluster *cluster, struct sheep_call *call,
			      int64_t pause_ms);

/*
 * Send and receive, until something was done, one of the @count descriptors of @more is
 * ready (their revents are set), or @timeout_ms have passed (-1: for ever).  Returns 0;
 * -ETIMEDOUT if calls are under way and nothing has gone on for too long; -EIO if the
 * cluster answers a call with errors only, or after sheep_cluster_give_up(); -ENOENT if
 * every gateway failed to prove that it is the right one; or -ECONNREFUSED if none can be
 * reached (@impatient only).
 */
int sheep_cluster_wait(struct sheep_cluster *cluster, struct pollfd *more, size_t count,
		       int timeout_ms);

/* Something has gone on, or nothing is wanted: the wait for the cluster begins anew. */
void sheep_cluster_progress(struct sheep_cluster *cluster);

/*
 * Learn the nodes of the cluster from the answer to a SHEEP_GET_NODE_LIST.  They serve as
 * gateways, and objects are asked for where they are.  What cannot be made use of is
 * left.
 */
void sheep_cluster_learn(struct sheep_cluster *cluster, const struct sheep_call *call);

/*
 * Begin to connect to as many of the gateways that are known as are used at all, for many
 * calls to come.  Without it that is done for each when it is of use.
 */
void sheep_cluster_spread(struct sheep_cluster *cluster);

/* How long the wait for the cluster may be, in milliseconds. */
int64_t sheep_cluster_patience_ms(const struct sheep_cluster *cluster);

/*
 * How long, in milliseconds, errors are taken for something that passes: less than the
 * time that a cluster gets which says that it cannot answer now.
 */
int64_t sheep_cluster_errors_ms(const struct sheep_cluster *cluster);

/* The trouble that was noted is final: sheep_cluster_wait() returns -EIO from now on. */
void sheep_cluster_give_up(struct sheep_cluster *cluster);

/* What went wrong last, a line for people, and the exit status that says so. */
const char *sheep_cluster_trouble(const struct sheep_cluster *cluster, int *ret_status);

/* Something else went wrong: @format is the trouble, @status the status to exit with. */
void sheep_cluster_note(struct sheep_cluster *cluster, int status, const char *format,
			...) __attribute__((format(printf, 3, 4)));

/* Milliseconds of a clock that only goes on. */
int64_t sheep_now_ms(void);

#endif
