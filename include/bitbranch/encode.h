/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file encode.h
 * The {-1,+1} encoding of single numbers: codes, levels, planes, branches.
 *
 * With L = 2^bits - 1, a number x in [-1,1] becomes the code u = floor(L*(x+1)/2 + 1/2) in 0..L,
 * the level 2u - L (an odd integer) and the value (2u - L)/L. Plane m is the sign of bit m of the
 * code, m = 1 the least significant: level = sum of 2^(m-1) * plane[m].
 */
#ifndef BITBRANCH_ENCODE_H
#define BITBRANCH_ENCODE_H

#include "bitbranch/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct bb_encoding {
    uint32_t bits, code;
    int32_t level;
    double value;     /**< level / L, what the number becomes */
    int8_t planes[8]; /**< -1 or +1, most significant first; 0 beyond `bits` */
} bb_encoding;

/** Encodes x with 1..8 bits; numbers outside [-1,1] are clipped first, NaN counts as -1. */
BB_API bb_status bb_encode_number(double x, uint32_t bits, bb_encoding *encoding, bb_error *err);
/** What one code (0..2^bits-1) stands for: the rows of the paper's Table 2 for 2 bits. */
BB_API bb_status bb_encode_code(uint32_t code, uint32_t bits, bb_encoding *encoding, bb_error *err);

/** One of the M*K branches of a layer: a product of two planes. */
typedef struct bb_branch {
    uint32_t weight; /**< 2^(m-1) * 2^(k-1): what its binary product is multiplied by */
    double scale;    /**< weight / ((2^M - 1)*(2^K - 1)), for values instead of levels */
} bb_branch;

/** The branch of activation plane m (1..M) and weight plane k (1..K), 1 = least significant. */
BB_API bb_status bb_encode_branch(uint32_t activation_bits, uint32_t m, uint32_t weight_bits,
                                  uint32_t k, bb_branch *branch, bb_error *err);

#ifdef __cplusplus
}
#endif
#endif
