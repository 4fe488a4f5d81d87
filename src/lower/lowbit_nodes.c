/* SPDX-License-Identifier: Apache-2.0 */
/* One graph node: joined to a function of a root, or made into model nodes. */
#include "lower/lowbit.h"
#include <math.h>
#include <string.h>

static bb_status made_codes(bb_lowbit *l, int value, int tensor, const bb_uniform *grid) {
    bb_lb_codes codes = {tensor, *grid};
    bb_root *root;
    l->codes[value] = codes;
    return bb_lb_codes_root(l, value, &codes, &root);
}

static bool is_flat(const bb_lowbit *l, int value) {
    return l->root_of[value] >= 0 && l->roots[l->root_of[value]].flat_pixels != 0;
}

/* ---- pools ---------------------------------------------------------------------------------- */

static bool is_global(const bb_node *node) {
    return node->op == BB_OP_GLOBAL_MAX_POOL || node->op == BB_OP_GLOBAL_AVERAGE_POOL ||
           node->op == BB_OP_REDUCE_MEAN;
}

static bb_status pool_geometry(bb_lowbit *l, const bb_node *node, bb_geometry *geometry) {
    if (!is_global(node))
        return bb_lower_window(l->graph, node, geometry, l->err);
    *geometry = (bb_geometry){0}; /* kernel 0x0: the whole image */
    return BB_STATUS_OK;
}

static bb_status float_pool(bb_lowbit *l, const bb_node *node, bb_float_op op) {
    int in, out;
    bb_model_node *made;
    bb_geometry geometry;
    BB_TRY(pool_geometry(l, node, &geometry));
    BB_TRY(bb_lb_real_of(l, node->in[0], &in));
    BB_TRY(bb_lb_tensor(l, node->out[0], "", NULL, &out));
    BB_TRY(bb_lb_float_node(l, node, op, 1, &in, out, "its input is float", &made));
    made->geometry = geometry;
    return bb_lb_float_root(l, node->out[0], out);
}

static bb_status max_pool(bb_lowbit *l, const bb_node *node) {
    bb_lb_codes codes;
    BB_TRY(bb_lb_codes_of(l, node->in[0], BB_MAX_CODE_BITS, &codes));
    if (codes.tensor < 0)
        return float_pool(l, node, BB_FLOAT_MAX_POOL);
    bb_geometry geometry;
    int out;
    bb_model_node *made;
    BB_TRY(pool_geometry(l, node, &geometry));
    BB_TRY(bb_lb_copy_tensor(l, node->out[0], codes.tensor, &out));
    BB_TRY(bb_lb_node(l, node->name, "", BB_NODE_MAX_POOL, 1, &codes.tensor, 1, &out, &made));
    made->geometry = geometry;
    return made_codes(l, node->out[0], out, &codes.grid);
}

/* Positions that every window sums; 0 where windows differ (partly in the padding). */
static int64_t window_count(const bb_lowbit *l, const bb_node *node, const bb_geometry *g) {
    const bb_value *in = &l->graph->values[node->in[0]];
    if (is_global(node))
        return in->dims[2] > 0 && in->dims[3] > 0 ? in->dims[2] * in->dims[3] : 0;
    bool padded = g->pad_begin[0] || g->pad_begin[1] || g->pad_end[0] || g->pad_end[1];
    return g->ceil_mode || (padded && !g->count_include_pad) ? 0
                                                             : (int64_t)g->kernel[0] * g->kernel[1];
}

static bb_status average_pool(bb_lowbit *l, const bb_node *node) {
    bb_lb_codes codes;
    bb_geometry geometry;
    BB_TRY(pool_geometry(l, node, &geometry));
    BB_TRY(bb_lb_codes_of(l, node->in[0], 8, &codes));
    int64_t n = window_count(l, node, &geometry);
    if (codes.tensor < 0 || n == 0)
        return float_pool(l, node, BB_FLOAT_AVERAGE_POOL);
    bb_model_node *made;
    BB_TRY(bb_lb_node(l, node->name, "", BB_NODE_AVERAGE_POOL, 1, &codes.tensor, 0, NULL, &made));
    made->geometry = geometry;
    int index = (int)(made - l->model->nodes);
    bb_root *root;
    BB_TRY(bb_lb_add_root(l, BB_ROOT_AVERAGE, node->out[0], 1, &root));
    const bb_tensor_params *p = &l->params[codes.tensor];
    int64_t first = -((INT64_C(1) << p->bits) - 1) - p->a0;
    int64_t last = first + 2 * (int64_t)codes.grid.last;
    bool whole = geometry.pad_begin[0] == 0 && geometry.pad_begin[1] == 0 &&
                 geometry.pad_end[0] == 0 && geometry.pad_end[1] == 0;
    root->node = index;
    root->count = n;
    root->low[0] = n * first;
    root->high[0] = n * last;
    root->stride = whole ? 2 : 1; /* padding adds the real value 0 */
    root->scale[0] = codes.grid.unit / 2 / (double)n;
    return BB_STATUS_OK;
}

