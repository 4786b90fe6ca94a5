/* SPDX-License-Identifier: MIT */
/*
 * The daemon sends a message for each program: its arguments, and four descriptors that
 * become standard input, output and error and the warden's end of the lifeline.  The
 * warden answers on the lifeline with the status; the lifeline's hang-up tells it to
 * kill. So there are no process ids to mistake, and the daemon's death hangs all
 * lifelines up.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/queue.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/statfs.h>
#include <sys/wait.h>

#include "cleanup.h"
#include "clock.h"
#include "environment.h"
#include "pipe.h"
#include "warden.h"

#define MESSAGE_MAX 65536
#define ARGS_MAX 16
#define PASSED_FDS 4
#define STATUS_NOT_RUN 127
#define STATUS_SIGNAL 128
#define UNMOUNT_TRIES 50
#define LAST_WAITS 100
#define LAST_WAIT_MS 20

struct warden {
	int socket;
	pid_t pid;
};

/* The first byte of a message says what it is. */
enum { MESSAGE_RUN = 'r', MESSAGE_MOUNT = 'm' };

/* A program, as the warden knows it. */
struct ward {
	LIST_ENTRY(ward) link;
	pid_t pid; /* and process group */
	int lifeline;
	bool killed;
};

LIST_HEAD(wards, ward);

struct office {
	int socket;
	int signals;
	sigset_t original_mask;
	struct warden_options options;
	struct rlimit files; /* for programs: as it was before the daemon raised it */
	size_t count;
	struct wards wards;
	char mountpoint[PATH_MAX];
};

/* ---- in the program, before it is one: async-signal-safe calls only ---- */

static void say(const char *text)
{
	ssize_t n = write(STDERR_FILENO, text, strlen(text));

	(void)n;
}

static bool change_user(const struct warden_options *options)
{
	return !options->as_user ||
	       (!setgroups(options->group_count, options->groups) &&
		!setresgid(options->gid, options->gid, options->gid) &&
		!setresuid(options->uid, options->uid, options->uid));
}

static _Noreturn void become(const struct office *office, pid_t warden, char **argv,
			     const int *fds)
{
	setpgid(0, 0);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    !change_user(&office->options)) {
		say("cannot give up privileges\n");
		_exit(STATUS_NOT_RUN);
	}
	/* A change of user takes it back. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != warden)
		_exit(STATUS_NOT_RUN);
	/* None of @fds is below 3: the warden keeps 0, 1 and 2 taken. */
	for (int i = 0; i < 3; i++)
		if (dup2(fds[i], i) < 0)
			_exit(STATUS_NOT_RUN);
	close_range(3, ~0U, 0);
	for (int signal_number = 1; signal_number < NSIG; signal_number++)
		signal(signal_number, SIG_DFL);
	sigprocmask(SIG_SETMASK, &office->original_mask, NULL);
	setrlimit(RLIMIT_NOFILE, &office->files);
	execv(argv[0], argv);
	say("cannot run ");
	say(argv[0]);
	say(": ");
	say(strerrordesc_np(errno));
	say("\n");
	_exit(STATUS_NOT_RUN);
}

/* ---- in the warden ---- */

