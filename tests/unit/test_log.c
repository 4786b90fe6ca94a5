/* SPDX-License-Identifier: MIT */
#include "kit.h"

#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "log.h"

#define THREADS 4
#define LINES 200

/* What is logged by @write, for the caller to free. */
static char *logged(struct kit *kit, void (*write)(void))
{
	kit_capture(kit);
	write();
	kit_end_capture(kit);
	return kit_read(kit, "stderr");
}

static void write_a_line(void)
{
	log_line(LOG_ERR, "%s has %d legs", "a dog", 4);
}

static void a_line_says_who_wrote_it(void **state)
{
	CLEANUP(freep) char *text = logged(*state, write_a_line);

	assert_string_equal(text, "imagefs: a dog has 4 legs\n");
}

static void write_controls(void)
{
	log_line(LOG_WARNING, "%s: %s", "a\nb\x1b[2Jc", "\xff\xc2\x9b caf\xc3\xa9");
}

static void what_a_terminal_would_act_on_is_not_written(void **state)
{
	CLEANUP(freep) char *text = logged(*state, write_controls);

	assert_string_equal(text, "imagefs: a?b?[2Jc: ??? caf\xc3\xa9\n");
}

static void write_much(void)
{
	char *much = malloc(100001);

	memset(much, 'x', 100000);
	much[100000] = '\0';
	log_line(LOG_INFO, "%s", much);
	free(much);
}

static void a_line_that_is_too_long_is_cut_and_stays_one_line(void **state)
{
	CLEANUP(freep) char *text = logged(*state, write_much);
	size_t size = strlen(text);

	assert_true(size > 1000 && size < 10000);
	assert_ptr_equal(strchr(text, '\n'), text + size - 1);
	assert_int_equal(strspn(text + strlen("imagefs: "), "x"),
			 size - strlen("imagefs: ") - 1);
}

static void write_nothing(void)
{
	log_line(LOG_INFO, "%s", "");
}

static void an_empty_line_is_a_line(void **state)
{
	CLEANUP(freep) char *text = logged(*state, write_nothing);

	assert_string_equal(text, "imagefs: \n");
}

static void write_debug(void)
{
	log_line(LOG_DEBUG, "unwanted");
	log_set_level(LOG_DEBUG);
	log_line(LOG_DEBUG, "wanted");
	log_set_level(LOG_INFO);
	log_line(LOG_DEBUG, "unwanted");
}

static void lines_for_debugging_are_written_when_wanted(void **state)
{
	CLEANUP(freep) char *text = logged(*state, write_debug);

	assert_string_equal(text, "imagefs: wanted\n");
}

static void go_through_the_levels(void)
{
	static const bool more[] = {true, true, false, false, false, true};

	for (size_t i = 0; i < ARRAY_SIZE(more); i++) {
		log_step_level(more[i]);
		log_line(LOG_WARNING, "warning");
		log_line(LOG_INFO, "info");
		log_line(LOG_DEBUG, "debug");
	}
	log_set_level(LOG_INFO);
}

static void the_level_goes_up_and_down_to_its_ends(void **state)
{
	CLEANUP(freep) char *text = logged(*state, go_through_the_levels);

	assert_string_equal(text, "imagefs: the log's level is debug now\n"
				  "imagefs: warning\nimagefs: info\nimagefs: debug\n"
				  "imagefs: the log's level is debug now\n"
				  "imagefs: warning\nimagefs: info\nimagefs: debug\n"
				  "imagefs: the log's level is info now\n"
				  "imagefs: warning\nimagefs: info\n"
				  "imagefs: the log's level is warning now\n"
				  "imagefs: warning\n"
				  "imagefs: the log's level is warning now\n"
				  "imagefs: warning\n"
				  "imagefs: the log's level is info now\n"
				  "imagefs: warning\nimagefs: info\n");
}

static void write_about_an_image(void)
{
	log_image(LOG_WARNING, "a\nb", 5, "%s: %s", "a\nb", "burns");
	log_image(LOG_DEBUG, "a", LOG_NOWHERE, "unwanted");
}

static void a_line_about_an_image_is_a_line(void **state)
{
	CLEANUP(freep) char *text = logged(*state, write_about_an_image);

	assert_string_equal(text, "imagefs: a?b: burns\n");
}

static void *write_many(void *context)
{
	for (int i = 0; i < LINES; i++)
		log_line(LOG_INFO, "%s line", (const char *)context);
	return NULL;
}

static void write_in_threads(void)
{
	static const char *const names[THREADS] = {"one", "two", "three", "four"};
	pthread_t threads[THREADS];

	for (int i = 0; i < THREADS; i++)
		assert_int_equal(
			pthread_create(&threads[i], NULL, write_many, (void *)names[i]),
			0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
}

static void lines_of_several_threads_do_not_mix(void **state)
{
	CLEANUP(freep) char *text = logged(*state, write_in_threads);
	char *rest = text, *line;
	int count = 0;

	while ((line = strsep(&rest, "\n")) && rest) {
		assert_true(!strcmp(line, "imagefs: one line") ||
			    !strcmp(line, "imagefs: two line") ||
			    !strcmp(line, "imagefs: three line") ||
			    !strcmp(line, "imagefs: four line"));
		count++;
	}
	assert_int_equal(count, THREADS * LINES);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		KIT_TEST(a_line_says_who_wrote_it),
		KIT_TEST(what_a_terminal_would_act_on_is_not_written),
		KIT_TEST(a_line_that_is_too_long_is_cut_and_stays_one_line),
		KIT_TEST(an_empty_line_is_a_line),
		KIT_TEST(lines_for_debugging_are_written_when_wanted),
		KIT_TEST(the_level_goes_up_and_down_to_its_ends),
		KIT_TEST(a_line_about_an_image_is_a_line),
		KIT_TEST(lines_of_several_threads_do_not_mix),
	};

	return KIT_RUN(tests);
}
