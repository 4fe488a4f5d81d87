/* SPDX-License-Identifier: Apache-2.0 */
/* Resize: separable, one table of taps per axis that changes. */
#include "nn/program.h"
#include <math.h>
#include <string.h>

typedef enum filter { NEAREST, LINEAR, CUBIC } filter;

typedef enum transformation {
    HALF_PIXEL,
    HALF_PIXEL_SYMMETRIC,
    PYTORCH_HALF_PIXEL,
    ALIGN_CORNERS,
    ASYMMETRIC,
    TF_HALF_PIXEL_FOR_NN,
    TF_CROP_AND_RESIZE
} transformation;

typedef enum rounding { PREFER_FLOOR, PREFER_CEIL, FLOOR, CEIL } rounding;

typedef struct axis_plan {
    int64_t in, out;
    double scale, roi_begin, roi_end;
    bool touched; /* anything but the identity */
    int taps;
    int32_t *index; /* [out][taps] */
    float *weight;  /* [out][taps] */
    bool *outside;  /* [out]: takes the extrapolation value; NULL: none */
} axis_plan;

typedef struct resize_state {
    filter filter;
    transformation transformation;
    rounding rounding;
    double cubic_a;
    bool exclude_outside, antialias;
    float extrapolation;
    int rank;
    size_t element;
    axis_plan axis[BB_MAX_RANK];
    int n_order, order[BB_MAX_RANK]; /* touched axes as they are worked through */
} resize_state;

/* ---- attributes ------------------------------------------------------------------------------ */

static int find_word(const char *word, const char *const *words, int n) {
    for (int i = 0; i < n; i++)
        if (strcmp(word, words[i]) == 0)
            return i;
    return -1;
}

static bb_status read_attributes(const bb_node *node, resize_state *s, bb_error *err) {
    static const char *const filters[] = {"nearest", "linear", "cubic"};
    static const char *const transformations[] = {
        "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners",
        "asymmetric", "tf_half_pixel_for_nn", "tf_crop_and_resize"};
    static const char *const roundings[] = {"round_prefer_floor", "round_prefer_ceil", "floor",
                                            "ceil"};
    int f = find_word(bb_node_string(node, "mode", "nearest"), filters, 3);
    int t = find_word(bb_node_string(node, "coordinate_transformation_mode", "half_pixel"),
                      transformations, 7);
    int r = find_word(bb_node_string(node, "nearest_mode", "round_prefer_floor"), roundings, 4);
    if (f < 0 || t < 0 || r < 0)
        return bb_fail(err, BB_STATUS_UNSUPPORTED,
                       "unknown mode, nearest_mode or "
                       "coordinate_transformation_mode");
    s->filter = (filter)f;
    s->transformation = (transformation)t;
    s->rounding = (rounding)r;
    s->cubic_a = (double)bb_node_float(node, "cubic_coeff_a", -0.75f);
    s->exclude_outside = bb_node_int(node, "exclude_outside", 0) != 0;
    s->antialias = bb_node_int(node, "antialias", 0) != 0;
    s->extrapolation = bb_node_float(node, "extrapolation_value", 0.0f);
    return BB_STATUS_OK;
}

/* ---- sizes ----------------------------------------------------------------------------------- */

static bool read_axes(const bb_node *node, int rank, int64_t *axes, size_t *n) {
    const bb_attr *attr = bb_node_attr(node, "axes");
    *n = attr ? attr->n : (size_t)rank;
    if (*n > (size_t)rank)
        return false;
    for (size_t i = 0; i < *n; i++) {
        axes[i] = attr ? attr->ints[i] : (int64_t)i;
        if (axes[i] < 0)
            axes[i] += rank;
        if (axes[i] < 0 || axes[i] >= rank)
            return false;
    }
    return true;
}

static bool from_scales(const float *scales, const int64_t *axes, size_t n, resize_state *s) {
    for (size_t i = 0; i < n; i++) {
        axis_plan *axis = &s->axis[axes[i]];
        if (!(scales[i] > 0.0f))
            return false;
        axis->scale = (double)scales[i];
        double out = floor((double)axis->in * axis->scale);
        if (out > (double)INT32_MAX)
            return false;
        axis->out = (int64_t)out;
    }
    return true;
}

