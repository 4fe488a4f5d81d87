/* SPDX-License-Identifier: Apache-2.0 */
/** @file minimal.c  Strips of tiles: what minimal.h describes. */
#include "kernels/minimal.h"
#include "kernels/layout.h"

#include <string.h>

enum {
    SLACK = 64,        /**< transforms may pass the end of a row */
    STRIP_TILES = 24,  /**< at least: so often the weights of a point are used before the next */
    MEMORY = 1 << 18,  /**< bytes of products or codes that a strip should not exceed */
    CHUNK_PIXELS = 28, /**< of one row, handed to the epilogue together */
    L1_WEIGHTS = 20 * 1024, /**< with codes beside them */
    L3_BYTES = 12,          /**< per cycle, beside the products */
    DEPTH_MAX = 32768       /**< see supports: sums of a point stay below 2^15 * 255 * 128 < 2^31 */
};

/* D = 4, 36 and 16. At m = 2 the outer points' factor 2 is left to the output, for small weights.
 */
static const bb_minimal_form forms[] = {
    {.outputs = 2,
     .patch = 4,
     .points = 4,
     .input = {{1, 0, -1, 0}, {0, 1, 1, 0}, {0, -1, 1, 0}, {0, 1, 0, -1}},
     .weight = {{1, 0, 0}, {1, 1, 1}, {1, -1, 1}, {0, 0, 1}}},
    {.outputs = 3,
     .patch = 5,
     .points = 5,
     .input = {{2, -1, -2, 1, 0},
               {0, -2, -1, 1, 0},
               {0, 2, -3, 1, 0},
               {0, -1, 0, 1, 0},
               {0, 2, -1, -2, 1}},
     .weight = {{3, 0, 0}, {1, 1, 1}, {1, -1, 1}, {1, 2, 4}, {0, 0, 6}}},
    {.outputs = 4,
     .patch = 6,
     .points = 7,
     .input = {{1, 0, 0, 0, -1, 0},
               {0, -1, 0, 0, 0, 1},
               {0, 1, 1, 1, 1, 0},
               {0, -1, 1, -1, 1, 0},
               {0, -1, -1, 1, 1, 0},
               {0, -1, 1, 1, -1, 0},
               {0, 1, 0, -1, 0, 0}},
     .weight = {{4, 0, 0}, {0, 0, 4}, {1, 1, 1}, {1, -1, 1}, {2, 0, -2}, {0, 2, 0}, {1, 1, -1}}},
};

/* ---- choice of form ---- */

static int32_t largest_code(const bb_conv_desc *desc) {
    return (1 << desc->activation_bits) - 1;
}

/** Sums of the magnitudes of positive and of negative coefficients. */
typedef struct growth {
    int32_t positive, negative;
} growth;

static growth growth_of(const int8_t *row, int32_t n) {
    growth g = {0, 0};

    for (int32_t i = 0; i < n; i++) {
        g.positive += row[i] > 0 ? row[i] : 0;
        g.negative -= row[i] < 0 ? row[i] : 0;
    }
    return g;
}

/** Of the products of two rows' coefficients. */
static growth growth_of_both(growth y, growth x) {
    return (growth){y.positive * x.positive + y.negative * x.negative,
                    y.positive * x.negative + y.negative * x.positive};
}

/** True where the codes of every point have at most 256 values. */
static bool codes_fit(const bb_minimal_form *form, const bb_conv_desc *desc) {
    growth axis[BB_MINIMAL_AXIS];

    for (int32_t i = 0; i < form->points; i++)
        axis[i] = growth_of(form->input[i], form->patch);
    for (int32_t y = 0; y < form->points; y++)
        for (int32_t x = 0; x < form->points; x++) {
            const growth g = growth_of_both(axis[y], axis[x]);

            if ((g.positive + g.negative) * largest_code(desc) > 255)
                return false;
        }
    return true;
}

