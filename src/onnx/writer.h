/* SPDX-License-Identifier: Apache-2.0 */
/** @file writer.h  Building an ONNX file node by node. */
#ifndef BB_ONNX_WRITER_H
#define BB_ONNX_WRITER_H

#include "base/base.h"

enum { BB_ONNX_F32 = 1, BB_ONNX_I64 = 7, BB_ONNX_F64 = 11 }; /* TensorProto.DataType */

typedef struct bb_onnx_writer bb_onnx_writer;

/** NULL when out of memory. */
bb_onnx_writer *bb_onnx_writer_create(const char *graph_name);
void bb_onnx_writer_destroy(bb_onnx_writer *w);

/** Constants; names are made from `hint`. All functions that return a name return NULL once memory
 *  has run out, and accept NULL names then: check once, when the file is written. */
const char *bb_onnx_floats(bb_onnx_writer *w, const char *hint, const float *data, int rank,
                           const int64_t *dims);
const char *bb_onnx_doubles(bb_onnx_writer *w, const char *hint, const double *data, int rank,
                            const int64_t *dims);
const char *bb_onnx_ints(bb_onnx_writer *w, const char *hint, const int64_t *data, size_t n);
const char *bb_onnx_float(bb_onnx_writer *w, const char *hint, float value); /**< a scalar */

/** Adds a node with one output, named `output` or, where that is NULL, by itself. Operators of
 *  QONNX (Quant, BipolarQuant, MultiThreshold) get their domain. "" = input left out. */
const char *bb_onnx_node(bb_onnx_writer *w, const char *op, int n_in, const char *const *in,
                         const char *output);
/* Attributes of the node added last. */
void bb_onnx_set_int(bb_onnx_writer *w, const char *name, int64_t value);
void bb_onnx_set_float(bb_onnx_writer *w, const char *name, float value);
void bb_onnx_set_string(bb_onnx_writer *w, const char *name, const char *value);
void bb_onnx_set_ints(bb_onnx_writer *w, const char *name, const int64_t *values, size_t n);

/** Float32 inputs and outputs; -1 = any size. */
void bb_onnx_input(bb_onnx_writer *w, const char *name, int rank, const int64_t *dims);
void bb_onnx_output(bb_onnx_writer *w, const char *name, int rank, const int64_t *dims);

bb_status bb_onnx_write_file(bb_onnx_writer *w, const char *path, bb_error *err);

#endif
