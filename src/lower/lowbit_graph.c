/* SPDX-License-Identifier: Apache-2.0 */
/* Integer operators rewritten as float ones between quantizers, constants, declared quantizers. */
#include "lower/lowbit.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

bb_status bb_lb_fail(const bb_lowbit *l, const bb_node *node, const char *why) {
    return bb_fail(l->err, BB_STATUS_UNSUPPORTED, "%s: node '%s' (%s, opset %d): %s",
                   l->graph->name, node->name, bb_op_name(node->op), l->graph->opset, why);
}

size_t bb_lb_elements(const bb_array *array) {
    size_t n = 1;
    for (int i = 0; i < array->rank; i++)
        n *= (size_t)array->dims[i];
    return n;
}

double bb_lb_element(const bb_array *array, size_t i) {
    const void *data = array->data;
    switch (array->dtype) {
    case BB_DTYPE_F32:
        return (double)((const float *)data)[i];
    case BB_DTYPE_F64:
        return ((const double *)data)[i];
    case BB_DTYPE_I64:
        return (double)((const int64_t *)data)[i];
    case BB_DTYPE_I32:
        return (double)((const int32_t *)data)[i];
    case BB_DTYPE_I16:
        return (double)((const int16_t *)data)[i];
    case BB_DTYPE_U16:
        return (double)((const uint16_t *)data)[i];
    case BB_DTYPE_I8:
    case BB_DTYPE_I4:
        return (double)((const int8_t *)data)[i];
    case BB_DTYPE_U8:
    case BB_DTYPE_U4:
    case BB_DTYPE_BOOL:
        return (double)((const uint8_t *)data)[i];
    }
    return 0;
}

/* ---- constants ------------------------------------------------------------------------------ */

static bool evaluate_constant(bb_lowbit *l, int value) {
    const bb_value *v = &l->graph->values[value];
    bb_array *array = &l->constants[value];
    if (v->data) {
        *array = (bb_array){.dtype = v->dtype, .rank = v->rank};
        memcpy(array->dims, v->dims, sizeof(array->dims));
        memcpy(&array->data, &v->data, sizeof(array->data)); /* only read */
        return true;
    }
    if (v->producer < 0)
        return false;
    const bb_node *node = &l->graph->nodes[v->producer];
    bb_array in[BB_MAX_RANK] = {{0}}, out[2] = {{0}};
    size_t n;
    if (node->n_in > BB_MAX_RANK || node->n_out != 1 || node->n_in == 0 ||
        !bb_eval_supports(node) || !bb_value_elements(v, &n) || n > BB_MAX_VIEW)
        return false;
    for (int i = 0; i < node->n_in; i++) {
        const bb_array *k = node->in[i] < 0 ? NULL : bb_lb_constant(l, node->in[i]);
        if (node->in[i] >= 0 && !k)
            return false;
        if (k)
            in[i] = *k;
    }
    if (bb_eval_node(l->graph, node, in, out, l->graph->arena, NULL) != BB_STATUS_OK)
        return false;
    *array = out[0];
    return true;
}

const bb_array *bb_lb_constant(bb_lowbit *l, int value) {
    if (l->is_constant[value] == 0)
        l->is_constant[value] = evaluate_constant(l, value) ? 1 : 2;
    return l->is_constant[value] == 1 ? &l->constants[value] : NULL;
}

/* ---- declared quantizers -------------------------------------------------------------------- */

static bool scalar(bb_lowbit *l, const bb_node *node, int i, double absent, double *out) {
    *out = absent;
    if (!bb_node_has_input(node, i))
        return true;
    const bb_array *k = bb_lb_constant(l, node->in[i]);
    if (!k || bb_lb_elements(k) != 1)
        return false;
    *out = bb_lb_element(k, 0);
    return true;
}

