/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file conv_depthwise_avx2.c
 * Depthwise convolution: 32 channels in lanes, taps taken in pairs.
 *
 * Codes of two taps are interleaved, so that one multiply-add covers both. Bytes where
 * T = floor(32767 / (2*A*w)) pairs fit 16-bit lanes (widened every T pairs), else 16-bit products
 * with 32-bit sums: 2 * 255 * 32767 < 2^25 a pair, and sums below 2^31 by the model's bound.
 *
 * Packed block of 32 channels, per pair of taps: {w_a, w_b} of each channel in the order in which
 * unpack instructions leave channels: bytes 0-7 16-23 | 8-15 24-31, or 16-bit 0-7 8-15 16-23 24-31.
 */
#include "kernels/registry.h"
#include "kernels/x86/avx2.h"

#if BB_ARCH_X86_64

#include <string.h>

enum {
    BLOCK = 32,
    PIXELS = 8,
    PAIRS_MIN = 3 /**< shorter schedules lose to 16-bit products */
};

static bool supports(const bb_conv_desc *desc) {
    return desc->groups > 1 && desc->groups == desc->in_channels &&
           desc->groups == desc->out_channels && desc->max_weight <= 32767;
}

static int32_t exact_pairs(const bb_conv_desc *desc) {
    const int32_t weight = desc->max_weight > 0 ? desc->max_weight : 1;

    if (weight > 127)
        return 0;
    return 32767 / (2 * ((1 << desc->activation_bits) - 1) * weight);
}

BB_AVX2 static inline void add_words(__m256i *sum, __m256i words) {
    sum[0] = _mm256_add_epi32(sum[0], _mm256_cvtepi16_epi32(_mm256_castsi256_si128(words)));
    sum[1] = _mm256_add_epi32(sum[1], _mm256_cvtepi16_epi32(_mm256_extracti128_si256(words, 1)));
}

/** Channels come as sum[0..3] = 0-7, 16-23, 8-15, 24-31. */
BB_AVX2 static inline void store_sums(int32_t *acc, const __m256i sum[4]) {
    _mm256_storeu_si256((void *)acc, sum[0]);
    _mm256_storeu_si256((void *)(acc + 8), sum[2]);
    _mm256_storeu_si256((void *)(acc + 16), sum[1]);
    _mm256_storeu_si256((void *)(acc + 24), sum[3]);
}

/** ptr[tap * PIXELS]; the partner of a last single tap has weight 0. */
BB_AVX2 static void pixel_bytes(const bb_tile_job *job, const uint8_t *const *ptr, int32_t *acc) {
    const int32_t taps = job->route->segments, pairs = job->route->steps;
    const __m256i zero = _mm256_setzero_si256();
    const __m256i *w = (const void *)job->weights;
    __m256i sum[4] = {zero, zero, zero, zero};

    for (int32_t i = 0; i < pairs;) {
        const int32_t left = pairs - i;
        const int32_t end = i + (left < job->route->schedule ? left : job->route->schedule);
        __m256i lo = zero, hi = zero;

        for (; i < end; i++, w += 2) {
            const int32_t second = 2 * i + 1 < taps ? 2 * i + 1 : 2 * i;
            const uint8_t *a = ptr[2 * i * PIXELS] + job->channel;
            const uint8_t *b = ptr[second * PIXELS] + job->channel;
            const __m256i ua = _mm256_loadu_si256((const void *)a);
            const __m256i ub = _mm256_loadu_si256((const void *)b);

            lo = _mm256_add_epi16(lo, _mm256_maddubs_epi16(_mm256_unpacklo_epi8(ua, ub), w[0]));
            hi = _mm256_add_epi16(hi, _mm256_maddubs_epi16(_mm256_unpackhi_epi8(ua, ub), w[1]));
        }
        add_words(sum, lo);
        add_words(sum + 2, hi);
    }
    store_sums(acc, sum);
}

BB_AVX2 static inline __m256i madd_pairs(__m256i sum, __m128i pairs, const __m256i *w) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_cvtepu8_epi16(pairs), *w));
}

BB_AVX2 static void pixel_words(const bb_tile_job *job, const uint8_t *const *ptr, int32_t *acc) {
    const int32_t taps = job->route->segments, pairs = job->route->steps;
    const __m256i zero = _mm256_setzero_si256();
    const __m256i *w = (const void *)job->weights;
    __m256i sum[4] = {zero, zero, zero, zero};

    for (int32_t i = 0; i < pairs; i++, w += 4) {
        const int32_t second = 2 * i + 1 < taps ? 2 * i + 1 : 2 * i;
        const __m128i *a = (const void *)(ptr[2 * i * PIXELS] + job->channel);
        const __m128i *b = (const void *)(ptr[second * PIXELS] + job->channel);
        const __m128i a0 = _mm_loadu_si128(a), a1 = _mm_loadu_si128(a + 1);
        const __m128i b0 = _mm_loadu_si128(b), b1 = _mm_loadu_si128(b + 1);

        sum[0] = madd_pairs(sum[0], _mm_unpacklo_epi8(a0, b0), w);
        sum[2] = madd_pairs(sum[2], _mm_unpackhi_epi8(a0, b0), w + 1);
        sum[1] = madd_pairs(sum[1], _mm_unpacklo_epi8(a1, b1), w + 2);
        sum[3] = madd_pairs(sum[3], _mm_unpackhi_epi8(a1, b1), w + 3);
    }
    store_sums(acc, sum);
}

