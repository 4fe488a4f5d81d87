/* SPDX-License-Identifier: Apache-2.0 */
/* MaxPool, AveragePool and the global average. */
#include "nn/clones.h"
#include "nn/gradient_internal.h"
#include <string.h>

typedef struct pool_state {
    bb_dn_pool pool;
    const bb_dn_layout *layout;
    bb_dn_op *forward;
    int workspace;
} pool_state;

static bb_status backward(bb_gradient *g, const bb_grad_entry *entry, bb_error *err) {
    const pool_state *s = entry->state;
    const bb_node *node = entry->node;
    const bb_dn_layout *dst = bb_dn_op_layout(g->ex->dn, s->forward, BB_DN_DST);
    bb_nn_arg args[3] = {{0, BB_DN_DIFF_DST}, {0, BB_DN_DIFF_SRC}, {s->workspace, BB_DN_WORKSPACE}};
    bb_dn_op *op;
    if (!dst)
        return bb_fail_memory(err, "pooling");
    BB_TRY(bb_grad_read(g, node->out[0], dst, &args[0].buffer, NULL, err));
    if (args[0].buffer < 0)
        return BB_STATUS_OK;
    BB_TRY(bb_dn_make_pool_backward(g->ex->dn, &s->pool, s->layout, s->forward, &op, err));
    BB_TRY(bb_nn_new_buffer(g->ex, bb_dn_bytes(s->layout), &args[1].buffer, err));
    BB_TRY(bb_nn_emit_op(g->ex, node, op, args, s->workspace >= 0 ? 3 : 2, err));
    return bb_grad_add(g, node->in[0], s->layout, args[1].buffer, err);
}

/* A global maximum is a window as large as the image. *exact: oneDNN counts as ONNX does. */
static bb_status geometry(bb_gradient *g, const bb_node *node, bb_dn_pool *pool, bool *exact,
                          bb_error *err) {
    const bb_nn_tensor *x = bb_nn_input(g->ex, node, 0);
    bb_window window;
    if (x->dtype != BB_DTYPE_F32 || x->rank < 3 || x->rank > 5 || x->elements == 0 ||
        (node->n_out > 1 && node->out[1] >= 0))
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "no gradient of such pooling is known");
    *exact = true;
    if (node->op != BB_OP_GLOBAL_MAX_POOL) {
        BB_TRY(bb_nn_pool_geometry(g->ex, node, pool, &window, err));
        *exact = node->op != BB_OP_AVERAGE_POOL || bb_nn_pool_is_exact(&window);
        return BB_STATUS_OK;
    }
    *pool = (bb_dn_pool){.kind = BB_DN_POOL_MAX, .rank = x->rank};
    for (int i = 0; i < x->rank; i++)
        pool->dst[i] = i < 2 ? x->dims[i] : 1;
    for (int i = 0; i < x->rank - 2; i++) {
        pool->kernel[i] = x->dims[2 + i];
        pool->stride[i] = pool->dilation[i] = 1;
    }
    return BB_STATUS_OK;
}

/* ---- means that count padding, but not what ceil_mode adds: row-major loops ------------------ */

static bb_status average_backward(bb_gradient *g, const bb_grad_entry *entry, bb_error *err) {
    const bb_node *node = entry->node;
    int dy, dx;
    BB_TRY(bb_grad_read(g, node->out[0], NULL, &dy, NULL, err));
    if (dy < 0)
        return BB_STATUS_OK;
    BB_TRY(bb_grad_target(g, node->in[0], &dx, err));
    BB_TRY(bb_nn_build_average_backward(g->ex, node, entry->state, dy, dx, err));
    return bb_grad_add(g, node->in[0], NULL, dx, err);
}

static bb_status build_average(bb_gradient *g, const bb_node *node, bb_error *err) {
    BB_TRY(bb_nn_build_pool(g->ex, node, err));
    void *state = g->ex->steps[g->ex->n_steps - 1].state;
    return bb_grad_push(g, node, average_backward, state, err);
}

