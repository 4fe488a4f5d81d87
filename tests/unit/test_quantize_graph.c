/* SPDX-License-Identifier: Apache-2.0 */
/* bb_quantize on a small network with every kind of layer it treats apart: pixels, a depthwise
 * layer of unequal channels, a shortcut, a pool, a Gemm on a flattened image. */
#include "unit.h"

#include "bitbranch/engine.h"
#include "bitbranch/quantize.h"
#include "format/format.h"
#include "graph/graph.h"
#include "pixel_task.h"
#include "quantize/judge.h"
#include "small_graph.h"
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CLASSES = 5, IMAGES = 40, MANY_IMAGES = 400, WIDTH = 12 };

static int conv(bb_graph *g, const char *name, int in, int64_t rows, int64_t depth, int64_t kernel,
                int64_t groups, bb_rng *rng) {
    const int64_t dims[4] = {rows, depth, kernel, kernel},
                  pads[4] = {kernel / 2, kernel / 2, kernel / 2, kernel / 2};
    float scale = 1.0f / sqrtf((float)(depth * kernel * kernel));
    int ins[3] = {in, sg_normal(g, 4, dims, scale, rng), sg_normal(g, 1, &rows, 0.1f, rng)};
    int out = sg_node(g, BB_OP_CONV, name, 3, ins);
    bb_node *n = sg_last(g);
    assert_true(bb_node_set_ints(g, n, "pads", pads, 4));
    assert_true(bb_node_set_int(g, n, "group", groups));
    return out;
}

/** Gives the channels of the last Conv ranges from 1 down to 1/8. */
static void spread_channels(bb_graph *g, int64_t rows, int64_t d) {
    const bb_node *n = sg_last(g);
    float *w = (float *)(uintptr_t)g->values[n->in[1]].data;
    float *bias = (float *)(uintptr_t)g->values[n->in[2]].data;
    for (int64_t r = 0; r < rows; r++) {
        float factor = exp2f(-3.0f * (float)r / (float)(rows - 1));
        bias[r] *= factor;
        for (int64_t i = 0; i < d; i++)
            w[r * d + i] *= factor;
    }
}

static bb_graph *small_network(void) {
    bb_rng rng;
    bb_rng_seed(&rng, 11);
    bb_graph *g = bb_graph_create();
    const int64_t in_dims[4] = {1, 3, SIDE, SIDE}, fc_dims[2] = {CLASSES, WIDTH * 4 * 4};
    int in = sg_input(g, "input", 4, in_dims);
    int stem = conv(g, "stem", in, WIDTH, 3, 3, 1, &rng);
    spread_channels(g, WIDTH, 27);
    int relu = sg_node(g, BB_OP_RELU, "stem_relu", 1, &stem);
    int depthwise = conv(g, "depthwise", relu, WIDTH, 1, 3, WIDTH, &rng);
    relu = sg_node(g, BB_OP_RELU, "depthwise_relu", 1, &depthwise);
    int body = conv(g, "body", relu, WIDTH, WIDTH, 3, 1, &rng);
    int sum = sg_node(g, BB_OP_ADD, "sum", 2, (int[]){body, relu});
    relu = sg_node(g, BB_OP_RELU, "sum_relu", 1, &sum);
    int pool = sg_node(g, BB_OP_MAX_POOL, "pool", 1, &relu);
    const int64_t two[2] = {2, 2};
    assert_true(bb_node_set_ints(g, sg_last(g), "kernel_shape", two, 2));
    assert_true(bb_node_set_ints(g, sg_last(g), "strides", two, 2));
    int flat = sg_node(g, BB_OP_FLATTEN, "flat", 1, &pool);
    int fc[2] = {flat, sg_normal(g, 2, fc_dims, 0.07f, &rng)};
    int out = sg_node(g, BB_OP_GEMM, "fc", 2, fc);
    assert_true(bb_node_set_int(g, sg_last(g), "transB", 1));
    sg_finish(g, out);
    return g;
}

/** Signal to noise of one profile against the float network, on images not calibrated with. */
static double model_sqnr(const bb_graph *g, const bb_model *model, size_t profile,
                         bb_quantize_options *o) {
    const int64_t dims[4] = {1, 3, SIDE, SIDE};
    bb_engine_options eo;
    bb_engine *engine;
    bb_context *context;
    bb_float_net *net;
    bb_engine_options_init(&eo);
    eo.profile = profile;
    eo.input_dims[1] = eo.input_dims[2] = SIDE;
    assert_int_equal(bb_engine_create(model, &eo, &engine, NULL), BB_STATUS_OK);
    assert_int_equal(bb_context_create(engine, &context, NULL), BB_STATUS_OK);
    assert_int_equal(bb_float_net_create(g, dims, 1, &net, NULL), BB_STATUS_OK);
    double signal = 0.0, noise = 0.0;
    for (size_t image = MANY_IMAGES; image < MANY_IMAGES + 20; image++) {
        float real[PIXELS], raw[PIXELS], out[CLASSES];
        uint8_t pixels[PIXELS];
        const float *in = raw, *want;
        float *to = out;
        int64_t out_dims[8];
        int rank;
        const char *name;
        calibrate(o, image, real);
        make_pixels(image, pixels);
        for (size_t i = 0; i < PIXELS; i++)
            raw[i] = o->pixels ? (float)pixels[i] : real[i];
        assert_int_equal(bb_context_run_f32(context, &in, &to, NULL), BB_STATUS_OK);
        assert_int_equal(bb_float_net_run(net, real, NULL), BB_STATUS_OK);
        assert_int_equal(bb_float_net_output(net, 0, &name, &want, out_dims, &rank, NULL),
                         BB_STATUS_OK);
        for (size_t i = 0; i < CLASSES; i++) {
            signal += want[i] * want[i];
            noise += (want[i] - out[i]) * (want[i] - out[i]);
        }
    }
    bb_float_net_destroy(net);
    bb_context_destroy(context);
    bb_engine_destroy(engine);
    return 10.0 * log10(signal / noise);
}

