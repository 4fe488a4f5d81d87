/* SPDX-License-Identifier: Apache-2.0 */
/* ModelProto -> graph: names, initializers, nodes and attributes. */
#include "onnx/reader.h"
#include "graph/eval.h"
#include <stdlib.h>
#include <string.h>

/* ---- names: ONNX graphs are in single-assignment form, so a sorted table serves ---------- */

typedef struct name_entry {
    const char *name;
    int value;
} name_entry;

typedef struct names {
    name_entry *entries;
    size_t n;
} names;

static int compare_names(const void *a, const void *b) {
    return strcmp(((const name_entry *)a)->name, ((const name_entry *)b)->name);
}

/* Value of that name, or -1 (also for the empty name: an input left out). */
static int find_name(const names *table, const char *name) {
    if (!name || !*name || table->n == 0)
        return -1;
    name_entry key = {name, 0};
    const name_entry *e = bsearch(&key, table->entries, table->n, sizeof(key), compare_names);
    return e ? e->value : -1;
}

/* ---- what the file defines ------------------------------------------------------------------- */

static bool is_empty(const char *s) {
    return !s || !*s;
}

static bb_status input_type(bb_onnx_reader *r, const Onnx__ValueInfoProto *info, bb_dtype *dtype,
                            int *rank, int64_t *dims) {
    const Onnx__TypeProto__Tensor *tensor =
        info->type && info->type->value_case == ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE
            ? info->type->tensor_type
            : NULL;
    if (!tensor || !bb_onnx_dtype(tensor->elem_type, dtype))
        return bb_fail(r->err, BB_STATUS_UNSUPPORTED, "input '%s' is not a tensor of numbers",
                       info->name);
    *rank = -1;
    if (!tensor->shape)
        return BB_STATUS_OK;
    if (tensor->shape->n_dim > BB_MAX_RANK)
        return bb_fail(r->err, BB_STATUS_UNSUPPORTED, "input '%s' has %zu dimensions", info->name,
                       tensor->shape->n_dim);
    *rank = (int)tensor->shape->n_dim;
    for (int i = 0; i < *rank; i++) {
        const Onnx__TensorShapeProto__Dimension *d = tensor->shape->dim[i];
        bool known = d->value_case == ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE;
        /* Some exporters write 0 or -1 for a size left open. */
        dims[i] = known && d->dim_value > 0 ? d->dim_value : -1;
        if (dims[i] > INT32_MAX)
            return bb_fail(r->err, BB_STATUS_LIMIT, "input '%s': dimension %lld", info->name,
                           (long long)dims[i]);
    }
    return BB_STATUS_OK;
}

static bb_status add_name(bb_onnx_reader *r, names *table, const char *name, int value) {
    if (value < 0)
        return bb_fail_memory(r->err, name);
    if (!bb_utf8_valid(name))
        return bb_fail(r->err, BB_STATUS_BAD_FILE, "the name of tensor '%s' is not UTF-8", name);
    table->entries[table->n++] = (name_entry){r->graph->values[value].name, value};
    return BB_STATUS_OK;
}

static bb_status read_initializers(bb_onnx_reader *r, const Onnx__GraphProto *g, names *table) {
    for (size_t i = 0; i < g->n_initializer; i++) {
        const Onnx__TensorProto *t = g->initializer[i];
        int value;
        if (is_empty(t->name))
            return bb_fail(r->err, BB_STATUS_BAD_FILE, "initializer %zu has no name", i);
        BB_TRY(bb_onnx_read_tensor(r, t, t->name, &value));
        BB_TRY(add_name(r, table, t->name, value));
    }
    return BB_STATUS_OK;
}

/* Inputs that are initializers too are constants with a default; nothing feeds them here. The
 * table holds only initializers so far. */
