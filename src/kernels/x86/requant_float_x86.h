/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file requant_float_x86.h
 * LINEAR in float for one instruction set, up to VECTORS vectors of a pixel at a time. Codes are
 * clamped where it is free: packing saturates at 0 and 255, one minimum of bytes does the rest.
 *
 * The including file defines TARGET (attribute), LANES of 32 bits, the types of a vector, floats
 * and ints, a mask of lanes and ALL_LANES, and the operations below on them:
 *   float_set, float_load, float_store, float_multiply, float_fma, float_of_ints, truncated
 *   int_load, int_add, int_shift, codes8, codes16, bytes_set
 *   pack (clamped bytes of n vectors), in_order (what packing permuted), store_codes, differ
 * Masked lanes are not read or written.
 */
#include "kernels/x86/requant_x86.h"

#include <string.h>

#define INLINE TARGET __attribute__((always_inline)) static inline

enum { VECTORS = 4, STEP = VECTORS * LANES };

/* What a kernel has to do: known at compile time. */
enum { WITH_BORDER = 1, WITH_Z2 = 2, WITH_BRACKET = 4 };

/* Where the constants of some first channel are. */
typedef struct source {
    const float *mult, *mult2, *low, *high;
    const int32_t *border;
} source;

typedef struct constants {
    floats mult[VECTORS], mult2[VECTORS], low[VECTORS], high[VECTORS];
    ints border[VECTORS], limit;
} constants;

INLINE source source_at(const bb_requant_tables *t, const bb_requant_job *job, size_t c, int with) {
    return (source){.mult = t->mult_f + c,
                    .mult2 = with & WITH_Z2 ? t->mult2_f + c : NULL,
                    .low = t->low_f + c,
                    .high = with & WITH_BRACKET ? t->high_f + c : NULL,
                    .border = with & WITH_BORDER ? job->border + c : NULL};
}

/* Without a border the doubling of z1 goes into mult, a power of two. */
INLINE floats factor_of(const bb_requant_job *job, int with) {
    return float_set(!(with & WITH_BORDER) && job->z1_shift ? 2.0f : 1.0f);
}

INLINE constants load_constants(const source *s, int32_t limit, floats factor, size_t c, int n,
                                int with) {
    constants k; /* what `with` does not ask for stays undefined: clearing it all takes longer */
    k.limit = bytes_set(limit);
    for (int j = 0; j < n; j++, c += LANES) {
        k.mult[j] = float_multiply(float_load(s->mult + c), factor);
        k.low[j] = float_load(s->low + c);
        if (with & WITH_BORDER)
            k.border[j] = int_load(s->border + c, ALL_LANES);
        if (with & WITH_Z2)
            k.mult2[j] = float_load(s->mult2 + c);
        if (with & WITH_BRACKET)
            k.high[j] = float_load(s->high + c);
    }
    return k;
}

INLINE ints load_lanes(const void *p, size_t i, bb_element type, mask lanes) {
    if (type == BB_ELEMENT_I32)
        return int_load((const int32_t *)p + i, lanes);
    if (type == BB_ELEMENT_U8)
        return codes8((const uint8_t *)p + i, lanes);
    return codes16((const uint16_t *)p + i, lanes);
}

/* The job's fields in registers: stores of bytes might change the job itself. */
typedef struct view {
    const void *z1, *z2;
    uint8_t *out;
    size_t z1_stride, z2_stride, out_stride;
    __m128i shift;
    bb_element z1_type, z2_type;
} view;

INLINE view view_at(const bb_requant_job *job, bb_element type, size_t i) {
    return (view){.z1 = (const uint8_t *)job->z1 + i * bb_element_size(type),
                  .z2 =
                      job->z2 ? (const uint8_t *)job->z2 + i * bb_element_size(job->z2_type) : NULL,
                  .out = (uint8_t *)job->out + i,
                  .z1_stride = job->z1_stride,
                  .z2_stride = job->z2_stride,
                  .out_stride = job->out_stride,
                  .shift = _mm_cvtsi32_si128(job->z1_shift),
                  .z1_type = type,
                  .z2_type = job->z2_type};
}

/* n vectors z1, z2 and out elements into the view; false where the bracket of some lane holds two
 * codes. */
