/* SPDX-License-Identifier: Apache-2.0 */
/* FakeQuantize nodes: values, number of values, and gradients against the formulas. */
#include "nn/quantizer.h"
#include "nn_gradient.h"

/* ---- the formulas, one element at a time in double ------------------------------------------- */

typedef struct expected {
    double y, dx_factor, dstep_factor;
} expected;

static double clip(double x, double low, double high) {
    return x < low ? low : x > high ? high : x;
}

static expected expect_odd(double x, double step, int bits, bool input) {
    double top = (1 << bits) - 1, v = x / step, q = clip(2.0 * floor(v / 2.0) + 1.0, -top, top);
    bool inside = (bits == 1 && !input) || fabs(v) <= top + 1.0;
    return (expected){step * q, inside, bits == 1 || !inside ? q : q - v};
}

static expected expect_affine(double x, double step, double zero, int bits) {
    double top = (1 << bits) - 1, v = x / step, u = clip(floor(v + 0.5) + zero, 0.0, top) - zero;
    bool inside = v >= -zero && v <= top - zero;
    return (expected){step * u, inside, inside ? u - v : u};
}

static expected expect_hard(double x, double low, bool affine, int bits) {
    double top = (1 << bits) - 1, c = clip(x, low, 1.0);
    double y = affine ? floor(top * c + 0.5) / top
                      : (2.0 * floor(top * (c + 1.0) / 2.0 + 0.5) - top) / top;
    return (expected){y, x >= low && x <= 1.0, 0.0};
}

static expected expect(const char *kind, double x, double step, double zero, int bits) {
    if (strcmp(kind, "odd") == 0 || strcmp(kind, "odd_input") == 0)
        return expect_odd(x, step, bits, kind[3] != 0);
    if (strcmp(kind, "unsigned") == 0)
        return expect_affine(x, step, 0.0, bits);
    if (strcmp(kind, "affine") == 0)
        return expect_affine(x, step, zero, bits);
    return expect_hard(x, strcmp(kind, "hard_tanh") == 0 ? -1.0 : 0.0,
                       strcmp(kind, "hard_relu_affine") == 0, bits);
}

/* ---- nodes ----------------------------------------------------------------------------------- */

/* A 1x1 convolution that changes nothing but the layout. */
static int identity(net *n, int x, int64_t channels) {
    void *data;
    int w = net_constant(n, BB_DTYPE_F32, DIMS(channels, channels, 1, 1), &data);
    for (int64_t c = 0; c < channels; c++)
        ((float *)data)[c * channels + c] = 1.0f;
    return NODE(n, BB_OP_CONV, x, w);
}

static int quantize(net *n, const char *kind, int bits, int x, int step, int zero) {
    int y = zero >= 0   ? NODE(n, BB_OP_FAKE_QUANTIZE, x, step, zero)
            : step >= 0 ? NODE(n, BB_OP_FAKE_QUANTIZE, x, step)
                        : NODE(n, BB_OP_FAKE_QUANTIZE, x);
    bb_node_set_string(n->graph, net_last(n), "quantizer", kind);
    bb_node_set_int(n->graph, net_last(n), "bits", bits);
    return y;
}

static int scalar(net *n, float value) {
    void *data;
    int constant = net_constant(n, BB_DTYPE_F32, DIMS(1), &data);
    *(float *)data = value;
    return constant;
}

static size_t count_distinct(const float *y, size_t n) {
    float seen[300];
    size_t found = 0;
    for (size_t i = 0; i < n; i++) {
        size_t k = 0;
        while (k < found && seen[k] != y[i])
            k++;
        if (k == found && found < BB_COUNT(seen))
            seen[found++] = y[i];
    }
    return found;
}