static void send_status(int lifeline, int32_t status)
{
	send(lifeline, &status, sizeof(status), MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void run_program(struct office *office, char *text, size_t size, int *fds)
{
	struct ward *ward = calloc(1, sizeof(*ward));
	char *argv[ARGS_MAX + 1] = {NULL};
	pid_t self = getpid();
	size_t argc = 0;

	for (char *arg = text; arg < text + size && argc < ARGS_MAX;
	     arg += strlen(arg) + 1)
		argv[argc++] = arg;
	if (!ward) {
		send_status(fds[3], -ENOMEM);
		return;
	}
	ward->pid = fork();
	if (!ward->pid)
		become(office, self, argv, fds);
	if (ward->pid < 0) {
		send_status(fds[3], -errno);
		free(ward);
		return;
	}
	setpgid(ward->pid, ward->pid);
	ward->lifeline = STEAL_FD(fds[3]);
	LIST_INSERT_HEAD(&office->wards, ward, link);
	office->count++;
}

/* Returns false when the daemon is gone. */
static bool take_message(struct office *office)
{
	static char text[MESSAGE_MAX + 1];
	union {
		char buffer[CMSG_SPACE(sizeof(int) * PASSED_FDS)];
		struct cmsghdr align;
	} control;
	struct iovec iov = {text, MESSAGE_MAX};
	struct msghdr message = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.buffer,
		.msg_controllen = sizeof(control.buffer),
	};
	int fds[PASSED_FDS] = {-1, -1, -1, -1};
	struct cmsghdr *header;
	ssize_t size = recvmsg(office->socket, &message, MSG_CMSG_CLOEXEC);

	if (size < 0 && (errno == EINTR || errno == EAGAIN))
		return true;
	if (size <= 0)
		return false;
	text[size] = '\0';
	header = CMSG_FIRSTHDR(&message);
	/* Without descriptors to spare some of them may be missing: nothing is run then. */
	if (header && header->cmsg_len <= CMSG_LEN(sizeof(fds)))
		memcpy(fds, CMSG_DATA(header), header->cmsg_len - CMSG_LEN(0));
	if (text[0] == MESSAGE_MOUNT)
		snprintf(office->mountpoint, sizeof(office->mountpoint), "%.*s",
			 PATH_MAX - 1, text + 1);
	else if (fds[3] >= 0)
		run_program(office, text + 1, (size_t)size - 1, fds);
	for (size_t i = 0; i < PASSED_FDS; i++)
		closep(&fds[i]);
	return true;
}

static struct ward *find_ward(struct office *office, pid_t pid)
{
	struct ward *ward;

	LIST_FOREACH (ward, &office->wards, link) {
		if (ward->pid == pid)
			return ward;
	}
	return NULL;
}

/*
 * Bury the programs that have ended.  Their groups are killed while their process ids are
 * still taken, so that no other group can have come by the number.
 */
static void reap(struct office *office)
{
	struct signalfd_siginfo info;
	ssize_t n = read(office->signals, &info, sizeof(info));

	(void)n;
	for (;;) {
		siginfo_t ended = {0};
		struct ward *ward;

		if (waitid(P_ALL, 0, &ended, WEXITED | WNOHANG | WNOWAIT) ||
		    !ended.si_pid)
			return;
		ward = find_ward(office, ended.si_pid);
		if (ward)
			kill(-ward->pid, SIGKILL);
		waitpid(ended.si_pid, NULL, 0);
		if (!ward)
			continue;
		send_status(ward->lifeline, ended.si_code == CLD_EXITED
						    ? ended.si_status
						    : STATUS_SIGNAL + ended.si_status);
		close(ward->lifeline);
		LIST_REMOVE(ward, link);
		office->count--;
		free(ward);
	}
}

static void kill_ward(struct ward *ward)
{
	if (!ward->killed)
		kill(-ward->pid, SIGKILL);
	ward->killed = true;
}

/* The mount, if nobody serves it; a mount that somebody serves answers otherwise. */
static bool is_dead_mount(const char *mountpoint)
{
	struct statfs fs;

	return statfs(mountpoint, &fs) && (errno == ENOTCONN || errno == ECONNABORTED);
}

static void unmount_dead(const char *mountpoint)
{
	pid_t pid;

	for (int i = 0; i < UNMOUNT_TRIES && is_dead_mount(mountpoint); i++) {
		if (!umount2(mountpoint, MNT_DETACH))
			return;
		pid = fork();
		if (!pid) {
			execlp("fusermount3", "fusermount3", "-u", "-z", "-q", "--",
			       mountpoint, (char *)NULL);
			_exit(STATUS_NOT_RUN);
		}
		if (pid < 0 || waitpid(pid, NULL, 0) < 0)
			return;
	}
}

/* Wait for something to do, and do it.  Returns false when the daemon is gone. */
static bool work(struct office *office)
{
	size_t count = office->count + 2;
	CLEANUP(freep) struct pollfd *fds = calloc(count, sizeof(*fds));
	struct ward *ward;
	size_t i = 2;
	bool go_on = true;

	if (!fds) {
		poll(NULL, 0, 10);
		return true;
	}
	fds[0] = (struct pollfd){.fd = office->socket, .events = POLLIN};
	fds[1] = (struct pollfd){.fd = office->signals, .events = POLLIN};
	LIST_FOREACH (ward, &office->wards, link) {
		/* Hang-ups are reported without being asked for. */
		fds[i++] = (struct pollfd){.fd = ward->killed ? -1 : ward->lifeline};
	}
	if (poll(fds, count, -1) < 0)
		return true;
	i = 2;
	LIST_FOREACH (ward, &office->wards, link) {
		if (fds[i++].revents)
			kill_ward(ward);
	}
	if (fds[0].revents)
		go_on = take_message(office);
	if (fds[1].revents)
		reap(office);
	return go_on;
}

static void close_other_fds(const struct office *office)
{
	unsigned int low = (unsigned int)MIN(office->socket, office->signals);
	unsigned int high = (unsigned int)MAX(office->socket, office->signals);

	if (low > 3)
		close_range(3, low - 1, 0);
	if (high > low + 1)
		close_range(low + 1, high - 1, 0);
	close_range(high + 1, ~0U, 0);
}

/* Hold neither the terminal, nor whoever waits for our output's end, nor a folder. */
static int let_go(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null < 0 || chdir("/") < 0)
		return -errno;
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (dup2(null, fd) < 0)
			return -errno;
	return null;
}

