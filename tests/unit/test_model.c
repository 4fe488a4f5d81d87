/* SPDX-License-Identifier: Apache-2.0 */
#include "unit.h"

#include "model/model.h"
#include "sample_model.h"
#include <stdlib.h>
#include <string.h>

enum { HEIGHT = 8, WIDTH = 6, COLOURS = 3, FILTERS = 4, CLASSES = 5 };

/* One requantizer for all channels: u' = clamp((Z + 2^7) >> 8). */
static bb_requant *linear(bb_model *model, bb_requant *r, bool second) {
    *r = (bb_requant){.kind = BB_REQUANT_LINEAR, .channels = 1};
    int32_t *mult = bb_arena_array(model->arena, 2, sizeof(*mult));
    int64_t *add = bb_arena_array(model->arena, 1, sizeof(*add));
    uint8_t *shift = bb_arena_array(model->arena, 1, 1);
    mult[0] = mult[1] = 1;
    add[0] = 128;
    shift[0] = 8;
    r->mult = mult;
    r->mult2 = second ? mult + 1 : NULL;
    r->add = add;
    r->shift = shift;
    return r;
}

static void float_requant(bb_model *model, bb_requant *r) {
    *r = (bb_requant){.kind = BB_REQUANT_FLOAT, .channels = 1};
    float *scale = bb_arena_array(model->arena, 2, sizeof(*scale));
    scale[0] = 0.5f;
    r->scale = scale;
    r->bias = scale + 1;
}

static const bb_planes *random_planes(bb_model *model, uint32_t rows, uint32_t taps, uint32_t depth,
                                      uint32_t count) {
    bb_rng rng;
    bb_rng_seed(&rng, rows + taps * depth + count);
    size_t n = (size_t)rows * taps * depth;
    uint8_t *codes = bb_alloc(n);
    for (size_t i = 0; i < n; i++)
        codes[i] = (uint8_t)bb_rng_below(&rng, UINT64_C(1) << count);
    const bb_planes *planes = bb_planes_from_codes(model->arena, codes, rows, taps, depth, count);
    bb_free(codes);
    assert_non_null(planes);
    return planes;
}

enum { IMAGE, CONV1, POOLED, SUM, MEAN, FLAT, LOGITS, N_TENSORS };

/* image -conv3x3-> -maxpool-> , + pooled -> -global mean-> -flatten-> -fc-> logits; 2 profiles. */
static bb_model *small_model(void) {
    bb_model *m = bb_model_create();
    const int64_t open[] = {-1, -1, -1, COLOURS}, maps[] = {-1, -1, -1, FILTERS},
                  flat[] = {-1, FILTERS}, classes[] = {-1, CLASSES};
    bb_model_add_tensor(m, "image", BB_TENSOR_CODE, 4, open);
    bb_model_add_tensor(m, "conv1", BB_TENSOR_CODE, 4, maps);
    bb_model_add_tensor(m, "pooled", BB_TENSOR_CODE, 4, maps);
    bb_model_add_tensor(m, "sum", BB_TENSOR_CODE, 4, maps);
    bb_model_add_tensor(m, "mean", BB_TENSOR_CODE, 4, maps);
    bb_model_add_tensor(m, "flat", BB_TENSOR_CODE, 2, flat);
    bb_model_add_tensor(m, "logits", BB_TENSOR_FLOAT, 2, classes);
    bb_geometry three = {{3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}, false, false};
    bb_geometry two = {{2, 2}, {2, 2}, {1, 1}, {0, 0}, {0, 0}, false, false};
    bb_geometry one = {{1, 1}, {1, 1}, {1, 1}, {0, 0}, {0, 0}, false, false};
    bb_model_node *n =
        bb_model_add_node(m, "conv", BB_NODE_CONV, 1, (int[]){IMAGE}, 1, (int[]){CONV1});
    n->geometry = three;
    n->groups = 1;
    n->planes = random_planes(m, FILTERS, 9, COLOURS, 4);
    n = bb_model_add_node(m, "pool", BB_NODE_MAX_POOL, 1, (int[]){CONV1}, 1, (int[]){POOLED});
    n->geometry = two;
    bb_model_add_node(m, "add", BB_NODE_ADD, 2, (int[]){POOLED, POOLED}, 1, (int[]){SUM});
    bb_model_add_node(m, "mean", BB_NODE_AVERAGE_POOL, 1, (int[]){SUM}, 1, (int[]){MEAN});
    bb_model_add_node(m, "flatten", BB_NODE_RESHAPE, 1, (int[]){MEAN}, 1, (int[]){FLAT});
    n = bb_model_add_node(m, "fc", BB_NODE_CONV, 1, (int[]){FLAT}, 1, (int[]){LOGITS});
    n->geometry = one;
    n->groups = 1;
    n->planes = random_planes(m, CLASSES, 1, FILTERS, 4);
    bb_model_add_input(m, IMAGE);
    bb_model_add_output(m, LOGITS);
    for (uint32_t bits = 4; bits >= 2; bits -= 2) {
        bb_profile *p = bb_model_add_profile(m, bits, bits);
        for (int t = 0; t < N_TENSORS - 1; t++)
            p->tensors[t] = (bb_tensor_params){.bits = t == IMAGE ? 8 : bits, .step = 0.5f};
        linear(m, &p->tensors[CONV1].requant, false);
        linear(m, &p->tensors[SUM].requant, true);
        linear(m, &p->tensors[MEAN].requant, false);
        float_requant(m, &p->tensors[LOGITS].requant);
        p->convs[0].planes = p->convs[5].planes = bits;
    }
    return m;
}

