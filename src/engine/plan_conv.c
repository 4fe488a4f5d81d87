/* SPDX-License-Identifier: Apache-2.0 */
/* Plan of one convolution: weights, channel blocks, kernels, border vectors, requantizers. */
#include "engine/internal.h"
#include <string.h>

enum { BLOCK_CHANNELS = 64 }; /**< channel blocks end at multiples of this */

static bb_conv_desc describe(const bb_engine *engine, const bb_plan_node *plan) {
    const bb_model_node *node = plan->node;
    const bb_plan_tensor *in = &engine->tensors[node->in[0]];
    const bb_plan_tensor *out = &engine->tensors[node->out[0]];
    bb_conv_desc d = {.in_height = in->h,
                      .in_width = in->w,
                      .in_channels = in->c,
                      .out_height = out->h,
                      .out_width = out->w,
                      .out_channels = out->c,
                      .groups = (int32_t)node->groups,
                      .activation_bits = in->bits};
    for (int axis = 0; axis < 2; axis++) {
        d.kernel[axis] = node->geometry.kernel[axis];
        d.stride[axis] = node->geometry.stride[axis];
        d.dilation[axis] = node->geometry.dilation[axis];
        d.pad_begin[axis] = node->geometry.pad_begin[axis];
    }
    d.pad_code = bb_border_pad_code(in->zero, in->top);
    return d;
}

static bool is_pointwise(const bb_conv_desc *d) {
    return d->kernel[0] == 1 && d->kernel[1] == 1 && d->out_height == d->in_height &&
           d->out_width == d->in_width && d->stride[0] == 1 && d->stride[1] == 1 &&
           d->pad_begin[0] == 0 && d->pad_begin[1] == 0;
}

/*
 * A pointwise layer knows pixels, not images: its batch becomes one image of more rows, so that
 * weights are read once. Single pixels (fully connected layers) become rows that fill tiles.
 */
static int32_t merge_images(bb_conv_desc *d, int32_t images) {
    enum { ROW_MAX = 64 };
    if (images == 1 || !is_pointwise(d))
        return images;
    int32_t width = d->in_width;
    if (d->in_height == 1 && width == 1)
        for (int32_t w = 1; w <= ROW_MAX; w++)
            width = images % w == 0 ? w : width;
    const int32_t height =
        images * d->in_height * d->in_width / width; /* <= INT32_MAX, as all elements */
    d->in_height = d->out_height = height;
    d->in_width = d->out_width = width;
    return 1;
}

static const bb_conv_params *params_of(const bb_engine *engine, const bb_model_node *node) {
    return &engine->profile->convs[node - engine->model->nodes];
}

/* b + o of every weight, and what of it the descriptor tells the kernels. |b + o| <= 32767 is part
 * of the model's checks. */
static bb_status read_weights(const bb_engine *engine, const bb_model_node *node, bb_conv_desc *d,
                              int16_t *weights, bb_error *err) {
    const bb_conv_params *params = params_of(engine, node);
    const size_t row = (size_t)node->planes->taps * node->planes->depth;
    BB_TRY(bb_planes_levels(node->planes, params->planes, weights, err));
    d->weight_bits = params->planes;
    d->native = bb_planes_native(node->planes);
    for (size_t c = 0; c < node->planes->rows; c++) {
        const int32_t offset = params->weight_offset ? params->weight_offset[c] : 0;
        d->native = d->native && offset == 0;
        for (size_t i = c * row; i < (c + 1) * row; i++) {
            const int32_t w = weights[i] + offset;
            weights[i] = (int16_t)w;
            d->max_weight = w > d->max_weight ? w : -w > d->max_weight ? -w : d->max_weight;
        }
    }
    return BB_STATUS_OK;
}

/* ---- sharing out ----------------------------------------------------------------------------- */

/* How one convolution is divided: strips of output rows, and blocks of output channels where an
 * image has too few rows for the workers. */
typedef struct partition {
    size_t blocks;
    int32_t strip;
} partition;

