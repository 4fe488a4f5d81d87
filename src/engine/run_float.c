/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Float nodes. Every result has one defined order of operations (docs/engine.md), so all machines
 * and thread counts agree: the library is built without contraction, vectors run over independent
 * results only, and transcendental functions are our own.
 */
#include "engine/float_math.h"
#include "engine/internal.h"
#include <string.h>

static float *floats_of(const bb_context *context, int tensor) {
    return (float *)(void *)bb_tensor_data(context, tensor);
}

/* ---- convolution: sum = bias; for ky, kx, input channel ascending: sum = sum + x*w ----------- */

/* Four neighbouring outputs; as many of them as stay in registers over the whole window. */
typedef float four_floats __attribute__((vector_size(16)));
enum { LANES = 4, BLOCK = 16 };

typedef struct float_pixel {
    const bb_plan_tensor *in;
    const float *image;
    int32_t y, x; /**< input position of tap (0,0) */
    bb_tap_range rows, columns;
} float_pixel;

/* n outputs (a multiple of LANES, at most BLOCK, known at compile time) from sums on, which hold
 * the bias; weights: theirs of tap (0,0). */
__attribute__((always_inline)) static inline void
convolve_outputs(const bb_plan_node *plan, const float_pixel *at, size_t group,
                 const float *weights, size_t n, float *sums) {
    const bb_geometry *g = &plan->node->geometry;
    const size_t depth = (size_t)at->in->c / plan->node->groups, step = plan->float_padded;
    four_floats sum[BLOCK / LANES], w4;
    memcpy(sum, sums, n * sizeof(float));
    for (int32_t ky = at->rows.first; ky < at->rows.last; ky++)
        for (int32_t kx = at->columns.first; kx < at->columns.last; kx++) {
            const size_t row = (size_t)(at->y + ky * g->dilation[0]);
            const size_t column = (size_t)(at->x + kx * g->dilation[1]);
            const float *x =
                at->image + row * at->in->row + column * (size_t)at->in->c + group * depth;
            const float *w = weights + (size_t)(ky * g->kernel[1] + kx) * depth * step;
            for (size_t i = 0; i < depth; i++, w += step)
                for (size_t j = 0; j < n / LANES; j++) {
                    memcpy(&w4, w + j * LANES, sizeof(w4));
                    sum[j] += x[i] * w4;
                }
        }
    memcpy(sums, sum, n * sizeof(float));
}

static void convolve_group(const bb_plan_node *plan, const float_pixel *at, size_t group,
                           size_t outputs, float *sums) {
    const bb_geometry *g = &plan->node->geometry;
    const size_t depth = (size_t)at->in->c / plan->node->groups, padded = plan->float_padded;
    const size_t taps = (size_t)g->kernel[0] * (size_t)g->kernel[1];
    const float *weights = plan->float_table + group * taps * depth * padded;
    const float *bias = plan->node->float_bias;
    size_t c = 0;
    for (size_t i = 0; i < padded; i++)
        sums[i] = bias && i < outputs ? bias[group * outputs + i] : 0.0f;
    for (; c + BLOCK <= padded; c += BLOCK)
        convolve_outputs(plan, at, group, weights + c, BLOCK, sums + c);
    for (; c < padded; c += BLOCK / 2) /* padded is a multiple of that */
        convolve_outputs(plan, at, group, weights + c, BLOCK / 2, sums + c);
}

static void conv_rows(const bb_context *context, const bb_plan_node *plan, int32_t row0,
                      int32_t row1, size_t worker) {
    const bb_model_node *node = plan->node;
    const bb_geometry *g = &node->geometry;
    const bb_plan_tensor *in = &context->engine->tensors[node->in[0]];
    const bb_plan_tensor *out = &context->engine->tensors[node->out[0]];
    const size_t outputs = (size_t)out->c / node->groups;
    float *sums = (float *)(void *)bb_worker_scratch(context, worker);
    float *to = floats_of(context, node->out[0]) + (size_t)row0 * out->row;
    for (int32_t row = row0; row < row1; row++) {
        const int32_t y = row % out->h;
        float_pixel at = {.in = in, .y = y * g->stride[0] - g->pad_begin[0]};
        at.image =
            floats_of(context, node->in[0]) + (size_t)(row / out->h) * (size_t)in->h * in->row;
        at.rows =
            bb_valid_taps(y, g->stride[0], g->dilation[0], g->pad_begin[0], g->kernel[0], in->h);
        for (int32_t x = 0; x < out->w; x++) {
            at.x = x * g->stride[1] - g->pad_begin[1];
            at.columns = bb_valid_taps(x, g->stride[1], g->dilation[1], g->pad_begin[1],
                                       g->kernel[1], in->w);
            for (size_t group = 0; group < node->groups; group++) {
                convolve_group(plan, &at, group, outputs, sums);
                for (size_t c = 0; c < outputs; c++)
                    *to++ = sums[c];
            }
        }
    }
}

