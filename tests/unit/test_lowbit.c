/* SPDX-License-Identifier: Apache-2.0 */
/* Low-bit import on small graphs. With scales that are powers of two float32 holds every number
 * in them exactly, so the float run of the same graph must be met bit for bit. */
#include "unit.h"

#include "bitbranch/engine.h"
#include "bitbranch/export.h"
#include "lower/lower.h"
#include "nn/executor.h"
#include "onnx/onnx.h"
#include "small_graph.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

typedef bb_graph *(*build_fn)(void);

/* Inputs hold k/16, k = -128..127. */
static const bb_quantize_options levels = {.struct_size = sizeof(levels),
                                           .round_levels = 1,
                                           .levels_scale = 16,
                                           .levels_min = -128,
                                           .levels_max = 127};

static void ok(bb_status status, const bb_error *err) {
    if (status != BB_STATUS_OK)
        fail_msg("%s", err->message);
}

/* ---- pieces --------------------------------------------------------------------------------- */

static int quantize_pair(bb_graph *g, const char *name, int x, float scale, bb_dtype type,
                         int zero) {
    char q[32], d[32];
    snprintf(q, sizeof(q), "%s_q", name);
    snprintf(d, sizeof(d), "%s_dq", name);
    int8_t byte = (int8_t)zero;
    int s = sg_float(g, scale), z = sg_constant(g, type, 0, NULL, &byte);
    int v = sg_node(g, BB_OP_QUANTIZE_LINEAR, q, 3, (int[]){x, s, z});
    return sg_node(g, BB_OP_DEQUANTIZE_LINEAR, d, 3, (int[]){v, s, z});
}

/* Pseudo-random weights in low..high behind DequantizeLinear with one scale per row. */
static int weights(bb_graph *g, const char *name, const int64_t dims[4], bb_dtype type, int low,
                   int high, int zero, bool per_row) {
    size_t n = (size_t)(dims[0] * dims[1] * dims[2] * dims[3]);
    int8_t *k = malloc(n);
    bb_rng rng;
    bb_rng_seed(&rng, (uint64_t)n + (uint64_t)high);
    for (size_t i = 0; i < n; i++)
        k[i] = (int8_t)(low + (int)bb_rng_below(&rng, (uint64_t)(high - low + 1)));
    float scale[8] = {0.5f, 0.25f, 0.125f, 0.5f, 0.0625f, 0.25f, 0.5f, 1.0f};
    int8_t zeros[8];
    memset(zeros, zero, sizeof(zeros));
    int64_t rows[1] = {per_row ? dims[0] : 1};
    int w = sg_constant(g, type, 4, dims, k), s = sg_constant(g, BB_DTYPE_F32, 1, rows, scale);
    int z = sg_constant(g, type, 1, rows, zeros);
    free(k);
    int out = sg_node(g, BB_OP_DEQUANTIZE_LINEAR, name, 3, (int[]){w, s, z});
    bb_node_set_int(g, sg_last(g), "axis", 0);
    return out;
}

static int conv(bb_graph *g, const char *name, int x, int w, int pad, int stride) {
    int out = sg_node(g, BB_OP_CONV, name, 2, (int[]){x, w});
    bb_node_set_ints(g, sg_last(g), "pads", (int64_t[]){pad, pad, pad, pad}, 4);
    bb_node_set_ints(g, sg_last(g), "strides", (int64_t[]){stride, stride}, 2);
    return out;
}

static int max_pool(bb_graph *g, int x) {
    int out = sg_node(g, BB_OP_MAX_POOL, "pool", 1, &x);
    bb_node_set_ints(g, sg_last(g), "kernel_shape", (int64_t[]){2, 2}, 2);
    bb_node_set_ints(g, sg_last(g), "strides", (int64_t[]){2, 2}, 2);
    return out;
}

