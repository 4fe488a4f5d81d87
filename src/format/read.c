/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes of a .bbm file -> model. Every byte is hostile until checked: the chain of chunks first,
 * then each chunk's contents against its own size, then the whole model. */
#include "format/structure.h"
#include <string.h>

/* Decoded tables may take this much: far above what any network needs, but an array of zeros costs
 * a file only one byte. */
enum { BUDGET_BASE = 64 << 20, BUDGET_FACTOR = 16 };

typedef struct chunk {
    char id[5];
    uint32_t version, flags;
    const uint8_t *data;
    size_t size, offset;
} chunk;

typedef struct reader {
    const char *name;
    bb_file file;
    bb_crc crc;
    bb_model *model;
    bb_packing *packing;
    size_t budget;
    bool have_model, have_planes, have_floats;
    bb_error *err;
} reader;

static bb_status fail(reader *r, bb_status status, const char *what) {
    return bb_fail(r->err, status, "%s: %s", r->name, what);
}

static bb_status fail_chunk(reader *r, const chunk *c, bb_status status, const char *what) {
    return bb_fail(r->err, status, "%s: chunk %s at byte %zu: %s", r->name, c->id, c->offset, what);
}

/* ---- the chain of chunks --------------------------------------------------------------------- */

static bb_status check_header(reader *r, uint32_t *n_chunks) {
    const uint8_t *p = r->file.data;
    if (r->file.size < 8 || memcmp(p, BB_FILE_MAGIC, 8) != 0)
        return fail(r, BB_STATUS_BAD_FILE, "not a .bbm file");
    if (r->file.size < BB_FILE_HEADER)
        return fail(r, BB_STATUS_BAD_FILE, "truncated in the file header");
    if (bb_crc_header(&r->crc, p) != bb_get_u32(p + BB_FILE_HEADER - 4))
        return fail(r, BB_STATUS_BAD_FILE, "corrupt file header");
    if (bb_get_u32(p + 8) != BB_FORMAT_VERSION)
        return bb_fail(r->err, BB_STATUS_UNSUPPORTED, "%s: format version %u, this reader knows %d",
                       r->name, bb_get_u32(p + 8), BB_FORMAT_VERSION);
    if (bb_get_u64(p + 16) != r->file.size)
        return bb_fail(r->err, BB_STATUS_BAD_FILE, "%s: %zu bytes, but its header says %llu",
                       r->name, r->file.size, (unsigned long long)bb_get_u64(p + 16));
    *n_chunks = bb_get_u32(p + 12);
    if (*n_chunks > BB_MAX_CHUNKS)
        return fail(r, BB_STATUS_LIMIT, "too many chunks");
    return BB_STATUS_OK;
}

static bool all_zero(const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (p[i] != 0)
            return false;
    return true;
}

/* `at` is a multiple of 64 and at most the file size. */
static bb_status next_chunk(reader *r, size_t *at, chunk *c) {
    const uint8_t *p = r->file.data + *at;
    size_t left = r->file.size - *at;
    *c = (chunk){.id = "????", .offset = *at};
    if (left < BB_CHUNK_HEADER)
        return fail_chunk(r, c, BB_STATUS_BAD_FILE, "the file ends in its header");
    memcpy(c->id, p, 4);
    c->version = bb_get_u32(p + 4);
    c->flags = bb_get_u32(p + 8);
    c->data = p + BB_CHUNK_HEADER;
    if (bb_get_u64(p + 16) > left - BB_CHUNK_HEADER)
        return fail_chunk(r, c, BB_STATUS_BAD_FILE, "it is longer than the file");
    c->size = (size_t)bb_get_u64(p + 16);
    if (bb_crc_chunk(&r->crc, p, c->data, c->size) != bb_get_u32(p + 12))
        return fail_chunk(r, c, BB_STATUS_BAD_FILE, "corrupt: its checksum differs");
    size_t end = bb_align_chunk(BB_CHUNK_HEADER + c->size);
    if (end > left || !all_zero(c->data + c->size, end - BB_CHUNK_HEADER - c->size) ||
        !all_zero(p + 24, BB_CHUNK_HEADER - 24))
        return fail_chunk(r, c, BB_STATUS_BAD_FILE, "its padding is missing or not zero");
    if (c->flags & ~(uint32_t)BB_CHUNK_REQUIRED)
        return fail_chunk(r, c, BB_STATUS_UNSUPPORTED, "it has unknown flags");
    *at += end;
    return BB_STATUS_OK;
}

/* ---- contents -------------------------------------------------------------------------------- */

static bool is(const chunk *c, const char *id) {
    return memcmp(c->id, id, 4) == 0;
}

static bb_decoder decoder_of(reader *r, const chunk *c) {
    return (bb_decoder){
        .data = c->data, .size = c->size, .arena = r->model->arena, .budget = &r->budget};
}

/* A chunk must be used up to its last byte. */
static bb_status done(reader *r, const chunk *c, bb_decoder *d) {
    if (d->at != d->size)
        bb_decode_fail(d, BB_STATUS_BAD_FILE, "it is longer than its contents");
    return d->status == BB_STATUS_OK ? BB_STATUS_OK : fail_chunk(r, c, d->status, d->why);
}

