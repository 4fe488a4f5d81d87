/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file vec128.h
 * The few 128-bit operations that the narrow kernels need, for SSE4.1 and for NEON of 64-bit and of
 * 32-bit Arm. Integer lanes wrap. V_DOUBLE: there are vectors of doubles (vecd).
 */
#ifndef BB_KERNELS_NARROW_VEC128_H
#define BB_KERNELS_NARROW_VEC128_H

#include "cpu/cpu.h"

#include <string.h>

#if BB_ARCH_X86_64

#include <immintrin.h>

#define V_FN __attribute__((target("ssse3,sse4.1")))

typedef __m128i vec;

V_FN static inline vec v_load(const void *p) {
    return _mm_loadu_si128(p);
}
V_FN static inline void v_store(void *p, vec a) {
    _mm_storeu_si128(p, a);
}
/** The four bytes at p, four times. */
V_FN static inline vec v_dup32(const void *p) {
    int32_t four;

    memcpy(&four, p, 4);
    return _mm_set1_epi32(four);
}
V_FN static inline vec v_set8(int8_t a) {
    return _mm_set1_epi8(a);
}
V_FN static inline vec v_set32(int32_t a) {
    return _mm_set1_epi32(a);
}
V_FN static inline vec v_and(vec a, vec b) {
    return _mm_and_si128(a, b);
}
V_FN static inline vec v_add8(vec a, vec b) {
    return _mm_add_epi8(a, b);
}
V_FN static inline vec v_add16(vec a, vec b) {
    return _mm_add_epi16(a, b);
}
V_FN static inline vec v_add32(vec a, vec b) {
    return _mm_add_epi32(a, b);
}
V_FN static inline vec v_sub16(vec a, vec b) {
    return _mm_sub_epi16(a, b);
}
V_FN static inline vec v_high8(vec a) /**< 16-bit lanes >> 8, unsigned */
{
    return _mm_srli_epi16(a, 8);
}
V_FN static inline vec v_up8(vec a) /**< 16-bit lanes << 8 */
{
    return _mm_slli_epi16(a, 8);
}
V_FN static inline vec v_nibble_high(vec a) /**< bytes >> 4 */
{
    return _mm_and_si128(_mm_srli_epi16(a, 4), _mm_set1_epi8(15));
}
V_FN static inline vec v_shl32(vec a, int32_t n) {
    return _mm_sll_epi32(a, _mm_cvtsi32_si128(n));
}
/** table[index], indices 0..15, and 0 where an index is 0x80 or more. */
V_FN static inline vec v_look(vec table, vec index) {
    return _mm_shuffle_epi8(table, index);
}
/** 32-bit sums of neighbouring products of 16-bit lanes. */
V_FN static inline vec v_pairs16(vec a, vec b) {
    return _mm_madd_epi16(a, b);
}
/** 32-bit sums of neighbouring signed 16-bit lanes. */
V_FN static inline vec v_widen(vec a) {
    return _mm_madd_epi16(a, _mm_set1_epi16(1));
}
/* The inner steps. SSE overwrites an operand: from the intrinsics, gcc copies sums instead of
 * codes and stores one in every step. */
#define V_STEP(name, multiply, add)                                                                \
    V_FN static inline vec name(vec sum, vec a, vec b) {                                           \
        vec product;                                                                               \
                                                                                                   \
        __asm__("movdqa %2, %1\n\t" multiply " %3, %1\n\t" add " %1, %0"                           \
                : "+x"(sum), "=&x"(product)                                                        \
                : "x"(a), "x"(b));                                                                 \
        return sum;                                                                                \
    }
V_STEP(v_add_pairs, "pmaddubsw", "paddw") /**< sum + 16-bit sums of pairs of u8*s8 */
V_STEP(v_add_look, "pshufb", "paddb")     /**< v_add8(sum, v_look(a, b)) */
V_FN static inline vec v_zip8_lo(vec a, vec b) {
    return _mm_unpacklo_epi8(a, b);
}
V_FN static inline vec v_zip8_hi(vec a, vec b) {
    return _mm_unpackhi_epi8(a, b);
}
V_FN static inline vec v_zip16_lo(vec a, vec b) {
    return _mm_unpacklo_epi16(a, b);
}
V_FN static inline vec v_zip16_hi(vec a, vec b) {
    return _mm_unpackhi_epi16(a, b);
}

