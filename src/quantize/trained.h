/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file trained.h
 * A network whose weights and activations training has put on grids becomes a model: numbers are
 * taken over instead of solved for. Batch normalization, pixel scaling and column orders go through
 * the same passes as in bb_quantize, applied to two float graphs for each profile:
 * - `values`: the network with every quantized weight at its real value unit*b;
 * - `units`: the same with every such weight at the unit of its row.
 * What the passes make of the second is the scale, and their quotient the integer b.
 */
#ifndef BB_QUANTIZE_TRAINED_H
#define BB_QUANTIZE_TRAINED_H

#include "lower/lower.h"

/** One Conv or Gemm that runs on codes. */
typedef struct bb_trained_layer {
    const char *name;     /**< of its node */
    const bb_grid *grids; /**< [n_profiles] of its data input; bits 0: calibrated */
    uint32_t planes;      /**< stored planes: most weight bits over the profiles */
    /** [planes], most significant first, positive; NULL = the native odd grid. */
    const int16_t *plane_weight;
} bb_trained_layer;

typedef struct bb_trained {
    const bb_graph *const *values, *const *units; /**< [n_profiles] */
    size_t n_layers;
    const bb_trained_layer *layers;
} bb_trained;

/** Grids that no layer names (residual adds, pools) are calibrated on the quantized network. */
bb_status bb_quantize_trained(const bb_trained *trained, const bb_quantize_options *options,
                              bb_calibration_fn calibration, void *user, size_t count,
                              bb_model **model, bb_quantize_report *report, bb_error *err);

#endif
