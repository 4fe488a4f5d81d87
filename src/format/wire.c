/* SPDX-License-Identifier: Apache-2.0 */
#include "format/wire.h"
#include <string.h>

size_t bb_align_chunk(size_t offset) {
    return (offset + BB_CHUNK_ALIGN - 1) & ~(size_t)(BB_CHUNK_ALIGN - 1);
}

/* Words in place cost nothing to load; worth it unless padding takes more than an eighth. */
bb_packing bb_packing_for(uint32_t row_bits, uint32_t row_words) {
    bool wasteful = (uint64_t)row_words * 64 * 7 > (uint64_t)row_bits * 8;
    return wasteful ? BB_PACKING_TIGHT : BB_PACKING_WORDS;
}

bool bb_little_endian(void) {
#ifdef BB_PORTABLE_BYTES /* tests: take the way of big-endian machines anywhere */
    return false;
#else
    const uint32_t one = 1;
    return *(const uint8_t *)&one == 1;
#endif
}

/* ---- CRC-32, eight bytes a step -------------------------------------------------------------- */

void bb_crc_init(bb_crc *crc) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t r = i;
        for (int bit = 0; bit < 8; bit++)
            r = r >> 1 ^ (r & 1 ? 0xedb88320u : 0);
        crc->table[0][i] = r;
    }
    for (uint32_t i = 0; i < 256; i++)
        for (int k = 1; k < 8; k++) {
            uint32_t before = crc->table[k - 1][i];
            crc->table[k][i] = before >> 8 ^ crc->table[0][before & 0xff];
        }
}

uint32_t bb_crc_update(const bb_crc *crc, uint32_t sum, const void *data, size_t size) {
    const uint8_t *p = data;
    uint32_t r = ~sum;
    for (; size >= 8; p += 8, size -= 8) {
        uint32_t low = r ^ bb_get_u32(p), high = bb_get_u32(p + 4);
        r = crc->table[7][low & 0xff] ^ crc->table[6][low >> 8 & 0xff] ^
            crc->table[5][low >> 16 & 0xff] ^ crc->table[4][low >> 24] ^
            crc->table[3][high & 0xff] ^ crc->table[2][high >> 8 & 0xff] ^
            crc->table[1][high >> 16 & 0xff] ^ crc->table[0][high >> 24];
    }
    for (; size > 0; p++, size--)
        r = r >> 8 ^ crc->table[0][(r ^ *p) & 0xff];
    return ~r;
}

uint32_t bb_crc_chunk(const bb_crc *crc, const uint8_t *header, const void *data, size_t size) {
    uint8_t copy[BB_CHUNK_HEADER];
    memcpy(copy, header, sizeof(copy));
    bb_put_u32(copy + 12, 0);
    return bb_crc_update(crc, bb_crc_update(crc, 0, copy, sizeof(copy)), data, size);
}

uint32_t bb_crc_header(const bb_crc *crc, const uint8_t *header) {
    return bb_crc_update(crc, 0, header, BB_FILE_HEADER - 4);
}

/* ---- little-endian --------------------------------------------------------------------------- */

uint32_t bb_get_u32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

uint64_t bb_get_u64(const uint8_t *p) {
    return (uint64_t)bb_get_u32(p) | (uint64_t)bb_get_u32(p + 4) << 32;
}

void bb_put_u32(uint8_t *p, uint32_t value) {
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(value >> (8 * i));
}

void bb_put_u64(uint8_t *p, uint64_t value) {
    bb_put_u32(p, (uint32_t)value);
    bb_put_u32(p + 4, (uint32_t)(value >> 32));
}

/* ---- decoding -------------------------------------------------------------------------------- */

void bb_decode_fail(bb_decoder *d, bb_status status, const char *why) {
    if (d->status == BB_STATUS_OK) {
        d->status = status;
        d->why = why;
    }
}

bool bb_decode_ok(const bb_decoder *d) {
    return d->status == BB_STATUS_OK;
}

