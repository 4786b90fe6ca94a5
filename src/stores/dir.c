/* SPDX-License-Identifier: MIT */
/*
 * imagefs-store-dir - a directory of images: dir:///srv/images
 *
 * The images are the regular files of one directory whose names do not begin with a dot.
 * An id has all of stat(2) that tells one content from another, and the name to find the
 * file again:
 *
 *	DEVICE:INODE:SIZE:MTIME.ns:CTIME.ns:NAME
 *
 * A file that is replaced, written to, or only renamed, is thus a new image; whoever
 *reads the old one is told that it is gone.
 *
 * Bytes go from the file to the pipe by splice(2), without a copy.  The pipe then holds
 * pages of the file itself, so a write to the file shows in what was already sent but not
 * yet taken; it shows in the file's times as well, which are looked at after each MiB and
 * at the end, so it cannot pass unseen.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "pipe.h"
#include "serve.h"

#define SHORT_BYTES ((size_t)16 << 10) /* answers up to that are sent together */
#define KEPT_BYTES ((size_t)64 << 10)
#define CHUNK_BYTES ((size_t)1 << 20) /* looked at the file's times after so many */

/* One open image. */
struct image {
	const char *id;
	int fd;
	char name[NAME_MAX + 1];
	struct stat stat;
	bool copy; /* splice(2) does not do here */
	char *buffer; /* of CHUNK_BYTES, once needed */
	size_t kept; /* short answers in @kept_bytes, to be sent with more */
	char kept_bytes[KEPT_BYTES];
};

/* The exit status that tells the daemon of @error. */
static int status_of(int error)
{
	if (error == EACCES || error == EPERM)
		return STORE_DENIED;
	if (error == ENFILE || error == EMFILE || error == ENOMEM || error == EWOULDBLOCK)
		return STORE_AGAIN;
	return STORE_IO;
}

static int hex_value(char digit)
{
	if (digit >= '0' && digit <= '9')
		return digit - '0';
	digit = tolower((unsigned char)digit);
	return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

/* Decode %XX in @text into @ret_text of @size bytes.  Returns false if that cannot be. */
static bool percent_decode(const char *text, size_t size, char *ret_text)
{
	while (*text) {
		int byte = (unsigned char)*text++;

		if (byte == '%') {
			int high = hex_value(text[0]);
			int low = high < 0 ? -1 : hex_value(text[1]);

			if (low < 0 || high + low == 0)
				return false;
			byte = high * 16 + low;
			text += 2;
		}
		if (size < 2)
			return false;
		*ret_text++ = byte;
		size--;
	}
	*ret_text = '\0';
	return true;
}

/* Encode @name so that it is printable and without ':'. */
static void percent_encode(const char *name, char *ret_text)
{
	for (; *name; name++) {
		unsigned char byte = *name;

		if (isalnum(byte) || strchr("-._", byte))
			*ret_text++ = byte;
		else
			ret_text += sprintf(ret_text, "%%%02X", byte);
	}
	*ret_text = '\0';
}

static void format_id(const struct stat *stat, const char *name,
		      char ret_id[STORE_ID_MAX])
{
	int length = snprintf(ret_id, STORE_ID_MAX,
			      "%ju:%ju:%jd:%jd.%09ld:%jd.%09ld:", (uintmax_t)stat->st_dev,
			      (uintmax_t)stat->st_ino, (intmax_t)stat->st_size,
			      (intmax_t)stat->st_mtim.tv_sec, stat->st_mtim.tv_nsec,
			      (intmax_t)stat->st_ctim.tv_sec, stat->st_ctim.tv_nsec);

	_Static_assert(STORE_ID_MAX > 200 + 3 * NAME_MAX, "every id fits");
	percent_encode(name, ret_id + length);
}

/*
 * Open the directory that @uri names: dir://PATH or dir:PATH, PATH being absolute.  It
 * may be reached through links: who wrote the URI chose it.  Returns STORE_OK with
 * *@ret_fd, which the caller closes, or the status to exit with.
 */
static int open_directory(const char *uri, int *ret_fd)
{
	char path[PATH_MAX];
	const char *encoded = uri;
	int fd;

	if (strncasecmp(encoded, "dir:", 4) == 0)
		encoded += 4;
	else
		encoded = "";
	if (strncmp(encoded, "//", 2) == 0)
		encoded += 2;
	if (encoded[0] != '/' || !percent_decode(encoded, sizeof(path), path)) {
		store_error("not the URI of a directory (dir:///PATH): %s", uri);
		return STORE_USAGE;
	}
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0) {
		int status = status_of(errno);

		store_error("cannot open %s: %s", path, strerror(errno));
		return status == STORE_IO ? STORE_UNAVAILABLE : status;
	}
	*ret_fd = fd;
	return STORE_OK;
}

