/* SPDX-License-Identifier: Apache-2.0 */
/* Fusion of float graphs into blocks, and the models written from them. */
#include "unit.h"

#include "bitbranch/engine.h"
#include "lower/lower.h"
#include "small_graph.h"
#include <math.h>
#include <stdlib.h>

static void ok(bb_status status, const bb_error *err) {
    if (status != BB_STATUS_OK)
        fail_msg("%s", err->message);
}

/* ---- pieces --------------------------------------------------------------------------------- */

/* Weights (i*7 % 11 - 5)/16 and bias r/8. */
static int conv(bb_graph *g, const char *name, int x, int64_t rows, int64_t depth, int64_t kernel) {
    int64_t dims[4] = {rows, depth, kernel, kernel}, n = rows * depth * kernel * kernel;
    float *w = malloc((size_t)n * sizeof(*w)), *b = malloc((size_t)rows * sizeof(*b));
    for (int64_t i = 0; i < n; i++)
        w[i] = (float)(i * 7 % 11 - 5) / 16;
    for (int64_t i = 0; i < rows; i++)
        b[i] = (float)i / 8;
    int in[3] = {x, sg_floats(g, 4, dims, w), sg_floats(g, 1, &rows, b)};
    free(w);
    free(b);
    int out = sg_node(g, BB_OP_CONV, name, 3, in);
    int64_t pad = kernel / 2, pads[4] = {pad, pad, pad, pad};
    bb_node_set_ints(g, sg_last(g), "pads", pads, 4);
    return out;
}

static int unary(bb_graph *g, bb_op op, const char *name, int x) {
    return sg_node(g, op, name, 1, &x);
}

static int binary(bb_graph *g, bb_op op, const char *name, int a, int b) {
    return sg_node(g, op, name, 2, (int[]){a, b});
}

static bb_graph *start(int *x) {
    bb_graph *g = bb_graph_create();
    *x = sg_input(g, "x", 4, (int64_t[]){1, 4, 6, 6});
    return g;
}

static bb_block_plan plan_of(bb_graph *g, int output, const bool *float_nodes) {
    bb_error err;
    bb_block_plan plan;
    sg_finish(g, output);
    ok(bb_lower_plan(g, float_nodes, &plan, &err), &err);
    return plan;
}

static const char *output_name(const bb_graph *g, const bb_block *block) {
    return g->values[block->output].name;
}

/* ---- the plan ------------------------------------------------------------------------------- */

static void test_last_convolution_takes_the_sum(void **state) {
    int x;
    bb_graph *g = start(&x);
    int a = conv(g, "a", x, 4, 4, 3), b = conv(g, "b", x, 4, 4, 1);
    bb_block_plan plan =
        plan_of(g, unary(g, BB_OP_RELU, "out", binary(g, BB_OP_ADD, "sum", a, b)), NULL);
    assert_int_equal(plan.n, 2);
    assert_int_equal(plan.blocks[0].n_in, 1);
    assert_string_equal(output_name(g, &plan.blocks[0]), "a");
    assert_int_equal(plan.blocks[1].kind, BB_BLOCK_CONV);
    assert_int_equal(plan.blocks[1].n_in, 2);
    assert_int_equal(plan.blocks[1].in[1], a);
    assert_string_equal(output_name(g, &plan.blocks[1]), "out");
    assert_string_equal(g->values[plan.blocks[1].pre_activation].name, "sum");
    assert_int_equal(plan.blocks[1].activation.kind, BB_ACTIVATION_CLIP);
    assert_true(plan.blocks[1].activation.lo == 0 && isinf(plan.blocks[1].activation.hi));
    bb_graph_destroy(g);
}

/* A sum that is used before its activation, and one whose convolution is used elsewhere. */
static void test_shared_values_are_not_fused_away(void **state) {
    int x;
    bb_graph *g = start(&x);
    int a = conv(g, "a", x, 4, 4, 3);
    int sum = binary(g, BB_OP_ADD, "sum", a, x);
    int relu = unary(g, BB_OP_RELU, "relu", sum);
    int b = conv(g, "b", relu, 4, 4, 1);
    bb_block_plan plan = plan_of(g, binary(g, BB_OP_ADD, "out", b, sum), NULL);
    assert_int_equal(plan.n, 3);
    assert_int_equal(plan.blocks[0].activation.kind, BB_ACTIVATION_NONE);
    assert_string_equal(output_name(g, &plan.blocks[0]), "sum");
    assert_int_equal(plan.blocks[1].kind, BB_BLOCK_ACTIVATION);
    assert_int_equal(plan.blocks[2].n_in, 2);
    bb_graph_destroy(g);
}

