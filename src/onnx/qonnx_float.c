/* SPDX-License-Identifier: Apache-2.0 */
/* Float layers of a model as the ONNX operators they came from. */
#include "onnx/qonnx.h"
#include <math.h>

static bb_status float_conv(bb_qonnx *x, const bb_model_node *node) {
    bool image = bb_qx_is_image(x, node->in[0]);
    uint32_t rows = bb_qx_channels_of(x, node->out[0]);
    uint32_t taps = image ? (uint32_t)(node->geometry.kernel[0] * node->geometry.kernel[1]) : 1;
    uint32_t depth = node->n_float_weights / rows / taps;
    float *w = bb_arena_array(x->arena, node->n_float_weights, sizeof(*w));
    if (!w)
        return bb_fail_memory(x->err, "weights");
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t t = 0; t < taps; t++)
            for (uint32_t i = 0; i < depth; i++)
                w[((size_t)r * depth + i) * taps + t] =
                    node->float_weights[((size_t)r * taps + t) * depth + i];
    int64_t dims[4] = {rows, depth, node->geometry.kernel[0], node->geometry.kernel[1]};
    int64_t bias_dims[1] = {rows};
    const char *in[3] = {x->name[node->in[0]],
                         bb_onnx_floats(x->w, "weights", w, image ? 4 : 2, dims), NULL};
    int n_in = 2;
    if (node->n_float_bias)
        in[n_in++] = bb_onnx_floats(x->w, "bias", node->float_bias, 1, bias_dims);
    const char *out = bb_qx_conv_node(x, node, n_in, in);
    x->name[node->out[0]] = image && !bb_qx_is_image(x, node->out[0]) ? bb_qx_flatten(x, out) : out;
    return BB_STATUS_OK;
}

static const char *float_clip(bb_qonnx *x, const bb_model_node *node) {
    const char *in[3] = {x->name[node->in[0]], "", ""};
    if (node->alpha == 0 && isinf(node->beta))
        return bb_qx_node1(x, "Relu", in[0]);
    if (isfinite(node->alpha))
        in[1] = bb_onnx_float(x->w, "low", node->alpha);
    if (isfinite(node->beta))
        in[2] = bb_onnx_float(x->w, "high", node->beta);
    return bb_onnx_node(x->w, "Clip", isfinite(node->beta) ? 3 : 2, in, NULL);
}

static const char *float_leaky(bb_qonnx *x, const bb_model_node *node) {
    if (node->n_float_weights)
        return bb_qx_node2(x, "PRelu", x->name[node->in[0]],
                           bb_qx_channel_floats(x, node->in[0], "slopes", node->float_weights,
                                                node->n_float_weights));
    const char *out = bb_qx_node1(x, "LeakyRelu", x->name[node->in[0]]);
    bb_onnx_set_float(x->w, "alpha", node->alpha);
    return out;
}

static const char *float_pool(bb_qonnx *x, const bb_model_node *node) {
    bool max = node->float_op == BB_FLOAT_MAX_POOL;
    if (max)
        return bb_qx_max_pool(x, node);
    if (node->geometry.kernel[0] == 0)
        return bb_qx_node1(x, "GlobalAveragePool", x->name[node->in[0]]);
    const char *out = bb_qx_node1(x, "AveragePool", x->name[node->in[0]]);
    bb_qx_set_window(x, &node->geometry);
    bb_onnx_set_int(x->w, "count_include_pad", node->geometry.count_include_pad);
    if (node->geometry.ceil_mode)
        bb_onnx_set_int(x->w, "ceil_mode", 1);
    return out;
}

static const char *float_affine(bb_qonnx *x, const bb_model_node *node) {
    const char *y = bb_qx_node2(
        x, "Mul", x->name[node->in[0]],
        bb_qx_channel_floats(x, node->in[0], "scale", node->float_weights, node->n_float_weights));
    if (!node->n_float_bias)
        return y;
    return bb_qx_node2(
        x, "Add", y,
        bb_qx_channel_floats(x, node->in[0], "bias", node->float_bias, node->n_float_bias));
}

static const char *float_hard_sigmoid(bb_qonnx *x, const bb_model_node *node) {
    const char *out = bb_qx_node1(x, "HardSigmoid", x->name[node->in[0]]);
    bb_onnx_set_float(x->w, "alpha", node->alpha);
    bb_onnx_set_float(x->w, "beta", node->beta);
    return out;
}

/* HardSwish came with opset 14: its definition in older operators. */
static const char *float_hard_swish(bb_qonnx *x, const bb_model_node *node) {
    const char *gate = bb_qx_node1(x, "HardSigmoid", x->name[node->in[0]]);
    bb_onnx_set_float(x->w, "alpha", 1.0f / 6);
    bb_onnx_set_float(x->w, "beta", 0.5f);
    return bb_qx_node2(x, "Mul", x->name[node->in[0]], gate);
}

static const char *float_softmax(bb_qonnx *x, const bb_model_node *node) {
    const char *out = bb_qx_node1(x, "Softmax", x->name[node->in[0]]);
    bb_onnx_set_int(x->w, "axis", 1);
    return out;
}

bb_status bb_qx_float_node(bb_qonnx *x, const bb_model_node *node) {
    const char *first = x->name[node->in[0]], *out = NULL;
    const char *second = node->n_in > 1 ? x->name[node->in[1]] : NULL;
    switch (node->float_op) {
    case BB_FLOAT_CONV:
        return float_conv(x, node);
    case BB_FLOAT_ADD:
        out = bb_qx_node2(x, "Add", first, second);
        break;
    case BB_FLOAT_MUL:
        out = bb_qx_node2(x, "Mul", first, second);
        break;
    case BB_FLOAT_RELU:
        out = float_clip(x, node);
        break;
    case BB_FLOAT_LEAKY_RELU:
        out = float_leaky(x, node);
        break;
    case BB_FLOAT_SIGMOID:
        out = bb_qx_node1(x, "Sigmoid", first);
        break;
    case BB_FLOAT_HARD_SIGMOID:
        out = float_hard_sigmoid(x, node);
        break;
    case BB_FLOAT_HARD_SWISH:
        out = float_hard_swish(x, node);
        break;
    case BB_FLOAT_SILU:
        out = bb_qx_node2(x, "Mul", first, bb_qx_node1(x, "Sigmoid", first));
        break;
    case BB_FLOAT_TANH:
        out = bb_qx_node1(x, "Tanh", first);
        break;
    case BB_FLOAT_SOFTMAX:
        out = float_softmax(x, node);
        break;
    case BB_FLOAT_MAX_POOL:
    case BB_FLOAT_AVERAGE_POOL:
        out = float_pool(x, node);
        break;
    case BB_FLOAT_CONCAT:
        out = bb_qx_concat(x, node);
        break;
    case BB_FLOAT_RESHAPE:
        out = bb_qx_reshape(x, node);
        break;
    case BB_FLOAT_AFFINE:
        out = float_affine(x, node);
        break;
    }
    x->name[node->out[0]] = out;
    return BB_STATUS_OK;
}
