/* SPDX-License-Identifier: Apache-2.0 */
/* BatchNormalization, InstanceNormalization, LRN, Softmax and LogSoftmax. */
#include "nn/program.h"
#include <math.h>
#include <string.h>

static bb_status need_f32(const bb_nn_tensor *x, int min_rank, bb_error *err) {
    if (x->dtype == BB_DTYPE_F32 && x->rank >= min_rank)
        return BB_STATUS_OK;
    return bb_fail(err, BB_STATUS_UNSUPPORTED, "rank %d %s input is not supported", x->rank,
                   bb_dtype_name(x->dtype));
}

/* ---- BatchNormalization ---------------------------------------------------------------------- */

static bb_status run_pair(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    size_t bytes = *(const size_t *)step->state;
    memcpy(step->data[2], step->data[0], bytes);
    memcpy((uint8_t *)step->data[2] + bytes, step->data[1], bytes);
    return BB_STATUS_OK;
}

/* Scale and shift side by side, as oneDNN takes them. */
static bb_status scale_shift(bb_executor *ex, const bb_node *node, int *buffer, bb_error *err) {
    bb_nn_arg args[3] = {{0, 0}, {0, 0}, {0, 0}};
    size_t *bytes = bb_arena_alloc(ex->arena, sizeof(*bytes));
    if (!bytes)
        return bb_fail_memory(err, "batch normalization");
    *bytes = bb_nn_input(ex, node, 1)->elements * sizeof(float);
    BB_TRY(bb_nn_in_plain(ex, node->in[1], &args[0].buffer, err));
    BB_TRY(bb_nn_in_plain(ex, node->in[2], &args[1].buffer, err));
    BB_TRY(bb_nn_new_buffer(ex, 2 * *bytes, buffer, err));
    args[2].buffer = *buffer;
    bb_nn_step step = {.run = run_pair, .node = node, .state = bytes, .tap = -1};
    return bb_nn_emit(ex, &step, args, 3, err);
}

static bb_status check_norm(bb_executor *ex, const bb_node *node, bb_error *err) {
    const bb_nn_tensor *x = bb_nn_input(ex, node, 0);
    if (bb_node_int(node, "training_mode", 0) != 0)
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "training_mode is not supported");
    BB_TRY(need_f32(x, 2, err));
    for (int i = 1; i < 5; i++) {
        const bb_nn_tensor *p = bb_nn_input(ex, node, i);
        if (!p || p->dtype != BB_DTYPE_F32 || (int64_t)p->elements != x->dims[1])
            return bb_fail(err, BB_STATUS_BAD_FILE, "input %d needs one f32 value per channel", i);
    }
    return BB_STATUS_OK;
}

/* oneDNN's own layouts only; it has slow loops for the two others. */
static bb_status emit_norm_op(bb_executor *ex, const bb_node *node, float epsilon, bb_error *err) {
    const bb_nn_tensor *x = bb_nn_input(ex, node, 0);
    const bb_dn_layout *layout = x->forms->layout;
    bb_dn_op *op;
    bb_nn_arg args[5] = {{x->forms->buffer, BB_DN_SRC},
                         {0, BB_DN_WEIGHTS},
                         {0, BB_DN_MEAN},
                         {0, BB_DN_VARIANCE},
                         {x->forms->buffer, BB_DN_DST}};
    BB_TRY(bb_dn_make_batch_norm(ex->dn, epsilon, layout, &op, err));
    BB_TRY(scale_shift(ex, node, &args[1].buffer, err));
    BB_TRY(bb_nn_in_plain(ex, node->in[3], &args[2].buffer, err));
    BB_TRY(bb_nn_in_plain(ex, node->in[4], &args[3].buffer, err));
    if (!bb_nn_may_overwrite(ex, x->forms->buffer))
        BB_TRY(bb_nn_new_buffer(ex, bb_dn_bytes(layout), &args[4].buffer, err));
    BB_TRY(bb_nn_emit_op(ex, node, op, args, 5, err));
    return bb_nn_store(ex, node->out[0], layout, args[4].buffer, err);
}

