/* SPDX-License-Identifier: MIT */
/*
 * sheepdog-read - answer asks: many requests under way, the answers in order.
 *
 * Asks are cut into segments, each a run of zeros or a piece of one object.  The segments
 * are a queue: they are planned at its tail, as far as there are places, whichever ask
 * they belong to; their requests are answered in any order; and they are written from its
 * head, as far as they have come.
 *
 * The data of a large segment goes from the socket into a pipe of its own, and from there
 * into standard output, if that is a pipe: it is never copied here.
 *
 * Answers are taken off the sockets whether they can be written or not.  A sheep has few
 * threads for sending, and one whose answer is not taken is missing to the guests.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "imagefs-store.h"
#include "pipe.h"
#include "serve.h"
#include "sheepdog.h"
#include "sheepdog-image.h"

#define PIECE_BYTES ((uint32_t)512 << 10) /* of one request, at most */
#define FIRST_BYTES ((uint32_t)64 << 10) /* of the very first: somebody waits for it */
#define PLACES 16
#define PIPED_MIN ((uint64_t)64 << 10) /* a segment that is worth a pipe */
#define SEGMENTS 128
#define ZEROS_BYTES ((size_t)256 << 10)
#define PARTS 16 /* that are written at once */
#define WRITE_AT_ONCE ((ssize_t)8 << 20) /* before the others have their turn */
#define FRESH_MS 1000 /* how old the index of a VDI in use may be */
#define LOST_PAUSE_MS 20
#define LOST_PAUSE_DOUBLES 5
#define LOSSES_MIN 4 /* of an object, before it is taken to be lost for good */

/* Of a segment that has data. */
enum wanted {
	ASKED, /* its request is under way, or was answered */
	LOST, /* the cluster does not have the object: see where it is now */
};

/* Where the data of a segment is until it is written. */
struct place {
	char *buffer; /* PIECE_BYTES */
	int pipe[2]; /* both 0: there is none yet, -1: there will be none */
};

struct segment {
	uint64_t length;
	uint64_t sent;
	struct place *place; /* NULL: zeros */
	uint64_t object;
	enum wanted wanted;
	unsigned losses;
	int64_t lost_ms; /* since when */
	int64_t retry_ms;
	struct sheep_call call;
};

struct serving {
	struct sheep_image *image;
	struct sheep_cluster *cluster;
	struct asks asks;
	struct ask ask; /* what is left of it to be planned; length 0: none */
	int64_t since_ms; /* how old the index may be for it */
	bool has_sent; /* anything */
	bool has_ended; /* nothing more will be asked */
	bool is_blocked; /* nothing more can be written now */
	bool is_pipe; /* what is written to */

	struct segment segments[SEGMENTS]; /* from head, as many as count */
	size_t head;
	size_t count;
	struct place places[PLACES];
	struct place *free[PLACES];
	size_t free_count;
};

static struct segment *segment_at(struct serving *serving, size_t place)
{
	return &serving->segments[(serving->head + place) % SEGMENTS];
}

static void call_done(struct sheep_call *call)
{
	struct segment *segment = call->owner;
	unsigned doubles = segment->losses;

	if (call->answer.result == SHEEP_SUCCESS)
		return;
	segment->wanted = LOST;
	if (segment->losses++ == 0)
		segment->lost_ms = sheep_now_ms();
	if (doubles > LOST_PAUSE_DOUBLES)
		doubles = LOST_PAUSE_DOUBLES;
	segment->retry_ms = sheep_now_ms() + (LOST_PAUSE_MS << doubles);
}

/*
 * The pipe of @place in which a segment goes on, made when it is first of use.  Returns
 * its end that is written to, or 0 if there is none.
 */
static int pipe_of(struct place *place)
{
	if (place->pipe[1] == 0) {
		if (pipe2(place->pipe, O_CLOEXEC | O_NONBLOCK) < 0)
			place->pipe[0] = place->pipe[1] = -1;
		else
			(void)fcntl(place->pipe[1], F_SETPIPE_SZ, (int)PIECE_BYTES);
	}
	return place->pipe[1] > 0 ? place->pipe[1] : 0;
}

