/* SPDX-License-Identifier: Apache-2.0 */
/* Activations of the simulated network, kept as codes: a quarter of float's memory or less. */
#include "quantize/grid.h"
#include "quantize/quantizer.h"
#include <string.h>

static const bb_value_quant *quant_of(const bb_quantization *q, size_t profile, int value) {
    return &q->profiles[profile].values[value];
}

static size_t code_bytes(const bb_grid *grid) {
    return grid->bits > 8 ? 2 : 1;
}

bb_status bb_store_create(bb_quantization *q, size_t profile, int value, bb_error *err) {
    bb_stored *s = bb_quantize_stored(q, profile, value);
    const bb_value_quant *v = quant_of(q, profile, value);
    size_t n;
    bool ok = bb_size_mul(bb_quantize_elements(q, value), q->images, &n);
    s->n = v->n;
    for (int g = 0; ok && g < v->n; g++)
        ok = (s->codes[g] = bb_alloc_array(n, code_bytes(&v->grids[g]))) != NULL;
    if (ok && v->n == 0)
        ok = (s->real = bb_alloc_array(n, sizeof(float))) != NULL;
    if (ok)
        return BB_STATUS_OK;
    bb_store_free(q, profile, value);
    return bb_fail_memory(err, "activations of the calibration images");
}

void bb_store_free(bb_quantization *q, size_t profile, int value) {
    bb_stored *s = bb_quantize_stored(q, profile, value);
    for (int g = 0; g < BB_MAX_GRIDS; g++)
        bb_free(s->codes[g]);
    bb_free(s->real);
    memset(s, 0, sizeof *s);
}

void bb_store_read_codes(const bb_quantization *q, size_t profile, int value, int grid,
                         size_t image, float *u) {
    const bb_stored *s = bb_quantize_stored(q, profile, value);
    size_t n = bb_quantize_elements(q, value);
    if (s->real) {
        memcpy(u, s->real + image * n, n * sizeof *u);
    } else if (code_bytes(&quant_of(q, profile, value)->grids[grid]) == 1) {
        const uint8_t *codes = (const uint8_t *)s->codes[grid] + image * n;
        for (size_t i = 0; i < n; i++)
            u[i] = codes[i];
    } else {
        const uint16_t *codes = (const uint16_t *)s->codes[grid] + image * n;
        for (size_t i = 0; i < n; i++)
            u[i] = codes[i];
    }
}

void bb_store_write_codes(const bb_quantization *q, size_t profile, int value, int grid,
                          size_t image, const float *u) {
    const bb_stored *s = bb_quantize_stored(q, profile, value);
    size_t n = bb_quantize_elements(q, value);
    if (s->real) {
        memcpy(s->real + image * n, u, n * sizeof *u);
    } else if (code_bytes(&quant_of(q, profile, value)->grids[grid]) == 1) {
        uint8_t *codes = (uint8_t *)s->codes[grid] + image * n;
        for (size_t i = 0; i < n; i++)
            codes[i] = (uint8_t)u[i];
    } else {
        uint16_t *codes = (uint16_t *)s->codes[grid] + image * n;
        for (size_t i = 0; i < n; i++)
            codes[i] = (uint16_t)u[i];
    }
}

/** Pixels to what the float network takes: (u*scale - mean)/std. */
static void normalise(const bb_quantization *q, int value, float *x) {
    const bb_quantize_options *o = q->options;
    const bb_value *v = &q->graph->values[value];
    size_t pixels = bb_quantize_elements(q, value) / (size_t)v->dims[1];
    for (size_t c = 0; c < (size_t)v->dims[1]; c++)
        for (size_t i = 0; i < pixels; i++, x++)
            *x = (*x * o->pixel_scale - o->mean[c % 4]) / o->std[c % 4];
}

void bb_store_read(const bb_quantization *q, size_t profile, int value, int grid, size_t image,
                   float *x) {
    bb_store_read_codes(q, profile, value, grid, image, x);
    if (bb_quantize_stored(q, profile, value)->real)
        return;
    if (bb_quantize_is_pixels(q, value)) {
        normalise(q, value, x);
        return;
    }
    const bb_grid *g = &quant_of(q, profile, value)->grids[grid];
    size_t n = bb_quantize_elements(q, value);
    float cell = 2.0f * g->step, low = bb_grid_min(g);
    for (size_t i = 0; i < n; i++)
        x[i] = x[i] * cell + low;
}

static void round_to_grid(const bb_grid *g, const float *x, size_t n, void *codes) {
    /* As bb_grid_code, in float: a tie may go the other way, as it may in the requantizer. */
    int32_t top = (1 << g->bits) - 1;
    float per = 0.5f / g->step, half = ((float)(g->a0 + top) + 1.0f) * 0.5f, hi = (float)top;
    for (size_t i = 0; i < n; i++) {
        float u = x[i] * per + half;
        u = u > 0.0f ? u : 0.0f;
        u = u < hi ? u : hi;
        if (code_bytes(g) == 1)
            ((uint8_t *)codes)[i] = (uint8_t)(int32_t)u;
        else
            ((uint16_t *)codes)[i] = (uint16_t)(int32_t)u;
    }
}

void bb_store_write(const bb_quantization *q, size_t profile, int value, size_t image,
                    const float *x) {
    const bb_stored *s = bb_quantize_stored(q, profile, value);
    const bb_value_quant *v = quant_of(q, profile, value);
    size_t n = bb_quantize_elements(q, value);
    if (s->real)
        memcpy(s->real + image * n, x, n * sizeof *x);
    for (int g = 0; g < s->n; g++)
        round_to_grid(&v->grids[g], x, n,
                      (uint8_t *)s->codes[g] + image * n * code_bytes(&v->grids[g]));
}
