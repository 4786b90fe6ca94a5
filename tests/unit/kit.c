/* SPDX-License-Identifier: MIT */
#include "kit.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cleanup.h"
#include "clock.h"
#include "pattern.h"

#define FDS_MAX 16

static struct warden *group_warden;
static pthread_mutex_t probe_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t probe_changed;

uint64_t kit_now(void)
{
	return clock_ms();
}

void kit_pause(void)
{
	nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

int kit_group_setup(void **state)
{
	sigset_t set;

	/* As main() does. */
	sigemptyset(&set);
	sigaddset(&set, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	cond_init(&probe_changed);
	return warden_new(NULL, &group_warden);
}

int kit_group_teardown(void **state)
{
	warden_free(group_warden);
	group_warden = NULL;
	return 0;
}

int kit_open_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int count = -3; /* ".", ".." and the folder itself */

	assert_non_null(dir);
	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

int kit_setup(void **state)
{
	const char *parent = getenv("TMPDIR"), *program = getenv("UNIT_STORE");
	struct kit *kit = calloc(1, sizeof(*kit));

	kit->saved_stderr = -1;
	kit->fds = kit_open_fds();
	if (asprintf(&kit->folder, "%s/imagefs-unit.XXXXXX", parent ? parent : "/tmp") <
		    0 ||
	    !mkdtemp(kit->folder))
		return -1;
	kit->warden = group_warden;
	kit->store = (struct store){
		.scheme = strdup("unit"),
		.program = strdup(program ? program : "UNIT_STORE is not set"),
		.stall_ms = LIMIT_MS,
		.warden = group_warden,
	};
	if (asprintf(&kit->store.uri, "unit:%s", kit->folder) < 0)
		return -1;
	*state = kit;
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

/* The programs that the log knows are gone. */
static bool all_are_gone(struct kit *kit)
{
	CLEANUP(freep) char *log = kit_read(kit, "log");
	char *rest = log, *line;

	while ((line = strsep(&rest, "\n"))) {
		int pid;

		if (sscanf(line, "list %*u %d", &pid) != 1 &&
		    sscanf(line, "read %*u %d", &pid) != 1 &&
		    sscanf(line, "extents %*u %d", &pid) != 1)
			continue;
		if (!kit_is_gone(pid))
			return false;
	}
	return true;
}

int kit_teardown(void **state)
{
	struct kit *kit = *state;

	kit_end_capture(kit);
	WAIT_FOR(all_are_gone(kit));
	assert_int_equal(kit_open_fds(), kit->fds);
	nftw(kit->folder, remove_one, FDS_MAX, FTW_DEPTH | FTW_PHYS);
	free(kit->folder);
	free(kit->store.uri);
	free(kit->store.scheme);
	free(kit->store.program);
	free(kit);
	return 0;
}

/* Paths are few, and forgotten with the process. */
const char *kit_path(struct kit *kit, const char *name)
{
	static char paths[8][4096];
	static unsigned int next;
	char *path = paths[next++ % 8];

	snprintf(path, sizeof(paths[0]), "%s/%s", kit->folder, name);
	return path;
}

/* A file is there whole or not at all. */
void kit_write(struct kit *kit, const char *name, const char *text)
{
	const char *temporary = kit_path(kit, ".new");
	FILE *file = fopen(temporary, "we");

	assert_non_null(file);
	assert_int_equal(fwrite(text, 1, strlen(text), file), strlen(text));
	assert_int_equal(fclose(file), 0);
	assert_int_equal(rename(temporary, kit_path(kit, name)), 0);
}

void kit_script(struct kit *kit, const char *text)
{
	const char *path = kit_path(kit, "program");

	kit_write(kit, "program", text);
	assert_int_equal(chmod(path, 0700), 0);
	free(kit->store.program);
	kit->store.program = strdup(path);
}

char *kit_read(struct kit *kit, const char *name)
{
	FILE *file = fopen(kit_path(kit, name), "re");
	char *text = NULL;
	size_t room = 0;

	if (!file)
		return strdup("");
	if (getdelim(&text, &room, '\0', file) < 0) {
		free(text);
		text = strdup("");
	}
	fclose(file);
	return text;
}

bool kit_exists(struct kit *kit, const char *name)
{
	return !access(kit_path(kit, name), F_OK);
}

long kit_number(struct kit *kit, const char *name)
{
	CLEANUP(freep) char *text = kit_read(kit, name);

	return strtol(text, NULL, 10);
}

size_t kit_count(struct kit *kit, const char *name, const char *text)
{
	CLEANUP(freep) char *all = kit_read(kit, name);
	size_t count = 0;

	for (char *c = all; (c = strstr(c, text)); c += strlen(text))
		count++;
	return count;
}

bool kit_has(struct kit *kit, const char *name, const char *text)
{
	return kit_count(kit, name, text);
}

unsigned int kit_runs(struct kit *kit, const char *call)
{
	unsigned int runs = 0;
	char name[64];

	do {
		snprintf(name, sizeof(name), "started.%s.%u", call, ++runs);
	} while (kit_exists(kit, name));
	return runs - 1;
}

void kit_capture(struct kit *kit)
{
	int fd = open(kit_path(kit, "stderr"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC,
		      0600);

	assert_true(fd >= 0 && kit->saved_stderr < 0);
	fflush(stderr);
	kit->saved_stderr = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
	assert_true(kit->saved_stderr >= 0);
	assert_int_equal(dup2(fd, STDERR_FILENO), STDERR_FILENO);
	close(fd);
}

void kit_end_capture(struct kit *kit)
{
	if (kit->saved_stderr < 0)
		return;
	fflush(stderr);
	dup2(kit->saved_stderr, STDERR_FILENO);
	closep(&kit->saved_stderr);
}

bool kit_is_gone(pid_t pid)
{
	char path[64], state = 'Z';
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	file = fopen(path, "re");
	if (!file)
		return true;
	if (fscanf(file, "%*d (%*[^)]) %c", &state) != 1)
		state = 'Z';
	fclose(file);
	return state == 'Z' || state == 'X';
}

struct image *kit_image(uint64_t size)
{
	struct image *image;
	const char *why;
	char line[128];
	int length = snprintf(
		line, sizeof(line),
		"{\"name\": \"image\", \"id\": \"id\", \"size\": %" PRIu64 "}", size);

	assert_int_equal(image_parse(line, (size_t)length, &image, &why), 0);
	return image;
}

/* ---- reads ---- */

static void probe_reply(struct read *read, int err, const struct iovec *iov, int count)
{
	struct probe *probe = (struct probe *)read;
	uint64_t offset = read->offset;
	bool right = true;
	size_t size = 0;

	pthread_mutex_lock(&probe_lock);
	probe->begun++;
	pthread_cond_broadcast(&probe_changed);
	pthread_mutex_unlock(&probe_lock);
	/* What is held while the reply runs must stay as it is. */
	if (probe->hold)
		while (sem_wait(&probe->go) && errno == EINTR) {
		}
	for (int i = 0; i < count; i++) {
		right = right &&
			pattern_is(iov[i].iov_base, offset + size, iov[i].iov_len);
		size += iov[i].iov_len;
	}
	pthread_mutex_lock(&probe_lock);
	probe->replies++;
	probe->err = err;
	probe->size = size;
	probe->right = right;
	pthread_cond_broadcast(&probe_changed);
	pthread_mutex_unlock(&probe_lock);
}

void probe_init(struct probe *probe, uint64_t offset, size_t size)
{
	*probe = (struct probe){
		.read = {.offset = offset, .size = size, .reply = probe_reply},
	};
	sem_init(&probe->go, 0, 0);
}

static void wait_count(const unsigned int *count)
{
	uint64_t limit = kit_now() + LIMIT_MS;
	int ret = 0;

	pthread_mutex_lock(&probe_lock);
	while (!*count && !ret)
		ret = cond_wait_until(&probe_changed, &probe_lock, limit);
	pthread_mutex_unlock(&probe_lock);
}

void probe_wait(struct probe *probe)
{
	wait_count(&probe->replies);
}

void probe_wait_begun(struct probe *probe)
{
	wait_count(&probe->begun);
}

unsigned int probe_replies(struct probe *probe)
{
	unsigned int replies;

	pthread_mutex_lock(&probe_lock);
	replies = probe->replies;
	pthread_mutex_unlock(&probe_lock);
	return replies;
}

void probe_let_go(struct probe *probe)
{
	sem_post(&probe->go);
}

void assert_probe_right_at(struct probe *probe, const char *file, int line)
{
	struct probe seen;

	probe_wait(probe);
	pthread_mutex_lock(&probe_lock);
	memcpy(&seen, probe, sizeof(seen));
	pthread_mutex_unlock(&probe_lock);
	if (seen.replies != 1 || seen.err || !seen.right || seen.size != seen.read.size)
		fail_msg("%s:%d: the read of %zu bytes from %" PRIu64 " was answered %u "
			 "times, with error %d, %zu bytes, %s",
			 file, line, seen.read.size, seen.read.offset, seen.replies,
			 seen.err, seen.size, seen.right ? "right" : "wrong");
}

void assert_probe_error_at(struct probe *probe, int error, const char *file, int line)
{
	struct probe seen;

	probe_wait(probe);
	pthread_mutex_lock(&probe_lock);
	memcpy(&seen, probe, sizeof(seen));
	pthread_mutex_unlock(&probe_lock);
	if (seen.replies != 1 || seen.err != error)
		fail_msg("%s:%d: the read from %" PRIu64 " was answered %u times, with "
			 "error %d in the place of %d",
			 file, line, seen.read.offset, seen.replies, seen.err, error);
}
