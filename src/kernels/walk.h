/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file walk.h
 * The frame of most convolution kernels: direct convolution in tiles, without im2col. Frames of
 * their own have depthwise layers (depthwise.h), 1x1 layers (pointwise.h), minimal filtering
 * (minimal.h) and exchanged roles (x86/conv_swapped_avx2.c).
 *
 * Output rows are taken in strips. The input rows a strip needs are transformed once (copied with
 * their padding, widened, turned into tables or bit planes, as the route says) into a ring of
 * rows. A tile is `pixels` consecutive output pixels of a strip; it may span output rows. For each
 * tile and each *segment* of the kernel window there is one pointer per pixel. A segment is a run
 * of consecutive bytes in a transformed row: a whole kernel row (kw taps x all channels) where
 * nothing lies between its taps, else a single tap of one group. So shallow inputs (7x7x3) fill
 * vectors along the taps and an inner loop runs over long runs with one shared offset.
 *
 * Packed weights lie as [group][block of channels][segment][step], in the route's own step format.
 */
#ifndef BB_KERNELS_WALK_H
#define BB_KERNELS_WALK_H

#include "kernels/kernels.h"

enum {
    BB_TILE_STRIDE = 64,     /**< channels of an accumulator tile */
    BB_TILE_PIXELS_MAX = 12, /**< of any route */
    BB_GATHER_BYTES = 32     /**< of a kernel row, where windows are gathered */
};

typedef struct bb_conv_route bb_conv_route;

/** One block of output channels for one tile of pixels. */
typedef struct bb_tile_job {
    const bb_conv_route *route;
    const uint8_t *const *ptr; /**< [segments][pixels]; repeats a valid pixel past n_pixels */
    const uint8_t *weights;    /**< the packed block */
    const uint8_t *next;       /**< packed weights needed later, to prefetch if the kernel can */
    const int32_t *sums;       /**< [pixels] window sums of codes, if the route wants them */
    int32_t n_pixels;          /**< pixels that count */
    int32_t channel;           /**< first channel of the block, within its group */
    int32_t n_blocks;          /**< consecutive blocks to compute: 1, if joined those of a tile, or
                                    up to call_blocks */
    int32_t *acc;              /**< out: [n_blocks][BB_TILE_PIXELS_MAX][BB_TILE_STRIDE] */
    size_t part_bytes;         /**< distance of the parts of a transformed row */
    void *work;                /**< work_bytes of the kernel's own, 64-byte aligned */
} bb_tile_job;

struct bb_conv_route {
    int32_t pixels;         /**< per tile, at most BB_TILE_PIXELS_MAX */
    int32_t block_channels; /**< output channels of a packed block; divides BB_TILE_STRIDE */
    int32_t call_blocks;    /**< > 0: blocks (of BB_TILE_STRIDE channels) taken in one call */
    /** > 0: limit to the pixels of consecutive tiles that go to the epilogue together, and through
     *  all blocks before the next ones where weights are not large. */
    int32_t chunk_pixels;
    int32_t segments;
    size_t group_bytes;   /**< transformed bytes of one group's channels of one pixel */
    size_t segment_bytes; /**< transformed bytes of one segment */
    size_t block_bytes;   /**< packed bytes of one block, a multiple of 64 */
    size_t work_bytes;
    /** Depthwise: channel by channel, so blocks lie side by side in a pixel. One segment per tap,
     *  pointing at channel 0; group_bytes covers all channels. */
    bool depthwise;
    bool joined;     /**< takes the blocks of a tile in one call: n_blocks, side by side in acc */
    bool in_place;   /**< transformed == codes: unpadded rows are used where they are */
    bool wants_sums; /**< transform fills sums */
    /** Parts of a transformed row (0 or 1 = one): part p of a column lies p*part_bytes further on.
     */
    int32_t parts;
    /** Transforms n pixels. May write 64 bytes past each part, and read 64 bytes more than n
     *  pixels. sums: [n][groups] or NULL. */
    void (*transform)(const bb_conv_desc *desc, const uint8_t *codes, int32_t n, uint8_t *dst,
                      size_t part_bytes, int32_t *sums);
    /** Where bb_route_gathers: the windows of n output pixels of one row, window_bytes apart. A
     *  window is n_rows pieces of `bytes` <= BB_GATHER_BYTES one behind the other, those of pixel x
     *  from rows[i] + x*step. May read and write as far as BB_GATHER_BYTES from the start of each
     *  piece. The windows of a strip so become one segment each. */
    void (*gather)(const uint8_t *const *rows, int32_t n_rows, size_t step, size_t bytes, int32_t n,
                   uint8_t *dst, size_t window_bytes);
    /** Beside gather, where the route wants sums: of `length` bytes of each of n windows. */
    void (*sum_windows)(const uint8_t *windows, size_t step, int32_t length, int32_t n,
                        int32_t *sums);
    void (*block)(const bb_tile_job *job);
    /** Sets up the work memory once per run; may be NULL. */
    void (*prepare)(const bb_conv_route *route, void *work);
    /** Free for the kernel. */
    int32_t depth;    /**< activations of one tap */
    int32_t steps;    /**< of one segment */
    int32_t schedule; /**< steps between two widenings */
    int32_t variant;
    int32_t planes;
    int32_t part_bits;
    int32_t call_segments; /**< segments taken for all blocks of a call before the next ones */
    int32_t top;           /**< largest code of one part */
    int32_t extra;         /**< factor of the window sums */
};

