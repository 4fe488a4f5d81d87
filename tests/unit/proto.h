/* SPDX-License-Identifier: Apache-2.0 */
/** @file proto.h  Writes ONNX files byte by byte, well formed or not, for the tests of the reader.
 */
#ifndef BB_TEST_PROTO_H
#define BB_TEST_PROTO_H

#include "base/base.h"
#include <string.h>

static inline void proto_varint(bb_buffer *b, uint64_t v) {
    unsigned char bytes[10];
    size_t n = 0;
    do {
        bytes[n++] = (unsigned char)((v & 0x7f) | (v > 0x7f ? 0x80 : 0));
        v >>= 7;
    } while (v);
    bb_buffer_append(b, bytes, n);
}

static inline void proto_int(bb_buffer *b, unsigned field, int64_t v) {
    proto_varint(b, field << 3);
    proto_varint(b, (uint64_t)v);
}

static inline void proto_bytes(bb_buffer *b, unsigned field, const void *data, size_t n) {
    proto_varint(b, field << 3 | 2);
    proto_varint(b, n);
    bb_buffer_append(b, data, n);
}

static inline void proto_text(bb_buffer *b, unsigned field, const char *text) {
    proto_bytes(b, field, text, strlen(text));
}

static inline void proto_float(bb_buffer *b, unsigned field, float v) {
    proto_varint(b, field << 3 | 5);
    bb_buffer_append(b, &v, sizeof(v));
}

/* Puts `child` into `b` as a field and frees it. */
static inline void proto_message(bb_buffer *b, unsigned field, bb_buffer *child) {
    proto_bytes(b, field, child->data, child->size);
    bb_buffer_free(child);
}

/* ---- ONNX: field numbers of onnx.proto ------------------------------------------------------- */

enum { ONNX_F32 = 1, ONNX_I64 = 7 };

static inline bb_buffer onnx_tensor(const char *name, int type, const int64_t *dims, size_t rank,
                                    const void *raw, size_t size) {
    bb_buffer t = {0};
    for (size_t i = 0; i < rank; i++)
        proto_int(&t, 1, dims[i]);
    proto_int(&t, 2, type);
    proto_text(&t, 8, name);
    if (raw)
        proto_bytes(&t, 9, raw, size);
    return t;
}

static inline void onnx_initializer(bb_buffer *graph, const char *name, int type,
                                    const int64_t *dims, size_t rank, const void *raw,
                                    size_t size) {
    bb_buffer t = onnx_tensor(name, type, dims, rank, raw, size);
    proto_message(graph, 5, &t);
}

/* Graph input (field 11) or output (12) of float32; dims < 0 are symbolic. */
static inline void onnx_end(bb_buffer *graph, unsigned field, const char *name, int type,
                            const int64_t *dims, size_t rank) {
    bb_buffer info = {0}, value = {0}, tensor = {0}, shape = {0};
    for (size_t i = 0; i < rank; i++) {
        bb_buffer dim = {0};
        if (dims[i] >= 0)
            proto_int(&dim, 1, dims[i]);
        else
            proto_text(&dim, 2, "N");
        proto_message(&shape, 1, &dim);
    }
    proto_int(&tensor, 1, type);
    proto_message(&tensor, 2, &shape);
    proto_message(&value, 1, &tensor);
    proto_text(&info, 1, name);
    proto_message(&info, 2, &value);
    proto_message(graph, field, &info);
}

static inline void onnx_attr_int(bb_buffer *attrs, const char *name, int64_t v) {
    bb_buffer a = {0};
    proto_text(&a, 1, name);
    proto_int(&a, 3, v);
    proto_int(&a, 20, 2);
    proto_message(attrs, 5, &a);
}

static inline void onnx_attr_float(bb_buffer *attrs, const char *name, float v) {
    bb_buffer a = {0};
    proto_text(&a, 1, name);
    proto_float(&a, 2, v);
    proto_int(&a, 20, 1);
    proto_message(attrs, 5, &a);
}

static inline void onnx_attr_text(bb_buffer *attrs, const char *name, const char *v) {
    bb_buffer a = {0};
    proto_text(&a, 1, name);
    proto_text(&a, 4, v);
    proto_int(&a, 20, 3);
    proto_message(attrs, 5, &a);
}

static inline void onnx_attr_ints(bb_buffer *attrs, const char *name, const int64_t *v, size_t n) {
    bb_buffer a = {0};
    proto_text(&a, 1, name);
    for (size_t i = 0; i < n; i++)
        proto_int(&a, 8, v[i]);
    proto_int(&a, 20, 7);
    proto_message(attrs, 5, &a);
}

