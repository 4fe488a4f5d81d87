/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file conv_lut_avx2.c
 * Look-up convolution "L2x6" (docs/kernels.md): one byte shuffle does 4 products of 32 rows.
 *
 * With w = 2v - W, W = 2^K - 1 and v = sum_k 2^k b_k:  acc = 2*sum_k 2^k L_k - W*sum(u),
 * L_k = sum of the codes u whose weight bit b_k is 1. For every group of four activations of a
 * pixel there is a table T[16] of all subset sums; four weight bits of a row are its index.
 * Rows of the kernel are *virtual rows*, one for each channel and plane: 64 of them and 6 pixels
 * make a tile of 12 byte accumulators.
 *
 * Exactness. A table entry is at most 4*A', A' = 2^min(M,4) - 1, so bytes hold
 * T = floor(255 / (4*A')) groups: 63, 21, 9, 4 for M = 1, 2, 3, 4. Then they are folded into 16-bit
 * sums in L1: K = 2 interleaves the planes of a channel in neighbouring bytes and folds with
 * vpmaddubsw [1,2] (at most 3*255, no saturation; sums stay below 65536 for depth <= 65535/(3A')).
 * Other K keep planes apart: S += pair of bytes as a 16-bit lane (mod 2^16), H += its high byte;
 * the two row sums are H and S - 256*H mod 2^16, exact while each is below 65536, i.e. for depth
 * <= 65535/A'. Beyond these depths the 16-bit sums are flushed into the 32-bit tile.
 * Codes of 5..8 bits are taken in two parts, u = lo + 16*hi, each with its own tables.
 *
 * Transformed pixel: 16 bytes for each group of four codes, per part. Packed block:
 * [plane or plane pair][segment][group][64 indices].
 */
#include "kernels/registry.h"
#include "kernels/x86/avx2.h"

#if BB_ARCH_X86_64

#include <string.h>

enum {
    STEP = 64,         /**< packed bytes of one group: 64 virtual rows */
    CHUNKS_MAX = 2048, /**< of one segment */
    SUMS = 6 * 2 * 32  /**< bytes of the S (or interleaved) sums of a tile */
};

typedef struct loop_args {
    const uint8_t *const *ptr; /* 0 */
    const uint8_t *weights;    /* 8 */
    void *sums;                /* 16: S, then H */
    int64_t segments;          /* 24 */
    const int64_t *chunks;     /* 32: groups of each chunk of a segment, 0 ends */
    int64_t base;              /* 40: first byte within the segment */
    int64_t add;               /* 48: 0 = the first chunk overwrites the sums */
    const void *ones_twos;     /* 56: bytes 1,2,1,2... for the interleaved fold */
} loop_args;

/** Kernel scratch. */
typedef struct work {
    uint16_t sums[2][6][2][16]; /* S and H */
    int64_t chunks[CHUNKS_MAX + 1], taken[CHUNKS_MAX + 1];
} work;

/** Longest segment whose chunk list fits, at the shortest schedule and one group a code. */
static bool supports(const bb_conv_desc *desc) {
    return desc->native && desc->weight_bits <= 3 &&
           (desc->weight_bits == 1 || desc->activation_bits <= 4) &&
           bb_segment_length(desc) <= 4 * CHUNKS_MAX;
}

static bool interleaved(const bb_conv_route *route) {
    return route->variant == 2;
}

#define PIXEL(p, a, b)                                                                             \
    "vbroadcasti128 (%%" p ",%%rax), %%ymm12\n\t"                                                  \
    "vpshufb %%ymm14, %%ymm12, %%ymm13\n\t"                                                        \
    "vpshufb %%ymm15, %%ymm12, %%ymm12\n\t"                                                        \
    "vpaddb %%ymm13, %%ymm" a ", %%ymm" a "\n\t"                                                   \
    "vpaddb %%ymm12, %%ymm" b ", %%ymm" b "\n\t"

/* S += acc; H += acc >> 8. */
#define FOLD_ADD(offset, a)                                                                        \
    "vpsrlw $8, %%ymm" a ", %%ymm13\n\t"                                                           \
    "vpaddw " offset "(%%r15), %%ymm" a ", %%ymm" a "\n\t"                                         \
    "vpaddw 384+" offset "(%%r15), %%ymm13, %%ymm13\n\t"                                           \
    "vmovdqa %%ymm" a ", " offset "(%%r15)\n\t"                                                    \
    "vmovdqa %%ymm13, 384+" offset "(%%r15)\n\t"
#define FOLD_SET(offset, a)                                                                        \
    "vpsrlw $8, %%ymm" a ", %%ymm13\n\t"                                                           \
    "vmovdqa %%ymm" a ", " offset "(%%r15)\n\t"                                                    \
    "vmovdqa %%ymm13, 384+" offset "(%%r15)\n\t"

/* S += acc_even + 2*acc_odd. */
#define MERGE_ADD(offset, a)                                                                       \
    "vpmaddubsw %%ymm14, %%ymm" a ", %%ymm" a "\n\t"                                               \
    "vpaddw " offset "(%%r15), %%ymm" a ", %%ymm" a "\n\t"                                         \
    "vmovdqa %%ymm" a ", " offset "(%%r15)\n\t"
#define MERGE_SET(offset, a)                                                                       \
    "vpmaddubsw %%ymm14, %%ymm" a ", %%ymm" a "\n\t"                                               \
    "vmovdqa %%ymm" a ", " offset "(%%r15)\n\t"

#define ALL(fold)                                                                                  \
    fold("0", "0") fold("32", "1") fold("64", "2") fold("96", "3") fold("128", "4")                \
        fold("160", "5") fold("192", "6") fold("224", "7") fold("256", "8") fold("288", "9")       \
            fold("320", "10") fold("352", "11")

/** The loop over segments, chunks and groups with one way of folding. */
#define LOOP(before_fold, set, add)                                                                \
    __asm__ volatile(                                                                              \
        "movq (%0), %%rsi\n\t"                                                                     \
        "movq 8(%0), %%rdx\n\t"                                                                    \
        "movq 16(%0), %%r15\n\t"                                                                   \
        "movq 24(%0), %%r14\n"                                                                     \
        "1:\n\t" BB_ASM_POINTERS "movq 40(%0), %%rax\n\t"                                          \
        "movq 32(%0), %%rbx\n"                                                                     \
        "2:\n\t"                                                                                   \
        "movq (%%rbx), %%rcx\n\t"                                                                  \
        "addq $8, %%rbx\n\t" BB_ASM_CLEAR ".p2align 4\n"                                           \
        "3:\n\t"                                                                                   \
        "vmovdqa (%%rdx), %%ymm14\n\t"                                                             \
        "vmovdqa 32(%%rdx), %%ymm15\n\t" PIXEL("r8", "0", "1") PIXEL("r9", "2", "3")               \
            PIXEL("r10", "4", "5") PIXEL("r11", "6", "7") PIXEL("r12", "8", "9")                   \
                PIXEL("r13", "10", "11") "addq $64, %%rdx\n\t"                                     \
                                         "addq $16, %%rax\n\t"                                     \
                                         "decq %%rcx\n\t"                                          \
                                         "jnz 3b\n\t" before_fold "cmpq $0, 48(%0)\n\t"            \
                                         "jne 4f\n\t"                                              \
                                         "movq $1, 48(%0)\n\t" ALL(                                \
                                             set) "jmp 5f\n"                                       \
                                                  "4:\n\t" ALL(add) "5:\n\t"                       \
                                                                    "cmpq $0, (%%rbx)\n\t"         \
                                                                    "jne 2b\n\t"                   \
                                                                    "decq %%r14\n\t"               \
                                                                    "jnz 1b\n\t"                   \
                                                                    "vzeroupper\n\t"               \
        :                                                                                          \
        : "D"(args)                                                                                \
        : BB_ASM_CLOBBERS)

BB_AVX2 static void loop_planes(loop_args *args) {
    LOOP("", FOLD_SET, FOLD_ADD);
}

BB_AVX2 static void loop_pairs(loop_args *args) {
    LOOP("movq 56(%0), %%rcx\n\tvmovdqa (%%rcx), %%ymm14\n\t", MERGE_SET, MERGE_ADD);
}

/** acc[0..15] of one vector of 16-bit sums: (acc or start) + (sums << shift). */
BB_AVX2 static inline void add_sums(int32_t *acc, __m256i sums, __m128i shift, bool first,
                                    __m256i start) {
    __m256i lo = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(sums));
    __m256i hi = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(sums, 1));
    __m256i *dst = (void *)acc;

    lo = _mm256_sll_epi32(lo, shift);
    hi = _mm256_sll_epi32(hi, shift);
    _mm256_storeu_si256(dst, _mm256_add_epi32(lo, first ? start : _mm256_loadu_si256(dst)));
    _mm256_storeu_si256(dst + 1, _mm256_add_epi32(hi, first ? start : _mm256_loadu_si256(dst + 1)));
}

/** Moves the 16-bit sums into the tile; the first time it starts from -W*sum(u). */
BB_AVX2 static void flush(const bb_tile_job *job, int32_t shift, bool first) {
    const work *w = job->work;
    const __m128i by = _mm_cvtsi32_si128(shift);

    for (int32_t p = 0; p < job->n_pixels; p++) {
        const __m256i start = _mm256_set1_epi32(-job->route->extra * job->sums[p]);
        int32_t *acc = job->acc + (ptrdiff_t)p * BB_TILE_STRIDE;

        for (int v = 0; v < 2; v++) {
            const __m256i s = _mm256_load_si256((const void *)w->sums[0][p][v]);
            const __m256i h = _mm256_load_si256((const void *)w->sums[1][p][v]);

            if (interleaved(job->route)) {
                add_sums(acc + v * 16, s, by, first, start);
            } else {
                const __m256i lo = _mm256_sub_epi16(s, _mm256_slli_epi16(h, 8));

                add_sums(acc + v * 32, lo, by, first, start);
                add_sums(acc + v * 32 + 16, h, by, first, start);
            }
        }
    }
}

static void loop(const bb_conv_route *route, loop_args *args) {
    if (interleaved(route))
        loop_pairs(args);
    else
        loop_planes(args);
}

/** Groups that 16-bit sums hold. */
static int32_t exact_groups(const bb_conv_route *route) {
    const int32_t per_group = route->top * 4 * (interleaved(route) ? 3 : 1);

    return 65535 / per_group;
}

/** Chunks from chunk on that stay within limit groups, zero-terminated; returns how many. */
static size_t take_chunks(const int64_t *chunk, int32_t limit, int64_t *taken, int64_t *groups) {
    size_t n = 0;

    for (*groups = 0; chunk[n] && *groups + chunk[n] <= limit; n++) {
        taken[n] = chunk[n];
        *groups += chunk[n];
    }
    taken[n] = 0;
    return n;
}

/** A segment longer than 16-bit sums hold: flushes inside it. */
static void accumulate_long(const bb_tile_job *job, loop_args *args, int32_t shift, bool first) {
    const bb_conv_route *route = job->route;
    const int32_t limit = exact_groups(route);
    const int64_t base = args->base;
    work *w = job->work;

    args->segments = 1;
    args->chunks = w->taken;
    for (int32_t s = 0; s < route->segments; s++, args->ptr += route->pixels) {
        const int64_t *chunk = w->chunks;
        int64_t groups;

        for (args->base = base; *chunk; args->base += groups * 16) {
            chunk += take_chunks(chunk, limit, w->taken, &groups);
            args->add = 0;
            loop(route, args);
            flush(job, shift, first);
            first = false;
            args->weights += groups * STEP;
        }
    }
}

/** One plane (or pair) and part over the whole window; flushes as often as exactness asks. */
static void accumulate(const bb_tile_job *job, loop_args *args, int32_t shift, bool first) {
    const bb_conv_route *route = job->route;
    const int32_t per_call = exact_groups(route) / route->steps;
    const work *w = job->work;

    if (per_call == 0) {
        accumulate_long(job, args, shift, first);
        return;
    }
    args->chunks = w->chunks;
    for (int32_t s = 0; s < route->segments; s += per_call) {
        const int32_t left = route->segments - s;

        args->segments = left < per_call ? left : per_call;
        args->add = 0;
        loop(route, args);
        flush(job, shift, first && s == 0);
        args->ptr += (ptrdiff_t)per_call * route->pixels;
        args->weights += (ptrdiff_t)per_call * route->steps * STEP;
    }
}

/** Splits the groups of a segment evenly into chunks of at most T. */
static void prepare(const bb_conv_route *route, void *memory) {
    const int32_t n = (route->steps + route->schedule - 1) / route->schedule;
    work *w = memory;

    for (int32_t i = 0; i < n; i++)
        w->chunks[i] = (int64_t)route->steps * (i + 1) / n - (int64_t)route->steps * i / n;
    w->chunks[n] = 0;
}

static void block(const bb_tile_job *job) {
    static const union {
        uint8_t bytes[32];
        __m256i align;
    } ones_twos = {{1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2,
                    1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2}};
    const bb_conv_route *route = job->route;
    const int32_t passes = interleaved(route) ? 1 : route->planes;
    const size_t pass_bytes = route->block_bytes / (size_t)passes;
    work *w = job->work;
    bool first = true;

    for (int32_t pass = 0; pass < passes; pass++)
        for (int32_t part = 0; part < route->parts; part++) {
            loop_args args = {
                .ptr = job->ptr,
                .weights = job->weights + (size_t)pass * pass_bytes,
                .sums = w->sums,
                .base = (int64_t)part * (int64_t)job->part_bytes,
                .ones_twos = ones_twos.bytes,
            };

            accumulate(job, &args, 1 + pass + 4 * part, first);
            first = false;
        }
}

/** Tables of 16 codes: 64 bytes. Garbage past the depth only meets index 0 (entry 0). */
BB_AVX2 static inline void make_tables(__m128i codes, uint8_t *dst) {
    /* Lane 0 holds the pairs of groups 0 and 2, lane 1 those of 1 and 3: (0, a, b, a+b). */
    const __m256i even =
        _mm256_setr_epi8(-1, 0, -1, 0, -1, 2, -1, 2, -1, 8, -1, 8, -1, 10, -1, 10, -1, 4, -1, 4, -1,
                         6, -1, 6, -1, 12, -1, 12, -1, 14, -1, 14);
    const __m256i odd =
        _mm256_setr_epi8(-1, -1, 1, 1, -1, -1, 3, 3, -1, -1, 9, 9, -1, -1, 11, 11, -1, -1, 5, 5, -1,
                         -1, 7, 7, -1, -1, 13, 13, -1, -1, 15, 15);
    const __m256i low = _mm256_setr_epi8(0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3,
                                         0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3);
    const __m256i high = _mm256_setr_epi8(4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7, 4, 4, 4,
                                          4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7);
    const __m256i eight = _mm256_set1_epi8(8);
    const __m256i u = _mm256_broadcastsi128_si256(codes);
    const __m256i pairs =
        _mm256_add_epi8(_mm256_shuffle_epi8(u, even), _mm256_shuffle_epi8(u, odd));
    const __m256i first =
        _mm256_add_epi8(_mm256_shuffle_epi8(pairs, low), _mm256_shuffle_epi8(pairs, high));
    const __m256i second =
        _mm256_add_epi8(_mm256_shuffle_epi8(pairs, _mm256_add_epi8(low, eight)),
                        _mm256_shuffle_epi8(pairs, _mm256_add_epi8(high, eight)));

    _mm256_storeu_si256((void *)dst, first);
    _mm256_storeu_si256((void *)(dst + 32), second);
}

BB_AVX2 static void transform(const bb_conv_desc *desc, const uint8_t *codes, int32_t n,
                              uint8_t *dst, size_t part_bytes, int32_t *sums) {
    const int32_t depth = desc->in_channels / desc->groups;
    const bool two_parts = desc->activation_bits > 4;
    const __m128i nibble = _mm_set1_epi8(15);

    bb_sum_pixels_avx2(desc, codes, n, sums);
    for (int32_t i = 0; i < n * desc->groups; i++, codes += depth) {
        for (int32_t d = 0; d < depth; d += 16) {
            const __m128i u = _mm_loadu_si128((const void *)(codes + d));

            make_tables(_mm_and_si128(u, nibble), dst + (ptrdiff_t)d * 4);
            if (two_parts)
                make_tables(_mm_and_si128(_mm_srli_epi16(u, 4), nibble),
                            dst + part_bytes + (ptrdiff_t)d * 4);
        }
        dst += (ptrdiff_t)(depth + 3) / 4 * 16;
    }
}

static bb_conv_route route_of(const bb_conv_desc *desc) {
    static const uint8_t exact[5] = {0, 63, 21, 9, 4};
    const int32_t bits = desc->activation_bits < 4 ? (int32_t)desc->activation_bits : 4;
    const int32_t depth = desc->in_channels / desc->groups;
    const bool pairs = desc->weight_bits == 2;
    bb_conv_route route = {
        .pixels = 6,
        .block_channels = pairs ? 32 : 64,
        .group_bytes = (size_t)((depth + 3) / 4) * 16,
        .work_bytes = sizeof(work),
        .wants_sums = true,
        .parts = desc->activation_bits > 4 ? 2 : 1,
        .transform = transform,
        .block = block,
        .prepare = prepare,
        .depth = depth,
        .schedule = exact[bits],
        .variant = pairs ? 2 : 1,
        .planes = (int32_t)desc->weight_bits,
        .top = (1 << bits) - 1,
        .extra = (1 << desc->weight_bits) - 1,
    };

    bb_route_segments(desc, &route);
    route.steps = (int32_t)(route.segment_bytes / 16);
    route.block_bytes =
        (size_t)route.segments * (size_t)route.steps * STEP * (size_t)(pairs ? 1 : route.planes);
    return route;
}

static double cost(const bb_conv_desc *desc) {
    const bb_conv_route route = route_of(desc);
    const double pixels = (double)desc->out_height * desc->out_width;
    const double passes = route.parts * (interleaved(&route) ? 1 : route.planes);
    const int32_t block_channels = route.block_channels;
    const double blocks =
        (double)desc->groups *
        ((desc->out_channels / desc->groups + block_channels - 1) / block_channels);
    const double steps = (double)route.segments * route.steps;
    const double chunks =
        route.segments * (double)((route.steps + route.schedule - 1) / route.schedule);
    const double fold = interleaved(&route) ? 10 : 16;
    const double input = (double)desc->in_height * desc->in_width * desc->in_channels;

    return (double)(int64_t)(pixels / 6 + 0.99) * blocks * passes *
               (steps * 7.3 + chunks * fold + 60 + 24 * route.segments) +
           0.35 * route.parts * input;
}

static void put(const bb_conv_route *route, uint8_t *dst, int32_t lane, int32_t segment,
                const int16_t *weights, int32_t n) {
    const size_t plane_bytes = (size_t)route->segments * (size_t)route->steps * STEP;
    const int32_t tap_groups = (int32_t)(route->group_bytes / 16);
    const int32_t vector = lane / (interleaved(route) ? 16 : 32);
    /* Byte pairs: two planes of a channel, or channels i and i+16. */
    const int32_t row =
        vector * 32 + (interleaved(route) ? lane % 16 * 2 : lane % 16 * 2 + lane % 32 / 16);

    dst += (size_t)segment * (size_t)route->steps * STEP + (size_t)row;
    for (int32_t i = 0; i < n; i++) {
        const int32_t d = i % route->depth;
        const size_t group = (size_t)(i / route->depth * tap_groups + d / 4);
        const int32_t v = (weights[i] + route->extra) / 2;

        for (int32_t k = 0; k < route->planes; k++) {
            uint8_t *index = interleaved(route) ? dst + k : dst + (size_t)k * plane_bytes;

            index[group * STEP] |= (uint8_t)((v >> k & 1) << (d % 4));
        }
    }
}

BB_WALK_FUNCTIONS(route_of, put)

const bb_conv_kernel bb_conv_lut_avx2 = {.name = "conv_lut_avx2",
                                         .cpu = BB_CPU_AVX2,
                                         .supports = supports,
                                         .cost = cost,
                                         .packed_size = packed_size,
                                         .pack = pack,
                                         .scratch_size = scratch_size,
                                         .run = run};

#endif
