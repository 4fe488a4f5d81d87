/* SPDX-License-Identifier: Apache-2.0 */
/* Cross-layer equalisation (Nagel et al., "Data-free quantization", 2019): between two layers that
 * only an activation with f(s*x) = s*f(x) separates, output channel c of the first is divided by s
 * and what the second reads from it is multiplied by s. The network computes the same, and its
 * channels fill one common grid better.
 *
 * Done where the second layer is depthwise: its channels have a weight scale each, so equal ranges
 * cost its weights nothing. Between full convolutions it trades the grid of the values against
 * that of the weights, which with a weight scale per output channel gained nothing (ResNet-20,
 * w4a4 and w2a2: 0.3 to 0.5 points lost). */
#include "quantize/quantizer.h"
#include <float.h>
#include <math.h>
#include <string.h>

/* Images whose largest values are taken for the channels' ranges. */
enum { EQUALIZE_IMAGES = 32 };
/* No channel moves by more than this: a channel that hardly ever speaks is no reason to. */
static const float MAX_FACTOR = 16.0f;
/* A channel may come this close to the bound of a clip that it does not reach now. */
static const float CLIP_MARGIN = 0.75f;

typedef struct pair {
    size_t first, second; /* blocks */
    float *range;         /* [channels]: largest |result| of the first */
} pair;

typedef struct equalizer {
    bb_quantization *q;
    pair *pairs;
    size_t n;
} equalizer;

/* ---- pairs ----------------------------------------------------------------------------------- */

static bool is_homogeneous(const bb_activation *act) {
    return act->kind == BB_ACTIVATION_NONE || act->kind == BB_ACTIVATION_LEAKY ||
           (act->kind == BB_ACTIVATION_CLIP && act->lo == 0.0f && act->hi > 0.0f);
}

/** The one block that reads the value, as data of a Conv, or -1. */
static int sole_conv_reader(const bb_quantization *q, int value) {
    int reader = -1;
    for (size_t i = 0; i < q->graph->n_outputs; i++)
        if (q->graph->outputs[i] == value)
            return -1;
    for (size_t b = 0; b < q->plan.n; b++) {
        const bb_block *block = &q->plan.blocks[b];
        for (int i = 0; i < block->n_in; i++) {
            if (block->in[i] != value)
                continue;
            if (reader >= 0 || i > 0 || block->kind != BB_BLOCK_CONV)
                return -1;
            reader = (int)b;
        }
    }
    return reader >= 0 && q->graph->nodes[q->plan.blocks[reader].node].op == BB_OP_CONV ? reader
                                                                                        : -1;
}

static bool is_depthwise(const bb_conv_shape *s) {
    return s->groups > 1 && s->depth == 1 && s->rows == s->groups;
}

static bool find_pair(const bb_quantization *q, size_t b, pair *p) {
    const bb_block *block = &q->plan.blocks[b];
    if (block->kind != BB_BLOCK_CONV || block->n_in != 1 || !is_homogeneous(&block->activation) ||
        q->graph->nodes[block->node].op != BB_OP_CONV)
        return false;
    int second = sole_conv_reader(q, block->output);
    if (second < 0)
        return false;
    *p = (pair){.first = b, .second = (size_t)second};
    return is_depthwise(&q->targets[second].shape);
}

/* ---- ranges ---------------------------------------------------------------------------------- */

static int tap_range(void *user, int value, const bb_array *array) {
    equalizer *e = user;
    for (size_t i = 0; i < e->n; i++) {
        if (e->q->plan.blocks[e->pairs[i].first].output != value)
            continue;
        size_t channels = e->q->targets[e->pairs[i].first].shape.rows;
        size_t pixels = bb_quantize_elements(e->q, value) / channels;
        const float *x = array->data;
        for (size_t c = 0; c < channels; c++)
            for (size_t k = 0; k < pixels; k++, x++)
                e->pairs[i].range[c] = fmaxf(e->pairs[i].range[c], fabsf(*x));
    }
    return 0;
}

static bb_status run_images(equalizer *e, bb_executor *executor, float *x, bb_error *err) {
    bb_quantization *q = e->q;
    const bb_value *in = &q->graph->values[q->graph->inputs[0]];
    bb_array input = {.dtype = BB_DTYPE_F32, .rank = in->rank, .data = x};
    memcpy(input.dims, in->dims, sizeof(input.dims));
    size_t n = q->count < EQUALIZE_IMAGES ? q->count : EQUALIZE_IMAGES;
    for (size_t i = 0; i < n; i++) {
        if (q->calibration(q->user, i, x) != 0)
            return bb_fail(err, BB_STATUS_CANCELLED, "calibration stopped at image %zu", i);
        BB_TRY(bb_executor_run(executor, &input, tap_range, e, err));
        BB_TRY(bb_quantize_progress(q, "equalize", i + 1, n, err));
    }
    return BB_STATUS_OK;
}

