/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file conv_packed_avx2.c
 * Look-up for codes of one bit, two pixels in a table byte: 64 channels x 4 pixels.
 *
 * Four activations of one bit have 16 tables, those of a pair of pixels 256, and these are
 * constants: entry i of table x counts the bits of x & i in its low nibble and those of (x >> 4) &
 * i in its high one. So a byte shuffle does 8 products of 32 rows, and no tables are made: a pixel
 * is transformed into a nibble for each group of four codes, and a tile puts together the nibbles
 * of its two pairs of pixels, any two, as offsets of tables.
 *
 * Exactness. Three groups leave nibbles of at most 12. Then S += sums (bytes, modulo 256) and
 * H += high nibbles; after CHUNK triples both pixels are H and S - 16*H modulo 256, at most 252.
 * These are folded into 16-bit sums as in conv_lut_avx2.c (S and H of pairs of bytes), exact while
 * a row sum is below 65536: supports() bounds the depth. acc = 2*sum_k 2^k L_k - W*sum(u).
 *
 * Packed block: [plane][group][64 indices], groups of all segments in a row, padded to threes.
 */
#include "kernels/layout.h"
#include "kernels/registry.h"
#include "kernels/x86/avx2.h"

#if BB_ARCH_X86_64

#include <string.h>

enum {
    BLOCK = 64,
    STEP = 64, /**< packed bytes of one group: 64 rows */
    PIXELS = 4,
    TRIPLE = 3,        /**< groups that nibbles hold */
    CHUNK = 21,        /**< triples that bytes hold */
    DEPTH_MAX = 65535, /**< of a window */
    PLANES_MAX = 4,
    SLOTS = 8 /**< tiles whose offsets are kept for their other blocks of channels */
};

/** Offsets are known to the assembly. */
typedef struct loop_args {
    const uint16_t *offsets; /* 0: [group][2 pairs] */
    const uint8_t *weights;  /* 8 */
    const void *tables;      /* 16 */
    uint16_t *sums;          /* 24: [4 accumulators][4][16] */
    int64_t triples;         /* 32 */
} loop_args;

_Static_assert(offsetof(loop_args, triples) == 32, "the assembly knows these offsets");

/** Kernel scratch. */
typedef struct work {
    uint16_t sums[4][4][16]; /**< [pair*2 + vector][S of first, H, S of second pixel, H] */
    const void *tile[SLOTS]; /**< whose offsets are in each slot */
    uint16_t offsets[];      /**< [SLOTS][slot_offsets] */
} work;

#define TIMES_32(x)                                                                                \
    x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x

static const struct {
    _Alignas(32) uint8_t low[32], high[32];
} nibbles = {{TIMES_32(15)}, {TIMES_32(240)}};

/* clang-format off */
#define INDICES(at)                                                                                \
    "vmovdqa " at "(%%rdx), %%ymm14\n\t"                                                           \
    "vmovdqa 32+" at "(%%rdx), %%ymm15\n\t"
#define TABLE(at)                                                                                  \
    "movzwl " at "(%%rsi), %%eax\n\t"                                                              \
    "vbroadcasti128 (%%r8,%%rax), %%ymm12\n\t"
#define SET(at, a, b)                                                                              \
    TABLE(at)                                                                                      \
    "vpshufb %%ymm14, %%ymm12, %%ymm" a "\n\t"                                                     \
    "vpshufb %%ymm15, %%ymm12, %%ymm" b "\n\t"
#define ADD(add, at, a, b)                                                                         \
    TABLE(at)                                                                                      \
    "vpshufb %%ymm14, %%ymm12, %%ymm13\n\t"                                                        \
    "vpshufb %%ymm15, %%ymm12, %%ymm12\n\t"                                                        \
    add " %%ymm13, %%ymm" a ", %%ymm" a "\n\t"                                                     \
    add " %%ymm12, %%ymm" b ", %%ymm" b "\n\t"
/* S += a; H += a >> 4 */
#define SPLIT(add, a, s, h)                                                                        \
    "vpaddb %%ymm" a ", %%ymm" s ", %%ymm" s "\n\t"                                                \
    "vpsrlw $4, %%ymm" a ", %%ymm" a "\n\t"                                                        \
    "vpand %1, %%ymm" a ", %%ymm" a "\n\t"                                                         \
    add " %%ymm" a ", %%ymm" h ", %%ymm" h "\n\t"
