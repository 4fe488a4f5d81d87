/* SPDX-License-Identifier: Apache-2.0 */
/* Matrix products with constant matrices -> Gemm with plain attributes. */
#include "passes/rewrite.h"
#include <string.h>

static bool swaps_two_axes(const bb_graph *graph, const bb_node *node) {
    int64_t perm[2];
    bb_node_ints(node, "perm", perm, 2, -1);
    return node->op == BB_OP_TRANSPOSE && graph->values[node->out[0]].rank == 2 &&
           (!bb_node_attr(node, "perm") || (perm[0] == 1 && perm[1] == 0));
}

/* The matrix behind `value`: itself, or what a Transpose of a weight reads. -1: not a weight. */
static int weight_matrix(const bb_graph *graph, int value, bool *transposed) {
    const bb_node *before = bb_producer(graph, value);
    *transposed = before && swaps_two_axes(graph, before) && bb_is_weight(graph, before->in[0]);
    if (*transposed)
        return before->in[0];
    return bb_is_weight(graph, value) ? value : -1;
}

static bb_status matmul_to_gemm(bb_graph *graph, bb_node *node, bool *changed, bb_error *err) {
    bool transposed;
    int matrix = weight_matrix(graph, node->in[1], &transposed);
    if (matrix < 0 || graph->values[node->in[0]].rank != 2 || graph->values[matrix].rank != 2)
        return BB_STATUS_OK;
    int in[2] = {node->in[0], matrix};
    if (!bb_turn_into(graph, node, BB_OP_GEMM, 2, in) ||
        !bb_node_set_int(graph, node, "transB", transposed))
        return bb_fail_memory(err, node->name);
    *changed = true;
    return BB_STATUS_OK;
}

static bool is_float_constant(const bb_graph *graph, int value) {
    return value >= 0 && graph->values[value].data && graph->values[value].dtype == BB_DTYPE_F32;
}

/* alpha * B, transposed to [outputs][inputs]. */
static int plain_matrix(bb_graph *graph, const bb_node *node, double alpha) {
    const bb_value b = graph->values[node->in[1]];
    bool trans = bb_node_int(node, "transB", 0) != 0;
    int64_t rows = b.dims[!trans], depth = b.dims[trans], dims[2] = {rows, depth};
    float *to;
    int value = bb_add_floats(graph, node, "weight", 2, dims, &to);
    const float *from = b.data;
    for (int64_t r = 0; value >= 0 && r < rows; r++)
        for (int64_t k = 0; k < depth; k++)
            to[r * depth + k] = (float)(alpha * from[trans ? r * depth + k : k * rows + r]);
    return value;
}

static int plain_bias(bb_graph *graph, const bb_node *node, double beta) {
    const bb_value c = graph->values[node->in[2]];
    size_t n;
    float *to;
    int value =
        bb_value_elements(&c, &n) ? bb_add_floats(graph, node, "bias", c.rank, c.dims, &to) : -1;
    for (size_t i = 0; value >= 0 && i < n; i++)
        to[i] = (float)(beta * ((const float *)c.data)[i]);
    return value;
}

static bb_status plain_gemm(bb_graph *graph, bb_node *node, bool *changed, bb_error *err) {
    double alpha = bb_node_float(node, "alpha", 1), beta = bb_node_float(node, "beta", 1);
    bool has_c = bb_node_has_input(node, 2);
    if (bb_node_int(node, "transA", 0) != 0 || !is_float_constant(graph, node->in[1]) ||
        (has_c && !is_float_constant(graph, node->in[2])) ||
        (bb_node_int(node, "transB", 0) != 0 && alpha == 1 && beta == 1))
        return BB_STATUS_OK;
    int in[3] = {node->in[0], plain_matrix(graph, node, alpha), -1};
    in[2] = has_c ? plain_bias(graph, node, beta) : -1;
    if (in[1] < 0 || (has_c && in[2] < 0) ||
        !bb_turn_into(graph, node, BB_OP_GEMM, has_c ? 3 : 2, in) ||
        !bb_node_set_int(graph, node, "transB", 1))
        return bb_fail_memory(err, node->name);
    *changed = true;
    return BB_STATUS_OK;
}

/* Transpose of a quantized weight before a Gemm. */
static bb_status gemm_of_transposed(bb_graph *graph, bb_node *node, bool *changed, bb_error *err) {
    bool transposed;
    int matrix = weight_matrix(graph, node->in[1], &transposed);
    if (matrix < 0 || !transposed)
        return BB_STATUS_OK;
    int *in = bb_arena_array(graph->arena, (size_t)node->n_in, sizeof(*in));
    if (!in || !bb_node_set_int(graph, node, "transB", bb_node_int(node, "transB", 0) == 0))
        return bb_fail_memory(err, node->name);
    memcpy(in, node->in, (size_t)node->n_in * sizeof(*in));
    in[1] = matrix;
    node->in = in;
    *changed = true;
    return BB_STATUS_OK;
}

bb_status bb_rewrite_matmul(bb_graph *graph, size_t index, bool *changed, bb_error *err) {
    bb_node *node = &graph->nodes[index];
    if (node->op == BB_OP_MATMUL)
        BB_TRY(matmul_to_gemm(graph, node, changed, err));
    if (node->op != BB_OP_GEMM)
        return BB_STATUS_OK;
    BB_TRY(gemm_of_transposed(graph, node, changed, err));
    return plain_gemm(graph, node, changed, err);
}
