/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file conv_int8_avx2.c
 * u8 codes times s8 weights, 16-bit accumulation, 16 channels x 6 pixels.
 *
 * vpmaddubsw adds two products: at most 2*A*w in magnitude for A = 2^M-1 and the largest weight w.
 * 16-bit lanes therefore hold T = floor(32767 / (2*A*w)) steps of four activations exactly; then
 * they are widened (vpmaddwd with ones) into an int32 tile in L1 (madd_avx2.h).
 * Fully connected layers, which wait for weights and not for products, take codes of more bits in
 * two nibbles, u = lo + 16*hi, each with sums of its own: so bytes hold what needs words elsewhere.
 * Two forms of weights: *direct*, b + o itself, where it fits and T stays long; *halved*,
 * v' = floor((b+o)/2) with b+o = 2v' + parity, parity constant per channel, so that
 * acc = 2*sum(u v') + parity*sum(u). The halved form doubles T and fits one more bit.
 *
 * Packed block: [segment][step][16 channels][4 activations] s8, then 16 int32 parities.
 */
#include "kernels/layout.h"
#include "kernels/registry.h"
#include "kernels/x86/madd_avx2.h"

#if BB_ARCH_X86_64

#include <string.h>

enum {
    BLOCK = 16,
    STEP = 64, /**< packed bytes of one step of four activations */
    DIRECT = 0,
    HALVED = 1,
    DIRECT_MIN = 32,  /**< the direct form is taken down to this T: the fold is then under 5 % */
    CHUNK_MIN = 4,    /**< below, widening every step in registers is faster */
    NIBBLES_BELOW = 8 /**< a fully connected layer of shorter schedules takes codes in nibbles */
};

static int32_t halved_max(const bb_conv_desc *desc) {
    return bb_div_up(desc->max_weight, 2);
}

static bool is_single(const bb_conv_desc *desc) {
    return desc->out_height * desc->out_width == 1;
}

static bool supports(const bb_conv_desc *desc) {
    return desc->max_weight <= 255 &&
           (is_single(desc) || bb_exact_steps(desc->activation_bits, halved_max(desc)) > 0);
}

#define FIRST_16(fold) BB_MADD_EXPAND(BB_MADD_STEP_FIRST, "vpmaddubsw", fold, BB_MADD_ROWS)

/** 16-bit sums, widened every T steps. */
BB_AVX2 static void loop_16bit(bb_madd_args *args) {
    BB_MADD_LOOP("", FIRST_16, BB_MADD_STEP("vpmaddubsw", "vpaddw"), BB_MADD_SET_16,
                 BB_MADD_ADD_16);
}

/* clang-format off */
/* ymm14 holds words of 1; the weights come from memory. */
#define PRODUCT_WIDE(p, a, b)                                                                      \
    "vpmaddubsw (%%rdx), %%ymm12, %%ymm" a "\n\t"                                                  \
    "vpmaddubsw 32(%%rdx), %%ymm12, %%ymm" b "\n\t"                                                \
    "vpmaddwd %%ymm14, %%ymm" a ", %%ymm" a "\n\t"                                                 \
    "vpmaddwd %%ymm14, %%ymm" b ", %%ymm" b "\n\t"
#define PIXEL_WIDE(p, a, b)                                                                        \
    "vpbroadcastd (%%" p ",%%rax), %%ymm12\n\t"                                                    \
    PRODUCT_WIDE(p, "13", "12")                                                                    \
    "vpaddd %%ymm13, %%ymm" a ", %%ymm" a "\n\t"                                                   \
    "vpaddd %%ymm12, %%ymm" b ", %%ymm" b "\n\t"
#define STEP_WIDE                                                                                  \
    PIXEL_WIDE("r8", "0", "1")                                                                     \
    PIXEL_WIDE("r9", "2", "3")                                                                     \
    PIXEL_WIDE("r10", "4", "5")                                                                    \
    PIXEL_WIDE("r11", "6", "7")                                                                    \
    PIXEL_WIDE("r12", "8", "9")                                                                    \
    PIXEL_WIDE("r13", "10", "11")
#define PIXEL_WIDE_FIRST(fold, at, p, a, b)                                                        \
    "vpbroadcastd (%%" p ",%%rax), %%ymm12\n\t"                                                    \
    fold(at, "0", a)                                                                               \
    fold(at, "32", b)                                                                              \
    PRODUCT_WIDE(p, a, b)
#define FIRST_WIDE(fold)                                                                           \
    PIXEL_WIDE_FIRST(fold, "0", "r8", "0", "1")                                                    \
    PIXEL_WIDE_FIRST(fold, "256", "r9", "2", "3")                                                  \
    PIXEL_WIDE_FIRST(fold, "512", "r10", "4", "5")                                                 \
    PIXEL_WIDE_FIRST(fold, "768", "r11", "6", "7")                                                 \
    PIXEL_WIDE_FIRST(fold, "1024", "r12", "8", "9")                                                \
    PIXEL_WIDE_FIRST(fold, "1280", "r13", "10", "11")
/* clang-format on */

/** 32-bit sums in registers: any T >= 1. */
BB_AVX2 static void loop_32bit(bb_madd_args *args) {
    BB_MADD_LOOP("vmovdqa %1, %%ymm14\n\t", FIRST_WIDE, STEP_WIDE, BB_MADD_SET_32, BB_MADD_SET_32);
}

/** acc = 2*acc + parity*sum(u) of one block. */
BB_AVX2 static void finish_halved(const bb_tile_job *job, int32_t block) {
    const uint8_t *parity = job->weights + (size_t)(block + 1) * job->route->block_bytes - STEP;
    const __m256i p0 = _mm256_load_si256((const void *)parity);
    const __m256i p1 = _mm256_load_si256((const void *)(parity + 32));

    for (int32_t p = 0; p < job->n_pixels; p++) {
        __m256i *acc = (void *)(job->acc + p * BB_TILE_STRIDE + block * BLOCK);
        const __m256i sum = _mm256_set1_epi32(job->sums[p]);
        const __m256i a0 = _mm256_slli_epi32(_mm256_loadu_si256(acc), 1);
        const __m256i a1 = _mm256_slli_epi32(_mm256_loadu_si256(acc + 1), 1);

        _mm256_storeu_si256(acc, _mm256_add_epi32(a0, _mm256_and_si256(p0, sum)));
        _mm256_storeu_si256(acc + 1, _mm256_add_epi32(a1, _mm256_and_si256(p1, sum)));
    }
}

static void finish(const bb_tile_job *job) {
    for (int32_t i = 0; job->route->variant == HALVED && i < job->n_blocks; i++)
        finish_halved(job, i);
}

static void block_tile(const bb_tile_job *job) {
    bb_madd_args args = bb_madd_args_of(job);

    if (job->route->schedule < CHUNK_MIN)
        loop_32bit(&args);
    else
        loop_16bit(&args);
    finish(job);
}

/** Steps between two folds. */
static int32_t held_steps(const bb_conv_route *route) {
    return route->schedule < CHUNK_MIN ? INT32_MAX : route->schedule;
}

static void prepare(const bb_conv_route *route, void *work) {
    bb_madd_make_plan(route, held_steps(route), work);
}

/** The four codes at `codes` in every lane. */
BB_AVX2 static inline __m256i four_codes(const uint8_t *codes) {
    int32_t four;

    memcpy(&four, codes, 4);
    return _mm256_set1_epi32(four);
}

/** Adds the products of some steps, few enough for 16-bit sums. */
BB_AVX2 static inline void add_part(const uint8_t *codes, const __m256i *w, int32_t steps,
                                    __m256i sum[2]) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i a0 = _mm256_setzero_si256(), a1 = a0;

    for (int32_t i = 0; i < steps; i++, codes += 4, w += 2) {
        const __m256i u = four_codes(codes);

        a0 = _mm256_add_epi16(a0, _mm256_maddubs_epi16(u, w[0]));
        a1 = _mm256_add_epi16(a1, _mm256_maddubs_epi16(u, w[1]));
    }
    sum[0] = _mm256_add_epi32(sum[0], _mm256_madd_epi16(a0, ones));
    sum[1] = _mm256_add_epi32(sum[1], _mm256_madd_epi16(a1, ones));
}

