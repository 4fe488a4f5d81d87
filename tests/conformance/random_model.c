/* SPDX-License-Identifier: Apache-2.0 */
#include "random_model.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Constants are laid out for the bits of one profile; the second profile gets its own. */
typedef struct maker {
    bb_model *model;
    bb_rng rng;
} maker;

static void die(const char *what) {
    fprintf(stderr, "random model: %s\n", what);
    exit(1);
}

static void *array(maker *m, size_t n, size_t size) {
    void *p = bb_arena_array(m->model->arena, n, size);
    if (!p)
        die("out of memory");
    return p;
}

/* low..high inclusive. */
static int64_t between(maker *m, int64_t low, int64_t high) {
    return low + (int64_t)bb_rng_below(&m->rng, (uint64_t)(high - low + 1));
}

static bool chance(maker *m, int percent) {
    return between(m, 1, 100) <= percent;
}

/* ---- tensors
 * ---------------------------------------------------------------------------------------- */

static int add_tensor(maker *m, bb_tensor_kind kind, int rank, int64_t channels) {
    char name[32];
    const int64_t image[] = {-1, -1, -1, channels}, vector[] = {-1, channels};
    snprintf(name, sizeof(name), "t%zu", m->model->n_tensors);
    int t = bb_model_add_tensor(m->model, name, kind, rank, rank == 4 ? image : vector);
    if (t < 0)
        die("tensor");
    return t;
}

static bb_model_node *add_node(maker *m, bb_node_kind kind, int n_in, const int *in, int n_out,
                               const int *out) {
    char name[32];
    snprintf(name, sizeof(name), "n%zu", m->model->n_nodes);
    bb_model_node *node = bb_model_add_node(m->model, name, kind, n_in, in, n_out, out);
    if (!node)
        die("node");
    return node;
}

/* Zero code in range, at an end, out of range, or between codes. */
static int32_t random_a0(maker *m, uint32_t bits) {
    const int32_t top = (1 << bits) - 1;
    switch (between(m, 0, 4)) {
    case 0:
        return -top;
    case 1:
        return (int32_t)(2 * between(m, 0, top)) - top;
    case 2:
        return 0;
    case 3:
        return (int32_t)between(m, -top, top);
    default:
        return (int32_t)between(m, top > 20000 ? -BB_MAX_A0 : -3 * top,
                                top > 20000 ? BB_MAX_A0 : 3 * top);
    }
}

static void set_grid(maker *m, bb_tensor_params *p, uint32_t bits) {
    p->bits = bits;
    p->a0 = random_a0(m, bits);
    p->step = (float)(0.001 + bb_rng_uniform(&m->rng));
}

/* ---- requantizers
 * ------------------------------------------------------------------------------------ */

/* What a requantizer is made for. */
typedef struct use {
    double spread;  /**< typical |Z1| of a position */
    double largest; /**< bound of |Z1| of a node */
    double n;       /**< most positions summed */
    bool second;    /**< Z2 takes part */
    bool thresholds;
    int channels;
} use;

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
    int32_t *mult = array(m, r->channels, sizeof(*mult)),
            *mult2 = array(m, r->channels, sizeof(*mult2));
    int64_t *add = array(m, r->channels, sizeof(*add)), *off = array(m, r->channels, sizeof(*off));
    for (uint32_t c = 0; c < r->channels; c++) {
        const int64_t half = (INT64_C(1) << r->shift[c]) / 2;
        mult[c] = -r->mult[c] / (int32_t)between(m, 2, 20);
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
    int32_t *mult = array(m, r->channels, sizeof(*mult)),
            *mult2 = array(m, r->channels, sizeof(*mult2));
    int64_t *add = array(m, r->channels, sizeof(*add));
    uint8_t *shift = array(m, r->channels, 1);
    const double top = (double)((1u << bits) - 1);
    for (uint32_t c = 0; c < r->channels; c++) {
        const double factor = top / (u->spread * (0.5 + 4 * bb_rng_uniform(&m->rng)));
        fixed_point(factor, u->largest * u->n + 1, &mult[c], &shift[c]);
        if (chance(m, 15))
            mult[c] = -mult[c];
        if (chance(m, 3))
            mult[c] = 0;
        mult2[c] = (int32_t)between(m, -(mult[c] < 0 ? -mult[c] : mult[c]) - 1, 1 << 12);
        add[c] =
            (INT64_C(1) << shift[c]) / 2 + (INT64_C(1) << shift[c]) * between(m, -2, (int64_t)top);
    }
    r->mult = mult;
    r->mult2 = u->second ? mult2 : NULL;
    r->add = add;
    r->shift = shift;
    if (chance(m, 30))
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
    int32_t *t = array(m, r->channels * steps, sizeof(*t));
    uint8_t *rising = array(m, r->channels, 1);
    for (size_t c = 0; c < r->channels; c++) {
        int32_t *row = t + c * steps;
        for (size_t i = 0; i < steps; i++)
            row[i] = (int32_t)(4 * u->spread * (bb_rng_uniform(&m->rng) - 0.5));
        if (chance(m, 20))
            row[0] = chance(m, 50) ? INT32_MAX : INT32_MIN;
        rising[c] = chance(m, 70);
        qsort(row, steps, sizeof(*row), rising[c] ? ascending : descending);
    }
    r->thresholds = t;
    r->rising = rising;
}

