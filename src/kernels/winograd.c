/* SPDX-License-Identifier: Apache-2.0 */
/** @file winograd.c  The frame of the Winograd kernels: what winograd.h describes. */
#include "kernels/winograd.h"

#include <string.h>

enum {
    POSITIONS = BB_WINOGRAD_POSITIONS,
    CHANNELS = BB_WINOGRAD_CHANNELS,
    STEP = BB_WINOGRAD_STEP,
    TILE_PIXELS = 2 * BB_WINOGRAD_TILE_MAX,
    STRIP_BLOCKS = 48,        /**< at least, so that the last tile of a strip wastes little */
    STRIP_BYTES = 256 * 1024, /**< of transformed blocks, to stay in the second-level cache */
    L2_WEIGHTS = 256 * 1024,  /**< beyond, a strip is as large as fits */
    ROWS = 4                  /**< input rows of a row of blocks */
};

static int32_t div_up(int32_t a, int32_t b) {
    return (a + b - 1) / b;
}

static int32_t min32(int32_t a, int32_t b) {
    return a < b ? a : b;
}

static size_t round64(size_t n) {
    return (n + 63) / 64 * 64;
}

/** Largest transformed code: 4A. */
static int32_t code_span(const bb_conv_desc *desc) {
    return 4 * ((1 << desc->activation_bits) - 1);
}

static bool is_halved(const bb_conv_desc *desc) {
    return 9 * desc->max_weight > 127;
}

/** Largest |v| of a stored weight. */
static int32_t weight_max(const bb_conv_desc *desc) {
    return is_halved(desc) ? (9 * desc->max_weight + 1) / 2 : 9 * desc->max_weight;
}

static bool is_plain_3x3(const bb_conv_desc *desc) {
    for (int a = 0; a < 2; a++)
        if (desc->kernel[a] != 3 || desc->stride[a] != 1 || desc->dilation[a] != 1)
            return false;
    return desc->groups == 1;
}

/** Two products fit 16 bits, and 4 |y| <= 36 A W channels fits 32. */
bool bb_winograd_supports(const bb_conv_desc *desc, const bb_winograd_set *set) {
    const double sum = 9.0 * code_span(desc) * desc->max_weight * desc->in_channels;

    return is_plain_3x3(desc) && desc->activation_bits <= 6 && 9 * desc->max_weight <= 255 &&
           (set->wide || 2 * code_span(desc) * weight_max(desc) <= 32767) && sum < 2147483647.0 &&
           desc->in_channels <= 32768;
}

static int32_t strip_rows_of(const bb_winograd *w) {
    const bb_conv_desc *desc = w->desc;
    const size_t weights =
        (size_t)div_up(desc->out_channels, CHANNELS) * (size_t)(POSITIONS * w->steps) * STEP;
    const int32_t all = div_up(desc->out_height, 2);
    int32_t rows = weights > L2_WEIGHTS ? all : div_up(STRIP_BLOCKS, w->blocks_wide);

    while (rows > 1 && (size_t)(rows * w->blocks_wide) * w->block_bytes > STRIP_BYTES)
        rows--;
    for (int32_t i = 0; i < w->tile && rows < all; i++)
        if ((rows + i) * w->blocks_wide % w->tile == 0)
            return min32(rows + i, all);
    return min32(rows, all);
}

bb_winograd bb_winograd_layout(const bb_conv_desc *desc, const bb_winograd_set *set) {
    const int32_t pair = 2 * code_span(desc) * (desc->max_weight > 0 ? weight_max(desc) : 1);
    bb_winograd w = {.desc = desc,
                     .tile = set->tile,
                     .blocks_wide = div_up(desc->out_width, 2),
                     .steps = div_up(desc->in_channels, 4),
                     .halved = is_halved(desc)};

    w.columns = 2 * w.blocks_wide + 2;
    w.position_bytes = (size_t)div_up(desc->in_channels, 32) * 32;
    /* Not a multiple of 4096, so that the blocks of a tile lie in different sets of the cache. */
    w.block_bytes = POSITIONS * w.position_bytes + 64;
    w.max_chunks = POSITIONS * (set->wide ? 1 : div_up(w.steps, 32767 / pair)) + 1;
    w.packed_bytes = (size_t)(POSITIONS * w.steps) * STEP + sizeof(bb_winograd_constants) +
                     round64((size_t)w.max_chunks * sizeof(bb_winograd_chunk));
    w.strip_rows = strip_rows_of(&w);
    return w;
}

size_t bb_winograd_packed_size(const bb_conv_desc *desc, const bb_winograd_set *set) {
    const bb_winograd w = bb_winograd_layout(desc, set);

    return (size_t)div_up(desc->out_channels, CHANNELS) * w.packed_bytes;
}

