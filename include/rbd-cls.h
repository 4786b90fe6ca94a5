/* SPDX-License-Identifier: MIT */
/*
 * rbd-cls - methods of the OSDs' class "rbd", called on one object in one round trip.
 *
 * That is what librbd itself does to open an image, without the dozen round trips and the
 * threads: the methods that are called together see the object as it is at one moment.
 * Only methods that read are called; read-only capabilities are enough.
 */
#ifndef IMAGEFS_RBD_CLS_H
#define IMAGEFS_RBD_CLS_H

#include <rados/librados.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rbd-done.h"

#define CLS_CALLS_MAX 16

struct cls_call {
	char *output;
	size_t size; /* bytes in @output */
	int result; /* 0 or a negative errno */
};

/* Calls on one object.  Must stay where it is while it is under way. */
struct cls_op {
	struct ceph_work work; /* finished when all calls are */
	rados_read_op_t op;
	rados_completion_t completion;
	int result; /* 0, or that of the first call that failed and must not */
	size_t count;
	struct cls_call calls[CLS_CALLS_MAX];
};

/* Returns 0 or -ENOMEM.  The caller frees it with cls_op_fini(). */
int cls_op_init(struct cls_op *op);

/* Not while it is under way. */
void cls_op_fini(struct cls_op *op);

/*
 * Add a call of @method with @size bytes at @input, which are copied.  If it fails, so
 * does the whole, unless it @may_fail.  Returns the call, which is filled in later.
 */
struct cls_call *cls_op_add(struct cls_op *op, const char *method, const void *input,
			    size_t size, bool may_fail);

/* The same with a number, or with a string (not more than 4 KiB of it), for input. */
struct cls_call *cls_op_add_number(struct cls_op *op, const char *method, uint64_t number,
				   bool may_fail);
struct cls_call *cls_op_add_string(struct cls_op *op, const char *method,
				   const char *text, bool may_fail);

/*
 * Begin to make the calls on @object of @pool.  When that is done, or has failed, op->work
 * is, whose fields the caller has set; or, if it has set none, cls_op_wait() returns.
 */
void cls_op_send(struct cls_op *op, rados_ioctx_t pool, const char *object);

/* Wait till an op without work is done.  Returns op->result. */
int cls_op_wait(struct cls_op *op);

/* Make the calls, and wait.  Returns op->result. */
int cls_op_run(struct cls_op *op, rados_ioctx_t pool, const char *object);

#endif