/* The largest block's part of all channels; blocks end at multiples of BLOCK_CHANNELS. */
static double largest_share(const bb_conv_desc *d, size_t blocks) {
    const size_t groups = ((size_t)d->out_channels + BLOCK_CHANNELS - 1) / BLOCK_CHANNELS;
    const size_t channels = (groups + blocks - 1) / blocks * BLOCK_CHANNELS;
    return channels < (size_t)d->out_channels ? (double)channels / d->out_channels : 1.0;
}

/*
 * Time until the last worker is done, in units of one output row over all channels. Every task
 * transforms its input rows, those of the halo included, for itself, and reads the weights of its
 * channels from beyond the first cache; a row's transformation was measured at about 6/channels of
 * its convolution, the weights (Winograd's, 2.8 bytes each) at about as much as 9 pixels. The
 * constant stands for starting a task.
 */
static double partition_cost(const bb_engine *engine, const bb_conv_desc *d, int32_t images,
                             double weight_bytes, const partition *p) {
    const size_t strips = ((size_t)d->out_height + (size_t)p->strip - 1) / (size_t)p->strip;
    const size_t tasks = strips * p->blocks * (size_t)images;
    const size_t rounds = (tasks + engine->threads - 1) / engine->threads;
    const double transformed = (double)p->strip + d->kernel[0] - 1;
    const double share = largest_share(d, p->blocks);
    return (double)rounds * (((double)p->strip + 3.2 * weight_bytes / d->out_width) * share +
                             transformed * 6.0 / d->out_channels + 0.15);
}

static partition choose_partition(const bb_engine *engine, const bb_conv_desc *d, int32_t images) {
    const size_t groups = ((size_t)d->out_channels + BLOCK_CHANNELS - 1) / BLOCK_CHANNELS;
    const size_t most_blocks = d->groups != 1             ? 1
                               : groups < engine->threads ? groups
                                                          : engine->threads;
    const size_t rows_all = (size_t)d->out_height;
    const size_t most_strips = rows_all < 4 * engine->threads ? rows_all : 4 * engine->threads;
    const bb_conv_kernel *kernel = bb_conv_choose(d, engine->cpu, engine->wanted_kernel);
    const double weights = bb_conv_macs(d) / ((double)d->out_height * d->out_width);
    const double weight_bytes = (double)kernel->packed_size(d) / weights; /* of each */
    partition best = {1, d->out_height};
    double best_cost = partition_cost(engine, d, images, weight_bytes, &best);
    for (size_t blocks = 1; engine->threads > 1 && blocks <= most_blocks; blocks++)
        for (size_t strips = 1; strips <= most_strips; strips++) {
            const size_t rows = (rows_all + strips - 1) / strips;
            const partition p = {blocks, (int32_t)rows};
            const double cost = partition_cost(engine, d, images, weight_bytes, &p);
            if (cost < best_cost) {
                best_cost = cost;
                best = p;
            }
        }
    return best;
}

/* ---- max pools ------------------------------------------------------------------------------- */

enum { POOL_BYTES = 192 * 1024 }; /* of convolved rows: they stay in the second-level cache */

/* The pool that reads a tensor. */
static const bb_model_node *reader_of(const bb_model *model, int tensor) {
    for (size_t i = 0; i < model->n_nodes; i++)
        for (int k = 0; k < model->nodes[i].n_in; k++)
            if (model->nodes[i].in[k] == tensor)
                return &model->nodes[i];
    return NULL;
}

static bool has_pools(const bb_engine *engine, const bb_model_node *node) {
    return engine->tensors[node->out[0]].passes;
}