static bb_status read_inputs(bb_onnx_reader *r, const Onnx__GraphProto *g, names *table) {
    const names initializers = *table;
    bb_graph *graph = r->graph;
    graph->inputs = bb_arena_array(graph->arena, g->n_input, sizeof(int));
    if (!graph->inputs)
        return bb_fail_memory(r->err, "graph inputs");
    for (size_t i = 0; i < g->n_input; i++) {
        const Onnx__ValueInfoProto *info = g->input[i];
        if (is_empty(info->name))
            return bb_fail(r->err, BB_STATUS_BAD_FILE, "graph input %zu has no name", i);
        if (find_name(&initializers, info->name) >= 0)
            continue;
        bb_dtype dtype;
        int rank = -1;
        int64_t dims[BB_MAX_RANK];
        BB_TRY(input_type(r, info, &dtype, &rank, dims));
        int value = bb_graph_add_value(graph, info->name, dtype, rank, dims);
        BB_TRY(add_name(r, table, info->name, value));
        graph->inputs[graph->n_inputs++] = value;
    }
    return BB_STATUS_OK;
}

static bb_status add_node_outputs(bb_onnx_reader *r, const Onnx__GraphProto *g, names *table) {
    for (size_t i = 0; i < g->n_node; i++)
        for (size_t k = 0; k < g->node[i]->n_output; k++) {
            const char *name = g->node[i]->output[k];
            if (is_empty(name))
                continue;
            int value = bb_graph_add_value(r->graph, name, BB_DTYPE_F32, -1, NULL);
            BB_TRY(add_name(r, table, name, value));
        }
    return BB_STATUS_OK;
}

static bb_status read_names(bb_onnx_reader *r, const Onnx__GraphProto *g, names *table) {
    size_t n = g->n_initializer + g->n_input;
    for (size_t i = 0; i < g->n_node; i++)
        n += g->node[i]->n_output;
    if (g->n_sparse_initializer)
        return bb_fail(r->err, BB_STATUS_UNSUPPORTED, "sparse initializers");
    if (g->n_node > BB_ONNX_MAX_NODES || n > BB_ONNX_MAX_TENSORS)
        return bb_fail(r->err, BB_STATUS_LIMIT, "%zu nodes and %zu tensors, at most %d and %d",
                       g->n_node, n, BB_ONNX_MAX_NODES, BB_ONNX_MAX_TENSORS);
    table->entries = bb_alloc_array(n, sizeof(*table->entries));
    if (!table->entries)
        return bb_fail_memory(r->err, "names");
    BB_TRY(read_initializers(r, g, table));
    qsort(table->entries, table->n, sizeof(*table->entries), compare_names);
    BB_TRY(read_inputs(r, g, table));
    BB_TRY(add_node_outputs(r, g, table));
    qsort(table->entries, table->n, sizeof(*table->entries), compare_names);
    for (size_t i = 1; i < table->n; i++)
        if (strcmp(table->entries[i - 1].name, table->entries[i].name) == 0)
            return bb_fail(r->err, BB_STATUS_BAD_FILE, "tensor '%s' is defined twice",
                           table->entries[i].name);
    return BB_STATUS_OK;
}

/* ---- nodes ----------------------------------------------------------------------------------- */

static const char *node_name(const Onnx__NodeProto *n) {
    return !is_empty(n->name)                           ? n->name
           : n->n_output > 0 && !is_empty(n->output[0]) ? n->output[0]
                                                        : "?";
}

static bb_status node_fail(bb_onnx_reader *r, const Onnx__NodeProto *n, bb_status status,
                           const char *why) {
    return bb_fail(r->err, status, "node '%s': operator %s%s%s (opset %d): %s", node_name(n),
                   is_empty(n->domain) ? "" : n->domain, is_empty(n->domain) ? "" : ".",
                   is_empty(n->op_type) ? "?" : n->op_type, r->opset, why);
}

static bool is_onnx_domain(const char *domain) {
    return is_empty(domain) || strcmp(domain, "ai.onnx") == 0;
}

static bool is_qonnx_domain(const char *domain) {
    return strcmp(domain, "qonnx.custom_op.general") == 0 ||
           strcmp(domain, "finn.custom_op.general") == 0 || strcmp(domain, "onnx.brevitas") == 0;
}

