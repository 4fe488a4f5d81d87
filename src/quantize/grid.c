/* SPDX-License-Identifier: Apache-2.0 */
#include "quantize/grid.h"
#include <float.h>
#include <math.h>

/* The exponent of BRECQ and LAPQ for activations: outliers weigh a little more than squared. */
static const float ERROR_POWER = 2.4f;
enum { CANDIDATES = 100 };

static int32_t levels_max(uint32_t bits) {
    return (int32_t)((1u << bits) - 1);
}

uint32_t bb_grid_code(const bb_grid *grid, float x) {
    int32_t top = levels_max(grid->bits);
    double u = floor((x / (double)grid->step + grid->a0 + top) * 0.5 + 0.5);
    if (!(u > 0.0))
        return 0;
    return u < top ? (uint32_t)u : (uint32_t)top;
}

float bb_grid_real(const bb_grid *grid, uint32_t u) {
    return grid->step * (float)(2 * (int32_t)u - levels_max(grid->bits) - grid->a0);
}

float bb_grid_min(const bb_grid *grid) {
    return bb_grid_real(grid, 0);
}

float bb_grid_max(const bb_grid *grid) {
    return bb_grid_real(grid, (uint32_t)levels_max(grid->bits));
}

/** Non-empty bins of a histogram, as centres and counts. */
typedef struct samples {
    size_t n;
    float x[2 * BB_HISTOGRAM_BINS];
    double count[2 * BB_HISTOGRAM_BINS];
} samples;

static void collect(const bb_histogram *h, samples *s) {
    s->n = 0;
    for (size_t side = 0; side < 2; side++) {
        const uint64_t *bins = side ? h->negative : h->positive;
        for (size_t i = 0; i < BB_HISTOGRAM_BINS; i++) {
            if (!bins[i])
                continue;
            float centre = ldexpf((float)i + 0.5f, h->exponent);
            s->x[s->n] = side ? -centre : centre;
            s->count[s->n++] = (double)bins[i];
        }
    }
}

/** Error of codes 0..top with spacing `cell` and real 0 at code `zero`. Zeros cost nothing. */
static double grid_error(const samples *s, float cell, int32_t zero, int32_t top) {
    double sum = 0.0;
    float per_cell = 1.0f / cell;
    for (size_t i = 0; i < s->n; i++) {
        float u = floorf(s->x[i] * per_cell + 0.5f);
        u = fminf(fmaxf(u, (float)-zero), (float)(top - zero));
        sum += s->count[i] * powf(fabsf(s->x[i] - u * cell), ERROR_POWER);
    }
    return sum;
}

typedef struct candidate {
    double error;
    float cell;
    int32_t zero;
} candidate;

/** Largest cell whose codes stay within lo..hi when real 0 is at `zero`. */
static float widest_cell(int32_t zero, int32_t top, float lo, float hi) {
    float cell = FLT_MAX;
    if (zero > 0)
        cell = fminf(cell, -lo / (float)zero);
    if (zero < top)
        cell = fminf(cell, hi / (float)(top - zero));
    return cell;
}

static candidate try_cell(const samples *s, float cell, int32_t zero, int32_t top, float lo,
                          float hi) {
    candidate c = {DBL_MAX, fminf(cell, widest_cell(zero, top, lo, hi)), zero};
    if (c.cell > 0.0f)
        c.error = grid_error(s, c.cell, zero, top);
    return c;
}

/** Walks `zero` from a good guess to the nearest minimum for this cell. */
static candidate descend_zero(const samples *s, float cell, int32_t zero, int32_t top, float lo,
                              float hi) {
    candidate best = try_cell(s, cell, zero, top, lo, hi);
    for (int32_t way = -1; way <= 1; way += 2) {
        for (int32_t z = zero + way; z >= 0 && z <= top; z += way) {
            candidate c = try_cell(s, cell, z, top, lo, hi);
            if (c.error >= best.error)
                break;
            best = c;
        }
    }
    return best;
}

static candidate search(const samples *s, const bb_histogram *h, int32_t top, float lo, float hi) {
    float range = h->max - h->min;
    bool is_signed = h->min < 0.0f;
    int32_t zero = is_signed ? (int32_t)floorf(-h->min / range * (float)top + 0.5f) : 0;
    candidate best = {DBL_MAX, range / (float)top, zero};
    float step = 1.0f / CANDIDATES;
    /* Downwards from no clipping; the best zero moves slowly with the cell. Then a finer pass. */
    for (int pass = 0; pass < 2; pass++) {
        float centre = pass ? best.cell / range * (float)top : 0.525f;
        float half = pass ? step : 0.5f;
        int n = pass ? 8 : CANDIDATES;
        for (int i = 0; i <= n; i++) {
            float f = centre + half - 2.0f * half * (float)i / (float)n;
            if (f <= 0.0f)
                continue;
            float cell = f * range / (float)top;
            candidate c = is_signed ? descend_zero(s, cell, zero, top, lo, hi)
                                    : try_cell(s, cell, 0, top, lo, hi);
            zero = is_signed && c.error < DBL_MAX ? c.zero : zero;
            if (c.error < best.error)
                best = c;
        }
        zero = best.zero;
    }
    return best;
}

bb_grid bb_grid_search(const bb_histogram *h, uint32_t bits, float lo, float hi) {
    int32_t top = levels_max(bits);
    bb_grid grid = {bits, 0.5f / (float)top, -top};
    if (!(h->max - h->min > FLT_MIN * 4096.0f))
        return grid; /* nothing but zeros: any grid with 0 in it */
    samples s;
    collect(h, &s);
    candidate best = search(&s, h, top, lo, hi);
    grid.step = best.cell * 0.5f;
    grid.a0 = 2 * best.zero - top;
    return grid;
}
