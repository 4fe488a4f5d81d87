/* SPDX-License-Identifier: Apache-2.0 */
#include "nn/program.h"
#include <string.h>

/* Larger single tensors are refused: no network of this kind needs them, a hostile file might. */
#define MAX_TENSOR_BYTES ((size_t)1 << 32)

bb_nn_tensor *bb_nn_input(bb_executor *ex, const bb_node *node, int i) {
    return i < node->n_in && node->in[i] >= 0 ? &ex->tensors[node->in[i]] : NULL;
}

const float *bb_nn_fixed_f32(bb_executor *ex, const bb_node *node, int i) {
    const bb_nn_tensor *tensor = bb_nn_input(ex, node, i);
    return tensor && tensor->dtype == BB_DTYPE_F32 ? tensor->fixed : NULL;
}

bb_status bb_nn_define(bb_executor *ex, int value, bb_dtype dtype, int rank, const int64_t *dims,
                       bb_error *err) {
    bb_nn_tensor *tensor = &ex->tensors[value];
    size_t bytes;
    if (rank < 0 || rank > BB_MAX_RANK)
        return bb_fail(err, BB_STATUS_LIMIT, "rank %d of '%s' is not supported", rank,
                       ex->graph->values[value].name);
    if (!bb_dims_product(dims, (size_t)rank, &tensor->elements) ||
        !bb_size_mul(tensor->elements, bb_dtype_size(dtype), &bytes) || bytes > MAX_TENSOR_BYTES)
        return bb_fail(err, BB_STATUS_LIMIT, "tensor '%s' is too large",
                       ex->graph->values[value].name);
    tensor->known = true;
    tensor->dtype = dtype;
    tensor->rank = rank;
    memcpy(tensor->dims, dims, (size_t)rank * sizeof(*dims));
    return BB_STATUS_OK;
}

static void note_tap(bb_executor *ex, int value) {
    if (ex->tensors[value].tapped && !ex->tensors[value].forms)
        ex->new_taps[ex->n_new_taps++] = value;
}

bb_status bb_nn_store(bb_executor *ex, int value, const bb_dn_layout *layout, int buffer,
                      bb_error *err) {
    bb_nn_tensor *tensor = &ex->tensors[value];
    bb_nn_form *form = bb_arena_alloc(ex->arena, sizeof(*form));
    if (!form)
        return bb_fail_memory(err, "executor");
    note_tap(ex, value);
    form->layout = layout && !bb_dn_is_plain(layout) ? layout : NULL;
    form->buffer = buffer;
    bb_nn_form **end = &tensor->forms;
    while (*end)
        end = &(*end)->next;
    *end = form;
    ex->buffers[buffer].pending += tensor->uses_left;
    return BB_STATUS_OK;
}

static bb_status add_buffer(bb_executor *ex, size_t bytes, const void *fixed, int *buffer,
                            bb_error *err) {
    if (ex->n_buffers == ex->cap_buffers) {
        size_t cap = ex->cap_buffers ? 2 * ex->cap_buffers : 64;
        bb_nn_buffer *grown = bb_realloc_array(ex->buffers, cap, sizeof(*grown));
        if (!grown)
            return bb_fail_memory(err, "executor");
        ex->buffers = grown;
        ex->cap_buffers = cap;
    }
    *buffer = (int)ex->n_buffers++;
    ex->buffers[*buffer] =
        (bb_nn_buffer){.bytes = bytes, .first = INT32_MAX, .last = -1, .fixed = fixed};
    return BB_STATUS_OK;
}

bb_status bb_nn_new_buffer(bb_executor *ex, size_t bytes, int *buffer, bb_error *err) {
    return add_buffer(ex, bytes, NULL, buffer, err);
}

bb_status bb_nn_external(bb_executor *ex, size_t bytes, const void *data, int *buffer,
                         bb_error *err) {
    return add_buffer(ex, bytes, data, buffer, err);
}

