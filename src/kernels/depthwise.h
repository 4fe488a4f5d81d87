/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file depthwise.h
 * The frame of the depthwise kernels. They have nine products where others have hundreds, so rows
 * are the unit: a kernel's row function goes along a whole output row for one block of channels and
 * hands out tiles of BB_DEPTHWISE_PIXELS pixels. Input rows are used in place or, where padding
 * beside the image is needed, from a ring of padded copies; padded rows point at a row of padding.
 */
#ifndef BB_KERNELS_DEPTHWISE_H
#define BB_KERNELS_DEPTHWISE_H

#include "kernels/kernels.h"

enum {
    BB_DEPTHWISE_PIXELS = 16, /**< of a tile */
    BB_DEPTHWISE_BLOCK = 64   /**< channels at most of a block */
};

typedef struct bb_depthwise_row bb_depthwise_row;

/** How a kernel takes one layer. */
typedef struct bb_depthwise_route {
    int32_t block;      /**< channels of a packed block, at most BB_DEPTHWISE_BLOCK */
    size_t block_bytes; /**< a multiple of 64 */
    int32_t schedule;   /**< free for the kernel */
    /** All outputs of the row for one block; calls bb_depthwise_emit for every tile. May read 64
     *  channels from the first of the block on. */
    void (*row)(const bb_depthwise_row *row);
    /** Writes the weight of one tap and one channel (lane of its block) into a zeroed block. */
    void (*put)(const bb_conv_desc *desc, uint8_t *block, int32_t lane, int32_t tap,
                int16_t weight);
} bb_depthwise_route;

/** One output row of one block of channels. */
struct bb_depthwise_row {
    const bb_conv_desc *desc;
    const bb_depthwise_route *route;
    const uint8_t *const *taps; /**< [kh*kw]: codes under each tap for output column 0 */
    size_t step;                /**< bytes from one output column's codes to the next one's */
    size_t pixel;               /**< bytes of an input pixel */
    const void *weights;        /**< the packed block */
    int32_t *acc;               /**< [BB_DEPTHWISE_PIXELS][BB_DEPTHWISE_BLOCK], 64-byte aligned */
    int32_t y, c0, channels;
    bb_tile_fn tile;
    void *user;
};

/** Hands the first n pixels of acc to the caller: output columns x on. */
void bb_depthwise_emit(const bb_depthwise_row *row, int32_t x, int32_t n);
/** Depthwise layers with |b + o| <= max_weight. */
bool bb_depthwise_supports(const bb_conv_desc *desc, int32_t max_weight);
size_t bb_depthwise_packed_size(const bb_conv_desc *desc, const bb_depthwise_route *route);
void bb_depthwise_pack(const bb_conv_desc *desc, const bb_depthwise_route *route,
                       const int16_t *weights, void *dst);
size_t bb_depthwise_scratch_size(const bb_conv_desc *desc);
void bb_depthwise_run(const bb_conv_desc *desc, const bb_depthwise_route *route, const void *packed,
                      const uint8_t *in, int32_t y0, int32_t y1, void *scratch, bb_tile_fn tile,
                      void *user);

/** The functions of a bb_conv_kernel that follow from `route_of`. */
#define BB_DEPTHWISE_FUNCTIONS(route_of)                                                           \
    static size_t packed_size(const bb_conv_desc *desc) {                                          \
        const bb_depthwise_route route = route_of(desc);                                           \
        return bb_depthwise_packed_size(desc, &route);                                             \
    }                                                                                              \
    static void pack(const bb_conv_desc *desc, const int16_t *weights, void *dst) {                \
        const bb_depthwise_route route = route_of(desc);                                           \
        bb_depthwise_pack(desc, &route, weights, dst);                                             \
    }                                                                                              \
    static void run(const bb_conv_desc *desc, const void *packed, const uint8_t *in, int32_t y0,   \
                    int32_t y1, void *scratch, bb_tile_fn tile, void *user) {                      \
        const bb_depthwise_route route = route_of(desc);                                           \
        bb_depthwise_run(desc, &route, packed, in, y0, y1, scratch, tile, user);                   \
    }

#endif
