/* SPDX-License-Identifier: Apache-2.0 */
/** @file conv_ssse3.c  SSSE3 and SSE4.1: the narrow look-up, and products as the AVX2 kernels do
 *  them (exactness is argued there). */
#include "cpu/cpu.h"

#if BB_ARCH_X86_64

#define NARROW_KERNEL(kind) bb_conv_##kind##_ssse3
#define NARROW_NAME(kind) "conv_" kind "_ssse3"
#define NARROW_CPU BB_CPU_SSSE3
#define NARROW_PIXELS 2
#include "kernels/narrow/conv_narrow.h"

/* ---- byte products, as in conv_int8_avx2.c --------------------------------------------------- */

enum {
    N_LANES = 16, /**< channels of an integer block: 4 vectors of 4 channels */
    CHUNK_MIN = 4 /**< shorter schedules lose to 16-bit products */
};

static int32_t narrow_exact_steps(const bb_conv_desc *desc) {
    const int32_t top = (1 << desc->activation_bits) - 1;
    const int32_t weight = desc->max_weight > 0 ? desc->max_weight : 1;

    return weight > 127 ? 0 : 32767 / (2 * top * weight);
}

static bool narrow_int8_supports(const bb_conv_desc *desc) {
    return narrow_exact_steps(desc) >= CHUNK_MIN;
}

/** Steps begin..end-1 of a segment added to 16-bit sums. */
V_FN static inline void narrow_int8_steps(const uint8_t *const *ptr, const uint8_t *w,
                                          int32_t begin, int32_t end, narrow_sums *s) {
    w += (ptrdiff_t)begin * N_STEP;
    for (int32_t i = begin; i < end; i++, w += N_STEP)
        for (int p = 0; p < NARROW_PIXELS; p++) {
            const vec u = v_dup32(ptr[p] + (ptrdiff_t)i * 4);

            s->v[p][0] = v_add_pairs(s->v[p][0], u, v_load(w));
            s->v[p][1] = v_add_pairs(s->v[p][1], u, v_load(w + 16));
            s->v[p][2] = v_add_pairs(s->v[p][2], u, v_load(w + 32));
            s->v[p][3] = v_add_pairs(s->v[p][3], u, v_load(w + 48));
        }
}

V_FN static void narrow_int8_block(const bb_tile_job *job) {
    const bb_conv_route *route = job->route;
    narrow_sums total;

    narrow_clear(&total);
    for (int32_t seg = 0; seg < route->segments; seg++) {
        const uint8_t *w = job->weights + (ptrdiff_t)seg * route->steps * N_STEP;

        for (int32_t i = 0; i < route->steps; i += route->schedule) {
            const int32_t left = route->steps - i;
            narrow_sums s;

            narrow_clear(&s);
            narrow_int8_steps(job->ptr + (ptrdiff_t)seg * NARROW_PIXELS, w, i,
                              i + (left < route->schedule ? left : route->schedule), &s);
            for (int p = 0; p < NARROW_PIXELS; p++)
                for (int v = 0; v < 4; v++)
                    total.v[p][v] = v_add32(total.v[p][v], v_widen(s.v[p][v]));
        }
    }
    for (int p = 0; p < NARROW_PIXELS; p++)
        for (int v = 0; v < 4; v++)
            v_store(job->acc + p * BB_TILE_STRIDE + v * 4, total.v[p][v]);
}

static void narrow_copy(const bb_conv_desc *desc, const uint8_t *codes, int32_t n, uint8_t *dst,
                        size_t part_bytes, int32_t *sums) {
    (void)part_bytes, (void)sums;
    memcpy(dst, codes, (size_t)n * (size_t)desc->in_channels);
}

static bb_conv_route narrow_int8_route(const bb_conv_desc *desc) {
    bb_conv_route route = {
        .pixels = NARROW_PIXELS,
        .block_channels = N_LANES,
        .group_bytes = (size_t)(desc->in_channels / desc->groups),
        .in_place = true,
        .transform = narrow_copy,
        .block = narrow_int8_block,
        .schedule = narrow_exact_steps(desc),
    };

    bb_route_segments(desc, &route);
    route.steps = (bb_segment_length(desc) + 3) / 4;
    route.block_bytes = (size_t)route.segments * (size_t)route.steps * N_STEP;
    return route;
}

static double narrow_int8_cost(const bb_conv_desc *desc) {
    const bb_conv_route route = narrow_int8_route(desc);

    return narrow_cost(desc, &route, 4.3 * NARROW_PIXELS + 8.0 / route.schedule);
}

static void narrow_int8_put(const bb_conv_route *route, uint8_t *block, int32_t lane,
                            int32_t segment, const int16_t *weights, int32_t n) {
    uint8_t *dst = block + (size_t)segment * (size_t)route->steps * N_STEP + (size_t)lane * 4;

    for (int32_t i = 0; i < n; i++)
        dst[(size_t)(i / 4) * N_STEP + (size_t)(i % 4)] = (uint8_t)weights[i];
}

/* ---- 16-bit products ------------------------------------------------------------------- */

static bool narrow_int16_supports(const bb_conv_desc *desc) {
    return desc->max_weight <= 32767;
}