static void assert_valid(const bb_model *m) {
    bb_error err = {0};
    if (bb_model_validate(m, &err) != BB_STATUS_OK)
        fail_msg("%s", err.message);
}

static void assert_invalid(const bb_model *m, const char *part) {
    bb_error err = {0};
    assert_int_not_equal(bb_model_validate(m, &err), BB_STATUS_OK);
    if (!strstr(err.message, part))
        fail_msg("'%s' does not mention '%s'", err.message, part);
}

static void test_planes_hold_the_codes(void **state) {
    bb_arena *arena = bb_arena_create();
    bb_rng rng;
    bb_rng_seed(&rng, 1);
    for (uint32_t bits = 1; bits <= 8; bits++) {
        enum { ROWS = 3, TAPS = 5, DEPTH = 27, SIZE = ROWS * TAPS * DEPTH };
        uint8_t codes[SIZE];
        int16_t levels[SIZE];
        for (size_t i = 0; i < SIZE; i++)
            codes[i] = (uint8_t)bb_rng_below(&rng, UINT64_C(1) << bits);
        const bb_planes *planes = bb_planes_from_codes(arena, codes, ROWS, TAPS, DEPTH, bits);
        assert_true(bb_planes_native(planes));
        assert_int_equal(planes->words[0] & 1, codes[0] >> (bits - 1));
        for (uint32_t used = 1; used <= bits; used++) {
            assert_int_equal(bb_planes_levels(planes, used, levels, NULL), BB_STATUS_OK);
            for (size_t i = 0; i < SIZE; i++)
                assert_int_equal(levels[i], 2 * (codes[i] >> (bits - used)) - ((1 << used) - 1));
        }
        assert_int_equal(bb_planes_levels(planes, bits + 1, levels, NULL),
                         BB_STATUS_INVALID_ARGUMENT);
    }
    bb_arena_destroy(arena);
}

static void test_ternary_planes(void **state) {
    bb_arena *arena = bb_arena_create();
    const uint8_t codes[] = {0, 1, 2, 3};
    int16_t levels[4];
    const bb_planes *planes =
        bb_planes_from_weighted_codes(arena, codes, 1, 1, 4, 2, (int16_t[]){1, 1});
    assert_false(bb_planes_native(planes));
    assert_int_equal(bb_planes_levels(planes, 2, levels, NULL), BB_STATUS_OK);
    assert_memory_equal(levels, ((int16_t[]){-2, 0, 0, 2}), sizeof(levels));
    assert_int_equal(bb_planes_levels(planes, 1, levels, NULL), BB_STATUS_UNSUPPORTED);
    bb_arena_destroy(arena);
}

