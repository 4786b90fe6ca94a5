/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cleanup.h"
#include "clock.h"
#include "show.h"
#include "terminal.h"
#include "text.h"
#include "verify-show.h"

#define NAME_WIDTH_MAX 60
#define SHOWN_EVERY_MS 100
#define WIDTH_DEFAULT 80
#define BAR_WIDTH_MAX 40
#define FIGURES_WIDTH 34 /* what is beside the bar */

#define CLEAR_LINE "\r\033[K"

/* Ended by a signal: leave the terminal's line as it was, and end by it. */
static void take_bar_away(int signal_number)
{
	ssize_t n = write(STDERR_FILENO, CLEAR_LINE, sizeof(CLEAR_LINE) - 1);

	(void)n;
	/* Its default action is set again, and ends us when this has returned. */
	raise(signal_number);
}

static void set_signals(void)
{
	static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
	struct sigaction action = {.sa_handler = take_bar_away,
				   .sa_flags = (int)SA_RESETHAND};

	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
		struct sigaction was;

		/* Who ignores a signal, as nohup(1) does, goes on doing so. */
		if (!sigaction(numbers[i], NULL, &was) && was.sa_handler != SIG_IGN)
			sigaction(numbers[i], &action, NULL);
	}
}

/* Whether @fd is a terminal that a bar can be drawn on. */
static bool is_terminal(int fd)
{
	const char *term = getenv("TERM");

	return isatty(fd) && term && strcmp(term, "dumb") != 0;
}

void verify_show_begin(struct verify_show *show, struct image *const *images,
		       size_t count, bool json)
{
	int width = (int)strlen("NAME");

	*show = (struct verify_show){
		.json = json,
		.bar = is_terminal(STDERR_FILENO),
		.color = terminal_has_colours(STDOUT_FILENO),
		.started_ms = clock_ms(),
	};
	for (size_t i = 0; i < count; i++) {
		width = MAX(width, show_columns(images[i]->file_name));
		show->total += images[i]->size;
	}
	show->name_width = MIN(width, NAME_WIDTH_MAX);
	if (show->bar)
		set_signals();
	if (!json)
		printf("%-*s  %6s  %-8s  %s\n", show->name_width, "NAME", "SIZE", "HASH",
		       "RESULT");
	fflush(stdout);
}

static int terminal_width(void)
{
	struct winsize size;

	if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) || !size.ws_col)
		return WIDTH_DEFAULT;
	return size.ws_col;
}

static void show_bar(const struct verify_show *show, uint64_t done, uint64_t now_ms)
{
	char line[256], bar[BAR_WIDTH_MAX + 1], size[SHOW_SIZE_ROOM],
		total[SHOW_SIZE_ROOM];
	int width = MIN(terminal_width() - FIGURES_WIDTH, BAR_WIDTH_MAX);
	double part = show->total ? (double)done / (double)show->total : 1;
	double seconds = (double)(now_ms - show->started_ms) / 1000;
	double rate = seconds > 0 ? (double)done / seconds / 1e6 : 0;
	int length;
	ssize_t n;

	width = MAX(width, 0);
	memset(bar, '.', (size_t)width);
	memset(bar, '#', (size_t)(part * width));
	bar[width] = '\0';
	show_size(size, done, false);
	show_size(total, show->total, false);
	length = snprintf(line, sizeof(line), "\r[%s] %3d%%  %s of %s  %.0f MB/s\033[K\r",
			  bar, (int)(100 * part), size, total, rate);
	n = write(STDERR_FILENO, line, MIN((size_t)length, sizeof(line) - 1));
	(void)n;
}

void verify_show_progress(struct verify_show *show, uint64_t done)
{
	uint64_t now_ms = clock_ms();

	if (!show->bar || now_ms < show->shown_ms + SHOWN_EVERY_MS)
		return;
	show->shown_ms = now_ms;
	show_bar(show, done, now_ms);
}

static void clear_bar(const struct verify_show *show)
{
	ssize_t n = 0;

	if (show->bar)
		n = write(STDERR_FILENO, CLEAR_LINE, sizeof(CLEAR_LINE) - 1);
	(void)n;
}

static const struct {
	const char *name; /* for programs */
	const char *text;
	const char *color; /* of a terminal */
} verdicts[] = {
	[VERDICT_EQUAL] = {"equal", "equal", TERMINAL_GREEN},
	[VERDICT_DIFFERENT] = {"different", "DIFFERENT", TERMINAL_RED},
	[VERDICT_UNREAD] = {"unread", "NOT READ", TERMINAL_RED},
	[VERDICT_NO_HASH] = {"no hash", "nothing to compare with", TERMINAL_YELLOW},
};

static int print_row(const struct verify_show *show, const struct finding *finding)
{
	const struct image *image = finding->image;
	CLEANUP(freep) char *name = strdup(image->file_name);
	const char *on = show->color ? verdicts[finding->verdict].color : "";
	const char *off = show->color ? TERMINAL_OFF : "";
	char size[SHOW_SIZE_ROOM];

	if (!name)
		return -ENOMEM;
	/* What a terminal acts on is not printed; a pipe gets the name as it is. */
	if (isatty(STDOUT_FILENO))
		text_make_printable(name);
	show_size(size, image->size, false);
	printf("%s%*s  %6s  %-8s  %s%s%s", name,
	       MAX(show->name_width - show_columns(name), 0), "", size,
	       finding->algorithm ? finding->algorithm : "-", on,
	       verdicts[finding->verdict].text, off);
	if (finding->verdict == VERDICT_DIFFERENT)
		printf(": is %s, should be %s", finding->found, finding->expected);
	else if (finding->error)
		printf(": %s", finding->error);
	putchar('\n');
	return 0;
}

static void json_freep(json_t **json)
{
	json_decref(*json);
}

static int print_json(const struct finding *finding)
{
	const struct image *image = finding->image;
	CLEANUP(json_freep)
	json_t *json = json_pack("{s:s, s:I, s:s, s:s*, s:s*, s:s*, s:s*}", "id",
				 image->id, "size", (json_int_t)image->size, "result",
				 verdicts[finding->verdict].name, "hash",
				 finding->algorithm, "expected", finding->expected,
				 "found", finding->found, "error", finding->error);

	if (!json || show_set_text(json, "file", image->file_name) < 0)
		return -ENOMEM;
	return json_dumpf(json, stdout, JSON_COMPACT) || putchar('\n') == EOF ? -EIO : 0;
}

int verify_show_finding(struct verify_show *show, const struct finding *finding)
{
	int ret;

	clear_bar(show);
	ret = show->json ? print_json(finding) : print_row(show, finding);
	show->shown_ms = 0;
	return !ret && fflush(stdout) ? -EIO : ret;
}

void verify_show_end(struct verify_show *show)
{
	clear_bar(show);
}