typedef struct norm_state {
    size_t channels, area, rows; /* row-major: rows = N*C; channels innermost: rows = N*area */
    bool channels_last;
    float epsilon;
} norm_state;

/* y = x*a + b, with a and b of each channel in double until they are used. */
static void norm_factors(const norm_state *s, void *const *data, float *a, float *b) {
    const float *scale = data[1], *shift = data[2], *mean = data[3], *variance = data[4];
    for (size_t c = 0; c < s->channels; c++) {
        double factor = (double)scale[c] / sqrt((double)variance[c] + (double)s->epsilon);
        a[c] = (float)factor;
        b[c] = (float)((double)shift[c] - (double)mean[c] * factor);
    }
}

static bb_status run_norm(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    const norm_state *s = step->state;
    const float *x = step->data[0];
    float *y = step->data[5], *a = step->data[6], *b = a + s->channels;
    size_t length = s->channels_last ? s->channels : s->area;
    norm_factors(s, step->data, a, b);
    for (size_t r = 0; r < s->rows; r++, x += length, y += length)
        if (s->channels_last)
            for (size_t c = 0; c < length; c++)
                y[c] = x[c] * a[c] + b[c];
        else
            for (size_t i = 0, c = r % s->channels; i < length; i++)
                y[i] = x[i] * a[c] + b[c];
    return BB_STATUS_OK;
}

static bb_status emit_norm(bb_executor *ex, const bb_node *node, bool channels_last, float epsilon,
                           bb_error *err) {
    const bb_nn_tensor *x = bb_nn_input(ex, node, 0);
    norm_state *s = bb_arena_alloc(ex->arena, sizeof(*s));
    bb_nn_arg args[7] = {{0, 0}};
    if (!s)
        return bb_fail_memory(err, "batch normalization");
    s->channels = (size_t)x->dims[1];
    s->area = x->elements > 0 ? x->elements / s->channels / (size_t)x->dims[0] : 0;
    s->rows = (size_t)x->dims[0] * (channels_last ? s->area : s->channels);
    s->channels_last = channels_last;
    s->epsilon = epsilon;
    args[0].buffer = x->forms->buffer;
    for (int i = 1; i < 5; i++)
        BB_TRY(bb_nn_in_plain(ex, node->in[i], &args[i].buffer, err));
    args[5].buffer = x->forms->buffer;
    if (!bb_nn_may_overwrite(ex, x->forms->buffer))
        BB_TRY(bb_nn_new_buffer(ex, x->elements * sizeof(float), &args[5].buffer, err));
    BB_TRY(bb_nn_new_buffer(ex, 2 * s->channels * sizeof(float), &args[6].buffer, err));
    BB_TRY(bb_nn_store(ex, node->out[0], x->forms->layout, args[5].buffer, err));
    bb_nn_step step = {.run = run_norm, .node = node, .state = s, .tap = -1};
    return bb_nn_emit(ex, &step, args, 7, err);
}

bb_status bb_nn_build_batch_norm(bb_executor *ex, const bb_node *node, bb_error *err) {
    BB_TRY(check_norm(ex, node, err));
    const bb_nn_tensor *x = bb_nn_input(ex, node, 0);
    float epsilon = bb_node_float(node, "epsilon", 1e-5f);
    bool channels_last = bb_nn_is_channels_last(ex, node->in[0]);
    BB_TRY(bb_nn_define(ex, node->out[0], BB_DTYPE_F32, x->rank, x->dims, err));
    return x->forms->layout && !channels_last ? emit_norm_op(ex, node, epsilon, err)
                                              : emit_norm(ex, node, channels_last, epsilon, err);
}

/* ---- row-major loops over channels ----------------------------------------------------------- */

