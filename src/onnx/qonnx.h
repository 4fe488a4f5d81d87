/* SPDX-License-Identifier: Apache-2.0 */
/** @file qonnx.h  What the files of the QONNX export share. */
#ifndef BB_ONNX_QONNX_H
#define BB_ONNX_QONNX_H

#include "model/model.h"
#include "onnx/writer.h"

typedef struct bb_qonnx {
    const bb_model *model;
    const bb_profile *profile;
    bb_onnx_writer *w;
    const char **name; /**< [n_tensors] value that holds it */
    int *unit;         /**< [n_tensors] value = (a - a0)/unit; 0 for floats */
    bb_shapes shapes;
    bb_arena *arena;
    bb_error *err;
} bb_qonnx;

uint32_t bb_qx_channels_of(const bb_qonnx *x, int tensor);
bool bb_qx_is_image(const bb_qonnx *x, int tensor);
/** Nodes of one and of two inputs. */
const char *bb_qx_node1(bb_qonnx *x, const char *op, const char *a);
const char *bb_qx_node2(bb_qonnx *x, const char *op, const char *a, const char *b);
/** n numbers that broadcast over the channels of a tensor; one is a scalar. */
const char *bb_qx_channel_floats(bb_qonnx *x, int tensor, const char *hint, const float *data,
                                 uint32_t n);
const char *bb_qx_flatten(bb_qonnx *x, const char *value);
/** Window attributes of the node added last. */
void bb_qx_set_window(bb_qonnx *x, const bb_geometry *g);
/** Conv on images, Gemm on vectors. */
const char *bb_qx_conv_node(bb_qonnx *x, const bb_model_node *node, int n_in,
                            const char *const *in);
const char *bb_qx_max_pool(bb_qonnx *x, const bb_model_node *node);
const char *bb_qx_concat(bb_qonnx *x, const bb_model_node *node);
const char *bb_qx_reshape(bb_qonnx *x, const bb_model_node *node);

/** A FLOAT node (qonnx_float.c). */
bb_status bb_qx_float_node(bb_qonnx *x, const bb_model_node *node);

#endif
