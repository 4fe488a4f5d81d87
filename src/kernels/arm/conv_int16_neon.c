/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file conv_int16_neon.c
 * 16-bit products into 32-bit sums: one activation times 4 channels an instruction (smlal by
 * element), 16 channels and 4 pixels (32-bit Arm: 2), four activations a step. For whatever bytes
 * cannot hold. Sums stay below 2^31 by the model's bound (kernels.h).
 * Packed block: [segment][step][4 activations][16 channels] s16; activations past the depth have
 * weight 0.
 */
#include "kernels/registry.h"
#include "kernels/walk.h"

#if BB_ARCH_NEON

#include "kernels/arm/neon.h"

enum { PIXELS = NEON_PIXELS, BLOCK = 16, DEPTH = 4, STEP = DEPTH * BLOCK };

static bool supports(const bb_conv_desc *desc) {
    return desc->max_weight <= 32767;
}

static void block(const bb_tile_job *job) {
    const bb_conv_route *route = job->route;
    const int16_t *w = (const int16_t *)(const void *)job->weights;
    const int32x4_t zero = vdupq_n_s32(0);
#define START(p) int32x4_t a##p = zero, b##p = zero, c##p = zero, d##p = zero;
#define SEGMENT(p) const int16_t *x##p = (const int16_t *)(const void *)ptr[p];
#define LOAD(p) const int16x4_t u##p = vld1_s16(x##p + (ptrdiff_t)i * DEPTH);
#define ADD(p, lane)                                                                               \
    a##p = vmlal_lane_s16(a##p, vget_low_s16(w0), u##p, lane);                                     \
    b##p = NEON_ADD_HIGH_LANE(b##p, w0, u##p, lane);                                               \
    c##p = vmlal_lane_s16(c##p, vget_low_s16(w1), u##p, lane);                                     \
    d##p = NEON_ADD_HIGH_LANE(d##p, w1, u##p, lane);
#define ADD0(p) ADD(p, 0)
#define ADD1(p) ADD(p, 1)
#define ADD2(p) ADD(p, 2)
#define ADD3(p) ADD(p, 3)
#define ACTIVATION(lane)                                                                           \
    {                                                                                              \
        const int16x8_t w0 = vld1q_s16(w + (lane)*BLOCK), w1 = vld1q_s16(w + (lane)*BLOCK + 8);    \
                                                                                                   \
        EACH_PIXEL(ADD##lane)                                                                      \
    }
#define FINISH(p)                                                                                  \
    vst1q_s32(job->acc + (p)*BB_TILE_STRIDE, a##p);                                                \
    vst1q_s32(job->acc + (p)*BB_TILE_STRIDE + 4, b##p);                                            \
    vst1q_s32(job->acc + (p)*BB_TILE_STRIDE + 8, c##p);                                            \
    vst1q_s32(job->acc + (p)*BB_TILE_STRIDE + 12, d##p);
    EACH_PIXEL(START)
    for (int32_t seg = 0; seg < route->segments; seg++) {
        const uint8_t *const *ptr = job->ptr + (ptrdiff_t)seg * PIXELS;

        EACH_PIXEL(SEGMENT)
        for (int32_t i = 0; i < route->steps; i++, w += STEP) {
            EACH_PIXEL(LOAD)
            ACTIVATION(0)
            ACTIVATION(1)
            ACTIVATION(2)
            ACTIVATION(3)
        }
    }
    EACH_PIXEL(FINISH)
}

static void widen(const bb_conv_desc *desc, const uint8_t *codes, int32_t n, uint8_t *dst,
                  size_t part_bytes, int32_t *sums) {
    const size_t total = (size_t)n * (size_t)desc->in_channels;
    uint16_t *out = (void *)dst;

    (void)part_bytes, (void)sums;
    for (size_t i = 0; i < total; i++)
        out[i] = codes[i];
}

static bb_conv_route route_of(const bb_conv_desc *desc) {
    bb_conv_route route = {
        .pixels = PIXELS,
        .block_channels = BLOCK,
        .group_bytes = 2 * (size_t)(desc->in_channels / desc->groups),
        .transform = widen,
        .block = block,
    };

    bb_route_segments(desc, &route);
    route.steps = (bb_segment_length(desc) + DEPTH - 1) / DEPTH;
    route.block_bytes = (size_t)route.segments * (size_t)route.steps * STEP * sizeof(int16_t);
    return route;
}

static void put(const bb_conv_route *route, uint8_t *dst, int32_t lane, int32_t segment,
                const int16_t *weights, int32_t n) {
    int16_t *out = (int16_t *)(void *)dst + (size_t)segment * (size_t)route->steps * STEP + lane;

    for (int32_t i = 0; i < n; i++)
        out[(size_t)i * BLOCK] = weights[i];
}

/** In the unit of conv_narrow.h, by instruction counts. */
static double cost(const bb_conv_desc *desc) {
    const bb_conv_route route = route_of(desc);
    const double tiles = (double)desc->out_height * desc->out_width / PIXELS + 1;
    const int32_t blocks = (desc->out_channels / desc->groups + BLOCK - 1) / BLOCK;

    return tiles * desc->groups * blocks * (route.segments * PIXELS * route.steps * 7.7 + 80);
}

BB_WALK_FUNCTIONS(route_of, put)

const bb_conv_kernel bb_conv_int16_neon = {.name = "conv_int16_neon",
                                           .cpu = BB_CPU_NEON,
                                           .supports = supports,
                                           .cost = cost,
                                           .packed_size = packed_size,
                                           .pack = pack,
                                           .scratch_size = scratch_size,
                                           .run = run};
#endif