static void test_activations(void **state) {
    int x;
    bb_graph *g = start(&x);
    int a = conv(g, "a", x, 4, 4, 1);
    int gate = unary(g, BB_OP_SIGMOID, "gate", a);
    int silu = binary(g, BB_OP_MUL, "silu", a, gate);
    int b = unary(g, BB_OP_LEAKY_RELU, "leaky", conv(g, "b", silu, 4, 4, 1));
    bb_node_set_float(g, sg_last(g), "alpha", 0.125f);
    static const float slopes[4] = {0.25f, 0.5f, 0, 1};
    int in[2] = {conv(g, "c", b, 4, 4, 1), sg_floats(g, 3, (int64_t[]){4, 1, 1}, slopes)};
    int c = sg_node(g, BB_OP_PRELU, "prelu", 2, in);
    bb_block_plan plan =
        plan_of(g, unary(g, BB_OP_HARD_SWISH, "out", conv(g, "d", c, 4, 4, 1)), NULL);
    assert_int_equal(plan.n, 4);
    assert_int_equal(plan.blocks[0].activation.kind, BB_ACTIVATION_TABLE);
    assert_false(plan.blocks[0].activation.monotone);
    const bb_activation *act = &plan.blocks[0].activation;
    assert_true(fabs(act->function(2, act->alpha, act->beta) - 2 / (1 + exp(-2))) < 1e-12);
    assert_true(plan.blocks[1].activation.slopes[0] == 0.125f);
    assert_int_equal(plan.blocks[2].activation.n_slopes, 4);
    act = &plan.blocks[3].activation;
    assert_true(act->function(1, act->alpha, act->beta) == 1 * (1.0 / 6 + 0.5));
    bb_graph_destroy(g);
}

/* Reshape, Transpose, Reshape: a channel shuffle of two groups. */
static void test_channel_shuffle(void **state) {
    int x;
    bb_graph *g = start(&x);
    int64_t split[5] = {1, 2, 2, 6, 6}, joined[4] = {1, 4, 6, 6};
    int a = binary(g, BB_OP_RESHAPE, "split", x,
                   sg_constant(g, BB_DTYPE_I64, 1, (int64_t[]){5}, split));
    int b = unary(g, BB_OP_TRANSPOSE, "swap", a);
    bb_node_set_ints(g, sg_last(g), "perm", (int64_t[]){0, 2, 1, 3, 4}, 5);
    int c = binary(g, BB_OP_RESHAPE, "shuffled", b,
                   sg_constant(g, BB_DTYPE_I64, 1, (int64_t[]){4}, joined));
    bb_block_plan plan = plan_of(g, conv(g, "out", c, 4, 4, 1), NULL);
    assert_int_equal(plan.n, 2);
    assert_int_equal(plan.blocks[0].kind, BB_BLOCK_CHANNELS);
    assert_int_equal(plan.blocks[0].in[0], x);
    assert_int_equal(plan.blocks[0].n_channel_index, 4);
    assert_memory_equal(plan.blocks[0].channel_index, ((int32_t[]){0, 2, 1, 3}), 16);
    bb_graph_destroy(g);
}

static void test_split_and_gate(void **state) {
    int x;
    bb_graph *g = start(&x);
    int halves[2] = {bb_graph_add_value(g, "first", BB_DTYPE_F32, -1, NULL),
                     bb_graph_add_value(g, "second", BB_DTYPE_F32, -1, NULL)};
    int64_t sizes[2] = {1, 3};
    int in[2] = {x, sg_constant(g, BB_DTYPE_I64, 1, (int64_t[]){2}, sizes)};
    bb_graph_add_node(g, "split", BB_OP_SPLIT, 2, in, 2, halves);
    bb_node_set_int(g, sg_last(g), "axis", 1);
    int mean = unary(g, BB_OP_GLOBAL_AVERAGE_POOL, "mean", halves[1]);
    int gate = unary(g, BB_OP_SIGMOID, "gate", conv(g, "fc", mean, 3, 3, 1));
    int gated = binary(g, BB_OP_MUL, "gated", gate, halves[1]);
    int out = binary(g, BB_OP_CONCAT, "out", halves[0], gated);
    bb_node_set_int(g, sg_last(g), "axis", 1);
    bb_block_plan plan = plan_of(g, out, NULL);
    static const bb_block_kind kinds[] = {BB_BLOCK_CHANNELS,     BB_BLOCK_CHANNELS,
                                          BB_BLOCK_AVERAGE_POOL, BB_BLOCK_CONV,
                                          BB_BLOCK_MUL,          BB_BLOCK_CONCAT};
    assert_int_equal(plan.n, BB_COUNT(kinds));
    for (size_t i = 0; i < plan.n; i++)
        assert_int_equal(plan.blocks[i].kind, kinds[i]);
    assert_int_equal(plan.blocks[4].in[0], halves[1]); /* the image first, then its gate */
    bb_graph_destroy(g);
}

