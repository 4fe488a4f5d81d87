/* SPDX-License-Identifier: Apache-2.0 */
/* Spatial geometry of convolutions and pools: auto_pad, ceil_mode, output_shape. */
#include "graph/shape.h"
#include <string.h>

typedef struct window_attrs {
    int64_t kernel[2], stride[2], dilation[2], begin[2], end[2];
    int64_t output_padding[2], output_shape[2];
    bool has_output_shape, ceil_mode;
    const char *auto_pad;
} window_attrs;

static bb_status fail(const bb_node *node, bb_error *err, bb_status status, const char *why) {
    return bb_fail(err, status, "node '%s' (%s): %s", node->name, bb_op_name(node->op), why);
}

static bool is_convolution(const bb_node *node) {
    return node->op == BB_OP_CONV || node->op == BB_OP_CONV_INTEGER ||
           node->op == BB_OP_QLINEAR_CONV || node->op == BB_OP_CONV_TRANSPOSE;
}

/* Reads `n` ints per spatial axis; a 1-D node gets `lead` on the axis it does not have. */
static bb_status spatial_ints(const bb_node *node, const char *name, int spatial, int64_t absent,
                              int64_t lead, int64_t out[2], bb_error *err) {
    const bb_attr *attr = bb_node_attr(node, name);
    if (attr && (attr->type != BB_ATTR_INTS || attr->n != (size_t)spatial))
        return bb_fail(err, BB_STATUS_BAD_FILE, "node '%s' (%s): attribute %s needs %d numbers",
                       node->name, bb_op_name(node->op), name, spatial);
    out[0] = lead;
    bb_node_ints(node, name, out + 2 - spatial, (size_t)spatial, absent);
    return BB_STATUS_OK;
}

static bb_status read_pads(const bb_node *node, int spatial, window_attrs *a, bb_error *err) {
    const bb_attr *attr = bb_node_attr(node, "pads");
    if (attr && (attr->type != BB_ATTR_INTS || attr->n != 2 * (size_t)spatial))
        return fail(node, err, BB_STATUS_BAD_FILE, "attribute pads has the wrong length");
    int64_t pads[4];
    bb_node_ints(node, "pads", pads, 2 * (size_t)spatial, 0);
    for (int i = 0; i < spatial; i++) {
        a->begin[2 - spatial + i] = pads[i];
        a->end[2 - spatial + i] = pads[spatial + i];
    }
    return BB_STATUS_OK;
}

static bool in_range(const int64_t *v, int64_t lo) {
    return v[0] >= lo && v[0] < BB_MAX_DIM && v[1] >= lo && v[1] < BB_MAX_DIM;
}

static bb_status read_attrs(const bb_node *node, const int64_t *weight_dims, int spatial,
                            window_attrs *a, bb_error *err) {
    bool transposed = node->op == BB_OP_CONV_TRANSPOSE;
    a->has_output_shape = transposed && bb_node_attr(node, "output_shape");
    BB_TRY(spatial_ints(node, "kernel_shape", spatial, 0, 1, a->kernel, err));
    BB_TRY(spatial_ints(node, "strides", spatial, 1, 1, a->stride, err));
    BB_TRY(spatial_ints(node, "dilations", spatial, 1, 1, a->dilation, err));
    if (transposed)
        BB_TRY(spatial_ints(node, "output_padding", spatial, 0, 0, a->output_padding, err));
    if (a->has_output_shape)
        BB_TRY(spatial_ints(node, "output_shape", spatial, 0, 1, a->output_shape, err));
    BB_TRY(read_pads(node, spatial, a, err));
    for (int i = 0; i < spatial && weight_dims; i++) {
        int64_t *k = &a->kernel[2 - spatial + i];
        if (*k != 0 && weight_dims[2 + i] >= 0 && *k != weight_dims[2 + i])
            return fail(node, err, BB_STATUS_BAD_FILE, "kernel_shape contradicts the weights");
        if (*k == 0)
            *k = weight_dims[2 + i];
    }
    a->auto_pad = bb_node_string(node, "auto_pad", "NOTSET");
    a->ceil_mode = !is_convolution(node) && bb_node_int(node, "ceil_mode", 0) != 0;
    if (!in_range(a->kernel, 1) || !in_range(a->stride, 1) || !in_range(a->dilation, 1) ||
        !in_range(a->begin, 0) || !in_range(a->end, 0) || !in_range(a->output_padding, 0) ||
        a->kernel[0] > BB_MAX_DIM / a->dilation[0] || a->kernel[1] > BB_MAX_DIM / a->dilation[1])
        return fail(node, err, BB_STATUS_BAD_FILE, "kernel, stride, dilation or pads out of range");
    return BB_STATUS_OK;
}