/* An activation quantizer in a blocked layout with one step. */
static void run_activation(const char *kind, int bits, int64_t channels) {
    net n = net_create();
    checker c = check_begin(&n);
    const bb_quantizer *q = bb_quantizer_find(kind);
    assert_non_null(q);
    const double step = 1.7 / (1 << bits), zero = (1 << bits) / 2 - (bits == 1 ? 1 : 0);
    c.low = -2.0;
    c.high = 2.0;
    int x = net_input(&n, BB_DTYPE_F32, DIMS(3, channels, 5, 4));
    int s = q->has_step ? scalar(&n, (float)step) : -1;
    int z = q->has_zero ? scalar(&n, (float)zero) : -1;
    if (s >= 0)
        c.parameters[c.options.n_parameters++] = s;
    int y = quantize(&n, kind, bits, identity(&n, x, channels), s, z);
    net_output(&n, y);
    net_finish(&n);
    check_create(&c);
    c.inputs[0][0] = 0.0f;
    check_seeds(&c);
    check_forward(&c);
    bb_array out;
    assert_int_equal(bb_gradient_value(c.g, y, &out, &n.err), BB_STATUS_OK);
    size_t count = c.output_elements[0];
    float *got = malloc(count * sizeof(float));
    memcpy(got, out.data, count * sizeof(float));
    size_t distinct = count_distinct(got, count);
    assert_true(distinct <= (size_t)1 << bits);
    if (bits < 3 && q->has_step)
        assert_int_equal(distinct, 1 << bits);
    check_backward(&c);
    const float *dx;
    double dstep = 0.0;
    assert_int_equal(bb_gradient_input(c.g, x, &dx, &n.err), BB_STATUS_OK);
    for (size_t i = 0; i < count; i++) {
        expected e = expect(kind, (double)c.inputs[0][i], (double)(float)step, zero, bits);
        if (fabs((double)got[i] - e.y) > 1e-6)
            fail_msg("%s %d: %g -> %g, not %g", kind, bits, (double)c.inputs[0][i], (double)got[i],
                     e.y);
        assert_true(fabs((double)dx[i] - e.dx_factor * (double)c.seeds[0][i]) < 1e-6);
        dstep += e.dstep_factor * (double)c.seeds[0][i];
    }
    if (q->has_step) {
        dstep /= sqrt((double)count / 3.0 * (double)((1 << bits) - 1));
        if (!(fabs((double)bb_gradient_of(c.g, 0)[0] - dstep) < 1e-4 * (1.0 + fabs(dstep))))
            fail_msg("%s %d: step gradient %g, not %g", kind, bits,
                     (double)bb_gradient_of(c.g, 0)[0], dstep);
    }
    free(got);
    free(c.inputs[0]);
    free(c.seeds[0]);
    bb_gradient_destroy(c.g);
    bb_graph_destroy(n.graph);
}

static void test_activations(void **state) {
    static const char *const kinds[] = {"odd",       "odd_input", "unsigned",        "affine",
                                        "hard_tanh", "hard_relu", "hard_relu_affine"};
    static const int64_t channels[] = {5, 16, 17};
    for (size_t k = 0; k < BB_COUNT(kinds); k++)
        for (int bits = 1; bits <= 8; bits++)
            run_activation(kinds[k], bits, channels[(size_t)bits % BB_COUNT(channels)]);
}

