/* SPDX-License-Identifier: Apache-2.0 */
/** @file run.h  One training run: what its stages share. */
#ifndef BB_TRAIN_RUN_H
#define BB_TRAIN_RUN_H

#include "bitbranch/train.h"
#include "train/checkpoint.h"

typedef struct bb_run {
    bb_settings settings;
    bb_train_options options;
    const char *out; /**< folder for results */
    int lock;        /**< descriptor of the locked file in it, or -1 */
    size_t threads;
    double max_seconds; /**< of this call; 0: no limit */
    bb_dataset *train_set, *test_set;
    bb_loader *train, *test;
    size_t *calibration_order; /**< training images in the order in which calibration takes them */
    bb_record record;
    bb_position position;
    bb_checkpoint resume;   /**< open until its arrays have been read */
    bool other_config;      /**< it was written with another one */
    bool resuming, resumed; /**< its arrays are still to be read; something of it was taken over */
    double started, ticked, saved; /**< seconds on a clock that never goes back */
    bool stopped;                  /**< by the caller or by the time limit */
} bb_run;

/** Adds the time since the last call to the position. */
void bb_run_tick(bb_run *run);
/** Path of a file in the output folder, in the arena; NULL when out of memory. */
const char *bb_run_path(const bb_run *run, const char *name, const char *ending);
/** Tells the caller; notes where it or the time limit asks to stop. */
void bb_run_report(bb_run *run, const bb_train_event *event);
void bb_run_say(bb_run *run, const char *text);
/** Writes the checkpoint of the current position. */
bb_status bb_run_save(bb_run *run, const bb_checkpoint_array *arrays, size_t n_arrays,
                      bb_error *err);

/** Trains the stage position.stage, from the checkpoint where there is one, and writes its
 * networks. Returns early, with run->stopped, after writing a checkpoint. */
bb_status bb_run_stage(bb_run *run, bb_error *err);

/* ---- source.c -------------------------------------------------------------------------------- */

/** The float network that a stage starts with: an earlier stage's, a file's, or a new one. */
bb_status bb_run_source(bb_run *run, const bb_stage *stage, bb_graph **graph, bb_error *err);
/** An .onnx file brought into the form that is trained: any batch size, no softmax at the end. */
bb_status bb_run_import(const bb_run *run, const char *path, bb_graph **graph, bb_error *err);

/** Gives every convolution without BatchNormalization one that changes nothing (unfold.c). */
bb_status bb_run_unfold(bb_run *run, bb_graph *graph, bb_error *err);

/* ---- measure.c ------------------------------------------------------------------------------- */

/** Images of one class that the model, on the engine, says are of that class: percent of the test
 *  set, for one profile. */
bb_status bb_run_measure(bb_run *run, const bb_model *model, size_t profile, double *accuracy,
                         bb_error *err);

#endif
