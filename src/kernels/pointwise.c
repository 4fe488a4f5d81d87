/* SPDX-License-Identifier: Apache-2.0 */
/** @file pointwise.c  Chunks of pixels and blocks of channels: what pointwise.h describes. */
#include "kernels/pointwise.h"
#include "kernels/layout.h"
#include "kernels/requant.h"

#include <string.h>

enum { SLACK = 64 }; /**< transforms and vector loads may pass the end */

/** Everything derived from descriptor and route that a run needs. */
typedef struct frame {
    const bb_conv_desc *desc;
    const bb_pointwise_route *route;
    const uint8_t *packed;
    bb_tile_fn tile;
    void *user;
    int32_t y0;
    int32_t blocks;
    int32_t joined; /**< blocks that are handed out together */
    int32_t chunk;  /**< pixels of a chunk, a multiple of the tile */
    size_t stride;  /**< of the sums */
    uint8_t *codes; /**< of a chunk, transformed or short of a tile */
    int32_t *sums, *acc;
} frame;

static int32_t blocks_of(const bb_conv_desc *desc, const bb_pointwise_route *route) {
    return bb_div_up(desc->out_channels, route->block);
}

static int32_t joined_of(const bb_conv_desc *desc, const bb_pointwise_route *route) {
    const bool whole = desc->out_channels % route->block == 0;
    const bool dense = whole && desc->out_channels % BB_POINTWISE_CHANNELS != 0 &&
                       desc->out_channels <= BB_REQUANT_DENSE_MAX;
    const int32_t most = dense ? BB_REQUANT_DENSE_MAX : BB_POINTWISE_CHANNELS;
    return bb_min32(most > route->block ? most / route->block : 1, blocks_of(desc, route));
}

/** Pixels follow each other without a gap where that spoils no other block's sums: a last block
 *  may write more channels than there are, into the next pixel. */
static size_t stride_of(const bb_conv_desc *desc, const bb_pointwise_route *route, int32_t joined) {
    const int32_t all = joined * route->block;
    const bool whole = desc->out_channels % route->block == 0 ||
                       (desc->out_channels < route->block && !route->rewrites);
    return (size_t)(whole ? bb_min32(all, desc->out_channels) : all);
}

static int32_t chunk_of(const bb_conv_desc *desc, const bb_pointwise_route *route, size_t stride) {
    const int32_t tiles = route->chunk_sums / (int32_t)stride / route->tile;
    const int32_t most = bb_div_up(desc->out_height * desc->out_width, route->tile);
    return bb_min32(tiles > 0 ? tiles : 1, most) * route->tile;
}

/** Also lays out the scratch memory (base NULL only counts); returns its size. */
static size_t set_frame(frame *f, const bb_conv_desc *desc, const bb_pointwise_route *route,
                        uint8_t *base) {
    size_t used = 0;
    f->desc = desc;
    f->route = route;
    f->blocks = blocks_of(desc, route);
    f->joined = joined_of(desc, route);
    f->stride = stride_of(desc, route, f->joined);
    f->chunk = chunk_of(desc, route, f->stride);
    f->codes =
        bb_carve(base, &used,
                 (size_t)(route->transform ? f->chunk : route->tile) * route->pixel_bytes + SLACK);
    f->sums = bb_carve(base, &used, (size_t)f->chunk * sizeof(*f->sums));
    f->acc = bb_carve(base, &used,
                      ((size_t)f->chunk * f->stride + (size_t)route->block) * sizeof(*f->acc));
    return used;
}

bool bb_pointwise_supports(const bb_conv_desc *desc) {
    return desc->kernel[0] == 1 && desc->kernel[1] == 1 && desc->stride[0] == 1 &&
           desc->stride[1] == 1 && desc->groups == 1 && desc->pad_begin[0] == 0 &&
           desc->pad_begin[1] == 0 && desc->out_height == desc->in_height &&
           desc->out_width == desc->in_width && desc->out_height * desc->out_width > 1;
}

void bb_pointwise_put_bytes(const bb_pointwise_route *route, uint8_t *block, int32_t lane,
                            const int16_t *weights, int32_t n) {
    const size_t step = (size_t)route->block * 4;
    int32_t *parity = (int32_t *)(void *)(block + (size_t)route->steps * step);
    parity[lane] = bb_put_fours(block + (size_t)lane * 4, step, weights, n, route->halved);
}