/* keep_aspect_ratio_policy: one scale for all axes, sizes rounded half up. */
static void keep_aspect(const char *policy, const int64_t *axes, size_t n, resize_state *s) {
    bool smaller = strcmp(policy, "not_larger") == 0;
    if (strcmp(policy, "stretch") == 0 || n == 0)
        return;
    double scale = s->axis[axes[0]].scale;
    for (size_t i = 1; i < n; i++) {
        double other = s->axis[axes[i]].scale;
        if (smaller ? other < scale : other > scale)
            scale = other;
    }
    for (size_t i = 0; i < n; i++) {
        axis_plan *axis = &s->axis[axes[i]];
        axis->scale = scale;
        axis->out = (int64_t)floor((double)axis->in * scale + 0.5);
    }
}

static bool from_sizes(const int64_t *sizes, const int64_t *axes, size_t n, const char *policy,
                       resize_state *s) {
    for (size_t i = 0; i < n; i++) {
        axis_plan *axis = &s->axis[axes[i]];
        if (sizes[i] < 1 || sizes[i] > INT32_MAX || axis->in < 1)
            return false;
        axis->out = sizes[i];
        axis->scale = (double)sizes[i] / (double)axis->in;
    }
    keep_aspect(policy, axes, n, s);
    return true;
}

static bb_status read_sizes(bb_executor *ex, const bb_node *node, resize_state *s, bb_error *err) {
    const bb_nn_tensor *scales = bb_nn_input(ex, node, 2), *sizes = bb_nn_input(ex, node, 3);
    int64_t axes[BB_MAX_RANK];
    size_t n;
    bool ok = read_axes(node, s->rank, axes, &n);
    if (sizes && sizes->elements > 0) {
        if (ok && !sizes->fixed)
            return bb_fail(err, BB_STATUS_UNSUPPORTED, "sizes depend on data");
        ok = ok && sizes->dtype == BB_DTYPE_I64 && sizes->elements == n &&
             from_sizes(sizes->fixed, axes, n,
                        bb_node_string(node, "keep_aspect_ratio_policy", "stretch"), s);
    } else {
        if (ok && scales && !scales->fixed)
            return bb_fail(err, BB_STATUS_UNSUPPORTED, "scales depend on data");
        ok = ok && scales && scales->dtype == BB_DTYPE_F32 && scales->elements == n &&
             from_scales(scales->fixed, axes, n, s);
    }
    const bb_nn_tensor *roi = bb_nn_input(ex, node, 1);
    if (ok && s->transformation == TF_CROP_AND_RESIZE) {
        ok = roi && roi->fixed && roi->dtype == BB_DTYPE_F32 && roi->elements == 2 * n;
        for (size_t i = 0; ok && i < n; i++) {
            s->axis[axes[i]].roi_begin = (double)((const float *)roi->fixed)[i];
            s->axis[axes[i]].roi_end = (double)((const float *)roi->fixed)[n + i];
        }
    }
    return ok ? BB_STATUS_OK
              : bb_fail(err, BB_STATUS_BAD_FILE,
                        "sizes, scales, roi or axes do not "
                        "fit the input");
}

/* ---- tables ---------------------------------------------------------------------------------- */

/* Coordinate in the input of an output position. In float and in this order, as ONNX Runtime does
 * it: where a coordinate falls on a tie or on the border, the last bit decides. */
static float source(const resize_state *s, const axis_plan *axis, int64_t position) {
    float x = (float)position, in = (float)axis->in, out = (float)axis->out;
    float scale = (float)axis->scale;
    float begin = (float)axis->roi_begin, end = (float)axis->roi_end;
    switch (s->transformation) {
    case PYTORCH_HALF_PIXEL:
        return axis->out > 1 ? (x + 0.5f) / scale - 0.5f : 0.0f;
    case ALIGN_CORNERS:
        return axis->out > 1 ? x * (in - 1.0f) / (out - 1.0f) : 0.0f;
    case ASYMMETRIC:
        return x / scale;
    case TF_HALF_PIXEL_FOR_NN:
        return (x + 0.5f) / scale;
    case TF_CROP_AND_RESIZE:
        return axis->out > 1 ? begin * (in - 1.0f) + x * (end - begin) * (in - 1.0f) / (out - 1.0f)
                             : 0.5f * (begin + end) * (in - 1.0f);
    case HALF_PIXEL_SYMMETRIC:
        return in / 2.0f * (1.0f - out / (scale * in)) + (x + 0.5f) / scale - 0.5f;
    case HALF_PIXEL:
        break;
    }
    return (x + 0.5f) / scale - 0.5f;
}

static double nearest(rounding mode, double x) {
    switch (mode) {
    case PREFER_FLOOR:
        return ceil(x - 0.5);
    case PREFER_CEIL:
        return floor(x + 0.5);
    case FLOOR:
        return floor(x);
    case CEIL:
        break;
    }
    return ceil(x);
}

