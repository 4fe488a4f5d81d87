/* SPDX-License-Identifier: Apache-2.0 */
/* Quantized operators of the com.microsoft domain, which ONNX Runtime's quantizer writes beside
 * QLinearConv: each is DequantizeLinear, the float operator, QuantizeLinear, and is read as that.
 */
#include "onnx/reader.h"
#include <string.h>

typedef enum layout {
    ONE_INPUT,  /* X, its scale and zero point; scale and zero point of Y */
    TWO_INPUTS, /* A with scale and zero point, B likewise; those of C */
    VARIADIC,   /* scale and zero point of Y; then each input with its own */
    GEMM        /* A, B as above, int32 C; scale and zero point of Y, absent for a float result */
} layout;

static const struct {
    const char *name;
    bb_op op;
    layout layout;
} contrib_ops[] = {
    {"QLinearAdd", BB_OP_ADD, TWO_INPUTS},
    {"QLinearMul", BB_OP_MUL, TWO_INPUTS},
    {"QLinearSigmoid", BB_OP_SIGMOID, ONE_INPUT},
    {"QLinearLeakyRelu", BB_OP_LEAKY_RELU, ONE_INPUT},
    {"QLinearSoftmax", BB_OP_SOFTMAX, ONE_INPUT},
    {"QLinearGlobalAveragePool", BB_OP_GLOBAL_AVERAGE_POOL, ONE_INPUT},
    {"QLinearAveragePool", BB_OP_AVERAGE_POOL, ONE_INPUT},
    {"QLinearConcat", BB_OP_CONCAT, VARIADIC},
    {"QGemm", BB_OP_GEMM, GEMM},
};

static int find_contrib(const char *op_type) {
    for (size_t i = 0; i < BB_COUNT(contrib_ops); i++)
        if (strcmp(contrib_ops[i].name, op_type) == 0)
            return (int)i;
    return -1;
}

bool bb_onnx_is_contrib(const char *domain, const char *op_type) {
    return domain && op_type && strcmp(domain, "com.microsoft") == 0 && find_contrib(op_type) >= 0;
}

typedef struct expansion {
    bb_onnx_reader *r;
    const char *name;
    const int *in;
    int n_in;
    bool trans_b;
} expansion;

static int input_at(const expansion *e, int i) {
    return i < e->n_in ? e->in[i] : -1;
}

static bb_status refuse(const expansion *e, const char *why) {
    return bb_fail(e->r->err, BB_STATUS_BAD_FILE, "node '%s': %s", e->name, why);
}

static bb_status add_value(const expansion *e, const char *what, int index, int *value) {
    bb_graph *graph = e->r->graph;
    const char *name = bb_arena_printf(graph->arena, "%s.%s%d", e->name, what, index);
    *value = name ? bb_graph_add_value(graph, name, BB_DTYPE_F32, -1, NULL) : -1;
    return *value < 0 ? bb_fail_memory(e->r->err, e->name) : BB_STATUS_OK;
}

static bb_status add_linear(const expansion *e, bb_op op, int64_t axis, const int in[3], int out) {
    bb_graph *graph = e->r->graph;
    int n_in = in[2] >= 0 ? 3 : 2;
    if (in[0] < 0 || in[1] < 0)
        return refuse(e, "a tensor or its scale is missing");
    int node = bb_graph_add_node(graph, graph->values[out].name, op, n_in, in, 1, &out);
    if (node < 0 || !bb_node_set_int(graph, &graph->nodes[node], "axis", axis))
        return bb_fail_memory(e->r->err, e->name);
    return BB_STATUS_OK;
}

/* The tensor at input `at`, followed by its scale and zero point, as float. */
static bb_status dequantize(const expansion *e, int at, int64_t axis, int *value) {
    int in[3] = {input_at(e, at), input_at(e, at + 1), input_at(e, at + 2)};
    BB_TRY(add_value(e, "input", at, value));
    return add_linear(e, BB_OP_DEQUANTIZE_LINEAR, axis, in, *value);
}

static const float *constant_scale(const expansion *e, int i, size_t *n) {
    int value = input_at(e, i);
    const bb_value *v = value < 0 ? NULL : &e->r->graph->values[value];
    return bb_value_is_constant(v) && v->dtype == BB_DTYPE_F32 && bb_value_elements(v, n) ? v->data
                                                                                          : NULL;
}

