/* SPDX-License-Identifier: Apache-2.0 */
/* The numbers of every profile: grids, requantizers, convolution constants. */
#include "encode/encode.h"
#include "lower/float_internal.h"
#include <math.h>
#include <string.h>

/* What a block's node computes before its activation, in real numbers:
 * x = (r1[c]*Z1 + r2*Z2)/n + r0[c]. */
typedef struct real_map {
    uint32_t channels;
    double *r1, *r0; /* [channels] */
    double r2;
    int64_t *max_z1; /* [channels] */
    int64_t max_z2, n_max;
    bool second;
} real_map;

static int64_t last_code(uint32_t bits) {
    return (INT64_C(1) << bits) - 1;
}

/* max |a - a0| */
static int64_t level_bound(const bb_grid *grid) {
    return last_code(grid->bits) + (grid->a0 < 0 ? -(int64_t)grid->a0 : grid->a0);
}

static const bb_grid *input_grid(const bb_profile_quant *profile, const bb_block_plan *plan,
                                 size_t b, int i) {
    const bb_block *block = &plan->blocks[b];
    return &profile->values[block->in[i]].grids[profile->blocks[b].in_grid[i]];
}

static bb_status alloc_map(bb_lowering *l, uint32_t channels, real_map *map) {
    map->channels = channels;
    map->n_max = 1;
    map->r1 = bb_arena_array(l->graph->arena, channels, sizeof(*map->r1));
    map->r0 = bb_arena_array(l->graph->arena, channels, sizeof(*map->r0));
    map->max_z1 = bb_arena_array(l->graph->arena, channels, sizeof(*map->max_z1));
    return map->r1 && map->r0 && map->max_z1 ? BB_STATUS_OK
                                             : bb_fail_memory(l->err, "requantizers");
}

/* ---- convolutions --------------------------------------------------------------------------- */

int32_t bb_block_level(const bb_block_codes *codes, uint32_t used, size_t i) {
    int32_t v = codes->codes[i], b = 0;
    if (!codes->plane_weight)
        return 2 * (v >> (codes->planes - used)) - (int32_t)last_code(used);
    for (uint32_t p = 0; p < codes->planes; p++)
        b += v >> (codes->planes - 1 - p) & 1 ? codes->plane_weight[p] : -codes->plane_weight[p];
    return b;
}

/* Sum of |b| of a row with the first `used` planes: at most 2^24 * 8 * 2^15. */
static int64_t row_weight(const bb_block_codes *codes, uint32_t used, uint32_t row) {
    size_t n = (size_t)codes->taps * codes->depth;
    int64_t sum = 0;
    for (size_t i = 0; i < n; i++) {
        int64_t b = bb_block_level(codes, used, row * n + i);
        sum += b < 0 ? -b : b;
    }
    return sum;
}

static bb_status fill_tap_add(bb_lowering *l, size_t b, const bb_block_quant *q, double step,
                              bb_conv_params *conv) {
    const bb_block_codes *codes = &l->codes[b];
    size_t n = (size_t)codes->taps * codes->rows;
    int32_t *add = bb_arena_array(l->model->arena, n, sizeof(*add));
    if (!add)
        return bb_fail_memory(l->err, "tap constants");
    for (size_t i = 0; i < n; i++) {
        double scale = step * (double)q->weight_scale[i % codes->rows];
        double e = scale != 0 ? floor((double)q->tap_bias[i] / scale + 0.5) : 0;
        if (!(fabs(e) < 0x1p30))
            return bb_fail(l->err, BB_STATUS_LIMIT, "%s: node '%s': a tap constant is too large",
                           l->graph->name, l->graph->nodes[l->plan->blocks[b].node].name);
        add[i] = (int32_t)e;
    }
    conv->tap_add = add;
    return BB_STATUS_OK;
}

static bb_status fill_conv(bb_lowering *l, size_t p, size_t b, bb_conv_params *conv) {
    const bb_block_quant *q = &l->profiles[p].blocks[b];
    uint32_t rows = l->codes[b].rows;
    float *scale = bb_arena_array(l->model->arena, rows, sizeof(*scale));
    if (!scale)
        return bb_fail_memory(l->err, "weight scales");
    memcpy(scale, q->weight_scale, rows * sizeof(*scale));
    conv->planes = q->planes;
    conv->weight_scale = scale;
    if (!q->tap_bias)
        return BB_STATUS_OK;
    return fill_tap_add(l, b, q, (double)input_grid(&l->profiles[p], l->plan, b, 0)->step, conv);
}

