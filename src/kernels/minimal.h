/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file minimal.h
 * The frame of 3x3 stride-1 convolutions by minimal filtering (Toom 1963, Cook 1966, Winograd
 * 1980), exact in integers.
 *
 * A tile of m x m output pixels is  Y = At ((G w Gt) . (Bt d B)) A / D  with a patch d of
 * (m+2) x (m+2) inputs and one product for each *point*:
 *     m   products   codes grow by   weights by
 *     2   16 for 36        4              9       points 0, 1, -1, infinity
 *     3   25 for 81       36             49       0, 1, -1, 2, infinity
 *     4   49 for 144      16             16       0, 1, -1, i, -i, infinity; i by Karatsuba
 * In floating point, and with 8-bit codes, this costs accuracy. With few bits it costs nothing:
 * codes of 2^M values become growth*(2^M - 1) + 1 values, still bytes; G is taken times whatever
 * makes it integer, and weights still are signed bytes; the int32 result is a multiple of D.
 *
 * Bytes are transformed modulo 256 and then moved by an offset for each point, so that they are
 * unsigned; the products of the offsets, one constant for each channel and point, are where the
 * sums start (bias).
 *
 * Weights that would grow beyond a byte are halved, b + o = 2v' + parity (kernels.h: one parity a
 * channel): acc = 2*sum(u v') + parity*sum(u), with the sums of the codes under every window.
 *
 * Packed weights: [block of channels][point]{bias, [four input channels][channel][4]}, and at the
 * end of each block int32 parity masks.
 *
 * Where sums of products are 16 bits (`narrow`), a block ends with a list of *chunks*: runs of
 * steps that a sum holds whatever the codes, cut by the weights that are there, not by the largest
 * there could be. Tiles then are taken a few at a time through all points and finished at once;
 * with 32-bit sums a point's weights are used for a whole strip of tiles before the next point's.
 */
#ifndef BB_KERNELS_MINIMAL_H
#define BB_KERNELS_MINIMAL_H

#include "kernels/kernels.h"

enum {
    BB_MINIMAL_AXIS = 7, /**< points of one axis, at most */
    BB_MINIMAL_POINTS = BB_MINIMAL_AXIS * BB_MINIMAL_AXIS,
    BB_MINIMAL_PATCH = 6,  /**< inputs of one axis of a tile, at most */
    BB_MINIMAL_LANES = 16, /**< channels whose products lie side by side */
    BB_MINIMAL_PIXEL = 64  /**< ints from one pixel of finished sums to the next */
};

/** One algorithm, the same along both axes. */
typedef struct bb_minimal_form {
    int32_t outputs, patch, points;                  /**< m, m + 2, points of one axis */
    int8_t input[BB_MINIMAL_AXIS][BB_MINIMAL_PATCH]; /**< Bt */
    int8_t weight[BB_MINIMAL_AXIS][3];               /**< G, in integers */
} bb_minimal_form;

typedef struct bb_minimal_route bb_minimal_route;

/** One pass of an input transform over `count` tiles. */
typedef struct bb_minimal_pass {
    const uint8_t *in[BB_MINIMAL_PATCH];
    uint8_t *out[BB_MINIMAL_AXIS];
    size_t in_step, out_step; /**< bytes from one tile to the next */
    size_t bytes;             /**< of one tile */
    int32_t count;
    const uint8_t *offset; /**< added to each output */
} bb_minimal_pass;

/** Steps whose products 16-bit sums hold, over all points of a block. */
typedef struct bb_minimal_chunk {
    uint16_t steps; /**< 0 = end */
    uint16_t add;   /**< the chunk before is not the first of its point */
    uint16_t point; /**< 1 = begins a point, but not the first one */
    uint16_t unused;
} bb_minimal_chunk;

/** The products of some tiles with some points of a block; narrow: with all points. */
typedef struct bb_minimal_product {
    const uint8_t *codes, *weights; /**< of the first point; weights: bias and bytes */
    const uint8_t *next; /**< this call's share of the weights needed next, to prefetch */
    int32_t *products;   /**< narrow: [point][most_tiles][block_channels] */
    int32_t tiles, points;
} bb_minimal_product;

/** One finished tile: products [channels / LANES][point][LANES] to sums. */
typedef struct bb_minimal_finish {
    const int32_t *products, *parity;
    const int32_t *sums; /**< of the window of each pixel, rows sums_stride apart; if halved */
    size_t sums_stride;
    int32_t *acc; /**< row r, pixel x at acc + r*row_ints + x*BB_MINIMAL_PIXEL */
    size_t row_ints;
} bb_minimal_finish;

/** What an instruction set provides. */
typedef struct bb_minimal_ops {
    int32_t block_channels; /**< output channels of a packed block */
    int32_t call_channels;  /**< given to the epilogue together: a multiple, at most
                                 BB_MINIMAL_PIXEL */
    int32_t most_tiles;     /**< of one call of multiply; narrow: codes of so many are readable */
    bool narrow;            /**< sums of products are 16 bits */
    /** out[i] = sum over k of Bt[i][k] * in[k] + offset[i], modulo 256. May read and write 63 bytes
     *  behind the `bytes` of a tile, before it goes on to the next. */
    void (*transform)(const bb_minimal_form *form, const bb_minimal_pass *pass);
    /** products[t*products_stride + c] = bias[c] + sum over d of codes[t*code_stride + d]*w[d][c]
     */
    void (*multiply)(const bb_minimal_route *route, const bb_minimal_product *job);
    void (*finish)(const bb_minimal_route *route, const bb_minimal_finish *job);
    /** Channel sums of n pixels; for halved weights. */
    void (*sum_pixels)(const bb_conv_desc *desc, const uint8_t *codes, int32_t n, int32_t *sums);
} bb_minimal_ops;

struct bb_minimal_route {
    const bb_minimal_ops *ops;
    const bb_minimal_form *form;
    int32_t points;       /**< of both axes */
    int32_t depth, steps; /**< input channels; the same in fours */
    int32_t blocks;
    bool halved;
    int32_t tiles_x;        /**< of one row of tiles */
    int32_t strip_rows;     /**< rows of tiles taken together */
    size_t code_stride;     /**< bytes from one tile's codes of a point to the next tile's */
    size_t products_stride; /**< ints from one tile's products to the next tile's */
    size_t codes_bytes;     /**< from one point's codes to the next one's */
    size_t point_bytes, block_bytes; /**< packed */
    size_t parity_at, chunks_at;     /**< within a packed block */
    uint8_t offset[BB_MINIMAL_POINTS];
};

/** The form of least work for this layer, or NULL if none is exact or it is not 3x3 stride 1.
 *  Narrow sums take m = 2 alone: larger tiles grow weights and codes, and so folds, too much. */
const bb_minimal_form *bb_minimal_form_for(const bb_conv_desc *desc, bool narrow);
/** desc must have a form. */
bb_minimal_route bb_minimal_route_of(const bb_conv_desc *desc, const bb_minimal_ops *ops);
size_t bb_minimal_packed_size(const bb_minimal_route *route);
void bb_minimal_pack(const bb_conv_desc *desc, const bb_minimal_route *route,
                     const int16_t *weights, void *dst);
size_t bb_minimal_scratch_size(const bb_conv_desc *desc, const bb_minimal_route *route);
void bb_minimal_run(const bb_conv_desc *desc, const bb_minimal_route *route, const void *packed,
                    const uint8_t *in, int32_t y0, int32_t y1, void *scratch, bb_tile_fn tile,
                    void *user);

/** The functions of a bb_conv_kernel that follow from the operations. */
#define BB_MINIMAL_FUNCTIONS(ops)                                                                  \
    static size_t packed_size(const bb_conv_desc *desc) {                                          \
        const bb_minimal_route route = bb_minimal_route_of(desc, &(ops));                          \
                                                                                                   \
        return bb_minimal_packed_size(&route);                                                     \
    }                                                                                              \
    static void pack(const bb_conv_desc *desc, const int16_t *weights, void *dst) {                \
        const bb_minimal_route route = bb_minimal_route_of(desc, &(ops));                          \
                                                                                                   \
        bb_minimal_pack(desc, &route, weights, dst);                                               \
    }                                                                                              \
    static size_t scratch_size(const bb_conv_desc *desc) {                                         \
        const bb_minimal_route route = bb_minimal_route_of(desc, &(ops));                          \
                                                                                                   \
        return bb_minimal_scratch_size(desc, &route);                                              \
    }                                                                                              \
    static void run(const bb_conv_desc *desc, const void *packed, const uint8_t *in, int32_t y0,   \
                    int32_t y1, void *scratch, bb_tile_fn tile, void *user) {                      \
        const bb_minimal_route route = bb_minimal_route_of(desc, &(ops));                          \
                                                                                                   \
        bb_minimal_run(desc, &route, packed, in, y0, y1, scratch, tile, user);                     \
    }

#endif
