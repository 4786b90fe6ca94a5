/* SPDX-License-Identifier: MIT */
/*
 * A store for tests: its bytes are computed from their offset, and it does wrong as it is
 * told to.  The URI, fake:///FOLDER, names a folder that a test has made:
 *
 *   FOLDER/images.jsonl  what list prints, byte for byte
 *   FOLDER/sizes/ID      the size: an ask beyond it is a line "bad ask" of the log
 *   FOLDER/extents/ID    what extents prints; the bytes elsewhere are zeros
 *   FOLDER/gone/ID       there: the image is gone
 *   FOLDER/faults/WHAT   what goes wrong (fault.h); FOLDER/fired/ and FOLDER/marks/ are its
 *   FOLDER/sent/ID       the bytes of the image that all its readers ever sent: a number of
 *                        64 bits
 *   FOLDER/log           what was called: "PID list", "PID read ID", "PID ask ID OFFSET
 *                        LENGTH", "PID end ID" (of input), "PID exit STATUS"
 *
 * In file names, bytes of an ID other than a-z, A-Z, 0-9, '.', '_', '-' are written %XX,
 * and what is behind the first 200 of that is left out.
 *
 * The 64-bit word W of an image's block B, of 64 KiB, is mix(W + 1) ^ mix(key ^ mix(B)),
 * in little endian, where key is the FNV-1a hash of the ID and mix that of splitmix64: no
 * two places of any two images are alike by accident.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fault.h"
#include "serve.h"

#define ID_MAX 200 /* of an ID in the name of a file */
#define BLOCK 65536
#define BLOCKS 4 /* in one write */
#define PIECE (BLOCKS * BLOCK)
#define WORDS (BLOCK / sizeof(uint64_t))

struct extent {
	uint64_t offset;
	uint64_t length;
};

struct image {
	const char *id;
	uint64_t key;
	uint64_t size;
	struct extent *extents;
	size_t n_extents;
	int sparse; /* what is outside of the extents is zeros */
};

static const char *folder;
static uint64_t table[WORDS];
static _Atomic uint64_t not_counted;
static _Atomic uint64_t *sent = &not_counted;

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
	return x ^ (x >> 31);
}

static uint64_t key_of(const char *id)
{
	uint64_t hash = 0xcbf29ce484222325;

	for (; *id; id++)
		hash = (hash ^ (unsigned char)*id) * 0x100000001b3;
	return hash;
}

/* The path FOLDER/KIND/ID, kept until the next call. */
static const char *path_of(const char *kind, const char *id)
{
	static char path[PATH_MAX];
	size_t used = snprintf(path, sizeof(path), "%s/%s/", folder, kind);
	size_t end = used + ID_MAX;

	assert(end + 4 < sizeof(path));
	for (; id && *id; id++) {
		int plain = (*id >= 'a' && *id <= 'z') || (*id >= 'A' && *id <= 'Z') ||
			    (*id >= '0' && *id <= '9') || strchr("._-", *id);

		if (used >= end)
			break;
		used += snprintf(path + used, 4, plain ? "%c" : "%%%02X",
				 (unsigned char)*id);
	}
	if (used > end)
		path[end] = '\0';
	return path;
}

static int set_folder(const char *uri)
{
	if (strncmp(uri, "fake://", 7) || uri[7] != '/') {
		store_error("%s: not fake:///FOLDER", uri);
		return STORE_USAGE;
	}
	folder = uri + 7;
	return STORE_OK;
}

static void load_faults(const char *call, const char *id)
{
	static char what[PATH_MAX];

	snprintf(what, sizeof(what), "%s%s%s", call, id ? "." : "",
		 id ? strrchr(path_of("", id), '/') + 1 : "");
	fault_load(folder, what);
}

/* Send what @fill makes of the @length bytes from @position on, with the faults. */
static int send_bytes(uint64_t position, uint64_t length,
		      size_t (*fill)(void *context, uint64_t position, size_t length,
				     const char **ret_bytes),
		      void *context)
{
	while (length) {
		uint64_t left_out = fault_at(position, 0), run;
		const char *bytes;
		int error;

		if (left_out) {
			left_out = left_out < length ? left_out : length;
			position += left_out;
			length -= left_out;
			continue;
		}
		run = fault_free_run(position, length);
		run = fill(context, position, run < PIECE ? run : PIECE, &bytes);
		if (!run)
			return STORE_IO;
		error = write_all(STDOUT_FILENO, bytes, run);
		if (error)
			return error == -EPIPE ? STORE_OK : STORE_IO;
		atomic_fetch_add(sent, run);
		position += run;
		length -= run;
		fault_at(position, 1);
		fault_pause();
	}
	return STORE_OK;
}

/* A file's bytes, as list and extents print them. */
static size_t fill_from_file(void *context, uint64_t position, size_t length,
			     const char **ret_bytes)
{
	static char buffer[BLOCK];
	int *fd = context;
	ssize_t got = pread(*fd, buffer, length < BLOCK ? length : BLOCK, position);

	*ret_bytes = buffer;
	return got > 0 ? got : 0;
}

