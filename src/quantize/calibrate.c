/* SPDX-License-Identifier: Apache-2.0 */
/* The float pass: what range every value has, and what every layer should produce. */
#include "quantize/grid.h"
#include "quantize/quantizer.h"
#include <math.h>
#include <string.h>

/* Images between two calls of the caller's function, which is not asked to be thread-safe. */
enum { ROUND = 16 };
/* Memory for wanted results and for the simulated network's activations. */
static const size_t TARGET_BYTES = (size_t)512 << 20, STORE_BYTES = (size_t)1536 << 20;

typedef struct calibration {
    bb_quantization *q;
    const bb_graph *graph; /* that runs: q->graph, or one with the same values */
    bool only_observe;     /* histograms, no targets or stored inputs */
    bb_runners runners;
    bb_histogram *seen;     /* [workers][n_classes] */
    float *inputs;          /* [ROUND][elements] */
    size_t elements, first; /* of the input; image number of inputs[0] */
    int *block_before; /* [n_values]: CONV block whose result before the activation it is, or -1 */
    bb_status *status; /* [ROUND] */
    bb_error *errors;  /* [ROUND] */
} calibration;

/* ---- sizes ----------------------------------------------------------------------------------- */

size_t bb_quantize_position(const bb_quantization *q, size_t block, size_t image, size_t k) {
    const bb_target *t = &q->targets[block];
    if (t->samples == t->pixels)
        return k;
    /* One position from each of `samples` equal stretches of the image. */
    bb_rng rng;
    bb_rng_seed(&rng, q->options->seed ^ (uint64_t)block << 40 ^ (uint64_t)image << 16 ^ k);
    double at = ((double)k + bb_rng_uniform(&rng)) / (double)t->samples;
    size_t position = (size_t)(at * (double)t->pixels);
    return position < t->pixels ? position : t->pixels - 1;
}

/** Samples a layer of d inputs deserves in all. */
static size_t samples_for(bb_effort effort, size_t d) {
    size_t least = effort == BB_EFFORT_FAST ? 4096 : 8192;
    size_t most = effort == BB_EFFORT_FAST ? 4096 : effort == BB_EFFORT_BEST ? 65536 : 32768;
    size_t n = (effort == BB_EFFORT_BEST ? 16 : 8) * d;
    return n < least ? least : n > most ? most : n;
}

static size_t stored_bytes(const bb_quantization *q, int value) {
    size_t bytes = 0, n = bb_quantize_elements(q, value);
    for (size_t p = 0; p < q->n_profiles; p++) {
        const bb_value_quant *v = &q->profiles[p].values[value];
        for (int g = 0; g < v->n; g++)
            bytes += n * (v->grids[g].bits > 8 ? 2 : 1);
        bytes += v->n ? 0 : n * sizeof(float);
    }
    if (bb_reference_wanted(q) && value != q->graph->inputs[0])
        bytes += n * sizeof(uint16_t);
    return bytes;
}

/** Most bytes stored at once for one image. */
static size_t peak_bytes(const bb_quantization *q) {
    size_t now = stored_bytes(q, q->graph->inputs[0]), peak = now;
    for (size_t b = 0; b < q->plan.n; b++) {
        const bb_block *block = &q->plan.blocks[b];
        if (q->last_reader[block->output] >= 0)
            now += stored_bytes(q, block->output);
        peak = now > peak ? now : peak;
        for (int i = 0; i < block->n_in; i++) {
            bool again = false;
            for (int j = 0; j < i; j++)
                again |= block->in[j] == block->in[i];
            if (!again && q->last_reader[block->in[i]] == (int)b)
                now -= stored_bytes(q, block->in[i]);
        }
    }
    return peak;
}

