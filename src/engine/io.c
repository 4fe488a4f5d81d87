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

/* Truncation is the floor of what is not negative. */
uint16_t bb_quantize_value(float x, double inv_step, double zero, int32_t top) {
    const double u = (double)x * inv_step + zero + 0.5;
    if (!(u >= 0.0))
        return 0;
    return u >= (double)top ? (uint16_t)top : (uint16_t)u;
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

static void store_code(uint8_t *data, bb_element type, size_t i, uint16_t code) {
    if (type == BB_ELEMENT_U8)
        data[i] = (uint8_t)code;
    else
        ((uint16_t *)(void *)data)[i] = code;
}

void bb_input_load_f32(bb_context *context, int tensor, const float *data) {
    const bb_plan_tensor *t = &context->engine->tensors[tensor];
    uint8_t *to = bb_tensor_data(context, tensor);
    const size_t pixels = (size_t)t->h * (size_t)t->w, channels = (size_t)t->c;
    double inv_step, zero;
    if (t->type == BB_ELEMENT_F32) {
        floats_to_nhwc(t, data, (float *)(void *)to);
        return;
    }
    bb_quantize_constants(context->engine->profile->tensors[tensor].step, t->zero, &inv_step,
                          &zero);
    for (size_t n = 0; n < (size_t)t->n; n++)
        for (size_t c = 0; c < channels; c++)
            for (size_t p = 0; p < pixels; p++)
                store_code(to, t->type, (n * pixels + p) * channels + c,
                           bb_quantize_value(data[(n * channels + c) * pixels + p], inv_step, zero,
                                             t->top));
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
