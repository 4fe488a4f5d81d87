/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file conformance.c
 * All 64 (M,K): every kernel against plain integer arithmetic in 64 bits, and on the native grid
 * against the literal decomposition into planes,
 *     sum a*b = sum over m,k of 2^(m+k) * (n - 2*popcount(C_m xor D_k)),
 * from which acc = (sum a*b + L_M * sum b) / 2. Neither shares code with the kernels.
 *
 *     conformance [--seed N] [--shapes N] [--all]
 */
#include "cases.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SAMPLE_SHAPES = 40, ALL_SHAPES = 1500, MAX_DEPTH_WORDS = 5000 * 49 / 64 + 1 };

/** Bit planes of one window or one filter. */
typedef struct planes {
    uint64_t bits[8][MAX_DEPTH_WORDS];
} planes;

static planes activation_planes, weight_planes;

static uint32_t code_at(const conv_case *c, int32_t iy, int32_t ix, int32_t channel) {
    const bb_conv_desc *d = &c->desc;

    if (iy < 0 || iy >= d->in_height || ix < 0 || ix >= d->in_width)
        return d->pad_code;
    return c->codes[((int64_t)iy * d->in_width + ix) * d->in_channels + channel];
}

/** Codes under the window of (y,x) for group g in the order of the weights; returns how many. */
static int32_t gather(const conv_case *c, int32_t y, int32_t x, int32_t g, uint32_t *codes) {
    const bb_conv_desc *d = &c->desc;
    const int32_t depth = d->in_channels / d->groups;
    int32_t n = 0;

    for (int32_t ky = 0; ky < d->kernel[0]; ky++)
        for (int32_t kx = 0; kx < d->kernel[1]; kx++)
            for (int32_t i = 0; i < depth; i++)
                codes[n++] = code_at(c, y * d->stride[0] + ky * d->dilation[0] - d->pad_begin[0],
                                     x * d->stride[1] + kx * d->dilation[1] - d->pad_begin[1],
                                     g * depth + i);
    return n;
}

static void set_bit(planes *p, uint32_t plane, int32_t at, uint32_t bit) {
    uint64_t *word = &p->bits[plane][at / 64];

    if (at % 64 == 0)
        *word = 0;
    *word |= (uint64_t)bit << (at % 64);
}

static int64_t plain(const uint32_t *codes, const int16_t *weights, int32_t n) {
    int64_t sum = 0;

    for (int32_t i = 0; i < n; i++)
        sum += (int64_t)codes[i] * weights[i];
    return sum;
}

static int64_t popcount_xor(const uint64_t *a, const uint64_t *b, int32_t n) {
    int64_t count = 0;

    for (int32_t i = 0; i < (n + 63) / 64; i++)
        for (uint64_t x = a[i] ^ b[i]; x; x &= x - 1)
            count++;
    return count;
}

/** acc by planes; activation_planes hold the window. */
static int64_t decomposed(const bb_conv_desc *d, const int16_t *weights, int32_t n) {
    const int32_t top = (1 << d->weight_bits) - 1;
    int64_t product = 0, weight_sum = 0;

    for (int32_t i = 0; i < n; i++) {
        const uint32_t v = (uint32_t)(weights[i] + top) / 2;

        weight_sum += weights[i];
        for (uint32_t k = 0; k < d->weight_bits; k++)
            set_bit(&weight_planes, k, i, v >> k & 1);
    }
    for (uint32_t m = 0; m < d->activation_bits; m++)
        for (uint32_t k = 0; k < d->weight_bits; k++)
            product += ((int64_t)1 << (m + k)) *
                       (n - 2 * popcount_xor(activation_planes.bits[m], weight_planes.bits[k], n));
    return (product + ((1 << d->activation_bits) - 1) * weight_sum) / 2;
}

