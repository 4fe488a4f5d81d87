/* SPDX-License-Identifier: Apache-2.0 */
/** @file bench.h  Products per cycle of kernels, and cycles per code of requantizers. */
#ifndef BB_TESTS_BENCH_H
#define BB_TESTS_BENCH_H

#include <stdint.h>

uint64_t bench_now_ns(void);
/** Core clock, in cycles per nanosecond. */
double bench_core_ghz(void);

/**
 * kernel: only this one; bits: only "wKaM"; shape: only this one, as
 * "CHANNELS,SIZE,OUTPUTS,KERNEL,STRIDE,GROUPS"; NULL = all. Returns an exit status.
 */
int bench_kernels(const char *kernel, const char *bits, const char *shape);

/** Inner loops of the AVX2 kernels beside what the design study measured. Returns an exit status.
 */
int bench_routes(void);

/** Requantizers of every instruction set on tiles as convolutions hand them over. */
void bench_codes(void);

#endif
