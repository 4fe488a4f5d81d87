/* SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"
#include "cases.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

typedef struct bench_shape {
    const char *name;
    int32_t channels, size, outputs, kernel, stride, groups;
} bench_shape;

static const bench_shape usual[] = {
    {"3x3 256 14x14", 256, 14, 256, 3, 1, 1},      {"3x3 128 28x28", 128, 28, 128, 3, 1, 1},
    {"3x3 64 56x56", 64, 56, 64, 3, 1, 1},         {"3x3 512 7x7", 512, 7, 512, 3, 1, 1},
    {"1x1 96-24 56x56", 96, 56, 24, 1, 1, 1},      {"1x1 64-384 14x14", 64, 14, 384, 1, 1, 1},
    {"1x1 960-320 7x7", 960, 7, 320, 1, 1, 1},     {"7x7 3-64 s2 224", 3, 224, 64, 7, 2, 1},
    {"dw 3x3 384 14x14", 384, 14, 384, 3, 1, 384}, {"dw 3x3 96 112 s2", 96, 112, 96, 3, 2, 96},
    {"fc 512-1000", 512, 1, 1000, 1, 1, 1},
};

static const struct {
    uint32_t m, k;
} pairs[] = {{1, 1}, {1, 2}, {1, 4}, {2, 1}, {2, 2}, {3, 3}, {4, 1},
             {4, 2}, {4, 4}, {8, 1}, {8, 2}, {8, 4}, {6, 6}, {8, 8}};

uint64_t bench_now_ns(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/** Core clock from a chain of dependent additions, one a cycle; the best of many windows. */
double bench_core_ghz(void) {
    enum { ADDS = 1 << 16 };
    double best = 0;

    for (int round = 0; round < 200; round++) {
        const uint64_t begin = bench_now_ns();
        uint64_t x = begin;
        double ghz;

        for (int i = 0; i < ADDS; i += 8) {
#define ADD                                                                                        \
    x += 3;                                                                                        \
    __asm__ volatile("" : "+r"(x));
            ADD ADD ADD ADD ADD ADD ADD ADD
#undef ADD
        }
        ghz = ADDS / (double)(bench_now_ns() - begin);
        if (ghz > best)
            best = ghz;
    }
    return best;
}

static void drop(void *user, int32_t y, int32_t x, int32_t n_pixels, int32_t c0, int32_t n_channels,
                 const int32_t *acc, size_t stride) {
    *(int32_t *)user += acc[0];
    (void)y, (void)x, (void)n_pixels, (void)c0, (void)n_channels, (void)stride;
}

static bb_conv_desc shape_desc(const bench_shape *shape, uint32_t m, uint32_t k) {
    const int32_t pad = shape->kernel / 2;
    const int32_t out = (shape->size + 2 * pad - shape->kernel) / shape->stride + 1;

    return (bb_conv_desc){
        .in_height = shape->size,
        .in_width = shape->size,
        .in_channels = shape->channels,
        .out_height = out,
        .out_width = out,
        .out_channels = shape->outputs,
        .kernel = {shape->kernel, shape->kernel},
        .stride = {shape->stride, shape->stride},
        .dilation = {1, 1},
        .pad_begin = {pad, pad},
        .groups = shape->groups,
        .activation_bits = m,
        .weight_bits = k,
        .native = true,
        .max_weight = (1 << k) - 1,
    };
}

/** Shortest of many runs, in nanoseconds, within about 40 ms. */
static double best_ns(const conv_case *c, const bb_conv_kernel *kernel) {
    void *packed = bb_alloc_aligned(kernel->packed_size(&c->desc));
    void *scratch = bb_alloc_aligned(kernel->scratch_size(&c->desc));
    const uint64_t deadline = bench_now_ns() + 40000000u;
    double best = 1e30;
    int32_t sink = 0;

    kernel->pack(&c->desc, c->weights, packed);
    for (int i = 0; i < 3 || bench_now_ns() < deadline; i++) {
        const uint64_t begin = bench_now_ns();
        double ns;

        kernel->run(&c->desc, packed, c->codes, 0, c->desc.out_height, scratch, drop, &sink);
        ns = (double)(bench_now_ns() - begin);
        if (ns < best)
            best = ns;
    }
    bb_free_aligned(packed);
    bb_free_aligned(scratch);
    return best;
}