/** True where weights of lowest..highest stay signed bytes at every point. */
static bool weights_fit(const bb_minimal_form *form, int32_t lowest, int32_t highest) {
    growth axis[BB_MINIMAL_AXIS];

    for (int32_t i = 0; i < form->points; i++)
        axis[i] = growth_of(form->weight[i], 3);
    for (int32_t y = 0; y < form->points; y++)
        for (int32_t x = 0; x < form->points; x++) {
            const growth g = growth_of_both(axis[y], axis[x]);

            if (g.positive * highest - g.negative * lowest > 127 ||
                g.positive * lowest - g.negative * highest < -128)
                return false;
        }
    return true;
}

static bool fits_whole(const bb_minimal_form *form, const bb_conv_desc *desc) {
    return desc->max_weight <= 127 && weights_fit(form, -desc->max_weight, desc->max_weight);
}

/** The same for floor(w/2). */
static bool fits_halved(const bb_minimal_form *form, const bb_conv_desc *desc) {
    return desc->max_weight <= 255 &&
           weights_fit(form, -((desc->max_weight + 1) / 2), desc->max_weight / 2);
}

/** Values of a transformed code, less one. */
static int32_t code_span(const bb_minimal_form *form, const bb_conv_desc *desc, int32_t y,
                         int32_t x) {
    const growth g = growth_of_both(growth_of(form->input[y], form->patch),
                                    growth_of(form->input[x], form->patch));

    return (g.positive + g.negative) * largest_code(desc);
}

/** Largest magnitude of a weight before it is transformed. */
static int32_t stored_max(const bb_minimal_form *form, const bb_conv_desc *desc) {
    return fits_whole(form, desc) ? desc->max_weight : (desc->max_weight + 1) / 2;
}

/** True where any two products together fit 16 bits. */
static bool pairs_fit(const bb_minimal_form *form, const bb_conv_desc *desc) {
    for (int32_t y = 0; y < form->points; y++)
        for (int32_t x = 0; x < form->points; x++) {
            const growth g =
                growth_of_both(growth_of(form->weight[y], 3), growth_of(form->weight[x], 3));
            const int32_t weight = (g.positive + g.negative) * stored_max(form, desc);

            if (2 * code_span(form, desc, y, x) * weight > 32767)
                return false;
        }
    return true;
}

static bool is_exact(const bb_minimal_form *form, const bb_conv_desc *desc, bool narrow) {
    return codes_fit(form, desc) && (fits_whole(form, desc) || fits_halved(form, desc)) &&
           (!narrow || pairs_fit(form, desc));
}

/** Cycles, up to a factor: products of bytes, and packed weights beyond L2 that have to come. */
static double weight_of(const bb_minimal_form *form, const bb_conv_desc *desc) {
    const double points = (double)form->points * form->points;
    const double weights = points * desc->in_channels * desc->out_channels;
    const double tiles = (double)bb_div_up(desc->out_height, form->outputs) *
                         bb_div_up(desc->out_width, form->outputs);

    return tiles * weights / 120 + weights / L3_BYTES;
}

const bb_minimal_form *bb_minimal_form_for(const bb_conv_desc *desc, bool narrow) {
    const size_t n = narrow ? 1 : BB_COUNT(forms);
    const bb_minimal_form *best = NULL;

    if (desc->kernel[0] != 3 || desc->kernel[1] != 3 || desc->groups != 1 ||
        desc->in_channels > DEPTH_MAX)
        return NULL;
    for (int axis = 0; axis < 2; axis++)
        if (desc->stride[axis] != 1 || desc->dilation[axis] != 1)
            return NULL;
    for (size_t i = 0; i < n; i++)
        if (is_exact(&forms[i], desc, narrow) &&
            (!best || weight_of(&forms[i], desc) < weight_of(best, desc)))
            best = &forms[i];
    return best;
}

/* ---- route ---- */

/** Rows of tiles: enough tiles to use weights often, as long as the products (or, where only a few
 *  of those are kept, the codes) stay in cache. */
