/* SPDX-License-Identifier: Apache-2.0 */
/* Sixteen channels at a time; the last ones of a tile are masked. In double, multiplication and
 * addition may be one instruction: the products are exact, so nothing changes. What is rare goes
 * to the AVX2 kernels. */
#include "kernels/x86/requant_x86.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define INLINE AVX512 __attribute__((always_inline)) static inline

enum { LANES = 16 };

#define ALL_LANES ((__mmask16)0xffff)

/* Sixteen 32-bit lanes as two vectors of eight doubles. */
typedef struct pair {
    __m512d lo, hi;
} pair;

INLINE pair pair_load(const double *p) {
    return (pair){_mm512_loadu_pd(p), _mm512_loadu_pd(p + 8)};
}

INLINE pair pair_convert(__m512i v) {
    return (pair){_mm512_cvtepi32_pd(_mm512_castsi512_si256(v)),
                  _mm512_cvtepi32_pd(_mm512_extracti64x4_epi64(v, 1))};
}

/* a*b + c */
INLINE pair pair_multiply_add(pair a, pair b, pair c) {
    return (pair){_mm512_fmadd_pd(a.lo, b.lo, c.lo), _mm512_fmadd_pd(a.hi, b.hi, c.hi)};
}

INLINE pair pair_add(pair a, pair b) {
    return (pair){_mm512_add_pd(a.lo, b.lo), _mm512_add_pd(a.hi, b.hi)};
}

/* negative where value < 0, else value. */
INLINE __m512d where_negative(__m512d value, __m512d negative) {
    return _mm512_mask_blend_pd(_mm512_cmp_pd_mask(value, _mm512_setzero_pd(), _CMP_LT_OQ), value,
                                negative);
}

INLINE __m512i load_lanes(const void *p, size_t i, bb_element type, __mmask16 lanes) {
    if (type == BB_ELEMENT_I32)
        return _mm512_maskz_loadu_epi32(lanes, (const int32_t *)p + i);
    if (type == BB_ELEMENT_U8)
        return _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(lanes, (const uint8_t *)p + i));
    return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, (const uint16_t *)p + i));
}

/* Lanes hold codes, or negative numbers that become code 0. Masked stores are slow, so whole
 * vectors do without. */
INLINE void store_codes(void *p, size_t i, bb_element type, __m512i v, __mmask16 lanes) {
    v = _mm512_max_epi32(v, _mm512_setzero_si512());
    if (type == BB_ELEMENT_U8 && lanes == ALL_LANES)
        _mm_storeu_si128((void *)((uint8_t *)p + i), _mm512_cvtepi32_epi8(v));
    else if (type == BB_ELEMENT_U8)
        _mm_mask_storeu_epi8((uint8_t *)p + i, lanes, _mm512_cvtepi32_epi8(v));
    else
        _mm256_mask_storeu_epi16((uint16_t *)p + i, lanes, _mm512_cvtepi32_epi16(v));
}

INLINE __mmask16 lanes_at(const bb_requant_job *job, int32_t i) {
    const int32_t left = job->n_channels - i;
    return left >= LANES ? ALL_LANES : (__mmask16)((1u << left) - 1);
}

INLINE __m512i first_operand(const bb_requant_job *job, size_t i, bb_element type, __mmask16 lanes,
                             __m512i border) {
    const __m128i shift = _mm_cvtsi32_si128(job->z1_shift);
    return _mm512_add_epi32(_mm512_sll_epi32(load_lanes(job->z1, i, type, lanes), shift), border);
}

/* What a linear kernel does beside Z1*mult + add: known at compile time in each caller. */
enum { WITH_Z2 = 1, WITH_SLOPE = 2 };

typedef struct linear_constants {
    pair mult, mult2, add, neg_mult, neg_mult2, neg_add, off;
    __m512d limit;
} linear_constants;

