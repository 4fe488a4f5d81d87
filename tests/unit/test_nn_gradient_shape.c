/* SPDX-License-Identifier: Apache-2.0 */
/* Gradients of nodes that move, join, resize, reduce and normalise, against differences. */
#include "nn_gradient.h"

static int ints(net *n, const int64_t *v, size_t count) {
    void *data;
    int value = net_constant(n, BB_DTYPE_I64, DIMS((int64_t)count), &data);
    memcpy(data, v, count * sizeof(*v));
    return value;
}
#define IDS(n, ...)                                                                                \
    ints(n, (int64_t[]){__VA_ARGS__}, sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t))

/* A 3x3 convolution to bring a tensor into oneDNN's layout. */
static int conv_node(checker *c, int x, int64_t in, int64_t out) {
    int w = check_parameter(c, -0.5, 0.5, DIMS(out, in, 3, 3));
    int y = NODE(c->n, BB_OP_CONV, x, w);
    bb_node_set_ints(c->n->graph, net_last(c->n), "pads", INTS(1, 1, 1, 1));
    return y;
}

static int image(net *n) {
    return net_input(n, BB_DTYPE_F32, DIMS(2, 4, 5, 3));
}

/* ---- moves ----------------------------------------------------------------------------------- */

static void test_transpose(void **state) {
    net n = net_create();
    checker c = check_begin(&n);
    int y = NODE(&n, BB_OP_TRANSPOSE, conv_node(&c, image(&n), 4, 5));
    bb_node_set_ints(n.graph, net_last(&n), "perm", INTS(0, 2, 3, 1));
    check_finish(&c, y);
    n = net_create();
    c = check_begin(&n);
    y = NODE(&n, BB_OP_TRANSPOSE, image(&n));
    bb_node_set_ints(n.graph, net_last(&n), "perm", INTS(3, 1, 0, 2));
    check_finish(&c, y);
}

static void test_slice_and_gather(void **state) {
    net n = net_create();
    checker c = check_begin(&n);
    int x = image(&n);
    int y = NODE(&n, BB_OP_SLICE, x, IDS(&n, 1, 4), IDS(&n, 4, 0), IDS(&n, 1, 2), IDS(&n, 1, -2));
    check_finish(&c, y);
    n = net_create();
    c = check_begin(&n);
    y = NODE(&n, BB_OP_GATHER, image(&n), IDS(&n, 3, 0, 3));
    bb_node_set_int(n.graph, net_last(&n), "axis", 1);
    check_finish(&c, y);
    n = net_create();
    c = check_begin(&n);
    y = NODE(&n, BB_OP_GATHER, image(&n), IDS(&n, 1, 0, 1)); /* images are not alike */
    check_finish(&c, y);
}

static void test_pad(void **state) {
    static const char *const modes[] = {"constant", "reflect", "edge"};
    for (size_t m = 0; m < BB_COUNT(modes); m++)
        for (int value = 0; value < (m == 0 ? 2 : 1); value++) {
            net n = net_create();
            checker c = check_begin(&n);
            int x = image(&n), pads = IDS(&n, 0, 0, 1, 2, 0, 0, 2, 0);
            void *fill;
            int y = NODE(&n, BB_OP_PAD, x, pads,
                         value ? net_constant(&n, BB_DTYPE_F32, 0, NULL, &fill) : -1);
            if (value)
                *(float *)fill = 3.0f;
            bb_node_set_string(n.graph, net_last(&n), "mode", modes[m]);
            check_finish(&c, y);
        }
}

static void test_expand_and_tile(void **state) {
    net n = net_create();
    checker c = check_begin(&n);
    int x = net_input(&n, BB_DTYPE_F32, DIMS(2, 1, 3));
    check_finish(&c, NODE(&n, BB_OP_EXPAND, x, IDS(&n, 2, 4, 3)));
    n = net_create();
    c = check_begin(&n);
    x = net_input(&n, BB_DTYPE_F32, DIMS(2, 2, 3));
    check_finish(&c, NODE(&n, BB_OP_TILE, x, IDS(&n, 1, 2, 3)));
}

static void test_depth_and_space(void **state) {
    net n = net_create();
    checker c = check_begin(&n);
    int y = NODE(&n, BB_OP_DEPTH_TO_SPACE, image(&n));
    bb_node_set_int(n.graph, net_last(&n), "blocksize", 2);
    check_finish(&c, y);
    n = net_create();
    c = check_begin(&n);
    y = NODE(&n, BB_OP_SPACE_TO_DEPTH, net_input(&n, BB_DTYPE_F32, DIMS(2, 3, 4, 6)));
    bb_node_set_int(n.graph, net_last(&n), "blocksize", 2);
    check_finish(&c, y);
}