typedef struct channel_state {
    int64_t batch, channels, area;
    float epsilon; /* InstanceNormalization */
    int64_t size;  /* LRN from here on */
    float alpha, beta, bias;
} channel_state;

static bb_status emit_channels(bb_executor *ex, const bb_node *node, bb_nn_run_fn run,
                               const channel_state *state, bb_error *err) {
    const bb_nn_tensor *x = bb_nn_input(ex, node, 0);
    channel_state *kept = bb_arena_alloc(ex->arena, sizeof(*kept));
    bb_nn_arg args[4] = {{0, 0}, {0, 0}, {0, 0}, {0, 0}};
    if (!kept)
        return bb_fail_memory(err, "normalization");
    *kept = *state;
    kept->batch = x->dims[0];
    kept->channels = x->dims[1];
    kept->area = x->dims[0] * x->dims[1] > 0 ? (int64_t)x->elements / (x->dims[0] * x->dims[1]) : 0;
    BB_TRY(bb_nn_define(ex, node->out[0], BB_DTYPE_F32, x->rank, x->dims, err));
    BB_TRY(bb_nn_new_plain(ex, node->out[0], &args[0].buffer, err));
    for (int i = 0; i < node->n_in; i++)
        BB_TRY(bb_nn_in_plain(ex, node->in[i], &args[i + 1].buffer, err));
    bb_nn_step step = {.run = run, .node = node, .state = kept, .tap = -1};
    return bb_nn_emit(ex, &step, args, node->n_in + 1, err);
}

static bb_status run_instance_norm(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    const channel_state *s = step->state;
    float *y = step->data[0];
    const float *x = step->data[1], *scale = step->data[2], *shift = step->data[3];
    for (int64_t p = 0; p < s->batch * s->channels; p++, x += s->area, y += s->area) {
        double sum = 0.0, squares = 0.0;
        for (int64_t i = 0; i < s->area; i++)
            sum += (double)x[i];
        double mean = sum / (double)s->area;
        for (int64_t i = 0; i < s->area; i++)
            squares += ((double)x[i] - mean) * ((double)x[i] - mean);
        int64_t c = p % s->channels;
        double factor = (double)scale[c] / sqrt(squares / (double)s->area + (double)s->epsilon);
        for (int64_t i = 0; i < s->area; i++)
            y[i] = (float)(((double)x[i] - mean) * factor + (double)shift[c]);
    }
    return BB_STATUS_OK;
}

bb_status bb_nn_build_instance_norm(bb_executor *ex, const bb_node *node, bb_error *err) {
    const bb_nn_tensor *x = bb_nn_input(ex, node, 0);
    BB_TRY(need_f32(x, 2, err));
    for (int i = 1; i < 3; i++) {
        const bb_nn_tensor *p = bb_nn_input(ex, node, i);
        if (!p || p->dtype != BB_DTYPE_F32 || (int64_t)p->elements != x->dims[1])
            return bb_fail(err, BB_STATUS_BAD_FILE, "input %d needs one f32 value per channel", i);
    }
    channel_state state = {.epsilon = bb_node_float(node, "epsilon", 1e-5f)};
    return emit_channels(ex, node, run_instance_norm, &state, err);
}

/* y = x / (bias + alpha/size * sum of squares over `size` neighbouring channels)^beta. */
static bb_status run_lrn(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    const channel_state *s = step->state;
    float *y = step->data[0];
    const float *x = step->data[1];
    int64_t before = (s->size - 1) / 2, after = s->size / 2;
    for (int64_t p = 0; p < s->batch * s->channels; p++) {
        int64_t c = p % s->channels;
        int64_t from = c < before ? -c : -before;
        int64_t to = s->channels - 1 - c < after ? s->channels - 1 - c : after;
        for (int64_t i = 0; i < s->area; i++) {
            const float *at = x + p * s->area + i;
            double sum = 0.0;
            for (int64_t k = from; k <= to; k++)
                sum += (double)at[k * s->area] * (double)at[k * s->area];
            double base = (double)s->bias + (double)s->alpha / (double)s->size * sum;
            y[p * s->area + i] = (float)((double)*at * pow(base, -(double)s->beta));
        }
    }
    return BB_STATUS_OK;
}

