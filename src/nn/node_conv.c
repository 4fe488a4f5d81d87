/* SPDX-License-Identifier: Apache-2.0 */
/* Conv and ConvTranspose of f32 tensors, with what can be fused into them. */
#include "nn/program.h"
#include <math.h>
#include <string.h>

typedef struct conv_plan {
    bb_dn_conv conv;
    bb_nn_chain chain;
    const bb_dn_layout *weights; /* of the ONNX weights, seen through oneDNN's order of axes */
    bb_dn_op *op;
} conv_plan;

/* Multiplier and offset per output channel of a BatchNormalization that is folded away. */
static void norm_factors(bb_executor *ex, const bb_node *norm, int64_t channels, double *scale,
                         double *shift) {
    const float *gamma = bb_nn_fixed_f32(ex, norm, 1), *beta = bb_nn_fixed_f32(ex, norm, 2);
    const float *mean = bb_nn_fixed_f32(ex, norm, 3), *var = bb_nn_fixed_f32(ex, norm, 4);
    double epsilon = (double)bb_node_float(norm, "epsilon", 1e-5f);
    for (int64_t c = 0; c < channels; c++) {
        scale[c] = (double)gamma[c] / sqrt((double)var[c] + epsilon);
        shift[c] = (double)beta[c] - (double)mean[c] * scale[c];
    }
}

bb_status bb_nn_conv_geometry(bb_executor *ex, const bb_node *node, bb_dn_conv *conv,
                              bb_error *err) {
    const bb_nn_tensor *x = bb_nn_input(ex, node, 0), *w = bb_nn_input(ex, node, 1);
    *conv = (bb_dn_conv){0};
    conv->transposed = node->op == BB_OP_CONV_TRANSPOSE;
    conv->rank = x->rank;
    if (x->dtype != BB_DTYPE_F32 || w->dtype != BB_DTYPE_F32)
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "convolution of %s is not supported",
                       bb_dtype_name(x->dtype));
    if (x->rank < 3 || x->rank > 4 || w->rank != x->rank)
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "only 1-D and 2-D convolutions are supported");
    int64_t groups = bb_node_int(node, "group", 1);
    int64_t outputs = conv->transposed ? w->dims[1] * groups : w->dims[0];
    int64_t inputs = conv->transposed ? w->dims[0] : w->dims[1] * groups;
    if (groups < 1 || groups > INT32_MAX || inputs != x->dims[1] || outputs % groups != 0 ||
        inputs % groups != 0)
        return bb_fail(err, BB_STATUS_BAD_FILE,
                       "weights for %lld input channels in %lld groups meet %lld channels",
                       (long long)inputs, (long long)groups, (long long)x->dims[1]);
    conv->groups = (int)groups;
    bb_window window;
    BB_TRY(bb_node_window(ex->graph, node, x->dims, x->rank, &window, err));
    memcpy(conv->src, x->dims, sizeof(x->dims));
    conv->dst[0] = x->dims[0];
    conv->dst[1] = outputs;
    for (int i = 0; i < x->rank - 2; i++) {
        int from = i + 4 - x->rank; /* 1-D windows sit in the second entry */
        conv->kernel[i] = window.kernel[from];
        conv->stride[i] = window.stride[from];
        conv->dilation[i] = window.dilation[from];
        conv->pad_begin[i] = window.pad_begin[from];
        conv->pad_end[i] = window.pad_end[from];
        conv->dst[2 + i] = window.out[from];
        if (conv->kernel[i] != w->dims[2 + i])
            return bb_fail(err, BB_STATUS_BAD_FILE, "kernel_shape differs from the weights");
    }
    return BB_STATUS_OK;
}

