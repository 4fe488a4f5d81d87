/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file eval.h
 * Plain evaluation of one node on row-major arrays: the defining loops for every operator that
 * needs no heavy arithmetic. Constant folding uses it on constants, nn at run time.
 */
#ifndef BB_GRAPH_EVAL_H
#define BB_GRAPH_EVAL_H

#include "graph/graph.h"

/** A tensor handed in or out: plain row-major ONNX layout. */
typedef struct bb_array {
    bb_dtype dtype;
    int rank;
    int64_t dims[BB_MAX_RANK];
    void *data;
} bb_array;

/** A value as an array (data NULL unless constant; unknown dims stay -1). */
void bb_array_from_value(const bb_value *value, bb_array *array);

/** True where bb_eval_node can compute this node (all but convolutions, Gemm/MatMul, pools,
 *  normalisations, Resize, softmax: those belong to nn). */
bool bb_eval_supports(const bb_node *node);

/**
 * Evaluates a node. inputs[i].data is NULL for an input left out. Outputs come with dtype, rank and
 * dims filled in and data allocated from `arena` unless outputs[i].data is non-NULL, which then has
 * room for the result and whose dims are checked against it.
 */
bb_status bb_eval_node(const bb_graph *graph, const bb_node *node, const bb_array *inputs,
                       bb_array *outputs, bb_arena *arena, bb_error *err);

/**
 * Infers shapes and evaluates nodes whose inputs are all constant, also through Shape of a tensor
 * whose dims are known as far as they are looked at; then links. Results that would need much
 * more memory than the file itself stay unevaluated. Quantizers (QuantizeLinear, DequantizeLinear,
 * QONNX) are only evaluated where `quantizers` is true: lowering reads grids and codes out of them.
 */
bb_status bb_graph_fold_constants(bb_graph *graph, bool quantizers, bb_error *err);
/** QuantizeLinear, DequantizeLinear and the QONNX operators. */
bool bb_op_is_quantizer(bb_op op);

#endif