/** What acc must be, both ways; false if the two disagree. */
static bool expect(const conv_case *c, int32_t *want) {
    const bb_conv_desc *d = &c->desc;
    const int32_t channels = d->out_channels / d->groups;
    uint32_t *codes = bb_alloc_array((size_t)MAX_DEPTH_WORDS * 64, sizeof(*codes));
    bool agree = codes != NULL;

    for (int32_t y = 0; agree && y < d->out_height; y++)
        for (int32_t x = 0; x < d->out_width; x++)
            for (int32_t g = 0; g < d->groups; g++) {
                const int32_t n = gather(c, y, x, g, codes);

                for (int32_t i = 0; i < n; i++)
                    for (uint32_t m = 0; m < d->activation_bits; m++)
                        set_bit(&activation_planes, m, i, codes[i] >> m & 1);
                for (int32_t o = g * channels; o < (g + 1) * channels; o++) {
                    const int16_t *w = c->weights + (ptrdiff_t)o * n;
                    const int64_t sum = plain(codes, w, n);

                    if (d->native && decomposed(d, w, n) != sum)
                        agree = false;
                    *want++ = (int32_t)sum;
                }
            }
    bb_free(codes);
    return agree;
}

static unsigned compared, failed;

static void fail(const conv_case *c, const char *who, const char *what, uint64_t seed) {
    char text[256];

    desc_print(&c->desc, text, sizeof(text));
    fprintf(stderr, "FAIL %s: %s\n     %s\n     case seed %" PRIu64 "\n", who, what, text, seed);
    failed++;
}

static void check_case(const conv_case *c, uint64_t seed) {
    const uint32_t cpu = bb_cpu_flags();
    const size_t bytes = c->n_out * sizeof(int32_t);
    int32_t *want = bb_alloc(bytes), *got = bb_alloc(bytes);
    size_t n;
    const bb_conv_kernel *const *kernels = bb_conv_kernels(&n);

    if (!want || !got || !expect(c, want))
        fail(c, "decomposition", "planes and plain integers disagree", seed);
    for (size_t i = 0; i < n && want && got; i++) {
        const char *error;

        if ((kernels[i]->cpu & ~cpu) || !kernels[i]->supports(&c->desc))
            continue;
        error = case_run(c, kernels[i], 0, c->desc.out_height, seed & 1, got);
        if (!error && memcmp(want, got, bytes) != 0)
            error = "differs from plain integers";
        if (error)
            fail(c, kernels[i]->name, error, seed);
        compared++;
    }
    bb_free(want);
    bb_free(got);
}

static void check_pair(uint64_t seed, unsigned shapes, double max_macs, uint32_t m, uint32_t k) {
    for (unsigned i = 0; i < shapes; i++) {
        const uint64_t case_seed = seed + ((uint64_t)m << 40) + ((uint64_t)k << 32) + i;
        bb_conv_desc desc;
        conv_case c;
        bb_rng rng;

        bb_rng_seed(&rng, case_seed);
        random_desc(&rng, m, k, max_macs, &desc);
        case_create(&c, &rng, &desc, (case_fill)(i % FILL_COUNT));
        check_case(&c, case_seed);
        case_destroy(&c);
    }
}

int main(int argc, char **argv) {
    uint64_t seed = 1000003;
    unsigned shapes = SAMPLE_SHAPES;
    double max_macs = 60e3;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--all") == 0) {
            shapes = ALL_SHAPES;
            max_macs = 300e3;
        } else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
            seed = strtoull(argv[++i], NULL, 10);
        } else if (strcmp(argv[i], "--shapes") == 0 && i + 1 < argc) {
            shapes = (unsigned)strtoul(argv[++i], NULL, 10);
        } else {
            fprintf(stderr, "usage: conformance [--seed N] [--shapes N] [--all]\n");
            return 2;
        }
    }
    printf("conformance: seed %" PRIu64 ", %u shapes for each (M,K)\n", seed, shapes);
    for (uint32_t m = 1; m <= 8; m++)
        for (uint32_t k = 1; k <= 8; k++)
            check_pair(seed, shapes, max_macs, m, k);
    printf("conformance: %u comparisons, %u failed\n", compared, failed);
    return failed || compared == 0;
}
