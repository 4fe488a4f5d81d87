/* SPDX-License-Identifier: Apache-2.0 */
#include "nn/program.h"
#include <string.h>

static bb_status allocate(bb_executor *ex, const bb_executor_options *options, bb_error *err) {
    const bb_graph *graph = ex->graph;
    ex->arena = bb_arena_create();
    if (!ex->arena)
        return bb_fail_memory(err, "executor");
    ex->tensors = bb_arena_array(ex->arena, graph->n_values, sizeof(*ex->tensors));
    ex->built = bb_arena_array(ex->arena, graph->n_nodes, sizeof(*ex->built));
    ex->new_taps = bb_arena_array(ex->arena, graph->n_values, sizeof(*ex->new_taps));
    ex->input_buffers = bb_arena_array(ex->arena, graph->n_inputs, sizeof(int));
    ex->output_buffers = bb_arena_array(ex->arena, graph->n_outputs, sizeof(int));
    if (!ex->tensors || !ex->built || !ex->new_taps || !ex->input_buffers || !ex->output_buffers)
        return bb_fail_memory(err, "executor");
    for (size_t i = 0; options && i < options->n_tapped; i++) {
        int value = options->tapped[i];
        if (value < 0 || (size_t)value >= graph->n_values)
            return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "no value %d to tap", value);
        ex->tensors[value].tapped = true;
    }
    return bb_dn_create(&ex->dn, err);
}

bb_status bb_nn_new_executor(const bb_graph *graph, const bb_executor_options *options,
                             bb_executor **executor, bb_error *err) {
    bb_executor *ex = bb_calloc_array(1, sizeof(*ex));
    if (!ex)
        return bb_fail_memory(err, "executor");
    ex->graph = graph;
    ex->threads =
        options && options->threads > 0 && options->threads < 1024 ? (int)options->threads : 1;
    bb_status status = allocate(ex, options, err);
    if (status == BB_STATUS_OK)
        *executor = ex;
    else
        bb_executor_destroy(ex);
    return status;
}

bb_status bb_executor_create(const bb_graph *graph, const int64_t *const *input_dims,
                             const bb_executor_options *options, bb_executor **executor,
                             bb_error *err) {
    bb_executor *ex;
    BB_TRY(bb_nn_new_executor(graph, options, &ex, err));
    int before = bb_dn_set_threads(ex->threads);
    bb_status status = bb_nn_build(ex, input_dims, err);
    if (status == BB_STATUS_OK)
        status = bb_nn_place(ex, err);
    bb_dn_set_threads(before);
    if (status != BB_STATUS_OK) {
        bb_executor_destroy(ex);
        return status;
    }
    *executor = ex;
    return BB_STATUS_OK;
}

void bb_executor_destroy(bb_executor *ex) {
    if (!ex)
        return;
    bb_dn_destroy(ex->dn);
    for (size_t i = 0; i < ex->n_kept; i++)
        bb_free_aligned(ex->kept[i]);
    bb_free(ex->kept);
    bb_free_aligned(ex->memory);
    bb_free_aligned(ex->scratch);
    bb_free(ex->buffers);
    bb_free(ex->steps);
    bb_arena_destroy(ex->arena);
    bb_free(ex);
}

bb_status bb_nn_copy_inputs(bb_executor *ex, const bb_array *inputs, bb_error *err) {
    const bb_graph *graph = ex->graph;
    for (size_t i = 0; i < graph->n_inputs; i++) {
        const bb_nn_tensor *tensor = &ex->tensors[graph->inputs[i]];
        const bb_array *array = &inputs[i];
        bool same = array->dtype == tensor->dtype && array->rank == tensor->rank;
        for (int d = 0; same && d < tensor->rank; d++)
            same = array->dims[d] == tensor->dims[d];
        if (!same)
            return bb_fail(err, BB_STATUS_INVALID_ARGUMENT,
                           "%s: input '%s' has another type or shape than the executor was made "
                           "for",
                           graph->name, graph->values[graph->inputs[i]].name);
        size_t bytes = tensor->elements * bb_dtype_size(tensor->dtype);
        if (bytes > 0)
            memcpy(bb_nn_pointer(ex, ex->input_buffers[i]), array->data, bytes);
    }
    return BB_STATUS_OK;
}

bb_status bb_nn_run_steps(bb_executor *ex, size_t first, size_t last, bb_error *err) {
    for (size_t i = first; i < last; i++) {
        const bb_nn_step *step = &ex->steps[i];
        bb_status status = step->run(ex, step, err);
        if (status != BB_STATUS_OK)
            return step->node ? bb_nn_prefix(ex, step->node, status, err) : status;
    }
    return BB_STATUS_OK;
}

bb_status bb_executor_run(bb_executor *ex, const bb_array *inputs, bb_executor_tap tap, void *user,
                          bb_error *err) {
    BB_TRY(bb_nn_copy_inputs(ex, inputs, err));
    ex->run_arena = bb_arena_create();
    if (!ex->run_arena)
        return bb_fail_memory(err, "executor");
    ex->tap = tap;
    ex->tap_user = user;
    int before = bb_dn_set_threads(ex->threads);
    bb_status status = bb_nn_run_steps(ex, 0, ex->n_steps, err);
    bb_dn_set_threads(before);
    bb_arena_destroy(ex->run_arena);
    ex->run_arena = NULL;
    ex->has_run = status == BB_STATUS_OK;
    return status;
}

bb_status bb_executor_output(bb_executor *ex, size_t i, bb_array *array, bb_error *err) {
    if (i >= ex->graph->n_outputs || !ex->has_run)
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "%s: no output %zu of a finished run",
                       ex->graph->name, i);
    const bb_nn_tensor *tensor = &ex->tensors[ex->graph->outputs[i]];
    *array = (bb_array){.dtype = tensor->dtype,
                        .rank = tensor->rank,
                        .data = bb_nn_pointer(ex, ex->output_buffers[i])};
    memcpy(array->dims, tensor->dims, sizeof(array->dims));
    return BB_STATUS_OK;
}
