/* SPDX-License-Identifier: MIT */
/*
 * A node of the kernel's is a struct image, that is, one version of an image: the name of
 * a changed image comes to mean another node, and nothing of the old one is mixed into
 * it. Each lookup that the kernel remembers holds a reference.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/queue.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "cleanup.h"
#include "clock.h"
#include "fs-session.h"
#include "handle.h"
#include "log.h"

#define BLOCK_SIZE (1u << 20)
#define SECTOR 512
#define STUCK_MS 500
#define SMALL (32u << 10) /* answers up to that are given sooner than the next is woken */
#define ENTRY_SECONDS 1.0 /* how long the kernel trusts a name */
#define ATTR_SECONDS 86400.0 /* a version of an image does not change */
#define BACKGROUND_MAX \
	4096 /* reads ahead of files that hang must leave room for others */
#define XATTR_PREFIX "user.imagefs."

static struct fs *fs_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

/* ---- nodes and attributes ---- */

static struct image *image_of(fuse_ino_t node)
{
	return (struct image *)(uintptr_t)node;
}

static void fill_root(const struct fs *fs, struct stat *st)
{
	*st = (struct stat){
		.st_ino = FUSE_ROOT_ID,
		.st_mode =
			S_IFDIR |
			((fs->options->mode & 0444) | (fs->options->mode & 0444) >> 2) |
			0500,
		.st_nlink = 2,
		.st_uid = fs->uid,
		.st_gid = fs->gid,
		.st_blksize = BLOCK_SIZE,
		.st_mtim = fs->started,
		.st_ctim = fs->started,
		.st_atim = fs->started,
	};
}

static void fill_image(const struct fs *fs, const struct image *image, struct stat *st)
{
	uint64_t allocated =
		image->allocated == UINT64_MAX ? image->size : image->allocated;

	*st = (struct stat){
		.st_ino = image->ino,
		.st_mode = S_IFREG | (mode_t)fs->options->mode,
		.st_nlink = 1,
		.st_uid = fs->uid,
		.st_gid = fs->gid,
		.st_size = (off_t)image->size,
		.st_blksize = BLOCK_SIZE,
		.st_blocks = (blkcnt_t)(allocated / SECTOR + !!(allocated % SECTOR)),
		.st_mtim = image->mtime,
		.st_ctim = image->mtime,
		.st_atim = image->mtime,
	};
}

static void fill_entry(const struct fs *fs, struct image *image,
		       struct fuse_entry_param *entry)
{
	*entry = (struct fuse_entry_param){
		.ino = (fuse_ino_t)(uintptr_t)image,
		.attr_timeout = ATTR_SECONDS,
		.entry_timeout = ENTRY_SECONDS,
	};
	fill_image(fs, image, &entry->attr);
}

static void fs_getattr(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *info)
{
	struct stat st;

	if (node == FUSE_ROOT_ID)
		fill_root(fs_of(req), &st);
	else
		fill_image(fs_of(req), image_of(node), &st);
	fuse_reply_attr(req, &st, ATTR_SECONDS);
}

/* The kernel is about to remember a lookup of the image. */
static void remember(struct fs *fs, struct image *image)
{
	pthread_mutex_lock(&fs->lock);
	if (!image->lookups++) {
		image_ref(image);
		LIST_INSERT_HEAD(&fs->nodes, image, link);
	}
	pthread_mutex_unlock(&fs->lock);
}

static void forget(struct fs *fs, fuse_ino_t node, uint64_t count)
{
	struct image *image = image_of(node);
	bool last;

	if (node == FUSE_ROOT_ID)
		return;
	pthread_mutex_lock(&fs->lock);
	image->lookups -= MIN(count, image->lookups);
	last = !image->lookups;
	if (last)
		LIST_REMOVE(image, link);
	pthread_mutex_unlock(&fs->lock);
	if (last)
		image_unref(image);
}

void fs_forget_all(struct fs *fs)
{
	struct image *image;

	while ((image = LIST_FIRST(&fs->nodes)))
		forget(fs, (fuse_ino_t)(uintptr_t)image, image->lookups);
}

