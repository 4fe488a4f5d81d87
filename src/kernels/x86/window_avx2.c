/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/window.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define AVX2 __attribute__((target("avx2")))

static const uint8_t *row_of(const bb_window *w, int32_t y, size_t element) {
    return (const uint8_t *)w->first + (size_t)y * w->row_stride * element;
}

/* Maximum of one vector of bytes or words at byte offset `at` in every pixel. */
#define DEFINE_MAX(name, vector, load, max_op, zero)                                               \
    AVX2 static vector name(const bb_window *w, size_t element, size_t at) {                       \
        const size_t step = w->pixel_stride * element;                                             \
        vector best = zero;                                                                        \
        for (int32_t y = 0; y < w->rows; y++) {                                                    \
            const uint8_t *p = row_of(w, y, element) + at;                                         \
            for (int32_t x = 0; x < w->columns; x++, p += step)                                    \
                best = max_op(best, load((const void *)p));                                        \
        }                                                                                          \
        return best;                                                                               \
    }

DEFINE_MAX(max_u8x32, __m256i, _mm256_loadu_si256, _mm256_max_epu8, _mm256_setzero_si256())
DEFINE_MAX(max_u8x8, __m128i, _mm_loadl_epi64, _mm_max_epu8, _mm_setzero_si128())
DEFINE_MAX(max_u16x16, __m256i, _mm256_loadu_si256, _mm256_max_epu16, _mm256_setzero_si256())
DEFINE_MAX(max_u16x8, __m128i, _mm_loadu_si128, _mm_max_epu16, _mm_setzero_si128())

/* The channels from `done` on, by the reference. */
static void rest(const bb_window *w, size_t done, void *max_out, int32_t *sum_out) {
    const size_t element = bb_element_size(w->type);
    bb_window tail = *w;
    tail.first = (const uint8_t *)w->first + done * element;
    tail.channels = w->channels - (int32_t)done;
    if (tail.channels == 0)
        return;
    if (max_out)
        bb_window_ref.max(&tail, (uint8_t *)max_out + done * element);
    else
        bb_window_ref.sum(&tail, sum_out + done);
}

AVX2 static void window_max(const bb_window *w, void *out) {
    const size_t n = (size_t)w->channels;
    uint8_t *bytes = out;
    size_t c = 0;
    if (w->type == BB_ELEMENT_U8) {
        for (; c + 32 <= n; c += 32)
            _mm256_storeu_si256((void *)(bytes + c), max_u8x32(w, 1, c));
        for (; c + 8 <= n; c += 8)
            _mm_storel_epi64((void *)(bytes + c), max_u8x8(w, 1, c));
    } else {
        for (; c + 16 <= n; c += 16)
            _mm256_storeu_si256((void *)(bytes + 2 * c), max_u16x16(w, 2, 2 * c));
        for (; c + 8 <= n; c += 8)
            _mm_storeu_si128((void *)(bytes + 2 * c), max_u16x8(w, 2, 2 * c));
    }
    rest(w, c, out, NULL);
}

AVX2 static __m256i sum_x8(const bb_window *w, size_t c) {
    const size_t element = bb_element_size(w->type), step = w->pixel_stride * element;
    const bool bytes = element == 1;
    __m256i sum = _mm256_setzero_si256();
    for (int32_t y = 0; y < w->rows; y++) {
        const uint8_t *p = row_of(w, y, element) + c * element;
        for (int32_t x = 0; x < w->columns; x++, p += step)
            sum = _mm256_add_epi32(sum,
                                   bytes ? _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)p))
                                         : _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p)));
    }
    return sum;
}

AVX2 static void window_sum(const bb_window *w, int32_t *out) {
    size_t c = 0;
    for (; c + 8 <= (size_t)w->channels; c += 8)
        _mm256_storeu_si256((void *)(out + c), sum_x8(w, c));
    rest(w, c, NULL, out);
}

const bb_window_kernels bb_window_avx2 = {"window_avx2", window_max, window_sum};
#endif
