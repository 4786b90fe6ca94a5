/* SPDX-License-Identifier: MIT */
/*
 * sheepdog-route - which gateway is asked, and when another one.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "imagefs-store.h"
#include "sheepdog-route.h"

#define ANOTHER_MS 300 /* without a connection so long: try another gateway too */
#define PAUSE_MS ((int64_t)30) /* before a gateway that failed is tried again */
#define HOLDER_MS 50 /* to get ready, of one that holds an object; then: ask elsewhere */
#define OPEN_MAX 8 /* gateways that are connected to */
#define CONNECTIONS 6 /* in all, while there are fewer gateways */

void sheep_calls_init(struct sheep_calls *calls)
{
	calls->first = NULL;
	calls->last = &calls->first;
}

void sheep_calls_put(struct sheep_calls *calls, struct sheep_call *call)
{
	call->next = NULL;
	*calls->last = call;
	calls->last = &call->next;
}

struct sheep_call *sheep_calls_take(struct sheep_calls *calls)
{
	struct sheep_call *call = calls->first;

	if (call) {
		calls->first = call->next;
		if (!calls->first)
			calls->last = &calls->first;
	}
	return call;
}

void sheep_route_again(struct sheep_cluster *cluster, struct sheep_call *call,
		       struct sheep_gateway *avoid, int64_t not_before_ms)
{
	call->avoid = avoid;
	call->not_before_ms = not_before_ms;
	sheep_calls_put(&cluster->pending, call);
}

/* Take the call away from @entry, which is under way, to ask for it elsewhere. */
static void move_away(struct sheep_cluster *cluster, struct sheep_gateway *gateway,
		      struct sheep_entry *entry)
{
	struct sheep_call *call = entry->call;

	entry->call = NULL;
	if (!call || call->done == sheep_route_proof_done)
		return;
	cluster->sent--;
	call->moves++;
	sheep_route_again(cluster, call, gateway, 0);
}

void sheep_route_close(struct sheep_cluster *cluster, struct sheep_gateway *gateway)
{
	for (size_t i = 0; i < SHEEP_GATEWAY_CONNS; i++) {
		struct sheep_conn *conn = gateway->conns[i];

		if (!conn)
			continue;
		sheep_conn_close(conn);
		for (size_t j = 0; j < conn->count; j++)
			move_away(cluster, gateway, &conn->entries[j]);
		sheep_conn_init(conn);
	}
	gateway->state = SHEEP_IDLE;
	gateway->is_suspect = false;
}

/* @gateway failed with @error.  What somebody said meanwhile is told rather than that. */
static void note(struct sheep_cluster *cluster, const struct sheep_gateway *gateway,
		 int error)
{
	if (cluster->said_ms > 0 && cluster->said_ms >= cluster->since_ms)
		return;
	snprintf(cluster->trouble, sizeof(cluster->trouble), "%s: %s", gateway->text,
		 error == -ETIMEDOUT ? "no answer" : strerror(-error));
	cluster->trouble_status = STORE_UNAVAILABLE;
}

void sheep_route_fail(struct sheep_cluster *cluster, struct sheep_gateway *gateway,
		      int error, int64_t now_ms)
{
	int64_t pause_ms = PAUSE_MS << (gateway->failures < 5 ? gateway->failures : 5);

	if (error == -EPROTO)
		sheep_cluster_note(cluster, STORE_UNAVAILABLE,
				   "%s: what answers there is no sheepdog",
				   gateway->text);
	else if (gateway->is_named || gateway->state == SHEEP_READY)
		note(cluster, gateway, error);
	sheep_route_close(cluster, gateway);
	gateway->failures++;
	/* There is no hurry about those that nobody named. */
	gateway->retry_ms = now_ms + (gateway->is_named ? pause_ms : 8 * pause_ms);
}

void sheep_route_proof_done(struct sheep_call *call)
{
	(void)call;
	abort();
}

/*
 * Make @call, of @gateway itself, that for @request.  Returns whether there was memory
 * for it.
 */
static bool prepare(struct sheep_gateway *gateway, struct sheep_call *call,
		    const struct sheep_request *request)
{
	void *buffer = realloc(call->buffer, request->length);

	if (!buffer)
		return false;
	*call = (struct sheep_call){
		.request = *request,
		.buffer = buffer,
		.whole = true,
		.done = sheep_route_proof_done,
		.owner = gateway,
	};
	return true;
}

