/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Square matrix products at 1..8 bits on the convolution kernels (a 1x1 layer: pixels are the rows,
 * channels the columns; codes in, int32 out) beside the plain triple loop on floats,
 * OpenBLAS sgemm and oneDNN's u8 times s8, single thread, one interleaved run for each size.
 *
 *   bench_gemm [--json FILE] [--bits w1a1,...] [--size N] [--kernel NAME]
 */
#include "bench.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const int sizes[] = {1024, 2048, 4096, 8192};
static const struct {
    int k, m;
} pairs[] = {{1, 1}, {1, 2}, {1, 4}, {1, 8}, {2, 2}, {2, 4},
             {3, 3}, {4, 4}, {5, 5}, {6, 6}, {7, 7}, {8, 8}};
enum { PAIRS = sizeof(pairs) / sizeof(pairs[0]), RIVALS = 4, NAIVE = 0, SGEMM = 1, INT8 = 2 };

typedef struct options {
    const char *json, *bits, *kernel;
    int size; /**< 0 = all */
} options;

static bool parse(int argc, char **argv, options *o) {
    *o = (options){0};
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (strcmp(name, "--json") == 0)
            o->json = value;
        else if (strcmp(name, "--bits") == 0)
            o->bits = value;
        else if (strcmp(name, "--size") == 0)
            o->size = atoi(value);
        else if (strcmp(name, "--kernel") == 0)
            o->kernel = value;
        else
            return false;
    }
    return argc % 2 == 1;
}

/* Thirty rounds of the smallest; the largest takes minutes, where three show what noise there is.
 */
static int rounds_of(int n) {
    return n <= 1024 ? 30 : n <= 2048 ? 9 : n <= 4096 ? 5 : 3;
}

/* About 2^26 products: a fifth of a second at best and seconds where columns fall out of cache. */
static int naive_rows(int n) {
    int rows = (int)(((int64_t)1 << 26) / ((int64_t)n * n));
    return rows > 0 ? rows : 1;
}

static size_t make_runners(const bench_shape *s, const options *o, int32_t *c,
                           bench_runner *runners) {
    const int n = s->in_channels;
    if (!c || !bench_naive_gemm(n, naive_rows(n), &runners[NAIVE]) ||
        !bench_openblas_gemm(s, &runners[SGEMM]) || !bench_onednn_gemm(n, true, &runners[INT8]) ||
        !bench_onednn_gemm(n, false, &runners[INT8 + 1])) {
        fprintf(stderr, "bench_gemm: out of memory\n");
        exit(1);
    }
    size_t count = RIVALS;
    for (int i = 0; i < PAIRS; i++) {
        char bits[8];
        snprintf(bits, sizeof(bits), "w%da%d", pairs[i].k, pairs[i].m);
        if (o->bits && !strstr(o->bits, bits))
            continue;
        if (!bench_own_gemm(n, pairs[i].k, pairs[i].m, o->kernel, c, &runners[count++]))
            exit(1);
    }
    return count;
}

static void bench_size(int n, const options *o, double ghz, FILE *json, bool *first) {
    const bench_shape s = {"gemm", n, n, 1, n, 1, 1};
    int32_t *c = malloc((size_t)n * (size_t)n * sizeof(*c));
    static bench_runner runners[PAIRS + RIVALS];
    bench_runner *order[PAIRS + RIVALS];
    double median[PAIRS + RIVALS], best[PAIRS + RIVALS], macs = bench_macs(&s);
    size_t count = make_runners(&s, o, c, runners);
    for (size_t i = 0; i < count; i++)
        order[i] = &runners[i];
    bench_interleaved(order, count, rounds_of(n), 0, median, best);
    printf("%d x %d x %d, medians of %d rounds\n%-16s %10s %10s %10s %8s %8s %8s  %s\n", n, n, n,
           rounds_of(n), "", "ms", "GMAC/s", "MAC/cycle", "x naive", "x sgemm", "x int8",
           "implementation");
    for (size_t i = 0; i < count; i++) {
        const bench_runner *r = &runners[i];
        const double t = median[i], rate = macs / (t * ghz * 1e9);
        printf("%-16s %10.2f %10.1f %10.2f %8.1f %8.2f %8.2f  %s\n", r->name, t * 1e3,
               macs / t * 1e-9, rate, median[NAIVE] / t, median[SGEMM] / t, median[INT8] / t,
               r->implementation);
        if (json)
            fprintf(json,
                    "%s {\"size\": %d, \"who\": \"%s\", \"kernel\": \"%s\", \"ms\": %.3f, "
                    "\"mac_per_cycle\": %.3f, \"ratio_naive\": %.2f, \"ratio_f32\": %.3f, "
                    "\"ratio_int8\": %.3f}",
                    *first ? "" : ",\n", n, r->name, r->implementation, t * 1e3, rate,
                    median[NAIVE] / t, median[SGEMM] / t, median[INT8] / t);
        *first = false;
        r->destroy(r->state);
    }
    free(c);
    putchar('\n');
    fflush(stdout);
}

int main(int argc, char **argv) {
    options o;
    if (!parse(argc, argv, &o)) {
        fputs("usage: bench_gemm [--json FILE] [--bits w1a1,...] [--size N] [--kernel NAME]\n",
              stderr);
        return 2;
    }
    FILE *json;
    if (!bench_json_open(o.json, &json))
        return 1;
    const double ghz = bench_clock_ghz();
    bool first = true;
    printf(
        "clock %.3f GHz, one thread\n"
        "Claims of the encoding paper (arXiv 2106.09886 and its earlier versions), both against\n"
        "unoptimized float code: at most 59x at 1 bit over full precision, and 15.89x at 2 bits,\n"
        "8192 x 8192 x 8192 on a GTX 1080, over a plain tiled float kernel (not cuBLAS).\n\n",
        ghz);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        if (!o.size || o.size == sizes[i])
            bench_size(sizes[i], &o, ghz, json, &first);
    return bench_json_close(json) ? 0 : 1;
}