static int send_file(const char *path, int status_if_none)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	off_t size;
	int status;

	if (fd < 0) {
		store_error("%s: %s", path, strerror(errno));
		return status_if_none;
	}
	size = lseek(fd, 0, SEEK_END);
	status = send_bytes(0, size, fill_from_file, &fd);
	close(fd);
	fault_end();
	return status;
}

static int fake_list(const char *uri)
{
	int status = set_folder(uri);

	if (status)
		return status;
	load_faults("list", NULL);
	fault_log("list");
	fault_begin();
	return send_file(path_of(".", "images.jsonl"), STORE_UNAVAILABLE);
}

static int is_gone(const char *id)
{
	if (access(path_of("gone", id), F_OK) < 0)
		return 0;
	store_error("no image of id %s", id);
	return 1;
}

static int fake_extents(const char *uri, const char *id)
{
	int status = set_folder(uri);

	if (status)
		return status;
	load_faults("extents", id);
	fault_log("extents %s", id);
	fault_begin();
	if (is_gone(id))
		return STORE_GONE;
	return send_file(path_of("extents", id), STORE_USAGE);
}

static void load_extents(struct image *image)
{
	FILE *file = fopen(path_of("extents", image->id), "re");
	struct extent extent;

	if (!file)
		return;
	image->sparse = 1;
	while (fscanf(file, "%" SCNu64 " %" SCNu64, &extent.offset, &extent.length) ==
	       2) {
		image->extents =
			realloc(image->extents, (image->n_extents + 1) * sizeof(extent));
		assert(image->extents);
		image->extents[image->n_extents++] = extent;
	}
	fclose(file);
}

static void load_size(struct image *image)
{
	FILE *file = fopen(path_of("sizes", image->id), "re");

	image->size = UINT64_MAX;
	if (!file)
		return;
	if (fscanf(file, "%" SCNu64, &image->size) != 1)
		image->size = UINT64_MAX;
	fclose(file);
}

/* Count in a file that all readers of the image map, so that no death loses anything. */
static void count_sent(const struct image *image)
{
	int fd = open(path_of("sent", image->id), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	void *counter;

	if (fd < 0 || ftruncate(fd, sizeof(*sent)) < 0)
		return;
	counter = mmap(NULL, sizeof(*sent), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (counter != MAP_FAILED)
		sent = counter;
}

/* Is @position in a hole?  Either way, how many of @length bytes are as it is. */
static int in_hole(const struct image *image, uint64_t position, uint64_t *length)
{
	for (size_t i = 0; i < image->n_extents; i++) {
		const struct extent *extent = &image->extents[i];
		uint64_t end = extent->offset + extent->length;

		if (position >= end)
			continue;
		if (position < extent->offset) {
			if (extent->offset - position < *length)
				*length = extent->offset - position;
			return 1;
		}
		if (end - position < *length)
			*length = end - position;
		return 0;
	}
	return image->sparse;
}

static void make_block(const struct image *image, uint64_t block, uint64_t *words)
{
	uint64_t word = mix(image->key ^ mix(block));

	for (size_t i = 0; i < WORDS; i++)
		words[i] = table[i] ^ word;
}

/* The image's own bytes: from @position to the end of a block, or up to @length. */
static size_t fill_from_image(void *context, uint64_t position, size_t length,
			      const char **ret_bytes)
{
	static uint64_t words[WORDS * BLOCKS];
	static const char zeros[PIECE];
	const struct image *image = context;
	size_t skip = position % BLOCK;
	uint64_t run = length;

	if (in_hole(image, position, &run)) {
		*ret_bytes = zeros;
		return run < sizeof(zeros) ? run : sizeof(zeros);
	}
	for (size_t i = 0; i < BLOCKS && i * BLOCK < skip + run; i++)
		make_block(image, position / BLOCK + i, words + i * WORDS);
	*ret_bytes = (const char *)words + skip;
	return run < sizeof(words) - skip ? run : sizeof(words) - skip;
}

static int answer(void *context, const struct ask *ask)
{
	struct image *image = context;

	fault_log("ask %s %" PRIu64 " %" PRIu64, image->id, ask->offset, ask->length);
	if (ask->offset > image->size || ask->length > image->size - ask->offset)
		fault_log("bad ask %s %" PRIu64 " %" PRIu64, image->id, ask->offset,
			  ask->length);
	return send_bytes(ask->offset, ask->length, fill_from_image, image);
}

static int fake_read(const char *uri, const char *id)
{
	struct image image = {.id = id, .key = key_of(id)};
	int status = set_folder(uri);

	if (status)
		return status;
	load_faults("read", id);
	fault_log("read %s", id);
	fault_begin();
	if (is_gone(id))
		return STORE_GONE;
	load_size(&image);
	load_extents(&image);
	count_sent(&image);
	for (size_t i = 0; i < WORDS; i++)
		table[i] = mix(i + 1);
	status = store_serve(answer, &image);
	free(image.extents);
	fault_log("end %s", id);
	fault_end();
	fault_log("exit %d", status);
	return status;
}

static const struct store fake = {
	.scheme = "fake",
	.list = fake_list,
	.read = fake_read,
	.extents = fake_extents,
};

int main(int argc, char **argv)
{
	return store_main(argc, argv, &fake);
}
