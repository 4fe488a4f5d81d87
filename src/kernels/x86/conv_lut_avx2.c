/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file conv_lut_avx2.c
 * Look-up convolution "L2x6" (docs/kernels.md): one byte shuffle does 4 products of 32 rows.
 *
 * With w = 2v - W, W = 2^K - 1 and v = sum_k 2^k b_k:  acc = 2*sum_k 2^k L_k - W*sum(u),
 * L_k = sum of the codes u whose weight bit b_k is 1. For every group of four activations of a
 * pixel there is a table T[16] of all subset sums; four weight bits of a row are its index.
 * Four codes of two bits are the number of one of 256 constant tables, and a pixel is transformed
 * into offsets of those.
 * Rows of the kernel are *virtual rows*, one for each channel and plane: 64 of them and 6 pixels
 * make a tile of 12 byte accumulators.
 *
 * Exactness. A table entry is at most 4*A', A' = 2^min(M,4) - 1, so bytes hold
 * T = floor(255 / (4*A')) groups: 63, 21, 9, 4 for M = 1, 2, 3, 4. Then they are folded into 16-bit
 * sums in L1: two planes of a channel lie in neighbouring bytes and are folded with vpmaddubsw
 * [1,2] (at most 3*255, no saturation; sums stay below 65536 for depth <= 65535/(3A')). The odd
 * plane of K = 1 and 3 is kept apart: S += pair of bytes as a 16-bit lane (mod 2^16), H += its high
 * byte; the two row sums are H and S - 256*H mod 2^16, exact while each is below 65536, i.e. for
 * depth <= 65535/A'. Beyond these depths the 16-bit sums are flushed into the 32-bit tile.
 * Codes of 5..8 bits are taken in two parts, u = lo + 16*hi, each with its own tables.
 *
 * Transformed pixel: for each group of four codes 16 bytes per part, or two of an offset.
 * Packed block: [plane or plane pair][segment][group][64 indices].
 */
#include "kernels/registry.h"
#include "kernels/x86/avx2.h"

#if BB_ARCH_X86_64

#include <string.h>

enum {
    STEP = 64,        /**< packed bytes of one group: 64 virtual rows */
    THERE = 0,        /**< transformed pixels hold tables, 16 bytes a group */
    CONSTANT = 1,     /**< they hold offsets of constant tables, 2 bytes a group */
    CHUNKS_MAX = 2048 /**< of one segment */
};

typedef struct loop_args {
    const uint8_t *const *ptr; /* 0 */
    const uint8_t *weights;    /* 8 */
    void *sums;                /* 16: work.sums, and what follows it */
    int64_t segments;          /* 24 */
    const int64_t *chunks;     /* 32: groups of each chunk of a segment, 0 ends */
    int64_t base;              /* 40: first byte within the segment */
    int64_t folds;             /* 48: 0 at first, 1: a chunk waits to be folded, 2: not the first */
    const void *tables;        /* 56: constant ones */
    const uint8_t *const *at;  /* 64: scratch: pointers of the next segment */
    int64_t left;              /* 72: scratch: segments */
} loop_args;

_Static_assert(offsetof(loop_args, left) == 72, "the assembly knows these offsets");

/** Kernel scratch. */
typedef struct work {
    uint16_t sums[2][6][2][16]; /**< S and H */
    uint8_t ones_twos[32];      /**< 768 bytes on: 1,2,1,2... for the fold of pairs */
    int64_t chunks[CHUNKS_MAX + 1], taken[CHUNKS_MAX + 1];
} work;

typedef void (*loop_fn)(loop_args *args);

/** One way through a block: 64 virtual rows. */
typedef struct pass {
    bool pairs;      /**< two planes of 32 channels side by side, else one plane of 64 channels */
    bool first;      /**< of its channels */
    int32_t channel; /**< first channel within the block */
    int32_t plane;   /**< lowest plane */
} pass;

enum { PASSES_MAX = 3 };

/** Planes are taken in pairs, whose fold is cheaper, while there are two. */
static int32_t passes_of(int32_t planes, pass passes[PASSES_MAX]) {
    static const pass one[] = {{false, true, 0, 0}}, two[] = {{true, true, 0, 0}},
                      three[] = {{true, true, 0, 0}, {true, true, 32, 0}, {false, false, 0, 2}},
                      four[] = {{true, true, 0, 0}, {true, false, 0, 2}};
    static const struct {
        const pass *list;
        int32_t n;
    } all[] = {{one, 1}, {two, 1}, {three, 3}, {four, 2}};

    memcpy(passes, all[planes - 1].list, (size_t)all[planes - 1].n * sizeof(*passes));
    return all[planes - 1].n;
}

/** Longest segment whose chunk list fits, at the shortest schedule and one group a code. */
static bool supports(const bb_conv_desc *desc) {
    return desc->native && desc->weight_bits <= 4 &&
           (desc->weight_bits <= 2 || desc->activation_bits <= 4) &&
           bb_segment_length(desc) <= 4 * CHUNKS_MAX;
}

/* clang-format off */
/* The table of a pixel's group: in its transformed row, or a constant whose offset is there. */
#define TABLE_THERE(p) "vbroadcasti128 (%%" p ",%%rax), %%ymm12\n\t"
#define TABLE_CONSTANT(p)                                                                          \
    "movzwl (%%" p ",%%rax), %%esi\n\t"                                                            \
    "vbroadcasti128 (%%r14,%%rsi), %%ymm12\n\t"

#define PIXEL_ADD(table, add, p, a, b)                                                             \
    table(p)                                                                                       \
    "vpshufb %%ymm14, %%ymm12, %%ymm13\n\t"                                                        \
    "vpshufb %%ymm15, %%ymm12, %%ymm12\n\t"                                                        \
    add " %%ymm13, %%ymm" a ", %%ymm" a "\n\t"                                                     \
    add " %%ymm12, %%ymm" b ", %%ymm" b "\n\t"

/* The first group of a chunk: folds what the last chunk left, then starts anew. */
#define PIXEL_SET(table, fold, p, a, at_a, b, at_b)                                                \
    table(p)                                                                                       \
    fold(at_a, a)                                                                                  \
    fold(at_b, b)                                                                                  \
    "vpshufb %%ymm14, %%ymm12, %%ymm" a "\n\t"                                                     \
    "vpshufb %%ymm15, %%ymm12, %%ymm" b "\n\t"

#define FOLD_NONE(at, a) ""

/* S = acc; H = acc >> 8. */
#define SET_PLANE(at, a)                                                                           \
    "vpsrlw $8, %%ymm" a ", %%ymm13\n\t"                                                           \
    "vmovdqa %%ymm" a ", " at "(%%r15)\n\t"                                                        \
    "vmovdqa %%ymm13, 384+" at "(%%r15)\n\t"

/* S += acc; H += acc >> 8. */
#define ADD_PLANE(at, a)                                                                           \
    "vpsrlw $8, %%ymm" a ", %%ymm13\n\t"                                                           \
    "vpaddw " at "(%%r15), %%ymm" a ", %%ymm" a "\n\t"                                             \
    "vpaddw 384+" at "(%%r15), %%ymm13, %%ymm13\n\t"                                               \
    "vmovdqa %%ymm" a ", " at "(%%r15)\n\t"                                                        \
    "vmovdqa %%ymm13, 384+" at "(%%r15)\n\t"

/* S = acc_even + 2*acc_odd. */
#define SET_PAIR(at, a)                                                                            \
    "vpmaddubsw 768(%%r15), %%ymm" a ", %%ymm" a "\n\t"                                            \
    "vmovdqa %%ymm" a ", " at "(%%r15)\n\t"

/* S += acc_even + 2*acc_odd. */
#define ADD_PAIR(at, a)                                                                            \
    "vpmaddubsw 768(%%r15), %%ymm" a ", %%ymm" a "\n\t"                                            \
    "vpaddw " at "(%%r15), %%ymm" a ", %%ymm" a "\n\t"                                             \
    "vmovdqa %%ymm" a ", " at "(%%r15)\n\t"

#define FIRST_GROUP(table, fold)                                                                   \
    PIXEL_SET(table, fold, "r8", "0", "0", "1", "32")                                              \
    PIXEL_SET(table, fold, "r9", "2", "64", "3", "96")                                             \
    PIXEL_SET(table, fold, "r10", "4", "128", "5", "160")                                          \
    PIXEL_SET(table, fold, "r11", "6", "192", "7", "224")                                          \
    PIXEL_SET(table, fold, "r12", "8", "256", "9", "288")                                          \
    PIXEL_SET(table, fold, "r13", "10", "320", "11", "352")

#define ANY_GROUP(table, add)                                                                      \
    PIXEL_ADD(table, add, "r8", "0", "1")                                                          \
    PIXEL_ADD(table, add, "r9", "2", "3")                                                          \
    PIXEL_ADD(table, add, "r10", "4", "5")                                                         \
    PIXEL_ADD(table, add, "r11", "6", "7")                                                         \
    PIXEL_ADD(table, add, "r12", "8", "9")                                                         \
    PIXEL_ADD(table, add, "r13", "10", "11")

#define FOLD_ALL(fold)                                                                             \
    fold("0", "0")   fold("32", "1")  fold("64", "2")   fold("96", "3")                            \
    fold("128", "4") fold("160", "5") fold("192", "6")  fold("224", "7")                           \
    fold("256", "8") fold("288", "9") fold("320", "10") fold("352", "11")

#define LOAD_INDICES "vmovdqa (%%rdx), %%ymm14\n\tvmovdqa 32(%%rdx), %%ymm15\n\t"
#define NEXT_GROUP(bytes) "addq $64, %%rdx\n\taddq $" bytes ", %%rax\n\t"

/**
 * Overwrites the sums with those of `segments` segments: over segments, chunks and groups. A chunk
 * is folded among the look-ups of the next one's first group, so that both overlap.
 */
#define LOOP(table, bytes, sum, set, add)                                                          \
    __asm__ volatile(                                                                              \
        "movq 8(%0), %%rdx\n\t"                                                                    \
        "movq 16(%0), %%r15\n\t"                                                                   \
        "movq 56(%0), %%r14\n\t"                                                                   \
        "movq (%0), %%rsi\n\t"                                                                     \
        "movq %%rsi, 64(%0)\n\t"                                                                   \
        "movq 24(%0), %%rsi\n\t"                                                                   \
        "movq %%rsi, 72(%0)\n"                                                                     \
    "1:\n\t" /* a segment */                                                                       \
        "movq 64(%0), %%rsi\n\t"                                                                   \
        BB_ASM_POINTERS                                                                            \
        "movq %%rsi, 64(%0)\n\t"                                                                   \
        "movq 40(%0), %%rax\n\t"                                                                   \
        "movq 32(%0), %%rbx\n\t"                                                                   \
        "movq (%%rbx), %%rcx\n"                                                                    \
    "2:\n\t" /* a chunk */                                                                         \
        LOAD_INDICES                                                                               \
        "cmpl $1, 48(%0)\n\t"                                                                      \
        "je 5f\n\t"                                                                                \
        "ja 6f\n\t"                                                                                \
        FIRST_GROUP(table, FOLD_NONE)                                                              \
        "movl $1, 48(%0)\n\t"                                                                      \
        "jmp 7f\n"                                                                                 \
    "5:\n\t"                                                                                       \
        FIRST_GROUP(table, set)                                                                    \
        "movl $2, 48(%0)\n\t"                                                                      \
        "jmp 7f\n"                                                                                 \
    "6:\n\t"                                                                                       \
        FIRST_GROUP(table, add)                                                                    \
    "7:\n\t"                                                                                       \
        NEXT_GROUP(bytes)                                                                          \
        "addq $8, %%rbx\n\t"                                                                       \
        "decq %%rcx\n\t"                                                                           \
        "jz 4f\n\t"                                                                                \
        ".p2align 4\n"                                                                             \
    "3:\n\t"                                                                                       \
        LOAD_INDICES                                                                               \
        ANY_GROUP(table, sum)                                                                      \
        NEXT_GROUP(bytes)                                                                          \
        "decq %%rcx\n\t"                                                                           \
        "jnz 3b\n"                                                                                 \
    "4:\n\t"                                                                                       \
        "movq (%%rbx), %%rcx\n\t"                                                                  \
        "testq %%rcx, %%rcx\n\t"                                                                   \
        "jnz 2b\n\t"                                                                               \
        "decq 72(%0)\n\t"                                                                          \
        "jnz 1b\n\t"                                                                               \
        "cmpl $1, 48(%0)\n\t"                                                                      \
        "ja 8f\n\t"                                                                                \
        FOLD_ALL(set)                                                                              \
        "jmp 9f\n"                                                                                 \
    "8:\n\t"                                                                                       \
        FOLD_ALL(add)                                                                              \
    "9:\n\t"                                                                                       \
        "vzeroupper\n\t"                                                                           \
        :                                                                                          \
        : "D"(args)                                                                                \
        : BB_ASM_CLOBBERS)
/* clang-format on */

/* Bytes never pass 255, so saturating additions are the same. */
#define LOOPS(name, table, bytes)                                                                  \
    BB_AVX2 static void name##_plane(loop_args *args) {                                            \
        LOOP(table, bytes, "vpaddb", SET_PLANE, ADD_PLANE);                                        \
    }                                                                                              \
    BB_AVX2 static void name##_pair(loop_args *args) {                                             \
        LOOP(table, bytes, "vpaddb", SET_PAIR, ADD_PAIR);                                          \
    }                                                                                              \
    BB_AVX2 static void name##_plane_saturating(loop_args *args) {                                 \
        LOOP(table, bytes, "vpaddusb", SET_PLANE, ADD_PLANE);                                      \
    }                                                                                              \
    BB_AVX2 static void name##_pair_saturating(loop_args *args) {                                  \
        LOOP(table, bytes, "vpaddusb", SET_PAIR, ADD_PAIR);                                        \
    }

