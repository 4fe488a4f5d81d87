/* SPDX-License-Identifier: Apache-2.0 */
/* Forward-and-backward programs: gradients of every node kind against differences. */
#include "nn_gradient.h"

/* ---- convolutions ---------------------------------------------------------------------------- */

typedef struct conv_case {
    bool transposed, bias;
    int64_t batch, in, out, group, height, width, kernel[2], stride[2], dilation[2], pads[4];
} conv_case;

static void run_conv(const conv_case *v) {
    net n = net_create();
    checker c = check_begin(&n);
    int x = net_input(&n, BB_DTYPE_F32, DIMS(v->batch, v->in, v->height, v->width));
    int w = v->transposed
                ? check_parameter(&c, -0.5, 0.5,
                                  DIMS(v->in, v->out / v->group, v->kernel[0], v->kernel[1]))
                : check_parameter(&c, -0.5, 0.5,
                                  DIMS(v->out, v->in / v->group, v->kernel[0], v->kernel[1]));
    int b = v->bias ? check_parameter(&c, -0.5, 0.5, DIMS(v->out)) : -1;
    int y = NODE(&n, v->transposed ? BB_OP_CONV_TRANSPOSE : BB_OP_CONV, x, w, b);
    bb_node *node = net_last(&n);
    bb_node_set_int(n.graph, node, "group", v->group);
    bb_node_set_ints(n.graph, node, "strides", v->stride, 2);
    bb_node_set_ints(n.graph, node, "dilations", v->dilation, 2);
    bb_node_set_ints(n.graph, node, "pads", v->pads, 4);
    check_finish(&c, y);
}

static void test_conv(void **state) {
    static const conv_case cases[] = {
        {false, true, 2, 3, 5, 1, 7, 6, {3, 3}, {1, 1}, {1, 1}, {1, 1, 1, 1}},
        {false, false, 2, 16, 16, 1, 5, 5, {3, 3}, {2, 2}, {1, 1}, {1, 1, 1, 1}},
        {false, true, 1, 16, 32, 1, 4, 4, {1, 1}, {2, 2}, {1, 1}, {0, 0, 0, 0}},
        {false, true, 2, 8, 8, 8, 6, 6, {3, 3}, {1, 1}, {1, 1}, {1, 1, 1, 1}},
        {false, false, 2, 17, 17, 17, 6, 5, {3, 3}, {2, 1}, {1, 1}, {0, 1, 2, 1}},
        {false, true, 1, 6, 9, 3, 7, 7, {3, 2}, {1, 2}, {2, 1}, {2, 0, 1, 1}},
        {false, false, 1, 1, 16, 1, 9, 9, {5, 5}, {1, 1}, {1, 1}, {2, 2, 2, 2}},
        {true, true, 1, 4, 6, 1, 4, 5, {3, 3}, {2, 2}, {1, 1}, {1, 1, 1, 1}},
        {true, false, 1, 6, 8, 2, 3, 3, {2, 2}, {2, 2}, {1, 1}, {0, 0, 0, 0}},
    };
    for (size_t i = 0; i < BB_COUNT(cases); i++)
        run_conv(&cases[i]);
}

/* 1-D, constant weights: only the input's gradient. */
static void test_conv_of_constant(void **state) {
    net n = net_create();
    checker c = check_begin(&n);
    int x = net_input(&n, BB_DTYPE_F32, DIMS(2, 4, 9));
    int w = net_random(&n, -0.5, 0.5, DIMS(6, 4, 3));
    check_finish(&c, NODE(&n, BB_OP_CONV, x, w));
}

/* ---- normalization --------------------------------------------------------------------------- */

static int conv_node(net *n, checker *c, int x, int64_t in, int64_t out) {
    int w = check_parameter(c, -0.5, 0.5, DIMS(out, in, 3, 3));
    int y = NODE(n, BB_OP_CONV, x, w);
    bb_node_set_ints(n->graph, net_last(n), "pads", INTS(1, 1, 1, 1));
    return y;
}

static int norm_node(net *n, checker *c, int x, int64_t channels) {
    int scale = check_parameter(c, 0.5, 1.5, DIMS(channels));
    int shift = check_parameter(c, -0.5, 0.5, DIMS(channels));
    int mean = net_random(n, -0.2, 0.2, DIMS(channels));
    int variance = net_random(n, 0.5, 1.5, DIMS(channels));
    return NODE(n, BB_OP_BATCH_NORMALIZATION, x, scale, shift, mean, variance);
}