/** As add_part for both nibbles of the codes, so that weights are read once. */
BB_AVX2 __attribute__((always_inline)) static inline void
add_nibbles(const uint8_t *low, const uint8_t *high, const __m256i *w, int32_t steps,
            __m256i sum[2]) {
    const __m256i factors = _mm256_set1_epi16(16), ones = _mm256_set1_epi16(1);
    __m256i a0 = _mm256_setzero_si256(), a1 = a0, b0 = a0, b1 = a0;

#pragma GCC unroll 8
    for (int32_t i = 0; i < steps; i++, low += 4, high += 4, w += 2) {
        const __m256i u = four_codes(low), v = four_codes(high);
        __m256i w0 = w[0], w1 = w[1];

        __asm__("" : "+x"(w0), "+x"(w1)); /* loaded once: gcc makes them memory operands twice */
        a0 = _mm256_add_epi16(a0, _mm256_maddubs_epi16(u, w0));
        a1 = _mm256_add_epi16(a1, _mm256_maddubs_epi16(u, w1));
        b0 = _mm256_add_epi16(b0, _mm256_maddubs_epi16(v, w0));
        b1 = _mm256_add_epi16(b1, _mm256_maddubs_epi16(v, w1));
    }
    a0 = _mm256_add_epi32(_mm256_madd_epi16(a0, ones), _mm256_madd_epi16(b0, factors));
    a1 = _mm256_add_epi32(_mm256_madd_epi16(a1, ones), _mm256_madd_epi16(b1, factors));
    sum[0] = _mm256_add_epi32(sum[0], a0);
    sum[1] = _mm256_add_epi32(sum[1], a1);
}

