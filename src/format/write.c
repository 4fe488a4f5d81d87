/* SPDX-License-Identifier: Apache-2.0 */
/* Model -> bytes of a .bbm file. Deterministic: nothing but the model decides a byte. */
#include "format/chunks.h"
#include <string.h>

uint64_t bb_plane_file_words(const bb_planes *planes, bb_packing packing) {
    if (packing == BB_PACKING_WORDS)
        return (uint64_t)planes->rows * planes->row_words;
    uint64_t row = (uint64_t)planes->taps * planes->depth;
    return (planes->rows * row + 63) / 64; /* rows <= 2^20, row <= 2^24 */
}

bool bb_float_has_window(bb_float_op op) {
    return op == BB_FLOAT_CONV || op == BB_FLOAT_MAX_POOL || op == BB_FLOAT_AVERAGE_POOL;
}

/* ---- chunks ---------------------------------------------------------------------------------- */

static size_t begin_chunk(bb_buffer *out, const char *id, uint32_t version, uint32_t flags) {
    uint8_t header[BB_CHUNK_HEADER] = {0};
    size_t at = out->size;
    memcpy(header, id, 4);
    bb_put_u32(header + 4, version);
    bb_put_u32(header + 8, flags);
    bb_buffer_append(out, header, sizeof(header));
    return at;
}

static void end_chunk(bb_buffer *out, const bb_crc *crc, size_t at) {
    if (out->failed)
        return;
    uint8_t *header = (uint8_t *)out->data + at;
    size_t size = out->size - at - BB_CHUNK_HEADER;
    bb_put_u64(header + 16, size);
    bb_put_u32(header + 12, bb_crc_chunk(crc, header, header + BB_CHUNK_HEADER, size));
    bb_encode_align(out);
}

/* ---- MODL ------------------------------------------------------------------------------------ */

static void encode_geometry(bb_buffer *out, const bb_geometry *g) {
    const int32_t *const pairs[] = {g->kernel, g->stride, g->dilation, g->pad_begin, g->pad_end};
    for (size_t i = 0; i < BB_COUNT(pairs); i++)
        for (int axis = 0; axis < 2; axis++)
            bb_encode_u16(out, (uint32_t)pairs[i][axis]);
    bb_encode_u8(out, (g->ceil_mode ? BB_FLAG_CEIL : 0u) |
                          (g->count_include_pad ? BB_FLAG_COUNT_PAD : 0u));
}

static bb_packing packing_of(const bb_planes *planes) {
    return bb_packing_for(planes->taps * planes->depth, planes->row_words);
}

static void encode_conv(bb_buffer *out, const bb_model_node *node) {
    const bb_planes *planes = node->planes;
    encode_geometry(out, &node->geometry);
    bb_encode_u32(out, node->groups);
    bb_encode_u32(out, planes->rows);
    bb_encode_u32(out, planes->depth);
    bb_encode_u8(out, planes->count);
    for (uint32_t p = 0; p < planes->count; p++)
        bb_encode_u16(out, (uint32_t)planes->weight[p]);
    bb_encode_u8(out, packing_of(planes));
}

static void encode_float(bb_buffer *out, const bb_model_node *node) {
    bb_encode_u8(out, node->float_op);
    bb_encode_f32(out, node->alpha);
    bb_encode_f32(out, node->beta);
    bb_encode_string(out, node->reason ? node->reason : "");
    if (bb_float_has_window(node->float_op))
        encode_geometry(out, &node->geometry);
    if (node->float_op == BB_FLOAT_CONV)
        bb_encode_u32(out, node->groups);
    bb_encode_u32(out, node->n_float_weights);
    bb_encode_u32(out, node->n_float_bias);
}

static void encode_node(bb_buffer *out, const bb_model_node *node) {
    bb_encode_string(out, node->name);
    bb_encode_u8(out, node->kind);
    bb_encode_u8(out, (uint32_t)node->n_in);
    bb_encode_u8(out, (uint32_t)node->n_out);
    for (int i = 0; i < node->n_in; i++)
        bb_encode_u16(out, (uint32_t)node->in[i]);
    for (int i = 0; i < node->n_out; i++)
        bb_encode_u16(out, (uint32_t)node->out[i]);
    switch (node->kind) {
    case BB_NODE_CONV:
        encode_conv(out, node);
        break;
    case BB_NODE_MAX_POOL:
    case BB_NODE_AVERAGE_POOL:
        encode_geometry(out, &node->geometry);
        break;
    case BB_NODE_GATHER_CHANNELS:
        bb_encode_ints(out, node->channel_index, node->n_channel_index, BB_INT_I32);
        break;
    case BB_NODE_RESIZE_NEAREST:
        bb_encode_u16(out, (uint32_t)node->resize_factor[0]);
        bb_encode_u16(out, (uint32_t)node->resize_factor[1]);
        break;
    case BB_NODE_FLOAT:
        encode_float(out, node);
        break;
    default:
        break;
    }
}

