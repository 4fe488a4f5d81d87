/* SPDX-License-Identifier: Apache-2.0 */
/** @file bench.h  Products per cycle of every kernel on the usual layer shapes. */
#ifndef BB_TESTS_BENCH_H
#define BB_TESTS_BENCH_H

/**
 * kernel: only this one; bits: only "wKaM"; shape: only this one, as
 * "CHANNELS,SIZE,OUTPUTS,KERNEL,STRIDE,GROUPS"; NULL = all. Returns an exit status.
 */
int bench_kernels(const char *kernel, const char *bits, const char *shape);

/** Inner loops of the AVX2 kernels beside what the design study measured. Returns an exit status.
 */
int bench_routes(void);

#endif
