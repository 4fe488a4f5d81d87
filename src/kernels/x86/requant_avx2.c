/* SPDX-License-Identifier: Apache-2.0 */
/* Eight channels at a time, channels outside so that their constants stay in registers. */
#include "kernels/x86/requant_x86.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#define AVX2 __attribute__((target("avx2")))
#define INLINE AVX2 __attribute__((always_inline)) static inline

enum { LANES = 8 };

/* Eight 32-bit lanes as two vectors of four doubles. */
typedef struct pair {
    __m256d lo, hi;
} pair;

INLINE pair pair_load(const double *p) {
    return (pair){_mm256_loadu_pd(p), _mm256_loadu_pd(p + 4)};
}

INLINE pair pair_convert(__m256i v) {
    return (pair){_mm256_cvtepi32_pd(_mm256_castsi256_si128(v)),
                  _mm256_cvtepi32_pd(_mm256_extracti128_si256(v, 1))};
}

INLINE pair pair_multiply(pair a, pair b) {
    return (pair){_mm256_mul_pd(a.lo, b.lo), _mm256_mul_pd(a.hi, b.hi)};
}

INLINE pair pair_add(pair a, pair b) {
    return (pair){_mm256_add_pd(a.lo, b.lo), _mm256_add_pd(a.hi, b.hi)};
}

INLINE pair pair_divide(pair a, __m256d b) {
    return (pair){_mm256_div_pd(a.lo, b), _mm256_div_pd(a.hi, b)};
}

/* negative where value < 0, else positive. */
INLINE __m256d choose(__m256d value, __m256d positive, __m256d negative) {
    return _mm256_blendv_pd(positive, negative,
                            _mm256_cmp_pd(value, _mm256_setzero_pd(), _CMP_LT_OQ));
}

INLINE __m256i load_lanes(const void *p, size_t i, bb_element type) {
    if (type == BB_ELEMENT_I32)
        return _mm256_loadu_si256((const void *)((const int32_t *)p + i));
    if (type == BB_ELEMENT_U8)
        return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)((const uint8_t *)p + i)));
    return _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)((const uint16_t *)p + i)));
}

/* Lanes hold codes, or negative numbers that saturate to code 0. */
INLINE void store_codes(void *p, size_t i, bb_element type, __m256i v) {
    __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    if (type == BB_ELEMENT_U8)
        _mm_storel_epi64((void *)((uint8_t *)p + i), _mm_packus_epi16(words, words));
    else
        _mm_storeu_si128((void *)((uint16_t *)p + i), words);
}

INLINE __m256i first_operand(const bb_requant_job *job, size_t i, bb_element type, __m128i shift,
                             __m256i border) {
    return _mm256_add_epi32(_mm256_sll_epi32(load_lanes(job->z1, i, type), shift), border);
}

/* What a linear kernel does beside Z1*mult + add: known at compile time in each caller. */
enum { WITH_Z2 = 1, WITH_SLOPE = 2, WITH_COUNT = 4 };

typedef struct linear_constants {
    pair mult, mult2, add, neg_mult, neg_mult2, neg_add, off;
    __m256d limit, count;
} linear_constants;

INLINE linear_constants load_linear(const bb_requant_tables *t, const bb_requant_job *job, size_t c,
                                    int with) {
    linear_constants k = {.mult = pair_load(t->mult_d + c), .add = pair_load(t->add_d + c)};
    k.limit = _mm256_set1_pd(t->limit);
    k.count = _mm256_set1_pd(job->count);
    const pair count = {k.count, k.count};
    if (with & WITH_Z2)
        k.mult2 = pair_load(t->mult2_d + c);
    if (with & WITH_SLOPE) {
        k.neg_mult = pair_load(t->neg_mult_d + c);
        k.neg_add = pair_load(t->neg_add_d + c);
        k.off = pair_load(t->off_d + c);
        if (with & WITH_Z2)
            k.neg_mult2 = pair_load(t->neg_mult2_d + c);
    }
    if (with & WITH_COUNT) {
        k.add = pair_multiply(k.add, count);
        if (with & WITH_SLOPE) {
            k.neg_add = pair_multiply(k.neg_add, count);
            k.off = pair_multiply(k.off, count);
        }
    }
    return k;
}

