/* SPDX-License-Identifier: Apache-2.0 */
/** @file blocks.h  Pattern matching shared by the files of this room. */
#ifndef BB_LOWER_BLOCKS_H
#define BB_LOWER_BLOCKS_H

#include "lower/lower.h"

/** The node that alone uses `value`, or -1 (several users, none, or a graph output). */
int bb_sole_consumer(const bb_graph *graph, int value);
/** x op v (side 1: v is the second operand) or v op x (side 0) of Add, Sub, Mul, Div as
 *  gain*x + shift; false for v / x and other operators. */
bool bb_affine_of_op(bb_op op, int side, double v, double *gain, double *shift);
/** A node that is a function of one value with constant parameters. */
bool bb_activation_of_node(bb_graph *graph, const bb_node *node, bb_activation *act);
/** The activation that alone uses `value`: nodes[1] makes the result, nodes[0] is the gate of
 *  x*Sigmoid(x) and the like, or -1. */
bool bb_match_activation(bb_graph *graph, int value, bb_activation *act, int nodes[2]);

/** Elements of a view or a computed constant, and nodes of a graph: keeps memory and time of
 *  hostile files in bounds. */
enum { BB_MAX_VIEW = 1 << 26, BB_MAX_GRAPH_NODES = 1 << 16 };
bb_status bb_lower_check_size(const bb_graph *graph, bb_error *err);
/** Dims of the model's tensor for a value: N, H, W, C of an image and N, C of a vector, all open
 * (-1) but for the channels. UNSUPPORTED where it is neither or its channels are not known. */
bb_status bb_lower_tensor_dims(const bb_graph *graph, const bb_value *value, int64_t dims[4],
                               bb_error *err);

/** True for operators that only move elements (Reshape, Transpose, Slice, Gather, ...). */
bool bb_is_movement(bb_op op);
/**
 * Where the elements of a value come from: source[j] is the linear NCHW index, in the value `root`,
 * of element j. Made by evaluating the movement nodes on an array of indices.
 */
typedef struct bb_view {
    int root;
    int64_t *source; /**< NULL: the value is no view */
    size_t n;
} bb_view;
/** Views of the outputs of movement node `node`, whose input has the view `in`. */
bb_status bb_view_apply(bb_graph *graph, const bb_node *node, const bb_view *in, bb_view *out,
                        bb_error *err);
/** The identity view of a value with known dims. */
bb_status bb_view_identity(bb_graph *graph, int value, bb_view *view, bb_error *err);
/** A view that takes whole channels of an image: index[c] = source channel, in the graph's arena;
 *  NULL if it is not one. */
const int32_t *bb_view_channels(bb_graph *graph, const bb_view *view, int value);
/** A view of rank 2 that holds all elements of its root: in NCHW order (order 1) or NHWC (2); 0 if
 *  it is neither. With one pixel or one channel both are the same and 2 is given. */
int bb_view_flat_order(const bb_graph *graph, const bb_view *view, int value);
/** Sliding window of a convolution or pool node. */
bb_status bb_lower_window(const bb_graph *graph, const bb_node *node, bb_geometry *geometry,
                          bb_error *err);
/** Name, parameter bytes, config and labels of the model. */
bb_status bb_lower_metadata(const bb_graph *graph, const bb_quantize_options *options,
                            bb_model *model, bb_error *err);
/** Slopes of a LEAKY activation into a float node: alpha, or a table of one a channel. */
bb_status bb_lower_set_slopes(bb_model *model, const bb_activation *act, bb_model_node *node,
                              bb_error *err);
/** Known dims of an image value as n, c, h, w ([N,C] -> h = w = 1). */
bool bb_image_dims(const bb_value *value, int64_t dims[4]);

#endif
