/* SPDX-License-Identifier: Apache-2.0 */
/** @file sample_model.h  A small valid model that uses every node kind, requantizer kind and option
 *  of the format, for tests of reading, writing and running. */
#ifndef BB_SAMPLE_MODEL_H
#define BB_SAMPLE_MODEL_H

#include "encode/encode.h"
#include "model/model.h"
#include <math.h>
#include <string.h>

typedef struct sample {
    bb_model *model;
    bb_rng rng;
} sample;

static int32_t *sample_i32(sample *s, size_t n, int32_t low, int32_t high) {
    int32_t *v = bb_arena_array(s->model->arena, n, sizeof(*v));
    for (size_t i = 0; i < n; i++)
        v[i] = low + (int32_t)bb_rng_below(&s->rng, (uint64_t)(high - low + 1));
    return v;
}

static float *sample_f32(sample *s, size_t n, double scale) {
    float *v = bb_arena_array(s->model->arena, n, sizeof(*v));
    for (size_t i = 0; i < n; i++)
        v[i] = (float)(bb_rng_normal(&s->rng) * scale);
    return v;
}

static int sample_codes(sample *s, const char *name, int64_t channels) {
    const int64_t dims[] = {-1, -1, -1, channels};
    return bb_model_add_tensor(s->model, name, BB_TENSOR_CODE, 4, dims);
}

static int sample_floats(sample *s, const char *name, int64_t channels) {
    const int64_t dims[] = {-1, -1, -1, channels};
    return bb_model_add_tensor(s->model, name, BB_TENSOR_FLOAT, 4, dims);
}

static bb_model_node *sample_node(sample *s, const char *name, bb_node_kind kind, int in, int out) {
    bb_model_node *n = bb_model_add_node(s->model, name, kind, 1, &in, 1, &out);
    n->geometry = (bb_geometry){{1, 1}, {1, 1}, {1, 1}, {0, 0}, {0, 0}, false, false};
    n->groups = 1;
    return n;
}

static void sample_second_input(bb_model_node *node, int in) {
    node->in[node->n_in++] = in;
}

static bb_model_node *sample_conv(sample *s, const char *name, int in, int out, uint32_t kernel,
                                  uint32_t groups, uint32_t count, bool ternary) {
    bb_model_node *n = sample_node(s, name, BB_NODE_CONV, in, out);
    const bb_model_tensor *tin = &s->model->tensors[in], *tout = &s->model->tensors[out];
    uint32_t rows = (uint32_t)tout->dims[tout->rank - 1];
    uint32_t depth = (uint32_t)tin->dims[tin->rank - 1] / groups, taps = kernel * kernel;
    uint8_t codes[4096];
    for (size_t i = 0; i < (size_t)rows * taps * depth; i++)
        codes[i] = (uint8_t)bb_rng_below(&s->rng, UINT64_C(1) << count);
    int16_t ones[BB_MAX_PLANES] = {1, 1, 1, 1, 1, 1, 1, 1};
    n->groups = groups;
    n->geometry.kernel[0] = n->geometry.kernel[1] = (int32_t)kernel;
    n->geometry.pad_begin[0] = n->geometry.pad_begin[1] = (int32_t)kernel / 2;
    n->geometry.pad_end[0] = n->geometry.pad_end[1] = (int32_t)kernel / 2;
    n->planes = ternary ? bb_planes_from_weighted_codes(s->model->arena, codes, rows, taps, depth,
                                                        count, ones)
                        : bb_planes_from_codes(s->model->arena, codes, rows, taps, depth, count);
    return n;
}

