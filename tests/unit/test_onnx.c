/* SPDX-License-Identifier: Apache-2.0 */
/* The ONNX reader: element types, external data, older operator forms, and what it must refuse. */
#include "unit.h"

#include "nn/executor.h"
#include "onnx/onnx.h"
#include "proto.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#define DIMS(...) (int64_t[]){__VA_ARGS__}, sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)
#define RAW(type, ...) (type[]){__VA_ARGS__}, sizeof((type[]){__VA_ARGS__})

/* ---- helpers --------------------------------------------------------------------------------- */

static bb_graph *read_model(bb_buffer *graph, int opset) {
    bb_buffer model = onnx_model(graph, opset);
    bb_graph *g = NULL;
    bb_error err;
    if (bb_onnx_read_buffer(model.data, model.size, NULL, "test.onnx", &g, &err) != BB_STATUS_OK)
        fail_msg("%s", err.message);
    bb_buffer_free(&model);
    return g;
}

/* The model must be refused with this status and a message that contains `part`. */
static void assert_refused_in(bb_buffer *graph, int opset, const char *folder, bb_status status,
                              const char *part) {
    bb_buffer model = onnx_model(graph, opset);
    bb_graph *g = NULL;
    bb_error err = {0};
    bb_status got = bb_onnx_read_buffer(model.data, model.size, folder, "test.onnx", &g, &err);
    if (got != status || !strstr(err.message, part) || !strstr(err.message, "test.onnx"))
        fail_msg("status %d, message '%s', not %d with '%s'", (int)got, err.message, (int)status,
                 part);
    bb_buffer_free(&model);
}

static void assert_refused(bb_buffer *graph, int opset, bb_status status, const char *part) {
    assert_refused_in(graph, opset, NULL, status, part);
}

/* A graph x -> op -> y. */
static bb_buffer one_node(const char *op, const char *in, bb_buffer *attrs, const int64_t *dims,
                          size_t rank) {
    bb_buffer g = {0};
    onnx_end(&g, 11, "x", ONNX_F32, dims, rank);
    onnx_node(&g, NULL, op, in, "y", attrs);
    onnx_end(&g, 12, "y", ONNX_F32, NULL, 0);
    return g;
}

/* Runs a model whose input counts 0, 1, 2, ...; checks output `which`. */
static void assert_runs(bb_buffer *graph, int opset, size_t which, const int64_t *dims, size_t rank,
                        const float *want) {
    bb_graph *g = read_model(graph, opset);
    bb_error err = {0};
    const bb_value *in = &g->values[g->inputs[0]];
    bb_array x = {BB_DTYPE_F32, in->rank, {0}, NULL}, y;
    size_t n;
    memcpy(x.dims, in->dims, sizeof(x.dims));
    assert_true(bb_value_elements(in, &n));
    float *data = malloc((n + 1) * sizeof(float));
    for (size_t i = 0; i < n; i++)
        data[i] = (float)i;
    x.data = data;
    bb_executor *ex;
    if (bb_executor_create(g, (const int64_t *[]){x.dims}, NULL, &ex, &err) != BB_STATUS_OK ||
        bb_executor_run(ex, &x, NULL, NULL, &err) != BB_STATUS_OK)
        fail_msg("%s", err.message);
    assert_int_equal(bb_executor_output(ex, which, &y, &err), BB_STATUS_OK);
    assert_int_equal(y.rank, (int)rank);
    n = 1;
    for (size_t i = 0; i < rank; i++) {
        assert_int_equal(y.dims[i], dims[i]);
        n *= (size_t)dims[i];
    }
    for (size_t i = 0; i < n; i++)
        if (fabsf(((float *)y.data)[i] - want[i]) > 1e-6f)
            fail_msg("element %zu is %g, not %g", i, (double)((float *)y.data)[i], (double)want[i]);
    free(data);
    bb_executor_destroy(ex);
    bb_graph_destroy(g);
}

/* ---- tensors --------------------------------------------------------------------------------- */

typedef struct dtype_case {
    int onnx;
    bb_dtype dtype;
    uint8_t raw[16];
    size_t size;
    double values[3]; /* of [3] elements */
} dtype_case;

static const dtype_case dtype_cases[] = {
    {1, BB_DTYPE_F32, {0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0, 0, 0, 0, 0x3f}, 12, {1, -2, 0.5}},
    {2, BB_DTYPE_U8, {0, 128, 255}, 3, {0, 128, 255}},
    {3, BB_DTYPE_I8, {0, 128, 255}, 3, {0, -128, -1}},
    {4, BB_DTYPE_U16, {1, 0, 0, 0x80, 0xff, 0xff}, 6, {1, 32768, 65535}},
    {5, BB_DTYPE_I16, {1, 0, 0, 0x80, 0xff, 0xff}, 6, {1, -32768, -1}},
    {6, BB_DTYPE_I32, {1, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0xff, 0xff, 0xff}, 12, {1, -0x1p31, -1}},
    {9, BB_DTYPE_BOOL, {0, 1, 2}, 3, {0, 1, 1}},
    {10, BB_DTYPE_F32, {0, 0x3c, 0x01, 0x80, 0xff, 0x7b}, 6, {1, -0x1p-24, 65504}},
    {12,
     BB_DTYPE_I64,
     {1, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0xff, 0xff, 0xff},
     12,
     {1, 0x1p31, 0xffffffffu}},
    {16, BB_DTYPE_F32, {0x80, 0x3f, 0, 0xc0, 0, 0x3f}, 6, {1, -2, 0.5}},
    {21, BB_DTYPE_U4, {0xf3, 0x08}, 2, {3, 15, 8}},
    {22, BB_DTYPE_I4, {0xf3, 0x08}, 2, {3, -1, -8}},
};