static int quant(bb_graph *g, const char *name, int x, float scale, float zero, float bits,
                 int is_signed) {
    int in[4] = {x, sg_float(g, scale), sg_float(g, zero), sg_float(g, bits)};
    int out = sg_node(g, BB_OP_QONNX_QUANT, name, 4, in);
    bb_node_set_int(g, sg_last(g), "signed", is_signed);
    return out;
}

static bb_graph *start(int *x) {
    bb_graph *g = bb_graph_create();
    assert_non_null(g);
    *x = sg_input(g, "x", 4, (int64_t[]){1, 3, 9, 7});
    return g;
}

/* ---- graphs --------------------------------------------------------------------------------- */

/* int8, uint8 with a zero point, int4 and uint4 weights, padding of values that are no codes 0. */
static bb_graph *build_qdq(void) {
    int x;
    bb_graph *g = start(&x);
    int a = quantize_pair(g, "a", x, 0.0625f, BB_DTYPE_I8, 3);
    int w1 = weights(g, "w1", (int64_t[]){6, 3, 3, 3}, BB_DTYPE_I8, -127, 127, 0, true);
    int c1 = sg_node(g, BB_OP_RELU, "r1", 1, (int[]){conv(g, "c1", a, w1, 1, 1)});
    int b = quantize_pair(g, "b", c1, 2, BB_DTYPE_U8, 0);
    int w2 = weights(g, "w2", (int64_t[]){8, 6, 3, 3}, BB_DTYPE_I4, -8, 7, 0, true);
    int c = quantize_pair(g, "c", conv(g, "c2", max_pool(g, b), w2, 1, 2), 64, BB_DTYPE_I4, 1);
    int w3 = weights(g, "w3", (int64_t[]){5, 8, 1, 1}, BB_DTYPE_U4, 0, 15, 8, false);
    sg_finish(g, conv(g, "c3", c, w3, 0, 1));
    return g;
}

static bb_graph *build_residual(void) {
    int x;
    bb_graph *g = start(&x);
    int a = quantize_pair(g, "a", x, 0.0625f, BB_DTYPE_I8, 0);
    int w1 = weights(g, "w1", (int64_t[]){4, 3, 3, 3}, BB_DTYPE_I4, -7, 7, 0, false);
    int b = quantize_pair(g, "b", conv(g, "c1", a, w1, 1, 1), 0.5f, BB_DTYPE_I8, -5);
    int w2 = weights(g, "w2", (int64_t[]){4, 4, 3, 3}, BB_DTYPE_I4, -7, 7, 0, true);
    int c = quantize_pair(g, "c", conv(g, "c2", b, w2, 1, 1), 2, BB_DTYPE_I8, 7);
    int sum = sg_node(g, BB_OP_ADD, "sum", 2, (int[]){b, c});
    int r = sg_node(g, BB_OP_RELU, "relu", 1, &sum);
    int d = quantize_pair(g, "d", r, 4, BB_DTYPE_U4, 0);
    int w3 = weights(g, "w3", (int64_t[]){3, 4, 1, 1}, BB_DTYPE_I8, -1, 1, 0, false);
    sg_finish(g, conv(g, "c3", d, w3, 0, 1));
    return g;
}

/* BatchNormalization with negative and zero factors: falling and constant channels. */
static bb_graph *build_falling(void) {
    static const float gamma[4] = {1, -0.5f, 0, -2}, beta[4] = {0.25f, 3, 1, -7};
    static const float mean[4] = {0, 16, 2, -32}, var[4] = {1, 4, 1, 16};
    int x;
    bb_graph *g = start(&x);
    int a = quant(g, "a", x, 0.0625f, 0, 8, 1);
    int w1 = weights(g, "w1", (int64_t[]){4, 3, 3, 3}, BB_DTYPE_I8, -1, 1, 0, false);
    int64_t n[1] = {4};
    int in[5] = {conv(g, "c1", a, w1, 1, 1), sg_floats(g, 1, n, gamma), sg_floats(g, 1, n, beta),
                 sg_floats(g, 1, n, mean), sg_floats(g, 1, n, var)};
    int bn = sg_node(g, BB_OP_BATCH_NORMALIZATION, "bn", 5, in);
    bb_node_set_float(g, sg_last(g), "epsilon", 0);
    int b = quant(g, "b", bn, 1, 0, 3, 1);
    int w2 = weights(g, "w2", (int64_t[]){2, 4, 1, 1}, BB_DTYPE_I8, -3, 3, 0, false);
    sg_finish(g, conv(g, "c2", b, w2, 0, 1));
    return g;
}

