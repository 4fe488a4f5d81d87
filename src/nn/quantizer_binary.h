/* SPDX-License-Identifier: Apache-2.0 */
/** @file quantizer_binary.h  Kinds of fake quantizers from other papers, for comparison. */
#ifndef BB_NN_QUANTIZER_BINARY_H
#define BB_NN_QUANTIZER_BINARY_H

#include "nn/quantizer.h"

/** Most that the shares of all bases add up to: what a plane weight of a model may be. */
enum { BB_ABC_SHARES = 255 };

/**
 * ABC-Net's coefficients for `bits` bases sign(x - mean + u_i*deviation), u_i spread over -1..1,
 * fitted by least squares and rounded to integer shares of one unit, so that every sum is an
 * integer times the unit. share[bits-1-i] = |coefficient i| / unit; may be NULL. Returns the unit.
 */
float bb_abc_unit(const float *x, size_t n, uint32_t bits, int16_t *share);

/** The rest of quantizer.c's table, and how many they are. */
extern const bb_quantizer bb_binary_kinds[];
extern const size_t bb_n_binary_kinds;

#endif
