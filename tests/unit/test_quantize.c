/* SPDX-License-Identifier: Apache-2.0 */
#include "unit.h"

#include "quantize/grid.h"
#include "quantize/histogram.h"
#include "quantize/solve.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- histograms and grids -------------------------------------------------------------------- */

static void fill_normal(float *x, size_t n, float scale, bb_rng *rng) {
    for (size_t i = 0; i < n; i++)
        x[i] = scale * (float)bb_rng_normal(rng);
}

static void test_histogram_does_not_depend_on_order(void **state) {
    enum { N = 3000 };
    static float x[N];
    static bb_histogram forward, backward, other;
    bb_rng rng;
    bb_rng_seed(&rng, 1);
    for (size_t i = 0; i < N; i++)
        x[i] = i % 7 ? ldexpf((float)bb_rng_normal(&rng), (int)(i / 100) - 15) : 0.0f;
    bb_histogram_init(&forward);
    bb_histogram_init(&backward);
    bb_histogram_init(&other);
    for (size_t i = 0; i < N; i += 100)
        assert_true(bb_histogram_add(&forward, x + i, 100));
    for (size_t i = N; i > 0; i -= 50)
        assert_true(bb_histogram_add(i % 200 ? &backward : &other, x + i - 50, 50));
    bb_histogram_merge(&backward, &other);
    assert_memory_equal(&forward, &backward, sizeof forward);
    assert_int_equal(bb_histogram_count(&forward), N);
    /* The bins are as narrow as they can be: the largest value lies in their upper half. */
    float largest = fmaxf(forward.max, -forward.min) * ldexpf(1.0f, -forward.exponent);
    assert_true(largest >= BB_HISTOGRAM_BINS / 2 && largest < BB_HISTOGRAM_BINS);
    float bad = NAN;
    assert_false(bb_histogram_add(&forward, &bad, 1));
    assert_int_equal(bb_histogram_count(&forward), N);
}

static void test_codes_round_halves_up_and_clamp(void **state) {
    bb_grid grid = {2, 0.5f, -3}; /* reals 0 1 2 3 */
    const float x[] = {-9.0f, 0.49f, 0.5f, 1.5f, 2.49f, 2.5f, 99.0f, NAN};
    const uint32_t u[] = {0, 0, 1, 2, 2, 3, 3, 0};
    for (size_t i = 0; i < 8; i++)
        assert_int_equal(bb_grid_code(&grid, x[i]), u[i]);
    for (uint32_t v = 0; v < 4; v++)
        assert_true(bb_grid_real(&grid, v) == (float)v);
}

static double grid_loss(const bb_grid *grid, const float *x, size_t n) {
    double sum = 0.0;
    for (size_t i = 0; i < n; i++)
        sum += pow(fabs(bb_grid_real(grid, bb_grid_code(grid, x[i])) - x[i]), 2.4);
    return sum;
}

static void test_grid_search_beats_other_grids(void **state) {
    enum { N = 20000 };
    static float x[N];
    static bb_histogram h;
    bb_rng rng;
    for (uint32_t bits = 1; bits <= 8; bits++) {
        for (int is_signed = 0; is_signed < 2; is_signed++) {
            bb_rng_seed(&rng, bits);
            fill_normal(x, N, 3.0f, &rng);
            for (size_t i = 0; i < N; i++)
                x[i] = x[i] > 0.0f ? x[i] : (is_signed ? 0.1f * x[i] : 0.0f);
            bb_histogram_init(&h);
            assert_true(bb_histogram_add(&h, x, N));
            bb_grid grid = bb_grid_search(&h, bits, -INFINITY, INFINITY);
            int32_t top = (1 << bits) - 1;
            assert_int_equal(grid.bits, bits);
            assert_int_equal((grid.a0 + top) % 2, 0);
            assert_in_range(grid.a0 + top, 0, 2 * top);
            if (!is_signed)
                assert_int_equal(grid.a0, -top);
            double loss = grid_loss(&grid, x, N);
            for (int i = 1; i < 40; i++) {
                bb_grid rival = grid;
                rival.step = grid.step * 0.05f * (float)i;
                assert_true(grid_loss(&rival, x, N) >= 0.99 * loss);
            }
        }
    }
}