/* 16-bit S and H of the two pixels of one accumulator, added to memory or stored there. */
#define WIDEN_ADD(a, at, half)                                                                     \
    "vpaddw " at "(%%r9), %%ymm" a ", %%ymm13\n\t"                                                 \
    "vmovdqa %%ymm13, " at "(%%r9)\n\t"                                                            \
    "vpsrlw $8, %%ymm" a ", %%ymm" a "\n\t"                                                        \
    "vpaddw " half "(%%r9), %%ymm" a ", %%ymm" a "\n\t"                                            \
    "vmovdqa %%ymm" a ", " half "(%%r9)\n\t"
#define WIDEN_SET(a, at, half)                                                                     \
    "vmovdqa %%ymm" a ", " at "(%%r9)\n\t"                                                         \
    "vpsrlw $8, %%ymm" a ", %%ymm" a "\n\t"                                                        \
    "vmovdqa %%ymm" a ", " half "(%%r9)\n\t"
#define FOLD(widen, s, h, at0, at1, at2, at3)                                                      \
    "vpsllw $4, %%ymm" h ", %%ymm12\n\t"                                                           \
    "vpand %2, %%ymm12, %%ymm12\n\t"                                                               \
    "vpsubb %%ymm12, %%ymm" s ", %%ymm" s "\n\t"                                                   \
    widen(s, at0, at1)                                                                             \
    widen(h, at2, at3)
#define FOLDS(widen)                                                                               \
    FOLD(widen, "4", "8", "0", "32", "64", "96")                                                   \
    FOLD(widen, "5", "9", "128", "160", "192", "224")                                              \
    FOLD(widen, "6", "10", "256", "288", "320", "352")                                             \
    FOLD(widen, "7", "11", "384", "416", "448", "480")
#define CLEAR(a) "vpxor %%xmm" a ", %%xmm" a ", %%xmm" a "\n\t"

#define LOOP(add)                                                                                  \
    __asm__ volatile(                                                                              \
        "movq (%0), %%rsi\n\t"                                                                     \
        "movq 8(%0), %%rdx\n\t"                                                                    \
        "movq 16(%0), %%r8\n\t"                                                                    \
        "movq 24(%0), %%r9\n\t"                                                                    \
        "movq 32(%0), %%rbx\n\t"                                                                   \
        "xorl %%r11d, %%r11d\n"                                                                    \
    "1:\n\t" /* a chunk */                                                                         \
        CLEAR("4") CLEAR("5") CLEAR("6")  CLEAR("7")                                               \
        CLEAR("8") CLEAR("9") CLEAR("10") CLEAR("11")                                              \
        "movl %3, %%ecx\n\t"                                                                       \
        "cmpq %%rcx, %%rbx\n\t"                                                                    \
        "cmovbq %%rbx, %%rcx\n\t"                                                                  \
        "subq %%rcx, %%rbx\n\t"                                                                    \
        ".p2align 4\n"                                                                             \
    "2:\n\t" /* three groups */                                                                    \
        INDICES("0")                                                                               \
        SET("0", "0", "1")                                                                         \
        SET("2", "2", "3")                                                                         \
        INDICES("64")                                                                              \
        ADD(add, "4", "0", "1")                                                                    \
        ADD(add, "6", "2", "3")                                                                    \
        INDICES("128")                                                                             \
        ADD(add, "8", "0", "1")                                                                    \
        ADD(add, "10", "2", "3")                                                                   \
        SPLIT(add, "0", "4", "8")                                                                  \
        SPLIT(add, "1", "5", "9")                                                                  \
        SPLIT(add, "2", "6", "10")                                                                 \
        SPLIT(add, "3", "7", "11")                                                                 \
        "addq $192, %%rdx\n\t"                                                                     \
        "addq $12, %%rsi\n\t"                                                                      \
        "decq %%rcx\n\t"                                                                           \
        "jnz 2b\n\t"                                                                               \
        "testl %%r11d, %%r11d\n\t"                                                                 \
        "jnz 3f\n\t"                                                                               \
        FOLDS(WIDEN_SET)                                                                           \
        "movl $1, %%r11d\n\t"                                                                      \
        "jmp 4f\n"                                                                                 \
    "3:\n\t"                                                                                       \
        FOLDS(WIDEN_ADD)                                                                           \
    "4:\n\t"                                                                                       \
        "testq %%rbx, %%rbx\n\t"                                                                   \
        "jnz 1b\n\t"                                                                               \
        "vzeroupper\n\t"                                                                           \
        :                                                                                          \
        : "D"(args), "m"(nibbles.low), "m"(nibbles.high), "i"(CHUNK)                               \
        : BB_ASM_CLOBBERS)
