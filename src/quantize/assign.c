/* SPDX-License-Identifier: Apache-2.0 */
/* Decisions that need no data: bits of every layer, which copies of every value are kept. */
#include "quantize/quantizer.h"
#include <float.h>
#include <math.h>
#include <string.h>

/* Codes of a product: |Z1| < 2^31 (model.h) holds for 2 x 8 bits only. */
enum { MUL_BITS = 8, INPUT_BITS = 8 };

bool bb_quantize_passes_codes(const bb_block *block) {
    switch (block->kind) {
    case BB_BLOCK_MAX_POOL:
    case BB_BLOCK_CONCAT:
    case BB_BLOCK_CHANNELS:
    case BB_BLOCK_RESHAPE:
    case BB_BLOCK_RESIZE:
        return true;
    default:
        return false;
    }
}

size_t bb_quantize_elements(const bb_quantization *q, int value) {
    const bb_value *v = &q->graph->values[value];
    size_t n = 0;
    if (v->rank < 1 || !bb_dims_product(v->dims + 1, (size_t)v->rank - 1, &n))
        return 0;
    return n;
}

/* ---- bits ------------------------------------------------------------------------------------ */

bool bb_name_matches(const char *pattern, const char *name) {
    for (; *pattern; pattern++, name++) {
        if (*pattern == '*') {
            do {
                if (bb_name_matches(pattern + 1, name))
                    return true;
            } while (*name++);
            return false;
        }
        if (*pattern != *name)
            return false;
    }
    return *name == '\0';
}

static bb_status check_bits(bb_bits bits, const char *what, bb_error *err) {
    if (bits.weight >= 1 && bits.weight <= 8 && bits.activation >= 1 && bits.activation <= 8)
        return BB_STATUS_OK;
    return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "%s: w%ua%u is not between w1a1 and w8a8", what,
                   (unsigned)bits.weight, (unsigned)bits.activation);
}

static bb_status check_options(const bb_quantization *q, bb_error *err) {
    const bb_quantize_options *o = q->options;
    for (size_t i = 0; i < o->n_profiles; i++) {
        BB_TRY(check_bits(o->profiles[i], "profile", err));
        for (size_t k = 0; k < i; k++)
            if (memcmp(&o->profiles[i], &o->profiles[k], sizeof(bb_bits)) == 0)
                return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "profile w%ua%u is there twice",
                               (unsigned)o->profiles[i].weight,
                               (unsigned)o->profiles[i].activation);
    }
    for (size_t i = 0; i < o->n_layers; i++)
        BB_TRY(check_bits(o->layers[i].bits, o->layers[i].layer, err));
    BB_TRY(check_bits(o->first_last, "first and last layer", err));
    if (o->residual_bits < 8 || o->residual_bits > 16)
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "residual bits must be 8 to 16, not %u",
                       (unsigned)o->residual_bits);
    return BB_STATUS_OK;
}

/** edge[b]: CONV block with no CONV between it and the graph's inputs, or its outputs. */
static bb_status find_edges(const bb_quantization *q, bool *edge, bb_error *err) {
    size_t n_values = q->graph->n_values;
    bool *reached = bb_calloc_array(n_values, 2 * sizeof *reached);
    if (!reached)
        return bb_fail_memory(err, "layer marks");
    bool *wanted = reached + n_values;
    for (size_t i = 0; i < q->graph->n_inputs; i++)
        reached[q->graph->inputs[i]] = true;
    for (size_t i = 0; i < q->graph->n_outputs; i++)
        wanted[q->graph->outputs[i]] = true;
    for (size_t b = 0; b < q->plan.n; b++) {
        const bb_block *block = &q->plan.blocks[b];
        edge[b] = block->kind == BB_BLOCK_CONV && reached[block->in[0]];
        for (int i = 0; i < block->n_in && block->kind != BB_BLOCK_CONV; i++)
            reached[block->output] |= reached[block->in[i]];
    }
    for (size_t b = q->plan.n; b-- > 0;) {
        const bb_block *block = &q->plan.blocks[b];
        edge[b] |= block->kind == BB_BLOCK_CONV && wanted[block->output];
        for (int i = 0; i < block->n_in && block->kind != BB_BLOCK_CONV; i++)
            wanted[block->in[i]] |= wanted[block->output];
    }
    bb_free(reached);
    return BB_STATUS_OK;
}

