/* SPDX-License-Identifier: Apache-2.0 */
/* Every heavy node kind against the loops that define it. */
#include "nn_net.h"

/* ---- convolutions ---------------------------------------------------------------------------- */

typedef struct conv_case {
    int64_t channels, outputs, groups, height, width, kernel[2], stride[2], dilation[2], pads[4];
} conv_case;

static const conv_case conv_cases[] = {
    {3, 8, 1, 9, 11, {3, 3}, {1, 1}, {1, 1}, {1, 1, 1, 1}},
    {16, 32, 1, 12, 12, {3, 3}, {2, 2}, {1, 1}, {1, 1, 1, 1}},
    {16, 16, 16, 10, 9, {3, 3}, {1, 1}, {1, 1}, {1, 1, 1, 1}},
    {12, 20, 4, 8, 8, {3, 3}, {1, 1}, {1, 1}, {0, 1, 2, 0}},
    {5, 7, 1, 7, 7, {1, 1}, {1, 1}, {1, 1}, {0, 0, 0, 0}},
    {8, 8, 1, 15, 15, {3, 3}, {1, 1}, {4, 4}, {4, 4, 4, 4}},
    {4, 6, 2, 10, 13, {2, 5}, {2, 3}, {1, 2}, {1, 0, 0, 3}},
};

static double conv_at(const conv_case *c, const float *x, const float *w, int64_t o, int64_t y,
                      int64_t z) {
    int64_t per = c->channels / c->groups, first = o / (c->outputs / c->groups) * per;
    double sum = 0.0;
    for (int64_t i = 0; i < per; i++)
        for (int64_t ky = 0; ky < c->kernel[0]; ky++)
            for (int64_t kx = 0; kx < c->kernel[1]; kx++) {
                int64_t row = y * c->stride[0] + ky * c->dilation[0] - c->pads[0];
                int64_t column = z * c->stride[1] + kx * c->dilation[1] - c->pads[1];
                if (row >= 0 && row < c->height && column >= 0 && column < c->width)
                    sum += (double)x[((first + i) * c->height + row) * c->width + column] *
                           (double)w[((o * per + i) * c->kernel[0] + ky) * c->kernel[1] + kx];
            }
    return sum;
}

static void set_window(net *n, const conv_case *c) {
    bb_node *node = net_last(n);
    assert_true(bb_node_set_ints(n->graph, node, "strides", c->stride, 2));
    assert_true(bb_node_set_ints(n->graph, node, "dilations", c->dilation, 2));
    assert_true(bb_node_set_ints(n->graph, node, "pads", c->pads, 4));
    assert_true(bb_node_set_int(n->graph, node, "group", c->groups));
}

static void check_conv(const conv_case *c) {
    net n = net_create();
    int x = net_input(&n, BB_DTYPE_F32, DIMS(2, c->channels, c->height, c->width));
    int w = net_random(&n, -1, 1,
                       DIMS(c->outputs, c->channels / c->groups, c->kernel[0], c->kernel[1]));
    int b = net_random(&n, -1, 1, DIMS(c->outputs));
    net_output(&n, NODE(&n, BB_OP_CONV, x, w, b));
    set_window(&n, c);
    net_finish(&n);
    size_t image = (size_t)(c->channels * c->height * c->width);
    float *data = random_floats(&n, 2 * image);
    bb_executor *ex;
    net_run(&n, (const float *const[]){data}, &ex);
    bb_array got = net_result(&n, ex, 0);
    const float *weights = n.graph->values[w].data, *bias = n.graph->values[b].data;
    const float *y = got.data;
    for (int64_t i = 0; i < 2; i++)
        for (int64_t o = 0; o < c->outputs; o++)
            for (int64_t r = 0; r < got.dims[2]; r++)
                for (int64_t k = 0; k < got.dims[3]; k++) {
                    float want = (float)(conv_at(c, data + (size_t)i * image, weights, o, r, k) +
                                         (double)bias[o]);
                    assert_near(y++, &want, 1, 1e-5);
                }
    bb_executor_destroy(ex);
    free(data);
    bb_graph_destroy(n.graph);
}

static void test_conv(void **state) {
    for (size_t i = 0; i < BB_COUNT(conv_cases); i++)
        check_conv(&conv_cases[i]);
}

