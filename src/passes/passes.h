/* SPDX-License-Identifier: Apache-2.0 */
/** @file passes.h  graph -> graph rewrites. Each keeps the function the graph computes. */
#ifndef BB_PASSES_H
#define BB_PASSES_H

#include "graph/graph.h"

/** Evaluates nodes whose inputs are all constant (Shape of a known shape counts as constant). */
bb_status bb_pass_fold_constants(bb_graph *graph, bb_error *err);
/** Removes Identity, Dropout, Cast to the same type, no-op Reshape/Pad/Slice. */
bb_status bb_pass_remove_identities(bb_graph *graph, bb_error *err);
/** Folds BatchNormalization and constant per-channel Mul/Add/Sub/Div into a preceding
 *  Conv/ConvTranspose/Gemm/MatMul with float weights and a single consumer; a BatchNormalization
 *  that remains becomes nothing else. */
bb_status bb_pass_fold_batch_norm(bb_graph *graph, bb_error *err);
/** Canonical forms: MatMul(+Add) with constant B -> Gemm, explicit Pad -> pads of Conv/pool,
 *  Sigmoid*x -> one SiLU subgraph mark, x*HardSigmoid(x) -> HardSwish, ReduceMean over HW ->
 *  GlobalAveragePool, Sum of two -> Add, Sqrt/Pow chains of decomposed BatchNorm folded. */
bb_status bb_pass_canonicalise(bb_graph *graph, bb_error *err);
/** All of the above to a fixed point, in the order quantization needs; then shapes. */
bb_status bb_pass_prepare(bb_graph *graph, bb_error *err);

#endif
