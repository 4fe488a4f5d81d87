/* SPDX-License-Identifier: Apache-2.0 */
#include "quantize/tune.h"
#include "nn/loss.h"
#include "quantize/judge.h"
#include <float.h>
#include <math.h>
#include <string.h>

static const float SMALLEST_STEP = 1e-8f;
/* No cut at a tensor so many times as large as one of the next two. */
static const double NARROW = 2.0;
/* Part of a training's steps in which its rate rises: Adam's first steps are of full size whatever
 * the gradients, and too many weights would change their codes at once. */
static const double WARM_UP = 0.1, PI = 3.14159265358979323846;
/* At the end it takes so much of a full step to leave a cell. */
static const float DAMPING = 0.3f;
/* Memory for the calibration images. */
static const size_t IMAGE_BYTES = (size_t)1024 << 20;

/* ---- spans ----------------------------------------------------------------------------------- */

static bool is_output(const bb_quantization *q, int value) {
    for (size_t i = 0; i < q->graph->n_outputs; i++)
        if (q->graph->outputs[i] == value)
            return true;
    return false;
}

/** last[v]: last block of the plan that reads v; n for outputs, -1 for none. */
static void find_last_readers(const bb_quantization *q, int *last) {
    for (size_t v = 0; v < q->graph->n_values; v++)
        last[v] = is_output(q, (int)v) ? (int)q->plan.n : -1;
    for (size_t b = 0; b < q->plan.n; b++)
        for (int i = 0; i < q->plan.blocks[b].n_in; i++)
            if (last[q->plan.blocks[b].in[i]] < (int)b)
                last[q->plan.blocks[b].in[i]] = (int)b;
}

/** The value behind block b when it is the only one that later blocks or the outputs need, or -1.
 */
static int cut_behind(const bb_quantization *q, const int *last, size_t b) {
    int found = -1;
    for (size_t i = 0; i < q->graph->n_inputs; i++)
        if (last[q->graph->inputs[i]] > (int)b)
            return -1;
    for (size_t k = 0; k <= b; k++) {
        int v = q->plan.blocks[k].output;
        if (last[v] <= (int)b)
            continue;
        if (found >= 0)
            return -1;
        found = v;
    }
    return found >= 0 && is_output(q, found) ? -1 : found;
}

/** What losses look at anyway is no cut. */
static bool is_score(const bb_quantization *q, int value) {
    for (size_t i = 0; i < q->graph->n_outputs; i++)
        if (bb_tuning_score(q->graph, q->graph->outputs[i]) == value)
            return true;
    return false;
}

static size_t find_cuts(const bb_quantization *q, const int *last, bb_span *cuts) {
    size_t n = 0;
    for (size_t b = 0; b + 1 < q->plan.n; b++) {
        int v = cut_behind(q, last, b);
        if (v >= 0 && !is_score(q, v))
            cuts[n++] = (bb_span){.end = b + 1, .out = v};
    }
    return n;
}

/** A vector, or what a global pool leaves of an image. */
static bool is_point(const bb_quantization *q, int value) {
    const bb_value *v = &q->graph->values[value];
    return v->rank < 4 || v->dims[2] * v->dims[3] == 1;
}

/** Cuts at tensors much larger than one of the next two are dropped: an expansion belongs to the
 *  projection that follows, a convolution to its pool. But not the last ones before a global pool:
 *  one vector an image is too little to learn the largest layers from. */
static size_t drop_wide_cuts(const bb_quantization *q, bb_span *cuts, size_t n) {
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        double size = (double)bb_quantize_elements(q, cuts[i].out);
        bool wide = false;
        for (size_t j = i + 1; j < n && j <= i + 2; j++)
            wide |= !is_point(q, cuts[j].out) &&
                    size > NARROW * (double)bb_quantize_elements(q, cuts[j].out);
        if (!wide)
            cuts[kept++] = cuts[i];
    }
    return kept;
}

bb_status bb_tune_spans(bb_quantization *q, bb_span **spans, size_t *n, bb_error *err) {
    int *last = bb_arena_array(q->arena, q->graph->n_values, sizeof *last);
    bb_span *cuts = bb_arena_array(q->arena, q->plan.n + 1, sizeof *cuts);
    if (!last || !cuts)
        return bb_fail_memory(err, "spans");
    find_last_readers(q, last);
    *n = drop_wide_cuts(q, cuts, find_cuts(q, last, cuts));
    cuts[*n] = (bb_span){.end = q->plan.n, .out = -1};
    for (size_t i = 0; i <= *n; i++) {
        cuts[i].first = i ? cuts[i - 1].end : 0;
        cuts[i].in = i ? cuts[i - 1].out : q->graph->inputs[0];
    }
    (*n)++;
    *spans = cuts;
    return BB_STATUS_OK;
}

