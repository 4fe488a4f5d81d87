/* SPDX-License-Identifier: Apache-2.0 */
/* Training with forward-and-backward programs: it learns, repeats its bits, refuses misuse. */
#include "nn/loss.h"
#include "nn/optimizer.h"
#include "nn/quantizer.h"
#include "nn_gradient.h"

enum { BATCH = 16, SIDE = 8, CLASSES = 3, PIXELS = BATCH * SIDE * SIDE, MOST = 32 };

typedef struct problem {
    net n;
    int parameters[MOST];
    size_t n_parameters;
    int scores, features;
    bb_gradient *g;
    bb_array input;
    float image[PIXELS];
    int labels[BATCH];
} problem;

static int parameter(problem *p, double low, double high, int rank, const int64_t *dims) {
    int value = net_random(&p->n, low, high, rank, dims);
    p->parameters[p->n_parameters++] = value;
    return value;
}

static int quantized(problem *p, const char *kind, int bits, int x, int64_t steps, double step) {
    int s = parameter(p, step, step, DIMS(steps));
    int y = NODE(&p->n, BB_OP_FAKE_QUANTIZE, x, s);
    bb_node_set_string(p->n.graph, net_last(&p->n), "quantizer", kind);
    bb_node_set_int(p->n.graph, net_last(&p->n), "bits", bits);
    return y;
}

static int layer(problem *p, int x, int64_t in, int64_t out, int bits) {
    int w = parameter(p, -0.4, 0.4, DIMS(out, in, 3, 3));
    if (bits)
        w = quantized(p, "odd", bits, w, out, 0.4 / (1 << bits));
    int y = NODE(&p->n, BB_OP_CONV, x, w);
    bb_node_set_ints(p->n.graph, net_last(&p->n), "pads", INTS(1, 1, 1, 1));
    int scale = parameter(p, 1.0, 1.0, DIMS(out)), shift = parameter(p, 0.0, 0.0, DIMS(out));
    int mean = net_random(&p->n, 0.0, 0.0, DIMS(out));
    int variance = net_random(&p->n, 1.0, 1.0, DIMS(out));
    y = NODE(&p->n, BB_OP_BATCH_NORMALIZATION, y, scale, shift, mean, variance);
    return NODE(&p->n, BB_OP_RELU, y);
}

/* Bars of three directions, with noise. */
static void make_data(problem *p) {
    for (int i = 0; i < BATCH; i++) {
        p->labels[i] = i % CLASSES;
        for (int y = 0; y < SIDE; y++)
            for (int x = 0; x < SIDE; x++) {
                int at = p->labels[i] == 0 ? x : p->labels[i] == 1 ? y : x + y;
                p->image[(i * SIDE + y) * SIDE + x] =
                    (float)((at + i) % 3 == 0) + 0.3f * (float)bb_rng_normal(&p->n.rng);
            }
    }
}

/* width: channels between the layers; 12 leave a block of oneDNN's incomplete. */
static void create_in(problem *p, int bits, size_t threads, int64_t width, bool bf16) {
    *p = (problem){.n = net_create()};
    int x = net_input(&p->n, BB_DTYPE_F32, DIMS(BATCH, 1, SIDE, SIDE));
    int y = layer(p, x, 1, width, 0);
    if (bits)
        y = quantized(p, "unsigned", bits, y, 1, 2.0 / (1 << bits));
    p->features = layer(p, y, width, 16, bits);
    y = NODE(&p->n, BB_OP_FLATTEN, NODE(&p->n, BB_OP_GLOBAL_AVERAGE_POOL, p->features));
    int w = parameter(p, -0.3, 0.3, DIMS(CLASSES, 16)), b = parameter(p, 0.0, 0.0, DIMS(CLASSES));
    p->scores = NODE(&p->n, BB_OP_GEMM, y, w, b);
    bb_node_set_int(p->n.graph, net_last(&p->n), "transB", 1);
    net_output(&p->n, p->scores);
    net_finish(&p->n);
    make_data(p);
    const int64_t *dims[1];
    net_dims(&p->n, dims);
    bb_gradient_options options = {.threads = threads,
                                   .training = true,
                                   .bf16 = bf16,
                                   .parameters = p->parameters,
                                   .n_parameters = p->n_parameters,
                                   .kept = &p->features,
                                   .n_kept = 1};
    if (bb_gradient_create(p->n.graph, dims, &options, &p->g, &p->n.err) != BB_STATUS_OK)
        fail_msg("%s", p->n.err.message);
    p->input = net_array(&p->n, 0, p->image);
}

