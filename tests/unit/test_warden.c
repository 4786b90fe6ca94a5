/* SPDX-License-Identifier: MIT */
#include "kit.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cleanup.h"
#include "clock.h"

#define SHELL "/bin/sh"
#define MANY 100
#define THREADS 4
#define EACH 10
#define WAIT_MS 20 /* for what does not come: no test depends on its length */

/* Start a shell that does @script, with @argument as $1. */
static struct child shell(struct warden *warden, const char *script, const char *argument)
{
	const char *argv[] = {SHELL, "-c", script, "sh", argument, NULL};
	struct child child = CHILD_NONE;

	assert_int_equal(warden_spawn(warden, argv, &child), 0);
	return child;
}

/* All that comes from @fd until its end, for the caller to free. */
static char *read_all(int fd)
{
	size_t used = 0, room = 65536;
	char *text = malloc(room + 1);

	for (;;) {
		struct pollfd pollfd = {.fd = fd, .events = POLLIN};
		ssize_t n;

		if (poll(&pollfd, 1, LIMIT_MS) != 1)
			fail_msg("the output did not end");
		n = read(fd, text + used, room - used);
		if (n < 0 && errno == EAGAIN)
			continue;
		assert_true(n >= 0 && used + (size_t)n < room);
		used += (size_t)n;
		if (!n)
			break;
	}
	text[used] = '\0';
	return text;
}

static int status_of(struct child *child)
{
	return child_status(child, clock_ms() + LIMIT_MS);
}

/* What the shell says that does @script. */
static char *said_by(struct warden *warden, const char *script)
{
	struct child child = shell(warden, script, NULL);
	char *text = read_all(child.out);

	assert_int_equal(status_of(&child), 0);
	child_kill(&child);
	return text;
}

/* The next line of numbers that comes from @fd. */
static void read_pids(int fd, pid_t *pids, size_t count)
{
	char line[256];
	size_t used = 0;
	char *next = line;

	while (!used || line[used - 1] != '\n') {
		struct pollfd pollfd = {.fd = fd, .events = POLLIN};
		ssize_t n;

		assert_int_equal(poll(&pollfd, 1, LIMIT_MS), 1);
		n = read(fd, line + used, 1);
		assert_int_equal(n, 1);
		used++;
		assert_true(used < sizeof(line));
	}
	for (size_t i = 0; i < count; i++)
		pids[i] = (pid_t)strtol(next, &next, 10);
}

static void a_program_gets_its_arguments_and_three_pipes(void **state)
{
	struct kit *kit = *state;
	struct child child =
		shell(kit->warden, "echo \"$0|$1\"; cat; echo bad >&2", " a b\n");
	CLEANUP(freep) char *out = NULL, *err = NULL;

	assert_int_equal(write(child.in, "input", 5), 5);
	closep(&child.in);
	out = read_all(child.out);
	err = read_all(child.err);
	assert_string_equal(out, "sh| a b\n\ninput");
	assert_string_equal(err, "bad\n");
	assert_int_equal(status_of(&child), 0);
	child_kill(&child);
}

static void descriptors_are_as_they_are_said_to_be(void **state)
{
	struct kit *kit = *state;
	struct child child = shell(kit->warden, "read x", NULL);
	int fds[] = {child.in, child.out, child.err, child.lifeline};

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		assert_true(fcntl(fds[i], F_GETFD) & FD_CLOEXEC);
	assert_false(fcntl(child.in, F_GETFL) & O_NONBLOCK);
	assert_true(fcntl(child.out, F_GETFL) & O_NONBLOCK);
	assert_true(fcntl(child.err, F_GETFL) & O_NONBLOCK);
	child_kill(&child);
	assert_int_equal(child.in, -1);
	assert_int_equal(child.out, -1);
	assert_int_equal(child.err, -1);
	assert_int_equal(child.lifeline, -1);
	child_kill(&child);
}

static void the_exit_status_is_told(void **state)
{
	static const char *const statuses[] = {"0", "1", "64", "127", "128", "255"};
	struct kit *kit = *state;

	for (size_t i = 0; i < ARRAY_SIZE(statuses); i++) {
		struct child child = shell(kit->warden, "exit $1", statuses[i]);

		assert_int_equal(status_of(&child), atoi(statuses[i]));
		child_kill(&child);
	}
}

