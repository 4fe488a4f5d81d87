/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file clones.h
 * Loops of plain C that the compiler turns into one version per instruction set, chosen when the
 * program is loaded. Arithmetic is the same in all of them (no contraction), so are the results.
 */
#ifndef BB_NN_CLONES_H
#define BB_NN_CLONES_H

#include <stddef.h>

#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__GLIBC__) &&       \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define BB_CLONES __attribute__((target_clones("arch=skylake-avx512", "avx2", "default")))
#else
#define BB_CLONES
#endif

#endif
