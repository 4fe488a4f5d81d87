/* SPDX-License-Identifier: Apache-2.0 */
/** @file resize.h  The two resize variants, on 8-bit pixels. */
#ifndef BB_VISION_RESIZE_H
#define BB_VISION_RESIZE_H

#include "base/base.h"
#include "bitbranch/vision.h"

typedef enum bb_filter { BB_FILTER_BILINEAR, BB_FILTER_ANTIALIAS } bb_filter;

/**
 * Resizes `in` to width x height; *out is a new image.
 * BILINEAR: two taps a side at src = (dst+0.5)*in/out - 0.5, rounded half up; computed exactly.
 * ANTIALIAS: the triangle filter, widened by in/out when shrinking, in two passes with 22-bit
 * coefficients; the same pixels as Pillow's Image.resize(..., BILINEAR).
 */
bb_status bb_image_resize(const bb_image *in, size_t width, size_t height, bb_filter filter,
                          bb_image *out, bb_error *err);

#endif
