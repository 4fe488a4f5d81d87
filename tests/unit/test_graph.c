/* SPDX-License-Identifier: Apache-2.0 */
/* The graph: order, uses, windows, shape rules, extraction; evaluation where the ONNX operator
 * tests do not reach; the operator table of the documentation. */
#include "unit.h"

#include "graph/shape.h"
#include "nn_net.h"

/* ---- link, uses, extraction ------------------------------------------------------------------ */

/* x -> a -> b -> y, x -> dead; nodes added in reverse. */
static net reversed_chain(int *values) {
    net n = net_create();
    static const char *const names[] = {"a", "b", "y", "dead"};
    static const bb_op ops[] = {BB_OP_RELU, BB_OP_ABS, BB_OP_NEG, BB_OP_EXP};
    int x = net_input(&n, BB_DTYPE_F32, DIMS(2, 3));
    values[0] = x;
    for (int i = 0; i < 4; i++)
        values[i + 1] = bb_graph_add_value(n.graph, names[i], BB_DTYPE_F32, -1, NULL);
    for (int i = 3; i >= 0; i--) {
        int in = i == 3 ? x : values[i];
        assert_true(bb_graph_add_node(n.graph, names[i], ops[i], 1, &in, 1, &values[i + 1]) >= 0);
    }
    net_output(&n, values[3]);
    return n;
}

static void test_link_sorts_and_drops(void **state) {
    (void)state;
    int v[5];
    net n = reversed_chain(v);
    net_finish(&n);
    assert_int_equal(n.graph->n_nodes, 3);
    assert_string_equal(n.graph->nodes[0].name, "a");
    assert_string_equal(n.graph->nodes[1].name, "b");
    assert_string_equal(n.graph->nodes[2].name, "y");
    for (int i = 0; i < 3; i++)
        assert_int_equal(n.graph->values[v[i + 1]].producer, i);
    assert_int_equal(n.graph->values[v[4]].producer, -1);
    assert_int_equal(n.graph->values[v[3]].rank, 2);
    bb_graph_destroy(n.graph);
}

static void test_link_refuses(void **state) {
    (void)state;
    int v[5];
    net n = reversed_chain(v);
    n.graph->nodes[3].in[0] = v[3]; /* a reads y */
    assert_int_equal(bb_graph_link(n.graph, &n.err), BB_STATUS_BAD_FILE);
    assert_non_null(strstr(n.err.message, "cycle"));
    bb_graph_destroy(n.graph);
    n = reversed_chain(v);
    n.graph->nodes[0].out[0] = v[1]; /* two nodes make a */
    assert_int_equal(bb_graph_link(n.graph, &n.err), BB_STATUS_BAD_FILE);
    assert_non_null(strstr(n.err.message, "defined twice"));
    bb_graph_destroy(n.graph);
    n = reversed_chain(v);
    n.graph->nodes[3].in[0] = v[4];
    n.graph->nodes[0].out[0] = -1; /* nothing makes what a reads */
    assert_int_equal(bb_graph_link(n.graph, &n.err), BB_STATUS_BAD_FILE);
    assert_non_null(strstr(n.err.message, "nothing produces"));
    bb_graph_destroy(n.graph);
    n = reversed_chain(v);
    n.graph->nodes[1].in[0] = 1000;
    assert_int_equal(bb_graph_link(n.graph, &n.err), BB_STATUS_INTERNAL);
    bb_graph_destroy(n.graph);
}

static void test_uses_and_replace(void **state) {
    (void)state;
    net n = net_create();
    int x = net_input(&n, BB_DTYPE_F32, DIMS(4));
    int a = NODE(&n, BB_OP_ABS, x);
    int b = NODE(&n, BB_OP_ADD, a, a);
    net_output(&n, b);
    net_output(&n, a);
    net_finish(&n);
    assert_int_equal(bb_graph_uses(n.graph, a), 3);
    assert_int_equal(bb_graph_uses(n.graph, b), 1);
    bb_graph_replace_value(n.graph, a, x);
    assert_int_equal(bb_graph_uses(n.graph, a), 0);
    assert_int_equal(bb_graph_uses(n.graph, x), 4);
    assert_int_equal(bb_graph_link(n.graph, &n.err), BB_STATUS_OK);
    assert_int_equal(n.graph->n_nodes, 1);
    bb_graph_destroy(n.graph);
}

