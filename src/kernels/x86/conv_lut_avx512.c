/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file conv_lut_avx512.c
 * Look-up convolution with 64-entry tables: vpermb does six products of 64 virtual rows.
 *
 * As conv_lut_avx2.c, but groups have six activations, so a table holds all 64 subset sums of six
 * codes: at most 6*A', A' the largest code of a part. Bytes hold T = floor(255 / (6*A')) groups,
 * then they are folded into 16-bit sums in registers: planes (K = 1) as S and H, pairs (K = 2) with
 * vpmaddubsw [1,2]. 16-bit sums stay below 65536 for 65535 / (6*A') groups (pairs: / (18*A')), then
 * they are flushed into the 32-bit tile. Codes of 5..8 bits are taken in two parts of ceil(M/2)
 * bits.
 *
 * Planes of an even number of blocks are taken two blocks and four pixels at a time.
 *
 * Tables are large (64 bytes for six codes). Where those of a tile's whole window would not stay in
 * L1, a few segments are taken at a time for all channels, with the 16-bit sums kept in memory.
 *
 * Transformed pixel: 64 bytes for each group, per part. Packed block: [segment][group][vectors of
 * 64 indices].
 */
#include "kernels/registry.h"
#include "kernels/x86/avx512.h"

#if BB_ARCH_X86_64

#include <string.h>

#define BB_VBMI __attribute__((target("avx2,avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")))

enum {
    GROUP = 6,
    TABLE = 64,
    BLOCKS = 8,            /**< of 64 channels, in one call */
    LARGE_BLOCKS = 2,      /**< pairs, where weights are large: one round over the tiles each */
    L1_TABLES = 24 * 1024, /**< tables that one pass over the blocks should not exceed */
    CHUNKS_MAX = 4096
};
enum { PLANES = 1, PAIRS = 2 };
enum { WIDE = 6, DUO = 4 }; /* pixels of a tile */

typedef struct loop_args {
    const uint8_t *const *ptr; /* 0 */
    const uint8_t *weights;    /* 8 */
    void *sums;                /* 16: in and out */
    int64_t segments;          /* 24 */
    const int64_t *chunks;     /* 32: groups of each chunk of a segment, 0 ends */
    int64_t base;              /* 40: first byte within the segment */
    const uint8_t *factors;    /* 48: bytes for vpmaddubsw */
    int64_t twos;              /* 56: chunks of two groups of a segment */
    int64_t odd;               /* 64: 1 = and one of a single group */
    int64_t second;            /* 72: duos: packed bytes from one block to the next */
    const uint8_t *next;       /* 80: weights to fetch from far, 64 bytes a step */
} loop_args;

_Static_assert(offsetof(loop_args, next) == 80, "the assembly knows these offsets");

/** Kernel scratch. */
typedef struct work {
    uint16_t sums[BLOCKS][6][2][32]; /* planes: S and H; pairs: two vectors */
    int64_t chunks[CHUNKS_MAX + 1], taken[CHUNKS_MAX + 1];
} work;

/** A part of the window being added to the sums of all blocks of a call. */
typedef struct sweep {
    const bb_tile_job *job;
    loop_args args;
    size_t offset;  /* packed bytes of a block passed so far */
    int32_t filled; /* groups in the 16-bit sums */
    int32_t shift;
    bool first; /* nothing flushed yet */
} sweep;

static int32_t part_bits(const bb_conv_desc *desc) {
    const int32_t m = (int32_t)desc->activation_bits;

    return m > 4 ? (m + 1) / 2 : m;
}

static bool supports(const bb_conv_desc *desc) {
    return desc->native && desc->weight_bits <= 2 && bb_segment_length(desc) <= 2 * CHUNKS_MAX;
}

/* clang-format off */
#define TABLE_OF(p) "vmovdqu64 (%%" p ",%%rax), %%zmm28\n\t"
#define LOAD(offset, w) "vmovdqa64 " offset "(%%rdx), %%zmm" w "\n\t"
#define LOOK(index, dst) "vpermb %%zmm28, %%zmm" index ", %%zmm" dst "\n\t"
/* Byte sums never pass 255. Saturating additions keep off the pipes of vpermb, plain ones do not.
 */
#define ADD(src, dst) "vpaddusb %%zmm" src ", %%zmm" dst ", %%zmm" dst "\n\t"
#define RESUME(offset, a) "vmovdqu64 " offset "(%%rcx), %%zmm" a "\n\t"
#define STORE(offset, a) "vmovdqu64 %%zmm" a ", " offset "(%%rcx)\n\t"

/* Planes: bytes in 0-5, S in 6-11, H in 12-17. */
#define PLANE_SET(p, a) TABLE_OF(p) LOOK("24", a)
#define PLANE_ADD(p, a) TABLE_OF(p) LOOK("24", "29") ADD("29", a)
#define PLANE_FOLD(a, s, h)                                                                        \
    "vpaddw %%zmm" a ", %%zmm" s ", %%zmm" s "\n\t"                                                \
    "vpsrlw $8, %%zmm" a ", %%zmm" a "\n\t"                                                        \
    "vpaddw %%zmm" a ", %%zmm" h ", %%zmm" h "\n\t"

/* Pairs: bytes in 0-11, sums in 12-23. */
#define PAIR_SET(p, a, b) TABLE_OF(p) LOOK("24", a) LOOK("25", b)
#define PAIR_ADD(p, a, b) TABLE_OF(p) LOOK("24", "29") LOOK("25", "30") ADD("29", a) ADD("30", b)
#define PAIR_FOLD(a, s)                                                                            \
    "vpmaddubsw %%zmm31, %%zmm" a ", %%zmm" a "\n\t"                                               \
    "vpaddw %%zmm" a ", %%zmm" s ", %%zmm" s "\n\t"

/* The same for a whole chunk of two groups (T = 2, M = 4), one pixel after the other. */
#define SECOND_OF(p) "vmovdqu64 64(%%" p ",%%rax), %%zmm27\n\t"
#define LOOK2(index, dst) "vpermb %%zmm27, %%zmm" index ", %%zmm" dst "\n\t"
#define PLANE_TWO(p, s, h)                                                                         \
    TABLE_OF(p)                                                                                    \
    SECOND_OF(p)                                                                                   \
    LOOK("24", "29")                                                                               \
    LOOK2("25", "30")                                                                              \
    ADD("29", "30")                                                                                \
    PLANE_FOLD("30", s, h)
#define PAIR_TWO(p, s, t)                                                                          \
    TABLE_OF(p)                                                                                    \
    SECOND_OF(p)                                                                                   \
    LOOK("24", "29")                                                                               \
    LOOK2("26", "0")                                                                               \
    LOOK("25", "30")                                                                               \
    LOOK2("1", "2")                                                                                \
    ADD("29", "0")                                                                                 \
    ADD("30", "2")                                                                                 \
    PAIR_FOLD("0", s)                                                                              \
    PAIR_FOLD("2", t)

#define POINTERS4                                                                                  \
    "movq (%%rsi), %%r8\n\t"                                                                       \
    "movq 8(%%rsi), %%r9\n\t"                                                                      \
    "movq 16(%%rsi), %%r10\n\t"                                                                    \
    "movq 24(%%rsi), %%r11\n\t"                                                                    \
    "addq $32, %%rsi\n\t"                                                                          \
    "movq 72(%0), %%r12\n\t"

#define BEGIN(resume)                                                                              \
    "movq (%0), %%rsi\n\t"                                                                         \
    "movq 8(%0), %%rdx\n\t"                                                                        \
    "movq 48(%0), %%rcx\n\t"                                                                       \
    "movq 80(%0), %%r15\n\t"                                                                       \
    "vmovdqu64 (%%rcx), %%zmm31\n\t"                                                               \
    "movq 16(%0), %%rcx\n\t"                                                                       \
    resume                                                                                         \
    "movq 24(%0), %%r14\n"
#define NEXT(step_bytes)                                                                           \
    "addq $" step_bytes ", %%rdx\n\t"                                                              \
    "addq $64, %%rax\n\t"
/* Two planes need so many weights that they had better be fetched from far, in each step. With one
 * plane that costs CHUNKED more than it brings; PAIRED fetches either way. */
#define FETCH "prefetcht1 (%%r15)\n\taddq $64, %%r15\n\t"
#define END(store)                                                                                 \
    "movq 16(%0), %%rcx\n\t"                                                                       \
    store                                                                                          \
    "vzeroupper\n\t"

/* Segments of chunks of groups; the first group of a chunk sets, the others add. */
#define CHUNKED(pointers, resume, load, set, add, fetch, step_bytes, fold, store)                  \
    __asm__ volatile(                                                                              \
        BEGIN(resume)                                                                              \
    "1:\n\t" /* a segment */                                                                       \
        pointers                                                                                   \
        "movq 40(%0), %%rax\n\t"                                                                   \
        "movq 32(%0), %%rbx\n"                                                                     \
    "2:\n\t" /* a chunk */                                                                         \
        "movq (%%rbx), %%rcx\n\t"                                                                  \
        "addq $8, %%rbx\n\t"                                                                       \
        load                                                                                       \
        set                                                                                        \
        NEXT(step_bytes)                                                                           \
        "decq %%rcx\n\t"                                                                           \
        "jz 4f\n\t"                                                                                \
        ".p2align 4\n"                                                                             \
    "3:\n\t"                                                                                       \
        load                                                                                       \
        add                                                                                        \
        fetch                                                                                      \
        NEXT(step_bytes)                                                                           \
        "decq %%rcx\n\t"                                                                           \
        "jnz 3b\n"                                                                                 \
    "4:\n\t"                                                                                       \
        fold                                                                                       \
        "cmpq $0, (%%rbx)\n\t"                                                                     \
        "jne 2b\n\t"                                                                               \
        "decq %%r14\n\t"                                                                           \
        "jnz 1b\n\t"                                                                               \
        END(store)                                                                                 \
        :                                                                                          \
        : "D"(args)                                                                                \
        : BB_ASM_CLOBBERS, BB_ASM_CLOBBERS_512)

/* Segments of chunks of two groups, and a last single one where their number is odd. */
#define PAIRED(pointers, resume, load2, two, load, set, step_bytes, fold, store)                   \
    __asm__ volatile(                                                                              \
        BEGIN(resume)                                                                              \
    "1:\n\t" /* a segment */                                                                       \
        pointers                                                                                   \
        "movq 40(%0), %%rax\n\t"                                                                   \
        "movq 56(%0), %%rcx\n\t"                                                                   \
        "testq %%rcx, %%rcx\n\t"                                                                   \
        "jz 3f\n\t"                                                                                \
        ".p2align 4\n"                                                                             \
    "2:\n\t"                                                                                       \
        load2                                                                                      \
        two                                                                                        \
        FETCH                                                                                      \
        NEXT(step_bytes)                                                                           \
        NEXT(step_bytes)                                                                           \
        "decq %%rcx\n\t"                                                                           \
        "jnz 2b\n"                                                                                 \
    "3:\n\t"                                                                                       \
        "cmpq $0, 64(%0)\n\t"                                                                      \
        "je 4f\n\t"                                                                                \
        load                                                                                       \
        set                                                                                        \
        NEXT(step_bytes)                                                                           \
        fold                                                                                       \
    "4:\n\t"                                                                                       \
        "decq %%r14\n\t"                                                                           \
        "jnz 1b\n\t"                                                                               \
        END(store)                                                                                 \
        :                                                                                          \
        : "D"(args)                                                                                \
        : BB_ASM_CLOBBERS, BB_ASM_CLOBBERS_512)

#define PLANES_SETS                                                                                \
    PLANE_SET("r8", "0")  PLANE_SET("r9", "1")  PLANE_SET("r10", "2")                              \
    PLANE_SET("r11", "3") PLANE_SET("r12", "4") PLANE_SET("r13", "5")
#define PLANES_ADDS                                                                                \
    PLANE_ADD("r8", "0")  PLANE_ADD("r9", "1")  PLANE_ADD("r10", "2")                              \
    PLANE_ADD("r11", "3") PLANE_ADD("r12", "4") PLANE_ADD("r13", "5")
#define PLANES_TWOS                                                                                \
    PLANE_TWO("r8", "6", "12")  PLANE_TWO("r9", "7", "13")   PLANE_TWO("r10", "8", "14")           \
    PLANE_TWO("r11", "9", "15") PLANE_TWO("r12", "10", "16") PLANE_TWO("r13", "11", "17")
#define PLANES_FOLDS                                                                               \
    PLANE_FOLD("0", "6", "12") PLANE_FOLD("1", "7", "13")  PLANE_FOLD("2", "8", "14")              \
    PLANE_FOLD("3", "9", "15") PLANE_FOLD("4", "10", "16") PLANE_FOLD("5", "11", "17")
#define PLANES_SUMS(move)                                                                          \
    move("0", "6")    move("64", "12")                                                             \
    move("128", "7")  move("192", "13")                                                            \
    move("256", "8")  move("320", "14")                                                            \
    move("384", "9")  move("448", "15")                                                            \
    move("512", "10") move("576", "16")                                                            \
    move("640", "11") move("704", "17")
/* clang-format on */

BB_VBMI static void loop_planes(const loop_args *args) {
    CHUNKED(BB_ASM_POINTERS, PLANES_SUMS(RESUME), LOAD("0", "24"), PLANES_SETS, PLANES_ADDS, "",
            "64", PLANES_FOLDS, PLANES_SUMS(STORE));
}

BB_VBMI static void loop_planes_twos(const loop_args *args) {
    PAIRED(BB_ASM_POINTERS, PLANES_SUMS(RESUME), LOAD("0", "24") LOAD("64", "25"), PLANES_TWOS,
           LOAD("0", "24"), PLANES_SETS, "64", PLANES_FOLDS, PLANES_SUMS(STORE));
}

/* Tiles of a single pixel, the last ones of 7x7 and 13x13 images. */
#define PLANES_SUM(move) move("0", "6") move("64", "12")

BB_VBMI static void loop_planes_1(const loop_args *args) {
    CHUNKED(BB_ASM_POINTERS, PLANES_SUM(RESUME), LOAD("0", "24"), PLANE_SET("r8", "0"),
            PLANE_ADD("r8", "0"), "", "64", PLANE_FOLD("0", "6", "12"), PLANES_SUM(STORE));
}

BB_VBMI static void loop_planes_twos_1(const loop_args *args) {
    PAIRED(BB_ASM_POINTERS, PLANES_SUM(RESUME), LOAD("0", "24") LOAD("64", "25"),
           PLANE_TWO("r8", "6", "12"), LOAD("0", "24"), PLANE_SET("r8", "0"), "64",
           PLANE_FOLD("0", "6", "12"), PLANES_SUM(STORE));
}

/* clang-format off */
/* Duos: planes of two blocks, four pixels; bytes in 0-7, S in 8-15, H in 16-23. Eight look-ups for
 * six loads, where one block alone is bound by its seven loads for six look-ups. */
#define DUO_LOAD(offset, a, b) LOAD(offset, a) "vmovdqa64 " offset "(%%rdx,%%r12), %%zmm" b "\n\t"
#define DUO_SET(p, a, b) TABLE_OF(p) LOOK("24", a) LOOK("25", b)
#define DUO_ADD(p, a, b) TABLE_OF(p) LOOK("24", "29") LOOK("25", "30") ADD("29", a) ADD("30", b)
#define DUO_SECOND(p) "vmovdqu64 64(%%" p ",%%rax), %%zmm31\n\t"
#define DUO_LOOK2(index, dst) "vpermb %%zmm31, %%zmm" index ", %%zmm" dst "\n\t"
#define DUO_TWO(p, s0, h0, s1, h1)                                                                 \
    TABLE_OF(p)                                                                                    \
    DUO_SECOND(p)                                                                                  \
    LOOK("24", "29")                                                                               \
    DUO_LOOK2("26", "0")                                                                           \
    LOOK("25", "30")                                                                               \
    DUO_LOOK2("27", "1")                                                                           \
    ADD("29", "0")                                                                                 \
    ADD("30", "1")                                                                                 \
    PLANE_FOLD("0", s0, h0)                                                                        \
    PLANE_FOLD("1", s1, h1)
#define DUO_SETS                                                                                   \
    DUO_SET("r8", "0", "1")                                                                        \
    DUO_SET("r9", "2", "3")                                                                        \
    DUO_SET("r10", "4", "5")                                                                       \
    DUO_SET("r11", "6", "7")
#define DUO_ADDS                                                                                   \
    DUO_ADD("r8", "0", "1")                                                                        \
    DUO_ADD("r9", "2", "3")                                                                        \
    DUO_ADD("r10", "4", "5")                                                                       \
    DUO_ADD("r11", "6", "7")
#define DUO_TWOS                                                                                   \
    DUO_TWO("r8", "8", "16", "9", "17")                                                            \
    DUO_TWO("r9", "10", "18", "11", "19")                                                          \
    DUO_TWO("r10", "12", "20", "13", "21")                                                         \
    DUO_TWO("r11", "14", "22", "15", "23")
#define DUO_FOLDS                                                                                  \
    PLANE_FOLD("0", "8", "16")  PLANE_FOLD("1", "9", "17")                                         \
    PLANE_FOLD("2", "10", "18") PLANE_FOLD("3", "11", "19")                                        \
    PLANE_FOLD("4", "12", "20") PLANE_FOLD("5", "13", "21")                                        \
    PLANE_FOLD("6", "14", "22") PLANE_FOLD("7", "15", "23")
/* The second block's sums lie 768 bytes on. */
#define DUO_SUMS(move)                                                                             \
    move("0", "8")    move("64", "16")  move("768", "9")   move("832", "17")                       \
    move("128", "10") move("192", "18") move("896", "11")  move("960", "19")                       \
    move("256", "12") move("320", "20") move("1024", "13") move("1088", "21")                      \
    move("384", "14") move("448", "22") move("1152", "15") move("1216", "23")
/* clang-format on */

BB_VBMI static void loop_duos(const loop_args *args) {
    CHUNKED(POINTERS4, DUO_SUMS(RESUME), DUO_LOAD("0", "24", "25"), DUO_SETS, DUO_ADDS, "", "64",
            DUO_FOLDS, DUO_SUMS(STORE));
}

BB_VBMI static void loop_duos_twos(const loop_args *args) {
    PAIRED(POINTERS4, DUO_SUMS(RESUME), DUO_LOAD("0", "24", "25") DUO_LOAD("64", "26", "27"),
           DUO_TWOS, DUO_LOAD("0", "24", "25"), DUO_SETS, "64", DUO_FOLDS, DUO_SUMS(STORE));
}

#define DUO_SUM(move) move("0", "8") move("64", "16") move("768", "9") move("832", "17")

BB_VBMI static void loop_duos_1(const loop_args *args) {
    CHUNKED(POINTERS4, DUO_SUM(RESUME), DUO_LOAD("0", "24", "25"), DUO_SET("r8", "0", "1"),
            DUO_ADD("r8", "0", "1"), "", "64",
            PLANE_FOLD("0", "8", "16") PLANE_FOLD("1", "9", "17"), DUO_SUM(STORE));
}

BB_VBMI static void loop_duos_twos_1(const loop_args *args) {
    PAIRED(POINTERS4, DUO_SUM(RESUME), DUO_LOAD("0", "24", "25") DUO_LOAD("64", "26", "27"),
           DUO_TWO("r8", "8", "16", "9", "17"), DUO_LOAD("0", "24", "25"), DUO_SET("r8", "0", "1"),
           "64", PLANE_FOLD("0", "8", "16") PLANE_FOLD("1", "9", "17"), DUO_SUM(STORE));
}

/* clang-format off */
#define PAIRS_SETS                                                                                 \
    PAIR_SET("r8", "0", "1")  PAIR_SET("r9", "2", "3")  PAIR_SET("r10", "4", "5")                  \
    PAIR_SET("r11", "6", "7") PAIR_SET("r12", "8", "9") PAIR_SET("r13", "10", "11")
#define PAIRS_ADDS                                                                                 \
    PAIR_ADD("r8", "0", "1")  PAIR_ADD("r9", "2", "3")  PAIR_ADD("r10", "4", "5")                  \
    PAIR_ADD("r11", "6", "7") PAIR_ADD("r12", "8", "9") PAIR_ADD("r13", "10", "11")
#define PAIRS_TWOS                                                                                 \
    PAIR_TWO("r8", "12", "13")  PAIR_TWO("r9", "14", "15")  PAIR_TWO("r10", "16", "17")            \
    PAIR_TWO("r11", "18", "19") PAIR_TWO("r12", "20", "21") PAIR_TWO("r13", "22", "23")
#define PAIRS_FOLDS                                                                                \
    PAIR_FOLD("0", "12") PAIR_FOLD("1", "13") PAIR_FOLD("2", "14")  PAIR_FOLD("3", "15")           \
    PAIR_FOLD("4", "16") PAIR_FOLD("5", "17") PAIR_FOLD("6", "18")  PAIR_FOLD("7", "19")           \
    PAIR_FOLD("8", "20") PAIR_FOLD("9", "21") PAIR_FOLD("10", "22") PAIR_FOLD("11", "23")
#define PAIRS_SUMS(move)                                                                           \
    move("0", "12")   move("64", "13")  move("128", "14") move("192", "15")                        \
    move("256", "16") move("320", "17") move("384", "18") move("448", "19")                        \
    move("512", "20") move("576", "21") move("640", "22") move("704", "23")
#define PAIRS_LOAD LOAD("0", "24") LOAD("64", "25")
#define PAIRS_LOAD2 LOAD("0", "24") LOAD("64", "25") LOAD("128", "26") LOAD("192", "1")
/* clang-format on */

BB_VBMI static void loop_pairs(const loop_args *args) {
    CHUNKED(BB_ASM_POINTERS, PAIRS_SUMS(RESUME), PAIRS_LOAD, PAIRS_SETS, PAIRS_ADDS, FETCH, "128",
            PAIRS_FOLDS, PAIRS_SUMS(STORE));
}

BB_VBMI static void loop_pairs_twos(const loop_args *args) {
    PAIRED(BB_ASM_POINTERS, PAIRS_SUMS(RESUME), PAIRS_LOAD2, PAIRS_TWOS, PAIRS_LOAD, PAIRS_SETS,
           "128", PAIRS_FOLDS, PAIRS_SUMS(STORE));
}

#define PAIRS_SUM(move) move("0", "12") move("64", "13")

BB_VBMI static void loop_pairs_1(const loop_args *args) {
    CHUNKED(BB_ASM_POINTERS, PAIRS_SUM(RESUME), PAIRS_LOAD, PAIR_SET("r8", "0", "1"),
            PAIR_ADD("r8", "0", "1"), FETCH, "128", PAIR_FOLD("0", "12") PAIR_FOLD("1", "13"),
            PAIRS_SUM(STORE));
}

BB_VBMI static void loop_pairs_twos_1(const loop_args *args) {
    PAIRED(BB_ASM_POINTERS, PAIRS_SUM(RESUME), PAIRS_LOAD2, PAIR_TWO("r8", "12", "13"), PAIRS_LOAD,
           PAIR_SET("r8", "0", "1"), "128", PAIR_FOLD("0", "12") PAIR_FOLD("1", "13"),
           PAIRS_SUM(STORE));
}

static const uint8_t pair_factors[64] = {
    1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2,
    1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2};
/** acc[0..31]: (acc or start) + (16-bit sums << shift). */
BB_VBMI static inline void add_sums(int32_t *acc, __m512i sums, __m128i shift, bool first,
                                    __m512i start) {
    __m512i lo = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(sums));
    __m512i hi = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(sums, 1));

    lo = _mm512_sll_epi32(lo, shift);
    hi = _mm512_sll_epi32(hi, shift);
    _mm512_storeu_si512(acc, _mm512_add_epi32(lo, first ? start : _mm512_loadu_si512(acc)));
    _mm512_storeu_si512(acc + 16,
                        _mm512_add_epi32(hi, first ? start : _mm512_loadu_si512(acc + 16)));
}