/* The int32 bias of QGemm has the scale of the products, scale(A)*scale(B). */
static bb_status dequantize_bias(const expansion *e, int *value) {
    size_t n_a, n_b;
    bb_graph *graph = e->r->graph;
    const float *a = constant_scale(e, 1, &n_a), *b = constant_scale(e, 4, &n_b);
    if (!a || !b || n_a != 1)
        return refuse(e, "its scales are not constant");
    int64_t dims[1] = {(int64_t)n_b};
    void *data;
    const char *name = bb_arena_printf(graph->arena, "%s.bias_scale", e->name);
    int scale = name ? bb_graph_add_constant(graph, name, BB_DTYPE_F32, n_b > 1, dims, &data) : -1;
    if (scale < 0)
        return bb_fail_memory(e->r->err, e->name);
    for (size_t i = 0; i < n_b; i++)
        ((float *)data)[i] = a[0] * b[i];
    BB_TRY(add_value(e, "input", 6, value));
    return add_linear(e, BB_OP_DEQUANTIZE_LINEAR, 0, (int[]){e->in[6], scale, -1}, *value);
}

/* Float inputs of the operator, and where scale and zero point of the result lie. */
static bb_status float_inputs(const expansion *e, layout l, int *values, int *n, int *result) {
    *n = l == ONE_INPUT ? 1 : l == VARIADIC ? (e->n_in - 2) / 3 : 2;
    *result = l == ONE_INPUT ? 3 : l == TWO_INPUTS ? 6 : l == GEMM ? 7 : 0;
    if (*n < 1)
        return refuse(e, "too few inputs");
    for (int i = 0; i < *n; i++) {
        int64_t axis = l == GEMM && i == 1 && e->trans_b ? 0 : 1;
        BB_TRY(dequantize(e, (l == VARIADIC ? 2 : 0) + 3 * i, axis, &values[i]));
    }
    if (l == GEMM && input_at(e, 6) >= 0)
        BB_TRY(dequantize_bias(e, &values[(*n)++]));
    return BB_STATUS_OK;
}

bb_status bb_onnx_expand_contrib(bb_onnx_reader *r, const char *op_type, const char *name, int n_in,
                                 const int *in, bool trans_b, int out, int *inner) {
    int which = find_contrib(op_type), n, result, y = out;
    expansion e = {r, name, in, n_in, trans_b};
    if (out < 0)
        return refuse(&e, "it has no output");
    int *values = bb_arena_array(r->graph->arena, (size_t)n_in + 3, sizeof(*values));
    if (!values)
        return bb_fail_memory(r->err, name);
    BB_TRY(float_inputs(&e, contrib_ops[which].layout, values, &n, &result));
    bool float_result = contrib_ops[which].layout == GEMM && input_at(&e, result) < 0;
    if (!float_result) {
        BB_TRY(add_value(&e, "result", 0, &y));
        int ends[3] = {y, input_at(&e, result), input_at(&e, result + 1)};
        BB_TRY(add_linear(&e, BB_OP_QUANTIZE_LINEAR, 1, ends, out));
    }
    *inner = bb_graph_add_node(r->graph, name, contrib_ops[which].op, n, values, 1, &y);
    return *inner < 0 ? bb_fail_memory(r->err, name) : BB_STATUS_OK;
}

bb_status bb_onnx_check_contrib(bb_onnx_reader *r, const bb_node *node) {
    if (bb_node_int(node, "channels_last", 0) != 0)
        return bb_fail(r->err, BB_STATUS_UNSUPPORTED, "node '%s' (%s): channels_last", node->name,
                       bb_op_name(node->op));
    if (node->op == BB_OP_SOFTMAX && bb_node_int(node, "opset", 13) < 13 &&
        bb_node_int(node, "axis", -1) != -1)
        return bb_fail(r->err, BB_STATUS_UNSUPPORTED, "node '%s' (%s): form before opset 13",
                       node->name, bb_op_name(node->op));
    if (node->op == BB_OP_GEMM && bb_node_float(node, "alpha", 1) != 1)
        return bb_fail(r->err, BB_STATUS_UNSUPPORTED, "node '%s' (%s): alpha", node->name,
                       bb_op_name(node->op));
    return BB_STATUS_OK;
}