static bool declared_quant(bb_lowbit *l, const bb_node *node, bb_declared *d) {
    double bits;
    if (!scalar(l, node, 1, 1, &d->scale) || !scalar(l, node, 2, 0, &d->zero) ||
        !scalar(l, node, 3, 8, &bits) || !(bits >= 1 && bits <= 16))
        return false;
    int64_t n = INT64_C(1) << (int)bits, narrow = bb_node_int(node, "narrow", 0) != 0;
    bool is_signed = bb_node_int(node, "signed", 1) != 0;
    d->low = is_signed ? -n / 2 + narrow : 0;
    d->high = is_signed ? n / 2 - 1 : n - 1 - narrow;
    bool nearest = strcmp(bb_node_string(node, "rounding_mode", "ROUND"), "ROUND") == 0;
    d->input = nearest ? node->in[0] : -1;
    return true;
}

static bool declared_bipolar(bb_lowbit *l, const bb_node *node, bb_declared *d) {
    double scale;
    if (!scalar(l, node, 1, 1, &scale))
        return false;
    *d = (bb_declared){.input = node->in[0], .scale = 2 * scale, .zero = 0.5, .low = 0, .high = 1};
    return true;
}

static bool declared_integer(bb_lowbit *l, const bb_node *node, bb_declared *d) {
    bb_dtype type = l->graph->values[node->out[0]].dtype;
    if (type == BB_DTYPE_F32)
        return false;
    bb_dtype_range(type, &d->low, &d->high);
    d->input = -1;
    d->scale = 1;
    d->zero = 0;
    return true;
}

/* DequantizeLinear of what a QuantizeLinear gives. */
static bool declared_pair(bb_lowbit *l, const bb_node *node, bb_declared *d) {
    int producer = l->graph->values[node->in[0]].producer;
    bb_dtype type = l->graph->values[node->in[0]].dtype;
    if (!scalar(l, node, 1, 1, &d->scale) || !scalar(l, node, 2, 0, &d->zero))
        return false;
    bb_dtype_range(type, &d->low, &d->high);
    d->input = -1;
    if (producer < 0 || l->graph->nodes[producer].op != BB_OP_QUANTIZE_LINEAR)
        return type != BB_DTYPE_I32;
    const bb_node *q = &l->graph->nodes[producer];
    double scale, zero;
    if (scalar(l, q, 1, 1, &scale) && scalar(l, q, 2, 0, &zero) && scale == d->scale &&
        zero == d->zero)
        d->input = q->in[0];
    return true;
}

/* Round(Clip(x, lo, hi)) with whole bounds. */
static bool declared_round(bb_lowbit *l, const bb_node *node, bb_declared *d) {
    int producer = l->graph->values[node->in[0]].producer;
    if (producer < 0 || l->graph->nodes[producer].op != BB_OP_CLIP)
        return false;
    const bb_node *clip = &l->graph->nodes[producer];
    double low, high;
    if (!scalar(l, clip, 1, -INFINITY, &low) || !scalar(l, clip, 2, INFINITY, &high) ||
        low != floor(low) || high != floor(high) || !(high - low < 65536))
        return false;
    *d =
        (bb_declared){.input = clip->in[0], .scale = 1, .low = (int64_t)low, .high = (int64_t)high};
    return true;
}

static bool declared_thresholds(bb_lowbit *l, const bb_node *node, bb_declared *d) {
    const bb_array *t = bb_lb_constant(l, node->in[1]);
    double scale = (double)bb_node_float(node, "out_scale", 1.0f);
    if (!t || t->rank != 2 || !(scale > 0))
        return false;
    *d = (bb_declared){.input = -1,
                       .scale = scale,
                       .zero = -(double)bb_node_float(node, "out_bias", 0.0f) / scale,
                       .low = 0,
                       .high = t->dims[1]};
    return true;
}

