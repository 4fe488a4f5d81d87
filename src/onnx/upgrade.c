/* SPDX-License-Identifier: Apache-2.0 */
/* Older operator forms -> opset 21: attributes that became inputs, renamed and redefined
 * operators. Each rule names the opset below which (or the range in which) it applies. */
#include "onnx/reader.h"
#include <string.h>

/* ---- tools of the rules --------------------------------------------------------------------- */

static bb_node *node_at(bb_onnx_reader *r, int node) {
    return &r->graph->nodes[node];
}

static bb_status no_memory(bb_onnx_reader *r, int node) {
    return bb_fail_memory(r->err, node_at(r, node)->name);
}

static bb_status unsupported(bb_onnx_reader *r, int node, const char *why) {
    const bb_node *n = node_at(r, node);
    return bb_fail(r->err, BB_STATUS_UNSUPPORTED, "node '%s': operator %s (opset %d): %s", n->name,
                   bb_op_name(n->op), r->opset, why);
}

/* Puts `value` at input position `at`, leaving out what lies between. */
static bb_status set_input(bb_onnx_reader *r, int node, int at, int value) {
    bb_node *n = node_at(r, node);
    if (at >= n->n_in) {
        int *in = bb_arena_array(r->graph->arena, (size_t)at + 1, sizeof(*in));
        if (!in)
            return no_memory(r, node);
        for (int i = 0; i <= at; i++)
            in[i] = i < n->n_in ? n->in[i] : -1;
        n->in = in;
        n->n_in = at + 1;
    }
    n->in[at] = value;
    return BB_STATUS_OK;
}

static bb_status add_constant(bb_onnx_reader *r, int node, const char *what, bb_dtype dtype,
                              int rank, size_t n, const void *data, int *value) {
    const char *name = bb_arena_printf(r->graph->arena, "%s.%s", node_at(r, node)->name, what);
    int64_t dims[1] = {(int64_t)n};
    void *copy;
    *value = name ? bb_graph_add_constant(r->graph, name, dtype, rank, dims, &copy) : -1;
    if (*value < 0)
        return no_memory(r, node);
    if (n)
        memcpy(copy, data, n * bb_dtype_size(dtype));
    return BB_STATUS_OK;
}

/* Attribute of integers -> int64 vector at input `at`; nothing where it is absent. */
static bb_status ints_to_input(bb_onnx_reader *r, int node, const char *attr, int at) {
    const bb_attr *a = bb_node_attr(node_at(r, node), attr);
    if (!a || a->type != BB_ATTR_INTS)
        return BB_STATUS_OK;
    int value;
    BB_TRY(add_constant(r, node, attr, BB_DTYPE_I64, 1, a->n, a->ints, &value));
    bb_node_remove_attr(node_at(r, node), attr);
    return set_input(r, node, at, value);
}

static bb_status float_to_input(bb_onnx_reader *r, int node, const char *attr, int at) {
    const bb_attr *a = bb_node_attr(node_at(r, node), attr);
    if (!a || a->type != BB_ATTR_FLOAT)
        return BB_STATUS_OK;
    int value;
    BB_TRY(add_constant(r, node, attr, BB_DTYPE_F32, 0, 1, &a->f, &value));
    bb_node_remove_attr(node_at(r, node), attr);
    return set_input(r, node, at, value);
}

static bb_status set_string(bb_onnx_reader *r, int node, const char *attr, const char *value) {
    return bb_node_set_string(r->graph, node_at(r, node), attr, value) ? BB_STATUS_OK
                                                                       : no_memory(r, node);
}

static bb_status keep_one_output(bb_onnx_reader *r, int node) {
    bb_node *n = node_at(r, node);
    n->n_out = n->n_out > 1 ? 1 : n->n_out;
    return BB_STATUS_OK;
}

/* ---- the rules ------------------------------------------------------------------------------- */

static bb_status upgrade_axes(bb_onnx_reader *r, int node) {
    return ints_to_input(r, node, "axes", 1);
}