bb_status bb_nn_new_plain(bb_executor *ex, int value, int *buffer, bb_error *err) {
    const bb_nn_tensor *tensor = &ex->tensors[value];
    BB_TRY(bb_nn_new_buffer(ex, tensor->elements * bb_dtype_size(tensor->dtype), buffer, err));
    return bb_nn_store(ex, value, NULL, *buffer, err);
}

bb_status bb_nn_keep(bb_executor *ex, size_t bytes, void **data, int *buffer, bb_error *err) {
    if (ex->n_kept == ex->cap_kept) {
        size_t cap = ex->cap_kept ? 2 * ex->cap_kept : 64;
        void **grown = bb_realloc_array(ex->kept, cap, sizeof(*grown));
        if (!grown)
            return bb_fail_memory(err, "executor");
        ex->kept = grown;
        ex->cap_kept = cap;
    }
    *data = bb_alloc_aligned(bytes);
    if (!*data)
        return bb_fail_memory(err, "packed weights");
    ex->kept[ex->n_kept++] = *data;
    return add_buffer(ex, bytes, *data, buffer, err);
}

bb_status bb_nn_fix(bb_executor *ex, int value, const void *data, bb_error *err) {
    int buffer = 0;
    bb_nn_tensor *tensor = &ex->tensors[value];
    tensor->fixed = data;
    BB_TRY(add_buffer(ex, tensor->elements * bb_dtype_size(tensor->dtype), data, &buffer, err));
    return bb_nn_store(ex, value, NULL, buffer, err);
}

/* ---- reading --------------------------------------------------------------------------------- */

static const bb_dn_layout *form_layout(bb_executor *ex, const bb_nn_tensor *tensor,
                                       const bb_nn_form *form) {
    return form->layout ? form->layout : bb_dn_plain(ex->dn, tensor->rank, tensor->dims);
}

const bb_dn_layout *bb_nn_layout(bb_executor *ex, int value) {
    const bb_nn_tensor *tensor = &ex->tensors[value];
    return form_layout(ex, tensor, tensor->forms);
}

bool bb_nn_is_channels_last(bb_executor *ex, int value) {
    const bb_nn_tensor *tensor = &ex->tensors[value];
    if (!tensor->forms->layout || tensor->rank < 3)
        return false;
    const bb_dn_layout *layout = bb_dn_channels_last(ex->dn, tensor->rank, tensor->dims);
    return layout && bb_dn_same(layout, tensor->forms->layout);
}

bb_status bb_nn_in_plain(bb_executor *ex, int value, int *buffer, bb_error *err) {
    const bb_nn_tensor *tensor = &ex->tensors[value];
    for (const bb_nn_form *form = tensor->forms; form; form = form->next) {
        *buffer = form->buffer;
        if (!form->layout)
            return BB_STATUS_OK;
    }
    const bb_dn_layout *plain = bb_dn_plain(ex->dn, tensor->rank, tensor->dims);
    if (!plain)
        return bb_fail_memory(err, "executor");
    return bb_nn_in_layout(ex, value, plain, buffer, err);
}

bb_status bb_nn_in_layout(bb_executor *ex, int value, const bb_dn_layout *layout, int *buffer,
                          bb_error *err) {
    const bb_nn_tensor *tensor = &ex->tensors[value];
    for (const bb_nn_form *form = tensor->forms; form; form = form->next) {
        const bb_dn_layout *have = form_layout(ex, tensor, form);
        if (!have)
            return bb_fail_memory(err, "executor");
        *buffer = form->buffer;
        if (bb_dn_same(have, layout) || (!form->layout && bb_dn_is_plain(layout)))
            return BB_STATUS_OK;
    }
    const bb_dn_layout *from = bb_nn_layout(ex, value);
    int src = tensor->forms->buffer;
    BB_TRY(bb_nn_new_buffer(ex, bb_dn_bytes(layout), buffer, err));
    BB_TRY(bb_nn_emit_reorder(ex, from, src, layout, *buffer, err));
    return bb_nn_store(ex, value, layout, *buffer, err);
}

bool bb_nn_may_overwrite(const bb_executor *ex, int buffer) {
    return !ex->buffers[buffer].fixed && ex->buffers[buffer].pending == 1;
}