static void test_float_on_request_and_softmax(void **state) {
    int x;
    bb_graph *g = start(&x);
    int relu = unary(g, BB_OP_RELU, "relu", conv(g, "a", x, 4, 4, 1));
    int out = unary(g, BB_OP_SOFTMAX, "out", conv(g, "b", relu, 4, 4, 1));
    bb_node_set_int(g, sg_last(g), "axis", 1);
    bb_block_plan plan = plan_of(g, out, (bool[]){true, false, false, false});
    static const bb_block_kind kinds[] = {BB_BLOCK_FLOAT, BB_BLOCK_FLOAT, BB_BLOCK_CONV,
                                          BB_BLOCK_FLOAT};
    assert_int_equal(plan.n, 4);
    for (size_t i = 0; i < plan.n; i++)
        assert_int_equal(plan.blocks[i].kind, kinds[i]);
    assert_string_equal(plan.blocks[0].reason, "kept float as asked");
    assert_string_equal(plan.blocks[1].reason, "follows a float layer");
    assert_non_null(plan.blocks[3].reason);
    bb_graph_destroy(g);
}

static void test_unsupported_nodes_are_named(void **state) {
    int x;
    bb_error err;
    bb_block_plan plan;
    bb_graph *g = start(&x);
    sg_finish(g, unary(g, BB_OP_SQRT, "root_3", x));
    assert_int_equal(bb_lower_plan(g, NULL, &plan, &err), BB_STATUS_UNSUPPORTED);
    assert_non_null(strstr(err.message, "root_3"));
    assert_non_null(strstr(err.message, "Sqrt"));
    bb_graph_destroy(g);
    g = start(&x);
    int swapped = unary(g, BB_OP_TRANSPOSE, "swap", x);
    bb_node_set_ints(g, sg_last(g), "perm", (int64_t[]){0, 1, 3, 2}, 4);
    sg_finish(g, conv(g, "after_swap", swapped, 4, 4, 1));
    assert_int_equal(bb_lower_plan(g, NULL, &plan, &err), BB_STATUS_UNSUPPORTED);
    assert_non_null(strstr(err.message, "after_swap"));
    bb_graph_destroy(g);
}

/* ---- weights -------------------------------------------------------------------------------- */

/* A Gemm after Flatten reads its columns in NHWC order, with alpha applied and rows first. */
static void test_gemm_weights_follow_the_image(void **state) {
    bb_error err;
    bb_graph *g = bb_graph_create();
    int x = sg_input(g, "x", 4, (int64_t[]){1, 2, 1, 3});
    float w[12], b[2] = {1, 2}, got[12], bias[2];
    for (int i = 0; i < 12; i++)
        w[i] = (float)i;
    int in[3] = {unary(g, BB_OP_FLATTEN, "flat", x), sg_floats(g, 2, (int64_t[]){6, 2}, w),
                 sg_floats(g, 1, (int64_t[]){2}, b)};
    int out = sg_node(g, BB_OP_GEMM, "fc", 3, in);
    bb_node_set_float(g, sg_last(g), "alpha", 2);
    bb_node_set_float(g, sg_last(g), "beta", 0.5f);
    bb_block_plan plan = plan_of(g, out, NULL);
    assert_int_equal(plan.n, 2);
    assert_int_equal(plan.blocks[0].kind, BB_BLOCK_RESHAPE);
    bb_conv_shape shape;
    ok(bb_lower_conv_shape(g, &plan.blocks[1], &shape, &err), &err);
    assert_int_equal(shape.rows, 2);
    assert_int_equal(shape.depth, 6);
    ok(bb_lower_conv_weights(g, &plan.blocks[1], got, bias, &err), &err);
    for (int r = 0; r < 2; r++)
        for (int p = 0; p < 3; p++)
            for (int c = 0; c < 2; c++)
                assert_true(got[r * 6 + p * 2 + c] == 2 * w[(c * 3 + p) * 2 + r]);
    assert_true(bias[0] == 0.5f && bias[1] == 1);
    bb_graph_destroy(g);
}

/* ---- a whole model -------------------------------------------------------------------------- */

enum { SIDE = 6, C0 = 4, C1 = 4, PIXELS = SIDE * SIDE };