/** Moves the 16-bit sums of one block into its tile; the first time it starts from -W*sum(u). */
BB_VBMI static void flush_block(const sweep *s, int32_t b) {
    const bb_tile_job *job = s->job;
    work *w = job->work;
    const __m128i by = _mm_cvtsi32_si128(s->shift);
    int32_t *tile = job->acc + (ptrdiff_t)b * BB_TILE_PIXELS_MAX * BB_TILE_STRIDE;

    for (int32_t p = 0; p < job->n_pixels; p++) {
        const __m512i start = _mm512_set1_epi32(-job->route->extra * job->sums[p]);
        int32_t *acc = tile + (ptrdiff_t)p * BB_TILE_STRIDE;
        __m512i lo = _mm512_loadu_si512(w->sums[b][p][0]);
        const __m512i hi = _mm512_loadu_si512(w->sums[b][p][1]);

        if (job->route->variant == PLANES)
            lo = _mm512_sub_epi16(lo, _mm512_slli_epi16(hi, 8));
        add_sums(acc, lo, by, s->first, start);
        add_sums(acc + 32, hi, by, s->first, start);
    }
}

/** Empties the 16-bit sums of all blocks into the tiles. */
static void flush(sweep *s) {
    work *w = s->job->work;

    for (int32_t b = 0; b < s->job->n_blocks; b++)
        flush_block(s, b);
    memset(w->sums, 0, (size_t)s->job->n_blocks * sizeof(w->sums[0]));
    s->first = false;
    s->filled = 0;
}

