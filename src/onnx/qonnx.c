/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One profile of a model as QONNX (docs/import-lowbit.md, "Export").
 *
 * Codes travel as integers in float32: (a - a0)/unit with unit 1 or 2. Weights are integers behind
 * Quant or BipolarQuant, so sums are exact wherever float32 holds them (below 2^24). Requantizers
 * become MultiThreshold, or, for many bits and for residual sums, the integer formula in double:
 * Floor((P*mult + Z2*mult2 + add) / 2^shift), whose products and sums stay below 2^53.
 */
#include "onnx/qonnx.h"
#include "bitbranch/export.h"
#include "encode/encode.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_THRESHOLD_BITS = 4, FLOAT_EXACT = 1 << 24 };

static bb_status refuse(const bb_qonnx *x, const bb_model_node *node, const char *what) {
    return bb_fail(x->err, BB_STATUS_UNSUPPORTED, "node '%s' cannot be written as QONNX: %s",
                   node->name, what);
}

static int64_t last_code(uint32_t bits) {
    return (INT64_C(1) << bits) - 1;
}

static const bb_tensor_params *params_of(const bb_qonnx *x, int tensor) {
    return &x->profile->tensors[tensor];
}

/* All a - a0 are even where L + a0 is. */
static int unit_of(const bb_tensor_params *p) {
    return (last_code(p->bits) + p->a0) % 2 == 0 ? 2 : 1;
}

uint32_t bb_qx_channels_of(const bb_qonnx *x, int tensor) {
    const bb_model_tensor *t = &x->model->tensors[tensor];
    return (uint32_t)t->dims[t->rank - 1];
}

bool bb_qx_is_image(const bb_qonnx *x, int tensor) {
    return x->model->tensors[tensor].rank == 4;
}

/* ---- constants per channel ------------------------------------------------------------------ */

/* Shape that broadcasts n channel values over a tensor: [n,1,1] or [n]; a scalar for one. */
static int channel_dims(const bb_qonnx *x, int tensor, uint32_t n, int64_t dims[3]) {
    dims[0] = n;
    dims[1] = dims[2] = 1;
    return n == 1 ? 0 : x->model->tensors[tensor].rank == 4 ? 3 : 1;
}

const char *bb_qx_node2(bb_qonnx *x, const char *op, const char *a, const char *b) {
    const char *in[2] = {a, b};
    return bb_onnx_node(x->w, op, 2, in, NULL);
}

const char *bb_qx_node1(bb_qonnx *x, const char *op, const char *a) {
    return bb_onnx_node(x->w, op, 1, &a, NULL);
}

static const char *cast(bb_qonnx *x, const char *a, int type) {
    const char *out = bb_qx_node1(x, "Cast", a);
    bb_onnx_set_int(x->w, "to", type);
    return out;
}

static const char *channel_doubles(bb_qonnx *x, int tensor, const char *hint, const double *data,
                                   uint32_t n) {
    int64_t dims[3];
    int rank = channel_dims(x, tensor, n, dims);
    return bb_onnx_doubles(x->w, hint, data, rank, dims);
}

const char *bb_qx_channel_floats(bb_qonnx *x, int tensor, const char *hint, const float *data,
                                 uint32_t n) {
    int64_t dims[3];
    int rank = channel_dims(x, tensor, n, dims);
    return bb_onnx_floats(x->w, hint, data, rank, dims);
}

/* ---- operands ------------------------------------------------------------------------------- */

/* What a requantizer works on: value*gain = Z1 (or the sum of an average pool), and Z2. */
typedef struct operand {
    const char *z1, *z2; /**< z2 NULL: none */
    const char *mean;    /**< average: z1/count, or NULL */
    int gain, gain2;
    int64_t count;        /**< average: positions */
    const int64_t *reach; /**< [channels] |Z1| */
} operand;

static const char *quant(bb_qonnx *x, const char *in, const char *scale, const char *zero,
                         uint32_t bits, bool is_signed, bool narrow) {
    const char *inputs[4] = {in, scale, zero, bb_onnx_float(x->w, "bits", (float)bits)};
    const char *out = bb_onnx_node(x->w, "Quant", 4, inputs, NULL);
    bb_onnx_set_int(x->w, "signed", is_signed);
    bb_onnx_set_int(x->w, "narrow", narrow);
    bb_onnx_set_string(x->w, "rounding_mode", "ROUND");
    return out;
}