static void test_conv_1d(void **state) {
    net n = net_create();
    int x = net_input(&n, BB_DTYPE_F32, DIMS(1, 2, 6));
    void *data;
    int w = net_constant(&n, BB_DTYPE_F32, DIMS(1, 2, 3), &data);
    memcpy(data, (float[]){1, 2, 3, -1, 0, 1}, 6 * sizeof(float));
    net_output(&n, NODE(&n, BB_OP_CONV, x, w));
    assert_true(bb_node_set_ints(n.graph, net_last(&n), "pads", INTS(1, 0)));
    assert_true(bb_node_set_ints(n.graph, net_last(&n), "strides", INTS(2)));
    net_finish(&n);
    float in[12] = {1, 2, 3, 4, 5, 6, 1, 1, 2, 3, 5, 8};
    bb_executor *ex;
    net_run(&n, (const float *const[]){in}, &ex);
    bb_array got = net_result(&n, ex, 0);
    assert_dims(&got, DIMS(1, 1, 3));
    /* taps (., 1, 2), (2, 3, 4), (4, 5, 6) and (., 1, 1), (1, 2, 3), (3, 5, 8) */
    assert_near(got.data, (float[]){8 + 1, 20 + 2, 32 + 5}, 3, 0.0);
    bb_executor_destroy(ex);
    bb_graph_destroy(n.graph);
}

/* Scatter form: every input adds its kernel to the output. */
static void transpose_reference(const conv_case *c, const float *x, const float *w, float *y,
                                int64_t rows, int64_t columns) {
    int64_t in = c->channels / c->groups, out = c->outputs / c->groups;
    memset(y, 0, (size_t)(c->outputs * rows * columns) * sizeof(*y));
    for (int64_t i = 0; i < c->channels; i++)
        for (int64_t o = 0; o < out; o++)
            for (int64_t r = 0; r < c->height * c->width; r++)
                for (int64_t k = 0; k < c->kernel[0] * c->kernel[1]; k++) {
                    int64_t row = r / c->width * c->stride[0] - c->pads[0] +
                                  k / c->kernel[1] * c->dilation[0];
                    int64_t column = r % c->width * c->stride[1] - c->pads[1] +
                                     k % c->kernel[1] * c->dilation[1];
                    if (row < 0 || row >= rows || column < 0 || column >= columns)
                        continue;
                    int64_t channel = i / in * out + o;
                    y[(channel * rows + row) * columns + column] +=
                        x[i * c->height * c->width + r] *
                        w[(i * out + o) * c->kernel[0] * c->kernel[1] + k];
                }
}

static void check_conv_transpose(const conv_case *c, bool output_padding) {
    net n = net_create();
    int x = net_input(&n, BB_DTYPE_F32, DIMS(1, c->channels, c->height, c->width));
    int w = net_random(&n, -1, 1,
                       DIMS(c->channels, c->outputs / c->groups, c->kernel[0], c->kernel[1]));
    net_output(&n, NODE(&n, BB_OP_CONV_TRANSPOSE, x, w));
    set_window(&n, c);
    if (output_padding)
        assert_true(bb_node_set_ints(n.graph, net_last(&n), "output_padding", INTS(1, 1)));
    net_finish(&n);
    float *data = random_floats(&n, (size_t)(c->channels * c->height * c->width));
    bb_executor *ex;
    net_run(&n, (const float *const[]){data}, &ex);
    bb_array got = net_result(&n, ex, 0);
    for (int i = 0; i < 2; i++) {
        int64_t size = i == 0 ? c->height : c->width;
        assert_int_equal(got.dims[2 + i], c->stride[i] * (size - 1) + output_padding +
                                              (c->kernel[i] - 1) * c->dilation[i] + 1 - c->pads[i] -
                                              c->pads[2 + i]);
    }
    size_t count = (size_t)(got.dims[1] * got.dims[2] * got.dims[3]);
    float *want = malloc(count * sizeof(*want));
    transpose_reference(c, data, n.graph->values[w].data, want, got.dims[2], got.dims[3]);
    assert_near(got.data, want, count, 1e-5);
    free(want);
    free(data);
    bb_executor_destroy(ex);
    bb_graph_destroy(n.graph);
}

static void test_conv_transpose(void **state) {
    static const conv_case cases[] = {
        {4, 6, 1, 5, 7, {3, 3}, {2, 2}, {1, 1}, {1, 1, 1, 1}},
        {6, 4, 2, 5, 4, {2, 4}, {2, 3}, {1, 1}, {0, 1, 0, 2}},
        {8, 8, 8, 6, 6, {4, 4}, {2, 2}, {1, 1}, {1, 1, 1, 1}},
        {3, 5, 1, 6, 6, {3, 2}, {1, 1}, {2, 2}, {0, 0, 0, 0}},
    };
    for (size_t i = 0; i < BB_COUNT(cases); i++)
        check_conv_transpose(&cases[i], false);
    check_conv_transpose(&cases[0], true);
    check_conv_transpose(&cases[2], true);
}

