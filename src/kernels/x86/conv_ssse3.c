/* SPDX-License-Identifier: Apache-2.0 */
/** @file conv_ssse3.c  The narrow kernels with SSSE3 and SSE4.1. */
#include "cpu/cpu.h"

#if BB_ARCH_X86_64

#define NARROW_KERNEL(kind) bb_conv_##kind##_ssse3
#define NARROW_NAME(kind) "conv_" kind "_ssse3"
#define NARROW_CPU BB_CPU_SSSE3
#define NARROW_PIXELS 2
#include "kernels/narrow/conv_narrow.h"

#endif
