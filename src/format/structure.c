/* SPDX-License-Identifier: Apache-2.0 */
/* Reads the chunks that all profiles share: MODL, PLAN and FLTB. */
#include "format/structure.h"
#include <string.h>

/* ---- MODL ------------------------------------------------------------------------------------ */

static void decode_geometry(bb_decoder *d, bb_geometry *g) {
    int32_t *const pairs[] = {g->kernel, g->stride, g->dilation, g->pad_begin, g->pad_end};
    for (size_t i = 0; i < BB_COUNT(pairs); i++)
        for (int axis = 0; axis < 2; axis++)
            pairs[i][axis] = bb_decode_u16(d);
    uint8_t flags = bb_decode_u8(d);
    if (flags & ~(BB_FLAG_CEIL | BB_FLAG_COUNT_PAD))
        bb_decode_fail(d, BB_STATUS_BAD_FILE, "a window has unknown flags");
    g->ceil_mode = flags & BB_FLAG_CEIL;
    g->count_include_pad = flags & BB_FLAG_COUNT_PAD;
}

/* Sizes only; the words follow in PLAN. Bounded here because memory is sized by them. */
static void decode_conv(bb_decoder *d, bb_model_node *node, bb_packing *packing) {
    decode_geometry(d, &node->geometry);
    node->groups = bb_decode_u32(d);
    bb_planes *planes = bb_decode_alloc(d, 1, sizeof(*planes));
    if (!planes)
        return;
    node->planes = planes;
    planes->rows = bb_decode_u32(d);
    planes->depth = bb_decode_u32(d);
    planes->taps = (uint32_t)(node->geometry.kernel[0] * node->geometry.kernel[1]); /* < 2^32 */
    planes->count = bb_decode_u8(d);
    uint64_t row = (uint64_t)planes->taps * planes->depth;
    if (planes->rows < 1 || planes->rows > BB_MAX_DIM || planes->taps > BB_MAX_TAPS || row < 1 ||
        row > BB_MAX_ROW || planes->count < 1 || planes->count > BB_MAX_PLANES) {
        bb_decode_fail(d, BB_STATUS_LIMIT, "a convolution has weights of an impossible size");
        return;
    }
    planes->row_words = (uint32_t)((row + 63) / 64);
    for (uint32_t p = 0; p < planes->count; p++)
        planes->weight[p] = (int16_t)bb_decode_u16(d);
    *packing = (bb_packing)bb_decode_u8(d);
    if (*packing != BB_PACKING_WORDS && *packing != BB_PACKING_TIGHT)
        bb_decode_fail(d, BB_STATUS_UNSUPPORTED, "weight planes are packed in an unknown way");
}

static void decode_float(bb_decoder *d, bb_model_node *node) {
    node->float_op = (bb_float_op)bb_decode_u8(d);
    node->alpha = bb_decode_f32(d);
    node->beta = bb_decode_f32(d);
    node->reason = bb_decode_string(d);
    if (node->reason[0] == '\0')
        node->reason = NULL;
    if (bb_float_has_window(node->float_op))
        decode_geometry(d, &node->geometry);
    if (node->float_op == BB_FLOAT_CONV)
        node->groups = bb_decode_u32(d);
    node->n_float_weights = bb_decode_u32(d);
    node->n_float_bias = bb_decode_u32(d);
}

static void decode_gather(bb_decoder *d, const bb_model *model, bb_model_node *node) {
    int out = node->n_out > 0 ? node->out[0] : -1;
    if (out < 0 || (size_t)out >= model->n_tensors) {
        bb_decode_fail(d, BB_STATUS_BAD_FILE, "a node has no such output");
        return;
    }
    const bb_model_tensor *t = &model->tensors[out];
    node->n_channel_index = (uint32_t)t->dims[t->rank - 1];
    node->channel_index = bb_decode_ints(d, node->n_channel_index, BB_INT_I32);
}

