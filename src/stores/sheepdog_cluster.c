/* SPDX-License-Identifier: MIT */
/*
 * sheepdog-cluster - requests to a cluster, whichever of its nodes answers.
 *
 * A call waits in one of two lists, to be sent or to be told that it is done, or is an
 * entry of a connection.  A gateway that does not answer keeps its connection for a
 * while, but what it was asked is asked elsewhere: that entry then has no call any more.
 */
#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "imagefs-store.h"
#include "sheepdog-cluster.h"
#include "sheepdog-gateway.h"
#include "sheepdog-place.h"

#define STALL_MS_DEFAULT 30000
#define HEDGE_MS_MAX 3000 /* without an answer so long: ask elsewhere */
#define ANOTHER_MS 300 /* without a connection so long: try another gateway too */
#define TICK_MS 100 /* how often it is looked at the clock while calls wait */
#define PROOF_TRIES 4 /* that a gateway has to find what proves it */
#define PAUSE_MS_MAX 1000 /* between two tries of a request */
#define OPEN_MAX 8 /* gateways that are connected to */
#define CONNECTIONS 6 /* in all, while there are fewer gateways */
#define MORE_MAX 4 /* descriptors that the caller can wait for */

struct calls {
	struct sheep_call *first;
	struct sheep_call **last;
};

struct sheep_cluster {
	const struct sheep_proof *proof;
	bool is_impatient;
	int64_t patience_ms;
	int64_t hedge_ms;

	struct sheep_gateways gateways;
	struct sheep_place *place; /* NULL: not known */
	struct sheep_gateway **node_gateways;

	struct calls pending;
	struct calls finished;
	size_t sent;
	uint32_t last_id;
	int64_t since_ms; /* when something went on last */
	bool was_ready; /* some gateway was, once */

	char trouble[256];
	int trouble_status;
};

int64_t sheep_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void calls_init(struct calls *calls)
{
	calls->first = NULL;
	calls->last = &calls->first;
}

static void calls_put(struct calls *calls, struct sheep_call *call)
{
	call->next = NULL;
	*calls->last = call;
	calls->last = &call->next;
}

static struct sheep_call *calls_take(struct calls *calls)
{
	struct sheep_call *call = calls->first;

	if (call) {
		calls->first = call->next;
		if (!calls->first)
			calls->last = &calls->first;
	}
	return call;
}

void sheep_cluster_note(struct sheep_cluster *cluster, int status, const char *format,
			...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(cluster->trouble, sizeof(cluster->trouble), format, arguments);
	va_end(arguments);
	cluster->trouble_status = status;
}

const char *sheep_cluster_trouble(const struct sheep_cluster *cluster, int *ret_status)
{
	*ret_status = cluster->trouble_status;
	return cluster->trouble;
}

static int64_t stall_ms(void)
{
	const char *text = getenv("IMAGEFS_STALL_MS");
	long long number = text ? atoll(text) : 0;

	return number > 0 && number < INT32_MAX ? number : STALL_MS_DEFAULT;
}

int sheep_cluster_new(const struct sheep_uri *uri, const struct sheep_proof *proof,
		      bool impatient, struct sheep_cluster **ret_cluster)
{
	struct sheep_cluster *cluster = calloc(1, sizeof(*cluster));
	char problem[200] = "";
	int unknown;

	if (!cluster)
		return -ENOMEM;
	cluster->proof = proof;
	cluster->is_impatient = impatient;
	/* What is left is for saying so before this program is killed. */
	cluster->patience_ms = stall_ms();
	cluster->patience_ms -=
		cluster->patience_ms > 15000 ? 3000 : cluster->patience_ms / 5;
	cluster->hedge_ms = cluster->patience_ms / 6;
	if (cluster->hedge_ms > HEDGE_MS_MAX)
		cluster->hedge_ms = HEDGE_MS_MAX;
	calls_init(&cluster->pending);
	calls_init(&cluster->finished);
	unknown =
		sheep_gateways_resolve(&cluster->gateways, uri, problem, sizeof(problem));
	if (unknown == -ENOMEM) {
		sheep_cluster_free(cluster);
		return -ENOMEM;
	}
	sheep_cluster_note(cluster, STORE_UNAVAILABLE, "%s",
			   unknown ? problem : "no gateway answers");
	sheep_cluster_progress(cluster);
	*ret_cluster = cluster;
	return cluster->gateways.count == 0 ? -EHOSTUNREACH : 0;
}

