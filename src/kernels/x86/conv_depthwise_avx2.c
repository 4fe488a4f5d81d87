/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file conv_depthwise_avx2.c
 * Depthwise convolution: 32 channels, taps taken in pairs.
 *
 * Codes of two taps are interleaved, so that one multiply-add covers both. Bytes (vpmaddubsw) where
 * T = floor(32767 / (2*A*w)) pairs fit 16-bit lanes, widened every T pairs; else 16-bit products
 * with 32-bit sums (vpmaddwd): 2 * 255 * 32767 < 2^25 a pair, and sums below 2^31 by the model's
 * bound (kernels.h). A = 2^M - 1, w the largest weight.
 *
 * 3x3 goes along the columns of the input. The upper two codes of a column are a pair in each of
 * the three outputs over it; the lower ones are paired with their right neighbours, which makes a
 * pair for the output that begins here and half a one for the output that ends here. So an
 * interleaved column is made once, and sums of three outputs are open at a time (stride 1; two with
 * stride 2).
 *
 * Packed block: [pair][channel][tap of the pair], channels in the order in which interleaving
 * leaves them: bytes 0-7 16-23 | 8-15 24-31, words 0-3 16-19 | 4-7 20-23 | 8-11 24-27 | 12-15
 * 28-31.
 */
#include "kernels/depthwise.h"
#include "kernels/registry.h"
#include "kernels/x86/avx2.h"

#if BB_ARCH_X86_64

#define INLINE BB_AVX2 __attribute__((always_inline)) static inline

enum {
    BLOCK = 32,
    COLUMN_PAIRS = 3, /**< of 3x3: upper two rows */
    ALL_PAIRS = 5
};

static bool supports(const bb_conv_desc *desc) {
    return bb_depthwise_supports(desc, 32767);
}

/** Pairs of byte products that a 16-bit lane holds for certain. */
static int32_t exact_pairs(const bb_conv_desc *desc) {
    const int32_t weight = desc->max_weight > 0 ? desc->max_weight : 1;
    return weight > 127 ? 0 : 32767 / (2 * ((1 << desc->activation_bits) - 1) * weight);
}

/* ---- bytes: 16-bit sums of 32 channels ------------------------------------------------------- */

/** Interleaved codes, weights, or 16-bit sums. */
typedef struct halves {
    __m256i lo, hi;
} halves;

typedef struct sums32 {
    __m256i q[4]; /**< channels in order */
} sums32;

INLINE __m256i load(const uint8_t *p) {
    return _mm256_loadu_si256((const void *)p);
}

INLINE halves interleave(__m256i a, __m256i b) {
    return (halves){_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b)};
}

INLINE halves products(halves codes, const void *weights, int pair) {
    const __m256i *w = (const __m256i *)weights + 2 * pair;
    return (halves){_mm256_maddubs_epi16(codes.lo, w[0]), _mm256_maddubs_epi16(codes.hi, w[1])};
}

INLINE halves add(halves a, halves b) {
    return (halves){_mm256_add_epi16(a.lo, b.lo), _mm256_add_epi16(a.hi, b.hi)};
}

INLINE sums32 widen(halves s) {
    return (sums32){{_mm256_cvtepi16_epi32(_mm256_castsi256_si128(s.lo)),
                     _mm256_cvtepi16_epi32(_mm256_castsi256_si128(s.hi)),
                     _mm256_cvtepi16_epi32(_mm256_extracti128_si256(s.lo, 1)),
                     _mm256_cvtepi16_epi32(_mm256_extracti128_si256(s.hi, 1))}};
}

INLINE sums32 add32(sums32 a, sums32 b) {
    for (int i = 0; i < 4; i++)
        a.q[i] = _mm256_add_epi32(a.q[i], b.q[i]);
    return a;
}

/** Puts the sums of output x into its tile and hands the tile on when it is full or the last. */
INLINE void finish(const bb_depthwise_row *row, int32_t x, sums32 sum) {
    const int32_t p = x % BB_DEPTHWISE_PIXELS;
    int32_t *acc = row->acc + (ptrdiff_t)p * BB_DEPTHWISE_BLOCK;
    for (int i = 0; i < 4; i++)
        _mm256_store_si256((void *)(acc + 8 * i), sum.q[i]);
    if (p == BB_DEPTHWISE_PIXELS - 1 || x == row->desc->out_width - 1)
        bb_depthwise_emit(row, x - p, p + 1);
}

/** Columns of the three input rows of a 3x3 window, from the block's first channel on. */
typedef struct columns {
    const uint8_t *upper, *middle, *lower;
    size_t pixel;
} columns;

