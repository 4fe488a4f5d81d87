/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file madd_avx2.h
 * The loop that the multiply-add kernels share: 16 channels x 6 pixels in 12 accumulators; a step
 * is one 32-bit piece of each pixel (four bytes or two words of activations) times 64 bytes of
 * weights.
 *
 * A *chunk* is a run of steps after which the accumulators are folded into a tile in memory. The
 * fold is done among the products of the next chunk's first step, pixel by pixel, so that neither
 * waits for the other; with the fold at the end of a chunk, short windows lost 55 cycles a block.
 */
#ifndef BB_KERNELS_X86_MADD_AVX2_H
#define BB_KERNELS_X86_MADD_AVX2_H

#include "kernels/x86/avx2.h"

#if BB_ARCH_X86_64

/** Aligned for any vector; an assembly operand. */
static const struct {
    _Alignas(32) int16_t words[16];
} bb_words_of_one = {{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}};

#define BB_MADD_WEIGHTS "vmovdqa (%%rdx), %%ymm14\n\tvmovdqa 32(%%rdx), %%ymm15\n\t"
#define BB_MADD_NEXT "addq $64, %%rdx\n\taddq $4, %%rax\n\t"

/* clang-format off */
/** add(acc, multiply(pixel, weights)) for one pixel. */
#define BB_MADD_PIXEL(multiply, add, p, a, b)                                                      \
    "vpbroadcastd (%%" p ",%%rax), %%ymm12\n\t"                                                    \
    multiply " %%ymm14, %%ymm12, %%ymm13\n\t"                                                      \
    multiply " %%ymm15, %%ymm12, %%ymm12\n\t"                                                      \
    add " %%ymm13, %%ymm" a ", %%ymm" a "\n\t"                                                     \
    add " %%ymm12, %%ymm" b ", %%ymm" b "\n\t"
#define BB_MADD_STEP(multiply, add)                                                                \
    BB_MADD_WEIGHTS                                                                                \
    BB_MADD_PIXEL(multiply, add, "r8", "0", "1")                                                   \
    BB_MADD_PIXEL(multiply, add, "r9", "2", "3")                                                   \
    BB_MADD_PIXEL(multiply, add, "r10", "4", "5")                                                  \
    BB_MADD_PIXEL(multiply, add, "r11", "6", "7")                                                  \
    BB_MADD_PIXEL(multiply, add, "r12", "8", "9")                                                  \
    BB_MADD_PIXEL(multiply, add, "r13", "10", "11")

/** The first step of a chunk for one pixel: folds the last chunk, then starts anew. */
#define BB_MADD_PIXEL_FIRST(multiply, fold, at, p, a, b)                                           \
    "vpbroadcastd (%%" p ",%%rax), %%ymm12\n\t"                                                    \
    fold(at, "0", a)                                                                               \
    fold(at, "32", b)                                                                              \
    multiply " %%ymm14, %%ymm12, %%ymm" a "\n\t"                                                   \
    multiply " %%ymm15, %%ymm12, %%ymm" b "\n\t"
/** at0..at5: byte offsets of the pixels' rows in the tile at r15. */
#define BB_MADD_STEP_FIRST(multiply, fold, at0, at1, at2, at3, at4, at5)                           \
    BB_MADD_WEIGHTS                                                                                \
    BB_MADD_PIXEL_FIRST(multiply, fold, at0, "r8", "0", "1")                                       \
    BB_MADD_PIXEL_FIRST(multiply, fold, at1, "r9", "2", "3")                                       \
    BB_MADD_PIXEL_FIRST(multiply, fold, at2, "r10", "4", "5")                                      \
    BB_MADD_PIXEL_FIRST(multiply, fold, at3, "r11", "6", "7")                                      \
    BB_MADD_PIXEL_FIRST(multiply, fold, at4, "r12", "8", "9")                                      \
    BB_MADD_PIXEL_FIRST(multiply, fold, at5, "r13", "10", "11")

#define BB_MADD_FOLD_PIXEL(fold, at, a, b) fold(at, "0", a) fold(at, "32", b)
#define BB_MADD_FOLD(fold, at0, at1, at2, at3, at4, at5)                                           \
    BB_MADD_FOLD_PIXEL(fold, at0, "0", "1")                                                        \
    BB_MADD_FOLD_PIXEL(fold, at1, "2", "3")                                                        \
    BB_MADD_FOLD_PIXEL(fold, at2, "4", "5")                                                        \
    BB_MADD_FOLD_PIXEL(fold, at3, "6", "7")                                                        \
    BB_MADD_FOLD_PIXEL(fold, at4, "8", "9")                                                        \
    BB_MADD_FOLD_PIXEL(fold, at5, "10", "11")

