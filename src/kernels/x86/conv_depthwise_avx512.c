/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file conv_depthwise_avx512.c
 * Depthwise convolution with VNNI: 64 channels, four taps in the bytes of a 32-bit lane.
 *
 * Rows are transposed so that lane l of a vector of 16 dwords holds channels 4l, 16 + 4l, 32 + 4l
 * and 48 + 4l; interleaving the bytes of four such rows then leaves the four taps of 16
 * neighbouring channels in each vector, in order.
 *
 * 3x3 takes the three taps of a column at once (the fourth weighs 0). A column of codes is
 * interleaved once and goes into the outputs it belongs to, so sums of three outputs are open at a
 * time (stride 1; two with stride 2). Other windows take taps four by four.
 *
 * Weights beyond a byte (|b + o| > 127) are 16-bit, two taps a lane with vpdpwssd. Neither
 * instruction saturates; sums are below 2^31 by the model's bound (kernels.h).
 *
 * Packed block: [four (or two) taps][quarter of 16 channels][channel][tap].
 */
#include "kernels/depthwise.h"
#include "kernels/registry.h"
#include "kernels/x86/avx512.h"

#if BB_ARCH_X86_64

#define VNNI __attribute__((target("avx2,avx512f,avx512bw,avx512vl,avx512vnni")))
#define INLINE VNNI __attribute__((always_inline)) static inline

enum { BLOCK = 64, QUARTERS = 4, LANES = 16 };

/** 64 channels in quarters of 16 lanes: sums, or four taps of codes. */
typedef struct quarters {
    __m512i q[QUARTERS];
} quarters;

static bool supports(const bb_conv_desc *desc) {
    return bb_depthwise_supports(desc, 32767);
}

INLINE __m512i load_transposed(const uint8_t *codes) {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_epi32(order, _mm512_loadu_si512(codes));
}

INLINE quarters interleave(__m512i a, __m512i b, __m512i c, __m512i d) {
    const __m512i ab0 = _mm512_unpacklo_epi8(a, b), ab1 = _mm512_unpackhi_epi8(a, b);
    const __m512i cd0 = _mm512_unpacklo_epi8(c, d), cd1 = _mm512_unpackhi_epi8(c, d);
    return (quarters){{_mm512_unpacklo_epi16(ab0, cd0), _mm512_unpackhi_epi16(ab0, cd0),
                       _mm512_unpacklo_epi16(ab1, cd1), _mm512_unpackhi_epi16(ab1, cd1)}};
}

INLINE quarters load_weights(const __m512i *w) {
    return (quarters){{w[0], w[1], w[2], w[3]}};
}

INLINE quarters nothing(void) {
    const __m512i zero = _mm512_setzero_si512();
    return (quarters){{zero, zero, zero, zero}};
}

INLINE quarters dot(quarters sum, quarters codes, quarters weights) {
    for (int j = 0; j < QUARTERS; j++)
        sum.q[j] = _mm512_dpbusd_epi32(sum.q[j], codes.q[j], weights.q[j]);
    return sum;
}

INLINE void store_sums(int32_t *acc, quarters sum) {
    for (int j = 0; j < QUARTERS; j++)
        _mm512_store_si512(acc + j * LANES, sum.q[j]);
}

/* ---- tiles of a row -------------------------------------------------------------------------- */

/** Puts the sums of output x into its tile and hands the tile on when it is full or the last. */
INLINE void finish(const bb_depthwise_row *row, int32_t x, quarters sum) {
    const int32_t p = x % BB_DEPTHWISE_PIXELS;
    store_sums(row->acc + (ptrdiff_t)p * BB_DEPTHWISE_BLOCK, sum);
    if (p == BB_DEPTHWISE_PIXELS - 1 || x == row->desc->out_width - 1)
        bb_depthwise_emit(row, x - p, p + 1);
}

/* ---- 3x3 ------------------------------------------------------------------------------------- */

/** The three codes of an input column, at the same offset of three rows. */
INLINE quarters column(const bb_depthwise_row *row, size_t at) {
    at += (size_t)row->c0;
    return interleave(load_transposed(row->taps[0] + at), load_transposed(row->taps[3] + at),
                      load_transposed(row->taps[6] + at), _mm512_setzero_si512());
}

