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

#include "glance-session.h"

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
	/* Called when the window is full, if it can be emptied.  Or NULL. */
	void (*drain)(void *context);
	void *context;
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

#endif