static double element(const bb_value *v, size_t i) {
    int64_t ints[16];
    size_t n;
    if (v->dtype == BB_DTYPE_F32)
        return ((const float *)v->data)[i];
    if (v->dtype == BB_DTYPE_F64)
        return ((const double *)v->data)[i];
    assert_true(bb_value_ints(v, ints, 16, &n));
    return (double)ints[i];
}

/* A model whose only output is the initializer `t`. */
static bb_graph *read_constant(bb_buffer *tensor) {
    bb_buffer g = {0};
    proto_message(&g, 5, tensor);
    onnx_end(&g, 12, "t", ONNX_F32, NULL, 0);
    return read_model(&g, 21);
}

static void test_raw_types(void **state) {
    (void)state;
    for (size_t c = 0; c < BB_COUNT(dtype_cases); c++) {
        const dtype_case *d = &dtype_cases[c];
        bb_buffer t = onnx_tensor("t", d->onnx, DIMS(3), d->raw, d->size);
        bb_graph *g = read_constant(&t);
        const bb_value *v = &g->values[g->outputs[0]];
        assert_int_equal(v->dtype, d->dtype);
        for (size_t i = 0; i < 3; i++)
            if (element(v, i) != d->values[i])
                fail_msg("type %d: element %zu is %g", d->onnx, i, element(v, i));
        bb_graph_destroy(g);
    }
}

/* The same values in int32_data, uint64_data or float_data. */
static void test_typed_types(void **state) {
    (void)state;
    for (size_t c = 0; c < BB_COUNT(dtype_cases); c++) {
        const dtype_case *d = &dtype_cases[c];
        bb_buffer t = onnx_tensor("t", d->onnx, DIMS(3), NULL, 0);
        size_t each = d->size / 3;
        for (size_t i = 0; i < (each ? 3 : d->size); i++) {
            uint64_t bits = 0;
            float f;
            memcpy(&bits, d->raw + i * (each ? each : 1), each ? each : 1);
            if (d->onnx == ONNX_F32) {
                memcpy(&f, &bits, sizeof(f));
                proto_float(&t, 4, f);
            } else if (d->onnx == 3 || d->onnx == 5 || d->onnx == 6) { /* signed: as the number */
                proto_int(&t, 5, (int64_t)d->values[i]);
            } else {
                proto_int(&t, d->onnx == 12 ? 11 : 5, (int64_t)bits);
            }
        }
        bb_graph *g = read_constant(&t);
        for (size_t i = 0; i < 3; i++)
            if (element(&g->values[g->outputs[0]], i) != d->values[i])
                fail_msg("type %d: element %zu", d->onnx, i);
        bb_graph_destroy(g);
    }
}

static void test_wide_types(void **state) {
    (void)state;
    bb_buffer t = onnx_tensor("t", 11, DIMS(2), RAW(double, 1e300, -0.5));
    bb_graph *g = read_constant(&t);
    assert_true(element(&g->values[g->outputs[0]], 0) == 1e300);
    bb_graph_destroy(g);
    t = onnx_tensor("t", 7, DIMS(1), RAW(int64_t, INT64_MIN));
    g = read_constant(&t);
    assert_true(element(&g->values[g->outputs[0]], 0) == -0x1p63);
    bb_graph_destroy(g);
    bb_buffer graph = {0};
    t = onnx_tensor("t", 13, DIMS(1), RAW(uint64_t, UINT64_MAX));
    proto_message(&graph, 5, &t);
    onnx_end(&graph, 12, "t", ONNX_F32, NULL, 0);
    assert_refused(&graph, 21, BB_STATUS_BAD_FILE, "'t'");
}

static void refuse_tensor(int type, const int64_t *dims, size_t rank, size_t size,
                          bb_status status) {
    uint8_t raw[64] = {0};
    bb_buffer g = {0};
    onnx_initializer(&g, "t", type, dims, rank, raw, size);
    onnx_end(&g, 12, "t", ONNX_F32, NULL, 0);
    assert_refused(&g, 21, status, "'t'");
}

static void test_bad_tensors(void **state) {
    (void)state;
    refuse_tensor(1, DIMS(3), 8, BB_STATUS_BAD_FILE);
    refuse_tensor(1, DIMS(3), 16, BB_STATUS_BAD_FILE);
    refuse_tensor(22, DIMS(3), 1, BB_STATUS_BAD_FILE);
    refuse_tensor(1, DIMS(-1), 4, BB_STATUS_BAD_FILE);
    refuse_tensor(1, DIMS(INT64_MAX, 2), 8, BB_STATUS_BAD_FILE);
    refuse_tensor(1, DIMS(1 << 30, 1 << 30, 1 << 30), 8, BB_STATUS_BAD_FILE);
    refuse_tensor(1, DIMS(1, 1, 1, 1, 1, 1, 1, 1, 1), 4, BB_STATUS_UNSUPPORTED);
    refuse_tensor(8, DIMS(1), 1, BB_STATUS_UNSUPPORTED);  /* string */
    refuse_tensor(17, DIMS(1), 1, BB_STATUS_UNSUPPORTED); /* float8 */
}

