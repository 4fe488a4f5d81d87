/* SPDX-License-Identifier: Apache-2.0 */
#include "vision/resize.h"
#include "vision/image.h"
#include <math.h>

/* ---- bilinear: position and weights as exact fractions of 2*out ------------------------------ */

typedef struct tap {
    size_t low, high; /* neighbours */
    uint32_t weight;  /* of `high`, in units of 1/(2*out) */
} tap;

static void place_taps(size_t in, size_t out, tap *taps) {
    for (size_t i = 0; i < out; i++) {
        /* (i+0.5)*in/out - 0.5 = position / (2*out); sides are below 2^16, so it fits easily. */
        int64_t position = (int64_t)((2 * i + 1) * in) - (int64_t)out;
        int64_t last = (int64_t)(2 * out * (in - 1));
        position = position < 0 ? 0 : position > last ? last : position;
        size_t low = (size_t)position / (2 * out);
        taps[i] =
            (tap){low, low + 1 < in ? low + 1 : low, (uint32_t)((size_t)position % (2 * out))};
    }
}

static void bilinear_row(const bb_image *in, const tap *ty, const tap *tx, uint64_t unit_y,
                         const bb_image *out, uint8_t *to) {
    size_t channels = (size_t)in->channels, stride = (size_t)in->width * channels;
    uint64_t unit_x = 2 * (uint64_t)out->width, unit = unit_x * unit_y;
    const uint8_t *top = in->pixels + ty->low * stride, *bottom = in->pixels + ty->high * stride;
    for (size_t x = 0; x < (size_t)out->width; x++) {
        uint64_t high = tx[x].weight, low = unit_x - high;
        const size_t a = tx[x].low * channels, b = tx[x].high * channels;
        for (size_t c = 0; c < channels; c++) {
            /* At most 255 * (2*65535)^2 < 2^43. */
            uint64_t sum = (top[a + c] * low + top[b + c] * high) * (unit_y - ty->weight) +
                           (bottom[a + c] * low + bottom[b + c] * high) * ty->weight;
            *to++ = (uint8_t)((2 * sum + unit) / (2 * unit));
        }
    }
}

static bb_status bilinear(const bb_image *in, bb_image *out, bb_error *err) {
    size_t width = (size_t)out->width, height = (size_t)out->height;
    tap *taps = bb_alloc_array(width + height, sizeof(*taps));
    if (!taps)
        return bb_fail_memory(err, "resizing");
    tap *tx = taps, *ty = taps + width;
    place_taps((size_t)in->width, width, tx);
    place_taps((size_t)in->height, height, ty);
    for (size_t y = 0; y < height; y++)
        bilinear_row(in, &ty[y], tx, 2 * (uint64_t)height, out,
                     out->pixels + y * width * (size_t)in->channels);
    bb_free(taps);
    return BB_STATUS_OK;
}

/* ---- antialias: a weighted run of pixels per output, one axis after the other ---------------- */

enum { FRACTION_BITS = 22 };

typedef struct window {
    size_t first, count;
    const int32_t *weights; /* sum close to 2^22 */
} window;

typedef struct windows {
    window *at;
    int32_t *weights;
    double *scratch;
} windows;

static void windows_free(windows *w) {
    bb_free(w->at);
    bb_free(w->weights);
    bb_free(w->scratch);
}

/* Weights of output i: the triangle at each pixel centre, normalised, then rounded. */
static void place_window(size_t in, double scale, double support, size_t i, double *scratch,
                         int32_t *weights, window *result) {
    double center = ((double)i + 0.5) * scale, sum = 0;
    double first = floor(center - support + 0.5), end = floor(center + support + 0.5);
    size_t low = first > 0 ? (size_t)first : 0;
    size_t count = (end < (double)in ? (size_t)end : in) - low;
    for (size_t k = 0; k < count; k++) {
        double distance = fabs(((double)(k + low) - center + 0.5) * (1 / support));
        scratch[k] = distance < 1 ? 1 - distance : 0;
        sum += scratch[k];
    }
    for (size_t k = 0; k < count; k++)
        weights[k] = (int32_t)(0.5 + scratch[k] / sum * (1 << FRACTION_BITS));
    *result = (window){low, count, weights};
}

