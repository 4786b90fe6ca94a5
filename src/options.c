/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>

#include "cleanup.h"
#include "log.h"
#include "options.h"
#include "text.h"

#define MODE_MAX 07777

enum kind {
	KIND_SWITCH, /* a bool that becomes true */
	KIND_TEXT, /* a string */
	KIND_PATHS, /* folders, made absolute */
	KIND_SIZE, /* bytes */
	KIND_SECONDS, /* kept as milliseconds */
	KIND_NUMBER,
	KIND_OCTAL,
	KIND_KERNEL, /* handed to the kernel */
	KIND_IGNORED,
};

struct option {
	const char *name;
	enum kind kind;
	size_t field;
	uint64_t least, most;
	const char *argument; /* for people, in the order of the lines of --help */
	const char *help; /* NULL: one of mount(8)'s, not told here */
};

#define FIELD(name) offsetof(struct options, name)

static const struct option table[] = {
	{"allow_other", KIND_SWITCH, FIELD(allow_other), 0, 0, "",
	 "let other users in; permissions are checked then"},
	{"default_permissions", KIND_SWITCH, FIELD(default_permissions), 0, 0, "",
	 "have the kernel check permissions"},
	{"uid", KIND_NUMBER, FIELD(uid), 0, UINT32_MAX - 1, "=N",
	 "owner of the images (default: who mounts)"},
	{"gid", KIND_NUMBER, FIELD(gid), 0, UINT32_MAX - 1, "=N",
	 "group of the images (default: that of who mounts)"},
	{"mode", KIND_OCTAL, FIELD(mode), 0, MODE_MAX, "=OCTAL",
	 "permissions of the images (default: 0444)"},
	{"fsname", KIND_TEXT, FIELD(fsname), 0, 0, "=NAME",
	 "name of the file system in mount's list (default: the store)"},
	{"readahead", KIND_SIZE, FIELD(readahead), 0, 1u << 30, "=SIZE",
	 "the kernel's read-ahead, as root (default: 4M, with holes 2M; 0: as it is)"},
	{"ring", KIND_SIZE, FIELD(ring), 2u << 20, 1u << 30, "=SIZE",
	 "most memory of a stream (default: 4M)"},
	{"memory", KIND_SIZE, FIELD(memory), 1u << 20, UINT64_MAX, "=SIZE",
	 "limit of all streams together; each gets at least 1.25M (default: 256M)"},
	{"stall", KIND_SECONDS, FIELD(stall_ms), 1, 86400, "=SECONDS",
	 "longest wait for a byte of the store (default: 30)"},
	{"ttl", KIND_SECONDS, FIELD(ttl_ms), 0, 86400, "=SECONDS",
	 "how long a listing is good for (default: 3)"},
	{"idle", KIND_SECONDS, FIELD(idle_ms), 1, 86400, "=SECONDS",
	 "give back the reader of a file that is not read for so long (default: 10)"},
	{"immutable", KIND_SWITCH, FIELD(immutable), 0, 0, "",
	 "no image ever changes: keep what was read of it"},
	{"direct_io", KIND_SWITCH, FIELD(direct_io), 0, 0, "",
	 "keep nothing in the kernel's page cache"},
	{"store_path", KIND_PATHS, FIELD(store_path), 0, 0, "=DIR[:DIR]",
	 "look for store programs here first"},
	{"store_user", KIND_TEXT, FIELD(store_user), 0, 0, "=USER",
	 "run store programs as this user, as root"},
	{"env", KIND_TEXT, FIELD(env), 0, 0, "=NAME[:NAME]",
	 "more variables for store programs; NAME* for all that begin so"},
	{"ro", KIND_SWITCH, FIELD(ro), 0, 0, "", "accepted: a mount is always read-only"},
	{"rw", KIND_SWITCH, FIELD(rw), 0, 0, "", NULL},
	{"nodev", KIND_KERNEL, 0, 0, 0, "", NULL},
	{"dev", KIND_SWITCH, FIELD(dev), 0, 0, "", NULL},
	{"nosuid", KIND_KERNEL, 0, 0, 0, "", NULL},
	{"suid", KIND_SWITCH, FIELD(suid), 0, 0, "", NULL},
	{"noexec", KIND_KERNEL, 0, 0, 0, "", NULL},
	{"exec", KIND_KERNEL, 0, 0, 0, "", NULL},
	{"noatime", KIND_KERNEL, 0, 0, 0, "", NULL},
	{"atime", KIND_KERNEL, 0, 0, 0, "", NULL},
	{"sync", KIND_KERNEL, 0, 0, 0, "", NULL},
	{"async", KIND_KERNEL, 0, 0, 0, "", NULL},
	{"dirsync", KIND_KERNEL, 0, 0, 0, "", NULL},
	{"allow_root", KIND_KERNEL, 0, 0, 0, "", NULL},
	{"context", KIND_KERNEL, 0, 0, 0, "", NULL},
	{"auto_unmount", KIND_IGNORED, 0, 0, 0, "", NULL},
	{"defaults", KIND_IGNORED, 0, 0, 0, "", NULL},
	{"auto", KIND_IGNORED, 0, 0, 0, "", NULL},
	{"noauto", KIND_IGNORED, 0, 0, 0, "", NULL},
	{"user", KIND_IGNORED, 0, 0, 0, "", NULL},
	{"nouser", KIND_IGNORED, 0, 0, 0, "", NULL},
	{"users", KIND_IGNORED, 0, 0, 0, "", NULL},
	{"owner", KIND_IGNORED, 0, 0, 0, "", NULL},
	{"group", KIND_IGNORED, 0, 0, 0, "", NULL},
	{"_netdev", KIND_IGNORED, 0, 0, 0, "", NULL},
	{"nofail", KIND_IGNORED, 0, 0, 0, "", NULL},
	{"relatime", KIND_IGNORED, 0, 0, 0, "", NULL},
	{"norelatime", KIND_IGNORED, 0, 0, 0, "", NULL},
	{"strictatime", KIND_IGNORED, 0, 0, 0, "", NULL},
	{"nostrictatime", KIND_IGNORED, 0, 0, 0, "", NULL},
	{"lazytime", KIND_IGNORED, 0, 0, 0, "", NULL},
	{"nolazytime", KIND_IGNORED, 0, 0, 0, "", NULL},
	{"diratime", KIND_IGNORED, 0, 0, 0, "", NULL},
	{"nodiratime", KIND_IGNORED, 0, 0, 0, "", NULL},
	{"comment", KIND_IGNORED, 0, 0, 0, "", NULL},
};

