/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Steps -> requantizer. With S = n*2^shift, LINEAR gives code i at z where
 *     i*S <= z*mult + n*add < (i+1)*S,
 * open below for code 0 and above for the last one. Both are linear in (mult, add), and it is
 * enough that they hold at both ends of every step: so either some pair exists and is found, or
 * thresholds are used.
 */
#include "lower/lowbit.h"
#include <math.h>
#include <stdlib.h>

typedef struct step {
    int64_t first, last; /* reachable z of this code, both included */
    int64_t code;
} step;

typedef struct channel_steps {
    step *steps;
    size_t n;
    int64_t last_code;
    int64_t max_z;
} channel_steps;

static int64_t code_of(const bb_uniform *grid, float value) {
    double k = floor(((double)value - grid->low) / grid->unit + 0.5);
    return k < 0 ? 0 : (int64_t)k;
}

/* Steps of one channel with equal neighbours joined. False when out of memory. */
static bool channel_of(const bb_root *root, const bb_steps *s, const bb_uniform *grid, uint32_t c,
                       channel_steps *out) {
    out->steps = bb_alloc_array(s->n[c] + 1, sizeof(*out->steps));
    if (!out->steps)
        return false;
    int64_t high = root->high[root->channels == 1 ? 0 : c];
    int64_t low = root->low[root->channels == 1 ? 0 : c];
    out->n = 0;
    out->last_code = (INT64_C(1) << grid->bits) - 1;
    out->max_z = high > -low ? high : -low;
    for (size_t i = 0; i < s->n[c]; i++) {
        int64_t code = code_of(grid, s->value[c][i]);
        int64_t last = i + 1 < s->n[c] ? s->start[c][i + 1] - root->stride : high;
        if (out->n && out->steps[out->n - 1].code == code)
            out->steps[out->n - 1].last = last;
        else
            out->steps[out->n++] = (step){s->start[c][i], last, code};
    }
    return true;
}

/* ---- LINEAR --------------------------------------------------------------------------------- */

/* Width of the interval of real add/2^shift left by slope m, in codes; the steps bound it by
 * low = max(code - m*first) and high = min(code + 1 - m*last). Concave in m. */
static double room(const channel_steps *s, double m) {
    double low = -INFINITY, high = INFINITY;
    for (size_t i = 0; i < s->n; i++) {
        double at_first = m * (double)s->steps[i].first, at_last = m * (double)s->steps[i].last;
        double smallest = fmin(at_first, at_last), largest = fmax(at_first, at_last);
        if (s->steps[i].code > 0)
            low = fmax(low, (double)s->steps[i].code - smallest);
        if (s->steps[i].code < s->last_code)
            high = fmin(high, (double)s->steps[i].code + 1 - largest);
    }
    return high - low;
}

/* The slope with the most room, between 0 and one whole range of codes per step of z, either
 * sign. */
static double best_slope(const channel_steps *s, int64_t stride) {
    double limit = (double)(s->last_code + 1) / (double)stride;
    if (s->n == 1)
        return 0;
    double lo = -limit, hi = limit;
    for (int i = 0; i < 200; i++) {
        double a = lo + (hi - lo) / 3, b = hi - (hi - lo) / 3;
        if (room(s, a) < room(s, b))
            lo = a;
        else
            hi = b;
    }
    return (lo + hi) / 2;
}

static int64_t floor_div(int64_t a, int64_t b) {
    int64_t q = a / b;
    return q - (a % b != 0 && (a < 0) != (b < 0));
}

/* The interval of add for integer constants: |z*mult| < 2^31 * 2^22, n*code << shift < 2^62. */
static bool add_for(const channel_steps *s, int64_t mult, int shift, int64_t n, int64_t *add) {
    int64_t low = INT64_MIN, high = INT64_MAX, unit = n << shift;
    for (size_t i = 0; i < s->n; i++) {
        int64_t a = s->steps[i].first * mult, b = s->steps[i].last * mult;
        int64_t smallest = a < b ? a : b, largest = a < b ? b : a;
        int64_t need = s->steps[i].code * unit - smallest;
        int64_t limit = (s->steps[i].code + 1) * unit - 1 - largest;
        if (s->steps[i].code > 0 && need > low)
            low = need;
        if (s->steps[i].code < s->last_code && limit < high)
            high = limit;
    }
    if (low == INT64_MIN)
        low = high == INT64_MAX ? 0 : high - unit;
    if (high == INT64_MAX)
        high = low + unit;
    if (low > high)
        return false;
    *add = floor_div(low + (high - low) / 2, n); /* nearest multiple of n below the middle */
    if (*add * n < low)
        (*add)++;
    return *add * n >= low && *add * n <= high;
}

