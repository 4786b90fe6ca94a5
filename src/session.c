/* SPDX-License-Identifier: MIT */
/*
 * libfuse's own loop ends by a signal that may come a moment too early to be noticed, so
 * the loop here is its own: workers that read the kernel's requests, and a main thread
 * that waits for signals with signalfd(2).  Workers are told to end by a flag, and driven
 * out of their read by a signal that is sent until they are gone.
 *
 * No operation waits for a store, so a few workers are enough whatever hangs.
 *
 * One worker at a time takes requests, and goes on as long as what they need is small:
 * waking another would take longer.  Before it waits it sends on what it was to ask for.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/fuse.h>
#include <sched.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "cleanup.h"
#include "clock.h"
#include "fs-session.h"
#include "log.h"
#include "pass.h"
#include "pool.h"
#include "text.h"
#include "thread.h"

#define WORKERS_MIN 2
#define WORKERS_MAX 8
#define KICK_SIGNAL SIGURG
#define KICK_MS 20
#define BEGIN_MS 10000
#define SPIN_US 50
#define GAP_US 100
#define EAGER_MIN 8u
#define EAGER_MAX 16u
#define EAGER_LOSS 4u

struct workers {
	pthread_t threads[WORKERS_MAX];
	size_t count;
};

/* Whether this thread is the one that takes the kernel's requests. */
static _Thread_local bool receiving;

void session_hand_over(struct fs *fs)
{
	pool_rest();
	if (!receiving)
		return;
	receiving = false;
	pthread_mutex_unlock(&fs->receiver);
}

/*
 * Requests that come soon after one another are waited for without sleeping: it takes
 * longer to be woken than they take to come.
 */
static _Thread_local uint64_t active_us; /* when this thread last had something to do */
static _Thread_local unsigned int eager;

static void note_gap(uint64_t gap_us)
{
	if (gap_us < GAP_US)
		eager = MIN(eager + 1, EAGER_MAX);
	else
		eager = eager > EAGER_LOSS ? eager - EAGER_LOSS : 0;
}

/* Take a request, waiting for it.  Returns as fuse_session_receive_buf() does. */
static int receive(struct fs *fs, struct fuse_buf *buffer)
{
	struct pollfd pollfd = {.fd = fuse_session_fd(fs->session), .events = POLLIN};
	int ret;

	if (!receiving) {
		if (pthread_mutex_trylock(&fs->receiver)) {
			pool_rest();
			pthread_mutex_lock(&fs->receiver);
		}
		receiving = true;
	}
	for (;;) {
		if (fuse_session_exited(fs->session))
			return 0;
		ret = fuse_session_receive_buf(fs->session, buffer);
		if (ret != -EAGAIN) {
			note_gap(clock_us() - active_us);
			active_us = clock_us();
			return ret;
		}
		if (eager >= EAGER_MIN && clock_us() - active_us < SPIN_US) {
			if (pool_attend())
				active_us = clock_us();
			else
				sched_yield();
			continue;
		}
		pool_rest();
		if (poll(&pollfd, 1, -1) < 0)
			return -errno;
	}
}

/* Of the request that this thread deals with. */
static _Thread_local uint64_t unique;

uint64_t session_unique(void)
{
	return unique;
}

static void *be_worker(void *context)
{
	struct fs *fs = context;
	struct fuse_buf buffer = {0};
	sigset_t kick;

	sigemptyset(&kick);
	sigaddset(&kick, KICK_SIGNAL);
	pthread_sigmask(SIG_UNBLOCK, &kick, NULL);
	while (!fuse_session_exited(fs->session)) {
		int ret = receive(fs, &buffer);

		if (ret == -EINTR)
			continue;
		if (ret <= 0)
			break;
		if (fs->began) {
			unique = ((const struct fuse_in_header *)buffer.mem)->unique;
			fuse_session_process_buf(fs->session, &buffer);
			continue;
		}
		if (session_begin(fs, &buffer) < 0)
			break;
		/* Nobody else receives yet; later on another may already do so. */
		fs->began = true;
	}
	session_hand_over(fs);
	free(buffer.mem);
	eventfd_write(fs->ended_fd, 1);
	return NULL;
}