/* Begin to connect to @gateway, which is idle. */
static void try_gateway(struct sheep_cluster *cluster, struct sheep_gateway *gateway,
			int64_t now_ms)
{
	static const struct sheep_request hello = {.op = SHEEP_GET_NODE_LIST,
						   .length = SHEEP_NODE_LIST_BYTES};
	int error;

	if (!prepare(gateway, &gateway->proof, &cluster->proof->request) ||
	    !prepare(gateway, &gateway->hello, &hello))
		return;
	gateway->nodes_hash = 0;
	gateway->tried_ms = now_ms;
	gateway->state = SHEEP_PROVING;
	error = sheep_gateway_open(gateway, 0, now_ms);
	if (error < 0)
		sheep_route_fail(cluster, gateway, error, now_ms);
}

/* How many gateways are connected, or about to be. */
static size_t count_open(const struct sheep_cluster *cluster)
{
	size_t open = 0;

	for (size_t i = 0; i < cluster->gateways.count; i++)
		open += sheep_gateway_is_open(cluster->gateways.all[i]);
	return open;
}

void sheep_route_keep_open(struct sheep_cluster *cluster, int64_t now_ms)
{
	struct sheep_gateway *next = NULL;

	for (size_t i = 0; i < cluster->gateways.count; i++) {
		struct sheep_gateway *gateway = cluster->gateways.all[i];

		if (gateway->state == SHEEP_READY && !gateway->is_suspect)
			return;
		if (gateway->state == SHEEP_PROVING &&
		    now_ms - gateway->tried_ms < ANOTHER_MS)
			return;
		if (gateway->state == SHEEP_IDLE && gateway->retry_ms <= now_ms &&
		    (!next || gateway->failures < next->failures))
			next = gateway;
	}
	if (next)
		try_gateway(cluster, next, now_ms);
}

static bool is_better(const struct sheep_gateway *gateway,
		      const struct sheep_gateway *than)
{
	return !than || sheep_gateway_load(gateway) < sheep_gateway_load(than);
}

/*
 * Make of the @count nodes at @nodes those that are not among them, if there are any.
 * Returns how many are in @nodes.
 */
static size_t all_others(const struct sheep_cluster *cluster,
			 uint16_t nodes[SHEEP_PLACES_MAX], size_t count)
{
	uint16_t others[SHEEP_PLACES_MAX];
	size_t found = 0;

	for (size_t node = 0; node < cluster->node_count && found < SHEEP_PLACES_MAX;
	     node++) {
		bool is_among = false;

		for (size_t i = 0; i < count; i++)
			is_among = is_among || nodes[i] == node;
		if (!is_among)
			others[found++] = node;
	}
	memcpy(nodes, others, found * sizeof(others[0]));
	return found ? found : count;
}

/*
 * Find the nodes that @call had best be sent to: those that have the object.  But one
 * that has a strip of it must collect the others all the same; and if it is to give its
 * strip to a node that has just joined, while it answers, sheep 1.0 ends ("invalid
 * ec_index"), and its guests with it.  So whoever has none is asked for strips.
 */
static size_t find_nodes(const struct sheep_cluster *cluster,
			 const struct sheep_call *call, uint16_t nodes[SHEEP_PLACES_MAX])
{
	size_t count = sheep_place_find(cluster->place, call->request.object,
					call->copies ? call->copies : 1, nodes);

	return call->in_strips ? all_others(cluster, nodes, count) : count;
}

/*
 * The least busy of the gateways that are best for @call, or NULL.  If one of them is
 * about to be ready, it is worth waiting for till *@ret_wait_ms: any other one would have
 * to ask a holder itself, and not all of them may live.
 */
