/* SPDX-License-Identifier: Apache-2.0 */
/* Functions of the engine's float nodes: within 0.5 ulp and a trace of the true value. */
#include "unit.h"

#include "base/base.h"
#include "engine/float_math.h"
#include <math.h>

static double ulp_of(double value) {
    int exponent;
    frexp(value, &exponent);
    return ldexp(1.0, (exponent < -125 ? -125 : exponent) - 24);
}

static void expect_close(float x, float got, double wanted, const char *what) {
    if (fabs((double)got - wanted) > 0.501 * ulp_of(wanted))
        fail_msg("%s(%a) = %a, not %a", what, (double)x, (double)got, wanted);
}

static void functions_are_accurate(void **state) {
    (void)state;
    bb_rng rng;
    bb_rng_seed(&rng, 3);
    for (int i = 0; i < 200000; i++) {
        const double magnitude = ldexp(bb_rng_uniform(&rng), (int)bb_rng_below(&rng, 40) - 32);
        const float x = (float)(i % 2 ? magnitude : -magnitude);
        const double d = (double)x;
        expect_close(x, bb_tanh_f32(x), tanh(d), "tanh");
        expect_close(x, bb_sigmoid_f32(x), 1 / (1 + exp(-d)), "sigmoid");
        expect_close(x, bb_silu_f32(x), d / (1 + exp(-d)), "silu");
        if (fabs(d) < 700)
            assert_true(fabs(bb_exp(d) / exp(d) - 1) < ldexp(1, -50));
    }
}

static void functions_have_limits(void **state) {
    (void)state;
    assert_true(bb_tanh_f32(INFINITY) == 1.0f && bb_tanh_f32(-INFINITY) == -1.0f);
    assert_true(bb_sigmoid_f32(INFINITY) == 1.0f && bb_sigmoid_f32(-INFINITY) == 0.0f);
    assert_true(bb_silu_f32(INFINITY) == INFINITY && bb_silu_f32(-INFINITY) == 0.0f);
    assert_true(isnan(bb_tanh_f32(NAN)) && isnan(bb_sigmoid_f32(NAN)) && isnan(bb_silu_f32(NAN)));
    assert_true(bb_exp(-1e9) >= 0.0 && bb_exp(-1e9) < 1e-320 && bb_exp(0) == 1.0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(functions_are_accurate),
        cmocka_unit_test(functions_have_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