static void fs_forget(fuse_req_t req, fuse_ino_t node, uint64_t count)
{
	forget(fs_of(req), node, count);
	fuse_reply_none(req);
}

static void fs_forget_multi(fuse_req_t req, size_t count,
			    struct fuse_forget_data *forgets)
{
	for (size_t i = 0; i < count; i++)
		forget(fs_of(req), forgets[i].ino, forgets[i].nlookup);
	fuse_reply_none(req);
}

/* ---- names: answered when the catalog has a listing ---- */

/* A request that waits for a listing. */
struct waiting {
	struct catalog_wait wait; /* first: it is cast back */
	fuse_req_t req;
	struct fuse_file_info info; /* opendir */
	char name[]; /* lookup */
};

static struct waiting *waiting_new(fuse_req_t req, const char *name)
{
	struct waiting *waiting = calloc(1, sizeof(*waiting) + strlen(name) + 1);

	if (!waiting) {
		fuse_reply_err(req, ENOMEM);
		return NULL;
	}
	waiting->req = req;
	strcpy(waiting->name, name);
	return waiting;
}

static void lookup_done(struct catalog_wait *wait, int err, struct listing *listing)
{
	CLEANUP(freep) struct waiting *waiting = (struct waiting *)wait;
	struct fuse_entry_param entry;
	struct fs *fs;
	struct image *image = err ? NULL : listing_find(listing, waiting->name);

	if (!image) {
		fuse_reply_err(waiting->req, err ? -err : ENOENT);
		return;
	}
	fill_entry(fs_of(waiting->req), image, &entry);
	fs = fs_of(waiting->req);
	remember(fs, image);
	/* The kernel does not remember what it was interrupted in. */
	if (fuse_reply_entry(waiting->req, &entry) < 0)
		forget(fs, entry.ino, 1);
}

static void fs_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct waiting *waiting;

	if (parent != FUSE_ROOT_ID) {
		fuse_reply_err(req, ENOTDIR);
		return;
	}
	waiting = waiting_new(req, name);
	if (!waiting)
		return;
	waiting->wait.done = lookup_done;
	catalog_get(fs_of(req)->catalog, &waiting->wait);
}

static void opendir_done(struct catalog_wait *wait, int err, struct listing *listing)
{
	CLEANUP(freep) struct waiting *waiting = (struct waiting *)wait;

	if (err) {
		fuse_reply_err(waiting->req, -err);
		return;
	}
	waiting->info.fh = (uint64_t)(uintptr_t)listing_ref(listing);
	if (fuse_reply_open(waiting->req, &waiting->info) < 0)
		listing_unref(listing);
}

static void fs_opendir(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *info)
{
	struct waiting *waiting;

	if (node != FUSE_ROOT_ID) {
		fuse_reply_err(req, ENOTDIR);
		return;
	}
	waiting = waiting_new(req, "");
	if (!waiting)
		return;
	waiting->info = *info;
	waiting->wait.done = opendir_done;
	catalog_get(fs_of(req)->catalog, &waiting->wait);
}

static struct listing *listing_of(const struct fuse_file_info *info)
{
	return (struct listing *)(uintptr_t)info->fh;
}

static void fs_releasedir(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *info)
{
	listing_unref(listing_of(info));
	fuse_reply_err(req, 0);
}

/* The size of the @index-th entry, put into @data if @size is enough for it. */
static size_t add_entry(fuse_req_t req, char *data, size_t size,
			const struct listing *listing, size_t index, bool plus)
{
	static const char *const dots[] = {".", ".."};
	struct fuse_entry_param entry = {0};
	const char *name;
	size_t used;

	if (index < ARRAY_SIZE(dots)) {
		name = dots[index];
		fill_root(fs_of(req), &entry.attr);
	} else {
		struct image *image = listing->images[index - ARRAY_SIZE(dots)];

		name = image->file_name;
		fill_entry(fs_of(req), image, &entry);
	}
	if (!plus)
		return fuse_add_direntry(req, data, size, name, &entry.attr,
					 (off_t)index + 1);
	used = fuse_add_direntry_plus(req, data, size, name, &entry, (off_t)index + 1);
	/* Each entry with a node is a lookup that the kernel will forget. */
	if (used <= size && entry.ino)
		remember(fs_of(req), image_of(entry.ino));
	return used;
}

