/* SPDX-License-Identifier: Apache-2.0 */
/** @file judge.h  Whether training helped: the student against the float network on calibration
 *  images that nothing else has seen. */
#ifndef BB_QUANTIZE_JUDGE_H
#define BB_QUANTIZE_JUDGE_H

#include "quantize/tune.h"

typedef struct bb_judge {
    bb_student *s;
    size_t n;          /**< images; 0: everything that is asked is better */
    float *images;     /**< [n][elements of the input] */
    double divergence; /**< of the kept state */
    float *kept;       /**< all constants that training changes */
    size_t n_kept;
} bb_judge;

/** Loss of one output against the float network's, mean over the batch: divergence of class
 *  probabilities, else squared error relative to the size of what is right. Adds the gradient. */
double bb_judge_loss(const bb_array *is, const bb_array *want, float *gradient);

/** Keeps the student as it is; `images` may be NULL with n = 0 and must stay. */
bb_status bb_judge_create(bb_student *s, float *images, size_t n, bb_judge *judge, bb_error *err);
void bb_judge_destroy(bb_judge *judge);
/** Keeps the student as it is now where it is nearer to the float network than what was kept, else
 *  goes back to that. *divergence is what was found now. */
bb_status bb_judge_decide(bb_judge *judge, double *divergence, bool *better, bb_error *err);

#endif