static void bench_case(const conv_case *c, const char *name, const char *only, double ghz) {
    const uint32_t cpu = bb_cpu_flags();
    const double macs = bb_conv_macs(&c->desc);
    const bb_conv_kernel *chosen = bb_conv_choose(&c->desc, cpu, NULL);
    double best = 1e30, taken = 0;
    size_t n;
    const bb_conv_kernel *const *kernels = bb_conv_kernels(&n);

    for (size_t i = 0; i < n; i++) {
        double cycles;

        if ((kernels[i]->cpu & ~cpu) || !kernels[i]->supports(&c->desc) ||
            (only ? strcmp(only, kernels[i]->name) != 0 : i + 1 == n))
            continue;
        cycles = best_ns(c, kernels[i]) * ghz;
        printf("%-17s w%ua%u %-20s %7.1f  cost/measured %.2f%s\n", name, c->desc.weight_bits,
               c->desc.activation_bits, kernels[i]->name, macs / cycles,
               kernels[i]->cost(&c->desc) / cycles, kernels[i] == chosen ? "  *" : "");
        fflush(stdout);
        best = cycles < best ? cycles : best;
        taken = kernels[i] == chosen ? cycles : taken;
    }
    if (taken > 1.1 * best)
        printf("%-17s w%ua%u a bad choice: %.2f times the best\n", name, c->desc.weight_bits,
               c->desc.activation_bits, taken / best);
}

static void bench_shape_bits(const bench_shape *shape, uint32_t m, uint32_t k, const char *kernel,
                             double ghz) {
    const bb_conv_desc desc = shape_desc(shape, m, k);
    conv_case c;
    bb_rng rng;

    bb_rng_seed(&rng, 7);
    case_create(&c, &rng, &desc, FILL_RANDOM);
    bench_case(&c, shape->name, kernel, ghz);
    case_destroy(&c);
}

static bool parse_shape(const char *text, bench_shape *shape) {
    shape->name = text;
    return sscanf(text, "%d,%d,%d,%d,%d,%d", &shape->channels, &shape->size, &shape->outputs,
                  &shape->kernel, &shape->stride, &shape->groups) == 6 &&
           shape->channels > 0 && shape->size > 0 && shape->outputs > 0 && shape->kernel > 0 &&
           shape->stride > 0 && shape->groups > 0 && shape->channels % shape->groups == 0 &&
           shape->outputs % shape->groups == 0;
}

int bench_kernels(const char *kernel, const char *bits, const char *shape) {
    const double ghz = bench_core_ghz();
    bench_shape own;

    if (shape && !parse_shape(shape, &own)) {
        fprintf(stderr, "kcheck: --shape wants CHANNELS,SIZE,OUTPUTS,KERNEL,STRIDE,GROUPS\n");
        return 2;
    }
    printf("products per cycle, best of many runs at %.2f GHz; * = the chooser's\n", ghz);
    for (size_t p = 0; p < BB_COUNT(pairs); p++) {
        char name[16];

        snprintf(name, sizeof(name), "w%ua%u", pairs[p].k, pairs[p].m);
        if (bits && strcmp(bits, name) != 0)
            continue;
        for (size_t s = 0; s < (shape ? 1 : BB_COUNT(usual)); s++)
            bench_shape_bits(shape ? &own : &usual[s], pairs[p].m, pairs[p].k, kernel, ghz);
    }
    return 0;
}

/** A route of the AVX2 kernels and what the design study measured for it, in products a cycle. */
typedef struct route_target {
    const char *kernel, *what;
    uint32_t m, k;
    double target;
} route_target;

