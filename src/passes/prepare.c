/* SPDX-License-Identifier: Apache-2.0 */
/* Passes in order, to a fixed point. */
#include "graph/eval.h"
#include "passes/rewrite.h"

static bb_status canonicalise_once(bb_graph *graph, bool *changed, bb_error *err) {
    static const bb_rewrite rewrites[] = {bb_rewrite_matmul, bb_rewrite_pool, bb_rewrite_activation,
                                          bb_rewrite_channels};
    for (size_t i = 0; i < BB_COUNT(rewrites); i++)
        BB_TRY(bb_apply(graph, rewrites[i], changed, err));
    return bb_graph_infer_shapes(graph, NULL, 0, err);
}

/* Every rewrite removes a node or moves towards a form that no rewrite leaves again; the bound only
 * guards against a mistake in that. */
enum { MAX_ROUNDS = 32 };

bb_status bb_pass_canonicalise(bb_graph *graph, bb_error *err) {
    bool changed = true;
    for (int round = 0; changed && round < MAX_ROUNDS; round++) {
        changed = false;
        BB_TRY(canonicalise_once(graph, &changed, err));
    }
    return BB_STATUS_OK;
}

static bb_status prepare(bb_graph *graph, bool quantized, bb_error *err) {
    size_t before = SIZE_MAX;
    for (int round = 0; graph->n_nodes != before && round < MAX_ROUNDS; round++) {
        before = graph->n_nodes;
        BB_TRY(bb_graph_fold_constants(graph, !quantized, err));
        BB_TRY(bb_pass_remove_identities(graph, err));
        BB_TRY(bb_pass_canonicalise(graph, err));
        if (!quantized)
            BB_TRY(bb_pass_fold_batch_norm(graph, err));
    }
    return bb_graph_infer_shapes(graph, NULL, 0, err);
}

bb_status bb_pass_prepare(bb_graph *graph, bb_error *err) {
    return prepare(graph, false, err);
}

bb_status bb_pass_prepare_quantized(bb_graph *graph, bb_error *err) {
    return prepare(graph, true, err);
}
