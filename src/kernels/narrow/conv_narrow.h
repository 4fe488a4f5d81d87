/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file conv_narrow.h
 * The look-up kernel on 128-bit vectors, designed as the AVX2 one (exactness is argued there), and
 * what it shares with other 128-bit kernels. Multiplications differ too much between instruction
 * sets. Included once by each set, after
 *     NARROW_KERNEL(kind)  the symbol of a bb_conv_kernel
 *     NARROW_NAME(kind)    its name
 *     NARROW_CPU           flags it needs
 *     NARROW_PIXELS        pixels of a tile, as the register file allows
 */
#include "kernels/narrow/vec128.h"
#include "kernels/registry.h"
#include "kernels/walk.h"

enum {
    N_STEP = 64, /**< packed bytes of a step */
    N_ROWS = 64  /**< virtual rows of a look-up block: 4 vectors */
};

/** Sums of 4 x NARROW_PIXELS vectors. */
typedef struct narrow_sums {
    vec v[NARROW_PIXELS][4];
} narrow_sums;

static inline void narrow_clear(narrow_sums *s) {
    memset(s, 0, sizeof(*s));
}

static int32_t narrow_pixel_sum(const uint8_t *codes, int32_t n) {
    int32_t sum = 0; /* n * 255 < 2^31 for n < 2^23 */

    for (int32_t i = 0; i < n; i++)
        sum += codes[i];
    return sum;
}

static void narrow_sum_pixels(const bb_conv_desc *desc, const uint8_t *codes, int32_t n,
                              int32_t *sums) {
    const int32_t depth = desc->in_channels / desc->groups;

    for (int32_t i = 0; i < n * desc->groups; i++)
        sums[i] = narrow_pixel_sum(codes + (ptrdiff_t)i * depth, depth);
}

/** Per-block cost in steps of 4 vectors x NARROW_PIXELS; `step` cycles each. */
static double narrow_cost(const bb_conv_desc *desc, const bb_conv_route *route, double step) {
    const double pixels = (double)desc->out_height * desc->out_width;
    const double tiles = (double)(int64_t)((pixels + NARROW_PIXELS - 1) / NARROW_PIXELS);
    const int32_t channels =
        route->depthwise ? desc->out_channels : desc->out_channels / desc->groups;
    const double blocks = (double)(route->depthwise ? 1 : desc->groups) *
                          ((channels + route->block_channels - 1) / route->block_channels);

    return tiles * blocks * (route->segments * (double)route->steps * step + 80);
}

/* ---- look-up --------------------------------------------------------------------------- */

/** Kernel scratch: 16-bit sums, channels i and i+8 of a vector as S and H. */
typedef struct narrow_work {
    uint16_t low[NARROW_PIXELS][4][8], high[NARROW_PIXELS][4][8];
} narrow_work;

static bool narrow_lut_supports(const bb_conv_desc *desc) {
    return desc->native && desc->weight_bits <= 4 &&
           (desc->weight_bits == 1 || desc->activation_bits <= 4);
}

/** Groups begin..end-1 of a segment added to byte sums. */
V_FN static inline void narrow_lut_groups(const uint8_t *const *ptr, ptrdiff_t base,
                                          const uint8_t *w, int32_t n, narrow_sums *s) {
    for (int32_t i = 0; i < n; i++, w += N_STEP, base += 16)
        for (int p = 0; p < NARROW_PIXELS; p++) {
            const vec table = v_load(ptr[p] + base);

            s->v[p][0] = v_add_look(s->v[p][0], table, v_load(w));
            s->v[p][1] = v_add_look(s->v[p][1], table, v_load(w + 16));
            s->v[p][2] = v_add_look(s->v[p][2], table, v_load(w + 32));
            s->v[p][3] = v_add_look(s->v[p][3], table, v_load(w + 48));
        }
}

/** S += bytes as 16-bit lanes, H += their high bytes. */
V_FN static inline void narrow_lut_fold(const narrow_sums *s, narrow_work *w) {
    for (int p = 0; p < NARROW_PIXELS; p++)
        for (int v = 0; v < 4; v++) {
            v_store(w->low[p][v], v_add16(v_load(w->low[p][v]), s->v[p][v]));
            v_store(w->high[p][v], v_add16(v_load(w->high[p][v]), v_high8(s->v[p][v])));
        }
}

/** acc[0..7] += eight unsigned 16-bit sums << shift. */
V_FN static inline void narrow_lut_add(int32_t *acc, vec sums, int32_t shift) {
    const vec zero = v_set32(0);

    v_store(acc, v_add32(v_load(acc), v_shl32(v_zip16_lo(sums, zero), shift)));
    v_store(acc + 4, v_add32(v_load(acc + 4), v_shl32(v_zip16_hi(sums, zero), shift)));
}