/* Codes u, not clamped yet, to (a - a0)/unit = (2u - L - a0)/unit behind a quantizer that clamps.
 */
static const char *codes_to_levels(bb_qonnx *x, int tensor, const char *u) {
    const bb_tensor_params *p = params_of(x, tensor);
    int unit = unit_of(p);
    int64_t shift = last_code(p->bits) + p->a0;
    if (unit == 1)
        u = bb_qx_node2(x, "Mul", u, bb_onnx_float(x->w, "two", 2));
    if (shift != 0)
        u = bb_qx_node2(x, "Sub", u, bb_onnx_float(x->w, "offset", (float)shift / (float)unit));
    return quant(x, u, bb_onnx_float(x->w, "scale", 2.0f / (float)unit),
                 bb_onnx_float(x->w, "zero", (float)shift / 2), p->bits, false, false);
}

/* ---- requantizers --------------------------------------------------------------------------- */

static const char *scaled(bb_qonnx *x, int tensor, const char *value, const int32_t *mult, int gain,
                          uint32_t n) {
    double *k = bb_arena_array(x->arena, n, sizeof(*k));
    for (uint32_t c = 0; c < n && k; c++)
        k[c] = (double)mult[c] * gain;
    return k ? bb_qx_node2(x, "Mul", cast(x, value, BB_ONNX_F64),
                           channel_doubles(x, tensor, "mult", k, n))
             : NULL;
}

/* floor((Z1*mult + Z2*mult2 + n*add) / (n*2^shift)) as float32, not clamped. */
static const char *linear_floor(bb_qonnx *x, int tensor, const bb_requant *r, const operand *o) {
    uint32_t n = r->channels;
    double *add = bb_arena_array(x->arena, n, sizeof(*add));
    double *divide = bb_arena_array(x->arena, n, sizeof(*divide));
    if (!add || !divide)
        return NULL;
    for (uint32_t c = 0; c < n; c++) {
        add[c] = (double)r->add[c] * (double)o->count;
        divide[c] = ldexp((double)o->count, r->shift[c]);
    }
    const char *t = scaled(x, tensor, o->z1, r->mult, o->gain, n);
    if (o->z2)
        t = bb_qx_node2(x, "Add", t, scaled(x, tensor, o->z2, r->mult2, o->gain2, n));
    t = bb_qx_node2(x, "Add", t, channel_doubles(x, tensor, "add", add, n));
    t = bb_qx_node2(x, "Div", t, channel_doubles(x, tensor, "divide", divide, n));
    return cast(x, bb_qx_node1(x, "Floor", t), BB_ONNX_F32);
}

static const char *write_linear(bb_qonnx *x, int tensor, const operand *o) {
    return codes_to_levels(x, tensor, linear_floor(x, tensor, &params_of(x, tensor)->requant, o));
}

/* Floor to an index, then a list of levels; the quantizer behind it states their grid. */
static const char *write_indexed(bb_qonnx *x, int tensor, const operand *o) {
    const bb_tensor_params *p = params_of(x, tensor);
    const bb_requant *r = &p->requant;
    int64_t n = INT64_C(1) << r->index_bits, shift = last_code(p->bits) + p->a0;
    int unit = unit_of(p);
    float *levels = bb_arena_array(x->arena, (size_t)n, sizeof(*levels));
    if (!levels)
        return NULL;
    for (int64_t i = 0; i < n; i++)
        levels[i] = (float)(2 * (int64_t)r->table[i] - shift) / (float)unit;
    const char *clip[3] = {linear_floor(x, tensor, r, o), bb_onnx_float(x->w, "zero", 0),
                           bb_onnx_float(x->w, "last", (float)(n - 1))};
    const char *index = cast(x, bb_onnx_node(x->w, "Clip", 3, clip, NULL), BB_ONNX_I64);
    const char *level =
        bb_qx_node2(x, "Gather", bb_onnx_floats(x->w, "table", levels, 1, &n), index);
    return quant(x, level, bb_onnx_float(x->w, "scale", 2.0f / (float)unit),
                 bb_onnx_float(x->w, "zero", (float)shift / 2), p->bits, false, false);
}

/* One channel of any requantizer of one operand. */
typedef struct channel_fn {
    const bb_tensor_params *p;
    uint32_t c;
} channel_fn;