INLINE linear_constants load_linear(const bb_requant_tables *t, size_t c, int with) {
    linear_constants k = {.mult = pair_load(t->mult_d + c),
                          .add = pair_load(t->add_d + c),
                          .limit = _mm512_set1_pd(t->limit)};
    if (with & WITH_Z2)
        k.mult2 = pair_load(t->mult2_d + c);
    if (with & WITH_SLOPE) {
        k.neg_mult = pair_load(t->neg_mult_d + c);
        k.neg_add = pair_load(t->neg_add_d + c);
        k.off = pair_load(t->off_d + c);
    }
    if ((with & WITH_SLOPE) && (with & WITH_Z2))
        k.neg_mult2 = pair_load(t->neg_mult2_d + c);
    return k;
}

/* Not yet clamped at 0: cvttpd gives INT32_MIN below the range of int32. */
INLINE __m512i linear_lanes(const linear_constants *k, __m512i z1, __m512i z2, int with) {
    const pair a = pair_convert(z1), b = with & WITH_Z2 ? pair_convert(z2) : a;
    pair value = pair_multiply_add(a, k->mult, k->add);
    if (with & WITH_Z2)
        value = pair_multiply_add(b, k->mult2, value);
    if (with & WITH_SLOPE) {
        pair negative = pair_multiply_add(a, k->neg_mult, k->neg_add);
        if (with & WITH_Z2)
            negative = pair_multiply_add(b, k->neg_mult2, negative);
        value =
            (pair){where_negative(value.lo, negative.lo), where_negative(value.hi, negative.hi)};
        value = pair_add(value, k->off);
    }
    value = (pair){_mm512_min_pd(value.lo, k->limit), _mm512_min_pd(value.hi, k->limit)};
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvttpd_epi32(value.lo)),
                              _mm512_cvttpd_epi32(value.hi), 1);
}

/* `lanes` is known to be ALL_LANES at compile time in one of two callers. */
INLINE void linear_pixels(const bb_requant_tables *t, const bb_requant_job *job, bb_element type,
                          int with, int32_t i, __mmask16 lanes) {
    const size_t c = (size_t)(job->c0 + i), lane = (size_t)i;
    const linear_constants k = load_linear(t, c, with);
    const __m512i border = _mm512_loadu_si512(job->border + c);
    for (size_t p = 0; p < (size_t)job->n_pixels; p++) {
        __m512i z2 = _mm512_setzero_si512();
        if (with & WITH_Z2)
            z2 = load_lanes(job->z2, p * job->z2_stride + lane, job->z2_type, lanes);
        const __m512i z1 = first_operand(job, p * job->z1_stride + lane, type, lanes, border);
        store_codes(job->out, p * job->out_stride + lane, job->out_type,
                    linear_lanes(&k, z1, z2, with), lanes);
    }
}

/* The job is copied because stores of bytes might otherwise change it. */
INLINE void linear_groups(const bb_requant_tables *t, const bb_requant_job *shared, bb_element type,
                          int with) {
    const bb_requant_job job = *shared;
    int32_t i = 0;
    for (; i + LANES <= job.n_channels; i += LANES)
        linear_pixels(t, &job, type, with, i, ALL_LANES);
    if (i < job.n_channels)
        linear_pixels(t, &job, type, with, i, lanes_at(&job, i));
}

AVX512 static void linear_plain(const bb_requant_tables *t, const bb_requant_job *job) {
    if (job->z1_type == BB_ELEMENT_I32)
        linear_groups(t, job, BB_ELEMENT_I32, 0);
    else
        linear_groups(t, job, job->z1_type, 0);
}

AVX512 static void linear_z2(const bb_requant_tables *t, const bb_requant_job *job) {
    if (job->z1_type == BB_ELEMENT_I32)
        linear_groups(t, job, BB_ELEMENT_I32, WITH_Z2);
    else
        linear_groups(t, job, job->z1_type, WITH_Z2);
}

AVX512 static void linear_slope(const bb_requant_tables *t, const bb_requant_job *job) {
    linear_groups(t, job, job->z1_type, WITH_SLOPE);
}

