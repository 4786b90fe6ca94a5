/* SPDX-License-Identifier: MIT */
/*
 * glance-serving - asks that are being answered, and the requests that are made for them.
 */
#ifndef IMAGEFS_GLANCE_SERVING_H
#define IMAGEFS_GLANCE_SERVING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "glance-fetch.h"
#include "serve.h"

#define GLANCE_PIECES 32
#define GLANCE_FETCHES 17 /* the first is the stream's */
#define GLANCE_WINDOW_BYTES ((size_t)1 << 20)

/* One ask. */
struct piece {
	uint64_t offset, length;
	uint64_t sent;
	bool is_streamed; /* its bytes come in the stream, else in its window */
	bool goes_on; /* begins where the ask before it ended */
	struct window window; /* data NULL: none yet, or not needed */
	struct fetch *fetch; /* the request for it; NULL: none is under way */
	unsigned failures; /* in a row, without a byte between */
	uint64_t failed_at; /* where it had come to at the last one */
	bool fresh; /* on a new connection */
	int64_t retry_ms;
	int status; /* STORE_OK, or final */
	char *text; /* what went wrong last, or NULL */
};

struct serving {
	struct glance_session *session;
	struct glance_image image;
	struct asks asks;
	uint64_t asked_end; /* of the last ask */
	bool has_ended; /* nothing more will be asked */
	bool is_pipe; /* what is written to */
	bool is_blocked; /* nothing more can be written now */
	int error; /* of a write, negative; nothing is written any more */
	int64_t since_ms; /* when something last went on */
	struct piece pieces[GLANCE_PIECES]; /* from head, as many as count */
	size_t head, count;
	struct fetch fetches[GLANCE_FETCHES];
	char *memory; /* of the buffers */
	char *buffers[GLANCE_PIECES]; /* those that are free */
	size_t free_buffers;
	struct window stream; /* of fetches[0]; it goes on from one ask to the next */
	bool no_range; /* the server gives no parts: it is all of the image */
};

/*
 * Make what is needed to read the image @id; session is set, the rest is zeros.  Returns 0
 * or -ENOMEM.
 */
int serving_init(struct serving *serving, const char *id);

/* Ends what is under way.  Borrowed: the session. */
void serving_fini(struct serving *serving);

/* The ask that is @place behind the first one. */
struct piece *piece_at(struct serving *serving, size_t place);

/* Where the bytes of @piece that were not written yet begin, and where they end. */
uint64_t piece_next(const struct piece *piece);
uint64_t piece_end(const struct piece *piece);

/* Where its bytes arrive. */
struct window *piece_window(struct serving *serving, struct piece *piece);

/* The first ask is answered: forget it. */
void serving_pop(struct serving *serving);

/* Ask for what is missing. */
void serving_start(struct serving *serving);

/* When something is to be tried again or given up, at the latest. */
int64_t serving_next_ms(struct serving *serving);

/*
 * Take note of requests that came to their end, and of those that nothing comes of.  Returns
 * whether there were any.
 */
bool serving_finish(struct serving *serving);

/* The request for @piece, or the one that went on before it, ended with @error. */
void serving_finish_piece(struct serving *serving, struct piece *piece, CURLcode error);

/*
 * Let requests go on whose windows have room again.  Returns whether there were any: bytes
 * that were held back are there at once.
 */
bool serving_resume(struct serving *serving);

/* Write what can be written without waiting.  (glance_read.c) */
void serving_drain(void *serving);

#endif