LOOPS(there, TABLE_THERE, "16")
LOOPS(constant, TABLE_CONSTANT, "2")

/** One group of one pixel: two vectors of sums go on. */
BB_AVX2 static inline void add_group(const uint8_t *table, const uint8_t *indices, __m256i a[2]) {
    const __m256i t = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)table));

    for (int v = 0; v < 2; v++)
        a[v] = _mm256_add_epi8(
            a[v], _mm256_shuffle_epi8(t, _mm256_load_si256((const void *)(indices + 32 * v))));
}

/** Byte sums of one chunk of one pixel; even and odd groups apart, so that adds do not wait. */
BB_AVX2 static inline void sum_chunk(const uint8_t *table, const uint8_t *indices, int64_t groups,
                                     __m256i a[2]) {
    __m256i b[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};

    a[0] = a[1] = b[0];
    for (; groups > 1; groups -= 2, table += 32, indices += 2 * STEP) {
        add_group(table, indices, a);
        add_group(table + 16, indices + STEP, b);
    }
    if (groups > 0)
        add_group(table, indices, a);
    for (int v = 0; v < 2; v++)
        a[v] = _mm256_add_epi8(a[v], b[v]);
}

/** As LOOP for a tile of one pixel (fully connected): weights are read once, sums in registers. */
BB_AVX2 static inline void single(const loop_args *args, bool pairs) {
    const __m256i ones_twos = _mm256_set1_epi16(0x0201);
    const uint8_t *indices = args->weights;
    __m256i s[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()}, h[2] = {s[0], s[0]};
    work *w = args->sums;

    for (int64_t segment = 0; segment < args->segments; segment++) {
        const uint8_t *table = args->ptr[segment] + args->base;

        for (const int64_t *chunk = args->chunks; *chunk; chunk++) {
            __m256i a[2];

            sum_chunk(table, indices, *chunk, a);
            table += *chunk * 16;
            indices += *chunk * STEP;
            for (int v = 0; v < 2; v++) {
                s[v] = _mm256_add_epi16(s[v], pairs ? _mm256_maddubs_epi16(a[v], ones_twos) : a[v]);
                h[v] = _mm256_add_epi16(h[v], _mm256_srli_epi16(a[v], 8));
            }
        }
    }
    for (int v = 0; v < 2; v++) {
        _mm256_store_si256((void *)w->sums[0][0][v], s[v]);
        _mm256_store_si256((void *)w->sums[1][0][v], h[v]);
    }
}