/** One pixel (fully connected) and block: two row vectors, widened every `schedule` steps. */
BB_AVX2 static void single(const bb_tile_job *job, int32_t block) {
    const bb_conv_route *route = job->route;
    const __m256i *w = (const void *)(job->weights + (size_t)block * route->block_bytes);
    int32_t *acc = job->acc + (ptrdiff_t)block * BLOCK;
    __m256i sum[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};

    for (int32_t s = 0; s < route->segments; s++)
        for (int32_t i = 0, n; i < route->steps; i += n, w += 2 * n) {
            const uint8_t *codes = job->ptr[s] + (ptrdiff_t)i * 4;

            n = route->steps - i < route->schedule ? route->steps - i : route->schedule;
            if (route->parts == 2 && n == 8) /* unrolled: 13 -> 15 products a cycle at w8a8 */
                add_nibbles(codes, codes + job->part_bytes, w, 8, sum);
            else if (route->parts == 2)
                add_nibbles(codes, codes + job->part_bytes, w, n, sum);
            else
                add_part(codes, w, n, sum);
        }
    _mm256_storeu_si256((void *)acc, sum[0]);
    _mm256_storeu_si256((void *)(acc + 8), sum[1]);
}

static void block_single(const bb_tile_job *job) {
    for (int32_t i = 0; i < job->n_blocks; i++)
        single(job, i);
    finish(job);
}

BB_AVX2 static void transform(const bb_conv_desc *desc, const uint8_t *codes, int32_t n,
                              uint8_t *dst, size_t part_bytes, int32_t *sums) {
    (void)part_bytes;
    memcpy(dst, codes, (size_t)n * (size_t)desc->in_channels);
    if (sums)
        bb_sum_pixels_avx2(desc, codes, n, sums);
}