static bb_winograd_constants *constants_of(const bb_winograd *w, uint8_t *packed) {
    return (bb_winograd_constants *)(void *)(packed + (size_t)(POSITIONS * w->steps) * STEP);
}

/** V of one dimension: three weights to four. */
static void transform_weights(const int32_t g[3], int32_t v[4]) {
    v[0] = g[0];
    v[1] = g[0] + g[1] + g[2];
    v[2] = g[0] - g[1] + g[2];
    v[3] = g[2];
}

/** Twice the two outputs of one dimension. */
static void combine_products(const int32_t m[4], int32_t y[2]) {
    y[0] = 2 * m[0] + m[1] + m[2];
    y[1] = m[1] - m[2] - 2 * m[3];
}

/** The 16 V of one channel pair; w: nine weights, `depth` apart. */
static void transform_window(const int16_t *w, size_t depth, int32_t v[POSITIONS]) {
    int32_t rows[3][4];

    for (size_t r = 0; r < 3; r++)
        transform_weights(
            (const int32_t[]){w[3 * r * depth], w[(3 * r + 1) * depth], w[(3 * r + 2) * depth]},
            rows[r]);
    for (int c = 0; c < 4; c++) {
        int32_t column[4];

        transform_weights((const int32_t[]){rows[0][c], rows[1][c], rows[2][c]}, column);
        for (int r = 0; r < 4; r++)
            v[4 * r + c] = column[r];
    }
}

/** Added to a transformed code to make it a byte: not needed where both dimensions add. */
static int32_t code_offset(const bb_conv_desc *desc, int32_t position) {
    return position == 5 ? 0 : code_span(desc) / 2;
}

/** What the offsets put into the combination of products, with the other sign. */
static void set_constants(const bb_winograd *w, const int32_t sums[POSITIONS], int32_t lane,
                          bb_winograd_constants *constants) {
    int32_t rows[2][4];

    for (int c = 0; c < 4; c++) {
        int32_t m[4], y[2];

        for (int r = 0; r < 4; r++)
            m[r] = -code_offset(w->desc, 4 * r + c) * sums[4 * r + c];
        combine_products(m, y);
        rows[0][c] = y[0];
        rows[1][c] = y[1];
    }
    for (int r = 0; r < 2; r++) {
        int32_t y[2];

        combine_products(rows[r], y);
        constants->add[2 * r][lane] = y[0];
        constants->add[2 * r + 1][lane] = y[1];
    }
}

/** Weights of one output channel into its lane. */
static void pack_channel(const bb_winograd *w, const int16_t *weights, int32_t lane,
                         uint8_t *packed) {
    const int32_t depth = w->desc->in_channels;
    bb_winograd_constants *constants = constants_of(w, packed);
    int32_t sums[POSITIONS] = {0};

    for (int32_t d = 0; d < depth; d++) {
        int32_t v[POSITIONS];

        transform_window(weights + d, (size_t)depth, v);
        for (int32_t p = 0; p < POSITIONS; p++) {
            const int32_t stored = w->halved ? (v[p] - (v[p] & 1)) / 2 : v[p];

            packed[(size_t)(p * w->steps + d / 4) * STEP + (size_t)(lane * 4 + d % 4)] =
                (uint8_t)stored;
            sums[p] += stored;
        }
    }
    constants->parity[lane] = w->halved && (weights[0] & 1) ? -1 : 0;
    set_constants(w, sums, lane, constants);
}

/** Running bounds of the 16-bit sums: two for each channel, above and below zero. */
typedef struct bounds {
    int32_t above[2 * CHANNELS], below[2 * CHANNELS];
} bounds;

/** Adds a step; false (and nothing done) if a sum could then leave 16 bits. */
static bool bounds_take(bounds *b, const uint8_t *step, int32_t span) {
    bounds next = *b;

    for (int i = 0; i < 2 * CHANNELS; i++)
        for (int j = 0; j < 2; j++) {
            const int32_t v = (int8_t)step[2 * i + j];

            next.above[i] += v > 0 ? v * span : 0;
            next.below[i] -= v < 0 ? v * span : 0;
            if (next.above[i] > 32767 || next.below[i] > 32767)
                return false;
        }
    *b = next;
    return true;
}

/** Steps from step on whose products 16-bit sums hold, whatever the codes: of the weights present.
 */
static int32_t exact_steps(const uint8_t *step, int32_t n, int32_t span) {
    bounds b = {{0}, {0}};
    int32_t i = 0;

    while (i < n && bounds_take(&b, step + (size_t)i * STEP, span))
        i++;
    return i;
}

