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
 */
#include "kernels/requant.h"

#include <math.h>

static int64_t floor_divide(int64_t a, int64_t b) {
    return a / b - ((a % b != 0) && ((a < 0) != (b < 0)));
}

/* ---- one value ---------------------------------------------------------------------------------
 */

/* The step of code i: for mult > 0 the first Z1 with a code >= i, for mult < 0 the last one. */
static int64_t step_of(const bb_requant_tables *t, size_t c, int64_t i) {
    const int64_t d = i * ((int64_t)1 << t->shift[c]) - t->add[c];
    return t->mult[c] > 0 ? -floor_divide(-d, t->mult[c]) : floor_divide(d, t->mult[c]);
}

static bool reachable(int64_t z, int64_t max_z1) {
    return z >= -max_z1 && z <= max_z1;
}

/* At step z the exact value exceeds i by d in [0, |m|). Shifting a so that these d lie in the
 * middle of that range leaves the most room for rounding on both sides. */
static float centred_add(const bb_requant_tables *t, size_t c, int64_t max_z1) {
    const double m = t->mult_d[c], a = t->add_d[c], width = fabs(m);
    double least = width, most = 0;
    for (int64_t i = 1; i <= t->limit; i++) {
        const int64_t z = step_of(t, c, i);
        if (!reachable(z, max_z1))
            continue;
        const double d = (double)z * m + (a - (double)i);
        least = d < least ? d : least;
        most = d > most ? d : most;
    }
    return (float)(least > most ? a : a + (width - least - most) / 2);
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

/* Code i belongs to the Z1 on one side of its step, as far as they are reachable. The nearest ones
 * to the step on both sides decide for all. */
static bool step_agrees(int64_t step, bool rising, int64_t i, int64_t max_z1, float mult,
                        float add) {
    int64_t on = step, off = rising ? step - 1 : step + 1;
    on = on < -max_z1 && rising ? -max_z1 : on > max_z1 && !rising ? max_z1 : on;
    off = off > max_z1 && rising ? max_z1 : off < -max_z1 && !rising ? -max_z1 : off;
    if (reachable(on, max_z1) && !reaches(on, mult, add, i))
        return false;
    return !reachable(off, max_z1) || stays_below(off, mult, add, i);
}

static bool steps_agree(const bb_requant_tables *t, size_t c, int64_t max_z1, float mult,
                        float add) {
    for (int64_t i = 1; i <= t->limit; i++)
        if (!step_agrees(step_of(t, c, i), t->mult[c] > 0, i, max_z1, mult, add))
            return false;
    return true;
}

static bool one_value(const bb_requant_tables *t, size_t c, int64_t max_z1, float *mult,
                      float *add) {
    if (t->mult[c] == 0) {
        const int64_t code = floor_divide(t->add[c], (int64_t)1 << t->shift[c]);
        *mult = 0.0f;
        *add = code < 0 ? 0.0f : code > t->limit ? (float)t->limit : (float)code;
        return true;
    }
    *mult = (float)t->mult_d[c];
    *add = centred_add(t, c, max_z1);
    return steps_agree(t, c, max_z1, *mult, *add);
}

/* ---- two values --------------------------------------------------------------------------------
 */

/* Wider brackets meet an integer so often that the double form is as fast. */
static const double WIDEST = 1.0 / 512;

static double constant_part(const bb_requant_tables *t, size_t c, int32_t max_u2) {
    return fabs(t->add_d[c]) + (t->has_z2 ? max_u2 * fabs(t->mult2_d[c]) : 0);
}

static bool two_values(const bb_requant_tables *t, size_t c, int32_t max_u2,
                       const bb_requant_floats *room) {
    const double a = constant_part(t, c, max_u2), b = t->limit + 1 + a;
    const double error = 5 * 0x1p-24 * (a + b); /* at most WIDEST also gives 10*u*A < 1/2 */
    room->mult[c] = (float)t->mult_d[c];
    room->mult2[c] = t->has_z2 ? (float)t->mult2_d[c] : 0.0f;
    room->low[c] = (float)(t->add_d[c] - error);
    room->high[c] = (float)(t->add_d[c] + error);
    return error <= WIDEST;
}

static bool fits_int32(const bb_requant_tables *t, const bb_requant_range *range) {
    for (size_t c = 0; c < t->channels; c++)
        if (fabs(t->mult_d[c]) * (double)range->max_z1 + constant_part(t, c, range->max_u2) >=
            0x1p30)
            return false;
    return true;
}

void bb_requant_use_floats(bb_requant_tables *t, const bb_requant_range *range,
                           const bb_requant_floats *room) {
    if (t->has_slope || range->averages || t->limit > 255 || !fits_int32(t, range))
        return;
    bool one = true;
    for (size_t c = 0; c < t->channels; c++) {
        if (!t->has_z2 && one_value(t, c, range->max_z1, &room->mult[c], &room->low[c])) {
            room->high[c] = room->low[c]; /* a bracket that never holds two codes */
            continue;
        }
        one = false;
        if (!two_values(t, c, range->max_u2, room))
            return;
    }
    t->mult_f = room->mult;
    t->mult2_f = t->has_z2 ? room->mult2 : NULL;
    t->low_f = room->low;
    t->high_f = one ? NULL : room->high;
}
