/* SPDX-License-Identifier: Apache-2.0 */
/* Concat: whole blocks of channels where all inputs have such, else row-major. */
#include "nn/gradient_internal.h"
#include <string.h>

/* [outer][chunk of input 0, chunk of input 1, ...] */
typedef struct concat_state {
    size_t outer, total;
    size_t *chunk;
    const bb_dn_layout **layout; /* of each input; NULL: row-major */
    const bb_dn_layout *result;
} concat_state;

typedef struct part_state {
    size_t outer, total, at, chunk;
} part_state;

/* args: whole, part */
static bb_status run_put(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    const part_state *s = step->state;
    float *whole = (float *)step->data[0] + s->at;
    const float *part = step->data[1];
    for (size_t o = 0; o < s->outer; o++)
        memcpy(whole + o * s->total, part + o * s->chunk, s->chunk * sizeof(*part));
    return BB_STATUS_OK;
}

static bb_status run_take(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    const part_state *s = step->state;
    const float *whole = (const float *)step->data[0] + s->at;
    float *part = step->data[1];
    for (size_t o = 0; o < s->outer; o++)
        memcpy(part + o * s->chunk, whole + o * s->total, s->chunk * sizeof(*part));
    return BB_STATUS_OK;
}

static bb_status emit_part(bb_gradient *g, const bb_node *node, const concat_state *s, int i,
                           bb_nn_run_fn run, int whole, int part, bb_error *err) {
    part_state *p = bb_grad_alloc(g, 1, sizeof(*p));
    bb_nn_arg args[2] = {{whole, 0}, {part, 0}};
    if (!p)
        return bb_fail_memory(err, "concatenation");
    *p = (part_state){s->outer, s->total, 0, s->chunk[i]};
    for (int k = 0; k < i; k++)
        p->at += s->chunk[k];
    return bb_grad_emit(g, node, run, p, args, 2, err);
}

static bb_status backward(bb_gradient *g, const bb_grad_entry *entry, bb_error *err) {
    const concat_state *s = entry->state;
    const bb_node *node = entry->node;
    int dy, dx;
    BB_TRY(bb_grad_read(g, node->out[0], s->result, &dy, NULL, err));
    for (int i = 0; dy >= 0 && i < node->n_in; i++) {
        if (!bb_grad_wants(g, node, i))
            continue;
        BB_TRY(bb_nn_new_buffer(g->ex, s->outer * s->chunk[i] * sizeof(float), &dx, err));
        BB_TRY(emit_part(g, node, s, i, run_take, dy, dx, err));
        BB_TRY(bb_grad_add(g, node->in[i], s->layout[i], dx, err));
    }
    return BB_STATUS_OK;
}

/* Blocks as the first blocked input has them, for all of them and the result. */
static bool plan_blocks(bb_gradient *g, const bb_node *node, int rank, const int64_t *dims,
                        concat_state *s) {
    const bb_dn_layout *like = NULL;
    bb_dn_channels form;
    for (int i = 0; i < node->n_in && !like; i++)
        like = bb_nn_input(g->ex, node, i)->forms->layout;
    if (!like || !(s->result = bb_dn_blocked_like(g->ex->dn, like, rank, dims)) ||
        !bb_dn_as_channels(s->result, &form) || bb_nn_has_padding(&form))
        return false;
    s->outer = form.images;
    s->total = form.blocks * form.pixels * form.lanes;
    for (int i = 0; i < node->n_in; i++) {
        const bb_nn_tensor *x = bb_nn_input(g->ex, node, i);
        s->layout[i] = bb_dn_blocked_like(g->ex->dn, like, rank, x->dims);
        if (!s->layout[i] || !bb_dn_as_channels(s->layout[i], &form) || bb_nn_has_padding(&form))
            return false;
        s->chunk[i] = form.blocks * form.pixels * form.lanes;
    }
    return true;
}

static void plan_plain(bb_gradient *g, const bb_node *node, int axis, int rank, const int64_t *dims,
                       concat_state *s) {
    size_t inner = 1;
    s->outer = 1;
    s->result = NULL;
    for (int d = 0; d < rank; d++)
        if (d != axis)
            *(d < axis ? &s->outer : &inner) *= (size_t)dims[d];
    s->total = inner * (size_t)dims[axis];
    for (int i = 0; i < node->n_in; i++) {
        s->layout[i] = NULL;
        s->chunk[i] = inner * (size_t)bb_nn_input(g->ex, node, i)->dims[axis];
    }
}

static bb_status result_dims(bb_gradient *g, const bb_node *node, int *axis, int64_t *dims,
                             bb_error *err) {
    const bb_nn_tensor *first = bb_nn_input(g->ex, node, 0);
    int64_t at = bb_node_int(node, "axis", 0);
    bool ok = first && first->rank > 0;
    if (ok && at < 0)
        at += first->rank;
    ok = ok && at >= 0 && at < first->rank;
    if (ok)
        memcpy(dims, first->dims, sizeof(first->dims));
    for (int i = 1; ok && i < node->n_in; i++) {
        const bb_nn_tensor *x = bb_nn_input(g->ex, node, i);
        ok = x && x->rank == first->rank;
        for (int d = 0; ok && d < x->rank; d++)
            ok = d == at || x->dims[d] == dims[d];
        if (ok)
            dims[at] += x->dims[at];
    }
    for (int i = 0; ok && i < node->n_in; i++)
        ok = bb_nn_input(g->ex, node, i)->dtype == BB_DTYPE_F32 &&
             bb_nn_input(g->ex, node, i)->elements > 0;
    *axis = (int)at;
    return ok ? BB_STATUS_OK
              : bb_fail(err, BB_STATUS_UNSUPPORTED, "these tensors cannot be joined");
}

bb_status bb_grad_build_concat(bb_gradient *g, const bb_node *node, bb_error *err) {
    bb_executor *ex = g->ex;
    concat_state *s = bb_grad_alloc(g, 1, sizeof(*s));
    int64_t dims[BB_MAX_RANK];
    int axis, y, x;
    BB_TRY(result_dims(g, node, &axis, dims, err));
    int rank = bb_nn_input(ex, node, 0)->rank;
    if (s) {
        s->chunk = bb_grad_alloc(g, (size_t)node->n_in, sizeof(*s->chunk));
        s->layout = bb_grad_alloc(g, (size_t)node->n_in, sizeof(const bb_dn_layout *));
    }
    if (!s || !s->chunk || !s->layout)
        return bb_fail_memory(err, "concatenation");
    if (axis != 1 || rank < 3 || !plan_blocks(g, node, rank, dims, s))
        plan_plain(g, node, axis, rank, dims, s);
    BB_TRY(bb_nn_new_buffer(ex, s->outer * s->total * sizeof(float), &y, err));
    for (int i = 0; i < node->n_in; i++) {
        if (s->layout[i])
            BB_TRY(bb_nn_in_layout(ex, node->in[i], s->layout[i], &x, err));
        else
            BB_TRY(bb_nn_in_plain(ex, node->in[i], &x, err));
        BB_TRY(emit_part(g, node, s, i, run_put, y, x, err));
    }
    BB_TRY(bb_nn_define(ex, node->out[0], BB_DTYPE_F32, rank, dims, err));
    BB_TRY(bb_nn_store(ex, node->out[0], s->result, y, err));
    return bb_grad_push(g, node, backward, s, err);
}
