/* SPDX-License-Identifier: Apache-2.0 */
/* Views: what Reshape, Transpose, Slice, Split, Gather chains do to the elements of a value, found
 * by running them on an array of element indices. */
#include "graph/eval.h"
#include "lower/blocks.h"
#include <string.h>

bool bb_is_movement(bb_op op) {
    switch (op) {
    case BB_OP_RESHAPE:
    case BB_OP_FLATTEN:
    case BB_OP_TRANSPOSE:
    case BB_OP_SQUEEZE:
    case BB_OP_UNSQUEEZE:
    case BB_OP_SLICE:
    case BB_OP_SPLIT:
    case BB_OP_GATHER:
    case BB_OP_IDENTITY:
    case BB_OP_DROPOUT:
        return true;
    default:
        return false;
    }
}

bool bb_image_dims(const bb_value *value, int64_t dims[4]) {
    if (value->rank != 2 && value->rank != 4)
        return false;
    for (int i = 0; i < 4; i++)
        dims[i] = i < value->rank ? value->dims[i] : 1;
    if (dims[0] < 0)
        dims[0] = 1;
    return dims[1] > 0 && dims[2] > 0 && dims[3] > 0;
}

/* An array over a graph value with a symbolic batch taken as 1. */
static bool array_of_value(const bb_value *value, void *data, bb_array *array) {
    *array = (bb_array){.dtype = value->dtype, .rank = value->rank, .data = data};
    if (value->rank < 0)
        return false;
    for (int i = 0; i < value->rank; i++) {
        array->dims[i] = value->dims[i];
        if (array->dims[i] < 0 && i == 0)
            array->dims[i] = 1;
        if (array->dims[i] < 0)
            return false;
    }
    return true;
}

bb_status bb_view_identity(bb_graph *graph, int value, bb_view *view, bb_error *err) {
    const bb_value *v = &graph->values[value];
    bb_array array;
    size_t n;
    *view = (bb_view){.root = value};
    if (!array_of_value(v, NULL, &array) || !bb_dims_product(array.dims, (size_t)array.rank, &n))
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "%s: the size of value '%s' is not known",
                       graph->name, v->name);
    if (n > BB_MAX_VIEW)
        return bb_fail(err, BB_STATUS_LIMIT, "%s: value '%s' is too large to be moved", graph->name,
                       v->name);
    view->source = bb_arena_array(graph->arena, n, sizeof(*view->source));
    if (!view->source)
        return bb_fail_memory(err, "an element map");
    view->n = n;
    for (size_t i = 0; i < n; i++)
        view->source[i] = (int64_t)i;
    return BB_STATUS_OK;
}

bb_status bb_view_apply(bb_graph *graph, const bb_node *node, const bb_view *in, bb_view *out,
                        bb_error *err) {
    bb_array inputs[BB_MAX_RANK] = {{0}}, outputs[BB_MAX_NODE_INPUTS] = {{0}};
    if (node->n_in > BB_MAX_RANK || node->n_out > BB_MAX_NODE_INPUTS)
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "%s: node '%s' (%s) has too many outputs",
                       graph->name, node->name, bb_op_name(node->op));
    for (int i = 0; i < node->n_in; i++) {
        const bb_value *v = bb_node_input(graph, node, i);
        if (!v)
            continue;
        void *data = NULL;
        memcpy(&data, &v->data, sizeof(data)); /* inputs are only read */
        if (!array_of_value(v, i == 0 ? (void *)in->source : data, &inputs[i]) || !inputs[i].data)
            return bb_fail(err, BB_STATUS_UNSUPPORTED, "%s: node '%s' (%s) has a computed shape",
                           graph->name, node->name, bb_op_name(node->op));
    }
    inputs[0].dtype = BB_DTYPE_I64;
    BB_TRY(bb_eval_node(graph, node, inputs, outputs, graph->arena, err));
    for (int i = 0; i < node->n_out; i++) {
        size_t n = 0;
        if (!bb_dims_product(outputs[i].dims, (size_t)outputs[i].rank, &n))
            return bb_fail(err, BB_STATUS_LIMIT, "%s: node '%s' is too large", graph->name,
                           node->name);
        out[i] = (bb_view){.root = in->root, .source = outputs[i].data, .n = n};
    }
    return BB_STATUS_OK;
}

const int32_t *bb_view_channels(bb_graph *graph, const bb_view *view, int value) {
    int64_t from[4], to[4];
    if (!bb_image_dims(&graph->values[view->root], from) ||
        !bb_image_dims(&graph->values[value], to) || from[0] != to[0] || from[2] != to[2] ||
        from[3] != to[3] || (int64_t)view->n != to[0] * to[1] * to[2] * to[3])
        return NULL;
    int64_t plane = to[2] * to[3];
    int32_t *index = bb_arena_array(graph->arena, (size_t)to[1], sizeof(*index));
    if (!index)
        return NULL;
    for (int64_t n = 0; n < to[0]; n++) {
        for (int64_t c = 0; c < to[1]; c++) {
            const int64_t *source = view->source + (n * to[1] + c) * plane;
            int64_t channel = source[0] / plane - n * from[1];
            if (channel < 0 || channel >= from[1] || (n > 0 && channel != index[c]))
                return NULL;
            index[c] = (int32_t)channel;
            for (int64_t i = 0; i < plane; i++)
                if (source[i] != (n * from[1] + channel) * plane + i)
                    return NULL;
        }
    }
    return index;
}

int bb_view_flat_order(const bb_graph *graph, const bb_view *view, int value) {
    int64_t d[4];
    const bb_value *v = &graph->values[value];
    if (v->rank != 2 || !bb_image_dims(&graph->values[view->root], d) ||
        (v->dims[0] >= 0 && v->dims[0] != d[0]) || (int64_t)view->n != d[0] * d[1] * d[2] * d[3])
        return 0;
    bool nchw = true, nhwc = true;
    int64_t plane = d[2] * d[3];
    for (int64_t j = 0; j < (int64_t)view->n; j++) {
        int64_t image = j / (d[1] * plane), rest = j % (d[1] * plane);
        int64_t as_nhwc = image * d[1] * plane + rest % d[1] * plane + rest / d[1];
        nchw = nchw && view->source[j] == j;
        nhwc = nhwc && view->source[j] == as_nhwc;
    }
    return nhwc ? 2 : nchw ? 1 : 0;
}

bb_status bb_lower_tensor_dims(const bb_graph *graph, const bb_value *value, int64_t dims[4],
                               bb_error *err) {
    if ((value->rank != 2 && value->rank != 4) || value->dims[1] <= 0)
        return bb_fail(err, BB_STATUS_UNSUPPORTED,
                       "%s: value '%s' is neither an image nor a vector of known channels",
                       graph->name, value->name);
    for (int i = 0; i < 4; i++)
        dims[i] = i == value->rank - 1 ? value->dims[1] : -1;
    return BB_STATUS_OK;
}

bb_status bb_lower_check_size(const bb_graph *graph, bb_error *err) {
    if (graph->n_nodes <= BB_MAX_GRAPH_NODES)
        return BB_STATUS_OK;
    return bb_fail(err, BB_STATUS_LIMIT, "%s: %zu nodes, more than %d", graph->name, graph->n_nodes,
                   BB_MAX_GRAPH_NODES);
}