static int32_t strip_rows_of(const bb_conv_desc *desc, const bb_minimal_route *route) {
    const int32_t all = bb_div_up(desc->out_height, route->form->outputs);
    const size_t tile =
        route->ops->narrow ? route->code_stride : route->products_stride * sizeof(int32_t);
    const size_t row = (size_t)route->tiles_x * tile;
    int32_t rows = bb_div_up(STRIP_TILES, route->tiles_x);

    if ((size_t)all * row <= MEMORY)
        return all;
    while (rows > 1 && (size_t)rows * row > MEMORY)
        rows--;
    for (int32_t i = 1; route->ops->narrow && i < route->ops->most_tiles; i++)
        if (rows * route->tiles_x % route->ops->most_tiles != 0 &&
            (rows + i) * route->tiles_x % route->ops->most_tiles == 0)
            rows += i; /* calls without idle tiles */
    return bb_min32(rows, all);
}

/** Minus the lowest value of each point: at most 255 where codes_fit. */
static void set_offsets(bb_minimal_route *route, int32_t top) {
    const bb_minimal_form *form = route->form;

    for (int32_t p = 0; p < route->points; p++) {
        const growth y = growth_of(form->input[p / form->points], form->patch);
        const growth x = growth_of(form->input[p % form->points], form->patch);

        route->offset[p] = (uint8_t)(growth_of_both(y, x).negative * top);
    }
}

/** Longest list of chunks of a block. */
static size_t chunk_bytes(const bb_conv_desc *desc, const bb_minimal_route *route) {
    const bb_minimal_form *form = route->form;
    size_t n = 1;

    for (int32_t y = 0; y < form->points; y++)
        for (int32_t x = 0; x < form->points; x++) {
            const growth g =
                growth_of_both(growth_of(form->weight[y], 3), growth_of(form->weight[x], 3));
            const int32_t weight = (g.positive + g.negative) * stored_max(form, desc);
            const int32_t pair = 2 * code_span(form, desc, y, x) * (weight > 0 ? weight : 1);

            n += (size_t)bb_div_up(route->steps, 32767 / pair);
        }
    return bb_round64(n * sizeof(bb_minimal_chunk));
}

bb_minimal_route bb_minimal_route_of(const bb_conv_desc *desc, const bb_minimal_ops *ops) {
    const bb_minimal_form *form = bb_minimal_form_for(desc, ops->narrow);
    const size_t channels = (size_t)ops->block_channels;
    bb_minimal_route route = {
        .ops = ops,
        .form = form,
        .points = form->points * form->points,
        .depth = desc->in_channels,
        .steps = (desc->in_channels + 3) / 4,
        .blocks = bb_div_up(desc->out_channels, ops->block_channels),
        .halved = !fits_whole(form, desc),
        .tiles_x = bb_div_up(desc->out_width, form->outputs),
    };

    /* Not multiples of 4 KiB, so that tiles do not share cache sets. */
    route.products_stride = (size_t)route.points * channels + 16;
    route.codes_bytes = bb_round64((size_t)route.depth);
    route.code_stride = (size_t)route.points * route.codes_bytes + 64;
    if (!ops->narrow)
        route.code_stride = (size_t)route.steps * 4;
    route.point_bytes = ((size_t)route.steps + 1) * channels * 4;
    route.parity_at = (size_t)route.points * route.point_bytes;
    route.chunks_at = route.parity_at + channels * 4;
    route.block_bytes = route.chunks_at + (ops->narrow ? chunk_bytes(desc, &route) : 0);
    route.strip_rows = strip_rows_of(desc, &route);
    if (!ops->narrow)
        route.codes_bytes =
            bb_round64((size_t)(route.strip_rows * route.tiles_x) * route.code_stride + SLACK);
    set_offsets(&route, largest_code(desc));
    return route;
}

/* ---- packing ---- */

size_t bb_minimal_packed_size(const bb_minimal_route *route) {
    return (size_t)route->blocks * route->block_bytes;
}

/** The transformed weight of point (y, x) from the nine taps, depth apart. */
static int32_t point_weight(const bb_minimal_route *route, int32_t y, int32_t x,
                            const int16_t *taps) {
    const int8_t *gy = route->form->weight[y], *gx = route->form->weight[x];
    int32_t sum = 0;

    for (int32_t i = 0; i < 3; i++)
        for (int32_t j = 0; j < 3; j++) {
            const int32_t w = taps[(i * 3 + j) * route->depth];

            sum += gy[i] * gx[j] * (route->halved ? (w - (w & 1)) / 2 : w);
        }
    return sum;
}

