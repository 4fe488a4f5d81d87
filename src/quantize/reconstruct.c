/* SPDX-License-Identifier: Apache-2.0 */
/* Block reconstruction with straight-through weights (BRECQ, Li et al. 2021; QDrop, Wei et al.
 * 2022): each span of the network learns to give what the float network gives behind it, while half
 * of the elements of its input come from the float network. */
#include "nn/loss.h"
#include "quantize/tune.h"
#include <string.h>

enum { ITERATIONS = 300, BATCH = 32 };
/* Gains and biases stay: where much of a span's signal is error, the least squared error is reached
 * by a weaker signal, and they would undo the spread that the solver has matched. */
static const bb_tune_rates RATES = {0.01f, 0.0f, 0.002f, 0.0f};
/* Spans of more elements would need too much memory for all images: they are left to bb_distill. */
static const size_t CACHE_BYTES = (size_t)1024 << 20;

typedef struct reconstruction {
    bb_student *s;
    size_t n, batch; /* images */
    float *wanted;   /* [n][elements] values of the float network where the span begins */
    float *made;     /* the same of the quantized network */
    float *x, *gradient;
    uint32_t *order; /* [n] images, shuffled anew in each pass */
    bb_rng rng;
    size_t done, total; /* for progress */
} reconstruction;

/* ---- going on to the next span --------------------------------------------------------------- */

/** All images through one program; the last batch overlaps the one before. */
static bb_status run_all(const reconstruction *r, bb_tuning *t, const bb_span *span,
                         const float *from, float *to, bb_error *err) {
    size_t n_in = bb_quantize_elements(r->s->q, span->in);
    size_t n_out = bb_quantize_elements(r->s->q, span->out);
    for (size_t first = 0; first < r->n; first += r->batch) {
        size_t at = first + r->batch > r->n ? r->n - r->batch : first;
        bb_array y;
        BB_TRY(bb_tuning_forward(t, from + at * n_in, err));
        BB_TRY(bb_gradient_value(t->program, span->out, &y, err));
        memcpy(to + at * n_out, y.data, r->batch * n_out * sizeof *to);
    }
    return BB_STATUS_OK;
}

static bb_status advance(reconstruction *r, bool student, const bb_span *span, const float *from,
                         float **to, bb_error *err) {
    bb_tuning t;
    *to = bb_alloc_array(r->n, bb_quantize_elements(r->s->q, span->out) * sizeof **to);
    if (!*to)
        return bb_fail_memory(err, "activations of the calibration images");
    BB_TRY(bb_tuning_open(r->s, student, span, NULL, 0, r->batch, NULL, &t, err));
    bb_status status = run_all(r, &t, span, from, *to, err);
    bb_tuning_close(&t);
    return status;
}

/* ---- one span -------------------------------------------------------------------------------- */

/** Target of image k of the batch, at the end of the span. */
static bb_status iterate(reconstruction *r, bb_tuning *t, const bb_span *span, const float *target,
                         size_t it, bb_error *err) {
    size_t n_in = bb_quantize_elements(r->s->q, span->in);
    size_t n_out = bb_quantize_elements(r->s->q, span->out);
    size_t per_pass = r->n / r->batch, first = it % per_pass * r->batch;
    bb_array y;
    if (first == 0)
        bb_tuning_shuffle(&r->rng, r->order, r->n);
    for (size_t k = 0; k < r->batch; k++) {
        size_t image = r->order[first + k];
        bb_reference_mix(&r->rng, r->made + image * n_in, r->wanted + image * n_in, r->x + k * n_in,
                         n_in);
    }
    BB_TRY(bb_tuning_forward(t, r->x, err));
    BB_TRY(bb_gradient_value(t->program, span->out, &y, err));
    memset(r->gradient, 0, r->batch * n_out * sizeof *r->gradient);
    for (size_t k = 0; k < r->batch; k++)
        bb_loss_mean_square((const float *)y.data + k * n_out, target + r->order[first + k] * n_out,
                            n_out, 1.0, r->gradient + k * n_out);
    bb_gradient_seed seed = {span->out, r->gradient};
    BB_TRY(bb_gradient_backward(t->program, &seed, 1, err));
    bb_tuning_step(t, it, ITERATIONS);
    return BB_STATUS_OK;
}