static void choose_sizes(bb_quantization *q) {
    size_t peak = peak_bytes(q), total = 0;
    size_t most = bb_reference_wanted(q) ? 2 * STORE_BYTES : STORE_BYTES;
    q->images = peak > 0 && most / peak < q->count ? most / peak : q->count;
    q->images = q->images ? q->images : 1;
    for (int pass = 0; pass < 2; pass++) {
        double keep = pass && total > TARGET_BYTES ? (double)TARGET_BYTES / (double)total : 1.0;
        for (size_t b = 0; b < q->plan.n; b++) {
            bb_target *t = &q->targets[b];
            if (q->plan.blocks[b].kind != BB_BLOCK_CONV)
                continue;
            t->pixels = bb_quantize_elements(q, q->plan.blocks[b].pre_activation) / t->shape.rows;
            size_t d = (size_t)t->shape.taps * t->shape.depth;
            double rows = keep * (double)samples_for(q->options->effort, d);
            t->samples = (size_t)ceil(rows / (double)q->images);
            t->samples = t->samples < t->pixels ? t->samples : t->pixels;
            total += pass ? 0 : t->samples * q->images * t->shape.rows * sizeof(float);
        }
    }
}

static bb_status allocate_targets(bb_quantization *q, bb_error *err) {
    for (size_t b = 0; b < q->plan.n; b++) {
        bb_target *t = &q->targets[b];
        size_t n;
        if (q->plan.blocks[b].kind != BB_BLOCK_CONV)
            continue;
        if (!bb_size_mul(t->samples * q->images, t->shape.rows, &n) ||
            !(t->y = bb_alloc_array(n, sizeof(float))))
            return bb_fail_memory(err, "results of the calibration images");
    }
    return BB_STATUS_OK;
}

/* ---- one image ------------------------------------------------------------------------------- */

typedef struct tap_state {
    calibration *c;
    size_t image;
    bb_histogram *seen;
    bb_error *err;
} tap_state;

static void keep_target(const calibration *c, size_t block, size_t image, const float *y) {
    const bb_target *t = &c->q->targets[block];
    size_t rows = t->shape.rows;
    float *to = t->y + image * t->samples * rows;
    for (size_t k = 0; k < t->samples; k++, to += rows) {
        size_t at = bb_quantize_position(c->q, block, image, k);
        for (size_t r = 0; r < rows; r++)
            to[r] = y[r * t->pixels + at];
    }
}

static int tap_value(void *user, int value, const bb_array *array) {
    tap_state *s = user;
    bb_quantization *q = s->c->q;
    size_t n = bb_quantize_elements(q, value);
    if (q->observed[value] && !bb_histogram_add(&s->seen[q->class_of[value]], array->data, n)) {
        bb_fail(s->err, BB_STATUS_INVALID_ARGUMENT,
                "%s: value '%s' is not finite for calibration image %zu", q->graph->name,
                q->graph->values[value].name, s->image);
        return 1;
    }
    int block = s->c->block_before[value];
    if (block >= 0 && s->image < q->images)
        keep_target(s->c, (size_t)block, s->image, array->data);
    return 0;
}

static void image_task(void *user, size_t task, size_t worker) {
    calibration *c = user;
    bb_quantization *q = c->q;
    const bb_value *in = &q->graph->values[q->graph->inputs[0]];
    bb_array input = {
        .dtype = BB_DTYPE_F32, .rank = in->rank, .data = c->inputs + task * c->elements};
    memcpy(input.dims, in->dims, sizeof input.dims);
    tap_state state = {c, c->first + task, c->seen + worker * q->n_classes, &c->errors[task]};
    bb_error err;
    c->errors[task].status = BB_STATUS_OK;
    bb_status status =
        bb_executor_run(c->runners.executors[worker], &input, tap_value, &state, &err);
    if (status == BB_STATUS_CANCELLED)
        status = BB_STATUS_INVALID_ARGUMENT; /* the tap stopped it and said why */
    else if (status != BB_STATUS_OK)
        c->errors[task] = err;
    c->status[task] = status;
}

/* ---- the input ------------------------------------------------------------------------------- */

static float pixel_of(const bb_quantize_options *o, float x, size_t channel) {
    float u = (x * o->std[channel % 4] + o->mean[channel % 4]) / o->pixel_scale;
    return fminf(fmaxf(floorf(u + 0.5f), 0.0f), 255.0f);
}