/** All weights of output channel `lane` of a block. */
static void pack_channel(const bb_minimal_route *route, const int16_t *weights, int32_t lane,
                         uint8_t *block) {
    const size_t channels = (size_t)route->ops->block_channels;
    const int32_t axis = route->form->points;
    int32_t *parity = (int32_t *)(void *)(block + route->parity_at) + lane;

    for (int32_t p = 0; p < route->points; p++) {
        uint8_t *point = block + (size_t)p * route->point_bytes;
        int32_t *bias = (int32_t *)(void *)point + lane;

        point += channels * 4 + (size_t)lane * 4;
        for (int32_t d = 0; d < route->depth; d++) {
            const int32_t w = point_weight(route, p / axis, p % axis, weights + d);

            point[(size_t)(d / 4) * channels * 4 + (size_t)(d % 4)] = (uint8_t)w;
            *bias -= route->offset[p] * w; /* |sum| <= DEPTH_MAX * 255 * 128 < 2^31 */
        }
    }
    *parity = weights[0] & 1 ? -1 : 0;
}

/** Adds a step to the sums above and below zero of each lane; false if one could leave 16 bits. */
static bool step_fits(int32_t *above, int32_t *below, const uint8_t *step, int32_t lanes,
                      int32_t span) {
    bool fits = true;

    for (int32_t i = 0; i < lanes; i++) {
        for (int32_t j = 2 * i; j < 2 * i + 2; j++) {
            const int32_t w = (int8_t)step[j];

            above[i] += w > 0 ? w * span : 0;
            below[i] -= w < 0 ? w * span : 0;
        }
        fits = fits && above[i] <= 32767 && below[i] <= 32767;
    }
    return fits;
}

/** Steps from `step` on, at most n, whose products 16-bit sums hold. */
static int32_t exact_steps(const bb_minimal_route *route, const uint8_t *step, int32_t n,
                           int32_t span) {
    const int32_t lanes = 2 * route->ops->block_channels;
    int32_t above[2 * BB_MINIMAL_PIXEL] = {0}, below[2 * BB_MINIMAL_PIXEL] = {0}, i = 0;

    while (i < n && step_fits(above, below, step + (ptrdiff_t)i * 2 * lanes, lanes, span))
        i++;
    return i;
}

/** The chunks of a packed block. A step of one pair of products always fits (pairs_fit). */
static void pack_chunks(const bb_conv_desc *desc, const bb_minimal_route *route, uint8_t *block) {
    const size_t step_bytes = (size_t)route->ops->block_channels * 4;
    const int32_t axis = route->form->points;
    bb_minimal_chunk *chunk = (void *)(block + route->chunks_at);
    bool first = true; /* the chunk before is the first of its point */

    for (int32_t p = 0; p < route->points; p++) {
        const uint8_t *steps = block + (size_t)p * route->point_bytes + step_bytes;
        const int32_t span = code_span(route->form, desc, p / axis, p % axis);

        for (int32_t i = 0; i < route->steps; i += chunk->steps, chunk++) {
            const int32_t n =
                exact_steps(route, steps + (size_t)i * step_bytes, route->steps - i, span);

            *chunk = (bb_minimal_chunk){(uint16_t)n, !first, i == 0 && p > 0, 0};
            first = i == 0;
        }
    }
    chunk->add = !first;
}

void bb_minimal_pack(const bb_conv_desc *desc, const bb_minimal_route *route,
                     const int16_t *weights, void *dst) {
    const int32_t channels = route->ops->block_channels;

    memset(dst, 0, bb_minimal_packed_size(route));
    for (int32_t c = 0; c < desc->out_channels; c++)
        pack_channel(route, weights + (size_t)c * 9 * (size_t)route->depth, c % channels,
                     (uint8_t *)dst + (size_t)(c / channels) * route->block_bytes);
    for (int32_t b = 0; route->ops->narrow && b < route->blocks; b++)
        pack_chunks(desc, route, (uint8_t *)dst + (size_t)b * route->block_bytes);
}

