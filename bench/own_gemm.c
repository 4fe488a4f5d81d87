/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A product of square matrices of odd integers on a convolution kernel: C = A * B with A of M bits
 * (given as codes, row by row), B of K bits (packed beforehand) and C as int32.
 *
 * A 1x1 convolution whose pixels are the rows of A. A panel of some rows and PIECE columns at a
 * time is copied to where its transformed form stays in cache; products of later pieces are added
 * to C.
 */
#include "bench.h"
#include "kernels/kernels.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Columns of a piece are padded by codes 0 so that the rows of a panel, transformed or not, are no
 * multiple of a page apart: all of them would share one set of the L1 cache. */
enum { PANEL_MAX = 384, PANEL_MIN = 48, PIECE = 1024, PADDING = 16, CACHE_BYTES = 768 * 1024 };

typedef struct gemm {
    int n, pieces, panel_rows;
    bb_conv_desc desc; /**< of one panel and piece */
    const bb_conv_kernel *kernel;
    uint8_t *codes;  /**< A: [n][n] */
    uint8_t *panel;  /**< 64 readable bytes on both sides of it */
    int32_t *border; /**< -A sum(b) of each column */
    int16_t *column; /**< b of the last column, for the check */
    uint8_t *packed; /**< [pieces] */
    size_t packed_bytes;
    void *scratch;
    int32_t *c; /**< the caller's */
} gemm;

typedef struct target {
    const gemm *g;
    int row;
    bool first;
} target;

/* P = 2 acc - A sum(b), kernels.h. */
static void store(void *user, int32_t y, int32_t x, int32_t n_pixels, int32_t c0,
                  int32_t n_channels, const int32_t *acc, size_t stride) {
    const target *t = user;
    const int32_t *border = t->g->border + c0;
    (void)y;
    for (int32_t p = 0; p < n_pixels; p++, acc += stride) {
        int32_t *out = t->g->c + (size_t)(t->row + x + p) * (size_t)t->g->n + c0;
        if (t->first)
            for (int32_t c = 0; c < n_channels; c++)
                out[c] = 2 * acc[c] + border[c];
        else
            for (int32_t c = 0; c < n_channels; c++)
                out[c] += 2 * acc[c];
    }
}

static void run_gemm(void *state) {
    const gemm *g = state;
    const size_t n = (size_t)g->n, width = (size_t)g->desc.in_channels;
    for (int row = 0; row < g->n; row += g->panel_rows) {
        bb_conv_desc desc = g->desc;
        if (g->n - row < g->panel_rows)
            desc.in_width = desc.out_width = g->n - row;
        for (int piece = 0; piece < g->pieces; piece++) {
            for (int i = 0; i < desc.in_width; i++)
                memcpy(g->panel + (size_t)i * width,
                       g->codes + (size_t)(row + i) * n + (size_t)piece * PIECE, PIECE);
            g->kernel->run(&desc, g->packed + (size_t)piece * g->packed_bytes, g->panel, 0, 1,
                           g->scratch, store, &(target){g, row, piece == 0});
        }
    }
}

static void destroy_gemm(void *state) {
    gemm *g = state;
    free(g->codes);
    free(g->border);
    free(g->column);
    if (g->panel)
        bb_free_aligned(g->panel - 64);
    bb_free_aligned(g->packed);
    bb_free_aligned(g->scratch);
    free(g);
}

static void set_desc(gemm *g, uint32_t k, uint32_t m) {
    g->desc = (bb_conv_desc){
        .in_height = 1,
        .in_width = PANEL_MAX,
        .in_channels = PIECE + PADDING,
        .out_height = 1,
        .out_width = PANEL_MAX,
        .out_channels = g->n,
        .kernel = {1, 1},
        .stride = {1, 1},
        .dilation = {1, 1},
        .groups = 1,
        .activation_bits = m,
        .weight_bits = k,
        .native = true,
        .max_weight = (1 << k) - 1,
    };
}