/* Two of three parts are used; the parts have different sizes. */
static void test_split(void **state) {
    net n = net_create();
    checker c = check_begin(&n);
    int x = conv_node(&c, image(&n), 4, 6);
    int out[3], in[2] = {x, IDS(&n, 1, 3, 2)};
    for (int i = 0; i < 3; i++)
        out[i] = bb_graph_add_value(n.graph, "part", BB_DTYPE_F32, -1, NULL);
    assert_true(bb_graph_add_node(n.graph, "split", BB_OP_SPLIT, 2, in, 3, out) >= 0);
    bb_node_set_int(n.graph, net_last(&n), "axis", 1);
    net_output(&n, out[0]);
    check_finish(&c, NODE(&n, BB_OP_RELU, out[1]));
}

static void test_shape_of_views(void **state) {
    net n = net_create();
    checker c = check_begin(&n);
    int x = conv_node(&c, image(&n), 4, 5);
    int y = NODE(&n, BB_OP_RESHAPE, x, IDS(&n, 2, -1, 3));
    y = NODE(&n, BB_OP_UNSQUEEZE, y, IDS(&n, 0));
    y = NODE(&n, BB_OP_SQUEEZE, y, IDS(&n, 0));
    y = NODE(&n, BB_OP_IDENTITY, y);
    check_finish(&c, NODE(&n, BB_OP_FLATTEN, y));
}

/* Channel shuffle: reshape, transpose, reshape. */
static void test_shuffle(void **state) {
    net n = net_create();
    checker c = check_begin(&n);
    int x = conv_node(&c, image(&n), 4, 6);
    int y = NODE(&n, BB_OP_RESHAPE, x, IDS(&n, 2, 2, 3, 5, 3));
    y = NODE(&n, BB_OP_TRANSPOSE, y);
    bb_node_set_ints(n.graph, net_last(&n), "perm", INTS(0, 2, 1, 3, 4));
    y = NODE(&n, BB_OP_RESHAPE, y, IDS(&n, 2, 6, 5, 3));
    check_finish(&c, conv_node(&c, y, 6, 3));
}

/* ---- Concat ---------------------------------------------------------------------------------- */

static void run_concat(int64_t a, int64_t b, bool convolve, int64_t axis) {
    net n = net_create();
    checker c = check_begin(&n);
    int x = image(&n);
    int p = convolve ? conv_node(&c, x, 4, a) : x;
    int q = convolve ? conv_node(&c, x, 4, b) : NODE(&n, BB_OP_NEG, x);
    int y = NODE(&n, BB_OP_CONCAT, p, q, p);
    bb_node_set_int(n.graph, net_last(&n), "axis", axis);
    check_finish(&c, y);
}

static void test_concat(void **state) {
    run_concat(16, 32, true, 1);
    run_concat(5, 16, true, 1);
    run_concat(16, 16, true, 2);
    run_concat(0, 0, false, -1);
    run_concat(0, 0, false, 0);
}

/* ---- Resize ---------------------------------------------------------------------------------- */

static void run_resize(const char *mode, const char *transformation, int64_t height,
                       int64_t width) {
    net n = net_create();
    checker c = check_begin(&n);
    int x = conv_node(&c, image(&n), 4, 5);
    int y = NODE(&n, BB_OP_RESIZE, x, -1, -1, IDS(&n, 2, 5, height, width));
    bb_node_set_string(n.graph, net_last(&n), "mode", mode);
    bb_node_set_string(n.graph, net_last(&n), "coordinate_transformation_mode", transformation);
    check_finish(&c, y);
}

static void test_resize(void **state) {
    run_resize("nearest", "asymmetric", 10, 6);
    run_resize("nearest", "half_pixel", 3, 7);
    run_resize("linear", "half_pixel", 10, 7);
    run_resize("linear", "align_corners", 3, 6);
    run_resize("cubic", "pytorch_half_pixel", 8, 3);
}

/* ---- reductions and rows --------------------------------------------------------------------- */

static void run_reduce(bb_op op, bool convolve, bool keep, const int64_t *axes, size_t count) {
    net n = net_create();
    checker c = check_begin(&n);
    int x = convolve ? conv_node(&c, image(&n), 4, 5) : image(&n);
    int y = count ? NODE(&n, op, x, ints(&n, axes, count)) : NODE(&n, op, x);
    bb_node_set_int(n.graph, net_last(&n), "keepdims", keep);
    check_finish(&c, y);
}

static void test_reduce(void **state) {
    for (int keep = 0; keep < 2; keep++) {
        run_reduce(BB_OP_REDUCE_MEAN, true, keep, INTS(2, 3));
        run_reduce(BB_OP_REDUCE_MEAN, false, keep, INTS(-1, -2));
        run_reduce(BB_OP_REDUCE_MEAN, true, keep, INTS(1));
        run_reduce(BB_OP_REDUCE_SUM, false, keep, INTS(0, 3));
        run_reduce(BB_OP_REDUCE_SUM, true, keep, NULL, 0);
    }
}