INLINE bool vectors_at(const view *v, const constants *k, int with, int n, size_t z1, size_t z2,
                       size_t out, mask lanes) {
    ints low[VECTORS], high[VECTORS];
    for (int j = 0; j < n; j++) {
        const size_t lane = (size_t)j * LANES;
        ints value = load_lanes(v->z1, z1 + lane, v->z1_type, lanes);
        if (with & WITH_BORDER)
            value = int_add(int_shift(value, v->shift), k->border[j]);
        const floats z = float_of_ints(value);
        floats add = k->low[j], add2 = k->high[j];
        if (with & WITH_Z2) {
            const floats u2 = float_of_ints(load_lanes(v->z2, z2 + lane, v->z2_type, lanes));
            add = float_fma(u2, k->mult2[j], add);
            add2 = float_fma(u2, k->mult2[j], add2);
        }
        low[j] = truncated(float_fma(z, k->mult[j], add));
        if (with & WITH_BRACKET)
            high[j] = truncated(float_fma(z, k->mult[j], add2));
    }
    const ints codes = pack(low, n, k->limit);
    if ((with & WITH_BRACKET) && differ(codes, pack(high, n, k->limit)))
        return false;
    store_codes(v->out + out, in_order(codes), n, lanes);
    return true;
}

/* The double kernel for n codes from the one at i of pixel p on, which may end in a later pixel. */
__attribute__((noinline)) static void decide(const bb_requant_tables *t, const bb_requant_job *job,
                                             bb_requant_fn exact, size_t p, int32_t i, int32_t n) {
    for (; n > 0; p++, i = 0) {
        const int32_t there = job->n_channels - i < n ? job->n_channels - i : n;
        const bb_requant_job part = bb_requant_part(job, p, i, there);
        exact(t, &part);
        n -= there;
    }
}

/* `lanes` is known to be all of them at compile time in all but one caller. */
INLINE void group(const bb_requant_tables *t, const bb_requant_job *job, bb_requant_fn exact,
                  bb_element type, int with, int n, int32_t i, mask lanes) {
    const source from = source_at(t, job, (size_t)(job->c0 + i), with);
    const constants k = load_constants(&from, t->limit, factor_of(job, with), 0, n, with);
    const view v = view_at(job, type, (size_t)i);
    const size_t pixels = (size_t)job->n_pixels;
    for (size_t p = 0; p < pixels; p++)
        if (!vectors_at(&v, &k, with, n, p * v.z1_stride, p * v.z2_stride, p * v.out_stride, lanes))
            decide(t, job, exact, p, i, lanes == ALL_LANES ? n * LANES : count_lanes(lanes));
}

/* The last channels are done once more with their predecessors where that is harmless: where
 * neither operand can be the memory of the output. */
INLINE void groups(const bb_requant_tables *t, const bb_requant_job *job, bb_requant_fn exact,
                   bb_element type, int with) {
    const int32_t n = job->n_channels;
    int32_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES)
        group(t, job, exact, type, with, 4, i, ALL_LANES);
    if (i + 2 * LANES <= n) {
        group(t, job, exact, type, with, 2, i, ALL_LANES);
        i += 2 * LANES;
    }
    if (i + LANES <= n) {
        group(t, job, exact, type, with, 1, i, ALL_LANES);
        i += LANES;
    }
    if (!CAN_MASK || i == n)
        return;
    if (n > LANES && type == BB_ELEMENT_I32 && !(with & WITH_Z2))
        group(t, job, exact, type, with, 1, n - LANES, ALL_LANES);
    else
        group(t, job, exact, type, with, 1, i, first_lanes(n - i));
}

/* ---- dense jobs ------------------------------------------------------------------------------ */

/* Pixels without gaps between them, in sums and codes: then the codes of all of them are one run,
 * taken in whole steps whatever the number of channels. */
static bool is_dense(const bb_requant_tables *t, const bb_requant_job *job) {
    const size_t n = (size_t)job->n_channels;
    return n % 8 == 0 && n % STEP != 0 && n <= BB_REQUANT_DENSE_MAX &&
           (size_t)job->n_pixels * n >= 4 * STEP && job->z1_type == BB_ELEMENT_I32 &&
           job->z1_stride == n && job->out_stride == n && (!t->has_z2 || job->z2_stride == n) &&
           (job->no_border || t->folded);
}

/* The n values at `from`, again and again; n is a multiple of 8. */
static const float *repeated(float *room, const float *from, size_t n) {
    size_t at = 0;
    for (size_t i = 0; i < n + STEP; i += 8) {
        memcpy(room + i, from + at, 8 * sizeof(*room));
        at += 8;
        at = at == n ? 0 : at;
    }
    return room;
}

/* Of n and STEP, a power of two. */
static size_t common_factor(size_t n) {
    const size_t lowest = n & (0 - n);
    return lowest < STEP ? lowest : STEP;
}

_Static_assert(CAN_MASK || LANES == 8, "a dense job, a multiple of 8 codes, ends with a vector");