void bb_run_float_conv(bb_context *context, const bb_plan_node *plan) {
    const bb_plan_tensor *out = &context->engine->tensors[plan->node->out[0]];
    const bb_geometry *g = &plan->node->geometry;
    const size_t work = out->row * (size_t)g->kernel[0] * (size_t)g->kernel[1];
    bb_run_rows(context, plan, out->n * out->h, work, conv_rows);
}

/* ---- pools: maximum, or double sum over the window row by row, divided and rounded once ------ */

static float pool_value(const bb_model_node *node, const bb_plan_tensor *in, const float *image,
                        bb_pool_span rows, bb_pool_span columns) {
    const bb_geometry *g = &node->geometry;
    const size_t down = g->kernel[0] == 0 ? in->row : in->row * (size_t)g->dilation[0];
    const size_t right = (size_t)in->c * (g->kernel[1] == 0 ? 1 : (size_t)g->dilation[1]);
    const float *first =
        image + (size_t)rows.start * in->row + (size_t)columns.start * (size_t)in->c;
    double sum = 0.0;
    float best = *first;
    for (int32_t y = 0; y < rows.count; y++)
        for (int32_t x = 0; x < columns.count; x++) {
            const float value = first[(size_t)y * down + (size_t)x * right];
            best = value > best ? value : best;
            sum += (double)value;
        }
    if (node->float_op == BB_FLOAT_MAX_POOL)
        return best;
    return (float)(sum / ((double)rows.divisor * (double)columns.divisor));
}

static void pool_rows(const bb_context *context, const bb_plan_node *plan, int32_t row0,
                      int32_t row1, size_t worker) {
    const bb_model_node *node = plan->node;
    const bb_plan_tensor *in = &context->engine->tensors[node->in[0]];
    const bb_plan_tensor *out = &context->engine->tensors[node->out[0]];
    float *to = floats_of(context, node->out[0]) + (size_t)row0 * out->row;
    (void)worker;
    for (int32_t row = row0; row < row1; row++) {
        const float *image =
            floats_of(context, node->in[0]) + (size_t)(row / out->h) * (size_t)in->h * in->row;
        const bb_pool_span rows = bb_pool_span_at(&node->geometry, 0, row % out->h, in->h);
        for (int32_t x = 0; x < out->w; x++) {
            const bb_pool_span columns = bb_pool_span_at(&node->geometry, 1, x, in->w);
            for (int32_t c = 0; c < out->c; c++)
                *to++ = pool_value(node, in, image + c, rows, columns);
        }
    }
}

void bb_run_float_pool(bb_context *context, const bb_plan_node *plan) {
    const bb_plan_tensor *in = &context->engine->tensors[plan->node->in[0]];
    const bb_plan_tensor *out = &context->engine->tensors[plan->node->out[0]];
    bb_run_rows(context, plan, out->n * out->h, (size_t)in->h * in->row / (size_t)out->h,
                pool_rows);
}

/* ---- element by element ---------------------------------------------------------------------- */

static float clamp(float x, float low, float high) {
    return x < low ? low : x > high ? high : x;
}