/* Folds of one accumulator, `half` bytes into its pixel's row. 16-bit sums are widened with words
 * of 1: operand 1. */
#define BB_MADD_SET_16(at, half, a)                                                                \
    "vpmaddwd %1, %%ymm" a ", %%ymm" a "\n\t"                                                      \
    "vmovdqu %%ymm" a ", " at "+" half "(%%r15)\n\t"
#define BB_MADD_ADD_16(at, half, a)                                                                \
    "vpmaddwd %1, %%ymm" a ", %%ymm" a "\n\t"                                                      \
    "vpaddd " at "+" half "(%%r15), %%ymm" a ", %%ymm" a "\n\t"                                    \
    "vmovdqu %%ymm" a ", " at "+" half "(%%r15)\n\t"
#define BB_MADD_SET_32(at, half, a) "vmovdqu %%ymm" a ", " at "+" half "(%%r15)\n\t"
/* clang-format on */

/** Chunks of one block; the same for all blocks. */
typedef struct bb_madd_chunk {
    uint16_t steps; /**< 0 = end */
    uint16_t fold;  /**< what is done with the sums before: a bb_madd_fold */
    uint32_t load;  /**< 1 = begins a segment */
} bb_madd_chunk;

typedef enum bb_madd_fold {
    BB_MADD_KEEP, /**< goes on adding */
    BB_MADD_SET,
    BB_MADD_ADD
} bb_madd_fold;

/** Offsets are known to the assembly. */
typedef struct bb_madd_args {
    const uint8_t *const *ptr;   /**< 0: [segments][6] */
    const uint8_t *weights;      /**< 8 */
    const bb_madd_chunk *chunks; /**< 16 */
    int32_t *acc;                /**< 24: [6][BB_TILE_STRIDE], block after block 16 further on */
    int64_t n_blocks;            /**< 32 */
    int64_t skip;                /**< 40: bytes between the steps of two blocks */
    int64_t last;                /**< 48: fold of a block's last chunk: 0 = set, 1 = add */
} bb_madd_args;

/** Chunks of a block, in a kernel's work memory. */
typedef struct bb_madd_plan {
    int64_t last; /**< of bb_madd_args */
    bb_madd_chunk chunks[];
} bb_madd_plan;

enum { BB_MADD_CHUNK_MAX = 32768 };

/** Chunks of a segment whose sums hold `exact` steps. */
static inline int32_t bb_madd_chunks(const bb_conv_route *route, int32_t exact) {
    const int32_t most = exact < BB_MADD_CHUNK_MAX ? exact : BB_MADD_CHUNK_MAX;

    return (route->steps + most - 1) / most;
}

static inline size_t bb_madd_plan_bytes(const bb_conv_route *route, int32_t exact) {
    const size_t chunks = (size_t)route->segments * (size_t)bb_madd_chunks(route, exact) + 1;

    return sizeof(bb_madd_plan) + chunks * sizeof(bb_madd_chunk);
}

/** Equal chunks; folded where the next one would pass `exact` steps. */
static inline void bb_madd_make_plan(const bb_conv_route *route, int32_t exact,
                                     bb_madd_plan *plan) {
    const int32_t n = bb_madd_chunks(route, exact);
    bb_madd_chunk *chunk = plan->chunks;
    int32_t held = 0;

    plan->last = 0;
    for (int32_t s = 0; s < route->segments; s++)
        for (int32_t i = 0; i < n; i++, chunk++) {
            const int32_t steps =
                (int32_t)((int64_t)route->steps * (i + 1) / n - (int64_t)route->steps * i / n);

            *chunk = (bb_madd_chunk){.steps = (uint16_t)steps, .load = i == 0};
            if (held + steps > exact) {
                chunk->fold = plan->last ? BB_MADD_ADD : BB_MADD_SET;
                plan->last = 1;
                held = 0;
            }
            held += steps;
        }
    *chunk = (bb_madd_chunk){0};
}

static inline bb_madd_args bb_madd_args_of(const bb_tile_job *job) {
    const bb_conv_route *route = job->route;
    const bb_madd_plan *plan = job->work;

    return (bb_madd_args){
        .ptr = job->ptr,
        .weights = job->weights,
        .chunks = plan->chunks,
        .acc = job->acc,
        .n_blocks = job->n_blocks,
        .skip = (int64_t)route->block_bytes - (int64_t)route->segments * route->steps * 64,
        .last = plan->last,
    };
}