static void create(problem *p, int bits, size_t threads) {
    create_in(p, bits, threads, 12, false);
}

static void destroy(problem *p) {
    bb_gradient_destroy(p->g);
    bb_graph_destroy(p->n.graph);
}

static double step(problem *p, bb_optimizer *optimizer) {
    bb_array scores;
    float seed[BATCH * CLASSES] = {0};
    assert_int_equal(bb_gradient_forward(p->g, &p->input, &p->n.err), BB_STATUS_OK);
    assert_int_equal(bb_gradient_value(p->g, p->scores, &scores, &p->n.err), BB_STATUS_OK);
    double loss = bb_loss_cross_entropy(scores.data, p->labels, BATCH, CLASSES, 0.0, 1.0, seed);
    bb_gradient_seed seeds = {p->scores, seed};
    assert_int_equal(bb_gradient_backward(p->g, &seeds, 1, &p->n.err), BB_STATUS_OK);
    if (optimizer)
        bb_optimizer_step(optimizer, 0.05f);
    return loss;
}

static bb_optimizer *optimizer_of(problem *p) {
    bb_parameter list[MOST];
    bb_optimizer_options options;
    bb_optimizer *optimizer;
    for (size_t i = 0; i < p->n_parameters; i++)
        list[i] = (bb_parameter){.value = bb_gradient_parameter(p->g, i),
                                 .gradient = bb_gradient_of(p->g, i),
                                 .n = bb_gradient_parameter_elements(p->g, i),
                                 .rate = 1.0f};
    bb_optimizer_options_init(&options);
    assert_int_equal(bb_optimizer_create(&options, list, p->n_parameters, &optimizer, &p->n.err),
                     BB_STATUS_OK);
    return optimizer;
}

static double train(problem *p, int steps) {
    bb_optimizer *optimizer = optimizer_of(p);
    double loss = 0.0;
    for (int i = 0; i < steps; i++)
        loss = step(p, optimizer);
    bb_optimizer_destroy(optimizer);
    return loss;
}

/* ---- it learns ------------------------------------------------------------------------------- */

static void test_loss_falls(void **state) {
    static const int bits[] = {0, 8, 4, 2, 1};
    for (size_t i = 0; i < BB_COUNT(bits); i++) {
        problem p;
        create(&p, bits[i], 1);
        double before = step(&p, NULL), after = train(&p, 60);
        if (!(before > 0.8 && after < 0.25 * before))
            fail_msg("%d bits: loss %g -> %g", bits[i], before, after);
        destroy(&p);
    }
}

/* The exported graph, run by the executor with folded normalization, classifies the same. */
static void test_export(void **state) {
    problem p;
    create(&p, 0, 1);
    train(&p, 60);
    for (int i = 0; i < 60; i++) /* let the running statistics arrive */
        assert_int_equal(bb_gradient_forward(p.g, &p.input, &p.n.err), BB_STATUS_OK);
    bb_array want, got;
    assert_int_equal(bb_gradient_value(p.g, p.scores, &want, &p.n.err), BB_STATUS_OK);
    bb_graph *copy = bb_graph_clone(p.n.graph);
    assert_non_null(copy);
    assert_int_equal(bb_gradient_export(p.g, copy, &p.n.err), BB_STATUS_OK);
    bb_executor *ex;
    const int64_t *dims[1];
    net_dims(&p.n, dims);
    assert_int_equal(bb_executor_create(copy, dims, NULL, &ex, &p.n.err), BB_STATUS_OK);
    assert_int_equal(bb_executor_run(ex, &p.input, NULL, NULL, &p.n.err), BB_STATUS_OK);
    assert_int_equal(bb_executor_output(ex, 0, &got, &p.n.err), BB_STATUS_OK);
    assert_near(got.data, want.data, BATCH * CLASSES, 2e-2);
    bb_executor_destroy(ex);
    bb_graph_destroy(copy);
    destroy(&p);
}

/* ---- running statistics ---------------------------------------------------------------------- */

