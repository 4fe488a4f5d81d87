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
    int *buffer_of;  /**< [n_tensors]; -1 = none yet */
    int *inside;     /**< [n_tensors]: the CONCAT output that holds the tensor, or -1 */
    size_t *readers; /**< [n_tensors] */
    const bb_model_node **reader; /**< [n_tensors]: the last one */
    bool *steppable;              /**< [n_tensors]: its producer can write pixels apart */
    size_t *first; /**< [n_tensors]: byte of that output's pixel where the tensor begins */
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

/* ---- tensors inside a CONCAT's output -------------------------------------------------------- */

static size_t element_bytes(const bb_model *model, size_t profile, int tensor) {
    return model->profiles[profile].tensors[tensor].bits > 8 ? 2 : 1;
}

static void read_by(planner *p, int tensor, const bb_model_node *node) {
    p->readers[tensor]++;
    p->reader[tensor] = node;
}

/* Counts who reads each tensor and marks those whose producer can write pixels apart. */
static void inspect_tensors(planner *p) {
    const bb_model *model = p->model;
    for (size_t i = 0; i < model->n_nodes; i++) {
        const bb_model_node *node = &model->nodes[i];
        for (int k = 0; k < node->n_in; k++)
            read_by(p, node->in[k], node);
        for (int k = 0; k < node->n_out; k++)
            p->steppable[node->out[k]] = node->kind == BB_NODE_CONV || node->kind == BB_NODE_ADD ||
                                         node->kind == BB_NODE_REQUANT;
    }
    for (size_t i = 0; i < model->n_outputs; i++)
        p->readers[model->outputs[i]]++;
}

static void join_inputs(planner *p, size_t profile, const bb_model_node *node,
                        const bb_shapes *shapes) {
    const int out = node->out[0];
    const size_t bytes = element_bytes(p->model, profile, out);
    size_t first = 0;
    for (int k = 0; k < node->n_in; k++) {
        const int in = node->in[k];
        if (element_bytes(p->model, profile, in) == bytes && p->readers[in] == 1 &&
            p->steppable[in]) {
            p->inside[in] = out;
            p->first[in] = first;
        }
        first += bytes * (size_t)shapes->dims[in][3];
    }
}

static void find_joined(planner *p, size_t profile, const bb_shapes *shapes) {
    for (size_t t = 0; t < p->model->n_tensors; t++)
        p->inside[t] = p->buffer_of[t] = -1;
    inspect_tensors(p);
    for (size_t i = 0; i < p->model->n_nodes; i++)
        if (p->model->nodes[i].kind == BB_NODE_CONCAT)
            join_inputs(p, profile, &p->model->nodes[i], shapes);
}

/* ---- tensors that pass to pools -------------------------------------------------------------- */

enum { POOL_ROWS_MAX = 8 };

static bool same_windows(const bb_geometry *a, const bb_geometry *b) {
    return memcmp(a->kernel, b->kernel, sizeof(a->kernel)) == 0 &&
           memcmp(a->stride, b->stride, sizeof(a->stride)) == 0 &&
           memcmp(a->dilation, b->dilation, sizeof(a->dilation)) == 0 &&
           memcmp(a->pad_begin, b->pad_begin, sizeof(a->pad_begin)) == 0 &&
           memcmp(a->pad_end, b->pad_end, sizeof(a->pad_end)) == 0 && a->ceil_mode == b->ceil_mode;
}

/* The pool that alone reads a tensor, if its windows take few rows. */
static const bb_model_node *pool_of(const planner *p, int tensor) {
    const bb_model_node *node = p->readers[tensor] == 1 ? p->reader[tensor] : NULL;
    if (!node || node->kind != BB_NODE_MAX_POOL || node->geometry.kernel[0] < 1 ||
        node->geometry.kernel[0] > POOL_ROWS_MAX || node->geometry.dilation[0] != 1)
        return NULL;
    return node;
}

static bool outputs_pass(const planner *p, const bb_model_node *node) {
    const bb_model_node *first = pool_of(p, node->out[0]);
    if (node->kind != BB_NODE_CONV || node->n_in != 1 || !first)
        return false;
    for (int k = 1; k < node->n_out; k++) {
        const bb_model_node *pool = pool_of(p, node->out[k]);
        if (!pool || !same_windows(&pool->geometry, &first->geometry))
            return false;
    }
    return true;
}

static void find_passing(const planner *p, bb_memory_plan *plan) {
    for (size_t i = 0; i < p->model->n_nodes; i++) {
        const bb_model_node *node = &p->model->nodes[i];
        if (outputs_pass(p, node))
            for (int k = 0; k < node->n_out; k++)
                plan->passes[node->out[k]] = true;
    }
}

