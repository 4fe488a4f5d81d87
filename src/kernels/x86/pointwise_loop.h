/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file pointwise_loop.h
 * What the loops of the 1x1 kernels share: the head of their arguments, and how the assembly finds
 * the pixels of a tile. Pixels lie at equal distances, so registers hold the address of every fifth
 * one, and an operand reaches the four behind it from there.
 */
#ifndef BB_KERNELS_X86_POINTWISE_LOOP_H
#define BB_KERNELS_X86_POINTWISE_LOOP_H

#include "kernels/pointwise.h"
#include "kernels/x86/avx2.h"

#if BB_ARCH_X86_64

#include <stddef.h>

/** The first member of a loop's arguments, whose address is operand 0. Offsets are known to the
 *  assembly. */
typedef struct bb_pointwise_head {
    int64_t n_tiles;      /**< 0: counted down to none */
    const uint8_t *codes; /**< 8: of the first pixel */
    const void *weights;  /**< 16 */
    int32_t *acc;         /**< 24 */
    int64_t stride;       /**< 32: bytes of a pixel's sums */
    int64_t steps;        /**< 40 */
} bb_pointwise_head;

_Static_assert(offsetof(bb_pointwise_head, codes) == 8 &&
                   offsetof(bb_pointwise_head, weights) == 16 &&
                   offsetof(bb_pointwise_head, acc) == 24 &&
                   offsetof(bb_pointwise_head, stride) == 32 &&
                   offsetof(bb_pointwise_head, steps) == 40 && sizeof(bb_pointwise_head) == 48,
               "the assembly knows these offsets");

static inline bb_pointwise_head bb_pointwise_head_of(const bb_pointwise_job *job) {
    return (bb_pointwise_head){
        .n_tiles = job->n_tiles,
        .codes = job->codes,
        .weights = job->weights,
        .acc = job->acc,
        .stride = (int64_t)job->stride * 4,
        .steps = job->route->steps,
    };
}

/** Bytes from behind a tile's first pixel, where its steps end, to the next tile. */
static inline int64_t bb_pointwise_skip(const bb_pointwise_route *route) {
    return route->tile * (int64_t)route->pixel_bytes - 4 * (int64_t)route->steps;
}

/* clang-format off */
/**
 * r8, r9 and r10 = pixels 0, 5 and 10 of the first tile, r13 and r14 = the bytes of one and of
 * three pixels, rax = those of five. `pixel`: offset of a pixel's bytes in the arguments.
 */
#define BB_POINTWISE_BEGIN(pixel)                                                                  \
    "movq 8(%0), %%r8\n\t"                                                                         \
    "movq " pixel "(%0), %%r13\n\t"                                                                \
    "leaq (%%r13,%%r13,2), %%r14\n\t"                                                              \
    "leaq (%%r13,%%r13,4), %%rax\n\t"                                                              \
    "leaq (%%r8,%%rax), %%r9\n\t"                                                                  \
    "leaq (%%r8,%%rax,2), %%r10\n\t"
/* clang-format on */

/** Operands: the pixel that register r points to, and the four behind it. */
#define BB_AT0(r) "(%%" r ")"
#define BB_AT1(r) "(%%" r ",%%r13)"
#define BB_AT2(r) "(%%" r ",%%r13,2)"
#define BB_AT3(r) "(%%" r ",%%r14)"
#define BB_AT4(r) "(%%" r ",%%r13,4)"

#endif
#endif
