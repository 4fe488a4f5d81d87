/* SPDX-License-Identifier: Apache-2.0 */
/** @file requant_x86.h  LINEAR in float, used by the double kernels where tables and job allow. */
#ifndef BB_KERNELS_X86_REQUANT_X86_H
#define BB_KERNELS_X86_REQUANT_X86_H

#include "kernels/requant_lanes.h"

/** bb_requant_is_float holds; `exact` is the double kernel, called where a bracket is undecided.
 *  The AVX2 one leaves out the last n_channels % 8. */
void bb_requant_float_avx2(const bb_requant_tables *t, const bb_requant_job *job,
                           bb_requant_fn exact);
void bb_requant_float_avx512(const bb_requant_tables *t, const bb_requant_job *job,
                             bb_requant_fn exact);

#endif
