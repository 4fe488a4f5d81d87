/* SPDX-License-Identifier: Apache-2.0 */
/** @file requant_lanes.h  What the vector requantizers share: parts of jobs and lanes to spare. */
#ifndef BB_KERNELS_REQUANT_LANES_H
#define BB_KERNELS_REQUANT_LANES_H

#include "kernels/requant.h"

/** The float kernels take accumulators or byte codes and give byte codes. */
static inline bool bb_requant_is_float(const bb_requant_tables *t, const bb_requant_job *job) {
    return t->mult_f && job->count == 1 && job->out_type == BB_ELEMENT_U8 &&
           job->z1_type != BB_ELEMENT_U16;
}

/** n_channels from channel i on of one pixel p, as a job of its own. */
static inline bb_requant_job bb_requant_part(const bb_requant_job *job, size_t p, int32_t i,
                                             int32_t n_channels) {
    bb_requant_job part = *job;
    part.n_pixels = 1;
    part.n_channels = n_channels;
    part.c0 = job->c0 + i;
    part.z1 =
        (const uint8_t *)job->z1 + (p * job->z1_stride + (size_t)i) * bb_element_size(job->z1_type);
    if (job->z2)
        part.z2 = (const uint8_t *)job->z2 +
                  (p * job->z2_stride + (size_t)i) * bb_element_size(job->z2_type);
    part.out = (uint8_t *)job->out + p * job->out_stride + (size_t)i; /* byte codes */
    return part;
}

/** Runs `groups`, which takes whole groups of eight channels; the last n_channels % 8 go through
 *  copies of eight, because neither the tile nor the output may be touched beyond its end. */
void bb_requant_by_eights(bb_requant_fn groups, const bb_requant_tables *t,
                          const bb_requant_job *job);

#endif
