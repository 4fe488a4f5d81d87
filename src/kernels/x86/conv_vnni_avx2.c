/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file conv_vnni_avx2.c
 * u8 codes times s8 weights with the 256-bit vpdpbusd of AVX-VNNI, for processors that have it
 * without AVX-512: 32-bit sums at once, no widening schedule. 16 channels x 6 pixels, up to four
 * blocks in a call.
 *
 * Weights and packed blocks as in conv_vnni_avx512.c: b + o itself where |b + o| <= 127 (direct),
 * else halved with window sums. vpdpbusd wraps, it does not saturate; the sums are below 2^31 by
 * the model's bound (kernels.h).
 */
#include "kernels/registry.h"
#include "kernels/x86/avx2.h"

#if BB_ARCH_X86_64 && BB_ASM_AVX_VNNI

#include <string.h>

enum { DIRECT = 0, HALVED = 1, BLOCK = 16, STEP = 4 * BLOCK, PIXELS = 6 };

typedef struct loop_args {
    const uint8_t *const *ptr; /* 0 */
    const uint8_t *weights;    /* 8 */
    int32_t *acc;              /* 16 */
    int64_t segments;          /* 24 */
    int64_t bytes;             /* 32: of a segment */
    const uint8_t *next;       /* 40: weights to fetch from far, 64 bytes a step */
} loop_args;

_Static_assert(offsetof(loop_args, next) == 40, "the assembly knows these offsets");

static bool supports(const bb_conv_desc *desc) {
    return desc->max_weight <= 255;
}

/* clang-format off */
/* The VEX form; assemblers take the AVX-512 one by default. */
#define DOT(w, codes, sum) "%{vex%} vpdpbusd %%ymm" w ", %%ymm" codes ", %%ymm" sum "\n\t"
#define PIXEL(p, codes, a, b)                                                                      \
    "vpbroadcastd (%%" p ",%%rax), %%ymm" codes "\n\t"                                             \
    DOT("12", codes, a)                                                                            \
    DOT("13", codes, b)
#define STORE(offset, a, next, b)                                                                  \
    "vmovdqu %%ymm" a ", " offset "(%%rcx)\n\t"                                                    \
    "vmovdqu %%ymm" b ", " next "(%%rcx)\n\t"

BB_AVX2 static void loop(const loop_args *args) {
    __asm__ volatile(
        "movq (%0), %%rsi\n\t"
        "movq 8(%0), %%rdx\n\t"
        "movq 24(%0), %%rbx\n\t"
        "movq 32(%0), %%r15\n\t"
        "movq 40(%0), %%r14\n\t"
        BB_ASM_CLEAR
        ".p2align 4\n"
    "1:\n\t" /* a segment */
        BB_ASM_POINTERS
        "xorl %%eax, %%eax\n\t"
        ".p2align 4\n"
    "2:\n\t"
        "vmovdqa (%%rdx), %%ymm12\n\t"
        "vmovdqa 32(%%rdx), %%ymm13\n\t"
        PIXEL("r8", "14", "0", "1")
        PIXEL("r9", "15", "2", "3")
        PIXEL("r10", "14", "4", "5")
        PIXEL("r11", "15", "6", "7")
        PIXEL("r12", "14", "8", "9")
        PIXEL("r13", "15", "10", "11")
        "prefetcht1 (%%r14)\n\t"
        "addq $64, %%r14\n\t"
        "addq $64, %%rdx\n\t"
        "addq $4, %%rax\n\t"
        "cmpq %%r15, %%rax\n\t"
        "jl 2b\n\t"
        "decq %%rbx\n\t"
        "jnz 1b\n\t"
        "movq 16(%0), %%rcx\n\t"
        STORE("0", "0", "32", "1")
        STORE("256", "2", "288", "3")
        STORE("512", "4", "544", "5")
        STORE("768", "6", "800", "7")
        STORE("1024", "8", "1056", "9")
        STORE("1280", "10", "1312", "11")
        "vzeroupper\n\t"
        :
        : "D"(args)
        : BB_ASM_CLOBBERS);
}
/* clang-format on */

/** acc = 2*acc + parity*sum(u) for one block; the parity masks end it. */
BB_AVX2 static void finish_halved(const bb_tile_job *job, int32_t block) {
    const uint8_t *end = job->weights + (size_t)(block + 1) * job->route->block_bytes;
    const __m256i lo = _mm256_load_si256((const void *)(end - STEP));
    const __m256i hi = _mm256_load_si256((const void *)(end - STEP / 2));

    for (int32_t p = 0; p < job->n_pixels; p++) {
        __m256i *acc =
            (void *)(job->acc + (ptrdiff_t)p * BB_TILE_STRIDE + (ptrdiff_t)block * BLOCK);
        const __m256i sum = _mm256_set1_epi32(job->sums[p]);
        const __m256i a = _mm256_slli_epi32(_mm256_loadu_si256(acc), 1);
        const __m256i b = _mm256_slli_epi32(_mm256_loadu_si256(acc + 1), 1);

        _mm256_storeu_si256(acc, _mm256_add_epi32(a, _mm256_and_si256(lo, sum)));
        _mm256_storeu_si256(acc + 1, _mm256_add_epi32(b, _mm256_and_si256(hi, sum)));
    }
}