static uint32_t code_at(void *user, int32_t z) {
    const channel_fn *f = user;
    const bb_requant *r = &f->p->requant;
    uint32_t c = r->channels == 1 ? 0 : f->c;
    if (r->kind == BB_REQUANT_THRESHOLDS)
        return bb_thresholds_apply(r->thresholds + (size_t)c * (size_t)last_code(f->p->bits),
                                   r->rising[c], f->p->bits, z);
    bb_linear linear = {.mult = r->mult[c], .add = r->add[c], .shift = r->shift[c]};
    if (r->neg_mult) {
        linear.slopes = true;
        linear.neg_mult = r->neg_mult[c];
        linear.neg_add = r->neg_add[c];
        linear.off = r->off[c];
    }
    if (r->kind == BB_REQUANT_INDEXED)
        return r->table[bb_linear_apply(&linear, z, 0, 1, r->index_bits)];
    return bb_linear_apply(&linear, z, 0, 1, f->p->bits);
}

/* Thresholds of all channels as floats on the operand's value; sign[c] = -1 where codes fall. */
static bool find_thresholds(bb_qonnx *x, int tensor, const operand *o, uint32_t n, float *t,
                            float *sign) {
    const bb_tensor_params *p = params_of(x, tensor);
    size_t steps = (size_t)last_code(p->bits);
    int32_t *found = bb_arena_array(x->arena, steps, sizeof(*found));
    if (!found)
        return false;
    for (uint32_t c = 0; c < n; c++) {
        channel_fn f = {p, c};
        int64_t reach = o->reach[c];
        for (uint32_t i = 0; n == 1 && i < bb_qx_channels_of(x, tensor); i++)
            reach = o->reach[i] > reach ? o->reach[i] : reach;
        reach = reach < INT32_MAX ? reach : INT32_MAX - 1;
        uint8_t rising;
        if (!bb_thresholds_from_function(code_at, &f, -(int32_t)reach, (int32_t)reach, p->bits,
                                         found, &rising))
            return false;
        sign[c] = rising ? 1 : -1;
        for (size_t i = 0; i < steps; i++) {
            double at = (double)found[i] * (double)sign[c] / o->gain;
            if (fabs(at) > FLOAT_EXACT && llabs(found[i]) < reach)
                return false;
            t[c * steps + i] = (float)at;
        }
    }
    return true;
}

static const char *write_thresholds(bb_qonnx *x, int tensor, const operand *o) {
    const bb_tensor_params *p = params_of(x, tensor);
    uint32_t channels = bb_qx_channels_of(x, tensor);
    uint32_t n = p->requant.channels == 1 ? 1 : channels;
    size_t steps = (size_t)last_code(p->bits);
    float *t = bb_arena_array(x->arena, steps * n, sizeof(*t));
    float *sign = bb_arena_array(x->arena, n, sizeof(*sign));
    if (!t || !sign || !find_thresholds(x, tensor, o, n, t, sign))
        return NULL;
    bool falls = false;
    for (uint32_t c = 0; c < n; c++)
        falls = falls || sign[c] < 0;
    const char *z = o->z1;
    if (falls)
        z = bb_qx_node2(x, "Mul", z, bb_qx_channel_floats(x, tensor, "sign", sign, n));
    int64_t dims[2] = {n, (int64_t)steps};
    const char *in[2] = {z, bb_onnx_floats(x->w, "thresholds", t, 2, dims)};
    const char *out = bb_onnx_node(x->w, "MultiThreshold", 2, in, NULL);
    int unit = unit_of(p);
    char type[16];
    snprintf(type, sizeof(type), "INT%u", p->bits + 1);
    bb_onnx_set_string(x->w, "out_dtype", type);
    bb_onnx_set_float(x->w, "out_scale", 2.0f / (float)unit);
    bb_onnx_set_float(x->w, "out_bias", -(float)(last_code(p->bits) + p->a0) / (float)unit);
    return out;
}