static void run_norm(bool training, bool relu, bool conv, int64_t channels) {
    net n = net_create();
    checker c = check_begin(&n);
    c.options.training = training;
    c.tolerance = 5e-3;
    c.step = relu ? 2e-3 : 1e-2;
    int x = net_input(&n, BB_DTYPE_F32, DIMS(3, conv ? 2 : channels, 4, 3));
    int y = norm_node(&n, &c, conv ? conv_node(&n, &c, x, 2, channels) : x, channels);
    check_finish(&c, relu ? NODE(&n, BB_OP_RELU, y) : y);
}

static void test_batch_norm(void **state) {
    for (int training = 0; training < 2; training++)
        for (int conv = 0; conv < 2; conv++) {
            run_norm(training, false, conv, 5);
            run_norm(training, false, conv, 16);
            run_norm(training, true, conv, 16);
        }
}

static void test_batch_norm_of_rows(void **state) {
    net n = net_create();
    checker c = check_begin(&n);
    c.options.training = true;
    c.tolerance = 5e-3;
    int x = net_input(&n, BB_DTYPE_F32, DIMS(6, 5));
    check_finish(&c, norm_node(&n, &c, x, 5));
}

/* ---- a residual block with everything around it ---------------------------------------------- */

static void run_block(int64_t channels, bool training) {
    net n = net_create();
    checker c = check_begin(&n);
    c.options.training = training;
    c.step = 2e-3;
    c.tolerance = 2e-2; /* some differences step over a kink */
    int x = net_input(&n, BB_DTYPE_F32, DIMS(2, 3, 6, 6));
    int a = NODE(&n, BB_OP_RELU, norm_node(&n, &c, conv_node(&n, &c, x, 3, channels), channels));
    int b = norm_node(&n, &c, conv_node(&n, &c, a, channels, channels), channels);
    int y = NODE(&n, BB_OP_RELU, NODE(&n, BB_OP_ADD, b, a));
    int mean = NODE(&n, BB_OP_GLOBAL_AVERAGE_POOL, y);
    int flat = NODE(&n, BB_OP_FLATTEN, mean);
    int w = check_parameter(&c, -0.5, 0.5, DIMS(4, channels));
    int bias = check_parameter(&c, -0.5, 0.5, DIMS(4));
    int z = NODE(&n, BB_OP_GEMM, flat, w, bias);
    bb_node_set_int(n.graph, net_last(&n), "transB", 1);
    check_finish(&c, z);
}

static void test_block(void **state) {
    run_block(5, true);
    run_block(16, true);
    run_block(16, false);
}

/* ---- products -------------------------------------------------------------------------------- */

static void test_gemm(void **state) {
    for (int t = 0; t < 4; t++) {
        net n = net_create();
        checker c = check_begin(&n);
        int ta = t & 1, tb = t >> 1;
        int a =
            ta ? net_input(&n, BB_DTYPE_F32, DIMS(4, 3)) : net_input(&n, BB_DTYPE_F32, DIMS(3, 4));
        int b =
            tb ? check_parameter(&c, -1, 1, DIMS(5, 4)) : check_parameter(&c, -1, 1, DIMS(4, 5));
        int bias =
            ta ? check_parameter(&c, -1, 1, DIMS(5)) : check_parameter(&c, -1, 1, DIMS(3, 1));
        int y = NODE(&n, BB_OP_GEMM, a, b, bias);
        bb_node_set_int(n.graph, net_last(&n), "transA", ta);
        bb_node_set_int(n.graph, net_last(&n), "transB", tb);
        bb_node_set_float(n.graph, net_last(&n), "alpha", 0.7f);
        bb_node_set_float(n.graph, net_last(&n), "beta", 1.3f);
        check_finish(&c, y);
    }
}

static void run_matmul(int a_rank, const int64_t *a_dims, int b_rank, const int64_t *b_dims) {
    net n = net_create();
    checker c = check_begin(&n);
    int a = net_input(&n, BB_DTYPE_F32, a_rank, a_dims);
    int b = check_parameter(&c, -1, 1, b_rank, b_dims);
    check_finish(&c, NODE(&n, BB_OP_MATMUL, a, b));
}

