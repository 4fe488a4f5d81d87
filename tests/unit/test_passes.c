/* SPDX-License-Identifier: Apache-2.0 */
/* Passes: each rewrite happens where it should, nowhere else, and never changes the function. */
#include "unit.h"

#include "data.h"
#include "nn_net.h"
#include "onnx/onnx.h"
#include "passes/passes.h"

typedef bb_status (*pass)(bb_graph *graph, bb_error *err);

static size_t count_op(const bb_graph *graph, bb_op op) {
    size_t n = 0;
    for (size_t i = 0; i < graph->n_nodes; i++)
        n += graph->nodes[i].op == op;
    return n;
}

static size_t elements(const bb_array *a) {
    size_t n = 1;
    for (int i = 0; i < a->rank; i++)
        n *= (size_t)a->dims[i];
    return n;
}

/* Results of one run, converted to float and copied. */
typedef struct results {
    size_t n;
    size_t counts[16];
    float *data[16];
    char names[16][64];
} results;

static void run_all(net *n, const float *const *inputs, results *r) {
    bb_executor *ex;
    net_run(n, inputs, &ex);
    r->n = n->graph->n_outputs;
    assert_true(r->n <= 16);
    for (size_t i = 0; i < r->n; i++) {
        bb_array y = net_result(n, ex, i);
        r->counts[i] = elements(&y);
        r->data[i] = malloc((r->counts[i] + 1) * sizeof(float));
        snprintf(r->names[i], sizeof(r->names[i]), "%s",
                 n->graph->values[n->graph->outputs[i]].name);
        assert_int_equal(y.dtype, BB_DTYPE_F32);
        memcpy(r->data[i], y.data, r->counts[i] * sizeof(float));
    }
    bb_executor_destroy(ex);
}

static void free_results(results *r) {
    for (size_t i = 0; i < r->n; i++)
        free(r->data[i]);
}

/* Largest difference relative to the range of each output. */
static double difference(const results *a, const results *b) {
    double worst = 0;
    assert_int_equal(a->n, b->n);
    for (size_t i = 0; i < a->n; i++) {
        double lo = 0, hi = 1e-6, d = 0;
        assert_int_equal(a->counts[i], b->counts[i]);
        assert_string_equal(a->names[i], b->names[i]);
        for (size_t k = 0; k < a->counts[i]; k++) {
            lo = fmin(lo, a->data[i][k]);
            hi = fmax(hi, a->data[i][k]);
            d = fmax(d, fabs((double)a->data[i][k] - b->data[i][k]));
            assert_true(!isnan(a->data[i][k]) && !isnan(b->data[i][k]));
        }
        worst = fmax(worst, d / (hi - lo));
    }
    return worst;
}

/* Runs the net, applies the pass, runs again; symbolic dims of input 0 become 1. */
static void check_pass(net *n, pass p, double tolerance) {
    const float *inputs[8];
    results before, after;
    bb_graph *g = n->graph;
    for (size_t i = 0; i < g->n_inputs; i++) {
        bb_value *v = &g->values[g->inputs[i]];
        int64_t dims[BB_MAX_RANK];
        size_t count;
        for (int k = 0; k < v->rank; k++)
            dims[k] = v->dims[k] < 0 ? 1 : v->dims[k];
        assert_true(bb_dims_product(dims, (size_t)v->rank, &count));
        inputs[i] = random_floats(n, count);
        if (v->dims[0] < 0)
            assert_int_equal(bb_graph_infer_shapes(g, dims, v->rank, &n->err), BB_STATUS_OK);
    }
    run_all(n, inputs, &before);
    if (p(g, &n->err) != BB_STATUS_OK)
        fail_msg("%s", n->err.message);
    run_all(n, inputs, &after);
    double d = difference(&before, &after);
    if (!(d <= tolerance))
        fail_msg("the outputs differ by %g of their range", d);
    for (size_t i = 0; i < g->n_inputs; i++)
        free((void *)(uintptr_t)inputs[i]);
    free_results(&before);
    free_results(&after);
}

static int scalar(net *n, float v) {
    void *data;
    int value = net_constant(n, BB_DTYPE_F32, 0, NULL, &data);
    *(float *)data = v;
    return value;
}