/* ---- matrix products ------------------------------------------------------------------------- */

typedef struct gemm_case {
    bool trans_a, trans_b, fixed_b;
    float alpha, beta;
    int c_rank;
    int64_t c_dims[2];
} gemm_case;

static void check_gemm(const gemm_case *g) {
    enum { M = 5, N = 6, K = 7 };
    net n = net_create();
    int a = g->trans_a ? net_input(&n, BB_DTYPE_F32, DIMS(K, M))
                       : net_input(&n, BB_DTYPE_F32, DIMS(M, K));
    int64_t b_dims[2] = {g->trans_b ? N : K, g->trans_b ? K : N};
    int b = g->fixed_b ? net_random(&n, -1, 1, 2, b_dims) : net_input(&n, BB_DTYPE_F32, 2, b_dims);
    int c = g->c_rank >= 0 ? net_random(&n, -1, 1, g->c_rank, g->c_dims) : -1;
    net_output(&n, NODE(&n, BB_OP_GEMM, a, b, c));
    bb_node *node = net_last(&n);
    assert_true(bb_node_set_int(n.graph, node, "transA", g->trans_a));
    assert_true(bb_node_set_int(n.graph, node, "transB", g->trans_b));
    assert_true(bb_node_set_float(n.graph, node, "alpha", g->alpha));
    assert_true(bb_node_set_float(n.graph, node, "beta", g->beta));
    net_finish(&n);
    float *left = random_floats(&n, M * K), *right = random_floats(&n, N * K);
    bb_executor *ex;
    net_run(&n, (const float *const[]){left, right}, &ex);
    const float *bd = g->fixed_b ? n.graph->values[b].data : right;
    const float *cd = c >= 0 ? n.graph->values[c].data : NULL;
    int64_t rows = g->c_rank == 2 ? g->c_dims[0] : 1;
    int64_t columns = g->c_rank >= 1 ? g->c_dims[g->c_rank - 1] : 1;
    float want[M * N];
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++) {
            double sum = 0.0;
            for (int k = 0; k < K; k++)
                sum += (double)left[g->trans_a ? k * M + i : i * K + k] *
                       (double)bd[g->trans_b ? j * K + k : k * N + j];
            double added =
                cd ? (double)cd[(rows == 1 ? 0 : i) * columns + (columns == 1 ? 0 : j)] : 0.0;
            want[i * N + j] = (float)((double)g->alpha * sum + (double)g->beta * added);
        }
    bb_array got = net_result(&n, ex, 0);
    assert_near(got.data, want, M * N, 1e-5);
    free(left);
    free(right);
    bb_executor_destroy(ex);
    bb_graph_destroy(n.graph);
}

static void test_gemm(void **state) {
    static const gemm_case cases[] = {
        {false, true, true, 1.0f, 1.0f, 1, {6, 0}},   {false, false, true, 0.5f, 2.0f, 2, {1, 6}},
        {false, true, true, 1.0f, 3.0f, 0, {0, 0}},   {true, false, true, 0.5f, 0.5f, 2, {5, 1}},
        {true, true, false, -1.5f, 0.25f, 2, {5, 6}}, {false, false, false, 1.0f, 1.0f, -1, {0, 0}},
        {false, true, true, 1.0f, 1.0f, 2, {5, 6}},
    };
    for (size_t i = 0; i < BB_COUNT(cases); i++)
        check_gemm(&cases[i]);
}

