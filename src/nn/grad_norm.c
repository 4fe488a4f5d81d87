/* SPDX-License-Identifier: Apache-2.0 */
/* BatchNormalization, together with the Relu that follows it where nothing else reads between. */
#include "nn/clones.h"
#include "nn/gradient_internal.h"
#include <string.h>

typedef struct norm_state {
    bb_dn_norm norm;
    const bb_dn_layout *layout;
    bb_dn_op *forward;
    int value; /* what the fused group produces */
    int src, mean, variance, scale_shift, workspace;
} norm_state;

/* ---- scale and shift side by side, as oneDNN takes them -------------------------------------- */

static bb_status run_join(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    size_t n = *(const size_t *)step->state;
    float *to = step->data[2];
    memcpy(to, step->data[0], n * sizeof(*to));
    memcpy(to + n, step->data[1], n * sizeof(*to));
    return BB_STATUS_OK;
}

static bb_status join(bb_gradient *g, const bb_node *node, int *buffer, bb_error *err) {
    bb_nn_arg args[3] = {{0, 0}, {0, 0}, {0, 0}};
    size_t *n = bb_grad_alloc(g, 1, sizeof(*n));
    if (!n)
        return bb_fail_memory(err, "batch normalization");
    *n = bb_nn_input(g->ex, node, 1)->elements;
    BB_TRY(bb_nn_in_plain(g->ex, node->in[1], &args[0].buffer, err));
    BB_TRY(bb_nn_in_plain(g->ex, node->in[2], &args[1].buffer, err));
    BB_TRY(bb_nn_new_buffer(g->ex, 2 * *n * sizeof(float), buffer, err));
    args[2].buffer = *buffer;
    return bb_grad_emit(g, node, run_join, n, args, 3, err);
}

typedef struct part_state {
    size_t offset, n;
} part_state;

static bb_status run_part(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    const part_state *s = step->state;
    memcpy(step->data[1], (const float *)step->data[0] + s->offset, s->n * sizeof(float));
    return BB_STATUS_OK;
}

/* Gradient of the scale (half 0) or shift (half 1) out of both. */
static bb_status split(bb_gradient *g, const bb_node *node, int joined, size_t half,
                       bb_error *err) {
    int value = node->in[1 + half];
    if (!g->values[value].active)
        return BB_STATUS_OK;
    bb_nn_arg args[2] = {{joined, 0}, {0, 0}};
    part_state *s = bb_grad_alloc(g, 1, sizeof(*s));
    if (!s)
        return bb_fail_memory(err, "batch normalization");
    s->n = g->ex->tensors[value].elements;
    s->offset = half * s->n;
    BB_TRY(bb_grad_target(g, value, &args[1].buffer, err));
    BB_TRY(bb_grad_emit(g, node, run_part, s, args, 2, err));
    return bb_grad_add(g, value, NULL, args[1].buffer, err);
}

/* ---- running statistics ---------------------------------------------------------------------- */

typedef struct running_state {
    const bb_gradient *g;
    float momentum;
    size_t n;
    float *mean, *variance;
} running_state;

static bb_status run_running(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    const running_state *s = step->state;
    const float *mean = step->data[0], *variance = step->data[1];
    float keep = s->g->momentum >= 0.0f ? s->g->momentum : s->momentum;
    for (size_t c = 0; c < s->n; c++) {
        s->mean[c] = keep * s->mean[c] + (1.0f - keep) * mean[c];
        s->variance[c] = keep * s->variance[c] + (1.0f - keep) * variance[c];
    }
    return BB_STATUS_OK;
}

static bb_status emit_running(bb_gradient *g, const bb_node *node, const norm_state *s,
                              bb_error *err) {
    bb_grad_statistic *mean = bb_grad_statistic_of(g, node->in[3]);
    bb_grad_statistic *variance = bb_grad_statistic_of(g, node->in[4]);
    running_state *running = bb_grad_alloc(g, 1, sizeof(*running));
    bb_nn_arg args[2] = {{s->mean, 0}, {s->variance, 0}};
    if (!running)
        return bb_fail_memory(err, "batch normalization");
    *running = (running_state){g, bb_node_float(node, "momentum", 0.9f), mean->elements, mean->data,
                               variance->data};
    return bb_grad_emit(g, node, run_running, running, args, 2, err);
}

/* ---- the node -------------------------------------------------------------------------------- */

static bb_status check(bb_gradient *g, const bb_node *node, bb_error *err) {
    const bb_nn_tensor *x = bb_nn_input(g->ex, node, 0);
    if (x->dtype != BB_DTYPE_F32 || x->rank < 2 || x->rank > 5 || x->elements == 0)
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "rank %d %s input is not supported", x->rank,
                       bb_dtype_name(x->dtype));
    for (int i = 1; i < 5; i++) {
        const bb_nn_tensor *p = bb_nn_input(g->ex, node, i);
        if (!p || p->dtype != BB_DTYPE_F32 || (int64_t)p->elements != x->dims[1])
            return bb_fail(err, BB_STATUS_BAD_FILE, "input %d needs one f32 value per channel", i);
    }
    return BB_STATUS_OK;
}

