/* SPDX-License-Identifier: MIT */
/*
 * sheepdog-gateway - the sheep that can be asked: where they are, and how each one does.
 *
 * A cluster names its nodes by the addresses that they have for one another.  127.0.0.1
 * of another host is some other sheep here, or none, hence the rule about loopback.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "sheepdog-gateway.h"

static bool same_address(const struct sheep_gateway *gateway,
			 const struct sockaddr *address, socklen_t size)
{
	return gateway->address_size == size &&
	       memcmp(&gateway->address, address, size) == 0;
}

static void describe(struct sheep_gateway *gateway)
{
	const struct sockaddr *address = (const struct sockaddr *)&gateway->address;
	char host[64], port[8];

	if (address->sa_family == AF_UNIX) {
		snprintf(gateway->text, sizeof(gateway->text), "%s",
			 ((const struct sockaddr_un *)address)->sun_path);
		return;
	}
	if (getnameinfo(address, gateway->address_size, host, sizeof(host), port,
			sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV) != 0)
		snprintf(host, sizeof(host), "?");
	snprintf(gateway->text, sizeof(gateway->text),
		 address->sa_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
}

/* The gateway at @address, added if there is room; NULL without it. */
static struct sheep_gateway *add(struct sheep_gateways *gateways,
				 const struct sockaddr *address, socklen_t size)
{
	struct sheep_gateway *gateway;

	for (size_t i = 0; i < gateways->count; i++)
		if (same_address(gateways->all[i], address, size))
			return gateways->all[i];
	if (gateways->count == SHEEP_GATEWAYS_MAX || size > sizeof(gateway->address))
		return NULL;
	gateway = calloc(1, sizeof(*gateway));
	if (!gateway)
		return NULL;
	memcpy(&gateway->address, address, size);
	gateway->address_size = size;
	describe(gateway);
	gateways->all[gateways->count++] = gateway;
	return gateway;
}

static int resolve_socket(struct sheep_gateways *gateways, const char *path,
			  char *problem, size_t size)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct sheep_gateway *gateway;

	if (strlen(path) >= sizeof(address.sun_path)) {
		snprintf(problem, size, "%s: %s", path, strerror(ENAMETOOLONG));
		return 1;
	}
	strcpy(address.sun_path, path);
	gateway = add(gateways, (struct sockaddr *)&address, sizeof(address));
	if (!gateway)
		return -ENOMEM;
	gateway->is_named = true;
	return 0;
}

static int resolve_host(struct sheep_gateways *gateways, const struct sheep_host *host,
			char *problem, size_t size)
{
	struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
	struct addrinfo *found;
	char port[8];
	int error;

	snprintf(port, sizeof(port), "%u", host->port);
	error = getaddrinfo(host->name, port, &hints, &found);
	if (error != 0) {
		snprintf(problem, size, "%s: %s", host->name,
			 error == EAI_SYSTEM ? strerror(errno) : gai_strerror(error));
		return 1;
	}
	for (struct addrinfo *each = found; each; each = each->ai_next) {
		struct sheep_gateway *gateway =
			add(gateways, each->ai_addr, each->ai_addrlen);

		if (gateway)
			gateway->is_named = true;
	}
	freeaddrinfo(found);
	return gateways->count == 0 ? -ENOMEM : 0;
}

int sheep_gateways_resolve(struct sheep_gateways *gateways, const struct sheep_uri *uri,
			   char *problem, size_t size)
{
	int unknown = 0;

	if (uri->socket)
		return resolve_socket(gateways, uri->socket, problem, size);
	for (size_t i = 0; i < uri->host_count; i++) {
		int result = resolve_host(gateways, &uri->hosts[i], problem, size);

		if (result < 0)
			return result;
		unknown += result;
	}
	return unknown;
}

static bool is_loopback(const struct sockaddr *address)
{
	const struct sockaddr_in *in = (const struct sockaddr_in *)address;
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)address;

	if (address->sa_family == AF_INET)
		return ntohl(in->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
	if (address->sa_family == AF_INET6)
		return IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr);
	return true; /* a Unix socket */
}