/*
 * Open @name in @directory if it is an image, and never anything else: not what a link
 * points to, no device (opening one may do something), no fifo.  Returns the descriptor,
 * -ENOENT if it is no image, or a negative errno.
 */
static int open_image(int directory, const char *name, struct stat *ret_stat)
{
	struct open_how how = {
		/* NOLINTNEXTLINE(misc-redundant-expression): on some machines O_LARGEFILE is 0 */
		.flags = O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC | O_LARGEFILE,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
	};
	int fd;

	if (name[0] == '.' || name[0] == '\0' || strchr(name, '/'))
		return -ENOENT;
	if (fstatat(directory, name, ret_stat, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (!S_ISREG(ret_stat->st_mode))
		return -ENOENT;
	fd = syscall(SYS_openat2, directory, name, &how, sizeof(how));
	/*
	 * Kernels before 5.6, and filters that know no openat2: @name has one component.
	 */
	if (fd < 0 && (errno == ENOSYS || errno == EPERM))
		fd = openat(directory, name, how.flags);
	if (fd < 0)
		return errno == ELOOP || errno == ENXIO ? -ENOENT : -errno;
	if (fstat(fd, ret_stat) < 0) {
		int error = -errno;

		close(fd);
		return error;
	}
	if (!S_ISREG(ret_stat->st_mode)) {
		close(fd);
		return -ENOENT;
	}
	return fd;
}

/*
 * List @name if it is an image.  Returns the status to exit with if that cannot be known.
 */
static int list_file(int directory, const char *name)
{
	char id[STORE_ID_MAX];
	struct stat stat;
	int fd = open_image(directory, name, &stat);

	if (fd == -ENOENT)
		return STORE_OK;
	if (fd < 0) {
		bool later = status_of(-fd) == STORE_AGAIN;

		store_error("%scannot open %s: %s", later ? "" : "left out: ", name,
			    strerror(-fd));
		return later ? STORE_AGAIN : STORE_OK;
	}
	close(fd);
	format_id(&stat, name, id);
	store_print_image(&(struct store_image){
		.name = name,
		.id = id,
		.size = stat.st_size,
		.allocated = (uint64_t)stat.st_blocks * 512,
		.mtime = stat.st_mtim.tv_sec,
	});
	return STORE_OK;
}

static int dir_list(const char *uri)
{
	struct dirent *entry;
	DIR *stream;
	int directory, error;
	int status = open_directory(uri, &directory);

	if (status != STORE_OK)
		return status;
	stream = fdopendir(directory);
	if (!stream) {
		close(directory);
		store_error("cannot list the directory: %s", strerror(ENOMEM));
		return STORE_AGAIN;
	}
	while (errno = 0, status == STORE_OK && (entry = readdir(stream)))
		status = list_file(directory, entry->d_name);
	error = errno;
	closedir(stream);
	if (error == 0)
		return status;
	store_error("cannot list the directory: %s", strerror(error));
	return STORE_IO;
}

/* STORE_OK if the file still is the version that was asked for. */
static int check_version(struct image *image)
{
	char id[STORE_ID_MAX];
	struct stat stat;

	if (fstat(image->fd, &stat) < 0) {
		store_error("%s: %s", image->name, strerror(errno));
		return STORE_IO;
	}
	/* The usual case, without making an id. */
	if (stat.st_size == image->stat.st_size &&
	    stat.st_mtim.tv_sec == image->stat.st_mtim.tv_sec &&
	    stat.st_mtim.tv_nsec == image->stat.st_mtim.tv_nsec &&
	    stat.st_ctim.tv_sec == image->stat.st_ctim.tv_sec &&
	    stat.st_ctim.tv_nsec == image->stat.st_ctim.tv_nsec)
		return STORE_OK;
	format_id(&stat, image->name, id);
	store_error("%s has changed: it is now %s", image->name, id);
	return STORE_GONE;
}

static void close_image(struct image *image)
{
	if (image->fd >= 0)
		close(image->fd);
	free(image->buffer);
}

/*
 * Open the image @id of @uri, which the caller closes.  Returns the status to exit with.
 */
static int open_version(const char *uri, const char *id, struct image *image)
{
	const char *encoded = strrchr(id, ':');
	char now[STORE_ID_MAX];
	int directory;
	int status = open_directory(uri, &directory);

	if (status != STORE_OK)
		return status;
	*image = (struct image){.id = id, .fd = -ENOENT};
	if (encoded && percent_decode(encoded + 1, sizeof(image->name), image->name))
		image->fd = open_image(directory, image->name, &image->stat);
	close(directory);
	if (image->fd == -ENOENT) {
		store_error("no such image: %s", id);
		return STORE_GONE;
	}
	if (image->fd < 0) {
		store_error("cannot open %s: %s", image->name, strerror(-image->fd));
		return status_of(-image->fd);
	}
	format_id(&image->stat, image->name, now);
	if (strcmp(id, now) == 0)
		return STORE_OK;
	store_error("%s is another version now: %s", image->name, now);
	close_image(image);
	return STORE_GONE;
}

/*
 * Send some of @length bytes at @offset through a buffer.  Returns how many, 0 at the end
 * of the file, or a negative errno that was said.
 */
static ssize_t send_copied(struct image *image, uint64_t offset, size_t length)
{
	ssize_t count;
	int error;

	if (!image->buffer)
		image->buffer = malloc(CHUNK_BYTES);
	if (!image->buffer) {
		store_error("cannot read %s: %s", image->name, strerror(ENOMEM));
		return -ENOMEM;
	}
	do
		count = pread(image->fd, image->buffer, length, offset);
	while (count < 0 && errno == EINTR);
	if (count < 0) {
		error = -errno;
		store_error("cannot read %s at %" PRIu64 ": %s", image->name, offset,
			    strerror(-error));
		return error;
	}
	error = write_all(STDOUT_FILENO, image->buffer, count);
	if (error < 0 && error != -EPIPE)
		store_error("cannot send %s at %" PRIu64 ": %s", image->name, offset,
			    strerror(-error));
	return error < 0 ? error : count;
}

/*
 * The same, without a copy if that can be.  splice(2) does not say which side it failed
 * on, so whatever it was, the copy is tried: that either does or knows what is wrong.
 */
static ssize_t send_some(struct image *image, uint64_t offset, size_t length)
{
	off_t at = offset;
	ssize_t count;

	if (image->copy)
		return send_copied(image, offset, length);
	do
		count = splice(image->fd, &at, STDOUT_FILENO, NULL, length,
			       SPLICE_F_MOVE);
	while (count < 0 && errno == EINTR);
	if (count >= 0)
		return count;
	if (errno == EINVAL)
		image->copy = true;
	return send_copied(image, offset, length);
}

/* Send the short answers, which are known to be of the right version then. */
static int dir_flush(void *context)
{
	struct image *image = context;
	int status, error;

	if (image->kept == 0)
		return STORE_OK;
	status = check_version(image);
	if (status != STORE_OK)
		return status;
	error = write_all(STDOUT_FILENO, image->kept_bytes, image->kept);
	image->kept = 0;
	if (error == 0 || error == -EPIPE)
		return STORE_OK;
	store_error("cannot send %s: %s", image->name, strerror(-error));
	return status_of(-error);
}

/* Keep the answer to a short ask, to be sent with others. */
static int keep(struct image *image, const struct ask *ask)
{
	size_t done = 0;

	while (done < ask->length) {
		ssize_t count = pread(image->fd, image->kept_bytes + image->kept + done,
				      ask->length - done, ask->offset + done);

		if (count < 0 && errno == EINTR)
			continue;
		if (count <= 0) {
			int error = count < 0 ? errno : 0;

			store_error("cannot read %s at %" PRIu64 ": %s", image->name,
				    ask->offset + done,
				    error ? strerror(error) : "it has become shorter");
			if (error)
				return status_of(error);
			return check_version(image) == STORE_OK ? STORE_IO : STORE_GONE;
		}
		done += count;
	}
	image->kept += done;
	return STORE_OK;
}

/* Answer one ask: in chunks, each of which is known to be of the right version. */
static int dir_answer(void *context, const struct ask *ask)
{
	struct image *image = context;
	uint64_t offset = ask->offset;
	uint64_t end = offset + ask->length;
	uint64_t check_at = offset + CHUNK_BYTES;
	int status = STORE_OK;

	if (end > (uint64_t)image->stat.st_size) {
		store_error("asked for bytes behind the end of %s", image->name);
		return STORE_USAGE;
	}
	if (ask->length > SHORT_BYTES || ask->length > KEPT_BYTES - image->kept)
		status = dir_flush(image);
	if (status != STORE_OK)
		return status;
	if (ask->length <= SHORT_BYTES)
		return keep(image, ask);
	while (offset < end) {
		uint64_t left = (end < check_at ? end : check_at) - offset;
		ssize_t count = send_some(image, offset, left);

		if (count < 0)
			return status_of(-count);
		offset += count;
		if (count == 0 || (uint64_t)count == left) {
			status = check_version(image);
			if (status != STORE_OK)
				return status;
			check_at = offset + CHUNK_BYTES;
		}
		if (count == 0) {
			store_error("%s ends at %" PRIu64 ", before its size",
				    image->name, offset);
			return STORE_IO;
		}
	}
	return STORE_OK;
}

static int dir_read(const char *uri, const char *id)
{
	struct image image;
	int status = open_version(uri, id, &image);

	if (status != STORE_OK)
		return status;
	pipe_enlarge(STDOUT_FILENO, PIPE_BYTES);
	status = store_serve_batches(dir_answer, dir_flush, &image);
	if (status == STORE_OK)
		status = check_version(&image);
	close_image(&image);
	return status;
}

/* Print where @image has data.  Returns 0 or a negative errno. */
static int print_extents(const struct image *image)
{
	off_t size = image->stat.st_size;
	off_t hole = 0;

	while (hole < size) {
		off_t data = lseek(image->fd, hole, SEEK_DATA);

		if (data < 0 && errno == ENXIO)
			return 0;
		if (data < 0 && hole == 0 && (errno == EINVAL || errno == EOPNOTSUPP)) {
			store_print_extent(0, size);
			return 0;
		}
		if (data < 0)
			return -errno;
		hole = lseek(image->fd, data, SEEK_HOLE);
		if (hole < 0 && errno != ENXIO)
			return -errno;
		if (hole < 0)
			hole = size;
		if (data < hole)
			store_print_extent(data, hole - data);
	}
	return 0;
}

static int dir_extents(const char *uri, const char *id)
{
	struct image image;
	int status = open_version(uri, id, &image);
	int error;

	if (status != STORE_OK)
		return status;
	error = print_extents(&image);
	if (error < 0) {
		store_error("cannot find the holes of %s: %s", image.name,
			    strerror(-error));
		status = STORE_IO;
	} else {
		status = check_version(&image);
	}
	close_image(&image);
	return status;
}

int main(int argc, char **argv)
{
	static const struct store store = {
		.scheme = "dir",
		.list = dir_list,
		.read = dir_read,
		.extents = dir_extents,
	};

	return store_main(argc, argv, &store);
}
