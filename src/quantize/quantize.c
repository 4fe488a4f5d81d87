/* SPDX-License-Identifier: Apache-2.0 */
#include "passes/passes.h"
#include "quantize/quantizer.h"
#include "quantize/tune.h"
#include <cblas.h>
#include <math.h>
#include <string.h>

/* One in so many calibration images is held back for judging, at most HELD_MOST; none where those
 * would be fewer than HELD_LEAST. */
enum { HELD_SHARE = 8, HELD_LEAST = 8, HELD_MOST = 64 };

void bb_quantize_options_init(bb_quantize_options *options) {
    static const bb_bits w8a8 = {8, 8};
    *options = (bb_quantize_options){
        .struct_size = sizeof *options,
        .profiles = &w8a8,
        .n_profiles = 1,
        .first_last = {8, 8},
        .residual_bits = 8,
        .effort = BB_EFFORT_DEFAULT,
        .threads = 1,
        .pixel_scale = 1.0f,
        .std = {1.0f, 1.0f, 1.0f, 1.0f},
    };
}

bb_status bb_quantize_progress(bb_quantization *q, const char *stage, size_t done, size_t total,
                               bb_error *err) {
    const bb_quantize_options *o = q->options;
    if (o->progress && o->progress(o->progress_user, stage, done, total) != 0)
        return bb_fail(err, BB_STATUS_CANCELLED, "quantization was cancelled");
    return BB_STATUS_OK;
}

/* ---- the private graph ----------------------------------------------------------------------- */

/** One image at a time, whatever the leading size is; others must be known or given. */
static bb_status fix_input_dims(bb_graph *graph, const bb_quantize_options *options,
                                bb_error *err) {
    if (graph->n_inputs != 1)
        return bb_fail(err, BB_STATUS_UNSUPPORTED,
                       "%s: %zu inputs; only networks of one can be "
                       "quantized",
                       graph->name, graph->n_inputs);
    const bb_value *in = &graph->values[graph->inputs[0]];
    int64_t dims[BB_MAX_RANK];
    memcpy(dims, in->dims, sizeof dims);
    for (int i = 0; i < in->rank; i++) {
        if (i == 0)
            dims[0] = 1;
        if (dims[i] < 1 && i < (int)BB_COUNT(options->input_dims))
            dims[i] = options->input_dims[i];
        if (dims[i] < 1)
            return bb_fail(err, BB_STATUS_INVALID_ARGUMENT,
                           "%s: input '%s' has an open size on axis %d, and none was given",
                           graph->name, in->name, i);
    }
    if (in->rank < 2 || in->dtype != BB_DTYPE_F32)
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "%s: input '%s' is not a float image or vector",
                       graph->name, in->name);
    return bb_graph_infer_shapes(graph, dims, in->rank, err);
}

/* Bounds and fills may be infinite: a bound that is none, what a maximum never takes. */
static bool may_be_infinite(const bb_node *node, int input) {
    return (node->op == BB_OP_CLIP && input > 0) || (node->op == BB_OP_PAD && input == 2);
}

/** What is not finite in the weights is so in every score, or hidden by chance. */
static bb_status check_finite(const bb_graph *graph, bb_error *err) {
    for (size_t i = 0; i < graph->n_nodes; i++)
        for (int k = 0; k < graph->nodes[i].n_in; k++) {
            const bb_value *v = bb_node_input(graph, &graph->nodes[i], k);
            size_t n;
            if (!bb_value_is_constant(v) || v->dtype != BB_DTYPE_F32 || !bb_value_elements(v, &n))
                continue;
            bool infinite = may_be_infinite(&graph->nodes[i], k);
            for (size_t j = 0; j < n; j++)
                if (!isfinite(((const float *)v->data)[j]) &&
                    !(infinite && isinf(((const float *)v->data)[j])))
                    return bb_fail(err, BB_STATUS_INVALID_ARGUMENT,
                                   "%s: node '%s': constant '%s' holds a number that is not finite",
                                   graph->name, graph->nodes[i].name, v->name);
        }
    return BB_STATUS_OK;
}

static bb_status prepare_graph(bb_quantization *q, const bb_graph *graph, bb_error *err) {
    q->graph = bb_graph_clone(graph);
    if (!q->graph)
        return bb_fail_memory(err, "copy of the graph");
    BB_TRY(fix_input_dims(q->graph, q->options, err));
    BB_TRY(bb_pass_prepare(q->graph, err));
    BB_TRY(check_finite(q->graph, err));
    return bb_quantize_assign(q, err);
}

bb_status bb_quantize_open(bb_quantization *q, const bb_graph *graph,
                           const bb_quantize_options *options, bb_error *err) {
    *q = (bb_quantization){.options = options, .n_profiles = options->n_profiles};
    BB_TRY(bb_check_options(options->struct_size, sizeof(*options), "bb_quantize_options", err));
    q->threads = options->threads ? options->threads : 1;
    if (q->n_profiles < 1 || q->n_profiles > BB_QUANTIZE_MAX_PROFILES)
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "between 1 and %d profiles are possible",
                       BB_QUANTIZE_MAX_PROFILES);
    q->arena = bb_arena_create();
    if (!q->arena)
        return bb_fail_memory(err, "quantizer");
    BB_TRY(bb_pool_create(q->threads, &q->pool, err));
    return prepare_graph(q, graph, err);
}

