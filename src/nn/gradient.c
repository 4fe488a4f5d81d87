/* SPDX-License-Identifier: Apache-2.0 */
/* The interface of forward-and-backward programs. */
#include "nn/gradient.h"
#include "nn/gradient_internal.h"
#include <string.h>

/* ---- creation -------------------------------------------------------------------------------- */

static bb_status add_kept(bb_gradient *g, int value, bb_error *err) {
    if (value < 0 || (size_t)value >= g->ex->graph->n_values)
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "no value %d to keep", value);
    if (g->values[value].kept >= 0)
        return BB_STATUS_OK;
    g->values[value].kept = (int)g->n_kept;
    g->kept[g->n_kept++] = (bb_grad_kept){.value = value};
    return BB_STATUS_OK;
}

static bb_status add_parameter(bb_gradient *g, int value, float *master, bb_error *err) {
    const bb_graph *graph = g->ex->graph;
    if (value < 0 || (size_t)value >= graph->n_values || !graph->values[value].data ||
        graph->values[value].producer >= 0 || graph->values[value].dtype != BB_DTYPE_F32 ||
        g->values[value].parameter >= 0)
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT,
                       "value %d is not an f32 constant, or named twice as a parameter", value);
    g->values[value].parameter = (int)g->n_parameters;
    g->values[value].active = !g->forward_only;
    g->parameters[g->n_parameters++] = (bb_grad_parameter){.value = value, .master = master};
    return BB_STATUS_OK;
}

static bb_status add_wanted(bb_gradient *g, int value, bb_error *err) {
    const bb_graph *graph = g->ex->graph;
    for (size_t i = 0; i < graph->n_inputs; i++) {
        if (graph->inputs[i] != value || graph->values[value].dtype != BB_DTYPE_F32)
            continue;
        g->values[value].active = !g->forward_only;
        g->wanted[g->n_wanted++] = (bb_grad_wanted){.value = value};
        return BB_STATUS_OK;
    }
    return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "value %d is not an f32 input", value);
}

static bb_status allocate(bb_gradient *g, const bb_gradient_options *options, bb_error *err) {
    const bb_graph *graph = g->ex->graph;
    g->values = bb_grad_alloc(g, graph->n_values, sizeof(*g->values));
    g->special = bb_grad_alloc(g, graph->n_nodes, sizeof(*g->special));
    g->parameters = bb_grad_alloc(g, options->n_parameters, sizeof(*g->parameters));
    g->kept = bb_grad_alloc(g, graph->n_outputs + options->n_kept, sizeof(*g->kept));
    g->wanted = bb_grad_alloc(g, options->n_wanted, sizeof(*g->wanted));
    g->statistics = bb_grad_alloc(g, 2 * graph->n_nodes, sizeof(*g->statistics));
    if (!g->values || !g->special || !g->parameters || !g->kept || !g->wanted || !g->statistics)
        return bb_fail_memory(err, "gradient program");
    for (size_t v = 0; v < graph->n_values; v++)
        g->values[v].kept = g->values[v].parameter = -1;
    for (size_t i = 0; i < graph->n_outputs; i++)
        BB_TRY(add_kept(g, graph->outputs[i], err));
    for (size_t i = 0; i < options->n_kept; i++)
        BB_TRY(add_kept(g, options->kept[i], err));
    for (size_t i = 0; i < options->n_parameters; i++)
        BB_TRY(add_parameter(g, options->parameters[i],
                             options->masters ? options->masters[i] : NULL, err));
    for (size_t i = 0; i < options->n_wanted; i++)
        BB_TRY(add_wanted(g, options->wanted[i], err));
    return BB_STATUS_OK;
}

bb_status bb_gradient_check_bf16(bb_error *err) {
    return bb_dn_has_bf16() ? BB_STATUS_OK
                            : bb_fail(err, BB_STATUS_UNSUPPORTED,
                                      "bf16 needs a processor with AVX512-BF16 instructions (and "
                                      "DNNL_MAX_CPU_ISA must allow them)");
}

bb_status bb_gradient_create(const bb_graph *graph, const int64_t *const *input_dims,
                             const bb_gradient_options *options, bb_gradient **gradient,
                             bb_error *err) {
    if (options->bf16)
        BB_TRY(bb_gradient_check_bf16(err));
    bb_executor_options plain = {.threads = options->threads};
    bb_gradient *g = bb_calloc_array(1, sizeof(*g));
    if (!g)
        return bb_fail_memory(err, "gradient program");
    g->training = options->training;
    g->forward_only = options->forward_only;
    g->momentum = -1.0f;
    bb_status status = bb_nn_new_executor(graph, &plain, &g->ex, err);
    if (status == BB_STATUS_OK) {
        g->ex->bf16 = options->bf16;
        bb_dn_allow_shared_sums(g->ex->dn);
        int before = bb_dn_set_threads(g->ex->threads);
        status = allocate(g, options, err);
        if (status == BB_STATUS_OK)
            status = bb_grad_build(g, input_dims, err);
        bb_dn_set_threads(before);
    }
    if (status != BB_STATUS_OK) {
        bb_gradient_destroy(g);
        return status;
    }
    *gradient = g;
    return BB_STATUS_OK;
}

void bb_gradient_destroy(bb_gradient *g) {
    if (!g)
        return;
    bb_executor_destroy(g->ex);
    bb_free(g->holds);
    bb_free(g);
}

/* ---- parameters and statistics --------------------------------------------------------------- */

