/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file vec128.h
 * The few 128-bit operations that the narrow kernels need, for SSE4.1 and for NEON. All lanes wrap.
 */
#ifndef BB_KERNELS_NARROW_VEC128_H
#define BB_KERNELS_NARROW_VEC128_H

#include "cpu/cpu.h"

#include <string.h>

#if BB_ARCH_X86_64

#include <immintrin.h>

#define V_FN __attribute__((target("ssse3,sse4.1")))
#define V_CODE_MAX 255 /**< largest code v_pairs takes */

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
/** 16-bit sums of neighbouring products of codes and signed bytes; must fit. */
V_FN static inline vec v_pairs(vec codes, vec weights) {
    return _mm_maddubs_epi16(codes, weights);
}
/** 32-bit sums of neighbouring products of 16-bit lanes. */
V_FN static inline vec v_pairs16(vec a, vec b) {
    return _mm_madd_epi16(a, b);
}
/** 32-bit sums of neighbouring signed 16-bit lanes. */
V_FN static inline vec v_widen(vec a) {
    return _mm_madd_epi16(a, _mm_set1_epi16(1));
}
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

#elif BB_ARCH_NEON64

#include <arm_neon.h>

#define V_FN
#define V_CODE_MAX 127 /**< products are signed */

typedef uint8x16_t vec;

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
static inline vec v_look(vec table, vec index) {
    return vqtbl1q_u8(table, index);
}
static inline vec v_pairs(vec codes, vec weights) {
    const int8x16_t u = vreinterpretq_s8_u8(codes), w = vreinterpretq_s8_u8(weights);

    return vreinterpretq_u8_s16(
        vpaddq_s16(vmull_s8(vget_low_s8(u), vget_low_s8(w)), vmull_high_s8(u, w)));
}
static inline vec v_pairs16(vec a, vec b) {
    const int16x8_t u = vreinterpretq_s16_u8(a), w = vreinterpretq_s16_u8(b);

    return vreinterpretq_u8_s32(
        vpaddq_s32(vmull_s16(vget_low_s16(u), vget_low_s16(w)), vmull_high_s16(u, w)));
}
static inline vec v_widen(vec a) {
    return vreinterpretq_u8_s32(vpaddlq_s16(vreinterpretq_s16_u8(a)));
}
static inline vec v_zip8_lo(vec a, vec b) {
    return vzip1q_u8(a, b);
}
static inline vec v_zip8_hi(vec a, vec b) {
    return vzip2q_u8(a, b);
}
static inline vec v_zip16_lo(vec a, vec b) {
    return vreinterpretq_u8_u16(vzip1q_u16(vreinterpretq_u16_u8(a), vreinterpretq_u16_u8(b)));
}
static inline vec v_zip16_hi(vec a, vec b) {
    return vreinterpretq_u8_u16(vzip2q_u16(vreinterpretq_u16_u8(a), vreinterpretq_u16_u8(b)));
}

#endif
#endif