/* ---- joining and moving --------------------------------------------------------------------- */

/* The grid that holds all grids of one unit and phase. */
static bool join_grids(const bb_lb_codes *codes, int n, bb_uniform *grid) {
    double low = codes[0].grid.low, unit = codes[0].grid.unit;
    double high = low + unit * codes[0].grid.last;
    for (int i = 1; i < n; i++) {
        const bb_uniform *g = &codes[i].grid;
        double shift = (g->low - low) / unit;
        if (fabs(g->unit - unit) > 1e-6 * unit || fabs(shift - floor(shift + 0.5)) > 1e-3)
            return false;
        high = fmax(high, g->low + unit * g->last);
        low = fmin(low, g->low);
    }
    double last = floor((high - low) / unit + 0.5);
    *grid = (bb_uniform){1, low, unit, last < 65536 ? (uint32_t)last : 65536};
    while ((UINT32_C(1) << grid->bits) - 1 < grid->last)
        grid->bits++;
    return grid->last < 65536;
}

static bb_status float_concat(bb_lowbit *l, const bb_node *node) {
    int in[BB_MAX_NODE_INPUTS], out;
    bb_model_node *made;
    for (int i = 0; i < node->n_in; i++)
        BB_TRY(bb_lb_real_of(l, node->in[i], &in[i]));
    BB_TRY(bb_lb_tensor(l, node->out[0], "", NULL, &out));
    BB_TRY(bb_lb_float_node(l, node, BB_FLOAT_CONCAT, node->n_in, in, out, "its input is float",
                            &made));
    return bb_lb_float_root(l, node->out[0], out);
}

static bool same_params(const bb_lowbit *l, int tensor, const bb_uniform *grid) {
    const bb_tensor_params *p = &l->params[tensor];
    bool whole;
    return p->bits == grid->bits && p->a0 == bb_lb_a0(grid, &whole) &&
           p->step == (float)(grid->unit / 2);
}

static bb_status concat(bb_lowbit *l, const bb_node *node) {
    bb_lb_codes codes[BB_MAX_NODE_INPUTS];
    int rank = l->graph->values[node->out[0]].rank, in[BB_MAX_NODE_INPUTS], out;
    int64_t axis = bb_node_int(node, "axis", 1);
    if (node->n_in > BB_MAX_NODE_INPUTS || (axis < 0 ? axis + rank : axis) != 1)
        return bb_lb_fail(l, node, "only up to 16 values can be joined, along channels");
    bool all = true;
    for (int i = 0; i < node->n_in; i++) {
        if (l->root_of[node->in[i]] < 0 || is_flat(l, node->in[i]))
            return bb_lb_fail(l, node, "an input is constant or a flattened image");
        BB_TRY(bb_lb_codes_of(l, node->in[i], BB_MAX_CODE_BITS, &codes[i]));
        all = all && codes[i].tensor >= 0;
    }
    bb_uniform grid;
    if (!all || !join_grids(codes, node->n_in, &grid))
        return float_concat(l, node);
    for (int i = 0; i < node->n_in; i++) {
        in[i] = codes[i].tensor;
        if (!same_params(l, in[i], &grid))
            BB_TRY(bb_lb_convert(l, node->in[i], &codes[i], &grid, &in[i]));
    }
    bb_model_node *made;
    BB_TRY(bb_lb_tensor(l, node->out[0], "", &grid, &out));
    BB_TRY(bb_lb_node(l, node->name, "", BB_NODE_CONCAT, node->n_in, in, 1, &out, &made));
    return made_codes(l, node->out[0], out, &grid);
}

static bb_status gather(bb_lowbit *l, const bb_node *node, int from, int value,
                        const int32_t *index, bool *done) {
    bb_lb_codes codes;
    BB_TRY(bb_lb_codes_of(l, from, BB_MAX_CODE_BITS, &codes));
    *done = codes.tensor >= 0;
    if (!*done)
        return BB_STATUS_OK;
    uint32_t n = bb_lb_channels(l, value);
    int32_t *copy = bb_arena_array(l->model->arena, n, sizeof(*copy));
    int out;
    bb_model_node *made;
    if (!copy)
        return bb_fail_memory(l->err, "channel indices");
    memcpy(copy, index, n * sizeof(*copy));
    BB_TRY(bb_lb_copy_tensor(l, value, codes.tensor, &out));
    BB_TRY(
        bb_lb_node(l, node->name, "", BB_NODE_GATHER_CHANNELS, 1, &codes.tensor, 1, &out, &made));
    made->channel_index = copy;
    made->n_channel_index = n;
    return made_codes(l, value, out, &codes.grid);
}