/* ---- running ---- */

typedef struct walk {
    const bb_conv_desc *desc;
    const bb_minimal_route *route;
    const bb_minimal_form *form;
    const uint8_t *in, *packed;
    bb_tile_fn tile;
    void *user;
    int32_t y1;         /**< end of the rows wanted */
    int32_t columns;    /**< of a row with its padding */
    int32_t left;       /**< of them, padding in front */
    int32_t inside;     /**< and of the image */
    size_t lines_bytes; /**< of one point */
    /* scratch */
    uint8_t *pad_row;
    uint8_t *lines; /**< [points of the y axis][columns][depth] */
    uint8_t *codes; /**< [points][tiles of the strip], narrow: [tiles][points] */
    int32_t *products;
    int32_t *acc;
    int32_t *pixel_sums;  /**< [strip rows * m + 2][columns] */
    int32_t *column_sums; /**< [columns] */
    int32_t *window_sums; /**< [strip rows * m][tiles_x * m] */
} walk;

static void set_geometry(walk *w, const bb_conv_desc *desc, const bb_minimal_route *route) {
    w->desc = desc;
    w->route = route;
    w->form = route->form;
    w->columns = route->tiles_x * w->form->outputs + 2;
    w->left = bb_min32(desc->pad_begin[1], w->columns);
    w->inside = bb_min32(desc->in_width, w->columns - w->left);
    w->lines_bytes = bb_round64((size_t)w->columns * (size_t)route->depth + SLACK);
}

/** Tiles given to the epilogue together. */
static int32_t chunk_tiles(const walk *w) {
    if (w->route->ops->narrow)
        return w->route->ops->most_tiles;
    return bb_min32(bb_div_up(CHUNK_PIXELS, w->form->outputs), w->route->tiles_x);
}

/** Lays out the scratch memory; returns its size. */
static size_t set_scratch(walk *w, uint8_t *base) {
    const bb_minimal_route *route = w->route;
    const size_t m = (size_t)w->form->outputs, rows = (size_t)route->strip_rows;
    const size_t tiles = rows * (size_t)route->tiles_x, columns = (size_t)w->columns;
    size_t used = 0;

    w->pad_row = bb_carve(base, &used, (size_t)w->inside * (size_t)route->depth + SLACK);
    w->lines = bb_carve(base, &used, (size_t)w->form->points * w->lines_bytes);
    w->codes =
        bb_carve(base, &used,
                 route->ops->narrow ? (tiles + (size_t)route->ops->most_tiles) * route->code_stride
                                    : (size_t)route->points * route->codes_bytes);
    w->products = bb_carve(base, &used,
                           (route->ops->narrow ? (size_t)route->ops->most_tiles : tiles) *
                               route->products_stride * sizeof(int32_t));
    w->acc =
        bb_carve(base, &used, m * m * (size_t)chunk_tiles(w) * BB_MINIMAL_PIXEL * sizeof(int32_t));
    if (route->halved) {
        w->pixel_sums = bb_carve(base, &used, (rows * m + 2) * columns * sizeof(int32_t));
        w->column_sums = bb_carve(base, &used, columns * sizeof(int32_t));
        w->window_sums = bb_carve(base, &used, rows * m * (columns - 2) * sizeof(int32_t));
    }
    return used;
}

size_t bb_minimal_scratch_size(const bb_conv_desc *desc, const bb_minimal_route *route) {
    walk w = {0};

    set_geometry(&w, desc, route);
    return set_scratch(&w, NULL);
}

/** Codes of an input row, all padding where it lies outside the image. */
static const uint8_t *input_row(const walk *w, int32_t iy) {
    const bb_conv_desc *desc = w->desc;

    if (iy < 0 || iy >= desc->in_height)
        return w->pad_row;
    return w->in + (size_t)iy * (size_t)desc->in_width * (size_t)desc->in_channels;
}

