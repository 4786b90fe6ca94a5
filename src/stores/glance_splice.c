/* SPDX-License-Identifier: MIT */
/*
 * A long answer over plain HTTP is taken from its socket and moved into the pipe without a
 * copy, once libcurl has made sense of its head.  Measured (1 GiB from a Glance on the same
 * machine, 2 processors, cp to a tmpfs): 0.7 times the rate of curl without, 0.9 with it.
 *
 * libcurl is told to pause, and then to drop the request; what it closes then is the
 * socket that is taken over, by CURLOPT_CLOSESOCKETFUNCTION.  It must not have read more
 * than it has handed out.  That is not taken on trust: bytes that the kernel has received,
 * less those that wait, are those that libcurl has read, which must be the head and the
 * bytes that are known.  If not (another libcurl, a proxy, TLS, a body in chunks) all goes
 * through libcurl.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cleanup.h"
#include "glance-fetch.h"

#define COUNT_TRIES 100

static bool has_proxy(void)
{
	static const char *const names[] = {"http_proxy", "all_proxy", "ALL_PROXY"};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		const char *value = getenv(names[i]);

		if (value && *value)
			return true;
	}
	return false;
}

bool fetch_can_splice(const struct fetch *fetch)
{
	const char *url = NULL;
	curl_off_t length = -1;

	curl_easy_getinfo(fetch->easy, CURLINFO_EFFECTIVE_URL, &url);
	curl_easy_getinfo(fetch->easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
	if (fetch->image->no_splice)
		return false;
	if (!url || strncasecmp(url, "http:", 5) != 0 || length < 0 || has_proxy())
		return false;
	return fetch->end == UINT64_MAX ||
	       (uint64_t)length == fetch->range_end - fetch->range_start;
}

static curl_socket_t open_socket(void *context, curlsocktype purpose,
				 struct curl_sockaddr *address)
{
	struct fetch *fetch = context;
	int fd = socket(address->family, address->socktype | SOCK_CLOEXEC,
			address->protocol);

	if (fd >= 0 && fetch->socket_count < FETCH_SOCKETS_MAX)
		fetch->sockets[fetch->socket_count++] = fd;
	return fd < 0 ? CURL_SOCKET_BAD : fd;
}

static int close_socket(void *context, curl_socket_t fd)
{
	struct fetch *fetch = context;

	for (unsigned i = 0; i < fetch->socket_count; i++)
		if (fetch->sockets[i] == fd)
			fetch->sockets[i--] = fetch->sockets[--fetch->socket_count];
	if (!fetch->keeps_socket || fd != fetch->taken)
		return close(fd);
	fetch->keeps_socket = false;
	return 0;
}

void fetch_init_splice(struct fetch *fetch)
{
	fetch->taken = -1;
	curl_easy_setopt(fetch->easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
	curl_easy_setopt(fetch->easy, CURLOPT_OPENSOCKETDATA, fetch);
	curl_easy_setopt(fetch->easy, CURLOPT_CLOSESOCKETFUNCTION, close_socket);
	curl_easy_setopt(fetch->easy, CURLOPT_CLOSESOCKETDATA, fetch);
}

void fetch_forget_sockets(struct fetch *fetch)
{
	fetch->socket_count = 0;
}

uint64_t fetch_limit(const struct fetch *fetch)
{
	return fetch->end == UINT64_MAX ? fetch->image->size : fetch->range_end;
}

/* The bytes that came on the connection @fd and were read.  Returns whether it is known. */
static bool count_read(int fd, uint64_t *ret_count)
{
	for (int i = 0; i < COUNT_TRIES; i++) {
		struct tcp_info before = {0}, after = {0};
		socklen_t size = sizeof(before);
		int waiting = 0;

		if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &before, &size) < 0 ||
		    size < offsetof(struct tcp_info, tcpi_bytes_received) + 8 ||
		    ioctl(fd, SIOCINQ, &waiting) < 0 ||
		    getsockopt(fd, IPPROTO_TCP, TCP_INFO, &after, &size) < 0)
			return false;
		/* Else some came in between. */
		if (before.tcpi_bytes_received == after.tcpi_bytes_received) {
			*ret_count = after.tcpi_bytes_received - (uint64_t)waiting;
			return true;
		}
	}
	return false;
}

/* Whether the bytes that were read from @fd are those that are known. */
static bool is_in_step(const struct fetch *fetch, int fd, uint64_t known)
{
	uint64_t count;

	return count_read(fd, &count) && count == known;
}

bool fetch_begin_splice(struct fetch *fetch)
{
	uint64_t known = window_end(fetch->window) - fetch->start;
	long head_size = 0;
	/* Of addresses that are tried side by side, those that lost are closed. */
	int fd = fetch->socket_count == 1 ? fetch->sockets[0] : -1;

	curl_easy_getinfo(fetch->easy, CURLINFO_HEADER_SIZE, &head_size);
	known += head_size;
	fetch->way = WAY_WINDOW;
	if (fd < 0 || !is_in_step(fetch, fd, known)) {
		fetch->image->no_splice = true;
		curl_easy_pause(fetch->easy, CURLPAUSE_CONT);
		return false;
	}
	fetch->taken = fd;
	fetch->keeps_socket = true;
	curl_multi_remove_handle(fetch->image->multi, fetch->easy);
	if (fetch->keeps_socket || !is_in_step(fetch, fd, known)) {
		/* It still has the socket, or has read from it on the way out. */
		fetch->image->no_splice = true;
		if (fetch->keeps_socket)
			fetch->taken = -1;
		fetch->keeps_socket = false;
		fetch_end_splice(fetch);
		fetch->is_running = false;
		return false;
	}
	fetch->way = WAY_SPLICE;
	return true;
}

void fetch_end_splice(struct fetch *fetch)
{
	if (fetch->taken >= 0)
		close(fetch->taken);
	fetch->taken = -1;
}

ssize_t fetch_splice(struct fetch *fetch, int to, size_t size)
{
	int fd = fetch->taken;
	ssize_t moved;

	do
		moved = to < 0 ? recv(fd, NULL, size, MSG_TRUNC | MSG_DONTWAIT)
			       : splice(fd, NULL, to, NULL, size,
					SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
	while (moved < 0 && errno == EINTR);
	if (moved < 0 && (errno == EAGAIN || errno == EPIPE))
		return -errno;
	if (moved <= 0)
		return 0;
	fetch->window->offset += moved;
	fetch->heard_ms = glance_now_ms();
	return moved;
}
