/* SPDX-License-Identifier: Apache-2.0 */
/* Requantizer tables: the model's constants spread over all channels, in the forms the kernels
 * read. */
#include "engine/internal.h"
#include <string.h>

/* Allocates what a requantizer needs; after a failure `failed` is set and NULL returned. */
typedef struct builder {
    bb_engine *engine;
    const bb_requant *requant;
    size_t channels, padded;
    bool failed;
} builder;

static void *channel_array(builder *b, size_t size) {
    void *p = bb_engine_array(b->engine, b->padded, size);
    b->failed = b->failed || !p;
    return p;
}

/* Index of channel c in the model's arrays. */
static size_t source(const builder *b, size_t c) {
    return b->requant->channels == 1 ? 0 : c;
}

static const int32_t *spread_i32(builder *b, const int32_t *from) {
    int32_t *to = from ? channel_array(b, sizeof(*to)) : NULL;
    for (size_t c = 0; to && c < b->channels; c++)
        to[c] = from[source(b, c)];
    return to;
}

static const int64_t *spread_i64(builder *b, const int64_t *from) {
    int64_t *to = from ? channel_array(b, sizeof(*to)) : NULL;
    for (size_t c = 0; to && c < b->channels; c++)
        to[c] = from[source(b, c)];
    return to;
}

static const double *spread_float(builder *b, const float *from) {
    double *to = from ? channel_array(b, sizeof(*to)) : NULL;
    for (size_t c = 0; to && c < b->channels; c++)
        to[c] = (double)from[source(b, c)];
    return to;
}

/* 2^-shift, exact. */
static double down(uint8_t shift) {
    return 1.0 / (double)((uint64_t)1 << shift);
}

/* factor * mult * 2^-shift. */
static const double *scaled_mult(builder *b, const int32_t *mult, double factor) {
    double *to = mult ? channel_array(b, sizeof(*to)) : NULL;
    for (size_t c = 0; to && c < b->channels; c++)
        to[c] = factor * (double)mult[source(b, c)] * down(b->requant->shift[source(b, c)]);
    return to;
}

/* (add - zero2*mult2) * 2^-shift; the sum is T at Z1 = 0 with second code 0, so below 2^53. */
static const double *scaled_add(builder *b, const int64_t *add, const int32_t *mult2,
                                int32_t zero2) {
    double *to = add ? channel_array(b, sizeof(*to)) : NULL;
    for (size_t c = 0; to && c < b->channels; c++) {
        const size_t s = source(b, c);
        const int64_t value = add[s] - (mult2 ? (int64_t)zero2 * mult2[s] : 0);
        to[c] = (double)value * down(b->requant->shift[s]);
    }
    return to;
}

static void build_linear(builder *b, bb_requant_tables *t) {
    const bb_requant *r = b->requant;
    uint8_t *shift = channel_array(b, sizeof(*shift));
    for (size_t c = 0; shift && c < b->channels; c++)
        shift[c] = r->shift[source(b, c)];
    t->shift = shift;
    t->has_slope = r->neg_mult != NULL;
    t->mult = spread_i32(b, r->mult);
    t->add = spread_i64(b, r->add);
    t->mult_d = scaled_mult(b, r->mult, 1.0);
    t->add_d = scaled_add(b, r->add, t->has_z2 ? r->mult2 : NULL, t->zero2);
    if (t->has_z2) {
        t->mult2 = spread_i32(b, r->mult2);
        t->mult2_d = scaled_mult(b, r->mult2, 2.0);
    }
    if (!t->has_slope)
        return;
    t->neg_mult = spread_i32(b, r->neg_mult);
    t->neg_add = spread_i64(b, r->neg_add);
    t->off = spread_i64(b, r->off);
    t->neg_mult_d = scaled_mult(b, r->neg_mult, 1.0);
    t->neg_add_d = scaled_add(b, r->neg_add, t->has_z2 ? r->neg_mult2 : NULL, t->zero2);
    t->off_d = scaled_add(b, r->off, NULL, 0);
    if (t->has_z2) {
        t->neg_mult2 = spread_i32(b, r->neg_mult2);
        t->neg_mult2_d = scaled_mult(b, r->neg_mult2, 2.0);
    }
}

