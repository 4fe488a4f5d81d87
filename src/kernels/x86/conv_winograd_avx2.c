/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file conv_winograd_avx2.c
 * Winograd convolution (winograd.h) with AVX2: vpmaddubsw into 16-bit sums, 16 channels x 6 blocks.
 *
 * How many steps a 16-bit sum holds follows from the weights that are there, not from the largest
 * there could be: the chunks of a packed block are cut where, for some channel, the products of its
 * positive (or of its negative) weights with the largest code would pass 32767.
 */
#include "kernels/registry.h"
#include "kernels/winograd.h"
#include "kernels/x86/madd_avx2.h"

#if BB_ARCH_X86_64

enum { TILE = 6 };

/** Vertical transform of one column of 32 channels. */
BB_AVX2 static inline void transform_column(const uint8_t *const rows[4], size_t at, __m256i t[4]) {
    const __m256i d0 = _mm256_loadu_si256((const void *)(rows[0] + at));
    const __m256i d1 = _mm256_loadu_si256((const void *)(rows[1] + at));
    const __m256i d2 = _mm256_loadu_si256((const void *)(rows[2] + at));
    const __m256i d3 = _mm256_loadu_si256((const void *)(rows[3] + at));

    t[0] = _mm256_sub_epi8(d0, d2);
    t[1] = _mm256_add_epi8(d1, d2);
    t[2] = _mm256_sub_epi8(d2, d1);
    t[3] = _mm256_sub_epi8(d1, d3);
}

/** Horizontal transform of four columns, plus the offset: bytes from 0 to 4A. */
BB_AVX2 static inline void transform_row(const __m256i c[4], __m256i offset, __m256i both_add,
                                         uint8_t *dst, size_t position_bytes) {
    const __m256i lifted = _mm256_add_epi8(c[2], offset);
    const __m256i u[4] = {
        _mm256_sub_epi8(_mm256_add_epi8(c[0], offset), c[2]),
        _mm256_add_epi8(_mm256_add_epi8(c[1], c[2]), both_add),
        _mm256_sub_epi8(lifted, c[1]),
        _mm256_sub_epi8(_mm256_add_epi8(c[1], offset), c[3]),
    };

    for (size_t i = 0; i < 4; i++)
        _mm256_storeu_si256((void *)(dst + i * position_bytes), u[i]);
}

BB_AVX2 static void transform(const bb_winograd *layout, const uint8_t *const rows[4], int32_t n,
                              uint8_t *dst) {
    const size_t depth = (size_t)layout->desc->in_channels, bytes = layout->position_bytes;
    const __m256i offset = _mm256_set1_epi8((char)(2 * ((1 << layout->desc->activation_bits) - 1)));

    for (size_t d = 0; d < depth; d += 32) {
        uint8_t *out = dst + d;
        __m256i t[4][4]; /* [column][row] */

        transform_column(rows, d, t[2]);
        transform_column(rows, d + depth, t[3]);
        for (int32_t i = 0; i < n; i++, out += layout->block_bytes) {
            const size_t at = d + (size_t)(2 * i + 2) * depth;

            for (int r = 0; r < 4; r++) {
                t[0][r] = t[2][r];
                t[1][r] = t[3][r];
            }
            transform_column(rows, at, t[2]);
            transform_column(rows, at + depth, t[3]);
            for (int r = 0; r < 4; r++)
                transform_row((const __m256i[]){t[0][r], t[1][r], t[2][r], t[3][r]}, offset,
                              r == 1 ? _mm256_setzero_si256() : offset,
                              out + (size_t)(4 * r) * bytes, bytes);
        }
    }
}

typedef struct loop_args {
    const uint8_t *blocks;           /* 0 */
    size_t block_bytes;              /* 8 */
    const uint8_t *weights;          /* 16 */
    const bb_winograd_chunk *chunks; /* 24 */
    int32_t *products;               /* 32 */
} loop_args;

#define ROWS "0", "64", "128", "192", "256", "320"
#define FIRST(fold) BB_MADD_EXPAND(BB_MADD_STEP_FIRST, "vpmaddubsw", fold, ROWS)
#define FOLD(fold) BB_MADD_EXPAND(BB_MADD_FOLD, fold, ROWS)

/** All positions of a tile: products[position][6][16]. */
BB_AVX2 static void loop(const loop_args *args) {
    __asm__ volatile(
        "movq (%0), %%r8\n\t"
        "movq 8(%0), %%rcx\n\t"
        "movq 16(%0), %%rdx\n\t"
        "movq 24(%0), %%rbx\n\t"
        "movq 32(%0), %%r15\n\t"
        "leaq (%%r8,%%rcx), %%r9\n\t"
        "leaq (%%r9,%%rcx), %%r10\n\t"
        "leaq (%%r10,%%rcx), %%r11\n\t"
        "leaq (%%r11,%%rcx), %%r12\n\t"
        "leaq (%%r12,%%rcx), %%r13\n\t"
        "xorl %%eax, %%eax\n\t" BB_ASM_CLEAR "jmp 4f\n\t"
        ".p2align 4\n"
        "1:\n\t" /* a chunk */
        "movzwl 6(%%rbx), %%r14d\n\t"
        "addq %%r14, %%rax\n\t"
        "cmpw $0, 2(%%rbx)\n\t"
        "jne 2f\n\t" FIRST(
            BB_MADD_SET_16) "jmp 3f\n\t"
                            "2:\n\t" FIRST(BB_MADD_ADD_16) "3:\n\t"
                                                           "movzwl 4(%%rbx), %%r14d\n\t"
                                                           "imull $384, %%r14d, %%r14d\n\t"
                                                           "addq %%r14, %%r15\n\t" BB_MADD_NEXT
                                                           "addq $8, %%rbx\n\t"
                                                           "decq %%rcx\n\t"
                                                           "jz 4f\n\t"
                                                           ".p2align 4\n"
                                                           "5:\n\t" BB_MADD_STEP(
                                                               "vpmaddubsw", "vpaddw") BB_MADD_NEXT
        "decq %%rcx\n\t"
        "jnz 5b\n"
        "4:\n\t"
        "movzwl (%%rbx), %%ecx\n\t"
        "testl %%ecx, %%ecx\n\t"
        "jnz 1b\n\t"
        "cmpw $0, 2(%%rbx)\n\t"
        "jne 6f\n\t" FOLD(BB_MADD_SET_16) "jmp 7f\n"
                                          "6:\n\t" FOLD(BB_MADD_ADD_16) "7:\n\t"
                                                                        "vzeroupper\n\t"
        :
        : "D"(args), "m"(bb_words_of_one)
        : BB_ASM_CLOBBERS);
}

