/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <string.h>

#include "cleanup.h"
#include "kit.h"
#include "show.h"
#include "top.h"

#define MIB (1u << 20)

static struct figure_set images[] = {
	{.image = (char *)"slow.raw"},
	{.image = (char *)"closed"},
	{.image = (char *)"gr\xc3\xb6\xc3\x9f"
			  "e"},
};

static struct figures now = {
	.taken_us = 3000000,
	.store = (char *)"dir:///images",
	.images = images,
	.count = ARRAY_SIZE(images),
};

static int set_up(void **state)
{
	uint64_t *values = now.mount.values;

	values[FIGURE_IMAGES] = 7;
	values[FIGURE_MEMORY_LIMIT] = 256 * MIB;
	values[COUNT_OPEN] = 2;
	values[COUNT_RUNNING] = 3;
	values[COUNT_BYTES] = 500 * MIB;
	values[COUNT_READS] = 100;
	values[COUNT_RING] = 60;
	values = images[0].values;
	values[COUNT_OPEN] = 1;
	values[FIGURE_SIZE] = 100 * MIB;
	values[FIGURE_POSITION] = 50 * MIB;
	values[COUNT_BYTES] = 50 * MIB;
	values = images[2].values;
	values[COUNT_OPEN] = 1;
	values[FIGURE_SIZE] = 10 * MIB;
	values[FIGURE_POSITION] = 10 * MIB;
	values[COUNT_BYTES] = 450 * MIB;
	values[COUNT_READS] = 80;
	values[COUNT_RING] = 60;
	values[COUNT_MEMORY] = 4 * MIB;
	return 0;
}

/* The screen, for the caller to free. */
static char *screen(int columns, int rows, bool colours, const struct figures *before)
{
	const struct top_view view = {.mountpoint = "/mnt",
				      .columns = columns,
				      .rows = rows,
				      .colours = colours};
	static char *text; /* gcc takes what open_memstream() fills for a local's address */
	size_t size;
	FILE *out = open_memstream(&text, &size);

	assert_int_equal(top_screen(out, &view, &now, before), 0);
	fclose(out);
	return text;
}

/* The number of columns of the longest line, and of lines, without control sequences. */
static int measure(char *text, int *ret_lines)
{
	int longest = 0, lines = 0;
	char *rest = text, *line;

	while ((line = strsep(&rest, "\n"))) {
		char *end = strstr(line, "\x1b[K");

		if (end)
			*end = '\0';
		longest = MAX(longest, show_columns(line));
		lines += rest != NULL;
	}
	*ret_lines = lines;
	return longest;
}

static void rates_are_those_since_the_last_time(void **state)
{
	struct figure_set older[] = {{.image = (char *)"slow.raw"},
				     {.image = (char *)"gr\xc3\xb6\xc3\x9f"
						       "e"}};
	struct figures before = {.taken_us = 1000000, .images = older, .count = 2};
	char *text, *row;

	older[1].values[COUNT_BYTES] = 350 * MIB;
	older[1].values[COUNT_READS] = 40;
	older[1].values[COUNT_RING] = 30;
	text = screen(100, 24, false, &before);
	row = strstr(text, "gr\xc3\xb6\xc3\x9f"
			   "e");
	assert_non_null(row);
	row[strcspn(row, "\n")] = '\0';
	assert_non_null(strstr(row, " 50M/s"));
	assert_non_null(strstr(row, " 75%"));
	assert_non_null(strstr(row, "] 100%"));
	assert_non_null(strstr(row, " 4.0M"));
	free(text);
}

static void open_images_are_shown_the_fastest_first(void **state)
{
	struct figures before = {.taken_us = 2000000};
	char *text = screen(100, 24, false, &before);
	const char *fast = strstr(text, "gr\xc3\xb6\xc3\x9f"
					"e"),
		   *slow = strstr(text, "slow.raw");

	assert_true(fast && slow && fast < slow);
	assert_null(strstr(text, "closed"));
	assert_null(strstr(text, "\x1b[1m"));
	assert_non_null(strstr(slow, "[############............]  50%"));
	free(text);
	text = screen(100, 24, true, &before);
	assert_non_null(strstr(text, "\x1b[1mIMAGE"));
	free(text);
}

static void a_first_screen_has_no_rates(void **state)
{
	char *text = screen(80, 24, false, NULL);

	assert_non_null(strstr(text, "read      -/s"));
	assert_non_null(strstr(
		text, "7 images, 2 open files, 3 store programs, memory 0 of 256M"));
	free(text);
}

static void it_fits_the_terminal(void **state)
{
	static char name[301];
	char *saved = images[0].image;

	memset(name, 'x', sizeof(name) - 1);
	images[0].image = name;
	for (int columns = 66; columns < 200; columns += 7) {
		char *text = screen(columns, 7, false, NULL);
		int lines;

		assert_in_range(measure(text, &lines), 1, columns);
		assert_in_range(lines, 6, 6);
		free(text);
	}
	images[0].image = saved;
}

static void a_counter_that_went_back_has_no_rate(void **state)
{
	struct figures before = {.taken_us = 2000000};
	char *text;

	before.mount.values[COUNT_BYTES] = UINT64_MAX;
	text = screen(80, 24, false, &before);
	assert_non_null(strstr(text, "read      0/s"));
	free(text);
}

static void a_table_has_a_row_for_all_and_for_each(void **state)
{
	char *text;
	size_t size;
	FILE *out = open_memstream(&text, &size);
	int lines;

	top_table(out, &now);
	fclose(out);
	assert_non_null(strstr(text, "\n(all)       500M"));
	assert_non_null(strstr(text, "\nclosed "));
	measure(text, &lines);
	assert_int_equal(lines, 5);
	free(text);
}

static void json_has_all_figures(void **state)
{
	char *text;
	size_t size;
	FILE *out = open_memstream(&text, &size);
	json_t *json, *image;

	assert_int_equal(top_json(out, "/mnt", &now), 0);
	fclose(out);
	json = json_loads(text, 0, NULL);
	assert_non_null(json);
	assert_string_equal(json_string_value(json_object_get(json, "mountpoint")),
			    "/mnt");
	assert_int_equal(json_integer_value(json_object_get(
				 json_object_get(json, "mount"), "images")),
			 7);
	image = json_array_get(json_object_get(json, "images"), 2);
	assert_int_equal(json_integer_value(json_object_get(image, "size_bytes")),
			 10 * MIB);
	assert_null(json_object_get(image, "streams"));
	assert_non_null(
		json_object_get(json_object_get(image, "stall_seconds"), "buckets"));
	json_decref(json);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rates_are_those_since_the_last_time),
		cmocka_unit_test(open_images_are_shown_the_fastest_first),
		cmocka_unit_test(a_first_screen_has_no_rates),
		cmocka_unit_test(it_fits_the_terminal),
		cmocka_unit_test(a_counter_that_went_back_has_no_rate),
		cmocka_unit_test(a_table_has_a_row_for_all_and_for_each),
		cmocka_unit_test(json_has_all_figures),
	};

	return cmocka_run_group_tests(tests, set_up, NULL);
}
