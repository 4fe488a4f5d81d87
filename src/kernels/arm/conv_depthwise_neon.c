/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file conv_depthwise_neon.c
 * Depthwise layers: 16 channels of a pixel in 32-bit sums, tap by tap, codes widened to 16 bits.
 * Sums stay below 2^31 by the model's bound (kernels.h). Packed block: [tap][16 channels] s16.
 */
#include "kernels/registry.h"
#include "kernels/walk.h"

#if BB_ARCH_NEON

#include "kernels/arm/neon.h"

#include <string.h>

enum { PIXELS = NEON_PIXELS, BLOCK = 16 };

static bool supports(const bb_conv_desc *desc) {
    return desc->groups > 1 && desc->groups == desc->in_channels &&
           desc->groups == desc->out_channels && desc->max_weight <= 32767;
}

static void pixel(const bb_tile_job *job, const uint8_t *const *ptr, int32_t *acc) {
    const int16_t *w = (const int16_t *)(const void *)job->weights;
    int32x4_t a = vdupq_n_s32(0), b = a, c = a, d = a;

    for (int32_t tap = 0; tap < job->route->segments; tap++, w += BLOCK) {
        const uint8x16_t u = vld1q_u8(ptr[tap * PIXELS] + job->channel);
        const int16x8_t lo = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(u)));
        const int16x8_t hi = vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(u)));
        const int16x8_t w0 = vld1q_s16(w), w1 = vld1q_s16(w + 8);

        a = vmlal_s16(a, vget_low_s16(lo), vget_low_s16(w0));
        b = neon_add_high_s16(b, lo, w0);
        c = vmlal_s16(c, vget_low_s16(hi), vget_low_s16(w1));
        d = neon_add_high_s16(d, hi, w1);
    }
    vst1q_s32(acc, a);
    vst1q_s32(acc + 4, b);
    vst1q_s32(acc + 8, c);
    vst1q_s32(acc + 12, d);
}

static void block(const bb_tile_job *job) {
    for (int32_t p = 0; p < job->n_pixels; p++)
        pixel(job, job->ptr + p, job->acc + (ptrdiff_t)p * BB_TILE_STRIDE);
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
        .group_bytes = (size_t)desc->in_channels,
        .depthwise = true,
        .in_place = true,
        .transform = copy,
        .block = block,
    };

    bb_route_segments(desc, &route);
    route.block_bytes = ((size_t)route.segments * BLOCK * sizeof(int16_t) + 63) / 64 * 64;
    return route;
}

static void put(const bb_conv_route *route, uint8_t *dst, int32_t lane, int32_t segment,
                const int16_t *weights, int32_t n) {
    (void)route, (void)n;
    ((int16_t *)(void *)dst)[segment * BLOCK + lane] = weights[0];
}

/** In the unit of conv_narrow.h, by instruction counts. */
static double cost(const bb_conv_desc *desc) {
    const bb_conv_route route = route_of(desc);

    return (double)desc->out_height * desc->out_width * ((desc->out_channels + BLOCK - 1) / BLOCK) *
           (route.segments * 4.2 + 10);
}

BB_WALK_FUNCTIONS(route_of, put)

const bb_conv_kernel bb_conv_depthwise_neon = {.name = "conv_depthwise_neon",
                                               .cpu = BB_CPU_NEON,
                                               .supports = supports,
                                               .cost = cost,
                                               .packed_size = packed_size,
                                               .pack = pack,
                                               .scratch_size = scratch_size,
                                               .run = run};
#endif