/* ---- the span's graph ------------------------------------------------------------------------ */

/** `from` cut to the span; values keep their numbers. */
static bb_status cut_graph(const bb_graph *from, const bb_span *span, bb_graph **graph,
                           bb_error *err) {
    bb_graph *g = *graph = bb_graph_clone(from);
    int *ends = g ? bb_arena_array(g->arena, 2, sizeof *ends) : NULL;
    if (!ends)
        return bb_fail_memory(err, "part of the network");
    int producer = g->values[span->in].producer;
    for (int k = 0; producer >= 0 && k < g->nodes[producer].n_out; k++)
        if (g->nodes[producer].out[k] == span->in)
            g->nodes[producer].out[k] = -1;
    ends[0] = span->in;
    g->inputs = ends;
    g->n_inputs = 1;
    if (span->out >= 0) {
        ends[1] = span->out;
        g->outputs = ends + 1;
        g->n_outputs = 1;
    }
    return bb_graph_link(g, err);
}

int bb_tuning_score(const bb_graph *graph, int output) {
    int producer = graph->values[output].producer;
    const bb_node *node = producer < 0 ? NULL : &graph->nodes[producer];
    return node && (node->op == BB_OP_SOFTMAX || node->op == BB_OP_LOG_SOFTMAX) ? node->in[0]
                                                                                : output;
}

double bb_tuning_square(const bb_array *is, const bb_array *want, double weight, float *gradient) {
    const float *w = want->data;
    double size = 0.0;
    size_t n = 1;
    bb_dims_product(is->dims, (size_t)is->rank, &n);
    for (size_t i = 0; i < n; i++)
        size += (double)w[i] * (double)w[i];
    size = n ? size / (double)n : 0.0;
    return bb_loss_mean_square(is->data, w, n, weight / (size + 1e-12), gradient);
}

/* ---- parameters ------------------------------------------------------------------------------ */

/** What one program learns: tensors, and in pieces that share a rate. */
typedef struct parameters {
    size_t n, n_pieces;
    int *values;     /* [n] */
    float **masters; /* [n] */
    struct piece {
        size_t tensor, at, n; /* elements at..at+n-1 */
        float rate;
        bool step;
    } * pieces;
} parameters;

static float mean_size(const float *x, size_t n) {
    double sum = 0.0;
    for (size_t i = 0; i < n; i++)
        sum += fabs((double)x[i]);
    return n ? (float)(sum / (double)n) : 0.0f;
}

/** With `rows` every row gets the rate `rate` times its mean size; with 0 the whole tensor `rate`.
 *  What has no rate is no parameter. */
static void add_parameter(parameters *p, const bb_student *s, int value, size_t rows, float rate,
                          bool step) {
    size_t n = 1, pieces = rows ? rows : 1;
    for (size_t i = 0; i < p->n; i++)
        if (p->values[i] == value)
            return;
    if (rate == 0)
        return;
    bb_value_elements(&s->graph->values[value], &n);
    n /= pieces;
    const float *x = bb_student_constant(s, value);
    for (size_t r = 0; r < pieces; r++)
        p->pieces[p->n_pieces++] =
            (struct piece){p->n, r * n, n, rows ? rate * mean_size(x + r * n, n) : rate, step};
    p->values[p->n] = value;
    p->masters[p->n++] = bb_student_constant(s, value);
}

/** Weights of 8 bits lose nothing by rounding and would only learn the images by heart. */
static bool learns_weights(const bb_student *s, size_t b) {
    return s->layers[b].latent >= 0 && bb_quantize_bits(s->q, b, s->profile).weight < 8;
}

/** A step that layers outside of the span read as well must stay. */
static bool reads_outside(const bb_student *s, const bb_span *span, int step) {
    for (size_t b = 0; b < s->q->plan.n; b++)
        if (s->layers[b].input_step == step && (b < span->first || b >= span->end))
            return true;
    return false;
}

static bool learns_step(const bb_student *s, const bb_span *span, size_t b) {
    return s->layers[b].input_step >= 0 && !reads_outside(s, span, s->layers[b].input_step);
}

