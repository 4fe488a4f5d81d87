/* SPDX-License-Identifier: Apache-2.0 */
/* Elementwise nodes, PRelu and Concat on oneDNN, in whatever layout their inputs have. */
#include "nn/program.h"
#include <string.h>

/* A destination in the layout of `src`: the source's own buffer where nobody reads it later. */
static bb_status destination(bb_executor *ex, int src, const bb_dn_layout *layout, int *dst,
                             bb_error *err) {
    *dst = src;
    if (bb_nn_may_overwrite(ex, src))
        return BB_STATUS_OK;
    return bb_nn_new_buffer(ex, bb_dn_bytes(layout), dst, err);
}

static bb_status finish(bb_executor *ex, int value, const bb_nn_tensor *like,
                        const bb_dn_layout *layout, int buffer, bb_error *err) {
    BB_TRY(bb_nn_define(ex, value, BB_DTYPE_F32, like->rank, like->dims, err));
    return bb_nn_store(ex, value, layout, buffer, err);
}

/* The one input that is not a constant, or -1. */
static int varying_input(bb_executor *ex, const bb_node *node) {
    int found = -1;
    for (int i = 0; i < node->n_in; i++) {
        const bb_nn_tensor *x = bb_nn_input(ex, node, i);
        if (!x || x->fixed)
            continue;
        if (found >= 0)
            return -1;
        found = node->in[i];
    }
    return found;
}

bb_status bb_nn_build_function(bb_executor *ex, const bb_node *node, bool *taken, bb_error *err) {
    bb_dn_posts posts = {0};
    int value = varying_input(ex, node);
    if (value < 0)
        return BB_STATUS_OK;
    const bb_nn_tensor *x = &ex->tensors[value];
    if (x->dtype != BB_DTYPE_F32 || x->elements == 0 ||
        !bb_nn_function_posts(ex, node, value, x->rank, &posts))
        return BB_STATUS_OK;
    const bb_dn_layout *layout = bb_nn_layout(ex, value);
    int src = x->forms->buffer, dst;
    if (!layout)
        return bb_fail_memory(err, "executor");
    BB_TRY(destination(ex, src, layout, &dst, err));
    for (int i = 0; i < posts.n; i++) {
        bb_dn_op *op;
        BB_TRY(bb_dn_make_function(ex->dn, &posts.post[i], layout, &op, err));
        bb_nn_arg args[2] = {{i == 0 ? src : dst, BB_DN_SRC}, {dst, BB_DN_DST}};
        BB_TRY(bb_nn_emit_op(ex, node, op, args, 2, err));
    }
    *taken = true;
    return finish(ex, node->out[0], x, layout, dst, err);
}

/* ---- two operands ---------------------------------------------------------------------------- */

bool bb_nn_binary_kind(bb_op op, bb_dn_binary *kind) {
    switch (op) {
    case BB_OP_ADD:
    case BB_OP_SUM:
        *kind = BB_DN_ADD;
        return true;
    case BB_OP_SUB:
        *kind = BB_DN_SUB;
        return true;
    case BB_OP_MUL:
        *kind = BB_DN_MUL;
        return true;
    case BB_OP_DIV:
        *kind = BB_DN_DIV;
        return true;
    case BB_OP_MAX:
        *kind = BB_DN_MAX;
        return true;
    case BB_OP_MIN:
        *kind = BB_DN_MIN;
        return true;
    default:
        return false;
    }
}

/* dims of `small` with ones in front to the rank of `full`; false unless it broadcasts to full. */
static bool broadcast_dims(const bb_nn_tensor *full, const bb_nn_tensor *small, int64_t *dims) {
    if (small->rank > full->rank || full->rank < 1)
        return false;
    for (int i = 0; i < full->rank; i++) {
        int from = i - (full->rank - small->rank);
        dims[i] = from >= 0 ? small->dims[from] : 1;
        if (dims[i] != 1 && dims[i] != full->dims[i])
            return false;
    }
    return true;
}

