/* SPDX-License-Identifier: Apache-2.0 */
/* Nodes that change nothing. */
#include "graph/shape.h"
#include "passes/rewrite.h"
#include <string.h>

static bool same_dims(const bb_value *a, const bb_value *b, int unknown_allowed) {
    if (a->rank < 0 || a->rank != b->rank)
        return false;
    for (int i = 0; i < a->rank; i++)
        if (a->dims[i] != b->dims[i] || (a->dims[i] < 0 && unknown_allowed-- <= 0))
            return false;
    return true;
}

static bool ints_are(const bb_value *value, int64_t wanted, bool at_least) {
    int64_t v[2 * BB_MAX_RANK];
    size_t n;
    if (!value || !bb_value_ints(value, v, BB_COUNT(v), &n))
        return false;
    for (size_t i = 0; i < n; i++)
        if (at_least ? v[i] < wanted : v[i] != wanted)
            return false;
    return true;
}

static bool identity_permutation(const bb_node *node, int rank) {
    int64_t perm[BB_MAX_RANK];
    if (!bb_node_attr(node, "perm"))
        return rank < 2;
    bb_node_ints(node, "perm", perm, BB_MAX_RANK, 0);
    for (int i = 0; i < rank; i++)
        if (perm[i] != i)
            return false;
    return true;
}

static bool changes_nothing(const bb_graph *graph, const bb_node *node) {
    const bb_value *x = bb_node_input(graph, node, 0), *y = &graph->values[node->out[0]];
    if (!x)
        return false;
    switch (node->op) {
    case BB_OP_IDENTITY:
        return true;
    case BB_OP_DROPOUT:
        return node->n_out < 2 || node->out[1] < 0 || bb_graph_uses(graph, node->out[1]) == 0;
    case BB_OP_CAST:
        return x->dtype == y->dtype;
    case BB_OP_CLIP:
        return !bb_node_has_input(node, 1) && !bb_node_has_input(node, 2);
    case BB_OP_CONCAT:
    case BB_OP_SUM:
    case BB_OP_MEAN:
    case BB_OP_MAX:
    case BB_OP_MIN:
        return node->n_in == 1;
    case BB_OP_RESHAPE: /* the same number of elements: one dim may be unknown */
    case BB_OP_FLATTEN:
    case BB_OP_SQUEEZE:
    case BB_OP_UNSQUEEZE:
        return same_dims(x, y, 1);
    case BB_OP_EXPAND:
    case BB_OP_TILE:
        return same_dims(x, y, 0);
    case BB_OP_SLICE:
        return same_dims(x, y, 0) &&
               (!bb_node_has_input(node, 4) || ints_are(bb_node_input(graph, node, 4), 1, true));
    case BB_OP_PAD:
        return ints_are(bb_node_input(graph, node, 1), 0, false);
    case BB_OP_TRANSPOSE:
        return x->rank >= 0 && identity_permutation(node, x->rank);
    default:
        return false;
    }
}

static bb_status remove_identity(bb_graph *graph, size_t index, bool *changed, bb_error *err) {
    bb_node *node = &graph->nodes[index];
    (void)err;
    if (changes_nothing(graph, node) && bb_bypass(graph, node, node->in[0]))
        *changed = true;
    return BB_STATUS_OK;
}

bb_status bb_pass_remove_identities(bb_graph *graph, bb_error *err) {
    bool changed = false;
    return bb_apply(graph, remove_identity, &changed, err);
}
