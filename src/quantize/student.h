/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file student.h
 * The solved network as a graph with fake quantizers, to train further, and back. Values that the
 * float network has keep their numbers, so parts of both can be compared.
 */
#ifndef BB_QUANTIZE_STUDENT_H
#define BB_QUANTIZE_STUDENT_H

#include "quantize/quantizer.h"

/** Constants of the student that belong to one CONV block; -1: there is none. */
typedef struct bb_student_layer {
    /** Real weight = odd(latent, step) * gain: the step stays and says where codes change, the
     * gain, [rows] and 1 at first, is what learns. -1: the weights stay as they are (8 bits,
     * pixels). */
    int latent, step, gain;
    int bias;
    int input_step; /**< shared by all layers that read this copy of the value's class */
    int input_node; /**< output of the quantizer */
} bb_student_layer;

typedef struct bb_student {
    bb_quantization *q;
    size_t profile;
    bb_graph *graph;
    bb_student_layer *layers; /**< [plan.n] */
    bb_grid *grids;           /**< [n_classes][BB_MAX_GRIDS]: of the quantizers; bits 0: none */
    int *steps;               /**< the same: their steps */
    size_t most_batch;        /**< images that one program may take at once */
} bb_student;

bb_status bb_student_create(bb_quantization *q, size_t profile, bb_student *student, bb_error *err);
void bb_student_destroy(bb_student *student);
/** A constant's elements, writable: the student owns them. */
float *bb_student_constant(const bb_student *student, int value);
/** Moves latent weights away from the borders of their cells, where training has driven them: the
 *  next first steps would tip too many over. Their codes stay. */
void bb_student_settle(bb_student *student);
/** Writes codes, scales, biases and grids of the student back, and calibrates the other grids on
 *  what it computes. */
bb_status bb_student_take(bb_student *student, bb_error *err);

#endif
