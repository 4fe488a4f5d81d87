/* SPDX-License-Identifier: Apache-2.0 */
/* Nodes that the graph room evaluates on row-major arrays, and nodes that only rename dims. */
#include "nn/program.h"
#include <string.h>

static bb_array tensor_array(const bb_nn_tensor *tensor, void *data) {
    bb_array array = {.dtype = tensor->dtype, .rank = tensor->rank, .data = data};
    memcpy(array.dims, tensor->dims, sizeof(array.dims));
    return array;
}

/* Inputs of a trial evaluation: fixed contents where there are any, else zeros; ones for what may
 * divide. */
static bb_status trial_inputs(bb_executor *ex, const bb_node *node, bb_array *inputs,
                              bb_arena *arena, bb_error *err) {
    bool divides = node->op == BB_OP_DIV || node->op == BB_OP_MOD;
    for (int i = 0; i < node->n_in; i++) {
        const bb_nn_tensor *tensor = bb_nn_input(ex, node, i);
        if (!tensor)
            continue;
        void *data = (void *)(uintptr_t)tensor->fixed;
        if (!data)
            data = bb_arena_array(arena, tensor->elements + 1, bb_dtype_size(tensor->dtype));
        if (!data)
            return bb_fail_memory(err, "executor");
        if (divides && !tensor->fixed)
            memset(data, 1, tensor->elements * bb_dtype_size(tensor->dtype));
        inputs[i] = tensor_array(tensor, data);
    }
    return BB_STATUS_OK;
}

/* Evaluates with zeros for what is not fixed: gives the outputs' types and dims. */
static bb_status evaluate(bb_executor *ex, const bb_node *node, bb_array *outputs, bb_arena *arena,
                          bb_error *err) {
    bb_array *inputs = bb_arena_array(arena, (size_t)node->n_in, sizeof(*inputs));
    if (!inputs)
        return bb_fail_memory(err, "executor");
    BB_TRY(trial_inputs(ex, node, inputs, arena, err));
    return bb_eval_node(ex->graph, node, inputs, outputs, arena, err);
}

static bb_status define_outputs(bb_executor *ex, const bb_node *node, const bb_array *outputs,
                                bb_error *err) {
    for (int i = 0; i < node->n_out; i++)
        if (node->out[i] >= 0)
            BB_TRY(bb_nn_define(ex, node->out[i], outputs[i].dtype, outputs[i].rank,
                                outputs[i].dims, err));
    return BB_STATUS_OK;
}

bb_status bb_nn_build_fixed(bb_executor *ex, const bb_node *node, bb_error *err) {
    bb_array *outputs = bb_arena_array(ex->arena, (size_t)node->n_out, sizeof(*outputs));
    if (!outputs)
        return bb_fail_memory(err, "executor");
    BB_TRY(evaluate(ex, node, outputs, ex->arena, err));
    BB_TRY(define_outputs(ex, node, outputs, err));
    for (int i = 0; i < node->n_out; i++)
        if (node->out[i] >= 0)
            BB_TRY(bb_nn_fix(ex, node->out[i], outputs[i].data, err));
    return BB_STATUS_OK;
}

/* Dims of a node's outputs by a trial evaluation. */
static bb_status infer(bb_executor *ex, const bb_node *node, bb_error *err) {
    bb_arena *arena = bb_arena_create();
    bb_array *outputs = arena ? bb_arena_array(arena, (size_t)node->n_out, sizeof(*outputs)) : NULL;
    bb_status status =
        outputs ? evaluate(ex, node, outputs, arena, err) : bb_fail_memory(err, "executor");
    if (status == BB_STATUS_OK)
        status = define_outputs(ex, node, outputs, err);
    bb_arena_destroy(arena);
    return status;
}

bb_status bb_nn_build_alias(bb_executor *ex, const bb_node *node, bb_error *err) {
    const bb_nn_tensor *x = bb_nn_input(ex, node, 0);
    int buffer;
    if (node->op == BB_OP_IDENTITY || node->op == BB_OP_DROPOUT) {
        BB_TRY(bb_nn_define(ex, node->out[0], x->dtype, x->rank, x->dims, err));
        return bb_nn_store(ex, node->out[0], x->forms->layout, x->forms->buffer, err);
    }
    if (node->n_in > 1 && node->in[1] >= 0 && !ex->tensors[node->in[1]].fixed)
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "the new dims depend on data");
    BB_TRY(infer(ex, node, err));
    BB_TRY(bb_nn_in_plain(ex, node->in[0], &buffer, err));
    return bb_nn_store(ex, node->out[0], NULL, buffer, err);
}

typedef struct eval_state {
    bb_array *inputs, *outputs, *results;
    const int *in_args, *out_args; /* index into step->data, or -1 */
} eval_state;

static bb_status run_eval(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    const eval_state *s = step->state;
    const bb_node *node = step->node;
    for (int i = 0; i < node->n_in; i++)
        if (s->in_args[i] >= 0)
            s->inputs[i].data = step->data[s->in_args[i]];
    for (int i = 0; i < node->n_out; i++) {
        s->results[i] = s->outputs[i];
        if (s->out_args[i] >= 0)
            s->results[i].data = step->data[s->out_args[i]];
    }
    return bb_eval_node(ex->graph, node, s->inputs, s->results, ex->run_arena, err);
}

