/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file conv_int16_avx2.c
 * Codes widened to 16 bits times 16-bit weights, 32-bit accumulation, 16 channels x 6 pixels: for
 * pairs of bits whose byte products do not fit 16 bits (8x8) and for wide imported grids.
 *
 * vpmaddwd: 2 * 255 * 32768 < 2^25; sums stay below 2^31 by the model's bound (kernels.h).
 * Packed block: [segment][step][16 channels][2 activations] int16.
 */
#include "kernels/registry.h"
#include "kernels/x86/avx2.h"

#if BB_ARCH_X86_64

#include <string.h>

enum { BLOCK = 16, STEP = 64 };

typedef struct loop_args {
    const uint8_t *const *ptr; /* 0 */
    const uint8_t *weights;    /* 8 */
    int32_t *acc;              /* 16 */
    int64_t segments;          /* 24 */
    int64_t bytes;             /* 32: of a segment */
} loop_args;

static bool supports(const bb_conv_desc *desc) {
    return desc->max_weight <= 32767;
}

#define PIXEL(p, a, b)                                                                             \
    "vpbroadcastd (%%" p ",%%rax), %%ymm12\n\t"                                                    \
    "vpmaddwd %%ymm14, %%ymm12, %%ymm13\n\t"                                                       \
    "vpmaddwd %%ymm15, %%ymm12, %%ymm12\n\t"                                                       \
    "vpaddd %%ymm13, %%ymm" a ", %%ymm" a "\n\t"                                                   \
    "vpaddd %%ymm12, %%ymm" b ", %%ymm" b "\n\t"

#define STORE(offset, a, b)                                                                        \
    "vmovdqu %%ymm" a ", " offset "(%%rcx)\n\t"                                                    \
    "vmovdqu %%ymm" b ", 32+" offset "(%%rcx)\n\t"

/** The whole window of one block for six pixels. */
BB_AVX2 static void loop(const loop_args *args) {
    __asm__ volatile(
        "movq (%0), %%rsi\n\t"
        "movq 8(%0), %%rdx\n\t"
        "movq 24(%0), %%rbx\n\t"
        "movq 32(%0), %%r15\n\t" BB_ASM_CLEAR ".p2align 4\n"
        "1:\n\t" BB_ASM_POINTERS "xorl %%eax, %%eax\n\t"
        ".p2align 4\n"
        "2:\n\t"
        "vmovdqa (%%rdx), %%ymm14\n\t"
        "vmovdqa 32(%%rdx), %%ymm15\n\t" PIXEL("r8", "0", "1") PIXEL("r9", "2", "3")
            PIXEL("r10", "4", "5") PIXEL("r11", "6", "7") PIXEL("r12", "8", "9")
                PIXEL("r13", "10", "11") "addq $64, %%rdx\n\t"
                                         "addq $4, %%rax\n\t"
                                         "cmpq %%r15, %%rax\n\t"
                                         "jl 2b\n\t"
                                         "decq %%rbx\n\t"
                                         "jnz 1b\n\t"
                                         "movq 16(%0), %%rcx\n\t" STORE("0", "0", "1")
                                             STORE("256", "2", "3") STORE("512", "4", "5")
                                                 STORE("768", "6", "7") STORE("1024", "8", "9")
                                                     STORE("1280", "10", "11") "vzeroupper\n\t"
        :
        : "D"(args)
        : BB_ASM_CLOBBERS);
}

static void block_tile(const bb_tile_job *job) {
    const loop_args args = {job->ptr, job->weights, job->acc, job->route->segments,
                            4 * (int64_t)job->route->steps};

    loop(&args);
}

/** One pixel (fully connected). */
BB_AVX2 static void block_single(const bb_tile_job *job) {
    const __m256i *w = (const void *)job->weights;
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
    _mm256_storeu_si256((void *)job->acc, a0);
    _mm256_storeu_si256((void *)(job->acc + 8), a1);
}

/** Widens codes; up to 15 more than n*channels are read and written. */
BB_AVX2 static void transform(const bb_conv_desc *desc, const uint8_t *codes, int32_t n,
                              uint8_t *dst, size_t part_bytes, int32_t *sums) {
    const size_t total = (size_t)n * (size_t)desc->in_channels;

    (void)part_bytes, (void)sums;
    for (size_t i = 0; i < total; i += 16) {
        const __m128i u = _mm_loadu_si128((const void *)(codes + i));

        _mm256_storeu_si256((void *)(dst + 2 * i), _mm256_cvtepu8_epi16(u));
    }
}

static bb_conv_route route_of(const bb_conv_desc *desc) {
    const bool single = desc->out_height * desc->out_width == 1;
    bb_conv_route route = {
        .pixels = single ? 1 : 6,
        .block_channels = BLOCK,
        .group_bytes = 2 * (size_t)(desc->in_channels / desc->groups),
        .transform = transform,
        .block = single ? block_single : block_tile,
    };

    bb_route_segments(desc, &route);
    route.steps = (bb_segment_length(desc) + 1) / 2;
    route.block_bytes = (size_t)route.segments * (size_t)route.steps * STEP;
    return route;
}

static double cost(const bb_conv_desc *desc) {
    const bb_conv_route route = route_of(desc);
    const double tiles = (double)desc->out_height * desc->out_width / route.pixels;
    const double blocks =
        (double)desc->groups * ((desc->out_channels / desc->groups + BLOCK - 1) / BLOCK);
    const double step = route.pixels == 1 ? 2.2 : 7.6;

    return tiles * blocks * (route.segments * (double)route.steps * step + 50);
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
