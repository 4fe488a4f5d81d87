/* SPDX-License-Identifier: Apache-2.0 */
/** @file passes.h  graph -> graph rewrites. Each keeps the function the graph computes. */
#ifndef BB_PASSES_H
#define BB_PASSES_H

#include "graph/graph.h"

/*
 * Two kinds of graphs come here:
 * - float graphs, which `quantize` will give grids: bb_pass_prepare brings them into the form that
 *   bb_lower_plan knows;
 * - graphs that carry their own low-bit quantizers (bb_graph_is_quantized): there every constant
 * behind a quantizer must stay what it is, and nothing may be folded into quantized weights:
 *   bb_pass_prepare_quantized.
 * Constant folding itself is bb_graph_fold_constants of graph/eval.h; the ONNX reader has done it.
 */

/** Removes Identity, Dropout, Cast to the same type, no-op Reshape, Transpose, Pad, Slice, Concat
 * of one, Expand, and links. Names of graph outputs are kept. */
bb_status bb_pass_remove_identities(bb_graph *graph, bb_error *err);
/**
 * Folds BatchNormalization and constant per-channel Mul, Add, Sub, Div into the Conv, ConvTranspose
 * or Gemm before them. Only where the weights are a plain float constant (nothing that a quantizer
 * produced) and nothing else reads the result in between. A BatchNormalization that remains stays a
 * BatchNormalization.
 */
bb_status bb_pass_fold_batch_norm(bb_graph *graph, bb_error *err);
/**
 * Canonical forms, safe for low-bit graphs as well:
 * - MatMul of a rank-2 input with a constant or quantized constant matrix -> Gemm; Transpose of
 * such a matrix is taken into transB; a Gemm with a plain float constant gets transB = 1, alpha =
 * beta = 1;
 * - explicit zero Pad -> pads of a Conv or AveragePool (count_include_pad) that follows;
 * - ReduceMean over the spatial axes -> GlobalAveragePool (+ Flatten where keepdims = 0);
 * - AveragePool over the whole input -> GlobalAveragePool;
 * - Sum of two -> Add, Sum or Max of one -> gone;
 * - x * HardSigmoid(x) with the parameters of HardSwish -> HardSwish; x * clip(x + 3, 0, 6) / 6 and
 *   its orders -> HardSwish; clip(x + 3, 0, 6) / 6 -> HardSigmoid(1/6, 1/2);
 * - x * Sigmoid(x) stays as two nodes (Sigmoid, Mul): bb_node_is_silu says which;
 * - Min/Max with a scalar constant -> Clip; Clip(0, inf) -> Relu;
 * - Reshape and Squeeze to [N, rest] -> Flatten;
 * - a chain of Reshape, Transpose, Slice, Gather, Split, ... that only selects or permutes channels
 * of an NCHW tensor (channel shuffle) -> one Gather over axis 1.
 */
bb_status bb_pass_canonicalise(bb_graph *graph, bb_error *err);
/** All of the above to a fixed point, quantizers on constants evaluated; then shapes. */
bb_status bb_pass_prepare(bb_graph *graph, bb_error *err);
/** For low-bit graphs: identities removed, float arithmetic on constants folded, canonical forms.
 * Keeps quantizers and every BatchNormalization, Mul and Add between a product and its quantizer.
 */
bb_status bb_pass_prepare_quantized(bb_graph *graph, bb_error *err);

/** True where Mul `node` is x * Sigmoid(x); *sigmoid is the index of the other node. */
bool bb_node_is_silu(const bb_graph *graph, const bb_node *node, int *sigmoid);

#endif