AVX512 static void linear_slope_z2(const bb_requant_tables *t, const bb_requant_job *job) {
    linear_groups(t, job, job->z1_type, WITH_SLOPE | WITH_Z2);
}

static void linear_exact(const bb_requant_tables *t, const bb_requant_job *job) {
    if (job->count != 1)
        bb_requant_avx2.linear(t, job);
    else if (t->has_slope && t->has_z2)
        linear_slope_z2(t, job);
    else if (t->has_slope)
        linear_slope(t, job);
    else if (t->has_z2)
        linear_z2(t, job);
    else
        linear_plain(t, job);
}

static void linear(const bb_requant_tables *t, const bb_requant_job *job) {
    if (bb_requant_is_float(t, job))
        bb_requant_float_avx512(t, job, linear_exact);
    else
        linear_exact(t, job);
}

/* The number of thresholds not above z, by one comparison each. */
INLINE void threshold_pixels(const bb_requant_tables *t, const bb_requant_job *job, bb_element type,
                             int32_t limit, int32_t i, __mmask16 lanes) {
    const __m512i one = _mm512_set1_epi32(1);
    const size_t c = (size_t)(job->c0 + i), lane = (size_t)i, padded = t->padded;
    const __m512i border = _mm512_loadu_si512(job->border + c);
    const __m512i flip = _mm512_loadu_si512(t->flip + c);
    const int32_t *rows = t->thresholds + c;
    for (size_t p = 0; p < (size_t)job->n_pixels; p++) {
        const __m512i z = _mm512_xor_si512(
            first_operand(job, p * job->z1_stride + lane, type, lanes, border), flip);
        __m512i code = _mm512_setzero_si512();
        for (int32_t j = 0; j < limit; j++)
            code = _mm512_mask_add_epi32(
                code, _mm512_cmple_epi32_mask(_mm512_loadu_si512(rows + (size_t)j * padded), z),
                code, one);
        store_codes(job->out, p * job->out_stride + lane, job->out_type, code, lanes);
    }
}

INLINE void threshold_groups(const bb_requant_tables *t, const bb_requant_job *shared,
                             bb_element type, int32_t limit) {
    const bb_requant_job job = *shared;
    int32_t i = 0;
    for (; i + LANES <= job.n_channels; i += LANES)
        threshold_pixels(t, &job, type, limit, i, ALL_LANES);
    if (i < job.n_channels)
        threshold_pixels(t, &job, type, limit, i, lanes_at(&job, i));
}

AVX512 static void thresholds_1(const bb_requant_tables *t, const bb_requant_job *job) {
    threshold_groups(t, job, BB_ELEMENT_I32, 1);
}

AVX512 static void thresholds_3(const bb_requant_tables *t, const bb_requant_job *job) {
    threshold_groups(t, job, BB_ELEMENT_I32, 3);
}

AVX512 static void thresholds_scan(const bb_requant_tables *t, const bb_requant_job *job) {
    threshold_groups(t, job, job->z1_type, t->limit);
}

static void thresholds(const bb_requant_tables *t, const bb_requant_job *job) {
    if (t->limit == 1 && job->z1_type == BB_ELEMENT_I32)
        thresholds_1(t, job);
    else if (t->limit == 3 && job->z1_type == BB_ELEMENT_I32)
        thresholds_3(t, job);
    else if (t->limit <= 15)
        thresholds_scan(t, job);
    else
        bb_requant_avx2.thresholds(t, job);
}

static void indexed(const bb_requant_tables *t, const bb_requant_job *job) {
    bb_requant_avx2.indexed(t, job);
}

static void to_float(const bb_requant_tables *t, const bb_requant_job *job) {
    bb_requant_avx2.to_float(t, job);
}

const bb_requant_kernels bb_requant_avx512 = {"requant_avx512", linear, thresholds, indexed,
                                              to_float};
#endif
