/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file lowbit.h
 * Low-bit training: a float graph becomes one with fake quantizers, and the trained one a model.
 *
 *     bb_lowbit_create(float_graph, &options, calibration, user, count, &lowbit, err);
 *     graph = bb_lowbit_graph(lowbit);               train bb_lowbit_parameters of it with
 *     ...                                            nn/gradient.h, BatchNormalization and all
 *     trained = bb_graph_clone(graph); bb_gradient_export(program, trained, err);
 *     bb_lowbit_export(lowbit, trained, calibration, user, count, &model, NULL, err);
 *
 * Fewer bits later (the ladder 8, 7, ..., 1): bb_lowbit_latent(lowbit, trained, 0, &float_graph,
 * err) and bb_lowbit_create on that with other bits; steps are chosen anew from the latent weights.
 *
 * Several profiles: the graph holds the network once for each, over one set of latent weights; a
 * profile of fewer weight bits reads the first planes of the same codes. Biases, BatchNormalization
 * and activation steps are each profile's own. Outputs are profile-major: with n outputs of the
 * float graph, output i of profile p is graph output p*n + i, and the loss is the sum over all.
 */
#ifndef BB_TRAIN_LOWBIT_H
#define BB_TRAIN_LOWBIT_H

#include "bitbranch/quantize.h"
#include "nn/gradient.h"

typedef struct bb_lowbit bb_lowbit;

/** How weights become few values. */
typedef enum bb_lowbit_weights {
    BB_LOWBIT_WEIGHTS_LEARNED,      /**< odd grid, one learned step an output channel */
    BB_LOWBIT_WEIGHTS_PAPER,        /**< eq. 15 on clip(w, -1, 1), no scale */
    BB_LOWBIT_WEIGHTS_MULTI_BRANCH, /**< K binary tensors, each with latent weights of its own */
    BB_LOWBIT_WEIGHTS_DOREFA,       /**< eq. 15 on tanh(w) / max|tanh(w)| */
    BB_LOWBIT_WEIGHTS_BWN,          /**< 1 bit: E|w| sign(w) */
    BB_LOWBIT_WEIGHTS_XNOR,         /**< 1 bit: the same with the gradient of XNOR-Net */
    BB_LOWBIT_WEIGHTS_TWN,          /**< ternary, 2 bits */
    BB_LOWBIT_WEIGHTS_ABC           /**< K binary bases with coefficients of their own */
} bb_lowbit_weights;

typedef enum bb_lowbit_activations {
    BB_LOWBIT_ACTIVATIONS_LEARNED, /**< learned step; unsigned after ReLU, else affine with integer
                                        zero point, and sign for 1 bit */
    BB_LOWBIT_ACTIVATIONS_HTANH,   /**< eq. 15 on clip(x, -1, 1); every ReLU becomes that clip */
    BB_LOWBIT_ACTIVATIONS_HRELU,   /**< all codes of clip(x, 0, 1); every ReLU becomes that clip */
    BB_LOWBIT_ACTIVATIONS_ENCODER, /**< HTANH with the gradients of the encoder functions */
    BB_LOWBIT_ACTIVATIONS_FLOAT    /**< not quantized while training */
} bb_lowbit_activations;

typedef struct bb_lowbit_options {
    /** Bits (profiles, first and last layer, overrides), input meaning, seed, threads, config and
     *  labels, as bb_quantize takes them. Copied, but not what it points to. */
    bb_quantize_options quantize;
    bb_lowbit_weights weights;
    bb_lowbit_activations activations;
} bb_lowbit_options;
/** Learned steps, and bb_quantize_options_init. */
void bb_lowbit_options_init(bb_lowbit_options *options);

/**
 * Puts quantizers before the input and on the weights of every convolution and Gemm that a model
 * would run on codes. Learned steps start with the least error on the weights and on `count`
 * calibration images (bb_calibration_fn, batch 1), which run through the float graph. `graph` may
 * have BatchNormalization nodes (kept) and any batch size; it must stay alive.
 */
bb_status bb_lowbit_create(const bb_graph *graph, const bb_lowbit_options *options,
                           bb_calibration_fn calibration, void *user, size_t count,
                           bb_lowbit **lowbit, bb_error *err);
void bb_lowbit_destroy(bb_lowbit *lowbit); /**< NULL is fine */

/** The graph to train; alive and unchanged until destroy. */
const bb_graph *bb_lowbit_graph(const bb_lowbit *lowbit);

/** Name of a node or value in profile p of that graph, from the float graph's; NULL: no memory. */
const char *bb_lowbit_profile_name(bb_arena *arena, const char *name, size_t p);

/** A constant to train, with what an optimiser should know of it (nn/optimizer.h). */
typedef struct bb_lowbit_parameter {
    int value;      /**< of the graph */
    float rate;     /**< factor of the learning rate */
    float decay;    /**< 1 for weights, 0 for all others */
    float min, max; /**< bounds, none where min >= max */
} bb_lowbit_parameter;
const bb_lowbit_parameter *bb_lowbit_parameters(const bb_lowbit *lowbit, size_t *n);
/** The same list for any float graph: weights and biases of Conv, ConvTranspose and Gemm, scale
 *  and shift of BatchNormalization, slopes. In the arena of the graph; NULL when out of memory. */
const bb_lowbit_parameter *bb_float_parameters(bb_graph *graph, size_t *n);

/** The float network under one profile: latent weights, its biases and BatchNormalization. The
 *  result shares names with the graph given to create. Release with bb_graph_destroy. */
bb_status bb_lowbit_latent(const bb_lowbit *lowbit, const bb_graph *trained, size_t profile,
                           bb_graph **graph, bb_error *err);

/**
 * The model with the weight codes, scales, biases and activation grids as trained. Only what
 * training does not define (grids of residual adds, pools, activations that stayed float) is
 * calibrated, on the trained network itself. `trained`: bb_lowbit_graph with trained constants.
 */
bb_status bb_lowbit_export(const bb_lowbit *lowbit, const bb_graph *trained,
                           bb_calibration_fn calibration, void *user, size_t count,
                           bb_model **model, bb_quantize_report *report, bb_error *err);

/** Fills the graph inputs of batch `index` for bb_lowbit_reestimate; non-zero cancels. */
typedef int (*bb_batch_fn)(void *user, size_t index, bb_array *inputs);
/** Running statistics of a program in training mode become the mean of those of n batches. */
bb_status bb_lowbit_reestimate(bb_gradient *program, bb_batch_fn batch, void *user, size_t n,
                               bb_array *inputs, bb_error *err);

#endif
