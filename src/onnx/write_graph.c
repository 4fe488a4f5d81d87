/* SPDX-License-Identifier: Apache-2.0 */
/* A graph as an ONNX file of opset 21, whose semantics the graph's nodes have. */
#include "bitbranch/export.h"
#include "graph/graph.h"
#include "onnx/writer.h"
#include <stdlib.h>
#include <string.h>

enum { GRAPH_OPSET = 21 };

typedef struct graph_writer {
    const bb_graph *graph;
    bb_onnx_writer *w;
    bb_arena *arena;
    const char **names; /* [n_values], each only once */
    bool *used;         /* [n_values] by a node or as an output */
    bb_error *err;
} graph_writer;

static int element_type(bb_dtype type) {
    switch (type) {
    case BB_DTYPE_F32:
        return BB_ONNX_F32;
    case BB_DTYPE_F64:
        return BB_ONNX_F64;
    case BB_DTYPE_I64:
        return BB_ONNX_I64;
    case BB_DTYPE_I32:
        return BB_ONNX_I32;
    case BB_DTYPE_I16:
        return BB_ONNX_I16;
    case BB_DTYPE_U16:
        return BB_ONNX_U16;
    case BB_DTYPE_I8:
        return BB_ONNX_I8;
    case BB_DTYPE_U8:
        return BB_ONNX_U8;
    case BB_DTYPE_I4:
        return BB_ONNX_I4;
    case BB_DTYPE_U4:
        return BB_ONNX_U4;
    case BB_DTYPE_BOOL:
        return BB_ONNX_BOOL;
    }
    return 0;
}

/* ---- names ----------------------------------------------------------------------------------- */

typedef struct named {
    const char *name;
    size_t value;
} named;

static int by_name(const void *a, const void *b) {
    const named *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order ? order : (x->value > y->value) - (x->value < y->value);
}

/* Passes may give several values one name; ONNX wants every name once. Values keep theirs, later
 * ones of the same name get their index appended (with a sign that names here do not use). */
static bb_status name_values(graph_writer *g) {
    const bb_graph *graph = g->graph;
    named *sorted = bb_arena_array(g->arena, graph->n_values, sizeof(*sorted));
    if (!sorted)
        return bb_fail_memory(g->err, "an ONNX file");
    for (size_t i = 0; i < graph->n_values; i++)
        sorted[i] = (named){graph->values[i].name ? graph->values[i].name : "", i};
    qsort(sorted, graph->n_values, sizeof(*sorted), by_name);
    for (size_t i = 0; i < graph->n_values; i++) {
        bool taken = i > 0 && strcmp(sorted[i].name, sorted[i - 1].name) == 0;
        const char *name = sorted[i].name;
        if (taken || !*name)
            name = bb_arena_printf(g->arena, "%s~%zu", name, sorted[i].value);
        if (!name)
            return bb_fail_memory(g->err, "an ONNX file");
        g->names[sorted[i].value] = name;
    }
    return BB_STATUS_OK;
}

static void mark_used(graph_writer *g) {
    const bb_graph *graph = g->graph;
    for (size_t i = 0; i < graph->n_nodes; i++)
        for (int k = 0; k < graph->nodes[i].n_in; k++)
            if (graph->nodes[i].in[k] >= 0)
                g->used[graph->nodes[i].in[k]] = true;
    for (size_t i = 0; i < graph->n_outputs; i++)
        g->used[graph->outputs[i]] = true;
}

/* ---- constants ------------------------------------------------------------------------------- */

/* Two 4-bit numbers a byte, the first in the low half. */
static uint8_t *pack_nibbles(graph_writer *g, const uint8_t *data, size_t n) {
    uint8_t *packed = bb_arena_array(g->arena, (n + 1) / 2, 1);
    for (size_t i = 0; packed && i < n; i++)
        packed[i / 2] |= (uint8_t)((data[i] & 15) << (i % 2 * 4));
    return packed;
}

static bb_status write_constant(graph_writer *g, size_t index) {
    const bb_value *value = &g->graph->values[index];
    const void *data = value->data;
    size_t n;
    if (!bb_value_elements(value, &n))
        return bb_fail(g->err, BB_STATUS_INVALID_ARGUMENT, "%s: constant '%s' has no size",
                       g->graph->name, value->name);
    size_t bytes = n * bb_dtype_size(value->dtype);
    if (value->dtype == BB_DTYPE_I4 || value->dtype == BB_DTYPE_U4) {
        data = pack_nibbles(g, data, n);
        bytes = (n + 1) / 2;
        if (!data)
            return bb_fail_memory(g->err, "an ONNX file");
    }
    bb_onnx_tensor(g->w, g->names[index], element_type(value->dtype), data, bytes, value->rank,
                   value->dims);
    return BB_STATUS_OK;
}

/* ---- nodes ----------------------------------------------------------------------------------- */