bool bb_tuning_learns(const bb_student *s, const bb_span *span) {
    for (size_t b = span->first; b < span->end; b++)
        if (learns_weights(s, b) || learns_step(s, span, b))
            return true;
    return false;
}

static void list_parameters(const bb_student *s, const bb_span *span, const bb_tune_rates *rates,
                            parameters *p) {
    for (size_t b = span->first; b < span->end; b++) {
        const bb_student_layer *layer = &s->layers[b];
        if (s->q->plan.blocks[b].kind != BB_BLOCK_CONV)
            continue;
        if (learns_weights(s, b))
            add_parameter(p, s, layer->latent, s->q->targets[b].shape.rows, rates->latent, false);
        if (layer->gain >= 0)
            add_parameter(p, s, layer->gain, 0, rates->gain, true);
        add_parameter(p, s, layer->bias, 0, rates->bias * s->q->rms[b], false);
        if (learns_step(s, span, b))
            add_parameter(p, s, layer->input_step, 0,
                          rates->input_step * fabsf(*bb_student_constant(s, layer->input_step)),
                          true);
    }
}

/* ---- programs -------------------------------------------------------------------------------- */

/** Values to read: scores of the outputs, and cuts within. */
typedef struct kept_values {
    size_t n;
    int *values;
} kept_values;

static bb_status list_kept(const bb_tuning *t, const bb_span *inner, size_t n_inner,
                           kept_values *kept, bb_error *err) {
    kept->n = 0;
    kept->values =
        bb_arena_array(t->graph->arena, t->graph->n_outputs + n_inner, sizeof *kept->values);
    if (!kept->values)
        return bb_fail_memory(err, "part of the network");
    for (size_t i = 0; i < t->graph->n_outputs; i++)
        kept->values[kept->n++] = bb_tuning_score(t->graph, t->graph->outputs[i]);
    for (size_t i = 0; i < n_inner; i++)
        if (inner[i].out >= 0)
            kept->values[kept->n++] = inner[i].out;
    return BB_STATUS_OK;
}

static bb_status create_program(bb_tuning *t, const bb_span *span, const kept_values *kept,
                                const parameters *p, bool train, bb_error *err) {
    int64_t dims[BB_MAX_RANK];
    const int64_t *input_dims[1] = {dims};
    memcpy(dims, t->graph->values[span->in].dims, sizeof dims);
    dims[0] = (int64_t)t->batch;
    bb_gradient_options options = {.threads = t->student->q->threads,
                                   .parameters = p->values,
                                   .n_parameters = train ? p->n : 0,
                                   .masters = p->masters,
                                   .kept = kept->values,
                                   .n_kept = kept->n,
                                   .forward_only = !train,
                                   .bf16 = train && bb_gradient_check_bf16(NULL) == BB_STATUS_OK};
    return bb_gradient_create(t->graph, input_dims, &options, &t->program, err);
}

static bb_status create_optimizer(bb_tuning *t, const parameters *p, bb_error *err) {
    bb_optimizer_options options;
    bb_optimizer_options_init(&options);
    options.kind = BB_OPTIMIZER_ADAM;
    bb_parameter *items = bb_alloc_array(p->n_pieces, sizeof *items);
    if (!items)
        return bb_fail_memory(err, "parameters");
    for (size_t i = 0; i < p->n_pieces; i++) {
        const struct piece *k = &p->pieces[i];
        items[i] = (bb_parameter){.value = p->masters[k->tensor] + k->at,
                                  .gradient = bb_gradient_of(t->program, k->tensor) + k->at,
                                  .n = k->n,
                                  .rate = k->rate,
                                  .min = k->step ? SMALLEST_STEP : 0.0f,
                                  .max = k->step ? FLT_MAX : 0.0f};
    }
    bb_status status = bb_optimizer_create(&options, items, p->n_pieces, &t->optimizer, err);
    bb_free(items);
    return status;
}

static bb_status open_programs(bb_tuning *t, const bb_span *span, const kept_values *kept,
                               const bb_tune_rates *rates, parameters *p, bb_error *err) {
    if (rates)
        list_parameters(t->student, span, rates, p);
    BB_TRY(create_program(t, span, kept, p, rates != NULL, err));
    return rates ? create_optimizer(t, p, err) : BB_STATUS_OK;
}