static bb_status upgrade_split(bb_onnx_reader *r, int node) {
    return ints_to_input(r, node, "split", 1);
}

static bb_status upgrade_clip(bb_onnx_reader *r, int node) {
    BB_TRY(float_to_input(r, node, "min", 1));
    return float_to_input(r, node, "max", 2);
}

static bb_status upgrade_pad(bb_onnx_reader *r, int node) {
    BB_TRY(ints_to_input(r, node, "pads", 1));
    return float_to_input(r, node, "value", 2);
}

static bb_status upgrade_slice(bb_onnx_reader *r, int node) {
    BB_TRY(ints_to_input(r, node, "starts", 1));
    BB_TRY(ints_to_input(r, node, "ends", 2));
    return ints_to_input(r, node, "axes", 3);
}

/* Before opset 13 the input is coerced to two dimensions at `axis` (default 1). */
static bb_status upgrade_softmax(bb_onnx_reader *r, int node) {
    bb_graph *g = r->graph;
    bb_op op = node_at(r, node)->op;
    int64_t axis = bb_node_int(node_at(r, node), "axis", 1);
    if (axis == -1)
        return BB_STATUS_OK;
    const char *name = node_at(r, node)->name;
    int x = node_at(r, node)->n_in > 0 ? node_at(r, node)->in[0] : -1;
    int y = node_at(r, node)->n_out > 0 ? node_at(r, node)->out[0] : -1;
    const char *names[3] = {bb_arena_printf(g->arena, "%s.shape", name),
                            bb_arena_printf(g->arena, "%s.flat", name),
                            bb_arena_printf(g->arena, "%s.soft", name)};
    int v[3];
    for (int i = 0; i < 3; i++) {
        v[i] = names[i] ? bb_graph_add_value(g, names[i], BB_DTYPE_F32, -1, NULL) : -1;
        if (v[i] < 0)
            return no_memory(r, node);
    }
    int shape = bb_graph_add_node(g, names[0], BB_OP_SHAPE, 1, &x, 1, &v[0]);
    int flat = bb_graph_add_node(g, names[1], BB_OP_FLATTEN, 1, &x, 1, &v[1]);
    int soft = bb_graph_add_node(g, names[2], op, 1, &v[1], 1, &v[2]);
    if (shape < 0 || flat < 0 || soft < 0 || !bb_node_set_int(g, node_at(r, flat), "axis", axis) ||
        !bb_node_set_int(g, node_at(r, soft), "axis", -1))
        return no_memory(r, node);
    bb_node *n = node_at(r, node);
    n->op = BB_OP_RESHAPE;
    n->n_attrs = 0;
    BB_TRY(set_input(r, node, 1, v[0]));
    n = node_at(r, node);
    n->in[0] = v[2];
    g->values[y < 0 ? v[2] : y].producer = node;
    return BB_STATUS_OK;
}

/* Upsample, and Resize before 11: scales only, corners at the origin, rounding down. */
static bb_status upgrade_upsample(bb_onnx_reader *r, int node) {
    const bb_attr *a = bb_node_attr(node_at(r, node), "scales");
    int scales = node_at(r, node)->n_in > 1 ? node_at(r, node)->in[1] : -1;
    if (a && a->type == BB_ATTR_FLOATS) {
        BB_TRY(add_constant(r, node, "scales", BB_DTYPE_F32, 1, a->n, a->floats, &scales));
        bb_node_remove_attr(node_at(r, node), "scales");
    }
    BB_TRY(set_input(r, node, 2, scales));
    node_at(r, node)->in[1] = -1;
    if (strcmp(bb_node_string(node_at(r, node), "mode", "nearest"), "bilinear") == 0)
        BB_TRY(set_string(r, node, "mode", "linear"));
    BB_TRY(set_string(r, node, "coordinate_transformation_mode", "asymmetric"));
    return set_string(r, node, "nearest_mode", "floor");
}