static eval_state *new_state(bb_executor *ex, const bb_node *node, int **in_args, int **out_args) {
    size_t n_in = (size_t)node->n_in, n_out = (size_t)node->n_out;
    eval_state *s = bb_arena_alloc(ex->arena, sizeof(*s));
    if (!s)
        return NULL;
    s->inputs = bb_arena_array(ex->arena, n_in, sizeof(bb_array));
    s->outputs = bb_arena_array(ex->arena, n_out, sizeof(bb_array));
    s->results = bb_arena_array(ex->arena, n_out, sizeof(bb_array));
    s->in_args = *in_args = bb_arena_array(ex->arena, n_in, sizeof(int));
    s->out_args = *out_args = bb_arena_array(ex->arena, n_out, sizeof(int));
    return s->inputs && s->outputs && s->results && *in_args && *out_args ? s : NULL;
}

/* Functions of single elements: the order of elements does not matter to them. */
static bool is_elementwise(bb_op op) {
    switch (op) {
    case BB_OP_ABS:
    case BB_OP_CEIL:
    case BB_OP_CLIP:
    case BB_OP_ERF:
    case BB_OP_EXP:
    case BB_OP_FLOOR:
    case BB_OP_LOG:
    case BB_OP_NEG:
    case BB_OP_QONNX_BIPOLAR_QUANT:
    case BB_OP_QONNX_QUANT:
    case BB_OP_QONNX_TRUNC:
    case BB_OP_RECIPROCAL:
    case BB_OP_SELU:
    case BB_OP_SIGN:
    case BB_OP_SOFTPLUS:
    case BB_OP_SOFTSIGN:
    case BB_OP_SQRT:
    case BB_OP_THRESHOLDED_RELU:
        return true;
    default:
        return false;
    }
}

/* True where the node maps single elements of a tensor that oneDNN stores in an order of its own,
 * without padding: it is then evaluated in that order, as if of rank 1. */
static bool keeps_order(bb_executor *ex, const bb_node *node) {
    const bb_nn_tensor *x = bb_nn_input(ex, node, 0);
    if (!is_elementwise(node->op) || x->dtype != BB_DTYPE_F32 || !x->forms->layout ||
        bb_dn_bytes(x->forms->layout) != x->elements * sizeof(float) || node->n_out != 1)
        return false;
    for (int i = 1; i < node->n_in; i++) {
        const bb_nn_tensor *parameter = bb_nn_input(ex, node, i);
        if (parameter && (!parameter->fixed || parameter->elements != 1))
            return false;
    }
    return true;
}

static bb_array flat_array(const bb_nn_tensor *tensor) {
    return (bb_array){
        .dtype = tensor->dtype, .rank = 1, .dims = {(int64_t)tensor->elements}, .data = NULL};
}

static bb_status build_in_order(bb_executor *ex, const bb_node *node, bb_error *err) {
    const bb_nn_tensor *x = bb_nn_input(ex, node, 0);
    int *in_args, *out_args;
    eval_state *state = new_state(ex, node, &in_args, &out_args);
    bb_nn_arg args[2] = {{x->forms->buffer, 0}, {x->forms->buffer, 0}};
    if (!state)
        return bb_fail_memory(err, "executor");
    for (int i = 1; i < node->n_in; i++) {
        const bb_nn_tensor *parameter = bb_nn_input(ex, node, i);
        in_args[i] = -1;
        if (!parameter)
            continue;
        state->inputs[i] =
            (bb_array){.dtype = parameter->dtype, .data = (void *)(uintptr_t)parameter->fixed};
    }
    state->inputs[0] = state->outputs[0] = flat_array(x);
    out_args[0] = 1;
    BB_TRY(bb_nn_define(ex, node->out[0], BB_DTYPE_F32, x->rank, x->dims, err));
    BB_TRY(bb_nn_new_buffer(ex, x->elements * sizeof(float), &args[1].buffer, err));
    BB_TRY(bb_nn_store(ex, node->out[0], x->forms->layout, args[1].buffer, err));
    bb_nn_step step = {.run = run_eval, .node = node, .state = state, .tap = -1};
    return bb_nn_emit(ex, &step, args, 2, err);
}

bb_status bb_nn_build_eval(bb_executor *ex, const bb_node *node, bb_error *err) {
    if (!bb_eval_supports(node))
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "the operator cannot be executed");
    if (node->n_in > 0 && node->in[0] >= 0 && keeps_order(ex, node))
        return build_in_order(ex, node, err);
    int *in_args, *out_args, n = 0;
    eval_state *state = new_state(ex, node, &in_args, &out_args);
    bb_nn_arg *args =
        bb_arena_array(ex->arena, (size_t)node->n_in + (size_t)node->n_out, sizeof(*args));
    if (!state || !args)
        return bb_fail_memory(err, "executor");
    BB_TRY(infer(ex, node, err));
    for (int i = 0; i < node->n_in; i++) {
        const bb_nn_tensor *tensor = bb_nn_input(ex, node, i);
        in_args[i] = tensor ? n : -1;
        if (!tensor)
            continue;
        state->inputs[i] = tensor_array(tensor, NULL);
        BB_TRY(bb_nn_in_plain(ex, node->in[i], &args[n++].buffer, err));
    }
    for (int i = 0; i < node->n_out; i++) {
        out_args[i] = node->out[i] >= 0 ? n : -1;
        if (node->out[i] < 0)
            continue;
        state->outputs[i] = tensor_array(&ex->tensors[node->out[i]], NULL);
        BB_TRY(bb_nn_new_plain(ex, node->out[i], &args[n++].buffer, err));
    }
    bb_nn_step step = {.run = run_eval, .node = node, .state = state, .tap = -1};
    return bb_nn_emit(ex, &step, args, n, err);
}