static int ints(net *n, const int64_t *v, size_t count) {
    void *data;
    int64_t dims[1] = {(int64_t)count};
    int value = net_constant(n, BB_DTYPE_I64, 1, dims, &data);
    memcpy(data, v, count * sizeof(*v));
    return value;
}
#define CONST_INTS(n, ...)                                                                         \
    ints(n, (int64_t[]){__VA_ARGS__}, sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t))

static int batch_norm(net *n, int x, int64_t channels) {
    return NODE(n, BB_OP_BATCH_NORMALIZATION, x, net_random(n, 0.5, 1.5, DIMS(channels)),
                net_random(n, -1, 1, DIMS(channels)), net_random(n, -1, 1, DIMS(channels)),
                net_random(n, 0.5, 2, DIMS(channels)));
}

/* ---- BatchNormalization ---------------------------------------------------------------------- */

static void test_folds_batch_norm_and_arithmetic(void **state) {
    (void)state;
    net n = net_create();
    int x = net_input(&n, BB_DTYPE_F32, DIMS(2, 3, 9, 9));
    int y = NODE(&n, BB_OP_CONV, x, net_random(&n, -1, 1, DIMS(8, 3, 3, 3)));
    y = batch_norm(&n, y, 8);
    y = NODE(&n, BB_OP_MUL, net_random(&n, 0.5, 2, DIMS(8, 1, 1)), y);
    y = NODE(&n, BB_OP_SUB, scalar(&n, 0.25f), y);
    y = NODE(&n, BB_OP_DIV, y, net_random(&n, 1, 2, DIMS(1, 8, 1, 1)));
    y = NODE(&n, BB_OP_ADD, y, net_random(&n, -1, 1, DIMS(8, 1, 1)));
    y = NODE(&n, BB_OP_RELU, y);
    y = NODE(&n, BB_OP_CONV_TRANSPOSE, y, net_random(&n, -1, 1, DIMS(8, 3, 2, 2)),
             net_random(&n, -1, 1, DIMS(6)));
    assert_true(bb_node_set_int(n.graph, net_last(&n), "group", 2));
    net_output(&n, batch_norm(&n, y, 6));
    net_finish(&n);
    check_pass(&n, bb_pass_prepare, 1e-6);
    assert_int_equal(n.graph->n_nodes, 3); /* Conv, Relu, ConvTranspose */
    bb_graph_destroy(n.graph);
}

static void test_folds_after_gemm(void **state) {
    (void)state;
    net n = net_create();
    int x = net_input(&n, BB_DTYPE_F32, DIMS(2, 12));
    int y = NODE(&n, BB_OP_MATMUL, x, net_random(&n, -1, 1, DIMS(12, 7)));
    y = NODE(&n, BB_OP_ADD, y, net_random(&n, -1, 1, DIMS(7)));
    y = batch_norm(&n, y, 7);
    y = NODE(&n, BB_OP_GEMM, y, net_random(&n, -1, 1, DIMS(7, 5)), net_random(&n, -1, 1, DIMS(5)));
    assert_true(bb_node_set_float(n.graph, net_last(&n), "alpha", 0.5f));
    assert_true(bb_node_set_float(n.graph, net_last(&n), "beta", 2.0f));
    net_output(&n, batch_norm(&n, y, 5));
    net_finish(&n);
    check_pass(&n, bb_pass_prepare, 1e-6);
    assert_int_equal(n.graph->n_nodes, 2);
    assert_int_equal(count_op(n.graph, BB_OP_GEMM), 2);
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(bb_node_int(&n.graph->nodes[i], "transB", 0), 1);
    bb_graph_destroy(n.graph);
}

/* A result that something else reads, a constant along another axis, and one that would enlarge the
 * result must stay. */
