/* SPDX-License-Identifier: Apache-2.0 */
/* TensorProto -> constant: every element type, packed or typed storage, external files. */
#include "onnx/reader.h"
#include <stdlib.h>
#include <string.h>

/* Element type numbers of ONNX; those above 16 are newer than the proto file of Debian 12. */
enum {
    ONNX_FLOAT = 1,
    ONNX_UINT8 = 2,
    ONNX_INT8 = 3,
    ONNX_UINT16 = 4,
    ONNX_INT16 = 5,
    ONNX_INT32 = 6,
    ONNX_INT64 = 7,
    ONNX_BOOL = 9,
    ONNX_FLOAT16 = 10,
    ONNX_DOUBLE = 11,
    ONNX_UINT32 = 12,
    ONNX_UINT64 = 13,
    ONNX_BFLOAT16 = 16,
    ONNX_UINT4 = 21,
    ONNX_INT4 = 22
};

static const struct {
    int32_t onnx;
    bb_dtype dtype;
    int bits; /* of one element in the file */
} types[] = {
    {ONNX_FLOAT, BB_DTYPE_F32, 32},    {ONNX_UINT8, BB_DTYPE_U8, 8},
    {ONNX_INT8, BB_DTYPE_I8, 8},       {ONNX_UINT16, BB_DTYPE_U16, 16},
    {ONNX_INT16, BB_DTYPE_I16, 16},    {ONNX_INT32, BB_DTYPE_I32, 32},
    {ONNX_INT64, BB_DTYPE_I64, 64},    {ONNX_BOOL, BB_DTYPE_BOOL, 8},
    {ONNX_FLOAT16, BB_DTYPE_F32, 16},  {ONNX_DOUBLE, BB_DTYPE_F64, 64},
    {ONNX_UINT32, BB_DTYPE_I64, 32},   {ONNX_UINT64, BB_DTYPE_I64, 64},
    {ONNX_BFLOAT16, BB_DTYPE_F32, 16}, {ONNX_UINT4, BB_DTYPE_U4, 4},
    {ONNX_INT4, BB_DTYPE_I4, 4},
};

static int find_type(int32_t onnx) {
    for (size_t i = 0; i < BB_COUNT(types); i++)
        if (types[i].onnx == onnx)
            return (int)i;
    return -1;
}

bool bb_onnx_dtype(int32_t type, bb_dtype *dtype) {
    int i = find_type(type);
    if (i >= 0)
        *dtype = types[i].dtype;
    return i >= 0;
}

static float float_from_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

static float half_to_float(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 0x3ff;
    if (exponent == 31)
        return float_from_bits(sign | 0x7f800000 | mantissa << 13);
    if (exponent == 0) { /* zero and subnormals: mantissa * 2^-24 is exact */
        float f = (float)mantissa * 0x1p-24f;
        return sign ? -f : f;
    }
    return float_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}

