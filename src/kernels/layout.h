/* SPDX-License-Identifier: Apache-2.0 */
/** @file layout.h  Sizes and pieces of scratch memory and packed weights. */
#ifndef BB_KERNELS_LAYOUT_H
#define BB_KERNELS_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

static inline int32_t bb_min32(int32_t a, int32_t b) {
    return a < b ? a : b;
}

static inline int32_t bb_div_up(int32_t a, int32_t b) {
    return (a + b - 1) / b;
}

/** The smallest multiple of b that is not below a. */
static inline int32_t bb_up_to(int32_t a, int32_t b) {
    return bb_div_up(a, b) * b;
}

/** The half of a weight that is stored where w = 2*half + parity. */
static inline int32_t bb_floor_half(int32_t w) {
    return (w - (w & 1)) / 2;
}

static inline size_t bb_round64(size_t n) {
    return (n + 63) / 64 * 64;
}

/** Hands out consecutive 64-byte aligned pieces; base NULL only counts. */
static inline void *bb_carve(uint8_t *base, size_t *used, size_t bytes) {
    void *piece = base ? base + *used : NULL;

    *used += bb_round64(bytes);
    return piece;
}

#endif
