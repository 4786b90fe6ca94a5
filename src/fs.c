/* SPDX-License-Identifier: MIT */
/*
 * A node of the kernel's is a struct image, that is, one version of an image: the name of
 * a changed image comes to mean another node, and nothing of the old one is mixed into
 * it. Each lookup that the kernel remembers holds a reference.
 */
#include <limits.h>
#include <sys/eventfd.h>
#include <sys/statvfs.h>

#include "cleanup.h"
#include "fs-session.h"

#define BLOCK_SIZE (1u << 20)
#define SECTOR 512
#define BACKGROUND_MAX \
	4096 /* reads ahead of files that hang must leave room for others */

/* ---- nodes and attributes ---- */

static bool is_folder(fuse_ino_t node)
{
	return node == NODE_ROOT || node == NODE_HIDDEN || node == NODE_BY_ID;
}

void fs_fill_own(const struct fs *fs, fuse_ino_t node, struct stat *st)
{
	mode_t mode = (mode_t)fs->options->mode & 0444;

	*st = (struct stat){
		.st_ino = node,
		.st_mode = is_folder(node) ? S_IFDIR | mode | mode >> 2 | 0500
					   : S_IFREG | mode | 0400,
		.st_nlink = is_folder(node) ? 2 : 1,
		.st_uid = fs->uid,
		.st_gid = fs->gid,
		.st_blksize = BLOCK_SIZE,
		.st_mtim = fs->started,
		.st_ctim = fs->started,
		.st_atim = fs->started,
	};
}

void fs_fill_own_entry(const struct fs *fs, fuse_ino_t node,
		       struct fuse_entry_param *entry)
{
	*entry = (struct fuse_entry_param){
		.ino = node,
		.attr_timeout = ATTR_SECONDS,
		.entry_timeout = ATTR_SECONDS,
	};
	fs_fill_own(fs, node, &entry->attr);
}

void fs_fill_image(const struct fs *fs, const struct image *image, struct stat *st)
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

void fs_fill_entry(const struct fs *fs, struct image *image,
		   struct fuse_entry_param *entry)
{
	*entry = (struct fuse_entry_param){
		.ino = (fuse_ino_t)(uintptr_t)image,
		.attr_timeout = ATTR_SECONDS,
		.entry_timeout = ENTRY_SECONDS,
	};
	fs_fill_image(fs, image, &entry->attr);
}

static void fs_getattr(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *info)
{
	struct stat st;

	if (is_image(node))
		fs_fill_image(fs_of(req), image_of(node), &st);
	else
		fs_fill_own(fs_of(req), node, &st);
	fuse_reply_attr(req, &st, ATTR_SECONDS);
}

void fs_remember(struct fs *fs, struct image *image)
{
	pthread_mutex_lock(&fs->lock);
	if (!image->lookups++) {
		image_ref(image);
		LIST_INSERT_HEAD(&fs->nodes, image, link);
	}
	pthread_mutex_unlock(&fs->lock);
}

void fs_forget_some(struct fs *fs, fuse_ino_t node, uint64_t count)
{
	struct image *image = image_of(node);
	bool last;

	if (!is_image(node))
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
		fs_forget_some(fs, (fuse_ino_t)(uintptr_t)image, image->lookups);
}

static void fs_forget(fuse_req_t req, fuse_ino_t node, uint64_t count)
{
	fs_forget_some(fs_of(req), node, count);
	fuse_reply_none(req);
}

static void fs_forget_multi(fuse_req_t req, size_t count,
			    struct fuse_forget_data *forgets)
{
	for (size_t i = 0; i < count; i++)
		fs_forget_some(fs_of(req), forgets[i].ino, forgets[i].nlookup);
	fuse_reply_none(req);
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

	conn->max_read = (unsigned int)fs->request_max;
	conn->max_background = BACKGROUND_MAX;
	conn->congestion_threshold = BACKGROUND_MAX / 4 * 3;
	/* What an image holds cannot change under its node, so nothing is invalidated. */
	conn->want &= ~(unsigned int)FUSE_CAP_AUTO_INVAL_DATA;
	/* A direct read that waits must be answerable to Ctrl-C; the kernel waits for an
	 * asynchronous one without listening. */
	conn->want &= ~(unsigned int)FUSE_CAP_ASYNC_DIO;
	eventfd_write(fs->ready_fd, 1);
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