static void test_models_follow_the_float_network(void **state) {
    static const bb_bits profiles[] = {{8, 8}, {4, 8}, {4, 4}, {2, 4}};
    const double least[] = {28.0, 18.0, 10.0, 5.0};
    bb_graph *g = small_network();
    bb_quantize_options o;
    for (int pixels = 0; pixels < 2; pixels++) {
        for (size_t p = 0; p < BB_COUNT(profiles); p++) {
            bb_model *model;
            pixel_options(&o);
            o.pixels = pixels;
            o.profiles = &profiles[p];
            bb_error err;
            if (bb_quantize(g, &o, calibrate, &o, IMAGES, &model, NULL, &err) != BB_STATUS_OK)
                fail_msg("%s", err.message);
            double sqnr = model_sqnr(g, model, 0, &o);
            if (sqnr < least[p])
                fail_msg("w%ua%u: %.1f dB", profiles[p].weight, profiles[p].activation, sqnr);
            bb_model_destroy(model);
        }
    }
    bb_graph_destroy(g);
}

static void test_effort_pays(void **state) {
    static const bb_bits w2a8 = {2, 8};
    bb_graph *g = small_network();
    double sqnr[2];
    for (int i = 0; i < 2; i++) {
        bb_quantize_options o;
        bb_model *model;
        pixel_options(&o);
        o.profiles = &w2a8;
        o.effort = i ? BB_EFFORT_DEFAULT : BB_EFFORT_FAST;
        assert_int_equal(bb_quantize(g, &o, calibrate, &o, MANY_IMAGES, &model, NULL, NULL),
                         BB_STATUS_OK);
        sqnr[i] = model_sqnr(g, model, 0, &o);
        bb_model_destroy(model);
    }
    assert_true(sqnr[1] > sqnr[0] + 1.0);
    bb_graph_destroy(g);
}

/* ---- what --effort best keeps ---------------------------------------------------------------- */

static void scale_gains(bb_student *s, float factor) {
    for (size_t b = 0; b < s->q->plan.n; b++)
        for (size_t r = 0; s->layers[b].gain >= 0 && r < s->q->targets[b].shape.rows; r++)
            bb_student_constant(s, s->layers[b].gain)[r] *= factor;
}

/** A training that ruins the network. */
static bb_status harm(bb_student *s, const float *images, bb_error *err) {
    (void)images;
    (void)err;
    scale_gains(s, 0.25f);
    for (size_t b = 0; b < s->q->plan.n; b++)
        if (s->layers[b].bias >= 0)
            bb_student_constant(s, s->layers[b].bias)[0] += 5.0f;
    return BB_STATUS_OK;
}

/** A training that repairs what make_student did to it. */
static bb_status repair(bb_student *s, const float *images, bb_error *err) {
    (void)images;
    (void)err;
    scale_gains(s, 2.0f);
    return BB_STATUS_OK;
}

static float *load(const bb_quantization *q, size_t first, size_t n) {
    float *images = bb_alloc_array(n, PIXELS * sizeof *images);
    assert_non_null(images);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(q->calibration(q->user, first + i, images + i * PIXELS), 0);
    return images;
}

/** A solved network as a student whose gains are half of what they should be. */
static void make_student(const bb_graph *g, bb_quantize_options *o, bb_quantization *q,
                         bb_student *s) {
    assert_int_equal(bb_quantize_open(q, g, o, NULL), BB_STATUS_OK);
    q->calibration = calibrate;
    q->user = o;
    q->count = IMAGES;
    assert_int_equal(bb_quantize_calibrate(q, NULL), BB_STATUS_OK);
    assert_int_equal(bb_quantize_blocks(q, NULL), BB_STATUS_OK);
    assert_int_equal(bb_student_create(q, 0, s, NULL), BB_STATUS_OK);
    scale_gains(s, 0.5f);
}

/** Gains and biases of all layers, one after the other. */
static size_t read_numbers(const bb_student *s, float *numbers) {
    size_t n = 0;
    for (size_t b = 0; b < s->q->plan.n; b++)
        for (size_t r = 0; s->layers[b].gain >= 0 && r < s->q->targets[b].shape.rows; r++) {
            numbers[n++] = bb_student_constant(s, s->layers[b].gain)[r];
            numbers[n++] = bb_student_constant(s, s->layers[b].bias)[r];
        }
    return n;
}