/** Input column x begins output x, is the middle of x - 1 and ends x - 2. */
VNNI static void row_3x3(const bb_depthwise_row *row) {
    const quarters w0 = load_weights(row->weights);
    const quarters w1 = load_weights((const __m512i *)row->weights + QUARTERS);
    const quarters w2 = load_weights((const __m512i *)row->weights + 2 * QUARTERS);
    const int32_t width = row->desc->out_width;
    quarters codes = column(row, 0);
    quarters first = dot(nothing(), codes, w0), second;
    codes = column(row, row->pixel);
    second = dot(first, codes, w1);
    first = dot(nothing(), codes, w0);
    for (int32_t x = 0; x < width; x++) {
        codes = column(row, (size_t)(x + 2) * row->pixel);
        finish(row, x, dot(second, codes, w2));
        second = dot(first, codes, w1);
        first = dot(nothing(), codes, w0);
    }
}

/** Even input columns end one output and begin the next, odd ones are in the middle. */
VNNI static void row_3x3_stride2(const bb_depthwise_row *row) {
    const quarters w0 = load_weights(row->weights);
    const quarters w1 = load_weights((const __m512i *)row->weights + QUARTERS);
    const quarters w2 = load_weights((const __m512i *)row->weights + 2 * QUARTERS);
    const int32_t width = row->desc->out_width;
    quarters open = dot(nothing(), column(row, 0), w0);
    for (int32_t x = 0; x < width; x++) {
        const size_t at = (size_t)x * row->step + row->pixel;
        open = dot(open, column(row, at), w1);
        const quarters codes = column(row, at + row->pixel);
        finish(row, x, dot(open, codes, w2));
        open = dot(nothing(), codes, w0);
    }
}

/* ---- any window ------------------------------------------------------------------------------ */

/** Codes of tap t; taps past the last have weight 0. */
INLINE __m512i tap(const bb_depthwise_row *row, int32_t t, int32_t taps, size_t at) {
    return load_transposed(row->taps[t < taps ? t : taps - 1] + at);
}

VNNI static void row_bytes(const bb_depthwise_row *row) {
    const int32_t taps = row->desc->kernel[0] * row->desc->kernel[1];
    size_t at = (size_t)row->c0;
    for (int32_t x = 0; x < row->desc->out_width; x++, at += row->step) {
        const __m512i *w = row->weights;
        quarters sum = nothing();
        for (int32_t t = 0; t < taps; t += 4, w += QUARTERS) {
            const quarters codes = interleave(tap(row, t, taps, at), tap(row, t + 1, taps, at),
                                              tap(row, t + 2, taps, at), tap(row, t + 3, taps, at));
            sum = dot(sum, codes, load_weights(w));
        }
        finish(row, x, sum);
    }
}

/** Codes of two taps as 16-bit pairs. */
INLINE quarters interleave_words(__m512i a, __m512i b) {
    const __m512i zero = _mm512_setzero_si512();
    return interleave(a, zero, b, zero);
}

INLINE quarters dot_words(quarters sum, quarters codes, const __m512i *w) {
    for (int j = 0; j < QUARTERS; j++)
        sum.q[j] = _mm512_dpwssd_epi32(sum.q[j], codes.q[j], w[j]);
    return sum;
}

/** The codes of a 3x3 column: the upper two, and the lower one with nothing. */
typedef struct word_column {
    quarters upper, lower;
} word_column;

INLINE word_column column_words(const bb_depthwise_row *row, size_t at) {
    at += (size_t)row->c0;
    const __m512i a = load_transposed(row->taps[0] + at), b = load_transposed(row->taps[3] + at);
    return (word_column){
        interleave_words(a, b),
        interleave_words(load_transposed(row->taps[6] + at), _mm512_setzero_si512())};
}

/** Adds a column's products for tap column kx. */
INLINE quarters add_column(const bb_depthwise_row *row, quarters sum, const word_column *c,
                           int kx) {
    const __m512i *w = (const __m512i *)row->weights + (ptrdiff_t)2 * kx * QUARTERS;
    return dot_words(dot_words(sum, c->upper, w), c->lower, w + QUARTERS);
}

/** As row_3x3. */
VNNI static void row_words_3x3(const bb_depthwise_row *row) {
    word_column c = column_words(row, 0);
    quarters first = add_column(row, nothing(), &c, 0), second;
    c = column_words(row, row->pixel);
    second = add_column(row, first, &c, 1);
    first = add_column(row, nothing(), &c, 0);
    for (int32_t x = 0; x < row->desc->out_width; x++) {
        c = column_words(row, (size_t)(x + 2) * row->pixel);
        finish(row, x, add_column(row, second, &c, 2));
        second = add_column(row, first, &c, 1);
        first = add_column(row, nothing(), &c, 0);
    }
}