static void sample_linear(sample *s, bb_requant *r, uint32_t bits, uint32_t channels, double max_z1,
                          double max_z2, int64_t n_max, double slope) {
    int32_t *mult = sample_i32(s, 4 * channels, 0, 0);
    int64_t *add = bb_arena_array(s->model->arena, 3 * channels, sizeof(*add));
    uint8_t *shift = bb_arena_alloc(s->model->arena, channels);
    double last = ldexp(1, (int)bits) - 1;
    for (uint32_t c = 0; c < channels; c++) {
        double gain = (0.5 + bb_rng_uniform(&s->rng)) * last;
        bb_linear_spec spec = {
            .m1 = gain * (double)n_max / max_z1,
            .m2 = max_z2 > 0 ? gain / max_z2 : 0,
            .offset = (bb_rng_uniform(&s->rng) - 0.5) * last,
            .zero = last / 2,
            .slopes = slope != 0,
            .slope = slope,
            .max_z1 = (int64_t)max_z1,
            .max_z2 = (int64_t)max_z2,
            .n_max = n_max,
            .bits = bits,
        };
        bb_linear l = {0};
        bb_linear_from_real(&spec, &l);
        mult[c] = l.mult;
        mult[channels + c] = l.mult2;
        mult[2 * channels + c] = l.neg_mult;
        mult[3 * channels + c] = l.neg_mult2;
        add[c] = l.add;
        add[channels + c] = l.neg_add;
        add[2 * channels + c] = l.off;
        shift[c] = l.shift;
    }
    *r = (bb_requant){
        .kind = BB_REQUANT_LINEAR, .channels = channels, .mult = mult, .add = add, .shift = shift};
    r->mult2 = max_z2 > 0 ? mult + channels : NULL;
    if (slope != 0) {
        r->neg_mult = mult + 2 * channels;
        r->neg_mult2 = max_z2 > 0 ? mult + 3 * channels : NULL;
        r->neg_add = add + channels;
        r->off = add + 2 * channels;
    }
}

static void sample_thresholds(sample *s, bb_requant *r, uint32_t bits, uint32_t channels,
                              int32_t reach) {
    size_t steps = ((size_t)1 << bits) - 1;
    int32_t *t = sample_i32(s, channels * steps, 0, 0);
    uint8_t *rising = bb_arena_alloc(s->model->arena, channels);
    for (uint32_t c = 0; c < channels; c++) {
        rising[c] = c % 2 == 0;
        for (size_t i = 0; i < steps; i++) {
            int32_t value =
                (int32_t)((int64_t)reach * (2 * (int64_t)i + 2) / (int64_t)(steps + 1)) - reach +
                (int32_t)c;
            t[c * steps + i] = rising[c] ? value : -value;
        }
    }
    *r = (bb_requant){
        .kind = BB_REQUANT_THRESHOLDS, .channels = channels, .thresholds = t, .rising = rising};
}

static void sample_indexed(sample *s, bb_requant *r, uint32_t bits, uint32_t channels,
                           double max_z1) {
    sample_linear(s, r, 6, channels, max_z1, 0, 1, 0);
    uint16_t *table = bb_arena_array(s->model->arena, 64, sizeof(*table));
    for (uint32_t i = 0; i < 64; i++)
        table[i] = (uint16_t)((i * 37 % 64) >> (6 - bits));
    r->kind = BB_REQUANT_INDEXED;
    r->index_bits = 6;
    r->table = table;
}

static void sample_float_requant(sample *s, bb_requant *r, uint32_t channels, bool second) {
    *r = (bb_requant){.kind = BB_REQUANT_FLOAT, .channels = channels};
    r->scale = sample_f32(s, channels, 0.01);
    r->scale2 = second ? sample_f32(s, channels, 0.01) : NULL;
    r->bias = sample_f32(s, channels, 1);
}

/* Tensors in the order they are made. */
enum {
    S_IMAGE,    /* 8-bit pixels, 3 channels */
    S_C1,       /* conv 3x3, 8 channels */
    S_C1_WIDE,  /* the same result on 10 bits, for the residual add */
    S_DW,       /* depthwise 3x3 */
    S_POOLED,   /* max pool 3x3 stride 2, ceil mode */
    S_SUM,      /* ternary 1x1 convolution + residual, leaky slopes */
    S_SHUFFLED, /* channels reversed */
    S_ADDED,    /* shuffled + sum */
    S_MEAN,     /* average pool 2x2 with padding */
    S_GATE,     /* global mean through a table */
    S_GATED,    /* mean * gate */
    S_UP,       /* resized by 2x1 */
    S_JOINED,   /* up, up */
    S_REAL,     /* float, from a requant node */
    S_FCONV,    /* float convolution */
    S_FACT,     /* float SiLU */
    S_BACK,     /* quantized again */
    S_TOP,      /* global max pool */
    S_FLAT,     /* flattened */
    S_LOGITS,   /* fully connected, float */
    S_TENSORS
};

enum { S_HEIGHT = 9, S_WIDTH = 7, S_CHANNELS = 32, S_CLASSES = 5 };

