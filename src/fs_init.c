/* SPDX-License-Identifier: MIT */
/*
 * What libfuse 3.14 cannot tell the kernel: that files opened for direct I/O can be mapped
 * into memory nonetheless (Linux 6.6, FUSE_DIRECT_IO_ALLOW_MMAP; others ignore it).  For
 * that libfuse's reply to FUSE_INIT, before which the kernel asks nothing else, is led
 * into a pipe, and sent on with the flag.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "fs-session.h"

#define ALLOW_MMAP_2 (1u << 4) /* bit 36 of the flags, in flags2 */

struct reply {
	struct fuse_out_header header;
	struct fuse_init_out init;
};

/* Send the reply in @pipe on to @fd. */
static int send_on(int pipe, int fd)
{
	struct reply reply;
	ssize_t n = read(pipe, &reply, sizeof(reply));

	if (n < 0)
		return -errno;
	if (n == sizeof(reply) && !reply.header.error) {
		reply.init.flags |= FUSE_INIT_EXT;
		reply.init.flags2 |= ALLOW_MMAP_2;
	}
	return write(fd, &reply, (size_t)n) < 0 ? -errno : 0;
}

int session_begin(struct fs *fs, const struct fuse_buf *buffer)
{
	int fd = fuse_session_fd(fs->session);
	CLEANUP(closep) int kernel = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	CLEANUP(closep) int from = -1;
	CLEANUP(closep) int to = -1;
	int fds[2];

	if (kernel < 0 || pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
		return -errno;
	from = fds[0];
	to = fds[1];
	if (dup3(to, fd, O_CLOEXEC) < 0)
		return -errno;
	fuse_session_process_buf(fs->session, buffer);
	if (dup3(kernel, fd, O_CLOEXEC) < 0)
		return -errno;
	return send_on(from, fd);
}