/* A weight quantizer with one step per output channel, on the way into a convolution. */
static void run_weights(bool transposed, int bits) {
    net n = net_create();
    checker c = check_begin(&n);
    enum { IN = 3, OUT = 4, TAPS = 9 };
    int x = net_input(&n, BB_DTYPE_F32, DIMS(2, IN, 5, 5));
    int w = transposed ? check_parameter(&c, -1.0, 1.0, DIMS(IN, OUT, 3, 3))
                       : check_parameter(&c, -1.0, 1.0, DIMS(OUT, IN, 3, 3));
    int step = check_parameter(&c, 0.1, 0.3, DIMS(OUT));
    int wq = quantize(&n, "odd", bits, w, step, -1);
    bb_node_set_int(n.graph, net_last(&n), "axis", transposed);
    int y = NODE(&n, transposed ? BB_OP_CONV_TRANSPOSE : BB_OP_CONV, x, wq);
    net_output(&n, y);
    net_finish(&n);
    c.options.kept = &wq;
    c.options.n_kept = 1;
    check_create(&c);
    check_seeds(&c);
    check_forward(&c);
    bb_array array;
    enum { N = OUT * IN * TAPS };
    float dw[N], value[N], g[N];
    assert_int_equal(bb_gradient_value(c.g, wq, &array, &n.err), BB_STATUS_OK);
    memcpy(value, array.data, sizeof(value));
    /* The gradient at the quantized weights is a second seed on top of the convolution's; with the
     * convolution's seed at zero it is the only one. */
    for (size_t i = 0; i < N; i++)
        g[i] = (float)(2.0 * bb_rng_uniform(&n.rng) - 1.0);
    bb_gradient_seed seed = {wq, g};
    assert_int_equal(bb_gradient_backward(c.g, &seed, 1, &n.err), BB_STATUS_OK);
    memcpy(dw, bb_gradient_of(c.g, 0), sizeof(dw));
    double want[OUT] = {0};
    const float *master = bb_gradient_parameter(c.g, 0), *steps = bb_gradient_parameter(c.g, 1);
    for (size_t i = 0; i < N; i++) {
        size_t o = transposed ? i / TAPS % OUT : i / (IN * TAPS);
        expected e = expect_odd((double)master[i], (double)steps[o], bits, false);
        assert_true(fabs((double)value[i] - e.y) < 1e-6);
        assert_true(fabs((double)dw[i] - e.dx_factor * (double)g[i]) < 1e-6);
        want[o] += e.dstep_factor * (double)g[i];
    }
    for (size_t o = 0; o < OUT; o++) {
        double scaled = want[o] / sqrt((double)(IN * TAPS) * (double)((1 << bits) - 1));
        assert_true(fabs((double)bb_gradient_of(c.g, 1)[o] - scaled) < 1e-4);
    }
    free(c.inputs[0]);
    free(c.seeds[0]);
    bb_gradient_destroy(c.g);
    bb_graph_destroy(n.graph);
}

static void test_weights(void **state) {
    for (int bits = 1; bits <= 8; bits++) {
        run_weights(false, bits);
        run_weights(true, bits);
    }
}

/* No kind may ever give more values than its bits can name, whatever the data. */
static void test_every_kind_is_on(void **state) {
    enum { N = 4096 };
    float x[N], y[N];
    bb_rng rng;
    bb_rng_seed(&rng, 7);
    for (size_t i = 0; i < N; i++)
        x[i] = (float)bb_rng_normal(&rng);
    x[0] = 0.0f;
    size_t kinds = 0;
    for (const bb_quantizer *q; (q = bb_quantizer_at(kinds)) != NULL; kinds++) {
        assert_ptr_equal(bb_quantizer_find(q->name), q);
        for (int bits = 1; bits <= 8; bits++) {
            bb_quantizer_args args = {.bits = bits, .step = 0.3f, .zero = (float)(bits > 1)};
            q->forward(&args, x, y, N);
            if (count_distinct(y, N) > (size_t)(1 << bits) + (strcmp(q->name, "twn") == 0))
                fail_msg("%s gives %zu values for %d bits", q->name, count_distinct(y, N), bits);
            if (count_distinct(y, N) < 2 && !(bits == 1 && strcmp(q->name, "hard_relu") == 0))
                fail_msg("%s gives one value for %d bits", q->name, bits);
        }
    }
    assert_true(kinds >= 7);
    assert_null(bb_quantizer_find("no such kind"));
}

/* The executor computes the same values as the gradient program. */
static void test_executor_agrees(void **state) {
    net n = net_create();
    int x = net_input(&n, BB_DTYPE_F32, DIMS(2, 5, 6, 6));
    int y = quantize(&n, "unsigned", 3, identity(&n, x, 5), scalar(&n, 0.1f), -1);
    net_output(&n, y);
    net_finish(&n);
    float *data = random_floats(&n, 2 * 5 * 36);
    bb_executor *ex;
    net_run(&n, (const float *const[]){data}, &ex);
    bb_array out = net_result(&n, ex, 0);
    for (size_t i = 0; i < 2 * 5 * 36; i++) {
        expected e = expect_affine((double)data[i], (double)0.1f, 0.0, 3);
        assert_true(fabs((double)((float *)out.data)[i] - e.y) < 1e-6);
    }
    bb_executor_destroy(ex);
    free(data);
    bb_graph_destroy(n.graph);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_activations),
        cmocka_unit_test(test_weights),
        cmocka_unit_test(test_every_kind_is_on),
        cmocka_unit_test(test_executor_agrees),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
