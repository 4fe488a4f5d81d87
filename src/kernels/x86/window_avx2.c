/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/window.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define AVX2 __attribute__((target("avx2")))

static const uint8_t *row_of(const bb_window *w, int32_t y, size_t element) {
    return (const uint8_t *)w->first + (size_t)y * w->row_stride * element;
}

#define INLINE AVX2 __attribute__((always_inline)) static inline

INLINE __m256i larger(__m256i a, __m256i b, bool words) {
    return words ? _mm256_max_epu16(a, b) : _mm256_max_epu8(a, b);
}

INLINE __m128i larger_half(__m128i a, __m128i b, bool words) {
    return words ? _mm_max_epu16(a, b) : _mm_max_epu8(a, b);
}

/* One item of n inputs, as far as it has whole pieces of 8 bytes. */
INLINE void max_item(const uint8_t *const *in, size_t n, size_t from, uint8_t *out, size_t bytes,
                     bool words) {
    size_t i = 0;
    for (; i + 32 <= bytes; i += 32) {
        __m256i best = _mm256_loadu_si256((const void *)(in[0] + from + i));
        for (size_t k = 1; k < n; k++)
            best = larger(best, _mm256_loadu_si256((const void *)(in[k] + from + i)), words);
        _mm256_storeu_si256((void *)(out + i), best);
    }
    for (; i + 8 <= bytes; i += 8) {
        __m128i best = _mm_loadl_epi64((const void *)(in[0] + from + i));
        for (size_t k = 1; k < n; k++)
            best = larger_half(best, _mm_loadl_epi64((const void *)(in[k] + from + i)), words);
        _mm_storel_epi64((void *)(out + i), best);
    }
}

INLINE void max_items(const bb_max_job *job, size_t n, bool words) {
    const size_t element = bb_element_size(job->type), bytes = job->elements * element;
    const size_t count = job->count, in_step = job->in_step * element;
    const size_t out_step = job->out_step * element;
    uint8_t *out = job->out;
    const uint8_t *const *in = (const uint8_t *const *)job->in;
    const uint8_t *few[3] = {in[0], in[n > 1 ? 1 : 0], in[n > 2 ? 2 : 0]}; /* in registers */
    for (size_t t = 0; t < count; t++)
        max_item(n <= 3 ? few : in, n, t * in_step, out + t * out_step, bytes, words);
}

AVX2 static void max_of(const bb_max_job *job) {
    const size_t element = bb_element_size(job->type);
    if (job->type == BB_ELEMENT_U16)
        max_items(job, job->n, true);
    else if (job->n == 2)
        max_items(job, 2, false);
    else if (job->n == 3)
        max_items(job, 3, false);
    else
        max_items(job, job->n, false);
    bb_max_rest(job, job->elements * element / 8 * 8 / element);
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
    if (c < (size_t)w->channels) {
        bb_window rest = *w;
        rest.first = (const uint8_t *)w->first + c * bb_element_size(w->type);
        rest.channels = w->channels - (int32_t)c;
        bb_window_ref.sum(&rest, out + c);
    }
}

const bb_window_kernels bb_window_avx2 = {"window_avx2", max_of, window_sum};
#endif