static void test_matmul_broadcasts(void **state) {
    net n = net_create();
    int a = net_input(&n, BB_DTYPE_F32, DIMS(2, 1, 2, 3));
    int b = net_input(&n, BB_DTYPE_F32, DIMS(3, 3, 4));
    int v = net_input(&n, BB_DTYPE_F32, DIMS(4));
    int product = NODE(&n, BB_OP_MATMUL, a, b);
    net_output(&n, product);
    net_output(&n, NODE(&n, BB_OP_MATMUL, product, v));
    net_finish(&n);
    float *x = random_floats(&n, 12), *y = random_floats(&n, 36), *z = random_floats(&n, 4);
    bb_executor *ex;
    net_run(&n, (const float *const[]){x, y, z}, &ex);
    bb_array p = net_result(&n, ex, 0), q = net_result(&n, ex, 1);
    assert_dims(&p, DIMS(2, 3, 2, 4));
    assert_dims(&q, DIMS(2, 3, 2));
    for (int i = 0; i < 48; i++) {
        int j = i % 4, r = i / 4 % 2, g = i / 8 % 3, h = i / 24;
        float want = 0.0f;
        for (int k = 0; k < 3; k++)
            want += x[h * 6 + r * 3 + k] * y[g * 12 + k * 4 + j];
        assert_near((const float *)p.data + i, &want, 1, 1e-5);
    }
    for (int i = 0; i < 12; i++) {
        float want = 0.0f;
        for (int k = 0; k < 4; k++)
            want += ((const float *)p.data)[i * 4 + k] * z[k];
        assert_near((const float *)q.data + i, &want, 1, 1e-5);
    }
    free(x);
    free(y);
    free(z);
    bb_executor_destroy(ex);
    bb_graph_destroy(n.graph);
}

/* ---- pools ----------------------------------------------------------------------------------- */

static void check_average(bool include, bool ceil_mode, const float *want, int64_t size) {
    net n = net_create();
    int x = net_input(&n, BB_DTYPE_F32, DIMS(1, 1, 4, 4));
    net_output(&n, NODE(&n, BB_OP_AVERAGE_POOL, x));
    bb_node *node = net_last(&n);
    assert_true(bb_node_set_ints(n.graph, node, "kernel_shape", INTS(3, 3)));
    assert_true(bb_node_set_ints(n.graph, node, "strides", INTS(2, 2)));
    assert_true(bb_node_set_ints(n.graph, node, "pads", INTS(0, 0, 0, 0)));
    assert_true(bb_node_set_int(n.graph, node, "ceil_mode", ceil_mode));
    assert_true(bb_node_set_int(n.graph, node, "count_include_pad", include));
    net_finish(&n);
    float in[16];
    for (int i = 0; i < 16; i++)
        in[i] = (float)(i + 1);
    bb_executor *ex;
    net_run(&n, (const float *const[]){in}, &ex);
    bb_array got = net_result(&n, ex, 0);
    assert_dims(&got, DIMS(1, 1, size, size));
    assert_near(got.data, want, (size_t)(size * size), 1e-6);
    bb_executor_destroy(ex);
    bb_graph_destroy(n.graph);
}

static void test_average_pool(void **state) {
    /* the last window holds 2 of 3 rows or columns; what ceil_mode added never counts */
    static const float ceiled[4] = {6.0f, 7.5f, 12.0f, 13.5f}, floored[1] = {6.0f};
    check_average(false, true, ceiled, 2);
    check_average(true, true, ceiled, 2);
    check_average(false, false, floored, 1);
}

static void test_max_pool_with_indices(void **state) {
    net n = net_create();
    int x = net_input(&n, BB_DTYPE_F32, DIMS(1, 2, 3, 3));
    int out[2] = {bb_graph_add_value(n.graph, "y", BB_DTYPE_F32, -1, NULL),
                  bb_graph_add_value(n.graph, "i", BB_DTYPE_I64, -1, NULL)};
    assert_true(bb_graph_add_node(n.graph, "pool", BB_OP_MAX_POOL, 1, &x, 2, out) >= 0);
    bb_node *node = net_last(&n);
    assert_true(bb_node_set_ints(n.graph, node, "kernel_shape", INTS(2, 2)));
    assert_true(bb_node_set_ints(n.graph, node, "pads", INTS(1, 1, 0, 0)));
    assert_true(bb_node_set_ints(n.graph, node, "dilations", INTS(2, 2)));
    net_output(&n, out[0]);
    net_output(&n, out[1]);
    net_finish(&n);
    float in[18] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 8, 7, 6, 5, 4, 3, 2, 1};
    bb_executor *ex;
    net_run(&n, (const float *const[]){in}, &ex);
    bb_array y = net_result(&n, ex, 0), i = net_result(&n, ex, 1);
    assert_dims(&y, DIMS(1, 2, 2, 2));
    assert_near(y.data, (float[]){5, 6, 8, 9, 5, 6, 8, 9}, 8, 0.0);
    assert_memory_equal(i.data, ((int64_t[]){4, 5, 7, 8, 13, 12, 10, 9}), 8 * sizeof(int64_t));
    bb_executor_destroy(ex);
    bb_graph_destroy(n.graph);
}

/* ---- normalisation --------------------------------------------------------------------------- */

