/* SPDX-License-Identifier: MIT */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "environment.h"

static void what_stores_need_is_allowed(void **state)
{
	static const char *const names[] = {"PATH",
					    "HOME",
					    "LC_ALL",
					    "IMAGEFS_STALL_MS",
					    "CEPH_CONF",
					    "CEPH_ARGS",
					    "OS_PASSWORD",
					    "OS_AUTH_URL",
					    "SHEEPDOG_DOG_ADDR",
					    "https_proxy"};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		assert_true(environment_allows(names[i], NULL));
}

static void anything_else_is_not(void **state)
{
	static const char *const names[] = {"LD_PRELOAD",
					    "LD_LIBRARY_PATH",
					    "BASH_ENV",
					    "ENV",
					    "IFS",
					    "PATH2",
					    "PAT",
					    "OS",
					    "NOTIFY_SOCKET",
					    "AWS_SECRET_ACCESS_KEY",
					    "",
					    "*",
					    "X:PATH"};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		assert_false(environment_allows(names[i], NULL));
}

static void what_the_user_names_is_allowed(void **state)
{
	assert_true(environment_allows("A", "A"));
	assert_true(environment_allows("B", "A:B"));
	assert_true(environment_allows("AWS_KEY", "X:AWS_*"));
	assert_true(environment_allows("AWS_", "AWS_*:X"));
	assert_false(environment_allows("AWS", "AWS_*"));
	assert_false(environment_allows("AB", "A:B"));
	assert_false(environment_allows("A", ""));
	assert_false(environment_allows("", ""));
	assert_true(environment_allows("ANYTHING", "*"));
}

static void the_environment_is_cleaned(void **state)
{
	assert_int_equal(clearenv(), 0);
	assert_int_equal(setenv("LD_PRELOAD", "x.so", 1), 0);
	assert_int_equal(setenv("PATH", "/bin", 1), 0);
	assert_int_equal(setenv("SECRET", "x", 1), 0);
	assert_int_equal(setenv("MINE", "y", 1), 0);
	assert_int_equal(setenv("LAST", "z", 1), 0);
	assert_int_equal(environment_clean("MINE"), 0);
	assert_string_equal(getenv("PATH"), "/bin");
	assert_string_equal(getenv("MINE"), "y");
	assert_null(getenv("LD_PRELOAD"));
	assert_null(getenv("SECRET"));
	assert_null(getenv("LAST"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_stores_need_is_allowed),
		cmocka_unit_test(anything_else_is_not),
		cmocka_unit_test(what_the_user_names_is_allowed),
		cmocka_unit_test(the_environment_is_cleaned),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