INLINE columns columns_of(const bb_depthwise_row *row) {
    const size_t c0 = (size_t)row->c0;
    return (columns){row->taps[0] + c0, row->taps[3] + c0, row->taps[6] + c0, row->pixel};
}

INLINE halves upper_pair(const columns *c, size_t at) {
    return interleave(load(c->upper + at), load(c->middle + at));
}

/** `right`: bytes to the right neighbour, 0 in the last column, where the partner weighs 0. */
INLINE halves lower_pair(const columns *c, size_t at, size_t right) {
    return interleave(load(c->lower + at), load(c->lower + at + right));
}

/** For the column that ends output x. */
INLINE size_t right_of(const bb_depthwise_row *row, int32_t x) {
    return x + 1 < row->desc->out_width ? row->pixel : 0;
}

/** An open output: its pairs of the upper rows and those of the lower one. The two are one sum
 *  where five pairs fit 16 bits. */
typedef struct open_sum {
    halves upper, lower;
} open_sum;

INLINE open_sum begin(halves upper, halves lower, const void *w, bool split) {
    const halves a = products(upper, w, 0), b = products(lower, w, COLUMN_PAIRS);
    return split ? (open_sum){a, b} : (open_sum){add(a, b), a};
}

INLINE open_sum middle(open_sum s, halves upper, const void *w) {
    s.upper = add(s.upper, products(upper, w, 1));
    return s;
}

INLINE sums32 end(open_sum s, halves upper, halves lower, const void *w, bool split) {
    const halves a = add(s.upper, products(upper, w, 2));
    const halves b = products(lower, w, COLUMN_PAIRS + 1);
    return split ? add32(widen(a), widen(add(s.lower, b))) : widen(add(a, b));
}

/** Input column x begins output x, is the middle of x - 1 and ends x - 2. */
INLINE void bytes_3x3(const bb_depthwise_row *row, bool split) {
    const columns c = columns_of(row);
    const void *w = row->weights;
    const int32_t width = row->desc->out_width;
    size_t at = c.pixel;
    open_sum second = begin(upper_pair(&c, 0), lower_pair(&c, 0, c.pixel), w, split);
    halves upper = upper_pair(&c, at), lower = lower_pair(&c, at, c.pixel);
    open_sum first = begin(upper, lower, w, split);
    second = middle(second, upper, w);
    for (int32_t x = 0; x < width; x++) {
        at += c.pixel;
        upper = upper_pair(&c, at);
        lower = lower_pair(&c, at, right_of(row, x));
        finish(row, x, end(second, upper, lower, w, split));
        second = middle(first, upper, w);
        first = begin(upper, lower, w, split);
    }
}

/** Even input columns end one output and begin the next, odd ones are in the middle. */
INLINE void bytes_3x3_stride2(const bb_depthwise_row *row, bool split) {
    const columns c = columns_of(row);
    const void *w = row->weights;
    const int32_t width = row->desc->out_width;
    size_t at = 0;
    open_sum open = begin(upper_pair(&c, 0), lower_pair(&c, 0, c.pixel), w, split);
    for (int32_t x = 0; x < width; x++) {
        at += c.pixel;
        open = middle(open, upper_pair(&c, at), w);
        at += c.pixel;
        const halves upper = upper_pair(&c, at), lower = lower_pair(&c, at, right_of(row, x));
        finish(row, x, end(open, upper, lower, w, split));
        open = begin(upper, lower, w, split);
    }
}

BB_AVX2 static void row_3x3(const bb_depthwise_row *row) {
    bytes_3x3(row, false);
}

BB_AVX2 static void row_3x3_split(const bb_depthwise_row *row) {
    bytes_3x3(row, true);
}

BB_AVX2 static void row_3x3_stride2(const bb_depthwise_row *row) {
    bytes_3x3_stride2(row, false);
}

BB_AVX2 static void row_3x3_stride2_split(const bb_depthwise_row *row) {
    bytes_3x3_stride2(row, true);
}

/** Any window; the partner of a last single tap has weight 0. */
BB_AVX2 static void row_bytes(const bb_depthwise_row *row) {
    const int32_t taps = row->desc->kernel[0] * row->desc->kernel[1], pairs = (taps + 1) / 2;
    const __m256i zero = _mm256_setzero_si256();
    size_t at = (size_t)row->c0;
    for (int32_t x = 0; x < row->desc->out_width; x++, at += row->step) {
        sums32 sum = {{zero, zero, zero, zero}};
        for (int32_t i = 0; i < pairs;) {
            const int32_t left = pairs - i;
            const int32_t last = i + (left < row->route->schedule ? left : row->route->schedule);
            halves s = {zero, zero};
            for (; i < last; i++) {
                const uint8_t *const *tap = row->taps + (ptrdiff_t)2 * i;
                const halves pair = interleave(load(tap[0] + at), load(tap[2 * i + 1 < taps] + at));
                s = add(s, products(pair, row->weights, i));
            }
            sum = add32(sum, widen(s));
        }
        finish(row, x, sum);
    }
}

