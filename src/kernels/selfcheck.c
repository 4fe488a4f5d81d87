/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file selfcheck.c
 * Kernels for instruction sets that few test machines have prove themselves before an engine uses
 * them: small layers, compared with the reference bit for bit.
 */
#include "kernels/registry.h"

#include <stdatomic.h>
#include <string.h>

enum {
    NEW_SETS = BB_CPU_AVX_VNNI | BB_CPU_AVX512 | BB_CPU_AVX512_VNNI | BB_CPU_AVX512_POPCNT |
               BB_CPU_AVX512_VBMI,
    MARGIN = 64,
    WEIGHTS_MAX = 70 * 9 * 37, /**< of any of the layers below */
    CODES_MAX = 6 * 6 * 37,
    SUMS_MAX = 5 * 5 * 130
};

/** Square layers whose output has the size of the input. */
typedef struct layer {
    int32_t size, in_channels, out_channels, window, groups;
} layer;

static const layer layers[] = {
    {4, 37, 70, 3, 1},  /* windows */
    {5, 5, 130, 3, 1},  /* an odd number of blocks, of 64 channels and of 16 */
    {5, 3, 70, 3, 1},   /* short rows of windows, as in a first layer */
    {4, 37, 37, 3, 37}, /* depthwise */
    {1, 37, 70, 1, 1},  /* fully connected */
    {6, 37, 16, 1, 1},  /* 1x1: each width of tiles has whole tiles and pixels left over */
    {6, 37, 32, 1, 1},  /* two vectors of channels */
    {5, 37, 48, 1, 1},  /* three */
    {5, 37, 64, 1, 1},  /* four */
    {5, 37, 70, 1, 1},  /* four and a part */
};

typedef struct trial {
    bb_conv_desc desc;
    uint8_t codes[MARGIN + CODES_MAX + MARGIN];
    int16_t weights[WEIGHTS_MAX];
    int32_t want[SUMS_MAX], got[SUMS_MAX];
    int32_t *out;
} trial;

static void collect(void *user, int32_t y, int32_t x, int32_t n_pixels, int32_t c0,
                    int32_t n_channels, const int32_t *acc, size_t stride) {
    trial *t = user;

    for (int32_t p = 0; p < n_pixels; p++)
        memcpy(t->out + (size_t)((y * t->desc.out_width + x + p) * t->desc.out_channels + c0),
               acc + (size_t)p * stride, (size_t)n_channels * sizeof(*acc));
}

static void fill(trial *t, uint32_t m, uint32_t k, const layer *l) {
    const int32_t weights = l->out_channels * l->window * l->window * l->in_channels / l->groups;
    const int32_t codes = MARGIN + l->size * l->size * l->in_channels + MARGIN;
    bb_rng rng;

    t->desc = (bb_conv_desc){.in_height = l->size,
                             .in_width = l->size,
                             .in_channels = l->in_channels,
                             .out_height = l->size,
                             .out_width = l->size,
                             .out_channels = l->out_channels,
                             .kernel = {l->window, l->window},
                             .stride = {1, 1},
                             .dilation = {1, 1},
                             .pad_begin = {l->window / 2, l->window / 2},
                             .groups = l->groups,
                             .activation_bits = m,
                             .weight_bits = k,
                             .pad_code = 1,
                             .native = true,
                             .max_weight = (1 << k) - 1};
    bb_rng_seed(&rng, m * 8 + k);
    for (int32_t i = 0; i < codes; i++)
        t->codes[i] = (uint8_t)bb_rng_below(&rng, 1u << m);
    for (int32_t i = 0; i < weights; i++)
        t->weights[i] = (int16_t)(2 * (int32_t)bb_rng_below(&rng, 1u << k) - ((1 << k) - 1));
}

static bool run(trial *t, const bb_conv_kernel *kernel, int32_t *out) {
    void *packed = bb_alloc_aligned(kernel->packed_size(&t->desc));
    void *scratch = bb_alloc_aligned(kernel->scratch_size(&t->desc));
    const bool ok = packed && scratch;

    t->out = out;
    memset(out, 0, sizeof(t->want));
    if (ok) {
        kernel->pack(&t->desc, t->weights, packed);
        kernel->run(&t->desc, packed, t->codes + MARGIN, 0, t->desc.out_height, scratch, collect,
                    t);
    }
    bb_free_aligned(packed);
    bb_free_aligned(scratch);
    return ok;
}

typedef enum verdict { AGREES, DIFFERS, UNKNOWN } verdict; /**< UNKNOWN: out of memory */

/** Every new kernel this processor has, at one pair of bits. */
static verdict compare(trial *t, uint32_t cpu, uint32_t m, uint32_t k, const layer *l) {
    bool have_reference = false;
    size_t n;
    const bb_conv_kernel *const *kernels = bb_conv_kernels(&n);

    fill(t, m, k, l);
    for (size_t i = 0; i < n; i++) {
        if ((kernels[i]->cpu & ~cpu) || !(kernels[i]->cpu & NEW_SETS) ||
            !kernels[i]->supports(&t->desc))
            continue;
        if ((!have_reference && !run(t, &bb_conv_ref, t->want)) || !run(t, kernels[i], t->got))
            return UNKNOWN;
        have_reference = true;
        if (memcmp(t->want, t->got, sizeof(t->want)) != 0)
            return DIFFERS;
    }
    return AGREES;
}

static verdict check(uint32_t cpu) {
    static const struct {
        uint32_t m, k;
    } pairs[] = {{1, 1}, {2, 1}, {4, 1}, {4, 2}, {5, 4}, {7, 2}, {8, 8}};
    trial *t = bb_alloc(sizeof(*t));
    verdict found = t ? AGREES : UNKNOWN;

    for (size_t i = 0; found == AGREES && i < BB_COUNT(pairs); i++)
        for (size_t l = 0; found == AGREES && l < BB_COUNT(layers); l++)
            found = compare(t, cpu, pairs[i].m, pairs[i].k, &layers[l]);
    bb_free(t);
    return found;
}

uint32_t bb_conv_trusted(uint32_t cpu) {
    /* Sets whose kernels have all agreed once in this process; those of fewer sets are among them.
     * Sets of which some kernel differed; those of more sets include it. */
    static atomic_uint proved, refuted;
    const uint32_t sets = cpu & NEW_SETS, bad = atomic_load(&refuted);
    verdict found;

    if (!(sets & ~atomic_load(&proved)))
        return cpu;
    found = bad && !(bad & ~sets) ? DIFFERS : check(cpu);
    if (found == DIFFERS)
        atomic_store(&refuted, sets);
    if (found != AGREES)
        return cpu & ~(uint32_t)NEW_SETS;
    if (!(atomic_load(&proved) & ~sets))
        atomic_store(&proved, sets);
    return cpu;
}
