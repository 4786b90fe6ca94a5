/* SPDX-License-Identifier: MIT */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/eventfd.h>

#include "cleanup.h"
#include "clock.h"
#include "extents.h"
#include "handle.h"
#include "lane.h"
#include "stream.h"

#define STREAMS_MAX 4
#define LANES_MAX 4
#define LANE_LOAD 16 /* with so many reads waiting for each, one more lane is opened */
#define TRAILS 8
#define REFUSAL_MS 1000 /* after a stall the kernel asks again: it is told at once */
#define ZEROS_SIZE (1u << 20)

/* A run of reads, one after the other, that no stream answered; or where one ended. */
struct trail {
	uint64_t start, end;
	uint64_t used; /* by the handle's count of reads; 0: unused */
};

/* One of the handle's threads, and what it runs. */
struct runner {
	TAILQ_ENTRY(runner) link;
	struct handle *handle;
	struct stream *stream; /* either */
	struct lane *lane; /* or */
};

TAILQ_HEAD(runners, runner);
TAILQ_HEAD(seeks, seek);

struct handle {
	/* constant */
	struct engine *engine;
	struct image *image;
	int wake_fd; /* ends the call for extents */
	pthread_mutex_t lock; /* guards the rest; the streams' and lanes' too */
	struct runners streams, lanes;
	size_t stream_count, lane_count;
	struct trail trails[TRAILS];
	uint64_t reads;
	uint64_t stalled_ms; /* when a stream last came upon the stall limit */
	bool begun; /* the image's start was read */
	struct extents *extents;
	struct seeks seeks; /* wait for the extents */
	bool asking_extents;
	size_t refs; /* the opener's, and each thread's */
	bool closed;
};

static const unsigned char zeros[ZEROS_SIZE];

int handle_new(struct engine *engine, struct image *image, struct handle **ret_handle)
{
	struct handle *handle = calloc(1, sizeof(*handle));

	if (!handle)
		return -ENOMEM;
	handle->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (handle->wake_fd < 0) {
		free(handle);
		return -ENOMEM;
	}
	handle->engine = engine;
	handle->image = image_ref(image);
	handle->refs = 1;
	pthread_mutex_init(&handle->lock, NULL);
	TAILQ_INIT(&handle->streams);
	TAILQ_INIT(&handle->lanes);
	TAILQ_INIT(&handle->seeks);
	*ret_handle = handle;
	return 0;
}

/* Give up a reference, with the lock held, which is released. */
static void unref_and_unlock(struct handle *handle)
{
	bool last = !--handle->refs;

	pthread_mutex_unlock(&handle->lock);
	if (!last)
		return;
	extents_free(handle->extents);
	image_unref(handle->image);
	closep(&handle->wake_fd);
	pthread_mutex_destroy(&handle->lock);
	free(handle);
}

struct image *handle_image(struct handle *handle)
{
	return handle->image;
}

/* ---- what the reads did so far ---- */

static struct trail *oldest_trail(struct handle *handle)
{
	struct trail *oldest = &handle->trails[0];

	for (size_t i = 1; i < TRAILS; i++)
		if (handle->trails[i].used < oldest->used)
			oldest = &handle->trails[i];
	return oldest;
}

static void note_end(struct handle *handle, uint64_t offset)
{
	*oldest_trail(handle) = (struct trail){offset, offset, ++handle->reads};
}

/* Note a read.  Returns whether it goes on where an earlier one ended. */
static bool runs_on(struct handle *handle, const struct read *read)
{
	uint64_t end = read->offset + read->size;

	handle->reads++;
	for (size_t i = 0; i < TRAILS; i++) {
		struct trail *trail = &handle->trails[i];

		if (!trail->used)
			continue;
		if (read->offset == trail->end) {
			*trail = (struct trail){trail->start, end, handle->reads};
			return true;
		}
		/* Two reads of one run that came in the wrong order. */
		if (end == trail->start) {
			*trail = (struct trail){read->offset, trail->end, handle->reads};
			return false;
		}
	}
	*oldest_trail(handle) = (struct trail){read->offset, end, handle->reads};
	return false;
}