#define BB_MADD_ROWS "0", "256", "512", "768", "1024", "1280"
#define BB_MADD_EXPAND(macro, ...) macro(__VA_ARGS__)

/* clang-format off */
/**
 * acc = sums of the blocks. first(set or add): a chunk's first step; step: any other;
 * set and add: folds. `before`: once.
 */
#define BB_MADD_LOOP(before, first, step, set, add)                                                \
    __asm__ volatile(                                                                              \
        "movq 8(%0), %%rdx\n\t"                                                                    \
        "movq 24(%0), %%r15\n\t"                                                                   \
        "movq 32(%0), %%r14\n\t"                                                                   \
        before                                                                                     \
        BB_ASM_CLEAR                                                                               \
    "1:\n\t" /* a block */                                                                         \
        "movq (%0), %%rsi\n\t"                                                                     \
        "movq 16(%0), %%rbx\n\t"                                                                   \
        BB_ASM_POINTERS                                                                            \
        "xorl %%eax, %%eax\n\t"                                                                    \
        "movzwl (%%rbx), %%ecx\n\t"                                                                \
        "cmpq $0, 48(%0)\n\t"                                                                      \
        "jne 2f\n\t"                                                                               \
        first(set)                                                                                 \
        "jmp 3f\n\t"                                                                               \
    "2:\n\t"                                                                                       \
        first(add)                                                                                 \
    "3:\n\t"                                                                                       \
        "movq 24(%0), %%r15\n\t"                                                                   \
        "addq $64, 24(%0)\n\t"                                                                     \
        BB_MADD_NEXT                                                                               \
        "addq $8, %%rbx\n\t"                                                                       \
        "decl %%ecx\n\t"                                                                           \
        "jz 6f\n\t"                                                                                \
        ".p2align 4\n"                                                                             \
    "4:\n\t"                                                                                       \
        step                                                                                       \
        BB_MADD_NEXT                                                                               \
        "decl %%ecx\n\t"                                                                           \
        "jnz 4b\n"                                                                                 \
    "6:\n\t" /* the next chunk */                                                                  \
        "movzwl (%%rbx), %%ecx\n\t"                                                                \
        "testl %%ecx, %%ecx\n\t"                                                                   \
        "jz 9f\n\t"                                                                                \
        "cmpl $0, 4(%%rbx)\n\t"                                                                    \
        "je 7f\n\t"                                                                                \
        BB_ASM_POINTERS                                                                            \
        "xorl %%eax, %%eax\n"                                                                      \
    "7:\n\t"                                                                                       \
        "addq $8, %%rbx\n\t"                                                                       \
        "cmpw $1, -6(%%rbx)\n\t"                                                                   \
        "jb 4b\n\t"                                                                                \
        "jne 8f\n\t"                                                                               \
        first(set)                                                                                 \
        BB_MADD_NEXT                                                                               \
        "decl %%ecx\n\t"                                                                           \
        "jnz 4b\n\t"                                                                               \
        "jmp 6b\n\t"                                                                               \
    "8:\n\t"                                                                                       \
        first(add)                                                                                 \
        BB_MADD_NEXT                                                                               \
        "decl %%ecx\n\t"                                                                           \
        "jnz 4b\n\t"                                                                               \
        "jmp 6b\n\t"                                                                               \
    "9:\n\t"                                                                                       \
        "addq 40(%0), %%rdx\n\t"                                                                   \
        "decq %%r14\n\t"                                                                           \
        "jnz 1b\n\t"                                                                               \
        "cmpq $0, 48(%0)\n\t"                                                                      \
        "jne 10f\n\t"                                                                              \
        BB_MADD_EXPAND(BB_MADD_FOLD, set, BB_MADD_ROWS)                                            \
        "jmp 11f\n"                                                                                \
    "10:\n\t"                                                                                      \
        BB_MADD_EXPAND(BB_MADD_FOLD, add, BB_MADD_ROWS)                                            \
    "11:\n\t"                                                                                      \
        "vzeroupper\n\t"                                                                           \
        :                                                                                          \
        : "D"(args), "m"(bb_words_of_one)                                                          \
        : BB_ASM_CLOBBERS)
/* clang-format on */

#endif
#endif
