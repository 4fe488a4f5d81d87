/* SPDX-License-Identifier: Apache-2.0 */
/* What each profile says: grids, requantizers, and the overflow bounds of model.h. */
#include "model/validate.h"
#include <math.h>

/* Largest magnitudes a requantizer may meet. */
typedef struct operands {
    int64_t z1;         /**< |Z1|, for all channels */
    const int64_t *row; /**< |Z1| by output channel, or NULL */
    int64_t z2;         /**< |Z2|; -1 = there is no second operand */
    int64_t n;          /**< summed positions */
    bool average;       /**< AVERAGE pools: no thresholds */
} operands;

/* Where a message comes from. */
typedef struct place {
    const bb_model *model;
    const bb_profile *profile;
    const bb_model_node *node;
    const char *tensor;
    bb_error *err;
} place;

static bb_status fail_at(const place *at, bb_status status, const char *what) {
    return bb_fail(at->err, status, "profile '%s': node '%s', tensor '%s': %s", at->profile->name,
                   at->node->name, at->tensor, what);
}

static bb_status fail_bound(const place *at, uint32_t channel, const char *what) {
    return bb_fail(at->err, BB_STATUS_LIMIT,
                   "profile '%s': node '%s', tensor '%s', channel %u: %s could overflow",
                   at->profile->name, at->node->name, at->tensor, channel, what);
}

static int64_t magnitude(int64_t x) {
    return x < 0 ? -x : x;
}

/* max |a - a0|: a in -L..L. With L < 2^16 and |a0| < 2^16 this stays below 2^17. */
static int64_t level_bound(const bb_tensor_params *p) {
    return ((INT64_C(1) << p->bits) - 1) + magnitude(p->a0);
}

/* ---- requantizers ---------------------------------------------------------------------------- */

typedef struct slope {
    const int32_t *mult, *mult2;
    const int64_t *add;
} slope;

/* n*|x| < BB_MAX_T without overflow. */
static bool scaled_fits(int64_t x, int64_t n) {
    return x > -BB_MAX_T && x < BB_MAX_T && magnitude(x) <= (BB_MAX_T - 1) / n;
}

/*
 * Every intermediate of T = Z1*m1 + Z2*m2 + n*add [+ n*off] is at most the sum of the terms'
 * magnitudes: |Z1*m1| < 2^31 * 2^22, |Z2*m2| < 2^17 * 2^22 and two terms below 2^53 each, which
 * int64 holds.
 */
static bool slope_fits(const slope *s, int64_t off, uint32_t c, const operands *z, int64_t z1) {
    if (magnitude(s->mult[c]) >= BB_MAX_MULT ||
        (z->z2 >= 0 && magnitude(s->mult2[c]) >= BB_MAX_MULT))
        return false;
    if (!scaled_fits(s->add[c], z->n) || !scaled_fits(off, z->n))
        return false;
    int64_t t = z1 * magnitude(s->mult[c]) + z->n * magnitude(s->add[c]) + z->n * magnitude(off);
    if (z->z2 >= 0)
        t += z->z2 * magnitude(s->mult2[c]);
    return t < BB_MAX_T;
}

/* n * 2^shift, the divisor, stays below 2^62. */
static bool shift_fits(uint8_t shift, int64_t n) {
    return shift <= BB_MAX_SHIFT && n < (INT64_C(1) << 62 >> shift);
}

static bb_status check_linear_arrays(const place *at, const bb_requant *r, bool second) {
    bool slopes = r->neg_mult != NULL;
    if (!r->mult || !r->add || !r->shift || (r->mult2 != NULL) != second)
        return fail_at(at, BB_STATUS_BAD_FILE, "its LINEAR requantizer is incomplete");
    if ((r->neg_add != NULL) != slopes || (r->off != NULL) != slopes ||
        (r->neg_mult2 != NULL) != (slopes && second))
        return fail_at(at, BB_STATUS_BAD_FILE, "its second slope is incomplete");
    return BB_STATUS_OK;
}

