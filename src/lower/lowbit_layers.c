/* SPDX-License-Identifier: Apache-2.0 */
/* Convolutions and sums: the roots that compute. */
#include "lower/lowbit.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- convolutions --------------------------------------------------------------------------- */

static bb_status conv_geometry(bb_lowbit *l, const bb_node *node, bb_model_node *made) {
    made->groups = 1;
    made->geometry = (bb_geometry){.kernel = {1, 1}, .stride = {1, 1}, .dilation = {1, 1}};
    if (node->op != BB_OP_CONV)
        return BB_STATUS_OK;
    made->groups = (uint32_t)bb_node_int(node, "group", 1);
    return bb_lower_window(l->graph, node, &made->geometry, l->err);
}

/* Bias of row r: Conv's, or Gemm's C times beta. */
static bb_status conv_bias(bb_lowbit *l, const bb_node *node, uint32_t rows, double *bias) {
    if (!bb_node_has_input(node, 2)) {
        memset(bias, 0, rows * sizeof(*bias));
        return BB_STATUS_OK;
    }
    const bb_array *b = bb_lb_constant(l, node->in[2]);
    size_t n = b ? bb_lb_elements(b) : 0;
    if (n != 1 && n != rows)
        return bb_lb_fail(l, node, "its bias is not a constant vector");
    double beta = node->op == BB_OP_GEMM ? (double)bb_node_float(node, "beta", 1.0f) : 1;
    for (uint32_t r = 0; r < rows; r++)
        bias[r] = beta * bb_lb_element(b, n == 1 ? 0 : r);
    return BB_STATUS_OK;
}

static int64_t gcd(int64_t a, int64_t b) {
    a = llabs(a);
    b = llabs(b);
    while (b) {
        int64_t t = a % b;
        a = b;
        b = t;
    }
    return a;
}

typedef struct reach {
    int64_t low, high, base, stride;
} reach;

/* All sums a row can give: each a - a0 is in {first, first + 2, ..., last}; taps in the padding
 * are missing as a whole. Sums are base plus multiples of the stride. */
static reach row_reach(const bb_int_weights *w, const int16_t *k, int32_t factor, int64_t first,
                       int64_t last, bool padded) {
    reach out = {0};
    for (uint32_t t = 0; t < w->taps; t++) {
        int64_t positive = 0, negative = 0;
        for (uint32_t i = 0; i < w->depth; i++) {
            int64_t b = (int64_t)k[(size_t)t * w->depth + i] * factor;
            *(b > 0 ? &positive : &negative) += b;
            out.stride = gcd(out.stride, 2 * b);
        }
        int64_t low = first * positive + last * negative, high = last * positive + first * negative;
        int64_t base = first * (positive + negative);
        if (padded) {
            out.stride = gcd(out.stride, base);
            low = low < 0 ? low : 0;
            high = high > 0 ? high : 0;
        } else {
            out.base += base;
        }
        out.low += low;
        out.high += high;
    }
    return out;
}

/* low, low + stride, ... up to high, all on base + multiples of stride. */
static void align(reach *r, int64_t stride) {
    int64_t below = (r->base - r->low) / stride * stride, above = (r->high - r->base) / stride;
    r->low = r->base - below;
    r->high = r->base + above * stride;
}

static bb_status fill_reach(bb_lowbit *l, bb_root *root, const bb_int_weights *w, int32_t factor,
                            const bb_lb_codes *codes, bool padded) {
    const bb_tensor_params *p = &l->params[codes->tensor];
    int64_t first = -((INT64_C(1) << p->bits) - 1) - p->a0;
    int64_t last = first + 2 * (int64_t)codes->grid.last;
    size_t row = (size_t)w->taps * w->depth;
    reach *rows = bb_alloc_array(w->rows, sizeof(*rows));
    if (!rows)
        return bb_fail_memory(l->err, "the import");
    int64_t stride = 0;
    for (uint32_t r = 0; r < w->rows; r++) {
        rows[r] = row_reach(w, w->k + r * row, factor, first, last, padded);
        stride = gcd(stride, rows[r].stride);
        stride = gcd(stride, rows[r].base - rows[0].base);
    }
    root->stride = stride ? stride : 1;
    for (uint32_t r = 0; r < w->rows; r++) {
        align(&rows[r], root->stride);
        root->low[r] = rows[r].low;
        root->high[r] = rows[r].high;
    }
    bb_free(rows);
    return BB_STATUS_OK;
}

