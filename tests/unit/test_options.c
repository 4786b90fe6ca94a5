/* SPDX-License-Identifier: MIT */
#include "kit.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cleanup.h"
#include "options.h"

#define ARGS_MAX 16

/* The parsed options of a test, and what the parser said. */
struct parsed {
	int ret;
	struct options options;
	char *said;
};

/* Parse "imagefs" and the words up to NULL. */
static void parse(struct kit *kit, struct parsed *parsed, ...)
{
	char *argv[ARGS_MAX + 1] = {(char *)"imagefs"};
	int argc = 1;
	va_list args;

	va_start(args, parsed);
	while ((argv[argc] = va_arg(args, char *)))
		assert_true(++argc < ARGS_MAX);
	va_end(args);
	unlink(kit_path(kit, "stderr"));
	kit_capture(kit);
	parsed->ret = options_parse(argc, argv, &parsed->options);
	kit_end_capture(kit);
	parsed->said = kit_read(kit, "stderr");
}

static void parsed_fini(struct parsed *parsed)
{
	options_fini(&parsed->options);
	free(parsed->said);
}

/* Parse, and see that it is refused with a line that has @text in it. */
#define assert_refused(kit, text, ...)                                            \
	do {                                                                      \
		struct parsed parsed_;                                            \
		parse(kit, &parsed_, __VA_ARGS__, NULL);                          \
		assert_int_equal(parsed_.ret, -EINVAL);                           \
		if (!strstr(parsed_.said, text))                                  \
			fail_msg("line %d: said \"%s\"", __LINE__, parsed_.said); \
		parsed_fini(&parsed_);                                            \
	} while (0)

/* Parse, and see that it is taken without a word. */
#define assert_taken(kit, parsed, ...)                                              \
	do {                                                                        \
		parse(kit, parsed, __VA_ARGS__, NULL);                              \
		if ((parsed)->ret || *(parsed)->said)                               \
			fail_msg("line %d: said \"%s\"", __LINE__, (parsed)->said); \
	} while (0)

static void store_and_mountpoint_are_enough(void **state)
{
	struct kit *kit = *state;
	struct parsed parsed;
	struct options *o = &parsed.options;

	assert_taken(kit, &parsed, "dir:///images", kit->folder);
	assert_int_equal(o->action, ACTION_MOUNT);
	assert_string_equal(o->store, "dir:///images");
	assert_string_equal(o->mountpoint, kit->folder);
	assert_false(o->foreground);
	assert_false(o->debug);
	assert_false(o->allow_other);
	assert_false(o->default_permissions);
	assert_null(o->fsname);
	assert_null(o->store_path);
	assert_string_equal(o->kernel, "");
	assert_true(o->uid == UINT64_MAX && o->gid == UINT64_MAX);
	assert_int_equal(o->mode, 0444);
	assert_true(o->readahead == UINT64_MAX);
	assert_int_equal(o->ring, 4 << 20);
	assert_int_equal(o->memory, 256 << 20);
	assert_int_equal(o->stall_ms, 30000);
	assert_int_equal(o->ttl_ms, 3000);
	parsed_fini(&parsed);
}

static void a_mountpoint_is_made_absolute(void **state)
{
	struct kit *kit = *state;
	CLEANUP(freep) char *before = getcwd(NULL, 0);
	struct parsed parsed;

	assert_int_equal(chdir(kit->folder), 0);
	parse(kit, &parsed, "dir:///images", "./.", NULL);
	assert_int_equal(chdir(before), 0);
	assert_int_equal(parsed.ret, 0);
	assert_string_equal(parsed.options.mountpoint, kit->folder);
	parsed_fini(&parsed);
}

static void every_option_sets_its_field(void **state)
{
	struct kit *kit = *state;
	struct parsed parsed;
	struct options *o = &parsed.options;

	assert_taken(kit, &parsed, "-o",
		     "allow_other,default_permissions,uid=5,gid=6,mode=0640,fsname=x,"
		     "readahead=1M,ring=8M,memory=1G,stall=7,ttl=0,store_path=/,ro",
		     "s:", kit->folder);
	assert_true(o->allow_other && o->default_permissions && o->ro);
	assert_int_equal(o->uid, 5);
	assert_int_equal(o->gid, 6);
	assert_int_equal(o->mode, 0640);
	assert_string_equal(o->fsname, "x");
	assert_int_equal(o->readahead, 1 << 20);
	assert_int_equal(o->ring, 8 << 20);
	assert_int_equal(o->memory, 1 << 30);
	assert_int_equal(o->stall_ms, 7000);
	assert_int_equal(o->ttl_ms, 0);
	assert_string_equal(o->store_path, "/");
	parsed_fini(&parsed);
}

