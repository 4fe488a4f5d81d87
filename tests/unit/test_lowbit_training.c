/* SPDX-License-Identifier: Apache-2.0 */
/* Insertion of quantizers into a float network, and the model of what the trained graph computes:
 * the engine must give the graph's own results. */
#include "unit.h"

#include "bitbranch/engine.h"
#include "nn/executor.h"
#include "pixel_task.h"
#include "small_graph.h"
#include "train/lowbit.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CLASSES = 5, WIDTH = 12, IMAGES = 48, CHECKED = 64 };

/* ---- a network with BatchNormalization ------------------------------------------------------- */

static int conv(bb_graph *g, const char *name, int in, int64_t rows, int64_t depth, int64_t groups,
                bb_rng *rng) {
    const int64_t dims[4] = {rows, depth, 3, 3}, pads[4] = {1, 1, 1, 1};
    int ins[2] = {in, sg_normal(g, 4, dims, 1.0f / sqrtf((float)(depth * 9)), rng)};
    int out = sg_node(g, BB_OP_CONV, name, 2, ins);
    bb_node *n = sg_last(g);
    assert_true(bb_node_set_ints(g, n, "pads", pads, 4));
    assert_true(bb_node_set_int(g, n, "group", groups));
    return out;
}

/** Scales of both signs, means and variances far from 0 and 1. */
static int norm(bb_graph *g, int in, int64_t rows, bb_rng *rng) {
    int ins[5] = {in};
    float *p[4];
    for (int i = 0; i < 4; i++) {
        ins[1 + i] = sg_normal(g, 1, &rows, 0.2f, rng);
        p[i] = sg_data(g, ins[1 + i]);
    }
    for (int64_t r = 0; r < rows; r++) {
        p[0][r] = r % 3 ? 0.8f + p[0][r] : -0.7f + p[0][r];
        p[3][r] = 0.5f + fabsf(p[3][r]);
    }
    return sg_node(g, BB_OP_BATCH_NORMALIZATION, "norm", 5, ins);
}

typedef struct shape {
    bool residual, relu;
} shape;

static bb_graph *network(shape s) {
    bb_rng rng;
    bb_rng_seed(&rng, 5);
    bb_graph *g = bb_graph_create();
    const int64_t in_dims[4] = {1, 3, SIDE, SIDE}, fc_dims[2] = {CLASSES, WIDTH * 4 * 4};
    const int64_t two[2] = {2, 2};
    bb_op act = s.relu ? BB_OP_RELU : BB_OP_IDENTITY;
    int in = sg_input(g, "input", 4, in_dims);
    int x = norm(g, conv(g, "conv", in, WIDTH, 3, 1, &rng), WIDTH, &rng);
    x = sg_node(g, act, "relu", 1, &x);
    x = norm(g, conv(g, "conv", x, WIDTH, 1, WIDTH, &rng), WIDTH, &rng);
    int shortcut = x = sg_node(g, act, "relu", 1, &x);
    x = norm(g, conv(g, "conv", x, WIDTH, WIDTH, 1, &rng), WIDTH, &rng);
    if (s.residual)
        x = sg_node(g, BB_OP_ADD, "sum", 2, (int[]){x, shortcut});
    x = sg_node(g, act, "relu", 1, &x);
    x = sg_node(g, BB_OP_MAX_POOL, "pool", 1, &x);
    assert_true(bb_node_set_ints(g, sg_last(g), "kernel_shape", two, 2));
    assert_true(bb_node_set_ints(g, sg_last(g), "strides", two, 2));
    x = sg_node(g, BB_OP_FLATTEN, "flat", 1, &x);
    int fc[2] = {x, sg_normal(g, 2, fc_dims, 0.07f, &rng)};
    x = sg_node(g, BB_OP_GEMM, "fc", 2, fc);
    assert_true(bb_node_set_int(g, sg_last(g), "transB", 1));
    sg_finish(g, x);
    return g;
}

