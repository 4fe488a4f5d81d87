/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Nodes that only move elements: Transpose, Slice, Pad, Gather, Expand, Tile, Split, DepthToSpace
 * and relatives. Where each element comes from is found by running the operator once on the
 * numbers 0, 1, 2, ...: no second definition of any of them. Resize is a linear map of its own.
 */
#include "nn/gradient_internal.h"
#include <string.h>

/* y[i] = x[from[i]], or `fill` where from[i] is negative. `from` covers one of `images` equal parts
 * where the node treats all images alike. */
typedef struct map {
    size_t images, in, out; /* elements per image */
    const int32_t *from;
    float fill;
} map;

static bb_status run_gather(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    const map *m = step->state;
    const float *x = step->data[0];
    float *y = step->data[1];
    for (size_t n = 0; n < m->images; n++, x += m->in, y += m->out)
        for (size_t i = 0; i < m->out; i++)
            y[i] = m->from[i] >= 0 ? x[m->from[i]] : m->fill;
    return BB_STATUS_OK;
}

static bb_status run_scatter(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    const map *m = step->state;
    const float *dy = step->data[0];
    float *dx = step->data[1];
    memset(dx, 0, m->images * m->in * sizeof(*dx));
    for (size_t n = 0; n < m->images; n++, dx += m->in, dy += m->out)
        for (size_t i = 0; i < m->out; i++)
            if (m->from[i] >= 0)
                dx[m->from[i]] += dy[i];
    return BB_STATUS_OK;
}

/* ---- finding the map ------------------------------------------------------------------------- */

/* Keeps the part of one image where all images are alike. */
static void fold_images(const bb_array *x, const bb_array *y, map *m) {
    if (x->rank < 2 || y->rank < 2 || x->dims[0] != y->dims[0] || x->dims[0] < 2)
        return;
    size_t images = (size_t)x->dims[0], in = m->in / images, out = m->out / images;
    for (size_t i = 0; i < m->out; i++) {
        int32_t first = m->from[i % out];
        int64_t want = first < 0 ? first : (int64_t)first + (int64_t)(i / out * in);
        if (m->from[i] != want || first >= (int64_t)in)
            return;
    }
    m->images = images;
    m->in = in;
    m->out = out;
}

/* Inputs for the run on numbers: input 0 replaced, a Pad's fill value as well. */
static bb_status number_inputs(bb_gradient *g, const bb_node *node, bb_array *inputs,
                               bb_arena *arena, float *fill, bb_error *err) {
    static const int32_t outside = -1;
    *fill = 0.0f;
    for (int i = 0; i < node->n_in; i++) {
        const bb_nn_tensor *t = bb_nn_input(g->ex, node, i);
        inputs[i] = (bb_array){.rank = -1};
        if (!t)
            continue;
        inputs[i] = (bb_array){.dtype = t->dtype, .rank = t->rank};
        memcpy(inputs[i].dims, t->dims, sizeof(t->dims));
        inputs[i].data = (void *)(uintptr_t)t->fixed;
        if (i > 0 && !t->fixed)
            return bb_fail(err, BB_STATUS_UNSUPPORTED, "input %d depends on data", i);
        if (i == 2 && node->op == BB_OP_PAD && t->dtype == BB_DTYPE_F32 && t->elements == 1) {
            *fill = *(const float *)t->fixed;
            inputs[i].dtype = BB_DTYPE_I32;
            inputs[i].data = (void *)(uintptr_t)&outside;
        }
    }
    size_t n = bb_nn_input(g->ex, node, 0)->elements;
    int32_t *numbers = n <= INT32_MAX ? bb_arena_array(arena, n, sizeof(*numbers)) : NULL;
    if (!numbers)
        return bb_fail_memory(err, "index map");
    for (size_t i = 0; i < n; i++)
        numbers[i] = (int32_t)i;
    inputs[0].dtype = BB_DTYPE_I32;
    inputs[0].data = numbers;
    return BB_STATUS_OK;
}

/* Constant mode fills with 0 where no value is given; on numbers that must be -1. */
static bool pads_with_zero(const bb_node *node) {
    return node->op == BB_OP_PAD && !bb_node_has_input(node, 2) &&
           strcmp(bb_node_string(node, "mode", "constant"), "constant") == 0;
}