static size_t all_rows(const bb_student *s) {
    size_t n = 0;
    for (size_t b = 0; b < s->q->plan.n; b++)
        n += s->layers[b].latent >= 0 ? s->q->targets[b].shape.rows : 0;
    return n;
}

bb_status bb_tuning_open(bb_student *s, bool student, const bb_span *span, const bb_span *inner,
                         size_t n_inner, size_t batch, const bb_tune_rates *rates, bb_tuning *t,
                         bb_error *err) {
    kept_values kept;
    size_t most = 4 * s->q->plan.n + 4;
    parameters p = {.values = bb_alloc_array(most, sizeof *p.values),
                    .masters = bb_alloc_array(most, sizeof *p.masters),
                    .pieces = bb_alloc_array(most + all_rows(s), sizeof *p.pieces)};
    *t = (bb_tuning){
        .student = s, .batch = batch, .span = *span, .latent_rate = rates ? rates->latent : 0.0f};
    bb_status status = p.values && p.masters && p.pieces
                           ? cut_graph(student ? s->graph : s->q->graph, span, &t->graph, err)
                           : bb_fail_memory(err, "parameters");
    if (status == BB_STATUS_OK)
        status = list_kept(t, inner, n_inner, &kept, err);
    if (status == BB_STATUS_OK)
        status = open_programs(t, span, &kept, rates, &p, err);
    bb_free(p.values);
    bb_free(p.masters);
    bb_free(p.pieces);
    if (status != BB_STATUS_OK)
        bb_tuning_close(t);
    return status;
}

size_t bb_tuning_batch(const bb_student *s, size_t wanted) {
    size_t batch = s->q->images < wanted ? s->q->images : wanted;
    return batch < s->most_batch ? batch : s->most_batch;
}

void bb_tuning_close(bb_tuning *t) {
    bb_optimizer_destroy(t->optimizer);
    bb_gradient_destroy(t->program);
    bb_graph_destroy(t->graph);
    *t = (bb_tuning){0};
}

bb_status bb_tuning_forward(bb_tuning *t, const float *x, bb_error *err) {
    const bb_value *in = &t->graph->values[t->graph->inputs[0]];
    bb_array input = {.dtype = BB_DTYPE_F32, .rank = in->rank, .data = (void *)(uintptr_t)x};
    memcpy(input.dims, in->dims, sizeof input.dims);
    input.dims[0] = (int64_t)t->batch;
    return bb_gradient_forward(t->program, &input, err);
}

/* ---- steps ----------------------------------------------------------------------------------- */

/** Rises, then falls to 0 over n steps. */
static float schedule(size_t i, size_t n) {
    double warm = WARM_UP * (double)n;
    if ((double)i < warm)
        return (float)(((double)i + 1.0) / (warm + 1.0));
    return (float)(0.5 * (1.0 + cos(PI * ((double)i - warm) / ((double)n - warm))));
}

/** Moves latents towards the middle of their cells by `pull` of the way from there to the border.
 */
static void damp_row(float *w, size_t d, float step, float top, float pull) {
    float half = 0.5f / step;
    for (size_t i = 0; i < d; i++) {
        float level = 2.0f * floorf(w[i] * half) + 1.0f;
        level = level < -top ? -top : level > top ? top : level;
        w[i] += pull * (step * level - w[i]);
    }
}

/** A weight between two good codes goes back and forth with straight-through gradients and ends on
 *  either (Nagel et al. 2022). The pull lets only those change codes whose gradients agree, in the
 *  end all of them: at the border it takes `part` of a full step of Adam to overcome it. */
static void damp(bb_tuning *t, float rate, float part) {
    const bb_student *s = t->student;
    for (size_t b = t->span.first; b < t->span.end; b++) {
        const bb_student_layer *layer = &s->layers[b];
        if (!learns_weights(s, b))
            continue;
        const bb_conv_shape *shape = &s->q->targets[b].shape;
        size_t d = (size_t)shape->taps * shape->depth;
        float *w = bb_student_constant(s, layer->latent);
        const float *step = bb_student_constant(s, layer->step);
        float top = (float)((1u << s->q->profiles[s->profile].blocks[b].planes) - 1);
        for (size_t r = 0; r < shape->rows; r++) {
            float move = rate * t->latent_rate * mean_size(w + r * d, d) * part;
            damp_row(w + r * d, d, step[r], top, fminf(move / step[r], 1.0f));
        }
    }
}