/* Flattening of an image: order 1 = NCHW in the graph, and NHWC in the model. */
static bb_status flatten(bb_lowbit *l, const bb_node *node, int from, int value, int order) {
    int64_t dims[4];
    bb_lb_codes codes;
    bb_image_dims(&l->graph->values[from], dims);
    BB_TRY(bb_lb_codes_of(l, from, BB_MAX_CODE_BITS, &codes));
    int in = codes.tensor, out;
    bb_model_node *made;
    if (in >= 0) {
        BB_TRY(bb_lb_copy_tensor(l, value, in, &out));
        BB_TRY(bb_lb_node(l, node->name, "", BB_NODE_RESHAPE, 1, &in, 1, &out, &made));
        BB_TRY(made_codes(l, value, out, &codes.grid));
    } else {
        BB_TRY(bb_lb_real_of(l, from, &in));
        BB_TRY(bb_lb_tensor(l, value, "", NULL, &out));
        BB_TRY(
            bb_lb_float_node(l, node, BB_FLOAT_RESHAPE, 1, &in, out, "its input is float", &made));
        BB_TRY(bb_lb_float_root(l, value, out));
    }
    bb_root *root = &l->roots[l->root_of[value]];
    if (order == 1) {
        root->flat_channels = (uint32_t)dims[1];
        root->flat_pixels = (uint32_t)(dims[2] * dims[3]);
    }
    return BB_STATUS_OK;
}

static bb_status place_view(bb_lowbit *l, const bb_node *node, int value, const bb_view *view) {
    const int32_t *index = bb_view_channels(l->graph, view, value);
    bool done = false;
    if (index && l->graph->values[value].rank == l->graph->values[view->root].rank &&
        !is_flat(l, view->root))
        BB_TRY(gather(l, node, view->root, value, index, &done));
    if (done)
        return BB_STATUS_OK;
    int order = bb_view_flat_order(l->graph, view, value);
    if (order != 0 && l->graph->values[view->root].rank == 4)
        return flatten(l, node, view->root, value, order);
    l->views[value] = *view;
    return BB_STATUS_OK;
}

static bb_status move(bb_lowbit *l, const bb_node *node) {
    bb_view view = l->views[node->in[0]], out[BB_MAX_NODE_INPUTS];
    if (!view.source)
        BB_TRY(bb_view_identity(l->graph, node->in[0], &view, l->err));
    BB_TRY(bb_view_apply(l->graph, node, &view, out, l->err));
    for (int k = 0; k < node->n_out; k++)
        if (node->out[k] >= 0)
            BB_TRY(place_view(l, node, node->out[k], &out[k]));
    return BB_STATUS_OK;
}

static bb_status resize(bb_lowbit *l, const bb_node *node) {
    const bb_value *from = &l->graph->values[node->in[0]], *to = &l->graph->values[node->out[0]];
    const char *where = bb_node_string(node, "coordinate_transformation_mode", "half_pixel");
    const char *nearest = bb_node_string(node, "nearest_mode", "round_prefer_floor");
    bool floors =
        strcmp(where, "asymmetric") == 0 ? strcmp(nearest, "floor") == 0 : nearest[0] == 'r';
    if (from->rank != 4 || to->rank != 4 || from->dims[2] <= 0 || from->dims[3] <= 0 ||
        to->dims[2] % from->dims[2] != 0 || to->dims[3] % from->dims[3] != 0 || !floors ||
        strcmp(bb_node_string(node, "mode", "nearest"), "nearest") != 0)
        return bb_lb_fail(l, node, "only nearest-neighbour enlargement by whole factors can be");
    bb_lb_codes codes;
    BB_TRY(bb_lb_codes_of(l, node->in[0], BB_MAX_CODE_BITS, &codes));
    if (codes.tensor < 0)
        return bb_lb_fail(l, node, "its input is float in the source");
    int out;
    bb_model_node *made;
    BB_TRY(bb_lb_copy_tensor(l, node->out[0], codes.tensor, &out));
    BB_TRY(bb_lb_node(l, node->name, "", BB_NODE_RESIZE_NEAREST, 1, &codes.tensor, 1, &out, &made));
    made->resize_factor[0] = (int32_t)(to->dims[2] / from->dims[2]);
    made->resize_factor[1] = (int32_t)(to->dims[3] / from->dims[3]);
    return made_codes(l, node->out[0], out, &codes.grid);
}

/* ---- floats --------------------------------------------------------------------------------- */