static bb_status read_structure(reader *r, const chunk *c) {
    bb_decoder d = decoder_of(r, c);
    if (r->have_model)
        return fail_chunk(r, c, BB_STATUS_BAD_FILE, "there are two of it");
    r->have_model = true;
    bb_decode_structure(&d, r->model, &r->packing);
    return done(r, c, &d);
}

static bb_status read_planes(reader *r, const chunk *c) {
    bb_decoder d = decoder_of(r, c);
    if (!r->have_model || r->have_planes)
        return fail_chunk(r, c, BB_STATUS_BAD_FILE, "there are two of it, or it comes too early");
    r->have_planes = true;
    bb_decode_planes(&d, r->model, r->packing);
    return done(r, c, &d);
}

static bb_status read_floats(reader *r, const chunk *c) {
    bb_decoder d = decoder_of(r, c);
    if (!r->have_model || r->have_floats)
        return fail_chunk(r, c, BB_STATUS_BAD_FILE, "there are two of it, or it comes too early");
    r->have_floats = true;
    bb_decode_float_tables(&d, r->model);
    return done(r, c, &d);
}

static bb_status read_profile(reader *r, const chunk *c) {
    bb_decoder d = decoder_of(r, c);
    if (!r->have_model)
        return fail_chunk(r, c, BB_STATUS_BAD_FILE, "it comes too early");
    bb_decode_profile(&d, r->model);
    return done(r, c, &d);
}

static bb_status read_text(reader *r, const chunk *c, const char **text) {
    if (*text || c->size > BB_MAX_TEXT || memchr(c->data, 0, c->size))
        return fail_chunk(r, c, BB_STATUS_BAD_FILE, "it is too long, not text, or there twice");
    *text = bb_arena_strndup(r->model->arena, (const char *)c->data, c->size);
    return *text ? BB_STATUS_OK : bb_fail_memory(r->err, r->name);
}

/* Kept, so that rewriting the file loses nothing. */
static bb_status keep_chunk(reader *r, const chunk *c) {
    bb_model *m = r->model;
    if (c->flags & BB_CHUNK_REQUIRED)
        return fail_chunk(r, c, BB_STATUS_UNSUPPORTED,
                          "this version does not know it, and the file cannot do without");
    if (!m->extra)
        m->extra = bb_arena_array(m->arena, BB_MAX_CHUNKS, sizeof(*m->extra));
    if (!m->extra)
        return bb_fail_memory(r->err, r->name);
    struct bb_extra_chunk *extra = &m->extra[m->n_extra++];
    memcpy(extra->id, c->id, sizeof(extra->id));
    extra->version = c->version;
    extra->data = c->data;
    extra->size = c->size;
    return BB_STATUS_OK;
}

static bb_status read_chunk(reader *r, const chunk *c) {
    if (c->version != BB_CHUNK_VERSION)
        return keep_chunk(r, c);
    if (is(c, BB_CHUNK_MODEL))
        return read_structure(r, c);
    if (is(c, BB_CHUNK_PLANES))
        return read_planes(r, c);
    if (is(c, BB_CHUNK_FLOATS))
        return read_floats(r, c);
    if (is(c, BB_CHUNK_PROFILE))
        return read_profile(r, c);
    if (is(c, BB_CHUNK_TASK))
        return read_text(r, c, &r->model->config_json);
    if (is(c, BB_CHUNK_LABELS))
        return read_text(r, c, &r->model->labels);
    return keep_chunk(r, c);
}

/* ---- file ------------------------------------------------------------------------------------ */

static bb_status read_all(reader *r) {
    uint32_t n_chunks = 0;
    size_t at = BB_FILE_HEADER;
    bb_crc_init(&r->crc);
    BB_TRY(check_header(r, &n_chunks));
    for (uint32_t i = 0; i < n_chunks; i++) {
        chunk c;
        BB_TRY(next_chunk(r, &at, &c));
        BB_TRY(read_chunk(r, &c));
    }
    if (at != r->file.size)
        return fail(r, BB_STATUS_BAD_FILE, "bytes after the last chunk");
    if (!r->have_model || !r->have_planes || !r->have_floats)
        return fail(r, BB_STATUS_BAD_FILE, "a MODL, PLAN or FLTB chunk is missing");
    return bb_error_prefix(r->err, bb_model_validate(r->model, r->err), "%s", r->name);
}

bb_status bb_format_read(bb_file *file, const char *name, bb_model **model, bb_error *err) {
    reader r = {.name = name, .file = *file, .model = bb_model_create(), .err = err};
    *file = (bb_file){0};
    if (!r.model) {
        bb_file_close(&r.file);
        return bb_fail_memory(err, name);
    }
    r.model->file = r.file;
    r.budget = BUDGET_BASE;
    if (r.file.size < (SIZE_MAX - BUDGET_BASE) / BUDGET_FACTOR)
        r.budget += BUDGET_FACTOR * r.file.size;
    bb_status status = read_all(&r);
    if (status == BB_STATUS_OK)
        *model = r.model;
    else
        bb_model_destroy(r.model);
    return status;
}
