/* SPDX-License-Identifier: MIT */
/*
 * fuzz_options - the command line and the store's name, as anybody may give them.
 *
 * The input is the arguments, a newline between two of them.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "options.h"
#include "store.h"
#include "warden.h"

#define ARGS_MAX 32

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int warden_spawn(struct warden *warden, const char *const *argv, struct child *ret_child)
{
	abort();
}

static void check(const struct options *options)
{
	struct store *store = NULL;

	assert(options->kernel && options->mode <= 07777);
	assert(options->stall_ms >= 1000 && options->stall_ms <= 86400000);
	assert(options->ring >= 2u << 20);
	assert(options->readahead <= 1u << 30 || options->readahead == UINT64_MAX);
	if (options->action == ACTION_HELP || options->action == ACTION_VERSION)
		return;
	if (options->action == ACTION_STATS) {
		assert(options->mountpoint);
		return;
	}
	assert(options->store);
	assert(options->action != ACTION_MOUNT || options->mountpoint[0] == '/');
	if (store_new(options->store, options->store_path, &store) == 0) {
		assert(strchr(store->uri, ':') && *store->scheme && *store->program);
		store_free(store);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *argv[ARGS_MAX + 2] = {(char *)"imagefs"}, *text = malloc(size + 1),
			      *rest = text;
	struct options options;
	int argc = 1;

	assert(text);
	memcpy(text, data, size);
	text[size] = '\0';
	while (argc <= ARGS_MAX && (argv[argc] = strsep(&rest, "\n")))
		argc++;
	argv[argc] = NULL;
	if (options_parse(argc, argv, &options) == 0)
		check(&options);
	options_fini(&options);
	free(text);
	return 0;
}