static void encode_tensor(bb_buffer *out, const bb_model_tensor *t) {
    bb_encode_string(out, t->name);
    bb_encode_u8(out, t->kind);
    bb_encode_u8(out, (uint32_t)t->rank);
    for (int i = 0; i < t->rank; i++)
        bb_encode_u32(out, (uint32_t)t->dims[i]);
}

static void encode_indices(bb_buffer *out, const int *list, size_t n) {
    bb_encode_u16(out, (uint32_t)n);
    for (size_t i = 0; i < n; i++)
        bb_encode_u16(out, (uint32_t)list[i]);
}

static void encode_structure(bb_buffer *out, const bb_model *model) {
    bb_encode_string(out, model->name);
    bb_encode_u64(out, model->float32_bytes);
    bb_encode_u16(out, (uint32_t)model->n_tensors);
    bb_encode_u16(out, (uint32_t)model->n_nodes);
    for (size_t i = 0; i < model->n_tensors; i++)
        encode_tensor(out, &model->tensors[i]);
    encode_indices(out, model->inputs, model->n_inputs);
    encode_indices(out, model->outputs, model->n_outputs);
    for (size_t i = 0; i < model->n_nodes; i++)
        encode_node(out, &model->nodes[i]);
}

/* ---- PLAN and FLTB --------------------------------------------------------------------------- */

static void append_words(bb_buffer *out, const uint64_t *words, size_t n) {
    if (bb_little_endian()) {
        bb_buffer_append(out, words, n * sizeof(*words));
        return;
    }
    for (size_t i = 0; i < n; i++)
        bb_encode_u64(out, words[i]);
}

/* One plane with its rows joined without padding. */
static void append_tight(bb_buffer *out, const bb_planes *planes, const uint64_t *plane) {
    size_t row = (size_t)planes->taps * planes->depth;
    uint64_t word = 0;
    unsigned used = 0;
    for (size_t r = 0; r < planes->rows; r++)
        for (size_t j = 0; j < row; j++) {
            uint64_t bit = plane[r * planes->row_words + j / 64] >> (j % 64) & 1;
            word |= bit << used;
            if (++used == 64) {
                bb_encode_u64(out, word);
                word = 0;
                used = 0;
            }
        }
    if (used > 0)
        bb_encode_u64(out, word);
}

static void encode_planes(bb_buffer *out, const bb_planes *planes) {
    size_t plane_words = (size_t)planes->rows * planes->row_words;
    bb_encode_align(out);
    for (uint32_t p = 0; p < planes->count; p++) {
        const uint64_t *plane = planes->words + p * plane_words;
        if (packing_of(planes) == BB_PACKING_WORDS)
            append_words(out, plane, plane_words);
        else
            append_tight(out, planes, plane);
    }
}

static void encode_all_planes(bb_buffer *out, const bb_model *model) {
    for (size_t i = 0; i < model->n_nodes; i++)
        if (model->nodes[i].kind == BB_NODE_CONV)
            encode_planes(out, model->nodes[i].planes);
}

static void encode_all_floats(bb_buffer *out, const bb_model *model) {
    for (size_t i = 0; i < model->n_nodes; i++) {
        const bb_model_node *node = &model->nodes[i];
        if (node->kind != BB_NODE_FLOAT)
            continue;
        bb_encode_floats(out, node->float_weights, node->n_float_weights);
        bb_encode_floats(out, node->float_bias, node->n_float_bias);
    }
}

/* ---- file ------------------------------------------------------------------------------------ */

/* Bytes of a chunk with its header and the padding after it are those of `kind`. */
typedef enum size_kind { STRUCTURE, PLANES, CONSTANTS, METADATA, N_KINDS } size_kind;

