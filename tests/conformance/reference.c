/* SPDX-License-Identifier: Apache-2.0 */
#include "reference.h"
#include "engine/float_math.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *must(void *p) {
    if (!p) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return p;
}

void ref_start(ref_result *r, const bb_model *model, size_t profile, const bb_shapes *shapes) {
    *r = (ref_result){.model = model, .profile = &model->profiles[profile]};
    r->tensors = must(calloc(model->n_tensors, sizeof(*r->tensors)));
    r->accumulators = must(calloc(model->n_nodes, sizeof(*r->accumulators)));
    for (size_t i = 0; i < model->n_tensors; i++) {
        ref_tensor *t = &r->tensors[i];
        memcpy(t->dims, shapes->dims[i], sizeof(t->dims));
        t->n = (size_t)t->dims[0] * (size_t)t->dims[1] * (size_t)t->dims[2] * (size_t)t->dims[3];
        if (model->tensors[i].kind == BB_TENSOR_FLOAT)
            t->floats = must(calloc(t->n, sizeof(float)));
        else
            t->codes = must(calloc(t->n, sizeof(int32_t)));
    }
}

void ref_free(ref_result *r) {
    for (size_t i = 0; i < r->model->n_tensors; i++) {
        free(r->tensors[i].codes);
        free(r->tensors[i].floats);
    }
    for (size_t i = 0; i < r->model->n_nodes; i++)
        free(r->accumulators[i]);
    free(r->tensors);
    free(r->accumulators);
}

static size_t at(const ref_tensor *t, int n, int y, int x, int c) {
    return (((size_t)n * (size_t)t->dims[1] + (size_t)y) * (size_t)t->dims[2] + (size_t)x) *
               (size_t)t->dims[3] +
           (size_t)c;
}

/* a - a0 of a code, a = 2u - L. */
static int64_t centred(const ref_result *r, int tensor, size_t i) {
    const bb_tensor_params *p = &r->profile->tensors[tensor];
    return 2 * (int64_t)r->tensors[tensor].codes[i] - ((1 << p->bits) - 1) - p->a0;
}

/* ---- requantizers ---------------------------------------------------------------------------- */

static int64_t floor_div(int64_t a, int64_t b) {
    int64_t q = a / b;
    return a % b != 0 && a < 0 ? q - 1 : q;
}

static int64_t linear(const bb_requant *q, size_t c, int64_t z1, int64_t z2, int64_t n,
                      int64_t top) {
    int64_t t = z1 * q->mult[c] + (q->mult2 ? z2 * q->mult2[c] : 0) + n * q->add[c];
    if (q->neg_mult) {
        if (t < 0)
            t = z1 * q->neg_mult[c] + (q->neg_mult2 ? z2 * q->neg_mult2[c] : 0) + n * q->neg_add[c];
        t += n * q->off[c];
    }
    int64_t u = floor_div(t, n * ((int64_t)1 << q->shift[c]));
    return u < 0 ? 0 : u > top ? top : u;
}

static int64_t thresholds(const bb_requant *q, size_t c, int64_t z, int64_t top) {
    int64_t u = 0;
    for (int64_t i = 0; i < top; i++) {
        int32_t t = q->thresholds[c * (size_t)top + (size_t)i];
        u += q->rising[c] ? z >= t : z <= t;
    }
    return u;
}

/* Writes element i of `tensor`, which is channel `channel`. has_z2: the node has a second operand.
 */
static void finish(ref_result *r, int tensor, size_t i, int channel, int64_t z1, int64_t z2,
                   int64_t n, bool has_z2) {
    const bb_tensor_params *p = &r->profile->tensors[tensor];
    const bb_requant *q = &p->requant;
    size_t c = q->channels == 1 ? 0 : (size_t)channel;
    int64_t top = (1 << p->bits) - 1;
    if (q->kind == BB_REQUANT_LINEAR) {
        r->tensors[tensor].codes[i] = (int32_t)linear(q, c, z1, z2, n, top);
    } else if (q->kind == BB_REQUANT_THRESHOLDS) {
        r->tensors[tensor].codes[i] = (int32_t)thresholds(q, c, z1, top);
    } else if (q->kind == BB_REQUANT_INDEXED) {
        r->tensors[tensor].codes[i] = q->table[linear(q, c, z1, z2, n, (1 << q->index_bits) - 1)];
    } else {
        double y = (double)z1;
        if (n != 1)
            y = y / (double)n;
        y = y * (double)q->scale[c];
        if (has_z2)
            y = y + (double)z2 * (double)q->scale2[c];
        r->tensors[tensor].floats[i] = (float)(y + (double)q->bias[c]);
    }
}

