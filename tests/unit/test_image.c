/* SPDX-License-Identifier: MIT */
#include "kit.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "imagefs-store.h"
#include "text.h"

static struct image *parse(const char *line)
{
	struct image *image = NULL;
	const char *why = NULL;
	int ret = image_parse(line, strlen(line), &image, &why);

	if (ret)
		fail_msg("%s: %s", line, why ? why : "?");
	return image;
}

static void assert_refused(const char *line, size_t size, const char *wanted)
{
	struct image *image = NULL;
	const char *why = NULL;

	if (image_parse(line, size, &image, &why) != -EBADMSG)
		fail_msg("taken: %s", line);
	assert_null(image);
	assert_non_null(why);
	if (!strstr(why, wanted))
		fail_msg("%s: refused for \"%s\", not \"%s\"", line, why, wanted);
}

static void name_id_and_size_are_enough(void **state)
{
	CLEANUP(image_unrefp)
	struct image *image =
		parse("{\"name\": \"disk\", \"id\": \"7:a/b\", \"size\": 123}");

	assert_string_equal(image->name, "disk");
	assert_string_equal(image->file_name, "disk");
	assert_string_equal(image->id, "7:a/b");
	assert_int_equal(image->size, 123);
	assert_true(image->allocated == UINT64_MAX);
	assert_int_equal(image->mtime.tv_sec, 0);
	assert_int_equal(image->mtime.tv_nsec, 0);
	assert_false(image->immutable);
	assert_int_equal(image->attribute_count, 0);
	assert_null(image_error(image));
}

static const char *value_of(const struct image *image, const char *key)
{
	for (size_t i = 0; i < image->attribute_count; i++)
		if (!strcmp(image->attributes[i].key, key))
			return image->attributes[i].value;
	return NULL;
}

static void all_that_a_store_may_say_is_taken(void **state)
{
	CLEANUP(image_unrefp)
	struct image *image = parse(
		"{\"name\": \"disk\", \"id\": \"1\", \"size\": 0, \"allocated\": 4096, "
		"\"mtime\": 1700000000, \"immutable\": true, \"attrs\": "
		"{\"format\": \"qcow2\", \"a.b_c-9\": \"\"}}");

	assert_int_equal(image->size, 0);
	assert_int_equal(image->allocated, 4096);
	assert_int_equal(image->mtime.tv_sec, 1700000000);
	assert_int_equal(image->mtime.tv_nsec, 0);
	assert_true(image->immutable);
	assert_int_equal(image->attribute_count, 2);
	assert_string_equal(value_of(image, "format"), "qcow2");
	assert_string_equal(value_of(image, "a.b_c-9"), "");
}

static void keys_that_nobody_knows_are_ignored(void **state)
{
	CLEANUP(image_unrefp)
	struct image *image =
		parse("{\"colour\": [1, {\"size\": -1}], \"name\": \"n\", \"id\": \"i\", "
		      "\"size\": 5, \"file_name\": \"other\"}");

	assert_int_equal(image->size, 5);
	assert_string_equal(image->file_name, "n");
}

static void a_name_may_be_spelt_in_hexadecimal(void **state)
{
	CLEANUP(image_unrefp)
	struct image *image =
		parse("{\"name_hex\": \"41fF0a2f\", \"id\": \"i\", \"size\": 5}");

	assert_string_equal(image->name, "A\xff\n/");
	assert_string_equal(image->file_name, "A\xff\n%2F");
}

static void a_name_may_be_any_text(void **state)
{
	CLEANUP(image_unrefp)
	struct image *image =
		parse("{\"name\": \"-rf ../\\u00e9\\n\", \"id\": \"i\", \"size\": 5}");

	assert_string_equal(image->name, "-rf ../\xc3\xa9\n");
	assert_string_equal(image->file_name, "-rf ..%2F\xc3\xa9\n");
}