static void test_matmul(void **state) {
    run_matmul(DIMS(3, 4), DIMS(4, 5));
    run_matmul(DIMS(2, 3, 4), DIMS(4, 5));
    run_matmul(DIMS(2, 1, 3, 4), DIMS(1, 3, 4, 2));
    run_matmul(DIMS(3, 4), DIMS(2, 4, 5));
}

/* ---- pools ----------------------------------------------------------------------------------- */

/* uneven: without padding at the begin ceil_mode adds a row at the end that does not count. */
static void run_pool(bb_op op, int64_t channels, bool conv, bool include_pad, bool uneven) {
    net n = net_create();
    checker c = check_begin(&n);
    c.step = op == BB_OP_MAX_POOL ? 1e-3 : 1e-2;
    c.tolerance = 1e-2;
    int x = net_input(&n, BB_DTYPE_F32, DIMS(2, conv ? 2 : channels, 7, 6));
    int y = NODE(&n, op, conv ? conv_node(&n, &c, x, 2, channels) : x);
    bb_node *node = net_last(&n);
    bb_node_set_ints(n.graph, node, "kernel_shape", INTS(3, 2));
    bb_node_set_ints(n.graph, node, "strides", INTS(2, 2));
    bb_node_set_ints(n.graph, node, "pads", INTS(!uneven, 0, 1, 0));
    bb_node_set_int(n.graph, node, "ceil_mode", uneven);
    if (op == BB_OP_AVERAGE_POOL)
        bb_node_set_int(n.graph, node, "count_include_pad", include_pad);
    check_finish(&c, y);
}

static void test_pools(void **state) {
    for (int conv = 0; conv < 2; conv++) {
        for (int uneven = 0; uneven < 2; uneven++) {
            run_pool(BB_OP_MAX_POOL, 5, conv, false, uneven);
            run_pool(BB_OP_MAX_POOL, 16, conv, false, uneven);
            run_pool(BB_OP_AVERAGE_POOL, 5, conv, false, uneven);
            run_pool(BB_OP_AVERAGE_POOL, 16, conv, true, uneven);
        }
    }
}

/* ---- functions ------------------------------------------------------------------------------- */

static void run_function(bb_op op, bool conv, double low, double high) {
    net n = net_create();
    checker c = check_begin(&n);
    c.low = low;
    c.high = high;
    c.step = 1e-3;
    c.tolerance = 1e-2;
    int x = net_input(&n, BB_DTYPE_F32, DIMS(2, 3, 4, 5));
    check_finish(&c, NODE(&n, op, conv ? conv_node(&n, &c, x, 3, 5) : x));
}

static void test_functions(void **state) {
    static const bb_op ops[] = {
        BB_OP_RELU,        BB_OP_LEAKY_RELU, BB_OP_SIGMOID, BB_OP_TANH, BB_OP_ELU,
        BB_OP_SOFTPLUS,    BB_OP_SOFTSIGN,   BB_OP_SELU,    BB_OP_CELU, BB_OP_THRESHOLDED_RELU,
        BB_OP_ABS,         BB_OP_NEG,        BB_OP_EXP,     BB_OP_ERF,  BB_OP_SIN,
        BB_OP_COS,         BB_OP_ATAN,       BB_OP_GELU,    BB_OP_MISH, BB_OP_HARD_SWISH,
        BB_OP_HARD_SIGMOID};
    for (size_t i = 0; i < BB_COUNT(ops); i++) {
        run_function(ops[i], false, -4.0, 4.0);
        run_function(ops[i], true, -1.0, 1.0);
    }
    run_function(BB_OP_LOG, false, 0.5, 2.0);
    run_function(BB_OP_SQRT, false, 0.5, 2.0);
    run_function(BB_OP_RECIPROCAL, false, 0.5, 2.0);
}

static void test_clip(void **state) {
    net n = net_create();
    checker c = check_begin(&n);
    c.step = 1e-3;
    c.tolerance = 1e-2;
    c.low = -8.0;
    c.high = 8.0;
    int x = net_input(&n, BB_DTYPE_F32, DIMS(2, 3, 4, 5));
    void *low, *high;
    int lo = net_constant(&n, BB_DTYPE_F32, 0, NULL, &low);
    int hi = net_constant(&n, BB_DTYPE_F32, 0, NULL, &high);
    *(float *)high = 6.0f;
    check_finish(&c, NODE(&n, BB_OP_CLIP, x, lo, hi));
}