static void sample_tensors(sample *s) {
    const int64_t image[] = {-1, S_HEIGHT, S_WIDTH, 3}, classes[] = {-1, S_CLASSES},
                  flat[] = {-1, 2 * S_CHANNELS};
    bb_model_add_tensor(s->model, "image", BB_TENSOR_CODE, 4, image);
    static const char *const same[] = {"c1",    "c1.wide", "dw",   "pooled", "sum", "shuffled",
                                       "added", "mean",    "gate", "gated",  "up"};
    for (size_t i = 0; i < BB_COUNT(same); i++)
        sample_codes(s, same[i], S_CHANNELS);
    sample_codes(s, "joined", 2 * S_CHANNELS);
    sample_floats(s, "real", 2 * S_CHANNELS);
    sample_floats(s, "fconv", 2 * S_CHANNELS);
    sample_floats(s, "fact", 2 * S_CHANNELS);
    sample_codes(s, "back \xc3\xa9", 2 * S_CHANNELS);
    sample_codes(s, "top", 2 * S_CHANNELS);
    bb_model_add_tensor(s->model, "flat", BB_TENSOR_CODE, 2, flat);
    bb_model_add_tensor(s->model, "logits", BB_TENSOR_FLOAT, 2, classes);
}

static void sample_integer_nodes(sample *s) {
    bb_model_node *n = sample_conv(s, "conv1", S_IMAGE, S_C1, 3, 1, 4, false);
    n->out[n->n_out++] = S_C1_WIDE;
    n = sample_conv(s, "depthwise", S_C1, S_DW, 3, S_CHANNELS, 4, false);
    n->geometry.dilation[0] = 2;
    n->geometry.pad_begin[0] = n->geometry.pad_end[0] = 2;
    n = sample_node(s, "pool", BB_NODE_MAX_POOL, S_DW, S_POOLED);
    n->geometry = (bb_geometry){{3, 3}, {2, 2}, {1, 1}, {0, 1}, {0, 1}, true, false};
    n = sample_conv(s, "ternary", S_POOLED, S_SUM, 1, 1, 2, true);
    sample_second_input(n, S_POOLED);
    n = sample_node(s, "shuffle", BB_NODE_GATHER_CHANNELS, S_SUM, S_SHUFFLED);
    int32_t *index = sample_i32(s, S_CHANNELS, 0, 0);
    for (int32_t i = 0; i < S_CHANNELS; i++)
        index[i] = S_CHANNELS - 1 - i;
    n->channel_index = index;
    n->n_channel_index = S_CHANNELS;
    sample_second_input(sample_node(s, "add", BB_NODE_ADD, S_SHUFFLED, S_ADDED), S_SUM);
    n = sample_node(s, "mean", BB_NODE_AVERAGE_POOL, S_ADDED, S_MEAN);
    n->geometry = (bb_geometry){{2, 2}, {1, 1}, {1, 1}, {1, 0}, {0, 1}, false, true};
    n = sample_node(s, "squeeze", BB_NODE_AVERAGE_POOL, S_MEAN, S_GATE);
    n->geometry.kernel[0] = n->geometry.kernel[1] = 0;
    sample_second_input(sample_node(s, "gate", BB_NODE_MUL, S_MEAN, S_GATED), S_GATE);
    n = sample_node(s, "up", BB_NODE_RESIZE_NEAREST, S_GATED, S_UP);
    n->resize_factor[0] = 2;
    n->resize_factor[1] = 1;
    sample_second_input(sample_node(s, "join", BB_NODE_CONCAT, S_UP, S_JOINED), S_UP);
}

static void sample_float_nodes(sample *s) {
    sample_node(s, "to_real", BB_NODE_REQUANT, S_JOINED, S_REAL);
    bb_model_node *n = sample_node(s, "fconv", BB_NODE_FLOAT, S_REAL, S_FCONV);
    n->float_op = BB_FLOAT_CONV;
    n->groups = 2;
    n->n_float_weights = 2 * S_CHANNELS * S_CHANNELS;
    n->float_weights = sample_f32(s, n->n_float_weights, 0.3);
    n->n_float_bias = 2 * S_CHANNELS;
    n->float_bias = sample_f32(s, n->n_float_bias, 0.3);
    n->reason = "kept float by --bits";
    n = sample_node(s, "silu", BB_NODE_FLOAT, S_FCONV, S_FACT);
    n->float_op = BB_FLOAT_SILU;
    sample_node(s, "quantize", BB_NODE_QUANTIZE, S_FACT, S_BACK);
    n = sample_node(s, "top", BB_NODE_MAX_POOL, S_BACK, S_TOP);
    n->geometry.kernel[0] = n->geometry.kernel[1] = 0;
    sample_node(s, "flatten", BB_NODE_RESHAPE, S_TOP, S_FLAT);
    sample_conv(s, "fc", S_FLAT, S_LOGITS, 1, 1, 8, false);
}

