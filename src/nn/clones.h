/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file clones.h
 * Loops of plain C that the compiler turns into one version per instruction set, chosen when the
 * program is loaded. Arithmetic is the same in all of them (no contraction), so are the results.
 */
#ifndef BB_NN_CLONES_H
#define BB_NN_CLONES_H

#include <stdint.h> /* also tells the C library */

#if defined(__GNUC__) && !defined(__clang__)
/* Nobody looks at floating-point exceptions; else gcc would not use masks for comparisons. Holds
 * for the rest of the file. */
#pragma GCC optimize("no-trapping-math")
#endif

#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__GLIBC__) &&       \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define BB_CLONES __attribute__((noinline, target_clones("arch=x86-64-v4", "avx2", "default")))
#else
#define BB_CLONES
#endif

#endif