/* Weights that lie on the 4-bit grid already: (i*7 % 11 - 5)/16 is not odd, so codes are chosen
 * and the float numbers follow from them. */
typedef struct layer {
    uint8_t codes[C1 * 9 * C0];
    float scale[C1], bias[C1];
} layer;

static void make_layer(layer *l, int seed, uint32_t planes) {
    for (size_t i = 0; i < sizeof(l->codes); i++)
        l->codes[i] = (uint8_t)(((int)i * 13 + seed) % (1 << planes));
    for (int r = 0; r < C1; r++) {
        l->scale[r] = 0.01f * (float)(r + 1);
        l->bias[r] = 0.3f * (float)(r - 1);
    }
}

/* Real result of a 3x3 convolution with zero padding on NHWC numbers. */
static void real_conv(const layer *l, uint32_t planes, const double *in, double *out) {
    int last = (1 << planes) - 1;
    for (int y = 0; y < SIDE; y++)
        for (int x = 0; x < SIDE; x++)
            for (int r = 0; r < C1; r++) {
                double sum = 0;
                for (int t = 0; t < 9; t++) {
                    int yy = y + t / 3 - 1, xx = x + t % 3 - 1;
                    if (yy < 0 || xx < 0 || yy >= SIDE || xx >= SIDE)
                        continue;
                    for (int i = 0; i < C0; i++)
                        sum += in[(yy * SIDE + xx) * C0 + i] *
                               (2 * l->codes[(r * 9 + t) * C0 + i] - last);
                }
                out[(y * SIDE + x) * C1 + r] = sum * (double)l->scale[r] + (double)l->bias[r];
            }
}

static double on_grid(const bb_grid *grid, double x) {
    double last = ldexp(1, (int)grid->bits) - 1;
    double u = floor(x / (2 * (double)grid->step) + (last + grid->a0) / 2 + 0.5);
    u = fmin(fmax(u, 0), last);
    return (double)grid->step * (2 * u - last - grid->a0);
}

typedef struct fixture {
    bb_graph *graph;
    bb_block_plan plan;
    int x, relu, out;
    layer first, second;
} fixture;

/* conv a + ReLU (4 bits for conv b, 8 bits for the sum), conv b + sum of both. */
static void make_fixture(fixture *f) {
    f->graph = start(&f->x);
    f->relu = unary(f->graph, BB_OP_RELU, "relu", conv(f->graph, "a", f->x, C1, C0, 3));
    int b = conv(f->graph, "b", f->relu, C1, C1, 3);
    f->out = binary(f->graph, BB_OP_ADD, "out", b, f->relu);
    f->plan = plan_of(f->graph, f->out, NULL);
    assert_int_equal(f->plan.n, 2);
    make_layer(&f->first, 3, 8);
    make_layer(&f->second, 5, 4);
}

static void fill_profile(const fixture *f, bb_profile_quant *p, uint32_t bits, uint32_t planes) {
    bb_arena *arena = f->graph->arena;
    p->bits = (bb_bits){planes, bits};
    p->values = bb_arena_array(arena, f->graph->n_values, sizeof(*p->values));
    p->blocks = bb_arena_array(arena, 2, sizeof(*p->blocks));
    p->values[f->x] = (bb_value_quant){1, {{8, 0.5f, -255}}};
    p->values[f->relu] = (bb_value_quant){
        2, {{bits, 2000.0f / (float)(1 << bits), 1 - (1 << bits)}, {8, 8.0f, -255}}};
    p->blocks[0] =
        (bb_block_quant){.planes = 8, .weight_scale = f->first.scale, .bias = f->first.bias};
    p->blocks[1] = (bb_block_quant){.in_grid = {0, 1},
                                    .planes = planes,
                                    .weight_scale = f->second.scale,
                                    .bias = f->second.bias};
}

