/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file pointwise.h
 * The frame of kernels for 1x1 layers of stride 1: the pixels of an image are one run of equal
 * pieces of memory. So tiles need no pointers, a kernel goes over many tiles in one call, and
 * tiles of hundreds of sums go to the epilogue together, without gaps between pixels where a block
 * holds all channels.
 */
#ifndef BB_KERNELS_POINTWISE_H
#define BB_KERNELS_POINTWISE_H

#include "kernels/kernels.h"

/** Channels that are handed to the epilogue together, at most. Up to BB_REQUANT_DENSE_MAX go all at
 *  once if they are whole blocks and no multiple of this number. */
enum { BB_POINTWISE_CHANNELS = 64 };

typedef struct bb_pointwise_route bb_pointwise_route;

/** n_tiles tiles of consecutive pixels, one block of output channels. */
typedef struct bb_pointwise_job {
    const bb_pointwise_route *route;
    const uint8_t *codes; /**< transformed, of the first pixel */
    const uint8_t *weights;
    const int32_t *sums; /**< of codes, by pixel, if the route wants them */
    int32_t n_tiles;
    int32_t *acc;  /**< out: [n_tiles*tile][stride]; a block may write all its channels in a pixel
                        before it writes the next one */
    size_t stride; /**< at least the block's channels that are there */
} bb_pointwise_job;

struct bb_pointwise_route {
    int32_t tile;       /**< pixels that are computed together */
    int32_t block;      /**< channels of a packed block */
    int32_t chunk_sums; /**< int32 sums in cache at a time, about */
    int32_t steps;      /**< of a pixel */
    int32_t schedule;   /**< free for the kernel */
    bool halved;        /**< b + o = 2v' + parity: acc = 2*sum(u v') + parity*sum(u) */
    bool wants_sums;
    bool rewrites;      /**< goes over its sums again, so that pixels must not share any */
    size_t pixel_bytes; /**< of transformed codes */
    size_t block_bytes; /**< a multiple of 64 */
    /** n pixels to dst, 64 bytes more may be read and written; NULL: codes are used in place. */
    void (*transform)(const bb_conv_desc *desc, const uint8_t *codes, int32_t n, uint8_t *dst);
    void (*sum)(const bb_conv_desc *desc, const uint8_t *codes, int32_t n, int32_t *sums);
    void (*run)(const bb_pointwise_job *job);
    /** For up to rest_max pixels behind the last whole tile; n_tiles counts pixels. Where there are
     *  more of them, a tile that begins early takes them. */
    void (*rest)(const bb_pointwise_job *job);
    int32_t rest_max;
    /** Writes the n weights of one channel (lane of its block) into a zeroed block. */
    void (*put)(const bb_pointwise_route *route, uint8_t *block, int32_t lane,
                const int16_t *weights, int32_t n);
};

/** 1x1, stride 1, one group, no padding, more than one pixel. */
bool bb_pointwise_supports(const bb_conv_desc *desc);
/** put for bytes: [step][channel][4 activations], then an int32 for each channel: -1 if odd. */
void bb_pointwise_put_bytes(const bb_pointwise_route *route, uint8_t *block, int32_t lane,
                            const int16_t *weights, int32_t n);
size_t bb_pointwise_packed_size(const bb_conv_desc *desc, const bb_pointwise_route *route);
void bb_pointwise_pack(const bb_conv_desc *desc, const bb_pointwise_route *route,
                       const int16_t *weights, void *dst);
size_t bb_pointwise_scratch_size(const bb_conv_desc *desc, const bb_pointwise_route *route);
void bb_pointwise_run(const bb_conv_desc *desc, const bb_pointwise_route *route, const void *packed,
                      const uint8_t *in, int32_t y0, int32_t y1, void *scratch, bb_tile_fn tile,
                      void *user);

/** The functions of a bb_conv_kernel that follow from `route_of`, after a prefix. */
#define BB_POINTWISE_FUNCTIONS(prefix, route_of)                                                   \
    static size_t prefix##_packed_size(const bb_conv_desc *desc) {                                 \
        const bb_pointwise_route route = route_of(desc);                                           \
        return bb_pointwise_packed_size(desc, &route);                                             \
    }                                                                                              \
    static void prefix##_pack(const bb_conv_desc *desc, const int16_t *weights, void *dst) {       \
        const bb_pointwise_route route = route_of(desc);                                           \
        bb_pointwise_pack(desc, &route, weights, dst);                                             \
    }                                                                                              \
    static size_t prefix##_scratch_size(const bb_conv_desc *desc) {                                \
        const bb_pointwise_route route = route_of(desc);                                           \
        return bb_pointwise_scratch_size(desc, &route);                                            \
    }                                                                                              \
    static void prefix##_run(const bb_conv_desc *desc, const void *packed, const uint8_t *in,      \
                             int32_t y0, int32_t y1, void *scratch, bb_tile_fn tile, void *user) { \
        const bb_pointwise_route route = route_of(desc);                                           \
        bb_pointwise_run(desc, &route, packed, in, y0, y1, scratch, tile, user);                   \
    }

#endif