/** Chunks of two groups are taken as such; only pieces of long segments come as chunk lists. */
static void loop(const bb_tile_job *job, const loop_args *args) {
    static void (*const loops[3][2][2])(const loop_args *args) = {
        {{loop_planes, loop_planes_1}, {loop_planes_twos, loop_planes_twos_1}},
        {{loop_duos, loop_duos_1}, {loop_duos_twos, loop_duos_twos_1}},
        {{loop_pairs, loop_pairs_1}, {loop_pairs_twos, loop_pairs_twos_1}},
    };
    const int kind = job->route->variant == PAIRS ? 2 : job->route->pixels == DUO ? 1 : 0;

    loops[kind][!args->chunks][job->n_pixels == 1](args);
}

/** Groups that 16-bit sums hold. */
static int32_t exact_groups(const bb_conv_route *route) {
    return 65535 / (route->top * GROUP * (route->variant == PAIRS ? 3 : 1));
}

static size_t step_bytes(const bb_conv_route *route) {
    return (size_t)TABLE * (size_t)route->variant;
}

/** Adds what args describe, `groups` in all, to the sums of every block. */
static void add_groups(sweep *s, int32_t groups) {
    const bb_conv_route *route = s->job->route;
    work *w = s->job->work;

    if (s->filled + groups > exact_groups(route))
        flush(s);
    for (int32_t b = 0; b < s->job->n_blocks; b += route->pixels == DUO ? 2 : 1) {
        s->args.weights = s->job->weights + (size_t)b * route->block_bytes + s->offset;
        s->args.sums = w->sums[b];
        loop(s->job, &s->args);
        s->args.next += (ptrdiff_t)groups * (TABLE / 2);
    }
    s->filled += groups;
    s->offset += (size_t)groups * step_bytes(route);
}