size_t bb_gradient_n_parameters(const bb_gradient *g) {
    return g->n_parameters;
}

float *bb_gradient_parameter(bb_gradient *g, size_t i) {
    return i < g->n_parameters ? g->parameters[i].master : NULL;
}

const float *bb_gradient_of(const bb_gradient *g, size_t i) {
    return i < g->n_parameters ? g->parameters[i].gradient : NULL;
}

size_t bb_gradient_parameter_elements(const bb_gradient *g, size_t i) {
    return i < g->n_parameters ? g->parameters[i].elements : 0;
}

int bb_gradient_parameter_value(const bb_gradient *g, size_t i) {
    return i < g->n_parameters ? g->parameters[i].value : -1;
}

size_t bb_gradient_n_statistics(const bb_gradient *g) {
    return g->n_statistics;
}

float *bb_gradient_statistic(bb_gradient *g, size_t i, int *value, size_t *n) {
    if (i >= g->n_statistics)
        return NULL;
    if (value)
        *value = g->statistics[i].value;
    if (n)
        *n = g->statistics[i].elements;
    return g->statistics[i].data;
}

void bb_gradient_set_momentum(bb_gradient *g, float momentum) {
    g->momentum = momentum;
}

static bb_status export_one(bb_graph *graph, int value, const float *from, size_t n,
                            bb_error *err) {
    size_t room = 0;
    if ((size_t)value >= graph->n_values || !bb_value_elements(&graph->values[value], &room) ||
        room != n)
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "not a clone of the program's graph");
    float *copy = bb_arena_array(graph->arena, n, sizeof(*copy));
    if (!copy)
        return bb_fail_memory(err, "exported parameters");
    graph->values[value].data = memcpy(copy, from, n * sizeof(*copy));
    return BB_STATUS_OK;
}

bb_status bb_gradient_export(const bb_gradient *g, bb_graph *graph, bb_error *err) {
    for (size_t i = 0; i < g->n_parameters; i++)
        BB_TRY(export_one(graph, g->parameters[i].value, g->parameters[i].master,
                          g->parameters[i].elements, err));
    for (size_t i = 0; i < g->n_statistics; i++)
        BB_TRY(export_one(graph, g->statistics[i].value, g->statistics[i].data,
                          g->statistics[i].elements, err));
    return BB_STATUS_OK;
}

/* ---- running --------------------------------------------------------------------------------- */

static bb_status run(bb_gradient *g, size_t first, size_t last, bb_error *err) {
    bb_executor *ex = g->ex;
    ex->run_arena = bb_arena_create();
    if (!ex->run_arena)
        return bb_fail_memory(err, "gradient program");
    int before = bb_dn_set_threads(ex->threads);
    bb_status status = bb_nn_run_steps(ex, first, last, err);
    bb_dn_set_threads(before);
    bb_arena_destroy(ex->run_arena);
    ex->run_arena = NULL;
    return status;
}

bb_status bb_gradient_forward(bb_gradient *g, const bb_array *inputs, bb_error *err) {
    g->has_forward = g->has_backward = false;
    BB_TRY(bb_nn_copy_inputs(g->ex, inputs, err));
    BB_TRY(run(g, 0, g->n_forward, err));
    g->has_forward = true;
    return BB_STATUS_OK;
}

bb_status bb_gradient_value(bb_gradient *g, int value, bb_array *array, bb_error *err) {
    const bb_graph *graph = g->ex->graph;
    if (!g->has_forward || value < 0 || (size_t)value >= graph->n_values ||
        g->values[value].kept < 0)
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT,
                       "%s: value %d is not kept, or nothing has been run", graph->name, value);
    const bb_nn_tensor *tensor = &g->ex->tensors[value];
    *array = (bb_array){.dtype = tensor->dtype,
                        .rank = tensor->rank,
                        .data = bb_nn_pointer(g->ex, g->kept[g->values[value].kept].buffer)};
    memcpy(array->dims, tensor->dims, sizeof(array->dims));
    return BB_STATUS_OK;
}

bb_status bb_gradient_backward(bb_gradient *g, const bb_gradient_seed *seeds, size_t n_seeds,
                               bb_error *err) {
    const bb_graph *graph = g->ex->graph;
    if (!g->has_forward || g->has_backward || g->forward_only)
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "%s: backward follows a forward run, once",
                       graph->name);
    for (size_t i = 0; i < g->n_kept; i++)
        g->kept[i].seed = NULL;
    for (size_t i = 0; i < n_seeds; i++) {
        int value = seeds[i].value;
        if (value < 0 || (size_t)value >= graph->n_values || g->values[value].kept < 0 ||
            g->kept[g->values[value].kept].seed)
            return bb_fail(err, BB_STATUS_INVALID_ARGUMENT,
                           "%s: value %d is not kept, or has two seeds", graph->name, value);
        g->kept[g->values[value].kept].seed = seeds[i].data;
    }
    g->has_backward = true;
    return run(g, g->n_forward, g->ex->n_steps, err);
}

bb_status bb_gradient_input(bb_gradient *g, int value, const float **data, bb_error *err) {
    for (size_t i = 0; i < g->n_wanted; i++)
        if (g->wanted[i].value == value && g->has_backward) {
            *data = g->wanted[i].data;
            return BB_STATUS_OK;
        }
    return bb_fail(err, BB_STATUS_INVALID_ARGUMENT,
                   "%s: value %d is not a wanted input, or backward has not been run",
                   g->ex->graph->name, value);
}
