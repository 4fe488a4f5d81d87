/* SPDX-License-Identifier: Apache-2.0 */
/* Shape binding: concrete dimensions of every tensor for given input dimensions. */
#include "model/validate.h"
#include <string.h>

enum { N, H, W, C };

/* BB_MAX_WINDOW and BB_MAX_DIM keep all of this far below 2^53. */
static int64_t extent_of(const bb_geometry *g, int axis) {
    return (int64_t)(g->kernel[axis] - 1) * g->dilation[axis] + 1;
}

int32_t bb_geometry_out(const bb_geometry *g, int axis, int32_t in) {
    if (g->kernel[axis] == 0)
        return 1;
    int64_t free = (int64_t)in + g->pad_begin[axis] + g->pad_end[axis] - extent_of(g, axis);
    if (free < 0)
        return 0;
    int64_t stride = g->stride[axis];
    int64_t out = (g->ceil_mode ? free + stride - 1 : free) / stride + 1;
    /* ONNX: the last window must start inside the image or its leading padding. */
    if (g->ceil_mode && (out - 1) * stride >= (int64_t)in + g->pad_begin[axis])
        out--;
    return out > BB_MAX_DIM ? 0 : (int32_t)out;
}

/* Of the taps start, start + dilation, ... the first one not before the image decides. */
static bool window_has_valid_tap(const bb_geometry *g, int axis, int32_t in, int32_t position) {
    int64_t start = (int64_t)position * g->stride[axis] - g->pad_begin[axis];
    int64_t dilation = g->dilation[axis];
    int64_t k = start < 0 ? (-start + dilation - 1) / dilation : 0;
    return k < g->kernel[axis] && start + k * dilation < in;
}

/* Windows that start inside the image can only fail together with the last one. */
static bool windows_have_valid_taps(const bb_geometry *g, int axis, int32_t in, int32_t out) {
    for (int32_t i = 0; i < out && (int64_t)i * g->stride[axis] < g->pad_begin[axis]; i++)
        if (!window_has_valid_tap(g, axis, in, i))
            return false;
    return window_has_valid_tap(g, axis, in, out - 1);
}

static bb_status fail(const bb_model_node *node, bb_error *err, const char *what) {
    return bb_fail(err, BB_STATUS_BAD_FILE, "node '%s': %s", node->name, what);
}

static bb_status fail_size(const bb_model_node *node, const int32_t *in, bb_error *err) {
    return bb_fail(err, BB_STATUS_BAD_FILE, "node '%s': a %dx%d image is too small for its window",
                   node->name, in[H], in[W]);
}

static bb_status bind_window(const bb_model_node *node, const int32_t *in, int32_t *out,
                             bb_error *err) {
    for (int axis = 0; axis < 2; axis++) {
        out[H + axis] = bb_geometry_out(&node->geometry, axis, in[H + axis]);
        if (out[H + axis] == 0)
            return fail_size(node, in, err);
    }
    return BB_STATUS_OK;
}

/* An empty window has no maximum and no mean. */
static bb_status bind_pool(const bb_model_node *node, const int32_t *in, int32_t *out,
                           bb_error *err) {
    const bb_geometry *g = &node->geometry;
    BB_TRY(bind_window(node, in, out, err));
    if (g->kernel[0] == 0)
        return BB_STATUS_OK;
    for (int axis = 0; axis < 2; axis++)
        if (!windows_have_valid_taps(g, axis, in[H + axis], out[H + axis]))
            return fail(node, err, "a pool window lies wholly in the padding");
    return BB_STATUS_OK;
}

static bool same_size(const int32_t *a, const int32_t *b) {
    return a[N] == b[N] && a[H] == b[H] && a[W] == b[W];
}

static bb_status bind_concat(const bb_model_node *node, const bb_shapes *shapes, bb_error *err) {
    const int32_t *first = shapes->dims[node->in[0]];
    for (int i = 1; i < node->n_in; i++)
        if (!same_size(first, shapes->dims[node->in[i]]))
            return fail(node, err, "inputs of different height, width or batch");
    return BB_STATUS_OK;
}

static bb_status bind_two(const bb_model_node *node, const bb_shapes *shapes, bool broadcast,
                          bb_error *err) {
    const int32_t *a = shapes->dims[node->in[0]], *b = shapes->dims[node->in[1]];
    bool scalar_image = b[N] == a[N] && b[H] == 1 && b[W] == 1;
    if (!same_size(a, b) && !(broadcast && scalar_image))
        return fail(node, err, "operands of different height, width or batch");
    return BB_STATUS_OK;
}