V_FN static void narrow_lut_flush(const bb_tile_job *job, int32_t shift) {
    narrow_work *w = job->work;

    for (int p = 0; p < NARROW_PIXELS; p++)
        for (int v = 0; v < 4; v++) {
            const vec high = v_load(w->high[p][v]);
            const vec low = v_sub16(v_load(w->low[p][v]), v_up8(high));
            int32_t *acc = job->acc + p * BB_TILE_STRIDE + v * 16;

            narrow_lut_add(acc, low, shift);
            narrow_lut_add(acc + 8, high, shift);
        }
    memset(w, 0, sizeof(*w));
}

/** One plane and part over the whole window, flushed before 16-bit sums can pass 65535. */
V_FN static void narrow_lut_pass(const bb_tile_job *job, const uint8_t *w, ptrdiff_t base,
                                 int32_t shift) {
    const bb_conv_route *route = job->route;
    const int32_t exact = 65535 / (4 * route->top);
    int32_t filled = 0;

    for (int32_t seg = 0; seg < route->segments; seg++)
        for (int32_t i = 0; i < route->steps; i += route->schedule) {
            const int32_t left = route->steps - i;
            const int32_t n = left < route->schedule ? left : route->schedule;
            narrow_sums s;

            if (filled + n > exact) {
                narrow_lut_flush(job, shift);
                filled = 0;
            }
            narrow_clear(&s);
            narrow_lut_groups(job->ptr + (ptrdiff_t)seg * NARROW_PIXELS, base + (ptrdiff_t)i * 16,
                              w, n, &s);
            narrow_lut_fold(&s, job->work);
            filled += n;
            w += (ptrdiff_t)n * N_STEP;
        }
    narrow_lut_flush(job, shift);
}

V_FN static void narrow_lut_block(const bb_tile_job *job) {
    const bb_conv_route *route = job->route;
    const size_t plane_bytes = route->block_bytes / (size_t)route->planes;

    memset(job->work, 0, sizeof(narrow_work));
    for (int p = 0; p < NARROW_PIXELS; p++) {
        const vec start = v_set32(p < job->n_pixels ? -route->extra * job->sums[p] : 0);

        for (int c = 0; c < N_ROWS; c += 4)
            v_store(job->acc + p * BB_TILE_STRIDE + c, start);
    }
    for (int32_t k = 0; k < route->planes; k++)
        for (int32_t part = 0; part < route->parts; part++)
            narrow_lut_pass(job, job->weights + (size_t)k * plane_bytes,
                            (ptrdiff_t)part * (ptrdiff_t)job->part_bytes, 1 + k + 4 * part);
}

/** Tables of 16 codes in four groups. Codes past the depth only matter to indices never used. */
V_FN static inline void narrow_tables(vec codes, uint8_t *dst) {
    static const uint8_t even[16] = {128, 0, 128, 0, 128, 2, 128, 2,
                                     128, 4, 128, 4, 128, 6, 128, 6};
    static const uint8_t odd[16] = {128, 128, 1, 1, 128, 128, 3, 3, 128, 128, 5, 5, 128, 128, 7, 7};
    static const uint8_t low[16] = {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3};
    static const uint8_t high[16] = {4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7};
    const vec eight = v_set8(8);

    for (int half = 0; half < 2; half++, dst += 32) {
        /* Adding 8 moves to the upper codes; 128 + 8 still selects zero. */
        const vec shift = v_set8((int8_t)(half * 8));
        const vec pairs = v_add8(v_look(codes, v_add8(v_load(even), shift)),
                                 v_look(codes, v_add8(v_load(odd), shift)));

        v_store(dst, v_add8(v_look(pairs, v_load(low)), v_look(pairs, v_load(high))));
        v_store(dst + 16, v_add8(v_look(pairs, v_add8(v_load(low), eight)),
                                 v_look(pairs, v_add8(v_load(high), eight))));
    }
}

V_FN static void narrow_lut_transform(const bb_conv_desc *desc, const uint8_t *codes, int32_t n,
                                      uint8_t *dst, size_t part_bytes, int32_t *sums) {
    const int32_t depth = desc->in_channels / desc->groups;

    narrow_sum_pixels(desc, codes, n, sums);
    for (int32_t i = 0; i < n * desc->groups; i++, codes += depth) {
        for (int32_t d = 0; d < depth; d += 16) {
            const vec u = v_load(codes + d);

            narrow_tables(v_and(u, v_set8(15)), dst + (ptrdiff_t)d * 4);
            if (desc->activation_bits > 4)
                narrow_tables(v_nibble_high(u), dst + part_bytes + (ptrdiff_t)d * 4);
        }
        dst += (ptrdiff_t)(depth + 3) / 4 * 16;
    }
}

