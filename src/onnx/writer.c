/* SPDX-License-Identifier: Apache-2.0 */
#include "onnx/writer.h"
#include "onnx.pb-c.h"
#include <string.h>

enum { DEFAULT_OPSET = 13 };
static char qonnx_domain[] = "qonnx.custom_op.general";

typedef struct pointers {
    void **data;
    size_t n, cap;
} pointers;

struct bb_onnx_writer {
    bb_arena *arena; /* everything but the pointer arrays */
    pointers nodes, initializers, inputs, outputs;
    char *graph_name;
    int opset;
    size_t counter;
    bool failed;
};

static void *allocate(bb_onnx_writer *w, size_t n, size_t size) {
    void *p = bb_arena_array(w->arena, n ? n : 1, size);
    w->failed = w->failed || !p;
    return p;
}

static void push(bb_onnx_writer *w, pointers *list, void *item) {
    if (list->n == list->cap) {
        size_t cap = list->cap ? 2 * list->cap : 64;
        void **bigger = bb_realloc_array(list->data, cap, sizeof(*bigger));
        if (!bigger) {
            w->failed = true;
            return;
        }
        list->data = bigger;
        list->cap = cap;
    }
    list->data[list->n++] = item;
}

static char *copy(bb_onnx_writer *w, const char *text) {
    char *s = bb_arena_strdup(w->arena, text ? text : "");
    w->failed = w->failed || !s;
    return s;
}

static char *unique(bb_onnx_writer *w, const char *hint) {
    char *s = bb_arena_printf(w->arena, "%s_%zu", hint ? hint : "", w->counter++);
    w->failed = w->failed || !s;
    return s;
}

bb_onnx_writer *bb_onnx_writer_create(const char *graph_name) {
    bb_onnx_writer *w = bb_calloc_array(1, sizeof(*w));
    if (!w)
        return NULL;
    w->arena = bb_arena_create();
    if (!w->arena) {
        bb_free(w);
        return NULL;
    }
    w->opset = DEFAULT_OPSET;
    w->graph_name = copy(w, graph_name && *graph_name ? graph_name : "bitbranch");
    return w;
}

void bb_onnx_writer_destroy(bb_onnx_writer *w) {
    if (!w)
        return;
    bb_free(w->nodes.data);
    bb_free(w->initializers.data);
    bb_free(w->inputs.data);
    bb_free(w->outputs.data);
    bb_arena_destroy(w->arena);
    bb_free(w);
}

void bb_onnx_set_opset(bb_onnx_writer *w, int opset) {
    w->opset = opset;
}

/* ---- constants ------------------------------------------------------------------------------ */

/* Raw data is little-endian, as is every machine this library runs on (format.h). */
static char *constant(bb_onnx_writer *w, char *name, int type, const void *data, size_t bytes,
                      int rank, const int64_t *dims) {
    Onnx__TensorProto *t = allocate(w, 1, sizeof(*t));
    if (!t)
        return NULL;
    onnx__tensor_proto__init(t);
    t->name = name;
    t->n_dims = (size_t)rank;
    t->dims = allocate(w, (size_t)rank, sizeof(*t->dims));
    t->has_data_type = 1;
    t->data_type = type;
    t->has_raw_data = 1;
    t->raw_data.len = bytes;
    t->raw_data.data = allocate(w, bytes, 1);
    if (w->failed)
        return NULL;
    if (rank)
        memcpy(t->dims, dims, (size_t)rank * sizeof(*dims));
    if (bytes)
        memcpy(t->raw_data.data, data, bytes);
    push(w, &w->initializers, t);
    return t->name;
}

static const char *new_constant(bb_onnx_writer *w, const char *hint, int type, const void *data,
                                size_t element, int rank, const int64_t *dims) {
    size_t n;
    if (!bb_dims_product(dims, (size_t)rank, &n)) {
        w->failed = true;
        return NULL;
    }
    return constant(w, unique(w, hint), type, data, n * element, rank, dims);
}

void bb_onnx_tensor(bb_onnx_writer *w, const char *name, int type, const void *data, size_t bytes,
                    int rank, const int64_t *dims) {
    constant(w, copy(w, name), type, data, bytes, rank, dims);
}

const char *bb_onnx_floats(bb_onnx_writer *w, const char *hint, const float *data, int rank,
                           const int64_t *dims) {
    return new_constant(w, hint, BB_ONNX_F32, data, sizeof(*data), rank, dims);
}

const char *bb_onnx_doubles(bb_onnx_writer *w, const char *hint, const double *data, int rank,
                            const int64_t *dims) {
    return new_constant(w, hint, BB_ONNX_F64, data, sizeof(*data), rank, dims);
}

