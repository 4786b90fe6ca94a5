/* SPDX-License-Identifier: MIT */
/*
 * kit - what the unit tests share: a folder for each test, a warden, a store whose
 * program does what the test's files say (store.c), waiting, and reads that remember how
 * they were answered.
 *
 * A test never waits for a time: it waits for a condition, with a limit that says that it
 * will never come.
 */
#ifndef UNIT_KIT_H
#define UNIT_KIT_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>
#include <sys/types.h>

#include "image.h"
#include "read.h"
#include "store.h"
#include "warden.h"

#define LIMIT_MS 60000 /* what has not come by then never will */

struct kit {
	char *folder;
	struct warden *warden;
	struct store store; /* its program is store.c, its stall limit is LIMIT_MS */
	int fds; /* that were open at the test's begin */
	int saved_stderr; /* while it goes to the file "stderr" of the folder */
};

/* A test that gets a struct kit, and leaves no descriptor and no program behind. */
#define KIT_TEST(function) \
	cmocka_unit_test_setup_teardown(function, kit_setup, kit_teardown)

/* Fork the group's warden before there are threads; end it. */
int kit_group_setup(void **state);
int kit_group_teardown(void **state);

int kit_setup(void **state);
int kit_teardown(void **state);

/* Run all of the group @tests with a warden. */
#define KIT_RUN(tests) cmocka_run_group_tests(tests, kit_group_setup, kit_group_teardown)

/* Wait until @condition is true, which is looked at again and again. */
#define WAIT_FOR(condition)                                                           \
	do {                                                                          \
		uint64_t limit_ = kit_now() + LIMIT_MS;                               \
		while (!(condition)) {                                                \
			if (kit_now() > limit_)                                       \
				fail_msg("%s:%d: never came: %s", __FILE__, __LINE__, \
					 #condition);                                 \
			kit_pause();                                                  \
		}                                                                     \
	} while (0)

uint64_t kit_now(void);
void kit_pause(void);

/* The path of a file of the test's folder, kept until the test's end. */
const char *kit_path(struct kit *kit, const char *name);

/* Make the file @name of the folder. */
void kit_write(struct kit *kit, const char *name, const char *text);

/* Have the store's program be a shell script. */
void kit_script(struct kit *kit, const char *text);

/* What is in the file, "" if there is none; the caller frees it. */
char *kit_read(struct kit *kit, const char *name);

bool kit_exists(struct kit *kit, const char *name);

/* The number in the file (store.c's marks). */
long kit_number(struct kit *kit, const char *name);

/* Whether the file has @text in it. */
bool kit_has(struct kit *kit, const char *name, const char *text);

/* How often it is in there. */
size_t kit_count(struct kit *kit, const char *name, const char *text);

/* How many programs of @call were started. */
unsigned int kit_runs(struct kit *kit, const char *call);

/* From here on standard error is the file "stderr"; until kit_end_capture(). */
void kit_capture(struct kit *kit);
void kit_end_capture(struct kit *kit);

/* Whether a process is gone, or dead but not buried by whoever has to do that. */
bool kit_is_gone(pid_t pid);

int kit_open_fds(void);

/* An image of @size bytes called "image", whose id is "id". */
struct image *kit_image(uint64_t size);

/* A read that remembers how it was answered. */
struct probe {
	struct read read; /* first: it is cast back */
	bool hold; /* the reply does not return before probe_let_go() */
	sem_t go;
	/* a lock guards the rest */
	unsigned int begun, replies;
	int err;
	size_t size; /* of what it was answered with */
	bool right; /* all bytes were those of the image */
};

void probe_init(struct probe *probe, uint64_t offset, size_t size);

/* Wait until it was answered. */
void probe_wait(struct probe *probe);

/* Wait until its reply has been called, which may not have returned. */
void probe_wait_begun(struct probe *probe);

/* How often it was answered. */
unsigned int probe_replies(struct probe *probe);

/* Let a held reply return. */
void probe_let_go(struct probe *probe);

/* Wait, and see that it got all bytes of the image from @offset to @offset + @size. */
#define assert_probe_right(probe) assert_probe_right_at(probe, __FILE__, __LINE__)
void assert_probe_right_at(struct probe *probe, const char *file, int line);

/* Wait, and see that it was answered with @error. */
#define assert_probe_error(probe, error) \
	assert_probe_error_at(probe, error, __FILE__, __LINE__)
void assert_probe_error_at(struct probe *probe, int error, const char *file, int line);

#endif
