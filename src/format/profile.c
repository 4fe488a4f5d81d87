/* SPDX-License-Identifier: Apache-2.0 */
/* The PROF chunk: everything one choice of bits adds to the shared structure. Reading and writing
 * stand side by side, array for array. */
#include "format/chunks.h"

/* ---- reading --------------------------------------------------------------------------------- */

static void decode_linear(bb_decoder *d, bb_requant *r, uint8_t flags) {
    bool second = flags & BB_FLAG_SECOND, slopes = flags & BB_FLAG_SLOPES;
    size_t n = r->channels;
    r->mult = bb_decode_ints(d, n, BB_INT_I32);
    r->mult2 = second ? bb_decode_ints(d, n, BB_INT_I32) : NULL;
    r->add = bb_decode_ints(d, n, BB_INT_I64);
    r->shift = bb_decode_ints(d, n, BB_INT_U8);
    if (!slopes)
        return;
    r->neg_mult = bb_decode_ints(d, n, BB_INT_I32);
    r->neg_mult2 = second ? bb_decode_ints(d, n, BB_INT_I32) : NULL;
    r->neg_add = bb_decode_ints(d, n, BB_INT_I64);
    r->off = bb_decode_ints(d, n, BB_INT_I64);
}

static void decode_indexed(bb_decoder *d, bb_requant *r, uint8_t flags) {
    r->index_bits = bb_decode_u8(d);
    if (r->index_bits < 1 || r->index_bits > BB_MAX_INDEX_BITS) {
        bb_decode_fail(d, BB_STATUS_BAD_FILE, "a requantizer's table has a wrong size");
        return;
    }
    r->table = bb_decode_ints(d, (size_t)1 << r->index_bits, BB_INT_U16);
    decode_linear(d, r, flags);
}

/* bits <= 16 and channels <= 2^20 keep the product far below 2^64. */
static void decode_thresholds(bb_decoder *d, bb_requant *r, uint32_t bits) {
    r->rising = bb_decode_ints(d, r->channels, BB_INT_U8);
    r->thresholds =
        bb_decode_ints(d, (size_t)r->channels * ((UINT32_C(1) << bits) - 1), BB_INT_I32);
}

static void decode_float(bb_decoder *d, bb_requant *r, uint8_t flags) {
    r->scale = bb_decode_floats(d, r->channels);
    r->scale2 = flags & BB_FLAG_SECOND ? bb_decode_floats(d, r->channels) : NULL;
    r->bias = bb_decode_floats(d, r->channels);
}

static void decode_requant(bb_decoder *d, bb_requant *r, uint32_t channels, uint32_t bits) {
    r->kind = (bb_requant_kind)bb_decode_u8(d);
    if (r->kind == BB_REQUANT_NONE)
        return;
    uint8_t flags = bb_decode_u8(d);
    if (flags & ~(BB_FLAG_PER_CHANNEL | BB_FLAG_SECOND | BB_FLAG_SLOPES))
        bb_decode_fail(d, BB_STATUS_BAD_FILE, "a requantizer has unknown flags");
    r->channels = flags & BB_FLAG_PER_CHANNEL ? channels : 1;
    switch (r->kind) {
    case BB_REQUANT_LINEAR:
        decode_linear(d, r, flags);
        return;
    case BB_REQUANT_THRESHOLDS:
        decode_thresholds(d, r, bits);
        return;
    case BB_REQUANT_INDEXED:
        decode_indexed(d, r, flags);
        return;
    case BB_REQUANT_FLOAT:
        decode_float(d, r, flags);
        return;
    default:
        bb_decode_fail(d, BB_STATUS_UNSUPPORTED, "a requantizer is of an unknown kind");
    }
}

static void decode_tensor(bb_decoder *d, const bb_model_tensor *t, bb_tensor_params *p) {
    if (t->kind == BB_TENSOR_CODE) {
        p->bits = bb_decode_u8(d);
        p->step = bb_decode_f32(d);
        p->a0 = (int32_t)bb_decode_u32(d);
        if (p->bits < 1 || p->bits > BB_MAX_CODE_BITS)
            bb_decode_fail(d, BB_STATUS_BAD_FILE, "a tensor has codes of 0 or more than 16 bits");
    }
    if (bb_decode_ok(d))
        decode_requant(d, &p->requant, (uint32_t)t->dims[t->rank - 1], p->bits);
}

static void decode_conv(bb_decoder *d, const bb_planes *planes, bb_conv_params *p) {
    size_t taps_rows = (size_t)planes->taps * planes->rows; /* <= 2^24 * 2^20 */
    p->planes = bb_decode_u8(d);
    uint8_t flags = bb_decode_u8(d);
    if (flags & ~(BB_FLAG_OFFSET | BB_FLAG_TAP_ADD | BB_FLAG_SCALE))
        bb_decode_fail(d, BB_STATUS_BAD_FILE, "a convolution has unknown flags");
    if (flags & BB_FLAG_OFFSET)
        p->weight_offset = bb_decode_ints(d, planes->rows, BB_INT_I32);
    if (flags & BB_FLAG_TAP_ADD)
        p->tap_add = bb_decode_ints(d, taps_rows, BB_INT_I32);
    if (flags & BB_FLAG_SCALE)
        p->weight_scale = bb_decode_floats(d, planes->rows);
}

