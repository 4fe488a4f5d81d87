/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Proofs that LINEAR may be computed in float. In real numbers
 *     V = Z1*m + u2*m2 + a,  code = clamp(floor(V), 0, limit)
 * with m = mult*2^-shift, u2 the second operand's code, and all constants as in requant.h. mult
 * has at most 22 bits, so m and m2 are exact in float.
 *
 * One value. Conversion, fused or separate product and sum, and truncation are monotonic, so a code
 * computed in float is a monotonic function of Z1. It equals the exact one for every Z1 if it does
 * on both sides of each of the exact one's `limit` steps, which are known. Moving a to the middle
 * of the room the steps leave keeps rounding clear of them; then both sides of every step in every
 * channel are tried.
 *
 * Two values. Where steps are too many or a second operand takes part, V is bracketed by the float
 * values of V - E and V + E, E above all rounding errors. With u = 2^-24, A = |a| + max_u2*|m2| and
 * |V| <= limit + 1, so that |Z1*m| <= B = limit + 1 + A:
 *     fl(Z1), its product and u2's product   <= u*(2.01*B + 1.01*A)
 *     two sums of at most A + B + E          <= 2.01*u*(A + B + E)
 *     a -+ E rounded to float                <= u*(A + E)
 * together below 5*u*(A + B) = E. Beyond limit + 1 errors grow with |V| by less than 8*u*|V|, which
 * cannot bring V back into (0, limit) while 10*u*A < 1/2: both values then clamp to the same end.
 *
 * In either form |V| < 2^30, because conversion to int32 must not overflow.
 *
 * Where every job has the same border, it goes into a: V = Z*m + u2*m2 + (a + border*m) with
 * Z = z1 << z1_shift.
 */
#include "kernels/requant.h"

#include <math.h>

static int64_t floor_divide(int64_t a, int64_t b) {
    return a / b - ((a % b != 0) && ((a < 0) != (b < 0)));
}

/** One channel with its border folded, if it is constant. */
typedef struct channel {
    int64_t mult, add, one; /**< one = 2^shift */
    int64_t least, most;    /**< range of Z */
    int32_t limit;
    double m, m2, a;
    double constant; /**< A */
} channel;

static channel channel_at(const bb_requant_tables *t, const bb_requant_range *range, size_t c) {
    const int64_t border = range->border ? range->border[c] : 0;
    /* |border| <= 2^31, |mult| < 2^22, |add| < 2^53: below 2^55 */
    channel k = {.mult = t->mult[c],
                 .add = t->add[c] + border * t->mult[c],
                 .one = (int64_t)1 << t->shift[c],
                 .least = -range->max_z1 - border,
                 .most = range->max_z1 - border,
                 .limit = t->limit,
                 .m = t->mult_d[c],
                 .m2 = t->has_z2 ? t->mult2_d[c] : 0,
                 .a = t->add_d[c] + (double)border * t->mult_d[c]};
    k.constant = fabs(k.a) + range->max_u2 * fabs(k.m2);
    return k;
}

/* ---- one value ------------------------------------------------------------------------------- */

/* The step of code i: for mult > 0 the first Z with a code >= i, for mult < 0 the last one. */
static int64_t step_of(const channel *k, int64_t i) {
    const int64_t d = i * k->one - k->add;
    return k->mult > 0 ? -floor_divide(-d, k->mult) : floor_divide(d, k->mult);
}

static bool reachable(const channel *k, int64_t z) {
    return z >= k->least && z <= k->most;
}

/* At step z the exact value exceeds i by d in [0, |m|). Shifting a so that these d lie in the
 * middle of that range leaves the most room for rounding on both sides. */
static float centred_add(const channel *k) {
    const double width = fabs(k->m);
    double least = width, most = 0;
    for (int64_t i = 1; i <= k->limit; i++) {
        const int64_t z = step_of(k, i);
        if (!reachable(k, z))
            continue;
        const double d = (double)z * k->m + (k->a - (double)i);
        least = d < least ? d : least;
        most = d > most ? d : most;
    }
    return (float)(least > most ? k->a : k->a + (width - least - most) / 2);
}

/* Kernels may or may not fuse product and sum: both have to reach i, or stay below. */
static bool reaches(int64_t z, float mult, float add, int64_t i) {
    const float product = (float)z * mult;
    return product + add >= (float)i && fmaf((float)z, mult, add) >= (float)i;
}

static bool stays_below(int64_t z, float mult, float add, int64_t i) {
    const float product = (float)z * mult;
    return product + add < (float)i && fmaf((float)z, mult, add) < (float)i;
}

/* Code i belongs to the Z on one side of its step, as far as they are reachable. The nearest ones
 * to the step on both sides decide for all. */
static bool step_agrees(const channel *k, int64_t i, float mult, float add) {
    const bool rising = k->mult > 0;
    int64_t on = step_of(k, i), off = rising ? on - 1 : on + 1;
    on = on < k->least && rising ? k->least : on > k->most && !rising ? k->most : on;
    off = off > k->most && rising ? k->most : off < k->least && !rising ? k->least : off;
    if (reachable(k, on) && !reaches(on, mult, add, i))
        return false;
    return !reachable(k, off) || stays_below(off, mult, add, i);
}

static bool steps_agree(const channel *k, float mult, float add) {
    for (int64_t i = 1; i <= k->limit; i++)
        if (!step_agrees(k, i, mult, add))
            return false;
    return true;
}

static bool one_value(const channel *k, float *mult, float *add) {
    if (k->mult == 0) {
        const int64_t code = floor_divide(k->add, k->one);
        *mult = 0.0f;
        *add = code < 0 ? 0.0f : code > k->limit ? (float)k->limit : (float)code;
        return true;
    }
    *mult = (float)k->m;
    *add = centred_add(k);
    return steps_agree(k, *mult, *add);
}

/* ---- two values ------------------------------------------------------------------------------ */

/* Wider brackets meet an integer so often that the double form is as fast. */
static const double WIDEST = 1.0 / 512;

static bool two_values(const channel *k, size_t c, const bb_requant_floats *room) {
    const double b = k->limit + 1 + k->constant;
    /* at most WIDEST also gives 10*u*A < 1/2; what k->a lacks of a double is nothing beside it */
    const double error = 5 * 0x1p-24 * (k->constant + b);
    room->mult[c] = (float)k->m;
    room->mult2[c] = (float)k->m2;
    room->low[c] = (float)(k->a - error);
    room->high[c] = (float)(k->a + error);
    return error <= WIDEST;
}

static bool fits_int32(const channel *k) {
    const int64_t largest = k->most > -k->least ? k->most : -k->least;
    return fabs(k->m) * (double)largest + k->constant < 0x1p30;
}

void bb_requant_use_floats(bb_requant_tables *t, const bb_requant_range *range,
                           const bb_requant_floats *room) {
    bool one = true;
    if (t->has_slope || range->averages || t->limit > 255)
        return;
    for (size_t c = 0; c < t->channels; c++) {
        const channel k = channel_at(t, range, c);
        if (!fits_int32(&k))
            return;
        if (!t->has_z2 && one_value(&k, &room->mult[c], &room->low[c])) {
            room->high[c] = room->low[c]; /* a bracket that never holds two codes */
            continue;
        }
        one = false;
        if (!two_values(&k, c, room))
            return;
    }
    t->mult_f = room->mult;
    t->mult2_f = t->has_z2 ? room->mult2 : NULL;
    t->low_f = room->low;
    t->high_f = one ? NULL : room->high;
    t->folded = range->border != NULL;
}