static void options_may_stand_anywhere_and_more_than_once(void **state)
{
	struct kit *kit = *state;
	struct parsed parsed;

	assert_taken(kit, &parsed, "-ouid=5", "s:", "-o", "uid=6,gid=1", kit->folder,
		     "-ogid=2", "-f");
	assert_int_equal(parsed.options.uid, 6);
	assert_int_equal(parsed.options.gid, 2);
	assert_true(parsed.options.foreground);
	parsed_fini(&parsed);
}

static void the_last_of_two_texts_counts(void **state)
{
	struct kit *kit = *state;
	struct parsed parsed;

	assert_taken(kit, &parsed, "-ofsname=a,fsname=b", "s:", kit->folder);
	assert_string_equal(parsed.options.fsname, "b");
	parsed_fini(&parsed);
}

static void letters_may_be_run_together(void **state)
{
	struct kit *kit = *state;
	struct parsed parsed;

	assert_taken(kit, &parsed, "-fnsv", "s:", kit->folder);
	assert_true(parsed.options.foreground);
	assert_false(parsed.options.debug);
	parsed_fini(&parsed);
}

static void debugging_stays_in_the_foreground(void **state)
{
	struct kit *kit = *state;
	struct parsed parsed;

	assert_taken(kit, &parsed, "-d", "s:", kit->folder);
	assert_true(parsed.options.foreground && parsed.options.debug);
	parsed_fini(&parsed);
}

static void a_backslash_takes_a_comma_as_it_is(void **state)
{
	struct kit *kit = *state;
	struct parsed parsed;

	assert_taken(kit, &parsed, "-ofsname=a\\,b\\\\c\\=,uid=1", "s:", kit->folder);
	assert_string_equal(parsed.options.fsname, "a,b\\c=");
	assert_int_equal(parsed.options.uid, 1);
	parsed_fini(&parsed);
	assert_taken(kit, &parsed, "-ofsname=a\\", "s:", kit->folder);
	assert_string_equal(parsed.options.fsname, "a\\");
	parsed_fini(&parsed);
}

static void a_value_may_have_an_equals_sign(void **state)
{
	struct kit *kit = *state;
	struct parsed parsed;

	assert_taken(kit, &parsed, "-ofsname=a=b", "s:", kit->folder);
	assert_string_equal(parsed.options.fsname, "a=b");
	parsed_fini(&parsed);
}

static void empty_options_are_none(void **state)
{
	struct kit *kit = *state;
	struct parsed parsed;

	assert_taken(kit, &parsed, "-o", "", "-o", ",,uid=1,,", "s:", kit->folder);
	assert_int_equal(parsed.options.uid, 1);
	parsed_fini(&parsed);
}

static void words_behind_two_dashes_are_no_options(void **state)
{
	struct kit *kit = *state;
	struct parsed parsed;

	assert_taken(kit, &parsed, "-f", "--", "-s:", kit->folder);
	assert_string_equal(parsed.options.store, "-s:");
	parsed_fini(&parsed);
	assert_refused(kit, "too many", "--", "s:", kit->folder, "-f");
}

static void what_mount_says_of_itself_is_taken(void **state)
{
	struct kit *kit = *state;
	struct parsed parsed;

	assert_taken(kit, &parsed, "s:", kit->folder, "-s", "-n", "-v", "-t", "imagefs",
		     "-o",
		     "rw,dev,suid,exec,_netdev,nofail,x-systemd.automount,noauto,user,"
		     "users,defaults,relatime,comment=a b");
	assert_string_equal(parsed.options.kernel, "exec");
	parsed_fini(&parsed);
}

static void rw_alone_is_refused(void **state)
{
	assert_refused(*state, "read-only", "-orw", "s:", "/");
	assert_refused(*state, "read-only", "-orw,ttl=5", "s:", "/");
}

static void rw_of_mount_is_taken(void **state)
{
	/* mount.fuse3 adds dev and suid where nothing else is said of them. */
	static const char *const said[] = {"rw,dev,suid", "rw,nosuid,nodev", "rw,nodev",
					   "rw,suid,dev,ttl=5"};

	for (size_t i = 0; i < ARRAY_SIZE(said); i++) {
		struct parsed parsed;

		assert_taken(*state, &parsed, "-o", said[i], "s:", "/");
		parsed_fini(&parsed);
	}
}

