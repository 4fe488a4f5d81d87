/* SPDX-License-Identifier: Apache-2.0 */
/* Building and reading graphs. */
#include "graph/graph.h"
#include <string.h>

bb_graph *bb_graph_create(void) {
    bb_arena *arena = bb_arena_create();
    if (!arena)
        return NULL;
    bb_graph *graph = bb_arena_alloc(arena, sizeof(*graph));
    if (!graph) {
        bb_arena_destroy(arena);
        return NULL;
    }
    graph->arena = arena;
    graph->name = "graph";
    return graph;
}

void bb_graph_destroy(bb_graph *graph) {
    if (graph)
        bb_arena_destroy(graph->arena);
}

/* Room for one more element; what is outgrown stays in the arena, at most as much again. */
static void *grow(bb_arena *arena, void *old, size_t n, size_t *capacity, size_t size) {
    if (n < *capacity)
        return old;
    size_t more = *capacity ? 2 * *capacity : 32;
    void *array = bb_arena_array(arena, more, size);
    if (!array)
        return NULL;
    if (n)
        memcpy(array, old, n * size);
    *capacity = more;
    return array;
}

int bb_graph_add_value(bb_graph *graph, const char *name, bb_dtype dtype, int rank,
                       const int64_t *dims) {
    const char *copy = bb_arena_strdup(graph->arena, name);
    bb_value *values =
        grow(graph->arena, graph->values, graph->n_values, &graph->cap_values, sizeof(*values));
    if (!copy || !values || graph->n_values >= INT32_MAX)
        return -1;
    graph->values = values;
    bb_value *value = &values[graph->n_values];
    *value = (bb_value){.name = copy, .dtype = dtype, .rank = rank, .producer = -1};
    for (int i = 0; i < rank; i++)
        value->dims[i] = dims[i];
    return (int)graph->n_values++;
}

int bb_graph_add_constant(bb_graph *graph, const char *name, bb_dtype dtype, int rank,
                          const int64_t *dims, void **data) {
    size_t n;
    if (!bb_dims_product(dims, (size_t)rank, &n))
        return -1;
    void *buffer = bb_arena_array(graph->arena, n, bb_dtype_size(dtype));
    int index = buffer ? bb_graph_add_value(graph, name, dtype, rank, dims) : -1;
    if (index < 0)
        return -1;
    graph->values[index].data = buffer;
    *data = buffer;
    return index;
}

static int *copy_indices(bb_graph *graph, int n, const int *indices) {
    int *copy = bb_arena_array(graph->arena, (size_t)n, sizeof(*copy));
    if (copy && n)
        memcpy(copy, indices, (size_t)n * sizeof(*copy));
    return copy;
}

int bb_graph_add_node(bb_graph *graph, const char *name, bb_op op, int n_in, const int *in,
                      int n_out, const int *out) {
    bb_node *nodes =
        grow(graph->arena, graph->nodes, graph->n_nodes, &graph->cap_nodes, sizeof(*nodes));
    bb_node node = {.op = op, .n_in = n_in, .n_out = n_out};
    node.name = name && *name
                    ? bb_arena_strdup(graph->arena, name)
                    : bb_arena_printf(graph->arena, "%s_%zu", bb_op_name(op), graph->n_nodes);
    node.in = copy_indices(graph, n_in, in);
    node.out = copy_indices(graph, n_out, out);
    if (!nodes || !node.name || !node.in || !node.out || graph->n_nodes >= INT32_MAX)
        return -1;
    graph->nodes = nodes;
    nodes[graph->n_nodes] = node;
    for (int i = 0; i < n_out; i++)
        if (out[i] >= 0)
            graph->values[out[i]].producer = (int)graph->n_nodes;
    return (int)graph->n_nodes++;
}

int bb_graph_find_value(const bb_graph *graph, const char *name) {
    for (size_t i = 0; i < graph->n_values; i++)
        if (strcmp(graph->values[i].name, name) == 0)
            return (int)i;
    return -1;
}

bool bb_node_has_input(const bb_node *node, int i) {
    return i < node->n_in && node->in[i] >= 0;
}

const bb_value *bb_node_input(const bb_graph *graph, const bb_node *node, int i) {
    return bb_node_has_input(node, i) ? &graph->values[node->in[i]] : NULL;
}

bool bb_value_is_constant(const bb_value *value) {
    return value && value->data;
}

bool bb_value_elements(const bb_value *value, size_t *n) {
    return value->rank >= 0 && bb_dims_product(value->dims, (size_t)value->rank, n);
}

static int64_t int_element(const void *data, bb_dtype dtype, size_t i) {
    switch (dtype) {
    case BB_DTYPE_I64:
        return ((const int64_t *)data)[i];
    case BB_DTYPE_I32:
        return ((const int32_t *)data)[i];
    case BB_DTYPE_I16:
        return ((const int16_t *)data)[i];
    case BB_DTYPE_U16:
        return ((const uint16_t *)data)[i];
    case BB_DTYPE_I8:
    case BB_DTYPE_I4:
        return ((const int8_t *)data)[i];
    default:
        return ((const uint8_t *)data)[i];
    }
}

bool bb_value_ints(const bb_value *value, int64_t *out, size_t max, size_t *n) {
    size_t count;
    if (!bb_value_is_constant(value) || bb_dtype_is_float(value->dtype) ||
        !bb_value_elements(value, &count) || count > max)
        return false;
    for (size_t i = 0; i < count; i++)
        out[i] = int_element(value->data, value->dtype, i);
    *n = count;
    return true;
}