static void assign_bits(bb_quantization *q, const bool *edge, bool *used) {
    const bb_quantize_options *o = q->options;
    for (size_t b = 0; b < q->plan.n; b++) {
        const bb_block *block = &q->plan.blocks[b];
        if (block->kind != BB_BLOCK_CONV)
            continue;
        const char *name = q->graph->nodes[block->node].name;
        bb_bits *bits = q->bits + b * q->n_profiles;
        for (size_t p = 0; p < q->n_profiles; p++)
            bits[p] = edge[b] ? o->first_last : o->profiles[p];
        for (size_t i = 0; i < o->n_layers; i++) {
            if (!bb_name_matches(o->layers[i].layer, name))
                continue;
            used[i] = true;
            for (size_t p = 0; p < q->n_profiles; p++)
                bits[p] = o->layers[i].bits;
        }
    }
}

static bb_status check_overrides(const bb_quantization *q, const bool *used, bb_error *err) {
    for (size_t i = 0; i < q->options->n_layers; i++)
        if (!used[i])
            return bb_fail(err, BB_STATUS_NOT_FOUND, "no quantized layer is named '%s'",
                           q->options->layers[i].layer);
    return BB_STATUS_OK;
}

/** Plans the blocks; with first_last_float a second time, without the edges. */
static bb_status plan_blocks(bb_quantization *q, bb_error *err) {
    BB_TRY(bb_lower_plan(q->graph, NULL, &q->plan, err));
    bool *edge = bb_arena_array(q->arena, q->plan.n + 1, sizeof *edge);
    bool *used = bb_arena_array(q->arena, q->options->n_layers + 1, sizeof *used);
    bool *float_nodes = bb_arena_array(q->arena, q->graph->n_nodes + 1, sizeof *float_nodes);
    if (!edge || !used || !float_nodes)
        return bb_fail_memory(err, "layer marks");
    BB_TRY(find_edges(q, edge, err));
    if (q->options->first_last_float) {
        for (size_t b = 0; b < q->plan.n; b++)
            if (edge[b])
                float_nodes[q->plan.blocks[b].node] = true;
        BB_TRY(bb_lower_plan(q->graph, float_nodes, &q->plan, err));
        edge = bb_arena_array(q->arena, q->plan.n + 1, sizeof *edge);
    }
    q->bits = bb_arena_array(q->arena, q->plan.n * q->n_profiles + 1, sizeof *q->bits);
    if (!edge || !q->bits)
        return bb_fail_memory(err, "layer bits");
    assign_bits(q, edge, used);
    return check_overrides(q, used, err);
}

/* ---- classes of values ----------------------------------------------------------------------- */

static int find_root(int *parent, int v) {
    while (parent[v] != v)
        v = parent[v] = parent[parent[v]];
    return v;
}

static void join_values(const bb_quantization *q, int *parent) {
    for (size_t b = 0; b < q->plan.n; b++) {
        const bb_block *block = &q->plan.blocks[b];
        for (int i = 0; i < block->n_in && bb_quantize_passes_codes(block); i++)
            parent[find_root(parent, block->in[i])] = find_root(parent, block->output);
    }
}

/** Numbers the classes of graph inputs and block outputs in order of appearance. */
static void number_classes(bb_quantization *q, int *parent, int *number) {
    for (size_t v = 0; v < q->graph->n_values; v++)
        number[v] = q->class_of[v] = -1;
    size_t n_in = q->graph->n_inputs;
    for (size_t i = 0; i < n_in + q->plan.n; i++) {
        int v = i < n_in ? q->graph->inputs[i] : q->plan.blocks[i - n_in].output;
        int root = find_root(parent, v);
        if (number[root] < 0)
            number[root] = (int)q->n_classes++;
        q->class_of[v] = number[root];
    }
}

