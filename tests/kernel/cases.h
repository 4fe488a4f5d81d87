/* SPDX-License-Identifier: Apache-2.0 */
/** @file cases.h  Random convolutions in guarded memory, for kernel and conformance tests. */
#ifndef BB_TESTS_CASES_H
#define BB_TESTS_CASES_H

#include "kernels/kernels.h"

/** Memory between two inaccessible pages. */
typedef struct guarded {
    uint8_t *map;
    size_t map_bytes;
    uint8_t *data; /**< `bytes` of it touch one of the two guard pages, as alignment allows */
    size_t bytes;
    uint8_t *canary[2]; /**< accessible bytes around data that nobody may write */
    size_t canary_bytes[2];
} guarded;

/** at_end: data ends at the upper guard page, else it begins at the lower one. Exits on failure. */
void guarded_create(guarded *g, size_t bytes, size_t align, bool at_end);
/** False if a canary byte changed. */
bool guarded_intact(const guarded *g);
void guarded_destroy(guarded *g);

typedef enum case_fill { FILL_RANDOM, FILL_MAX, FILL_MIN, FILL_MIXED, FILL_COUNT } case_fill;

typedef struct conv_case {
    bb_conv_desc desc;
    guarded in;       /**< codes with the 64-byte margins of kernels.h */
    uint8_t *codes;   /**< in.data + 64 */
    int16_t *weights; /**< [out_channels][kh*kw][depth] */
    size_t n_out;
} conv_case;

/** A shape at random: any kernel, stride, dilation, pads, groups; at most max_macs. */
void random_desc(bb_rng *rng, uint32_t m, uint32_t k, double max_macs, bb_conv_desc *desc);
/** Fills weights (and desc.max_weight) and codes. */
void case_create(conv_case *c, bb_rng *rng, const bb_conv_desc *desc, case_fill fill);
void case_destroy(conv_case *c);

/** acc of rows y0..y1-1 into out[out_height][out_width][out_channels]. NULL, or what went wrong. */
const char *case_run(const conv_case *c, const bb_conv_kernel *kernel, int32_t y0, int32_t y1,
                     bool at_end, int32_t *out);
/** One line that names the shape. */
void desc_print(const bb_conv_desc *desc, char *text, size_t size);

#endif