static void death_by_a_signal_is_told_as_128_and_its_number(void **state)
{
	static const int signals[] = {SIGKILL, SIGTERM, SIGSEGV, SIGPIPE, SIGHUP};
	struct kit *kit = *state;

	for (size_t i = 0; i < ARRAY_SIZE(signals); i++) {
		char number[8];
		struct child child;

		snprintf(number, sizeof(number), "%d", signals[i]);
		child = shell(kit->warden, "ulimit -c 0; kill -$1 $$", number);
		assert_int_equal(status_of(&child), 128 + signals[i]);
		child_kill(&child);
	}
}

static void the_status_is_not_waited_for_beyond_the_deadline(void **state)
{
	struct kit *kit = *state;
	struct child child = shell(kit->warden, "read x; exit 5", NULL);

	assert_int_equal(child_status(&child, 0), -ETIMEDOUT);
	assert_int_equal(child_status(&child, clock_ms() + WAIT_MS), -ETIMEDOUT);
	closep(&child.in);
	assert_int_equal(status_of(&child), 5);
	child_kill(&child);
}

static void what_cannot_be_run_ends_with_127_and_a_line(void **state)
{
	struct kit *kit = *state;
	const char *argv[] = {NULL, NULL};

	kit_write(kit, "plain", "#!/bin/sh\n");
	kit_write(kit, "broken", "#!/nowhere/at/all\n");
	assert_int_equal(chmod(kit_path(kit, "broken"), 0700), 0);
	for (int i = 0; i < 4; i++) {
		static const char *const names[] = {"missing", "plain", "broken", "."};
		struct child child;
		CLEANUP(freep) char *out = NULL, *err = NULL;

		argv[0] = kit_path(kit, names[i]);
		assert_int_equal(warden_spawn(kit->warden, argv, &child), 0);
		out = read_all(child.out);
		err = read_all(child.err);
		assert_string_equal(out, "");
		assert_non_null(strstr(err, argv[0]));
		assert_ptr_equal(strchr(err, '\n'), err + strlen(err) - 1);
		assert_int_equal(status_of(&child), 127);
		child_kill(&child);
	}
}

static void closing_the_lifeline_kills_the_program(void **state)
{
	struct kit *kit = *state;
	struct child child =
		shell(kit->warden,
		      "trap '' TERM HUP INT; echo $$; while :; do sleep 100; done", NULL);
	pid_t pid;

	read_pids(child.out, &pid, 1);
	closep(&child.lifeline);
	WAIT_FOR(kit_is_gone(pid));
	child_kill(&child);
}

static void a_program_that_was_stopped_is_killed(void **state)
{
	struct kit *kit = *state;
	struct child child = shell(kit->warden, "echo $$; kill -STOP $$", NULL);
	pid_t pid;

	read_pids(child.out, &pid, 1);
	child_kill(&child);
	WAIT_FOR(kit_is_gone(pid));
}

static void its_children_are_killed_with_it(void **state)
{
	struct kit *kit = *state;
	struct child child = shell(
		kit->warden, "sleep 1000 & (sleep 1000 & echo $$ $!; wait) & wait", NULL);
	pid_t pids[2];

	read_pids(child.out, pids, 2);
	child_kill(&child);
	WAIT_FOR(kit_is_gone(pids[0]) && kit_is_gone(pids[1]));
}

static void children_that_a_program_leaves_behind_are_killed(void **state)
{
	struct kit *kit = *state;
	struct child child = shell(kit->warden, "sleep 1000 & echo $!; exit 7", NULL);
	CLEANUP(freep) char *rest = NULL;
	pid_t pid;

	read_pids(child.out, &pid, 1);
	assert_int_equal(status_of(&child), 7);
	WAIT_FOR(kit_is_gone(pid));
	/* It held the pipe: only now that ends. */
	rest = read_all(child.out);
	assert_string_equal(rest, "");
	child_kill(&child);
}

static void a_program_leads_a_group_of_its_own(void **state)
{
	struct kit *kit = *state;
	struct child child =
		shell(kit->warden, "echo $$ $(cut -d' ' -f5 /proc/$$/stat)", NULL);
	pid_t pids[2];

	read_pids(child.out, pids, 2);
	assert_int_equal(pids[0], pids[1]);
	assert_int_not_equal(pids[0], getpgrp());
	child_kill(&child);
}

