/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file gram.h
 * Second moments of a layer's input patches x and wanted outputs y, summed over samples; from
 * them least squares and coordinate descent never need the samples again.
 */
#ifndef BB_QUANTIZE_GRAM_H
#define BB_QUANTIZE_GRAM_H

#include "base/pool.h"

typedef struct bb_gram {
    size_t groups, d, rows; /**< d inputs and `rows` outputs in each group */
    uint64_t n;             /**< samples */
    float *xx;              /**< [groups][d][d]; NULL: only means are kept */
    float *yx;              /**< [groups][rows][d]; NULL with xx */
    double *x_mean;         /**< [groups][d] */
    double *y_mean;         /**< [groups][rows] */
    double *y_var;          /**< [groups][rows] */
} bb_gram;

/** OpenBLAS on OpenMP keeps its thread count per calling thread: every task that calls it says one,
 *  or its sums would be split differently on the pool's own threads. */
void bb_blas_one_thread(void);

/** Zeroed sums; `second` false keeps only the means. */
bb_status bb_gram_create(bb_gram *gram, size_t groups, size_t d, size_t rows, bool second,
                         bb_error *err);
void bb_gram_free(bb_gram *gram);
/** Adds n samples: x[groups][n][d], y[n][groups*rows]. Sums run in the order of the calls. */
void bb_gram_add(bb_gram *gram, const float *x, const float *y, size_t n, bb_pool *pool);
/** Turns sums into xx = cov(x), yx = cov(y, x) and means. */
void bb_gram_finish(bb_gram *gram, bb_pool *pool);
/** Least squares scale cov(b.x, y) / var(b.x) of one output, b = 2*(codes >> shift) - (2^bits - 1);
 *  `scale` where that is not positive. scratch[2*d]. */
double bb_gram_fit(const bb_gram *gram, size_t output, const uint8_t *codes, uint32_t bits,
                   uint32_t shift, double scale, float *scratch);
/**
 * sqrt(var(y) / var(scale*b.x)) of one output, b = 2*(codes >> shift) - (2^bits - 1). Least squares
 * predicts the part of y it can and so varies less than y, the more so the fewer bits there are;
 * this factor on its scale gives the sums y's variance. 1 where that would be no estimate any more.
 */
double bb_gram_spread(const bb_gram *gram, size_t output, const uint8_t *codes, uint32_t bits,
                      uint32_t shift, double scale);

#endif
