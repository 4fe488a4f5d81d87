/* SPDX-License-Identifier: Apache-2.0 */
/* Gradients of values while the backward pass is built: addends, their sums, seeds. */
#include "nn/clones.h"
#include "nn/gradient_internal.h"
#include <string.h>

/* ---- buffers: who still needs their contents ------------------------------------------------- */

static bb_status hold(bb_gradient *g, int buffer, int change, bb_error *err) {
    if ((size_t)buffer >= g->cap_holds) {
        size_t cap = 2 * (size_t)buffer + 64;
        int *grown = bb_realloc_array(g->holds, cap, sizeof(*grown));
        if (!grown)
            return bb_fail_memory(err, "gradient program");
        memset(grown + g->cap_holds, 0, (cap - g->cap_holds) * sizeof(*grown));
        g->holds = grown;
        g->cap_holds = cap;
    }
    g->holds[buffer] += change;
    return BB_STATUS_OK;
}

bb_status bb_grad_add(bb_gradient *g, int value, const bb_dn_layout *layout, int buffer,
                      bb_error *err) {
    bb_grad_value *v = &g->values[value];
    if (!v->active)
        return BB_STATUS_OK;
    bb_grad_part *part = bb_grad_alloc(g, 1, sizeof(*part));
    if (!part)
        return bb_fail_memory(err, "gradient program");
    part->layout = layout && !bb_dn_is_plain(layout) ? layout : NULL;
    part->buffer = buffer;
    bb_grad_part **end = &v->parts;
    while (*end)
        end = &(*end)->next;
    *end = part;
    return hold(g, buffer, 1, err);
}

bb_status bb_grad_target(bb_gradient *g, int value, int *buffer, bb_error *err) {
    const bb_grad_value *v = &g->values[value];
    if (v->parameter >= 0 && g->parameters[v->parameter].single) {
        *buffer = g->parameters[v->parameter].gradient_buffer;
        return BB_STATUS_OK;
    }
    return bb_nn_new_buffer(g->ex, g->ex->tensors[value].elements * sizeof(float), buffer, err);
}

/* ---- sums ------------------------------------------------------------------------------------ */

BB_CLONES static void add(const float *a, const float *b, float *sum, size_t n) {
    for (size_t i = 0; i < n; i++)
        sum[i] = a[i] + b[i];
}

static void run_add(const bb_nn_step *step, size_t begin, size_t end) {
    add((const float *)step->data[1] + begin, (const float *)step->data[2] + begin,
        (float *)step->data[0] + begin, end - begin);
}

bb_status bb_grad_emit_add(bb_gradient *g, int dst, int a, int b, size_t bytes, bb_error *err) {
    bb_nn_arg args[3] = {{dst, 0}, {a, 0}, {b, 0}};
    return bb_grad_emit_range(g, NULL, run_add, bytes / sizeof(float), NULL, args, 3, err);
}

/* ---- seeds: steps that do something only where the caller gave one --------------------------- */

typedef struct seed_state {
    const bb_grad_kept *kept;
    size_t elements, stored; /* of the value, and with padding */
} seed_state;

/* Nothing flows yet: the seed, or zeros, row-major. */
static bb_status run_seed(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    const seed_state *s = step->state;
    if (s->kept->seed)
        memcpy(step->data[0], s->kept->seed, s->elements * sizeof(float));
    else
        memset(step->data[0], 0, s->elements * sizeof(float));
    return BB_STATUS_OK;
}

static bb_status run_seed_copy(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    const seed_state *s = step->state;
    return s->kept->seed ? run_seed(ex, step, err) : BB_STATUS_OK;
}

static bb_status run_seed_turn(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    const seed_state *s = step->state;
    return s->kept->seed ? bb_dn_op_run(ex->dn, step->op, err) : BB_STATUS_OK;
}

static bb_status run_seed_add(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    const seed_state *s = step->state;
    if (s->kept->seed)
        add(step->data[0], step->data[1], step->data[0], s->stored);
    return BB_STATUS_OK;
}

