/* SPDX-License-Identifier: Apache-2.0 */
/* Nodes on codes but convolutions and pools. */
#include "engine/internal.h"
#include <string.h>

/* Pixels of one requantizer call: their codes stay in the first-level cache while the kernel goes
 * over the channels. */
enum { PIXEL_BLOCK = 16 };

static const uint8_t *row_of(const bb_context *context, int tensor, size_t row) {
    const bb_plan_tensor *t = &context->engine->tensors[tensor];
    return bb_tensor_data(context, tensor) + row * t->row * bb_element_size(t->type);
}

static void elementwise_block(const bb_context *context, const bb_plan_node *plan, size_t pixel,
                              int32_t n_pixels) {
    const bb_plan_tensor *tensors = context->engine->tensors;
    const bb_model_node *node = plan->node;
    const bb_plan_tensor *in = &tensors[node->in[0]];
    const size_t stride = (size_t)in->c, at = pixel * stride;
    bb_requant_job job = {.z1_type = in->type,
                          .z1_stride = stride,
                          .z1_shift = 1,
                          .border = plan->border,
                          .n_pixels = n_pixels,
                          .n_channels = in->c,
                          .count = 1};
    job.z1 = bb_tensor_data(context, node->in[0]) + at * bb_element_size(in->type);
    if (node->kind == BB_NODE_ADD) {
        job.z2_type = tensors[node->in[1]].type;
        job.z2_stride = stride;
        job.z2 = bb_tensor_data(context, node->in[1]) + at * bb_element_size(job.z2_type);
    }
    for (int i = 0; i < plan->n_out; i++) {
        const bb_plan_tensor *out = &tensors[plan->out[i].tensor];
        job.out_type = out->type;
        job.out_stride = out->step;
        job.out = bb_tensor_data(context, plan->out[i].tensor) +
                  pixel * out->step * bb_element_size(out->type);
        plan->out[i].fn(&plan->out[i].tables, &job);
    }
}

static void elementwise_rows(const bb_context *context, const bb_plan_node *plan, int32_t row0,
                             int32_t row1, size_t worker) {
    const size_t width = (size_t)context->engine->tensors[plan->node->in[0]].w;
    const size_t end = (size_t)row1 * width;
    (void)worker;
    for (size_t pixel = (size_t)row0 * width; pixel < end; pixel += PIXEL_BLOCK) {
        const size_t left = end - pixel;
        elementwise_block(context, plan, pixel, left < PIXEL_BLOCK ? (int32_t)left : PIXEL_BLOCK);
    }
}

void bb_run_elementwise(bb_context *context, const bb_plan_node *plan) {
    const bb_plan_tensor *in = &context->engine->tensors[plan->node->in[0]];
    bb_run_rows(context, plan, in->n * in->h, in->row, elementwise_rows);
}

/* ---- MUL ------------------------------------------------------------------------------------- */

static int32_t load_code(const void *p, size_t i, bb_element type) {
    return type == BB_ELEMENT_U8 ? ((const uint8_t *)p)[i] : ((const uint16_t *)p)[i];
}

/* (a1 - a01)*(a2 - a02) of one row; |product| < 2^31 is part of the model's checks. */
static void multiply_row(const bb_plan_tensor *a, const void *a_row, const bb_plan_tensor *b,
                         const void *b_row, size_t b_step, int32_t *products) {
    const size_t channels = (size_t)a->c;
    for (size_t x = 0; x < (size_t)a->w; x++)
        for (size_t c = 0; c < channels; c++) {
            const size_t i = x * channels + c;
            products[i] = (2 * load_code(a_row, i, a->type) - a->zero) *
                          (2 * load_code(b_row, x * b_step + c, b->type) - b->zero);
        }
}

