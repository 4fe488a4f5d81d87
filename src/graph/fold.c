/* SPDX-License-Identifier: Apache-2.0 */
/* Constant folding. Exporters compute the arguments of Reshape and Resize from Shape; where some
 * dims are unknown (a symbolic batch), their places in such a computation are marked, moved along
 * by the operators that only move elements, and expressed without numbers where they arrive. */
#include "graph/eval.h"
#include <string.h>

/* A mark: dim `axis` of value `value`. No tensor has dims that far below zero. */
static const int64_t MARK_BASE = INT64_MIN / 2;

static int64_t mark_of(int value, int axis) {
    return MARK_BASE + (int64_t)value * BB_MAX_RANK + axis;
}

static bool is_mark(int64_t v) {
    return v >= MARK_BASE && v < MARK_BASE + (int64_t)INT32_MAX * BB_MAX_RANK;
}

typedef struct folder {
    bb_graph *graph;
    const int64_t **partial; /* per value: int64 contents with marks, or NULL */
    bool *batch;             /* per value: dim 0 is the unknown batch of the inputs */
    size_t n_partial;
    size_t budget; /* bytes that folding may still add */
    bool quantizers;
    bb_error *err;
} folder;

bool bb_op_is_quantizer(bb_op op) {
    return op == BB_OP_QUANTIZE_LINEAR || op == BB_OP_DEQUANTIZE_LINEAR ||
           op == BB_OP_QONNX_QUANT || op == BB_OP_QONNX_BIPOLAR_QUANT || op == BB_OP_QONNX_TRUNC ||
           op == BB_OP_QONNX_MULTI_THRESHOLD;
}

static bool only_moves(bb_op op) {
    return op == BB_OP_GATHER || op == BB_OP_UNSQUEEZE || op == BB_OP_SQUEEZE ||
           op == BB_OP_CONCAT || op == BB_OP_SLICE || op == BB_OP_RESHAPE || op == BB_OP_IDENTITY ||
           op == BB_OP_CAST || op == BB_OP_SPLIT;
}

static const int64_t *partial_of(const folder *f, int value) {
    return value >= 0 && (size_t)value < f->n_partial ? f->partial[value] : NULL;
}

static bool all_inputs_constant(const folder *f, const bb_node *node) {
    for (int i = 0; i < node->n_in; i++)
        if (node->in[i] >= 0 && !f->graph->values[node->in[i]].data)
            return false;
    return true;
}

/* Bytes of all outputs; false where a size is not known. */
static bool output_bytes(const folder *f, const bb_node *node, size_t *bytes) {
    *bytes = 0;
    for (int i = 0; i < node->n_out; i++) {
        size_t n;
        if (node->out[i] < 0)
            continue;
        const bb_value *value = &f->graph->values[node->out[i]];
        if (!bb_value_elements(value, &n) || !bb_size_mul(n, bb_dtype_size(value->dtype), &n) ||
            !bb_size_add(*bytes, n, bytes))
            return false;
    }
    return true;
}

static bb_array *make_arrays(const folder *f, const bb_node *node) {
    size_t n = (size_t)node->n_in + (size_t)node->n_out;
    bb_array *arrays = bb_calloc_array(n, sizeof(*arrays));
    for (int i = 0; arrays && i < node->n_in; i++) {
        const int64_t *partial = partial_of(f, node->in[i]);
        if (node->in[i] < 0)
            continue;
        bb_array_from_value(&f->graph->values[node->in[i]], &arrays[i]);
        if (partial)
            arrays[i].data = (void *)(uintptr_t)partial;
    }
    return arrays;
}

static void keep_output(folder *f, int index, const bb_array *array) {
    bb_value *value = &f->graph->values[index];
    value->dtype = array->dtype;
    value->rank = array->rank;
    memcpy(value->dims, array->dims, sizeof(value->dims));
    value->data = array->data;
}

/* Evaluates the node into the graph's arena. An evaluation that fails on hostile numbers is left
 * for run time, which reports it. */
