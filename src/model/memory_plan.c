/* SPDX-License-Identifier: Apache-2.0 */
/* Buffer plan: greedy by size. The largest buffer is placed first, each at the lowest offset that
 * is free during its whole life. */
#include "model/model.h"
#include <stdlib.h>
#include <string.h>

enum { BUFFER_ALIGN = 64 };

/* One buffer; reshapes share their input's, so a buffer may hold several tensors. */
typedef struct buffer {
    size_t bytes, offset;
    long first, last; /**< nodes during which it is alive; -1 = before the first node */
    int tensor;       /**< the tensor it was made for */
} buffer;

typedef struct planner {
    const bb_model *model;
    buffer *buffers;
    int *buffer_of; /**< [n_tensors] */
    size_t n;
    buffer **placed; /**< by ascending offset */
    size_t n_placed;
} planner;

static bool is_reshape(const bb_model_node *node) {
    return node->kind == BB_NODE_RESHAPE ||
           (node->kind == BB_NODE_FLOAT && node->float_op == BB_FLOAT_RESHAPE);
}

/* Elements were bounded by INT32_MAX when the shapes were bound. */
static size_t tensor_bytes(const bb_model *model, size_t profile, size_t t,
                           const bb_shapes *shapes) {
    const int32_t *d = shapes->dims[t];
    size_t n = (size_t)d[0] * (size_t)d[1] * (size_t)d[2] * (size_t)d[3];
    if (model->tensors[t].kind == BB_TENSOR_FLOAT)
        return n * sizeof(float);
    return model->profiles[profile].tensors[t].bits > 8 ? 2 * n : n;
}

static void new_buffer(planner *p, int tensor, size_t bytes, long born) {
    p->buffer_of[tensor] = (int)p->n;
    p->buffers[p->n++] = (buffer){.bytes = bytes, .first = born, .last = born, .tensor = tensor};
}

static void find_lives(planner *p, const bb_memory_plan *plan) {
    const bb_model *model = p->model;
    for (size_t i = 0; i < model->n_inputs; i++)
        new_buffer(p, model->inputs[i], plan->bytes[model->inputs[i]], -1);
    for (size_t i = 0; i < model->n_nodes; i++) {
        const bb_model_node *node = &model->nodes[i];
        for (int k = 0; k < node->n_in; k++)
            p->buffers[p->buffer_of[node->in[k]]].last = (long)i;
        for (int k = 0; k < node->n_out; k++) {
            if (is_reshape(node))
                p->buffer_of[node->out[k]] = p->buffer_of[node->in[0]];
            else
                new_buffer(p, node->out[k], plan->bytes[node->out[k]], (long)i);
        }
    }
    for (size_t i = 0; i < model->n_outputs; i++)
        p->buffers[p->buffer_of[model->outputs[i]]].last = (long)model->n_nodes;
}

static int larger_first(const void *x, const void *y) {
    const buffer *a = *(buffer *const *)x, *b = *(buffer *const *)y;
    if (a->bytes != b->bytes)
        return a->bytes < b->bytes ? 1 : -1;
    return a->tensor - b->tensor;
}

/* Lowest gap among the buffers alive at the same time, which `placed` lists by offset. */
static void place(planner *p, buffer *b) {
    size_t at = 0, slot = 0;
    for (size_t i = 0; i < p->n_placed; i++) {
        const buffer *other = p->placed[i];
        if (other->last < b->first || b->last < other->first)
            continue;
        if (other->offset >= at && other->offset - at >= b->bytes)
            break;
        if (other->offset + other->bytes > at)
            at = other->offset + other->bytes;
    }
    b->offset = at;
    while (slot < p->n_placed && p->placed[slot]->offset <= at)
        slot++;
    memmove(p->placed + slot + 1, p->placed + slot, (p->n_placed - slot) * sizeof(*p->placed));
    p->placed[slot] = b;
    p->n_placed++;
}

/* At most 2^14 buffers of at most 2^33 bytes: no sum overflows a 64-bit size_t; on a 32-bit one
 * the caller's allocation is checked by `total`. */
static bool place_all(planner *p, bb_memory_plan *plan) {
    buffer **order = bb_calloc_array(p->n, sizeof(*order));
    p->placed = bb_calloc_array(p->n, sizeof(*p->placed));
    if (!order || !p->placed) {
        bb_free(order);
        return false;
    }
    for (size_t i = 0; i < p->n; i++) {
        p->buffers[i].bytes =
            (p->buffers[i].bytes + BUFFER_ALIGN - 1) & ~(size_t)(BUFFER_ALIGN - 1);
        order[i] = &p->buffers[i];
    }
    qsort(order, p->n, sizeof(*order), larger_first);
    for (size_t i = 0; i < p->n; i++) {
        place(p, order[i]);
        if (order[i]->offset + order[i]->bytes > plan->total)
            plan->total = order[i]->offset + order[i]->bytes;
    }
    for (size_t t = 0; t < p->model->n_tensors; t++)
        plan->offset[t] = p->buffers[p->buffer_of[t]].offset;
    bb_free(order);
    return true;
}

bb_status bb_model_plan_memory(const bb_model *model, size_t profile, const bb_shapes *shapes,
                               bb_memory_plan *plan, bb_error *err) {
    planner p = {.model = model};
    *plan = (bb_memory_plan){
        .offset = bb_calloc_array(model->n_tensors, sizeof(*plan->offset)),
        .bytes = bb_calloc_array(model->n_tensors, sizeof(*plan->bytes)),
    };
    p.buffers = bb_calloc_array(model->n_tensors, sizeof(*p.buffers));
    p.buffer_of = bb_calloc_array(model->n_tensors, sizeof(*p.buffer_of));
    bool ok = plan->offset && plan->bytes && p.buffers && p.buffer_of;
    if (ok) {
        for (size_t t = 0; t < model->n_tensors; t++)
            plan->bytes[t] = tensor_bytes(model, profile, t, shapes);
        find_lives(&p, plan);
        ok = place_all(&p, plan);
    }
    bb_free(p.buffers);
    bb_free(p.buffer_of);
    bb_free(p.placed);
    if (!ok) {
        bb_memory_plan_free(plan);
        return bb_fail_memory(err, "the buffer plan");
    }
    return BB_STATUS_OK;
}

void bb_memory_plan_free(bb_memory_plan *plan) {
    bb_free(plan->offset);
    bb_free(plan->bytes);
    *plan = (bb_memory_plan){0};
}
