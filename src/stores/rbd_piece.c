/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cleanup.h"
#include "rbd-piece.h"

size_t ceph_piece_limit(const struct ceph_image *image, uint64_t offset)
{
	uint64_t object = UINT64_C(1) << image->header.order;
	uint64_t piece = MIN(object, (uint64_t)CEPH_PIECE_BYTES);

	return piece - offset % piece;
}

static bool is_zeros(const char *data, size_t size)
{
	return size == 0 || (data[0] == 0 && memcmp(data, data + 1, size - 1) == 0);
}

static void finish(struct ceph_piece *piece, int error)
{
	piece->is_under_way = false;
	piece->error = error;
	piece->done_ns = ceph_now_ns();
	piece->finish(piece);
}

/* What did not come is zeros. */
static void fill(struct ceph_piece *piece, size_t got)
{
	if (got >= piece->length)
		return;
	memset(piece->buffer + got, 0, piece->length - got);
	piece->is_void = true;
}

static void librbd_done(struct ceph_work *work)
{
	struct ceph_piece *piece = work->owner;
	int64_t result = piece->result;

	if (piece->librbd)
		rbd_aio_release(piece->librbd);
	piece->librbd = NULL;
	if (result < 0) {
		finish(piece, (int)result);
		return;
	}
	fill(piece, (size_t)result);
	/* librbd does not tell what is not there from zeros. */
	piece->is_void = piece->is_void || is_zeros(piece->buffer, piece->length);
	finish(piece, 0);
}

static void librbd_completed(rbd_completion_t completion, void *context)
{
	struct ceph_piece *piece = context;

	piece->result = rbd_aio_get_return_value(completion);
	ceph_done_put(&piece->work);
}

static void read_by_librbd(struct ceph_piece *piece)
{
	int error = ceph_image_librbd(piece->image);

	piece->work.finish = librbd_done;
	if (error == 0)
		error = rbd_aio_create_completion(piece, librbd_completed,
						  &piece->librbd);
	if (error == 0)
		error = rbd_aio_read2(piece->image->librbd, piece->offset, piece->length,
				      piece->buffer, piece->librbd, 0);
	if (error < 0) {
		piece->result = error;
		ceph_done_put(&piece->work);
	}
}

static void direct_done(struct ceph_work *work)
{
	struct ceph_piece *piece = work->owner;
	const struct ceph_header *header = &piece->image->header;
	int64_t result = piece->result;

	if (piece->completion)
		rados_aio_release(piece->completion);
	piece->completion = NULL;
	if (result == -ENOENT) {
		if (header->parent.pool >= 0 && piece->offset < header->overlap) {
			read_by_librbd(piece);
			return;
		}
		result = 0;
	}
	if (result >= 0)
		fill(piece, (size_t)result);
	finish(piece, result < 0 ? (int)result : 0);
}

static void direct_completed(rados_completion_t completion, void *context)
{
	struct ceph_piece *piece = context;

	piece->result = rados_aio_get_return_value(completion);
	ceph_done_put(&piece->work);
}

/* Format 2: the number of the object in 16 hexadecimal digits. */
static void read_directly(struct ceph_piece *piece)
{
	const struct ceph_header *header = &piece->image->header;
	uint64_t number = piece->offset >> header->order;
	char name[CEPH_OBJECT_BYTES];
	int error;

	snprintf(name, sizeof(name), "%s.%016" PRIx64, header->prefix, number);
	piece->work.finish = direct_done;
	error = rados_aio_create_completion2(piece, direct_completed, &piece->completion);
	if (error == 0)
		error = rados_aio_read(piece->image->data, name, piece->completion,
				       piece->buffer, piece->length,
				       piece->offset - (number << header->order));
	if (error < 0) {
		piece->result = error;
		ceph_done_put(&piece->work);
	}
}

void ceph_piece_read(struct ceph_piece *piece, bool is_inherited)
{
	piece->work.owner = piece;
	piece->is_under_way = true;
	piece->is_void = false;
	if (piece->image->is_direct && !is_inherited)
		read_directly(piece);
	else
		read_by_librbd(piece);
}

void ceph_piece_cancel(struct ceph_piece *piece)
{
	if (piece->completion)
		(void)rados_aio_cancel(piece->image->data, piece->completion);
}