/** The input's one copy per profile, as pixels, levels or calibrated codes. */
static void store_input(bb_quantization *q, size_t image, float *x) {
    int value = q->graph->inputs[0];
    size_t n = bb_quantize_elements(q, value);
    if (bb_quantize_is_pixels(q, value)) {
        size_t per_channel = n / (size_t)q->graph->values[value].dims[1];
        for (size_t i = 0; i < n; i++)
            x[i] = pixel_of(q->options, x[i], i / per_channel);
        for (size_t p = 0; p < q->n_profiles; p++)
            bb_store_write_codes(q, p, value, 0, image, x);
        return;
    }
    for (size_t p = 0; p < q->n_profiles; p++)
        bb_store_write(q, p, value, image, x);
}

static bb_status load_inputs(calibration *c, size_t n, bb_error *err) {
    for (size_t i = 0; i < n; i++)
        if (c->q->calibration(c->q->user, c->first + i, c->inputs + i * c->elements) != 0)
            return bb_fail(err, BB_STATUS_CANCELLED, "calibration stopped at image %zu",
                           c->first + i);
    return BB_STATUS_OK;
}

/** Where the input has no given grid its codes are made after the pass, from a second load. */
static bool input_grid_given(const bb_quantization *q) {
    const bb_value_class *k = &q->classes[q->class_of[q->graph->inputs[0]]];
    return k->fixed || k->n == 0;
}

static bb_status store_inputs(calibration *c, bb_error *err) {
    for (c->first = 0; c->first < c->q->images; c->first++) {
        BB_TRY(load_inputs(c, 1, err));
        store_input(c->q, c->first, c->inputs);
    }
    return BB_STATUS_OK;
}

/* ---- the pass -------------------------------------------------------------------------------- */

static bb_status run_round(calibration *c, size_t n, bb_error *err) {
    bb_pool_run(c->q->pool, n, image_task, c);
    for (size_t i = 0; i < n; i++) {
        if (c->status[i] != BB_STATUS_OK) {
            if (err)
                *err = c->errors[i];
            return c->status[i];
        }
        if (!c->only_observe && c->first + i < c->q->images && input_grid_given(c->q))
            store_input(c->q, c->first + i, c->inputs + i * c->elements);
    }
    return BB_STATUS_OK;
}

static bb_status run_images(calibration *c, bb_error *err) {
    bb_quantization *q = c->q;
    for (c->first = 0; c->first < q->count; c->first += ROUND) {
        size_t n = q->count - c->first < ROUND ? q->count - c->first : ROUND;
        BB_TRY(load_inputs(c, n, err));
        BB_TRY(run_round(c, n, err));
        BB_TRY(bb_quantize_progress(q, "calibrate", c->first + n, q->count, err));
    }
    return BB_STATUS_OK;
}

static bb_status merge_histograms(calibration *c, bb_error *err) {
    bb_quantization *q = c->q;
    for (size_t k = 0; k < q->n_classes; k++) {
        if (!q->classes[k].n)
            continue;
        q->classes[k].seen = bb_arena_alloc(q->arena, sizeof(bb_histogram));
        if (!q->classes[k].seen)
            return bb_fail_memory(err, "histograms");
        bb_histogram_init(q->classes[k].seen);
        for (size_t w = 0; w < q->threads; w++)
            bb_histogram_merge(q->classes[k].seen, &c->seen[w * q->n_classes + k]);
    }
    return BB_STATUS_OK;
}

static void grid_task(void *user, size_t k, size_t worker) {
    bb_quantization *q = user;
    const bb_value_class *c = &q->classes[k];
    bb_grid grids[BB_QUANTIZE_MAX_PROFILES];
    (void)worker;
    for (int g = 0; g < c->n && !c->fixed; g++) {
        for (size_t p = 0; p < q->n_profiles; p++) {
            size_t same = 0;
            while (c->bits[g][same] != c->bits[g][p])
                same++;
            grids[p] =
                same < p ? grids[same] : bb_grid_search(c->seen, c->bits[g][p], c->lo, c->hi);
            for (size_t v = 0; v < q->graph->n_values; v++)
                if (q->class_of[v] == (int)k)
                    q->profiles[p].values[v].grids[g] = grids[p];
        }
    }
}