/** The codes' low nibbles and, a part further on, their high ones. */
BB_AVX2 static void split(const bb_conv_desc *desc, const uint8_t *codes, int32_t n, uint8_t *dst,
                          size_t part_bytes, int32_t *sums) {
    const size_t total = (size_t)n * (size_t)desc->in_channels;
    const __m256i nibble = _mm256_set1_epi8(15);

    for (size_t i = 0; i < total; i += 32) {
        const __m256i u = _mm256_loadu_si256((const void *)(codes + i));
        const __m256i high = _mm256_and_si256(_mm256_srli_epi16(u, 4), nibble);

        _mm256_storeu_si256((void *)(dst + i), _mm256_and_si256(u, nibble));
        _mm256_storeu_si256((void *)(dst + part_bytes + i), high);
    }
    if (sums)
        bb_sum_pixels_avx2(desc, codes, n, sums);
}

static bb_conv_route route_of(const bb_conv_desc *desc) {
    const bool one = is_single(desc);
    const bool nibbles =
        one && bb_exact_steps(desc->activation_bits, halved_max(desc)) < NIBBLES_BELOW;
    const uint32_t bits = nibbles ? 4 : desc->activation_bits;
    const int32_t direct = desc->max_weight <= 127 ? bb_exact_steps(bits, desc->max_weight) : 0;
    bb_conv_route route = {
        .pixels = one ? 1 : 6,
        .block_channels = BLOCK,
        .group_bytes = (size_t)(desc->in_channels / desc->groups),
        .parts = nibbles ? 2 : 1,
        .transform = nibbles ? split : transform,
        .block = one ? block_single : block_tile,
        .joined = true,
        .prepare = prepare,
        .variant = direct >= DIRECT_MIN ? DIRECT : HALVED,
    };

    bb_route_segments(desc, &route);
    route.steps = bb_div_up(bb_segment_length(desc), 4);
    route.schedule = route.variant == DIRECT ? direct : bb_exact_steps(bits, halved_max(desc));
    route.in_place = route.variant == DIRECT && !nibbles;
    route.wants_sums = route.variant == HALVED;
    route.block_bytes = ((size_t)route.segments * (size_t)route.steps + 1) * STEP;
    route.work_bytes = bb_madd_plan_bytes(&route, held_steps(&route));
    return route;
}

/** Cycles: 50 products a cycle, fewer where the schedule is short, plus work per tile. */
static double cost(const bb_conv_desc *desc) {
    const bb_conv_route route = route_of(desc);
    const int32_t pixels = desc->out_height * desc->out_width;
    const double tiles = bb_div_up(pixels, route.pixels);
    const double blocks =
        (double)desc->groups * bb_div_up(desc->out_channels / desc->groups, BLOCK);
    const double steps = (double)route.segments * route.steps;
    const double step = route.parts == 2             ? 3.3
                        : route.pixels == 1          ? 2.2
                        : route.schedule < CHUNK_MIN ? 12.7
                                                     : 7;
    const double folds = route.schedule < CHUNK_MIN ? 0 : steps / route.schedule;

    return tiles * (blocks * (steps * step + folds * 7 + 20) + 60);
}

static void put(const bb_conv_route *route, uint8_t *block, int32_t lane, int32_t segment,
                const int16_t *weights, int32_t n) {
    bb_put_bytes(route, block, lane, segment, weights, n, route->variant == HALVED);
}

BB_WALK_FUNCTIONS(route_of, put)

const bb_conv_kernel bb_conv_int8_avx2 = {.name = "conv_int8_avx2",
                                          .cpu = BB_CPU_AVX2,
                                          .supports = supports,
                                          .cost = cost,
                                          .packed_size = packed_size,
                                          .pack = pack,
                                          .scratch_size = scratch_size,
                                          .run = run};

#endif
