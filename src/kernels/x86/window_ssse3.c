/* SPDX-License-Identifier: Apache-2.0 */
/** @file window_ssse3.c  The narrow pooling windows with SSE4.1. */
#include "cpu/cpu.h"

#if BB_ARCH_X86_64

#define NARROW_WINDOW bb_window_ssse3
#define NARROW_NAME "window_ssse3"
#include "kernels/narrow/window_narrow.h"

#endif