static const struct option *find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(table); i++)
		if (!strcmp(table[i].name, name))
			return &table[i];
	return NULL;
}

static int set_text(char **field, char *text)
{
	if (!text)
		return -ENOMEM;
	free(*field);
	*field = text;
	return 0;
}

/* @paths with each path made absolute. */
static char *absolute_paths(const char *paths)
{
	CLEANUP(freep) char *copy = strdup(paths);
	CLEANUP(freep) char *all = strdup("");
	char *rest = copy, *path;

	while (copy && all && (path = strsep(&rest, ":"))) {
		CLEANUP(freep) char *absolute = realpath(path, NULL);
		char *more;

		if (asprintf(&more, "%s%s%s", all, *all ? ":" : "",
			     absolute ? absolute : path) < 0)
			return NULL;
		free(all);
		all = more;
	}
	return copy ? STEAL(all) : NULL;
}

static int parse_number(const char *text, int base, uint64_t *ret_value)
{
	char *end;

	if (*text < '0' || *text > '9')
		return -EINVAL;
	errno = 0;
	*ret_value = strtoull(text, &end, base);
	return errno || *end ? -EINVAL : 0;
}

/* What a value has to look like, for people. */
static const char *form_of(const struct option *option)
{
	switch (option->kind) {
	case KIND_SIZE:
		return "a size, such as 8M,";
	case KIND_SECONDS:
		return "a number of seconds";
	case KIND_OCTAL:
		return "an octal number";
	default:
		return "a number";
	}
}