static void decode_node_body(bb_decoder *d, const bb_model *model, bb_model_node *node,
                             bb_packing *packing) {
    switch (node->kind) {
    case BB_NODE_CONV:
        decode_conv(d, node, packing);
        break;
    case BB_NODE_MAX_POOL:
    case BB_NODE_AVERAGE_POOL:
        decode_geometry(d, &node->geometry);
        break;
    case BB_NODE_GATHER_CHANNELS:
        decode_gather(d, model, node);
        break;
    case BB_NODE_RESIZE_NEAREST:
        node->resize_factor[0] = bb_decode_u16(d);
        node->resize_factor[1] = bb_decode_u16(d);
        break;
    case BB_NODE_FLOAT:
        decode_float(d, node);
        break;
    case BB_NODE_ADD:
    case BB_NODE_MUL:
    case BB_NODE_REQUANT:
    case BB_NODE_CONCAT:
    case BB_NODE_RESHAPE:
    case BB_NODE_QUANTIZE:
        break;
    default:
        bb_decode_fail(d, BB_STATUS_UNSUPPORTED, "a node is of an unknown kind");
    }
}

static void decode_node(bb_decoder *d, bb_model *model, bb_packing *packing) {
    int in[BB_MAX_NODE_INPUTS], out[BB_MAX_NODE_OUTPUTS];
    const char *name = bb_decode_string(d);
    bb_node_kind kind = (bb_node_kind)bb_decode_u8(d);
    int n_in = bb_decode_u8(d), n_out = bb_decode_u8(d);
    if (n_in > BB_MAX_NODE_INPUTS || n_out > BB_MAX_NODE_OUTPUTS) {
        bb_decode_fail(d, BB_STATUS_LIMIT, "a node has too many inputs or outputs");
        return;
    }
    for (int i = 0; i < n_in; i++)
        in[i] = bb_decode_u16(d);
    for (int i = 0; i < n_out; i++)
        out[i] = bb_decode_u16(d);
    if (!bb_decode_ok(d))
        return;
    bb_model_node *node = bb_model_add_node(model, name, kind, n_in, in, n_out, out);
    if (node)
        decode_node_body(d, model, node, packing);
    else
        bb_decode_fail(d, BB_STATUS_OUT_OF_MEMORY, "out of memory");
}

static void decode_tensor(bb_decoder *d, bb_model *model) {
    int64_t dims[BB_MODEL_MAX_RANK];
    const char *name = bb_decode_string(d);
    bb_tensor_kind kind = (bb_tensor_kind)bb_decode_u8(d);
    int rank = bb_decode_u8(d);
    if (rank != 2 && rank != 4) {
        bb_decode_fail(d, BB_STATUS_BAD_FILE, "a tensor has neither 2 nor 4 dimensions");
        return;
    }
    for (int i = 0; i < rank; i++)
        dims[i] = (int32_t)bb_decode_u32(d);
    /* Channels size the tables of a profile. */
    if (dims[rank - 1] < 1 || dims[rank - 1] > BB_MAX_DIM)
        bb_decode_fail(d, BB_STATUS_LIMIT, "a tensor has an impossible number of channels");
    if (bb_decode_ok(d) && bb_model_add_tensor(model, name, kind, rank, dims) < 0)
        bb_decode_fail(d, BB_STATUS_OUT_OF_MEMORY, "out of memory");
}

static void decode_indices(bb_decoder *d, bb_model *model, bool (*add)(bb_model *, int)) {
    size_t n = bb_decode_u16(d);
    for (size_t i = 0; i < n && bb_decode_ok(d); i++)
        if (!add(model, bb_decode_u16(d)))
            bb_decode_fail(d, BB_STATUS_OUT_OF_MEMORY, "out of memory");
}

