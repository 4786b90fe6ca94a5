/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>

#include "cleanup.h"
#include "imagefs-store.h"
#include "rbd-guard.h"
#include "serve.h"

#define MS INT64_C(1000000)
#define LEASE_NS (20 * MS) /* between a mark and the first harm there is more */
#define LOOK_AGAIN_NS (50 * MS) /* while objects go */
#define QUIET_NS (500 * MS) /* when no more go, it was a guest that discards */
#define OLD_NS (3000 * MS) /* objects on their way for so long were left so */
#define FLUX_MS 10000 /* what loses objects for so long is no version any more */

void ceph_guard_init(struct ceph_guard *guard, struct ceph_image *image,
		     struct ceph_done *done)
{
	*guard = (struct ceph_guard){
		.image = image,
		.done = done,
		.status = STORE_OK,
		.good_ns = image->known_ns,
		.void_ns = image->known_ns,
		.map_ns = image->known_ns,
	};
}

void ceph_guard_fini(struct ceph_guard *guard)
{
	ceph_map_fini(&guard->map);
}

static bool is_head(const struct ceph_guard *guard)
{
	return guard->image->snap == CEPH_HEAD;
}

/* Whether there is a map that tells which objects go. */
static bool has_map(const struct ceph_guard *guard)
{
	return is_head(guard) && guard->image->layers.layers[0].has_map;
}

/* Where an object is gone the parent's data shows: no answer is above suspicion then. */
static bool has_parent(const struct ceph_guard *guard)
{
	return guard->image->header.parent.pool >= 0;
}

/* The map cannot be relied upon any more. */
static void drop_map(struct ceph_guard *guard)
{
	guard->image->layers.layers[0].has_map = false;
	guard->image->layers.is_exact = false;
}

/* ---- what the answers to a check mean ---- */

static void end_check(struct ceph_guard *guard, int status)
{
	guard->is_checking = false;
	if (guard->status == STORE_OK)
		guard->status = status;
}

/* The same because of @error, a negative errno; -EFBIG is that the image has shrunk. */
static void fail_check(struct ceph_guard *guard, int error)
{
	int status = STORE_GONE;

	if (guard->status != STORE_OK)
		status = guard->status; /* nobody asks any more */
	else if (error == -EFBIG)
		store_error("the image with the id %s has shrunk", guard->image->id);
	else
		status = ceph_image_fail(guard->image, "cannot look after the image",
					 error);
	end_check(guard, status);
}

/* The version was there when the check began, and there is no doubt of it. */
static void pass(struct ceph_guard *guard)
{
	guard->good_ns = guard->began_ns;
	guard->void_ns = guard->began_ns;
	guard->flux_ns = 0;
	guard->again_ns = 0;
	end_check(guard, STORE_OK);
}

/* Objects that were there when the image was opened. */
struct losses {
	uint64_t gone;
	uint64_t going;
	uint64_t going_before; /* were on their way when it was opened, and still are */
};

static struct losses count_losses(const struct ceph_map *was, const struct ceph_map *now)
{
	struct losses losses = {0};

	for (uint64_t i = 0; i < was->count; i++) {
		enum ceph_object before = ceph_map_get(was, i);
		enum ceph_object after = ceph_map_get(now, i);

		if (before == OBJECT_NONE)
			continue;
		losses.gone += after == OBJECT_NONE;
		if (after == OBJECT_PENDING && before == OBJECT_PENDING)
			losses.going_before++;
		else if (after == OBJECT_PENDING)
			losses.going++;
	}
	return losses;
}

/* What is gone was discarded: from now on that is how the image is. */
static void accept_losses(struct ceph_map *was, const struct ceph_map *now)
{
	for (uint64_t i = 0; i < was->count; i++)
		if (ceph_map_get(now, i) == OBJECT_NONE)
			was->bits[i / 4] &= ~(3 << (6 - i % 4 * 2));
}

/* Whether what is lost has been so for long enough to be taken for how the image is. */
static bool is_settled(struct ceph_guard *guard, const struct losses *losses)
{
	if (guard->flux_ns == 0 || losses->gone != guard->missing)
		guard->change_ns = guard->began_ns;
	if (guard->flux_ns == 0)
		guard->flux_ns = guard->began_ns;
	guard->missing = losses->gone;
	if (guard->began_ns - guard->flux_ns >= OLD_NS)
		guard->is_pending_old = true;
	return losses->going == 0 &&
	       (losses->going_before == 0 || guard->is_pending_old) &&
	       (losses->gone == 0 || guard->began_ns - guard->change_ns >= QUIET_NS);
}