static void test_shapes_bind(void **state) {
    bb_model *m = small_model();
    assert_valid(m);
    bb_shapes shapes;
    bb_error err;
    const int32_t dims[1][4] = {{2, HEIGHT, WIDTH, 0}};
    assert_int_equal(bb_model_bind(m, dims, &shapes, &err), BB_STATUS_OK);
    assert_memory_equal(shapes.dims[CONV1], ((int32_t[]){2, 8, 6, FILTERS}), 16);
    assert_memory_equal(shapes.dims[POOLED], ((int32_t[]){2, 4, 3, FILTERS}), 16);
    assert_memory_equal(shapes.dims[LOGITS], ((int32_t[]){2, 1, 1, CLASSES}), 16);
    assert_int_equal(bb_node_macs(m, &m->nodes[0], &shapes), 2 * 8 * 6 * 4 * 27);
    assert_int_equal(bb_node_macs(m, &m->nodes[1], &shapes), 0);
    bb_shapes_free(&shapes);
    assert_int_equal(bb_model_bind(m, NULL, &shapes, &err), BB_STATUS_INVALID_ARGUMENT);
    assert_non_null(strstr(err.message, "height"));
    const int32_t tiny[1][4] = {{1, 1, 6, 3}}, grey[1][4] = {{1, 8, 8, 1}};
    assert_int_equal(bb_model_bind(m, tiny, &shapes, &err), BB_STATUS_BAD_FILE);
    assert_int_equal(bb_model_bind(m, grey, &shapes, &err), BB_STATUS_INVALID_ARGUMENT);
    const int32_t huge[1][4] = {{1, 1 << 20, 1 << 20, 3}};
    assert_int_equal(bb_model_bind(m, huge, &shapes, &err), BB_STATUS_LIMIT);
    assert_non_null(strstr(err.message, "tensor 'image': 1x1048576x1048576x3 is too large"));
    m->nodes[3].geometry = m->nodes[5].geometry; /* 1x1: the mean keeps its size */
    assert_int_equal(bb_model_bind(m, dims, &shapes, &err), BB_STATUS_BAD_FILE);
    assert_non_null(strstr(err.message, "node 'flatten': flattens 4x3x4 to 4 values"));
    bb_model_destroy(m);
}

/* {kernel, stride, dilation, begin, end, ceil, in -> out}; values of the ONNX operator texts. */
static void test_window_sizes(void **state) {
    static const struct {
        int32_t k, s, d, b, e;
        bool ceil;
        int32_t in, out;
    } cases[] = {
        {3, 1, 1, 1, 1, false, 7, 7}, {3, 2, 1, 1, 1, false, 7, 4}, {3, 2, 1, 0, 0, true, 4, 2},
        {3, 2, 1, 0, 0, true, 5, 2},  {2, 2, 1, 0, 0, true, 5, 3},  {2, 2, 1, 1, 1, true, 4, 3},
        {1, 2, 1, 0, 0, true, 2, 1}, /* a second window would start beyond the image */
        {2, 3, 1, 1, 1, true, 5, 2},  {3, 1, 2, 0, 0, false, 5, 1}, {3, 1, 2, 0, 0, false, 4, 0},
        {5, 1, 1, 0, 0, true, 4, 0},  {0, 0, 0, 0, 0, false, 9, 1}, {3, 2, 1, 1, 0, false, 6, 3},
    };
    for (size_t i = 0; i < BB_COUNT(cases); i++) {
        bb_geometry g = {{cases[i].k, 1},
                         {cases[i].s, 1},
                         {cases[i].d, 1},
                         {cases[i].b, 0},
                         {cases[i].e, 0},
                         cases[i].ceil,
                         false};
        if (bb_geometry_out(&g, 0, cases[i].in) != cases[i].out)
            fail_msg("case %zu: %d", i, bb_geometry_out(&g, 0, cases[i].in));
    }
}

static void test_pool_windows_need_a_valid_tap(void **state) {
    bb_model *m = small_model();
    bb_geometry *g = &m->nodes[1].geometry;
    *g = (bb_geometry){{2, 2}, {1, 1}, {3, 1}, {1, 0}, {1, 0}, false, false};
    bb_shapes shapes;
    const int32_t high[1][4] = {{1, 3, 2, 3}}, low[1][4] = {{1, 2, 2, 3}};
    bb_error err;
    assert_int_equal(bb_model_bind(m, high, &shapes, &err), BB_STATUS_OK);
    bb_shapes_free(&shapes);
    assert_int_equal(bb_model_bind(m, low, &shapes, &err), BB_STATUS_BAD_FILE); /* taps -1, 2 */
    assert_non_null(strstr(err.message, "padding"));
    bb_model_destroy(m);
}

static void test_profiles_are_found(void **state) {
    bb_model *m = small_model();
    size_t index = 9;
    bb_error err;
    assert_int_equal(bb_model_find_profile(m, 2, 0, &index, &err), BB_STATUS_OK);
    assert_int_equal(index, 1);
    assert_int_equal(bb_model_find_profile(m, 0, 0, &index, &err), BB_STATUS_OK);
    assert_int_equal(index, 0);
    assert_int_equal(bb_model_find_profile(m, 4, 2, &index, &err), BB_STATUS_NOT_FOUND);
    assert_string_equal(err.message, "the model has no profile w4a2; it has: w4a4, w2a2");
    bb_model_destroy(m);
}

