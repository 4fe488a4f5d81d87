/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file histogram.h
 * Histogram of real values whose range is not known in advance.
 *
 * Bins have a power-of-two width that grows by merging pairs, so the final counts depend only on
 * the set of values added, not on their order or on how they were split over several histograms.
 */
#ifndef BB_QUANTIZE_HISTOGRAM_H
#define BB_QUANTIZE_HISTOGRAM_H

#include "base/base.h"

enum { BB_HISTOGRAM_BINS = 2048 };

typedef struct bb_histogram {
    int exponent; /**< bin width 2^exponent; meaningless while min = max = 0 */
    float min, max;
    uint64_t zeros;                       /**< exact zeros, which are in no bin */
    uint64_t positive[BB_HISTOGRAM_BINS]; /**< bin i: [i, i+1) widths */
    uint64_t negative[BB_HISTOGRAM_BINS];
} bb_histogram;

void bb_histogram_init(bb_histogram *h);
/** False, with nothing added, where a value is not finite. */
bool bb_histogram_add(bb_histogram *h, const float *x, size_t n);
/** Adds what `from` holds. */
void bb_histogram_merge(bb_histogram *h, const bb_histogram *from);
/** Number of values added. */
uint64_t bb_histogram_count(const bb_histogram *h);

#endif