static void note_clips(bb_quantization *q) {
    for (size_t c = 0; c < q->n_classes; c++) {
        q->classes[c].lo = INFINITY;
        q->classes[c].hi = -INFINITY;
    }
    for (size_t b = 0; b < q->plan.n; b++) {
        const bb_block *block = &q->plan.blocks[b];
        bb_value_class *c = &q->classes[q->class_of[block->output]];
        if (bb_quantize_passes_codes(block))
            continue;
        bool clips = block->activation.kind == BB_ACTIVATION_CLIP;
        c->lo = fminf(c->lo, clips ? fminf(block->activation.lo, 0.0f) : -INFINITY);
        c->hi = fmaxf(c->hi, clips ? fmaxf(block->activation.hi, 0.0f) : INFINITY);
    }
    for (size_t c = 0; c < q->n_classes; c++) {
        bb_value_class *k = &q->classes[c];
        if (k->lo > k->hi) { /* holds nothing but a graph input */
            k->lo = -INFINITY;
            k->hi = INFINITY;
        }
    }
}

static bb_status make_classes(bb_quantization *q, bb_error *err) {
    size_t n = q->graph->n_values;
    q->class_of = bb_arena_array(q->arena, n, sizeof *q->class_of);
    q->observed = bb_arena_array(q->arena, n, sizeof *q->observed);
    int *parent = bb_alloc_array(n, 2 * sizeof *parent);
    bb_status status = BB_STATUS_OK;
    if (q->class_of && q->observed && parent) {
        for (size_t v = 0; v < n; v++)
            parent[v] = (int)v;
        join_values(q, parent);
        number_classes(q, parent, parent + n);
        q->classes = bb_arena_array(q->arena, q->n_classes, sizeof *q->classes);
    }
    if (!q->classes)
        status = bb_fail_memory(err, "value classes");
    else
        note_clips(q);
    bb_free(parent);
    return status;
}

/* ---- copies ---------------------------------------------------------------------------------- */

static bool same_bits(const bb_quantization *q, const uint8_t *a, const uint8_t *b) {
    return memcmp(a, b, q->n_profiles) == 0;
}

/** Grid of `value` with these bits, added where there is none yet. When no more copies fit, the
 *  one with the most bits serves. */
static bb_status want(bb_quantization *q, int value, const uint8_t *bits, uint8_t *grid,
                      bb_error *err) {
    bb_value_class *c = &q->classes[q->class_of[value]];
    q->observed[value] = true;
    int widest = 0;
    for (int g = 0; g < c->n; g++) {
        *grid = (uint8_t)g;
        if (c->fixed || same_bits(q, c->bits[g], bits))
            return BB_STATUS_OK;
        if (c->bits[g][0] > c->bits[widest][0])
            widest = g;
    }
    if (c->n == BB_MAX_GRIDS) {
        *grid = (uint8_t)widest;
        return BB_STATUS_OK;
    }
    uint8_t *copy = bb_arena_alloc(q->arena, q->n_profiles);
    if (!copy)
        return bb_fail_memory(err, "value copies");
    memcpy(copy, bits, q->n_profiles);
    *grid = (uint8_t)c->n;
    c->bits[c->n++] = copy;
    return BB_STATUS_OK;
}

/** Bits at which block b wants its input i, in profile p; 0: no wish of its own. */
static uint32_t wanted_bits(const bb_quantization *q, size_t b, int i, size_t p) {
    const bb_block *block = &q->plan.blocks[b];
    switch (block->kind) {
    case BB_BLOCK_CONV:
        return i == 0 ? bb_quantize_bits(q, b, p).activation : q->options->residual_bits;
    case BB_BLOCK_ADD:
    case BB_BLOCK_AVERAGE_POOL:
    case BB_BLOCK_ACTIVATION:
        return q->options->residual_bits;
    case BB_BLOCK_MUL:
        return MUL_BITS;
    case BB_BLOCK_CHANNELS:
    case BB_BLOCK_RESIZE:
        /* Float tensors cannot pass through these: somebody must want codes. */
        return q->classes[q->class_of[block->in[i]]].n ? 0 : q->options->residual_bits;
    default:
        return 0;
    }
}

