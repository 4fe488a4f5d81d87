/* SPDX-License-Identifier: Apache-2.0 */
/* More images out of few: parts of them, moved, stretched and mirrored. */
#include "quantize/quantizer.h"
#include <math.h>
#include <string.h>

/* Of images with sides of so many pixels a part is stretched to the whole size: at least this part
 * of the area, at most so far from its proportions. */
enum { LARGE_SIDE = 96 };
static const double LEAST_AREA = 0.3, LEAST_ASPECT = 0.75;
/* Objects of smaller ones fill them: they move by at most this part of their size. */
static const double SHIFT = 1.0 / 16;

/** Where the samples along one axis lie, in pixels. */
typedef struct stretch {
    double first, step;
} stretch;

/** Neighbours of sample i and the weight of the second. */
static float neighbours(const stretch *s, int64_t i, int64_t n, int64_t at[2]) {
    double x = s->first + (double)i * s->step, whole = floor(x);
    for (int k = 0; k < 2; k++) {
        at[k] = (int64_t)whole + k;
        at[k] = at[k] < 0 ? 0 : at[k] >= n ? n - 1 : at[k];
    }
    return (float)(x - whole);
}

/** Bilinear samples of one plane. */
static void stretch_plane(const float *from, float *to, int64_t height, int64_t width,
                          const stretch *along_y, const stretch *along_x) {
    for (int64_t y = 0; y < height; y++) {
        int64_t row[2], column[2];
        float v = neighbours(along_y, y, height, row);
        const float *a = from + row[0] * width, *b = from + row[1] * width;
        for (int64_t x = 0; x < width; x++) {
            float u = neighbours(along_x, x, width, column);
            float top = a[column[0]] + u * (a[column[1]] - a[column[0]]);
            float bottom = b[column[0]] + u * (b[column[1]] - b[column[0]]);
            *to++ = top + v * (bottom - top);
        }
    }
}

/** A stretch of `share` of the axis somewhere on it; pixels lie at half-integer positions. */
static stretch random_stretch(bb_rng *rng, int64_t n, double share) {
    double first = bb_rng_uniform(rng) * (1.0 - share) * (double)n;
    return (stretch){first + 0.5 * share - 0.5, share};
}

/** Moved by whole pixels. */
static stretch random_shift(bb_rng *rng, int64_t n) {
    uint64_t reach = (uint64_t)((double)n * SHIFT);
    return (stretch){(double)bb_rng_below(rng, 2 * reach + 1) - (double)reach, 1.0};
}

static void choose(bb_rng *rng, int64_t height, int64_t width, stretch *y, stretch *x) {
    if (height < LARGE_SIDE || width < LARGE_SIDE) {
        *y = random_shift(rng, height);
        *x = random_shift(rng, width);
    } else {
        double side = sqrt(LEAST_AREA + (1.0 - LEAST_AREA) * bb_rng_uniform(rng));
        double aspect =
            sqrt(LEAST_ASPECT + (1.0 / LEAST_ASPECT - LEAST_ASPECT) * bb_rng_uniform(rng));
        *y = random_stretch(rng, height, fmin(side * aspect, 1.0));
        *x = random_stretch(rng, width, fmin(side / aspect, 1.0));
    }
    if (bb_rng_below(rng, 2) == 1)
        *x = (stretch){x->first + x->step * (double)(width - 1), -x->step};
}

void bb_quantize_move_image(const bb_quantization *q, const float *from, bb_rng *rng, float *to) {
    const bb_value *in = &q->graph->values[q->graph->inputs[0]];
    if (in->rank != 4) {
        memcpy(to, from, bb_quantize_elements(q, q->graph->inputs[0]) * sizeof *to);
        return;
    }
    int64_t height = in->dims[2], width = in->dims[3], plane = height * width;
    stretch y, x;
    choose(rng, height, width, &y, &x);
    for (int64_t c = 0; c < in->dims[1]; c++)
        stretch_plane(from + c * plane, to + c * plane, height, width, &y, &x);
}
