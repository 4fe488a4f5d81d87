/* SPDX-License-Identifier: Apache-2.0 */
/** @file small_graph.h  Graphs built by hand, for the tests of lowering and quantizing. */
#ifndef BB_SMALL_GRAPH_H
#define BB_SMALL_GRAPH_H

#include "graph/graph.h"
#include <string.h>

static inline int sg_input(bb_graph *g, const char *name, int rank, const int64_t *dims) {
    int v = bb_graph_add_value(g, name, BB_DTYPE_F32, rank, dims);
    assert_true(v >= 0);
    g->inputs = bb_arena_array(g->arena, 1, sizeof(*g->inputs));
    g->inputs[0] = v;
    g->n_inputs = 1;
    return v;
}

static inline void sg_output(bb_graph *g, int value) {
    g->outputs = bb_arena_array(g->arena, 1, sizeof(*g->outputs));
    g->outputs[0] = value;
    g->n_outputs = 1;
}

/* A node with one output of its own name. Attributes are set on graph->nodes[n_nodes - 1]. */
static inline int sg_node(bb_graph *g, bb_op op, const char *name, int n_in, const int *in) {
    int out = bb_graph_add_value(g, name, BB_DTYPE_F32, -1, NULL);
    assert_true(out >= 0 && bb_graph_add_node(g, name, op, n_in, in, 1, &out) >= 0);
    return out;
}

static inline bb_node *sg_last(bb_graph *g) {
    return &g->nodes[g->n_nodes - 1];
}

static inline int sg_constant(bb_graph *g, bb_dtype type, int rank, const int64_t *dims,
                              const void *from) {
    void *data;
    size_t n = 1;
    for (int i = 0; i < rank; i++)
        n *= (size_t)dims[i];
    int v = bb_graph_add_constant(g, "k", type, rank, dims, &data);
    assert_true(v >= 0);
    memcpy(data, from, n * bb_dtype_size(type));
    return v;
}

static inline int sg_float(bb_graph *g, float value) {
    return sg_constant(g, BB_DTYPE_F32, 0, NULL, &value);
}

static inline int sg_floats(bb_graph *g, int rank, const int64_t *dims, const float *from) {
    return sg_constant(g, BB_DTYPE_F32, rank, dims, from);
}

/* Normal numbers times scale. */
static inline int sg_normal(bb_graph *g, int rank, const int64_t *dims, float scale, bb_rng *rng) {
    void *data;
    size_t n = 0;
    int v = bb_graph_add_constant(g, "k", BB_DTYPE_F32, rank, dims, &data);
    assert_true(v >= 0 && bb_dims_product(dims, (size_t)rank, &n));
    for (size_t i = 0; i < n; i++)
        ((float *)data)[i] = scale * (float)bb_rng_normal(rng);
    return v;
}

/* Contents of a constant, to be changed. */
static inline float *sg_data(bb_graph *g, int value) {
    return (float *)(uintptr_t)g->values[value].data;
}

static inline void sg_finish(bb_graph *g, int output) {
    bb_error err;
    sg_output(g, output);
    g->name = "test";
    g->opset = 21;
    if (bb_graph_link(g, &err) != BB_STATUS_OK ||
        bb_graph_infer_shapes(g, NULL, 0, &err) != BB_STATUS_OK)
        fail_msg("%s", err.message);
}

#endif
