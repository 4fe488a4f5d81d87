/* SPDX-License-Identifier: Apache-2.0 */
/* Conv and ConvTranspose. Weights are turned from their row-major master once per pass that
 * reads them: oneDNN orders them differently in the forward and in the backward pass.
 *
 * In a bf16 program the values, gradients and master weights stay in f32; an operation that oneDNN
 * can do fast in bf16 reads rounded copies of its operands, which reorders make on demand and later
 * readers share, and sums in f32. */
#include "nn/gradient_internal.h"

typedef struct conv_state {
    bb_dn_conv conv;
    const bb_dn_layout *weights; /* of the ONNX weights, seen through oneDNN's order of axes */
    bb_dn_op *forward;           /* in f32: the backward passes keep to its layouts */
} conv_state;

/* The bf16 form of a pass, or NULL. */
static bb_status bf16_op(bb_gradient *g, const bb_dn_conv *conv, const conv_state *s,
                         bb_dn_pass pass, bb_dn_op **op, bb_error *err) {
    *op = NULL;
    return g->ex->bf16 ? bb_dn_make_conv_bf16(g->ex->dn, conv, pass, s->forward, NULL, op, err)
                       : BB_STATUS_OK;
}

/* The weights in the layout an operation wants; turned while building where they are constant. */
static bb_status weights_arg(bb_gradient *g, const bb_node *node, const conv_state *s, bb_dn_op *op,
                             int *buffer, bb_error *err) {
    bb_executor *ex = g->ex;
    const bb_nn_tensor *w = bb_nn_input(ex, node, 1);
    const bb_dn_layout *wanted = bb_dn_op_layout(ex->dn, op, BB_DN_WEIGHTS);
    void *packed;
    int plain;
    if (!wanted)
        return bb_fail_memory(err, "convolution");
    if (w->fixed) {
        BB_TRY(bb_nn_keep(ex, bb_dn_bytes(wanted), &packed, buffer, err));
        return bb_dn_convert(ex->dn, s->weights, w->fixed, wanted, packed, err);
    }
    BB_TRY(bb_nn_in_plain(ex, node->in[1], &plain, err));
    BB_TRY(bb_nn_new_buffer(ex, bb_dn_bytes(wanted), buffer, err));
    return bb_nn_emit_reorder(ex, s->weights, plain, wanted, *buffer, err);
}

/* The input in the layout of an operation. */
static bb_status source_arg(bb_gradient *g, const bb_node *node, bb_dn_op *op, int *buffer,
                            bb_error *err) {
    const bb_dn_layout *wanted = bb_dn_op_layout(g->ex->dn, op, BB_DN_SRC);
    if (!wanted)
        return bb_fail_memory(err, "convolution");
    return bb_nn_in_layout(g->ex, node->in[0], wanted, buffer, err);
}

/* dy in the forms that have been read: f32 as it came, and one more. */
typedef struct gradient_in {
    const bb_dn_layout *layout[2];
    int buffer[2];
} gradient_in;

static bb_status diff_dst_arg(bb_gradient *g, gradient_in *dy, bb_dn_op *op, int *buffer,
                              bb_error *err) {
    const bb_dn_layout *wanted = bb_dn_op_layout(g->ex->dn, op, BB_DN_DIFF_DST);
    if (!wanted)
        return bb_fail_memory(err, "convolution");
    for (int i = 0; i < 2; i++) {
        *buffer = dy->buffer[i];
        if (dy->layout[i] && bb_dn_same(wanted, dy->layout[i]))
            return BB_STATUS_OK;
    }
    BB_TRY(bb_nn_new_buffer(g->ex, bb_dn_bytes(wanted), buffer, err));
    dy->layout[1] = wanted;
    dy->buffer[1] = *buffer;
    return bb_nn_emit_reorder(g->ex, dy->layout[0], dy->buffer[0], wanted, *buffer, err);
}

static bb_status weights_backward(bb_gradient *g, const bb_node *node, const conv_state *s,
                                  gradient_in *dy, bb_error *err) {
    bb_executor *ex = g->ex;
    bb_dn_conv conv = s->conv;
    bb_dn_op *op;
    conv.bias = bb_grad_wants(g, node, 2);
    BB_TRY(bf16_op(g, &conv, s, BB_DN_BACKWARD_WEIGHTS, &op, err));
    if (!op)
        BB_TRY(bb_dn_make_conv_weights(ex->dn, &conv, s->forward, &op, err));
    const bb_dn_layout *layout = bb_dn_op_layout(ex->dn, op, BB_DN_DIFF_WEIGHTS);
    bb_nn_arg args[4] = {
        {0, BB_DN_SRC}, {0, BB_DN_DIFF_DST}, {0, BB_DN_DIFF_WEIGHTS}, {0, BB_DN_DIFF_BIAS}};
    if (!layout)
        return bb_fail_memory(err, "convolution");
    BB_TRY(source_arg(g, node, op, &args[0].buffer, err));
    BB_TRY(diff_dst_arg(g, dy, op, &args[1].buffer, err));
    BB_TRY(bb_nn_new_buffer(ex, bb_dn_bytes(layout), &args[2].buffer, err));
    if (conv.bias)
        BB_TRY(bb_grad_target(g, node->in[2], &args[3].buffer, err));
    BB_TRY(bb_nn_emit_op(ex, node, op, args, conv.bias ? 4 : 3, err));
    if (conv.bias)
        BB_TRY(bb_grad_add(g, node->in[2], NULL, args[3].buffer, err));
    if (!bb_grad_wants(g, node, 1))
        return BB_STATUS_OK;
    int plain;
    BB_TRY(bb_grad_target(g, node->in[1], &plain, err));
    BB_TRY(bb_nn_emit_reorder(ex, layout, args[2].buffer, s->weights, plain, err));
    return bb_grad_add(g, node->in[1], NULL, plain, err);
}

