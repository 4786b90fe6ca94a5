/* SPDX-License-Identifier: MIT */
/*
 * random-reads - how many reads of 4 KiB at random places of a file there are in a second.
 *
 *	random-reads FILE JOBS SECONDS
 *
 * Each job is a thread that has opened the file for itself (O_DIRECT).  All are open
 * before the first of them reads: rbd-fuse does not find a file while it is being read.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK 4096
#define JOBS_MAX 256

struct job {
	pthread_t thread;
	int fd;
	unsigned seed;
	uint64_t count;
};

static atomic_bool is_over;
static uint64_t blocks;

static void *read_on(void *context)
{
	struct job *job = context;
	void *buffer = aligned_alloc(BLOCK, BLOCK);

	while (!atomic_load_explicit(&is_over, memory_order_relaxed)) {
		off_t block = ((uint64_t)rand_r(&job->seed) << 16 ^ rand_r(&job->seed)) %
			      blocks;

		if (pread(job->fd, buffer, BLOCK, block * BLOCK) != BLOCK) {
			fprintf(stderr, "random-reads: %s\n", strerror(errno));
			exit(1);
		}
		job->count++;
	}
	free(buffer);
	return NULL;
}

int main(int argc, char **argv)
{
	static struct job jobs[JOBS_MAX];
	int count = argc == 4 ? atoi(argv[2]) : 0;
	uint64_t total = 0;

	if (count < 1 || count > JOBS_MAX) {
		fprintf(stderr, "usage: random-reads FILE JOBS SECONDS\n");
		return 2;
	}
	for (int i = 0; i < count; i++) {
		jobs[i].seed = i + 1;
		jobs[i].fd = open(argv[1], O_RDONLY | O_DIRECT | O_CLOEXEC);
		if (jobs[i].fd < 0) {
			fprintf(stderr, "random-reads: %s: %s\n", argv[1],
				strerror(errno));
			return 1;
		}
	}
	blocks = lseek(jobs[0].fd, 0, SEEK_END) / BLOCK;
	for (int i = 0; i < count; i++)
		if (pthread_create(&jobs[i].thread, NULL, read_on, &jobs[i]))
			return 1;
	sleep(atoi(argv[3]));
	atomic_store(&is_over, true);
	for (int i = 0; i < count; i++) {
		pthread_join(jobs[i].thread, NULL);
		total += jobs[i].count;
	}
	printf("%g\n", (double)total / atoi(argv[3]));
	return 0;
}
