/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/requant.h"
#include "cpu/cpu.h"
#include "kernels/window.h"

const bb_requant_kernels *bb_requant_choose(uint32_t cpu) {
#if defined(__x86_64__)
    if (cpu & BB_CPU_AVX512)
        return &bb_requant_avx512;
    if (cpu & BB_CPU_AVX2)
        return &bb_requant_avx2;
#endif
    return &bb_requant_ref;
}

const bb_window_kernels *bb_window_choose(uint32_t cpu) {
#if defined(__x86_64__)
    if (cpu & BB_CPU_AVX2)
        return &bb_window_avx2;
#endif
    return &bb_window_ref;
}
