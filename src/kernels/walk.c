/* SPDX-License-Identifier: Apache-2.0 */
/** @file walk.c  Strips, row ring, tiles: what walk.h describes. */
#include "kernels/walk.h"
#include "kernels/layout.h"

#include <string.h>

enum {
    SLACK = 64,              /**< transforms and vector loads may pass the end of a row */
    STRIP_PIXELS = 48,       /**< at least, so that the last tile of a strip wastes little */
    L2_WEIGHTS = 192 * 1024, /**< weights beyond this are kept in cache block by block */
    RING_BYTES_MAX = 256 * 1024,
    CHUNK_PIXELS = 60, /**< at most, of consecutive tiles handed to the epilogue together */
    TILE_INTS = BB_TILE_STRIDE * BB_TILE_PIXELS_MAX
};

/** Everything derived from descriptor and route that a run needs. */
typedef struct walk {
    const bb_conv_desc *desc;
    const bb_conv_route *route;
    const uint8_t *in, *packed;
    bb_tile_fn tile;
    void *user;
    int32_t columns; /**< of a transformed row, padding included */
    int32_t ring_rows, strip_rows;
    int32_t groups, group_channels, blocks; /**< output channels and blocks of a group */
    size_t pixel_bytes, part_bytes, row_bytes, window_bytes;
    size_t parts;
    size_t pixel_share; /**< bytes of a round's packed weights for each pixel of a strip */
    bool in_place;      /**< input rows are used where they are */
    bool by_tap;        /**< each segment is one tap, so taps in the padding can point elsewhere */
    /* scratch */
    uint8_t *ring, *pad_row, *pad_codes, *pad_pixel;
    int32_t *ring_sums, *pad_sums;        /**< of rows: [groups][out_width], windows' taps summed */
    int32_t *pixel_sums, *pad_pixel_sums; /**< [columns][groups] of the row in work, [groups] */
    int32_t *phases;                      /**< [stride][phase_ints] of the group in work */
    int32_t *window_sums;
    int32_t *tags;    /**< input row in each slot */
    uint8_t *windows; /**< [pixels of the strip][window_bytes], if gathered */
    const uint8_t **ptr;
    const uint8_t **rows;     /**< [strip_rows][kh] */
    const int32_t **row_sums; /**< beside rows */
    int32_t *acc;
    uint8_t *work;
} walk;

void bb_put_bytes(const bb_conv_route *route, uint8_t *block, int32_t lane, int32_t segment,
                  const int16_t *weights, int32_t n, bool halved) {
    const size_t step = (size_t)route->block_channels * 4;
    int32_t *parity = (int32_t *)(void *)(block + route->block_bytes - step);
    uint8_t *dst = block + (size_t)segment * (size_t)route->steps * step + (size_t)lane * 4;

    parity[lane] = bb_put_fours(dst, step, weights, n, halved);
}

bool bb_route_merged(const bb_conv_desc *desc) {
    return desc->groups == 1 && (desc->dilation[1] == 1 || desc->kernel[1] == 1);
}

bool bb_route_gathers(const bb_conv_desc *desc) {
    return bb_route_merged(desc) && desc->kernel[0] > 1 &&
           bb_segment_length(desc) <= BB_GATHER_BYTES;
}

void bb_route_segments(const bb_conv_desc *desc, bb_conv_route *route) {
    if (route->gather) {
        route->segments = 1;
        route->segment_bytes =
            route->group_bytes * (size_t)desc->kernel[0] * (size_t)desc->kernel[1];
    } else if (bb_route_merged(desc) && !route->depthwise) {
        route->segments = desc->kernel[0];
        route->segment_bytes = route->group_bytes * (size_t)desc->kernel[1];
    } else {
        route->segments = desc->kernel[0] * desc->kernel[1];
        route->segment_bytes = route->group_bytes;
    }
}

int32_t bb_segment_length(const bb_conv_desc *desc) {
    int32_t depth = desc->in_channels / desc->groups;

    return bb_route_merged(desc) ? depth * desc->kernel[1] : depth;
}

