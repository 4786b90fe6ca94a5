/* SPDX-License-Identifier: MIT */
/*
 * options - what the command line says.
 */
#ifndef IMAGEFS_OPTIONS_H
#define IMAGEFS_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

/* What a list is in the order of: names ascending, the others from the largest down. */
enum order { ORDER_NAME, ORDER_SIZE, ORDER_TIME, ORDER_ALLOCATED };

enum action {
	ACTION_MOUNT,
	ACTION_LIST,
	ACTION_VERIFY,
	ACTION_STATS,
	ACTION_HELP,
	ACTION_VERSION,
};

struct options {
	enum action action;
	char *store;
	char *mountpoint; /* absolute */
	char **images; /* to be verified */
	size_t image_count;
	bool foreground;
	bool debug;
	bool managed; /* by a service manager, for which SIGHUP lists the store anew */
	bool json, bytes, reverse; /* of a list */
	bool once; /* of stats */
	enum order order;
	bool allow_other;
	bool default_permissions;
	bool direct_io;
	bool immutable;
	bool ro, rw, dev, suid; /* taken from mount(8), without effect */
	char *fsname; /* NULL: the store's URI */
	char *store_path; /* folders, absolute, separated by ':'; NULL: none */
	char *store_user; /* a name or a number; NULL: who runs the daemon */
	char *env; /* names of variables, separated by ':'; NULL: none */
	char *kernel; /* options for the kernel, separated by commas, "" if none */
	uint64_t uid, gid; /* UINT64_MAX: those of who mounts */
	uint64_t mode; /* of images */
	/* bytes; readahead 0: leave it as it is, UINT64_MAX: as suits the store */
	uint64_t readahead, ring, memory;
	uint64_t stall_ms, ttl_ms, idle_ms;
};

/*
 * Parse the arguments.  Returns 0, or -EINVAL or -ENOMEM having said what is wrong; the
 * caller calls options_fini() in any case.
 */
int options_parse(int argc, char **argv, struct options *ret_options);
void options_fini(struct options *options);

/* What --help prints; each option of the table with its help. */
void options_help(FILE *file);

#endif
