/* SPDX-License-Identifier: Apache-2.0 */
/** @file import.h  ONNX import and float execution (libbitbranch-tools). */
#ifndef BITBRANCH_IMPORT_H
#define BITBRANCH_IMPORT_H

#include "bitbranch/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/** A float (or fake-quantized) network, immutable after import, shareable between threads. */
typedef struct bb_graph bb_graph;

/** Reads .onnx or .onnx.gz, opset 7..21, plain, QDQ, QLinear or QONNX. */
BB_API bb_status bb_import_onnx(const char *path, bb_graph **graph, bb_error *err);
BB_API void bb_graph_destroy(bb_graph *graph); /**< NULL is fine */

/**
 * Cuts out the part of a graph that computes the tensors named `outputs` from those named `inputs`,
 * in place: they become the graph's outputs and inputs, in this order, and everything else is
 * dropped. This takes the end off a network whose last operators are not supported, or runs a part
 * alone. n_inputs = 0 keeps the inputs, n_outputs = 0 the outputs. NOT_FOUND names a tensor that
 * does not exist; BAD_FILE where an output also needs an input that was cut away (the graph is then
 * unusable and may only be destroyed). Not while the graph is in use elsewhere.
 */
BB_API bb_status bb_graph_extract(bb_graph *graph, const char *const *inputs, size_t n_inputs,
                                  const char *const *outputs, size_t n_outputs, bb_error *err);

typedef struct bb_graph_info {
    size_t struct_size;
    const char *name;
    int opset;
    size_t nodes, inputs, outputs;
    uint64_t float32_bytes; /**< parameters at 4 bytes each */
    uint64_t macs;          /**< per image, 0 where shapes stay symbolic */
    int quantized;          /**< 1 where the graph carries its own low-bit quantizers */
    int64_t input_dims[4];  /**< of input 0 in its own order; -1 = open, 0 beyond its rank */
} bb_graph_info;
BB_API void bb_graph_info_init(bb_graph_info *info);
/** Strings live as long as the graph. */
BB_API bb_status bb_graph_get_info(const bb_graph *graph, bb_graph_info *info, bb_error *err);

/** One node, for reports. Strings live as long as the graph. */
typedef struct bb_graph_node_info {
    const char *name;
    const char *op;
    int64_t out_dims[8];
    int out_rank;
    uint64_t macs, parameters;
} bb_graph_node_info;
/** node: 0..bb_graph_info.nodes-1, else NOT_FOUND. */
BB_API bb_status bb_graph_get_node(const bb_graph *graph, size_t node, bb_graph_node_info *info,
                                   bb_error *err);

/** Float execution at one input size. One caller at a time. */
typedef struct bb_float_net bb_float_net;

/** input_dims: NCHW of input 0, 0 = as the file says (N then 1). The graph must outlive it. */
BB_API bb_status bb_float_net_create(const bb_graph *graph, const int64_t input_dims[4],
                                     size_t threads, bb_float_net **net, bb_error *err);
BB_API void bb_float_net_destroy(bb_float_net *net); /**< NULL is fine */
BB_API size_t bb_float_net_outputs(const bb_float_net *net);
/** Called for every node's f32 result in execution order, in plain ONNX layout. `name` is the ONNX
 *  tensor name. The data is only valid during the call. */
typedef void (*bb_float_tap_fn)(void *user, const char *name, const float *data,
                                const int64_t *dims, int rank);
/** As bb_float_net_create, for a net whose runs report every node's result to `tap`: slower,
 * because nothing can be fused. */
BB_API bb_status bb_float_net_create_tapped(const bb_graph *graph, const int64_t input_dims[4],
                                            size_t threads, bb_float_tap_fn tap, void *user,
                                            bb_float_net **net, bb_error *err);
/** input: f32 in the graph's own layout. */
BB_API bb_status bb_float_net_run(bb_float_net *net, const float *input, bb_error *err);
/** Output i of the last run as f32; valid until the next run. dims has room for 8 entries. */
BB_API bb_status bb_float_net_output(bb_float_net *net, size_t i, const char **name,
                                     const float **data, int64_t *dims, int *rank, bb_error *err);

#ifdef __cplusplus
}
#endif
#endif
