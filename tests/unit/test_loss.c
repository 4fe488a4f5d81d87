/* SPDX-License-Identifier: Apache-2.0 */
/* Losses against closed forms and numerical gradients, optimisers against steps done by hand. */
#include "nn/loss.h"
#include "nn/optimizer.h"
#include "unit.h"
#include <math.h>
#include <string.h>

enum { N = 3, CLASSES = 4, SIZE = N * CLASSES };

static const float scores[SIZE] = {0.5f,  -1.25f, 2,     0.25f, -3,   0.125f,
                                   1.75f, -0.5f,  0.75f, 1.5f,  0.5f, -2};
static const float teacher[SIZE] = {1, -1, 1.5f, 0, -2, 1, 0.5f, 0.25f, 2, -0.5f, 1, 0};
static const int labels[N] = {2, 0, 1};

static void near(double got, double want, double tolerance) {
    if (!(fabs(got - want) <= tolerance * (1 + fabs(want))))
        fail_msg("%.9g, not %.9g", got, want);
}

typedef double (*loss_fn)(const float *x, float *gradient);

static double smoothed(const float *x, float *gradient) {
    return bb_loss_cross_entropy(x, labels, N, CLASSES, 0.1, 0.5, gradient);
}

static double hinge(const float *x, float *gradient) {
    return bb_loss_squared_hinge(x, labels, N, CLASSES, 2, gradient);
}

static double distilled(const float *x, float *gradient) {
    return bb_loss_distillation(x, teacher, N, CLASSES, 3, 0.5, gradient);
}

static double squares(const float *x, float *gradient) {
    return bb_loss_mean_square(x, teacher, SIZE, 1.5, gradient);
}

/* Central differences; float inputs leave about 1e-3. The gradient is added to what is there. */
static void check_gradient(loss_fn loss) {
    float x[SIZE], unused[SIZE] = {0}, gradient[SIZE];
    memcpy(x, scores, sizeof(x));
    for (int i = 0; i < SIZE; i++)
        gradient[i] = 10;
    loss(x, gradient);
    for (int i = 0; i < SIZE; i++) {
        const float h = 1.0f / 256;
        x[i] = scores[i] + h;
        double up = loss(x, unused);
        x[i] = scores[i] - h;
        double down = loss(x, unused);
        x[i] = scores[i];
        near((double)gradient[i] - 10, (up - down) / (2 * (double)h), 1e-4);
    }
}

static void gradients_are_those_of_the_losses(void **state) {
    check_gradient(smoothed);
    check_gradient(hinge);
    check_gradient(distilled);
    check_gradient(squares);
}

static void cross_entropy_has_its_closed_form(void **state) {
    const float two[4] = {0, 0, 0, (float)log(3)};
    const int to[2] = {0, 1};
    float gradient[4] = {0};
    /* Row 1: p = 1/2, 1/2. Row 2: p = 1/4, 3/4. */
    near(bb_loss_cross_entropy(two, to, 2, 2, 0, 1, gradient), (log(2) - log(0.75)) / 2, 1e-7);
    near((double)gradient[0], -0.25, 1e-7);
    near((double)gradient[1], 0.25, 1e-7);
    near((double)gradient[2], 0.125, 1e-7);
    near((double)gradient[3], -0.125, 1e-7);
}

static void huge_scores_stay_finite(void **state) {
    const float big[2] = {1e30f, -1e30f};
    const int to[1] = {0};
    float gradient[2] = {0};
    near(bb_loss_cross_entropy(big, to, 1, 2, 0, 1, gradient), 0, 1e-12);
    assert_true(gradient[0] == 0 && gradient[1] == 0);
}

static void rows_without_a_class_count_nothing(void **state) {
    const int none[N] = {-1, CLASSES, 1};
    float gradient[SIZE] = {0};
    bb_loss_cross_entropy(scores, none, N, CLASSES, 0, 1, gradient);
    bb_loss_squared_hinge(scores, none, N, CLASSES, 1, gradient);
    for (int i = 0; i < 2 * CLASSES; i++)
        assert_true(gradient[i] == 0);
    assert_true(gradient[2 * CLASSES] != 0);
}

static void hinge_and_distillation_have_their_closed_forms(void **state) {
    const float x[2] = {0.5f, -2};
    const int to[1] = {0};
    float gradient[SIZE] = {0};
    near(bb_loss_squared_hinge(x, to, 1, 2, 1, gradient), 0.25 / 2, 1e-7);
    near((double)gradient[0], -0.5, 1e-7);
    assert_true(gradient[1] == 0);
    near(bb_loss_distillation(teacher, teacher, N, CLASSES, 2, 1, gradient), 0, 1e-12);
}

