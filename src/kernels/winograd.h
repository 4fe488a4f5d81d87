/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file winograd.h
 * Exact integer Winograd convolution F(2x2, 3x3) on byte products: 16 products for 4 outputs of a
 * 3x3 window where direct convolution takes 36 (Winograd 1980; Lavin and Gray, CVPR 2016).
 *
 * One dimension, input d0..d3, weights g0..g2, two outputs:
 *     U = (d0-d2, d1+d2, d2-d1, d1-d3)       V = (g0, g0+g1+g2, g0-g1+g2, g2)
 *     2 y0 = 2 m0 + m1 + m2                   2 y1 = m1 - m2 - 2 m3         with m = U V
 * Applied to rows and columns, sums over channels in between: 4 y is an integer combination of the
 * 16 m, so that y is exact. Float versions halve the weights instead and round.
 *
 * Low-bit operands stay bytes. With A = 2^M-1 and W = max|b + o|: U + 2A (U itself where both
 * dimensions add) lies in 0..4A <= 255 for M <= 6, and |V| <= 9W. Where 9W > 127, v = floor(V/2) is
 * stored and V = 2v + parity: every V is a sum of an odd number of weights of one channel, so its
 * parity is that of the channel. The parity's share of y is the channel sum of the code in the
 * corner of the block's 4x4 codes that lies beyond that output: with V = 1 everywhere the sums
 * above are 2 d0 and 2 d3. The offset 2A contributes a constant to each of a block's four outputs.
 *
 * A *block* is 2x2 outputs. Blocks of a strip of output rows are transformed to
 * [block][16 positions][channels]; tiles of them are multiplied with 16 output channels at a time.
 */
#ifndef BB_KERNELS_WINOGRAD_H
#define BB_KERNELS_WINOGRAD_H

#include "kernels/walk.h"

enum {
    BB_WINOGRAD_POSITIONS = 16,
    BB_WINOGRAD_CHANNELS = 16,  /**< output channels of a packed block */
    BB_WINOGRAD_TILE_MAX = 12,  /**< blocks */
    BB_WINOGRAD_STEP = 64,      /**< packed bytes of four input channels */
    BB_WINOGRAD_READ_PAST = 32, /**< bytes past the channels of a pixel or block */
};

/** Steps whose products 16-bit sums hold, one after the other over the 16 positions. */
typedef struct bb_winograd_chunk {
    uint16_t steps;   /**< 0 = end */
    uint16_t add;     /**< the chunk before this one is not the first of its position */
    uint16_t advance; /**< 1 = the chunk before this one is the last of its position */
    uint16_t skip; /**< bytes from the end of the position before to this one, if it is the first */
} bb_winograd_chunk;

/** Behind the weights [position][step][16 channels][4] of a packed block; then the chunks. */
typedef struct bb_winograd_constants {
    int32_t add[4][BB_WINOGRAD_CHANNELS]; /**< to the combination of products, for each output */
    int32_t parity[BB_WINOGRAD_CHANNELS]; /**< -1 where weights are odd and halved, else 0 */
} bb_winograd_constants;

/** A layer's layout. */
typedef struct bb_winograd {
    const bb_conv_desc *desc;
    int32_t tile;          /**< blocks multiplied at a time */
    int32_t blocks_wide;   /**< of an output row */
    int32_t strip_rows;    /**< rows of blocks transformed at a time */
    int32_t steps;         /**< of four input channels */
    int32_t columns;       /**< of a padded input row */
    int32_t max_chunks;    /**< of a packed block */
    bool halved;           /**< V = 2v + parity, else v = V */
    size_t position_bytes; /**< channels of one position */
    size_t block_bytes;    /**< transformed */
    size_t packed_bytes;   /**< of 16 output channels */
} bb_winograd;

/** One tile of blocks and 16 output channels. */
typedef struct bb_winograd_tile {
    const bb_winograd *layout;
    const uint8_t *blocks; /**< transformed; a whole tile is readable */
    const uint8_t *weights;
    const bb_winograd_constants *constants;
    const bb_winograd_chunk *chunks;
    const int32_t *corners; /**< [blocks][4] channel sums of the codes in the corners, if halved */
    int32_t n_blocks;       /**< that count */
    int32_t *products;      /**< [position][tile][16], 64-byte aligned */
    int32_t *acc; /**< out: [2 rows][2*BB_WINOGRAD_TILE_MAX pixels][BB_TILE_STRIDE channels] */
} bb_winograd_tile;

/** What an instruction set implements. */
typedef struct bb_winograd_set {
    int32_t tile; /**< blocks, at most BB_WINOGRAD_TILE_MAX */
    bool wide;    /**< sums are 32-bit: one chunk for each position */
    /** Transforms n blocks side by side; rows: four padded rows of codes, from the first block's
     *  first column. May read and write BB_WINOGRAD_READ_PAST more. */
    void (*transform)(const bb_winograd *layout, const uint8_t *const rows[4], int32_t n,
                      uint8_t *dst);
    /** Channel sums of n pixels. */
    void (*sum)(const bb_conv_desc *desc, const uint8_t *codes, int32_t n, int32_t *sums);
    void (*multiply)(const bb_winograd_tile *tile);
    /** Products to the four outputs of each block. */
    void (*combine)(const bb_winograd_tile *tile);
} bb_winograd_set;

bool bb_winograd_supports(const bb_conv_desc *desc, const bb_winograd_set *set);
bb_winograd bb_winograd_layout(const bb_conv_desc *desc, const bb_winograd_set *set);
size_t bb_winograd_packed_size(const bb_conv_desc *desc, const bb_winograd_set *set);
void bb_winograd_pack(const bb_conv_desc *desc, const bb_winograd_set *set, const int16_t *weights,
                      void *dst);
size_t bb_winograd_scratch_size(const bb_conv_desc *desc, const bb_winograd_set *set);
void bb_winograd_run(const bb_conv_desc *desc, const bb_winograd_set *set, const void *packed,
                     const uint8_t *in, int32_t y0, int32_t y1, void *scratch, bb_tile_fn tile,
                     void *user);

/** The functions of a bb_conv_kernel that follow from a set. */
#define BB_WINOGRAD_FUNCTIONS(set)                                                                 \
    static bool supports(const bb_conv_desc *desc) {                                               \
        return bb_winograd_supports(desc, &set);                                                   \
    }                                                                                              \
    static size_t packed_size(const bb_conv_desc *desc) {                                          \
        return bb_winograd_packed_size(desc, &set);                                                \
    }                                                                                              \
    static void pack(const bb_conv_desc *desc, const int16_t *weights, void *dst) {                \
        bb_winograd_pack(desc, &set, weights, dst);                                                \
    }                                                                                              \
    static size_t scratch_size(const bb_conv_desc *desc) {                                         \
        return bb_winograd_scratch_size(desc, &set);                                               \
    }                                                                                              \
    static void run(const bb_conv_desc *desc, const void *packed, const uint8_t *in, int32_t y0,   \
                    int32_t y1, void *scratch, bb_tile_fn tile, void *user) {                      \
        bb_winograd_run(desc, &set, packed, in, y0, y1, scratch, tile, user);                      \
    }

#endif
