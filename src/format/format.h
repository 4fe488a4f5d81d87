/* SPDX-License-Identifier: Apache-2.0 */
/** @file format.h  The .bbm file (docs/format.md): reader of untrusted input, and writer. */
#ifndef BB_FORMAT_H
#define BB_FORMAT_H

#include "model/model.h"

/** Takes over `file` (also on failure). The model is validated; planes point into the file. */
bb_status bb_format_read(bb_file *file, const char *name, bb_model **model, bb_error *err);
/** Serialises to memory: the same model gives the same bytes. */
bb_status bb_format_write(const bb_model *model, bb_buffer *out, bb_error *err);
/** Keeps one profile and only the planes its layers use. The result shares nothing with `model`. */
bb_status bb_format_truncate(const bb_model *model, size_t profile, bb_model **result,
                             bb_error *err);

/** Bytes of a serialised model by what they hold, for `info`. */
typedef struct bb_format_sizes {
    uint64_t total, planes, constants, structure, metadata;
} bb_format_sizes;
bb_status bb_format_measure(const bb_model *model, bb_format_sizes *sizes, bb_error *err);

#endif