/* Sum of |e| of a row. */
static int64_t row_taps(const bb_conv_params *conv, const bb_block_codes *codes, uint32_t row) {
    int64_t sum = 0;
    for (uint32_t t = 0; conv->tap_add && t < codes->taps; t++) {
        int64_t e = conv->tap_add[(size_t)t * codes->rows + row];
        sum += e < 0 ? -e : e;
    }
    return sum;
}

static bb_status conv_map(bb_lowering *l, size_t p, size_t b, const bb_conv_params *conv,
                          real_map *map) {
    const bb_profile_quant *profile = &l->profiles[p];
    const bb_block_quant *q = &profile->blocks[b];
    const bb_block_codes *codes = &l->codes[b];
    const bb_grid *in = input_grid(profile, l->plan, b, 0);
    if (q->planes < 1 || q->planes > codes->planes || !q->weight_scale)
        return bb_fail(l->err, BB_STATUS_INVALID_ARGUMENT, "%s: node '%s': %u of %u planes",
                       l->graph->name, l->graph->nodes[l->plan->blocks[b].node].name, q->planes,
                       codes->planes);
    BB_TRY(alloc_map(l, codes->rows, map));
    for (uint32_t r = 0; r < codes->rows; r++) {
        map->r1[r] = (double)in->step * (double)q->weight_scale[r];
        map->r0[r] = q->bias ? (double)q->bias[r] : 0;
        map->max_z1[r] =
            row_weight(codes, q->planes, r) * level_bound(in) + row_taps(conv, codes, r);
    }
    return BB_STATUS_OK;
}

/* ---- other blocks --------------------------------------------------------------------------- */

static int64_t pooled_positions(const bb_lowering *l, const bb_block *block) {
    const bb_node *node = &l->graph->nodes[block->node];
    const bb_value *in = &l->graph->values[block->in[0]];
    bb_geometry g;
    if (node->op == BB_OP_AVERAGE_POOL && bb_lower_window(l->graph, node, &g, NULL) == BB_STATUS_OK)
        return (int64_t)g.kernel[0] * g.kernel[1];
    return in->dims[2] > 0 && in->dims[3] > 0 ? in->dims[2] * in->dims[3] : 4096;
}

static bb_status block_map(bb_lowering *l, size_t p, size_t b, const bb_conv_params *conv,
                           real_map *map) {
    const bb_block *block = &l->plan->blocks[b];
    const bb_profile_quant *profile = &l->profiles[p];
    const bb_grid *first = input_grid(profile, l->plan, b, 0);
    uint32_t channels = block->scale ? (uint32_t)l->graph->values[block->output].dims[1] : 1;
    if (block->activation.n_slopes > 1)
        channels = (uint32_t)block->activation.n_slopes;
    *map = (real_map){.second = false};
    if (block->kind == BB_BLOCK_CONV)
        BB_TRY(conv_map(l, p, b, conv, map));
    else
        BB_TRY(alloc_map(l, channels, map));
    if (block->kind == BB_BLOCK_AVERAGE_POOL)
        map->n_max = pooled_positions(l, block);
    for (uint32_t c = 0; c < map->channels && block->kind != BB_BLOCK_CONV; c++) {
        map->r1[c] = (double)first->step * (block->scale ? (double)block->scale[c] : 1.0);
        map->r0[c] = block->shift ? (double)block->shift[c] : 0.0;
        map->max_z1[c] = level_bound(first) * map->n_max;
    }
    if (block->n_in < 2)
        return BB_STATUS_OK;
    const bb_grid *second = input_grid(profile, l->plan, b, 1);
    if (block->kind == BB_BLOCK_MUL) {
        map->r1[0] *= (double)second->step;
        map->max_z1[0] *= level_bound(second);
        return BB_STATUS_OK;
    }
    map->second = true;
    map->r2 = (double)second->step;
    map->max_z2 = level_bound(second);
    return BB_STATUS_OK;
}

