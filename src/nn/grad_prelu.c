/* SPDX-License-Identifier: Apache-2.0 */
/* PRelu with one slope or one per channel, in the layout of its input. */
#include "nn/clones.h"
#include "nn/gradient_internal.h"
#include <string.h>

typedef struct prelu_state {
    bb_dn_channels form;
    const bb_dn_layout *layout;
    bool one;
    int x, slopes;
} prelu_state;

BB_CLONES static void rows_forward(const float *x, const float *slope, float *y, size_t pixels,
                                   size_t lanes) {
    for (size_t p = 0; p < pixels; p++, x += lanes, y += lanes)
        for (size_t l = 0; l < lanes; l++)
            y[l] = x[l] > 0.0f ? x[l] : slope[l] * x[l];
}

BB_CLONES static void rows_backward(const float *x, const float *dy, const float *slope, float *dx,
                                    float *dslope, size_t pixels, size_t lanes) {
    for (size_t p = 0; p < pixels; p++, x += lanes, dy += lanes, dx += lanes)
        for (size_t l = 0; l < lanes; l++) {
            float v = x[l], d = dy[l];
            dx[l] = v > 0.0f ? d : slope[l] * d;
            dslope[l] += v > 0.0f ? 0.0f : v * d;
        }
}

/* Slopes of a block's lanes; 0 for channels that are not there. */
static void lane_slopes(const prelu_state *s, const float *slopes, size_t block, float *lanes) {
    for (size_t l = 0; l < s->form.lanes; l++) {
        size_t c = block * s->form.lanes + l;
        lanes[l] = c >= s->form.channels ? 0.0f : slopes[s->one ? 0 : c];
    }
}

/* args: x, slopes, y, lanes */
static bb_status run_prelu(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    const prelu_state *s = step->state;
    const bb_dn_channels *f = &s->form;
    const float *x = step->data[0];
    float *y = step->data[2], *lanes = step->data[3];
    size_t block = f->pixels * f->lanes;
    for (size_t i = 0; i < f->images * f->blocks; i++, x += block, y += block) {
        lane_slopes(s, step->data[1], i % f->blocks, lanes);
        rows_forward(x, lanes, y, f->pixels, f->lanes);
    }
    return BB_STATUS_OK;
}

/* args: x, slopes, dy, dx, dslopes, lanes (slopes, then their gradients), sums */
static bb_status run_prelu_backward(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    const prelu_state *s = step->state;
    const bb_dn_channels *f = &s->form;
    const float *x = step->data[0], *dy = step->data[2];
    float *dx = step->data[3], *dslopes = step->data[4], *lanes = step->data[5];
    float *dlanes = lanes + f->lanes;
    double *sums = step->data[6];
    size_t block = f->pixels * f->lanes, slopes = s->one ? 1 : f->channels;
    memset(sums, 0, slopes * sizeof(*sums));
    for (size_t i = 0; i < f->images * f->blocks; i++, x += block, dy += block, dx += block) {
        lane_slopes(s, step->data[1], i % f->blocks, lanes);
        memset(dlanes, 0, f->lanes * sizeof(*dlanes));
        rows_backward(x, dy, lanes, dx, dlanes, f->pixels, f->lanes);
        for (size_t l = 0; l < f->lanes; l++) {
            size_t c = i % f->blocks * f->lanes + l;
            if (c < f->channels)
                sums[s->one ? 0 : c] += (double)dlanes[l];
        }
    }
    for (size_t i = 0; i < slopes; i++)
        dslopes[i] = (float)sums[i];
    return BB_STATUS_OK;
}

static bb_status backward(bb_gradient *g, const bb_grad_entry *entry, bb_error *err) {
    prelu_state *s = entry->state;
    const bb_node *node = entry->node;
    size_t slopes = s->one ? 1 : s->form.channels;
    bb_nn_arg args[7] = {{s->x, 0}, {s->slopes, 0}, {0, 0}, {0, 0}, {0, 0}, {0, 0}, {0, 0}};
    BB_TRY(bb_grad_read(g, node->out[0], s->layout, &args[2].buffer, NULL, err));
    if (args[2].buffer < 0)
        return BB_STATUS_OK;
    BB_TRY(bb_nn_new_buffer(g->ex, bb_dn_bytes(s->layout), &args[3].buffer, err));
    if (bb_grad_wants(g, node, 1))
        BB_TRY(bb_grad_target(g, node->in[1], &args[4].buffer, err));
    else
        BB_TRY(bb_nn_new_buffer(g->ex, slopes * sizeof(float), &args[4].buffer, err));
    BB_TRY(bb_nn_new_buffer(g->ex, 2 * s->form.lanes * sizeof(float), &args[5].buffer, err));
    BB_TRY(bb_nn_new_buffer(g->ex, slopes * sizeof(double), &args[6].buffer, err));
    BB_TRY(bb_grad_emit(g, node, run_prelu_backward, s, args, 7, err));
    BB_TRY(bb_grad_add(g, node->in[1], NULL, args[4].buffer, err));
    return bb_grad_add(g, node->in[0], s->layout, args[3].buffer, err);
}

/* One number, or one per index of axis 1. */
static bool fits(const bb_nn_tensor *x, const bb_nn_tensor *slope) {
    if (slope->elements == 1)
        return true;
    int axis = 1 - (x->rank - slope->rank);
    return x->rank >= 2 && axis >= 0 && slope->dims[axis] == x->dims[1] &&
           (int64_t)slope->elements == x->dims[1];
}

bb_status bb_grad_build_prelu(bb_gradient *g, const bb_node *node, bb_error *err) {
    bb_executor *ex = g->ex;
    const bb_nn_tensor *x = bb_nn_input(ex, node, 0), *slope = bb_nn_input(ex, node, 1);
    prelu_state *s = bb_grad_alloc(g, 1, sizeof(*s));
    bb_nn_arg args[4] = {{0, 0}, {0, 0}, {0, 0}, {0, 0}};
    if (!s)
        return bb_fail_memory(err, "PRelu");
    if (!slope || x->dtype != BB_DTYPE_F32 || slope->dtype != BB_DTYPE_F32 || x->elements == 0 ||
        !fits(x, slope))
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "gradient of such slopes");
    s->one = slope->elements == 1;
    s->layout = bb_nn_layout(ex, node->in[0]);
    s->x = x->forms->buffer;
    if (s->layout && !bb_dn_as_channels(s->layout, &s->form)) {
        s->layout = bb_dn_plain(ex->dn, x->rank, x->dims);
        BB_TRY(bb_nn_in_plain(ex, node->in[0], &s->x, err));
    }
    if (!s->layout || !bb_dn_as_channels(s->layout, &s->form))
        return bb_fail_memory(err, "PRelu");
    BB_TRY(bb_nn_in_plain(ex, node->in[1], &s->slopes, err));
    args[0].buffer = s->x;
    args[1].buffer = s->slopes;
    BB_TRY(bb_nn_new_buffer(ex, bb_dn_bytes(s->layout), &args[2].buffer, err));
    BB_TRY(bb_nn_new_buffer(ex, s->form.lanes * sizeof(float), &args[3].buffer, err));
    BB_TRY(bb_grad_emit(g, node, run_prelu, s, args, 4, err));
    BB_TRY(bb_nn_define(ex, node->out[0], BB_DTYPE_F32, x->rank, x->dims, err));
    BB_TRY(bb_nn_store(ex, node->out[0], s->layout, args[2].buffer, err));
    bb_grad_save(g, node->in[0]);
    bb_grad_save(g, node->in[1]);
    return bb_grad_push(g, node, backward, s, err);
}