static void profile_options(bb_quantize_options *o, const bb_bits *profiles, size_t n) {
    pixel_options(o);
    o->profiles = profiles;
    o->n_profiles = n;
}

/* ---- the graph against the engine ------------------------------------------------------------ */

typedef struct fixture {
    bb_graph *graph;
    bb_lowbit_options options;
    bb_lowbit *lowbit;
    bb_model *model;
    bb_error err;
} fixture;

static void open_fixture(fixture *f, shape s, const bb_lowbit_options *options) {
    f->graph = network(s);
    f->options = *options;
    if (bb_lowbit_create(f->graph, options, calibrate, &f->options.quantize, IMAGES, &f->lowbit,
                         &f->err) != BB_STATUS_OK)
        fail_msg("%s", f->err.message);
}

static void export_fixture(fixture *f, const bb_graph *trained) {
    if (bb_lowbit_export(f->lowbit, trained, calibrate, &f->options.quantize, IMAGES, &f->model,
                         NULL, &f->err) != BB_STATUS_OK)
        fail_msg("%s", f->err.message);
}

static void close_fixture(fixture *f) {
    bb_model_destroy(f->model);
    bb_lowbit_destroy(f->lowbit);
    bb_graph_destroy(f->graph);
    *f = (fixture){0};
}

/** Results of the graph for n images from `first` on: [n][profiles][CLASSES]. */
static void run_graph(const bb_graph *g, const bb_quantize_options *o, size_t first, size_t n,
                      float *out) {
    const int64_t dims[4] = {1, 3, SIDE, SIDE}, *input_dims[1] = {dims};
    float x[PIXELS];
    bb_executor *ex;
    bb_error err;
    bb_array input = {.dtype = BB_DTYPE_F32, .rank = 4, .data = x}, y;
    memcpy(input.dims, dims, sizeof(dims));
    if (bb_executor_create(g, input_dims, NULL, &ex, &err) != BB_STATUS_OK)
        fail_msg("%s", err.message);
    for (size_t i = 0; i < n; i++) {
        calibrate((void *)(uintptr_t)o, first + i, x);
        assert_int_equal(bb_executor_run(ex, &input, NULL, NULL, NULL), BB_STATUS_OK);
        for (size_t p = 0; p < g->n_outputs; p++, out += CLASSES) {
            assert_int_equal(bb_executor_output(ex, p, &y, NULL), BB_STATUS_OK);
            memcpy(out, y.data, CLASSES * sizeof(float));
        }
    }
    bb_executor_destroy(ex);
}

/** The same of one profile of a model: [n][CLASSES]. */
static void run_model(const bb_model *model, size_t profile, const bb_quantize_options *o,
                      size_t first, size_t n, float *out) {
    bb_engine_options eo;
    bb_engine *engine;
    bb_context *context;
    float real[PIXELS], raw[PIXELS];
    uint8_t pixels[PIXELS];
    const float *in = raw;
    bb_engine_options_init(&eo);
    eo.profile = profile;
    eo.input_dims[1] = eo.input_dims[2] = SIDE;
    assert_int_equal(bb_engine_create(model, &eo, &engine, NULL), BB_STATUS_OK);
    assert_int_equal(bb_context_create(engine, &context, NULL), BB_STATUS_OK);
    for (size_t i = 0; i < n; i++, out += CLASSES) {
        calibrate((void *)(uintptr_t)o, first + i, real);
        make_pixels(first + i, pixels);
        for (size_t k = 0; k < PIXELS; k++)
            raw[k] = o->pixels ? (float)pixels[k] : real[k];
        assert_int_equal(bb_context_run_f32(context, &in, &out, NULL), BB_STATUS_OK);
    }
    bb_context_destroy(context);
    bb_engine_destroy(engine);
}

/** Images whose results differ by more than `tolerance` of the largest result. An activation that
 *  lies on a rounding border to the last bit of a float may get either code and then does. */
