/* SPDX-License-Identifier: Apache-2.0 */
/* Low-bit import: inputs, the walk over the nodes, outputs, the one profile. */
#include "lower/lowbit.h"
#include <math.h>
#include <string.h>

/* ---- inputs --------------------------------------------------------------------------------- */

static void image_size(bb_lowbit *l, int value, int tensor) {
    bb_model_tensor *t = &l->model->tensors[tensor];
    const bb_value *v = &l->graph->values[value];
    for (int i = 0; i < 2 && t->rank == 4; i++)
        t->dims[1 + i] = v->dims[2 + i] > 0 ? v->dims[2 + i] : -1;
}

/* Raw pixels p = 0..255, whose real values are (p*scale - mean[c])/std[c]. */
static bb_status pixel_input(bb_lowbit *l, int value, int *tensor) {
    const bb_quantize_options *o = l->options;
    bb_uniform pixels = {.bits = 8, .low = 0, .unit = 1, .last = 255};
    BB_TRY(bb_lb_tensor(l, value, "", &pixels, tensor));
    uint32_t channels = bb_lb_channels(l, value);
    bool uniform = true;
    for (uint32_t c = 1; c < channels && c < 4; c++)
        uniform = uniform && o->mean[c] == o->mean[0] && o->std[c] == o->std[0];
    if (channels > 4 && l->graph->values[value].rank == 4)
        return bb_fail(l->err, BB_STATUS_UNSUPPORTED, "%s: pixels with %u channels", l->graph->name,
                       channels);
    bb_root *root;
    bb_lb_codes codes = {*tensor, pixels};
    BB_TRY(bb_lb_codes_root(l, value, &codes, &root));
    if (!uniform) {
        bb_arena *arena = l->graph->arena;
        root->channels = channels;
        root->low = bb_arena_array(arena, channels, sizeof(*root->low));
        root->high = bb_arena_array(arena, channels, sizeof(*root->high));
        root->scale = bb_arena_array(arena, channels, sizeof(*root->scale));
        root->bias = bb_arena_array(arena, channels, sizeof(*root->bias));
        if (!root->low || !root->high || !root->scale || !root->bias)
            return bb_fail_memory(l->err, "the import");
    }
    for (uint32_t c = 0; c < root->channels; c++) {
        double std = (double)o->std[c] != 0 ? (double)o->std[c] : 1;
        root->high[c] = 510; /* z = 2p */
        root->scale[c] = (double)o->pixel_scale / std / 2;
        root->bias[c] = -(double)o->mean[c] / std;
    }
    root->grid.unit = 2 * root->scale[0];
    root->grid.low = root->bias[0];
    return BB_STATUS_OK;
}

/* Inputs that hold k/scale only, or integers. */
static bb_status level_input(bb_lowbit *l, int value, double low, double high, double unit,
                             int *tensor) {
    bb_uniform grid = {1, low * unit, unit, (uint32_t)(high - low)};
    bool whole;
    if (!(high > low) || high - low > 255)
        return bb_fail(l->err, BB_STATUS_INVALID_ARGUMENT, "input levels %g..%g are not 2..256",
                       low, high);
    while ((UINT32_C(1) << grid.bits) - 1 < grid.last)
        grid.bits++;
    bb_lb_a0(&grid, &whole);
    if (!whole)
        return bb_fail(l->err, BB_STATUS_INVALID_ARGUMENT, "input levels %g..%g are not whole", low,
                       high);
    BB_TRY(bb_lb_tensor(l, value, "", &grid, tensor));
    bb_root *root;
    bb_lb_codes codes = {*tensor, grid};
    return bb_lb_codes_root(l, value, &codes, &root);
}

static bb_status add_input(bb_lowbit *l, int value) {
    const bb_quantize_options *o = l->options;
    const bb_value *v = &l->graph->values[value];
    int tensor;
    if (v->dtype != BB_DTYPE_F32) {
        int64_t low, high;
        bb_dtype_range(v->dtype, &low, &high);
        if (high - low > 255)
            return bb_fail(l->err, BB_STATUS_UNSUPPORTED, "%s: input '%s' of type %s",
                           l->graph->name, v->name, bb_dtype_name(v->dtype));
        BB_TRY(level_input(l, value, (double)low, (double)high, 1, &tensor));
    } else if (o && o->pixels) {
        BB_TRY(pixel_input(l, value, &tensor));
    } else if (o && o->round_levels) {
        BB_TRY(level_input(l, value, (double)o->levels_min, (double)o->levels_max,
                           1 / (double)o->levels_scale, &tensor));
    } else {
        BB_TRY(bb_lb_tensor(l, value, "", NULL, &tensor));
        BB_TRY(bb_lb_float_root(l, value, tensor));
    }
    image_size(l, value, tensor);
    return bb_model_add_input(l->model, tensor) ? BB_STATUS_OK
                                                : bb_fail_memory(l->err, "the model");
}

/* ---- the whole ------------------------------------------------------------------------------ */

static bb_status add_output(bb_lowbit *l, int value) {
    int tensor;
    if (l->root_of[value] >= 0 && l->roots[l->root_of[value]].flat_pixels)
        return bb_fail(l->err, BB_STATUS_UNSUPPORTED,
                       "%s: output '%s' is an image flattened channel by channel", l->graph->name,
                       l->graph->values[value].name);
    BB_TRY(bb_lb_real_of(l, value, &tensor));
    return bb_model_add_output(l->model, tensor) ? BB_STATUS_OK
                                                 : bb_fail_memory(l->err, "the model");
}

