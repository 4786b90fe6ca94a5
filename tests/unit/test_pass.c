/* SPDX-License-Identifier: MIT */
#include "kit.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "pass.h"

static const char header[] = "sixteen bytes...";

#define HEADER (sizeof(header) - 1)

static void put(struct pass *pass, const char *text)
{
	assert_int_equal(write(pass->fds[1], text, strlen(text)), strlen(text));
	pass->gathered += strlen(text);
}

static void test_a_reply_is_its_header_and_what_was_gathered(void **state)
{
	struct pass pass = PASS_INIT;
	char got[64];

	assert_int_equal(pass_begin(&pass, header, HEADER, 10), 0);
	put(&pass, "hello");
	put(&pass, "world");
	assert_true(pass_is_of(&pass, header, HEADER));
	assert_true(pass_is_whole(&pass));
	assert_int_equal(read(pass.fds[0], got, sizeof(got)), HEADER + 10);
	assert_memory_equal(got, "sixteen bytes...helloworld", HEADER + 10);
	assert_false(pass_is_whole(&pass));
	pass_done(&pass);
	assert_int_equal(pass.gathered, 0);
	pass_fini(&pass);
	assert_int_equal(pass.fds[0], -1);
}

static void test_what_was_gathered_is_read_back_without_the_header(void **state)
{
	struct pass pass = PASS_INIT;
	char one[4] = "", two[16] = "";
	struct iovec iov[] = {{one, 3}, {two, sizeof(two)}};

	assert_int_equal(pass_begin(&pass, header, HEADER, 8), 0);
	put(&pass, "abcdefgh");
	assert_int_equal(pass_readv(&pass, iov, 2), 8);
	assert_string_equal(one, "abc");
	assert_string_equal(two, "defgh");
	assert_int_equal(pass.gathered, 0);
	assert_false(pass_is_of(&pass, header, HEADER));
	pass_fini(&pass);
}

static void test_a_reply_that_was_begun_gives_way_to_another(void **state)
{
	static const char other[] = "another one";
	struct pass pass = PASS_INIT;
	char got[64];

	assert_int_equal(pass_begin(&pass, header, HEADER, 4), 0);
	assert_int_equal(pass_begin(&pass, other, sizeof(other), 4), 0);
	assert_false(pass_is_of(&pass, header, HEADER));
	assert_false(pass_is_of(&pass, NULL, 0));
	assert_true(pass_is_of(&pass, other, sizeof(other)));
	put(&pass, "data");
	assert_int_equal(read(pass.fds[0], got, sizeof(got)), sizeof(other) + 4);
	assert_memory_equal(got, other, sizeof(other));
	pass_fini(&pass);
}

static void test_what_does_not_fit_is_refused(void **state)
{
	struct pass pass = PASS_INIT;
	size_t most = pass_most();

	assert_true(most >= 65536 - 4096);
	assert_int_equal(pass_begin(&pass, header, HEADER, most), 0);
	assert_int_equal(pass_begin(&pass, header, HEADER, most + 1), -EMSGSIZE);
	assert_int_equal(pass_begin(&pass, header, PASS_HEADER_MAX + 1, 1), -EMSGSIZE);
	pass_fini(&pass);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_reply_is_its_header_and_what_was_gathered),
		cmocka_unit_test(test_what_was_gathered_is_read_back_without_the_header),
		cmocka_unit_test(test_a_reply_that_was_begun_gives_way_to_another),
		cmocka_unit_test(test_what_does_not_fit_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