/* ---- 16-bit products ------------------------------------------------------------------------- */

/** Interleaved 16-bit codes, or sums: channels 0-3 16-19 | 4-7 20-23 | 8-11 24-27 | 12-15 28-31. */
typedef struct quarters {
    __m256i q[4];
} quarters;

INLINE quarters to_words(halves pairs) {
    const __m256i zero = _mm256_setzero_si256();
    return (quarters){{_mm256_unpacklo_epi8(pairs.lo, zero), _mm256_unpackhi_epi8(pairs.lo, zero),
                       _mm256_unpacklo_epi8(pairs.hi, zero), _mm256_unpackhi_epi8(pairs.hi, zero)}};
}

INLINE quarters add_products(quarters s, quarters codes, const void *weights, int pair) {
    const __m256i *w = (const __m256i *)weights + 4 * pair;
    for (int i = 0; i < 4; i++)
        s.q[i] = _mm256_add_epi32(s.q[i], _mm256_madd_epi16(codes.q[i], w[i]));
    return s;
}

INLINE quarters no_words(void) {
    const __m256i zero = _mm256_setzero_si256();
    return (quarters){{zero, zero, zero, zero}};
}

INLINE void finish_words(const bb_depthwise_row *row, int32_t x, quarters s) {
    finish(row, x,
           (sums32){{_mm256_permute2x128_si256(s.q[0], s.q[1], 0x20),
                     _mm256_permute2x128_si256(s.q[2], s.q[3], 0x20),
                     _mm256_permute2x128_si256(s.q[0], s.q[1], 0x31),
                     _mm256_permute2x128_si256(s.q[2], s.q[3], 0x31)}});
}

INLINE quarters begin_words(quarters upper, quarters lower, const void *w) {
    return add_products(add_products(no_words(), upper, w, 0), lower, w, COLUMN_PAIRS);
}

INLINE quarters end_words(quarters s, quarters upper, quarters lower, const void *w) {
    return add_products(add_products(s, upper, w, 2), lower, w, COLUMN_PAIRS + 1);
}

BB_AVX2 static void row_words_3x3(const bb_depthwise_row *row) {
    const columns c = columns_of(row);
    const void *w = row->weights;
    const int32_t width = row->desc->out_width;
    size_t at = c.pixel;
    quarters second =
        begin_words(to_words(upper_pair(&c, 0)), to_words(lower_pair(&c, 0, c.pixel)), w);
    quarters upper = to_words(upper_pair(&c, at));
    quarters first = begin_words(upper, to_words(lower_pair(&c, at, c.pixel)), w);
    second = add_products(second, upper, w, 1);
    for (int32_t x = 0; x < width; x++) {
        at += c.pixel;
        upper = to_words(upper_pair(&c, at));
        const quarters lower = to_words(lower_pair(&c, at, right_of(row, x)));
        finish_words(row, x, end_words(second, upper, lower, w));
        second = add_products(first, upper, w, 1);
        first = begin_words(upper, lower, w);
    }
}

BB_AVX2 static void row_words_3x3_stride2(const bb_depthwise_row *row) {
    const columns c = columns_of(row);
    const void *w = row->weights;
    const int32_t width = row->desc->out_width;
    size_t at = 0;
    quarters open =
        begin_words(to_words(upper_pair(&c, 0)), to_words(lower_pair(&c, 0, c.pixel)), w);
    for (int32_t x = 0; x < width; x++) {
        at += c.pixel;
        open = add_products(open, to_words(upper_pair(&c, at)), w, 1);
        at += c.pixel;
        const quarters upper = to_words(upper_pair(&c, at)),
                       lower = to_words(lower_pair(&c, at, right_of(row, x)));
        finish_words(row, x, end_words(open, upper, lower, w));
        open = begin_words(upper, lower, w);
    }
}

BB_AVX2 static void row_words(const bb_depthwise_row *row) {
    const int32_t taps = row->desc->kernel[0] * row->desc->kernel[1], pairs = (taps + 1) / 2;
    size_t at = (size_t)row->c0;
    for (int32_t x = 0; x < row->desc->out_width; x++, at += row->step) {
        quarters sum = no_words();
        for (int32_t i = 0; i < pairs; i++) {
            const uint8_t *const *tap = row->taps + (ptrdiff_t)2 * i;
            const halves pair = interleave(load(tap[0] + at), load(tap[2 * i + 1 < taps] + at));
            sum = add_products(sum, to_words(pair), row->weights, i);
        }
        finish_words(row, x, sum);
    }
}

