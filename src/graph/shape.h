/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file shape.h
 * Shape rules, one per operator, on arrays whose dims may be unknown (-1, rank -1) and whose
 * contents are looked at only where the output's shape depends on them. Inference over a graph and
 * evaluation of a node share them.
 */
#ifndef BB_GRAPH_SHAPE_H
#define BB_GRAPH_SHAPE_H

#include "graph/eval.h"

/** Sizes above these are refused: sums and products of dims then stay far inside int64. */
#define BB_MAX_DIM INT32_MAX
#define BB_MAX_ELEMENTS ((int64_t)1 << 30)

typedef struct bb_shape {
    const bb_node *node;
    const bb_array *in; /**< one per node input */
    bb_array *out;      /**< one per node output, rank -1 to begin with */
    bb_error *err;
} bb_shape;

/** Fills rank, dims and dtype of the outputs as far as they can be known; data is left alone. */
bb_status bb_shape_node(const bb_node *node, const bb_array *in, bb_array *out, bb_error *err);

/* What the rules are made of. */
bb_status bb_shape_fail(const bb_shape *s, const char *fmt, ...) BB_PRINTF(2, 3);
const bb_array *bb_shape_in(const bb_shape *s, int i); /**< NULL where left out */
void bb_shape_set(const bb_shape *s, int i, bb_dtype dtype, int rank, const int64_t *dims);
void bb_shape_like(const bb_shape *s, int i, int input); /**< output i = input's dtype and dims */
void bb_shape_dtype(const bb_shape *s, int i, bb_dtype dtype);
/** Adds rank to a negative axis and checks it against -rank..rank-1. */
bb_status bb_shape_axis(const bb_shape *s, int64_t axis, int rank, int *out);
/** Contents of an integer input; false where they are not known. At most max elements. */
bool bb_array_ints(const bb_array *array, int64_t *out, size_t max, size_t *n);
/** NumPy broadcasting of b into dims (rank updated); an unknown dim stays unknown unless the
 *  other side decides it. False where they contradict each other. */
bool bb_broadcast_dims(int64_t *dims, int *rank, const int64_t *b, int b_rank);
/** bb_node_window on known kernel dims; spatial input sizes may be -1, `out` is then -1. */
bb_status bb_window_resolve(const bb_node *node, const int64_t *weight_dims, const int64_t *dims,
                            int rank, bb_window *window, bb_error *err);
/** Scale and output size per axis of a Resize, `axes` and the aspect policy applied. False where
 *  scales and sizes are not known. sizes[i] = -1 where dims[i] is unknown. */
bool bb_resize_factors(const bb_shape *s, double *scales, int64_t *sizes, bb_status *status);

typedef bb_status (*bb_shape_rule)(const bb_shape *s);
bb_status bb_shape_conv(const bb_shape *s);
bb_status bb_shape_conv_transpose(const bb_shape *s);
bb_status bb_shape_pool(const bb_shape *s);
bb_status bb_shape_global_pool(const bb_shape *s);
bb_status bb_shape_gemm(const bb_shape *s);
bb_status bb_shape_matmul(const bb_shape *s);
bb_status bb_shape_normalization(const bb_shape *s);
bb_status bb_shape_layer_normalization(const bb_shape *s);
bb_status bb_shape_resize(const bb_shape *s);
bb_status bb_shape_reshape(const bb_shape *s);
bb_status bb_shape_flatten(const bb_shape *s);
bb_status bb_shape_transpose(const bb_shape *s);
bb_status bb_shape_concat(const bb_shape *s);
bb_status bb_shape_split(const bb_shape *s);
bb_status bb_shape_slice(const bb_shape *s);
bb_status bb_shape_gather(const bb_shape *s);
bb_status bb_shape_gather_elements(const bb_shape *s);
bb_status bb_shape_squeeze(const bb_shape *s);
bb_status bb_shape_unsqueeze(const bb_shape *s);
bb_status bb_shape_pad(const bb_shape *s);
bb_status bb_shape_tile(const bb_shape *s);
bb_status bb_shape_expand(const bb_shape *s);
bb_status bb_shape_range(const bb_shape *s);
bb_status bb_shape_constant_of_shape(const bb_shape *s);
bb_status bb_shape_shape(const bb_shape *s);
bb_status bb_shape_size(const bb_shape *s);
bb_status bb_shape_depth_space(const bb_shape *s);
bb_status bb_shape_reduce(const bb_shape *s);
bb_status bb_shape_arg(const bb_shape *s);

/** Slice parameters of one axis, clamped as ONNX says: n elements from `start` by `step`. */
typedef struct bb_slice {
    int64_t start, step, n;
} bb_slice;
/** Slices of all axes of a Slice node with known starts, ends, axes, steps; dims known on the
 * sliced axes (else n = -1). False where the parameters are not known. */
bool bb_slice_resolve(const bb_shape *s, bb_slice slices[BB_MAX_RANK], bb_status *status);
/** Axes of a Reduce*, Squeeze or Unsqueeze given as input 1 (or all where empty) as a mask. */
bool bb_axes_mask(const bb_shape *s, int rank, unsigned *mask, bb_status *status);
/** Pads per axis of a Pad node: begin[axis], end[axis]. False where they are not known. */
bool bb_pad_resolve(const bb_shape *s, int64_t *begin, int64_t *end, bb_status *status);

#endif