/* Take what is in the pipe of @segment out of it: the segment is asked for anew. */
static void empty_pipe(struct segment *segment)
{
	struct place *place = segment->place;
	uint64_t at = segment->sent;

	while (at < segment->call.piped) {
		ssize_t count = read(place->pipe[0], place->buffer + at,
				     segment->call.piped - at);

		if (count < 0 && errno != EINTR)
			abort(); /* it is there, and nobody else reads it */
		at += count > 0 ? count : 0;
	}
	segment->call.pipe = 0;
	segment->call.piped = 0;
}

/* Ask for @segment at its owner @vid. */
static void ask_for(struct serving *serving, struct segment *segment, uint32_t vid)
{
	struct sheep_request *request = &segment->call.request;

	segment->wanted = ASKED;
	request->object = sheep_data_object(vid, segment->object);
	if (segment->losses == 0) {
		sheep_cluster_call(serving->cluster, &segment->call);
		return;
	}
	empty_pipe(segment);
	sheep_cluster_call_later(serving->cluster, &segment->call, 0);
}

/* How much of an object to ask for at once, at most, from @offset on. */
static uint32_t piece_bytes(const struct serving *serving, uint32_t offset)
{
	uint32_t most =
		serving->count == 0 && !serving->has_sent ? FIRST_BYTES : PIECE_BYTES;

	return most - offset % most;
}

/* Put a piece of @object, @offset bytes into it, at the tail of the queue. */
static void plan_piece(struct serving *serving, uint64_t object, uint32_t offset,
		       uint64_t length, uint32_t vid)
{
	struct segment *segment = segment_at(serving, serving->count++);
	const struct sheep_inode *inode = sheep_image_inode(serving->image);

	*segment = (struct segment){
		.length = length,
		.place = serving->free[--serving->free_count],
		.object = object,
	};
	segment->call = (struct sheep_call){
		.request = {.op = SHEEP_READ_OBJ, .offset = offset, .length = length},
		.buffer = segment->place->buffer,
		.copies = inode->copies,
		.in_strips = inode->copy_policy != 0,
		.done = call_done,
		.owner = segment,
	};
	if (serving->is_pipe && length >= PIPED_MIN)
		segment->call.pipe = pipe_of(segment->place);
	ask_for(serving, segment, vid);
}

static void plan_zeros(struct serving *serving, uint64_t length)
{
	struct segment *segment;

	if (serving->count > 0) {
		segment = segment_at(serving, serving->count - 1);
		if (!segment->place) {
			segment->length += length;
			return;
		}
	}
	*segment_at(serving, serving->count++) = (struct segment){.length = length};
}

/*
 * Plan the next segment of the ask.  Returns 0, -ENOBUFS if there is no room for it,
 * -EAGAIN if it is not known yet where it is, or another negative errno.
 */
static int plan(struct serving *serving)
{
	const struct sheep_inode *inode = sheep_image_inode(serving->image);
	struct ask *ask = &serving->ask;
	uint64_t object = ask->offset >> inode->shift;
	uint32_t offset = ask->offset & ((UINT64_C(1) << inode->shift) - 1);
	uint64_t length, run;
	uint32_t vid;
	int error;

	if (serving->count == SEGMENTS || serving->free_count == 0)
		return -ENOBUFS;
	error = sheep_image_find(serving->image, object, serving->since_ms, &vid, &run);
	if (error < 0)
		return error;
	length = (run << inode->shift) - offset;
	if (vid != 0 && length > piece_bytes(serving, offset))
		length = piece_bytes(serving, offset);
	if (length > ask->length)
		length = ask->length;
	if (vid != 0)
		plan_piece(serving, object, offset, length, vid);
	else
		plan_zeros(serving, length);
	ask->offset += length;
	ask->length -= length;
	return 0;
}