static seed_state *new_seed(bb_gradient *g, int value, size_t bytes) {
    seed_state *s = bb_grad_alloc(g, 1, sizeof(*s));
    if (s)
        *s = (seed_state){&g->kept[g->values[value].kept], g->ex->tensors[value].elements,
                          bytes / sizeof(float)};
    return s;
}

static bb_status begin_with_seed(bb_gradient *g, int value, const bb_dn_layout *layout, int *buffer,
                                 bb_error *err) {
    const bb_nn_tensor *tensor = &g->ex->tensors[value];
    seed_state *s = new_seed(g, value, 0);
    bb_nn_arg arg = {0, 0};
    if (!s)
        return bb_fail_memory(err, "gradient program");
    BB_TRY(bb_nn_new_buffer(g->ex, tensor->elements * sizeof(float), &arg.buffer, err));
    BB_TRY(bb_grad_emit(g, NULL, run_seed, s, &arg, 1, err));
    *buffer = arg.buffer;
    if (!layout)
        return BB_STATUS_OK;
    const bb_dn_layout *plain = bb_dn_plain(g->ex->dn, tensor->rank, tensor->dims);
    if (!plain)
        return bb_fail_memory(err, "gradient program");
    BB_TRY(bb_nn_new_buffer(g->ex, bb_dn_bytes(layout), buffer, err));
    return bb_nn_emit_reorder(g->ex, plain, arg.buffer, layout, *buffer, err);
}

/* buffer += seed, where there is one. */
static bb_status add_seed(bb_gradient *g, int value, const bb_dn_layout *layout, int buffer,
                          size_t bytes, bb_error *err) {
    const bb_nn_tensor *tensor = &g->ex->tensors[value];
    seed_state *s = new_seed(g, value, bytes);
    bb_nn_arg seed = {0, BB_DN_SRC};
    if (!s)
        return bb_fail_memory(err, "gradient program");
    BB_TRY(bb_nn_new_buffer(g->ex, tensor->elements * sizeof(float), &seed.buffer, err));
    BB_TRY(bb_grad_emit(g, NULL, run_seed_copy, s, &seed, 1, err));
    if (layout) {
        const bb_dn_layout *plain = bb_dn_plain(g->ex->dn, tensor->rank, tensor->dims);
        bb_nn_arg turn[2] = {seed, {0, BB_DN_DST}};
        bb_nn_step step = {.run = run_seed_turn, .state = s, .tap = -1};
        if (!plain)
            return bb_fail_memory(err, "gradient program");
        BB_TRY(bb_dn_make_reorder(g->ex->dn, plain, layout, &step.op, err));
        if (bb_dn_op_scratch(step.op) > g->ex->scratch_bytes)
            g->ex->scratch_bytes = bb_dn_op_scratch(step.op);
        BB_TRY(bb_nn_new_buffer(g->ex, bb_dn_bytes(layout), &turn[1].buffer, err));
        BB_TRY(bb_nn_emit(g->ex, &step, turn, 2, err));
        seed.buffer = turn[1].buffer;
    }
    bb_nn_arg sum[2] = {{buffer, 0}, {seed.buffer, 0}};
    return bb_grad_emit(g, NULL, run_seed_add, s, sum, 2, err);
}

/* ---- reading --------------------------------------------------------------------------------- */

static bb_status convert(bb_gradient *g, int value, const bb_grad_part *part,
                         const bb_dn_layout *layout, int *buffer, bb_error *err) {
    const bb_nn_tensor *tensor = &g->ex->tensors[value];
    const bb_dn_layout *from = part->layout, *to = layout;
    *buffer = part->buffer;
    if ((!from && !to) || (from && to && bb_dn_same(from, to)))
        return BB_STATUS_OK;
    if (!from)
        from = bb_dn_plain(g->ex->dn, tensor->rank, tensor->dims);
    if (!to)
        to = bb_dn_plain(g->ex->dn, tensor->rank, tensor->dims);
    if (!from || !to)
        return bb_fail_memory(err, "gradient program");
    BB_TRY(bb_nn_new_buffer(g->ex, bb_dn_bytes(to), buffer, err));
    return bb_nn_emit_reorder(g->ex, from, part->buffer, to, *buffer, err);
}

