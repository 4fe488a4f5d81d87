/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file window.h
 * Pooling on codes: the maximum of several rows (or of the pixels of a row), and the sum over a
 * rectangle of pixels, per channel. A maximum over a rectangle is one over its rows, then one over
 * columns: far fewer comparisons where windows overlap.
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

/** out[t*out_step + i] = the largest in[k][t*in_step + i], for all t < count, i < elements. */
typedef struct bb_max_job {
    const void *const *in; /**< n >= 1; with one item, out may be the first one */
    size_t n;
    void *out;
    size_t in_step, out_step, elements, count;
    bb_element type; /**< U8 or U16 */
} bb_max_job;

typedef struct bb_window_kernels {
    const char *name;
    void (*max)(const bb_max_job *job);
    /** Exact while rows*columns*(2^bits - 1) < 2^31. */
    void (*sum)(const bb_window *window, int32_t *out);
} bb_window_kernels;

extern const bb_window_kernels bb_window_ref;
#if defined(__x86_64__)
extern const bb_window_kernels bb_window_ssse3;
extern const bb_window_kernels bb_window_avx2;
#endif
extern const bb_window_kernels bb_window_neon; /**< where BB_ARCH_NEON */
/** The elements of each item from `done` on, one by one. */
void bb_max_rest(const bb_max_job *job, size_t done);
const bb_window_kernels *bb_window_choose(uint32_t cpu);

#endif