static void test_extract(void **state) {
    (void)state;
    int v[5];
    const char *a = "a", *b = "b", *nowhere = "nowhere";
    net n = reversed_chain(v);
    net_finish(&n);
    assert_int_equal(bb_graph_extract(n.graph, &a, 1, &b, 1, &n.err), BB_STATUS_OK);
    assert_int_equal(n.graph->n_nodes, 1);
    assert_int_equal(n.graph->nodes[0].op, BB_OP_ABS);
    assert_int_equal(n.graph->inputs[0], v[1]);
    assert_int_equal(n.graph->outputs[0], v[2]);
    assert_int_equal(bb_graph_extract(n.graph, &nowhere, 1, NULL, 0, &n.err), BB_STATUS_NOT_FOUND);
    bb_graph_destroy(n.graph);
    n = reversed_chain(v);
    net_finish(&n);
    assert_int_equal(bb_graph_extract(n.graph, NULL, 0, &b, 1, &n.err), BB_STATUS_OK);
    assert_int_equal(n.graph->n_nodes, 2);
    assert_int_equal(n.graph->inputs[0], v[0]);
    assert_int_equal(bb_graph_extract(n.graph, &b, 1, &a, 1, &n.err), BB_STATUS_BAD_FILE);
    bb_graph_destroy(n.graph);
}

static void test_attributes(void **state) {
    (void)state;
    net n = net_create();
    NODE(&n, BB_OP_RELU, net_input(&n, BB_DTYPE_F32, DIMS(1)));
    bb_node *node = net_last(&n);
    bb_graph *g = n.graph;
    int64_t v[3];
    assert_int_equal(bb_node_int(node, "k", 7), 7);
    assert_true(bb_node_set_int(g, node, "k", 3) && bb_node_set_float(g, node, "f", 0.5f) &&
                bb_node_set_string(g, node, "s", "text") &&
                bb_node_set_ints(g, node, "v", INTS(4, 5)));
    assert_int_equal(bb_node_int(node, "k", 7), 3);
    assert_true(bb_node_float(node, "f", 0) == 0.5f);
    assert_string_equal(bb_node_string(node, "s", ""), "text");
    bb_node_ints(node, "v", v, 3, -1);
    assert_true(v[0] == 4 && v[1] == 5 && v[2] == -1);
    assert_true(bb_node_set_string(g, node, "k", "now text"));
    assert_int_equal(bb_node_int(node, "k", 7), 7); /* another type counts as absent */
    assert_int_equal(node->n_attrs, 4);
    bb_node_remove_attr(node, "f");
    bb_node_remove_attr(node, "absent");
    assert_int_equal(node->n_attrs, 3);
    assert_null(bb_node_attr(node, "f"));
    assert_string_equal(bb_node_string(node, "s", ""), "text");
    bb_graph_destroy(g);
}

/* ---- windows --------------------------------------------------------------------------------- */

typedef struct window_case {
    bb_op op;
    int64_t size, kernel, stride, dilation, begin, end;
    const char *auto_pad;
    int ceil_mode;
    int64_t out, want_begin, want_end; /* out = 0: refused */
} window_case;

