/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file conv_swapped_avx2.c
 * Look-up with roles exchanged, for codes of one bit and weights of two to four: 64 pixels in the
 * lanes, 6 channels at a time.
 *
 * The table of four products can be made from either side. Here it holds the subset sums of four
 * weights, and four code bits of a pixel are its index; so a look-up does four products of 32
 * pixels whatever the weights are, where tables of codes need one for each bit of the weights.
 * Two-bit weights have 256 tables, which are constants (4 KB); weights of more bits are taken in
 * two parts, v = v0 + 4*v1. Code bits lie in planes: [row][group of four channels][column]. The
 * windows of 64 pixels are gathered once for all channels; sums come out channel by channel and are
 * transposed.
 *
 * Exactness. A table entry is at most 12, so bytes hold T = 21 groups; then S += pairs of bytes as
 * 16-bit lanes, H += their high bytes, and the pixels are H and S - 256*H modulo 2^16, as in
 * conv_lut_avx2.c. supports() keeps W times the depth below 65536, W = 2^K - 1.
 * acc = 2*sum(u v) - W*sum(u).
 *
 * Packed block: [part][group of all taps][6 channels] uint16 offsets of tables.
 */
#include "kernels/layout.h"
#include "kernels/registry.h"
#include "kernels/x86/avx2.h"

#if BB_ARCH_X86_64

#include <string.h>

enum {
    PIXELS = 64,
    BLOCK = 6,           /**< channels of the inner loop */
    EMITTED = 8 * BLOCK, /**< channels handed to the epilogue together */
    CHUNK = 21,          /**< groups that bytes hold */
    SLACK = 64
};

/** Offsets are known to the assembly. */
typedef struct loop_args {
    const uint16_t *offsets; /* 0: [group][6 channels] */
    const uint8_t *indices;  /* 8: [group][64 pixels] */
    const void *tables;      /* 16 */
    uint16_t *sums;          /* 24: [6 channels][2 vectors][S, H][16] */
    int64_t groups;          /* 32 */
} loop_args;

_Static_assert(offsetof(loop_args, groups) == 32, "the assembly knows these offsets");

/* clang-format off */
#define INDICES                                                                                    \
    "vmovdqa (%%rdx), %%ymm14\n\t"                                                                 \
    "vmovdqa 32(%%rdx), %%ymm15\n\t"                                                               \
    "addq $64, %%rdx\n\t"
#define TABLE(at)                                                                                  \
    "movzwl " at "(%%rsi), %%eax\n\t"                                                              \
    "vbroadcasti128 (%%r8,%%rax), %%ymm12\n\t"
#define LOOK_UP(a, b)                                                                              \
    "vpshufb %%ymm14, %%ymm12, %%ymm" a "\n\t"                                                     \
    "vpshufb %%ymm15, %%ymm12, %%ymm" b "\n\t"
#define ADD(add, at, a, b, row)                                                                    \
    TABLE(at)                                                                                      \
    LOOK_UP("13", "12")                                                                            \
    add " %%ymm13, %%ymm" a ", %%ymm" a "\n\t"                                                     \
    add " %%ymm12, %%ymm" b ", %%ymm" b "\n\t"
/* Four vectors of 16-bit sums from two of bytes, stored or added. */
#define WIDEN_SET(a, s, h)                                                                         \
    "vmovdqa %%ymm" a ", " s "(%%r9)\n\t"                                                          \
    "vpsrlw $8, %%ymm" a ", %%ymm" a "\n\t"                                                        \
    "vmovdqa %%ymm" a ", " h "(%%r9)\n\t"
#define WIDEN_ADD(a, s, h)                                                                         \
    "vpaddw " s "(%%r9), %%ymm" a ", %%ymm13\n\t"                                                  \
    "vmovdqa %%ymm13, " s "(%%r9)\n\t"                                                             \
    "vpsrlw $8, %%ymm" a ", %%ymm" a "\n\t"                                                        \
    "vpaddw " h "(%%r9), %%ymm" a ", %%ymm" a "\n\t"                                               \
    "vmovdqa %%ymm" a ", " h "(%%r9)\n\t"