static bb_status run_on_numbers(bb_gradient *g, const bb_node *node, bb_array *outputs, float *fill,
                                bb_error *err) {
    bb_node numbered = *node;
    static const int32_t outside = -1;
    int n_in = node->n_in < 3 ? 3 : node->n_in;
    bb_array *inputs = bb_grad_alloc(g, (size_t)n_in, sizeof(*inputs));
    int *in = bb_grad_alloc(g, (size_t)n_in, sizeof(*in));
    if (!inputs || !in)
        return bb_fail_memory(err, "index map");
    BB_TRY(number_inputs(g, node, inputs, g->ex->arena, fill, err));
    for (int i = 0; i < n_in; i++)
        in[i] = i < node->n_in ? node->in[i] : -1;
    if (pads_with_zero(node)) {
        in[2] = node->in[0]; /* any value: only its presence counts */
        inputs[2] = (bb_array){.dtype = BB_DTYPE_I32, .data = (void *)(uintptr_t)&outside};
        numbered.n_in = n_in;
    }
    numbered.in = in;
    for (int i = 0; i < node->n_out; i++)
        outputs[i] = (bb_array){.rank = -1};
    return bb_eval_node(g->ex->graph, &numbered, inputs, outputs, g->ex->arena, err);
}

/* ---- the node -------------------------------------------------------------------------------- */

static bb_status add_scatter(bb_gradient *g, const bb_node *node, int output, map *m,
                             bb_error *err) {
    bb_nn_arg args[2] = {{0, 0}, {0, 0}};
    BB_TRY(bb_grad_read(g, output, NULL, &args[0].buffer, NULL, err));
    if (args[0].buffer < 0)
        return BB_STATUS_OK;
    BB_TRY(bb_grad_target(g, node->in[0], &args[1].buffer, err));
    BB_TRY(bb_grad_emit(g, node, run_scatter, m, args, 2, err));
    return bb_grad_add(g, node->in[0], NULL, args[1].buffer, err);
}

static bb_status backward(bb_gradient *g, const bb_grad_entry *entry, bb_error *err) {
    map *maps = entry->state;
    for (int i = 0; i < entry->node->n_out; i++)
        if (entry->node->out[i] >= 0)
            BB_TRY(add_scatter(g, entry->node, entry->node->out[i], &maps[i], err));
    return BB_STATUS_OK;
}

bb_status bb_grad_build_move(bb_gradient *g, const bb_node *node, bb_error *err) {
    bb_executor *ex = g->ex;
    const bb_nn_tensor *x = bb_nn_input(ex, node, 0);
    map *maps = bb_grad_alloc(g, (size_t)node->n_out, sizeof(*maps));
    bb_array *outputs = bb_grad_alloc(g, (size_t)node->n_out, sizeof(*outputs));
    bb_nn_arg args[2] = {{0, 0}, {0, 0}};
    float fill = 0.0f;
    if (!maps || !outputs)
        return bb_fail_memory(err, "index map");
    if (!x || x->dtype != BB_DTYPE_F32 || x->elements == 0)
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "no gradient for this input is known");
    BB_TRY(run_on_numbers(g, node, outputs, &fill, err));
    BB_TRY(bb_nn_in_plain(ex, node->in[0], &args[0].buffer, err));
    bb_array in = {.rank = x->rank};
    memcpy(in.dims, x->dims, sizeof(x->dims));
    for (int i = 0; i < node->n_out; i++) {
        if (node->out[i] < 0)
            continue;
        BB_TRY(bb_nn_define(ex, node->out[i], BB_DTYPE_F32, outputs[i].rank, outputs[i].dims, err));
        maps[i] = (map){1, x->elements, ex->tensors[node->out[i]].elements, outputs[i].data, fill};
        fold_images(&in, &outputs[i], &maps[i]);
        BB_TRY(bb_nn_new_plain(ex, node->out[i], &args[1].buffer, err));
        BB_TRY(bb_grad_emit(g, node, run_gather, &maps[i], args, 2, err));
    }
    return bb_grad_push(g, node, backward, maps, err);
}

/* ---- Resize ---------------------------------------------------------------------------------- */

static bb_status resize_backward(bb_gradient *g, const bb_grad_entry *entry, bb_error *err) {
    int dy, dx;
    BB_TRY(bb_grad_read(g, entry->node->out[0], NULL, &dy, NULL, err));
    if (dy < 0)
        return BB_STATUS_OK;
    BB_TRY(bb_grad_target(g, entry->node->in[0], &dx, err));
    BB_TRY(bb_nn_build_resize_backward(g->ex, entry->node, entry->state, dy, dx, err));
    return bb_grad_add(g, entry->node->in[0], NULL, dx, err);
}

bb_status bb_grad_build_resize(bb_gradient *g, const bb_node *node, bb_error *err) {
    if (bb_nn_input(g->ex, node, 0)->dtype != BB_DTYPE_F32)
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "no gradient for this input is known");
    BB_TRY(bb_nn_build_resize(g->ex, node, err));
    return bb_grad_push(g, node, resize_backward, g->ex->steps[g->ex->n_steps - 1].state, err);
}
