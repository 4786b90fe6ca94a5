/* SPDX-License-Identifier: MIT */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "rbd-uri.h"

#define FSID "01234567-89ab-cdef-0123-456789ABCDEF"

/* What a URI is taken for; NULL is nothing, "" of a namespace the one without a name. */
struct meaning {
	const char *uri;
	const char *pool, *space, *image, *snapshot, *fsid;
};

static void assert_text(const char *got, const char *wanted)
{
	if (!wanted)
		assert_null(got);
	else
		assert_string_equal(got, wanted);
}

static struct ceph_uri parse(const char *text)
{
	struct ceph_uri uri;
	const char *problem = "nothing";
	int error = ceph_uri_init(&uri, text, &problem);

	if (error < 0)
		fail_msg("%s: %s", text, problem);
	return uri;
}

static void assert_meanings(const struct meaning *meanings, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		CLEANUP(ceph_uri_fini) struct ceph_uri uri = parse(meanings[i].uri);

		assert_text(uri.pool, meanings[i].pool);
		assert_text(uri.space, meanings[i].space);
		assert_text(uri.image, meanings[i].image);
		assert_text(uri.snapshot, meanings[i].snapshot);
		assert_text(uri.fsid, meanings[i].fsid);
		assert_string_equal(uri.id, "admin");
	}
}

static void assert_refused(const char *text)
{
	struct ceph_uri uri;
	const char *problem = NULL;

	assert_int_equal(ceph_uri_init(&uri, text, &problem), -EINVAL);
	assert_non_null(problem);
	assert_true(strlen(problem) > 0);
}

static void a_path_is_a_pool_a_namespace_or_an_image(void **state)
{
	static const struct meaning meanings[] = {
		{"rbd://p", "p", "", NULL, NULL, NULL},
		{"rbd://p/", "p", "", NULL, NULL, NULL},
		{"rbd://p/i", "p", "", "i", NULL, NULL},
		{"rbd://p/i@s", "p", "", "i", "s", NULL},
		{"rbd://p/n/", "p", "n", NULL, NULL, NULL},
		{"rbd://p/n/i", "p", "n", "i", NULL, NULL},
		{"rbd://p/n/i@s", "p", "n", "i", "s", NULL},
		{"RbD://p/i", "p", "", "i", NULL, NULL},
	};

	assert_meanings(meanings, ARRAY_SIZE(meanings));
}

static void percent_signs_are_decoded_after_the_path_is_cut(void **state)
{
	static const struct meaning meanings[] = {
		{"rbd://a%2Fb/", "a/b", "", NULL, NULL, NULL},
		{"rbd://p/a%2fb%40c", "p", "", "a/b@c", NULL, NULL},
		{"rbd://p/a@%40%2F", "p", "", "a", "@/", NULL},
		{"rbd://p/%25%3F%23%0a", "p", "", "%?#\n", NULL, NULL},
		{"rbd://p/n%2F/i", "p", "n/", "i", NULL, NULL},
		{"rbd://p/%ff%80", "p", "", "\xff\x80", NULL, NULL},
		{"rbd://p/a:b\\c", "p", "", "a:b\\c", NULL, NULL},
	};

	assert_meanings(meanings, ARRAY_SIZE(meanings));
}

static void four_parts_with_a_uuid_are_what_glance_keeps(void **state)
{
	static const struct meaning meanings[] = {
		{"rbd://" FSID "/p/i/s", "p", "", "i", "s", FSID},
		{"rbd://" FSID "/a%2Fb/i%40/%20", "a/b", "", "i@", " ", FSID},
		{"rbd://" FSID "/p/i@x/s", "p", "", "i@x", "s", FSID},
	};

	assert_meanings(meanings, ARRAY_SIZE(meanings));
}

static void a_pool_may_look_like_a_uuid(void **state)
{
	static const struct meaning meanings[] = {
		{"rbd://" FSID, FSID, "", NULL, NULL, NULL},
		{"rbd://" FSID "/i", FSID, "", "i", NULL, NULL},
		{"rbd://" FSID "/n/", FSID, "n", NULL, NULL, NULL},
		{"rbd://" FSID "/n/i@s", FSID, "n", "i", "s", NULL},
	};

	assert_meanings(meanings, ARRAY_SIZE(meanings));
}