static int set_number(const struct option *option, uint64_t *field, const char *value)
{
	uint64_t number = 0;
	int ret = option->kind == KIND_SIZE
			  ? text_parse_size(value, &number)
			  : parse_number(value, option->kind == KIND_OCTAL ? 8 : 10,
					 &number);

	if (ret < 0 || number < option->least || number > option->most) {
		log_line(LOG_ERR,
			 "%s=%s: not %s that this option takes (see imagefs --help)",
			 option->name, value, form_of(option));
		return -EINVAL;
	}
	*field = option->kind == KIND_SECONDS ? 1000 * number : number;
	return 0;
}

static int add_for_kernel(struct options *options, const char *name, const char *value)
{
	char *all;

	if (asprintf(&all, "%s%s%s%s%s", options->kernel, *options->kernel ? "," : "",
		     name, value ? "=" : "", value ? value : "") < 0)
		return -ENOMEM;
	return set_text(&options->kernel, all);
}

static int set_option(struct options *options, char *name)
{
	char *value = strchr(name, '=');
	const struct option *option;
	char *field;

	if (!*name || !strncmp(name, "x-", 2))
		return 0;
	if (value)
		*value++ = '\0';
	option = find(name);
	if (!option) {
		log_line(LOG_ERR, "%s: no such option (see imagefs --help)", name);
		return -EINVAL;
	}
	if (*option->argument && (!value || !*value)) {
		log_line(LOG_ERR, "%s: this option needs a value: %s%s", name, name,
			 option->argument);
		return -EINVAL;
	}
	if (option->kind == KIND_SWITCH && value) {
		log_line(LOG_ERR, "%s: this option takes no value", name);
		return -EINVAL;
	}
	field = (char *)options + option->field;
	switch (option->kind) {
	case KIND_SWITCH:
		*(bool *)field = true;
		return 0;
	case KIND_TEXT:
		return set_text((char **)field, strdup(value ? value : ""));
	case KIND_PATHS:
		return set_text((char **)field, absolute_paths(value ? value : ""));
	case KIND_KERNEL:
		return add_for_kernel(options, name, value);
	case KIND_IGNORED:
		return 0;
	default:
		return set_number(option, (uint64_t *)field, value ? value : "");
	}
}

/* The options of one -o: separated by commas; a backslash takes what follows as it is. */
static int set_options(struct options *options, const char *list)
{
	CLEANUP(freep) char *name = malloc(strlen(list) + 1);
	size_t size = 0;

	if (!name)
		return -ENOMEM;
	for (const char *c = list;; c++) {
		int ret;

		if (*c == '\\' && c[1]) {
			name[size++] = *++c;
			continue;
		}
		if (*c && *c != ',') {
			name[size++] = *c;
			continue;
		}
		name[size] = '\0';
		ret = set_option(options, name);
		if (ret < 0 || !*c)
			return ret;
		size = 0;
	}
}

static int set_letters(struct options *options, const char *letters)
{
	for (; *letters; letters++) {
		switch (*letters) {
		case 'f':
			options->foreground = true;
			break;
		case 'd':
			options->foreground = options->debug = true;
			break;
		case 'h':
			options->action = ACTION_HELP;
			break;
		case 'V':
			options->action = ACTION_VERSION;
			break;
		case 'n':
		case 's':
		case 'v':
			/* mount(8) hands these on. */
			break;
		default:
			log_line(LOG_ERR, "-%c: no such option (see imagefs --help)",
				 *letters);
			return -EINVAL;
		}
	}
	return 0;
}

static int set_order(struct options *options, const char *name)
{
	static const char *const names[] = {
		[ORDER_NAME] = "name",
		[ORDER_SIZE] = "size",
		[ORDER_TIME] = "time",
		[ORDER_ALLOCATED] = "allocated",
	};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (!strcmp(names[i], name)) {
			options->order = (enum order)i;
			return 0;
		}
	}
	log_line(LOG_ERR, "--sort=%s: sort by name, size, time or allocated", name);
	return -EINVAL;
}

