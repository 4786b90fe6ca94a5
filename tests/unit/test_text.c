/* SPDX-License-Identifier: MIT */
#include "kit.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "text.h"

static void assert_file_name(const char *name, const char *wanted)
{
	CLEANUP(freep) char *got = text_file_name(name);

	assert_string_equal(got, wanted);
}

static void a_plain_name_is_its_own_file_name(void **state)
{
	assert_file_name("debian-12.qcow2", "debian-12.qcow2");
	assert_file_name("a name with spaces", "a name with spaces");
	assert_file_name("...", "...");
	assert_file_name(".imagefs2", ".imagefs2");
	assert_file_name("x.imagefs", "x.imagefs");
	assert_file_name("caf\xc3\xa9", "caf\xc3\xa9");
}

static void every_byte_but_slash_and_percent_is_kept(void **state)
{
	for (int c = 1; c < 256; c++) {
		char name[] = {'a', (char)c, 'b', '\0'};
		CLEANUP(freep) char *got = text_file_name(name);

		if (c == '/')
			assert_string_equal(got, "a%2Fb");
		else if (c == '%')
			assert_string_equal(got, "a%25b");
		else
			assert_string_equal(got, name);
	}
}

static void names_that_mean_something_to_the_system_are_escaped(void **state)
{
	static const char *const names[] = {".", "..", ".imagefs"};

	assert_file_name(".", "%2E");
	assert_file_name("..", "%2E%2E");
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		CLEANUP(freep) char *got = text_file_name(names[i]);

		assert_string_not_equal(got, names[i]);
		assert_memory_equal(got, "%2E", 3);
	}
}

static int compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* All names of up to six of these letters, escapes of escapes among them. */
static void no_two_names_have_one_file_name(void **state)
{
	static const char letters[] = "./%2FE";
	enum { LONGEST = 6, COUNT = 6 + 36 + 216 + 1296 + 7776 + 46656 };
	char **all = calloc(COUNT, sizeof(*all));
	size_t count = 0;

	for (size_t length = 1, end = 6; length <= LONGEST; length++, end *= 6) {
		for (size_t n = 0; n < end; n++) {
			char name[LONGEST + 1] = "";
			size_t rest = n;

			for (size_t i = 0; i < length; i++, rest /= 6)
				name[i] = letters[rest % 6];
			all[count++] = text_file_name(name);
		}
	}
	assert_int_equal(count, COUNT);
	qsort(all, count, sizeof(*all), compare);
	for (size_t i = 0; i < count; i++) {
		assert_null(strchr(all[i], '/'));
		assert_string_not_equal(all[i], ".");
		assert_string_not_equal(all[i], "..");
		if (i)
			assert_string_not_equal(all[i - 1], all[i]);
	}
	for (size_t i = 0; i < count; i++)
		free(all[i]);
	free(all);
}

/* A name of @size letters, and behind them @end. */
static char *long_name(size_t size, char letter, const char *end)
{
	char *name = malloc(size + strlen(end) + 1);

	memset(name, letter, size);
	strcpy(name + size, end);
	return name;
}

static void assert_marked(const char *file_name)
{
	size_t size = strlen(file_name);

	assert_true(size > 18 && size <= NAME_MAX);
	assert_memory_equal(file_name + size - 18, "%~", 2);
	for (size_t i = size - 16; i < size; i++)
		assert_true(isxdigit((unsigned char)file_name[i]));
}

static void a_name_of_the_longest_length_is_kept_whole(void **state)
{
	CLEANUP(freep) char *name = long_name(NAME_MAX, 'x', "");

	assert_file_name(name, name);
}

static void a_longer_name_is_cut_and_marked(void **state)
{
	CLEANUP(freep) char *name = long_name(NAME_MAX, 'x', "y");
	CLEANUP(freep) char *got = text_file_name(name);

	assert_int_equal(strlen(got), NAME_MAX);
	assert_marked(got);
}

static void long_names_that_differ_at_their_end_have_different_file_names(void **state)
{
	CLEANUP(freep) char *one = long_name(1000, 'x', "1");
	CLEANUP(freep) char *two = long_name(1000, 'x', "2");
	CLEANUP(freep) char *got_one = text_file_name(one);
	CLEANUP(freep) char *got_two = text_file_name(two);

	assert_marked(got_one);
	assert_marked(got_two);
	assert_string_not_equal(got_one, got_two);
}

static void a_cut_is_at_no_place_inside_of_an_escape(void **state)
{
	for (size_t before = 230; before < 240; before++) {
		CLEANUP(freep) char *name = long_name(before, 'x', "//////////////////");
		CLEANUP(freep) char *got = text_file_name(name);

		assert_marked(got);
		for (char *c = got; (c = strchr(c, '%')); c++)
			assert_true(!strncmp(c, "%2F", 3) || !strncmp(c, "%~", 2));
	}
}

