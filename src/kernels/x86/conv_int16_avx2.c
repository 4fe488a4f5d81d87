/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file conv_int16_avx2.c
 * Codes widened to 16 bits times 16-bit weights, 32-bit accumulation, 16 channels x 6 pixels: for
 * pairs of bits whose byte products do not fit 16 bits (8x8) and for wide imported grids.
 *
 * vpmaddwd: 2 * 255 * 32768 < 2^25; sums stay below 2^31 by the model's bound (kernels.h).
 * Packed block: [segment][step][16 channels][2 activations] int16.
 */
#include "kernels/layout.h"
#include "kernels/registry.h"
#include "kernels/x86/madd_avx2.h"

#if BB_ARCH_X86_64

#include <string.h>

enum { BLOCK = 16, STEP = 64 };

static bool supports(const bb_conv_desc *desc) {
    return desc->max_weight <= 32767;
}

#define FIRST(fold) BB_MADD_EXPAND(BB_MADD_STEP_FIRST, "vpmaddwd", fold, BB_MADD_ROWS)

BB_AVX2 static void loop(bb_madd_args *args) {
    BB_MADD_LOOP("", FIRST, BB_MADD_STEP("vpmaddwd", "vpaddd"), BB_MADD_SET_32, BB_MADD_SET_32);
}

static void block_tile(const bb_tile_job *job) {
    bb_madd_args args = bb_madd_args_of(job);

    loop(&args);
}

static void prepare(const bb_conv_route *route, void *work) {
    bb_madd_make_plan(route, INT32_MAX, work);
}

/** One pixel (fully connected) and block. */
BB_AVX2 static void single(const bb_tile_job *job, int32_t block) {
    const __m256i *w = (const void *)(job->weights + (size_t)block * job->route->block_bytes);
    int32_t *acc = job->acc + (ptrdiff_t)block * BLOCK;
    __m256i a0 = _mm256_setzero_si256(), a1 = a0;

    for (int32_t s = 0; s < job->route->segments; s++) {
        const uint8_t *codes = job->ptr[s];

        for (int32_t i = 0; i < job->route->steps; i++, codes += 4, w += 2) {
            int32_t two;
            __m256i u;

            memcpy(&two, codes, 4);
            u = _mm256_set1_epi32(two);
            a0 = _mm256_add_epi32(a0, _mm256_madd_epi16(u, w[0]));
            a1 = _mm256_add_epi32(a1, _mm256_madd_epi16(u, w[1]));
        }
    }
    _mm256_storeu_si256((void *)acc, a0);
    _mm256_storeu_si256((void *)(acc + 8), a1);
}

static void block_single(const bb_tile_job *job) {
    for (int32_t i = 0; i < job->n_blocks; i++)
        single(job, i);
}

static void transform(const bb_conv_desc *desc, const uint8_t *codes, int32_t n, uint8_t *dst,
                      size_t part_bytes, int32_t *sums) {
    (void)part_bytes, (void)sums;
    bb_widen_avx2(desc, codes, n, dst);
}

static bb_conv_route route_of(const bb_conv_desc *desc) {
    const bool one = desc->out_height * desc->out_width == 1;
    bb_conv_route route = {
        .pixels = one ? 1 : 6,
        .block_channels = BLOCK,
        .group_bytes = 2 * (size_t)(desc->in_channels / desc->groups),
        .transform = transform,
        .block = one ? block_single : block_tile,
        .joined = true,
        .prepare = prepare,
    };

    bb_route_segments(desc, &route);
    route.steps = bb_div_up(bb_segment_length(desc), 2);
    route.block_bytes = (size_t)route.segments * (size_t)route.steps * STEP;
    route.work_bytes = bb_madd_plan_bytes(&route, INT32_MAX);
    return route;
}

static double cost(const bb_conv_desc *desc) {
    const bb_conv_route route = route_of(desc);
    const int32_t pixels = desc->out_height * desc->out_width;
    const double tiles = bb_div_up(pixels, route.pixels);
    const double blocks =
        (double)desc->groups * bb_div_up(desc->out_channels / desc->groups, BLOCK);
    const double step = route.pixels == 1 ? 2.5 : 7;

    return tiles * (blocks * (route.segments * (double)route.steps * step + 10) + 60);
}

static void put(const bb_conv_route *route, uint8_t *block, int32_t lane, int32_t segment,
                const int16_t *weights, int32_t n) {
    int16_t *dst = (int16_t *)(void *)block + (size_t)segment * (size_t)route->steps * (STEP / 2) +
                   (size_t)lane * 2;

    for (int32_t i = 0; i < n; i++)
        dst[(size_t)(i / 2) * (STEP / 2) + (size_t)(i % 2)] = weights[i];
}

BB_WALK_FUNCTIONS(route_of, put)

const bb_conv_kernel bb_conv_int16_avx2 = {.name = "conv_int16_avx2",
                                           .cpu = BB_CPU_AVX2,
                                           .supports = supports,
                                           .cost = cost,
                                           .packed_size = packed_size,
                                           .pack = pack,
                                           .scratch_size = scratch_size,
                                           .run = run};

#endif
