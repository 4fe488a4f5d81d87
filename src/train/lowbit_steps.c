/* SPDX-License-Identifier: Apache-2.0 */
/* Steps to begin with: least error on the odd grid for weights, over a histogram for activations.
 */
#include "quantize/grid.h"
#include "train/lowbit_internal.h"
#include <float.h>
#include <math.h>

/* Candidates of the range (2^bits steps): 2.1 * max|w| * RATIO^-i. One bit may need twice the
 * largest weight, because its cells reach from 0 to twice the level. */
enum { RANGE_CANDIDATES = 80 };
static const float RANGE_TOP = 2.1f, RANGE_RATIO = 0.96f;

static double row_error(const float *x, size_t n, float step, uint32_t bits) {
    double sum = 0.0;
    float top = (float)((1u << bits) - 1);
    for (size_t i = 0; i < n; i++) {
        float q = 2.0f * floorf(x[i] / (2.0f * step)) + 1.0f;
        q = fminf(fmaxf(q, -top), top);
        double e = (double)x[i] - (double)(q * step);
        sum += e * e;
    }
    return sum;
}

float bb_lowbit_row_step(const float *x, size_t n, const uint32_t *bits, size_t n_bits,
                         uint32_t most) {
    double error[BB_QUANTIZE_MAX_PROFILES][RANGE_CANDIDATES], least[BB_QUANTIZE_MAX_PROFILES];
    float range[RANGE_CANDIDATES], largest = 0.0f, best = 0.0f;
    for (size_t i = 0; i < n; i++)
        largest = fmaxf(largest, fabsf(x[i]));
    if (!(largest > FLT_MIN * 4096.0f))
        return 1e-4f; /* all weights are 0: any small step will do */
    for (size_t c = 0; c < RANGE_CANDIDATES; c++)
        range[c] = c ? range[c - 1] * RANGE_RATIO : RANGE_TOP * largest;
    for (size_t b = 0; b < n_bits; b++) {
        least[b] = DBL_MAX;
        for (size_t c = 0; c < RANGE_CANDIDATES; c++) {
            error[b][c] = row_error(x, n, range[c] / (float)(1u << bits[b]), bits[b]);
            least[b] = fmin(least[b], error[b][c]);
        }
    }
    double least_sum = DBL_MAX;
    for (size_t c = 0; c < RANGE_CANDIDATES; c++) {
        double sum = 0.0;
        for (size_t b = 0; b < n_bits; b++)
            sum += error[b][c] / (least[b] + DBL_MIN);
        if (sum < least_sum) {
            least_sum = sum;
            best = range[c];
        }
    }
    return best / (float)(1u << most);
}

/** Mean of |x|: the best level of one signed bit. */
static float mean_magnitude(const bb_histogram *h) {
    double sum = 0.0, n = (double)h->zeros;
    for (size_t i = 0; i < BB_HISTOGRAM_BINS; i++) {
        double count = (double)h->positive[i] + (double)h->negative[i];
        sum += count * (double)ldexpf((float)i + 0.5f, h->exponent);
        n += count;
    }
    return sum > 0.0 ? (float)(sum / n) : 1.0f;
}

bb_grid bb_lowbit_start_grid(const bb_histogram *seen, uint32_t bits, float lo, float hi) {
    if (bits == 1 && lo < 0.0f && seen->min < 0.0f)
        return (bb_grid){1, mean_magnitude(seen), 0};
    return bb_grid_search(seen, bits, lo, hi);
}