static void test_keeps_what_cannot_fold(void **state) {
    (void)state;
    net n = net_create();
    int x = net_input(&n, BB_DTYPE_F32, DIMS(1, 3, 4, 8));
    int a = NODE(&n, BB_OP_CONV, x, net_random(&n, -1, 1, DIMS(8, 3, 1, 1)));
    net_output(&n, batch_norm(&n, a, 8));
    net_output(&n, NODE(&n, BB_OP_RELU, a));
    int b = NODE(&n, BB_OP_CONV, x, net_random(&n, -1, 1, DIMS(8, 3, 1, 1)));
    net_output(&n, NODE(&n, BB_OP_MUL, b, net_random(&n, 1, 2, DIMS(8))));
    int c = NODE(&n, BB_OP_CONV, x, net_random(&n, -1, 1, DIMS(8, 3, 1, 1)));
    net_output(&n, NODE(&n, BB_OP_ADD, c, net_random(&n, 1, 2, DIMS(2, 1, 1, 1, 1))));
    int d = NODE(&n, BB_OP_CONV, x, net_random(&n, -1, 1, DIMS(8, 3, 1, 1)));
    net_output(&n, NODE(&n, BB_OP_DIV, scalar(&n, 3), d));
    net_finish(&n);
    size_t nodes = n.graph->n_nodes;
    check_pass(&n, bb_pass_prepare, 1e-6);
    assert_int_equal(n.graph->n_nodes, nodes);
    bb_graph_destroy(n.graph);
}

/* ---- low-bit graphs -------------------------------------------------------------------------- */

static int quantized_weights(net *n, int64_t rows, int64_t depth) {
    return NODE(n, BB_OP_QONNX_QUANT, net_random(n, -1, 1, DIMS(rows, depth)), scalar(n, 0.25f),
                scalar(n, 0), scalar(n, 3));
}

static void test_quantized_weights_stay(void **state) {
    (void)state;
    net n = net_create();
    int x = net_input(&n, BB_DTYPE_F32, DIMS(1, 16));
    int w = NODE(&n, BB_OP_TRANSPOSE, quantized_weights(&n, 6, 16));
    int y = batch_norm(&n, NODE(&n, BB_OP_MATMUL, x, w), 6);
    y = NODE(&n, BB_OP_MUL, y, scalar(&n, 2));
    net_output(&n, NODE(&n, BB_OP_IDENTITY, y));
    net_finish(&n);
    assert_true(bb_graph_is_quantized(n.graph));
    check_pass(&n, bb_pass_prepare_quantized, 1e-6);
    assert_int_equal(n.graph->n_nodes, 4); /* Quant, Gemm, BatchNormalization, Mul */
    assert_int_equal(count_op(n.graph, BB_OP_QONNX_QUANT), 1);
    assert_int_equal(count_op(n.graph, BB_OP_BATCH_NORMALIZATION), 1);
    assert_int_equal(count_op(n.graph, BB_OP_GEMM), 1);
    assert_int_equal(bb_node_int(&n.graph->nodes[1], "transB", 0), 1);
    check_pass(&n, bb_pass_prepare, 1e-6); /* as a float graph everything goes into the Gemm */
    assert_int_equal(n.graph->n_nodes, 1);
    bb_graph_destroy(n.graph);
}

/* ---- identities ------------------------------------------------------------------------------ */

static void test_removes_identities(void **state) {
    (void)state;
    net n = net_create();
    int x = net_input(&n, BB_DTYPE_F32, DIMS(1, 4, 3, 3));
    int y = NODE(&n, BB_OP_IDENTITY, x);
    y = NODE(&n, BB_OP_RELU, y);
    y = NODE(&n, BB_OP_DROPOUT, y);
    y = NODE(&n, BB_OP_CAST, y);
    assert_true(bb_node_set_int(n.graph, net_last(&n), "to", BB_DTYPE_F32));
    y = NODE(&n, BB_OP_RESHAPE, y, CONST_INTS(&n, 0, -1, 3, 3));
    y = NODE(&n, BB_OP_TRANSPOSE, y);
    assert_true(bb_node_set_ints(n.graph, net_last(&n), "perm", INTS(0, 1, 2, 3)));
    y = NODE(&n, BB_OP_PAD, y, CONST_INTS(&n, 0, 0, 0, 0, 0, 0, 0, 0));
    y = NODE(&n, BB_OP_SLICE, y, CONST_INTS(&n, 0), CONST_INTS(&n, 100), CONST_INTS(&n, 1));
    y = NODE(&n, BB_OP_CONCAT, y);
    y = NODE(&n, BB_OP_SUM, y);
    y = NODE(&n, BB_OP_CLIP, y);
    net_output(&n, NODE(&n, BB_OP_IDENTITY, y));
    net_output(&n, NODE(&n, BB_OP_IDENTITY, x)); /* an input as output needs its node */
    net_finish(&n);
    check_pass(&n, bb_pass_remove_identities, 0);
    assert_int_equal(n.graph->n_nodes, 2);
    bb_graph_destroy(n.graph);
}