/* ONNX Runtime writes these in its own domain where the opset is too old for the element type. */
static bool is_standard_in_contrib(const Onnx__NodeProto *n) {
    return strcmp(n->domain, "com.microsoft") == 0 &&
           (strcmp(n->op_type, "QuantizeLinear") == 0 ||
            strcmp(n->op_type, "DequantizeLinear") == 0 || strcmp(n->op_type, "Gelu") == 0);
}

static bb_op find_op(const Onnx__NodeProto *n) {
    if (is_empty(n->op_type))
        return BB_OP_COUNT;
    if (!is_empty(n->domain) && is_standard_in_contrib(n))
        return bb_op_find(n->op_type, 'O');
    if (is_onnx_domain(n->domain))
        return strcmp(n->op_type, "Upsample") == 0 ? BB_OP_RESIZE : bb_op_find(n->op_type, 'O');
    if (is_qonnx_domain(n->domain))
        return strcmp(n->op_type, "IntQuant") == 0 ? BB_OP_QONNX_QUANT
                                                   : bb_op_find(n->op_type, 'Q');
    return BB_OP_COUNT;
}

static Onnx__AttributeProto__AttributeType attr_type(const Onnx__AttributeProto *a) {
    if (a->has_type && a->type != ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__UNDEFINED)
        return a->type;
    /* Files before IR version 2 leave the type out. */
    return a->has_f    ? ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOAT
           : a->has_i  ? ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INT
           : a->has_s  ? ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRING
           : a->t      ? ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__TENSOR
           : a->g      ? ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__GRAPH
           : a->n_ints ? ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INTS
                       : ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOATS;
}

static bool set_string(bb_graph *graph, bb_node *node, const Onnx__AttributeProto *a) {
    const char *text = bb_arena_strndup(graph->arena, (const char *)a->s.data, a->s.len);
    return text && bb_node_set_string(graph, node, a->name, text);
}

/* The tensor `value` of ConstantOfShape becomes its second input; no other operator that is kept
 * has a tensor attribute. */
static bb_status tensor_attr(bb_onnx_reader *r, const Onnx__NodeProto *n, bb_node *node,
                             const Onnx__AttributeProto *a) {
    if (node->op != BB_OP_CONSTANT_OF_SHAPE || strcmp(a->name, "value") != 0 || !a->t)
        return node_fail(r, n, BB_STATUS_UNSUPPORTED, "unknown tensor attribute");
    int value;
    BB_TRY(bb_onnx_read_tensor(r, a->t, node_name(n), &value));
    int *in = bb_arena_array(r->graph->arena, 2, sizeof(*in));
    if (!in)
        return bb_fail_memory(r->err, node_name(n));
    in[0] = node->n_in > 0 ? node->in[0] : -1;
    in[1] = value;
    node->in = in;
    node->n_in = 2;
    return BB_STATUS_OK;
}

static bb_status read_attr(bb_onnx_reader *r, const Onnx__NodeProto *n, int index,
                           const Onnx__AttributeProto *a) {
    bb_graph *graph = r->graph;
    bb_node *node = &graph->nodes[index];
    bool ok = true;
    if (is_empty(a->name))
        return node_fail(r, n, BB_STATUS_BAD_FILE, "an attribute has no name");
    if (!is_empty(a->ref_attr_name))
        return node_fail(r, n, BB_STATUS_UNSUPPORTED, "attribute references");
    switch (attr_type(a)) {
    case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INT:
        ok = bb_node_set_int(graph, node, a->name, a->i);
        break;
    case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOAT:
        ok = bb_node_set_float(graph, node, a->name, a->f);
        break;
    case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRING:
        ok = set_string(graph, node, a);
        break;
    case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INTS:
        ok = bb_node_set_ints(graph, node, a->name, a->ints, a->n_ints);
        break;
    case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOATS:
        ok = bb_node_set_floats(graph, node, a->name, a->floats, a->n_floats);
        break;
    case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRINGS:
        break; /* only annotations that some exporters leave behind */
    case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__TENSOR:
        return tensor_attr(r, n, node, a);
    case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__GRAPH:
    case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__GRAPHS:
        return node_fail(r, n, BB_STATUS_UNSUPPORTED, "operators with subgraphs");
    default:
        return node_fail(r, n, BB_STATUS_UNSUPPORTED, "unknown kind of attribute");
    }
    return ok ? BB_STATUS_OK : bb_fail_memory(r->err, node_name(n));
}