void bb_nn_consume(bb_executor *ex, const bb_node *node) {
    for (int i = 0; i < node->n_in; i++) {
        bb_nn_tensor *tensor = bb_nn_input(ex, node, i);
        if (!tensor)
            continue;
        tensor->uses_left--;
        for (bb_nn_form *form = tensor->forms; form; form = form->next)
            ex->buffers[form->buffer].pending--;
    }
}

/* ---- steps ----------------------------------------------------------------------------------- */

static void touch(bb_nn_buffer *buffer, int step) {
    if (step < buffer->first)
        buffer->first = step;
    if (step > buffer->last)
        buffer->last = step;
}

bb_status bb_nn_emit(bb_executor *ex, const bb_nn_step *step, const bb_nn_arg *args, int n_args,
                     bb_error *err) {
    if (ex->n_steps == ex->cap_steps) {
        size_t cap = ex->cap_steps ? 2 * ex->cap_steps : 64;
        bb_nn_step *grown = bb_realloc_array(ex->steps, cap, sizeof(*grown));
        if (!grown)
            return bb_fail_memory(err, "executor");
        ex->steps = grown;
        ex->cap_steps = cap;
    }
    bb_nn_arg *copy = bb_arena_array(ex->arena, (size_t)n_args, sizeof(*copy));
    void **data = bb_arena_array(ex->arena, (size_t)n_args, sizeof(*data));
    if (!copy || !data)
        return bb_fail_memory(err, "executor");
    for (int i = 0; i < n_args; i++) {
        copy[i] = args[i];
        touch(&ex->buffers[args[i].buffer], (int)ex->n_steps);
    }
    bb_nn_step *slot = &ex->steps[ex->n_steps++];
    *slot = *step;
    slot->n_args = n_args;
    slot->args = copy;
    slot->data = data;
    return BB_STATUS_OK;
}

void bb_nn_touch(bb_executor *ex, int buffer) {
    touch(&ex->buffers[buffer], (int)ex->n_steps);
}

bb_status bb_nn_prefix(const bb_executor *ex, const bb_node *node, bb_status status,
                       bb_error *err) {
    return bb_error_prefix(err, status, "%s: node '%s' (%s, opset %d)", ex->graph->name, node->name,
                           bb_op_name(node->op), ex->graph->opset);
}

static bb_status run_op(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    return bb_dn_op_run(ex->dn, step->op, err);
}

bb_status bb_nn_emit_op(bb_executor *ex, const bb_node *node, bb_dn_op *op, const bb_nn_arg *args,
                        int n_args, bb_error *err) {
    if (bb_dn_op_scratch(op) > ex->scratch_bytes)
        ex->scratch_bytes = bb_dn_op_scratch(op);
    bb_nn_step step = {.run = run_op, .node = node, .op = op, .tap = -1};
    return bb_nn_emit(ex, &step, args, n_args, err);
}

bb_status bb_nn_emit_reorder(bb_executor *ex, const bb_dn_layout *src, int src_buffer,
                             const bb_dn_layout *dst, int dst_buffer, bb_error *err) {
    bb_dn_op *op;
    BB_TRY(bb_dn_make_reorder(ex->dn, src, dst, &op, err));
    bb_nn_arg args[] = {{src_buffer, BB_DN_SRC}, {dst_buffer, BB_DN_DST}};
    return bb_nn_emit_op(ex, NULL, op, args, 2, err);
}

static bb_status run_tap(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    if (!ex->tap)
        return BB_STATUS_OK;
    const bb_nn_tensor *tensor = &ex->tensors[step->tap];
    bb_array array = {.dtype = tensor->dtype, .rank = tensor->rank, .data = step->data[0]};
    memcpy(array.dims, tensor->dims, sizeof(array.dims));
    if (ex->tap(ex->tap_user, step->tap, &array) != 0)
        return bb_fail(err, BB_STATUS_CANCELLED, "stopped by the caller at '%s'",
                       ex->graph->values[step->tap].name);
    return BB_STATUS_OK;
}

