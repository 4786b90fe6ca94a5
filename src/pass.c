/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cleanup.h"
#include "pass.h"
#include "pipe.h"

#define PAGE 4096u
#define SPARE (2 * PAGE) /* for the header, and where bytes do not begin with a page */
#define SIZE_MOST (2u << 20)
#define SIZE_LEAST (256u << 10)

/* Make a pipe that is as large as the system lets it be. */
static int open_pipe(struct pass *pass)
{
	if (pipe2(pass->fds, O_CLOEXEC | O_NONBLOCK) < 0)
		return -errno;
	pass->size = pipe_enlarge(pass->fds[1], SIZE_MOST);
	if (pass->size >= SIZE_LEAST)
		return 0;
	pass_fini(pass);
	return -ENOMEM;
}

size_t pass_most(void)
{
	struct pass pass = PASS_INIT;
	size_t size = open_pipe(&pass) < 0 ? 0 : pass.size - SPARE;

	pass_fini(&pass);
	return size;
}

void pass_fini(struct pass *pass)
{
	closep(&pass->fds[0]);
	closep(&pass->fds[1]);
	*pass = PASS_INIT;
}

static int give_up_header(struct pass *pass)
{
	unsigned char header[PASS_HEADER_MAX];

	if (pass->header &&
	    read(pass->fds[0], header, pass->header) != (ssize_t)pass->header)
		return -EIO;
	pass->header = 0;
	return 0;
}

int pass_begin(struct pass *pass, const void *header, size_t header_size, size_t size)
{
	int ret = pass->fds[0] < 0 ? open_pipe(pass) : 0;

	if (ret < 0)
		return ret;
	if (size > pass->size - SPARE || header_size > sizeof(pass->copy))
		return -EMSGSIZE;
	ret = give_up_header(pass);
	if (ret < 0)
		return ret;
	if (write(pass->fds[1], header, header_size) != (ssize_t)header_size) {
		pass_fini(pass);
		return -EIO;
	}
	memcpy(pass->copy, header, header_size);
	pass->header = header_size;
	pass->gathered = 0;
	return 0;
}

ssize_t pass_readv(struct pass *pass, const struct iovec *iov, int count)
{
	int ret = give_up_header(pass);
	ssize_t n;

	if (ret < 0)
		return ret;
	n = readv(pass->fds[0], iov, count);
	if (n < 0)
		return -errno;
	pass->gathered -= (size_t)n;
	return n;
}

bool pass_is_of(const struct pass *pass, const void *header, size_t header_size)
{
	return header && pass->header == header_size &&
	       !memcmp(pass->copy, header, header_size);
}

bool pass_is_whole(const struct pass *pass)
{
	int held = 0;

	return !ioctl(pass->fds[0], FIONREAD, &held) && held > 0 &&
	       (size_t)held == pass->header + pass->gathered;
}

void pass_done(struct pass *pass)
{
	pass->header = pass->gathered = 0;
}
