/* SPDX-License-Identifier: Apache-2.0 */
/** @file cpu.h  Instruction sets: detection, names, mask. */
#ifndef BB_CPU_H
#define BB_CPU_H

#include "base/base.h"

/** Architectures with kernels of their own; everything else runs the reference. */
#if defined(__GNUC__) && defined(__x86_64__)
#define BB_ARCH_X86_64 1
#else
#define BB_ARCH_X86_64 0
#endif
#if defined(__GNUC__) && defined(__aarch64__) && !defined(__AARCH64EB__)
#define BB_ARCH_NEON64 1
#else
#define BB_ARCH_NEON64 0
#endif
/** 64-bit Arm, or 32-bit Arm compiled for NEON (-mfpu=neon). */
#if BB_ARCH_NEON64 || (defined(__GNUC__) && defined(__ARM_NEON) && !defined(__ARM_BIG_ENDIAN))
#define BB_ARCH_NEON 1
#else
#define BB_ARCH_NEON 0
#endif

/** The assembler that comes with these compilers knows AVX-VNNI. */
#if BB_ARCH_X86_64 && ((defined(__clang_major__) && __clang_major__ >= 12) ||                      \
                       (!defined(__clang_major__) && __GNUC__ >= 11))
#define BB_ASM_AVX_VNNI 1
#else
#define BB_ASM_AVX_VNNI 0
#endif

enum {
    BB_CPU_SSSE3 = 1u << 0, /**< with SSE4.1 and SSE4.2 */
    BB_CPU_AVX2 = 1u << 1,
    BB_CPU_AVX_VNNI = 1u << 2,
    BB_CPU_AVX512 = 1u << 3, /**< F, BW, DQ, VL */
    BB_CPU_AVX512_VNNI = 1u << 4,
    BB_CPU_AVX512_POPCNT = 1u << 5, /**< VPOPCNTDQ and BITALG */
    BB_CPU_AVX512_VBMI = 1u << 6,
    BB_CPU_NEON = 1u << 16,
    BB_CPU_DOTPROD = 1u << 17
};

/** Flags of this machine (operating system support included). */
uint32_t bb_cpu_detect(void);
/** The level named by text ("ref", "ssse3", "avx2", "avx512", "neon", "dotprod", ...): that set
 *  and those it contains. INVALID_ARGUMENT lists the names. */
bb_status bb_cpu_parse(const char *text, uint32_t *flags, bb_error *err);
/** Detected flags, limited by the environment's BITBRANCH_CPU if that is set and valid. */
uint32_t bb_cpu_flags(void);
/** INVALID_ARGUMENT where BITBRANCH_CPU is set to a name that does not exist: whoever sets it wants
 *  a limit, and would take results without one for results with it. */
bb_status bb_cpu_check_environment(bb_error *err);
/** "avx2 ssse3", newest first, for reports; "ref" when there are none. */
void bb_cpu_describe(uint32_t flags, char *text, size_t size);

#endif
