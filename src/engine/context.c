/* SPDX-License-Identifier: Apache-2.0 */
/* Contexts: buffers, the run loop, taps and timing. */
#include "engine/io.h"
#include <string.h>

static bb_status allocate(bb_context *context, bb_error *err) {
    const bb_engine *engine = context->engine;
    size_t bytes, scratch;
    if (!bb_size_add(engine->activation_bytes, (size_t)2 * BB_BUFFER_MARGIN, &bytes) ||
        !bb_size_mul(engine->threads, engine->scratch_bytes, &scratch))
        return bb_fail_memory(err, "a context");
    context->buffer = bb_alloc_aligned(bytes);
    context->scratch = bb_alloc_aligned(scratch);
    context->node_ns = bb_calloc_array(engine->model->n_nodes, sizeof(*context->node_ns));
    if (!context->buffer || !context->scratch || !context->node_ns)
        return bb_fail_memory(err, "a context");
    /* Margins are read, though they never matter. */
    memset(context->buffer, 0, bytes);
    memset(context->scratch, 0, scratch);
    context->activations = context->buffer + BB_BUFFER_MARGIN;
    BB_TRY(bb_pool_create(engine->threads, &context->pool, err));
    if (engine->passive)
        bb_pool_set_passive(context->pool);
    return BB_STATUS_OK;
}

bb_status bb_context_create(const bb_engine *engine, bb_context **result, bb_error *err) {
    if (!engine || !result)
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT,
                       "bb_context_create needs an engine and a place for the context");
    bb_context *context = bb_calloc_array(1, sizeof(*context));
    if (!context)
        return bb_fail_memory(err, "a context");
    context->engine = engine;
    const bb_status status = allocate(context, err);
    if (status != BB_STATUS_OK) {
        bb_context_destroy(context);
        return status;
    }
    *result = context;
    return BB_STATUS_OK;
}

void bb_context_destroy(bb_context *context) {
    if (!context)
        return;
    bb_pool_destroy(context->pool);
    bb_free_aligned(context->buffer);
    bb_free_aligned(context->scratch);
    bb_free_aligned(context->accumulators);
    bb_free_aligned(context->passing);
    bb_free_aligned(context->tap_copy);
    bb_free(context->node_ns);
    bb_free(context);
}

static void release_tap(bb_context *context) {
    bb_free_aligned(context->accumulators);
    bb_free_aligned(context->passing);
    bb_free_aligned(context->tap_copy);
    context->accumulators = NULL;
    context->passing = context->tap_copy = NULL;
}

bb_status bb_context_set_tap(bb_context *context, bb_tap_fn fn, void *user, bb_error *err) {
    const bb_engine *engine = context->engine;
    if (fn && !context->accumulators) {
        context->accumulators = bb_alloc_aligned(engine->accumulator_count * sizeof(int32_t));
        context->passing = bb_alloc_aligned(engine->passing_bytes);
        context->tap_copy = bb_alloc_aligned(engine->tap_copy_bytes);
    }
    if (!fn || !context->accumulators || !context->passing || !context->tap_copy) {
        release_tap(context);
        if (fn)
            return bb_fail_memory(err, "the accumulators of a tap");
    }
    context->tap = fn;
    context->tap_user = user;
    return BB_STATUS_OK;
}

void bb_context_enable_timing(bb_context *context, int enabled) {
    context->timing = enabled != 0;
}

const uint64_t *bb_context_node_ns(const bb_context *context) {
    return context->node_ns;
}

/* The pixels of a tensor one behind the other. */
static const void *tap_data(const bb_context *context, int tensor) {
    const bb_plan_tensor *t = &context->engine->tensors[tensor];
    const uint8_t *from = bb_tensor_data(context, tensor);
    const size_t element = bb_element_size(t->type), bytes = (size_t)t->c * element;
    if (!t->inside)
        return from;
    for (size_t p = 0; p < t->elements / (size_t)t->c; p++)
        memcpy(context->tap_copy + p * bytes, from + p * t->step * element, bytes);
    return context->tap_copy;
}

static void tap_outputs(bb_context *context, size_t index) {
    const bb_engine *engine = context->engine;
    const bb_plan_node *plan = &engine->nodes[index];
    for (int i = 0; i < plan->n_out; i++) {
        const int tensor = plan->out[i].tensor;
        const bb_plan_tensor *t = &engine->tensors[tensor];
        bb_tap_event event = {.node = index,
                              .node_name = plan->node->name,
                              .tensor_name = engine->model->tensors[tensor].name,
                              .type = bb_public_type(t->type),
                              .dims = {t->n, t->h, t->w, t->c},
                              .data = tap_data(context, tensor),
                              .accumulators = plan->conv ? context->accumulators : NULL,
                              .bits = t->bits};
        if (t->bits) {
            event.scale = engine->profile->tensors[tensor].step;
            event.a0 = engine->profile->tensors[tensor].a0;
        }
        context->tap(context->tap_user, &event);
    }
}