static void test_structure_is_checked(void **state) {
    bb_model *m = small_model();
    bb_model_node *conv = &m->nodes[0], *pool = &m->nodes[1], *add = &m->nodes[2];
    bb_planes planes = *conv->planes;
#define BREAK(field, value, message)                                                               \
    do {                                                                                           \
        __typeof__(field) kept = (field);                                                          \
        (field) = (value);                                                                         \
        assert_invalid(m, message);                                                                \
        (field) = kept;                                                                            \
    } while (0)
    BREAK(m->n_profiles, 0, "no profiles");
    BREAK(m->n_outputs, 0, "no outputs");
    BREAK(m->tensors[SUM].name, "\xff", "not UTF-8");
    BREAK(m->tensors[SUM].name, "\xed\xa0\x80", "not UTF-8");
    BREAK(m->tensors[SUM].rank, 3, "tensor 'sum': rank 3");
    BREAK(m->tensors[SUM].dims[3], -1, "tensor 'sum': dimension");
    BREAK(m->inputs[0], N_TENSORS, "model input");
    BREAK(m->outputs[0], IMAGE, "model output");
    BREAK(conv->kind, (bb_node_kind)99, "node 'conv': unknown kind");
    BREAK(conv->n_in, 0, "wrong number of inputs");
    BREAK(conv->in[0], SUM, "no earlier node");
    BREAK(conv->in[0], -1, "no earlier node");
    BREAK(add->out[0], CONV1, "made before");
    BREAK(m->tensors[POOLED].kind, BB_TENSOR_FLOAT, "node 'pool': an output of the wrong kind");
    BREAK(conv->groups, 0, "groups");
    BREAK(conv->groups, 2, "groups");
    BREAK(conv->geometry.stride[1], 0, "out of range");
    BREAK(conv->geometry.kernel[1], 4, "do not fit");
    BREAK(conv->geometry.ceil_mode, true, "pooling options");
    BREAK(pool->geometry.kernel[0], 0, "out of range");
    BREAK(conv->planes, NULL, "planes are needed");
    BREAK(m->tensors[POOLED].dims[3], FILTERS + 1, "differ in channels");
    conv->planes = &planes;
    BREAK(planes.count, 9, "planes are needed");
    BREAK(planes.row_words, 2, "wrong size");
    BREAK(planes.depth, 4, "do not fit");
    BREAK(planes.weight[1], 0, "plane weight");
    BREAK(planes.weight[1], 32760, "too large");
    uint64_t *words = (uint64_t *)(uintptr_t)planes.words;
    BREAK(words[planes.row_words - 1], words[planes.row_words - 1] | UINT64_C(1) << 63,
          "unused bits");
    assert_valid(m);
    bb_model_destroy(m);
}

static void test_profile_numbers_are_checked(void **state) {
    bb_model *m = small_model();
    bb_profile *p = &m->profiles[1];
    bb_requant *conv = &p->tensors[CONV1].requant, *sum = &p->tensors[SUM].requant;
    p->weight_bits = p->activation_bits = 4;
    assert_invalid(m, "twice");
    p->weight_bits = p->activation_bits = 2;
    BREAK(p->tensors[CONV1].bits, 0, "profile 'w2a2': tensor 'conv1': bits");
    BREAK(p->tensors[CONV1].bits, 17, "bits, step or a0");
    BREAK(p->tensors[CONV1].step, 0, "bits, step or a0");
    BREAK(p->tensors[CONV1].a0, 65536, "bits, step or a0");
    BREAK(p->tensors[POOLED].a0, 1, "another grid");
    BREAK(p->tensors[IMAGE].bits, 9, "at most 8 bits");
    BREAK(p->convs[0].planes, 0, "weight planes");
    BREAK(p->convs[0].planes, 5, "weight planes");
    BREAK(conv->kind, BB_REQUANT_NONE, "missing");
    BREAK(conv->kind, BB_REQUANT_FLOAT, "another kind");
    BREAK(conv->channels, 3, "number of channels");
    BREAK(conv->mult, NULL, "incomplete");
    BREAK(conv->mult2, conv->mult, "incomplete");
    BREAK(sum->mult2, NULL, "incomplete");
    BREAK(conv->neg_mult, conv->mult, "second slope");
    BREAK(*(int32_t *)(uintptr_t)conv->mult, 1 << 22, "requantizer could overflow");
    BREAK(*(int64_t *)(uintptr_t)conv->add, INT64_C(1) << 53, "requantizer could overflow");
    BREAK(*(int64_t *)(uintptr_t)conv->add, INT64_MIN, "requantizer could overflow");
    BREAK(*(uint8_t *)(uintptr_t)conv->shift, 47, "shift");
    BREAK(p->tensors[POOLED].requant.kind, BB_REQUANT_LINEAR, "where none belongs");
    BREAK(p->tensors[IMAGE].requant.kind, BB_REQUANT_LINEAR, "where none belongs");
    assert_valid(m);
    bb_model_destroy(m);
}