/**
 * Packs n weights of one channel as bytes, four activations a step: [step][channel][4], and behind
 * the steps one int32 a channel: -1 where its weights are odd, else 0 (one parity per channel).
 * halved: floor(w/2) is stored, so that w = 2*stored + parity.
 */
void bb_put_bytes(const bb_conv_route *route, uint8_t *block, int32_t lane, int32_t segment,
                  const int16_t *weights, int32_t n, bool halved);
/** True where kernel rows are so short that a kernel should gather whole windows: the first layer
 *  of most networks. Transformed pixels must be codes. */
bool bb_route_gathers(const bb_conv_desc *desc);
/** Fills segments and segment_bytes from group_bytes and gather. */
void bb_route_segments(const bb_conv_desc *desc, bb_conv_route *route);
/** True where packed weights are large, so that every block stays in cache for a round over the
 *  tiles of a strip. */
bool bb_route_large(const bb_conv_desc *desc, const bb_conv_route *route);
/** True where a segment is a whole kernel row. */
bool bb_route_merged(const bb_conv_desc *desc);

/** Packed bytes of all blocks. */
size_t bb_walk_packed_size(const bb_conv_desc *desc, const bb_conv_route *route);
size_t bb_walk_scratch_size(const bb_conv_desc *desc, const bb_conv_route *route);
void bb_walk_run(const bb_conv_desc *desc, const bb_conv_route *route, const void *packed,
                 const uint8_t *in, int32_t y0, int32_t y1, void *scratch, bb_tile_fn tile,
                 void *user);

/** Writes the weights of one segment of one channel (lane of its block) into a zeroed block. */
typedef void (*bb_put_fn)(const bb_conv_route *route, uint8_t *block, int32_t lane, int32_t segment,
                          const int16_t *weights, int32_t n);
/** Zeroes dst and puts all weights. */
void bb_walk_pack(const bb_conv_desc *desc, const bb_conv_route *route, const int16_t *weights,
                  void *dst, bb_put_fn put);
/** Activations of one segment: of a kernel row where merged, else of a tap. */
int32_t bb_segment_length(const bb_conv_desc *desc);
/** The same for this route: of the whole window where gathered. */
int32_t bb_route_length(const bb_conv_desc *desc, const bb_conv_route *route);

/** The functions of a bb_conv_kernel that follow from `route_of` and `put`. */
#define BB_WALK_FUNCTIONS(route_of, put)                                                           \
    static size_t packed_size(const bb_conv_desc *desc) {                                          \
        const bb_conv_route route = route_of(desc);                                                \
                                                                                                   \
        return bb_walk_packed_size(desc, &route);                                                  \
    }                                                                                              \
    static void pack(const bb_conv_desc *desc, const int16_t *weights, void *dst) {                \
        const bb_conv_route route = route_of(desc);                                                \
                                                                                                   \
        bb_walk_pack(desc, &route, weights, dst, put);                                             \
    }                                                                                              \
    static size_t scratch_size(const bb_conv_desc *desc) {                                         \
        const bb_conv_route route = route_of(desc);                                                \
                                                                                                   \
        return bb_walk_scratch_size(desc, &route);                                                 \
    }                                                                                              \
    static void run(const bb_conv_desc *desc, const void *packed, const uint8_t *in, int32_t y0,   \
                    int32_t y1, void *scratch, bb_tile_fn tile, void *user) {                      \
        const bb_conv_route route = route_of(desc);                                                \
                                                                                                   \
        bb_walk_run(desc, &route, packed, in, y0, y1, scratch, tile, user);                        \
    }

#endif
