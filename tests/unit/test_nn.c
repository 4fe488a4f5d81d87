/* SPDX-License-Identifier: Apache-2.0 */
/* The executor: fusion, buffers shared in place, taps, errors, the public float API. */
#include "nn_net.h"

/* Two residual blocks, one with a projection, a tensor that is read late, a gate, and a head. */
static void build_residual(net *n) {
    int x = net_input(n, BB_DTYPE_F32, DIMS(1, 3, 12, 12));
    int stem = NODE(n, BB_OP_CONV, x, net_random(n, -1, 1, DIMS(16, 3, 3, 3)), -1);
    int norm = NODE(n, BB_OP_BATCH_NORMALIZATION, stem, net_random(n, 0.5, 1.5, DIMS(16)),
                    net_random(n, -1, 1, DIMS(16)), net_random(n, -1, 1, DIMS(16)),
                    net_random(n, 0.5, 2, DIMS(16)));
    int a = NODE(n, BB_OP_RELU, norm);
    int b = NODE(n, BB_OP_CONV, a, net_random(n, -0.2, 0.2, DIMS(16, 16, 1, 1)),
                 net_random(n, -1, 1, DIMS(16)));
    int sum = NODE(n, BB_OP_ADD, b, a);
    int c = NODE(n, BB_OP_LEAKY_RELU, sum);
    int left = NODE(n, BB_OP_CONV, c, net_random(n, -0.2, 0.2, DIMS(24, 16, 3, 3)), -1);
    int right = NODE(n, BB_OP_CONV, c, net_random(n, -0.2, 0.2, DIMS(24, 16, 3, 3)), -1);
    int d = NODE(n, BB_OP_TANH, NODE(n, BB_OP_ADD, left, right));
    int late = NODE(n, BB_OP_CONV, a, net_random(n, -0.2, 0.2, DIMS(24, 16, 3, 3)), -1);
    int scaled = NODE(n, BB_OP_MUL, late, net_random(n, -1, 1, DIMS(1, 24, 1, 1)));
    int halved = NODE(n, BB_OP_SUB, net_random(n, 0, 1, DIMS(1)), scaled);
    int gate = NODE(n, BB_OP_SIGMOID, NODE(n, BB_OP_GLOBAL_AVERAGE_POOL, halved));
    int gated = NODE(n, BB_OP_MUL, halved, gate);
    int joined = NODE(n, BB_OP_MUL, d, gated);
    int both = NODE(n, BB_OP_CONCAT, joined, d);
    assert_true(bb_node_set_int(n->graph, net_last(n), "axis", 1));
    int pooled = NODE(n, BB_OP_GLOBAL_AVERAGE_POOL, both);
    int flat = NODE(n, BB_OP_FLATTEN, pooled);
    int head = NODE(n, BB_OP_GEMM, flat, net_random(n, -1, 1, DIMS(48, 10)),
                    net_random(n, -1, 1, DIMS(10)));
    net_output(n, NODE(n, BB_OP_SIGMOID, head));
    net_output(n, d);
    net_finish(n);
}

typedef struct seen {
    int order[64];
    float *copy[64];
    size_t n;
} seen;

static int record(void *user, int value, const bb_array *array) {
    seen *s = user;
    size_t count = 1;
    for (int i = 0; i < array->rank; i++)
        count *= (size_t)array->dims[i];
    s->order[s->n] = value;
    s->copy[s->n] = malloc(count * sizeof(float));
    memcpy(s->copy[s->n++], array->data, count * sizeof(float));
    return 0;
}

static void test_fused_equals_tapped(void **state) {
    net n = net_create();
    build_residual(&n);
    float *in = random_floats(&n, 432);
    bb_executor *fused, *tapped;
    net_run(&n, (const float *const[]){in}, &fused);
    int values[64];
    size_t count = 0;
    for (size_t i = 0; i < n.graph->n_nodes; i++)
        values[count++] = n.graph->nodes[i].out[0];
    bb_executor_options options = {.tapped = values, .n_tapped = count};
    tapped = net_executor(&n, &options);
    bb_array array = net_array(&n, 0, in);
    seen s = {.n = 0};
    assert_int_equal(bb_executor_run(tapped, &array, record, &s, &n.err), BB_STATUS_OK);
    assert_int_equal(s.n, count);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(s.order[i], values[i]);
    for (size_t i = 0; i < 2; i++) {
        bb_array a = net_result(&n, fused, i), b = net_result(&n, tapped, i);
        size_t elements = i == 0 ? 10 : 24 * 8 * 8;
        assert_near(a.data, b.data, elements, 1e-5);
    }
    /* the tapped Relu really is the Relu of the tapped batch norm */
    for (size_t i = 0; i < 16 * 10 * 10; i++)
        assert_true(s.copy[2][i] == (s.copy[1][i] > 0 ? s.copy[1][i] : 0));
    for (size_t i = 0; i < s.n; i++)
        free(s.copy[i]);
    bb_executor_destroy(fused);
    bb_executor_destroy(tapped);
    free(in);
    bb_graph_destroy(n.graph);
}

