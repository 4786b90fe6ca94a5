/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "cleanup.h"
#include "imagefs-store.h"
#include "rbd-flux.h"
#include "rbd-guard.h"
#include "serve.h"

#define MS INT64_C(1000000)
#define LEASE_NS (20 * MS) /* between a mark and the first harm there is more */
#define LOOK_AGAIN_NS (50 * MS) /* while objects go */
#define FLUX_MS 10000 /* what loses objects for so long is no version any more */

/* A check: what is asked, and what is answered. */
struct check {
	int64_t began_ns;
	bool has_map; /* it is asked for */
	struct cls_op trash, header, map;
};

struct ceph_guard {
	struct ceph_image *image;
	pthread_t thread;
	pthread_mutex_t lock; /* guards the rest, and the image's layers */
	pthread_cond_t wanted; /* a check is, or the end */
	pthread_cond_t known; /* how one has ended */
	int status; /* STORE_OK, or the status to exit with: it was said why */
	bool is_wanted;
	bool is_map_wanted;
	bool is_ending;
	struct check *check; /* the one under way, or NULL */
	int64_t good_ns; /* answers with data that came a moment after are good */
	int64_t void_ns; /* answers without that came before are good */
	int64_t map_ns; /* @map is not older */
	struct ceph_map map; /* of the image itself, as read last; or empty */
	struct ceph_flux flux;
};

static bool is_head(const struct ceph_guard *guard)
{
	return guard->image->snap == CEPH_HEAD;
}

static struct ceph_layer *own_layer(const struct ceph_guard *guard)
{
	return &guard->image->layers.layers[0];
}

/* Whether there is a map that tells which objects go. */
static bool has_map(const struct ceph_guard *guard)
{
	return is_head(guard) && own_layer(guard)->has_map;
}

/* Where an object is gone the parent's data shows: no answer is above suspicion then. */
static bool has_parent(const struct ceph_guard *guard)
{
	return guard->image->header.parent.pool >= 0;
}

/* The map cannot be relied upon any more. */
static void drop_map(struct ceph_guard *guard)
{
	own_layer(guard)->has_map = false;
	guard->image->layers.is_exact = false;
}

/* ---- what the answers to a check mean: called with the lock held ---- */

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

/*
 * Of a pool that was removed all objects seem not to be there.  Whoever is told so has a
 * map of the cluster without it by then.  Returns 0 or -EIO.
 */
static int judge_pools(const struct ceph_guard *guard)
{
	const struct ceph_image *image = guard->image;
	const int64_t pools[] = {image->header.data_pool, image->header.parent.pool};
	char name[1];

	for (size_t i = 0; i < ARRAY_SIZE(pools); i++)
		if (pools[i] >= 0 &&
		    rados_pool_reverse_lookup(image->cluster.rados, pools[i], name,
					      sizeof(name)) == -ENOENT)
			return -EIO;
	return 0;
}

/* Take the map that was asked for.  Returns 0 or a negative errno. */
static int take_map(struct ceph_guard *guard, const struct check *check)
{
	const struct cls_call *call = &check->map.calls[0];
	struct ceph_map map;
	int error = check->map.result;

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
	guard->map_ns = check->began_ns;
	return 0;
}

/*
 * Judge all that was answered.  Returns 0, -EAGAIN if nothing is wrong and not all is
 * known, or another negative errno.
 */
static int judge(struct ceph_guard *guard, const struct check *check)
{
	const struct cls_op *header = &check->header;
	int64_t limit_ns;
	int error = header->result;

	if (error == 0)
		error = is_head(guard) ? judge_head(guard, header->calls)
				       : judge_snap(&header->calls[0]);
	if (error == 0 && has_parent(guard))
		error = ceph_overlap_check(&header->calls[header->count - 1],
					   guard->image->header.overlap);
	if (error == 0)
		error = judge_pools(guard);
	if (error == 0 && check->has_map)
		error = take_map(guard, check);
	if (error < 0 || !has_map(guard))
		return error;
	if (!check->has_map)
		return -EAGAIN;
	limit_ns = MIN((int64_t)ceph_stall_ms() / 3, FLUX_MS) * MS;
	return ceph_flux_judge(&guard->flux, &own_layer(guard)->map, &guard->map,
			       check->began_ns, limit_ns);
}

/* Say that it is over, because of @error.  Returns the status to exit with. */
static int tell(const struct ceph_guard *guard, int error)
{
	const struct ceph_image *image = guard->image;

	switch (error) {
	case -EFBIG:
		store_error("the image with the id %s has shrunk", image->id);
		return STORE_GONE;
	case -EXDEV:
		/* The version is the same, and is to be opened anew. */
		store_error("less of the parent of the image with the id %s shows",
			    image->id);
		return STORE_AGAIN;
	case -ESTALE:
		store_error("objects of the image with the id %s go all the time",
			    image->id);
		return STORE_GONE;
	default:
		return ceph_image_fail(image, "look after", error);
	}
}

