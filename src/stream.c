/* SPDX-License-Identifier: MIT */
/*
 * The thread fetches what is wanted; when there is nothing to fetch, or no room, it
 * answers what can be answered, else it waits.  An assistant answers all the while: to
 * give a reply to the kernel is to copy it into memory that is in no cache, which takes
 * longer than all the rest (measured: 1.1 to 1.2 times the rate with one).  Wanted is what
 * somebody waits for, and what is asked for ahead of them.  The asks double as the reading
 * goes on, until one is for all the rest; then the pipe alone holds the store program
 * back.  A new ask is sent when the last one is answered in full, so that what comes
 * unasked is noticed.
 *
 * Who reads much on end, faster than it comes, and alone, is given it past the ring
 * (pass.h): what was sent goes from the program's pipe to the kernel as it is, which saves
 * a copy (measured: 1.3 times the rate).  The ring is filled then only while nobody waits.
 *
 * What was read on end is a run.  Who has read all of one is taken to go on behind the hole
 * that follows, or, where the pool has seen runs come at one distance, that far on: the next
 * run is asked for as soon as the last byte of this one is being given out.
 *
 * The image's last byte is given out only when the program has confirmed with its exit
 * status that all it sent is right; so a copy of the whole image ends well or not at all.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>

#include "cleanup.h"
#include "clock.h"
#include "pass.h"
#include "source.h"
#include "stream.h"
#include "thread.h"

#define KEPT_BEHIND ((size_t)1 << 20) /* the kernel's read-ahead comes out of order */
#define FIRST_ASK \
	((1u << 20) + (128u << 10)) /* a read of 1 MiB, and the read-ahead's \
					       */
#define FETCH_MIN (256u << 10) /* ahead of the readers; less is not worth a call */
#define FETCH_WAITED_MIN (64u << 10) /* while somebody waits */
/*
 * What comes out of order is not far off, measured by its own size; a small read that is
 * further ahead is random, and what lies between would be fetched for nothing.
 */
#define GAP_READS 4
/* So far behind where the stream began reads may go past the ring. */
#define PASS_AFTER (4u << 20)
#define PASS_AGAIN (16u << 20) /* where it did not go well, it is tried again so far on */
#define PASS_REST_MS 2 /* who reads nothing for so long has the ring filled meanwhile */
#define RESTS_MS \
	100 /* who does not read for so long may have his memory given to others */
#define CROSS_AFTER (1u << 20) /* who has read so much on end goes on behind a hole */
#define SLOW_BEGIN_MS 10 /* asks that take so long to begin must be few */

/* Bytes that are being given out: the ring must not drop them. */
struct pin {
	TAILQ_ENTRY(pin) link;
	uint64_t offset;
};

struct stream {
	/* constant */
	struct engine *engine;
	struct image *image;
	pthread_mutex_t *lock;
	struct source *source;
	const struct owner *owner;
	/* the lock guards the rest */
	pthread_cond_t work; /* for the thread */
	pthread_cond_t answers; /* for the assistant */
	struct ring ring;
	struct reads parked; /* in the order of their offsets */
	TAILQ_HEAD(pins, pin) pins;
	struct extents *extents;
	uint64_t start; /* where it began */
	uint64_t given; /* bytes that were given out since it last left data out */
	uint64_t
		run_start; /* where it went on, the last time that it left something out */
	uint64_t runs; /* bytes that lie in front of that, holes and other data apart */
	uint64_t run_length; /* what is read on end, each time; 0: not known */
	int64_t stride; /* and how far it is from one such run to the next */
	uint64_t ahead_from, ahead; /* bytes of the next run that were asked for, alone */
	uint64_t position; /* behind the furthest byte that was given out */
	uint64_t asked_end; /* what was asked for ends here */
	uint64_t last_ask; /* bytes */
	uint64_t used_ms; /* when it was last read from */
	uint64_t held_until_ms; /* room that others hold may be free then; 0: none is */
	struct pass pass; /* what lies behind the head already, in front of the source */
	uint64_t pass_from; /* image offset: from here on bytes may go past the ring */
	bool wide; /* the last read that had to wait was large enough for that */
	bool assisted; /* there is an assistant */
	bool confirmed; /* the program ended well after the image's last byte */
	bool ending;
	int err; /* final, negative */
};