static void test_thresholds_and_tables_are_checked(void **state) {
    bb_model *m = small_model();
    bb_tensor_params *t = &m->profiles[1].tensors[CONV1];
    int32_t steps[] = {-5, 0, 7};
    uint8_t rising = 1;
    uint16_t table[4] = {0, 1, 2, 3};
    bb_requant linear_one = t->requant;
    t->requant = (bb_requant){
        .kind = BB_REQUANT_THRESHOLDS, .channels = 1, .thresholds = steps, .rising = &rising};
    assert_valid(m);
    BREAK(rising, 0, "not in order");
    BREAK(rising, 2, "direction");
    t->requant.thresholds = NULL;
    assert_invalid(m, "missing");
    t->requant = linear_one;
    t->requant.kind = BB_REQUANT_INDEXED;
    t->requant.index_bits = 2;
    t->requant.table = table;
    assert_valid(m);
    BREAK(table[3], 4, "above the last");
    BREAK(t->requant.index_bits, 13, "table");
    m->profiles[1].tensors[SUM].requant = (bb_requant){
        .kind = BB_REQUANT_THRESHOLDS, .channels = 1, .thresholds = steps, .rising = &rising};
    assert_invalid(m, "one plain operand");
    bb_model_destroy(m);
}

/* A 1x1 convolution of n inputs, all weights +127.5*2, at the edge of 2^31. */
static bb_model *wide_model(uint32_t n, const bb_planes **planes) {
    bb_model *m = bb_model_create();
    const int64_t in[] = {1, n}, out[] = {1, 1};
    bb_model_add_tensor(m, "x", BB_TENSOR_CODE, 2, in);
    bb_model_add_tensor(m, "y", BB_TENSOR_CODE, 2, out);
    bb_model_node *node = bb_model_add_node(m, "fc", BB_NODE_CONV, 1, (int[]){0}, 1, (int[]){1});
    uint8_t *codes = bb_alloc(n);
    memset(codes, 255, n);
    node->geometry = (bb_geometry){{1, 1}, {1, 1}, {1, 1}, {0, 0}, {0, 0}, false, false};
    node->groups = 1;
    *planes = node->planes = bb_planes_from_codes(m->arena, codes, 1, 1, n, 8);
    bb_free(codes);
    bb_model_add_input(m, 0);
    bb_model_add_output(m, 1);
    bb_profile *p = bb_model_add_profile(m, 8, 8);
    p->tensors[0] = p->tensors[1] = (bb_tensor_params){.bits = 8, .step = 1};
    linear(m, &p->tensors[1].requant, false);
    p->convs[0].planes = 8;
    return m;
}

static void test_accumulator_bound_is_exact(void **state) {
    const bb_planes *planes;
    bb_model *m = wide_model(33025, &planes); /* paper.md 9.2: safe up to N = 33025 */
    assert_valid(m);
    m->profiles[0].tensors[0].a0 = 1;
    assert_invalid(m, "output channel 0: its sum does not fit 32 bits");
    /* With half the weights -255 the sums of positive and negative terms cancel nothing: the bound
     * is over all inputs. But a zero weight grid offset may make weights small. */
    m->profiles[0].tensors[0].a0 = 255;
    assert_invalid(m, "does not fit");
    int32_t offset = -255;
    m->profiles[0].convs[0].weight_offset = &offset;
    assert_valid(m); /* b + o = 0 everywhere, which only the exact bound sees */
    int32_t tap = INT32_MAX;
    m->profiles[0].convs[0].tap_add = &tap;
    assert_valid(m);
    offset = -254;   /* now b + o = 1 */
    assert_valid(m); /* a - a0 in -510..0 cannot push the sum up */
    m->profiles[0].tensors[0].a0 = -255;
    assert_invalid(m, "does not fit");
    offset = 40000;
    assert_invalid(m, "16 bits");
    bb_model_destroy(m);
    m = wide_model(33026, &planes);
    assert_invalid(m, "does not fit");
    bb_model_destroy(m);
}