static void test_statistics(void **state) {
    problem p;
    create(&p, 0, 1);
    assert_int_equal(bb_gradient_n_statistics(p.g), 4);
    float *mean = bb_gradient_statistic(p.g, 0, NULL, NULL);
    float *variance = bb_gradient_statistic(p.g, 1, NULL, NULL);
    assert_null(bb_gradient_statistic(p.g, 4, NULL, NULL));
    bb_gradient_set_momentum(p.g, 0.0f);
    step(&p, NULL);
    float batch_mean = mean[0], batch_variance = variance[0];
    assert_true(batch_mean != 0.0f && batch_variance != 1.0f);
    bb_gradient_set_momentum(p.g, 1.0f);
    mean[0] = 5.0f;
    step(&p, NULL);
    assert_true(mean[0] == 5.0f);
    bb_gradient_set_momentum(p.g, -1.0f); /* the node's: 0.9 */
    step(&p, NULL);
    assert_true(fabs((double)mean[0] - (0.9 * 5.0 + 0.1 * (double)batch_mean)) < 1e-5);
    destroy(&p);
}

/* ---- same bits ------------------------------------------------------------------------------- */

static void copy_parameters(problem *p, float *to) {
    for (size_t i = 0; i < p->n_parameters; i++) {
        size_t n = bb_gradient_parameter_elements(p->g, i);
        memcpy(to, bb_gradient_parameter(p->g, i), n * sizeof(float));
        to += n;
    }
}

static void test_same_bits(void **state) {
    enum { ROOM = 8192 };
    float *first = calloc(ROOM, sizeof(float)), *second = calloc(ROOM, sizeof(float));
    for (size_t threads = 1; threads < 4; threads++) {
        for (int run = 0; run < 2; run++) {
            problem p;
            create(&p, 4, threads);
            train(&p, 5);
            copy_parameters(&p, run ? second : first);
            destroy(&p);
        }
        assert_memory_equal(first, second, ROOM * sizeof(float));
    }
    free(first);
    free(second);
}

/* ---- bf16 ------------------------------------------------------------------------------------ */

/* |a - b| / |b| over the gradients of all parameters. */
static double gradient_distance(problem *a, problem *b) {
    double difference = 0.0, size = 0.0;
    for (size_t i = 0; i < a->n_parameters; i++)
        for (size_t k = 0; k < bb_gradient_parameter_elements(a->g, i); k++) {
            double x = (double)bb_gradient_of(a->g, i)[k], y = (double)bb_gradient_of(b->g, i)[k];
            difference += (x - y) * (x - y);
            size += y * y;
        }
    return sqrt(difference / size);
}

/* An operand is off by 2^-9 of its size; in quantized networks a few codes differ for that. */
static void test_bf16(void **state) {
    static const struct {
        int bits, width;
        double bound;
    } cases[] = {{0, 12, 0.01}, {0, 16, 0.01}, {8, 16, 0.01},
                 {4, 16, 0.05}, {2, 12, 0.1},  {2, 16, 0.1}};
    bb_error err;
    if (bb_gradient_check_bf16(&err) != BB_STATUS_OK) {
        print_message("%s\n", err.message);
        skip();
    }
    for (size_t i = 0; i < BB_COUNT(cases); i++) {
        problem f32, bf16;
        create_in(&f32, cases[i].bits, 1, cases[i].width, false);
        create_in(&bf16, cases[i].bits, 1, cases[i].width, true);
        step(&f32, NULL);
        double before = step(&bf16, NULL), distance = gradient_distance(&bf16, &f32);
        if (!(distance > 0 && distance < cases[i].bound))
            fail_msg("%d bits: gradients differ by %g", cases[i].bits, distance);
        double after = train(&bf16, 60);
        if (!(before > 0.8 && after < 0.25 * before))
            fail_msg("%d bits: loss %g -> %g", cases[i].bits, before, after);
        destroy(&f32);
        destroy(&bf16);
    }
}

/* ---- kept values ----------------------------------------------------------------------------- */