static const char *write_float(bb_qonnx *x, int tensor, const operand *o) {
    const bb_requant *r = &params_of(x, tensor)->requant;
    uint32_t n = r->channels;
    float *scale = bb_arena_array(x->arena, 2 * (size_t)n, sizeof(*scale));
    if (!scale)
        return NULL;
    bool biased = false;
    for (uint32_t c = 0; c < n; c++) {
        scale[c] = r->scale[c] * (float)o->gain; /* gain is a power of two */
        scale[n + c] = r->scale2 ? r->scale2[c] * (float)o->gain2 : 0;
        biased = biased || r->bias[c] != 0;
    }
    const char *y = o->mean ? o->mean : o->z1;
    y = bb_qx_node2(x, "Mul", y, bb_qx_channel_floats(x, tensor, "scale", scale, n));
    if (o->z2)
        y = bb_qx_node2(
            x, "Add", y,
            bb_qx_node2(x, "Mul", o->z2, bb_qx_channel_floats(x, tensor, "scale", scale + n, n)));
    if (biased)
        y = bb_qx_node2(x, "Add", y, bb_qx_channel_floats(x, tensor, "bias", r->bias, n));
    return y;
}

static bool prefers_thresholds(const bb_tensor_params *p, const operand *o) {
    const bb_requant *r = &p->requant;
    if (o->z2 || o->count > 1 || p->bits > 8)
        return false;
    return r->kind != BB_REQUANT_LINEAR || r->neg_mult || p->bits <= MAX_THRESHOLD_BITS;
}

static bb_status write_output(bb_qonnx *x, const bb_model_node *node, int tensor,
                              const operand *o) {
    const bb_tensor_params *p = params_of(x, tensor);
    const bb_requant *r = &p->requant;
    const char *out = NULL;
    if (r->kind == BB_REQUANT_FLOAT) {
        out = write_float(x, tensor, o);
    } else {
        if (prefers_thresholds(p, o))
            out = write_thresholds(x, tensor, o);
        if (!out && r->kind == BB_REQUANT_LINEAR && !r->neg_mult)
            out = write_linear(x, tensor, o);
        if (!out && r->neg_mult)
            return refuse(x, node, "a second slope together with a residual input or many bits");
        if (!out && r->kind == BB_REQUANT_INDEXED && !r->neg_mult)
            out = write_indexed(x, tensor, o);
        x->unit[tensor] = unit_of(p);
    }
    x->name[tensor] = out;
    return out ? BB_STATUS_OK : refuse(x, node, "its thresholds lie beyond float32's integers");
}

const char *bb_qx_flatten(bb_qonnx *x, const char *value) {
    const char *out = bb_qx_node1(x, "Flatten", value);
    bb_onnx_set_int(x->w, "axis", 1);
    return out;
}

/* An image of one pixel may have results that are vectors. */
static bb_status write_outputs(bb_qonnx *x, const bb_model_node *node, const operand *o) {
    for (int i = 0; i < node->n_out; i++) {
        operand at = *o;
        if (bb_qx_is_image(x, node->in[0]) && !bb_qx_is_image(x, node->out[i])) {
            at.z1 = bb_qx_flatten(x, at.z1);
            at.mean = at.mean ? bb_qx_flatten(x, at.mean) : NULL;
            at.z2 = at.z2 && bb_qx_is_image(x, node->in[1]) ? bb_qx_flatten(x, at.z2) : at.z2;
        }
        BB_TRY(write_output(x, node, node->out[i], &at));
    }
    return BB_STATUS_OK;
}

/* ---- convolutions --------------------------------------------------------------------------- */

typedef struct conv_weights {
    float *k; /**< [rows][depth][taps] */
    int unit; /**< b + o = unit*k */
    int64_t low, high;
    bool bipolar;
    int64_t *reach; /**< [rows] */
} conv_weights;

