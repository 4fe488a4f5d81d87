/* SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"
#include <stdlib.h>
#include <time.h>

double bench_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double bench_macs(const bench_shape *s) {
    return (double)s->in_channels / s->groups * s->out_channels * s->height * s->width * s->kernel *
           s->kernel;
}

double bench_clock_ghz(void) {
    enum { WINDOWS = 50, CHAIN = 500000 };
    double best = 1e9;
    for (int w = 0; w < WINDOWS; w++) {
        unsigned long x = 1;
        double start = bench_seconds();
        for (int i = 0; i < CHAIN; i++) {
            x += 3;
            __asm__ volatile("" : "+r"(x)); /* one dependent addition a cycle */
        }
        double t = bench_seconds() - start;
        best = t < best ? t : best;
    }
    return CHAIN / best * 1e-9;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double turn(const bench_runner *r, int calls) {
    double start = bench_seconds();
    for (int i = 0; i < calls; i++)
        r->run(r->state);
    return (bench_seconds() - start) / calls * (r->whole > 0 ? r->whole : 1);
}

void bench_interleaved(bench_runner *const *runners, size_t n, int rounds, double turn_seconds,
                       double *median, double *best) {
    double *times = malloc(n * (size_t)rounds * sizeof(*times));
    int *calls = malloc(n * sizeof(*calls));
    if (!times || !calls)
        abort();
    for (size_t i = 0; i < n; i++) {
        calls[i] = 1;
        if (turn_seconds > 0) {
            turn(runners[i], 1); /* a cold one */
            double once = turn(runners[i], 1);
            calls[i] = once < turn_seconds ? (int)(turn_seconds / once) + 1 : 1;
        }
    }
    for (int round = 0; round < rounds; round++)
        for (size_t i = 0; i < n; i++)
            times[i * (size_t)rounds + (size_t)round] = turn(runners[i], calls[i]);
    for (size_t i = 0; i < n; i++) {
        double *t = times + i * (size_t)rounds;
        qsort(t, (size_t)rounds, sizeof(*t), by_value);
        best[i] = t[0];
        median[i] = rounds % 2 ? t[rounds / 2] : (t[rounds / 2 - 1] + t[rounds / 2]) / 2;
    }
    free(times);
    free(calls);
}