/** Writes the padding beside the image into the lines: a constant for each point. */
static void pad_lines(const walk *w) {
    const size_t depth = (size_t)w->route->depth, left = (size_t)w->left * depth;
    const size_t inside = (size_t)w->inside * depth, all = (size_t)w->columns * depth;

    for (int32_t i = 0; i < w->form->points; i++) {
        uint8_t *line = w->lines + (size_t)i * w->lines_bytes;
        int32_t sum = 0;

        for (int32_t k = 0; k < w->form->patch; k++)
            sum += w->form->input[i][k];
        sum *= (int32_t)w->desc->pad_code;
        memset(line, sum & 255, left);
        memset(line + left + inside, sum & 255, all - left - inside);
    }
}

/** The vertical transform of the rows under one row of tiles. */
static void make_lines(const walk *w, int32_t y) {
    static const uint8_t none[BB_MINIMAL_AXIS];
    const size_t depth = (size_t)w->route->depth;
    bb_minimal_pass pass = {
        .bytes = (size_t)w->inside * depth,
        .count = 1,
        .offset = none,
    };

    for (int32_t k = 0; k < w->form->patch; k++)
        pass.in[k] = input_row(w, y - w->desc->pad_begin[0] + k);
    for (int32_t i = 0; i < w->form->points; i++)
        pass.out[i] = w->lines + (size_t)i * w->lines_bytes + (size_t)w->left * depth;
    w->route->ops->transform(w->form, &pass);
    pad_lines(w);
}

/** The horizontal transform: codes of the points of a row of tiles. */
static void make_codes(const walk *w, int32_t row) {
    const bb_minimal_route *route = w->route;
    const int32_t axis = w->form->points;
    const size_t depth = (size_t)route->depth;
    const size_t first = (size_t)row * (size_t)route->tiles_x * route->code_stride;

    for (int32_t i = 0; i < axis; i++) {
        bb_minimal_pass pass = {
            .in_step = (size_t)w->form->outputs * depth,
            .out_step = route->code_stride,
            .bytes = depth,
            .count = route->tiles_x,
            .offset = route->offset + i * axis,
        };

        for (int32_t k = 0; k < w->form->patch; k++)
            pass.in[k] = w->lines + (size_t)i * w->lines_bytes + (size_t)k * depth;
        for (int32_t j = 0; j < axis; j++)
            pass.out[j] = w->codes + (size_t)(i * axis + j) * w->route->codes_bytes + first;
        route->ops->transform(w->form, &pass);
    }
}

/** Channel sums of the input rows under a strip that starts at output row y. */
static void sum_rows(const walk *w, int32_t y, int32_t n) {
    const size_t columns = (size_t)w->columns;
    const int32_t padded = (int32_t)w->desc->pad_code * w->route->depth;

    for (int32_t r = 0; r < n; r++) {
        int32_t *sums = w->pixel_sums + (size_t)r * columns;

        for (size_t x = 0; x < columns; x++)
            sums[x] = padded;
        w->route->ops->sum_pixels(w->desc, input_row(w, y - w->desc->pad_begin[0] + r), w->inside,
                                  sums + w->left);
    }
}

/** Sums of the codes under the window of each of n rows of pixels: at most 9 * 2^15 * 63. */
static void sum_windows(const walk *w, int32_t n) {
    const size_t columns = (size_t)w->columns, width = columns - 2;
    int32_t *column = w->column_sums, *out = w->window_sums;
    const int32_t *rows = w->pixel_sums;

    for (int32_t r = 0; r < n; r++, rows += columns, out += width) {
        for (size_t x = 0; x < columns; x++)
            column[x] = rows[x] + rows[x + columns] + rows[x + 2 * columns];
        for (size_t x = 0; x < width; x++)
            out[x] = column[x] + column[x + 1] + column[x + 2];
    }
}

/** The products of all tiles of a strip with n points of a block, as even a share of the tiles in
 *  each call as can be. */