static bb_status collect_wishes(bb_quantization *q, bool late, bb_error *err) {
    uint8_t bits[BB_QUANTIZE_MAX_PROFILES];
    for (size_t b = 0; b < q->plan.n; b++) {
        const bb_block *block = &q->plan.blocks[b];
        if (bb_quantize_passes_codes(block) != late)
            continue;
        for (int i = 0; i < block->n_in; i++) {
            uint8_t grid = 0;
            for (size_t p = 0; p < q->n_profiles; p++)
                bits[p] = (uint8_t)wanted_bits(q, b, i, p);
            if (!bits[0])
                continue;
            BB_TRY(want(q, block->in[i], bits, &grid, err));
            for (size_t p = 0; p < q->n_profiles; p++)
                q->profiles[p].blocks[b].in_grid[i] = grid;
        }
    }
    return BB_STATUS_OK;
}

/** Float blocks read the widest copy of a coded value. */
static void choose_float_reads(bb_quantization *q) {
    for (size_t b = 0; b < q->plan.n; b++) {
        const bb_block *block = &q->plan.blocks[b];
        for (int i = 0; i < block->n_in && block->kind == BB_BLOCK_FLOAT; i++) {
            const bb_value_class *c = &q->classes[q->class_of[block->in[i]]];
            uint8_t widest = 0;
            for (int g = 1; g < c->n; g++)
                if (c->bits[g][0] > c->bits[widest][0])
                    widest = (uint8_t)g;
            for (size_t p = 0; p < q->n_profiles; p++)
                q->profiles[p].blocks[b].in_grid[i] = widest;
        }
    }
}

/* ---- the graph's input ----------------------------------------------------------------------- */

/** Mean and std can be folded away where convolutions alone read the pixels. */
static bool only_convolutions_read(const bb_quantization *q, int value) {
    for (size_t b = 0; b < q->plan.n; b++) {
        const bb_block *block = &q->plan.blocks[b];
        for (int i = 0; i < block->n_in; i++)
            if (block->in[i] == value && (block->kind != BB_BLOCK_CONV || i > 0))
                return false;
    }
    return true;
}

bool bb_quantize_is_pixels(const bb_quantization *q, int value) {
    return q->options->pixels && value == q->graph->inputs[0] &&
           q->classes[q->class_of[value]].fixed;
}

static bb_status fix_input(bb_quantization *q, bb_error *err) {
    const bb_quantize_options *o = q->options;
    int input = q->graph->inputs[0];
    bb_value_class *c = &q->classes[q->class_of[input]];
    bool pixels =
        o->pixels && only_convolutions_read(q, input) && q->graph->values[input].rank == 4;
    if (!pixels && !o->round_levels)
        return BB_STATUS_OK;
    if (pixels && !(o->pixel_scale > 0.0f))
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "the pixel scale must be positive");
    for (int i = 0; pixels && i < 4 && i < q->graph->values[input].dims[1]; i++)
        if (!(o->std[i] > 0.0f))
            return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "std[%d] must be positive", i);
    if (!pixels && (!(o->levels_scale > 0.0f) || o->levels_max - o->levels_min > 255.0f ||
                    o->levels_max <= o->levels_min))
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "round_levels must have 2 to 256 levels");
    uint8_t *bits = bb_arena_alloc(q->arena, q->n_profiles);
    if (!bits)
        return bb_fail_memory(err, "value copies");
    memset(bits, INPUT_BITS, q->n_profiles);
    c->bits[c->n++] = bits;
    c->fixed = true;
    /* Pixels: x = u. Levels: x = (u + levels_min) / levels_scale. */
    bb_grid grid = {INPUT_BITS, 0.5f, -255};
    if (!pixels) {
        grid.step = 0.5f / o->levels_scale;
        grid.a0 = -255 - 2 * (int32_t)lrintf(o->levels_min);
    }
    for (size_t p = 0; p < q->n_profiles; p++)
        q->profiles[p].values[input].grids[0] = grid;
    return BB_STATUS_OK;
}

/* ---- all of it ------------------------------------------------------------------------------- */