bb_status bb_nn_build_lrn(bb_executor *ex, const bb_node *node, bb_error *err) {
    BB_TRY(need_f32(bb_nn_input(ex, node, 0), 2, err));
    channel_state state = {.size = bb_node_int(node, "size", 0),
                           .alpha = bb_node_float(node, "alpha", 1e-4f),
                           .beta = bb_node_float(node, "beta", 0.75f),
                           .bias = bb_node_float(node, "bias", 1.0f)};
    if (state.size < 1)
        return bb_fail(err, BB_STATUS_BAD_FILE, "size must be positive");
    return emit_channels(ex, node, run_lrn, &state, err);
}

/* ---- LayerNormalization ---------------------------------------------------------------------- */

typedef struct layer_state {
    int64_t rows, columns;
    size_t scale_elements, shift_elements; /* one or `columns` values */
    int scale, shift, mean, deviation;     /* slots in step->data, -1: absent */
    float epsilon;
} layer_state;

static void normalise_row(const layer_state *s, const float *x, const float *scale,
                          const float *shift, float *y, double *mean, double *inverse) {
    double sum = 0.0, squares = 0.0;
    for (int64_t i = 0; i < s->columns; i++)
        sum += (double)x[i];
    *mean = sum / (double)s->columns;
    for (int64_t i = 0; i < s->columns; i++)
        squares += ((double)x[i] - *mean) * ((double)x[i] - *mean);
    *inverse = 1.0 / sqrt(squares / (double)s->columns + (double)s->epsilon);
    for (int64_t i = 0; i < s->columns; i++)
        y[i] = (float)(((double)x[i] - *mean) * *inverse *
                           (double)scale[s->scale_elements == 1 ? 0 : i] +
                       (shift ? (double)shift[s->shift_elements == 1 ? 0 : i] : 0.0));
}

static bb_status run_layer_norm(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    const layer_state *s = step->state;
    const float *x = step->data[0], *scale = step->data[s->scale];
    const float *shift = s->shift >= 0 ? step->data[s->shift] : NULL;
    float *y = step->data[1];
    for (int64_t r = 0; r < s->rows; r++, x += s->columns, y += s->columns) {
        double mean, inverse;
        normalise_row(s, x, scale, shift, y, &mean, &inverse);
        if (s->mean >= 0)
            ((float *)step->data[s->mean])[r] = (float)mean;
        if (s->deviation >= 0)
            ((float *)step->data[s->deviation])[r] = (float)inverse;
    }
    return BB_STATUS_OK;
}

typedef struct arg_list {
    int n;
    bb_nn_arg arg[6];
} arg_list;

/* Scale or shift: f32, one value or one per element of a row. */
static bb_status row_parameter(bb_executor *ex, const bb_node *node, int i, int64_t columns,
                               arg_list *args, int *slot, size_t *elements, bb_error *err) {
    const bb_nn_tensor *p = bb_nn_input(ex, node, i);
    *slot = -1;
    if (!p)
        return BB_STATUS_OK;
    if (p->dtype != BB_DTYPE_F32 || (p->elements != 1 && (int64_t)p->elements != columns))
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "input %d needs one f32 value per element", i);
    *elements = p->elements;
    *slot = args->n++;
    return bb_nn_in_plain(ex, node->in[i], &args->arg[*slot].buffer, err);
}