V_FN static inline vec v_load64(const void *p) /**< eight bytes and zeros */
{
    return _mm_loadl_epi64(p);
}
V_FN static inline void v_store64(void *p, vec a) {
    _mm_storel_epi64(p, a);
}
V_FN static inline vec v_xor(vec a, vec b) {
    return _mm_xor_si128(a, b);
}
V_FN static inline vec v_min8(vec a, vec b) /**< unsigned */
{
    return _mm_min_epu8(a, b);
}
V_FN static inline vec v_max8(vec a, vec b) /**< unsigned */
{
    return _mm_max_epu8(a, b);
}
V_FN static inline vec v_max16(vec a, vec b) /**< unsigned */
{
    return _mm_max_epu16(a, b);
}
V_FN static inline vec v_more32(vec a, vec b) /**< all ones where a > b */
{
    return _mm_cmpgt_epi32(a, b);
}
/** Eight signed 32-bit lanes as 16-bit ones, saturated to -32768..32767. */
V_FN static inline vec v_pack32(vec a, vec b) {
    return _mm_packs_epi32(a, b);
}
/** The same, saturated to 0..65535. */
V_FN static inline vec v_pack32_u(vec a, vec b) {
    return _mm_packus_epi32(a, b);
}
/** Signed 16-bit lanes as bytes in the lower half, saturated to 0..255. */
V_FN static inline vec v_pack16(vec a) {
    return _mm_packus_epi16(a, a);
}
V_FN static inline bool v_any(vec a) /**< a bit is set */
{
    return !_mm_testz_si128(a, a);
}

typedef __m128 vecf; /**< four floats */

V_FN static inline vecf vf_load(const float *p) {
    return _mm_loadu_ps(p);
}
V_FN static inline void vf_store(float *p, vecf a) {
    _mm_storeu_ps(p, a);
}
V_FN static inline vecf vf_mul(vecf a, vecf b) {
    return _mm_mul_ps(a, b);
}
V_FN static inline vecf vf_add(vecf a, vecf b) {
    return _mm_add_ps(a, b);
}
V_FN static inline vecf vf_set(float a) {
    return _mm_set1_ps(a);
}
V_FN static inline vecf vf_from32(vec a) {
    return _mm_cvtepi32_ps(a);
}
V_FN static inline vec vf_to32(vecf a) /**< truncated; must fit */
{
    return _mm_cvttps_epi32(a);
}

#define V_DOUBLE 1

typedef struct vecd { /**< four doubles */
    __m128d lo, hi;
} vecd;

V_FN static inline vecd vd_load(const double *p) {
    return (vecd){_mm_loadu_pd(p), _mm_loadu_pd(p + 2)};
}
V_FN static inline vecd vd_set(double a) {
    return (vecd){_mm_set1_pd(a), _mm_set1_pd(a)};
}
V_FN static inline vecd vd_mul(vecd a, vecd b) {
    return (vecd){_mm_mul_pd(a.lo, b.lo), _mm_mul_pd(a.hi, b.hi)};
}
V_FN static inline vecd vd_add(vecd a, vecd b) {
    return (vecd){_mm_add_pd(a.lo, b.lo), _mm_add_pd(a.hi, b.hi)};
}
V_FN static inline vecd vd_div(vecd a, vecd b) {
    return (vecd){_mm_div_pd(a.lo, b.lo), _mm_div_pd(a.hi, b.hi)};
}
V_FN static inline vecd vd_min(vecd a, vecd b) {
    return (vecd){_mm_min_pd(a.lo, b.lo), _mm_min_pd(a.hi, b.hi)};
}
/** negative where value < 0, else positive. */
V_FN static inline vecd vd_choose(vecd value, vecd positive, vecd negative) {
    const __m128d zero = _mm_setzero_pd();

    return (vecd){_mm_blendv_pd(positive.lo, negative.lo, _mm_cmplt_pd(value.lo, zero)),
                  _mm_blendv_pd(positive.hi, negative.hi, _mm_cmplt_pd(value.hi, zero))};
}
V_FN static inline vecd vd_from32(vec a) {
    return (vecd){_mm_cvtepi32_pd(a), _mm_cvtepi32_pd(_mm_unpackhi_epi64(a, a))};
}
/** Truncated; some negative number below the range of 32 bits, at most INT32_MAX above zero. */
V_FN static inline vec vd_to32(vecd a) {
    return _mm_unpacklo_epi64(_mm_cvttpd_epi32(a.lo), _mm_cvttpd_epi32(a.hi));
}
V_FN static inline vecf vd_to_float(vecd a) {
    return _mm_movelh_ps(_mm_cvtpd_ps(a.lo), _mm_cvtpd_ps(a.hi));
}

#elif BB_ARCH_NEON

#include <arm_neon.h>

#define V_FN

typedef uint8x16_t vec;

#if BB_ARCH_NEON64

#define V_ZIP(type, n, a, b) vzip##n##q_##type(a, b)

