/* SPDX-License-Identifier: Apache-2.0 */
/* Uses, replacement, and the invariants of a graph: used nodes only, topological order. */
#include "graph/graph.h"
#include <string.h>

size_t bb_graph_uses(const bb_graph *graph, int value) {
    size_t uses = 0;
    for (size_t i = 0; i < graph->n_nodes; i++)
        for (int k = 0; k < graph->nodes[i].n_in; k++)
            uses += graph->nodes[i].in[k] == value;
    for (size_t i = 0; i < graph->n_outputs; i++)
        uses += graph->outputs[i] == value;
    return uses;
}

void bb_graph_replace_value(bb_graph *graph, int from, int to) {
    for (size_t i = 0; i < graph->n_nodes; i++)
        for (int k = 0; k < graph->nodes[i].n_in; k++)
            if (graph->nodes[i].in[k] == from)
                graph->nodes[i].in[k] = to;
    for (size_t i = 0; i < graph->n_outputs; i++)
        if (graph->outputs[i] == from)
            graph->outputs[i] = to;
}

static bool index_ok(const bb_graph *graph, int index, bool optional) {
    return index >= (optional ? -1 : 0) && (index < 0 || (size_t)index < graph->n_values);
}

static bool is_input(const bb_graph *graph, int value) {
    for (size_t i = 0; i < graph->n_inputs; i++)
        if (graph->inputs[i] == value)
            return true;
    return false;
}

/* Checks all indices and notes who produces what; each value has at most one origin. */
static bb_status set_producers(bb_graph *graph, bb_error *err) {
    for (size_t i = 0; i < graph->n_values; i++)
        graph->values[i].producer = -1;
    for (size_t i = 0; i < graph->n_nodes; i++) {
        const bb_node *node = &graph->nodes[i];
        for (int k = 0; k < node->n_in; k++)
            if (!index_ok(graph, node->in[k], true))
                return bb_fail(err, BB_STATUS_INTERNAL, "%s: node '%s' (%s): bad input index",
                               graph->name, node->name, bb_op_name(node->op));
        for (int k = 0; k < node->n_out; k++) {
            if (!index_ok(graph, node->out[k], true))
                return bb_fail(err, BB_STATUS_INTERNAL, "%s: node '%s' (%s): bad output index",
                               graph->name, node->name, bb_op_name(node->op));
            if (node->out[k] < 0)
                continue;
            bb_value *value = &graph->values[node->out[k]];
            if (value->producer >= 0 || value->data || is_input(graph, node->out[k]))
                return bb_fail(err, BB_STATUS_BAD_FILE,
                               "%s: node '%s' (%s): tensor '%s' is defined twice", graph->name,
                               node->name, bb_op_name(node->op), value->name);
            value->producer = (int)i;
        }
    }
    for (size_t i = 0; i < graph->n_outputs; i++)
        if (!index_ok(graph, graph->outputs[i], false))
            return bb_fail(err, BB_STATUS_INTERNAL, "%s: bad output index", graph->name);
    return BB_STATUS_OK;
}

static void mark_needed(const bb_graph *graph, int value, bool *needed, int *stack, size_t *depth) {
    int producer = value < 0 ? -1 : graph->values[value].producer;
    if (producer < 0 || needed[producer])
        return;
    needed[producer] = true;
    stack[(*depth)++] = producer;
}

static void find_needed(const bb_graph *graph, bool *needed, int *stack) {
    size_t depth = 0;
    for (size_t i = 0; i < graph->n_outputs; i++)
        mark_needed(graph, graph->outputs[i], needed, stack, &depth);
    while (depth > 0) {
        const bb_node *node = &graph->nodes[stack[--depth]];
        for (int k = 0; k < node->n_in; k++)
            mark_needed(graph, node->in[k], needed, stack, &depth);
    }
}

enum { NODE_NEW, NODE_OPEN, NODE_DONE };

typedef struct sorter {
    const bb_graph *graph;
    unsigned char *state;
    int *next_in; /* per node: the next input to look at */
    int *stack;
    bb_node *sorted;
    size_t n_sorted;
} sorter;

