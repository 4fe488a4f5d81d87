/* SPDX-License-Identifier: Apache-2.0 */
#include "unit.h"

#include "base/base.h"
#include "encode/encode.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static double magnitude_between(bb_rng *rng, double low, double high) {
    return exp(log(low) + bb_rng_uniform(rng) * log(high / low)) * (bb_rng_below(rng, 2) ? 1 : -1);
}

static int64_t operand(bb_rng *rng, int64_t max) {
    int64_t z = (int64_t)bb_rng_below(rng, 2 * (uint64_t)max + 1) - max;
    return bb_rng_below(rng, 8) == 0 ? (z < 0 ? -max : max) : z;
}

static double real_value(const bb_linear_spec *s, int64_t z1, int64_t z2, int64_t n) {
    double y = ((double)z1 * s->m1 + (double)z2 * s->m2) / (double)n + s->offset;
    return (s->slopes && y < 0 ? y * s->slope : y) + s->zero;
}

static bb_linear_spec random_spec(bb_rng *rng) {
    bb_linear_spec s = {.n_max = 1, .bits = 1 + (uint32_t)bb_rng_below(rng, 16)};
    s.max_z1 = 1 + (int64_t)bb_rng_below(rng, UINT64_C(1) << (1 + bb_rng_below(rng, 30)));
    if (bb_rng_below(rng, 8) == 0) {
        s.n_max = 49;
        s.max_z1 = (s.max_z1 / 49 + 1) * 49;
    }
    s.m1 = magnitude_between(rng, 1e-3, 8) * ldexp(1, (int)s.bits) / (double)s.max_z1 *
           (double)s.n_max;
    s.offset = (bb_rng_uniform(rng) - 0.5) * ldexp(1, (int)s.bits);
    s.zero = (double)bb_rng_below(rng, UINT64_C(1) << s.bits) / 2;
    if (s.n_max == 1 && bb_rng_below(rng, 2)) {
        s.max_z2 = 1 + (int64_t)bb_rng_below(rng, 131071);
        s.m2 = magnitude_between(rng, 1e-3, 2) * ldexp(1, (int)s.bits) / (double)s.max_z2;
    }
    s.slopes = bb_rng_below(rng, 3) == 0;
    s.slope = s.slopes ? magnitude_between(rng, 1e-3, 2) : 0;
    return s;
}

static void assert_bounds(const bb_linear_spec *s, const bb_linear *l) {
    double off = (double)llabs(l->off);
    assert_true(abs(l->mult) < 1 << 22 && abs(l->mult2) < 1 << 22);
    assert_true(abs(l->neg_mult) < 1 << 22 && abs(l->neg_mult2) < 1 << 22);
    assert_true(l->shift <= 46);
    double t = (double)s->max_z1 * abs(l->mult) + (double)s->max_z2 * abs(l->mult2) +
               (double)s->n_max * ((double)llabs(l->add) + off);
    double neg = (double)s->max_z1 * abs(l->neg_mult) + (double)s->max_z2 * abs(l->neg_mult2) +
                 (double)s->n_max * ((double)llabs(l->neg_add) + off);
    assert_true(t < 0x1p53 && neg < 0x1p53);
}

/* The integer form may differ from the real one only where the real value is as near to a rounding
 * boundary as the documented accuracy. */
static void test_linear_is_as_accurate_as_stated(void **state) {
    bb_rng rng;
    bb_rng_seed(&rng, 3);
    int coarse = 0;
    for (int i = 0; i < 4000; i++) {
        bb_linear_spec s = random_spec(&rng);
        bb_linear l;
        assert_true(bb_linear_from_real(&s, &l));
        assert_bounds(&s, &l);
        double error = ldexp((double)(s.max_z1 + s.max_z2) / (double)s.n_max + 2, -(l.shift + 1)) *
                       (s.slopes ? 2 : 1);
        if (s.slopes && fabs(s.slope) > 1)
            error *= fabs(s.slope);
        error += 1e-9 * ldexp(1, (int)s.bits); /* double arithmetic of this test */
        /* One shift serves both operands; constants need none. */
        coarse += s.bits <= 8 && s.max_z2 == 0 && l.mult != 0 && error > 0.01;
        for (int k = 0; k < 50; k++) {
            int64_t z1 = operand(&rng, s.max_z1), z2 = s.max_z2 ? operand(&rng, s.max_z2) : 0;
            double last = ldexp(1, (int)s.bits) - 1, v = real_value(&s, z1, z2, s.n_max);
            double low = fmin(fmax(floor(v - error + 0.5), 0), last);
            double high = fmin(fmax(floor(v + error + 0.5), 0), last);
            double u = bb_linear_apply(&l, z1, z2, s.n_max, s.bits);
            if (u < low || u > high)
                fail_msg("spec %d: %g instead of %g..%g", i, u, low, high);
        }
    }
    assert_int_equal(coarse, 0);
}