static void test_keeps_what_only_looks_like_identity(void **state) {
    (void)state;
    net n = net_create();
    int x = NODE(&n, BB_OP_EXP, net_input(&n, BB_DTYPE_F32, DIMS(1, 4, 3, 3)));
    int y = NODE(&n, BB_OP_SLICE, x, CONST_INTS(&n, -1), CONST_INTS(&n, -100), CONST_INTS(&n, 3),
                 CONST_INTS(&n, -1)); /* reverses */
    net_output(&n, y);
    net_output(&n, NODE(&n, BB_OP_PAD, x, CONST_INTS(&n, 0, 0, 1, 0, 0, 0, -1, 0)));
    y = NODE(&n, BB_OP_TRANSPOSE, x);
    assert_true(bb_node_set_ints(n.graph, net_last(&n), "perm", INTS(0, 1, 3, 2)));
    net_output(&n, y);
    net_finish(&n);
    check_pass(&n, bb_pass_prepare, 0);
    assert_int_equal(n.graph->n_nodes, 4);
    bb_graph_destroy(n.graph);
}

/* ---- canonical forms ------------------------------------------------------------------------- */

static void test_takes_in_pads(void **state) {
    (void)state;
    net n = net_create();
    int x = net_input(&n, BB_DTYPE_F32, DIMS(1, 3, 8, 9));
    int pads = CONST_INTS(&n, 0, 0, 1, 2, 0, 0, 3, 0);
    int conv =
        NODE(&n, BB_OP_CONV, NODE(&n, BB_OP_PAD, x, pads), net_random(&n, -1, 1, DIMS(4, 3, 3, 3)));
    assert_true(bb_node_set_ints(n.graph, net_last(&n), "pads", INTS(1, 0, 0, 1)));
    net_output(&n, conv);
    int pool = NODE(&n, BB_OP_AVERAGE_POOL, NODE(&n, BB_OP_PAD, x, pads));
    assert_true(bb_node_set_ints(n.graph, net_last(&n), "kernel_shape", INTS(3, 3)));
    net_output(&n, pool);
    /* Not these: a fill that is not zero, an average that does not count its own pads. */
    int filled = NODE(&n, BB_OP_PAD, x, pads, scalar(&n, 1));
    net_output(&n, NODE(&n, BB_OP_CONV, filled, net_random(&n, -1, 1, DIMS(4, 3, 3, 3))));
    int uneven = NODE(&n, BB_OP_AVERAGE_POOL, NODE(&n, BB_OP_PAD, x, pads));
    assert_true(bb_node_set_ints(n.graph, net_last(&n), "kernel_shape", INTS(3, 3)));
    assert_true(bb_node_set_ints(n.graph, net_last(&n), "pads", INTS(1, 1, 1, 1)));
    net_output(&n, uneven);
    net_finish(&n);
    check_pass(&n, bb_pass_prepare, 1e-6);
    assert_int_equal(count_op(n.graph, BB_OP_PAD), 2);
    bb_graph_destroy(n.graph);
}

static void test_pools_and_flatten(void **state) {
    (void)state;
    net n = net_create();
    int x = net_input(&n, BB_DTYPE_F32, DIMS(2, 6, 4, 5));
    int mean = NODE(&n, BB_OP_REDUCE_MEAN, x, CONST_INTS(&n, 2, -1));
    assert_true(bb_node_set_int(n.graph, net_last(&n), "keepdims", 0));
    net_output(&n, mean);
    int pool = NODE(&n, BB_OP_AVERAGE_POOL, NODE(&n, BB_OP_RELU, x));
    assert_true(bb_node_set_ints(n.graph, net_last(&n), "kernel_shape", INTS(4, 5)));
    net_output(&n, NODE(&n, BB_OP_RESHAPE, pool, CONST_INTS(&n, 2, 6)));
    int channels = NODE(&n, BB_OP_REDUCE_MEAN, x, CONST_INTS(&n, 1, 3));
    net_output(&n, channels);
    net_finish(&n);
    check_pass(&n, bb_pass_prepare, 1e-6);
    assert_int_equal(count_op(n.graph, BB_OP_GLOBAL_AVERAGE_POOL), 2);
    assert_int_equal(count_op(n.graph, BB_OP_FLATTEN), 2);
    assert_int_equal(count_op(n.graph, BB_OP_REDUCE_MEAN), 1);
    bb_graph_destroy(n.graph);
}