static const window_case window_cases[] = {
    {BB_OP_MAX_POOL, 7, 3, 2, 1, 1, 1, "NOTSET", 0, 4, 1, 1},
    {BB_OP_MAX_POOL, 8, 3, 2, 1, 1, 1, "NOTSET", 0, 4, 1, 1},
    {BB_OP_MAX_POOL, 8, 3, 2, 1, 1, 1, "NOTSET", 1, 5, 1, 2},
    {BB_OP_MAX_POOL, 6, 3, 2, 1, 0, 0, "NOTSET", 1, 3, 0, 1},
    /* A last window that would start in the end padding is dropped. */
    {BB_OP_AVERAGE_POOL, 2, 2, 2, 1, 0, 1, "NOTSET", 1, 1, 0, 1},
    {BB_OP_MAX_POOL, 3, 2, 2, 1, 1, 0, "NOTSET", 1, 2, 1, 0},
    {BB_OP_MAX_POOL, 10, 3, 1, 3, 0, 0, "NOTSET", 0, 4, 0, 0},
    {BB_OP_MAX_POOL, 5, 2, 2, 1, 9, 9, "SAME_UPPER", 0, 3, 0, 1},
    {BB_OP_MAX_POOL, 5, 2, 2, 1, 9, 9, "SAME_LOWER", 0, 3, 1, 0},
    {BB_OP_MAX_POOL, 8, 3, 2, 1, 9, 9, "VALID", 0, 3, 0, 0},
    {BB_OP_MAX_POOL, 2, 3, 1, 1, 0, 0, "NOTSET", 0, 0, 0, 0},
    {BB_OP_MAX_POOL, 8, 3, 0, 1, 0, 0, "NOTSET", 0, 0, 0, 0},
    {BB_OP_MAX_POOL, 8, 3, 1, 1, -1, 0, "NOTSET", 0, 0, 0, 0},
    {BB_OP_MAX_POOL, 8, (int64_t)1 << 31, 1, 1, 0, 0, "NOTSET", 0, 0, 0, 0},
    {BB_OP_MAX_POOL, 8, 1 << 20, 1, 1 << 20, 0, 0, "NOTSET", 0, 0, 0, 0},
};

static void test_windows(void **state) {
    (void)state;
    for (size_t i = 0; i < BB_COUNT(window_cases); i++) {
        const window_case *c = &window_cases[i];
        net n = net_create();
        NODE(&n, c->op, net_input(&n, BB_DTYPE_F32, DIMS(1, 1, 4, c->size)));
        bb_node *node = net_last(&n);
        bb_graph *g = n.graph;
        assert_true(bb_node_set_ints(g, node, "kernel_shape", INTS(1, c->kernel)) &&
                    bb_node_set_ints(g, node, "strides", INTS(1, c->stride)) &&
                    bb_node_set_ints(g, node, "dilations", INTS(1, c->dilation)) &&
                    bb_node_set_ints(g, node, "pads", INTS(0, c->begin, 0, c->end)) &&
                    bb_node_set_string(g, node, "auto_pad", c->auto_pad) &&
                    bb_node_set_int(g, node, "ceil_mode", c->ceil_mode));
        bb_window w;
        int64_t dims[4] = {1, 1, 4, c->size};
        bb_status status = bb_node_window(g, node, dims, 4, &w, &n.err);
        if (c->out == 0)
            assert_int_equal(status, BB_STATUS_BAD_FILE);
        else if (status != BB_STATUS_OK || w.out[1] != c->out || w.pad_begin[1] != c->want_begin ||
                 w.pad_end[1] != c->want_end || w.out[0] != 4)
            fail_msg("case %zu: %lld windows, pads %lld and %lld", i, (long long)w.out[1],
                     (long long)w.pad_begin[1], (long long)w.pad_end[1]);
        bb_graph_destroy(g);
    }
}

/* ---- shape rules ----------------------------------------------------------------------------- */

static void test_every_operator_has_a_rule(void **state) {
    (void)state;
    for (int op = 0; op < BB_OP_COUNT; op++) {
        int ends[2] = {0, 0};
        bb_node node = {
            .name = "n", .op = (bb_op)op, .n_in = 1, .in = ends, .n_out = 1, .out = ends};
        bb_array in = {.rank = -1}, out;
        bb_error err;
        if (bb_shape_node(&node, &in, &out, &err) == BB_STATUS_INTERNAL)
            fail_msg("%s", err.message);
        char domain = op == BB_OP_FAKE_QUANTIZE ? 'B' : op < BB_OP_QONNX_QUANT ? 'O' : 'Q';
        assert_int_equal(bb_op_find(bb_op_name((bb_op)op), domain), op);
    }
    assert_int_equal(bb_op_find("Quant", 'O'), BB_OP_COUNT);
}

