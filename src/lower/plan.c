/* SPDX-License-Identifier: Apache-2.0 */
/* Fusion analysis: which graph nodes become one model node. */
#include "lower/blocks.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct planner {
    bb_graph *graph;
    const bool *float_nodes;
    bb_block_plan *plan;
    bool *claimed;   /* [n_nodes] belongs to a block already */
    bool *available; /* [n_values] inputs and outputs of the blocks so far */
    bool *is_float;  /* [n_values] made by a FLOAT block */
    bb_view *views;  /* [n_values] moved elements that are no block of their own yet */
    bb_error *err;
} planner;

static const bb_value *value_of(const planner *p, int value) {
    return &p->graph->values[value];
}

static bool is_constant(const planner *p, int value) {
    return value >= 0 && bb_value_is_constant(value_of(p, value));
}

static bb_status refuse(const planner *p, const bb_node *node, const char *why) {
    return bb_fail(p->err, BB_STATUS_UNSUPPORTED,
                   "%s: node '%s' (%s, opset %d) cannot become an integer or a float layer: %s",
                   p->graph->name, node->name, bb_op_name(node->op), p->graph->opset, why);
}

static bb_block *add_block(planner *p, bb_block_kind kind, int node, int n_in, const int *in,
                           int output) {
    bb_block *block = &p->plan->blocks[p->plan->n++];
    *block = (bb_block){.kind = kind,
                        .node = node,
                        .last_node = node,
                        .n_in = n_in,
                        .output = output,
                        .pre_activation = output};
    memcpy(block->in, in, (size_t)n_in * sizeof(*in));
    p->claimed[node] = true;
    p->available[output] = true;
    return block;
}

static void add_float_block(planner *p, int node, int n_in, const int *in, int output,
                            const char *reason) {
    bb_block *block = add_block(p, BB_BLOCK_FLOAT, node, n_in, in, output);
    block->reason = reason;
    p->is_float[output] = true;
}

static void move_output(planner *p, bb_block *block, int node, int output) {
    p->available[block->output] = false;
    p->claimed[node] = true;
    block->last_node = node;
    block->output = output;
    p->available[output] = true;
}

/* A float node follows only if it was asked for by itself. */
static bool wanted_float(const planner *p, int node) {
    return p->float_nodes && p->float_nodes[node];
}

static void fuse_activation(planner *p, bb_block *block) {
    bb_activation act;
    int nodes[2];
    if (!bb_match_activation(p->graph, block->output, &act, nodes) || wanted_float(p, nodes[1]))
        return;
    if (nodes[0] >= 0)
        p->claimed[nodes[0]] = true;
    block->activation = act;
    move_output(p, block, nodes[1], p->graph->nodes[nodes[1]].out[0]);
}

static bool same_dims(const bb_value *a, const bb_value *b) {
    if (a->rank != b->rank)
        return false;
    for (int i = 0; i < a->rank; i++)
        if (a->dims[i] != b->dims[i])
            return false;
    return true;
}

/* The convolution that comes last takes the Add: its other operand exists already. */
static void fuse_residual(planner *p, bb_block *block) {
    int add = bb_sole_consumer(p->graph, block->output);
    if (add < 0 || p->graph->nodes[add].op != BB_OP_ADD || wanted_float(p, add))
        return;
    const bb_node *node = &p->graph->nodes[add];
    int other = node->in[0] == block->output ? node->in[1] : node->in[0];
    if (other == block->output || is_constant(p, other) || !p->available[other] ||
        !same_dims(value_of(p, other), value_of(p, block->output)))
        return;
    block->in[block->n_in++] = other;
    move_output(p, block, add, node->out[0]);
    block->pre_activation = node->out[0];
}

static bool constant_floats(const planner *p, const bb_node *node, int i) {
    const bb_value *v = bb_node_input(p->graph, node, i);
    return v && bb_value_is_constant(v) && v->dtype == BB_DTYPE_F32;
}

static bb_status plan_conv(planner *p, int i) {
    const bb_node *node = &p->graph->nodes[i];
    if (!constant_floats(p, node, 1) ||
        (bb_node_has_input(node, 2) && !constant_floats(p, node, 2)))
        return refuse(p, node, "its weights are not constant");
    if (node->op == BB_OP_GEMM && bb_node_int(node, "transA", 0))
        return refuse(p, node, "transA is set");
    int rank = value_of(p, node->in[0])->rank;
    if (rank != (node->op == BB_OP_GEMM ? 2 : 4))
        return refuse(p, node, "only images [N,C,H,W] and vectors [N,C] can");
    if (wanted_float(p, i)) {
        add_float_block(p, i, 1, node->in, node->out[0], "kept float as asked");
        return BB_STATUS_OK;
    }
    bb_block *block = add_block(p, BB_BLOCK_CONV, i, 1, node->in, node->out[0]);
    fuse_residual(p, block);
    fuse_activation(p, block);
    return BB_STATUS_OK;
}

