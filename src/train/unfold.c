/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Exporters fold BatchNormalization into the convolutions before it. Such a network computes the
 * same, but learns badly: the scales of its filters are far apart, and one learning rate fits few
 * of them. Here every convolution gets one again, with the statistics of training images.
 *
 * Behind BatchNormalization the length of a filter changes nothing but the size of its steps,
 * which go by 1/length^2. Each becomes sqrt(2), that of a filter as it is initialised (network.h):
 * x = a * conv(w) without bias, a = sqrt(2)/|w|; y = (x - a*mean) / s * (s/a) + mean + bias with s
 * = sqrt(a^2 * variance + epsilon), mean and variance those of the convolution without bias.
 */
#include "nn/executor.h"
#include "train/run.h"
#include <math.h>
#include <string.h>

enum { IMAGES = 512 };
static const float EPSILON = 1e-5f;

typedef struct unfolding {
    bb_run *run;
    bb_graph *graph;
    bb_arena *arena;
    size_t n; /* convolutions that get one */
    int *nodes, *values;
    double **sum, **square; /* [n][channels] */
    double *count;          /* values a channel */
} unfolding;

static bool has_norm(const bb_graph *graph, int value) {
    for (size_t i = 0; i < graph->n_nodes; i++)
        if (graph->nodes[i].op == BB_OP_BATCH_NORMALIZATION && graph->nodes[i].in[0] == value)
            return true;
    return false;
}

static bb_status find_convolutions(unfolding *u, bb_error *err) {
    const bb_graph *g = u->graph;
    u->nodes = bb_arena_array(u->arena, g->n_nodes, sizeof(*u->nodes));
    u->values = bb_arena_array(u->arena, g->n_nodes, sizeof(*u->values));
    u->sum = bb_arena_array(u->arena, g->n_nodes, sizeof(*u->sum));
    u->square = bb_arena_array(u->arena, g->n_nodes, sizeof(*u->square));
    u->count = bb_arena_array(u->arena, g->n_nodes, sizeof(*u->count));
    if (!u->nodes || !u->values || !u->sum || !u->square || !u->count)
        return bb_fail_memory(err, "statistics");
    for (size_t i = 0; i < g->n_nodes; i++) {
        const bb_node *node = &g->nodes[i];
        const bb_value *weights = bb_node_input(g, node, 1);
        if (node->op != BB_OP_CONV || !weights->data || has_norm(g, node->out[0]))
            continue;
        size_t channels = (size_t)weights->dims[0];
        u->sum[u->n] = bb_arena_array(u->arena, channels, sizeof(double));
        u->square[u->n] = bb_arena_array(u->arena, channels, sizeof(double));
        if (!u->sum[u->n] || !u->square[u->n])
            return bb_fail_memory(err, "statistics");
        u->nodes[u->n] = (int)i;
        u->values[u->n++] = node->out[0];
    }
    return BB_STATUS_OK;
}

static int add_statistics(void *user, int value, const bb_array *array) {
    unfolding *u = user;
    size_t k = 0, batch = (size_t)array->dims[0], channels = (size_t)array->dims[1], area = 1;
    const float *x = array->data;
    while (u->values[k] != value)
        k++;
    for (int d = 2; d < array->rank; d++)
        area *= (size_t)array->dims[d];
    for (size_t i = 0; i < batch; i++)
        for (size_t c = 0; c < channels; c++)
            for (size_t p = 0; p < area; p++, x++) {
                u->sum[k][c] += (double)*x;
                u->square[k][c] += (double)*x * (double)*x;
            }
    u->count[k] += (double)(batch * area);
    return 0;
}

static bb_status run_images(unfolding *u, bb_executor *executor, bb_array *input, bb_error *err) {
    size_t batch = (size_t)input->dims[0], n = bb_loader_images(u->run->train);
    size_t elements = 1, images = n < IMAGES ? n : IMAGES;
    for (int d = 1; d < 4; d++)
        elements *= (size_t)input->dims[d];
    for (size_t i = 0; i + batch <= images; i += batch) {
        for (size_t k = 0; k < batch; k++)
            BB_TRY(bb_loader_image(u->run->train, u->run->calibration_order[i + k],
                                   (float *)input->data + k * elements, err));
        BB_TRY(bb_executor_run(executor, input, add_statistics, u, err));
    }
    return BB_STATUS_OK;
}

static bb_status measure(unfolding *u, bb_error *err) {
    int channels, height, width;
    size_t n = bb_loader_images(u->run->train), batch = n < 16 ? n : 16;
    bb_config_input(u->run->settings.task, &channels, &height, &width);
    bb_array input = {BB_DTYPE_F32, 4, {(int64_t)batch, channels, height, width}, NULL};
    const int64_t *dims[1] = {input.dims};
    const bb_executor_options options = {
        .threads = u->run->threads, .tapped = u->values, .n_tapped = u->n};
    bb_executor *executor;
    size_t elements;
    if (!bb_dims_product(input.dims, 4, &elements) ||
        !(input.data = bb_arena_array(u->arena, elements, sizeof(float))))
        return bb_fail_memory(err, "statistics");
    BB_TRY(bb_executor_create(u->graph, dims, &options, &executor, err));
    bb_status status = run_images(u, executor, &input, err);
    bb_executor_destroy(executor);
    return status;
}