/* As many rows as leave the scratch memory, and so what they are turned into, in cache. */
static void set_panel(gemm *g) {
    g->panel_rows = PANEL_MAX;
    while (g->panel_rows > PANEL_MIN && g->kernel->scratch_size(&g->desc) > CACHE_BYTES) {
        g->panel_rows /= 2;
        g->desc.in_width = g->desc.out_width = g->panel_rows;
    }
}

static bool allocate(gemm *g) {
    const size_t n = (size_t)g->n, panel = (size_t)g->panel_rows * (PIECE + PADDING);
    g->packed_bytes = (g->kernel->packed_size(&g->desc) + 63) / 64 * 64;
    g->codes = malloc(n * n);
    g->border = calloc(n, sizeof(*g->border));
    g->column = malloc(n * sizeof(*g->column));
    g->packed = bb_alloc_aligned((size_t)g->pieces * g->packed_bytes);
    g->scratch = bb_alloc_aligned(g->kernel->scratch_size(&g->desc));
    uint8_t *data = bb_alloc_aligned(panel + 128);
    if (data) {
        memset(data, 0, panel + 128);
        g->panel = data + 64;
    }
    return g->codes && g->border && g->column && g->packed && g->scratch && g->panel;
}

static bool fill(gemm *g) {
    const size_t n = (size_t)g->n, width = PIECE + PADDING;
    const int32_t top_a = (1 << g->desc.activation_bits) - 1;
    const int32_t top_b = (1 << g->desc.weight_bits) - 1;
    int16_t *weights = malloc(n * width * sizeof(*weights));
    bb_rng rng;
    if (!weights)
        return false;
    bb_rng_seed(&rng, 1);
    for (size_t i = 0; i < n * n; i++)
        g->codes[i] = (uint8_t)(bb_rng_next(&rng) & (uint64_t)top_a);
    for (int piece = 0; piece < g->pieces; piece++) {
        for (size_t i = 0; i < n * width; i++) {
            weights[i] = (int16_t)(2 * (int32_t)(bb_rng_next(&rng) & (uint64_t)top_b) - top_b);
            if (i % width < PIECE)
                g->border[i / width] -= top_a * weights[i];
        }
        memcpy(g->column + (size_t)piece * PIECE, weights + (n - 1) * width,
               PIECE * sizeof(*weights));
        g->kernel->pack(&g->desc, weights, g->packed + (size_t)piece * g->packed_bytes);
    }
    free(weights);
    return true;
}

/* The last column, by its definition. */
static bool right(const gemm *g) {
    const size_t n = (size_t)g->n;
    const int32_t top = (1 << g->desc.activation_bits) - 1;
    for (size_t i = 0; i < n; i++) {
        int64_t sum = 0;
        for (size_t k = 0; k < n; k++)
            sum += (2 * g->codes[i * n + k] - top) * g->column[k];
        if (sum != g->c[i * n + n - 1])
            return false;
    }
    return true;
}

bool bench_own_gemm(int n, int weight_bits, int activation_bits, const char *kernel, int32_t *c,
                    bench_runner *runner) {
    gemm *g = calloc(1, sizeof(*g));
    if (!g)
        return false;
    g->n = n;
    g->pieces = n / PIECE;
    g->c = c;
    set_desc(g, (uint32_t)weight_bits, (uint32_t)activation_bits);
    g->kernel = bb_conv_choose(&g->desc, bb_conv_trusted(bb_cpu_flags()), kernel);
    set_panel(g);
    if (!allocate(g) || !fill(g)) {
        destroy_gemm(g);
        return false;
    }
    run_gemm(g);
    if (!right(g)) {
        fprintf(stderr, "w%da%d: %s gives a wrong product\n", weight_bits, activation_bits,
                g->kernel->name);
        destroy_gemm(g);
        return false;
    }
    *runner = (bench_runner){.state = g, .run = run_gemm, .destroy = destroy_gemm};
    snprintf(runner->name, sizeof(runner->name), "w%da%d", weight_bits, activation_bits);
    snprintf(runner->implementation, sizeof(runner->implementation), "%s", g->kernel->name);
    return true;
}
