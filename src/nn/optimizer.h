/* SPDX-License-Identifier: Apache-2.0 */
/** @file optimizer.h  Optimisers: from gradients to parameters. */
#ifndef BB_NN_OPTIMIZER_H
#define BB_NN_OPTIMIZER_H

#include "base/base.h"

typedef enum bb_optimizer_kind { BB_OPTIMIZER_SGD, BB_OPTIMIZER_ADAM } bb_optimizer_kind;

typedef struct bb_optimizer_options {
    bb_optimizer_kind kind;
    float momentum;              /**< SGD */
    bool nesterov;               /**< SGD */
    float beta1, beta2, epsilon; /**< Adam */
    float weight_decay; /**< the gradient of weight_decay/2 * |w|^2 is added, as in PyTorch's SGD */
    bool decoupled;     /**< decay outside of the moments instead (AdamW, Loshchilov 2019) */
} bb_optimizer_options;
/** SGD with momentum 0.9, Nesterov, no weight decay; Adam's constants 0.9, 0.999, 1e-8. */
void bb_optimizer_options_init(bb_optimizer_options *options);

/** One tensor to train. The optimiser keeps the pointers. */
typedef struct bb_parameter {
    float *value;
    const float *gradient;
    size_t n;
    float rate;     /**< factor of the learning rate, usually 1 */
    float decay;    /**< factor of weight_decay: 0 for batch norm, bias and quantizer steps */
    float min, max; /**< the value is clipped to these after each step; min >= max: it is not */
    /** SGD: gradient and velocity count only as far as either would change its element by this
     *  share of it, so that a positive value stays one (below 1/2); 0: all of them. */
    float most_change;
} bb_parameter;

typedef struct bb_optimizer bb_optimizer;

bb_status bb_optimizer_create(const bb_optimizer_options *options, const bb_parameter *parameters,
                              size_t n, bb_optimizer **optimizer, bb_error *err);
void bb_optimizer_destroy(bb_optimizer *optimizer); /**< NULL is fine */
/** One step along the gradients that the parameters point to now. */
void bb_optimizer_step(bb_optimizer *optimizer, float learning_rate);

/** The state for checkpoints: moments of all parameters as one array, and the steps done. */
float *bb_optimizer_state(bb_optimizer *optimizer, size_t *n);
uint64_t bb_optimizer_steps(const bb_optimizer *optimizer);
void bb_optimizer_set_steps(bb_optimizer *optimizer, uint64_t steps);

#endif