void sheep_cluster_free(struct sheep_cluster *cluster)
{
	if (!cluster)
		return;
	sheep_gateways_fini(&cluster->gateways);
	sheep_place_free(cluster->place);
	free(cluster->node_gateways);
	free(cluster);
}

void sheep_cluster_progress(struct sheep_cluster *cluster)
{
	cluster->since_ms = sheep_now_ms();
}

int64_t sheep_cluster_patience_ms(const struct sheep_cluster *cluster)
{
	return cluster->patience_ms;
}

void sheep_cluster_call(struct sheep_cluster *cluster, struct sheep_call *call)
{
	call->got = 0;
	call->avoid = NULL;
	call->not_before_ms = 0;
	call->tries = 0;
	call->moves = 0;
	calls_put(&cluster->pending, call);
}

static void call_again(struct sheep_cluster *cluster, struct sheep_call *call,
		       struct sheep_gateway *avoid, int64_t not_before_ms)
{
	call->avoid = avoid;
	call->not_before_ms = not_before_ms;
	calls_put(&cluster->pending, call);
}

void sheep_cluster_call_later(struct sheep_cluster *cluster, struct sheep_call *call,
			      int64_t pause_ms)
{
	call->got = 0;
	call_again(cluster, call, call->avoid,
		   pause_ms > 0 ? sheep_now_ms() + pause_ms : 0);
}

/* Take the call away from @entry, which is under way, to ask for it elsewhere. */
static void move_away(struct sheep_cluster *cluster, struct sheep_gateway *gateway,
		      struct sheep_entry *entry)
{
	struct sheep_call *call = entry->call;

	entry->call = NULL;
	if (!call || call == &gateway->proof)
		return;
	cluster->sent--;
	call->moves++;
	call_again(cluster, call, gateway, 0);
}

/* Close what @gateway has open, and ask for what was under way there elsewhere. */
static void close_gateway(struct sheep_cluster *cluster, struct sheep_gateway *gateway)
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

static void fail_gateway(struct sheep_cluster *cluster, struct sheep_gateway *gateway,
			 int error, int64_t now_ms)
{
	int64_t pause_ms = (int64_t)50 << (gateway->failures < 5 ? gateway->failures : 5);

	if (gateway->is_named || gateway->state == SHEEP_READY)
		sheep_cluster_note(cluster, STORE_UNAVAILABLE, "%s: %s", gateway->text,
				   error == -EPROTO ? "what answers there is no sheepdog"
						    : strerror(-error));
	close_gateway(cluster, gateway);
	gateway->failures++;
	gateway->retry_ms = now_ms + (pause_ms > PAUSE_MS_MAX ? PAUSE_MS_MAX : pause_ms);
}

/* A proof was answered: called with the others, by way of the finished calls. */
static void proof_done(struct sheep_call *call)
{
	struct sheep_gateway *gateway = call->owner;

	gateway->state = SHEEP_READY;
}

/* Begin to connect to @gateway, which is idle. */
static void try_gateway(struct sheep_cluster *cluster, struct sheep_gateway *gateway,
			int64_t now_ms)
{
	const struct sheep_request *request = &cluster->proof->request;
	int error;

	if (!gateway->proof.buffer) {
		gateway->proof.buffer = malloc(request->length);
		if (!gateway->proof.buffer)
			return;
	}
	gateway->proof.request = *request;
	gateway->proof.whole = true;
	gateway->proof.done = proof_done;
	gateway->proof.owner = gateway;
	gateway->proof.tries = 0;
	gateway->proof.not_before_ms = 0;
	gateway->tried_ms = now_ms;
	gateway->state = SHEEP_PROVING;
	error = sheep_gateway_open(gateway, 0, now_ms);
	if (error < 0)
		fail_gateway(cluster, gateway, error, now_ms);
}

/* How many gateways are connected, or about to be. */
static size_t count_open(const struct sheep_cluster *cluster)
{
	size_t open = 0;

	for (size_t i = 0; i < cluster->gateways.count; i++)
		open += sheep_gateway_is_open(cluster->gateways.all[i]);
	return open;
}

/* While none can be asked, try another gateway from time to time: first come, first. */
static void keep_open(struct sheep_cluster *cluster, int64_t now_ms)
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