static bb_status check_linear(const place *at, const bb_requant *r, const operands *z,
                              uint32_t out_channels) {
    BB_TRY(check_linear_arrays(at, r, z->z2 >= 0));
    slope positive = {r->mult, r->mult2, r->add},
          negative = {r->neg_mult, r->neg_mult2, r->neg_add};
    for (uint32_t i = 0; i < out_channels; i++) {
        uint32_t c = r->channels == 1 ? 0 : i;
        int64_t z1 = z->row ? z->row[i] : z->z1;
        int64_t off = r->off ? r->off[c] : 0;
        if (!shift_fits(r->shift[c], z->n))
            return fail_bound(at, i, "the shift of its requantizer");
        if (!slope_fits(&positive, off, c, z, z1) ||
            (r->neg_mult && !slope_fits(&negative, off, c, z, z1)))
            return fail_bound(at, i, "its requantizer");
        if (r->channels == 1 && !z->row)
            break;
    }
    return BB_STATUS_OK;
}

static bb_status check_thresholds(const place *at, const bb_requant *r, const operands *z,
                                  uint32_t bits) {
    if (z->z2 >= 0 || z->average)
        return fail_at(at, BB_STATUS_BAD_FILE, "thresholds need one plain operand");
    if (!r->thresholds || !r->rising)
        return fail_at(at, BB_STATUS_BAD_FILE, "its thresholds are missing");
    size_t steps = ((size_t)1 << bits) - 1;
    for (uint32_t c = 0; c < r->channels; c++) {
        const int32_t *t = r->thresholds + c * steps;
        if (r->rising[c] > 1)
            return fail_at(at, BB_STATUS_BAD_FILE, "a threshold direction is neither 0 nor 1");
        for (size_t i = 1; i < steps; i++)
            if (r->rising[c] ? t[i] < t[i - 1] : t[i] > t[i - 1])
                return fail_at(at, BB_STATUS_BAD_FILE, "its thresholds are not in order");
    }
    return BB_STATUS_OK;
}

static bb_status check_indexed(const place *at, const bb_requant *r, const operands *z,
                               uint32_t bits, uint32_t out_channels) {
    if (r->index_bits < 1 || r->index_bits > BB_MAX_INDEX_BITS || !r->table)
        return fail_at(at, BB_STATUS_BAD_FILE, "its table is missing or too large");
    for (uint32_t i = 0; i < 1u << r->index_bits; i++)
        if (r->table[i] >> bits != 0)
            return fail_at(at, BB_STATUS_BAD_FILE, "its table holds a code above the last one");
    return check_linear(at, r, z, out_channels);
}

static bb_status check_finite(const place *at, const float *values, uint32_t n) {
    if (!values)
        return fail_at(at, BB_STATUS_BAD_FILE, "its float requantizer is incomplete");
    for (uint32_t i = 0; i < n; i++)
        if (!isfinite(values[i]))
            return fail_at(at, BB_STATUS_BAD_FILE, "a scale or bias is not finite");
    return BB_STATUS_OK;
}

static bb_status check_float(const place *at, const bb_requant *r, const operands *z) {
    BB_TRY(check_finite(at, r->scale, r->channels));
    BB_TRY(check_finite(at, r->bias, r->channels));
    if (z->z2 >= 0)
        return check_finite(at, r->scale2, r->channels);
    return r->scale2 ? fail_at(at, BB_STATUS_BAD_FILE, "a scale without an operand") : BB_STATUS_OK;
}

static bb_status check_requant(const place *at, int tensor, const operands *z) {
    const bb_model_tensor *t = &at->model->tensors[tensor];
    const bb_tensor_params *p = &at->profile->tensors[tensor];
    const bb_requant *r = &p->requant;
    uint32_t channels = (uint32_t)bb_tensor_channels(t);
    if (r->channels != 1 && r->channels != channels)
        return fail_at(at, BB_STATUS_BAD_FILE, "its requantizer has a wrong number of channels");
    if ((r->kind == BB_REQUANT_FLOAT) != (t->kind == BB_TENSOR_FLOAT))
        return fail_at(at, BB_STATUS_BAD_FILE, "its requantizer gives another kind of tensor");
    switch (r->kind) {
    case BB_REQUANT_LINEAR:
        return check_linear(at, r, z, channels);
    case BB_REQUANT_THRESHOLDS:
        return check_thresholds(at, r, z, p->bits);
    case BB_REQUANT_INDEXED:
        return check_indexed(at, r, z, p->bits, channels);
    case BB_REQUANT_FLOAT:
        return check_float(at, r, z);
    case BB_REQUANT_NONE:
        break;
    }
    return fail_at(at, BB_STATUS_BAD_FILE, "a requantizer is missing or of an unknown kind");
}

