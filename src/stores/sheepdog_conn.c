/* SPDX-License-Identifier: MIT */
/*
 * sheepdog-conn - one connection to a sheep, with many requests under way.
 *
 * Small answers come several to a read, through a buffer; what a large one has beyond
 * that goes straight to where it belongs.  To have one in a pipe costs no copy at all
 * (measured: half the time of the processor for all of the way from sheep to imagefs),
 * but a pipe takes so many pieces of any size, and one that is full has to wait for its
 * turn to be emptied: what comes then goes to the buffer, so that nothing ever stays in
 * the socket.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <unistd.h>

#include "sheepdog-conn.h"

#define READS_AT_ONCE 8 /* from one connection, before the others have their turn */
#define SMALL 4096 /* what is less than this goes through the buffer */

static void discard(struct sheep_conn *conn)
{
	conn->fd = -1;
	conn->connecting = false;
	conn->in_answer = false;
	conn->left = 0;
	conn->out_used = 0;
	conn->in_used = 0;
	conn->in_taken = 0;
}

void sheep_conn_init(struct sheep_conn *conn)
{
	discard(conn);
	conn->count = 0;
	conn->bytes = 0;
	conn->heard_ms = 0;
	conn->answered_ms = 0;
}

int sheep_conn_open(struct sheep_conn *conn, const struct sockaddr *address,
		    socklen_t size, int64_t now_ms)
{
	int on = 1;
	int fd =
		socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	if (address->sa_family != AF_UNIX)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (connect(fd, address, size) < 0 && errno != EINPROGRESS) {
		int error = -errno;

		close(fd);
		return error;
	}
	sheep_conn_init(conn);
	conn->fd = fd;
	conn->connecting = true;
	conn->heard_ms = now_ms;
	return 0;
}