static void multiply(const bb_winograd_tile *tile) {
    const loop_args args = {tile->blocks, tile->layout->block_bytes, tile->weights, tile->chunks,
                            tile->products};

    loop(&args);
}

/** Twice the two outputs of one dimension. */
BB_AVX2 static inline void combine_four(const __m256i m[4], __m256i y[2]) {
    const __m256i twice0 = _mm256_add_epi32(m[0], m[0]), twice3 = _mm256_add_epi32(m[3], m[3]);

    y[0] = _mm256_add_epi32(twice0, _mm256_add_epi32(m[1], m[2]));
    y[1] = _mm256_sub_epi32(_mm256_sub_epi32(m[1], m[2]), twice3);
}

/** The four outputs of one block and eight channels, times four (halved: times two). */
BB_AVX2 static inline void combine_block(const int32_t *products, __m256i y[4]) {
    __m256i rows[2][4];

    for (int c = 0; c < 4; c++) {
        __m256i m[4], two[2];

        for (int r = 0; r < 4; r++)
            m[r] = _mm256_load_si256(
                (const void *)(products + (4 * r + c) * TILE * BB_WINOGRAD_CHANNELS));
        combine_four(m, two);
        rows[0][c] = two[0];
        rows[1][c] = two[1];
    }
    combine_four(rows[0], y);
    combine_four(rows[1], y + 2);
}

/** Eight channels from `half` on; intermediate sums may wrap, what is shifted fits 32 bits. */
BB_AVX2 static inline void combine_half(const bb_winograd_tile *tile, int32_t half, bool halved) {
    const bb_winograd_constants *constants = tile->constants;
    const __m256i parity = _mm256_load_si256((const void *)(constants->parity + half));
    const size_t row = (size_t)(2 * BB_WINOGRAD_TILE_MAX) * BB_TILE_STRIDE;
    __m256i add[4];

    for (int i = 0; i < 4; i++)
        add[i] = _mm256_load_si256((const void *)(constants->add[i] + half));
    for (int32_t b = 0; b < tile->n_blocks; b++) {
        int32_t *acc = tile->acc + (ptrdiff_t)b * 2 * BB_TILE_STRIDE + half;
        __m256i y[4];

        combine_block(tile->products + (ptrdiff_t)b * BB_WINOGRAD_CHANNELS + half, y);
        for (int i = 0; i < 4; i++) {
            y[i] = _mm256_srai_epi32(_mm256_add_epi32(y[i], add[i]), halved ? 1 : 2);
            if (halved)
                y[i] = _mm256_add_epi32(
                    y[i], _mm256_and_si256(parity, _mm256_set1_epi32(tile->corners[4 * b + i])));
        }
        _mm256_storeu_si256((void *)acc, y[0]);
        _mm256_storeu_si256((void *)(acc + BB_TILE_STRIDE), y[1]);
        _mm256_storeu_si256((void *)(acc + row), y[2]);
        _mm256_storeu_si256((void *)(acc + row + BB_TILE_STRIDE), y[3]);
    }
}

BB_AVX2 static void combine(const bb_winograd_tile *tile) {
    for (int32_t half = 0; half < BB_WINOGRAD_CHANNELS; half += 8)
        if (tile->layout->halved)
            combine_half(tile, half, true);
        else
            combine_half(tile, half, false);
}

static const bb_winograd_set avx2_set = {.tile = TILE,
                                         .transform = transform,
                                         .sum = bb_sum_pixels_avx2,
                                         .multiply = multiply,
                                         .combine = combine};

/**
 * Cycles: seven for a step, a fold a chunk, the combination, and the transform of the input; 4 %
 * more than measured, because weights take several times the memory of the look-up kernels.
 */
static double cost(const bb_conv_desc *desc) {
    const bb_winograd w = bb_winograd_layout(desc, &avx2_set);
    const double blocks = (double)((desc->out_height + 1) / 2) * w.blocks_wide;
    const double tiles = (double)(int64_t)(blocks / TILE + 0.99);
    const double packs = (desc->out_channels + BB_WINOGRAD_CHANNELS - 1) / BB_WINOGRAD_CHANNELS;
    const double vectors = (desc->in_channels + 31) / 32;
    const double products = 16 * (w.steps * 7.0 + 12);

    return 1.04 * (tiles * packs * (products + 250) + blocks * vectors * 30);
}

BB_WINOGRAD_FUNCTIONS(avx2_set)

const bb_conv_kernel bb_conv_winograd_avx2 = {.name = "conv_winograd_avx2",
                                              .cpu = BB_CPU_AVX2,
                                              .supports = supports,
                                              .cost = cost,
                                              .packed_size = packed_size,
                                              .pack = pack,
                                              .scratch_size = scratch_size,
                                              .run = run};

#endif