/* ---- Constant -------------------------------------------------------------------------------- */

static bb_status numbers_constant(bb_onnx_reader *r, const Onnx__NodeProto *n,
                                  const Onnx__AttributeProto *a, int *value) {
    bool ints = strcmp(a->name, "value_ints") == 0, one = strcmp(a->name, "value_int") == 0;
    bool floats = strcmp(a->name, "value_floats") == 0;
    if (!ints && !one && !floats && strcmp(a->name, "value_float") != 0)
        return node_fail(r, n, BB_STATUS_UNSUPPORTED, "not a constant of numbers");
    size_t count = ints ? a->n_ints : floats ? a->n_floats : 1;
    int64_t dims[1] = {(int64_t)count};
    void *data;
    *value =
        bb_graph_add_constant(r->graph, node_name(n), ints || one ? BB_DTYPE_I64 : BB_DTYPE_F32,
                              ints || floats, dims, &data);
    if (*value < 0)
        return bb_fail_memory(r->err, node_name(n));
    if (one)
        *(int64_t *)data = a->i;
    else if (ints && count)
        memcpy(data, a->ints, count * sizeof(int64_t));
    else if (floats && count)
        memcpy(data, a->floats, count * sizeof(float));
    else if (!ints && !floats)
        *(float *)data = a->f;
    return BB_STATUS_OK;
}

/* The node's output value takes the contents; no node is made. */
static bb_status read_constant(bb_onnx_reader *r, const Onnx__NodeProto *n, const names *table) {
    int output = n->n_output == 1 ? find_name(table, n->output[0]) : -1, value;
    if (output < 0 || n->n_attribute != 1 || is_empty(n->attribute[0]->name))
        return node_fail(r, n, BB_STATUS_BAD_FILE, "it needs one attribute and one output");
    const Onnx__AttributeProto *a = n->attribute[0];
    if (strcmp(a->name, "value") == 0 && a->t)
        BB_TRY(bb_onnx_read_tensor(r, a->t, n->output[0], &value));
    else
        BB_TRY(numbers_constant(r, n, a, &value));
    const char *name = r->graph->values[output].name;
    r->graph->values[output] = r->graph->values[value];
    r->graph->values[output].name = name;
    return BB_STATUS_OK;
}

/* ---- one node -------------------------------------------------------------------------------- */

static bb_status find_inputs(bb_onnx_reader *r, const Onnx__NodeProto *n, const names *table,
                             int *in) {
    for (size_t i = 0; i < n->n_input; i++) {
        in[i] = find_name(table, n->input[i]);
        if (in[i] < 0 && !is_empty(n->input[i]))
            return bb_fail(r->err, BB_STATUS_BAD_FILE,
                           "node '%s' (%s): nothing produces its input '%s'", node_name(n),
                           n->op_type, n->input[i]);
    }
    return BB_STATUS_OK;
}

static bool int_attr_set(const Onnx__NodeProto *n, const char *name) {
    for (size_t i = 0; i < n->n_attribute; i++)
        if (n->attribute[i]->name && strcmp(n->attribute[i]->name, name) == 0)
            return n->attribute[i]->i != 0;
    return false;
}

static bb_status read_contrib(bb_onnx_reader *r, const Onnx__NodeProto *n, const names *table) {
    int *in = bb_arena_array(r->graph->arena, n->n_input, sizeof(*in)), node;
    if (!in)
        return bb_fail_memory(r->err, node_name(n));
    BB_TRY(find_inputs(r, n, table, in));
    int out = n->n_output == 1 ? find_name(table, n->output[0]) : -1;
    BB_TRY(bb_onnx_expand_contrib(r, n->op_type, node_name(n), (int)n->n_input, in,
                                  int_attr_set(n, "transB"), out, &node));
    for (size_t i = 0; i < n->n_attribute; i++)
        BB_TRY(read_attr(r, n, node, n->attribute[i]));
    return bb_onnx_check_contrib(r, &r->graph->nodes[node]);
}