static bb_status bind_resize(const bb_model_node *node, const int32_t *in, int32_t *out,
                             bb_error *err) {
    for (int axis = 0; axis < 2; axis++) {
        int64_t size = (int64_t)in[H + axis] * node->resize_factor[axis];
        if (size > BB_MAX_DIM)
            return fail(node, err, "the resized image is too large");
        out[H + axis] = (int32_t)size;
    }
    return BB_STATUS_OK;
}

static bb_status bind_reshape(const bb_model_node *node, const int32_t *in, int32_t *out,
                              bb_error *err) {
    int64_t length = (int64_t)in[H] * in[W] * in[C]; /* < 2^60 */
    if (length != out[C])
        return bb_fail(err, BB_STATUS_BAD_FILE,
                       "node '%s': flattens %dx%dx%d to %d values; the network was made for "
                       "another image size",
                       node->name, in[H], in[W], in[C], out[C]);
    out[H] = out[W] = 1;
    return BB_STATUS_OK;
}

static bb_status bind_conv(const bb_model_node *node, const bb_shapes *shapes, int32_t *out,
                           bb_error *err) {
    BB_TRY(bind_window(node, shapes->dims[node->in[0]], out, err));
    if (node->n_in == 2 && !same_size(out, shapes->dims[node->in[1]]))
        return fail(node, err, "the residual input has another size than the output");
    return BB_STATUS_OK;
}

/* Global pools only: bounds of the others do not depend on the image. */
static bb_status check_average(const bb_model *model, const bb_model_node *node, const int32_t *in,
                               bb_error *err) {
    if (node->kind != BB_NODE_AVERAGE_POOL || node->geometry.kernel[0] != 0)
        return BB_STATUS_OK;
    return bb_validate_average(model, node, (int64_t)in[H] * in[W], err);
}

/* `out` holds the batch, height and width of input 0 on entry, and the output's channels. */
static bb_status bind_float(const bb_model_node *node, const bb_shapes *shapes, int32_t *out,
                            bb_error *err) {
    const int32_t *in = shapes->dims[node->in[0]];
    switch (node->float_op) {
    case BB_FLOAT_CONV:
        return bind_conv(node, shapes, out, err);
    case BB_FLOAT_ADD:
        return bind_two(node, shapes, false, err);
    case BB_FLOAT_MUL:
        return bind_two(node, shapes, true, err);
    case BB_FLOAT_MAX_POOL:
    case BB_FLOAT_AVERAGE_POOL:
        return bind_pool(node, in, out, err);
    case BB_FLOAT_CONCAT:
        return bind_concat(node, shapes, err);
    case BB_FLOAT_RESHAPE:
        return bind_reshape(node, in, out, err);
    default:
        return BB_STATUS_OK;
    }
}

static bb_status bind_kind(const bb_model *model, const bb_model_node *node,
                           const bb_shapes *shapes, int32_t *out, bb_error *err) {
    const int32_t *in = shapes->dims[node->in[0]];
    switch (node->kind) {
    case BB_NODE_CONV:
        return bind_conv(node, shapes, out, err);
    case BB_NODE_ADD:
        return bind_two(node, shapes, false, err);
    case BB_NODE_MUL:
        return bind_two(node, shapes, true, err);
    case BB_NODE_CONCAT:
        return bind_concat(node, shapes, err);
    case BB_NODE_MAX_POOL:
        return bind_pool(node, in, out, err);
    case BB_NODE_AVERAGE_POOL:
        BB_TRY(check_average(model, node, in, err));
        return bind_pool(node, in, out, err);
    case BB_NODE_RESHAPE:
        return bind_reshape(node, in, out, err);
    case BB_NODE_RESIZE_NEAREST:
        return bind_resize(node, in, out, err);
    case BB_NODE_FLOAT:
        return bind_float(node, shapes, out, err);
    default:
        return BB_STATUS_OK;
    }
}

/* Kernels index with int32 and sizes in bytes are at most four times the element count. */
static bool elements_fit(const int32_t *dims) {
    uint64_t n = (uint64_t)dims[N] * (uint64_t)dims[H]; /* <= 2^40 */
    return n <= INT32_MAX && (n *= (uint64_t)dims[W]) <= INT32_MAX &&
           n * (uint64_t)dims[C] <= INT32_MAX;
}

