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

/* The channels from `done` on, by the reference. */
static bb_window w_rest(const bb_window *w, size_t done) {
    bb_window rest = *w;
    rest.first = w_row(w, 0, done);
    rest.channels = w->channels - (int32_t)done;
    return rest;
}

V_FN static void w_max_bytes(const bb_max_job *job, size_t from, size_t to, size_t bytes) {
    const uint8_t *const *in = (const uint8_t *const *)job->in;
    const bool words = job->type == BB_ELEMENT_U16;
    uint8_t *out = (uint8_t *)job->out + to;
    size_t i = 0;
    for (; i + 16 <= bytes; i += 16) {
        vec best = v_load(in[0] + from + i);
        for (size_t k = 1; k < job->n; k++) {
            const vec next = v_load(in[k] + from + i);
            best = words ? v_max16(best, next) : v_max8(best, next);
        }
        v_store(out + i, best);
    }
    for (; i + 8 <= bytes; i += 8) {
        vec best = v_load64(in[0] + from + i);
        for (size_t k = 1; k < job->n; k++) {
            const vec next = v_load64(in[k] + from + i);
            best = words ? v_max16(best, next) : v_max8(best, next);
        }
        v_store64(out + i, best);
    }
}

/* Pieces of 8 bytes; what is left of each item goes to the reference. */
V_FN static void max_of(const bb_max_job *job) {
    const size_t element = bb_element_size(job->type), bytes = job->elements * element;
    for (size_t t = 0; t < job->count; t++)
        w_max_bytes(job, t * job->in_step * element, t * job->out_step * element, bytes);
    bb_max_rest(job, bytes / 8 * 8 / element);
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

const bb_window_kernels NARROW_WINDOW = {NARROW_NAME, max_of, window_sum};
