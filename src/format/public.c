/* SPDX-License-Identifier: Apache-2.0 */
/* The functions of bitbranch/model.h. */
#include "format/format.h"
#include <string.h>

bb_status bb_model_load(const char *path, bb_model **model, bb_error *err) {
    bb_file file;
    BB_TRY(bb_file_open(path, &file, err));
    return bb_format_read(&file, path, model, err);
}

bb_status bb_model_load_buffer(const void *data, size_t size, bb_model **model, bb_error *err) {
    uint8_t *copy = bb_alloc(size);
    if (!copy)
        return bb_fail_memory(err, "the model");
    if (size)
        memcpy(copy, data, size);
    bb_file file = {copy, size, false};
    return bb_format_read(&file, "model", model, err);
}

bb_status bb_model_save(const bb_model *model, const char *path, bb_error *err) {
    bb_buffer bytes;
    BB_TRY(bb_error_prefix(err, bb_format_write(model, &bytes, err), "%s", path));
    bb_status status = bb_file_write(path, bytes.data, bytes.size, err);
    bb_buffer_free(&bytes);
    return status;
}

bb_status bb_model_truncate(const bb_model *model, size_t profile, bb_model **result,
                            bb_error *err) {
    return bb_format_truncate(model, profile, result, err);
}

/* ---- info ------------------------------------------------------------------------------------ */

void bb_model_info_init(bb_model_info *info) {
    *info = (bb_model_info){.struct_size = sizeof(*info)};
}

/* Shapes at the file's input size; shapes->n is 0 where the file leaves it open. */
static bb_status default_shapes(const bb_model *model, bb_shapes *shapes, bb_error *err) {
    bb_status status = bb_model_bind(model, NULL, shapes, err);
    if (status == BB_STATUS_INVALID_ARGUMENT) {
        *shapes = (bb_shapes){0};
        return BB_STATUS_OK;
    }
    return status;
}

static bb_status count_macs(const bb_model *model, bb_model_info *info, bb_error *err) {
    bb_shapes shapes;
    BB_TRY(default_shapes(model, &shapes, err));
    for (size_t i = 0; i < model->n_nodes && shapes.n > 0; i++) {
        uint64_t macs = bb_node_macs(model, &model->nodes[i], &shapes);
        info->macs += macs;
        info->integer_macs += model->nodes[i].kind == BB_NODE_CONV ? macs : 0;
    }
    bb_shapes_free(&shapes);
    return BB_STATUS_OK;
}

bb_status bb_model_get_info(const bb_model *model, bb_model_info *info, bb_error *err) {
    if (info->struct_size < sizeof(*info))
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "call bb_model_info_init first");
    bb_format_sizes sizes;
    BB_TRY(bb_format_measure(model, &sizes, err));
    size_t struct_size = info->struct_size;
    *info = (bb_model_info){
        .struct_size = struct_size,
        .name = model->name,
        .layers = model->n_nodes,
        .profiles = model->n_profiles,
        .inputs = model->n_inputs,
        .outputs = model->n_outputs,
        .file_bytes = sizes.total,
        .plane_bytes = sizes.planes,
        .constant_bytes = sizes.constants,
        .other_bytes = sizes.structure + sizes.metadata,
        .float32_bytes = model->float32_bytes,
        .config_json = model->config_json,
        .labels = model->labels,
    };
    return count_macs(model, info, err);
}

/* ---- profiles -------------------------------------------------------------------------------- */

static bb_status check_profile(const bb_model *model, size_t index, bb_error *err) {
    if (index >= model->n_profiles)
        return bb_fail(err, BB_STATUS_NOT_FOUND, "profile %zu does not exist; there are %zu", index,
                       model->n_profiles);
    return BB_STATUS_OK;
}

bb_status bb_model_get_profile(const bb_model *model, size_t index, bb_profile_info *info,
                               bb_error *err) {
    BB_TRY(check_profile(model, index, err));
    const bb_profile *p = &model->profiles[index];
    *info = (bb_profile_info){p->name, p->weight_bits, p->activation_bits};
    return BB_STATUS_OK;
}

bb_status bb_model_select_profile(const bb_model *model, uint32_t weight_bits,
                                  uint32_t activation_bits, size_t *index, bb_error *err) {
    return bb_model_find_profile(model, weight_bits, activation_bits, index, err);
}

/* ---- layers ---------------------------------------------------------------------------------- */

static const char *conv_kind(const bb_model *model, const bb_model_node *node) {
    if (model->tensors[node->in[0]].rank == 2)
        return "fully_connected";
    bool depthwise = node->groups > 1 && node->planes->depth == 1;
    return depthwise ? "depthwise" : node->groups > 1 ? "grouped_conv" : "conv";
}

