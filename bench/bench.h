/* SPDX-License-Identifier: Apache-2.0 */
/** @file bench.h  Layer shapes, rivals and timing of the layer benchmark. */
#ifndef BB_BENCH_H
#define BB_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/** A convolution layer, stride 1, "same" zero padding, square kernel. */
typedef struct bench_shape {
    const char *name;
    int in_channels, out_channels, height, width, kernel, groups;
} bench_shape;

/** Multiply-accumulates of one run. */
double bench_macs(const bench_shape *shape);

/** Something that runs one layer on data it made for itself; creation, packing and reorders are
 *  outside the clock. */
typedef struct bench_runner {
    char name[64];
    char implementation[64]; /**< what the library says it chose */
    void *state;
    void (*run)(void *state);
    void (*destroy)(void *state);
    double whole; /**< times are multiplied by this where run() does only a part; 0 = all of it */
} bench_runner;

/** Each fills *runner or prints why it cannot and returns false. */
bool bench_own_layer(const bench_shape *shape, int weight_bits, int activation_bits,
                     const char *kernel, bench_runner *runner);
bool bench_onednn_conv(const bench_shape *shape, bool int8, bench_runner *runner);
/** sgemm of the same product as a matrix: out_channels x (height*width) x depth, no im2col. */
bool bench_openblas_gemm(const bench_shape *shape, bench_runner *runner);

/** Square products of n rows. Ours: odd integers of M and K bits, written to c[n*n]; false
 *  where memory is short or its result is wrong. */
bool bench_own_gemm(int n, int weight_bits, int activation_bits, const char *kernel, int32_t *c,
                    bench_runner *runner);
/** u8 times s8 to s32, or f32. */
bool bench_onednn_gemm(int n, bool int8, bench_runner *runner);
/** The plain triple loop on floats, `rows` of n rows, its time scaled to all of them. */
bool bench_naive_gemm(int n, int rows, bench_runner *runner);

/** Seconds of one call, medians over `rounds` rounds in which every runner takes its turn; short
 *  calls are repeated within a turn until it lasts `turn_seconds` (0: one call, no warm-up). */
void bench_interleaved(bench_runner *const *runners, size_t n, int rounds, double turn_seconds,
                       double *median, double *best);
double bench_clock_ghz(void);
double bench_seconds(void);

/** The file of --json, begun as a list; NULL where no path was given. False: cannot be created. */
bool bench_json_open(const char *path, FILE **file);
bool bench_json_close(FILE *file); /**< NULL is fine */

#endif