/* Keys' cubic convolution kernel. */
static double cubic(double a, double d) {
    d = fabs(d);
    if (d <= 1.0)
        return ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0;
    return d < 2.0 ? ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a : 0.0;
}

static double kernel(const resize_state *s, double d) {
    if (s->filter == CUBIC)
        return cubic(s->cubic_a, d);
    d = fabs(d);
    return d < 1.0 ? 1.0 - d : 0.0;
}

static void fill_taps(const resize_state *s, const axis_plan *axis, int64_t out, double stretch) {
    int32_t *index = axis->index + out * axis->taps;
    float *weight = axis->weight + out * axis->taps;
    double x = (double)source(s, axis, out), sum = 0.0;
    int64_t first = s->filter == NEAREST ? (int64_t)nearest(s->rounding, x)
                                         : (int64_t)floor(x) - axis->taps / 2 + 1;
    for (int t = 0; t < axis->taps; t++) {
        int64_t i = first + t;
        bool inside = i >= 0 && i < axis->in;
        double w = s->filter == NEAREST ? 1.0 : kernel(s, ((double)i - x) * stretch);
        if (s->exclude_outside && s->filter != NEAREST && !inside)
            w = 0.0;
        index[t] = (int32_t)(i < 0 ? 0 : i >= axis->in ? axis->in - 1 : i);
        weight[t] = (float)w;
        sum += w;
    }
    bool normalise = sum != 0.0 && (s->exclude_outside || stretch < 1.0);
    for (int t = 0; normalise && t < axis->taps; t++)
        weight[t] = (float)((double)weight[t] / sum);
    if (axis->outside)
        axis->outside[out] = x < 0.0 || x > (double)(axis->in - 1);
}

static bb_status make_table(bb_executor *ex, const resize_state *s, axis_plan *axis,
                            bb_error *err) {
    static const int support[] = {[NEAREST] = 1, [LINEAR] = 1, [CUBIC] = 2};
    double stretch = s->antialias && s->filter != NEAREST && axis->scale < 1.0 ? axis->scale : 1.0;
    double reach = ceil((double)support[s->filter] / stretch);
    size_t n;
    if (reach > 1e6)
        return bb_fail(err, BB_STATUS_LIMIT, "the scale is too small");
    axis->taps = s->filter == NEAREST ? 1 : 2 * (int)reach;
    if (!bb_size_mul((size_t)axis->out, (size_t)axis->taps, &n))
        return bb_fail(err, BB_STATUS_LIMIT, "the output is too large");
    axis->index = bb_arena_array(ex->arena, n, sizeof(*axis->index));
    axis->weight = bb_arena_array(ex->arena, n, sizeof(*axis->weight));
    if (s->transformation == TF_CROP_AND_RESIZE)
        axis->outside = bb_arena_array(ex->arena, (size_t)axis->out, sizeof(bool));
    if (!axis->index || !axis->weight ||
        (s->transformation == TF_CROP_AND_RESIZE && !axis->outside))
        return bb_fail_memory(err, "resize table");
    for (int64_t i = 0; i < axis->out; i++)
        fill_taps(s, axis, i, stretch);
    return BB_STATUS_OK;
}

/* ---- execution ------------------------------------------------------------------------------- */

/* [outer][in][inner] -> [outer][out][inner], elements of any size, first tap only. */
static void gather_axis(const axis_plan *axis, size_t outer, size_t inner_bytes,
                        const uint8_t *from, uint8_t *to) {
    for (size_t o = 0; o < outer; o++)
        for (int64_t i = 0; i < axis->out; i++, to += inner_bytes)
            memcpy(to, from + (o * (size_t)axis->in + (size_t)axis->index[i]) * inner_bytes,
                   inner_bytes);
}

static void blend_row(const axis_plan *axis, const float *from, float *to) {
    for (int64_t i = 0; i < axis->out; i++) {
        const int32_t *index = axis->index + i * axis->taps;
        const float *weight = axis->weight + i * axis->taps;
        float sum = 0.0f;
        for (int t = 0; t < axis->taps; t++)
            sum += weight[t] * from[index[t]];
        to[i] = sum;
    }
}

static void blend_rows(const axis_plan *axis, size_t inner, const float *from, float *to) {
    for (int64_t i = 0; i < axis->out; i++, to += inner) {
        const int32_t *index = axis->index + i * axis->taps;
        const float *weight = axis->weight + i * axis->taps;
        for (int t = 0; t + 1 < axis->taps; t += 2) { /* taps come in pairs */
            const float *a = from + (size_t)index[t] * inner;
            const float *b = from + (size_t)index[t + 1] * inner;
            float u = weight[t], v = weight[t + 1];
            for (size_t k = 0; t == 0 && k < inner; k++)
                to[k] = u * a[k] + v * b[k];
            for (size_t k = 0; t > 0 && k < inner; k++)
                to[k] += u * a[k] + v * b[k];
        }
    }
}

