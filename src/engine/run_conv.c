/* SPDX-License-Identifier: Apache-2.0 */
/* Convolutions: strips of rows go to the kernel, its tiles come back here and leave as codes. */
#include "engine/internal.h"

typedef struct conv_tasks {
    const bb_context *context;
    const bb_plan_node *plan;
    size_t strips; /**< of one image */
} conv_tasks;

/* What finish_tile needs of the strip in work. */
typedef struct tile_state {
    const bb_border *border;
    const bb_plan_node *plan;
    bool one_class; /**< of border pixels */
    int32_t c0, channels, width;
    size_t image_pixel;    /**< first pixel of this image in the batch */
    int32_t *accumulators; /**< P for a tap, or NULL */
    bb_requant_job job[BB_MAX_NODE_OUTPUTS];
    uint8_t *out[BB_MAX_NODE_OUTPUTS]; /**< tensor starts */
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
        job->out =
            s->out[i] + (pixel * job->out_stride + (size_t)c) * bb_element_size(job->out_type);
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
        s->out[i] = bb_tensor_data(context, plan->out[i].tensor);
        s->job[i] = (bb_requant_job){.z1_type = BB_ELEMENT_I32,
                                     .z1_shift = 1,
                                     .no_border = plan->conv->border.all_zero,
                                     .count = 1,
                                     .out_stride = tensors[plan->out[i].tensor].step,
                                     .out_type = tensors[plan->out[i].tensor].type};
        if (s->z2) {
            s->job[i].z2_type = tensors[node->in[1]].type;
            s->job[i].z2_stride = (size_t)out->c;
        }
    }
}

static void run_task(void *user, size_t task, size_t worker) {
    const conv_tasks *t = user;
    const bb_conv_plan *conv = t->plan->conv;
    const bb_conv_block *block = &conv->blocks[task % conv->n_blocks];
    const size_t strip = task / conv->n_blocks % t->strips;
    const size_t image = task / conv->n_blocks / t->strips;
    const bb_conv_desc *d = &block->desc;
    const size_t codes = (size_t)d->in_height * (size_t)d->in_width * (size_t)d->in_channels;
    const int32_t y0 = (int32_t)strip * conv->strip, left = d->out_height - y0;
    tile_state state;
    start_tiles(&state, t->context, t->plan, d, image);
    state.c0 = block->c0;
    block->kernel->run(d, block->packed,
                       bb_tensor_data(t->context, t->plan->node->in[0]) + image * codes, y0,
                       y0 + (left < conv->strip ? left : conv->strip),
                       bb_worker_scratch(t->context, worker), finish_tile, &state);
}

void bb_run_conv(bb_context *context, const bb_plan_node *plan) {
    const bb_conv_plan *conv = plan->conv;
    const int32_t rows = conv->blocks[0].desc.out_height;
    conv_tasks tasks = {context, plan, (size_t)((rows + conv->strip - 1) / conv->strip)};
    bb_pool_run(context->pool, tasks.strips * (size_t)conv->images * conv->n_blocks, run_task,
                &tasks);
}
