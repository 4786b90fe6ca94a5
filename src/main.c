/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cleanup.h"
#include "clock.h"
#include "fs.h"
#include "imagefs-store.h"
#include "log.h"
#include "service.h"
#include "show.h"
#include "top.h"
#include "verify.h"

#define STR(x) #x
#define XSTR(x) STR(x)
#define THREADS_END_MS 10000
#define EXIT_USAGE 2
#define KERNEL_MARGIN 2 /* our waits end in a part of the time that the kernel gives */
#define ANSWER_PARTS 3
#define ANSWER_PARTS_ALL 4

static void warden_freep(struct warden **warden)
{
	warden_free(*warden);
}

static void store_freep(struct store **store)
{
	store_free(*store);
}

static void catalog_freep(struct catalog **catalog)
{
	catalog_free(*catalog);
}

/* Who is to be told that the mount is there. */
struct background {
	int ready_fd; /* a byte for the parent; -1: there is none */
	const struct options *options;
	const struct store *store;
	struct catalog *catalog;
	struct service *service; /* from the time that it is there on */
};

static void be_ready(void *context)
{
	struct background *background = context;
	int null, ret;
	ssize_t n;

	ret = service_new(
		&(struct service_options){
			.mountpoint = background->options->mountpoint,
			.uri = background->store->shown,
			.catalog = background->catalog,
			.reload = background->options->managed,
		},
		&background->service);
	if (ret < 0)
		log_line(LOG_WARNING, "signals and the watchdog are not seen to: %s",
			 strerror(-ret));
	if (background->ready_fd < 0)
		return;
	log_to_system();
	if (chdir("/") < 0)
		log_line(LOG_WARNING, "/: %s", strerror(errno));
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO && null >= 0; fd++)
		dup2(null, fd);
	if (null > STDERR_FILENO)
		close(null);
	n = write(background->ready_fd, "", 1);
	/* Nobody waits for the mount any more: it is not wanted. */
	if (n < 0)
		kill(getpid(), SIGTERM);
	closep(&background->ready_fd);
}

/*
 * Go on in the background: returns in the child.  The parent waits for the child to be
 * ready, and ends with 0 then, or with 1 if the child ended before.
 */
static int go_to_background(struct background *background)
{
	int ends[2];
	char byte;
	pid_t pid;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	pid = fork();
	if (pid < 0)
		return -errno;
	if (pid) {
		ssize_t n;

		close(ends[1]);
		do {
			n = read(ends[0], &byte, 1);
		} while (n < 0 && errno == EINTR);
		_exit(n == 1 ? EXIT_SUCCESS : EXIT_FAILURE);
	}
	close(ends[0]);
	setsid();
	background->ready_fd = ends[1];
	return 0;
}

/*
 * From here on fs_serve() takes them.  Before, they end us as they end any program: the
 * warden sees to the rest.
 */
static void block_ending_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	service_add_signals(&set);
	sigprocmask(SIG_BLOCK, &set, NULL);
}

/* SIGPIPE is an errno to us; an ignored SIGCHLD would hide how children ended. */
static void set_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGPIPE);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGCHLD, SIG_DFL);
}

/* The seconds that a setting of the kernel's says, 0 if there is none. */
static uint64_t kernel_seconds(const char *path)
{
	unsigned long seconds = 0;
	FILE *file = fopen(path, "re");

	if (!file)
		return 0;
	if (fscanf(file, "%lu", &seconds) != 1)
		seconds = 0;
	fclose(file);
	return seconds;
}

/* The kernel aborts the whole mount when a request is older than this; 0: never. */
static uint64_t kernel_limit_ms(void)
{
	static const char *const settings[] = {
		"/proc/sys/fs/fuse/max_request_timeout",
		"/proc/sys/fs/fuse/default_request_timeout",
	};
	uint64_t least_ms = 0;

	for (size_t i = 0; i < ARRAY_SIZE(settings); i++) {
		uint64_t limit_ms = 1000 * kernel_seconds(settings[i]);

		if (limit_ms && (!least_ms || limit_ms < least_ms))
			least_ms = limit_ms;
	}
	return least_ms;
}

static uint64_t stall_limit(const struct options *options)
{
	uint64_t limit_ms = kernel_limit_ms() / KERNEL_MARGIN;

	return limit_ms ? MIN(limit_ms, options->stall_ms) : options->stall_ms;
}

/* What store programs find in their environment; the warden hands it on. */
static int set_environment(uint64_t stall_ms)
{
	char text[32];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)stall_ms);
	return setenv("IMAGEFS_STALL_MS", text,
		      1) || setenv("IMAGEFS_STORE_PROTOCOL", XSTR(STORE_PROTOCOL), 1) ||
			       setenv("LC_ALL", "C.UTF-8", 1)
		       ? -ENOMEM
		       : 0;
}

/* The user that store programs are to run as, with all groups. */
static int find_user(const char *name, struct warden_options *warden)
{
	char *end;
	unsigned long number = strtoul(name, &end, 10);
	const struct passwd *user =
		*name && !*end ? getpwuid((uid_t)number) : getpwnam(name);
	int count = 0;

	if (!user || geteuid()) {
		log_line(LOG_ERR, "store_user=%s: %s", name,
			 user ? "only root can change the user" : "no such user");
		return -EINVAL;
	}
	getgrouplist(user->pw_name, user->pw_gid, NULL, &count);
	warden->groups = calloc((size_t)count + 1, sizeof(gid_t));
	if (!warden->groups ||
	    getgrouplist(user->pw_name, user->pw_gid, warden->groups, &count) < 0)
		return -ENOMEM;
	warden->as_user = true;
	warden->uid = user->pw_uid;
	warden->gid = user->pw_gid;
	warden->group_count = (size_t)count;
	return 0;
}

