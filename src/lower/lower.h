/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file lower.h
 * Graph + quantization parameters -> model.
 *
 * `quantize` decides numbers (codes, scales, a0, biases) for a prepared float graph and hands them
 * to bb_lower_float; bb_lower_quantized reads the numbers out of a low-bit graph instead. Both
 * produce the same kinds of nodes through the shared builders in lower/.
 */
#ifndef BB_LOWER_H
#define BB_LOWER_H

#include "bitbranch/quantize.h"
#include "graph/graph.h"
#include "model/model.h"

/** Grid of one value (graph value index) in one profile: real x = step * (a - a0). */
typedef struct bb_value_quant {
    uint32_t bits; /**< 0: not a code (float or fused away) */
    float step;
    int32_t a0;
    uint32_t wide_bits; /**< second copy for residual adds, 0 = none */
    float wide_step;
    int32_t wide_a0;
} bb_value_quant;

/** Weights of one Conv/Gemm in one profile: real w = scale[c] * b, b = 2v - (2^bits - 1). */
typedef struct bb_weight_quant {
    uint32_t bits;
    uint8_t
        *codes;   /**< v[rows][kh*kw][depth] (note: taps outside channels), at the file's planes */
    float *scale; /**< [rows] at this profile's bits */
    float *bias;  /**< [rows], real */
} bb_weight_quant;

#endif