static size_t different_images(const fixture *f, size_t profile, double tolerance) {
    const bb_graph *g = bb_lowbit_graph(f->lowbit);
    float *want = malloc(CHECKED * g->n_outputs * CLASSES * sizeof(float));
    float got[CHECKED * CLASSES];
    size_t count = 0, step = g->n_outputs * CLASSES;
    double size = 0.0;
    assert_non_null(want);
    run_graph(g, &f->options.quantize, 500, CHECKED, want);
    run_model(f->model, profile, &f->options.quantize, 500, CHECKED, got);
    for (size_t i = 0; i < CHECKED * step; i++)
        size = fmax(size, fabs((double)want[i]));
    for (size_t i = 0; i < CHECKED; i++) {
        double worst = 0.0;
        for (size_t k = 0; k < CLASSES; k++)
            worst = fmax(worst, fabs((double)want[i * step + profile * CLASSES + k] -
                                     (double)got[i * CLASSES + k]));
        count += !(worst <= tolerance * size);
    }
    free(want);
    return count;
}

static void assert_same(const fixture *f, size_t profile, double tolerance) {
    size_t n = different_images(f, profile, tolerance);
    if (n > CHECKED / 8)
        fail_msg("weights %d, activations %d, w%ua%u: %zu of %d images differ",
                 (int)f->options.weights, (int)f->options.activations,
                 f->options.quantize.profiles[profile].weight,
                 f->options.quantize.profiles[profile].activation, n, CHECKED);
}

static void test_engine_gives_the_graphs_results(void **state) {
    static const bb_bits bits[] = {{8, 8}, {4, 4}, {3, 2}, {2, 2}, {1, 2}, {1, 1}};
    for (size_t i = 0; i < BB_COUNT(bits); i++)
        for (int variant = 0; variant < 3; variant++) {
            fixture f = {0};
            bb_lowbit_options o;
            bb_lowbit_options_init(&o);
            profile_options(&o.quantize, &bits[i], 1);
            o.quantize.pixels = variant != 1;
            o.quantize.first_last = variant == 2 ? bits[i] : o.quantize.first_last;
            open_fixture(&f, (shape){false, variant != 1}, &o);
            export_fixture(&f, bb_lowbit_graph(f.lowbit));
            assert_same(&f, 0, 0.002);
            close_fixture(&f);
        }
}

static void test_residual_grids_are_calibrated(void **state) {
    static const bb_bits w4a4 = {4, 4};
    fixture f = {0};
    bb_lowbit_options o;
    bb_lowbit_options_init(&o);
    profile_options(&o.quantize, &w4a4, 1);
    o.quantize.residual_bits = 16;
    open_fixture(&f, (shape){true, true}, &o);
    export_fixture(&f, bb_lowbit_graph(f.lowbit));
    assert_same(&f, 0, 0.005);
    close_fixture(&f);
}

/* Steps that profiles of eight to two bits share have a rate 4^6 times as low as the steps that
 * belong to one profile. */
static void assert_shared_steps_are_slow(const bb_lowbit *lowbit) {
    size_t n, shared = 0, own = 0;
    const bb_lowbit_parameter *p = bb_lowbit_parameters(lowbit, &n);
    for (size_t i = 0; i < n; i++) {
        bool is_step = p[i].min > 0 && p[i].max > p[i].min;
        shared += is_step && p[i].rate == 0x1p-12f;
        own += is_step && p[i].rate == 1;
    }
    assert_true(shared > 0 && own > 0);
}

static void test_profiles_share_planes(void **state) {
    static const bb_bits profiles[] = {{8, 8}, {4, 4}, {3, 3}, {2, 2}};
    fixture f = {0};
    bb_lowbit_options o;
    bb_lowbit_options_init(&o);
    profile_options(&o.quantize, profiles, BB_COUNT(profiles));
    open_fixture(&f, (shape){false, true}, &o);
    assert_int_equal(bb_lowbit_graph(f.lowbit)->n_outputs, BB_COUNT(profiles));
    assert_shared_steps_are_slow(f.lowbit);
    export_fixture(&f, bb_lowbit_graph(f.lowbit));
    for (size_t p = 0; p < BB_COUNT(profiles); p++)
        assert_same(&f, p, 0.002);
    close_fixture(&f);
}

