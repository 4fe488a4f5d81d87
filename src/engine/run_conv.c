/* SPDX-License-Identifier: Apache-2.0 */
/* Convolutions: strips of rows go to the kernel, its tiles come back here and leave as codes. */
#include "engine/internal.h"
#include <string.h>

typedef struct conv_tasks {
    const bb_context *context;
    const bb_plan_node *plan;
    bool pooled;              /**< rows are those of the pools */
    int32_t rows, strip_rows; /**< of an image, of a task */
    size_t strips;            /**< of one image */
} conv_tasks;

/* What finish_tile needs of the strip in work. */
typedef struct tile_state {
    const bb_border *border;
    const bb_plan_node *plan;
    bool one_class; /**< of border pixels */
    int32_t c0, channels, width;
    size_t image_pixel;    /**< outputs' index of this image's first pixel, modulo 2^64 */
    int32_t *accumulators; /**< P for a tap, or NULL */
    bb_requant_job job[BB_MAX_NODE_OUTPUTS];
    uint8_t *out[BB_MAX_NODE_OUTPUTS]; /**< tensor starts, or rows on their way to a pool */
    int32_t out_c0;                    /**< their first channel */
    const uint8_t *z2;                 /**< residual tensor, or NULL */
} tile_state;

static void keep_accumulators(const tile_state *s, size_t pixel, int32_t n_pixels, int32_t c,
                              int32_t n_channels, const int32_t *acc, size_t stride,
                              const int32_t *border) {
    for (int32_t p = 0; p < n_pixels; p++) {
        int32_t *to = s->accumulators + (pixel + (size_t)p) * (size_t)s->channels + c;
        for (int32_t i = 0; i < n_channels; i++)
            to[i] = (int32_t)(2u * (uint32_t)acc[(size_t)p * stride + (size_t)i] +
                              (uint32_t)border[c + i]);
    }
}

/* Pixels of one border class. */
static void finish_run(tile_state *s, int32_t y, int32_t x, int32_t n_pixels, int32_t c,
                       int32_t n_channels, const int32_t *acc, size_t stride) {
    const bb_border *b = s->border;
    const size_t class = b->row_class[y] * b->n_column_classes + b->column_class[x];
    const int32_t *border = b->vectors + class * b->padded;
    const size_t pixel = s->image_pixel + (size_t)y * (size_t)s->width + (size_t)x;
    if (s->accumulators)
        keep_accumulators(s, pixel, n_pixels, c, n_channels, acc, stride, border);
    for (int i = 0; i < s->plan->n_out; i++) {
        bb_requant_job *job = &s->job[i];
        job->z1 = acc;
        job->z1_stride = stride;
        job->border = border;
        job->n_pixels = n_pixels;
        job->c0 = c;
        job->n_channels = n_channels;
        job->out = s->out[i] + (pixel * job->out_stride + (size_t)(c - s->out_c0)) *
                                   bb_element_size(job->out_type);
        if (s->z2)
            job->z2 = s->z2 + (pixel * job->z2_stride + (size_t)c) * bb_element_size(job->z2_type);
        s->plan->out[i].fn(&s->plan->out[i].tables, job);
    }
}

/* A tile may hold pixels of several rows; where all are of one class that makes no difference. */
static void finish_tile(void *user, int32_t y, int32_t x, int32_t n_pixels, int32_t c0,
                        int32_t n_channels, const int32_t *acc, size_t stride) {
    tile_state *s = user;
    if (s->one_class) {
        finish_run(s, y, x, n_pixels, s->c0 + c0, n_channels, acc, stride);
        return;
    }
    while (n_pixels > 0) {
        const int32_t left = s->border->run_end[x] - x, n = left < n_pixels ? left : n_pixels;
        finish_run(s, y, x, n, s->c0 + c0, n_channels, acc, stride);
        x += n;
        if (x == s->width) {
            x = 0;
            y++;
        }
        n_pixels -= n;
        acc += (size_t)n * stride;
    }
}