static void a_program_has_no_other_descriptors(void **state)
{
	struct kit *kit = *state;
	int held = open("/dev/null", O_RDONLY); /* not close-on-exec */
	struct child other = shell(kit->warden, "read x", NULL);
	CLEANUP(freep) char *text = said_by(kit->warden, "ls /proc/$$/fd");

	assert_string_equal(text, "0\n1\n2\n");
	child_kill(&other);
	close(held);
}

static void a_program_starts_with_no_signal_blocked_or_ignored(void **state)
{
	static const int numbers[] = {SIGUSR1, SIGINT, SIGTERM, SIGCHLD, SIGPIPE};
	struct sigaction ignore = {.sa_handler = SIG_IGN}, old[ARRAY_SIZE(numbers)];
	struct warden *warden;
	sigset_t all, mask;
	CLEANUP(freep) char *text = NULL;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &mask);
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
		sigaction(numbers[i], &ignore, &old[i]);
	assert_int_equal(warden_new(NULL, &warden), 0);
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
		sigaction(numbers[i], &old[i], NULL);
	sigprocmask(SIG_SETMASK, &mask, NULL);
	text = said_by(warden, "exec grep -E '^Sig(Blk|Ign):' /proc/self/status");
	warden_free(warden);
	assert_string_equal(text, "SigBlk:\t0000000000000000\n"
				  "SigIgn:\t0000000000000000\n");
}

static void statuses_come_though_the_warden_was_started_ignoring_sigchld(void **state)
{
	struct sigaction ignore = {.sa_handler = SIG_IGN}, old;
	struct warden *warden;
	struct child child;

	sigaction(SIGCHLD, &ignore, &old);
	assert_int_equal(warden_new(NULL, &warden), 0);
	sigaction(SIGCHLD, &old, NULL);
	child = shell(warden, "exit 3", NULL);
	assert_int_equal(status_of(&child), 3);
	child_kill(&child);
	warden_free(warden);
}

static void programs_have_what_is_allowed_of_the_environment_of_then(void **state)
{
	const struct warden_options options = {.env = "UNIT_WARDEN"};
	struct warden *warden;
	CLEANUP(freep) char *text = NULL;

	setenv("UNIT_WARDEN", "before", 1);
	setenv("UNIT_OTHER", "not allowed", 1);
	assert_int_equal(warden_new(&options, &warden), 0);
	setenv("UNIT_WARDEN", "after", 1);
	text = said_by(warden, "echo $UNIT_WARDEN$UNIT_OTHER");
	assert_string_equal(text, "before\n");
	warden_free(warden);
	unsetenv("UNIT_WARDEN");
	unsetenv("UNIT_OTHER");
}

static void arguments_have_a_limit(void **state)
{
	enum { LONG = 60000, TOO_LONG = 70000 };
	struct kit *kit = *state;
	CLEANUP(freep) char *argument = malloc(TOO_LONG + 1);
	const char *argv[32];
	struct child child = CHILD_NONE;

	memset(argument, 'x', TOO_LONG);
	argument[TOO_LONG] = '\0';
	assert_int_equal(warden_spawn(kit->warden,
				      (const char *const[]){SHELL, argument, NULL},
				      &child),
			 -E2BIG);
	assert_int_equal(child.lifeline, -1);
	for (size_t i = 0; i < ARRAY_SIZE(argv); i++)
		argv[i] = i + 1 < ARRAY_SIZE(argv) ? SHELL : NULL;
	assert_int_equal(warden_spawn(kit->warden, argv, &child), -E2BIG);
	argument[LONG] = '\0';
	child = shell(kit->warden, "printf %s \"$1\" | wc -c", argument);
	{
		CLEANUP(freep) char *text = read_all(child.out);

		assert_int_equal(atoi(text), LONG);
	}
	child_kill(&child);
}

static void many_programs_run_at_once_and_each_has_its_status(void **state)
{
	struct kit *kit = *state;
	struct child children[MANY];

	for (int i = 0; i < MANY; i++)
		children[i] = shell(kit->warden, "read status; exit $status", NULL);
	for (int i = MANY; i--;) {
		char line[16];
		int size = snprintf(line, sizeof(line), "%d\n", i);

		assert_int_equal(write(children[i].in, line, (size_t)size), size);
	}
	for (int i = 0; i < MANY; i++) {
		assert_int_equal(status_of(&children[i]), i);
		child_kill(&children[i]);
	}
}

