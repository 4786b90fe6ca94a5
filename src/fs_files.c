/* SPDX-License-Identifier: MIT */
/*
 * fs_files - open files, reads, and searches for holes: answered when a pool has the bytes.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fuse.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "clock.h"
#include "fs-session.h"
#include "handle.h"

#define STUCK_MS 500
#define OPENING_MS 10
#define INTERRUPTED_MS 100
#define USEC_PER_MSEC 1000
#define SMALL (32u << 10) /* answers up to that are given sooner than the next is woken */

struct open_file {
	LIST_ENTRY(open_file) link;
	struct handle *handle; /* an image, or */
	char *text; /* what a file of the hidden folder said when it was opened */
};

static struct open_file *file_of(const struct fuse_file_info *info)
{
	return (struct open_file *)(uintptr_t)info->fh;
}

static void close_file(struct fs *fs, struct open_file *file)
{
	pthread_mutex_lock(&fs->lock);
	LIST_REMOVE(file, link);
	pthread_mutex_unlock(&fs->lock);
	if (file->handle)
		handle_close(file->handle);
	free(file->text);
	free(file);
}

/*
 * An open(2) that waits for the reads that were under way before it: unless an image
 * cannot change, the kernel forgets its pages when it is opened, and waits for those that
 * are being read.
 */
struct opening {
	struct watched watched; /* first: it is cast back */
	fuse_req_t req;
	struct fuse_file_info info;
	struct open_file *file;
	uint64_t begun_ms;
};

static void reply_open(fuse_req_t req, struct fuse_file_info *info,
		       struct open_file *file)
{
	struct fs *fs = fs_of(req);

	if (fuse_reply_open(req, info) < 0)
		close_file(fs, file);
}

/* If they take too long, the pages are left alone, and this file is read without them. */
static bool look_at_opening(struct watched *watched)
{
	struct opening *opening = (struct opening *)watched;
	bool late = clock_ms() >= opening->begun_ms + STUCK_MS;

	if (handle_waiting_since(opening->file->handle) < opening->begun_ms) {
		if (!late)
			return false;
		opening->info.keep_cache = opening->info.direct_io = 1;
	}
	reply_open(opening->req, &opening->info, opening->file);
	free(opening);
	return true;
}

/* The session ends: the file is in the list of those that are closed then. */
static void end_opening(struct watched *watched)
{
	struct opening *opening = (struct opening *)watched;

	fuse_reply_err(opening->req, EIO);
	free(opening);
}

static int open_image(fuse_req_t req, struct fuse_file_info *info, struct open_file *file)
{
	struct image *image = handle_image(file->handle);
	struct opening *opening;

	info->noflush = 1;
	info->direct_io = fs_of(req)->options->direct_io;
	info->keep_cache = image->immutable || info->direct_io;
	if (info->keep_cache || handle_waiting_since(file->handle) == UINT64_MAX) {
		reply_open(req, info, file);
		return 0;
	}
	opening = calloc(1, sizeof(*opening));
	if (!opening)
		return -ENOMEM;
	*opening = (struct opening){
		.watched = {.every_ms = OPENING_MS,
			    .look = look_at_opening,
			    .end = end_opening},
		.req = req,
		.info = *info,
		.file = file,
		.begun_ms = clock_ms(),
	};
	watch_add(&fs_of(req)->watch, &opening->watched);
	return 0;
}

static int open_node(struct fs *fs, fuse_ino_t node, struct open_file *file)
{
	if (is_image(node))
		return handle_new(fs->engine, image_of(node), &file->handle);
	file->text = fs_text_of(fs, node);
	return file->text ? 0 : -ENOMEM;
}

void fs_open(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *info)
{
	struct fs *fs = fs_of(req);
	struct open_file *file;
	int err;

	if ((info->flags & O_ACCMODE) != O_RDONLY) {
		fuse_reply_err(req, EROFS);
		return;
	}
	file = calloc(1, sizeof(*file));
	err = file ? open_node(fs, node, file) : -ENOMEM;
	if (err < 0) {
		free(file);
		if (is_image(node))
			image_set_error(image_of(node), "cannot be opened: %s",
					strerror(-err));
		/* It is not the caller who has too many. */
		fuse_reply_err(req, err == -EMFILE ? ENFILE : -err);
		return;
	}
	info->fh = (uint64_t)(uintptr_t)file;
	pthread_mutex_lock(&fs->lock);
	LIST_INSERT_HEAD(&fs->files, file, link);
	pthread_mutex_unlock(&fs->lock);
	if (is_image(node)) {
		err = open_image(req, info, file);
	} else {
		info->direct_io = 1; /* its size is not known before */
		reply_open(req, info, file);
	}
	if (err < 0) {
		close_file(fs, file);
		fuse_reply_err(req, -err);
	}
}

void fs_release(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *info)
{
	close_file(fs_of(req), file_of(info));
	fuse_reply_err(req, 0);
}

