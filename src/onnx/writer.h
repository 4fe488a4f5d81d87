/* SPDX-License-Identifier: Apache-2.0 */
/** @file writer.h  Building an ONNX file node by node. */
#ifndef BB_ONNX_WRITER_H
#define BB_ONNX_WRITER_H

#include "base/base.h"

/* TensorProto.DataType */
enum {
    BB_ONNX_F32 = 1,
    BB_ONNX_U8 = 2,
    BB_ONNX_I8 = 3,
    BB_ONNX_U16 = 4,
    BB_ONNX_I16 = 5,
    BB_ONNX_I32 = 6,
    BB_ONNX_I64 = 7,
    BB_ONNX_BOOL = 9,
    BB_ONNX_F64 = 11,
    BB_ONNX_U4 = 21,
    BB_ONNX_I4 = 22
};

typedef struct bb_onnx_writer bb_onnx_writer;

/** NULL when out of memory. */
bb_onnx_writer *bb_onnx_writer_create(const char *graph_name);
void bb_onnx_writer_destroy(bb_onnx_writer *w);
/** Opset of the file, 13 at first. */
void bb_onnx_set_opset(bb_onnx_writer *w, int opset);

/** Constants; names are made from `hint`. All functions that return a name return NULL once memory
 *  has run out, and accept NULL names then: check once, when the file is written. */
const char *bb_onnx_floats(bb_onnx_writer *w, const char *hint, const float *data, int rank,
                           const int64_t *dims);
const char *bb_onnx_doubles(bb_onnx_writer *w, const char *hint, const double *data, int rank,
                            const int64_t *dims);
const char *bb_onnx_ints(bb_onnx_writer *w, const char *hint, const int64_t *data, size_t n);
const char *bb_onnx_float(bb_onnx_writer *w, const char *hint, float value); /**< a scalar */

/** A constant of any type under its own name; `bytes` of data as TensorProto.raw_data holds them.
 */
void bb_onnx_tensor(bb_onnx_writer *w, const char *name, int type, const void *data, size_t bytes,
                    int rank, const int64_t *dims);

/** Adds a node with one output, named `output` or, where that is NULL, by itself. Operators of
 *  QONNX (Quant, BipolarQuant, MultiThreshold) get their domain. "" = input left out. */
const char *bb_onnx_node(bb_onnx_writer *w, const char *op, int n_in, const char *const *in,
                         const char *output);
/** Adds a node under its own name, with any number of outputs; "" = left out. */
void bb_onnx_named_node(bb_onnx_writer *w, const char *op, const char *name, int n_in,
                        const char *const *in, int n_out, const char *const *out);
/* Attributes of the node added last. */
void bb_onnx_set_int(bb_onnx_writer *w, const char *name, int64_t value);
void bb_onnx_set_float(bb_onnx_writer *w, const char *name, float value);
void bb_onnx_set_string(bb_onnx_writer *w, const char *name, const char *value);
void bb_onnx_set_ints(bb_onnx_writer *w, const char *name, const int64_t *values, size_t n);

void bb_onnx_set_floats(bb_onnx_writer *w, const char *name, const float *values, size_t n);

/** Inputs and outputs of the graph; dims of -1 = any size; rank -1 = any. */
void bb_onnx_typed_input(bb_onnx_writer *w, const char *name, int type, int rank,
                         const int64_t *dims);
void bb_onnx_typed_output(bb_onnx_writer *w, const char *name, int type, int rank,
                          const int64_t *dims);
/* The same of float32. */
void bb_onnx_input(bb_onnx_writer *w, const char *name, int rank, const int64_t *dims);
void bb_onnx_output(bb_onnx_writer *w, const char *name, int rank, const int64_t *dims);

bb_status bb_onnx_write_file(bb_onnx_writer *w, const char *path, bb_error *err);

#endif