/* clang-format on */

/** args->sums = sums of all groups. Bytes never pass 255, so saturation changes nothing. */
BB_AVX2 static void loop(const loop_args *args) {
    LOOP("vpaddb");
}

BB_AVX2 static void loop_saturating(const loop_args *args) {
    LOOP("vpaddusb");
}

/** The nibbles of two pairs of pixels as offsets of tables, 16 bytes each: n groups. */
BB_AVX2 static void pair_up(const uint8_t *const *ptr, int32_t n, uint16_t *dst) {
    for (int32_t i = 0; i < n; i += 16, dst += 32) {
        __m256i pair[2], lo, hi;

        for (int k = 0; k < 2; k++) {
            const __m256i a = _mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)(ptr[2 * k] + i)));
            const __m256i b =
                _mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)(ptr[2 * k + 1] + i)));

            pair[k] = _mm256_slli_epi16(_mm256_or_si256(a, _mm256_slli_epi16(b, 4)), 4);
        }
        lo = _mm256_unpacklo_epi16(pair[0], pair[1]);
        hi = _mm256_unpackhi_epi16(pair[0], pair[1]);
        _mm256_storeu_si256((void *)dst, _mm256_permute2x128_si256(lo, hi, 0x20));
        _mm256_storeu_si256((void *)(dst + 16), _mm256_permute2x128_si256(lo, hi, 0x31));
    }
}

/** Adds plane k to the tile. */
BB_AVX2 static void finish(const bb_tile_job *job, int32_t k) {
    const work *w = job->work;
    const __m128i by = _mm_cvtsi32_si128(k + 1);

    for (int32_t p = 0; p < job->n_pixels; p++) {
        const __m256i start = _mm256_set1_epi32(-job->route->extra * job->sums[p]);
        int32_t *acc = job->acc + (ptrdiff_t)p * BB_TILE_STRIDE;

        for (int v = 0; v < 2; v++, acc += 32) {
            const uint16_t(*sums)[16] = w->sums[p / 2 * 2 + v] + p % 2 * 2;
            const __m256i s = _mm256_load_si256((const void *)sums[0]);
            const __m256i h = _mm256_load_si256((const void *)sums[1]);

            bb_add_sums_avx2(acc, _mm256_sub_epi16(s, _mm256_slli_epi16(h, 8)), by, k == 0, start);
            bb_add_sums_avx2(acc + 16, h, by, k == 0, start);
        }
    }
}

static int32_t triples_of(const bb_conv_route *route) {
    return bb_div_up(route->segments * route->steps, TRIPLE);
}

/** Entries of a slot: pair_up writes up to 15 groups more than there are. */
static size_t slot_offsets(const bb_conv_route *route) {
    return ((size_t)triples_of(route) * TRIPLE + 16) * 2;
}

/** Offsets of the tile's groups. Its first block of channels makes them; the others find them while
 *  no other tile has taken the slot: always, where a chunk's tiles come before the next chunk's. */
static const uint16_t *offsets_of(const bb_tile_job *job) {
    const bb_conv_route *route = job->route;
    const size_t tile_bytes = (size_t)route->segments * PIXELS * sizeof(*job->ptr);
    const size_t slot = (uintptr_t)job->ptr / tile_bytes % SLOTS;
    work *w = job->work;
    uint16_t *offsets = w->offsets + slot * slot_offsets(route), *dst = offsets;

    if (job->channel > 0 && w->tile[slot] == job->ptr)
        return offsets;
    for (int32_t s = 0; s < route->segments; s++, dst += 2 * (ptrdiff_t)route->steps)
        pair_up(job->ptr + (ptrdiff_t)s * PIXELS, route->steps, dst);
    memset(dst, 0, 2 * TRIPLE * sizeof(*dst));
    w->tile[slot] = job->ptr;
    return offsets;
}

static void block(const bb_tile_job *job) {
    const bb_conv_route *route = job->route;
    void (*const sum)(const loop_args *args) = bb_saturating_adds_avx2() ? loop_saturating : loop;
    work *w = job->work;
    loop_args args = {.offsets = offsets_of(job),
                      .weights = job->weights,
                      .tables = bb_bit_pair_tables_avx2,
                      .sums = w->sums[0][0],
                      .triples = triples_of(route)};

    for (int32_t k = 0; k < route->planes; k++) {
        sum(&args);
        finish(job, k);
        args.weights += (size_t)args.triples * TRIPLE * STEP;
    }
}

