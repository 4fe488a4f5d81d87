/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file executor.h
 * Float execution of a graph: the reference that calibration, comparison and evaluation use.
 * The only room that sees oneDNN. A program is created once for fixed input dims and run often.
 *
 * Results do not depend on `threads`: operations whose sums oneDNN shares out among threads run on
 * one. They do depend on the machine type, as oneDNN chooses its kernels by instruction set.
 * Executors are independent of each other: one per thread may run at the same time.
 */
#ifndef BB_NN_EXECUTOR_H
#define BB_NN_EXECUTOR_H

#include "graph/eval.h"

typedef struct bb_executor bb_executor;

typedef struct bb_executor_options {
    size_t threads; /**< 0: one */
    /** Values (indices) whose contents `tap` wants to see, besides the outputs. */
    const int *tapped;
    size_t n_tapped;
} bb_executor_options;

/**
 * Called in execution order for each tapped value, with the value in plain layout; the array
 * is only valid during the call. Return 0 to go on, else the run ends with CANCELLED.
 */
typedef int (*bb_executor_tap)(void *user, int value, const bb_array *array);

/**
 * Builds the program. input_dims[i] points to the dims of graph input i (all known). The graph
 * must stay alive and unchanged. An operator that cannot run is an UNSUPPORTED error here that
 * names node, operator and opset.
 */
bb_status bb_executor_create(const bb_graph *graph, const int64_t *const *input_dims,
                             const bb_executor_options *options, bb_executor **executor,
                             bb_error *err);
void bb_executor_destroy(bb_executor *executor);

/** Runs once. inputs: one array per graph input (read only). tap may be NULL. */
bb_status bb_executor_run(bb_executor *executor, const bb_array *inputs, bb_executor_tap tap,
                          void *user, bb_error *err);
/** Output i of the last run, plain layout, valid until the next run or destroy. */
bb_status bb_executor_output(bb_executor *executor, size_t i, bb_array *array, bb_error *err);

#endif
