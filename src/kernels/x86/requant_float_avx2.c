/* SPDX-License-Identifier: Apache-2.0 */
/* LINEAR in float, 32, 16 or 8 channels of a pixel at a time. */
#include "kernels/requant.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET __attribute__((target("avx2,fma")))
#define OPERATION TARGET __attribute__((always_inline)) static inline

/* Masks are not used: callers keep to whole vectors. */
enum { LANES = 8, ALL_LANES = 0xff, CAN_MASK = 0 };
typedef __m256 floats;
typedef __m256i ints;
typedef unsigned mask;

OPERATION floats float_set(float x) {
    return _mm256_set1_ps(x);
}

OPERATION floats float_load(const float *p) {
    return _mm256_loadu_ps(p);
}

OPERATION void float_store(float *p, floats a) {
    _mm256_storeu_ps(p, a);
}

OPERATION floats float_multiply(floats a, floats b) {
    return _mm256_mul_ps(a, b);
}

OPERATION floats float_fma(floats a, floats b, floats c) {
    return _mm256_fmadd_ps(a, b, c);
}

OPERATION floats float_of_ints(ints a) {
    return _mm256_cvtepi32_ps(a);
}

OPERATION ints truncated(floats a) {
    return _mm256_cvttps_epi32(a);
}

OPERATION ints int_load(const int32_t *p, mask lanes) {
    (void)lanes;
    return _mm256_loadu_si256((const void *)p);
}

OPERATION ints int_add(ints a, ints b) {
    return _mm256_add_epi32(a, b);
}

OPERATION ints int_shift(ints a, __m128i by) {
    return _mm256_sll_epi32(a, by);
}

OPERATION ints codes8(const uint8_t *p, mask lanes) {
    (void)lanes;
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)p));
}

OPERATION ints codes16(const uint16_t *p, mask lanes) {
    (void)lanes;
    return _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p));
}

OPERATION ints bytes_set(int32_t x) {
    return _mm256_set1_epi8((char)x);
}

OPERATION mask first_lanes(int32_t n) {
    (void)n;
    return ALL_LANES;
}

OPERATION int32_t count_lanes(mask lanes) {
    (void)lanes;
    return LANES;
}

/* Packing works in halves of 16 bytes: dword j of half l comes from half l of vector j. */
OPERATION ints pack(const ints *v, int n, ints limit) {
    const ints a = _mm256_packs_epi32(v[0], v[n > 1 ? 1 : 0]);
    const ints b = n > 2 ? _mm256_packs_epi32(v[2], v[3]) : a;
    return _mm256_min_epu8(_mm256_packus_epi16(a, b), limit);
}

OPERATION ints in_order(ints packed) {
    return _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

OPERATION void store_codes(uint8_t *out, ints codes, int n, mask lanes) {
    (void)lanes;
    if (n == 4)
        _mm256_storeu_si256((void *)out, codes);
    else if (n == 2)
        _mm_storeu_si128((void *)out, _mm256_castsi256_si128(codes));
    else
        _mm_storel_epi64((void *)out, _mm256_castsi256_si128(codes));
}

OPERATION bool differ(ints a, ints b) {
    const ints d = _mm256_xor_si256(a, b);
    return !_mm256_testz_si256(d, d);
}

#include "kernels/x86/requant_float_x86.h"

void bb_requant_float_avx2(const bb_requant_tables *t, const bb_requant_job *job,
                           bb_requant_fn exact) {
    run(t, job, exact);
}
#endif