/* 3x3 unrolled: no loop control, pointers and weights at constant places. */
#define TAP(i) _mm256_loadu_si256((const void *)(ptr[(i)*PIXELS] + job->channel))
#define BYTE_PAIR(k, a, b)                                                                         \
    ua = a;                                                                                        \
    ub = b;                                                                                        \
    lo = _mm256_add_epi16(lo, _mm256_maddubs_epi16(_mm256_unpacklo_epi8(ua, ub), w[2 * (k)]));     \
    hi = _mm256_add_epi16(hi, _mm256_maddubs_epi16(_mm256_unpackhi_epi8(ua, ub), w[2 * (k) + 1]))

/** As pixel_bytes for nine taps whose five pairs fit the schedule. */
BB_AVX2 static inline void nine_bytes(const bb_tile_job *job, const uint8_t *const *ptr,
                                      int32_t *acc) {
    const __m256i *w = (const void *)job->weights;
    __m256i ua = TAP(0), ub = TAP(1);
    __m256i lo = _mm256_maddubs_epi16(_mm256_unpacklo_epi8(ua, ub), w[0]);
    __m256i hi = _mm256_maddubs_epi16(_mm256_unpackhi_epi8(ua, ub), w[1]);

    BYTE_PAIR(1, TAP(2), TAP(3));
    BYTE_PAIR(2, TAP(4), TAP(5));
    BYTE_PAIR(3, TAP(6), TAP(7));
    BYTE_PAIR(4, TAP(8), ua);
    _mm256_storeu_si256((void *)acc, _mm256_cvtepi16_epi32(_mm256_castsi256_si128(lo)));
    _mm256_storeu_si256((void *)(acc + 8), _mm256_cvtepi16_epi32(_mm256_castsi256_si128(hi)));
    _mm256_storeu_si256((void *)(acc + 16), _mm256_cvtepi16_epi32(_mm256_extracti128_si256(lo, 1)));
    _mm256_storeu_si256((void *)(acc + 24), _mm256_cvtepi16_epi32(_mm256_extracti128_si256(hi, 1)));
}

BB_AVX2 static void block_nine_bytes(const bb_tile_job *job) {
    for (int32_t p = 0; p < job->n_pixels; p++)
        nine_bytes(job, job->ptr + p, job->acc + p * BB_TILE_STRIDE);
}

BB_AVX2 static void block_bytes(const bb_tile_job *job) {
    for (int32_t p = 0; p < job->n_pixels; p++)
        pixel_bytes(job, job->ptr + p, job->acc + p * BB_TILE_STRIDE);
}

BB_AVX2 static void block_words(const bb_tile_job *job) {
    for (int32_t p = 0; p < job->n_pixels; p++)
        pixel_words(job, job->ptr + p, job->acc + p * BB_TILE_STRIDE);
}

static void transform(const bb_conv_desc *desc, const uint8_t *codes, int32_t n, uint8_t *dst,
                      size_t part_bytes, int32_t *sums) {
    (void)part_bytes, (void)sums;
    memcpy(dst, codes, (size_t)n * (size_t)desc->in_channels);
}

static bb_conv_route route_of(const bb_conv_desc *desc) {
    const int32_t exact = exact_pairs(desc);
    const bool bytes = exact >= PAIRS_MIN;
    bb_conv_route route = {
        .pixels = PIXELS,
        .block_channels = BLOCK,
        .group_bytes = (size_t)desc->in_channels,
        .depthwise = true,
        .in_place = true,
        .transform = transform,
        .block = bytes ? block_bytes : block_words,
        .schedule = exact,
        .variant = bytes ? 1 : 2, /* bytes of a weight */
    };

    bb_route_segments(desc, &route);
    route.steps = (route.segments + 1) / 2;
    if (bytes && route.segments == 9 && exact >= route.steps)
        route.block = block_nine_bytes;
    route.block_bytes = (size_t)route.steps * 2 * BLOCK * (size_t)route.variant;
    return route;
}

static double cost(const bb_conv_desc *desc) {
    const bb_conv_route route = route_of(desc);
    const double blocks = (desc->out_channels + BLOCK - 1) / BLOCK;
    const double pixels = (double)desc->out_height * desc->out_width;

    return pixels * blocks * (route.steps * (route.variant == 1 ? 2.5 : 5.0) + 8);
}

static void put(const bb_conv_route *route, uint8_t *block, int32_t lane, int32_t segment,
                const int16_t *weights, int32_t n) {
    /* Where unpacklo/unpackhi of 256-bit vectors leave an octet of channels. */
    static const uint8_t octet_of_bytes[4] = {0, 2, 1, 3};
    const int32_t octet = route->variant == 1 ? octet_of_bytes[lane / 8] : lane / 8;
    const int32_t at = (segment / 2 * BLOCK + octet * 8 + lane % 8) * 2 + segment % 2;

    (void)n;
    if (route->variant == 1)
        block[at] = (uint8_t)weights[0];
    else
        ((int16_t *)(void *)block)[at] = weights[0];
}

BB_WALK_FUNCTIONS(route_of, put)

const bb_conv_kernel bb_conv_depthwise_avx2 = {.name = "conv_depthwise_avx2",
                                               .cpu = BB_CPU_AVX2,
                                               .supports = supports,
                                               .cost = cost,
                                               .packed_size = packed_size,
                                               .pack = pack,
                                               .scratch_size = scratch_size,
                                               .run = run};

#endif
