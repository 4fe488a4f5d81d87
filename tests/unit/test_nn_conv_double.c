/* SPDX-License-Identifier: Apache-2.0 */
/* Convolutions and their gradients on shapes of real layers, against columns and OpenBLAS. */
#include "nn_gradient.h"
#include <cblas.h>

typedef struct shape {
    int64_t batch, in, out, group, height, width, kernel, stride, dilation, pad_begin, pad_end;
} shape;

static int64_t out_size(const shape *s, int64_t in) {
    return (in + s->pad_begin + s->pad_end - s->dilation * (s->kernel - 1) - 1) / s->stride + 1;
}

static int64_t columns(const shape *s) {
    return out_size(s, s->height) * out_size(s, s->width);
}

/* Element (tap of channel c, output position) of the column matrix; -1 lies in the padding. */
static int64_t column_source(const shape *s, int64_t tap, int64_t column) {
    int64_t w = out_size(s, s->width), area = s->kernel * s->kernel;
    int64_t y = column / w * s->stride - s->pad_begin + tap % area / s->kernel * s->dilation;
    int64_t x = column % w * s->stride - s->pad_begin + tap % s->kernel * s->dilation;
    bool inside = y >= 0 && y < s->height && x >= 0 && x < s->width;
    return inside ? (tap / area * s->height + y) * s->width + x : -1;
}

typedef struct tensors {
    float *x, *w, *b, *dy, *y, *dx, *dw, *db;
    size_t n_x, n_w, n_y;
} tensors;

/* One image and group: y = W columns(x), dW += dy columns(x)^T, columns(dx) = W^T dy. */
static void one_group(const shape *s, const tensors *t, int64_t image, int64_t group, float *col) {
    const int m = (int)(s->out / s->group), n = (int)columns(s);
    const int64_t channels = s->in / s->group;
    const int k = (int)(channels * s->kernel * s->kernel);
    size_t at_x = (size_t)((image * s->in + group * channels) * s->height * s->width);
    size_t at_y = (size_t)((image * s->out + group * m) * n), at_w = (size_t)(group * m * k);
    for (int64_t tap = 0; tap < k; tap++)
        for (int64_t c = 0; c < n; c++) {
            int64_t from = column_source(s, tap, c);
            col[tap * n + c] = from < 0 ? 0.0f : t->x[at_x + (size_t)from];
        }
    for (int o = 0; o < m; o++)
        for (int c = 0; c < n; c++) {
            t->y[at_y + (size_t)(o * n + c)] = t->b[group * m + o];
            t->db[group * m + o] += t->dy[at_y + (size_t)(o * n + c)];
        }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, m, n, k, 1.0f, t->w + at_w, k, col, n,
                1.0f, t->y + at_y, n);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, k, n, 1.0f, t->dy + at_y, n, col, n,
                1.0f, t->dw + at_w, k);
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, k, n, m, 1.0f, t->w + at_w, k,
                t->dy + at_y, n, 0.0f, col, n);
    for (int64_t tap = 0; tap < k; tap++)
        for (int64_t c = 0; c < n; c++) {
            int64_t to = column_source(s, tap, c);
            if (to >= 0)
                t->dx[at_x + (size_t)to] += col[tap * n + c];
        }
}

static void assert_close(const char *what, const float *got, const float *want, size_t n,
                         double tolerance) {
    double largest = 1e-3;
    for (size_t i = 0; i < n; i++)
        largest = fmax(largest, fabs((double)want[i]));
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - (double)want[i]) <= tolerance * largest))
            fail_msg("%s, element %zu: %g, not %g", what, i, (double)got[i], (double)want[i]);
}

/* To the nearest bfloat16 number, ties to even. */
static float rounded(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
    memcpy(&value, &bits, sizeof(bits));
    return value;
}

static float *copy_floats(const float *from, size_t n, bool rounding) {
    float *to = malloc((n + 1) * sizeof(*to));
    for (size_t i = 0; i < n; i++)
        to[i] = rounding ? rounded(from[i]) : from[i];
    return to;
}

/* How a program is to multiply, and what its results are compared with. */
typedef struct mode {
    size_t threads;
    bool bf16;     /* the program */
    bool rounding; /* the operands of the columns, by the test */
    double tolerance;
} mode;