static struct sheep_gateway *choose_best(struct sheep_cluster *cluster,
					 const struct sheep_call *call, int64_t now_ms,
					 int64_t *ret_wait_ms)
{
	uint16_t nodes[SHEEP_PLACES_MAX];
	struct sheep_gateway *best = NULL;
	size_t count;

	*ret_wait_ms = 0;

	if (!cluster->place || call->request.op != SHEEP_READ_OBJ)
		return NULL;
	count = find_nodes(cluster, call, nodes);
	for (size_t i = 0; i < count; i++) {
		struct sheep_gateway *gateway = cluster->node_gateways[nodes[i]];

		if (!gateway || gateway == call->avoid)
			continue;
		if (gateway->state == SHEEP_IDLE && gateway->retry_ms <= now_ms &&
		    count_open(cluster) < OPEN_MAX)
			try_gateway(cluster, gateway, now_ms);
		if (gateway->state == SHEEP_READY && !gateway->is_suspect &&
		    is_better(gateway, best))
			best = gateway;
		if (gateway->state == SHEEP_PROVING &&
		    now_ms - gateway->tried_ms < HOLDER_MS)
			*ret_wait_ms = gateway->tried_ms + HOLDER_MS;
	}
	return best;
}

static struct sheep_gateway *choose_gateway(struct sheep_cluster *cluster,
					    const struct sheep_call *call, int64_t now_ms)
{
	int64_t wait_ms;
	struct sheep_gateway *best = choose_best(cluster, call, now_ms, &wait_ms);
	struct sheep_gateway *last = NULL;

	if (!best && wait_ms > 0 && wait_ms < cluster->hold_ms)
		cluster->hold_ms = wait_ms;
	if (best || wait_ms > 0)
		return best;
	for (size_t i = 0; i < cluster->gateways.count; i++) {
		struct sheep_gateway *gateway = cluster->gateways.all[i];

		if (gateway->state != SHEEP_READY)
			continue;
		if (gateway->is_suspect || gateway == call->avoid)
			last = is_better(gateway, last) ? gateway : last;
		else if (is_better(gateway, best))
			best = gateway;
	}
	return best ? best : last;
}

/* Send @call, if there is anyone to send it to.  Returns whether it was. */
static bool send_call(struct sheep_cluster *cluster, struct sheep_call *call,
		      int64_t now_ms)
{
	struct sheep_gateway *gateway = choose_gateway(cluster, call, now_ms);
	size_t want = CONNECTIONS / (count_open(cluster) + !gateway);
	struct sheep_conn *conn;

	if (!gateway)
		return false;
	conn = sheep_gateway_pick(gateway, want ? want : 1, now_ms);
	if (!conn || !sheep_conn_send(conn, call, ++cluster->last_id, now_ms))
		return false;
	cluster->sent++;
	return true;
}

/* Send what is pending.  Returns when the next one may be sent, INT64_MAX if none waits.
 */
static int64_t send_pending(struct sheep_cluster *cluster, int64_t now_ms)
{
	struct sheep_calls pending = cluster->pending;
	int64_t next_ms = INT64_MAX;
	struct sheep_call *call;

	cluster->hold_ms = INT64_MAX;
	if (!pending.first)
		return next_ms;
	sheep_calls_init(&cluster->pending);
	while ((call = sheep_calls_take(&pending))) {
		if (call->not_before_ms <= now_ms && send_call(cluster, call, now_ms))
			continue;
		if (call->not_before_ms > now_ms && call->not_before_ms < next_ms)
			next_ms = call->not_before_ms;
		sheep_calls_put(&cluster->pending, call);
	}
	return next_ms < cluster->hold_ms ? next_ms : cluster->hold_ms;
}

/* Whether @call is under way on @conn. */
static bool is_sent(const struct sheep_conn *conn, const struct sheep_call *call)
{
	for (size_t i = 0; i < conn->count; i++)
		if (conn->entries[i].call == call)
			return true;
	return conn->in_answer && conn->current.call == call;
}

/*
 * Send what @gateway has to prove itself with: its hello, and the proof if that may not
 * be needed.
 */
static void send_proof(struct sheep_cluster *cluster, struct sheep_gateway *gateway,
		       int64_t now_ms)
{
	struct sheep_conn *conn = gateway->conns[0];
	bool has_hello = cluster->proof->request.op != SHEEP_GET_NODE_LIST;

	if (gateway->state != SHEEP_PROVING || conn->fd < 0 || conn->connecting)
		return;
	if (has_hello && gateway->nodes_hash == 0 && !is_sent(conn, &gateway->hello) &&
	    gateway->hello.not_before_ms <= now_ms)
		sheep_conn_send(conn, &gateway->hello, ++cluster->last_id, now_ms);
	if (has_hello && gateway->nodes_hash == 0 && cluster->nodes_hash != 0)
		return;
	if (!is_sent(conn, &gateway->proof) && gateway->proof.not_before_ms <= now_ms)
		sheep_conn_send(conn, &gateway->proof, ++cluster->last_id, now_ms);
}