static void test_shape_contradictions(void **state) {
    (void)state;
    static const struct {
        bb_op op;
        int64_t a[4], b[4];
        int rank_a, rank_b;
    } cases[] = {
        {BB_OP_ADD, {2, 3}, {2, 4}, 2, 2},
        {BB_OP_CONV, {1, 3, 8, 8}, {4, 2, 3, 3}, 4, 4},
        {BB_OP_CONV, {1, 3, 2, 2}, {4, 3, 3, 3}, 4, 4},
        {BB_OP_CONV, {1, 3, 8, 8}, {4, 3, 3}, 4, 3},
        {BB_OP_MATMUL, {2, 3}, {4, 5}, 2, 2},
        {BB_OP_MATMUL, {7, 2, 3}, {6, 3, 5}, 3, 3},
        {BB_OP_GEMM, {2, 3, 1}, {3, 5}, 3, 2},
        {BB_OP_GEMM, {2, 3}, {4, 5}, 2, 2},
        {BB_OP_PRELU, {1, 3, 8, 8}, {4, 1, 1}, 4, 3},
        {BB_OP_CONCAT, {1, 3, 8, 8}, {2, 3, 8, 9}, 4, 4},
        {BB_OP_DEQUANTIZE_LINEAR, {4, 3}, {4}, 2, 1},
        {BB_OP_QONNX_BIPOLAR_QUANT, {1, 3}, {4, 3}, 2, 2},
    };
    for (size_t i = 0; i < BB_COUNT(cases); i++) {
        net n = net_create();
        int a = net_input(&n, BB_DTYPE_F32, cases[i].rank_a, cases[i].a);
        NODE(&n, cases[i].op, a, net_random(&n, 0, 1, cases[i].rank_b, cases[i].b));
        net_output(&n, net_last(&n)->out[0]);
        assert_int_equal(bb_graph_link(n.graph, &n.err), BB_STATUS_OK);
        if (bb_graph_infer_shapes(n.graph, NULL, 0, &n.err) != BB_STATUS_BAD_FILE)
            fail_msg("case %zu is accepted", i);
        assert_non_null(strstr(n.err.message, "node 'n0'"));
        bb_graph_destroy(n.graph);
    }
}

static void test_symbolic_dims_and_binding(void **state) {
    (void)state;
    net n = net_create();
    int x = net_input(&n, BB_DTYPE_F32, DIMS(-1, 3, -1, -1));
    int y = NODE(&n, BB_OP_CONV, x, net_random(&n, -1, 1, DIMS(8, 3, 3, 3)));
    assert_true(bb_node_set_string(n.graph, net_last(&n), "auto_pad", "SAME_UPPER"));
    assert_true(bb_node_set_ints(n.graph, net_last(&n), "strides", INTS(2, 2)));
    y = NODE(&n, BB_OP_FLATTEN, NODE(&n, BB_OP_GLOBAL_MAX_POOL, y));
    net_output(&n, y);
    net_finish(&n);
    const bb_value *v = &n.graph->values[y];
    assert_int_equal(v->rank, 2);
    assert_int_equal(v->dims[0], -1);
    assert_int_equal(v->dims[1], 8);
    assert_int_equal(bb_graph_infer_shapes(n.graph, (int64_t[]){5, 3, 9, 7}, 4, &n.err),
                     BB_STATUS_OK);
    v = &n.graph->values[n.graph->nodes[0].out[0]];
    assert_int_equal(v->dims[2], 5);
    assert_int_equal(v->dims[3], 4);
    assert_int_equal(n.graph->values[y].dims[0], 5);
    assert_int_equal(bb_graph_infer_shapes(n.graph, (int64_t[]){5, 3}, 2, &n.err),
                     BB_STATUS_INVALID_ARGUMENT);
    assert_int_equal(bb_graph_infer_shapes(n.graph, (int64_t[]){5, 4, 9, 7}, 4, &n.err),
                     BB_STATUS_BAD_FILE);
    bb_graph_destroy(n.graph);
}

/* ---- evaluation ------------------------------------------------------------------------------ */