#define WIDEN_NOT(a, s, h) ""
#define FOLD(widen, at, a, b, row)                                                                 \
    widen(a, row "+0", row "+32")                                                                  \
    widen(b, row "+64", row "+96")
/* The first group of a chunk: folds what the last one left. */
#define FIRST(widen, at, a, b, row)                                                                \
    TABLE(at)                                                                                      \
    FOLD(widen, at, a, b, row)                                                                     \
    LOOK_UP(a, b)
#define CHANNELS(what, how)                                                                        \
    what(how, "0", "0", "1", "0")                                                                  \
    what(how, "2", "2", "3", "128")                                                                \
    what(how, "4", "4", "5", "256")                                                                \
    what(how, "6", "6", "7", "384")                                                                \
    what(how, "8", "8", "9", "512")                                                                \
    what(how, "10", "10", "11", "640")
#define NEXT "addq $12, %%rsi\n\t"
/* rcx = groups of the next chunk; rbx loses them. */
#define TAKE_CHUNK                                                                                 \
    "movl %1, %%ecx\n\t"                                                                           \
    "cmpq %%rcx, %%rbx\n\t"                                                                        \
    "cmovbq %%rbx, %%rcx\n\t"                                                                      \
    "subq %%rcx, %%rbx\n\t"

#define LOOP(add)                                                                                  \
    __asm__ volatile(                                                                              \
        "movq (%0), %%rsi\n\t"                                                                     \
        "movq 8(%0), %%rdx\n\t"                                                                    \
        "movq 16(%0), %%r8\n\t"                                                                    \
        "movq 24(%0), %%r9\n\t"                                                                    \
        "movq 32(%0), %%rbx\n\t"                                                                   \
        "xorl %%r11d, %%r11d\n\t"                                                                  \
        TAKE_CHUNK                                                                                 \
        INDICES                                                                                    \
        CHANNELS(FIRST, WIDEN_NOT)                                                                 \
        NEXT                                                                                       \
        "jmp 2f\n\t"                                                                               \
        ".p2align 4\n"                                                                             \
    "1:\n\t"                                                                                       \
        INDICES                                                                                    \
        CHANNELS(ADD, add)                                                                         \
        NEXT                                                                                       \
    "2:\n\t"                                                                                       \
        "decq %%rcx\n\t"                                                                           \
        "jnz 1b\n\t"                                                                               \
        "testq %%rbx, %%rbx\n\t"                                                                   \
        "jz 4f\n\t"                                                                                \
        TAKE_CHUNK                                                                                 \
        INDICES                                                                                    \
        "testl %%r11d, %%r11d\n\t"                                                                 \
        "jnz 3f\n\t"                                                                               \
        "movl $1, %%r11d\n\t"                                                                      \
        CHANNELS(FIRST, WIDEN_SET)                                                                 \
        NEXT                                                                                       \
        "jmp 2b\n"                                                                                 \
    "3:\n\t"                                                                                       \
        CHANNELS(FIRST, WIDEN_ADD)                                                                 \
        NEXT                                                                                       \
        "jmp 2b\n"                                                                                 \
    "4:\n\t" /* the last fold */                                                                   \
        "testl %%r11d, %%r11d\n\t"                                                                 \
        "jnz 5f\n\t"                                                                               \
        CHANNELS(FOLD, WIDEN_SET)                                                                  \
        "jmp 6f\n"                                                                                 \
    "5:\n\t"                                                                                       \
        CHANNELS(FOLD, WIDEN_ADD)                                                                  \
    "6:\n\t"                                                                                       \
        "vzeroupper\n\t"                                                                           \
        :                                                                                          \
        : "D"(args), "i"(CHUNK)                                                                    \
        : BB_ASM_CLOBBERS)
/* clang-format on */

/** args->sums = sums of all groups. Bytes never pass 255, so saturation changes nothing. */
BB_AVX2 static void loop(const loop_args *args) {
    LOOP("vpaddb");
}

BB_AVX2 static void loop_saturating(const loop_args *args) {
    LOOP("vpaddusb");
}

/* ---- frame ----------------------------------------------------------------------------------- */