static void flush_gateway(struct sheep_cluster *cluster, struct sheep_gateway *gateway,
			  int64_t now_ms)
{
	for (size_t i = 0; i < SHEEP_GATEWAY_CONNS; i++) {
		struct sheep_conn *conn = gateway->conns[i];
		int error = 0;

		if (conn && conn->fd >= 0 && !conn->connecting && conn->out_used > 0)
			error = sheep_conn_flush(conn);
		if (error < 0) {
			sheep_route_fail(cluster, gateway, error, now_ms);
			return;
		}
	}
}

int64_t sheep_route_send(struct sheep_cluster *cluster, int64_t now_ms)
{
	int64_t next_ms = send_pending(cluster, now_ms);

	for (size_t i = 0; i < cluster->gateways.count; i++) {
		if (sheep_gateway_is_open(cluster->gateways.all[i]))
			send_proof(cluster, cluster->gateways.all[i], now_ms);
		flush_gateway(cluster, cluster->gateways.all[i], now_ms);
	}
	return next_ms;
}

/* Whether there is another gateway than @gateway to ask now. */
static bool has_other(const struct sheep_cluster *cluster,
		      const struct sheep_gateway *gateway)
{
	for (size_t i = 0; i < cluster->gateways.count; i++) {
		const struct sheep_gateway *other = cluster->gateways.all[i];

		if (other != gateway && other->state == SHEEP_READY && !other->is_suspect)
			return true;
	}
	return false;
}

/*
 * Have @entry asked elsewhere, if it is still wanted and is not just waiting its turn on
 * a slow connection: nothing came for long, or what was asked long after it.
 */
static void move_if_stuck(struct sheep_cluster *cluster, struct sheep_gateway *gateway,
			  const struct sheep_conn *conn, struct sheep_entry *entry,
			  int64_t now_ms)
{
	unsigned moves = entry->call ? entry->call->moves : 0;
	int64_t limit_ms = cluster->hedge_ms << (moves < 4 ? moves : 4);
	int64_t since_ms =
		conn->heard_ms > entry->sent_ms ? conn->heard_ms : entry->sent_ms;

	if (now_ms - since_ms > limit_ms || conn->answered_ms - entry->sent_ms > limit_ms)
		move_away(cluster, gateway, entry);
}

/* See to it that what @conn has not answered for long is asked elsewhere. */
static void check_conn(struct sheep_cluster *cluster, struct sheep_gateway *gateway,
		       struct sheep_conn *conn, int64_t now_ms)
{
	int64_t oldest_ms = sheep_conn_oldest_ms(conn);
	int64_t silent_ms =
		now_ms - (oldest_ms > conn->heard_ms ? oldest_ms : conn->heard_ms);
	bool is_alone;

	if (oldest_ms < INT64_MAX && silent_ms > cluster->hedge_ms &&
	    !gateway->is_suspect) {
		note(cluster, gateway, -ETIMEDOUT);
		gateway->is_suspect = true;
		/*
		 * It may be some other node that it waits for itself: if it answers this,
		 * it is well.
		 */
		if (!is_sent(conn, &gateway->hello))
			sheep_conn_send(conn, &gateway->hello, ++cluster->last_id,
					now_ms);
	}
	is_alone = !has_other(cluster, gateway);
	/* Without another one, all that is left to try is another connection. */
	if (oldest_ms < INT64_MAX &&
	    silent_ms > (is_alone ? 2 * cluster->hedge_ms : cluster->patience_ms)) {
		sheep_route_fail(cluster, gateway, -ETIMEDOUT, now_ms);
		return;
	}
	if (is_alone)
		return;
	for (size_t i = 0; i < conn->count; i++)
		move_if_stuck(cluster, gateway, conn, &conn->entries[i], now_ms);
	if (conn->in_answer)
		move_if_stuck(cluster, gateway, conn, &conn->current, now_ms);
}