static void test_grid_stays_inside_the_clip(void **state) {
    static bb_histogram h;
    float x[600];
    for (size_t i = 0; i < 600; i++)
        x[i] = fminf((float)i / 50.0f, 6.0f);
    bb_histogram_init(&h);
    assert_true(bb_histogram_add(&h, x, 600));
    for (uint32_t bits = 1; bits <= 8; bits++) {
        bb_grid grid = bb_grid_search(&h, bits, 0.0f, 6.0f);
        assert_true(bb_grid_max(&grid) <= 6.0f * (1.0f + 2.0f * FLT_EPSILON));
        assert_true(bb_grid_max(&grid) > 3.0f);
    }
}

static void test_grid_of_nothing_has_a_zero(void **state) {
    static bb_histogram h;
    bb_histogram_init(&h);
    bb_grid grid = bb_grid_search(&h, 4, -INFINITY, INFINITY);
    assert_true(grid.step > 0.0f);
    assert_true(bb_grid_real(&grid, bb_grid_code(&grid, 0.0f)) == 0.0f);
}

/* ---- the weight solver ----------------------------------------------------------------------- */

enum { MAX_D = 200, MAX_ROWS = 70, SAMPLES = 500 };

/** A layer with correlated inputs that carry some noise against those y was made from. */
typedef struct layer {
    size_t groups, rows, d;
    float w[MAX_ROWS * MAX_D];
    float *x, *y;
    bb_gram gram;
} layer;

static void make_layer(layer *l, size_t groups, size_t rows, size_t d, uint64_t seed) {
    bb_rng rng;
    bb_rng_seed(&rng, seed);
    l->groups = groups;
    l->rows = rows;
    l->d = d;
    fill_normal(l->w, groups * rows * d, 0.3f, &rng);
    l->x = malloc(groups * SAMPLES * d * sizeof(float));
    l->y = calloc(SAMPLES * groups * rows, sizeof(float));
    for (size_t g = 0; g < groups; g++) {
        for (size_t s = 0; s < SAMPLES; s++) {
            float *x = l->x + (g * SAMPLES + s) * d, common = (float)bb_rng_normal(&rng);
            for (size_t i = 0; i < d; i++)
                x[i] = fmaxf(0.0f, 1.0f + common + (float)(i % 5) * (float)bb_rng_normal(&rng));
            for (size_t r = 0; r < rows; r++)
                for (size_t i = 0; i < d; i++)
                    l->y[s * groups * rows + g * rows + r] += l->w[(g * rows + r) * d + i] * x[i];
            for (size_t i = 0; i < d; i++)
                x[i] += 0.1f * (float)bb_rng_normal(&rng);
        }
    }
}

static void fill_gram(layer *l, bb_pool *pool) {
    assert_int_equal(bb_gram_create(&l->gram, l->groups, l->d, l->rows, true, NULL), BB_STATUS_OK);
    /* In two parts, as calibration streams them. */
    size_t half = SAMPLES / 2;
    float *part = malloc(l->groups * half * l->d * sizeof(float));
    for (size_t h = 0; h < 2; h++) {
        for (size_t g = 0; g < l->groups; g++)
            memcpy(part + g * half * l->d, l->x + (g * SAMPLES + h * half) * l->d,
                   half * l->d * sizeof(float));
        bb_gram_add(&l->gram, part, l->y + h * half * l->groups * l->rows, half, pool);
    }
    free(part);
    bb_gram_finish(&l->gram, pool);
}

static void free_layer(layer *l) {
    free(l->x);
    free(l->y);
}