int sheep_conn_opened(struct sheep_conn *conn, int64_t now_ms)
{
	int error = 0;
	socklen_t size = sizeof(error);

	if (getsockopt(conn->fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
		error = errno;
	conn->connecting = false;
	conn->heard_ms = now_ms;
	return -error;
}

void sheep_conn_close(struct sheep_conn *conn)
{
	if (conn->fd >= 0)
		close(conn->fd);
	if (conn->in_answer) {
		assert(conn->count < SHEEP_CONN_CALLS);
		conn->entries[conn->count++] = conn->current;
	}
	discard(conn);
}

bool sheep_conn_send(struct sheep_conn *conn, struct sheep_call *call, uint32_t id,
		     int64_t now_ms)
{
	struct sheep_entry *entry = &conn->entries[conn->count];

	/* The answer under way may have to come back here. */
	if (conn->count + conn->in_answer == SHEEP_CONN_CALLS ||
	    conn->out_used + SHEEP_HEADER_BYTES > sizeof(conn->out))
		return false;
	if (call->whole)
		call->got = call->piped = 0;
	entry->call = call;
	entry->request = call->request;
	entry->request.offset += call->got;
	entry->request.length -= call->got;
	entry->id = id;
	entry->sent_ms = now_ms;
	sheep_request_encode(&entry->request, id, conn->out + conn->out_used);
	conn->out_used += SHEEP_HEADER_BYTES;
	conn->bytes += entry->request.length;
	conn->count++;
	return true;
}

int sheep_conn_flush(struct sheep_conn *conn)
{
	while (conn->out_used > 0) {
		ssize_t sent = send(conn->fd, conn->out, conn->out_used, MSG_NOSIGNAL);

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0)
			return errno == EAGAIN ? 0 : -errno;
		memmove(conn->out, conn->out + sent, conn->out_used - sent);
		conn->out_used -= sent;
	}
	return 0;
}

int64_t sheep_conn_oldest_ms(const struct sheep_conn *conn)
{
	int64_t oldest = conn->in_answer ? conn->current.sent_ms : INT64_MAX;

	for (size_t i = 0; i < conn->count; i++)
		if (conn->entries[i].sent_ms < oldest)
			oldest = conn->entries[i].sent_ms;
	return oldest;
}

/* Take the header at @bytes, and with it the request that it answers. */
static int begin_answer(struct sheep_conn *conn, const uint8_t *bytes)
{
	struct sheep_answer *answer = &conn->answer;
	int error = sheep_answer_decode(bytes, answer);

	if (error < 0)
		return error;
	for (size_t i = 0; i < conn->count; i++) {
		struct sheep_entry *entry = &conn->entries[i];

		if (entry->id != answer->id)
			continue;
		if (!sheep_answer_fits(answer, &entry->request))
			return -EPROTO;
		conn->current = *entry;
		*entry = conn->entries[--conn->count];
		conn->in_answer = true;
		conn->left = answer->length;
		return 0;
	}
	return -EPROTO;
}

/* Where the next bytes of the answer belong; NULL if nobody wants them. */
static uint8_t *destination(const struct sheep_conn *conn)
{
	struct sheep_call *call = conn->current.call;

	if (!call || conn->answer.result != SHEEP_SUCCESS)
		return NULL;
	return (uint8_t *)call->buffer + call->got;
}

static void took(struct sheep_conn *conn, size_t count)
{
	if (destination(conn))
		conn->current.call->got += count;
	conn->left -= count;
	conn->bytes -= count;
}

static void end_answer(struct sheep_conn *conn,
		       void (*finished)(void *context, struct sheep_call *call),
		       void *context)
{
	struct sheep_call *call = conn->current.call;

	conn->bytes -= conn->current.request.length - conn->answer.length;
	conn->in_answer = false;
	if (conn->answered_ms < conn->current.sent_ms)
		conn->answered_ms = conn->current.sent_ms;
	if (!call)
		return;
	call->answer = conn->answer;
	finished(context, call);
}

/* Use up what is in the buffer.  Returns 0 or -EPROTO. */
static int use_buffer(struct sheep_conn *conn,
		      void (*finished)(void *context, struct sheep_call *call),
		      void *context)
{
	for (;;) {
		const uint8_t *bytes = conn->in + conn->in_taken;
		size_t count = conn->in_used - conn->in_taken;

		if (!conn->in_answer) {
			int error;

			if (count < SHEEP_HEADER_BYTES)
				break;
			error = begin_answer(conn, bytes);
			if (error < 0)
				return error;
			conn->in_taken += SHEEP_HEADER_BYTES;
			continue;
		}
		if (count > conn->left)
			count = conn->left;
		if (count > 0 && destination(conn))
			memcpy(destination(conn), bytes, count);
		took(conn, count);
		conn->in_taken += count;
		if (conn->left > 0)
			break;
		end_answer(conn, finished, context);
	}
	memmove(conn->in, conn->in + conn->in_taken, conn->in_used - conn->in_taken);
	conn->in_used -= conn->in_taken;
	conn->in_taken = 0;
	return 0;
}

/* Whether what comes next belongs into a pipe. */
static bool goes_to_pipe(const struct sheep_conn *conn)
{
	const struct sheep_call *call = conn->current.call;

	return conn->in_answer && destination(conn) && call->pipe > 0 &&
	       call->piped == call->got;
}

/* Whether an answer is to come that belongs into a pipe. */
static bool expects_pipe(const struct sheep_conn *conn)
{
	for (size_t i = 0; i < conn->count; i++)
		if (conn->entries[i].call && conn->entries[i].call->pipe > 0)
			return true;
	return false;
}

/* What recv(2) does, to the pipe.  A pipe that takes no more is not used any longer. */
static ssize_t receive_to_pipe(struct sheep_conn *conn)
{
	struct sheep_call *call = conn->current.call;
	ssize_t count =
		splice(conn->fd, NULL, call->pipe, NULL, conn->left, SPLICE_F_NONBLOCK);
	char next;

	if (count > 0)
		call->piped += count;
	if (count >= 0 || errno == EINTR)
		return count;
	/* Is there nothing to receive, or the end, or no room for it in the pipe? */
	if (errno == EAGAIN) {
		count = recv(conn->fd, &next, 1, MSG_PEEK);
		if (count <= 0)
			return count;
	}
	/* If it is the socket that failed, the next read will say so. */
	call->pipe = 0;
	errno = EINTR;
	return -1;
}

/* Receive through the buffer.  Returns what recv(2) does, or -1 and EPROTO. */
static ssize_t receive_to_buffer(struct sheep_conn *conn, size_t *ret_room,
				 void (*finished)(void *context, struct sheep_call *call),
				 void *context)
{
	size_t room = sizeof(conn->in) - conn->in_used;
	ssize_t count;

	/* What comes behind it would have to be copied into the pipe. */
	if (expects_pipe(conn)) {
		size_t least =
			conn->in_answer ? conn->left : SHEEP_HEADER_BYTES - conn->in_used;

		room = least < room ? least : room;
	}
	*ret_room = room;
	count = recv(conn->fd, conn->in + conn->in_used, room, 0);
	if (count <= 0)
		return count;
	conn->in_used += count;
	if (use_buffer(conn, finished, context) == 0)
		return count;
	errno = EPROTO;
	return -1;
}

int sheep_conn_receive(struct sheep_conn *conn, int64_t now_ms,
		       void (*finished)(void *context, struct sheep_call *call),
		       void *context)
{
	for (int i = 0; i < READS_AT_ONCE; i++) {
		uint8_t *to = conn->in_answer ? destination(conn) : NULL;
		bool is_piped = goes_to_pipe(conn);
		bool is_direct = !is_piped && to && conn->left >= SMALL;
		size_t room = conn->left;
		ssize_t count;

		if (is_piped)
			count = receive_to_pipe(conn);
		else if (is_direct)
			count = recv(conn->fd, to, room, 0);
		else
			count = receive_to_buffer(conn, &room, finished, context);
		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0)
			return errno == EAGAIN ? 0 : -errno;
		if (count == 0)
			return -ECONNRESET;
		conn->heard_ms = now_ms;
		if (is_piped || is_direct) {
			took(conn, count);
			if (conn->left == 0)
				end_answer(conn, finished, context);
		}
		/* The next read would find nothing, but behind a header alone. */
		if ((size_t)count < room)
			break;
	}
	return 0;
}
