/* SPDX-License-Identifier: MIT */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "cleanup.h"
#include "clock.h"
#include "lane.h"
#include "pool.h"
#include "stream.h"

#define STREAMS_MAX 4 /* for each member */
#define STREAMS_MOST 32
#define LANES_MAX 4
#define LANE_LOAD 32 /* with so many reads waiting for each, one more lane is opened */
#define TRAILS 32
#define RUN_MIN (64u << 10) /* shorter runs happen by accident */
#define REFUSAL_MS 1000
#define STRIDE_MIN (128u << 10) /* shorter runs are not worth reading ahead of */
#define STRIDES 1 /* times that a distance was the same as the one before */
#define HOLD_MS 50 /* so long those in front wait for one who has fallen behind */
#define ZEROS_SIZE (1u << 20)
#define HOLES_AFTER (4u << 20) /* who has read so much on end may gain from the holes */

/* A run of reads, one after the other, that no stream answered; or where one ended. */
struct trail {
	uint64_t start, end;
	size_t first; /* the size of its first read */
	uint64_t used; /* by the pool's count of reads; 0: unused */
};

/* One of the pool's threads, and what it runs. */
struct runner {
	TAILQ_ENTRY(runner) link;
	struct pool *pool;
	struct stream *stream; /* either */
	struct lane *lane; /* or */
	uint64_t serial; /* the pool's when it was made */
};

TAILQ_HEAD(runners, runner);

struct pool {
	/* constant */
	struct engine *engine;
	struct image *image;
	/* guarded by the engine's pools_lock, which is taken before the pool's */
	LIST_ENTRY(pool) link;
	size_t joined;
	/* by itself */
	atomic_bool failed; /* nobody is to join any more */
	pthread_mutex_t lock; /* guards the rest; the streams' and lanes' too */
	LIST_HEAD(members, member) members;
	size_t member_count;
	uint64_t serial; /* counts those who ever joined */
	struct runners streams, lanes;
	size_t stream_count, lane_count;
	struct trail trails[TRAILS];
	uint64_t reads;
	struct {
		uint64_t start, end;
		uint64_t at_ms;
		int err;
	} refused; /* what last failed for good */
	bool begun; /* the image's start was read */
	bool doubt; /* the end was not confirmed: only a stream may give it out */
	int err; /* the version is lost, negative: all reads fail */
	struct owner owner; /* of the streams and lanes: this */
	struct holes holes;
	size_t refs; /* the members', and each thread's */
	bool closed;
};

static const unsigned char zeros[ZEROS_SIZE];

static void count_up(struct pool *pool, enum counter counter)
{
	stats_add(&pool->engine->stats, pool->image->stats, counter, 1);
}

static struct pool *pool_ref_locked(struct pool *pool)
{
	pool->refs++;
	return pool;
}

/* Give up a reference, with the lock held, which is released. */
static void unref_and_unlock(struct pool *pool)
{
	bool last = !--pool->refs;

	pthread_mutex_unlock(&pool->lock);
	if (!last)
		return;
	holes_fini(&pool->holes);
	image_unref(pool->image);
	pthread_mutex_destroy(&pool->lock);
	free(pool);
}

/*
 * Whether @member may have what comes by @runner.  What was fetched, or begun, before he
 * opened an image that can change may be older than what he is to see.
 */
static bool is_good_for(const struct runner *runner, const struct member *member)
{
	return runner->pool->image->immutable || runner->serial >= member->serial;
}

/* ---- what the reads did so far ---- */

static struct trail *oldest_trail(struct pool *pool)
{
	struct trail *oldest = &pool->trails[0];

	for (size_t i = 1; i < TRAILS; i++)
		if (pool->trails[i].used < oldest->used)
			oldest = &pool->trails[i];
	return oldest;
}

static void note_end(struct pool *pool, uint64_t offset)
{
	*oldest_trail(pool) = (struct trail){offset, offset, 0, ++pool->reads};
}

