/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/requant.h"

static int32_t load(const void *p, size_t i, bb_element type) {
    if (type == BB_ELEMENT_U8)
        return ((const uint8_t *)p)[i];
    if (type == BB_ELEMENT_U16)
        return ((const uint16_t *)p)[i];
    return ((const int32_t *)p)[i];
}

static void store(void *p, size_t i, bb_element type, int32_t code) {
    if (type == BB_ELEMENT_U8)
        ((uint8_t *)p)[i] = (uint8_t)code;
    else
        ((uint16_t *)p)[i] = (uint16_t)code;
}

static int32_t first_operand(const bb_requant_job *job, int32_t p, int32_t i) {
    uint32_t z = (uint32_t)load(job->z1, (size_t)p * job->z1_stride + (size_t)i, job->z1_type);
    return (int32_t)((z << job->z1_shift) + (uint32_t)job->border[job->c0 + i]);
}

static int32_t second_operand(const bb_requant_tables *t, const bb_requant_job *job, int32_t p,
                              int32_t i) {
    if (!t->has_z2)
        return 0;
    return 2 * load(job->z2, (size_t)p * job->z2_stride + (size_t)i, job->z2_type) - t->zero2;
}

/* floor(a / b), b > 0. */
static int64_t floor_divide(int64_t a, int64_t b) {
    return a / b - (a % b < 0);
}

/* floor(value / (count * 2^shift)); two floors in a row are the floor of the product. */
static int64_t scale_down(int64_t value, uint8_t shift, int32_t count) {
    return floor_divide(floor_divide(value, (int64_t)1 << shift), count);
}

static int32_t linear_element(const bb_requant_tables *t, int32_t c, int32_t z1, int32_t z2,
                              int32_t count) {
    int64_t value = (int64_t)z1 * t->mult[c] + (int64_t)count * t->add[c];
    if (t->has_z2)
        value += (int64_t)z2 * t->mult2[c];
    if (t->has_slope) {
        if (value < 0) {
            value = (int64_t)z1 * t->neg_mult[c] + (int64_t)count * t->neg_add[c];
            if (t->has_z2)
                value += (int64_t)z2 * t->neg_mult2[c];
        }
        value += (int64_t)count * t->off[c];
    }
    int64_t code = scale_down(value, t->shift[c], count);
    return code < 0 ? 0 : code > t->limit ? t->limit : (int32_t)code;
}

static void linear(const bb_requant_tables *t, const bb_requant_job *job) {
    for (int32_t p = 0; p < job->n_pixels; p++)
        for (int32_t i = 0; i < job->n_channels; i++)
            store(job->out, (size_t)p * job->out_stride + (size_t)i, job->out_type,
                  linear_element(t, job->c0 + i, first_operand(job, p, i),
                                 second_operand(t, job, p, i), job->count));
}

static void indexed(const bb_requant_tables *t, const bb_requant_job *job) {
    for (int32_t p = 0; p < job->n_pixels; p++)
        for (int32_t i = 0; i < job->n_channels; i++)
            store(job->out, (size_t)p * job->out_stride + (size_t)i, job->out_type,
                  t->table[linear_element(t, job->c0 + i, first_operand(job, p, i),
                                          second_operand(t, job, p, i), job->count)]);
}

/* Thresholds ascend, so the codes not reached are those from the first larger threshold on. */
static int32_t threshold_element(const bb_requant_tables *t, int32_t c, int32_t z1) {
    int32_t low = 0, high = t->limit, z = z1 ^ t->flip[c];
    while (low < high) {
        int32_t middle = low + (high - low) / 2;
        if (t->thresholds[(size_t)middle * t->padded + (size_t)c] > z)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static void thresholds(const bb_requant_tables *t, const bb_requant_job *job) {
    for (int32_t p = 0; p < job->n_pixels; p++)
        for (int32_t i = 0; i < job->n_channels; i++)
            store(job->out, (size_t)p * job->out_stride + (size_t)i, job->out_type,
                  threshold_element(t, job->c0 + i, first_operand(job, p, i)));
}

static float float_element(const bb_requant_tables *t, int32_t c, int32_t z1, int32_t z2,
                           int32_t count) {
    double value = (double)z1;
    if (count != 1)
        value /= count;
    value *= t->scale[c];
    if (t->has_z2)
        value += (double)z2 * t->scale2[c];
    return (float)(value + t->bias[c]);
}

static void to_float(const bb_requant_tables *t, const bb_requant_job *job) {
    for (int32_t p = 0; p < job->n_pixels; p++)
        for (int32_t i = 0; i < job->n_channels; i++)
            ((float *)job->out)[(size_t)p * job->out_stride + (size_t)i] = float_element(
                t, job->c0 + i, first_operand(job, p, i), second_operand(t, job, p, i), job->count);
}

const bb_requant_kernels bb_requant_ref = {"requant_ref", linear, thresholds, indexed, to_float};
