/* SPDX-License-Identifier: Apache-2.0 */
/** @file node_quantize.h  FakeQuantize nodes: how the elements of a tensor share steps. */
#ifndef BB_NN_NODE_QUANTIZE_H
#define BB_NN_NODE_QUANTIZE_H

#include "nn/program.h"
#include "nn/quantizer.h"

/**
 * The tensor seen as [outer][channels][inner], one step per channel. One channel of an elementwise
 * kind is one run over the whole buffer in any layout; all else is row-major.
 */
typedef struct bb_fake_plan {
    const bb_quantizer *kind;
    int bits;
    size_t outer, channels, inner;
    const bb_dn_layout *layout; /**< NULL: row-major */
    bool bf16;                  /**< what is written; only elementwise with a layout */
    int x, y, step, zero;       /**< buffers; step and zero may be -1 */
} bb_fake_plan;

/** Emits the node's step and stores its output. */
bb_status bb_nn_fake_quantize(bb_executor *ex, const bb_node *node, bb_fake_plan *plan,
                              bb_error *err);

/** Arguments of a channel; step and zero as in the plan's buffers, NULL where there are none. */
bb_quantizer_args bb_nn_fake_args(const bb_fake_plan *plan, size_t channel, const float *step,
                                  const float *zero);

/** Elements one task takes of a long run; a multiple of a cache line. */
enum { BB_FAKE_CHUNK = 16384 };

#endif