/* ---- registration ---------------------------------------------------------------------------- */

static void put_byte(uint8_t *block, int32_t lane, int32_t slot, int16_t weight) {
    static const uint8_t octet[4] = {0, 2, 1, 3};
    block[(slot / 2 * BLOCK + octet[lane / 8] * 8 + lane % 8) * 2 + slot % 2] = (uint8_t)weight;
}

static void put_word(uint8_t *block, int32_t lane, int32_t slot, int16_t weight) {
    const int32_t at = lane % 16 / 4 * 8 + lane / 16 * 4 + lane % 4;
    ((int16_t *)(void *)block)[(slot / 2 * BLOCK + at) * 2 + slot % 2] = weight;
}

/** Where 3x3 keeps a tap: pairs of the upper rows by column, then the lower row's. */
static int32_t slot_3x3(int32_t tap) {
    const int32_t y = tap / 3, x = tap % 3;
    return y < 2 ? 2 * x + y : 2 * COLUMN_PAIRS + x;
}

static void put_bytes_3x3(const bb_conv_desc *desc, uint8_t *block, int32_t lane, int32_t tap,
                          int16_t weight) {
    (void)desc;
    put_byte(block, lane, slot_3x3(tap), weight);
}

static void put_bytes(const bb_conv_desc *desc, uint8_t *block, int32_t lane, int32_t tap,
                      int16_t weight) {
    (void)desc;
    put_byte(block, lane, tap, weight);
}

static void put_words_3x3(const bb_conv_desc *desc, uint8_t *block, int32_t lane, int32_t tap,
                          int16_t weight) {
    (void)desc;
    put_word(block, lane, slot_3x3(tap), weight);
}

static void put_words(const bb_conv_desc *desc, uint8_t *block, int32_t lane, int32_t tap,
                      int16_t weight) {
    (void)desc;
    put_word(block, lane, tap, weight);
}

static bool is_3x3(const bb_conv_desc *desc) {
    return desc->kernel[0] == 3 && desc->kernel[1] == 3 && desc->dilation[1] == 1 &&
           desc->stride[1] <= 2;
}

/** Bytes for 3x3 need its three upper pairs in one sum, other windows pay for short schedules. */
static bool takes_bytes(const bb_conv_desc *desc) {
    return exact_pairs(desc) >= COLUMN_PAIRS;
}

static bb_depthwise_route route_of(const bb_conv_desc *desc) {
    const int32_t taps = desc->kernel[0] * desc->kernel[1], exact = exact_pairs(desc);
    const bool bytes = takes_bytes(desc), wide = desc->stride[1] == 2;
    bb_depthwise_route route = {.block = BLOCK, .schedule = exact};
    if (is_3x3(desc) && bytes && exact >= ALL_PAIRS)
        route.row = wide ? row_3x3_stride2 : row_3x3;
    else if (is_3x3(desc) && bytes)
        route.row = wide ? row_3x3_stride2_split : row_3x3_split;
    else if (is_3x3(desc))
        route.row = wide ? row_words_3x3_stride2 : row_words_3x3;
    else
        route.row = bytes ? row_bytes : row_words;
    if (is_3x3(desc))
        route.put = bytes ? put_bytes_3x3 : put_words_3x3;
    else
        route.put = bytes ? put_bytes : put_words;
    route.block_bytes = (size_t)((taps + 1) / 2) * 2 * BLOCK * (bytes ? 1 : 2);
    return route;
}

static double cost(const bb_conv_desc *desc) {
    const double blocks = (desc->out_channels + BLOCK - 1) / BLOCK;
    const double pixels = (double)desc->out_height * desc->out_width;
    const double pairs = (desc->kernel[0] * desc->kernel[1] + 1) / 2;
    const double shared = is_3x3(desc) ? 0.7 : 1.0;
    return pixels * blocks * (pairs * shared * (takes_bytes(desc) ? 2.5 : 5.0) + 6);
}

BB_DEPTHWISE_FUNCTIONS(route_of)

const bb_conv_kernel bb_conv_depthwise_avx2 = {.name = "conv_depthwise_avx2",
                                               .cpu = BB_CPU_AVX2,
                                               .supports = supports,
                                               .cost = cost,
                                               .packed_size = packed_size,
                                               .pack = pack,
                                               .scratch_size = bb_depthwise_scratch_size,
                                               .run = run};

#endif