/* The header is as it should be; see what the map says. */
static void judge_map(struct ceph_guard *guard)
{
	struct ceph_map *was = &guard->image->layers.layers[0].map;
	struct losses losses = count_losses(was, &guard->map);
	int64_t limit_ns = MIN((int64_t)ceph_stall_ms() / 3, FLUX_MS) * MS;

	if (guard->is_pending_old)
		losses.going_before = 0;
	if (losses.gone + losses.going + losses.going_before == 0) {
		pass(guard);
	} else if (is_settled(guard, &losses)) {
		accept_losses(was, &guard->map);
		pass(guard);
	} else if (guard->began_ns - guard->flux_ns > limit_ns) {
		store_error("objects of the image with the id %s go all the time",
			    guard->image->id);
		end_check(guard, STORE_GONE);
	} else {
		if (!has_parent(guard))
			guard->good_ns = guard->began_ns;
		guard->again_ns = guard->began_ns + LOOK_AGAIN_NS;
		end_check(guard, STORE_OK);
	}
}

/* Returns 0, -ENOENT if it is being removed, or another negative errno. */
static int judge_snap(const struct cls_call *call)
{
	struct ceph_snap snap;
	int error = ceph_snap_decode(call->output, call->size, &snap);

	if (error < 0)
		return error;
	ceph_snap_fini(&snap);
	return snap.kind == SNAP_TRASH ? -ENOENT : 0;
}

/* Returns 0, -EFBIG if the image has shrunk, or another negative errno. */
static int judge_head(struct ceph_guard *guard, const struct cls_call calls[2])
{
	struct wire size = wire_of(calls[0].output, calls[0].size);
	struct wire flags = wire_of(calls[1].output, calls[1].size);
	uint64_t bytes;

	(void)wire_u8(&size); /* the order */
	bytes = wire_u64(&size);
	if (size.is_bad)
		return -EBADMSG;
	if (bytes < guard->image->header.size)
		return -EFBIG;
	if (has_map(guard) && (wire_u64(&flags) & RBD_FLAG_OBJECT_MAP_INVALID))
		drop_map(guard);
	return 0;
}

/* Take the map that was asked for.  Returns 0 or a negative errno. */
static int take_map(struct ceph_guard *guard)
{
	const struct cls_call *call = &guard->map_op.calls[0];
	struct ceph_map map;
	int error = guard->map_op.result;

	if (error == 0)
		error = ceph_map_decode(call->output, call->size, &map);
	if (error == -ENOENT) {
		/* The image has been told to be without. */
		drop_map(guard);
		return 0;
	}
	if (error < 0)
		return error;
	ceph_map_fini(&guard->map);
	guard->map = map;
	guard->map_ns = guard->began_ns;
	return 0;
}

/* All answers have come. */
static void judge(struct ceph_guard *guard)
{
	struct cls_op *op = &guard->header_op;
	int error = op->result;

	if (error == 0)
		error = is_head(guard) ? judge_head(guard, op->calls)
				       : judge_snap(&op->calls[0]);
	if (error == 0 && guard->has_map_op)
		error = take_map(guard);
	if (error < 0) {
		fail_check(guard, error);
	} else if (guard->has_map_op && has_map(guard)) {
		judge_map(guard);
	} else if (has_map(guard)) {
		/* Nothing was asked about its objects. */
		guard->good_ns = guard->began_ns;
		end_check(guard, STORE_OK);
	} else {
		pass(guard);
	}
	cls_op_fini(&guard->header_op);
	cls_op_fini(&guard->map_op);
}

/* ---- a check: the trash first, then the header and the map ---- */

static void header_done(struct ceph_work *work)
{
	struct ceph_guard *guard = work->owner;

	if (--guard->under_way == 0)
		judge(guard);
}

/* Returns 0 or -ENOMEM. */
static int init_op(struct ceph_guard *guard, struct cls_op *op,
		   void (*finish)(struct ceph_work *work))
{
	int error = cls_op_init(op);

	op->work.done = guard->done;
	op->work.finish = finish;
	op->work.owner = guard;
	return error;
}