static void run(const shape *s, const mode *m) {
    net n = net_create();
    int64_t height = out_size(s, s->height), width = out_size(s, s->width);
    int x = net_input(&n, BB_DTYPE_F32, DIMS(s->batch, s->in, s->height, s->width));
    int w = net_random(&n, -1.0, 1.0, DIMS(s->out, s->in / s->group, s->kernel, s->kernel));
    int b = net_random(&n, -1.0, 1.0, DIMS(s->out));
    int y = NODE(&n, BB_OP_CONV, x, w, b), parameters[2] = {w, b};
    bb_node *node = net_last(&n);
    bb_node_set_int(n.graph, node, "group", s->group);
    bb_node_set_ints(n.graph, node, "strides", INTS(s->stride, s->stride));
    bb_node_set_ints(n.graph, node, "dilations", INTS(s->dilation, s->dilation));
    bb_node_set_ints(n.graph, node, "pads",
                     INTS(s->pad_begin, s->pad_begin, s->pad_end, s->pad_end));
    net_output(&n, y);
    net_finish(&n);
    tensors t = {.n_x = (size_t)(s->batch * s->in * s->height * s->width),
                 .n_w = (size_t)(s->out * s->in / s->group * s->kernel * s->kernel),
                 .n_y = (size_t)(s->batch * s->out * height * width)};
    float *x_data = random_floats(&n, t.n_x), *dy_data = random_floats(&n, t.n_y);
    t.x = copy_floats(x_data, t.n_x, m->rounding);
    t.dy = copy_floats(dy_data, t.n_y, m->rounding);
    t.w = copy_floats(n.graph->values[w].data, t.n_w, m->rounding);
    t.b = (float *)(uintptr_t)n.graph->values[b].data;
    t.y = calloc(t.n_y, sizeof(float));
    t.dx = calloc(t.n_x, sizeof(float));
    t.dw = calloc(t.n_w, sizeof(float));
    t.db = calloc((size_t)s->out, sizeof(float));
    float *col =
        calloc((size_t)(s->in / s->group * s->kernel * s->kernel * height * width), sizeof(float));
    for (int64_t i = 0; i < s->batch; i++)
        for (int64_t g = 0; g < s->group; g++)
            one_group(s, &t, i, g, col);
    const int64_t *dims[1];
    net_dims(&n, dims);
    bb_gradient_options options = {.threads = m->threads,
                                   .bf16 = m->bf16,
                                   .parameters = parameters,
                                   .n_parameters = 2,
                                   .wanted = &x,
                                   .n_wanted = 1};
    bb_gradient *g;
    bb_array in = net_array(&n, 0, x_data), out;
    const float *dx;
    bb_gradient_seed seed = {y, dy_data};
    assert_int_equal(bb_gradient_create(n.graph, dims, &options, &g, &n.err), BB_STATUS_OK);
    assert_int_equal(bb_gradient_forward(g, &in, &n.err), BB_STATUS_OK);
    assert_int_equal(bb_gradient_value(g, y, &out, &n.err), BB_STATUS_OK);
    assert_close("output", out.data, t.y, t.n_y, m->tolerance);
    assert_int_equal(bb_gradient_backward(g, &seed, 1, &n.err), BB_STATUS_OK);
    assert_int_equal(bb_gradient_input(g, x, &dx, &n.err), BB_STATUS_OK);
    assert_close("input's gradient", dx, t.dx, t.n_x, m->tolerance);
    assert_close("weights' gradient", bb_gradient_of(g, 0), t.dw, t.n_w, m->tolerance);
    assert_close("bias's gradient", bb_gradient_of(g, 1), t.db, (size_t)s->out, m->tolerance);
    bb_gradient_destroy(g);
    bb_graph_destroy(n.graph);
    float *owned[] = {x_data, dy_data, t.x, t.w, t.dy, t.y, t.dx, t.dw, t.db, col};
    for (size_t i = 0; i < BB_COUNT(owned); i++)
        free(owned[i]);
}

static const shape shapes[] = {
    {4, 1, 16, 1, 28, 28, 3, 1, 1, 1, 1},   {4, 16, 32, 1, 28, 28, 3, 2, 1, 1, 1},
    {2, 64, 64, 1, 14, 14, 3, 1, 1, 1, 1},  {2, 32, 64, 1, 15, 13, 1, 2, 1, 0, 0},
    {1, 3, 24, 1, 40, 40, 7, 2, 1, 3, 3},   {2, 40, 40, 40, 14, 14, 3, 1, 1, 1, 1},
    {2, 96, 96, 96, 15, 15, 5, 2, 1, 2, 2}, {2, 48, 72, 3, 9, 9, 3, 1, 1, 1, 1},
    {1, 20, 36, 1, 17, 17, 3, 1, 2, 2, 2},  {3, 24, 18, 1, 8, 8, 2, 2, 1, 0, 0},
    {2, 33, 17, 1, 11, 11, 3, 2, 1, 0, 1},  {2, 128, 64, 1, 7, 7, 1, 1, 1, 0, 0},
};

static void test_layers(void **state) {
    for (size_t i = 0; i < BB_COUNT(shapes); i++)
        for (size_t threads = 1; threads < 3; threads++)
            run(&shapes[i], &(mode){.threads = threads, .tolerance = 1e-5});
}

static bool has_bf16(void) {
    bb_error err;
    if (bb_gradient_check_bf16(&err) == BB_STATUS_OK)
        return true;
    print_message("%s\n", err.message);
    return false;
}

/* Channels in whole blocks: every pass reads rounded operands and sums in f32. The tolerance
 * is that of test_layers, so results from operands that were not rounded would fail. */
static void test_bf16_layers(void **state) {
    static const shape blocks[] = {
        {4, 16, 32, 1, 28, 28, 3, 2, 1, 1, 1},   {2, 64, 64, 1, 14, 14, 3, 1, 1, 1, 1},
        {2, 128, 128, 1, 15, 13, 1, 2, 1, 0, 0}, {2, 128, 64, 1, 7, 7, 1, 1, 1, 0, 0},
        {2, 16, 16, 1, 32, 32, 3, 1, 1, 1, 1},   {1, 256, 128, 1, 8, 8, 3, 1, 1, 1, 1},
    };
    if (!has_bf16())
        skip();
    for (size_t i = 0; i < BB_COUNT(blocks); i++)
        for (size_t threads = 1; threads < 3; threads++)
            run(&blocks[i], &(mode){threads, true, true, 1e-5});
}

/* All shapes, whether oneDNN has kernels in bf16 or not: an operand is off by at most 2^-9 of its
 * size, a product by 2^-8, and a sum of products whose signs vary by little more of its own size.
 */
static void test_bf16_bound(void **state) {
    if (!has_bf16())
        skip();
    for (size_t i = 0; i < BB_COUNT(shapes); i++)
        run(&shapes[i], &(mode){1, true, false, 1.0 / 256});
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_layers),
                                       cmocka_unit_test(test_bf16_layers),
                                       cmocka_unit_test(test_bf16_bound)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
