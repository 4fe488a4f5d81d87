/* SPDX-License-Identifier: Apache-2.0 */
/** @file stage.h  The programs and arrays with which one stage is trained. */
#ifndef BB_TRAIN_STAGE_H
#define BB_TRAIN_STAGE_H

#include "train/features.h"
#include "train/run.h"

typedef struct bb_trainer {
    bb_run *run;
    const bb_stage *stage;
    size_t index;
    char bits[64];
    size_t batches; /* of an epoch */

    bb_graph *source;      /* float network at the start */
    bb_lowbit *lowbit;     /* NULL in float */
    const bb_graph *graph; /* what is trained */
    bb_gradient *train, *test;
    bb_optimizer *optimizer;
    bb_graph *teacher_graph;
    bb_gradient *teacher;
    bb_features features;

    size_t classes, n_outputs; /* one output a profile */
    bb_array input;            /* dims of a batch */
    int *targets;              /* [batch] labels as outputs are counted */
    size_t n_seeds;
    bb_gradient_seed *seeds; /* of the outputs, then of features */
    float **seed_data;       /* [n_outputs] the same, writable */

    /* What a checkpoint holds: parameters, statistics (of these n_kept the best are kept as well),
     * the optimiser's state, the best. */
    size_t n_arrays, n_kept;
    bb_checkpoint_array *arrays, *kept;

    double rate;
    uint64_t speed_images; /* since this stage was opened */
    double speed_seconds;
    bb_error callback_error;
} bb_trainer;

/** Builds everything for the stage; close also after a failure. */
bb_status bb_trainer_open(bb_trainer *trainer, bb_error *err);
void bb_trainer_close(bb_trainer *trainer);

/** Forward run and loss of a batch, which also sets the seeds; right: images whose best class in
 * profile 0 is the label. */
bb_status bb_trainer_forward(bb_trainer *trainer, const bb_batch *batch, double *loss,
                             size_t *right, bb_error *err);
bb_status bb_trainer_backward(bb_trainer *trainer, bb_error *err);
/** A program that runs t->graph forward in f32 with the parameters of t->train, whatever the
 *  precision of training steps; statistics are its own. training: those of each batch. */
bb_status bb_trainer_forward_program(const bb_trainer *trainer, bool training,
                                     bb_gradient **program, bb_error *err);
/** Stages and epochs draw different orders and augmentations; the last number of a stage is for
 *  statistics taken anew. */
static inline uint64_t bb_trainer_epoch(const bb_trainer *trainer, uint64_t epoch) {
    return ((uint64_t)trainer->index << 32) + epoch;
}
/** Statistics of BatchNormalization in a program that trains become those of n batches. */
bb_status bb_trainer_reestimate(bb_trainer *trainer, bb_gradient *program, size_t n, bb_error *err);
/** Statistics of BatchNormalization from one program of t->graph to another. */
void bb_trainer_copy_statistics(bb_gradient *from, bb_gradient *to);
/** Test set: cross entropy of profile 0 and accuracy of every profile. */
bb_status bb_trainer_evaluate(bb_trainer *trainer, double *loss,
                              double accuracy[BB_TRAIN_MAX_PROFILES], bb_error *err);

/** bb_calibration_fn over training images, without augmentation. */
int bb_trainer_calibration(void *user, size_t index, float *input);
size_t bb_trainer_calibration_count(const bb_trainer *trainer);

#endif