static uint64_t little_endian(const uint8_t *p, int bytes) {
    uint64_t v = 0;
    for (int i = 0; i < bytes; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

/* One element from its bits as the file holds them (sign-extended or not: upper bits unused).
 * False where the value has no place in the type in memory. */
static bool store(int32_t onnx, uint64_t bits, void *data, size_t i) {
    switch (onnx) {
    case ONNX_FLOAT:
        ((float *)data)[i] = float_from_bits((uint32_t)bits);
        return true;
    case ONNX_FLOAT16:
        ((float *)data)[i] = half_to_float((uint16_t)bits);
        return true;
    case ONNX_BFLOAT16:
        ((float *)data)[i] = float_from_bits((uint32_t)bits << 16);
        return true;
    case ONNX_DOUBLE:
        memcpy((double *)data + i, &bits, sizeof(bits));
        return true;
    case ONNX_UINT64:
    case ONNX_INT64:
        ((int64_t *)data)[i] = (int64_t)bits;
        return onnx == ONNX_INT64 || bits <= INT64_MAX;
    case ONNX_UINT32:
        ((int64_t *)data)[i] = (int64_t)(uint32_t)bits;
        return true;
    case ONNX_INT32:
        ((int32_t *)data)[i] = (int32_t)(uint32_t)bits;
        return true;
    case ONNX_INT16:
    case ONNX_UINT16:
        ((uint16_t *)data)[i] = (uint16_t)bits;
        return true;
    case ONNX_BOOL:
        ((uint8_t *)data)[i] = (bits & 0xff) != 0;
        return true;
    case ONNX_UINT4:
        ((uint8_t *)data)[i] = (uint8_t)(bits & 15);
        return true;
    case ONNX_INT4:
        ((int8_t *)data)[i] = (int8_t)((int)(bits & 15) - ((bits & 8) ? 16 : 0));
        return true;
    default:
        ((uint8_t *)data)[i] = (uint8_t)bits;
        return true;
    }
}

/* Raw bytes: little-endian elements, two 4-bit ones per byte, low half first. */
static bool unpack_raw(int type, const uint8_t *raw, size_t n, void *data) {
    int bits = types[type].bits;
    bool ok = true;
    for (size_t i = 0; i < n; i++) {
        uint64_t v = bits == 4 ? (uint64_t)raw[i / 2] >> (4 * (i % 2))
                               : little_endian(raw + i * (size_t)(bits / 8), bits / 8);
        ok = store(types[type].onnx, v, data, i) && ok;
    }
    return ok;
}

static bool raw_size(int type, size_t n, size_t *size) {
    size_t bits;
    if (!bb_size_mul(n, (size_t)types[type].bits, &bits) || bits > SIZE_MAX - 7)
        return false;
    *size = (bits + 7) / 8;
    return true;
}

static uint64_t bits_of_float(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof(u));
    return u;
}

/* Typed fields; 4-bit elements lie in pairs in int32_data. */
static bool unpack_typed(int type, const Onnx__TensorProto *t, size_t n, void *data) {
    int32_t onnx = types[type].onnx;
    size_t stored = types[type].bits == 4 ? n / 2 + n % 2 : n;
    size_t have = onnx == ONNX_FLOAT                           ? t->n_float_data
                  : onnx == ONNX_DOUBLE                        ? t->n_double_data
                  : onnx == ONNX_INT64                         ? t->n_int64_data
                  : onnx == ONNX_UINT32 || onnx == ONNX_UINT64 ? t->n_uint64_data
                                                               : t->n_int32_data;
    if (have != stored)
        return false;
    bool ok = true;
    for (size_t i = 0; i < n; i++) {
        uint64_t v;
        if (onnx == ONNX_FLOAT)
            v = bits_of_float(t->float_data[i]);
        else if (onnx == ONNX_DOUBLE)
            memcpy(&v, &t->double_data[i], sizeof(v));
        else if (onnx == ONNX_INT64)
            v = (uint64_t)t->int64_data[i];
        else if (onnx == ONNX_UINT32 || onnx == ONNX_UINT64)
            v = t->uint64_data[i];
        else if (types[type].bits == 4)
            v = (uint64_t)t->int32_data[i / 2] >> (4 * (i % 2));
        else
            v = (uint64_t)t->int32_data[i];
        ok = store(onnx, v, data, i) && ok;
    }
    return ok;
}

static bool parse_number(const char *text, size_t *out) {
    char *end;
    if (*text < '0' || *text > '9')
        return false;
    unsigned long long v = strtoull(text, &end, 10);
    *out = (size_t)v;
    return *end == '\0' && v < SIZE_MAX / 2;
}

static bb_status unpack_external(bb_onnx_reader *r, int type, const Onnx__TensorProto *t,
                                 const char *name, size_t n, void *data) {
    const char *location = NULL;
    size_t offset = 0, length = 0, size = 0;
    bool has_length = false, ok = true;
    for (size_t i = 0; i < t->n_external_data; i++) {
        const Onnx__StringStringEntryProto *e = t->external_data[i];
        if (!e->key || !e->value)
            continue;
        if (strcmp(e->key, "location") == 0)
            location = e->value;
        else if (strcmp(e->key, "offset") == 0)
            ok = parse_number(e->value, &offset) && ok;
        else if (strcmp(e->key, "length") == 0)
            ok = has_length = parse_number(e->value, &length) && ok;
    }
    if (!location || !ok || !raw_size(type, n, &size) || (has_length && length != size))
        return bb_fail(r->err, BB_STATUS_BAD_FILE,
                       "tensor '%s': its external location, offset or length is not valid", name);
    bb_file file;
    BB_TRY(bb_error_prefix(r->err, bb_onnx_open_external(r->folder, location, &file, r->err),
                           "tensor '%s'", name));
    bb_status status = BB_STATUS_OK;
    if (offset > file.size || size > file.size - offset)
        status = bb_fail(r->err, BB_STATUS_BAD_FILE, "tensor '%s': external file '%s' is too short",
                         name, location);
    else if (!unpack_raw(type, file.data + offset, n, data))
        status = bb_fail(r->err, BB_STATUS_LIMIT, "tensor '%s': a uint64 above 2^63-1", name);
    bb_file_close(&file);
    return status;
}

/* True where the stored bytes can be n elements at all: checked before memory is taken for them. */
static bool storage_fits(int type, const Onnx__TensorProto *t, size_t n) {
    size_t size;
    if (!raw_size(type, n, &size))
        return false;
    if (t->has_data_location && t->data_location == ONNX__TENSOR_PROTO__DATA_LOCATION__EXTERNAL)
        return true;
    if (t->has_raw_data)
        return t->raw_data.len == size;
    return n <= t->n_float_data + t->n_double_data + t->n_int64_data + t->n_uint64_data +
                    2 * t->n_int32_data;
}

static bb_status fill(bb_onnx_reader *r, int type, const Onnx__TensorProto *t, const char *name,
                      size_t n, void *data) {
    if (t->has_data_location && t->data_location == ONNX__TENSOR_PROTO__DATA_LOCATION__EXTERNAL)
        return unpack_external(r, type, t, name, n, data);
    bool ok = t->has_raw_data ? unpack_raw(type, t->raw_data.data, n, data)
                              : unpack_typed(type, t, n, data);
    return ok ? BB_STATUS_OK
              : bb_fail(r->err, BB_STATUS_BAD_FILE, "tensor '%s': its data does not fit its shape",
                        name);
}

/* External data must exist before memory for gigantic dims is taken: its size bounds n. */
static bb_status check_external_size(bb_onnx_reader *r, const Onnx__TensorProto *t,
                                     const char *name, size_t bytes) {
    const char *location = NULL;
    if (!t->has_data_location || t->data_location != ONNX__TENSOR_PROTO__DATA_LOCATION__EXTERNAL)
        return BB_STATUS_OK;
    for (size_t i = 0; i < t->n_external_data; i++)
        if (t->external_data[i]->key && strcmp(t->external_data[i]->key, "location") == 0)
            location = t->external_data[i]->value;
    bb_file file;
    BB_TRY(bb_error_prefix(r->err, bb_onnx_open_external(r->folder, location, &file, r->err),
                           "tensor '%s'", name));
    size_t size = file.size;
    bb_file_close(&file);
    if (bytes > size)
        return bb_fail(r->err, BB_STATUS_BAD_FILE, "tensor '%s': its external file is too short",
                       name);
    return BB_STATUS_OK;
}

bb_status bb_onnx_read_tensor(bb_onnx_reader *r, const Onnx__TensorProto *t, const char *name,
                              int *index) {
    int type = find_type(t->data_type);
    size_t n, bytes;
    if (type < 0)
        return bb_fail(r->err, BB_STATUS_UNSUPPORTED, "tensor '%s': element type %d", name,
                       (int)t->data_type);
    if (t->segment)
        return bb_fail(r->err, BB_STATUS_UNSUPPORTED, "tensor '%s': stored in segments", name);
    if (t->n_dims > BB_MAX_RANK)
        return bb_fail(r->err, BB_STATUS_UNSUPPORTED, "tensor '%s': %zu dimensions, at most %d",
                       name, t->n_dims, BB_MAX_RANK);
    for (size_t i = 0; i < t->n_dims; i++)
        if (t->dims[i] < 0 || t->dims[i] > INT32_MAX)
            return bb_fail(r->err, BB_STATUS_BAD_FILE, "tensor '%s': dimension %lld", name,
                           (long long)t->dims[i]);
    if (!bb_dims_product(t->dims, t->n_dims, &n) || !storage_fits(type, t, n) ||
        !raw_size(type, n, &bytes))
        return bb_fail(r->err, BB_STATUS_BAD_FILE, "tensor '%s': its data does not fit its shape",
                       name);
    BB_TRY(check_external_size(r, t, name, bytes));
    void *data;
    *index =
        bb_graph_add_constant(r->graph, name, types[type].dtype, (int)t->n_dims, t->dims, &data);
    if (*index < 0)
        return bb_fail_memory(r->err, name);
    return fill(r, type, t, name, n, data);
}