/*
 * Note a read.  Returns whether it goes on where earlier ones ended, which together are so
 * long that it is no accident, and no single read of an application that the kernel has cut
 * in two.
 */
static bool runs_on(struct pool *pool, const struct read *read)
{
	uint64_t end = read->offset + read->size;

	pool->reads++;
	for (size_t i = 0; i < TRAILS; i++) {
		struct trail *trail = &pool->trails[i];

		if (!trail->used)
			continue;
		if (read->offset == trail->end) {
			trail->end = end;
			trail->used = pool->reads;
			return end - trail->start >= MAX(RUN_MIN, 2 * trail->first);
		}
		/* Two reads of one run that came in the wrong order. */
		if (end == trail->start) {
			*trail = (struct trail){read->offset, trail->end, trail->first,
						pool->reads};
			return false;
		}
	}
	*oldest_trail(pool) = (struct trail){read->offset, end, read->size, pool->reads};
	return false;
}

/*
 * Note a read that no stream answers.  Returns whether such reads have come in runs of one
 * length, at one distance from one another, and this one begins, at *@ret_start, another.
 * What the kernel makes of one read may come in any order.
 */
static bool strides_on(struct member *member, const struct read *read,
		       uint64_t *ret_start)
{
	uint64_t end = read->offset + read->size;
	uint64_t length = member->last_end - member->last_start;
	int64_t stride = (int64_t)(member->last_start - member->before_start);
	bool same = stride == member->stride && length == member->length;

	if (read->offset == member->last_end) {
		member->last_end = end;
		return false;
	}
	if (end == member->last_start) {
		member->last_start = read->offset;
		return false;
	}
	*ret_start = member->last_start + (uint64_t)stride;
	member->times = same ? member->times + 1 : 0;
	member->stride = stride;
	member->length = length;
	member->before_start = member->last_start;
	member->last_start = read->offset;
	member->last_end = end;
	return member->times >= STRIDES && length >= STRIDE_MIN &&
	       read->offset >= *ret_start && end <= *ret_start + length;
}

/* ---- members ---- */

/* As struct owner says.  A member who is alone holds nobody up. */
static uint64_t held_from(void *context, uint64_t kept, uint64_t needed,
			  uint64_t *ret_until_ms)
{
	const struct pool *pool = context;
	uint64_t from = UINT64_MAX, until_ms = 0, now = clock_ms();
	const struct member *member;

	LIST_FOREACH (member, &pool->members, link) {
		if (pool->member_count < 2)
			break;
		if (!member->runs || member->position < kept ||
		    member->position >= needed || now >= member->read_ms + HOLD_MS)
			continue;
		if (member->position < from)
			until_ms = member->read_ms + HOLD_MS;
		from = MIN(from, member->position);
	}
	*ret_until_ms = until_ms;
	return from;
}

static bool is_shared(void *context)
{
	const struct pool *pool = context;

	return pool->member_count > 1;
}

static void note_member(struct member *member, const struct read *read)
{
	/* The kernel's read-ahead comes out of order. */
	member->runs = read->offset <= member->position + read->size &&
		       member->position <= read->offset + 2 * read->size;
	if (!member->runs)
		member->run_start = read->offset;
	member->position = member->runs ? MAX(member->position, read->offset + read->size)
					: read->offset + read->size;
	member->read_ms = clock_ms();
}

/*
 * Reads within [@start, @end) are refused for some time.  One read of an application is
 * several of the kernel's, which fail one after the other: what joins is refused together.
 */
static void refuse(struct pool *pool, int err, uint64_t start, uint64_t end)
{
	uint64_t at_ms = pool->refused.at_ms, now = clock_ms();

	if (at_ms && now < at_ms + REFUSAL_MS && err == pool->refused.err &&
	    start <= pool->refused.end && end >= pool->refused.start) {
		start = MIN(start, pool->refused.start);
		end = MAX(end, pool->refused.end);
	}
	pool->refused.start = start;
	pool->refused.end = end;
	pool->refused.at_ms = now;
	pool->refused.err = err;
}

