/* SPDX-License-Identifier: Apache-2.0 */
/* One CONV block: weights solved on what the quantized blocks before it produce. */
#include "quantize/quantizer.h"
#include "quantize/solve.h"
#include <stdatomic.h>
#include <string.h>

enum { SWEEPS_DEFAULT = 4, SWEEPS_BEST = 8 };
static const float RIDGE = 0.1f;
/* Samples gathered before they go into the second moments. */
enum { CHUNK_ROWS = 4096 };
/* Beyond this depth the second moments (4*d^2 bytes) cost too much: weights are rounded alone. */
enum { MAX_SOLVED_DEPTH = 6144 };
/* Up to so many activation bits the spread of the sums counts more than their error. */
enum { SPREAD_MATCHED_BITS = 2 };

typedef struct layer {
    bb_quantization *q;
    size_t block;
    const bb_block *b;
    const bb_target *t;
    bb_conv_shape shape;
    size_t d, group_rows;
    bool second;           /* second moments, not means alone */
    bool solved_mixed;     /* and on mixed inputs */
    float *weights, *bias; /* float, model order; of the engine's input units where pixels */
    uint32_t *columns;
    uint8_t *codes;
    bb_gram grams[BB_SOLVE_MAX_PROFILES];
    float *scale[BB_SOLVE_MAX_PROFILES];
    /* of one gathering */
    size_t profile, first_image, n_images;
    bool mixed; /* a random half of the input's elements is the float network's */
    float *x, *y;
    float **image, **residual; /* [workers] scratch */
} layer;

/* ---- gathering ------------------------------------------------------------------------------- */

typedef struct extent {
    size_t channels, height, width;
} extent;

static extent extent_of(const bb_value *v) {
    extent e = {(size_t)v->dims[1], 1, 1};
    if (v->rank == 4) {
        e.height = (size_t)v->dims[2];
        e.width = (size_t)v->dims[3];
    }
    return e;
}

static void mix_reference(const layer *l, size_t image, float *x, float *reference) {
    const bb_quantization *q = l->q;
    int value = l->b->in[0];
    bb_rng rng;
    bb_rng_seed(&rng, q->options->seed ^ 0x6d69786564ull ^ (uint64_t)l->block << 40 ^
                          (uint64_t)image << 16);
    bb_reference_read(q, value, image, reference);
    bb_reference_mix(&rng, x, reference, x, bb_quantize_elements(q, value));
}

/** The block's input of one image, [pixel][channel], in the units its weights are for. */
static void load_image(const layer *l, size_t image, float *plain, float *pixels_first) {
    const bb_quantization *q = l->q;
    int value = l->b->in[0];
    extent e = extent_of(&q->graph->values[value]);
    size_t n = e.height * e.width;
    bool raw = bb_quantize_is_pixels(q, value);
    bb_store_read(q, l->profile, value, q->profiles[l->profile].blocks[l->block].in_grid[0], image,
                  plain);
    if (l->mixed)
        mix_reference(l, image, plain, pixels_first);
    if (l->columns) {
        for (size_t j = 0; j < e.channels; j++)
            pixels_first[j] = plain[l->columns[j]];
        return;
    }
    for (size_t c = 0; c < e.channels; c++) {
        float unit = raw ? q->options->std[c % 4] / q->options->pixel_scale : 1.0f;
        for (size_t i = 0; i < n; i++)
            pixels_first[i * e.channels + c] = plain[c * n + i] * unit;
    }
}

/** Patches of one output position: every group's row of x. Taps in the padding count as real 0. */
static void gather_patch(const layer *l, const float *from, size_t position, size_t row, size_t n) {
    const bb_conv_shape *s = &l->shape;
    const bb_geometry *g = &s->geometry;
    extent in = extent_of(&l->q->graph->values[l->b->in[0]]);
    extent out = extent_of(&l->q->graph->values[l->b->pre_activation]);
    int64_t y0 = (int64_t)(position / out.width) * g->stride[0] - g->pad_begin[0];
    int64_t x0 = (int64_t)(position % out.width) * g->stride[1] - g->pad_begin[1];
    for (size_t t = 0; t < s->taps; t++) {
        int64_t y = y0 + (int64_t)(t / (size_t)g->kernel[1]) * g->dilation[0];
        int64_t x = x0 + (int64_t)(t % (size_t)g->kernel[1]) * g->dilation[1];
        bool inside = y >= 0 && x >= 0 && y < (int64_t)in.height && x < (int64_t)in.width;
        const float *pixel =
            inside ? from + ((size_t)y * in.width + (size_t)x) * in.channels : NULL;
        for (size_t group = 0; group < s->groups; group++) {
            float *to = l->x + (group * n + row) * l->d + t * s->depth;
            if (inside)
                memcpy(to, pixel + group * s->depth, s->depth * sizeof *to);
            else
                memset(to, 0, s->depth * sizeof *to);
        }
    }
}