static _Noreturn void be_warden(int socket, const struct warden_options *options,
				const sigset_t *original_mask, const struct rlimit *files)
{
	struct office office = {
		.socket = socket,
		.options = *options,
		.original_mask = *original_mask,
		.files = *files,
		.wards = LIST_HEAD_INITIALIZER(office.wards),
	};
	struct ward *ward;
	sigset_t child;

	prctl(PR_SET_NAME, "imagefs-warden");
	/* An ignored SIGCHLD, which is inherited, would leave nothing to wait for. */
	signal(SIGCHLD, SIG_DFL);
	/* Out of reach of the terminal's signals; those of others are blocked already. */
	setsid();
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	office.signals = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
	if (office.signals < 0 || let_go() < 0 || environment_clean(options->env) < 0)
		_exit(EXIT_FAILURE);
	close_other_fds(&office);
	while (work(&office)) {
	}
	LIST_FOREACH (ward, &office.wards, link) {
		kill_ward(ward);
	}
	if (office.mountpoint[0])
		unmount_dead(office.mountpoint);
	/* Killed is not yet gone; what the kernel cannot end soon is not waited for. */
	for (int i = 0; !LIST_EMPTY(&office.wards) && i < LAST_WAITS; i++) {
		poll(&(struct pollfd){.fd = office.signals, .events = POLLIN}, 1,
		     LAST_WAIT_MS);
		reap(&office);
	}
	_exit(EXIT_SUCCESS);
}

/* ---- in the daemon ---- */

/* Keep 0, 1 and 2 taken, so that no descriptor of ours is mistaken for one of them. */
static void take_standard_fds(void)
{
	int fd;

	do {
		fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	} while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
}

/* Each program takes five descriptors.  Returns the limit as it was. */
static struct rlimit raise_file_limit(void)
{
	struct rlimit was = {1024, 1024}, raised;

	if (!getrlimit(RLIMIT_NOFILE, &was)) {
		raised = was;
		raised.rlim_cur = raised.rlim_max;
		setrlimit(RLIMIT_NOFILE, &raised);
	}
	return was;
}

int warden_new(const struct warden_options *options, struct warden **ret_warden)
{
	static const struct warden_options none;
	CLEANUP(freep) struct warden *warden = calloc(1, sizeof(*warden));
	struct rlimit files = raise_file_limit();
	sigset_t all, original;
	int ends[2];

	if (!warden)
		return -ENOMEM;
	take_standard_fds();
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return -errno;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &original);
	warden->pid = fork();
	if (!warden->pid) {
		close(ends[0]);
		/* Programs start with no signal blocked, whoever started the daemon. */
		sigemptyset(&original);
		be_warden(ends[1], options ? options : &none, &original, &files);
	}
	sigprocmask(SIG_SETMASK, &original, NULL);
	close(ends[1]);
	warden->socket = ends[0];
	if (warden->pid < 0) {
		close(ends[0]);
		return -EAGAIN;
	}
	*ret_warden = STEAL(warden);
	return 0;
}

