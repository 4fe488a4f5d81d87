/* SPDX-License-Identifier: Apache-2.0 */
/* ConvInteger, QLinearConv, MatMulInteger, QLinearMatMul: exact integer sums; and
 * DynamicQuantizeLinear. */
#include "nn/program.h"
#include <math.h>
#include <string.h>

/* |x - zero| <= 255 and |w - zero| <= 255, so that sums of up to this many products stay below
 * 2^31: 33025 * 255 * 255 = 2147450625. */
#define MAX_PRODUCTS 33025

typedef struct int8_input {
    int slot; /* in step->data, -1: absent */
    bool is_signed;
    size_t elements;
} int8_input;

/** Quantization parameters: which step->data entries hold them. */
typedef struct integer_state {
    int8_input x, x_zero, w, w_zero, y_zero;
    int8_input x_scale, w_scale, y_scale, bias; /* slots of f32 and i32 data; slot -1: none */
    bool requantize, y_signed;
    /* convolution */
    bb_window window;
    int64_t batch, groups, in_channels, out_channels, height, width;
    /* matrix product */
    int64_t rows, columns, inner;
    size_t n_products; /* of matrices; offsets of each follow */
    const size_t *x_offset, *w_offset;
} integer_state;

static int32_t int8_at(const int8_input *input, void *const *data, size_t i) {
    const uint8_t *bytes = data[input->slot];
    return input->is_signed ? (int32_t)((const int8_t *)(const void *)bytes)[i] : (int32_t)bytes[i];
}

/* Parameter of row or channel i: one for all where there is one. */
static int32_t zero_at(const int8_input *input, void *const *data, size_t i) {
    return input->slot < 0 ? 0 : int8_at(input, data, input->elements == 1 ? 0 : i);
}

static float scale_at(const int8_input *input, void *const *data, size_t i) {
    return ((const float *)data[input->slot])[input->elements == 1 ? 0 : i];
}

/* As ONNX Runtime: one float factor, round half to even, saturate. */
static uint8_t requantized(const integer_state *s, void *const *data, int32_t sum, size_t row,
                           size_t channel) {
    float factor = scale_at(&s->x_scale, data, row) * scale_at(&s->w_scale, data, channel) /
                   scale_at(&s->y_scale, data, 0);
    float value = nearbyintf((float)sum * factor) + (float)zero_at(&s->y_zero, data, 0);
    float low = s->y_signed ? -128.0f : 0.0f, high = s->y_signed ? 127.0f : 255.0f;
    value = value < low ? low : value > high ? high : value;
    return (uint8_t)(int32_t)value;
}

static void store_sums(const integer_state *s, const bb_nn_step *step, const int32_t *sums,
                       size_t n, size_t at, size_t row, size_t channel, size_t channel_step) {
    if (!s->requantize) {
        memcpy((int32_t *)step->data[0] + at, sums, n * sizeof(*sums));
        return;
    }
    uint8_t *y = (uint8_t *)step->data[0] + at;
    for (size_t i = 0; i < n; i++)
        y[i] = requantized(s, step->data, sums[i], row, channel + i * channel_step);
}

/* ---- convolution ----------------------------------------------------------------------------- */

typedef struct padded {
    int16_t *data; /* [channels][height][width], x - zero, 0 in the padding */
    int64_t height, width;
} padded;

static void pad_image(const integer_state *s, const bb_nn_step *step, int64_t n, padded *p) {
    const bb_window *w = &s->window;
    int32_t zero = zero_at(&s->x_zero, step->data, 0);
    memset(p->data, 0, (size_t)(s->in_channels * p->height * p->width) * sizeof(*p->data));
    for (int64_t c = 0; c < s->in_channels; c++)
        for (int64_t y = 0; y < s->height; y++) {
            int16_t *to =
                p->data + (c * p->height + y + w->pad_begin[0]) * p->width + w->pad_begin[1];
            size_t from = (size_t)(((n * s->in_channels + c) * s->height + y) * s->width);
            for (int64_t x = 0; x < s->width; x++)
                to[x] = (int16_t)(int8_at(&s->x, step->data, from + (size_t)x) - zero);
        }
}