static bb_status check_outputs(place *at, const operands *z) {
    for (int i = 0; i < at->node->n_out; i++) {
        at->tensor = at->model->tensors[at->node->out[i]].name;
        BB_TRY(check_requant(at, at->node->out[i], z));
    }
    return BB_STATUS_OK;
}

/* ---- convolutions ---------------------------------------------------------------------------- */

typedef struct conv_bound {
    int64_t *row;      /**< bound of |P| by row */
    int64_t low, high; /**< of a - a0 */
} conv_bound;

/*
 * max |P| of one row over all inputs and all sets of valid taps: each tap's sum lies in
 * [lo, hi] and counts or does not. At most 2^24 weights of 2^15 times 2^17: below 2^56.
 * It is at least L_M * sum |b + o| (half of high - low, whatever a0 and e are), so the sum of codes
 * that kernels form fits as well.
 */
static bool row_bound(const bb_planes *planes, const bb_conv_params *conv, uint32_t r,
                      const int16_t *levels, conv_bound *bound) {
    int64_t low = 0, high = 0;
    int32_t offset = conv->weight_offset ? conv->weight_offset[r] : 0;
    for (uint32_t t = 0; t < planes->taps; t++) {
        int64_t tap = conv->tap_add ? conv->tap_add[(size_t)t * planes->rows + r] : 0;
        int64_t positive = 0, negative = 0;
        for (uint32_t i = 0; i < planes->depth; i++) {
            int64_t w = (int64_t)levels[(size_t)t * planes->depth + i] + offset;
            if (w > 0)
                positive += w;
            else
                negative -= w;
        }
        int64_t lo = bound->low * positive - bound->high * negative + tap;
        int64_t hi = bound->high * positive - bound->low * negative + tap;
        low += lo < 0 ? lo : 0;
        high += hi > 0 ? hi : 0;
    }
    bound->row[r] = high > -low ? high : -low;
    return bound->row[r] <= INT32_MAX;
}

static bb_status fail_accumulator(const place *at, uint32_t r) {
    return bb_fail(at->err, BB_STATUS_LIMIT,
                   "profile '%s': node '%s', output channel %u: its sum does not fit 32 bits",
                   at->profile->name, at->node->name, r);
}

static bb_status bound_rows(const place *at, const bb_conv_params *conv, int16_t *levels,
                            conv_bound *bound) {
    const bb_planes *planes = at->node->planes;
    for (uint32_t r = 0; r < planes->rows; r++) {
        bb_planes_row_levels(planes, conv->planes, r, levels);
        if (!row_bound(planes, conv, r, levels, bound))
            return fail_accumulator(at, r);
    }
    return BB_STATUS_OK;
}

static int64_t largest(const int32_t *values, size_t n) {
    int64_t max = 0;
    for (size_t i = 0; values && i < n; i++)
        if (magnitude(values[i]) > max)
            max = magnitude(values[i]);
    return max;
}

static int64_t largest_level(const bb_planes *planes, uint32_t used) {
    int64_t sum = 0;
    for (uint32_t p = 0; p < used; p++)
        sum += bb_planes_weight(planes, used, p);
    return sum;
}

static bb_status check_conv_params(const place *at, const bb_conv_params *conv) {
    const bb_planes *planes = at->node->planes;
    if (conv->planes < 1 || conv->planes > planes->count)
        return fail_at(at, BB_STATUS_BAD_FILE, "it uses more weight planes than there are");
    if (conv->planes < planes->count && !bb_planes_native(planes))
        return fail_at(at, BB_STATUS_BAD_FILE, "only native weights can run with fewer planes");
    for (uint32_t r = 0; conv->weight_scale && r < planes->rows; r++)
        if (!isfinite(conv->weight_scale[r]))
            return fail_at(at, BB_STATUS_BAD_FILE, "a weight scale is not finite");
    if (largest_level(planes, conv->planes) + largest(conv->weight_offset, planes->rows) >
        BB_MAX_WEIGHT)
        return fail_at(at, BB_STATUS_LIMIT, "a weight does not fit 16 bits");
    return BB_STATUS_OK;
}

