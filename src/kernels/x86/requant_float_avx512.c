/* SPDX-License-Identifier: Apache-2.0 */
/* LINEAR in float, 64, 32 or 16 channels of a pixel at a time. Codes are clamped where it is free:
 * packing saturates at 0 and 255, one minimum of bytes does the rest. */
#include "kernels/x86/requant_x86.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define INLINE AVX512 __attribute__((always_inline)) static inline

enum { LANES = 16, VECTORS = 4 };

/* What a kernel has to do: known at compile time. */
enum { WITH_BORDER = 1, WITH_Z2 = 2, WITH_BRACKET = 4 };

typedef struct constants {
    __m512 mult[VECTORS], mult2[VECTORS], low[VECTORS], high[VECTORS];
    __m512i border[VECTORS], limit;
} constants;

/* Without a border the doubling of z1 goes into mult, a power of two. */
INLINE constants load_constants(const bb_requant_tables *t, const bb_requant_job *job, size_t c,
                                int n, int with) {
    const __m512 factor = _mm512_set1_ps(!(with & WITH_BORDER) && job->z1_shift ? 2.0f : 1.0f);
    constants k = {.limit = _mm512_set1_epi8((char)t->limit)};
    for (int j = 0; j < n; j++, c += LANES) {
        k.mult[j] = _mm512_mul_ps(_mm512_loadu_ps(t->mult_f + c), factor);
        k.low[j] = _mm512_loadu_ps(t->low_f + c);
        if (with & WITH_BORDER)
            k.border[j] = _mm512_loadu_si512(job->border + c);
        if (with & WITH_Z2)
            k.mult2[j] = _mm512_loadu_ps(t->mult2_f + c);
        if (with & WITH_BRACKET)
            k.high[j] = _mm512_loadu_ps(t->high_f + c);
    }
    return k;
}

INLINE __m512i load_lanes(const void *p, size_t i, bb_element type, __mmask16 lanes) {
    if (type == BB_ELEMENT_I32)
        return _mm512_maskz_loadu_epi32(lanes, (const int32_t *)p + i);
    if (type == BB_ELEMENT_U8)
        return _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(lanes, (const uint8_t *)p + i));
    return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, (const uint16_t *)p + i));
}

/* Clamped bytes of 16*n lanes. Packing works in quarters of 16 bytes: dword j of quarter l comes
 * from quarter l of vector j. */
INLINE __m512i pack(const __m512i *v, int n, __m512i limit) {
    const __m512i a = _mm512_packs_epi32(v[0], v[n > 1 ? 1 : 0]);
    const __m512i b = n > 2 ? _mm512_packs_epi32(v[2], v[3]) : a;
    return _mm512_min_epu8(_mm512_packus_epi16(a, b), limit);
}

INLINE __m512i in_order(__m512i packed) {
    return _mm512_permutexvar_epi32(
        _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), packed);
}

INLINE void store(uint8_t *out, __m512i codes, int n, __mmask16 lanes) {
    if (n == 4)
        _mm512_storeu_si512(out, codes);
    else if (n == 2)
        _mm256_storeu_si256((void *)out, _mm512_castsi512_si256(codes));
    else if (lanes == 0xffff)
        _mm_storeu_si128((void *)out, _mm512_castsi512_si128(codes));
    else
        _mm_mask_storeu_epi8(out, lanes, _mm512_castsi512_si128(codes));
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
                  .z2 = (const uint8_t *)job->z2 + i * bb_element_size(job->z2_type),
                  .out = (uint8_t *)job->out + i,
                  .z1_stride = job->z1_stride,
                  .z2_stride = job->z2_stride,
                  .out_stride = job->out_stride,
                  .shift = _mm_cvtsi32_si128(job->z1_shift),
                  .z1_type = type,
                  .z2_type = job->z2_type};
}