static void images_of_one_name_are_told_apart_by_their_ids(void **state)
{
	CLEANUP(freep) char *one = text_file_name_of_id("name", "1");
	CLEANUP(freep) char *two = text_file_name_of_id("name", "2");
	CLEANUP(freep) char *again = text_file_name_of_id("name", "1");
	CLEANUP(freep) char *plain = text_file_name("name");

	assert_string_not_equal(one, two);
	assert_string_not_equal(one, plain);
	assert_string_equal(one, again);
	assert_marked(one);
	assert_memory_equal(one, "name%~", 6);
}

static void a_name_that_looks_like_a_marked_one_is_another(void **state)
{
	CLEANUP(freep) char *marked = text_file_name_of_id("name", "1");
	CLEANUP(freep) char *got = text_file_name(marked);

	assert_string_not_equal(got, marked);
}

static void name_and_id_are_not_run_together(void **state)
{
	CLEANUP(freep) char *one = text_file_name_of_id("name1", "2");
	CLEANUP(freep) char *two = text_file_name_of_id("name", "12");

	assert_string_not_equal(strrchr(one, '~'), strrchr(two, '~'));
}

static void a_long_name_with_an_id_is_still_a_file_name(void **state)
{
	CLEANUP(freep) char *name = long_name(5000, '/', "");
	CLEANUP(freep) char *one = text_file_name_of_id(name, "1");
	CLEANUP(freep) char *two = text_file_name_of_id(name, "2");

	assert_marked(one);
	assert_marked(two);
	assert_string_not_equal(one, two);
}

static void a_uris_path_keeps_what_it_can_hold(void **state)
{
	static const char kept[] = "/abcXYZ019-._~/";

	for (int c = 1; c < 256; c++) {
		char path[] = {(char)c, '\0'}, wanted[8];
		CLEANUP(freep) char *got = text_uri_path(path);

		if (isalnum(c) || strchr("-._~/", c))
			snprintf(wanted, sizeof(wanted), "%c", c);
		else
			snprintf(wanted, sizeof(wanted), "%%%02X", c);
		assert_string_equal(got, wanted);
	}
	{
		CLEANUP(freep) char *got = text_uri_path(kept);
		CLEANUP(freep) char *empty = text_uri_path("");

		assert_string_equal(got, kept);
		assert_string_equal(empty, "");
	}
}

static void the_hash_is_fnv_1a(void **state)
{
	assert_true(text_hash(TEXT_HASH_START, "", 0) == 0xcbf29ce484222325);
	assert_true(text_hash(TEXT_HASH_START, "a", 1) == 0xaf63dc4c8601ec8c);
	assert_true(text_hash(TEXT_HASH_START, "foobar", 6) == 0x85944171f73967e8);
}

static void a_hash_goes_on_where_another_ended(void **state)
{
	uint64_t part = text_hash(TEXT_HASH_START, "foo", 3);

	assert_true(text_hash(part, "bar", 3) == 0x85944171f73967e8);
}

static void assert_printable(const char *text, const char *wanted)
{
	CLEANUP(freep) char *copy = strdup(text);

	text_make_printable(copy);
	assert_string_equal(copy, wanted);
}

static void text_that_is_printable_is_left_alone(void **state)
{
	assert_printable("", "");
	assert_printable("plain, with ~ and %", "plain, with ~ and %");
	assert_printable("\xc2\xa0 \xc3\xa9 \xdf\xbf", "\xc2\xa0 \xc3\xa9 \xdf\xbf");
	assert_printable("\xe0\xa0\x80 \xe2\x82\xac \xed\x9f\xbf \xef\xbf\xbd",
			 "\xe0\xa0\x80 \xe2\x82\xac \xed\x9f\xbf \xef\xbf\xbd");
	assert_printable("\xf0\x90\x80\x80 \xf4\x8f\xbf\xbf",
			 "\xf0\x90\x80\x80 \xf4\x8f\xbf\xbf");
}

static void control_bytes_are_made_question_marks(void **state)
{
	for (int c = 1; c < 256; c++) {
		char text[] = {'a', (char)c, 'b', '\0'};

		assert_printable(text, c < 0x20 || c >= 0x7f ? "a?b" : text);
	}
	assert_printable("\x1b[31mred\x1b[0m", "?[31mred?[0m");
}

static void c1_controls_are_made_question_marks(void **state)
{
	assert_printable("a\xc2\x80z", "a??z");
	assert_printable("a\xc2\x9b[31mz", "a??[31mz");
	assert_printable("a\xc2\x9fz", "a??z");
}