static void pack_chunks(const bb_winograd *w, bool wide, uint8_t *packed) {
    const int32_t span = code_span(w->desc);
    bb_winograd_chunk *chunk = (void *)(constants_of(w, packed) + 1);
    bool first = true; /* the chunk before is the first of its position */

    for (int32_t p = 0; p < POSITIONS; p++) {
        const uint8_t *step = packed + (size_t)(p * w->steps) * STEP;

        for (int32_t i = 0; i < w->steps; i += chunk->steps, chunk++) {
            const int32_t left = w->steps - i;
            const int32_t n = wide ? left : exact_steps(step + (size_t)i * STEP, left, span);

            *chunk = (bb_winograd_chunk){.steps = (uint16_t)n, .add = !first};
            if (i == 0 && p > 0) {
                chunk->advance = 1;
                chunk->skip = (uint16_t)(w->position_bytes - 4 * (size_t)w->steps);
            }
            first = i == 0;
        }
    }
    *chunk = (bb_winograd_chunk){.add = !first};
}

void bb_winograd_pack(const bb_conv_desc *desc, const bb_winograd_set *set, const int16_t *weights,
                      void *dst) {
    const bb_winograd w = bb_winograd_layout(desc, set);
    const size_t row = 9 * (size_t)desc->in_channels;
    const int32_t packs = div_up(desc->out_channels, CHANNELS);

    memset(dst, 0, bb_winograd_packed_size(desc, set));
    for (int32_t c = 0; c < desc->out_channels; c++)
        pack_channel(&w, weights + (size_t)c * row, c % CHANNELS,
                     (uint8_t *)dst + (size_t)(c / CHANNELS) * w.packed_bytes);
    for (int32_t i = 0; i < packs; i++)
        pack_chunks(&w, set->wide, (uint8_t *)dst + (size_t)i * w.packed_bytes);
}

/** A run: its memory and what it was called with. */
typedef struct winograd_run {
    bb_winograd layout;
    const bb_winograd_set *set;
    const uint8_t *packed, *in;
    bb_tile_fn tile;
    void *user;
    int32_t y0, y1;
    uint8_t *row[ROWS], *pad_row; /**< padded input rows, by number modulo ROWS */
    int32_t *sums[ROWS], *pad_sums;
    int32_t in_row[ROWS]; /**< input row in each slot */
    uint8_t *blocks;
    int32_t *corners, *products, *acc;
} winograd_run;

static void *carve(uint8_t *base, size_t *used, size_t bytes) {
    void *piece = base ? base + *used : NULL;

    *used += round64(bytes);
    return piece;
}

static size_t set_scratch(winograd_run *r, uint8_t *base) {
    const bb_winograd *w = &r->layout;
    const size_t row = (size_t)w->columns * (size_t)w->desc->in_channels + BB_WINOGRAD_READ_PAST;
    const size_t sums = w->halved ? (size_t)w->columns * sizeof(int32_t) : 0;
    const size_t blocks = (size_t)(w->strip_rows * w->blocks_wide + w->tile);
    size_t used = 0;

    for (int i = 0; i < ROWS; i++) {
        r->row[i] = carve(base, &used, row);
        r->sums[i] = carve(base, &used, sums);
    }
    r->pad_row = carve(base, &used, row);
    r->pad_sums = carve(base, &used, sums);
    r->blocks = carve(base, &used, blocks * w->block_bytes + BB_WINOGRAD_READ_PAST);
    r->corners = carve(base, &used, w->halved ? blocks * 4 * sizeof(int32_t) : 0);
    r->products = carve(base, &used, sizeof(int32_t) * (size_t)(POSITIONS * w->tile * CHANNELS));
    r->acc = carve(base, &used, sizeof(int32_t) * 2 * TILE_PIXELS * BB_TILE_STRIDE);
    return used;
}

size_t bb_winograd_scratch_size(const bb_conv_desc *desc, const bb_winograd_set *set) {
    winograd_run r = {.layout = bb_winograd_layout(desc, set)};

    return set_scratch(&r, NULL);
}

/** Copies input row iy between its paddings; all padding where iy lies outside. */
static void fill_row(const winograd_run *r, int32_t iy, uint8_t *row, int32_t *sums) {
    const bb_winograd *w = &r->layout;
    const bb_conv_desc *desc = w->desc;
    const size_t depth = (size_t)desc->in_channels;
    const bool inside = iy >= 0 && iy < desc->in_height;
    const int32_t left = inside ? min32(desc->pad_begin[1], w->columns) : w->columns;
    const int32_t n = inside ? min32(desc->in_width, w->columns - left) : 0;

    memset(row, (int)desc->pad_code, (size_t)left * depth);
    if (n > 0)
        memcpy(row + (size_t)left * depth, r->in + (size_t)iy * (size_t)desc->in_width * depth,
               (size_t)n * depth);
    memset(row + (size_t)(left + n) * depth, (int)desc->pad_code,
           (size_t)(w->columns - left - n) * depth);
    if (w->halved)
        r->set->sum(desc, row, w->columns, sums);
}