static bb_status measure_ranges(equalizer *e, bb_error *err) {
    bb_quantization *q = e->q;
    bb_runners runners = {0};
    int *tapped = bb_arena_array(q->arena, e->n, sizeof(*tapped));
    float *x = bb_alloc_array(bb_quantize_elements(q, q->graph->inputs[0]), sizeof(*x));
    bb_status status = tapped && x ? BB_STATUS_OK : bb_fail_memory(err, "channel ranges");
    for (size_t i = 0; status == BB_STATUS_OK && i < e->n; i++) {
        size_t first = e->pairs[i].first;
        tapped[i] = q->plan.blocks[first].output;
        e->pairs[i].range = bb_arena_array(q->arena, q->targets[first].shape.rows, sizeof(float));
        if (!e->pairs[i].range)
            status = bb_fail_memory(err, "channel ranges");
    }
    if (status == BB_STATUS_OK)
        status = bb_runners_create(&runners, q->graph, tapped, e->n, 1, err);
    if (status == BB_STATUS_OK)
        status = run_images(e, runners.executors[0], x, err);
    if (runners.executors)
        bb_runners_destroy(&runners);
    bb_free(x);
    return status;
}

/* ---- factors --------------------------------------------------------------------------------- */

/** By what the first layer's channels are divided, at most 1: all ranges become equal. */
static void choose_factors(const bb_quantization *q, const pair *p, float *factor) {
    size_t n = q->targets[p->first].shape.rows;
    float top = 0.0f;
    for (size_t c = 0; c < n; c++)
        top = fmaxf(top, p->range[c]);
    for (size_t c = 0; c < n; c++)
        factor[c] = top > 0.0f ? fmaxf(p->range[c] / top, 1.0f / MAX_FACTOR) : 1.0f;
}

/** A bound that a channel reaches must stay where it is, and others must not be met. */
static void respect_clip(const bb_quantization *q, const pair *p, float *factor) {
    const bb_activation *act = &q->plan.blocks[p->first].activation;
    if (act->kind != BB_ACTIVATION_CLIP || !(act->hi < FLT_MAX))
        return;
    for (size_t c = 0; c < q->targets[p->first].shape.rows; c++) {
        float least = p->range[c] / (CLIP_MARGIN * act->hi);
        factor[c] = least >= 1.0f ? 1.0f : fmaxf(factor[c], least);
    }
}

/* ---- rewriting ------------------------------------------------------------------------------- */

/** A private copy of a constant, which only this node reads from now on. */
static float *own_constant(bb_graph *graph, int node, int input, bb_error *err) {
    int value = graph->nodes[node].in[input];
    const bb_value old = graph->values[value];
    void *data;
    int copy = bb_graph_add_constant(graph, old.name, old.dtype, old.rank, old.dims, &data);
    size_t n;
    if (copy < 0 || !bb_value_elements(&old, &n)) {
        bb_fail_memory(err, "equalised weights");
        return NULL;
    }
    memcpy(data, old.data, n * sizeof(float));
    graph->nodes[node].in[input] = copy;
    return data;
}

static bb_status rewrite(bb_quantization *q, const pair *p, const float *factor, bb_error *err) {
    const bb_conv_shape *a = &q->targets[p->first].shape, *b = &q->targets[p->second].shape;
    int first = q->plan.blocks[p->first].node, second = q->plan.blocks[p->second].node;
    float *wa = own_constant(q->graph, first, 1, err);
    float *wb = wa ? own_constant(q->graph, second, 1, err) : NULL;
    if (!wb)
        return BB_STATUS_OUT_OF_MEMORY;
    size_t d = (size_t)a->taps * a->depth;
    for (size_t i = 0; i < a->rows * d; i++)
        wa[i] /= factor[i / d];
    for (size_t i = 0; i < (size_t)b->rows * b->taps; i++)
        wb[i] *= factor[i / b->taps];
    if (!bb_node_has_input(&q->graph->nodes[first], 2))
        return BB_STATUS_OK;
    float *bias = own_constant(q->graph, first, 2, err);
    if (!bias)
        return BB_STATUS_OUT_OF_MEMORY;
    for (size_t r = 0; r < a->rows; r++)
        bias[r] /= factor[r];
    return BB_STATUS_OK;
}

bb_status bb_quantize_equalize(bb_quantization *q, bool *changed, bb_error *err) {
    equalizer e = {.q = q, .pairs = bb_arena_array(q->arena, q->plan.n + 1, sizeof(pair))};
    *changed = false;
    if (!e.pairs)
        return bb_fail_memory(err, "layer pairs");
    for (size_t b = 0; b < q->plan.n; b++)
        if (find_pair(q, b, &e.pairs[e.n]))
            e.n++;
    if (e.n == 0)
        return BB_STATUS_OK;
    *changed = true;
    q->stored = NULL; /* nothing is stored yet, and the graph is about to get more values */
    BB_TRY(measure_ranges(&e, err));
    for (size_t i = 0; i < e.n; i++) {
        float *factor =
            bb_arena_array(q->arena, q->targets[e.pairs[i].first].shape.rows, sizeof(*factor));
        if (!factor)
            return bb_fail_memory(err, "channel factors");
        choose_factors(q, &e.pairs[i], factor);
        respect_clip(q, &e.pairs[i], factor);
        BB_TRY(rewrite(q, &e.pairs[i], factor, err));
    }
    return BB_STATUS_OK;
}
