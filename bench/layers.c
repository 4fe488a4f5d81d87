/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whole convolution layers of this engine (codes in, codes out) beside oneDNN u8s8 and f32 and
 * OpenBLAS sgemm, all in one interleaved single-thread run.
 *
 *   bench_layers [--json FILE] [--rounds N] [--bits w2a2,...] [--shape NAME] [--kernel NAME]
 */
#include "bench.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SQUARE(name, in, out, size, kernel, groups)                                                \
    { name, in, out, size, size, kernel, groups }
static const bench_shape shapes[] = {
    SQUARE("3x3 256ch 14x14", 256, 256, 14, 3, 1),
    SQUARE("3x3 128ch 28x28", 128, 128, 28, 3, 1),
    SQUARE("3x3 64ch 56x56", 64, 64, 56, 3, 1),
    SQUARE("3x3 512ch 7x7", 512, 512, 7, 3, 1),
    SQUARE("1x1 64-256 56x56", 64, 256, 56, 1, 1),
    SQUARE("1x1 256-256 14x14", 256, 256, 14, 1, 1),
    SQUARE("1x1 96-24 56x56", 96, 24, 56, 1, 1),
    SQUARE("1x1 24-144 56x56", 24, 144, 56, 1, 1),
    SQUARE("1x1 32-16 112x112", 32, 16, 112, 1, 1),
    SQUARE("1x1 960-320 7x7", 960, 320, 7, 1, 1),
    SQUARE("1x1 1280-1000 1x1", 1280, 1000, 1, 1, 1),
    SQUARE("dw3x3 96 56x56", 96, 96, 56, 3, 96),
    SQUARE("dw3x3 512 14x14", 512, 512, 14, 3, 512),
};

enum { PAIRS = 64, RIVALS = 3, DEFAULT_ROUNDS = 30 };

typedef struct options {
    const char *json, *bits, *shape, *kernel;
    int rounds;
} options;

static bool parse(int argc, char **argv, options *o) {
    *o = (options){.rounds = DEFAULT_ROUNDS};
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (strcmp(name, "--json") == 0)
            o->json = value;
        else if (strcmp(name, "--rounds") == 0)
            o->rounds = atoi(value);
        else if (strcmp(name, "--bits") == 0)
            o->bits = value;
        else if (strcmp(name, "--shape") == 0)
            o->shape = value;
        else if (strcmp(name, "--kernel") == 0)
            o->kernel = value;
        else
            return false;
    }
    return argc % 2 == 1 && o->rounds > 0;
}

static void print_json(FILE *json, const bench_shape *s, const bench_runner *r, double rate,
                       double to_int8, double to_f32, bool *first) {
    fprintf(json,
            "%s {\"shape\": \"%s\", \"bits\": \"%s\", \"kernel\": \"%s\", \"mac_per_cycle\": %.2f, "
            "\"ratio_int8\": %.3f, \"ratio_f32\": %.3f}",
            *first ? "" : ",\n", s->name, r->name, r->implementation, rate, to_int8, to_f32);
    *first = false;
}

static size_t make_runners(const bench_shape *s, const options *o, bench_runner *runners) {
    size_t n = 0;
    n += bench_onednn_conv(s, true, &runners[n]);
    n += bench_onednn_conv(s, false, &runners[n]);
    if (n != 2) {
        fprintf(stderr, "%s: no rival to compare with\n", s->name);
        exit(1);
    }
    n += bench_openblas_gemm(s, &runners[n]);
    for (int k = 1; k <= 8; k++)
        for (int m = 1; m <= 8; m++) {
            char bits[8];
            snprintf(bits, sizeof(bits), "w%da%d", k, m);
            if (!o->bits || strstr(o->bits, bits))
                n += bench_own_layer(s, k, m, o->kernel, &runners[n]);
        }
    return n;
}

static void bench_one(const bench_shape *s, const options *o, double ghz, FILE *json, bool *first) {
    static bench_runner runners[PAIRS + RIVALS];
    bench_runner *order[PAIRS + RIVALS];
    double median[PAIRS + RIVALS], best[PAIRS + RIVALS], macs = bench_macs(s);
    size_t n = make_runners(s, o, runners);
    for (size_t i = 0; i < n; i++)
        order[i] = &runners[i];
    bench_interleaved(order, n, o->rounds, 0.002, median, best);
    printf("%s, %.1f MMAC\n%-16s %10s %10s %10s %8s %8s  %s\n", s->name, macs * 1e-6, "",
           "median us", "MAC/cycle", "best", "x int8", "x f32", "implementation");
    for (size_t i = 0; i < n; i++) {
        double rate = macs / (median[i] * ghz * 1e9);
        printf("%-16s %10.1f %10.1f %10.1f %8.2f %8.2f  %s\n", runners[i].name, median[i] * 1e6,
               rate, macs / (best[i] * ghz * 1e9), median[0] / median[i], median[1] / median[i],
               runners[i].implementation);
        if (json)
            print_json(json, s, &runners[i], rate, median[0] / median[i], median[1] / median[i],
                       first);
        runners[i].destroy(runners[i].state);
    }
    putchar('\n');
    fflush(stdout);
}

int main(int argc, char **argv) {
    options o;
    if (!parse(argc, argv, &o)) {
        fputs("usage: bench_layers [--json FILE] [--rounds N] [--bits w2a2,...] [--shape NAME] "
              "[--kernel NAME]\n",
              stderr);
        return 2;
    }
    FILE *json;
    if (!bench_json_open(o.json, &json))
        return 1;
    double ghz = bench_clock_ghz();
    bool first = true;
    printf("clock %.3f GHz, %d interleaved rounds, medians\n\n", ghz, o.rounds);
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
        if (!o.shape || strstr(shapes[i].name, o.shape))
            bench_one(&shapes[i], &o, ghz, json, &first);
    return bench_json_close(json) ? 0 : 1;
}
