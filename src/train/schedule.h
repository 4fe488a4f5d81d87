/* SPDX-License-Identifier: Apache-2.0 */
/** @file schedule.h  The learning rate over the steps of a stage. */
#ifndef BB_TRAIN_SCHEDULE_H
#define BB_TRAIN_SCHEDULE_H

#include "base/base.h"

typedef enum bb_schedule_kind {
    BB_SCHEDULE_COSINE, /**< half a cosine from rate to end_rate */
    BB_SCHEDULE_LINEAR, /**< from rate to end_rate */
    BB_SCHEDULE_STEP,   /**< times `factor` at each of `at` */
    BB_SCHEDULE_CONSTANT
} bb_schedule_kind;

enum { BB_SCHEDULE_MAX_STEPS = 16 };

typedef struct bb_schedule {
    bb_schedule_kind kind;
    double rate, end_rate;
    double warmup; /**< share of all steps, 0..1, in which the rate rises linearly from 0 */
    double factor; /**< STEP */
    size_t n_at;
    double at[BB_SCHEDULE_MAX_STEPS]; /**< shares of all steps, rising */
} bb_schedule;

/** The rate of step 0..steps-1. */
double bb_schedule_rate(const bb_schedule *schedule, uint64_t step, uint64_t steps);

#endif