/* Go on at @to, having nothing of what lies before it. */
static void go_to(struct stream *stream, uint64_t to)
{
	stream->ring.kept = stream->ring.head = stream->asked_end = to;
	stream->position = stream->run_start = to;
	stream->confirmed = false;
}

/* Note that the bytes of @read are being given out. */
static void note_given(struct stream *stream, const struct read *read)
{
	stream->position = MAX(stream->position, read->offset + read->size);
	stream->given += read->size;
	stream->used_ms = clock_ms();
}

int stream_new(struct engine *engine, struct image *image, uint64_t start,
	       pthread_mutex_t *lock, const struct owner *owner,
	       struct stream **ret_stream)
{
	struct stream *stream = calloc(1, sizeof(*stream));
	size_t size = engine_stream_begins(engine, image->stats);
	int ret = stream ? ring_init(&stream->ring, size, start) : -ENOMEM;

	if (!ret)
		ret = source_new(engine, image, lock, &stream->source);
	if (ret < 0) {
		engine_stream_ends(engine, image->stats, size);
		if (stream)
			ring_fini(&stream->ring);
		free(stream);
		return ret;
	}
	stream->engine = engine;
	stream->image = image;
	stream->lock = lock;
	stream->owner = owner;
	stream->start = start;
	go_to(stream, start);
	stream->used_ms = clock_ms();
	stream->pass = PASS_INIT;
	stream->pass_from = start + PASS_AFTER;
	TAILQ_INIT(&stream->parked);
	TAILQ_INIT(&stream->pins);
	cond_init(&stream->work);
	cond_init(&stream->answers);
	*ret_stream = stream;
	return 0;
}

void stream_free(struct stream *stream)
{
	if (!stream)
		return;
	assert(TAILQ_EMPTY(&stream->parked) && TAILQ_EMPTY(&stream->pins));
	source_free(stream->source);
	engine_stream_ends(stream->engine, stream->image->stats, stream->ring.size);
	ring_fini(&stream->ring);
	pass_fini(&stream->pass);
	extents_unref(stream->extents);
	pthread_cond_destroy(&stream->answers);
	pthread_cond_destroy(&stream->work);
	free(stream);
}

/* How much of what was read is kept for those who come late. */
static size_t kept_behind(const struct stream *stream)
{
	return MIN(KEPT_BEHIND, stream->ring.size / 4);
}

static uint64_t end_of(const struct read *read)
{
	return read->offset + read->size;
}

bool stream_has(const struct stream *stream, const struct read *read)
{
	return read->offset >= stream->ring.kept && end_of(read) <= stream->ring.head &&
	       (end_of(read) < stream->image->size || stream->confirmed);
}

void stream_answer(struct stream *stream, struct read *read)
{
	struct pin pin = {.offset = read->offset};
	struct iovec iov[2];
	int count = ring_get(&stream->ring, read->offset, read->size, iov);

	note_given(stream, read);
	TAILQ_INSERT_TAIL(&stream->pins, &pin, link);
	pthread_mutex_unlock(stream->lock);
	read->reply(read, 0, iov, count);
	pthread_mutex_lock(stream->lock);
	TAILQ_REMOVE(&stream->pins, &pin, link);
	pthread_cond_signal(&stream->work);
}

/* The end of the last read that waits, or where the reading has come to. */
static uint64_t wanted_end(const struct stream *stream)
{
	uint64_t end = stream->position;
	const struct read *read;

	for (read = TAILQ_FIRST(&stream->parked); read; read = TAILQ_NEXT(read, link))
		end = MAX(end, end_of(read));
	return end;
}

static void pass_later(struct stream *stream)
{
	stream->pass_from = stream->ring.head + PASS_AGAIN;
}

/*
 * Where reading is likely to go on, all of the run that it is in having been given out; or
 * UINT64_MAX.
 */
static uint64_t next_run(const struct stream *stream)
{
	uint64_t head = stream->ring.head, to = UINT64_MAX;

	if (stream->ahead)
		return stream->ahead_from;
	if (head < stream->asked_end ||
	    stream->given < stream->runs + head - stream->run_start)
		return UINT64_MAX;
	if (stream->run_length && head >= stream->run_start + stream->run_length)
		to = stream->run_start + (uint64_t)stream->stride;
	else if (!stream->run_length && stream->extents && stream->given >= CROSS_AFTER &&
		 !stream->owner->shared(stream->owner->context))
		to = extents_data(stream->extents, head);
	return to != head && to < stream->image->size ? to : UINT64_MAX;
}