/* ONNX orders weights O, I/g, k... (Conv) or I, O/g, k... (ConvTranspose). */
const bb_dn_layout *bb_nn_conv_weights(bb_executor *ex, const bb_dn_conv *conv) {
    int64_t dims[BB_DN_MAX_RANK], strides[BB_DN_MAX_RANK];
    int64_t out = conv->dst[1] / conv->groups, in = conv->src[1] / conv->groups, taps = 1;
    int n = 0, spatial = conv->rank - 2;
    for (int i = 0; i < spatial; i++)
        taps *= conv->kernel[i];
    if (conv->groups > 1) {
        dims[n] = conv->groups;
        strides[n++] = out * in * taps;
    }
    dims[n] = out;
    strides[n++] = conv->transposed ? taps : in * taps;
    dims[n] = in;
    strides[n++] = conv->transposed ? out * taps : taps;
    for (int i = 0; i < spatial; i++) {
        taps /= conv->kernel[i];
        dims[n] = conv->kernel[i];
        strides[n++] = taps;
    }
    return bb_dn_strided(ex->dn, n, dims, strides);
}

/* Weights times the norm's factor per output channel, in ONNX order; arena memory. */
static const float *scaled_weights(bb_executor *ex, const bb_nn_tensor *w, const bb_dn_conv *conv,
                                   const double *scale) {
    const float *from = w->fixed;
    float *to = bb_arena_array(ex->arena, w->elements, sizeof(*to));
    if (!to)
        return NULL;
    size_t out = (size_t)(conv->dst[1] / conv->groups), taps = 1;
    for (int i = 0; i < conv->rank - 2; i++)
        taps *= (size_t)conv->kernel[i];
    size_t in = w->elements / ((size_t)conv->dst[1] * taps);
    for (size_t i = 0; i < w->elements; i++) {
        size_t k = i / taps;
        size_t channel = conv->transposed ? k / (in * out) * out + k % out : k / in;
        to[i] = (float)((double)from[i] * scale[channel]);
    }
    return to;
}

static bb_status weights_arg(bb_executor *ex, const bb_node *node, const conv_plan *plan,
                             const double *scale, int *buffer, bb_error *err) {
    const bb_nn_tensor *w = bb_nn_input(ex, node, 1);
    const bb_dn_layout *wanted = bb_dn_op_layout(ex->dn, plan->op, BB_DN_WEIGHTS);
    if (!wanted || !plan->weights)
        return bb_fail_memory(err, "convolution");
    if (!w->fixed) {
        int plain;
        BB_TRY(bb_nn_in_plain(ex, node->in[1], &plain, err));
        BB_TRY(bb_nn_new_buffer(ex, bb_dn_bytes(wanted), buffer, err));
        return bb_nn_emit_reorder(ex, plan->weights, plain, wanted, *buffer, err);
    }
    const float *from = scale ? scaled_weights(ex, w, &plan->conv, scale) : w->fixed;
    void *packed;
    if (!from)
        return bb_fail_memory(err, "convolution");
    BB_TRY(bb_nn_keep(ex, bb_dn_bytes(wanted), &packed, buffer, err));
    return bb_dn_convert(ex->dn, plan->weights, from, wanted, packed, err);
}

static bb_status bias_arg(bb_executor *ex, const bb_node *node, const conv_plan *plan,
                          const double *scale, const double *shift, int *buffer, bb_error *err) {
    const float *bias = bb_nn_fixed_f32(ex, node, 2);
    if (!scale)
        return bb_nn_in_plain(ex, node->in[2], buffer, err);
    void *data;
    BB_TRY(bb_nn_keep(ex, (size_t)plan->conv.dst[1] * sizeof(float), &data, buffer, err));
    for (int64_t c = 0; c < plan->conv.dst[1]; c++)
        ((float *)data)[c] = (float)((bias ? (double)bias[c] * scale[c] : 0.0) + shift[c]);
    return BB_STATUS_OK;
}

/* The destination already holds the tensor that a sum adds: its own buffer where this is the
 * last reader, a copy otherwise. */
static bb_status sum_arg(bb_executor *ex, int value, const bb_dn_layout *layout, int *buffer,
                         bb_error *err) {
    int have;
    BB_TRY(bb_nn_in_layout(ex, value, layout, &have, err));
    *buffer = have;
    if (bb_nn_may_overwrite(ex, have))
        return BB_STATUS_OK;
    BB_TRY(bb_nn_new_buffer(ex, bb_dn_bytes(layout), buffer, err));
    return bb_nn_emit_reorder(ex, layout, have, layout, *buffer, err);
}