/** Mean squared error of y with the best bias, at `bits` of codes that have max_bits. */
static double layer_error(const layer *l, const uint8_t *codes, const float *scale, uint32_t bits,
                          uint32_t max_bits) {
    double total = 0.0;
    size_t outputs = l->groups * l->rows;
    for (size_t o = 0; o < outputs; o++) {
        double sum = 0.0, squares = 0.0;
        for (size_t s = 0; s < SAMPLES; s++) {
            const float *x = l->x + (o / l->rows * SAMPLES + s) * l->d;
            double e = l->y[s * outputs + o];
            for (size_t i = 0; i < l->d; i++) {
                int v = codes[o * l->d + i] >> (max_bits - bits);
                e -= (double)scale[o] * (2 * v - ((1 << bits) - 1)) * x[i];
            }
            sum += e;
            squares += e * e;
        }
        total += squares / SAMPLES - (sum / SAMPLES) * (sum / SAMPLES);
    }
    return total / (double)outputs;
}

/** Solves for profiles of the given bits; codes and scales go to the caller's arrays. */
static void run_solver(layer *l, const uint32_t *bits, size_t n, unsigned sweeps, size_t threads,
                       uint8_t *codes, float scale[][MAX_ROWS]) {
    bb_pool *pool;
    bb_solve_profile profiles[4];
    bb_gram grams[4];
    assert_int_equal(bb_pool_create(threads, &pool, NULL), BB_STATUS_OK);
    for (size_t p = 0; p < n; p++) {
        fill_gram(l, pool);
        grams[p] = l->gram;
        profiles[p] = (bb_solve_profile){bits[p], &grams[p], scale[p]};
    }
    bb_solve_problem problem = {l->groups, l->rows, l->d, l->w, n, profiles, sweeps, 0.01f, codes};
    assert_int_equal(bb_solve(&problem, pool, NULL), BB_STATUS_OK);
    for (size_t p = 0; p < n; p++)
        bb_gram_free(&grams[p]);
    bb_pool_destroy(pool);
}

static uint8_t codes_a[MAX_ROWS * MAX_D], codes_b[MAX_ROWS * MAX_D];
static float scale_a[4][MAX_ROWS], scale_b[4][MAX_ROWS];

static void test_codes_fit_their_bits(void **state) {
    layer l;
    for (uint32_t bits = 1; bits <= 8; bits++) {
        make_layer(&l, 1, 5, 40, bits);
        run_solver(&l, &bits, 1, 4, 1, codes_a, scale_a);
        unsigned seen = 0;
        for (size_t i = 0; i < 5 * 40; i++) {
            assert_true(codes_a[i] < 1u << bits);
            seen |= 1u << (codes_a[i] >> (bits > 2 ? bits - 2 : 0));
        }
        assert_int_equal(seen, bits == 1 ? 3 : 15); /* the whole range is in use */
        for (size_t r = 0; r < 5; r++)
            assert_true(scale_a[0][r] > 0.0f);
        free_layer(&l);
    }
}

static void test_sweeps_never_increase_the_error(void **state) {
    layer l;
    for (uint32_t bits = 1; bits <= 4; bits++) {
        make_layer(&l, 1, 6, 150, 10 + bits);
        double rounded = 0.0, last = 0.0;
        for (unsigned sweeps = 0; sweeps <= 5; sweeps++) {
            run_solver(&l, &bits, 1, sweeps, 1, codes_a, scale_a);
            double error = layer_error(&l, codes_a, scale_a[0], bits, bits);
            if (sweeps == 0)
                rounded = error;
            else
                assert_true(error <= last * 1.001);
            last = error;
        }
        assert_true(last < 0.95 * rounded);
        free_layer(&l);
    }
}

/** The least error over all codes of one row, each with its best scale. */
static double exhaustive_error(const layer *l, uint32_t bits) {
    size_t n = (size_t)1 << (bits * l->d);
    double best = DBL_MAX;
    for (size_t trial = 0; trial < n; trial++) {
        double qb = 0.0, qq = 0.0, q[MAX_D];
        for (size_t i = 0; i < l->d; i++)
            q[i] = 2.0 * (double)(trial >> (bits * i) & ((1u << bits) - 1)) - ((1 << bits) - 1);
        for (size_t i = 0; i < l->d; i++) {
            qb += q[i] * l->gram.yx[i];
            for (size_t j = 0; j < l->d; j++)
                qq += q[i] * q[j] * l->gram.xx[i * l->d + j];
        }
        if (qb > 0.0 && -qb * qb / qq < best)
            best = -qb * qb / qq;
    }
    return best; /* minus var(y): the same constant for every choice */
}