/* Whether @read is a part of the run that begins at @start. */
static bool is_of_run(const struct stream *stream, const struct read *read,
		      uint64_t start)
{
	uint64_t length = stream->run_length ? stream->run_length : KEPT_BEHIND;

	return read->offset >= start && end_of(read) - start <= length;
}

/* Whether nobody waits for anything but the run at @to. */
static bool may_leave(const struct stream *stream, uint64_t to)
{
	const struct read *read;

	TAILQ_FOREACH (read, &stream->parked, link) {
		if (!is_of_run(stream, read, to))
			return false;
	}
	return true;
}

/* Whether the next read lies so far ahead that what is between is better not fetched. */
static bool must_skip(const struct stream *stream)
{
	const struct read *first = TAILQ_FIRST(&stream->parked);

	return first && stream->ring.head == stream->asked_end &&
	       first->offset > stream->ring.head + kept_behind(stream);
}

bool stream_reaches(struct stream *stream, const struct read *read)
{
	uint64_t head = MAX(stream->ring.head, wanted_end(stream));
	size_t most = stream->ring.size - kept_behind(stream);
	uint64_t next = next_run(stream);

	/* He would have found it in the ring. */
	if (read->offset < stream->ring.kept &&
	    read->offset + KEPT_BEHIND >= stream->ring.kept)
		pass_later(stream);
	if (stream_ended(stream))
		return false;
	if (next != UINT64_MAX && is_of_run(stream, read, next))
		return may_leave(stream, next);
	if (stream->ahead || (next != UINT64_MAX && !TAILQ_EMPTY(&stream->parked)))
		return false;
	/* What lies before where it is about to skip to would have all between be fetched. */
	if (must_skip(stream) && read->offset < TAILQ_FIRST(&stream->parked)->offset &&
	    !stream->owner->shared(stream->owner->context))
		return false;
	return read->offset >= stream->ring.kept &&
	       (read->offset <= head + MIN(most, GAP_READS * read->size) ||
		(stream->run_length && is_of_run(stream, read, stream->run_start)));
}

bool stream_can_skip(const struct stream *stream, const struct read *read)
{
	if (stream_ended(stream) || stream->ahead || !TAILQ_EMPTY(&stream->parked) ||
	    read->offset < stream->ring.head)
		return false;
	/*
	 * With nothing under way it goes anywhere; else what was asked has to come first.
	 */
	return stream->ring.head == stream->asked_end ||
	       read->offset - stream->ring.head <= engine_skip_max(stream->engine);
}

void stream_park(struct stream *stream, struct read *read)
{
	struct read *after = TAILQ_LAST(&stream->parked, reads);
	uint64_t ahead = MAX(stream->ring.head, wanted_end(stream));
	uint64_t skipped = MIN(read->offset, stream->asked_end);

	if (skipped > ahead)
		stats_add(&stream->engine->stats, stream->image->stats, COUNT_SKIPPED,
			  skipped - ahead);
	while (after && after->offset > read->offset)
		after = TAILQ_PREV(after, reads, link);
	if (after)
		TAILQ_INSERT_AFTER(&stream->parked, after, read, link);
	else
		TAILQ_INSERT_HEAD(&stream->parked, read, link);
	stream->used_ms = clock_ms();
	stream->wide = read->pass && read->size >= PASS_MIN;
	pthread_cond_signal(&stream->work);
}

bool stream_unpark(struct stream *stream, const struct read *read)
{
	struct read *parked;

	TAILQ_FOREACH (parked, &stream->parked, link) {
		if (parked == read) {
			TAILQ_REMOVE(&stream->parked, parked, link);
			return true;
		}
	}
	return false;
}

void stream_set_extents(struct stream *stream, struct extents *extents)
{
	extents_unref(stream->extents);
	stream->extents = extents_ref(extents);
}

