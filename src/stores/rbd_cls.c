/* SPDX-License-Identifier: MIT */
#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "rbd-cls.h"

#define STRING_MAX 4096

int cls_op_init(struct cls_op *op)
{
	*op = (struct cls_op){.op = rados_create_read_op()};
	return op->op ? 0 : -ENOMEM;
}

void cls_op_fini(struct cls_op *op)
{
	if (op->completion)
		rados_aio_release(op->completion);
	if (op->op)
		rados_release_read_op(op->op);
	for (size_t i = 0; i < op->count; i++)
		rados_buffer_free(op->calls[i].output);
	*op = (struct cls_op){0};
}

struct cls_call *cls_op_add(struct cls_op *op, const char *method, const void *input,
			    size_t size, bool may_fail)
{
	struct cls_call *call = &op->calls[op->count++];

	assert(op->count <= CLS_CALLS_MAX);
	call->result = -EIO; /* if it is not even tried */
	rados_read_op_exec(op->op, "rbd", method, input, size, &call->output, &call->size,
			   &call->result);
	if (may_fail)
		rados_read_op_set_flags(op->op, LIBRADOS_OP_FLAG_FAILOK);
	return call;
}

struct cls_call *cls_op_add_number(struct cls_op *op, const char *method, uint64_t number,
				   bool may_fail)
{
	uint64_t input = htole64(number);

	return cls_op_add(op, method, &input, sizeof(input), may_fail);
}

struct cls_call *cls_op_add_string(struct cls_op *op, const char *method,
				   const char *text, bool may_fail)
{
	uint32_t length = strnlen(text, STRING_MAX);
	uint32_t encoded = htole32(length);
	char input[sizeof(encoded) + STRING_MAX];

	memcpy(input, &encoded, sizeof(encoded));
	memcpy(input + sizeof(encoded), text, length);
	return cls_op_add(op, method, input, sizeof(encoded) + length, may_fail);
}

static void completed(rados_completion_t completion, void *context)
{
	struct cls_op *op = context;

	op->result = rados_aio_get_return_value(completion);
	ceph_done_put(&op->work);
}

void cls_op_send(struct cls_op *op, rados_ioctx_t pool, const char *object)
{
	bool has_work = op->work.finish != NULL;

	op->result = rados_aio_create_completion2(op, has_work ? completed : NULL,
						  &op->completion);
	if (op->result == 0)
		op->result = rados_aio_read_op_operate(op->op, pool, op->completion,
						       object, 0);
	if (op->result < 0 && has_work)
		ceph_done_put(&op->work);
}

int cls_op_wait(struct cls_op *op)
{
	if (op->result < 0)
		return op->result;
	rados_aio_wait_for_complete(op->completion);
	op->result = rados_aio_get_return_value(op->completion);
	return op->result;
}

int cls_op_run(struct cls_op *op, rados_ioctx_t pool, const char *object)
{
	op->result = rados_read_op_operate(op->op, pool, object, 0);
	return op->result;
}