INLINE void dense(const bb_requant_tables *t, const bb_requant_job *job, bb_requant_fn exact,
                  int with) {
    _Alignas(64) float room[4][BB_REQUANT_DENSE_MAX + STEP + LANES];
    const size_t n = (size_t)job->n_channels, all = (size_t)job->n_pixels * n;
    const size_t period = n * STEP / common_factor(n); /* codes after which constants repeat */
    const floats one = float_set(1.0f);
    const view v = view_at(job, BB_ELEMENT_I32, 0);
    source from = source_at(t, job, (size_t)job->c0, with);
    constants k;
    size_t c = 0, i = all - all % STEP;
    from.mult = repeated(room[0], from.mult, n);
    for (size_t at = 0; at < n + STEP; at += LANES)
        float_store(room[0] + at, float_multiply(float_load(room[0] + at), factor_of(job, with)));
    from.low = repeated(room[1], from.low, n);
    if (with & WITH_BRACKET)
        from.high = repeated(room[2], from.high, n);
    if (with & WITH_Z2)
        from.mult2 = repeated(room[3], from.mult2, n);
    for (size_t first = 0; first < period && first < i; first += STEP) {
        k = load_constants(&from, t->limit, one, c, VECTORS, with);
        for (size_t at = first; at < i; at += period)
            if (!vectors_at(&v, &k, with, VECTORS, at, at, at, ALL_LANES))
                decide(t, job, exact, at / n, (int32_t)(at % n), STEP);
        c = (c + STEP) % n;
    }
    c = i % n;
    for (; i < all; i += LANES, c += LANES) { /* c stays below n + STEP - LANES */
        const size_t left = all - i < LANES ? all - i : LANES;
        k = load_constants(&from, t->limit, one, c, 1, with);
        if (!vectors_at(&v, &k, with, 1, i, i, i, first_lanes((int32_t)left)))
            decide(t, job, exact, i / n, (int32_t)(i % n), (int32_t)left);
    }
}

#define VARIANT(name, type, with)                                                                  \
    TARGET static void name(const bb_requant_tables *t, const bb_requant_job *job,                 \
                            bb_requant_fn exact) {                                                 \
        groups(t, job, exact, type, with);                                                         \
    }
#define DENSE(name, with)                                                                          \
    TARGET static void name(const bb_requant_tables *t, const bb_requant_job *job,                 \
                            bb_requant_fn exact) {                                                 \
        dense(t, job, exact, with);                                                                \
    }

VARIANT(sums, BB_ELEMENT_I32, 0)
VARIANT(sums_border, BB_ELEMENT_I32, WITH_BORDER)
VARIANT(sums_bracket, BB_ELEMENT_I32, WITH_BRACKET)
VARIANT(sums_border_bracket, BB_ELEMENT_I32, WITH_BORDER | WITH_BRACKET)
VARIANT(sums_z2, BB_ELEMENT_I32, WITH_BRACKET | WITH_Z2)
VARIANT(sums_border_z2, BB_ELEMENT_I32, WITH_BORDER | WITH_BRACKET | WITH_Z2)
VARIANT(codes, BB_ELEMENT_U8, 0)
VARIANT(codes_border, BB_ELEMENT_U8, WITH_BORDER)
VARIANT(codes_bracket, BB_ELEMENT_U8, WITH_BRACKET)
VARIANT(codes_border_bracket, BB_ELEMENT_U8, WITH_BORDER | WITH_BRACKET)
VARIANT(codes_z2, BB_ELEMENT_U8, WITH_BRACKET | WITH_Z2)
VARIANT(codes_border_z2, BB_ELEMENT_U8, WITH_BORDER | WITH_BRACKET | WITH_Z2)
DENSE(dense_sums, 0)
DENSE(dense_bracket, WITH_BRACKET)
DENSE(dense_z2, WITH_BRACKET | WITH_Z2)

static void run(const bb_requant_tables *t, const bb_requant_job *job, bb_requant_fn exact) {
    typedef void (*variant)(const bb_requant_tables *, const bb_requant_job *, bb_requant_fn);
    static const variant of[2][2][3] = {
        {{sums, sums_bracket, sums_z2}, {sums_border, sums_border_bracket, sums_border_z2}},
        {{codes, codes_bracket, codes_z2}, {codes_border, codes_border_bracket, codes_border_z2}}};
    static const variant dense_of[3] = {dense_sums, dense_bracket, dense_z2};
    const int border = !job->no_border && !t->folded;
    const int values = t->has_z2 ? 2 : t->high_f != NULL;
    if (is_dense(t, job))
        dense_of[values](t, job, exact);
    else
        of[job->z1_type == BB_ELEMENT_U8][border][values](t, job, exact);
}