static void *spawn_some(void *context)
{
	struct warden *warden = context;
	const char *argv[] = {SHELL, "-c", "exit 9", NULL};

	for (int i = 0; i < EACH; i++) {
		struct child child;

		if (warden_spawn(warden, argv, &child))
			return warden;
		if (child_status(&child, clock_ms() + LIMIT_MS) != 9)
			return warden;
		child_kill(&child);
	}
	return NULL;
}

static void any_thread_may_start_programs(void **state)
{
	struct kit *kit = *state;
	pthread_t threads[THREADS];

	for (int i = 0; i < THREADS; i++)
		assert_int_equal(
			pthread_create(&threads[i], NULL, spawn_some, kit->warden), 0);
	for (int i = 0; i < THREADS; i++) {
		void *ret;

		pthread_join(threads[i], &ret);
		assert_null(ret);
	}
}

static void the_wardens_end_kills_all_programs(void **state)
{
	struct warden *warden;
	struct child children[5];
	pid_t pids[5][2];

	assert_int_equal(warden_new(NULL, &warden), 0);
	for (int i = 0; i < 5; i++) {
		children[i] = shell(warden, "sleep 1000 & echo $$ $!; wait", NULL);
		read_pids(children[i].out, pids[i], 2);
	}
	warden_free(warden);
	for (int i = 0; i < 5; i++) {
		WAIT_FOR(kit_is_gone(pids[i][0]) && kit_is_gone(pids[i][1]));
		child_kill(&children[i]);
	}
}

static void without_programs_the_warden_ends_too(void **state)
{
	struct warden *warden;

	assert_int_equal(warden_new(NULL, &warden), 0);
	warden_free(warden);
	warden_free(NULL);
}

/* What a process that owns a warden tells its parent. */
struct owner {
	pid_t pid, warden, program, grandchild;
};

/* Fork a process that has a warden and a program, and then waits, or ends by exit(). */
static struct owner fork_owner(bool ends)
{
	struct owner owner;
	int ends_fds[2];
	ssize_t n;

	assert_int_equal(pipe2(ends_fds, O_CLOEXEC), 0);
	owner.pid = fork();
	if (!owner.pid) {
		const char *argv[] = {SHELL, "-c", "sleep 1000 & echo $PPID $$ $!; wait",
				      NULL};
		struct warden *warden;
		struct child child;
		char line[128];

		if (warden_new(NULL, &warden) || warden_spawn(warden, argv, &child))
			_exit(1);
		poll(&(struct pollfd){.fd = child.out, .events = POLLIN}, 1, LIMIT_MS);
		n = read(child.out, line, sizeof(line));
		if (n <= 0 || write(ends_fds[1], line, (size_t)n) != n)
			_exit(1);
		while (!ends)
			pause();
		_exit(0);
	}
	close(ends_fds[1]);
	{
		pid_t pids[3];

		read_pids(ends_fds[0], pids, 3);
		owner.warden = pids[0];
		owner.program = pids[1];
		owner.grandchild = pids[2];
	}
	close(ends_fds[0]);
	return owner;
}

static void assert_all_end(const struct owner *owner)
{
	assert_int_equal(waitpid(owner->pid, NULL, 0), owner->pid);
	WAIT_FOR(kit_is_gone(owner->program));
	WAIT_FOR(kit_is_gone(owner->grandchild));
	WAIT_FOR(kit_is_gone(owner->warden));
}

static void sigkill_of_its_owner_kills_all_programs(void **state)
{
	struct owner owner = fork_owner(false);

	assert_false(kit_is_gone(owner.program));
	kill(owner.pid, SIGKILL);
	assert_all_end(&owner);
}

static void the_exit_of_its_owner_kills_all_programs(void **state)
{
	struct owner owner = fork_owner(true);

	assert_all_end(&owner);
}

static void signals_that_end_its_owner_do_not_end_the_warden_first(void **state)
{
	static const int numbers[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGPIPE, SIGUSR1};
	struct kit *kit = *state;
	struct child child = shell(kit->warden, "echo $PPID", NULL);
	pid_t warden;

	read_pids(child.out, &warden, 1);
	child_kill(&child);
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
		kill(warden, numbers[i]);
	child = shell(kit->warden, "exit 4", NULL);
	assert_int_equal(status_of(&child), 4);
	child_kill(&child);
}