bool stream_rests(const struct stream *stream)
{
	return stream->run_length && !stream->ahead && !stream_ended(stream) &&
	       TAILQ_EMPTY(&stream->parked) && TAILQ_EMPTY(&stream->pins) &&
	       stream->ring.head == stream->asked_end &&
	       stream->ring.head < stream->image->size;
}

void stream_set_runs(struct stream *stream, uint64_t start, uint64_t length,
		     int64_t stride)
{
	go_to(stream, start);
	stream->given = stream->runs = 0;
	stream->run_length = length;
	stream->stride = stride;
}

bool stream_squeeze(struct stream *stream)
{
	if (stream->ring.size <= engine_fair_ring(stream->engine) ||
	    stream_ended(stream) || !TAILQ_EMPTY(&stream->parked) ||
	    clock_ms() < stream->used_ms + RESTS_MS)
		return false;
	stream_end(stream, 0);
	return true;
}

void stream_look(struct stream *stream)
{
	pthread_cond_signal(&stream->work);
}

void stream_end(struct stream *stream, int err)
{
	stream->ending = true;
	if (!stream->err)
		stream->err = err;
	source_wake(stream->source);
	pthread_cond_signal(&stream->work);
	pthread_cond_signal(&stream->answers);
}

bool stream_ended(const struct stream *stream)
{
	return stream->ending || stream->err;
}

bool stream_unused(const struct stream *stream, uint64_t *ret_since_ms)
{
	if (!TAILQ_EMPTY(&stream->parked) || stream_ended(stream))
		return false;
	*ret_since_ms = stream->used_ms;
	return true;
}

uint64_t stream_waiting_since(const struct stream *stream)
{
	uint64_t since = UINT64_MAX;
	const struct read *read;

	TAILQ_FOREACH (read, &stream->parked, link) {
		since = MIN(since, read->parked_ms);
	}
	return since;
}

uint64_t stream_position(const struct stream *stream)
{
	return stream->position;
}

/* ---- the threads ---- */

/* The first of the reads that wait whose bytes are there, or NULL. */
static struct read *answerable(const struct stream *stream)
{
	struct read *read = TAILQ_FIRST(&stream->parked);

	while (read && !stream_has(stream, read))
		read = TAILQ_NEXT(read, link);
	return read;
}

/* Answer a read whose bytes are there.  Returns whether there was one. */
static bool answer_one(struct stream *stream)
{
	struct read *read = answerable(stream);

	if (!read)
		return false;
	TAILQ_REMOVE(&stream->parked, read, link);
	stream_answer(stream, read);
	return true;
}

static void *be_assistant(void *context)
{
	struct stream *stream = context;

	pthread_mutex_lock(stream->lock);
	while (!stream_ended(stream)) {
		if (!answer_one(stream))
			pthread_cond_wait(&stream->answers, stream->lock);
	}
	pthread_mutex_unlock(stream->lock);
	return NULL;
}

/* Below this nothing may be dropped: somebody waits for it, or is being given it. */
static uint64_t needed_from(const struct stream *stream)
{
	const struct read *first = TAILQ_FIRST(&stream->parked);
	uint64_t from = first ? MIN(first->offset, stream->ring.head) : stream->ring.head;
	const struct pin *pin;

	TAILQ_FOREACH (pin, &stream->pins, link) {
		from = MIN(from, pin->offset);
	}
	return from;
}

/* The same, and what those need who come behind and are not to be left behind. */
static uint64_t kept_from(struct stream *stream)
{
	uint64_t needed = needed_from(stream);
	uint64_t held =
		stream->owner->held_from(stream->owner->context, stream->ring.kept,
					 needed, &stream->held_until_ms);

	return MIN(needed, held);
}

/* Whether somebody waits for bytes that are not there yet. */
static bool is_waited_for(const struct stream *stream)
{
	return !TAILQ_EMPTY(&stream->parked) && wanted_end(stream) > stream->ring.head;
}

/* How much there is that may not be dropped. */
static uint64_t held_ahead(const struct stream *stream)
{
	return stream->ring.head - MIN(needed_from(stream), stream->ring.head);
}

/*
 * Give up memory that others need; or take more, if they leave it and so much was read on
 * end that it will be used.
 */