static bb_status data_backward(bb_gradient *g, const bb_node *node, const conv_state *s,
                               gradient_in *dy, bb_error *err) {
    bb_executor *ex = g->ex;
    bb_dn_op *op;
    BB_TRY(bf16_op(g, &s->conv, s, BB_DN_BACKWARD_DATA, &op, err));
    if (!op)
        BB_TRY(bb_dn_make_conv_data(ex->dn, &s->conv, s->forward, &op, err));
    const bb_dn_layout *layout = bb_dn_op_layout(ex->dn, op, BB_DN_DIFF_SRC);
    bb_nn_arg args[3] = {{0, BB_DN_WEIGHTS}, {0, BB_DN_DIFF_DST}, {0, BB_DN_DIFF_SRC}};
    if (!layout)
        return bb_fail_memory(err, "convolution");
    BB_TRY(weights_arg(g, node, s, op, &args[0].buffer, err));
    BB_TRY(diff_dst_arg(g, dy, op, &args[1].buffer, err));
    BB_TRY(bb_nn_new_buffer(ex, bb_dn_bytes(layout), &args[2].buffer, err));
    BB_TRY(bb_nn_emit_op(ex, node, op, args, 3, err));
    return bb_grad_add(g, node->in[0], layout, args[2].buffer, err);
}

static bb_status backward(bb_gradient *g, const bb_grad_entry *entry, bb_error *err) {
    const conv_state *s = entry->state;
    const bb_node *node = entry->node;
    gradient_in dy = {{bb_dn_op_layout(g->ex->dn, s->forward, BB_DN_DST), NULL}, {0, 0}};
    if (!dy.layout[0])
        return bb_fail_memory(err, "convolution");
    BB_TRY(bb_grad_read(g, node->out[0], dy.layout[0], &dy.buffer[0], NULL, err));
    if (dy.buffer[0] < 0)
        return BB_STATUS_OK;
    if (bb_grad_wants(g, node, 1) || bb_grad_wants(g, node, 2))
        BB_TRY(weights_backward(g, node, s, &dy, err));
    return bb_grad_wants(g, node, 0) ? data_backward(g, node, s, &dy, err) : BB_STATUS_OK;
}

bb_status bb_grad_build_conv(bb_gradient *g, const bb_node *node, bb_error *err) {
    bb_executor *ex = g->ex;
    conv_state *s = bb_grad_alloc(g, 1, sizeof(*s));
    if (!s)
        return bb_fail_memory(err, "convolution");
    BB_TRY(bb_nn_conv_geometry(ex, node, &s->conv, err));
    const bb_nn_tensor *bias = bb_nn_input(ex, node, 2);
    if (bias && (bias->dtype != BB_DTYPE_F32 || (int64_t)bias->elements != s->conv.dst[1]))
        return bb_fail(err, BB_STATUS_BAD_FILE, "bias does not have one value per channel");
    s->conv.bias = bias != NULL;
    s->weights = bb_nn_conv_weights(ex, &s->conv);
    BB_TRY(bb_dn_make_conv_training(ex->dn, &s->conv, &s->forward, err));
    bb_dn_op *op;
    BB_TRY(bf16_op(g, &s->conv, s, BB_DN_FORWARD, &op, err));
    if (!op)
        op = s->forward;
    const bb_dn_layout *dst = bb_dn_op_layout(ex->dn, op, BB_DN_DST);
    bb_nn_arg args[4] = {{0, BB_DN_SRC}, {0, BB_DN_WEIGHTS}, {0, BB_DN_DST}, {0, BB_DN_BIAS}};
    if (!s->weights || !dst)
        return bb_fail_memory(err, "convolution");
    BB_TRY(source_arg(g, node, op, &args[0].buffer, err));
    BB_TRY(weights_arg(g, node, s, op, &args[1].buffer, err));
    BB_TRY(bb_nn_new_buffer(ex, bb_dn_bytes(dst), &args[2].buffer, err));
    if (bias)
        BB_TRY(bb_nn_in_plain(ex, node->in[2], &args[3].buffer, err));
    BB_TRY(bb_nn_emit_op(ex, node, op, args, bias ? 4 : 3, err));
    BB_TRY(bb_nn_define(ex, node->out[0], BB_DTYPE_F32, s->conv.rank, s->conv.dst, err));
    BB_TRY(bb_nn_store(ex, node->out[0], dst, args[2].buffer, err));
    bb_grad_save(g, node->in[0]);
    bb_grad_save(g, node->in[1]);
    return bb_grad_push(g, node, backward, s, err);
}