/** What the convolution itself should give: the float result less the shortcut it will get. */
static void gather_target(const layer *l, size_t image, size_t row, float *residual) {
    const bb_target *t = l->t;
    size_t rows = l->shape.rows;
    float *y = l->y + row * rows;
    memcpy(y, t->y + image * t->samples * rows, t->samples * rows * sizeof *y);
    if (l->b->n_in < 2)
        return;
    bb_store_read(l->q, l->profile, l->b->in[1],
                  l->q->profiles[l->profile].blocks[l->block].in_grid[1], image, residual);
    for (size_t k = 0; k < t->samples; k++) {
        size_t at = bb_quantize_position(l->q, l->block, image, k);
        for (size_t r = 0; r < rows; r++)
            y[k * rows + r] -= residual[r * t->pixels + at];
    }
}

static void gather_task(void *user, size_t task, size_t worker) {
    layer *l = user;
    size_t image = l->first_image + task, n = l->n_images * l->t->samples;
    size_t elements = bb_quantize_elements(l->q, l->b->in[0]);
    float *plain = l->image[worker], *pixels_first = plain + elements;
    load_image(l, image, plain, pixels_first);
    for (size_t k = 0; k < l->t->samples; k++)
        gather_patch(l, pixels_first, bb_quantize_position(l->q, l->block, image, k),
                     task * l->t->samples + k, n);
    gather_target(l, image, task * l->t->samples, l->residual[worker]);
}

static void gather_images(layer *l) {
    size_t per_round = CHUNK_ROWS / l->t->samples ? CHUNK_ROWS / l->t->samples : 1;
    for (l->first_image = 0; l->first_image < l->q->images; l->first_image += per_round) {
        size_t left = l->q->images - l->first_image;
        l->n_images = left < per_round ? left : per_round;
        bb_pool_run(l->q->pool, l->n_images, gather_task, l);
        bb_gram_add(&l->grams[l->profile], l->x, l->y, l->n_images * l->t->samples, l->q->pool);
    }
    bb_gram_finish(&l->grams[l->profile], l->q->pool);
}

/** Fills grams[p] anew. */
static bb_status gather(layer *l, size_t p, bool mixed, bool second, bb_error *err) {
    l->profile = p;
    l->mixed = mixed;
    bb_gram_free(&l->grams[p]);
    BB_TRY(bb_gram_create(&l->grams[p], l->shape.groups, l->d, l->group_rows, second, err));
    gather_images(l);
    return BB_STATUS_OK;
}

/* ---- weights --------------------------------------------------------------------------------- */

static size_t pixel_channel(const bb_conv_shape *s, size_t row, size_t column) {
    return row / (s->rows / s->groups) * s->depth + column % s->depth;
}

void bb_quantize_weights_for_pixels(const bb_quantization *q, size_t block, float *weights) {
    const bb_quantize_options *o = q->options;
    const bb_conv_shape *s = &q->targets[block].shape;
    size_t d = (size_t)s->taps * s->depth;
    if (!bb_quantize_is_pixels(q, q->plan.blocks[block].in[0]))
        return;
    for (size_t i = 0; i < s->rows * d; i++)
        weights[i] *= o->pixel_scale / o->std[pixel_channel(s, i / d, i % d) % 4];
}

