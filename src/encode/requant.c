/* SPDX-License-Identifier: Apache-2.0 */
/* Integer constants of requantizers (bounds: model.h). */
#include "encode/encode.h"
#include <math.h>

enum { MAX_SHIFT = 46 };
static const double max_mult = 0x1p22, max_t = 0x1p53;

static bool finite_spec(const bb_linear_spec *s) {
    return isfinite(s->m1) && isfinite(s->m2) && isfinite(s->offset) && isfinite(s->zero) &&
           (!s->slopes || isfinite(s->slope));
}

/* Sum of the magnitudes of all terms of T: an upper bound of every intermediate. Each term is
 * below 2^54 where this is compared, so double adds them with an error far below the margin. */
static double slope_bound(const bb_linear_spec *s, double mult, double mult2, double add,
                          double off) {
    return (double)s->max_z1 * fabs(mult) + (double)s->max_z2 * fabs(mult2) +
           (double)s->n_max * (fabs(add) + fabs(off));
}

static bool mult_fits(double mult) {
    return fabs(mult) < max_mult;
}

static double scaled(double x, int shift) {
    return floor(ldexp(x, shift) + 0.5);
}

/* A margin of 2^-20 covers the rounding of the bound itself. */
static bool bound_fits(double bound) {
    return bound < max_t * (1 - 0x1p-20);
}

static bool try_shift(const bb_linear_spec *s, int shift, bb_linear *linear) {
    double rounding = s->slopes ? 0 : s->zero + 0.5;
    double mult = scaled(s->m1, shift), mult2 = scaled(s->m2, shift);
    double add = scaled(s->offset + rounding, shift);
    double off = s->slopes ? scaled(s->zero + 0.5, shift) : 0;
    double slope = s->slopes ? s->slope : 0;
    double neg_mult = scaled(s->m1 * slope, shift), neg_mult2 = scaled(s->m2 * slope, shift);
    double neg_add = scaled(s->offset * slope, shift);
    if (!mult_fits(mult) || !mult_fits(mult2) || !mult_fits(neg_mult) || !mult_fits(neg_mult2) ||
        !bound_fits(slope_bound(s, mult, mult2, add, off)) ||
        !bound_fits(slope_bound(s, neg_mult, neg_mult2, neg_add, off)))
        return false;
    *linear = (bb_linear){(int32_t)mult,      (int32_t)mult2, (int32_t)neg_mult,
                          (int32_t)neg_mult2, (int64_t)add,   (int64_t)neg_add,
                          (int64_t)off,       (uint8_t)shift, s->slopes};
    return true;
}

/* A channel that gives the same code everywhere (dead or saturated) would waste the shift on its
 * offset; as a constant it needs none. */
static bool constant_code(const bb_linear_spec *s, double *code) {
    double reach = fabs(s->m1) * (double)s->max_z1 + fabs(s->m2) * (double)s->max_z2;
    double last = ldexp(1, (int)s->bits) - 1;
    double low = s->offset - reach, high = s->offset + reach;
    if (s->slopes) {
        double a = low < 0 ? low * s->slope : low, b = high < 0 ? high * s->slope : high;
        double kink = low < 0 && high > 0 ? 0 : a;
        low = fmin(fmin(a, b), kink);
        high = fmax(fmax(a, b), kink);
    }
    *code = low + s->zero > last ? last : 0;
    return low + s->zero > last || high + s->zero < 0;
}

bool bb_linear_from_real(const bb_linear_spec *spec, bb_linear *linear) {
    if (!finite_spec(spec))
        return false;
    double code;
    if (constant_code(spec, &code)) {
        /* floor(code) is the code itself; `slopes` keeps the table of a layer uniform. */
        *linear = (bb_linear){.slopes = spec->slopes};
        *(spec->slopes ? &linear->off : &linear->add) = (int64_t)code;
        return true;
    }
    for (int shift = MAX_SHIFT; shift >= 0; shift--)
        if (try_shift(spec, shift, linear))
            return true;
    return false;
}

static int64_t floor_div(int64_t a, int64_t b) {
    int64_t q = a / b;
    return q - (a % b < 0);
}

uint32_t bb_linear_apply(const bb_linear *r, int64_t z1, int64_t z2, int64_t n, uint32_t bits) {
    int64_t t = z1 * r->mult + z2 * r->mult2 + n * r->add; /* |t| < 2^53 */
    if (r->slopes && t < 0)
        t = z1 * r->neg_mult + z2 * r->neg_mult2 + n * r->neg_add;
    t += r->slopes ? n * r->off : 0;
    int64_t last = ((int64_t)1 << bits) - 1;
    int64_t u = floor_div(floor_div(t, (int64_t)1 << r->shift), n);
    return (uint32_t)(u < 0 ? 0 : u > last ? last : u);
}

/* Smallest z in lo..hi with fn(z) >= code (or < code where falling); hi+1 if there is none. */
static int64_t first_reached(bb_code_fn fn, void *user, int64_t lo, int64_t hi, uint32_t code,
                             bool rising) {
    int64_t low = lo, high = hi + 1;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        uint32_t u = fn(user, (int32_t)middle);
        if (rising ? u >= code : u < code)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

uint32_t bb_thresholds_apply(const int32_t *t, bool rising, uint32_t bits, int32_t z) {
    uint32_t n = (UINT32_C(1) << bits) - 1, u = 0;
    for (uint32_t i = 0; i < n; i++)
        u += rising ? z >= t[i] : z <= t[i];
    return u;
}

/* A jump lies between two neighbours; there and at the ends the thresholds must say what fn says.
 */
static bool agrees_near(bb_code_fn fn, void *user, int64_t lo, int64_t hi, uint32_t bits,
                        const int32_t *t, bool rising, int64_t z) {
    for (int64_t at = z - 1; at <= z + 1; at++)
        if (at >= lo && at <= hi &&
            fn(user, (int32_t)at) != bb_thresholds_apply(t, rising, bits, (int32_t)at))
            return false;
    return true;
}

bool bb_thresholds_from_function(bb_code_fn fn, void *user, int32_t lo, int32_t hi, uint32_t bits,
                                 int32_t *t, uint8_t *rising) {
    if (lo == INT32_MIN || hi == INT32_MAX || lo > hi)
        return false;
    bool up = fn(user, lo) <= fn(user, hi);
    uint32_t last = (UINT32_C(1) << bits) - 1;
    *rising = up;
    for (uint32_t code = 1; code <= last; code++) {
        int64_t at = first_reached(fn, user, lo, hi, code, up);
        /* Rising: u >= code from `at` on. Falling: u >= code up to `at` - 1. */
        if (at == lo)
            t[code - 1] = INT32_MIN;
        else if (at > hi)
            t[code - 1] = INT32_MAX;
        else
            t[code - 1] = (int32_t)(up ? at : at - 1);
        if (code > 1 && (up ? t[code - 1] < t[code - 2] : t[code - 1] > t[code - 2]))
            return false;
    }
    bool agree = agrees_near(fn, user, lo, hi, bits, t, up, lo) &&
                 agrees_near(fn, user, lo, hi, bits, t, up, hi);
    for (uint32_t i = 0; i < last && agree; i++)
        agree = agrees_near(fn, user, lo, hi, bits, t, up, t[i]);
    return agree;
}