static void multiply_points(const walk *w, int32_t tiles, const uint8_t *block, int32_t p,
                            int32_t n) {
    const bb_minimal_route *route = w->route;
    const int32_t calls = bb_div_up(tiles, route->ops->most_tiles);
    const uint8_t *next = block + (size_t)(p + n) * route->point_bytes;

    for (int32_t i = 0; i < calls; i++) {
        const int32_t first = tiles * i / calls, end = tiles * (i + 1) / calls;
        const bb_minimal_product job = {
            .codes = w->codes + (size_t)p * route->codes_bytes + (size_t)first * route->code_stride,
            .weights = block + (size_t)p * route->point_bytes,
            .next = next + (size_t)n * route->point_bytes / (size_t)calls * (size_t)i,
            .products = w->products + (size_t)first * route->products_stride +
                        (ptrdiff_t)p * BB_MINIMAL_LANES,
            .tiles = end - first,
            .points = n,
        };

        route->ops->multiply(route, &job);
    }
}

/** As many points at a time as have their weights in L1 for all tiles. */
static void multiply_block(const walk *w, int32_t tiles, const uint8_t *block) {
    const int32_t all = w->route->points, fit = (int32_t)(L1_WEIGHTS / w->route->point_bytes);
    const int32_t some = fit < 1 ? 1 : bb_min32(fit, all);

    for (int32_t p = 0; p < all; p += some)
        multiply_points(w, tiles, block, p, bb_min32(some, all - p));
}

/** Gives n_tiles tiles of one row, from tile t of the strip, to the epilogue. */
static void finish_chunk(const walk *w, int32_t y, int32_t row, int32_t first, int32_t n_tiles,
                         int32_t b) {
    const bb_minimal_route *route = w->route;
    const int32_t m = w->form->outputs, channels = route->ops->block_channels;
    const int32_t x = first * m, n = bb_min32(n_tiles * m, w->desc->out_width - x);
    const size_t width = (size_t)(route->tiles_x * m);
    const uint8_t *block = w->packed + (size_t)b * route->block_bytes;
    bb_minimal_finish job = {
        .products = w->products + (size_t)(row * route->tiles_x + first) * route->products_stride,
        .parity = (const void *)(block + route->parity_at),
        .sums_stride = width,
        .acc = w->acc,
        .row_ints = (size_t)(chunk_tiles(w) * m) * BB_MINIMAL_PIXEL,
    };

    if (route->halved)
        job.sums = w->window_sums + (size_t)(row * m) * width + (size_t)x;
    for (int32_t t = 0; t < n_tiles; t++) {
        route->ops->finish(route, &job);
        job.products += route->products_stride;
        job.acc += (ptrdiff_t)m * BB_MINIMAL_PIXEL;
        job.sums = job.sums ? job.sums + m : NULL;
    }
    for (int32_t r = 0; r < m && y + r < w->y1; r++)
        w->tile(w->user, y + r, x, n, b * channels,
                bb_min32(channels, w->desc->out_channels - b * channels),
                w->acc + (size_t)r * job.row_ints, BB_MINIMAL_PIXEL);
}

/** All blocks of a strip: point by point, then finished. */
static void run_wide(const walk *w, int32_t y, int32_t rows) {
    const bb_minimal_route *route = w->route;
    const int32_t m = w->form->outputs, chunk = chunk_tiles(w);

    for (int32_t b = 0; b < route->blocks; b++) {
        multiply_block(w, rows * route->tiles_x, w->packed + (size_t)b * route->block_bytes);
        for (int32_t r = 0; r < rows; r++)
            for (int32_t t = 0; t < route->tiles_x; t += chunk)
                finish_chunk(w, y + r * m, r, t, bb_min32(chunk, route->tiles_x - t), b);
    }
}

