/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file window_narrow.h
 * Pooling windows on 128-bit vectors. Included once by each instruction set, after
 *     NARROW_WINDOW  the symbol of a bb_window_kernels
 *     NARROW_NAME    its name
 * The last n_channels % 8 go to the reference.
 */
#include "kernels/narrow/vec128.h"
#include "kernels/window.h"

static const uint8_t *w_row(const bb_window *w, int32_t y, size_t at) {
    const size_t element = bb_element_size(w->type);
    return (const uint8_t *)w->first + ((size_t)y * w->row_stride + at) * element;
}

/* Largest codes of the channels from `at` on: 16 bytes or 8 words; 8 bytes where `half`. */
V_FN static vec w_max(const bb_window *w, size_t at, bool half) {
    const bool bytes = w->type == BB_ELEMENT_U8;
    const size_t step = w->pixel_stride * bb_element_size(w->type);
    vec best = v_set32(0);
    for (int32_t y = 0; y < w->rows; y++) {
        const uint8_t *p = w_row(w, y, at);
        for (int32_t x = 0; x < w->columns; x++, p += step)
            best = !bytes ? v_max16(best, v_load(p)) : v_max8(best, half ? v_load64(p) : v_load(p));
    }
    return best;
}

/* The channels from `done` on, by the reference. */
static bb_window w_rest(const bb_window *w, size_t done) {
    bb_window rest = *w;
    rest.first = w_row(w, 0, done);
    rest.channels = w->channels - (int32_t)done;
    return rest;
}

V_FN static void window_max(const bb_window *w, void *out) {
    const size_t n = (size_t)w->channels, element = bb_element_size(w->type);
    uint8_t *bytes = out;
    size_t c = 0;
    for (; element == 1 && c + 16 <= n; c += 16)
        v_store(bytes + c, w_max(w, c, false));
    for (; element == 1 && c + 8 <= n; c += 8)
        v_store64(bytes + c, w_max(w, c, true));
    for (; element == 2 && c + 8 <= n; c += 8)
        v_store(bytes + 2 * c, w_max(w, c, false));
    if (c < n) {
        const bb_window rest = w_rest(w, c);
        bb_window_ref.max(&rest, bytes + c * element);
    }
}

V_FN static void w_sum8(const bb_window *w, size_t at, int32_t *out) {
    const bool bytes = w->type == BB_ELEMENT_U8;
    const size_t step = w->pixel_stride * bb_element_size(w->type);
    const vec zero = v_set32(0);
    vec lo = zero, hi = zero;
    for (int32_t y = 0; y < w->rows; y++) {
        const uint8_t *p = w_row(w, y, at);
        for (int32_t x = 0; x < w->columns; x++, p += step) {
            const vec words = bytes ? v_zip8_lo(v_load64(p), zero) : v_load(p);
            lo = v_add32(lo, v_zip16_lo(words, zero));
            hi = v_add32(hi, v_zip16_hi(words, zero));
        }
    }
    v_store(out, lo);
    v_store(out + 4, hi);
}

V_FN static void window_sum(const bb_window *w, int32_t *out) {
    const size_t n = (size_t)w->channels;
    size_t c = 0;
    for (; c + 8 <= n; c += 8)
        w_sum8(w, c, out + c);
    if (c < n) {
        const bb_window rest = w_rest(w, c);
        bb_window_ref.sum(&rest, out + c);
    }
}

const bb_window_kernels NARROW_WINDOW = {NARROW_NAME, window_max, window_sum};