/* ---- lives and places ------------------------------------------------------------------------ */

/* The first of the tensors inside a CONCAT's output brings the buffer to life. */
static void produce(planner *p, const bb_memory_plan *plan, int tensor, long node) {
    const int holder = p->inside[tensor] < 0 ? tensor : p->inside[tensor];
    if (p->buffer_of[holder] < 0)
        new_buffer(p, holder, plan->bytes[holder], node);
    p->buffer_of[tensor] = p->buffer_of[holder];
    p->buffers[p->buffer_of[tensor]].last = node;
}

static void find_lives(planner *p, const bb_memory_plan *plan) {
    const bb_model *model = p->model;
    for (size_t i = 0; i < model->n_inputs; i++)
        new_buffer(p, model->inputs[i], plan->bytes[model->inputs[i]], -1);
    for (size_t i = 0; i < model->n_nodes; i++) {
        const bb_model_node *node = &model->nodes[i];
        for (int k = 0; k < node->n_in; k++)
            if (!plan->passes[node->in[k]])
                p->buffers[p->buffer_of[node->in[k]]].last = (long)i;
        for (int k = 0; k < node->n_out; k++) {
            const int out = node->out[k];
            if (is_reshape(node))
                p->buffer_of[out] = p->buffer_of[node->in[0]];
            else
                produce(p, plan, plan->passes[out] ? p->reader[out]->out[0] : out, (long)i);
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
    for (size_t t = 0; t < p->model->n_tensors; t++) {
        if (!plan->passes[t]) {
            plan->offset[t] = p->buffers[p->buffer_of[t]].offset + p->first[t];
            continue;
        }
        plan->offset[t] = plan->passing_total;
        plan->passing_total += (plan->bytes[t] + BUFFER_ALIGN - 1) & ~(size_t)(BUFFER_ALIGN - 1);
    }
    bb_free(order);
    return true;
}

bb_status bb_model_plan_memory(const bb_model *model, size_t profile, const bb_shapes *shapes,
                               bb_memory_plan *plan, bb_error *err) {
    planner p = {.model = model};
    *plan = (bb_memory_plan){
        .offset = bb_calloc_array(model->n_tensors, sizeof(*plan->offset)),
        .bytes = bb_calloc_array(model->n_tensors, sizeof(*plan->bytes)),
        .step = bb_calloc_array(model->n_tensors, sizeof(*plan->step)),
        .inside = bb_calloc_array(model->n_tensors, sizeof(*plan->inside)),
        .passes = bb_calloc_array(model->n_tensors, sizeof(*plan->passes)),
    };
    p.buffers = bb_calloc_array(model->n_tensors, sizeof(*p.buffers));
    p.buffer_of = bb_calloc_array(model->n_tensors, sizeof(*p.buffer_of));
    p.inside = bb_calloc_array(model->n_tensors, sizeof(*p.inside));
    p.first = bb_calloc_array(model->n_tensors, sizeof(*p.first));
    p.readers = bb_calloc_array(model->n_tensors, sizeof(*p.readers));
    p.reader = bb_calloc_array(model->n_tensors, sizeof(*p.reader));
    p.steppable = bb_calloc_array(model->n_tensors, sizeof(*p.steppable));
    bool ok = plan->offset && plan->bytes && plan->step && plan->inside && plan->passes &&
              p.buffers && p.buffer_of && p.inside && p.first && p.readers && p.reader &&
              p.steppable;
    if (ok) {
        find_joined(&p, profile, shapes);
        for (size_t t = 0; t < model->n_tensors; t++) {
            plan->bytes[t] = tensor_bytes(model, profile, t, shapes);
            plan->inside[t] = p.inside[t] >= 0;
            plan->step[t] = (size_t)shapes->dims[plan->inside[t] ? (size_t)p.inside[t] : t][3];
        }
        find_passing(&p, plan);
        find_lives(&p, plan);
        ok = place_all(&p, plan);
    }
    bb_free(p.buffers);
    bb_free(p.buffer_of);
    bb_free(p.placed);
    bb_free(p.inside);
    bb_free(p.first);
    bb_free(p.readers);
    bb_free(p.reader);
    bb_free(p.steppable);
    if (!ok) {
        bb_memory_plan_free(plan);
        return bb_fail_memory(err, "the buffer plan");
    }
    return BB_STATUS_OK;
}

void bb_memory_plan_free(bb_memory_plan *plan) {
    bb_free(plan->offset);
    bb_free(plan->bytes);
    bb_free(plan->step);
    bb_free(plan->inside);
    bb_free(plan->passes);
    *plan = (bb_memory_plan){0};
}
