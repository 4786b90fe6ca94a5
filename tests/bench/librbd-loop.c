/* SPDX-License-Identifier: MIT */
/*
 * librbd-loop - the least that reads an image with librbd, to measure others by.
 *
 *	librbd-loop POOL IMAGE [out]
 *
 * Reads all of IMAGE once, four reads of 4 MiB under way at a time, in order; with "out"
 * it writes the bytes to standard output.  The cluster is that of CEPH_CONF.
 */
#include <rbd/librbd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEPTH 4
#define PIECE ((size_t)4 << 20)

static void check(int result, const char *what)
{
	if (result >= 0)
		return;
	fprintf(stderr, "librbd-loop: %s: %s\n", what, strerror(-result));
	exit(1);
}

static void write_all(const char *data, size_t size)
{
	while (size > 0) {
		ssize_t written = write(STDOUT_FILENO, data, size);

		if (written < 0) {
			perror("librbd-loop: write");
			exit(1);
		}
		data += written;
		size -= written;
	}
}

static void begin(rbd_image_t image, uint64_t offset, uint64_t end, char *buffer,
		  rbd_completion_t *ret_completion)
{
	size_t length = end - offset < PIECE ? end - offset : PIECE;

	check(rbd_aio_create_completion(NULL, NULL, ret_completion), "completion");
	check(rbd_aio_read(image, offset, length, buffer, *ret_completion), "read");
}

static void read_all(rbd_image_t image, int is_written)
{
	rbd_completion_t completions[DEPTH];
	char *buffers[DEPTH];
	uint64_t size, next = 0;

	check(rbd_get_size(image, &size), "size");
	for (int i = 0; i < DEPTH; i++) {
		buffers[i] = malloc(PIECE);
		if (!buffers[i])
			check(-1, "memory");
		memset(buffers[i], 1, PIECE);
	}
	for (; next < DEPTH * PIECE && next < size; next += PIECE)
		begin(image, next, size, buffers[next / PIECE],
		      &completions[next / PIECE]);
	for (uint64_t done = 0; done < size; done += PIECE) {
		int slot = done / PIECE % DEPTH;
		ssize_t got;

		rbd_aio_wait_for_complete(completions[slot]);
		got = rbd_aio_get_return_value(completions[slot]);
		rbd_aio_release(completions[slot]);
		check((int)got, "read");
		if (is_written)
			write_all(buffers[slot], got);
		if (next < size)
			begin(image, next, size, buffers[slot], &completions[slot]);
		next += PIECE;
	}
}

int main(int argc, char **argv)
{
	rados_t cluster;
	rados_ioctx_t pool;
	rbd_image_t image;

	if (argc < 3) {
		fprintf(stderr, "usage: librbd-loop POOL IMAGE [out]\n");
		return 2;
	}
	check(rados_create(&cluster, "admin"), "cluster");
	check(rados_conf_read_file(cluster, NULL), "configuration");
	check(rados_connect(cluster), "connect");
	check(rados_ioctx_create(cluster, argv[1], &pool), "pool");
	check(rbd_open_read_only(pool, argv[2], &image, NULL), "image");
	read_all(image, argc > 3);
	rbd_close(image);
	rados_ioctx_destroy(pool);
	rados_shutdown(cluster);
	return 0;
}