static void make_table(maker *m, bb_requant *r, uint32_t bits) {
    uint16_t *table = array(m, (size_t)1 << r->index_bits, sizeof(*table));
    for (size_t i = 0; i < (size_t)1 << r->index_bits; i++)
        table[i] = (uint16_t)bb_rng_below(&m->rng, UINT64_C(1) << bits);
    r->table = table;
}

static const float *random_floats(maker *m, size_t n, double scale) {
    float *p = array(m, n, sizeof(*p));
    for (size_t i = 0; i < n; i++)
        p[i] = (float)(scale * bb_rng_normal(&m->rng));
    return p;
}

static void make_requant(maker *m, bb_tensor_params *p, bool floats, const use *u) {
    bb_requant *r = &p->requant;
    r->channels = chance(m, 75) ? (uint32_t)u->channels : 1;
    if (floats) {
        r->kind = BB_REQUANT_FLOAT;
        r->scale = random_floats(m, r->channels, 1 / u->spread);
        r->scale2 = u->second ? random_floats(m, r->channels, 0.1) : NULL;
        r->bias = random_floats(m, r->channels, 1);
    } else if (u->thresholds && chance(m, p->bits <= 8 ? 30 : 2)) {
        r->kind = BB_REQUANT_THRESHOLDS;
        make_thresholds(m, r, u, p->bits);
    } else if (chance(m, 20)) {
        r->kind = BB_REQUANT_INDEXED;
        r->index_bits = (uint32_t)between(m, 1, BB_MAX_INDEX_BITS);
        make_linear(m, r, u, r->index_bits);
        make_table(m, r, p->bits);
    } else {
        r->kind = BB_REQUANT_LINEAR;
        make_linear(m, r, u, p->bits);
    }
}

/* ---- convolutions
 * -------------------------------------------------------------------------------------- */

static const bb_planes *random_planes(maker *m, uint32_t rows, uint32_t taps, uint32_t depth,
                                      uint32_t count, bool native) {
    const size_t row = (size_t)taps * depth;
    uint8_t *codes = array(m, rows * row, 1);
    int16_t weights[BB_MAX_PLANES];
    for (size_t r = 0; r < rows; r++) {
        const bool extreme = chance(m, 15), high = chance(m, 50);
        for (size_t i = 0; i < row; i++)
            codes[r * row + i] = extreme ? (uint8_t)(high ? (1u << count) - 1 : 0)
                                         : (uint8_t)bb_rng_below(&m->rng, UINT64_C(1) << count);
    }
    for (uint32_t p = 0; p < count; p++)
        weights[p] = (int16_t)between(m, 1, count > 5 ? 20 : 4);
    const bb_planes *planes =
        native ? bb_planes_from_codes(m->model->arena, codes, rows, taps, depth, count)
               : bb_planes_from_weighted_codes(m->model->arena, codes, rows, taps, depth, count,
                                               weights);
    if (!planes)
        die("planes");
    return planes;
}

static void make_conv_params(maker *m, bb_conv_params *p, const bb_planes *planes, uint32_t used) {
    p->planes = used;
    if (chance(m, 20)) {
        int32_t *offset = array(m, planes->rows, sizeof(*offset));
        for (uint32_t c = 0; c < planes->rows; c++)
            offset[c] = (int32_t)between(m, -3, 3);
        p->weight_offset = offset;
    }
    if (chance(m, 15)) {
        int32_t *add = array(m, (size_t)planes->taps * planes->rows, sizeof(*add));
        for (size_t i = 0; i < (size_t)planes->taps * planes->rows; i++)
            add[i] = (int32_t)between(m, -1000, 1000);
        p->tap_add = add;
    }
}

