/* SPDX-License-Identifier: Apache-2.0 */
/** @file window_neon.c  The narrow pooling windows with NEON. */
#include "cpu/cpu.h"

#if BB_ARCH_NEON

#define NARROW_WINDOW bb_window_neon
#define NARROW_NAME "window_neon"
#include "kernels/narrow/window_narrow.h"

#endif