/* Optional outputs 1 and 2 keep the leading dims and have ones from `axis` on. */
static bb_status row_output(bb_executor *ex, const bb_node *node, int i, int64_t axis,
                            arg_list *args, int *slot, bb_error *err) {
    const bb_nn_tensor *x = bb_nn_input(ex, node, 0);
    int64_t dims[BB_MAX_RANK];
    *slot = -1;
    if (i >= node->n_out || node->out[i] < 0)
        return BB_STATUS_OK;
    for (int d = 0; d < x->rank; d++)
        dims[d] = d < axis ? x->dims[d] : 1;
    BB_TRY(bb_nn_define(ex, node->out[i], BB_DTYPE_F32, x->rank, dims, err));
    *slot = args->n++;
    return bb_nn_new_plain(ex, node->out[i], &args->arg[*slot].buffer, err);
}

bb_status bb_nn_build_layer_norm(bb_executor *ex, const bb_node *node, bb_error *err) {
    const bb_nn_tensor *x = bb_nn_input(ex, node, 0);
    BB_TRY(need_f32(x, 1, err));
    int64_t axis = bb_node_int(node, "axis", -1);
    if (axis < 0)
        axis += x->rank;
    if (axis < 0 || axis >= x->rank || !bb_nn_input(ex, node, 1))
        return bb_fail(err, BB_STATUS_BAD_FILE, "axis is out of range, or the scale is missing");
    layer_state *s = bb_arena_alloc(ex->arena, sizeof(*s));
    if (!s)
        return bb_fail_memory(err, "layer normalization");
    s->epsilon = bb_node_float(node, "epsilon", 1e-5f);
    s->rows = s->columns = 1;
    for (int d = 0; d < x->rank; d++)
        *(d < axis ? &s->rows : &s->columns) *= x->dims[d];
    arg_list args = {.n = 2};
    BB_TRY(bb_nn_define(ex, node->out[0], BB_DTYPE_F32, x->rank, x->dims, err));
    BB_TRY(bb_nn_in_plain(ex, node->in[0], &args.arg[0].buffer, err));
    BB_TRY(bb_nn_new_plain(ex, node->out[0], &args.arg[1].buffer, err));
    BB_TRY(row_parameter(ex, node, 1, s->columns, &args, &s->scale, &s->scale_elements, err));
    BB_TRY(row_parameter(ex, node, 2, s->columns, &args, &s->shift, &s->shift_elements, err));
    BB_TRY(row_output(ex, node, 1, axis, &args, &s->mean, err));
    BB_TRY(row_output(ex, node, 2, axis, &args, &s->deviation, err));
    bb_nn_step step = {.run = run_layer_norm, .node = node, .state = s, .tap = -1};
    return bb_nn_emit(ex, &step, args.arg, args.n, err);
}

/* ---- Softmax --------------------------------------------------------------------------------- */

bb_status bb_nn_build_softmax(bb_executor *ex, const bb_node *node, bb_error *err) {
    const bb_nn_tensor *x = bb_nn_input(ex, node, 0);
    BB_TRY(need_f32(x, 1, err));
    int64_t axis = bb_node_int(node, "axis", -1);
    if (axis < 0)
        axis += x->rank;
    if (axis < 0 || axis >= x->rank)
        return bb_fail(err, BB_STATUS_BAD_FILE, "axis is out of range");
    const bb_dn_layout *plain = bb_dn_plain(ex->dn, x->rank, x->dims);
    bb_dn_op *op;
    bb_nn_arg args[2] = {{0, BB_DN_SRC}, {0, BB_DN_DST}};
    if (!plain)
        return bb_fail_memory(err, "softmax");
    BB_TRY(bb_dn_make_softmax(ex->dn, node->op == BB_OP_LOG_SOFTMAX, (int)axis, plain, &op, err));
    BB_TRY(bb_nn_in_plain(ex, node->in[0], &args[0].buffer, err));
    BB_TRY(bb_nn_define(ex, node->out[0], BB_DTYPE_F32, x->rank, x->dims, err));
    BB_TRY(bb_nn_new_plain(ex, node->out[0], &args[1].buffer, err));
    return bb_nn_emit_op(ex, node, op, args, 2, err);
}