V_FN static void narrow_int16_block(const bb_tile_job *job) {
    const bb_conv_route *route = job->route;
    const uint8_t *w = job->weights;
    narrow_sums s;

    narrow_clear(&s);
    for (int32_t seg = 0; seg < route->segments; seg++) {
        const uint8_t *const *ptr = job->ptr + (ptrdiff_t)seg * NARROW_PIXELS;

        for (int32_t i = 0; i < route->steps; i++, w += N_STEP)
            for (int p = 0; p < NARROW_PIXELS; p++) {
                const vec u = v_dup32(ptr[p] + (ptrdiff_t)i * 4);

                for (int v = 0; v < 4; v++)
                    s.v[p][v] = v_add32(s.v[p][v], v_pairs16(u, v_load(w + v * 16)));
            }
    }
    for (int p = 0; p < NARROW_PIXELS; p++)
        for (int v = 0; v < 4; v++)
            v_store(job->acc + p * BB_TILE_STRIDE + v * 4, s.v[p][v]);
}

static void narrow_widen_row(const bb_conv_desc *desc, const uint8_t *codes, int32_t n,
                             uint8_t *dst, size_t part_bytes, int32_t *sums) {
    const size_t total = (size_t)n * (size_t)desc->in_channels;
    uint16_t *out = (void *)dst;

    (void)part_bytes, (void)sums;
    for (size_t i = 0; i < total; i++)
        out[i] = codes[i];
}

static bb_conv_route narrow_int16_route(const bb_conv_desc *desc) {
    bb_conv_route route = {
        .pixels = NARROW_PIXELS,
        .block_channels = N_LANES,
        .group_bytes = 2 * (size_t)(desc->in_channels / desc->groups),
        .transform = narrow_widen_row,
        .block = narrow_int16_block,
    };

    bb_route_segments(desc, &route);
    route.steps = (bb_segment_length(desc) + 1) / 2;
    route.block_bytes = (size_t)route.segments * (size_t)route.steps * N_STEP;
    return route;
}

static double narrow_int16_cost(const bb_conv_desc *desc) {
    const bb_conv_route route = narrow_int16_route(desc);

    return narrow_cost(desc, &route, 2.6 * NARROW_PIXELS);
}

static void narrow_int16_put(const bb_conv_route *route, uint8_t *block, int32_t lane,
                             int32_t segment, const int16_t *weights, int32_t n) {
    int16_t *dst = (void *)(block + (size_t)segment * (size_t)route->steps * N_STEP);

    for (int32_t i = 0; i < n; i++)
        dst[(size_t)(i / 2) * (N_STEP / 2) + (size_t)lane * 2 + (size_t)(i % 2)] = weights[i];
}

/* ---- depthwise ------------------------------------------------------------------------- */

static bool narrow_depthwise_supports(const bb_conv_desc *desc) {
    return desc->groups > 1 && desc->groups == desc->in_channels &&
           desc->groups == desc->out_channels && desc->max_weight <= 32767;
}

/** 16 channels of one pixel, taps in pairs as 16-bit products. */
V_FN static void narrow_depthwise_pixel(const bb_tile_job *job, const uint8_t *const *ptr,
                                        int32_t *acc) {
    const int32_t taps = job->route->segments;
    const vec zero = v_set32(0);
    const uint8_t *w = job->weights;
    vec s0 = zero, s1 = zero, s2 = zero, s3 = zero;

    for (int32_t t = 0; t < taps; t += 2, w += 64) {
        const vec a = v_load(ptr[t * NARROW_PIXELS] + job->channel);
        const vec b = v_load(ptr[(t + 1 < taps ? t + 1 : t) * NARROW_PIXELS] + job->channel);
        const vec lo = v_zip8_lo(a, b), hi = v_zip8_hi(a, b);

        s0 = v_add32(s0, v_pairs16(v_zip8_lo(lo, zero), v_load(w)));
        s1 = v_add32(s1, v_pairs16(v_zip8_hi(lo, zero), v_load(w + 16)));
        s2 = v_add32(s2, v_pairs16(v_zip8_lo(hi, zero), v_load(w + 32)));
        s3 = v_add32(s3, v_pairs16(v_zip8_hi(hi, zero), v_load(w + 48)));
    }
    v_store(acc, s0);
    v_store(acc + 4, s1);
    v_store(acc + 8, s2);
    v_store(acc + 12, s3);
}

static void narrow_depthwise_block(const bb_tile_job *job) {
    for (int32_t p = 0; p < job->n_pixels; p++)
        narrow_depthwise_pixel(job, job->ptr + p, job->acc + (ptrdiff_t)p * BB_TILE_STRIDE);
}

static bb_conv_route narrow_depthwise_route(const bb_conv_desc *desc) {
    bb_conv_route route = {
        .pixels = NARROW_PIXELS,
        .block_channels = N_LANES,
        .group_bytes = (size_t)desc->in_channels,
        .depthwise = true,
        .in_place = true,
        .transform = narrow_copy,
        .block = narrow_depthwise_block,
    };

    bb_route_segments(desc, &route);
    route.steps = (route.segments + 1) / 2;
    route.block_bytes = (size_t)route.steps * N_STEP;
    return route;
}

static double narrow_depthwise_cost(const bb_conv_desc *desc) {
    const bb_conv_route route = narrow_depthwise_route(desc);

    return (double)desc->out_height * desc->out_width * ((desc->out_channels + 15) / 16) *
           (route.steps * 7.0 + 10);
}

static void narrow_depthwise_put(const bb_conv_route *route, uint8_t *block, int32_t lane,
                                 int32_t segment, const int16_t *weights, int32_t n) {
    (void)route, (void)n;
    ((int16_t *)(void *)block)[(segment / 2 * N_LANES + lane) * 2 + segment % 2] = weights[0];
}

NARROW_DEFINE(int8)
NARROW_DEFINE(int16)
NARROW_DEFINE(depthwise)

#endif