static use conv_use(const bb_planes *planes, uint32_t bits, const bb_conv_params *params,
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

typedef struct conv_shape {
    int height, width, cin, cout, groups;
    bb_geometry geometry;
} conv_shape;

static int out_size(const conv_shape *s, int axis) {
    return bb_geometry_out(&s->geometry, axis, axis == 0 ? s->height : s->width);
}

static void random_channels(maker *m, conv_shape *s) {
    const int kind = (int)between(m, 0, 9);
    s->groups = 1;
    s->cin = (int)between(m, 1, chance(m, 50) ? 20 : 140);
    s->cout = (int)between(m, 1, chance(m, 50) ? 20 : 140);
    if (kind == 0) {
        s->groups = s->cout = s->cin;
    } else if (kind == 1) {
        s->groups = (int)between(m, 2, 4);
        s->cin = s->groups * (int)between(m, 1, 12);
        s->cout = s->groups * (int)between(m, 1, 12);
    } else if (kind == 2) {
        s->cin = 16 * (int)between(m, 1, 8);
        s->cout = 16 * (int)between(m, 1, 8);
    }
}

static void random_window(maker *m, conv_shape *s) {
    bb_geometry *g = &s->geometry;
    *g = (bb_geometry){{1, 1}, {1, 1}, {1, 1}, {0, 0}, {0, 0}, false, false};
    const bool plain = chance(m, 40);
    for (int axis = 0; axis < 2; axis++) {
        g->kernel[axis] = plain ? 3 : (int32_t)between(m, 1, 5);
        g->stride[axis] = plain ? 1 : (int32_t)between(m, 1, 3);
        g->dilation[axis] = chance(m, 20) ? (int32_t)between(m, 2, 3) : 1;
        g->pad_begin[axis] = plain ? 1 : (int32_t)between(m, 0, 4);
        g->pad_end[axis] = plain ? 1 : (int32_t)between(m, 0, 4);
    }
}

/* Kept small enough for plain loops; a tenth are fully connected with up to 5000 inputs. */
static conv_shape random_shape(maker *m) {
    conv_shape s;
    for (;;) {
        random_channels(m, &s);
        random_window(m, &s);
        s.height = (int)between(m, 1, 12);
        s.width = (int)between(m, 1, 20);
        if (chance(m, 10)) {
            s.geometry = (bb_geometry){{1, 1}, {1, 1}, {1, 1}, {0, 0}, {0, 0}, false, false};
            s.groups = s.height = s.width = 1;
            s.cin = (int)between(m, 1, 5000);
            s.cout = (int)between(m, 1, 80);
        }
        const double macs = (double)out_size(&s, 0) * out_size(&s, 1) * s.cout *
                            (s.cin / s.groups) * s.geometry.kernel[0] * s.geometry.kernel[1];
        if (macs > 0 && macs < 600e3)
            return s;
    }
}

static void set_fixed_dims(bb_model *model, int tensor, const int64_t dims[4]) {
    memcpy(model->tensors[tensor].dims, dims, sizeof(model->tensors[tensor].dims));
}

/* Inputs x (and a residual), one to three outputs of which one may be float. */
static void build_conv_nodes(maker *m, const conv_shape *s, bool second, uint32_t planes,
                             bool native) {
    int in[2], out[3];
    const int n_out = chance(m, 70) ? 1 : (int)between(m, 2, 3);
    const int64_t batch = between(m, 1, 3);
    in[0] = add_tensor(m, BB_TENSOR_CODE, 4, s->cin);
    set_fixed_dims(m->model, in[0], (int64_t[]){batch, s->height, s->width, s->cin});
    bb_model_add_input(m->model, in[0]);
    if (second) {
        in[1] = add_tensor(m, BB_TENSOR_CODE, 4, s->cout);
        set_fixed_dims(m->model, in[1],
                       (int64_t[]){batch, out_size(s, 0), out_size(s, 1), s->cout});
        bb_model_add_input(m->model, in[1]);
    }
    for (int i = 0; i < n_out; i++) {
        out[i] = add_tensor(m, chance(m, 12) ? BB_TENSOR_FLOAT : BB_TENSOR_CODE, 4, s->cout);
        bb_model_add_output(m->model, out[i]);
    }
    bb_model_node *node = add_node(m, BB_NODE_CONV, second ? 2 : 1, in, n_out, out);
    node->geometry = s->geometry;
    node->groups = (uint32_t)s->groups;
    node->planes = random_planes(m, (uint32_t)s->cout,
                                 (uint32_t)(s->geometry.kernel[0] * s->geometry.kernel[1]),
                                 (uint32_t)(s->cin / s->groups), planes, native);
}

static bool valid(const bb_model *model) {
    bb_error err;
    if (bb_model_validate(model, &err) == BB_STATUS_OK)
        return true;
    if (err.status != BB_STATUS_LIMIT)
        die(err.message);
    return false;
}

static bb_model *try_conv_model(uint64_t seed, uint32_t activation_bits, uint32_t weight_bits) {
    maker m = {.model = bb_model_create()};
    if (!m.model)
        die("out of memory");
    bb_rng_seed(&m.rng, seed);
    const conv_shape s = random_shape(&m);
    const bool second = chance(&m, 30), native = chance(&m, 75);
    const uint32_t planes =
        native && chance(&m, 20) ? (uint32_t)between(&m, weight_bits, 8) : weight_bits;
    m.model->name = bb_arena_strdup(m.model->arena, "conv");
    build_conv_nodes(&m, &s, second, planes, native);
    bb_profile *profile = bb_model_add_profile(m.model, weight_bits, activation_bits);
    const bb_model_node *node = &m.model->nodes[0];
    set_grid(&m, &profile->tensors[node->in[0]], activation_bits);
    if (second)
        set_grid(&m, &profile->tensors[node->in[1]], (uint32_t)between(&m, 1, 16));
    make_conv_params(&m, &profile->convs[0], node->planes, weight_bits);
    const use u = conv_use(node->planes, activation_bits, &profile->convs[0], s.cout, second);
    for (int i = 0; i < node->n_out; i++) {
        bb_tensor_params *p = &profile->tensors[node->out[i]];
        const bool floats = m.model->tensors[node->out[i]].kind == BB_TENSOR_FLOAT;
        if (!floats)
            set_grid(&m, p, (uint32_t)between(&m, 1, chance(&m, 80) ? 8 : 16));
        make_requant(&m, p, floats, &u);
    }
    if (valid(m.model))
        return m.model;
    bb_model_destroy(m.model);
    return NULL;
}

bb_model *random_conv_model(uint64_t seed, uint32_t activation_bits, uint32_t weight_bits) {
    for (uint64_t attempt = 0; attempt < 100; attempt++) {
        bb_model *model = try_conv_model(seed + attempt * UINT64_C(0x9e3779b97f4a7c15),
                                         activation_bits, weight_bits);
        if (model)
            return model;
    }
    die("no convolution within the bounds");
    return NULL;
}

/* ---- networks
 * -------------------------------------------------------------------------------------------- */

enum { MAX_LIVE = 64 };

/* Tensors that nodes may still read, with their concrete sizes. */
typedef struct live {
    int tensor, height, width, channels;
    bool floats, vector;
    uint32_t bits[2]; /**< by profile */
} live;

typedef struct network {
    maker m;
    live tensors[MAX_LIVE];
    int n;
    /* Grids and requantizers can only be set once the profiles exist: remembered until then. */
    struct made {
        int tensor;
        use use[2];
        uint32_t bits[2];
        bool requant;
        int same_grid; /**< tensor whose grid it shares, or -1 */
    } made[256];
    int n_made;
    struct conv_made {
        size_t node;
        uint32_t planes[2];
    } convs[64];
    int n_convs;
} network;

static live *keep(network *w, int tensor, const live *like, int channels) {
    if (w->n == MAX_LIVE)
        die("too many tensors");
    live *t = &w->tensors[w->n++];
    *t = *like;
    t->tensor = tensor;
    t->channels = channels;
    return t;
}

static const live *pick(network *w, bool floats) {
    for (int tries = 0; tries < 100; tries++) {
        const live *t = &w->tensors[between(&w->m, 0, w->n - 1)];
        if (t->floats == floats)
            return t;
    }
    return NULL;
}

/* A new output of the running node; conv_use is filled in later where `u` is NULL. */
static int make_output(network *w, live shape, const use u[2], int same_grid) {
    maker *m = &w->m;
    int t = add_tensor(m, shape.floats ? BB_TENSOR_FLOAT : BB_TENSOR_CODE, shape.vector ? 2 : 4,
                       shape.channels);
    struct made *made = &w->made[w->n_made++];
    *made = (struct made){.tensor = t, .same_grid = same_grid, .requant = u != NULL};
    for (int p = 0; p < 2; p++) {
        made->bits[p] = shape.bits[p];
        if (u)
            made->use[p] = u[p];
    }
    keep(w, t, &shape, shape.channels);
    return t;
}

static live with_random_bits(network *w, live shape, bool may_float) {
    shape.floats = may_float && chance(&w->m, 12);
    for (int p = 0; p < 2; p++)
        shape.bits[p] = (uint32_t)between(&w->m, 1, chance(&w->m, 85) ? 8 : 16);
    return shape;
}

static void level_uses(const network *w, const live *a, double n, bool second, use u[2]) {
    (void)w;
    for (int p = 0; p < 2; p++)
        u[p] = (use){.spread = 2.0 * (double)(1u << a->bits[p]),
                     .largest = 4.0 * (double)(1u << a->bits[p]),
                     .n = n,
                     .second = second,
                     .thresholds = !second && n == 1,
                     .channels = a->channels};
}

static bool convolvable(const live *t) {
    return t->bits[0] <= 8 && t->bits[1] <= 8;
}

static bool append_conv(network *w) {
    maker *m = &w->m;
    const live *found = pick(w, false);
    if (!found || !convolvable(found) || w->n_convs == 64)
        return false;
    live x = *found;
    conv_shape s = {.height = x.height, .width = x.width, .cin = x.channels};
    random_window(m, &s);
    if (x.vector)
        s.geometry = (bb_geometry){{1, 1}, {1, 1}, {1, 1}, {0, 0}, {0, 0}, false, false};
    s.groups = chance(m, 25) ? x.channels : 1;
    s.cout = s.groups > 1 ? x.channels : (int)between(m, 1, 40);
    live y = x;
    y.height = out_size(&s, 0);
    y.width = out_size(&s, 1);
    y.channels = s.cout;
    if (y.height < 1 || y.width < 1)
        return false;
    int in[2] = {x.tensor, -1}, n_in = 1, out[2], n_out = 1 + chance(m, 25);
    for (int i = 0; i < w->n && n_in == 1; i++) {
        const live *t = &w->tensors[i];
        if (!t->floats && t->height == y.height && t->width == y.width &&
            t->channels == y.channels && t->vector == y.vector && chance(m, 50))
            in[n_in++] = t->tensor;
    }
    const uint32_t planes = (uint32_t)between(m, 1, 8);
    const bool native = chance(m, 80);
    const bb_planes *weights =
        random_planes(m, (uint32_t)s.cout, (uint32_t)(s.geometry.kernel[0] * s.geometry.kernel[1]),
                      (uint32_t)(s.cin / s.groups), planes, native);
    struct conv_made *made = &w->convs[w->n_convs++];
    use u[2];
    for (int p = 0; p < 2; p++) {
        made->planes[p] = native ? (uint32_t)between(m, 1, planes) : planes;
        u[p] = conv_use(weights, x.bits[p], &(bb_conv_params){.planes = planes}, s.cout, n_in == 2);
    }
    for (int i = 0; i < n_out; i++)
        out[i] = make_output(w, with_random_bits(w, y, true), u, -1);
    made->node = m->model->n_nodes;
    bb_model_node *node = add_node(m, BB_NODE_CONV, n_in, in, n_out, out);
    node->geometry = s.geometry;
    node->groups = (uint32_t)s.groups;
    node->planes = weights;
    return true;
}

static bool append_elementwise(network *w) {
    maker *m = &w->m;
    const live *found = pick(w, false);
    if (!found)
        return false;
    live x = *found;
    int in[2] = {x.tensor, -1}, n_in = 1, out[3], n_out = (int)between(m, 1, 3);
    bb_node_kind kind = BB_NODE_REQUANT;
    for (int i = 0; i < w->n && n_in == 1; i++) {
        const live *t = &w->tensors[i];
        const bool same = t->height == x.height && t->width == x.width,
                   vector = t->height == 1 && t->width == 1;
        if (t->floats || t->channels != x.channels || chance(m, 40))
            continue;
        const bool small = x.bits[0] + t->bits[0] < 24 && x.bits[1] + t->bits[1] < 24;
        if (same && chance(m, 60))
            kind = BB_NODE_ADD;
        else if ((same || vector) && small)
            kind = BB_NODE_MUL;
        else
            continue;
        in[n_in++] = t->tensor;
        if (kind == BB_NODE_MUL) /* room for the product: as if the bits were those of both */
            for (int p = 0; p < 2; p++)
                x.bits[p] += t->bits[p] + 2;
    }
    use u[2];
    level_uses(w, &x, 1, kind == BB_NODE_ADD, u);
    for (int i = 0; i < n_out; i++)
        out[i] = make_output(w, with_random_bits(w, x, true), u, -1);
    add_node(m, kind, n_in, in, n_out, out);
    return true;
}

static bool pool_shape(network *w, const live *x, bb_geometry *g, live *y) {
    maker *m = &w->m;
    *y = *x;
    y->height = y->width = 1;
    *g = (bb_geometry){0};
    if (x->vector || chance(m, 20))
        return true;
    conv_shape s = {.height = x->height, .width = x->width};
    random_window(m, &s);
    for (int axis = 0; axis < 2; axis++) {
        s.geometry.kernel[axis] = (int32_t)between(m, 2, 4);
        s.geometry.pad_begin[axis] = (int32_t)between(m, 0, 1);
        s.geometry.pad_end[axis] = (int32_t)between(m, 0, 1);
    }
    s.geometry.ceil_mode = chance(m, 50);
    *g = s.geometry;
    y->height = out_size(&s, 0);
    y->width = out_size(&s, 1);
    return y->height > 0 && y->width > 0;
}

static bool append_pool(network *w) {
    const live *found = pick(w, false);
    live y;
    bb_geometry g;
    if (!found)
        return false;
    live x = *found;
    if (!pool_shape(w, &x, &g, &y))
        return false;
    if (chance(&w->m, 50)) {
        int out = make_output(w, y, NULL, x.tensor);
        add_node(&w->m, BB_NODE_MAX_POOL, 1, &x.tensor, 1, &out)->geometry = g;
        return true;
    }
    use u[2];
    int out[2], n_out = (int)between(&w->m, 1, 2);
    g.count_include_pad = g.kernel[0] > 0 && chance(&w->m, 50);
    level_uses(w, &x, g.kernel[0] ? g.kernel[0] * g.kernel[1] : x.height * x.width, false, u);
    for (int p = 0; p < 2; p++)
        u[p].thresholds = false;
    for (int i = 0; i < n_out; i++)
        out[i] = make_output(w, with_random_bits(w, y, true), u, -1);
    add_node(&w->m, BB_NODE_AVERAGE_POOL, 1, &x.tensor, n_out, out)->geometry = g;
    return true;
}

static bool append_copy(network *w) {
    maker *m = &w->m;
    const live *found = pick(w, false);
    if (!found)
        return false;
    const live x = *found;
    live y = x;
    int in[3] = {x.tensor, x.tensor, x.tensor};
    if (chance(m, 30)) {
        const int n_in = (int)between(m, 1, 3);
        y.channels *= n_in;
        if (y.channels > 200)
            return false;
        int out = make_output(w, y, NULL, x.tensor);
        add_node(m, BB_NODE_CONCAT, n_in, in, 1, &out);
    } else if (chance(m, 40)) {
        y.channels = (int)between(m, 1, 50);
        int out = make_output(w, y, NULL, x.tensor);
        bb_model_node *node = add_node(m, BB_NODE_GATHER_CHANNELS, 1, in, 1, &out);
        int32_t *index = array(m, (size_t)y.channels, sizeof(*index));
        for (int c = 0; c < y.channels; c++)
            index[c] = (int32_t)between(m, 0, x.channels - 1);
        node->channel_index = index;
        node->n_channel_index = (uint32_t)y.channels;
    } else if (chance(m, 50) && !x.vector) {
        const int fy = (int)between(m, 1, 3), fx = (int)between(m, 1, 3);
        y.height *= fy;
        y.width *= fx;
        if (y.height * y.width > 600)
            return false;
        int out = make_output(w, y, NULL, x.tensor);
        bb_model_node *node = add_node(m, BB_NODE_RESIZE_NEAREST, 1, in, 1, &out);
        node->resize_factor[0] = fy;
        node->resize_factor[1] = fx;
    } else {
        y.channels = x.height * x.width * x.channels;
        if (y.channels > 600)
            return false;
        y.height = y.width = 1;
        y.vector = true;
        int out = make_output(w, y, NULL, x.tensor);
        add_node(m, BB_NODE_RESHAPE, 1, in, 1, &out);
    }
    return true;
}

static bool append_quantize(network *w) {
    const live *found = pick(w, true);
    if (!found)
        return false;
    live x = *found;
    int out[2], n_out = (int)between(&w->m, 1, 2);
    for (int i = 0; i < n_out; i++)
        out[i] = make_output(w, with_random_bits(w, x, false), NULL, -1);
    add_node(&w->m, BB_NODE_QUANTIZE, 1, &x.tensor, n_out, out);
    return true;
}

static bool append_float_window(network *w, const live *x) {
    maker *m = &w->m;
    live y = *x;
    if (chance(m, 50)) {
        bb_geometry g;
        if (!pool_shape(w, x, &g, &y))
            return false;
        const bool average = chance(m, 50);
        g.count_include_pad = average && g.kernel[0] > 0 && chance(m, 50);
        int out = make_output(w, y, NULL, -1);
        bb_model_node *node = add_node(m, BB_NODE_FLOAT, 1, &x->tensor, 1, &out);
        node->float_op = average ? BB_FLOAT_AVERAGE_POOL : BB_FLOAT_MAX_POOL;
        node->geometry = g;
        return true;
    }
    conv_shape s = {.height = x->height, .width = x->width};
    random_window(m, &s);
    if (x->vector)
        s.geometry = (bb_geometry){{1, 1}, {1, 1}, {1, 1}, {0, 0}, {0, 0}, false, false};
    const int groups = chance(m, 25) ? x->channels : 1;
    y.channels = groups > 1 ? x->channels : (int)between(m, 1, 20);
    y.height = out_size(&s, 0);
    y.width = out_size(&s, 1);
    if (y.height < 1 || y.width < 1)
        return false;
    int out = make_output(w, y, NULL, -1);
    bb_model_node *node = add_node(m, BB_NODE_FLOAT, 1, &x->tensor, 1, &out);
    node->float_op = BB_FLOAT_CONV;
    node->geometry = s.geometry;
    node->groups = (uint32_t)groups;
    node->n_float_weights = (uint32_t)(y.channels * (x->channels / groups) * s.geometry.kernel[0] *
                                       s.geometry.kernel[1]);
    node->float_weights = random_floats(m, node->n_float_weights, 0.1);
    if (chance(m, 70)) {
        node->n_float_bias = (uint32_t)y.channels;
        node->float_bias = random_floats(m, node->n_float_bias, 1);
    }
    return true;
}

static bool append_float_pointwise(network *w, const live *x) {
    static const bb_float_op ops[] = {BB_FLOAT_ADD,        BB_FLOAT_MUL,     BB_FLOAT_RELU,
                                      BB_FLOAT_LEAKY_RELU, BB_FLOAT_SIGMOID, BB_FLOAT_HARD_SIGMOID,
                                      BB_FLOAT_HARD_SWISH, BB_FLOAT_SILU,    BB_FLOAT_TANH,
                                      BB_FLOAT_SOFTMAX,    BB_FLOAT_CONCAT,  BB_FLOAT_RESHAPE,
                                      BB_FLOAT_AFFINE};
    maker *m = &w->m;
    const bb_float_op op = ops[between(m, 0, (int64_t)BB_COUNT(ops) - 1)];
    const int in[2] = {x->tensor, x->tensor};
    const int n_in = op == BB_FLOAT_ADD || op == BB_FLOAT_MUL || op == BB_FLOAT_CONCAT ? 2 : 1;
    live y = *x;
    if (op == BB_FLOAT_CONCAT)
        y.channels *= 2;
    if (op == BB_FLOAT_RESHAPE) {
        y.channels *= y.height * y.width;
        y.height = y.width = 1;
        y.vector = true;
    }
    if (y.channels > 600)
        return false;
    int out = make_output(w, y, NULL, -1);
    bb_model_node *node = add_node(m, BB_NODE_FLOAT, n_in, in, 1, &out);
    node->float_op = op;
    node->alpha = op == BB_FLOAT_RELU ? 0.0f : 0.2f;
    node->beta = op == BB_FLOAT_RELU ? 6.0f : 0.5f;
    if (op == BB_FLOAT_AFFINE || (op == BB_FLOAT_LEAKY_RELU && chance(m, 50))) {
        node->n_float_weights = (uint32_t)x->channels;
        node->float_weights = random_floats(m, node->n_float_weights, 1);
    }
    if (op == BB_FLOAT_AFFINE && chance(m, 50)) {
        node->n_float_bias = (uint32_t)x->channels;
        node->float_bias = random_floats(m, node->n_float_bias, 1);
    }
    return true;
}

static bool append_float(network *w) {
    const live *found = pick(w, true);
    if (!found)
        return false;
    const live x = *found;
    return chance(&w->m, 35) ? append_float_window(w, &x) : append_float_pointwise(w, &x);
}

static void append_node(network *w) {
    static bool (*const kinds[])(network *) = {append_conv,  append_conv,       append_elementwise,
                                               append_pool,  append_copy,       append_quantize,
                                               append_float, append_elementwise};
    while (!kinds[between(&w->m, 0, (int64_t)BB_COUNT(kinds) - 1)](w))
        ;
}

static void add_input(network *w, bool floats) {
    maker *m = &w->m;
    live x = {.height = (int)between(m, 3, 12),
              .width = (int)between(m, 3, 12),
              .channels = (int)between(m, 1, 20),
              .floats = floats,
              .bits = {8, (uint32_t)between(m, 1, 8)}};
    const int t = make_output(w, x, NULL, -1);
    set_fixed_dims(m->model, t, (int64_t[]){between(m, 1, 2), x.height, x.width, x.channels});
    bb_model_add_input(m->model, t);
}

/* Every tensor that no node reads is an output. */
static void add_outputs(network *w) {
    bb_model *model = w->m.model;
    for (int t = (int)model->n_inputs; t < (int)model->n_tensors; t++) {
        bool used = false;
        for (size_t i = 0; i < model->n_nodes; i++)
            for (int k = 0; k < model->nodes[i].n_in; k++)
                used = used || model->nodes[i].in[k] == t;
        if (!used || chance(&w->m, 10))
            bb_model_add_output(model, t);
    }
}

static void fill_profile(network *w, int index) {
    maker *m = &w->m;
    bb_profile *profile = &m->model->profiles[index];
    for (int i = 0; i < w->n_made; i++) {
        const struct made *made = &w->made[i];
        bb_tensor_params *p = &profile->tensors[made->tensor];
        const bool floats = m->model->tensors[made->tensor].kind == BB_TENSOR_FLOAT;
        if (!floats && made->same_grid >= 0)
            *p = (bb_tensor_params){.bits = profile->tensors[made->same_grid].bits,
                                    .step = profile->tensors[made->same_grid].step,
                                    .a0 = profile->tensors[made->same_grid].a0};
        else if (!floats)
            set_grid(m, p, made->bits[index]);
        if (made->requant)
            make_requant(m, p, floats, &made->use[index]);
    }
    for (int i = 0; i < w->n_convs; i++)
        make_conv_params(m, &profile->convs[w->convs[i].node],
                         m->model->nodes[w->convs[i].node].planes, w->convs[i].planes[index]);
}

static bb_model *try_network(uint64_t seed) {
    network *w = calloc(1, sizeof(*w));
    if (!w || !(w->m.model = bb_model_create()))
        die("out of memory");
    bb_rng_seed(&w->m.rng, seed);
    w->m.model->name = bb_arena_strdup(w->m.model->arena, "network");
    add_input(w, chance(&w->m, 30));
    const int nodes = (int)between(&w->m, 3, 14);
    for (int i = 0; i < nodes; i++)
        append_node(w);
    add_outputs(w);
    for (int p = 0; p < 2; p++)
        if (!bb_model_add_profile(w->m.model, p ? 4 : 8, 8))
            die("profile");
    for (int p = 0; p < 2; p++)
        fill_profile(w, p);
    bb_model *model = w->m.model;
    free(w);
    if (valid(model))
        return model;
    bb_model_destroy(model);
    return NULL;
}

bb_model *random_network(uint64_t seed) {
    for (uint64_t attempt = 0; attempt < 100; attempt++) {
        bb_model *model = try_network(seed + attempt * UINT64_C(0x9e3779b97f4a7c15));
        if (model)
            return model;
    }
    die("no network within the bounds");
    return NULL;
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