static int relu6_of_plus_3(net *n, int x) {
    int plus = NODE(n, BB_OP_ADD, x, scalar(n, 3));
    return NODE(n, BB_OP_CLIP, plus, scalar(n, 0), scalar(n, 6));
}

static void test_activations(void **state) {
    (void)state;
    net n = net_create();
    int x = net_input(&n, BB_DTYPE_F32, DIMS(3, 50));
    int y = NODE(&n, BB_OP_MUL, x, scalar(&n, 5));
    net_output(&n,
               NODE(&n, BB_OP_DIV, NODE(&n, BB_OP_MUL, y, relu6_of_plus_3(&n, y)), scalar(&n, 6)));
    net_output(&n, NODE(&n, BB_OP_MUL,
                        NODE(&n, BB_OP_MUL, relu6_of_plus_3(&n, y), scalar(&n, 1.0f / 6)), y));
    net_output(&n, NODE(&n, BB_OP_DIV, relu6_of_plus_3(&n, y), scalar(&n, 6)));
    int gate = NODE(&n, BB_OP_SIGMOID, y);
    net_output(&n, NODE(&n, BB_OP_MUL, y, gate));
    net_output(&n, NODE(&n, BB_OP_MIN, NODE(&n, BB_OP_MAX, y, scalar(&n, 0)), scalar(&n, 6)));
    net_output(&n, NODE(&n, BB_OP_CLIP, y, scalar(&n, 0)));
    net_finish(&n);
    check_pass(&n, bb_pass_prepare, 1e-6);
    assert_int_equal(count_op(n.graph, BB_OP_HARD_SWISH), 2);
    assert_int_equal(count_op(n.graph, BB_OP_HARD_SIGMOID), 1);
    assert_int_equal(count_op(n.graph, BB_OP_CLIP), 1);
    assert_int_equal(count_op(n.graph, BB_OP_RELU), 1);
    size_t silu = 0;
    int sigmoid;
    for (size_t i = 0; i < n.graph->n_nodes; i++)
        silu += bb_node_is_silu(n.graph, &n.graph->nodes[i], &sigmoid);
    assert_int_equal(silu, 1);
    assert_int_equal(n.graph->nodes[sigmoid].op, BB_OP_SIGMOID);
    bb_graph_destroy(n.graph);
}

/* Half of a clip's result is not a HardSwish: another reader, or other numbers. */
static void test_near_activations_stay(void **state) {
    (void)state;
    net n = net_create();
    int x = net_input(&n, BB_DTYPE_F32, DIMS(3, 50));
    int clip = relu6_of_plus_3(&n, x);
    net_output(&n, clip);
    net_output(&n, NODE(&n, BB_OP_DIV, NODE(&n, BB_OP_MUL, x, clip), scalar(&n, 6)));
    net_output(&n, NODE(&n, BB_OP_DIV, relu6_of_plus_3(&n, x), scalar(&n, 5)));
    int gate = NODE(&n, BB_OP_HARD_SIGMOID, x); /* default slope 0.2 */
    net_output(&n, NODE(&n, BB_OP_MUL, x, gate));
    net_finish(&n);
    check_pass(&n, bb_pass_prepare, 1e-6);
    assert_int_equal(count_op(n.graph, BB_OP_HARD_SWISH), 0);
    bb_graph_destroy(n.graph);
}

static int shuffle(net *n, int x, int64_t batch, int64_t groups, int64_t per, int64_t h,
                   int64_t w) {
    int y = NODE(n, BB_OP_RESHAPE, x, CONST_INTS(n, batch, groups, per, h, w));
    y = NODE(n, BB_OP_TRANSPOSE, y);
    assert_true(bb_node_set_ints(n->graph, net_last(n), "perm", INTS(0, 2, 1, 3, 4)));
    return NODE(n, BB_OP_RESHAPE, y, CONST_INTS(n, batch, -1, h, w));
}