/* Any set of taps may be the valid one, so terms of opposite sign must not cancel. */
static void test_accumulator_bound_covers_every_border(void **state) {
    bb_model *m = small_model();
    int32_t taps[9 * FILTERS] = {0};
    m->profiles[0].convs[0].tap_add = taps;
    static const int32_t terms[] = {1 << 30, -(1 << 30)};
    for (int i = 0; i < 2; i++) {
        taps[0] = taps[FILTERS] = terms[i];
        taps[2 * FILTERS] = terms[1 - i];
        assert_invalid(m, "output channel 0: its sum does not fit");
        taps[FILTERS] = 0;
        assert_valid(m);
    }
    bb_model_destroy(m);
}

static void test_products_and_sums_are_bounded(void **state) {
    bb_model *m = small_model();
    for (size_t i = 0; i < m->n_profiles; i++) {
        bb_tensor_params *t = m->profiles[i].tensors;
        t[CONV1].bits = t[POOLED].bits = t[SUM].bits = 16;
    }
    assert_valid(m);
    bb_geometry *mean = &m->nodes[3].geometry;
    *mean = m->nodes[5].geometry;
    mean->kernel[0] = mean->kernel[1] = 181; /* 181*181*65535 < 2^31 <= 181*182*65535 */
    assert_valid(m);
    mean->kernel[1] = 182;
    assert_invalid(m, "sum over its window");
    mean->kernel[1] = 1;
    m->nodes[2].kind = BB_NODE_MUL;
    for (size_t i = 0; i < m->n_profiles; i++)
        linear(m, &m->profiles[i].tensors[SUM].requant, false);
    assert_invalid(m, "a product does not fit");
    bb_model_destroy(m);
}

static void test_tables_of_nodes_are_checked(void **state) {
    bb_model *m = sample_model();
    assert_valid(m);
    int32_t *index = (int32_t *)(uintptr_t)m->nodes[4].channel_index;
    BREAK(index[3], S_CHANNELS, "node 'shuffle': a channel index");
    BREAK(index[3], -1, "node 'shuffle': a channel index");
    BREAK(m->tensors[S_JOINED].dims[3], 2 * S_CHANNELS - 1, "do not add up");
    float *table = (float *)(uintptr_t)m->nodes[12].float_weights;
    BREAK(table[7], NAN, "node 'fconv': a float table");
    BREAK(m->nodes[12].n_float_weights, 3, "a float table of a wrong size");
    BREAK(m->nodes[9].resize_factor[0], 0, "resize factor");
    BREAK(m->nodes[13].float_op, (bb_float_op)17, "unknown float operation");
    BREAK(m->nodes[13].alpha, NAN, "not a number");
    float *scale = (float *)(uintptr_t)m->profiles[0].tensors[S_REAL].requant.scale;
    BREAK(scale[0], INFINITY, "not finite");
    BREAK(m->profiles[0].tensors[S_REAL].requant.scale2, scale, "without an operand");
    assert_valid(m);
    bb_model_destroy(m);
}

static void test_requantizer_bound_uses_the_weights(void **state) {
    const bb_planes *planes;
    bb_model *m = wide_model(33025, &planes);
    int32_t *mult = (int32_t *)(uintptr_t)m->profiles[0].tensors[1].requant.mult;
    int64_t *add = (int64_t *)(uintptr_t)m->profiles[0].tensors[1].requant.add;
    mult[0] = (1 << 22) - 1;
    int64_t p = INT64_C(33025) * 255 * 255 * mult[0];
    add[0] = -(BB_MAX_T - 1 - p);
    assert_valid(m);
    add[0]--;
    assert_invalid(m, "requantizer could overflow");
    bb_model_destroy(m);
}

static void test_global_mean_is_bounded_when_bound(void **state) {
    bb_model *m = small_model();
    int64_t *add = (int64_t *)(uintptr_t)m->profiles[1].tensors[MEAN].requant.add;
    add[0] = INT64_C(1) << 45;
    assert_valid(m);
    bb_shapes shapes;
    bb_error err;
    const int32_t small[1][4] = {{1, 20, 20, 3}}, large[1][4] = {{1, 40, 40, 3}};
    assert_int_equal(bb_model_bind(m, small, &shapes, &err), BB_STATUS_OK);
    bb_shapes_free(&shapes);
    assert_int_equal(bb_model_bind(m, large, &shapes, &err), BB_STATUS_LIMIT);
    assert_non_null(strstr(err.message, "node 'mean'"));
    bb_model_destroy(m);
}

