/* SPDX-License-Identifier: MIT */
/*
 * pipe - how much a pipe holds.
 */
#ifndef IMAGEFS_PIPE_H
#define IMAGEFS_PIPE_H

#include <stddef.h>

#define PIPE_BYTES ((size_t)1 << 20) /* what anybody may have, as the system is set up */

/*
 * Make the pipe @fd as large as the system lets it, up to @most bytes (F_SETPIPE_SZ; the
 * limits are fs/pipe-max-size and fs/pipe-user-pages-soft, pipe(7)); a refusal is no
 * error.  Returns its size in bytes, or 0 if it is no pipe.
 */
size_t pipe_enlarge(int fd, size_t most);

#endif