static void test_norms(void **state) {
    net n = net_create();
    int x = net_input(&n, BB_DTYPE_F32, DIMS(1, 3, 2, 2));
    int scale = net_random(&n, 0.5, 1.5, DIMS(3)), shift = net_random(&n, -1, 1, DIMS(3));
    int mean = net_random(&n, -1, 1, DIMS(3)), var = net_random(&n, 0.5, 2, DIMS(3));
    net_output(&n, NODE(&n, BB_OP_BATCH_NORMALIZATION, x, scale, shift, mean, var));
    net_output(&n, NODE(&n, BB_OP_INSTANCE_NORMALIZATION, x, scale, shift));
    net_output(&n, NODE(&n, BB_OP_LRN, x));
    assert_true(bb_node_set_int(n.graph, net_last(&n), "size", 2));
    assert_true(bb_node_set_float(n.graph, net_last(&n), "alpha", 1.0f));
    net_output(&n, NODE(&n, BB_OP_SOFTMAX, x));
    assert_true(bb_node_set_int(n.graph, net_last(&n), "axis", 1));
    net_finish(&n);
    float *in = random_floats(&n, 12);
    bb_executor *ex;
    net_run(&n, (const float *const[]){in}, &ex);
    const float *g = n.graph->values[scale].data, *b = n.graph->values[shift].data;
    const float *m = n.graph->values[mean].data, *v = n.graph->values[var].data;
    float want[4][12];
    for (int c = 0; c < 3; c++) {
        double mu = 0.0, var2 = 0.0;
        for (int i = 0; i < 4; i++)
            mu += (double)in[4 * c + i] / 4.0;
        for (int i = 0; i < 4; i++)
            var2 += ((double)in[4 * c + i] - mu) * ((double)in[4 * c + i] - mu) / 4.0;
        for (int i = 0; i < 4; i++) {
            int at = 4 * c + i;
            double value = (double)in[at], next = c < 2 ? (double)in[at + 4] : 0.0, sum = 0.0;
            for (int k = 0; k < 3; k++)
                sum += exp((double)in[4 * k + i]);
            want[0][at] =
                (float)((value - (double)m[c]) / sqrt((double)v[c] + 1e-5) * (double)g[c] +
                        (double)b[c]);
            want[1][at] = (float)((value - mu) / sqrt(var2 + 1e-5) * (double)g[c] + (double)b[c]);
            want[2][at] = (float)(value / pow(1.0 + (value * value + next * next) / 2.0, 0.75));
            want[3][at] = (float)(exp(value) / sum);
        }
    }
    for (size_t i = 0; i < 4; i++) {
        bb_array got = net_result(&n, ex, i);
        assert_near(got.data, want[i], 12, 1e-5);
    }
    free(in);
    bb_executor_destroy(ex);
    bb_graph_destroy(n.graph);
}

/* ---- Resize ---------------------------------------------------------------------------------- */

static void check_resize(const char *mode, const char *transformation, bool antialias, int64_t size,
                         const float *want) {
    net n = net_create();
    void *sizes;
    int x = net_input(&n, BB_DTYPE_F32, DIMS(1, 1, 1, 4));
    int s = net_constant(&n, BB_DTYPE_I64, DIMS(4), &sizes);
    memcpy(sizes, (int64_t[]){1, 1, 1, size}, 4 * sizeof(int64_t));
    net_output(&n, NODE(&n, BB_OP_RESIZE, x, -1, -1, s));
    bb_node *node = net_last(&n);
    assert_true(bb_node_set_string(n.graph, node, "mode", mode));
    assert_true(
        bb_node_set_string(n.graph, node, "coordinate_transformation_mode", transformation));
    assert_true(bb_node_set_int(n.graph, node, "antialias", antialias));
    net_finish(&n);
    float in[4] = {1, 2, 4, 8};
    bb_executor *ex;
    net_run(&n, (const float *const[]){in}, &ex);
    bb_array got = net_result(&n, ex, 0);
    assert_dims(&got, DIMS(1, 1, 1, size));
    assert_near(got.data, want, (size_t)size, 1e-6);
    bb_executor_destroy(ex);
    bb_graph_destroy(n.graph);
}