static bb_status backward(bb_gradient *g, const bb_grad_entry *entry, bb_error *err) {
    const norm_state *s = entry->state;
    const bb_node *node = entry->node;
    bb_executor *ex = g->ex;
    int dy, both;
    bool writable;
    bb_dn_op *op;
    BB_TRY(bb_grad_read(g, s->value, s->layout, &dy, &writable, err));
    if (dy < 0)
        return BB_STATUS_OK;
    BB_TRY(bb_dn_make_norm_backward(ex->dn, &s->norm, s->layout, s->forward, &op, err));
    BB_TRY(
        bb_nn_new_buffer(ex, 2 * bb_nn_input(ex, node, 1)->elements * sizeof(float), &both, err));
    bb_nn_arg args[8] = {{s->src, BB_DN_SRC},
                         {dy, BB_DN_DIFF_DST},
                         {s->mean, BB_DN_MEAN},
                         {s->variance, BB_DN_VARIANCE},
                         {s->scale_shift, BB_DN_WEIGHTS},
                         {dy, BB_DN_DIFF_SRC},
                         {both, BB_DN_DIFF_WEIGHTS},
                         {s->workspace, BB_DN_WORKSPACE}};
    if (!writable)
        BB_TRY(bb_nn_new_buffer(ex, bb_dn_bytes(s->layout), &args[5].buffer, err));
    BB_TRY(bb_nn_emit_op(ex, node, op, args, s->workspace >= 0 ? 8 : 7, err));
    BB_TRY(split(g, node, both, 0, err));
    BB_TRY(split(g, node, both, 1, err));
    return bb_grad_add(g, node->in[0], s->layout, args[5].buffer, err);
}

/* The Relu to compute along, or NULL. */
static const bb_node *following_relu(bb_gradient *g, const bb_node *node) {
    int reader = bb_grad_only_reader(g, node->out[0]);
    if (reader < 0 || g->ex->built[reader] || g->ex->graph->nodes[reader].op != BB_OP_RELU)
        return NULL;
    g->ex->built[reader] = true;
    return &g->ex->graph->nodes[reader];
}

static bb_status statistics_args(bb_gradient *g, const bb_node *node, norm_state *s,
                                 bb_error *err) {
    size_t bytes = bb_nn_input(g->ex, node, 3)->elements * sizeof(float);
    if (s->norm.fixed) {
        BB_TRY(bb_nn_in_plain(g->ex, node->in[3], &s->mean, err));
        return bb_nn_in_plain(g->ex, node->in[4], &s->variance, err);
    }
    BB_TRY(bb_nn_new_buffer(g->ex, bytes, &s->mean, err));
    return bb_nn_new_buffer(g->ex, bytes, &s->variance, err);
}

bb_status bb_grad_build_norm(bb_gradient *g, const bb_node *node, bb_error *err) {
    bb_executor *ex = g->ex;
    norm_state *s = bb_grad_alloc(g, 1, sizeof(*s));
    if (!s)
        return bb_fail_memory(err, "batch normalization");
    BB_TRY(check(g, node, err));
    const bb_nn_tensor *x = bb_nn_input(ex, node, 0);
    const bb_node *relu = following_relu(g, node);
    s->norm = (bb_dn_norm){bb_node_float(node, "epsilon", 1e-5f), relu != NULL, !g->training};
    s->value = relu ? relu->out[0] : node->out[0];
    s->layout = bb_nn_layout(ex, node->in[0]);
    s->src = x->forms->buffer;
    if (!s->layout)
        return bb_fail_memory(err, "batch normalization");
    BB_TRY(bb_dn_make_norm_training(ex->dn, &s->norm, s->layout, &s->forward, err));
    BB_TRY(join(g, node, &s->scale_shift, err));
    BB_TRY(statistics_args(g, node, s, err));
    const bb_dn_layout *workspace = bb_dn_op_layout(ex->dn, s->forward, BB_DN_WORKSPACE);
    bb_nn_arg args[6] = {{s->src, BB_DN_SRC},
                         {0, BB_DN_DST},
                         {s->mean, BB_DN_MEAN},
                         {s->variance, BB_DN_VARIANCE},
                         {s->scale_shift, BB_DN_WEIGHTS},
                         {-1, BB_DN_WORKSPACE}};
    BB_TRY(bb_nn_new_buffer(ex, bb_dn_bytes(s->layout), &args[1].buffer, err));
    if (workspace)
        BB_TRY(bb_nn_new_buffer(ex, bb_dn_bytes(workspace), &args[5].buffer, err));
    s->workspace = args[5].buffer;
    BB_TRY(bb_nn_emit_op(ex, node, s->forward, args, workspace ? 6 : 5, err));
    if (g->training)
        BB_TRY(emit_running(g, node, s, err));
    BB_TRY(bb_nn_define(ex, s->value, BB_DTYPE_F32, x->rank, x->dims, err));
    BB_TRY(bb_nn_store(ex, s->value, s->layout, args[1].buffer, err));
    if (relu)
        bb_nn_consume(ex, relu);
    bb_grad_save(g, node->in[0]);
    return bb_grad_push(g, node, backward, s, err);
}