static void test_buffers_alive_together_do_not_overlap(void **state) {
    bb_model *m = small_model();
    bb_shapes shapes;
    bb_memory_plan plan;
    bb_error err;
    const int32_t dims[1][4] = {{1, HEIGHT, WIDTH, 0}};
    assert_int_equal(bb_model_bind(m, dims, &shapes, &err), BB_STATUS_OK);
    assert_int_equal(bb_model_plan_memory(m, 0, &shapes, &plan, &err), BB_STATUS_OK);
    /* first and last node of every tensor, by hand; conv1 passes to the pool */
    static const int life[N_TENSORS][2] = {{-1, 0}, {0, 0}, {0, 2}, {2, 3}, {3, 5}, {3, 5}, {5, 6}};
    size_t sum = 0;
    assert_true(plan.passes[CONV1] && !plan.passes[POOLED]);
    assert_int_equal(plan.passing_total, (plan.bytes[CONV1] + 63) / 64 * 64);
    for (int a = 0; a < N_TENSORS; a++) {
        if (plan.passes[a])
            continue;
        assert_int_equal(plan.offset[a] % 64, 0);
        assert_true(plan.offset[a] + plan.bytes[a] <= plan.total);
        sum += (plan.bytes[a] + 63) / 64 * 64;
        for (int b = 0; b < a; b++) {
            bool together = life[a][0] <= life[b][1] && life[b][0] <= life[a][1];
            bool apart = plan.offset[a] + plan.bytes[a] <= plan.offset[b] ||
                         plan.offset[b] + plan.bytes[b] <= plan.offset[a];
            if (together && !plan.passes[b] && !(a == FLAT && b == MEAN))
                assert_true(apart);
        }
    }
    assert_int_equal(plan.offset[FLAT], plan.offset[MEAN]);
    assert_int_equal(plan.bytes[LOGITS], CLASSES * sizeof(float));
    assert_true(plan.total < sum);
    bb_memory_plan_free(&plan);
    bb_shapes_free(&shapes);
    bb_model_destroy(m);
}

/* What somebody else sees too is a tensor of the arena, as are the outputs of a convolution one of
 * which is. */
static void test_only_pools_let_tensors_pass(void **state) {
    bb_model *m = small_model();
    bb_shapes shapes;
    bb_memory_plan plan;
    const int32_t dims[1][4] = {{1, HEIGHT, WIDTH, 0}};
    bb_model_add_output(m, CONV1);
    assert_int_equal(bb_model_bind(m, dims, &shapes, NULL), BB_STATUS_OK);
    assert_int_equal(bb_model_plan_memory(m, 0, &shapes, &plan, NULL), BB_STATUS_OK);
    assert_false(plan.passes[CONV1]);
    assert_true(plan.passing_total == 0 && plan.offset[CONV1] != plan.offset[POOLED]);
    bb_memory_plan_free(&plan);
    m->n_outputs--;
    ((bb_model_node *)(uintptr_t)&m->nodes[1])->geometry.kernel[0] = 0; /* global: all rows */
    assert_int_equal(bb_model_plan_memory(m, 0, &shapes, &plan, NULL), BB_STATUS_OK);
    assert_false(plan.passes[CONV1]);
    bb_memory_plan_free(&plan);
    bb_shapes_free(&shapes);
    bb_model_destroy(m);
}