/* As struct owner says. */
static void note_failed(void *context, int err, bool lost, uint64_t start, uint64_t end)
{
	struct pool *pool = context;

	/* That is ours, and may be had at once. */
	if (err != -ENOMEM)
		refuse(pool, err, start, end);
	if (!lost)
		return;
	pool->err = err;
	pool->failed = true;
}

static void note_ended(void *context, bool confirmed)
{
	struct pool *pool = context;

	pool->doubt = !confirmed;
}

/* Have the streams look again at who holds them up. */
static void release_held(struct pool *pool)
{
	struct runner *runner;

	TAILQ_FOREACH (runner, &pool->streams, link) {
		stream_look(runner->stream);
	}
}

static void take_extents(void *context, struct extents *extents)
{
	struct pool *pool = context;
	struct runner *runner;

	TAILQ_FOREACH (runner, &pool->streams, link) {
		stream_set_extents(runner->stream, extents);
	}
}

static int pool_new(struct engine *engine, struct image *image, struct pool **ret_pool)
{
	CLEANUP(freep) struct pool *pool = calloc(1, sizeof(*pool));

	if (!pool)
		return -ENOMEM;
	holes_init(&pool->holes, engine, image, &pool->lock);
	pool->holes.take = take_extents;
	pool->holes.context = pool;
	pool->owner = (struct owner){held_from, is_shared, note_failed, note_ended, pool};
	pool->engine = engine;
	pool->image = image_ref(image);
	pthread_mutex_init(&pool->lock, NULL);
	LIST_INIT(&pool->members);
	TAILQ_INIT(&pool->streams);
	TAILQ_INIT(&pool->lanes);
	*ret_pool = STEAL(pool);
	return 0;
}

/* The pool that those who have @image open share, or NULL. */
static struct pool *find_pool(const struct engine *engine, const struct image *image)
{
	struct pool *pool;

	LIST_FOREACH (pool, &engine->pools, link) {
		if (!pool->failed && pool->image->ino == image->ino &&
		    pool->image->size == image->size &&
		    !strcmp(pool->image->id, image->id))
			return pool;
	}
	return NULL;
}

int pool_join(struct engine *engine, struct image *image, struct member *member,
	      struct pool **ret_pool)
{
	struct pool *pool;
	int ret = 0;

	*member = (struct member){.joined_ms = clock_ms()};
	pthread_mutex_lock(&engine->pools_lock);
	pool = find_pool(engine, image);
	if (!pool) {
		ret = pool_new(engine, image, &pool);
		if (!ret)
			LIST_INSERT_HEAD(&engine->pools, pool, link);
	}
	if (!ret) {
		pool->joined++;
		pthread_mutex_lock(&pool->lock);
		LIST_INSERT_HEAD(&pool->members, member, link);
		pool->member_count++;
		member->serial = ++pool->serial;
		pool->refs++;
		pool->begun = false;
		pthread_mutex_unlock(&pool->lock);
		*ret_pool = pool;
	}
	pthread_mutex_unlock(&engine->pools_lock);
	return ret;
}

static void close_locked(struct pool *pool)
{
	struct runner *runner;

	pool->closed = true;
	TAILQ_FOREACH (runner, &pool->streams, link) {
		stream_end(runner->stream, -EIO);
	}
	TAILQ_FOREACH (runner, &pool->lanes, link) {
		lane_end(runner->lane);
	}
	holes_end(&pool->holes);
}

void pool_leave(struct pool *pool, struct member *member)
{
	bool last;

	pthread_mutex_lock(&pool->engine->pools_lock);
	last = !--pool->joined;
	if (last)
		LIST_REMOVE(pool, link);
	pthread_mutex_unlock(&pool->engine->pools_lock);
	pthread_mutex_lock(&pool->lock);
	LIST_REMOVE(member, link);
	pool->member_count--;
	if (last)
		close_locked(pool);
	else
		release_held(pool);
	unref_and_unlock(pool);
}