static void bad_utf8_is_made_question_marks(void **state)
{
	assert_printable("\xc0\xaf", "??"); /* longer than it need be */
	assert_printable("\xc1\xbf", "??");
	assert_printable("\xe0\x80\xaf", "???");
	assert_printable("\xe0\x9f\xbf", "???");
	assert_printable("\xf0\x80\x80\xaf", "????");
	assert_printable("\xf0\x8f\xbf\xbf", "????");
	assert_printable("\xed\xa0\x80", "???"); /* surrogates */
	assert_printable("\xed\xbf\xbf", "???");
	assert_printable("\xf4\x90\x80\x80", "????"); /* over U+10FFFF */
	assert_printable("\xf5\x80\x80\x80", "????");
	assert_printable("\xff\xfe", "??");
	assert_printable("\x80", "?"); /* without a first byte */
}

static void a_sequence_that_is_cut_short_is_made_question_marks(void **state)
{
	assert_printable("a\xc3", "a?");
	assert_printable("a\xe2\x82", "a??");
	assert_printable("a\xf0\x9f\x98", "a???");
	assert_printable("\xe2\x82z", "??z");
	assert_printable("\xe2\xe2\x82\xac", "?\xe2\x82\xac");
}

static void assert_size(const char *text, uint64_t wanted)
{
	uint64_t bytes = 0;

	assert_int_equal(text_parse_size(text, &bytes), 0);
	assert_true(bytes == wanted);
}

static void a_size_may_have_a_unit(void **state)
{
	assert_size("0", 0);
	assert_size("64", 64);
	assert_size("512K", 512 << 10);
	assert_size("4M", 4 << 20);
	assert_size("2G", UINT64_C(2) << 30);
	assert_size("1T", UINT64_C(1) << 40);
	assert_size("3k", 3 << 10);
	assert_size("3m", 3 << 20);
	assert_size("007", 7);
}

static void the_largest_size_is_taken(void **state)
{
	assert_size("18446744073709551615", UINT64_MAX);
	assert_size("18014398509481983K", UINT64_MAX - 1023);
	assert_size("16777215T", UINT64_MAX - ((UINT64_C(1) << 40) - 1));
}

static void what_is_no_size_is_refused(void **state)
{
	static const char *const texts[] = {
		"",	"K",	"-1",  "+1",   " 1",	"1 ",  "1KB", "1P",
		"1.5G", "0x10", "1K1", "eins", "1\xc3", "1KK", "\n",  "--",
	};

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		uint64_t bytes = 42;

		assert_int_equal(text_parse_size(texts[i], &bytes), -EINVAL);
		assert_int_equal(bytes, 42);
	}
}

static void a_size_that_is_too_large_is_out_of_range(void **state)
{
	static const char *const texts[] = {
		"18446744073709551616",	   "18014398509481984K",       "16777216T",
		"99999999999999999999999", "99999999999999999999999T",
	};

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		uint64_t bytes = 42;

		assert_int_equal(text_parse_size(texts[i], &bytes), -ERANGE);
		assert_int_equal(bytes, 42);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_plain_name_is_its_own_file_name),
		cmocka_unit_test(every_byte_but_slash_and_percent_is_kept),
		cmocka_unit_test(names_that_mean_something_to_the_system_are_escaped),
		cmocka_unit_test(no_two_names_have_one_file_name),
		cmocka_unit_test(a_name_of_the_longest_length_is_kept_whole),
		cmocka_unit_test(a_longer_name_is_cut_and_marked),
		cmocka_unit_test(
			long_names_that_differ_at_their_end_have_different_file_names),
		cmocka_unit_test(a_cut_is_at_no_place_inside_of_an_escape),
		cmocka_unit_test(images_of_one_name_are_told_apart_by_their_ids),
		cmocka_unit_test(a_name_that_looks_like_a_marked_one_is_another),
		cmocka_unit_test(name_and_id_are_not_run_together),
		cmocka_unit_test(a_long_name_with_an_id_is_still_a_file_name),
		cmocka_unit_test(a_uris_path_keeps_what_it_can_hold),
		cmocka_unit_test(the_hash_is_fnv_1a),
		cmocka_unit_test(a_hash_goes_on_where_another_ended),
		cmocka_unit_test(text_that_is_printable_is_left_alone),
		cmocka_unit_test(control_bytes_are_made_question_marks),
		cmocka_unit_test(c1_controls_are_made_question_marks),
		cmocka_unit_test(bad_utf8_is_made_question_marks),
		cmocka_unit_test(a_sequence_that_is_cut_short_is_made_question_marks),
		cmocka_unit_test(a_size_may_have_a_unit),
		cmocka_unit_test(the_largest_size_is_taken),
		cmocka_unit_test(what_is_no_size_is_refused),
		cmocka_unit_test(a_size_that_is_too_large_is_out_of_range),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