/* After the partition, before the blocks. */
static bb_status plan_pools(bb_engine *engine, bb_plan_node *plan, bb_error *err) {
    const bb_model_node *node = plan->node;
    const bb_plan_tensor *first = &engine->tensors[node->out[0]];
    bb_conv_pool *pool = bb_engine_array(engine, 1, sizeof(*pool));
    if (!pool)
        return bb_fail_memory(err, "a convolution plan");
    size_t row = 0;
    for (int i = 0; i < node->n_out; i++) {
        const bb_model_node *reader = reader_of(engine->model, node->out[i]);
        pool->geometry = &reader->geometry;
        pool->tensor[i] = reader->out[0];
        row += first->row * bb_element_size(engine->tensors[node->out[i]].type);
    }
    const size_t fit = POOL_BYTES / row, least = (size_t)pool->geometry->kernel[0];
    const int32_t strips = (first->h + plan->conv->strip - 1) / plan->conv->strip;
    pool->out_height = engine->tensors[pool->tensor[0]].h;
    pool->strip = (pool->out_height + strips - 1) / strips;
    pool->rows = (int32_t)(fit < least ? least : fit > (size_t)first->h ? (size_t)first->h : fit);
    pool->line_bytes = (first->row * sizeof(uint16_t) + 63) / 64 * 64;
    pool->bytes = pool->line_bytes;
    for (int i = 0; i < node->n_out; i++) {
        const size_t element = bb_element_size(engine->tensors[node->out[i]].type);
        pool->bytes += bb_pool_rows_bytes(pool, first->row * element);
    }
    plan->conv->pool = pool;
    return BB_STATUS_OK;
}

/* ---- blocks of channels ---------------------------------------------------------------------- */

/* weights: of the whole layer. */
static bb_status pack_block(bb_engine *engine, const bb_conv_plan *conv, const int16_t *weights,
                            bb_conv_block *block, bb_error *err) {
    const bb_conv_desc *d = &block->desc;
    const size_t row =
        (size_t)d->kernel[0] * (size_t)d->kernel[1] * (size_t)(d->in_channels / d->groups);
    const size_t bytes = block->kernel->packed_size(d);
    block->packed = bb_alloc_aligned(bytes);
    if (!block->packed)
        return bb_fail_memory(err, "packed weights");
    engine->packed_bytes += bytes;
    block->kernel->pack(d, weights + (size_t)block->c0 * row, block->packed);
    bb_engine_need_scratch(engine,
                           (conv->pool ? conv->pool->bytes : 0) + block->kernel->scratch_size(d));
    return BB_STATUS_OK;
}

static bb_status plan_block(bb_engine *engine, const bb_conv_desc *whole, int32_t c0, int32_t c1,
                            const bb_conv_plan *conv, const int16_t *weights, bb_conv_block *block,
                            bb_error *err) {
    const size_t row = (size_t)whole->kernel[0] * (size_t)whole->kernel[1] *
                       (size_t)(whole->in_channels / whole->groups);
    block->c0 = c0;
    block->desc = *whole;
    block->desc.out_channels = c1 - c0;
    block->kernel = bb_conv_choose(&block->desc, engine->cpu, engine->wanted_kernel);
    if (engine->tune && !engine->wanted_kernel)
        BB_TRY(bb_tune_block(engine, weights + (size_t)c0 * row, conv->strip, block, err));
    return pack_block(engine, conv, weights, block, err);
}

static bb_status plan_blocks(bb_engine *engine, const bb_conv_desc *d, size_t n,
                             const int16_t *weights, bb_conv_plan *conv, bb_error *err) {
    const int32_t groups = (d->out_channels + BLOCK_CHANNELS - 1) / BLOCK_CHANNELS;
    conv->blocks = bb_engine_array(engine, n, sizeof(*conv->blocks));
    if (!conv->blocks)
        return bb_fail_memory(err, "a convolution plan");
    conv->n_blocks = n;
    for (size_t i = 0; i < n; i++) {
        const int32_t first = (int32_t)((size_t)groups * i / n) * BLOCK_CHANNELS;
        int32_t last = (int32_t)((size_t)groups * (i + 1) / n) * BLOCK_CHANNELS;
        last = last < d->out_channels ? last : d->out_channels;
        BB_TRY(plan_block(engine, d, first, last, conv, weights, &conv->blocks[i], err));
    }
    return BB_STATUS_OK;
}

/* The one border vector of all pixels, if there is one. Its sum is that of P for codes 0, so it is
 * below max_p too: it did not wrap, and 2*acc = P - border fits an int32. */
