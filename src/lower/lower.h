/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file lower.h
 * Graph + quantization parameters -> model.
 *
 * bb_lower_plan groups the nodes of a prepared float graph into blocks, each of which becomes one
 * model node (or one per needed copy of its result). `quantize` calibrates and chooses grids and
 * weight codes for those blocks; bb_lower_float writes the model. bb_lower_quantized reads the
 * grids out of a low-bit graph instead. Both use the same builders.
 */
#ifndef BB_LOWER_H
#define BB_LOWER_H

#include "bitbranch/quantize.h"
#include "graph/graph.h"
#include "model/model.h"

typedef enum bb_block_kind {
    BB_BLOCK_CONV,         /**< Conv or Gemm [+ Add of another value] [+ activation] */
    BB_BLOCK_ADD,          /**< Add that no convolution could take in [+ activation] */
    BB_BLOCK_MUL,          /**< elementwise product, e.g. squeeze-and-excite */
    BB_BLOCK_ACTIVATION,   /**< an activation that nothing before it could take in */
    BB_BLOCK_MAX_POOL,     /**< code-preserving: output grids = input grids */
    BB_BLOCK_AVERAGE_POOL, /**< AveragePool, GlobalAveragePool */
    BB_BLOCK_CONCAT,       /**< code-preserving: all inputs take the output's grids */
    BB_BLOCK_CHANNELS,     /**< code-preserving: Split, Slice, shuffle, Gather over channels */
    BB_BLOCK_RESHAPE,      /**< code-preserving: Flatten and the like */
    BB_BLOCK_RESIZE,       /**< code-preserving: nearest, integer factor */
    BB_BLOCK_FLOAT         /**< stays float, with a reason */
} bb_block_kind;

typedef enum bb_activation_kind {
    BB_ACTIVATION_NONE,
    BB_ACTIVATION_CLIP,  /**< clamp to [lo, hi]: Relu = [0, inf], Relu6 = [0, 6] */
    BB_ACTIVATION_LEAKY, /**< slope (one, or per channel for PRelu) below 0 */
    BB_ACTIVATION_TABLE  /**< any other function of one value: Sigmoid, HardSwish, SiLU, Tanh... */
} bb_activation_kind;

typedef struct bb_activation {
    bb_activation_kind kind;
    float lo, hi;
    const float *slopes; /**< LEAKY: n_slopes = 1 or channels */
    size_t n_slopes;
    double (*function)(double x, double alpha, double beta); /**< TABLE */
    double alpha, beta;
    bool monotone; /**< TABLE: never decreasing */
} bb_activation;

/** One future model node. Values are graph value indices. */
typedef struct bb_block {
    bb_block_kind kind;
    int node;      /**< the graph node it is named after (the Conv of a conv block) */
    int last_node; /**< the graph node whose output it makes */
    int n_in;
    int in[BB_MAX_NODE_INPUTS]; /**< CONV: data, then the residual value if n_in is 2 */
    int output;
    int pre_activation; /**< value before the activation (the Conv's or Add's own output) */
    bb_activation activation;
    /** ACTIVATION only: x*scale[c] + shift[c] comes before the activation; NULL = 1 and 0. */
    const float *scale, *shift;
    const int32_t *channel_index; /**< CHANNELS: source channel of every output channel */
    uint32_t n_channel_index;
    int32_t resize_factor[2]; /**< RESIZE: rows, columns */
    const char *reason;       /**< FLOAT: why */
} bb_block;

typedef struct bb_block_plan {
    size_t n;
    bb_block *blocks; /**< topological order; allocated in the graph's arena */
} bb_block_plan;

/** float_nodes[node] true keeps that graph node float (user's choice); may be NULL. The graph must
 *  have been through bb_pass_prepare. */
bb_status bb_lower_plan(bb_graph *graph, const bool *float_nodes, bb_block_plan *plan,
                        bb_error *err);