/* The Relu that reads the kept sum could write over it, were it not kept. */
static void test_kept_values_stay(void **state) {
    enum { N = 12 };
    net n = net_create();
    int x = net_input(&n, BB_DTYPE_F32, DIMS(1, N)), w = net_random(&n, -1.0, 1.0, DIMS(1, N));
    int sum = NODE(&n, BB_OP_ADD, x, w);
    net_output(&n, NODE(&n, BB_OP_MUL, NODE(&n, BB_OP_RELU, sum), w));
    net_finish(&n);
    float *data = random_floats(&n, N);
    const float *weights = n.graph->values[w].data;
    const int64_t *dims[1];
    net_dims(&n, dims);
    bb_gradient_options options = {.parameters = &w, .n_parameters = 1, .kept = &sum, .n_kept = 1};
    bb_gradient *g;
    bb_array in = net_array(&n, 0, data), out;
    assert_int_equal(bb_gradient_create(n.graph, dims, &options, &g, &n.err), BB_STATUS_OK);
    assert_int_equal(bb_gradient_forward(g, &in, &n.err), BB_STATUS_OK);
    assert_int_equal(bb_gradient_value(g, sum, &out, &n.err), BB_STATUS_OK);
    for (int i = 0; i < N; i++)
        assert_true(((const float *)out.data)[i] == data[i] + weights[i]);
    bb_gradient_destroy(g);
    bb_graph_destroy(n.graph);
    free(data);
}

/* ---- several programs train one set of parameters -------------------------------------------- */

static void test_shared_masters(void **state) {
    problem p;
    create(&p, 0, 1);
    float *masters[MOST];
    for (size_t i = 0; i < p.n_parameters; i++)
        masters[i] = bb_gradient_parameter(p.g, i);
    const int64_t *dims[1];
    net_dims(&p.n, dims);
    bb_gradient_options options = {.training = true,
                                   .parameters = p.parameters,
                                   .n_parameters = p.n_parameters,
                                   .masters = masters,
                                   .forward_only = true};
    bb_gradient *other;
    assert_int_equal(bb_gradient_create(p.n.graph, dims, &options, &other, &p.n.err), BB_STATUS_OK);
    train(&p, 3);
    assert_int_equal(bb_gradient_forward(p.g, &p.input, &p.n.err), BB_STATUS_OK);
    assert_int_equal(bb_gradient_forward(other, &p.input, &p.n.err), BB_STATUS_OK);
    bb_array a, b;
    assert_int_equal(bb_gradient_value(p.g, p.scores, &a, &p.n.err), BB_STATUS_OK);
    assert_int_equal(bb_gradient_value(other, p.scores, &b, &p.n.err), BB_STATUS_OK);
    assert_near(b.data, a.data, BATCH * CLASSES, 1e-5);
    assert_int_not_equal(bb_gradient_backward(other, NULL, 0, &p.n.err), BB_STATUS_OK);
    bb_gradient_destroy(other);
    destroy(&p);
}

/* ---- seeds ----------------------------------------------------------------------------------- */

/* The gradient of two seeds is the sum of the gradients of each; of none it is zero. */
static void test_seeds_add_up(void **state) {
    problem p;
    create(&p, 0, 1);
    enum { FEATURES = BATCH * 16 * SIDE * SIDE, FIRST = 12 * 9 };
    float *seed = random_floats(&p.n, FEATURES), *top = random_floats(&p.n, BATCH * CLASSES);
    float sum[FIRST] = {0};
    bb_gradient_seed seeds[2] = {{p.features, seed}, {p.scores, top}};
    for (int which = 0; which < 2; which++) {
        assert_int_equal(bb_gradient_forward(p.g, &p.input, &p.n.err), BB_STATUS_OK);
        assert_int_equal(bb_gradient_backward(p.g, &seeds[which], 1, &p.n.err), BB_STATUS_OK);
        for (size_t i = 0; i < FIRST; i++)
            sum[i] += bb_gradient_of(p.g, 0)[i];
    }
    assert_int_equal(bb_gradient_forward(p.g, &p.input, &p.n.err), BB_STATUS_OK);
    assert_int_equal(bb_gradient_backward(p.g, seeds, 2, &p.n.err), BB_STATUS_OK);
    assert_near(bb_gradient_of(p.g, 0), sum, FIRST, 1e-4);
    assert_int_equal(bb_gradient_forward(p.g, &p.input, &p.n.err), BB_STATUS_OK);
    assert_int_equal(bb_gradient_backward(p.g, NULL, 0, &p.n.err), BB_STATUS_OK);
    for (size_t i = 0; i < FIRST; i++)
        assert_true(bb_gradient_of(p.g, 0)[i] == 0.0f);
    free(seed);
    free(top);
    destroy(&p);
}

/* ---- misuse ---------------------------------------------------------------------------------- */