static void the_largest_size_is_taken(void **state)
{
	CLEANUP(image_unrefp)
	struct image *image =
		parse("{\"name\": \"n\", \"id\": \"i\", \"size\": 9223372036854775807}");

	assert_true(image->size == INT64_MAX);
}

static void more_may_be_allocated_than_an_image_is_large(void **state)
{
	CLEANUP(image_unrefp)
	struct image *image = parse(
		"{\"name\": \"n\", \"id\": \"i\", \"size\": 1, \"allocated\": 4096}");

	assert_int_equal(image->allocated, 4096);
}

static void a_time_may_have_a_fraction(void **state)
{
	CLEANUP(image_unrefp)
	struct image *image =
		parse("{\"name\": \"n\", \"id\": \"i\", \"size\": 1, \"mtime\": 10.25}");

	assert_int_equal(image->mtime.tv_sec, 10);
	assert_in_range(image->mtime.tv_nsec, 249999999, 250000001);
}

static void a_time_may_lie_before_1970(void **state)
{
	CLEANUP(image_unrefp)
	struct image *whole =
		parse("{\"name\": \"n\", \"id\": \"i\", \"size\": 1, \"mtime\": -10}");
	CLEANUP(image_unrefp)
	struct image *part =
		parse("{\"name\": \"n\", \"id\": \"i\", \"size\": 1, \"mtime\": -0.25}");

	assert_int_equal(whole->mtime.tv_sec, -10);
	assert_int_equal(whole->mtime.tv_nsec, 0);
	assert_int_equal(part->mtime.tv_sec, -1);
	assert_in_range(part->mtime.tv_nsec, 749999999, 750000001);
}

static void a_fraction_never_makes_a_whole_second(void **state)
{
	CLEANUP(image_unrefp)
	struct image *image = parse("{\"name\": \"n\", \"id\": \"i\", \"size\": 1, "
				    "\"mtime\": 1.99999999999999}");

	assert_int_equal(image->mtime.tv_sec, 1);
	assert_in_range(image->mtime.tv_nsec, 0, 999999999);
}

static void the_longest_id_is_taken(void **state)
{
	char id[STORE_ID_MAX + 1], line[STORE_ID_MAX + 100];

	memset(id, '~', STORE_ID_MAX);
	id[STORE_ID_MAX] = '\0';
	snprintf(line, sizeof(line), "{\"name\": \"n\", \"id\": \"%s\", \"size\": 1}",
		 id);
	{
		CLEANUP(image_unrefp) struct image *image = parse(line);

		assert_string_equal(image->id, id);
	}
}

static void a_longer_id_is_refused(void **state)
{
	char line[STORE_ID_MAX + 100] = "{\"name\": \"n\", \"size\": 1, \"id\": \"";
	size_t used = strlen(line);

	memset(line + used, 'x', STORE_ID_MAX + 1);
	strcpy(line + used + STORE_ID_MAX + 1, "\"}");
	assert_refused(line, strlen(line), "id");
}

#define REFUSED(text, why) \
	{                  \
		text, why  \
	}
#define REST "\"name\": \"n\", \"id\": \"i\", \"size\": 1"