int warden_watch_mount(struct warden *warden, const char *mountpoint)
{
	char text[PATH_MAX + 1];
	int size = snprintf(text, sizeof(text), "%c%s", MESSAGE_MOUNT, mountpoint);

	if (size < 0 || (size_t)size >= sizeof(text))
		return -ENAMETOOLONG;
	return send(warden->socket, text, (size_t)size, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* The text of a message that asks for @argv.  Returns its size or -E2BIG. */
static ssize_t write_arguments(char *text, const char *const *argv)
{
	size_t used = 0, count = 0;

	text[used++] = MESSAGE_RUN;
	for (; *argv; argv++, count++) {
		size_t size = strlen(*argv) + 1;

		if (count == ARGS_MAX || size > MESSAGE_MAX - used)
			return -E2BIG;
		memcpy(text + used, *argv, size);
		used += size;
	}
	return (ssize_t)used;
}

static int send_message(struct warden *warden, char *text, size_t size, const int *fds)
{
	union {
		char buffer[CMSG_SPACE(sizeof(int) * PASSED_FDS)];
		struct cmsghdr align;
	} control = {0};
	struct iovec iov = {text, size};
	struct msghdr message = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.buffer,
		.msg_controllen = sizeof(control.buffer),
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int) * PASSED_FDS);
	memcpy(CMSG_DATA(header), fds, sizeof(int) * PASSED_FDS);
	return sendmsg(warden->socket, &message, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

int warden_spawn(struct warden *warden, const char *const *argv, struct child *ret_child)
{
	CLEANUP(freep) char *text = malloc(MESSAGE_MAX);
	struct child child = CHILD_NONE;
	int in[2] = {-1, -1}, out[2] = {-1, -1}, err[2] = {-1, -1};
	int lifeline[2] = {-1, -1};
	ssize_t size = text ? write_arguments(text, argv) : -ENOMEM;
	int ret;

	if (size < 0)
		return (int)size;
	if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0 ||
	    pipe2(err, O_CLOEXEC) < 0 ||
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, lifeline) < 0) {
		ret = -errno;
	} else {
		ret = send_message(warden, text, (size_t)size,
				   (int[]){in[0], out[1], err[1], lifeline[1]});
	}
	child = (struct child){in[1], out[0], err[0], lifeline[0]};
	closep(&in[0]);
	closep(&out[1]);
	closep(&err[1]);
	closep(&lifeline[1]);
	if (ret < 0) {
		child_kill(&child);
		return ret == -EPIPE ? -ECONNRESET : ret;
	}
	/* A larger pipe means fewer, larger reads. */
	pipe_enlarge(child.out, PIPE_BYTES);
	fcntl(child.out, F_SETFL, O_NONBLOCK);
	fcntl(child.err, F_SETFL, O_NONBLOCK);
	*ret_child = child;
	return 0;
}

int child_status(struct child *child, uint64_t deadline_ms)
{
	struct pollfd pollfd = {.fd = child->lifeline, .events = POLLIN};
	int32_t status;
	ssize_t size;
	int ready;

	do {
		ready = poll(&pollfd, 1, clock_left_ms(deadline_ms));
	} while (ready < 0 && errno == EINTR);
	if (ready <= 0)
		return ready ? -errno : -ETIMEDOUT;
	size = recv(child->lifeline, &status, sizeof(status), MSG_DONTWAIT);
	return size == sizeof(status) ? status : -ECONNRESET;
}

void child_kill(struct child *child)
{
	closep(&child->lifeline);
	closep(&child->in);
	closep(&child->out);
	closep(&child->err);
}

void warden_free(struct warden *warden)
{
	if (!warden)
		return;
	close(warden->socket);
	while (waitpid(warden->pid, NULL, 0) < 0 && errno == EINTR) {
	}
	free(warden);
}
