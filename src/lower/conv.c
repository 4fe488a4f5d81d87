/* SPDX-License-Identifier: Apache-2.0 */
/* Shapes and float weights of Conv and Gemm in the model's order. */
#include "lower/blocks.h"
#include <string.h>

void bb_lower_reorder_weights(const float *onnx, uint32_t rows, uint32_t depth, uint32_t taps,
                              float *model_order) {
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t t = 0; t < taps; t++)
            for (uint32_t i = 0; i < depth; i++)
                *model_order++ = onnx[((size_t)r * depth + i) * taps + t];
}

/* Geometry with explicit pads; end pads as the window effectively uses them. */
bb_status bb_lower_window(const bb_graph *graph, const bb_node *node, bb_geometry *geometry,
                          bb_error *err) {
    const bb_value *in = bb_node_input(graph, node, 0);
    bb_window w;
    int64_t dims[BB_MAX_RANK];
    memcpy(dims, in->dims, sizeof(dims));
    if (dims[0] < 0)
        dims[0] = 1;
    BB_TRY(bb_node_window(graph, node, dims, in->rank, &w, err));
    *geometry = (bb_geometry){
        .ceil_mode = bb_node_int(node, "ceil_mode", 0) != 0,
        .count_include_pad = w.count_include_pad,
    };
    for (int i = 0; i < 2; i++) {
        if (w.kernel[i] > BB_MAX_WINDOW || w.stride[i] > BB_MAX_WINDOW ||
            w.dilation[i] > BB_MAX_WINDOW || w.pad_begin[i] > BB_MAX_WINDOW ||
            w.pad_counted[i] > BB_MAX_WINDOW || w.pad_begin[i] < 0 || w.pad_counted[i] < 0)
            return bb_fail(err, BB_STATUS_LIMIT, "%s: node '%s' has a window beyond %d",
                           graph->name, node->name, BB_MAX_WINDOW);
        geometry->kernel[i] = (int32_t)w.kernel[i];
        geometry->stride[i] = (int32_t)w.stride[i];
        geometry->dilation[i] = (int32_t)w.dilation[i];
        geometry->pad_begin[i] = (int32_t)w.pad_begin[i];
        geometry->pad_end[i] = (int32_t)w.pad_counted[i];
    }
    return BB_STATUS_OK;
}

static void gemm_dims(const bb_node *node, const bb_value *b, int64_t *rows, int64_t *columns) {
    bool transposed = node->op == BB_OP_GEMM && bb_node_int(node, "transB", 0) != 0;
    *rows = b->dims[transposed ? 0 : 1];
    *columns = b->dims[transposed ? 1 : 0];
}

bb_status bb_lower_conv_shape(const bb_graph *graph, const bb_block *block, bb_conv_shape *shape,
                              bb_error *err) {
    const bb_node *node = &graph->nodes[block->node];
    const bb_value *w = bb_node_input(graph, node, 1);
    *shape = (bb_conv_shape){
        .taps = 1,
        .groups = 1,
        .geometry = {.kernel = {1, 1}, .stride = {1, 1}, .dilation = {1, 1}},
    };
    if (node->op != BB_OP_CONV) {
        int64_t rows, columns;
        gemm_dims(node, w, &rows, &columns);
        shape->rows = (uint32_t)rows;
        shape->depth = (uint32_t)columns;
        return BB_STATUS_OK;
    }
    BB_TRY(bb_lower_window(graph, node, &shape->geometry, err));
    shape->rows = (uint32_t)w->dims[0];
    shape->depth = (uint32_t)w->dims[1];
    shape->taps = (uint32_t)(shape->geometry.kernel[0] * shape->geometry.kernel[1]);
    shape->groups = (uint32_t)bb_node_int(node, "group", 1);
    return BB_STATUS_OK;
}

/* The image whose NCHW flattening is `value`, if it has several pixels and channels. */
static bool flattened_image(bb_graph *graph, int value, int64_t image[4], bb_error *err) {
    int root = value, chain[BB_MAX_RANK], n = 0;
    while (graph->values[root].producer >= 0 && n < BB_MAX_RANK &&
           bb_is_movement(graph->nodes[graph->values[root].producer].op)) {
        chain[n++] = graph->values[root].producer;
        root = graph->nodes[chain[n - 1]].in[0];
    }
    bb_view view, out[BB_MAX_NODE_INPUTS];
    if (n == 0 || bb_view_identity(graph, root, &view, err) != BB_STATUS_OK)
        return false;
    while (n-- > 0) {
        if (bb_view_apply(graph, &graph->nodes[chain[n]], &view, out, err) != BB_STATUS_OK)
            return false;
        view = out[0];
    }
    return bb_view_flat_order(graph, &view, value) == 1 &&
           bb_image_dims(&graph->values[root], image);
}

static bb_status gemm_weights(bb_graph *graph, const bb_node *node, float *weights, float *bias,
                              bb_error *err) {
    const bb_value *b = bb_node_input(graph, node, 1), *c = bb_node_input(graph, node, 2);
    int64_t rows, columns, image[4] = {1, 1, 1, 1};
    gemm_dims(node, b, &rows, &columns);
    bool transposed = node->op == BB_OP_GEMM && bb_node_int(node, "transB", 0) != 0;
    float alpha = bb_node_float(node, "alpha", 1.0f), beta = bb_node_float(node, "beta", 1.0f);
    bb_error ignored;
    int64_t taps = 1, depth = columns;
    if (flattened_image(graph, node->in[0], image, &ignored)) {
        taps = image[2] * image[3];
        depth = image[1];
    }
    const float *from = b->data;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t t = 0; t < taps; t++)
            for (int64_t i = 0; i < depth; i++) {
                int64_t k = i * taps + t; /* column in NCHW order */
                *weights++ = alpha * from[transposed ? r * columns + k : k * rows + r];
            }
    size_t n = 0;
    if (c && (!bb_value_elements(c, &n) || (n != 1 && (int64_t)n != rows)))
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "%s: node '%s' has a bias that is no vector",
                       graph->name, node->name);
    for (int64_t r = 0; r < rows; r++)
        bias[r] = c ? beta * ((const float *)c->data)[n == 1 ? 0 : r] : 0.0f;
    return BB_STATUS_OK;
}

bb_status bb_lower_conv_weights(bb_graph *graph, const bb_block *block, float *weights, float *bias,
                                bb_error *err) {
    const bb_node *node = &graph->nodes[block->node];
    if (node->op != BB_OP_CONV)
        return gemm_weights(graph, node, weights, bias, err);
    bb_conv_shape shape;
    BB_TRY(bb_lower_conv_shape(graph, block, &shape, err));
    const bb_value *w = bb_node_input(graph, node, 1), *b = bb_node_input(graph, node, 2);
    bb_lower_reorder_weights(w->data, shape.rows, shape.depth, shape.taps, weights);
    for (uint32_t r = 0; r < shape.rows; r++)
        bias[r] = b ? ((const float *)b->data)[r] : 0.0f;
    return BB_STATUS_OK;
}
