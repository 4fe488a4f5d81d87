/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requantizers that the source states as a formula: an affine function of one or two integers and
 * a rounding. Where it is Floor of numbers that are whole multiples of 2^-shift (what the QONNX
 * export writes) the constants are taken over exactly. Two grids without a common unit and a plain
 * quantizer get the nearest constants (docs/import-lowbit.md).
 */
#include "encode/encode.h"
#include "lower/lowbit.h"
#include <math.h>

static const bb_node *producer_of(const bb_lowbit *l, int value) {
    int producer = l->graph->values[value].producer;
    return producer >= 0 ? &l->graph->nodes[producer] : NULL;
}

/* y = gain*x + shift for Mul, Add, Sub by one constant number; *data becomes x. */
static bool scalar_affine(bb_lowbit *l, int *data, double *gain, double *shift) {
    const bb_node *node = producer_of(l, *data);
    if (!node || node->n_in != 2 ||
        (node->op != BB_OP_MUL && node->op != BB_OP_ADD && node->op != BB_OP_SUB))
        return false;
    int side = bb_lb_constant(l, node->in[1]) ? 1 : 0;
    const bb_array *k = bb_lb_constant(l, node->in[side]);
    if (!k || bb_lb_elements(k) != 1 || (node->op == BB_OP_SUB && side == 0))
        return false;
    double v = bb_lb_element(k, 0);
    if (node->op == BB_OP_MUL)
        *gain *= v;
    else
        *shift += *gain * (node->op == BB_OP_ADD ? v : -v);
    *data = node->in[1 - side];
    return true;
}

/* What follows the affine formula. */
typedef struct formula {
    int input;   /* the affine value */
    bool floors; /* by Floor in double: exact; else rounded to nearest */
    bb_uniform grid;
    double unit, low; /* of the formula's result per code: code = (x - low)/unit, rounded */
} formula;

static bool relu_of(bb_lowbit *l, int *value) {
    const bb_node *node = producer_of(l, *value);
    if (!node || node->op != BB_OP_RELU)
        return false;
    *value = node->in[0];
    return true;
}

/* scale*Cast(Floor(x)) + low, so that Floor(x) is the code itself: *input becomes x. */
static bool floored_codes(bb_lowbit *l, int *input, double scale, double low) {
    double gain = 1, shift = 0;
    int value = *input;
    while (scalar_affine(l, &value, &gain, &shift))
        continue;
    const bb_node *cast = producer_of(l, value);
    const bb_node *round = cast && cast->op == BB_OP_CAST ? producer_of(l, cast->in[0]) : NULL;
    if (!round || round->op != BB_OP_FLOOR || gain != scale || shift != low)
        return false;
    *input = round->in[0];
    return true;
}

static bool read_formula(bb_lowbit *l, int value, formula *f) {
    double gain = 1, shift = 0;
    while (scalar_affine(l, &value, &gain, &shift))
        continue;
    bb_declared d;
    if (!bb_lb_declared(l, value, &d) || d.input < 0 || d.high - d.low >= 65536 || !(gain > 0))
        return false;
    double low = ((double)d.low - d.zero) * d.scale;
    *f = (formula){.input = d.input,
                   .unit = d.scale,
                   .low = low,
                   .grid = {1, gain * low + shift, gain * d.scale, (uint32_t)(d.high - d.low)}};
    while ((UINT32_C(1) << f->grid.bits) - 1 < f->grid.last)
        f->grid.bits++;
    if (floored_codes(l, &f->input, d.scale, low)) {
        f->floors = true;
    } else if (low >= 0) {
        relu_of(l, &f->input);
    }
    bool whole;
    bb_lb_a0(&f->grid, &whole);
    return whole && (f->floors || f->grid.last == (UINT32_C(1) << f->grid.bits) - 1);
}

/* The smallest shift that makes all three whole numbers. */
static bool exact_shift(double a, double b, double c, int *shift) {
    for (*shift = 0; *shift <= BB_MAX_SHIFT; (*shift)++) {
        double x = ldexp(a, *shift), y = ldexp(b, *shift), z = ldexp(c, *shift);
        if (x == floor(x) && y == floor(y) && z == floor(z))
            return fabs(x) < BB_MAX_MULT && fabs(y) < BB_MAX_MULT && fabs(z) < 0x1p53;
    }
    return false;
}

typedef struct constants {
    int32_t *mult, *mult2;
    int64_t *add;
    uint8_t *shift;
} constants;