static bb_status solve(layer *l, bb_error *err) {
    bb_quantization *q = l->q;
    bb_solve_profile profiles[BB_SOLVE_MAX_PROFILES];
    for (size_t p = 0; p < q->n_profiles; p++)
        profiles[p] = (bb_solve_profile){bb_quantize_bits(q, l->block, p).weight,
                                         l->second ? &l->grams[p] : NULL, l->scale[p]};
    bb_solve_problem problem = {
        .groups = l->shape.groups,
        .rows = l->group_rows,
        .d = l->d,
        .weights = l->weights,
        .n_profiles = q->n_profiles,
        .profiles = profiles,
        .sweeps = q->options->effort == BB_EFFORT_BEST ? SWEEPS_BEST : SWEEPS_DEFAULT,
        .ridge = RIDGE,
        .codes = l->codes,
    };
    return bb_solve(&problem, q->pool, err);
}

static uint32_t most_bits(const layer *l) {
    uint32_t most = 0;
    for (size_t p = 0; p < l->q->n_profiles; p++) {
        uint32_t bits = bb_quantize_bits(l->q, l->block, p).weight;
        most = bits > most ? bits : most;
    }
    return most;
}

/** Very few activation codes need the right spread more than the least error. Not before a residual
 *  add, where y also makes up for the shortcut's error. */
static bool matches_spread(const layer *l, size_t p) {
    return l->second && bb_quantize_bits(l->q, l->block, p).activation <= SPREAD_MATCHED_BITS &&
           l->b->n_in < 2;
}

static double matched_scale(const layer *l, size_t p, size_t r) {
    uint32_t bits = bb_quantize_bits(l->q, l->block, p).weight, shift = most_bits(l) - bits;
    const uint8_t *codes = l->codes + r * l->d;
    double scale = l->scale[p][r];
    if (l->solved_mixed)
        scale = bb_gram_fit(&l->grams[p], r, codes, bits, shift, scale, l->x);
    return scale * bb_gram_spread(&l->grams[p], r, codes, bits, shift, scale);
}

/** Matches mean and spread of every output channel; writes the profile's scales and biases. */
static bb_status finish_profile(layer *l, size_t p, bb_error *err) {
    bb_block_quant *out = &l->q->profiles[p].blocks[l->block];
    const bb_gram *gram = &l->grams[p];
    uint32_t bits = bb_quantize_bits(l->q, l->block, p).weight, shift = most_bits(l) - bits;
    float *bias = bb_arena_array(l->q->arena, l->shape.rows, sizeof *bias);
    if (!bias)
        return bb_fail_memory(err, "biases");
    for (size_t r = 0; r < l->shape.rows; r++) {
        double sum = 0.0;
        if (matches_spread(l, p))
            l->scale[p][r] = (float)matched_scale(l, p, r);
        const double *mean = gram->x_mean + r / l->group_rows * l->d;
        for (size_t i = 0; i < l->d; i++)
            sum += (2 * (l->codes[r * l->d + i] >> shift) - ((1 << bits) - 1)) * mean[i];
        bias[r] = (float)(gram->y_mean[r] - (double)l->scale[p][r] * sum);
    }
    out->planes = bits;
    out->weight_scale = l->scale[p];
    out->bias = bias;
    return BB_STATUS_OK;
}

bb_status bb_quantize_fold_mean(bb_quantization *q, size_t block, size_t p, bb_error *err) {
    const bb_quantize_options *o = q->options;
    bb_block_quant *out = &q->profiles[p].blocks[block];
    const bb_conv_shape *s = &q->targets[block].shape;
    const bb_block_codes *codes = &q->codes[block];
    size_t d = (size_t)s->taps * s->depth;
    float *tap_bias = bb_arena_array(q->arena, (size_t)s->taps * s->rows, sizeof *tap_bias);
    if (!tap_bias)
        return bb_fail_memory(err, "tap biases");
    for (size_t t = 0; t < s->taps; t++) {
        for (size_t r = 0; r < s->rows; r++) {
            double sum = 0.0;
            for (size_t i = t * s->depth; i < (t + 1) * s->depth; i++)
                sum += (double)bb_block_level(codes, out->planes, r * d + i) *
                       o->mean[pixel_channel(s, r, i) % 4] / o->pixel_scale;
            tap_bias[t * s->rows + r] = (float)(-(double)out->weight_scale[r] * sum);
        }
    }
    out->tap_bias = tap_bias;
    return BB_STATUS_OK;
}