/** n tiles from `first` of the strip with block b, whose channels begin at acc. */
static void run_few(const walk *w, int32_t first, int32_t n, int32_t b, int32_t *acc) {
    const bb_minimal_route *route = w->route;
    const ptrdiff_t m = w->form->outputs;
    const uint8_t *block = w->packed + (size_t)b * route->block_bytes;
    const bb_minimal_product product = {.codes = w->codes + (size_t)first * route->code_stride,
                                        .weights = block,
                                        .products = w->products,
                                        .tiles = n};
    bb_minimal_finish job = {.products = w->products,
                             .parity = (const void *)(block + route->parity_at),
                             .sums_stride = (size_t)(route->tiles_x * m),
                             .acc = acc,
                             .row_ints = (size_t)(chunk_tiles(w) * m) * BB_MINIMAL_PIXEL};
    int32_t row = first / route->tiles_x, at = first % route->tiles_x;

    route->ops->multiply(route, &product);
    for (int32_t t = 0; t < n; t++) {
        if (route->halved)
            job.sums = w->window_sums + row * m * (ptrdiff_t)job.sums_stride + at * m;
        route->ops->finish(route, &job);
        job.products += route->ops->block_channels;
        job.acc += m * BB_MINIMAL_PIXEL;
        if (++at == route->tiles_x) {
            at = 0;
            row++;
        }
    }
}

/** Gives n tiles from `first` of the strip to the epilogue, row of tiles by row of tiles. */
static void emit(const walk *w, int32_t y, int32_t first, int32_t n, int32_t c0, int32_t channels) {
    const int32_t m = w->form->outputs, tiles_x = w->route->tiles_x;
    const ptrdiff_t row_ints = (ptrdiff_t)(chunk_tiles(w) * m) * BB_MINIMAL_PIXEL;

    for (int32_t done = 0; done < n;) {
        const int32_t at = (first + done) % tiles_x, take = bb_min32(n - done, tiles_x - at);
        const int32_t top = y + (first + done) / tiles_x * m;
        const int32_t pixels = bb_min32(take * m, w->desc->out_width - at * m);

        for (int32_t r = 0; r < m && top + r < w->y1; r++)
            w->tile(w->user, top + r, at * m, pixels, c0, channels,
                    w->acc + r * row_ints + (ptrdiff_t)(done * m) * BB_MINIMAL_PIXEL,
                    BB_MINIMAL_PIXEL);
        done += take;
    }
}

/** A few tiles at a time through all points, so that their products stay in the first cache. */
static void run_narrow(const walk *w, int32_t y, int32_t rows) {
    const bb_minimal_ops *ops = w->route->ops;
    const int32_t tiles = rows * w->route->tiles_x;

    for (int32_t c = 0; c < w->desc->out_channels; c += ops->call_channels)
        for (int32_t t = 0; t < tiles; t += ops->most_tiles) {
            const int32_t n = bb_min32(ops->most_tiles, tiles - t);
            const int32_t channels = bb_min32(ops->call_channels, w->desc->out_channels - c);

            for (int32_t i = 0; i < channels; i += ops->block_channels)
                run_few(w, t, n, (c + i) / ops->block_channels, w->acc + i);
            emit(w, y, t, n, c, channels);
        }
}

/** `rows` rows of tiles from output row y on. */
static void run_strip(const walk *w, int32_t y, int32_t rows) {
    const int32_t m = w->form->outputs;

    for (int32_t r = 0; r < rows; r++) {
        make_lines(w, y + r * m);
        make_codes(w, r);
    }
    if (w->route->halved) {
        sum_rows(w, y, rows * m + 2);
        sum_windows(w, rows * m);
    }
    if (w->route->ops->narrow)
        run_narrow(w, y, rows);
    else
        run_wide(w, y, rows);
}

void bb_minimal_run(const bb_conv_desc *desc, const bb_minimal_route *route, const void *packed,
                    const uint8_t *in, int32_t y0, int32_t y1, void *scratch, bb_tile_fn tile,
                    void *user) {
    walk w = {.in = in, .packed = packed, .tile = tile, .user = user, .y1 = y1};
    const int32_t m = route->form->outputs, step = route->strip_rows * m;

    set_geometry(&w, desc, route);
    set_scratch(&w, scratch);
    memset(w.pad_row, (int)desc->pad_code, (size_t)w.inside * (size_t)route->depth);
    for (int32_t y = y0; y < y1; y += step)
        run_strip(&w, y, bb_min32(route->strip_rows, bb_div_up(y1 - y, m)));
}
