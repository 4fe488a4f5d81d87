/* SPDX-License-Identifier: Apache-2.0 */
/* Operator and element type tables. */
#include "graph/graph.h"
#include <string.h>

static const struct {
    const char *name;
    char domain;
} op_table[] = {
#define BB_OP(id, name, domain) {name, domain},
#include "graph/ops.inc"
#undef BB_OP
};

const char *bb_op_name(bb_op op) {
    return (size_t)op < BB_COUNT(op_table) ? op_table[op].name : "?";
}

bb_op bb_op_find(const char *name, char domain) {
    for (size_t i = 0; i < BB_COUNT(op_table); i++)
        if (op_table[i].domain == domain && strcmp(op_table[i].name, name) == 0)
            return (bb_op)i;
    return BB_OP_COUNT;
}

static const struct {
    const char *name;
    size_t size;
} dtype_table[] = {
    [BB_DTYPE_F32] = {"float32", 4}, [BB_DTYPE_F64] = {"float64", 8},
    [BB_DTYPE_I64] = {"int64", 8},   [BB_DTYPE_I32] = {"int32", 4},
    [BB_DTYPE_I16] = {"int16", 2},   [BB_DTYPE_U16] = {"uint16", 2},
    [BB_DTYPE_I8] = {"int8", 1},     [BB_DTYPE_U8] = {"uint8", 1},
    [BB_DTYPE_I4] = {"int4", 1},     [BB_DTYPE_U4] = {"uint4", 1},
    [BB_DTYPE_BOOL] = {"bool", 1},
};

size_t bb_dtype_size(bb_dtype type) {
    return dtype_table[type].size;
}

const char *bb_dtype_name(bb_dtype type) {
    return dtype_table[type].name;
}

bool bb_dtype_is_float(bb_dtype type) {
    return type == BB_DTYPE_F32 || type == BB_DTYPE_F64;
}

void bb_dtype_range(bb_dtype type, int64_t *lo, int64_t *hi) {
    static const struct {
        int64_t lo, hi;
    } ranges[] = {
        [BB_DTYPE_F32] = {0, 0},
        [BB_DTYPE_F64] = {0, 0},
        [BB_DTYPE_I64] = {INT64_MIN, INT64_MAX},
        [BB_DTYPE_I32] = {INT32_MIN, INT32_MAX},
        [BB_DTYPE_I16] = {INT16_MIN, INT16_MAX},
        [BB_DTYPE_U16] = {0, UINT16_MAX},
        [BB_DTYPE_I8] = {INT8_MIN, INT8_MAX},
        [BB_DTYPE_U8] = {0, UINT8_MAX},
        [BB_DTYPE_I4] = {-8, 7},
        [BB_DTYPE_U4] = {0, 15},
        [BB_DTYPE_BOOL] = {0, 1},
    };
    *lo = ranges[type].lo;
    *hi = ranges[type].hi;
}
