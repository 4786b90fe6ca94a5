/* SPDX-License-Identifier: MIT */
/*
 * catalog - the images as last listed, listed again when that is too long ago.
 *
 * One thread lists, for everybody.  Who asks while the listing is too old waits for the
 * next one, but not longer than a grace; then the old one serves, so that a store that
 * hangs holds nobody up.  A listing that failed is an error for those who waited for it.
 */
#ifndef IMAGEFS_CATALOG_H
#define IMAGEFS_CATALOG_H

#include <stdint.h>
#include <sys/queue.h>

#include "listing.h"

struct catalog;

/* Somebody who wants a listing.  Embedded in what @done needs. */
struct catalog_wait {
	TAILQ_ENTRY(catalog_wait) link;
	uint64_t deadline_ms;
	/*
	 * Called once, on the calling or on the catalog's thread, no lock being held, with
	 * @err 0 and a @listing, borrowed for the call; or a negative errno, and the last
	 * listing that there was, NULL at the end.
	 */
	void (*done)(struct catalog_wait *wait, int err, struct listing *listing);
};

/*
 * List the images a first time and start the thread.  @ttl_ms: how long a listing is
 * good.  @store is borrowed.  The caller owns *@ret_catalog.  Returns 0 or a negative
 * errno, having logged why.
 */
int catalog_new(const struct store *store, uint64_t ttl_ms, struct catalog **ret_catalog);

/* Call @wait->done with a listing that is not too old.  Does not block. */
void catalog_get(struct catalog *catalog, struct catalog_wait *wait);

/* A reference to the last listing, however old, for the caller to give up. */
struct listing *catalog_last(struct catalog *catalog);

/* Have the next catalog_get() wait for a new listing. */
void catalog_expire(struct catalog *catalog);

/* End the threads; who still waits gets -EIO.  Nobody calls catalog_get() any more. */
void catalog_end(struct catalog *catalog);

/* The same, and free it.  NULL is taken. */
void catalog_free(struct catalog *catalog);

#endif