/* ---- threads ---- */

/* Have streams that rest give up their memory, if there is too little for all. */
static void squeeze(struct engine *engine)
{
	struct runner *runner;
	struct pool *pool;

	if (!engine_is_over(engine))
		return;
	pthread_mutex_lock(&engine->pools_lock);
	LIST_FOREACH (pool, &engine->pools, link) {
		pthread_mutex_lock(&pool->lock);
		TAILQ_FOREACH (runner, &pool->streams, link) {
			stream_squeeze(runner->stream);
		}
		pthread_mutex_unlock(&pool->lock);
	}
	pthread_mutex_unlock(&engine->pools_lock);
}

static void *run_stream(void *context)
{
	struct runner *runner = context;
	struct pool *pool = runner->pool;
	struct engine *engine = pool->engine;
	struct stream *stream = runner->stream;

	squeeze(engine);
	pthread_mutex_lock(&pool->lock);
	stream_run(stream);
	TAILQ_REMOVE(&pool->streams, runner, link);
	pool->stream_count--;
	note_end(pool, stream_position(stream));
	pthread_mutex_unlock(&pool->lock);
	stream_free(stream);
	free(runner);
	pthread_mutex_lock(&pool->lock);
	unref_and_unlock(pool);
	engine_thread_ends(engine);
	return NULL;
}

static void *run_lane(void *context)
{
	struct runner *runner = context;
	struct pool *pool = runner->pool;
	struct engine *engine = pool->engine;

	pthread_mutex_lock(&pool->lock);
	lane_run(runner->lane);
	TAILQ_REMOVE(&pool->lanes, runner, link);
	pool->lane_count--;
	pthread_mutex_unlock(&pool->lock);
	lane_free(runner->lane);
	free(runner);
	pthread_mutex_lock(&pool->lock);
	unref_and_unlock(pool);
	engine_thread_ends(engine);
	return NULL;
}

static void *run_holes(void *context)
{
	struct pool *pool = context;
	struct engine *engine = pool->engine;

	pthread_mutex_lock(&pool->lock);
	holes_run(&pool->holes);
	unref_and_unlock(pool);
	engine_thread_ends(engine);
	return NULL;
}

/* Start a thread that holds a reference.  Returns 0 or a negative errno. */
static int start_locked(struct pool *pool, void *(*run)(void *), void *context)
{
	int ret;

	pool->refs++;
	ret = engine_start_thread(pool->engine, run, context);
	if (ret < 0)
		pool->refs--;
	return ret;
}

/* Who reads all of a thin image is better told where there is nothing. */
static void look_for_holes_locked(struct pool *pool, const struct member *member)
{
	uint64_t allocated = pool->image->allocated;
	int ret;

	if (!member->runs || member->position - member->run_start < HOLES_AFTER ||
	    allocated >= pool->image->size ||
	    pool->image->size - allocated < ZEROS_SIZE || pool->closed)
		return;
	if (!holes_want(&pool->holes, member->joined_ms))
		return;
	ret = start_locked(pool, run_holes, pool);
	if (ret < 0)
		holes_fail(&pool->holes, ret);
}

static int open_stream_locked(struct pool *pool, uint64_t start,
			      struct stream **ret_stream)
{
	struct runner *runner = calloc(1, sizeof(*runner));
	int ret;

	if (!runner)
		return -ENOMEM;
	runner->pool = pool;
	runner->serial = pool->serial;
	ret = stream_new(pool->engine, pool->image, start, &pool->lock, &pool->owner,
			 &runner->stream);
	if (!ret)
		ret = start_locked(pool, run_stream, runner);
	if (ret < 0) {
		stream_free(runner->stream);
		free(runner);
		return ret;
	}
	if (pool->holes.extents)
		stream_set_extents(runner->stream, pool->holes.extents);
	TAILQ_INSERT_HEAD(&pool->streams, runner, link);
	pool->stream_count++;
	*ret_stream = runner->stream;
	return 0;
}