static bb_status read_weights(bb_qonnx *x, const bb_model_node *node, conv_weights *w) {
    const bb_planes *planes = node->planes;
    const bb_conv_params *conv = &x->profile->convs[node - x->model->nodes];
    const bb_tensor_params *in = params_of(x, node->in[0]);
    size_t row = (size_t)planes->taps * planes->depth, n = row * planes->rows;
    int16_t *levels = bb_arena_array(x->arena, n, sizeof(*levels));
    w->k = bb_arena_array(x->arena, n, sizeof(*w->k));
    w->reach = bb_arena_array(x->arena, planes->rows, sizeof(*w->reach));
    if (!levels || !w->k || !w->reach)
        return bb_fail_memory(x->err, "weights");
    BB_TRY(bb_planes_levels(planes, conv->planes, levels, x->err));
    bool even = true;
    for (size_t i = 0; i < n; i++) {
        int32_t offset = conv->weight_offset ? conv->weight_offset[i / row] : 0;
        levels[i] = (int16_t)(levels[i] + offset);
        even = even && levels[i] % 2 == 0;
    }
    int64_t level = last_code(in->bits) + (in->a0 < 0 ? -(int64_t)in->a0 : in->a0);
    w->unit = even ? 2 : 1;
    w->low = w->high = levels[0] / w->unit;
    w->bipolar = true;
    for (uint32_t r = 0; r < planes->rows; r++)
        for (uint32_t t = 0; t < planes->taps; t++) {
            for (uint32_t i = 0; i < planes->depth; i++) {
                int64_t b = levels[r * row + (size_t)t * planes->depth + i], k = b / w->unit;
                w->k[r * row + (size_t)i * planes->taps + t] = (float)k;
                w->low = k < w->low ? k : w->low;
                w->high = k > w->high ? k : w->high;
                w->bipolar = w->bipolar && (k == 1 || k == -1);
                w->reach[r] += (b < 0 ? -b : b) * level;
            }
            int64_t e = conv->tap_add ? conv->tap_add[(size_t)t * planes->rows + r] : 0;
            w->reach[r] += e < 0 ? -e : e;
        }
    return BB_STATUS_OK;
}

/* Weights of a Conv [rows][depth][kh][kw] or a Gemm [rows][depth], behind their quantizer. */
static const char *write_weights(bb_qonnx *x, const bb_model_node *node, const conv_weights *w) {
    const bb_planes *p = node->planes;
    bool image = bb_qx_is_image(x, node->in[0]);
    int64_t dims[4] = {p->rows, p->depth, node->geometry.kernel[0], node->geometry.kernel[1]};
    const char *k = bb_onnx_floats(x->w, "weights", w->k, image ? 4 : 2, dims);
    const char *one = bb_onnx_float(x->w, "one", 1);
    if (w->bipolar)
        return bb_qx_node2(x, "BipolarQuant", k, one);
    uint32_t bits = 2;
    while (w->low < -(INT64_C(1) << (bits - 1)) || w->high >= INT64_C(1) << (bits - 1))
        bits++;
    bool narrow = w->low > -(INT64_C(1) << (bits - 1));
    return quant(x, k, one, bb_onnx_float(x->w, "zero", 0), bits, true, narrow);
}

void bb_qx_set_window(bb_qonnx *x, const bb_geometry *g) {
    int64_t kernel[2], stride[2], dilation[2], pads[4];
    for (int i = 0; i < 2; i++) {
        kernel[i] = g->kernel[i];
        stride[i] = g->stride[i];
        dilation[i] = g->dilation[i];
        pads[i] = g->pad_begin[i];
        pads[2 + i] = g->pad_end[i];
    }
    bb_onnx_set_ints(x->w, "kernel_shape", kernel, 2);
    bb_onnx_set_ints(x->w, "strides", stride, 2);
    bb_onnx_set_ints(x->w, "pads", pads, 4);
    if (dilation[0] != 1 || dilation[1] != 1)
        bb_onnx_set_ints(x->w, "dilations", dilation, 2);
}

const char *bb_qx_conv_node(bb_qonnx *x, const bb_model_node *node, int n_in,
                            const char *const *in) {
    if (!bb_qx_is_image(x, node->in[0])) {
        const char *out = bb_onnx_node(x->w, "Gemm", n_in, in, NULL);
        bb_onnx_set_int(x->w, "transB", 1);
        return out;
    }
    const char *out = bb_onnx_node(x->w, "Conv", n_in, in, NULL);
    bb_qx_set_window(x, &node->geometry);
    if (node->groups > 1)
        bb_onnx_set_int(x->w, "group", node->groups);
    return out;
}