/* A constant that holds one number, or one per channel of an image or vector. */
static bool per_channel(const planner *p, int value, int data, size_t *n) {
    const bb_value *v = value_of(p, value), *x = value_of(p, data);
    if (v->dtype != BB_DTYPE_F32 || x->rank < 2 || !bb_value_elements(v, n))
        return false;
    int axis = v->rank - (x->rank - 1);
    return *n == 1 || (axis >= 0 && v->dims[axis] == x->dims[1] && (int64_t)*n == x->dims[1]);
}

static bool affine_arrays(planner *p, int data, float **scale, float **shift) {
    int64_t channels = value_of(p, data)->dims[1];
    if (channels <= 0)
        return false;
    *scale = bb_arena_array(p->graph->arena, (size_t)channels, sizeof(**scale));
    *shift = bb_arena_array(p->graph->arena, (size_t)channels, sizeof(**shift));
    return *scale && *shift;
}

/* Add, Sub, Mul, Div with a constant on either side as x*scale + shift. */
static bool constant_affine(planner *p, const bb_node *node, int *data, float **scale,
                            float **shift) {
    int side = is_constant(p, node->in[1]) ? 1 : 0;
    size_t n;
    *data = node->in[1 - side];
    if (is_constant(p, *data) || !per_channel(p, node->in[side], *data, &n) ||
        (node->op == BB_OP_DIV && side == 0) || !affine_arrays(p, *data, scale, shift))
        return false;
    const float *k = value_of(p, node->in[side])->data;
    for (int64_t c = 0; c < value_of(p, *data)->dims[1]; c++) {
        float v = k[n == 1 ? 0 : c];
        switch (node->op) {
        case BB_OP_MUL:
            (*scale)[c] = v;
            break;
        case BB_OP_DIV:
            (*scale)[c] = 1.0f / v;
            break;
        case BB_OP_SUB:
            (*scale)[c] = side == 1 ? 1.0f : -1.0f;
            (*shift)[c] = side == 1 ? -v : v;
            break;
        default:
            (*scale)[c] = 1.0f;
            (*shift)[c] = v;
            break;
        }
    }
    return true;
}

static bool batch_norm_affine(planner *p, const bb_node *node, int *data, float **scale,
                              float **shift) {
    *data = node->in[0];
    for (int i = 1; i < 5; i++)
        if (!constant_floats(p, node, i))
            return false;
    if (!affine_arrays(p, *data, scale, shift))
        return false;
    const float *gamma = bb_node_input(p->graph, node, 1)->data;
    const float *beta = bb_node_input(p->graph, node, 2)->data;
    const float *mean = bb_node_input(p->graph, node, 3)->data;
    const float *var = bb_node_input(p->graph, node, 4)->data;
    double epsilon = (double)bb_node_float(node, "epsilon", 1e-5f);
    for (int64_t c = 0; c < value_of(p, *data)->dims[1]; c++) {
        double k = (double)gamma[c] / sqrt((double)var[c] + epsilon);
        (*scale)[c] = (float)k;
        (*shift)[c] = (float)((double)beta[c] - k * (double)mean[c]);
    }
    return true;
}

/* A per-channel affine map that nothing before it could take in, with the activation after it. */
static bb_status plan_affine(planner *p, int i) {
    const bb_node *node = &p->graph->nodes[i];
    int data;
    float *scale, *shift;
    bool ok = node->op == BB_OP_BATCH_NORMALIZATION
                  ? batch_norm_affine(p, node, &data, &scale, &shift)
                  : constant_affine(p, node, &data, &scale, &shift);
    if (!ok)
        return refuse(p, node, "its constant is not one number or one per channel");
    if (wanted_float(p, i) || p->is_float[data]) {
        add_float_block(p, i, 1, &data, node->out[0], "follows a float layer");
        bb_block *block = &p->plan->blocks[p->plan->n - 1];
        block->scale = scale;
        block->shift = shift;
        return BB_STATUS_OK;
    }
    bb_block *block = add_block(p, BB_BLOCK_ACTIVATION, i, 1, &data, node->out[0]);
    block->scale = scale;
    block->shift = shift;
    fuse_activation(p, block);
    return BB_STATUS_OK;
}