static int open_lane_locked(struct pool *pool, struct lane **ret_lane)
{
	struct runner *runner = calloc(1, sizeof(*runner)), *older;
	int ret;

	if (!runner)
		return -ENOMEM;
	runner->pool = pool;
	runner->serial = pool->serial;
	ret = lane_new(pool->engine, pool->image, &pool->lock, &pool->owner,
		       &runner->lane);
	if (!ret)
		ret = start_locked(pool, run_lane, runner);
	if (ret < 0) {
		lane_free(runner->lane);
		free(runner);
		return ret;
	}
	/* It does for everybody; those that were made for who came before go. */
	TAILQ_FOREACH (older, &pool->lanes, link) {
		if (!pool->image->immutable && older->serial < runner->serial)
			lane_retire(older->lane);
	}
	TAILQ_INSERT_HEAD(&pool->lanes, runner, link);
	pool->lane_count++;
	*ret_lane = runner->lane;
	return 0;
}

/* Make a place for a new stream.  Returns whether there is one. */
static bool make_place_locked(struct pool *pool)
{
	size_t most = MIN((size_t)STREAMS_MOST, STREAMS_MAX * pool->member_count);
	struct runner *runner, *oldest = NULL;
	uint64_t since, oldest_since = UINT64_MAX;

	if (pool->stream_count < most)
		return true;
	TAILQ_FOREACH (runner, &pool->streams, link) {
		if (stream_unused(runner->stream, &since) && since < oldest_since) {
			oldest = runner;
			oldest_since = since;
		}
	}
	if (oldest)
		stream_end(oldest->stream, 0);
	/* Those that end go soon; some more may be there until they are gone. */
	return oldest && pool->stream_count < 2 * most;
}

/* ---- reads ---- */

/* A stream that reads runs like the last ones of @member ahead, from @start on, or NULL. */
static struct stream *begin_runs_locked(struct pool *pool, const struct member *member,
					uint64_t start)
{
	struct stream *stream = NULL;
	struct runner *runner;

	TAILQ_FOREACH (runner, &pool->streams, link) {
		if (is_good_for(runner, member) && stream_rests(runner->stream)) {
			stream = runner->stream;
			break;
		}
	}
	if (!stream && make_place_locked(pool))
		open_stream_locked(pool, start, &stream);
	if (stream)
		stream_set_runs(stream, start, member->length, member->stride);
	return stream;
}

/* Choose a stream for a read that none has.  NULL: none fits, it is for a lane. */
static struct stream *choose_stream_locked(struct pool *pool, struct member *member,
					   const struct read *read)
{
	bool begins = !read->offset && !pool->begun;
	bool ends = pool->doubt && read->offset + read->size == pool->image->size;
	struct stream *stream = NULL;
	struct runner *runner;
	uint64_t start;
	bool strides;

	TAILQ_FOREACH (runner, &pool->streams, link) {
		if (is_good_for(runner, member) && stream_reaches(runner->stream, read))
			return runner->stream;
	}
	/* Of many, what one asks for himself is what the others have left over. */
	strides = strides_on(member, read, &start) && pool->member_count == 1;
	if (!runs_on(pool, read) && !begins && !ends)
		return strides ? begin_runs_locked(pool, member, start) : NULL;
	pool->begun = pool->begun || begins;
	TAILQ_FOREACH (runner, &pool->streams, link) {
		if (is_good_for(runner, member) && stream_can_skip(runner->stream, read))
			return runner->stream;
	}
	if (make_place_locked(pool) || ends)
		open_stream_locked(pool, read->offset, &stream);
	return stream;
}

