/* SPDX-License-Identifier: Apache-2.0 */
/** @file nn_net.h  Small graphs for the tests of float execution. */
#ifndef BB_NN_NET_H
#define BB_NN_NET_H

#include "nn/executor.h"
#include "unit.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct net {
    bb_graph *graph;
    bb_rng rng;
    bb_error err;
} net;

#define DIMS(...)                                                                                  \
    (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]) {                       \
        __VA_ARGS__                                                                                \
    }
#define INTS(...) (int64_t[]){__VA_ARGS__}, sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)

static inline net net_create(void) {
    net n = {.graph = bb_graph_create()};
    assert_non_null(n.graph);
    n.graph->name = "test";
    n.graph->opset = 21;
    bb_rng_seed(&n.rng, 1);
    return n;
}

static inline int net_input(net *n, bb_dtype dtype, int rank, const int64_t *dims) {
    bb_graph *g = n->graph;
    int value = bb_graph_add_value(g, "x", dtype, rank, dims);
    int *inputs = bb_arena_array(g->arena, g->n_inputs + 1, sizeof(int));
    assert_true(value >= 0 && inputs);
    if (g->n_inputs > 0)
        memcpy(inputs, g->inputs, g->n_inputs * sizeof(int));
    inputs[g->n_inputs++] = value;
    g->inputs = inputs;
    return value;
}

static inline void net_output(net *n, int value) {
    bb_graph *g = n->graph;
    int *outputs = bb_arena_array(g->arena, g->n_outputs + 1, sizeof(int));
    assert_non_null(outputs);
    if (g->n_outputs > 0)
        memcpy(outputs, g->outputs, g->n_outputs * sizeof(int));
    outputs[g->n_outputs++] = value;
    g->outputs = outputs;
}

static inline int net_constant(net *n, bb_dtype dtype, int rank, const int64_t *dims, void **data) {
    int value = bb_graph_add_constant(n->graph, "c", dtype, rank, dims, data);
    assert_true(value >= 0);
    return value;
}

/* An f32 constant of uniform numbers in [low, high). */
static inline int net_random(net *n, double low, double high, int rank, const int64_t *dims) {
    void *data;
    size_t count;
    int value = net_constant(n, BB_DTYPE_F32, rank, dims, &data);
    assert_true(bb_dims_product(dims, (size_t)rank, &count));
    for (size_t i = 0; i < count; i++)
        ((float *)data)[i] = (float)(low + (high - low) * bb_rng_uniform(&n->rng));
    return value;
}

/* A node of one output; returns the output's value. Inputs end with -2; -1 is left out. */
static inline int net_node(net *n, bb_op op, const int *inputs) {
    char name[32];
    int count = 0;
    while (inputs[count] != -2)
        count++;
    snprintf(name, sizeof(name), "n%zu", n->graph->n_nodes);
    int out = bb_graph_add_value(n->graph, name, BB_DTYPE_F32, -1, NULL);
    assert_true(out >= 0);
    assert_true(bb_graph_add_node(n->graph, name, op, count, inputs, 1, &out) >= 0);
    return out;
}
#define NODE(n, op, ...) net_node(n, op, (int[]){__VA_ARGS__, -2})

static inline bb_node *net_last(net *n) {
    return &n->graph->nodes[n->graph->n_nodes - 1];
}

static inline void net_finish(net *n) {
    bb_status status = bb_graph_link(n->graph, &n->err);
    if (status == BB_STATUS_OK)
        status = bb_graph_infer_shapes(n->graph, NULL, 0, &n->err);
    if (status != BB_STATUS_OK)
        fail_msg("%s", n->err.message);
}

static inline float *random_floats(net *n, size_t count) {
    float *data = malloc((count + 1) * sizeof(*data));
    assert_non_null(data);
    for (size_t i = 0; i < count; i++)
        data[i] = (float)(2.0 * bb_rng_uniform(&n->rng) - 1.0);
    return data;
}

/* Dims of the graph's inputs as declared. */
static inline void net_dims(const net *n, const int64_t **dims) {
    for (size_t i = 0; i < n->graph->n_inputs; i++)
        dims[i] = n->graph->values[n->graph->inputs[i]].dims;
}

static inline bb_executor *net_executor(net *n, const bb_executor_options *options) {
    const int64_t *dims[8];
    bb_executor *ex = NULL;
    net_dims(n, dims);
    if (bb_executor_create(n->graph, dims, options, &ex, &n->err) != BB_STATUS_OK)
        fail_msg("%s", n->err.message);
    return ex;
}

static inline bb_array net_array(const net *n, size_t input, const void *data) {
    const bb_value *value = &n->graph->values[n->graph->inputs[input]];
    bb_array array = {.dtype = value->dtype, .rank = value->rank, .data = (void *)(uintptr_t)data};
    memcpy(array.dims, value->dims, sizeof(array.dims));
    return array;
}

/* Runs the net on f32 data of its inputs; the outputs stay readable until *ex is destroyed. */
static inline void net_run(net *n, const float *const *data, bb_executor **ex) {
    bb_array inputs[8];
    for (size_t i = 0; i < n->graph->n_inputs; i++)
        inputs[i] = net_array(n, i, data[i]);
    *ex = net_executor(n, NULL);
    if (bb_executor_run(*ex, inputs, NULL, NULL, &n->err) != BB_STATUS_OK)
        fail_msg("%s", n->err.message);
}

static inline bb_array net_result(net *n, bb_executor *ex, size_t output) {
    bb_array array;
    assert_int_equal(bb_executor_output(ex, output, &array, &n->err), BB_STATUS_OK);
    return array;
}

static inline void assert_dims(const bb_array *array, int rank, const int64_t *dims) {
    assert_int_equal(array->rank, rank);
    for (int i = 0; i < rank; i++)
        assert_int_equal(array->dims[i], dims[i]);
}

static inline void assert_near(const float *got, const float *want, size_t count,
                               double tolerance) {
    for (size_t i = 0; i < count; i++)
        if (!(fabs((double)got[i] - (double)want[i]) <= tolerance * (1.0 + fabs((double)want[i]))))
            fail_msg("element %zu is %g, not %g", i, (double)got[i], (double)want[i]);
}

#endif