static bb_status set_dims(const bb_model *model, int tensor, const int32_t *dims, bb_shapes *shapes,
                          bb_error *err) {
    const bb_model_tensor *t = &model->tensors[tensor];
    if (t->rank == 2 && (dims[H] != 1 || dims[W] != 1))
        return bb_fail(err, BB_STATUS_BAD_FILE, "tensor '%s': a vector, but %dx%d at this size",
                       t->name, dims[H], dims[W]);
    if (!elements_fit(dims))
        return bb_fail(err, BB_STATUS_LIMIT, "tensor '%s': %dx%dx%dx%d is too large", t->name,
                       dims[N], dims[H], dims[W], dims[C]);
    memcpy(shapes->dims[tensor], dims, sizeof(shapes->dims[tensor]));
    return BB_STATUS_OK;
}

static bb_status bind_node(const bb_model *model, const bb_model_node *node, bb_shapes *shapes,
                           bb_error *err) {
    int32_t out[4];
    memcpy(out, shapes->dims[node->in[0]], sizeof(out));
    out[C] = (int32_t)bb_tensor_channels(&model->tensors[node->out[0]]);
    BB_TRY(bind_kind(model, node, shapes, out, err));
    for (int i = 0; i < node->n_out; i++)
        BB_TRY(set_dims(model, node->out[i], out, shapes, err));
    return BB_STATUS_OK;
}

/* What the file says of an input, as N,H,W,C with -1 = open. */
static void file_dims(const bb_model_tensor *t, int64_t dims[4]) {
    bool image = t->rank == 4;
    dims[N] = t->dims[0];
    dims[H] = image ? t->dims[1] : 1;
    dims[W] = image ? t->dims[2] : 1;
    dims[C] = bb_tensor_channels(t);
}

static bb_status bind_input(const bb_model *model, size_t i, const int32_t *given,
                            bb_shapes *shapes, bb_error *err) {
    static const char *const axis_name[] = {"batch", "height", "width", "channels"};
    const bb_model_tensor *t = &model->tensors[model->inputs[i]];
    int64_t said[4];
    int32_t dims[4];
    file_dims(t, said);
    for (int axis = N; axis <= C; axis++) {
        int64_t want = given && given[axis] > 0 ? given[axis] : -1;
        if (want < 0)
            want = said[axis] < 0 && axis == N ? 1 : said[axis];
        if (want < 0)
            return bb_fail(err, BB_STATUS_INVALID_ARGUMENT,
                           "input '%s': the file leaves the %s open; give one", t->name,
                           axis_name[axis]);
        if (said[axis] >= 0 && want != said[axis])
            return bb_fail(err, BB_STATUS_INVALID_ARGUMENT,
                           "input '%s': %s is fixed to %lld, not %lld", t->name, axis_name[axis],
                           (long long)said[axis], (long long)want);
        if (want > BB_MAX_DIM)
            return bb_fail(err, BB_STATUS_LIMIT, "input '%s': %s %lld is above %d", t->name,
                           axis_name[axis], (long long)want, BB_MAX_DIM);
        dims[axis] = (int32_t)want;
    }
    return set_dims(model, model->inputs[i], dims, shapes, err);
}

bb_status bb_model_bind(const bb_model *model, const int32_t (*input_dims)[4], bb_shapes *shapes,
                        bb_error *err) {
    *shapes = (bb_shapes){.n = model->n_tensors};
    shapes->dims = bb_calloc_array(model->n_tensors, sizeof(*shapes->dims));
    if (!shapes->dims)
        return bb_fail_memory(err, "the shapes");
    bb_status status = BB_STATUS_OK;
    for (size_t i = 0; i < model->n_inputs && status == BB_STATUS_OK; i++)
        status = bind_input(model, i, input_dims ? input_dims[i] : NULL, shapes, err);
    for (size_t i = 0; i < model->n_nodes && status == BB_STATUS_OK; i++)
        status = bind_node(model, &model->nodes[i], shapes, err);
    if (status != BB_STATUS_OK)
        bb_shapes_free(shapes);
    return status;
}

void bb_shapes_free(bb_shapes *shapes) {
    bb_free(shapes->dims);
    *shapes = (bb_shapes){0};
}

uint64_t bb_node_macs(const bb_model *model, const bb_model_node *node, const bb_shapes *shapes) {
    const int32_t *out = shapes->dims[node->out[0]], *in = shapes->dims[node->in[0]];
    uint64_t outputs = (uint64_t)out[N] * (uint64_t)out[H] * (uint64_t)out[W] * (uint64_t)out[C];
    if (node->kind == BB_NODE_CONV)
        return outputs * node->planes->taps * node->planes->depth;
    if (node->kind == BB_NODE_FLOAT && node->float_op == BB_FLOAT_CONV)
        return outputs * (uint64_t)node->geometry.kernel[0] * (uint64_t)node->geometry.kernel[1] *
               ((uint64_t)in[C] / node->groups);
    return 0;
}