/* A function that rises and falls, between two quantizers. */
static bb_graph *build_hump(void) {
    int x;
    bb_graph *g = start(&x);
    int a = quant(g, "a", x, 0.0625f, 0, 8, 1);
    int absolute = sg_node(g, BB_OP_ABS, "abs", 1, &a);
    int lower = sg_node(g, BB_OP_SUB, "lower", 2, (int[]){sg_float(g, 3), absolute});
    int b = quant(g, "b", lower, 0.5f, 0, 4, 1);
    int w = weights(g, "w", (int64_t[]){2, 3, 3, 3}, BB_DTYPE_I8, -1, 1, 0, false);
    sg_finish(g, conv(g, "c", b, w, 0, 1));
    return g;
}

/* Average over the image, truncated; then a fully connected layer. */
static bb_graph *build_average(void) {
    int x;
    bb_graph *g = bb_graph_create();
    x = sg_input(g, "x", 4, (int64_t[]){1, 3, 8, 8});
    int a = quant(g, "a", x, 0.0625f, 0, 8, 1);
    int mean = sg_node(g, BB_OP_GLOBAL_AVERAGE_POOL, "mean", 1, &a);
    int b = quant(g, "b", mean, 0.125f, 0, 6, 1);
    int flat = sg_node(g, BB_OP_FLATTEN, "flat", 1, &b);
    static const float w[12] = {1, -1, 1, 1, -1, -1, -1, 1, 1, 1, 1, 1};
    sg_finish(
        g, sg_node(g, BB_OP_MATMUL, "fc", 2, (int[]){flat, sg_floats(g, 2, (int64_t[]){3, 4}, w)}));
    return g;
}

/* An image flattened channel by channel, with a per-feature offset. */
static bb_graph *build_flat(void) {
    int x;
    bb_graph *g = bb_graph_create();
    x = sg_input(g, "x", 4, (int64_t[]){1, 3, 2, 2});
    int a = quant(g, "a", x, 0.0625f, 0, 8, 1);
    int flat = sg_node(g, BB_OP_FLATTEN, "flat", 1, &a);
    float offset[12], w[60];
    for (int i = 0; i < 60; i++)
        w[i] = (float)(i * 7 % 5 - 2);
    for (int i = 0; i < 12; i++)
        offset[i] = (float)(i - 6) / 4;
    int moved =
        sg_node(g, BB_OP_ADD, "moved", 2, (int[]){flat, sg_floats(g, 1, (int64_t[]){12}, offset)});
    int b = quant(g, "b", moved, 0.5f, 0, 4, 1);
    sg_finish(
        g, sg_node(g, BB_OP_MATMUL, "fc", 2, (int[]){b, sg_floats(g, 2, (int64_t[]){12, 5}, w)}));
    return g;
}

