/* SPDX-License-Identifier: Apache-2.0 */
#include "quantize/histogram.h"
#include <math.h>
#include <string.h>

/* Below this width every bin boundary times 2^-exponent would leave the float range. */
enum { MIN_EXPONENT = -120 };

void bb_histogram_init(bb_histogram *h) {
    memset(h, 0, sizeof *h);
    h->exponent = MIN_EXPONENT;
}

static float largest(const bb_histogram *h) {
    return fmaxf(h->max, -h->min);
}

/** Smallest exponent whose bins reach x. */
static int exponent_for(float x) {
    int e;
    frexpf(x, &e); /* x < 2^e */
    e -= 11;       /* 2^11 bins */
    return e < MIN_EXPONENT ? MIN_EXPONENT : e;
}

static void halve(uint64_t *bins) {
    for (size_t i = 0; i < BB_HISTOGRAM_BINS / 2; i++)
        bins[i] = bins[2 * i] + bins[2 * i + 1];
    memset(bins + BB_HISTOGRAM_BINS / 2, 0, BB_HISTOGRAM_BINS / 2 * sizeof *bins);
}

static void grow(bb_histogram *h, int exponent) {
    /* After 11 halvings everything is in bin 0 and stays there. */
    int steps = exponent - h->exponent;
    for (int i = 0; i < steps && i < 11; i++) {
        halve(h->positive);
        halve(h->negative);
    }
    if (steps > 0)
        h->exponent = exponent;
}

bool bb_histogram_add(bb_histogram *h, const float *x, size_t n) {
    float lo = h->min, hi = h->max;
    bool finite = true;
    for (size_t i = 0; i < n; i++) {
        lo = x[i] < lo ? x[i] : lo;
        hi = x[i] > hi ? x[i] : hi;
        finite &= x[i] - x[i] == 0.0f;
    }
    if (!finite)
        return false;
    h->min = lo;
    h->max = hi;
    if (largest(h) > 0.0f)
        grow(h, exponent_for(largest(h)));
    float per_width = ldexpf(1.0f, -h->exponent);
    for (size_t i = 0; i < n; i++) {
        if (x[i] > 0.0f)
            h->positive[(int)(x[i] * per_width)]++;
        else if (x[i] < 0.0f)
            h->negative[(int)(-x[i] * per_width)]++;
        else
            h->zeros++;
    }
    return true;
}

void bb_histogram_merge(bb_histogram *h, const bb_histogram *from) {
    bb_histogram other = *from;
    int exponent = h->exponent > other.exponent ? h->exponent : other.exponent;
    grow(h, exponent);
    grow(&other, exponent);
    for (size_t i = 0; i < BB_HISTOGRAM_BINS; i++) {
        h->positive[i] += other.positive[i];
        h->negative[i] += other.negative[i];
    }
    h->zeros += other.zeros;
    h->min = fminf(h->min, other.min);
    h->max = fmaxf(h->max, other.max);
}

uint64_t bb_histogram_count(const bb_histogram *h) {
    uint64_t n = h->zeros;
    for (size_t i = 0; i < BB_HISTOGRAM_BINS; i++)
        n += h->positive[i] + h->negative[i];
    return n;
}
