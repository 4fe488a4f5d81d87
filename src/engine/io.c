/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/io.h"
#include <string.h>

bb_element_type bb_public_type(bb_element type) {
    return type == BB_ELEMENT_U8 ? BB_TYPE_U8 : type == BB_ELEMENT_U16 ? BB_TYPE_U16 : BB_TYPE_F32;
}

void bb_quantize_constants(float step, int32_t zero, double *inv_step, double *offset) {
    *inv_step = 0.5 / (double)step;
    *offset = 0.5 * (double)zero;
}

static uint16_t largest_u8(const uint8_t *codes, size_t n) {
    uint8_t largest = 0;
    for (size_t i = 0; i < n; i++)
        largest = codes[i] > largest ? codes[i] : largest;
    return largest;
}

static uint16_t largest_u16(const uint16_t *codes, size_t n) {
    uint16_t largest = 0;
    for (size_t i = 0; i < n; i++)
        largest = codes[i] > largest ? codes[i] : largest;
    return largest;
}

/* Calls with element indices of NHWC and NCHW memory would cost more than these two loops. */
static void floats_to_nhwc(const bb_plan_tensor *t, const float *from, float *to) {
    const size_t pixels = (size_t)t->h * (size_t)t->w, channels = (size_t)t->c;
    for (size_t n = 0; n < (size_t)t->n; n++, from += pixels * channels, to += pixels * channels)
        for (size_t c = 0; c < channels; c++)
            for (size_t p = 0; p < pixels; p++)
                to[p * channels + c] = from[c * pixels + p];
}

static void floats_to_nchw(const bb_plan_tensor *t, const float *from, float *to) {
    const size_t pixels = (size_t)t->h * (size_t)t->w, channels = (size_t)t->c;
    for (size_t n = 0; n < (size_t)t->n; n++, from += pixels * channels, to += pixels * channels)
        for (size_t c = 0; c < channels; c++)
            for (size_t p = 0; p < pixels; p++)
                to[c * pixels + p] = from[p * channels + c];
}

bb_status bb_input_load(bb_context *context, int tensor, const void *data, bb_error *err) {
    const bb_plan_tensor *t = &context->engine->tensors[tensor];
    uint8_t *to = bb_tensor_data(context, tensor);
    if (t->type == BB_ELEMENT_F32) {
        floats_to_nhwc(t, data, (float *)(void *)to);
        return BB_STATUS_OK;
    }
    memcpy(to, data, t->elements * bb_element_size(t->type));
    if (t->bits == 8 || t->bits == 16)
        return BB_STATUS_OK;
    const uint16_t largest = t->type == BB_ELEMENT_U8
                                 ? largest_u8(to, t->elements)
                                 : largest_u16((const uint16_t *)(const void *)to, t->elements);
    if (largest > t->top)
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT,
                       "input '%s' holds code %d; its codes have %u bits, 0..%d",
                       context->engine->model->tensors[tensor].name, largest, t->bits, t->top);
    return BB_STATUS_OK;
}

void bb_output_store(const bb_context *context, int tensor, void *data) {
    const bb_plan_tensor *t = &context->engine->tensors[tensor];
    const uint8_t *from = bb_tensor_data(context, tensor);
    if (t->type == BB_ELEMENT_F32)
        floats_to_nchw(t, (const float *)(const void *)from, data);
    else
        memcpy(data, from, t->elements * bb_element_size(t->type));
}

/* ---- real values to codes -------------------------------------------------------------------- */

enum { LOAD_PIXELS = 4096, LOAD_BLOCK = 256 };

typedef struct load_job {
    const bb_plan_tensor *tensor;
    const float *from; /**< NCHW */
    uint8_t *to;
    double inv_step, zero;
    size_t tasks; /**< of one image */
} load_job;

/* One channel of a few pixels: quantized side by side, then spread over the pixels. */
static void load_block(const load_job *job, const float *from, size_t pixel, size_t channel,
                       size_t n) {
    const size_t channels = (size_t)job->tensor->c, first = pixel * channels + channel;
    uint16_t codes[LOAD_BLOCK];
    for (size_t p = 0; p < n; p++)
        codes[p] = bb_quantize_value(from[p], job->inv_step, job->zero, job->tensor->top);
    if (job->tensor->type == BB_ELEMENT_U8)
        for (size_t p = 0; p < n; p++)
            job->to[first + p * channels] = (uint8_t)codes[p];
    else
        for (size_t p = 0; p < n; p++)
            ((uint16_t *)(void *)job->to)[first + p * channels] = codes[p];
}

static void load_task(void *user, size_t task, size_t worker) {
    const load_job *job = user;
    const bb_plan_tensor *t = job->tensor;
    const size_t pixels = (size_t)t->h * (size_t)t->w, channels = (size_t)t->c;
    const size_t image = task / job->tasks, first = task % job->tasks * LOAD_PIXELS;
    const size_t end = pixels - first < LOAD_PIXELS ? pixels : first + LOAD_PIXELS;
    (void)worker;
    for (size_t p = first; p < end; p += LOAD_BLOCK) {
        const size_t n = end - p < LOAD_BLOCK ? end - p : LOAD_BLOCK;
        for (size_t c = 0; c < channels; c++)
            load_block(job, job->from + (image * channels + c) * pixels + p, image * pixels + p, c,
                       n);
    }
}

void bb_input_load_f32(bb_context *context, int tensor, const float *data) {
    const bb_plan_tensor *t = &context->engine->tensors[tensor];
    const size_t pixels = (size_t)t->h * (size_t)t->w;
    load_job job = {.tensor = t,
                    .from = data,
                    .to = bb_tensor_data(context, tensor),
                    .tasks = (pixels + LOAD_PIXELS - 1) / LOAD_PIXELS};
    if (t->type == BB_ELEMENT_F32) {
        floats_to_nhwc(t, data, (float *)(void *)job.to);
        return;
    }
    bb_quantize_constants(context->engine->profile->tensors[tensor].step, t->zero, &job.inv_step,
                          &job.zero);
    bb_pool_run(context->pool, job.tasks * (size_t)t->n, load_task, &job);
}

void bb_output_store_f32(const bb_context *context, int tensor, float *data) {
    const bb_plan_tensor *t = &context->engine->tensors[tensor];
    const uint8_t *from = bb_tensor_data(context, tensor);
    const size_t pixels = (size_t)t->h * (size_t)t->w, channels = (size_t)t->c;
    const double step = (double)context->engine->profile->tensors[tensor].step;
    if (t->type == BB_ELEMENT_F32) {
        floats_to_nchw(t, (const float *)(const void *)from, data);
        return;
    }
    for (size_t n = 0; n < (size_t)t->n; n++)
        for (size_t c = 0; c < channels; c++)
            for (size_t p = 0; p < pixels; p++) {
                const size_t i = (n * pixels + p) * channels + c;
                const int32_t code =
                    t->type == BB_ELEMENT_U8 ? from[i] : ((const uint16_t *)(const void *)from)[i];
                data[(n * channels + c) * pixels + p] = (float)(step * (2 * code - t->zero));
            }
}