static void read_directory(fuse_req_t req, size_t size, off_t offset,
			   const struct fuse_file_info *info, bool plus)
{
	const struct listing *listing = listing_of(info);
	CLEANUP(freep) char *data = malloc(size);
	size_t used = 0;

	if (!data || offset < 0) {
		fuse_reply_err(req, data ? EINVAL : ENOMEM);
		return;
	}
	for (size_t i = (size_t)offset; i < listing->count + 2; i++) {
		size_t more = add_entry(req, data + used, size - used, listing, i, plus);

		if (more > size - used)
			break;
		used += more;
	}
	fuse_reply_buf(req, data, used);
}

static void fs_readdir(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset,
		       struct fuse_file_info *info)
{
	read_directory(req, size, offset, info, false);
}

static void fs_readdirplus(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset,
			   struct fuse_file_info *info)
{
	read_directory(req, size, offset, info, true);
}

/* ---- open files ---- */

struct open_file {
	LIST_ENTRY(open_file) link;
	struct handle *handle;
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
	handle_close(file->handle);
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
		if (handle_image(file->handle) == image)
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

static void fs_open(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *info)
{
	struct fs *fs = fs_of(req);
	struct open_file *file;
	int err;

	if (node == FUSE_ROOT_ID || (info->flags & O_ACCMODE) != O_RDONLY) {
		fuse_reply_err(req, node == FUSE_ROOT_ID ? EISDIR : EROFS);
		return;
	}
	file = calloc(1, sizeof(*file));
	err = file ? handle_new(fs->engine, image_of(node), &file->handle) : -ENOMEM;
	if (err < 0) {
		free(file);
		fuse_reply_err(req, -err);
		return;
	}
	info->fh = (uint64_t)(uintptr_t)file;
	set_caching(fs, image_of(node), info);
	pthread_mutex_lock(&fs->lock);
	LIST_INSERT_HEAD(&fs->files, file, link);
	pthread_mutex_unlock(&fs->lock);
	if (fuse_reply_open(req, info) < 0)
		close_file(fs, file);
}

static void fs_release(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *info)
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

static void fs_read(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset,
		    struct fuse_file_info *info)
{
	struct request *request = request_new(req, node, info);

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

static void fs_lseek(fuse_req_t req, fuse_ino_t node, off_t offset, int whence,
		     struct fuse_file_info *info)
{
	struct request *request;

