/* SPDX-License-Identifier: Apache-2.0 */
/* Building a forward-and-backward program: what is differentiated, the walk, the way back. */
#include "nn/gradient_internal.h"
#include <string.h>

/* ---- what a gradient passes through ---------------------------------------------------------- */

/* Functions that are flat almost everywhere, or give no real numbers. */
static bool blocks_gradient(bb_op op) {
    switch (op) {
    case BB_OP_SHAPE:
    case BB_OP_SIZE:
    case BB_OP_FLOOR:
    case BB_OP_CEIL:
    case BB_OP_ROUND:
    case BB_OP_SIGN:
    case BB_OP_EQUAL:
    case BB_OP_GREATER:
    case BB_OP_GREATER_OR_EQUAL:
    case BB_OP_LESS:
    case BB_OP_LESS_OR_EQUAL:
    case BB_OP_ARGMAX:
    case BB_OP_ARGMIN:
    case BB_OP_NOT:
    case BB_OP_AND:
    case BB_OP_OR:
    case BB_OP_XOR:
        return true;
    default:
        return false;
    }
}

static bool any_active(const bb_gradient *g, const bb_node *node) {
    for (int i = 0; i < node->n_in; i++)
        if (node->in[i] >= 0 && g->values[node->in[i]].active)
            return true;
    return false;
}

static bool any_from_input(const bb_gradient *g, const bb_node *node) {
    for (int i = 0; i < node->n_in; i++)
        if (node->in[i] >= 0 && g->values[node->in[i]].from_input)
            return true;
    return false;
}

static void find_active(bb_gradient *g) {
    const bb_graph *graph = g->ex->graph;
    for (size_t i = 0; i < graph->n_inputs; i++)
        g->values[graph->inputs[i]].from_input = true;
    for (size_t n = 0; n < graph->n_nodes; n++) {
        const bb_node *node = &graph->nodes[n];
        bool active = any_active(g, node) && !blocks_gradient(node->op);
        for (int i = 0; i < node->n_out; i++)
            if (node->out[i] >= 0) {
                g->values[node->out[i]].active = active;
                g->values[node->out[i]].from_input = any_from_input(g, node);
            }
        /* Statistics that move, here or in the program that trains these parameters. */
        bool moves = g->training || (g->forward_only && g->n_parameters > 0);
        g->special[n] = active || (moves && node->op == BB_OP_BATCH_NORMALIZATION);
    }
}

/* What is kept counts as read once more, so that nobody writes over it. */
static void count_kept(bb_gradient *g) {
    for (size_t i = 0; i < g->n_kept; i++) {
        bb_nn_tensor *tensor = &g->ex->tensors[g->kept[i].value];
        if (!tensor->is_output)
            tensor->uses_left++;
        tensor->is_output = true;
    }
}

/* Neighbours that the executor builds must not fuse across the border. */
static void guard_borders(bb_gradient *g) {
    const bb_graph *graph = g->ex->graph;
    for (size_t n = 0; n < graph->n_nodes; n++) {
        const bb_node *node = &graph->nodes[n];
        for (int i = 0; g->special[n] && i < node->n_in; i++)
            if (node->in[i] >= 0)
                g->ex->tensors[node->in[i]].is_output = true;
    }
}

bool bb_grad_wants(const bb_gradient *g, const bb_node *node, int i) {
    return bb_node_has_input(node, i) && g->values[node->in[i]].active;
}

void bb_grad_save(bb_gradient *g, int value) {
    for (bb_nn_form *form = g->ex->tensors[value].forms; form; form = form->next)
        g->ex->buffers[form->buffer].pending++;
}

bool bb_grad_may_overwrite(const bb_gradient *g, int value) {
    return bb_nn_may_overwrite(g->ex, g->ex->tensors[value].forms->buffer);
}

int bb_grad_only_reader(const bb_gradient *g, int value) {
    const bb_nn_tensor *tensor = &g->ex->tensors[value];
    return tensor->uses_left == 1 && g->values[value].kept < 0 ? tensor->reader : -1;
}

/* ---- values that are there before the first node --------------------------------------------- */