void bb_tuning_shuffle(bb_rng *rng, uint32_t *order, size_t n) {
    for (size_t i = n; i > 1; i--) {
        size_t j = (size_t)bb_rng_below(rng, i);
        uint32_t other = order[i - 1];
        order[i - 1] = order[j];
        order[j] = other;
    }
}

void bb_tuning_step(bb_tuning *t, size_t i, size_t n) {
    float rate = schedule(i, n);
    bb_optimizer_step(t->optimizer, rate);
    damp(t, rate, DAMPING * (float)i / (float)n);
}

/* ---- all of it ------------------------------------------------------------------------------- */

/** Layers of few bits are what training helps. */
static bool worth_tuning(const bb_quantization *q) {
    for (size_t b = 0; b < q->plan.n; b++) {
        bb_bits bits = bb_quantize_bits(q, b, 0);
        if (q->plan.blocks[b].kind == BB_BLOCK_CONV && (bits.weight < 8 || bits.activation < 8))
            return true;
    }
    return false;
}

bool bb_quantize_can_tune(const bb_quantization *q) {
    /* Profiles share weight codes: what suits one would break the others. */
    return q->options->effort == BB_EFFORT_BEST && q->n_profiles == 1 && q->plan.n > 0 &&
           worth_tuning(q);
}

/** Images first .. first+n-1. */
static bb_status load_images(bb_quantization *q, size_t first, size_t n, float **images,
                             bb_error *err) {
    size_t elements = bb_quantize_elements(q, q->graph->inputs[0]);
    *images = bb_alloc_array(n + 1, elements * sizeof **images);
    if (!*images)
        return bb_fail_memory(err, "calibration images");
    for (size_t i = 0; i < n; i++)
        if (q->calibration(q->user, first + i, *images + i * elements) != 0)
            return bb_fail(err, BB_STATUS_CANCELLED, "calibration stopped at image %zu", first + i);
    return BB_STATUS_OK;
}

/** Some graphs say "1 image" in the constants of a Reshape and can only take one at a time. */
static void find_most_batch(bb_student *s) {
    bb_span all = {0, s->q->plan.n, s->q->graph->inputs[0], -1};
    bb_tuning t;
    if (bb_tuning_open(s, false, &all, NULL, 0, 2, NULL, &t, NULL) == BB_STATUS_OK)
        bb_tuning_close(&t);
    else
        s->most_batch = 1;
}

bb_status bb_tune_phases(bb_student *s, const float *images, float *held_images, size_t held,
                         const bb_tune_phase *phases, size_t n, double *found, bool *changed,
                         bb_error *err) {
    bb_judge judge;
    BB_TRY(bb_judge_create(s, held_images, held, &judge, err));
    bb_status status = BB_STATUS_OK;
    found[0] = judge.divergence;
    *changed = false;
    for (size_t i = 0; i < n && status == BB_STATUS_OK; i++) {
        bool better = false;
        bb_student_settle(s);
        status = phases[i].run(s, images, err);
        if (status == BB_STATUS_OK)
            status = bb_judge_decide(&judge, &found[i + 1], &better, err);
        *changed |= better;
    }
    bb_judge_destroy(&judge);
    return status;
}

static bb_status tune(bb_student *s, float **images, float **held_images, bb_error *err) {
    static const bb_tune_phase phases[] = {{bb_reconstruct}, {bb_distill}};
    bb_quantization *q = s->q;
    size_t most = IMAGE_BYTES / (bb_quantize_elements(q, q->graph->inputs[0]) * sizeof(float) + 1);
    bool changed;
    q->images = q->count < most ? q->count : most ? most : 1;
    BB_TRY(load_images(q, 0, q->images, images, err));
    BB_TRY(load_images(q, q->count, q->held, held_images, err));
    find_most_batch(s);
    BB_TRY(
        bb_tune_phases(s, *images, *held_images, q->held, phases, 2, q->divergence, &changed, err));
    return changed ? bb_student_take(s, err) : BB_STATUS_OK;
}

bb_status bb_quantize_tune(bb_quantization *q, bb_error *err) {
    bb_student student;
    float *images = NULL, *held_images = NULL;
    if (!bb_quantize_can_tune(q))
        return BB_STATUS_OK;
    BB_TRY(bb_student_create(q, 0, &student, err));
    bb_status status = tune(&student, &images, &held_images, err);
    bb_free(images);
    bb_free(held_images);
    bb_student_destroy(&student);
    return status;
}