size_t bb_pointwise_packed_size(const bb_conv_desc *desc, const bb_pointwise_route *route) {
    return (size_t)blocks_of(desc, route) * route->block_bytes;
}

void bb_pointwise_pack(const bb_conv_desc *desc, const bb_pointwise_route *route,
                       const int16_t *weights, void *dst) {
    const int32_t n = desc->in_channels;
    memset(dst, 0, bb_pointwise_packed_size(desc, route));
    for (int32_t c = 0; c < desc->out_channels; c++, weights += n)
        route->put(route, (uint8_t *)dst + (size_t)(c / route->block) * route->block_bytes,
                   c % route->block, weights, n);
}

size_t bb_pointwise_scratch_size(const bb_conv_desc *desc, const bb_pointwise_route *route) {
    frame f = {0};
    return set_frame(&f, desc, route, NULL);
}

/** The codes of `there` pixels from `codes` on, transformed if the route wants that, in memory that
 *  holds at least a tile; what lies past them is undefined. */
static const uint8_t *prepare(const frame *f, const uint8_t *codes, int32_t there) {
    const bb_pointwise_route *route = f->route;
    if (route->wants_sums)
        route->sum(f->desc, codes, there, f->sums);
    if (route->transform) {
        route->transform(f->desc, codes, there, f->codes);
        return f->codes;
    }
    if (there >= route->tile)
        return codes;
    memcpy(f->codes, codes, (size_t)there * route->pixel_bytes);
    return f->codes;
}

/** n >= tile pixels: whole tiles, and what is left. */
static void run_block(const frame *f, const uint8_t *codes, int32_t n, int32_t block,
                      int32_t *acc) {
    const bb_pointwise_route *route = f->route;
    const int32_t left = n % route->tile, rest = left <= route->rest_max ? left : route->tile;
    const int32_t at = n - rest;
    bb_pointwise_job job = {.route = route,
                            .codes = codes,
                            .weights = f->packed + (size_t)block * route->block_bytes,
                            .sums = f->sums,
                            .n_tiles = n / route->tile,
                            .acc = acc,
                            .stride = f->stride};
    route->run(&job);
    if (left == 0)
        return;
    job.codes += (size_t)at * route->pixel_bytes;
    job.sums += at;
    job.acc += (size_t)at * f->stride;
    job.n_tiles = rest < route->tile ? rest : 1;
    (rest < route->tile ? route->rest : route->run)(&job);
}

/** All channels of the n pixels from q on. The first `early` pixels at `codes` are done already. */
static void run_chunk(const frame *f, const uint8_t *codes, int32_t q, int32_t n, int32_t early) {
    const bb_conv_desc *desc = f->desc;
    const int32_t block = f->route->block;
    const int32_t computed = n + early < f->route->tile ? f->route->tile : n + early;
    for (int32_t b = 0; b < f->blocks; b += f->joined) {
        const int32_t end = bb_min32(b + f->joined, f->blocks), c0 = b * block;
        for (int32_t i = b; i < end; i++)
            run_block(f, codes, computed, i, f->acc + (size_t)(i - b) * (size_t)block);
        f->tile(f->user, f->y0 + q / desc->out_width, q % desc->out_width, n, c0,
                bb_min32(end * block, desc->out_channels) - c0, f->acc + (size_t)early * f->stride,
                f->stride);
    }
}

void bb_pointwise_run(const bb_conv_desc *desc, const bb_pointwise_route *route, const void *packed,
                      const uint8_t *in, int32_t y0, int32_t y1, void *scratch, bb_tile_fn tile,
                      void *user) {
    const size_t pixel = (size_t)desc->in_channels;
    const int32_t all = (y1 - y0) * desc->out_width;
    frame f = {.packed = packed, .tile = tile, .user = user, .y0 = y0};
    set_frame(&f, desc, route, scratch);
    in += (size_t)y0 * (size_t)desc->out_width * pixel;
    for (int32_t q = 0; q < all; q += f.chunk) {
        const int32_t n = bb_min32(f.chunk, all - q);
        /* A last chunk of less than a tile begins early, or counts pixels that are not there. */
        const int32_t early = n < route->tile && q > 0 ? route->tile - n : 0;
        run_chunk(&f, prepare(&f, in + (size_t)(q - early) * pixel, n + early), q, n, early);
    }
}
