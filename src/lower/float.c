/* SPDX-License-Identifier: Apache-2.0 */
/* Block plan + quantization parameters -> nodes and tensors of the model: the structure, which is
 * the same in every profile. float_params.c fills in the numbers. */
#include "lower/float_internal.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

static const bb_value *value_of(const bb_lowering *l, int value) {
    return &l->graph->values[value];
}

static int n_grids(const bb_lowering *l, int value) {
    return l->profiles[0].values[value].n;
}

static bool same_grid(const bb_grid *a, const bb_grid *b) {
    return a->bits == b->bits && a->step == b->step && a->a0 == b->a0;
}

/* The copy of `from` whose grid equals copy g of `to` in every profile, or -1. */
static int matching_grid(const bb_lowering *l, int from, int to, int g) {
    for (int h = 0; h < n_grids(l, from); h++) {
        bool same = true;
        for (size_t p = 0; p < l->n_profiles; p++)
            same = same && same_grid(&l->profiles[p].values[from].grids[h],
                                     &l->profiles[p].values[to].grids[g]);
        if (same)
            return h;
    }
    return -1;
}

static const char *node_name(const bb_lowering *l, const bb_block *block) {
    return l->graph->nodes[block->node].name;
}

static bb_status broken(const bb_lowering *l, const bb_block *block, const char *what) {
    return bb_fail(l->err, BB_STATUS_INVALID_ARGUMENT, "%s: block '%s': %s", l->graph->name,
                   node_name(l, block), what);
}

/* ---- which copies are needed ---------------------------------------------------------------- */

static bool code_preserving(bb_block_kind kind) {
    return kind == BB_BLOCK_MAX_POOL || kind == BB_BLOCK_CONCAT || kind == BB_BLOCK_CHANNELS ||
           kind == BB_BLOCK_RESHAPE || kind == BB_BLOCK_RESIZE;
}

/* Code-preserving blocks that also exist on floats. */
static bool has_float_form(bb_block_kind kind) {
    return kind == BB_BLOCK_MAX_POOL || kind == BB_BLOCK_CONCAT || kind == BB_BLOCK_RESHAPE;
}

static int widest_grid(const bb_lowering *l, int value) {
    int best = -1;
    for (int g = 0; g < n_grids(l, value); g++)
        if (best < 0 || l->profiles[0].values[value].grids[g].bits >
                            l->profiles[0].values[value].grids[best].bits)
            best = g;
    return best;
}

static bb_status need_copies(bb_lowering *l, const bb_block *block) {
    bb_value_tensors *out = &l->values[block->output];
    if (out->need_float && !has_float_form(block->kind)) {
        int g = widest_grid(l, block->output);
        if (g < 0)
            return broken(l, block, "its result has no grid");
        out->need |= 1u << g;
    }
    for (int i = 0; i < block->n_in; i++) {
        bb_value_tensors *in = &l->values[block->in[i]];
        in->need_float = in->need_float || (out->need_float && has_float_form(block->kind));
        for (int g = 0; g < n_grids(l, block->output); g++) {
            if (!(out->need >> g & 1))
                continue;
            int h = matching_grid(l, block->in[i], block->output, g);
            if (h < 0)
                return broken(l, block, "it copies codes, but the grids differ");
            in->need |= 1u << h;
        }
    }
    return BB_STATUS_OK;
}

static bb_status need_inputs(bb_lowering *l, size_t b) {
    const bb_block *block = &l->plan->blocks[b];
    for (int i = 0; i < block->n_in; i++) {
        int g = l->profiles[0].blocks[b].in_grid[i];
        if (g >= n_grids(l, block->in[i]))
            return broken(l, block, "an input has no such grid");
        for (size_t p = 1; p < l->n_profiles; p++)
            if (l->profiles[p].blocks[b].in_grid[i] != g)
                return broken(l, block, "profiles read different copies of an input");
        l->values[block->in[i]].need |= 1u << g;
    }
    return BB_STATUS_OK;
}