static void test_misuse(void **state) {
    problem p;
    create(&p, 0, 1);
    bb_array array;
    const float *data;
    bb_error *err = &p.n.err;
    assert_int_not_equal(bb_gradient_value(p.g, p.scores, &array, err), BB_STATUS_OK);
    assert_int_not_equal(bb_gradient_backward(p.g, NULL, 0, err), BB_STATUS_OK);
    step(&p, NULL);
    assert_int_not_equal(bb_gradient_backward(p.g, NULL, 0, err), BB_STATUS_OK); /* twice */
    assert_int_not_equal(bb_gradient_value(p.g, 0, &array, err), BB_STATUS_OK);  /* not kept */
    assert_int_not_equal(bb_gradient_input(p.g, 0, &data, err), BB_STATUS_OK);   /* not wanted */
    assert_int_equal(bb_gradient_forward(p.g, &p.input, err), BB_STATUS_OK);
    float seed[BATCH * CLASSES] = {0};
    bb_gradient_seed twice[2] = {{p.scores, seed}, {p.scores, seed}};
    assert_int_not_equal(bb_gradient_backward(p.g, twice, 2, err), BB_STATUS_OK);
    assert_null(bb_gradient_parameter(p.g, p.n_parameters));
    assert_int_equal(bb_gradient_parameter_value(p.g, p.n_parameters), -1);
    const int64_t *dims[1];
    net_dims(&p.n, dims);
    int no_constant = p.scores;
    bb_gradient_options options = {.parameters = &no_constant, .n_parameters = 1};
    bb_gradient *g = NULL;
    assert_int_not_equal(bb_gradient_create(p.n.graph, dims, &options, &g, err), BB_STATUS_OK);
    options = (bb_gradient_options){.wanted = &no_constant, .n_wanted = 1};
    assert_int_not_equal(bb_gradient_create(p.n.graph, dims, &options, &g, err), BB_STATUS_OK);
    destroy(&p);
}

/* A node without a known gradient is named; off the gradient's way it is no hindrance. */
static void test_unknown_gradient(void **state) {
    for (int on_the_way = 0; on_the_way < 2; on_the_way++) {
        net n = net_create();
        int x = net_input(&n, BB_DTYPE_F32, DIMS(2, 3));
        int w = net_random(&n, 0.5, 1.0, DIMS(2, 3));
        int y = NODE(&n, BB_OP_TAN, on_the_way ? w : x);
        net_output(&n, NODE(&n, BB_OP_MUL, y, w));
        net_finish(&n);
        const int64_t *dims[1];
        net_dims(&n, dims);
        bb_gradient_options options = {.parameters = &w, .n_parameters = 1};
        bb_gradient *g = NULL;
        bb_status status = bb_gradient_create(n.graph, dims, &options, &g, &n.err);
        assert_int_equal(status, on_the_way ? BB_STATUS_UNSUPPORTED : BB_STATUS_OK);
        if (on_the_way)
            assert_non_null(strstr(n.err.message, "n0"));
        bb_gradient_destroy(g);
        bb_graph_destroy(n.graph);
    }
}

static void test_allocation_failures(void **state) {
    problem p;
    create(&p, 2, 1);
    const int64_t *dims[1];
    net_dims(&p.n, dims);
    bb_gradient_options options = {
        .training = true, .parameters = p.parameters, .n_parameters = p.n_parameters};
    bb_status status = BB_STATUS_OUT_OF_MEMORY;
    for (long countdown = 0; status != BB_STATUS_OK; countdown++) {
        bb_gradient *g = NULL;
        bb_alloc_fail_after(countdown);
        status = bb_gradient_create(p.n.graph, dims, &options, &g, &p.n.err);
        bb_alloc_fail_after(-1);
        assert_true(status == BB_STATUS_OK || status == BB_STATUS_OUT_OF_MEMORY);
        bb_gradient_destroy(g);
        assert_true(countdown < 100000);
    }
    destroy(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loss_falls),
        cmocka_unit_test(test_export),
        cmocka_unit_test(test_statistics),
        cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_kept_values_stay),
        cmocka_unit_test(test_shared_masters),
        cmocka_unit_test(test_seeds_add_up),
        cmocka_unit_test(test_misuse),
        cmocka_unit_test(test_unknown_gradient),
        cmocka_unit_test(test_allocation_failures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