typedef struct eval_case {
    bb_node node;
    bb_attr attrs[4];
    int ends[8];
    bb_array in[8], out[2];
    bb_arena *arena;
    bb_error err;
} eval_case;

static void eval_begin(eval_case *c, bb_op op) {
    *c = (eval_case){.node = {.name = "n", .op = op, .n_out = 1}};
    c->node.in = c->node.out = c->ends;
    c->node.attrs = c->attrs;
    c->arena = bb_arena_create();
}

static void eval_input(eval_case *c, bb_dtype dtype, int rank, const int64_t *dims,
                       const void *data) {
    bb_array *a = &c->in[c->node.n_in++];
    *a = (bb_array){.dtype = dtype, .rank = rank, .data = (void *)(uintptr_t)data};
    if (rank)
        memcpy(a->dims, dims, (size_t)rank * sizeof(*dims));
}

static void eval_int(eval_case *c, const char *name, int64_t v) {
    c->attrs[c->node.n_attrs++] = (bb_attr){.name = name, .type = BB_ATTR_INT, .i = v};
}

static void eval_text(eval_case *c, const char *name, const char *v) {
    c->attrs[c->node.n_attrs++] = (bb_attr){.name = name, .type = BB_ATTR_STRING, .s = v};
}

static const void *eval_run(eval_case *c) {
    if (bb_eval_node(NULL, &c->node, c->in, c->out, c->arena, &c->err) != BB_STATUS_OK)
        fail_msg("%s", c->err.message);
    return c->out[0].data;
}

static void assert_floats(const void *got, const float *want, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (((const float *)got)[i] != want[i])
            fail_msg("element %zu is %g, not %g", i, (double)((const float *)got)[i],
                     (double)want[i]);
}

static void test_quantize_saturates_and_rounds_to_even(void **state) {
    (void)state;
    const float x[8] = {-1000, -1.5f, -0.5f, 0.5f, 1.5f, 2.5f, 1e30f, 3.4f};
    static const struct {
        bb_dtype dtype;
        int64_t zero;
        int want[8];
    } cases[] = {
        {BB_DTYPE_I4, 0, {-8, -2, 0, 0, 2, 2, 7, 3}},
        {BB_DTYPE_U4, 3, {0, 1, 3, 3, 5, 5, 15, 6}},
        {BB_DTYPE_I8, -1, {-128, -3, -1, -1, 1, 1, 127, 2}},
        {BB_DTYPE_U8, 128, {0, 126, 128, 128, 130, 130, 255, 131}},
        {BB_DTYPE_I16, 0, {-1000, -2, 0, 0, 2, 2, 32767, 3}},
        {BB_DTYPE_U16, 0, {0, 0, 0, 0, 2, 2, 65535, 3}},
    };
    for (size_t i = 0; i < BB_COUNT(cases); i++) {
        eval_case c;
        const float scale = 1;
        int16_t wide = (int16_t)cases[i].zero;
        int8_t narrow = (int8_t)cases[i].zero;
        eval_begin(&c, BB_OP_QUANTIZE_LINEAR);
        eval_input(&c, BB_DTYPE_F32, DIMS(8), x);
        eval_input(&c, BB_DTYPE_F32, 0, NULL, &scale);
        eval_input(&c, cases[i].dtype, 0, NULL,
                   bb_dtype_size(cases[i].dtype) == 2 ? (const void *)&wide
                                                      : (const void *)&narrow);
        bb_array y;
        eval_run(&c);
        y = c.out[0];
        assert_int_equal(y.dtype, cases[i].dtype);
        bb_value v = {.dtype = y.dtype, .rank = 1, .dims = {8}, .data = y.data};
        int64_t got[8];
        size_t n;
        assert_true(bb_value_ints(&v, got, 8, &n));
        for (size_t k = 0; k < 8; k++)
            if (got[k] != cases[i].want[k])
                fail_msg("case %zu: element %zu is %lld", i, k, (long long)got[k]);
        bb_arena_destroy(c.arena);
    }
}