/* ---- arithmetic ------------------------------------------------------------------------------ */

static void run_binary(bb_op op, bool conv, bool swap, int rank, const int64_t *dims) {
    net n = net_create();
    checker c = check_begin(&n);
    c.step = op >= BB_OP_MAX ? 1e-3 : 1e-2;
    c.tolerance = 1e-2;
    int x = net_input(&n, BB_DTYPE_F32, DIMS(2, 3, 4, 5));
    int a = conv ? conv_node(&n, &c, x, 3, 5) : x;
    int b = check_parameter(&c, 0.5, 1.5, rank, dims);
    if (conv) /* a computed operand, perhaps blocked */
        b = NODE(&n, BB_OP_EXP, b);
    check_finish(&c, swap ? NODE(&n, op, b, a) : NODE(&n, op, a, b));
}

static void test_binary(void **state) {
    static const bb_op ops[] = {BB_OP_ADD, BB_OP_SUB, BB_OP_MUL, BB_OP_DIV};
    for (size_t i = 0; i < BB_COUNT(ops); i++)
        for (int swap = 0; swap < (ops[i] == BB_OP_DIV ? 1 : 2); swap++) {
            run_binary(ops[i], false, swap, DIMS(2, 3, 4, 5));
            run_binary(ops[i], false, swap, DIMS(3, 1, 1));
            run_binary(ops[i], false, swap, DIMS(5));
            run_binary(ops[i], false, swap, 0, NULL);
            run_binary(ops[i], true, swap, DIMS(2, 5, 4, 5));
            run_binary(ops[i], true, swap, DIMS(2, 5, 1, 1));
            run_binary(ops[i], true, swap, DIMS(1, 5, 1, 1));
            run_binary(ops[i], true, swap, DIMS(5, 1, 1));
            run_binary(ops[i], true, swap, DIMS(1));
            run_binary(ops[i], true, swap, DIMS(4, 1));
        }
    run_binary(BB_OP_MAX, false, false, DIMS(2, 3, 4, 5));
    run_binary(BB_OP_MIN, false, false, DIMS(2, 3, 4, 5));
}

static void test_both_broadcast(void **state) {
    net n = net_create();
    checker c = check_begin(&n);
    int x = net_input(&n, BB_DTYPE_F32, DIMS(3, 1));
    int b = check_parameter(&c, 0.5, 1.5, DIMS(1, 4));
    check_finish(&c, NODE(&n, BB_OP_MUL, x, b));
}

/* x * sigmoid(x), and a value that three nodes read */
static void test_shared(void **state) {
    net n = net_create();
    checker c = check_begin(&n);
    int x = net_input(&n, BB_DTYPE_F32, DIMS(2, 3, 4, 4));
    int y = conv_node(&n, &c, x, 3, 5);
    int silu = NODE(&n, BB_OP_MUL, y, NODE(&n, BB_OP_SIGMOID, y));
    int twice = NODE(&n, BB_OP_ADD, silu, silu);
    check_finish(&c, NODE(&n, BB_OP_ADD, twice, NODE(&n, BB_OP_SUB, y, silu)));
}

/* One buffer is the gradient of two values, and one of them gets a second addend first. */
static void test_shared_gradient(void **state) {
    net n = net_create();
    checker c = check_begin(&n);
    int x = net_input(&n, BB_DTYPE_F32, DIMS(2, 3, 4, 4));
    int u = NODE(&n, BB_OP_TANH, conv_node(&n, &c, x, 3, 5));
    int v = NODE(&n, BB_OP_TANH, conv_node(&n, &c, x, 3, 5));
    int w = NODE(&n, BB_OP_EXP, v);
    check_finish(&c, NODE(&n, BB_OP_ADD, NODE(&n, BB_OP_ADD, u, v), w));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_conv),       cmocka_unit_test(test_conv_of_constant),
        cmocka_unit_test(test_batch_norm), cmocka_unit_test(test_batch_norm_of_rows),
        cmocka_unit_test(test_block),      cmocka_unit_test(test_gemm),
        cmocka_unit_test(test_matmul),     cmocka_unit_test(test_pools),
        cmocka_unit_test(test_functions),  cmocka_unit_test(test_clip),
        cmocka_unit_test(test_binary),     cmocka_unit_test(test_both_broadcast),
        cmocka_unit_test(test_shared),     cmocka_unit_test(test_shared_gradient),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
