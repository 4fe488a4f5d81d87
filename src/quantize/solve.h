/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file solve.h
 * Weight codes and scales of one layer for one or several profiles at once.
 *
 * Profile p reads the first bits[p] planes of the shared codes v: b_p = 2*(v >> (max - bits[p]))
 * - (2^bits[p] - 1), always an odd integer, and computes y ~ scale_p[row] * sum b_p x + bias.
 */
#ifndef BB_QUANTIZE_SOLVE_H
#define BB_QUANTIZE_SOLVE_H

#include "quantize/gram.h"

enum { BB_SOLVE_MAX_PROFILES = 16 };

typedef struct bb_solve_profile {
    uint32_t bits; /**< K, 1..8 */
    bb_gram *gram; /**< finished; xx is used up. NULL: round the weights to nearest */
    float *scale;  /**< out: [groups*rows] */
} bb_solve_profile;

typedef struct bb_solve_problem {
    size_t groups, rows, d;
    const float *weights; /**< [groups*rows][d], float */
    size_t n_profiles;
    bb_solve_profile *profiles;
    unsigned sweeps; /**< of coordinate descent */
    float ridge;     /**< towards the float weights, as a part of the mean of diag(xx) */
    uint8_t *codes;  /**< out: [groups*rows][d], of max(bits) bits */
} bb_solve_problem;

/** Minimises, over the profiles together, the squared error of y relative to what each profile
 *  can reach. Same result for any number of threads. */
bb_status bb_solve(const bb_solve_problem *problem, bb_pool *pool, bb_error *err);

#endif