static inline vec v_look(vec table, vec index) {
    return vqtbl1q_u8(table, index);
}
static inline bool v_any(vec a) {
    return vmaxvq_u8(a) != 0;
}
static inline int32x4_t v_pair_sums(int32x4_t a, int32x4_t b) {
    return vpaddq_s32(a, b);
}
static inline int32x4_t v_products_high(int16x8_t a, int16x8_t b) {
    return vmull_high_s16(a, b);
}

#else /* 32-bit Arm works on halves where 64-bit Arm has whole vectors */

#define V_ZIP(type, n, a, b) vzipq_##type(a, b).val[(n)-1]

static inline vec v_look(vec table, vec index) {
    const uint8x8x2_t halves = {{vget_low_u8(table), vget_high_u8(table)}};

    return vcombine_u8(vtbl2_u8(halves, vget_low_u8(index)), vtbl2_u8(halves, vget_high_u8(index)));
}
static inline bool v_any(vec a) {
    const uint64x2_t v = vreinterpretq_u64_u8(a);

    return (vgetq_lane_u64(v, 0) | vgetq_lane_u64(v, 1)) != 0;
}
static inline int32x4_t v_pair_sums(int32x4_t a, int32x4_t b) {
    return vcombine_s32(vpadd_s32(vget_low_s32(a), vget_high_s32(a)),
                        vpadd_s32(vget_low_s32(b), vget_high_s32(b)));
}
static inline int32x4_t v_products_high(int16x8_t a, int16x8_t b) {
    return vmull_s16(vget_high_s16(a), vget_high_s16(b));
}

#endif

static inline vec v_load(const void *p) {
    return vld1q_u8(p);
}
static inline void v_store(void *p, vec a) {
    vst1q_u8(p, a);
}
static inline vec v_dup32(const void *p) {
    uint32_t four;

    memcpy(&four, p, 4);
    return vreinterpretq_u8_u32(vdupq_n_u32(four));
}
static inline vec v_set8(int8_t a) {
    return vreinterpretq_u8_s8(vdupq_n_s8(a));
}
static inline vec v_set32(int32_t a) {
    return vreinterpretq_u8_s32(vdupq_n_s32(a));
}
static inline vec v_and(vec a, vec b) {
    return vandq_u8(a, b);
}
static inline vec v_add8(vec a, vec b) {
    return vaddq_u8(a, b);
}
static inline vec v_add16(vec a, vec b) {
    return vreinterpretq_u8_u16(vaddq_u16(vreinterpretq_u16_u8(a), vreinterpretq_u16_u8(b)));
}
static inline vec v_add32(vec a, vec b) {
    return vreinterpretq_u8_u32(vaddq_u32(vreinterpretq_u32_u8(a), vreinterpretq_u32_u8(b)));
}
static inline vec v_sub16(vec a, vec b) {
    return vreinterpretq_u8_u16(vsubq_u16(vreinterpretq_u16_u8(a), vreinterpretq_u16_u8(b)));
}
static inline vec v_high8(vec a) {
    return vreinterpretq_u8_u16(vshrq_n_u16(vreinterpretq_u16_u8(a), 8));
}
static inline vec v_up8(vec a) {
    return vreinterpretq_u8_u16(vshlq_n_u16(vreinterpretq_u16_u8(a), 8));
}
static inline vec v_nibble_high(vec a) {
    return vshrq_n_u8(a, 4);
}
static inline vec v_shl32(vec a, int32_t n) {
    return vreinterpretq_u8_u32(vshlq_u32(vreinterpretq_u32_u8(a), vdupq_n_s32(n)));
}
static inline vec v_pairs16(vec a, vec b) {
    const int16x8_t u = vreinterpretq_s16_u8(a), w = vreinterpretq_s16_u8(b);

    return vreinterpretq_u8_s32(
        v_pair_sums(vmull_s16(vget_low_s16(u), vget_low_s16(w)), v_products_high(u, w)));
}
static inline vec v_add_look(vec sum, vec a, vec b) {
    return v_add8(sum, v_look(a, b));
}
static inline vec v_zip8_lo(vec a, vec b) {
    return V_ZIP(u8, 1, a, b);
}
static inline vec v_zip8_hi(vec a, vec b) {
    return V_ZIP(u8, 2, a, b);
}
static inline vec v_zip16_lo(vec a, vec b) {
    return vreinterpretq_u8_u16(V_ZIP(u16, 1, vreinterpretq_u16_u8(a), vreinterpretq_u16_u8(b)));
}
static inline vec v_zip16_hi(vec a, vec b) {
    return vreinterpretq_u8_u16(V_ZIP(u16, 2, vreinterpretq_u16_u8(a), vreinterpretq_u16_u8(b)));
}
static inline vec v_load64(const void *p) {
    return vcombine_u8(vld1_u8(p), vdup_n_u8(0));
}
static inline void v_store64(void *p, vec a) {
    vst1_u8(p, vget_low_u8(a));
}
static inline vec v_xor(vec a, vec b) {
    return veorq_u8(a, b);
}
static inline vec v_min8(vec a, vec b) {
    return vminq_u8(a, b);
}
static inline vec v_max8(vec a, vec b) {
    return vmaxq_u8(a, b);
}
static inline vec v_max16(vec a, vec b) {
    return vreinterpretq_u8_u16(vmaxq_u16(vreinterpretq_u16_u8(a), vreinterpretq_u16_u8(b)));
}
static inline vec v_more32(vec a, vec b) {
    return vreinterpretq_u8_u32(vcgtq_s32(vreinterpretq_s32_u8(a), vreinterpretq_s32_u8(b)));
}
static inline vec v_pack32(vec a, vec b) {
    return vreinterpretq_u8_s16(
        vcombine_s16(vqmovn_s32(vreinterpretq_s32_u8(a)), vqmovn_s32(vreinterpretq_s32_u8(b))));
}
static inline vec v_pack32_u(vec a, vec b) {
    return vreinterpretq_u8_u16(
        vcombine_u16(vqmovun_s32(vreinterpretq_s32_u8(a)), vqmovun_s32(vreinterpretq_s32_u8(b))));
}
static inline vec v_pack16(vec a) {
    return vcombine_u8(vqmovun_s16(vreinterpretq_s16_u8(a)), vdup_n_u8(0));
}