static int start_workers(struct fs *fs, struct workers *workers)
{
	long processors = sysconf(_SC_NPROCESSORS_ONLN);
	long wanted = MAX(processors, (long)WORKERS_MIN);
	size_t count = (size_t)MIN(wanted, (long)WORKERS_MAX);

	for (; workers->count < count; workers->count++) {
		int err = pthread_create(&workers->threads[workers->count], NULL,
					 be_worker, fs);

		if (err)
			return -err;
	}
	return 0;
}

/*
 * A kick may come between the look at the flag and the read: so it is given again.  All are
 * kicked: the one that is waited for may wait for the one that takes requests.
 */
static void end_workers(struct fs *fs, struct workers *workers)
{
	fuse_session_exit(fs->session);
	for (size_t i = 0; i < workers->count; i++) {
		struct timespec until;

		do {
			for (size_t j = i; j < workers->count; j++)
				pthread_kill(workers->threads[j], KICK_SIGNAL);
			clock_gettime(CLOCK_REALTIME, &until);
			until.tv_nsec += KICK_MS * NSEC_PER_MSEC;
			if (until.tv_nsec >= 1000 * NSEC_PER_MSEC) {
				until.tv_nsec -= 1000 * NSEC_PER_MSEC;
				until.tv_sec++;
			}
		} while (pthread_timedjoin_np(workers->threads[i], NULL, &until));
	}
}

static void do_nothing(int number)
{
}

static bool has_holes(const struct fs *fs)
{
	struct listing *listing = catalog_last(fs->catalog);
	bool has = false;

	for (size_t i = 0; i < listing->count && !has; i++)
		has = listing->images[i]->allocated < listing->images[i]->size;
	listing_unref(listing);
	return has;
}

/*
 * More read-ahead is better, but where data ends: the kernel then reads ahead in a hole.
 * Measured (2 processors): 4 MiB instead of 2 make cp from Glance 1.07 times as fast and a
 * reader of 128 KiB at a time, from a folder, 1.09 times; but cp of a thin VDI, of 64
 * pieces, 1.10 times as slow.
 */
static uint64_t readahead_bytes(const struct fs *fs)
{
	if (fs->options->readahead != UINT64_MAX)
		return fs->options->readahead;
	return has_holes(fs) ? 2u << 20 : 4u << 20;
}

/*
 * Raise the kernel's read-ahead for this mount; only root may.  The request for the
 * mount's device goes to the workers.
 */
static void raise_readahead(const struct fs *fs)
{
	uint64_t bytes = readahead_bytes(fs);
	char path[64], text[32];
	struct stat st;
	int fd;

	if (!bytes || stat(fs->options->mountpoint, &st) < 0)
		return;
	snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/read_ahead_kb",
		 major(st.st_dev), minor(st.st_dev));
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0) {
		log_line(LOG_DEBUG,
			 "%s: %s; the kernel reads ahead as it does by default", path,
			 strerror(errno));
		return;
	}
	/* In whole requests: a small one between large ones costs as much. */
	if (bytes > fs->request_max)
		bytes -= bytes % fs->request_max;
	snprintf(text, sizeof(text), "%" PRIu64, bytes >> 10);
	if (write(fd, text, strlen(text)) < 0)
		log_line(LOG_WARNING, "%s: %s", path, strerror(errno));
	close(fd);
}

/* Wait for the kernel to begin.  Returns whether it did. */
static bool wait_for_begin(const struct fs *fs)
{
	struct pollfd fds[] = {
		{.fd = fs->ready_fd, .events = POLLIN},
		{.fd = fs->ended_fd, .events = POLLIN},
	};
	uint64_t deadline = clock_ms() + BEGIN_MS;

	while (poll(fds, ARRAY_SIZE(fds), clock_left_ms(deadline)) < 0 &&
	       errno == EINTR) {
	}
	return fds[0].revents;
}

/* Wait for the end: a signal, or the unmounting that a worker has seen. */
static void wait_for_end(const struct fs *fs, int signals)
{
	struct pollfd fds[] = {
		{.fd = signals, .events = POLLIN},
		{.fd = fs->ended_fd, .events = POLLIN},
	};
	struct signalfd_siginfo info;

	while (poll(fds, ARRAY_SIZE(fds), -1) < 0 && errno == EINTR) {
	}
	if (fds[0].revents && read(signals, &info, sizeof(info)) == sizeof(info))
		log_line(LOG_DEBUG, "ended by signal %u", info.ssi_signo);
}