static void a_list_has_an_order(void **state)
{
	struct parsed parsed;

	assert_taken(*state, &parsed, "list", "--sort=allocated", "--reverse", "--bytes",
		     "s:");
	assert_int_equal(parsed.options.action, ACTION_LIST);
	assert_int_equal(parsed.options.order, ORDER_ALLOCATED);
	assert_true(parsed.options.reverse && parsed.options.bytes);
	parsed_fini(&parsed);
	assert_refused(*state, "name, size, time or allocated", "list", "--sort=colour",
		       "s:");
	assert_refused(*state, "--reverse", "--reverse", "s:", "/");
}

static void a_usage_is_that_of_what_was_to_be_done(void **state)
{
	assert_refused(*state, "usage: imagefs [-o OPTIONS] STORE MOUNTPOINT", "s:");
	assert_refused(*state, "usage: imagefs list", "list");
}

static void options_of_the_kernel_are_handed_on(void **state)
{
	struct kit *kit = *state;
	struct parsed parsed;

	assert_taken(kit, &parsed, "-onodev,uid=1,nosuid", "-onoexec,noatime",
		     "s:", kit->folder);
	assert_string_equal(parsed.options.kernel, "nodev,nosuid,noexec,noatime");
	parsed_fini(&parsed);
}

static void folders_of_programs_are_made_absolute(void **state)
{
	struct kit *kit = *state;
	CLEANUP(freep) char *before = getcwd(NULL, 0);
	CLEANUP(freep) char *wanted = NULL;
	struct parsed parsed;

	assert_int_equal(mkdir(kit_path(kit, "one"), 0700), 0);
	assert_true(asprintf(&wanted, "%s/one:/", kit->folder) > 0);
	assert_int_equal(chdir(kit->folder), 0);
	parse(kit, &parsed, "-ostore_path=one:/", "s:", ".", NULL);
	assert_int_equal(chdir(before), 0);
	assert_int_equal(parsed.ret, 0);
	assert_string_equal(parsed.options.store_path, wanted);
	parsed_fini(&parsed);
}

static void values_at_the_limits_are_taken(void **state)
{
	static const char *const lists[] = {
		"uid=0",       "uid=4294967294",
		"mode=0",      "mode=7777",
		"readahead=0", "readahead=1G",
		"ring=2M",     "ring=1G",
		"memory=1M",   "memory=18446744073709551615",
		"stall=1",     "stall=86400",
		"ttl=86400",
	};
	struct kit *kit = *state;

	for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
		struct parsed parsed;

		assert_taken(kit, &parsed, "-o", lists[i], "s:", kit->folder);
		parsed_fini(&parsed);
	}
}

static void values_that_are_wrong_are_refused_by_name(void **state)
{
	static const char *const lists[] = {
		"uid=-1",
		"uid=4294967295",
		"uid=root",
		"uid=1x",
		"uid=99999999999999999999",
		"gid=0x1",
		"gid=+1",
		"mode=8",
		"mode=10000",
		"mode=rw",
		"readahead=2G",
		"readahead=-1",
		"readahead=1X",
		"ring=1M",
		"ring=2G",
		"idle=0",
		"memory=1K",
		"memory=16777216T",
		"stall=0",
		"stall=86401",
		"stall=1.5",
		"stall=1s",
		"ttl=-1",
		"ttl=86401",
		"ttl= 1",
		"uid= 1",
	};

	for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
		CLEANUP(freep) char *name = strndup(lists[i], strcspn(lists[i], "="));

		assert_refused(*state, name, "-o", lists[i], "s:", "/");
	}
}

static void an_option_that_needs_a_value_is_refused_without(void **state)
{
	static const char *const names[] = {"uid",	 "gid",	      "mode",	"fsname",
					    "readahead", "ring",      "memory", "stall",
					    "ttl",	 "store_path"};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		char empty[32];

		snprintf(empty, sizeof(empty), "%s=", names[i]);
		assert_refused(*state, "needs a value", "-o", names[i], "s:", "/");
		assert_refused(*state, "needs a value", "-o", empty, "s:", "/");
	}
}

static void a_switch_with_a_value_is_refused(void **state)
{
	assert_refused(*state, "takes no value", "-oallow_other=1", "s:", "/");
	assert_refused(*state, "takes no value", "-oro=", "s:", "/");
}