static void a_line_that_is_wrong_is_refused_and_told_why(void **state)
{
	static const struct {
		const char *line, *why;
	} lines[] = {
		REFUSED("", "JSON"),
		REFUSED("null", "JSON"),
		REFUSED("[]", "JSON"),
		REFUSED("\"name\"", "JSON"),
		REFUSED("{", "JSON"),
		REFUSED("{" REST "} x", "JSON"),
		REFUSED("{" REST ", \"name\": \"m\"}", "JSON"),
		REFUSED("{\"name\": \"a\\u0000b\", \"id\": \"i\", \"size\": 1}", "JSON"),
		REFUSED("{\"name\": \"\xff\", \"id\": \"i\", \"size\": 1}", "JSON"),
		REFUSED("{\"id\": \"i\", \"size\": 1}", "name"),
		REFUSED("{\"name\": \"\", \"id\": \"i\", \"size\": 1}", "name"),
		REFUSED("{\"name\": 5, \"id\": \"i\", \"size\": 1}", "name"),
		REFUSED("{\"name_hex\": \"\", \"id\": \"i\", \"size\": 1}", "name"),
		REFUSED("{\"name_hex\": \"4\", \"id\": \"i\", \"size\": 1}", "name"),
		REFUSED("{\"name_hex\": \"414\", \"id\": \"i\", \"size\": 1}", "name"),
		REFUSED("{\"name_hex\": \"4g\", \"id\": \"i\", \"size\": 1}", "name"),
		REFUSED("{\"name_hex\": \"410042\", \"id\": \"i\", \"size\": 1}", "name"),
		REFUSED("{\"name_hex\": [], \"id\": \"i\", \"size\": 1}", "name"),
		REFUSED("{\"name\": \"n\", \"size\": 1}", "id"),
		REFUSED("{\"name\": \"n\", \"id\": \"\", \"size\": 1}", "id"),
		REFUSED("{\"name\": \"n\", \"id\": 7, \"size\": 1}", "id"),
		REFUSED("{\"name\": \"n\", \"id\": \"a b\", \"size\": 1}", "id"),
		REFUSED("{\"name\": \"n\", \"id\": \"a\\n\", \"size\": 1}", "id"),
		REFUSED("{\"name\": \"n\", \"id\": \"\\u00e9\", \"size\": 1}", "id"),
		REFUSED("{\"name\": \"n\", \"id\": \"\\u007f\", \"size\": 1}", "id"),
		REFUSED("{\"name\": \"n\", \"id\": \"i\"}", "size"),
		REFUSED("{\"name\": \"n\", \"id\": \"i\", \"size\": -1}", "size"),
		REFUSED("{\"name\": \"n\", \"id\": \"i\", \"size\": 1.0}", "size"),
		REFUSED("{\"name\": \"n\", \"id\": \"i\", \"size\": \"1\"}", "size"),
		REFUSED("{\"name\": \"n\", \"id\": \"i\", \"size\": null}", "size"),
		REFUSED("{\"name\": \"n\", \"id\": \"i\", \"size\": 9223372036854775808}",
			""),
		REFUSED("{" REST ", \"allocated\": -1}", "allocated"),
		REFUSED("{" REST ", \"allocated\": 0.5}", "allocated"),
		REFUSED("{" REST ", \"allocated\": null}", "allocated"),
		REFUSED("{" REST ", \"immutable\": 1}", "immutable"),
		REFUSED("{" REST ", \"immutable\": \"true\"}", "immutable"),
		REFUSED("{" REST ", \"mtime\": \"today\"}", "mtime"),
		REFUSED("{" REST ", \"mtime\": 1e13}", "mtime"),
		REFUSED("{" REST ", \"mtime\": -1e13}", "mtime"),
		REFUSED("{" REST ", \"mtime\": 9223372036854775807}", "mtime"),
		REFUSED("{" REST ", \"attrs\": []}", "attr"),
		REFUSED("{" REST ", \"attrs\": {\"A\": \"x\"}}", "attr"),
		REFUSED("{" REST ", \"attrs\": {\"\": \"x\"}}", "attr"),
		REFUSED("{" REST ", \"attrs\": {\"a b\": \"x\"}}", "attr"),
		REFUSED("{" REST ", \"attrs\": {\"a/b\": \"x\"}}", "attr"),
		REFUSED("{" REST ", \"attrs\": {\"a\": 1}}", "attr"),
		REFUSED("{" REST ", \"attrs\": {\"a\": null}}", "attr"),
		REFUSED("{" REST ", \"attrs\": {\"ok\": \"x\", \"a\": {}}}", "attr"),
	};

	for (size_t i = 0; i < ARRAY_SIZE(lines); i++)
		assert_refused(lines[i].line, strlen(lines[i].line), lines[i].why);
}