/* ---- every kind ------------------------------------------------------------------------------ */

typedef struct kind_case {
    bb_lowbit_weights weights;
    bb_lowbit_activations activations;
    bb_bits bits;
} kind_case;

static const kind_case KINDS[] = {
    {BB_LOWBIT_WEIGHTS_PAPER, BB_LOWBIT_ACTIVATIONS_HRELU, {4, 4}},
    {BB_LOWBIT_WEIGHTS_PAPER, BB_LOWBIT_ACTIVATIONS_HTANH, {2, 2}},
    {BB_LOWBIT_WEIGHTS_PAPER, BB_LOWBIT_ACTIVATIONS_HTANH, {1, 1}},
    {BB_LOWBIT_WEIGHTS_MULTI_BRANCH, BB_LOWBIT_ACTIVATIONS_ENCODER, {2, 2}},
    {BB_LOWBIT_WEIGHTS_MULTI_BRANCH, BB_LOWBIT_ACTIVATIONS_ENCODER, {1, 1}},
    {BB_LOWBIT_WEIGHTS_DOREFA, BB_LOWBIT_ACTIVATIONS_HRELU, {3, 3}},
    {BB_LOWBIT_WEIGHTS_BWN, BB_LOWBIT_ACTIVATIONS_LEARNED, {1, 4}},
    {BB_LOWBIT_WEIGHTS_XNOR, BB_LOWBIT_ACTIVATIONS_HTANH, {1, 1}},
    {BB_LOWBIT_WEIGHTS_TWN, BB_LOWBIT_ACTIVATIONS_LEARNED, {2, 4}},
    {BB_LOWBIT_WEIGHTS_ABC, BB_LOWBIT_ACTIVATIONS_LEARNED, {3, 4}},
    {BB_LOWBIT_WEIGHTS_ABC, BB_LOWBIT_ACTIVATIONS_LEARNED, {5, 5}},
};

static void kind_options(const kind_case *k, bb_lowbit_options *o) {
    bb_lowbit_options_init(o);
    profile_options(&o->quantize, &k->bits, 1);
    o->weights = k->weights;
    o->activations = k->activations;
}

static void test_every_kind_reaches_the_engine(void **state) {
    for (size_t i = 0; i < BB_COUNT(KINDS); i++) {
        fixture f = {0};
        bb_lowbit_options o;
        kind_options(&KINDS[i], &o);
        open_fixture(&f, (shape){false, true}, &o);
        export_fixture(&f, bb_lowbit_graph(f.lowbit));
        assert_same(&f, 0, 0.002);
        close_fixture(&f);
    }
}

/* ---- distinct values ------------------------------------------------------------------------- */

