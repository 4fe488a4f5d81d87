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
    uint64_t n = (uint64_t)w->rows * w->taps * w->depth;
    l->by_weight_bits[planes->count] += n;
    l->by_activation_bits[codes->grid.bits] += n;
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

/* One operand of a sum as an affine function of the integer z of its root:
 * value = scale[c]*z + bias[c]. */
typedef struct addend {
    bb_root root;
    double *scale, *bias; /* [channels of the value] */
    bool uniform;
    bool known;
} addend;

static bb_status codes_addend(bb_lowbit *l, int value, addend *a) {
    bb_lb_codes codes;
    BB_TRY(bb_lb_codes_of(l, value, BB_MAX_CODE_BITS, &codes));
    if (codes.tensor < 0)
        return BB_STATUS_OK;
    const bb_tensor_params *p = &l->params[codes.tensor];
    a->root.kind = BB_ROOT_CODES;
    a->root.tensor = codes.tensor;
    a->root.channels = 1;
    a->root.low[0] = -((INT64_C(1) << p->bits) - 1) - p->a0;
    a->root.high[0] = a->root.low[0] + 2 * (int64_t)codes.grid.last;
    for (uint32_t c = 0; c < bb_lb_channels(l, value); c++) {
        a->scale[c] = codes.grid.unit / 2;
        a->bias[c] = 0;
    }
    a->uniform = a->known = true;
    return BB_STATUS_OK;
}

static bb_status read_addend(bb_lowbit *l, int value, addend *a) {
    uint32_t channels = bb_lb_channels(l, value);
    bb_arena *arena = l->graph->arena;
    *a = (addend){.root = l->roots[l->root_of[value]],
                  .scale = bb_arena_array(arena, channels, sizeof(*a->scale)),
                  .bias = bb_arena_array(arena, channels, sizeof(*a->bias))};
    if (!a->scale || !a->bias)
        return bb_fail_memory(l->err, "the import");
    bool plain = a->root.kind == BB_ROOT_CODES || a->root.kind == BB_ROOT_CONV;
    a->known = plain && bb_lb_affine(l, value, a->scale, a->bias);
    a->uniform = true;
    for (uint32_t c = 1; c < channels && a->known; c++)
        a->uniform = a->uniform && a->scale[c] == a->scale[0] && a->bias[c] == a->bias[0];
    if (a->known)
        return BB_STATUS_OK;
    a->root.low = bb_arena_array(arena, 1, sizeof(*a->root.low));
    a->root.high = bb_arena_array(arena, 1, sizeof(*a->root.high));
    if (!a->root.low || !a->root.high)
        return bb_fail_memory(l->err, "the import");
    return codes_addend(l, value, a);
}

static int64_t reach_of(const bb_root *root) {
    int64_t most = 0;
    for (uint32_t c = 0; c < root->channels; c++) {
        most = root->high[c] > most ? root->high[c] : most;
        most = -root->low[c] > most ? -root->low[c] : most;
    }
    return most;
}

/* Two codes whose units have a small ratio: every function of their sum can be reproduced. */
static bb_status sum_root(bb_lowbit *l, const bb_node *node, const addend a[2], bool *done) {
    int32_t k1, k2;
    *done = a[0].root.kind == BB_ROOT_CODES && a[1].root.kind == BB_ROOT_CODES && a[0].uniform &&
            a[1].uniform && a[0].scale[0] > 0 && a[1].scale[0] > 0 &&
            common_unit(a[0].scale[0], a[1].scale[0], &k1, &k2);
    if (!*done)
        return BB_STATUS_OK;
    int in[2] = {a[0].root.tensor, a[1].root.tensor};
    bb_model_node *made;
    BB_TRY(bb_lb_node(l, node->name, "", BB_NODE_ADD, 2, in, 0, NULL, &made));
    bb_root *root;
    BB_TRY(bb_lb_add_root(l, BB_ROOT_ADD, node->out[0], 1, &root));
    root->node = (int)(made - l->model->nodes);
    root->k1 = k1;
    root->k2 = k2;
    root->low[0] = k1 * a[0].root.low[0] + k2 * a[1].root.low[0];
    root->high[0] = k1 * a[0].root.high[0] + k2 * a[1].root.high[0];
    root->stride = 2 * gcd(k1, k2);
    root->scale[0] = a[0].scale[0] / k1;
    root->bias[0] = a[0].bias[0] + a[1].bias[0];
    return BB_STATUS_OK;
}

/* A convolution can take one residual input, which all of its results then use. */
static bool takes_residual(const bb_lowbit *l, const bb_root *conv, int residual) {
    const bb_model_node *node = &l->model->nodes[conv->node];
    return node->n_in == 1 ? node->n_out == 0 : node->in[1] == residual;
}