/* Let those know who wait. */
static void conclude(struct ceph_guard *guard, const struct check *check, int error)
{
	bool is_in_doubt = error == -EAGAIN;

	if (error == 0 || (is_in_doubt && !has_parent(guard)))
		guard->good_ns = MAX(guard->good_ns, check->began_ns);
	if (error == 0)
		guard->void_ns = check->began_ns;
	else if (!is_in_doubt && !guard->is_ending)
		guard->status = tell(guard, error);
	pthread_cond_broadcast(&guard->known);
}

/* ---- the thread that asks ---- */

/* Returns 0, -ENOENT if the image is being removed, or another negative errno. */
static int ask_trash(struct ceph_guard *guard, struct check *check)
{
	const struct cls_call *call;
	bool is_removed = false;
	int error;

	call = cls_op_add_string(&check->trash, "trash_get", guard->image->id, false);
	cls_op_send(&check->trash, guard->image->cluster.pool, "rbd_trash");
	error = cls_op_wait(&check->trash);
	if (error == 0)
		error = ceph_trash_decode(call->output, call->size, &is_removed);
	else if (error == -ENOENT || error == -EPERM)
		error = 0;
	return is_removed ? -ENOENT : error;
}

static void ask_header(struct ceph_guard *guard, struct check *check)
{
	rados_ioctx_t pool = guard->image->cluster.pool;
	char name[CEPH_OBJECT_BYTES];

	if (is_head(guard)) {
		cls_op_add_number(&check->header, "get_size", CEPH_HEAD, false);
		cls_op_add_number(&check->header, "get_flags", CEPH_HEAD, false);
	} else {
		cls_op_add_number(&check->header, "snapshot_get", guard->image->snap,
				  false);
	}
	if (has_parent(guard))
		cls_op_add_number(&check->header, "parent_overlap_get",
				  guard->image->snap, false);
	ceph_header_name(guard->image->id, name);
	cls_op_send(&check->header, pool, name);
	if (check->has_map) {
		cls_op_add(&check->map, "object_map_load", NULL, 0, false);
		ceph_map_name(guard->image->id, CEPH_HEAD, name);
		cls_op_send(&check->map, pool, name);
		(void)cls_op_wait(&check->map);
	}
	(void)cls_op_wait(&check->header);
}

/*
 * Ask all of @check: the trash first, since what is removed leaves it last.  Called with
 * the lock held, without it meanwhile.
 */
static int ask_locked(struct ceph_guard *guard, struct check *check)
{
	int error = 0;

	pthread_mutex_unlock(&guard->lock);
	if (is_head(guard))
		error = ask_trash(guard, check);
	if (error == 0)
		ask_header(guard, check);
	if (error == 0)
		error = ceph_layers_check(&guard->image->layers);
	pthread_mutex_lock(&guard->lock);
	return error;
}

static void check_locked(struct ceph_guard *guard)
{
	struct check check = {
		.began_ns = ceph_now_ns(),
		.has_map = has_map(guard) && (guard->is_map_wanted ||
					      guard->flux.since_ns || has_parent(guard)),
	};
	int error = -ENOMEM;

	guard->is_wanted = false;
	guard->is_map_wanted = false;
	if (cls_op_init(&check.trash) == 0 && cls_op_init(&check.header) == 0 &&
	    cls_op_init(&check.map) == 0) {
		guard->check = &check;
		error = ask_locked(guard, &check);
		guard->check = NULL;
		if (error == 0)
			error = judge(guard, &check);
	}
	conclude(guard, &check, error);
	cls_op_fini(&check.trash);
	cls_op_fini(&check.header);
	cls_op_fini(&check.map);
}

/* Wait for the time to look again at objects that go. */
static void pause_locked(struct ceph_guard *guard)
{
	int64_t until_ns = ceph_now_ns() + LOOK_AGAIN_NS;
	struct timespec until = {until_ns / 1000000000, until_ns % 1000000000};

	while (!guard->is_ending && ceph_now_ns() < until_ns)
		pthread_cond_timedwait(&guard->wanted, &guard->lock, &until);
}

static void *run(void *context)
{
	struct ceph_guard *guard = context;

	pthread_mutex_lock(&guard->lock);
	while (!guard->is_ending && guard->status == STORE_OK) {
		if (guard->flux.since_ns)
			pause_locked(guard);
		if (guard->is_ending)
			break;
		if (guard->is_wanted || guard->flux.since_ns)
			check_locked(guard);
		else
			pthread_cond_wait(&guard->wanted, &guard->lock);
	}
	pthread_mutex_unlock(&guard->lock);
	return NULL;
}

int ceph_guard_new(struct ceph_image *image, struct ceph_guard **ret_guard)
{
	struct ceph_guard *guard = calloc(1, sizeof(*guard));
	pthread_condattr_t attr;
	int error;

	if (!guard)
		return -ENOMEM;
	guard->image = image;
	guard->status = STORE_OK;
	guard->good_ns = guard->void_ns = guard->map_ns = image->known_ns;
	/* What an object of an image itself has is that image's, till it has no more. */
	if (is_head(guard) && !has_parent(guard))
		guard->good_ns = INT64_MAX;
	pthread_mutex_init(&guard->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&guard->wanted, &attr);
	pthread_cond_init(&guard->known, &attr);
	pthread_condattr_destroy(&attr);
	error = pthread_create(&guard->thread, NULL, run, guard);
	if (error) {
		free(guard);
		return -error;
	}
	*ret_guard = guard;
	return 0;
}

