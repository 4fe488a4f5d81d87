/* SPDX-License-Identifier: Apache-2.0 */
/** @file chunks.h  The chunks of a .bbm file and what a node needs in each (docs/format.md). */
#ifndef BB_FORMAT_CHUNKS_H
#define BB_FORMAT_CHUNKS_H

#include "format/format.h"
#include "format/wire.h"

enum {
    BB_CHUNK_VERSION = 1, /**< of every chunk written today */
    BB_MAX_TEXT = 1 << 24 /**< bytes of the task settings or the labels */
};

#define BB_CHUNK_MODEL "MODL"
#define BB_CHUNK_PLANES "PLAN"
#define BB_CHUNK_FLOATS "FLTB"
#define BB_CHUNK_PROFILE "PROF"
#define BB_CHUNK_TASK "TASK"
#define BB_CHUNK_LABELS "LABL"

/** Bits of a requantizer's flag byte. */
enum { BB_FLAG_PER_CHANNEL = 1, BB_FLAG_SECOND = 2, BB_FLAG_SLOPES = 4 };
/** Bits of a convolution's flag byte in a profile. */
enum { BB_FLAG_OFFSET = 1, BB_FLAG_TAP_ADD = 2, BB_FLAG_SCALE = 4 };
/** Bits of a window's flag byte. */
enum { BB_FLAG_CEIL = 1, BB_FLAG_COUNT_PAD = 2 };

/** 64-bit words of one plane in the file. */
uint64_t bb_plane_file_words(const bb_planes *planes, bb_packing packing);
/** Whether a float operation has a window. */
bool bb_float_has_window(bb_float_op op);

/** Decodes one PROF chunk into a fresh profile of `model`, whose structure is known. */
void bb_decode_profile(bb_decoder *d, bb_model *model);
void bb_encode_profile(bb_buffer *out, const bb_model *model, const bb_profile *profile);

#endif
