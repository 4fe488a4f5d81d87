/* SPDX-License-Identifier: Apache-2.0 */
/* Square products that have no layer behind them: oneDNN's integer one and the plain triple loop
 * that papers compare with. */
#include "bench.h"
#include <oneapi/dnnl/dnnl.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct product {
    int n, rows; /**< rows: of the result that one run computes */
    void *a, *b, *c;
} product;

static void destroy_product(void *state) {
    product *p = state;
    free(p->a);
    free(p->b);
    free(p->c);
    free(p);
}

static product *create_product(int n, int rows, size_t in_bytes) {
    product *p = calloc(1, sizeof(*p));
    size_t count = (size_t)n * (size_t)n;
    if (!p)
        return NULL;
    *p = (product){n, rows, malloc(count * in_bytes), malloc(count * in_bytes), malloc(count * 4)};
    if (p->a && p->b && p->c)
        return p;
    destroy_product(p);
    return NULL;
}

static void run_f32(void *state) {
    product *p = state;
    dnnl_sgemm('N', 'N', p->n, p->n, p->n, 1.0f, p->a, p->n, p->b, p->n, 0.0f, p->c, p->n);
}

static void run_int8(void *state) {
    product *p = state;
    const int32_t offset = 0;
    dnnl_gemm_u8s8s32('N', 'N', 'F', p->n, p->n, p->n, 1.0f, p->a, p->n, 0, p->b, p->n, 0, 0.0f,
                      p->c, p->n, &offset);
}

static void fill_floats(product *p) {
    float *a = p->a, *b = p->b;
    for (size_t i = 0; i < (size_t)p->n * (size_t)p->n; i++) {
        a[i] = (float)(i % 13) - 6;
        b[i] = (float)(i % 11) - 5;
    }
}

/* Below 128: pairs of products do not saturate 16 bits without VNNI. */
static void fill_bytes(product *p) {
    uint8_t *a = p->a, *b = p->b;
    for (size_t i = 0; i < (size_t)p->n * (size_t)p->n; i++) {
        a[i] = (uint8_t)(i * 7 % 127);
        b[i] = (uint8_t)(i * 11 % 127);
    }
}

bool bench_onednn_gemm(int n, bool int8, bench_runner *runner) {
    product *p = create_product(n, n, int8 ? 1 : sizeof(float));
    if (!p)
        return false;
    if (int8)
        fill_bytes(p);
    else
        fill_floats(p);
    *runner =
        (bench_runner){.state = p, .run = int8 ? run_int8 : run_f32, .destroy = destroy_product};
    snprintf(runner->name, sizeof(runner->name), "oneDNN %s", int8 ? "u8s8" : "f32");
    snprintf(runner->implementation, sizeof(runner->implementation), "dnnl_%s",
             int8 ? "gemm_u8s8s32" : "sgemm");
    return true;
}

/* Both operands row by row, the second one transposed: the friendliest order for a plain loop. Down
 * the columns of a power of two, every read would miss the cache. */
static void run_naive(void *state) {
    product *p = state;
    const float *a = p->a, *b = p->b;
    float *c = p->c;
    const size_t n = (size_t)p->n;
    for (size_t i = 0; i < (size_t)p->rows; i++)
        for (size_t j = 0; j < n; j++) {
            float sum = 0;
            for (size_t k = 0; k < n; k++)
                sum += a[i * n + k] * b[j * n + k];
            c[i * n + j] = sum;
        }
}

bool bench_naive_gemm(int n, int rows, bench_runner *runner) {
    product *p = create_product(n, rows, sizeof(float));
    if (!p)
        return false;
    fill_floats(p);
    *runner = (bench_runner){.name = "naive f32",
                             .state = p,
                             .run = run_naive,
                             .destroy = destroy_product,
                             .whole = (double)n / rows};
    snprintf(runner->implementation, sizeof(runner->implementation), "%d of %d rows", rows, n);
    return true;
}
