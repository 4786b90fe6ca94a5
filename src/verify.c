/* SPDX-License-Identifier: MIT */
/*
 * A hash takes as long as the reading, so images are read side by side, one on each
 * processor: the hash of one while another is waited for.
 *
 * The last byte of an image is not counted in before its store program has confirmed all
 * that it sent with its exit status.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "listing.h"
#include "log.h"
#include "verify-show.h"
#include "verify.h"

#ifdef HAVE_LIBCRYPTO

#include <openssl/evp.h>

#include "engine.h"
#include "source.h"

#define BUFFER_SIZE ((size_t)1 << 20)
#define THREADS_MAX 8
#define HEX_MAX (2 * EVP_MAX_MD_SIZE + 1)

/* One image to be verified. */
struct job {
	struct image *image;
	bool done;
	enum verdict verdict;
	const char *algorithm; /* borrowed from the image, or constant */
	const char *expected; /* borrowed from the image */
	char found[HEX_MAX];
	char *error;
};

struct work {
	struct engine engine;
	pthread_mutex_t lock; /* guards the rest */
	struct job *jobs;
	size_t count;
	size_t next; /* to be begun */
	size_t shown; /* those before were printed, in their order */
	uint64_t done_bytes;
	struct verify_show show;
	int err; /* of printing */
};

static void listing_unrefp(struct listing **listing)
{
	listing_unref(*listing);
}

static void digest_freep(EVP_MD_CTX **context)
{
	EVP_MD_CTX_free(*context);
}

static void md_freep(EVP_MD **md)
{
	EVP_MD_free(*md);
}

/* ---- what is compared ---- */

static const char *attribute(const struct image *image, const char *key)
{
	for (size_t i = 0; i < image->attribute_count; i++)
		if (!strcmp(image->attributes[i].key, key))
			return *image->attributes[i].value ? image->attributes[i].value
							   : NULL;
	return NULL;
}

