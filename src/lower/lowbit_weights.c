/* SPDX-License-Identifier: Apache-2.0 */
/* Weights on an integer grid: found in the float numbers, written as planes. */
#include "lower/lowbit.h"
#include <math.h>
#include <string.h>

enum { MAX_WEIGHT_INT = 255 };

/* The scale a quantizer of the weights states: one number, or one per row. */
static const bb_array *stated_scale(bb_lowbit *l, int value, bool *bipolar) {
    for (int depth = 0; depth < 8 && value >= 0; depth++) {
        int producer = l->graph->values[value].producer;
        if (producer < 0)
            return NULL;
        const bb_node *node = &l->graph->nodes[producer];
        *bipolar = node->op == BB_OP_QONNX_BIPOLAR_QUANT;
        if (*bipolar || node->op == BB_OP_QONNX_QUANT || node->op == BB_OP_DEQUANTIZE_LINEAR)
            return bb_node_has_input(node, 1) ? bb_lb_constant(l, node->in[1]) : NULL;
        value = node->in[0];
    }
    return NULL;
}

/* All weights of a row are scale*k; k is stored. */
static bool row_fits(const float *w, size_t n, double scale, int16_t *k) {
    for (size_t i = 0; i < n; i++) {
        double q = (double)w[i] / scale, nearest = floor(q + 0.5);
        if (!(fabs(q - nearest) <= 1e-4) || fabs(nearest) > MAX_WEIGHT_INT)
            return false;
        k[i] = (int16_t)nearest;
    }
    return true;
}

static bool row_grid(const float *w, size_t n, double stated, double *scale, int16_t *k) {
    if (stated > 0 && row_fits(w, n, stated, k)) {
        *scale = stated;
        return true;
    }
    double smallest = INFINITY;
    for (size_t i = 0; i < n; i++)
        if (w[i] != 0)
            smallest = fmin(smallest, fabs((double)w[i]));
    if (!isfinite(smallest))
        smallest = 1;
    for (int j = 1; j <= 8; j++)
        if (row_fits(w, n, smallest / j, k)) {
            *scale = smallest / j;
            return true;
        }
    return false;
}

static bb_status weight_shape(bb_lowbit *l, const bb_node *node, const bb_array *w,
                              bb_int_weights *out) {
    if (w->dtype != BB_DTYPE_F32)
        return bb_lb_fail(l, node, "its weights are not float32");
    if (node->op == BB_OP_CONV) {
        if (w->rank != 4)
            return bb_lb_fail(l, node, "only two-dimensional convolutions can be imported");
        out->rows = (uint32_t)w->dims[0];
        out->depth = (uint32_t)w->dims[1];
        out->taps = (uint32_t)(w->dims[2] * w->dims[3]);
        return BB_STATUS_OK;
    }
    bool transposed = node->op == BB_OP_GEMM && bb_node_int(node, "transB", 0) != 0;
    if (w->rank != 2 || (node->op == BB_OP_GEMM && bb_node_int(node, "transA", 0)))
        return bb_lb_fail(l, node, "its operands are not plain matrices");
    out->rows = (uint32_t)w->dims[transposed ? 0 : 1];
    out->depth = (uint32_t)w->dims[transposed ? 1 : 0];
    out->taps = 1;
    return BB_STATUS_OK;
}

/* Float weights in the model's order. */
static void order_weights(const bb_node *node, const bb_root *data, const float *from,
                          bb_int_weights *w) {
    if (node->op == BB_OP_CONV) {
        bb_lower_reorder_weights(from, w->rows, w->depth, w->taps, w->real);
        return;
    }
    bool transposed = node->op == BB_OP_GEMM && bb_node_int(node, "transB", 0) != 0;
    float alpha = node->op == BB_OP_GEMM ? bb_node_float(node, "alpha", 1.0f) : 1.0f;
    uint32_t pixels = data->flat_pixels ? data->flat_pixels : 1, channels = w->depth / pixels;
    float *to = w->real;
    for (uint32_t r = 0; r < w->rows; r++)
        for (uint32_t p = 0; p < pixels; p++)
            for (uint32_t c = 0; c < channels; c++) {
                size_t k = (size_t)c * pixels + p;
                *to++ = alpha * from[transposed ? r * (size_t)w->depth + k : k * w->rows + r];
            }
}

