/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>

#include "cleanup.h"
#include "rbd-queue.h"

#define BUFFERS 64
#define SEGMENTS 128
#define WINDOW_BYTES (8 * CEPH_PIECE_BYTES) /* of pieces that were put and not taken */

struct ceph_queue {
	char *memory; /* all buffers; only as much as is ever used at once is touched */
	int stop_fd;
	pthread_mutex_t lock; /* guards the rest, but for what is in the segments */
	pthread_cond_t room;
	pthread_cond_t more; /* segments, or the end */
	struct ceph_segment segments[SEGMENTS]; /* from head, as many as count */
	size_t head;
	size_t count;
	size_t window; /* bytes */
	char *buffers[BUFFERS]; /* those that are free */
	size_t free_buffers;
	char *next_buffer; /* of the next piece, or NULL */
	bool has_ended;
	bool is_stopped;
};

int ceph_queue_new(struct ceph_queue **ret_queue)
{
	struct ceph_queue *queue = calloc(1, sizeof(*queue));

	if (!queue)
		return -ENOMEM;
	queue->memory = malloc(BUFFERS * CEPH_PIECE_BYTES);
	queue->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!queue->memory || queue->stop_fd < 0) {
		closep(&queue->stop_fd);
		free(queue->memory);
		free(queue);
		return -ENOMEM;
	}
	for (size_t i = 0; i < BUFFERS; i++)
		queue->buffers[queue->free_buffers++] =
			queue->memory + i * CEPH_PIECE_BYTES;
	pthread_mutex_init(&queue->lock, NULL);
	pthread_cond_init(&queue->room, NULL);
	pthread_cond_init(&queue->more, NULL);
	*ret_queue = queue;
	return 0;
}

static struct ceph_segment *segment_at(struct ceph_queue *queue, size_t place)
{
	return &queue->segments[(queue->head + place) % SEGMENTS];
}

void ceph_queue_free(struct ceph_queue *queue)
{
	if (!queue)
		return;
	/* librados has the buffers. */
	for (size_t i = 0; i < queue->count; i++)
		if (segment_at(queue, i)->has_piece)
			ceph_piece_wait(&segment_at(queue, i)->piece);
	pthread_cond_destroy(&queue->more);
	pthread_cond_destroy(&queue->room);
	pthread_mutex_destroy(&queue->lock);
	closep(&queue->stop_fd);
	free(queue->memory);
	free(queue);
}

struct ceph_segment *ceph_queue_room(struct ceph_queue *queue)
{
	struct ceph_segment *segment = NULL;

	pthread_mutex_lock(&queue->lock);
	while (!queue->is_stopped &&
	       (queue->count == SEGMENTS || queue->window >= WINDOW_BYTES ||
		(!queue->next_buffer && queue->free_buffers == 0)))
		pthread_cond_wait(&queue->room, &queue->lock);
	if (!queue->is_stopped) {
		if (!queue->next_buffer)
			queue->next_buffer = queue->buffers[--queue->free_buffers];
		segment = segment_at(queue, queue->count);
		*segment = (struct ceph_segment){.piece.buffer = queue->next_buffer};
	}
	pthread_mutex_unlock(&queue->lock);
	return segment;
}

void ceph_queue_put(struct ceph_queue *queue)
{
	struct ceph_segment *segment;

	pthread_mutex_lock(&queue->lock);
	segment = segment_at(queue, queue->count++);
	if (segment->has_piece) {
		queue->next_buffer = NULL;
		queue->window += segment->length;
	}
	pthread_cond_signal(&queue->more);
	pthread_mutex_unlock(&queue->lock);
}

bool ceph_queue_drained(struct ceph_queue *queue)
{
	bool is_stopped;

	pthread_mutex_lock(&queue->lock);
	while (!queue->is_stopped && queue->count > 0)
		pthread_cond_wait(&queue->room, &queue->lock);
	is_stopped = queue->is_stopped;
	pthread_mutex_unlock(&queue->lock);
	return !is_stopped;
}

void ceph_queue_end(struct ceph_queue *queue)
{
	pthread_mutex_lock(&queue->lock);
	queue->has_ended = true;
	pthread_cond_signal(&queue->more);
	pthread_mutex_unlock(&queue->lock);
}

struct ceph_segment *ceph_queue_at(struct ceph_queue *queue, size_t place)
{
	struct ceph_segment *segment = NULL;

	pthread_mutex_lock(&queue->lock);
	while (place == 0 && queue->count == 0 && !queue->has_ended && !queue->is_stopped)
		pthread_cond_wait(&queue->more, &queue->lock);
	if (place < queue->count && !queue->is_stopped)
		segment = segment_at(queue, place);
	pthread_mutex_unlock(&queue->lock);
	return segment;
}

void ceph_queue_look(struct ceph_queue *queue)
{
	pthread_mutex_lock(&queue->lock);
	for (size_t i = 0; i < queue->count; i++)
		if (segment_at(queue, i)->has_piece)
			ceph_piece_look(&segment_at(queue, i)->piece);
	pthread_mutex_unlock(&queue->lock);
}

void ceph_queue_take(struct ceph_queue *queue)
{
	pthread_mutex_lock(&queue->lock);
	if (segment_at(queue, 0)->has_piece)
		queue->window -= segment_at(queue, 0)->length;
	queue->head = (queue->head + 1) % SEGMENTS;
	queue->count--;
	pthread_cond_signal(&queue->room);
	pthread_mutex_unlock(&queue->lock);
}

void ceph_queue_give_back(struct ceph_queue *queue, char *buffer)
{
	pthread_mutex_lock(&queue->lock);
	queue->buffers[queue->free_buffers++] = buffer;
	pthread_cond_signal(&queue->room);
	pthread_mutex_unlock(&queue->lock);
}

void ceph_queue_stop(struct ceph_queue *queue)
{
	pthread_mutex_lock(&queue->lock);
	queue->is_stopped = true;
	pthread_cond_signal(&queue->room);
	pthread_cond_signal(&queue->more);
	pthread_mutex_unlock(&queue->lock);
	(void)eventfd_write(queue->stop_fd, 1);
}

int ceph_queue_stop_fd(const struct ceph_queue *queue)
{
	return queue->stop_fd;
}
