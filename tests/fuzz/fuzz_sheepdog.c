/* SPDX-License-Identifier: MIT */
/*
 * fuzz_sheepdog - what listens where a sheep should be may say anything.
 *
 * The first byte of the input says what the rest is: an inode, a node of a B-tree, a list
 * of nodes, a URI, or (any other byte) what comes on a connection that has requests of
 * all kinds under way.  Each is in memory of exactly its size, so that the sanitizers see
 * every byte that is read beyond it.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "sheepdog-conn.h"
#include "sheepdog-place.h"
#include "sheepdog-uri.h"
#include "sheepdog-wire.h"

#define CALLS 6
#define PIPED_BYTES 9001 /* more than the pipe takes */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void *copy_of(const uint8_t *data, size_t size)
{
	void *copy = malloc(size ? size : 1);

	assert(copy);
	memcpy(copy, data, size);
	return copy;
}

static void fuzz_inode(const uint8_t *data, size_t size)
{
	uint8_t *bytes = copy_of(data, size);
	struct sheep_inode inode;
	char copies[16];

	if (size >= SHEEP_INODE_BYTES && sheep_inode_decode(bytes, 1, &inode) == 0) {
		assert(sheep_inode_objects(&inode) <= UINT64_C(1) << 32);
		assert(strlen(inode.name) <= SHEEP_TEXT_BYTES);
		assert(strlen(inode.tag) <= SHEEP_TEXT_BYTES);
		sheep_inode_copies(&inode, copies);
		sheep_name_hash(inode.name);
	}
	free(bytes);
}

/* Look up some objects in a leaf, which has to be found where it says that it is. */
static void look_up(const uint8_t *leaf, const struct sheep_tree_head *head)
{
	for (uint32_t index = 0; index < 70000; index += 1 + index * 7) {
		uint32_t vid;
		uint64_t next;

		sheep_leaf_find(leaf, head->entries, index, &vid, &next);
		assert(next > index);
	}
}

static void fuzz_tree(const uint8_t *data, size_t size)
{
	uint8_t *bytes = copy_of(data, size);
	struct sheep_tree_head head;

	if (size >= SHEEP_NODE_HEAD_BYTES && sheep_tree_root(bytes, &head) == 0 &&
	    head.bytes <= size) {
		if (head.is_leaf)
			look_up(bytes, &head);
		for (uint32_t index = 0; !head.is_leaf && index < 1000; index += 13) {
			uint32_t place = sheep_root_find(bytes, head.entries, index);

			assert(place <= head.entries);
			if (place < head.entries) {
				sheep_root_leaf(bytes, place);
				sheep_root_last(bytes, place);
			}
		}
	}
	if (size >= SHEEP_NODE_HEAD_BYTES && sheep_tree_leaf(bytes, &head) == 0 &&
	    head.bytes <= size)
		look_up(bytes, &head);
	sheep_array_owned(bytes, size / 4);
	free(bytes);
}

static void fuzz_nodes(const uint8_t *data, size_t size)
{
	uint8_t *bytes = copy_of(data, size);
	struct sheep_answer answer = {.length = size, .nodes = size / 80};
	struct sheep_node *nodes = calloc(answer.nodes + 1, sizeof(*nodes));
	struct sheep_place *place;
	uint16_t found[SHEEP_PLACES_MAX];
	bool is_known = size % 80 == 0;

	assert(nodes);
	for (uint32_t i = 0; i < answer.nodes; i++)
		is_known =
			sheep_node_decode(bytes, &answer, i, &nodes[i]) == 0 && is_known;
	if (is_known && sheep_place_new(nodes, answer.nodes, &place) == 0) {
		size_t count = sheep_place_find(place, 0x123456789abc, 40, found);

		assert(count <= SHEEP_PLACES_MAX);
		for (size_t i = 0; i < count; i++)
			assert(found[i] < answer.nodes);
		sheep_place_free(place);
	}
	free(nodes);
	free(bytes);
}

static void fuzz_uri(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);
	struct sheep_uri uri;
	const char *problem = NULL;

	assert(text);
	memcpy(text, data, size);
	text[size] = '\0';
	if (sheep_uri_init(&uri, text, &problem) == 0) {
		char *again = sheep_uri_of_vdi(&uri, uri.vdi ? uri.vdi : "x", uri.tag);
		struct sheep_uri same;

		/* What it is written as means the same. */
		assert(again && sheep_uri_init(&same, again, &problem) == 0);
		assert(strcmp(same.vdi, uri.vdi && *uri.vdi ? uri.vdi : "x") == 0);
		sheep_uri_fini(&same);
		free(again);
		sheep_uri_fini(&uri);
	} else {
		assert(problem && *problem);
	}
	free(text);
}