static void the_warden_is_in_a_session_of_its_own_and_in_no_folder(void **state)
{
	struct kit *kit = *state;
	struct child child = shell(kit->warden, "echo $PPID", NULL);
	char link[64], folder[PATH_MAX] = "";
	pid_t warden;

	read_pids(child.out, &warden, 1);
	child_kill(&child);
	assert_int_not_equal(getsid(warden), getsid(0));
	snprintf(link, sizeof(link), "/proc/%d/cwd", (int)warden);
	assert_int_equal(readlink(link, folder, sizeof(folder) - 1), 1);
	assert_string_equal(folder, "/");
}

static void when_the_warden_is_killed_programs_die_and_callers_are_told(void **state)
{
	struct warden *warden;
	struct child child, later = CHILD_NONE;
	const char *argv[] = {SHELL, NULL};
	pid_t pids[2];
	int ret;

	assert_int_equal(warden_new(NULL, &warden), 0);
	child = shell(warden, "echo $PPID $$; while :; do sleep 100; done", NULL);
	read_pids(child.out, pids, 2);
	kill(pids[0], SIGKILL);
	WAIT_FOR(kit_is_gone(pids[1]));
	assert_int_equal(status_of(&child), -ECONNRESET);
	child_kill(&child);
	/* The kernel tells of the death when the last of its descriptors is closed. */
	WAIT_FOR((ret = warden_spawn(warden, argv, &later)) == -ECONNRESET ||
		 (child_kill(&later), false));
	assert_int_equal(later.lifeline, -1);
	warden_free(warden);
}

/* In a process without the standard descriptors: does all go where it belongs? */
static int use_without_standard_fds(void)
{
	const char *argv[] = {SHELL, "-c", "read x; echo out$x; echo err >&2; exit 3",
			      NULL};
	struct warden *warden;
	struct child child;
	char text[16];
	ssize_t n;

	for (int fd = 0; fd < 3; fd++)
		close(fd);
	if (warden_new(NULL, &warden) || warden_spawn(warden, argv, &child))
		return 1;
	if (child.in < 3 || child.out < 3 || child.err < 3 || child.lifeline < 3)
		return 2;
	if (write(child.in, "1\n", 2) != 2)
		return 3;
	if (child_status(&child, clock_ms() + LIMIT_MS) != 3)
		return 4;
	n = read(child.out, text, sizeof(text));
	if (n != 5 || memcmp(text, "out1\n", 5))
		return 5;
	n = read(child.err, text, sizeof(text));
	if (n != 4 || memcmp(text, "err\n", 4))
		return 6;
	child_kill(&child);
	warden_free(warden);
	return 0;
}

