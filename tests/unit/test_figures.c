/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include "cleanup.h"
#include "figures.h"
#include "kit.h"

static struct figures *parsed(const char *text)
{
	struct figures *figures = NULL;

	assert_int_equal(figures_parse(text, &figures), 0);
	return figures;
}

static void the_mount_and_its_images_are_told_apart(void **state)
{
	struct figures *figures = parsed(
		"# HELP imagefs_images Images.\n# TYPE imagefs_images gauge\n"
		"imagefs_images{store=\"s:x\"} 12\n"
		"imagefs_reads_total{store=\"s:x\"} 30\n"
		"imagefs_image_reads_total{store=\"s:x\",image=\"a\"} 10\n"
		"imagefs_image_reads_total{store=\"s:x\",image=\"b\"} 20\n"
		"imagefs_image_size_bytes{store=\"s:x\",image=\"b\"} 18446744073709551615\n");

	assert_string_equal(figures->store, "s:x");
	assert_null(figures->mount.image);
	assert_int_equal(figures->mount.values[FIGURE_IMAGES], 12);
	assert_int_equal(figures->mount.values[COUNT_READS], 30);
	assert_int_equal(figures->count, 2);
	assert_string_equal(figures->images[0].image, "a");
	assert_int_equal(figures->images[0].values[COUNT_READS], 10);
	assert_true(figures->images[1].values[FIGURE_SIZE] == UINT64_MAX);
	figures_free(figures);
}

static void labels_are_taken_out_of_their_escapes(void **state)
{
	struct figures *figures = parsed(
		"imagefs_image_reads_total{store=\"s\",image=\"a \\\"b\\\",c={} \\\\\"} 1\n");

	assert_string_equal(figures->images[0].image, "a \"b\",c={} \\");
	figures_free(figures);
}

static void a_version_that_is_listed_no_more_is_another(void **state)
{
	struct figures *figures = parsed(
		"imagefs_image_reads_total{store=\"s\",image=\"a\"} 1\n"
		"imagefs_image_reads_total{store=\"s\",image=\"a\",old_id=\"x\"} 2\n");
	struct figure_set old = {.image = (char *)"a", .old_id = (char *)"x"};
	struct figure_set none = {.image = (char *)"a", .old_id = (char *)"y"};

	assert_int_equal(figures->count, 2);
	assert_int_equal(figures_find(figures, &old)->values[COUNT_READS], 2);
	assert_null(figures_find(figures, &none));
	figures_free(figures);
}

static void histograms_are_read(void **state)
{
	struct figures *figures =
		parsed("imagefs_stall_seconds_bucket{store=\"s\",le=\"0.0001\"} 1\n"
		       "imagefs_stall_seconds_bucket{store=\"s\",le=\"30\"} 4\n"
		       "imagefs_stall_seconds_bucket{store=\"s\",le=\"77\"} 9\n"
		       "imagefs_stall_seconds_bucket{store=\"s\",le=\"+Inf\"} 5\n"
		       "imagefs_stall_seconds_sum{store=\"s\"} 1.25\n"
		       "imagefs_stall_seconds_count{store=\"s\"} 5\n");

	assert_int_equal(figures->mount.stalls.buckets[0], 1);
	assert_int_equal(figures->mount.stalls.buckets[STATS_BUCKETS - 2], 4);
	assert_int_equal(figures->mount.stalls.buckets[STATS_BUCKETS - 1], 5);
	assert_true(figures->mount.stalls.seconds == 1.25);
	assert_int_equal(figures->mount.waits.buckets[STATS_BUCKETS - 1], 0);
	figures_free(figures);
}

static void what_is_not_known_is_passed_over(void **state)
{
	struct figures *figures = parsed("imagefs_new_total{store=\"s\",what=\"x\"} 1\n"
					 "other{a=\"b\"} 2\nplain 3\n");

	assert_string_equal(figures->store, "s");
	figures_free(figures);
}

static void what_is_not_of_the_form_is_refused(void **state)
{
	static const char *const wrong[] = {
		"",
		"# nothing\n",
		"other 1\n",
		"imagefs_reads_total\n",
		"imagefs_reads_total{store=\"s\" 1\n",
		"imagefs_reads_total{store=\"s\n",
		"imagefs_reads_total{store=\"s\\",
		"imagefs_reads_total{store} 1\n",
		"imagefs_reads_total{store=\"s\"}1\n",
		"imagefs_reads_total{store=\"s\";} 1\n",
		"imagefs_reads_total{",
	};

	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		struct figures *figures;

		assert_int_equal(figures_parse(wrong[i], &figures), -EBADMSG);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_mount_and_its_images_are_told_apart),
		cmocka_unit_test(labels_are_taken_out_of_their_escapes),
		cmocka_unit_test(a_version_that_is_listed_no_more_is_another),
		cmocka_unit_test(histograms_are_read),
		cmocka_unit_test(what_is_not_known_is_passed_over),
		cmocka_unit_test(what_is_not_of_the_form_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
