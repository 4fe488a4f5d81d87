/* SPDX-License-Identifier: Apache-2.0 */
/* Graphs written as ONNX: reading them again gives the same nodes, constants and outputs. */
#include "bitbranch/export.h"
#include "nn_net.h"
#include "onnx/onnx.h"
#include <unistd.h>

static char path[64];

static bb_graph *round_trip(const bb_graph *graph) {
    bb_error err;
    bb_graph *again = NULL;
    snprintf(path, sizeof(path), "/tmp/bb-onnx-%ld.onnx", (long)getpid());
    if (bb_export_onnx(graph, path, &err) != BB_STATUS_OK)
        fail_msg("%s", err.message);
    if (bb_onnx_read(path, &again, &err) != BB_STATUS_OK)
        fail_msg("%s", err.message);
    unlink(path);
    assert_int_equal(again->opset, 21);
    return again;
}

/* Same bits from both graphs on the same input. */
static void assert_same_outputs(net *n, bb_graph *again) {
    net m = {.graph = again};
    size_t count;
    assert_true(bb_value_elements(&n->graph->values[n->graph->inputs[0]], &count));
    float *x = random_floats(n, count);
    const float *data[1] = {x};
    bb_executor *ex[2];
    net_run(n, data, &ex[0]);
    net_run(&m, data, &ex[1]);
    assert_int_equal(again->n_outputs, n->graph->n_outputs);
    for (size_t i = 0; i < again->n_outputs; i++) {
        bb_array a = net_result(n, ex[0], i), b = net_result(&m, ex[1], i);
        assert_dims(&b, a.rank, a.dims);
        assert_int_equal(a.dtype, b.dtype);
        assert_true(bb_dims_product(a.dims, (size_t)a.rank, &count));
        assert_memory_equal(a.data, b.data, count * bb_dtype_size(a.dtype));
    }
    for (int i = 0; i < 2; i++)
        bb_executor_destroy(ex[i]);
    free(x);
}

static void small_network_comes_back(void **state) {
    net n = net_create();
    int x = net_input(&n, BB_DTYPE_F32, DIMS(2, 3, 6, 6));
    int w = net_random(&n, -1, 1, DIMS(4, 3, 3, 3));
    int y = NODE(&n, BB_OP_CONV, x, w, -1);
    assert_true(bb_node_set_ints(n.graph, net_last(&n), "pads", INTS(1, 1, 1, 1)));
    assert_true(bb_node_set_ints(n.graph, net_last(&n), "strides", INTS(2, 2)));
    int norm[4];
    for (int i = 0; i < 4; i++)
        norm[i] = net_random(&n, 0.5, 1.5, DIMS(4));
    y = NODE(&n, BB_OP_BATCH_NORMALIZATION, y, norm[0], norm[1], norm[2], norm[3]);
    assert_true(bb_node_set_float(n.graph, net_last(&n), "epsilon", 0.125f));
    assert_true(bb_node_set_int(n.graph, net_last(&n), "spatial", 1)); /* dropped */
    y = NODE(&n, BB_OP_LEAKY_RELU, y);
    assert_true(bb_node_set_float(n.graph, net_last(&n), "alpha", 0.25f));
    int cast = NODE(&n, BB_OP_CAST, y);
    assert_true(bb_node_set_int(n.graph, net_last(&n), "to", BB_DTYPE_I32));
    int flat = NODE(&n, BB_OP_FLATTEN, y);
    int gemm = NODE(&n, BB_OP_GEMM, flat, net_random(&n, -1, 1, DIMS(5, 36)),
                    net_random(&n, -1, 1, DIMS(5)));
    assert_true(bb_node_set_int(n.graph, net_last(&n), "transB", 1));
    net_output(&n, gemm);
    net_output(&n, cast);
    net_finish(&n);
    bb_graph *again = round_trip(n.graph);
    assert_int_equal(again->n_nodes, n.graph->n_nodes);
    for (size_t i = 0; i < again->n_nodes; i++) {
        assert_int_equal(again->nodes[i].op, n.graph->nodes[i].op);
        assert_string_equal(again->nodes[i].name, n.graph->nodes[i].name);
    }
    const bb_node *bn = &again->nodes[1];
    assert_true(bb_node_float(bn, "epsilon", 0) == 0.125f);
    assert_null(bb_node_attr(bn, "spatial"));
    assert_same_outputs(&n, again);
    bb_graph_destroy(again);
    bb_graph_destroy(n.graph);
}

