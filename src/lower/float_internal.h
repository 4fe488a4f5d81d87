/* SPDX-License-Identifier: Apache-2.0 */
/** @file float_internal.h  State shared by structure (float.c) and numbers (float_params.c). */
#ifndef BB_LOWER_FLOAT_INTERNAL_H
#define BB_LOWER_FLOAT_INTERNAL_H

#include "lower/blocks.h"

/** How the codes or floats of one model tensor come about. */
typedef enum bb_source_kind {
    BB_SOURCE_COPY,      /**< no numbers of its own: input, pool, concat, quantize, float node */
    BB_SOURCE_BLOCK,     /**< requantized by its block's node */
    BB_SOURCE_DEQUANTIZE /**< float made from the codes `from_grid` of the same value */
} bb_source_kind;

typedef struct bb_tensor_source {
    bb_source_kind kind;
    int value, grid; /**< grid -1: float */
    int block;       /**< BLOCK */
    int from_grid;   /**< DEQUANTIZE */
} bb_tensor_source;

typedef struct bb_value_tensors {
    int codes[BB_MAX_GRIDS]; /**< tensor of each copy, -1 = not needed */
    int real;                /**< float tensor, -1 = not needed */
    uint32_t need;           /**< bit g: copy g is needed */
    bool need_float;
    int block; /**< that makes it, -1 for graph inputs */
} bb_value_tensors;

typedef struct bb_lowering {
    bb_graph *graph;
    const bb_block_plan *plan;
    const bb_block_codes *codes;
    const bb_profile_quant *profiles;
    size_t n_profiles;
    bb_model *model;
    bb_value_tensors *values;  /**< [graph->n_values] */
    bb_tensor_source *sources; /**< [model->n_tensors], grows with it */
    size_t cap_sources;
    int *node_block; /**< [model->n_nodes], block of a CONV node */
    size_t cap_nodes;
    bb_error *err;
} bb_lowering;

/** Adds all profiles with their grids, requantizers and convolution constants. */
bb_status bb_lower_fill_profiles(bb_lowering *l);

#endif
