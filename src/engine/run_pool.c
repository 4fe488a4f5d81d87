/* SPDX-License-Identifier: Apache-2.0 */
/* Pools on codes. */
#include "engine/internal.h"

bb_pool_span bb_pool_span_at(const bb_geometry *g, int axis, int32_t out, int32_t size) {
    if (g->kernel[axis] == 0)
        return (bb_pool_span){0, size, size};
    const bb_tap_range valid = bb_valid_taps(out, g->stride[axis], g->dilation[axis],
                                             g->pad_begin[axis], g->kernel[axis], size);
    const int64_t start = (int64_t)out * g->stride[axis] - g->pad_begin[axis];
    bb_pool_span span = {.start = (int32_t)(start + (int64_t)valid.first * g->dilation[axis]),
                         .count = valid.last - valid.first};
    span.divisor = span.count;
    if (g->count_include_pad) /* the padding counts, what ceil_mode hangs over does not */
        span.divisor = bb_valid_taps(out, g->stride[axis], g->dilation[axis], 0, g->kernel[axis],
                                     size + g->pad_begin[axis] + g->pad_end[axis])
                           .last;
    return span;
}

static size_t dilation_of(const bb_geometry *g, int axis) {
    return g->kernel[axis] == 0 ? 1 : (size_t)g->dilation[axis];
}

static bb_window window_at(const bb_context *context, const bb_model_node *node, size_t image,
                           bb_pool_span rows, bb_pool_span columns) {
    const bb_plan_tensor *in = &context->engine->tensors[node->in[0]];
    const size_t first = (image * (size_t)in->h + (size_t)rows.start) * in->row +
                         (size_t)columns.start * (size_t)in->c;
    return (bb_window){.first =
                           bb_tensor_data(context, node->in[0]) + first * bb_element_size(in->type),
                       .row_stride = in->row * dilation_of(&node->geometry, 0),
                       .pixel_stride = (size_t)in->c * dilation_of(&node->geometry, 1),
                       .rows = rows.count,
                       .columns = columns.count,
                       .channels = in->c,
                       .type = in->type};
}

static void max_rows(const bb_context *context, const bb_plan_node *plan, int32_t row0,
                     int32_t row1, size_t worker) {
    const bb_model_node *node = plan->node;
    const bb_plan_tensor *in = &context->engine->tensors[node->in[0]];
    const bb_plan_tensor *out = &context->engine->tensors[node->out[0]];
    const size_t pixel = (size_t)out->c * bb_element_size(out->type);
    uint8_t *to = bb_tensor_data(context, node->out[0]) + (size_t)row0 * (size_t)out->w * pixel;
    (void)worker;
    for (int32_t row = row0; row < row1; row++) {
        const bb_pool_span rows = bb_pool_span_at(&node->geometry, 0, row % out->h, in->h);
        for (int32_t x = 0; x < out->w; x++, to += pixel) {
            const bb_window window = window_at(context, node, (size_t)(row / out->h), rows,
                                               bb_pool_span_at(&node->geometry, 1, x, in->w));
            context->engine->window->max(&window, to);
        }
    }
}

void bb_run_max_pool(bb_context *context, const bb_plan_node *plan) {
    const bb_plan_tensor *out = &context->engine->tensors[plan->node->out[0]];
    bb_run_rows(context, plan, out->n * out->h, out->row, max_rows);
}

/* The sums of one window become the codes (or floats) of one output pixel. */
static void requantize_sums(const bb_context *context, const bb_plan_node *plan, size_t pixel,
                            const int32_t *sums, const int32_t *border, int32_t divisor) {
    const bb_plan_tensor *tensors = context->engine->tensors;
    const int32_t channels = tensors[plan->node->in[0]].c;
    bb_requant_job job = {.z1 = sums,
                          .z1_stride = (size_t)channels,
                          .z1_type = BB_ELEMENT_I32,
                          .z1_shift = 1,
                          .border = border,
                          .n_pixels = 1,
                          .n_channels = channels,
                          .count = divisor,
                          .out_stride = (size_t)channels};
    for (int i = 0; i < plan->n_out; i++) {
        job.out_type = tensors[plan->out[i].tensor].type;
        job.out = bb_tensor_data(context, plan->out[i].tensor) +
                  pixel * (size_t)channels * bb_element_size(job.out_type);
        plan->out[i].fn(&plan->out[i].tables, &job);
    }
}

/* sum(a - a0) = 2*sum(u) - count*zero. */
static void fill_border(const bb_plan_tensor *in, int32_t count, int32_t *border) {
    const uint32_t value = 0u - (uint32_t)count * (uint32_t)in->zero;
    for (int32_t c = 0; c < in->c; c++)
        border[c] = (int32_t)value;
}

static void average_rows(const bb_context *context, const bb_plan_node *plan, int32_t row0,
                         int32_t row1, size_t worker) {
    const bb_model_node *node = plan->node;
    const bb_plan_tensor *in = &context->engine->tensors[node->in[0]];
    const bb_plan_tensor *out = &context->engine->tensors[node->out[0]];
    int32_t *sums = (int32_t *)(void *)bb_worker_scratch(context, worker);
    int32_t *border = sums + bb_padded_channels((size_t)in->c);
    int32_t summed = -1;
    for (int32_t row = row0; row < row1; row++) {
        const bb_pool_span rows = bb_pool_span_at(&node->geometry, 0, row % out->h, in->h);
        for (int32_t x = 0; x < out->w; x++) {
            const bb_pool_span columns = bb_pool_span_at(&node->geometry, 1, x, in->w);
            const bb_window window =
                window_at(context, node, (size_t)(row / out->h), rows, columns);
            if (summed != rows.count * columns.count)
                fill_border(in, summed = rows.count * columns.count, border);
            context->engine->window->sum(&window, sums);
            requantize_sums(context, plan, (size_t)row * (size_t)out->w + (size_t)x, sums, border,
                            rows.divisor * columns.divisor);
        }
    }
}

void bb_run_average_pool(bb_context *context, const bb_plan_node *plan) {
    const bb_plan_tensor *in = &context->engine->tensors[plan->node->in[0]];
    const bb_plan_tensor *out = &context->engine->tensors[plan->node->out[0]];
    const size_t work = (size_t)in->h * in->row / (size_t)out->h;
    bb_run_rows(context, plan, out->n * out->h, work, average_rows);
}