/* See where the object of @segment is now.  Returns 0 or a negative errno. */
static int find_again(struct serving *serving, struct segment *segment)
{
	uint64_t run;
	uint32_t vid;
	int error;

	if (segment->losses > 0 && segment->retry_ms > 0) {
		segment->retry_ms = 0;
		sheep_image_lost(serving->image, segment->object);
	}
	error = sheep_image_find(serving->image, segment->object, serving->since_ms, &vid,
				 &run);
	if (error < 0)
		return error == -EAGAIN ? 0 : error;
	if (vid != 0) {
		sheep_cluster_note(serving->cluster, STORE_IO,
				   "object %" PRIu64 " of VDI %06" PRIx32
				   " is not in the cluster",
				   segment->object, vid);
		if (segment->losses > LOSSES_MIN &&
		    sheep_now_ms() - segment->lost_ms >
			    sheep_cluster_errors_ms(serving->cluster))
			return sheep_image_is_vanishing(serving->image) ? -ESTALE : -EIO;
		ask_for(serving, segment, vid);
		return 0;
	}
	empty_pipe(segment);
	memset(segment->place->buffer, 0, segment->length);
	segment->call.got = segment->length;
	segment->wanted = ASKED;
	return 0;
}

/*
 * Look after the segments whose object the cluster did not have.  Returns 0, with the
 * time of the next one in *@ret_next_ms, or a negative errno.
 */
static int find_lost(struct serving *serving, int64_t *ret_next_ms)
{
	int64_t now_ms = sheep_now_ms();

	*ret_next_ms = INT64_MAX;
	for (size_t i = 0; i < serving->count; i++) {
		struct segment *segment = segment_at(serving, i);
		int error = 0;

		if (!segment->place || segment->wanted != LOST)
			continue;
		if (segment->retry_ms <= now_ms)
			error = find_again(serving, segment);
		else if (segment->retry_ms < *ret_next_ms)
			*ret_next_ms = segment->retry_ms;
		if (error < 0)
			return error;
	}
	return 0;
}

/*
 * See whether the ask lies in the image, which may have grown.  Returns STORE_OK, or the
 * status to exit with, having said why.
 */
static int check_bounds(struct serving *serving)
{
	const struct ask *ask = &serving->ask;
	const struct sheep_inode *inode = sheep_image_inode(serving->image);
	int status = STORE_OK;

	if (ask->offset + ask->length > inode->size)
		status = sheep_image_check(serving->image);
	if (status != STORE_OK || ask->offset + ask->length <= inode->size)
		return status;
	store_error("asked for %" PRIu64 " bytes from %" PRIu64
		    " of an image of %" PRIu64,
		    ask->length, ask->offset, inode->size);
	return STORE_USAGE;
}

/*
 * Take the next ask, if there is one.  Returns STORE_OK, or the status to exit with,
 * having said why.
 */
static int take_ask(struct serving *serving)
{
	int result = asks_next(&serving->asks, &serving->ask);

	if (result <= 0)
		serving->ask.length = 0;
	if (result == 0)
		serving->has_ended = true;
	if (result == 0 || result == -EAGAIN)
		return STORE_OK;
	if (result == -EBADMSG)
		return STORE_USAGE;
	if (result < 0) {
		store_error("cannot read what is asked: %s", strerror(-result));
		return STORE_IO;
	}
	if (serving->count == 0)
		sheep_cluster_progress(serving->cluster);
	serving->since_ms = sheep_now_ms() - FRESH_MS;
	return check_bounds(serving);
}

static bool has_room(const struct serving *serving)
{
	return serving->count < SEGMENTS && serving->free_count > 0;
}

/*
 * Plan what was asked, as far as it goes.  Returns STORE_OK, or the status to exit with,
 * having said why.
 */
