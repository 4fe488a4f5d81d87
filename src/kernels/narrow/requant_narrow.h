/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file requant_narrow.h
 * Requantizers on 128-bit vectors, eight channels at a time, the designs of requant_avx2.c and
 * requant_float_x86.h. Included once by each instruction set, after
 *     NARROW_REQUANT  the symbol of a bb_requant_kernels
 *     NARROW_NAME     its name
 * Without vectors of doubles, what has no proved float form is left to the reference.
 */
#include "kernels/narrow/vec128.h"
#include "kernels/requant_lanes.h"

#define R_FN V_FN __attribute__((always_inline)) static inline

enum { R_LANES = 8 };

/** Eight 32-bit lanes. */
typedef struct eight {
    vec lo, hi;
} eight;

R_FN eight r_load(const void *p, size_t i, bb_element type) {
    const vec zero = v_set32(0);
    if (type == BB_ELEMENT_I32) {
        const int32_t *at = (const int32_t *)p + i;
        return (eight){v_load(at), v_load(at + 4)};
    }
    const vec words = type == BB_ELEMENT_U8 ? v_zip8_lo(v_load64((const uint8_t *)p + i), zero)
                                            : v_load((const uint16_t *)p + i);
    return (eight){v_zip16_lo(words, zero), v_zip16_hi(words, zero)};
}

R_FN eight r_add(eight a, eight b) {
    return (eight){v_add32(a.lo, b.lo), v_add32(a.hi, b.hi)};
}

R_FN eight r_first(const bb_requant_job *job, size_t i, bb_element type, eight border) {
    const eight z = r_load(job->z1, i, type);
    return r_add((eight){v_shl32(z.lo, job->z1_shift), v_shl32(z.hi, job->z1_shift)}, border);
}

R_FN eight r_border(const bb_requant_job *job, size_t c) {
    return r_load(job->border, c, BB_ELEMENT_I32);
}

/* Lanes hold codes, or negative numbers that saturate to code 0. */
R_FN void r_store(void *p, size_t i, bb_element type, eight v) {
    if (type == BB_ELEMENT_U8)
        v_store64((uint8_t *)p + i, v_pack16(v_pack32(v.lo, v.hi)));
    else
        v_store((uint16_t *)p + i, v_pack32_u(v.lo, v.hi));
}

/* ---- LINEAR in float: requant_float.c -------------------------------------------------------- */

/* What a float kernel has to do: known at compile time. */
enum { R_Z2 = 1, R_BRACKET = 2 };

typedef struct r_floats {
    vecf mult[2], mult2[2], low[2], high[2];
} r_floats;

R_FN r_floats r_load_floats(const bb_requant_tables *t, size_t c, int with) {
    r_floats k;
    for (size_t j = 0; j < 2; j++, c += 4) {
        k.mult[j] = vf_load(t->mult_f + c);
        k.low[j] = vf_load(t->low_f + c);
        k.high[j] = vf_load((with & R_BRACKET ? t->high_f : t->low_f) + c);
        k.mult2[j] = vf_load((with & R_Z2 ? t->mult2_f : t->mult_f) + c);
    }
    return k;
}

/* Clamped codes of the float values z*mult + u2*mult2 + add. */
R_FN vec r_float_codes(const r_floats *k, const vecf *add, eight z, eight u2, vec limit, int with) {
    vecf lo = vf_add(vf_mul(vf_from32(z.lo), k->mult[0]), add[0]);
    vecf hi = vf_add(vf_mul(vf_from32(z.hi), k->mult[1]), add[1]);
    if (with & R_Z2) {
        lo = vf_add(lo, vf_mul(vf_from32(u2.lo), k->mult2[0]));
        hi = vf_add(hi, vf_mul(vf_from32(u2.hi), k->mult2[1]));
    }
    return v_min8(v_pack16(v_pack32(vf_to32(lo), vf_to32(hi))), limit);
}

R_FN void r_float_groups(const bb_requant_tables *t, const bb_requant_job *shared,
                         bb_requant_fn exact, bb_element type, int with) {
    const bb_requant_job copy = *shared, *job = &copy; /* stores of bytes might change *shared */
    const vec limit = v_set8((int8_t)t->limit);
    for (int32_t i = 0; i + R_LANES <= job->n_channels; i += R_LANES) {
        const size_t c = (size_t)(job->c0 + i), lane = (size_t)i;
        const r_floats k = r_load_floats(t, c, with);
        const eight border = t->folded ? (eight){v_set32(0), v_set32(0)} : r_border(job, c);
        for (size_t p = 0; p < (size_t)job->n_pixels; p++) {
            const eight z = r_first(job, p * job->z1_stride + lane, type, border);
            eight u2 = z;
            if (with & R_Z2)
                u2 = r_load(job->z2, p * job->z2_stride + lane, job->z2_type);
            const vec codes = r_float_codes(&k, k.low, z, u2, limit, with);
            if ((with & R_BRACKET) &&
                v_any(v_xor(codes, r_float_codes(&k, k.high, z, u2, limit, with)))) {
                const bb_requant_job part = bb_requant_part(job, p, i, R_LANES);
                exact(t, &part);
            } else {
                v_store64((uint8_t *)job->out + p * job->out_stride + lane, codes);
            }
        }
    }
}