static bool is_free(const bb_gradient *g, int buffer) {
    return (size_t)buffer >= g->cap_holds || g->holds[buffer] == 0;
}

/* A buffer for the sum of a and b: one of them where nobody else needs it. */
static bb_status sum_of(bb_gradient *g, int a, int b, size_t bytes, int *sum, bb_error *err) {
    *sum = is_free(g, a) ? a : b;
    if (!is_free(g, *sum))
        BB_TRY(bb_nn_new_buffer(g->ex, bytes, sum, err));
    return bb_grad_emit_add(g, *sum, a, b, bytes, err);
}

bb_status bb_grad_read(bb_gradient *g, int value, const bb_dn_layout *layout, int *buffer,
                       bool *writable, bb_error *err) {
    bb_grad_value *v = &g->values[value];
    size_t bytes = g->ex->tensors[value].elements * sizeof(float);
    if (layout && bb_dn_is_plain(layout))
        layout = NULL;
    if (layout)
        bytes = bb_dn_bytes(layout);
    *buffer = -1;
    for (bb_grad_part *part = v->parts; part; part = part->next) {
        int next;
        BB_TRY(hold(g, part->buffer, -1, err));
        BB_TRY(convert(g, value, part, layout, &next, err));
        if (*buffer >= 0)
            BB_TRY(sum_of(g, *buffer, next, bytes, &next, err));
        *buffer = next;
    }
    v->parts = NULL;
    if (v->kept >= 0 && *buffer < 0) {
        BB_TRY(begin_with_seed(g, value, layout, buffer, err));
    } else if (v->kept >= 0) {
        int own = *buffer;
        if (!is_free(g, own)) {
            BB_TRY(bb_nn_new_buffer(g->ex, bytes, &own, err));
            const bb_nn_tensor *tensor = &g->ex->tensors[value];
            const bb_dn_layout *same =
                layout ? layout : bb_dn_plain(g->ex->dn, tensor->rank, tensor->dims);
            if (!same)
                return bb_fail_memory(err, "gradient program");
            BB_TRY(bb_nn_emit_reorder(g->ex, same, *buffer, same, own, err));
        }
        BB_TRY(add_seed(g, value, layout, own, bytes, err));
        *buffer = own;
    }
    if (writable)
        *writable = *buffer >= 0 && is_free(g, *buffer);
    return BB_STATUS_OK;
}

bb_status bb_grad_read_output(bb_gradient *g, const bb_node *node, int *buffer, bool *writable,
                              bb_error *err) {
    return bb_grad_read(g, node->out[0], g->ex->tensors[node->out[0]].forms->layout, buffer,
                        writable, err);
}

/* ---- what callers see ------------------------------------------------------------------------ */

static bb_status run_copy(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    memcpy(step->data[1], step->data[0], *(const size_t *)step->state);
    return BB_STATUS_OK;
}

static bb_status deliver(bb_gradient *g, int value, int to, bb_error *err) {
    bb_nn_arg args[2] = {{0, 0}, {to, 0}};
    BB_TRY(bb_grad_read(g, value, NULL, &args[0].buffer, NULL, err));
    if (args[0].buffer < 0 || args[0].buffer == to)
        return BB_STATUS_OK;
    size_t *bytes = bb_grad_alloc(g, 1, sizeof(*bytes));
    if (!bytes)
        return bb_fail_memory(err, "gradient program");
    *bytes = g->ex->tensors[value].elements * sizeof(float);
    return bb_grad_emit(g, NULL, run_copy, bytes, args, 2, err);
}

bb_status bb_grad_collect(bb_gradient *g, bb_error *err) {
    for (size_t i = 0; i < g->n_parameters; i++)
        BB_TRY(deliver(g, g->parameters[i].value, g->parameters[i].gradient_buffer, err));
    for (size_t i = 0; i < g->n_wanted; i++)
        BB_TRY(deliver(g, g->wanted[i].value, g->wanted[i].buffer, err));
    return BB_STATUS_OK;
}