typedef struct frame {
    const bb_conv_desc *desc;
    const uint8_t *in;
    int32_t groups; /**< of four channels of a pixel */
    int32_t taps;
    int32_t pieces; /**< at most, of output rows in a tile */
    int32_t slots;  /**< rows of the ring */
    size_t pitch;   /**< bytes of a group's plane of a row */
    uint8_t *ring, *pad_row, *indices;
    int32_t *tags;           /**< input row in each slot */
    const uint8_t **rows;    /**< [pieces][kh] */
    uint16_t *sums, *planar; /**< of the inner loop; [EMITTED][PIXELS] */
    int32_t *window_sums, *acc;
} frame;

/** A run of output pixels of one row in a tile. */
typedef struct piece {
    int32_t x, length;
} piece;

/** Lays out the scratch memory (base NULL only counts); returns its size. */
static size_t set_frame(frame *f, const bb_conv_desc *desc, uint8_t *base) {
    const int32_t columns = desc->out_width + (desc->kernel[1] - 1) * desc->dilation[1];
    size_t used = 0, row_bytes;

    f->desc = desc;
    f->groups = desc->in_channels / 4;
    f->taps = desc->kernel[0] * desc->kernel[1];
    f->pieces = (PIXELS - 2) / desc->out_width + 2;
    f->slots = (f->pieces - 1) * desc->stride[0] + (desc->kernel[0] - 1) * desc->dilation[0] + 1;
    f->pitch = (size_t)(columns > desc->in_width + desc->pad_begin[1]
                            ? columns
                            : desc->in_width + desc->pad_begin[1]) +
               SLACK;
    row_bytes = (size_t)f->groups * f->pitch;
    f->ring = bb_carve(base, &used, (size_t)f->slots * row_bytes + SLACK);
    f->pad_row = bb_carve(base, &used, row_bytes + SLACK);
    f->indices = bb_carve(base, &used, (size_t)f->taps * (size_t)f->groups * PIXELS + SLACK);
    f->tags = bb_carve(base, &used, (size_t)f->slots * sizeof(*f->tags));
    f->rows = bb_carve(base, &used, (size_t)f->pieces * (size_t)desc->kernel[0] * sizeof(*f->rows));
    f->sums = bb_carve(base, &used, BLOCK * 4 * 16 * sizeof(*f->sums));
    f->planar = bb_carve(base, &used, EMITTED * PIXELS * sizeof(*f->planar));
    f->window_sums = bb_carve(base, &used, PIXELS * sizeof(*f->window_sums));
    f->acc = bb_carve(base, &used, PIXELS * EMITTED * sizeof(*f->acc));
    return used;
}

BB_AVX2 static inline void transpose_bytes(__m128i t[16]) {
    for (int round = 0; round < 4; round++) {
        __m128i next[16];

        for (int i = 0; i < 8; i++) {
            next[2 * i] = _mm_unpacklo_epi8(t[i], t[i + 8]);
            next[2 * i + 1] = _mm_unpackhi_epi8(t[i], t[i + 8]);
        }
        memcpy(t, next, sizeof(next));
    }
}

static uint8_t pad_nibble(const bb_conv_desc *desc) {
    return desc->pad_code ? 15 : 0;
}

/** Planes of one input row, with its padding. */
BB_AVX2 static void transform_row(const frame *f, int32_t iy, uint8_t *dst) {
    const bb_conv_desc *desc = f->desc;
    const int32_t channels = desc->in_channels, left = desc->pad_begin[1];
    const size_t end = (size_t)(left + desc->in_width);
    const uint8_t *row = f->in + (size_t)iy * (size_t)desc->in_width * (size_t)channels;

    for (int32_t x = 0; x < desc->in_width; x += 16, row += (ptrdiff_t)16 * channels)
        for (int32_t d = 0; d < channels; d += 64) {
            const int32_t n = bb_min32(16, desc->in_width - x),
                          groups = bb_min32(16, (channels - d) / 4);
            uint8_t *to = dst + (size_t)(d / 4) * f->pitch + left + x;
            __m128i t[16];

            for (int32_t p = 0; p < 16; p++)
                t[p] = p < n ? bb_nibbles_avx2(row + (ptrdiff_t)p * channels + d)
                             : _mm_setzero_si128();
            transpose_bytes(t);
            for (int32_t g = 0; g < groups; g++, to += f->pitch)
                _mm_storeu_si128((void *)to, t[g]);
        }
    for (int32_t g = 0; g < f->groups; g++, dst += f->pitch) {
        memset(dst, pad_nibble(desc), (size_t)left);
        memset(dst + end, pad_nibble(desc), f->pitch - end);
    }
}