static void multiply_rows(const bb_context *context, const bb_plan_node *plan, int32_t row0,
                          int32_t row1, size_t worker) {
    const bb_plan_tensor *tensors = context->engine->tensors;
    const bb_plan_tensor *a = &tensors[plan->node->in[0]], *b = &tensors[plan->node->in[1]];
    const bool broadcast = b->h == 1 && b->w == 1;
    int32_t *products = (int32_t *)(void *)bb_worker_scratch(context, worker);
    bb_requant_job job = {.z1 = products,
                          .z1_stride = (size_t)a->c,
                          .z1_type = BB_ELEMENT_I32,
                          .border = plan->border,
                          .n_pixels = a->w,
                          .n_channels = a->c,
                          .count = 1,
                          .out_stride = (size_t)a->c};
    for (size_t row = (size_t)row0; row < (size_t)row1; row++) {
        const size_t b_row = broadcast ? row / (size_t)a->h : row;
        multiply_row(a, row_of(context, plan->node->in[0], row), b,
                     row_of(context, plan->node->in[1], b_row), broadcast ? 0 : (size_t)b->c,
                     products);
        for (int i = 0; i < plan->n_out; i++) {
            job.out_type = tensors[plan->out[i].tensor].type;
            job.out = bb_tensor_data(context, plan->out[i].tensor) +
                      row * a->row * bb_element_size(job.out_type);
            plan->out[i].fn(&plan->out[i].tables, &job);
        }
    }
}

void bb_run_multiply(bb_context *context, const bb_plan_node *plan) {
    const bb_plan_tensor *in = &context->engine->tensors[plan->node->in[0]];
    bb_run_rows(context, plan, in->n * in->h, in->row, multiply_rows);
}

/* ---- copies ---------------------------------------------------------------------------------- */

static void concat_rows(const bb_context *context, const bb_plan_node *plan, int32_t row0,
                        int32_t row1, size_t worker) {
    const bb_plan_tensor *tensors = context->engine->tensors, *out = &tensors[plan->out[0].tensor];
    const size_t element = bb_element_size(out->type), step = (size_t)out->c * element;
    const size_t pixels = (size_t)(row1 - row0) * (size_t)out->w;
    uint8_t *to = bb_tensor_data(context, plan->out[0].tensor) + (size_t)row0 * out->row * element;
    (void)worker;
    for (int i = 0; i < plan->node->n_in; i++) {
        const uint8_t *from = row_of(context, plan->node->in[i], (size_t)row0);
        const size_t bytes = (size_t)tensors[plan->node->in[i]].c * element;
        for (size_t p = 0; p < pixels && !tensors[plan->node->in[i]].inside; p++)
            memcpy(to + p * step, from + p * bytes, bytes);
        to += bytes;
    }
}

/* Inputs that lie inside the output are there already. */
static bool has_copies(const bb_context *context, const bb_model_node *node) {
    for (int i = 0; i < node->n_in; i++)
        if (!context->engine->tensors[node->in[i]].inside)
            return true;
    return false;
}

void bb_run_concat(bb_context *context, const bb_plan_node *plan) {
    if (!has_copies(context, plan->node))
        return;
    const bb_plan_tensor *out = &context->engine->tensors[plan->out[0].tensor];
    bb_run_rows(context, plan, out->n * out->h, out->row, concat_rows);
}

static void gather_rows(const bb_context *context, const bb_plan_node *plan, int32_t row0,
                        int32_t row1, size_t worker) {
    const bb_plan_tensor *out = &context->engine->tensors[plan->out[0].tensor];
    const size_t in_c = (size_t)context->engine->tensors[plan->node->in[0]].c;
    const size_t out_c = (size_t)out->c, element = bb_element_size(out->type);
    const size_t pixels = (size_t)(row1 - row0) * (size_t)out->w;
    const int32_t *index = plan->node->channel_index;
    const uint8_t *from = row_of(context, plan->node->in[0], (size_t)row0);
    uint8_t *to = bb_tensor_data(context, plan->out[0].tensor) + (size_t)row0 * out->row * element;
    (void)worker;
    for (size_t p = 0; p < pixels; p++, from += in_c * element, to += out_c * element)
        for (size_t c = 0; c < out_c; c++) {
            if (element == 1)
                to[c] = from[index[c]];
            else
                memcpy(to + 2 * c, from + 2 * (size_t)index[c], 2);
        }
}

