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

/* ---- max pools ------------------------------------------------------------------------------- */

enum { MAX_INPUTS = 8 }; /* of one call */

/* The maximum of n pieces, the first at `first` and the others `step` bytes apart. Where they are
 * more than one call takes there must be a single item. */
static void max_of(const bb_window_kernels *kernels, const bb_max_job *items, const uint8_t *first,
                   size_t step, size_t n) {
    const void *in[MAX_INPUTS];
    bb_max_job job = *items;
    job.in = in;
    for (size_t done = 0; done < n;) {
        size_t k = 0;
        if (done > 0)
            in[k++] = job.out;
        for (; k < MAX_INPUTS && done < n; done++)
            in[k++] = first + done * step;
        job.n = k;
        kernels->max(&job);
    }
}

/* Output pixels from x on whose windows are whole, as x's is; 1 where it is not. */
static int32_t whole_windows(const bb_pool_rows *pool, int32_t x, const bb_pool_span *span) {
    const bb_geometry *g = pool->geometry;
    if (g->kernel[1] == 0 || g->kernel[1] > MAX_INPUTS || span->count < g->kernel[1])
        return 1;
    const int32_t room = pool->width - 1 - (g->kernel[1] - 1) * g->dilation[1] - span->start;
    const int32_t n = room / g->stride[1] + 1, left = pool->out_width - x;
    return n < left ? n : left;
}

void bb_pool_max_row(const bb_pool_rows *pool, const uint8_t *first, size_t step, size_t n,
                     uint8_t *out) {
    const size_t channels = (size_t)pool->channels, element = bb_element_size(pool->type);
    const uint8_t *line = first;
    if (n > 1) {
        const bb_max_job rows = {.out = pool->line,
                                 .elements = (size_t)pool->width * channels,
                                 .count = 1,
                                 .type = pool->type};
        max_of(pool->kernels, &rows, first, step, n);
        line = pool->line;
    }
    bb_max_job columns = {.in_step = (size_t)pool->geometry->stride[1] * channels,
                          .out_step = pool->out_step,
                          .elements = channels,
                          .type = pool->type};
    for (int32_t x = 0; x < pool->out_width; x += (int32_t)columns.count) {
        const bb_pool_span span = bb_pool_span_at(pool->geometry, 1, x, pool->width);
        columns.count = (size_t)whole_windows(pool, x, &span);
        columns.out = out + (size_t)x * pool->out_step * element;
        max_of(pool->kernels, &columns, line + (size_t)span.start * channels * element,
               dilation_of(pool->geometry, 1) * channels * element, (size_t)span.count);
    }
}

static void max_rows(const bb_context *context, const bb_plan_node *plan, int32_t row0,
                     int32_t row1, size_t worker) {
    const bb_model_node *node = plan->node;
    const bb_plan_tensor *in = &context->engine->tensors[node->in[0]];
    const bb_plan_tensor *out = &context->engine->tensors[node->out[0]];
    const size_t element = bb_element_size(in->type);
    const bb_pool_rows pool = {.kernels = context->engine->window,
                               .geometry = &node->geometry,
                               .width = in->w,
                               .channels = in->c,
                               .out_width = out->w,
                               .out_step = (size_t)out->c,
                               .type = in->type,
                               .line = bb_worker_scratch(context, worker)};
    for (int32_t row = row0; row < row1; row++) {
        const bb_pool_span rows = bb_pool_span_at(&node->geometry, 0, row % out->h, in->h);
        const size_t first = (size_t)(row / out->h) * (size_t)in->h + (size_t)rows.start;
        bb_pool_max_row(&pool, bb_tensor_data(context, node->in[0]) + first * in->row * element,
                        in->row * element * dilation_of(&node->geometry, 0), (size_t)rows.count,
                        bb_tensor_data(context, node->out[0]) + (size_t)row * out->row * element);
    }
}

void bb_run_max_pool(bb_context *context, const bb_plan_node *plan) {
    const bb_plan_tensor *out = &context->engine->tensors[plan->node->out[0]];
    if (context->engine->tensors[plan->node->in[0]].passes && !context->tap)
        return; /* pooled by the convolution */
    bb_run_rows(context, plan, out->n * out->h, out->row, max_rows);
}

/* ---- average pools --------------------------------------------------------------------------- */

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
