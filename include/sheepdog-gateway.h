/* SPDX-License-Identifier: MIT */
/*
 * sheepdog-gateway - the sheep that can be asked: where they are, and how each one does.
 */
#ifndef IMAGEFS_SHEEPDOG_GATEWAY_H
#define IMAGEFS_SHEEPDOG_GATEWAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "sheepdog-conn.h"
#include "sheepdog-uri.h"

#define SHEEP_GATEWAYS_MAX 32
#define SHEEP_GATEWAY_CONNS 4

/*
 *   IDLE      no connection; may be tried again from retry_ms on
 *   PROVING   connecting, or its proof is under way
 *   READY     may be asked
 *   STRANGER  it answered, and is of another cluster; for good
 */
enum sheep_gateway_state { SHEEP_IDLE, SHEEP_PROVING, SHEEP_READY, SHEEP_STRANGER };

struct sheep_gateway {
	/* Constant. */
	struct sockaddr_storage address;
	socklen_t address_size;
	char text[128]; /* the address for people */
	bool is_named; /* people named it; otherwise the cluster did */

	enum sheep_gateway_state state;
	bool is_suspect; /* it has not answered for long */
	unsigned failures; /* in a row */
	int64_t retry_ms;
	int64_t tried_ms;
	struct sheep_conn *conns[SHEEP_GATEWAY_CONNS]; /* NULL, or perhaps closed */
	struct sheep_call proof;
	struct sheep_call hello; /* for the nodes that it knows */
	uint64_t nodes_hash; /* of them; 0: it has not said yet */
};

struct sheep_gateways {
	struct sheep_gateway *all[SHEEP_GATEWAYS_MAX];
	size_t count;
};

/*
 * Look up the hosts of @uri, blocking, and add what is found to @gateways.  Returns how
 * many could not be looked up, with the last problem in @problem (of @size bytes), or
 * -ENOMEM.
 */
int sheep_gateways_resolve(struct sheep_gateways *gateways, const struct sheep_uri *uri,
			   char *problem, size_t size);

/* Sum up a list of nodes: those that make the same cluster have the same.  Never 0. */
uint64_t sheep_nodes_hash(const struct sheep_call *call);

/*
 * The gateway that is @node, added if there is room.  NULL if there is none, or if the
 * node's address means nothing here: one of loopback, unless the cluster is on this host.
 */
struct sheep_gateway *sheep_gateways_of_node(struct sheep_gateways *gateways,
					     const struct sheep_node *node);

void sheep_gateways_fini(struct sheep_gateways *gateways);

/* Whether any connection of @gateway is open or about to be. */
bool sheep_gateway_is_open(const struct sheep_gateway *gateway);

/*
 * The connection of @gateway on which to ask next: the least busy of at most @want. Opens
 * another one, to be of use later, if all are busy.  NULL if there is none.
 */
struct sheep_conn *sheep_gateway_pick(struct sheep_gateway *gateway, size_t want,
				      int64_t now_ms);

/* Open connection @place, which is closed.  Returns 0 or a negative errno. */
int sheep_gateway_open(struct sheep_gateway *gateway, size_t place, int64_t now_ms);

/* How many bytes @gateway has still to answer. */
size_t sheep_gateway_load(const struct sheep_gateway *gateway);

#endif