static bb_status evaluate(folder *f, const bb_node *node) {
    bb_array *in = make_arrays(f, node);
    if (!in)
        return bb_fail_memory(f->err, node->name);
    bb_array *out = in + node->n_in;
    bb_status status = bb_eval_node(f->graph, node, in, out, f->graph->arena, f->err);
    for (int i = 0; i < node->n_out && status == BB_STATUS_OK; i++)
        if (node->out[i] >= 0)
            keep_output(f, node->out[i], &out[i]);
    bb_free(in);
    return bb_error_prefix(f->err, status, "%s", f->graph->name);
}

/* ---- partly known shapes --------------------------------------------------------------------- */

static bb_status shape_with_marks(folder *f, const bb_node *node) {
    const bb_value *x = &f->graph->values[node->in[0]], *y = &f->graph->values[node->out[0]];
    if (x->rank < 0)
        return BB_STATUS_OK;
    int64_t *data = bb_arena_array(f->graph->arena, BB_MAX_RANK, sizeof(*data));
    if (!data)
        return bb_fail_memory(f->err, node->name);
    int64_t start = bb_node_int(node, "start", 0);
    start += start < 0 ? x->rank : 0;
    start = start < 0 ? 0 : start; /* with start > rank there are no elements */
    bool marked = false;
    for (int64_t i = 0; i < y->dims[0]; i++) {
        int axis = (int)(start + i);
        data[i] = x->dims[axis] < 0 ? mark_of(node->in[0], axis) : x->dims[axis];
        marked = marked || is_mark(data[i]);
    }
    if (marked)
        f->partial[node->out[0]] = data;
    else
        f->graph->values[node->out[0]].data = data;
    return BB_STATUS_OK;
}

static bool has_marks(const bb_array *array) {
    size_t n;
    if (array->dtype != BB_DTYPE_I64 || !bb_dims_product(array->dims, (size_t)array->rank, &n))
        return false;
    for (size_t i = 0; i < n; i++)
        if (is_mark(((const int64_t *)array->data)[i]))
            return true;
    return false;
}

/* A moving operator with at least one partly known input and no unknown one. */
static bool can_move_marks(const folder *f, const bb_node *node) {
    bool any = false;
    if (!only_moves(node->op))
        return false;
    for (int i = 0; i < node->n_in; i++) {
        if (node->in[i] < 0)
            continue;
        bool partial = partial_of(f, node->in[i]) != NULL;
        if (!partial && !f->graph->values[node->in[i]].data)
            return false;
        any = any || partial;
    }
    return any && (node->op != BB_OP_CAST || bb_node_int(node, "to", -1) == BB_DTYPE_I64);
}

static bb_status move_marks(folder *f, const bb_node *node) {
    bb_array *in = make_arrays(f, node);
    if (!in)
        return bb_fail_memory(f->err, node->name);
    bb_array *out = in + node->n_in;
    bb_error ignored;
    bb_status status = bb_eval_node(f->graph, node, in, out, f->graph->arena, &ignored);
    for (int i = 0; i < node->n_out && status == BB_STATUS_OK; i++) {
        if (node->out[i] < 0)
            continue;
        if (has_marks(&out[i]))
            f->partial[node->out[i]] = out[i].data;
        else
            keep_output(f, node->out[i], &out[i]);
    }
    bb_free(in);
    return status == BB_STATUS_OUT_OF_MEMORY ? bb_fail_memory(f->err, node->name) : BB_STATUS_OK;
}

static bb_status set_shape_input(folder *f, bb_node *node, int input, const int64_t *v, size_t n) {
    bb_graph *graph = f->graph;
    int64_t dims[1] = {(int64_t)n};
    void *data;
    const char *name = bb_arena_printf(graph->arena, "%s.shape", node->name);
    int *in = bb_arena_array(graph->arena, (size_t)node->n_in, sizeof(*in));
    int value = name && in ? bb_graph_add_constant(graph, name, BB_DTYPE_I64, 1, dims, &data) : -1;
    if (value < 0)
        return bb_fail_memory(f->err, node->name);
    memcpy(data, v, n * sizeof(*v));
    memcpy(in, node->in, (size_t)node->n_in * sizeof(*in));
    in[input] = value;
    node->in = in;
    return BB_STATUS_OK;
}

