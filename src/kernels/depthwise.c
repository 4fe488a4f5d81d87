/* SPDX-License-Identifier: Apache-2.0 */
/** @file depthwise.c  Rows and tiles of depthwise layers: what depthwise.h describes. */
#include "kernels/depthwise.h"
#include "kernels/layout.h"

#include <string.h>

enum { SLACK = 64 }; /**< vector loads may pass the end of a row */

/** Everything derived from a descriptor that a run needs. */
typedef struct frame {
    const bb_conv_desc *desc;
    const uint8_t *in;
    int32_t columns; /**< of a padded row */
    int32_t slots;   /**< rows of the ring */
    size_t pixel, row_bytes;
    bool in_place;
    uint8_t *pad_row, *ring;
    int32_t *tags; /**< input row in each slot */
    const uint8_t **taps;
    int32_t *acc;
} frame;

/** Lays out the scratch memory (base NULL only counts); returns its size. */
static size_t set_frame(frame *f, const bb_conv_desc *desc, uint8_t *base) {
    const size_t taps = (size_t)desc->kernel[0] * (size_t)desc->kernel[1];
    size_t used = 0;
    f->desc = desc;
    f->columns =
        (desc->out_width - 1) * desc->stride[1] + (desc->kernel[1] - 1) * desc->dilation[1] + 1;
    f->slots = (desc->kernel[0] - 1) * desc->dilation[0] + 1;
    f->pixel = (size_t)desc->in_channels;
    f->row_bytes = bb_round64((size_t)f->columns * f->pixel + SLACK);
    f->in_place = desc->pad_begin[1] == 0 && f->columns <= desc->in_width;
    f->pad_row = bb_carve(base, &used, f->row_bytes);
    f->ring = bb_carve(base, &used, f->in_place ? 0 : (size_t)f->slots * f->row_bytes);
    f->tags = bb_carve(base, &used, (size_t)f->slots * sizeof(*f->tags));
    f->taps = bb_carve(base, &used, taps * sizeof(*f->taps));
    f->acc = bb_carve(base, &used, BB_DEPTHWISE_PIXELS * BB_DEPTHWISE_BLOCK * sizeof(*f->acc));
    return used;
}

size_t bb_depthwise_scratch_size(const bb_conv_desc *desc) {
    frame f;
    return set_frame(&f, desc, NULL);
}

static int32_t blocks_of(const bb_conv_desc *desc, const bb_depthwise_route *route) {
    return (desc->out_channels + route->block - 1) / route->block;
}

bool bb_depthwise_supports(const bb_conv_desc *desc, int32_t max_weight) {
    return desc->groups > 1 && desc->groups == desc->in_channels &&
           desc->groups == desc->out_channels && desc->max_weight <= max_weight;
}

size_t bb_depthwise_packed_size(const bb_conv_desc *desc, const bb_depthwise_route *route) {
    return (size_t)blocks_of(desc, route) * route->block_bytes;
}

void bb_depthwise_pack(const bb_conv_desc *desc, const bb_depthwise_route *route,
                       const int16_t *weights, void *dst) {
    const int32_t taps = desc->kernel[0] * desc->kernel[1];
    memset(dst, 0, bb_depthwise_packed_size(desc, route));
    for (int32_t c = 0; c < desc->out_channels; c++)
        for (int32_t tap = 0; tap < taps; tap++)
            route->put(desc, (uint8_t *)dst + (size_t)(c / route->block) * route->block_bytes,
                       c % route->block, tap, weights[(size_t)c * (size_t)taps + (size_t)tap]);
}

void bb_depthwise_emit(const bb_depthwise_row *row, int32_t x, int32_t n) {
    row->tile(row->user, row->y, x, n, row->c0, row->channels, row->acc, BB_DEPTHWISE_BLOCK);
}

/** Copies input row iy with its padding. */
static void copy_row(const frame *f, int32_t iy, uint8_t *row) {
    const bb_conv_desc *d = f->desc;
    const int32_t left = d->pad_begin[1] < f->columns ? d->pad_begin[1] : f->columns;
    const int32_t room = f->columns - left, n = d->in_width < room ? d->in_width : room;
    const size_t image_row = (size_t)d->in_width * f->pixel;
    memcpy(row, f->pad_row, (size_t)left * f->pixel);
    memcpy(row + (size_t)left * f->pixel, f->in + (size_t)iy * image_row, (size_t)n * f->pixel);
    memcpy(row + (size_t)(left + n) * f->pixel, f->pad_row, (size_t)(room - n) * f->pixel);
}

static const uint8_t *fetch_row(const frame *f, int32_t iy) {
    if (iy < 0 || iy >= f->desc->in_height)
        return f->pad_row;
    if (f->in_place)
        return f->in + (size_t)iy * (size_t)f->desc->in_width * f->pixel;
    const int32_t slot = iy % f->slots;
    uint8_t *row = f->ring + (size_t)slot * f->row_bytes;
    if (f->tags[slot] != iy) {
        copy_row(f, iy, row);
        f->tags[slot] = iy;
    }
    return row;
}

static void point_taps(const frame *f, int32_t y) {
    const bb_conv_desc *d = f->desc;
    const uint8_t **tap = f->taps;
    for (int32_t ky = 0; ky < d->kernel[0]; ky++) {
        const uint8_t *row = fetch_row(f, y * d->stride[0] + ky * d->dilation[0] - d->pad_begin[0]);
        for (int32_t kx = 0; kx < d->kernel[1]; kx++)
            *tap++ = row + (size_t)kx * (size_t)d->dilation[1] * f->pixel;
    }
}

void bb_depthwise_run(const bb_conv_desc *desc, const bb_depthwise_route *route, const void *packed,
                      const uint8_t *in, int32_t y0, int32_t y1, void *scratch, bb_tile_fn tile,
                      void *user) {
    const int32_t blocks = blocks_of(desc, route);
    frame f;
    set_frame(&f, desc, scratch);
    f.in = in;
    memset(f.pad_row, (int)desc->pad_code, f.row_bytes);
    for (int32_t i = 0; i < f.slots; i++)
        f.tags[i] = -1;
    bb_depthwise_row row = {.desc = desc,
                            .route = route,
                            .taps = f.taps,
                            .step = (size_t)desc->stride[1] * f.pixel,
                            .pixel = f.pixel,
                            .acc = f.acc,
                            .tile = tile,
                            .user = user};
    for (row.y = y0; row.y < y1; row.y++) {
        point_taps(&f, row.y);
        for (int32_t b = 0; b < blocks; b++) {
            row.c0 = b * route->block;
            row.channels = bb_min32(desc->out_channels - row.c0, route->block);
            row.weights = (const uint8_t *)packed + (size_t)b * route->block_bytes;
            route->row(&row);
        }
    }
}