static bb_status flush_taps(bb_executor *ex, bb_error *err) {
    for (size_t i = 0; i < ex->n_new_taps; i++) {
        bb_nn_step step = {.run = run_tap, .tap = ex->new_taps[i]};
        bb_nn_arg arg = {0, 0};
        BB_TRY(bb_nn_in_plain(ex, ex->new_taps[i], &arg.buffer, err));
        BB_TRY(bb_nn_emit(ex, &step, &arg, 1, err));
    }
    ex->n_new_taps = 0;
    return BB_STATUS_OK;
}

/* ---- the walk -------------------------------------------------------------------------------- */

void bb_nn_count_uses(bb_executor *ex) {
    const bb_graph *graph = ex->graph;
    for (size_t n = 0; n < graph->n_nodes; n++)
        for (int i = 0; i < graph->nodes[n].n_in; i++) {
            bb_nn_tensor *tensor = bb_nn_input(ex, &graph->nodes[n], i);
            if (tensor) {
                tensor->uses_left++;
                tensor->reader = (int)n;
            }
        }
    for (size_t i = 0; i < graph->n_outputs; i++) {
        ex->tensors[graph->outputs[i]].uses_left++;
        ex->tensors[graph->outputs[i]].is_output = true;
    }
}

bb_status bb_nn_enter_constant(bb_executor *ex, int value, bb_error *err) {
    const bb_value *v = &ex->graph->values[value];
    BB_TRY(bb_nn_define(ex, value, v->dtype, v->rank, v->dims, err));
    return bb_nn_fix(ex, value, v->data, err);
}

bb_status bb_nn_enter_input(bb_executor *ex, size_t i, const int64_t *dims, bb_error *err) {
    int v = ex->graph->inputs[i];
    const bb_value *value = &ex->graph->values[v];
    BB_TRY(bb_nn_define(ex, v, value->dtype, value->rank, dims, err));
    BB_TRY(bb_nn_new_plain(ex, v, &ex->input_buffers[i], err));
    touch(&ex->buffers[ex->input_buffers[i]], 0);
    return BB_STATUS_OK;
}

static bb_status enter_values(bb_executor *ex, const int64_t *const *input_dims, bb_error *err) {
    const bb_graph *graph = ex->graph;
    for (size_t v = 0; v < graph->n_values; v++)
        if (graph->values[v].data && graph->values[v].producer < 0)
            BB_TRY(bb_nn_enter_constant(ex, (int)v, err));
    for (size_t i = 0; i < graph->n_inputs; i++)
        BB_TRY(bb_nn_enter_input(ex, i, input_dims[i], err));
    return flush_taps(ex, err);
}

static bool inputs_fixed(bb_executor *ex, const bb_node *node) {
    if (node->op == BB_OP_SHAPE)
        return true;
    for (int i = 0; i < node->n_in; i++) {
        const bb_nn_tensor *tensor = bb_nn_input(ex, node, i);
        if (tensor && !tensor->fixed)
            return false;
    }
    return true;
}

typedef bb_status (*build_fn)(bb_executor *ex, const bb_node *node, bb_error *err);
typedef bb_status (*try_fn)(bb_executor *ex, const bb_node *node, bool *taken, bb_error *err);

static build_fn heavy_builder(bb_op op) {
    switch (op) {
    case BB_OP_CONV:
    case BB_OP_CONV_TRANSPOSE:
        return bb_nn_build_conv;
    case BB_OP_GEMM:
        return bb_nn_build_gemm;
    case BB_OP_MATMUL:
        return bb_nn_build_matmul;
    case BB_OP_MAX_POOL:
    case BB_OP_AVERAGE_POOL:
        return bb_nn_build_pool;
    case BB_OP_GLOBAL_AVERAGE_POOL:
    case BB_OP_GLOBAL_MAX_POOL:
        return bb_nn_build_global_pool;
    case BB_OP_BATCH_NORMALIZATION:
        return bb_nn_build_batch_norm;
    case BB_OP_INSTANCE_NORMALIZATION:
        return bb_nn_build_instance_norm;
    case BB_OP_LAYER_NORMALIZATION:
        return bb_nn_build_layer_norm;
    case BB_OP_LRN:
        return bb_nn_build_lrn;
    case BB_OP_SOFTMAX:
    case BB_OP_LOG_SOFTMAX:
        return bb_nn_build_softmax;
    case BB_OP_RESIZE:
        return bb_nn_build_resize;
    case BB_OP_FAKE_QUANTIZE:
        return bb_nn_build_fake_quantize;
    case BB_OP_CONV_INTEGER:
    case BB_OP_QLINEAR_CONV:
        return bb_nn_build_integer_conv;
    case BB_OP_MATMUL_INTEGER:
    case BB_OP_QLINEAR_MATMUL:
        return bb_nn_build_integer_matmul;
    case BB_OP_DYNAMIC_QUANTIZE_LINEAR:
        return bb_nn_build_dynamic_quantize;
    default:
        return NULL;
    }
}