static bool starts_with_batch(const folder *f, int value) {
    return value >= 0 && (size_t)value < f->n_partial && f->batch[value];
}

/* The mark stands for the batch, and so does dim 0 of the value. */
static bool is_batch(const folder *f, int value, int64_t mark) {
    if (!is_mark(mark) || (mark - MARK_BASE) % BB_MAX_RANK != 0)
        return false;
    return starts_with_batch(f, value) &&
           starts_with_batch(f, (int)((mark - MARK_BASE) / BB_MAX_RANK));
}

/* True where the node leaves axis 0 of its input 0 alone. */
static bool keeps_axis_0(const folder *f, const bb_node *node) {
    int64_t v[BB_MAX_RANK];
    size_t n;
    const bb_graph *graph = f->graph;
    switch (node->op) {
    case BB_OP_RESHAPE:
        return bb_value_ints(bb_node_input(graph, node, 1), v, BB_MAX_RANK, &n) && n > 0 &&
               v[0] == 0 && bb_node_int(node, "allowzero", 0) == 0;
    case BB_OP_TRANSPOSE:
        bb_node_ints(node, "perm", v, 1, -1);
        return v[0] == 0;
    case BB_OP_FLATTEN:
        return bb_node_int(node, "axis", 1) == 1;
    case BB_OP_CONCAT:
    case BB_OP_SPLIT:
        return bb_node_int(node, "axis", 0) > 0;
    case BB_OP_SLICE:
        if (!bb_value_ints(bb_node_input(graph, node, 3), v, BB_MAX_RANK, &n))
            return false;
        for (size_t i = 0; i < n; i++)
            if (v[i] <= 0)
                return false;
        return true;
    case BB_OP_GATHER:
    case BB_OP_SQUEEZE:
    case BB_OP_UNSQUEEZE:
    case BB_OP_EXPAND:
    case BB_OP_TILE:
    case BB_OP_PAD:
    case BB_OP_MATMUL:
        return false;
    default: /* elementwise, convolutions, pools */
        return node->out[0] >= 0 &&
               graph->values[node->in[0]].rank == graph->values[node->out[0]].rank;
    }
}

static void note_batch(folder *f, const bb_node *node) {
    bool kept = node->n_in > 0 && starts_with_batch(f, node->in[0]) && keeps_axis_0(f, node);
    for (int i = 0; i < node->n_out; i++)
        if (node->out[i] >= 0 && f->graph->values[node->out[i]].rank > 0)
            f->batch[node->out[i]] = kept && f->graph->values[node->out[i]].dims[0] < 0;
}

/* Reshape: an unknown dim that stays in its place is 0 (copy), one other one is -1 (what is left).
 */
static bb_status settle_reshape(folder *f, bb_node *node) {
    const int64_t *partial = node->n_in > 1 ? partial_of(f, node->in[1]) : NULL;
    if (!partial || bb_node_int(node, "allowzero", 0) != 0)
        return BB_STATUS_OK;
    const bb_value *shape = &f->graph->values[node->in[1]];
    int64_t v[BB_MAX_RANK];
    int inferred = 0;
    if (shape->rank != 1 || shape->dims[0] < 0 || shape->dims[0] > BB_MAX_RANK)
        return BB_STATUS_OK;
    for (int i = 0; i < shape->dims[0]; i++) {
        v[i] = partial[i];
        if (v[i] == mark_of(node->in[0], i) || (i == 0 && is_batch(f, node->in[0], v[0])))
            v[i] = 0;
        else if (is_mark(v[i]))
            v[i] = -1;
        inferred += v[i] == -1;
    }
    if (inferred > 1)
        return BB_STATUS_OK;
    return set_shape_input(f, node, 1, v, (size_t)shape->dims[0]);
}