static void sample_grid(bb_profile *p, int tensor, uint32_t bits, int32_t a0) {
    p->tensors[tensor].bits = bits;
    p->tensors[tensor].step = 0.01f * (float)(1 + tensor);
    p->tensors[tensor].a0 = a0;
}

static void sample_copy_grid(bb_profile *p, int from, int to) {
    p->tensors[to] = p->tensors[from];
    p->tensors[to].requant = (bb_requant){0};
}

/* Bounds of |a - a0| and |P| as the sizes above make them. */
static void sample_profile(sample *s, uint32_t k, uint32_t m) {
    bb_profile *p = bb_model_add_profile(s->model, k, m);
    double last = ldexp(1, (int)m) - 1, weight = ldexp(1, (int)k) - 1;
    sample_grid(p, S_IMAGE, 8, -255);
    sample_grid(p, S_C1, m, (int32_t)-last);
    sample_grid(p, S_C1_WIDE, 10, 3);
    sample_grid(p, S_DW, m, 0);
    sample_grid(p, S_SUM, m, 0);
    sample_grid(p, S_ADDED, m, 1);
    sample_grid(p, S_MEAN, m, 0);
    sample_grid(p, S_GATE, m, (int32_t)-last);
    sample_grid(p, S_GATED, m, 2);
    sample_grid(p, S_BACK, m, -3);
    sample_copy_grid(p, S_DW, S_POOLED);
    sample_copy_grid(p, S_SUM, S_SHUFFLED);
    sample_copy_grid(p, S_GATED, S_UP);
    sample_copy_grid(p, S_GATED, S_JOINED);
    sample_copy_grid(p, S_BACK, S_TOP);
    sample_copy_grid(p, S_BACK, S_FLAT);
    sample_linear(s, &p->tensors[S_C1].requant, m, S_CHANNELS, 27 * 510 * weight + 9000, 0, 1, 0);
    sample_linear(s, &p->tensors[S_C1_WIDE].requant, 10, S_CHANNELS, 27 * 510 * weight + 9000, 0, 1,
                  0);
    sample_thresholds(s, &p->tensors[S_DW].requant, m, S_CHANNELS,
                      (int32_t)(9 * 2 * last * weight / 4));
    sample_linear(s, &p->tensors[S_SUM].requant, m, S_CHANNELS, S_CHANNELS * last * 5, last, 1,
                  0.25);
    sample_linear(s, &p->tensors[S_ADDED].requant, m, 1, 2 * last, 2 * last, 1, 0);
    sample_linear(s, &p->tensors[S_MEAN].requant, m, S_CHANNELS, 4 * (last + 1), 0, 4, 0);
    sample_indexed(s, &p->tensors[S_GATE].requant, m, S_CHANNELS, 100 * last);
    sample_linear(s, &p->tensors[S_GATED].requant, m, 1, 2 * last * last, 0, 1, -0.5);
    sample_float_requant(s, &p->tensors[S_REAL].requant, 2 * S_CHANNELS, false);
    sample_float_requant(s, &p->tensors[S_LOGITS].requant, S_CLASSES, false);
    for (size_t i = 0; i < s->model->n_nodes; i++) {
        const bb_planes *planes = s->model->nodes[i].planes;
        if (!planes)
            continue;
        bool own_grid = !bb_planes_native(planes) || planes->count == 8;
        p->convs[i].planes = own_grid ? planes->count : k;
        p->convs[i].weight_scale = sample_f32(s, planes->rows, 0.1);
    }
    p->convs[0].tap_add = sample_i32(s, 9 * S_CHANNELS, -1000, 1000);
    p->convs[3].weight_offset = sample_i32(s, S_CHANNELS, -3, 3);
}

/* Profiles w4a4 and w2a2. NULL never: tests run with memory to spare. */
static bb_model *sample_model(void) {
    sample s = {.model = bb_model_create()};
    bb_rng_seed(&s.rng, 42);
    bb_model *m = s.model;
    m->name = "sample";
    m->config_json = "{\"version\": 1, \"task\": \"classify\"}";
    m->labels = "one\ntwo\nthree\nfour\nfive\n";
    m->float32_bytes = 12345;
    sample_tensors(&s);
    sample_integer_nodes(&s);
    sample_float_nodes(&s);
    bb_model_add_input(m, S_IMAGE);
    bb_model_add_output(m, S_LOGITS);
    bb_model_add_output(m, S_ADDED);
    sample_profile(&s, 4, 4);
    sample_profile(&s, 2, 2);
    return m;
}

#endif
