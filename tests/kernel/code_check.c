/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requantizer and window kernels of every instruction set against the reference, with buffers that
 * end (or begin) at a page that must not be touched, odd sizes and unaligned starts.
 *
 *     code_check [--seed N] [--count N] | --bench
 */
#include "bench.h"
#include "cases.h"
#include "cpu/cpu.h"
#include "kernels/requant.h"
#include "kernels/window.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CHANNELS = 200, PADDED = 240, MAX_LIMIT = 255, INDEX_BITS = 9 };

static struct constants {
    int32_t mult[PADDED], mult2[PADDED], neg_mult[PADDED], neg_mult2[PADDED], border[PADDED];
    int64_t add[PADDED], neg_add[PADDED], off[PADDED];
    uint8_t shift[PADDED];
    double mult_d[PADDED], mult2_d[PADDED], add_d[PADDED];
    double neg_mult_d[PADDED], neg_mult2_d[PADDED], neg_add_d[PADDED], off_d[PADDED];
    int32_t thresholds[MAX_LIMIT * PADDED], flip[PADDED];
    uint16_t table[(1 << INDEX_BITS) + 1];
    double scale[PADDED], scale2[PADDED], bias[PADDED];
    float mult_f[PADDED], mult2_f[PADDED], low_f[PADDED], high_f[PADDED];
} k;

/* How often LINEAR had each float form: a test of none of them would prove nothing. */
static size_t n_exact, n_one, n_two;

static size_t failures;

static int64_t between(bb_rng *rng, int64_t low, int64_t high) {
    return low + (int64_t)bb_rng_below(rng, (uint64_t)(high - low + 1));
}

/* The double constants of channel c from the integers. */
static void derive_doubles(const bb_requant_tables *t, int c) {
    const double down = 1.0 / (double)(INT64_C(1) << k.shift[c]);
    const int64_t zero = t->has_z2 ? t->zero2 : 0;
    k.mult_d[c] = k.mult[c] * down;
    k.mult2_d[c] = 2.0 * k.mult2[c] * down;
    k.neg_mult_d[c] = k.neg_mult[c] * down;
    k.neg_mult2_d[c] = 2.0 * k.neg_mult2[c] * down;
    k.off_d[c] = (double)k.off[c] * down;
    k.add_d[c] = (double)(k.add[c] - zero * k.mult2[c]) * down;
    k.neg_add_d[c] = (double)(k.neg_add[c] - zero * k.neg_mult2[c]) * down;
}

static void random_linear(bb_rng *rng, bb_requant_tables *t) {
    for (int c = 0; c < PADDED; c++) {
        k.shift[c] = (uint8_t)between(rng, 0, 30);
        k.mult[c] = (int32_t)between(rng, -(1 << 20), 1 << 20);
        k.mult2[c] = (int32_t)between(rng, -(1 << 20), 1 << 20);
        k.neg_mult[c] = (int32_t)between(rng, -(1 << 20), 1 << 20);
        k.neg_mult2[c] = (int32_t)between(rng, -(1 << 20), 1 << 20);
        k.add[c] = between(rng, -(INT64_C(1) << 40), INT64_C(1) << 40);
        k.neg_add[c] = between(rng, -(INT64_C(1) << 40), INT64_C(1) << 40);
        k.off[c] = between(rng, 0, INT64_C(1) << 30);
        derive_doubles(t, c);
    }
}