static bool has_padding(const bb_geometry *g) {
    return g->pad_begin[0] || g->pad_begin[1] || g->pad_end[0] || g->pad_end[1];
}

static bb_status integer_conv(bb_lowbit *l, const bb_node *node, const bb_lb_codes *codes,
                              const bb_int_weights *w, bool *done) {
    bb_planes *planes;
    bb_conv_params conv = {0};
    int32_t factor;
    *done = bb_lb_planes(l, w, &planes, &conv, &factor);
    if (!*done)
        return BB_STATUS_OK;
    bb_model_node *made;
    BB_TRY(bb_lb_node(l, node->name, "", BB_NODE_CONV, 1, &codes->tensor, 0, NULL, &made));
    made->planes = planes;
    BB_TRY(conv_geometry(l, node, made));
    int index = (int)(made - l->model->nodes);
    l->convs[index] = conv;
    if (planes->count > l->weight_bits)
        l->weight_bits = planes->count;
    if (codes->grid.bits > l->activation_bits)
        l->activation_bits = codes->grid.bits;
    bb_root *root;
    BB_TRY(bb_lb_add_root(l, BB_ROOT_CONV, node->out[0], w->rows, &root));
    root->node = index;
    for (uint32_t r = 0; r < w->rows; r++)
        root->scale[r] = codes->grid.unit / 2 * w->scale[r] / factor;
    BB_TRY(conv_bias(l, node, w->rows, root->bias));
    return fill_reach(l, root, w, factor, codes, has_padding(&made->geometry));
}

static bb_status float_conv(bb_lowbit *l, const bb_node *node, const bb_int_weights *w,
                            const char *reason) {
    int in, out;
    size_t n = (size_t)w->rows * w->taps * w->depth;
    float *weights = bb_arena_array(l->model->arena, n, sizeof(*weights));
    float *bias = bb_arena_array(l->model->arena, w->rows, sizeof(*bias));
    double *exact = bb_arena_array(l->graph->arena, w->rows, sizeof(*exact));
    if (!weights || !bias || !exact || n > UINT32_MAX)
        return bb_fail_memory(l->err, "float weights");
    BB_TRY(conv_bias(l, node, w->rows, exact));
    memcpy(weights, w->real, n * sizeof(*weights));
    for (uint32_t r = 0; r < w->rows; r++)
        bias[r] = (float)exact[r];
    bb_model_node *made;
    BB_TRY(bb_lb_real_of(l, node->in[0], &in));
    BB_TRY(bb_lb_tensor(l, node->out[0], "", NULL, &out));
    BB_TRY(bb_lb_float_node(l, node, BB_FLOAT_CONV, 1, &in, out, reason, &made));
    BB_TRY(conv_geometry(l, node, made));
    made->float_weights = weights;
    made->float_bias = bias;
    made->n_float_weights = (uint32_t)n;
    made->n_float_bias = w->rows;
    return bb_lb_float_root(l, node->out[0], out);
}

bb_status bb_lb_conv(bb_lowbit *l, const bb_node *node) {
    int data = node->in[0];
    if (l->root_of[data] < 0)
        return bb_lb_fail(l, node, "its input is no image or vector that a layer makes");
    bb_int_weights w;
    bb_lb_codes codes = {.tensor = -1};
    const bb_root root = l->roots[l->root_of[data]];
    BB_TRY(bb_lb_weights(l, node, &root, &w));
    if (!w.integer)
        return float_conv(l, node, &w, "its weights are float in the source");
    BB_TRY(bb_lb_codes_of(l, data, 8, &codes));
    if (codes.tensor < 0)
        return float_conv(l, node, &w, "its input is float in the source");
    bool done;
    BB_TRY(integer_conv(l, node, &codes, &w, &done));
    return done ? BB_STATUS_OK
                : float_conv(l, node, &w, "its weights need more than 8 bits in the source");
}

/* ---- sums ----------------------------------------------------------------------------------- */

enum { MAX_RATIO = 64 };