/* sums[0..n) += weight * row[i*stride] */
static void add_row(int32_t *sums, int64_t n, const int16_t *row, int64_t stride, int32_t weight) {
    if (stride == 1)
        for (int64_t i = 0; i < n; i++)
            sums[i] += weight * row[i];
    else
        for (int64_t i = 0; i < n; i++)
            sums[i] += weight * row[i * stride];
}

static void convolve_channel(const integer_state *s, const bb_nn_step *step, const padded *p,
                             int64_t channel, int32_t *sums) {
    const bb_window *w = &s->window;
    int64_t per_group = s->in_channels / s->groups;
    int64_t first = channel / (s->out_channels / s->groups) * per_group;
    int32_t zero = zero_at(&s->w_zero, step->data, (size_t)channel);
    int32_t bias = s->bias.slot >= 0 ? ((const int32_t *)step->data[s->bias.slot])[channel] : 0;
    size_t at = (size_t)(channel * per_group * w->kernel[0] * w->kernel[1]);
    for (int64_t i = 0; i < w->out[0] * w->out[1]; i++)
        sums[i] = bias;
    for (int64_t c = 0; c < per_group; c++)
        for (int64_t ky = 0; ky < w->kernel[0]; ky++)
            for (int64_t kx = 0; kx < w->kernel[1]; kx++) {
                int32_t weight = int8_at(&s->w, step->data, at++) - zero;
                for (int64_t y = 0; y < w->out[0]; y++) {
                    int64_t row = (first + c) * p->height + y * w->stride[0] + ky * w->dilation[0];
                    add_row(sums + y * w->out[1], w->out[1],
                            p->data + row * p->width + kx * w->dilation[1], w->stride[1], weight);
                }
            }
}

static bb_status run_conv(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    const integer_state *s = step->state;
    const bb_window *w = &s->window;
    size_t area = (size_t)(w->out[0] * w->out[1]);
    padded p = {.height = s->height + w->pad_begin[0] + w->pad_end[0],
                .width = s->width + w->pad_begin[1] + w->pad_end[1]};
    p.data = bb_arena_array(ex->run_arena, (size_t)(s->in_channels * p.height * p.width),
                            sizeof(*p.data));
    int32_t *sums = bb_arena_array(ex->run_arena, area, sizeof(*sums));
    if (!p.data || !sums)
        return bb_fail_memory(err, "integer convolution");
    for (int64_t n = 0; n < s->batch; n++) {
        pad_image(s, step, n, &p);
        for (int64_t c = 0; c < s->out_channels; c++) {
            convolve_channel(s, step, &p, c, sums);
            store_sums(s, step, sums, area, (size_t)(n * s->out_channels + c) * area, 0, (size_t)c,
                       0);
        }
    }
    return BB_STATUS_OK;
}

/* ---- matrix product -------------------------------------------------------------------------- */

static void multiply(const integer_state *s, const bb_nn_step *step, size_t product, int32_t *right,
                     int32_t *sums) {
    size_t rows = (size_t)s->rows, columns = (size_t)s->columns, inner = (size_t)s->inner;
    for (size_t k = 0; k < inner; k++)
        for (size_t j = 0; j < columns; j++)
            right[k * columns + j] =
                int8_at(&s->w, step->data, s->w_offset[product] + k * columns + j) -
                zero_at(&s->w_zero, step->data, j);
    for (size_t i = 0; i < rows; i++) {
        int32_t zero = zero_at(&s->x_zero, step->data, i);
        memset(sums, 0, columns * sizeof(*sums));
        for (size_t k = 0; k < inner; k++) {
            int32_t x = int8_at(&s->x, step->data, s->x_offset[product] + i * inner + k) - zero;
            for (size_t j = 0; j < columns; j++)
                sums[j] += x * right[k * columns + j];
        }
        store_sums(s, step, sums, columns, (product * rows + i) * columns, i, 0, 1);
    }
}

static bb_status run_matmul(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    const integer_state *s = step->state;
    int32_t *right = bb_arena_array(ex->run_arena, (size_t)(s->inner * s->columns), sizeof(*right));
    int32_t *sums = bb_arena_array(ex->run_arena, (size_t)s->columns, sizeof(*sums));
    if (!right || !sums)
        return bb_fail_memory(err, "integer matrix product");
    for (size_t i = 0; i < s->n_products; i++)
        multiply(s, step, i, right, sums);
    return BB_STATUS_OK;
}

