/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/window.h"

static uint16_t load(const bb_window *w, int32_t row, int32_t column, int32_t c) {
    size_t i = (size_t)row * w->row_stride + (size_t)column * w->pixel_stride + (size_t)c;
    return w->type == BB_ELEMENT_U8 ? ((const uint8_t *)w->first)[i]
                                    : ((const uint16_t *)w->first)[i];
}

static uint16_t largest(const bb_max_job *job, size_t at) {
    uint16_t best = 0;
    for (size_t k = 0; k < job->n; k++) {
        const uint16_t code = job->type == BB_ELEMENT_U8 ? ((const uint8_t *)job->in[k])[at]
                                                         : ((const uint16_t *)job->in[k])[at];
        best = code > best ? code : best;
    }
    return best;
}

void bb_max_rest(const bb_max_job *job, size_t done) {
    for (size_t t = 0; t < job->count; t++)
        for (size_t i = done; i < job->elements; i++) {
            const uint16_t best = largest(job, t * job->in_step + i);
            if (job->type == BB_ELEMENT_U8)
                ((uint8_t *)job->out)[t * job->out_step + i] = (uint8_t)best;
            else
                ((uint16_t *)job->out)[t * job->out_step + i] = best;
        }
}

static void max_of(const bb_max_job *job) {
    bb_max_rest(job, 0);
}

static void window_sum(const bb_window *w, int32_t *out) {
    for (int32_t c = 0; c < w->channels; c++) {
        int32_t sum = 0;
        for (int32_t y = 0; y < w->rows; y++)
            for (int32_t x = 0; x < w->columns; x++)
                sum += load(w, y, x, c);
        out[c] = sum;
    }
}

const bb_window_kernels bb_window_ref = {"window_ref", max_of, window_sum};