static void test_channel_shuffle(void **state) {
    (void)state;
    net n = net_create();
    int x = net_input(&n, BB_DTYPE_F32, DIMS(2, 12, 3, 4));
    net_output(&n, NODE(&n, BB_OP_RELU, shuffle(&n, x, 2, 3, 4, 3, 4)));
    int back = shuffle(&n, shuffle(&n, NODE(&n, BB_OP_ABS, x), 2, 3, 4, 3, 4), 2, 4, 3, 3, 4);
    net_output(&n, NODE(&n, BB_OP_RELU, back)); /* the second undoes the first */
    /* Mixes images: not a choice of channels. */
    int y = NODE(&n, BB_OP_RESHAPE, x, CONST_INTS(&n, 12, 2, 3, 4));
    y = NODE(&n, BB_OP_TRANSPOSE, y);
    assert_true(bb_node_set_ints(n.graph, net_last(&n), "perm", INTS(1, 0, 2, 3)));
    net_output(&n, y);
    /* The first image twice: every channel in its place, but not of its image. */
    y = NODE(&n, BB_OP_RESHAPE, NODE(&n, BB_OP_EXP, x), CONST_INTS(&n, 2, 3, 4, 3, 4));
    y = NODE(&n, BB_OP_GATHER, y, CONST_INTS(&n, 0, 0));
    y = NODE(&n, BB_OP_RESHAPE, y, CONST_INTS(&n, 2, 12, 3, 4));
    net_output(&n, NODE(&n, BB_OP_RELU, y));
    net_finish(&n);
    check_pass(&n, bb_pass_prepare, 0);
    assert_int_equal(count_op(n.graph, BB_OP_GATHER), 2);
    assert_int_equal(count_op(n.graph, BB_OP_RESHAPE), 3);
    assert_int_equal(count_op(n.graph, BB_OP_TRANSPOSE), 1);
    bb_graph_destroy(n.graph);
}

/* A symbolic batch: Shape, Gather, Concat into Reshape and Resize disappear. */
static void test_symbolic_shapes_fold(void **state) {
    (void)state;
    net n = net_create();
    int x = net_input(&n, BB_DTYPE_F32, DIMS(-1, 4, 5, 6));
    int shape = NODE(&n, BB_OP_SHAPE, x);
    int batch = NODE(&n, BB_OP_GATHER, shape, CONST_INTS(&n, 0));
    int flat = NODE(&n, BB_OP_CONCAT, batch, CONST_INTS(&n, -1));
    net_output(&n, NODE(&n, BB_OP_RESHAPE, x, flat));
    int head = NODE(&n, BB_OP_SLICE, shape, CONST_INTS(&n, 0), CONST_INTS(&n, 2));
    int sizes = NODE(&n, BB_OP_CONCAT, head, CONST_INTS(&n, 10, 12));
    net_output(&n, NODE(&n, BB_OP_RESIZE, NODE(&n, BB_OP_RELU, x), -1, -1, sizes));
    int plane = NODE(&n, BB_OP_MUL, NODE(&n, BB_OP_GATHER, shape, CONST_INTS(&n, 2)),
                     NODE(&n, BB_OP_GATHER, shape, CONST_INTS(&n, 3)));
    int rows = NODE(&n, BB_OP_CONCAT, batch, CONST_INTS(&n, 4), plane);
    net_output(&n, NODE(&n, BB_OP_RESHAPE, x, rows));
    assert_int_equal(bb_graph_link(n.graph, &n.err), BB_STATUS_OK);
    if (bb_graph_fold_constants(n.graph, true, &n.err) != BB_STATUS_OK)
        fail_msg("%s", n.err.message);
    assert_int_equal(n.graph->n_nodes, 4); /* Reshape, Relu, Resize, Reshape */
    const bb_value *y = &n.graph->values[n.graph->outputs[1]];
    assert_int_equal(y->rank, 4);
    assert_int_equal(y->dims[0], -1);
    assert_int_equal(y->dims[3], 12);
    y = &n.graph->values[n.graph->outputs[0]];
    assert_int_equal(y->dims[0], -1);
    assert_int_equal(y->dims[1], 120);
    y = &n.graph->values[n.graph->outputs[2]];
    assert_int_equal(y->dims[2], 30);
    check_pass(&n, bb_pass_prepare, 0);
    bb_graph_destroy(n.graph);
}