static void test_runs_repeat(void **state) {
    net n = net_create();
    build_residual(&n);
    float *in = random_floats(&n, 432), *other = random_floats(&n, 432), first[10];
    bb_executor *ex;
    net_run(&n, (const float *const[]){in}, &ex);
    memcpy(first, net_result(&n, ex, 0).data, sizeof(first));
    bb_array a = net_array(&n, 0, other), b = net_array(&n, 0, in);
    assert_int_equal(bb_executor_run(ex, &a, NULL, NULL, &n.err), BB_STATUS_OK);
    assert_int_equal(bb_executor_run(ex, &b, NULL, NULL, &n.err), BB_STATUS_OK);
    assert_memory_equal(net_result(&n, ex, 0).data, first, sizeof(first));
    bb_executor_destroy(ex);
    free(in);
    free(other);
    bb_graph_destroy(n.graph);
}

/* An input and a constant that are outputs too, and functions that could overwrite either. */
static void test_outputs_are_not_overwritten(void **state) {
    net n = net_create();
    int x = net_input(&n, BB_DTYPE_F32, DIMS(1, 4));
    int c = net_random(&n, -1, 1, DIMS(1, 4));
    int y = NODE(&n, BB_OP_RELU, x);
    int z = NODE(&n, BB_OP_ADD, y, c);
    int r = NODE(&n, BB_OP_RESHAPE, z, -1);
    void *dims;
    int shape = net_constant(&n, BB_DTYPE_I64, DIMS(1), &dims);
    *(int64_t *)dims = 4;
    net_last(&n)->in[1] = shape;
    int t = NODE(&n, BB_OP_TANH, r);
    int outputs[] = {x, y, z, r, t, c};
    for (size_t i = 0; i < BB_COUNT(outputs); i++)
        net_output(&n, outputs[i]);
    net_finish(&n);
    float in[4] = {-1, 2, -3, 4}, kept[4] = {-1, 2, -3, 4};
    bb_executor *ex;
    net_run(&n, (const float *const[]){in}, &ex);
    const float *offset = n.graph->values[c].data;
    for (int i = 0; i < 4; i++) {
        float relu = in[i] > 0 ? in[i] : 0, sum = relu + offset[i], th = tanhf(sum);
        assert_near((float *)net_result(&n, ex, 0).data + i, &in[i], 1, 0.0);
        assert_near((float *)net_result(&n, ex, 1).data + i, &relu, 1, 0.0);
        assert_near((float *)net_result(&n, ex, 2).data + i, &sum, 1, 0.0);
        assert_near((float *)net_result(&n, ex, 3).data + i, &sum, 1, 0.0);
        assert_near((float *)net_result(&n, ex, 4).data + i, &th, 1, 1e-5);
        assert_near((float *)net_result(&n, ex, 5).data + i, &offset[i], 1, 0.0);
    }
    assert_memory_equal(in, kept, sizeof(in));
    bb_executor_destroy(ex);
    bb_graph_destroy(n.graph);
}

/* The last layer of SqueezeNet, which oneDNN computes as a matrix product without AVX-512. */
static void build_padded_head(net *n) {
    int x = net_input(n, BB_DTYPE_F32, DIMS(1, 512, 13, 13));
    int y = NODE(n, BB_OP_CONV, x, net_random(n, -1, 1, DIMS(1000, 512, 1, 1)),
                 net_random(n, -1, 1, DIMS(1000)));
    assert_true(bb_node_set_ints(n->graph, net_last(n), "pads", INTS(1, 1, 1, 1)));
    net_output(n, NODE(n, BB_OP_RELU, y));
    net_finish(n);
}

static void check_threads(void (*build)(net *), size_t inputs, size_t outputs) {
    net n = net_create();
    build(&n);
    float *in = random_floats(&n, inputs);
    bb_executor *one;
    net_run(&n, (const float *const[]){in}, &one);
    bb_array array = net_array(&n, 0, in);
    for (size_t threads = 2; threads <= 4; threads++) {
        bb_executor_options options = {.threads = threads};
        bb_executor *many = net_executor(&n, &options);
        assert_int_equal(bb_executor_run(many, &array, NULL, NULL, &n.err), BB_STATUS_OK);
        assert_memory_equal(net_result(&n, many, 0).data, net_result(&n, one, 0).data,
                            outputs * sizeof(float));
        bb_executor_destroy(many);
    }
    bb_executor_destroy(one);
    free(in);
    bb_graph_destroy(n.graph);
}

static void test_threads_agree(void **state) {
    check_threads(build_residual, 432, 10);
    check_threads(build_padded_head, 512 * 13 * 13, 1000 * 15 * 15);
}