static void test_training_that_harms_is_undone(void **state) {
    static const bb_bits w4a4 = {4, 4};
    static const bb_tune_phase phases[] = {{harm}, {repair}, {harm}};
    float before[256], after[256];
    bb_graph *g = small_network();
    bb_quantize_options o;
    bb_quantization q;
    bb_student s;
    double found[4];
    bool changed;
    pixel_options(&o);
    o.profiles = &w4a4;
    o.effort = BB_EFFORT_BEST;
    make_student(g, &o, &q, &s);
    float *held = load(&q, IMAGES, 20);
    size_t n = read_numbers(&s, before);
    assert_true(n > 0 && n <= 256);

    assert_int_equal(bb_tune_phases(&s, NULL, held, 20, phases, 1, found, &changed, NULL),
                     BB_STATUS_OK);
    assert_true(found[0] > 0.0 && found[1] > found[0]);
    assert_false(changed);
    read_numbers(&s, after);
    assert_memory_equal(before, after, n * sizeof *before);

    assert_int_equal(bb_tune_phases(&s, NULL, held, 20, phases, 3, found, &changed, NULL),
                     BB_STATUS_OK);
    assert_true(found[1] > found[0] && found[2] < found[0] && found[3] > found[2]);
    assert_true(changed);
    read_numbers(&s, after);
    for (size_t i = 0; i < n; i += 2) {
        assert_true(after[i] == 2.0f * before[i]);
        assert_true(after[i + 1] == before[i + 1]);
    }
    bb_free(held);
    bb_student_destroy(&s);
    bb_quantize_close(&q);
    bb_graph_destroy(g);
}

static void test_best_effort_is_judged_on_images_held_back(void **state) {
    static const bb_bits w2a2 = {2, 2};
    bb_graph *g = small_network();
    bb_quantize_options o;
    bb_quantize_report report;
    bb_model *model;
    pixel_options(&o);
    o.profiles = &w2a2;
    o.effort = BB_EFFORT_BEST;
    assert_int_equal(bb_quantize(g, &o, calibrate, &o, MANY_IMAGES, &model, &report, NULL),
                     BB_STATUS_OK);
    assert_int_equal(report.judged_images, 50);
    for (int i = 0; i < BB_TUNE_STAGES; i++)
        assert_true(report.divergence[i] > 0.0);
    bb_quantize_report_free(&report);
    bb_model_destroy(model);
    o.effort = BB_EFFORT_DEFAULT;
    assert_int_equal(bb_quantize(g, &o, calibrate, &o, MANY_IMAGES, &model, &report, NULL),
                     BB_STATUS_OK);
    assert_int_equal(report.judged_images, 0);
    bb_quantize_report_free(&report);
    bb_model_destroy(model);
    bb_graph_destroy(g);
}

/* ---- the float network beside the quantized one ---------------------------------------------- */

static void open_best(const bb_graph *g, const bb_bits *bits, bb_quantize_options *o,
                      bb_quantization *q) {
    pixel_options(o);
    o->profiles = bits;
    o->effort = BB_EFFORT_BEST;
    assert_int_equal(bb_quantize_open(q, g, o, NULL), BB_STATUS_OK);
    q->calibration = calibrate;
    q->user = o;
    q->count = IMAGES;
    assert_int_equal(bb_quantize_calibrate(q, NULL), BB_STATUS_OK);
}

/** Largest difference of a kept output from what the tapped float network has there. */
typedef struct reference_check {
    const bb_quantization *q;
    size_t image, checked;
} reference_check;

static int compare_with_reference(void *user, int value, const bb_array *array) {
    reference_check *c = user;
    float kept[WIDTH * SIDE * SIDE];
    const float *want = array->data;
    size_t n = bb_quantize_elements(c->q, value);
    assert_true(n <= BB_COUNT(kept));
    if (!c->q->reference[value])
        return 0;
    bb_reference_read(c->q, value, c->image, kept);
    for (size_t i = 0; i < n; i++) /* bfloat16 all the way from the input */
        assert_true(fabsf(kept[i] - want[i]) <= 0.02f * fabsf(want[i]) + 0.02f);
    c->checked++;
    return 0;
}

static void test_references_are_what_the_float_network_has(void **state) {
    static const bb_bits w3a3 = {3, 3};
    bb_graph *g = small_network();
    bb_quantize_options o;
    bb_quantization q;
    int tapped[64];
    size_t n = 0;
    open_best(g, &w3a3, &o, &q);
    for (size_t b = 0; b < q.plan.n; b++) {
        assert_int_equal(bb_reference_run(&q, b, NULL), BB_STATUS_OK);
        tapped[n++] = q.plan.blocks[b].output;
    }
    bb_runners runners;
    assert_int_equal(bb_runners_create(&runners, q.graph, tapped, n, 1, NULL), BB_STATUS_OK);
    for (size_t image = 0; image < 3; image++) {
        float *x = load(&q, image, 1);
        bb_array input = {.dtype = BB_DTYPE_F32, .rank = 4, .data = x};
        memcpy(input.dims, q.graph->values[q.graph->inputs[0]].dims, sizeof input.dims);
        reference_check check = {&q, image, 0};
        assert_int_equal(
            bb_executor_run(runners.executors[0], &input, compare_with_reference, &check, NULL),
            BB_STATUS_OK);
        assert_true(check.checked >= 4);
        bb_free(x);
    }
    bb_runners_destroy(&runners);
    bb_quantize_close(&q);
    bb_graph_destroy(g);
}

