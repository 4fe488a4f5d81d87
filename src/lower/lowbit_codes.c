/* SPDX-License-Identifier: Apache-2.0 */
/* Code tensors made of values, and the bookkeeping of roots, tensors and nodes. */
#include "lower/lowbit.h"
#include <math.h>
#include <string.h>

/* ---- roots, tensors, nodes ------------------------------------------------------------------ */

bb_status bb_lb_add_root(bb_lowbit *l, bb_root_kind kind, int value, uint32_t channels,
                         bb_root **root) {
    if (l->n_roots == l->cap_roots) {
        size_t cap = l->cap_roots ? 2 * l->cap_roots : 32;
        bb_root *bigger = bb_realloc_array(l->roots, cap, sizeof(*bigger));
        if (!bigger)
            return bb_fail_memory(l->err, "the import");
        l->roots = bigger;
        l->cap_roots = cap;
    }
    bb_arena *arena = l->graph->arena;
    bb_root *r = &l->roots[l->n_roots];
    *r = (bb_root){
        .kind = kind,
        .value = value,
        .channels = channels,
        .low = bb_arena_array(arena, channels, sizeof(*r->low)),
        .high = bb_arena_array(arena, channels, sizeof(*r->high)),
        .stride = 1,
        .scale = bb_arena_array(arena, channels, sizeof(*r->scale)),
        .bias = bb_arena_array(arena, channels, sizeof(*r->bias)),
        .count = 1,
        .tensor = -1,
        .node = -1,
    };
    if (!r->low || !r->high || !r->scale || !r->bias)
        return bb_fail_memory(l->err, "the import");
    l->root_of[value] = (int)l->n_roots++;
    *root = r;
    return BB_STATUS_OK;
}

bb_status bb_lb_codes_root(bb_lowbit *l, int value, const bb_lb_codes *codes, bb_root **root) {
    BB_TRY(bb_lb_add_root(l, BB_ROOT_CODES, value, 1, root));
    const bb_tensor_params *p = &l->params[codes->tensor];
    bb_root *r = *root;
    int64_t last_code = (INT64_C(1) << p->bits) - 1;
    r->tensor = codes->tensor;
    r->grid = codes->grid;
    r->stride = 2;
    r->low[0] = -last_code - p->a0;
    r->high[0] = r->low[0] + 2 * (int64_t)codes->grid.last;
    /* value = low + u*unit with u = (z - low_z)/2 */
    r->scale[0] = codes->grid.unit / 2;
    r->bias[0] = codes->grid.low - (double)r->low[0] * codes->grid.unit / 2;
    if (fabs(r->bias[0]) < 1e-6 * codes->grid.unit)
        r->bias[0] = 0;
    return BB_STATUS_OK;
}

bb_status bb_lb_float_root(bb_lowbit *l, int value, int tensor) {
    bb_root *root = NULL;
    BB_TRY(bb_lb_add_root(l, BB_ROOT_FLOAT, value, 1, &root));
    root->tensor = tensor;
    return BB_STATUS_OK;
}

bb_status bb_lb_tensor(bb_lowbit *l, int value, const char *suffix, const bb_uniform *grid,
                       int *tensor) {
    const bb_value *v = &l->graph->values[value];
    int64_t dims[4];
    BB_TRY(bb_lower_tensor_dims(l->graph, v, dims, l->err));
    const char *name = bb_arena_printf(l->model->arena, "%s%s", v->name, suffix);
    *tensor = name ? bb_model_add_tensor(l->model, name, grid ? BB_TENSOR_CODE : BB_TENSOR_FLOAT,
                                         v->rank, dims)
                   : -1;
    if (*tensor < 0)
        return bb_fail(l->err, BB_STATUS_LIMIT, "%s: too many tensors", l->graph->name);
    if (!grid)
        return BB_STATUS_OK;
    bool whole;
    l->params[*tensor] = (bb_tensor_params){
        .bits = grid->bits, .step = (float)(grid->unit / 2), .a0 = bb_lb_a0(grid, &whole)};
    return BB_STATUS_OK;
}

bb_status bb_lb_copy_tensor(bb_lowbit *l, int value, int like, int *tensor) {
    bb_uniform any = {.bits = 1, .low = 0, .unit = 1};
    BB_TRY(bb_lb_tensor(l, value, "", &any, tensor));
    const bb_tensor_params *p = &l->params[like];
    l->params[*tensor] = (bb_tensor_params){.bits = p->bits, .step = p->step, .a0 = p->a0};
    return BB_STATUS_OK;
}

