/* SPDX-License-Identifier: Apache-2.0 */
/** @file features.h  Feature distillation: values within a network learn from its teacher's. */
#ifndef BB_TRAIN_FEATURES_H
#define BB_TRAIN_FEATURES_H

#include "nn/gradient.h"
#include "train/settings.h"

/** A node's output in the teacher and in every profile of the student. */
typedef struct bb_feature {
    int teacher, own[BB_TRAIN_MAX_PROFILES];
    size_t elements;                        /**< of one image */
    float *gradient[BB_TRAIN_MAX_PROFILES]; /**< [batch][elements] */
} bb_feature;

typedef struct bb_features {
    const bb_stage *stage;
    const bb_graph *student;
    bb_graph *teacher; /**< all memory is in its arena */
    size_t n, n_profiles;
    bb_feature *list;
} bb_features;

/** Pairs the nodes that the stage names, by name; none where its feature_weight is 0. */
bb_status bb_features_find(bb_features *features, const bb_stage *stage, const bb_graph *student,
                           bb_graph *teacher, size_t batch, bb_error *err);
/** The values that the teacher's or the student's program has to keep; NULL: out of memory. */
const int *bb_features_values(const bb_features *features, bool teacher, size_t *n);
/**
 * Adds to the loss, after a forward run of both programs, the stage's weight times the mean over
 * nodes and profiles of the squared error in shares of the teacher's mean square; fills
 * n * n_profiles seeds. images: those of the batch that count.
 */
bb_status bb_features_loss(const bb_features *features, bb_gradient *student, bb_gradient *teacher,
                           size_t images, bb_gradient_seed *seeds, double *loss, bb_error *err);

#endif
