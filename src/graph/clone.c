/* SPDX-License-Identifier: Apache-2.0 */
#include "graph/graph.h"
#include <string.h>

static void *copy_array(bb_arena *arena, const void *from, size_t n, size_t size) {
    void *to = bb_arena_array(arena, n, size);
    if (to && n)
        memcpy(to, from, n * size);
    return to;
}

static bool copy_nodes(bb_graph *to, const bb_graph *from) {
    to->nodes = copy_array(to->arena, from->nodes, from->n_nodes, sizeof(*from->nodes));
    for (size_t i = 0; to->nodes && i < from->n_nodes; i++) {
        const bb_node *node = &from->nodes[i];
        bb_node *copy = &to->nodes[i];
        copy->in = copy_array(to->arena, node->in, (size_t)node->n_in, sizeof(*node->in));
        copy->out = copy_array(to->arena, node->out, (size_t)node->n_out, sizeof(*node->out));
        copy->attrs = copy_array(to->arena, node->attrs, node->n_attrs, sizeof(*node->attrs));
        if (!copy->in || !copy->out || !copy->attrs)
            return false;
    }
    return to->nodes != NULL;
}

bb_graph *bb_graph_clone(const bb_graph *graph) {
    bb_graph *copy = bb_graph_create();
    if (!copy)
        return NULL;
    bb_arena *arena = copy->arena;
    *copy = *graph;
    copy->arena = arena;
    copy->cap_values = graph->n_values;
    copy->cap_nodes = graph->n_nodes;
    copy->values = copy_array(arena, graph->values, graph->n_values, sizeof(*graph->values));
    copy->inputs = copy_array(arena, graph->inputs, graph->n_inputs, sizeof(*graph->inputs));
    copy->outputs = copy_array(arena, graph->outputs, graph->n_outputs, sizeof(*graph->outputs));
    if (copy->values && copy->inputs && copy->outputs && copy_nodes(copy, graph))
        return copy;
    bb_graph_destroy(copy);
    return NULL;
}
