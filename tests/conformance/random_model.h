/* SPDX-License-Identifier: Apache-2.0 */
/** @file random_model.h  Seeded random models that bb_model_validate accepts. */
#ifndef BB_CONFORMANCE_RANDOM_MODEL_H
#define BB_CONFORMANCE_RANDOM_MODEL_H

#include "model/model.h"

/**
 * One convolution with M = activation_bits and K = weight_bits; everything else (shape, padding,
 * groups, grid, offsets, requantizers, residual operand, outputs) follows from the seed.
 */
bb_model *random_conv_model(uint64_t seed, uint32_t activation_bits, uint32_t weight_bits);
/** A small network over all node kinds, with two profiles. */
bb_model *random_network(uint64_t seed);
/** Fills a tensor's codes or floats; some seeds give all-lowest or all-highest codes. */
void random_tensor(bb_rng *rng, const bb_tensor_params *params, size_t n, int32_t *codes,
                   float *floats);

#endif