static bb_status plan_add(planner *p, int i) {
    const bb_node *node = &p->graph->nodes[i];
    if (is_constant(p, node->in[0]) || is_constant(p, node->in[1]))
        return plan_affine(p, i);
    if (!same_dims(value_of(p, node->in[0]), value_of(p, node->in[1])))
        return refuse(p, node, "its operands have different shapes");
    if (wanted_float(p, i)) {
        add_float_block(p, i, 2, node->in, node->out[0], "kept float as asked");
        return BB_STATUS_OK;
    }
    fuse_activation(p, add_block(p, BB_BLOCK_ADD, i, 2, node->in, node->out[0]));
    return BB_STATUS_OK;
}

static bool broadcasts_over_image(const bb_value *image, const bb_value *gate) {
    return image->rank == 4 && gate->rank == 4 && gate->dims[1] == image->dims[1] &&
           gate->dims[2] == 1 && gate->dims[3] == 1;
}

static bb_status plan_mul(planner *p, int i) {
    const bb_node *node = &p->graph->nodes[i];
    if (is_constant(p, node->in[0]) || is_constant(p, node->in[1]))
        return plan_affine(p, i);
    int in[2] = {node->in[0], node->in[1]};
    if (broadcasts_over_image(value_of(p, in[1]), value_of(p, in[0]))) {
        in[0] = node->in[1];
        in[1] = node->in[0];
    }
    const bb_value *a = value_of(p, in[0]), *b = value_of(p, in[1]);
    if (!same_dims(a, b) && !broadcasts_over_image(a, b))
        return refuse(p, node, "its operands have shapes that do not fit");
    if (wanted_float(p, i)) {
        add_float_block(p, i, 2, in, node->out[0], "kept float as asked");
        return BB_STATUS_OK;
    }
    fuse_activation(p, add_block(p, BB_BLOCK_MUL, i, 2, in, node->out[0]));
    return BB_STATUS_OK;
}

static bb_status plan_activation(planner *p, int i) {
    bb_node *node = &p->graph->nodes[i];
    bb_activation act;
    if (!bb_activation_of_node(p->graph, node, &act))
        return refuse(p, node, "its parameters are not constant");
    bool float_input = p->is_float[node->in[0]];
    if (wanted_float(p, i) || float_input) {
        add_float_block(p, i, 1, node->in, node->out[0],
                        float_input ? "follows a float layer" : "kept float as asked");
        p->plan->blocks[p->plan->n - 1].activation = act;
        return BB_STATUS_OK;
    }
    bb_block *block = add_block(p, BB_BLOCK_ACTIVATION, i, 1, node->in, node->out[0]);
    block->pre_activation = node->in[0];
    block->activation = act;
    return BB_STATUS_OK;
}

static bb_status plan_pool(planner *p, int i) {
    const bb_node *node = &p->graph->nodes[i];
    bool max = node->op == BB_OP_MAX_POOL || node->op == BB_OP_GLOBAL_MAX_POOL;
    if (value_of(p, node->in[0])->rank != 4)
        return refuse(p, node, "only images [N,C,H,W] can be pooled");
    if (node->n_out > 1 && node->out[1] >= 0)
        return refuse(p, node, "its indices are used");
    if (wanted_float(p, i)) {
        add_float_block(p, i, 1, node->in, node->out[0], "kept float as asked");
        return BB_STATUS_OK;
    }
    bb_block *block =
        add_block(p, max ? BB_BLOCK_MAX_POOL : BB_BLOCK_AVERAGE_POOL, i, 1, node->in, node->out[0]);
    if (!max)
        fuse_activation(p, block);
    return BB_STATUS_OK;
}

static bb_status plan_concat(planner *p, int i) {
    const bb_node *node = &p->graph->nodes[i];
    int rank = value_of(p, node->out[0])->rank;
    int64_t axis = bb_node_int(node, "axis", 1);
    if (node->n_in > BB_MAX_NODE_INPUTS || (rank != 4 && rank != 2) ||
        (axis < 0 ? axis + rank : axis) != 1)
        return refuse(p, node, "only up to 16 values can be joined, along channels");
    for (int k = 0; k < node->n_in; k++)
        if (is_constant(p, node->in[k]))
            return refuse(p, node, "one of its values is constant");
    if (wanted_float(p, i))
        add_float_block(p, i, node->n_in, node->in, node->out[0], "kept float as asked");
    else
        add_block(p, BB_BLOCK_CONCAT, i, node->n_in, node->in, node->out[0]);
    return BB_STATUS_OK;
}