/* Constants per valid tap: the same window over an image of ones. */
static const char *tap_constants(bb_qonnx *x, const bb_model_node *node, const int32_t *add,
                                 int unit) {
    const bb_planes *p = node->planes;
    const int32_t *in = x->shapes.dims[node->in[0]];
    int64_t height = in[1], width = in[2];
    size_t pixels = (size_t)height * (size_t)width;
    float *ones = bb_arena_array(x->arena, pixels, sizeof(*ones));
    float *e = bb_arena_array(x->arena, (size_t)p->rows * p->taps, sizeof(*e));
    if (!ones || !e)
        return NULL;
    for (size_t i = 0; i < pixels; i++)
        ones[i] = 1;
    for (uint32_t r = 0; r < p->rows; r++)
        for (uint32_t t = 0; t < p->taps; t++)
            e[(size_t)r * p->taps + t] = (float)add[(size_t)t * p->rows + r] / (float)unit;
    int64_t image[4] = {1, 1, height, width};
    int64_t dims[4] = {p->rows, 1, node->geometry.kernel[0], node->geometry.kernel[1]};
    const char *inputs[2] = {bb_onnx_floats(x->w, "ones", ones, 4, image),
                             bb_onnx_floats(x->w, "tap_constants", e, 4, dims)};
    const char *out = bb_onnx_node(x->w, "Conv", 2, inputs, NULL);
    bb_qx_set_window(x, &node->geometry);
    return out;
}

static bb_status write_conv(bb_qonnx *x, const bb_model_node *node) {
    const bb_conv_params *conv = &x->profile->convs[node - x->model->nodes];
    conv_weights w = {0};
    BB_TRY(read_weights(x, node, &w));
    int unit = x->unit[node->in[0]] * w.unit;
    const char *in[2] = {x->name[node->in[0]], write_weights(x, node, &w)};
    const char *p = bb_qx_conv_node(x, node, 2, in);
    if (conv->tap_add && !bb_qx_is_image(x, node->in[0]))
        return refuse(x, node, "constants per tap of a vector");
    if (conv->tap_add)
        p = bb_qx_node2(x, "Add", p, tap_constants(x, node, conv->tap_add, unit));
    operand o = {.z1 = p, .gain = unit, .count = 1, .reach = w.reach};
    if (node->n_in == 2) {
        o.z2 = x->name[node->in[1]];
        o.gain2 = x->unit[node->in[1]];
    }
    return write_outputs(x, node, &o);
}

/* ---- other integer nodes -------------------------------------------------------------------- */

static int64_t *same_reach(bb_qonnx *x, uint32_t channels, int64_t reach) {
    int64_t *all = bb_arena_array(x->arena, channels, sizeof(*all));
    for (uint32_t c = 0; c < channels && all; c++)
        all[c] = reach;
    return all;
}

static bb_status write_elementwise(bb_qonnx *x, const bb_model_node *node) {
    const bb_tensor_params *p = params_of(x, node->in[0]);
    int64_t reach = last_code(p->bits) + (p->a0 < 0 ? -(int64_t)p->a0 : p->a0);
    operand o = {.z1 = x->name[node->in[0]],
                 .gain = x->unit[node->in[0]],
                 .count = 1,
                 .reach = same_reach(x, bb_qx_channels_of(x, node->in[0]), reach)};
    if (!o.reach)
        return bb_fail_memory(x->err, "a node");
    if (node->kind == BB_NODE_ADD) {
        o.z2 = x->name[node->in[1]];
        o.gain2 = x->unit[node->in[1]];
    }
    return write_outputs(x, node, &o);
}

/* Mean times count, rounded, is the exact sum (below 2^22). */
static bb_status write_average(bb_qonnx *x, const bb_model_node *node) {
    const bb_geometry *g = &node->geometry;
    const int32_t *in = x->shapes.dims[node->in[0]];
    bool global = g->kernel[0] == 0;
    int64_t count = global ? (int64_t)in[1] * in[2] : (int64_t)g->kernel[0] * g->kernel[1];
    bool padded = g->pad_begin[0] || g->pad_begin[1] || g->pad_end[0] || g->pad_end[1];
    const bb_tensor_params *p = params_of(x, node->in[0]);
    int64_t level = last_code(p->bits) + (p->a0 < 0 ? -(int64_t)p->a0 : p->a0);
    if (!global && (g->ceil_mode || (padded && !g->count_include_pad)))
        return refuse(x, node, "windows of an average pool that differ in size");
    if (count * level / x->unit[node->in[0]] >= 1 << 22)
        return refuse(x, node, "an average over so many values");
    const char *mean =
        bb_qx_node1(x, global ? "GlobalAveragePool" : "AveragePool", x->name[node->in[0]]);
    if (!global) {
        bb_qx_set_window(x, g);
        bb_onnx_set_int(x->w, "count_include_pad", 1);
    }
    const char *sum = bb_qx_node1(
        x, "Round", bb_qx_node2(x, "Mul", mean, bb_onnx_float(x->w, "count", (float)count)));
    operand o = {.z1 = sum, .mean = mean, .gain = x->unit[node->in[0]], .count = count};
    return write_outputs(x, node, &o);
}