static int plan_all(struct serving *serving)
{
	while (has_room(serving)) {
		if (serving->ask.length > 0) {
			int error = plan(serving);

			if (error == -EAGAIN)
				break;
			if (error < 0)
				return sheep_image_fail(serving->image, error);
		} else {
			int status = take_ask(serving);

			if (status != STORE_OK)
				return status;
			if (serving->ask.length == 0)
				break;
		}
	}
	return STORE_OK;
}

/* Write zeros of the segment at the head.  Returns what write(2) does. */
static ssize_t write_hole(struct serving *serving)
{
	static char zeros[ZEROS_BYTES];
	const struct segment *segment = segment_at(serving, 0);
	struct iovec part = {.iov_base = zeros, .iov_len = sizeof(zeros)};

	if (part.iov_len > segment->length - segment->sent)
		part.iov_len = segment->length - segment->sent;
	/* Whoever has these pages may keep them: nobody writes to them. */
	if (serving->is_pipe)
		return vmsplice(STDOUT_FILENO, &part, 1, SPLICE_F_NONBLOCK);
	return write(STDOUT_FILENO, zeros, part.iov_len);
}

/*
 * Collect the data at the head that can be written, up to the first byte that is not
 * there, or is in a pipe.  Returns how many parts it is in.
 */
static int collect(struct serving *serving, struct iovec parts[PARTS])
{
	int count = 0;

	for (size_t i = 0; i < serving->count && count < PARTS; i++) {
		struct segment *segment = segment_at(serving, i);
		uint64_t got = segment->call.got;

		if (!segment->place || segment->sent < segment->call.piped)
			break;
		if (got > segment->sent)
			parts[count++] = (struct iovec){
				.iov_base = segment->place->buffer + segment->sent,
				.iov_len = got - segment->sent};
		if (got < segment->length)
			break;
	}
	return count;
}

/* Take @written bytes, and what was written whole, off the head. */
static void advance(struct serving *serving, size_t written)
{
	while (serving->count > 0) {
		struct segment *segment = segment_at(serving, 0);
		uint64_t part = segment->length - segment->sent;

		if (part > written)
			part = written;
		segment->sent += part;
		written -= part;
		if (segment->sent < segment->length)
			break;
		if (segment->place)
			serving->free[serving->free_count++] = segment->place;
		serving->head = (serving->head + 1) % SEGMENTS;
		serving->count--;
	}
}

/*
 * Write some of what is at the head.  Returns what write(2) does; 0 if nothing is there.
 */
static ssize_t write_head(struct serving *serving)
{
	const struct segment *segment = segment_at(serving, 0);
	struct iovec parts[PARTS];
	int count;

	if (!segment->place)
		return write_hole(serving);
	if (segment->sent < segment->call.piped)
		return splice(segment->place->pipe[0], NULL, STDOUT_FILENO, NULL,
			      segment->call.piped - segment->sent, SPLICE_F_NONBLOCK);
	count = collect(serving, parts);
	return count > 0 ? writev(STDOUT_FILENO, parts, count) : 0;
}

/*
 * Write what can be written without waiting, or some of it: others have their turn too.
 * Returns how many bytes, or a negative errno.
 */
static ssize_t write_out(struct serving *serving)
{
	ssize_t total = 0;

	serving->is_blocked = false;
	while (serving->count > 0 && total < WRITE_AT_ONCE) {
		ssize_t written = write_head(serving);

		if (written == 0)
			break;
		if (written < 0 && errno == EINTR)
			continue;
		/* However long it takes to read, the cluster has not been waited for. */
		sheep_cluster_progress(serving->cluster);
		if (written < 0 && errno == EAGAIN) {
			serving->is_blocked = true;
			break;
		}
		if (written < 0)
			return -errno;
		advance(serving, written);
		serving->has_sent = true;
		total += written;
	}
	return total;
}

/*
 * Wait for the cluster, more asks, or room for answers, until @next_ms.  Returns 0 or a
 * negative errno.
 */
