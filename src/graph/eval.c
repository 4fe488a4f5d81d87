/* SPDX-License-Identifier: Apache-2.0 */
/* Evaluation of one node: the table of rules, element access, walks. */
#include "graph/eval_internal.h"
#include <math.h>
#include <string.h>

bb_status bb_eval_fail(const bb_eval *e, const char *why) {
    return bb_fail(e->err, BB_STATUS_BAD_FILE, "node '%s' (%s): %s", e->node->name,
                   bb_op_name(e->node->op), why);
}

const bb_array *bb_eval_in(const bb_eval *e, int i) {
    return bb_node_has_input(e->node, i) && e->in[i].data ? &e->in[i] : NULL;
}

bb_shape bb_eval_shape(const bb_eval *e) {
    return (bb_shape){e->node, e->in, e->out, e->err};
}

size_t bb_array_elements(const bb_array *array) {
    size_t n = 1;
    for (int i = 0; i < array->rank; i++)
        n *= (size_t)array->dims[i];
    return n;
}

void bb_array_strides(const bb_array *array, int64_t *strides) {
    int64_t stride = 1;
    for (int i = array->rank - 1; i >= 0; i--) {
        strides[i] = stride;
        stride *= array->dims[i];
    }
}

/* ---- element access -------------------------------------------------------------------------- */

static int64_t double_to_int(double v) {
    if (!(v > -0x1p63))
        return v != v ? 0 : INT64_MIN;
    return v >= 0x1p63 ? INT64_MAX : (int64_t)v;
}

int64_t bb_array_int(const bb_array *a, size_t i) {
    switch (a->dtype) {
    case BB_DTYPE_F32:
        return double_to_int(((const float *)a->data)[i]);
    case BB_DTYPE_F64:
        return double_to_int(((const double *)a->data)[i]);
    case BB_DTYPE_I64:
        return ((const int64_t *)a->data)[i];
    case BB_DTYPE_I32:
        return ((const int32_t *)a->data)[i];
    case BB_DTYPE_I16:
        return ((const int16_t *)a->data)[i];
    case BB_DTYPE_U16:
        return ((const uint16_t *)a->data)[i];
    case BB_DTYPE_I8:
    case BB_DTYPE_I4:
        return ((const int8_t *)a->data)[i];
    default:
        return ((const uint8_t *)a->data)[i];
    }
}

double bb_array_double(const bb_array *a, size_t i) {
    if (a->dtype == BB_DTYPE_F32)
        return ((const float *)a->data)[i];
    return a->dtype == BB_DTYPE_F64 ? ((const double *)a->data)[i] : (double)bb_array_int(a, i);
}

void bb_array_put_int(const bb_array *a, size_t i, int64_t v) {
    switch (a->dtype) {
    case BB_DTYPE_F32:
        ((float *)a->data)[i] = (float)v;
        break;
    case BB_DTYPE_F64:
        ((double *)a->data)[i] = (double)v;
        break;
    case BB_DTYPE_I64:
        ((int64_t *)a->data)[i] = v;
        break;
    case BB_DTYPE_I32:
        ((int32_t *)a->data)[i] = (int32_t)(uint32_t)v;
        break;
    case BB_DTYPE_I16:
    case BB_DTYPE_U16:
        ((uint16_t *)a->data)[i] = (uint16_t)v;
        break;
    case BB_DTYPE_I4:
        ((int8_t *)a->data)[i] = (int8_t)((int)(v & 15) - ((v & 8) ? 16 : 0));
        break;
    case BB_DTYPE_U4:
        ((uint8_t *)a->data)[i] = (uint8_t)(v & 15);
        break;
    case BB_DTYPE_BOOL:
        ((uint8_t *)a->data)[i] = v != 0;
        break;
    default:
        ((uint8_t *)a->data)[i] = (uint8_t)v;
        break;
    }
}

void bb_array_put_double(const bb_array *a, size_t i, double v) {
    if (a->dtype == BB_DTYPE_F32)
        ((float *)a->data)[i] = (float)v;
    else if (a->dtype == BB_DTYPE_F64)
        ((double *)a->data)[i] = v;
    else if (a->dtype == BB_DTYPE_BOOL)
        ((uint8_t *)a->data)[i] = v != 0;
    else
        bb_array_put_int(a, i, double_to_int(v));
}

/* ---- walks ----------------------------------------------------------------------------------- */

