/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file window.h
 * Pooling windows on codes: the maximum and the sum over a rectangle of pixels, per channel.
 */
#ifndef BB_WINDOW_H
#define BB_WINDOW_H

#include "base/base.h"
#include "kernels/requant.h"

/** rows x columns pixels of `channels` codes each, starting at `first`. Strides in elements. */
typedef struct bb_window {
    const void *first;
    size_t row_stride, pixel_stride;
    int32_t rows, columns, channels;
    bb_element type; /**< U8 or U16 */
} bb_window;

typedef struct bb_window_kernels {
    const char *name;
    /** out: `channels` codes of the same type. rows, columns >= 1. */
    void (*max)(const bb_window *window, void *out);
    /** Exact while rows*columns*(2^bits - 1) < 2^31. */
    void (*sum)(const bb_window *window, int32_t *out);
} bb_window_kernels;

extern const bb_window_kernels bb_window_ref;
#if defined(__x86_64__)
extern const bb_window_kernels bb_window_ssse3;
extern const bb_window_kernels bb_window_avx2;
#endif
extern const bb_window_kernels bb_window_neon; /**< where BB_ARCH_NEON */
const bb_window_kernels *bb_window_choose(uint32_t cpu);

#endif