static bb_status find_needs(bb_lowering *l) {
    for (size_t i = 0; i < l->graph->n_outputs; i++)
        l->values[l->graph->outputs[i]].need_float = true;
    for (size_t b = l->plan->n; b-- > 0;) {
        const bb_block *block = &l->plan->blocks[b];
        bb_value_tensors *out = &l->values[block->output];
        if (!out->need && !out->need_float)
            continue;
        if (code_preserving(block->kind))
            BB_TRY(need_copies(l, block));
        else if (block->kind == BB_BLOCK_FLOAT)
            for (int i = 0; i < block->n_in; i++)
                l->values[block->in[i]].need_float = true;
        else
            BB_TRY(need_inputs(l, b));
    }
    return BB_STATUS_OK;
}

/* ---- tensors and nodes ---------------------------------------------------------------------- */

static bb_status grow_array(void **array, size_t *cap, size_t n, size_t size, bb_error *err) {
    if (n < *cap)
        return BB_STATUS_OK;
    size_t wanted = *cap ? 2 * *cap : 64;
    void *bigger = bb_realloc_array(*array, wanted, size);
    if (!bigger)
        return bb_fail_memory(err, "the model");
    *array = bigger;
    *cap = wanted;
    return BB_STATUS_OK;
}

static bb_status add_tensor(bb_lowering *l, bb_tensor_source source, const char *suffix, int *out) {
    const bb_value *v = value_of(l, source.value);
    int64_t dims[4];
    BB_TRY(bb_lower_tensor_dims(l->graph, v, dims, l->err));
    const char *name = bb_arena_printf(l->model->arena, "%s%s", v->name, suffix);
    void *sources = l->sources;
    BB_TRY(grow_array(&sources, &l->cap_sources, l->model->n_tensors, sizeof(*l->sources), l->err));
    l->sources = sources;
    int t = !name ? -1
                  : bb_model_add_tensor(l->model, name,
                                        source.grid < 0 ? BB_TENSOR_FLOAT : BB_TENSOR_CODE, v->rank,
                                        dims);
    if (t < 0)
        return bb_fail(l->err, BB_STATUS_LIMIT, "%s: too many tensors", l->graph->name);
    l->sources[t] = source;
    *out = t;
    return BB_STATUS_OK;
}

static bb_status add_codes(bb_lowering *l, bb_source_kind kind, int value, int grid, int block,
                           int *tensor) {
    char suffix[16] = "";
    if (grid > 0)
        snprintf(suffix, sizeof(suffix), "#%d", grid);
    bb_tensor_source source = {.kind = kind, .value = value, .grid = grid, .block = block};
    BB_TRY(add_tensor(l, source, suffix, tensor));
    l->values[value].codes[grid] = *tensor;
    return BB_STATUS_OK;
}

static bb_status add_node(bb_lowering *l, const char *name, const char *suffix, bb_node_kind kind,
                          int n_in, const int *in, int n_out, const int *out,
                          bb_model_node **node) {
    void *blocks = l->node_block;
    BB_TRY(grow_array(&blocks, &l->cap_nodes, l->model->n_nodes, sizeof(*l->node_block), l->err));
    l->node_block = blocks;
    l->node_block[l->model->n_nodes] = -1;
    const char *full = bb_arena_printf(l->model->arena, "%s%s", name, suffix);
    *node = full ? bb_model_add_node(l->model, full, kind, n_in, in, n_out, out) : NULL;
    if (!*node)
        return bb_fail(l->err, BB_STATUS_LIMIT, "%s: too many layers", l->graph->name);
    return BB_STATUS_OK;
}

static bb_status add_float_node(bb_lowering *l, const bb_block *block, const char *suffix,
                                bb_float_op op, int n_in, const int *in, int out,
                                const char *reason, bb_model_node **node) {
    BB_TRY(add_node(l, node_name(l, block), suffix, BB_NODE_FLOAT, n_in, in, 1, &out, node));
    (*node)->float_op = op;
    (*node)->reason = reason ? bb_arena_strdup(l->model->arena, reason) : NULL;
    return BB_STATUS_OK;
}

/* ---- activations on floats ------------------------------------------------------------------ */