static bool mergeable(const bb_walk *w, int axis) {
    for (int k = 0; k < w->n; k++)
        if (w->strides[k][axis - 1] != w->strides[k][axis] * w->dims[axis])
            return false;
    return true;
}

static void drop_axis(bb_walk *w, int axis) {
    for (int i = axis; i + 1 < w->rank; i++) {
        w->dims[i] = w->dims[i + 1];
        for (int k = 0; k < w->n; k++)
            w->strides[k][i] = w->strides[k][i + 1];
    }
    w->rank--;
}

void bb_walk_begin(bb_walk *w) {
    for (int i = w->rank - 1; i >= 0; i--)
        if (w->dims[i] == 1)
            drop_axis(w, i);
    for (int i = w->rank - 1; i > 0; i--) {
        if (!mergeable(w, i))
            continue;
        w->dims[i - 1] *= w->dims[i];
        for (int k = 0; k < w->n; k++)
            w->strides[k][i - 1] = w->strides[k][i];
        drop_axis(w, i);
    }
    if (w->rank == 0) {
        w->rank = 1;
        w->dims[0] = 1;
        for (int k = 0; k < w->n; k++)
            w->strides[k][0] = 0;
    }
    memset(w->index, 0, sizeof(w->index));
    memset(w->offset, 0, sizeof(w->offset));
}

bool bb_walk_empty(const bb_walk *w) {
    for (int i = 0; i < w->rank; i++)
        if (w->dims[i] == 0)
            return true;
    return false;
}

bool bb_walk_next(bb_walk *w) {
    for (int i = w->rank - 2; i >= 0; i--) {
        bool more = ++w->index[i] < w->dims[i];
        int64_t by = more ? 1 : 1 - w->dims[i];
        for (int k = 0; k < w->n; k++)
            w->offset[k] += by * w->strides[k][i];
        if (more)
            return true;
        w->index[i] = 0;
    }
    return false;
}

void bb_broadcast_strides(const bb_array *a, const bb_array *out, int64_t *strides) {
    int64_t own[BB_MAX_RANK];
    bb_array_strides(a, own);
    for (int i = 0; i < out->rank; i++) {
        int k = i - (out->rank - a->rank);
        strides[i] = k >= 0 && a->dims[k] != 1 ? own[k] : 0;
    }
}

#define COPY_ROW(type)                                                                             \
    do {                                                                                           \
        type *to = (type *)dst + w->offset[0];                                                     \
        const type *from = (const type *)src + w->offset[1];                                       \
        for (int64_t i = 0; i < n; i++)                                                            \
            to[i * ds] = from[i * ss];                                                             \
    } while (0)

void bb_walk_copy(bb_walk *w, size_t element, void *dst, const void *src) {
    bb_walk_begin(w);
    if (bb_walk_empty(w))
        return;
    int64_t n = w->dims[w->rank - 1], ds = w->strides[0][w->rank - 1],
            ss = w->strides[1][w->rank - 1];
    do {
        if (ds == 1 && ss == 1)
            memcpy((char *)dst + w->offset[0] * (int64_t)element,
                   (const char *)src + w->offset[1] * (int64_t)element, (size_t)n * element);
        else if (element == 8)
            COPY_ROW(uint64_t);
        else if (element == 4)
            COPY_ROW(uint32_t);
        else if (element == 2)
            COPY_ROW(uint16_t);
        else
            COPY_ROW(uint8_t);
    } while (bb_walk_next(w));
}

/* ---- the table ------------------------------------------------------------------------------- */