static void keep_unit(bb_qonnx *x, const bb_model_node *node, const char *out) {
    x->name[node->out[0]] = out;
    x->unit[node->out[0]] = x->unit[node->in[0]];
}

const char *bb_qx_max_pool(bb_qonnx *x, const bb_model_node *node) {
    const char *in = x->name[node->in[0]];
    if (node->geometry.kernel[0] == 0)
        return bb_qx_node1(x, "GlobalMaxPool", in);
    const char *out = bb_qx_node1(x, "MaxPool", in);
    bb_qx_set_window(x, &node->geometry);
    if (node->geometry.ceil_mode)
        bb_onnx_set_int(x->w, "ceil_mode", 1);
    return out;
}

const char *bb_qx_concat(bb_qonnx *x, const bb_model_node *node) {
    const char *in[BB_MAX_NODE_INPUTS];
    for (int i = 0; i < node->n_in; i++)
        in[i] = x->name[node->in[i]];
    const char *out = bb_onnx_node(x->w, "Concat", node->n_in, in, NULL);
    bb_onnx_set_int(x->w, "axis", 1);
    return out;
}

/* The model flattens NHWC. */
const char *bb_qx_reshape(bb_qonnx *x, const bb_model_node *node) {
    static const int64_t nhwc[4] = {0, 2, 3, 1};
    const int32_t *in = x->shapes.dims[node->in[0]];
    const char *value = x->name[node->in[0]];
    if ((in[1] != 1 || in[2] != 1) && in[3] != 1) {
        value = bb_qx_node1(x, "Transpose", value);
        bb_onnx_set_ints(x->w, "perm", nhwc, 4);
    }
    return bb_qx_flatten(x, value);
}

static const char *gather(bb_qonnx *x, const bb_model_node *node) {
    int64_t *index = bb_arena_array(x->arena, node->n_channel_index, sizeof(*index));
    if (!index)
        return NULL;
    for (uint32_t i = 0; i < node->n_channel_index; i++)
        index[i] = node->channel_index[i];
    const char *out = bb_qx_node2(x, "Gather", x->name[node->in[0]],
                                  bb_onnx_ints(x->w, "channels", index, node->n_channel_index));
    bb_onnx_set_int(x->w, "axis", 1);
    return out;
}

static const char *resize(bb_qonnx *x, const bb_model_node *node) {
    float scales[4] = {1, 1, (float)node->resize_factor[0], (float)node->resize_factor[1]};
    int64_t dims[1] = {4};
    const char *in[3] = {x->name[node->in[0]], "", bb_onnx_floats(x->w, "scales", scales, 1, dims)};
    const char *out = bb_onnx_node(x->w, "Resize", 3, in, NULL);
    bb_onnx_set_string(x->w, "mode", "nearest");
    bb_onnx_set_string(x->w, "nearest_mode", "floor");
    bb_onnx_set_string(x->w, "coordinate_transformation_mode", "asymmetric");
    return out;
}

/* Real numbers x = 2*step*(u - zero) to the integers that stand for codes. */
static const char *real_to_levels(bb_qonnx *x, int tensor, const char *real) {
    const bb_tensor_params *p = params_of(x, tensor);
    int64_t shift = last_code(p->bits) + p->a0;
    float unit = 2 * p->step, zero = (float)shift / 2;
    bool is_signed = zero == ldexpf(1, (int)p->bits - 1);
    const char *u =
        quant(x, real, bb_onnx_float(x->w, "step", unit),
              bb_onnx_float(x->w, "zero", is_signed ? 0 : zero), p->bits, is_signed, false);
    x->unit[tensor] = unit_of(p);
    float gain = (x->unit[tensor] == 2 ? 1.0f : 2.0f) / unit;
    return bb_qx_node1(x, "Round", bb_qx_node2(x, "Mul", u, bb_onnx_float(x->w, "gain", gain)));
}

/* ---- the whole ------------------------------------------------------------------------------ */

