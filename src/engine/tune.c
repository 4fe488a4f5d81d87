/* SPDX-License-Identifier: Apache-2.0 */
/* Choosing kernels by measuring them: made-up codes of the layer's own shape, its real weights,
 * all candidates in turn so that a disturbance hits them alike, and the least time of each. */
#include "engine/internal.h"
#include <stdlib.h>
#include <string.h>

enum {
    ROUNDS_MAX = 25,
    ROUNDS_MIN = 3,
    LAYER_NS = 4000000,   /* measuring one layer ends after this, but for ROUNDS_MIN */
    MACS_MAX = 150000000, /* of one measured call: more rows tell no more */
    MAX_CANDIDATES = 16
};

/* Candidates are those whose estimate is at most this many times the best one. */
static const double worst_estimate = 4.0;

typedef struct candidate {
    const bb_conv_kernel *kernel;
    void *packed;
    uint64_t ns;
} candidate;

typedef struct tuning {
    const bb_conv_desc *desc;
    int32_t rows;
    uint8_t *codes; /**< with BB_BUFFER_MARGIN on both sides */
    void *scratch;
    size_t n;
    candidate candidates[MAX_CANDIDATES];
} tuning;

static void ignore_tile(void *user, int32_t y, int32_t x, int32_t n_pixels, int32_t c0,
                        int32_t n_channels, const int32_t *acc, size_t stride) {}

static void find_candidates(const bb_engine *engine, const bb_conv_kernel *chosen, tuning *t) {
    size_t n;
    const bb_conv_kernel *const *kernels = bb_conv_kernels(&n);
    const double limit = worst_estimate * chosen->cost(t->desc);
    for (size_t i = 0; i < n && t->n < MAX_CANDIDATES; i++) {
        const bb_conv_kernel *k = kernels[i];
        if (!(k->cpu & ~engine->cpu) && k->supports(t->desc) && k->cost(t->desc) <= limit)
            t->candidates[t->n++].kernel = k;
    }
}

static bool allocate(const int16_t *weights, tuning *t) {
    const bb_conv_desc *d = t->desc;
    const size_t codes = (size_t)d->in_height * (size_t)d->in_width * (size_t)d->in_channels;
    size_t scratch = 1;
    bb_rng rng;
    for (size_t i = 0; i < t->n; i++) {
        candidate *c = &t->candidates[i];
        const size_t bytes = c->kernel->scratch_size(d);
        scratch = bytes > scratch ? bytes : scratch;
        c->ns = UINT64_MAX;
        c->packed = bb_alloc_aligned(c->kernel->packed_size(d));
        if (!c->packed)
            return false;
        c->kernel->pack(d, weights, c->packed);
    }
    t->scratch = bb_alloc_aligned(scratch);
    t->codes = bb_alloc_aligned(codes + 2 * (size_t)BB_BUFFER_MARGIN);
    if (!t->scratch || !t->codes)
        return false;
    memset(t->scratch, 0, scratch);
    bb_rng_seed(&rng, 1);
    for (size_t i = 0; i < codes + 2 * (size_t)BB_BUFFER_MARGIN; i++)
        t->codes[i] = (uint8_t)bb_rng_below(&rng, UINT64_C(1) << d->activation_bits);
    return true;
}

static void measure(tuning *t) {
    const uint64_t start = bb_now_ns();
    for (int round = 0; round < ROUNDS_MAX; round++) {
        for (size_t i = 0; i < t->n; i++) {
            candidate *c = &t->candidates[i];
            const uint64_t before = bb_now_ns();
            c->kernel->run(t->desc, c->packed, t->codes + BB_BUFFER_MARGIN, 0, t->rows, t->scratch,
                           ignore_tile, NULL);
            const uint64_t ns = bb_now_ns() - before;
            c->ns = ns < c->ns ? ns : c->ns;
        }
        if (round + 1 >= ROUNDS_MIN && bb_now_ns() - start > LAYER_NS)
            return;
    }
}

static int faster_first(const void *x, const void *y) {
    const candidate *a = x, *b = y;
    return (a->ns > b->ns) - (a->ns < b->ns);
}

static bb_status keep_times(bb_engine *engine, tuning *t, bb_conv_block *block, bb_error *err) {
    block->tuned = bb_engine_array(engine, t->n, sizeof(*block->tuned));
    if (!block->tuned)
        return bb_fail_memory(err, "times of kernels");
    qsort(t->candidates, t->n, sizeof(*t->candidates), faster_first);
    block->n_tuned = t->n;
    for (size_t i = 0; i < t->n; i++)
        block->tuned[i] = (bb_kernel_time){t->candidates[i].kernel->name, t->candidates[i].ns};
    block->kernel = t->candidates[0].kernel;
    return BB_STATUS_OK;
}

bb_status bb_tune_block(bb_engine *engine, const int16_t *weights, int32_t strip,
                        bb_conv_block *block, bb_error *err) {
    const double row_macs = bb_conv_macs(&block->desc) / block->desc.out_height;
    tuning t = {.desc = &block->desc, .rows = strip};
    while (t.rows > 1 && t.rows * row_macs > MACS_MAX)
        t.rows /= 2;
    find_candidates(engine, block->kernel, &t);
    bb_status status = BB_STATUS_OUT_OF_MEMORY;
    if (allocate(weights, &t)) {
        measure(&t);
        status = keep_times(engine, &t, block, err);
    } else {
        bb_fail_memory(err, "measuring kernels");
    }
    for (size_t i = 0; i < t.n; i++)
        bb_free_aligned(t.candidates[i].packed);
    bb_free_aligned(t.scratch);
    bb_free_aligned(t.codes);
    return status;
}
