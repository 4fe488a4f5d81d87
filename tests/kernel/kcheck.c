/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file kcheck.c
 * Every kernel of kernels.inc that this processor can execute, against the reference: random and
 * extreme values, odd shapes, unaligned data, guard pages and canaries around every buffer.
 * No test library, so that it runs on every target.
 *
 *     kcheck [--seed N] [--shapes N] [--kernel NAME]    compare; N shapes for each of 64 (M,K)
 *     kcheck --bench [--kernel NAME] [--bits wKaM] [--shape C,SIZE,N,KERNEL,STRIDE,GROUPS]
 *                                                products per cycle
 *     kcheck --bench --micro                     the same of the inner loops alone
 */
#include "bench.h"
#include "cases.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_SHAPES = 100 };
static const double MAX_MACS = 150e3;

typedef struct check {
    bb_rng rng;
    const char *only;
    unsigned compared, failed;
} check;

static void report(check *c, const conv_case *test, const bb_conv_kernel *kernel, uint64_t seed,
                   const char *error) {
    char text[256];

    desc_print(&test->desc, text, sizeof(text));
    fprintf(stderr, "FAIL %s: %s\n     %s\n     case seed %" PRIu64 "\n", kernel->name, error, text,
            seed);
    c->failed++;
}

/** Rows y0..y1-1 of one kernel equal the reference bit for bit. */
static const char *compare(const conv_case *test, const bb_conv_kernel *kernel, int32_t y0,
                           int32_t y1, bool at_end, const int32_t *want, int32_t *got) {
    const size_t row = (size_t)test->desc.out_width * (size_t)test->desc.out_channels;
    const char *error = case_run(test, kernel, y0, y1, at_end, got);

    if (error)
        return error;
    if (memcmp(got + (size_t)y0 * row, want + (size_t)y0 * row,
               (size_t)(y1 - y0) * row * sizeof(*got)) != 0)
        return "differs from the reference";
    return NULL;
}

static const bb_conv_kernel *reference(void) {
    size_t n;
    const bb_conv_kernel *const *kernels = bb_conv_kernels(&n);

    return kernels[n - 1];
}

/** All kernels on one case: the whole image, then a part of its rows. */
static void check_case(check *c, const conv_case *test, uint64_t seed) {
    const int32_t height = test->desc.out_height;
    const int32_t y0 = (int32_t)bb_rng_below(&c->rng, (uint64_t)height);
    const int32_t y1 = y0 + 1 + (int32_t)bb_rng_below(&c->rng, (uint64_t)(height - y0));
    const uint32_t cpu = bb_cpu_flags();
    int32_t *want = bb_alloc_array(test->n_out, sizeof(*want));
    int32_t *got = bb_alloc_array(test->n_out, sizeof(*got));
    size_t n;
    const bb_conv_kernel *const *kernels = bb_conv_kernels(&n);

    case_run(test, reference(), 0, height, true, want);
    for (size_t i = 0; i < n; i++) {
        const char *error;

        if ((kernels[i]->cpu & ~cpu) || !kernels[i]->supports(&test->desc) ||
            (c->only && strcmp(c->only, kernels[i]->name) != 0))
            continue;
        error = compare(test, kernels[i], 0, height, true, want, got);
        if (!error)
            error = compare(test, kernels[i], y0, y1, false, want, got);
        if (error)
            report(c, test, kernels[i], seed, error);
        c->compared++;
    }
    bb_free(want);
    bb_free(got);
}

static void check_seed(check *c, uint64_t seed, uint32_t m, uint32_t k) {
    bb_conv_desc desc;
    conv_case test;
    case_fill fill;

    bb_rng_seed(&c->rng, seed);
    random_desc(&c->rng, m, k, MAX_MACS, &desc);
    fill = bb_rng_below(&c->rng, 2) ? FILL_RANDOM : (case_fill)bb_rng_below(&c->rng, FILL_COUNT);
    case_create(&test, &c->rng, &desc, fill);
    check_case(c, &test, seed);
    case_destroy(&test);
}