static int32_t *threshold_array(builder *b, int32_t limit) {
    size_t n;
    int32_t *to = NULL;
    if (bb_size_mul(b->padded, (size_t)limit, &n))
        to = bb_engine_array(b->engine, n, sizeof(*to));
    b->failed = b->failed || !to;
    return to;
}

static void build_thresholds(builder *b, bb_requant_tables *t) {
    const bb_requant *r = b->requant;
    int32_t *flip = channel_array(b, sizeof(*flip));
    int32_t *to = threshold_array(b, t->limit);
    if (b->failed)
        return;
    for (size_t c = 0; c < b->channels; c++) {
        const size_t s = source(b, c);
        const int32_t *from = r->thresholds + s * (size_t)t->limit;
        flip[c] = r->rising[s] ? 0 : -1;
        for (size_t i = 0; i < (size_t)t->limit; i++)
            to[i * b->padded + c] = from[i] ^ flip[c];
    }
    t->thresholds = to;
    t->flip = flip;
}

static void build_table(builder *b, bb_requant_tables *t) {
    const size_t n = (size_t)1 << b->requant->index_bits;
    uint16_t *table = bb_engine_array(b->engine, n + 1, sizeof(*table));
    if (table)
        memcpy(table, b->requant->table, n * sizeof(*table));
    b->failed = b->failed || !table;
    t->table = table;
    t->limit = (int32_t)n - 1;
}

/* The reference stays with the definition. */
static void build_floats(builder *b, const bb_requant_use *use, bb_requant_tables *t) {
    const bb_plan_tensor *second = t->has_z2 ? &b->engine->tensors[use->z2_tensor] : NULL;
    const bb_requant_range range = {.max_z1 = use->max_z1,
                                    .border = use->border,
                                    .max_u2 = second ? second->top : 0,
                                    .averages = use->averages};
    if (b->engine->requant == &bb_requant_ref)
        return;
    const bb_requant_floats room = {.mult = channel_array(b, sizeof(float)),
                                    .mult2 = channel_array(b, sizeof(float)),
                                    .low = channel_array(b, sizeof(float)),
                                    .high = channel_array(b, sizeof(float))};
    if (!b->failed)
        bb_requant_use_floats(t, &range, &room);
}

/* ---- one output ------------------------------------------------------------------------------ */

static bool uses_second(const bb_requant *r) {
    return r->kind == BB_REQUANT_FLOAT ? r->scale2 != NULL : r->mult2 != NULL;
}

static void build_kind(builder *b, const bb_requant_use *use, bb_plan_output *out) {
    const bb_requant_kernels *kernels = b->engine->requant;
    const bb_requant *r = b->requant;
    bb_requant_tables *t = &out->tables;
    if (r->kind == BB_REQUANT_LINEAR) {
        build_linear(b, t);
        build_floats(b, use, t);
        out->fn = kernels->linear;
    } else if (r->kind == BB_REQUANT_THRESHOLDS) {
        build_thresholds(b, t);
        out->fn = kernels->thresholds;
    } else if (r->kind == BB_REQUANT_INDEXED) {
        build_linear(b, t);
        build_table(b, t);
        out->fn = kernels->indexed;
    } else if (r->kind == BB_REQUANT_FLOAT) {
        t->scale = spread_float(b, r->scale);
        t->scale2 = t->has_z2 ? spread_float(b, r->scale2) : NULL;
        t->bias = spread_float(b, r->bias);
        out->fn = kernels->to_float;
    }
}

bb_status bb_plan_requant(bb_engine *engine, const bb_requant_use *use, bb_plan_output *out,
                          bb_error *err) {
    const bb_requant *r = &engine->profile->tensors[out->tensor].requant;
    bb_requant_tables *t = &out->tables;
    builder b = {.engine = engine, .requant = r, .channels = use->channels};
    t->channels = use->channels;
    t->padded = b.padded = bb_padded_channels(use->channels);
    t->limit = engine->tensors[out->tensor].top;
    t->has_z2 = use->z2_tensor >= 0 && uses_second(r);
    t->zero2 = t->has_z2 ? engine->tensors[use->z2_tensor].zero : 0;
    build_kind(&b, use, out);
    return b.failed ? bb_fail_memory(err, "requantizer tables") : BB_STATUS_OK;
}