static inline void onnx_attr_floats(bb_buffer *attrs, const char *name, const float *v, size_t n) {
    bb_buffer a = {0};
    proto_text(&a, 1, name);
    for (size_t i = 0; i < n; i++)
        proto_float(&a, 7, v[i]);
    proto_int(&a, 20, 6);
    proto_message(attrs, 5, &a);
}

/* A node named after its operator; `in` and `out` hold names separated by blanks, "-" is left out.
 * Takes `attrs` (may be NULL) and frees it. */
static inline void onnx_node(bb_buffer *graph, const char *domain, const char *op, const char *in,
                             const char *out, bb_buffer *attrs) {
    bb_buffer n = {0};
    const char *lists[2] = {in, out};
    for (unsigned k = 0; k < 2; k++)
        for (const char *p = lists[k]; *p;) {
            size_t length = strcspn(p, " ");
            proto_bytes(&n, k + 1, p, length == 1 && *p == '-' ? 0 : length);
            p += length + (p[length] == ' ');
        }
    proto_text(&n, 3, op);
    proto_text(&n, 4, op);
    if (attrs && attrs->size)
        bb_buffer_append(&n, attrs->data, attrs->size);
    if (attrs)
        bb_buffer_free(attrs);
    if (domain)
        proto_text(&n, 7, domain);
    proto_message(graph, 1, &n);
}

/* ModelProto around a graph, which it frees. */
static inline bb_buffer onnx_model(bb_buffer *graph, int opset) {
    bb_buffer model = {0}, set = {0};
    proto_int(&model, 1, 7);
    proto_message(&model, 7, graph);
    proto_int(&set, 2, opset);
    proto_message(&model, 8, &set);
    return model;
}

/* A small network with most kinds of fields: Conv, Clip, pool, Flatten, Gemm, Softmax, a Constant,
 * an initializer of float16 and one in typed fields. */
static inline bb_buffer onnx_sample(int opset) {
    bb_buffer g = {0}, attrs = {0}, constant = {0}, typed = {0};
    float w[4 * 2 * 3 * 3], gemm[12];
    uint16_t bias[4] = {0x3c00, 0xbc00, 0x0001, 0x4000};
    for (size_t i = 0; i < sizeof(w) / sizeof(w[0]); i++)
        w[i] = (float)((int)(i * 7 % 11) - 5) / 8;
    for (size_t i = 0; i < 12; i++)
        gemm[i] = (float)i - 6;
    onnx_initializer(&g, "w", ONNX_F32, (int64_t[]){4, 2, 3, 3}, 4, w, sizeof(w));
    onnx_initializer(&g, "b", 10, (int64_t[]){4}, 1, bias, sizeof(bias));
    proto_int(&typed, 1, 3);
    proto_int(&typed, 1, 4);
    proto_int(&typed, 2, ONNX_F32);
    proto_text(&typed, 8, "m");
    for (size_t i = 0; i < 12; i++)
        proto_float(&typed, 4, gemm[i]);
    proto_message(&g, 5, &typed);
    onnx_end(&g, 11, "x", ONNX_F32, (int64_t[]){-1, 2, 6, 6}, 4);
    onnx_attr_ints(&attrs, "pads", (int64_t[]){1, 1, 1, 1}, 4);
    onnx_attr_ints(&attrs, "kernel_shape", (int64_t[]){3, 3}, 2);
    onnx_node(&g, NULL, "Conv", "x w b", "c", &attrs);
    onnx_node(&g, NULL, "Relu", "c", "r", NULL);
    onnx_node(&g, NULL, "GlobalAveragePool", "r", "p", NULL);
    onnx_attr_int(&attrs, "axis", 1);
    onnx_node(&g, NULL, "Flatten", "p", "f", &attrs);
    onnx_attr_int(&attrs, "transB", 1);
    onnx_attr_float(&attrs, "alpha", 0.5f);
    onnx_node(&g, NULL, "Gemm", "f m", "h", &attrs);
    bb_buffer value = onnx_tensor("", ONNX_F32, NULL, 0, &(float){2.0f}, 4);
    proto_text(&constant, 1, "value");
    proto_message(&constant, 5, &value);
    proto_int(&constant, 20, 4);
    proto_message(&attrs, 5, &constant);
    onnx_node(&g, NULL, "Constant", "", "two", &attrs);
    onnx_node(&g, NULL, "Mul", "h two", "s", NULL);
    onnx_node(&g, NULL, "Softmax", "s", "y", NULL);
    onnx_end(&g, 12, "y", ONNX_F32, (int64_t[]){-1, 3}, 2);
    proto_text(&g, 2, "sample");
    return onnx_model(&g, opset);
}

#endif
