/* SPDX-License-Identifier: Apache-2.0 */
/* Padding, averaging and flattening in their plainest forms. */
#include "passes/rewrite.h"
#include <math.h>
#include <string.h>

/* ---- Pad before a convolution or pool -------------------------------------------------------- */

/* Spatial pads of a constant Pad of a 3-D or 4-D tensor: begins, then ends. */
static bool spatial_pads(const bb_graph *graph, const bb_node *pad, int64_t *pads, int *spatial) {
    const bb_value *x = bb_node_input(graph, pad, 0);
    int64_t v[2 * BB_MAX_RANK];
    size_t n;
    if (!x || x->rank < 3 || x->rank > 4 || bb_node_has_input(pad, 3) ||
        strcmp(bb_node_string(pad, "mode", "constant"), "constant") != 0 ||
        !bb_value_ints(bb_node_input(graph, pad, 1), v, BB_COUNT(v), &n) ||
        n != 2 * (size_t)x->rank)
        return false;
    *spatial = x->rank - 2;
    if (v[0] || v[1] || v[x->rank] || v[x->rank + 1])
        return false;
    for (int i = 0; i < *spatial; i++) {
        pads[i] = v[2 + i];
        pads[*spatial + i] = v[x->rank + 2 + i];
        if (pads[i] < 0 || pads[*spatial + i] < 0)
            return false;
    }
    return true;
}

static bool fill_fits(const bb_graph *graph, const bb_node *pad, const bb_node *node) {
    double fill = 0;
    if (bb_node_has_input(pad, 2) && !bb_constant_number(graph, pad->in[2], &fill))
        return false;
    return node->op == BB_OP_MAX_POOL ? fill <= -3.4e38 : fill == 0;
}

static bool own_pads_zero(const bb_node *node, int spatial) {
    int64_t own[4];
    bb_node_ints(node, "pads", own, 2 * (size_t)spatial, 0);
    for (int i = 0; i < 2 * spatial; i++)
        if (own[i] != 0)
            return false;
    return true;
}

static bb_status take_in_pad(bb_graph *graph, bb_node *node, bool *changed, bb_error *err) {
    const bb_node *pad = bb_producer(graph, node->in[0]);
    const char *auto_pad = bb_node_string(node, "auto_pad", "NOTSET");
    int64_t pads[4], own[4];
    int spatial;
    if (!pad || pad->op != BB_OP_PAD || !spatial_pads(graph, pad, pads, &spatial) ||
        !fill_fits(graph, pad, node) || strncmp(auto_pad, "SAME_", 5) == 0)
        return BB_STATUS_OK;
    /* An average must count what the Pad added and nothing else; ceil_mode counts differently. */
    bool average = node->op == BB_OP_AVERAGE_POOL;
    if (average && (bb_node_int(node, "ceil_mode", 0) != 0 ||
                    (!own_pads_zero(node, spatial) && !bb_node_int(node, "count_include_pad", 0))))
        return BB_STATUS_OK;
    bb_node_ints(node, "pads", own, 2 * (size_t)spatial, 0);
    for (int i = 0; i < 2 * spatial; i++)
        pads[i] += strcmp(auto_pad, "VALID") == 0 ? 0 : own[i];
    if (!bb_node_set_ints(graph, node, "pads", pads, 2 * (size_t)spatial) ||
        !bb_node_set_string(graph, node, "auto_pad", "NOTSET") ||
        (average && !bb_node_set_int(graph, node, "count_include_pad", 1)))
        return bb_fail_memory(err, node->name);
    node->in[0] = pad->in[0];
    *changed = true;
    return BB_STATUS_OK;
}

/* ---- averages over the whole image ----------------------------------------------------------- */

static bool covers_image(const bb_graph *graph, const bb_node *node) {
    const bb_value *x = &graph->values[node->in[0]];
    bb_window w;
    if (x->rank != 4 || x->dims[2] < 0 || x->dims[3] < 0 ||
        bb_node_window(graph, node, x->dims, x->rank, &w, NULL) != BB_STATUS_OK)
        return false;
    return w.out[0] == 1 && w.out[1] == 1 && w.kernel[0] == x->dims[2] &&
           w.kernel[1] == x->dims[3] && w.dilation[0] == 1 && w.dilation[1] == 1 &&
           !w.pad_begin[0] && !w.pad_begin[1] && !w.pad_end[0] && !w.pad_end[1];
}