/** Values the executor is to show. */
static bb_status list_taps(calibration *c, int **tapped, size_t *n, bb_error *err) {
    bb_quantization *q = c->q;
    *n = 0;
    *tapped = bb_arena_array(q->arena, q->graph->n_values, sizeof **tapped);
    c->block_before = bb_arena_array(q->arena, q->graph->n_values, sizeof *c->block_before);
    if (!*tapped || !c->block_before)
        return bb_fail_memory(err, "calibration tables");
    for (size_t v = 0; v < q->graph->n_values; v++)
        c->block_before[v] = -1;
    for (size_t b = 0; b < q->plan.n; b++)
        if (q->plan.blocks[b].kind == BB_BLOCK_CONV && !c->only_observe)
            c->block_before[q->plan.blocks[b].pre_activation] = (int)b;
    for (size_t v = 0; v < q->graph->n_values; v++)
        if (q->observed[v] || c->block_before[v] >= 0)
            (*tapped)[(*n)++] = (int)v;
    return BB_STATUS_OK;
}

static bb_status open_calibration(calibration *c, bb_error *err) {
    bb_quantization *q = c->q;
    int *tapped;
    size_t n_tapped, n_seen = q->threads * q->n_classes;
    if (!c->only_observe) {
        choose_sizes(q);
        BB_TRY(allocate_targets(q, err));
    }
    BB_TRY(list_taps(c, &tapped, &n_tapped, err));
    c->elements = bb_quantize_elements(q, q->graph->inputs[0]);
    c->inputs = bb_alloc_array(c->elements, ROUND * sizeof(float));
    c->seen = bb_alloc_array(n_seen, sizeof *c->seen);
    c->status = bb_arena_array(q->arena, ROUND, sizeof *c->status);
    c->errors = bb_arena_array(q->arena, ROUND, sizeof *c->errors);
    if (!c->inputs || !c->seen || !c->status || !c->errors)
        return bb_fail_memory(err, "calibration images");
    for (size_t i = 0; i < n_seen; i++)
        bb_histogram_init(&c->seen[i]);
    for (size_t p = 0; p < q->n_profiles && !c->only_observe; p++)
        BB_TRY(bb_store_create(q, p, q->graph->inputs[0], err));
    return bb_runners_create(&c->runners, c->graph, tapped, n_tapped, q->threads, err);
}

static void close_calibration(calibration *c) {
    if (c->runners.executors)
        bb_runners_destroy(&c->runners);
    bb_free(c->inputs);
    bb_free(c->seen);
}

bb_status bb_quantize_observe(bb_quantization *q, const bb_graph *graph, bb_histogram *seen,
                              bb_error *err) {
    calibration c = {.q = q, .graph = graph, .only_observe = true};
    bb_status status = open_calibration(&c, err);
    if (status == BB_STATUS_OK)
        status = run_images(&c, err);
    for (size_t i = 0; status == BB_STATUS_OK && i < q->threads * q->n_classes; i++)
        bb_histogram_merge(&seen[i % q->n_classes], &c.seen[i]);
    close_calibration(&c);
    return status;
}

bb_status bb_quantize_calibrate(bb_quantization *q, bb_error *err) {
    calibration c = {.q = q, .graph = q->graph};
    bb_status status = open_calibration(&c, err);
    if (status == BB_STATUS_OK)
        status = run_images(&c, err);
    if (status == BB_STATUS_OK)
        status = merge_histograms(&c, err);
    if (status == BB_STATUS_OK) {
        bb_pool_run(q->pool, q->n_classes, grid_task, q);
        if (!input_grid_given(q))
            status = store_inputs(&c, err);
    }
    close_calibration(&c);
    return status;
}