bool bb_lb_declared(bb_lowbit *l, int value, bb_declared *declared) {
    int producer = l->graph->values[value].producer;
    if (producer < 0)
        return false;
    const bb_node *node = &l->graph->nodes[producer];
    bool ok = false;
    switch (node->op) {
    case BB_OP_QONNX_QUANT:
        ok = declared_quant(l, node, declared);
        break;
    case BB_OP_QONNX_BIPOLAR_QUANT:
        ok = declared_bipolar(l, node, declared);
        break;
    case BB_OP_QUANTIZE_LINEAR:
        ok = declared_integer(l, node, declared);
        break;
    case BB_OP_DEQUANTIZE_LINEAR:
        ok = declared_pair(l, node, declared);
        break;
    case BB_OP_ROUND:
        ok = declared_round(l, node, declared);
        break;
    case BB_OP_QONNX_MULTI_THRESHOLD:
        ok = declared_thresholds(l, node, declared);
        break;
    default:
        return false;
    }
    return ok && declared->scale > 0 && isfinite(declared->scale);
}

/* ---- QLinear and integer operators ---------------------------------------------------------- */

typedef struct rewriter {
    bb_graph *graph;
    bb_node node; /* copy of the node being rewritten */
    bb_error *err;
    int counter;
} rewriter;

static int input_of(const rewriter *r, int i) {
    return bb_node_has_input(&r->node, i) ? r->node.in[i] : -1;
}

static int new_value(rewriter *r, bb_dtype type) {
    char name[64];
    snprintf(name, sizeof(name), "bitbranch_%d_%d", (int)r->graph->n_values, r->counter++);
    return bb_graph_add_value(r->graph, name, type, -1, NULL);
}

/* A new node; returns its output value or -1. */
static int new_node(rewriter *r, bb_op op, bb_dtype type, int n_in, const int *in, bool copy_attrs,
                    int64_t axis) {
    int out = new_value(r, type);
    if (out < 0)
        return -1;
    int i = bb_graph_add_node(r->graph, r->node.name, op, n_in, in, 1, &out);
    if (i < 0)
        return -1;
    bb_node *node = &r->graph->nodes[i];
    if (copy_attrs) {
        node->attrs = r->node.attrs;
        node->n_attrs = r->node.n_attrs;
    }
    if (axis >= 0 && !bb_node_set_int(r->graph, node, "axis", axis))
        return -1;
    return out;
}

static int one_constant(rewriter *r) {
    void *data;
    int value = bb_graph_add_constant(r->graph, "bitbranch_one", BB_DTYPE_F32, 0, NULL, &data);
    if (value >= 0)
        *(float *)data = 1.0f;
    return value;
}

static int dequantize(rewriter *r, int x, int scale, int zero, int64_t axis) {
    int in[3] = {x, scale < 0 ? one_constant(r) : scale, zero};
    return new_node(r, BB_OP_DEQUANTIZE_LINEAR, BB_DTYPE_F32, zero < 0 ? 2 : 3, in, false, axis);
}

/* int32 bias in units of x_scale*w_scale[c] as float numbers. */
static int float_bias(rewriter *r, int bias, int x_scale, int w_scale) {
    const bb_value *b = &r->graph->values[bias], *xs = &r->graph->values[x_scale],
                   *ws = &r->graph->values[w_scale];
    size_t n, n_scales;
    if (!b->data || !xs->data || !ws->data || b->dtype != BB_DTYPE_I32 ||
        !bb_value_elements(b, &n) || !bb_value_elements(ws, &n_scales))
        return -1;
    const int32_t *k = b->data;
    const float *scale = ws->data;
    float x = *(const float *)xs->data;
    void *data;
    int64_t dims[1] = {(int64_t)n};
    int value = bb_graph_add_constant(r->graph, "bitbranch_bias", BB_DTYPE_F32, 1, dims, &data);
    for (size_t i = 0; i < n && value >= 0; i++)
        ((float *)data)[i] =
            (float)((double)k[i] * (double)x * (double)scale[n_scales == 1 ? 0 : i]);
    return value;
}