/* ---- LINEAR in double ------------------------------------------------------------------------ */

#if V_DOUBLE

enum { R_SLOPE = 4, R_COUNT = 8 }; /**< beside R_Z2 */

typedef struct r_linear {
    vecd mult, mult2, add, neg_mult, neg_mult2, neg_add, off, limit, count;
} r_linear;

R_FN r_linear r_load_linear(const bb_requant_tables *t, const bb_requant_job *job, size_t c,
                            int with) {
    r_linear k = {.mult = vd_load(t->mult_d + c), .add = vd_load(t->add_d + c)};
    k.limit = vd_set(t->limit);
    k.count = vd_set(job->count);
    if (with & R_Z2)
        k.mult2 = vd_load(t->mult2_d + c);
    if (with & R_SLOPE) {
        k.neg_mult = vd_load(t->neg_mult_d + c);
        k.neg_add = vd_load(t->neg_add_d + c);
        k.off = vd_load(t->off_d + c);
        if (with & R_Z2)
            k.neg_mult2 = vd_load(t->neg_mult2_d + c);
    }
    if (with & R_COUNT) {
        k.add = vd_mul(k.add, k.count);
        if (with & R_SLOPE) {
            k.neg_add = vd_mul(k.neg_add, k.count);
            k.off = vd_mul(k.off, k.count);
        }
    }
    return k;
}

/* Codes of four lanes, not yet clamped at 0; exactness: linear_lanes of requant_avx2.c. */
R_FN vec r_linear_codes(const r_linear *k, vec z1, vec u2, int with) {
    const vecd a = vd_from32(z1), b = with & R_Z2 ? vd_from32(u2) : a;
    vecd value = vd_add(vd_mul(a, k->mult), k->add);
    if (with & R_Z2)
        value = vd_add(value, vd_mul(b, k->mult2));
    if (with & R_SLOPE) {
        vecd negative = vd_add(vd_mul(a, k->neg_mult), k->neg_add);
        if (with & R_Z2)
            negative = vd_add(negative, vd_mul(b, k->neg_mult2));
        value = vd_add(vd_choose(value, value, negative), k->off);
    }
    if (with & R_COUNT)
        value = vd_div(value, k->count);
    return vd_to32(vd_min(value, k->limit));
}

static void r_look_up(const uint16_t *table, eight v, uint16_t *out) {
    int32_t index[R_LANES];
    v_store(index, v.lo);
    v_store(index + 4, v.hi);
    for (int i = 0; i < R_LANES; i++)
        out[i] = table[index[i] > 0 ? index[i] : 0];
}

R_FN void r_linear_groups(const bb_requant_tables *t, const bb_requant_job *shared, int with,
                          const uint16_t *table) {
    const bb_requant_job copy = *shared, *job = &copy;
    for (int32_t i = 0; i + R_LANES <= job->n_channels; i += R_LANES) {
        const size_t c = (size_t)(job->c0 + i), lane = (size_t)i;
        const r_linear lo = r_load_linear(t, job, c, with), hi = r_load_linear(t, job, c + 4, with);
        const eight border = r_border(job, c);
        for (size_t p = 0; p < (size_t)job->n_pixels; p++) {
            const eight z = r_first(job, p * job->z1_stride + lane, job->z1_type, border);
            eight u2 = z;
            if (with & R_Z2)
                u2 = r_load(job->z2, p * job->z2_stride + lane, job->z2_type);
            eight v = {r_linear_codes(&lo, z.lo, u2.lo, with),
                       r_linear_codes(&hi, z.hi, u2.hi, with)};
            if (table) {
                uint16_t codes[R_LANES];
                r_look_up(table, v, codes);
                v = r_load(codes, 0, BB_ELEMENT_U16);
            }
            r_store(job->out, p * job->out_stride + lane, job->out_type, v);
        }
    }
}

V_FN static void r_linear_exact(const bb_requant_tables *t, const bb_requant_job *job) {
    if (job->count != 1 && t->has_slope)
        r_linear_groups(t, job, R_COUNT | R_SLOPE, NULL);
    else if (job->count != 1)
        r_linear_groups(t, job, R_COUNT, NULL);
    else if (t->has_slope && t->has_z2)
        r_linear_groups(t, job, R_SLOPE | R_Z2, NULL);
    else if (t->has_slope)
        r_linear_groups(t, job, R_SLOPE, NULL);
    else if (t->has_z2)
        r_linear_groups(t, job, R_Z2, NULL);
    else
        r_linear_groups(t, job, 0, NULL);
}

V_FN static void r_indexed(const bb_requant_tables *t, const bb_requant_job *job) {
    if (job->count != 1)
        r_linear_groups(t, job, R_COUNT, t->table);
    else if (t->has_z2)
        r_linear_groups(t, job, R_Z2, t->table);
    else
        r_linear_groups(t, job, 0, t->table);
}

static void indexed(const bb_requant_tables *t, const bb_requant_job *job) {
    /* A second slope before a table is allowed and rare. */
    if (t->has_slope)
        bb_requant_ref.indexed(t, job);
    else
        bb_requant_by_eights(r_indexed, t, job);
}