/* unit1 : unit2 = k1 : k2 in small whole numbers. */
static bool common_unit(double unit1, double unit2, int32_t *k1, int32_t *k2) {
    for (*k2 = 1; *k2 <= MAX_RATIO; (*k2)++) {
        double k = unit1 / unit2 * *k2;
        *k1 = (int32_t)floor(k + 0.5);
        if (*k1 >= 1 && *k1 <= MAX_RATIO && fabs(k - *k1) < 1e-6 * k)
            return true;
    }
    return false;
}

static bb_status add_codes(bb_lowbit *l, const bb_node *node, const bb_lb_codes c[2]) {
    int in[2] = {c[0].tensor, c[1].tensor};
    bb_model_node *made;
    BB_TRY(bb_lb_node(l, node->name, "", BB_NODE_ADD, 2, in, 0, NULL, &made));
    int index = (int)(made - l->model->nodes);
    int64_t low[2], high[2];
    for (int i = 0; i < 2; i++) {
        const bb_tensor_params *p = &l->params[c[i].tensor];
        low[i] = -((INT64_C(1) << p->bits) - 1) - p->a0;
        high[i] = low[i] + 2 * (int64_t)c[i].grid.last;
    }
    int32_t k1, k2;
    bool common = common_unit(c[0].grid.unit, c[1].grid.unit, &k1, &k2);
    bb_root *root;
    BB_TRY(bb_lb_add_root(l, common ? BB_ROOT_ADD : BB_ROOT_PAIR, node->out[0], 1, &root));
    root->node = index;
    if (!common) {
        root->low[0] = low[0];
        root->high[0] = high[0];
        root->low2 = low[1];
        root->high2 = high[1];
        root->scale[0] = c[0].grid.unit / 2;
        root->step2 = c[1].grid.unit / 2;
        return BB_STATUS_OK;
    }
    root->k1 = k1;
    root->k2 = k2;
    root->low[0] = k1 * low[0] + k2 * low[1];
    root->high[0] = k1 * high[0] + k2 * high[1];
    root->stride = 2 * gcd(k1, k2);
    root->scale[0] = c[0].grid.unit / 2 / k1;
    return BB_STATUS_OK;
}

static bool same_shape(const bb_lowbit *l, int a, int b) {
    const bb_value *x = &l->graph->values[a], *y = &l->graph->values[b];
    if (x->rank != y->rank)
        return false;
    for (int i = 0; i < x->rank; i++)
        if (x->dims[i] != y->dims[i])
            return false;
    return true;
}

bb_status bb_lb_add(bb_lowbit *l, const bb_node *node) {
    bb_lb_codes codes[2];
    if (node->n_in != 2 || l->root_of[node->in[0]] < 0 || l->root_of[node->in[1]] < 0 ||
        !same_shape(l, node->in[0], node->in[1]))
        return bb_lb_fail(l, node, "its operands are not two values of one shape");
    const bb_root *a = &l->roots[l->root_of[node->in[0]]], *b = &l->roots[l->root_of[node->in[1]]];
    uint32_t pixels = a->flat_pixels, channels = a->flat_channels;
    if (pixels != b->flat_pixels)
        return bb_lb_fail(l, node, "its operands are flattened differently");
    for (int i = 0; i < 2; i++)
        BB_TRY(bb_lb_codes_of(l, node->in[i], BB_MAX_CODE_BITS, &codes[i]));
    if (codes[0].tensor >= 0 && codes[1].tensor >= 0) {
        BB_TRY(add_codes(l, node, codes));
        bb_root *root = &l->roots[l->root_of[node->out[0]]];
        root->flat_pixels = pixels;
        root->flat_channels = channels;
        return BB_STATUS_OK;
    }
    int in[2], out;
    for (int i = 0; i < 2; i++)
        BB_TRY(bb_lb_real_of(l, node->in[i], &in[i]));
    bb_model_node *made;
    BB_TRY(bb_lb_tensor(l, node->out[0], "", NULL, &out));
    BB_TRY(bb_lb_float_node(l, node, BB_FLOAT_ADD, 2, in, out, "adds floats in the source", &made));
    return bb_lb_float_root(l, node->out[0], out);
}