static const bb_eval_rule rules[BB_OP_COUNT] = {
    [BB_OP_ABS] = bb_eval_unary,
    [BB_OP_ACOS] = bb_eval_unary,
    [BB_OP_ACOSH] = bb_eval_unary,
    [BB_OP_ADD] = bb_eval_binary,
    [BB_OP_AND] = bb_eval_compare,
    [BB_OP_ARGMAX] = bb_eval_arg,
    [BB_OP_ARGMIN] = bb_eval_arg,
    [BB_OP_ASIN] = bb_eval_unary,
    [BB_OP_ASINH] = bb_eval_unary,
    [BB_OP_ATAN] = bb_eval_unary,
    [BB_OP_ATANH] = bb_eval_unary,
    [BB_OP_CAST] = bb_eval_cast,
    [BB_OP_CEIL] = bb_eval_unary,
    [BB_OP_CELU] = bb_eval_unary,
    [BB_OP_CLIP] = bb_eval_clip,
    [BB_OP_CONCAT] = bb_eval_concat,
    [BB_OP_CONSTANT_OF_SHAPE] = bb_eval_constant_of_shape,
    [BB_OP_COS] = bb_eval_unary,
    [BB_OP_COSH] = bb_eval_unary,
    [BB_OP_CUM_SUM] = bb_eval_cum_sum,
    [BB_OP_DEPTH_TO_SPACE] = bb_eval_depth_space,
    [BB_OP_DEQUANTIZE_LINEAR] = bb_eval_dequantize,
    [BB_OP_DIV] = bb_eval_binary,
    [BB_OP_DROPOUT] = bb_eval_dropout,
    [BB_OP_DYNAMIC_QUANTIZE_LINEAR] = bb_eval_dynamic_quantize,
    [BB_OP_ELU] = bb_eval_unary,
    [BB_OP_EQUAL] = bb_eval_compare,
    [BB_OP_ERF] = bb_eval_unary,
    [BB_OP_EXP] = bb_eval_unary,
    [BB_OP_EXPAND] = bb_eval_expand,
    [BB_OP_FLATTEN] = bb_eval_copy,
    [BB_OP_FLOOR] = bb_eval_unary,
    [BB_OP_GATHER] = bb_eval_gather,
    [BB_OP_GATHER_ELEMENTS] = bb_eval_gather_elements,
    [BB_OP_GELU] = bb_eval_unary,
    [BB_OP_GREATER] = bb_eval_compare,
    [BB_OP_GREATER_OR_EQUAL] = bb_eval_compare,
    [BB_OP_HARD_SIGMOID] = bb_eval_unary,
    [BB_OP_HARD_SWISH] = bb_eval_unary,
    [BB_OP_IDENTITY] = bb_eval_copy,
    [BB_OP_LEAKY_RELU] = bb_eval_unary,
    [BB_OP_LESS] = bb_eval_compare,
    [BB_OP_LESS_OR_EQUAL] = bb_eval_compare,
    [BB_OP_LOG] = bb_eval_unary,
    [BB_OP_LP_NORMALIZATION] = bb_eval_lp_normalization,
    [BB_OP_MAX] = bb_eval_variadic,
    [BB_OP_MEAN] = bb_eval_variadic,
    [BB_OP_MIN] = bb_eval_variadic,
    [BB_OP_MISH] = bb_eval_unary,
    [BB_OP_MOD] = bb_eval_binary,
    [BB_OP_MUL] = bb_eval_binary,
    [BB_OP_NEG] = bb_eval_unary,
    [BB_OP_NOT] = bb_eval_unary,
    [BB_OP_OR] = bb_eval_compare,
    [BB_OP_PAD] = bb_eval_pad,
    [BB_OP_POW] = bb_eval_binary,
    [BB_OP_PRELU] = bb_eval_prelu,
    [BB_OP_QUANTIZE_LINEAR] = bb_eval_quantize,
    [BB_OP_RANGE] = bb_eval_range,
    [BB_OP_RECIPROCAL] = bb_eval_unary,
    [BB_OP_REDUCE_L1] = bb_eval_reduce,
    [BB_OP_REDUCE_L2] = bb_eval_reduce,
    [BB_OP_REDUCE_LOG_SUM] = bb_eval_reduce,
    [BB_OP_REDUCE_LOG_SUM_EXP] = bb_eval_reduce,
    [BB_OP_REDUCE_MAX] = bb_eval_reduce,
    [BB_OP_REDUCE_MEAN] = bb_eval_reduce,
    [BB_OP_REDUCE_MIN] = bb_eval_reduce,
    [BB_OP_REDUCE_PROD] = bb_eval_reduce,
    [BB_OP_REDUCE_SUM] = bb_eval_reduce,
    [BB_OP_REDUCE_SUM_SQUARE] = bb_eval_reduce,
    [BB_OP_RELU] = bb_eval_unary,
    [BB_OP_RESHAPE] = bb_eval_copy,
    [BB_OP_ROUND] = bb_eval_unary,
    [BB_OP_SELU] = bb_eval_unary,
    [BB_OP_SHAPE] = bb_eval_shape_of,
    [BB_OP_SIGMOID] = bb_eval_unary,
    [BB_OP_SIGN] = bb_eval_unary,
    [BB_OP_SIN] = bb_eval_unary,
    [BB_OP_SINH] = bb_eval_unary,
    [BB_OP_SIZE] = bb_eval_size,
    [BB_OP_SLICE] = bb_eval_slice,
    [BB_OP_SOFTPLUS] = bb_eval_unary,
    [BB_OP_SOFTSIGN] = bb_eval_unary,
    [BB_OP_SPACE_TO_DEPTH] = bb_eval_depth_space,
    [BB_OP_SPLIT] = bb_eval_split,
    [BB_OP_SQRT] = bb_eval_unary,
    [BB_OP_SQUEEZE] = bb_eval_copy,
    [BB_OP_SUB] = bb_eval_binary,
    [BB_OP_SUM] = bb_eval_variadic,
    [BB_OP_TAN] = bb_eval_unary,
    [BB_OP_TANH] = bb_eval_unary,
    [BB_OP_THRESHOLDED_RELU] = bb_eval_unary,
    [BB_OP_TILE] = bb_eval_tile,
    [BB_OP_TRANSPOSE] = bb_eval_transpose,
    [BB_OP_UNSQUEEZE] = bb_eval_copy,
    [BB_OP_WHERE] = bb_eval_where,
    [BB_OP_XOR] = bb_eval_compare,
    [BB_OP_QONNX_QUANT] = bb_eval_qonnx,
    [BB_OP_QONNX_BIPOLAR_QUANT] = bb_eval_qonnx,
    [BB_OP_QONNX_TRUNC] = bb_eval_qonnx,
    [BB_OP_QONNX_MULTI_THRESHOLD] = bb_eval_multi_threshold,
};