/* ---- building -------------------------------------------------------------------------------- */

typedef struct args_list {
    int n;
    bb_nn_arg arg[10];
} args_list;

static bb_status take(bb_executor *ex, const bb_node *node, int i, args_list *args,
                      int8_input *input, bb_error *err) {
    const bb_nn_tensor *tensor = bb_nn_input(ex, node, i);
    *input = (int8_input){.slot = -1};
    if (!tensor)
        return BB_STATUS_OK;
    *input = (int8_input){args->n, tensor->dtype == BB_DTYPE_I8, tensor->elements};
    args->arg[args->n].role = 0;
    return bb_nn_in_plain(ex, node->in[i], &args->arg[args->n++].buffer, err);
}

static bool is_byte(const bb_nn_tensor *tensor) {
    return tensor && (tensor->dtype == BB_DTYPE_I8 || tensor->dtype == BB_DTYPE_U8);
}

/* One value or `n`; NULL is fine. */
static bool per_axis(const bb_nn_tensor *tensor, bb_dtype a, bb_dtype b, int64_t n) {
    return !tensor || ((tensor->dtype == a || tensor->dtype == b) &&
                       (tensor->elements == 1 || (int64_t)tensor->elements == n));
}

/* Inputs of the QLinear form: x xs xz w ws wz ys yz [bias]; of the Integer form: x w [xz wz]. */
static bb_status take_inputs(bb_executor *ex, const bb_node *node, bool linear, int64_t rows,
                             int64_t channels, integer_state *s, args_list *args, bb_error *err) {
    int w = linear ? 3 : 1, xz = 2, wz = linear ? 5 : 3;
    BB_TRY(take(ex, node, 0, args, &s->x, err));
    BB_TRY(take(ex, node, w, args, &s->w, err));
    BB_TRY(take(ex, node, xz, args, &s->x_zero, err));
    BB_TRY(take(ex, node, wz, args, &s->w_zero, err));
    bool ok = is_byte(bb_nn_input(ex, node, 0)) && is_byte(bb_nn_input(ex, node, w)) &&
              per_axis(bb_nn_input(ex, node, xz), BB_DTYPE_I8, BB_DTYPE_U8, rows) &&
              per_axis(bb_nn_input(ex, node, wz), BB_DTYPE_I8, BB_DTYPE_U8, channels);
    s->requantize = linear;
    s->x_scale.slot = s->w_scale.slot = s->y_scale.slot = s->y_zero.slot = s->bias.slot = -1;
    if (linear) {
        BB_TRY(take(ex, node, 1, args, &s->x_scale, err));
        BB_TRY(take(ex, node, 4, args, &s->w_scale, err));
        BB_TRY(take(ex, node, 6, args, &s->y_scale, err));
        BB_TRY(take(ex, node, 7, args, &s->y_zero, err));
        ok = ok && per_axis(bb_nn_input(ex, node, 1), BB_DTYPE_F32, BB_DTYPE_F32, rows) &&
             per_axis(bb_nn_input(ex, node, 4), BB_DTYPE_F32, BB_DTYPE_F32, channels) &&
             per_axis(bb_nn_input(ex, node, 6), BB_DTYPE_F32, BB_DTYPE_F32, 1) &&
             per_axis(bb_nn_input(ex, node, 7), BB_DTYPE_I8, BB_DTYPE_U8, 1) && s->y_zero.slot >= 0;
        s->y_signed = s->y_zero.is_signed;
    }
    return ok ? BB_STATUS_OK
              : bb_fail(err, BB_STATUS_UNSUPPORTED,
                        "operands or parameters of other than 8-bit "
                        "types, or of other dims than supported");
}

static bb_status define_result(bb_executor *ex, const bb_node *node, const integer_state *s,
                               int rank, const int64_t *dims, args_list *args, bb_error *err) {
    bb_dtype dtype = !s->requantize ? BB_DTYPE_I32 : s->y_signed ? BB_DTYPE_I8 : BB_DTYPE_U8;
    BB_TRY(bb_nn_define(ex, node->out[0], dtype, rank, dims, err));
    return bb_nn_new_plain(ex, node->out[0], &args->arg[0].buffer, err);
}

