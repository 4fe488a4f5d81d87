/* SPDX-License-Identifier: Apache-2.0 */
/* Shape inference: the table of rules, rules of elementwise operators, and the walk over a graph.
 */
#include "graph/shape.h"
#include <stdio.h>
#include <string.h>

bb_status bb_shape_fail(const bb_shape *s, const char *fmt, ...) {
    char text[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    return bb_fail(s->err, BB_STATUS_BAD_FILE, "node '%s' (%s): %s", s->node->name,
                   bb_op_name(s->node->op), text);
}

const bb_array *bb_shape_in(const bb_shape *s, int i) {
    return bb_node_has_input(s->node, i) ? &s->in[i] : NULL;
}

void bb_shape_dtype(const bb_shape *s, int i, bb_dtype dtype) {
    if (i < s->node->n_out)
        s->out[i].dtype = dtype;
}

void bb_shape_set(const bb_shape *s, int i, bb_dtype dtype, int rank, const int64_t *dims) {
    if (i >= s->node->n_out)
        return;
    s->out[i].dtype = dtype;
    s->out[i].rank = rank;
    for (int k = 0; k < rank; k++)
        s->out[i].dims[k] = dims[k];
}

void bb_shape_like(const bb_shape *s, int i, int input) {
    bb_shape_set(s, i, s->in[input].dtype, s->in[input].rank, s->in[input].dims);
}

bb_status bb_shape_axis(const bb_shape *s, int64_t axis, int rank, int *out) {
    if (axis < -rank || axis >= rank)
        return bb_shape_fail(s, "axis %lld of a tensor of rank %d", (long long)axis, rank);
    *out = (int)(axis < 0 ? axis + rank : axis);
    return BB_STATUS_OK;
}

bool bb_array_ints(const bb_array *array, int64_t *out, size_t max, size_t *n) {
    if (!array || array->rank < 0)
        return false;
    bb_value value = {.dtype = array->dtype, .rank = array->rank, .data = array->data};
    memcpy(value.dims, array->dims, sizeof(value.dims));
    return bb_value_ints(&value, out, max, n);
}

static bool merge_dim(int64_t *a, int64_t b) {
    if (*a == b || b == 1)
        return true;
    if (*a == 1 || *a < 0) {
        *a = b;
        return true;
    }
    return b < 0; /* a is neither 1 nor unknown: b must be 1 or equal to it */
}

bool bb_broadcast_dims(int64_t *dims, int *rank, const int64_t *b, int b_rank) {
    if (b_rank > *rank) {
        int shift = b_rank - *rank;
        memmove(dims + shift, dims, (size_t)*rank * sizeof(*dims));
        for (int i = 0; i < shift; i++)
            dims[i] = 1;
        *rank = b_rank;
    }
    for (int i = 0; i < b_rank; i++)
        if (!merge_dim(&dims[*rank - b_rank + i], b[i]))
            return false;
    return true;
}

/* ---- rules of elementwise operators ------------------------------------------------------ */

static bb_status need_inputs(const bb_shape *s, int n) {
    for (int i = 0; i < n; i++)
        if (!bb_shape_in(s, i))
            return bb_shape_fail(s, "input %d is missing", i);
    return BB_STATUS_OK;
}

static bb_status shape_same(const bb_shape *s) {
    bb_shape_like(s, 0, 0);
    return BB_STATUS_OK;
}

static bb_status broadcast_inputs(const bb_shape *s, int first, int last, bb_dtype dtype) {
    int64_t dims[BB_MAX_RANK];
    int rank = 0;
    bb_shape_dtype(s, 0, dtype);
    for (int i = first; i <= last; i++)
        if (!bb_shape_in(s, i) || s->in[i].rank < 0)
            return BB_STATUS_OK;
    for (int i = first; i <= last; i++)
        if (!bb_broadcast_dims(dims, &rank, s->in[i].dims, s->in[i].rank))
            return bb_shape_fail(s, "the shapes of its inputs do not broadcast");
    bb_shape_set(s, 0, dtype, rank, dims);
    return BB_STATUS_OK;
}

static bb_status same_types(const bb_shape *s, int first, int last) {
    for (int i = first + 1; i <= last; i++)
        if (s->in[i].dtype != s->in[first].dtype)
            return bb_shape_fail(s, "inputs of type %s and %s", bb_dtype_name(s->in[first].dtype),
                                 bb_dtype_name(s->in[i].dtype));
    return BB_STATUS_OK;
}

static bb_status shape_variadic(const bb_shape *s) {
    BB_TRY(need_inputs(s, s->node->n_in));
    BB_TRY(same_types(s, 0, s->node->n_in - 1));
    return broadcast_inputs(s, 0, s->node->n_in - 1, s->in[0].dtype);
}

static bb_status shape_pow(const bb_shape *s) {
    return broadcast_inputs(s, 0, 1, s->in[0].dtype);
}

static bb_status shape_compare(const bb_shape *s) {
    BB_TRY(same_types(s, 0, 1));
    return broadcast_inputs(s, 0, 1, BB_DTYPE_BOOL);
}

static bb_status shape_where(const bb_shape *s) {
    BB_TRY(same_types(s, 1, 2));
    return broadcast_inputs(s, 0, 2, s->in[1].dtype);
}

static bb_status shape_prelu(const bb_shape *s) {
    int rank = s->in[0].rank;
    BB_TRY(broadcast_inputs(s, 0, 1, s->in[0].dtype));
    if (rank >= 0 && s->in[1].rank > rank)
        return bb_shape_fail(s, "the slope has more dimensions than the input");
    for (int i = 0; i < s->in[1].rank && rank >= 0; i++) {
        int64_t own = s->in[0].dims[rank - s->in[1].rank + i], slope = s->in[1].dims[i];
        if (slope > 1 && own >= 0 && own != slope)
            return bb_shape_fail(s, "the slope does not fit the input");
    }
    bb_shape_like(s, 0, 0);
    return BB_STATUS_OK;
}

static bb_status shape_dropout(const bb_shape *s) {
    bb_shape_like(s, 0, 0);
    bb_shape_set(s, 1, BB_DTYPE_BOOL, s->in[0].rank, s->in[0].dims);
    return BB_STATUS_OK;
}

static bb_status shape_cast(const bb_shape *s) {
    int64_t to = bb_node_int(s->node, "to", -1);
    if (to < 0 || to > BB_DTYPE_BOOL)
        return bb_shape_fail(s, "attribute to is missing");
    bb_shape_set(s, 0, (bb_dtype)to, s->in[0].rank, s->in[0].dims);
    return BB_STATUS_OK;
}

/* Scale: one number, one per index of `axis`, or (with block_size) one per block along it. */
static bb_status check_scale(const bb_shape *s, const bb_array *x, const bb_array *scale) {
    int64_t block = bb_node_int(s->node, "block_size", 0);
    if (x->rank < 0 || scale->rank < 0)
        return BB_STATUS_OK;
    int64_t first = scale->rank ? scale->dims[0] : 1;
    if (scale->rank == 0 || (scale->rank == 1 && block == 0 && first == 1))
        return BB_STATUS_OK;
    int axis = 0;
    BB_TRY(bb_shape_axis(s, bb_node_int(s->node, "axis", 1), x->rank, &axis));
    if (block == 0) {
        if (scale->rank != 1 || (first >= 0 && x->dims[axis] >= 0 && first != x->dims[axis]))
            return bb_shape_fail(s, "the scale does not fit axis %d", axis);
        return BB_STATUS_OK;
    }
    for (int i = 0; i < x->rank; i++) {
        int64_t want = x->dims[i];
        if (scale->rank != x->rank || block < 0)
            return bb_shape_fail(s, "the scale does not fit the blocks");
        if (i == axis && want >= 0)
            want = want / block + (want % block != 0);
        if (want >= 0 && scale->dims[i] >= 0 && scale->dims[i] != want)
            return bb_shape_fail(s, "the scale does not fit the blocks");
    }
    return BB_STATUS_OK;
}

static bb_status shape_linear(const bb_shape *s) {
    bool quantize = s->node->op == BB_OP_QUANTIZE_LINEAR;
    const bb_array *x = &s->in[0], *scale = &s->in[1], *zero = bb_shape_in(s, 2);
    bb_dtype dtype = quantize ? BB_DTYPE_U8 : scale->dtype;
    if (quantize && zero)
        dtype = zero->dtype;
    else if (quantize)
        dtype = (bb_dtype)bb_node_int(s->node, "output_dtype", BB_DTYPE_U8);
    if (quantize && bb_dtype_is_float(dtype))
        return bb_shape_fail(s, "the zero point is not an integer");
    BB_TRY(check_scale(s, x, scale));
    if (zero)
        BB_TRY(check_scale(s, x, zero));
    bb_shape_set(s, 0, dtype, x->rank, x->dims);
    return BB_STATUS_OK;
}

static bb_status shape_dynamic_quantize(const bb_shape *s) {
    bb_shape_set(s, 0, BB_DTYPE_U8, s->in[0].rank, s->in[0].dims);
    bb_shape_set(s, 1, BB_DTYPE_F32, 0, NULL);
    bb_shape_set(s, 2, BB_DTYPE_U8, 0, NULL);
    return BB_STATUS_OK;
}

/* QONNX quantizers: parameters broadcast into the input. */
static bb_status shape_qonnx(const bb_shape *s) {
    const bb_array *x = &s->in[0];
    for (int i = 1; i < s->node->n_in && x->rank >= 0; i++) {
        const bb_array *p = bb_shape_in(s, i);
        bool fits = !p || p->rank <= x->rank;
        for (int k = 0; p && fits && k < p->rank; k++) {
            int64_t own = x->dims[x->rank - p->rank + k];
            fits = p->dims[k] == 1 || p->dims[k] < 0 || own < 0 || p->dims[k] == own;
        }
        if (!fits)
            return bb_shape_fail(s, "parameter %d does not broadcast into the input", i);
    }
    bb_shape_like(s, 0, 0);
    return BB_STATUS_OK;
}

static bb_status shape_multi_threshold(const bb_shape *s) {
    const bb_array *t = &s->in[1];
    if (t->rank >= 0 && t->rank != 2)
        return bb_shape_fail(s, "thresholds must have two dimensions");
    bb_shape_like(s, 0, 0);
    return BB_STATUS_OK;
}

typedef struct shape_entry {
    bb_shape_rule rule;
    int min_in;
} shape_entry;

static const shape_entry rules[BB_OP_COUNT] = {
    [BB_OP_ABS] = {shape_same, 1},
    [BB_OP_ACOS] = {shape_same, 1},
    [BB_OP_ACOSH] = {shape_same, 1},
    [BB_OP_ADD] = {shape_variadic, 2},
    [BB_OP_AND] = {shape_compare, 2},
    [BB_OP_ARGMAX] = {bb_shape_arg, 1},
    [BB_OP_ARGMIN] = {bb_shape_arg, 1},
    [BB_OP_ASIN] = {shape_same, 1},
    [BB_OP_ASINH] = {shape_same, 1},
    [BB_OP_ATAN] = {shape_same, 1},
    [BB_OP_ATANH] = {shape_same, 1},
    [BB_OP_AVERAGE_POOL] = {bb_shape_pool, 1},
    [BB_OP_BATCH_NORMALIZATION] = {bb_shape_normalization, 5},
    [BB_OP_CAST] = {shape_cast, 1},
    [BB_OP_CEIL] = {shape_same, 1},
    [BB_OP_CELU] = {shape_same, 1},
    [BB_OP_CLIP] = {shape_same, 1},
    [BB_OP_CONCAT] = {bb_shape_concat, 1},
    [BB_OP_CONSTANT_OF_SHAPE] = {bb_shape_constant_of_shape, 1},
    [BB_OP_CONV] = {bb_shape_conv, 2},
    [BB_OP_CONV_INTEGER] = {bb_shape_conv, 2},
    [BB_OP_CONV_TRANSPOSE] = {bb_shape_conv_transpose, 2},
    [BB_OP_COS] = {shape_same, 1},
    [BB_OP_COSH] = {shape_same, 1},
    [BB_OP_CUM_SUM] = {shape_same, 2},
    [BB_OP_DEPTH_TO_SPACE] = {bb_shape_depth_space, 1},
    [BB_OP_DEQUANTIZE_LINEAR] = {shape_linear, 2},
    [BB_OP_DIV] = {shape_variadic, 2},
    [BB_OP_DROPOUT] = {shape_dropout, 1},
    [BB_OP_DYNAMIC_QUANTIZE_LINEAR] = {shape_dynamic_quantize, 1},
    [BB_OP_ELU] = {shape_same, 1},
    [BB_OP_EQUAL] = {shape_compare, 2},
    [BB_OP_ERF] = {shape_same, 1},
    [BB_OP_EXP] = {shape_same, 1},
    [BB_OP_EXPAND] = {bb_shape_expand, 2},
    [BB_OP_FAKE_QUANTIZE] = {shape_same, 1},
    [BB_OP_FLATTEN] = {bb_shape_flatten, 1},
    [BB_OP_FLOOR] = {shape_same, 1},
    [BB_OP_GATHER] = {bb_shape_gather, 2},
    [BB_OP_GATHER_ELEMENTS] = {bb_shape_gather_elements, 2},
    [BB_OP_GELU] = {shape_same, 1},
    [BB_OP_GEMM] = {bb_shape_gemm, 2},
    [BB_OP_GLOBAL_AVERAGE_POOL] = {bb_shape_global_pool, 1},
    [BB_OP_GLOBAL_MAX_POOL] = {bb_shape_global_pool, 1},
    [BB_OP_GREATER] = {shape_compare, 2},
    [BB_OP_GREATER_OR_EQUAL] = {shape_compare, 2},
    [BB_OP_HARD_SIGMOID] = {shape_same, 1},
    [BB_OP_HARD_SWISH] = {shape_same, 1},
    [BB_OP_IDENTITY] = {shape_same, 1},
    [BB_OP_INSTANCE_NORMALIZATION] = {bb_shape_normalization, 3},
    [BB_OP_LAYER_NORMALIZATION] = {bb_shape_layer_normalization, 2},
    [BB_OP_LEAKY_RELU] = {shape_same, 1},
    [BB_OP_LESS] = {shape_compare, 2},
    [BB_OP_LESS_OR_EQUAL] = {shape_compare, 2},
    [BB_OP_LOG] = {shape_same, 1},
    [BB_OP_LOG_SOFTMAX] = {shape_same, 1},
    [BB_OP_LP_NORMALIZATION] = {shape_same, 1},
    [BB_OP_LRN] = {shape_same, 1},
    [BB_OP_MATMUL] = {bb_shape_matmul, 2},
    [BB_OP_MATMUL_INTEGER] = {bb_shape_matmul, 2},
    [BB_OP_MAX] = {shape_variadic, 1},
    [BB_OP_MAX_POOL] = {bb_shape_pool, 1},
    [BB_OP_MEAN] = {shape_variadic, 1},
    [BB_OP_MIN] = {shape_variadic, 1},
    [BB_OP_MISH] = {shape_same, 1},
    [BB_OP_MOD] = {shape_variadic, 2},
    [BB_OP_MUL] = {shape_variadic, 2},
    [BB_OP_NEG] = {shape_same, 1},
    [BB_OP_NOT] = {shape_same, 1},
    [BB_OP_OR] = {shape_compare, 2},
    [BB_OP_PAD] = {bb_shape_pad, 2},
    [BB_OP_POW] = {shape_pow, 2},
    [BB_OP_PRELU] = {shape_prelu, 2},
    [BB_OP_QLINEAR_CONV] = {bb_shape_conv, 8},
    [BB_OP_QLINEAR_MATMUL] = {bb_shape_matmul, 8},
    [BB_OP_QUANTIZE_LINEAR] = {shape_linear, 2},
    [BB_OP_RANGE] = {bb_shape_range, 3},
    [BB_OP_RECIPROCAL] = {shape_same, 1},
    [BB_OP_REDUCE_L1] = {bb_shape_reduce, 1},
    [BB_OP_REDUCE_L2] = {bb_shape_reduce, 1},
    [BB_OP_REDUCE_LOG_SUM] = {bb_shape_reduce, 1},
    [BB_OP_REDUCE_LOG_SUM_EXP] = {bb_shape_reduce, 1},
    [BB_OP_REDUCE_MAX] = {bb_shape_reduce, 1},
    [BB_OP_REDUCE_MEAN] = {bb_shape_reduce, 1},
    [BB_OP_REDUCE_MIN] = {bb_shape_reduce, 1},
    [BB_OP_REDUCE_PROD] = {bb_shape_reduce, 1},
    [BB_OP_REDUCE_SUM] = {bb_shape_reduce, 1},
    [BB_OP_REDUCE_SUM_SQUARE] = {bb_shape_reduce, 1},
    [BB_OP_RELU] = {shape_same, 1},
    [BB_OP_RESHAPE] = {bb_shape_reshape, 2},
    [BB_OP_RESIZE] = {bb_shape_resize, 1},
    [BB_OP_ROUND] = {shape_same, 1},
    [BB_OP_SELU] = {shape_same, 1},
    [BB_OP_SHAPE] = {bb_shape_shape, 1},
    [BB_OP_SIGMOID] = {shape_same, 1},
    [BB_OP_SIGN] = {shape_same, 1},
    [BB_OP_SIN] = {shape_same, 1},
    [BB_OP_SINH] = {shape_same, 1},
    [BB_OP_SIZE] = {bb_shape_size, 1},
    [BB_OP_SLICE] = {bb_shape_slice, 3},
    [BB_OP_SOFTMAX] = {shape_same, 1},
    [BB_OP_SOFTPLUS] = {shape_same, 1},
    [BB_OP_SOFTSIGN] = {shape_same, 1},
    [BB_OP_SPACE_TO_DEPTH] = {bb_shape_depth_space, 1},
    [BB_OP_SPLIT] = {bb_shape_split, 1},
    [BB_OP_SQRT] = {shape_same, 1},
    [BB_OP_SQUEEZE] = {bb_shape_squeeze, 1},
    [BB_OP_SUB] = {shape_variadic, 2},
    [BB_OP_SUM] = {shape_variadic, 1},
    [BB_OP_TAN] = {shape_same, 1},
    [BB_OP_TANH] = {shape_same, 1},
    [BB_OP_THRESHOLDED_RELU] = {shape_same, 1},
    [BB_OP_TILE] = {bb_shape_tile, 2},
    [BB_OP_TRANSPOSE] = {bb_shape_transpose, 1},
    [BB_OP_UNSQUEEZE] = {bb_shape_unsqueeze, 2},
    [BB_OP_WHERE] = {shape_where, 3},
    [BB_OP_XOR] = {shape_compare, 2},
    [BB_OP_QONNX_QUANT] = {shape_qonnx, 4},
    [BB_OP_QONNX_BIPOLAR_QUANT] = {shape_qonnx, 2},
    [BB_OP_QONNX_TRUNC] = {shape_qonnx, 5},
    [BB_OP_QONNX_MULTI_THRESHOLD] = {shape_multi_threshold, 2},
};

/* Every size that leaves a rule is small enough for the arithmetic of the next one. */
static bb_status check_outputs(const bb_shape *s) {
    for (int i = 0; i < s->node->n_out; i++) {
        int64_t product = 1;
        for (int k = 0; k < s->out[i].rank; k++) {
            int64_t d = s->out[i].dims[k];
            if (d > BB_MAX_DIM || (d > 0 && product > BB_MAX_ELEMENTS / d))
                return bb_fail(s->err, BB_STATUS_LIMIT, "node '%s' (%s): its output is too large",
                               s->node->name, bb_op_name(s->node->op));
            product *= d > 0 ? d : 1;
        }
    }
    return BB_STATUS_OK;
}

bb_status bb_shape_node(const bb_node *node, const bb_array *in, bb_array *out, bb_error *err) {
    bb_shape s = {node, in, out, err};
    const shape_entry *entry = &rules[node->op];
    if (!entry->rule)
        return bb_fail(err, BB_STATUS_INTERNAL, "operator %s has no shape rule",
                       bb_op_name(node->op));
    BB_TRY(need_inputs(&s, entry->min_in));
    if (node->n_out < 1)
        return bb_shape_fail(&s, "it has no outputs");
    for (int i = 0; i < node->n_out; i++) {
        out[i].rank = -1;
        out[i].dtype = in[0].dtype;
    }
    BB_TRY(entry->rule(&s));
    return check_outputs(&s);
}

/* ---- the walk over a graph ------------------------------------------------------------------ */

void bb_array_from_value(const bb_value *value, bb_array *array) {
    array->dtype = value->dtype;
    array->rank = value->rank;
    memcpy(array->dims, value->dims, sizeof(array->dims));
    array->data = (void *)(uintptr_t)value->data;
}

bb_status bb_graph_infer_node(bb_graph *graph, const bb_node *node, bb_error *err) {
    size_t n = (size_t)node->n_in + (size_t)node->n_out;
    bb_array *arrays = bb_calloc_array(n, sizeof(*arrays));
    if (!arrays)
        return bb_fail_memory(err, "shape inference");
    bb_array *in = arrays, *out = arrays + node->n_in;
    for (int i = 0; i < node->n_in; i++)
        if (node->in[i] >= 0)
            bb_array_from_value(&graph->values[node->in[i]], &in[i]);
    bb_status status = bb_shape_node(node, in, out, err);
    for (int i = 0; i < node->n_out && status == BB_STATUS_OK; i++) {
        if (node->out[i] < 0)
            continue;
        bb_value *value = &graph->values[node->out[i]];
        value->dtype = out[i].dtype;
        value->rank = out[i].rank;
        memcpy(value->dims, out[i].dims, sizeof(value->dims));
    }
    bb_free(arrays);
    return bb_error_prefix(err, status, "%s", graph->name);
}

bb_status bb_graph_infer_shapes(bb_graph *graph, const int64_t *input_dims, int rank,
                                bb_error *err) {
    if (input_dims) {
        if (graph->n_inputs == 0 || rank < 0 || rank > BB_MAX_RANK)
            return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "%s: no such input", graph->name);
        bb_value *input = &graph->values[graph->inputs[0]];
        if (input->rank >= 0 && input->rank != rank)
            return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "%s: input '%s' has rank %d, not %d",
                           graph->name, input->name, input->rank, rank);
        for (int i = 0; i < rank; i++)
            if (input_dims[i] > BB_MAX_DIM)
                return bb_fail(err, BB_STATUS_LIMIT, "%s: input '%s' is too large", graph->name,
                               input->name);
        input->rank = rank;
        memcpy(input->dims, input_dims, (size_t)rank * sizeof(*input_dims));
    }
    for (size_t i = 0; i < graph->n_nodes; i++)
        BB_TRY(bb_graph_infer_node(graph, &graph->nodes[i], err));
    return BB_STATUS_OK;
}
