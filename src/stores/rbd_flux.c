/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "rbd-flux.h"

#define MS INT64_C(1000000)
#define QUIET_NS (500 * MS) /* when no more go, it was a guest that discards */
#define OLD_NS (3000 * MS) /* what was going for so long was left so by somebody */

struct losses {
	uint64_t gone;
	uint64_t going;
	uint64_t going_before; /* were on their way from the first, and still are */
};

static struct losses count_losses(const struct ceph_map *was, const struct ceph_map *now)
{
	struct losses losses = {0};

	for (uint64_t i = 0; i < was->count; i++) {
		enum ceph_object before, after;

		/* Four at once, where there were none: a thin image has millions. */
		if (i % 4 == 0 && !was->bits[i / 4]) {
			i += 3;
			continue;
		}
		before = ceph_map_get(was, i);
		after = ceph_map_get(now, i);
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
		if (was->bits[i / 4] && ceph_map_get(now, i) == OBJECT_NONE)
			was->bits[i / 4] &= ~(3 << (6 - i % 4 * 2));
}

int ceph_flux_judge(struct ceph_flux *flux, struct ceph_map *was,
		    const struct ceph_map *now, int64_t now_ns, int64_t limit_ns)
{
	struct losses losses = count_losses(was, now);

	if (flux->is_old)
		losses.going_before = 0;
	if (losses.gone + losses.going + losses.going_before == 0) {
		flux->since_ns = 0;
		return 0;
	}
	if (flux->since_ns == 0 || losses.gone != flux->gone)
		flux->change_ns = now_ns;
	if (flux->since_ns == 0)
		flux->since_ns = now_ns;
	flux->gone = losses.gone;
	if (now_ns - flux->since_ns >= OLD_NS)
		flux->is_old = true;
	if (losses.going == 0 && (losses.going_before == 0 || flux->is_old) &&
	    (losses.gone == 0 || now_ns - flux->change_ns >= QUIET_NS)) {
		accept_losses(was, now);
		flux->since_ns = 0;
		return 0;
	}
	return now_ns - flux->since_ns > limit_ns ? -ESTALE : -EAGAIN;
}
