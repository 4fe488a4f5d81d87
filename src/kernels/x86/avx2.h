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

/**
 * Whether additions of bytes that never pass 255 should saturate. Zen 5 shuffles on two pipes and
 * adds with saturation on the other two: 1.9 pairs of them a cycle where plain additions, which go
 * anywhere, get 1.7 with vpshufb. On Zen 3 it is 1.5 to 1.7; there is no difference on Intel cores.
 * AVX-VNNI tells Zen 5 from its predecessors.
 */
bool bb_saturating_adds_avx2(void);
/** Entry i of table x: the sum of those of the four two-bit numbers in x whose bit of i is set. */
extern const uint8_t bb_two_bit_tables_avx2[256][16];
/** Entry i of table x: the bits of x & i in the low nibble, those of (x >> 4) & i in the high one.
 */
extern const uint8_t bb_bit_pair_tables_avx2[256][16];
/** 64 codes of one bit, four to a byte. Bytes that are no codes only reach bits above those of the
 *  codes before them. */
BB_AVX2 static inline __m128i bb_nibbles_avx2(const uint8_t *codes) {
    const __m256i bits = _mm256_set1_epi32(0x08040201), ones = _mm256_set1_epi16(1);
    const __m256i low = _mm256_set1_epi32(15);
    const __m256i u0 = _mm256_loadu_si256((const void *)codes);
    const __m256i u1 = _mm256_loadu_si256((const void *)(codes + 32));
    const __m256i a = _mm256_madd_epi16(_mm256_maddubs_epi16(u0, bits), ones);
    const __m256i b = _mm256_madd_epi16(_mm256_maddubs_epi16(u1, bits), ones);
    const __m256i both = _mm256_packus_epi32(_mm256_and_si256(a, low), _mm256_and_si256(b, low));
    const __m256i words = _mm256_permute4x64_epi64(both, 0xd8);

    return _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}

/** acc[0..15] = (acc or start) + (sums << shift) for 16-bit sums. */
BB_AVX2 static inline void bb_add_sums_avx2(int32_t *acc, __m256i sums, __m128i shift, bool first,
                                            __m256i start) {
    const __m256i lo = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(sums));
    const __m256i hi = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(sums, 1));
    __m256i *dst = (void *)acc;

    _mm256_storeu_si256(dst, _mm256_add_epi32(_mm256_sll_epi32(lo, shift),
                                              first ? start : _mm256_loadu_si256(dst)));
    _mm256_storeu_si256(dst + 1, _mm256_add_epi32(_mm256_sll_epi32(hi, shift),
                                                  first ? start : _mm256_loadu_si256(dst + 1)));
}

/** The codes of n pixels as 16-bit words. Up to 15 codes more are read, and as many words written.
 */
void bb_widen_avx2(const bb_conv_desc *desc, const uint8_t *codes, int32_t n, uint8_t *dst);
/** bb_conv_route's gather. */
void bb_gather_avx2(const uint8_t *const *rows, int32_t n_rows, size_t step, size_t bytes,
                    int32_t n, uint8_t *dst, size_t window_bytes);
/** bb_conv_route's sum_windows; reads up to 31 bytes behind the last one. */
void bb_sum_windows_avx2(const uint8_t *windows, size_t step, int32_t length, int32_t n,
                         int32_t *sums);
/** Channel sums of n pixels: sums[n][groups]. Reads up to 31 bytes behind the last pixel. */
void bb_sum_pixels_avx2(const bb_conv_desc *desc, const uint8_t *codes, int32_t n, int32_t *sums);

#endif
#endif