/* Two grids joined, channels reordered. */
static bb_graph *build_channels(void) {
    int x;
    bb_graph *g = start(&x);
    int a = quant(g, "a", x, 0.0625f, 0, 8, 1);
    int b = quant(g, "b", a, 0.5f, 0, 3, 1);
    int c = quant(g, "c", sg_node(g, BB_OP_RELU, "relu", 1, &a), 0.5f, 0, 4, 0);
    int joined = sg_node(g, BB_OP_CONCAT, "joined", 2, (int[]){b, c});
    bb_node_set_int(g, sg_last(g), "axis", 1);
    int64_t index[4] = {5, 0, 2, 3};
    int picked = sg_node(g, BB_OP_GATHER, "picked", 2,
                         (int[]){joined, sg_constant(g, BB_DTYPE_I64, 1, (int64_t[]){4}, index)});
    bb_node_set_int(g, sg_last(g), "axis", 1);
    int w = weights(g, "w", (int64_t[]){2, 4, 3, 3}, BB_DTYPE_I4, -8, 7, 0, true);
    sg_finish(g, conv(g, "c1", picked, w, 1, 1));
    return g;
}

/* QLinearConv with zero points everywhere, then ConvInteger with its scale behind it. */
static bb_graph *build_integer_operators(void) {
    int x;
    bb_graph *g = start(&x);
    uint8_t k1[3 * 3 * 4], k2[4 * 2], z1 = 100, zw = 7, z2 = 20, zw2 = 3;
    for (size_t i = 0; i < sizeof(k1); i++)
        k1[i] = (uint8_t)(i * 37 % 16);
    for (size_t i = 0; i < sizeof(k2); i++)
        k2[i] = (uint8_t)(i * 5 % 8);
    int32_t bias[4] = {100, -300, 7, 0};
    int q = sg_node(g, BB_OP_QUANTIZE_LINEAR, "q", 3,
                    (int[]){x, sg_float(g, 0.0625f), sg_constant(g, BB_DTYPE_U8, 0, NULL, &z1)});
    int in[9] = {q,
                 sg_float(g, 0.0625f),
                 sg_constant(g, BB_DTYPE_U8, 0, NULL, &z1),
                 sg_constant(g, BB_DTYPE_U8, 4, (int64_t[]){4, 3, 3, 1}, k1),
                 sg_float(g, 0.5f),
                 sg_constant(g, BB_DTYPE_U8, 0, NULL, &zw),
                 sg_float(g, 1),
                 sg_constant(g, BB_DTYPE_U8, 0, NULL, &z2),
                 sg_constant(g, BB_DTYPE_I32, 1, (int64_t[]){4}, bias)};
    int y = sg_node(g, BB_OP_QLINEAR_CONV, "qconv", 9, in);
    bb_node_set_ints(g, sg_last(g), "pads", (int64_t[]){1, 0, 1, 0}, 4);
    int in2[4] = {y, sg_constant(g, BB_DTYPE_U8, 4, (int64_t[]){2, 4, 1, 1}, k2),
                  sg_constant(g, BB_DTYPE_U8, 0, NULL, &z2),
                  sg_constant(g, BB_DTYPE_U8, 0, NULL, &zw2)};
    int acc = sg_node(g, BB_OP_CONV_INTEGER, "iconv", 4, in2);
    int real = sg_node(g, BB_OP_CAST, "cast", 1, &acc);
    bb_node_set_int(g, sg_last(g), "to", BB_DTYPE_F32);
    sg_finish(g, sg_node(g, BB_OP_MUL, "scaled", 2, (int[]){real, sg_float(g, 0.25f)}));
    return g;
}

/* Pooled before the quantizer, as binary networks like it. */
static bb_graph *build_pool_first(void) {
    static const float gamma[4] = {1, 0.5f, 2, 4}, beta[4] = {0.25f, 3, 1, -7};
    static const float mean[4] = {0, 16, 2, -32}, var[4] = {1, 4, 1, 16};
    int x;
    bb_graph *g = start(&x);
    int a = quant(g, "a", x, 0.0625f, 0, 8, 1);
    int w1 = weights(g, "w1", (int64_t[]){4, 3, 3, 3}, BB_DTYPE_I8, -1, 1, 0, false);
    int64_t n[1] = {4};
    int in[5] = {max_pool(g, conv(g, "c1", a, w1, 1, 1)), sg_floats(g, 1, n, gamma),
                 sg_floats(g, 1, n, beta), sg_floats(g, 1, n, mean), sg_floats(g, 1, n, var)};
    int bn = sg_node(g, BB_OP_BATCH_NORMALIZATION, "bn", 5, in);
    bb_node_set_float(g, sg_last(g), "epsilon", 0);
    int b = quant(g, "b", bn, 1, 0, 3, 1);
    int w2 = weights(g, "w2", (int64_t[]){2, 4, 1, 1}, BB_DTYPE_I8, -3, 3, 0, false);
    sg_finish(g, conv(g, "c2", b, w2, 0, 1));
    return g;
}

