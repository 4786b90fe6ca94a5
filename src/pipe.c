/* SPDX-License-Identifier: MIT */
#include <fcntl.h>

#include "pipe.h"

size_t pipe_enlarge(int fd, size_t most)
{
	int now = fcntl(fd, F_GETPIPE_SZ);

	if (now < 0)
		return 0;
	for (size_t size = most; size > (size_t)now; size /= 2) {
		int granted = fcntl(fd, F_SETPIPE_SZ, (int)size);

		if (granted >= 0)
			return (size_t)granted;
	}
	return (size_t)now;
}