/* Resize by sizes: dims that stay unknown keep their size, so only the others are named. */
static bb_status settle_resize(folder *f, bb_node *node) {
    const int64_t *partial = node->n_in > 3 ? partial_of(f, node->in[3]) : NULL;
    const bb_value *x = node->in[0] >= 0 ? &f->graph->values[node->in[0]] : NULL;
    if (!partial || !x || x->rank < 0 || bb_node_attr(node, "axes"))
        return BB_STATUS_OK;
    const bb_value *sizes = &f->graph->values[node->in[3]];
    int64_t axes[BB_MAX_RANK], v[BB_MAX_RANK];
    size_t n = 0;
    if (sizes->rank != 1 || sizes->dims[0] != x->rank)
        return BB_STATUS_OK;
    for (int i = 0; i < x->rank; i++) {
        if (partial[i] == mark_of(node->in[0], i))
            continue;
        if (i == 0 && is_batch(f, node->in[0], partial[0]))
            continue;
        if (is_mark(partial[i]))
            return BB_STATUS_OK;
        axes[n] = i;
        v[n++] = partial[i];
    }
    if (!bb_node_set_ints(f->graph, node, "axes", axes, n))
        return bb_fail_memory(f->err, node->name);
    return set_shape_input(f, node, 3, v, n);
}

/* ---- the walk -------------------------------------------------------------------------------- */

static bb_status fold_node(folder *f, size_t index) {
    bb_node *node = &f->graph->nodes[index];
    size_t bytes;
    if (node->op == BB_OP_RESHAPE)
        BB_TRY(settle_reshape(f, node));
    if (node->op == BB_OP_RESIZE)
        BB_TRY(settle_resize(f, node));
    BB_TRY(bb_graph_infer_node(f->graph, node, f->err));
    note_batch(f, node);
    if (node->op == BB_OP_SHAPE && node->out[0] >= 0)
        return shape_with_marks(f, node);
    if (can_move_marks(f, node))
        return move_marks(f, node);
    if (!bb_eval_supports(node) || (bb_op_is_quantizer(node->op) && !f->quantizers) ||
        !all_inputs_constant(f, node) || !output_bytes(f, node, &bytes) || bytes > f->budget)
        return BB_STATUS_OK;
    f->budget -= bytes;
    return evaluate(f, node);
}

/* Nodes whose results are known are no longer needed. */
static void drop_folded(bb_graph *graph) {
    size_t kept = 0;
    for (size_t i = 0; i < graph->n_nodes; i++) {
        const bb_node *node = &graph->nodes[i];
        bool folded = true;
        for (int k = 0; k < node->n_out; k++)
            folded = folded && (node->out[k] < 0 || graph->values[node->out[k]].data);
        if (!folded)
            graph->nodes[kept++] = *node;
    }
    graph->n_nodes = kept;
}

static size_t constant_bytes(const bb_graph *graph) {
    size_t total = 0, n;
    for (size_t i = 0; i < graph->n_values; i++)
        if (graph->values[i].data && bb_value_elements(&graph->values[i], &n))
            total += n * bb_dtype_size(graph->values[i].dtype);
    return total;
}

static const size_t BASE_BUDGET = (size_t)64 << 20;

bb_status bb_graph_fold_constants(bb_graph *graph, bool quantizers, bb_error *err) {
    folder f = {.graph = graph, .quantizers = quantizers, .err = err};
    f.budget = BASE_BUDGET + 4 * constant_bytes(graph);
    f.n_partial = graph->n_values;
    f.partial = bb_calloc_array(f.n_partial, sizeof(*f.partial));
    f.batch = bb_calloc_array(f.n_partial, sizeof(*f.batch));
    bb_status status = BB_STATUS_OK;
    if (!f.partial || !f.batch)
        status = bb_fail_memory(err, "constant folding");
    for (size_t i = 0; i < graph->n_inputs && status == BB_STATUS_OK; i++) {
        const bb_value *input = &graph->values[graph->inputs[i]];
        f.batch[graph->inputs[i]] = input->rank > 0 && input->dims[0] < 0;
    }
    for (size_t i = 0; i < graph->n_nodes && status == BB_STATUS_OK; i++)
        status = fold_node(&f, i);
    bb_free(f.partial);
    bb_free(f.batch);
    BB_TRY(status);
    drop_folded(graph);
    return bb_graph_link(graph, err);
}