/* Attributes that opset 21 no longer has, and that the reader lets stand where they say nothing. */
static bool is_obsolete(const bb_node *node, const char *attr) {
    static const struct {
        bb_op op;
        const char *attr;
    } old[] = {{BB_OP_BATCH_NORMALIZATION, "spatial"},
               {BB_OP_DROPOUT, "ratio"},
               {BB_OP_DROPOUT, "is_test"}};
    for (size_t i = 0; i < BB_COUNT(old); i++)
        if (old[i].op == node->op && strcmp(old[i].attr, attr) == 0)
            return true;
    return strcmp(attr, "consumed_inputs") == 0;
}

/* In memory these hold a bb_dtype. */
static bool holds_type(const bb_node *node, const char *attr) {
    return (node->op == BB_OP_CAST && strcmp(attr, "to") == 0) ||
           (node->op == BB_OP_QUANTIZE_LINEAR && strcmp(attr, "output_dtype") == 0);
}

static void write_attr(bb_onnx_writer *w, const bb_node *node, const bb_attr *a) {
    switch (a->type) {
    case BB_ATTR_INT:
        bb_onnx_set_int(w, a->name,
                        holds_type(node, a->name) ? element_type((bb_dtype)a->i) : a->i);
        break;
    case BB_ATTR_FLOAT:
        bb_onnx_set_float(w, a->name, a->f);
        break;
    case BB_ATTR_STRING:
        bb_onnx_set_string(w, a->name, a->s);
        break;
    case BB_ATTR_INTS:
        bb_onnx_set_ints(w, a->name, a->ints, a->n);
        break;
    case BB_ATTR_FLOATS:
        bb_onnx_set_floats(w, a->name, a->floats, a->n);
        break;
    }
}

static const char **names_of(graph_writer *g, int n, const int *values) {
    const char **names = bb_arena_array(g->arena, (size_t)n, sizeof(*names));
    for (int i = 0; names && i < n; i++)
        names[i] = values[i] < 0 ? "" : g->names[values[i]];
    return names;
}

static bb_status write_node(graph_writer *g, const bb_node *node) {
    const char *op = bb_op_name(node->op);
    bool known = bb_op_find(op, 'O') == node->op || bb_op_find(op, 'Q') == node->op;
    if (!known || node->op == BB_OP_CONSTANT_OF_SHAPE) /* its value would be a tensor attribute */
        return bb_fail(g->err, BB_STATUS_UNSUPPORTED,
                       "%s: node '%s' (%s) has no form in the ONNX files written here",
                       g->graph->name, node->name, op);
    const char **in = names_of(g, node->n_in, node->in);
    const char **out = names_of(g, node->n_out, node->out);
    if (!in || !out)
        return bb_fail_memory(g->err, "an ONNX file");
    bb_onnx_named_node(g->w, op, node->name, node->n_in, in, node->n_out, out);
    for (size_t i = 0; i < node->n_attrs; i++)
        if (!is_obsolete(node, node->attrs[i].name))
            write_attr(g->w, node, &node->attrs[i]);
    return BB_STATUS_OK;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static void write_ends(graph_writer *g) {
    const bb_graph *graph = g->graph;
    for (size_t i = 0; i < graph->n_inputs; i++) {
        const bb_value *v = &graph->values[graph->inputs[i]];
        bb_onnx_typed_input(g->w, g->names[graph->inputs[i]], element_type(v->dtype), v->rank,
                            v->dims);
    }
    for (size_t i = 0; i < graph->n_outputs; i++) {
        const bb_value *v = &graph->values[graph->outputs[i]];
        bb_onnx_typed_output(g->w, g->names[graph->outputs[i]], element_type(v->dtype), v->rank,
                             v->dims);
    }
}

static bb_status write_graph(graph_writer *g, const char *path) {
    const bb_graph *graph = g->graph;
    g->names = bb_arena_array(g->arena, graph->n_values, sizeof(*g->names));
    g->used = bb_arena_array(g->arena, graph->n_values, sizeof(*g->used));
    if (!g->names || !g->used)
        return bb_fail_memory(g->err, "an ONNX file");
    BB_TRY(name_values(g));
    mark_used(g);
    write_ends(g);
    for (size_t i = 0; i < graph->n_values; i++)
        if (g->used[i] && graph->values[i].data)
            BB_TRY(write_constant(g, i));
    for (size_t i = 0; i < graph->n_nodes; i++)
        BB_TRY(write_node(g, &graph->nodes[i]));
    return bb_onnx_write_file(g->w, path, g->err);
}

bb_status bb_export_onnx(const bb_graph *graph, const char *path, bb_error *err) {
    graph_writer g = {.graph = graph,
                      .w = bb_onnx_writer_create("bitbranch"),
                      .arena = bb_arena_create(),
                      .err = err};
    bb_status status = BB_STATUS_OUT_OF_MEMORY;
    if (g.w && g.arena) {
        bb_onnx_set_opset(g.w, GRAPH_OPSET);
        status = write_graph(&g, path);
    } else {
        bb_fail_memory(err, "an ONNX file");
    }
    bb_onnx_writer_destroy(g.w);
    bb_arena_destroy(g.arena);
    return status;
}