static void squares_of_long_vectors_add_up(void **state) {
    enum { LONG = 10007 };
    static float a[LONG], b[LONG], gradient[LONG];
    double want = 0;
    for (int i = 0; i < LONG; i++) {
        a[i] = (float)(i % 17) / 4;
        b[i] = (float)(i % 5);
        want += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]) / LONG;
    }
    near(bb_loss_mean_square(a, b, LONG, 1, gradient), want, 1e-6);
    near((double)gradient[LONG - 1], 2 * ((double)a[LONG - 1] - (double)b[LONG - 1]) / LONG, 1e-6);
}

/* ---- optimisers ------------------------------------------------------------------------------ */

static void steps(bb_optimizer_options *options, bb_parameter *p, float rate, int n) {
    bb_error err;
    bb_optimizer *o = NULL;
    assert_int_equal(bb_optimizer_create(options, p, 1, &o, &err), BB_STATUS_OK);
    for (int i = 0; i < n; i++)
        bb_optimizer_step(o, rate);
    assert_int_equal(bb_optimizer_steps(o), n);
    bb_optimizer_destroy(o);
}

static void momentum_adds_up(void **state) {
    float w = 1, g = 1;
    bb_parameter p = {.value = &w, .gradient = &g, .n = 1, .rate = 1, .decay = 1};
    bb_optimizer_options options;
    bb_optimizer_options_init(&options);
    options.nesterov = false;
    options.momentum = 0.5f;
    steps(&options, &p, 0.125f, 3); /* v = 1, 1.5, 1.75 */
    near((double)w, 1 - 0.125 * (1 + 1.5 + 1.75), 1e-7);
}

static void nesterov_looks_ahead(void **state) {
    float w = 1, g = 1;
    bb_parameter p = {.value = &w, .gradient = &g, .n = 1, .rate = 2, .decay = 1};
    bb_optimizer_options options;
    bb_optimizer_options_init(&options);
    options.momentum = 0.5f;
    steps(&options, &p, 0.0625f, 2); /* g + v/2 with v = 1, 1.5 */
    near((double)w, 1 - 0.125 * (1.5 + 1.75), 1e-7);
}

static void weight_decay_keeps_to_its_group(void **state) {
    float w[2] = {2, 2}, g[2] = {0, 0};
    bb_parameter p[2] = {{.value = w, .gradient = g, .n = 1, .rate = 1, .decay = 1},
                         {.value = w + 1, .gradient = g + 1, .n = 1, .rate = 1, .decay = 0}};
    bb_optimizer_options options;
    bb_error err;
    bb_optimizer *o = NULL;
    bb_optimizer_options_init(&options);
    options.momentum = 0;
    options.nesterov = false;
    options.weight_decay = 0.25f;
    assert_int_equal(bb_optimizer_create(&options, p, 2, &o, &err), BB_STATUS_OK);
    bb_optimizer_step(o, 0.5f);
    bb_optimizer_destroy(o);
    near((double)w[0], 2 - 0.5 * 0.25 * 2, 1e-7);
    assert_true(w[1] == 2);
}

static void adam_moves_by_its_rate_whatever_the_gradient(void **state) {
    for (int i = -3; i <= 3; i++) {
        float w = 0, g = (float)pow(10, i);
        bb_parameter p = {.value = &w, .gradient = &g, .n = 1, .rate = 1, .decay = 1};
        bb_optimizer_options options;
        bb_optimizer_options_init(&options);
        options.kind = BB_OPTIMIZER_ADAM;
        steps(&options, &p, 0.01f, 4);
        near((double)w, -0.04, 2e-5);
    }
}

/* m and v by their definitions, for gradients that change. */
static void adam_follows_its_definition(void **state) {
    float w = 1, g = 0;
    double want = 1, m = 0, v = 0;
    bb_parameter p = {.value = &w, .gradient = &g, .n = 1, .rate = 1, .decay = 1};
    bb_optimizer_options options;
    bb_error err;
    bb_optimizer *o = NULL;
    bb_optimizer_options_init(&options);
    options.kind = BB_OPTIMIZER_ADAM;
    options.weight_decay = 0.01f;
    options.decoupled = true;
    assert_int_equal(bb_optimizer_create(&options, &p, 1, &o, &err), BB_STATUS_OK);
    for (int t = 1; t <= 20; t++) {
        g = (float)sin(t);
        bb_optimizer_step(o, 0.1f);
        m = 0.9 * m + 0.1 * (double)g;
        v = 0.999 * v + 0.001 * (double)g * (double)g;
        want = want * (1 - 0.1 * 0.01) -
               0.1 * (m / (1 - pow(0.9, t))) / (sqrt(v / (1 - pow(0.999, t))) + 1e-8);
    }
    bb_optimizer_destroy(o);
    near((double)w, want, 1e-5);
}