void ceph_guard_free(struct ceph_guard *guard)
{
	if (!guard)
		return;
	pthread_mutex_lock(&guard->lock);
	guard->is_ending = true;
	pthread_cond_broadcast(&guard->wanted);
	pthread_mutex_unlock(&guard->lock);
	pthread_join(guard->thread, NULL);
	ceph_map_fini(&guard->map);
	pthread_cond_destroy(&guard->known);
	pthread_cond_destroy(&guard->wanted);
	pthread_mutex_destroy(&guard->lock);
	free(guard);
}

/* ---- what others ask ---- */

/* Want a check that begins at @since_ns or later, with the map if @with_map. */
static void want_locked(struct ceph_guard *guard, int64_t since_ns, bool with_map)
{
	const struct check *check = guard->check;

	if (check && check->began_ns >= since_ns && (check->has_map || !with_map))
		return;
	guard->is_wanted = true;
	guard->is_map_wanted = guard->is_map_wanted || with_map;
	pthread_cond_signal(&guard->wanted);
}

int ceph_guard_wait(struct ceph_guard *guard, int64_t since_ns, bool is_void)
{
	const int64_t *known_ns = is_void ? &guard->void_ns : &guard->good_ns;
	int status;

	if (!is_void)
		since_ns -= LEASE_NS;
	pthread_mutex_lock(&guard->lock);
	while (guard->status == STORE_OK && *known_ns < since_ns) {
		want_locked(guard, since_ns, is_void && has_map(guard));
		pthread_cond_wait(&guard->known, &guard->lock);
	}
	status = guard->status;
	pthread_mutex_unlock(&guard->lock);
	return status;
}

bool ceph_guard_knows(struct ceph_guard *guard, int64_t since_ns, bool is_void)
{
	bool is_known;

	pthread_mutex_lock(&guard->lock);
	is_known = guard->status == STORE_OK &&
		   (is_void ? guard->void_ns >= since_ns
			    : guard->good_ns >= since_ns - LEASE_NS);
	pthread_mutex_unlock(&guard->lock);
	return is_known;
}

void ceph_guard_prepare(struct ceph_guard *guard)
{
	int64_t since_ns = ceph_now_ns() - LEASE_NS / 2;

	pthread_mutex_lock(&guard->lock);
	if (guard->good_ns < since_ns)
		want_locked(guard, since_ns, false);
	pthread_mutex_unlock(&guard->lock);
}

/* Have the map be as it was at @since_ns or later.  Returns whether it is. */
static bool renew_map_locked(struct ceph_guard *guard, int64_t since_ns, bool may_wait)
{
	while (may_wait && guard->status == STORE_OK && has_map(guard) &&
	       guard->map_ns < since_ns) {
		want_locked(guard, since_ns, true);
		pthread_cond_wait(&guard->known, &guard->lock);
	}
	return has_map(guard) && guard->map_ns >= since_ns;
}

/* Whether there may be an object @number of the image itself, as is known. */
static bool may_exist(const struct ceph_guard *guard, uint64_t number)
{
	const struct ceph_map *map =
		guard->map.bits ? &guard->map : &own_layer(guard)->map;

	return !own_layer(guard)->has_map || ceph_map_get(map, number) != OBJECT_NONE;
}

/* The end of the objects of the image itself that are there, or not, from @offset on. */
static uint64_t end_of_same(const struct ceph_guard *guard, uint64_t offset,
			    uint64_t limit)
{
	unsigned order = guard->image->header.order;
	bool exists = may_exist(guard, offset >> order);

	do
		offset = ((offset >> order) + 1) << order;
	while (offset < limit && may_exist(guard, offset >> order) == exists);
	return MIN(offset, limit);
}

enum ceph_place ceph_guard_find(struct ceph_guard *guard, uint64_t offset, uint64_t limit,
				int64_t since_ns, bool may_wait, uint64_t *ret_end)
{
	const struct ceph_image *image = guard->image;
	enum ceph_place place = PLACE_DATA;
	uint64_t end;

	pthread_mutex_lock(&guard->lock);
	if (!ceph_layers_find(&image->layers, offset, limit, &end) &&
	    (!is_head(guard) || renew_map_locked(guard, since_ns, may_wait)))
		place = PLACE_HOLE;
	if (place == PLACE_HOLE && is_head(guard) &&
	    may_exist(guard, offset >> image->header.order))
		place = PLACE_DATA;
	if (place == PLACE_HOLE && is_head(guard))
		end = end_of_same(guard, offset, end);
	if (place == PLACE_DATA && has_parent(guard) && offset < image->header.overlap &&
	    !may_exist(guard, offset >> image->header.order))
		place = PLACE_PARENT;
	if (place != PLACE_HOLE)
		end = MIN(end, ((offset >> image->header.order) + 1)
				       << image->header.order);
	pthread_mutex_unlock(&guard->lock);
	*ret_end = end;
	return place;
}