/** Pixels of deep_ns: whole tiles for every route (64 pixels where roles are exchanged). */
enum { DEEP_HEIGHT = 8, DEEP_WIDTH = 24 };

/**
 * Nanoseconds for `outputs` channels of a product of 2304 activations with 192 pixels. The
 * difference of two counts of channels is the inner loop alone: what is done once for the input
 * (transform, tables) cancels.
 */
static double deep_ns(const bb_conv_kernel *kernel, uint32_t m, uint32_t k, int32_t outputs) {
    const bench_shape shape = {"deep", 2304, 0, outputs, 1, 1, 1};
    bb_conv_desc desc = shape_desc(&shape, m, k);
    conv_case c;
    bb_rng rng;
    double ns = 1e30;

    desc.in_height = desc.out_height = DEEP_HEIGHT;
    desc.in_width = desc.out_width = DEEP_WIDTH;
    bb_rng_seed(&rng, 7);
    case_create(&c, &rng, &desc, FILL_RANDOM);
    if (kernel->supports(&desc))
        ns = best_ns(&c, kernel);
    case_destroy(&c);
    return ns;
}

static void bench_route(const bb_conv_kernel *kernel, const route_target *t, double ghz) {
    enum { FEW = 192, MANY = 384 }; /* whole blocks of every route, of 64 channels and of 6 */
    const double ns = deep_ns(kernel, t->m, t->k, MANY) - deep_ns(kernel, t->m, t->k, FEW);
    const double rate = 2304.0 * DEEP_HEIGHT * DEEP_WIDTH * (MANY - FEW) / (ns * ghz);

    printf("%-20s w%ua%u  %-32s %7.1f %7.1f %6.2f\n", t->kernel, t->k, t->m, t->what, rate,
           t->target, rate / t->target);
    fflush(stdout);
}

int bench_routes(void) {
    static const route_target routes[] = {
        {"conv_lut_avx2", "look-up, T = 63", 1, 1, 195},
        {"conv_lut_avx2", "look-up, T = 21", 2, 1, 187},
        {"conv_lut_avx2", "look-up, T = 9", 3, 1, 170},
        {"conv_lut_avx2", "look-up, T = 4", 4, 1, 149},
        {"conv_lut_avx2", "look-up in two parts", 8, 1, 73},
        {"conv_lut_avx2", "look-up, two planes, T = 21", 2, 2, 98.7},
        {"conv_lut_avx2", "look-up, two planes, T = 4", 4, 2, 86},
        {"conv_lut_avx2", "look-up, three planes", 3, 3, 56.6},
        {"conv_packed_avx2", "look-up, two pixels in a byte", 1, 1, 237},
        {"conv_swapped_avx2", "look-up, roles exchanged", 1, 2, 185},
        {"conv_int8_avx2", "bytes, 16-bit sums", 4, 4, 50},
        {"conv_pointwise_avx2", "bytes, 1x1", 4, 4, 50},
        {"conv_pointwise_avx2", "words, 1x1", 8, 8, 24.9},
        {"conv_int8_avx2", "bytes, 32-bit sums", 8, 7, 30.3},
        {"conv_int16_avx2", "words", 8, 8, 24.9},
        {"conv_xnor_avx2", "xor and popcount", 1, 1, 96},
    };
    const double ghz = bench_core_ghz();
    size_t n;
    const bb_conv_kernel *const *kernels = bb_conv_kernels(&n);

    printf("products per cycle of the inner loops at %.2f GHz, beside the study's\n", ghz);
    for (size_t r = 0; r < BB_COUNT(routes); r++)
        for (size_t i = 0; i < n; i++)
            if (strcmp(kernels[i]->name, routes[r].kernel) == 0 &&
                (kernels[i]->cpu & ~bb_cpu_flags()) == 0)
                bench_route(kernels[i], &routes[r], ghz);
    return 0;
}