/* ---- requantizers --------------------------------------------------------------------------- */

typedef struct linear_arrays {
    int32_t *mult, *mult2, *neg_mult, *neg_mult2;
    int64_t *add, *neg_add, *off;
    uint8_t *shift;
} linear_arrays;

static bb_status alloc_linear(bb_lowering *l, uint32_t n, bool second, bool slopes,
                              linear_arrays *a) {
    bb_arena *arena = l->model->arena;
    *a = (linear_arrays){
        .mult = bb_arena_array(arena, n, sizeof(*a->mult)),
        .mult2 = second ? bb_arena_array(arena, n, sizeof(*a->mult2)) : NULL,
        .add = bb_arena_array(arena, n, sizeof(*a->add)),
        .shift = bb_arena_array(arena, n, sizeof(*a->shift)),
        .neg_mult = slopes ? bb_arena_array(arena, n, sizeof(*a->neg_mult)) : NULL,
        .neg_mult2 = slopes && second ? bb_arena_array(arena, n, sizeof(*a->neg_mult2)) : NULL,
        .neg_add = slopes ? bb_arena_array(arena, n, sizeof(*a->neg_add)) : NULL,
        .off = slopes ? bb_arena_array(arena, n, sizeof(*a->off)) : NULL,
    };
    bool ok = a->mult && a->add && a->shift && (!second || a->mult2) &&
              (!slopes || (a->neg_mult && a->neg_add && a->off && (!second || a->neg_mult2)));
    return ok ? BB_STATUS_OK : bb_fail_memory(l->err, "requantizers");
}

static void store_linear(const linear_arrays *a, uint32_t c, const bb_linear *linear) {
    a->mult[c] = linear->mult;
    a->add[c] = linear->add;
    a->shift[c] = linear->shift;
    if (a->mult2)
        a->mult2[c] = linear->mult2;
    if (!a->neg_mult)
        return;
    a->neg_mult[c] = linear->neg_mult;
    a->neg_add[c] = linear->neg_add;
    a->off[c] = linear->off;
    if (a->neg_mult2)
        a->neg_mult2[c] = linear->neg_mult2;
}

/* The affine map to codes (or table indices) of `bits` bits: code = x*gain + zero, rounded; with
 * slopes, slope[c]*x where x < 0. */
typedef struct code_map {
    double gain, shift, zero; /* (x - shift)*gain + zero */
    uint32_t bits;
    const float *slopes;
    size_t n_slopes;
} code_map;

static bb_status build_linear(bb_lowering *l, const bb_block *block, const real_map *map,
                              const code_map *to, bb_requant *r) {
    linear_arrays a;
    BB_TRY(alloc_linear(l, map->channels, map->second, to->slopes != NULL, &a));
    for (uint32_t c = 0; c < map->channels; c++) {
        bb_linear_spec spec = {
            .m1 = map->r1[c] * to->gain,
            .m2 = map->second ? map->r2 * to->gain : 0,
            .offset = (map->r0[c] - to->shift) * to->gain,
            .zero = to->zero,
            .slopes = to->slopes != NULL,
            .slope = to->slopes ? (double)to->slopes[to->n_slopes == 1 ? 0 : c] : 0,
            .max_z1 = map->max_z1[c],
            .max_z2 = map->max_z2,
            .n_max = map->n_max,
            .bits = to->bits,
        };
        bb_linear linear;
        if (!bb_linear_from_real(&spec, &linear))
            return bb_fail(l->err, BB_STATUS_LIMIT,
                           "%s: node '%s', channel %u: no integer requantizer fits its scales",
                           l->graph->name, l->graph->nodes[block->node].name, c);
        store_linear(&a, c, &linear);
    }
    *r = (bb_requant){.kind = BB_REQUANT_LINEAR,
                      .channels = map->channels,
                      .mult = a.mult,
                      .mult2 = a.mult2,
                      .add = a.add,
                      .shift = a.shift,
                      .neg_mult = a.neg_mult,
                      .neg_mult2 = a.neg_mult2,
                      .neg_add = a.neg_add,
                      .off = a.off};
    return BB_STATUS_OK;
}

