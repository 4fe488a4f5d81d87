/* SPDX-License-Identifier: Apache-2.0 */
/** @file eval_internal.h  What the evaluation rules of one node share. */
#ifndef BB_GRAPH_EVAL_INTERNAL_H
#define BB_GRAPH_EVAL_INTERNAL_H

#include "graph/shape.h"

/** One evaluation: outputs have their dims and memory when a rule runs. */
typedef struct bb_eval {
    const bb_node *node;
    const bb_array *in;
    bb_array *out;
    bb_error *err;
} bb_eval;

typedef bb_status (*bb_eval_rule)(const bb_eval *e);

bb_status bb_eval_fail(const bb_eval *e, const char *why);
const bb_array *bb_eval_in(const bb_eval *e, int i); /**< NULL where left out */
bb_shape bb_eval_shape(const bb_eval *e);            /**< for the resolve functions of shape.h */
size_t bb_array_elements(const bb_array *array);     /**< all dims known */
/** Row-major strides, in elements. */
void bb_array_strides(const bb_array *array, int64_t *strides);

/* Any element type as a number. Floats become integers by truncation, clamped to int64. */
double bb_array_double(const bb_array *array, size_t i);
int64_t bb_array_int(const bb_array *array, size_t i);
/** Integers narrow by dropping upper bits; BOOL by != 0. */
void bb_array_put_int(const bb_array *array, size_t i, int64_t v);
void bb_array_put_double(const bb_array *array, size_t i, double v);

/** A walk over an n-dimensional box with one offset per operand; strides in elements. */
enum { BB_WALK_RANK = 2 * BB_MAX_RANK, BB_WALK_OPERANDS = 4 };
typedef struct bb_walk {
    int rank, n;
    int64_t dims[BB_WALK_RANK];
    int64_t strides[BB_WALK_OPERANDS][BB_WALK_RANK];
    int64_t index[BB_WALK_RANK];
    int64_t offset[BB_WALK_OPERANDS];
} bb_walk;
/** Merges axes that all operands cross evenly and sets the walk to its start; afterwards rank >= 1
 * and the last axis is the inner loop. */
void bb_walk_begin(bb_walk *walk);
/** Goes to the next row of the inner loop; false at the end. */
bool bb_walk_next(bb_walk *walk);
/** Rows to walk: 0 where some dim is 0. */
bool bb_walk_empty(const bb_walk *walk);
/** Strides of `a` broadcast to `out` (0 along broadcast axes). */
void bb_broadcast_strides(const bb_array *a, const bb_array *out, int64_t *strides);
/** dst[i] = src[i] over the walk's operands 0 (destination) and 1 (source). */
void bb_walk_copy(bb_walk *walk, size_t element, void *dst, const void *src);

bb_status bb_eval_unary(const bb_eval *e);
bb_status bb_eval_clip(const bb_eval *e);
bb_status bb_eval_prelu(const bb_eval *e);
bb_status bb_eval_binary(const bb_eval *e);
bb_status bb_eval_variadic(const bb_eval *e);
bb_status bb_eval_compare(const bb_eval *e);
bb_status bb_eval_where(const bb_eval *e);
bb_status bb_eval_cast(const bb_eval *e);
bb_status bb_eval_copy(const bb_eval *e);
bb_status bb_eval_dropout(const bb_eval *e);
bb_status bb_eval_transpose(const bb_eval *e);
bb_status bb_eval_concat(const bb_eval *e);
bb_status bb_eval_split(const bb_eval *e);
bb_status bb_eval_slice(const bb_eval *e);
bb_status bb_eval_gather(const bb_eval *e);
bb_status bb_eval_gather_elements(const bb_eval *e);
bb_status bb_eval_pad(const bb_eval *e);
bb_status bb_eval_tile(const bb_eval *e);
bb_status bb_eval_expand(const bb_eval *e);
bb_status bb_eval_depth_space(const bb_eval *e);
bb_status bb_eval_range(const bb_eval *e);
bb_status bb_eval_constant_of_shape(const bb_eval *e);
bb_status bb_eval_shape_of(const bb_eval *e);
bb_status bb_eval_size(const bb_eval *e);
bb_status bb_eval_cum_sum(const bb_eval *e);
bb_status bb_eval_reduce(const bb_eval *e);
bb_status bb_eval_arg(const bb_eval *e);
bb_status bb_eval_lp_normalization(const bb_eval *e);
bb_status bb_eval_quantize(const bb_eval *e);
bb_status bb_eval_dequantize(const bb_eval *e);
bb_status bb_eval_dynamic_quantize(const bb_eval *e);
bb_status bb_eval_qonnx(const bb_eval *e);
bb_status bb_eval_multi_threshold(const bb_eval *e);

#endif
