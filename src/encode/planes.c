/* SPDX-License-Identifier: Apache-2.0 */
/* Bit vectors and their products: the scalar reference for any length. */
#include "encode/encode.h"

enum { WORD_BITS = 64 };

void bb_planes_split(const uint8_t *codes, size_t n, uint32_t bits, uint64_t *words,
                     size_t stride) {
    for (uint32_t p = 0; p < bits; p++, words += stride)
        for (size_t i = 0; i < n; i++)
            words[i / WORD_BITS] |= (uint64_t)(codes[i] >> (bits - 1 - p) & 1) << (i % WORD_BITS);
}

void bb_planes_join(const uint64_t *words, size_t stride, size_t n, uint32_t bits, uint8_t *codes) {
    for (size_t i = 0; i < n; i++) {
        unsigned code = 0;
        for (uint32_t p = 0; p < bits; p++)
            code = code << 1 | (unsigned)(words[p * stride + i / WORD_BITS] >> (i % WORD_BITS) & 1);
        codes[i] = (uint8_t)code;
    }
}

static int64_t popcount(uint64_t x) {
    x -= x >> 1 & 0x5555555555555555u;
    x = (x & 0x3333333333333333u) + (x >> 2 & 0x3333333333333333u);
    x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    return (int64_t)(x * 0x0101010101010101u >> 56);
}

/* Unused bits are 0 in both operands and their exclusive or: no correction. */
int64_t bb_dot_plane(const uint64_t *c, const uint64_t *d, size_t n) {
    int64_t differ = 0; /* <= n */
    for (size_t i = 0; i < bb_bit_words(n); i++)
        differ += popcount(c[i] ^ d[i]);
    return (int64_t)n - 2 * differ;
}

int64_t bb_dot_plane_xnor(const uint64_t *c, const uint64_t *d, size_t n) {
    int64_t agree = 0;
    size_t words = bb_bit_words(n);
    for (size_t i = 0; i < words; i++)
        agree += popcount(~(c[i] ^ d[i]));
    int64_t padding = (int64_t)(words * WORD_BITS - n); /* unused bits agree */
    return 2 * (agree - padding) - (int64_t)n;
}

int64_t bb_dot_plane_masked(const uint64_t *c, const uint64_t *d, const uint64_t *mask, size_t n) {
    int64_t valid = 0, differ = 0;
    for (size_t i = 0; i < bb_bit_words(n); i++) {
        valid += popcount(mask[i]);
        differ += popcount((c[i] ^ d[i]) & mask[i]);
    }
    return valid - 2 * differ;
}

int64_t bb_dot_levels(const bb_plane_pair *pair) {
    size_t words = bb_bit_words(pair->n);
    int64_t sum = 0;
    for (uint32_t m = 0; m < pair->a_bits; m++)
        for (uint32_t k = 0; k < pair->b_bits; k++) {
            int64_t branch = bb_dot_plane(pair->a + m * words, pair->b + k * words, pair->n);
            sum += branch * ((int64_t)1 << (pair->a_bits - 1 - m + pair->b_bits - 1 - k));
        }
    return sum;
}

/* Sum of the codes: planes weighted by their bit. */
static int64_t sum_codes(const uint64_t *words, uint32_t bits, size_t n) {
    int64_t sum = 0;
    for (uint32_t p = 0; p < bits; p++)
        for (size_t i = 0; i < bb_bit_words(n); i++)
            sum += popcount(words[p * bb_bit_words(n) + i]) * ((int64_t)1 << (bits - 1 - p));
    return sum;
}

/* With a = 2u - L_M and b = 2v - L_K: P = 4*sum(uv) - 2*L_K*sum(u) - 2*L_M*sum(v) + n*L_M*L_K. */
int64_t bb_dot_levels_and(const bb_plane_pair *pair) {
    size_t words = bb_bit_words(pair->n);
    int64_t products = 0, last_a = bb_last_code(pair->a_bits), last_b = bb_last_code(pair->b_bits);
    for (uint32_t m = 0; m < pair->a_bits; m++)
        for (uint32_t k = 0; k < pair->b_bits; k++)
            for (size_t i = 0; i < words; i++)
                products += popcount(pair->a[m * words + i] & pair->b[k * words + i]) *
                            ((int64_t)1 << (pair->a_bits - 1 - m + pair->b_bits - 1 - k));
    return 4 * products - 2 * last_b * sum_codes(pair->a, pair->a_bits, pair->n) -
           2 * last_a * sum_codes(pair->b, pair->b_bits, pair->n) +
           (int64_t)pair->n * last_a * last_b;
}

double bb_dot_weighted(const bb_plane_pair *pair, const double *a_weights,
                       const double *b_weights) {
    size_t words = bb_bit_words(pair->n);
    double sum = 0;
    for (uint32_t m = 0; m < pair->a_bits; m++)
        for (uint32_t k = 0; k < pair->b_bits; k++)
            sum += a_weights[m] * b_weights[k] *
                   (double)bb_dot_plane(pair->a + m * words, pair->b + k * words, pair->n);
    return sum;
}

double bb_product_scale(uint32_t activation_bits, uint32_t weight_bits) {
    return 1.0 / ((double)bb_last_code(activation_bits) * bb_last_code(weight_bits));
}
