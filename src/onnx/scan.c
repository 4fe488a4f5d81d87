/* SPDX-License-Identifier: Apache-2.0 */
/* A walk over the wire format along the message descriptors, before protobuf-c sees the file. */
#include "onnx/reader.h"

enum {
    MAX_DEPTH = 32,
    STRING_COST = 32, /* pointer, allocator header and padding */
    UNKNOWN_COST = 64
};
/* Memory for unpacked structures beyond what the file's own bytes need. */
static const size_t MAX_COST = (size_t)256 << 20;

typedef struct frame {
    const ProtobufCMessageDescriptor *type;
    size_t end;
    uint64_t seen; /* singular message fields met so far */
} frame;

typedef struct scanner {
    const uint8_t *data;
    size_t at, cost;
    frame stack[MAX_DEPTH];
    int depth;
    bb_error *err;
} scanner;

static bb_status malformed(const scanner *s) {
    return bb_fail(s->err, BB_STATUS_BAD_FILE, "not a valid ONNX file: broken data at byte %zu",
                   s->at);
}

static bool read_varint(scanner *s, size_t end, uint64_t *value) {
    *value = 0;
    for (int shift = 0; shift < 70 && s->at < end; shift += 7) {
        uint8_t byte = s->data[s->at++];
        if (shift < 64)
            *value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return true;
    }
    return false;
}

static bb_status charge(scanner *s, size_t bytes) {
    s->cost += bytes;
    if (s->cost > MAX_COST)
        return bb_fail(s->err, BB_STATUS_LIMIT, "an ONNX file of too many parts");
    return BB_STATUS_OK;
}

/* protobuf-c merges repeats of a singular message; no writer makes them, so they are refused. */
static bool repeats(frame *f, const ProtobufCFieldDescriptor *field) {
    if (field->label == PROTOBUF_C_LABEL_REPEATED)
        return false;
    unsigned bit = (unsigned)(field - f->type->fields);
    if (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF || bit > 63)
        bit = 63;
    bool again = f->seen >> bit & 1;
    f->seen |= (uint64_t)1 << bit;
    return again;
}

static bb_status enter(scanner *s, const ProtobufCFieldDescriptor *field, size_t length) {
    const ProtobufCMessageDescriptor *type = field->descriptor;
    if (s->depth == MAX_DEPTH)
        return bb_fail(s->err, BB_STATUS_LIMIT, "not a usable ONNX file: nested deeper than %d",
                       MAX_DEPTH);
    if (repeats(&s->stack[s->depth - 1], field))
        return malformed(s);
    s->stack[s->depth++] = (frame){type, s->at + length, 0};
    return charge(s, type->sizeof_message + STRING_COST);
}

static bb_status length_delimited(scanner *s, size_t end, const ProtobufCFieldDescriptor *field) {
    uint64_t length;
    if (!read_varint(s, end, &length) || length > end - s->at)
        return malformed(s);
    if (field && field->type == PROTOBUF_C_TYPE_MESSAGE)
        return enter(s, field, (size_t)length);
    s->at += (size_t)length;
    return charge(s, field ? STRING_COST : UNKNOWN_COST);
}

static bb_status scan_member(scanner *s) {
    const frame *f = &s->stack[s->depth - 1];
    size_t end = f->end;
    uint64_t tag, value;
    if (!read_varint(s, end, &tag) || tag >> 3 == 0 || tag >> 32 != 0)
        return malformed(s);
    const ProtobufCFieldDescriptor *field =
        protobuf_c_message_descriptor_get_field(f->type, (unsigned)(tag >> 3));
    size_t fixed = 0;
    switch (tag & 7) {
    case 0:
        if (!read_varint(s, end, &value))
            return malformed(s);
        break;
    case 1:
        fixed = 8;
        break;
    case 2:
        return length_delimited(s, end, field);
    case 5:
        fixed = 4;
        break;
    default:
        return malformed(s);
    }
    if (fixed > end - s->at)
        return malformed(s);
    s->at += fixed;
    return charge(s, field ? 8 : UNKNOWN_COST);
}

bb_status bb_onnx_scan(const uint8_t *data, size_t size, bb_error *err) {
    scanner s = {.data = data, .depth = 1, .err = err};
    s.stack[0] = (frame){&onnx__model_proto__descriptor, size, 0};
    while (s.depth > 0) {
        if (s.at == s.stack[s.depth - 1].end)
            s.depth--;
        else
            BB_TRY(scan_member(&s));
    }
    return BB_STATUS_OK;
}