static bb_status check_products(int64_t n, bb_error *err) {
    return n <= MAX_PRODUCTS
               ? BB_STATUS_OK
               : bb_fail(err, BB_STATUS_LIMIT, "sums of more than %d products could exceed 32 bits",
                         MAX_PRODUCTS);
}

bb_status bb_nn_build_integer_conv(bb_executor *ex, const bb_node *node, bb_error *err) {
    bool linear = node->op == BB_OP_QLINEAR_CONV;
    const bb_nn_tensor *x = bb_nn_input(ex, node, 0), *w = bb_nn_input(ex, node, linear ? 3 : 1);
    integer_state *s = bb_arena_alloc(ex->arena, sizeof(*s));
    args_list args = {.n = 1};
    if (!s)
        return bb_fail_memory(err, "integer convolution");
    BB_TRY(bb_node_window(ex->graph, node, x->dims, x->rank, &s->window, err));
    s->groups = bb_node_int(node, "group", 1);
    s->batch = x->dims[0];
    s->in_channels = x->dims[1];
    s->out_channels = w->dims[0];
    s->height = x->rank == 4 ? x->dims[2] : 1;
    s->width = x->dims[x->rank - 1];
    if (s->groups < 1 || s->out_channels % s->groups != 0 ||
        w->dims[1] * s->groups != s->in_channels)
        return bb_fail(err, BB_STATUS_BAD_FILE, "weights and input differ in channels");
    BB_TRY(check_products(w->dims[1] * s->window.kernel[0] * s->window.kernel[1], err));
    BB_TRY(take_inputs(ex, node, linear, 1, s->out_channels, s, &args, err));
    const bb_nn_tensor *bias = linear ? bb_nn_input(ex, node, 8) : NULL;
    if (bias && (bias->dtype != BB_DTYPE_I32 || (int64_t)bias->elements != s->out_channels))
        return bb_fail(err, BB_STATUS_BAD_FILE, "bias needs one int32 per channel");
    if (linear)
        BB_TRY(take(ex, node, 8, &args, &s->bias, err));
    int64_t dims[4] = {s->batch, s->out_channels, s->window.out[0], s->window.out[1]};
    if (x->rank == 3)
        dims[2] = s->window.out[1];
    BB_TRY(define_result(ex, node, s, x->rank, dims, &args, err));
    bb_nn_step step = {.run = run_conv, .node = node, .state = s, .tap = -1};
    return bb_nn_emit(ex, &step, args.arg, args.n, err);
}

/* Element offset of matrix `product` (counted over the broadcast leading dims) in one operand. */
static size_t matrix_offset(const bb_nn_tensor *t, const int64_t *dims, int rank, size_t product) {
    size_t offset = 0, step = (size_t)(t->dims[t->rank - 2] * t->dims[t->rank - 1]);
    for (int i = rank - 3; i >= 0; i--) {
        size_t at = product % (size_t)dims[i];
        product /= (size_t)dims[i];
        int own = i - (rank - t->rank);
        if (own < 0)
            continue;
        offset += t->dims[own] == 1 ? 0 : at * step;
        step *= (size_t)t->dims[own];
    }
    return offset;
}

static bb_status matrix_offsets(bb_executor *ex, const bb_nn_tensor *a, const bb_nn_tensor *b,
                                int64_t *dims, int rank, integer_state *s, bb_error *err) {
    for (int i = 0; i < rank - 2; i++) {
        int64_t x = i >= rank - a->rank ? a->dims[i - (rank - a->rank)] : 1;
        int64_t y = i >= rank - b->rank ? b->dims[i - (rank - b->rank)] : 1;
        if (x != y && x != 1 && y != 1)
            return bb_fail(err, BB_STATUS_BAD_FILE, "the operands' dims do not fit each other");
        dims[i] = x == 1 ? y : x;
    }
    size_t *x_offset, *w_offset;
    if (!bb_dims_product(dims, (size_t)(rank - 2), &s->n_products))
        return bb_fail(err, BB_STATUS_LIMIT, "too many matrices");
    s->x_offset = x_offset = bb_arena_array(ex->arena, s->n_products, sizeof(size_t));
    s->w_offset = w_offset = bb_arena_array(ex->arena, s->n_products, sizeof(size_t));
    if (!x_offset || !w_offset)
        return bb_fail_memory(err, "integer matrix product");
    for (size_t i = 0; i < s->n_products; i++) {
        x_offset[i] = matrix_offset(a, dims, rank, i);
        w_offset[i] = matrix_offset(b, dims, rank, i);
    }
    return BB_STATUS_OK;
}