static void test_small_layers_come_close_to_the_optimum(void **state) {
    bb_pool *pool;
    layer l;
    assert_int_equal(bb_pool_create(1, &pool, NULL), BB_STATUS_OK);
    double found = 0.0, optimum = 0.0;
    for (uint64_t seed = 0; seed < 12; seed++) {
        make_layer(&l, 1, 1, 6, 100 + seed);
        fill_gram(&l, pool);
        double best = exhaustive_error(&l, 2), var = 0.0, mean = l.gram.y_mean[0];
        bb_gram_free(&l.gram);
        for (size_t s = 0; s < SAMPLES; s++)
            var += (l.y[s] - mean) * (l.y[s] - mean) / SAMPLES;
        uint32_t bits = 2;
        run_solver(&l, &bits, 1, 4, 1, codes_a, scale_a);
        double error = layer_error(&l, codes_a, scale_a[0], 2, 2);
        assert_true(error >= 0.999 * (var + best));
        found += error / var;
        optimum += (var + best) / var;
        free_layer(&l);
    }
    assert_true(found <= 1.15 * optimum);
    bb_pool_destroy(pool);
}

static void test_nested_profiles_stay_near_their_own_optimum(void **state) {
    layer l;
    const uint32_t bits[] = {8, 4, 6};
    make_layer(&l, 1, 8, 150, 7);
    run_solver(&l, bits, 3, 4, 1, codes_a, scale_a);
    for (size_t p = 0; p < 3; p++) {
        run_solver(&l, &bits[p], 1, 4, 1, codes_b, scale_b);
        double shared = layer_error(&l, codes_a, scale_a[p], bits[p], 8);
        double alone = layer_error(&l, codes_b, scale_b[0], bits[p], bits[p]);
        assert_true(shared < 1.2 * alone);
    }
    free_layer(&l);
}

static void test_spread_gives_the_variance_of_the_target(void **state) {
    static uint8_t codes[MAX_ROWS * MAX_D];
    static float scale[1][MAX_ROWS];
    layer l;
    make_layer(&l, 1, 3, 24, 17);
    run_solver(&l, (const uint32_t[]){1}, 1, 4, 1, codes, scale);
    bb_pool *pool;
    assert_int_equal(bb_pool_create(1, &pool, NULL), BB_STATUS_OK);
    fill_gram(&l, pool);
    for (size_t r = 0; r < 3; r++) {
        double factor = bb_gram_spread(&l.gram, r, codes + r * 24, 1, 0, scale[0][r]);
        double sum = 0, squares = 0, wanted = 0, mean = 0;
        for (size_t s = 0; s < SAMPLES; s++) {
            double v = 0, y = l.y[s * 3 + r];
            for (size_t i = 0; i < 24; i++)
                v += factor * (double)scale[0][r] * (2 * codes[r * 24 + i] - 1) * l.x[s * 24 + i];
            sum += v / SAMPLES;
            squares += v * v / SAMPLES;
            mean += y / SAMPLES;
            wanted += y * y / SAMPLES;
        }
        assert_true(factor > 1.005);
        assert_true(fabs((squares - sum * sum) / (wanted - mean * mean) - 1) < 0.01);
    }
    bb_gram_free(&l.gram);
    bb_pool_destroy(pool);
    free_layer(&l);
}

static void test_fitted_scales_leave_the_least_error(void **state) {
    static uint8_t codes[MAX_ROWS * MAX_D];
    static float scale[1][MAX_ROWS];
    float fitted[6], scratch[2 * 20];
    layer l;
    make_layer(&l, 2, 3, 20, 23);
    run_solver(&l, (const uint32_t[]){2}, 1, 4, 1, codes, scale);
    bb_pool *pool;
    assert_int_equal(bb_pool_create(1, &pool, NULL), BB_STATUS_OK);
    fill_gram(&l, pool);
    for (size_t r = 0; r < 6; r++)
        fitted[r] = (float)bb_gram_fit(&l.gram, r, codes + r * 20, 2, 0, 0.0, scratch);
    double least = layer_error(&l, codes, fitted, 2, 2);
    for (size_t r = 0; r < 6; r++)
        for (int up = 0; up < 2; up++) {
            float kept = fitted[r];
            fitted[r] *= up ? 1.02f : 0.98f;
            assert_true(layer_error(&l, codes, fitted, 2, 2) > least);
            fitted[r] = kept;
        }
    bb_gram_free(&l.gram);
    bb_pool_destroy(pool);
    free_layer(&l);
}