static const int32_t *constant_border(const bb_border *border, int64_t max_p) {
    const bool single = border->n_row_classes == 1 && border->n_column_classes == 1;
    return single && max_p < (int64_t)1 << 30 ? border->vectors : NULL;
}

static bb_status plan_outputs(bb_engine *engine, bb_plan_node *plan, int64_t max_p, bb_error *err) {
    const bb_model_node *node = plan->node;
    const bb_requant_use use = {.channels = (uint32_t)engine->tensors[node->out[0]].c,
                                .z2_tensor = node->n_in == 2 ? node->in[1] : -1,
                                .max_z1 = max_p,
                                .border = constant_border(&plan->conv->border, max_p)};
    for (int i = 0; i < plan->n_out; i++)
        BB_TRY(bb_plan_requant(engine, &use, &plan->out[i], err));
    return BB_STATUS_OK;
}

static bb_status plan_with_weights(bb_engine *engine, bb_plan_node *plan, bb_conv_desc *d,
                                   int16_t *weights, bb_error *err) {
    const bb_model_node *node = plan->node;
    const bb_plan_tensor *in = &engine->tensors[node->in[0]];
    BB_TRY(read_weights(engine, node, d, weights, err));
    const bb_border_input border = {.desc = d,
                                    .weights = weights,
                                    .tap_add = params_of(engine, node)->tap_add,
                                    .zero = in->zero};
    BB_TRY(bb_border_build(engine, &border, &plan->conv->border, err));
    const partition parts = choose_partition(engine, d, plan->conv->images);
    plan->conv->strip = parts.strip;
    if (has_pools(engine, node))
        BB_TRY(plan_pools(engine, plan, err));
    BB_TRY(plan_blocks(engine, d, parts.blocks, weights, plan->conv, err));
    return plan_outputs(engine, plan, bb_border_max_p(&border), err);
}

static int16_t *allocate_weights(const bb_planes *planes) {
    size_t n;
    if (!bb_size_mul((size_t)planes->taps * planes->depth, planes->rows, &n))
        return NULL;
    return bb_alloc_array(n, sizeof(int16_t));
}

bb_status bb_plan_conv(bb_engine *engine, bb_plan_node *plan, bb_error *err) {
    bb_conv_desc desc = describe(engine, plan);
    plan->run = bb_run_conv;
    plan->conv = bb_engine_array(engine, 1, sizeof(*plan->conv));
    int16_t *weights = allocate_weights(plan->node->planes);
    if (!plan->conv || !weights) {
        bb_free(weights);
        return bb_fail_memory(err, "a convolution plan");
    }
    plan->conv->images = engine->tensors[plan->node->in[0]].n;
    if (!has_pools(engine, plan->node))
        plan->conv->images = merge_images(&desc, plan->conv->images);
    const bb_status status = plan_with_weights(engine, plan, &desc, weights, err);
    bb_free(weights);
    if (engine->tensors[plan->node->out[0]].elements > engine->accumulator_count)
        engine->accumulator_count = engine->tensors[plan->node->out[0]].elements;
    return status;
}

static bb_status repack(bb_engine *engine, bb_plan_node *plan, int16_t *weights, bb_error *err) {
    bb_conv_desc ignored = {0};
    BB_TRY(read_weights(engine, plan->node, &ignored, weights, err));
    for (size_t i = 0; i < plan->conv->n_blocks; i++)
        if (!plan->conv->blocks[i].packed)
            BB_TRY(pack_block(engine, plan->conv, weights, &plan->conv->blocks[i], err));
    return BB_STATUS_OK;
}

bb_status bb_conv_repack(bb_engine *engine, bb_plan_node *plan, bb_error *err) {
    int16_t *weights = allocate_weights(plan->node->planes);
    if (!weights)
        return bb_fail_memory(err, "a convolution plan");
    const bb_status status = repack(engine, plan, weights, err);
    bb_free(weights);
    return status;
}

void bb_conv_plan_release(bb_conv_plan *conv) {
    for (size_t i = 0; conv && i < conv->n_blocks; i++)
        bb_free_aligned(conv->blocks[i].packed);
}
