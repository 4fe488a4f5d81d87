/* SPDX-License-Identifier: Apache-2.0 */
/* Distillation of the whole network on the calibration images: the float network says what is
 * right, so images need no labels and may be turned and moved. */
#include "quantize/judge.h"
#include <string.h>

enum { EPOCHS = 30, BATCH = 16 };
static const bb_tune_rates RATES = {0.003f, 0.001f, 0.001f, 0.001f};
/* Of the errors between the spans beside that of the outputs. */
static const double INNER_WEIGHT = 1.0;

typedef struct distillation {
    bb_student *s;
    bb_span *spans;
    size_t n_spans;
    size_t n, batch, elements;
    bb_tuning teacher, student;
    float *x;
    bb_gradient_seed *seeds;
    float *gradient; /* of all outputs, then of the values between the spans */
    uint32_t *order;
    bb_rng rng;
} distillation;

/* ---- one step -------------------------------------------------------------------------------- */

/** Reads one value of both networks and takes room for its gradient. */
static bb_status read_pair(distillation *d, int value, int right, float **gradient, bb_array *is,
                           bb_array *want, size_t *n, bb_error *err) {
    BB_TRY(bb_gradient_value(d->student.program, value, is, err));
    BB_TRY(bb_gradient_value(d->teacher.program, right, want, err));
    *n = 1;
    bb_dims_product(is->dims, (size_t)is->rank, n);
    memset(*gradient, 0, *n * sizeof **gradient);
    return BB_STATUS_OK;
}

static bb_status add_output(distillation *d, size_t output, float **gradient,
                            bb_gradient_seed *seed, bb_error *err) {
    bb_array is, want;
    size_t n;
    int value = bb_tuning_score(d->student.graph, d->student.graph->outputs[output]);
    int right = bb_tuning_score(d->teacher.graph, d->teacher.graph->outputs[output]);
    BB_TRY(read_pair(d, value, right, gradient, &is, &want, &n, err));
    bb_judge_loss(&is, &want, *gradient);
    *seed = (bb_gradient_seed){value, *gradient};
    *gradient += n;
    return BB_STATUS_OK;
}

/** What goes from span to span: far more numbers than scores to learn from. */
static bb_status add_inner(distillation *d, const bb_span *span, float **gradient,
                           bb_gradient_seed *seed, bb_error *err) {
    bb_array is, want;
    size_t n;
    BB_TRY(read_pair(d, span->out, span->out, gradient, &is, &want, &n, err));
    bb_tuning_square(&is, &want, INNER_WEIGHT / (double)(d->n_spans - 1), *gradient);
    *seed = (bb_gradient_seed){span->out, *gradient};
    *gradient += n;
    return BB_STATUS_OK;
}

static bb_status step(distillation *d, const float *images, size_t first, size_t i, size_t total,
                      bb_error *err) {
    size_t n = 0;
    float *gradient = d->gradient;
    for (size_t k = 0; k < d->batch; k++)
        bb_quantize_move_image(d->s->q, images + d->order[first + k] * d->elements, &d->rng,
                               d->x + k * d->elements);
    BB_TRY(bb_tuning_forward(&d->teacher, d->x, err));
    BB_TRY(bb_tuning_forward(&d->student, d->x, err));
    for (size_t k = 0; k < d->student.graph->n_outputs; k++)
        BB_TRY(add_output(d, k, &gradient, &d->seeds[n++], err));
    for (size_t k = 0; k + 1 < d->n_spans; k++)
        BB_TRY(add_inner(d, &d->spans[k], &gradient, &d->seeds[n++], err));
    BB_TRY(bb_gradient_backward(d->student.program, d->seeds, n, err));
    bb_tuning_step(&d->student, i, total);
    return BB_STATUS_OK;
}

/* ---- all steps ------------------------------------------------------------------------------- */

static bb_status train(distillation *d, const float *images, bb_error *err) {
    size_t per_epoch = d->n / d->batch, total = per_epoch * EPOCHS;
    for (size_t i = 0; i < total; i++) {
        if (i % per_epoch == 0)
            bb_tuning_shuffle(&d->rng, d->order, d->n);
        BB_TRY(step(d, images, i % per_epoch * d->batch, i, total, err));
        if (i % 8 == 0)
            BB_TRY(bb_quantize_progress(d->s->q, "distill", i, total, err));
    }
    return bb_quantize_progress(d->s->q, "distill", total, total, err);
}

static bb_status open_programs(distillation *d, bb_error *err) {
    bb_span all = {0, d->s->q->plan.n, d->s->q->graph->inputs[0], -1};
    BB_TRY(bb_tune_spans(d->s->q, &d->spans, &d->n_spans, err));
    BB_TRY(
        bb_tuning_open(d->s, false, &all, d->spans, d->n_spans, d->batch, NULL, &d->teacher, err));
    return bb_tuning_open(d->s, true, &all, d->spans, d->n_spans, d->batch, &RATES, &d->student,
                          err);
}

/** Elements of everything that gets a gradient, for one batch. */
static size_t gradient_elements(const distillation *d) {
    const bb_graph *graph = d->student.graph;
    size_t sum = 0;
    for (size_t i = 0; i < graph->n_outputs; i++) {
        size_t n = 0;
        bb_value_elements(&graph->values[bb_tuning_score(graph, graph->outputs[i])], &n);
        sum += n;
    }
    for (size_t i = 0; i + 1 < d->n_spans; i++)
        sum += bb_quantize_elements(d->s->q, d->spans[i].out);
    return sum * d->batch;
}

static bb_status allocate(distillation *d, bb_error *err) {
    d->x = bb_alloc_array(d->batch, d->elements * sizeof *d->x);
    d->order = bb_alloc_array(d->n, sizeof *d->order);
    d->gradient = bb_alloc_array(gradient_elements(d), sizeof *d->gradient);
    d->seeds = bb_alloc_array(d->student.graph->n_outputs + d->n_spans, sizeof *d->seeds);
    if (!d->x || !d->order || !d->gradient || !d->seeds)
        return bb_fail_memory(err, "distillation");
    for (size_t i = 0; i < d->n; i++)
        d->order[i] = (uint32_t)i;
    bb_rng_seed(&d->rng, d->s->q->options->seed ^ 0x6469737469ull);
    return BB_STATUS_OK;
}

bb_status bb_distill(bb_student *s, const float *images, bb_error *err) {
    distillation d = {.s = s, .n = s->q->images};
    d.batch = bb_tuning_batch(s, BATCH);
    d.elements = bb_quantize_elements(s->q, s->q->graph->inputs[0]);
    bb_status status = open_programs(&d, err);
    if (status == BB_STATUS_OK)
        status = allocate(&d, err);
    if (status == BB_STATUS_OK)
        status = train(&d, images, err);
    bb_tuning_close(&d.teacher);
    bb_tuning_close(&d.student);
    bb_free(d.gradient);
    bb_free(d.seeds);
    bb_free(d.x);
    bb_free(d.order);
    return status;
}
