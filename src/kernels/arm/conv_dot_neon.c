/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file conv_dot_neon.c
 * Signed dot products (sdot) of four activations, 32-bit sums at once: 16 channels x 4 pixels.
 *
 * sdot is signed, so 8-bit codes are stored as u - 128 and 128 * sum(w) is added back, over all
 * taps, padded ones included. Weights b + o itself where |b + o| <= 127 (direct), else halved,
 * b + o = 2v' + parity, acc = 2*sum(u v') + parity*sum(u). Sums stay below 2^31 by the model's
 * bound (kernels.h); intermediate ones wrap harmlessly.
 * Packed block: [segment][step][16 channels][4 activations] s8, int32 sums of weights, then int32
 * parity masks.
 */
#include "kernels/registry.h"
#include "kernels/walk.h"

#if BB_ARCH_NEON64

#include <arm_neon.h>
#include <string.h>

#if defined(__clang__)
#define BB_DOT __attribute__((target("dotprod")))
#else
#define BB_DOT __attribute__((target("arch=armv8.2-a+dotprod")))
#endif

enum { BLOCK = 16, STEP = 64, PIXELS = 4, TRAILER = 128, DIRECT = 0, HALVED = 1 };

static bool supports(const bb_conv_desc *desc) {
    return desc->max_weight <= 255;
}

/** What transform takes off every code. */
static int32_t bias_of(const bb_conv_desc *desc) {
    return desc->activation_bits > 7 ? 128 : 0;
}

BB_DOT static inline int8x16_t four_codes(const uint8_t *codes) {
    int32_t four;

    memcpy(&four, codes, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
}

/** vdotq_s32, which clang before 16 only declares where the whole file is compiled for it. */
BB_DOT static inline int32x4_t dot(int32x4_t sum, int8x16_t a, int8x16_t b) {
    __asm__("sdot %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(a), "w"(b));
    return sum;
}

/** Adds back the bias, then undoes the halving. */
BB_DOT static void finish(const bb_tile_job *job, int32_t p, int32x4_t acc[4]) {
    const bb_conv_route *route = job->route;
    const int32_t *sums = (const void *)(job->weights + route->block_bytes - TRAILER);

    for (int v = 0; v < 4; v++) {
        int32x4_t a = vmlaq_n_s32(acc[v], vld1q_s32(sums + v * 4), route->extra);

        if (route->variant == HALVED)
            a = vaddq_s32(vshlq_n_s32(a, 1),
                          vandq_s32(vld1q_s32(sums + BLOCK + v * 4), vdupq_n_s32(job->sums[p])));
        vst1q_s32(job->acc + p * BB_TILE_STRIDE + v * 4, a);
    }
}

BB_DOT static void block(const bb_tile_job *job) {
    const bb_conv_route *route = job->route;
    const int8_t *w = (const void *)job->weights;
    int32x4_t acc[PIXELS][4];

    memset(acc, 0, sizeof(acc));
    for (int32_t s = 0; s < route->segments; s++) {
        const uint8_t *const *ptr = job->ptr + (ptrdiff_t)s * PIXELS;

        for (int32_t i = 0; i < route->steps; i++, w += STEP) {
            const int8x16_t w0 = vld1q_s8(w), w1 = vld1q_s8(w + 16);
            const int8x16_t w2 = vld1q_s8(w + 32), w3 = vld1q_s8(w + 48);

            for (int p = 0; p < PIXELS; p++) {
                const int8x16_t u = four_codes(ptr[p] + (ptrdiff_t)i * 4);

                acc[p][0] = dot(acc[p][0], w0, u);
                acc[p][1] = dot(acc[p][1], w1, u);
                acc[p][2] = dot(acc[p][2], w2, u);
                acc[p][3] = dot(acc[p][3], w3, u);
            }
        }
    }
    for (int32_t p = 0; p < job->n_pixels; p++)
        finish(job, p, acc[p]);
}

static void transform(const bb_conv_desc *desc, const uint8_t *codes, int32_t n, uint8_t *dst,
                      size_t part_bytes, int32_t *sums) {
    const int32_t depth = desc->in_channels / desc->groups;
    const uint8_t flip = (uint8_t)bias_of(desc);
    const size_t total = (size_t)n * (size_t)desc->in_channels;

    (void)part_bytes;
    for (size_t i = 0; i < total; i++)
        dst[i] = codes[i] ^ flip;
    for (int32_t i = 0; sums && i < n * desc->groups; i++) {
        sums[i] = 0; /* depth * 255 < 2^31 */
        for (int32_t d = 0; d < depth; d++)
            sums[i] += codes[(ptrdiff_t)i * depth + d];
    }
}

static bb_conv_route route_of(const bb_conv_desc *desc) {
    bb_conv_route route = {
        .pixels = PIXELS,
        .block_channels = BLOCK,
        .group_bytes = (size_t)(desc->in_channels / desc->groups),
        .transform = transform,
        .block = block,
        .variant = desc->max_weight <= 127 ? DIRECT : HALVED,
        .extra = bias_of(desc),
    };

    bb_route_segments(desc, &route);
    route.steps = (bb_segment_length(desc) + 3) / 4;
    route.in_place = route.variant == DIRECT && route.extra == 0;
    route.wants_sums = route.variant == HALVED;
    route.block_bytes = (size_t)route.segments * (size_t)route.steps * STEP + TRAILER;
    return route;
}

/** Paper estimate: two sdot a cycle. */
static double cost(const bb_conv_desc *desc) {
    const bb_conv_route route = route_of(desc);
    const double tiles =
        (double)(((int64_t)desc->out_height * desc->out_width + PIXELS - 1) / PIXELS);
    const double blocks =
        (double)desc->groups * ((desc->out_channels / desc->groups + BLOCK - 1) / BLOCK);

    return tiles * blocks * (route.segments * (double)route.steps * 9 + 60);
}

static void put(const bb_conv_route *route, uint8_t *block_bytes, int32_t lane, int32_t segment,
                const int16_t *weights, int32_t n) {
    int32_t *sums = (void *)(block_bytes + route->block_bytes - TRAILER);
    uint8_t *dst = block_bytes + (size_t)segment * (size_t)route->steps * STEP + (size_t)lane * 4;

    for (int32_t i = 0; i < n; i++) {
        const int32_t half = (weights[i] - (weights[i] & 1)) / 2;
        const int32_t w = route->variant == DIRECT ? weights[i] : half;

        dst[(size_t)(i / 4) * STEP + (size_t)(i % 4)] = (uint8_t)w;
        sums[lane] += w;
        sums[BLOCK + lane] = weights[i] & 1 ? -1 : 0;
    }
}

BB_WALK_FUNCTIONS(route_of, put)

const bb_conv_kernel bb_conv_dot_neon = {.name = "conv_dot_neon",
                                         .cpu = BB_CPU_NEON | BB_CPU_DOTPROD,
                                         .supports = supports,
                                         .cost = cost,
                                         .packed_size = packed_size,
                                         .pack = pack,
                                         .scratch_size = scratch_size,
                                         .run = run};

#endif