static bool table_float_op(const bb_graph *graph, const bb_block *block, bb_float_op *op) {
    const bb_node *node = &graph->nodes[block->last_node];
    switch (node->op) {
    case BB_OP_SIGMOID:
        *op = BB_FLOAT_SIGMOID;
        return true;
    case BB_OP_HARD_SIGMOID:
        *op = BB_FLOAT_HARD_SIGMOID;
        return true;
    case BB_OP_HARD_SWISH:
        *op = BB_FLOAT_HARD_SWISH;
        return true;
    case BB_OP_TANH:
        *op = BB_FLOAT_TANH;
        return true;
    case BB_OP_MUL: /* x*Sigmoid(x); x*HardSigmoid(x) with the parameters of HardSwish */
        *op = block->activation.beta == 0 ? BB_FLOAT_SILU : BB_FLOAT_HARD_SWISH;
        return block->activation.beta == 0 ||
               (fabs(block->activation.alpha - 1.0 / 6) < 1e-6 && block->activation.beta == 0.5);
    default:
        return false;
    }
}

bb_status bb_lower_set_slopes(bb_model *model, const bb_activation *act, bb_model_node *node,
                              bb_error *err) {
    node->alpha = act->slopes[0];
    if (act->n_slopes == 1)
        return BB_STATUS_OK;
    float *slopes = bb_arena_array(model->arena, act->n_slopes, sizeof(*slopes));
    if (!slopes)
        return bb_fail_memory(err, "slopes");
    memcpy(slopes, act->slopes, act->n_slopes * sizeof(*slopes));
    node->float_weights = slopes;
    node->n_float_weights = (uint32_t)act->n_slopes;
    return BB_STATUS_OK;
}

/* The block's activation as a float node from tensor `in` to `out`. */
static bb_status float_activation(bb_lowering *l, const bb_block *block, int in, int out,
                                  const char *reason) {
    bb_model_node *node;
    bb_float_op op = BB_FLOAT_RELU;
    const bb_activation *act = &block->activation;
    if (act->kind == BB_ACTIVATION_LEAKY)
        op = BB_FLOAT_LEAKY_RELU;
    if (act->kind == BB_ACTIVATION_TABLE && !table_float_op(l->graph, block, &op))
        return bb_fail(l->err, BB_STATUS_UNSUPPORTED,
                       "%s: node '%s' (%s) is wanted in float and has no float layer",
                       l->graph->name, l->graph->nodes[block->last_node].name,
                       bb_op_name(l->graph->nodes[block->last_node].op));
    BB_TRY(add_float_node(l, block, "/activation", op, 1, &in, out, reason, &node));
    node->alpha = (float)act->alpha;
    node->beta = (float)act->beta;
    if (act->kind == BB_ACTIVATION_CLIP) {
        node->alpha = act->lo;
        node->beta = act->hi;
    }
    return act->kind == BB_ACTIVATION_LEAKY
               ? bb_lower_set_slopes(l->model, &block->activation, node, l->err)
               : BB_STATUS_OK;
}

/* ---- blocks that compute -------------------------------------------------------------------- */

/* All copies the block has to make from its exact result; the float one before the activation. */
static bb_status make_outputs(bb_lowering *l, size_t b, int *out, int *n_out, int *plain) {
    const bb_block *block = &l->plan->blocks[b];
    bb_value_tensors *v = &l->values[block->output];
    *n_out = 0;
    *plain = -1;
    for (int g = 0; g < n_grids(l, block->output); g++)
        if (v->need >> g & 1) {
            BB_TRY(add_codes(l, BB_SOURCE_BLOCK, block->output, g, (int)b, &out[*n_out]));
            (*n_out)++;
        }
    if (!v->need_float)
        return BB_STATUS_OK;
    if (*n_out == BB_MAX_NODE_OUTPUTS)
        return broken(l, block, "too many copies of its result are needed");
    bb_tensor_source source = {
        .kind = BB_SOURCE_BLOCK, .value = block->output, .grid = -1, .block = (int)b};
    bool act = block->activation.kind != BB_ACTIVATION_NONE;
    const char *suffix = act ? "#linear" : *n_out ? "#float" : "";
    BB_TRY(add_tensor(l, source, suffix, plain));
    out[(*n_out)++] = *plain;
    if (!act)
        v->real = *plain;
    return BB_STATUS_OK;
}

/* After the node: the activation of the float copy, if both exist. */
static bb_status finish_float(bb_lowering *l, size_t b, int plain) {
    const bb_block *block = &l->plan->blocks[b];
    bb_value_tensors *v = &l->values[block->output];
    if (plain < 0 || v->real >= 0)
        return BB_STATUS_OK;
    bb_tensor_source source = {.kind = BB_SOURCE_COPY, .value = block->output, .grid = -1};
    BB_TRY(add_tensor(l, source, v->need ? "#float" : "", &v->real));
    return float_activation(l, block, plain, v->real, "a float result is wanted");
}