/* ---- comparison ----------------------------------------------------------------------------- */

typedef struct pair {
    bb_graph *graph;
    bb_executor *executor;
    bb_model *model;
    bb_engine *engine;
    bb_context *context;
    size_t n_in, n_out;
} pair;

static void start_engine(pair *p) {
    bb_error err;
    bb_engine_options options;
    bb_tensor_desc in, out;
    bb_engine_options_init(&options);
    ok(bb_engine_create(p->model, &options, &p->engine, &err), &err);
    ok(bb_context_create(p->engine, &p->context, &err), &err);
    ok(bb_engine_input(p->engine, 0, &in, &err), &err);
    ok(bb_engine_output(p->engine, 0, &out, &err), &err);
    p->n_in = p->n_out = 1;
    for (size_t i = 0; i < in.n_dims; i++)
        p->n_in *= (size_t)in.dims[i];
    for (size_t i = 0; i < out.n_dims; i++)
        p->n_out *= (size_t)out.dims[i];
}

static void end_engine(pair *p) {
    bb_context_destroy(p->context);
    bb_engine_destroy(p->engine);
    bb_model_destroy(p->model);
}

static size_t count_float_layers(const bb_model *model) {
    size_t n = 0;
    for (size_t i = 0; i < model->n_nodes; i++)
        n += model->nodes[i].kind == BB_NODE_FLOAT;
    return n;
}

static void run_engine(pair *p, const float *x, float *y) {
    bb_error err;
    ok(bb_context_run_f32(p->context, (const float *[]){x}, (float *[]){y}, &err), &err);
}

/* The exported file, imported again, computes the same. */
static void assert_export(const pair *p, const float *x, const float *y) {
    char path[] = "/tmp/bb_lowbit_XXXXXX";
    bb_error err;
    bb_graph *graph;
    pair again = {0};
    close(mkstemp(path));
    ok(bb_export_qonnx(p->model, 0, path, &err), &err);
    ok(bb_onnx_read(path, &graph, &err), &err);
    ok(bb_lower_quantized(graph, &levels, &again.model, &err), &err);
    bb_graph_destroy(graph);
    unlink(path);
    start_engine(&again);
    float *z = malloc(p->n_out * sizeof(*z));
    run_engine(&again, x, z);
    assert_memory_equal(y, z, p->n_out * sizeof(*z));
    free(z);
    end_engine(&again);
}

static void assert_exact(build_fn build) {
    bb_error err;
    pair p = {.graph = build()};
    const int64_t *dims = p.graph->values[p.graph->inputs[0]].dims;
    ok(bb_executor_create(p.graph, &dims, &(bb_executor_options){.threads = 1}, &p.executor, &err),
       &err);
    bb_graph *low = build();
    ok(bb_lower_quantized(low, &levels, &p.model, &err), &err);
    bb_graph_destroy(low);
    assert_int_equal(count_float_layers(p.model), 0);
    start_engine(&p);
    float *x = malloc(p.n_in * sizeof(*x)), *y = malloc(p.n_out * sizeof(*y));
    bb_array in = {.dtype = BB_DTYPE_F32, .rank = 4, .data = x}, out;
    memcpy(in.dims, dims, sizeof(in.dims));
    bb_rng rng;
    bb_rng_seed(&rng, 5);
    bool varies = false;
    for (int round = 0; round < 20; round++) {
        for (size_t i = 0; i < p.n_in; i++)
            x[i] = (float)((int)bb_rng_below(&rng, 256) - 128) / 16;
        run_engine(&p, x, y);
        ok(bb_executor_run(p.executor, &in, NULL, NULL, &err), &err);
        ok(bb_executor_output(p.executor, 0, &out, &err), &err);
        for (size_t i = 0; i < p.n_out; i++) {
            assert_true(y[i] == ((const float *)out.data)[i]);
            varies = varies || y[i] != y[0];
        }
    }
    assert_true(varies);
    assert_export(&p, x, y);
    free(x);
    free(y);
    end_engine(&p);
    bb_executor_destroy(p.executor);
    bb_graph_destroy(p.graph);
}

