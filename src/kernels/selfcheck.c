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
    SIZE = 4, /**< of the image */
    MARGIN = 64,
    IN_CHANNELS = 37,
    OUT_CHANNELS = 70,
    WEIGHTS = OUT_CHANNELS * 9 * IN_CHANNELS,
    CODES = SIZE * SIZE * IN_CHANNELS,
    SUMS = SIZE * SIZE * OUT_CHANNELS
};

typedef struct trial {
    bb_conv_desc desc;
    uint8_t codes[MARGIN + CODES + MARGIN];
    int16_t weights[WEIGHTS];
    int32_t want[SUMS], got[SUMS];
    int32_t *out;
} trial;

static void collect(void *user, int32_t y, int32_t x, int32_t n_pixels, int32_t c0,
                    int32_t n_channels, const int32_t *acc, size_t stride) {
    trial *t = user;

    for (int32_t p = 0; p < n_pixels; p++)
        memcpy(t->out + (size_t)((y * SIZE + x + p) * t->desc.out_channels + c0),
               acc + (size_t)p * stride, (size_t)n_channels * sizeof(*acc));
}

/** Kinds of layers that have kernels of their own. */
typedef enum layer_kind { WINDOW, DEPTHWISE, POINTWISE, KINDS } layer_kind;

static void fill(trial *t, uint32_t m, uint32_t k, layer_kind kind) {
    const bool depthwise = kind == DEPTHWISE;
    const int32_t groups = depthwise ? IN_CHANNELS : 1, window = kind == POINTWISE ? 1 : 3;
    bb_rng rng;

    t->desc = (bb_conv_desc){.in_height = SIZE,
                             .in_width = SIZE,
                             .in_channels = IN_CHANNELS,
                             .out_height = SIZE,
                             .out_width = SIZE,
                             .out_channels = depthwise ? IN_CHANNELS : OUT_CHANNELS,
                             .kernel = {window, window},
                             .stride = {1, 1},
                             .dilation = {1, 1},
                             .pad_begin = {window / 2, window / 2},
                             .groups = groups,
                             .activation_bits = m,
                             .weight_bits = k,
                             .pad_code = 1,
                             .native = true,
                             .max_weight = (1 << k) - 1};
    bb_rng_seed(&rng, m * 8 + k);
    for (size_t i = 0; i < sizeof(t->codes); i++)
        t->codes[i] = (uint8_t)bb_rng_below(&rng, 1u << m);
    for (size_t i = 0; i < WEIGHTS; i++)
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
        kernel->run(&t->desc, packed, t->codes + MARGIN, 0, SIZE, scratch, collect, t);
    }
    bb_free_aligned(packed);
    bb_free_aligned(scratch);
    return ok;
}

/** Every new kernel this processor has, at one pair of bits. */
static bool agree(trial *t, uint32_t cpu, uint32_t m, uint32_t k, layer_kind kind) {
    bool have_reference = false;
    size_t n;
    const bb_conv_kernel *const *kernels = bb_conv_kernels(&n);

    fill(t, m, k, kind);
    for (size_t i = 0; i < n; i++) {
        if ((kernels[i]->cpu & ~cpu) || !(kernels[i]->cpu & NEW_SETS) ||
            !kernels[i]->supports(&t->desc))
            continue;
        if (!have_reference && !run(t, &bb_conv_ref, t->want))
            return false;
        have_reference = true;
        if (!run(t, kernels[i], t->got) || memcmp(t->want, t->got, sizeof(t->want)) != 0)
            return false;
    }
    return true;
}

static bool check(uint32_t cpu) {
    static const struct {
        uint32_t m, k;
    } pairs[] = {{1, 1}, {2, 1}, {4, 1}, {4, 2}, {5, 4}, {7, 2}, {8, 8}};
    trial *t = bb_alloc(sizeof(*t));
    bool ok = t != NULL;

    for (size_t i = 0; ok && i < BB_COUNT(pairs); i++)
        for (int layer = WINDOW; ok && layer < KINDS; layer++)
            ok = agree(t, cpu, pairs[i].m, pairs[i].k, (layer_kind)layer);
    bb_free(t);
    return ok;
}

uint32_t bb_conv_trusted(uint32_t cpu) {
    /* Sets whose kernels have all agreed once in this process; those of fewer sets are among them.
     */
    static atomic_uint proved;
    const uint32_t sets = cpu & NEW_SETS;

    if (!(sets & ~atomic_load(&proved)))
        return cpu;
    if (!check(cpu))
        return cpu & ~(uint32_t)NEW_SETS;
    if (!(atomic_load(&proved) & ~sets))
        atomic_store(&proved, sets);
    return cpu;
}
