/* SPDX-License-Identifier: Apache-2.0 */
/* Distillation of the whole network on the calibration images: the float network says what is
 * right, so images need no labels and may be turned and moved. */
#include "nn/loss.h"
#include "quantize/tune.h"
#include <math.h>
#include <string.h>

enum { EPOCHS = 40, BATCH = 16, MAX_OUTPUTS = 16 };
static const bb_tune_rates RATES = {0.003f, 0.001f, 0.001f, 0.001f};
/* Images move by at most this part of their size. */
static const double SHIFT = 1.0 / 16;
static const double TEMPERATURE = 1.0;

typedef struct distillation {
    bb_student *s;
    size_t n, batch, elements;
    bb_tuning teacher, student;
    float *x;
    float *gradient[MAX_OUTPUTS];
    uint32_t *order;
    bb_rng rng;
} distillation;

/* ---- images -------------------------------------------------------------------------------------
 */

/** Moves an image by (dy, dx), border pixels repeated, and mirrors it. */
static void move_image(const float *from, float *to, const int64_t *dims, int64_t dy, int64_t dx,
                       bool mirror) {
    for (int64_t c = 0; c < dims[1]; c++)
        for (int64_t y = 0; y < dims[2]; y++) {
            int64_t sy = y + dy < 0 ? 0 : y + dy >= dims[2] ? dims[2] - 1 : y + dy;
            const float *row = from + (c * dims[2] + sy) * dims[3];
            for (int64_t x = 0; x < dims[3]; x++) {
                int64_t sx = (mirror ? dims[3] - 1 - x : x) + dx;
                *to++ = row[sx < 0 ? 0 : sx >= dims[3] ? dims[3] - 1 : sx];
            }
        }
}

static void load_image(distillation *d, const float *from, float *to) {
    const bb_value *in = &d->s->q->graph->values[d->s->q->graph->inputs[0]];
    if (in->rank != 4) {
        memcpy(to, from, d->elements * sizeof *to);
        return;
    }
    uint64_t reach[2];
    int64_t by[2];
    for (int i = 0; i < 2; i++) {
        reach[i] = (uint64_t)((double)in->dims[2 + i] * SHIFT);
        by[i] = (int64_t)bb_rng_below(&d->rng, 2 * reach[i] + 1) - (int64_t)reach[i];
    }
    move_image(from, to, in->dims, by[0], by[1], bb_rng_below(&d->rng, 2) == 1);
}

static void shuffle(distillation *d) {
    for (size_t i = d->n; i > 1; i--) {
        size_t j = (size_t)bb_rng_below(&d->rng, i);
        uint32_t other = d->order[i - 1];
        d->order[i - 1] = d->order[j];
        d->order[j] = other;
    }
}

/* ---- one step -----------------------------------------------------------------------------------
 */

static double mean_of_squares(const float *x, size_t n) {
    double sum = 0.0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return n ? sum / (double)n : 0.0;
}

/** Class scores by divergence, anything else by squared error relative to its size. */
static bb_status add_loss(distillation *d, size_t output, bb_gradient_seed *seed, bb_error *err) {
    bb_array is, want;
    int value = bb_tuning_score(d->student.graph, d->student.graph->outputs[output]);
    int right = bb_tuning_score(d->teacher.graph, d->teacher.graph->outputs[output]);
    BB_TRY(bb_gradient_value(d->student.program, value, &is, err));
    BB_TRY(bb_gradient_value(d->teacher.program, right, &want, err));
    size_t n = 1;
    bb_dims_product(is.dims, (size_t)is.rank, &n);
    memset(d->gradient[output], 0, n * sizeof(float));
    if (is.rank == 2 && is.dims[1] > 1) {
        bb_loss_distillation(is.data, want.data, d->batch, n / d->batch, TEMPERATURE, 1.0,
                             d->gradient[output]);
    } else {
        double size = mean_of_squares(want.data, n);
        bb_loss_mean_square(is.data, want.data, n, 1.0 / (size + 1e-12), d->gradient[output]);
    }
    *seed = (bb_gradient_seed){value, d->gradient[output]};
    return BB_STATUS_OK;
}