static bb_status read_node(bb_onnx_reader *r, const Onnx__NodeProto *n, const names *table) {
    if (!bb_utf8_valid(node_name(n)))
        return node_fail(r, n, BB_STATUS_BAD_FILE, "its name is not UTF-8");
    if (bb_onnx_is_contrib(n->domain, n->op_type))
        return read_contrib(r, n, table);
    if (is_onnx_domain(n->domain) && n->op_type && strcmp(n->op_type, "Constant") == 0)
        return read_constant(r, n, table);
    bb_op op = find_op(n);
    if (op == BB_OP_COUNT)
        return node_fail(r, n, BB_STATUS_UNSUPPORTED, "not supported");
    int *ends = bb_arena_array(r->graph->arena, n->n_input + n->n_output, sizeof(*ends));
    if (!ends)
        return bb_fail_memory(r->err, node_name(n));
    BB_TRY(find_inputs(r, n, table, ends));
    int *out = ends + n->n_input;
    for (size_t i = 0; i < n->n_output; i++)
        out[i] = find_name(table, n->output[i]);
    int node = bb_graph_add_node(r->graph, is_empty(n->name) ? NULL : n->name, op, (int)n->n_input,
                                 ends, (int)n->n_output, out);
    if (node < 0)
        return bb_fail_memory(r->err, node_name(n));
    for (size_t i = 0; i < n->n_attribute; i++)
        BB_TRY(read_attr(r, n, node, n->attribute[i]));
    return bb_onnx_upgrade(r, node);
}

/* ---- the whole ------------------------------------------------------------------------------- */

static bb_status read_outputs(bb_onnx_reader *r, const Onnx__GraphProto *g, const names *table) {
    bb_graph *graph = r->graph;
    graph->outputs = bb_arena_array(graph->arena, g->n_output, sizeof(int));
    if (!graph->outputs)
        return bb_fail_memory(r->err, "graph outputs");
    if (g->n_output == 0)
        return bb_fail(r->err, BB_STATUS_BAD_FILE, "the graph has no outputs");
    for (size_t i = 0; i < g->n_output; i++) {
        int value = find_name(table, g->output[i]->name);
        if (value < 0)
            return bb_fail(r->err, BB_STATUS_BAD_FILE, "nothing produces output '%s'",
                           is_empty(g->output[i]->name) ? "" : g->output[i]->name);
        graph->outputs[graph->n_outputs++] = value;
    }
    return BB_STATUS_OK;
}

static bb_status read_opset(bb_onnx_reader *r, const Onnx__ModelProto *model) {
    int64_t opset = -1;
    for (size_t i = 0; i < model->n_opset_import; i++)
        if (is_onnx_domain(model->opset_import[i]->domain))
            opset = model->opset_import[i]->version;
    if (opset < BB_ONNX_MIN_OPSET || opset > BB_ONNX_MAX_OPSET)
        return bb_fail(r->err, BB_STATUS_UNSUPPORTED, "opset %lld, supported are %d to %d",
                       (long long)opset, BB_ONNX_MIN_OPSET, BB_ONNX_MAX_OPSET);
    r->opset = r->graph->opset = (int)opset;
    return BB_STATUS_OK;
}

static bb_status read_model(bb_onnx_reader *r, const Onnx__ModelProto *model, names *table) {
    if (!model->graph)
        return bb_fail(r->err, BB_STATUS_BAD_FILE, "not an ONNX file: it holds no graph");
    BB_TRY(read_opset(r, model));
    BB_TRY(read_names(r, model->graph, table));
    for (size_t i = 0; i < model->graph->n_node; i++)
        BB_TRY(read_node(r, model->graph->node[i], table));
    return read_outputs(r, model->graph, table);
}

