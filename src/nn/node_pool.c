/* SPDX-License-Identifier: Apache-2.0 */
/* MaxPool, AveragePool and the global pools. */
#include "nn/program.h"
#include <float.h>
#include <string.h>

typedef struct pool_state {
    bb_window window;
    int64_t planes, height, width; /* of the input */
    bool maximum;
    bool column_major; /* order of MaxPool's indices */
    bb_dtype dtype;
} pool_state;

/* ---- row-major loops: what oneDNN does not do ------------------------------------------------ */

typedef struct span {
    int64_t from, to, start; /* kernel taps [from, to) lie inside; tap t is at start + t*dilation */
} span;

static span tap_span(const bb_window *w, int axis, int64_t out, int64_t size) {
    int64_t dilation = w->dilation[axis], start = out * w->stride[axis] - w->pad_begin[axis];
    span s = {0, w->kernel[axis], start};
    if (start < 0)
        s.from = (-start + dilation - 1) / dilation;
    if (s.to > s.from && start + (s.to - 1) * dilation >= size)
        s.to = start >= size ? 0 : (size - 1 - start) / dilation + 1;
    return s;
}

/* Element number of the first maximum of a window, -1 where the window holds no element. */
#define DEFINE_ARGMAX(name, type)                                                                  \
    static int64_t name(const void *data, const bb_window *w, span rows, span columns,             \
                        int64_t width) {                                                           \
        const type *x = data;                                                                      \
        int64_t best = -1;                                                                         \
        for (int64_t r = rows.from; r < rows.to; r++)                                              \
            for (int64_t c = columns.from; c < columns.to; c++) {                                  \
                int64_t i = (rows.start + r * w->dilation[0]) * width + columns.start +            \
                            c * w->dilation[1];                                                    \
                if (best < 0 || x[i] > x[best])                                                    \
                    best = i;                                                                      \
            }                                                                                      \
        return best;                                                                               \
    }
DEFINE_ARGMAX(argmax_f32, float)
DEFINE_ARGMAX(argmax_i8, int8_t)
DEFINE_ARGMAX(argmax_u8, uint8_t)

static int64_t argmax(bb_dtype dtype, const void *plane, const bb_window *w, span rows,
                      span columns, int64_t width) {
    switch (dtype) {
    case BB_DTYPE_I8:
        return argmax_i8(plane, w, rows, columns, width);
    case BB_DTYPE_U8:
        return argmax_u8(plane, w, rows, columns, width);
    default:
        return argmax_f32(plane, w, rows, columns, width);
    }
}

static int64_t index_of(const pool_state *s, int64_t plane, int64_t at) {
    int64_t area = s->height * s->width;
    if (s->column_major)
        at = at % s->width * s->height + at / s->width;
    return plane * area + at;
}

static void max_plane(const pool_state *s, int64_t plane, const uint8_t *x, uint8_t *y,
                      int64_t *indices) {
    static const float lowest = -FLT_MAX;
    static const uint8_t zero = 0;
    static const int8_t least = INT8_MIN;
    size_t size = bb_dtype_size(s->dtype);
    const void *empty = s->dtype == BB_DTYPE_F32  ? (const void *)&lowest
                        : s->dtype == BB_DTYPE_I8 ? (const void *)&least
                                                  : (const void *)&zero;
    for (int64_t r = 0, o = 0; r < s->window.out[0]; r++) {
        span rows = tap_span(&s->window, 0, r, s->height);
        for (int64_t c = 0; c < s->window.out[1]; c++, o++) {
            span columns = tap_span(&s->window, 1, c, s->width);
            int64_t at = argmax(s->dtype, x, &s->window, rows, columns, s->width);
            memcpy(y + (size_t)o * size, at < 0 ? empty : x + (size_t)at * size, size);
            if (indices)
                indices[o] = at < 0 ? 0 : index_of(s, plane, at);
        }
    }
}

/* Window positions that count for the mean although they may be padding. */
static int64_t counted(const bb_window *w, int axis, int64_t out, int64_t size) {
    int64_t start = out * w->stride[axis] - w->pad_begin[axis], n = 0;
    for (int64_t t = 0; t < w->kernel[axis]; t++)
        n += start + t * w->dilation[axis] < size + w->pad_counted[axis];
    return n;
}

/* What the sum over a window is divided by; 0 where it holds nothing that counts. */
static int64_t divisor(const pool_state *s, int64_t r, int64_t c, span rows, span columns) {
    const bb_window *w = &s->window;
    if (w->count_include_pad)
        return counted(w, 0, r, s->height) * counted(w, 1, c, s->width);
    return (rows.to > rows.from ? rows.to - rows.from : 0) *
           (columns.to > columns.from ? columns.to - columns.from : 0);
}

