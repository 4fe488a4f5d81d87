/* SPDX-License-Identifier: Apache-2.0 */
/* FakeQuantize nodes: the table of kinds has the gradients, this cuts tensors into tasks. The
 * step's gradient is summed per task, then over tasks in one order. */
#include "nn/gradient_internal.h"
#include "nn/node_quantize.h"
#include <math.h>

typedef struct fake_state {
    bb_fake_plan plan;
    double factor; /* of the step's gradient */
    size_t chunks; /* tasks per run */
} fake_state;

typedef struct call {
    const fake_state *s;
    const float *x, *dy, *step, *zero;
    float *dx;
    double *sums; /* per run and chunk */
} call;

/* ---- the step -------------------------------------------------------------------------------- */

static void backward_part(void *user, int part, int parts) {
    const call *c = user;
    const bb_fake_plan *p = &c->s->plan;
    size_t tasks = p->outer * p->channels * c->s->chunks;
    size_t last = tasks * (size_t)(part + 1) / (size_t)parts;
    for (size_t t = tasks * (size_t)part / (size_t)parts; t < last; t++) {
        size_t run = t / c->s->chunks, from = t % c->s->chunks * BB_FAKE_CHUNK, n = p->inner - from;
        if (c->s->chunks > 1 && n > BB_FAKE_CHUNK)
            n = BB_FAKE_CHUNK;
        size_t at = run * p->inner + from;
        bb_quantizer_args args = bb_nn_fake_args(p, run % p->channels, c->step, c->zero);
        c->sums[t] = p->kind->backward(&args, c->x + at, c->dy + at, c->dx + at, n);
    }
}

static void sum_tasks(const fake_state *s, const double *sums, float *dstep) {
    const bb_fake_plan *p = &s->plan;
    for (size_t c = 0; c < p->channels; c++) {
        double sum = 0.0;
        for (size_t o = 0; o < p->outer; o++)
            for (size_t k = 0; k < s->chunks; k++)
                sum += sums[(o * p->channels + c) * s->chunks + k];
        dstep[c] = (float)(sum * s->factor);
    }
}

/* args: x, dy, dx, sums, dstep, [step], [zero] */
static bb_status run_backward(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    const fake_state *s = step->state;
    const bb_fake_plan *p = &s->plan;
    call c = {s, step->data[0], step->data[1], NULL, NULL, step->data[2], step->data[3]};
    if (p->step >= 0)
        c.step = step->data[5];
    if (p->zero >= 0)
        c.zero = step->data[step->n_args - 1];
    bool small = p->outer * p->channels * p->inner < BB_FAKE_CHUNK;
    bb_dn_parallel(small ? 1 : ex->threads, backward_part, &c);
    if (p->kind->has_step)
        sum_tasks(s, c.sums, step->data[4]);
    bb_dn_channels form;
    if (p->layout && bb_dn_as_channels(p->layout, &form))
        bb_nn_clear_padding(&form, c.dx);
    return BB_STATUS_OK;
}

/* ---- building -------------------------------------------------------------------------------- */

static bb_status backward(bb_gradient *g, const bb_grad_entry *entry, bb_error *err) {
    fake_state *s = entry->state;
    const bb_node *node = entry->node;
    const bb_fake_plan *p = &s->plan;
    bb_nn_arg args[7] = {{p->x, 0}, {0, 0}, {0, 0}, {0, 0}, {0, 0}, {0, 0}, {0, 0}};
    int n = 5;
    bool writable, wants_step = bb_grad_wants(g, node, 1);
    BB_TRY(bb_grad_read(g, node->out[0], p->layout, &args[1].buffer, &writable, err));
    if (args[1].buffer < 0)
        return BB_STATUS_OK;
    size_t floats = p->outer * p->channels * p->inner;
    args[2].buffer = args[1].buffer;
    if (!p->layout && bb_grad_wants(g, node, 0))
        BB_TRY(bb_grad_target(g, node->in[0], &args[2].buffer, err));
    else if (!writable)
        BB_TRY(bb_nn_new_buffer(g->ex, floats * sizeof(float), &args[2].buffer, err));
    s->chunks = p->kind->elementwise ? (p->inner + BB_FAKE_CHUNK - 1) / BB_FAKE_CHUNK : 1;
    size_t tasks = p->outer * p->channels * s->chunks;
    BB_TRY(bb_nn_new_buffer(g->ex, tasks * sizeof(double), &args[3].buffer, err));
    if (wants_step)
        BB_TRY(bb_grad_target(g, node->in[1], &args[4].buffer, err));
    else
        BB_TRY(bb_nn_new_buffer(g->ex, p->channels * sizeof(float), &args[4].buffer, err));
    if (p->step >= 0)
        args[n++].buffer = p->step;
    if (p->zero >= 0)
        args[n++].buffer = p->zero;
    BB_TRY(bb_grad_emit(g, node, run_backward, s, args, n, err));
    if (wants_step)
        BB_TRY(bb_grad_add(g, node->in[1], NULL, args[4].buffer, err));
    return bb_grad_add(g, node->in[0], p->layout, args[2].buffer, err);
}

/* Elements that share a step: of a weight tensor all, of activations those of one image. Steps
 * along axis 0 belong to weights, wherever these come from. */
static double sharing(const bb_gradient *g, const bb_node *node, const bb_fake_plan *p) {
    const bb_nn_tensor *x = bb_nn_input(g->ex, node, 0);
    double n = (double)x->elements / (double)p->channels;
    bool weights = !g->values[node->in[0]].from_input || (p->channels > 1 && p->outer == 1);
    return !weights && x->rank > 1 ? n / (double)x->dims[0] : n;
}

bb_status bb_grad_build_fake_quantize(bb_gradient *g, const bb_node *node, bb_error *err) {
    fake_state *s = bb_grad_alloc(g, 1, sizeof(*s));
    if (!s)
        return bb_fail_memory(err, "quantizer");
    if (bb_grad_wants(g, node, 2))
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "the zero point has no gradient");
    BB_TRY(bb_nn_fake_quantize(g->ex, node, &s->plan, err));
    bb_quantizer_args args = {.bits = s->plan.bits};
    s->factor = 1.0;
    if (s->plan.kind->step_gradient)
        s->factor = s->plan.kind->step_gradient(&args, sharing(g, node, &s->plan));
    if (bb_node_attr(node, "step_gradient"))
        s->factor = (double)bb_node_float(node, "step_gradient", 1.0f);
    bb_grad_save(g, node->in[0]);
    return bb_grad_push(g, node, backward, s, err);
}