bb_status bb_lb_weights(bb_lowbit *l, const bb_node *node, const bb_root *data,
                        bb_int_weights *weights) {
    const bb_array *w = bb_lb_constant(l, node->in[1]);
    if (!w)
        return bb_lb_fail(l, node, "its weights are not constant");
    *weights = (bb_int_weights){0};
    BB_TRY(weight_shape(l, node, w, weights));
    size_t row = (size_t)weights->taps * weights->depth, n = row * weights->rows;
    bb_arena *arena = l->graph->arena;
    weights->k = bb_arena_array(arena, n, sizeof(*weights->k));
    weights->scale = bb_arena_array(arena, weights->rows, sizeof(*weights->scale));
    weights->real = bb_arena_array(arena, n, sizeof(*weights->real));
    if (!weights->k || !weights->scale || !weights->real)
        return bb_fail_memory(l->err, "weights");
    order_weights(node, data, w->data, weights);
    bool bipolar;
    const bb_array *stated = stated_scale(l, node->in[1], &bipolar);
    size_t n_stated = stated ? bb_lb_elements(stated) : 0;
    weights->integer = true;
    for (uint32_t r = 0; r < weights->rows && weights->integer; r++) {
        double scale = 0;
        if (n_stated == 1 || n_stated == weights->rows)
            scale = bb_lb_element(stated, n_stated == 1 ? 0 : r);
        weights->integer =
            row_grid(weights->real + r * row, row, scale, &weights->scale[r], weights->k + r * row);
    }
    return BB_STATUS_OK;
}

/* ---- planes --------------------------------------------------------------------------------- */

typedef struct range {
    int low, high;
    bool odd, ternary; /* all odd; all of -1, 0, 1 */
} range;

static range row_range(const int16_t *k, size_t n) {
    range r = {k[0], k[0], true, true};
    for (size_t i = 0; i < n; i++) {
        r.low = k[i] < r.low ? k[i] : r.low;
        r.high = k[i] > r.high ? k[i] : r.high;
        r.odd = r.odd && k[i] % 2 != 0;
        r.ternary = r.ternary && k[i] >= -1 && k[i] <= 1;
    }
    return r;
}

static uint32_t bits_for(int last) {
    uint32_t bits = 1;
    while ((1 << bits) - 1 < last)
        bits++;
    return bits;
}

static bb_planes *ternary_planes(bb_lowbit *l, const bb_int_weights *w, uint8_t *codes, size_t n) {
    static const uint8_t code[3] = {0, 1, 3};
    static const int16_t weight[2] = {1, 1};
    for (size_t i = 0; i < n; i++)
        codes[i] = code[w->k[i] + 1];
    return bb_planes_from_weighted_codes(l->model->arena, codes, w->rows, w->taps, w->depth, 2,
                                         weight);
}

/* b = 2v - L with v = k - low of the row, and o = 2*low + L: b + o = 2k. */
static bb_planes *offset_planes(bb_lowbit *l, const bb_int_weights *w, uint8_t *codes, size_t row,
                                uint32_t bits, bb_conv_params *conv) {
    int32_t *offset = bb_arena_array(l->model->arena, w->rows, sizeof(*offset));
    if (!offset)
        return NULL;
    for (uint32_t r = 0; r < w->rows; r++) {
        range q = row_range(w->k + r * row, row);
        offset[r] = 2 * q.low + (1 << bits) - 1;
        for (size_t i = 0; i < row; i++)
            codes[r * row + i] = (uint8_t)(w->k[r * row + i] - q.low);
    }
    conv->weight_offset = offset;
    return bb_planes_from_codes(l->model->arena, codes, w->rows, w->taps, w->depth, bits);
}

static bb_planes *odd_planes(bb_lowbit *l, const bb_int_weights *w, uint8_t *codes, size_t n,
                             uint32_t bits) {
    for (size_t i = 0; i < n; i++)
        codes[i] = (uint8_t)((w->k[i] + (1 << bits) - 1) / 2);
    return bb_planes_from_codes(l->model->arena, codes, w->rows, w->taps, w->depth, bits);
}

bool bb_lb_planes(bb_lowbit *l, const bb_int_weights *w, bb_planes **planes, bb_conv_params *conv,
                  int32_t *factor) {
    size_t row = (size_t)w->taps * w->depth, n = row * w->rows;
    uint8_t *codes = bb_alloc_array(n, 1);
    bool odd = true, ternary = true;
    int span = 0, largest = 0;
    for (uint32_t r = 0; r < w->rows; r++) {
        range q = row_range(w->k + r * row, row);
        odd = odd && q.odd;
        ternary = ternary && q.ternary;
        span = q.high - q.low > span ? q.high - q.low : span;
        largest = q.high > largest ? q.high : largest;
        largest = -q.low > largest ? -q.low : largest;
    }
    *planes = NULL;
    *factor = 2;
    if (codes && odd && bits_for(largest) <= bits_for(span)) {
        *factor = 1;
        *planes = odd_planes(l, w, codes, n, bits_for(largest));
    } else if (codes && ternary) {
        *planes = ternary_planes(l, w, codes, n);
    } else if (codes && span <= 255) {
        *planes = offset_planes(l, w, codes, row, bits_for(span), conv);
    }
    bb_free(codes);
    if (!*planes)
        return false;
    conv->planes = (*planes)->count;
    float *scale = bb_arena_array(l->model->arena, w->rows, sizeof(*scale));
    for (uint32_t r = 0; r < w->rows && scale; r++)
        scale[r] = (float)(w->scale[r] / *factor);
    conv->weight_scale = scale;
    return scale != NULL;
}