static void test_qdq(void **state) {
    assert_exact(build_qdq);
}
static void test_residual(void **state) {
    assert_exact(build_residual);
}
static void test_falling_channels(void **state) {
    assert_exact(build_falling);
}
static void test_pool_before_quantizer(void **state) {
    assert_exact(build_pool_first);
}
static void test_not_monotone(void **state) {
    assert_exact(build_hump);
}
static void test_average(void **state) {
    assert_exact(build_average);
}
static void test_flattened_image(void **state) {
    assert_exact(build_flat);
}
static void test_joined_channels(void **state) {
    assert_exact(build_channels);
}
static void test_integer_operators(void **state) {
    assert_exact(build_integer_operators);
}

/* ---- scales that float32 does not hold exactly: integers and the stated expression ---------- */

enum { ODD_CHANNELS = 3, ODD_ROWS = 4, ODD_SIZE = 6 };

static void test_any_scale_against_integers(void **state) {
    static const float input_scale = 0.0123f, output_scale = 0.37f;
    static const float weight_scale[ODD_ROWS] = {0.011f, 0.07f, 0.031f, 0.0009f};
    int8_t k[ODD_ROWS * ODD_CHANNELS], zero = -3;
    for (size_t i = 0; i < sizeof(k); i++)
        k[i] = (int8_t)(i * 29 % 255 - 127);
    bb_graph *g = bb_graph_create();
    int x = bb_graph_add_value(g, "x", BB_DTYPE_I8, 4,
                               (int64_t[]){1, ODD_CHANNELS, ODD_SIZE, ODD_SIZE});
    g->inputs = &x;
    g->n_inputs = 1;
    int s = sg_float(g, input_scale), z = sg_constant(g, BB_DTYPE_I8, 0, NULL, &zero);
    int a = sg_node(g, BB_OP_DEQUANTIZE_LINEAR, "a", 3, (int[]){x, s, z});
    int w = sg_constant(g, BB_DTYPE_I8, 4, (int64_t[]){ODD_ROWS, ODD_CHANNELS, 1, 1}, k);
    int ws = sg_floats(g, 1, (int64_t[]){ODD_ROWS}, weight_scale);
    int b = sg_node(g, BB_OP_DEQUANTIZE_LINEAR, "b", 2, (int[]){w, ws});
    bb_node_set_int(g, sg_last(g), "axis", 0);
    int q = sg_node(g, BB_OP_QUANTIZE_LINEAR, "q", 3,
                    (int[]){conv(g, "c", a, b, 0, 1), sg_float(g, output_scale), z});
    sg_finish(g, q);
    bb_error err;
    pair p = {0};
    ok(bb_lower_quantized(g, NULL, &p.model, &err), &err);
    start_engine(&p);
    enum { PIXELS = ODD_SIZE * ODD_SIZE };
    float in[ODD_CHANNELS * PIXELS], out[ODD_ROWS * PIXELS];
    bb_rng rng;
    bb_rng_seed(&rng, 9);
    for (int round = 0; round < 50; round++) {
        for (int i = 0; i < ODD_CHANNELS * PIXELS; i++)
            in[i] = (float)((int)bb_rng_below(&rng, 256) - 128);
        run_engine(&p, in, out);
        for (int r = 0; r < ODD_ROWS; r++)
            for (int i = 0; i < PIXELS; i++) {
                int sum = 0;
                for (int c = 0; c < ODD_CHANNELS; c++)
                    sum += ((int)in[c * PIXELS + i] - zero) * k[r * ODD_CHANNELS + c];
                float real = (float)((double)sum * (double)input_scale * (double)weight_scale[r]);
                float code = rintf(real / output_scale) + (float)zero;
                assert_true(out[r * PIXELS + i] == fminf(fmaxf(code, -128), 127));
            }
    }
    end_engine(&p);
    bb_graph_destroy(g);
}

