/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file neon.h
 * What 64-bit and 32-bit Arm do differently in kernels that keep their sums in named variables
 * (compilers keep arrays of them in memory where they do not unroll): EACH_PIXEL(DO) writes DO(p)
 * for every pixel of a tile.
 */
#ifndef BB_KERNELS_ARM_NEON_H
#define BB_KERNELS_ARM_NEON_H

#include <arm_neon.h>

#if defined(__aarch64__)

enum { NEON_PIXELS = 4 };
#define EACH_PIXEL(DO) DO(0) DO(1) DO(2) DO(3)

static inline int16x8_t neon_add_high_s8(int16x8_t sum, int8x16_t a, int8x16_t b) {
    return vmlal_high_s8(sum, a, b);
}
static inline int32x4_t neon_add_high_s16(int32x4_t sum, int16x8_t a, int16x8_t b) {
    return vmlal_high_s16(sum, a, b);
}
#define NEON_ADD_HIGH_LANE(sum, a, b, lane) vmlal_high_lane_s16(sum, a, b, lane)

#else /* half as many registers */

enum { NEON_PIXELS = 2 };
#define EACH_PIXEL(DO) DO(0) DO(1)

static inline int16x8_t neon_add_high_s8(int16x8_t sum, int8x16_t a, int8x16_t b) {
    return vmlal_s8(sum, vget_high_s8(a), vget_high_s8(b));
}
static inline int32x4_t neon_add_high_s16(int32x4_t sum, int16x8_t a, int16x8_t b) {
    return vmlal_s16(sum, vget_high_s16(a), vget_high_s16(b));
}
#define NEON_ADD_HIGH_LANE(sum, a, b, lane) vmlal_lane_s16(sum, vget_high_s16(a), b, lane)

#endif
#endif