static bb_status enter_parameter(bb_gradient *g, bb_grad_parameter *p, bb_error *err) {
    bb_executor *ex = g->ex;
    const bb_value *value = &ex->graph->values[p->value];
    void *data;
    int buffer;
    BB_TRY(bb_nn_define(ex, p->value, value->dtype, value->rank, value->dims, err));
    p->elements = ex->tensors[p->value].elements;
    p->single = ex->tensors[p->value].uses_left == 1;
    size_t bytes = p->elements * sizeof(float);
    if (p->master) {
        BB_TRY(bb_nn_external(ex, bytes, p->master, &buffer, err));
    } else {
        BB_TRY(bb_nn_keep(ex, bytes, &data, &buffer, err));
        p->master = memcpy(data, value->data, bytes);
    }
    BB_TRY(bb_nn_store(ex, p->value, NULL, buffer, err));
    BB_TRY(bb_nn_keep(ex, bytes, &data, &p->gradient_buffer, err));
    p->gradient = memset(data, 0, bytes);
    return BB_STATUS_OK;
}

static bb_status enter_statistic(bb_gradient *g, int v, bb_error *err) {
    bb_executor *ex = g->ex;
    const bb_value *value = &ex->graph->values[v];
    if (ex->tensors[v].known)
        return BB_STATUS_OK;
    if (!value->data || value->dtype != BB_DTYPE_F32 || g->values[v].parameter >= 0)
        return bb_fail(err, BB_STATUS_UNSUPPORTED,
                       "%s: running statistics '%s' are not an f32 constant", ex->graph->name,
                       value->name);
    void *data;
    int buffer;
    BB_TRY(bb_nn_define(ex, v, value->dtype, value->rank, value->dims, err));
    size_t n = ex->tensors[v].elements;
    BB_TRY(bb_nn_keep(ex, n * sizeof(float), &data, &buffer, err));
    memcpy(data, value->data, n * sizeof(float));
    g->statistics[g->n_statistics++] = (bb_grad_statistic){v, n, data};
    return bb_nn_store(ex, v, NULL, buffer, err);
}

static bb_status enter_statistics(bb_gradient *g, bb_error *err) {
    const bb_graph *graph = g->ex->graph;
    for (size_t n = 0; n < graph->n_nodes; n++) {
        const bb_node *node = &graph->nodes[n];
        if (!g->special[n] || node->op != BB_OP_BATCH_NORMALIZATION || node->n_in < 5)
            continue;
        for (int i = 3; i < 5; i++)
            BB_TRY(enter_statistic(g, node->in[i], err));
    }
    return BB_STATUS_OK;
}

bb_grad_statistic *bb_grad_statistic_of(bb_gradient *g, int value) {
    for (size_t i = 0; i < g->n_statistics; i++)
        if (g->statistics[i].value == value)
            return &g->statistics[i];
    return NULL;
}

static bb_status enter_values(bb_gradient *g, const int64_t *const *input_dims, bb_error *err) {
    bb_executor *ex = g->ex;
    const bb_graph *graph = ex->graph;
    for (size_t i = 0; i < g->n_parameters; i++)
        BB_TRY(enter_parameter(g, &g->parameters[i], err));
    BB_TRY(enter_statistics(g, err));
    for (size_t v = 0; v < graph->n_values; v++)
        if (graph->values[v].data && graph->values[v].producer < 0 && !ex->tensors[v].known)
            BB_TRY(bb_nn_enter_constant(ex, (int)v, err));
    for (size_t i = 0; i < graph->n_inputs; i++)
        BB_TRY(bb_nn_enter_input(ex, i, input_dims[i], err));
    for (size_t i = 0; i < g->n_wanted; i++) {
        bb_grad_wanted *w = &g->wanted[i];
        void *data;
        size_t bytes = ex->tensors[w->value].elements * sizeof(float);
        BB_TRY(bb_nn_keep(ex, bytes, &data, &w->buffer, err));
        w->data = memset(data, 0, bytes);
    }
    return BB_STATUS_OK;
}

/* ---- the walk -------------------------------------------------------------------------------- */

typedef bb_status (*build_fn)(bb_gradient *g, const bb_node *node, bb_error *err);