/* ---- threads ---- */

static void *run_stream(void *context)
{
	struct runner *runner = context;
	struct handle *handle = runner->handle;
	struct engine *engine = handle->engine;

	pthread_mutex_lock(&handle->lock);
	stream_run(runner->stream);
	TAILQ_REMOVE(&handle->streams, runner, link);
	handle->stream_count--;
	note_end(handle, stream_position(runner->stream));
	if (stream_error(runner->stream) == -ETIMEDOUT)
		handle->stalled_ms = clock_ms();
	pthread_mutex_unlock(&handle->lock);
	stream_free(runner->stream);
	free(runner);
	pthread_mutex_lock(&handle->lock);
	unref_and_unlock(handle);
	engine_thread_ends(engine);
	return NULL;
}

static void *run_lane(void *context)
{
	struct runner *runner = context;
	struct handle *handle = runner->handle;
	struct engine *engine = handle->engine;

	pthread_mutex_lock(&handle->lock);
	lane_run(runner->lane);
	TAILQ_REMOVE(&handle->lanes, runner, link);
	handle->lane_count--;
	pthread_mutex_unlock(&handle->lock);
	lane_free(runner->lane);
	free(runner);
	pthread_mutex_lock(&handle->lock);
	unref_and_unlock(handle);
	engine_thread_ends(engine);
	return NULL;
}

/* Start a thread that holds a reference.  Returns 0 or a negative errno. */
static int start_locked(struct handle *handle, void *(*run)(void *), void *context)
{
	int ret;

	handle->refs++;
	ret = engine_start_thread(handle->engine, run, context);
	if (ret < 0)
		handle->refs--;
	return ret;
}

static int open_stream_locked(struct handle *handle, uint64_t start,
			      struct stream **ret_stream)
{
	struct runner *runner = calloc(1, sizeof(*runner));
	int ret;

	if (!runner)
		return -ENOMEM;
	runner->handle = handle;
	ret = stream_new(handle->engine, handle->image, start, &handle->lock,
			 &runner->stream);
	if (!ret)
		ret = start_locked(handle, run_stream, runner);
	if (ret < 0) {
		stream_free(runner->stream);
		free(runner);
		return ret;
	}
	if (handle->extents)
		stream_set_extents(runner->stream, handle->extents);
	TAILQ_INSERT_HEAD(&handle->streams, runner, link);
	handle->stream_count++;
	*ret_stream = runner->stream;
	return 0;
}

static int open_lane_locked(struct handle *handle, struct lane **ret_lane)
{
	struct runner *runner = calloc(1, sizeof(*runner));
	int ret;

	if (!runner)
		return -ENOMEM;
	runner->handle = handle;
	ret = lane_new(handle->engine, handle->image, &handle->lock, &runner->lane);
	if (!ret)
		ret = start_locked(handle, run_lane, runner);
	if (ret < 0) {
		lane_free(runner->lane);
		free(runner);
		return ret;
	}
	TAILQ_INSERT_HEAD(&handle->lanes, runner, link);
	handle->lane_count++;
	*ret_lane = runner->lane;
	return 0;
}

/* Make a place for a new stream.  Returns whether there is one. */
static bool make_place_locked(struct handle *handle)
{
	struct runner *runner, *oldest = NULL;
	uint64_t since, oldest_since = UINT64_MAX;

	if (handle->stream_count < STREAMS_MAX)
		return true;
	TAILQ_FOREACH (runner, &handle->streams, link) {
		if (stream_unused(runner->stream, &since) && since < oldest_since) {
			oldest = runner;
			oldest_since = since;
		}
	}
	if (oldest)
		stream_end(oldest->stream, 0);
	/* Those that end go soon; some more may be there until they are gone. */
	return oldest && handle->stream_count < 2 * STREAMS_MAX;
}

/* ---- reads ---- */