static int start_warden(const struct options *options, struct warden **ret_warden)
{
	struct warden_options warden = {.env = options->env};
	int ret = options->store_user ? find_user(options->store_user, &warden) : 0;

	if (!ret) {
		ret = warden_new(&warden, ret_warden);
		if (ret < 0)
			log_line(LOG_ERR, "the warden process cannot be started: %s",
				 strerror(-ret));
	}
	free(warden.groups);
	return ret;
}

static int open_store(const struct options *options, struct warden **ret_warden,
		      struct store **ret_store)
{
	uint64_t stall_ms = stall_limit(options);
	int ret = store_new(options->store, options->store_path, ret_store);

	if (ret < 0)
		return ret;
	log_set_store((*ret_store)->uri);
	(*ret_store)->stall_ms = stall_ms;
	(*ret_store)->immutable = options->immutable;
	ret = set_environment(stall_ms);
	if (!ret)
		ret = start_warden(options, ret_warden);
	if (!ret)
		(*ret_store)->warden = *ret_warden;
	return ret;
}

static int list_store(const struct options *options)
{
	CLEANUP(store_freep) struct store *store = NULL;
	CLEANUP(warden_freep) struct warden *warden = NULL;
	CLEANUP(freep) char *text = NULL;
	struct listing *listing;
	int ret = open_store(options, &warden, &store);

	if (ret < 0)
		return ret;
	ret = listing_new(store, NULL, -1, &listing, &text);
	if (ret < 0) {
		log_line(LOG_ERR, "%s: %s", store->shown, text ? text : strerror(-ret));
		return ret;
	}
	ret = show_list(stdout, listing, options);
	/* Who wanted only the first lines, as head(1) does, has them. */
	if (ret < 0 && ret != -EPIPE)
		log_line(LOG_ERR, "the list cannot be written: %s", strerror(-ret));
	listing_unref(listing);
	return ret;
}

/* Returns the exit status, or a negative errno. */
static int verify_images(const struct options *options)
{
	CLEANUP(store_freep) struct store *store = NULL;
	CLEANUP(warden_freep) struct warden *warden = NULL;
	int ret = open_store(options, &warden, &store);

	if (ret < 0)
		return ret;
	return verify_store(&(struct verify){
		.store = store,
		.names = options->images,
		.name_count = options->image_count,
		.json = options->json,
	});
}

/* Serve until the end, and leave nothing behind. */
static int serve(const struct options *options, struct engine *engine,
		 struct catalog *catalog, struct background *background)
{
	struct fs *fs;
	int ret = fs_new(options, engine, catalog, &fs);

	if (ret < 0)
		return ret;
	ret = warden_watch_mount(engine->store->warden, options->mountpoint);
	if (!ret)
		ret = fs_serve(fs, be_ready, background);
	service_end(background->service);
	fs_close_all(fs);
	/* Requests are answered through the session until the last thread is gone. */
	catalog_end(catalog);
	if (engine_wait(engine, clock_ms() + THREADS_END_MS) < 0) {
		log_line(LOG_ERR, "threads do not end; the mount is left to the warden");
		_exit(EXIT_FAILURE);
	}
	fs_free(fs);
	service_free(background->service);
	return ret;
}

/*
 * A store that was named by its path is shown by its path: mount -a knows by that whether
 * what is in fstab is mounted.
 */
static int set_fsname(struct options *options, const struct store *store)
{
	if (options->fsname || !strcmp(options->store, store->uri))
		return 0;
	options->fsname = realpath(options->store, NULL);
	return options->fsname ? 0 : -errno;
}

static int mount_store(struct options *options)
{
	CLEANUP(store_freep) struct store *store = NULL;
	CLEANUP(warden_freep) struct warden *warden = NULL;
	CLEANUP(catalog_freep) struct catalog *catalog = NULL;
	struct background background = {.ready_fd = -1, .options = options};
	struct engine engine;
	int ret = options->foreground ? 0 : go_to_background(&background);

	options->managed = getenv("NOTIFY_SOCKET");
	if (!ret)
		ret = open_store(options, &warden, &store);
	if (!ret)
		ret = set_fsname(options, store);
	if (!ret)
		ret = catalog_new(store, options->ttl_ms, &catalog);
	if (ret < 0)
		return ret;
	background.store = store;
	background.catalog = catalog;
	block_ending_signals();
	engine_init(&engine, store);
	engine.ring_size = options->ring & ~(size_t)(ENGINE_RING_UNIT - 1);
	engine.idle_ms = options->idle_ms;
	engine.memory_limit = options->memory;
	/* A store that drips never comes upon the stall limit. */
	engine.answer_ms = kernel_limit_ms() / ANSWER_PARTS_ALL * ANSWER_PARTS;
	ret = serve(options, &engine, catalog, &background);
	engine_fini(&engine);
	return ret;
}

/* Returns the exit status, or a negative errno. */
static int act(struct options *options)
{
	switch (options->action) {
	case ACTION_HELP:
		options_help(stdout);
		break;
	case ACTION_VERSION:
		puts("imagefs " VERSION);
		break;
	case ACTION_LIST:
		return list_store(options);
	case ACTION_VERIFY:
		return verify_images(options);
	case ACTION_STATS:
		return top_show(options->mountpoint, options->once, options->json);
	case ACTION_MOUNT:
		return mount_store(options);
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct options options;
	int status = EXIT_USAGE;

	log_open();
	if (!options_parse(argc, argv, &options)) {
		set_signals();
		if (options.debug)
			log_set_level(LOG_DEBUG);
		status = act(&options);
		if (status < 0)
			status = EXIT_FAILURE;
	}
	options_fini(&options);
	return status;
}