static void start_tiles(tile_state *s, const bb_context *context, const bb_plan_node *plan,
                        const bb_conv_desc *desc, size_t image) {
    const bb_model_node *node = plan->node;
    const bb_plan_tensor *tensors = context->engine->tensors, *out = &tensors[node->out[0]];
    *s = (tile_state){.border = &plan->conv->border,
                      .plan = plan,
                      .one_class = plan->conv->border.n_row_classes == 1 &&
                                   plan->conv->border.n_column_classes == 1,
                      .channels = out->c,
                      .width = desc->out_width,
                      .image_pixel = image * (size_t)desc->out_height * (size_t)desc->out_width,
                      .accumulators = context->accumulators};
    if (node->n_in == 2)
        s->z2 = bb_tensor_data(context, node->in[1]);
    for (int i = 0; i < plan->n_out; i++) {
        s->job[i] = (bb_requant_job){.z1_type = BB_ELEMENT_I32,
                                     .z1_shift = 1,
                                     .no_border = plan->conv->border.all_zero,
                                     .count = 1,
                                     .out_type = tensors[plan->out[i].tensor].type};
        if (s->z2) {
            s->job[i].z2_type = tensors[node->in[1]].type;
            s->job[i].z2_stride = (size_t)out->c;
        }
    }
}

/* Tiles go to the node's outputs. */
static void aim_at_tensors(tile_state *s, const bb_context *context) {
    for (int i = 0; i < s->plan->n_out; i++) {
        s->out[i] = bb_tensor_data(context, s->plan->out[i].tensor);
        s->job[i].out_stride = context->engine->tensors[s->plan->out[i].tensor].step;
    }
}

/* ---- with max pools -------------------------------------------------------------------------- */

/* A few convolved rows of one block of channels, all outputs, on their way to the pools. */
typedef struct pool_state {
    const bb_context *context;
    const bb_conv_plan *conv;
    size_t image;
    int32_t c0, channels, width, height;
    int32_t first, end; /**< the rows that are there */
    int n_out;
    uint8_t *rows[BB_MAX_NODE_OUTPUTS]; /**< row `first` of each output */
    size_t row_bytes[BB_MAX_NODE_OUTPUTS];
    bb_pool_rows pools[BB_MAX_NODE_OUTPUTS];
} pool_state;

static void start_pools(pool_state *s, const bb_context *context, const bb_plan_node *plan,
                        const bb_conv_block *block, size_t image, uint8_t *scratch) {
    const bb_plan_tensor *tensors = context->engine->tensors;
    const bb_conv_pool *pool = plan->conv->pool;
    *s = (pool_state){.context = context,
                      .conv = plan->conv,
                      .image = image,
                      .c0 = block->c0,
                      .channels = block->desc.out_channels,
                      .width = block->desc.out_width,
                      .height = block->desc.out_height,
                      .n_out = plan->n_out};
    uint8_t *at = scratch + pool->line_bytes;
    for (int i = 0; i < s->n_out; i++) {
        const bb_plan_tensor *out = &tensors[pool->tensor[i]];
        s->row_bytes[i] = (size_t)s->width * (size_t)s->channels * bb_element_size(out->type);
        s->rows[i] = at;
        at += bb_pool_rows_bytes(pool, s->row_bytes[i]);
        s->pools[i] = (bb_pool_rows){.kernels = context->engine->window,
                                     .geometry = pool->geometry,
                                     .width = s->width,
                                     .channels = s->channels,
                                     .out_width = out->w,
                                     .out_step = out->step,
                                     .type = out->type,
                                     .line = scratch};
    }
}

/* Rows before `first` are not needed any more. */
static void drop_rows(pool_state *s, int32_t first) {
    for (int i = 0; i < s->n_out && first < s->end; i++)
        memmove(s->rows[i], s->rows[i] + (size_t)(first - s->first) * s->row_bytes[i],
                (size_t)(s->end - first) * s->row_bytes[i]);
    s->end = s->end < first ? first : s->end;
    s->first = first;
}

static void pool_rows(const pool_state *s, int32_t p0, int32_t p1) {
    const bb_conv_pool *pool = s->conv->pool;
    for (int i = 0; i < s->n_out; i++) {
        const bb_plan_tensor *out = &s->context->engine->tensors[pool->tensor[i]];
        uint8_t *to = bb_tensor_data(s->context, pool->tensor[i]);
        for (int32_t p = p0; p < p1; p++) {
            const bb_pool_span rows = bb_pool_span_at(pool->geometry, 0, p, s->height);
            const size_t row = s->image * (size_t)out->h + (size_t)p;
            const size_t at = row * (size_t)out->w * out->step + (size_t)s->c0;
            bb_pool_max_row(
                &s->pools[i], s->rows[i] + (size_t)(rows.start - s->first) * s->row_bytes[i],
                s->row_bytes[i], (size_t)rows.count, to + at * bb_element_size(out->type));
        }
    }
}

