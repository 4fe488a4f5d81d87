/* SPDX-License-Identifier: Apache-2.0 */
#include "random_parts.h"
#include "random_model.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void random_die(const char *what) {
    fprintf(stderr, "random model: %s\n", what);
    exit(1);
}

void *random_array(maker *m, size_t n, size_t size) {
    void *p = bb_arena_array(m->model->arena, n, size);
    if (!p)
        random_die("out of memory");
    return p;
}

/* low..high inclusive. */
int64_t random_between(maker *m, int64_t low, int64_t high) {
    return low + (int64_t)bb_rng_below(&m->rng, (uint64_t)(high - low + 1));
}

bool random_chance(maker *m, int percent) {
    return random_between(m, 1, 100) <= percent;
}

/* ---- tensors --------------------------------------------------------------------------------- */

int random_add_tensor(maker *m, bb_tensor_kind kind, int rank, int64_t channels) {
    char name[32];
    const int64_t image[] = {-1, -1, -1, channels}, vector[] = {-1, channels};
    snprintf(name, sizeof(name), "t%zu", m->model->n_tensors);
    int t = bb_model_add_tensor(m->model, name, kind, rank, rank == 4 ? image : vector);
    if (t < 0)
        random_die("tensor");
    return t;
}

bb_model_node *random_add_node(maker *m, bb_node_kind kind, int n_in, const int *in, int n_out,
                               const int *out) {
    char name[32];
    snprintf(name, sizeof(name), "n%zu", m->model->n_nodes);
    bb_model_node *node = bb_model_add_node(m->model, name, kind, n_in, in, n_out, out);
    if (!node)
        random_die("node");
    return node;
}

/* Zero code in range, at an end, out of range, or between codes. */
static int32_t random_a0(maker *m, uint32_t bits) {
    const int32_t top = (1 << bits) - 1;
    switch (random_between(m, 0, 4)) {
    case 0:
        return -top;
    case 1:
        return (int32_t)(2 * random_between(m, 0, top)) - top;
    case 2:
        return 0;
    case 3:
        return (int32_t)random_between(m, -top, top);
    default:
        return (int32_t)random_between(m, top > 20000 ? -BB_MAX_A0 : -3 * top,
                                       top > 20000 ? BB_MAX_A0 : 3 * top);
    }
}

void random_grid(maker *m, bb_tensor_params *p, uint32_t bits) {
    p->bits = bits;
    p->a0 = random_a0(m, bits);
    p->step = (float)(0.001 + bb_rng_uniform(&m->rng));
}

/* ---- requantizers ---------------------------------------------------------------------------- */

/* mult/2^shift about `factor`, with |Z|*mult far enough below 2^53. */
static void fixed_point(double factor, double largest, int32_t *mult, uint8_t *shift) {
    int s = 0;
    double m = factor;
    while (s < BB_MAX_SHIFT && m < 1 << 20 && 2 * m * largest < (double)(INT64_C(1) << 51)) {
        m *= 2;
        s++;
    }
    *mult = m > (1 << 22) - 1 ? (1 << 22) - 1 : (int32_t)m;
    *shift = (uint8_t)s;
}

static void make_slope(maker *m, bb_requant *r, const use *u) {
    int32_t *mult = random_array(m, r->channels, sizeof(*mult)),
            *mult2 = random_array(m, r->channels, sizeof(*mult2));
    int64_t *add = random_array(m, r->channels, sizeof(*add)),
            *off = random_array(m, r->channels, sizeof(*off));
    for (uint32_t c = 0; c < r->channels; c++) {
        const int64_t half = (INT64_C(1) << r->shift[c]) / 2;
        mult[c] = -r->mult[c] / (int32_t)random_between(m, 2, 20);
        mult2[c] = r->mult2 ? r->mult2[c] / 3 : 0;
        add[c] = r->add[c] / 7;
        off[c] = half;
    }
    r->neg_mult = mult;
    r->neg_mult2 = u->second ? mult2 : NULL;
    r->neg_add = add;
    r->off = off;
}