static const uint8_t *fetch_row(frame *f, int32_t iy) {
    const int32_t slot = iy % f->slots;
    uint8_t *row;

    if (iy < 0 || iy >= f->desc->in_height)
        return f->pad_row;
    row = f->ring + (size_t)slot * (size_t)f->groups * f->pitch;
    if (f->tags[slot] != iy)
        transform_row(f, iy, row);
    f->tags[slot] = iy;
    return row;
}

/** The pieces of n pixels from (y, x) on, and their rows; returns how many. */
static int32_t find_pieces(frame *f, int32_t y, int32_t x, int32_t n, piece *pieces) {
    const bb_conv_desc *desc = f->desc;
    int32_t count = 0;

    for (; n > 0; y++, x = 0, count++) {
        pieces[count] = (piece){x, bb_min32(n, desc->out_width - x)};
        n -= pieces[count].length;
        for (int32_t ky = 0; ky < desc->kernel[0]; ky++)
            f->rows[count * desc->kernel[0] + ky] =
                fetch_row(f, y * desc->stride[0] + ky * desc->dilation[0] - desc->pad_begin[0]);
    }
    return count;
}

/** Copies at least n <= 64 bytes, at most 64. */
BB_AVX2 static inline void copy_piece(uint8_t *to, const uint8_t *from, int32_t n) {
    if (n <= 16) {
        _mm_storeu_si128((void *)to, _mm_loadu_si128((const void *)from));
        return;
    }
    _mm256_storeu_si256((void *)to, _mm256_loadu_si256((const void *)from));
    if (n > 32)
        _mm256_storeu_si256((void *)(to + 32), _mm256_loadu_si256((const void *)(from + 32)));
}

/** The indices of a tile: [tap][group][pixel]. What passes the end of a piece is overwritten by the
 *  next one. */
BB_AVX2 static void gather(const frame *f, const piece *pieces, int32_t count) {
    const bb_conv_desc *desc = f->desc;
    uint8_t *to = f->indices;

    for (int32_t tap = 0; tap < f->taps; tap++) {
        const int32_t ky = tap / desc->kernel[1];
        const size_t column = (size_t)(tap % desc->kernel[1] * desc->dilation[1]);

        for (int32_t g = 0; g < f->groups; g++, to += PIXELS) {
            const size_t at = (size_t)g * f->pitch + column;
            uint8_t *next = to;

            for (int32_t i = 0; i < count; i++) {
                copy_piece(next, f->rows[i * desc->kernel[0] + ky] + at + pieces[i].x,
                           pieces[i].length);
                next += pieces[i].length;
            }
        }
    }
}

/** Codes of one bit under each window: the bits of the indices. */
BB_AVX2 static void sum_windows(const frame *f) {
    const __m256i bits =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const int32_t groups = f->taps * f->groups;
    const uint8_t *from = f->indices;

    memset(f->window_sums, 0, PIXELS * sizeof(*f->window_sums));
    for (int32_t g = 0, n; g < groups; g += n) {
        __m256i a = _mm256_setzero_si256(), b = a;
        uint8_t sums[PIXELS];

        n = bb_min32(groups - g, 63); /* at most 252 */
        for (int32_t i = 0; i < n; i++, from += PIXELS) {
            const __m256i lo = _mm256_load_si256((const void *)from);
            const __m256i hi = _mm256_load_si256((const void *)(from + 32));

            a = _mm256_add_epi8(a, _mm256_shuffle_epi8(bits, lo));
            b = _mm256_add_epi8(b, _mm256_shuffle_epi8(bits, hi));
        }
        _mm256_storeu_si256((void *)sums, a);
        _mm256_storeu_si256((void *)(sums + 32), b);
        for (int32_t p = 0; p < PIXELS; p++)
            f->window_sums[p] += sums[p];
    }
}

/** planar[channel][pixel] = sums of the first part, or what is there + 4 * sums of the second, for
 *  the 6 channels of a block. */
