/* SPDX-License-Identifier: Apache-2.0 */
/** @file validate.h  The parts of bb_model_validate. */
#ifndef BB_MODEL_VALIDATE_H
#define BB_MODEL_VALIDATE_H

#include "model/model.h"

/** Checks every profile of a model whose structure is known to be good. */
bb_status bb_validate_profiles(const bb_model *model, bb_error *err);
/** Overflow bounds of one AVERAGE_POOL whose windows sum up to n positions, in every profile. */
bb_status bb_validate_average(const bb_model *model, const bb_model_node *node, int64_t n,
                              bb_error *err);
/** Channel count of a tensor: its last dimension. */
int64_t bb_tensor_channels(const bb_model_tensor *tensor);

#endif