/* The hash that OpenSSL, or Python for Glance, calls @name; NULL if there is none. */
static EVP_MD *find_hash(const char *name)
{
	static const char *const others[][2] = {
		{"blake2b", "blake2b512"}, {"blake2s", "blake2s256"},
		{"sha3_224", "sha3-224"},  {"sha3_256", "sha3-256"},
		{"sha3_384", "sha3-384"},  {"sha3_512", "sha3-512"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(others); i++)
		if (!strcmp(name, others[i][0]))
			name = others[i][1];
	return EVP_MD_fetch(NULL, name, NULL);
}

/* Choose the hash for the job.  NULL: there is none to compare with. */
static EVP_MD *choose_hash(struct job *job)
{
	const char *name = attribute(job->image, "os_hash_algo");
	const char *value = attribute(job->image, "os_hash_value");
	EVP_MD *md = name && value ? find_hash(name) : NULL;

	if (!md) {
		name = "md5";
		value = attribute(job->image, "checksum");
		md = value ? find_hash(name) : NULL;
	}
	if (md) {
		job->algorithm = name;
		job->expected = value;
	}
	return md;
}

/* ---- reading ---- */

/* Note that @size bytes were read. */
static void note_progress(struct work *work, size_t size)
{
	pthread_mutex_lock(&work->lock);
	work->done_bytes += size;
	verify_show_progress(&work->show, work->done_bytes);
	pthread_mutex_unlock(&work->lock);
}

/* Read @length bytes from @offset into the hash.  Called with the source's lock. */
static int digest_part(struct work *work, struct source *source, EVP_MD_CTX *context,
		       unsigned char *buffer, uint64_t offset, uint64_t length,
		       pthread_mutex_t *lock)
{
	int ret = source_ask(source, offset, length);

	while (!ret && length) {
		struct iovec iov = {buffer, (size_t)MIN(length, (uint64_t)BUFFER_SIZE)};
		ssize_t n = source_readv(source, &iov, 1, UINT64_MAX);

		if (n < 0)
			return (int)n;
		length -= (uint64_t)n;
		pthread_mutex_unlock(lock);
		if (!EVP_DigestUpdate(context, buffer, (size_t)n))
			ret = -ENOMEM;
		note_progress(work, (size_t)n);
		pthread_mutex_lock(lock);
	}
	return ret;
}

/* Read the last byte until the program confirms that all was right; then count it in. */
static int digest_last(struct work *work, struct source *source, EVP_MD_CTX *context,
		       uint64_t offset)
{
	unsigned char byte;
	int ret;

	do {
		struct iovec iov = {&byte, 1};
		ssize_t n;

		ret = source_ask(source, offset, 1);
		n = ret ? ret : source_readv(source, &iov, 1, UINT64_MAX);
		ret = n < 0 ? (int)n : source_finish(source);
	} while (ret == -EAGAIN);
	if (!ret && !EVP_DigestUpdate(context, &byte, 1))
		ret = -ENOMEM;
	return ret;
}

static int digest_image(struct work *work, struct image *image, EVP_MD_CTX *context)
{
	CLEANUP(freep) unsigned char *buffer = malloc(BUFFER_SIZE);
	pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	struct source *source;
	int ret = buffer ? source_new(&work->engine, image, &lock, &source) : -ENOMEM;

	if (ret < 0)
		return ret;
	pthread_mutex_lock(&lock);
	if (image->size > 1)
		ret = digest_part(work, source, context, buffer, 0, image->size - 1,
				  &lock);
	if (!ret && image->size)
		ret = digest_last(work, source, context, image->size - 1);
	pthread_mutex_unlock(&lock);
	source_free(source);
	return ret;
}

static void write_hex(const unsigned char *bytes, unsigned int count, char *hex)
{
	static const char digits[] = "0123456789abcdef";

	for (unsigned int i = 0; i < count; i++) {
		*hex++ = digits[bytes[i] >> 4];
		*hex++ = digits[bytes[i] & 15];
	}
	*hex = '\0';
}

static void run_job(struct work *work, struct job *job)
{
	CLEANUP(digest_freep) EVP_MD_CTX *context = EVP_MD_CTX_new();
	CLEANUP(md_freep) EVP_MD *md = choose_hash(job);
	unsigned char digest[EVP_MAX_MD_SIZE];
	unsigned int size = 0;
	int ret;

	if (!md) {
		job->verdict = VERDICT_NO_HASH;
		note_progress(work, job->image->size);
		return;
	}
	ret = context && EVP_DigestInit_ex(context, md, NULL) ? 0 : -ENOMEM;
	if (!ret)
		ret = digest_image(work, job->image, context);
	if (!ret && !EVP_DigestFinal_ex(context, digest, &size))
		ret = -ENOMEM;
	if (ret) {
		job->verdict = VERDICT_UNREAD;
		job->error = image_error(job->image);
		if (!job->error)
			job->error = strdup(strerror(-ret));
		return;
	}
	write_hex(digest, size, job->found);
	job->verdict =
		strcasecmp(job->found, job->expected) ? VERDICT_DIFFERENT : VERDICT_EQUAL;
}

/* ---- the threads ---- */

/* Print what is done, in the order of the images.  Called with the lock held. */
static void show_done(struct work *work)
{
	for (; work->shown < work->next && work->jobs[work->shown].done; work->shown++) {
		const struct job *job = &work->jobs[work->shown];
		int ret = verify_show_finding(
			&work->show, &(struct finding){
					     .image = job->image,
					     .verdict = job->verdict,
					     .algorithm = job->algorithm,
					     .expected = job->expected,
					     .found = *job->found ? job->found : NULL,
					     .error = job->error,
				     });

		if (ret && !work->err)
			work->err = ret;
	}
}

static void *run_jobs(void *context)
{
	struct work *work = context;

	pthread_mutex_lock(&work->lock);
	while (work->next < work->count && !work->err) {
		struct job *job = &work->jobs[work->next++];

		pthread_mutex_unlock(&work->lock);
		run_job(work, job);
		pthread_mutex_lock(&work->lock);
		job->done = true;
		show_done(work);
	}
	pthread_mutex_unlock(&work->lock);
	return NULL;
}

static void run_threads(struct work *work)
{
	pthread_t threads[THREADS_MAX];
	long processors = sysconf(_SC_NPROCESSORS_ONLN);
	size_t wanted = processors > 0 ? (size_t)processors : 1, count = 0;

	wanted = MIN(wanted, (size_t)THREADS_MAX);
	/* The calling thread is one of them. */
	while (count + 1 < wanted && count + 1 < work->count &&
	       !pthread_create(&threads[count], NULL, run_jobs, work))
		count++;
	run_jobs(work);
	for (size_t i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
}

/* ---- which images ---- */

static struct image *find_image(const struct listing *listing, const char *name)
{
	struct image *image = listing_find(listing, name);

	for (size_t i = 0; i < listing->count && !image; i++)
		if (!strcmp(listing->images[i]->id, name))
			image = listing->images[i];
	return image;
}

/*
 * Choose the images.  Returns how many, in @jobs; those that are not there are said, and
 * counted in *@ret_missing.
 */
static size_t choose_images(const struct verify *verify, const struct listing *listing,
			    struct job *jobs, size_t *ret_missing)
{
	size_t count = 0;

	if (!verify->name_count)
		for (; count < listing->count; count++)
			jobs[count].image = listing->images[count];
	for (size_t i = 0; i < verify->name_count; i++) {
		struct image *image = find_image(listing, verify->names[i]);

		if (image)
			jobs[count++].image = image;
		else
			log_line(LOG_ERR, "%s: no such image", verify->names[i]);
		*ret_missing += !image;
	}
	return count;
}

static int run_all(struct work *work, const struct verify *verify)
{
	struct image **images = calloc(work->count + 1, sizeof(*images));

	if (!images)
		return -ENOMEM;
	for (size_t i = 0; i < work->count; i++)
		images[i] = work->jobs[i].image;
	pthread_mutex_init(&work->lock, NULL);
	engine_init(&work->engine, verify->store);
	verify_show_begin(&work->show, images, work->count, verify->json);
	free(images);
	run_threads(work);
	verify_show_end(&work->show);
	engine_fini(&work->engine);
	pthread_mutex_destroy(&work->lock);
	if (work->err)
		log_line(LOG_ERR, "the results cannot be written: %s",
			 strerror(-work->err));
	return work->err;
}

/* The exit status that the findings come to. */
static int sum_up(const struct work *work, size_t missing)
{
	bool unknown = false, wrong = missing > 0;

	for (size_t i = 0; i < work->count; i++) {
		unknown |= work->jobs[i].verdict == VERDICT_NO_HASH;
		wrong |= work->jobs[i].verdict == VERDICT_DIFFERENT ||
			 work->jobs[i].verdict == VERDICT_UNREAD;
	}
	return wrong ? 1 : unknown ? VERIFY_NO_HASH : 0;
}

int verify_store(const struct verify *verify)
{
	CLEANUP(listing_unrefp) struct listing *listing = NULL;
	CLEANUP(freep) char *text = NULL;
	struct work work = {0};
	size_t missing = 0;
	int ret = listing_new(verify->store, NULL, -1, &listing, &text);

	if (ret < 0) {
		log_line(LOG_ERR, "%s: %s", verify->store->shown,
			 text ? text : strerror(-ret));
		return ret;
	}
	work.jobs =
		calloc(MAX(listing->count, verify->name_count) + 1, sizeof(*work.jobs));
	if (!work.jobs)
		return -ENOMEM;
	work.count = choose_images(verify, listing, work.jobs, &missing);
	ret = run_all(&work, verify);
	if (!ret)
		ret = sum_up(&work, missing);
	for (size_t i = 0; i < work.count; i++)
		free(work.jobs[i].error);
	free(work.jobs);
	return ret;
}

#else

int verify_store(const struct verify *verify)
{
	(void)verify;
	log_line(LOG_ERR, "verify: built without OpenSSL's libcrypto, which it needs");
	return -ENOTSUP;
}

#endif
