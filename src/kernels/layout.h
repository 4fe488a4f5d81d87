/* SPDX-License-Identifier: Apache-2.0 */
/** @file layout.h  Sizes and pieces of scratch memory and packed weights. */
#ifndef BB_KERNELS_LAYOUT_H
#define BB_KERNELS_LAYOUT_H

#include <stdbool.h>
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

/**
 * T = floor(32767 / (2*A*w)): steps of four activations whose byte products, added in pairs, 16-bit
 * sums hold. A is the largest code, w the largest weight; 0 where a pair does not fit.
 */
static inline int32_t bb_exact_steps(uint32_t activation_bits, int32_t weight) {
    return 32767 / (2 * ((1 << activation_bits) - 1) * (weight > 0 ? weight : 1));
}

/**
 * Packs n > 0 weights of one channel as bytes, four activations a step, steps `step` bytes apart.
 * halved: floor(w/2) is stored, so that w = 2*stored + parity. Returns -1 where weights are odd,
 * else 0: one parity per channel.
 */
static inline int32_t bb_put_fours(uint8_t *dst, size_t step, const int16_t *weights, int32_t n,
                                   bool halved) {
    for (int32_t i = 0; i < n; i++)
        dst[(size_t)(i / 4) * step + (size_t)(i % 4)] =
            (uint8_t)(halved ? bb_floor_half(weights[i]) : weights[i]);
    return weights[0] & 1 ? -1 : 0;
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