static const char *float_kind(bb_float_op op) {
    static const char *const names[] = {
        [BB_FLOAT_CONV] = "float conv",
        [BB_FLOAT_ADD] = "float add",
        [BB_FLOAT_MUL] = "float mul",
        [BB_FLOAT_RELU] = "float clip",
        [BB_FLOAT_LEAKY_RELU] = "float leaky_relu",
        [BB_FLOAT_SIGMOID] = "float sigmoid",
        [BB_FLOAT_HARD_SIGMOID] = "float hard_sigmoid",
        [BB_FLOAT_HARD_SWISH] = "float hard_swish",
        [BB_FLOAT_SILU] = "float silu",
        [BB_FLOAT_TANH] = "float tanh",
        [BB_FLOAT_SOFTMAX] = "float softmax",
        [BB_FLOAT_MAX_POOL] = "float max_pool",
        [BB_FLOAT_AVERAGE_POOL] = "float average_pool",
        [BB_FLOAT_CONCAT] = "float concat",
        [BB_FLOAT_RESHAPE] = "float reshape",
        [BB_FLOAT_AFFINE] = "float affine",
    };
    return names[op];
}

static const char *kind_name(const bb_model *model, const bb_model_node *node) {
    static const char *const names[] = {
        [BB_NODE_ADD] = "add",
        [BB_NODE_MUL] = "mul",
        [BB_NODE_REQUANT] = "requant",
        [BB_NODE_CONCAT] = "concat",
        [BB_NODE_MAX_POOL] = "max_pool",
        [BB_NODE_AVERAGE_POOL] = "average_pool",
        [BB_NODE_GATHER_CHANNELS] = "channels",
        [BB_NODE_RESHAPE] = "reshape",
        [BB_NODE_RESIZE_NEAREST] = "resize",
        [BB_NODE_QUANTIZE] = "quantize",
    };
    if (node->kind == BB_NODE_CONV)
        return conv_kind(model, node);
    return node->kind == BB_NODE_FLOAT ? float_kind(node->float_op) : names[node->kind];
}

static uint32_t tensor_bits(const bb_model *model, const bb_profile *profile, int tensor) {
    return model->tensors[tensor].kind == BB_TENSOR_FLOAT ? 32 : profile->tensors[tensor].bits;
}

static uint64_t weight_bytes(const bb_model_node *node, uint32_t bits) {
    if (node->kind == BB_NODE_FLOAT)
        return 4 * ((uint64_t)node->n_float_weights + node->n_float_bias);
    if (node->kind != BB_NODE_CONV)
        return 0;
    const bb_planes *planes = node->planes; /* rows * row <= 2^44 */
    return ((uint64_t)planes->rows * planes->taps * planes->depth * bits + 7) / 8;
}

static void describe(const bb_model *model, const bb_profile *profile, size_t layer,
                     const bb_shapes *shapes, bb_layer_info *info) {
    const bb_model_node *node = &model->nodes[layer];
    bool conv = node->kind == BB_NODE_CONV;
    bool weights = conv || (node->kind == BB_NODE_FLOAT && node->float_op == BB_FLOAT_CONV);
    *info = (bb_layer_info){
        .name = node->name,
        .kind = kind_name(model, node),
        .weight_bits = conv      ? profile->convs[layer].planes
                       : weights ? 32
                                 : 0,
        .input_bits = tensor_bits(model, profile, node->in[0]),
        .output_bits = tensor_bits(model, profile, node->out[0]),
        .kernel = {node->geometry.kernel[0], node->geometry.kernel[1]},
        .float_reason = node->reason,
    };
    info->weight_bytes = weight_bytes(node, info->weight_bits);
    if (shapes->n == 0)
        return;
    memcpy(info->out_dims, shapes->dims[node->out[0]], sizeof(info->out_dims));
    info->macs = bb_node_macs(model, node, shapes);
    info->bops = info->macs * info->weight_bits * info->input_bits;
}

bb_status bb_model_get_layer(const bb_model *model, size_t profile, size_t layer,
                             bb_layer_info *info, bb_error *err) {
    BB_TRY(check_profile(model, profile, err));
    if (layer >= model->n_nodes)
        return bb_fail(err, BB_STATUS_NOT_FOUND, "layer %zu does not exist; there are %zu", layer,
                       model->n_nodes);
    bb_shapes shapes;
    BB_TRY(default_shapes(model, &shapes, err));
    describe(model, &model->profiles[profile], layer, &shapes, info);
    bb_shapes_free(&shapes);
    return BB_STATUS_OK;
}
