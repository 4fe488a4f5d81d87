/* SPDX-License-Identifier: Apache-2.0 */
/* Cutting a sub-network out of a graph. */
#include "graph/graph.h"

static bb_status find_values(bb_graph *graph, const char *const *names, size_t n, int **indices,
                             bb_error *err) {
    *indices = bb_arena_array(graph->arena, n, sizeof(**indices));
    if (!*indices)
        return bb_fail_memory(err, "graph extraction");
    for (size_t i = 0; i < n; i++) {
        (*indices)[i] = bb_graph_find_value(graph, names[i]);
        if ((*indices)[i] < 0)
            return bb_fail(err, BB_STATUS_NOT_FOUND, "%s: there is no tensor '%s'", graph->name,
                           names[i]);
        for (size_t k = 0; k < i; k++)
            if ((*indices)[k] == (*indices)[i])
                return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "%s: tensor '%s' is named twice",
                               graph->name, names[i]);
    }
    return BB_STATUS_OK;
}

/* Nodes no longer produce what now comes from outside. */
static void detach_inputs(bb_graph *graph, const int *inputs, size_t n) {
    for (size_t i = 0; i < n; i++) {
        int producer = graph->values[inputs[i]].producer;
        graph->values[inputs[i]].data = NULL;
        if (producer < 0)
            continue;
        bb_node *node = &graph->nodes[producer];
        for (int k = 0; k < node->n_out; k++)
            if (node->out[k] == inputs[i])
                node->out[k] = -1;
    }
}

bb_status bb_graph_extract(bb_graph *graph, const char *const *inputs, size_t n_inputs,
                           const char *const *outputs, size_t n_outputs, bb_error *err) {
    int *in = graph->inputs, *out = graph->outputs;
    if (n_inputs)
        BB_TRY(find_values(graph, inputs, n_inputs, &in, err));
    if (n_outputs)
        BB_TRY(find_values(graph, outputs, n_outputs, &out, err));
    if (n_inputs) {
        detach_inputs(graph, in, n_inputs);
        graph->inputs = in;
        graph->n_inputs = n_inputs;
    }
    if (n_outputs) {
        graph->outputs = out;
        graph->n_outputs = n_outputs;
    }
    return bb_graph_link(graph, err);
}