static void ask_header(struct ceph_guard *guard)
{
	char name[CEPH_OBJECT_BYTES];
	int error = init_op(guard, &guard->header_op, header_done);

	if (error == 0 && guard->has_map_op)
		error = init_op(guard, &guard->map_op, header_done);
	if (error < 0) {
		cls_op_fini(&guard->header_op);
		fail_check(guard, error);
		return;
	}
	if (is_head(guard)) {
		cls_op_add_number(&guard->header_op, "get_size", CEPH_HEAD, false);
		cls_op_add_number(&guard->header_op, "get_flags", CEPH_HEAD, false);
	} else {
		cls_op_add_number(&guard->header_op, "snapshot_get", guard->image->snap,
				  false);
	}
	guard->under_way = guard->has_map_op ? 2 : 1;
	ceph_header_name(guard->image->id, name);
	cls_op_send(&guard->header_op, guard->image->cluster.pool, name);
	if (!guard->has_map_op)
		return;
	cls_op_add(&guard->map_op, "object_map_load", NULL, 0, false);
	ceph_map_name(guard->image->id, CEPH_HEAD, name);
	cls_op_send(&guard->map_op, guard->image->cluster.pool, name);
}

static void trash_done(struct ceph_work *work)
{
	struct ceph_guard *guard = work->owner;
	struct cls_op *op = &guard->trash_op;
	bool is_removed = false;
	int error = op->result;

	if (error == 0)
		error = ceph_trash_decode(op->calls[0].output, op->calls[0].size,
					  &is_removed);
	else if (error == -ENOENT || error == -EPERM)
		error = 0;
	cls_op_fini(op);
	if (is_removed)
		error = -ENOENT;
	if (error == 0)
		ask_header(guard);
	else
		fail_check(guard, error);
}

/* Begin a check, unless one is under way or all is over. */
static void check(struct ceph_guard *guard, bool is_map_wanted)
{
	int error;

	if (guard->is_checking || guard->status != STORE_OK)
		return;
	guard->is_checking = true;
	guard->began_ns = ceph_now_ns();
	guard->has_map_op = has_map(guard) && (is_map_wanted || has_parent(guard));
	if (!is_head(guard)) {
		ask_header(guard);
		return;
	}
	error = init_op(guard, &guard->trash_op, trash_done);
	if (error < 0) {
		fail_check(guard, error);
		return;
	}
	cls_op_add_string(&guard->trash_op, "trash_get", guard->image->id, false);
	cls_op_send(&guard->trash_op, guard->image->cluster.pool, "rbd_trash");
}

void ceph_guard_stop(struct ceph_guard *guard)
{
	if (guard->status == STORE_OK)
		guard->status = STORE_IO;
}

bool ceph_guard_allows(struct ceph_guard *guard, int64_t since_ns, bool is_void)
{
	if (is_void ? guard->void_ns >= since_ns : guard->good_ns >= since_ns - LEASE_NS)
		return true;
	/* While objects go, it is looked at them from time to time. */
	if (guard->again_ns == 0 || (!is_void && !has_parent(guard)))
		check(guard, is_void);
	return false;
}

bool ceph_guard_map(struct ceph_guard *guard, int64_t since_ns)
{
	if (!has_map(guard) || guard->map_ns >= since_ns)
		return true;
	check(guard, true);
	return false;
}

bool ceph_guard_may_exist(const struct ceph_guard *guard, uint64_t number)
{
	const struct ceph_map *was = &guard->image->layers.layers[0].map;

	if (!has_map(guard))
		return true;
	return ceph_map_get(guard->map.bits ? &guard->map : was, number) != OBJECT_NONE;
}

void ceph_guard_prepare(struct ceph_guard *guard)
{
	if (guard->again_ns == 0 && ceph_now_ns() - guard->good_ns > LEASE_NS / 2)
		check(guard, false);
}

int64_t ceph_guard_step(struct ceph_guard *guard)
{
	if (guard->again_ns == 0 || guard->is_checking)
		return INT64_MAX;
	if (ceph_now_ns() < guard->again_ns)
		return guard->again_ns;
	guard->again_ns = 0;
	check(guard, true);
	return INT64_MAX;
}

void ceph_guard_wait(struct ceph_guard *guard)
{
	struct pollfd pollfd = {.fd = guard->done->fd, .events = POLLIN};
	int64_t again_ns = ceph_guard_step(guard);
	int timeout_ms = -1;

	if (again_ns < INT64_MAX)
		timeout_ms = (int)MAX((again_ns - ceph_now_ns()) / MS + 1, 0);
	(void)poll(&pollfd, 1, timeout_ms);
	ceph_done_run(guard->done);
}
