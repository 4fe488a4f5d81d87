/* SPDX-License-Identifier: Apache-2.0 */
/** @file wire.h  Bytes of a .bbm file: checked decoding and encoding of its basic types. */
#ifndef BB_FORMAT_WIRE_H
#define BB_FORMAT_WIRE_H

#include "base/base.h"

enum {
    BB_FILE_HEADER = 64,
    BB_CHUNK_HEADER = 64,
    BB_CHUNK_ALIGN = 64,
    BB_FORMAT_VERSION = 1,
    BB_MAX_CHUNKS = 4096,
    BB_CHUNK_REQUIRED = 1, /**< flag: a reader that does not know the chunk must refuse the file */
};
#define BB_FILE_MAGIC                                                                              \
    "\x89"                                                                                         \
    "BBM\r\n\x1a\n"

/** Where planes pad too much, a node's bits are stored without padding between rows. */
typedef enum bb_packing { BB_PACKING_WORDS = 0, BB_PACKING_TIGHT = 1 } bb_packing;

/** Offset rounded up to the next chunk boundary; callers have checked that it fits. */
size_t bb_align_chunk(size_t offset);

/* ---- CRC-32 (IEEE 802.3, as zlib and PNG) ---------------------------------------------------- */

typedef struct bb_crc {
    uint32_t table[8][256];
} bb_crc;
void bb_crc_init(bb_crc *crc);
/** Continues `sum` (0 to start) over more bytes. */
uint32_t bb_crc_update(const bb_crc *crc, uint32_t sum, const void *data, size_t size);
/** Sum of a chunk: its header with a zero sum field, then its payload. */
uint32_t bb_crc_chunk(const bb_crc *crc, const uint8_t *header, const void *data, size_t size);
/** Sum of the file header: all of it but the sum. */
uint32_t bb_crc_header(const bb_crc *crc, const uint8_t *header);

/* ---- decoding -------------------------------------------------------------------------------- */

/**
 * A cursor over one chunk. The first failure sticks: `status` and `why` say what it was, everything
 * read later is 0 or NULL, so that callers may check once in a while.
 */
typedef struct bb_decoder {
    const uint8_t *data;
    size_t size, at;
    bb_arena *arena;
    size_t *budget; /**< bytes that decoded arrays may still take */
    bb_status status;
    const char *why;
} bb_decoder;

void bb_decode_fail(bb_decoder *d, bb_status status, const char *why);
bool bb_decode_ok(const bb_decoder *d);
/** The next n bytes in place; NULL after failure. */
const uint8_t *bb_decode_bytes(bb_decoder *d, size_t n);
uint8_t bb_decode_u8(bb_decoder *d);
uint16_t bb_decode_u16(bb_decoder *d);
uint32_t bb_decode_u32(bb_decoder *d);
uint64_t bb_decode_u64(bb_decoder *d);
float bb_decode_f32(bb_decoder *d);
/** Length-prefixed text without NUL, copied; "" after failure. */
const char *bb_decode_string(bb_decoder *d);
/** Takes n*size bytes off the budget; false after failure. */
bool bb_decode_charge(bb_decoder *d, size_t n, size_t size);
/** Zeroed memory from the arena, counted against the budget. */
void *bb_decode_alloc(bb_decoder *d, size_t n, size_t size);

typedef enum bb_int_type { BB_INT_U8, BB_INT_U16, BB_INT_I32, BB_INT_I64 } bb_int_type;
/** An integer array of n elements of the given C type; NULL after failure. */
void *bb_decode_ints(bb_decoder *d, size_t n, bb_int_type type);
float *bb_decode_floats(bb_decoder *d, size_t n);

uint32_t bb_get_u32(const uint8_t *p);
uint64_t bb_get_u64(const uint8_t *p);

/* ---- encoding: bb_buffer remembers failures -------------------------------------------------- */

void bb_encode_u8(bb_buffer *out, uint32_t value);
void bb_encode_u16(bb_buffer *out, uint32_t value);
void bb_encode_u32(bb_buffer *out, uint32_t value);
void bb_encode_u64(bb_buffer *out, uint64_t value);
void bb_encode_f32(bb_buffer *out, float value);
void bb_encode_string(bb_buffer *out, const char *text);
/** Written with as few bytes an element as the extreme values need (0 if all are 0). */
void bb_encode_ints(bb_buffer *out, const void *values, size_t n, bb_int_type type);
void bb_encode_floats(bb_buffer *out, const float *values, size_t n);
/** Zero bytes up to the next chunk boundary. */
void bb_encode_align(bb_buffer *out);

void bb_put_u32(uint8_t *p, uint32_t value);
void bb_put_u64(uint8_t *p, uint64_t value);

/** The packing a writer chooses for rows of row_bits in row_words words. */
bb_packing bb_packing_for(uint32_t row_bits, uint32_t row_words);
/** Words of a file and of memory are the same bytes on this machine. */
bool bb_little_endian(void);

#endif