int32_t bb_route_length(const bb_conv_desc *desc, const bb_conv_route *route) {
    return bb_segment_length(desc) * (route->gather ? desc->kernel[0] : 1);
}

/** Groups as the walk sees them: a depthwise layer is one group of single-channel filters. */
static int32_t groups_of(const bb_conv_desc *desc, const bb_conv_route *route) {
    return route->depthwise ? 1 : desc->groups;
}

static int32_t blocks_of(const bb_conv_desc *desc, const bb_conv_route *route) {
    return bb_div_up(desc->out_channels / groups_of(desc, route), route->block_channels);
}

bool bb_route_large(const bb_conv_desc *desc, const bb_conv_route *route) {
    return (size_t)blocks_of(desc, route) * route->block_bytes > L2_WEIGHTS;
}

size_t bb_walk_packed_size(const bb_conv_desc *desc, const bb_conv_route *route) {
    return (size_t)groups_of(desc, route) * (size_t)blocks_of(desc, route) * route->block_bytes;
}

void bb_walk_pack(const bb_conv_desc *desc, const bb_conv_route *route, const int16_t *weights,
                  void *dst, bb_put_fn put) {
    const int32_t channels = desc->out_channels / groups_of(desc, route);
    const int32_t n = bb_route_length(desc, route);
    const size_t blocks = (size_t)blocks_of(desc, route);

    memset(dst, 0, bb_walk_packed_size(desc, route));
    for (int32_t c = 0; c < desc->out_channels; c++) {
        const int32_t within = c % channels;
        const size_t index =
            (size_t)(c / channels) * blocks + (size_t)(within / route->block_channels);
        uint8_t *block = (uint8_t *)dst + index * route->block_bytes;

        for (int32_t s = 0; s < route->segments; s++, weights += n)
            put(route, block, within % route->block_channels, s, weights, n);
    }
}

static int32_t ring_rows_of(const bb_conv_desc *desc, int32_t strip_rows) {
    return (strip_rows - 1) * desc->stride[0] + (desc->kernel[0] - 1) * desc->dilation[0] + 1;
}

/** Rows of a strip: enough pixels to fill tiles, all that fit where weights are large. */
static int32_t strip_rows_of(const bb_conv_desc *desc, const bb_conv_route *route,
                             size_t row_bytes) {
    const bool large = bb_route_large(desc, route);
    int32_t rows = large ? desc->out_height : bb_div_up(STRIP_PIXELS, desc->out_width);

    for (int32_t i = 0; !large && i < route->pixels; i++)
        if ((rows + i) * desc->out_width % route->pixels == 0) {
            rows += i;
            break;
        }
    rows = bb_min32(rows, desc->out_height);
    while (rows > 1 && (size_t)ring_rows_of(desc, rows) * row_bytes > RING_BYTES_MAX)
        rows--;
    return rows;
}

static bool needs_no_padding(const walk *w) {
    return w->desc->pad_begin[1] == 0 && w->columns <= w->desc->in_width;
}

static void set_geometry(walk *w, const bb_conv_desc *desc, const bb_conv_route *route) {
    w->desc = desc;
    w->route = route;
    w->columns =
        (desc->out_width - 1) * desc->stride[1] + (desc->kernel[1] - 1) * desc->dilation[1] + 1;
    w->groups = groups_of(desc, route);
    w->pixel_bytes = route->group_bytes * (size_t)w->groups;
    w->parts = route->parts > 1 ? (size_t)route->parts : 1;
    w->part_bytes = bb_round64((size_t)w->columns * w->pixel_bytes + SLACK);
    w->row_bytes = w->parts * w->part_bytes;
    w->window_bytes = (route->segment_bytes + 3) / 4 * 4;
    w->by_tap = route->segments == desc->kernel[0] * desc->kernel[1];
    w->in_place = route->in_place && (w->by_tap || needs_no_padding(w));
    w->strip_rows = strip_rows_of(desc, route, w->row_bytes);
    w->ring_rows = ring_rows_of(desc, w->strip_rows);
    w->group_channels = desc->out_channels / w->groups;
    w->blocks = blocks_of(desc, route);
}