static void blend_axis(const axis_plan *axis, size_t outer, size_t inner, const float *from,
                       float *to) {
    for (size_t o = 0; o < outer; o++) {
        const float *x = from + o * (size_t)axis->in * inner;
        float *y = to + o * (size_t)axis->out * inner;
        if (inner == 1)
            blend_row(axis, x, y);
        else
            blend_rows(axis, inner, x, y);
    }
}

static void extrapolate(const resize_state *s, float *y) {
    for (int a = 0; a < s->rank; a++) {
        const axis_plan *axis = &s->axis[a];
        size_t outer = 1, inner = 1;
        for (int i = 0; i < s->rank; i++)
            *(i < a ? &outer : &inner) *= i == a ? 1 : (size_t)s->axis[i].out;
        for (size_t o = 0; axis->outside && o < outer; o++)
            for (int64_t i = 0; i < axis->out; i++)
                for (size_t k = 0; axis->outside[i] && k < inner; k++)
                    y[(o * (size_t)axis->out + (size_t)i) * inner + k] = s->extrapolation;
    }
}

/* One axis, with the dims as they are at that time. */
static void resize_axis(const resize_state *s, int a, const int64_t *dims, const void *from,
                        void *to) {
    size_t outer = 1, inner = 1;
    for (int i = 0; i < s->rank; i++)
        if (i != a)
            *(i < a ? &outer : &inner) *= (size_t)dims[i];
    if (s->filter == NEAREST)
        gather_axis(&s->axis[a], outer, inner * s->element, from, to);
    else
        blend_axis(&s->axis[a], outer, inner, from, to);
}

/* data: input, output, then two buffers for what lies between axes. */
static bb_status run_resize(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    const resize_state *s = step->state;
    const void *from = step->data[0];
    int64_t dims[BB_MAX_RANK];
    for (int a = 0; a < s->rank; a++)
        dims[a] = s->axis[a].in;
    for (int i = 0; i < s->n_order; i++) {
        int a = s->order[i];
        void *to = i == s->n_order - 1 ? step->data[1] : step->data[2 + i % 2];
        resize_axis(s, a, dims, from, to);
        dims[a] = s->axis[a].out;
        from = to;
    }
    if (s->n_order == 0)
        memcpy(step->data[1], from, bb_nn_input(ex, step->node, 0)->elements * s->element);
    if (s->transformation == TF_CROP_AND_RESIZE && s->element == sizeof(float))
        extrapolate(s, step->data[1]);
    return BB_STATUS_OK;
}

/* Shrinking axes first, from the front: then the least is left to do. Growing ones from the back:
 * the last axis, the only one whose elements are gathered one by one, meets the fewest rows. */
static void choose_order(resize_state *s) {
    s->n_order = 0;
    for (int a = 0; a < s->rank; a++)
        if (s->axis[a].touched && s->axis[a].out < s->axis[a].in)
            s->order[s->n_order++] = a;
    for (int a = s->rank - 1; a >= 0; a--)
        if (s->axis[a].touched && s->axis[a].out >= s->axis[a].in)
            s->order[s->n_order++] = a;
}

/* Bytes of the largest tensor between two axes. */
static bool between(const resize_state *s, size_t *largest) {
    int64_t dims[BB_MAX_RANK];
    size_t n;
    *largest = 1;
    for (int a = 0; a < s->rank; a++)
        dims[a] = s->axis[a].in;
    for (int i = 0; i < s->n_order; i++) {
        dims[s->order[i]] = s->axis[s->order[i]].out;
        if (!bb_dims_product(dims, (size_t)s->rank, &n))
            return false;
        *largest = n > *largest ? n : *largest;
    }
    return bb_size_mul(*largest, s->element, largest);
}