/* ---- convolution ----------------------------------------------------------------------------- */

static int64_t weight_level(const bb_planes *w, uint32_t used, size_t row, size_t j) {
    int64_t b = 0;
    for (uint32_t p = 0; p < used; p++) {
        uint64_t word = w->words[((size_t)p * w->rows + row) * w->row_words + j / 64];
        int64_t weight = w->weight[p] >> (w->count - used);
        b += word >> (j % 64) & 1 ? weight : -weight;
    }
    return b;
}

static int32_t *weight_levels(const bb_planes *w, const bb_conv_params *params) {
    size_t row = (size_t)w->taps * w->depth;
    int32_t *levels = must(malloc(w->rows * row * sizeof(*levels)));
    for (size_t r = 0; r < w->rows; r++)
        for (size_t j = 0; j < row; j++)
            levels[r * row + j] = (int32_t)(weight_level(w, params->planes, r, j) +
                                            (params->weight_offset ? params->weight_offset[r] : 0));
    return levels;
}

/* a - a0 of the whole tensor. */
static int32_t *centred_tensor(const ref_result *r, int tensor) {
    int32_t *a = must(malloc(r->tensors[tensor].n * sizeof(*a)));
    for (size_t i = 0; i < r->tensors[tensor].n; i++)
        a[i] = (int32_t)centred(r, tensor, i);
    return a;
}

static int64_t convolve_at(const ref_result *r, const bb_model_node *node, const int32_t *a,
                           const int32_t *levels, int n, int oy, int ox, int c) {
    const bb_geometry *g = &node->geometry;
    const bb_conv_params *params = &r->profile->convs[node - r->model->nodes];
    const ref_tensor *in = &r->tensors[node->in[0]];
    int depth = (int)node->planes->depth;
    int group = c / ((int)node->planes->rows / (int)node->groups);
    int64_t sum = 0;
    for (int ky = 0; ky < g->kernel[0]; ky++)
        for (int kx = 0; kx < g->kernel[1]; kx++) {
            int y = oy * g->stride[0] - g->pad_begin[0] + ky * g->dilation[0];
            int x = ox * g->stride[1] - g->pad_begin[1] + kx * g->dilation[1];
            int tap = ky * g->kernel[1] + kx;
            if (y < 0 || y >= in->dims[1] || x < 0 || x >= in->dims[2])
                continue;
            const int32_t *w =
                levels + ((size_t)c * node->planes->taps + (size_t)tap) * (size_t)depth;
            const int32_t *pixel = a + at(in, n, y, x, group * depth);
            for (int i = 0; i < depth; i++)
                sum += (int64_t)pixel[i] * w[i];
            if (params->tap_add)
                sum += params->tap_add[(size_t)tap * node->planes->rows + (size_t)c];
        }
    return sum;
}

static void run_conv(ref_result *r, size_t index) {
    const bb_model_node *node = &r->model->nodes[index];
    const ref_tensor *out = &r->tensors[node->out[0]];
    int32_t *levels = weight_levels(node->planes, &r->profile->convs[index]);
    int32_t *a = centred_tensor(r, node->in[0]);
    r->accumulators[index] = must(malloc(out->n * sizeof(int32_t)));
    for (size_t i = 0; i < out->n; i++) {
        int c = (int)(i % (size_t)out->dims[3]);
        size_t pixel = i / (size_t)out->dims[3];
        int x = (int)(pixel % (size_t)out->dims[2]);
        int y = (int)(pixel / (size_t)out->dims[2] % (size_t)out->dims[1]);
        int n = (int)(pixel / (size_t)out->dims[2] / (size_t)out->dims[1]);
        int64_t p = convolve_at(r, node, a, levels, n, y, x, c);
        r->accumulators[index][i] = (int32_t)p;
        for (int k = 0; k < node->n_out; k++)
            finish(r, node->out[k], i, c, p, node->n_in == 2 ? centred(r, node->in[1], i) : 0, 1,
                   node->n_in == 2);
    }
    free(levels);
    free(a);
}