typedef struct linear_fit {
    int32_t mult;
    int64_t add;
    int shift;
} linear_fit;

static bool bounds_hold(const channel_steps *s, int64_t mult, int64_t add, int64_t n) {
    double t = (double)s->max_z * fabs((double)mult) + (double)n * fabs((double)add);
    return llabs(mult) < BB_MAX_MULT && t < 0x1p52;
}

/* factor: the largest of the roots' k1, k2, by which mult is multiplied in the end. */
static bool fit_channel(const channel_steps *s, const bb_root *root, linear_fit *fit) {
    int64_t n = root->kind == BB_ROOT_AVERAGE ? root->count : 1;
    int64_t factor = root->kind == BB_ROOT_ADD ? (root->k1 > root->k2 ? root->k1 : root->k2) : 1;
    double slope = best_slope(s, root->stride);
    if (!(room(s, slope) > 0))
        return false;
    slope *= (double)n;
    for (int shift = 40; shift >= 0; shift--) {
        if (fabs(slope) * ldexp(1, shift) * (double)factor >= BB_MAX_MULT / 2 ||
            n > INT64_C(1) << 20 ||
            (double)(s->last_code + 2) * (double)n * ldexp(1, shift) > 0x1p60)
            continue;
        int64_t nominal = (int64_t)floor(slope * ldexp(1, shift) + 0.5);
        for (int64_t near = 0; near < 5; near++) {
            int64_t mult = nominal + (near % 2 ? (near + 1) / 2 : -near / 2), add;
            if (!add_for(s, mult, shift, n, &add) || !bounds_hold(s, mult * factor, add, n))
                continue;
            *fit = (linear_fit){(int32_t)mult, add, shift};
            return true;
        }
    }
    return false;
}

static bool alloc_linear(bb_lowbit *l, const bb_root *root, uint32_t channels, int32_t **mult,
                         int32_t **mult2, int64_t **add, uint8_t **shift) {
    *mult = bb_arena_array(l->model->arena, channels, sizeof(**mult));
    *mult2 = root->kind == BB_ROOT_ADD ? bb_arena_array(l->model->arena, channels, sizeof(**mult2))
                                       : NULL;
    *add = bb_arena_array(l->model->arena, channels, sizeof(**add));
    *shift = bb_arena_array(l->model->arena, channels, sizeof(**shift));
    return *mult && *add && *shift && (*mult2 || root->kind != BB_ROOT_ADD);
}

/* Position of channel c of the graph in the model (flattened images are NHWC there). */
static uint32_t model_channel(const bb_root *root, uint32_t channels, uint32_t c) {
    if (channels == 1 || root->flat_pixels == 0)
        return c;
    return c % root->flat_pixels * root->flat_channels + c / root->flat_pixels;
}

static bool build_linear(bb_lowbit *l, const bb_root *root, const channel_steps *all,
                         uint32_t channels, bb_requant *r) {
    int32_t *mult, *mult2;
    int64_t *add;
    uint8_t *shift;
    if (!alloc_linear(l, root, channels, &mult, &mult2, &add, &shift))
        return false;
    for (uint32_t c = 0; c < channels; c++) {
        linear_fit fit;
        uint32_t at = model_channel(root, channels, c);
        if (!fit_channel(&all[c], root, &fit))
            return false;
        mult[at] = root->kind == BB_ROOT_ADD ? fit.mult * root->k1 : fit.mult;
        if (mult2)
            mult2[at] = fit.mult * root->k2;
        add[at] = fit.add;
        shift[at] = (uint8_t)fit.shift;
    }
    *r = (bb_requant){.kind = BB_REQUANT_LINEAR,
                      .channels = channels,
                      .mult = mult,
                      .mult2 = mult2,
                      .add = add,
                      .shift = shift};
    return true;
}

/* ---- THRESHOLDS ----------------------------------------------------------------------------- */

static int channel_direction(const channel_steps *s) {
    int direction = 0;
    for (size_t i = 1; i < s->n; i++) {
        int d = s->steps[i].code > s->steps[i - 1].code ? 1 : -1;
        if (direction && d != direction)
            return 2;
        direction = d;
    }
    return direction;
}