static bb_status conv_details(bb_lowering *l, size_t b, bb_model_node *node) {
    const bb_block_codes *codes = &l->codes[b];
    bb_conv_shape shape;
    BB_TRY(bb_lower_conv_shape(l->graph, &l->plan->blocks[b], &shape, l->err));
    if (!codes->codes || codes->rows != shape.rows || codes->taps != shape.taps ||
        codes->depth != shape.depth)
        return broken(l, &l->plan->blocks[b], "its weight codes have another shape");
    node->geometry = shape.geometry;
    node->groups = shape.groups;
    node->planes =
        codes->plane_weight
            ? bb_planes_from_weighted_codes(l->model->arena, codes->codes, codes->rows, codes->taps,
                                            codes->depth, codes->planes, codes->plane_weight)
            : bb_planes_from_codes(l->model->arena, codes->codes, codes->rows, codes->taps,
                                   codes->depth, codes->planes);
    l->node_block[node - l->model->nodes] = (int)b;
    return node->planes ? BB_STATUS_OK : bb_fail_memory(l->err, "weight planes");
}

static bb_status pool_geometry(bb_lowering *l, const bb_block *block, bb_model_node *node) {
    const bb_node *source = &l->graph->nodes[block->node];
    if (source->op == BB_OP_GLOBAL_AVERAGE_POOL || source->op == BB_OP_GLOBAL_MAX_POOL)
        return BB_STATUS_OK; /* kernel 0x0: the whole image */
    return bb_lower_window(l->graph, source, &node->geometry, l->err);
}

static bb_node_kind compute_kind(bb_block_kind kind) {
    switch (kind) {
    case BB_BLOCK_CONV:
        return BB_NODE_CONV;
    case BB_BLOCK_ADD:
        return BB_NODE_ADD;
    case BB_BLOCK_MUL:
        return BB_NODE_MUL;
    case BB_BLOCK_AVERAGE_POOL:
        return BB_NODE_AVERAGE_POOL;
    default:
        return BB_NODE_REQUANT;
    }
}

static bb_status emit_compute(bb_lowering *l, size_t b) {
    const bb_block *block = &l->plan->blocks[b];
    int in[2], out[BB_MAX_NODE_OUTPUTS + 1], n_out, plain;
    for (int i = 0; i < block->n_in; i++)
        in[i] = l->values[block->in[i]].codes[l->profiles[0].blocks[b].in_grid[i]];
    BB_TRY(make_outputs(l, b, out, &n_out, &plain));
    bb_model_node *node;
    BB_TRY(add_node(l, node_name(l, block), "", compute_kind(block->kind), block->n_in, in, n_out,
                    out, &node));
    if (block->kind == BB_BLOCK_CONV)
        BB_TRY(conv_details(l, b, node));
    if (block->kind == BB_BLOCK_AVERAGE_POOL)
        BB_TRY(pool_geometry(l, block, node));
    return finish_float(l, b, plain);
}

/* ---- blocks that copy codes ----------------------------------------------------------------- */

static bb_node_kind copy_kind(bb_block_kind kind) {
    switch (kind) {
    case BB_BLOCK_MAX_POOL:
        return BB_NODE_MAX_POOL;
    case BB_BLOCK_CONCAT:
        return BB_NODE_CONCAT;
    case BB_BLOCK_CHANNELS:
        return BB_NODE_GATHER_CHANNELS;
    case BB_BLOCK_RESHAPE:
        return BB_NODE_RESHAPE;
    default:
        return BB_NODE_RESIZE_NEAREST;
    }
}

static bb_status copy_details(bb_lowering *l, const bb_block *block, bb_model_node *node) {
    if (block->kind == BB_BLOCK_MAX_POOL)
        return pool_geometry(l, block, node);
    memcpy(node->resize_factor, block->resize_factor, sizeof(node->resize_factor));
    if (block->kind != BB_BLOCK_CHANNELS)
        return BB_STATUS_OK;
    int32_t *index = bb_arena_array(l->model->arena, block->n_channel_index, sizeof(*index));
    if (!index)
        return bb_fail_memory(l->err, "channel indices");
    memcpy(index, block->channel_index, block->n_channel_index * sizeof(*index));
    node->channel_index = index;
    node->n_channel_index = block->n_channel_index;
    return BB_STATUS_OK;
}