static void average_plane(const pool_state *s, const float *x, float *y) {
    const bb_window *w = &s->window;
    for (int64_t r = 0; r < w->out[0]; r++) {
        span rows = tap_span(w, 0, r, s->height);
        for (int64_t c = 0; c < w->out[1]; c++) {
            span columns = tap_span(w, 1, c, s->width);
            double sum = 0.0;
            for (int64_t i = rows.from; i < rows.to; i++)
                for (int64_t j = columns.from; j < columns.to; j++)
                    sum += (double)x[(rows.start + i * w->dilation[0]) * s->width + columns.start +
                                     j * w->dilation[1]];
            int64_t n = divisor(s, r, c, rows, columns);
            *y++ = n > 0 ? (float)(sum / (double)n) : 0.0f;
        }
    }
}

static void average_backward(const pool_state *s, const float *dy, float *dx) {
    const bb_window *w = &s->window;
    memset(dx, 0, (size_t)(s->height * s->width) * sizeof(*dx));
    for (int64_t r = 0; r < w->out[0]; r++) {
        span rows = tap_span(w, 0, r, s->height);
        for (int64_t c = 0; c < w->out[1]; c++, dy++) {
            span columns = tap_span(w, 1, c, s->width);
            int64_t n = divisor(s, r, c, rows, columns);
            float share = n > 0 ? *dy / (float)n : 0.0f;
            for (int64_t i = rows.from; i < rows.to; i++)
                for (int64_t j = columns.from; j < columns.to; j++)
                    dx[(rows.start + i * w->dilation[0]) * s->width + columns.start +
                       j * w->dilation[1]] += share;
        }
    }
}

static bb_status run_average_backward(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    const pool_state *s = step->state;
    const float *dy = step->data[0];
    float *dx = step->data[1];
    for (int64_t p = 0; p < s->planes; p++) {
        average_backward(s, dy, dx);
        dy += s->window.out[0] * s->window.out[1];
        dx += s->height * s->width;
    }
    return BB_STATUS_OK;
}

bb_status bb_nn_build_average_backward(bb_executor *ex, const bb_node *node, void *state, int dy,
                                       int dx, bb_error *err) {
    bb_nn_arg args[2] = {{dy, 0}, {dx, 0}};
    bb_nn_step step = {.run = run_average_backward, .node = node, .state = state, .tap = -1};
    return bb_nn_emit(ex, &step, args, 2, err);
}

static bb_status run_pool(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    const pool_state *s = step->state;
    size_t size = bb_dtype_size(s->dtype);
    size_t in = (size_t)(s->height * s->width), out = (size_t)(s->window.out[0] * s->window.out[1]);
    for (int64_t p = 0; p < s->planes; p++) {
        const uint8_t *x = (const uint8_t *)step->data[0] + (size_t)p * in * size;
        uint8_t *y = (uint8_t *)step->data[1] + (size_t)p * out * size;
        int64_t *indices = step->n_args > 2 ? (int64_t *)step->data[2] + (size_t)p * out : NULL;
        if (s->maximum)
            max_plane(s, p, x, y, indices);
        else
            average_plane(s, (const float *)(const void *)x, (float *)(void *)y);
    }
    return BB_STATUS_OK;
}

static bb_status emit_plain(bb_executor *ex, const bb_node *node, const bb_window *window,
                            const int64_t *dims, bb_error *err) {
    const bb_nn_tensor *x = bb_nn_input(ex, node, 0);
    pool_state *state = bb_arena_alloc(ex->arena, sizeof(*state));
    if (!state)
        return bb_fail_memory(err, "pooling");
    *state = (pool_state){.window = *window,
                          .planes = x->dims[0] * x->dims[1],
                          .height = x->rank == 4 ? x->dims[2] : 1,
                          .width = x->dims[x->rank - 1],
                          .maximum = node->op == BB_OP_MAX_POOL,
                          .column_major = bb_node_int(node, "storage_order", 0) != 0,
                          .dtype = x->dtype};
    bb_nn_arg args[3] = {{0, 0}, {0, 0}, {0, 0}};
    int n = 2;
    BB_TRY(bb_nn_in_plain(ex, node->in[0], &args[0].buffer, err));
    BB_TRY(bb_nn_new_plain(ex, node->out[0], &args[1].buffer, err));
    if (node->n_out > 1 && node->out[1] >= 0) {
        BB_TRY(bb_nn_define(ex, node->out[1], BB_DTYPE_I64, x->rank, dims, err));
        BB_TRY(bb_nn_new_plain(ex, node->out[1], &args[n++].buffer, err));
    }
    bb_nn_step step = {.run = run_pool, .node = node, .state = state, .tap = -1};
    return bb_nn_emit(ex, &step, args, n, err);
}

/* ---- oneDNN ---------------------------------------------------------------------------------- */