/** What lies past the depth only reaches the high bits of the last nibble, whose indices are 0. */
BB_AVX2 static void transform(const bb_conv_desc *desc, const uint8_t *codes, int32_t n,
                              uint8_t *dst, size_t part_bytes, int32_t *sums) {
    const int32_t depth = desc->in_channels / desc->groups, groups = bb_div_up(depth, 4);
    (void)part_bytes;
    bb_sum_pixels_avx2(desc, codes, n, sums);
    for (int32_t i = 0; i < n * desc->groups; i++, codes += depth, dst += groups)
        for (int32_t d = 0; d < depth; d += 64)
            _mm_storeu_si128((void *)(dst + d / 4), bb_nibbles_avx2(codes + d));
}

static bool supports(const bb_conv_desc *desc) {
    const int64_t depth =
        (int64_t)desc->kernel[0] * desc->kernel[1] * desc->in_channels / desc->groups;

    return desc->native && desc->activation_bits == 1 && desc->weight_bits <= PLANES_MAX &&
           desc->out_height * desc->out_width > 1 && depth <= DEPTH_MAX;
}

static bb_conv_route route_of(const bb_conv_desc *desc) {
    const int32_t depth = desc->in_channels / desc->groups;
    bb_conv_route route = {
        .pixels = PIXELS,
        .block_channels = BLOCK,
        .chunk_pixels = SLOTS * PIXELS, /* a slot for each tile of a chunk */
        .group_bytes = (size_t)bb_div_up(depth, 4),
        .wants_sums = true,
        .transform = transform,
        .block = block,
        .depth = depth,
        .planes = (int32_t)desc->weight_bits,
        .extra = (1 << desc->weight_bits) - 1,
    };
    size_t groups;

    bb_route_segments(desc, &route);
    route.steps = (int32_t)route.segment_bytes;
    groups = (size_t)triples_of(&route) * TRIPLE;
    route.block_bytes = groups * STEP * (size_t)route.planes;
    route.work_bytes = sizeof(work) + SLOTS * slot_offsets(&route) * sizeof(uint16_t);
    return route;
}

/** Cycles: 10.3 a triple, and its offsets; folds, sums into the tile. */
static double cost(const bb_conv_desc *desc) {
    const bb_conv_route route = route_of(desc);
    const double tiles = bb_div_up(desc->out_height * desc->out_width, PIXELS);
    const int32_t channels = desc->out_channels / desc->groups;
    const double blocks = (double)desc->groups * bb_div_up(channels, BLOCK);
    const int32_t triples = triples_of(&route), folds = bb_div_up(triples, CHUNK);
    const double input = (double)desc->in_height * desc->in_width * desc->in_channels;

    return tiles * blocks *
               (route.planes * (triples * 10.3 + folds * 16 + 60) + 10 * route.segments) +
           0.2 * input;
}

/** Byte of a channel within 64 rows: channels i and i+16 of a vector side by side. */
static size_t row_of(int32_t lane) {
    return (size_t)(lane / 32 * 32 + lane % 16 * 2 + lane % 32 / 16);
}

static void put(const bb_conv_route *route, uint8_t *dst, int32_t lane, int32_t segment,
                const int16_t *weights, int32_t n) {
    const size_t plane_bytes = (size_t)triples_of(route) * TRIPLE * STEP;
    const int32_t tap_groups = (int32_t)route->group_bytes;

    dst += (size_t)segment * (size_t)route->steps * STEP + row_of(lane);
    for (int32_t k = 0; k < route->planes; k++, dst += plane_bytes)
        for (int32_t i = 0; i < n; i++) {
            const int32_t d = i % route->depth;
            const size_t group = (size_t)(i / route->depth * tap_groups + d / 4);
            const int32_t v = (weights[i] + route->extra) / 2;

            dst[group * STEP] |= (uint8_t)((v >> k & 1) << (d % 4));
        }
}

BB_WALK_FUNCTIONS(route_of, put)

const bb_conv_kernel bb_conv_packed_avx2 = {.name = "conv_packed_avx2",
                                            .cpu = BB_CPU_AVX2,
                                            .supports = supports,
                                            .cost = cost,
                                            .packed_size = packed_size,
                                            .pack = pack,
                                            .scratch_size = scratch_size,
                                            .run = run};

#endif