static int set_long(struct options *options, const char *name)
{
	bool list = options->action == ACTION_LIST;
	bool verify = options->action == ACTION_VERIFY;
	bool stats = options->action == ACTION_STATS;

	if (!strcmp(name, "help"))
		options->action = ACTION_HELP;
	else if (!strcmp(name, "version"))
		options->action = ACTION_VERSION;
	else if ((list || verify || stats) && !strcmp(name, "json"))
		options->json = true;
	else if (stats && !strcmp(name, "once"))
		options->once = true;
	else if (list && !strcmp(name, "bytes"))
		options->bytes = true;
	else if (list && !strcmp(name, "reverse"))
		options->reverse = true;
	else if (list && !strncmp(name, "sort=", 5))
		return set_order(options, name + 5);
	else {
		log_line(LOG_ERR, "--%s: no such option (see imagefs --help)", name);
		return -EINVAL;
	}
	return 0;
}

static int add_image(struct options *options, const char *name)
{
	char **images =
		reallocarray(options->images, options->image_count + 1, sizeof(*images));

	if (!images)
		return -ENOMEM;
	options->images = images;
	images[options->image_count] = strdup(name);
	return images[options->image_count++] ? 0 : -ENOMEM;
}

/* A word that is no option: the store, the mount point, or an image to be verified. */
static int set_word(struct options *options, const char *word)
{
	if (!options->store && options->action != ACTION_STATS)
		return set_text(&options->store, strdup(word));
	if (options->action == ACTION_VERIFY)
		return add_image(options, word);
	if (!options->mountpoint && options->action != ACTION_LIST)
		return set_text(&options->mountpoint, strdup(word));
	log_line(LOG_ERR, "%s: one argument too many (see imagefs --help)", word);
	return -EINVAL;
}

static bool has_kernel_option(const struct options *options, const char *name)
{
	size_t size = strlen(name);
	const char *at = options->kernel;

	while (*at) {
		size_t length = strcspn(at, ",");

		if (length == size && !strncmp(at, name, size))
			return true;
		at += length + (at[length] == ',');
	}
	return false;
}

