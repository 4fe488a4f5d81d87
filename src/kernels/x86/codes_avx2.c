/* SPDX-License-Identifier: Apache-2.0 */
/** @file codes_avx2.c  Channel sums of pixels, four at a time; codes as words; windows of short
 *  rows; the kind of processor. */
#include "kernels/x86/avx2.h"

#if BB_ARCH_X86_64

bool bb_saturating_adds_avx2(void) {
    static _Atomic int known; /* 0: not asked yet; 1: plain; 2: saturating */
    int kind = known;

    if (kind == 0)
        known = kind = bb_cpu_detect() & BB_CPU_AVX_VNNI ? 2 : 1;
    return kind == 2;
}

/** The n <= 31 first bytes of 32. */
BB_AVX2 static inline __m256i first_bytes(int32_t n) {
    const __m256i lane =
        _mm256_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20,
                         21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31);

    return _mm256_cmpgt_epi8(_mm256_set1_epi8((char)n), lane);
}

/** Four partial sums of n bytes at codes; reads up to 31 bytes more. n <= 2^23: below 2^31. */
BB_AVX2 static inline __m256i sum_bytes(const uint8_t *codes, int32_t n, __m256i tail) {
    const __m256i zero = _mm256_setzero_si256();
    __m256i sum = zero;
    int32_t i = 0;

    for (; i + 32 <= n; i += 32)
        sum = _mm256_add_epi64(
            sum, _mm256_sad_epu8(_mm256_loadu_si256((const void *)(codes + i)), zero));
    if (i < n) {
        const __m256i left = _mm256_loadu_si256((const void *)(codes + i));

        sum = _mm256_add_epi64(sum, _mm256_sad_epu8(_mm256_and_si256(left, tail), zero));
    }
    return sum;
}

/** Total of the partial sums of each of a to d. */
BB_AVX2 static inline __m128i total(__m256i a, __m256i b, __m256i c, __m256i d) {
    const __m256i ab = _mm256_add_epi64(a, _mm256_slli_epi64(b, 32));
    const __m256i cd = _mm256_add_epi64(c, _mm256_slli_epi64(d, 32));
    const __m256i lo = _mm256_permute2x128_si256(ab, cd, 0x20);
    const __m256i hi = _mm256_permute2x128_si256(ab, cd, 0x31);
    const __m256i half = _mm256_add_epi32(lo, hi);
    const __m256i all = _mm256_add_epi32(half, _mm256_shuffle_epi32(half, 0x4e));

    return _mm_unpacklo_epi64(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
}

/** Up to four pixels of 1..4 channels at once. */
BB_AVX2 static void sum_shallow(const uint8_t *codes, int32_t depth, int32_t n, int32_t *sums) {
    const __m128i ones8 = _mm_set1_epi8(1), ones16 = _mm_set1_epi16(1);
    uint8_t from[16];
    __m128i spread;
    int32_t i = 0;

    for (int32_t b = 0; b < 16; b++)
        from[b] = (uint8_t)(b % 4 < depth ? b / 4 * depth + b % 4 : 255);
    spread = _mm_loadu_si128((const void *)from);
    for (; i + 4 <= n; i += 4, codes += (ptrdiff_t)4 * depth) {
        const __m128i u = _mm_shuffle_epi8(_mm_loadu_si128((const void *)codes), spread);

        _mm_storeu_si128((void *)(sums + i), _mm_madd_epi16(_mm_maddubs_epi16(u, ones8), ones16));
    }
    for (; i < n; i++, codes += depth) {
        sums[i] = 0;
        for (int32_t d = 0; d < depth; d++)
            sums[i] += codes[d];
    }
}

BB_AVX2 void bb_sum_windows_avx2(const uint8_t *windows, size_t step, int32_t length, int32_t n,
                                 int32_t *sums) {
    const __m256i tail = first_bytes(length % 32), zero = _mm256_setzero_si256();
    int32_t i = 0;

    for (; i + 4 <= n; i += 4, windows += 4 * step)
        _mm_storeu_si128((void *)(sums + i), total(sum_bytes(windows, length, tail),
                                                   sum_bytes(windows + step, length, tail),
                                                   sum_bytes(windows + 2 * step, length, tail),
                                                   sum_bytes(windows + 3 * step, length, tail)));
    for (; i < n; i++, windows += step)
        sums[i] = _mm_cvtsi128_si32(total(sum_bytes(windows, length, tail), zero, zero, zero));
}

void bb_sum_pixels_avx2(const bb_conv_desc *desc, const uint8_t *codes, int32_t n, int32_t *sums) {
    const int32_t depth = desc->in_channels / desc->groups, pixels = n * desc->groups;

    if (depth <= 4)
        sum_shallow(codes, depth, pixels, sums);
    else
        bb_sum_windows_avx2(codes, (size_t)depth, depth, pixels, sums);
}

BB_AVX2 void bb_widen_avx2(const bb_conv_desc *desc, const uint8_t *codes, int32_t n,
                           uint8_t *dst) {
    const size_t total = (size_t)n * (size_t)desc->in_channels;

    for (size_t i = 0; i < total; i += 16) {
        const __m128i u = _mm_loadu_si128((const void *)(codes + i));

        _mm256_storeu_si256((void *)(dst + 2 * i), _mm256_cvtepu8_epi16(u));
    }
}

/** n_rows known at compile time keeps the pointers in registers. */
BB_AVX2 __attribute__((always_inline)) static inline void
gather_rows(const uint8_t *const *rows, int32_t n_rows, size_t step, size_t bytes, int32_t n,
            uint8_t *dst, size_t window_bytes) {
    const uint8_t *from[8];

    for (int32_t i = 0; i < n_rows; i++)
        from[i] = rows[i];
    for (size_t x = 0; x < (size_t)n; x++, dst += window_bytes)
        for (int32_t i = 0; i < n_rows; i++)
            _mm256_storeu_si256((void *)(dst + (size_t)i * bytes),
                                _mm256_loadu_si256((const void *)(from[i] + x * step)));
}

BB_AVX2 void bb_gather_avx2(const uint8_t *const *rows, int32_t n_rows, size_t step, size_t bytes,
                            int32_t n, uint8_t *dst, size_t window_bytes) {
    if (n_rows == 7) {
        gather_rows(rows, 7, step, bytes, n, dst, window_bytes);
    } else if (n_rows == 3) {
        gather_rows(rows, 3, step, bytes, n, dst, window_bytes);
    } else {
        for (size_t x = 0; x < (size_t)n; x++)
            for (int32_t i = 0; i < n_rows; i++)
                _mm256_storeu_si256((void *)(dst + x * window_bytes + (size_t)i * bytes),
                                    _mm256_loadu_si256((const void *)(rows[i] + x * step)));
    }
}

#endif