static void test_solver_does_not_depend_on_threads(void **state) {
    layer l;
    const uint32_t bits[] = {3, 2};
    make_layer(&l, 1, 70, 110, 3);
    run_solver(&l, bits, 2, 2, 1, codes_a, scale_a);
    run_solver(&l, bits, 2, 2, 3, codes_b, scale_b);
    assert_memory_equal(codes_a, codes_b, 70 * 110);
    assert_memory_equal(scale_a, scale_b, 2 * sizeof scale_a[0]);
    free_layer(&l);
}

static void test_groups_are_solved_apart(void **state) {
    layer l, alone;
    const uint32_t bits = 4;
    make_layer(&l, 6, 2, 9, 5);
    run_solver(&l, &bits, 1, 4, 2, codes_a, scale_a);
    for (size_t g = 0; g < 6; g++) {
        alone.groups = 1;
        alone.rows = 2;
        alone.d = 9;
        memcpy(alone.w, l.w + g * 18, 18 * sizeof(float));
        alone.x = l.x + g * SAMPLES * 9;
        alone.y = malloc(SAMPLES * 2 * sizeof(float));
        for (size_t s = 0; s < SAMPLES; s++)
            memcpy(alone.y + 2 * s, l.y + s * 12 + 2 * g, 2 * sizeof(float));
        run_solver(&alone, &bits, 1, 4, 1, codes_b, scale_b);
        assert_memory_equal(codes_a + g * 18, codes_b, 18);
        assert_memory_equal(scale_a[0] + 2 * g, scale_b[0], 2 * sizeof(float));
        free(alone.y);
    }
    free_layer(&l);
}

static void test_weights_alone_are_rounded_to_nearest(void **state) {
    bb_pool *pool;
    assert_int_equal(bb_pool_create(1, &pool, NULL), BB_STATUS_OK);
    const float w[8] = {-3, -1, 1, 3, 0, 0, 0, 0};
    const uint8_t want[4] = {0, 1, 2, 3};
    bb_solve_profile profile = {2, NULL, scale_a[0]};
    bb_solve_problem problem = {1, 2, 4, w, 1, &profile, 4, 0.01f, codes_a};
    assert_int_equal(bb_solve(&problem, pool, NULL), BB_STATUS_OK);
    assert_memory_equal(codes_a, want, 4);
    assert_true(fabsf(scale_a[0][0] - 1.0f) < 1e-6f);
    assert_true(scale_a[0][1] > 0.0f && scale_a[0][1] < 1e-30f); /* an empty row stays empty */
    bb_pool_destroy(pool);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_histogram_does_not_depend_on_order),
        cmocka_unit_test(test_codes_round_halves_up_and_clamp),
        cmocka_unit_test(test_grid_search_beats_other_grids),
        cmocka_unit_test(test_grid_stays_inside_the_clip),
        cmocka_unit_test(test_grid_of_nothing_has_a_zero),
        cmocka_unit_test(test_codes_fit_their_bits),
        cmocka_unit_test(test_sweeps_never_increase_the_error),
        cmocka_unit_test(test_small_layers_come_close_to_the_optimum),
        cmocka_unit_test(test_nested_profiles_stay_near_their_own_optimum),
        cmocka_unit_test(test_spread_gives_the_variance_of_the_target),
        cmocka_unit_test(test_fitted_scales_leave_the_least_error),
        cmocka_unit_test(test_solver_does_not_depend_on_threads),
        cmocka_unit_test(test_groups_are_solved_apart),
        cmocka_unit_test(test_weights_alone_are_rounded_to_nearest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