/* The least busy gateway that holds the object of @call, or NULL. */
static struct sheep_gateway *choose_holder(struct sheep_cluster *cluster,
					   const struct sheep_call *call, int64_t now_ms)
{
	uint16_t nodes[SHEEP_PLACES_MAX];
	struct sheep_gateway *best = NULL;
	size_t count;

	if (!cluster->place || call->request.op != SHEEP_READ_OBJ)
		return NULL;
	count = sheep_place_find(cluster->place, call->request.object,
				 call->copies ? call->copies : 1, nodes);
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
	}
	return best;
}

static struct sheep_gateway *choose_gateway(struct sheep_cluster *cluster,
					    const struct sheep_call *call, int64_t now_ms)
{
	struct sheep_gateway *best = choose_holder(cluster, call, now_ms);
	struct sheep_gateway *last = NULL;

	if (best)
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
	struct calls pending = cluster->pending;
	int64_t next_ms = INT64_MAX;
	struct sheep_call *call;

	if (!pending.first)
		return next_ms;
	calls_init(&cluster->pending);
	while ((call = calls_take(&pending))) {
		if (call->not_before_ms <= now_ms && send_call(cluster, call, now_ms))
			continue;
		if (call->not_before_ms > now_ms && call->not_before_ms < next_ms)
			next_ms = call->not_before_ms;
		calls_put(&cluster->pending, call);
	}
	return next_ms;
}

static void send_proof(struct sheep_cluster *cluster, struct sheep_gateway *gateway,
		       int64_t now_ms)
{
	struct sheep_conn *conn = gateway->conns[0];

	if (gateway->state == SHEEP_PROVING && conn->fd >= 0 && !conn->connecting &&
	    conn->count == 0 && !conn->in_answer &&
	    gateway->proof.not_before_ms <= now_ms)
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
			fail_gateway(cluster, gateway, error, now_ms);
			return;
		}
	}
}

/* Which exit status says that the cluster answers with @result all the time. */
static int status_of(uint32_t result)
{
	switch (result) {
	case SHEEP_STARTUP:
	case SHEEP_WAIT_FOR_FORMAT:
	case SHEEP_WAIT_FOR_JOIN:
	case SHEEP_HALT:
	case 0x81:
	case 0x82:
	case 0x83:
	case 0x8c:
	case 0x8f:
	case 0x95:
		return STORE_AGAIN;
	case SHEEP_SHUTDOWN:
	case SHEEP_VER_MISMATCH:
	case SHEEP_KILLED:
	case 0x86:
		return STORE_UNAVAILABLE;
	default:
		return STORE_IO;
	}
}

static bool is_final(const struct sheep_call *call, bool is_proof)
{
	switch (call->answer.result) {
	case SHEEP_NO_OBJ:
		/* A gateway gets some time to find out, since this is for good. */
		return !is_proof || call->tries >= PROOF_TRIES;
	case SHEEP_SUCCESS:
	case SHEEP_NO_VDI:
		return true;
	case SHEEP_INVALID_PARMS:
	case SHEEP_VER_MISMATCH:
		return call->request.op >= 0x80;
	default:
		return false;
	}
}

/* The gateway whose connection has just answered, for the callback below. */
struct receiving {
	struct sheep_cluster *cluster;
	struct sheep_gateway *gateway;
	int64_t now_ms;
};

/* Hand @call over, or have it tried again. */
static void on_answer(void *context, struct sheep_call *call)
{
	struct receiving *receiving = context;
	struct sheep_cluster *cluster = receiving->cluster;
	struct sheep_gateway *gateway = receiving->gateway;
	bool is_proof = call == &gateway->proof;
	int64_t pause_ms;

	if (!is_proof)
		cluster->sent--;
	if (is_final(call, is_proof)) {
		call->avoid = gateway;
		calls_put(&cluster->finished, call);
		return;
	}
	sheep_cluster_note(cluster, status_of(call->answer.result),
			   "%s: %s (result 0x%02x)", gateway->text,
			   sheep_result_text(call->answer.result), call->answer.result);
	pause_ms = (int64_t)20 << (call->tries < 6 ? call->tries : 6);
	call->tries++;
	call->not_before_ms = receiving->now_ms + pause_ms;
	if (!is_proof)
		call_again(cluster, call, gateway, call->not_before_ms);
}

static void receive(struct sheep_cluster *cluster, struct sheep_gateway *gateway,
		    struct sheep_conn *conn, short events, int64_t now_ms)
{
	struct receiving receiving = {cluster, gateway, now_ms};
	int error = 0;