const char *bb_onnx_ints(bb_onnx_writer *w, const char *hint, const int64_t *data, size_t n) {
    int64_t dims[1] = {(int64_t)n};
    return new_constant(w, hint, BB_ONNX_I64, data, sizeof(*data), 1, dims);
}

const char *bb_onnx_float(bb_onnx_writer *w, const char *hint, float value) {
    return new_constant(w, hint, BB_ONNX_F32, &value, sizeof(value), 0, NULL);
}

/* ---- nodes ---------------------------------------------------------------------------------- */

static bool is_qonnx(const char *op) {
    return strcmp(op, "Quant") == 0 || strcmp(op, "BipolarQuant") == 0 ||
           strcmp(op, "MultiThreshold") == 0;
}

static char **copy_names(bb_onnx_writer *w, int n, const char *const *names) {
    char **copies = allocate(w, (size_t)n, sizeof(*copies));
    for (int i = 0; copies && i < n; i++)
        copies[i] = copy(w, names[i]);
    return copies;
}

static void add_node(bb_onnx_writer *w, const char *op, char *name, int n_in, const char *const *in,
                     int n_out, const char *const *out) {
    Onnx__NodeProto *node = allocate(w, 1, sizeof(*node));
    if (!node)
        return;
    onnx__node_proto__init(node);
    node->name = name;
    node->op_type = copy(w, op);
    if (is_qonnx(op))
        node->domain = qonnx_domain;
    node->n_input = (size_t)n_in;
    node->input = copy_names(w, n_in, in);
    node->n_output = (size_t)n_out;
    node->output = copy_names(w, n_out, out);
    if (!w->failed)
        push(w, &w->nodes, node);
}

const char *bb_onnx_node(bb_onnx_writer *w, const char *op, int n_in, const char *const *in,
                         const char *output) {
    char *name = unique(w, op);
    const char *out = output ? copy(w, output) : name;
    add_node(w, op, name, n_in, in, 1, &out);
    return w->failed ? NULL : out;
}

void bb_onnx_named_node(bb_onnx_writer *w, const char *op, const char *name, int n_in,
                        const char *const *in, int n_out, const char *const *out) {
    add_node(w, op, copy(w, name), n_in, in, n_out, out);
}

static Onnx__AttributeProto *attribute(bb_onnx_writer *w, const char *name,
                                       Onnx__AttributeProto__AttributeType type) {
    Onnx__NodeProto *node = w->failed || w->nodes.n == 0 ? NULL : w->nodes.data[w->nodes.n - 1];
    Onnx__AttributeProto *a = allocate(w, 1, sizeof(*a));
    if (!node || !a)
        return NULL;
    Onnx__AttributeProto **list = allocate(w, node->n_attribute + 1, sizeof(*list));
    if (!list)
        return NULL;
    if (node->n_attribute)
        memcpy(list, node->attribute, node->n_attribute * sizeof(*list));
    onnx__attribute_proto__init(a);
    a->name = copy(w, name);
    a->has_type = 1;
    a->type = type;
    list[node->n_attribute++] = a;
    node->attribute = list;
    return a;
}

void bb_onnx_set_int(bb_onnx_writer *w, const char *name, int64_t value) {
    Onnx__AttributeProto *a = attribute(w, name, ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INT);
    if (!a)
        return;
    a->has_i = 1;
    a->i = value;
}

void bb_onnx_set_float(bb_onnx_writer *w, const char *name, float value) {
    Onnx__AttributeProto *a = attribute(w, name, ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOAT);
    if (!a)
        return;
    a->has_f = 1;
    a->f = value;
}

void bb_onnx_set_string(bb_onnx_writer *w, const char *name, const char *value) {
    Onnx__AttributeProto *a = attribute(w, name, ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRING);
    if (!a)
        return;
    a->has_s = 1;
    a->s.data = (uint8_t *)copy(w, value);
    a->s.len = strlen(value);
}

void bb_onnx_set_ints(bb_onnx_writer *w, const char *name, const int64_t *values, size_t n) {
    Onnx__AttributeProto *a = attribute(w, name, ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INTS);
    if (!a)
        return;
    a->ints = allocate(w, n, sizeof(*values));
    if (!a->ints)
        return;
    a->n_ints = n;
    memcpy(a->ints, values, n * sizeof(*values));
}

void bb_onnx_set_floats(bb_onnx_writer *w, const char *name, const float *values, size_t n) {
    Onnx__AttributeProto *a = attribute(w, name, ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOATS);
    if (!a)
        return;
    a->floats = allocate(w, n, sizeof(*values));
    if (!a->floats)
        return;
    a->n_floats = n;
    if (n)
        memcpy(a->floats, values, n * sizeof(*values));
}

/* ---- inputs, outputs, file ------------------------------------------------------------------ */