static void test_dequantize_by_axis_and_block(void **state) {
    (void)state;
    const int8_t x[8] = {1, 2, 3, 4, -1, -2, -3, -8}, zero[2] = {1, -1};
    const float scale[2] = {0.5f, 2}, blocks[4] = {1, 10, 100, 1000};
    eval_case c;
    eval_begin(&c, BB_OP_DEQUANTIZE_LINEAR);
    eval_input(&c, BB_DTYPE_I4, DIMS(2, 4), x);
    eval_input(&c, BB_DTYPE_F32, DIMS(2), scale);
    eval_input(&c, BB_DTYPE_I4, DIMS(2), zero);
    eval_int(&c, "axis", -2);
    assert_floats(eval_run(&c), (float[]){0, 0.5f, 1, 1.5f, 0, -2, -4, -14}, 8);
    bb_arena_destroy(c.arena);
    eval_begin(&c, BB_OP_DEQUANTIZE_LINEAR); /* blocks of 3 along 4 columns: 3 + 1 */
    eval_input(&c, BB_DTYPE_I8, DIMS(2, 4), x);
    eval_input(&c, BB_DTYPE_F32, DIMS(2, 2), blocks);
    eval_int(&c, "axis", 1);
    eval_int(&c, "block_size", 3);
    assert_floats(eval_run(&c), (float[]){1, 2, 3, 40, -100, -200, -300, -8000}, 8);
    bb_arena_destroy(c.arena);
}

static void test_qonnx_rounding_modes(void **state) {
    (void)state;
    const float x[6] = {-1.5f, -0.75f, -0.5f, 0.5f, 1.5f, 2.25f}, one = 1, zero = 0, bits = 4;
    static const struct {
        const char *mode;
        float want[6];
    } cases[] = {
        {"ROUND", {-2, -1, 0, 0, 2, 2}},        {"half_even", {-2, -1, 0, 0, 2, 2}},
        {"CEIL", {-1, 0, 0, 1, 2, 3}},          {"FLOOR", {-2, -1, -1, 0, 1, 2}},
        {"UP", {-2, -1, -1, 1, 2, 3}},          {"DOWN", {-1, 0, 0, 0, 1, 2}},
        {"HALF_UP", {-2, -1, -1, 1, 2, 2}},     {"HALF_DOWN", {-1, -1, 0, 0, 1, 2}},
        {"ROUND_TO_ZERO", {-1, 0, 0, 0, 1, 2}},
    };
    for (size_t i = 0; i < BB_COUNT(cases); i++) {
        eval_case c;
        eval_begin(&c, BB_OP_QONNX_QUANT);
        eval_input(&c, BB_DTYPE_F32, DIMS(6), x);
        eval_input(&c, BB_DTYPE_F32, 0, NULL, &one);
        eval_input(&c, BB_DTYPE_F32, 0, NULL, &zero);
        eval_input(&c, BB_DTYPE_F32, 0, NULL, &bits);
        eval_text(&c, "rounding_mode", cases[i].mode);
        assert_floats(eval_run(&c), cases[i].want, 6);
        bb_arena_destroy(c.arena);
    }
    eval_case c;
    eval_begin(&c, BB_OP_QONNX_QUANT);
    for (int i = 0; i < 4; i++)
        eval_input(&c, BB_DTYPE_F32, 0, NULL, &one);
    eval_text(&c, "rounding_mode", "SIDEWAYS");
    assert_int_equal(bb_eval_node(NULL, &c.node, c.in, c.out, c.arena, &c.err),
                     BB_STATUS_UNSUPPORTED);
    bb_arena_destroy(c.arena);
}