void bb_run_gather(bb_context *context, const bb_plan_node *plan) {
    const bb_plan_tensor *out = &context->engine->tensors[plan->out[0].tensor];
    bb_run_rows(context, plan, out->n * out->h, out->row, gather_rows);
}

static void resize_rows(const bb_context *context, const bb_plan_node *plan, int32_t row0,
                        int32_t row1, size_t worker) {
    const bb_plan_tensor *out = &context->engine->tensors[plan->out[0].tensor];
    const size_t element = bb_element_size(out->type), pixel = (size_t)out->c * element;
    const size_t fx = (size_t)plan->node->resize_factor[1];
    (void)worker;
    for (size_t row = (size_t)row0; row < (size_t)row1; row++) {
        /* Images follow one another in both tensors, so whole rows scale by the factor too. */
        const uint8_t *from =
            row_of(context, plan->node->in[0], row / (size_t)plan->node->resize_factor[0]);
        uint8_t *to = bb_tensor_data(context, plan->out[0].tensor) + row * out->row * element;
        for (size_t x = 0; x < (size_t)out->w; x++)
            memcpy(to + x * pixel, from + x / fx * pixel, pixel);
    }
}

void bb_run_resize(bb_context *context, const bb_plan_node *plan) {
    const bb_plan_tensor *out = &context->engine->tensors[plan->out[0].tensor];
    bb_run_rows(context, plan, out->n * out->h, out->row, resize_rows);
}

void bb_run_nothing(bb_context *context, const bb_plan_node *plan) {
    (void)context;
    (void)plan;
}

/* ---- QUANTIZE -------------------------------------------------------------------------------- */

enum { QUANTIZE_BLOCK = 256 };

/* n <= QUANTIZE_BLOCK values. Codes go to an array of their own first: with stores of bytes, which
 * might be to anything, the loop would not become vector code. */
static void quantize_block(const float *from, size_t n, double inv_step, double zero, int32_t top,
                           bb_element type, uint8_t *to) {
    uint16_t codes[QUANTIZE_BLOCK];
    for (size_t i = 0; i < n; i++)
        codes[i] = bb_quantize_value(from[i], inv_step, zero, top);
    if (type == BB_ELEMENT_U16)
        memcpy(to, codes, n * sizeof(*codes));
    else
        for (size_t i = 0; i < n; i++)
            to[i] = (uint8_t)codes[i];
}

static void quantize_output(const bb_context *context, int from_tensor, int to_tensor, size_t first,
                            size_t last) {
    const bb_plan_tensor *t = &context->engine->tensors[to_tensor];
    const float *from = (const float *)(const void *)bb_tensor_data(context, from_tensor);
    uint8_t *to = bb_tensor_data(context, to_tensor);
    double inv_step, zero;
    bb_quantize_constants(context->engine->profile->tensors[to_tensor].step, t->zero, &inv_step,
                          &zero);
    for (size_t i = first; i < last; i += QUANTIZE_BLOCK) {
        const size_t left = last - i;
        quantize_block(from + i, left < QUANTIZE_BLOCK ? left : QUANTIZE_BLOCK, inv_step, zero,
                       t->top, t->type, to + i * bb_element_size(t->type));
    }
}

static void quantize_rows(const bb_context *context, const bb_plan_node *plan, int32_t row0,
                          int32_t row1, size_t worker) {
    const size_t row = context->engine->tensors[plan->node->in[0]].row;
    (void)worker;
    for (int i = 0; i < plan->n_out; i++)
        quantize_output(context, plan->node->in[0], plan->out[i].tensor, (size_t)row0 * row,
                        (size_t)row1 * row);
}

void bb_run_quantize(bb_context *context, const bb_plan_node *plan) {
    const bb_plan_tensor *in = &context->engine->tensors[plan->node->in[0]];
    bb_run_rows(context, plan, in->n * in->h, in->row, quantize_rows);
}