/** The largest values in both directions, where sums come closest to their bounds. */
static void check_extremes(check *c, uint64_t seed, const bb_conv_desc *desc) {
    conv_case test;

    bb_rng_seed(&c->rng, seed);
    for (case_fill fill = FILL_MAX; fill <= FILL_MIN; fill++) {
        case_create(&test, &c->rng, desc, fill);
        check_case(c, &test, seed);
        case_destroy(&test);
    }
}

/** Deep sums of the largest values: where 16-bit partial sums must have been flushed. */
static void check_deep(check *c, uint64_t seed, uint32_t m, uint32_t k) {
    const bool square = (m + k) % 2;
    const bb_conv_desc desc = {.in_height = square ? 3 : 1,
                               .in_width = 3,
                               .in_channels = square ? 555 : 5000,
                               .out_height = 1,
                               .out_width = square ? 1 : 3,
                               .out_channels = 33,
                               .kernel = {square ? 3 : 1, square ? 3 : 1},
                               .stride = {1, 1},
                               .dilation = {1, 1},
                               .groups = 1,
                               .activation_bits = m,
                               .weight_bits = k,
                               .native = true};

    check_extremes(c, seed, &desc);
}

/** The deepest window of one-bit codes for which W times the depth is below 65536, W = 2^K - 1: the
 *  bound of conv_swapped_avx2, which wants a tile of 64 pixels and whole groups of four inputs. */
static void check_deep_pixels(check *c, uint64_t seed, uint32_t k) {
    const bb_conv_desc desc = {.in_height = 8,
                               .in_width = 8,
                               .in_channels = 65535 / ((1 << k) - 1) / 4 * 4,
                               .out_height = 8,
                               .out_width = 8,
                               .out_channels = 6,
                               .kernel = {1, 1},
                               .stride = {1, 1},
                               .dilation = {1, 1},
                               .groups = 1,
                               .activation_bits = 1,
                               .weight_bits = k,
                               .native = true};

    check_extremes(c, seed, &desc);
}

static int check_all(uint64_t seed, unsigned shapes, const char *only) {
    check c = {.only = only};
    char cpu[128];

    bb_cpu_describe(bb_cpu_flags(), cpu, sizeof(cpu));
    printf("kcheck: seed %" PRIu64 ", %u shapes for each (M,K), cpu %s\n", seed, shapes, cpu);
    for (uint32_t k = 2; k <= 4; k++)
        check_deep_pixels(&c, seed, k);
    for (uint32_t m = 1; m <= 8; m++)
        for (uint32_t k = 1; k <= 8; k++) {
            check_deep(&c, seed, m, k);
            for (unsigned i = 0; i < shapes; i++)
                check_seed(&c, seed + ((uint64_t)m << 40) + ((uint64_t)k << 32) + i, m, k);
        }
    printf("kcheck: %u comparisons, %u failed\n", c.compared, c.failed);
    return c.failed || c.compared == 0;
}

int main(int argc, char **argv) {
    uint64_t seed = 1;
    unsigned shapes = DEFAULT_SHAPES;
    const char *kernel = NULL, *bits = NULL, *shape = NULL;
    bool bench = false, micro = false;

    for (int i = 1; i < argc; i++) {
        const bool more = i + 1 < argc;

        if (strcmp(argv[i], "--bench") == 0)
            bench = true;
        else if (strcmp(argv[i], "--micro") == 0)
            micro = true;
        else if (strcmp(argv[i], "--seed") == 0 && more)
            seed = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--shapes") == 0 && more)
            shapes = (unsigned)strtoul(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--kernel") == 0 && more)
            kernel = argv[++i];
        else if (strcmp(argv[i], "--bits") == 0 && more)
            bits = argv[++i];
        else if (strcmp(argv[i], "--shape") == 0 && more)
            shape = argv[++i];
        else {
            fprintf(stderr, "usage: kcheck [--seed N] [--shapes N] [--kernel NAME]\n"
                            "       kcheck --bench [--kernel NAME] [--bits wKaM] [--shape SHAPE]\n"
                            "       kcheck --bench --micro\n");
            return 2;
        }
    }
    if (bench && micro)
        return bench_routes();
    return bench ? bench_kernels(kernel, bits, shape) : check_all(seed, shapes, kernel);
}