	if (whence != SEEK_DATA && whence != SEEK_HOLE) {
		fuse_reply_err(req, EINVAL);
		return;
	}
	if (offset < 0 || (uint64_t)offset >= image_of(node)->size) {
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

/* ---- extended attributes ---- */

/* The value of the attribute, for the caller to free, or NULL. */
static char *attribute_value(const struct fs *fs, struct image *image, const char *key)
{
	if (!strcmp(key, "id"))
		return strdup(image->id);
	if (!strcmp(key, "store"))
		return strdup(fs->engine->store->uri);
	if (!strcmp(key, "error"))
		return image_error(image);
	for (size_t i = 0; i < image->attribute_count; i++)
		if (!strcmp(image->attributes[i].key, key))
			return strdup(image->attributes[i].value);
	return NULL;
}

/* A value, or a list, as the kernel wants it: its size alone if it asks with none. */
static void reply_text(fuse_req_t req, const char *text, size_t text_size, size_t size)
{
	if (!size)
		fuse_reply_xattr(req, text_size);
	else if (text_size > size)
		fuse_reply_err(req, ERANGE);
	else
		fuse_reply_buf(req, text, text_size);
}

static void fs_getxattr(fuse_req_t req, fuse_ino_t node, const char *name, size_t size)
{
	size_t prefix = strlen(XATTR_PREFIX);
	CLEANUP(freep) char *value = NULL;

	if (node != FUSE_ROOT_ID && !strncmp(name, XATTR_PREFIX, prefix))
		value = attribute_value(fs_of(req), image_of(node), name + prefix);
	if (!value)
		fuse_reply_err(req, ENODATA);
	else
		reply_text(req, value, strlen(value), size);
}

/* Add a name, with its NUL, to a list that has room for it. */
static size_t add_name(char *list, size_t used, const char *key)
{
	return used + (size_t)sprintf(list + used, "%s%s", XATTR_PREFIX, key) + 1;
}

static bool is_own_key(const char *key)
{
	return !strcmp(key, "id") || !strcmp(key, "store") || !strcmp(key, "error");
}

static void fs_listxattr(fuse_req_t req, fuse_ino_t node, size_t size)
{
	struct image *image = image_of(node);
	CLEANUP(freep) char *list = NULL, *error = NULL;
	size_t room = 3 * sizeof(XATTR_PREFIX "store"), used = 0;

	if (node == FUSE_ROOT_ID) {
		reply_text(req, "", 0, size);
		return;
	}
	for (size_t i = 0; i < image->attribute_count; i++)
		room += sizeof(XATTR_PREFIX) + strlen(image->attributes[i].key);
	list = malloc(room);
	if (!list) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	used = add_name(list, used, "id");
	used = add_name(list, used, "store");
	error = image_error(image);
	if (error)
		used = add_name(list, used, "error");
	for (size_t i = 0; i < image->attribute_count; i++)
		if (!is_own_key(image->attributes[i].key))
			used = add_name(list, used, image->attributes[i].key);
	reply_text(req, list, used, size);
}

static void fs_statfs(fuse_req_t req, fuse_ino_t node)
{
	struct listing *listing = catalog_last(fs_of(req)->catalog);
	struct statvfs fs = {
		.f_bsize = BLOCK_SIZE,
		.f_frsize = SECTOR,
		.f_files = listing->count,
		.f_namemax = NAME_MAX,
		.f_flag = ST_RDONLY,
	};

	for (size_t i = 0; i < listing->count; i++) {
		const struct image *image = listing->images[i];

		fs.f_blocks += (image->allocated == UINT64_MAX ? image->size
							       : image->allocated) /
			       SECTOR;
	}
	listing_unref(listing);
	fuse_reply_statfs(req, &fs);
}

/* ---- begin and end ---- */

static void fs_init(void *userdata, struct fuse_conn_info *conn)
{
	struct fs *fs = userdata;

	conn->max_read = REQUEST_MAX;
	conn->max_background = BACKGROUND_MAX;
	conn->congestion_threshold = BACKGROUND_MAX / 4 * 3;
	/* What an image holds cannot change under its node, so nothing is invalidated. */
	conn->want &= ~(unsigned int)FUSE_CAP_AUTO_INVAL_DATA;
	/* A direct read that waits must be answerable to Ctrl-C; the kernel waits for an
	 * asynchronous one without listening. */
	conn->want &= ~(unsigned int)FUSE_CAP_ASYNC_DIO;
	eventfd_write(fs->ready_fd, 1);
}

void fs_close_all(struct fs *fs)
{
	struct open_file *file;

	while ((file = LIST_FIRST(&fs->files)))
		close_file(fs, file);
}

const struct fuse_lowlevel_ops fs_operations = {
	.init = fs_init,
	.lookup = fs_lookup,
	.forget = fs_forget,
	.forget_multi = fs_forget_multi,
	.getattr = fs_getattr,
	.opendir = fs_opendir,
	.readdir = fs_readdir,
	.readdirplus = fs_readdirplus,
	.releasedir = fs_releasedir,
	.open = fs_open,
	.read = fs_read,
	.release = fs_release,
	.lseek = fs_lseek,
	.getxattr = fs_getxattr,
	.listxattr = fs_listxattr,
	.statfs = fs_statfs,
};
