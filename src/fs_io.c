/* SPDX-License-Identifier: MIT */
/*
 * What libfuse 3.14 cannot tell the kernel: that files opened for direct I/O can be mapped
 * into memory nonetheless (Linux 6.6, FUSE_DIRECT_IO_ALLOW_MMAP; others ignore it).  The
 * flag is put into the reply to FUSE_INIT, which is the first thing that is written.
 */
#include <errno.h>
#include <linux/fuse.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "fs-session.h"

#define ALLOW_MMAP_2 (1u << 4) /* bit 36 of the flags, in flags2 */

static ssize_t read_request(int fd, void *data, size_t size, void *context)
{
	return read(fd, data, size);
}

static ssize_t write_reply(int fd, struct iovec *iov, int count, void *context)
{
	struct fs *fs = context;
	struct fuse_init_out init;
	struct iovec patched[2];

	if (fs->began || atomic_exchange(&fs->began, true) || count != 2 ||
	    iov[1].iov_len != sizeof(init))
		return writev(fd, iov, count);
	memcpy(&init, iov[1].iov_base, sizeof(init));
	init.flags |= FUSE_INIT_EXT;
	init.flags2 |= ALLOW_MMAP_2;
	patched[0] = iov[0];
	patched[1] = (struct iovec){&init, sizeof(init)};
	return writev(fd, patched, 2);
}

int session_set_io(struct fs *fs)
{
	static const struct fuse_custom_io io = {.read = read_request,
						 .writev = write_reply};

	return fuse_session_custom_io(fs->session, &io, fuse_session_fd(fs->session));
}
