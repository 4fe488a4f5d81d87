/* SPDX-License-Identifier: Apache-2.0 */
/* LINEAR in float, 64, 32 or 16 channels of a pixel at a time. */
#include "kernels/requant.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define OPERATION TARGET __attribute__((always_inline)) static inline

enum { LANES = 16, ALL_LANES = 0xffff, CAN_MASK = 1 };
typedef __m512 floats;
typedef __m512i ints;
typedef __mmask16 mask;

OPERATION floats float_set(float x) {
    return _mm512_set1_ps(x);
}

OPERATION floats float_load(const float *p) {
    return _mm512_loadu_ps(p);
}

OPERATION void float_store(float *p, floats a) {
    _mm512_storeu_ps(p, a);
}

OPERATION floats float_multiply(floats a, floats b) {
    return _mm512_mul_ps(a, b);
}

OPERATION floats float_fma(floats a, floats b, floats c) {
    return _mm512_fmadd_ps(a, b, c);
}

OPERATION floats float_of_ints(ints a) {
    return _mm512_cvtepi32_ps(a);
}

OPERATION ints truncated(floats a) {
    return _mm512_cvttps_epi32(a);
}

OPERATION ints int_load(const int32_t *p, mask lanes) {
    return _mm512_maskz_loadu_epi32(lanes, p);
}

OPERATION ints int_add(ints a, ints b) {
    return _mm512_add_epi32(a, b);
}

OPERATION ints int_shift(ints a, __m128i by) {
    return _mm512_sll_epi32(a, by);
}

OPERATION ints codes8(const uint8_t *p, mask lanes) {
    return _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(lanes, p));
}

OPERATION ints codes16(const uint16_t *p, mask lanes) {
    return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, p));
}

OPERATION ints bytes_set(int32_t x) {
    return _mm512_set1_epi8((char)x);
}

OPERATION mask first_lanes(int32_t n) {
    return (mask)((1u << n) - 1);
}

OPERATION int32_t count_lanes(mask lanes) {
    return __builtin_popcount((unsigned)lanes);
}

/* Packing works in quarters of 16 bytes: dword j of quarter l comes from quarter l of vector j. */
OPERATION ints pack(const ints *v, int n, ints limit) {
    const ints a = _mm512_packs_epi32(v[0], v[n > 1 ? 1 : 0]);
    const ints b = n > 2 ? _mm512_packs_epi32(v[2], v[3]) : a;
    return _mm512_min_epu8(_mm512_packus_epi16(a, b), limit);
}

OPERATION ints in_order(ints packed) {
    return _mm512_permutexvar_epi32(
        _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), packed);
}

OPERATION void store_codes(uint8_t *out, ints codes, int n, mask lanes) {
    if (n == 4)
        _mm512_storeu_si512(out, codes);
    else if (n == 2)
        _mm256_storeu_si256((void *)out, _mm512_castsi512_si256(codes));
    else if (lanes == ALL_LANES)
        _mm_storeu_si128((void *)out, _mm512_castsi512_si128(codes));
    else
        _mm_mask_storeu_epi8(out, lanes, _mm512_castsi512_si128(codes));
}

OPERATION bool differ(ints a, ints b) {
    return _mm512_cmpneq_epi32_mask(a, b) != 0;
}

#include "kernels/x86/requant_float_x86.h"

void bb_requant_float_avx512(const bb_requant_tables *t, const bb_requant_job *job,
                             bb_requant_fn exact) {
    run(t, job, exact);
}
#endif