/* Constants that nodes read, at four bytes an element; shapes, indices and the like (int64) do not
 * count. */
static bb_status count_parameters(bb_graph *graph, bb_error *err) {
    bool *counted = bb_calloc_array(graph->n_values, sizeof(*counted));
    if (!counted)
        return bb_fail_memory(err, graph->name);
    for (size_t i = 0; i < graph->n_nodes; i++)
        for (int k = 0; k < graph->nodes[i].n_in; k++) {
            size_t n;
            const bb_value *value = bb_node_input(graph, &graph->nodes[i], k);
            if (!bb_value_is_constant(value) || counted[value - graph->values])
                continue;
            counted[value - graph->values] = true;
            if (value->dtype != BB_DTYPE_I64 && value->dtype != BB_DTYPE_BOOL &&
                bb_value_elements(value, &n))
                graph->parameter_bytes += 4 * (uint64_t)n;
        }
    bb_free(counted);
    return BB_STATUS_OK;
}

static void *proto_alloc(void *user, size_t size) {
    (void)user;
    return bb_alloc(size);
}

static void proto_free(void *user, void *p) {
    (void)user;
    bb_free(p);
}

static bb_status unpack_and_read(bb_onnx_reader *r, const void *data, size_t size) {
    BB_TRY(bb_onnx_scan(data, size, r->err));
    ProtobufCAllocator allocator = {proto_alloc, proto_free, NULL};
    Onnx__ModelProto *model = onnx__model_proto__unpack(&allocator, size, data);
    if (!model)
        return bb_fail(r->err, BB_STATUS_BAD_FILE, "not a valid ONNX file");
    names table = {0};
    bb_status status = read_model(r, model, &table);
    bb_free(table.entries);
    onnx__model_proto__free_unpacked(model, &allocator);
    return status;
}

bb_status bb_onnx_read_buffer(const void *data, size_t size, const char *folder, const char *name,
                              bb_graph **graph, bb_error *err) {
    bb_onnx_reader r = {.graph = bb_graph_create(), .folder = folder, .err = err};
    if (!r.graph)
        return bb_fail_memory(err, name);
    r.graph->name = bb_arena_strdup(r.graph->arena, name);
    bb_status status = r.graph->name ? unpack_and_read(&r, data, size) : bb_fail_memory(err, name);
    status = bb_error_prefix(err, status, "%s", name);
    if (status == BB_STATUS_OK)
        status = bb_graph_link(r.graph, err);
    if (status == BB_STATUS_OK)
        status = count_parameters(r.graph, err);
    if (status == BB_STATUS_OK)
        status = bb_graph_fold_constants(r.graph, false, err);
    if (status != BB_STATUS_OK) {
        bb_graph_destroy(r.graph);
        return status;
    }
    *graph = r.graph;
    return BB_STATUS_OK;
}

/* Protobuf itself ends at 2 GiB. */
static const size_t MAX_FILE = (size_t)INT32_MAX;

bb_status bb_onnx_read(const char *path, bb_graph **graph, bb_error *err) {
    bb_file file;
    BB_TRY(bb_file_open_gz(path, MAX_FILE, &file, err));
    const char *slash = strrchr(path, '/');
    char *folder = slash ? bb_strdup(path) : bb_strdup(".");
    bb_status status;
    if (!folder)
        status = bb_fail_memory(err, path);
    else if (file.size > MAX_FILE)
        status = bb_fail(err, BB_STATUS_LIMIT, "%s: above 2 GiB", path);
    else {
        if (slash)
            folder[slash - path + (slash == path)] = '\0';
        status = bb_onnx_read_buffer(file.data, file.size, folder, path, graph, err);
    }
    bb_free(folder);
    bb_file_close(&file);
    return status;
}

bb_status bb_import_onnx(const char *path, bb_graph **graph, bb_error *err) {
    if (!path || !graph)
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "no path or no place for the graph");
    return bb_onnx_read(path, graph, err);
}