/* ---- the node -------------------------------------------------------------------------------- */

bb_status bb_grad_build_pool(bb_gradient *g, const bb_node *node, bb_error *err) {
    bb_executor *ex = g->ex;
    bool exact;
    const bb_nn_tensor *x = bb_nn_input(ex, node, 0);
    pool_state *s = bb_grad_alloc(g, 1, sizeof(*s));
    if (!s)
        return bb_fail_memory(err, "pooling");
    BB_TRY(geometry(g, node, &s->pool, &exact, err));
    if (!exact)
        return build_average(g, node, err);
    s->layout = x->forms->layout ? x->forms->layout : bb_dn_channels_last(ex->dn, x->rank, x->dims);
    if (!s->layout)
        return bb_fail_memory(err, "pooling");
    BB_TRY(bb_dn_make_pool_training(ex->dn, &s->pool, s->layout, &s->forward, err));
    const bb_dn_layout *dst = bb_dn_op_layout(ex->dn, s->forward, BB_DN_DST);
    const bb_dn_layout *workspace = bb_dn_op_layout(ex->dn, s->forward, BB_DN_WORKSPACE);
    bb_nn_arg args[3] = {{0, BB_DN_SRC}, {0, BB_DN_DST}, {-1, BB_DN_WORKSPACE}};
    if (!dst)
        return bb_fail_memory(err, "pooling");
    BB_TRY(bb_nn_in_layout(ex, node->in[0], s->layout, &args[0].buffer, err));
    BB_TRY(bb_nn_new_buffer(ex, bb_dn_bytes(dst), &args[1].buffer, err));
    if (workspace)
        BB_TRY(bb_nn_new_buffer(ex, bb_dn_bytes(workspace), &args[2].buffer, err));
    s->workspace = args[2].buffer;
    BB_TRY(bb_nn_emit_op(ex, node, s->forward, args, workspace ? 3 : 2, err));
    BB_TRY(bb_nn_define(ex, node->out[0], BB_DTYPE_F32, x->rank, s->pool.dst, err));
    BB_TRY(bb_nn_store(ex, node->out[0], dst, args[1].buffer, err));
    return bb_grad_push(g, node, backward, s, err);
}

/* ---- mean of every channel, row-major out of any layout -------------------------------------- */

/* Sums in one order, four rows at a time would change it: one pixel after the other. */
BB_CLONES static void sum_pixels(const float *x, size_t pixels, size_t lanes, float *sum) {
    for (size_t l = 0; l < lanes; l++)
        sum[l] = 0.0f;
    for (size_t p = 0; p < pixels; p++, x += lanes)
        for (size_t l = 0; l < lanes; l++)
            sum[l] += x[l];
}

static double sum_row(const float *x, size_t n) {
    double sum = 0.0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i];
    return sum;
}

/* args: x, mean [N][C], scratch of one block */
static bb_status run_mean(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    const bb_dn_channels *f = step->state;
    const float *x = step->data[0];
    float *y = step->data[1], *sum = step->data[2], factor = 1.0f / (float)f->pixels;
    for (size_t n = 0; n < f->images; n++)
        for (size_t b = 0; b < f->blocks; b++, x += f->pixels * f->lanes) {
            float *to = y + n * f->channels + b * f->lanes;
            size_t used =
                f->channels - b * f->lanes < f->lanes ? f->channels - b * f->lanes : f->lanes;
            if (f->lanes == 1) {
                to[0] = (float)(sum_row(x, f->pixels) / (double)f->pixels);
                continue;
            }
            sum_pixels(x, f->pixels, f->lanes, sum);
            for (size_t l = 0; l < used; l++)
                to[l] = sum[l] * factor;
        }
    return BB_STATUS_OK;
}