static void fit_ring(struct stream *stream)
{
	size_t size = stream->ring.size, fair = engine_fair_ring(stream->engine);
	bool grows = fair == stream->engine->ring_size ? fair > size : fair >= 2 * size;
	bool is_long = stream->position - stream->start >= fair;

	if (fair >= size - size / 8 && !(grows && is_long))
		return;
	if (!TAILQ_EMPTY(&stream->pins) || held_ahead(stream) > fair)
		return;
	if (!ring_resize(&stream->ring, fair))
		engine_ring_changes(stream->engine, stream->image->stats, size, fair);
}

/* Drop what nobody needs, so that there is room.  Returns the room. */
static size_t make_room(struct stream *stream)
{
	uint64_t needed = kept_from(stream);
	uint64_t behind =
		stream->position - MIN(stream->position, (uint64_t)kept_behind(stream));

	ring_drop(&stream->ring, MIN(needed, behind));
	/*
	 * What was read is kept for those who come late, but not if others wait for more.
	 */
	if (ring_room(&stream->ring) < FETCH_WAITED_MIN && is_waited_for(stream))
		ring_drop(&stream->ring, needed);
	return ring_room(&stream->ring);
}

/* How much to ask for from @head: at least to @least, at most to the image's end. */
static uint64_t next_ask(const struct stream *stream, uint64_t head, uint64_t least)
{
	uint64_t left = stream->image->size - head;
	uint64_t run_end = stream->run_start + stream->run_length;
	uint64_t length = stream->last_ask ? 2 * stream->last_ask : FIRST_ASK;

	if (stream->last_ask && source_begin_ms(stream->source) >= SLOW_BEGIN_MS)
		length = left;
	if (stream->extents)
		length = MIN(length, extents_hole(stream->extents, head) - head);
	if (stream->run_length)
		length = run_end > head ? MIN(length, run_end - head) : 0;
	if (least > head)
		length = MAX(length, least - head);
	return MIN(length, left);
}

/*
 * What is asked for is fetched; when all of it is there, more is asked for if somebody
 * waits for it, or if the reading has come to the middle of the last ask.
 */
static bool wants_more(const struct stream *stream)
{
	if (stream->ring.head < stream->asked_end || is_waited_for(stream))
		return true;
	return stream->last_ask &&
	       stream->position + stream->last_ask / 2 >= stream->asked_end &&
	       next_ask(stream, stream->ring.head, 0);
}

/* Go on where the next read begins.  Returns false if bytes are being given out. */
static bool skip(struct stream *stream)
{
	if (!TAILQ_EMPTY(&stream->pins))
		return false;
	go_to(stream, TAILQ_FIRST(&stream->parked)->offset);
	stream->given = stream->runs = 0;
	return true;
}

static void fail(struct stream *stream, int err)
{
	const struct read *first = TAILQ_FIRST(&stream->parked);
	uint64_t start = first ? first->offset : stream->ring.head;

	if (!stream->err)
		stream->err = err;
	stream->owner->failed(stream->owner->context, err, source_is_lost(stream->source),
			      start, MAX(start, wanted_end(stream)));
}

/*
 * See that what comes next, from @head, was asked for.  Returns 0, or the final error.
 */
static int ask(struct stream *stream, uint64_t head)
{
	uint64_t length;

	if (head < stream->asked_end)
		return 0;
	length = next_ask(stream, head, wanted_end(stream));
	stream->asked_end = head + length;
	stream->last_ask = length;
	return source_ask(stream->source, head, length);
}

/* Whether the reading is such that its bytes go past the ring as long as they are waited for. */
static bool is_passing(const struct stream *stream)
{
	return stream->wide && !stream->run_length && !stream->pass.gathered &&
	       stream->position >= stream->pass_from &&
	       !stream->owner->shared(stream->owner->context);
}

/* Whether nobody else needs what @read, the first that waits, is to be given. */
static bool is_apart(const struct stream *stream, const struct read *read)
{
	const struct read *next = TAILQ_NEXT(read, link);

	return TAILQ_EMPTY(&stream->pins) && (!next || next->offset >= end_of(read));
}

/* Whether all of the first read that waits is yet to come, and may go past the ring. */
static bool can_pass(const struct stream *stream)
{
	const struct read *read = TAILQ_FIRST(&stream->parked);

	return is_passing(stream) && read && read->pass && read->size >= PASS_MIN &&
	       read->offset == stream->ring.head && end_of(read) < stream->image->size &&
	       is_apart(stream, read);
}

