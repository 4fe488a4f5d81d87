/* SPDX-License-Identifier: Apache-2.0 */
/* What one block of the quantized network produces for every calibration image. */
#include "quantize/quantizer.h"
#include <math.h>
#include <string.h>

typedef struct simulation {
    bb_quantization *q;
    size_t block, profile;
    const bb_block *b;
    bb_graph *graph; /* of this block */
    bb_runners runners;
    int grid;               /* of code-preserving blocks: which one goes through */
    float **scratch;        /* [workers] inputs, then the result */
    size_t result;          /* where the result begins in scratch */
    double *signal, *noise; /* [images] at the sampled positions, first profile */
    bb_status *status;      /* [images] */
} simulation;

/* ---- running the block's graph --------------------------------------------------------------- */

static void load_inputs(const simulation *s, size_t image, float *scratch) {
    const bb_block_quant *quant = &s->q->profiles[s->profile].blocks[s->block];
    int n = s->b->kind == BB_BLOCK_CONV ? 1 : s->b->n_in;
    for (int i = 0; i < n; i++) {
        if (bb_quantize_passes_codes(s->b))
            bb_store_read_codes(s->q, s->profile, s->b->in[i], s->grid, image, scratch);
        else
            bb_store_read(s->q, s->profile, s->b->in[i], quant->in_grid[i], image, scratch);
        scratch += bb_quantize_elements(s->q, s->b->in[i]);
    }
}

/* ---- the end of a CONV block ----------------------------------------------------------------- */

static void activate(const bb_activation *act, float *x, size_t channel, size_t n) {
    float slope;
    switch (act->kind) {
    case BB_ACTIVATION_NONE:
        break;
    case BB_ACTIVATION_CLIP:
        for (size_t i = 0; i < n; i++) {
            float v = x[i] > act->lo ? x[i] : act->lo;
            x[i] = v < act->hi ? v : act->hi;
        }
        break;
    case BB_ACTIVATION_LEAKY:
        slope = act->slopes[act->n_slopes > 1 ? channel : 0];
        for (size_t i = 0; i < n; i++)
            x[i] = x[i] < 0.0f ? slope * x[i] : x[i];
        break;
    case BB_ACTIVATION_TABLE:
        for (size_t i = 0; i < n; i++)
            x[i] = (float)act->function((double)x[i], act->alpha, act->beta);
        break;
    }
}

/** Squared results and squared errors against the float network, at the sampled positions. */
static void measure(simulation *s, size_t image, const float *y) {
    const bb_target *t = &s->q->targets[s->block];
    size_t rows = t->shape.rows;
    const float *want = t->y + image * t->samples * rows;
    double signal = 0.0, noise = 0.0;
    for (size_t k = 0; k < t->samples; k++) {
        size_t at = bb_quantize_position(s->q, s->block, image, k);
        for (size_t r = 0; r < rows; r++) {
            double w = want[k * rows + r], e = y[r * t->pixels + at] - w;
            signal += w * w;
            noise += e * e;
        }
    }
    s->signal[image] = signal;
    s->noise[image] = noise;
}

/** Bias, shortcut and activation on the bare sums of a convolution. */
static void finish_conv(simulation *s, size_t image, float *residual, float *y) {
    const bb_target *t = &s->q->targets[s->block];
    const bb_block_quant *quant = &s->q->profiles[s->profile].blocks[s->block];
    size_t n = t->pixels, rows = t->shape.rows;
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < n; i++)
            y[r * n + i] += quant->bias[r];
    if (s->b->n_in > 1) {
        bb_store_read(s->q, s->profile, s->b->in[1], quant->in_grid[1], image, residual);
        for (size_t i = 0; i < rows * n; i++)
            y[i] += residual[i];
    }
    if (s->profile == 0)
        measure(s, image, y);
    for (size_t r = 0; r < rows; r++)
        activate(&s->b->activation, y + r * n, r, n);
}

/* ---- one image ------------------------------------------------------------------------------- */

static void image_task(void *user, size_t image, size_t worker) {
    simulation *s = user;
    bb_array inputs[BB_MAX_NODE_INPUTS], output;
    bb_executor *ex = s->runners.executors[worker];
    float *scratch = s->scratch[worker], *y = scratch + s->result;
    size_t n = bb_quantize_elements(s->q, s->b->output);
    load_inputs(s, image, scratch);
    bb_subgraph_list_inputs(s->q, s->b, s->b->kind == BB_BLOCK_CONV ? 1 : s->b->n_in, scratch,
                            inputs);
    s->status[image] = bb_executor_run(ex, inputs, NULL, NULL, NULL);
    if (s->status[image] == BB_STATUS_OK)
        s->status[image] = bb_executor_output(ex, 0, &output, NULL);
    if (s->status[image] != BB_STATUS_OK)
        return;
    if (bb_quantize_passes_codes(s->b)) {
        bb_store_write_codes(s->q, s->profile, s->b->output, s->grid, image, output.data);
        return;
    }
    memcpy(y, output.data, n * sizeof *y);
    if (s->b->kind == BB_BLOCK_CONV)
        finish_conv(s, image, scratch, y);
    if (s->q->last_reader[s->b->output] >= 0)
        bb_store_write(s->q, s->profile, s->b->output, image, y);
}