/* ---- one layer ------------------------------------------------------------------------------- */

static bb_status open_layer(layer *l, bb_error *err) {
    bb_quantization *q = l->q;
    size_t rows = l->shape.rows, inputs = bb_quantize_elements(q, l->b->in[0]);
    size_t n = CHUNK_ROWS > l->t->samples ? CHUNK_ROWS : l->t->samples;
    size_t weights = rows * l->d;
    l->weights = bb_alloc_array(weights, sizeof *l->weights);
    l->bias = bb_alloc_array(rows, sizeof *l->bias);
    l->codes = bb_arena_array(q->arena, weights, 1);
    l->x = bb_alloc_array(n * l->shape.groups, l->d * sizeof *l->x);
    l->y = bb_alloc_array(n, rows * sizeof *l->y);
    l->image = bb_arena_array(q->arena, q->threads, sizeof *l->image);
    l->residual = bb_arena_array(q->arena, q->threads, sizeof *l->residual);
    bool ok = l->weights && l->bias && l->codes && l->x && l->y && l->image && l->residual;
    for (size_t w = 0; ok && w < q->threads; w++) {
        l->image[w] = bb_alloc_array(inputs, 2 * sizeof(float));
        l->residual[w] = bb_alloc_array(rows * l->t->pixels, sizeof(float));
        ok = l->image[w] && l->residual[w];
    }
    for (size_t p = 0; ok && p < q->n_profiles; p++) {
        l->scale[p] = bb_arena_array(q->arena, rows, sizeof(float));
        ok = l->scale[p] != NULL;
    }
    if (!ok)
        return bb_fail_memory(err, "a layer's samples");
    BB_TRY(bb_lower_conv_weights(q->graph, l->b, l->weights, l->bias, err));
    bb_quantize_weights_for_pixels(q, l->block, l->weights);
    return bb_subgraph_columns(q, l->b, &l->columns, err);
}

static void close_layer(layer *l) {
    bb_free(l->weights);
    bb_free(l->bias);
    bb_free(l->columns);
    bb_free(l->x);
    bb_free(l->y);
    for (size_t w = 0; w < l->q->threads; w++) {
        if (l->image)
            bb_free(l->image[w]);
        if (l->residual)
            bb_free(l->residual[w]);
    }
    for (size_t p = 0; p < l->q->n_profiles; p++)
        bb_gram_free(&l->grams[p]);
}

static bb_status quantize(layer *l, bb_error *err) {
    bb_quantization *q = l->q;
    for (size_t p = 0; p < q->n_profiles; p++)
        BB_TRY(gather(l, p, l->solved_mixed, l->second, err));
    BB_TRY(solve(l, err));
    /* Means and spreads are those of what the engine will see. */
    for (size_t p = 0; p < q->n_profiles && l->solved_mixed; p++)
        BB_TRY(gather(l, p, false, matches_spread(l, p), err));
    q->codes[l->block] = (bb_block_codes){l->shape.rows, l->shape.taps, l->shape.depth,
                                          most_bits(l),  l->codes,      NULL};
    for (size_t p = 0; p < q->n_profiles; p++) {
        BB_TRY(finish_profile(l, p, err));
        if (bb_quantize_is_pixels(q, l->b->in[0]))
            BB_TRY(bb_quantize_fold_mean(q, l->block, p, err));
    }
    return BB_STATUS_OK;
}

bb_status bb_quantize_layer(bb_quantization *q, size_t block, bb_error *err) {
    layer l = {.q = q,
               .block = block,
               .b = &q->plan.blocks[block],
               .t = &q->targets[block],
               .shape = q->targets[block].shape};
    l.d = (size_t)l.shape.taps * l.shape.depth;
    l.group_rows = l.shape.rows / l.shape.groups;
    l.second = q->options->effort != BB_EFFORT_FAST && l.d <= MAX_SOLVED_DEPTH;
    l.solved_mixed = l.second && bb_reference_mixes(q, block);
    bb_status status = open_layer(&l, err);
    if (status == BB_STATUS_OK)
        status = quantize(&l, err);
    close_layer(&l);
    if (status != BB_STATUS_OK)
        bb_error_prefix(err, status, "node '%s'", q->graph->nodes[l.b->node].name);
    return status;
}