static void test_qonnx_ranges(void **state) {
    (void)state;
    const float x[5] = {-100, -0.1f, 0, 0.6f, 100}, scale[5] = {1, 1, 1, 0.5f, 1}, zero = 0;
    static const struct {
        int is_signed, narrow;
        float bits, want[5];
    } cases[] = {
        {1, 0, 3, {-4, 0, 0, 0.5f, 3}},  {1, 1, 3, {-3, 0, 0, 0.5f, 3}},
        {0, 0, 3, {0, 0, 0, 0.5f, 7}},   {0, 1, 3, {0, 0, 0, 0.5f, 6}},
        {1, 0, 1, {-1, -1, 1, 0.5f, 1}}, /* one signed bit is bipolar, 0 is +1 */
        {0, 0, 1, {0, 0, 0, 0.5f, 1}},
    };
    for (size_t i = 0; i < BB_COUNT(cases); i++) {
        eval_case c;
        eval_begin(&c, BB_OP_QONNX_QUANT);
        eval_input(&c, BB_DTYPE_F32, DIMS(1, 5), x);
        eval_input(&c, BB_DTYPE_F32, DIMS(5), scale); /* per column */
        eval_input(&c, BB_DTYPE_F32, 0, NULL, &zero);
        eval_input(&c, BB_DTYPE_F32, 0, NULL, &cases[i].bits);
        eval_int(&c, "signed", cases[i].is_signed);
        eval_int(&c, "narrow", cases[i].narrow);
        assert_floats(eval_run(&c), cases[i].want, 5);
        bb_arena_destroy(c.arena);
    }
}

static void test_bipolar_trunc_thresholds(void **state) {
    (void)state;
    const float x[4] = {-3, 0, 5.5f, 12}, half = 0.5f, one = 1, zero = 0, eight = 8, six = 6,
                four = 4;
    const float steps[6] = {0, 5, 6, -5, -4, 100};
    eval_case c;
    eval_begin(&c, BB_OP_QONNX_BIPOLAR_QUANT);
    eval_input(&c, BB_DTYPE_F32, DIMS(4), x);
    eval_input(&c, BB_DTYPE_F32, 0, NULL, &half);
    assert_floats(eval_run(&c), (float[]){-0.5f, 0.5f, 0.5f, 0.5f}, 4);
    bb_arena_destroy(c.arena);
    eval_begin(&c, BB_OP_QONNX_TRUNC); /* 8 bits to 6: by 4, rounded down */
    const float *first[5] = {x, &one, &zero, &eight, &six};
    for (int i = 0; i < 5; i++)
        eval_input(&c, BB_DTYPE_F32, i == 0, (int64_t[]){4}, first[i]);
    assert_floats(eval_run(&c), (float[]){-1, 0, 1, 3}, 4);
    bb_arena_destroy(c.arena);
    eval_begin(&c, BB_OP_QONNX_TRUNC); /* the newer form states the output's scale */
    const float *second[7] = {x, &one, &zero, &eight, &four, &zero, &six};
    for (int i = 0; i < 7; i++)
        eval_input(&c, BB_DTYPE_F32, i == 0, (int64_t[]){4}, second[i]);
    assert_floats(eval_run(&c), (float[]){-4, 0, 4, 12}, 4);
    bb_arena_destroy(c.arena);
    eval_begin(&c, BB_OP_QONNX_MULTI_THRESHOLD);
    eval_input(&c, BB_DTYPE_F32, DIMS(2, 2), x);
    eval_input(&c, BB_DTYPE_F32, DIMS(2, 3), steps);
    c.attrs[c.node.n_attrs++] = (bb_attr){.name = "out_scale", .type = BB_ATTR_FLOAT, .f = 2};
    c.attrs[c.node.n_attrs++] = (bb_attr){.name = "out_bias", .type = BB_ATTR_FLOAT, .f = -1};
    assert_floats(eval_run(&c), (float[]){-1, 3, 3, 3}, 4);
    bb_arena_destroy(c.arena);
}