static size_t count_mixed(bb_bits bits, bb_effort effort) {
    bb_graph *g = small_network();
    bb_quantize_options o;
    bb_quantization q;
    size_t n = 0;
    pixel_options(&o);
    o.profiles = &bits;
    o.effort = effort;
    assert_int_equal(bb_quantize_open(&q, g, &o, NULL), BB_STATUS_OK);
    for (size_t b = 0; b < q.plan.n; b++)
        n += bb_reference_mixes(&q, b);
    assert_int_equal(n > 0, bb_reference_wanted(&q));
    bb_quantize_close(&q);
    bb_graph_destroy(g);
    return n;
}

/** Neither the first layer, which reads pixels, nor the last, of 8 bits. */
static void test_layers_of_few_activation_bits_see_references(void **state) {
    assert_int_equal(count_mixed((bb_bits){3, 3}, BB_EFFORT_BEST), 2);
    assert_int_equal(count_mixed((bb_bits){2, 2}, BB_EFFORT_BEST), 2);
    assert_int_equal(count_mixed((bb_bits){2, 4}, BB_EFFORT_BEST), 0);
    assert_int_equal(count_mixed((bb_bits){3, 3}, BB_EFFORT_DEFAULT), 0);
}

static void test_mixtures_are_half_of_either(void **state) {
    enum { N = 10000 };
    static float a[N], b[N], x[N];
    size_t from_a = 0;
    bb_rng rng;
    for (size_t i = 0; i < N; i++) {
        a[i] = (float)i;
        b[i] = -1.0f - (float)i;
    }
    bb_rng_seed(&rng, 5);
    bb_reference_mix(&rng, a, b, x, N);
    for (size_t i = 0; i < N; i++) {
        assert_true(x[i] == a[i] || x[i] == b[i]);
        from_a += x[i] == a[i];
    }
    assert_in_range(from_a, N / 2 - 250, N / 2 + 250); /* five standard errors */
}

/** Adds one image's sums with bias and shortcut, and what they should be. */
static void add_sums(const bb_quantization *q, size_t b, size_t image, bb_executor *ex, float *x,
                     double *is, double *want) {
    const bb_target *t = &q->targets[b];
    const bb_block *block = &q->plan.blocks[b];
    const bb_block_quant *quant = &q->profiles[0].blocks[b];
    size_t rows = t->shape.rows;
    float *shortcut = x + bb_quantize_elements(q, block->in[0]);
    bb_array in, out;
    bb_store_read(q, 0, block->in[0], quant->in_grid[0], image, x);
    if (block->n_in > 1)
        bb_store_read(q, 0, block->in[1], quant->in_grid[1], image, shortcut);
    bb_subgraph_list_inputs(q, block, 1, x, &in);
    assert_int_equal(bb_executor_run(ex, &in, NULL, NULL, NULL), BB_STATUS_OK);
    assert_int_equal(bb_executor_output(ex, 0, &out, NULL), BB_STATUS_OK);
    assert_int_equal(t->samples, t->pixels);
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < t->pixels; i++) {
            is[r] += (double)((const float *)out.data)[r * t->pixels + i] + (double)quant->bias[r];
            is[r] += block->n_in > 1 ? (double)shortcut[r * t->pixels + i] : 0.0;
            want[r] += t->y[(image * t->samples + i) * rows + r];
        }
}

/** A layer's sums over all images and positions against those of the float network. */
static void check_mean(const bb_quantization *q, size_t b) {
    const bb_target *t = &q->targets[b];
    const bb_block *block = &q->plan.blocks[b];
    float *w = bb_quantize_real_weights(q, b, 0), *x;
    bb_graph *graph;
    bb_runners runners;
    assert_non_null(w);
    assert_int_equal(bb_subgraph_of_conv(q, b, w, &graph, NULL), BB_STATUS_OK);
    assert_int_equal(bb_runners_create(&runners, graph, NULL, 0, 1, NULL), BB_STATUS_OK);
    double is[WIDTH] = {0}, want[WIDTH] = {0};
    x = bb_alloc_array(2 * bb_quantize_elements(q, block->in[0]) + t->shape.rows * t->pixels,
                       sizeof *x);
    for (size_t image = 0; image < IMAGES; image++)
        add_sums(q, b, image, runners.executors[0], x, is, want);
    for (size_t r = 0; r < t->shape.rows; r++)
        assert_true(fabs(is[r] - want[r]) < 1e-3 * IMAGES * (double)t->pixels);
    bb_free(x);
    bb_free(w);
    bb_runners_destroy(&runners);
    bb_graph_destroy(graph);
}

/** Another float network gives other codes. */
static void check_mixture(bb_quantization *q, size_t b) {
    const bb_block_codes c = q->codes[b];
    int value = q->plan.blocks[b].in[0];
    memset(q->reference[value], 0, q->images * bb_quantize_elements(q, value) * sizeof(uint16_t));
    assert_int_equal(bb_quantize_layer(q, b, NULL), BB_STATUS_OK);
    assert_memory_not_equal(c.codes, q->codes[b].codes, (size_t)c.rows * c.taps * c.depth);
}