static bb_status copy_codes(bb_lowering *l, const bb_block *block, int g) {
    int in[BB_MAX_NODE_INPUTS], out;
    char suffix[16] = "";
    if (g > 0)
        snprintf(suffix, sizeof(suffix), "#%d", g);
    for (int i = 0; i < block->n_in; i++)
        in[i] = l->values[block->in[i]].codes[matching_grid(l, block->in[i], block->output, g)];
    BB_TRY(add_codes(l, BB_SOURCE_COPY, block->output, g, -1, &out));
    bb_model_node *node;
    BB_TRY(add_node(l, node_name(l, block), suffix, copy_kind(block->kind), block->n_in, in, 1,
                    &out, &node));
    return copy_details(l, block, node);
}

static bb_status copy_floats(bb_lowering *l, const bb_block *block) {
    bb_value_tensors *v = &l->values[block->output];
    int in[BB_MAX_NODE_INPUTS];
    for (int i = 0; i < block->n_in; i++)
        in[i] = l->values[block->in[i]].real;
    bb_tensor_source source = {.kind = BB_SOURCE_COPY, .value = block->output, .grid = -1};
    BB_TRY(add_tensor(l, source, v->need ? "#float" : "", &v->real));
    bb_float_op op = block->kind == BB_BLOCK_MAX_POOL ? BB_FLOAT_MAX_POOL
                     : block->kind == BB_BLOCK_CONCAT ? BB_FLOAT_CONCAT
                                                      : BB_FLOAT_RESHAPE;
    bb_model_node *node;
    BB_TRY(add_float_node(l, block, v->need ? "#float" : "", op, block->n_in, in, v->real,
                          "its input is float", &node));
    return op == BB_FLOAT_MAX_POOL ? pool_geometry(l, block, node) : BB_STATUS_OK;
}

static bb_status dequantize(bb_lowering *l, const bb_block *block) {
    bb_value_tensors *v = &l->values[block->output];
    int g = widest_grid(l, block->output);
    bb_tensor_source source = {
        .kind = BB_SOURCE_DEQUANTIZE, .value = block->output, .grid = -1, .from_grid = g};
    BB_TRY(add_tensor(l, source, "#float", &v->real));
    bb_model_node *node;
    return add_node(l, node_name(l, block), "/dequantize", BB_NODE_REQUANT, 1, &v->codes[g], 1,
                    &v->real, &node);
}

static bb_status emit_copies(bb_lowering *l, const bb_block *block) {
    const bb_value_tensors *v = &l->values[block->output];
    for (int g = 0; g < n_grids(l, block->output); g++)
        if (v->need >> g & 1)
            BB_TRY(copy_codes(l, block, g));
    if (!v->need_float)
        return BB_STATUS_OK;
    return has_float_form(block->kind) ? copy_floats(l, block) : dequantize(l, block);
}

/* ---- float blocks --------------------------------------------------------------------------- */

static bb_status float_conv(bb_lowering *l, const bb_block *block, bb_model_node *node) {
    bb_conv_shape s;
    BB_TRY(bb_lower_conv_shape(l->graph, block, &s, l->err));
    size_t n = (size_t)s.rows * s.taps * s.depth;
    float *weights = bb_arena_array(l->model->arena, n, sizeof(*weights));
    float *bias = bb_arena_array(l->model->arena, s.rows, sizeof(*bias));
    if (!weights || !bias || n > UINT32_MAX)
        return bb_fail_memory(l->err, "float weights");
    BB_TRY(bb_lower_conv_weights(l->graph, block, weights, bias, l->err));
    node->geometry = s.geometry;
    node->groups = s.groups;
    node->float_weights = weights;
    node->float_bias = bias;
    node->n_float_weights = (uint32_t)n;
    node->n_float_bias = s.rows;
    return BB_STATUS_OK;
}

static bb_status float_affine(bb_lowering *l, const bb_block *block, bb_model_node *node) {
    uint32_t channels = (uint32_t)value_of(l, block->output)->dims[1];
    float *tables = bb_arena_array(l->model->arena, 2 * (size_t)channels, sizeof(*tables));
    if (!tables)
        return bb_fail_memory(l->err, "float scales");
    memcpy(tables, block->scale, channels * sizeof(*tables));
    memcpy(tables + channels, block->shift, channels * sizeof(*tables));
    node->float_weights = tables;
    node->float_bias = tables + channels;
    node->n_float_weights = node->n_float_bias = channels;
    return BB_STATUS_OK;
}