/** Chunks that stay within limit groups, zero-terminated; returns how many. */
static size_t take_chunks(const int64_t *chunk, int32_t limit, int64_t *taken, int32_t *groups) {
    size_t n = 0;

    for (*groups = 0; chunk[n] && *groups + chunk[n] <= limit; n++) {
        taken[n] = chunk[n];
        *groups += (int32_t)chunk[n];
    }
    taken[n] = 0;
    return n;
}

/** A segment longer than 16-bit sums hold, piece by piece. */
static void add_long_segment(sweep *s) {
    const bb_conv_route *route = s->job->route;
    const int64_t base = s->args.base;
    work *w = s->job->work;
    const int64_t *chunk = w->chunks;
    int32_t groups;

    s->args.chunks = w->taken;
    for (; *chunk; s->args.base += (int64_t)groups * TABLE) {
        chunk += take_chunks(chunk, exact_groups(route), w->taken, &groups);
        add_groups(s, groups);
    }
    s->args.base = base;
}

/** One part of the codes over the whole window, a few segments at a time. */
static void add_part(sweep *s) {
    const bb_conv_route *route = s->job->route;
    const work *w = s->job->work;

    for (int32_t i = 0; i < route->segments; i += (int32_t)s->args.segments) {
        const int32_t left = route->segments - i;

        s->args.segments = left < route->call_segments ? left : route->call_segments;
        if (route->steps > exact_groups(route)) {
            add_long_segment(s);
        } else {
            s->args.chunks = route->schedule == 2 ? NULL : w->chunks;
            add_groups(s, (int32_t)s->args.segments * route->steps);
        }
        s->args.ptr += s->args.segments * route->pixels;
    }
}