void bb_decode_structure(bb_decoder *d, bb_model *model, bb_packing **packing) {
    model->name = bb_decode_string(d);
    model->float32_bytes = bb_decode_u64(d);
    size_t n_tensors = bb_decode_u16(d), n_nodes = bb_decode_u16(d);
    if (n_tensors > BB_MAX_TENSORS || n_nodes > BB_MAX_NODES)
        bb_decode_fail(d, BB_STATUS_LIMIT, "there are too many tensors or nodes");
    for (size_t i = 0; i < n_tensors && bb_decode_ok(d); i++)
        decode_tensor(d, model);
    decode_indices(d, model, bb_model_add_input);
    decode_indices(d, model, bb_model_add_output);
    *packing = bb_decode_alloc(d, n_nodes, sizeof(**packing));
    for (size_t i = 0; i < n_nodes && bb_decode_ok(d); i++)
        decode_node(d, model, *packing + i);
}

/* ---- PLAN ------------------------------------------------------------------------------------ */

static void copy_words(const uint8_t *src, uint64_t *dst, size_t n) {
    for (size_t i = 0; i < n; i++)
        dst[i] = bb_get_u64(src + 8 * i);
}

/* Rows joined without padding -> rows of whole words. */
static void loosen(const bb_planes *planes, const uint8_t *src, uint64_t *dst) {
    size_t row = (size_t)planes->taps * planes->depth, at = 0;
    for (size_t r = 0; r < planes->rows; r++, dst += planes->row_words)
        for (size_t j = 0; j < row; j++, at++)
            dst[j / 64] |= (uint64_t)(src[at / 8] >> (at % 8) & 1) << (j % 64);
}

/* In place where the file holds the words as memory does. */
static void place_words(bb_decoder *d, bb_planes *planes, const uint8_t *src, bb_packing packing) {
    size_t plane_words = (size_t)planes->rows * planes->row_words;
    if (packing == BB_PACKING_WORDS && bb_little_endian()) {
        planes->words = (const uint64_t *)(const void *)src; /* 64-byte aligned */
        return;
    }
    uint64_t *words = bb_decode_alloc(d, planes->count * plane_words, sizeof(*words));
    planes->words = words;
    size_t file_bytes = (size_t)bb_plane_file_words(planes, packing) * 8;
    for (uint32_t p = 0; p < planes->count && words; p++, src += file_bytes, words += plane_words) {
        if (packing == BB_PACKING_WORDS)
            copy_words(src, words, plane_words);
        else
            loosen(planes, src, words);
    }
}

static void decode_node_planes(bb_decoder *d, bb_planes *planes, bb_packing packing) {
    uint64_t bytes = planes->count * bb_plane_file_words(planes, packing) * 8; /* < 2^50 */
    bb_decode_bytes(d, bb_align_chunk(d->at) - d->at);
    if (bytes > SIZE_MAX)
        bb_decode_fail(d, BB_STATUS_LIMIT, "its planes do not fit this machine's memory");
    const uint8_t *src = bb_decode_bytes(d, (size_t)bytes);
    if (src)
        place_words(d, planes, src, packing);
}

void bb_decode_planes(bb_decoder *d, bb_model *model, const bb_packing *packing) {
    for (size_t i = 0; i < model->n_nodes && bb_decode_ok(d); i++)
        if (model->nodes[i].kind == BB_NODE_CONV)
            decode_node_planes(d, (bb_planes *)(uintptr_t)model->nodes[i].planes, packing[i]);
}

/* ---- FLTB ------------------------------------------------------------------------------------ */

static const float *decode_table(bb_decoder *d, uint32_t n) {
    if (n == 0)
        return NULL;
    if (!bb_little_endian())
        return bb_decode_floats(d, n);
    const uint8_t *src = bb_decode_bytes(d, (size_t)n * sizeof(float));
    return (const float *)(const void *)src; /* 4-byte aligned: only floats come before */
}

void bb_decode_float_tables(bb_decoder *d, bb_model *model) {
    for (size_t i = 0; i < model->n_nodes && bb_decode_ok(d); i++) {
        bb_model_node *node = &model->nodes[i];
        node->float_weights = decode_table(d, node->n_float_weights);
        node->float_bias = decode_table(d, node->n_float_bias);
    }
}
