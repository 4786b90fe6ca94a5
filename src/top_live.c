/* SPDX-License-Identifier: MIT */
/*
 * top_live - the figures of a mount, taken from it; and the terminal that they are shown on
 * each second.  Each time the file is opened, read and closed: it keeps no mount busy.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#include "cleanup.h"
#include "clock.h"
#include "log.h"
#include "terminal.h"
#include "top.h"

#define INTERVAL_MS 1000
#define PIECE 65536
#define BEGIN_SCREEN "\x1b[?1049h\x1b[?25l" /* the other screen, no cursor (xterm) */
#define END_SCREEN "\x1b[?25h\x1b[?1049l"
#define HOME "\x1b[H"
#define CLEAR_BELOW "\x1b[J"

/* All of a file, for the caller to free.  Returns 0 or a negative errno. */
static int read_file(const char *path, char **ret_text)
{
	CLEANUP(closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
	CLEANUP(freep) char *text = NULL;
	size_t size = 0;
	ssize_t n;

	if (fd < 0)
		return -errno;
	do {
		char *more = realloc(text, size + PIECE + 1);

		if (!more)
			return -ENOMEM;
		text = more;
		n = read(fd, text + size, PIECE);
		if (n < 0)
			return -errno;
		size += (size_t)n;
	} while (n);
	text[size] = '\0';
	*ret_text = STEAL(text);
	return 0;
}

static int take(const char *mountpoint, struct figures **ret_figures)
{
	CLEANUP(freep) char *path = NULL, *text = NULL;
	int ret;

	if (asprintf(&path, "%s/.imagefs/stats", mountpoint) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	ret = read_file(path, &text);
	if (!ret)
		ret = figures_parse(text, ret_figures);
	if (!ret)
		(*ret_figures)->taken_us = clock_us();
	return ret;
}

static void say_why(const char *mountpoint, int err)
{
	const char *hint = err == -ENOTCONN ? "its program is gone: umount -l it"
			   : err == -EACCES
				   ? "only who mounted gets in without allow_other"
				   : "no imagefs is mounted there";

	if (err == -ENOENT && !access(mountpoint, F_OK))
		log_line(LOG_ERR, "%s: %s", mountpoint, hint);
	else
		log_line(LOG_ERR, "%s: %s (%s)", mountpoint, strerror(-err), hint);
}

/* ---- the terminal ---- */

struct screen {
	struct top_view view;
	struct termios saved;
	bool has_keys; /* standard input is a terminal: saved is its state */
	int signals;
};

static void measure(struct screen *screen)
{
	struct winsize size;

	screen->view.columns = 80;
	screen->view.rows = 24;
	if (!ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) && size.ws_col && size.ws_row) {
		screen->view.columns = size.ws_col;
		screen->view.rows = size.ws_row;
	}
}

static int put(const char *text, size_t size)
{
	while (size) {
		ssize_t n = write(STDOUT_FILENO, text, size);

		if (n < 0)
			return -errno;
		text += n;
		size -= (size_t)n;
	}
	return 0;
}

static int screen_begin(struct screen *screen)
{
	struct termios raw;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGQUIT);
	sigaddset(&set, SIGWINCH);
	sigprocmask(SIG_BLOCK, &set, NULL);
	screen->signals = signalfd(-1, &set, SFD_CLOEXEC);
	if (screen->signals < 0)
		return -errno;
	screen->has_keys = !tcgetattr(STDIN_FILENO, &screen->saved);
	if (screen->has_keys) {
		raw = screen->saved;
		raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
		tcsetattr(STDIN_FILENO, TCSANOW, &raw);
	}
	measure(screen);
	return put(BEGIN_SCREEN, strlen(BEGIN_SCREEN));
}

static void screen_end(struct screen *screen)
{
	put(END_SCREEN, strlen(END_SCREEN));
	if (screen->has_keys)
		tcsetattr(STDIN_FILENO, TCSANOW, &screen->saved);
	closep(&screen->signals);
}

static int draw(const struct screen *screen, const struct figures *now,
		const struct figures *before)
{
	CLEANUP(freep) char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);
	int ret;

	if (!out)
		return -ENOMEM;
	fputs(HOME, out);
	ret = top_screen(out, &screen->view, now, before);
	fputs(CLEAR_BELOW, out);
	if (fclose(out) && !ret)
		ret = -ENOMEM;
	return ret ? ret : put(text, size);
}

/* Wait for @until_ms, or for what changes the screen.  Returns whether to go on. */
static bool wait_for_next(struct screen *screen, uint64_t until_ms)
{
	struct pollfd fds[] = {
		{.fd = screen->signals, .events = POLLIN},
		{.fd = screen->has_keys ? STDIN_FILENO : -1, .events = POLLIN},
	};
	struct signalfd_siginfo info;
	char key;

	if (poll(fds, ARRAY_SIZE(fds), clock_left_ms(until_ms)) < 0)
		return errno == EINTR;
	if (fds[0].revents &&
	    read(screen->signals, &info, sizeof(info)) == sizeof(info)) {
		if (info.ssi_signo != SIGWINCH)
			return false;
		measure(screen);
	}
	if (fds[1].revents && (read(STDIN_FILENO, &key, 1) != 1 || key == 'q'))
		return false;
	return true;
}

static void figures_freep(struct figures **figures)
{
	figures_free(*figures);
}

/* Returns 0 at the wish of who looks, or a negative errno. */
static int show_live(struct screen *screen)
{
	CLEANUP(figures_freep) struct figures *now = NULL, *before = NULL;
	uint64_t next_ms = 0;
	int ret;

	do {
		/* A key or another size shows the same once more. */
		if (clock_ms() >= next_ms) {
			struct figures *new = NULL;

			ret = take(screen->view.mountpoint, &new);
			if (ret < 0)
				return ret;
			figures_free(before);
			before = now;
			now = new;
			next_ms = clock_ms() + INTERVAL_MS;
		}
		ret = draw(screen, now, before);
	} while (!ret && wait_for_next(screen, next_ms));
	return ret;
}

static int live(const char *mountpoint)
{
	struct screen screen = {
		.view = {.mountpoint = mountpoint,
			 .colours = terminal_has_colours(STDOUT_FILENO)},
		.signals = -1,
	};
	int ret = screen_begin(&screen);

	if (!ret)
		ret = show_live(&screen);
	screen_end(&screen);
	return ret;
}

static int show_once(const char *mountpoint, const struct figures *figures, bool json)
{
	int ret = 0;

	if (json)
		ret = top_json(stdout, mountpoint, figures);
	else
		top_table(stdout, figures);
	if (!ret && fflush(stdout))
		ret = -errno;
	if (ret == -EPIPE)
		ret = 0; /* who wanted only the first lines has them */
	if (ret < 0)
		log_line(LOG_ERR, "the figures cannot be written: %s", strerror(-ret));
	return ret;
}

int top_show(const char *mountpoint, bool once, bool json)
{
	const char *term = getenv("TERM");
	bool can = isatty(STDOUT_FILENO) && term && strcmp(term, "dumb") != 0;
	CLEANUP(figures_freep) struct figures *figures = NULL;
	int ret = take(mountpoint, &figures);

	if (!ret && (once || json || !can))
		return show_once(mountpoint, figures, json);
	if (!ret)
		ret = live(mountpoint);
	if (ret < 0)
		say_why(mountpoint, ret);
	return ret;
}