/** Pixels whose sums go to the epilogue together. */
static int32_t chunk_pixels(const bb_conv_route *route) {
    const int32_t most =
        route->chunk_pixels > 0 ? bb_min32(route->chunk_pixels, CHUNK_PIXELS) : CHUNK_PIXELS;

    if (route->call_blocks > 0 || route->pixels > most)
        return route->pixels;
    return most / route->pixels * route->pixels;
}

static size_t sum_row_ints(const walk *w) {
    return (size_t)w->desc->out_width * (size_t)w->groups;
}

/** Pixels of a row that have the same column modulo the stride. */
static size_t phase_ints(const walk *w) {
    return (size_t)bb_div_up(w->columns, w->desc->stride[1]);
}

/** Lays out the scratch memory; returns its size. */
static size_t set_scratch(walk *w, uint8_t *base) {
    const size_t columns = (size_t)w->columns, slots = (size_t)w->ring_rows;
    const size_t sum_row = sum_row_ints(w) * sizeof(int32_t);
    const size_t pixels = (size_t)w->strip_rows * (size_t)w->desc->out_width;
    const size_t tiles = pixels / (size_t)w->route->pixels + 1;
    const size_t strip = (size_t)w->strip_rows * (size_t)w->desc->kernel[0];
    const size_t acc = w->route->call_blocks ? TILE_INTS * (size_t)w->route->call_blocks
                                             : (size_t)(CHUNK_PIXELS * BB_TILE_STRIDE);
    size_t used = 0;

    w->ring = bb_carve(base, &used, w->in_place ? 0 : slots * w->row_bytes);
    w->pad_row = bb_carve(base, &used, w->row_bytes);
    w->pad_codes = bb_carve(base, &used, (size_t)w->desc->in_channels + SLACK);
    w->pad_pixel = bb_carve(base, &used, w->parts * (bb_round64(w->pixel_bytes) + SLACK));
    if (w->route->wants_sums)
        w->window_sums = bb_carve(base, &used, (pixels + BB_TILE_PIXELS_MAX) * sizeof(int32_t));
    if (w->route->wants_sums && !w->route->gather) {
        w->ring_sums = bb_carve(base, &used, slots * sum_row);
        w->pad_sums = bb_carve(base, &used, sum_row);
        w->pad_pixel_sums = bb_carve(base, &used, (size_t)w->groups * sizeof(int32_t));
        w->pixel_sums = bb_carve(base, &used, columns * (size_t)w->groups * sizeof(int32_t));
        w->phases =
            bb_carve(base, &used, (size_t)w->desc->stride[1] * phase_ints(w) * sizeof(int32_t));
    }
    w->tags = bb_carve(base, &used, slots * sizeof(int32_t));
    w->rows = bb_carve(base, &used, strip * sizeof(*w->rows));
    w->row_sums = bb_carve(base, &used, strip * sizeof(*w->row_sums));
    w->windows = bb_carve(base, &used, w->route->gather ? pixels * w->window_bytes + SLACK : 0);
    w->ptr =
        bb_carve(base, &used,
                 tiles * (size_t)w->route->pixels * (size_t)w->route->segments * sizeof(*w->ptr));
    w->acc = bb_carve(base, &used, acc * sizeof(int32_t));
    w->work = bb_carve(base, &used, w->route->work_bytes);
    return used;
}

size_t bb_walk_scratch_size(const bb_conv_desc *desc, const bb_conv_route *route) {
    walk w = {0};

    set_geometry(&w, desc, route);
    return set_scratch(&w, NULL);
}

/** n > 0 copies of a piece one behind the other. */
static void repeat(void *dst, const void *piece, size_t bytes, size_t n) {
    uint8_t *to = dst;
    size_t done = bytes;

    memcpy(to, piece, bytes);
    while (done < n * bytes) {
        const size_t left = n * bytes - done, more = done < left ? done : left;

        memcpy(to + done, to, more);
        done += more;
    }
}