/* Every copy is made from the accumulator and the sum reads the wider one. */
static void test_model_computes_the_blocks(void **state) {
    bb_error err;
    fixture f;
    bb_profile_quant profiles[2];
    bb_model *model;
    make_fixture(&f);
    fill_profile(&f, &profiles[0], 4, 4);
    fill_profile(&f, &profiles[1], 2, 4);
    bb_block_codes codes[2] = {{C1, 9, C0, 8, f.first.codes, NULL},
                               {C1, 9, C1, 4, f.second.codes, NULL}};
    ok(bb_lower_float(f.graph, &f.plan, codes, profiles, 2, NULL, &model, &err), &err);
    assert_int_equal(model->n_nodes, 2);
    assert_int_equal(model->nodes[0].n_out, 2);
    assert_int_equal(model->nodes[1].n_in, 2);
    assert_int_equal(model->nodes[1].in[1], model->nodes[0].out[1]);
    assert_int_equal(model->profiles[0].tensors[model->nodes[0].out[1]].bits, 8);
    for (size_t p = 0; p < 2; p++) {
        bb_engine *engine;
        bb_context *context;
        bb_engine_options options;
        bb_engine_options_init(&options);
        options.profile = p;
        ok(bb_engine_create(model, &options, &engine, &err), &err);
        ok(bb_context_create(engine, &context, &err), &err);
        uint8_t pixels[PIXELS * C0];
        double real[PIXELS * C0], few[PIXELS * C1], wide[PIXELS * C1], out[PIXELS * C1];
        float got[PIXELS * C1];
        for (int i = 0; i < PIXELS * C0; i++)
            real[i] = pixels[i] = (uint8_t)(i * 37 % 256);
        real_conv(&f.first, 8, real, wide);
        for (int i = 0; i < PIXELS * C1; i++) {
            few[i] = on_grid(&profiles[p].values[f.relu].grids[0], fmax(wide[i], 0));
            wide[i] = on_grid(&profiles[p].values[f.relu].grids[1], fmax(wide[i], 0));
        }
        real_conv(&f.second, 4, few, out);
        ok(bb_context_run(context, (const void *[]){pixels}, (void *[]){got}, &err), &err);
        bb_tensor_desc desc;
        ok(bb_engine_output(engine, 0, &desc, &err), &err);
        for (int i = 0; i < PIXELS * C1; i++) {
            int at = desc.layout == BB_LAYOUT_NCHW ? i % C1 * PIXELS + i / C1 : i;
            assert_true(fabs((double)got[at] - (out[i] + wide[i])) < 1e-4 * (1 + fabs(out[i])));
        }
        bb_context_destroy(context);
        bb_engine_destroy(engine);
    }
    bb_model_destroy(model);
    bb_graph_destroy(f.graph);
}

/* A mean folded into the first layer: per valid tap, so that the padding adds nothing. */
static void test_tap_constants(void **state) {
    bb_error err;
    fixture f;
    bb_profile_quant profile;
    bb_model *model;
    make_fixture(&f);
    fill_profile(&f, &profile, 4, 4);
    float taps[9 * C1];
    for (int i = 0; i < 9 * C1; i++)
        taps[i] = -0.5f * f.first.scale[i % C1] * (float)(i + 1);
    profile.blocks[0].tap_bias = taps;
    bb_block_codes codes[2] = {{C1, 9, C0, 8, f.first.codes, NULL},
                               {C1, 9, C1, 4, f.second.codes, NULL}};
    ok(bb_lower_float(f.graph, &f.plan, codes, &profile, 1, NULL, &model, &err), &err);
    const int32_t *add = model->profiles[0].convs[0].tap_add;
    for (int i = 0; i < 9 * C1; i++)
        assert_int_equal(add[i], -(i + 1));
    bb_model_destroy(model);
    bb_graph_destroy(f.graph);
}

static void test_profiles_must_agree(void **state) {
    bb_error err;
    fixture f;
    bb_profile_quant profiles[2];
    bb_model *model;
    make_fixture(&f);
    fill_profile(&f, &profiles[0], 4, 4);
    fill_profile(&f, &profiles[1], 4, 4);
    profiles[1].blocks[1].in_grid[1] = 0;
    bb_block_codes codes[2] = {{C1, 9, C0, 8, f.first.codes, NULL},
                               {C1, 9, C1, 4, f.second.codes, NULL}};
    assert_int_equal(bb_lower_float(f.graph, &f.plan, codes, profiles, 2, NULL, &model, &err),
                     BB_STATUS_INVALID_ARGUMENT);
    assert_int_equal(bb_lower_float(f.graph, &f.plan, codes, profiles, 0, NULL, &model, &err),
                     BB_STATUS_INVALID_ARGUMENT);
    bb_graph_destroy(f.graph);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_last_convolution_takes_the_sum),
        cmocka_unit_test(test_shared_values_are_not_fused_away),
        cmocka_unit_test(test_activations),
        cmocka_unit_test(test_channel_shuffle),
        cmocka_unit_test(test_split_and_gate),
        cmocka_unit_test(test_float_on_request_and_softmax),
        cmocka_unit_test(test_unsupported_nodes_are_named),
        cmocka_unit_test(test_gemm_weights_follow_the_image),
        cmocka_unit_test(test_model_computes_the_blocks),
        cmocka_unit_test(test_tap_constants),
        cmocka_unit_test(test_profiles_must_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