/* ---- external data --------------------------------------------------------------------------- */

static bb_buffer external_tensor(const char *location, const char *offset, const char *length) {
    const char *pairs[3][2] = {{"location", location}, {"offset", offset}, {"length", length}};
    bb_buffer t = onnx_tensor("t", ONNX_F32, DIMS(2), NULL, 0), g = {0};
    for (size_t i = 0; i < 3; i++) {
        bb_buffer entry = {0};
        if (!pairs[i][1])
            continue;
        proto_text(&entry, 1, pairs[i][0]);
        proto_text(&entry, 2, pairs[i][1]);
        proto_message(&t, 13, &entry);
    }
    proto_int(&t, 14, 1);
    proto_message(&g, 5, &t);
    onnx_end(&g, 12, "t", ONNX_F32, NULL, 0);
    return g;
}

static void write_floats(const char *folder, const char *name) {
    char path[512];
    float data[4] = {1, 2, 3, 4};
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    assert_int_equal(bb_file_write(path, data, sizeof(data), NULL), BB_STATUS_OK);
}

static void read_external(const char *folder, const char *location, float first) {
    bb_buffer g = external_tensor(location, "4", "8"), model = onnx_model(&g, 21);
    bb_graph *graph;
    bb_error err;
    if (bb_onnx_read_buffer(model.data, model.size, folder, "test.onnx", &graph, &err) !=
        BB_STATUS_OK)
        fail_msg("%s", err.message);
    assert_true(element(&graph->values[graph->outputs[0]], 0) == first);
    bb_buffer_free(&model);
    bb_graph_destroy(graph);
}

static void refuse_external(const char *folder, const char *location, const char *offset,
                            bb_status status) {
    bb_buffer g = external_tensor(location, offset, NULL);
    assert_refused_in(&g, 21, folder, status, "'t'");
}

static void test_external_data(void **state) {
    (void)state;
    char base[] = "/tmp/bitbranch-onnx-XXXXXX", folder[64], path[128], absolute[128];
    assert_non_null(mkdtemp(base));
    snprintf(folder, sizeof(folder), "%s/model", base);
    snprintf(path, sizeof(path), "%s/sub", folder);
    assert_true(mkdir(folder, 0700) == 0 && mkdir(path, 0700) == 0);
    write_floats(base, "outside");
    write_floats(folder, "inside");
    write_floats(folder, "sub/deep");
    snprintf(path, sizeof(path), "%s/link", folder);
    assert_int_equal(symlink("../outside", path), 0);
    snprintf(path, sizeof(path), "%s/up", folder);
    assert_int_equal(symlink("..", path), 0);
    snprintf(absolute, sizeof(absolute), "%s/inside", folder);
    read_external(folder, "inside", 2);
    read_external(folder, "./sub/deep", 2);
    refuse_external(folder, "../outside", NULL, BB_STATUS_BAD_FILE);
    refuse_external(folder, "sub/../../outside", NULL, BB_STATUS_BAD_FILE);
    refuse_external(folder, absolute, NULL, BB_STATUS_BAD_FILE);
    refuse_external(folder, "link", NULL, BB_STATUS_BAD_FILE);
    refuse_external(folder, "up/outside", NULL, BB_STATUS_IO);
    refuse_external(folder, "absent", NULL, BB_STATUS_IO);
    refuse_external(folder, "sub", NULL, BB_STATUS_IO);
    refuse_external(folder, "", NULL, BB_STATUS_BAD_FILE);
    refuse_external(folder, "inside", "12", BB_STATUS_BAD_FILE);
    refuse_external(folder, "inside", "-4", BB_STATUS_BAD_FILE);
    refuse_external(folder, "inside", "99999999999999999999", BB_STATUS_BAD_FILE);
    refuse_external(NULL, "inside", NULL, BB_STATUS_BAD_FILE);
    snprintf(path, sizeof(path), "rm -r %s", base);
    assert_int_equal(system(path), 0);
}

/* ---- files ----------------------------------------------------------------------------------- */

