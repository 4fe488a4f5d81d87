/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/float_math.h"
#include <stdint.h>
#include <string.h>

/* 2^n for -1022 <= n <= 1023. */
static double power_of_two(int n) {
    const uint64_t bits = (uint64_t)(n + 1023) << 52;
    double value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* Taylor sum of e^r, |r| <= ln(2)/2 = 0.347: the first term left out, r^14/14!, is below
 * 2^-57 of the result. */
static double exp_reduced(double r) {
    static const double inverse_factorial[] = {1.0 / 6227020800.0,
                                               1.0 / 479001600.0,
                                               1.0 / 39916800.0,
                                               1.0 / 3628800.0,
                                               1.0 / 362880.0,
                                               1.0 / 40320.0,
                                               1.0 / 5040.0,
                                               1.0 / 720.0,
                                               1.0 / 120.0,
                                               1.0 / 24.0,
                                               1.0 / 6.0,
                                               0.5,
                                               1.0,
                                               1.0};
    double sum = 0.0;
    for (int i = 0; i < 14; i++)
        sum = sum * r + inverse_factorial[i];
    return sum;
}

double bb_exp(double x) {
    /* ln 2 in two parts: the high one has 21 trailing zero bits, so n*high is exact. */
    static const double log2_e = 1.4426950408889634, ln2_high = 0.693147180369123816490,
                        ln2_low = 1.90821492927058770002e-10;
    if (x != x)
        return x;
    x = x < -745.0 ? -745.0 : x > 709.0 ? 709.0 : x;
    const double scaled = x * log2_e;
    const int n = (int)(scaled < 0.0 ? scaled - 0.5 : scaled + 0.5);
    const double r = (x - n * ln2_high) - n * ln2_low;
    const double value = exp_reduced(r);
    /* Two steps, because 2^n alone may be subnormal. */
    const int half = n / 2;
    return value * power_of_two(half) * power_of_two(n - half);
}

float bb_sigmoid_f32(float x) {
    return (float)(1.0 / (1.0 + bb_exp(-(double)x)));
}

float bb_tanh_f32(float x) {
    const double d = (double)x, magnitude = d < 0.0 ? -d : d;
    if (x != x)
        return x;
    if (magnitude < 1e-3) /* the next term, 2x^5/15, is below 2^-42 of x */
        return (float)(d - d * d * d / 3.0);
    const double e = bb_exp(2.0 * magnitude > 60.0 ? 60.0 : 2.0 * magnitude);
    const double value = (e - 1.0) / (e + 1.0);
    return (float)(d < 0.0 ? -value : value);
}

float bb_silu_f32(float x) {
    if (x < -1000.0f) /* -infinity included; the result underflows */
        return -0.0f;
    return (float)((double)x / (1.0 + bb_exp(-(double)x)));
}