static void block_tile(const bb_tile_job *job) {
    const bb_conv_route *route = job->route;
    loop_args args = {job->ptr, job->weights, job->acc, route->segments, 4 * (int64_t)route->steps,
                      job->next};

    for (int32_t b = 0; b < job->n_blocks; b++) {
        loop(&args);
        if (route->variant == HALVED)
            finish_halved(job, b);
        args.weights += route->block_bytes;
        args.acc += BLOCK;
        args.next += route->block_bytes / 4;
    }
}

BB_AVX2 static inline __m256i dot(__m256i sum, __m256i codes, const uint8_t *weights) {
    __asm__("%{vex%} vpdpbusd %2, %1, %0"
            : "+x"(sum)
            : "x"(codes), "m"(*(const __m256i *)(const void *)weights));
    return sum;
}

/** One pixel (fully connected): steps in turn to four pairs of sums, to hide vpdpbusd's latency. */
BB_AVX2 static void single(const bb_tile_job *job, int32_t block) {
    enum { CHAINS = 4 };
    const bb_conv_route *route = job->route;
    const uint8_t *w = job->weights + (size_t)block * route->block_bytes;
    int32_t *acc = job->acc + (ptrdiff_t)block * BLOCK;
    __m256i lo[CHAINS], hi[CHAINS];

    for (int i = 0; i < CHAINS; i++)
        lo[i] = hi[i] = _mm256_setzero_si256();
    for (int32_t s = 0; s < route->segments; s++) {
        const uint8_t *codes = job->ptr[s];

        for (int32_t i = 0; i < route->steps; i += CHAINS)
            for (int32_t j = 0; j < CHAINS && i + j < route->steps; j++, codes += 4, w += STEP) {
                int32_t four;

                memcpy(&four, codes, 4);
                lo[j] = dot(lo[j], _mm256_set1_epi32(four), w);
                hi[j] = dot(hi[j], _mm256_set1_epi32(four), w + STEP / 2);
            }
    }
    _mm256_storeu_si256((void *)acc, _mm256_add_epi32(_mm256_add_epi32(lo[0], lo[1]),
                                                      _mm256_add_epi32(lo[2], lo[3])));
    _mm256_storeu_si256((void *)(acc + 8), _mm256_add_epi32(_mm256_add_epi32(hi[0], hi[1]),
                                                            _mm256_add_epi32(hi[2], hi[3])));
}

static void block_single(const bb_tile_job *job) {
    for (int32_t b = 0; b < job->n_blocks; b++) {
        single(job, b);
        if (job->route->variant == HALVED)
            finish_halved(job, b);
    }
}

BB_AVX2 static void transform(const bb_conv_desc *desc, const uint8_t *codes, int32_t n,
                              uint8_t *dst, size_t part_bytes, int32_t *sums) {
    (void)part_bytes;
    memcpy(dst, codes, (size_t)n * (size_t)desc->in_channels);
    if (sums)
        bb_sum_pixels_avx2(desc, codes, n, sums);
}

static bb_conv_route route_of(const bb_conv_desc *desc) {
    const bool one = desc->out_height * desc->out_width == 1;
    bb_conv_route route = {
        .pixels = one ? 1 : PIXELS,
        .block_channels = BLOCK,
        .group_bytes = (size_t)(desc->in_channels / desc->groups),
        .transform = transform,
        .gather = bb_route_gathers(desc) ? bb_gather_avx2 : NULL,
        .sum_windows = bb_sum_windows_avx2,
        .block = one ? block_single : block_tile,
        .joined = true,
        .variant = desc->max_weight <= 127 ? DIRECT : HALVED,
    };

    bb_route_segments(desc, &route);
    route.steps = (bb_route_length(desc, &route) + 3) / 4;
    route.in_place = route.variant == DIRECT;
    route.wants_sums = route.variant == HALVED;
    route.block_bytes = ((size_t)route.segments * (size_t)route.steps + 1) * STEP;
    return route;
}

static double cost(const bb_conv_desc *desc) {
    const bb_conv_route route = route_of(desc);
    const double pixels = (double)desc->out_height * desc->out_width;
    const double tiles = (double)(int64_t)((pixels + route.pixels - 1) / route.pixels);
    const double blocks =
        (double)desc->groups * ((desc->out_channels / desc->groups + BLOCK - 1) / BLOCK);
    const double steps = (double)route.segments * route.steps;
    const double gather = route.gather ? pixels * (9 + 2.2 * desc->kernel[0]) : 0;

    return tiles * (blocks * (steps * (route.pixels == 1 ? 2.2 : 6.4) + 20) + 30 +
                    15 * route.segments) +
           gather;
}

static void put(const bb_conv_route *route, uint8_t *block, int32_t lane, int32_t segment,
                const int16_t *weights, int32_t n) {
    bb_put_bytes(route, block, lane, segment, weights, n, route->variant == HALVED);
}

BB_WALK_FUNCTIONS(route_of, put)

const bb_conv_kernel bb_conv_vnni_avx2 = {.name = "conv_vnni_avx2",
                                          .cpu = BB_CPU_AVX2 | BB_CPU_AVX_VNNI,
                                          .supports = supports,
                                          .cost = cost,
                                          .packed_size = packed_size,
                                          .pack = pack,
                                          .scratch_size = scratch_size,
                                          .run = run};

#endif
