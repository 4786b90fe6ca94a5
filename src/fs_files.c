/* SPDX-License-Identifier: MIT */
/*
 * fs_files - open files, reads, and searches for holes: answered when a pool has the bytes.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "clock.h"
#include "fs-session.h"
#include "handle.h"

#define STUCK_MS 500
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
 * Whether a read of the image has waited for long.  If so, the kernel must not be told to
 * forget its pages: it would wait for the one that is being read, and open(2) with it.
 */
static bool is_stuck(struct fs *fs, const struct image *image)
{
	uint64_t now = clock_ms();
	struct open_file *file;
	bool stuck = false;

	LIST_FOREACH (file, &fs->files, link) {
		if (file->handle && handle_image(file->handle) == image)
			stuck = stuck ||
				handle_waiting_since(file->handle) < now - STUCK_MS;
	}
	return stuck;
}

/* How the kernel is to keep what is read from the file. */
static void set_caching(struct fs *fs, struct image *image, struct fuse_file_info *info)
{
	info->noflush = 1;
	info->direct_io = fs->options->direct_io;
	info->keep_cache = image->immutable || info->direct_io;
	pthread_mutex_lock(&fs->lock);
	if (!info->keep_cache && is_stuck(fs, image))
		info->keep_cache = info->direct_io = 1;
	pthread_mutex_unlock(&fs->lock);
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
		fuse_reply_err(req, -err);
		return;
	}
	info->fh = (uint64_t)(uintptr_t)file;
	if (is_image(node))
		set_caching(fs, image_of(node), info);
	else
		info->direct_io = 1; /* its size is not known before */
	pthread_mutex_lock(&fs->lock);
	LIST_INSERT_HEAD(&fs->files, file, link);
	pthread_mutex_unlock(&fs->lock);
	if (fuse_reply_open(req, info) < 0)
		close_file(fs, file);
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
	fuse_req_t req;
	struct handle *handle; /* to interrupt it: when it is answered it may be closed */
	struct image *image; /* a reference */
	uint64_t begun_us;
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
static fuse_req_t request_end(struct request *request)
{
	fuse_req_t req = request->req;

	fuse_req_interrupt_func(req, NULL, NULL);
	request_free(request);
	return req;
}

static int errno_for_kernel(int err)
{
	return err == -ETIMEDOUT || err == -ECANCELED ? EIO : -err;
}

/* Before the reply: whoever has it may look at the figures at once. */
static void count_read(const struct request *request, int err)
{
	struct stats *all = &fs_of(request->req)->engine->stats;
	struct stats *image = request->image->stats;

	stats_add(all, image, COUNT_READS, 1);
	if (err)
		stats_add(all, image, COUNT_ERRORS, 1);
	else
		stats_add(all, image, COUNT_BYTES, request->read.size);
	stats_add_wait(all, image, clock_us() - request->begun_us);
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

/* libfuse calls it while it holds a lock that request_end() takes. */
static void interrupt_read(fuse_req_t req, void *data)
{
	struct request *request = data;

	request->read.given_up = true;
	if (!handle_cancel(request->handle, &request->read))
		return;
	request_free(request);
	fuse_reply_err(req, EINTR);
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
	request->read.reply = read_reply;
	/* Before it is handed over: from then on it may be gone at any time. */
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

static void interrupt_seek(fuse_req_t req, void *data)
{
	struct request *request = data;

	request->seek.given_up = true;
	if (!handle_cancel_seek(request->handle, &request->seek))
		return;
	request_free(request);
	fuse_reply_err(req, EINTR);
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
	fuse_req_interrupt_func(req, interrupt_seek, request);
	handle_seek(request->handle, &request->seek);
}

void fs_close_all(struct fs *fs)
{
	struct open_file *file;

	while ((file = LIST_FIRST(&fs->files)))
		close_file(fs, file);
}
