/* SPDX-License-Identifier: Apache-2.0 */
#include "nn/node_quantize.h"
#include "nn/clones.h"
#include <string.h>

/* ---- the step -------------------------------------------------------------------------------- */

bb_quantizer_args bb_nn_fake_args(const bb_fake_plan *plan, size_t channel, const float *step,
                                  const float *zero) {
    return (bb_quantizer_args){
        .bits = plan->bits, .step = step ? step[channel] : 0.0f, .zero = zero ? zero[0] : 0.0f};
}

typedef struct call {
    const bb_fake_plan *plan;
    void *const *data; /* x, y, [step], [zero] */
    const float *step, *zero;
} call;

/* To the nearest, ties to even, as oneDNN's reorders do. */
BB_CLONES static void round_to_bf16(const float *from, uint16_t *to, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &from[i], sizeof(bits));
        uint32_t nearest = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        uint32_t quiet_nan = bits >> 16 | 0x40;
        to[i] = (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? quiet_nan : nearest);
    }
}

static void quantize_to_bf16(const call *c, const bb_quantizer_args *args, size_t at, size_t n) {
    enum { BLOCK = 2048 };
    float block[BLOCK];
    const float *x = (const float *)c->data[0] + at;
    uint16_t *y = (uint16_t *)c->data[1] + at;
    for (size_t i = 0; i < n; i += BLOCK) {
        size_t m = n - i < BLOCK ? n - i : BLOCK;
        c->plan->kind->forward(args, x + i, block, m);
        round_to_bf16(block, y + i, m);
    }
}

static void quantize_run(const call *c, size_t channel, size_t at, size_t n) {
    bb_quantizer_args args = bb_nn_fake_args(c->plan, channel, c->step, c->zero);
    if (c->plan->bf16) {
        quantize_to_bf16(c, &args, at, n);
        return;
    }
    c->plan->kind->forward(&args, (const float *)c->data[0] + at, (float *)c->data[1] + at, n);
}

/* Runs of one channel go to the threads, a single long one in chunks. */
static void quantize_part(void *user, int part, int parts) {
    const call *c = user;
    const bb_fake_plan *p = c->plan;
    size_t runs = p->outer * p->channels;
    if (runs == 1 && p->kind->elementwise) {
        size_t chunks = (p->inner + BB_FAKE_CHUNK - 1) / BB_FAKE_CHUNK;
        size_t begin = chunks * (size_t)part / (size_t)parts * BB_FAKE_CHUNK;
        size_t end = chunks * (size_t)(part + 1) / (size_t)parts * BB_FAKE_CHUNK;
        if (end > p->inner)
            end = p->inner;
        if (begin < end)
            quantize_run(c, 0, begin, end - begin);
        return;
    }
    for (size_t r = runs * (size_t)part / (size_t)parts;
         r < runs * (size_t)(part + 1) / (size_t)parts; r++)
        quantize_run(c, r % p->channels, r * p->inner, p->inner);
}

static bb_status run_quantize(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    const bb_fake_plan *p = step->state;
    call c = {p, step->data, NULL, NULL};
    if (p->step >= 0)
        c.step = step->data[2];
    if (p->zero >= 0)
        c.zero = step->data[step->n_args - 1];
    bool small = p->outer * p->channels * p->inner < BB_FAKE_CHUNK;
    bb_dn_parallel(small ? 1 : ex->threads, quantize_part, &c);
    bb_dn_channels form;
    if (p->layout && !p->bf16 && bb_dn_as_channels(p->layout, &form))
        bb_nn_clear_padding(&form, step->data[1]);
    return BB_STATUS_OK;
}

/* ---- the plan -------------------------------------------------------------------------------- */

static bb_status read_kind(bb_executor *ex, const bb_node *node, bb_fake_plan *plan,
                           bb_error *err) {
    const bb_nn_tensor *x = bb_nn_input(ex, node, 0), *step = bb_nn_input(ex, node, 1);
    const bb_nn_tensor *zero = bb_nn_input(ex, node, 2);
    const char *name = bb_node_string(node, "quantizer", "");
    int64_t bits = bb_node_int(node, "bits", 8);
    plan->kind = bb_quantizer_find(name);
    plan->bits = (int)bits;
    if (!plan->kind || bits < 1 || bits > 8)
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "no quantizer '%s' of %lld bits", name,
                       (long long)bits);
    if (!x || x->dtype != BB_DTYPE_F32 || x->elements == 0 ||
        plan->kind->has_step != (step != NULL) || plan->kind->has_zero != (zero != NULL) ||
        (step && step->dtype != BB_DTYPE_F32) ||
        (zero && (zero->dtype != BB_DTYPE_F32 || zero->elements != 1)))
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "these inputs do not fit quantizer '%s'",
                       name);
    return BB_STATUS_OK;
}

/* One step per index of `axis`; kinds without steps that look at whole channels have the axis too.
 */