static float *add_constant(bb_graph *g, const char *name, int rank, const int64_t *dims,
                           int *value) {
    void *data;
    *value = name ? bb_graph_add_constant(g, name, BB_DTYPE_F32, rank, dims, &data) : -1;
    return *value >= 0 ? data : NULL;
}

/* Filters of one length; factors[c] is what channel c was multiplied with. */
static bb_status scale_filters(unfolding *u, size_t k, double *factors, bb_error *err) {
    bb_graph *g = u->graph;
    const bb_node *node = &g->nodes[u->nodes[k]];
    const bb_value *old = bb_node_input(g, node, 1);
    const float *w = old->data;
    size_t channels = (size_t)old->dims[0], n;
    int64_t dims[BB_MAX_RANK];
    int rank = old->rank, value;
    if (!bb_value_elements(old, &n) || old->dtype != BB_DTYPE_F32)
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "node '%s': weights that are not f32",
                       node->name);
    memcpy(dims, old->dims, sizeof(dims));
    float *scaled =
        add_constant(g, bb_arena_printf(g->arena, "%s.filters", node->name), rank, dims, &value);
    if (!scaled)
        return bb_fail_memory(err, "network");
    for (size_t c = 0; c < channels; c++) {
        double square = 0;
        for (size_t i = c * n / channels; i < (c + 1) * n / channels; i++)
            square += (double)w[i] * (double)w[i];
        factors[c] = square > 1e-30 ? sqrt(2 / square) : 1;
        for (size_t i = c * n / channels; i < (c + 1) * n / channels; i++)
            scaled[i] = (float)(factors[c] * (double)w[i]);
    }
    g->nodes[u->nodes[k]].in[1] = value;
    return BB_STATUS_OK;
}

/* Takes the bias off, which BatchNormalization would only subtract. */
static const float *take_bias(bb_graph *g, bb_node *node) {
    const bb_value *bias = bb_node_input(g, node, 2);
    node->n_in = 2;
    return bias ? bias->data : NULL;
}

static bb_status fill(unfolding *u, size_t k, float *const data[4], bb_error *err) {
    bb_node *node = &u->graph->nodes[u->nodes[k]];
    size_t channels = (size_t)bb_node_input(u->graph, node, 1)->dims[0];
    const float *bias = take_bias(u->graph, node);
    double *factors = bb_arena_array(u->arena, channels, sizeof(*factors));
    if (!factors)
        return bb_fail_memory(err, "network");
    BB_TRY(scale_filters(u, k, factors, err));
    for (size_t c = 0; c < channels; c++) {
        double mean = u->sum[k][c] / u->count[k], a = factors[c]; /* mean: with bias */
        double variance = fmax(0, u->square[k][c] / u->count[k] - mean * mean);
        data[0][c] = (float)(sqrt(a * a * variance + (double)EPSILON) / a);
        data[1][c] = (float)mean;
        data[2][c] = (float)(a * (mean - (bias ? (double)bias[c] : 0)));
        data[3][c] = (float)(a * a * variance);
    }
    return BB_STATUS_OK;
}

/* The new node's result takes the name of the convolution's. */
static bb_status insert(unfolding *u, size_t k, bb_error *err) {
    static const char *const what[4] = {"scale", "shift", "mean", "variance"};
    bb_graph *g = u->graph;
    int conv = u->values[k], in[5] = {conv};
    const char *name = g->nodes[u->nodes[k]].name, *result = g->values[conv].name;
    const int64_t channels[1] = {bb_node_input(g, &g->nodes[u->nodes[k]], 1)->dims[0]};
    float *data[4];
    for (int i = 0; i < 4; i++) {
        data[i] = add_constant(g, bb_arena_printf(g->arena, "%s.norm.%s", name, what[i]), 1,
                               channels, &in[i + 1]);
        if (!data[i])
            return bb_fail_memory(err, "network");
    }
    BB_TRY(fill(u, k, data, err));
    const char *norm = bb_arena_printf(g->arena, "%s.norm", name);
    const char *raw = bb_arena_printf(g->arena, "%s.raw", result);
    int out = norm && raw ? bb_graph_add_value(g, result, BB_DTYPE_F32, -1, NULL) : -1;
    if (out < 0)
        return bb_fail_memory(err, "network");
    g->values[conv].name = raw;
    bb_graph_replace_value(g, conv, out);
    int added = bb_graph_add_node(g, norm, BB_OP_BATCH_NORMALIZATION, 5, in, 1, &out);
    if (added < 0 || !bb_node_set_float(g, &g->nodes[added], "epsilon", EPSILON) ||
        !bb_node_set_float(g, &g->nodes[added], "momentum", 0.9f))
        return bb_fail_memory(err, "network");
    return BB_STATUS_OK;
}

static bb_status unfold(unfolding *u, bb_error *err) {
    BB_TRY(find_convolutions(u, err));
    if (u->n == 0)
        return BB_STATUS_OK;
    BB_TRY(measure(u, err));
    for (size_t k = 0; k < u->n; k++)
        BB_TRY(insert(u, k, err));
    BB_TRY(bb_graph_link(u->graph, err));
    return bb_graph_infer_shapes(u->graph, NULL, 0, err);
}

bb_status bb_run_unfold(bb_run *run, bb_graph *graph, bb_error *err) {
    unfolding u = {.run = run, .graph = graph, .arena = bb_arena_create()};
    if (!u.arena)
        return bb_fail_memory(err, "statistics");
    bb_status status = unfold(&u, err);
    bb_arena_destroy(u.arena);
    return status;
}