static double apply_activation(const bb_activation *act, double x) {
    if (act->kind == BB_ACTIVATION_CLIP)
        return fmin(fmax(x, (double)act->lo), (double)act->hi);
    return act->function(x, act->alpha, act->beta);
}

/* Code of a real value: floor(x + 0.5) in units of the grid. */
static uint16_t grid_code(const bb_grid *grid, double x) {
    double last = (double)last_code(grid->bits);
    double u = floor(x / (2 * (double)grid->step) + (last + grid->a0) / 2 + 0.5);
    return (uint16_t)(u > 0 ? fmin(u, last) : 0);
}

enum { SCAN_STEPS = 1 << 15 };

/* Outside [lo, hi] the code no longer changes, as far as a scan over twice the reach of the grid
 * (and of any activation's curved part) shows. */
static void varying_range(const bb_activation *act, const bb_grid *grid, double *lo, double *hi) {
    double last = (double)last_code(grid->bits), step = (double)grid->step;
    double reach = 64 + 2 * step * (last + fabs((double)grid->a0));
    double cell = 2 * reach / SCAN_STEPS;
    int first = 0, end = SCAN_STEPS;
    uint16_t left = grid_code(grid, apply_activation(act, -reach));
    uint16_t right = grid_code(grid, apply_activation(act, reach));
    while (first < end && grid_code(grid, apply_activation(act, -reach + first * cell)) == left)
        first++;
    while (end > first && grid_code(grid, apply_activation(act, -reach + end * cell)) == right)
        end--;
    *lo = -reach + (first - 1) * cell;
    *hi = -reach + (end + 1) * cell;
}

/* LINEAR to 4096 cells of the pre-activation, each cell coded by its centre. */
static bb_status build_indexed(bb_lowering *l, const bb_block *block, const real_map *map,
                               const bb_grid *grid, bb_requant *r) {
    double lo, hi;
    varying_range(&block->activation, grid, &lo, &hi);
    uint32_t n = 1u << BB_MAX_INDEX_BITS;
    double cell = (hi - lo) / n;
    code_map to = {.gain = 1 / cell, .shift = lo, .zero = -0.5, .bits = BB_MAX_INDEX_BITS};
    BB_TRY(build_linear(l, block, map, &to, r));
    uint16_t *table = bb_arena_array(l->model->arena, n, sizeof(*table));
    if (!table)
        return bb_fail_memory(l->err, "an activation table");
    for (uint32_t i = 0; i < n; i++)
        table[i] = grid_code(grid, apply_activation(&block->activation, lo + (i + 0.5) * cell));
    r->kind = BB_REQUANT_INDEXED;
    r->index_bits = BB_MAX_INDEX_BITS;
    r->table = table;
    return BB_STATUS_OK;
}

static bb_status build_float(bb_lowering *l, const real_map *map, bb_requant *r) {
    bb_arena *arena = l->model->arena;
    float *scale = bb_arena_array(arena, map->channels, sizeof(*scale));
    float *bias = bb_arena_array(arena, map->channels, sizeof(*bias));
    float *scale2 = map->second ? bb_arena_array(arena, map->channels, sizeof(*scale2)) : NULL;
    if (!scale || !bias || (map->second && !scale2))
        return bb_fail_memory(l->err, "requantizers");
    for (uint32_t c = 0; c < map->channels; c++) {
        scale[c] = (float)map->r1[c];
        bias[c] = (float)map->r0[c];
        if (scale2)
            scale2[c] = (float)map->r2;
    }
    *r = (bb_requant){.kind = BB_REQUANT_FLOAT,
                      .channels = map->channels,
                      .scale = scale,
                      .scale2 = scale2,
                      .bias = bias};
    return BB_STATUS_OK;
}

/* Clamping codes to 0..L does the clip's work where its bounds are not inside the grid. */
static bool grid_clips(const bb_activation *act, const bb_grid *grid) {
    return grid_code(grid, (double)act->lo) == 0 &&
           grid_code(grid, (double)act->hi) == last_code(grid->bits);
}

