/* SPDX-License-Identifier: Apache-2.0 */
/** @file requant_ssse3.c  The narrow requantizers with SSE4.1. */
#include "cpu/cpu.h"

#if BB_ARCH_X86_64

#define NARROW_REQUANT bb_requant_ssse3
#define NARROW_NAME "requant_ssse3"
#include "kernels/narrow/requant_narrow.h"

#endif