uint64_t sheep_nodes_hash(const struct sheep_call *call)
{
	uint64_t hash = 1;

	if (call->answer.result != SHEEP_SUCCESS)
		return hash;
	for (uint32_t i = 0; i < call->answer.nodes; i++) {
		struct sheep_node node;

		if (sheep_node_decode(call->buffer, &call->answer, i, &node) < 0)
			break;
		hash = sheep_hash_step(node.hash, hash);
		hash = sheep_hash_step(node.zone, hash);
	}
	return hash ? hash : 1;
}

struct sheep_gateway *sheep_gateways_of_node(struct sheep_gateways *gateways,
					     const struct sheep_node *node)
{
	static const uint8_t zeros[12];
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(node->port)};
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6,
				   .sin6_port = htons(node->port)};
	const struct sockaddr *address = (const struct sockaddr *)&in6;
	socklen_t size = sizeof(in6);
	bool is_local = false;

	memcpy(&in6.sin6_addr, node->address, 16);
	if (memcmp(node->address, zeros, 12) == 0 && node->address[12] != 0) {
		memcpy(&in.sin_addr, node->address + 12, 4);
		address = (const struct sockaddr *)&in;
		size = sizeof(in);
	}
	for (size_t i = 0; i < gateways->count; i++)
		is_local = is_local ||
			   (gateways->all[i]->is_named &&
			    is_loopback((struct sockaddr *)&gateways->all[i]->address));
	if (node->port == 0 || (is_loopback(address) && !is_local))
		return NULL;
	return add(gateways, address, size);
}

void sheep_gateways_fini(struct sheep_gateways *gateways)
{
	for (size_t i = 0; i < gateways->count; i++) {
		struct sheep_gateway *gateway = gateways->all[i];

		for (size_t j = 0; j < SHEEP_GATEWAY_CONNS; j++) {
			if (gateway->conns[j])
				sheep_conn_close(gateway->conns[j]);
			free(gateway->conns[j]);
		}
		free(gateway->proof.buffer);
		free(gateway->hello.buffer);
		free(gateway);
	}
	gateways->count = 0;
}

static bool is_open(const struct sheep_conn *conn)
{
	return conn && conn->fd >= 0;
}

bool sheep_gateway_is_open(const struct sheep_gateway *gateway)
{
	for (size_t i = 0; i < SHEEP_GATEWAY_CONNS; i++)
		if (is_open(gateway->conns[i]))
			return true;
	return false;
}

int sheep_gateway_open(struct sheep_gateway *gateway, size_t place, int64_t now_ms)
{
	struct sheep_conn *conn = gateway->conns[place];

	if (!conn) {
		conn = gateway->conns[place] = malloc(sizeof(*conn));
		if (!conn)
			return -ENOMEM;
		sheep_conn_init(conn);
	}
	return sheep_conn_open(conn, (struct sockaddr *)&gateway->address,
			       gateway->address_size, now_ms);
}

struct sheep_conn *sheep_gateway_pick(struct sheep_gateway *gateway, size_t want,
				      int64_t now_ms)
{
	struct sheep_conn *best = NULL;
	size_t closed = SHEEP_GATEWAY_CONNS;

	for (size_t i = 0; i < SHEEP_GATEWAY_CONNS && i < want; i++) {
		struct sheep_conn *conn = gateway->conns[i];

		if (!is_open(conn)) {
			if (closed == SHEEP_GATEWAY_CONNS)
				closed = i;
		} else if (!conn->connecting && conn->count < SHEEP_CONN_CALLS - 1) {
			if (!best || conn->bytes < best->bytes ||
			    (conn->bytes == best->bytes && conn->count < best->count))
				best = conn;
		}
	}
	/* That there is no other connection is no reason not to use the one. */
	if (closed < SHEEP_GATEWAY_CONNS && best && best->count > 0)
		(void)sheep_gateway_open(gateway, closed, now_ms);
	return best;
}

size_t sheep_gateway_load(const struct sheep_gateway *gateway)
{
	size_t load = 0;

	for (size_t i = 0; i < SHEEP_GATEWAY_CONNS; i++)
		if (is_open(gateway->conns[i]))
			load += gateway->conns[i]->bytes +
				4096 * gateway->conns[i]->count;
	return load;
}