static bb_status build_codes(bb_lowering *l, const bb_block *block, const real_map *map,
                             const bb_grid *grid, bb_requant *r) {
    static const float no_slope = 0;
    const bb_activation *act = &block->activation;
    code_map to = {.gain = 1 / (2 * (double)grid->step),
                   .zero = ((double)last_code(grid->bits) + grid->a0) / 2,
                   .bits = grid->bits,
                   .slopes = act->kind == BB_ACTIVATION_LEAKY ? act->slopes : NULL,
                   .n_slopes = act->n_slopes};
    if (act->kind == BB_ACTIVATION_TABLE)
        return build_indexed(l, block, map, grid, r);
    if (act->kind != BB_ACTIVATION_CLIP || grid_clips(act, grid))
        return build_linear(l, block, map, &to, r);
    if (act->lo == 0 && grid_code(grid, (double)act->hi) == last_code(grid->bits)) {
        to.slopes = &no_slope; /* a ReLU on a grid that also has negative values */
        to.n_slopes = 1;
        return build_linear(l, block, map, &to, r);
    }
    return build_indexed(l, block, map, grid, r);
}

/* ---- profiles ------------------------------------------------------------------------------- */

static bb_status fill_tensor(bb_lowering *l, size_t p, const real_map *maps, size_t tensor,
                             bb_tensor_params *out) {
    const bb_tensor_source *s = &l->sources[tensor];
    const bb_value_quant *value = &l->profiles[p].values[s->value];
    if (s->grid >= 0) {
        const bb_grid *grid = &value->grids[s->grid];
        out->bits = grid->bits;
        out->step = grid->step;
        out->a0 = grid->a0;
        if (s->kind == BB_SOURCE_BLOCK)
            return build_codes(l, &l->plan->blocks[s->block], &maps[s->block], grid, &out->requant);
        return BB_STATUS_OK;
    }
    if (s->kind == BB_SOURCE_BLOCK)
        return build_float(l, &maps[s->block], &out->requant);
    if (s->kind == BB_SOURCE_COPY)
        return BB_STATUS_OK;
    double r1 = (double)value->grids[s->from_grid].step, r0 = 0;
    real_map map = {.channels = 1, .r1 = &r1, .r0 = &r0};
    return build_float(l, &map, &out->requant);
}

static bool computes(bb_block_kind kind) {
    return kind == BB_BLOCK_CONV || kind == BB_BLOCK_ADD || kind == BB_BLOCK_MUL ||
           kind == BB_BLOCK_ACTIVATION || kind == BB_BLOCK_AVERAGE_POOL;
}

static bb_status fill_profile(bb_lowering *l, size_t p, bb_profile *profile) {
    real_map *maps = bb_arena_array(l->graph->arena, l->plan->n + 1, sizeof(*maps));
    int *conv_of = bb_arena_array(l->graph->arena, l->plan->n + 1, sizeof(*conv_of));
    if (!maps || !conv_of)
        return bb_fail_memory(l->err, "a profile");
    for (size_t i = 0; i < l->model->n_nodes; i++)
        if (l->node_block[i] >= 0) {
            BB_TRY(fill_conv(l, p, (size_t)l->node_block[i], &profile->convs[i]));
            conv_of[l->node_block[i]] = (int)i;
        }
    for (size_t b = 0; b < l->plan->n; b++) {
        const bb_value_tensors *v = &l->values[l->plan->blocks[b].output];
        if (computes(l->plan->blocks[b].kind) && (v->need || v->need_float))
            BB_TRY(block_map(l, p, b, &profile->convs[conv_of[b]], &maps[b]));
    }
    for (size_t t = 0; t < l->model->n_tensors; t++)
        BB_TRY(fill_tensor(l, p, maps, t, &profile->tensors[t]));
    return BB_STATUS_OK;
}

bb_status bb_lower_fill_profiles(bb_lowering *l) {
    for (size_t p = 0; p < l->n_profiles; p++)
        if (!bb_model_add_profile(l->model, l->profiles[p].bits.weight,
                                  l->profiles[p].bits.activation))
            return bb_fail_memory(l->err, "profiles");
    for (size_t p = 0; p < l->n_profiles; p++)
        BB_TRY(fill_profile(l, p, &l->model->profiles[p]));
    return BB_STATUS_OK;
}