struct connection {
	struct sheep_conn conn;
	struct sheep_call calls[CALLS];
	int ends[2];
	int pipe[2];
	int finished;
};

static void finished(void *context, struct sheep_call *call)
{
	struct connection *connection = context;

	assert(call->got <= call->request.length);
	assert(call->piped <= call->got);
	if (call->answer.result == SHEEP_SUCCESS) {
		bool may_be_short = call->request.op >= 0x80;

		assert(call->got == call->answer.length);
		assert(may_be_short || call->got == call->request.length);
	}
	connection->finished++;
}

/* Requests 1 to CALLS: of each kind one, small, large, and into a pipe. */
static void send_all(struct connection *connection)
{
	static const struct sheep_request requests[CALLS] = {
		{.op = SHEEP_READ_OBJ, .object = 1, .length = 512},
		{.op = SHEEP_READ_OBJ, .object = 2, .offset = 7, .length = 9000},
		{.op = SHEEP_READ_OBJ, .object = 3, .length = PIPED_BYTES},
		{.op = SHEEP_GET_NODE_LIST, .length = 800},
		{.op = SHEEP_STAT_RECOVERY, .length = SHEEP_RECOVERY_BYTES},
		{.op = SHEEP_READ_VDIS, .length = 4096},
	};

	for (int i = 0; i < CALLS; i++) {
		struct sheep_call *call = &connection->calls[i];

		call->request = requests[i];
		call->buffer = malloc(requests[i].length);
		assert(call->buffer);
		call->pipe = requests[i].length == PIPED_BYTES ? connection->pipe[1] : 0;
		assert(sheep_conn_send(&connection->conn, call, i + 1, 1));
	}
}

/* Send @data in pieces, whose sizes it says itself, and receive each. */
static void receive_all(struct connection *connection, const uint8_t *data, size_t size)
{
	int error = 0;

	while (size > 0 && error == 0) {
		size_t piece = 1 + (size_t)data[0] * data[size / 2];
		ssize_t sent;

		piece = piece < size ? piece : size;
		sent = send(connection->ends[1], data, piece, MSG_DONTWAIT);
		assert(sent > 0 || errno == EAGAIN);
		if (sent > 0) {
			data += sent;
			size -= sent;
		}
		error = sheep_conn_receive(&connection->conn, 2, finished, connection);
	}
	assert(error == 0 || error == -EPROTO);
	if (error == 0) {
		shutdown(connection->ends[1], SHUT_WR);
		while (error == 0)
			error = sheep_conn_receive(&connection->conn, 2, finished,
						   connection);
		assert(error == -EPROTO || error == -ECONNRESET);
	}
}

static void fuzz_connection(const uint8_t *data, size_t size)
{
	struct connection *connection = calloc(1, sizeof(*connection));
	int result;

	assert(connection);
	result = socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, connection->ends);
	assert(result == 0);
	result = pipe2(connection->pipe, O_NONBLOCK);
	assert(result == 0);
	result = fcntl(connection->pipe[1], F_SETPIPE_SZ, 4096);
	assert(result == 4096);
	sheep_conn_init(&connection->conn);
	connection->conn.fd = connection->ends[0];
	send_all(connection);
	receive_all(connection, data, size);
	sheep_conn_close(&connection->conn);
	assert(connection->finished + connection->conn.count == CALLS);
	for (int i = 0; i < CALLS; i++)
		free(connection->calls[i].buffer);
	close(connection->ends[1]);
	close(connection->pipe[0]);
	close(connection->pipe[1]);
	free(connection);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	switch (data[0]) {
	case 'i':
		fuzz_inode(data + 1, size - 1);
		break;
	case 't':
		fuzz_tree(data + 1, size - 1);
		break;
	case 'n':
		fuzz_nodes(data + 1, size - 1);
		break;
	case 'u':
		fuzz_uri(data + 1, size - 1);
		break;
	default:
		fuzz_connection(data + 1, size - 1);
		break;
	}
	return 0;
}