bb_status bb_lb_node(bb_lowbit *l, const char *name, const char *suffix, bb_node_kind kind,
                     int n_in, const int *in, int n_out, const int *out, bb_model_node **node) {
    static const int none[1] = {0};
    const char *full = bb_arena_printf(l->model->arena, "%s%s", name, suffix);
    *node =
        full ? bb_model_add_node(l->model, full, kind, n_in, in, n_out, out ? out : none) : NULL;
    return *node ? BB_STATUS_OK
                 : bb_fail(l->err, BB_STATUS_LIMIT, "%s: too many layers", l->graph->name);
}

/* ---- codes of a value ----------------------------------------------------------------------- */

static const char *producer_name(const bb_lowbit *l, int value) {
    int producer = l->graph->values[value].producer;
    return producer >= 0 ? l->graph->nodes[producer].name : l->graph->values[value].name;
}

/* The codes of the root's tensor are those of the new grid already. */
static bool same_codes(const bb_lowbit *l, const bb_root *root, const bb_steps *steps,
                       const bb_uniform *grid) {
    const bb_tensor_params *p = &l->params[root->tensor];
    bool whole;
    if (steps->channels != 1 || p->bits != grid->bits || p->a0 != bb_lb_a0(grid, &whole))
        return false;
    size_t s = 0;
    for (int64_t u = 0; u <= (int64_t)root->grid.last; u++) {
        int64_t z = root->low[0] + 2 * u;
        while (s + 1 < steps->n[0] && steps->start[0][s + 1] <= z)
            s++;
        if (floor(((double)steps->value[0][s] - grid->low) / grid->unit + 0.5) != (double)u)
            return false;
    }
    return true;
}

/* One more output of the root's node, or a REQUANT node on its codes. */
bb_status bb_lb_attach(bb_lowbit *l, const bb_root *root, int value, int tensor) {
    if (root->kind == BB_ROOT_CODES) {
        bb_model_node *node;
        return bb_lb_node(l, producer_name(l, value), "", BB_NODE_REQUANT, 1, &root->tensor, 1,
                          &tensor, &node);
    }
    bb_model_node *node = &l->model->nodes[root->node];
    if (node->n_out == BB_MAX_NODE_OUTPUTS)
        return bb_fail(l->err, BB_STATUS_LIMIT,
                       "%s: node '%s' feeds more than %d different quantizers", l->graph->name,
                       node->name, BB_MAX_NODE_OUTPUTS);
    node->out[node->n_out++] = tensor;
    return BB_STATUS_OK;
}

static bb_status from_steps(bb_lowbit *l, int value, const bb_root *root, const bb_steps *steps,
                            const bb_uniform *grid, bb_lb_codes *codes) {
    if (root->kind == BB_ROOT_CODES && same_codes(l, root, steps, grid)) {
        *codes = (bb_lb_codes){root->tensor, *grid};
        return BB_STATUS_OK;
    }
    bb_requant requant;
    bool made = bb_lb_requant(l, root, steps, grid, &requant);
    bb_root summed;
    if (!made && root->kind == BB_ROOT_AVERAGE) {
        BB_TRY(bb_lb_average_as_conv(l, root, &summed));
        root = &summed;
        made = summed.kind == BB_ROOT_CONV && bb_lb_requant(l, root, steps, grid, &requant);
    }
    if (!made)
        return bb_fail(l->err, BB_STATUS_UNSUPPORTED,
                       "%s: node '%s': no integer requantizer gives the same codes everywhere",
                       l->graph->name, producer_name(l, value));
    int tensor;
    BB_TRY(bb_lb_tensor(l, value, "", grid, &tensor));
    l->params[tensor].requant = requant;
    *codes = (bb_lb_codes){tensor, *grid};
    return bb_lb_attach(l, root, value, tensor);
}

/* A clamp in front of QUANTIZE where the grid does not use all codes. */
static bb_status clamp_floats(bb_lowbit *l, int value, const bb_declared *d, int *tensor) {
    int in = *tensor;
    bb_model_node *node;
    BB_TRY(bb_lb_tensor(l, d->input, "#clipped", NULL, tensor));
    BB_TRY(
        bb_lb_node(l, producer_name(l, value), "/clip", BB_NODE_FLOAT, 1, &in, 1, tensor, &node));
    node->float_op = BB_FLOAT_RELU;
    node->alpha = (float)(((double)d->low - d->zero) * d->scale);
    node->beta = (float)(((double)d->high - d->zero) * d->scale);
    node->reason = "the range of a quantizer of floats";
    return BB_STATUS_OK;
}

