/* SPDX-License-Identifier: Apache-2.0 */
/** @file detect.c  What this processor and its operating system can execute. */
#include "cpu/cpu.h"

#if BB_ARCH_X86_64

#include <cpuid.h>

/** Register states the operating system saves: XCR0. 0 where XGETBV is not enabled. */
static uint32_t saved_states(uint32_t leaf1_ecx) {
    uint32_t eax, edx;

    if (!(leaf1_ecx & (1u << 27))) /* OSXSAVE */
        return 0;
    __asm__ volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
    (void)edx;
    return eax;
}

static uint32_t avx512_flags(uint32_t ebx, uint32_t ecx) {
    const uint32_t base = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F DQ BW VL */
    const uint32_t popcnt = 1u << 12 | 1u << 14;                     /* BITALG VPOPCNTDQ */
    uint32_t flags = BB_CPU_AVX512;

    if ((ebx & base) != base)
        return 0;
    if (ecx & (1u << 11))
        flags |= BB_CPU_AVX512_VNNI;
    if ((ecx & popcnt) == popcnt)
        flags |= BB_CPU_AVX512_POPCNT;
    if (ecx & (1u << 1))
        flags |= BB_CPU_AVX512_VBMI;
    return flags;
}

uint32_t bb_cpu_detect(void) {
    const uint32_t sse = 1u << 9 | 1u << 19 | 1u << 20; /* SSSE3 SSE4.1 SSE4.2 */
    const uint32_t ymm = 0x06, zmm = 0xe6;              /* XCR0 bits of the register files */
    uint32_t eax, ebx, ecx, edx, states, flags = 0;

    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || (ecx & sse) != sse)
        return 0;
    flags |= BB_CPU_SSSE3;
    states = saved_states(ecx);
    /* Every processor with AVX2 worth the name has FMA; the requantizers use both. */
    if ((states & ymm) != ymm || !(ecx & (1u << 12)) ||
        !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || !(ebx & (1u << 5)))
        return flags;
    flags |= BB_CPU_AVX2;
    if ((states & zmm) == zmm)
        flags |= avx512_flags(ebx, ecx);
    if (__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & (1u << 4)))
        flags |= BB_CPU_AVX_VNNI;
    return flags;
}

#elif BB_ARCH_NEON64 && defined(__linux__)

#include <sys/auxv.h>

uint32_t bb_cpu_detect(void) {
    uint32_t flags = BB_CPU_NEON;

    if (getauxval(AT_HWCAP) & (1ul << 20)) /* HWCAP_ASIMDDP */
        flags |= BB_CPU_DOTPROD;
    return flags;
}

#elif BB_ARCH_NEON

uint32_t bb_cpu_detect(void) {
    return BB_CPU_NEON;
}

#else

uint32_t bb_cpu_detect(void) {
    return 0;
}

#endif