static void test_plain_and_gzip_files(void **state) {
    (void)state;
    char folder[] = "/tmp/bitbranch-onnx-XXXXXX", path[64];
    assert_non_null(mkdtemp(folder));
    bb_buffer model = onnx_sample(13);
    bb_error err;
    bb_graph *g;
    snprintf(path, sizeof(path), "%s/m.onnx", folder);
    assert_int_equal(bb_file_write(path, model.data, model.size, &err), BB_STATUS_OK);
    assert_int_equal(bb_import_onnx(path, &g, &err), BB_STATUS_OK);
    bb_graph_info info;
    bb_graph_info_init(&info);
    assert_int_equal(bb_graph_get_info(g, &info, &err), BB_STATUS_OK);
    assert_int_equal(info.opset, 13);
    assert_int_equal(info.nodes, 7);
    assert_int_equal(info.macs, 4 * 36 * 2 * 9 + 12);
    assert_int_equal(info.float32_bytes, 4 * (72 + 4 + 12 + 1));
    assert_int_equal(info.quantized, 0);
    bb_graph_node_info node;
    assert_int_equal(bb_graph_get_node(g, 0, &node, &err), BB_STATUS_OK);
    assert_string_equal(node.op, "Conv");
    assert_int_equal(node.macs, 4 * 36 * 2 * 9);
    assert_int_equal(node.parameters, 76);
    assert_int_equal(node.out_dims[0], -1);
    assert_int_equal(node.out_dims[3], 6);
    assert_int_equal(bb_graph_get_node(g, 7, &node, &err), BB_STATUS_NOT_FOUND);
    bb_graph_destroy(g);
    unlink(path);
    snprintf(path, sizeof(path), "%s/m.onnx.gz", folder);
    gzFile gz = gzopen(path, "wb");
    assert_int_equal(gzwrite(gz, model.data, (unsigned)model.size), (int)model.size);
    gzclose(gz);
    assert_int_equal(bb_import_onnx(path, &g, &err), BB_STATUS_OK);
    bb_graph_destroy(g);
    unlink(path);
    assert_int_equal(bb_import_onnx(path, &g, &err), BB_STATUS_IO);
    rmdir(folder);
    bb_buffer_free(&model);
}

/* What a small file expands to stays below what the caller allows. */
static void test_expansion_is_bounded(void **state) {
    enum { SIZE = 300000 };
    char path[] = "/tmp/bitbranch-gz-XXXXXX";
    char *zeros = calloc(SIZE, 1);
    bb_file file;
    bb_error err;
    int fd = mkstemp(path);
    assert_true(zeros && fd >= 0);
    gzFile gz = gzdopen(fd, "wb");
    assert_int_equal(gzwrite(gz, zeros, SIZE), SIZE);
    gzclose(gz);
    assert_int_equal(bb_file_open_gz(path, SIZE, &file, &err), BB_STATUS_OK);
    assert_int_equal(file.size, SIZE);
    bb_file_close(&file);
    assert_int_equal(bb_file_open_gz(path, SIZE - 1, &file, &err), BB_STATUS_LIMIT);
    unlink(path);
    free(zeros);
}

/* ---- refusals -------------------------------------------------------------------------------- */

static void test_opsets(void **state) {
    (void)state;
    for (int opset = 7; opset <= 21; opset++) {
        bb_buffer g = one_node("Relu", "x", NULL, DIMS(2));
        bb_graph_destroy(read_model(&g, opset));
    }
    bb_buffer g = one_node("Relu", "x", NULL, DIMS(2));
    assert_refused(&g, 6, BB_STATUS_UNSUPPORTED, "opset 6");
    g = one_node("Relu", "x", NULL, DIMS(2));
    assert_refused(&g, 22, BB_STATUS_UNSUPPORTED, "opset 22");
}

static void test_unknown_operators(void **state) {
    (void)state;
    bb_buffer g = one_node("Frobnicate", "x", NULL, DIMS(2));
    assert_refused(&g, 13, BB_STATUS_UNSUPPORTED,
                   "node 'Frobnicate': operator Frobnicate (opset 13)");
    g = (bb_buffer){0};
    onnx_end(&g, 11, "x", ONNX_F32, DIMS(2));
    onnx_node(&g, "ai.acme", "Relu", "x", "y", NULL);
    onnx_end(&g, 12, "y", ONNX_F32, NULL, 0);
    assert_refused(&g, 13, BB_STATUS_UNSUPPORTED, "ai.acme.Relu");
    bb_buffer attrs = {0}, attr = {0}, sub = {0};
    proto_text(&sub, 2, "body");
    proto_text(&attr, 1, "body");
    proto_message(&attr, 6, &sub);
    proto_int(&attr, 20, 5);
    proto_message(&attrs, 5, &attr);
    g = one_node("Relu", "x", &attrs, DIMS(2));
    assert_refused(&g, 13, BB_STATUS_UNSUPPORTED, "subgraph");
}

static void test_bad_graphs(void **state) {
    (void)state;
    bb_buffer g = one_node("Relu", "z", NULL, DIMS(2));
    assert_refused(&g, 13, BB_STATUS_BAD_FILE, "'z'");
    g = one_node("Relu", "-", NULL, DIMS(2));
    assert_refused(&g, 13, BB_STATUS_BAD_FILE, "input 0 is missing");
    g = one_node("Relu", "y", NULL, DIMS(2)); /* reads its own result */
    assert_refused(&g, 13, BB_STATUS_BAD_FILE, "cycle");
    g = (bb_buffer){0};
    onnx_end(&g, 11, "x", ONNX_F32, DIMS(2));
    onnx_node(&g, NULL, "Add", "x b", "a", NULL);
    onnx_node(&g, NULL, "Relu", "a", "b", NULL);
    onnx_end(&g, 12, "b", ONNX_F32, NULL, 0);
    assert_refused(&g, 13, BB_STATUS_BAD_FILE, "cycle");
    g = one_node("Relu", "x", NULL, DIMS(2));
    onnx_node(&g, NULL, "Abs", "x", "y", NULL);
    assert_refused(&g, 13, BB_STATUS_BAD_FILE, "'y' is defined twice");
    g = one_node("Relu", "x", NULL, DIMS(2));
    onnx_node(&g, NULL, "Relu", "x", "caf\xe9", NULL);
    assert_refused(&g, 13, BB_STATUS_BAD_FILE, "the name of tensor 'caf?' is not UTF-8");
    g = one_node("Relu", "x", NULL, DIMS(2));
    onnx_end(&g, 12, "nowhere", ONNX_F32, NULL, 0);
    assert_refused(&g, 13, BB_STATUS_BAD_FILE, "'nowhere'");
    g = (bb_buffer){0};
    onnx_end(&g, 11, "x", ONNX_F32, DIMS(2));
    assert_refused(&g, 13, BB_STATUS_BAD_FILE, "no outputs");
    g = one_node("Relu", "x", NULL, DIMS((int64_t)1 << 40));
    assert_refused(&g, 13, BB_STATUS_LIMIT, "'x'");
    g = one_node("Unsqueeze", "x", NULL, DIMS(2));
    assert_refused(&g, 13, BB_STATUS_BAD_FILE, "input 1 is missing");
}