/* Choose a stream for a read that none has.  NULL: none fits, it is for a lane. */
static struct stream *choose_stream_locked(struct handle *handle, const struct read *read)
{
	bool begins = !read->offset && !handle->begun;
	struct stream *stream = NULL;
	struct runner *runner;

	TAILQ_FOREACH (runner, &handle->streams, link) {
		if (stream_reaches(runner->stream, read))
			return runner->stream;
	}
	if (!runs_on(handle, read) && !begins)
		return NULL;
	handle->begun = handle->begun || begins;
	TAILQ_FOREACH (runner, &handle->streams, link) {
		if (stream_can_skip(runner->stream, read))
			return runner->stream;
	}
	if (make_place_locked(handle))
		open_stream_locked(handle, read->offset, &stream);
	return stream;
}

/* Choose a lane: the one with the least to do, or another if all have much. */
static int choose_lane_locked(struct handle *handle, struct lane **ret_lane)
{
	struct runner *runner;
	struct lane *best = NULL;
	int ret = 0;

	TAILQ_FOREACH (runner, &handle->lanes, link) {
		if (lane_is_open(runner->lane) &&
		    (!best || lane_load(runner->lane) < lane_load(best)))
			best = runner->lane;
	}
	if (!best || (lane_load(best) >= LANE_LOAD && handle->lane_count < LANES_MAX))
		ret = open_lane_locked(handle, &best);
	if (!best)
		return ret;
	*ret_lane = best;
	return 0;
}

static bool is_hole_locked(const struct handle *handle, const struct read *read)
{
	return handle->extents && read->size <= ZEROS_SIZE &&
	       extents_data(handle->extents, read->offset) >= read->offset + read->size;
}

/* The error that a read is refused with, without trying, or 0. */
static int refusal_locked(const struct handle *handle)
{
	uint64_t stalled_ms = handle->stalled_ms;
	struct runner *runner;

	if (handle->closed)
		return -EIO;
	TAILQ_FOREACH (runner, &handle->lanes, link) {
		stalled_ms = MAX(stalled_ms, lane_stalled_ms(runner->lane));
	}
	return stalled_ms && clock_ms() - stalled_ms < REFUSAL_MS ? -ETIMEDOUT : 0;
}

/* Have the read answered later.  Returns 0 or a negative errno. */
static int park_locked(struct handle *handle, struct read *read)
{
	struct stream *stream;
	struct lane *lane = NULL;
	int ret;

	if (read->given_up)
		return -EINTR;
	stream = choose_stream_locked(handle, read);
	if (stream) {
		stream_park(stream, read);
		return 0;
	}
	ret = choose_lane_locked(handle, &lane);
	return ret ? ret : lane_park(lane, read);
}

/* Answer the read if a stream has it.  The lock is dropped meanwhile. */
static bool answer_locked(struct handle *handle, struct read *read)
{
	struct runner *runner;

	TAILQ_FOREACH (runner, &handle->streams, link) {
		if (stream_has(runner->stream, read)) {
			stream_answer(runner->stream, read);
			return true;
		}
	}
	return false;
}

void handle_read(struct handle *handle, struct read *read)
{
	struct iovec hole = {(void *)zeros, 0};
	uint64_t size = handle->image->size;
	bool answered, is_hole = false;
	struct image *failed = NULL;
	int err = 0;

	if (read->offset >= size)
		read->size = 0;
	else
		read->size = (size_t)MIN((uint64_t)read->size, size - read->offset);
	if (!read->size) {
		read->reply(read, 0, NULL, 0);
		return;
	}
	pthread_mutex_lock(&handle->lock);
	answered = answer_locked(handle, read);
	if (!answered) {
		is_hole = is_hole_locked(handle, read);
		err = is_hole ? 0 : refusal_locked(handle);
		hole.iov_len = read->size;
	}
	if (!answered && !is_hole && !err) {
		err = park_locked(handle, read);
		if (err && err != -EINTR)
			failed = image_ref(handle->image);
	}
	pthread_mutex_unlock(&handle->lock);
	/* From the reply on the handle may be closed, and gone. */
	if (failed)
		image_set_error(failed, "no reader can be started: %s", strerror(-err));
	image_unref(failed);
	if (err)
		read->reply(read, failed ? -EIO : err, NULL, 0);
	else if (is_hole)
		read->reply(read, 0, &hole, 1);
}