/** Copies the transformed padding pixel to n columns. */
static void fill_padding(const walk *w, uint8_t *row, int32_t *sums, int32_t column, int32_t n) {
    const size_t groups = (size_t)w->groups, first = (size_t)column;

    if (n <= 0)
        return;
    for (size_t part = 0; part < w->parts; part++)
        repeat(row + part * w->part_bytes + first * w->pixel_bytes,
               w->pad_pixel + part * (bb_round64(w->pixel_bytes) + SLACK), w->pixel_bytes,
               (size_t)n);
    if (sums)
        repeat(sums + first * groups, w->pad_pixel_sums, groups * sizeof(*sums), (size_t)n);
}

/** phases[r*phase_ints + i] = sum of pixel i*stride + r, so that the taps of neighbouring windows
 * lie side by side. */
static void split_phases(const walk *w, size_t group) {
    const size_t stride = (size_t)w->desc->stride[1], groups = (size_t)w->groups;
    const size_t columns = (size_t)w->columns;

    for (size_t r = 0; r < stride; r++) {
        int32_t *phase = w->phases + r * phase_ints(w);

        for (size_t x = r; x < columns; x += stride)
            *phase++ = w->pixel_sums[x * groups + group];
    }
}

/** From the sums of pixels of one row to those of the taps in this row of every window. */
static void sum_taps(const walk *w, int32_t *sums) {
    const bb_conv_desc *desc = w->desc;
    const size_t width = (size_t)desc->out_width, stride = (size_t)desc->stride[1];

    memset(sums, 0, sum_row_ints(w) * sizeof(*sums));
    for (size_t g = 0; g < (size_t)w->groups; g++, sums += width) {
        split_phases(w, g);
        for (int32_t kx = 0; kx < desc->kernel[1]; kx++) {
            const size_t at = (size_t)(kx * desc->dilation[1]);
            const int32_t *pixel = w->phases + at % stride * phase_ints(w) + at / stride;

            for (size_t x = 0; x < width; x++)
                sums[x] += pixel[x];
        }
    }
}

static void make_padding(walk *w) {
    memset(w->pad_codes, (int)w->desc->pad_code, (size_t)w->desc->in_channels);
    w->route->transform(w->desc, w->pad_codes, 1, w->pad_pixel, bb_round64(w->pixel_bytes) + SLACK,
                        w->pad_pixel_sums);
    fill_padding(w, w->pad_row, w->pixel_sums, 0, w->columns);
    if (w->pixel_sums)
        sum_taps(w, w->pad_sums);
}

/** Transforms input row iy into its slot, padding on both sides. */
static void transform_row(walk *w, int32_t iy, size_t slot) {
    const bb_conv_desc *desc = w->desc;
    const int32_t left = bb_min32(desc->pad_begin[1], w->columns);
    const int32_t n = bb_min32(desc->in_width, w->columns - left);
    const uint8_t *codes = w->in + (size_t)iy * (size_t)desc->in_width * (size_t)desc->in_channels;
    uint8_t *row = w->ring + slot * w->row_bytes;
    int32_t *sums = w->pixel_sums; /* NULL where none are wanted of pixels */

    fill_padding(w, row, sums, 0, left);
    w->route->transform(desc, codes, n, row + (size_t)left * w->pixel_bytes, w->part_bytes,
                        sums ? sums + (size_t)left * (size_t)w->groups : NULL);
    fill_padding(w, row, sums, left + n, w->columns - left - n);
    if (sums)
        sum_taps(w, w->ring_sums + slot * sum_row_ints(w));
}

/** The transformed row for input row iy and its sums. */
static const uint8_t *fetch_row(walk *w, int32_t iy, const int32_t **sums) {
    size_t slot;

    if (iy < 0 || iy >= w->desc->in_height) {
        *sums = w->pad_sums;
        return w->pad_row;
    }
    if (w->in_place) {
        *sums = NULL;
        return w->in + (size_t)iy * (size_t)w->desc->in_width * w->pixel_bytes;
    }
    slot = (size_t)(iy % w->ring_rows);
    if (w->tags[slot] != iy) {
        transform_row(w, iy, slot);
        w->tags[slot] = iy;
    }
    *sums = w->ring_sums ? w->ring_sums + slot * sum_row_ints(w) : NULL;
    return w->ring + slot * w->row_bytes;
}