/* False where the bracket of some lane holds two codes. */
INLINE bool pixel(const view *v, const constants *k, int with, int n, size_t p, __mmask16 lanes) {
    __m512i low[VECTORS], high[VECTORS];
    for (int j = 0; j < n; j++) {
        const size_t lane = (size_t)j * LANES;
        __m512i z1 = load_lanes(v->z1, p * v->z1_stride + lane, v->z1_type, lanes);
        if (with & WITH_BORDER)
            z1 = _mm512_add_epi32(_mm512_sll_epi32(z1, v->shift), k->border[j]);
        const __m512 z = _mm512_cvtepi32_ps(z1);
        __m512 add = k->low[j], add2 = k->high[j];
        if (with & WITH_Z2) {
            const __m512 u2 =
                _mm512_cvtepi32_ps(load_lanes(v->z2, p * v->z2_stride + lane, v->z2_type, lanes));
            add = _mm512_fmadd_ps(u2, k->mult2[j], add);
            add2 = _mm512_fmadd_ps(u2, k->mult2[j], add2);
        }
        low[j] = _mm512_cvttps_epi32(_mm512_fmadd_ps(z, k->mult[j], add));
        if (with & WITH_BRACKET)
            high[j] = _mm512_cvttps_epi32(_mm512_fmadd_ps(z, k->mult[j], add2));
    }
    const __m512i codes = pack(low, n, k->limit);
    if ((with & WITH_BRACKET) && _mm512_cmpneq_epi32_mask(codes, pack(high, n, k->limit)) != 0)
        return false;
    store(v->out + p * v->out_stride, in_order(codes), n, lanes);
    return true;
}

__attribute__((noinline)) static void decide(const bb_requant_tables *t, const bb_requant_job *job,
                                             bb_requant_fn exact, size_t p, int32_t i,
                                             int32_t n_channels) {
    const bb_requant_job part = bb_requant_part(job, p, i, n_channels);
    exact(t, &part);
}

/* `lanes` is known to be all ones at compile time in all but one caller. */
INLINE void group(const bb_requant_tables *t, const bb_requant_job *job, bb_requant_fn exact,
                  bb_element type, int with, int n, int32_t i, __mmask16 lanes) {
    const constants k = load_constants(t, job, (size_t)(job->c0 + i), n, with);
    const view v = view_at(job, type, (size_t)i);
    const size_t pixels = (size_t)job->n_pixels;
    for (size_t p = 0; p < pixels; p++)
        if (!pixel(&v, &k, with, n, p, lanes))
            decide(t, job, exact, p, i,
                   lanes == 0xffff ? n * LANES : __builtin_popcount((unsigned)lanes));
}

/* The last channels are done once more with their predecessors where that is harmless: where
 * neither operand can be the memory of the output. */
INLINE void groups(const bb_requant_tables *t, const bb_requant_job *job, bb_requant_fn exact,
                   bb_element type, int with) {
    const int32_t n = job->n_channels;
    int32_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES)
        group(t, job, exact, type, with, 4, i, 0xffff);
    if (i + 2 * LANES <= n) {
        group(t, job, exact, type, with, 2, i, 0xffff);
        i += 2 * LANES;
    }
    if (i + LANES <= n) {
        group(t, job, exact, type, with, 1, i, 0xffff);
        i += LANES;
    }
    if (i == n)
        return;
    if (n > LANES && type == BB_ELEMENT_I32 && !(with & WITH_Z2))
        group(t, job, exact, type, with, 1, n - LANES, 0xffff);
    else
        group(t, job, exact, type, with, 1, i, (__mmask16)((1u << (n - i)) - 1));
}

#define VARIANT(name, type, with)                                                                  \
    AVX512 static void name(const bb_requant_tables *t, const bb_requant_job *job,                 \
                            bb_requant_fn exact) {                                                 \
        groups(t, job, exact, type, with);                                                         \
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

void bb_requant_float_avx512(const bb_requant_tables *t, const bb_requant_job *job,
                             bb_requant_fn exact) {
    typedef void (*variant)(const bb_requant_tables *, const bb_requant_job *, bb_requant_fn);
    static const variant of[2][2][3] = {
        {{sums, sums_bracket, sums_z2}, {sums_border, sums_border_bracket, sums_border_z2}},
        {{codes, codes_bracket, codes_z2}, {codes_border, codes_border_bracket, codes_border_z2}}};
    const int border = !job->no_border && !t->folded;
    of[job->z1_type == BB_ELEMENT_U8][border][t->has_z2 ? 2 : t->high_f != NULL](t, job, exact);
}
#endif
