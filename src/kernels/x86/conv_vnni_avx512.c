/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file conv_vnni_avx512.c
 * u8 codes times s8 weights with vpdpbusd: 32-bit sums at once, no widening schedule.
 * 16, 32 or 64 channels x 6 pixels.
 *
 * Weights b + o itself where |b + o| <= 127 (direct), else halved, b + o = 2v' + parity:
 * acc = 2*sum(u v') + parity*sum(u), parity constant per channel. vpdpbusd wraps, it does not
 * saturate; the sums are below 2^31 by the model's bound (kernels.h).
 * Packed block: [segment][step][channels][4 activations] s8, then int32 parity masks.
 */
#include "kernels/registry.h"
#include "kernels/x86/avx512.h"

#if BB_ARCH_X86_64

#include <string.h>

#define BB_VNNI __attribute__((target("avx2,avx512f,avx512bw,avx512vl,avx512vnni")))

enum { DIRECT = 0, HALVED = 1 };

typedef struct loop_args {
    const uint8_t *const *ptr; /* 0 */
    const uint8_t *weights;    /* 8 */
    int32_t *acc;              /* 16 */
    int64_t segments;          /* 24 */
    int64_t bytes;             /* 32: of a segment */
    const uint8_t *next;       /* 40: weights to fetch from far, 64 bytes a step */
    const int32_t *sums;       /* 48: of the pixels' windows where weights are halved, else NULL */
} loop_args;

_Static_assert(offsetof(loop_args, sums) == 48, "the assembly knows these offsets");

static bool supports(const bb_conv_desc *desc) {
    return desc->max_weight <= 255;
}

/* clang-format off */
#define CLEAR2(a, b)                                                                               \
    "vpxord %%zmm" a ", %%zmm" a ", %%zmm" a "\n\t"                                                \
    "vpxord %%zmm" b ", %%zmm" b ", %%zmm" b "\n\t"
#define CLEAR12                                                                                    \
    CLEAR2("0", "1") CLEAR2("2", "3") CLEAR2("4", "5")                                             \
    CLEAR2("6", "7") CLEAR2("8", "9") CLEAR2("10", "11")
#define CLEAR24                                                                                    \
    CLEAR12                                                                                        \
    CLEAR2("12", "13") CLEAR2("14", "15") CLEAR2("16", "17")                                       \
    CLEAR2("18", "19") CLEAR2("20", "21") CLEAR2("22", "23")

#define CODES(p) "vpbroadcastd (%%" p ",%%rax), %%zmm28\n\t"
#define DOT(w, a) "vpdpbusd %%zmm" w ", %%zmm28, %%zmm" a "\n\t"
#define LOAD(offset, w) "vmovdqa64 " offset "(%%rdx), %%zmm" w "\n\t"
#define STORE(offset, a) "vmovdqu64 %%zmm" a ", " offset "(%%rcx)\n\t"

#define PIXEL1(p, a) CODES(p) DOT("24", a)
#define PIXEL2(p, a, b) CODES(p) DOT("24", a) DOT("25", b)
#define PIXEL4(p, a, b, c, d) CODES(p) DOT("24", a) DOT("25", b) DOT("26", c) DOT("27", d)

/* a = 2*a + (parity & sum), the window sum in zmm28, parity masks in zmm24-27. */
#define SUM(offset) "vpbroadcastd " offset "(%%r15), %%zmm28\n\t"
#define HALF(w, a)                                                                                 \
    "vpandd %%zmm" w ", %%zmm28, %%zmm29\n\t"                                                      \
    "vpaddd %%zmm" a ", %%zmm" a ", %%zmm" a "\n\t"                                                \
    "vpaddd %%zmm29, %%zmm" a ", %%zmm" a "\n\t"
#define HALF1(offset, a) SUM(offset) HALF("24", a)
#define HALF2(offset, a, b) SUM(offset) HALF("24", a) HALF("25", b)
#define HALF4(offset, a, b, c, d)                                                                  \
    SUM(offset) HALF("24", a) HALF("25", b) HALF("26", c) HALF("27", d)

/* The parity masks lie where the weights end. */
#define LOOP(clear, load, pixels, step_bytes, halves, store)                                       \
    __asm__ volatile(                                                                              \
        "movq (%0), %%rsi\n\t"                                                                     \
        "movq 8(%0), %%rdx\n\t"                                                                    \
        "movq 24(%0), %%rbx\n\t"                                                                   \
        "movq 32(%0), %%r15\n\t"                                                                   \
        "movq 40(%0), %%r14\n\t"                                                                   \
        clear                                                                                      \
        ".p2align 4\n"                                                                             \
    "1:\n\t" /* a segment */                                                                       \
        BB_ASM_POINTERS                                                                            \
        "xorl %%eax, %%eax\n\t"                                                                    \
        ".p2align 4\n"                                                                             \
    "2:\n\t"                                                                                       \
        load                                                                                       \
        pixels                                                                                     \
        "prefetcht1 (%%r14)\n\t"                                                                   \
        "addq $64, %%r14\n\t"                                                                      \
        "addq $" step_bytes ", %%rdx\n\t"                                                          \
        "addq $4, %%rax\n\t"                                                                       \
        "cmpq %%r15, %%rax\n\t"                                                                    \
        "jl 2b\n\t"                                                                                \
        "decq %%rbx\n\t"                                                                           \
        "jnz 1b\n\t"                                                                               \
        "movq 48(%0), %%r15\n\t"                                                                   \
        "testq %%r15, %%r15\n\t"                                                                   \
        "jz 3f\n\t"                                                                                \
        load                                                                                       \
        halves                                                                                     \
    "3:\n\t"                                                                                       \
        "movq 16(%0), %%rcx\n\t"                                                                   \
        store                                                                                      \
        "vzeroupper\n\t"                                                                           \
        :                                                                                          \
        : "D"(args)                                                                                \
        : BB_ASM_CLOBBERS, BB_ASM_CLOBBERS_512)

/* What each width loads for a step, does with a pixel's codes and sums, and stores. */
#define LOAD_16 LOAD("0", "24")
#define PIXELS_16                                                                                  \
    PIXEL1("r8", "0")  PIXEL1("r9", "1")  PIXEL1("r10", "2")                                       \
    PIXEL1("r11", "3") PIXEL1("r12", "4") PIXEL1("r13", "5")
#define HALVES_16                                                                                  \
    HALF1("0", "0")  HALF1("4", "1")  HALF1("8", "2")                                              \
    HALF1("12", "3") HALF1("16", "4") HALF1("20", "5")
#define STORES_16                                                                                  \
    STORE("0", "0")   STORE("256", "1")  STORE("512", "2")                                         \
    STORE("768", "3") STORE("1024", "4") STORE("1280", "5")

#define LOAD_32 LOAD("0", "24") LOAD("64", "25")
#define PIXELS_32                                                                                  \
    PIXEL2("r8", "0", "1")  PIXEL2("r9", "2", "3")  PIXEL2("r10", "4", "5")                        \
    PIXEL2("r11", "6", "7") PIXEL2("r12", "8", "9") PIXEL2("r13", "10", "11")
#define HALVES_32                                                                                  \
    HALF2("0", "0", "1")  HALF2("4", "2", "3")  HALF2("8", "4", "5")                               \
    HALF2("12", "6", "7") HALF2("16", "8", "9") HALF2("20", "10", "11")
#define STORES_32                                                                                  \
    STORE("0", "0")     STORE("64", "1")                                                           \
    STORE("256", "2")   STORE("320", "3")                                                          \
    STORE("512", "4")   STORE("576", "5")                                                          \
    STORE("768", "6")   STORE("832", "7")                                                          \
    STORE("1024", "8")  STORE("1088", "9")                                                         \
    STORE("1280", "10") STORE("1344", "11")

#define LOAD_64 LOAD("0", "24") LOAD("64", "25") LOAD("128", "26") LOAD("192", "27")
#define PIXELS_64                                                                                  \
    PIXEL4("r8", "0", "1", "2", "3")                                                               \
    PIXEL4("r9", "4", "5", "6", "7")                                                               \
    PIXEL4("r10", "8", "9", "10", "11")                                                            \
    PIXEL4("r11", "12", "13", "14", "15")                                                          \
    PIXEL4("r12", "16", "17", "18", "19")                                                          \
    PIXEL4("r13", "20", "21", "22", "23")
#define HALVES_64                                                                                  \
    HALF4("0", "0", "1", "2", "3")                                                                 \
    HALF4("4", "4", "5", "6", "7")                                                                 \
    HALF4("8", "8", "9", "10", "11")                                                               \
    HALF4("12", "12", "13", "14", "15")                                                            \
    HALF4("16", "16", "17", "18", "19")                                                            \
    HALF4("20", "20", "21", "22", "23")
#define STORES_64                                                                                  \
    STORE("0", "0")     STORE("64", "1")    STORE("128", "2")   STORE("192", "3")                  \
    STORE("256", "4")   STORE("320", "5")   STORE("384", "6")   STORE("448", "7")                  \
    STORE("512", "8")   STORE("576", "9")   STORE("640", "10")  STORE("704", "11")                 \
    STORE("768", "12")  STORE("832", "13")  STORE("896", "14")  STORE("960", "15")                 \
    STORE("1024", "16") STORE("1088", "17") STORE("1152", "18") STORE("1216", "19")                \
    STORE("1280", "20") STORE("1344", "21") STORE("1408", "22") STORE("1472", "23")
/* clang-format on */

BB_VNNI static void loop_16(const loop_args *args) {
    LOOP(CLEAR12, LOAD_16, PIXELS_16, "64", HALVES_16, STORES_16);
}

BB_VNNI static void loop_32(const loop_args *args) {
    LOOP(CLEAR12, LOAD_32, PIXELS_32, "128", HALVES_32, STORES_32);
}

BB_VNNI static void loop_64(const loop_args *args) {
    LOOP(CLEAR24, LOAD_64, PIXELS_64, "256", HALVES_64, STORES_64);
}

static void block_tile(const bb_tile_job *job) {
    const bb_conv_route *route = job->route;
    const loop_args args = {.ptr = job->ptr,
                            .weights = job->weights,
                            .acc = job->acc,
                            .segments = route->segments,
                            .bytes = 4 * (int64_t)route->steps,
                            .next = job->next,
                            .sums = route->variant == HALVED ? job->sums : NULL};

    if (route->block_channels == 16)
        loop_16(&args);
    else if (route->block_channels == 32)
        loop_32(&args);
    else
        loop_64(&args);
}

/** acc = 2*acc + parity*sum(u). */
BB_VNNI static inline __m512i whole(__m512i acc, const uint8_t *parity, int32_t sum) {
    return _mm512_add_epi32(_mm512_slli_epi32(acc, 1),
                            _mm512_and_si512(_mm512_load_si512(parity), _mm512_set1_epi32(sum)));
}

/** One pixel (fully connected): 64 channels, weights streaming. */
BB_VNNI static void block_single(const bb_tile_job *job) {
    const uint8_t *w = job->weights;
    __m512i a0 = _mm512_setzero_si512(), a1 = a0, a2 = a0, a3 = a0;

    for (int32_t s = 0; s < job->route->segments; s++) {
        const uint8_t *codes = job->ptr[s];

        for (int32_t i = 0; i < job->route->steps; i++, codes += 4, w += 256) {
            int32_t four;
            __m512i u;

            memcpy(&four, codes, 4);
            u = _mm512_set1_epi32(four);
            a0 = _mm512_dpbusd_epi32(a0, u, _mm512_load_si512(w));
            a1 = _mm512_dpbusd_epi32(a1, u, _mm512_load_si512(w + 64));
            a2 = _mm512_dpbusd_epi32(a2, u, _mm512_load_si512(w + 128));
            a3 = _mm512_dpbusd_epi32(a3, u, _mm512_load_si512(w + 192));
        }
    }
    if (job->route->variant == HALVED) {
        a0 = whole(a0, w, job->sums[0]);
        a1 = whole(a1, w + 64, job->sums[0]);
        a2 = whole(a2, w + 128, job->sums[0]);
        a3 = whole(a3, w + 192, job->sums[0]);
    }
    _mm512_storeu_si512(job->acc, a0);
    _mm512_storeu_si512(job->acc + 16, a1);
    _mm512_storeu_si512(job->acc + 32, a2);
    _mm512_storeu_si512(job->acc + 48, a3);
}

/** Eight partial sums of a window's bytes; `tail` masks those of its last 64. */
BB_VNNI static inline __m512i sum_window(const uint8_t *codes, int32_t length, __mmask64 tail) {
    const __m512i zero = _mm512_setzero_si512();
    __m512i sum = zero;

    for (; length > 64; length -= 64, codes += 64)
        sum = _mm512_add_epi64(sum, _mm512_sad_epu8(_mm512_loadu_si512(codes), zero));
    return _mm512_add_epi64(sum, _mm512_sad_epu8(_mm512_maskz_loadu_epi8(tail, codes), zero));
}

/** Sums of two windows in the halves of each 64-bit lane; each total is below 2^31. */
BB_VNNI static inline __m512i sum_two(const uint8_t *codes, size_t step, int32_t length,
                                      __mmask64 tail) {
    return _mm512_add_epi64(sum_window(codes, length, tail),
                            _mm512_slli_epi64(sum_window(codes + step, length, tail), 32));
}

/** Neighbouring lanes added: those of a in the even lanes, those of b in the odd ones. */
BB_VNNI static inline __m512i add_lanes(__m512i a, __m512i b) {
    return _mm512_add_epi64(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

/** Quarters added in pairs: those of a, then those of b. */
BB_VNNI static inline __m512i add_quarters(__m512i a, __m512i b) {
    return _mm512_add_epi64(_mm512_shuffle_i64x2(a, b, 0x88), _mm512_shuffle_i64x2(a, b, 0xdd));
}

/** bb_conv_route's sum_windows, eight at a time. */
BB_VNNI static void sum_windows(const uint8_t *windows, size_t step, int32_t length, int32_t n,
                                int32_t *sums) {
    const __mmask64 tail = ~(__mmask64)0 >> ((64 - length % 64) % 64);
    int32_t i = 0;

    for (; i + 8 <= n; i += 8, windows += 8 * step) {
        const __m512i a = add_lanes(sum_two(windows, step, length, tail),
                                    sum_two(windows + 2 * step, step, length, tail));
        const __m512i b = add_lanes(sum_two(windows + 4 * step, step, length, tail),
                                    sum_two(windows + 6 * step, step, length, tail));
        const __m512i ab = add_quarters(a, b);

        _mm256_storeu_si256((void *)(sums + i), _mm512_castsi512_si256(add_quarters(ab, ab)));
    }
    bb_sum_windows_avx2(windows, step, length, n - i, sums + i);
}

BB_AVX2 static void transform(const bb_conv_desc *desc, const uint8_t *codes, int32_t n,
                              uint8_t *dst, size_t part_bytes, int32_t *sums) {
    (void)part_bytes;
    memcpy(dst, codes, (size_t)n * (size_t)desc->in_channels);
    if (sums)
        bb_sum_pixels_avx2(desc, codes, n, sums);
}

/** The widest block that wastes no more than narrower ones. */
static int32_t block_channels_for(int32_t channels) {
    const int32_t in16 = (channels + 15) / 16 * 16;

    if ((channels + 63) / 64 * 64 <= in16 + in16 / 8)
        return 64;
    return (channels + 31) / 32 * 32 <= in16 + in16 / 4 ? 32 : 16;
}

static bb_conv_route route_of(const bb_conv_desc *desc) {
    const bool single = desc->out_height * desc->out_width == 1;
    const int32_t channels = desc->out_channels / desc->groups;
    bb_conv_route route = {
        .pixels = single ? 1 : 6,
        .block_channels = single ? 64 : block_channels_for(channels),
        .group_bytes = (size_t)(desc->in_channels / desc->groups),
        .transform = transform,
        .gather = bb_route_gathers(desc) ? bb_gather_avx2 : NULL,
        .sum_windows = sum_windows,
        .block = single ? block_single : block_tile,
        .variant = desc->max_weight <= 127 ? DIRECT : HALVED,
    };

    bb_route_segments(desc, &route);
    route.steps = (bb_route_length(desc, &route) + 3) / 4;
    route.in_place = route.variant == DIRECT;
    route.wants_sums = route.variant == HALVED;
    route.block_bytes =
        ((size_t)route.segments * (size_t)route.steps + 1) * (size_t)route.block_channels * 4;
    return route;
}

static double cost(const bb_conv_desc *desc) {
    const bb_conv_route route = route_of(desc);
    const double pixels = (double)desc->out_height * desc->out_width;
    const double tiles = (double)(int64_t)((pixels + route.pixels - 1) / route.pixels);
    const int32_t channels = desc->out_channels / desc->groups;
    const double blocks =
        (double)desc->groups * ((channels + route.block_channels - 1) / route.block_channels);
    const double steps = (double)route.segments * route.steps;
    const double gather = route.gather ? pixels * (9 + 2.2 * desc->kernel[0]) : 0;
    const double step = route.pixels == 1            ? 4
                        : route.block_channels == 64 ? 12.6
                        : route.block_channels == 32 ? 6.4
                                                     : 4.4;

    return tiles * (blocks * (steps * step + 60) + 15 * route.segments) + gather;
}

static void put(const bb_conv_route *route, uint8_t *block, int32_t lane, int32_t segment,
                const int16_t *weights, int32_t n) {
    bb_put_bytes(route, block, lane, segment, weights, n, route->variant == HALVED);
}

BB_WALK_FUNCTIONS(route_of, put)

const bb_conv_kernel bb_conv_vnni_avx512 = {.name = "conv_vnni_avx512",
                                            .cpu = BB_CPU_AVX2 | BB_CPU_AVX512 | BB_CPU_AVX512_VNNI,
                                            .supports = supports,
                                            .cost = cost,
                                            .packed_size = packed_size,
                                            .pack = pack,
                                            .scratch_size = scratch_size,
                                            .run = run};

#endif
