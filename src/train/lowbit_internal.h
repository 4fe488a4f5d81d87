/* SPDX-License-Identifier: Apache-2.0 */
/** @file lowbit_internal.h  What a bb_lowbit remembers between insertion and export. */
#ifndef BB_TRAIN_LOWBIT_INTERNAL_H
#define BB_TRAIN_LOWBIT_INTERNAL_H

#include "quantize/fake.h"
#include "quantize/quantizer.h"
#include "train/lowbit.h"

enum { BB_LOWBIT_MAX_BRANCHES = 8 };

/** Quantizer of one layer's data input in one profile. */
typedef struct bb_lowbit_input {
    const char *kind; /**< NULL: none (raw pixels, or not quantized while training) */
    uint32_t bits;
    int step, zero; /**< constants of the graph, or -1 */
} bb_lowbit_input;

/** One Conv or Gemm with quantizers. */
typedef struct bb_lowbit_layer {
    const char *name;
    size_t block; /**< of the plan that said the bits */
    bb_lowbit_weights weights;
    int base_w;     /**< weight constant of the base graph */
    size_t rows, d; /**< d weights a row, in ONNX order */
    uint32_t bits[BB_QUANTIZE_MAX_PROFILES], most_bits;
    int latent[BB_LOWBIT_MAX_BRANCHES]; /**< constants of the graph; [0] alone but for branches */
    size_t n_latent;
    int step;    /**< constant [rows] for most_bits, or -1 */
    float *unit; /**< [rows*d] or NULL: real weight = quantized latent * unit (pixels' std) */
    bb_lowbit_input input[BB_QUANTIZE_MAX_PROFILES];
} bb_lowbit_layer;

struct bb_lowbit {
    bb_lowbit_options options;
    bb_arena *arena;
    bb_graph *base;  /**< canonical float graph, names of layers unique */
    bb_graph *graph; /**< to train */
    size_t n_profiles;
    int *constant_of[BB_QUANTIZE_MAX_PROFILES]; /**< [base values]: graph constant, or -1 */
    size_t n_layers;
    bb_lowbit_layer *layers;
    size_t n_parameters;
    bb_lowbit_parameter *parameters;
};

/** The quantizer kind that weights use in the graph. */
const char *bb_lowbit_weight_kind(bb_lowbit_weights weights);
/** True where that kind, without a step, has a scale for each row. */
bool bb_lowbit_weights_by_row(bb_lowbit_weights weights);

/**
 * Step for `most` bits of one row: with step*2^(most - bits[i]) and bits[i] bits the squared error,
 * relative to the least that those bits can reach, is least in the sum over i.
 */
float bb_lowbit_row_step(const float *x, size_t n, const uint32_t *bits, size_t n_bits,
                         uint32_t most);
/** Grid to begin with; `unsigned_only` where the values are never negative. */
bb_grid bb_lowbit_start_grid(const bb_histogram *seen, uint32_t bits, float lo, float hi);

#endif
