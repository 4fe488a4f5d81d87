/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file reference.h
 * The integer semantics of src/model/model.h as plain loops, written from that text alone: no
 * kernels, no border classes, no prepared tables. The engine has to give the same bits.
 */
#ifndef BB_CONFORMANCE_REFERENCE_H
#define BB_CONFORMANCE_REFERENCE_H

#include "model/model.h"

typedef struct ref_tensor {
    int32_t dims[4]; /**< N, H, W, C */
    size_t n;
    int32_t *codes; /**< NULL for floats */
    float *floats;
} ref_tensor;

typedef struct ref_result {
    const bb_model *model;
    const bb_profile *profile;
    ref_tensor *tensors;
    int32_t **accumulators; /**< [n_nodes]; P of a CONV, else NULL */
} ref_result;

/** Allocates every tensor; the caller then fills the inputs (NHWC). Exits when out of memory. */
void ref_start(ref_result *r, const bb_model *model, size_t profile, const bb_shapes *shapes);
void ref_run(ref_result *r);
void ref_free(ref_result *r);

#endif