/* Constants of every element type, one name for all of them, through Concat-free casts. */
static void every_element_type_comes_back(void **state) {
    static const bb_dtype types[] = {BB_DTYPE_F32, BB_DTYPE_F64, BB_DTYPE_I64, BB_DTYPE_I32,
                                     BB_DTYPE_I16, BB_DTYPE_U16, BB_DTYPE_I8,  BB_DTYPE_U8,
                                     BB_DTYPE_I4,  BB_DTYPE_U4,  BB_DTYPE_BOOL};
    for (size_t t = 0; t < BB_COUNT(types); t++) {
        net n = net_create();
        void *data;
        int x = net_input(&n, BB_DTYPE_F32, DIMS(3));
        int c = net_constant(&n, types[t], DIMS(3), &data);
        uint8_t *bytes = data;
        for (size_t i = 0; i < 3 * bb_dtype_size(types[t]); i++)
            bytes[i] = (uint8_t)(types[t] == BB_DTYPE_BOOL ? i & 1 : i + 3);
        if (types[t] == BB_DTYPE_I4)
            bytes[1] = (uint8_t)-7;
        net_output(&n, NODE(&n, BB_OP_RELU, x));
        net_output(&n, c);
        net_finish(&n);
        bb_graph *again = round_trip(n.graph);
        const bb_value *v = &again->values[again->outputs[1]];
        assert_int_equal(v->dtype, types[t]);
        assert_int_equal(v->rank, 1);
        assert_memory_equal(v->data, data, 3 * bb_dtype_size(types[t]));
        bb_graph_destroy(again);
        bb_graph_destroy(n.graph);
    }
}

static void equal_names_are_told_apart(void **state) {
    net n = net_create();
    int x = net_input(&n, BB_DTYPE_F32, DIMS(2, 3));
    int a = net_random(&n, -1, 1, DIMS(3)), b = net_random(&n, -1, 1, DIMS(3)); /* both "c" */
    net_output(&n, NODE(&n, BB_OP_MUL, NODE(&n, BB_OP_ADD, x, a), b));
    net_finish(&n);
    bb_graph *again = round_trip(n.graph);
    assert_same_outputs(&n, again);
    bb_graph_destroy(again);
    bb_graph_destroy(n.graph);
}

static void failed_writes_leave_no_file(void **state) {
    net n = net_create();
    bb_error err;
    int x = net_input(&n, BB_DTYPE_F32, DIMS(2, 3));
    net_output(&n, NODE(&n, BB_OP_RELU, x));
    net_finish(&n);
    assert_int_equal(bb_export_onnx(n.graph, "/nowhere/x.onnx", &err), BB_STATUS_IO);
    n.graph->nodes[0].op = BB_OP_CONSTANT_OF_SHAPE;
    snprintf(path, sizeof(path), "/tmp/bb-onnx-%ld.onnx", (long)getpid());
    assert_int_equal(bb_export_onnx(n.graph, path, &err), BB_STATUS_UNSUPPORTED);
    assert_non_null(strstr(err.message, "'n0'"));
    assert_int_equal(access(path, F_OK), -1);
    bb_graph_destroy(n.graph);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_network_comes_back),
        cmocka_unit_test(every_element_type_comes_back),
        cmocka_unit_test(equal_names_are_told_apart),
        cmocka_unit_test(failed_writes_leave_no_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
