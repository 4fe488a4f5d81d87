/* SPDX-License-Identifier: Apache-2.0 */
/** @file avx512.h  What the AVX-512 kernels share; see avx2.h for the conventions. */
#ifndef BB_KERNELS_X86_AVX512_H
#define BB_KERNELS_X86_AVX512_H

#include "kernels/x86/avx2.h"

#if BB_ARCH_X86_64

/** The registers that BB_ASM_CLOBBERS leaves out. */
#define BB_ASM_CLOBBERS_512                                                                        \
    "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25",      \
        "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31"

#endif
#endif