static int wait_for_any(struct serving *serving, int64_t next_ms)
{
	struct pollfd more[2];
	size_t count = 0;
	int timeout_ms = -1;

	if (!serving->has_ended && serving->ask.length == 0 && has_room(serving))
		more[count++] = (struct pollfd){.fd = STDIN_FILENO, .events = POLLIN};
	if (serving->is_blocked)
		more[count++] = (struct pollfd){.fd = STDOUT_FILENO, .events = POLLOUT};
	if (next_ms < INT64_MAX) {
		int64_t now_ms = sheep_now_ms();

		timeout_ms = next_ms > now_ms ? (int)(next_ms - now_ms) : 0;
	}
	return sheep_cluster_wait(serving->cluster, more, count, timeout_ms);
}

/*
 * One turn of the loop below.  Returns STORE_OK, with whether that was the last one in
 * *@ret_is_done, or the status to exit with, having said why.
 */
static int turn(struct serving *serving, bool *ret_is_done)
{
	int status = plan_all(serving);
	int64_t next_ms;
	ssize_t written;
	int error;

	if (status != STORE_OK)
		return status;
	error = find_lost(serving, &next_ms);
	if (error < 0)
		return sheep_image_fail(serving->image, error);
	written = write_out(serving);
	/* When nobody reads any more, nobody is left to be told anything either. */
	*ret_is_done = written == -EPIPE || (serving->has_ended && serving->count == 0 &&
					     serving->ask.length == 0);
	if (*ret_is_done)
		return STORE_OK;
	if (written < 0) {
		store_error("cannot write the answer: %s", strerror((int)-written));
		return STORE_IO;
	}
	/* What was written made room. */
	error = wait_for_any(serving, written > 0 ? 0 : next_ms);
	return error < 0 ? sheep_image_fail(serving->image, error) : STORE_OK;
}

static int serve(struct serving *serving)
{
	bool is_done = false;

	while (!is_done) {
		int status = turn(serving, &is_done);

		if (status != STORE_OK)
			return status;
	}
	/*
	 * The index of a deleted image is zeros, which may be what was sent; and where
	 * numbers are used again (cluster format -R), another VDI has its objects.
	 */
	return serving->has_sent ? sheep_image_check(serving->image) : STORE_OK;
}

static void free_serving(struct serving *serving)
{
	for (size_t i = 0; i < PLACES; i++) {
		for (int end = 0; end < 2; end++)
			if (serving->places[i].pipe[end] > 0)
				close(serving->places[i].pipe[end]);
	}
	free(serving);
}

static int serve_image(struct sheep_image *image)
{
	struct serving *serving = calloc(1, sizeof(*serving));
	char *memory = malloc((size_t)PLACES * PIECE_BYTES);
	int flags[2];
	int status;

	if (!serving || !memory) {
		store_error("out of memory");
		free(serving);
		free(memory);
		return STORE_IO;
	}
	serving->image = image;
	serving->cluster = sheep_image_cluster(image);
	serving->asks.fd = STDIN_FILENO;
	serving->is_pipe = pipe_enlarge(STDOUT_FILENO, PIPE_BYTES) > 0;
	for (size_t i = 0; i < PLACES; i++) {
		serving->places[i].buffer = memory + i * PIECE_BYTES;
		serving->free[serving->free_count++] = &serving->places[i];
	}
	flags[0] = store_make_nonblocking(STDIN_FILENO);
	flags[1] = store_make_nonblocking(STDOUT_FILENO);
	status = serve(serving);
	store_set_flags(STDIN_FILENO, flags[0]);
	store_set_flags(STDOUT_FILENO, flags[1]);
	free_serving(serving);
	free(memory);
	return status;
}

int sheepdog_read(const char *uri, const char *id)
{
	struct sheep_image *image;
	int status = sheep_image_open(uri, id, &image);

	if (status != STORE_OK)
		return status;
	status = serve_image(image);
	sheep_image_close(image);
	return status;
}