BB_CLONES static void spread(const float *row, size_t pixels, size_t lanes, float *x) {
    for (size_t p = 0; p < pixels; p++, x += lanes)
        for (size_t l = 0; l < lanes; l++)
            x[l] = row[l];
}

static bb_status run_mean_backward(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    const bb_dn_channels *f = step->state;
    const float *dy = step->data[0];
    float *dx = step->data[1], *row = step->data[2], factor = 1.0f / (float)f->pixels;
    for (size_t n = 0; n < f->images; n++)
        for (size_t b = 0; b < f->blocks; b++, dx += f->pixels * f->lanes) {
            for (size_t l = 0; l < f->lanes; l++) {
                size_t c = b * f->lanes + l;
                row[l] = c < f->channels ? dy[n * f->channels + c] * factor : 0.0f;
            }
            spread(row, f->pixels, f->lanes, dx);
        }
    return BB_STATUS_OK;
}

typedef struct mean_state {
    bb_dn_channels form;
    const bb_dn_layout *layout;
} mean_state;

static bb_status mean_backward(bb_gradient *g, const bb_grad_entry *entry, bb_error *err) {
    mean_state *s = entry->state;
    bb_nn_arg args[3] = {{0, 0}, {0, 0}, {0, 0}};
    BB_TRY(bb_grad_read(g, entry->node->out[0], NULL, &args[0].buffer, NULL, err));
    if (args[0].buffer < 0)
        return BB_STATUS_OK;
    BB_TRY(bb_nn_new_buffer(g->ex, bb_dn_bytes(s->layout), &args[1].buffer, err));
    BB_TRY(bb_nn_new_buffer(g->ex, s->form.lanes * sizeof(float), &args[2].buffer, err));
    BB_TRY(bb_grad_emit(g, entry->node, run_mean_backward, &s->form, args, 3, err));
    return bb_grad_add(g, entry->node->in[0], s->layout, args[1].buffer, err);
}

bb_status bb_grad_build_global_pool(bb_gradient *g, const bb_node *node, bb_error *err) {
    const bb_nn_tensor *x = bb_nn_input(g->ex, node, 0);
    int64_t dims[BB_MAX_RANK];
    if (x->dtype != BB_DTYPE_F32 || x->rank < 3 || x->elements == 0)
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "global pooling of this tensor");
    for (int i = 0; i < x->rank; i++)
        dims[i] = i < 2 ? x->dims[i] : 1;
    BB_TRY(bb_nn_define(g->ex, node->out[0], BB_DTYPE_F32, x->rank, dims, err));
    return bb_grad_build_channel_mean(g, node, err);
}

bb_status bb_grad_build_channel_mean(bb_gradient *g, const bb_node *node, bb_error *err) {
    bb_executor *ex = g->ex;
    const bb_nn_tensor *x = bb_nn_input(ex, node, 0);
    mean_state *s = bb_grad_alloc(g, 1, sizeof(*s));
    bb_nn_arg args[3] = {{0, 0}, {0, 0}, {0, 0}};
    if (!s)
        return bb_fail_memory(err, "global pooling");
    s->layout = bb_nn_layout(ex, node->in[0]);
    args[0].buffer = x->forms->buffer;
    if (s->layout && !bb_dn_as_channels(s->layout, &s->form)) {
        s->layout = bb_dn_plain(ex->dn, x->rank, x->dims);
        BB_TRY(bb_nn_in_plain(ex, node->in[0], &args[0].buffer, err));
    }
    if (!s->layout || !bb_dn_as_channels(s->layout, &s->form))
        return bb_fail_memory(err, "global pooling");
    BB_TRY(bb_nn_new_plain(ex, node->out[0], &args[1].buffer, err));
    BB_TRY(bb_nn_new_buffer(ex, s->form.lanes * sizeof(float), &args[2].buffer, err));
    BB_TRY(bb_grad_emit(g, node, run_mean, &s->form, args, 3, err));
    return bb_grad_push(g, node, mean_backward, s, err);
}