static void values_are_clipped(void **state) {
    float w = 0.5f, g = -10;
    bb_parameter p = {.value = &w, .gradient = &g, .n = 1, .rate = 1, .min = -1, .max = 1};
    bb_optimizer_options options;
    bb_optimizer_options_init(&options);
    steps(&options, &p, 1, 1);
    assert_true(w == 1);
}

/* The gradient of x^-2, which throws x to 1e5 as soon as x is small; velocity that was gathered
 * while x was large must not carry it below zero either. */
static void changes_are_limited_to_a_share(void **state) {
    float w = 1, g = 0, free_w = 1;
    bb_parameter p = {.value = &w, .gradient = &g, .n = 1, .rate = 1, .most_change = 0.02f};
    bb_optimizer_options options;
    bb_error err;
    bb_optimizer *o = NULL;
    bb_optimizer_options_init(&options);
    assert_int_equal(bb_optimizer_create(&options, &p, 1, &o, &err), BB_STATUS_OK);
    for (int i = 0; i < 2000; i++) {
        float before = w;
        g = i < 1000 ? 1e6f : -2 / (w * w * w);
        bb_optimizer_step(o, 0.1f);
        assert_true(w > 0 && fabsf(w - before) <= 0.04f * before);
    }
    bb_optimizer_destroy(o);
    p.value = &free_w;
    p.most_change = 0;
    g = 100;
    steps(&options, &p, 0.1f, 1);
    near((double)free_w, 1 - 0.1 * 1.9 * 100, 1e-4);
}

/* A new optimiser given the state of another goes on with the same bits. */
static void state_carries_over(void **state) {
    for (int kind = 0; kind < 2; kind++) {
        float w[2] = {1, 1}, g = 0;
        bb_optimizer *o[2] = {NULL, NULL};
        bb_optimizer_options options;
        bb_error err;
        size_t n, m;
        bb_optimizer_options_init(&options);
        options.kind = (bb_optimizer_kind)kind;
        for (int i = 0; i < 2; i++) {
            bb_parameter p = {.value = &w[i], .gradient = &g, .n = 1, .rate = 1};
            assert_int_equal(bb_optimizer_create(&options, &p, 1, &o[i], &err), BB_STATUS_OK);
        }
        g = 0.5f;
        bb_optimizer_step(o[0], 0.1f);
        const float *from = bb_optimizer_state(o[0], &n);
        memcpy(bb_optimizer_state(o[1], &m), from, n * sizeof(*from));
        assert_int_equal(n, m);
        assert_int_equal(n, kind == BB_OPTIMIZER_ADAM ? 2 : 1);
        bb_optimizer_set_steps(o[1], bb_optimizer_steps(o[0]));
        w[1] = w[0];
        g = -0.25f;
        for (int i = 0; i < 2; i++)
            bb_optimizer_step(o[i], 0.1f);
        assert_memory_equal(&w[0], &w[1], sizeof(float));
        for (int i = 0; i < 2; i++)
            bb_optimizer_destroy(o[i]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_are_those_of_the_losses),
        cmocka_unit_test(cross_entropy_has_its_closed_form),
        cmocka_unit_test(huge_scores_stay_finite),
        cmocka_unit_test(rows_without_a_class_count_nothing),
        cmocka_unit_test(hinge_and_distillation_have_their_closed_forms),
        cmocka_unit_test(squares_of_long_vectors_add_up),
        cmocka_unit_test(momentum_adds_up),
        cmocka_unit_test(nesterov_looks_ahead),
        cmocka_unit_test(weight_decay_keeps_to_its_group),
        cmocka_unit_test(adam_moves_by_its_rate_whatever_the_gradient),
        cmocka_unit_test(adam_follows_its_definition),
        cmocka_unit_test(values_are_clipped),
        cmocka_unit_test(changes_are_limited_to_a_share),
        cmocka_unit_test(state_carries_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