static bb_status step(distillation *d, const float *images, size_t first, float rate,
                      bb_error *err) {
    bb_gradient_seed seeds[MAX_OUTPUTS];
    size_t n = d->student.graph->n_outputs;
    for (size_t k = 0; k < d->batch; k++)
        load_image(d, images + d->order[first + k] * d->elements, d->x + k * d->elements);
    BB_TRY(bb_tuning_forward(&d->teacher, d->x, err));
    BB_TRY(bb_tuning_forward(&d->student, d->x, err));
    for (size_t i = 0; i < n; i++)
        BB_TRY(add_loss(d, i, &seeds[i], err));
    BB_TRY(bb_gradient_backward(d->student.program, seeds, n, err));
    bb_optimizer_step(d->student.optimizer, rate);
    return BB_STATUS_OK;
}

/* ---- all steps ----------------------------------------------------------------------------------
 */

static bb_status train(distillation *d, const float *images, bb_error *err) {
    size_t per_epoch = d->n / d->batch, total = per_epoch * EPOCHS;
    for (size_t i = 0; i < total; i++) {
        if (i % per_epoch == 0)
            shuffle(d);
        BB_TRY(step(d, images, i % per_epoch * d->batch, bb_tuning_schedule(i, total), err));
        if (i % 8 == 0)
            BB_TRY(bb_quantize_progress(d->s->q, "distill", i, total, err));
    }
    return bb_quantize_progress(d->s->q, "distill", total, total, err);
}

static bb_status open_programs(distillation *d, bb_error *err) {
    bb_span all = {0, d->s->q->plan.n, d->s->q->graph->inputs[0], -1};
    BB_TRY(bb_tuning_open(d->s, false, &all, d->batch, NULL, &d->teacher, err));
    return bb_tuning_open(d->s, true, &all, d->batch, &RATES, &d->student, err);
}

static bb_status allocate(distillation *d, bb_error *err) {
    const bb_graph *graph = d->student.graph;
    d->x = bb_alloc_array(d->batch, d->elements * sizeof *d->x);
    d->order = bb_alloc_array(d->n, sizeof *d->order);
    bool ok = d->x && d->order;
    for (size_t i = 0; i < graph->n_outputs && ok; i++) {
        size_t n = 0;
        int value = bb_tuning_score(graph, graph->outputs[i]);
        ok = bb_value_elements(&graph->values[value], &n) &&
             (d->gradient[i] = bb_alloc_array(d->batch * n, sizeof(float))) != NULL;
    }
    if (!ok)
        return bb_fail_memory(err, "distillation");
    for (size_t i = 0; i < d->n; i++)
        d->order[i] = (uint32_t)i;
    bb_rng_seed(&d->rng, d->s->q->options->seed ^ 0x6469737469ull);
    return BB_STATUS_OK;
}

bb_status bb_distill(bb_student *s, const float *images, bb_error *err) {
    distillation d = {.s = s, .n = s->q->images};
    if (s->q->graph->n_outputs > MAX_OUTPUTS)
        return BB_STATUS_OK;
    d.batch = d.n < BATCH ? d.n : BATCH;
    d.elements = bb_quantize_elements(s->q, s->q->graph->inputs[0]);
    bb_status status = open_programs(&d, err);
    if (status == BB_STATUS_OK)
        status = allocate(&d, err);
    if (status == BB_STATUS_OK)
        status = train(&d, images, err);
    bb_tuning_close(&d.teacher);
    bb_tuning_close(&d.student);
    for (size_t i = 0; i < MAX_OUTPUTS; i++)
        bb_free(d.gradient[i]);
    bb_free(d.x);
    bb_free(d.order);
    return status;
}
