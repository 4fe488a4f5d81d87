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

#include "bitbranch/encode.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { BB_MAX_BITS = 8 };

/** L_b. */
static inline int32_t bb_last_code(uint32_t bits) {
    return (int32_t)((UINT32_C(1) << bits) - 1);
}

/* ---- range functions (Table 1) --------------------------------------------------------------- */

typedef enum bb_range { BB_RANGE_HTANH, BB_RANGE_HRELU, BB_RANGE_TANH, BB_RANGE_SIGMOID } bb_range;

/** HTanh = clip(x,-1,1), HReLU = clip(x,0,1), Tanh, Sigmoid. NaN becomes the lower end. */
double bb_range_apply(bb_range range, double x);
/** Derivative used in training; the clipping functions pass gradients in their closed range. */
double bb_range_slope(bb_range range, double x);

/* ---- quantizer (eq. 15) ---------------------------------------------------------------------- */

/**
 * u of t = L*x, exact where t is: u = floor((clip(t,-L,L) + L)/2 + 0.5). The thresholds of eq. 15
 * are the even integers t; a tie goes up, so x = 0 gives +1 for one bit (sign(0) = +1).
 */
uint32_t bb_code_from_scaled(double t, uint32_t bits);
/** u of x, clipped to [-1,1] first. */
uint32_t bb_code_from_value(double x, uint32_t bits);
static inline int32_t bb_level_from_code(uint32_t code, uint32_t bits) {
    return 2 * (int32_t)code - bb_last_code(bits);
}
static inline uint32_t bb_code_from_level(int32_t level, uint32_t bits) {
    return (uint32_t)(level + bb_last_code(bits)) / 2;
}
/** q_k(x) = a/L. */
double bb_quantize_real(double x, uint32_t bits);
/** Affine unsigned form for x in [0,1]: u = floor(L*x + 0.5), x ~ u/L (section 9.4). */
uint32_t bb_code_from_unsigned(double x, uint32_t bits);
/** Dropping planes, u >> (bits - kept): q_(b-1) of an already quantized value (theorem 9.10). */
static inline uint32_t bb_code_truncate(uint32_t code, uint32_t bits, uint32_t kept) {
    return code >> (bits - kept);
}

/* ---- encoder functions (MBitEncoder, eqs. 11-13): m = 1..M, M the most significant plane ----- */

/** Integer form: the sign of plane m of a code. */
static inline int32_t bb_encoder_plane(uint32_t code, uint32_t m) {
    return (code >> (m - 1) & 1) != 0 ? 1 : -1;
}
/** The wave whose sign is the plane: sin(L*pi*x/2^M) for m = M, -sin(L*pi*x/2^m) below. */
double bb_encoder_wave(double x, uint32_t bits, uint32_t m);
/** Trigonometric form of the plane, clipped, with the right limit at the wave's zeros: sign(0) = +1
 *  alone would decode x = 0 to +1 for every M >= 2. */
int32_t bb_encoder_sign(double x, uint32_t bits, uint32_t m);
/** Derivative of the wave in [-1,1], 0 outside. */
double bb_encoder_slope(double x, uint32_t bits, uint32_t m);

/* ---- bit vectors: one bit an element --------------------------------------------------------- */

static inline size_t bb_bit_words(size_t n) {
    return (n + 63) / 64;
}
/**
 * Splits codes into planes, the most significant first: bit i of plane p is bit i%64 of
 * words[p*stride + i/64]. The words must be zero before; bits beyond n stay 0.
 */
void bb_planes_split(const uint8_t *codes, size_t n, uint32_t bits, uint64_t *words, size_t stride);
void bb_planes_join(const uint64_t *words, size_t stride, size_t n, uint32_t bits, uint8_t *codes);

/** Two encoded vectors of length n, planes stride bb_bit_words(n) apart. */
typedef struct bb_plane_pair {
    const uint64_t *a, *b;
    uint32_t a_bits, b_bits;
    size_t n;
} bb_plane_pair;

/** sum of c*d of one plane each: n - 2*popcount(c ^ d) over the first n elements. |.| <= n. */
int64_t bb_dot_plane(const uint64_t *c, const uint64_t *d, size_t n);
/** The same as 2*popcount(xnor) - n, the tail taken off (eq. 9.2). */
int64_t bb_dot_plane_xnor(const uint64_t *c, const uint64_t *d, size_t n);
/** Over the elements whose bit in `mask` is 1 (9.5 iii: padding that counts for nothing). */
int64_t bb_dot_plane_masked(const uint64_t *c, const uint64_t *d, const uint64_t *mask, size_t n);
/** sum of a*b of the levels by M*K branches; |P| <= n*255*255. */
int64_t bb_dot_levels(const bb_plane_pair *pair);
/** The same from {0,1} planes with AND, eq. 17: one more sum for each operand (9.3). */
int64_t bb_dot_levels_and(const bb_plane_pair *pair);
/** General plane weights as ABC-Net learns them (eq. 19); weights most significant plane first. */
double bb_dot_weighted(const bb_plane_pair *pair, const double *a_weights, const double *b_weights);
/** 1/((2^M-1)(2^K-1)), eq. 18: from P to the product of the values. */
double bb_product_scale(uint32_t activation_bits, uint32_t weight_bits);

/* ---- requantizer constants ------------------------------------------------------------------- */

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
 * the floor is off by at most ((max_z1 + max_z2)/n + 2) * 2^-(shift+1) of a code (times 2 with
 * slopes at the kink). False where no shift fits: a number that is not finite, or |m1| beyond 2^22.
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
