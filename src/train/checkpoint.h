/* SPDX-License-Identifier: Apache-2.0 */
/** @file checkpoint.h  Everything that training needs to go on with the same bits. */
#ifndef BB_TRAIN_CHECKPOINT_H
#define BB_TRAIN_CHECKPOINT_H

#include "train/record.h"

/** Where training stands, and the sums of the epoch that is not complete. */
typedef struct bb_position {
    uint64_t fingerprint; /**< of the config */
    uint64_t threads;
    uint64_t stage;        /**< stages before it are finished */
    uint64_t epoch, batch; /**< done in it */
    uint64_t steps;        /**< of the optimiser */
    uint64_t seen, right;  /**< training images of this epoch */
    double loss_sum;       /**< over its batches */
    double epoch_seconds, stage_seconds, total_seconds;
    double best_accuracy;
    uint64_t best_epoch; /**< 0: none yet */
    uint64_t precisions; /**< bit i: some of this stage was trained in bb_precision i */
} bb_position;

/** Arrays of a stage: parameters, statistics, optimiser, best parameters. */
typedef struct bb_checkpoint_array {
    float *data;
    size_t n;
} bb_checkpoint_array;

/** Written whole or not at all. n_arrays 0 between stages. */
bb_status bb_checkpoint_write(const char *path, const bb_position *position,
                              const bb_record *record, const bb_checkpoint_array *arrays,
                              size_t n_arrays, bb_error *err);

/** A checkpoint read from a file, which it checks for damage; arrays come when they are asked for.
 */
typedef struct bb_checkpoint {
    bb_file file;
    bb_position position;
    size_t n_arrays, at; /**< at: first byte of the arrays */
} bb_checkpoint;

/** Fills record with the rows and results. NOT_FOUND where there is no file. */
bb_status bb_checkpoint_open(const char *path, bb_checkpoint *checkpoint, bb_record *record,
                             bb_error *err);
/** Copies the arrays; number and sizes must agree. */
bb_status bb_checkpoint_read(const bb_checkpoint *checkpoint, const bb_checkpoint_array *arrays,
                             size_t n_arrays, bb_error *err);
void bb_checkpoint_close(bb_checkpoint *checkpoint);

#endif