static int compare(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static size_t distinct(const float *x, size_t n) {
    float *sorted = malloc(n * sizeof(float));
    size_t count = n > 0;
    assert_non_null(sorted);
    memcpy(sorted, x, n * sizeof(float));
    qsort(sorted, n, sizeof(float), compare);
    for (size_t i = 1; i < n; i++)
        count += sorted[i] != sorted[i - 1];
    free(sorted);
    return count;
}

typedef struct census {
    const bb_graph *graph;
    size_t nodes;
} census;

/** What a FakeQuantize node of k bits gives must have at most 2^k values: in each row of weights,
 *  in a whole tensor of activations; and more than one, or it quantizes nothing. */
static int count_values(void *user, int value, const bb_array *array) {
    census *c = user;
    const bb_node *node = &c->graph->nodes[c->graph->values[value].producer];
    size_t bits = (size_t)bb_node_int(node, "bits", 0), n = 1, rows = 1, most = 0;
    assert_true(bb_dims_product(array->dims, (size_t)array->rank, &n));
    if (c->graph->values[node->in[0]].data)
        rows = (size_t)array->dims[0];
    for (size_t r = 0; r < rows; r++) {
        size_t found = distinct((const float *)array->data + r * (n / rows), n / rows);
        most = found > most ? found : most;
    }
    if (most > (size_t)1 << bits || most < 2)
        fail_msg("%zu values of %zu bits", most, bits);
    c->nodes++;
    return 0;
}

static void count_all(const bb_graph *g, const bb_quantize_options *o, size_t expected) {
    const int64_t dims[4] = {1, 3, SIDE, SIDE}, *input_dims[1] = {dims};
    int tapped[256];
    bb_executor_options eo = {.tapped = tapped};
    for (size_t i = 0; i < g->n_nodes; i++)
        if (g->nodes[i].op == BB_OP_FAKE_QUANTIZE)
            tapped[eo.n_tapped++] = g->nodes[i].out[0];
    assert_int_equal(eo.n_tapped, expected);
    bb_executor *ex;
    census c = {g, 0};
    float x[PIXELS];
    bb_array input = {.dtype = BB_DTYPE_F32, .rank = 4, .data = x};
    memcpy(input.dims, dims, sizeof(dims));
    calibrate((void *)(uintptr_t)o, 700, x);
    assert_int_equal(bb_executor_create(g, input_dims, &eo, &ex, NULL), BB_STATUS_OK);
    assert_int_equal(bb_executor_run(ex, &input, count_values, &c, NULL), BB_STATUS_OK);
    assert_int_equal(c.nodes, expected);
    bb_executor_destroy(ex);
}

static void test_k_bits_are_at_most_2_to_the_k_values(void **state) {
    for (uint32_t k = 1; k <= 8; k++) {
        fixture f = {0};
        bb_lowbit_options o;
        bb_bits bits = {k, k};
        bb_lowbit_options_init(&o);
        profile_options(&o.quantize, &bits, 1);
        open_fixture(&f, (shape){true, true}, &o);
        /* Four layers' weights, the inputs of three. */
        count_all(bb_lowbit_graph(f.lowbit), &o.quantize, 7);
        close_fixture(&f);
    }
    for (size_t i = 0; i < BB_COUNT(KINDS); i++) {
        fixture f = {0};
        bb_lowbit_options o;
        kind_options(&KINDS[i], &o);
        open_fixture(&f, (shape){true, true}, &o);
        size_t expected = 7;
        if (KINDS[i].weights == BB_LOWBIT_WEIGHTS_MULTI_BRANCH)
            expected = 3 + 2 * 8 + 2 * KINDS[i].bits.weight;
        count_all(bb_lowbit_graph(f.lowbit), &o.quantize, expected);
        close_fixture(&f);
    }
}

/* ---- parameters and the way back ------------------------------------------------------------- */

static void test_parameters(void **state) {
    static const bb_bits profiles[] = {{4, 4}, {2, 2}};
    for (size_t n = 1; n <= 2; n++) {
        fixture f = {0};
        bb_lowbit_options o;
        bb_lowbit_options_init(&o);
        profile_options(&o.quantize, profiles, n);
        open_fixture(&f, (shape){true, true}, &o);
        size_t count, decayed = 0, bounded = 0;
        const bb_lowbit_parameter *p = bb_lowbit_parameters(f.lowbit, &count);
        for (size_t i = 0; i < count; i++) {
            assert_non_null(bb_lowbit_graph(f.lowbit)->values[p[i].value].data);
            decayed += p[i].decay > 0.0f;
            bounded += p[i].min < p[i].max;
        }
        assert_int_equal(decayed, 4); /* weights are shared by all profiles */
        assert_int_equal(bounded, 4 + 3 * n);
        assert_int_equal(count, 4 + 4 + 3 * n + 3 * 2 * n);
        close_fixture(&f);
    }
}

/** The ladder: latent weights come back, and fewer bits go on from them. */
static void test_latent_weights_come_back(void **state) {
    static const bb_bits w4a4 = {4, 4}, w2a2 = {2, 2};
    fixture f = {0};
    bb_lowbit_options o;
    bb_graph *latent;
    float before[CLASSES], after[CLASSES];
    bb_lowbit_options_init(&o);
    profile_options(&o.quantize, &w4a4, 1);
    open_fixture(&f, (shape){true, true}, &o);
    assert_int_equal(bb_lowbit_latent(f.lowbit, bb_lowbit_graph(f.lowbit), 0, &latent, NULL),
                     BB_STATUS_OK);
    run_graph(f.graph, &o.quantize, 3, 1, before);
    run_graph(latent, &o.quantize, 3, 1, after);
    for (size_t i = 0; i < CLASSES; i++)
        assert_true(fabsf(before[i] - after[i]) <= 1e-4f * (1.0f + fabsf(before[i])));
    bb_lowbit *lower;
    o.quantize.profiles = &w2a2;
    assert_int_equal(bb_lowbit_create(latent, &o, calibrate, &o.quantize, IMAGES, &lower, NULL),
                     BB_STATUS_OK);
    count_all(bb_lowbit_graph(lower), &o.quantize, 7);
    bb_lowbit_destroy(lower);
    bb_graph_destroy(latent);
    close_fixture(&f);
}

/** A row that its step has left behind comes back as what the network computed with. */
static void test_latent_rows_follow_runaway_steps(void **state) {
    static const bb_bits w4a4 = {4, 4};
    fixture f = {0};
    bb_lowbit_options o;
    bb_graph *latent;
    size_t convolutions = 0;
    bb_lowbit_options_init(&o);
    profile_options(&o.quantize, &w4a4, 1);
    open_fixture(&f, (shape){true, true}, &o);
    const bb_graph *trained = bb_lowbit_graph(f.lowbit);
    for (size_t v = 0; v < trained->n_values; v++)
        if (trained->values[v].data && strstr(trained->values[v].name, "weight_step"))
            ((float *)trained->values[v].data)[0] *= 1e4f;
    assert_int_equal(bb_lowbit_latent(f.lowbit, trained, 0, &latent, NULL), BB_STATUS_OK);
    for (size_t i = 0; i < latent->n_nodes; i++) {
        if (latent->nodes[i].op != BB_OP_CONV)
            continue;
        const bb_value *w = &latent->values[latent->nodes[i].in[1]];
        const float *now = w->data, *then = f.graph->values[latent->nodes[i].in[1]].data;
        size_t row = (size_t)(w->dims[1] * w->dims[2] * w->dims[3]);
        assert_true(fabsf(now[0]) > 100.0f * fabsf(then[0]));
        for (size_t j = row; j < 2 * row; j++)
            assert_true(fabsf(now[j] - then[j]) <= 1e-4f * (1.0f + fabsf(then[j])));
        convolutions++;
    }
    assert_true(convolutions > 0);
    bb_graph_destroy(latent);
    close_fixture(&f);
}

static void test_wrong_bits_are_refused(void **state) {
    static const bb_bits w2a2 = {2, 2};
    bb_lowbit_options o;
    bb_lowbit *lowbit;
    bb_error err;
    bb_graph *g = network((shape){true, true});
    bb_lowbit_options_init(&o);
    profile_options(&o.quantize, &w2a2, 1);
    o.weights = BB_LOWBIT_WEIGHTS_BWN;
    assert_int_equal(bb_lowbit_create(g, &o, calibrate, &o.quantize, IMAGES, &lowbit, &err),
                     BB_STATUS_INVALID_ARGUMENT);
    assert_null(lowbit);
    assert_non_null(strstr(err.message, "2 bits"));
    bb_graph_destroy(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_engine_gives_the_graphs_results),
        cmocka_unit_test(test_residual_grids_are_calibrated),
        cmocka_unit_test(test_profiles_share_planes),
        cmocka_unit_test(test_every_kind_reaches_the_engine),
        cmocka_unit_test(test_k_bits_are_at_most_2_to_the_k_values),
        cmocka_unit_test(test_parameters),
        cmocka_unit_test(test_latent_weights_come_back),
        cmocka_unit_test(test_latent_rows_follow_runaway_steps),
        cmocka_unit_test(test_wrong_bits_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
