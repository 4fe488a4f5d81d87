/* SPDX-License-Identifier: Apache-2.0 */
/** @file train.h  Training and fine-tuning, in float and at low bits (libbitbranch-tools). */
#ifndef BITBRANCH_TRAIN_H
#define BITBRANCH_TRAIN_H

#include "bitbranch/quantize.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum bb_train_moment {
    BB_TRAIN_MESSAGE, /**< `text` says what happens */
    BB_TRAIN_READING, /**< `done` of `total` images read */
    BB_TRAIN_BATCH,   /**< after a batch */
    BB_TRAIN_EPOCH,   /**< after an epoch and its evaluation */
    BB_TRAIN_STAGE    /**< a network is finished and written */
} bb_train_moment;

/** Where training is. Fields that a moment does not have are 0 or NULL. Accuracies in percent. */
typedef struct bb_train_event {
    bb_train_moment moment;
    const char *text;
    const char *stage, *bits; /**< name; "float", "w4a4", "w8a8,w4a4" */
    size_t stage_index, stages;
    size_t epoch, epochs;            /**< counted from 1 */
    size_t batch, batches;           /**< done of this epoch */
    size_t done, total;              /**< READING */
    double rate;                     /**< learning rate */
    double loss, accuracy;           /**< on training images, over this epoch so far */
    double test_loss, test_accuracy; /**< EPOCH; STAGE: of the finished network */
    double model_accuracy;           /**< STAGE: of the .bbm on the engine, -1 without one */
    double images_per_second;
    double seconds_left;     /**< of this stage */
    double seconds_left_all; /**< and of those after it, were they as fast */
} bb_train_event;

/** Non-zero: write a checkpoint and stop. */
typedef int (*bb_train_fn)(void *user, const bb_train_event *event);

/** Format of the numbers that convolutions multiply in training; sums and all else are f32. */
typedef enum bb_precision { BB_PRECISION_F32, BB_PRECISION_BF16 } bb_precision;

typedef struct bb_train_options {
    size_t struct_size;
    const char *out;              /**< folder for results; NULL = as the config says */
    const char *const *variables; /**< "NAME=value" for ${NAME} in the config's paths */
    size_t n_variables;
    size_t threads;     /**< 0 = one. Other numbers give other roundings */
    double max_minutes; /**< then a checkpoint is written; 0 = as the config says */
    int restart;        /**< begin anew even where there is a checkpoint */
    /** Train this stage and those behind it again, keep those before it; or NULL. INVALID_ARGUMENT
     *  where there is no such stage or one before it is not trained yet (after `restart`: any). */
    const char *restart_at;
    bb_train_fn progress; /**< may be NULL */
    void *progress_user;
    bb_precision precision; /**< BF16: UNSUPPORTED where the processor has no AVX512-BF16 */
} bb_train_options;
BB_API void bb_train_options_init(bb_train_options *options);

typedef struct bb_train_outcome {
    int finished; /**< 0: stopped, the checkpoint holds the rest */
    int resumed;  /**< went on from a checkpoint */
    size_t stages_done;
    double seconds; /**< of training, over all runs */
} bb_train_outcome;

/**
 * Trains what a config describes (docs/training.md). In the folder `out` there will be, for every
 * stage, NAME.onnx (the float network, with the latent weights where it was trained at low bits)
 * and NAME.bbm; and results.json, log.csv, curve.svg, checkpoint.bin. Every file is there whole or
 * not at all. Training that was stopped or killed goes on from the checkpoint and ends with the
 * same bits in every network as if it had not been, for the same number of threads and the same
 * precision.
 * outcome may be NULL.
 */
BB_API bb_status bb_train(const char *config, const bb_train_options *options,
                          bb_train_outcome *outcome, bb_error *err);

#ifdef __cplusplus
}
#endif
#endif