/** Padded row iy and its channel sums. */
static const uint8_t *fetch_row(winograd_run *r, int32_t iy, const int32_t **sums) {
    const int32_t slot = iy & (ROWS - 1);

    if (iy < 0 || iy >= r->layout.desc->in_height) {
        *sums = r->pad_sums;
        return r->pad_row;
    }
    if (r->in_row[slot] != iy) {
        fill_row(r, iy, r->row[slot], r->sums[slot]);
        r->in_row[slot] = iy;
    }
    *sums = r->sums[slot];
    return r->row[slot];
}

/** Transforms the blocks of output rows y and y+1. */
static void transform_blocks(winograd_run *r, int32_t y, int32_t first) {
    const bb_winograd *w = &r->layout;
    const uint8_t *rows[ROWS];
    const int32_t *sums[ROWS];
    int32_t *corner = r->corners + (ptrdiff_t)first * 4;

    for (int32_t i = 0; i < ROWS; i++)
        rows[i] = fetch_row(r, y + i - w->desc->pad_begin[0], &sums[i]);
    r->set->transform(w, rows, w->blocks_wide, r->blocks + (size_t)first * w->block_bytes);
    if (!w->halved)
        return;
    for (int32_t i = 0; i < w->blocks_wide; i++, corner += 4) {
        corner[0] = sums[0][2 * i];
        corner[1] = sums[0][2 * i + 3];
        corner[2] = sums[3][2 * i];
        corner[3] = sums[3][2 * i + 3];
    }
}

/** Hands n blocks from `first` of the strip to the epilogue, row by row. */
static void emit(const winograd_run *r, int32_t y, int32_t first, int32_t n, int32_t c0,
                 int32_t n_channels) {
    const int32_t wide = r->layout.blocks_wide;

    for (int32_t done = 0; done < n;) {
        const int32_t at = first + done, x = at % wide * 2;
        const int32_t take = min32(n - done, wide - at % wide);
        const int32_t pixels = min32(2 * take, r->layout.desc->out_width - x);
        const int32_t top = y + at / wide * 2;

        for (int32_t i = 0; i < 2 && top + i < r->y1; i++)
            r->tile(r->user, top + i, x, pixels, c0, n_channels,
                    r->acc + (ptrdiff_t)(i * TILE_PIXELS + 2 * done) * BB_TILE_STRIDE,
                    BB_TILE_STRIDE);
        done += take;
    }
}

/** One tile of blocks and up to BB_TILE_STRIDE channels from c0. */
static void run_tile(const winograd_run *r, int32_t y, int32_t first, int32_t n, int32_t c0) {
    const bb_winograd *w = &r->layout;
    const int32_t channels = min32(w->desc->out_channels - c0, BB_TILE_STRIDE);
    const uint8_t *packed = r->packed + (size_t)(c0 / CHANNELS) * w->packed_bytes;
    bb_winograd_tile tile = {.layout = w,
                             .blocks = r->blocks + (size_t)first * w->block_bytes,
                             .corners = r->corners + (ptrdiff_t)first * 4,
                             .n_blocks = n,
                             .products = r->products,
                             .acc = r->acc};

    for (int32_t c = 0; c < channels; c += CHANNELS, packed += w->packed_bytes) {
        tile.weights = packed;
        tile.constants = (const void *)(packed + (size_t)(POSITIONS * w->steps) * STEP);
        tile.chunks = (const void *)(tile.constants + 1);
        r->set->multiply(&tile);
        r->set->combine(&tile);
        tile.acc += CHANNELS;
    }
    emit(r, y, first, n, c0, channels);
}

void bb_winograd_run(const bb_conv_desc *desc, const bb_winograd_set *set, const void *packed,
                     const uint8_t *in, int32_t y0, int32_t y1, void *scratch, bb_tile_fn tile,
                     void *user) {
    winograd_run r = {.layout = bb_winograd_layout(desc, set),
                      .set = set,
                      .packed = packed,
                      .in = in,
                      .tile = tile,
                      .user = user,
                      .y0 = y0,
                      .y1 = y1,
                      .in_row = {-1, -1, -1, -1}};
    const bb_winograd *w = &r.layout;

    set_scratch(&r, scratch);
    fill_row(&r, -1, r.pad_row, r.pad_sums);
    for (int32_t y = y0; y < y1; y += 2 * w->strip_rows) {
        const int32_t rows = min32(w->strip_rows, div_up(y1 - y, 2));
        const int32_t blocks = rows * w->blocks_wide;

        for (int32_t i = 0; i < rows; i++)
            transform_blocks(&r, y + 2 * i, i * w->blocks_wide);
        for (int32_t c = 0; c < desc->out_channels; c += BB_TILE_STRIDE)
            for (int32_t b = 0; b < blocks; b += w->tile)
                run_tile(&r, y, b, min32(w->tile, blocks - b), c);
    }
}
