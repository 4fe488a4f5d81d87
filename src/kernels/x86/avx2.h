/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file avx2.h
 * What the AVX2 kernels share. Functions carry their target in an attribute, so that every file
 * compiles without -mavx2; inner loops are inline assembly with fixed registers, because both
 * gcc 12 and clang 14 spill when 12 accumulators, 2 operands and 2 temporaries are live.
 */
#ifndef BB_KERNELS_X86_AVX2_H
#define BB_KERNELS_X86_AVX2_H

#include "kernels/walk.h"

#if BB_ARCH_X86_64

#include <immintrin.h>

#define BB_AVX2 __attribute__((target("avx2")))

/** Everything the 2 x 6 loops touch: six pixel pointers in r8-r13, offset in rax. */
#define BB_ASM_CLOBBERS                                                                            \
    "rax", "rbx", "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",       \
        "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",   \
        "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "memory", "cc"

/** "dst = 0" of the 12 accumulators. */
#define BB_ASM_CLEAR                                                                               \
    "vpxor %%xmm0, %%xmm0, %%xmm0\n\tvpxor %%xmm1, %%xmm1, %%xmm1\n\t"                             \
    "vpxor %%xmm2, %%xmm2, %%xmm2\n\tvpxor %%xmm3, %%xmm3, %%xmm3\n\t"                             \
    "vpxor %%xmm4, %%xmm4, %%xmm4\n\tvpxor %%xmm5, %%xmm5, %%xmm5\n\t"                             \
    "vpxor %%xmm6, %%xmm6, %%xmm6\n\tvpxor %%xmm7, %%xmm7, %%xmm7\n\t"                             \
    "vpxor %%xmm8, %%xmm8, %%xmm8\n\tvpxor %%xmm9, %%xmm9, %%xmm9\n\t"                             \
    "vpxor %%xmm10, %%xmm10, %%xmm10\n\tvpxor %%xmm11, %%xmm11, %%xmm11\n\t"

/** Loads six pixel pointers from (rsi) and moves on to the next segment's. */
#define BB_ASM_POINTERS                                                                            \
    "movq (%%rsi), %%r8\n\tmovq 8(%%rsi), %%r9\n\tmovq 16(%%rsi), %%r10\n\t"                       \
    "movq 24(%%rsi), %%r11\n\tmovq 32(%%rsi), %%r12\n\tmovq 40(%%rsi), %%r13\n\t"                  \
    "addq $48, %%rsi\n\t"

/** Sum of n bytes at codes; reads up to 31 bytes more. n <= 2^23: below 2^31. */
BB_AVX2 static inline int32_t bb_sum_bytes_avx2(const uint8_t *codes, int32_t n) {
    const __m256i zero = _mm256_setzero_si256();
    __m256i sum = zero;
    __m128i half;
    int32_t i = 0;

    for (; i + 32 <= n; i += 32)
        sum = _mm256_add_epi64(
            sum, _mm256_sad_epu8(_mm256_loadu_si256((const void *)(codes + i)), zero));
    if (i < n) {
        const __m256i lane =
            _mm256_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19,
                             20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31);
        const __m256i keep = _mm256_cmpgt_epi8(_mm256_set1_epi8((char)(n - i)), lane);
        const __m256i codes_left = _mm256_loadu_si256((const void *)(codes + i));

        sum = _mm256_add_epi64(sum, _mm256_sad_epu8(_mm256_and_si256(codes_left, keep), zero));
    }
    half = _mm_add_epi64(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    return _mm_cvtsi128_si32(_mm_add_epi32(half, _mm_unpackhi_epi64(half, half)));
}

/** Channel sums of n pixels: sums[n][groups]. */
BB_AVX2 static inline void bb_sum_pixels_avx2(const bb_conv_desc *desc, const uint8_t *codes,
                                              int32_t n, int32_t *sums) {
    const int32_t depth = desc->in_channels / desc->groups;
    const int32_t total = n * desc->groups;

    for (int32_t i = 0; i < total; i++)
        sums[i] = bb_sum_bytes_avx2(codes + (ptrdiff_t)i * depth, depth);
}

#endif
#endif