/** Weights are solved on mixtures, but biases make the means of the engine's own sums right. */
static void test_mixtures_are_for_weights_alone(void **state) {
    static const bb_bits w2a2 = {2, 2};
    bb_graph *g = small_network();
    bb_quantize_options o;
    bb_quantization q;
    size_t checked = 0;
    open_best(g, &w2a2, &o, &q);
    for (size_t b = 0; b < q.plan.n; b++) {
        const bb_block *block = &q.plan.blocks[b];
        if (block->kind == BB_BLOCK_CONV)
            assert_int_equal(bb_quantize_layer(&q, b, NULL), BB_STATUS_OK);
        if (bb_reference_mixes(&q, b)) {
            check_mean(&q, b);
            check_mixture(&q, b);
            checked++;
        }
        if (q.simulated[b]) {
            assert_int_equal(bb_quantize_simulate(&q, b, 0, NULL), BB_STATUS_OK);
            assert_int_equal(bb_reference_run(&q, b, NULL), BB_STATUS_OK);
        }
    }
    assert_int_equal(checked, 2);
    bb_quantize_close(&q);
    bb_graph_destroy(g);
}

/* ---- spans ----------------------------------------------------------------------------------- */

static bool ends_span(const bb_quantization *q, const bb_span *spans, size_t n, const char *name) {
    for (size_t i = 0; i < n; i++)
        if (spans[i].out >= 0 && strcmp(q->graph->values[spans[i].out].name, name) == 0)
            return true;
    return false;
}

/** A convolution and its pool are one span; one vector of an image is no target for what comes
 *  before a global pool. */
static void test_spans_end_before_global_pools(void **state) {
    bb_rng rng;
    bb_rng_seed(&rng, 3);
    bb_graph *g = bb_graph_create();
    const int64_t in_dims[4] = {1, 3, SIDE, SIDE}, fc_dims[2] = {CLASSES, WIDTH}, two[2] = {2, 2};
    int in = sg_input(g, "input", 4, in_dims);
    int x = conv(g, "stem", in, WIDTH, 3, 3, 1, &rng);
    x = sg_node(g, BB_OP_RELU, "stem_relu", 1, &x);
    x = sg_node(g, BB_OP_MAX_POOL, "pool", 1, &x);
    assert_true(bb_node_set_ints(g, sg_last(g), "kernel_shape", two, 2));
    assert_true(bb_node_set_ints(g, sg_last(g), "strides", two, 2));
    for (int i = 0; i < 2; i++) {
        x = conv(g, "body", x, WIDTH, WIDTH, 3, 1, &rng);
        x = sg_node(g, BB_OP_RELU, i ? "second" : "first", 1, &x);
    }
    x = sg_node(g, BB_OP_GLOBAL_AVERAGE_POOL, "mean", 1, &x);
    int fc[2] = {sg_node(g, BB_OP_FLATTEN, "flat", 1, &x), sg_normal(g, 2, fc_dims, 0.3f, &rng)};
    int out = sg_node(g, BB_OP_GEMM, "fc", 2, fc);
    assert_true(bb_node_set_int(g, sg_last(g), "transB", 1));
    sg_finish(g, out);
    bb_quantize_options o;
    bb_quantization q;
    bb_span *spans;
    size_t n;
    pixel_options(&o);
    assert_int_equal(bb_quantize_open(&q, g, &o, NULL), BB_STATUS_OK);
    assert_int_equal(bb_tune_spans(&q, &spans, &n, NULL), BB_STATUS_OK);
    assert_false(ends_span(&q, spans, n, "stem_relu"));
    assert_true(ends_span(&q, spans, n, "pool"));
    assert_true(ends_span(&q, spans, n, "first"));
    assert_true(ends_span(&q, spans, n, "second"));
    bb_quantize_close(&q);
    bb_graph_destroy(g);
}

/** Makes an image out of the planes x + 100*y and its negative, and finds the plane that the
 * result is away from its border: value of pixel (side/2, side/2), slopes. */
static void move_ramp(int64_t side, uint64_t seed, float plane[3]) {
    const int64_t dims[4] = {1, 2, side, side}, n = side * side;
    bb_graph *g = bb_graph_create();
    int in = bb_graph_add_value(g, "input", BB_DTYPE_F32, 4, dims);
    bb_quantization q = {.graph = g};
    bb_rng rng;
    g->inputs = &in;
    g->n_inputs = 1;
    float *from = bb_alloc_array((size_t)n, 4 * sizeof *from), *to = from + 2 * n;
    for (int64_t i = 0; i < n; i++) {
        from[i] = (float)(i % side + 100 * (i / side));
        from[n + i] = -from[i];
    }
    bb_rng_seed(&rng, seed);
    bb_quantize_move_image(&q, from, &rng, to);
    const float *middle = to + side / 2 * side + side / 2;
    plane[0] = middle[0];
    plane[1] = middle[1] - middle[0];
    plane[2] = middle[side] - middle[0];
    for (int64_t y = side / 8; y < side - side / 8; y++)
        for (int64_t x = side / 8; x < side - side / 8; x++) {
            float want =
                plane[0] + plane[1] * (float)(x - side / 2) + plane[2] * (float)(y - side / 2);
            assert_true(fabsf(to[y * side + x] - want) < 1e-2f * (float)side);
        }
    for (int64_t i = 0; i < n; i++)
        assert_true(to[n + i] == -to[i] && to[i] >= 0.0f && to[i] <= from[n - 1]);
    bb_free(from);
    bb_graph_destroy(g);
}