bb_status bb_nn_build_resize(bb_executor *ex, const bb_node *node, bb_error *err) {
    const bb_nn_tensor *x = bb_nn_input(ex, node, 0);
    resize_state *s = bb_arena_alloc(ex->arena, sizeof(*s));
    int64_t dims[BB_MAX_RANK];
    size_t scratch;
    if (!s)
        return bb_fail_memory(err, "resize");
    BB_TRY(read_attributes(node, s, err));
    if (x->dtype != BB_DTYPE_F32 &&
        (s->filter != NEAREST || s->transformation == TF_CROP_AND_RESIZE))
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "%s can only be resized by nearest",
                       bb_dtype_name(x->dtype));
    s->rank = x->rank;
    s->element = bb_dtype_size(x->dtype);
    for (int a = 0; a < x->rank; a++)
        s->axis[a] = (axis_plan){.in = x->dims[a], .out = x->dims[a], .scale = 1.0, .roi_end = 1.0};
    BB_TRY(read_sizes(ex, node, s, err));
    for (int a = 0; a < x->rank; a++) {
        axis_plan *axis = &s->axis[a];
        dims[a] = axis->out;
        axis->touched = axis->in != axis->out || axis->scale != 1.0 ||
                        (s->transformation == TF_CROP_AND_RESIZE &&
                         (axis->roi_begin != 0.0 || axis->roi_end != 1.0));
        if (axis->touched)
            BB_TRY(make_table(ex, s, axis, err));
    }
    choose_order(s);
    if (!between(s, &scratch))
        return bb_fail(err, BB_STATUS_LIMIT, "the output is too large");
    bb_nn_arg args[4] = {{0, 0}, {0, 0}, {0, 0}, {0, 0}};
    BB_TRY(bb_nn_define(ex, node->out[0], x->dtype, x->rank, dims, err));
    BB_TRY(bb_nn_in_plain(ex, node->in[0], &args[0].buffer, err));
    BB_TRY(bb_nn_new_plain(ex, node->out[0], &args[1].buffer, err));
    BB_TRY(bb_nn_new_buffer(ex, scratch, &args[2].buffer, err));
    BB_TRY(bb_nn_new_buffer(ex, scratch, &args[3].buffer, err));
    bb_nn_step step = {.run = run_resize, .node = node, .state = s, .tap = -1};
    return bb_nn_emit(ex, &step, args, 4, err);
}

/* ---- backward: the same tables, transposed, axis by axis in reverse -------------------------- */

static void spread_axis(const resize_state *s, int a, const int64_t *dims, const float *dy,
                        float *dx) {
    const axis_plan *axis = &s->axis[a];
    size_t outer = 1, inner = 1;
    for (int i = 0; i < s->rank; i++)
        if (i != a)
            *(i < a ? &outer : &inner) *= (size_t)dims[i];
    memset(dx, 0, outer * (size_t)axis->in * inner * sizeof(*dx));
    for (size_t o = 0; o < outer; o++, dx += (size_t)axis->in * inner)
        for (int64_t i = 0; i < axis->out; i++, dy += inner)
            for (int t = 0; t < axis->taps; t++) {
                float *to = dx + (size_t)axis->index[i * axis->taps + t] * inner;
                float w = axis->weight[i * axis->taps + t];
                for (size_t k = 0; k < inner; k++)
                    to[k] += w * dy[k];
            }
}

/* data: gradient of the output, of the input, then two buffers for what lies between axes. */
static bb_status run_resize_backward(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    const resize_state *s = step->state;
    const float *from = step->data[0];
    int64_t dims[BB_MAX_RANK];
    for (int a = 0; a < s->rank; a++)
        dims[a] = s->axis[a].out;
    for (int i = s->n_order - 1; i >= 0; i--) {
        float *to = i == 0 ? step->data[1] : step->data[2 + i % 2];
        spread_axis(s, s->order[i], dims, from, to);
        dims[s->order[i]] = s->axis[s->order[i]].in;
        from = to;
    }
    if (s->n_order == 0)
        memcpy(step->data[1], from, bb_nn_input(ex, step->node, 0)->elements * s->element);
    return BB_STATUS_OK;
}

bb_status bb_nn_build_resize_backward(bb_executor *ex, const bb_node *node, void *state, int dy,
                                      int dx, bb_error *err) {
    const resize_state *s = state;
    size_t scratch;
    bb_nn_arg args[4] = {{dy, 0}, {dx, 0}, {0, 0}, {0, 0}};
    if (s->transformation == TF_CROP_AND_RESIZE)
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "gradient of tf_crop_and_resize");
    if (!between(s, &scratch))
        return bb_fail(err, BB_STATUS_LIMIT, "the output is too large");
    BB_TRY(bb_nn_new_buffer(ex, scratch, &args[2].buffer, err));
    BB_TRY(bb_nn_new_buffer(ex, scratch, &args[3].buffer, err));
    bb_nn_step step = {.run = run_resize_backward, .node = node, .state = state, .tap = -1};
    return bb_nn_emit(ex, &step, args, 4, err);
}