static bb_status emit_conv(bb_executor *ex, const bb_node *node, const conv_plan *plan,
                           const double *scale, const double *shift, bb_error *err) {
    const bb_dn_layout *src = bb_dn_op_layout(ex->dn, plan->op, BB_DN_SRC);
    const bb_dn_layout *dst = bb_dn_op_layout(ex->dn, plan->op, BB_DN_DST);
    if (!src || !dst)
        return bb_fail_memory(err, "convolution");
    bb_nn_arg args[4] = {{0, BB_DN_SRC}, {0, BB_DN_WEIGHTS}, {0, BB_DN_DST}, {0, BB_DN_BIAS}};
    BB_TRY(bb_nn_in_layout(ex, node->in[0], src, &args[0].buffer, err));
    BB_TRY(weights_arg(ex, node, plan, scale, &args[1].buffer, err));
    if (plan->conv.bias)
        BB_TRY(bias_arg(ex, node, plan, scale, shift, &args[3].buffer, err));
    if (plan->chain.sum >= 0)
        BB_TRY(sum_arg(ex, plan->chain.sum, dst, &args[2].buffer, err));
    else
        BB_TRY(bb_nn_new_buffer(ex, bb_dn_bytes(dst), &args[2].buffer, err));
    BB_TRY(bb_nn_emit_op(ex, node, plan->op, args, plan->conv.bias ? 4 : 3, err));
    BB_TRY(bb_nn_define(ex, plan->chain.value, BB_DTYPE_F32, plan->conv.rank, plan->conv.dst, err));
    BB_TRY(bb_nn_store(ex, plan->chain.value, dst, args[2].buffer, err));
    bb_nn_consume_chain(ex, &plan->chain);
    return BB_STATUS_OK;
}

static bb_status make_op(bb_executor *ex, conv_plan *plan, bb_error *err) {
    bb_dn_op *op = NULL;
    BB_TRY(bb_dn_make_conv(ex->dn, &plan->conv, &plan->chain.posts, &plan->op, err));
    if (ex->bf16)
        BB_TRY(bb_dn_make_conv_bf16(ex->dn, &plan->conv, BB_DN_FORWARD, plan->op,
                                    &plan->chain.posts, &op, err));
    plan->op = op ? op : plan->op;
    return BB_STATUS_OK;
}

bb_status bb_nn_build_conv(bb_executor *ex, const bb_node *node, bb_error *err) {
    conv_plan plan = {0};
    BB_TRY(bb_nn_conv_geometry(ex, node, &plan.conv, err));
    const bb_nn_tensor *w = bb_nn_input(ex, node, 1), *bias = bb_nn_input(ex, node, 2);
    if (bias && (bias->dtype != BB_DTYPE_F32 || (int64_t)bias->elements != plan.conv.dst[1]))
        return bb_fail(err, BB_STATUS_BAD_FILE, "bias does not have one value per channel");
    bool foldable = w->fixed && (!bias || bias->fixed);
    bb_nn_collect(ex, node->out[0], plan.conv.rank, plan.conv.dst, foldable, true, &plan.chain);
    plan.conv.bias = bias || plan.chain.norm;
    plan.weights = bb_nn_conv_weights(ex, &plan.conv);
    BB_TRY(make_op(ex, &plan, err));
    if (!plan.chain.norm)
        return emit_conv(ex, node, &plan, NULL, NULL, err);
    int64_t channels = plan.conv.dst[1];
    double *factors = bb_alloc_array((size_t)channels, 2 * sizeof(*factors));
    if (!factors)
        return bb_fail_memory(err, "convolution");
    norm_factors(ex, plan.chain.norm, channels, factors, factors + channels);
    bb_status status = emit_conv(ex, node, &plan, factors, factors + channels, err);
    bb_free(factors);
    return status;
}