/* Codes of eight lanes, not yet clamped at 0: cvttpd gives INT32_MIN below the range of int32. A
 * quotient by count is right although rounded: T/n below an integer k differs from it by at least
 * 1/n > k*2^-53, because |T| < 2^53. */
INLINE __m256i linear_lanes(const linear_constants *k, __m256i z1, __m256i z2, int with) {
    const pair a = pair_convert(z1), b = with & WITH_Z2 ? pair_convert(z2) : a;
    pair value = pair_add(pair_multiply(a, k->mult), k->add);
    if (with & WITH_Z2)
        value = pair_add(value, pair_multiply(b, k->mult2));
    if (with & WITH_SLOPE) {
        pair negative = pair_add(pair_multiply(a, k->neg_mult), k->neg_add);
        if (with & WITH_Z2)
            negative = pair_add(negative, pair_multiply(b, k->neg_mult2));
        value = (pair){choose(value.lo, value.lo, negative.lo),
                       choose(value.hi, value.hi, negative.hi)};
        value = pair_add(value, k->off);
    }
    if (with & WITH_COUNT)
        value = pair_divide(value, k->count);
    value = (pair){_mm256_min_pd(value.lo, k->limit), _mm256_min_pd(value.hi, k->limit)};
    return _mm256_set_m128i(_mm256_cvttpd_epi32(value.hi), _mm256_cvttpd_epi32(value.lo));
}

/* table[index] of eight indices; the table has one entry more than indices. */
INLINE __m256i lookup(const uint16_t *table, __m256i index) {
    index = _mm256_max_epi32(index, _mm256_setzero_si256());
    return _mm256_and_si256(_mm256_i32gather_epi32((const int *)(const void *)table, index, 2),
                            _mm256_set1_epi32(0xffff));
}

/* Whole groups of eight channels. */
INLINE void linear_groups(const bb_requant_tables *t, const bb_requant_job *shared, bb_element type,
                          int with, const uint16_t *table) {
    const bb_requant_job copy = *shared, *job = &copy; /* stores of bytes might change *shared */
    const __m128i shift = _mm_cvtsi32_si128(job->z1_shift);
    for (int32_t i = 0; i + LANES <= job->n_channels; i += LANES) {
        const size_t c = (size_t)(job->c0 + i);
        const linear_constants k = load_linear(t, job, c, with);
        const __m256i border = _mm256_loadu_si256((const void *)(job->border + c));
        for (int32_t p = 0; p < job->n_pixels; p++) {
            const size_t at = (size_t)p, lane = (size_t)i;
            __m256i z2 = _mm256_setzero_si256();
            if (with & WITH_Z2)
                z2 = load_lanes(job->z2, at * job->z2_stride + lane, job->z2_type);
            __m256i v = linear_lanes(
                &k, first_operand(job, at * job->z1_stride + lane, type, shift, border), z2, with);
            if (table)
                v = lookup(table, v);
            store_codes(job->out, at * job->out_stride + lane, job->out_type, v);
        }
    }
}

AVX2 static void linear_plain_i32(const bb_requant_tables *t, const bb_requant_job *job) {
    linear_groups(t, job, BB_ELEMENT_I32, 0, NULL);
}

AVX2 static void linear_z2_i32(const bb_requant_tables *t, const bb_requant_job *job) {
    linear_groups(t, job, BB_ELEMENT_I32, WITH_Z2, NULL);
}

AVX2 static void linear_slope_i32(const bb_requant_tables *t, const bb_requant_job *job) {
    linear_groups(t, job, BB_ELEMENT_I32, WITH_SLOPE, NULL);
}

AVX2 static void linear_any(const bb_requant_tables *t, const bb_requant_job *job) {
    const bb_element type = job->z1_type;
    if (job->count != 1 && t->has_slope)
        linear_groups(t, job, type, WITH_COUNT | WITH_SLOPE, NULL);
    else if (job->count != 1)
        linear_groups(t, job, type, WITH_COUNT, NULL);
    else if (t->has_slope && t->has_z2)
        linear_groups(t, job, type, WITH_SLOPE | WITH_Z2, NULL);
    else if (t->has_slope)
        linear_groups(t, job, type, WITH_SLOPE, NULL);
    else if (t->has_z2)
        linear_groups(t, job, type, WITH_Z2, NULL);
    else
        linear_groups(t, job, type, 0, NULL);
}

