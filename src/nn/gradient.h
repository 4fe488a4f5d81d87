/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file gradient.h
 * Forward-and-backward programs: what training and reconstruction are built on.
 *
 * A program is made once for a graph and fixed input dims (the batch is one of them) and run often:
 *
 *     bb_gradient_create(graph, dims, &options, &g, err);
 *     for every step {
 *         bb_gradient_forward(g, inputs, err);
 *         bb_gradient_value(g, logits, &array, err);        ... loss and its gradient
 *         bb_gradient_backward(g, seeds, n_seeds, err);
 *         update bb_gradient_parameter(g, i) with bb_gradient_of(g, i)
 *     }
 *
 * Convolutions, BatchNormalization, pools, activations and sums stay in oneDNN's blocked layouts
 * between each other; parameters are reordered once per step. All tensors lie in one block of
 * memory that is allocated with the program.
 *
 * The graph must stay alive and unchanged. A node on a path from a differentiated value to an
 * output whose gradient is not known is an UNSUPPORTED error of bb_gradient_create that names it;
 * nodes that no gradient passes may be anything the executor runs. Fake quantizers (FakeQuantize
 * nodes, see nn/quantizer.h) are nodes like any others.
 *
 * Results are the same bits for the same number of threads. A program belongs to one thread at a
 * time; several programs may run at the same time.
 */
#ifndef BB_NN_GRADIENT_H
#define BB_NN_GRADIENT_H

#include "graph/eval.h"

typedef struct bb_gradient bb_gradient;

typedef struct bb_gradient_options {
    size_t threads; /**< 0: one */
    /**
     * BatchNormalization: true = mean and variance of the batch (over N and all spatial axes,
     * population variance), and running statistics move by
     *     running = momentum * running + (1 - momentum) * batch
     * with the node's attribute `momentum` (ONNX: 0.9) in every forward run. False = the running
     * statistics are constants ("frozen"). Scale and shift can be parameters in both modes.
     */
    bool training;
    /**
     * Constant f32 values of the graph to differentiate: weights, biases, scale and shift of
     * BatchNormalization, slopes, steps of quantizers. Not running means or variances.
     */
    const int *parameters;
    size_t n_parameters;
    /**
     * NULL, or one pointer per parameter: the caller's array to use as master copy (then several
     * programs can train the same parameters), or NULL for one that the program owns.
     */
    float *const *masters;
    /** Values that can be read after forward and given a gradient; outputs always can. */
    const int *kept;
    size_t n_kept;
    /** Graph inputs (value indices) whose gradient is wanted. */
    const int *wanted;
    size_t n_wanted;
    /**
     * Convolutions multiply bfloat16 copies of their operands and sum in f32; everything else, and
     * every value, gradient and parameter between steps, stays f32. See
     * bb_gradient_check_bf16.
     */
    bool bf16;
    bool forward_only; /**< no backward pass; parameters can still be written between runs */
} bb_gradient_options;

/** UNSUPPORTED with the reason where the processor cannot run programs in bf16. */
bb_status bb_gradient_check_bf16(bb_error *err);

/**
 * Builds the program. input_dims[i] points to the dims of graph input i (all known). The masters
 * that the program owns start with the contents of the graph's constants; those of the caller are
 * left as they are. Running statistics start with the graph's.
 */
bb_status bb_gradient_create(const bb_graph *graph, const int64_t *const *input_dims,
                             const bb_gradient_options *options, bb_gradient **gradient,
                             bb_error *err);
void bb_gradient_destroy(bb_gradient *gradient); /**< NULL is fine */

/* ---- parameters: index i as in options.parameters -------------------------------------------- */

size_t bb_gradient_n_parameters(const bb_gradient *gradient);
/** Master copy in plain ONNX layout; write it between steps. NULL beyond the end. */
float *bb_gradient_parameter(bb_gradient *gradient, size_t i);
/**
 * Gradient left by the last backward run, plain layout, not accumulated over runs; all zeros for
 * a parameter that no seed depends on.
 */
const float *bb_gradient_of(const bb_gradient *gradient, size_t i);
size_t bb_gradient_parameter_elements(const bb_gradient *gradient, size_t i);
/** The parameter's value index in the graph. */
int bb_gradient_parameter_value(const bb_gradient *gradient, size_t i);

/* ---- running statistics: mean, then variance of every BatchNormalization, in node order ------ */

size_t bb_gradient_n_statistics(const bb_gradient *gradient);
/** Array i, readable and writable between runs; *value is the graph constant it stands for, *n its
 *  elements (both may be NULL). */
float *bb_gradient_statistic(bb_gradient *gradient, size_t i, int *value, size_t *n);
/** Overrides the momentum of all nodes; negative: the nodes' own again. 0 takes over the batch's
 *  statistics, 1 leaves the running ones alone. */
void bb_gradient_set_momentum(bb_gradient *gradient, float momentum);

/**
 * Puts the current masters and running statistics into `graph` (a bb_graph_clone of the program's
 * graph, same value indices) as its constants: for evaluation with bb_executor and for export.
 */
bb_status bb_gradient_export(const bb_gradient *gradient, bb_graph *graph, bb_error *err);

/* ---- running --------------------------------------------------------------------------------- */

/** inputs: one array per graph input (read only), in the dims of creation. */
bb_status bb_gradient_forward(bb_gradient *gradient, const bb_array *inputs, bb_error *err);
/** A kept value or graph output after forward, plain layout, valid until the next forward. */
bb_status bb_gradient_value(bb_gradient *gradient, int value, bb_array *array, bb_error *err);

/** dLoss/dvalue of a kept value or graph output, plain layout, as many elements as the value. */
typedef struct bb_gradient_seed {
    int value;
    const float *data;
} bb_gradient_seed;

/**
 * Propagates the seeds (at most one per value; those not named are zero). Once per forward run, as
 * it overwrites what forward left.
 */
bb_status bb_gradient_backward(bb_gradient *gradient, const bb_gradient_seed *seeds, size_t n_seeds,
                               bb_error *err);
/** Gradient of the wanted graph input `value` after backward, plain layout. */
bb_status bb_gradient_input(bb_gradient *gradient, int value, const float **data, bb_error *err);

#endif