static float unary(const bb_model_node *node, float x, size_t c) {
    switch (node->float_op) {
    case BB_FLOAT_RELU:
        return clamp(x, node->alpha, node->beta);
    case BB_FLOAT_LEAKY_RELU:
        return x < 0.0f ? x * (node->float_weights ? node->float_weights[c] : node->alpha) : x;
    case BB_FLOAT_SIGMOID:
        return bb_sigmoid_f32(x);
    case BB_FLOAT_HARD_SIGMOID:
        return clamp(node->alpha * x + node->beta, 0.0f, 1.0f);
    case BB_FLOAT_HARD_SWISH:
        return x * clamp(x * (1.0f / 6.0f) + 0.5f, 0.0f, 1.0f);
    case BB_FLOAT_SILU:
        return bb_silu_f32(x);
    case BB_FLOAT_TANH:
        return bb_tanh_f32(x);
    case BB_FLOAT_AFFINE:
        return x * node->float_weights[c] + (node->float_bias ? node->float_bias[c] : 0.0f);
    default:
        return x;
    }
}

/* Pixels of some rows of a node whose output has its input's shape. */
typedef struct pixel_run {
    const float *from;
    float *to;
    size_t pixels, channels;
} pixel_run;

static pixel_run pixels_of(const bb_context *context, const bb_plan_node *plan, int32_t row0,
                           int32_t row1) {
    const bb_plan_tensor *out = &context->engine->tensors[plan->node->out[0]];
    const size_t at = (size_t)row0 * out->row;
    return (pixel_run){floats_of(context, plan->node->in[0]) + at,
                       floats_of(context, plan->node->out[0]) + at,
                       (size_t)(row1 - row0) * (size_t)out->w, (size_t)out->c};
}

static void unary_rows(const bb_context *context, const bb_plan_node *plan, int32_t row0,
                       int32_t row1, size_t worker) {
    const pixel_run r = pixels_of(context, plan, row0, row1);
    (void)worker;
    for (size_t p = 0; p < r.pixels; p++)
        for (size_t c = 0; c < r.channels; c++)
            r.to[p * r.channels + c] = unary(plan->node, r.from[p * r.channels + c], c);
}

static void binary_rows(const bb_context *context, const bb_plan_node *plan, int32_t row0,
                        int32_t row1, size_t worker) {
    const bb_model_node *node = plan->node;
    const bb_plan_tensor *out = &context->engine->tensors[node->out[0]];
    const bb_plan_tensor *b = &context->engine->tensors[node->in[1]];
    const bool broadcast = b->h == 1 && b->w == 1;
    (void)worker;
    for (size_t row = (size_t)row0; row < (size_t)row1; row++) {
        const float *x = floats_of(context, node->in[0]) + row * out->row;
        const float *y =
            floats_of(context, node->in[1]) + (broadcast ? row / (size_t)out->h : row) * b->row;
        float *to = floats_of(context, node->out[0]) + row * out->row;
        for (size_t i = 0; i < out->row; i++) {
            const float other = y[broadcast ? i % (size_t)out->c : i];
            to[i] = node->float_op == BB_FLOAT_ADD ? x[i] + other : x[i] * other;
        }
    }
}

void bb_run_float_pointwise(bb_context *context, const bb_plan_node *plan) {
    const bb_plan_tensor *out = &context->engine->tensors[plan->node->out[0]];
    bb_run_rows(context, plan, out->n * out->h, out->row,
                plan->node->n_in == 2 ? binary_rows : unary_rows);
}

/* ---- softmax: e^(x - max) and its sum in double, channel by channel -------------------------- */

static void softmax_pixel(const float *x, float *y, size_t n) {
    float largest = x[0];
    double sum = 0.0;
    for (size_t c = 1; c < n; c++)
        largest = x[c] > largest ? x[c] : largest;
    for (size_t c = 0; c < n; c++)
        sum += bb_exp((double)x[c] - (double)largest);
    for (size_t c = 0; c < n; c++)
        y[c] = (float)(bb_exp((double)x[c] - (double)largest) / sum);
}

static void softmax_rows(const bb_context *context, const bb_plan_node *plan, int32_t row0,
                         int32_t row1, size_t worker) {
    const pixel_run r = pixels_of(context, plan, row0, row1);
    (void)worker;
    for (size_t p = 0; p < r.pixels; p++)
        softmax_pixel(r.from + p * r.channels, r.to + p * r.channels, r.channels);
}

void bb_run_float_softmax(bb_context *context, const bb_plan_node *plan) {
    const bb_plan_tensor *out = &context->engine->tensors[plan->node->out[0]];
    bb_run_rows(context, plan, out->n * out->h, out->row, softmax_rows);
}