static void fetch_strip(walk *w, int32_t y0, int32_t y1) {
    const bb_conv_desc *desc = w->desc;
    size_t i = 0;

    for (int32_t y = y0; y < y1; y++)
        for (int32_t ky = 0; ky < desc->kernel[0]; ky++, i++)
            w->rows[i] =
                fetch_row(w, y * desc->stride[0] + ky * desc->dilation[0] - desc->pad_begin[0],
                          &w->row_sums[i]);
}

/** Sums of all codes under the window, for every pixel of the strip. */
static void sum_windows(walk *w, int32_t n_rows, int32_t group) {
    const size_t width = (size_t)w->desc->out_width;
    const int32_t *const *rows = w->row_sums;
    int32_t *out = w->window_sums;

    memset(out, 0, sizeof(*out) * ((size_t)n_rows * width + BB_TILE_PIXELS_MAX));
    for (int32_t y = 0; y < n_rows; y++, out += width)
        for (int32_t ky = 0; ky < w->desc->kernel[0]; ky++) {
            const int32_t *row = *rows++ + (size_t)group * width;

            for (size_t x = 0; x < width; x++)
                out[x] += row[x];
        }
}

/** Pointers of n pixels of one tile and output row, the first one's window at byte `begin` of the
 *  rows and the others' `step` bytes apart: ptr[segment * pixels + pixel]. */
static void point_run(const walk *w, const uint8_t *const *rows, size_t begin, size_t step,
                      int32_t n, const uint8_t **ptr) {
    const int32_t per_row = w->route->segments / w->desc->kernel[0];
    const size_t tap = (size_t)w->desc->dilation[1] * w->pixel_bytes;
    const ptrdiff_t pixels = w->route->pixels;

    for (int32_t ky = 0; ky < w->desc->kernel[0]; ky++) {
        const uint8_t *at = rows[ky] + begin;

        for (int32_t i = 0; i < per_row; i++, at += tap, ptr += pixels)
            for (size_t p = 0; p < (size_t)n; p++)
                ptr[p] = at + p * step;
    }
}

/** As point_run of one pixel, for input rows used in place: taps beside the image point to padding.
 */
static void point_taps(const walk *w, const uint8_t *const *rows, int32_t x, int32_t group,
                       const uint8_t **ptr) {
    const bb_conv_desc *desc = w->desc;
    const ptrdiff_t pixels = w->route->pixels;
    const size_t begin = (size_t)group * w->route->group_bytes;

    for (int32_t ky = 0; ky < desc->kernel[0]; ky++)
        for (int32_t kx = 0; kx < desc->kernel[1]; kx++, ptr += pixels) {
            const int32_t ix = x * desc->stride[1] + kx * desc->dilation[1] - desc->pad_begin[1];
            const bool inside = ix >= 0 && ix < desc->in_width && rows[ky] != w->pad_row;

            *ptr = begin + (inside ? rows[ky] + (size_t)ix * w->pixel_bytes : w->pad_row);
        }
}

/** Repeats the last pixel's pointers to the end of its tile. */
static void fill_tile(const walk *w, const uint8_t **tile, int32_t used) {
    const int32_t pixels = w->route->pixels;

    for (int32_t s = 0; s < w->route->segments; s++, tile += pixels)
        for (int32_t p = used; p < pixels; p++)
            tile[p] = tile[used - 1];
}

/** Pointers of n pixels from column x on, in one tile. */
static void point_pixels(const walk *w, const uint8_t *const *rows, int32_t x, int32_t n,
                         int32_t group, const uint8_t **ptr) {
    const size_t step = (size_t)w->desc->stride[1] * w->pixel_bytes;

    if (w->in_place && !needs_no_padding(w))
        for (int32_t p = 0; p < n; p++)
            point_taps(w, rows, x + p, group, ptr + p);
    else
        point_run(w, rows, (size_t)group * w->route->group_bytes + (size_t)x * step, step, n, ptr);
}