static bb_status quantize_floats(bb_lowbit *l, int value, uint32_t max_bits, bb_lb_codes *codes) {
    bb_declared d;
    if (!bb_lb_declared(l, value, &d) || d.input < 0 || d.high - d.low >= INT64_C(1) << max_bits)
        return BB_STATUS_OK;
    int producer = l->graph->values[d.input].producer;
    if (producer >= 0 && l->graph->nodes[producer].op == BB_OP_RELU && (double)d.low >= d.zero)
        d.input = l->graph->nodes[producer].in[0]; /* codes end at 0 anyway */
    bb_uniform grid = {1, ((double)d.low - d.zero) * d.scale, d.scale, (uint32_t)(d.high - d.low)};
    while ((UINT32_C(1) << grid.bits) - 1 < grid.last)
        grid.bits++;
    bool whole;
    bb_lb_a0(&grid, &whole);
    if (!whole)
        return BB_STATUS_OK;
    int real, tensor;
    BB_TRY(bb_lb_real_of(l, d.input, &real));
    if (grid.last != (UINT32_C(1) << grid.bits) - 1)
        BB_TRY(clamp_floats(l, value, &d, &real));
    BB_TRY(bb_lb_tensor(l, value, "", &grid, &tensor));
    *codes = (bb_lb_codes){tensor, grid};
    bb_model_node *node;
    return bb_lb_node(l, producer_name(l, value), "", BB_NODE_QUANTIZE, 1, &real, 1, &tensor,
                      &node);
}

static bb_status integer_codes(bb_lowbit *l, int value, uint32_t max_bits, bb_lb_codes *codes) {
    const bb_root root = l->roots[l->root_of[value]];
    if (root.kind == BB_ROOT_CODES && value == root.value) {
        bool whole;
        if (bb_lb_a0(&root.grid, &whole) == l->params[root.tensor].a0 && whole &&
            root.channels == 1) {
            *codes = (bb_lb_codes){root.tensor, root.grid};
            return BB_STATUS_OK;
        }
    }
    bb_steps steps;
    bool found;
    bb_uniform grid;
    BB_TRY(bb_lb_steps(l, value, (size_t)1 << max_bits, &steps, &found));
    bb_status status = BB_STATUS_OK;
    if (found && bb_lb_grid(l, value, &steps, max_bits, &grid))
        status = from_steps(l, value, &root, &steps, &grid, codes);
    bb_lb_steps_free(&steps);
    return status;
}

bb_status bb_lb_codes_of(bb_lowbit *l, int value, uint32_t max_bits, bb_lb_codes *codes) {
    *codes = l->codes[value];
    if (codes->tensor < 0 && l->root_of[value] >= 0) {
        const bb_root root = l->roots[l->root_of[value]];
        if (root.kind == BB_ROOT_FLOAT)
            BB_TRY(quantize_floats(l, value, max_bits, codes));
        else
            BB_TRY(bb_lb_linear_codes(l, value, codes));
        if (codes->tensor < 0 && root.kind != BB_ROOT_FLOAT && root.kind != BB_ROOT_PAIR)
            BB_TRY(integer_codes(l, value, max_bits, codes));
        l->codes[value] = *codes;
    }
    if (codes->tensor >= 0 && codes->grid.bits > max_bits)
        codes->tensor = -1;
    return BB_STATUS_OK;
}

bb_status bb_lb_convert(bb_lowbit *l, int value, const bb_lb_codes *from, const bb_uniform *grid,
                        int *tensor) {
    const bb_tensor_params *p = &l->params[from->tensor];
    int64_t shift = (int64_t)floor((from->grid.low - grid->low) / grid->unit + 0.5);
    bb_arena *arena = l->model->arena;
    int32_t *mult = bb_arena_array(arena, 1, sizeof(*mult));
    int64_t *add = bb_arena_array(arena, 1, sizeof(*add));
    uint8_t *half = bb_arena_array(arena, 1, sizeof(*half));
    if (!mult || !add || !half)
        return bb_fail_memory(l->err, "requantizers");
    /* Z1 = 2u - L - a0, so (Z1 + L + a0)/2 + shift is the new code. */
    mult[0] = 1;
    add[0] = (INT64_C(1) << p->bits) - 1 + p->a0 + 2 * shift;
    half[0] = 1;
    BB_TRY(bb_lb_tensor(l, value, "#joined", grid, tensor));
    l->params[*tensor].requant = (bb_requant){
        .kind = BB_REQUANT_LINEAR, .channels = 1, .mult = mult, .add = add, .shift = half};
    bb_model_node *node;
    return bb_lb_node(l, producer_name(l, value), "/join", BB_NODE_REQUANT, 1, &from->tensor, 1,
                      tensor, &node);
}
