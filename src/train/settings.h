/* SPDX-License-Identifier: Apache-2.0 */
/** @file settings.h  The config of a training run after checking (docs/training.md). */
#ifndef BB_TRAIN_SETTINGS_H
#define BB_TRAIN_SETTINGS_H

#include "nn/optimizer.h"
#include "train/loader.h"
#include "train/lowbit.h"
#include "train/network.h"
#include "train/schedule.h"

enum { BB_TRAIN_MAX_PROFILES = 8, BB_TRAIN_MAX_STAGES = 64 };

typedef enum bb_train_loss { BB_LOSS_CROSS_ENTROPY, BB_LOSS_SQUARED_HINGE } bb_train_loss;

/** One network to train: float, or at the bits of its profiles. */
typedef struct bb_stage {
    const char *name;  /**< also of its files; unique */
    const char *from;  /**< an earlier stage, or NULL: a new network */
    size_t n_profiles; /**< 0: float */
    bb_bits profiles[BB_TRAIN_MAX_PROFILES];
    bb_lowbit_weights weights;
    bb_lowbit_activations activations;
    bb_bits first_last;
    bool first_last_float;
    int residual_bits;
    size_t n_layers;
    bb_layer_bits *layers;
    int calibration; /**< images that choose the first steps */

    int epochs;
    bb_schedule schedule;
    bb_optimizer_options optimizer;
    bb_train_loss loss;
    double label_smoothing;
    const char *teacher; /**< an earlier stage, an .onnx file, or NULL */
    bool teacher_is_file;
    double teacher_weight, temperature;
    double feature_weight; /**< of the loss between features; 0: none */
    size_t n_features;
    const char **features; /**< patterns of node names; none: what the last layer reads */
    int bn_batches;        /**< batches from which statistics are taken anew at the end; 0: not */
    bool keep_best;
} bb_stage;

typedef struct bb_settings {
    bb_arena *arena;
    const char *path;     /**< of the config */
    uint64_t fingerprint; /**< of its text: a checkpoint belongs to one config */
    const char *out;
    uint64_t seed;
    double checkpoint_minutes, max_minutes; /**< max 0: no limit */
    int batch;
    bb_config *task;
    char *labels; /**< class names, one a line, or NULL */
    size_t n_labels;
    const char *train, *test, *train_split, *test_split;
    int train_limit, test_limit; /**< 0: all */
    int loader_threads, cache_mb;
    bb_augment augment;
    const char *network_file; /**< an .onnx file, or NULL: `network` */
    bool network_norm;        /**< give its convolutions BatchNormalization where they have none */
    bb_network_options network;
    size_t n_stages;
    bb_stage *stages;
    uint64_t *until; /**< [n_stages]: fingerprint of all that a stage's result depends on */
} bb_settings;

/**
 * Reads a config. "${NAME}" in paths stands for the entry "NAME=value" of `variables`, else for the
 * environment variable. Unknown keys, wrong types and values out of range are errors that name file
 * and key.
 */
bb_status bb_settings_load(const char *path, const char *const *variables, size_t n_variables,
                           bb_settings *settings, bb_error *err);
void bb_settings_free(bb_settings *settings);
/** Index of the stage of that name among the first n; n where there is none. */
size_t bb_settings_find_stage(const bb_settings *settings, const char *name, size_t n);

/* ---- settings_stage.c ------------------------------------------------------------------------ */

/** Reads the stages from `stages`, each over `defaults` (may be NULL). */
bb_status bb_settings_read_stages(bb_settings *settings, const char *file, void *defaults_json,
                                  void *stages_json, bb_error *err);
/** A path of the config with its variables put in, in the arena; relative ones start from the
 *  config's folder. Used by both files. */
typedef struct bb_path_rules {
    const char *const *variables;
    size_t n_variables;
} bb_path_rules;
bb_status bb_settings_path(const bb_settings *settings, const bb_path_rules *rules,
                           const char *text, const char **path, bb_error *err);

#endif