typedef struct writer {
    bb_buffer *out;
    bb_crc crc;
    uint32_t n_chunks;
    uint64_t bytes[N_KINDS];
} writer;

static size_t start(writer *w, const char *id, uint32_t flags) {
    return begin_chunk(w->out, id, BB_CHUNK_VERSION, flags);
}

static void finish(writer *w, size_t at, size_kind kind) {
    end_chunk(w->out, &w->crc, at);
    w->n_chunks++;
    w->bytes[kind] += w->out->size - at;
}

static void write_text(writer *w, const char *id, const char *text) {
    if (!text)
        return;
    size_t at = start(w, id, 0);
    bb_buffer_append(w->out, text, strlen(text));
    finish(w, at, METADATA);
}

static void write_required(writer *w, const bb_model *model) {
    size_t at = start(w, BB_CHUNK_MODEL, BB_CHUNK_REQUIRED);
    encode_structure(w->out, model);
    finish(w, at, STRUCTURE);
    at = start(w, BB_CHUNK_PLANES, BB_CHUNK_REQUIRED);
    encode_all_planes(w->out, model);
    finish(w, at, PLANES);
    at = start(w, BB_CHUNK_FLOATS, BB_CHUNK_REQUIRED);
    encode_all_floats(w->out, model);
    finish(w, at, CONSTANTS);
    for (size_t i = 0; i < model->n_profiles; i++) {
        at = start(w, BB_CHUNK_PROFILE, BB_CHUNK_REQUIRED);
        bb_encode_profile(w->out, model, &model->profiles[i]);
        finish(w, at, CONSTANTS);
    }
}

static void write_extras(writer *w, const bb_model *model) {
    for (size_t i = 0; i < model->n_extra; i++) {
        size_t at = begin_chunk(w->out, model->extra[i].id, model->extra[i].version, 0);
        bb_buffer_append(w->out, model->extra[i].data, model->extra[i].size);
        finish(w, at, METADATA);
    }
}

static void write_header(writer *w) {
    if (w->out->failed)
        return;
    uint8_t *header = (uint8_t *)w->out->data;
    memcpy(header, BB_FILE_MAGIC, 8);
    bb_put_u32(header + 8, BB_FORMAT_VERSION);
    bb_put_u32(header + 12, w->n_chunks);
    bb_put_u64(header + 16, w->out->size);
    bb_put_u32(header + BB_FILE_HEADER - 4, bb_crc_header(&w->crc, header));
}

static bb_status check_limits(const bb_model *model, bb_error *err) {
    const char *const texts[] = {model->config_json, model->labels};
    for (size_t i = 0; i < BB_COUNT(texts); i++)
        if (texts[i] && strlen(texts[i]) > BB_MAX_TEXT)
            return bb_fail(err, BB_STATUS_LIMIT, "the task settings or labels are above %d bytes",
                           BB_MAX_TEXT);
    return bb_model_validate(model, err);
}

static bb_status write_all(writer *w, const bb_model *model, bb_error *err) {
    static const uint8_t blank[BB_FILE_HEADER];
    BB_TRY(check_limits(model, err));
    bb_crc_init(&w->crc);
    bb_buffer_append(w->out, blank, sizeof(blank));
    write_required(w, model);
    write_text(w, BB_CHUNK_TASK, model->config_json);
    write_text(w, BB_CHUNK_LABELS, model->labels);
    write_extras(w, model);
    write_header(w);
    return w->out->failed ? bb_fail_memory(err, "the file") : BB_STATUS_OK;
}

bb_status bb_format_write(const bb_model *model, bb_buffer *out, bb_error *err) {
    *out = (bb_buffer){0};
    writer w = {.out = out};
    bb_status status = write_all(&w, model, err);
    if (status != BB_STATUS_OK)
        bb_buffer_free(out);
    return status;
}

bb_status bb_format_measure(const bb_model *model, bb_format_sizes *sizes, bb_error *err) {
    bb_buffer out = {0};
    writer w = {.out = &out};
    bb_status status = write_all(&w, model, err);
    if (status == BB_STATUS_OK)
        *sizes = (bb_format_sizes){
            .total = out.size,
            .planes = w.bytes[PLANES],
            .constants = w.bytes[CONSTANTS],
            .structure = w.bytes[STRUCTURE],
            .metadata = w.bytes[METADATA] + BB_FILE_HEADER,
        };
    bb_buffer_free(&out);
    return status;
}