/* ---- other nodes ----------------------------------------------------------------------------- */

static void run_elementwise(ref_result *r, const bb_model_node *node) {
    const ref_tensor *out = &r->tensors[node->out[0]], *b = &r->tensors[node->in[node->n_in - 1]];
    bool broadcast = b->dims[1] == 1 && b->dims[2] == 1;
    size_t image = out->n / (size_t)out->dims[0];
    for (size_t i = 0; i < out->n; i++) {
        int c = (int)(i % (size_t)out->dims[3]);
        int64_t z1 = centred(r, node->in[0], i), z2 = 0;
        if (node->kind == BB_NODE_ADD)
            z2 = centred(r, node->in[1], i);
        if (node->kind == BB_NODE_MUL)
            z1 *= centred(r, node->in[1],
                          broadcast ? i / image * (size_t)out->dims[3] + (size_t)c : i);
        for (int k = 0; k < node->n_out; k++)
            finish(r, node->out[k], i, c, z1, z2, 1, node->kind == BB_NODE_ADD);
    }
}

typedef struct pool_sum {
    int64_t sum, n;
    int32_t largest;
    float largest_float;
    double float_sum;
} pool_sum;

static bool counts(const bb_geometry *g, int axis, int position, int size, bool padding) {
    if (padding)
        return position < size + g->pad_end[axis];
    return position >= 0 && position < size;
}

static pool_sum pool_at(const ref_result *r, const bb_model_node *node, int n, int oy, int ox,
                        int c) {
    const bb_geometry *g = &node->geometry;
    const ref_tensor *in = &r->tensors[node->in[0]];
    bool global = g->kernel[0] == 0, any = false;
    int kh = global ? in->dims[1] : g->kernel[0], kw = global ? in->dims[2] : g->kernel[1];
    pool_sum p = {0};
    for (int ky = 0; ky < kh; ky++)
        for (int kx = 0; kx < kw; kx++) {
            int y = global ? ky : oy * g->stride[0] - g->pad_begin[0] + ky * g->dilation[0];
            int x = global ? kx : ox * g->stride[1] - g->pad_begin[1] + kx * g->dilation[1];
            bool inside = global || (counts(g, 0, y, in->dims[1], false) &&
                                     counts(g, 1, x, in->dims[2], false));
            bool counted = inside || (g->count_include_pad && counts(g, 0, y, in->dims[1], true) &&
                                      counts(g, 1, x, in->dims[2], true));
            p.n += counted;
            if (!inside)
                continue;
            size_t i = at(in, n, y, x, c);
            if (in->floats) {
                p.largest_float =
                    !any || in->floats[i] > p.largest_float ? in->floats[i] : p.largest_float;
                p.float_sum += (double)in->floats[i];
            } else {
                p.sum += centred(r, node->in[0], i);
                p.largest = in->codes[i] > p.largest ? in->codes[i] : p.largest;
            }
            any = true;
        }
    return p;
}

static void run_pool(ref_result *r, const bb_model_node *node) {
    const ref_tensor *out = &r->tensors[node->out[0]];
    size_t i = 0;
    for (int n = 0; n < out->dims[0]; n++)
        for (int y = 0; y < out->dims[1]; y++)
            for (int x = 0; x < out->dims[2]; x++)
                for (int c = 0; c < out->dims[3]; c++, i++) {
                    pool_sum p = pool_at(r, node, n, y, x, c);
                    if (node->kind == BB_NODE_MAX_POOL)
                        out->codes[i] = p.largest;
                    else if (node->kind == BB_NODE_FLOAT)
                        out->floats[i] = node->float_op == BB_FLOAT_MAX_POOL
                                             ? p.largest_float
                                             : (float)(p.float_sum / (double)p.n);
                    for (int k = 0; node->kind == BB_NODE_AVERAGE_POOL && k < node->n_out; k++)
                        finish(r, node->out[k], i, c, p.sum, 0, p.n, false);
                }
}

static void copy_element(ref_tensor *out, size_t to, const ref_tensor *in, size_t from) {
    if (out->codes)
        out->codes[to] = in->codes[from];
    else
        out->floats[to] = in->floats[from];
}