/* Whether the reply that was gathered can be given out. */
static bool is_still_first(const struct stream *stream)
{
	const struct read *read = TAILQ_FIRST(&stream->parked);

	return !stream_ended(stream) && read &&
	       pass_is_of(&stream->pass, read->header, read->header_size) &&
	       is_apart(stream, read);
}

/* Give out what was gathered for @read, the first that waits. */
static void give_out(struct stream *stream, struct read *read)
{
	uint64_t start = read->offset;
	int ret;

	TAILQ_REMOVE(&stream->parked, read, link);
	stream->ring.kept = stream->ring.head = end_of(read);
	note_given(stream, read);
	pthread_mutex_unlock(stream->lock);
	ret = read->pass(read, stream->pass.fds[0]);
	pthread_mutex_lock(stream->lock);
	if (!ret) {
		pass_done(&stream->pass);
		stats_add(&stream->engine->stats, stream->image->stats, COUNT_PASSED, 1);
		return;
	}
	/* The kernel is short of memory for it. */
	pass_later(stream);
	stream->ring.kept = stream->ring.head = start;
	TAILQ_INSERT_HEAD(&stream->parked, read, link);
	if (!pass_is_whole(&stream->pass))
		fail(stream, -EIO);
}

/*
 * Have the first read's bytes go to the kernel from pipe to pipe.  If that does not come
 * about, what was gathered is in front of the source.  The lock is dropped meanwhile.
 */
static void pass_on(struct stream *stream)
{
	struct read *read = TAILQ_FIRST(&stream->parked);
	uint64_t start = read->offset;
	size_t size = read->size;
	ssize_t n = 1;

	if (pass_begin(&stream->pass, read->header, read->header_size, size) < 0) {
		pass_later(stream);
		return;
	}
	/* Meanwhile it may be taken back, and others may come who need what there is. */
	while (n > 0 && stream->pass.gathered < size && is_still_first(stream)) {
		n = ask(stream, start + stream->pass.gathered);
		if (!n)
			n = source_splice(stream->source, stream->pass.fds[1],
					  size - stream->pass.gathered);
		if (n > 0)
			stream->pass.gathered += (size_t)n;
	}
	if (n == -ENOBUFS)
		pass_later(stream);
	else if (n < 0 && n != -ECANCELED)
		fail(stream, (int)n);
	else if (stream->pass.gathered == size && is_still_first(stream))
		give_out(stream, TAILQ_FIRST(&stream->parked));
}

/*
 * How much of @room is to be fetched.  If bytes are to go past the ring it is what a read
 * lacks of which the ring has a part; and nothing while those before it are answered, or
 * when nobody waits, for the next one may come at any moment.
 */
static size_t fetch_size(const struct stream *stream, size_t room)
{
	const struct read *read = TAILQ_FIRST(&stream->parked);
	uint64_t head = stream->ring.head;
	bool answers = !TAILQ_EMPTY(&stream->pins) || answerable(stream);

	if (!is_passing(stream))
		return room;
	while (read && end_of(read) <= head)
		read = TAILQ_NEXT(read, link);
	if (!read)
		return clock_ms() < stream->used_ms + PASS_REST_MS ? 0 : room;
	if (read->offset < head)
		return MIN(room, (size_t)(end_of(read) - head));
	return read->offset == head && answers ? 0 : room;
}

/* Fetch @room bytes at most into the ring.  The lock is dropped meanwhile. */
static void fetch(struct stream *stream, size_t room)
{
	struct iovec iov[2];
	int count = ring_space(&stream->ring, room, iov);
	ssize_t n = ask(stream, stream->ring.head);

	if (!n && stream->pass.gathered)
		n = pass_readv(&stream->pass, iov, count);
	else if (!n)
		n = source_readv(stream->source, iov, count, UINT64_MAX);
	if (n > 0)
		ring_put(&stream->ring, (size_t)n);
	else if (n != -ECANCELED)
		fail(stream, (int)n);
}