void sheep_route_check(struct sheep_cluster *cluster, int64_t now_ms)
{
	for (size_t i = 0; i < cluster->gateways.count; i++) {
		struct sheep_gateway *gateway = cluster->gateways.all[i];
		int64_t limit_ms = cluster->patience_ms / 2;

		if (gateway->state == SHEEP_PROVING &&
		    now_ms - gateway->tried_ms > limit_ms) {
			sheep_route_fail(cluster, gateway, -ETIMEDOUT, now_ms);
			continue;
		}
		for (size_t j = 0; j < SHEEP_GATEWAY_CONNS; j++) {
			struct sheep_conn *conn = gateway->conns[j];

			if (gateway->state == SHEEP_READY && conn && conn->fd >= 0 &&
			    !conn->connecting)
				check_conn(cluster, gateway, conn, now_ms);
		}
	}
}

void sheep_cluster_learn(struct sheep_cluster *cluster, const struct sheep_call *call)
{
	uint32_t count = call->answer.nodes;
	struct sheep_node *nodes = calloc(count ? count : 1, sizeof(*nodes));
	struct sheep_gateway **gateways = calloc(count ? count : 1, sizeof(*gateways));
	struct sheep_place *place = NULL;
	bool is_known = nodes && gateways && call->answer.result == SHEEP_SUCCESS;

	for (uint32_t i = 0; is_known && i < count; i++) {
		is_known =
			sheep_node_decode(call->buffer, &call->answer, i, &nodes[i]) == 0;
		if (is_known)
			gateways[i] =
				sheep_gateways_of_node(&cluster->gateways, &nodes[i]);
	}
	if (is_known && sheep_place_new(nodes, count, &place) == 0) {
		sheep_place_free(cluster->place);
		cluster->place = place;
		free(cluster->node_gateways);
		cluster->node_gateways = gateways;
		cluster->node_count = count;
		cluster->nodes_hash = sheep_nodes_hash(call);
		gateways = NULL;
	}
	free(gateways);
	free(nodes);
}

void sheep_cluster_spread(struct sheep_cluster *cluster)
{
	int64_t now_ms = sheep_now_ms();

	for (size_t i = 0; i < cluster->gateways.count; i++) {
		struct sheep_gateway *gateway = cluster->gateways.all[i];

		if (gateway->state == SHEEP_IDLE && gateway->retry_ms <= now_ms &&
		    count_open(cluster) < OPEN_MAX)
			try_gateway(cluster, gateway, now_ms);
	}
}

/* See whether @gateway is known to be one of the cluster by the nodes that it knows. */
static void check_nodes(struct sheep_cluster *cluster, struct sheep_gateway *gateway)
{
	if (gateway->state == SHEEP_PROVING && gateway->hello.answer.nodes > 0 &&
	    gateway->nodes_hash == cluster->nodes_hash && cluster->was_ready) {
		gateway->state = SHEEP_READY;
		gateway->failures = 0;
	}
}

void sheep_route_ready(struct sheep_cluster *cluster, struct sheep_gateway *gateway)
{
	gateway->state = SHEEP_READY;
	gateway->failures = 0;
	cluster->was_ready = true;
	if (gateway->nodes_hash != 0 && gateway->nodes_hash != cluster->nodes_hash)
		sheep_cluster_learn(cluster, &gateway->hello);
	for (size_t i = 0; i < cluster->gateways.count; i++)
		check_nodes(cluster, cluster->gateways.all[i]);
}

void sheep_route_hello(struct sheep_cluster *cluster, struct sheep_gateway *gateway)
{
	const struct sheep_call *hello = &gateway->hello;
	uint32_t count = hello->answer.result == SHEEP_SUCCESS ? hello->answer.nodes : 0;
	struct sheep_node node;

	gateway->nodes_hash = sheep_nodes_hash(hello);
	if (gateway->state == SHEEP_READY) {
		sheep_route_ready(cluster, gateway);
		return;
	}
	if (gateway->state != SHEEP_PROVING)
		return;
	/* They can be tried if this one does not prove itself soon. */
	for (uint32_t i = 0; i < count && !cluster->was_ready; i++)
		if (sheep_node_decode(hello->buffer, &hello->answer, i, &node) == 0)
			(void)sheep_gateways_of_node(&cluster->gateways, &node);
	check_nodes(cluster, gateway);
}