int fs_serve(struct fs *fs, void (*ready)(void *context), void *context)
{
	struct sigaction action = {.sa_handler = do_nothing};
	struct workers workers = {.count = 0};
	CLEANUP(closep) int signals = -1;
	sigset_t ending;
	int ret;

	sigemptyset(&ending);
	sigaddset(&ending, SIGINT);
	sigaddset(&ending, SIGTERM);
	if (!fs->options->managed)
		sigaddset(&ending, SIGHUP);
	signals = signalfd(-1, &ending, SFD_CLOEXEC);
	if (signals < 0 || sigaction(KICK_SIGNAL, &action, NULL) < 0 ||
	    fcntl(fuse_session_fd(fs->session), F_SETFL, O_NONBLOCK) < 0)
		return -errno;
	ret = start_workers(fs, &workers);
	if (!ret && wait_for_begin(fs)) {
		raise_readahead(fs);
		ready(context);
		wait_for_end(fs, signals);
	} else if (!ret) {
		log_line(LOG_ERR, "%s: the kernel does not begin the session",
			 fs->options->mountpoint);
		ret = -EIO;
	}
	end_workers(fs, &workers);
	return ret;
}

/* ---- mounting ---- */

/* Add "-o NAME=VALUE", commas and backslashes in the value escaped. */
static int add_option(struct fuse_args *args, const char *name, const char *value)
{
	CLEANUP(freep) char *text = malloc(strlen(name) + 2 * strlen(value) + 2);
	char *out = text;

	if (!text)
		return -ENOMEM;
	out = stpcpy(stpcpy(out, name), "=");
	for (; *value; value++) {
		if (*value == ',' || *value == '\\')
			*out++ = '\\';
		*out++ = *value;
	}
	*out = '\0';
	return fuse_opt_add_arg(args, "-o") || fuse_opt_add_arg(args, text) ? -ENOMEM : 0;
}

static int add_options(const struct fs *fs, struct fuse_args *args)
{
	const struct options *options = fs->options;
	const char *source = fs->engine->store->source;
	char limit[32];

	snprintf(limit, sizeof(limit), "%zu", fs->request_max);
	if (fuse_opt_add_arg(args, "imagefs") || fuse_opt_add_arg(args, "-oro") ||
	    fuse_opt_add_arg(args, "-osubtype=imagefs") ||
	    add_option(args, "max_read", limit) < 0 ||
	    add_option(args, "fsname", options->fsname ? options->fsname : source) < 0)
		return -ENOMEM;
	if (options->allow_other && fuse_opt_add_arg(args, "-oallow_other"))
		return -ENOMEM;
	if ((options->allow_other || options->default_permissions) &&
	    fuse_opt_add_arg(args, "-odefault_permissions"))
		return -ENOMEM;
	if (*options->kernel &&
	    (fuse_opt_add_arg(args, "-o") || fuse_opt_add_arg(args, options->kernel)))
		return -ENOMEM;
	return 0;
}

/* What libfuse says while it mounts, which is for the line that says that it failed. */
static char *said_mounting;
static bool mounting;

static void log_from_libfuse(enum fuse_log_level level, const char *format, va_list args)
{
	CLEANUP(freep) char *text = NULL;

	if (vasprintf(&text, format, args) < 0) {
		text = NULL;
		return;
	}
	text[strcspn(text, "\n")] = '\0';
	if (mounting) {
		free(said_mounting);
		said_mounting = STEAL(text);
		return;
	}
	log_line(level <= FUSE_LOG_ERR ? LOG_ERR : LOG_WARNING, "%s", text);
}

/*
 * The device of the mount at @path that is uppermost, "MAJOR:MINOR", for the caller to
 * free, or NULL if there is none.  Asks no file system, so it waits for none.
 */