const uint8_t *bb_decode_bytes(bb_decoder *d, size_t n) {
    if (d->status == BB_STATUS_OK && n > d->size - d->at)
        bb_decode_fail(d, BB_STATUS_BAD_FILE, "it ends too early");
    if (d->status != BB_STATUS_OK)
        return NULL;
    const uint8_t *p = d->data + d->at;
    d->at += n;
    return p;
}

uint8_t bb_decode_u8(bb_decoder *d) {
    const uint8_t *p = bb_decode_bytes(d, 1);
    return p ? *p : 0;
}

uint16_t bb_decode_u16(bb_decoder *d) {
    const uint8_t *p = bb_decode_bytes(d, 2);
    return p ? (uint16_t)(p[0] | p[1] << 8) : 0;
}

uint32_t bb_decode_u32(bb_decoder *d) {
    const uint8_t *p = bb_decode_bytes(d, 4);
    return p ? bb_get_u32(p) : 0;
}

uint64_t bb_decode_u64(bb_decoder *d) {
    const uint8_t *p = bb_decode_bytes(d, 8);
    return p ? bb_get_u64(p) : 0;
}

float bb_decode_f32(bb_decoder *d) {
    uint32_t bits = bb_decode_u32(d);
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

const char *bb_decode_string(bb_decoder *d) {
    size_t n = bb_decode_u16(d);
    const char *text = (const char *)bb_decode_bytes(d, n);
    if (text && memchr(text, 0, n))
        bb_decode_fail(d, BB_STATUS_BAD_FILE, "a name holds a NUL");
    char *copy = bb_decode_alloc(d, n + 1, 1);
    return copy && text ? memcpy(copy, text, n) : "";
}

bool bb_decode_charge(bb_decoder *d, size_t n, size_t size) {
    size_t bytes;
    if (d->status != BB_STATUS_OK)
        return false;
    if (!bb_size_mul(n, size, &bytes) || bytes > *d->budget) {
        bb_decode_fail(d, BB_STATUS_LIMIT, "its tables would take too much memory");
        return false;
    }
    *d->budget -= bytes;
    return true;
}

void *bb_decode_alloc(bb_decoder *d, size_t n, size_t size) {
    if (!bb_decode_charge(d, n, size))
        return NULL;
    void *p = bb_arena_array(d->arena, n, size);
    if (!p)
        bb_decode_fail(d, BB_STATUS_OUT_OF_MEMORY, "out of memory");
    return p;
}

static const struct int_type {
    size_t size;
    int64_t min, max;
} int_types[] = {
    [BB_INT_U8] = {1, 0, UINT8_MAX},
    [BB_INT_U16] = {2, 0, UINT16_MAX},
    [BB_INT_I32] = {4, INT32_MIN, INT32_MAX},
    [BB_INT_I64] = {8, INT64_MIN, INT64_MAX},
};

/* Two's complement of `width` bytes, 1..8. */
static int64_t get_int(const uint8_t *p, unsigned width) {
    uint64_t value = 0, sign = UINT64_C(1) << (8 * width - 1);
    for (unsigned i = 0; i < width; i++)
        value |= (uint64_t)p[i] << (8 * i);
    value = (value ^ sign) - sign;
    return (int64_t)value;
}

static void store_int(void *values, size_t i, bb_int_type type, int64_t value) {
    switch (type) {
    case BB_INT_U8:
        ((uint8_t *)values)[i] = (uint8_t)value;
        break;
    case BB_INT_U16:
        ((uint16_t *)values)[i] = (uint16_t)value;
        break;
    case BB_INT_I32:
        ((int32_t *)values)[i] = (int32_t)value;
        break;
    case BB_INT_I64:
        ((int64_t *)values)[i] = value;
        break;
    }
}

void *bb_decode_ints(bb_decoder *d, size_t n, bb_int_type type) {
    unsigned width = bb_decode_u8(d);
    size_t bytes;
    if (width > 8)
        bb_decode_fail(d, BB_STATUS_BAD_FILE, "an integer array has elements above 8 bytes");
    if (!bb_size_mul(n, width, &bytes))
        bb_decode_fail(d, BB_STATUS_BAD_FILE, "it ends too early");
    const uint8_t *p = bb_decode_bytes(d, bytes);
    void *values = bb_decode_alloc(d, n, int_types[type].size);
    if (!p || !values || width == 0)
        return values;
    for (size_t i = 0; i < n; i++) {
        int64_t value = get_int(p + i * width, width);
        if (value < int_types[type].min || value > int_types[type].max) {
            bb_decode_fail(d, BB_STATUS_BAD_FILE, "an integer is out of range");
            return NULL;
        }
        store_int(values, i, type, value);
    }
    return values;
}

float *bb_decode_floats(bb_decoder *d, size_t n) {
    size_t bytes;
    if (!bb_size_mul(n, sizeof(float), &bytes))
        bb_decode_fail(d, BB_STATUS_BAD_FILE, "it ends too early");
    const uint8_t *p = bb_decode_bytes(d, bytes);
    float *values = bb_decode_alloc(d, n, sizeof(float));
    for (size_t i = 0; p && values && i < n; i++) {
        uint32_t bits = bb_get_u32(p + 4 * i);
        memcpy(&values[i], &bits, sizeof(bits));
    }
    return values;
}

/* ---- encoding -------------------------------------------------------------------------------- */

static void encode_little(bb_buffer *out, uint64_t value, unsigned width) {
    uint8_t bytes[8];
    bb_put_u64(bytes, value);
    bb_buffer_append(out, bytes, width);
}

void bb_encode_u8(bb_buffer *out, uint32_t value) {
    encode_little(out, value, 1);
}

void bb_encode_u16(bb_buffer *out, uint32_t value) {
    encode_little(out, value, 2);
}

void bb_encode_u32(bb_buffer *out, uint32_t value) {
    encode_little(out, value, 4);
}

void bb_encode_u64(bb_buffer *out, uint64_t value) {
    encode_little(out, value, 8);
}

void bb_encode_f32(bb_buffer *out, float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    bb_encode_u32(out, bits);
}

void bb_encode_string(bb_buffer *out, const char *text) {
    size_t n = strlen(text); /* at most BB_MAX_NAME in a valid model */
    bb_encode_u16(out, (uint32_t)n);
    bb_buffer_append(out, text, n);
}

static int64_t load_int(const void *values, size_t i, bb_int_type type) {
    switch (type) {
    case BB_INT_U8:
        return ((const uint8_t *)values)[i];
    case BB_INT_U16:
        return ((const uint16_t *)values)[i];
    case BB_INT_I32:
        return ((const int32_t *)values)[i];
    case BB_INT_I64:
        return ((const int64_t *)values)[i];
    }
    return 0;
}

static unsigned width_of(int64_t min, int64_t max) {
    if (min == 0 && max == 0)
        return 0;
    for (unsigned width = 1; width < 8; width++) {
        int64_t half = INT64_C(1) << (8 * width - 1);
        if (min >= -half && max < half)
            return width;
    }
    return 8;
}

void bb_encode_ints(bb_buffer *out, const void *values, size_t n, bb_int_type type) {
    int64_t min = 0, max = 0;
    for (size_t i = 0; i < n; i++) {
        int64_t value = load_int(values, i, type);
        min = value < min ? value : min;
        max = value > max ? value : max;
    }
    unsigned width = width_of(min, max);
    bb_encode_u8(out, width);
    for (size_t i = 0; i < n && width > 0; i++)
        encode_little(out, (uint64_t)load_int(values, i, type), width);
}

void bb_encode_floats(bb_buffer *out, const float *values, size_t n) {
    for (size_t i = 0; i < n; i++)
        bb_encode_f32(out, values[i]);
}

void bb_encode_align(bb_buffer *out) {
    static const uint8_t zeros[BB_CHUNK_ALIGN];
    bb_buffer_append(out, zeros, bb_align_chunk(out->size) - out->size);
}