/* Choose a lane: the one with the least to do, or another if all have much. */
static int choose_lane_locked(struct pool *pool, const struct member *member,
			      struct lane **ret_lane)
{
	struct runner *runner;
	struct lane *best = NULL;
	int ret = 0;

	TAILQ_FOREACH (runner, &pool->lanes, link) {
		if (is_good_for(runner, member) && lane_is_open(runner->lane) &&
		    (!best || lane_load(runner->lane) < lane_load(best)))
			best = runner->lane;
	}
	if (!best || (lane_load(best) >= LANE_LOAD && pool->lane_count < LANES_MAX))
		ret = open_lane_locked(pool, &best);
	if (!best)
		return ret;
	*ret_lane = best;
	return 0;
}

/*
 * The error that a read is refused with, without trying, or 0.  What has failed the kernel
 * asks for again, page by page: it is told at once.  What came upon the stall limit is
 * refused for some time; anything else once, for the store may be back at any time.
 */
static int refusal_locked(struct pool *pool, const struct member *member,
			  const struct read *read)
{
	uint64_t at_ms = pool->refused.at_ms;
	bool stalled = pool->refused.err == -ETIMEDOUT;

	if (pool->closed)
		return -EIO;
	if (pool->err)
		return pool->err;
	if (!at_ms || member->joined_ms > at_ms || clock_ms() >= at_ms + REFUSAL_MS ||
	    read->offset >= pool->refused.end ||
	    read->offset + read->size <= pool->refused.start)
		return 0;
	if (stalled)
		return -ETIMEDOUT;
	if (read->direct)
		return 0;
	pool->refused.at_ms = 0;
	return pool->refused.err;
}

/* Have the read answered later.  Returns 0 or a negative errno. */
static int park_locked(struct pool *pool, struct member *member, struct read *read)
{
	bool ends = pool->doubt && read->offset + read->size == pool->image->size;
	struct stream *stream;
	struct lane *lane = NULL;
	int ret;

	if (read->given_up)
		return -EINTR;
	stream = choose_stream_locked(pool, member, read);
	read->parked_ms = clock_ms();
	if (stream) {
		count_up(pool, COUNT_PARKED);
		stream_park(stream, read);
		return 0;
	}
	ret = ends ? -ENOMEM : choose_lane_locked(pool, member, &lane);
	if (!ret)
		ret = lane_park(lane, read);
	if (!ret)
		count_up(pool, COUNT_RANDOM);
	return ret;
}

/* Answer the read if a stream has it.  The lock is dropped meanwhile. */
static bool answer_locked(struct pool *pool, const struct member *member,
			  struct read *read)
{
	struct runner *runner;

	TAILQ_FOREACH (runner, &pool->streams, link) {
		if (is_good_for(runner, member) && stream_has(runner->stream, read)) {
			count_up(pool, COUNT_RING);
			stream_answer(runner->stream, read);
			return true;
		}
	}
	return false;
}

/* The pool that this thread asked for something last, or NULL. */
static _Thread_local struct pool *recent;
static _Thread_local bool unflushed;

static void flush_locked(struct pool *pool)
{
	struct runner *runner;

	TAILQ_FOREACH (runner, &pool->lanes, link) {
		if (unflushed)
			lane_flush(runner->lane);
	}
	unflushed = false;
}

void pool_flush(void)
{
	if (!unflushed)
		return;
	pthread_mutex_lock(&recent->lock);
	flush_locked(recent);
	pthread_mutex_unlock(&recent->lock);
}

size_t pool_attend(void)
{
	struct pool *pool = recent;
	struct runner *runner, *next;
	size_t count = 0;

	if (!pool)
		return 0;
	pthread_mutex_lock(&pool->lock);
	flush_locked(pool);
	/* A reply may call pool_rest(). */
	pool_ref_locked(pool);
	for (runner = TAILQ_FIRST(&pool->lanes); runner && !count; runner = next) {
		next = TAILQ_NEXT(runner, link);
		count = lane_attend(runner->lane);
	}
	unref_and_unlock(pool);
	return count;
}