BB_AVX2 static void single_plane(loop_args *args) {
    single(args, false);
}

BB_AVX2 static void single_pair(loop_args *args) {
    single(args, true);
}

static loop_fn loop_for(const bb_conv_route *route, bool pairs) {
    static const loop_fn loops[2][2][2] = {
        {{there_plane, there_pair}, {there_plane_saturating, there_pair_saturating}},
        {{constant_plane, constant_pair}, {constant_plane_saturating, constant_pair_saturating}}};

    if (route->pixels == 1)
        return pairs ? single_pair : single_plane;
    return loops[route->variant == CONSTANT][bb_saturating_adds_avx2()][pairs];
}

/** Where a pass over one part goes. */
typedef struct target {
    const bb_tile_job *job;
    pass pass;
    loop_fn loop;
    int32_t shift; /**< weight of its sums */
    bool first;    /**< the tile is overwritten, from -W*sum(u) on */
} target;

/** Moves the 16-bit sums into the tile. */
BB_AVX2 static void flush(target *t) {
    const bb_tile_job *job = t->job;
    const work *w = job->work;
    const __m128i by = _mm_cvtsi32_si128(t->shift);

    for (int32_t p = 0; p < job->n_pixels; p++) {
        const __m256i start = _mm256_set1_epi32(-job->route->extra * job->sums[p]);
        int32_t *acc = job->acc + (ptrdiff_t)p * BB_TILE_STRIDE + t->pass.channel;

        for (int v = 0; v < 2; v++) {
            const __m256i s = _mm256_load_si256((const void *)w->sums[0][p][v]);
            const __m256i h = _mm256_load_si256((const void *)w->sums[1][p][v]);

            if (t->pass.pairs) {
                bb_add_sums_avx2(acc + v * 16, s, by, t->first, start);
            } else {
                const __m256i lo = _mm256_sub_epi16(s, _mm256_slli_epi16(h, 8));

                bb_add_sums_avx2(acc + v * 32, lo, by, t->first, start);
                bb_add_sums_avx2(acc + v * 32 + 16, h, by, t->first, start);
            }
        }
    }
    t->first = false;
}