/* A bound that needs no weights. Most layers pass with it; below 2^24 * 2^15 * 2^17 + 2^47. */
static int64_t loose_bound(const bb_model_node *node, const bb_conv_params *conv, int64_t level) {
    const bb_planes *planes = node->planes;
    int64_t weight =
        largest_level(planes, conv->planes) + largest(conv->weight_offset, planes->rows);
    int64_t add = largest(conv->tap_add, (size_t)planes->taps * planes->rows);
    return (int64_t)planes->taps * planes->depth * weight * level + planes->taps * add;
}

static bb_status check_conv_exactly(place *at, const bb_conv_params *conv, operands *z) {
    const bb_planes *planes = at->node->planes;
    const bb_tensor_params *in = &at->profile->tensors[at->node->in[0]];
    int64_t last_code = (INT64_C(1) << in->bits) - 1;
    int16_t *levels = bb_alloc_array((size_t)planes->taps * planes->depth, sizeof(*levels));
    conv_bound bound = {.row = bb_alloc_array(planes->rows, sizeof(*bound.row)),
                        .low = -last_code - in->a0,
                        .high = last_code - in->a0};
    bb_status status = levels && bound.row ? bound_rows(at, conv, levels, &bound)
                                           : bb_fail_memory(at->err, "the overflow check");
    if (status == BB_STATUS_OK) {
        z->row = bound.row;
        status = check_outputs(at, z);
    }
    bb_free(levels);
    bb_free(bound.row);
    return status;
}

static bb_status check_conv(place *at) {
    const bb_conv_params *conv = &at->profile->convs[at->node - at->model->nodes];
    const bb_tensor_params *in = &at->profile->tensors[at->node->in[0]];
    BB_TRY(check_conv_params(at, conv));
    if (in->bits > 8)
        return fail_at(at, BB_STATUS_BAD_FILE, "convolutions take at most 8 bits");
    operands z = {.n = 1, .z2 = -1};
    if (at->node->n_in == 2)
        z.z2 = level_bound(&at->profile->tensors[at->node->in[1]]);
    z.z1 = loose_bound(at->node, conv, level_bound(in));
    place quiet = *at;
    quiet.err = NULL;
    if (z.z1 <= INT32_MAX && check_outputs(&quiet, &z) == BB_STATUS_OK)
        return BB_STATUS_OK;
    return check_conv_exactly(at, conv, &z);
}

/* ---- other nodes ----------------------------------------------------------------------------- */

static bb_status check_average_bounds(place *at, int64_t n) {
    const bb_tensor_params *in = &at->profile->tensors[at->node->in[0]];
    operands z = {.n = n, .z2 = -1, .average = true};
    if (n > INT32_MAX / level_bound(in))
        return fail_at(at, BB_STATUS_LIMIT, "the sum over its window does not fit 32 bits");
    z.z1 = n * level_bound(in);
    return check_outputs(at, &z);
}

bb_status bb_validate_average(const bb_model *model, const bb_model_node *node, int64_t n,
                              bb_error *err) {
    for (size_t i = 0; i < model->n_profiles; i++) {
        place at = {model, &model->profiles[i], node, model->tensors[node->in[0]].name, err};
        BB_TRY(check_average_bounds(&at, n));
    }
    return BB_STATUS_OK;
}

/* Global pools are checked with their real size when shapes are bound; here with one position. */
static bb_status check_average(place *at) {
    const int32_t *kernel = at->node->geometry.kernel;
    return check_average_bounds(at, kernel[0] ? (int64_t)kernel[0] * kernel[1] : 1);
}

static bb_status check_elementwise(place *at) {
    const bb_model_node *node = at->node;
    int64_t first = level_bound(&at->profile->tensors[node->in[0]]);
    operands z = {.n = 1, .z1 = first, .z2 = -1};
    if (node->kind == BB_NODE_ADD)
        z.z2 = level_bound(&at->profile->tensors[node->in[1]]);
    if (node->kind == BB_NODE_MUL)
        z.z1 *= level_bound(&at->profile->tensors[node->in[1]]); /* < 2^34 */
    if (z.z1 > INT32_MAX)
        return fail_at(at, BB_STATUS_LIMIT, "a product does not fit 32 bits");
    return check_outputs(at, &z);
}

