/* SPDX-License-Identifier: Apache-2.0 */
/** @file requant_neon.c  The narrow requantizers with NEON. */
#include "cpu/cpu.h"

#if BB_ARCH_NEON

#define NARROW_REQUANT bb_requant_neon
#define NARROW_NAME "requant_neon"
#include "kernels/narrow/requant_narrow.h"

#endif
