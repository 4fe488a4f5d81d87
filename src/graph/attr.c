/* SPDX-License-Identifier: Apache-2.0 */
/* Node attributes. */
#include "graph/graph.h"
#include <string.h>

const bb_attr *bb_node_attr(const bb_node *node, const char *attr) {
    for (size_t i = 0; i < node->n_attrs; i++)
        if (strcmp(node->attrs[i].name, attr) == 0)
            return &node->attrs[i];
    return NULL;
}

static const bb_attr *attr_of_type(const bb_node *node, const char *name, bb_attr_type type) {
    const bb_attr *attr = bb_node_attr(node, name);
    return attr && attr->type == type ? attr : NULL;
}

int64_t bb_node_int(const bb_node *node, const char *attr, int64_t absent) {
    const bb_attr *a = attr_of_type(node, attr, BB_ATTR_INT);
    return a ? a->i : absent;
}

float bb_node_float(const bb_node *node, const char *attr, float absent) {
    const bb_attr *a = attr_of_type(node, attr, BB_ATTR_FLOAT);
    return a ? a->f : absent;
}

const char *bb_node_string(const bb_node *node, const char *attr, const char *absent) {
    const bb_attr *a = attr_of_type(node, attr, BB_ATTR_STRING);
    return a ? a->s : absent;
}

void bb_node_ints(const bb_node *node, const char *attr, int64_t *out, size_t n, int64_t absent) {
    const bb_attr *a = attr_of_type(node, attr, BB_ATTR_INTS);
    for (size_t i = 0; i < n; i++)
        out[i] = a && i < a->n ? a->ints[i] : absent;
}

/* The attribute of that name, cleared, or a new one. */
static bb_attr *attr_slot(bb_graph *graph, bb_node *node, const char *name, bb_attr_type type) {
    bb_attr *slot = (bb_attr *)(uintptr_t)bb_node_attr(node, name);
    if (!slot) {
        bb_attr *attrs = bb_arena_array(graph->arena, node->n_attrs + 1, sizeof(*attrs));
        if (!attrs)
            return NULL;
        if (node->n_attrs)
            memcpy(attrs, node->attrs, node->n_attrs * sizeof(*attrs));
        node->attrs = attrs;
        slot = &attrs[node->n_attrs];
    }
    const char *copy = bb_arena_strdup(graph->arena, name);
    if (!copy)
        return NULL;
    if (slot == &node->attrs[node->n_attrs])
        node->n_attrs++;
    *slot = (bb_attr){.name = copy, .type = type};
    return slot;
}

bool bb_node_set_int(bb_graph *graph, bb_node *node, const char *attr, int64_t value) {
    bb_attr *slot = attr_slot(graph, node, attr, BB_ATTR_INT);
    if (slot)
        slot->i = value;
    return slot != NULL;
}

bool bb_node_set_float(bb_graph *graph, bb_node *node, const char *attr, float value) {
    bb_attr *slot = attr_slot(graph, node, attr, BB_ATTR_FLOAT);
    if (slot)
        slot->f = value;
    return slot != NULL;
}

bool bb_node_set_string(bb_graph *graph, bb_node *node, const char *attr, const char *value) {
    const char *copy = bb_arena_strdup(graph->arena, value);
    bb_attr *slot = copy ? attr_slot(graph, node, attr, BB_ATTR_STRING) : NULL;
    if (slot)
        slot->s = copy;
    return slot != NULL;
}

bool bb_node_set_ints(bb_graph *graph, bb_node *node, const char *attr, const int64_t *v,
                      size_t n) {
    int64_t *copy = bb_arena_array(graph->arena, n, sizeof(*copy));
    bb_attr *slot = copy ? attr_slot(graph, node, attr, BB_ATTR_INTS) : NULL;
    if (!slot)
        return false;
    if (n)
        memcpy(copy, v, n * sizeof(*copy));
    slot->ints = copy;
    slot->n = n;
    return true;
}

bool bb_node_set_floats(bb_graph *graph, bb_node *node, const char *attr, const float *v,
                        size_t n) {
    float *copy = bb_arena_array(graph->arena, n, sizeof(*copy));
    bb_attr *slot = copy ? attr_slot(graph, node, attr, BB_ATTR_FLOATS) : NULL;
    if (!slot)
        return false;
    if (n)
        memcpy(copy, v, n * sizeof(*copy));
    slot->floats = copy;
    slot->n = n;
    return true;
}

void bb_node_remove_attr(bb_node *node, const char *attr) {
    const bb_attr *a = bb_node_attr(node, attr);
    if (!a)
        return;
    size_t at = (size_t)(a - node->attrs);
    node->n_attrs--;
    memmove(&node->attrs[at], &node->attrs[at + 1], (node->n_attrs - at) * sizeof(*node->attrs));
}
