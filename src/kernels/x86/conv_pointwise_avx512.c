/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file conv_pointwise_avx512.c
 * 1x1 layers with vpdpbusd: u8 codes times s8 weights, 32-bit sums at once (below 2^31 by the
 * model's bound; vpdpbusd wraps, it does not saturate). 28 accumulators: 16 channels x 28 pixels,
 * 32 x 14, 48 x 9 or 64 x 7, whichever leaves least idle. Images of 7, 14, 28... pixels a side are
 * whole tiles.
 *
 * Weights as in conv_vnni_avx512.c: b + o itself where |b + o| <= 127, else halved.
 */
#include "kernels/layout.h"
#include "kernels/pointwise.h"
#include "kernels/registry.h"
#include "kernels/x86/avx512.h"
#include "kernels/x86/pointwise_loop.h"

#if BB_ARCH_X86_64

#define BB_VNNI __attribute__((target("avx2,avx512f,avx512bw,avx512vl,avx512vnni")))

enum { LANES = 16, WIDTH_MAX = 4, SUMS = 28 /**< accumulators */ };

/** Offsets are known to the assembly. */
typedef struct loop_args {
    bb_pointwise_head head;
    int64_t pixel;       /* 48: bytes of a pixel's codes */
    int64_t skip;        /* 56: bytes from behind a tile's first pixel to the next tile */
    const int32_t *sums; /* 64 */
    const void *parity;  /* 72 */
} loop_args;

_Static_assert(offsetof(loop_args, pixel) == 48 && offsetof(loop_args, parity) == 72,
               "the assembly knows these offsets");

/* clang-format off */
#define CODES(at) "vpbroadcastd " at ", %%zmm28\n\t"
#define DOT(w, a) "vpdpbusd %%zmm" w ", %%zmm28, %%zmm" a "\n\t"
#define DOT_FROM(offset, a) "vpdpbusd " offset "(%%rdx), %%zmm28, %%zmm" a "\n\t"
#define LOAD(offset, w) "vmovdqu64 " offset "(%%rdx), %%zmm" w "\n\t"
#define CLEAR(a) "vpxord %%xmm" a ", %%xmm" a ", %%xmm" a "\n\t"
#define STORE(offset, a) "vmovdqu64 %%zmm" a ", " offset "(%%rcx)\n\t"
#define NEXT_PIXEL "addq %%rbx, %%rcx\n\t"
/* acc = 2*acc + (parity & sum) */
#define SUM                                                                                        \
    "vpbroadcastd (%%r15), %%zmm28\n\t"                                                            \
    "addq $4, %%r15\n\t"
#define HALVED(offset, a)                                                                          \
    "vpslld $1, %%zmm" a ", %%zmm" a "\n\t"                                                        \
    "vpandd " offset "(%%rax), %%zmm28, %%zmm29\n\t"                                               \
    "vpaddd %%zmm29, %%zmm" a ", %%zmm" a "\n\t"                                                   \
    STORE(offset, a)

#define PIXEL1(at, a) CODES(at) DOT("29", a)
#define PIXEL2(at, a, b) CODES(at) DOT("29", a) DOT("30", b)
#define PIXEL3(at, a, b, c) CODES(at) DOT("29", a) DOT("30", b) DOT("31", c)
#define PIXEL4(at, a, b, c, d) CODES(at) DOT("29", a) DOT("30", b) DOT("31", c) DOT_FROM("192", d)
/* The pixels that register r addresses. */
#define FIVE1(r, a, b, c, d, e)                                                                    \
    PIXEL1(BB_AT0(r), a)                                                                           \
    PIXEL1(BB_AT1(r), b)                                                                           \
    PIXEL1(BB_AT2(r), c)                                                                           \
    PIXEL1(BB_AT3(r), d)                                                                           \
    PIXEL1(BB_AT4(r), e)

#define CLEAR28                                                                                    \
    CLEAR("0")  CLEAR("1")  CLEAR("2")  CLEAR("3")  CLEAR("4")  CLEAR("5")  CLEAR("6")             \
    CLEAR("7")  CLEAR("8")  CLEAR("9")  CLEAR("10") CLEAR("11") CLEAR("12") CLEAR("13")            \
    CLEAR("14") CLEAR("15") CLEAR("16") CLEAR("17") CLEAR("18") CLEAR("19") CLEAR("20")            \
    CLEAR("21") CLEAR("22") CLEAR("23") CLEAR("24") CLEAR("25") CLEAR("26") CLEAR("27")

/* For each width: the products of a step, and what is done with the sums. */
#define STEP1                                                                                      \
    LOAD("0", "29")                                                                                \
    FIVE1("r8", "0", "1", "2", "3", "4")                                                           \
    FIVE1("r9", "5", "6", "7", "8", "9")                                                           \
    FIVE1("r10", "10", "11", "12", "13", "14")                                                     \
    FIVE1("r11", "15", "16", "17", "18", "19")                                                     \
    FIVE1("r12", "20", "21", "22", "23", "24")                                                     \
    PIXEL1(BB_AT0("rsi"), "25")                                                                    \
    PIXEL1(BB_AT1("rsi"), "26")                                                                    \
    PIXEL1(BB_AT2("rsi"), "27")
#define STEP2                                                                                      \
    LOAD("0", "29")                                                                                \
    LOAD("64", "30")                                                                               \
    PIXEL2(BB_AT0("r8"), "0", "1")    PIXEL2(BB_AT1("r8"), "2", "3")                               \
    PIXEL2(BB_AT2("r8"), "4", "5")    PIXEL2(BB_AT3("r8"), "6", "7")                               \
    PIXEL2(BB_AT4("r8"), "8", "9")    PIXEL2(BB_AT0("r9"), "10", "11")                             \
    PIXEL2(BB_AT1("r9"), "12", "13")  PIXEL2(BB_AT2("r9"), "14", "15")                             \
    PIXEL2(BB_AT3("r9"), "16", "17")  PIXEL2(BB_AT4("r9"), "18", "19")                             \
    PIXEL2(BB_AT0("r10"), "20", "21") PIXEL2(BB_AT1("r10"), "22", "23")                            \
    PIXEL2(BB_AT2("r10"), "24", "25") PIXEL2(BB_AT3("r10"), "26", "27")
#define STEP3                                                                                      \
    LOAD("0", "29")                                                                                \
    LOAD("64", "30")                                                                               \
    LOAD("128", "31")                                                                              \
    PIXEL3(BB_AT0("r8"), "0", "1", "2")                                                            \
    PIXEL3(BB_AT1("r8"), "3", "4", "5")                                                            \
    PIXEL3(BB_AT2("r8"), "6", "7", "8")                                                            \
    PIXEL3(BB_AT3("r8"), "9", "10", "11")                                                          \
    PIXEL3(BB_AT4("r8"), "12", "13", "14")                                                         \
    PIXEL3(BB_AT0("r9"), "15", "16", "17")                                                         \
    PIXEL3(BB_AT1("r9"), "18", "19", "20")                                                         \
    PIXEL3(BB_AT2("r9"), "21", "22", "23")                                                         \
    PIXEL3(BB_AT3("r9"), "24", "25", "26")
#define STEP4                                                                                      \
    LOAD("0", "29")                                                                                \
    LOAD("64", "30")                                                                               \
    LOAD("128", "31")                                                                              \
    PIXEL4(BB_AT0("r8"), "0", "1", "2", "3")                                                       \
    PIXEL4(BB_AT1("r8"), "4", "5", "6", "7")                                                       \
    PIXEL4(BB_AT2("r8"), "8", "9", "10", "11")                                                     \
    PIXEL4(BB_AT3("r8"), "12", "13", "14", "15")                                                   \
    PIXEL4(BB_AT4("r8"), "16", "17", "18", "19")                                                   \
    PIXEL4(BB_AT0("r9"), "20", "21", "22", "23")                                                   \
    PIXEL4(BB_AT1("r9"), "24", "25", "26", "27")

#define OUT1(sum, store, a) sum store("0", a) NEXT_PIXEL
#define OUT2(sum, store, a, b) sum store("0", a) store("64", b) NEXT_PIXEL
#define OUT3(sum, store, a, b, c) sum store("0", a) store("64", b) store("128", c) NEXT_PIXEL
#define OUT4(sum, store, a, b, c, d)                                                               \
    sum store("0", a) store("64", b) store("128", c) store("192", d) NEXT_PIXEL
#define FINISH1(sum, store)                                                                        \
    OUT1(sum, store, "0")  OUT1(sum, store, "1")  OUT1(sum, store, "2")  OUT1(sum, store, "3")     \
    OUT1(sum, store, "4")  OUT1(sum, store, "5")  OUT1(sum, store, "6")  OUT1(sum, store, "7")     \
    OUT1(sum, store, "8")  OUT1(sum, store, "9")  OUT1(sum, store, "10") OUT1(sum, store, "11")    \
    OUT1(sum, store, "12") OUT1(sum, store, "13") OUT1(sum, store, "14") OUT1(sum, store, "15")    \
    OUT1(sum, store, "16") OUT1(sum, store, "17") OUT1(sum, store, "18") OUT1(sum, store, "19")    \
    OUT1(sum, store, "20") OUT1(sum, store, "21") OUT1(sum, store, "22") OUT1(sum, store, "23")    \
    OUT1(sum, store, "24") OUT1(sum, store, "25") OUT1(sum, store, "26") OUT1(sum, store, "27")
#define FINISH2(sum, store)                                                                        \
    OUT2(sum, store, "0", "1")   OUT2(sum, store, "2", "3")                                        \
    OUT2(sum, store, "4", "5")   OUT2(sum, store, "6", "7")                                        \
    OUT2(sum, store, "8", "9")   OUT2(sum, store, "10", "11")                                      \
    OUT2(sum, store, "12", "13") OUT2(sum, store, "14", "15")                                      \
    OUT2(sum, store, "16", "17") OUT2(sum, store, "18", "19")                                      \
    OUT2(sum, store, "20", "21") OUT2(sum, store, "22", "23")                                      \
    OUT2(sum, store, "24", "25") OUT2(sum, store, "26", "27")
#define FINISH3(sum, store)                                                                        \
    OUT3(sum, store, "0", "1", "2")                                                                \
    OUT3(sum, store, "3", "4", "5")                                                                \
    OUT3(sum, store, "6", "7", "8")                                                                \
    OUT3(sum, store, "9", "10", "11")                                                              \
    OUT3(sum, store, "12", "13", "14")                                                             \
    OUT3(sum, store, "15", "16", "17")                                                             \
    OUT3(sum, store, "18", "19", "20")                                                             \
    OUT3(sum, store, "21", "22", "23")                                                             \
    OUT3(sum, store, "24", "25", "26")
#define FINISH4(sum, store)                                                                        \
    OUT4(sum, store, "0", "1", "2", "3")                                                           \
    OUT4(sum, store, "4", "5", "6", "7")                                                           \
    OUT4(sum, store, "8", "9", "10", "11")                                                         \
    OUT4(sum, store, "12", "13", "14", "15")                                                       \
    OUT4(sum, store, "16", "17", "18", "19")                                                       \
    OUT4(sum, store, "20", "21", "22", "23")                                                       \
    OUT4(sum, store, "24", "25", "26", "27")

/* The registers that a tile of each width uses. */
#define ADVANCE4(by)                                                                               \
    "addq " by ", %%r8\n\t"                                                                        \
    "addq " by ", %%r9\n\t"
#define ADVANCE3(by) ADVANCE4(by)
#define ADVANCE2(by)                                                                               \
    ADVANCE4(by)                                                                                   \
    "addq " by ", %%r10\n\t"
#define ADVANCE1(by)                                                                               \
    ADVANCE2(by)                                                                                   \
    "addq " by ", %%r11\n\t"                                                                       \
    "addq " by ", %%r12\n\t"                                                                       \
    "addq " by ", %%rsi\n\t"

/* r11, r12 and rsi = pixels 15, 20 and 25. */
#define LOOP(step, advance, step_bytes, finish)                                                    \
    __asm__ volatile(                                                                              \
        BB_POINTWISE_BEGIN("48")                                                                   \
        "leaq (%%r9,%%rax,2), %%r11\n\t"                                                           \
        "leaq (%%r8,%%rax,4), %%r12\n\t"                                                           \
        "leaq (%%r9,%%rax,4), %%rsi\n\t"                                                           \
        "movq 24(%0), %%rcx\n\t"                                                                   \
        "movq 32(%0), %%rbx\n\t"                                                                   \
        "movq 64(%0), %%r15\n"                                                                     \
    "1:\n\t" /* a tile */                                                                          \
        "movq 16(%0), %%rdx\n\t"                                                                   \
        "movq 40(%0), %%rax\n\t"                                                                   \
        CLEAR28                                                                                    \
        ".p2align 4\n"                                                                             \
    "2:\n\t"                                                                                       \
        step                                                                                       \
        advance("$4")                                                                              \
        "addq $" step_bytes ", %%rdx\n\t"                                                          \
        "decq %%rax\n\t"                                                                           \
        "jnz 2b\n\t"                                                                               \
        "movq 56(%0), %%rax\n\t"                                                                   \
        advance("%%rax")                                                                           \
        "movq 72(%0), %%rax\n\t"                                                                   \
        finish                                                                                     \
        "decq (%0)\n\t"                                                                            \
        "jnz 1b\n\t"                                                                               \
        "vzeroupper\n\t"                                                                           \
        :                                                                                          \
        : "D"(args)                                                                                \
        : BB_ASM_CLOBBERS, BB_ASM_CLOBBERS_512)
/* clang-format on */

#define VARIANT(n, step_bytes)                                                                     \
    BB_VNNI static void direct_##n(loop_args *args) {                                              \
        LOOP(STEP##n, ADVANCE##n, step_bytes, FINISH##n("", STORE));                               \
    }                                                                                              \
    BB_VNNI static void halved_##n(loop_args *args) {                                              \
        LOOP(STEP##n, ADVANCE##n, step_bytes, FINISH##n(SUM, HALVED));                             \
    }

VARIANT(1, "64")
VARIANT(2, "128")
VARIANT(3, "192")
VARIANT(4, "256")

static void run_block(const bb_pointwise_job *job) {
    static void (*const loops[2][WIDTH_MAX])(loop_args * args) = {
        {direct_1, direct_2, direct_3, direct_4}, {halved_1, halved_2, halved_3, halved_4}};
    const bb_pointwise_route *route = job->route;
    loop_args args = {
        .head = bb_pointwise_head_of(job),
        .pixel = (int64_t)route->pixel_bytes,
        .skip = bb_pointwise_skip(route),
        .sums = job->sums,
        .parity = job->weights + (size_t)route->steps * (size_t)route->block * 4,
    };

    loops[route->halved][route->block / LANES - 1](&args);
}

/** Vectors of a block: fewest products, those of idle lanes and pixels included; a narrower block
 *  has more loads and calls for them. */
static int32_t width_for(const bb_conv_desc *desc) {
    const int32_t pixels = desc->out_height * desc->out_width;
    int32_t best = WIDTH_MAX;
    double least = 0;

    for (int32_t w = WIDTH_MAX; w > 0; w--) {
        const double products =
            (double)bb_up_to(desc->out_channels, w * LANES) * bb_up_to(pixels, SUMS / w);

        if (w == WIDTH_MAX || products < 0.97 * least) {
            best = w;
            least = products;
        }
    }
    return best;
}

static bool supports(const bb_conv_desc *desc) {
    return bb_pointwise_supports(desc) && desc->max_weight <= 255;
}

static bb_pointwise_route route_of(const bb_conv_desc *desc) {
    const int32_t width = width_for(desc);
    bb_pointwise_route route = {
        .tile = SUMS / width,
        .block = width * LANES,
        .chunk_sums = 6144,
        .steps = (desc->in_channels + 3) / 4,
        .halved = desc->max_weight > 127,
        .wants_sums = desc->max_weight > 127,
        .pixel_bytes = (size_t)desc->in_channels,
        .sum = bb_sum_pixels_avx2,
        .run = run_block,
        .put = bb_pointwise_put_bytes,
    };

    route.block_bytes = (size_t)(route.steps + 1) * (size_t)route.block * 4;
    return route;
}

/** Cycles: two products of vectors a cycle; sums are written at one vector a cycle. */
static double cost(const bb_conv_desc *desc) {
    const bb_pointwise_route route = route_of(desc);
    const double tiles = bb_up_to(desc->out_height * desc->out_width, route.tile) / route.tile;
    const double blocks = bb_up_to(desc->out_channels, route.block) / route.block;

    return tiles * blocks * (route.steps * 14.4 + 34);
}

BB_POINTWISE_FUNCTIONS(pointwise, route_of)

const bb_conv_kernel bb_conv_pointwise_avx512 = {
    .name = "conv_pointwise_avx512",
    .cpu = BB_CPU_AVX2 | BB_CPU_AVX512 | BB_CPU_AVX512_VNNI,
    .supports = supports,
    .cost = cost,
    .packed_size = pointwise_packed_size,
    .pack = pointwise_pack,
    .scratch_size = pointwise_scratch_size,
    .run = pointwise_run,
};

#endif