static void run_concat(ref_result *r, const bb_model_node *node) {
    ref_tensor *out = &r->tensors[node->out[0]];
    size_t pixels = out->n / (size_t)out->dims[3], first = 0;
    for (int k = 0; k < node->n_in; k++) {
        const ref_tensor *in = &r->tensors[node->in[k]];
        size_t channels = (size_t)in->dims[3];
        for (size_t p = 0; p < pixels; p++)
            for (size_t c = 0; c < channels; c++)
                copy_element(out, p * (size_t)out->dims[3] + first + c, in, p * channels + c);
        first += channels;
    }
}

static void run_gather(ref_result *r, const bb_model_node *node) {
    ref_tensor *out = &r->tensors[node->out[0]];
    const ref_tensor *in = &r->tensors[node->in[0]];
    for (size_t i = 0; i < out->n; i++)
        copy_element(out, i, in,
                     i / (size_t)out->dims[3] * (size_t)in->dims[3] +
                         (size_t)node->channel_index[i % (size_t)out->dims[3]]);
}

static void run_reshape(ref_result *r, const bb_model_node *node) {
    ref_tensor *out = &r->tensors[node->out[0]];
    for (size_t i = 0; i < out->n; i++)
        copy_element(out, i, &r->tensors[node->in[0]], i);
}

static void run_resize(ref_result *r, const bb_model_node *node) {
    ref_tensor *out = &r->tensors[node->out[0]];
    const ref_tensor *in = &r->tensors[node->in[0]];
    size_t i = 0;
    for (int n = 0; n < out->dims[0]; n++)
        for (int y = 0; y < out->dims[1]; y++)
            for (int x = 0; x < out->dims[2]; x++)
                for (int c = 0; c < out->dims[3]; c++, i++)
                    copy_element(
                        out, i, in,
                        at(in, n, y / node->resize_factor[0], x / node->resize_factor[1], c));
}

static void run_quantize(ref_result *r, const bb_model_node *node) {
    for (int k = 0; k < node->n_out; k++) {
        ref_tensor *out = &r->tensors[node->out[k]];
        const bb_tensor_params *p = &r->profile->tensors[node->out[k]];
        double top = (double)((1 << p->bits) - 1), inv_step = 0.5 / (double)p->step;
        double zero = 0.5 * (top + p->a0);
        for (size_t i = 0; i < out->n; i++) {
            double u = floor((double)r->tensors[node->in[0]].floats[i] * inv_step + zero + 0.5);
            out->codes[i] = (int32_t)(u < 0 ? 0 : u > top ? top : u);
        }
    }
}

/* ---- float nodes ----------------------------------------------------------------------------- */

static void run_float_conv(ref_result *r, const bb_model_node *node) {
    const bb_geometry *g = &node->geometry;
    const ref_tensor *in = &r->tensors[node->in[0]], *out = &r->tensors[node->out[0]];
    int depth = in->dims[3] / (int)node->groups, taps = g->kernel[0] * g->kernel[1];
    size_t i = 0;
    for (int n = 0; n < out->dims[0]; n++)
        for (int oy = 0; oy < out->dims[1]; oy++)
            for (int ox = 0; ox < out->dims[2]; ox++)
                for (int c = 0; c < out->dims[3]; c++, i++) {
                    int group = c / (out->dims[3] / (int)node->groups);
                    float sum = node->float_bias ? node->float_bias[c] : 0.0f;
                    for (int t = 0; t < taps; t++) {
                        int y =
                            oy * g->stride[0] - g->pad_begin[0] + t / g->kernel[1] * g->dilation[0];
                        int x =
                            ox * g->stride[1] - g->pad_begin[1] + t % g->kernel[1] * g->dilation[1];
                        if (y < 0 || y >= in->dims[1] || x < 0 || x >= in->dims[2])
                            continue;
                        for (int k = 0; k < depth; k++)
                            sum += in->floats[at(in, n, y, x, group * depth + k)] *
                                   node->float_weights[(c * taps + t) * depth + k];
                    }
                    out->floats[i] = sum;
                }
}