static bb_status plan_softmax(planner *p, int i) {
    const bb_node *node = &p->graph->nodes[i];
    int rank = value_of(p, node->in[0])->rank;
    int64_t axis = bb_node_int(node, "axis", -1);
    if ((rank != 2 && rank != 4) || (axis < 0 ? axis + rank : axis) != 1)
        return refuse(p, node, "only a softmax over channels can");
    add_float_block(p, i, 1, node->in, node->out[0], "softmax has no integer form");
    return BB_STATUS_OK;
}

/* Integer enlargement factor along image axis (2 or 3), or 0. */
static int32_t enlargement(const bb_value *in, const bb_value *out, int axis) {
    if (in->dims[axis] <= 0 || out->dims[axis] <= 0 || out->dims[axis] % in->dims[axis] != 0)
        return 0;
    return (int32_t)(out->dims[axis] / in->dims[axis]);
}

/* With an integer factor f, output x reads input floor(x/f) under these rules: half_pixel centres
 * lie strictly nearer to it; asymmetric with rounding does so only for f <= 2 and ties downwards.
 */
static bool floor_rule(const bb_node *node, int32_t factor) {
    const char *where = bb_node_string(node, "coordinate_transformation_mode", "half_pixel");
    const char *nearest = bb_node_string(node, "nearest_mode", "round_prefer_floor");
    bool rounds = strncmp(nearest, "round_prefer", 12) == 0;
    if (strcmp(where, "half_pixel") == 0 || strcmp(where, "pytorch_half_pixel") == 0 ||
        strcmp(where, "half_pixel_symmetric") == 0)
        return rounds;
    if (strcmp(where, "asymmetric") != 0)
        return false;
    return strcmp(nearest, "floor") == 0 ||
           (strcmp(nearest, "round_prefer_floor") == 0 && factor <= 2);
}

static bb_status plan_resize(planner *p, int i) {
    const bb_node *node = &p->graph->nodes[i];
    const bb_value *in = value_of(p, node->in[0]), *out = value_of(p, node->out[0]);
    if (in->rank != 4 || out->rank != 4 || in->dims[1] != out->dims[1])
        return refuse(p, node, "only the rows and columns of an image can be resized");
    int32_t fy = enlargement(in, out, 2), fx = enlargement(in, out, 3);
    if (strcmp(bb_node_string(node, "mode", "nearest"), "nearest") != 0 || fy == 0 || fx == 0 ||
        !floor_rule(node, fy > fx ? fy : fx))
        return refuse(p, node, "only nearest-neighbour enlargement by whole factors can");
    bb_block *block = add_block(p, BB_BLOCK_RESIZE, i, 1, node->in, node->out[0]);
    block->resize_factor[0] = fy;
    block->resize_factor[1] = fx;
    return BB_STATUS_OK;
}

/* [N,C,1,1] <-> [N,C] and flattening keep the element order that the model uses, except NCHW
 * flattening of an image with several pixels, which the Gemm after it makes up for. */
static bool place_view(planner *p, int node, int value, const bb_view *view) {
    const bb_value *v = value_of(p, value);
    const int32_t *index = bb_view_channels(p->graph, view, value);
    if (index && v->rank == value_of(p, view->root)->rank) {
        bb_block *block = add_block(p, BB_BLOCK_CHANNELS, node, 1, &view->root, value);
        block->channel_index = index;
        block->n_channel_index = (uint32_t)v->dims[1];
        return true;
    }
    if (bb_view_flat_order(p->graph, view, value) == 0)
        return false;
    add_block(p, BB_BLOCK_RESHAPE, node, 1, &view->root, value);
    if (p->is_float[view->root]) {
        bb_block *block = &p->plan->blocks[p->plan->n - 1];
        block->kind = BB_BLOCK_FLOAT;
        block->reason = "follows a float layer";
        p->is_float[value] = true;
    }
    return true;
}