static void a_line_with_a_nul_in_it_is_refused(void **state)
{
	static const char line[] = "{" REST "}\0{}";

	assert_refused(line, sizeof(line) - 1, "JSON");
}

static void only_as_many_bytes_are_read_as_the_line_has(void **state)
{
	struct image *image;
	const char *why;
	const char line[] = "{" REST "}garbage behind it";

	assert_int_equal(image_parse(line, strlen("{" REST "}"), &image, &why), 0);
	image_unref(image);
}

static void too_many_attributes_are_refused(void **state)
{
	char line[8192] = "{" REST ", \"attrs\": {\"k\": \"v\"";

	for (int i = 0; i < 200; i++)
		sprintf(line + strlen(line), ", \"k%d\": \"v\"", i);
	strcat(line, "}}");
	assert_refused(line, strlen(line), "attrs");
}

static void an_attribute_whose_key_is_too_long_is_refused(void **state)
{
	char line[512] = "{" REST ", \"attrs\": {\"";
	size_t used = strlen(line);

	memset(line + used, 'k', 255);
	strcpy(line + used + 255, "\": \"v\"}}");
	assert_refused(line, strlen(line), "attribute");
}

static void nesting_has_a_limit(void **state)
{
	enum { DEPTH = 100000 };
	char *line = malloc(DEPTH + 1);

	memset(line, '[', DEPTH);
	line[DEPTH] = '\0';
	assert_refused(line, DEPTH, "JSON");
	free(line);
}

/* Else a mount that is made again would be another file system to who knows inodes. */
static void the_inode_follows_from_name_and_id_for_ever(void **state)
{
	CLEANUP(image_unrefp) struct image *image = parse("{" REST "}");
	uint64_t wanted = text_hash(TEXT_HASH_START, "n\0i", 3);

	assert_true(image->ino == wanted);
	assert_true(image->ino == 0x2275bb19267fac1e);
}

static void name_and_id_are_not_run_together_in_the_inode(void **state)
{
	CLEANUP(image_unrefp)
	struct image *one = parse("{\"name\": \"ab\", \"id\": \"c\", \"size\": 1}");
	CLEANUP(image_unrefp)
	struct image *two = parse("{\"name\": \"a\", \"id\": \"bc\", \"size\": 1}");

	assert_true(one->ino != two->ino);
}

static void images_that_a_store_says_the_same_of_are_equal(void **state)
{
	static const char line[] =
		"{" REST ", \"mtime\": 5, \"attrs\": {\"k\": \"v\"}, \"allocated\": 3}";
	CLEANUP(image_unrefp) struct image *one = parse(line);
	CLEANUP(image_unrefp) struct image *two = parse(line);

	assert_true(image_equal(one, two));
	/* What went wrong is not what the store says. */
	image_set_error(one, "wrong");
	assert_true(image_equal(one, two));
}

static void images_that_differ_in_anything_are_not_equal(void **state)
{
	static const char *const lines[] = {
		"{" REST "}",
		"{\"name\": \"m\", \"id\": \"i\", \"size\": 1}",
		"{\"name\": \"n\", \"id\": \"j\", \"size\": 1}",
		"{\"name\": \"n\", \"id\": \"i\", \"size\": 2}",
		"{" REST ", \"allocated\": 1}",
		"{" REST ", \"mtime\": 1}",
		"{" REST ", \"mtime\": 1.5}",
		"{" REST ", \"immutable\": true}",
		"{" REST ", \"attrs\": {\"a\": \"v\"}}",
		"{" REST ", \"attrs\": {\"b\": \"v\"}}",
		"{" REST ", \"attrs\": {\"a\": \"w\"}}",
		"{" REST ", \"attrs\": {\"a\": \"v\", \"b\": \"v\"}}",
	};

	for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
		for (size_t k = 0; k < ARRAY_SIZE(lines); k++) {
			CLEANUP(image_unrefp) struct image *one = parse(lines[i]);
			CLEANUP(image_unrefp) struct image *two = parse(lines[k]);

			assert_int_equal(image_equal(one, two), i == k);
		}
	}
}