/** Shape of a CONV block's weights. */
typedef struct bb_conv_shape {
    uint32_t rows;   /**< output channels */
    uint32_t taps;   /**< kh*kw; 1 for Gemm */
    uint32_t depth;  /**< input channels per group; all inputs for Gemm */
    uint32_t groups; /**< 1 for Gemm */
    bb_geometry geometry;
} bb_conv_shape;
bb_status bb_lower_conv_shape(const bb_graph *graph, const bb_block *block, bb_conv_shape *shape,
                              bb_error *err);
/** Float weights in model order [rows][taps][depth] and bias [rows], with Gemm's alpha, beta and
 *  transB applied and its columns turned to NHWC where its input is a flattened image. */
bb_status bb_lower_conv_weights(bb_graph *graph, const bb_block *block, float *weights, float *bias,
                                bb_error *err);

/** One grid of codes: real x = step * (a - a0), a = 2u - (2^bits-1). */
typedef struct bb_grid {
    uint32_t bits;
    float step;
    int32_t a0;
} bb_grid;

enum { BB_MAX_GRIDS = BB_MAX_NODE_OUTPUTS };

/** A value may be kept on several grids at once: few bits for convolutions, 8 and more for residual
 *  adds and average pools. n = 0: the value is float or fused away. */
typedef struct bb_value_quant {
    int n;
    bb_grid grids[BB_MAX_GRIDS];
} bb_value_quant;

/** Numbers of one block in one profile. */
typedef struct bb_block_quant {
    uint8_t in_grid[BB_MAX_NODE_INPUTS]; /**< which grid of each input value it reads */
    /* CONV only. Real weight = weight_scale[row] * b, b = 2v - (2^planes - 1). */
    uint32_t planes;           /**< K of this profile */
    const float *weight_scale; /**< [rows] */
    const float *bias;         /**< [rows], real, corrections included; NULL = 0 */
    const float *tap_bias; /**< [taps][rows], real, added per valid tap (folded mean); NULL = 0 */
} bb_block_quant;

typedef struct bb_profile_quant {
    bb_bits bits;
    bb_value_quant *values; /**< [graph->n_values] */
    bb_block_quant *blocks; /**< [plan->n] */
} bb_profile_quant;

/** What all profiles share: weight codes v[rows][taps][depth] with `planes` stored planes (taps
 *  outside channels, unlike ONNX; Gemm rows whose input is a flattened image are reordered to
 *  NHWC). codes NULL for blocks that are not CONV. */
typedef struct bb_block_codes {
    uint32_t rows, taps, depth, planes;
    const uint8_t *codes;
    /** [planes], most significant first, as in model.h; NULL = native (2^(planes-1), ..., 1). Then
     *  b is the sum of +-plane_weight by the code's bits, and every profile uses all planes. */
    const int16_t *plane_weight;
} bb_block_codes;
/** b of weight i with the first `used` planes. */
int32_t bb_block_level(const bb_block_codes *codes, uint32_t used, size_t i);

/**
 * Writes the model. Profiles must agree on the number of grids of every value and on in_grid.
 * Graph inputs with a grid of 8 bits, step 0.5 and a0 -255 are raw pixels.
 */
bb_status bb_lower_float(bb_graph *graph, const bb_block_plan *plan, const bb_block_codes *codes,
                         const bb_profile_quant *profiles, size_t n_profiles,
                         const bb_quantize_options *options, bb_model **model, bb_error *err);

/** Lossless import of a graph that carries its own quantizers. */
bb_status bb_lower_quantized(bb_graph *graph, const bb_quantize_options *options, bb_model **model,
                             bb_error *err);

/** Turns ONNX weight order [rows][depth][kh][kw] into model order [rows][kh*kw][depth]. For a Gemm
 *  after Flatten of [C,H,W], call with taps = H*W and depth = C: same reordering. */
void bb_lower_reorder_weights(const float *onnx, uint32_t rows, uint32_t depth, uint32_t taps,
                              float *model_order);

#endif
