/* SPDX-License-Identifier: Apache-2.0 */
/** @file reader.h  Parts of the ONNX reader. */
#ifndef BB_ONNX_READER_H
#define BB_ONNX_READER_H

#include "onnx.pb-c.h"
#include "onnx/onnx.h"

enum { BB_ONNX_MIN_OPSET = 7, BB_ONNX_MAX_OPSET = 21 };
/** Nodes and tensors of one file; far above any network, far below what quadratic passes fear. */
enum { BB_ONNX_MAX_NODES = 16384, BB_ONNX_MAX_TENSORS = 65536 };

/** Refuses what protobuf-c would take badly: nesting without end, lengths beyond the buffer, many
 *  tiny messages that expand to gigabytes. */
bb_status bb_onnx_scan(const uint8_t *data, size_t size, bb_error *err);

/** What reading one file needs to know. */
typedef struct bb_onnx_reader {
    bb_graph *graph;
    const char *folder; /**< where external tensors may lie; NULL: nowhere */
    int opset;
    bb_error *err;
} bb_onnx_reader;

/** ONNX element type -> bb_dtype; false for types this library does not have. */
bool bb_onnx_dtype(int32_t type, bb_dtype *dtype);
/** Adds a tensor as a constant named `name`; *index is its value. */
bb_status bb_onnx_read_tensor(bb_onnx_reader *r, const Onnx__TensorProto *tensor, const char *name,
                              int *index);
/** Opens `location` inside `folder`, refusing every way out of it. */
bb_status bb_onnx_open_external(const char *folder, const char *location, bb_file *file,
                                bb_error *err);

/** Rewrites graph->nodes[node] from reader->opset to opset 21. May add nodes and constants. */
bb_status bb_onnx_upgrade(bb_onnx_reader *r, int node);

/** The quantized operators of domain com.microsoft that are read as DequantizeLinear, float
 * operator, QuantizeLinear. */
bool bb_onnx_is_contrib(const char *domain, const char *op_type);
/** Adds those nodes; *inner is the float operator, which then takes the attributes. */
bb_status bb_onnx_expand_contrib(bb_onnx_reader *r, const char *op_type, const char *name, int n_in,
                                 const int *in, bool trans_b, int out, int *inner);
/** Refuses attributes that the float operator does not have. */
bb_status bb_onnx_check_contrib(bb_onnx_reader *r, const bb_node *node);

#endif