/* The convolution of operand `first` takes operand 1 - first as its residual input; two codes get
 * an ADD node. */
static bb_status pair_root(bb_lowbit *l, const bb_node *node, const addend a[2], bool *done) {
    int first = a[1].root.kind == BB_ROOT_CONV ? 1 : 0;
    const addend *x = &a[first], *y = &a[1 - first];
    *done = y->root.kind == BB_ROOT_CODES &&
            (x->root.kind == BB_ROOT_CONV ? takes_residual(l, &x->root, y->root.tensor)
                                          : x->uniform && y->uniform);
    if (!*done)
        return BB_STATUS_OK;
    int index = x->root.node;
    bb_model_node *made;
    if (x->root.kind == BB_ROOT_CONV) {
        made = &l->model->nodes[index];
        made->in[1] = y->root.tensor;
        made->n_in = 2;
    } else {
        int in[2] = {x->root.tensor, y->root.tensor};
        BB_TRY(bb_lb_node(l, node->name, "", BB_NODE_ADD, 2, in, 0, NULL, &made));
        index = (int)(made - l->model->nodes);
    }
    uint32_t channels = x->root.kind == BB_ROOT_CONV ? x->root.channels : 1;
    bb_root *root;
    BB_TRY(bb_lb_add_root(l, BB_ROOT_PAIR, node->out[0], channels, &root));
    root->node = index;
    root->scale2 = bb_arena_array(l->graph->arena, channels, sizeof(*root->scale2));
    if (!root->scale2)
        return bb_fail_memory(l->err, "the import");
    for (uint32_t c = 0; c < channels; c++) {
        uint32_t from = x->root.channels == 1 ? 0 : c;
        root->low[c] = x->root.low[from];
        root->high[c] = x->root.high[from];
        root->scale[c] = x->scale[c];
        root->scale2[c] = y->scale[c];
        root->bias[c] = x->bias[c] + y->bias[c];
    }
    root->reach2 = reach_of(&y->root);
    return BB_STATUS_OK;
}

static bb_status float_sum(bb_lowbit *l, const bb_node *node) {
    int in[2], out;
    bb_model_node *made;
    for (int i = 0; i < 2; i++)
        BB_TRY(bb_lb_real_of(l, node->in[i], &in[i]));
    BB_TRY(bb_lb_tensor(l, node->out[0], "", NULL, &out));
    BB_TRY(bb_lb_float_node(l, node, BB_FLOAT_ADD, 2, in, out, "adds floats in the source", &made));
    return bb_lb_float_root(l, node->out[0], out);
}

/* ---- constants per tap ---------------------------------------------------------------------- */

/* A convolution over a constant image of ones: what each valid tap adds. */
static bool is_taps(bb_lowbit *l, const bb_node *node) {
    const bb_array *x = node->op == BB_OP_CONV ? bb_lb_constant(l, node->in[0]) : NULL;
    const bb_array *w = x ? bb_lb_constant(l, node->in[1]) : NULL;
    if (!w || x->rank != 4 || w->rank != 4 || w->dims[1] != 1 || node->n_in != 2)
        return false;
    for (size_t i = 0; i < bb_lb_elements(x); i++)
        if (bb_lb_element(x, i) != 1)
            return false;
    return true;
}

static bool same_geometry(const bb_geometry *a, const bb_geometry *b) {
    return memcmp(a->kernel, b->kernel, sizeof(a->kernel)) == 0 &&
           memcmp(a->stride, b->stride, sizeof(a->stride)) == 0 &&
           memcmp(a->dilation, b->dilation, sizeof(a->dilation)) == 0 &&
           memcmp(a->pad_begin, b->pad_begin, sizeof(a->pad_begin)) == 0;
}