AVX2 static void linear_groups_chosen(const bb_requant_tables *t, const bb_requant_job *job) {
    const bool simple = job->z1_type == BB_ELEMENT_I32 && job->count == 1;
    if (simple && !t->has_slope && !t->has_z2)
        linear_plain_i32(t, job);
    else if (simple && !t->has_slope)
        linear_z2_i32(t, job);
    else if (simple && !t->has_z2)
        linear_slope_i32(t, job);
    else
        linear_any(t, job);
}

AVX2 static void indexed_groups(const bb_requant_tables *t, const bb_requant_job *job) {
    const bb_element type = job->z1_type;
    if (job->count != 1)
        linear_groups(t, job, type, WITH_COUNT, t->table);
    else if (t->has_z2)
        linear_groups(t, job, type, WITH_Z2, t->table);
    else
        linear_groups(t, job, type, 0, t->table);
}

/* Up to 4 bits: one comparison per threshold. */
INLINE __m256i threshold_scan(const bb_requant_tables *t, size_t c, __m256i z) {
    __m256i code = _mm256_set1_epi32(t->limit);
    const int32_t *row = t->thresholds + c;
    for (int32_t i = 0; i < t->limit; i++, row += t->padded)
        code = _mm256_add_epi32(code, _mm256_cmpgt_epi32(_mm256_loadu_si256((const void *)row), z));
    return code;
}

/* More bits: binary search over 2^b - 1 thresholds, b steps. */
INLINE __m256i threshold_search(const bb_requant_tables *t, size_t c, __m256i z) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i stride = _mm256_set1_epi32((int)t->padded);
    __m256i code = _mm256_setzero_si256();
    for (int32_t step = (t->limit + 1) / 2; step > 0; step /= 2) {
        const __m256i last = _mm256_add_epi32(code, _mm256_set1_epi32(step - 1));
        const __m256i at = _mm256_add_epi32(_mm256_mullo_epi32(last, stride), lane);
        const __m256i limit = _mm256_i32gather_epi32(t->thresholds + c, at, 4);
        code = _mm256_add_epi32(
            code, _mm256_andnot_si256(_mm256_cmpgt_epi32(limit, z), _mm256_set1_epi32(step)));
    }
    return code;
}

INLINE void threshold_groups_of(const bb_requant_tables *t, const bb_requant_job *shared,
                                bb_element type, bool search) {
    const bb_requant_job copy = *shared, *job = &copy;
    const __m128i shift = _mm_cvtsi32_si128(job->z1_shift);
    for (int32_t i = 0; i + LANES <= job->n_channels; i += LANES) {
        const size_t c = (size_t)(job->c0 + i);
        const __m256i border = _mm256_loadu_si256((const void *)(job->border + c));
        const __m256i flip = _mm256_loadu_si256((const void *)(t->flip + c));
        for (int32_t p = 0; p < job->n_pixels; p++) {
            const size_t at = (size_t)p;
            __m256i z = first_operand(job, at * job->z1_stride + (size_t)i, type, shift, border);
            z = _mm256_xor_si256(z, flip);
            store_codes(job->out, at * job->out_stride + (size_t)i, job->out_type,
                        search ? threshold_search(t, c, z) : threshold_scan(t, c, z));
        }
    }
}

/* 1 and 2 bits with the thresholds in registers. */
INLINE void threshold_groups_few(const bb_requant_tables *t, const bb_requant_job *shared,
                                 int few) {
    const bb_requant_job copy = *shared, *job = &copy;
    const __m128i shift = _mm_cvtsi32_si128(job->z1_shift);
    const __m256i all = _mm256_set1_epi32(few);
    for (int32_t i = 0; i + LANES <= job->n_channels; i += LANES) {
        const size_t c = (size_t)(job->c0 + i);
        const __m256i border = _mm256_loadu_si256((const void *)(job->border + c));
        const __m256i flip = _mm256_loadu_si256((const void *)(t->flip + c));
        __m256i limit[3];
        for (int j = 0; j < few; j++)
            limit[j] =
                _mm256_loadu_si256((const void *)(t->thresholds + (size_t)j * t->padded + c));
        for (int32_t p = 0; p < job->n_pixels; p++) {
            const size_t at = (size_t)p;
            __m256i z =
                first_operand(job, at * job->z1_stride + (size_t)i, BB_ELEMENT_I32, shift, border);
            __m256i code = all;
            z = _mm256_xor_si256(z, flip);
            for (int j = 0; j < few; j++)
                code = _mm256_add_epi32(code, _mm256_cmpgt_epi32(limit[j], z));
            store_codes(job->out, at * job->out_stride + (size_t)i, job->out_type, code);
        }
    }
}