static void four_parts_without_a_uuid_are_no_store(void **state)
{
	assert_refused("rbd://p/n/i/s");
	assert_refused("rbd://" FSID "0/p/i/s");
	assert_refused("rbd://01234567-89ab-cdef-0123-456789abcdeg/p/i/s");
	assert_refused("rbd://01234567_89ab_cdef_0123_456789abcdef/p/i/s");
	assert_refused("rbd://" FSID "/p/i/");
	assert_refused("rbd://" FSID "/p//s");
	assert_refused("rbd://" FSID "/p/i/s/t");
}

static void backslashes_make_literal_in_qemus_form(void **state)
{
	static const struct meaning meanings[] = {
		{"rbd:p/i", "p", "", "i", NULL, NULL},
		{"rbd:p/i@s", "p", "", "i", "s", NULL},
		{"rbd:p/n/i@s", "p", "n", "i", "s", NULL},
		{"rbd:p", "p", "", NULL, NULL, NULL},
		{"rbd:p/", "p", "", NULL, NULL, NULL},
		{"rbd:p/n/", "p", "n", NULL, NULL, NULL},
		{"rbd:p/a\\/b\\@c\\:d\\\\e", "p", "", "a/b@c:d\\e", NULL, NULL},
		{"rbd:a\\:b/i@x\\:y\\@z", "a:b", "", "i", "x:y@z", NULL},
		{"rbd:p/a%2Fb?c#d", "p", "", "a%2Fb?c#d", NULL, NULL},
		{"rbd:p/i\\", "p", "", "i\\", NULL, NULL},
	};

	assert_meanings(meanings, ARRAY_SIZE(meanings));
}

static void assert_option(const struct ceph_uri *uri, size_t i, const char *key,
			  const char *value)
{
	assert_true(i < uri->option_count);
	assert_string_equal(uri->options[i].key, key);
	assert_string_equal(uri->options[i].value, value);
}

static void options_are_taken_in_both_forms(void **state)
{
	CLEANUP(ceph_uri_fini)
	struct ceph_uri web = parse("rbd://p/i?id=a%26b&conf=/c%20d&cluster=e&keyring=/f&"
				    "timeout=7&mon%20host=g=h&rbd-cache=true&empty=");
	CLEANUP(ceph_uri_fini)
	struct ceph_uri qemu = parse("rbd:p/i:id=a:conf=/c\\:d:mon_host=g\\:1\\;h\\:2:"
				     "auth_supported=cephx\\;none");

	assert_string_equal(web.id, "a&b");
	assert_string_equal(web.conf, "/c d");
	assert_string_equal(web.cluster, "e");
	assert_string_equal(web.keyring, "/f");
	assert_string_equal(web.timeout, "7");
	assert_int_equal(web.option_count, 3);
	assert_option(&web, 0, "mon_host", "g=h");
	assert_option(&web, 1, "rbd_cache", "true");
	assert_option(&web, 2, "empty", "");
	assert_string_equal(qemu.id, "a");
	assert_string_equal(qemu.conf, "/c:d");
	assert_int_equal(qemu.option_count, 2);
	assert_option(&qemu, 0, "mon_host", "g:1;h:2");
	assert_option(&qemu, 1, "auth_supported", "cephx;none");
}

static void the_last_of_several_values_counts(void **state)
{
	CLEANUP(ceph_uri_fini) struct ceph_uri uri = parse("rbd://p?id=a&conf=b&id=c");

	assert_string_equal(uri.id, "c");
	assert_string_equal(uri.conf, "b");
}

static void a_key_is_refused_however_it_is_spelled(void **state)
{
	assert_refused("rbd://p/?key=x");
	assert_refused("rbd://p/?k%65y=x");
	assert_refused("rbd:p/i:key=x");
	assert_refused("rbd:p/i:k\\ey=x");
	assert_refused("rbd:p/i:id=a:key-secret=x");
	assert_refused("rbd:p/i:password-secret=x");
}