/* Results that would be gigantic are refused or left unevaluated; memory stays small. */
static void test_absurd_sizes(void **state) {
    (void)state;
    bb_buffer g = {0};
    onnx_initializer(&g, "s", ONNX_I64, DIMS(3), RAW(int64_t, 1 << 20, 1 << 20, 1 << 20));
    onnx_node(&g, NULL, "ConstantOfShape", "s", "y", NULL);
    onnx_end(&g, 12, "y", ONNX_F32, NULL, 0);
    assert_refused(&g, 13, BB_STATUS_LIMIT, "too large");
    g = (bb_buffer){0};
    onnx_initializer(&g, "s", ONNX_I64, DIMS(2), RAW(int64_t, 1 << 14, 1 << 15));
    onnx_node(&g, NULL, "ConstantOfShape", "s", "y", NULL);
    onnx_end(&g, 12, "y", ONNX_F32, NULL, 0);
    bb_graph *graph = read_model(&g, 13);
    assert_int_equal(graph->n_nodes, 1);
    bb_graph_destroy(graph);
    bb_buffer attrs = {0};
    onnx_attr_ints(&attrs, "pads", (int64_t[]){INT64_MAX, 0, INT64_MAX, 0}, 4);
    onnx_attr_ints(&attrs, "kernel_shape", (int64_t[]){3, 3}, 2);
    g = one_node("MaxPool", "x", &attrs, DIMS(1, 1, 8, 8));
    assert_refused(&g, 13, BB_STATUS_BAD_FILE, "range");
}

static void assert_bytes_refused(bb_buffer *file, bb_status status, const char *part) {
    bb_graph *g;
    bb_error err = {0};
    bb_status got = bb_onnx_read_buffer(file->data, file->size, NULL, "test.onnx", &g, &err);
    if (got != status || !strstr(err.message, part))
        fail_msg("status %d, message '%s'", (int)got, err.message);
    bb_buffer_free(file);
}

