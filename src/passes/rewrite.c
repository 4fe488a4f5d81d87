/* SPDX-License-Identifier: Apache-2.0 */
#include "passes/rewrite.h"
#include "graph/eval.h"
#include <string.h>

bb_node *bb_producer(const bb_graph *graph, int value) {
    int producer = value < 0 ? -1 : graph->values[value].producer;
    return producer < 0 ? NULL : &graph->nodes[producer];
}

bb_node *bb_sole_producer(const bb_graph *graph, int value, bb_op op) {
    bb_node *node = bb_producer(graph, value);
    return node && node->op == op && bb_graph_uses(graph, value) == 1 ? node : NULL;
}

bool bb_constant_number(const bb_graph *graph, int value, double *number) {
    const bb_value *v = value < 0 ? NULL : &graph->values[value];
    size_t n;
    int64_t whole;
    if (!bb_value_is_constant(v) || !bb_value_elements(v, &n) || n != 1)
        return false;
    if (v->dtype == BB_DTYPE_F32)
        *number = *(const float *)v->data;
    else if (v->dtype == BB_DTYPE_F64)
        *number = *(const double *)v->data;
    else if (bb_value_ints(v, &whole, 1, &n))
        *number = (double)whole;
    return true;
}

bool bb_is_weight(const bb_graph *graph, int value) {
    if (value < 0)
        return false;
    if (graph->values[value].data)
        return true;
    const bb_node *node = bb_producer(graph, value);
    if (!node || !bb_op_is_quantizer(node->op))
        return false;
    for (int i = 0; i < node->n_in; i++) {
        const bb_node *before = bb_producer(graph, node->in[i]);
        bool quantized = before && before->op == BB_OP_QUANTIZE_LINEAR &&
                         graph->values[before->in[0]].data; /* QuantizeLinear, DequantizeLinear */
        if (node->in[i] >= 0 && !graph->values[node->in[i]].data && !quantized)
            return false;
    }
    return true;
}

int bb_add_floats(bb_graph *graph, const bb_node *node, const char *what, int rank,
                  const int64_t *dims, float **data) {
    const char *name = bb_arena_printf(graph->arena, "%s.%s", node->name, what);
    void *buffer;
    int value = name ? bb_graph_add_constant(graph, name, BB_DTYPE_F32, rank, dims, &buffer) : -1;
    if (value >= 0)
        *data = buffer;
    return value;
}

bool bb_turn_into(bb_graph *graph, bb_node *node, bb_op op, int n_in, const int *in) {
    int *copy = bb_arena_array(graph->arena, (size_t)n_in, sizeof(*copy));
    if (!copy)
        return false;
    memcpy(copy, in, (size_t)n_in * sizeof(*copy));
    node->op = op;
    node->n_in = n_in;
    node->in = copy;
    node->n_attrs = 0;
    node->attrs = NULL;
    return true;
}

static bool is_graph_output(const bb_graph *graph, int value) {
    for (size_t i = 0; i < graph->n_outputs; i++)
        if (graph->outputs[i] == value)
            return true;
    return false;
}

bool bb_bypass(bb_graph *graph, bb_node *node, int value) {
    int result = node->out[0];
    if (value < 0 || result < 0)
        return false;
    if (!is_graph_output(graph, result)) {
        node->out[0] = -1;
        node->n_in = 0; /* it no longer counts as a reader */
        graph->values[result].producer = -1;
        bb_graph_replace_value(graph, result, value);
        return true;
    }
    bb_node *source = bb_producer(graph, value);
    if (!source || is_graph_output(graph, value))
        return false;
    int index = graph->values[value].producer;
    node->out[0] = -1;
    node->n_in = 0;
    for (int i = 0; i < source->n_out; i++)
        if (source->out[i] == value)
            source->out[i] = result;
    bb_graph_replace_value(graph, value, result);
    graph->values[result].producer = index;
    graph->values[value].producer = -1;
    return true;
}

bb_status bb_apply(bb_graph *graph, bb_rewrite rewrite, bool *changed, bb_error *err) {
    size_t n = graph->n_nodes;
    for (size_t i = 0; i < n; i++)
        if (graph->nodes[i].n_out > 0 && graph->nodes[i].out[0] >= 0)
            BB_TRY(rewrite(graph, i, changed, err));
    return bb_graph_link(graph, err);
}
