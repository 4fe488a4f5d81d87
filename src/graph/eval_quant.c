/* SPDX-License-Identifier: Apache-2.0 */
/* Quantization operators: QuantizeLinear and its inverse, and those of QONNX. All arithmetic on
 * values is in float32, in the order the operators' definitions state, because files are exact
 * only in that order. */
#include "graph/eval_internal.h"
#include <math.h>
#include <string.h>
#include <strings.h>

/* ---- QuantizeLinear, DequantizeLinear ------------------------------------------------------ */

/* Where the scale of element i lies: one for all, one per index of an axis, one per block. */
typedef struct scale_map {
    size_t inner, axis_n, step_n; /* elements below the axis; axis size; entries along it */
    size_t block;                 /* elements of the axis per entry */
    bool scalar;
} scale_map;

static bb_status map_scale(const bb_eval *e, scale_map *m) {
    const bb_array *x = &e->in[0], *scale = &e->in[1];
    bb_shape s = bb_eval_shape(e);
    int axis;
    *m = (scale_map){.scalar = scale->rank == 0 || (scale->rank == 1 && scale->dims[0] == 1)};
    if (m->scalar)
        return BB_STATUS_OK;
    BB_TRY(bb_shape_axis(&s, bb_node_int(e->node, "axis", 1), x->rank, &axis));
    m->inner = 1;
    for (int i = axis + 1; i < x->rank; i++)
        m->inner *= (size_t)x->dims[i];
    m->axis_n = (size_t)x->dims[axis];
    m->block = (size_t)bb_node_int(e->node, "block_size", 0);
    m->step_n = m->block ? (size_t)scale->dims[axis] : m->axis_n;
    return BB_STATUS_OK;
}

static size_t scale_at(const scale_map *m, size_t i) {
    if (m->scalar)
        return 0;
    size_t at = i / m->inner % m->axis_n;
    if (!m->block)
        return at;
    return (i / (m->inner * m->axis_n) * m->step_n + at / m->block) * m->inner + i % m->inner;
}

static int64_t saturate(float v, int64_t zero, int64_t lo, int64_t hi) {
    /* Beyond 2^31 the result is saturated whatever the zero point (at most 16 bits) says. */
    if (!(v > -0x1p31f))
        return v != v ? zero : lo;
    if (v > 0x1p31f)
        return hi;
    int64_t q = (int64_t)v + zero;
    return q < lo ? lo : q > hi ? hi : q;
}

bb_status bb_eval_quantize(const bb_eval *e) {
    const bb_array *x = &e->in[0], *scale = &e->in[1], *zero = bb_eval_in(e, 2), *y = &e->out[0];
    size_t n = bb_array_elements(y);
    scale_map m;
    BB_TRY(map_scale(e, &m));
    int64_t lo, hi;
    bb_dtype_range(y->dtype, &lo, &hi);
    for (size_t i = 0; i < n; i++) {
        size_t k = scale_at(&m, i);
        float v = (float)bb_array_double(x, i) / (float)bb_array_double(scale, k);
        bb_array_put_int(y, i, saturate(rintf(v), zero ? bb_array_int(zero, k) : 0, lo, hi));
    }
    return BB_STATUS_OK;
}

bb_status bb_eval_dequantize(const bb_eval *e) {
    const bb_array *x = &e->in[0], *scale = &e->in[1], *zero = bb_eval_in(e, 2), *y = &e->out[0];
    size_t n = bb_array_elements(y);
    scale_map m;
    BB_TRY(map_scale(e, &m));
    for (size_t i = 0; i < n; i++) {
        size_t k = scale_at(&m, i);
        int64_t v = bb_array_int(x, i) - (zero ? bb_array_int(zero, k) : 0);
        bb_array_put_double(y, i, (float)v * (float)bb_array_double(scale, k));
    }
    return BB_STATUS_OK;
}