static bb_status run_images(simulation *s, bb_error *err) {
    bb_pool_run(s->q->pool, s->q->images, image_task, s);
    for (size_t i = 0; i < s->q->images; i++)
        if (s->status[i] != BB_STATUS_OK)
            return bb_fail(err, s->status[i], "node '%s' cannot be simulated",
                           s->q->graph->nodes[s->b->node].name);
    return BB_STATUS_OK;
}

/* ---- one block ------------------------------------------------------------------------------- */

float *bb_quantize_real_weights(const bb_quantization *q, size_t block, size_t profile) {
    const bb_block_codes *c = &q->codes[block];
    const bb_block_quant *quant = &q->profiles[profile].blocks[block];
    const bb_conv_shape *shape = &q->targets[block].shape;
    size_t d = (size_t)c->taps * c->depth;
    float *w = bb_alloc_array(c->rows * d, sizeof *w);
    bool raw = bb_quantize_is_pixels(q, q->plan.blocks[block].in[0]);
    for (size_t i = 0; w && i < c->rows * d; i++) {
        int32_t level = bb_block_level(c, quant->planes, i);
        size_t row = i / d, channel = i % c->depth;
        channel += row / (shape->rows / shape->groups) * c->depth;
        float unit = raw ? q->options->std[channel % 4] / q->options->pixel_scale : 1.0f;
        w[i] = quant->weight_scale[row] * (float)level * unit;
    }
    return w;
}

static bb_status make_graph(simulation *s, bb_error *err) {
    if (s->b->kind != BB_BLOCK_CONV)
        return bb_subgraph_of_block(s->q, s->b, &s->graph, err);
    float *weights = bb_quantize_real_weights(s->q, s->block, s->profile);
    if (!weights)
        return bb_fail_memory(err, "weights");
    bb_status status = bb_subgraph_of_conv(s->q, s->block, weights, &s->graph, err);
    bb_free(weights);
    return status;
}

static bb_status allocate(simulation *s, bb_error *err) {
    bb_quantization *q = s->q;
    size_t out = bb_quantize_elements(q, s->b->output);
    for (int i = 0; i < s->b->n_in; i++)
        s->result += bb_quantize_elements(q, s->b->in[i]);
    s->scratch = bb_calloc_array(q->threads, sizeof *s->scratch);
    s->status = bb_calloc_array(q->images, sizeof *s->status);
    s->signal = bb_calloc_array(q->images, 2 * sizeof *s->signal);
    bool ok = s->scratch && s->status && s->signal;
    for (size_t w = 0; ok && w < q->threads; w++)
        ok = (s->scratch[w] = bb_alloc_array(s->result + out, sizeof(float))) != NULL;
    if (!ok)
        return bb_fail_memory(err, "scratch of the simulation");
    s->noise = s->signal + q->images;
    return BB_STATUS_OK;
}

static void release(simulation *s) {
    for (size_t w = 0; s->scratch && w < s->q->threads; w++)
        bb_free(s->scratch[w]);
    bb_free(s->scratch);
    bb_free(s->status);
    bb_free(s->signal);
    if (s->runners.executors)
        bb_runners_destroy(&s->runners);
    bb_graph_destroy(s->graph);
}

static bb_status run_all(simulation *s, bb_error *err) {
    int n = s->q->profiles[s->profile].values[s->b->output].n;
    BB_TRY(make_graph(s, err));
    BB_TRY(bb_runners_create(&s->runners, s->graph, NULL, 0, s->q->threads, err));
    BB_TRY(allocate(s, err));
    for (s->grid = 0; s->grid == 0 || (bb_quantize_passes_codes(s->b) && s->grid < n); s->grid++)
        BB_TRY(run_images(s, err));
    return BB_STATUS_OK;
}

static void keep_sqnr(const simulation *s) {
    double signal = 0.0, noise = 0.0;
    for (size_t i = 0; i < s->q->images; i++) {
        signal += s->signal[i];
        noise += s->noise[i];
    }
    const bb_target *t = &s->q->targets[s->block];
    double n = (double)s->q->images * (double)t->samples * (double)t->shape.rows;
    s->q->sqnr[s->block] = (float)(10.0 * log10((signal + 1e-30) / (noise + 1e-30)));
    s->q->rms[s->block] = (float)sqrt(signal / n);
}

bb_status bb_quantize_simulate(bb_quantization *q, size_t block, size_t profile, bb_error *err) {
    simulation s = {.q = q, .block = block, .profile = profile, .b = &q->plan.blocks[block]};
    if (q->last_reader[s.b->output] >= 0)
        BB_TRY(bb_store_create(q, profile, s.b->output, err));
    bb_status status = run_all(&s, err);
    if (status == BB_STATUS_OK && s.b->kind == BB_BLOCK_CONV && profile == 0)
        keep_sqnr(&s);
    release(&s);
    return status;
}