static void describe(const bb_node *node, const bb_nn_tensor *x, const bb_window *window,
                     const int64_t *dims, bb_dn_pool *pool) {
    *pool = (bb_dn_pool){.rank = x->rank};
    pool->kind = node->op == BB_OP_MAX_POOL  ? BB_DN_POOL_MAX
                 : window->count_include_pad ? BB_DN_POOL_AVG_PADDED
                                             : BB_DN_POOL_AVG;
    memcpy(pool->dst, dims, (size_t)x->rank * sizeof(*dims));
    for (int i = 0; i < x->rank - 2; i++) {
        int from = i + 4 - x->rank; /* 1-D windows sit in the second entry */
        pool->kernel[i] = window->kernel[from];
        pool->stride[i] = window->stride[from];
        pool->dilation[i] = window->dilation[from];
        pool->pad_begin[i] = window->pad_begin[from];
        pool->pad_end[i] = window->pad_end[from];
    }
}

/* oneDNN has no fast pools of row-major tensors: those are turned first. */
static bb_status emit_op(bb_executor *ex, const bb_node *node, const bb_dn_pool *pool,
                         bb_error *err) {
    const bb_nn_tensor *x = bb_nn_input(ex, node, 0);
    const bb_dn_layout *src =
        x->forms->layout ? x->forms->layout : bb_dn_channels_last(ex->dn, x->rank, x->dims);
    bb_nn_arg args[2] = {{0, BB_DN_SRC}, {0, BB_DN_DST}};
    bb_dn_op *op;
    if (!src)
        return bb_fail_memory(err, "pooling");
    BB_TRY(bb_dn_make_pool(ex->dn, pool, src, &op, err));
    const bb_dn_layout *dst = bb_dn_op_layout(ex->dn, op, BB_DN_DST);
    if (!dst)
        return bb_fail_memory(err, "pooling");
    BB_TRY(bb_nn_in_layout(ex, node->in[0], src, &args[0].buffer, err));
    BB_TRY(bb_nn_new_buffer(ex, bb_dn_bytes(dst), &args[1].buffer, err));
    BB_TRY(bb_nn_emit_op(ex, node, op, args, 2, err));
    return bb_nn_store(ex, node->out[0], dst, args[1].buffer, err);
}

bb_status bb_nn_pool_geometry(bb_executor *ex, const bb_node *node, bb_dn_pool *pool,
                              bb_window *window, bb_error *err) {
    const bb_nn_tensor *x = bb_nn_input(ex, node, 0);
    BB_TRY(bb_node_window(ex->graph, node, x->dims, x->rank, window, err));
    int64_t dims[4] = {x->dims[0], x->dims[1], window->out[0], window->out[1]};
    if (x->rank == 3)
        dims[2] = window->out[1];
    describe(node, x, window, dims, pool);
    return BB_STATUS_OK;
}

bool bb_nn_pool_is_exact(const bb_window *window) {
    return !window->count_include_pad || (window->pad_end[0] == window->pad_counted[0] &&
                                          window->pad_end[1] == window->pad_counted[1]);
}

bb_status bb_nn_build_pool(bb_executor *ex, const bb_node *node, bb_error *err) {
    const bb_nn_tensor *x = bb_nn_input(ex, node, 0);
    bb_window window;
    bool maximum = node->op == BB_OP_MAX_POOL;
    bool byte = maximum && (x->dtype == BB_DTYPE_U8 || x->dtype == BB_DTYPE_I8);
    if (x->dtype != BB_DTYPE_F32 && !byte)
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "pooling of %s is not supported",
                       bb_dtype_name(x->dtype));
    bb_dn_pool pool;
    BB_TRY(bb_nn_pool_geometry(ex, node, &pool, &window, err));
    BB_TRY(bb_nn_define(ex, node->out[0], x->dtype, x->rank, pool.dst, err));
    bool indices = node->n_out > 1 && node->out[1] >= 0;
    if (byte || indices || !bb_nn_pool_is_exact(&window) || x->elements == 0)
        return emit_plain(ex, node, &window, pool.dst, err);
    bb_status status = emit_op(ex, node, &pool, err);
    return status == BB_STATUS_UNSUPPORTED ? emit_plain(ex, node, &window, pool.dst, err) : status;
}

bb_status bb_nn_build_global_pool(bb_executor *ex, const bb_node *node, bb_error *err) {
    const bb_nn_tensor *x = bb_nn_input(ex, node, 0);
    if (x->dtype != BB_DTYPE_F32 || x->rank < 3 || x->rank > 5 || x->elements == 0)
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "global pooling of this tensor");
    bb_dn_pool pool = {.rank = x->rank};
    pool.kind = node->op == BB_OP_GLOBAL_MAX_POOL ? BB_DN_POOL_MAX : BB_DN_POOL_AVG;
    for (int i = 0; i < x->rank; i++)
        pool.dst[i] = i < 2 ? x->dims[i] : 1;
    for (int i = 0; i < x->rank - 2; i++) {
        pool.kernel[i] = x->dims[2 + i];
        pool.stride[i] = pool.dilation[i] = 1;
    }
    BB_TRY(bb_nn_define(ex, node->out[0], BB_DTYPE_F32, x->rank, pool.dst, err));
    return emit_op(ex, node, &pool, err);
}