static bb_status split_channels(bb_executor *ex, const bb_node *node, bb_fake_plan *plan,
                                bb_error *err) {
    const bb_nn_tensor *x = bb_nn_input(ex, node, 0), *step = bb_nn_input(ex, node, 1);
    bool one = step ? step->elements == 1 : plan->kind->elementwise || !bb_node_attr(node, "axis");
    plan->outer = plan->channels = 1;
    plan->inner = x->elements;
    if (one)
        return BB_STATUS_OK;
    int64_t axis = bb_node_int(node, "axis", 0);
    if (axis < 0)
        axis += x->rank;
    if (axis < 0 || axis >= x->rank || (step && (int64_t)step->elements != x->dims[axis]))
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "steps do not fit the axis");
    plan->channels = (size_t)x->dims[axis];
    for (int d = 0; d < axis; d++)
        plan->outer *= (size_t)x->dims[d];
    plan->inner = x->elements / plan->outer / plan->channels;
    if (plan->outer > 1 && !plan->kind->elementwise)
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "quantizer '%s' along an inner axis",
                       plan->kind->name);
    return BB_STATUS_OK;
}

/* Grouped convolutions stay in f32; so do 1x1 ones of few channels, which turn it back. */
static bool is_read_in_bf16(const bb_node *reader, int value) {
    return reader->op == BB_OP_CONV && reader->in[0] == value &&
           bb_node_int(reader, "group", 1) == 1;
}

/* Where only convolutions will read the result, in bf16, it is written so at once. */
static bool writes_bf16(const bb_executor *ex, const bb_node *node, const bb_dn_layout *layout) {
    const bb_graph *graph = ex->graph;
    bb_dn_channels form;
    size_t readers = 0;
    if (!ex->bf16 || !layout || !bb_dn_as_channels(layout, &form) || bb_nn_has_padding(&form))
        return false;
    for (size_t n = 0; n < graph->n_nodes; n++)
        readers += is_read_in_bf16(&graph->nodes[n], node->out[0]);
    return readers == ex->tensors[node->out[0]].uses_left;
}

bb_status bb_nn_fake_quantize(bb_executor *ex, const bb_node *node, bb_fake_plan *plan,
                              bb_error *err) {
    bb_nn_arg args[4] = {{0, 0}, {0, 0}, {0, 0}, {0, 0}};
    int n = 2;
    *plan = (bb_fake_plan){.step = -1, .zero = -1};
    BB_TRY(read_kind(ex, node, plan, err));
    BB_TRY(split_channels(ex, node, plan, err));
    const bb_nn_tensor *x = bb_nn_input(ex, node, 0);
    if (plan->channels == 1 && plan->kind->elementwise)
        plan->layout = x->forms->layout;
    plan->x = x->forms->buffer;
    if (plan->layout)
        plan->inner = bb_dn_bytes(plan->layout) / sizeof(float);
    else
        BB_TRY(bb_nn_in_plain(ex, node->in[0], &plan->x, err));
    const bb_dn_layout *written = plan->layout;
    plan->bf16 = writes_bf16(ex, node, plan->layout);
    if (plan->bf16 && !(written = bb_dn_bf16(ex->dn, plan->layout)))
        return bb_fail_memory(err, "quantizer");
    size_t bytes =
        written ? bb_dn_bytes(written) : plan->outer * plan->channels * plan->inner * sizeof(float);
    BB_TRY(bb_nn_new_buffer(ex, bytes, &plan->y, err));
    args[0].buffer = plan->x;
    args[1].buffer = plan->y;
    if (plan->kind->has_step) {
        BB_TRY(bb_nn_in_plain(ex, node->in[1], &plan->step, err));
        args[n++].buffer = plan->step;
    }
    if (plan->kind->has_zero) {
        BB_TRY(bb_nn_in_plain(ex, node->in[2], &plan->zero, err));
        args[n++].buffer = plan->zero;
    }
    bb_nn_step step = {.run = run_quantize, .node = node, .state = plan, .tap = -1};
    BB_TRY(bb_nn_emit(ex, &step, args, n, err));
    BB_TRY(bb_nn_define(ex, node->out[0], BB_DTYPE_F32, x->rank, x->dims, err));
    return bb_nn_store(ex, node->out[0], written, plan->y, err);
}

/** Constant weights are quantized once, while building. */
static bb_status quantize_fixed(bb_executor *ex, const bb_node *node, bb_error *err) {
    const bb_nn_tensor *x = bb_nn_input(ex, node, 0);
    bb_fake_plan plan = {.step = -1, .zero = -1};
    BB_TRY(read_kind(ex, node, &plan, err));
    BB_TRY(split_channels(ex, node, &plan, err));
    void *data[2] = {(void *)(uintptr_t)x->fixed,
                     bb_arena_array(ex->arena, x->elements, sizeof(float))};
    call c = {&plan, data, bb_nn_fixed_f32(ex, node, 1), bb_nn_fixed_f32(ex, node, 2)};
    if (!data[1])
        return bb_fail_memory(err, "quantizer");
    quantize_part(&c, 0, 1);
    BB_TRY(bb_nn_define(ex, node->out[0], BB_DTYPE_F32, x->rank, x->dims, err));
    return bb_nn_fix(ex, node->out[0], data[1], err);
}

static bool all_fixed(bb_executor *ex, const bb_node *node) {
    for (int i = 0; i < node->n_in; i++)
        if (bb_node_has_input(node, i) && !bb_nn_input(ex, node, i)->fixed)
            return false;
    return true;
}

bb_status bb_nn_build_fake_quantize(bb_executor *ex, const bb_node *node, bb_error *err) {
    if (all_fixed(ex, node))
        return quantize_fixed(ex, node, err);
    bb_fake_plan *plan = bb_arena_alloc(ex->arena, sizeof(*plan));
    if (!plan)
        return bb_fail_memory(err, "quantizer");
    return bb_nn_fake_quantize(ex, node, plan, err);
}