/* Convolution or pool along one axis. `extent` is the dilated kernel. */
static bb_status forward_axis(const bb_node *node, const window_attrs *a, int i, int64_t size,
                              bb_window *w, bb_error *err) {
    int64_t extent = (a->kernel[i] - 1) * a->dilation[i] + 1, stride = a->stride[i];
    bool same = strncmp(a->auto_pad, "SAME_", 5) == 0;
    bool valid = strcmp(a->auto_pad, "VALID") == 0;
    w->pad_begin[i] = same || valid ? 0 : a->begin[i];
    w->pad_end[i] = same || valid ? 0 : a->end[i];
    w->out[i] = -1;
    if (size < 0) {
        w->pad_counted[i] = w->pad_end[i];
        return BB_STATUS_OK;
    }
    if (same) {
        w->out[i] = (size + stride - 1) / stride;
        int64_t total = (w->out[i] - 1) * stride + extent - size;
        total = total > 0 ? total : 0;
        w->pad_begin[i] = strcmp(a->auto_pad, "SAME_LOWER") == 0 ? total - total / 2 : total / 2;
        w->pad_end[i] = total - w->pad_begin[i];
    }
    w->pad_counted[i] = w->pad_end[i];
    int64_t room = size + w->pad_begin[i] + w->pad_end[i] - extent;
    if (room < 0)
        return fail(node, err, BB_STATUS_BAD_FILE, "the kernel is larger than the padded input");
    int64_t out = (a->ceil_mode ? room + stride - 1 : room) / stride + 1;
    /* A last window that starts in the end padding is dropped. */
    if (a->ceil_mode && (out - 1) * stride >= size + w->pad_begin[i])
        out--;
    w->out[i] = out;
    int64_t reach = (out - 1) * stride + extent - size - w->pad_begin[i];
    if (reach > w->pad_end[i])
        w->pad_end[i] = reach;
    return BB_STATUS_OK;
}

static bb_status transposed_axis(const bb_node *node, const window_attrs *a, int i, int64_t size,
                                 bb_window *w, bb_error *err) {
    int64_t extent = (a->kernel[i] - 1) * a->dilation[i] + 1;
    bool same = strncmp(a->auto_pad, "SAME_", 5) == 0;
    w->pad_begin[i] = same ? 0 : a->begin[i];
    w->pad_end[i] = same ? 0 : a->end[i];
    w->out[i] = -1;
    if (strcmp(a->auto_pad, "VALID") == 0)
        w->pad_begin[i] = w->pad_end[i] = 0;
    if (size >= 0) {
        int64_t full = a->stride[i] * (size - 1) + a->output_padding[i] + extent;
        if (a->has_output_shape || same) {
            w->out[i] = a->has_output_shape ? a->output_shape[i] : size * a->stride[i];
            int64_t total = full - w->out[i] > 0 ? full - w->out[i] : 0;
            bool upper = strcmp(a->auto_pad, "SAME_UPPER") == 0;
            w->pad_begin[i] = upper ? total / 2 : total - total / 2;
            w->pad_end[i] = total - w->pad_begin[i];
        } else {
            w->out[i] = full - w->pad_begin[i] - w->pad_end[i];
        }
        if (w->out[i] < 1 || w->out[i] > BB_MAX_DIM)
            return fail(node, err, BB_STATUS_BAD_FILE, "the output would be empty or too large");
    }
    w->pad_counted[i] = w->pad_end[i];
    return BB_STATUS_OK;
}

bb_status bb_window_resolve(const bb_node *node, const int64_t *weight_dims, const int64_t *dims,
                            int rank, bb_window *window, bb_error *err) {
    int spatial = rank - 2;
    if (spatial < 1 || spatial > 2)
        return fail(node, err, BB_STATUS_UNSUPPORTED,
                    "only 1-D and 2-D convolutions and pools are supported");
    window_attrs a = {0};
    BB_TRY(read_attrs(node, weight_dims, spatial, &a, err));
    *window = (bb_window){0};
    window->count_include_pad = bb_node_int(node, "count_include_pad", 0) != 0;
    for (int i = 0; i < 2; i++) {
        int64_t size = i < 2 - spatial ? 1 : dims[rank - 2 + i];
        window->kernel[i] = a.kernel[i];
        window->stride[i] = a.stride[i];
        window->dilation[i] = a.dilation[i];
        if (size > BB_MAX_DIM)
            return fail(node, err, BB_STATUS_LIMIT, "the input is too large");
        BB_TRY(node->op == BB_OP_CONV_TRANSPOSE ? transposed_axis(node, &a, i, size, window, err)
                                                : forward_axis(node, &a, i, size, window, err));
    }
    return BB_STATUS_OK;
}

bb_status bb_node_window(const bb_graph *graph, const bb_node *node, const int64_t *dims, int rank,
                         bb_window *window, bb_error *err) {
    const bb_value *weight = NULL;
    if (is_convolution(node)) {
        weight = bb_node_input(graph, node, node->op == BB_OP_QLINEAR_CONV ? 3 : 1);
        if (!weight || weight->rank != rank)
            return fail(node, err, BB_STATUS_BAD_FILE, "weights and input differ in rank");
    }
    return bb_window_resolve(node, weight ? weight->dims : NULL, dims, rank, window, err);
}
