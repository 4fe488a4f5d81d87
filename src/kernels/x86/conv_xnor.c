/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file conv_xnor.c
 * The paper's plain form for M = K = 1: xor and popcount of bit planes (docs: paper eq. for
 * sum a*b = n - 2*popcount(C ^ D)), with AVX2 (byte look-up) and AVX-512 (vpopcntd).
 *
 * With u in {0,1} and b in {-1,+1}: acc = sum u*b = #{b = +1} - popcount(U ^ W). Bits past the
 * depth are 0 in both operands and so count nothing. Popcounts are at most the depth, below 2^31.
 *
 * Transformed pixel: bits of a group, padded to 32. Packed block: [segment][step][16 channels]
 * words of 32 weight bits, then 16 int32 counts of +1.
 */
#include "kernels/registry.h"
#include "kernels/x86/avx2.h"

#if BB_ARCH_X86_64

#include <string.h>

#define BB_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512vpopcntdq")))

enum { BLOCK = 16, STEP = 64, WORD = 32, BYTE_STEPS = 31 /* 31 * 8 <= 255 */ };

static bool supports(const bb_conv_desc *desc) {
    return desc->activation_bits == 1 && desc->weight_bits == 1 && desc->native;
}

/** One bit per code; reads up to 31 codes past a pixel. */
BB_AVX2 static void transform(const bb_conv_desc *desc, const uint8_t *codes, int32_t n,
                              uint8_t *dst, size_t part_bytes, int32_t *sums) {
    const int32_t depth = desc->in_channels / desc->groups;

    (void)part_bytes, (void)sums;
    for (int32_t i = 0; i < n * desc->groups; i++, codes += depth)
        for (int32_t d = 0; d < depth; d += WORD, dst += 4) {
            const __m256i u = _mm256_loadu_si256((const void *)(codes + d));
            uint32_t bits = (uint32_t)_mm256_movemask_epi8(_mm256_slli_epi16(u, 7));

            if (depth - d < WORD)
                bits &= (1u << (depth - d)) - 1;
            memcpy(dst, &bits, 4);
        }
}

/** Popcounts of the bytes of x. */
BB_AVX2 static inline __m256i count_bytes(__m256i x) {
    const __m256i nibble = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1,
                                            2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i lo = _mm256_and_si256(x, low);
    const __m256i hi = _mm256_and_si256(_mm256_srli_epi16(x, 4), low);

    return _mm256_add_epi8(_mm256_shuffle_epi8(nibble, lo), _mm256_shuffle_epi8(nibble, hi));
}

/** 32-bit sums of byte counts. */
BB_AVX2 static inline __m256i widen_bytes(__m256i bytes) {
    const __m256i words = _mm256_maddubs_epi16(bytes, _mm256_set1_epi8(1));

    return _mm256_madd_epi16(words, _mm256_set1_epi16(1));
}

/** One segment of one pixel added to sum[0..1]. */
BB_AVX2 static inline void count_segment(const uint8_t *bits, const __m256i *w, int32_t steps,
                                         __m256i sum[2]) {
    for (int32_t i = 0; i < steps;) {
        const int32_t end = steps - i < BYTE_STEPS ? steps : i + BYTE_STEPS;
        __m256i c0 = _mm256_setzero_si256(), c1 = c0;

        for (; i < end; i++, bits += 4, w += 2) {
            int32_t word;
            __m256i u;

            memcpy(&word, bits, 4);
            u = _mm256_set1_epi32(word);
            c0 = _mm256_add_epi8(c0, count_bytes(_mm256_xor_si256(u, w[0])));
            c1 = _mm256_add_epi8(c1, count_bytes(_mm256_xor_si256(u, w[1])));
        }
        sum[0] = _mm256_add_epi32(sum[0], widen_bytes(c0));
        sum[1] = _mm256_add_epi32(sum[1], widen_bytes(c1));
    }
}