static void test_linear_rounds_half_up(void **state) {
    bb_linear_spec s = {.m1 = 0.5, .max_z1 = 1000, .n_max = 1, .bits = 8};
    bb_linear l;
    assert_true(bb_linear_from_real(&s, &l));
    for (int64_t z = -4; z <= 600; z++) {
        int64_t u = z < 0 ? 0 : (z + 1) / 2;
        assert_int_equal(bb_linear_apply(&l, z, 0, 1, 8), u > 255 ? 255 : u);
    }
    s.m1 = -0.5;
    s.zero = 255;
    assert_true(bb_linear_from_real(&s, &l));
    for (int64_t z = 0; z <= 500; z++)
        assert_int_equal(bb_linear_apply(&l, z, 0, 1, 8), 255 - z / 2);
}

static void test_linear_averages(void **state) {
    bb_linear_spec s = {.m1 = 1, .max_z1 = 9 * 255, .n_max = 9, .bits = 8};
    bb_linear l;
    assert_true(bb_linear_from_real(&s, &l));
    for (int64_t n = 1; n <= 9; n++)
        for (int64_t z = 0; z <= n * 255; z++)
            assert_int_equal(bb_linear_apply(&l, z, 0, n, 8), (2 * z + n) / (2 * n));
}

static void test_saturated_channels_are_constant(void **state) {
    bb_linear l;
    for (int sign = -1; sign <= 1; sign += 2)
        for (int slopes = 0; slopes < 2; slopes++) {
            bb_linear_spec s = {.m1 = 1e-3,
                                .max_z1 = 1000,
                                .offset = sign * 1e30,
                                .n_max = 1,
                                .slopes = slopes != 0,
                                .slope = 0.1,
                                .bits = 4};
            assert_true(bb_linear_from_real(&s, &l));
            for (int64_t z = -1000; z <= 1000; z += 100)
                assert_int_equal(bb_linear_apply(&l, z, 0, 1, 4), sign > 0 ? 15 : 0);
        }
}

static void test_linear_refuses_what_it_cannot_hold(void **state) {
    bb_linear l;
    bb_linear_spec s = {.m1 = 0x1p23, .max_z1 = 100, .n_max = 1, .bits = 8};
    assert_false(bb_linear_from_real(&s, &l));
    s.m1 = NAN;
    assert_false(bb_linear_from_real(&s, &l));
    s.m1 = 1;
    s.offset = INFINITY;
    assert_false(bb_linear_from_real(&s, &l));
}

static uint32_t staircase(void *user, int32_t z) {
    const double *step = user;
    double v = floor((double)z / *step + 0.5) + 3;
    return v < 0 ? 0 : v > 7 ? 7 : (uint32_t)v;
}

static uint32_t bump(void *user, int32_t z) {
    return abs(z) < 3 ? 5 : (uint32_t)(z > 0);
}

static void test_thresholds_reproduce_a_function(void **state) {
    static const double steps[] = {1, -1, 0.3, -2.5, 7, -7, 1000, -1000};
    for (size_t i = 0; i < BB_COUNT(steps); i++)
        for (int32_t range = 1; range <= 64; range *= 4) {
            double step = steps[i];
            int32_t t[7];
            uint8_t rising;
            assert_true(
                bb_thresholds_from_function(staircase, &step, -range, range, 3, t, &rising));
            for (int32_t z = -range; z <= range; z++)
                assert_int_equal(bb_thresholds_apply(t, rising, 3, z), staircase(&step, z));
        }
    int32_t t[7];
    uint8_t rising;
    assert_false(bb_thresholds_from_function(bump, NULL, -9, 9, 3, t, &rising));
    double step = 1;
    assert_false(bb_thresholds_from_function(staircase, &step, INT32_MIN, 9, 3, t, &rising));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear_is_as_accurate_as_stated),
        cmocka_unit_test(test_linear_rounds_half_up),
        cmocka_unit_test(test_linear_averages),
        cmocka_unit_test(test_saturated_channels_are_constant),
        cmocka_unit_test(test_linear_refuses_what_it_cannot_hold),
        cmocka_unit_test(test_thresholds_reproduce_a_function),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
