/* SPDX-License-Identifier: Apache-2.0 */
/* The plan: tensors, then every node in order. */
#include "engine/plan.h"
#include <string.h>

void *bb_engine_array(bb_engine *engine, size_t n, size_t size) {
    void *p = bb_arena_array(engine->arena, n, size);
    if (p)
        engine->constant_bytes += n * size;
    return p;
}

void bb_engine_need_scratch(bb_engine *engine, size_t bytes) {
    bytes = (bytes + 63) & ~(size_t)63;
    if (bytes > engine->scratch_bytes)
        engine->scratch_bytes = bytes;
}

size_t bb_padded_channels(size_t channels) {
    return (channels + BB_REQUANT_LANES - 1) / BB_REQUANT_LANES * BB_REQUANT_LANES +
           BB_REQUANT_LANES;
}

static void plan_tensor(bb_engine *engine, size_t i, const bb_memory_plan *memory) {
    const bb_tensor_params *params = &engine->profile->tensors[i];
    const int32_t *dims = engine->shapes.dims[i];
    bb_plan_tensor *t = &engine->tensors[i];
    *t = (bb_plan_tensor){.n = dims[DIM_N], .h = dims[DIM_H], .w = dims[DIM_W], .c = dims[DIM_C]};
    t->offset = memory->offset[i];
    t->step = memory->step[i];
    t->inside = memory->inside[i];
    t->passes = memory->passes[i];
    if (t->inside && memory->bytes[i] > engine->tap_copy_bytes)
        engine->tap_copy_bytes = memory->bytes[i];
    t->row = (size_t)t->w * (size_t)t->c;
    t->elements = (size_t)t->n * (size_t)t->h * t->row;
    t->type = BB_ELEMENT_F32;
    if (engine->model->tensors[i].kind == BB_TENSOR_FLOAT)
        return;
    t->bits = params->bits;
    t->type = params->bits > 8 ? BB_ELEMENT_U16 : BB_ELEMENT_U8;
    t->top = (int32_t)((1u << params->bits) - 1);
    t->zero = t->top + params->a0;
}

bb_status bb_plan_tensors(bb_engine *engine, size_t profile, bb_error *err) {
    bb_memory_plan memory;
    BB_TRY(bb_model_plan_memory(engine->model, profile, &engine->shapes, &memory, err));
    engine->tensors = bb_engine_array(engine, engine->model->n_tensors, sizeof(*engine->tensors));
    engine->activation_bytes = memory.total;
    engine->passing_bytes = memory.passing_total;
    for (size_t i = 0; engine->tensors && i < engine->model->n_tensors; i++)
        plan_tensor(engine, i, &memory);
    bb_memory_plan_free(&memory);
    return engine->tensors ? BB_STATUS_OK : bb_fail_memory(err, "the plan");
}

/* Requantizers of a node whose first operand are codes (or sums of them, or products). */
static bb_status plan_code_outputs(bb_engine *engine, bb_plan_node *plan, int z2_tensor,
                                   bb_error *err) {
    const bb_model_node *node = plan->node;
    const bool product = node->kind == BB_NODE_MUL, average = node->kind == BB_NODE_AVERAGE_POOL;
    const bb_plan_tensor *in = &engine->tensors[node->in[0]];
    const size_t padded = bb_padded_channels((size_t)in->c);
    bb_requant_use use = {.channels = (uint32_t)in->c,
                          .z2_tensor = z2_tensor,
                          .max_z1 = product ? (int64_t)1 << 31 : (int64_t)1 << 20,
                          .averages = average};
    int32_t *border = bb_engine_array(engine, padded, sizeof(*border));
    if (!border)
        return bb_fail_memory(err, "the plan");
    for (int32_t c = 0; c < in->c; c++)
        border[c] = product ? 0 : -in->zero;
    plan->border = use.border = border;
    if (product) /* one row of products */
        bb_engine_need_scratch(engine, in->row * sizeof(int32_t));
    if (average) /* sums, and the border vector of a window */
        bb_engine_need_scratch(engine, 2 * padded * sizeof(int32_t));
    for (int i = 0; i < plan->n_out; i++)
        BB_TRY(bb_plan_requant(engine, &use, &plan->out[i], err));
    return BB_STATUS_OK;
}

static bb_status plan_kind(bb_engine *engine, bb_plan_node *plan, bb_error *err) {
    const bb_model_node *node = plan->node;
    switch (node->kind) {
    case BB_NODE_CONV:
        return bb_plan_conv(engine, plan, err);
    case BB_NODE_ADD:
        plan->run = bb_run_elementwise;
        return plan_code_outputs(engine, plan, node->in[1], err);
    case BB_NODE_REQUANT:
        plan->run = bb_run_elementwise;
        return plan_code_outputs(engine, plan, -1, err);
    case BB_NODE_MUL:
        plan->run = bb_run_multiply;
        return plan_code_outputs(engine, plan, -1, err);
    case BB_NODE_AVERAGE_POOL:
        plan->run = bb_run_average_pool;
        return plan_code_outputs(engine, plan, -1, err);
    case BB_NODE_CONCAT:
        plan->run = bb_run_concat;
        return BB_STATUS_OK;
    case BB_NODE_MAX_POOL:
        plan->run = bb_run_max_pool;
        bb_engine_need_scratch(engine, engine->tensors[node->in[0]].row * sizeof(uint16_t));
        return BB_STATUS_OK;
    case BB_NODE_GATHER_CHANNELS:
        plan->run = bb_run_gather;
        return BB_STATUS_OK;
    case BB_NODE_RESHAPE:
        plan->run = bb_run_nothing;
        return BB_STATUS_OK;
    case BB_NODE_RESIZE_NEAREST:
        plan->run = bb_run_resize;
        return BB_STATUS_OK;
    case BB_NODE_QUANTIZE:
        plan->run = bb_run_quantize;
        return BB_STATUS_OK;
    case BB_NODE_FLOAT:
        return bb_plan_float(engine, plan, err);
    }
    return bb_fail(err, BB_STATUS_UNSUPPORTED, "unknown node kind %d", (int)node->kind);
}

bb_status bb_plan_nodes(bb_engine *engine, bb_error *err) {
    const bb_model *model = engine->model;
    engine->nodes = bb_engine_array(engine, model->n_nodes, sizeof(*engine->nodes));
    if (!engine->nodes)
        return bb_fail_memory(err, "the plan");
    for (size_t i = 0; i < model->n_nodes; i++) {
        bb_plan_node *plan = &engine->nodes[i];
        plan->node = &model->nodes[i];
        plan->macs = engine->parts * bb_node_macs(model, plan->node, &engine->shapes);
        plan->n_out = plan->node->n_out;
        for (int k = 0; k < plan->n_out; k++)
            plan->out[k].tensor = plan->node->out[k];
        const bb_status status = plan_kind(engine, plan, err);
        if (status != BB_STATUS_OK)
            return bb_error_prefix(err, status, "node '%s'", plan->node->name);
    }
    return BB_STATUS_OK;
}