void pool_rest(void)
{
	struct pool *pool = recent;
	struct runner *runner;

	recent = NULL;
	if (!pool)
		return;
	pthread_mutex_lock(&pool->lock);
	flush_locked(pool);
	TAILQ_FOREACH (runner, &pool->lanes, link) {
		lane_unattend(runner->lane);
	}
	unref_and_unlock(pool);
}

void pool_read(struct pool *pool, struct member *member, struct read *read)
{
	struct iovec hole = {(void *)zeros, read->size};
	bool answered = false, is_hole = false;
	struct image *failed = NULL;
	int err;

	if (recent && recent != pool)
		pool_rest();
	pthread_mutex_lock(&pool->lock);
	note_member(member, read);
	look_for_holes_locked(pool, member);
	err = refusal_locked(pool, member, read);
	/* Of a lost version nothing is given, not even what is there. */
	if (!pool->err && !pool->closed) {
		answered = answer_locked(pool, member, read);
		is_hole = !answered && read->size <= ZEROS_SIZE &&
			  holes_cover(&pool->holes, member->joined_ms, read->offset,
				      read->size);
	}
	if (!answered && !is_hole && !err) {
		err = park_locked(pool, member, read);
		if (!err && !recent)
			recent = pool_ref_locked(pool);
		unflushed = unflushed || !err;
		if (err && err != -EINTR)
			failed = image_ref(pool->image);
	}
	if (is_hole) {
		count_up(pool, COUNT_HOLES);
		/* The data behind it is read on. */
		runs_on(pool, read);
	}
	pthread_mutex_unlock(&pool->lock);
	/* From the reply on the pool may be gone. */
	if (failed)
		image_set_error(failed, "no reader can be started: %s", strerror(-err));
	image_unref(failed);
	if (answered)
		return;
	if (is_hole)
		read->reply(read, 0, &hole, 1);
	else if (err)
		read->reply(read, failed ? -EIO : err, NULL, 0);
}

bool pool_cancel(struct pool *pool, const struct read *read)
{
	struct runner *runner;
	bool found = false;

	pthread_mutex_lock(&pool->lock);
	TAILQ_FOREACH (runner, &pool->streams, link) {
		found = found || stream_unpark(runner->stream, read);
	}
	TAILQ_FOREACH (runner, &pool->lanes, link) {
		found = found || lane_unpark(runner->lane, read);
	}
	pthread_mutex_unlock(&pool->lock);
	return found;
}

void pool_seek(struct pool *pool, const struct member *member, struct seek *seek)
{
	int ret;

	seek->since_ms = member->joined_ms;
	pthread_mutex_lock(&pool->lock);
	ret = pool->closed ? -EIO
	      : pool->err  ? pool->err
			   : holes_seek(&pool->holes, seek);
	if (ret > 0) {
		ret = start_locked(pool, run_holes, pool);
		if (ret < 0)
			holes_fail(&pool->holes, ret);
		ret = 0;
	}
	pthread_mutex_unlock(&pool->lock);
	if (ret < 0)
		seek->done(seek, ret, 0);
}

bool pool_cancel_seek(struct pool *pool, const struct seek *seek)
{
	bool found;

	pthread_mutex_lock(&pool->lock);
	found = holes_cancel(&pool->holes, seek);
	pthread_mutex_unlock(&pool->lock);
	return found;
}

uint64_t pool_waiting_since(struct pool *pool)
{
	uint64_t since = UINT64_MAX;
	struct runner *runner;

	pthread_mutex_lock(&pool->lock);
	TAILQ_FOREACH (runner, &pool->streams, link) {
		since = MIN(since, stream_waiting_since(runner->stream));
	}
	TAILQ_FOREACH (runner, &pool->lanes, link) {
		since = MIN(since, lane_waiting_since(runner->lane));
	}
	pthread_mutex_unlock(&pool->lock);
	return since;
}