static Onnx__TensorShapeProto *shape_of(bb_onnx_writer *w, int rank, const int64_t *dims) {
    Onnx__TensorShapeProto *shape = allocate(w, 1, sizeof(*shape));
    if (!shape)
        return NULL;
    onnx__tensor_shape_proto__init(shape);
    shape->dim = allocate(w, (size_t)rank, sizeof(*shape->dim));
    for (int i = 0; i < rank && shape->dim; i++) {
        Onnx__TensorShapeProto__Dimension *d = allocate(w, 1, sizeof(*d));
        if (!d)
            return NULL;
        onnx__tensor_shape_proto__dimension__init(d);
        if (dims[i] >= 0) {
            d->value_case = ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE;
            d->dim_value = dims[i];
        }
        shape->dim[shape->n_dim++] = d;
    }
    return shape;
}

static void add_info(bb_onnx_writer *w, pointers *list, const char *name, int element, int rank,
                     const int64_t *dims) {
    Onnx__ValueInfoProto *info = allocate(w, 1, sizeof(*info));
    Onnx__TypeProto *type = allocate(w, 1, sizeof(*type));
    Onnx__TypeProto__Tensor *tensor = allocate(w, 1, sizeof(*tensor));
    if (!info || !type || !tensor)
        return;
    onnx__value_info_proto__init(info);
    onnx__type_proto__init(type);
    onnx__type_proto__tensor__init(tensor);
    tensor->has_elem_type = 1;
    tensor->elem_type = element;
    if (rank >= 0)
        tensor->shape = shape_of(w, rank, dims);
    type->value_case = ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE;
    type->tensor_type = tensor;
    info->name = copy(w, name);
    info->type = type;
    push(w, list, info);
}

void bb_onnx_typed_input(bb_onnx_writer *w, const char *name, int type, int rank,
                         const int64_t *dims) {
    add_info(w, &w->inputs, name, type, rank, dims);
}

void bb_onnx_typed_output(bb_onnx_writer *w, const char *name, int type, int rank,
                          const int64_t *dims) {
    add_info(w, &w->outputs, name, type, rank, dims);
}

void bb_onnx_input(bb_onnx_writer *w, const char *name, int rank, const int64_t *dims) {
    bb_onnx_typed_input(w, name, BB_ONNX_F32, rank, dims);
}

void bb_onnx_output(bb_onnx_writer *w, const char *name, int rank, const int64_t *dims) {
    bb_onnx_typed_output(w, name, BB_ONNX_F32, rank, dims);
}

/* The format's version that goes with an opset (ONNX, docs/Versioning.md): 7 for 13, 8 for 15 to
 * 18, 9 for 19 and 20, 10 for 21. */
static int ir_version(int opset) {
    return opset >= 21 ? 10 : opset >= 19 ? 9 : opset >= 15 ? 8 : 7;
}

static bb_status pack(const Onnx__ModelProto *model, const char *path, bb_error *err) {
    size_t size = onnx__model_proto__get_packed_size(model);
    uint8_t *data = bb_alloc(size);
    if (!data)
        return bb_fail_memory(err, "an ONNX file");
    onnx__model_proto__pack(model, data);
    bb_status status = bb_file_write(path, data, size, err);
    bb_free(data);
    return status;
}

bb_status bb_onnx_write_file(bb_onnx_writer *w, const char *path, bb_error *err) {
    static char producer[] = "bitbranch", plain[] = "";
    if (w->failed)
        return bb_fail_memory(err, "an ONNX file");
    Onnx__ModelProto model = ONNX__MODEL_PROTO__INIT;
    Onnx__GraphProto graph = ONNX__GRAPH_PROTO__INIT;
    Onnx__OperatorSetIdProto onnx = ONNX__OPERATOR_SET_ID_PROTO__INIT, qonnx = onnx;
    Onnx__OperatorSetIdProto *sets[] = {&onnx, &qonnx};
    onnx.domain = plain;
    onnx.has_version = qonnx.has_version = 1;
    onnx.version = w->opset;
    qonnx.domain = qonnx_domain;
    qonnx.version = 1;
    graph.name = w->graph_name;
    graph.n_node = w->nodes.n;
    graph.node = (Onnx__NodeProto **)w->nodes.data;
    graph.n_initializer = w->initializers.n;
    graph.initializer = (Onnx__TensorProto **)w->initializers.data;
    graph.n_input = w->inputs.n;
    graph.input = (Onnx__ValueInfoProto **)w->inputs.data;
    graph.n_output = w->outputs.n;
    graph.output = (Onnx__ValueInfoProto **)w->outputs.data;
    model.has_ir_version = 1;
    model.ir_version = ir_version(w->opset);
    model.producer_name = producer;
    model.n_opset_import = 2;
    model.opset_import = sets;
    model.graph = &graph;
    return pack(&model, path, err);
}