static build_fn builder(bb_op op) {
    switch (op) {
    case BB_OP_CONV:
    case BB_OP_CONV_TRANSPOSE:
        return bb_grad_build_conv;
    case BB_OP_BATCH_NORMALIZATION:
        return bb_grad_build_norm;
    case BB_OP_GEMM:
        return bb_grad_build_gemm;
    case BB_OP_MAX_POOL:
    case BB_OP_AVERAGE_POOL:
        return bb_grad_build_pool;
    case BB_OP_GLOBAL_MAX_POOL:
        return bb_grad_build_pool;
    case BB_OP_CONCAT:
        return bb_grad_build_concat;
    case BB_OP_TRANSPOSE:
    case BB_OP_SLICE:
    case BB_OP_SPLIT:
    case BB_OP_PAD:
    case BB_OP_GATHER:
    case BB_OP_GATHER_ELEMENTS:
    case BB_OP_EXPAND:
    case BB_OP_TILE:
    case BB_OP_DEPTH_TO_SPACE:
    case BB_OP_SPACE_TO_DEPTH:
        return bb_grad_build_move;
    case BB_OP_RESIZE:
        return bb_grad_build_resize;
    case BB_OP_SOFTMAX:
    case BB_OP_LOG_SOFTMAX:
        return bb_grad_build_softmax;
    case BB_OP_REDUCE_MEAN:
    case BB_OP_REDUCE_SUM:
        return bb_grad_build_reduce;
    case BB_OP_INSTANCE_NORMALIZATION:
    case BB_OP_LAYER_NORMALIZATION:
        return bb_grad_build_row_norm;
    case BB_OP_LRN:
        return bb_grad_build_lrn;
    case BB_OP_PRELU:
        return bb_grad_build_prelu;
    case BB_OP_GLOBAL_AVERAGE_POOL:
        return bb_grad_build_global_pool;
    case BB_OP_MATMUL:
        return bb_grad_build_matmul;
    case BB_OP_ADD:
    case BB_OP_SUB:
    case BB_OP_MUL:
    case BB_OP_DIV:
    case BB_OP_MAX:
    case BB_OP_MIN:
    case BB_OP_SUM:
        return bb_grad_build_binary;
    case BB_OP_FAKE_QUANTIZE:
        return bb_grad_build_fake_quantize;
    case BB_OP_IDENTITY:
    case BB_OP_DROPOUT:
    case BB_OP_RESHAPE:
    case BB_OP_FLATTEN:
    case BB_OP_SQUEEZE:
    case BB_OP_UNSQUEEZE:
        return bb_grad_build_alias;
    default:
        return bb_grad_build_function;
    }
}

static bb_status build_node(bb_gradient *g, size_t n, bb_error *err) {
    const bb_node *node = &g->ex->graph->nodes[n];
    return g->special[n] ? builder(node->op)(g, node, err) : bb_nn_build_node(g->ex, node, err);
}

static bb_status build_forward(bb_gradient *g, bb_error *err) {
    bb_executor *ex = g->ex;
    const bb_graph *graph = ex->graph;
    for (size_t n = 0; n < graph->n_nodes; n++) {
        if (ex->built[n])
            continue;
        ex->built[n] = true;
        bb_status status = build_node(g, n, err);
        if (status != BB_STATUS_OK)
            return bb_nn_prefix(ex, &graph->nodes[n], status, err);
        bb_nn_consume(ex, &graph->nodes[n]);
    }
    for (size_t i = 0; i < g->n_kept; i++) {
        bb_grad_kept *kept = &g->kept[i];
        if (!ex->tensors[kept->value].known)
            return bb_fail(err, BB_STATUS_BAD_FILE, "%s: '%s' is never computed", graph->name,
                           graph->values[kept->value].name);
        BB_TRY(bb_nn_in_plain(ex, kept->value, &kept->buffer, err));
    }
    g->n_forward = ex->n_steps;
    return BB_STATUS_OK;
}

bb_status bb_grad_push(bb_gradient *g, const bb_node *node, bb_grad_backward_fn backward,
                       void *state, bb_error *err) {
    bool active = false;
    for (int i = 0; i < node->n_out; i++)
        active = active || (node->out[i] >= 0 && g->values[node->out[i]].active);
    if (!active || g->forward_only)
        return BB_STATUS_OK;
    bb_grad_entry *entry = bb_grad_alloc(g, 1, sizeof(*entry));
    if (!entry)
        return bb_fail_memory(err, "gradient program");
    *entry = (bb_grad_entry){node, backward, state, g->tape};
    g->tape = entry;
    return BB_STATUS_OK;
}

bb_status bb_grad_build(bb_gradient *g, const int64_t *const *input_dims, bb_error *err) {
    find_active(g);
    bb_nn_count_uses(g->ex);
    count_kept(g);
    guard_borders(g);
    BB_TRY(enter_values(g, input_dims, err));
    BB_TRY(build_forward(g, err));
    for (const bb_grad_entry *entry = g->tape; entry; entry = entry->previous) {
        bb_status status = entry->backward(g, entry, err);
        if (status != BB_STATUS_OK)
            return bb_nn_prefix(g->ex, entry->node, status, err);
    }
    if (!g->forward_only)
        BB_TRY(bb_grad_collect(g, err));
    for (size_t i = 0; i < g->n_kept; i++)
        bb_nn_touch(g->ex, g->kept[i].buffer);
    return bb_nn_place(g->ex, err);
}