static bb_status float_op_of(const bb_lowering *l, const bb_block *block, bb_float_op *op) {
    const bb_node *node = &l->graph->nodes[block->node];
    switch (node->op) {
    case BB_OP_CONV:
    case BB_OP_GEMM:
        *op = BB_FLOAT_CONV;
        break;
    case BB_OP_ADD:
        *op = BB_FLOAT_ADD;
        break;
    case BB_OP_MUL:
        *op = BB_FLOAT_MUL;
        break;
    case BB_OP_SOFTMAX:
        *op = BB_FLOAT_SOFTMAX;
        break;
    case BB_OP_MAX_POOL:
    case BB_OP_GLOBAL_MAX_POOL:
        *op = BB_FLOAT_MAX_POOL;
        break;
    case BB_OP_AVERAGE_POOL:
    case BB_OP_GLOBAL_AVERAGE_POOL:
        *op = BB_FLOAT_AVERAGE_POOL;
        break;
    case BB_OP_CONCAT:
        *op = BB_FLOAT_CONCAT;
        break;
    default:
        if (!bb_is_movement(node->op))
            return bb_fail(l->err, BB_STATUS_UNSUPPORTED, "%s: node '%s' (%s) has no float layer",
                           l->graph->name, node->name, bb_op_name(node->op));
        *op = BB_FLOAT_RESHAPE;
    }
    return BB_STATUS_OK;
}

static bb_status emit_float_node(bb_lowering *l, const bb_block *block, const int *in, int out) {
    if (block->activation.kind != BB_ACTIVATION_NONE)
        return float_activation(l, block, in[0], out, block->reason);
    bb_float_op op = BB_FLOAT_AFFINE;
    if (!block->scale)
        BB_TRY(float_op_of(l, block, &op));
    bb_model_node *node;
    BB_TRY(add_float_node(l, block, "", op, block->n_in, in, out, block->reason, &node));
    if (op == BB_FLOAT_CONV)
        return float_conv(l, block, node);
    if (op == BB_FLOAT_AFFINE)
        return float_affine(l, block, node);
    if (op == BB_FLOAT_MAX_POOL || op == BB_FLOAT_AVERAGE_POOL)
        return pool_geometry(l, block, node);
    return BB_STATUS_OK;
}

/* Codes of a float value: one QUANTIZE node makes all copies. */
static bb_status quantize_value(bb_lowering *l, int value) {
    bb_value_tensors *v = &l->values[value];
    int out[BB_MAX_GRIDS], n = 0;
    for (int g = 0; g < n_grids(l, value); g++)
        if (v->need >> g & 1) {
            BB_TRY(add_codes(l, BB_SOURCE_COPY, value, g, -1, &out[n]));
            n++;
        }
    bb_model_node *node;
    if (n == 0)
        return BB_STATUS_OK;
    return add_node(l, value_of(l, value)->name, "/quantize", BB_NODE_QUANTIZE, 1, &v->real, n, out,
                    &node);
}

static bb_status emit_float(bb_lowering *l, const bb_block *block) {
    bb_value_tensors *v = &l->values[block->output];
    int in[BB_MAX_NODE_INPUTS];
    for (int i = 0; i < block->n_in; i++)
        in[i] = l->values[block->in[i]].real;
    bb_tensor_source source = {.kind = BB_SOURCE_COPY, .value = block->output, .grid = -1};
    BB_TRY(add_tensor(l, source, v->need ? "#float" : "", &v->real));
    BB_TRY(emit_float_node(l, block, in, v->real));
    return quantize_value(l, block->output);
}

/* ---- the whole ------------------------------------------------------------------------------ */

/* A graph input that is only read on one grid is given as its codes (pixels, for one), else as
 * float. */
