/* SPDX-License-Identifier: Apache-2.0 */
#include "train/checkpoint.h"
#include <string.h>
#include <unistd.h>
#include <zlib.h>

/* Fields are only added to the ends of the structures: what an older file lacks is zero.
 * magic | version | position | rows | results | sizes of arrays | arrays | CRC-32 of all before.
 * In the machine's own byte order: a checkpoint belongs to the machine type it was written on. */
static const char magic[8] = "BBCKPT\n";
enum { VERSION = 1, CRC_BYTES = 4 };

typedef struct header {
    char magic[8];
    uint32_t version, position_bytes, row_bytes, result_bytes;
    uint64_t n_rows, n_results, n_arrays;
} header;

/* ---- writing --------------------------------------------------------------------------------- */

typedef struct writer {
    bb_output *out;
    uLong crc;
    bb_error *err;
} writer;

static bb_status put(writer *w, const void *data, size_t size) {
    for (size_t done = 0; done < size;) {
        size_t part = size - done < ((size_t)1 << 30) ? size - done : (size_t)1 << 30;
        w->crc = crc32(w->crc, (const Bytef *)data + done, (uInt)part);
        done += part;
    }
    return bb_output_write(w->out, data, size, w->err);
}

static bb_status put_all(writer *w, const bb_position *position, const bb_record *record,
                         const bb_checkpoint_array *arrays, size_t n_arrays) {
    header h = {.version = VERSION,
                .position_bytes = sizeof(*position),
                .row_bytes = sizeof(bb_epoch_row),
                .result_bytes = sizeof(bb_stage_result),
                .n_rows = record->n_rows,
                .n_results = record->n_results,
                .n_arrays = n_arrays};
    memcpy(h.magic, magic, sizeof(magic));
    BB_TRY(put(w, &h, sizeof(h)));
    BB_TRY(put(w, position, sizeof(*position)));
    BB_TRY(put(w, record->rows, record->n_rows * sizeof(*record->rows)));
    BB_TRY(put(w, record->results, record->n_results * sizeof(*record->results)));
    for (size_t i = 0; i < n_arrays; i++) {
        uint64_t n = arrays[i].n;
        BB_TRY(put(w, &n, sizeof(n)));
    }
    for (size_t i = 0; i < n_arrays; i++)
        BB_TRY(put(w, arrays[i].data, arrays[i].n * sizeof(float)));
    uint32_t crc = (uint32_t)w->crc;
    return bb_output_write(w->out, &crc, sizeof(crc), w->err);
}

bb_status bb_checkpoint_write(const char *path, const bb_position *position,
                              const bb_record *record, const bb_checkpoint_array *arrays,
                              size_t n_arrays, bb_error *err) {
    writer w = {.crc = crc32(0, NULL, 0), .err = err};
    BB_TRY(bb_output_open(path, &w.out, err));
    bb_status status = put_all(&w, position, record, arrays, n_arrays);
    if (status == BB_STATUS_OK)
        return bb_output_commit(w.out, err);
    bb_output_abort(w.out);
    return status;
}

/* ---- reading --------------------------------------------------------------------------------- */

static bb_status damaged(const char *path, bb_error *err) {
    return bb_fail(err, BB_STATUS_BAD_FILE, "%s: not a checkpoint of this version, or damaged",
                   path);
}

static bool crc_agrees(const bb_file *file) {
    uLong crc = crc32(0, NULL, 0);
    uint32_t stored;
    size_t size = file->size - CRC_BYTES;
    for (size_t done = 0; done < size;) {
        size_t part = size - done < ((size_t)1 << 30) ? size - done : (size_t)1 << 30;
        crc = crc32(crc, file->data + done, (uInt)part);
        done += part;
    }
    memcpy(&stored, file->data + size, sizeof(stored));
    return stored == (uint32_t)crc;
}

/* Takes bytes from the file; false beyond its end. */
static bool take(const bb_file *file, size_t *at, void *to, size_t n, size_t size) {
    size_t bytes;
    if (!bb_size_mul(n, size, &bytes) || bytes > file->size - CRC_BYTES - *at)
        return false;
    if (bytes)
        memcpy(to, file->data + *at, bytes);
    *at += bytes;
    return true;
}

static bool header_fits(const header *h) {
    return memcmp(h->magic, magic, sizeof(magic)) == 0 && h->version == VERSION &&
           h->position_bytes <= sizeof(bb_position) && h->row_bytes == sizeof(bb_epoch_row) &&
           h->result_bytes <= sizeof(bb_stage_result) && h->n_results <= BB_TRAIN_MAX_STAGES;
}

static bool take_rows(const bb_file *file, size_t *at, uint64_t n, bb_record *record) {
    for (uint64_t i = 0; i < n; i++) {
        bb_epoch_row row;
        if (!take(file, at, &row, 1, sizeof(row)) || row.stage >= BB_TRAIN_MAX_STAGES ||
            bb_record_add_row(record, &row, NULL) != BB_STATUS_OK)
            return false;
    }
    return true;
}

static bool take_results(const bb_file *file, size_t *at, const header *h, bb_record *record) {
    memset(record->results, 0, sizeof(record->results));
    for (uint64_t i = 0; i < h->n_results; i++)
        if (!take(file, at, &record->results[i], 1, h->result_bytes) ||
            record->results[i].stage != i)
            return false;
    record->n_results = h->n_results;
    return true;
}

static bb_status parse(const char *path, bb_checkpoint *c, bb_record *record, bb_error *err) {
    header h;
    if (c->file.size < sizeof(h) + CRC_BYTES || !crc_agrees(&c->file) ||
        !take(&c->file, &c->at, &h, 1, sizeof(h)) || !header_fits(&h) ||
        !take(&c->file, &c->at, &c->position, 1, h.position_bytes) ||
        !take_rows(&c->file, &c->at, h.n_rows, record) ||
        !take_results(&c->file, &c->at, &h, record))
        return damaged(path, err);
    c->n_arrays = h.n_arrays;
    return BB_STATUS_OK;
}

bb_status bb_checkpoint_open(const char *path, bb_checkpoint *checkpoint, bb_record *record,
                             bb_error *err) {
    *checkpoint = (bb_checkpoint){0};
    if (access(path, F_OK) != 0)
        return bb_fail(err, BB_STATUS_NOT_FOUND, "%s: no checkpoint", path);
    BB_TRY(bb_file_open(path, &checkpoint->file, err));
    bb_status status = parse(path, checkpoint, record, err);
    if (status != BB_STATUS_OK) {
        bb_checkpoint_close(checkpoint);
        bb_record_free(record);
    }
    return status;
}

bb_status bb_checkpoint_read(const bb_checkpoint *c, const bb_checkpoint_array *arrays,
                             size_t n_arrays, bb_error *err) {
    size_t at = c->at;
    bool good = n_arrays == c->n_arrays;
    for (size_t i = 0; good && i < n_arrays; i++) {
        uint64_t n = 0;
        good = take(&c->file, &at, &n, 1, sizeof(n)) && n == arrays[i].n;
    }
    for (size_t i = 0; good && i < n_arrays; i++)
        good = take(&c->file, &at, arrays[i].data, arrays[i].n, sizeof(float));
    return good ? BB_STATUS_OK
                : bb_fail(err, BB_STATUS_BAD_FILE, "the checkpoint is of another network");
}

void bb_checkpoint_close(bb_checkpoint *checkpoint) {
    bb_file_close(&checkpoint->file);
}