static bb_status check_none(place *at, int tensor) {
    at->tensor = at->model->tensors[tensor].name;
    if (at->profile->tensors[tensor].requant.kind != BB_REQUANT_NONE)
        return fail_at(at, BB_STATUS_BAD_FILE, "a requantizer where none belongs");
    return BB_STATUS_OK;
}

static bb_status check_copy(place *at) {
    const bb_model_node *node = at->node;
    const bb_tensor_params *out = &at->profile->tensors[node->out[0]];
    BB_TRY(check_none(at, node->out[0]));
    for (int i = 0; i < node->n_in; i++) {
        const bb_tensor_params *in = &at->profile->tensors[node->in[i]];
        if (in->bits != out->bits || in->a0 != out->a0 || in->step != out->step)
            return fail_at(at, BB_STATUS_BAD_FILE, "it copies codes to another grid");
    }
    return BB_STATUS_OK;
}

static bb_status check_node(place *at) {
    switch (at->node->kind) {
    case BB_NODE_CONV:
        return check_conv(at);
    case BB_NODE_ADD:
    case BB_NODE_MUL:
    case BB_NODE_REQUANT:
        return check_elementwise(at);
    case BB_NODE_AVERAGE_POOL:
        return check_average(at);
    case BB_NODE_QUANTIZE:
    case BB_NODE_FLOAT:
        for (int i = 0; i < at->node->n_out; i++)
            BB_TRY(check_none(at, at->node->out[i]));
        return BB_STATUS_OK;
    case BB_NODE_CONCAT:
    case BB_NODE_MAX_POOL:
    case BB_NODE_GATHER_CHANNELS:
    case BB_NODE_RESHAPE:
    case BB_NODE_RESIZE_NEAREST:
        return check_copy(at);
    }
    return bb_fail(at->err, BB_STATUS_INTERNAL, "node '%s': unknown kind", at->node->name);
}

/* ---- profiles -------------------------------------------------------------------------------- */

static bb_status check_grid(const bb_profile *profile, const bb_model_tensor *t,
                            const bb_tensor_params *p, bb_error *err) {
    if (t->kind == BB_TENSOR_FLOAT)
        return BB_STATUS_OK;
    if (p->bits < 1 || p->bits > BB_MAX_CODE_BITS || !(p->step > 0) || !isfinite(p->step) ||
        p->a0 < -BB_MAX_A0 || p->a0 > BB_MAX_A0)
        return bb_fail(err, BB_STATUS_BAD_FILE,
                       "profile '%s': tensor '%s': bits, step or a0 out of range", profile->name,
                       t->name);
    return BB_STATUS_OK;
}

static bb_status check_profile_head(const bb_model *model, size_t index, bb_error *err) {
    const bb_profile *p = &model->profiles[index];
    if (!p->name || p->weight_bits < 1 || p->weight_bits > 8 || p->activation_bits < 1 ||
        p->activation_bits > 8 || !p->tensors || !p->convs)
        return bb_fail(err, BB_STATUS_BAD_FILE, "profile %zu: bits out of 1..8 or data missing",
                       index);
    for (size_t i = 0; i < index; i++)
        if (model->profiles[i].weight_bits == p->weight_bits &&
            model->profiles[i].activation_bits == p->activation_bits)
            return bb_fail(err, BB_STATUS_BAD_FILE, "profile '%s' is there twice", p->name);
    return BB_STATUS_OK;
}

static bb_status check_profile(const bb_model *model, size_t index, bb_error *err) {
    BB_TRY(check_profile_head(model, index, err));
    const bb_profile *profile = &model->profiles[index];
    for (size_t t = 0; t < model->n_tensors; t++)
        BB_TRY(check_grid(profile, &model->tensors[t], &profile->tensors[t], err));
    for (size_t i = 0; i < model->n_inputs; i++) {
        place at = {model, profile, &model->nodes[0], "", err};
        BB_TRY(check_none(&at, model->inputs[i]));
    }
    for (size_t i = 0; i < model->n_nodes; i++) {
        const bb_model_node *node = &model->nodes[i];
        place at = {model, profile, node, model->tensors[node->out[0]].name, err};
        BB_TRY(check_node(&at));
    }
    return BB_STATUS_OK;
}

bb_status bb_validate_profiles(const bb_model *model, bb_error *err) {
    for (size_t i = 0; i < model->n_profiles; i++)
        BB_TRY(check_profile(model, i, err));
    return BB_STATUS_OK;
}
