/* SPDX-License-Identifier: Apache-2.0 */
/** @file rewrite.h  What the rewriting passes share. The graph is linked when they run. */
#ifndef BB_PASSES_REWRITE_H
#define BB_PASSES_REWRITE_H

#include "passes/passes.h"

/** The node that produces a value, or NULL. */
bb_node *bb_producer(const bb_graph *graph, int value);
/** The same where it has operator `op` and nothing else reads the value. */
bb_node *bb_sole_producer(const bb_graph *graph, int value, bb_op op);
/** The number that a float or integer constant of one element holds. */
bool bb_constant_number(const bb_graph *graph, int value, double *number);
/** True for a constant, or what a quantizer makes of constants only (constant *weights* of a
 * low-bit graph). */
bool bb_is_weight(const bb_graph *graph, int value);
/** Adds a float32 constant named after `node`; -1 when out of memory. */
int bb_add_floats(bb_graph *graph, const bb_node *node, const char *what, int rank,
                  const int64_t *dims, float **data);
/** Turns `node` into op(in...) with its attributes cleared and its outputs kept. */
bool bb_turn_into(bb_graph *graph, bb_node *node, bb_op op, int n_in, const int *in);
/** Makes all readers of the node's output 0 read `value` instead and the node produce nothing.
 * Where output 0 is a graph output it keeps its name: the producer of `value` then makes it under
 * that name. False (nothing done) where that is not possible. */
bool bb_bypass(bb_graph *graph, bb_node *node, int value);

/** One rewrite tried on one node; sets *changed. */
typedef bb_status (*bb_rewrite)(bb_graph *graph, size_t node, bool *changed, bb_error *err);
bb_status bb_rewrite_matmul(bb_graph *graph, size_t node, bool *changed, bb_error *err);
bb_status bb_rewrite_pool(bb_graph *graph, size_t node, bool *changed, bb_error *err);
bb_status bb_rewrite_activation(bb_graph *graph, size_t node, bool *changed, bb_error *err);
bb_status bb_rewrite_channels(bb_graph *graph, size_t node, bool *changed, bb_error *err);
/** Applies a rewrite to every node in order and links. */
bb_status bb_apply(bb_graph *graph, bb_rewrite rewrite, bool *changed, bb_error *err);

#endif
