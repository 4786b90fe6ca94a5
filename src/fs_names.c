/* SPDX-License-Identifier: MIT */
/*
 * fs_names - lookups and directories: answered when the catalog has a listing.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cleanup.h"
#include "fs-session.h"

#define HIDDEN_NAME ".imagefs"

/* What is in the hidden folder. */
static const struct {
	const char *name;
	fuse_ino_t node;
} hidden[] = {
	{"by-id", NODE_BY_ID},
	{"log", NODE_LOG},
	{"stats", NODE_STATS},
};

/* A request that waits for a listing. */
struct waiting {
	struct catalog_wait wait; /* first: it is cast back */
	fuse_req_t req;
	struct fuse_file_info info; /* opendir */
	bool by_id; /* lookup: the name is an id's */
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
	struct image *image = NULL;

	/*
	 * What was listed before can be looked up when the store cannot be listed: what is
	 * read is asked for by its version, and who can read nothing is told why.
	 */
	if (listing && waiting->by_id &&
	    listing_find_id(listing, waiting->name, &image) < 0)
		err = -ENOMEM;
	else if (listing && !waiting->by_id)
		image = listing_find(listing, waiting->name);
	if (!image) {
		fuse_reply_err(waiting->req, err ? -err : ENOENT);
		return;
	}
	fs = fs_of(waiting->req);
	fs_fill_entry(fs, image, &entry);
	fs_remember(fs, image);
	/* The kernel does not remember what it was interrupted in. */
	if (fuse_reply_entry(waiting->req, &entry) < 0)
		fs_forget_some(fs, entry.ino, 1);
}

/* Answer a lookup that needs no listing.  Returns whether it was one. */
static bool look_up_own(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param entry;
	fuse_ino_t node = 0;

	if (parent == NODE_ROOT && !strcmp(name, HIDDEN_NAME))
		node = NODE_HIDDEN;
	for (size_t i = 0; parent == NODE_HIDDEN && i < ARRAY_SIZE(hidden); i++)
		if (!strcmp(name, hidden[i].name))
			node = hidden[i].node;
	if (node) {
		fs_fill_own_entry(fs_of(req), node, &entry);
		fuse_reply_entry(req, &entry);
	} else if (parent != NODE_ROOT && parent != NODE_BY_ID) {
		fuse_reply_err(req, parent == NODE_HIDDEN ? ENOENT : ENOTDIR);
	} else {
		return false;
	}
	return true;
}

void fs_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct waiting *waiting;

	if (look_up_own(req, parent, name))
		return;
	waiting = waiting_new(req, name);
	if (!waiting)
		return;
	waiting->by_id = parent == NODE_BY_ID;
	waiting->wait.done = lookup_done;
	catalog_get(fs_of(req)->catalog, &waiting->wait);
}

/* An open folder, which goes on showing what it showed at first. */
struct open_folder {
	LIST_ENTRY(open_folder) link;
	struct listing *listing;
};

static void close_folder(struct fs *fs, struct open_folder *folder)
{
	pthread_mutex_lock(&fs->lock);
	LIST_REMOVE(folder, link);
	pthread_mutex_unlock(&fs->lock);
	listing_unref(folder->listing);
	free(folder);
}

void fs_close_folders(struct fs *fs)
{
	while (!LIST_EMPTY(&fs->folders))
		close_folder(fs, LIST_FIRST(&fs->folders));
}

static void opendir_done(struct catalog_wait *wait, int err, struct listing *listing)
{
	CLEANUP(freep) struct waiting *waiting = (struct waiting *)wait;
	struct open_folder *folder = err ? NULL : calloc(1, sizeof(*folder));
	struct fs *fs = fs_of(waiting->req);

	if (!folder) {
		fuse_reply_err(waiting->req, err ? -err : ENOMEM);
		return;
	}
	folder->listing = listing_ref(listing);
	pthread_mutex_lock(&fs->lock);
	LIST_INSERT_HEAD(&fs->folders, folder, link);
	pthread_mutex_unlock(&fs->lock);
	waiting->info.fh = (uint64_t)(uintptr_t)folder;
	if (fuse_reply_open(waiting->req, &waiting->info) < 0)
		close_folder(fs, folder);
}