static bb_conv_route narrow_lut_route(const bb_conv_desc *desc) {
    static const uint8_t exact[5] = {0, 63, 21, 9, 4};
    const int32_t bits = desc->activation_bits < 4 ? (int32_t)desc->activation_bits : 4;
    const int32_t depth = desc->in_channels / desc->groups;
    bb_conv_route route = {
        .pixels = NARROW_PIXELS,
        .block_channels = N_ROWS,
        .group_bytes = (size_t)((depth + 3) / 4) * 16,
        .work_bytes = sizeof(narrow_work),
        .wants_sums = true,
        .parts = desc->activation_bits > 4 ? 2 : 1,
        .transform = narrow_lut_transform,
        .block = narrow_lut_block,
        .depth = depth,
        .schedule = exact[bits],
        .planes = (int32_t)desc->weight_bits,
        .top = (1 << bits) - 1,
        .extra = (1 << desc->weight_bits) - 1,
    };

    bb_route_segments(desc, &route);
    route.steps = (int32_t)(route.segment_bytes / 16);
    route.block_bytes =
        (size_t)route.segments * (size_t)route.steps * N_STEP * (size_t)route.planes;
    return route;
}

static double narrow_lut_cost(const bb_conv_desc *desc) {
    const bb_conv_route route = narrow_lut_route(desc);
    const double input = (double)desc->in_height * desc->in_width * desc->in_channels;
    const double chunks = (double)((route.steps + route.schedule - 1) / route.schedule);
    const double step = 4.2 * NARROW_PIXELS + 7 * NARROW_PIXELS * chunks / route.steps;

    return narrow_cost(desc, &route, step * route.planes * route.parts) + 1.2 * route.parts * input;
}

static void narrow_lut_put(const bb_conv_route *route, uint8_t *dst, int32_t lane, int32_t segment,
                           const int16_t *weights, int32_t n) {
    const size_t plane_bytes = (size_t)route->segments * (size_t)route->steps * N_STEP;
    const int32_t tap_groups = (int32_t)(route->group_bytes / 16);
    const int32_t row = lane / 16 * 16 + lane % 8 * 2 + lane % 16 / 8;

    dst += (size_t)segment * (size_t)route->steps * N_STEP + (size_t)row;
    for (int32_t i = 0; i < n; i++) {
        const int32_t d = i % route->depth;
        const size_t group = (size_t)(i / route->depth * tap_groups + d / 4);
        const int32_t v = (weights[i] + route->extra) / 2;

        for (int32_t k = 0; k < route->planes; k++)
            dst[(size_t)k * plane_bytes + group * N_STEP] |= (uint8_t)((v >> k & 1) << (d % 4));
    }
}

/** The functions and the table entry of one kind. */
#define NARROW_DEFINE(kind)                                                                        \
    static size_t narrow_##kind##_packed_size(const bb_conv_desc *desc) {                          \
        const bb_conv_route route = narrow_##kind##_route(desc);                                   \
                                                                                                   \
        return bb_walk_packed_size(desc, &route);                                                  \
    }                                                                                              \
    static void narrow_##kind##_pack(const bb_conv_desc *desc, const int16_t *weights,             \
                                     void *dst) {                                                  \
        const bb_conv_route route = narrow_##kind##_route(desc);                                   \
                                                                                                   \
        bb_walk_pack(desc, &route, weights, dst, narrow_##kind##_put);                             \
    }                                                                                              \
    static size_t narrow_##kind##_scratch_size(const bb_conv_desc *desc) {                         \
        const bb_conv_route route = narrow_##kind##_route(desc);                                   \
                                                                                                   \
        return bb_walk_scratch_size(desc, &route);                                                 \
    }                                                                                              \
    static void narrow_##kind##_run(const bb_conv_desc *desc, const void *packed,                  \
                                    const uint8_t *in, int32_t y0, int32_t y1, void *scratch,      \
                                    bb_tile_fn tile, void *user) {                                 \
        const bb_conv_route route = narrow_##kind##_route(desc);                                   \
                                                                                                   \
        bb_walk_run(desc, &route, packed, in, y0, y1, scratch, tile, user);                        \
    }                                                                                              \
    const bb_conv_kernel NARROW_KERNEL(kind) = {.name = NARROW_NAME(#kind),                        \
                                                .cpu = NARROW_CPU,                                 \
                                                .supports = narrow_##kind##_supports,              \
                                                .cost = narrow_##kind##_cost,                      \
                                                .packed_size = narrow_##kind##_packed_size,        \
                                                .pack = narrow_##kind##_pack,                      \
                                                .scratch_size = narrow_##kind##_scratch_size,      \
                                                .run = narrow_##kind##_run};

NARROW_DEFINE(lut)
