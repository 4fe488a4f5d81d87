/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/requant.h"
#include "cpu/cpu.h"
#include "kernels/requant_lanes.h"
#include "kernels/window.h"

#include <string.h>

enum { LANES = 8 };

const bb_requant_kernels *bb_requant_choose(uint32_t cpu) {
#if BB_ARCH_X86_64
    if (cpu & BB_CPU_AVX512)
        return &bb_requant_avx512;
    if (cpu & BB_CPU_AVX2)
        return &bb_requant_avx2;
    if (cpu & BB_CPU_SSSE3)
        return &bb_requant_ssse3;
#elif BB_ARCH_NEON
    if (cpu & BB_CPU_NEON)
        return &bb_requant_neon;
#endif
    return &bb_requant_ref;
}

const bb_window_kernels *bb_window_choose(uint32_t cpu) {
#if BB_ARCH_X86_64
    if (cpu & BB_CPU_AVX2)
        return &bb_window_avx2;
    if (cpu & BB_CPU_SSSE3)
        return &bb_window_ssse3;
#elif BB_ARCH_NEON
    if (cpu & BB_CPU_NEON)
        return &bb_window_neon;
#endif
    return &bb_window_ref;
}

static const void *at_channel(const void *p, bb_element type, size_t i) {
    return (const uint8_t *)p + i * bb_element_size(type);
}

/* The last n < 8 channels: one pixel at a time through 8-lane copies. */
static void run_tail(bb_requant_fn groups, const bb_requant_tables *t, const bb_requant_job *job,
                     int32_t done, size_t n) {
    int32_t z1[LANES] = {0}, out[LANES];
    uint16_t z2[LANES] = {0};
    bb_requant_job tail = *job;
    tail.n_pixels = 1;
    tail.c0 = job->c0 + done;
    tail.n_channels = LANES;
    tail.z1 = z1;
    tail.z2 = z2;
    tail.out = out;
    const size_t size1 = bb_element_size(job->z1_type), size2 = bb_element_size(job->z2_type),
                 size_out = bb_element_size(job->out_type);
    for (size_t p = 0; p < (size_t)job->n_pixels; p++) {
        memcpy(z1, at_channel(job->z1, job->z1_type, p * job->z1_stride + (size_t)done), n * size1);
        if (t->has_z2)
            memcpy(z2, at_channel(job->z2, job->z2_type, p * job->z2_stride + (size_t)done),
                   n * size2);
        groups(t, &tail);
        memcpy((uint8_t *)job->out + (p * job->out_stride + (size_t)done) * size_out, out,
               n * size_out);
    }
}

void bb_requant_by_eights(bb_requant_fn groups, const bb_requant_tables *t,
                          const bb_requant_job *job) {
    const int32_t done = job->n_channels / LANES * LANES;
    if (done > 0)
        groups(t, job);
    if (done < job->n_channels)
        run_tail(groups, t, job, done, (size_t)(job->n_channels - done));
}