/* view(batch, 2, c/2, h, w), transpose, view(batch, -1, h, w) with every number taken from Shape,
 * with a symbolic batch. */
static void test_symbolic_shuffle(void **state) {
    (void)state;
    net n = net_create();
    int x = net_input(&n, BB_DTYPE_F32, DIMS(-1, 8, 3, 4));
    int a = NODE(&n, BB_OP_RELU, x);
    int shape = NODE(&n, BB_OP_SHAPE, a);
    int dims[4];
    for (int i = 0; i < 4; i++) {
        dims[i] = NODE(&n, BB_OP_GATHER, shape, CONST_INTS(&n, i));
        if (i == 1)
            dims[1] = NODE(&n, BB_OP_DIV, dims[1], CONST_INTS(&n, 2));
    }
    int five = NODE(&n, BB_OP_CONCAT, dims[0], CONST_INTS(&n, 2), dims[1], dims[2], dims[3]);
    int y = NODE(&n, BB_OP_TRANSPOSE, NODE(&n, BB_OP_RESHAPE, a, five));
    assert_true(bb_node_set_ints(n.graph, net_last(&n), "perm", INTS(0, 2, 1, 3, 4)));
    int four = NODE(&n, BB_OP_CONCAT, dims[0], CONST_INTS(&n, -1), dims[2], dims[3]);
    net_output(&n, NODE(&n, BB_OP_RELU, NODE(&n, BB_OP_RESHAPE, y, four)));
    /* Here dim 0 is not the batch alone: nothing may be assumed. */
    int merged = NODE(&n, BB_OP_RESHAPE, x, CONST_INTS(&n, -1, 4, 3, 4));
    net_output(&n, NODE(&n, BB_OP_RESHAPE, merged, four));
    assert_int_equal(bb_graph_link(n.graph, &n.err), BB_STATUS_OK);
    if (bb_graph_fold_constants(n.graph, true, &n.err) != BB_STATUS_OK ||
        bb_pass_canonicalise(n.graph, &n.err) != BB_STATUS_OK)
        fail_msg("%s", n.err.message);
    assert_int_equal(count_op(n.graph, BB_OP_TRANSPOSE), 0);
    assert_int_equal(n.graph->values[n.graph->outputs[0]].dims[1], 8);
    assert_int_equal(n.graph->values[n.graph->outputs[1]].dims[1], -1);
    check_pass(&n, bb_pass_prepare, 0);
    bb_graph_destroy(n.graph);
}

/* ---- allocation failures --------------------------------------------------------------------- */

static net many_patterns(void) {
    net n = net_create();
    int x = net_input(&n, BB_DTYPE_F32, DIMS(1, 4, 4, 4));
    int y = NODE(&n, BB_OP_PAD, x, CONST_INTS(&n, 0, 0, 1, 1, 0, 0, 1, 1));
    y = NODE(&n, BB_OP_CONV, y, net_random(&n, -1, 1, DIMS(4, 4, 3, 3)));
    y = NODE(&n, BB_OP_IDENTITY, batch_norm(&n, y, 4));
    y = NODE(&n, BB_OP_MIN, NODE(&n, BB_OP_MAX, y, scalar(&n, 0)), scalar(&n, 6));
    y = shuffle(&n, y, 1, 2, 2, 4, 4);
    y = NODE(&n, BB_OP_MUL, y, NODE(&n, BB_OP_DIV, relu6_of_plus_3(&n, y), scalar(&n, 6)));
    y = NODE(&n, BB_OP_REDUCE_MEAN, y, CONST_INTS(&n, 2, 3));
    assert_true(bb_node_set_int(n.graph, net_last(&n), "keepdims", 0));
    y = NODE(&n, BB_OP_MATMUL, y, NODE(&n, BB_OP_TRANSPOSE, quantized_weights(&n, 3, 4)));
    net_output(&n, NODE(&n, BB_OP_ADD, y, net_random(&n, -1, 1, DIMS(3))));
    net_finish(&n);
    return n;
}

/* Conv, Clip, Gather, HardSwish, pool, Flatten, Gemm remain. Whatever allocation fails, the pass
 * says so; the graph can still be destroyed. */