void fs_opendir(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *info)
{
	struct waiting *waiting;

	if (node == NODE_HIDDEN) {
		info->fh = 0;
		fuse_reply_open(req, info);
		return;
	}
	if (node != NODE_ROOT && node != NODE_BY_ID) {
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

static struct open_folder *folder_of(const struct fuse_file_info *info)
{
	return (struct open_folder *)(uintptr_t)info->fh;
}

/* NULL: of the hidden folder. */
static const struct listing *listing_of(struct fs *fs, const struct fuse_file_info *info)
{
	const struct open_folder *folder = folder_of(info);
	const struct listing *listing;

	if (!folder)
		return NULL;
	/* Another thread made it, of which the thread sanitizer sees nothing else. */
	pthread_mutex_lock(&fs->lock);
	listing = folder->listing;
	pthread_mutex_unlock(&fs->lock);
	return listing;
}

void fs_releasedir(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *info)
{
	if (folder_of(info))
		close_folder(fs_of(req), folder_of(info));
	fuse_reply_err(req, 0);
}

/*
 * The @index-th entry of a folder: its name, for the caller to free if it is in *@ret_own,
 * and its node.  Returns false behind the last, or without memory.
 */
static bool find_entry(const struct fs *fs, fuse_ino_t folder,
		       const struct listing *listing, size_t index, const char **ret_name,
		       char **ret_own, struct fuse_entry_param *entry)
{
	static const char *const dots[] = {".", ".."};
	struct image *image;

	*entry = (struct fuse_entry_param){0};
	if (index < ARRAY_SIZE(dots)) {
		*ret_name = dots[index];
		fs_fill_own(fs, folder, &entry->attr);
		return true;
	}
	index -= ARRAY_SIZE(dots);
	if (folder == NODE_HIDDEN) {
		if (index >= ARRAY_SIZE(hidden))
			return false;
		*ret_name = hidden[index].name;
		fs_fill_own_entry(fs, hidden[index].node, entry);
		return true;
	}
	if (index >= listing->count)
		return false;
	image = listing->images[index];
	*ret_name = image->file_name;
	if (folder == NODE_BY_ID)
		*ret_name = *ret_own = listing_id_name(image);
	fs_fill_entry(fs, image, entry);
	return *ret_name;
}

/* The size of an entry, put into @data if @size is enough for it; 0: there is none. */
static size_t add_entry(fuse_req_t req, fuse_ino_t folder, char *data, size_t size,
			const struct listing *listing, size_t index, bool plus)
{
	CLEANUP(freep) char *own = NULL;
	struct fuse_entry_param entry;
	const char *name;
	size_t used;

	if (!find_entry(fs_of(req), folder, listing, index, &name, &own, &entry))
		return 0;
	if (!plus)
		return fuse_add_direntry(req, data, size, name, &entry.attr,
					 (off_t)index + 1);
	used = fuse_add_direntry_plus(req, data, size, name, &entry, (off_t)index + 1);
	/* Each entry with a node is a lookup that the kernel will forget. */
	if (used <= size && is_image(entry.ino))
		fs_remember(fs_of(req), image_of(entry.ino));
	return used;
}

static void read_directory(fuse_req_t req, fuse_ino_t folder, size_t size, off_t offset,
			   const struct fuse_file_info *info, bool plus)
{
	const struct listing *listing = listing_of(fs_of(req), info);
	CLEANUP(freep) char *data = malloc(size);
	size_t used = 0, more;

	if (!data || offset < 0) {
		fuse_reply_err(req, data ? EINVAL : ENOMEM);
		return;
	}
	for (size_t i = (size_t)offset;; i++) {
		more = add_entry(req, folder, data + used, size - used, listing, i, plus);
		if (!more || more > size - used)
			break;
		used += more;
	}
	fuse_reply_buf(req, data, used);
}

void fs_readdir(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset,
		struct fuse_file_info *info)
{
	read_directory(req, node, size, offset, info, false);
}

void fs_readdirplus(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset,
		    struct fuse_file_info *info)
{
	read_directory(req, node, size, offset, info, true);
}