static bool exact_channel(const constants *k, uint32_t c, double a, double b, double offset) {
    int shift;
    if (!exact_shift(a, b, offset, &shift))
        return false;
    k->mult[c] = (int32_t)ldexp(a, shift);
    if (k->mult2)
        k->mult2[c] = (int32_t)ldexp(b, shift);
    k->add[c] = (int64_t)ldexp(offset, shift);
    k->shift[c] = (uint8_t)shift;
    return true;
}

static bool nearest_channel(const bb_root *root, const formula *f, const constants *k, uint32_t c,
                            double a, double b, double offset) {
    int64_t reach = root->high[c] > -root->low[c] ? root->high[c] : -root->low[c];
    bb_linear_spec spec = {.m1 = a / f->unit,
                           .m2 = b / f->unit,
                           .offset = offset / f->unit,
                           .zero = -f->low / f->unit,
                           .max_z1 = reach,
                           .max_z2 = root->reach2,
                           .n_max = 1,
                           .bits = f->grid.bits};
    bb_linear linear;
    if (!bb_linear_from_real(&spec, &linear))
        return false;
    k->mult[c] = linear.mult;
    k->mult2[c] = linear.mult2;
    k->add[c] = linear.add;
    k->shift[c] = linear.shift;
    return true;
}

/* Coefficients of Z1 and Z2 from gain and shift of the chain between root and formula. */
static bool fill(const bb_root *root, const formula *f, const double *gain, const double *shift,
                 uint32_t channels, const constants *k) {
    for (uint32_t c = 0; c < channels; c++) {
        uint32_t from = root->channels == 1 ? 0 : c;
        double a = gain[c] * root->scale[from], b = 0;
        double offset = gain[c] * root->bias[from] + shift[c];
        if (root->kind == BB_ROOT_PAIR)
            b = gain[c] * root->scale2[from];
        if (root->kind == BB_ROOT_ADD) {
            b = a * root->k2;
            a *= root->k1;
        }
        bool ok = f->floors ? exact_channel(k, c, a, b, offset)
                            : nearest_channel(root, f, k, c, a, b, offset);
        if (!ok)
            return false;
    }
    return true;
}

static bb_status make_codes(bb_lowbit *l, int value, const bb_root *root, const formula *f,
                            uint32_t channels, const constants *k, bb_lb_codes *codes) {
    int tensor;
    BB_TRY(bb_lb_tensor(l, value, "", &f->grid, &tensor));
    l->params[tensor].requant = (bb_requant){.kind = BB_REQUANT_LINEAR,
                                             .channels = channels,
                                             .mult = k->mult,
                                             .mult2 = k->mult2,
                                             .add = k->add,
                                             .shift = k->shift};
    *codes = (bb_lb_codes){tensor, f->grid};
    return bb_lb_attach(l, root, value, tensor);
}

bb_status bb_lb_linear_codes(bb_lowbit *l, int value, bb_lb_codes *codes) {
    const bb_root root = l->roots[l->root_of[value]];
    formula f;
    if (root.kind == BB_ROOT_AVERAGE || root.kind == BB_ROOT_TAPS || root.flat_pixels ||
        !read_formula(l, value, &f) || l->root_of[f.input] != l->root_of[value] ||
        (!f.floors && root.kind != BB_ROOT_PAIR))
        return BB_STATUS_OK;
    uint32_t channels = bb_lb_channels(l, value);
    if (root.channels == 1 && bb_lb_uniform(l, f.input))
        channels = 1;
    bb_arena *arena = l->model->arena;
    bool second = root.kind == BB_ROOT_PAIR || root.kind == BB_ROOT_ADD;
    double *gain =
        bb_arena_array(l->graph->arena, 2 * (size_t)bb_lb_channels(l, f.input), sizeof(*gain));
    constants k = {.mult = bb_arena_array(arena, channels, sizeof(*k.mult)),
                   .mult2 = second ? bb_arena_array(arena, channels, sizeof(*k.mult2)) : NULL,
                   .add = bb_arena_array(arena, channels, sizeof(*k.add)),
                   .shift = bb_arena_array(arena, channels, sizeof(*k.shift))};
    if (!gain || !k.mult || (second && !k.mult2) || !k.add || !k.shift)
        return bb_fail_memory(l->err, "requantizers");
    double *shift = gain + bb_lb_channels(l, f.input);
    if (!bb_lb_gain(l, f.input, gain, shift) || !fill(&root, &f, gain, shift, channels, &k))
        return BB_STATUS_OK;
    return make_codes(l, value, &root, &f, channels, &k, codes);
}