static int32_t span_end(const pool_state *s, int32_t p) {
    const bb_pool_span rows = bb_pool_span_at(s->conv->pool->geometry, 0, p, s->height);
    return rows.start + rows.count;
}

/* Tiles go to the rows that are kept. */
static void aim_at_rows(tile_state *tiles, const pool_state *s) {
    tiles->out_c0 = s->c0;
    tiles->image_pixel = (size_t)0 - (size_t)s->first * (size_t)s->width;
    for (int i = 0; i < s->n_out; i++) {
        tiles->job[i].out_stride = (size_t)s->channels;
        tiles->out[i] = s->rows[i];
    }
}

/* Pooled rows p0..p1-1, as many at a time as have their convolved rows side by side. */
static void run_pooled(const bb_conv_block *block, const uint8_t *in, uint8_t *scratch, int32_t p0,
                       int32_t p1, tile_state *tiles, pool_state *s) {
    const bb_conv_pool *pool = s->conv->pool;
    for (int32_t p = p0, next; p < p1; p = next) {
        drop_rows(s, bb_pool_span_at(pool->geometry, 0, p, s->height).start);
        for (next = p + 1; next < p1 && span_end(s, next) - s->first <= pool->rows;)
            next++;
        aim_at_rows(tiles, s);
        const int32_t end = span_end(s, next - 1);
        if (end > s->end)
            block->kernel->run(&block->desc, block->packed, in, s->end, end, scratch + pool->bytes,
                               finish_tile, tiles);
        s->end = end > s->end ? end : s->end;
        pool_rows(s, p, next);
    }
}

/* ---- tasks ----------------------------------------------------------------------------------- */

static void run_task(void *user, size_t task, size_t worker) {
    const conv_tasks *t = user;
    const bb_conv_plan *conv = t->plan->conv;
    const bb_conv_block *block = &conv->blocks[task % conv->n_blocks];
    const size_t strip = task / conv->n_blocks % t->strips;
    const size_t image = task / conv->n_blocks / t->strips;
    const bb_conv_desc *d = &block->desc;
    const size_t codes = (size_t)d->in_height * (size_t)d->in_width * (size_t)d->in_channels;
    const int32_t y0 = (int32_t)strip * t->strip_rows, left = t->rows - y0;
    const int32_t y1 = y0 + (left < t->strip_rows ? left : t->strip_rows);
    const uint8_t *in = bb_tensor_data(t->context, t->plan->node->in[0]) + image * codes;
    uint8_t *scratch = bb_worker_scratch(t->context, worker);
    tile_state state;
    start_tiles(&state, t->context, t->plan, d, image);
    state.c0 = block->c0;
    if (t->pooled) {
        pool_state pools;
        start_pools(&pools, t->context, t->plan, block, image, scratch);
        run_pooled(block, in, scratch, y0, y1, &state, &pools);
    } else {
        aim_at_tensors(&state, t->context);
        block->kernel->run(d, block->packed, in, y0, y1, scratch, finish_tile, &state);
    }
}

void bb_run_conv(bb_context *context, const bb_plan_node *plan) {
    const bb_conv_plan *conv = plan->conv;
    const bool pooled = conv->pool && !context->tap;
    const int32_t rows = pooled ? conv->pool->out_height : conv->blocks[0].desc.out_height;
    const int32_t strip_rows = pooled ? conv->pool->strip : conv->strip;
    conv_tasks tasks = {.context = context,
                        .plan = plan,
                        .pooled = pooled,
                        .rows = rows,
                        .strip_rows = strip_rows,
                        .strips = (size_t)((rows + strip_rows - 1) / strip_rows)};
    bb_pool_run(context->pool, tasks.strips * (size_t)conv->images * conv->n_blocks, run_task,
                &tasks);
}