static float unary(const bb_model_node *node, float x, size_t c) {
    float v;
    switch (node->float_op) {
    case BB_FLOAT_RELU:
        return x < node->alpha ? node->alpha : x > node->beta ? node->beta : x;
    case BB_FLOAT_LEAKY_RELU:
        return x < 0 ? x * (node->n_float_weights ? node->float_weights[c] : node->alpha) : x;
    case BB_FLOAT_SIGMOID:
        return (float)(1.0 / (1.0 + bb_exp(-(double)x)));
    case BB_FLOAT_HARD_SIGMOID:
        v = node->alpha * x;
        v = v + node->beta;
        return v < 0 ? 0 : v > 1 ? 1 : v;
    case BB_FLOAT_HARD_SWISH:
        v = x * (1.0f / 6.0f);
        v = v + 0.5f;
        return x * (v < 0 ? 0 : v > 1 ? 1 : v);
    case BB_FLOAT_SILU:
        return bb_silu_f32(x);
    case BB_FLOAT_TANH:
        return bb_tanh_f32(x);
    default:
        v = x * node->float_weights[c];
        return v + (node->n_float_bias ? node->float_bias[c] : 0.0f);
    }
}

static void run_float_pointwise(ref_result *r, const bb_model_node *node) {
    const ref_tensor *out = &r->tensors[node->out[0]], *b = &r->tensors[node->in[node->n_in - 1]];
    bool broadcast = b->dims[1] == 1 && b->dims[2] == 1;
    size_t image = out->n / (size_t)out->dims[0], channels = (size_t)out->dims[3];
    for (size_t i = 0; i < out->n; i++) {
        float x = r->tensors[node->in[0]].floats[i];
        float y = b->floats[broadcast ? i / image * channels + i % channels : i];
        out->floats[i] = node->float_op == BB_FLOAT_ADD   ? x + y
                         : node->float_op == BB_FLOAT_MUL ? x * y
                                                          : unary(node, x, i % channels);
    }
}

static void run_softmax(ref_result *r, const bb_model_node *node) {
    const ref_tensor *in = &r->tensors[node->in[0]], *out = &r->tensors[node->out[0]];
    size_t channels = (size_t)out->dims[3];
    for (size_t p = 0; p < out->n; p += channels) {
        double largest = -INFINITY, sum = 0.0;
        for (size_t c = 0; c < channels; c++)
            largest = fmax(largest, (double)in->floats[p + c]);
        for (size_t c = 0; c < channels; c++)
            sum += bb_exp((double)in->floats[p + c] - largest);
        for (size_t c = 0; c < channels; c++)
            out->floats[p + c] = (float)(bb_exp((double)in->floats[p + c] - largest) / sum);
    }
}

static void run_float(ref_result *r, const bb_model_node *node) {
    switch (node->float_op) {
    case BB_FLOAT_CONV:
        run_float_conv(r, node);
        return;
    case BB_FLOAT_MAX_POOL:
    case BB_FLOAT_AVERAGE_POOL:
        run_pool(r, node);
        return;
    case BB_FLOAT_CONCAT:
        run_concat(r, node);
        return;
    case BB_FLOAT_RESHAPE:
        run_reshape(r, node);
        return;
    case BB_FLOAT_SOFTMAX:
        run_softmax(r, node);
        return;
    default:
        run_float_pointwise(r, node);
    }
}

void ref_run(ref_result *r) {
    for (size_t i = 0; i < r->model->n_nodes; i++) {
        const bb_model_node *node = &r->model->nodes[i];
        switch (node->kind) {
        case BB_NODE_CONV:
            run_conv(r, i);
            break;
        case BB_NODE_ADD:
        case BB_NODE_MUL:
        case BB_NODE_REQUANT:
            run_elementwise(r, node);
            break;
        case BB_NODE_CONCAT:
            run_concat(r, node);
            break;
        case BB_NODE_MAX_POOL:
        case BB_NODE_AVERAGE_POOL:
            run_pool(r, node);
            break;
        case BB_NODE_GATHER_CHANNELS:
            run_gather(r, node);
            break;
        case BB_NODE_RESHAPE:
            run_reshape(r, node);
            break;
        case BB_NODE_RESIZE_NEAREST:
            run_resize(r, node);
            break;
        case BB_NODE_QUANTIZE:
            run_quantize(r, node);
            break;
        case BB_NODE_FLOAT:
            run_float(r, node);
            break;
        }
    }
}