static bb_status place_windows(size_t in, size_t out, windows *w, bb_error *err) {
    double scale = (double)in / (double)out, support = scale > 1 ? scale : 1;
    size_t most = 2 * (size_t)ceil(support) + 1;
    *w = (windows){bb_alloc_array(out, sizeof(*w->at)),
                   bb_alloc_array(out, most * sizeof(*w->weights)),
                   bb_alloc_array(most, sizeof(*w->scratch))};
    if (!w->at || !w->weights || !w->scratch) {
        windows_free(w);
        return bb_fail_memory(err, "resizing");
    }
    for (size_t i = 0; i < out; i++)
        place_window(in, scale, support, i, w->scratch, w->weights + i * most, &w->at[i]);
    return BB_STATUS_OK;
}

/* One output value; the weights are positive and sum to 2^22 + at most their number (2^17), so the
 * sum stays below 255 * 2^23 < 2^31. */
static uint8_t weigh(const uint8_t *from, size_t step, const window *w) {
    uint32_t sum = 1u << (FRACTION_BITS - 1);
    for (size_t k = 0; k < w->count; k++)
        sum += (uint32_t)from[k * step] * (uint32_t)w->weights[k];
    uint32_t value = sum >> FRACTION_BITS;
    return (uint8_t)(value > 255 ? 255 : value);
}

static void shrink_horizontally(const bb_image *in, const windows *w, bb_image *out) {
    size_t channels = (size_t)in->channels;
    uint8_t *to = out->pixels;
    for (size_t y = 0; y < (size_t)in->height; y++) {
        const uint8_t *row = in->pixels + y * (size_t)in->width * channels;
        for (size_t x = 0; x < (size_t)out->width; x++)
            for (size_t c = 0; c < channels; c++)
                *to++ = weigh(row + w->at[x].first * channels + c, channels, &w->at[x]);
    }
}

static void shrink_vertically(const bb_image *in, const windows *w, bb_image *out) {
    size_t stride = (size_t)in->width * (size_t)in->channels;
    uint8_t *to = out->pixels;
    for (size_t y = 0; y < (size_t)out->height; y++)
        for (size_t i = 0; i < stride; i++)
            *to++ = weigh(in->pixels + w->at[y].first * stride + i, stride, &w->at[y]);
}

/* Width first, rounded to 8 bits in between, as Pillow does. */
static bb_status antialias(const bb_image *in, bb_image *out, bb_error *err) {
    windows horizontal, vertical;
    BB_TRY(place_windows((size_t)in->width, (size_t)out->width, &horizontal, err));
    bb_status status = place_windows((size_t)in->height, (size_t)out->height, &vertical, err);
    bb_image middle = {0};
    if (status == BB_STATUS_OK) {
        status = bb_image_create("resized image", (size_t)out->width, (size_t)in->height,
                                 in->channels, &middle, err);
        if (status == BB_STATUS_OK) {
            shrink_horizontally(in, &horizontal, &middle);
            shrink_vertically(&middle, &vertical, out);
        }
        windows_free(&vertical);
    }
    bb_image_free(&middle);
    windows_free(&horizontal);
    return status;
}

bb_status bb_image_resize(const bb_image *in, size_t width, size_t height, bb_filter filter,
                          bb_image *out, bb_error *err) {
    BB_TRY(bb_image_create("resized image", width, height, in->channels, out, err));
    bb_status status =
        filter == BB_FILTER_BILINEAR ? bilinear(in, out, err) : antialias(in, out, err);
    if (status != BB_STATUS_OK)
        bb_image_free(out);
    return status;
}
