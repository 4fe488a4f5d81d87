/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file encode.h
 * The mathematics of the {-1,+1} encoding, pure: no files, no allocation.
 *
 * L_b = 2^b - 1. A *code* u is 0..L_b, its *level* a = 2u - L_b is odd, *plane* m of the codes is
 * bit m (0 = least significant) read as -1 or +1. Equation and section numbers are those of
 * docs/algorithm.md.
 */
#ifndef BB_ENCODE_INTERNAL_H
#define BB_ENCODE_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- requantizer constants ---------------------------------------------------------------------
 */

/**
 * A real requantizer and what it meets. With y = (Z1*m1 + Z2*m2)/n + offset, the next code before
 * rounding is y + zero; with `slopes`, slope*y + zero where y < 0. All in units of the next code.
 *
 * A tensor x = step*(2u - L - a0) fed from real y_real has y = y_real/(2*step) and
 * zero = (L + a0)/2.
 */
typedef struct bb_linear_spec {
    double m1, m2, offset;
    double zero;
    bool slopes;            /**< LeakyReLU, PReLU */
    double slope;           /**< any sign */
    int64_t max_z1, max_z2; /**< largest magnitudes; max_z2 = 0 without a second operand */
    int64_t n_max;          /**< summed positions of an average pool, else 1 */
    uint32_t bits;          /**< of the code (or table index) it produces, 1..16 */
} bb_linear_spec;

/**
 * Integer form:  T = Z1*mult + Z2*mult2 + n*add; where slopes and T < 0,
 * T = Z1*neg_mult + Z2*neg_mult2 + n*neg_add; T += n*off (slopes only);
 * u' = clamp(floor(T / (n*2^shift)), 0, L).
 */
typedef struct bb_linear {
    int32_t mult, mult2, neg_mult, neg_mult2;
    int64_t add, neg_add, off;
    uint8_t shift; /**< 0..46 */
    bool slopes;
} bb_linear;

/**
 * The finest integer form whose bounds hold: |mult| < 2^22 and every intermediate T below 2^53.
 * Each constant is its real value times 2^shift, rounded to nearest, so the value before
 * the floor is off by at most ((max_z1 + max_z2)/n + 2) * 2^-(shift+1) of a code (times 2 with slopes
 * at the kink). False where no shift fits: a number that is not finite, or |m1| beyond 2^22.
 */
bool bb_linear_from_real(const bb_linear_spec *spec, bb_linear *linear);
/** The reference evaluation: exact in int64 within the bounds above. */
uint32_t bb_linear_apply(const bb_linear *linear, int64_t z1, int64_t z2, int64_t n, uint32_t bits);

/** A monotone function of the accumulator that gives a code. */
typedef uint32_t (*bb_code_fn)(void *user, int32_t z);
/**
 * Thresholds of fn over lo..hi by bisection: t[0..2^bits-2] ascending with *rising = 1, where
 * u = #{i : z >= t[i]}, or descending with *rising = 0, where u = #{i : z <= t[i]}. Codes out of
 * reach get INT32_MAX or INT32_MIN. False where fn is found not to be monotone (only the points
 * visited are looked at) or lo..hi touches INT32_MIN or INT32_MAX.
 */
bool bb_thresholds_from_function(bb_code_fn fn, void *user, int32_t lo, int32_t hi, uint32_t bits,
                                 int32_t *t, uint8_t *rising);
/** u of one accumulator. */
uint32_t bb_thresholds_apply(const int32_t *t, bool rising, uint32_t bits, int32_t z);

#endif
