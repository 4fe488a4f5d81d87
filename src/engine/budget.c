/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory against speed. Some kernels want their weights in a form many times the size of the bit
 * planes: bytes for one or two bits, or the 36 transformed weights of a Winograd tile for nine. In
 * a layer where that gains little it is not worth it, above all on small machines. So the plan
 * begins with the fastest kernels, and while their weights exceed the budget, that kernel is
 * exchanged which costs least time for a byte saved.
 */
#include "engine/internal.h"
#include <string.h>

enum { LEAST_BUDGET = 4 << 20 };
/* Whoever asks for one or two bits wants little memory. */
static const double times_planes = 4, times_planes_low = 3.0;
/* A kernel is not exchanged for one that takes more than this many times as long. */
static const double worst_slowdown = 4.0;

typedef struct exchange {
    bb_plan_node *node;
    bb_conv_block *block; /* NULL = nothing found */
    const bb_conv_kernel *kernel;
    double price; /* time for a byte saved */
} exchange;

static size_t default_budget(const bb_engine *engine) {
    double bytes = 0;
    for (size_t i = 0; i < engine->model->n_nodes; i++) {
        const bb_model_node *node = &engine->model->nodes[i];
        if (node->kind != BB_NODE_CONV)
            continue;
        const uint32_t k = engine->profile->convs[i].planes;
        bytes += (double)node->planes->rows * node->planes->taps * node->planes->depth * k / 8 *
                 (k <= 2 ? times_planes_low : times_planes);
    }
    return bytes > LEAST_BUDGET ? (size_t)bytes : LEAST_BUDGET;
}

/* Measured time where the block was tuned, else the estimate; negative = not known. */
static double time_of(const bb_conv_block *block, const bb_conv_kernel *kernel) {
    for (size_t i = 0; i < block->n_tuned; i++)
        if (strcmp(block->tuned[i].kernel, kernel->name) == 0)
            return (double)block->tuned[i].ns;
    return block->n_tuned ? -1 : kernel->cost(&block->desc);
}

static void consider_block(const bb_engine *engine, bb_plan_node *node, bb_conv_block *block,
                           exchange *best) {
    size_t n;
    const bb_conv_kernel *const *kernels = bb_conv_kernels(&n);
    const size_t bytes = block->kernel->packed_size(&block->desc);
    const double now = time_of(block, block->kernel);
    for (size_t i = 0; i < n; i++) {
        if ((kernels[i]->cpu & ~engine->cpu) || !kernels[i]->supports(&block->desc))
            continue;
        const size_t packed = kernels[i]->packed_size(&block->desc);
        const double time = time_of(block, kernels[i]);
        if (packed >= bytes || time < 0 || time > worst_slowdown * now)
            continue;
        const double price = (time - now) / (double)(bytes - packed);
        if (!best->block || price < best->price)
            *best = (exchange){node, block, kernels[i], price};
    }
}

static exchange cheapest_exchange(bb_engine *engine) {
    exchange best = {0};
    for (size_t i = 0; i < engine->model->n_nodes; i++) {
        bb_conv_plan *conv = engine->nodes[i].conv;
        for (size_t b = 0; conv && b < conv->n_blocks; b++)
            consider_block(engine, &engine->nodes[i], &conv->blocks[b], &best);
    }
    return best;
}

static bool is_packed(const bb_conv_plan *conv) {
    for (size_t b = 0; b < conv->n_blocks; b++)
        if (!conv->blocks[b].packed)
            return false;
    return true;
}

bb_status bb_plan_budget(bb_engine *engine, size_t limit, bb_error *err) {
    const size_t budget = limit ? limit : default_budget(engine);
    size_t bytes = engine->packed_bytes;
    while (bytes > budget) {
        const exchange e = cheapest_exchange(engine);
        if (!e.block)
            break;
        const size_t before = e.block->kernel->packed_size(&e.block->desc);
        bytes -= before - e.kernel->packed_size(&e.block->desc);
        if (e.block->packed)
            engine->packed_bytes -= before;
        bb_free_aligned(e.block->packed);
        e.block->packed = NULL;
        e.block->kernel = e.kernel;
    }
    for (size_t i = 0; i < engine->model->n_nodes; i++)
        if (engine->nodes[i].conv && !is_packed(engine->nodes[i].conv))
            BB_TRY(bb_conv_repack(engine, &engine->nodes[i], err));
    return BB_STATUS_OK;
}