static bb_status upgrade_batch_norm(bb_onnx_reader *r, int node) {
    if (bb_node_int(node_at(r, node), "spatial", 1) != 1)
        return unsupported(r, node, "spatial=0");
    if (bb_node_int(node_at(r, node), "training_mode", 0) != 0)
        return unsupported(r, node, "training_mode=1");
    return keep_one_output(r, node);
}

static bb_status upgrade_dropout(bb_onnx_reader *r, int node) {
    const bb_value *training = bb_node_input(r->graph, node_at(r, node), 2);
    bool off = !training || (training->data && *(const uint8_t *)training->data == 0);
    if (!off)
        return unsupported(r, node, "training mode");
    node_at(r, node)->n_in = 1;
    return BB_STATUS_OK;
}

/* Element types of attributes are ONNX numbers in the file, ours in the graph. */
static bb_status convert_type_attr(bb_onnx_reader *r, int node, const char *attr) {
    bb_dtype dtype;
    int64_t type = bb_node_int(node_at(r, node), attr, 0);
    if (type == 0)
        return BB_STATUS_OK;
    if (type < 0 || type > INT32_MAX || !bb_onnx_dtype((int32_t)type, &dtype))
        return unsupported(r, node, "element type");
    return bb_node_set_int(r->graph, node_at(r, node), attr, dtype) ? BB_STATUS_OK
                                                                    : no_memory(r, node);
}

static bb_status upgrade_cast(bb_onnx_reader *r, int node) {
    return convert_type_attr(r, node, "to");
}

static bb_status upgrade_quantize(bb_onnx_reader *r, int node) {
    bb_node *n = node_at(r, node);
    if (bb_node_attr(n, "output_dtype") && bb_node_int(n, "output_dtype", 0) == 0)
        bb_node_remove_attr(n, "output_dtype");
    return convert_type_attr(r, node, "output_dtype");
}

typedef bb_status (*upgrade_rule)(bb_onnx_reader *r, int node);

static const struct {
    bb_op op;
    int below; /* applies to opsets below this one */
    upgrade_rule rule;
} upgrades[] = {
    {BB_OP_BATCH_NORMALIZATION, 99, upgrade_batch_norm},
    {BB_OP_CAST, 99, upgrade_cast},
    {BB_OP_CLIP, 11, upgrade_clip},
    {BB_OP_DROPOUT, 99, upgrade_dropout},
    {BB_OP_LOG_SOFTMAX, 13, upgrade_softmax},
    {BB_OP_PAD, 11, upgrade_pad},
    {BB_OP_QUANTIZE_LINEAR, 99, upgrade_quantize},
    {BB_OP_REDUCE_L1, 18, upgrade_axes},
    {BB_OP_REDUCE_L2, 18, upgrade_axes},
    {BB_OP_REDUCE_LOG_SUM, 18, upgrade_axes},
    {BB_OP_REDUCE_LOG_SUM_EXP, 18, upgrade_axes},
    {BB_OP_REDUCE_MAX, 18, upgrade_axes},
    {BB_OP_REDUCE_MEAN, 18, upgrade_axes},
    {BB_OP_REDUCE_MIN, 18, upgrade_axes},
    {BB_OP_REDUCE_PROD, 18, upgrade_axes},
    {BB_OP_REDUCE_SUM, 13, upgrade_axes},
    {BB_OP_REDUCE_SUM_SQUARE, 18, upgrade_axes},
    {BB_OP_RESIZE, 11, upgrade_upsample},
    {BB_OP_SLICE, 10, upgrade_slice},
    {BB_OP_SOFTMAX, 13, upgrade_softmax},
    {BB_OP_SPLIT, 13, upgrade_split},
    {BB_OP_SQUEEZE, 13, upgrade_axes},
    {BB_OP_UNSQUEEZE, 13, upgrade_axes},
};

bb_status bb_onnx_upgrade(bb_onnx_reader *r, int node) {
    bb_op op = node_at(r, node)->op;
    for (size_t i = 0; i < BB_COUNT(upgrades); i++)
        if (upgrades[i].op == op && r->opset < upgrades[i].below)
            BB_TRY(upgrades[i].rule(r, node));
    return BB_STATUS_OK;
}