/** Activations of the calibration images. */
static void forget_value(bb_quantization *q, int value) {
    for (size_t p = 0; p < q->n_profiles; p++)
        bb_store_free(q, p, value);
    bb_reference_free(q, value);
}

void bb_quantize_close(bb_quantization *q) {
    for (size_t v = 0; q->stored && v < q->graph->n_values; v++)
        forget_value(q, (int)v);
    for (size_t b = 0; q->targets && b < q->plan.n; b++)
        bb_free(q->targets[b].y);
    bb_pool_destroy(q->pool);
    bb_arena_destroy(q->arena);
    bb_graph_destroy(q->graph);
}

/* ---- blocks in order ------------------------------------------------------------------------- */

static void forget_inputs(bb_quantization *q, size_t b) {
    const bb_block *block = &q->plan.blocks[b];
    bb_free(q->targets[b].y);
    q->targets[b].y = NULL;
    for (int i = 0; i < block->n_in; i++)
        if (q->last_reader[block->in[i]] == (int)b)
            forget_value(q, block->in[i]);
}

bb_status bb_quantize_blocks(bb_quantization *q, bb_error *err) {
    for (size_t b = 0; b < q->plan.n; b++) {
        if (q->plan.blocks[b].kind == BB_BLOCK_CONV)
            BB_TRY(bb_quantize_layer(q, b, err));
        for (size_t p = 0; p < q->n_profiles && q->simulated[b]; p++)
            BB_TRY(bb_quantize_simulate(q, b, p, err));
        if (q->simulated[b])
            BB_TRY(bb_reference_run(q, b, err));
        forget_inputs(q, b);
        BB_TRY(bb_quantize_progress(q, "quantize", b + 1, q->plan.n, err));
    }
    return BB_STATUS_OK;
}

/** Part of the calibration images judges what training does to the network: nothing else may have
 *  seen them. Few images say nothing. */
static void hold_images_back(bb_quantization *q) {
    if (!bb_quantize_can_tune(q) || q->count < HELD_LEAST * HELD_SHARE)
        return;
    q->held = q->count / HELD_SHARE < HELD_MOST ? q->count / HELD_SHARE : HELD_MOST;
    q->count -= q->held;
}

static bb_status run(bb_quantization *q, bb_model **model, bb_quantize_report *report,
                     bb_error *err) {
    bool changed = false;
    if (q->options->effort != BB_EFFORT_FAST)
        BB_TRY(bb_quantize_equalize(q, &changed, err));
    if (changed)
        BB_TRY(bb_quantize_assign(q, err));
    hold_images_back(q);
    BB_TRY(bb_quantize_calibrate(q, err));
    BB_TRY(bb_quantize_blocks(q, err));
    BB_TRY(bb_quantize_tune(q, err));
    BB_TRY(bb_lower_float(q->graph, &q->plan, q->codes, q->profiles, q->n_profiles, q->options,
                          model, err));
    if (!report)
        return BB_STATUS_OK;
    bb_status status = bb_quantize_fill_report(q, report, err);
    if (status != BB_STATUS_OK) {
        bb_model_destroy(*model);
        *model = NULL;
    }
    return status;
}

bb_status bb_quantize(const bb_graph *graph, const bb_quantize_options *options,
                      bb_calibration_fn calibration, void *user, size_t count, bb_model **model,
                      bb_quantize_report *report, bb_error *err) {
    bb_quantization q;
    *model = NULL;
    if (!count)
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "there are no calibration images");
    bb_status status = bb_quantize_open(&q, graph, options, err);
    q.calibration = calibration;
    q.user = user;
    q.count = count;
    /* Threads of our own run side by side; inside of each, BLAS must sum in one fixed order. */
    int blas_threads = openblas_get_num_threads();
    openblas_set_num_threads(1);
    if (status == BB_STATUS_OK)
        status = run(&q, model, report, err);
    openblas_set_num_threads(blas_threads);
    bb_quantize_close(&q);
    return status;
}

bb_status bb_quantize_plan(const bb_graph *graph, const bb_quantize_options *options,
                           bb_quantize_report *report, bb_error *err) {
    bb_quantization q;
    bb_status status = bb_quantize_open(&q, graph, options, err);
    if (status == BB_STATUS_OK)
        status = bb_quantize_fill_report(&q, report, err);
    bb_quantize_close(&q);
    return status;
}

bb_status bb_import_quantized(const bb_graph *graph, const bb_quantize_options *options,
                              bb_model **model, bb_error *err) {
    *model = NULL;
    BB_TRY(bb_check_options(options->struct_size, sizeof(*options), "bb_quantize_options", err));
    bb_graph *copy = bb_graph_clone(graph);
    if (!copy)
        return bb_fail_memory(err, "copy of the graph");
    bb_status status = bb_lower_quantized(copy, options, model, err);
    bb_graph_destroy(copy);
    return status;
}