/** As row_3x3_stride2. */
VNNI static void row_words_3x3_stride2(const bb_depthwise_row *row) {
    word_column c = column_words(row, 0);
    quarters open = add_column(row, nothing(), &c, 0);
    for (int32_t x = 0; x < row->desc->out_width; x++) {
        const size_t at = (size_t)x * row->step + row->pixel;
        c = column_words(row, at);
        open = add_column(row, open, &c, 1);
        c = column_words(row, at + row->pixel);
        finish(row, x, add_column(row, open, &c, 2));
        open = add_column(row, nothing(), &c, 0);
    }
}

VNNI static void row_words(const bb_depthwise_row *row) {
    const int32_t taps = row->desc->kernel[0] * row->desc->kernel[1];
    size_t at = (size_t)row->c0;
    for (int32_t x = 0; x < row->desc->out_width; x++, at += row->step) {
        const __m512i *w = row->weights;
        quarters sum = nothing();
        for (int32_t t = 0; t < taps; t += 2, w += QUARTERS) {
            const quarters codes =
                interleave_words(tap(row, t, taps, at), tap(row, t + 1, taps, at));
            sum = dot_words(sum, codes, w);
        }
        finish(row, x, sum);
    }
}

/* ---- registration ---------------------------------------------------------------------------- */

static void put_at(uint8_t *block, int32_t lane, int32_t group, int32_t at, int32_t size,
                   int16_t weight) {
    const int32_t i = (group * BLOCK + lane) * 4 + at * size;
    if (size == 1)
        block[i] = (uint8_t)weight;
    else
        *(int16_t *)(void *)(block + i) = weight;
}

static void put_columns(const bb_conv_desc *desc, uint8_t *block, int32_t lane, int32_t t,
                        int16_t weight) {
    (void)desc;
    put_at(block, lane, t % 3, t / 3, 1, weight);
}

static void put_bytes(const bb_conv_desc *desc, uint8_t *block, int32_t lane, int32_t t,
                      int16_t weight) {
    (void)desc;
    put_at(block, lane, t / 4, t % 4, 1, weight);
}

static void put_words(const bb_conv_desc *desc, uint8_t *block, int32_t lane, int32_t t,
                      int16_t weight) {
    (void)desc;
    put_at(block, lane, t / 2, t % 2, 2, weight);
}

static void put_word_columns(const bb_conv_desc *desc, uint8_t *block, int32_t lane, int32_t t,
                             int16_t weight) {
    const int32_t y = t / 3, x = t % 3;
    (void)desc;
    put_at(block, lane, 2 * x + y / 2, y % 2, 2, weight);
}

static bool is_3x3(const bb_conv_desc *desc) {
    return desc->kernel[0] == 3 && desc->kernel[1] == 3 && desc->dilation[1] == 1 &&
           desc->stride[1] <= 2;
}

static bb_depthwise_route route_of(const bb_conv_desc *desc) {
    const int32_t taps = desc->kernel[0] * desc->kernel[1];
    int32_t groups = (taps + 3) / 4;
    bb_depthwise_route route = {.block = BLOCK, .row = row_bytes, .put = put_bytes};
    if (desc->max_weight > 127 && is_3x3(desc)) {
        route.row = desc->stride[1] == 1 ? row_words_3x3 : row_words_3x3_stride2;
        route.put = put_word_columns;
        groups = 6;
    } else if (desc->max_weight > 127) {
        route.row = row_words;
        route.put = put_words;
        groups = (taps + 1) / 2;
    } else if (is_3x3(desc)) {
        route.row = desc->stride[1] == 1 ? row_3x3 : row_3x3_stride2;
        route.put = put_columns;
    }
    route.block_bytes = (size_t)groups * BLOCK * 4;
    return route;
}

static double cost(const bb_conv_desc *desc) {
    const bb_depthwise_route route = route_of(desc);
    const double blocks = (desc->out_channels + BLOCK - 1) / BLOCK;
    const double pixels = (double)desc->out_height * desc->out_width;
    const double groups = (double)route.block_bytes / (BLOCK * 4);
    const double shared = !is_3x3(desc) ? 1.0 : desc->stride[1] == 1 ? 2.0 : 1.4;
    return pixels * blocks * (groups * 7.0 / shared + 5);
}

BB_DEPTHWISE_FUNCTIONS(route_of)

const bb_conv_kernel bb_conv_depthwise_avx512 = {
    .name = "conv_depthwise_avx512",
    .cpu = BB_CPU_AVX2 | BB_CPU_AVX512 | BB_CPU_AVX512_VNNI,
    .supports = supports,
    .cost = cost,
    .packed_size = packed_size,
    .pack = pack,
    .scratch_size = bb_depthwise_scratch_size,
    .run = run,
};

#endif