/* ---- what cannot be imported ---------------------------------------------------------------- */

static void test_unknown_layer_is_named(void **state) {
    int x;
    bb_error err;
    bb_model *model;
    bb_graph *g = start(&x);
    int a = quant(g, "a", x, 0.0625f, 0, 8, 1);
    int n = sg_node(g, BB_OP_INSTANCE_NORMALIZATION, "norm_7", 3,
                    (int[]){a, sg_floats(g, 1, (int64_t[]){3}, (float[]){1, 1, 1}),
                            sg_floats(g, 1, (int64_t[]){3}, (float[]){0, 0, 0})});
    sg_finish(g, n);
    assert_int_equal(bb_lower_quantized(g, &levels, &model, &err), BB_STATUS_UNSUPPORTED);
    assert_non_null(strstr(err.message, "norm_7"));
    assert_non_null(strstr(err.message, "InstanceNormalization"));
    bb_graph_destroy(g);
}

/* Weights that lie on no grid stay float, and so says the layer. */
static void test_float_weights_stay_float(void **state) {
    int x;
    bb_error err;
    bb_model *model;
    bb_graph *g = start(&x);
    int a = quant(g, "a", x, 0.0625f, 0, 8, 1);
    static const float w[6] = {0.1f, 0.2345f, -0.777f, 0.0313f, 0.5f, -0.123f};
    sg_finish(g, conv(g, "c", a, sg_floats(g, 4, (int64_t[]){2, 3, 1, 1}, w), 0, 1));
    ok(bb_lower_quantized(g, &levels, &model, &err), &err);
    assert_int_equal(count_float_layers(model), 1);
    for (size_t i = 0; i < model->n_nodes; i++)
        if (model->nodes[i].kind == BB_NODE_FLOAT)
            assert_non_null(strstr(model->nodes[i].reason, "float in the source"));
    bb_model_destroy(model);
    bb_graph_destroy(g);
}

/* Memory running out at any point ends in an error, not in a crash. */
static void test_out_of_memory(void **state) {
    bool done = false;
    for (long i = 0; !done; i = i * 5 / 4 + 1) {
        bb_error err;
        bb_model *model = NULL;
        bb_graph *g = build_residual();
        bb_alloc_fail_after(i);
        bb_status status = bb_lower_quantized(g, &levels, &model, &err);
        bb_alloc_fail_after(-1);
        done = status == BB_STATUS_OK;
        if (done)
            bb_model_destroy(model);
        bb_graph_destroy(g);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_qdq),
        cmocka_unit_test(test_residual),
        cmocka_unit_test(test_falling_channels),
        cmocka_unit_test(test_not_monotone),
        cmocka_unit_test(test_pool_before_quantizer),
        cmocka_unit_test(test_average),
        cmocka_unit_test(test_flattened_image),
        cmocka_unit_test(test_joined_channels),
        cmocka_unit_test(test_integer_operators),
        cmocka_unit_test(test_any_scale_against_integers),
        cmocka_unit_test(test_unknown_layer_is_named),
        cmocka_unit_test(test_float_weights_stay_float),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