bb_status bb_eval_dynamic_quantize(const bb_eval *e) {
    const bb_array *x = &e->in[0];
    size_t n = bb_array_elements(x);
    float lo = 0, hi = 0; /* the range always contains 0 */
    for (size_t i = 0; i < n; i++) {
        float v = (float)bb_array_double(x, i);
        lo = v < lo ? v : lo;
        hi = v > hi ? v : hi;
    }
    float scale = (hi - lo) / 255, zero = scale > 0 ? rintf((0 - lo) / scale) : 0;
    zero = zero < 0 ? 0 : zero > 255 ? 255 : zero;
    for (size_t i = 0; i < n; i++) {
        float v = scale > 0 ? (float)bb_array_double(x, i) / scale : 0;
        ((uint8_t *)e->out[0].data)[i] = (uint8_t)saturate(rintf(v), (int64_t)zero, 0, 255);
    }
    if (e->node->n_out > 1)
        *(float *)e->out[1].data = scale;
    if (e->node->n_out > 2)
        *(uint8_t *)e->out[2].data = (uint8_t)zero;
    return BB_STATUS_OK;
}

/* ---- QONNX ----------------------------------------------------------------------------------- */

typedef float (*rounding)(float);

static float round_up(float x) {
    return copysignf(ceilf(fabsf(x)), x);
}

static float round_half_up(float x) {
    return copysignf(floorf(fabsf(x) + 0.5f), x);
}

static float round_half_down(float x) {
    return copysignf(ceilf(fabsf(x) - 0.5f), x);
}

static bb_status find_rounding(const bb_eval *e, const char *absent, rounding *function) {
    static const struct {
        const char *name;
        rounding function;
    } modes[] = {
        {"ROUND", rintf},          {"HALF_EVEN", rintf},       {"CEIL", ceilf},
        {"FLOOR", floorf},         {"UP", round_up},           {"DOWN", truncf},
        {"ROUND_TO_ZERO", truncf}, {"HALF_UP", round_half_up}, {"HALF_DOWN", round_half_down},
    };
    const char *name = bb_node_string(e->node, "rounding_mode", absent);
    for (size_t i = 0; i < BB_COUNT(modes); i++)
        if (strcasecmp(modes[i].name, name) == 0) {
            *function = modes[i].function;
            return BB_STATUS_OK;
        }
    return bb_fail(e->err, BB_STATUS_UNSUPPORTED, "node '%s' (%s): rounding mode '%s'",
                   e->node->name, bb_op_name(e->node->op), name);
}

typedef struct quant_rule {
    rounding round;
    bool is_signed, narrow;
} quant_rule;

static void int_range(const quant_rule *q, float bits, float *lo, float *hi) {
    float half = exp2f(bits - 1), full = exp2f(bits);
    *lo = !q->is_signed ? 0 : q->narrow ? 1 - half : -half;
    *hi = q->is_signed ? half - 1 : q->narrow ? full - 2 : full - 1;
}

static float clamp_f(float v, float lo, float hi) {
    v = v > hi ? hi : v;
    return v < lo ? lo : v;
}

/* p: scale, zero point, bits */
static float quant(const quant_rule *q, float x, const float *p) {
    float v = x / p[0] + p[1], lo, hi;
    if (p[2] == 1 && q->is_signed) {
        v = v >= 0 ? 1.0f : -1.0f;
    } else {
        int_range(q, p[2], &lo, &hi);
        v = q->round(clamp_f(v, lo, hi));
    }
    return (v - p[1]) * p[0];
}

/* p: scale, zero point, bits in, bits out (first form of the operator) */
static float trunc_bits(const quant_rule *q, float x, const float *p) {
    float v = rintf(x / p[0] + p[1]) / exp2f(p[2] - p[3]);
    return (q->round(v) - p[1]) * p[0];
}

/* p: scale, zero point, bits in, scale out, zero point out, bits out (second form) */
static float trunc_scale(const quant_rule *q, float x, const float *p) {
    float by = exp2f(rintf(log2f(p[3] / p[0]))), lo, hi;
    float v = rintf(x / p[0] + p[1]) / by;
    int_range(q, p[5], &lo, &hi);
    v = q->round(clamp_f(v, lo, hi));
    return (v - p[1] / by) * p[3];
}

static float bipolar(const quant_rule *q, float x, const float *p) {
    (void)q;
    return x / p[0] >= 0 ? p[0] : -p[0]; /* sign(0) = +1 */
}