/* A broadcast operand in the layout an operation settled on, under its dims with ones in front. */
static bb_status broadcast_operand(bb_executor *ex, int value, int rank, const int64_t *dims,
                                   bb_dn_op *op, bb_dn_arg arg, int *buffer, bb_error *err) {
    const bb_dn_layout *plain = bb_dn_plain(ex->dn, rank, dims);
    const bb_dn_layout *wanted = bb_dn_op_layout(ex->dn, op, arg);
    int from;
    if (!plain || !wanted)
        return bb_fail_memory(err, "executor");
    BB_TRY(bb_nn_in_plain(ex, value, buffer, err));
    if (bb_dn_same(plain, wanted) || bb_dn_is_plain(wanted))
        return BB_STATUS_OK;
    from = *buffer;
    BB_TRY(bb_nn_new_buffer(ex, bb_dn_bytes(wanted), buffer, err));
    return bb_nn_emit_reorder(ex, plain, from, wanted, *buffer, err);
}

static bb_status emit_binary(bb_executor *ex, const bb_node *node, bb_dn_binary kind, int first,
                             int second, const int64_t *dims, bb_error *err) {
    const bb_nn_tensor *full = &ex->tensors[first], *small = &ex->tensors[second];
    bool equal = small->rank == full->rank && small->elements == full->elements;
    const bb_dn_layout *layout = bb_nn_layout(ex, first);
    const bb_dn_layout *src1 = equal ? layout : NULL;
    if (layout && !equal) /* oneDNN is fast on blocks where a broadcast operand has them as well */
        src1 = bb_dn_blocked_like(ex->dn, layout, full->rank, dims);
    if (!src1)
        src1 = bb_dn_plain(ex->dn, full->rank, dims);
    bb_nn_chain chain;
    bb_dn_op *op;
    bb_nn_arg args[3] = {{full->forms->buffer, BB_DN_SRC}, {0, BB_DN_SRC1}, {0, BB_DN_DST}};
    if (!layout || !src1)
        return bb_fail_memory(err, "executor");
    bb_nn_collect(ex, node->out[0], full->rank, full->dims, false, false, &chain);
    BB_TRY(bb_dn_make_binary(ex->dn, kind, layout, src1, &chain.posts, &op, err));
    if (equal)
        BB_TRY(bb_nn_in_layout(ex, second, layout, &args[1].buffer, err));
    else
        BB_TRY(
            broadcast_operand(ex, second, full->rank, dims, op, BB_DN_SRC1, &args[1].buffer, err));
    BB_TRY(destination(ex, args[0].buffer, layout, &args[2].buffer, err));
    BB_TRY(bb_nn_emit_op(ex, node, op, args, 3, err));
    BB_TRY(finish(ex, chain.value, full, layout, args[2].buffer, err));
    bb_nn_consume_chain(ex, &chain);
    return BB_STATUS_OK;
}

bb_status bb_nn_build_binary(bb_executor *ex, const bb_node *node, bool *taken, bb_error *err) {
    bb_dn_binary kind;
    BB_TRY(bb_nn_build_function(ex, node, taken, err));
    if (*taken || node->n_in != 2 || !bb_nn_binary_kind(node->op, &kind))
        return BB_STATUS_OK;
    const bb_nn_tensor *a = bb_nn_input(ex, node, 0), *b = bb_nn_input(ex, node, 1);
    if (!a || !b || a->dtype != BB_DTYPE_F32 || b->dtype != BB_DTYPE_F32 || a->elements == 0 ||
        b->elements == 0)
        return BB_STATUS_OK;
    int64_t dims[BB_MAX_RANK];
    bool commutes = kind != BB_DN_SUB && kind != BB_DN_DIV;
    bool straight = broadcast_dims(a, b, dims);
    /* A blocked layout is worth more in the first operand: the second follows it. */
    bool swap = commutes && broadcast_dims(b, a, dims) &&
                (!straight || (b->forms->layout && !a->forms->layout));
    if (!swap && !broadcast_dims(a, b, dims))
        return BB_STATUS_OK;
    *taken = true;
    return emit_binary(ex, node, kind, node->in[swap ? 1 : 0], node->in[swap ? 0 : 1], dims, err);
}

/* ---- PRelu ----------------------------------------------------------------------------------- */