/** All pointers of a strip: [tile][segment][pixel]. */
static void point_strip(walk *w, int32_t n_rows, int32_t group) {
    const int32_t pixels = w->route->pixels, width = w->desc->out_width;
    const size_t tile_pointers = (size_t)w->route->segments * (size_t)pixels;
    const uint8_t **tile = w->ptr;
    int32_t p = 0;

    for (int32_t y = 0; y < n_rows; y++)
        for (int32_t x = 0; x < width;) {
            const int32_t n = bb_min32(pixels - p, width - x);

            point_pixels(w, w->rows + (size_t)y * (size_t)w->desc->kernel[0], x, n, group,
                         tile + p);
            x += n;
            p += n;
            if (p == pixels) {
                tile += tile_pointers;
                p = 0;
            }
        }
    if (p > 0)
        fill_tile(w, tile, p);
}

/** The windows of a strip, gathered, and their pointers: [tile][pixel]. */
static void gather_strip(walk *w, int32_t n_rows) {
    const bb_conv_desc *desc = w->desc;
    const size_t bytes = w->route->group_bytes * (size_t)desc->kernel[1];
    const size_t step = (size_t)desc->stride[1] * w->pixel_bytes;
    uint8_t *window = w->windows;
    const uint8_t **ptr = w->ptr;

    for (int32_t y = 0; y < n_rows; y++) {
        w->route->gather(w->rows + (size_t)y * (size_t)desc->kernel[0], desc->kernel[0], step,
                         bytes, desc->out_width, window, w->window_bytes);
        for (int32_t x = 0; x < desc->out_width; x++, window += w->window_bytes)
            *ptr++ = window;
    }
    for (; (ptr - w->ptr) % w->route->pixels != 0; ptr++)
        *ptr = ptr[-1];
    if (w->route->wants_sums)
        w->route->sum_windows(w->windows, w->window_bytes, bb_route_length(desc, w->route),
                              n_rows * desc->out_width, w->window_sums);
}

/** Hands a tile to the epilogue; it may go on in the next rows. */
static void emit(const walk *w, int32_t y0, int32_t q, int32_t n, int32_t c0, int32_t n_channels,
                 const int32_t *acc) {
    const int32_t width = w->desc->out_width, y = q / width;

    w->tile(w->user, y0 + y, q - y * width, n, c0, n_channels, acc, BB_TILE_STRIDE);
}

/** Blocks that are taken in one round over the tiles, where rounds are outside. */
static int32_t round_blocks(const walk *w) {
    return w->route->call_blocks > 0 ? w->route->call_blocks
                                     : BB_TILE_STRIDE / w->route->block_channels;
}

/**
 * What tile q of a strip should prefetch while it computes from a block on: of the blocks that the
 * next round over the tiles takes a share of its own, so that all have come by then.
 */
static const uint8_t *next_weights(const walk *w, int32_t q, int32_t block) {
    return w->packed + (size_t)(block + round_blocks(w)) * w->route->block_bytes +
           w->pixel_share * (size_t)q;
}

static bb_tile_job tile_job(const walk *w, int32_t q, int32_t n_pixels, int32_t group, int32_t b) {
    const bb_conv_route *route = w->route;

    return (bb_tile_job){
        .route = route,
        .ptr = w->ptr + (size_t)q * (size_t)route->segments,
        .weights = w->packed + (size_t)(group * w->blocks + b) * route->block_bytes,
        .next = next_weights(w, q, group * w->blocks + b),
        .sums = route->wants_sums ? w->window_sums + q : NULL,
        .n_pixels = bb_min32(route->pixels, n_pixels - q),
        .channel = b * route->block_channels,
        .n_blocks = 1,
        .acc = w->acc,
        .part_bytes = w->part_bytes,
        .work = w->work,
    };
}

/** Channels of the group from block b on, at most n blocks. */
static int32_t channels_of(const walk *w, int32_t b, int32_t n) {
    const int32_t block = w->route->block_channels;

    return bb_min32(n * block, w->group_channels - b * block);
}