/* image -> a, b (REQUANT), c (REQUANT, read twice) -> joined; a and b lie inside it, c does not. */
static void test_concat_inputs_lie_in_its_output(void **state) {
    enum { IMAGE_IN, A, B, C, JOINED, OTHER, N };
    const int64_t dims[] = {1, 4, 5, 3}, nine[] = {1, 4, 5, 9};
    bb_model *m = bb_model_create();
    bb_shapes shapes;
    bb_memory_plan plan;
    bb_model_add_tensor(m, "image", BB_TENSOR_CODE, 4, dims);
    bb_model_add_tensor(m, "a", BB_TENSOR_CODE, 4, dims);
    bb_model_add_tensor(m, "b", BB_TENSOR_CODE, 4, dims);
    bb_model_add_tensor(m, "c", BB_TENSOR_CODE, 4, dims);
    bb_model_add_tensor(m, "joined", BB_TENSOR_CODE, 4, nine);
    bb_model_add_tensor(m, "other", BB_TENSOR_CODE, 4, dims);
    bb_model_add_node(m, "a", BB_NODE_REQUANT, 1, (int[]){IMAGE_IN}, 1, (int[]){A});
    bb_model_add_node(m, "b", BB_NODE_REQUANT, 1, (int[]){IMAGE_IN}, 1, (int[]){B});
    bb_model_add_node(m, "c", BB_NODE_REQUANT, 1, (int[]){IMAGE_IN}, 1, (int[]){C});
    bb_model_add_node(m, "join", BB_NODE_CONCAT, 3, (int[]){A, C, B}, 1, (int[]){JOINED});
    bb_model_add_node(m, "other", BB_NODE_REQUANT, 1, (int[]){C}, 1, (int[]){OTHER});
    bb_model_add_input(m, IMAGE_IN);
    bb_model_add_output(m, JOINED);
    bb_model_add_output(m, OTHER);
    bb_profile *profile = bb_model_add_profile(m, 4, 4);
    for (int t = 0; t < N; t++)
        profile->tensors[t].bits = 12;
    assert_int_equal(bb_model_bind(m, NULL, &shapes, NULL), BB_STATUS_OK);
    assert_int_equal(bb_model_plan_memory(m, 0, &shapes, &plan, NULL), BB_STATUS_OK);
    assert_true(plan.inside[A] && plan.inside[B] && !plan.inside[C] && !plan.inside[JOINED]);
    assert_int_equal(plan.offset[A], plan.offset[JOINED]);
    assert_int_equal(plan.offset[B], plan.offset[JOINED] + 2 * 6); /* 12 bits: two bytes */
    assert_int_equal(plan.step[A] * 100 + plan.step[B] * 10 + plan.step[C], 993);
    const size_t joined_end = plan.offset[JOINED] + plan.bytes[JOINED];
    for (int t = 0; t < N; t++)
        if (t == IMAGE_IN || t == C) /* alive while a is written */
            assert_true(plan.offset[t] >= joined_end ||
                        plan.offset[t] + plan.bytes[t] <= plan.offset[JOINED]);
    profile->tensors[A].bits = 8; /* another element size than the output's */
    bb_memory_plan_free(&plan);
    assert_int_equal(bb_model_plan_memory(m, 0, &shapes, &plan, NULL), BB_STATUS_OK);
    assert_true(!plan.inside[A] && plan.inside[B]);
    bb_memory_plan_free(&plan);
    bb_shapes_free(&shapes);
    bb_model_destroy(m);
}

static void test_allocation_failures_are_reported(void **state) {
    bb_model *m = small_model();
    bb_shapes shapes;
    bb_memory_plan plan;
    const int32_t dims[1][4] = {{1, HEIGHT, WIDTH, 0}};
    assert_int_equal(bb_model_bind(m, dims, &shapes, NULL), BB_STATUS_OK);
    bool done = false;
    for (long n = 0; !done; n++) {
        bb_alloc_fail_after(n);
        bb_status status = bb_model_plan_memory(m, 0, &shapes, &plan, NULL);
        bb_alloc_fail_after(-1);
        done = status == BB_STATUS_OK;
        assert_true(done || status == BB_STATUS_OUT_OF_MEMORY);
    }
    bb_memory_plan_free(&plan);
    bb_shapes_free(&shapes);
    bb_alloc_fail_after(0);
    assert_null(bb_model_create());
    assert_int_equal(bb_model_bind(m, dims, &shapes, NULL), BB_STATUS_OUT_OF_MEMORY);
    assert_int_equal(bb_model_validate(m, NULL), BB_STATUS_OUT_OF_MEMORY);
    bb_alloc_fail_after(-1);
    bb_model_destroy(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_planes_hold_the_codes),
        cmocka_unit_test(test_ternary_planes),
        cmocka_unit_test(test_shapes_bind),
        cmocka_unit_test(test_window_sizes),
        cmocka_unit_test(test_pool_windows_need_a_valid_tap),
        cmocka_unit_test(test_profiles_are_found),
        cmocka_unit_test(test_structure_is_checked),
        cmocka_unit_test(test_profile_numbers_are_checked),
        cmocka_unit_test(test_thresholds_and_tables_are_checked),
        cmocka_unit_test(test_accumulator_bound_is_exact),
        cmocka_unit_test(test_accumulator_bound_covers_every_border),
        cmocka_unit_test(test_products_and_sums_are_bounded),
        cmocka_unit_test(test_tables_of_nodes_are_checked),
        cmocka_unit_test(test_requantizer_bound_uses_the_weights),
        cmocka_unit_test(test_global_mean_is_bounded_when_bound),
        cmocka_unit_test(test_buffers_alive_together_do_not_overlap),
        cmocka_unit_test(test_only_pools_let_tensors_pass),
        cmocka_unit_test(test_concat_inputs_lie_in_its_output),
        cmocka_unit_test(test_allocation_failures_are_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