static void run_softmax(bb_op op, int64_t axis) {
    net n = net_create();
    checker c = check_begin(&n);
    c.low = -3.0;
    c.high = 3.0;
    int y = NODE(&n, op, image(&n));
    bb_node_set_int(n.graph, net_last(&n), "axis", axis);
    check_finish(&c, y);
}

static void test_softmax(void **state) {
    run_softmax(BB_OP_SOFTMAX, -1);
    run_softmax(BB_OP_SOFTMAX, 1);
    run_softmax(BB_OP_LOG_SOFTMAX, -1);
    run_softmax(BB_OP_LOG_SOFTMAX, 1);
}

static void test_row_norms(void **state) {
    net n = net_create();
    checker c = check_begin(&n);
    c.tolerance = 5e-3;
    int x = image(&n);
    int scale = check_parameter(&c, 0.5, 1.5, DIMS(4)), shift = check_parameter(&c, -1, 1, DIMS(4));
    check_finish(&c, NODE(&n, BB_OP_INSTANCE_NORMALIZATION, x, scale, shift));
    for (int with_shift = 0; with_shift < 2; with_shift++) {
        n = net_create();
        c = check_begin(&n);
        c.tolerance = 5e-3;
        x = net_input(&n, BB_DTYPE_F32, DIMS(4, 3, 5));
        scale = check_parameter(&c, 0.5, 1.5, DIMS(5));
        shift = with_shift ? check_parameter(&c, -1, 1, DIMS(5)) : -1;
        check_finish(&c, NODE(&n, BB_OP_LAYER_NORMALIZATION, x, scale, shift));
    }
}

static void test_lrn(void **state) {
    for (int64_t size = 2; size < 6; size++) {
        net n = net_create();
        checker c = check_begin(&n);
        int y = NODE(&n, BB_OP_LRN, net_input(&n, BB_DTYPE_F32, DIMS(2, 7, 3, 2)));
        bb_node *node = net_last(&n);
        bb_node_set_int(n.graph, node, "size", size);
        bb_node_set_float(n.graph, node, "alpha", 0.9f);
        bb_node_set_float(n.graph, node, "beta", 0.6f);
        check_finish(&c, y);
    }
}

static void test_prelu(void **state) {
    for (int one = 0; one < 2; one++)
        for (int convolve = 0; convolve < 2; convolve++) {
            net n = net_create();
            checker c = check_begin(&n);
            c.step = 1e-3;
            c.tolerance = 1e-2;
            int64_t channels = convolve ? 5 : 4;
            int x = convolve ? conv_node(&c, image(&n), 4, channels) : image(&n);
            int slope = one ? check_parameter(&c, 0.1, 0.5, DIMS(1))
                            : check_parameter(&c, 0.1, 0.5, DIMS(channels, 1, 1));
            check_finish(&c, NODE(&n, BB_OP_PRELU, x, slope));
        }
}

static void test_power(void **state) {
    static const float exponents[] = {2.0f, 0.5f, -1.5f};
    for (size_t i = 0; i < BB_COUNT(exponents); i++) {
        net n = net_create();
        checker c = check_begin(&n);
        c.low = 0.5;
        c.high = 2.0;
        void *data;
        int x = image(&n), p = net_constant(&n, BB_DTYPE_F32, 0, NULL, &data);
        *(float *)data = exponents[i];
        check_finish(&c, NODE(&n, BB_OP_POW, x, p));
    }
}

static void test_global_max(void **state) {
    net n = net_create();
    checker c = check_begin(&n);
    c.step = 1e-3;
    c.tolerance = 1e-2;
    check_finish(&c, NODE(&n, BB_OP_GLOBAL_MAX_POOL, conv_node(&c, image(&n), 4, 5)));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_transpose),
        cmocka_unit_test(test_slice_and_gather),
        cmocka_unit_test(test_pad),
        cmocka_unit_test(test_expand_and_tile),
        cmocka_unit_test(test_depth_and_space),
        cmocka_unit_test(test_split),
        cmocka_unit_test(test_shape_of_views),
        cmocka_unit_test(test_shuffle),
        cmocka_unit_test(test_concat),
        cmocka_unit_test(test_resize),
        cmocka_unit_test(test_reduce),
        cmocka_unit_test(test_softmax),
        cmocka_unit_test(test_row_norms),
        cmocka_unit_test(test_lrn),
        cmocka_unit_test(test_prelu),
        cmocka_unit_test(test_power),
        cmocka_unit_test(test_global_max),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
