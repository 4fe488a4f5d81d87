/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/window.h"

static uint16_t load(const bb_window *w, int32_t row, int32_t column, int32_t c) {
    size_t i = (size_t)row * w->row_stride + (size_t)column * w->pixel_stride + (size_t)c;
    return w->type == BB_ELEMENT_U8 ? ((const uint8_t *)w->first)[i]
                                    : ((const uint16_t *)w->first)[i];
}

static void window_max(const bb_window *w, void *out) {
    for (int32_t c = 0; c < w->channels; c++) {
        uint16_t best = 0;
        for (int32_t y = 0; y < w->rows; y++)
            for (int32_t x = 0; x < w->columns; x++)
                if (load(w, y, x, c) > best)
                    best = load(w, y, x, c);
        if (w->type == BB_ELEMENT_U8)
            ((uint8_t *)out)[c] = (uint8_t)best;
        else
            ((uint16_t *)out)[c] = best;
    }
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

const bb_window_kernels bb_window_ref = {"window_ref", window_max, window_sum};