static bb_status softmax(bb_lowbit *l, const bb_node *node) {
    int rank = l->graph->values[node->in[0]].rank, in, out;
    int64_t axis = bb_node_int(node, "axis", -1);
    if ((axis < 0 ? axis + rank : axis) != 1)
        return bb_lb_fail(l, node, "only a softmax over channels can be");
    bb_model_node *made;
    BB_TRY(bb_lb_real_of(l, node->in[0], &in));
    BB_TRY(bb_lb_tensor(l, node->out[0], "", NULL, &out));
    BB_TRY(bb_lb_float_node(l, node, BB_FLOAT_SOFTMAX, 1, &in, out, "softmax has no integer form",
                            &made));
    return bb_lb_float_root(l, node->out[0], out);
}

static bb_status product(bb_lowbit *l, const bb_node *node) {
    int in[2], out;
    for (int i = 0; i < 2; i++) {
        if (node->n_in != 2 || l->root_of[node->in[i]] < 0)
            return bb_lb_fail(l, node, "its operands are not two computed values");
        BB_TRY(bb_lb_real_of(l, node->in[i], &in[i]));
    }
    bb_model_node *made;
    BB_TRY(bb_lb_tensor(l, node->out[0], "", NULL, &out));
    BB_TRY(bb_lb_float_node(l, node, BB_FLOAT_MUL, 2, in, out, "multiplies floats in the source",
                            &made));
    return bb_lb_float_root(l, node->out[0], out);
}

/* ReduceMean over rows and columns, or anything else of that name. */
static bool is_image_mean(bb_lowbit *l, const bb_node *node) {
    const bb_value *in = &l->graph->values[node->in[0]], *out = &l->graph->values[node->out[0]];
    const bb_array *axes = bb_node_has_input(node, 1) ? bb_lb_constant(l, node->in[1]) : NULL;
    if (in->rank != 4 || !axes || bb_lb_elements(axes) != 2 || out->rank != 4)
        return false;
    int64_t sum = 0;
    for (size_t i = 0; i < 2; i++) {
        int64_t axis = (int64_t)bb_lb_element(axes, i);
        axis = axis < 0 ? axis + 4 : axis;
        if (axis != 2 && axis != 3)
            return false;
        sum += axis;
    }
    return sum == 5;
}

static bb_status layer(bb_lowbit *l, const bb_node *node) {
    switch (node->op) {
    case BB_OP_CONV:
    case BB_OP_GEMM:
    case BB_OP_MATMUL:
        return bb_lb_conv(l, node);
    case BB_OP_ADD:
    case BB_OP_SUM:
        return bb_lb_add(l, node);
    case BB_OP_MUL:
        return product(l, node);
    case BB_OP_MAX_POOL:
    case BB_OP_GLOBAL_MAX_POOL:
        return max_pool(l, node);
    case BB_OP_REDUCE_MEAN:
        if (!is_image_mean(l, node))
            return bb_lb_fail(l, node, "only a mean over rows and columns can be imported");
        return average_pool(l, node);
    case BB_OP_AVERAGE_POOL:
    case BB_OP_GLOBAL_AVERAGE_POOL:
        return average_pool(l, node);
    case BB_OP_CONCAT:
        return concat(l, node);
    case BB_OP_RESIZE:
        return resize(l, node);
    case BB_OP_SOFTMAX:
        return softmax(l, node);
    default:
        return bb_lb_fail(l, node, "this operator is not part of the low-bit import");
    }
}

/* A quantizer starts a chain of its own: what follows is a function of its codes. */
static bb_status quantized(bb_lowbit *l, int value) {
    bb_declared d;
    bb_lb_codes codes;
    int producer = l->graph->values[value].producer;
    if (l->roots[l->root_of[value]].flat_pixels || !bb_lb_declared(l, value, &d) ||
        (d.input < 0 && l->graph->nodes[producer].op != BB_OP_QONNX_MULTI_THRESHOLD))
        return BB_STATUS_OK;
    BB_TRY(bb_lb_codes_of(l, value, BB_MAX_CODE_BITS, &codes));
    return codes.tensor < 0 ? BB_STATUS_OK : made_codes(l, value, codes.tensor, &codes.grid);
}

static bool is_constant_node(bb_lowbit *l, const bb_node *node) {
    return node->n_out == 1 && bb_lb_constant(l, node->out[0]) != NULL;
}

bb_status bb_lb_node_of(bb_lowbit *l, const bb_node *node) {
    int root;
    if (is_constant_node(l, node))
        return BB_STATUS_OK;
    if (bb_lb_elementwise(l, node, &root)) {
        l->root_of[node->out[0]] = root;
        return quantized(l, node->out[0]);
    }
    if (bb_is_movement(node->op) && node->n_in > 0 &&
        (l->root_of[node->in[0]] >= 0 || l->views[node->in[0]].source))
        return move(l, node);
    for (int i = 0; i < node->n_in; i++)
        if (node->in[i] >= 0 && l->root_of[node->in[i]] < 0 && !bb_lb_constant(l, node->in[i]))
            return bb_lb_fail(l, node, "its input has its elements moved in a way no layer can");
    return layer(l, node);
}