/* A read, or a search for a hole, that the kernel waits for. */
struct request {
	union {
		struct read read; /* first: they are cast back */
		struct seek seek;
	};
	struct watched watched; /* once it is interrupted, or for the kernel's limit */
	atomic_bool interrupted;
	fuse_req_t req;
	struct handle *handle; /* to interrupt it: when it is answered it may be closed */
	struct image *image; /* a reference */
	uint64_t begun_us;
	bool counted;
	struct fuse_out_header header; /* of the reply, if it is passed on by a pipe */
};

static struct request *request_new(fuse_req_t req, fuse_ino_t node,
				   const struct fuse_file_info *info)
{
	struct request *request = calloc(1, sizeof(*request));

	if (!request) {
		fuse_reply_err(req, ENOMEM);
		return NULL;
	}
	request->req = req;
	request->handle = file_of(info)->handle;
	request->image = image_ref(image_of(node));
	request->begun_us = clock_us();
	request->watched.every_ms = INTERRUPTED_MS;
	return request;
}

static void request_free(struct request *request)
{
	image_unref(request->image);
	free(request);
}

/*
 * From here on no interrupt looks at the request: taking the function away waits for one
 * that is being called.
 */
static void request_hide(struct request *request)
{
	fuse_req_interrupt_func(request->req, NULL, NULL);
	watch_remove(&fs_of(request->req)->watch, &request->watched);
}

static fuse_req_t request_end(struct request *request)
{
	fuse_req_t req = request->req;

	request_hide(request);
	request_free(request);
	return req;
}

/*
 * See that it is answered before the kernel aborts the whole mount.  To be called before
 * it is handed over.
 */
static void limit_request(struct request *request)
{
	struct fs *fs = fs_of(request->req);

	if (fs->engine->answer_ms)
		watch_add(&fs->watch, &request->watched);
}

/* Whether it is not to wait any longer; with what error. */
static bool must_end(const struct request *request, int *ret_err)
{
	uint64_t limit_ms = fs_of(request->req)->engine->answer_ms;

	*ret_err = EINTR;
	if (request->interrupted && fs_is_told_to_end(fuse_req_ctx(request->req)->pid))
		return true;
	*ret_err = EIO;
	return limit_ms && clock_us() >= request->begun_us + USEC_PER_MSEC * limit_ms;
}

/* It was taken back: answer it. */
static void give_up(struct request *request, uint64_t offset, int err)
{
	struct image *image = image_ref(request->image);
	fuse_req_t req = request->req;

	fuse_req_interrupt_func(req, NULL, NULL);
	request_free(request);
	fuse_reply_err(req, err);
	if (err == EIO)
		image_set_error_at(image, offset,
				   "the store is too slow for the kernel's limit "
				   "(fs.fuse.max_request_timeout) at byte %" PRIu64,
				   offset);
	image_unref(image);
}

static int errno_for_kernel(int err)
{
	return err == -ETIMEDOUT || err == -ECANCELED ? EIO : -err;
}

/* Before the reply: whoever has it may look at the figures at once. */
static void count_read(struct request *request, int err)
{
	struct stats *all = &fs_of(request->req)->engine->stats;
	struct stats *image = request->image->stats;
	uint64_t time_us = clock_us() - request->begun_us;

	if (request->counted)
		return;
	request->counted = true;
	stats_add(all, image, COUNT_READS, 1);
	if (err)
		stats_add(all, image, COUNT_ERRORS, 1);
	else
		stats_add(all, image, COUNT_BYTES, request->read.size);
	if (!err)
		stats_set(image, COUNT_POSITION,
			  request->read.offset + request->read.size);
	stats_add_time(all, image, COUNT_WAITS, time_us);
	if (request->read.parked_ms)
		stats_add_time(all, image, COUNT_STALLS, time_us);
}

static void read_reply(struct read *read, int err, const struct iovec *iov, int count)
{
	struct request *request = (struct request *)read;
	fuse_req_t req = request->req;

	count_read(request, err);
	if (read->size > SMALL)
		session_hand_over(fs_of(req));
	request_end(request);
	/* The version is gone: who opens the name again is not to get it once more. */
	if (err == -ESTALE)
		catalog_expire(fs_of(req)->catalog);
	if (err)
		fuse_reply_err(req, errno_for_kernel(err));
	else
		fuse_reply_iov(req, iov, count);
}

/*
 * When the kernel has the reply the handle may be closed at any time, so nobody is to look
 * at the request any more.
 */
static int read_pass(struct read *read, int pipe)
{
	struct request *request = (struct request *)read;
	fuse_req_t req = request->req;

	request_hide(request);
	count_read(request, 0);
	/* ENOENT: who waited for it does no more. */
	if (splice(pipe, NULL, fuse_session_fd(fs_of(req)->session), NULL,
		   request->header.len, 0) < 0 &&
	    errno != ENOENT)
		return -errno;
	request_free(request);
	fuse_reply_none(req);
	return 0;
}

