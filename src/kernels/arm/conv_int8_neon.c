/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file conv_int8_neon.c
 * Byte products without sdot: one activation times 8 channels an instruction (smlal), 32 channels
 * and 4 pixels (32-bit Arm: 2) in 16-bit sums.
 *
 * A sum takes one product a step, at most A*w in magnitude with A the largest code and w the
 * largest weight present, so it holds T = floor(32767 / (A*w)) steps; then it is added to the
 * 32-bit tile. Both operands are signed bytes: codes of at most 7 bits, |b + o| <= 127.
 * Packed block: [segment][activation][32 channels] s8.
 */
#include "kernels/registry.h"
#include "kernels/walk.h"

#if BB_ARCH_NEON

#include "kernels/arm/neon.h"

#include <string.h>

enum { PIXELS = NEON_PIXELS, BLOCK = 32, SCHEDULE_MIN = 8 };

static int32_t exact_steps(const bb_conv_desc *desc) {
    const int32_t top = (1 << desc->activation_bits) - 1;
    const int32_t weight = desc->max_weight > 0 ? desc->max_weight : 1;

    return weight > 127 || top > 127 ? 0 : 32767 / (top * weight);
}

static bool supports(const bb_conv_desc *desc) {
    return exact_steps(desc) >= SCHEDULE_MIN;
}

/** acc[0..7] += sums. */
static inline void add_sums(int32_t *acc, int16x8_t sums) {
    vst1q_s32(acc, vaddw_s16(vld1q_s32(acc), vget_low_s16(sums)));
    vst1q_s32(acc + 4, vaddw_s16(vld1q_s32(acc + 4), vget_high_s16(sums)));
}

/** n activations from `at` on, added to the tile. Sums are named variables: compilers keep arrays
 *  of them in memory where they do not unroll. */
static void add_chunk(const uint8_t *const *ptr, ptrdiff_t at, const int8_t *w, int32_t n,
                      int32_t *acc) {
    const int16x8_t zero = vdupq_n_s16(0);
#define START(p)                                                                                   \
    const int8_t *x##p = (const int8_t *)ptr[p] + at;                                              \
    int16x8_t a##p = zero, b##p = zero, c##p = zero, d##p = zero;
#define STEP(p)                                                                                    \
    {                                                                                              \
        const int8x16_t u = vld1q_dup_s8(x##p++);                                                  \
                                                                                                   \
        a##p = vmlal_s8(a##p, vget_low_s8(w0), vget_low_s8(u));                                    \
        b##p = neon_add_high_s8(b##p, w0, u);                                                      \
        c##p = vmlal_s8(c##p, vget_low_s8(w1), vget_low_s8(u));                                    \
        d##p = neon_add_high_s8(d##p, w1, u);                                                      \
    }
#define FINISH(p)                                                                                  \
    add_sums(acc + (p)*BB_TILE_STRIDE, a##p);                                                      \
    add_sums(acc + (p)*BB_TILE_STRIDE + 8, b##p);                                                  \
    add_sums(acc + (p)*BB_TILE_STRIDE + 16, c##p);                                                 \
    add_sums(acc + (p)*BB_TILE_STRIDE + 24, d##p);
    EACH_PIXEL(START)
    for (int32_t i = 0; i < n; i++, w += BLOCK) {
        const int8x16_t w0 = vld1q_s8(w), w1 = vld1q_s8(w + 16);

        EACH_PIXEL(STEP)
    }
    EACH_PIXEL(FINISH)
#undef START
#undef STEP
#undef FINISH
}

static void block(const bb_tile_job *job) {
    const bb_conv_route *route = job->route;
    const int8_t *w = (const int8_t *)job->weights;

    for (int p = 0; p < PIXELS; p++)
        memset(job->acc + p * BB_TILE_STRIDE, 0, BLOCK * sizeof(*job->acc));
    for (int32_t seg = 0; seg < route->segments; seg++)
        for (int32_t i = 0; i < route->steps; i += route->schedule) {
            const int32_t left = route->steps - i;
            const int32_t n = left < route->schedule ? left : route->schedule;

            add_chunk(job->ptr + (ptrdiff_t)seg * PIXELS, i, w, n, job->acc);
            w += (ptrdiff_t)n * BLOCK;
        }
}

static void copy(const bb_conv_desc *desc, const uint8_t *codes, int32_t n, uint8_t *dst,
                 size_t part_bytes, int32_t *sums) {
    (void)part_bytes, (void)sums;
    memcpy(dst, codes, (size_t)n * (size_t)desc->in_channels);
}

static bb_conv_route route_of(const bb_conv_desc *desc) {
    bb_conv_route route = {
        .pixels = PIXELS,
        .block_channels = BLOCK,
        .group_bytes = (size_t)(desc->in_channels / desc->groups),
        .in_place = true,
        .transform = copy,
        .block = block,
        .schedule = exact_steps(desc),
    };

    bb_route_segments(desc, &route);
    route.steps = bb_segment_length(desc);
    route.block_bytes = ((size_t)route.segments * (size_t)route.steps * BLOCK + 63) / 64 * 64;
    return route;
}

static void put(const bb_conv_route *route, uint8_t *dst, int32_t lane, int32_t segment,
                const int16_t *weights, int32_t n) {
    dst += (size_t)segment * (size_t)route->steps * BLOCK + (size_t)lane;
    for (int32_t i = 0; i < n; i++)
        dst[(size_t)i * BLOCK] = (uint8_t)weights[i];
}

/** In the unit of conv_narrow.h, by instruction counts. */
static double cost(const bb_conv_desc *desc) {
    const bb_conv_route route = route_of(desc);
    const double tiles = (double)desc->out_height * desc->out_width / PIXELS + 1;
    const int32_t blocks = (desc->out_channels / desc->groups + BLOCK - 1) / BLOCK;
    const double chunks = (double)((route.steps + route.schedule - 1) / route.schedule);

    return tiles * desc->groups * blocks *
           (route.segments * PIXELS * (route.steps * 2.2 + chunks * 9) + 80);
}

BB_WALK_FUNCTIONS(route_of, put)

const bb_conv_kernel bb_conv_int8_neon = {.name = "conv_int8_neon",
                                          .cpu = BB_CPU_NEON,
                                          .supports = supports,
                                          .cost = cost,
                                          .packed_size = packed_size,
                                          .pack = pack,
                                          .scratch_size = scratch_size,
                                          .run = run};
#endif