static char *device_at(const char *path)
{
	CLEANUP(freep) char *line = NULL;
	FILE *file = fopen("/proc/self/mountinfo", "re");
	char *device = NULL;
	size_t room = 0;

	while (file && getline(&line, &room, file) > 0) {
		char number[32], point[4 * PATH_MAX + 1];

		if (sscanf(line, "%*s %*s %31s %*s %16384s", number, point) != 2)
			continue;
		text_unescape_octal(point);
		if (strcmp(point, path) != 0)
			continue;
		free(device);
		device = strdup(number);
	}
	if (file)
		fclose(file);
	return device;
}

/*
 * Have libfuse find that the connection is gone: it unmounts nothing then.  It looks for
 * POLLERR, which a pipe has that nobody reads.
 */
static void cut_connection(const struct fs *fs)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) < 0)
		return;
	close(fds[0]);
	dup3(fds[1], fuse_session_fd(fs->session), O_CLOEXEC);
	close(fds[1]);
}

/*
 * Unmount, unless that was done already: then another mount may have taken the place.
 */
static void unmount_session(struct fs *fs)
{
	CLEANUP(freep) char *device = device_at(fs->options->mountpoint);

	if (fs->device && (!device || strcmp(device, fs->device) != 0))
		cut_connection(fs);
	fuse_session_unmount(fs->session);
	fuse_session_destroy(fs->session);
	fs->session = NULL;
}

static int mount_session(struct fs *fs)
{
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	int ret = add_options(fs, &args);

	if (!ret) {
		fs->session = fuse_session_new(&args, &fs_operations,
					       sizeof(fs_operations), fs);
		ret = fs->session ? 0 : -EINVAL;
	}
	fuse_opt_free_args(&args);
	mounting = true;
	if (!ret && fuse_session_mount(fs->session, fs->options->mountpoint)) {
		fuse_session_destroy(fs->session);
		fs->session = NULL;
		ret = -EIO;
	}
	mounting = false;
	if (ret < 0)
		log_line(LOG_ERR, "%s: cannot be mounted on%s%s", fs->options->mountpoint,
			 said_mounting ? ": " : "", said_mounting ? said_mounting : "");
	else
		fs->device = device_at(fs->options->mountpoint);
	free(STEAL(said_mounting));
	return ret;
}

static void fs_freep(struct fs **fs)
{
	fs_free(*fs);
}

int fs_new(const struct options *options, struct engine *engine, struct catalog *catalog,
	   struct fs **ret_fs)
{
	CLEANUP(fs_freep) struct fs *fs = calloc(1, sizeof(*fs));
	int ret;

	if (!fs)
		return -ENOMEM;
	fs->options = options;
	fs->engine = engine;
	fs->catalog = catalog;
	fs->uid = options->uid == UINT64_MAX ? getuid() : (uid_t)options->uid;
	fs->pass_most = pass_most();
	fs->request_max = REQUEST_MAX;
	/* A little less, if that is what a pipe holds: it is worth more. */
	if (fs->pass_most >= REQUEST_MAX / 4 * 3)
		fs->request_max = MIN(fs->pass_most, (size_t)REQUEST_MAX);
	fs->gid = options->gid == UINT64_MAX ? getgid() : (gid_t)options->gid;
	clock_gettime(CLOCK_REALTIME, &fs->started);
	LIST_INIT(&fs->files);
	LIST_INIT(&fs->folders);
	LIST_INIT(&fs->nodes);
	pthread_mutex_init(&fs->lock, NULL);
	pthread_mutex_init(&fs->receiver, NULL);
	fs->ready_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	fs->ended_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fs->ready_fd < 0 || fs->ended_fd < 0)
		return -EMFILE;
	fuse_set_log_func(log_from_libfuse);
	ret = watch_init(&fs->watch);
	fs->watching = !ret;
	if (!ret)
		ret = mount_session(fs);
	if (ret < 0)
		return ret;
	*ret_fs = STEAL(fs);
	return 0;
}

void fs_free(struct fs *fs)
{
	if (!fs)
		return;
	if (fs->session)
		unmount_session(fs);
	fs_forget_all(fs);
	fs_close_folders(fs);
	if (fs->watching) {
		watch_end(&fs->watch);
		watch_fini(&fs->watch);
	}
	free(fs->device);
	closep(&fs->ready_fd);
	closep(&fs->ended_fd);
	pthread_mutex_destroy(&fs->receiver);
	pthread_mutex_destroy(&fs->lock);
	free(fs);
}