bb_status bb_nn_build_prelu(bb_executor *ex, const bb_node *node, bool *taken, bb_error *err) {
    const bb_nn_tensor *x = bb_nn_input(ex, node, 0), *slope = bb_nn_input(ex, node, 1);
    int64_t dims[BB_MAX_RANK];
    if (x->dtype != BB_DTYPE_F32 || slope->dtype != BB_DTYPE_F32 || x->elements == 0 ||
        !broadcast_dims(x, slope, dims))
        return BB_STATUS_OK;
    const bb_dn_layout *layout = bb_nn_layout(ex, node->in[0]);
    const bb_dn_layout *any = bb_dn_any(ex->dn, x->rank, dims);
    bb_dn_op *op;
    bb_nn_arg args[3] = {{x->forms->buffer, BB_DN_SRC}, {0, BB_DN_WEIGHTS}, {0, BB_DN_DST}};
    if (!layout || !any)
        return bb_fail_memory(err, "executor");
    BB_TRY(bb_dn_make_prelu(ex->dn, layout, any, &op, err));
    BB_TRY(
        broadcast_operand(ex, node->in[1], x->rank, dims, op, BB_DN_WEIGHTS, &args[1].buffer, err));
    BB_TRY(destination(ex, args[0].buffer, layout, &args[2].buffer, err));
    BB_TRY(bb_nn_emit_op(ex, node, op, args, 3, err));
    *taken = true;
    return finish(ex, node->out[0], x, layout, args[2].buffer, err);
}

/* ---- Concat ---------------------------------------------------------------------------------- */

static bool concat_dims(bb_executor *ex, const bb_node *node, int axis, int64_t *dims) {
    const bb_nn_tensor *first = bb_nn_input(ex, node, 0);
    memcpy(dims, first->dims, sizeof(first->dims));
    dims[axis] = 0;
    for (int i = 0; i < node->n_in; i++) {
        const bb_nn_tensor *x = bb_nn_input(ex, node, i);
        if (!x || x->dtype != BB_DTYPE_F32 || x->rank != first->rank || x->elements == 0)
            return false;
        for (int d = 0; d < x->rank; d++)
            if (d != axis && x->dims[d] != dims[d])
                return false;
        dims[axis] += x->dims[axis];
    }
    return true;
}

typedef struct interleave {
    size_t pixels, total;
    size_t *channels; /* per input */
} interleave;

static bb_status run_interleave(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    const interleave *s = step->state;
    int n = step->n_args - 1;
    float *to = step->data[n];
    for (int i = 0; i < n; i++) {
        const float *from = step->data[i];
        size_t channels = s->channels[i];
        for (size_t p = 0; p < s->pixels; p++)
            memcpy(to + p * s->total, from + p * channels, channels * sizeof(*to));
        to += channels;
    }
    return BB_STATUS_OK;
}

/* Concat along channels of tensors that mostly have their channels innermost. */
static bool worth_interleaving(bb_executor *ex, const bb_node *node, int64_t axis) {
    int n = 0;
    if (axis != 1 || bb_nn_input(ex, node, 0)->rank < 3)
        return false;
    for (int i = 0; i < node->n_in; i++)
        n += bb_nn_is_channels_last(ex, node->in[i]);
    return 2 * n >= node->n_in;
}

static bb_status build_interleave(bb_executor *ex, const bb_node *node, int rank,
                                  const int64_t *dims, bb_error *err) {
    size_t n = (size_t)node->n_in;
    interleave *state = bb_arena_alloc(ex->arena, sizeof(*state));
    bb_nn_arg *args = bb_arena_array(ex->arena, n + 1, sizeof(*args));
    const bb_dn_layout *dst = bb_dn_channels_last(ex->dn, rank, dims);
    if (!state || !args || !dst ||
        !(state->channels = bb_arena_array(ex->arena, n, sizeof(*state->channels))))
        return bb_fail_memory(err, "concatenation");
    for (int i = 0; i < node->n_in; i++) {
        const bb_nn_tensor *x = bb_nn_input(ex, node, i);
        const bb_dn_layout *layout = bb_dn_channels_last(ex->dn, rank, x->dims);
        if (!layout)
            return bb_fail_memory(err, "concatenation");
        BB_TRY(bb_nn_in_layout(ex, node->in[i], layout, &args[i].buffer, err));
        state->channels[i] = (size_t)x->dims[1];
    }
    BB_TRY(bb_nn_define(ex, node->out[0], BB_DTYPE_F32, rank, dims, err));
    state->total = (size_t)dims[1];
    state->pixels = ex->tensors[node->out[0]].elements / state->total;
    BB_TRY(bb_nn_new_buffer(ex, bb_dn_bytes(dst), &args[n].buffer, err));
    BB_TRY(bb_nn_store(ex, node->out[0], dst, args[n].buffer, err));
    bb_nn_step step = {.run = run_interleave, .node = node, .state = state, .tap = -1};
    return bb_nn_emit(ex, &step, args, node->n_in + 1, err);
}