/* Make the mount point absolute. */
static int check_mountpoint(struct options *options)
{
	char *absolute = realpath(options->mountpoint, NULL);
	/* stat(2) tells of a mount whose program is gone what the kernel remembers. */
	int fd = absolute ? open(absolute, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	int err = errno;

	if (fd < 0 && absolute && err == EACCES) {
		/* Who may not list it may still mount on it. */
		struct stat st;

		err = stat(absolute, &st) < 0 ? errno : S_ISDIR(st.st_mode) ? 0 : ENOTDIR;
	}
	if (fd >= 0) {
		close(fd);
		err = 0;
	}
	if (absolute && !err)
		return set_text(&options->mountpoint, absolute);
	free(absolute);
	log_line(LOG_ERR, "%s: %s (the mount point is a folder that exists)%s",
		 options->mountpoint, strerror(err),
		 err == ENOTCONN
			 ? "; a mount whose program is gone is in the way: umount -l it"
			 : "");
	return -EINVAL;
}

static int check(struct options *options)
{
	if (options->action == ACTION_HELP || options->action == ACTION_VERSION)
		return 0;
	if ((!options->store && options->action != ACTION_STATS) ||
	    (!options->mountpoint &&
	     (options->action == ACTION_MOUNT || options->action == ACTION_STATS))) {
		log_line(LOG_ERR, "usage: imagefs %s (see imagefs --help)",
			 options->action == ACTION_LIST
				 ? "list [--json] [-o OPTIONS] STORE"
			 : options->action == ACTION_VERIFY
				 ? "verify [--json] [-o OPTIONS] STORE [IMAGE ...]"
			 : options->action == ACTION_STATS
				 ? "stats [--once] [--json] MOUNTPOINT"
				 : "[-o OPTIONS] STORE MOUNTPOINT");
		return -EINVAL;
	}
	/*
	 * mount(8) says rw of itself, with dev or suid or the contrary of them; a person who
	 * says rw alone is told.
	 */
	if (options->rw && !options->dev && !options->suid &&
	    !has_kernel_option(options, "nodev") &&
	    !has_kernel_option(options, "nosuid")) {
		log_line(LOG_ERR, "rw: images are read-only; mount with ro");
		return -EINVAL;
	}
	if (options->action != ACTION_MOUNT)
		return 0;
	return check_mountpoint(options);
}

int options_parse(int argc, char **argv, struct options *ret_options)
{
	struct options *options = ret_options;
	int ret = 0;

	*options = (struct options){
		.uid = UINT64_MAX,
		.gid = UINT64_MAX,
		.mode = 0444,
		.readahead = UINT64_MAX,
		.ring = 4u << 20,
		.memory = 256u << 20,
		.stall_ms = 30000,
		.ttl_ms = 3000,
		.idle_ms = 10000,
		.kernel = strdup(""),
	};
	if (!options->kernel)
		return -ENOMEM;
	if (argc > 1 && !strcmp(argv[1], "list"))
		options->action = ACTION_LIST;
	if (argc > 1 && !strcmp(argv[1], "verify"))
		options->action = ACTION_VERIFY;
	if (argc > 1 && !strcmp(argv[1], "stats"))
		options->action = ACTION_STATS;
	for (int i = options->action == ACTION_MOUNT ? 1 : 2; i < argc && !ret; i++) {
		const char *arg = argv[i];

		if (!strcmp(arg, "--")) {
			while (++i < argc && !ret)
				ret = set_word(options, argv[i]);
		} else if (!strcmp(arg, "-o") || !strcmp(arg, "-t")) {
			if (!argv[i + 1]) {
				log_line(LOG_ERR, "%s: needs a value", arg);
				return -EINVAL;
			}
			i++;
			/* -t TYPE is mount(8)'s. */
			ret = arg[1] == 'o' ? set_options(options, argv[i]) : 0;
		} else if (!strncmp(arg, "-o", 2)) {
			ret = set_options(options, arg + 2);
		} else if (!strncmp(arg, "--", 2)) {
			ret = set_long(options, arg + 2);
		} else if (arg[0] == '-' && arg[1]) {
			ret = set_letters(options, arg + 1);
		} else {
			ret = set_word(options, arg);
		}
	}
	return ret ? ret : check(options);
}

void options_fini(struct options *options)
{
	free(options->store);
	free(options->mountpoint);
	for (size_t i = 0; i < options->image_count; i++)
		free(options->images[i]);
	free(options->images);
	free(options->fsname);
	free(options->store_path);
	free(options->store_user);
	free(options->env);
	free(options->kernel);
	*options = (struct options){0};
}

void options_help(FILE *file)
{
	fputs("usage: imagefs [-f] [-d] [-o OPTIONS] STORE MOUNTPOINT\n"
	      "       imagefs list [--json] [--bytes] [--sort=KEY] [--reverse] [-o OPTIONS] STORE\n"
	      "       imagefs verify [--json] [-o OPTIONS] STORE [IMAGE ...]\n"
	      "       imagefs stats [--once] [--json] MOUNTPOINT\n"
	      "\n"
	      "Mount the images of a store as read-only files; list them; read them and\n"
	      "compare them with the hashes that the store gives; or show how a mount is read.\n"
	      "STORE is a folder or a URI: dir:///srv/images, sheepdog://host/, ...\n"
	      "\n"
	      "  -f         stay in the foreground\n"
	      "  -d         the same, with a line for everything that happens\n"
	      "  -h, --help\n"
	      "  -V, --version\n"
	      "  --json     list, verify: one JSON object for each image; stats: one for all\n"
	      "  --once     stats: a table, not a live view; so it is without a terminal\n"
	      "  --bytes    list: sizes in bytes\n"
	      "  --sort=KEY list: by name, size, time or allocated (default: name)\n"
	      "  --reverse  list: in the other order\n"
	      "\n"
	      "OPTIONS, separated by commas:\n",
	      file);
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		char left[64];

		if (!table[i].help)
			continue;
		snprintf(left, sizeof(left), "%s%s", table[i].name, table[i].argument);
		fprintf(file, "  %-21s %s\n", left, table[i].help);
	}
	fputs("\nSIZE is in bytes, or with K, M, G or T. The options of mount(8) are "
	      "accepted.\n",
	      file);
}