/* The image's end is there: have the program confirm it. */
static void finish(struct stream *stream)
{
	uint64_t last = stream->image->size - 1;
	int ret = source_finish(stream->source);

	if (!ret) {
		stream->confirmed = true;
		stream->owner->ended(stream->owner->context, true);
	} else if (ret == -EAGAIN) {
		/* The last byte was not given out yet, so it can be fetched again. */
		ring_rewind(&stream->ring, last);
		stream->asked_end = last;
	} else if (ret != -ECANCELED) {
		stream->owner->ended(stream->owner->context, false);
		fail(stream, ret);
	}
}

/*
 * Wait for something to do, but not for ever: an idle stream ends.  If it only @rests there
 * will be something soon.
 */
static void wait_for_work(struct stream *stream, bool rests)
{
	uint64_t deadline = stream->used_ms + stream->engine->idle_ms;

	if (stream->held_until_ms)
		deadline = MIN(deadline, stream->held_until_ms);
	if (rests) {
		uint64_t soon = clock_ms() + 1;

		soon = MAX(soon, stream->used_ms + PASS_REST_MS);
		deadline = MIN(deadline, soon);
	}
	if (cond_wait_until(&stream->work, stream->lock, deadline) == -ETIMEDOUT &&
	    TAILQ_EMPTY(&stream->parked) && TAILQ_EMPTY(&stream->pins) &&
	    clock_ms() >= stream->used_ms + stream->engine->idle_ms)
		stream->ending = true;
}

/*
 * Go on at @to before that is read.  What is being given out is waited for, but the program
 * has the next ask meanwhile.
 */
static void go_ahead(struct stream *stream, uint64_t to)
{
	int ret = 0;

	if (!stream->ahead) {
		stream->ahead_from = to;
		stream->ahead = stream->run_length ? MIN(stream->run_length,
							 stream->image->size - to)
						   : next_ask(stream, to, 0);
		ret = source_ask(stream->source, to, stream->ahead);
	}
	if (ret < 0) {
		fail(stream, ret);
	} else if (!TAILQ_EMPTY(&stream->pins)) {
		wait_for_work(stream, false);
	} else {
		stream->runs += stream->ring.head - stream->run_start;
		stream->given = stream->runs; /* what was read twice counts once */
		go_to(stream, to);
		stream->asked_end = to + stream->ahead;
		stream->last_ask = stream->ahead;
		stream->ahead = 0;
	}
}

/* Fetch what is wanted, or see to the rest. */
static void fetch_or_wait(struct stream *stream, size_t room)
{
	uint64_t left = stream->image->size - stream->ring.head;
	size_t least = is_waited_for(stream) ? FETCH_WAITED_MIN : FETCH_MIN;
	bool wants = wants_more(stream) && room >= MIN((uint64_t)least, left);
	size_t size = wants ? fetch_size(stream, room) : 0;

	if (size)
		fetch(stream, size);
	else if (!answer_one(stream))
		wait_for_work(stream, wants);
}

static void step(struct stream *stream)
{
	uint64_t left = stream->image->size - stream->ring.head;
	uint64_t to = next_run(stream);
	size_t room;

	if (to != UINT64_MAX && may_leave(stream, to)) {
		go_ahead(stream, to);
		return;
	}
	fit_ring(stream);
	room = make_room(stream);
	if (answerable(stream)) {
		if (!stream->assisted) {
			answer_one(stream);
			return;
		}
		pthread_cond_signal(&stream->answers);
	}
	if (!left && !stream->confirmed)
		finish(stream);
	else if (must_skip(stream) && !skip(stream))
		wait_for_work(stream, false);
	else if (can_pass(stream))
		pass_on(stream);
	else
		fetch_or_wait(stream, room);
}

void stream_run(struct stream *stream)
{
	struct reads failed = TAILQ_HEAD_INITIALIZER(failed);
	pthread_t assistant;

	stream->assisted = !thread_start(be_assistant, stream, &assistant);
	while (!stream_ended(stream))
		step(stream);
	stream->ending = true;
	TAILQ_CONCAT(&failed, &stream->parked, link);
	pthread_cond_signal(&stream->answers);
	pthread_mutex_unlock(stream->lock);
	reads_fail(&failed, stream->err ? stream->err : -EIO);
	if (stream->assisted)
		pthread_join(assistant, NULL);
	pthread_mutex_lock(stream->lock);
	while (!TAILQ_EMPTY(&stream->pins))
		pthread_cond_wait(&stream->work, stream->lock);
}