BB_AVX2 static void block_avx2(const bb_tile_job *job) {
    const bb_conv_route *route = job->route;
    const __m256i *w = (const void *)job->weights;
    const __m256i *plus = (const void *)(job->weights + route->block_bytes - STEP);

    for (int32_t p = 0; p < job->n_pixels; p++) {
        __m256i sum[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
        __m256i *acc = (void *)(job->acc + p * BB_TILE_STRIDE);

        for (int32_t s = 0; s < route->segments; s++)
            count_segment(job->ptr[s * route->pixels + p], w + (ptrdiff_t)s * route->steps * 2,
                          route->steps, sum);
        _mm256_storeu_si256(acc, _mm256_sub_epi32(plus[0], sum[0]));
        _mm256_storeu_si256(acc + 1, _mm256_sub_epi32(plus[1], sum[1]));
    }
}

static bb_conv_route route_of(const bb_conv_desc *desc) {
    const int32_t depth = desc->in_channels / desc->groups;
    const int32_t words = (depth + WORD - 1) / WORD;
    bb_conv_route route = {
        .pixels = desc->out_height * desc->out_width == 1 ? 1 : 6,
        .block_channels = BLOCK,
        .group_bytes = (size_t)words * 4,
        .transform = transform,
        .block = block_avx2,
        .depth = depth,
    };

    bb_route_segments(desc, &route);
    route.steps = (int32_t)(route.segment_bytes / 4);
    route.block_bytes = ((size_t)route.segments * (size_t)route.steps + 1) * STEP;
    return route;
}

/** Cycles: `step` for a word of 16 channels and one of `pixels` pixels, `rest` beside the words. */
static double cost_of(const bb_conv_desc *desc, double step, double rest, double pixels) {
    const bb_conv_route route = route_of(desc);
    const double blocks =
        (double)desc->groups * ((desc->out_channels / desc->groups + BLOCK - 1) / BLOCK);
    const double input = (double)desc->in_height * desc->in_width * desc->in_channels;

    return pixels * blocks * (route.segments * (double)route.steps * step + rest) + 0.1 * input;
}

static double cost_avx2(const bb_conv_desc *desc) {
    return cost_of(desc, 4.9, 8, (double)desc->out_height * desc->out_width);
}

static void put(const bb_conv_route *route, uint8_t *block, int32_t lane, int32_t segment,
                const int16_t *weights, int32_t n) {
    uint32_t *words =
        (uint32_t *)(void *)block + (size_t)segment * (size_t)route->steps * BLOCK + (size_t)lane;
    int32_t *plus = (int32_t *)(void *)(block + route->block_bytes - STEP);
    const int32_t tap_words = (int32_t)(route->group_bytes / 4);

    for (int32_t i = 0; i < n; i++) {
        const int32_t d = i % route->depth;
        const size_t word = (size_t)(i / route->depth * tap_words + d / WORD);

        if (weights[i] > 0) {
            words[word * BLOCK] |= 1u << (d % WORD);
            plus[lane]++;
        }
    }
}

BB_WALK_FUNCTIONS(route_of, put)

const bb_conv_kernel bb_conv_xnor_avx2 = {
    .name = "conv_xnor_avx2",
    .cpu = BB_CPU_AVX2,
    .supports = supports,
    .cost = cost_avx2,
    .packed_size = packed_size,
    .pack = pack,
    .scratch_size = scratch_size,
    .run = run,
};

enum { WIDE_PIXELS = 6 };

/** Assembly, because gcc 12 otherwise adds to a copy and moves it back. */
BB_AVX512 __attribute__((always_inline)) static inline void add_to(__m512i *sum, __m512i x) {
    __asm__("vpaddd %1, %0, %0" : "+v"(*sum) : "v"(x));
}

/** `blocks` blocks side by side: known at compile time in each caller, so that sums are registers.
 */
BB_AVX512 __attribute__((always_inline)) static inline void
count_blocks(const bb_tile_job *job, const uint8_t *w, int32_t *acc, int blocks) {
    const bb_conv_route *route = job->route;
    const size_t second = route->block_bytes;
    __m512i sum[2][WIDE_PIXELS];

    for (int p = 0; p < WIDE_PIXELS; p++)
        for (int b = 0; b < blocks; b++)
            sum[b][p] = _mm512_setzero_si512();
    for (int32_t s = 0; s < route->segments; s++) {
        const uint8_t *const *ptr = job->ptr + (ptrdiff_t)s * WIDE_PIXELS;

        for (ptrdiff_t i = 0; i < (ptrdiff_t)route->steps * 4; i += 4, w += STEP) {
            __m512i weights[2];

            for (int b = 0; b < blocks; b++)
                weights[b] = _mm512_load_si512(w + (size_t)b * second);
            for (int p = 0; p < WIDE_PIXELS; p++) {
                __m512i word;
                int32_t bits;

                memcpy(&bits, ptr[p] + i, 4);
                word = _mm512_set1_epi32(bits);
                for (int b = 0; b < blocks; b++)
                    add_to(&sum[b][p], _mm512_popcnt_epi32(_mm512_xor_si512(weights[b], word)));
            }
        }
    }
    for (int b = 0; b < blocks; b++) {
        const __m512i plus = _mm512_load_si512(w + (size_t)b * second);

        for (int p = 0; p < WIDE_PIXELS; p++)
            _mm512_storeu_si512(acc + (ptrdiff_t)p * BB_TILE_STRIDE + (ptrdiff_t)b * BLOCK,
                                _mm512_sub_epi32(plus, sum[b][p]));
    }
}

BB_AVX512 static void block_avx512(const bb_tile_job *job) {
    const uint8_t *w = job->weights;
    int32_t b = 0;

    for (; b + 2 <= job->n_blocks; b += 2, w += 2 * job->route->block_bytes)
        count_blocks(job, w, job->acc + (ptrdiff_t)b * BLOCK, 2);
    if (b < job->n_blocks)
        count_blocks(job, w, job->acc + (ptrdiff_t)b * BLOCK, 1);
}

static bb_conv_route route_avx512(const bb_conv_desc *desc) {
    bb_conv_route route = route_of(desc);

    route.pixels = WIDE_PIXELS;
    route.joined = true;
    route.block = block_avx512;
    return route;
}

static size_t scratch_avx512(const bb_conv_desc *desc) {
    const bb_conv_route route = route_avx512(desc);

    return bb_walk_scratch_size(desc, &route);
}

static void run_avx512(const bb_conv_desc *desc, const void *packed, const uint8_t *in, int32_t y0,
                       int32_t y1, void *scratch, bb_tile_fn tile, void *user) {
    const bb_conv_route route = route_avx512(desc);

    bb_walk_run(desc, &route, packed, in, y0, y1, scratch, tile, user);
}

static double cost_avx512(const bb_conv_desc *desc) {
    const double tiles = (double)(((int64_t)desc->out_height * desc->out_width + 5) / 6);

    return cost_of(desc, 0.73, 2.6, 6 * tiles);
}

const bb_conv_kernel bb_conv_xnor_avx512 = {
    .name = "conv_xnor_avx512",
    .cpu = BB_CPU_AVX2 | BB_CPU_AVX512 | BB_CPU_AVX512_POPCNT,
    .supports = supports,
    .cost = cost_avx512,
    .packed_size = packed_size,
    .pack = pack,
    .scratch_size = scratch_avx512,
    .run = run_avx512,
};

#endif