static void test_allocation_failures(void **state) {
    (void)state;
    for (long k = 0;; k++) {
        net n = many_patterns();
        bb_alloc_fail_after(k);
        bb_status status = bb_pass_prepare(n.graph, &n.err);
        bb_alloc_fail_after(-1);
        assert_true(status == BB_STATUS_OK || status == BB_STATUS_OUT_OF_MEMORY);
        assert_true(status == BB_STATUS_OK || n.err.message[0]);
        size_t nodes = n.graph->n_nodes;
        bb_graph_destroy(n.graph);
        if (status == BB_STATUS_OK && k > 0) {
            assert_true(k > 20);
            assert_int_equal(nodes, 7);
            break;
        }
    }
}

/* ---- real networks --------------------------------------------------------------------------- */

static void check_model(const char *name, bool as_float, double tolerance) {
    static const pass passes[] = {bb_pass_prepare_quantized, bb_pass_prepare};
    for (size_t i = 0; i < (as_float ? 2 : 1); i++) {
        net n = {0};
        bb_rng_seed(&n.rng, 3);
        if (bb_onnx_read(data_path(name), &n.graph, &n.err) != BB_STATUS_OK)
            fail_msg("%s", n.err.message);
        check_pass(&n, passes[i], tolerance);
        for (size_t v = 0; v < n.graph->n_nodes; v++)
            for (int k = 0; k < n.graph->nodes[v].n_out; k++) {
                int out = n.graph->nodes[v].out[k];
                size_t count;
                assert_true(out < 0 || bb_value_elements(&n.graph->values[out], &count));
            }
        bb_graph_destroy(n.graph);
    }
}

static void test_real_float_networks(void **state) {
    (void)state;
    check_model("models/resnet20_cifar10/resnet20_cifar10.onnx", true, 1e-5);
    check_model("models/resnet8_cifar10/resnet8_cifar10.onnx", true, 1e-5);
    check_model("models/squeezenet_imagenet/squeezenet1.0_dc.onnx", true, 1e-5);
    check_model("models/mobilenetv1_025_128_imagenet/mobilenetv1_025_128.onnx", true, 1e-5);
    check_model("models/fastestdet_coco/FastestDet.onnx", true, 1e-4);
    check_model("models/ultraface_rfb320/version-RFB-320.onnx", true, 1e-4);
    check_model("models/ultraface_rfb320/version-RFB-320_simplified.onnx", true, 1e-4);
    check_model("models/yunet_face/yunet_n_320_320.onnx", true, 1e-4);
    check_model("models/espnet_camvid/espnet_camvid.onnx", true, 1e-4);
    check_model("models/yolofastest_xl_coco/yolo-fastest-1.1-xl.onnx", true, 1e-4);
}

/* The integer arithmetic of the cnv networks is exact in float32, whatever is folded; in the others
 * a fold could move a value across a rounding boundary. */
static void test_real_low_bit_networks(void **state) {
    (void)state;
    check_model("models/qonnx_small/kwsmlp_w3a3.onnx", false, 1e-6);
    check_model("models/qonnx_small/TFC_1W2A.onnx", false, 1e-6);
    check_model("models/cnv_lowbit_cifar10/cnv_w1a1.onnx", true, 0);
    check_model("models/cnv_lowbit_cifar10/cnv_w2a2_qonnx.onnx.gz", true, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_folds_batch_norm_and_arithmetic),
        cmocka_unit_test(test_folds_after_gemm),
        cmocka_unit_test(test_keeps_what_cannot_fold),
        cmocka_unit_test(test_quantized_weights_stay),
        cmocka_unit_test(test_removes_identities),
        cmocka_unit_test(test_keeps_what_only_looks_like_identity),
        cmocka_unit_test(test_takes_in_pads),
        cmocka_unit_test(test_pools_and_flatten),
        cmocka_unit_test(test_activations),
        cmocka_unit_test(test_near_activations_stay),
        cmocka_unit_test(test_channel_shuffle),
        cmocka_unit_test(test_symbolic_shapes_fold),
        cmocka_unit_test(test_symbolic_shuffle),
        cmocka_unit_test(test_allocation_failures),
        cmocka_unit_test(test_real_float_networks),
        cmocka_unit_test(test_real_low_bit_networks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