static void test_resize(void **state) {
    check_resize("nearest", "asymmetric", false, 8, (float[]){1, 1, 2, 2, 4, 4, 8, 8});
    check_resize("linear", "half_pixel", false, 8, (float[]){1, 1.25f, 1.75f, 2.5f, 3.5f, 5, 7, 8});
    check_resize("linear", "align_corners", false, 7, (float[]){1, 1.5f, 2, 3, 4, 6, 8});
    check_resize("linear", "half_pixel", false, 2, (float[]){1.5f, 6});
    /* weights 1/8 3/8 3/8 1/8, with the edge repeated */
    check_resize("linear", "half_pixel", true, 2,
                 (float[]){(1 + 3 * 1 + 3 * 2 + 4) / 8.0f, (2 + 3 * 4 + 3 * 8 + 8) / 8.0f});
    check_resize("cubic", "align_corners", false, 4, (float[]){1, 2, 4, 8});
}

/* ---- integers -------------------------------------------------------------------------------- */

static void test_qlinear_conv(void **state) {
    net n = net_create();
    void *data[8];
    int x = net_input(&n, BB_DTYPE_U8, DIMS(1, 2, 4, 4));
    int xs = net_constant(&n, BB_DTYPE_F32, 0, NULL, &data[0]);
    int xz = net_constant(&n, BB_DTYPE_U8, 0, NULL, &data[1]);
    int w = net_constant(&n, BB_DTYPE_I8, DIMS(3, 2, 3, 3), &data[2]);
    int ws = net_constant(&n, BB_DTYPE_F32, DIMS(3), &data[3]);
    int wz = net_constant(&n, BB_DTYPE_I8, DIMS(3), &data[4]);
    int ys = net_constant(&n, BB_DTYPE_F32, 0, NULL, &data[5]);
    int yz = net_constant(&n, BB_DTYPE_U8, 0, NULL, &data[6]);
    int b = net_constant(&n, BB_DTYPE_I32, DIMS(3), &data[7]);
    *(float *)data[0] = 0.5f;
    *(uint8_t *)data[1] = 100;
    memcpy(data[3], (float[]){0.25f, 0.5f, 1.0f}, 3 * sizeof(float));
    memcpy(data[4], (int8_t[]){0, -5, 7}, 3);
    *(float *)data[5] = 64.0f;
    *(uint8_t *)data[6] = 120;
    memcpy(data[7], (int32_t[]){1000, -2000, 0}, 3 * sizeof(int32_t));
    for (int i = 0; i < 54; i++)
        ((int8_t *)data[2])[i] = (int8_t)((int)bb_rng_below(&n.rng, 256) - 128);
    net_output(&n, NODE(&n, BB_OP_QLINEAR_CONV, x, xs, xz, w, ws, wz, ys, yz, b));
    assert_true(bb_node_set_ints(n.graph, net_last(&n), "pads", INTS(1, 1, 1, 1)));
    net_finish(&n);
    uint8_t in[32];
    for (int i = 0; i < 32; i++)
        in[i] = (uint8_t)bb_rng_below(&n.rng, 256);
    bb_executor *ex = net_executor(&n, NULL);
    bb_array array = net_array(&n, 0, in);
    assert_int_equal(bb_executor_run(ex, &array, NULL, NULL, &n.err), BB_STATUS_OK);
    bb_array got = net_result(&n, ex, 0);
    assert_int_equal(got.dtype, BB_DTYPE_U8);
    for (int i = 0; i < 48; i++) {
        int o = i / 16, row = i / 4 % 4, column = i % 4, sum = ((int32_t *)data[7])[o];
        for (int k = 0; k < 18; k++) {
            int y = row + k / 3 % 3 - 1, z = column + k % 3 - 1;
            if (y >= 0 && y < 4 && z >= 0 && z < 4)
                sum += (in[k / 9 * 16 + y * 4 + z] - 100) *
                       (((int8_t *)data[2])[o * 18 + k] - ((int8_t *)data[4])[o]);
        }
        double value = rint(sum * 0.5 * (double)((float *)data[3])[o] / 64.0) + 120.0;
        value = value < 0 ? 0 : value > 255 ? 255 : value;
        assert_int_equal(((uint8_t *)got.data)[i], (int)value);
    }
    bb_executor_destroy(ex);
    bb_graph_destroy(n.graph);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_conv),
        cmocka_unit_test(test_conv_1d),
        cmocka_unit_test(test_conv_transpose),
        cmocka_unit_test(test_gemm),
        cmocka_unit_test(test_matmul_broadcasts),
        cmocka_unit_test(test_average_pool),
        cmocka_unit_test(test_max_pool_with_indices),
        cmocka_unit_test(test_norms),
        cmocka_unit_test(test_resize),
        cmocka_unit_test(test_qlinear_conv),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