static void block(const bb_tile_job *job) {
    const bb_conv_route *route = job->route;
    work *w = job->work;
    sweep s = {.job = job, .first = true};

    memset(w->sums, 0, (size_t)job->n_blocks * sizeof(w->sums[0]));
    for (int32_t part = 0; part < route->parts; part++) {
        s.args = (loop_args){
            .ptr = job->ptr,
            .base = (int64_t)part * (int64_t)job->part_bytes,
            .factors = pair_factors,
            .twos = route->steps / 2,
            .odd = route->steps % 2,
            .second = (int64_t)route->block_bytes,
            .next = job->next,
        };
        s.offset = 0;
        s.shift = 1 + part * route->part_bits;
        add_part(&s);
        flush(&s);
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

/** Constant operands of the table builder. */
typedef struct table_shuffles {
    __m512i triple[3];       /* code j of each of 8 triples, 8 times */
    __mmask64 in_subset[3];  /* entries whose subset has code j */
    __m512i low[4], high[4]; /* the two triples' entries for each table */
} table_shuffles;

BB_VBMI static void make_shuffles(table_shuffles *s) {
    uint8_t bytes[64];

    for (int j = 0; j < 3; j++) {
        for (int i = 0; i < 64; i++)
            bytes[i] = (uint8_t)(i / 8 * 3 + j);
        s->triple[j] = _mm512_loadu_si512(bytes);
    }
    s->in_subset[0] = 0xaaaaaaaaaaaaaaaau;
    s->in_subset[1] = 0xccccccccccccccccu;
    s->in_subset[2] = 0xf0f0f0f0f0f0f0f0u;
    for (int g = 0; g < 4; g++) {
        for (int i = 0; i < 64; i++)
            bytes[i] = (uint8_t)(16 * g + i % 8);
        s->low[g] = _mm512_loadu_si512(bytes);
        for (int i = 0; i < 64; i++)
            bytes[i] = (uint8_t)(16 * g + 8 + i / 8);
        s->high[g] = _mm512_loadu_si512(bytes);
    }
}

/** n <= 4 tables of six codes each. Codes past the depth only matter to indices never used. */
BB_VBMI static inline void make_tables(const table_shuffles *s, __m256i codes, int32_t n,
                                       uint8_t *dst) {
    const __m512i u = _mm512_castsi256_si512(codes);
    const __m512i triples = _mm512_add_epi8(
        _mm512_maskz_permutexvar_epi8(s->in_subset[0], s->triple[0], u),
        _mm512_add_epi8(_mm512_maskz_permutexvar_epi8(s->in_subset[1], s->triple[1], u),
                        _mm512_maskz_permutexvar_epi8(s->in_subset[2], s->triple[2], u)));

    for (int32_t g = 0; g < n; g++)
        _mm512_storeu_si512(dst + (ptrdiff_t)g * TABLE,
                            _mm512_add_epi8(_mm512_permutexvar_epi8(s->low[g], triples),
                                            _mm512_permutexvar_epi8(s->high[g], triples)));
}

BB_VBMI static void transform(const bb_conv_desc *desc, const uint8_t *codes, int32_t n,
                              uint8_t *dst, size_t part_bytes, int32_t *sums) {
    const int32_t depth = desc->in_channels / desc->groups, tables = (depth + GROUP - 1) / GROUP;
    const int32_t bits = part_bits(desc);
    const bool two_parts = bits < (int32_t)desc->activation_bits;
    const __m256i low = _mm256_set1_epi8((char)((1 << bits) - 1));
    const __m128i shift = _mm_cvtsi32_si128(bits);
    table_shuffles s;

    make_shuffles(&s);
    bb_sum_pixels_avx2(desc, codes, n, sums);
    for (int32_t i = 0; i < n * desc->groups; i++, codes += depth) {
        for (int32_t t = 0; t < tables; t += 4) {
            const __m256i u = _mm256_loadu_si256((const void *)(codes + (ptrdiff_t)t * GROUP));
            const int32_t count = tables - t < 4 ? tables - t : 4;
            uint8_t *out = dst + (ptrdiff_t)t * TABLE;

            make_tables(&s, _mm256_and_si256(u, low), count, out);
            if (two_parts)
                make_tables(&s, _mm256_and_si256(_mm256_srl_epi16(u, shift), low), count,
                            out + part_bytes);
        }
        dst += (ptrdiff_t)tables * TABLE;
    }
}

/** Segments whose tables a tile finds in L1 again for every block, within the 16-bit limit. */
static int32_t segments_per_call(const bb_conv_desc *desc, const bb_conv_route *route) {
    const int32_t columns =
        (route->pixels - 1) * desc->stride[1] + (bb_route_merged(desc) ? desc->kernel[1] : 1);
    const size_t bytes = (size_t)columns * route->group_bytes;
    const int32_t exact = exact_groups(route) / route->steps;
    int32_t n = (int32_t)(L1_TABLES / bytes);

    n = n > exact ? exact : n;
    n = n > route->segments ? route->segments : n;
    return n < 1 ? 1 : n;
}

static bb_conv_route route_of(const bb_conv_desc *desc) {
    const int32_t depth = desc->in_channels / desc->groups, bits = part_bits(desc);
    const int32_t blocks =
        (desc->out_channels / desc->groups + BB_TILE_STRIDE - 1) / BB_TILE_STRIDE;
    bb_conv_route route = {
        .pixels = desc->weight_bits == 1 && blocks % 2 == 0 ? DUO : WIDE,
        .block_channels = BB_TILE_STRIDE,
        .call_blocks = blocks < BLOCKS ? blocks : BLOCKS,
        .group_bytes = (size_t)((depth + GROUP - 1) / GROUP) * TABLE,
        .work_bytes = sizeof(work),
        .wants_sums = true,
        .parts = bits < (int32_t)desc->activation_bits ? 2 : 1,
        .transform = transform,
        .block = block,
        .prepare = prepare,
        .depth = depth,
        .variant = (int32_t)desc->weight_bits,
        .part_bits = bits,
        .top = (1 << bits) - 1,
        .extra = (1 << desc->weight_bits) - 1,
    };

    route.schedule = 255 / (GROUP * route.top);
    bb_route_segments(desc, &route);
    route.steps = (int32_t)(route.segment_bytes / TABLE);
    route.call_segments = segments_per_call(desc, &route);
    route.block_bytes = (size_t)route.segments * (size_t)route.steps * step_bytes(&route);
    if (route.variant == PAIRS && route.call_blocks > LARGE_BLOCKS && bb_route_large(desc, &route))
        route.call_blocks = LARGE_BLOCKS;
    return route;
}

/** Cycles, fitted on Zen 5: tables in, look-ups, folds, and what every block and segment costs. */
static double cost(const bb_conv_desc *desc) {
    const bb_conv_route route = route_of(desc);
    const double pixels = (double)desc->out_height * desc->out_width;
    const double tiles = (double)(int64_t)((pixels + 5) / 6);
    const double blocks = (double)desc->groups * ((desc->out_channels / desc->groups + 63) / 64);
    const double steps = (double)route.segments * route.steps;
    const double input = (double)desc->in_height * desc->in_width * desc->in_channels;
    const bool single = pixels == 1; /* waits for weights */
    const double step = single                    ? (route.variant == PLANES ? 1.2 : 2.4)
                        : route.pixels == DUO     ? 4.4
                        : route.variant == PLANES ? 5.2
                                                  : 8.2;
    const double fold = (single                    ? 1.5
                         : route.pixels == DUO     ? 4.0
                         : route.variant == PLANES ? 6.0
                                                   : 8.0) /
                        route.schedule;
    const double block =
        steps * (step + fold) * (route.parts > 1 ? 1.1 : 1) + 120 + 20 * route.segments;

    return tiles * (blocks * route.parts * block + 15 * route.segments) +
           0.55 * route.parts * input;
}

static void put(const bb_conv_route *route, uint8_t *dst, int32_t lane, int32_t segment,
                const int16_t *weights, int32_t n) {
    const size_t step = step_bytes(route);
    const int32_t tap_groups = (int32_t)(route->group_bytes / TABLE), planes = route->variant;
    /* Planes: channels i and i+32 share a 16-bit lane. Else the planes of a channel do. */
    const int32_t row = planes == PLANES ? lane % 32 * 2 + lane / 32 : lane * planes;

    dst += (size_t)segment * (size_t)route->steps * step + (size_t)row;
    for (int32_t i = 0; i < n; i++) {
        const int32_t d = i % route->depth;
        const size_t group = (size_t)(i / route->depth * tap_groups + d / GROUP);
        const int32_t v = (weights[i] + route->extra) / 2;

        for (int32_t k = 0; k < planes; k++)
            dst[group * step + (size_t)k] |= (uint8_t)((v >> k & 1) << (d % GROUP));
    }
}

BB_WALK_FUNCTIONS(route_of, put)

const bb_conv_kernel bb_conv_lut_avx512 = {
    .name = "conv_lut_avx512",
    .cpu = BB_CPU_AVX2 | BB_CPU_AVX512 | BB_CPU_AVX512_VNNI | BB_CPU_AVX512_VBMI,
    .supports = supports,
    .cost = cost,
    .packed_size = packed_size,
    .pack = pack,
    .scratch_size = scratch_size,
    .run = run,
};

#endif