static void what_makes_no_sense_is_refused(void **state)
{
	static const char *const texts[] = {
		"",
		"rbd",
		"rbd:",
		"rbd:/",
		"rbd://",
		"rbd:///",
		"rbd:///i",
		"rbd:/i",
		"dir:///p",
		"rbdx://p",
		"rbd://p//",
		"rbd://p//i",
		"rbd://p/n/i/",
		"rbd://p/@s",
		"rbd://p/i@",
		"rbd://p/i@s@t",
		"rbd://p/n/@",
		"rbd://p/i#s",
		"rbd://p/%",
		"rbd://p/%4",
		"rbd://p/%4g",
		"rbd://p/%00",
		"rbd://p?",
		"rbd://p?id",
		"rbd://p?id=",
		"rbd://p?=x",
		"rbd://p?&id=x",
		"rbd://p?id=x&",
		"rbd://p?id=%",
		"rbd://p?timeout=",
		"rbd://p?timeout=-1",
		"rbd://p?timeout=1s",
		"rbd://p?timeout=1234567890",
		"rbd:p/i:",
		"rbd:p/i:x",
		"rbd:p/i::id=x",
		"rbd:p/n/m/i",
		"rbd:p//i",
		"rbd:p/@s",
	};

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
		assert_refused(texts[i]);
}

/* Any text is either refused or taken, and what is taken is whole. */
static void random_texts_do_no_harm(void **state)
{
	static const char alphabet[] = "rbd://:/@\\%2F?&=#-az \n\xff" FSID;
	unsigned seed = 1;

	for (int turn = 0; turn < 200000; turn++) {
		char text[64] = "rbd:";
		size_t length = 4;
		struct ceph_uri uri;
		const char *problem;

		while (length + 1 < sizeof(text) && rand_r(&seed) % 24)
			text[length++] = alphabet[rand_r(&seed) % (sizeof(alphabet) - 1)];
		if (ceph_uri_init(&uri, text, &problem) < 0)
			continue;
		assert_true(strlen(uri.pool) > 0);
		assert_true(!uri.snapshot || (uri.image && strlen(uri.snapshot) > 0));
		assert_true(!uri.image || strlen(uri.image) > 0);
		assert_non_null(uri.space);
		for (size_t i = 0; i < uri.option_count; i++)
			assert_string_not_equal(uri.options[i].key, "key");
		ceph_uri_fini(&uri);
	}
}

static void an_image_has_a_uri_that_means_it(void **state)
{
	static const char *const names[] = {
		"a", "a/b", "a@b", "a:b=c", "\\", "\\\\:", "a b", "%41", "\xff\n", "/@:",
	};
	CLEANUP(ceph_uri_fini)
	struct ceph_uri pool = parse("rbd://a%2Fb/n%3A/?id=x%40y&conf=/c:d\\");

	for (size_t i = 0; i < 2 * ARRAY_SIZE(names); i++) {
		const char *snapshot = i % 2 ? names[i / 2] : NULL;
		CLEANUP(freep)
		char *text = ceph_uri_of_image(&pool, names[i / 2], snapshot);
		CLEANUP(ceph_uri_fini) struct ceph_uri uri = parse(text);

		assert_string_equal(uri.pool, "a/b");
		assert_string_equal(uri.space, "n:");
		assert_string_equal(uri.image, names[i / 2]);
		assert_text(uri.snapshot, snapshot);
		assert_string_equal(uri.id, "x@y");
		assert_string_equal(uri.conf, "/c:d\\");
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_path_is_a_pool_a_namespace_or_an_image),
		cmocka_unit_test(percent_signs_are_decoded_after_the_path_is_cut),
		cmocka_unit_test(four_parts_with_a_uuid_are_what_glance_keeps),
		cmocka_unit_test(a_pool_may_look_like_a_uuid),
		cmocka_unit_test(four_parts_without_a_uuid_are_no_store),
		cmocka_unit_test(backslashes_make_literal_in_qemus_form),
		cmocka_unit_test(options_are_taken_in_both_forms),
		cmocka_unit_test(the_last_of_several_values_counts),
		cmocka_unit_test(a_key_is_refused_however_it_is_spelled),
		cmocka_unit_test(what_makes_no_sense_is_refused),
		cmocka_unit_test(random_texts_do_no_harm),
		cmocka_unit_test(an_image_has_a_uri_that_means_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