AVX2 static void threshold_groups_1(const bb_requant_tables *t, const bb_requant_job *job) {
    threshold_groups_few(t, job, 1);
}

AVX2 static void threshold_groups_3(const bb_requant_tables *t, const bb_requant_job *job) {
    threshold_groups_few(t, job, 3);
}

AVX2 static void threshold_groups(const bb_requant_tables *t, const bb_requant_job *job) {
    if (job->z1_type == BB_ELEMENT_I32 && t->limit == 1)
        threshold_groups_1(t, job);
    else if (job->z1_type == BB_ELEMENT_I32 && t->limit == 3)
        threshold_groups_3(t, job);
    else
        threshold_groups_of(t, job, job->z1_type, t->limit > 15);
}

INLINE pair float_lanes(const bb_requant_tables *t, const bb_requant_job *job, size_t c, __m256i z1,
                        __m256i z2) {
    pair value = pair_convert(z1);
    if (job->count != 1)
        value = pair_divide(value, _mm256_set1_pd(job->count));
    value = pair_multiply(value, pair_load(t->scale + c));
    if (t->has_z2) {
        z2 = _mm256_sub_epi32(_mm256_add_epi32(z2, z2), _mm256_set1_epi32(t->zero2));
        value = pair_add(value, pair_multiply(pair_convert(z2), pair_load(t->scale2 + c)));
    }
    return pair_add(value, pair_load(t->bias + c));
}

AVX2 static void float_groups(const bb_requant_tables *t, const bb_requant_job *job) {
    const __m128i shift = _mm_cvtsi32_si128(job->z1_shift);
    for (int32_t i = 0; i + LANES <= job->n_channels; i += LANES) {
        const size_t c = (size_t)(job->c0 + i);
        const __m256i border = _mm256_loadu_si256((const void *)(job->border + c));
        for (int32_t p = 0; p < job->n_pixels; p++) {
            const size_t at = (size_t)p, lane = (size_t)i;
            __m256i z2 = _mm256_setzero_si256();
            if (t->has_z2)
                z2 = load_lanes(job->z2, at * job->z2_stride + lane, job->z2_type);
            const pair v = float_lanes(
                t, job, c,
                first_operand(job, at * job->z1_stride + lane, job->z1_type, shift, border), z2);
            float *out = (float *)job->out + at * job->out_stride + lane;
            _mm_storeu_ps(out, _mm256_cvtpd_ps(v.lo));
            _mm_storeu_ps(out + 4, _mm256_cvtpd_ps(v.hi));
        }
    }
}

static void linear_float(const bb_requant_tables *t, const bb_requant_job *job) {
    bb_requant_float_avx2(t, job, linear_groups_chosen);
}

static void linear(const bb_requant_tables *t, const bb_requant_job *job) {
    bb_requant_by_eights(bb_requant_is_float(t, job) ? linear_float : linear_groups_chosen, t, job);
}

static void indexed(const bb_requant_tables *t, const bb_requant_job *job) {
    /* A second slope before a table is allowed and rare. */
    if (t->has_slope)
        bb_requant_ref.indexed(t, job);
    else
        bb_requant_by_eights(indexed_groups, t, job);
}

static void thresholds(const bb_requant_tables *t, const bb_requant_job *job) {
    /* Gathers count in int32. */
    if (t->padded > (size_t)INT32_MAX / (size_t)t->limit)
        bb_requant_ref.thresholds(t, job);
    else
        bb_requant_by_eights(threshold_groups, t, job);
}

static void to_float(const bb_requant_tables *t, const bb_requant_job *job) {
    bb_requant_by_eights(float_groups, t, job);
}

const bb_requant_kernels bb_requant_avx2 = {"requant_avx2", linear, thresholds, indexed, to_float};
#endif