static bb_status write_node(bb_qonnx *x, const bb_model_node *node) {
    switch (node->kind) {
    case BB_NODE_CONV:
        return write_conv(x, node);
    case BB_NODE_ADD:
    case BB_NODE_REQUANT:
        return write_elementwise(x, node);
    case BB_NODE_AVERAGE_POOL:
        return write_average(x, node);
    case BB_NODE_MAX_POOL:
        keep_unit(x, node, bb_qx_max_pool(x, node));
        return BB_STATUS_OK;
    case BB_NODE_CONCAT:
        keep_unit(x, node, bb_qx_concat(x, node));
        return BB_STATUS_OK;
    case BB_NODE_GATHER_CHANNELS:
        keep_unit(x, node, gather(x, node));
        return BB_STATUS_OK;
    case BB_NODE_RESHAPE:
        keep_unit(x, node, bb_qx_reshape(x, node));
        return BB_STATUS_OK;
    case BB_NODE_RESIZE_NEAREST:
        keep_unit(x, node, resize(x, node));
        return BB_STATUS_OK;
    case BB_NODE_QUANTIZE:
        for (int i = 0; i < node->n_out; i++)
            x->name[node->out[i]] = real_to_levels(x, node->out[i], x->name[node->in[0]]);
        return BB_STATUS_OK;
    case BB_NODE_FLOAT:
        return bb_qx_float_node(x, node);
    case BB_NODE_MUL:
        return refuse(x, node, "products of two computed values have no exact form there");
    }
    return refuse(x, node, "unknown kind");
}

static void nchw_dims(const bb_qonnx *x, int tensor, int64_t dims[4]) {
    const int32_t *d = x->shapes.dims[tensor];
    dims[0] = d[0];
    dims[1] = d[3];
    dims[2] = d[1];
    dims[3] = d[2];
}

static void write_inputs(bb_qonnx *x) {
    for (size_t i = 0; i < x->model->n_inputs; i++) {
        int t = x->model->inputs[i];
        int64_t dims[4];
        nchw_dims(x, t, dims);
        const char *name = x->model->tensors[t].name;
        bb_onnx_input(x->w, name, x->model->tensors[t].rank, dims);
        x->name[t] =
            x->model->tensors[t].kind == BB_TENSOR_FLOAT ? name : real_to_levels(x, t, name);
    }
}

/* Outputs of codes are given as the real numbers they mean. */
static void write_results(bb_qonnx *x) {
    for (size_t i = 0; i < x->model->n_outputs; i++) {
        int t = x->model->outputs[i];
        int64_t dims[4];
        nchw_dims(x, t, dims);
        const char *value = x->name[t];
        if (x->unit[t])
            value =
                bb_qx_node2(x, "Mul", value,
                            bb_onnx_float(x->w, "step", params_of(x, t)->step * (float)x->unit[t]));
        const char *name = x->model->tensors[t].name;
        bb_onnx_node(x->w, "Identity", 1, &value, name);
        bb_onnx_output(x->w, name, x->model->tensors[t].rank, dims);
    }
}

static bb_status export_model(bb_qonnx *x, const char *path) {
    BB_TRY(bb_model_bind(x->model, NULL, &x->shapes, x->err));
    write_inputs(x);
    for (size_t i = 0; i < x->model->n_nodes; i++)
        BB_TRY(write_node(x, &x->model->nodes[i]));
    write_results(x);
    return bb_onnx_write_file(x->w, path, x->err);
}

bb_status bb_export_qonnx(const bb_model *model, size_t profile, const char *path, bb_error *err) {
    if (profile >= model->n_profiles)
        return bb_fail(err, BB_STATUS_NOT_FOUND, "the model has %zu profiles", model->n_profiles);
    bb_qonnx x = {.model = model,
                  .profile = &model->profiles[profile],
                  .w = bb_onnx_writer_create(model->name),
                  .arena = bb_arena_create(),
                  .err = err};
    bb_status status = bb_fail_memory(NULL, "");
    if (x.arena) {
        x.name = bb_arena_array(x.arena, model->n_tensors, sizeof(*x.name));
        x.unit = bb_arena_array(x.arena, model->n_tensors, sizeof(*x.unit));
    }
    if (x.w && x.arena && x.name && x.unit)
        status = export_model(&x, path);
    else
        status = bb_fail_memory(err, "an ONNX file");
    bb_shapes_free(&x.shapes);
    bb_onnx_writer_destroy(x.w);
    bb_arena_destroy(x.arena);
    return status;
}