static void make_linear(maker *m, bb_requant *r, const use *u, uint32_t bits) {
    int32_t *mult = random_array(m, r->channels, sizeof(*mult)),
            *mult2 = random_array(m, r->channels, sizeof(*mult2));
    int64_t *add = random_array(m, r->channels, sizeof(*add));
    uint8_t *shift = random_array(m, r->channels, 1);
    const double top = (double)((1u << bits) - 1);
    for (uint32_t c = 0; c < r->channels; c++) {
        const double factor = top / (u->spread * (0.5 + 4 * bb_rng_uniform(&m->rng)));
        fixed_point(factor, u->largest * u->n + 1, &mult[c], &shift[c]);
        if (random_chance(m, 15))
            mult[c] = -mult[c];
        if (random_chance(m, 3))
            mult[c] = 0;
        mult2[c] = (int32_t)random_between(m, -(mult[c] < 0 ? -mult[c] : mult[c]) - 1, 1 << 12);
        add[c] = (INT64_C(1) << shift[c]) / 2 +
                 (INT64_C(1) << shift[c]) * random_between(m, -2, (int64_t)top);
    }
    r->mult = mult;
    r->mult2 = u->second ? mult2 : NULL;
    r->add = add;
    r->shift = shift;
    if (random_chance(m, 30))
        make_slope(m, r, u);
}