static bb_status cannot_rewrite(const rewriter *r) {
    return bb_fail(r->err, BB_STATUS_UNSUPPORTED,
                   "%s: node '%s' (%s): its parameters are not constant", r->graph->name,
                   r->node.name, bb_op_name(r->node.op));
}

/* Replaces node i by `op` with these inputs, keeping name and output. */
static void become(rewriter *r, size_t i, bb_op op, int n_in, const int *in) {
    bb_node *node = &r->graph->nodes[i];
    node->op = op;
    node->n_attrs = 0;
    node->n_in = n_in;
    memcpy(node->in, in, (size_t)n_in * sizeof(*in));
}

static bb_status rewrite_qlinear(rewriter *r, size_t i, bool conv) {
    int x = dequantize(r, input_of(r, 0), input_of(r, 1), input_of(r, 2), -1);
    int w = dequantize(r, input_of(r, 3), input_of(r, 4), input_of(r, 5), conv ? 0 : 1);
    int in[3] = {x, w, -1}, n_in = 2;
    if (conv && input_of(r, 8) >= 0) {
        in[n_in++] = float_bias(r, input_of(r, 8), input_of(r, 1), input_of(r, 4));
        if (in[2] < 0)
            return cannot_rewrite(r);
    }
    if (x < 0 || w < 0)
        return cannot_rewrite(r);
    int y = new_node(r, conv ? BB_OP_CONV : BB_OP_MATMUL, BB_DTYPE_F32, n_in, in, conv, -1);
    if (y < 0)
        return bb_fail_memory(r->err, "the graph");
    int out[3] = {y, input_of(r, 6), input_of(r, 7)};
    become(r, i, BB_OP_QUANTIZE_LINEAR, 3, out);
    return BB_STATUS_OK;
}

static bb_status rewrite_integer(rewriter *r, size_t i, bool conv) {
    int x = dequantize(r, input_of(r, 0), -1, input_of(r, 2), -1);
    int w = dequantize(r, input_of(r, 1), -1, input_of(r, 3), conv ? 0 : 1);
    int in[2] = {x, w};
    if (x < 0 || w < 0)
        return cannot_rewrite(r);
    int y = new_node(r, conv ? BB_OP_CONV : BB_OP_MATMUL, BB_DTYPE_F32, 2, in, conv, -1);
    if (y < 0)
        return bb_fail_memory(r->err, "the graph");
    become(r, i, BB_OP_CAST, 1, &y);
    return bb_node_set_int(r->graph, &r->graph->nodes[i], "to", BB_DTYPE_I32)
               ? BB_STATUS_OK
               : bb_fail_memory(r->err, "the graph");
}

bb_status bb_lb_canonicalise(bb_graph *graph, bb_error *err) {
    rewriter r = {.graph = graph, .err = err};
    size_t n = graph->n_nodes;
    for (size_t i = 0; i < n; i++) {
        r.node = graph->nodes[i];
        /* `become` writes into the node's own input list, which others may not share. */
        int *in = bb_arena_array(graph->arena, BB_MAX_RANK + 1, sizeof(*in));
        if (!in || r.node.n_in > BB_MAX_RANK + 1)
            continue;
        memcpy(in, r.node.in, (size_t)r.node.n_in * sizeof(*in));
        r.node.in = in;
        switch (r.node.op) {
        case BB_OP_QLINEAR_CONV:
            BB_TRY(rewrite_qlinear(&r, i, true));
            break;
        case BB_OP_QLINEAR_MATMUL:
            BB_TRY(rewrite_qlinear(&r, i, false));
            break;
        case BB_OP_CONV_INTEGER:
            BB_TRY(rewrite_integer(&r, i, true));
            break;
        case BB_OP_MATMUL_INTEGER:
            BB_TRY(rewrite_integer(&r, i, false));
            break;
        default:
            break;
        }
    }
    BB_TRY(bb_graph_link(graph, err));
    return bb_graph_infer_shapes(graph, NULL, 0, err);
}
