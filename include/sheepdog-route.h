/* SPDX-License-Identifier: MIT */
/*
 * sheepdog-route - which gateway is asked, and when another one: the half of
 * sheepdog-cluster that knows gateways.  For sheepdog_cluster.c only.
 *
 * A call waits in one of two lists, to be sent or to be told that it is done, or it is an
 * entry of a connection.  A gateway that does not answer keeps its connection for a
 * while, but what it was asked is asked elsewhere: that entry then has no call any more.
 */
#ifndef IMAGEFS_SHEEPDOG_ROUTE_H
#define IMAGEFS_SHEEPDOG_ROUTE_H

#include "sheepdog-cluster.h"
#include "sheepdog-gateway.h"
#include "sheepdog-place.h"

struct sheep_calls {
	struct sheep_call *first;
	struct sheep_call **last;
};

struct sheep_cluster {
	const struct sheep_proof *proof;
	bool is_impatient;
	int64_t patience_ms;
	int64_t hedge_ms; /* without an answer for so long: ask elsewhere */

	struct sheep_gateways gateways;
	struct sheep_place *place; /* NULL: not known */
	struct sheep_gateway **node_gateways; /* those of its nodes, or NULL */
	size_t node_count;
	uint64_t nodes_hash; /* of them; 0: they are not known */

	struct sheep_calls pending;
	struct sheep_calls finished;
	int64_t hold_ms; /* when what waits for a holder is asked elsewhere, at the latest */
	size_t sent; /* calls that are under way, proofs apart */
	uint32_t last_id;
	int64_t since_ms; /* when something went on last */
	bool was_ready; /* some gateway was, once */
	bool has_failed; /* there is no use in going on */

	char trouble[256];
	int trouble_status;
	int64_t said_ms; /* when somebody answered with trouble last */
};

void sheep_calls_init(struct sheep_calls *calls);
void sheep_calls_put(struct sheep_calls *calls, struct sheep_call *call);

/* The first call, taken off the list; NULL if there is none. */
struct sheep_call *sheep_calls_take(struct sheep_calls *calls);

/* Ask for @call again, not before @not_before_ms and rather not at @avoid. */
void sheep_route_again(struct sheep_cluster *cluster, struct sheep_call *call,
		       struct sheep_gateway *avoid, int64_t not_before_ms);

/* Close what @gateway has open, and ask for what was under way there elsewhere. */
void sheep_route_close(struct sheep_cluster *cluster, struct sheep_gateway *gateway);

/* The same since it failed, with @error: it is tried again after a while. */
void sheep_route_fail(struct sheep_cluster *cluster, struct sheep_gateway *gateway,
		      int error, int64_t now_ms);

/* While no gateway can be asked, try another one from time to time. */
void sheep_route_keep_open(struct sheep_cluster *cluster, int64_t now_ms);

/*
 * Send what is pending, and proofs.  Returns when the next call may be sent that has to
 * wait till then, INT64_MAX if there is none.
 */
int64_t sheep_route_send(struct sheep_cluster *cluster, int64_t now_ms);

/* Look at the clock: what was not answered for long is asked elsewhere. */
void sheep_route_check(struct sheep_cluster *cluster, int64_t now_ms);

/*
 * What @gateway answered to its hello is there.  A gateway that knows the same nodes as
 * one that has proved itself needs no proof of its own: it may have to fetch what proves
 * it from another node, which may hang.
 */
void sheep_route_hello(struct sheep_cluster *cluster, struct sheep_gateway *gateway);

/* @gateway may be asked from now on. */
void sheep_route_ready(struct sheep_cluster *cluster, struct sheep_gateway *gateway);

/* The done() of a proof and a hello, by which they are told from other calls. */
void sheep_route_proof_done(struct sheep_call *call);

#endif