	if (conn->connecting)
		error = sheep_conn_opened(conn, now_ms);
	else if (events & (POLLIN | POLLERR | POLLHUP))
		error = sheep_conn_receive(conn, now_ms, on_answer, &receiving);
	if (error < 0)
		fail_gateway(cluster, gateway, error, now_ms);
	else if (conn->heard_ms == now_ms)
		gateway->is_suspect = false;
}

static void finish_proof(struct sheep_cluster *cluster, struct sheep_gateway *gateway)
{
	if (gateway->state != SHEEP_PROVING)
		return; /* it failed meanwhile */
	if (cluster->proof->check(cluster->proof->context, &gateway->proof)) {
		gateway->state = SHEEP_READY;
		gateway->failures = 0;
		cluster->was_ready = true;
		return;
	}
	close_gateway(cluster, gateway);
	gateway->state = SHEEP_STRANGER;
}

/* Tell the owners of what is done.  Returns whether there was any. */
static bool finish(struct sheep_cluster *cluster)
{
	struct calls finished = cluster->finished;
	struct sheep_call *call;

	calls_init(&cluster->finished);
	if (!finished.first)
		return false;
	while ((call = calls_take(&finished))) {
		if (call->done == proof_done)
			finish_proof(cluster, call->owner);
		else
			call->done(call);
	}
	return true;
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

/* Have @entry, if it is still wanted and was not answered for long, asked elsewhere. */
static void move_if_slow(struct sheep_cluster *cluster, struct sheep_gateway *gateway,
			 struct sheep_entry *entry, int64_t now_ms)
{
	unsigned moves = entry->call ? entry->call->moves : 0;

	if (now_ms - entry->sent_ms > cluster->hedge_ms << (moves < 4 ? moves : 4))
		move_away(cluster, gateway, entry);
}

/* See to it that what @conn has not answered for long is asked elsewhere. */
static void check_conn(struct sheep_cluster *cluster, struct sheep_gateway *gateway,
		       struct sheep_conn *conn, int64_t now_ms)
{
	int64_t oldest_ms = sheep_conn_oldest_ms(conn);
	int64_t silent_ms =
		now_ms - (oldest_ms > conn->heard_ms ? oldest_ms : conn->heard_ms);

	if (oldest_ms < INT64_MAX && silent_ms > cluster->hedge_ms) {
		if (!gateway->is_suspect)
			sheep_cluster_note(cluster, STORE_UNAVAILABLE, "%s: no answer",
					   gateway->text);
		gateway->is_suspect = true;
	}
	if (!has_other(cluster, gateway))
		return;
	for (size_t i = 0; i < conn->count; i++)
		move_if_slow(cluster, gateway, &conn->entries[i], now_ms);
	if (conn->in_answer)
		move_if_slow(cluster, gateway, &conn->current, now_ms);
}

/* Look at the clock.  Nothing is done in between, so this is where time passes. */
static void check_times(struct sheep_cluster *cluster, int64_t now_ms)
{
	for (size_t i = 0; i < cluster->gateways.count; i++) {
		struct sheep_gateway *gateway = cluster->gateways.all[i];
		int64_t limit_ms = cluster->patience_ms / 2;

		if (gateway->state == SHEEP_PROVING &&
		    now_ms - gateway->tried_ms > limit_ms) {
			fail_gateway(cluster, gateway, -ETIMEDOUT, now_ms);
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

/* Whether anything is wanted of the cluster. */
static bool is_busy(const struct sheep_cluster *cluster)
{
	return cluster->pending.first || cluster->sent > 0 || !cluster->was_ready;
}

/* Whether there is no use in waiting: 0, -ENOENT or -ECONNREFUSED, or -ETIMEDOUT. */
static int check_hope(const struct sheep_cluster *cluster, int64_t now_ms)
{
	bool all_failed = true, any_stranger = false;

	for (size_t i = 0; i < cluster->gateways.count; i++) {
		const struct sheep_gateway *gateway = cluster->gateways.all[i];

		any_stranger = any_stranger ||
			       (gateway->state == SHEEP_STRANGER && gateway->is_named);
		all_failed = all_failed &&
			     (gateway->state == SHEEP_STRANGER ||
			      (gateway->state == SHEEP_IDLE && gateway->failures > 0));
	}
	if (all_failed && any_stranger)
		return -ENOENT;
	if (all_failed && cluster->is_impatient)
		return -ECONNREFUSED;
	if (is_busy(cluster) && now_ms - cluster->since_ms > cluster->patience_ms)
		return -ETIMEDOUT;
	return 0;
}

/* What is polled, and of whom. */
struct polled {
	struct pollfd fds[SHEEP_GATEWAYS_MAX * SHEEP_GATEWAY_CONNS + MORE_MAX];
	struct sheep_conn *conns[SHEEP_GATEWAYS_MAX * SHEEP_GATEWAY_CONNS];
	struct sheep_gateway *gateways[SHEEP_GATEWAYS_MAX * SHEEP_GATEWAY_CONNS];
	size_t count;
};

static void poll_conn(struct polled *polled, struct sheep_gateway *gateway,
		      struct sheep_conn *conn)
{
	short events = POLLIN;

	if (!conn || conn->fd < 0)
		return;
	if (conn->connecting)
		events = POLLOUT;
	else if (conn->out_used > 0)
		events |= POLLOUT;
	polled->fds[polled->count] = (struct pollfd){.fd = conn->fd, .events = events};
	polled->conns[polled->count] = conn;
	polled->gateways[polled->count++] = gateway;
}

/* Poll all connections and @more.  Returns 0 or a negative errno. */
static int poll_all(struct sheep_cluster *cluster, struct pollfd *more, size_t count,
		    int timeout_ms)
{
	struct polled polled;
	int64_t now_ms;

	polled.count = 0;
	for (size_t i = 0; i < cluster->gateways.count; i++)
		for (size_t j = 0; j < SHEEP_GATEWAY_CONNS; j++)
			poll_conn(&polled, cluster->gateways.all[i],
				  cluster->gateways.all[i]->conns[j]);
	for (size_t i = 0; i < count; i++)
		polled.fds[polled.count + i] = more[i];
	if (poll(polled.fds, polled.count + count, timeout_ms) < 0 && errno != EINTR)
		return -errno;
	now_ms = sheep_now_ms();
	for (size_t i = 0; i < polled.count; i++) {
		struct sheep_conn *conn = polled.conns[i];

		/* Not if it was closed, with its gateway, by what came before. */
		if (polled.fds[i].revents && conn->fd == polled.fds[i].fd)
			receive(cluster, polled.gateways[i], conn, polled.fds[i].revents,
				now_ms);
	}
	for (size_t i = 0; i < count; i++)
		more[i].revents = polled.fds[polled.count + i].revents;
	return 0;
}

static bool any_ready(const struct pollfd *more, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (more[i].revents)
			return true;
	return false;
}

/* Send what can be sent.  Returns how long there is nothing else to do, at most. */
static int send_all(struct sheep_cluster *cluster, int64_t now_ms)
{
	int64_t next_ms;

	if (is_busy(cluster))
		keep_open(cluster, now_ms);
	next_ms = send_pending(cluster, now_ms);
	for (size_t i = 0; i < cluster->gateways.count; i++) {
		if (sheep_gateway_is_open(cluster->gateways.all[i]))
			send_proof(cluster, cluster->gateways.all[i], now_ms);
		flush_gateway(cluster, cluster->gateways.all[i], now_ms);
	}
	if (!is_busy(cluster))
		return -1;
	if (next_ms > now_ms + TICK_MS)
		next_ms = now_ms + TICK_MS;
	return next_ms > now_ms ? (int)(next_ms - now_ms) : 0;
}

int sheep_cluster_wait(struct sheep_cluster *cluster, struct pollfd *more, size_t count,
		       int timeout_ms)
{
	int64_t end_ms = timeout_ms < 0 ? INT64_MAX : sheep_now_ms() + timeout_ms;

	assert(count <= MORE_MAX);
	for (;;) {
		int64_t now_ms = sheep_now_ms();
		int idle_ms, error;

		check_times(cluster, now_ms);
		error = check_hope(cluster, now_ms);
		if (error < 0)
			return error;
		idle_ms = send_all(cluster, now_ms);
		if (end_ms < INT64_MAX && (idle_ms < 0 || end_ms - now_ms < idle_ms))
			idle_ms = end_ms > now_ms ? (int)(end_ms - now_ms) : 0;
		error = poll_all(cluster, more, count, idle_ms);
		if (error < 0)
			return error;
		if (finish(cluster) || any_ready(more, count) || now_ms >= end_ms)
			return 0;
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
		gateways = NULL;
	}
	free(gateways);
	free(nodes);
}
