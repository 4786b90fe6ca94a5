/* SPDX-License-Identifier: MIT */
/*
 * sheepdog-cluster - requests to a cluster, whichever of its nodes answers.
 */
#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "imagefs-store.h"
#include "sheepdog-route.h"

#define STALL_MS_DEFAULT 30000
#define HEDGE_MS_MAX 3000 /* without an answer so long: ask elsewhere */
#define TICK_MS 100 /* how often it is looked at the clock while calls wait */
#define PROOF_TRIES 4 /* that a gateway has to find what proves it */
#define ERRORS_PART 9 /* of the patience, for answers that are errors */
#define ERRORS_MIN 4 /* before they are believed */
#define MORE_MAX 4 /* descriptors that the caller can wait for */

int64_t sheep_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void sheep_cluster_note(struct sheep_cluster *cluster, int status, const char *format,
			...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(cluster->trouble, sizeof(cluster->trouble), format, arguments);
	va_end(arguments);
	cluster->trouble_status = status;
	cluster->said_ms = sheep_now_ms();
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
	sheep_calls_init(&cluster->pending);
	sheep_calls_init(&cluster->finished);
	unknown =
		sheep_gateways_resolve(&cluster->gateways, uri, problem, sizeof(problem));
	if (unknown == -ENOMEM) {
		sheep_cluster_free(cluster);
		return -ENOMEM;
	}
	snprintf(cluster->trouble, sizeof(cluster->trouble), "%s",
		 unknown ? problem : "no gateway answers");
	cluster->trouble_status = STORE_UNAVAILABLE;
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

int64_t sheep_cluster_errors_ms(const struct sheep_cluster *cluster)
{
	return cluster->patience_ms / ERRORS_PART;
}

void sheep_cluster_give_up(struct sheep_cluster *cluster)
{
	cluster->has_failed = true;
}

void sheep_cluster_call(struct sheep_cluster *cluster, struct sheep_call *call)
{
	call->got = 0;
	call->piped = 0;
	call->avoid = NULL;
	call->not_before_ms = 0;
	call->failing_ms = 0;
	call->tries = 0;
	call->moves = 0;
	sheep_calls_put(&cluster->pending, call);
}

void sheep_cluster_call_later(struct sheep_cluster *cluster, struct sheep_call *call,
			      int64_t pause_ms)
{
	call->got = 0;
	call->piped = 0;
	sheep_route_again(cluster, call, call->avoid,
			  pause_ms > 0 ? sheep_now_ms() + pause_ms : 0);
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

/* Note that @call was answered with trouble, and see whether that is for good. */
static void note_trouble(struct sheep_cluster *cluster,
			 const struct sheep_gateway *gateway, struct sheep_call *call,
			 int64_t now_ms)
{
	int status = status_of(call->answer.result);

	sheep_cluster_note(cluster, status, "%s: %s (result 0x%02x)", gateway->text,
			   sheep_result_text(call->answer.result), call->answer.result);
	if (status != STORE_IO)
		call->failing_ms = 0;
	else if (call->failing_ms == 0)
		call->failing_ms = now_ms;
	else if (call->tries >= ERRORS_MIN &&
		 now_ms - call->failing_ms > sheep_cluster_errors_ms(cluster) &&
		 !(call->done == sheep_route_proof_done && cluster->was_ready))
		sheep_cluster_give_up(cluster);
}

/* Hand @call over, or have it tried again. */
static void on_answer(void *context, struct sheep_call *call)
{
	struct receiving *receiving = context;
	struct sheep_cluster *cluster = receiving->cluster;
	struct sheep_gateway *gateway = receiving->gateway;
	bool is_proof = call->done == sheep_route_proof_done;
	int64_t pause_ms;

	if (!is_proof)
		cluster->sent--;
	if (is_final(call, is_proof)) {
		call->avoid = gateway;
		sheep_calls_put(&cluster->finished, call);
		return;
	}
	note_trouble(cluster, gateway, call, receiving->now_ms);
	pause_ms = (int64_t)20 << (call->tries < 6 ? call->tries : 6);
	call->tries++;
	call->not_before_ms = receiving->now_ms + pause_ms;
	if (!is_proof)
		sheep_route_again(cluster, call, gateway, call->not_before_ms);
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
		sheep_route_fail(cluster, gateway, error, now_ms);
	else if (conn->heard_ms == now_ms)
		gateway->is_suspect = false;
}

static void finish_proof(struct sheep_cluster *cluster, struct sheep_gateway *gateway)
{
	if (gateway->state != SHEEP_PROVING)
		return; /* it failed meanwhile */
	if (cluster->proof->check(cluster->proof->context, &gateway->proof)) {
		sheep_route_ready(cluster, gateway);
		return;
	}
	sheep_route_close(cluster, gateway);
	gateway->state = SHEEP_STRANGER;
}

/* Tell the owners of what is done.  Returns whether there was any. */
static bool finish(struct sheep_cluster *cluster)
{
	struct sheep_calls finished = cluster->finished;
	struct sheep_call *call;

	sheep_calls_init(&cluster->finished);
	if (!finished.first)
		return false;
	while ((call = sheep_calls_take(&finished))) {
		struct sheep_gateway *gateway = call->owner;

		if (call->done != sheep_route_proof_done)
			call->done(call);
		else if (call == &gateway->hello)
			sheep_route_hello(cluster, gateway);
		else
			finish_proof(cluster, gateway);
	}
	return true;
}

/* Whether anything is wanted of the cluster. */
static bool is_busy(const struct sheep_cluster *cluster)
{
	return cluster->pending.first || cluster->sent > 0 || !cluster->was_ready;
}

/* Whether there is no use in waiting: 0, or as sheep_cluster_wait() returns it. */
static int check_hope(const struct sheep_cluster *cluster, int64_t now_ms)
{
	bool all_failed = true, any_stranger = false;

	if (cluster->has_failed)
		return -EIO;
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
		sheep_route_keep_open(cluster, now_ms);
	next_ms = sheep_route_send(cluster, now_ms);
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

		sheep_route_check(cluster, now_ms);
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