/* Take back what waits.  Returns whether it did; it is answered then. */
static bool cancel_read(struct request *request)
{
	request->read.given_up = true;
	return handle_cancel(request->handle, &request->read);
}

static bool look_at_read(struct watched *watched)
{
	struct request *request = CONTAINER_OF(watched, struct request, watched);
	int err;

	if (!must_end(request, &err))
		return false;
	/* Else it is being answered, which waits for the watch. */
	if (cancel_read(request))
		give_up(request, request->read.offset, err);
	return true;
}

/* libfuse calls it while it holds a lock that request_end() takes. */
static void interrupt_read(fuse_req_t req, void *data)
{
	struct request *request = data;

	request->interrupted = true;
	/* It is watched already; and the watch may be waiting for the lock that is held. */
	if (fs_of(req)->engine->answer_ms)
		return;
	if (!fs_is_told_to_end(fuse_req_ctx(req)->pid)) {
		watch_add(&fs_of(req)->watch, &request->watched);
	} else if (cancel_read(request)) {
		request_free(request);
		fuse_reply_err(req, EINTR);
	}
}

static void read_text(fuse_req_t req, const char *text, size_t size, off_t offset)
{
	size_t length = strlen(text);

	if (offset < 0 || (size_t)offset >= length)
		fuse_reply_buf(req, NULL, 0);
	else
		fuse_reply_buf(req, text + offset, MIN(size, length - (size_t)offset));
}

void fs_read(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset,
	     struct fuse_file_info *info)
{
	struct request *request;

	if (!is_image(node)) {
		read_text(req, file_of(info)->text, size, offset);
		return;
	}
	request = request_new(req, node, info);
	if (!request)
		return;
	request->read.offset = (uint64_t)offset;
	request->read.size = size;
	request->read.direct = (info->flags & O_DIRECT) || fs_of(req)->options->direct_io;
	request->read.reply = read_reply;
	/* Who asks for one piece after the other is better served by what is there already. */
	if (size <= fs_of(req)->pass_most && !request->read.direct) {
		request->header.len = (uint32_t)(sizeof(request->header) + size);
		request->header.unique = session_unique();
		request->read.header = &request->header;
		request->read.header_size = sizeof(request->header);
		request->read.pass = read_pass;
	}
	request->watched.look = look_at_read;
	/* Before it is handed over: from then on it may be gone at any time. */
	limit_request(request);
	fuse_req_interrupt_func(req, interrupt_read, request);
	handle_read(request->handle, &request->read);
}

static void seek_done(struct seek *seek, int err, uint64_t offset)
{
	struct request *request = (struct request *)seek;
	bool no_data = !err && !seek->hole && offset >= request->image->size;
	fuse_req_t req = request_end(request);

	if (err || no_data)
		fuse_reply_err(req, err ? errno_for_kernel(err) : ENXIO);
	else
		fuse_reply_lseek(req, (off_t)offset);
}

static bool cancel_seek(struct request *request)
{
	request->seek.given_up = true;
	return handle_cancel_seek(request->handle, &request->seek);
}

static bool look_at_seek(struct watched *watched)
{
	struct request *request = CONTAINER_OF(watched, struct request, watched);
	int err;

	if (!must_end(request, &err))
		return false;
	if (cancel_seek(request))
		give_up(request, request->seek.offset, err);
	return true;
}

static void interrupt_seek(fuse_req_t req, void *data)
{
	struct request *request = data;

	request->interrupted = true;
	/* It is watched already; and the watch may be waiting for the lock that is held. */
	if (fs_of(req)->engine->answer_ms)
		return;
	if (!fs_is_told_to_end(fuse_req_ctx(req)->pid)) {
		watch_add(&fs_of(req)->watch, &request->watched);
	} else if (cancel_seek(request)) {
		request_free(request);
		fuse_reply_err(req, EINTR);
	}
}

void fs_lseek(fuse_req_t req, fuse_ino_t node, off_t offset, int whence,
	      struct fuse_file_info *info)
{
	struct request *request;

	if (whence != SEEK_DATA && whence != SEEK_HOLE) {
		fuse_reply_err(req, EINVAL);
		return;
	}
	if (!is_image(node) || offset < 0 || (uint64_t)offset >= image_of(node)->size) {
		fuse_reply_err(req, ENXIO);
		return;
	}
	request = request_new(req, node, info);
	if (!request)
		return;
	request->seek.offset = (uint64_t)offset;
	request->seek.hole = whence == SEEK_HOLE;
	request->seek.done = seek_done;
	request->watched.look = look_at_seek;
	limit_request(request);
	fuse_req_interrupt_func(req, interrupt_seek, request);
	handle_seek(request->handle, &request->seek);
}

void fs_close_all(struct fs *fs)
{
	struct open_file *file;

	watch_end(&fs->watch);
	while ((file = LIST_FIRST(&fs->files)))
		close_file(fs, file);
}