static bb_status add_input(bb_lowering *l, int value) {
    bb_value_tensors *v = &l->values[value];
    bool one = v->need && (v->need & (v->need - 1)) == 0 && !v->need_float;
    int tensor;
    if (one) {
        int g = 0;
        while (!(v->need >> g & 1))
            g++;
        BB_TRY(add_codes(l, BB_SOURCE_COPY, value, g, -1, &tensor));
    } else {
        bb_tensor_source source = {.kind = BB_SOURCE_COPY, .value = value, .grid = -1};
        BB_TRY(add_tensor(l, source, "", &tensor));
        v->real = tensor;
    }
    bb_model_tensor *t = &l->model->tensors[tensor];
    if (t->rank == 4)
        for (int i = 0; i < 2; i++)
            t->dims[1 + i] =
                value_of(l, value)->dims[2 + i] > 0 ? value_of(l, value)->dims[2 + i] : -1;
    if (!bb_model_add_input(l->model, tensor))
        return bb_fail_memory(l->err, "the model");
    return one ? BB_STATUS_OK : quantize_value(l, value);
}

static bb_status emit_all(bb_lowering *l) {
    for (size_t i = 0; i < l->graph->n_inputs; i++)
        BB_TRY(add_input(l, l->graph->inputs[i]));
    for (size_t b = 0; b < l->plan->n; b++) {
        const bb_block *block = &l->plan->blocks[b];
        const bb_value_tensors *v = &l->values[block->output];
        if (!v->need && !v->need_float)
            continue;
        if (block->kind == BB_BLOCK_FLOAT)
            BB_TRY(emit_float(l, block));
        else if (code_preserving(block->kind))
            BB_TRY(emit_copies(l, block));
        else
            BB_TRY(emit_compute(l, b));
    }
    for (size_t i = 0; i < l->graph->n_outputs; i++)
        if (!bb_model_add_output(l->model, l->values[l->graph->outputs[i]].real))
            return bb_fail_memory(l->err, "the model");
    return BB_STATUS_OK;
}

/* "folder/net.onnx.gz" -> "net": the same network gives the same file wherever it lies. */
static char *network_name(bb_arena *arena, const char *path) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    const char *end = strstr(name, ".onnx");
    return bb_arena_strndup(arena, name, end && end > name ? (size_t)(end - name) : strlen(name));
}

bb_status bb_lower_metadata(const bb_graph *graph, const bb_quantize_options *options,
                            bb_model *model, bb_error *err) {
    model->name = network_name(model->arena, graph->name ? graph->name : "");
    model->float32_bytes = graph->parameter_bytes;
    if (options && options->config_json)
        model->config_json = bb_arena_strdup(model->arena, options->config_json);
    if (options && options->labels)
        model->labels = bb_arena_strdup(model->arena, options->labels);
    bool lost = !model->name || (options && options->config_json && !model->config_json) ||
                (options && options->labels && !model->labels);
    return lost ? bb_fail_memory(err, "the model") : BB_STATUS_OK;
}

static bb_status lower(bb_lowering *l, const bb_quantize_options *options) {
    BB_TRY(find_needs(l));
    BB_TRY(emit_all(l));
    BB_TRY(bb_lower_metadata(l->graph, options, l->model, l->err));
    BB_TRY(bb_lower_fill_profiles(l));
    return bb_model_validate(l->model, l->err);
}

bb_status bb_lower_float(bb_graph *graph, const bb_block_plan *plan, const bb_block_codes *codes,
                         const bb_profile_quant *profiles, size_t n_profiles,
                         const bb_quantize_options *options, bb_model **model, bb_error *err) {
    bb_lowering l = {.graph = graph,
                     .plan = plan,
                     .codes = codes,
                     .profiles = profiles,
                     .n_profiles = n_profiles,
                     .model = bb_model_create(),
                     .values = bb_arena_array(graph->arena, graph->n_values, sizeof(*l.values)),
                     .err = err};
    bb_status status = BB_STATUS_OK;
    if (n_profiles == 0)
        status = bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "no profile is asked for");
    else if (!l.model || !l.values)
        status = bb_fail_memory(err, "the model");
    for (size_t v = 0; status == BB_STATUS_OK && v < graph->n_values; v++)
        l.values[v] = (bb_value_tensors){.codes = {-1, -1, -1, -1}, .real = -1};
    if (status == BB_STATUS_OK)
        status = lower(&l, options);
    bb_free(l.sources);
    bb_free(l.node_block);
    if (status != BB_STATUS_OK) {
        bb_model_destroy(l.model);
        return status;
    }
    *model = l.model;
    return BB_STATUS_OK;
}