static void run_nodes(bb_context *context) {
    const bb_engine *engine = context->engine;
    for (size_t i = 0; i < engine->model->n_nodes; i++) {
        const uint64_t start = context->timing ? bb_now_ns() : 0;
        engine->nodes[i].run(context, &engine->nodes[i]);
        if (context->timing)
            context->node_ns[i] += bb_now_ns() - start;
        if (context->tap)
            tap_outputs(context, i);
    }
}

static bb_status check_pointers(const void *const *inputs, size_t n_inputs,
                                const void *const *outputs, size_t n_outputs, bb_error *err) {
    for (size_t i = 0; i < n_inputs; i++)
        if (!inputs || !inputs[i])
            return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "input %zu of a run is missing", i);
    for (size_t i = 0; i < n_outputs; i++)
        if (!outputs || !outputs[i])
            return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "output %zu of a run is missing", i);
    return BB_STATUS_OK;
}

/* Of one part of a batch. */
static size_t part_elements(const bb_context *context, int tensor) {
    return context->engine->tensors[tensor].elements;
}

static size_t part_bytes(const bb_context *context, int tensor) {
    return part_elements(context, tensor) * bb_element_size(context->engine->tensors[tensor].type);
}

static bb_status run_part(bb_context *context, size_t part, const void *const *inputs,
                          void *const *outputs, bb_error *err) {
    const bb_model *model = context->engine->model;
    for (size_t i = 0; i < model->n_inputs; i++)
        BB_TRY(bb_input_load(
            context, model->inputs[i],
            (const uint8_t *)inputs[i] + part * part_bytes(context, model->inputs[i]), err));
    run_nodes(context);
    for (size_t i = 0; i < model->n_outputs; i++)
        bb_output_store(context, model->outputs[i],
                        (uint8_t *)outputs[i] + part * part_bytes(context, model->outputs[i]));
    return BB_STATUS_OK;
}

static void run_part_f32(bb_context *context, size_t part, const float *const *inputs,
                         float *const *outputs) {
    const bb_model *model = context->engine->model;
    for (size_t i = 0; i < model->n_inputs; i++)
        bb_input_load_f32(context, model->inputs[i],
                          inputs[i] + part * part_elements(context, model->inputs[i]));
    run_nodes(context);
    for (size_t i = 0; i < model->n_outputs; i++)
        bb_output_store_f32(context, model->outputs[i],
                            outputs[i] + part * part_elements(context, model->outputs[i]));
}

static void forget_times(bb_context *context) {
    if (context->timing)
        memset(context->node_ns, 0, context->engine->model->n_nodes * sizeof(*context->node_ns));
}

bb_status bb_context_run(bb_context *context, const void *const *inputs, void *const *outputs,
                         bb_error *err) {
    const bb_model *model = context->engine->model;
    bb_status status = BB_STATUS_OK;
    BB_TRY(check_pointers(inputs, model->n_inputs, (const void *const *)outputs, model->n_outputs,
                          err));
    forget_times(context);
    bb_pool_wake(context->pool);
    for (size_t part = 0; part < context->engine->parts && status == BB_STATUS_OK; part++)
        status = run_part(context, part, inputs, outputs, err);
    bb_pool_rest(context->pool);
    return status;
}

bb_status bb_context_run_f32(bb_context *context, const float *const *inputs, float *const *outputs,
                             bb_error *err) {
    const bb_model *model = context->engine->model;
    BB_TRY(check_pointers((const void *const *)inputs, model->n_inputs,
                          (const void *const *)outputs, model->n_outputs, err));
    forget_times(context);
    bb_pool_wake(context->pool);
    for (size_t part = 0; part < context->engine->parts; part++)
        run_part_f32(context, part, inputs, outputs);
    bb_pool_rest(context->pool);
    return BB_STATUS_OK;
}

/* ---- sharing work out ------------------------------------------------------------------------ */

enum { MIN_TASK_ELEMENTS = 4096 }; /**< below this a second worker costs more than it brings */

typedef struct row_tasks {
    const bb_context *context;
    const bb_plan_node *plan;
    bb_rows_fn fn;
    int32_t rows, rows_per_task;
} row_tasks;

static void run_row_task(void *user, size_t task, size_t worker) {
    const row_tasks *t = user;
    const int32_t first = (int32_t)task * t->rows_per_task;
    const int32_t left = t->rows - first;
    const int32_t count = left < t->rows_per_task ? left : t->rows_per_task;
    t->fn(t->context, t->plan, first, first + count, worker);
}

void bb_run_rows(bb_context *context, const bb_plan_node *plan, int32_t rows, size_t row_work,
                 bb_rows_fn fn) {
    const size_t threads = context->engine->threads;
    const size_t smallest = row_work ? MIN_TASK_ELEMENTS / row_work + 1 : (size_t)rows;
    size_t per_task = ((size_t)rows + 2 * threads - 1) / (2 * threads);
    per_task = threads == 1 || per_task > (size_t)rows ? (size_t)rows : per_task;
    per_task = per_task < smallest ? smallest : per_task;
    per_task = per_task > (size_t)rows ? (size_t)rows : per_task;
    row_tasks tasks = {context, plan, fn, rows, (int32_t)per_task};
    bb_pool_run(context->pool, ((size_t)rows + per_task - 1) / per_task, run_row_task, &tasks);
}
