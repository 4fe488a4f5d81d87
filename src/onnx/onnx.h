/* SPDX-License-Identifier: Apache-2.0 */
/** @file onnx.h  ONNX, QDQ and QONNX files -> graph (untrusted input), graph -> ONNX,
 *  model -> QONNX. */
#ifndef BB_ONNX_H
#define BB_ONNX_H

#include "graph/graph.h"

/**
 * Reads an .onnx (or .onnx.gz) file of opset 7..21 into a linked graph with inferred shapes and
 * folded constants. External tensors are read only from the model's own folder. An operator
 * that is not in ops.inc is UNSUPPORTED, naming node, operator and opset.
 */
bb_status bb_onnx_read(const char *path, bb_graph **graph, bb_error *err);
bb_status bb_onnx_read_buffer(const void *data, size_t size, const char *folder, const char *name,
                              bb_graph **graph, bb_error *err);

#endif
