/* SPDX-License-Identifier: Apache-2.0 */
/** @file conv_ref.c  The definition of convolution: plain integers, any shape, any grid. */
#include "kernels/registry.h"

#include <string.h>

enum { TILE_CHANNELS = 64 };

static bool supports(const bb_conv_desc *desc) {
    (void)desc;
    return true;
}

/** Two cycles a product: what compilers make of it without SIMD. */
static double cost(const bb_conv_desc *desc) {
    return 2.0 * bb_conv_macs(desc);
}

static size_t packed_size(const bb_conv_desc *desc) {
    return sizeof(int16_t) * (size_t)desc->out_channels * (size_t)desc->kernel[0] *
           (size_t)desc->kernel[1] * (size_t)(desc->in_channels / desc->groups);
}

static void pack(const bb_conv_desc *desc, const int16_t *weights, void *dst) {
    memcpy(dst, weights, packed_size(desc));
}

static size_t scratch_size(const bb_conv_desc *desc) {
    (void)desc;
    return TILE_CHANNELS * sizeof(int32_t);
}

/** First channel of the group of pixel (iy, ix), or NULL where the tap lies in the padding. */
static const uint8_t *tap_codes(const bb_conv_desc *desc, const uint8_t *in, int32_t iy,
                                int32_t ix) {
    if (iy < 0 || iy >= desc->in_height || ix < 0 || ix >= desc->in_width)
        return NULL;
    return in + ((size_t)iy * (size_t)desc->in_width + (size_t)ix) * (size_t)desc->in_channels;
}

/** |result| < 2^31: the model bounds L_M * sum |b + o| (kernels.h). */
static int32_t dot(const uint8_t *codes, uint32_t pad_code, const int16_t *weights, int32_t n) {
    int32_t sum = 0;

    if (codes)
        for (int32_t i = 0; i < n; i++)
            sum += codes[i] * weights[i];
    else
        for (int32_t i = 0; i < n; i++)
            sum += (int32_t)pad_code * weights[i];
    return sum;
}

static int32_t output(const bb_conv_desc *desc, const int16_t *weights, const uint8_t *in,
                      int32_t y, int32_t x, int32_t c) {
    const int32_t depth = desc->in_channels / desc->groups;
    const int32_t group = c / (desc->out_channels / desc->groups);
    const int16_t *w =
        weights + (size_t)c * (size_t)desc->kernel[0] * (size_t)desc->kernel[1] * (size_t)depth;
    int32_t sum = 0;

    for (int32_t ky = 0; ky < desc->kernel[0]; ky++)
        for (int32_t kx = 0; kx < desc->kernel[1]; kx++, w += depth) {
            int32_t iy = y * desc->stride[0] + ky * desc->dilation[0] - desc->pad_begin[0];
            int32_t ix = x * desc->stride[1] + kx * desc->dilation[1] - desc->pad_begin[1];
            const uint8_t *codes = tap_codes(desc, in, iy, ix);

            sum +=
                dot(codes ? codes + (size_t)group * (size_t)depth : NULL, desc->pad_code, w, depth);
        }
    return sum;
}

static void run(const bb_conv_desc *desc, const void *packed, const uint8_t *in, int32_t y0,
                int32_t y1, void *scratch, bb_tile_fn tile, void *user) {
    int32_t *acc = scratch;

    for (int32_t y = y0; y < y1; y++)
        for (int32_t x = 0; x < desc->out_width; x++)
            for (int32_t c0 = 0; c0 < desc->out_channels; c0 += TILE_CHANNELS) {
                int32_t n = desc->out_channels - c0;

                if (n > TILE_CHANNELS)
                    n = TILE_CHANNELS;
                for (int32_t c = 0; c < n; c++)
                    acc[c] = output(desc, packed, in, y, x, c0 + c);
                tile(user, y, x, 1, c0, n, acc, TILE_CHANNELS);
            }
}

const bb_conv_kernel bb_conv_ref = {.name = "conv_ref",
                                    .cpu = 0,
                                    .supports = supports,
                                    .cost = cost,
                                    .packed_size = packed_size,
                                    .pack = pack,
                                    .scratch_size = scratch_size,
                                    .run = run};