static void the_last_error_is_remembered_and_logged(void **state)
{
	struct kit *kit = *state;
	CLEANUP(image_unrefp) struct image *image = parse("{" REST "}");

	kit_capture(kit);
	image_set_error(image, "first %d", 1);
	image_set_error_at(image, 7, "second %s", "thing");
	kit_end_capture(kit);
	{
		CLEANUP(freep) char *error = image_error(image);

		assert_string_equal(error, "second thing");
	}
	assert_true(kit_has(kit, "stderr", "first 1"));
	assert_true(kit_has(kit, "stderr", "second thing"));
}

static void an_error_is_made_printable(void **state)
{
	struct kit *kit = *state;
	CLEANUP(image_unrefp) struct image *image = parse("{" REST "}");

	kit_capture(kit);
	image_set_error(image, "%s", "a\x1b]0;b\xff");
	kit_end_capture(kit);
	{
		CLEANUP(freep) char *error = image_error(image);

		assert_string_equal(error, "a?]0;b?");
	}
}

static void *set_errors(void *context)
{
	struct image *image = context;

	for (int i = 0; i < 100; i++) {
		CLEANUP(freep) char *error = NULL;

		image_set_error(image, "error %d", i);
		error = image_error(image);
		if (strncmp(error, "error ", 6))
			return image; /* torn */
	}
	image_unref(image);
	return NULL;
}

static void an_error_may_be_set_by_any_thread(void **state)
{
	struct kit *kit = *state;
	struct image *image = parse("{" REST "}");
	pthread_t threads[4];

	kit_capture(kit);
	for (int i = 0; i < 4; i++)
		assert_int_equal(
			pthread_create(&threads[i], NULL, set_errors, image_ref(image)),
			0);
	image_unref(image);
	for (int i = 0; i < 4; i++) {
		void *ret;

		pthread_join(threads[i], &ret);
		assert_null(ret);
	}
	kit_end_capture(kit);
}

static void no_image_can_be_given_up(void **state)
{
	image_unref(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		KIT_TEST(name_id_and_size_are_enough),
		KIT_TEST(all_that_a_store_may_say_is_taken),
		KIT_TEST(keys_that_nobody_knows_are_ignored),
		KIT_TEST(a_name_may_be_spelt_in_hexadecimal),
		KIT_TEST(a_name_may_be_any_text),
		KIT_TEST(the_largest_size_is_taken),
		KIT_TEST(more_may_be_allocated_than_an_image_is_large),
		KIT_TEST(a_time_may_have_a_fraction),
		KIT_TEST(a_time_may_lie_before_1970),
		KIT_TEST(a_fraction_never_makes_a_whole_second),
		KIT_TEST(the_longest_id_is_taken),
		KIT_TEST(a_longer_id_is_refused),
		KIT_TEST(a_line_that_is_wrong_is_refused_and_told_why),
		KIT_TEST(a_line_with_a_nul_in_it_is_refused),
		KIT_TEST(only_as_many_bytes_are_read_as_the_line_has),
		KIT_TEST(too_many_attributes_are_refused),
		KIT_TEST(an_attribute_whose_key_is_too_long_is_refused),
		KIT_TEST(nesting_has_a_limit),
		KIT_TEST(the_inode_follows_from_name_and_id_for_ever),
		KIT_TEST(name_and_id_are_not_run_together_in_the_inode),
		KIT_TEST(images_that_a_store_says_the_same_of_are_equal),
		KIT_TEST(images_that_differ_in_anything_are_not_equal),
		KIT_TEST(the_last_error_is_remembered_and_logged),
		KIT_TEST(an_error_is_made_printable),
		KIT_TEST(an_error_may_be_set_by_any_thread),
		KIT_TEST(no_image_can_be_given_up),
	};

	return KIT_RUN(tests);
}