/* ---- FLOAT ----------------------------------------------------------------------------------- */

R_FN vecf r_float_value(const bb_requant_tables *t, const bb_requant_job *job, size_t c, vec z1,
                        vec z2) {
    vecd value = vd_from32(z1);
    if (job->count != 1)
        value = vd_div(value, vd_set(job->count));
    value = vd_mul(value, vd_load(t->scale + c));
    if (t->has_z2) {
        z2 = v_add32(v_add32(z2, z2), v_set32(-t->zero2));
        value = vd_add(value, vd_mul(vd_from32(z2), vd_load(t->scale2 + c)));
    }
    return vd_to_float(vd_add(value, vd_load(t->bias + c)));
}

V_FN static void r_to_float(const bb_requant_tables *t, const bb_requant_job *job) {
    for (int32_t i = 0; i + R_LANES <= job->n_channels; i += R_LANES) {
        const size_t c = (size_t)(job->c0 + i), lane = (size_t)i;
        const eight border = r_border(job, c);
        for (size_t p = 0; p < (size_t)job->n_pixels; p++) {
            const eight z = r_first(job, p * job->z1_stride + lane, job->z1_type, border);
            eight z2 = z;
            if (t->has_z2)
                z2 = r_load(job->z2, p * job->z2_stride + lane, job->z2_type);
            float *out = (float *)job->out + p * job->out_stride + lane;
            vf_store(out, r_float_value(t, job, c, z.lo, z2.lo));
            vf_store(out + 4, r_float_value(t, job, c + 4, z.hi, z2.hi));
        }
    }
}

static void to_float(const bb_requant_tables *t, const bb_requant_job *job) {
    bb_requant_by_eights(r_to_float, t, job);
}

#define R_EXACT r_linear_exact

#else

static void indexed(const bb_requant_tables *t, const bb_requant_job *job) {
    bb_requant_ref.indexed(t, job);
}

static void to_float(const bb_requant_tables *t, const bb_requant_job *job) {
    bb_requant_ref.to_float(t, job);
}

#define R_EXACT bb_requant_ref.linear

#endif

V_FN static void r_linear_float(const bb_requant_tables *t, const bb_requant_job *job) {
    const bool codes = job->z1_type == BB_ELEMENT_U8;
    if (t->has_z2 && codes)
        r_float_groups(t, job, R_EXACT, BB_ELEMENT_U8, R_Z2 | R_BRACKET);
    else if (t->has_z2)
        r_float_groups(t, job, R_EXACT, BB_ELEMENT_I32, R_Z2 | R_BRACKET);
    else if (t->high_f && codes)
        r_float_groups(t, job, R_EXACT, BB_ELEMENT_U8, R_BRACKET);
    else if (t->high_f)
        r_float_groups(t, job, R_EXACT, BB_ELEMENT_I32, R_BRACKET);
    else if (codes)
        r_float_groups(t, job, R_EXACT, BB_ELEMENT_U8, 0);
    else
        r_float_groups(t, job, R_EXACT, BB_ELEMENT_I32, 0);
}

static void linear(const bb_requant_tables *t, const bb_requant_job *job) {
    if (bb_requant_is_float(t, job))
        bb_requant_by_eights(r_linear_float, t, job);
    else if (V_DOUBLE)
        bb_requant_by_eights(R_EXACT, t, job);
    else
        R_EXACT(t, job);
}

/* ---- THRESHOLDS ------------------------------------------------------------------------------ */

/* Up to 5 bits: one comparison per threshold and four lanes. */
V_FN static void r_thresholds(const bb_requant_tables *t, const bb_requant_job *job) {
    const vec all = v_set32(t->limit);
    for (int32_t i = 0; i + R_LANES <= job->n_channels; i += R_LANES) {
        const size_t c = (size_t)(job->c0 + i), lane = (size_t)i;
        const eight border = r_border(job, c), flip = r_load(t->flip, c, BB_ELEMENT_I32);
        for (size_t p = 0; p < (size_t)job->n_pixels; p++) {
            eight z = r_first(job, p * job->z1_stride + lane, job->z1_type, border);
            eight code = {all, all};
            z = (eight){v_xor(z.lo, flip.lo), v_xor(z.hi, flip.hi)};
            for (int32_t j = 0; j < t->limit; j++) {
                const eight row = r_load(t->thresholds + (size_t)j * t->padded, c, BB_ELEMENT_I32);
                code = r_add(code, (eight){v_more32(row.lo, z.lo), v_more32(row.hi, z.hi)});
            }
            r_store(job->out, p * job->out_stride + lane, job->out_type, code);
        }
    }
}

static void thresholds(const bb_requant_tables *t, const bb_requant_job *job) {
    /* More bits: the reference's binary search is as fast as a scan. */
    if (t->limit > 31)
        bb_requant_ref.thresholds(t, job);
    else
        bb_requant_by_eights(r_thresholds, t, job);
}

const bb_requant_kernels NARROW_REQUANT = {NARROW_NAME, linear, thresholds, indexed, to_float};