static try_fn light_builder(bb_op op) {
    switch (op) {
    case BB_OP_ADD:
    case BB_OP_SUB:
    case BB_OP_MUL:
    case BB_OP_DIV:
    case BB_OP_MAX:
    case BB_OP_MIN:
    case BB_OP_SUM:
        return bb_nn_build_binary;
    case BB_OP_CONCAT:
        return bb_nn_build_concat;
    case BB_OP_PRELU:
        return bb_nn_build_prelu;
    default:
        return bb_nn_build_function;
    }
}

static bool is_alias(const bb_node *node) {
    switch (node->op) {
    case BB_OP_IDENTITY:
    case BB_OP_RESHAPE:
    case BB_OP_FLATTEN:
    case BB_OP_SQUEEZE:
    case BB_OP_UNSQUEEZE:
        return true;
    case BB_OP_DROPOUT:
        return node->n_out < 2 || node->out[1] < 0;
    default:
        return false;
    }
}

bb_status bb_nn_build_node(bb_executor *ex, const bb_node *node, bb_error *err) {
    for (int i = 0; i < node->n_in; i++)
        if (node->in[i] >= 0 && !ex->tensors[node->in[i]].known)
            return bb_fail(err, BB_STATUS_INTERNAL, "input '%s' has not been computed",
                           ex->graph->values[node->in[i]].name);
    if (inputs_fixed(ex, node) && bb_eval_supports(node))
        return bb_nn_build_fixed(ex, node, err);
    build_fn build = heavy_builder(node->op);
    if (build)
        return build(ex, node, err);
    if (is_alias(node))
        return bb_nn_build_alias(ex, node, err);
    bool taken = false;
    BB_TRY(light_builder(node->op)(ex, node, &taken, err));
    return taken ? BB_STATUS_OK : bb_nn_build_eval(ex, node, err);
}

static bb_status finish_outputs(bb_executor *ex, bb_error *err) {
    const bb_graph *graph = ex->graph;
    for (size_t i = 0; i < graph->n_outputs; i++) {
        int value = graph->outputs[i];
        if (!ex->tensors[value].known)
            return bb_fail(err, BB_STATUS_BAD_FILE, "%s: output '%s' is never computed",
                           graph->name, graph->values[value].name);
        BB_TRY(bb_nn_in_plain(ex, value, &ex->output_buffers[i], err));
    }
    for (size_t i = 0; i < graph->n_outputs; i++)
        bb_nn_touch(ex, ex->output_buffers[i]);
    return BB_STATUS_OK;
}

bb_status bb_nn_build(bb_executor *ex, const int64_t *const *input_dims, bb_error *err) {
    const bb_graph *graph = ex->graph;
    bb_nn_count_uses(ex);
    BB_TRY(enter_values(ex, input_dims, err));
    for (size_t n = 0; n < graph->n_nodes; n++) {
        const bb_node *node = &graph->nodes[n];
        if (ex->built[n])
            continue;
        ex->built[n] = true;
        bb_status status = bb_nn_build_node(ex, node, err);
        if (status == BB_STATUS_OK) {
            bb_nn_consume(ex, node);
            status = flush_taps(ex, err);
        }
        if (status != BB_STATUS_OK)
            return bb_nn_prefix(ex, node, status, err);
    }
    return finish_outputs(ex, err);
}