bool bb_eval_supports(const bb_node *node) {
    return rules[node->op] != NULL;
}

/* Gives output i its memory, or checks that the caller's has the right shape. */
static bb_status place_output(const bb_eval *e, int i, const bb_array *given, bb_arena *arena) {
    bb_array *out = &e->out[i];
    size_t n;
    if (out->rank < 0 || !bb_dims_product(out->dims, (size_t)out->rank, &n))
        return bb_eval_fail(e, "its output shape depends on missing data");
    out->data = given->data;
    if (!out->data) {
        out->data = bb_arena_array(arena, n, bb_dtype_size(out->dtype));
        return out->data ? BB_STATUS_OK : bb_fail_memory(e->err, e->node->name);
    }
    if (given->rank != out->rank || given->dtype != out->dtype ||
        memcmp(given->dims, out->dims, (size_t)out->rank * sizeof(*out->dims)) != 0)
        return bb_fail(e->err, BB_STATUS_INVALID_ARGUMENT,
                       "node '%s' (%s): the output given has another shape", e->node->name,
                       bb_op_name(e->node->op));
    return BB_STATUS_OK;
}

static bb_status check_inputs(const bb_eval *e) {
    for (int i = 0; i < e->node->n_in; i++) {
        bool known = e->in[i].rank >= 0;
        for (int k = 0; k < e->in[i].rank; k++)
            known = known && e->in[i].dims[k] >= 0;
        if (bb_node_has_input(e->node, i) &&
            (!known || (!e->in[i].data && e->node->op != BB_OP_SHAPE && e->node->op != BB_OP_SIZE)))
            return bb_fail(e->err, BB_STATUS_INVALID_ARGUMENT,
                           "node '%s' (%s): input %d has no data", e->node->name,
                           bb_op_name(e->node->op), i);
    }
    return BB_STATUS_OK;
}

bb_status bb_eval_node(const bb_graph *graph, const bb_node *node, const bb_array *inputs,
                       bb_array *outputs, bb_arena *arena, bb_error *err) {
    (void)graph;
    if (!rules[node->op])
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "node '%s': %s has no plain evaluation",
                       node->name, bb_op_name(node->op));
    bb_array *given = bb_alloc_array((size_t)node->n_out, sizeof(*given));
    if (!given)
        return bb_fail_memory(err, node->name);
    if (node->n_out)
        memcpy(given, outputs, (size_t)node->n_out * sizeof(*given));
    bb_eval e = {node, inputs, outputs, err};
    bb_status status = check_inputs(&e);
    if (status == BB_STATUS_OK)
        status = bb_shape_node(node, inputs, outputs, err);
    for (int i = 0; i < node->n_out && status == BB_STATUS_OK; i++)
        status = place_output(&e, i, &given[i], arena);
    if (status == BB_STATUS_OK)
        status = rules[node->op](&e);
    bb_free(given);
    return status;
}