static void what_is_not_known_is_refused_by_name(void **state)
{
	assert_refused(*state, "colour", "-ocolour", "s:", "/");
	assert_refused(*state, "colour", "-ocolour=red", "s:", "/");
	assert_refused(*state, "UID", "-oUID=1", "s:", "/");
	assert_refused(*state, "-x", "-x", "s:", "/");
	assert_refused(*state, "-x", "-fx", "s:", "/");
	assert_refused(*state, "--colour", "--colour", "s:", "/");
	assert_refused(*state, "--json", "--json", "s:", "/");
}

static void what_is_refused_is_printed_without_its_controls(void **state)
{
	struct parsed parsed;

	parse(*state, &parsed, "-o\x1b[2J", "s:", "/", NULL);
	assert_int_equal(parsed.ret, -EINVAL);
	assert_null(strchr(parsed.said, '\x1b'));
	parsed_fini(&parsed);
}

static void an_o_without_a_list_is_refused(void **state)
{
	assert_refused(*state, "-o", "s:", "/", "-o");
	assert_refused(*state, "-t", "s:", "/", "-t");
}

static void without_a_store_or_a_mountpoint_the_usage_is_told(void **state)
{
	struct parsed parsed;

	parse(*state, &parsed, NULL);
	assert_int_equal(parsed.ret, -EINVAL);
	assert_non_null(strstr(parsed.said, "usage"));
	parsed_fini(&parsed);
	assert_refused(*state, "usage", "s:");
	assert_refused(*state, "usage", "-f");
	assert_refused(*state, "usage", "list");
	assert_refused(*state, "usage", "list", "--json");
}

static void a_word_too_many_is_refused(void **state)
{
	assert_refused(*state, "third", "s:", "/", "third");
	assert_refused(*state, "second", "list", "s:", "second");
}

static void a_mountpoint_that_is_not_there_is_refused(void **state)
{
	struct kit *kit = *state;

	assert_refused(kit, "nowhere", "s:", kit_path(kit, "nowhere"));
}

static void a_list_needs_no_mountpoint(void **state)
{
	struct kit *kit = *state;
	struct parsed parsed;

	assert_taken(kit, &parsed, "list", "s:");
	assert_int_equal(parsed.options.action, ACTION_LIST);
	assert_string_equal(parsed.options.store, "s:");
	assert_null(parsed.options.mountpoint);
	assert_false(parsed.options.json);
	parsed_fini(&parsed);
	assert_taken(kit, &parsed, "list", "--json", "-ostall=2", "s:");
	assert_true(parsed.options.json);
	assert_int_equal(parsed.options.stall_ms, 2000);
	parsed_fini(&parsed);
}

static void stats_take_a_mountpoint_and_no_store(void **state)
{
	struct kit *kit = *state;
	struct parsed parsed;

	assert_taken(kit, &parsed, "stats", "/mnt");
	assert_int_equal(parsed.options.action, ACTION_STATS);
	assert_string_equal(parsed.options.mountpoint, "/mnt");
	assert_null(parsed.options.store);
	assert_false(parsed.options.once);
	parsed_fini(&parsed);
	assert_taken(kit, &parsed, "stats", "--once", "--json", "/nowhere");
	assert_true(parsed.options.once && parsed.options.json);
	parsed_fini(&parsed);
	assert_refused(kit, "usage: imagefs stats", "stats");
	assert_refused(kit, "too many", "stats", "/mnt", "/mnt");
	assert_refused(kit, "no such option", "list", "--once", "s:");
}

static void verify_takes_a_store_and_any_number_of_images(void **state)
{
	struct kit *kit = *state;
	struct parsed parsed;

	assert_taken(kit, &parsed, "verify", "s:");
	assert_int_equal(parsed.options.action, ACTION_VERIFY);
	assert_string_equal(parsed.options.store, "s:");
	assert_int_equal(parsed.options.image_count, 0);
	parsed_fini(&parsed);
	assert_taken(kit, &parsed, "verify", "--json", "-ostall=2", "s:", "one", "--",
		     "-two");
	assert_true(parsed.options.json);
	assert_int_equal(parsed.options.image_count, 2);
	assert_string_equal(parsed.options.images[0], "one");
	assert_string_equal(parsed.options.images[1], "-two");
	assert_null(parsed.options.mountpoint);
	parsed_fini(&parsed);
	assert_refused(kit, "usage", "verify");
}

