/* SPDX-License-Identifier: Apache-2.0 */
/* A max pool in front of a quantizer is moved behind it: the maximum commutes with every function
 * that never falls, and behind the quantizer it works on codes. */
#include "lower/lowbit.h"

static bool all_positive(const bb_value *k) {
    size_t n;
    if (!k || !k->data || k->dtype != BB_DTYPE_F32 || !bb_value_elements(k, &n))
        return false;
    for (size_t i = 0; i < n; i++)
        if (!(((const float *)k->data)[i] > 0))
            return false;
    return true;
}

static bool is_constant(const bb_graph *graph, const bb_node *node, int i) {
    const bb_value *v = bb_node_input(graph, node, i);
    return v && bb_value_is_constant(v);
}

/* Ends a chain: gives few values. */
static bool quantizes(bb_op op) {
    return op == BB_OP_QONNX_QUANT || op == BB_OP_QONNX_BIPOLAR_QUANT ||
           op == BB_OP_QONNX_MULTI_THRESHOLD || op == BB_OP_DEQUANTIZE_LINEAR || op == BB_OP_SIGN ||
           op == BB_OP_ROUND;
}

/* Never falls with input 0, in any channel. Constants per element of the image would not be. */
static bool never_falls(const bb_graph *graph, const bb_node *node) {
    for (int i = 1; i < node->n_in; i++)
        if (node->in[i] >= 0 && !is_constant(graph, node, i))
            return false;
    switch (node->op) {
    case BB_OP_RELU:
    case BB_OP_CLIP:
    case BB_OP_ROUND:
    case BB_OP_SIGN:
    case BB_OP_FLOOR:
    case BB_OP_CEIL:
    case BB_OP_IDENTITY:
        return true;
    case BB_OP_QUANTIZE_LINEAR:
    case BB_OP_DEQUANTIZE_LINEAR:
    case BB_OP_QONNX_QUANT:
    case BB_OP_QONNX_BIPOLAR_QUANT:
        return all_positive(bb_node_input(graph, node, 1));
    case BB_OP_QONNX_MULTI_THRESHOLD:
        return bb_node_float(node, "out_scale", 1.0f) > 0;
    case BB_OP_BATCH_NORMALIZATION:
    case BB_OP_MUL:
    case BB_OP_DIV:
        return all_positive(bb_node_input(graph, node, 1));
    case BB_OP_ADD:
    case BB_OP_SUB:
        /* One number or one per channel: an image-sized constant would be pooled with it. */
        return bb_node_input(graph, node, 1)->rank <= 3;
    default:
        return false;
    }
}

/* The chain of such nodes that alone uses the pool's result; its last quantizer, or -1. */
static int last_quantizer(const bb_graph *graph, const bb_node *pool, int *first) {
    int value = pool->out[0], found = -1;
    *first = bb_sole_consumer(graph, value);
    for (int c = *first; c >= 0; c = bb_sole_consumer(graph, value)) {
        const bb_node *node = &graph->nodes[c];
        if (node->in[0] != value || !never_falls(graph, node))
            break;
        if (quantizes(node->op))
            found = c;
        value = node->out[0];
    }
    return found;
}

/* Of the values along the chain, which are inferred again. */
static void forget_shapes(bb_graph *graph, int value, int last) {
    graph->values[value].rank = -1;
    while (value != last) {
        value = graph->nodes[bb_sole_consumer(graph, value)].out[0];
        graph->values[value].rank = -1;
    }
}

bb_status bb_lb_move_pools(bb_graph *graph, bb_error *err) {
    for (size_t i = 0; i < graph->n_nodes; i++) {
        bb_node *pool = &graph->nodes[i];
        if (pool->op != BB_OP_MAX_POOL && pool->op != BB_OP_GLOBAL_MAX_POOL)
            continue;
        int producer = graph->values[pool->in[0]].producer, first;
        int last = producer >= 0 && !quantizes(graph->nodes[producer].op)
                       ? last_quantizer(graph, pool, &first)
                       : -1;
        if (last < 0)
            continue;
        /* in -> pool -> first ... last -> codes becomes in -> first ... last -> pooled -> pool. */
        int in = pool->in[0], pooled = pool->out[0], codes = graph->nodes[last].out[0];
        forget_shapes(graph, pooled, codes);
        bb_graph_replace_value(graph, codes, pooled);
        graph->nodes[first].in[0] = in;
        pool->in[0] = codes;
        BB_TRY(bb_graph_link(graph, err));
        BB_TRY(bb_graph_infer_shapes(graph, NULL, 0, err));
        i = (size_t)-1; /* nodes were sorted anew */
    }
    return BB_STATUS_OK;
}