/* Depth-first from one node with an explicit stack, so that a hostile file cannot exhaust ours.
 * Visiting in file order keeps an already sorted graph as it is. */
static bb_status visit(sorter *s, int root, bb_error *err) {
    size_t depth = 0;
    if (s->state[root] == NODE_DONE)
        return BB_STATUS_OK;
    s->stack[depth++] = root;
    s->state[root] = NODE_OPEN;
    while (depth > 0) {
        int at = s->stack[depth - 1];
        const bb_node *node = &s->graph->nodes[at];
        if (s->next_in[at] == node->n_in) {
            s->state[at] = NODE_DONE;
            s->sorted[s->n_sorted++] = *node;
            depth--;
            continue;
        }
        int value = node->in[s->next_in[at]++];
        int producer = value < 0 ? -1 : s->graph->values[value].producer;
        if (producer < 0 || s->state[producer] == NODE_DONE)
            continue;
        if (s->state[producer] == NODE_OPEN)
            return bb_fail(err, BB_STATUS_BAD_FILE, "%s: node '%s' (%s) is part of a cycle",
                           s->graph->name, node->name, bb_op_name(node->op));
        s->state[producer] = NODE_OPEN;
        s->stack[depth++] = producer;
    }
    return BB_STATUS_OK;
}

static bb_status sort_nodes(bb_graph *graph, bb_arena *scratch, bb_error *err) {
    size_t n = graph->n_nodes;
    bool *needed = bb_arena_array(scratch, n, sizeof(*needed));
    sorter s = {graph,
                bb_arena_array(scratch, n, 1),
                bb_arena_array(scratch, n, sizeof(int)),
                bb_arena_array(scratch, n, sizeof(int)),
                bb_arena_array(graph->arena, n, sizeof(bb_node)),
                0};
    if (!needed || !s.state || !s.next_in || !s.stack || !s.sorted)
        return bb_fail_memory(err, "sorting the graph");
    find_needed(graph, needed, s.stack);
    for (size_t i = 0; i < n; i++)
        if (needed[i])
            BB_TRY(visit(&s, (int)i, err));
    graph->nodes = s.sorted;
    graph->cap_nodes = n;
    graph->n_nodes = s.n_sorted;
    for (size_t i = 0; i < graph->n_values; i++)
        graph->values[i].producer = -1;
    for (size_t i = 0; i < graph->n_nodes; i++)
        for (int k = 0; k < graph->nodes[i].n_out; k++)
            if (graph->nodes[i].out[k] >= 0)
                graph->values[graph->nodes[i].out[k]].producer = (int)i;
    return BB_STATUS_OK;
}

/* Everything a kept node or an output reads must come from somewhere. */
static bb_status check_sources(const bb_graph *graph, bb_error *err) {
    for (size_t i = 0; i < graph->n_nodes; i++) {
        const bb_node *node = &graph->nodes[i];
        for (int k = 0; k < node->n_in; k++) {
            const bb_value *value = bb_node_input(graph, node, k);
            if (value && value->producer < 0 && !value->data && !is_input(graph, node->in[k]))
                return bb_fail(err, BB_STATUS_BAD_FILE,
                               "%s: node '%s' (%s): nothing produces its input '%s'", graph->name,
                               node->name, bb_op_name(node->op), value->name);
        }
    }
    for (size_t i = 0; i < graph->n_outputs; i++) {
        const bb_value *value = &graph->values[graph->outputs[i]];
        if (value->producer < 0 && !value->data && !is_input(graph, graph->outputs[i]))
            return bb_fail(err, BB_STATUS_BAD_FILE, "%s: nothing produces output '%s'", graph->name,
                           value->name);
    }
    return BB_STATUS_OK;
}

bb_status bb_graph_link(bb_graph *graph, bb_error *err) {
    BB_TRY(set_producers(graph, err));
    bb_arena *scratch = bb_arena_create();
    if (!scratch)
        return bb_fail_memory(err, "sorting the graph");
    bb_status status = sort_nodes(graph, scratch, err);
    bb_arena_destroy(scratch);
    BB_TRY(status);
    return check_sources(graph, err);
}