static int ascending(const void *a, const void *b) {
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* T = 0 is where the second slope begins: sums without constant parts meet it often. */
static void no_constant_parts(bb_requant_tables *t) {
    t->zero2 = 0;
    memset(k.border, 0, sizeof(k.border));
    memset(k.add, 0, sizeof(k.add));
    memset(k.add_d, 0, sizeof(k.add_d));
    for (int c = 0; c < PADDED; c++)
        k.neg_add_d[c] = (double)k.neg_add[c] / (double)(INT64_C(1) << k.shift[c]);
}

static void random_thresholds(bb_rng *rng, const bb_requant_tables *t) {
    for (int c = 0; c < PADDED; c++) {
        int32_t row[MAX_LIMIT];
        for (int i = 0; i < t->limit; i++)
            row[i] = (int32_t)between(rng, -3000, 3000);
        qsort(row, (size_t)t->limit, sizeof(*row), ascending);
        for (int i = 0; i < t->limit; i++)
            k.thresholds[i * PADDED + c] = row[i];
        k.flip[c] = bb_rng_below(rng, 2) ? -1 : 0;
    }
}

static void random_constants(bb_rng *rng, bb_requant_tables *t) {
    random_linear(rng, t);
    for (int c = 0; c < PADDED; c++) {
        k.border[c] = (int32_t)between(rng, -1000, 1000);
        k.scale[c] = (double)(float)bb_rng_normal(rng);
        k.scale2[c] = (double)(float)bb_rng_normal(rng);
        k.bias[c] = (double)(float)bb_rng_normal(rng);
    }
    for (size_t i = 0; i < BB_COUNT(k.table); i++)
        k.table[i] = (uint16_t)bb_rng_below(rng, (uint64_t)t->limit + 1);
    if (bb_rng_below(rng, 4) == 0)
        no_constant_parts(t);
}

static bb_requant_tables random_tables(bb_rng *rng, bool thresholds) {
    bb_requant_tables t = {.channels = MAX_CHANNELS,
                           .padded = PADDED,
                           .has_z2 = !thresholds && bb_rng_below(rng, 2),
                           .has_slope = bb_rng_below(rng, 2),
                           .mult = k.mult,
                           .mult2 = k.mult2,
                           .neg_mult = k.neg_mult,
                           .neg_mult2 = k.neg_mult2,
                           .add = k.add,
                           .neg_add = k.neg_add,
                           .off = k.off,
                           .shift = k.shift,
                           .mult_d = k.mult_d,
                           .mult2_d = k.mult2_d,
                           .add_d = k.add_d,
                           .neg_mult_d = k.neg_mult_d,
                           .neg_mult2_d = k.neg_mult2_d,
                           .neg_add_d = k.neg_add_d,
                           .off_d = k.off_d,
                           .thresholds = k.thresholds,
                           .flip = k.flip,
                           .table = k.table,
                           .scale = k.scale,
                           .scale2 = k.scale2,
                           .bias = k.bias};
    t.limit = (1 << between(rng, 1, 8)) - 1;
    t.zero2 = t.has_z2 ? (int32_t)between(rng, -100, 300) : 0;
    random_constants(rng, &t);
    if (thresholds)
        random_thresholds(rng, &t);
    return t;
}

static void fill(bb_rng *rng, uint8_t *p, size_t n, bb_element type) {
    for (size_t i = 0; i < n; i++) {
        const int64_t wide = between(rng, -(1 << between(rng, 4, 24)), 1 << between(rng, 4, 24));
        const bool zero = bb_rng_below(rng, 8) == 0;
        const int32_t v = zero ? 0 : (int32_t)wide;
        const uint16_t u = zero ? 0 : (uint16_t)bb_rng_next(rng);
        if (type == BB_ELEMENT_I32)
            memcpy(p + 4 * i, &v, 4);
        else if (type == BB_ELEMENT_U16)
            memcpy(p + 2 * i, &u, 2);
        else
            p[i] = (uint8_t)u;
    }
}

/* Elements from the first pixel's first channel to the last one's last. */
static size_t extent(int32_t pixels, int32_t channels, size_t stride) {
    return (size_t)(pixels - 1) * stride + (size_t)channels;
}

typedef struct operands {
    guarded z1, z2, out;
    bb_requant_job job;
    size_t out_bytes;
} operands;

/* Pixels without gaps, which some kernels take as one run: in layers of few channels. Some have as
 * many as such a run may have, or nearly. */
static void make_dense(bb_rng *rng, bb_requant_job *j) {
    static const int32_t many[] = {144, BB_REQUANT_DENSE_MAX - 8, BB_REQUANT_DENSE_MAX};
    j->n_channels = bb_rng_below(rng, 3) == 0 ? many[bb_rng_below(rng, BB_COUNT(many))]
                                              : 8 * (int32_t)between(rng, 1, MAX_CHANNELS / 8);
    j->c0 = (int32_t)between(rng, 0, MAX_CHANNELS - j->n_channels);
    j->n_pixels = (int32_t)between(rng, 1, 40);
    j->z1_stride = j->z2_stride = j->out_stride = (size_t)j->n_channels;
    j->z1_type = BB_ELEMENT_I32;
    j->out_type = j->out_type == BB_ELEMENT_U16 ? BB_ELEMENT_U8 : j->out_type;
}

static operands random_operands(bb_rng *rng, bool floats, bool average) {
    operands o = {.job = {.z1_type = (bb_element)bb_rng_below(rng, 3),
                          .z2_type = (bb_element)bb_rng_below(rng, 2),
                          .border = k.border,
                          .count = average ? (int32_t)between(rng, 1, 50) : 1,
                          .n_pixels = (int32_t)between(rng, 1, 7),
                          .n_channels = (int32_t)between(rng, 1, MAX_CHANNELS)}};
    bb_requant_job *j = &o.job;
    const bool at_end = bb_rng_below(rng, 2);
    j->c0 = (int32_t)between(rng, 0, MAX_CHANNELS - j->n_channels);
    j->z1_shift = (int)bb_rng_below(rng, 2);
    j->out_type = floats ? BB_ELEMENT_F32 : (bb_element)bb_rng_below(rng, 2);
    j->z1_stride = (size_t)(j->n_channels + between(rng, 0, 9));
    j->z2_stride = (size_t)(j->n_channels + between(rng, 0, 9));
    j->out_stride = (size_t)(j->n_channels + between(rng, 0, 9));
    if (bb_rng_below(rng, 3) == 0)
        make_dense(rng, j);
    const size_t n1 = extent(j->n_pixels, j->n_channels, j->z1_stride);
    const size_t n2 = extent(j->n_pixels, j->n_channels, j->z2_stride);
    guarded_create(&o.z1, n1 * bb_element_size(j->z1_type), bb_element_size(j->z1_type), at_end);
    guarded_create(&o.z2, n2 * bb_element_size(j->z2_type), bb_element_size(j->z2_type), at_end);
    o.out_bytes = extent(j->n_pixels, j->n_channels, j->out_stride) * bb_element_size(j->out_type);
    guarded_create(&o.out, o.out_bytes, bb_element_size(j->out_type), at_end);
    fill(rng, o.z1.data, n1, j->z1_type);
    fill(rng, o.z2.data, n2, j->z2_type);
    j->z1 = o.z1.data;
    j->z2 = o.z2.data;
    j->out = o.out.data;
    return o;
}

static void report(const char *set, const char *what, uint64_t seed) {
    if (failures++ < 20)
        printf("FAIL %s %s, seed %llu\n", set, what, (unsigned long long)seed);
}

/* Gaps between pixels must stay as they were, so all bytes of both outputs are compared. */
static void check_requant(const bb_requant_kernels *set, int kind, uint64_t seed) {
    static const char *const names[] = {"linear", "thresholds", "indexed", "to_float"};
    const bb_requant_fn fn[] = {set->linear, set->thresholds, set->indexed, set->to_float};
    const bb_requant_fn ref[] = {bb_requant_ref.linear, bb_requant_ref.thresholds,
                                 bb_requant_ref.indexed, bb_requant_ref.to_float};
    bb_rng rng;
    bb_rng_seed(&rng, seed);
    bb_requant_tables t = random_tables(&rng, kind == 1);
    if (kind == 2)
        t.limit = (1 << INDEX_BITS) - 1;
    operands o =
        random_operands(&rng, kind == 3, !t.has_z2 && kind != 1 && bb_rng_below(&rng, 3) == 0);
    uint8_t *expected = malloc(o.out_bytes);
    if (!expected)
        exit(1);
    memset(o.out.data, 0x5a, o.out_bytes);
    ref[kind](&t, &o.job);
    memcpy(expected, o.out.data, o.out_bytes);
    memset(o.out.data, 0x5a, o.out_bytes);
    fn[kind](&t, &o.job);
    if (memcmp(expected, o.out.data, o.out_bytes) != 0)
        report(set->name, names[kind], seed);
    if (!guarded_intact(&o.out) || !guarded_intact(&o.z1) || !guarded_intact(&o.z2))
        report(set->name, "wrote outside", seed);
    free(expected);
    guarded_destroy(&o.z1);
    guarded_destroy(&o.z2);
    guarded_destroy(&o.out);
}

/* ---- LINEAR in float ------------------------------------------------------------------------- */

/* Constants as layers have them: most of the range of Z1 spread over the codes. Some channels are
 * made for sums that hit integers exactly or miss them by a hair, where float must be refused. */
static void likely_channel(bb_rng *rng, const bb_requant_tables *t, int64_t max_z1, int c) {
    const double spread = (double)t->limit / (double)max_z1 * (double)between(rng, 1, 20);
    int shift = 0;
    while (shift < 40 && spread * (double)(INT64_C(1) << shift) < (1 << 20))
        shift++;
    const int64_t one = INT64_C(1) << shift;
    k.shift[c] = (uint8_t)shift;
    k.mult[c] = (int32_t)(spread * (double)one) + 1;
    k.mult[c] = k.mult[c] < (1 << 21) ? k.mult[c] : (1 << 21);
    k.add[c] = between(rng, -one, one * (t->limit + 1));
    k.mult2[c] = (int32_t)between(rng, -k.mult[c], k.mult[c]);
    if (bb_rng_below(rng, 3) == 0) {
        k.add[c] = one / 2 * between(rng, 0, 2 * t->limit) + between(rng, -1, 1);
        k.mult[c] = 1 << between(rng, 10, 20);
        k.mult[c] += (int32_t)between(rng, -1, 1);
    }
    if (bb_rng_below(rng, 2))
        k.mult[c] = -k.mult[c];
    if (bb_rng_below(rng, 16) == 0)
        k.mult[c] = 0;
    derive_doubles(t, c);
}

/* A Z1 beside a step of channel c, or any. */
static int64_t likely_z1(bb_rng *rng, const bb_requant_tables *t, int64_t max_z1, int c,
                         int32_t z2) {
    int64_t z = between(rng, -max_z1, max_z1);
    if (k.mult[c] != 0 && bb_rng_below(rng, 4) != 0) {
        const int64_t code = between(rng, 0, t->limit + 1);
        const int64_t rest = t->has_z2 ? (int64_t)z2 * k.mult2[c] : 0;
        z = (code * (INT64_C(1) << k.shift[c]) - k.add[c] - rest) / k.mult[c] + between(rng, -1, 1);
    }
    return z < -max_z1 ? -max_z1 : z > max_z1 ? max_z1 : z;
}

/* Fills the operands of a job so that |Z1| <= max_z1. */
static void likely_operands(bb_rng *rng, const bb_requant_tables *t, operands *o, int64_t max_z1) {
    bb_requant_job *j = &o->job;
    for (int32_t p = 0; p < j->n_pixels; p++)
        for (int32_t i = 0; i < j->n_channels; i++) {
            const int c = j->c0 + i;
            const size_t at = (size_t)p * j->z1_stride + (size_t)i;
            const size_t at2 = (size_t)p * j->z2_stride + (size_t)i;
            const int32_t u2 = j->z2_type == BB_ELEMENT_U8 ? o->z2.data[at2]
                                                           : ((uint16_t *)(void *)o->z2.data)[at2];
            const int64_t z = likely_z1(rng, t, max_z1, c, 2 * u2 - t->zero2);
            const int32_t z1 = (int32_t)((z - k.border[c]) / (1 << j->z1_shift));
            if (j->z1_type == BB_ELEMENT_I32)
                ((int32_t *)(void *)o->z1.data)[at] = z1;
            else
                o->z1.data[at] = z1 < 0 ? 0 : z1 > 255 ? 255 : (uint8_t)z1;
        }
}

static bb_requant_tables likely_tables(bb_rng *rng, int64_t max_z1, const bb_requant_floats *room) {
    bb_requant_tables t = random_tables(rng, false);
    const bool border = bb_rng_below(rng, 2);
    t.has_slope = false;
    for (int c = 0; c < PADDED; c++) {
        likely_channel(rng, &t, max_z1, c);
        k.border[c] = border ? (int32_t)between(rng, -50, 50) : 0;
    }
    const bb_requant_range range = {.max_z1 = max_z1,
                                    .max_u2 = t.has_z2 ? UINT16_MAX : 0,
                                    .border = bb_rng_below(rng, 2) ? k.border : NULL};
    bb_requant_use_floats(&t, &range, room);
    *(!t.mult_f ? &n_exact : t.high_f ? &n_two : &n_one) += 1;
    return t;
}

/* The largest |Z1| that operands of these types have, and one of the sizes layers have. */
static void check_float(const bb_requant_kernels *set, uint64_t seed) {
    const bb_requant_floats room = {k.mult_f, k.mult2_f, k.low_f, k.high_f};
    bb_rng rng;
    bb_rng_seed(&rng, seed);
    const int64_t max_z1 = between(&rng, 600, INT64_C(1) << between(&rng, 10, 26));
    bb_requant_tables t = likely_tables(&rng, max_z1, &room);
    operands o = random_operands(&rng, false, false);
    bb_requant_job *j = &o.job;
    j->no_border = true;
    for (int c = 0; c < PADDED; c++)
        j->no_border = j->no_border && k.border[c] == 0;
    uint8_t *expected = malloc(o.out_bytes);
    if (!expected)
        exit(1);
    if (j->z1_type != BB_ELEMENT_U16)
        likely_operands(&rng, &t, &o, max_z1 - 1);
    else
        t.mult_f = NULL; /* its codes are beyond max_z1 */
    memset(o.out.data, 0x5a, o.out_bytes);
    bb_requant_ref.linear(&t, j);
    memcpy(expected, o.out.data, o.out_bytes);
    memset(o.out.data, 0x5a, o.out_bytes);
    set->linear(&t, j);
    if (memcmp(expected, o.out.data, o.out_bytes) != 0)
        report(set->name, "linear in float", seed);
    if (!guarded_intact(&o.out) || !guarded_intact(&o.z1) || !guarded_intact(&o.z2))
        report(set->name, "wrote outside", seed);
    free(expected);
    guarded_destroy(&o.z1);
    guarded_destroy(&o.z2);
    guarded_destroy(&o.out);
}

static void check_window(const bb_window_kernels *set, uint64_t seed) {
    bb_rng rng;
    guarded in, sums;
    bb_rng_seed(&rng, seed);
    bb_window w = {.rows = (int32_t)between(&rng, 1, 5),
                   .columns = (int32_t)between(&rng, 1, 5),
                   .channels = (int32_t)between(&rng, 1, MAX_CHANNELS),
                   .type = (bb_element)bb_rng_below(&rng, 2)};
    const size_t size = bb_element_size(w.type), c = (size_t)w.channels;
    const bool at_end = bb_rng_below(&rng, 2);
    w.pixel_stride = c + (size_t)between(&rng, 0, 9);
    w.row_stride = w.pixel_stride * (size_t)w.columns + (size_t)between(&rng, 0, 20);
    const size_t n =
        (size_t)(w.rows - 1) * w.row_stride + extent(w.columns, w.channels, w.pixel_stride);
    guarded_create(&in, n * size, size, at_end);
    guarded_create(&sums, c * 4, 4, at_end);
    fill(&rng, in.data, n, w.type);
    w.first = in.data;
    int32_t expected_sums[MAX_CHANNELS];
    bb_window_ref.sum(&w, expected_sums);
    set->sum(&w, (int32_t *)(void *)sums.data);
    if (memcmp(expected_sums, sums.data, c * 4) != 0)
        report(set->name, "sum", seed);
    if (!guarded_intact(&in) || !guarded_intact(&sums))
        report(set->name, "wrote outside", seed);
    guarded_destroy(&in);
    guarded_destroy(&sums);
}

/* Overlapping items of several inputs, written side by side or apart. A single item may be written
 * over its first input. */
static void check_max(const bb_window_kernels *set, uint64_t seed) {
    enum { MOST = 7 };
    bb_rng rng;
    guarded in[MOST], out;
    const void *rows[MOST];
    bb_rng_seed(&rng, seed);
    bb_max_job job = {.in = rows,
                      .n = (size_t)between(&rng, 1, MOST),
                      .elements = (size_t)between(&rng, 1, MAX_CHANNELS),
                      .count = bb_rng_below(&rng, 2) ? 1 : (size_t)between(&rng, 2, 5),
                      .type = (bb_element)bb_rng_below(&rng, 2)};
    const size_t size = bb_element_size(job.type);
    const bool at_end = bb_rng_below(&rng, 2);
    job.in_step = (size_t)between(&rng, 1, 2 * (int64_t)job.elements);
    job.out_step = job.elements + (size_t)between(&rng, 0, 9);
    const size_t n = (job.count - 1) * job.in_step + job.elements;
    const size_t n_out = (job.count - 1) * job.out_step + job.elements;
    for (size_t i = 0; i < job.n; i++) {
        guarded_create(&in[i], n * size, size, at_end);
        fill(&rng, in[i].data, n, job.type);
        rows[i] = in[i].data;
    }
    guarded_create(&out, n_out * size, size, at_end);
    uint8_t *expected = malloc(n_out * size);
    memcpy(expected, out.data, n_out * size);
    job.out = expected;
    bb_window_ref.max(&job);
    job.out = out.data;
    if (job.count == 1 && bb_rng_below(&rng, 3) > 0) {
        memcpy(out.data, rows[0], n * size);
        rows[0] = out.data;
    }
    set->max(&job);
    if (memcmp(expected, out.data, n_out * size) != 0)
        report(set->name, "max", seed);
    for (size_t i = 0; i < job.n; i++) {
        if (!guarded_intact(&in[i]))
            report(set->name, "wrote outside", seed);
        guarded_destroy(&in[i]);
    }
    if (!guarded_intact(&out))
        report(set->name, "wrote outside", seed);
    guarded_destroy(&out);
    free(expected);
}

int main(int argc, char **argv) {
    static const char *const levels[] = {"ref", "ssse3", "avx2", "avx512", "neon", "dotprod"};
    uint64_t seed = 1, count = 500;
    if (argc == 2 && strcmp(argv[1], "--bench") == 0) {
        bench_codes();
        return 0;
    }
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--seed") == 0)
            seed = strtoull(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--count") == 0)
            count = strtoull(argv[i + 1], NULL, 10);
    }
    for (size_t level = 0; level < BB_COUNT(levels); level++) {
        uint32_t flags;
        if (bb_cpu_parse(levels[level], &flags, NULL) != BB_STATUS_OK ||
            (flags & ~bb_cpu_detect()) != 0)
            continue;
        const bb_requant_kernels *requant = bb_requant_choose(flags);
        const bb_window_kernels *window = bb_window_choose(flags);
        for (uint64_t i = 0; i < count; i++) {
            for (int kind = 0; kind < 4; kind++)
                check_requant(requant, kind, seed + i);
            for (uint64_t n = 0; n < 4; n++)
                check_float(requant, (seed + i) * 4 + n);
            check_window(window, seed + i);
            check_max(window, seed + i);
        }
        printf("%s: %s, %s\n", levels[level], requant->name, window->name);
    }
    printf("float forms: %zu none, %zu by steps, %zu by brackets\n", n_exact, n_one, n_two);
    printf("%zu differences\n", failures);
    return failures > 0 || n_one == 0 || n_two == 0 ? 1 : 0;
}