/* A concat is only worth keeping in oneDNN's layouts where it has a real kernel for them. */
static bb_status make_concat(bb_executor *ex, const bb_node *node, int axis, int rank,
                             const int64_t *dims, bool plain, bb_dn_op **op, bb_error *err) {
    const bb_dn_layout **src = bb_alloc_array((size_t)node->n_in, sizeof(*src));
    if (!src)
        return bb_fail_memory(err, "concatenation");
    bool ok = true;
    for (int i = 0; i < node->n_in; i++) {
        const bb_nn_tensor *x = bb_nn_input(ex, node, i);
        src[i] = plain ? bb_dn_plain(ex->dn, x->rank, x->dims) : bb_nn_layout(ex, node->in[i]);
        ok = ok && src[i];
    }
    const bb_dn_layout *dst =
        plain ? bb_dn_plain(ex->dn, rank, dims) : bb_dn_any(ex->dn, rank, dims);
    bb_status status = ok && dst ? bb_dn_make_concat(ex->dn, axis, node->n_in, src, dst, op, err)
                                 : bb_fail_memory(err, "concatenation");
    bb_free(src);
    return status;
}

static bool all_blocked(bb_executor *ex, const bb_node *node) {
    for (int i = 0; i < node->n_in; i++)
        if (!bb_nn_input(ex, node, i)->forms->layout)
            return false;
    return true;
}

static bb_status emit_concat(bb_executor *ex, const bb_node *node, bb_dn_op *op, bool plain,
                             bb_error *err) {
    bb_nn_arg *args = bb_alloc_array((size_t)node->n_in + 1, sizeof(*args));
    if (!args)
        return bb_fail_memory(err, "concatenation");
    bb_status status = BB_STATUS_OK;
    for (int i = 0; i < node->n_in && status == BB_STATUS_OK; i++) {
        args[i] = (bb_nn_arg){ex->tensors[node->in[i]].forms->buffer, BB_DN_MULTIPLE + i};
        if (plain)
            status = bb_nn_in_plain(ex, node->in[i], &args[i].buffer, err);
    }
    const bb_dn_layout *dst = bb_dn_op_layout(ex->dn, op, BB_DN_DST);
    bb_nn_arg *out = &args[node->n_in];
    out->role = BB_DN_DST;
    if (status == BB_STATUS_OK)
        status = dst ? bb_nn_new_buffer(ex, bb_dn_bytes(dst), &out->buffer, err)
                     : bb_fail_memory(err, "concatenation");
    if (status == BB_STATUS_OK)
        status = bb_nn_emit_op(ex, node, op, args, node->n_in + 1, err);
    if (status == BB_STATUS_OK)
        status = bb_nn_store(ex, node->out[0], dst, out->buffer, err);
    bb_free(args);
    return status;
}

bb_status bb_nn_build_concat(bb_executor *ex, const bb_node *node, bool *taken, bb_error *err) {
    const bb_nn_tensor *first = bb_nn_input(ex, node, 0);
    if (!first || first->rank < 1)
        return BB_STATUS_OK;
    int64_t axis = bb_node_int(node, "axis", 0), dims[BB_MAX_RANK];
    if (axis < 0)
        axis += first->rank;
    if (axis < 0 || axis >= first->rank || !concat_dims(ex, node, (int)axis, dims))
        return BB_STATUS_OK;
    if (worth_interleaving(ex, node, axis)) {
        *taken = true;
        return build_interleave(ex, node, first->rank, dims, err);
    }
    bb_dn_op *op = NULL;
    bool plain = !all_blocked(ex, node);
    if (!plain)
        plain =
            make_concat(ex, node, (int)axis, first->rank, dims, false, &op, NULL) != BB_STATUS_OK ||
            strstr(bb_dn_op_implementation(op), "ref");
    if (plain)
        BB_TRY(make_concat(ex, node, (int)axis, first->rank, dims, true, &op, err));
    BB_TRY(bb_nn_define(ex, node->out[0], BB_DTYPE_F32, first->rank, dims, err));
    *taken = true;
    return emit_concat(ex, node, op, plain, err);
}
