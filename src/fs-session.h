/* SPDX-License-Identifier: MIT */
/*
 * fs-session - what the file system's operations (fs.c, fs_names.c, fs_files.c,
 * fs_xattr.c) and its session with the kernel (session.c) share; nobody else includes it.
 */
#ifndef IMAGEFS_FS_SESSION_H
#define IMAGEFS_FS_SESSION_H

#include <fuse_lowlevel.h>
#include <pthread.h>
#include <sys/queue.h>
#include <sys/stat.h>
#include <time.h>

#include "fs.h"

#define REQUEST_MAX (1u << 20) /* bytes of one read; libfuse 3.14 goes no further */
#define ENTRY_SECONDS 1.0 /* how long the kernel trusts a name */
#define ATTR_SECONDS 86400.0 /* a version of an image does not change */

/*
 * The nodes that are no images, by their numbers; any other node is the address of a
 * struct image.
 */
enum {
	NODE_ROOT = FUSE_ROOT_ID,
	NODE_HIDDEN, /* .imagefs, which readdir does not show */
	NODE_BY_ID, /* .imagefs/by-id: the images by their ids */
	NODE_STATS,
	NODE_LOG,
	NODES,
};

/* A request that is looked at again.  Embedded in what @look needs. */
struct watched {
	LIST_ENTRY(watched) link;
	uint64_t every_ms, due_ms;
	bool is_watched;
	/*
	 * Called on the watch's thread with its lock held.  Returns true if the request
	 * was dealt with, and @watched is gone.
	 */
	bool (*look)(struct watched *watched);
	/* The same, for the last time, by watch_end().  NULL: others deal with it. */
	void (*end)(struct watched *watched);
};

/* The thread that looks (fs_watch.c).  The lock is taken before that of a pool. */
struct watch {
	pthread_t thread;
	pthread_mutex_t lock; /* guards the rest */
	pthread_cond_t wanted;
	LIST_HEAD(watched_list, watched) list;
	bool ending;
};

/* Returns 0 or a negative errno. */
int watch_init(struct watch *watch);

/* End the thread; the second time it does nothing. */
void watch_end(struct watch *watch);
void watch_fini(struct watch *watch);

/* From here on it is looked at every @watched->every_ms.  Any thread. */
void watch_add(struct watch *watch, struct watched *watched);

/* It is not any more; waits for a look that is under way.  Nothing if it was not. */
void watch_remove(struct watch *watch, struct watched *watched);

/*
 * Whether the thread @pid, interrupted in a call, has been told to end: it is gone, dies,
 * or has a signal that is sent to end programs.
 */
bool fs_is_told_to_end(pid_t pid);

struct open_file;
struct open_folder;

struct fs {
	/* constant */
	const struct options *options;
	struct engine *engine;
	struct catalog *catalog;
	struct fuse_session *session;
	uid_t uid;
	gid_t gid;
	struct timespec started;
	size_t request_max; /* bytes of one read */
	size_t pass_most; /* bytes of one that can be passed on by a pipe, at most */
	int ready_fd; /* an eventfd: the kernel has begun the session */
	int ended_fd; /* an eventfd: a worker has seen the session's end */
	char *device; /* "MAJOR:MINOR" of the mount */
	bool began; /* the kernel was answered for the first time; the receiver's */
	bool watching; /* watch has been started */
	struct watch watch;
	pthread_mutex_t receiver; /* held by the worker that takes requests */
	pthread_mutex_t lock; /* guards the rest */
	LIST_HEAD(open_files, open_file) files;
	LIST_HEAD(open_folders, open_folder) folders;
	LIST_HEAD(nodes, image)
	nodes; /* those that the kernel remembers; a reference each */
};

extern const struct fuse_lowlevel_ops fs_operations;

static inline struct fs *fs_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

static inline struct image *image_of(fuse_ino_t node)
{
	return (struct image *)(uintptr_t)node;
}

static inline bool is_image(fuse_ino_t node)
{
	return node >= NODES;
}

/* The attributes of a node that is no image, and those of one that is. */
void fs_fill_own(const struct fs *fs, fuse_ino_t node, struct stat *st);
void fs_fill_image(const struct fs *fs, const struct image *image, struct stat *st);

/* The same for a lookup. */
void fs_fill_own_entry(const struct fs *fs, fuse_ino_t node,
		       struct fuse_entry_param *entry);
void fs_fill_entry(const struct fs *fs, struct image *image,
		   struct fuse_entry_param *entry);

/* The kernel is about to remember a lookup of the image; or it forgets @count of them. */
void fs_remember(struct fs *fs, struct image *image);
void fs_forget_some(struct fs *fs, fuse_ino_t node, uint64_t count);

/* Give up all nodes: the kernel does not say that it forgets them when it unmounts. */
void fs_forget_all(struct fs *fs);

/* The same for folders that are open. */
void fs_close_folders(struct fs *fs);

/* The text of the node, one of NODE_STATS and NODE_LOG, for the caller to free, or NULL. */
char *fs_text_of(struct fs *fs, fuse_ino_t node);

/* Let another worker take requests: this one has something longer to do. */
void session_hand_over(struct fs *fs);

/* The number of the request that this thread deals with (fuse_in_header.unique). */
uint64_t session_unique(void);

/* Answer the kernel's first request (fs_init.c).  Returns 0 or a negative errno. */
int session_begin(struct fs *fs, const struct fuse_buf *buffer);

/* The operations, as libfuse documents them. */
void fs_lookup(fuse_req_t req, fuse_ino_t parent, const char *name);
void fs_opendir(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *info);
void fs_readdir(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset,
		struct fuse_file_info *info);
void fs_readdirplus(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset,
		    struct fuse_file_info *info);
void fs_releasedir(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *info);
void fs_open(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *info);
void fs_release(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *info);
void fs_read(fuse_req_t req, fuse_ino_t node, size_t size, off_t offset,
	     struct fuse_file_info *info);
void fs_lseek(fuse_req_t req, fuse_ino_t node, off_t offset, int whence,
	      struct fuse_file_info *info);
void fs_getxattr(fuse_req_t req, fuse_ino_t node, const char *name, size_t size);
void fs_listxattr(fuse_req_t req, fuse_ino_t node, size_t size);

#endif