BB_AVX2 static void flatten(const frame *f, uint16_t *planar, bool first) {
    const uint16_t *sums = f->sums;

    for (int32_t i = 0; i < 2 * BLOCK; i++, sums += 32, planar += 32) {
        const __m256i s = _mm256_load_si256((const void *)sums);
        const __m256i odd = _mm256_load_si256((const void *)(sums + 16));
        const __m256i even = _mm256_sub_epi16(s, _mm256_slli_epi16(odd, 8));
        const __m256i lo = _mm256_unpacklo_epi16(even, odd), hi = _mm256_unpackhi_epi16(even, odd);
        __m256i a = _mm256_permute2x128_si256(lo, hi, 0x20);
        __m256i b = _mm256_permute2x128_si256(lo, hi, 0x31);
        __m256i *to = (void *)planar;

        if (!first) {
            a = _mm256_add_epi16(_mm256_slli_epi16(a, 2), _mm256_load_si256(to));
            b = _mm256_add_epi16(_mm256_slli_epi16(b, 2), _mm256_load_si256(to + 1));
        }
        _mm256_store_si256(to, a);
        _mm256_store_si256(to + 1, b);
    }
}

BB_AVX2 static inline void transpose_words(__m128i t[8]) {
    for (int round = 0; round < 3; round++) {
        __m128i next[8];

        for (int i = 0; i < 4; i++) {
            next[2 * i] = _mm_unpacklo_epi16(t[i], t[i + 4]);
            next[2 * i + 1] = _mm_unpackhi_epi16(t[i], t[i + 4]);
        }
        memcpy(t, next, sizeof(next));
    }
}

/** acc[pixel][channel] = 2*planar[channel][pixel] - W*sum(u), channels in eights. */
BB_AVX2 static void transpose(const frame *f, int32_t channels) {
    const int32_t top = (1 << f->desc->weight_bits) - 1;

    for (int32_t p = 0; p < PIXELS; p += 8)
        for (int32_t c = 0; c < channels; c += 8) {
            __m128i t[8];

            for (int32_t i = 0; i < 8; i++)
                t[i] = _mm_load_si128((const void *)(f->planar + (c + i) * PIXELS + p));
            transpose_words(t);
            for (int32_t i = 0; i < 8; i++) {
                const __m256i start = _mm256_set1_epi32(-top * f->window_sums[p + i]);
                const __m256i twice = _mm256_slli_epi32(_mm256_cvtepu16_epi32(t[i]), 1);

                _mm256_store_si256((void *)(f->acc + (p + i) * EMITTED + c),
                                   _mm256_add_epi32(twice, start));
            }
        }
}

static int32_t parts_of(const bb_conv_desc *desc) {
    return desc->weight_bits > 2 ? 2 : 1;
}

static size_t block_entries(const bb_conv_desc *desc) {
    const size_t groups =
        (size_t)desc->kernel[0] * (size_t)desc->kernel[1] * (size_t)(desc->in_channels / 4);

    return groups * BLOCK * (size_t)parts_of(desc);
}

/** The sums of one block of channels for the gathered tile, into its rows of planar. */
static void run_block(const frame *f, const uint16_t *offsets, uint16_t *planar) {
    void (*const sum)(const loop_args *args) = bb_saturating_adds_avx2() ? loop_saturating : loop;
    loop_args args = {.offsets = offsets,
                      .indices = f->indices,
                      .tables = bb_two_bit_tables_avx2,
                      .sums = f->sums,
                      .groups = (int64_t)f->taps * f->groups};

    for (int32_t part = 0; part < parts_of(f->desc); part++) {
        sum(&args);
        flatten(f, planar, part == 0);
        args.offsets += args.groups * BLOCK;
    }
}