static int ascending(const void *a, const void *b) {
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

static int descending(const void *a, const void *b) {
    return ascending(b, a);
}

static void make_thresholds(maker *m, bb_requant *r, const use *u, uint32_t bits) {
    const size_t steps = ((size_t)1 << bits) - 1;
    int32_t *t = random_array(m, r->channels * steps, sizeof(*t));
    uint8_t *rising = random_array(m, r->channels, 1);
    for (size_t c = 0; c < r->channels; c++) {
        int32_t *row = t + c * steps;
        for (size_t i = 0; i < steps; i++)
            row[i] = (int32_t)(4 * u->spread * (bb_rng_uniform(&m->rng) - 0.5));
        if (random_chance(m, 20))
            row[0] = random_chance(m, 50) ? INT32_MAX : INT32_MIN;
        rising[c] = random_chance(m, 70);
        qsort(row, steps, sizeof(*row), rising[c] ? ascending : descending);
    }
    r->thresholds = t;
    r->rising = rising;
}

static void make_table(maker *m, bb_requant *r, uint32_t bits) {
    uint16_t *table = random_array(m, (size_t)1 << r->index_bits, sizeof(*table));
    for (size_t i = 0; i < (size_t)1 << r->index_bits; i++)
        table[i] = (uint16_t)bb_rng_below(&m->rng, UINT64_C(1) << bits);
    r->table = table;
}

const float *random_floats(maker *m, size_t n, double scale) {
    float *p = random_array(m, n, sizeof(*p));
    for (size_t i = 0; i < n; i++)
        p[i] = (float)(scale * bb_rng_normal(&m->rng));
    return p;
}

void random_requant(maker *m, bb_tensor_params *p, bool floats, const use *u) {
    bb_requant *r = &p->requant;
    r->channels = random_chance(m, 75) ? (uint32_t)u->channels : 1;
    if (floats) {
        r->kind = BB_REQUANT_FLOAT;
        r->scale = random_floats(m, r->channels, 1 / u->spread);
        r->scale2 = u->second ? random_floats(m, r->channels, 0.1) : NULL;
        r->bias = random_floats(m, r->channels, 1);
    } else if (u->thresholds && random_chance(m, p->bits <= 8 ? 30 : 2)) {
        r->kind = BB_REQUANT_THRESHOLDS;
        make_thresholds(m, r, u, p->bits);
    } else if (random_chance(m, 20)) {
        r->kind = BB_REQUANT_INDEXED;
        r->index_bits = (uint32_t)random_between(m, 1, BB_MAX_INDEX_BITS);
        make_linear(m, r, u, r->index_bits);
        make_table(m, r, p->bits);
    } else {
        r->kind = BB_REQUANT_LINEAR;
        make_linear(m, r, u, p->bits);
    }
}

/* ---- convolutions ---------------------------------------------------------------------------- */

const bb_planes *random_planes(maker *m, uint32_t rows, uint32_t taps, uint32_t depth,
                               uint32_t count, bool native) {
    const size_t row = (size_t)taps * depth;
    uint8_t *codes = random_array(m, rows * row, 1);
    int16_t weights[BB_MAX_PLANES];
    for (size_t r = 0; r < rows; r++) {
        const bool extreme = random_chance(m, 15), high = random_chance(m, 50);
        for (size_t i = 0; i < row; i++)
            codes[r * row + i] = extreme ? (uint8_t)(high ? (1u << count) - 1 : 0)
                                         : (uint8_t)bb_rng_below(&m->rng, UINT64_C(1) << count);
    }
    for (uint32_t p = 0; p < count; p++)
        weights[p] = (int16_t)random_between(m, 1, count > 5 ? 20 : 4);
    const bb_planes *planes =
        native ? bb_planes_from_codes(m->model->arena, codes, rows, taps, depth, count)
               : bb_planes_from_weighted_codes(m->model->arena, codes, rows, taps, depth, count,
                                               weights);
    if (!planes)
        random_die("planes");
    return planes;
}

void random_conv_params(maker *m, bb_conv_params *p, const bb_planes *planes, uint32_t used) {
    p->planes = used;
    if (random_chance(m, 20)) {
        int32_t *offset = random_array(m, planes->rows, sizeof(*offset));
        for (uint32_t c = 0; c < planes->rows; c++)
            offset[c] = (int32_t)random_between(m, -3, 3);
        p->weight_offset = offset;
    }
    if (random_chance(m, 15)) {
        int32_t *add = random_array(m, (size_t)planes->taps * planes->rows, sizeof(*add));
        for (size_t i = 0; i < (size_t)planes->taps * planes->rows; i++)
            add[i] = (int32_t)random_between(m, -1000, 1000);
        p->tap_add = add;
    }
}

use random_conv_use(const bb_planes *planes, uint32_t bits, const bb_conv_params *params,
                    int channels, bool second) {
    double weight = 3, depth = (double)planes->taps * planes->depth;
    for (uint32_t p = 0; p < params->planes; p++)
        weight += planes->weight[p];
    const double level = 4.0 * (double)(1u << bits);
    double root = 1;
    while (root * root < depth)
        root++;
    return (use){.spread = root * weight * level / 4,
                 .largest = depth * (weight * level + 1000),
                 .n = 1,
                 .second = second,
                 .thresholds = !second,
                 .channels = channels};
}

int random_out_size(const conv_shape *s, int axis) {
    return bb_geometry_out(&s->geometry, axis, axis == 0 ? s->height : s->width);
}

void random_window(maker *m, conv_shape *s) {
    bb_geometry *g = &s->geometry;
    *g = (bb_geometry){{1, 1}, {1, 1}, {1, 1}, {0, 0}, {0, 0}, false, false};
    const bool plain = random_chance(m, 40);
    for (int axis = 0; axis < 2; axis++) {
        g->kernel[axis] = plain ? 3 : (int32_t)random_between(m, 1, 5);
        g->stride[axis] = plain ? 1 : (int32_t)random_between(m, 1, 3);
        g->dilation[axis] = random_chance(m, 20) ? (int32_t)random_between(m, 2, 3) : 1;
        g->pad_begin[axis] = plain ? 1 : (int32_t)random_between(m, 0, 4);
        g->pad_end[axis] = plain ? 1 : (int32_t)random_between(m, 0, 4);
    }
}

void random_fix_dims(bb_model *model, int tensor, const int64_t dims[4]) {
    memcpy(model->tensors[tensor].dims, dims, sizeof(model->tensors[tensor].dims));
}

bool random_valid(const bb_model *model) {
    bb_error err;
    if (bb_model_validate(model, &err) == BB_STATUS_OK)
        return true;
    if (err.status != BB_STATUS_LIMIT)
        random_die(err.message);
    return false;
}

void random_tensor(bb_rng *rng, const bb_tensor_params *params, size_t n, int32_t *codes,
                   float *floats) {
    const uint64_t kind = bb_rng_below(rng, 8);
    for (size_t i = 0; i < n; i++) {
        if (floats)
            floats[i] = (float)(2 * bb_rng_normal(rng));
        else
            codes[i] = kind == 0   ? 0
                       : kind == 1 ? (1 << params->bits) - 1
                                   : (int32_t)bb_rng_below(rng, UINT64_C(1) << params->bits);
    }
}