static bb_status add_taps(bb_lowbit *l, const bb_node *node, int conv_value, int taps_value) {
    bb_root *root = &l->roots[l->root_of[conv_value]];
    const bb_node *source = &l->graph->nodes[l->graph->values[taps_value].producer];
    const bb_array *w = bb_lb_constant(l, source->in[1]);
    bb_geometry geometry;
    BB_TRY(bb_lower_window(l->graph, source, &geometry, l->err));
    const bb_model_node *made = root->kind == BB_ROOT_CONV ? &l->model->nodes[root->node] : NULL;
    if (!made || conv_value != root->value || made->n_out != 0 ||
        !same_geometry(&geometry, &made->geometry) || w->dims[0] != made->planes->rows)
        return bb_lb_fail(l, node, "constants per tap belong to a convolution of the same window");
    uint32_t rows = made->planes->rows, taps = made->planes->taps;
    int32_t *add = bb_arena_array(l->model->arena, (size_t)rows * taps, sizeof(*add));
    if (!add)
        return bb_fail_memory(l->err, "tap constants");
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t t = 0; t < taps; t++) {
            double e = bb_lb_element(w, (size_t)r * taps + t) / root->scale[r];
            if (fabs(e - floor(e + 0.5)) > 1e-6 || fabs(e) > 0x1p30)
                return bb_lb_fail(l, node, "a constant per tap is no whole number of steps");
            add[(size_t)t * rows + r] = (int32_t)floor(e + 0.5);
            root->low[r] += e < 0 ? (int64_t)floor(e + 0.5) : 0;
            root->high[r] += e > 0 ? (int64_t)floor(e + 0.5) : 0;
        }
    l->convs[root->node].tap_add = add;
    root->stride = 1;
    root->value = node->out[0];
    l->root_of[node->out[0]] = l->root_of[conv_value];
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

static bool has_root(const bb_lowbit *l, int value, bb_root_kind kind) {
    return l->root_of[value] >= 0 && l->roots[l->root_of[value]].kind == kind;
}

bb_status bb_lb_add(bb_lowbit *l, const bb_node *node) {
    addend a[2];
    bool done;
    if (node->n_in != 2 || l->root_of[node->in[0]] < 0 || l->root_of[node->in[1]] < 0 ||
        !same_shape(l, node->in[0], node->in[1]))
        return bb_lb_fail(l, node, "its operands are not two values of one shape");
    for (int i = 0; i < 2; i++)
        if (has_root(l, node->in[i], BB_ROOT_TAPS))
            return add_taps(l, node, node->in[1 - i], node->in[i]);
    const bb_root *first = &l->roots[l->root_of[node->in[0]]];
    uint32_t pixels = first->flat_pixels, channels = first->flat_channels;
    if (pixels != l->roots[l->root_of[node->in[1]]].flat_pixels)
        return bb_lb_fail(l, node, "its operands are flattened differently");
    for (int i = 0; i < 2; i++)
        BB_TRY(read_addend(l, node->in[i], &a[i]));
    if (!a[0].known || !a[1].known)
        return float_sum(l, node);
    BB_TRY(sum_root(l, node, a, &done));
    if (!done)
        BB_TRY(pair_root(l, node, a, &done));
    if (!done)
        return float_sum(l, node);
    bb_root *root = &l->roots[l->root_of[node->out[0]]];
    root->flat_pixels = pixels;
    root->flat_channels = channels;
    return BB_STATUS_OK;
}

bb_status bb_lb_conv(bb_lowbit *l, const bb_node *node) {
    int data = node->in[0];
    if (is_taps(l, node)) {
        bb_root *taps;
        return bb_lb_add_root(l, BB_ROOT_TAPS, node->out[0], 1, &taps);
    }
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

/* ---- sums of windows ------------------------------------------------------------------------ */

bb_status bb_lb_average_as_conv(bb_lowbit *l, const bb_root *average, bb_root *conv) {
    *conv = *average;
    bb_model_node *node = &l->model->nodes[average->node];
    const bb_value *in =
        &l->graph->values[l->graph->nodes[l->graph->values[average->value].producer].in[0]];
    if (node->n_out != 0 || in->rank != 4 || in->dims[1] <= 0)
        return BB_STATUS_OK;
    bb_geometry *g = &node->geometry;
    if (g->kernel[0] == 0)
        *g = (bb_geometry){.kernel = {(int32_t)in->dims[2], (int32_t)in->dims[3]},
                           .stride = {1, 1},
                           .dilation = {1, 1}};
    g->ceil_mode = g->count_include_pad = false;
    uint32_t channels = (uint32_t)in->dims[1], taps = (uint32_t)average->count;
    uint8_t *ones = bb_alloc_array((size_t)channels * taps, 1);
    float *scale = bb_arena_array(l->model->arena, channels, sizeof(*scale));
    if (ones)
        memset(ones, 1, (size_t)channels * taps);
    node->planes = ones ? bb_planes_from_codes(l->model->arena, ones, channels, taps, 1, 1) : NULL;
    bb_free(ones);
    if (!node->planes || !scale)
        return bb_fail_memory(l->err, "weight planes");
    for (uint32_t c = 0; c < channels; c++)
        scale[c] = 1 / (float)average->count;
    node->kind = BB_NODE_CONV;
    node->groups = channels;
    l->convs[average->node] = (bb_conv_params){.planes = 1, .weight_scale = scale};
    conv->kind = l->roots[l->root_of[average->value]].kind = BB_ROOT_CONV;
    return BB_STATUS_OK;
}
