/* SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"
#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct gemm_state {
    int rows, columns, depth;
    float *a, *b, *c;
} gemm_state;

static float *matrix(size_t n) {
    float *m = malloc(n * sizeof(*m));
    for (size_t i = 0; m && i < n; i++)
        m[i] = (float)(i % 13) - 6;
    return m;
}

static void run_gemm(void *state) {
    gemm_state *g = state;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, g->rows, g->columns, g->depth, 1.0f,
                g->a, g->depth, g->b, g->columns, 0.0f, g->c, g->columns);
}

static void destroy_gemm(void *state) {
    gemm_state *g = state;
    free(g->a);
    free(g->b);
    free(g->c);
    free(g);
}

bool bench_openblas_gemm(const bench_shape *s, bench_runner *runner) {
    gemm_state *g = calloc(1, sizeof(*g));
    if (!g || s->groups != 1) {
        free(g);
        return false;
    }
    g->rows = s->out_channels;
    g->columns = s->height * s->width;
    g->depth = s->in_channels * s->kernel * s->kernel;
    g->a = matrix((size_t)g->rows * (size_t)g->depth);
    g->b = matrix((size_t)g->depth * (size_t)g->columns);
    g->c = matrix((size_t)g->rows * (size_t)g->columns);
    if (!g->a || !g->b || !g->c) {
        destroy_gemm(g);
        return false;
    }
    *runner = (bench_runner){.state = g, .run = run_gemm, .destroy = destroy_gemm};
    snprintf(runner->name, sizeof(runner->name), "OpenBLAS sgemm");
    snprintf(runner->implementation, sizeof(runner->implementation), "%s", openblas_get_corename());
    return true;
}