/* The exit status of a process that does @function. */
static int in_a_process(int (*function)(void))
{
	pid_t pid = fork();
	int status;

	if (!pid)
		_exit(function());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void standard_descriptors_may_have_been_closed(void **state)
{
	assert_int_equal(in_a_process(use_without_standard_fds), 0);
}

static int use_with_a_file_limit(void)
{
	const char *argv[] = {SHELL, "-c", "exit $(ulimit -n)", NULL};
	struct rlimit limit;
	struct warden *warden;
	struct child child;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		return 1;
	limit.rlim_cur = 77;
	if (setrlimit(RLIMIT_NOFILE, &limit) || warden_new(NULL, &warden) ||
	    warden_spawn(warden, argv, &child))
		return 2;
	if (child_status(&child, clock_ms() + LIMIT_MS) != 77)
		return 3;
	child_kill(&child);
	warden_free(warden);
	/* For us it was raised: each program takes five. */
	return getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur == 77 ? 4 : 0;
}

static void programs_have_the_file_limit_of_who_started_the_daemon(void **state)
{
	assert_int_equal(in_a_process(use_with_a_file_limit), 0);
}

/* Whoever waits for the end of the owner's output must not wait for the warden. */
static void the_warden_does_not_hold_its_owners_output(void **state)
{
	int ends[2], stop[2];
	pid_t pid;

	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	assert_int_equal(pipe2(stop, O_CLOEXEC), 0);
	pid = fork();
	if (!pid) {
		struct warden *warden;
		char byte;

		close(ends[0]);
		close(stop[1]);
		dup2(ends[1], STDOUT_FILENO);
		close(ends[1]);
		if (warden_new(NULL, &warden))
			_exit(1);
		close(STDOUT_FILENO);
		_exit(read(stop[0], &byte, 1) == 0 ? 0 : 2);
	}
	close(ends[1]);
	close(stop[0]);
	{
		CLEANUP(freep) char *text = read_all(ends[0]);

		assert_string_equal(text, "");
	}
	close(ends[0]);
	close(stop[1]);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static bool is_mounted(const char *folder)
{
	FILE *file = fopen("/proc/self/mountinfo", "re");
	char line[8192];
	bool found = false;

	assert_non_null(file);
	while (fgets(line, sizeof(line), file))
		found = found || strstr(line, folder);
	fclose(file);
	return found;
}

static void a_mount_that_its_owner_left_is_taken_away(void **state)
{
	struct kit *kit = *state;
	int ready[2];
	char byte;
	pid_t pid;

	if (geteuid() || access("/dev/fuse", R_OK | W_OK))
		skip();
	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	assert_int_equal(mkdir(kit_path(kit, "mnt"), 0700), 0);
	pid = fork();
	if (!pid) {
		const char *folder = kit_path(kit, "mnt");
		struct warden *warden;
		char options[128];
		int fd;

		close(ready[0]);
		if (warden_new(NULL, &warden))
			_exit(1);
		fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
		snprintf(options, sizeof(options),
			 "fd=%d,rootmode=40000,user_id=0,group_id=0", fd);
		if (fd < 0 || mount("unit", folder, "fuse", 0, options))
			_exit(write(ready[1], "n", 1) == 1 ? 0 : 1);
		if (warden_watch_mount(warden, folder) || write(ready[1], "y", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	if (byte != 'y') {
		waitpid(pid, NULL, 0);
		skip();
	}
	assert_true(is_mounted(kit->folder));
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	WAIT_FOR(!is_mounted(kit->folder));
}

static void a_mountpoint_that_is_too_long_is_refused(void **state)
{
	struct kit *kit = *state;
	char path[PATH_MAX + 100];

	memset(path, 'x', sizeof(path));
	path[sizeof(path) - 1] = '\0';
	assert_int_equal(warden_watch_mount(kit->warden, path), -ENAMETOOLONG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		KIT_TEST(a_program_gets_its_arguments_and_three_pipes),
		KIT_TEST(descriptors_are_as_they_are_said_to_be),
		KIT_TEST(the_exit_status_is_told),
		KIT_TEST(death_by_a_signal_is_told_as_128_and_its_number),
		KIT_TEST(the_status_is_not_waited_for_beyond_the_deadline),
		KIT_TEST(what_cannot_be_run_ends_with_127_and_a_line),
		KIT_TEST(closing_the_lifeline_kills_the_program),
		KIT_TEST(a_program_that_was_stopped_is_killed),
		KIT_TEST(its_children_are_killed_with_it),
		KIT_TEST(children_that_a_program_leaves_behind_are_killed),
		KIT_TEST(a_program_leads_a_group_of_its_own),
		KIT_TEST(a_program_has_no_other_descriptors),
		KIT_TEST(a_program_starts_with_no_signal_blocked_or_ignored),
		KIT_TEST(statuses_come_though_the_warden_was_started_ignoring_sigchld),
		KIT_TEST(programs_have_what_is_allowed_of_the_environment_of_then),
		KIT_TEST(arguments_have_a_limit),
		KIT_TEST(many_programs_run_at_once_and_each_has_its_status),
		KIT_TEST(any_thread_may_start_programs),
		KIT_TEST(the_wardens_end_kills_all_programs),
		KIT_TEST(without_programs_the_warden_ends_too),
		KIT_TEST(sigkill_of_its_owner_kills_all_programs),
		KIT_TEST(the_exit_of_its_owner_kills_all_programs),
		KIT_TEST(signals_that_end_its_owner_do_not_end_the_warden_first),
		KIT_TEST(the_warden_is_in_a_session_of_its_own_and_in_no_folder),
		KIT_TEST(when_the_warden_is_killed_programs_die_and_callers_are_told),
		KIT_TEST(standard_descriptors_may_have_been_closed),
		KIT_TEST(programs_have_the_file_limit_of_who_started_the_daemon),
		KIT_TEST(the_warden_does_not_hold_its_owners_output),
		KIT_TEST(a_mount_that_its_owner_left_is_taken_away),
		KIT_TEST(a_mountpoint_that_is_too_long_is_refused),
	};

	return KIT_RUN(tests);
}