typedef float32x4_t vecf;

static inline vecf vf_load(const float *p) {
    return vld1q_f32(p);
}
static inline void vf_store(float *p, vecf a) {
    vst1q_f32(p, a);
}
static inline vecf vf_mul(vecf a, vecf b) {
    return vmulq_f32(a, b);
}
static inline vecf vf_add(vecf a, vecf b) {
    return vaddq_f32(a, b);
}
static inline vecf vf_set(float a) {
    return vdupq_n_f32(a);
}
static inline vecf vf_from32(vec a) {
    return vcvtq_f32_s32(vreinterpretq_s32_u8(a));
}
static inline vec vf_to32(vecf a) {
    return vreinterpretq_u8_s32(vcvtq_s32_f32(a));
}

#if BB_ARCH_NEON64

#define V_DOUBLE 1

typedef struct vecd {
    float64x2_t lo, hi;
} vecd;

static inline vecd vd_load(const double *p) {
    return (vecd){vld1q_f64(p), vld1q_f64(p + 2)};
}
static inline vecd vd_set(double a) {
    return (vecd){vdupq_n_f64(a), vdupq_n_f64(a)};
}
static inline vecd vd_mul(vecd a, vecd b) {
    return (vecd){vmulq_f64(a.lo, b.lo), vmulq_f64(a.hi, b.hi)};
}
static inline vecd vd_add(vecd a, vecd b) {
    return (vecd){vaddq_f64(a.lo, b.lo), vaddq_f64(a.hi, b.hi)};
}
static inline vecd vd_div(vecd a, vecd b) {
    return (vecd){vdivq_f64(a.lo, b.lo), vdivq_f64(a.hi, b.hi)};
}
static inline vecd vd_min(vecd a, vecd b) {
    return (vecd){vminq_f64(a.lo, b.lo), vminq_f64(a.hi, b.hi)};
}
static inline vecd vd_choose(vecd value, vecd positive, vecd negative) {
    return (vecd){vbslq_f64(vcltzq_f64(value.lo), negative.lo, positive.lo),
                  vbslq_f64(vcltzq_f64(value.hi), negative.hi, positive.hi)};
}
static inline vecd vd_from32(vec a) {
    const int32x4_t v = vreinterpretq_s32_u8(a);

    return (vecd){vcvtq_f64_s64(vmovl_s32(vget_low_s32(v))), vcvtq_f64_s64(vmovl_high_s32(v))};
}
static inline vec vd_to32(vecd a) {
    return vreinterpretq_u8_s32(
        vcombine_s32(vqmovn_s64(vcvtq_s64_f64(a.lo)), vqmovn_s64(vcvtq_s64_f64(a.hi))));
}
static inline vecf vd_to_float(vecd a) {
    return vcombine_f32(vcvt_f32_f64(a.lo), vcvt_f32_f64(a.hi));
}

#else
#define V_DOUBLE 0
#endif

#endif
#endif
