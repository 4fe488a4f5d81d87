/* SPDX-License-Identifier: Apache-2.0 */
/** @file conv_lut_neon.c  The narrow look-up with NEON. */
#include "cpu/cpu.h"

#if BB_ARCH_NEON

#define NARROW_KERNEL(kind) bb_conv_##kind##_neon
#define NARROW_NAME(kind) "conv_" kind "_neon"
#define NARROW_CPU BB_CPU_NEON
#if BB_ARCH_NEON64
#define NARROW_PIXELS 4
#else
#define NARROW_PIXELS 2 /* half as many registers */
#endif
#include "kernels/narrow/conv_narrow.h"

#endif