static void run(const bb_conv_desc *desc, const void *packed, const uint8_t *in, int32_t y0,
                int32_t y1, void *scratch, bb_tile_fn tile, void *user) {
    const int32_t width = desc->out_width, all = (y1 - y0) * width;
    frame f = {.in = in};
    piece pieces[PIXELS];

    set_frame(&f, desc, scratch);
    for (int32_t i = 0; i < f.slots; i++)
        f.tags[i] = -1;
    memset(f.pad_row, pad_nibble(desc), (size_t)f.groups * f.pitch);
    memset(f.indices, 0, (size_t)f.taps * (size_t)f.groups * PIXELS);
    for (int32_t q = 0; q < all; q += PIXELS) {
        const int32_t n = bb_min32(PIXELS, all - q), y = y0 + q / width, x = q % width;
        const uint16_t *block = packed;

        gather(&f, pieces, find_pieces(&f, y, x, n, pieces));
        sum_windows(&f);
        for (int32_t c0 = 0; c0 < desc->out_channels; c0 += EMITTED) {
            const int32_t channels = bb_min32(EMITTED, desc->out_channels - c0);

            for (int32_t c = 0; c < channels; c += BLOCK, block += block_entries(desc))
                run_block(&f, block, f.planar + (ptrdiff_t)c * PIXELS);
            transpose(&f, bb_up_to(channels, 8));
            tile(user, y, x, n, c0, channels, f.acc, EMITTED);
        }
    }
}

static bool supports(const bb_conv_desc *desc) {
    const int64_t depth = (int64_t)desc->kernel[0] * desc->kernel[1] * desc->in_channels;

    return desc->native && desc->activation_bits == 1 && desc->weight_bits >= 2 &&
           desc->weight_bits <= 4 && desc->groups == 1 && desc->in_channels % 4 == 0 &&
           desc->stride[1] == 1 && desc->out_height * desc->out_width >= PIXELS / 2 &&
           ((1 << desc->weight_bits) - 1) * depth <= 65535;
}

static int32_t blocks_of(const bb_conv_desc *desc) {
    return bb_div_up(desc->out_channels, BLOCK);
}

static double cost(const bb_conv_desc *desc) {
    const double pixels = (double)desc->out_height * desc->out_width;
    const double tiles = bb_div_up(desc->out_height * desc->out_width, PIXELS);
    const double groups = (double)desc->kernel[0] * desc->kernel[1] * desc->in_channels / 4;
    const double pieces = 1 + (double)PIXELS / desc->out_width;
    const double input = (double)desc->in_height * desc->in_width * desc->in_channels;

    return tiles * (blocks_of(desc) * parts_of(desc) * (groups * 7.7 + 80) + groups * pieces * 2) +
           0.4 * pixels * desc->out_channels + 0.15 * input;
}

static size_t packed_size(const bb_conv_desc *desc) {
    return (size_t)blocks_of(desc) * block_entries(desc) * sizeof(uint16_t);
}

/** Packs the weights of one channel, v in [0, W], into its lane of a zeroed block. */
static void put(const bb_conv_desc *desc, const int16_t *weights, int32_t lane, uint16_t *block) {
    const int32_t groups = desc->in_channels / 4, top = (1 << desc->weight_bits) - 1;
    const int32_t taps = desc->kernel[0] * desc->kernel[1];

    for (int32_t part = 0; part < parts_of(desc); part++)
        for (int32_t g = 0; g < taps * groups; g++, block += BLOCK)
            for (int32_t i = 0; i < 4; i++) {
                const int32_t v = (weights[4 * g + i] + top) / 2;

                block[lane] |= (uint16_t)((v >> (2 * part) & 3) << (2 * i + 4));
            }
}

static void pack(const bb_conv_desc *desc, const int16_t *weights, void *dst) {
    const size_t row =
        (size_t)desc->kernel[0] * (size_t)desc->kernel[1] * (size_t)desc->in_channels;

    memset(dst, 0, packed_size(desc));
    for (int32_t c = 0; c < desc->out_channels; c++, weights += row)
        put(desc, weights, c % BLOCK, (uint16_t *)dst + (size_t)(c / BLOCK) * block_entries(desc));
}

static size_t scratch_size(const bb_conv_desc *desc) {
    frame f = {0};

    return set_frame(&f, desc, NULL);
}

const bb_conv_kernel bb_conv_swapped_avx2 = {.name = "conv_swapped_avx2",
                                             .cpu = BB_CPU_AVX2,
                                             .supports = supports,
                                             .cost = cost,
                                             .packed_size = packed_size,
                                             .pack = pack,
                                             .scratch_size = scratch_size,
                                             .run = run};

#endif