/* Rising: t[k] = first z with a code above k. Falling: last z with a code above k. */
static void fill_thresholds(const channel_steps *s, bool rising, int32_t *t) {
    for (int64_t k = 0; k < s->last_code; k++) {
        int64_t at = rising ? INT32_MAX : INT32_MIN;
        for (size_t i = 0; i < s->n; i++) {
            size_t j = rising ? s->n - 1 - i : i;
            if (s->steps[j].code <= k)
                continue;
            at = rising ? s->steps[j].first : s->steps[j].last;
            /* The outermost step reaches to the end of all integers. */
            if (rising && j == 0)
                at = INT32_MIN;
            if (!rising && j == s->n - 1)
                at = INT32_MAX;
        }
        t[k] = (int32_t)at;
    }
}

static bool build_thresholds(bb_lowbit *l, const bb_root *root, const channel_steps *all,
                             uint32_t channels, uint32_t bits, bb_requant *r) {
    size_t steps = ((size_t)1 << bits) - 1;
    if ((root->kind != BB_ROOT_CONV && root->kind != BB_ROOT_CODES) || bits > 10)
        return false;
    for (uint32_t c = 0; c < channels; c++)
        if (channel_direction(&all[c]) == 2 || all[c].max_z >= INT32_MAX)
            return false;
    int32_t *t = bb_arena_array(l->model->arena, steps * channels, sizeof(*t));
    uint8_t *rising = bb_arena_array(l->model->arena, channels, sizeof(*rising));
    if (!t || !rising)
        return false;
    for (uint32_t c = 0; c < channels; c++) {
        uint32_t at = model_channel(root, channels, c);
        rising[at] = channel_direction(&all[c]) >= 0;
        fill_thresholds(&all[c], rising[at], t + at * steps);
    }
    *r = (bb_requant){
        .kind = BB_REQUANT_THRESHOLDS, .channels = channels, .thresholds = t, .rising = rising};
    return true;
}

/* ---- INDEXED -------------------------------------------------------------------------------- */

/* Any function that is the same for all channels and changes within 4096 reachable integers; the
 * index is clamped to the ends of that window. */
static bool build_indexed(bb_lowbit *l, const bb_root *root, const channel_steps *all,
                          uint32_t channels, bb_requant *r) {
    const channel_steps *s = &all[0];
    int64_t low = s->steps[0].last, n = (s->steps[s->n - 1].first - low) / root->stride + 1;
    if (channels != 1 || root->kind == BB_ROOT_AVERAGE || n < 2 || n > 1 << BB_MAX_INDEX_BITS)
        return false;
    uint32_t bits = 1;
    while ((INT64_C(1) << bits) < n)
        bits++;
    /* Each reachable integer is a step of its own on the way to the index. */
    step *each = bb_alloc_array((size_t)n, sizeof(*each));
    uint16_t *table = bb_arena_array(l->model->arena, (size_t)1 << bits, sizeof(*table));
    for (int64_t i = 0; i < n && each; i++)
        each[i] = (step){low + i * root->stride, low + i * root->stride, i};
    channel_steps index = {each, (size_t)n, (INT64_C(1) << bits) - 1, s->max_z};
    bool ok = each && table && build_linear(l, root, &index, 1, r);
    bb_free(each);
    if (!ok)
        return false;
    for (size_t i = 0, at = 0; i < (size_t)1 << bits; i++) {
        int64_t z = low + (int64_t)i * root->stride;
        while (at + 1 < s->n && z > s->steps[at].last)
            at++;
        table[i] = (uint16_t)s->steps[at].code;
    }
    r->kind = BB_REQUANT_INDEXED;
    r->index_bits = bits;
    r->table = table;
    return true;
}

bool bb_lb_requant(bb_lowbit *l, const bb_root *root, const bb_steps *steps, const bb_uniform *grid,
                   bb_requant *requant) {
    uint32_t channels = steps->channels;
    channel_steps *all = bb_calloc_array(channels, sizeof(*all));
    bool ok = all != NULL;
    for (uint32_t c = 0; c < channels && ok; c++)
        ok = channel_of(root, steps, grid, c, &all[c]);
    ok = ok && (build_linear(l, root, all, channels, requant) ||
                build_thresholds(l, root, all, channels, grid->bits, requant) ||
                build_indexed(l, root, all, channels, requant));
    for (uint32_t c = 0; c < channels && all; c++)
        bb_free(all[c].steps);
    bb_free(all);
    return ok;
}