static void test_errors(void **state) {
    net n = net_create();
    int x = net_input(&n, BB_DTYPE_F64, DIMS(1, 3, 4, 4));
    void *data;
    int w = net_constant(&n, BB_DTYPE_F64, DIMS(2, 3, 1, 1), &data);
    net_output(&n, NODE(&n, BB_OP_CONV, x, w));
    net_finish(&n);
    const int64_t *dims[1];
    bb_executor *ex = NULL;
    net_dims(&n, dims);
    assert_int_equal(bb_executor_create(n.graph, dims, NULL, &ex, &n.err), BB_STATUS_UNSUPPORTED);
    assert_non_null(strstr(n.err.message, "node 'n0' (Conv, opset 21)"));
    assert_null(ex);
    bb_graph_destroy(n.graph);

    n = net_create();
    build_residual(&n);
    float *in = random_floats(&n, 432);
    ex = net_executor(&n, NULL);
    bb_array array = net_array(&n, 0, in);
    bb_array out;
    assert_int_equal(bb_executor_output(ex, 0, &out, &n.err), BB_STATUS_INVALID_ARGUMENT);
    array.dims[3] = 11;
    assert_int_equal(bb_executor_run(ex, &array, NULL, NULL, &n.err), BB_STATUS_INVALID_ARGUMENT);
    assert_non_null(strstr(n.err.message, "'x'"));
    bb_executor_destroy(ex);
    bb_executor_options options = {.tapped = (int[]){100000}, .n_tapped = 1};
    net_dims(&n, dims);
    ex = NULL;
    assert_int_equal(bb_executor_create(n.graph, dims, &options, &ex, &n.err),
                     BB_STATUS_INVALID_ARGUMENT);
    free(in);
    bb_graph_destroy(n.graph);
}

static int stop_at_once(void *user, int value, const bb_array *array) {
    return 1;
}

static void test_tap_can_stop(void **state) {
    net n = net_create();
    build_residual(&n);
    float *in = random_floats(&n, 432);
    bb_executor_options options = {.tapped = n.graph->outputs, .n_tapped = 1};
    bb_executor *ex = net_executor(&n, &options);
    bb_array array = net_array(&n, 0, in);
    assert_int_equal(bb_executor_run(ex, &array, stop_at_once, NULL, &n.err), BB_STATUS_CANCELLED);
    assert_int_equal(bb_executor_run(ex, &array, NULL, NULL, &n.err), BB_STATUS_OK);
    bb_executor_destroy(ex);
    free(in);
    bb_graph_destroy(n.graph);
}

/* Whichever allocation fails, creation and the run end with OUT_OF_MEMORY and leak nothing. */
static void test_out_of_memory(void **state) {
    net n = net_create();
    build_residual(&n);
    float *in = random_floats(&n, 432);
    bb_array array = net_array(&n, 0, in);
    const int64_t *dims[1];
    net_dims(&n, dims);
    bb_status status = BB_STATUS_OUT_OF_MEMORY;
    for (long k = 0; status != BB_STATUS_OK && k < 5000; k++) {
        bb_executor *ex = NULL;
        bb_alloc_fail_after(k);
        status = bb_executor_create(n.graph, dims, NULL, &ex, &n.err);
        if (status == BB_STATUS_OK)
            status = bb_executor_run(ex, &array, NULL, NULL, &n.err);
        bb_alloc_fail_after(-1);
        bb_executor_destroy(ex);
        if (status != BB_STATUS_OK)
            assert_int_equal(status, BB_STATUS_OUT_OF_MEMORY);
    }
    assert_int_equal(status, BB_STATUS_OK);
    free(in);
    bb_graph_destroy(n.graph);
}

static void count_tap(void *user, const char *name, const float *data, const int64_t *dims,
                      int rank) {
    assert_non_null(name);
    assert_non_null(data);
    ++*(size_t *)user;
}

static void test_float_net(void **state) {
    net n = net_create();
    build_residual(&n);
    float *in = random_floats(&n, 432);
    bb_float_net *net1, *net2;
    size_t taps = 0;
    int64_t dims[4] = {0, 0, 0, 0};
    assert_int_equal(bb_float_net_create(n.graph, dims, 1, &net1, &n.err), BB_STATUS_OK);
    assert_int_equal(bb_float_net_create_tapped(n.graph, dims, 1, count_tap, &taps, &net2, &n.err),
                     BB_STATUS_OK);
    assert_int_equal(bb_float_net_run(net1, in, &n.err), BB_STATUS_OK);
    assert_int_equal(bb_float_net_run(net2, in, &n.err), BB_STATUS_OK);
    assert_int_equal(taps, n.graph->n_nodes);
    assert_int_equal(bb_float_net_outputs(net1), 2);
    const char *name;
    const float *a, *b;
    int64_t out[8];
    int rank;
    assert_int_equal(bb_float_net_output(net1, 0, &name, &a, out, &rank, &n.err), BB_STATUS_OK);
    assert_int_equal(bb_float_net_output(net2, 0, &name, &b, out, &rank, &n.err), BB_STATUS_OK);
    assert_int_equal(rank, 2);
    assert_int_equal(out[1], 10);
    assert_near(a, b, 10, 1e-5);
    bb_float_net_destroy(net1);
    bb_float_net_destroy(net2);
    free(in);
    bb_graph_destroy(n.graph);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fused_equals_tapped),
        cmocka_unit_test(test_runs_repeat),
        cmocka_unit_test(test_outputs_are_not_overwritten),
        cmocka_unit_test(test_threads_agree),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_tap_can_stop),
        cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_float_net),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