static bool reduces_image(const bb_graph *graph, const bb_node *node) {
    const bb_value *x = &graph->values[node->in[0]];
    int64_t axes[BB_MAX_RANK];
    size_t n;
    if (x->rank != 4 || x->dtype != BB_DTYPE_F32 ||
        !bb_value_ints(bb_node_input(graph, node, 1), axes, BB_MAX_RANK, &n) || n != 2)
        return false;
    for (int i = 0; i < 2; i++)
        axes[i] += axes[i] < 0 ? 4 : 0;
    return axes[0] + axes[1] == 5 && axes[0] * axes[1] == 6;
}

static bb_status mean_to_pool(bb_graph *graph, size_t index, bool *changed, bb_error *err) {
    bb_node *node = &graph->nodes[index];
    int x = node->in[0];
    bool keep = bb_node_int(node, "keepdims", 1) != 0;
    if (!reduces_image(graph, node))
        return BB_STATUS_OK;
    *changed = true;
    if (keep)
        return bb_turn_into(graph, node, BB_OP_GLOBAL_AVERAGE_POOL, 1, &x)
                   ? BB_STATUS_OK
                   : bb_fail_memory(err, node->name);
    const bb_value v = graph->values[x];
    int64_t dims[4] = {v.dims[0], v.dims[1], 1, 1};
    const char *name = bb_arena_printf(graph->arena, "%s.pool", node->name);
    int pooled = name ? bb_graph_add_value(graph, name, v.dtype, 4, dims) : -1;
    int pool = pooled < 0
                   ? -1
                   : bb_graph_add_node(graph, name, BB_OP_GLOBAL_AVERAGE_POOL, 1, &x, 1, &pooled);
    if (pool < 0 || !bb_turn_into(graph, &graph->nodes[index], BB_OP_FLATTEN, 1, &pooled))
        return bb_fail_memory(err, "rewriting a mean");
    return BB_STATUS_OK;
}

/* ---- Flatten --------------------------------------------------------------------------------- */

static bb_status reshape_to_flatten(bb_graph *graph, bb_node *node, bool *changed, bb_error *err) {
    const bb_value *x = &graph->values[node->in[0]], *y = &graph->values[node->out[0]];
    int in[1] = {node->in[0]};
    size_t rest;
    if (x->rank < 3 || y->rank != 2 || x->dims[0] != y->dims[0] ||
        !bb_dims_product(x->dims + 1, (size_t)x->rank - 1, &rest) || y->dims[1] != (int64_t)rest)
        return BB_STATUS_OK;
    if (!bb_turn_into(graph, node, BB_OP_FLATTEN, 1, in))
        return bb_fail_memory(err, node->name);
    *changed = true;
    return BB_STATUS_OK;
}

bb_status bb_rewrite_pool(bb_graph *graph, size_t index, bool *changed, bb_error *err) {
    bb_node *node = &graph->nodes[index];
    switch (node->op) {
    case BB_OP_AVERAGE_POOL:
        if (covers_image(graph, node)) {
            int x = node->in[0];
            *changed = true;
            return bb_turn_into(graph, node, BB_OP_GLOBAL_AVERAGE_POOL, 1, &x)
                       ? BB_STATUS_OK
                       : bb_fail_memory(err, node->name);
        }
        return take_in_pad(graph, node, changed, err);
    case BB_OP_CONV:
    case BB_OP_MAX_POOL:
        return take_in_pad(graph, node, changed, err);
    case BB_OP_REDUCE_MEAN:
        return mean_to_pool(graph, index, changed, err);
    case BB_OP_RESHAPE:
    case BB_OP_SQUEEZE:
        return reshape_to_flatten(graph, node, changed, err);
    default:
        return BB_STATUS_OK;
    }
}