static void test_integer_arithmetic(void **state) {
    (void)state;
    const int64_t a[4] = {INT64_MAX, INT64_MIN, -7, 7}, b[4] = {1, -1, 2, -2}, zero[4] = {0};
    static const struct {
        bb_op op;
        int64_t want[4];
    } cases[] = {
        {BB_OP_ADD, {INT64_MIN, INT64_MAX, -5, 5}}, /* wraps around */
        {BB_OP_DIV, {INT64_MAX, INT64_MIN, -3, -3}},
        {BB_OP_MOD, {0, 0, 1, -1}}, /* sign of the divisor */
        {BB_OP_MAX, {INT64_MAX, -1, 2, 7}},
    };
    eval_case c;
    for (size_t i = 0; i < BB_COUNT(cases); i++) {
        eval_begin(&c, cases[i].op);
        eval_input(&c, BB_DTYPE_I64, DIMS(4), a);
        eval_input(&c, BB_DTYPE_I64, DIMS(4), b);
        assert_memory_equal(eval_run(&c), cases[i].want, sizeof(cases[i].want));
        bb_arena_destroy(c.arena);
    }
    eval_begin(&c, BB_OP_DIV);
    eval_input(&c, BB_DTYPE_I64, DIMS(4), a);
    eval_input(&c, BB_DTYPE_I64, DIMS(4), zero);
    assert_int_equal(bb_eval_node(NULL, &c.node, c.in, c.out, c.arena, &c.err), BB_STATUS_BAD_FILE);
    bb_arena_destroy(c.arena);
}

static void test_output_given_by_the_caller(void **state) {
    (void)state;
    const float x[3] = {-1, 0, 2};
    float y[3];
    eval_case c;
    eval_begin(&c, BB_OP_RELU);
    eval_input(&c, BB_DTYPE_F32, DIMS(3), x);
    c.out[0] = (bb_array){.dtype = BB_DTYPE_F32, .rank = 1, .dims = {3}, .data = y};
    assert_ptr_equal(eval_run(&c), y);
    assert_floats(y, (float[]){0, 0, 2}, 3);
    c.out[0].dims[0] = 4;
    assert_int_equal(bb_eval_node(NULL, &c.node, c.in, c.out, c.arena, &c.err),
                     BB_STATUS_INVALID_ARGUMENT);
    bb_arena_destroy(c.arena);
}

/* ---- documentation --------------------------------------------------------------------------- */

/* docs/operators.md has one row per operator that says truly who computes it. */
static void test_operator_table(void **state) {
    (void)state;
    bb_file file;
    bb_error err;
    if (bb_file_open(BB_SOURCE_ROOT "/docs/operators.md", &file, &err) != BB_STATUS_OK)
        fail_msg("%s", err.message);
    size_t rows = 0;
    for (int op = 0; op < BB_OP_COUNT; op++) {
        bb_node node = {.op = (bb_op)op};
        if (op == BB_OP_FAKE_QUANTIZE) /* no file has it */
            continue;
        char row[128];
        snprintf(row, sizeof(row), "\n| `%s` | %s |", bb_op_name((bb_op)op),
                 bb_eval_supports(&node) ? "plain" : "nn");
        size_t found = 0, length = strlen(row);
        for (size_t i = 0; i + length <= file.size; i++)
            found += memcmp(file.data + i, row, length) == 0;
        if (found != 1)
            fail_msg("docs/operators.md has %zu rows%s", found, row);
    }
    for (size_t i = 0; i + 4 <= file.size; i++)
        rows += memcmp(file.data + i, "\n| `", 4) == 0;
    assert_int_equal(rows, BB_OP_COUNT - 1);
    bb_file_close(&file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_link_sorts_and_drops),
        cmocka_unit_test(test_link_refuses),
        cmocka_unit_test(test_uses_and_replace),
        cmocka_unit_test(test_extract),
        cmocka_unit_test(test_attributes),
        cmocka_unit_test(test_windows),
        cmocka_unit_test(test_every_operator_has_a_rule),
        cmocka_unit_test(test_shape_contradictions),
        cmocka_unit_test(test_symbolic_dims_and_binding),
        cmocka_unit_test(test_quantize_saturates_and_rounds_to_even),
        cmocka_unit_test(test_dequantize_by_axis_and_block),
        cmocka_unit_test(test_qonnx_rounding_modes),
        cmocka_unit_test(test_qonnx_ranges),
        cmocka_unit_test(test_bipolar_trunc_thresholds),
        cmocka_unit_test(test_integer_arithmetic),
        cmocka_unit_test(test_output_given_by_the_caller),
        cmocka_unit_test(test_operator_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