/** Groups that 16-bit sums hold. */
static int32_t exact_groups(const bb_conv_route *route, bool pairs) {
    return 65535 / (route->top * 4 * (pairs ? 3 : 1));
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

/** Transformed bytes of a group. */
static int32_t table_bytes(const bb_conv_route *route) {
    return route->variant == CONSTANT ? 2 : 16;
}

/** A segment longer than 16-bit sums hold: flushes inside it. */
static void accumulate_long(target *t, loop_args *args) {
    const bb_conv_route *route = t->job->route;
    const int32_t limit = exact_groups(route, t->pass.pairs);
    const int64_t base = args->base;
    work *w = t->job->work;

    args->segments = 1;
    args->chunks = w->taken;
    for (int32_t s = 0; s < route->segments; s++, args->ptr += route->pixels) {
        const int64_t *chunk = w->chunks;
        int64_t groups;

        for (args->base = base; *chunk; args->base += groups * table_bytes(route)) {
            chunk += take_chunks(chunk, limit, w->taken, &groups);
            args->folds = 0;
            t->loop(args);
            flush(t);
            args->weights += groups * STEP;
        }
    }
}

/** One pass and part over the whole window; flushes as often as exactness asks. */
static void accumulate(target *t, loop_args *args) {
    const bb_conv_route *route = t->job->route;
    const int32_t per_call = exact_groups(route, t->pass.pairs) / route->steps;
    const work *w = t->job->work;

    if (per_call == 0) {
        accumulate_long(t, args);
        return;
    }
    args->chunks = w->chunks;
    for (int32_t s = 0; s < route->segments; s += per_call) {
        const int32_t left = route->segments - s;

        args->segments = left < per_call ? left : per_call;
        args->folds = 0;
        t->loop(args);
        flush(t);
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
    for (size_t i = 0; i < sizeof(w->ones_twos); i++)
        w->ones_twos[i] = (uint8_t)(1 + i % 2);
}

static void block(const bb_tile_job *job) {
    const bb_conv_route *route = job->route;
    const size_t pass_bytes = (size_t)route->segments * (size_t)route->steps * STEP;
    work *w = job->work;
    pass passes[PASSES_MAX];
    const int32_t n = passes_of(route->planes, passes);

    for (int32_t i = 0; i < n; i++)
        for (int32_t part = 0; part < route->parts; part++) {
            target t = {.job = job,
                        .pass = passes[i],
                        .loop = loop_for(route, passes[i].pairs),
                        .shift = 1 + passes[i].plane + 4 * part,
                        .first = passes[i].first && part == 0};
            loop_args args = {
                .ptr = job->ptr,
                .weights = job->weights + (size_t)i * pass_bytes,
                .sums = w->sums,
                .base = (int64_t)part * (int64_t)job->part_bytes,
                .tables = bb_two_bit_tables_avx2,
            };

            accumulate(&t, &args);
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

/** Codes of two bits: their four are the number of one of 256 tables. What lies past the depth only
 *  reaches entries that no index has. */
BB_AVX2 static void transform_offsets(const bb_conv_desc *desc, const uint8_t *codes, int32_t n,
                                      uint8_t *dst, size_t part_bytes, int32_t *sums) {
    const int32_t depth = desc->in_channels / desc->groups, groups = (depth + 3) / 4;
    const __m256i bits = _mm256_set1_epi32(0x40100401), sixteens = _mm256_set1_epi16(16);
    const __m256i offset = _mm256_set1_epi32(0xff0);

    (void)part_bytes;
    bb_sum_pixels_avx2(desc, codes, n, sums);
    for (int32_t i = 0; i < n * desc->groups; i++, codes += depth, dst += (ptrdiff_t)groups * 2)
        for (int32_t d = 0; d < depth; d += 32) {
            const __m256i u = _mm256_loadu_si256((const void *)(codes + d));
            const __m256i words = _mm256_maddubs_epi16(u, bits);
            const __m256i at = _mm256_and_si256(_mm256_madd_epi16(words, sixteens), offset);

            _mm_storeu_si128(
                (void *)(dst + d / 2),
                _mm_packus_epi32(_mm256_castsi256_si128(at), _mm256_extracti128_si256(at, 1)));
        }
}

static bb_conv_route route_of(const bb_conv_desc *desc) {
    static const uint8_t exact[5] = {0, 63, 21, 9, 4};
    const int32_t bits = desc->activation_bits < 4 ? (int32_t)desc->activation_bits : 4;
    const int32_t depth = desc->in_channels / desc->groups;
    const bool odd = desc->weight_bits % 2;
    pass passes[PASSES_MAX];
    bb_conv_route route = {
        .pixels = desc->out_height * desc->out_width == 1 ? 1 : 6,
        .block_channels = odd ? 64 : 32,
        .work_bytes = sizeof(work),
        .wants_sums = true,
        .parts = desc->activation_bits > 4 ? 2 : 1,
        .block = block,
        .prepare = prepare,
        .depth = depth,
        .schedule = exact[bits],
        .planes = (int32_t)desc->weight_bits,
        .top = (1 << bits) - 1,
        .extra = (1 << desc->weight_bits) - 1,
    };

    route.variant = bits == 2 && route.pixels > 1 ? CONSTANT : THERE;
    route.transform = route.variant == CONSTANT ? transform_offsets : transform;
    route.group_bytes = (size_t)((depth + 3) / 4) * (size_t)table_bytes(&route);
    bb_route_segments(desc, &route);
    route.steps = (int32_t)(route.segment_bytes / (size_t)table_bytes(&route));
    route.block_bytes = (size_t)route.segments * (size_t)route.steps * STEP *
                        (size_t)passes_of(route.planes, passes);
    return route;
}

/** Cycles: 12 look-ups a step, a fold a chunk, a flush a pass. */
static double cost(const bb_conv_desc *desc) {
    const bb_conv_route route = route_of(desc);
    const double pixels = (double)desc->out_height * desc->out_width;
    const int32_t block_channels = route.block_channels;
    const double blocks =
        (double)desc->groups *
        ((desc->out_channels / desc->groups + block_channels - 1) / block_channels);
    const double steps = (double)route.segments * route.steps;
    const double chunks =
        route.segments * (double)((route.steps + route.schedule - 1) / route.schedule);
    const double input = (double)desc->in_height * desc->in_width * desc->in_channels;
    const double transforming = (route.variant == CONSTANT ? 0.12 : 0.35 * route.parts) * input;
    double cycles = 50;
    pass passes[PASSES_MAX];
    const int32_t n = passes_of(route.planes, passes);

    if (route.pixels == 1) /* the second-level cache gives 64 bytes of indices in two cycles */
        return blocks * (40 + route.parts * n * (steps * 1.7 + chunks * 3 + 50)) + transforming;
    for (int32_t i = 0; i < n; i++)
        cycles += route.parts * (steps * 6.7 + chunks * (passes[i].pairs ? 6 : 10) +
                                 (passes[i].pairs ? 40 : 70) + 12 * route.segments);
    return (double)(int64_t)(pixels / 6 + 0.99) * blocks * cycles + transforming;
}

/** Byte of a channel's plane within the 64 virtual rows of its pass. */
static size_t row_of(const pass *p, int32_t lane, int32_t plane) {
    const int32_t within = lane - p->channel;

    if (p->pairs) /* two planes of a channel side by side */
        return (size_t)(within * 2 + plane - p->plane);
    /* channels i and i+16 of a vector side by side */
    return (size_t)(within / 32 * 32 + within % 16 * 2 + within % 32 / 16);
}

static bool takes(const pass *p, int32_t lane, int32_t plane) {
    return lane >= p->channel && lane < p->channel + (p->pairs ? 32 : 64) && plane >= p->plane &&
           plane < p->plane + (p->pairs ? 2 : 1);
}

static void put(const bb_conv_route *route, uint8_t *dst, int32_t lane, int32_t segment,
                const int16_t *weights, int32_t n) {
    const size_t pass_bytes = (size_t)route->segments * (size_t)route->steps * STEP;
    const int32_t tap_groups = (int32_t)route->group_bytes / table_bytes(route);
    pass passes[PASSES_MAX];
    const int32_t n_passes = passes_of(route->planes, passes);

    dst += (size_t)segment * (size_t)route->steps * STEP;
    for (int32_t p = 0; p < n_passes; p++, dst += pass_bytes)
        for (int32_t k = 0; k < route->planes; k++) {
            if (!takes(&passes[p], lane, k))
                continue;
            for (int32_t i = 0; i < n; i++) {
                const int32_t d = i % route->depth;
                const size_t group = (size_t)(i / route->depth * tap_groups + d / 4);
                const int32_t v = (weights[i] + route->extra) / 2;

                dst[group * STEP + row_of(&passes[p], lane, k)] |=
                    (uint8_t)((v >> k & 1) << (d % 4));
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