static void test_hostile_protobuf(void **state) {
    (void)state;
    /* Graphs in attributes of nodes in graphs ...: 3000 levels. */
    bb_buffer inner = {0};
    for (int i = 0; i < 1000; i++) {
        bb_buffer attr = {0}, node = {0}, graph = {0};
        proto_message(&attr, 6, &inner);
        proto_message(&node, 5, &attr);
        proto_message(&graph, 1, &node);
        inner = graph;
    }
    bb_buffer model = onnx_model(&inner, 13);
    assert_bytes_refused(&model, BB_STATUS_LIMIT, "nested");
    /* Two million empty nodes in 4 MB. */
    bb_buffer nodes = {0};
    for (int i = 0; i < 2000000; i++)
        bb_buffer_append(&nodes, "\x0a\x00", 2);
    model = onnx_model(&nodes, 13);
    assert_bytes_refused(&model, BB_STATUS_LIMIT, "too many parts");
    /* More nodes than any network has. */
    for (int i = 0; i < 20000; i++)
        bb_buffer_append(&nodes, "\x0a\x00", 2);
    model = onnx_model(&nodes, 13);
    assert_bytes_refused(&model, BB_STATUS_LIMIT, "20000 nodes");
    /* A graph twice. */
    bb_buffer g = one_node("Relu", "x", NULL, DIMS(2)), extra = {0};
    model = onnx_model(&g, 13);
    proto_text(&extra, 2, "again");
    proto_message(&model, 7, &extra);
    assert_bytes_refused(&model, BB_STATUS_BAD_FILE, "not a valid ONNX file");
    /* Lengths beyond the end, group tags, an endless varint, nothing at all. */
    bb_buffer_append(&extra, "\x3a\x7f", 2);
    assert_bytes_refused(&extra, BB_STATUS_BAD_FILE, "not a valid ONNX file");
    bb_buffer_append(&extra, "\x3b", 1);
    assert_bytes_refused(&extra, BB_STATUS_BAD_FILE, "not a valid ONNX file");
    bb_buffer_append(&extra, "\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 12);
    assert_bytes_refused(&extra, BB_STATUS_BAD_FILE, "not a valid ONNX file");
    assert_bytes_refused(&extra, BB_STATUS_BAD_FILE, "no graph");
}

/* ---- structure that must be accepted --------------------------------------------------------- */

static void test_initializer_that_is_an_input(void **state) {
    (void)state;
    bb_buffer g = {0};
    onnx_initializer(&g, "w", ONNX_F32, DIMS(2), RAW(float, 10, 20));
    onnx_end(&g, 11, "w", ONNX_F32, DIMS(2));
    onnx_end(&g, 11, "x", ONNX_F32, DIMS(2));
    onnx_node(&g, "ai.onnx", "Add", "x w", "y", NULL);
    onnx_end(&g, 12, "y", ONNX_F32, NULL, 0);
    assert_runs(&g, 9, 0, DIMS(2), (float[]){10, 21});
}

static void test_unsorted_nodes(void **state) {
    (void)state;
    bb_buffer g = {0};
    onnx_end(&g, 11, "x", ONNX_F32, DIMS(2));
    onnx_node(&g, NULL, "Neg", "a", "y", NULL);
    onnx_node(&g, NULL, "Abs", "x", "unused", NULL);
    onnx_node(&g, NULL, "Relu", "x", "a", NULL);
    onnx_end(&g, 12, "y", ONNX_F32, NULL, 0);
    assert_runs(&g, 13, 0, DIMS(2), (float[]){0, -1});
}

static void test_constants(void **state) {
    (void)state;
    bb_buffer g = {0}, attrs = {0};
    onnx_end(&g, 11, "x", ONNX_F32, DIMS(2));
    onnx_attr_float(&attrs, "value_float", 3);
    onnx_node(&g, NULL, "Constant", "", "a", &attrs);
    onnx_attr_floats(&attrs, "value_floats", (float[]){1, 2}, 2);
    onnx_node(&g, NULL, "Constant", "", "b", &attrs);
    onnx_attr_ints(&attrs, "value_ints", (int64_t[]){1, 2}, 2);
    onnx_node(&g, NULL, "Constant", "", "c", &attrs);
    onnx_attr_int(&attrs, "value_int", 0);
    onnx_node(&g, NULL, "Constant", "", "d", &attrs);
    onnx_node(&g, NULL, "Mul", "x a", "xa", NULL);
    onnx_node(&g, NULL, "Add", "xa b", "xab", NULL);
    onnx_node(&g, NULL, "Reshape", "xab c", "y", NULL);
    onnx_node(&g, NULL, "Gather", "b d", "z", NULL);
    onnx_end(&g, 12, "y", ONNX_F32, NULL, 0);
    onnx_end(&g, 12, "z", ONNX_F32, NULL, 0);
    assert_runs(&g, 13, 0, DIMS(1, 2), (float[]){1, 5});
}

static void test_qonnx_domains(void **state) {
    (void)state;
    static const char *const domains[] = {"qonnx.custom_op.general", "onnx.brevitas",
                                          "finn.custom_op.general"};
    for (size_t d = 0; d < 3; d++) {
        bb_buffer g = {0}, attrs = {0};
        onnx_end(&g, 11, "x", ONNX_F32, DIMS(6));
        onnx_initializer(&g, "s", ONNX_F32, NULL, 0, RAW(float, 0.5f));
        onnx_initializer(&g, "z", ONNX_F32, NULL, 0, RAW(float, 0));
        onnx_initializer(&g, "b", ONNX_F32, NULL, 0, RAW(float, 3));
        onnx_attr_int(&attrs, "signed", 1);
        onnx_attr_int(&attrs, "narrow", 0);
        onnx_attr_text(&attrs, "rounding_mode", "ROUND");
        onnx_node(&g, domains[d], d ? "Quant" : "IntQuant", "x s z b", "y", &attrs);
        onnx_end(&g, 12, "y", ONNX_F32, NULL, 0);
        assert_runs(&g, 9, 0, DIMS(6), (float[]){0, 1, 1.5f, 1.5f, 1.5f, 1.5f});
    }
}

/* QLinearAdd, QLinearConcat and QGemm of ONNX Runtime, as DequantizeLinear, operator,
 * QuantizeLinear. */
static void test_contrib_operators(void **state) {
    (void)state;
    bb_buffer g = {0}, a = {0};
    onnx_end(&g, 11, "x", ONNX_F32, DIMS(1, 2)); /* 0, 1 */
    onnx_initializer(&g, "s", ONNX_F32, NULL, 0, RAW(float, 0.5f));
    onnx_initializer(&g, "s2", ONNX_F32, DIMS(2), RAW(float, 1, 2));
    onnx_initializer(&g, "z", 2, NULL, 0, RAW(uint8_t, 10));
    onnx_initializer(&g, "zw", 3, NULL, 0, RAW(int8_t, 0));
    onnx_initializer(&g, "w", 3, DIMS(2, 4), RAW(int8_t, 1, 2, 3, 4, -1, -2, -3, -4));
    onnx_initializer(&g, "b", 6, DIMS(2), RAW(int32_t, 10, 20));
    onnx_node(&g, NULL, "QuantizeLinear", "x s z", "q", NULL);                  /* 10, 12 */
    onnx_node(&g, "com.microsoft", "QLinearAdd", "q s z q s z s z", "d", NULL); /* 0, 2 */
    onnx_attr_int(&a, "axis", 1);
    onnx_node(&g, "com.microsoft", "QLinearConcat", "s z q s z d s z", "c", &a); /* 0 1 0 2 */
    onnx_attr_int(&a, "transB", 1);
    onnx_node(&g, "com.microsoft", "QGemm", "c s z w s2 zw b", "y", &a);
    onnx_end(&g, 12, "y", ONNX_F32, NULL, 0);
    /* 2 + 8 + 10*0.5*1; 2*(-2 - 8) + 20*0.5*2 */
    assert_runs(&g, 13, 0, DIMS(1, 2), (float[]){15, 0});
    onnx_attr_int(&a, "channels_last", 1);
    g = (bb_buffer){0};
    onnx_end(&g, 11, "x", 2, DIMS(1, 2, 2, 2));
    onnx_initializer(&g, "s", ONNX_F32, NULL, 0, RAW(float, 0.5f));
    onnx_initializer(&g, "z", 2, NULL, 0, RAW(uint8_t, 10));
    onnx_node(&g, "com.microsoft", "QLinearGlobalAveragePool", "x s z s z", "y", &a);
    onnx_end(&g, 12, "y", 2, NULL, 0);
    assert_refused(&g, 13, BB_STATUS_UNSUPPORTED, "channels_last");
}

/* ---- older operator forms -------------------------------------------------------------------- */

static void test_old_clip_pad_slice(void **state) {
    (void)state;
    bb_buffer a = {0};
    onnx_attr_float(&a, "min", 1);
    onnx_attr_float(&a, "max", 2);
    bb_buffer g = one_node("Clip", "x", &a, DIMS(4));
    assert_runs(&g, 10, 0, DIMS(4), (float[]){1, 1, 2, 2});
    onnx_attr_float(&a, "max", 2); /* no lower limit */
    g = one_node("Clip", "x", &a, DIMS(4));
    assert_runs(&g, 7, 0, DIMS(4), (float[]){0, 1, 2, 2});
    onnx_attr_ints(&a, "pads", (int64_t[]){1, 2}, 2);
    onnx_attr_float(&a, "value", 9);
    g = one_node("Pad", "x", &a, DIMS(2));
    assert_runs(&g, 7, 0, DIMS(5), (float[]){9, 0, 1, 9, 9});
    onnx_attr_ints(&a, "starts", (int64_t[]){1, -3}, 2);
    onnx_attr_ints(&a, "ends", (int64_t[]){INT64_MAX, -1}, 2);
    onnx_attr_ints(&a, "axes", (int64_t[]){0, 1}, 2);
    g = one_node("Slice", "x", &a, DIMS(2, 4));
    assert_runs(&g, 9, 0, DIMS(1, 2), (float[]){5, 6});
}

static void test_old_axes(void **state) {
    (void)state;
    bb_buffer a = {0};
    onnx_attr_ints(&a, "axes", (int64_t[]){0}, 1);
    bb_buffer g = one_node("Squeeze", "x", &a, DIMS(1, 2));
    assert_runs(&g, 11, 0, DIMS(2), (float[]){0, 1});
    onnx_attr_ints(&a, "axes", (int64_t[]){0, 2}, 2);
    g = one_node("Unsqueeze", "x", &a, DIMS(2));
    assert_runs(&g, 11, 0, DIMS(1, 2, 1), (float[]){0, 1});
    onnx_attr_ints(&a, "axes", (int64_t[]){1}, 1);
    onnx_attr_int(&a, "keepdims", 0);
    g = one_node("ReduceSum", "x", &a, DIMS(2, 3));
    assert_runs(&g, 12, 0, DIMS(2), (float[]){3, 12});
    onnx_attr_ints(&a, "axes", (int64_t[]){-2}, 1);
    g = one_node("ReduceMax", "x", &a, DIMS(2, 3));
    assert_runs(&g, 17, 0, DIMS(1, 3), (float[]){3, 4, 5});
}

static void test_old_split_and_dropout(void **state) {
    (void)state;
    bb_buffer a = {0}, g = {0};
    onnx_end(&g, 11, "x", ONNX_F32, DIMS(5));
    onnx_attr_ints(&a, "split", (int64_t[]){2, 3}, 2);
    onnx_node(&g, NULL, "Split", "x", "p q", &a);
    onnx_attr_float(&a, "ratio", 0.9f);
    onnx_node(&g, NULL, "Dropout", "q", "y", &a);
    onnx_end(&g, 12, "y", ONNX_F32, NULL, 0);
    assert_runs(&g, 11, 0, DIMS(3), (float[]){2, 3, 4});
}

/* Before opset 13 Softmax runs over everything from its axis on. */
static void test_old_softmax(void **state) {
    (void)state;
    bb_buffer a = {0}, g = {0};
    onnx_end(&g, 11, "x", ONNX_F32, DIMS(2, 2, 2));
    onnx_initializer(&g, "zero", ONNX_F32, NULL, 0, RAW(float, 0));
    onnx_node(&g, NULL, "Mul", "x zero", "o", NULL);
    onnx_node(&g, NULL, "Softmax", "o", "y", NULL);
    onnx_end(&g, 12, "y", ONNX_F32, NULL, 0);
    assert_runs(&g, 11, 0, DIMS(2, 2, 2),
                (float[]){.25f, .25f, .25f, .25f, .25f, .25f, .25f, .25f});
    g = (bb_buffer){0};
    onnx_end(&g, 11, "x", ONNX_F32, DIMS(2, 2, 2));
    onnx_initializer(&g, "zero", ONNX_F32, NULL, 0, RAW(float, 0));
    onnx_node(&g, NULL, "Mul", "x zero", "o", NULL);
    onnx_attr_int(&a, "axis", 2);
    onnx_node(&g, NULL, "Softmax", "o", "y", &a);
    onnx_end(&g, 12, "y", ONNX_F32, NULL, 0);
    assert_runs(&g, 11, 0, DIMS(2, 2, 2), (float[]){.5f, .5f, .5f, .5f, .5f, .5f, .5f, .5f});
}

static void test_old_upsample(void **state) {
    (void)state;
    const float want[8] = {0, 0, 0, 1, 1, 1, 2, 2};
    bb_buffer a = {0}, g = {0};
    /* 3 -> 8 columns by 8/3, corner at the origin, rounding down */
    const float scales[4] = {1, 1, 1, 8.0f / 3};
    onnx_attr_floats(&a, "scales", scales, 4);
    g = one_node("Upsample", "x", &a, DIMS(1, 1, 1, 3));
    assert_runs(&g, 7, 0, DIMS(1, 1, 1, 8), want);
    static const char *const ops[] = {"Upsample", "Resize"};
    for (int i = 0; i < 2; i++) {
        g = (bb_buffer){0};
        onnx_end(&g, 11, "x", ONNX_F32, DIMS(1, 1, 1, 3));
        onnx_initializer(&g, "s", ONNX_F32, DIMS(4), scales, sizeof(scales));
        onnx_attr_text(&a, "mode", "nearest");
        onnx_node(&g, NULL, ops[i], "x s", "y", &a);
        onnx_end(&g, 12, "y", ONNX_F32, NULL, 0);
        assert_runs(&g, 9 + i, 0, DIMS(1, 1, 1, 8), want);
    }
}

static void test_old_batch_norm(void **state) {
    (void)state;
    bb_buffer a = {0}, g = {0};
    onnx_end(&g, 11, "x", ONNX_F32, DIMS(1, 2, 1, 1));
    onnx_initializer(&g, "one", ONNX_F32, DIMS(2), RAW(float, 1, 2));
    onnx_initializer(&g, "zero", ONNX_F32, DIMS(2), RAW(float, 0, 1));
    onnx_attr_float(&a, "epsilon", 0);
    onnx_attr_int(&a, "spatial", 1);
    onnx_node(&g, NULL, "BatchNormalization", "x one zero zero one", "y", &a);
    onnx_end(&g, 12, "y", ONNX_F32, NULL, 0);
    assert_runs(&g, 7, 0, DIMS(1, 2, 1, 1), (float[]){0, 1});
    onnx_attr_int(&a, "training_mode", 1);
    g = (bb_buffer){0};
    onnx_end(&g, 11, "x", ONNX_F32, DIMS(1, 2, 1, 1));
    onnx_initializer(&g, "one", ONNX_F32, DIMS(2), RAW(float, 1, 2));
    onnx_node(&g, NULL, "BatchNormalization", "x one one one one", "y", &a);
    onnx_end(&g, 12, "y", ONNX_F32, NULL, 0);
    assert_refused(&g, 15, BB_STATUS_UNSUPPORTED, "BatchNormalization (opset 15)");
}

/* ---- allocation failures --------------------------------------------------------------------- */

static void test_allocation_failures(void **state) {
    (void)state;
    bb_buffer model = onnx_sample(11);
    for (long n = 0;; n++) {
        bb_graph *g = NULL;
        bb_error err = {0};
        bb_alloc_fail_after(n);
        bb_status status = bb_onnx_read_buffer(model.data, model.size, NULL, "test.onnx", &g, &err);
        bb_alloc_fail_after(-1);
        if (status == BB_STATUS_OK) {
            assert_true(n > 50);
            bb_graph_destroy(g);
            break;
        }
        assert_true(status == BB_STATUS_OUT_OF_MEMORY || status == BB_STATUS_BAD_FILE);
        assert_true(err.message[0] != '\0');
    }
    bb_buffer_free(&model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_raw_types),
        cmocka_unit_test(test_typed_types),
        cmocka_unit_test(test_wide_types),
        cmocka_unit_test(test_bad_tensors),
        cmocka_unit_test(test_external_data),
        cmocka_unit_test(test_plain_and_gzip_files),
        cmocka_unit_test(test_expansion_is_bounded),
        cmocka_unit_test(test_opsets),
        cmocka_unit_test(test_unknown_operators),
        cmocka_unit_test(test_bad_graphs),
        cmocka_unit_test(test_absurd_sizes),
        cmocka_unit_test(test_hostile_protobuf),
        cmocka_unit_test(test_initializer_that_is_an_input),
        cmocka_unit_test(test_unsorted_nodes),
        cmocka_unit_test(test_constants),
        cmocka_unit_test(test_qonnx_domains),
        cmocka_unit_test(test_contrib_operators),
        cmocka_unit_test(test_old_clip_pad_slice),
        cmocka_unit_test(test_old_axes),
        cmocka_unit_test(test_old_split_and_dropout),
        cmocka_unit_test(test_old_softmax),
        cmocka_unit_test(test_old_upsample),
        cmocka_unit_test(test_old_batch_norm),
        cmocka_unit_test(test_allocation_failures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