static bb_status make_tables(bb_quantization *q, bb_error *err) {
    size_t n_values = q->graph->n_values, n = q->plan.n;
    bool ok = true;
    q->profiles = bb_arena_array(q->arena, q->n_profiles, sizeof *q->profiles);
    for (size_t p = 0; q->profiles && p < q->n_profiles; p++) {
        bb_profile_quant *profile = &q->profiles[p];
        profile->bits = q->options->profiles[p];
        profile->values = bb_arena_array(q->arena, n_values, sizeof *profile->values);
        profile->blocks = bb_arena_array(q->arena, n + 1, sizeof *profile->blocks);
        ok = ok && profile->values && profile->blocks;
    }
    q->codes = bb_arena_array(q->arena, n + 1, sizeof *q->codes);
    q->targets = bb_arena_array(q->arena, n + 1, sizeof *q->targets);
    q->simulated = bb_arena_array(q->arena, n + 1, sizeof *q->simulated);
    q->sqnr = bb_arena_array(q->arena, n + 1, sizeof *q->sqnr);
    q->rms = bb_arena_array(q->arena, n + 1, sizeof *q->rms);
    q->block_of = bb_arena_array(q->arena, n_values, sizeof *q->block_of);
    q->last_reader = bb_arena_array(q->arena, n_values, sizeof *q->last_reader);
    q->stored = bb_arena_array(q->arena, n_values * q->n_profiles, sizeof *q->stored);
    q->reference = bb_arena_array(q->arena, n_values, sizeof *q->reference);
    if (!ok || !q->profiles || !q->codes || !q->targets || !q->simulated || !q->sqnr || !q->rms ||
        !q->block_of || !q->last_reader || !q->stored || !q->reference)
        return bb_fail_memory(err, "quantizer tables");
    return BB_STATUS_OK;
}

/** block_of, last_reader, simulated, and the CONV shapes. */
static bb_status trace_blocks(bb_quantization *q, bb_error *err) {
    for (size_t v = 0; v < q->graph->n_values; v++)
        q->block_of[v] = q->last_reader[v] = -1;
    for (size_t b = 0; b < q->plan.n; b++)
        q->block_of[q->plan.blocks[b].output] = (int)b;
    for (size_t b = q->plan.n; b-- > 0;) {
        const bb_block *block = &q->plan.blocks[b];
        q->sqnr[b] = NAN;
        if (block->kind == BB_BLOCK_CONV)
            BB_TRY(bb_lower_conv_shape(q->graph, block, &q->targets[b].shape, err));
        /* Last ones are simulated for their SQNR alone. */
        q->simulated[b] |= block->kind == BB_BLOCK_CONV;
        for (int i = 0; i < block->n_in && q->simulated[b]; i++) {
            if (q->last_reader[block->in[i]] < 0)
                q->last_reader[block->in[i]] = (int)b;
            if (q->block_of[block->in[i]] >= 0)
                q->simulated[q->block_of[block->in[i]]] = true;
        }
    }
    return BB_STATUS_OK;
}

static void copy_counts(bb_quantization *q) {
    for (size_t v = 0; v < q->graph->n_values; v++) {
        if (q->class_of[v] < 0)
            continue;
        const bb_value_class *c = &q->classes[q->class_of[v]];
        for (size_t p = 0; p < q->n_profiles; p++) {
            bb_value_quant *value = &q->profiles[p].values[v];
            value->n = c->n;
            for (int g = 0; g < c->n; g++)
                value->grids[g].bits = c->bits[g][p];
        }
    }
}

bb_status bb_quantize_assign(bb_quantization *q, bb_error *err) {
    q->n_classes = 0;
    q->stored = NULL; /* tables of an earlier plan hold nothing to free before calibration */
    q->targets = NULL;
    BB_TRY(check_options(q, err));
    BB_TRY(plan_blocks(q, err));
    BB_TRY(make_tables(q, err));
    BB_TRY(make_classes(q, err));
    BB_TRY(fix_input(q, err));
    BB_TRY(collect_wishes(q, false, err));
    BB_TRY(collect_wishes(q, true, err));
    choose_float_reads(q);
    copy_counts(q);
    return trace_blocks(q, err);
}