static bb_status train_span(reconstruction *r, const bb_span *span, const float *target,
                            bb_error *err) {
    bb_tuning t;
    r->x = bb_alloc_array(r->batch, bb_quantize_elements(r->s->q, span->in) * sizeof *r->x);
    r->gradient =
        bb_alloc_array(r->batch, bb_quantize_elements(r->s->q, span->out) * sizeof *r->gradient);
    bb_status status = r->x && r->gradient ? BB_STATUS_OK : bb_fail_memory(err, "a batch");
    if (status == BB_STATUS_OK)
        status = bb_tuning_open(r->s, true, span, NULL, 0, r->batch, &RATES, &t, err);
    if (status == BB_STATUS_OK) {
        for (size_t it = 0; it < ITERATIONS && status == BB_STATUS_OK; it++) {
            status = iterate(r, &t, span, target, it, err);
            if (status == BB_STATUS_OK && it % 32 == 0)
                status = bb_quantize_progress(r->s->q, "reconstruct", r->done * ITERATIONS + it,
                                              r->total * ITERATIONS, err);
        }
        bb_tuning_close(&t);
    }
    bb_free(r->x);
    bb_free(r->gradient);
    return status;
}

/** Trains the span and moves on behind it. */
static bb_status do_span(reconstruction *r, const bb_span *span, bb_error *err) {
    float *wanted = NULL, *made = NULL;
    bb_status status = advance(r, false, span, r->wanted, &wanted, err);
    if (status == BB_STATUS_OK && bb_tuning_learns(r->s, span)) {
        status = train_span(r, span, wanted, err);
        r->done++;
    }
    if (status == BB_STATUS_OK)
        status = advance(r, true, span, r->made, &made, err);
    bb_free(r->wanted);
    bb_free(r->made);
    r->wanted = wanted;
    r->made = made;
    return status;
}

/* ---- all spans ------------------------------------------------------------------------------- */

static bool fits(const bb_student *s, const bb_span *span, size_t n) {
    return span->out >= 0 &&
           bb_quantize_elements(s->q, span->out) <= CACHE_BYTES / (n * sizeof(float));
}

/** Starts with parts of the images: what the solver has seen it fits far better than any other. */
static bb_status begin(reconstruction *r, const float *images, bb_error *err) {
    size_t elements = bb_quantize_elements(r->s->q, r->s->q->graph->inputs[0]);
    size_t bytes = r->n * elements * sizeof(float);
    r->order = bb_alloc_array(r->n, sizeof *r->order);
    r->wanted = bb_alloc(bytes);
    r->made = bb_alloc(bytes);
    if (!r->order || !r->wanted || !r->made)
        return bb_fail_memory(err, "calibration images");
    bb_rng_seed(&r->rng, r->s->q->options->seed ^ 0x7265636full);
    for (size_t i = 0; i < r->n; i++) {
        bb_quantize_move_image(r->s->q, images + i * elements, &r->rng, r->wanted + i * elements);
        r->order[i] = (uint32_t)i;
    }
    memcpy(r->made, r->wanted, bytes);
    return BB_STATUS_OK;
}

bb_status bb_reconstruct(bb_student *s, const float *images, bb_error *err) {
    bb_span *spans;
    size_t n;
    reconstruction r = {.s = s, .n = s->q->images};
    r.batch = bb_tuning_batch(s, BATCH);
    BB_TRY(bb_tune_spans(s->q, &spans, &n, err));
    size_t usable = 0;
    while (usable < n && fits(s, &spans[usable], r.n))
        r.total += bb_tuning_learns(s, &spans[usable++]);
    bb_status status = begin(&r, images, err);
    for (size_t i = 0; i < usable && status == BB_STATUS_OK; i++)
        status = do_span(&r, &spans[i], err);
    bb_free(r.order);
    bb_free(r.wanted);
    bb_free(r.made);
    return status;
}