bb_status bb_nn_build_integer_matmul(bb_executor *ex, const bb_node *node, bb_error *err) {
    bool linear = node->op == BB_OP_QLINEAR_MATMUL;
    const bb_nn_tensor *a = bb_nn_input(ex, node, 0), *b = bb_nn_input(ex, node, linear ? 3 : 1);
    integer_state *s = bb_arena_alloc(ex->arena, sizeof(*s));
    args_list args = {.n = 1};
    int64_t dims[BB_MAX_RANK];
    if (!s)
        return bb_fail_memory(err, "integer matrix product");
    if (a->rank < 2 || b->rank < 2)
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "only matrices are supported");
    int rank = a->rank > b->rank ? a->rank : b->rank;
    s->rows = dims[rank - 2] = a->dims[a->rank - 2];
    s->columns = dims[rank - 1] = b->dims[b->rank - 1];
    s->inner = a->dims[a->rank - 1];
    if (s->inner != b->dims[b->rank - 2])
        return bb_fail(err, BB_STATUS_BAD_FILE, "the operands' dims do not fit each other");
    BB_TRY(check_products(s->inner, err));
    BB_TRY(matrix_offsets(ex, a, b, dims, rank, s, err));
    BB_TRY(take_inputs(ex, node, linear, s->rows, s->columns, s, &args, err));
    BB_TRY(define_result(ex, node, s, rank, dims, &args, err));
    bb_nn_step step = {.run = run_matmul, .node = node, .state = s, .tap = -1};
    return bb_nn_emit(ex, &step, args.arg, args.n, err);
}

/* ---- DynamicQuantizeLinear ------------------------------------------------------------------- */

static bb_status run_dynamic(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    size_t n = *(const size_t *)step->state;
    const float *x = step->data[0];
    uint8_t *y = step->data[1];
    float low = 0.0f, high = 0.0f;
    for (size_t i = 0; i < n; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    float scale = (high - low) / 255.0f;
    scale = scale > 0.0f ? scale : 1.0f;
    float zero = nearbyintf(-low / scale);
    zero = zero < 0.0f ? 0.0f : zero > 255.0f ? 255.0f : zero;
    for (size_t i = 0; i < n; i++) {
        float value = nearbyintf(x[i] / scale) + zero;
        y[i] = (uint8_t)(value < 0.0f ? 0.0f : value > 255.0f ? 255.0f : value);
    }
    *(float *)step->data[2] = scale;
    *(uint8_t *)step->data[3] = (uint8_t)zero;
    return BB_STATUS_OK;
}

bb_status bb_nn_build_dynamic_quantize(bb_executor *ex, const bb_node *node, bb_error *err) {
    const bb_nn_tensor *x = bb_nn_input(ex, node, 0);
    size_t *n = bb_arena_alloc(ex->arena, sizeof(*n));
    static const bb_dtype types[3] = {BB_DTYPE_U8, BB_DTYPE_F32, BB_DTYPE_U8};
    bb_nn_arg args[4] = {{0, 0}, {0, 0}, {0, 0}, {0, 0}};
    if (!n)
        return bb_fail_memory(err, "quantizer");
    if (x->dtype != BB_DTYPE_F32)
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "only f32 is supported");
    *n = x->elements;
    BB_TRY(bb_nn_in_plain(ex, node->in[0], &args[0].buffer, err));
    for (int i = 0; i < 3; i++) {
        if (i >= node->n_out || node->out[i] < 0) {
            BB_TRY(bb_nn_new_buffer(ex, i == 0 ? *n : sizeof(float), &args[i + 1].buffer, err));
            continue;
        }
        BB_TRY(bb_nn_define(ex, node->out[i], types[i], i == 0 ? x->rank : 0, x->dims, err));
        BB_TRY(bb_nn_new_plain(ex, node->out[i], &args[i + 1].buffer, err));
    }
    bb_nn_step step = {.run = run_dynamic, .node = node, .state = n, .tap = -1};
    return bb_nn_emit(ex, &step, args, 4, err);
}
