/* SPDX-License-Identifier: MIT */
/*
 * sheepdog-conn - one connection to a sheep, with many requests under way.
 *
 * Sheep answer in any order, so each request has a number, and an answer that fits no
 * request ends the connection.  Nothing blocks.  Single threaded.
 */
#ifndef IMAGEFS_SHEEPDOG_CONN_H
#define IMAGEFS_SHEEPDOG_CONN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "sheepdog-wire.h"

#define SHEEP_CONN_CALLS 64

struct sheep_gateway;

/* One request and what became of it.  The caller owns it, until and after it is done. */
struct sheep_call {
	/* Set by the caller. */
	struct sheep_request request;
	void *buffer; /* request.length bytes */
	int pipe; /* non-blocking; takes of the answer what it can; 0: there is none */
	unsigned copies; /* how many nodes hold the object; 0 if that is not known */
	bool in_strips; /* they hold strips of it, by an erasure code, and no copies */
	bool whole; /* the answer has to come in one piece */
	void (*done)(struct sheep_call *call); /* the answer is there; may call again */
	void *owner;

	/*
	 * The answer.  The first @piped bytes went into the pipe, what follows of the
	 * first @got is where it belongs in the buffer, also before it is done, unless it
	 * is @whole.
	 */
	struct sheep_answer answer;
	uint32_t got;
	uint32_t piped;

	/* Private to sheepdog-cluster. */
	struct sheep_call *next;
	struct sheep_gateway *avoid; /* where it was not answered */
	int64_t not_before_ms;
	int64_t failing_ms; /* since when all answers were errors; 0: the last was none */
	unsigned tries;
	unsigned moves;
};

/* A request that was sent. */
struct sheep_entry {
	struct sheep_call *call; /* NULL: nobody wants the answer any more */
	struct sheep_request request;
	uint32_t id;
	int64_t sent_ms;
};

struct sheep_conn {
	int fd; /* -1: closed */
	bool connecting;
	int64_t heard_ms; /* when something came last, or when it was opened */
	int64_t answered_ms; /* when the latest of what was answered was sent */
	size_t count;
	size_t bytes; /* that were asked for and are not there yet, roughly */
	struct sheep_entry entries[SHEEP_CONN_CALLS];

	/* The answer under way: its entry, and what is still to come. */
	struct sheep_entry current;
	bool in_answer;
	struct sheep_answer answer;
	uint32_t left;

	size_t out_used;
	uint8_t out[SHEEP_CONN_CALLS * SHEEP_HEADER_BYTES];
	size_t in_used;
	size_t in_taken;
	uint8_t in[12288];
};

/* Make @conn a closed connection. */
void sheep_conn_init(struct sheep_conn *conn);

/* Begin to connect to @address.  Returns 0 or a negative errno. */
int sheep_conn_open(struct sheep_conn *conn, const struct sockaddr *address,
		    socklen_t size, int64_t now_ms);

/* After a connecting @conn became writable.  Returns 0 or why it failed. */
int sheep_conn_opened(struct sheep_conn *conn, int64_t now_ms);

/* Close @conn.  What was under way is in its entries till sheep_conn_init(). */
void sheep_conn_close(struct sheep_conn *conn);

/* Queue the rest of @call, numbered @id.  Returns whether there was room for it. */
bool sheep_conn_send(struct sheep_conn *conn, struct sheep_call *call, uint32_t id,
		     int64_t now_ms);

/* Send what is queued, as much as goes.  Returns 0 or a negative errno. */
int sheep_conn_flush(struct sheep_conn *conn);

/*
 * Receive what is there.  @finished is called for each request that was answered and is
 * still wanted, with call->answer set; it may send.  Returns 0, -EPROTO if what came is
 * not sheepdog's protocol, -ECONNRESET if the other end closed, or another negative
 * errno.
 */
int sheep_conn_receive(struct sheep_conn *conn, int64_t now_ms,
		       void (*finished)(void *context, struct sheep_call *call),
		       void *context);

/* When the oldest request that is not answered was sent; INT64_MAX if there is none. */
int64_t sheep_conn_oldest_ms(const struct sheep_conn *conn);

#endif
