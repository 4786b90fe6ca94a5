/* SPDX-License-Identifier: MIT */
/*
 * fs-session - what the file system's operations (fs.c) and its session with the kernel
 * (session.c) share; nobody else includes it.
 */
#ifndef IMAGEFS_FS_SESSION_H
#define IMAGEFS_FS_SESSION_H

#include <fuse_lowlevel.h>
#include <pthread.h>
#include <sys/queue.h>
#include <time.h>

#include "fs.h"

#define REQUEST_MAX (1u << 20) /* bytes of one read; libfuse 3.14 goes no further */

struct open_file;

struct fs {
	/* constant */
	const struct options *options;
	struct engine *engine;
	struct catalog *catalog;
	struct fuse_session *session;
	uid_t uid;
	gid_t gid;
	struct timespec started;
	int ready_fd; /* an eventfd: the kernel has begun the session */
	int ended_fd; /* an eventfd: a worker has seen the session's end */
	pthread_mutex_t receiver; /* held by the worker that takes requests */
	pthread_mutex_t lock; /* guards the rest */
	LIST_HEAD(open_files, open_file) files;
	LIST_HEAD(nodes, image) nodes; /* those that the kernel remembers; a reference each */
};

extern const struct fuse_lowlevel_ops fs_operations;

/* Give up all nodes: the kernel does not say that it forgets them when it unmounts. */
void fs_forget_all(struct fs *fs);

/* Let another worker take requests: this one has something longer to do. */
void session_hand_over(struct fs *fs);

#endif
