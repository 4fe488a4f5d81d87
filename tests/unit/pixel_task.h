/* SPDX-License-Identifier: Apache-2.0 */
/** @file pixel_task.h  Made-up 8x8 colour images and what a quantizer is told of them. */
#ifndef BB_PIXEL_TASK_H
#define BB_PIXEL_TASK_H

#include "base/base.h"
#include "bitbranch/quantize.h"

enum { SIDE = 8, PIXELS = 3 * SIDE * SIDE };

/* Three channels of a level each, with noise. */
static inline void make_pixels(size_t index, uint8_t *pixels) {
    bb_rng rng;
    bb_rng_seed(&rng, 1000 + index);
    for (size_t c = 0; c < 3; c++) {
        double level = 255.0 * bb_rng_uniform(&rng);
        for (size_t i = 0; i < SIDE * SIDE; i++) {
            double p = level + 60.0 * bb_rng_normal(&rng);
            pixels[c * SIDE * SIDE + i] = (uint8_t)(p < 0.0 ? 0.0 : p > 255.0 ? 255.0 : p);
        }
    }
}

/* bb_calibration_fn; user: the options with mean and std. */
static inline int calibrate(void *user, size_t index, float *input) {
    const bb_quantize_options *o = user;
    uint8_t pixels[PIXELS];
    make_pixels(index, pixels);
    for (size_t i = 0; i < PIXELS; i++) {
        size_t c = i / (SIDE * SIDE);
        input[i] = ((float)pixels[i] * o->pixel_scale - o->mean[c]) / o->std[c];
    }
    return 0;
}

static inline void pixel_options(bb_quantize_options *o) {
    bb_quantize_options_init(o);
    o->pixels = 1;
    o->pixel_scale = 1.0f / 255.0f;
    for (int c = 0; c < 3; c++) {
        o->mean[c] = 0.4f + 0.05f * (float)c;
        o->std[c] = 0.2f + 0.03f * (float)c;
    }
}

#endif
