/* SPDX-License-Identifier: MIT */
/*
 * glance-fetch - one GET of an image's data, or of a part of it, into memory.
 *
 * Any number of fetches run in one CURLM; all on one thread.
 */
#ifndef IMAGEFS_GLANCE_FETCH_H
#define IMAGEFS_GLANCE_FETCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "glance-session.h"

#define FETCH_SOCKETS_MAX 4

/* Bytes of an image in memory, in one piece: put at @fill, taken at @start. */
struct window {
	char *data; /* of @room bytes */
	size_t room, start, fill;
	uint64_t offset; /* in the image, of the byte at @start */
};

void window_take(struct window *window, size_t size);

/* The offset behind its last byte. */
uint64_t window_end(const struct window *window);

/* What all fetches of one image have in common. */
struct glance_image {
	struct glance_session *session;
	CURLM *multi;
	char *url;
	/* What the first answer said; the others have to say the same. */
	uint64_t size; /* UINT64_MAX: not known yet */
	char md5[64]; /* "": none */
	bool no_splice; /* it was found that this cannot be done here */
};

/* How the bytes of a request come. */
enum fetch_way {
	WAY_WINDOW, /* through libcurl, into the window */
	WAY_MAY_SPLICE, /* the same, but if it can be, the rest by splice(2) */
	WAY_STOPPED, /* libcurl has stopped reading, the first bytes are in the window */
	WAY_SPLICE, /* without libcurl, by splice(2): fetch_splice() */
};

/* What a request came to. */
enum fetch_result {
	FETCH_DONE, /* all that was asked for is there */
	FETCH_AGAIN, /* it goes on: nothing to do */
	FETCH_CUT, /* no error of the server's, but not all came: ask for the rest */
	FETCH_NO_RANGE, /* the server does not give parts of this image */
	FETCH_REFUSED, /* 401 */
	FETCH_FAILED,
};

struct fetch {
	struct glance_image *image;
	CURL *easy;
	/* of the request */
	struct window *window;
	uint64_t start,
		end; /* @end is UINT64_MAX for all of the image, without a Range */
	uint64_t skip_to; /* what comes before this offset is dropped */
	enum fetch_way way; /* set before fetch_start() */
	/* Called when the window is full, if it can be emptied.  Or NULL. */
	void (*drain)(void *context);
	void *context;
	/* Those that libcurl has opened for it, and not closed. */
	int sockets[FETCH_SOCKETS_MAX];
	unsigned socket_count;
	bool keeps_socket; /* what libcurl closes now is taken over */
	int taken; /* with WAY_SPLICE: the socket, ours */
	unsigned login;
	bool is_running;
	bool is_paused; /* the window has no room */
	unsigned redirects;
	/* of the answer */
	int64_t heard_ms; /* when something last came */
	bool is_judged; /* its head was looked at */
	bool is_good; /* what comes are bytes of the image */
	bool no_range;
	bool encoded; /* Content-Encoding */
	uint64_t range_start, range_end,
		range_total; /* Content-Range; UINT64_MAX if none */
	char md5[64];
	int status; /* what is wrong with it, not STORE_OK: @text says it */
	size_t body_size;
	char body[1024]; /* the beginning of an answer that is no success */
	char error[CURL_ERROR_SIZE];
	/* what went wrong, for people */
	char text[GLANCE_TEXT_MAX];
	bool may_retry;
	int64_t pause_ms; /* as the server said, or -1 */
};

/* Zero-initialized.  Returns 0 or -ENOMEM. */
int fetch_init(struct fetch *fetch, struct glance_image *image);

/* Ends what is under way.  Borrowed: the image. */
void fetch_fini(struct fetch *fetch);

/*
 * Ask for [window_end, @end), or with @end UINT64_MAX for all of the image, where the
 * window begins at 0.  The window, borrowed, has room for all that is asked for, or is
 * emptied meanwhile.  @fresh: on a new connection.  Returns 0 or -ENOMEM.
 */
int fetch_start(struct fetch *fetch, struct window *window, uint64_t end, bool fresh);

/* Stop it; the window keeps what has come. */
void fetch_stop(struct fetch *fetch);

/* There is room in the window again. */
void fetch_resume(struct fetch *fetch);

/*
 * The request has come to its end with @error (curl_multi_info_read()).  For FETCH_FAILED
 * and FETCH_CUT @status, @text, @may_retry and @pause_ms say why.
 */
enum fetch_result fetch_finish(struct fetch *fetch, CURLcode error);

/* ---- glance_splice.c ---- */

/* To be called once for each fetch, and before each of its requests. */
void fetch_init_splice(struct fetch *fetch);
void fetch_forget_sockets(struct fetch *fetch);

/*
 * Whether an answer that has begun can be taken from its socket without libcurl: it is
 * plain, and its length is known.
 */
bool fetch_can_splice(const struct fetch *fetch);

/*
 * For a request that is WAY_STOPPED: take the connection over from libcurl.  Returns whether
 * it is WAY_SPLICE now.  Else it goes on as WAY_WINDOW; or it had to be given up, is not
 * running any more and to be asked for again.
 */
bool fetch_begin_splice(struct fetch *fetch);

/* Close the connection that was taken over, if one was. */
void fetch_end_splice(struct fetch *fetch);

/* Where a request that is WAY_SPLICE ends. */
uint64_t fetch_limit(const struct fetch *fetch);

/*
 * Move @size bytes at most, which the answer has, from the socket to the pipe @to, or drop
 * them if @to is negative.  The window is empty; its offset goes on.  Does not block.
 * Returns their number; -EAGAIN: none are there, or the pipe is full; -EPIPE: nobody reads
 * the pipe; or 0, and fetch_finish() is to be called with CURLE_PARTIAL_FILE.
 */
ssize_t fetch_splice(struct fetch *fetch, int to, size_t size);

#endif