typedef float (*quant_function)(const quant_rule *q, float x, const float *p);

enum { MAX_QUANT_PARAMETERS = 6 };

/* y[i] = f(x[i], parameters broadcast to x). */
static void apply(const bb_eval *e, const quant_rule *q, quant_function f) {
    const bb_array *x = &e->in[0], *y = &e->out[0];
    int n = e->node->n_in - 1;
    int64_t strides[MAX_QUANT_PARAMETERS][BB_MAX_RANK], index[BB_MAX_RANK] = {0};
    float p[MAX_QUANT_PARAMETERS];
    for (int k = 0; k < n; k++)
        bb_broadcast_strides(&e->in[k + 1], x, strides[k]);
    size_t count = bb_array_elements(y);
    for (size_t i = 0; i < count; i++) {
        for (int k = 0; k < n; k++) {
            int64_t at = 0;
            for (int d = 0; d < x->rank; d++)
                at += strides[k][d] * index[d];
            p[k] = (float)bb_array_double(&e->in[k + 1], (size_t)at);
        }
        bb_array_put_double(y, i, f(q, (float)bb_array_double(x, i), p));
        for (int d = x->rank - 1; d >= 0 && ++index[d] == x->dims[d]; d--)
            index[d] = 0;
    }
}

bb_status bb_eval_qonnx(const bb_eval *e) {
    quant_rule q = {.is_signed = bb_node_int(e->node, "signed", 1) != 0,
                    .narrow = bb_node_int(e->node, "narrow", 0) != 0};
    bool is_trunc = e->node->op == BB_OP_QONNX_TRUNC;
    for (int i = 0; i < e->node->n_in; i++)
        if (!e->in[i].data)
            return bb_eval_fail(e, "an input is missing");
    if (e->node->op == BB_OP_QONNX_BIPOLAR_QUANT && e->node->n_in == 2) {
        apply(e, &q, bipolar);
        return BB_STATUS_OK;
    }
    BB_TRY(find_rounding(e, is_trunc ? "FLOOR" : "ROUND", &q.round));
    if (!is_trunc && e->node->n_in == 4)
        apply(e, &q, quant);
    else if (is_trunc && (e->node->n_in == 5 || e->node->n_in == 7))
        apply(e, &q, e->node->n_in == 5 ? trunc_bits : trunc_scale);
    else
        return bb_eval_fail(e, "wrong number of inputs");
    return BB_STATUS_OK;
}

/* Channels: axis 1, or the last one for NHWC and for ranks other than 2 and 4. */
static void threshold_channels(const bb_eval *e, size_t *channels, size_t *inner) {
    const bb_array *x = &e->in[0];
    bool last = strcmp(bb_node_string(e->node, "data_layout", "NCHW"), "NHWC") == 0 ||
                (x->rank != 2 && x->rank != 4);
    int axis = last ? x->rank - 1 : 1;
    *channels = x->rank > 0 ? (size_t)x->dims[axis] : 1;
    *inner = 1;
    for (int i = axis + 1; i < x->rank; i++)
        *inner *= (size_t)x->dims[i];
}

bb_status bb_eval_multi_threshold(const bb_eval *e) {
    const bb_array *x = &e->in[0], *t = &e->in[1], *y = &e->out[0];
    size_t channels, inner, n = bb_array_elements(y), steps = (size_t)t->dims[1];
    float scale = bb_node_float(e->node, "out_scale", 1),
          bias = bb_node_float(e->node, "out_bias", 0);
    threshold_channels(e, &channels, &inner);
    if (t->dims[0] != 1 && (size_t)t->dims[0] != channels)
        return bb_eval_fail(e, "thresholds do not fit the channels");
    for (size_t i = 0; i < n; i++) {
        size_t c = t->dims[0] == 1 ? 0 : i / inner % channels;
        float v = (float)bb_array_double(x, i);
        int count = 0;
        for (size_t k = 0; k < steps; k++)
            count += v >= (float)bb_array_double(t, c * steps + k);
        bb_array_put_double(y, i, scale * (float)count + bias);
    }
    return BB_STATUS_OK;
}