bool handle_cancel(struct handle *handle, struct read *read)
{
	struct runner *runner;
	bool found = false;

	pthread_mutex_lock(&handle->lock);
	TAILQ_FOREACH (runner, &handle->streams, link) {
		found = found || stream_unpark(runner->stream, read);
	}
	TAILQ_FOREACH (runner, &handle->lanes, link) {
		found = found || lane_unpark(runner->lane, read);
	}
	pthread_mutex_unlock(&handle->lock);
	return found;
}

/* ---- holes ---- */

static void answer_seeks(struct seeks *seeks, int err, const struct extents *extents)
{
	struct seek *seek;

	while ((seek = TAILQ_FIRST(seeks))) {
		uint64_t offset = 0;

		TAILQ_REMOVE(seeks, seek, link);
		if (!err)
			offset = seek->hole ? extents_hole(extents, seek->offset)
					    : extents_data(extents, seek->offset);
		seek->done(seek, err, offset);
	}
}

static void *run_extents(void *context)
{
	struct handle *handle = context;
	struct engine *engine = handle->engine;
	struct seeks seeks = TAILQ_HEAD_INITIALIZER(seeks);
	struct extents *extents = NULL;
	struct runner *runner;
	int err = extents_new(engine->store, handle->image, handle->wake_fd, &extents);

	pthread_mutex_lock(&handle->lock);
	handle->asking_extents = false;
	handle->extents = extents;
	TAILQ_FOREACH (runner, &handle->streams, link) {
		if (extents)
			stream_set_extents(runner->stream, extents);
	}
	TAILQ_CONCAT(&seeks, &handle->seeks, link);
	pthread_mutex_unlock(&handle->lock);
	answer_seeks(&seeks, err == -ECANCELED ? -EIO : err, extents);
	pthread_mutex_lock(&handle->lock);
	unref_and_unlock(handle);
	engine_thread_ends(engine);
	return NULL;
}

void handle_seek(struct handle *handle, struct seek *seek)
{
	struct seeks seeks = TAILQ_HEAD_INITIALIZER(seeks);
	struct extents *extents;
	int err = 0;

	pthread_mutex_lock(&handle->lock);
	extents = handle->extents;
	if (extents || handle->closed || seek->given_up) {
		err = extents ? 0 : handle->closed ? -EIO : -EINTR;
		TAILQ_INSERT_TAIL(&seeks, seek, link);
	} else {
		TAILQ_INSERT_TAIL(&handle->seeks, seek, link);
		if (!handle->asking_extents)
			err = start_locked(handle, run_extents, handle);
		handle->asking_extents = !err;
		if (err)
			TAILQ_CONCAT(&seeks, &handle->seeks, link);
	}
	pthread_mutex_unlock(&handle->lock);
	answer_seeks(&seeks, err, extents);
}

bool handle_cancel_seek(struct handle *handle, struct seek *seek)
{
	struct seek *waiting;
	bool found = false;

	pthread_mutex_lock(&handle->lock);
	TAILQ_FOREACH (waiting, &handle->seeks, link) {
		if (waiting == seek) {
			found = true;
			break;
		}
	}
	if (found)
		TAILQ_REMOVE(&handle->seeks, seek, link);
	pthread_mutex_unlock(&handle->lock);
	return found;
}

void handle_close(struct handle *handle)
{
	struct runner *runner;

	pthread_mutex_lock(&handle->lock);
	handle->closed = true;
	TAILQ_FOREACH (runner, &handle->streams, link) {
		stream_end(runner->stream, -EIO);
	}
	TAILQ_FOREACH (runner, &handle->lanes, link) {
		lane_end(runner->lane);
	}
	eventfd_write(handle->wake_fd, 1);
	unref_and_unlock(handle);
}