/** The blocks of up to BB_TILE_STRIDE channels of one tile. */
static void compute_tile(const bb_conv_route *route, bb_tile_job *job, int32_t n_blocks) {
    if (route->joined) {
        job->n_blocks = n_blocks;
        route->block(job);
        return;
    }
    for (int32_t i = 0; i < n_blocks; i++) {
        route->block(job);
        job->weights += route->block_bytes;
        job->acc += route->block_channels;
        job->channel += route->block_channels;
    }
}

/** Up to BB_TILE_STRIDE channels, from block b of the group, of a chunk of tiles. */
static void run_tiles(const walk *w, int32_t y0, int32_t q, int32_t n_pixels, int32_t group,
                      int32_t b) {
    const bb_conv_route *route = w->route;
    const int32_t n = bb_min32(w->blocks - b, BB_TILE_STRIDE / route->block_channels);
    const int32_t end = bb_min32(q + chunk_pixels(route), n_pixels);

    for (int32_t i = q; i < end; i += route->pixels) {
        bb_tile_job job = tile_job(w, i, n_pixels, group, b);

        job.acc += (ptrdiff_t)(i - q) * BB_TILE_STRIDE;
        compute_tile(route, &job, n);
    }
    emit(w, y0, q, end - q, group * w->group_channels + b * route->block_channels,
         channels_of(w, b, n), w->acc);
}

/** As run_tiles, for routes that take many blocks of one tile in one call. */
static void run_tile_blocks(const walk *w, int32_t y0, int32_t q, int32_t n_pixels, int32_t group,
                            int32_t b) {
    bb_tile_job job = tile_job(w, q, n_pixels, group, b);

    job.n_blocks = bb_min32(w->blocks - b, w->route->call_blocks);
    w->route->block(&job);
    for (int32_t i = 0; i < job.n_blocks; i++)
        emit(w, y0, q, job.n_pixels, group * w->group_channels + (b + i) * BB_TILE_STRIDE,
             channels_of(w, b + i, 1), w->acc + (size_t)i * TILE_INTS);
}

/** Tiles outside, weights streaming past them; the other way round where weights are large. */
static void run_group(const walk *w, int32_t y0, int32_t n_pixels, int32_t group) {
    void (*const run)(const walk *w, int32_t y0, int32_t q, int32_t n_pixels, int32_t group,
                      int32_t b) = w->route->call_blocks > 0 ? run_tile_blocks : run_tiles;
    const int32_t step = round_blocks(w), pixels = chunk_pixels(w->route);

    if (bb_route_large(w->desc, w->route)) {
        for (int32_t b = 0; b < w->blocks; b += step)
            for (int32_t q = 0; q < n_pixels; q += pixels)
                run(w, y0, q, n_pixels, group, b);
    } else {
        for (int32_t q = 0; q < n_pixels; q += pixels)
            for (int32_t b = 0; b < w->blocks; b += step)
                run(w, y0, q, n_pixels, group, b);
    }
}

void bb_walk_run(const bb_conv_desc *desc, const bb_conv_route *route, const void *packed,
                 const uint8_t *in, int32_t y0, int32_t y1, void *scratch, bb_tile_fn tile,
                 void *user) {
    walk w = {0};

    set_geometry(&w, desc, route);
    set_scratch(&w, scratch);
    w.in = in;
    w.packed = packed;
    w.tile = tile;
    w.user = user;
    for (int32_t i = 0; i < w.ring_rows; i++)
        w.tags[i] = -1;
    make_padding(&w);
    if (route->prepare)
        route->prepare(route, w.work);
    for (int32_t y = y0; y < y1; y += w.strip_rows) {
        const int32_t end = bb_min32(y + w.strip_rows, y1);

        w.pixel_share = (size_t)round_blocks(&w) * route->block_bytes /
                        ((size_t)(end - y) * (size_t)desc->out_width);
        fetch_strip(&w, y, end);
        for (int32_t g = 0; g < w.groups; g++) {
            if (route->gather)
                gather_strip(&w, end - y);
            else
                point_strip(&w, end - y, g);
            if (route->wants_sums && !route->gather)
                sum_windows(&w, end - y, g);
            run_group(&w, y, (end - y) * desc->out_width, g);
        }
    }
}