/* Residual inputs may have been made after the convolution that takes them: nodes in an order in
 * which everything is made before it is used. */
static bb_status sort_nodes(bb_lowbit *l) {
    bb_model *m = l->model;
    bool *made = bb_calloc_array(m->n_tensors + 1, sizeof(*made));
    bool *placed = bb_calloc_array(m->n_nodes + 1, sizeof(*placed));
    bb_model_node *nodes = bb_alloc_array(m->n_nodes + 1, sizeof(*nodes));
    bb_conv_params *convs = bb_alloc_array(m->n_nodes + 1, sizeof(*convs));
    bool ok = made && placed && nodes && convs;
    size_t n = 0;
    for (size_t i = 0; ok && i < m->n_inputs; i++)
        made[m->inputs[i]] = true;
    for (bool any = true; ok && any && n < m->n_nodes;) {
        any = false;
        for (size_t i = 0; i < m->n_nodes; i++) {
            const bb_model_node *node = &m->nodes[i];
            bool ready = !placed[i];
            for (int k = 0; k < node->n_in; k++)
                ready = ready && made[node->in[k]];
            if (!ready)
                continue;
            for (int k = 0; k < node->n_out; k++)
                made[node->out[k]] = true;
            convs[n] = l->convs[i];
            nodes[n++] = *node;
            placed[i] = any = true;
        }
    }
    bool all = ok && n == m->n_nodes;
    if (all) {
        memcpy(m->nodes, nodes, n * sizeof(*nodes));
        memcpy(l->convs, convs, n * sizeof(*convs));
    }
    bb_free(made);
    bb_free(placed);
    bb_free(nodes);
    bb_free(convs);
    if (!ok)
        return bb_fail_memory(l->err, "the model");
    return all ? BB_STATUS_OK
               : bb_fail(l->err, BB_STATUS_INTERNAL, "%s: layers form a cycle", l->graph->name);
}

static uint32_t most_common(const uint64_t *by_bits) {
    uint32_t best = 8;
    for (uint32_t bits = 8; bits >= 1; bits--)
        if (by_bits[bits] > by_bits[best])
            best = bits;
    return best;
}

static bb_status add_profile(bb_lowbit *l) {
    bb_profile *profile = bb_model_add_profile(l->model, most_common(l->by_weight_bits),
                                               most_common(l->by_activation_bits));
    if (!profile)
        return bb_fail_memory(l->err, "the model");
    memcpy(profile->tensors, l->params, l->model->n_tensors * sizeof(*l->params));
    memcpy(profile->convs, l->convs, l->model->n_nodes * sizeof(*l->convs));
    return BB_STATUS_OK;
}

static bb_status import(bb_lowbit *l) {
    for (size_t i = 0; i < l->graph->n_inputs; i++)
        BB_TRY(add_input(l, l->graph->inputs[i]));
    for (size_t i = 0; i < l->graph->n_nodes; i++)
        BB_TRY(bb_lb_node_of(l, &l->graph->nodes[i]));
    for (size_t i = 0; i < l->graph->n_outputs; i++)
        BB_TRY(add_output(l, l->graph->outputs[i]));
    BB_TRY(bb_lower_metadata(l->graph, l->options, l->model, l->err));
    BB_TRY(sort_nodes(l));
    BB_TRY(add_profile(l));
    return bb_model_validate(l->model, l->err);
}

static bool allocate(bb_lowbit *l) {
    size_t n = l->graph->n_values + 1;
    bb_arena *arena = l->graph->arena;
    l->model = bb_model_create();
    l->root_of = bb_arena_array(arena, n, sizeof(*l->root_of));
    l->codes = bb_arena_array(arena, n, sizeof(*l->codes));
    l->real = bb_arena_array(arena, n, sizeof(*l->real));
    l->constants = bb_arena_array(arena, n, sizeof(*l->constants));
    l->is_constant = bb_arena_array(arena, n, sizeof(*l->is_constant));
    l->slots = bb_arena_array(arena, n, sizeof(*l->slots));
    l->views = bb_arena_array(arena, n, sizeof(*l->views));
    l->params = bb_calloc_array(BB_MAX_TENSORS, sizeof(*l->params));
    l->convs = bb_calloc_array(BB_MAX_NODES, sizeof(*l->convs));
    if (!l->model || !l->root_of || !l->codes || !l->real || !l->constants || !l->is_constant ||
        !l->slots || !l->views || !l->params || !l->convs)
        return false;
    for (size_t i = 0; i < n; i++) {
        l->root_of[i] = l->real[i] = -1;
        l->codes[i].tensor = -1;
    }
    return true;
}

bb_status bb_lower_quantized(bb_graph *graph, const bb_quantize_options *options, bb_model **model,
                             bb_error *err) {
    BB_TRY(bb_lower_check_size(graph, err));
    BB_TRY(bb_lb_canonicalise(graph, err));
    BB_TRY(bb_lb_move_pools(graph, err));
    bb_lowbit l = {.graph = graph, .options = options, .err = err};
    bb_status status = allocate(&l) ? import(&l) : bb_fail_memory(err, "the import");
    bb_free(l.roots);
    bb_free(l.params);
    bb_free(l.convs);
    if (status != BB_STATUS_OK) {
        bb_model_destroy(l.model);
        return status;
    }
    *model = l.model;
    return BB_STATUS_OK;
}