static void a_store_may_be_called_list(void **state)
{
	struct kit *kit = *state;
	struct parsed parsed;

	assert_taken(kit, &parsed, "--", "list", kit->folder);
	assert_int_equal(parsed.options.action, ACTION_MOUNT);
	assert_string_equal(parsed.options.store, "list");
	parsed_fini(&parsed);
	assert_taken(kit, &parsed, "./list", kit->folder);
	assert_int_equal(parsed.options.action, ACTION_MOUNT);
	parsed_fini(&parsed);
}

static void help_and_version_need_nothing_else(void **state)
{
	static const char *const help[] = {"-h", "--help"};
	static const char *const version[] = {"-V", "--version"};
	struct kit *kit = *state;
	struct parsed parsed;

	for (int i = 0; i < 2; i++) {
		assert_taken(kit, &parsed, help[i]);
		assert_int_equal(parsed.options.action, ACTION_HELP);
		parsed_fini(&parsed);
		assert_taken(kit, &parsed, version[i]);
		assert_int_equal(parsed.options.action, ACTION_VERSION);
		parsed_fini(&parsed);
	}
	assert_taken(kit, &parsed, "list", "--help");
	assert_int_equal(parsed.options.action, ACTION_HELP);
	parsed_fini(&parsed);
}

static void the_help_names_every_option_that_takes_a_value(void **state)
{
	static const char *const names[] = {
		"allow_other", "default_permissions",
		"uid=",	       "gid=",
		"mode=",       "fsname=",
		"readahead=",  "ring=",
		"memory=",     "stall=",
		"ttl=",	       "store_path=",
		"ro",	       "--json",
		"-f",	       "-d",
		"--help",      "--version",
	};
	char *text;
	size_t size;
	FILE *file = open_memstream(&text, &size);

	options_help(file);
	assert_int_equal(fclose(file), 0);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (!strstr(text, names[i]))
			fail_msg("%s is not in --help", names[i]);
	free(text);
}

static void options_can_be_given_up_twice(void **state)
{
	struct kit *kit = *state;
	struct parsed parsed;

	assert_taken(kit, &parsed, "-ofsname=x,store_path=/", "s:", kit->folder);
	options_fini(&parsed.options);
	parsed_fini(&parsed);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		KIT_TEST(store_and_mountpoint_are_enough),
		KIT_TEST(a_mountpoint_is_made_absolute),
		KIT_TEST(every_option_sets_its_field),
		KIT_TEST(options_may_stand_anywhere_and_more_than_once),
		KIT_TEST(the_last_of_two_texts_counts),
		KIT_TEST(letters_may_be_run_together),
		KIT_TEST(debugging_stays_in_the_foreground),
		KIT_TEST(a_backslash_takes_a_comma_as_it_is),
		KIT_TEST(a_value_may_have_an_equals_sign),
		KIT_TEST(empty_options_are_none),
		KIT_TEST(words_behind_two_dashes_are_no_options),
		KIT_TEST(what_mount_says_of_itself_is_taken),
		KIT_TEST(rw_alone_is_refused),
		KIT_TEST(rw_of_mount_is_taken),
		KIT_TEST(a_list_has_an_order),
		KIT_TEST(a_usage_is_that_of_what_was_to_be_done),
		KIT_TEST(options_of_the_kernel_are_handed_on),
		KIT_TEST(folders_of_programs_are_made_absolute),
		KIT_TEST(values_at_the_limits_are_taken),
		KIT_TEST(values_that_are_wrong_are_refused_by_name),
		KIT_TEST(an_option_that_needs_a_value_is_refused_without),
		KIT_TEST(a_switch_with_a_value_is_refused),
		KIT_TEST(what_is_not_known_is_refused_by_name),
		KIT_TEST(what_is_refused_is_printed_without_its_controls),
		KIT_TEST(an_o_without_a_list_is_refused),
		KIT_TEST(without_a_store_or_a_mountpoint_the_usage_is_told),
		KIT_TEST(a_word_too_many_is_refused),
		KIT_TEST(a_mountpoint_that_is_not_there_is_refused),
		KIT_TEST(a_list_needs_no_mountpoint),
		KIT_TEST(stats_take_a_mountpoint_and_no_store),
		KIT_TEST(verify_takes_a_store_and_any_number_of_images),
		KIT_TEST(a_store_may_be_called_list),
		KIT_TEST(help_and_version_need_nothing_else),
		KIT_TEST(the_help_names_every_option_that_takes_a_value),
		KIT_TEST(options_can_be_given_up_twice),
	};

	return KIT_RUN(tests);
}