void bb_decode_profile(bb_decoder *d, bb_model *model) {
    uint32_t weight_bits = bb_decode_u8(d), activation_bits = bb_decode_u8(d);
    if (!bb_decode_ok(d))
        return;
    if (model->n_profiles >= BB_MAX_PROFILES) {
        bb_decode_fail(d, BB_STATUS_LIMIT, "there are too many profiles");
        return;
    }
    if (!bb_decode_charge(d, model->n_tensors, sizeof(bb_tensor_params)) ||
        !bb_decode_charge(d, model->n_nodes, sizeof(bb_conv_params)))
        return;
    bb_profile *profile = bb_model_add_profile(model, weight_bits, activation_bits);
    if (!profile) {
        bb_decode_fail(d, BB_STATUS_OUT_OF_MEMORY, "out of memory");
        return;
    }
    for (size_t t = 0; t < model->n_tensors && bb_decode_ok(d); t++)
        decode_tensor(d, &model->tensors[t], &profile->tensors[t]);
    for (size_t i = 0; i < model->n_nodes && bb_decode_ok(d); i++)
        if (model->nodes[i].kind == BB_NODE_CONV)
            decode_conv(d, model->nodes[i].planes, &profile->convs[i]);
}

/* ---- writing --------------------------------------------------------------------------------- */

static void encode_linear(bb_buffer *out, const bb_requant *r) {
    size_t n = r->channels;
    bb_encode_ints(out, r->mult, n, BB_INT_I32);
    if (r->mult2)
        bb_encode_ints(out, r->mult2, n, BB_INT_I32);
    bb_encode_ints(out, r->add, n, BB_INT_I64);
    bb_encode_ints(out, r->shift, n, BB_INT_U8);
    if (!r->neg_mult)
        return;
    bb_encode_ints(out, r->neg_mult, n, BB_INT_I32);
    if (r->neg_mult2)
        bb_encode_ints(out, r->neg_mult2, n, BB_INT_I32);
    bb_encode_ints(out, r->neg_add, n, BB_INT_I64);
    bb_encode_ints(out, r->off, n, BB_INT_I64);
}

static void encode_indexed(bb_buffer *out, const bb_requant *r) {
    bb_encode_u8(out, r->index_bits);
    bb_encode_ints(out, r->table, (size_t)1 << r->index_bits, BB_INT_U16);
    encode_linear(out, r);
}

static void encode_thresholds(bb_buffer *out, const bb_requant *r, uint32_t bits) {
    bb_encode_ints(out, r->rising, r->channels, BB_INT_U8);
    bb_encode_ints(out, r->thresholds, (size_t)r->channels * ((UINT32_C(1) << bits) - 1),
                   BB_INT_I32);
}

static void encode_float(bb_buffer *out, const bb_requant *r) {
    bb_encode_floats(out, r->scale, r->channels);
    if (r->scale2)
        bb_encode_floats(out, r->scale2, r->channels);
    bb_encode_floats(out, r->bias, r->channels);
}

static void encode_requant(bb_buffer *out, const bb_requant *r, uint32_t bits) {
    bb_encode_u8(out, r->kind);
    if (r->kind == BB_REQUANT_NONE)
        return;
    bool linear = r->kind == BB_REQUANT_LINEAR || r->kind == BB_REQUANT_INDEXED;
    bool second = linear ? r->mult2 != NULL : r->kind == BB_REQUANT_FLOAT && r->scale2 != NULL;
    unsigned flags = r->channels > 1 ? BB_FLAG_PER_CHANNEL : 0u;
    flags |= second ? BB_FLAG_SECOND : 0u;
    flags |= linear && r->neg_mult ? BB_FLAG_SLOPES : 0u;
    bb_encode_u8(out, flags);
    if (r->kind == BB_REQUANT_LINEAR)
        encode_linear(out, r);
    else if (r->kind == BB_REQUANT_THRESHOLDS)
        encode_thresholds(out, r, bits);
    else if (r->kind == BB_REQUANT_INDEXED)
        encode_indexed(out, r);
    else
        encode_float(out, r);
}

static void encode_conv(bb_buffer *out, const bb_planes *planes, const bb_conv_params *p) {
    bb_encode_u8(out, p->planes);
    unsigned flags = p->weight_offset ? BB_FLAG_OFFSET : 0u;
    flags |= p->tap_add ? BB_FLAG_TAP_ADD : 0u;
    flags |= p->weight_scale ? BB_FLAG_SCALE : 0u;
    bb_encode_u8(out, flags);
    if (p->weight_offset)
        bb_encode_ints(out, p->weight_offset, planes->rows, BB_INT_I32);
    if (p->tap_add)
        bb_encode_ints(out, p->tap_add, (size_t)planes->taps * planes->rows, BB_INT_I32);
    if (p->weight_scale)
        bb_encode_floats(out, p->weight_scale, planes->rows);
}

void bb_encode_profile(bb_buffer *out, const bb_model *model, const bb_profile *profile) {
    bb_encode_u8(out, profile->weight_bits);
    bb_encode_u8(out, profile->activation_bits);
    for (size_t t = 0; t < model->n_tensors; t++) {
        const bb_tensor_params *p = &profile->tensors[t];
        if (model->tensors[t].kind == BB_TENSOR_CODE) {
            bb_encode_u8(out, p->bits);
            bb_encode_f32(out, p->step);
            bb_encode_u32(out, (uint32_t)p->a0);
        }
        encode_requant(out, &p->requant, p->bits);
    }
    for (size_t i = 0; i < model->n_nodes; i++)
        if (model->nodes[i].kind == BB_NODE_CONV)
            encode_conv(out, model->nodes[i].planes, &profile->convs[i]);
}
