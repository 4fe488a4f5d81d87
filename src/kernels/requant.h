/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file requant.h
 * From integer sums to the next codes: the requantizers of model.h on small tiles.
 *
 * The engine prepares one bb_requant_tables per output of a node; a kernel maps a tile of first
 * operands (accumulators or codes) and, where there is one, of second operands (codes) to codes
 * or floats. Per element, all in integers:
 *     Z1 = (z1 << z1_shift) + border[c]   modulo 2^32; |Z1| < 2^31 by the model's contract
 *     Z2 = 2*z2 - zero2
 * and then LINEAR, THRESHOLDS, INDEXED or FLOAT of model.h.
 *
 * The vector kernels work in double, or in float where that is proved. In double, every product and
 * every sum of LINEAR is an integer below 2^53 in magnitude (checked by bb_model_validate as a sum
 * of magnitudes, so any order of summation is covered), and scaling the constants by 2^-shift
 * beforehand only moves the exponent: the result is exact. After clamping, truncation is the floor.
 */
#ifndef BB_REQUANT_H
#define BB_REQUANT_H

#include "base/base.h"

typedef enum bb_element {
    BB_ELEMENT_U8 = 0,
    BB_ELEMENT_U16 = 1,
    BB_ELEMENT_I32 = 2,
    BB_ELEMENT_F32 = 3
} bb_element;

/** Bytes of one element. */
static inline size_t bb_element_size(bb_element e) {
    return e == BB_ELEMENT_U8 ? 1 : e == BB_ELEMENT_U16 ? 2 : 4;
}

/** Channel arrays are padded to a multiple of this, plus as much again: whole vectors may be read
 *  from any first channel. */
enum { BB_REQUANT_LANES = 16 };

/** Channels, at most, of pixels without gaps between them that the float requantizers take as one
 * run of numbers. */
enum { BB_REQUANT_DENSE_MAX = 192 };

/** The constants of one output; arrays hold one entry per channel. */
typedef struct bb_requant_tables {
    uint32_t channels;
    size_t padded;  /**< entries of every channel array */
    int32_t limit;  /**< L of the output codes; of the index where INDEXED */
    bool has_z2;    /**< a second operand takes part */
    bool has_slope; /**< neg_* and off are present */
    int32_t zero2;  /**< L + a0 of the second operand */
    /* LINEAR and INDEXED, as the reference reads them. */
    const int32_t *mult, *mult2, *neg_mult, *neg_mult2;
    const int64_t *add, *neg_add, *off;
    const uint8_t *shift;
    /* The same times 2^-shift; -zero2*mult2 is part of add and neg_add, and mult2 is doubled, so
     * that they apply to the second operand's plain code. */
    const double *mult_d, *mult2_d, *add_d, *neg_mult_d, *neg_mult2_d, *neg_add_d, *off_d;
    /* LINEAR in float, as far as requant_float.c has proved it, else NULL. high_f NULL: the code is
     * the clamped trunc(Z1*mult_f + low_f). Else the exact value lies between the float values of
     * Z1*mult_f + u2*mult2_f plus low_f and plus high_f (u2 the second operand's code): where both
     * give one code it is right, elsewhere the double form decides. */
    const float *mult_f, *mult2_f, *low_f, *high_f;
    bool folded; /**< low_f and high_f hold the border of all jobs: Z1 is z1 << z1_shift */
    /* THRESHOLDS: u' = limit - #{i : t[i*padded + c] > (Z1 ^ flip[c])}; t ascends with i. flip is
     * -1 (all bits) where u' falls with Z1, because Z1 <= t is ~Z1 >= ~t. */
    const int32_t *thresholds, *flip;
    /* INDEXED; one entry more than 2^index_bits. */
    const uint16_t *table;
    /* FLOAT */
    const double *scale, *scale2, *bias;
} bb_requant_tables;

/** A tile: n_pixels x n_channels elements, first channel c0. Strides are in elements. */
typedef struct bb_requant_job {
    const void *z1; /**< U8, U16 or I32 */
    size_t z1_stride;
    bb_element z1_type;
    int z1_shift;          /**< 0 or 1 */
    const int32_t *border; /**< [padded], indexed by absolute channel */
    bool no_border;        /**< border is known to be all zeros */
    const void *z2;        /**< U8 or U16; read only where tables->has_z2 */
    size_t z2_stride;
    bb_element z2_type;
    int32_t n_pixels, c0, n_channels;
    int32_t count; /**< n: summed positions of an average, else 1 */
    void *out;     /**< at the first pixel's channel c0 */
    size_t out_stride;
    bb_element out_type; /**< U8 or U16; F32 for FLOAT */
} bb_requant_job;

/* ---- LINEAR in float: requant_float.c -------------------------------------------------------- */

/** What the operands of a requantizer keep to. */
typedef struct bb_requant_range {
    int64_t max_z1;        /**< |Z1| at most */
    const int32_t *border; /**< what every job will have, or NULL if that varies; z1 << z1_shift
                                has to fit an int32 then */
    int32_t max_u2;        /**< largest second code; 0 without one */
    bool averages;         /**< count may differ from 1 */
} bb_requant_range;

/** Room for the float constants, [padded] each. */
typedef struct bb_requant_floats {
    float *mult, *mult2, *low, *high;
} bb_requant_floats;

/**
 * Fills `room` and points the tables at what was proved; without a proof they stay without a float
 * form. Reads the integer and the double constants.
 */
void bb_requant_use_floats(bb_requant_tables *tables, const bb_requant_range *range,
                           const bb_requant_floats *room);

typedef void (*bb_requant_fn)(const bb_requant_tables *tables, const bb_requant_job *job);

/** The kernels of one instruction set, by requantizer kind. */
typedef struct bb_requant_kernels {
    const char *name;
    bb_requant_fn linear, thresholds, indexed, to_float;
} bb_requant_kernels;

extern const bb_requant_kernels bb_requant_ref;
#if defined(__x86_64__)
extern const bb_requant_kernels bb_requant_ssse3;
extern const bb_requant_kernels bb_requant_avx2;
extern const bb_requant_kernels bb_requant_avx512;
#endif
extern const bb_requant_kernels bb_requant_neon; /**< where BB_ARCH_NEON */
/** The fastest set for these BB_CPU_* flags. */
const bb_requant_kernels *bb_requant_choose(uint32_t cpu);

#endif