static bb_status plan_movement(planner *p, int i) {
    const bb_node *node = &p->graph->nodes[i];
    int data = node->in[0];
    bb_view view = p->views[data], out[BB_MAX_NODE_INPUTS];
    if (!view.source)
        BB_TRY(bb_view_identity(p->graph, data, &view, p->err));
    BB_TRY(bb_view_apply(p->graph, node, &view, out, p->err));
    p->claimed[i] = true;
    for (int k = 0; k < node->n_out; k++)
        if (node->out[k] >= 0 && !place_view(p, i, node->out[k], &out[k]))
            p->views[node->out[k]] = out[k];
    return BB_STATUS_OK;
}

static bb_status plan_node(planner *p, int i) {
    const bb_node *node = &p->graph->nodes[i];
    if (bb_is_movement(node->op))
        return plan_movement(p, i);
    switch (node->op) {
    case BB_OP_CONV:
    case BB_OP_GEMM:
        return plan_conv(p, i);
    case BB_OP_ADD:
        return plan_add(p, i);
    case BB_OP_MUL:
        return plan_mul(p, i);
    case BB_OP_SUB:
    case BB_OP_DIV:
        if (!is_constant(p, node->in[0]) && !is_constant(p, node->in[1]))
            return refuse(p, node, "both of its operands are computed");
        return plan_affine(p, i);
    case BB_OP_BATCH_NORMALIZATION:
        return plan_affine(p, i);
    case BB_OP_MAX_POOL:
    case BB_OP_GLOBAL_MAX_POOL:
    case BB_OP_AVERAGE_POOL:
    case BB_OP_GLOBAL_AVERAGE_POOL:
        return plan_pool(p, i);
    case BB_OP_CONCAT:
        return plan_concat(p, i);
    case BB_OP_SOFTMAX:
        return plan_softmax(p, i);
    case BB_OP_RESIZE:
        return plan_resize(p, i);
    default: {
        bb_activation act;
        if (bb_activation_of_node(p->graph, node, &act))
            return plan_activation(p, i);
        return refuse(p, node, "this operator is not one of them");
    }
    }
}

/* Every operand must be a value that a block makes, not elements moved in between. */
static bb_status check_operands(planner *p, int i) {
    const bb_node *node = &p->graph->nodes[i];
    if (bb_is_movement(node->op) && p->views[node->in[0]].source)
        return BB_STATUS_OK;
    for (int k = 0; k < node->n_in; k++)
        if (node->in[k] >= 0 && !is_constant(p, node->in[k]) && !p->available[node->in[k]])
            return refuse(p, node, "its input has its elements moved in a way no layer can");
    return BB_STATUS_OK;
}

static bb_status check_outputs(const planner *p) {
    for (size_t i = 0; i < p->graph->n_outputs; i++)
        if (!p->available[p->graph->outputs[i]])
            return bb_fail(p->err, BB_STATUS_UNSUPPORTED,
                           "%s: output '%s' has its elements moved in a way no layer can",
                           p->graph->name, value_of(p, p->graph->outputs[i])->name);
    return BB_STATUS_OK;
}

bb_status bb_lower_plan(bb_graph *graph, const bool *float_nodes, bb_block_plan *plan,
                        bb_error *err) {
    size_t n_blocks = 0;
    BB_TRY(bb_lower_check_size(graph, err));
    for (size_t i = 0; i < graph->n_nodes; i++)
        n_blocks += (size_t)graph->nodes[i].n_out;
    planner p = {
        .graph = graph,
        .float_nodes = float_nodes,
        .plan = plan,
        .claimed = bb_arena_array(graph->arena, graph->n_nodes + 1, sizeof(bool)),
        .available = bb_arena_array(graph->arena, graph->n_values + 1, sizeof(bool)),
        .is_float = bb_arena_array(graph->arena, graph->n_values + 1, sizeof(bool)),
        .views = bb_arena_array(graph->arena, graph->n_values + 1, sizeof(bb_view)),
        .err = err,
    };
    *plan = (bb_block_plan){.blocks =
                                bb_arena_array(graph->arena, n_blocks + 1, sizeof(*plan->blocks))};
    if (!p.claimed || !p.available || !p.is_float || !p.views || !plan->blocks)
        return bb_fail_memory(err, "the block plan");
    for (size_t i = 0; i < graph->n_inputs; i++)
        p.available[graph->inputs[i]] = true;
    for (size_t i = 0; i < graph->n_nodes; i++) {
        if (p.claimed[i])
            continue;
        BB_TRY(check_operands(&p, (int)i));
        BB_TRY(plan_node(&p, (int)i));
    }
    return check_outputs(&p);
}
