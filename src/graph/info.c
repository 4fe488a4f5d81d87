/* SPDX-License-Identifier: Apache-2.0 */
/* What a graph is: sizes, multiply-accumulates, whether it carries quantizers. */
#include "graph/eval.h"
#include <string.h>

bool bb_graph_is_quantized(const bb_graph *graph) {
    for (size_t i = 0; i < graph->n_nodes; i++) {
        bb_op op = graph->nodes[i].op;
        if (bb_op_is_quantizer(op) || op == BB_OP_QLINEAR_CONV || op == BB_OP_QLINEAR_MATMUL ||
            op == BB_OP_CONV_INTEGER || op == BB_OP_MATMUL_INTEGER ||
            op == BB_OP_DYNAMIC_QUANTIZE_LINEAR)
            return true;
    }
    return false;
}

/* Elements after the batch axis; 0 where some are unknown. */
static uint64_t per_image(const bb_value *value) {
    size_t n;
    if (value->rank < 1 || !bb_dims_product(value->dims + 1, (size_t)value->rank - 1, &n))
        return 0;
    return n;
}

static uint64_t multiply(uint64_t a, uint64_t b) {
    return b && a > UINT64_MAX / b ? 0 : a * b;
}

static uint64_t node_macs(const bb_graph *graph, const bb_node *node) {
    bool qlinear = node->op == BB_OP_QLINEAR_CONV || node->op == BB_OP_QLINEAR_MATMUL;
    const bb_value *x = bb_node_input(graph, node, 0),
                   *w = bb_node_input(graph, node, qlinear ? 3 : 1);
    const bb_value *y = node->n_out && node->out[0] >= 0 ? &graph->values[node->out[0]] : NULL;
    size_t taps;
    if (!x || !w || !y || w->rank < 1 || !bb_value_elements(w, &taps))
        return 0;
    switch (node->op) {
    case BB_OP_CONV:
    case BB_OP_CONV_INTEGER:
    case BB_OP_QLINEAR_CONV:
        return w->dims[0] ? multiply(per_image(y), taps / (size_t)w->dims[0]) : 0;
    case BB_OP_CONV_TRANSPOSE:
        return w->dims[0] ? multiply(per_image(x), taps / (size_t)w->dims[0]) : 0;
    case BB_OP_GEMM: {
        int64_t depth = w->rank == 2 ? w->dims[bb_node_int(node, "transB", 0) != 0] : 0;
        return multiply(per_image(y), (uint64_t)depth);
    }
    case BB_OP_MATMUL:
    case BB_OP_MATMUL_INTEGER:
    case BB_OP_QLINEAR_MATMUL:
        return multiply(per_image(y), (uint64_t)w->dims[w->rank > 1 ? w->rank - 2 : 0]);
    default:
        return 0;
    }
}

void bb_graph_info_init(bb_graph_info *info) {
    *info = (bb_graph_info){.struct_size = sizeof(*info)};
}

bb_status bb_graph_get_info(const bb_graph *graph, bb_graph_info *info, bb_error *err) {
    if (!graph || !info || info->struct_size < sizeof(*info))
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "no graph, or info was not initialised");
    info->name = graph->name;
    info->opset = graph->opset;
    info->nodes = graph->n_nodes;
    info->inputs = graph->n_inputs;
    info->outputs = graph->n_outputs;
    info->float32_bytes = graph->parameter_bytes;
    info->quantized = bb_graph_is_quantized(graph);
    memset(info->input_dims, 0, sizeof(info->input_dims));
    const bb_value *input = graph->n_inputs ? &graph->values[graph->inputs[0]] : NULL;
    for (int i = 0; input && i < input->rank && i < 4; i++)
        info->input_dims[i] = input->dims[i] < 0 ? -1 : input->dims[i];
    info->macs = 0;
    for (size_t i = 0; i < graph->n_nodes; i++)
        info->macs += node_macs(graph, &graph->nodes[i]);
    return BB_STATUS_OK;
}

/* Constants a node reads, weights behind a quantizer included; counted at every reader. */
static uint64_t node_parameters(const bb_graph *graph, const bb_node *node) {
    uint64_t total = 0;
    for (int i = 0; i < node->n_in; i++) {
        const bb_value *value = bb_node_input(graph, node, i);
        size_t n;
        if (value && !value->data && value->producer >= 0 &&
            bb_op_is_quantizer(graph->nodes[value->producer].op))
            value = bb_node_input(graph, &graph->nodes[value->producer], 0);
        if (bb_value_is_constant(value) && value->dtype != BB_DTYPE_I64 &&
            bb_value_elements(value, &n))
            total += n;
    }
    return total;
}

bb_status bb_graph_get_node(const bb_graph *graph, size_t node, bb_graph_node_info *info,
                            bb_error *err) {
    if (node >= graph->n_nodes)
        return bb_fail(err, BB_STATUS_NOT_FOUND, "%s: node %zu of %zu", graph->name, node,
                       graph->n_nodes);
    const bb_node *n = &graph->nodes[node];
    *info = (bb_graph_node_info){.name = n->name, .op = bb_op_name(n->op)};
    const bb_value *y = n->n_out && n->out[0] >= 0 ? &graph->values[n->out[0]] : NULL;
    info->out_rank = y ? y->rank : -1;
    for (int i = 0; y && i < y->rank; i++)
        info->out_dims[i] = y->dims[i];
    info->macs = node_macs(graph, n);
    info->parameters = node_parameters(graph, n);
    return BB_STATUS_OK;
}