static void test_moved_images_are_parts_of_images(void **state) {
    float least = 1.0f, most = 0.0f, mirrored = 0.0f;
    for (uint64_t seed = 0; seed < 64; seed++) {
        float p[3];
        move_ramp(32, seed, p);
        assert_true(fabsf(p[1]) == 1.0f && p[2] == 100.0f);
        float y = floorf(p[0] / 100.0f), x = p[0] - 100.0f * y;
        assert_true(fabsf(y - 16.0f) <= 2.0f && fabsf(x - 15.5f) <= 2.5f);
        mirrored += p[1] < 0.0f;
        move_ramp(96, seed, p);
        float area = fabsf(p[1]) * p[2] / 100.0f;
        least = fminf(least, area);
        most = fmaxf(most, area);
    }
    assert_true(mirrored > 16.0f && mirrored < 48.0f);
    assert_true(least > 0.25f && least < 0.4f && most > 0.85f && most < 1.001f);
}

static void save(const bb_model *model, char path[32]) {
    strcpy(path, "/tmp/bb_quantize_XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(bb_model_save(model, path, NULL), BB_STATUS_OK);
}

static void test_threads_give_the_same_file(void **state) {
    static const bb_bits profiles[] = {{8, 8}, {4, 8}, {3, 3}};
    bb_graph *g = small_network();
    bb_file files[2];
    char path[2][32];
    for (size_t i = 0; i < 2; i++) {
        bb_quantize_options o;
        bb_model *model;
        pixel_options(&o);
        o.profiles = profiles;
        o.n_profiles = 3;
        o.threads = 1 + 2 * i;
        assert_int_equal(bb_quantize(g, &o, calibrate, &o, IMAGES, &model, NULL, NULL),
                         BB_STATUS_OK);
        assert_true(model_sqnr(g, model, 0, &o) > 25.0);
        assert_true(model_sqnr(g, model, 1, &o) > 20.0);
        save(model, path[i]);
        bb_model_destroy(model);
        assert_int_equal(bb_file_open(path[i], &files[i], NULL), BB_STATUS_OK);
    }
    assert_int_equal(files[0].size, files[1].size);
    assert_memory_equal(files[0].data, files[1].data, files[0].size);
    for (size_t i = 0; i < 2; i++) {
        bb_file_close(&files[i]);
        remove(path[i]);
    }
    bb_graph_destroy(g);
}

static const bb_quantize_row *find_row(const bb_quantize_report *r, const char *layer) {
    for (size_t i = 0; i < r->n_rows; i++)
        if (strcmp(r->rows[i].layer, layer) == 0)
            return &r->rows[i];
    fail_msg("no row '%s'", layer);
    return NULL;
}

static void test_plan_says_what_every_layer_gets(void **state) {
    static const bb_bits w4a4 = {4, 4};
    static const bb_layer_bits overrides[] = {{"b*y", {5, 6}}, {"body", {3, 2}}};
    bb_graph *g = small_network();
    bb_quantize_options o;
    bb_quantize_report report;
    pixel_options(&o);
    o.profiles = &w4a4;
    o.layers = overrides;
    o.n_layers = 2;
    assert_int_equal(bb_quantize_plan(g, &o, &report, NULL), BB_STATUS_OK);
    const bb_quantize_row *stem = find_row(&report, "stem"), *body = find_row(&report, "body");
    const bb_quantize_row *fc = find_row(&report, "fc");
    assert_int_equal(stem->bits.weight, 8);
    assert_int_equal(fc->bits.activation, 8);
    assert_int_equal(body->bits.weight, 3);
    assert_int_equal(body->bits.activation, 2);
    assert_int_equal(find_row(&report, "depthwise")->bits.weight, 4);
    assert_int_equal(body->macs, WIDTH * WIDTH * 9 * SIDE * SIDE);
    assert_int_equal(body->parameters, WIDTH * WIDTH * 9);
    assert_true(isnan(body->sqnr_db));
    assert_int_equal(report.integer_macs, report.macs);
    bb_quantize_report_free(&report);
    o.first_last_float = 1;
    assert_int_equal(bb_quantize_plan(g, &o, &report, NULL), BB_STATUS_OK);
    assert_non_null(find_row(&report, "stem")->note);
    assert_true(report.integer_macs < report.macs);
    bb_quantize_report_free(&report);
    bb_graph_destroy(g);
}

static int cancel_at_five(void *user, const char *stage, size_t done, size_t total) {
    (void)stage;
    (void)total;
    int *calls = user;
    return done > 0 && ++*calls >= 5;
}

static void assert_same_bytes(const bb_model *a, const bb_model *b) {
    bb_buffer x = {0}, y = {0};
    assert_int_equal(bb_format_write(a, &x, NULL), BB_STATUS_OK);
    assert_int_equal(bb_format_write(b, &y, NULL), BB_STATUS_OK);
    assert_int_equal(x.size, y.size);
    assert_memory_equal(x.data, y.data, x.size);
    bb_buffer_free(&x);
    bb_buffer_free(&y);
}

static bb_bits bits_of(const bb_quantize_report *report, const char *layer) {
    for (size_t i = 0; i < report->n_rows; i++)
        if (strcmp(report->rows[i].layer, layer) == 0)
            return report->rows[i].bits;
    fail_msg("no layer '%s'", layer);
    return (bb_bits){0, 0};
}

/* The last layer is the last one with weights, whatever follows it. */
static void test_first_and_last_layer_keep_their_bits(void **state) {
    static const bb_bits w2a3 = {2, 3};
    bb_graph *g = small_network();
    bb_quantize_options o;
    bb_quantize_report report = {0};
    sg_finish(g, sg_node(g, BB_OP_SOFTMAX, "softmax", 1, &g->outputs[0]));
    pixel_options(&o);
    o.profiles = &w2a3;
    assert_int_equal(bb_quantize_plan(g, &o, &report, NULL), BB_STATUS_OK);
    assert_int_equal(bits_of(&report, "stem").weight, 8);
    assert_int_equal(bits_of(&report, "fc").weight, 8);
    assert_int_equal(bits_of(&report, "fc").activation, 8);
    assert_int_equal(bits_of(&report, "body").weight, 2);
    assert_int_equal(bits_of(&report, "body").activation, 3);
    bb_quantize_report_free(&report);
    bb_graph_destroy(g);
}

static bb_graph *two_plain_layers(void) {
    bb_rng rng;
    bb_rng_seed(&rng, 12);
    bb_graph *g = bb_graph_create();
    int x = sg_input(g, "input", 4, (int64_t[]){1, 3, SIDE, SIDE});
    x = conv(g, "first", x, WIDTH, 3, 3, 1, &rng);
    x = sg_node(g, BB_OP_RELU, "relu", 1, &x);
    sg_finish(g, conv(g, "second", x, WIDTH, WIDTH, 3, 1, &rng));
    return g;
}

/* Only a layer before a depthwise one is scaled: there, a channel has weights of its own. */
static void test_equalizing_is_for_depthwise_layers(void **state) {
    for (int depthwise = 0; depthwise < 2; depthwise++) {
        bb_graph *g = depthwise ? small_network() : two_plain_layers();
        bb_quantize_options o;
        bb_quantization q;
        bool changed;
        pixel_options(&o);
        assert_int_equal(bb_quantize_open(&q, g, &o, NULL), BB_STATUS_OK);
        q.calibration = calibrate;
        q.user = &o;
        q.count = 8;
        assert_int_equal(bb_quantize_equalize(&q, &changed, NULL), BB_STATUS_OK);
        assert_int_equal(changed, depthwise);
        bb_quantize_close(&q);
        bb_graph_destroy(g);
    }
}

/* Exporters often leave height and width open; with sizes given the model is the same. */
static void test_open_sizes_can_be_given(void **state) {
    bb_graph *g = small_network(), *open = small_network();
    bb_value *in = &open->values[open->inputs[0]];
    in->dims[0] = in->dims[2] = in->dims[3] = -1;
    bb_quantize_options o;
    bb_model *model = NULL, *same = NULL;
    bb_error err;
    pixel_options(&o);
    o.effort = BB_EFFORT_FAST;
    assert_int_equal(bb_quantize(open, &o, calibrate, &o, 4, &model, NULL, &err),
                     BB_STATUS_INVALID_ARGUMENT);
    assert_non_null(strstr(err.message, "input 'input' has an open size on axis 2"));
    o.input_dims[2] = o.input_dims[3] = SIDE;
    assert_int_equal(bb_quantize(open, &o, calibrate, &o, 4, &model, NULL, &err), BB_STATUS_OK);
    assert_int_equal(bb_quantize(g, &o, calibrate, &o, 4, &same, NULL, &err), BB_STATUS_OK);
    assert_same_bytes(model, same);
    bb_model_destroy(model);
    bb_model_destroy(same);
    bb_graph_destroy(g);
    bb_graph_destroy(open);
}

static void test_weights_that_are_not_finite_are_refused(void **state) {
    bb_graph *g = small_network();
    const bb_node *n = &g->nodes[0];
    bb_quantize_options o;
    bb_model *model;
    bb_error err;
    pixel_options(&o);
    ((float *)(uintptr_t)g->values[n->in[1]].data)[5] = NAN;
    assert_int_equal(bb_quantize(g, &o, calibrate, &o, 4, &model, NULL, &err),
                     BB_STATUS_INVALID_ARGUMENT);
    assert_non_null(strstr(err.message, "node 'stem': constant 'k'"));
    bb_graph_destroy(g);
}

static bb_status quantize_clipped(float lo, float hi) {
    bb_rng rng;
    bb_rng_seed(&rng, 13);
    bb_graph *g = bb_graph_create();
    bb_quantize_options o;
    bb_model *model = NULL;
    pixel_options(&o);
    int x = sg_input(g, "input", 4, (int64_t[]){1, 3, SIDE, SIDE});
    x = conv(g, "first", x, WIDTH, 3, 3, 1, &rng);
    x = sg_node(g, BB_OP_RELU, "relu", 1, &x);
    x = sg_node(g, BB_OP_CLIP, "clip", 3, (int[]){x, sg_float(g, lo), sg_float(g, hi)});
    sg_finish(g, conv(g, "second", x, WIDTH, WIDTH, 3, 1, &rng));
    bb_status status = bb_quantize(g, &o, calibrate, &o, 4, &model, NULL, NULL);
    bb_model_destroy(model);
    bb_graph_destroy(g);
    return status;
}

static void test_bounds_may_be_infinite(void **state) {
    assert_int_equal(quantize_clipped(1e-6f, INFINITY), BB_STATUS_OK);
    assert_int_equal(quantize_clipped(-INFINITY, 3.0f), BB_STATUS_OK);
}

static void test_wrong_wishes_are_refused(void **state) {
    static const bb_bits w9a4 = {9, 4}, twice[] = {{4, 4}, {2, 4}, {4, 4}};
    static const bb_layer_bits unknown = {"head*", {4, 4}};
    bb_graph *g = small_network();
    bb_quantize_options o;
    bb_model *model;
    bb_error err;
    int calls = 0;
    pixel_options(&o);
    assert_int_equal(bb_quantize(g, &o, calibrate, &o, 0, &model, NULL, &err),
                     BB_STATUS_INVALID_ARGUMENT);
    o.layers = &unknown;
    o.n_layers = 1;
    assert_int_equal(bb_quantize(g, &o, calibrate, &o, 4, &model, NULL, &err), BB_STATUS_NOT_FOUND);
    assert_non_null(strstr(err.message, "head*"));
    o.n_layers = 0;
    o.residual_bits = 7;
    assert_int_equal(bb_quantize(g, &o, calibrate, &o, 4, &model, NULL, &err),
                     BB_STATUS_INVALID_ARGUMENT);
    o.residual_bits = 8;
    o.profiles = &w9a4;
    assert_int_equal(bb_quantize(g, &o, calibrate, &o, 4, &model, NULL, &err),
                     BB_STATUS_INVALID_ARGUMENT);
    pixel_options(&o);
    o.profiles = twice;
    o.n_profiles = 3;
    assert_int_equal(bb_quantize_plan(g, &o, &(bb_quantize_report){0}, &err),
                     BB_STATUS_INVALID_ARGUMENT);
    assert_string_equal(err.message, "profile w4a4 is there twice");
    pixel_options(&o);
    o.struct_size--;
    assert_int_equal(bb_quantize(g, &o, calibrate, &o, 4, &model, NULL, &err),
                     BB_STATUS_INVALID_ARGUMENT);
    assert_int_equal(bb_import_quantized(g, &o, &model, &err), BB_STATUS_INVALID_ARGUMENT);
    assert_non_null(strstr(err.message, "bb_quantize_options"));
    pixel_options(&o);
    float *weights = (float *)(uintptr_t)g->values[g->nodes[0].in[1]].data, before[27];
    float *bias = (float *)(uintptr_t)g->values[g->nodes[0].in[2]].data, bias_before = bias[0];
    memcpy(before, weights, sizeof(before));
    for (int i = 0; i < 27; i++)
        weights[i] = 1e36f;
    bias[0] = FLT_MAX; /* finite, but not with what is added where that is positive */
    assert_int_equal(bb_quantize(g, &o, calibrate, &o, 4, &model, NULL, &err),
                     BB_STATUS_INVALID_ARGUMENT);
    assert_non_null(strstr(err.message, "is not finite for calibration image 0"));
    memcpy(weights, before, sizeof(before));
    bias[0] = bias_before;
    o.progress = cancel_at_five;
    o.progress_user = &calls;
    assert_int_equal(bb_quantize(g, &o, calibrate, &o, 4, &model, NULL, &err), BB_STATUS_CANCELLED);
    assert_null(model);
    bb_graph_destroy(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_models_follow_the_float_network),
        cmocka_unit_test(test_effort_pays),
        cmocka_unit_test(test_training_that_harms_is_undone),
        cmocka_unit_test(test_best_effort_is_judged_on_images_held_back),
        cmocka_unit_test(test_references_are_what_the_float_network_has),
        cmocka_unit_test(test_layers_of_few_activation_bits_see_references),
        cmocka_unit_test(test_mixtures_are_half_of_either),
        cmocka_unit_test(test_mixtures_are_for_weights_alone),
        cmocka_unit_test(test_spans_end_before_global_pools),
        cmocka_unit_test(test_moved_images_are_parts_of_images),
        cmocka_unit_test(test_threads_give_the_same_file),
        cmocka_unit_test(test_plan_says_what_every_layer_gets),
        cmocka_unit_test(test_first_and_last_layer_keep_their_bits),
        cmocka_unit_test(test_equalizing_is_for_depthwise_layers),
        cmocka_unit_test(test_open_sizes_can_be_given),
        cmocka_unit_test(test_weights_that_are_not_finite_are_refused),
        cmocka_unit_test(test_bounds_may_be_infinite),
        cmocka_unit_test(test_wrong_wishes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
