/* SPDX-License-Identifier: Apache-2.0 */
/* Cycles per code of the requantizers: tiles of 8 pixels x 64 channels from the first-level cache.
 */
#include "bench.h"
#include "cpu/cpu.h"
#include "kernels/requant.h"

#include <stdio.h>

enum { CHANNELS = 64, PADDED = 96, PIXELS = 8, ROUNDS = 400, CALLS = 50, MAX_LIMIT = 15 };

static struct {
    int32_t sums[PIXELS * CHANNELS], border[PADDED], mult[PADDED], mult2[PADDED];
    int64_t add[PADDED];
    uint8_t shift[PADDED], codes[PIXELS * CHANNELS], out[PIXELS * CHANNELS];
    double mult_d[PADDED], mult2_d[PADDED], add_d[PADDED];
    float mult_f[PADDED], mult2_f[PADDED], low_f[PADDED], high_f[PADDED];
    int32_t thresholds[MAX_LIMIT * PADDED], flip[PADDED];
} d;

typedef struct form {
    const char *name;
    int32_t limit;
    bool z2, floats, thresholds;
    int64_t max_z1;
} form;

/* With sums of up to 2^12 four bits pass by their steps, eight bits need brackets. */
static const form forms[] = {
    {"4 bits, float by steps", 15, .floats = true, .max_z1 = 1 << 12},
    {"8 bits, float by brackets", 255, .floats = true, .max_z1 = 1 << 20},
    {"4 bits, second operand, float", 15, .z2 = true, .floats = true, .max_z1 = 1 << 12},
    {"4 bits, double", 15, .max_z1 = 1 << 12},
    {"4 bits, second operand, double", 15, .z2 = true, .max_z1 = 1 << 12},
    {"thresholds, 1 bit", 1, .thresholds = true, .max_z1 = 1 << 12},
    {"thresholds, 2 bits", 3, .thresholds = true, .max_z1 = 1 << 12},
    {"thresholds, 4 bits", 15, .thresholds = true, .max_z1 = 1 << 12},
};

static bb_requant_tables tables_of(const form *f) {
    bb_requant_tables t = {.channels = CHANNELS, .padded = PADDED, .limit = f->limit};
    const bb_requant_range range = {.max_z1 = f->max_z1, .max_u2 = f->z2 ? 15 : 0};
    const bb_requant_floats room = {d.mult_f, d.mult2_f, d.low_f, d.high_f};
    bb_rng rng;
    bb_rng_seed(&rng, 1);
    t.has_z2 = f->z2;
    for (size_t c = 0; c < PADDED; c++) {
        const double one = 1 << 30, scale = (f->limit + 1) / (double)f->max_z1;
        d.shift[c] = 30;
        d.mult[c] = (int32_t)(scale * one / 2) + (int32_t)bb_rng_below(&rng, 1000);
        d.mult[c] = d.mult[c] < 1 << 21 ? d.mult[c] : (1 << 21) + (int32_t)c;
        d.mult2[c] = 1 << 20;
        d.add[c] = (int64_t)bb_rng_below(&rng, (uint64_t)1 << 31);
        d.mult_d[c] = d.mult[c] / one;
        d.mult2_d[c] = 2 * d.mult2[c] / one;
        d.add_d[c] = (double)d.add[c] / one;
        for (int32_t i = 0; i < f->limit && f->thresholds; i++)
            d.thresholds[(size_t)i * PADDED + c] = 100 * i;
    }
    for (size_t i = 0; i < PIXELS * CHANNELS; i++) {
        d.sums[i] = (int32_t)bb_rng_below(&rng, (uint64_t)f->max_z1 / 2);
        d.codes[i] = (uint8_t)bb_rng_below(&rng, 16);
    }
    t.mult = d.mult, t.mult2 = d.mult2, t.add = d.add, t.shift = d.shift;
    t.mult_d = d.mult_d, t.mult2_d = d.mult2_d, t.add_d = d.add_d;
    t.thresholds = d.thresholds, t.flip = d.flip;
    if (f->floats)
        bb_requant_use_floats(&t, &range, &room);
    return t;
}

/* The shortest of many rounds, in nanoseconds of one call. */
static double best_ns(bb_requant_fn fn, const bb_requant_tables *t) {
    const bb_requant_job job = {.z1 = d.sums,
                                .z1_stride = CHANNELS,
                                .z1_type = BB_ELEMENT_I32,
                                .z1_shift = 1,
                                .border = d.border,
                                .no_border = true,
                                .z2 = d.codes,
                                .z2_stride = CHANNELS,
                                .n_pixels = PIXELS,
                                .n_channels = CHANNELS,
                                .count = 1,
                                .out = d.out,
                                .out_stride = CHANNELS};
    double best = 1e30;
    for (int round = 0; round < ROUNDS; round++) {
        const uint64_t begin = bench_now_ns();
        for (int i = 0; i < CALLS; i++)
            fn(t, &job);
        const double ns = (double)(bench_now_ns() - begin) / CALLS;
        best = ns < best ? ns : best;
    }
    return best;
}

void bench_codes(void) {
    static const char *const levels[] = {"ref", "ssse3", "avx2", "avx512", "neon"};
    const double ghz = bench_core_ghz();
    printf("cycles per code at %.2f GHz\n", ghz);
    for (size_t level = 0; level < BB_COUNT(levels); level++) {
        uint32_t flags;
        if (bb_cpu_parse(levels[level], &flags, NULL) != BB_STATUS_OK ||
            (flags & ~bb_cpu_detect()) != 0)
            continue;
        const bb_requant_kernels *set = bb_requant_choose(flags);
        for (size_t i = 0; i < BB_COUNT(forms); i++) {
            const bb_requant_tables t = tables_of(&forms[i]);
            const double ns = best_ns(forms[i].thresholds ? set->thresholds : set->linear, &t);
            printf("%-15s %-30s %6.3f  %s\n", set->name, forms[i].name,
                   ns * ghz / (PIXELS * CHANNELS),
                   !forms[i].floats ? ""
                   : !t.mult_f      ? "no float form"
                   : t.high_f       ? "two"
                                    : "one");
        }
    }
}
