/* SPDX-License-Identifier: Apache-2.0 */
/* Softmax, means and sums over axes, Instance- and LayerNormalization, LRN: row-major. Forward
 * steps are the executor's where it has some; sums are taken in double. */
#include "nn/gradient_internal.h"
#include <math.h>
#include <string.h>

static bb_status new_gradient(bb_gradient *g, const bb_node *node, int *dy, int *dx,
                              bb_error *err) {
    BB_TRY(bb_grad_read(g, node->out[0], NULL, dy, NULL, err));
    return *dy < 0 ? BB_STATUS_OK : bb_grad_target(g, node->in[0], dx, err);
}

/* ---- Softmax and LogSoftmax ------------------------------------------------------------------ */

typedef struct softmax_state {
    size_t outer, n, inner;
    bool logarithm;
} softmax_state;

static void softmax_row(const softmax_state *s, const float *y, const float *dy, float *dx) {
    double sum = 0.0;
    for (size_t i = 0; i < s->n; i++) {
        size_t at = i * s->inner;
        sum += s->logarithm ? (double)dy[at] : (double)dy[at] * (double)y[at];
    }
    for (size_t i = 0; i < s->n; i++) {
        size_t at = i * s->inner;
        dx[at] = s->logarithm ? (float)((double)dy[at] - exp((double)y[at]) * sum)
                              : (float)((double)y[at] * ((double)dy[at] - sum));
    }
}

/* args: y, dy, dx */
static bb_status run_softmax_backward(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    const softmax_state *s = step->state;
    const float *y = step->data[0], *dy = step->data[1];
    float *dx = step->data[2];
    for (size_t o = 0; o < s->outer; o++)
        for (size_t k = 0; k < s->inner; k++) {
            size_t at = o * s->n * s->inner + k;
            softmax_row(s, y + at, dy + at, dx + at);
        }
    return BB_STATUS_OK;
}

static bb_status softmax_backward(bb_gradient *g, const bb_grad_entry *entry, bb_error *err) {
    const bb_node *node = entry->node;
    bb_nn_arg args[3] = {{0, 0}, {0, 0}, {0, 0}};
    BB_TRY(new_gradient(g, node, &args[1].buffer, &args[2].buffer, err));
    if (args[1].buffer < 0)
        return BB_STATUS_OK;
    BB_TRY(bb_nn_in_plain(g->ex, node->out[0], &args[0].buffer, err));
    BB_TRY(bb_grad_emit(g, node, run_softmax_backward, entry->state, args, 3, err));
    return bb_grad_add(g, node->in[0], NULL, args[2].buffer, err);
}

bb_status bb_grad_build_softmax(bb_gradient *g, const bb_node *node, bb_error *err) {
    softmax_state *s = bb_grad_alloc(g, 1, sizeof(*s));
    if (!s)
        return bb_fail_memory(err, "softmax");
    BB_TRY(bb_nn_build_softmax(g->ex, node, err));
    const bb_nn_tensor *x = bb_nn_input(g->ex, node, 0);
    int64_t axis = bb_node_int(node, "axis", -1);
    if (axis < 0)
        axis += x->rank;
    *s = (softmax_state){1, (size_t)x->dims[axis], 1, node->op == BB_OP_LOG_SOFTMAX};
    for (int d = 0; d < x->rank; d++)
        if (d != axis)
            *(d < axis ? &s->outer : &s->inner) *= (size_t)x->dims[d];
    bb_grad_save(g, node->out[0]);
    return bb_grad_push(g, node, softmax_backward, s, err);
}

/* ---- ReduceMean and ReduceSum ---------------------------------------------------------------- */

typedef struct reduce_state {
    int rank;
    size_t dims[BB_MAX_RANK], stride[BB_MAX_RANK]; /* of the result, 0 along reduced axes */
    size_t in, out;
    double factor;
} reduce_state;

static size_t result_index(const reduce_state *s, size_t i) {
    size_t at = 0;
    for (int d = s->rank - 1; d >= 0; d--) {
        at += i % s->dims[d] * s->stride[d];
        i /= s->dims[d];
    }
    return at;
}

/* args: x, y, sums */
static bb_status run_reduce(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    const reduce_state *s = step->state;
    const float *x = step->data[0];
    float *y = step->data[1];
    double *sums = step->data[2];
    size_t last = s->dims[s->rank - 1], stride = s->stride[s->rank - 1];
    memset(sums, 0, s->out * sizeof(*sums));
    for (size_t i = 0; i < s->in; i += last) {
        double *to = sums + result_index(s, i);
        for (size_t k = 0; k < last; k++)
            to[k * stride] += (double)x[i + k];
    }
    for (size_t i = 0; i < s->out; i++)
        y[i] = (float)(sums[i] * s->factor);
    return BB_STATUS_OK;
}

/* args: dy, dx */
static bb_status run_reduce_backward(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    const reduce_state *s = step->state;
    const float *dy = step->data[0];
    float *dx = step->data[1];
    size_t last = s->dims[s->rank - 1], stride = s->stride[s->rank - 1];
    for (size_t i = 0; i < s->in; i += last) {
        const float *from = dy + result_index(s, i);
        for (size_t k = 0; k < last; k++)
            dx[i + k] = (float)((double)from[k * stride] * s->factor);
    }
    return BB_STATUS_OK;
}

static bb_status reduce_backward(bb_gradient *g, const bb_grad_entry *entry, bb_error *err) {
    bb_nn_arg args[2] = {{0, 0}, {0, 0}};
    BB_TRY(new_gradient(g, entry->node, &args[0].buffer, &args[1].buffer, err));
    if (args[0].buffer < 0)
        return BB_STATUS_OK;
    BB_TRY(bb_grad_emit(g, entry->node, run_reduce_backward, entry->state, args, 2, err));
    return bb_grad_add(g, entry->node->in[0], NULL, args[1].buffer, err);
}

/* Reduced axes as a bit mask; the attribute noop_with_empty_axes makes it 0. */
static bb_status reduced_axes(bb_gradient *g, const bb_node *node, int rank, unsigned *mask,
                              bb_error *err) {
    const bb_nn_tensor *axes = bb_nn_input(g->ex, node, 1);
    *mask = 0;
    if (axes && (!axes->fixed || axes->dtype != BB_DTYPE_I64))
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "axes depend on data");
    for (size_t i = 0; axes && i < axes->elements; i++) {
        int64_t axis = ((const int64_t *)axes->fixed)[i];
        axis += axis < 0 ? rank : 0;
        if (axis < 0 || axis >= rank)
            return bb_fail(err, BB_STATUS_BAD_FILE, "axis is out of range");
        *mask |= 1u << axis;
    }
    if ((!axes || axes->elements == 0) && bb_node_int(node, "noop_with_empty_axes", 0) == 0)
        *mask = (1u << rank) - 1u;
    return BB_STATUS_OK;
}

static void plan_reduce(const bb_nn_tensor *x, unsigned mask, bool mean, reduce_state *s) {
    *s = (reduce_state){.rank = x->rank, .in = x->elements, .out = 1, .factor = 1.0};
    for (int d = x->rank - 1; d >= 0; d--) {
        bool reduced = mask >> d & 1u;
        s->dims[d] = (size_t)x->dims[d];
        s->stride[d] = reduced ? 0 : s->out;
        if (!reduced)
            s->out *= s->dims[d];
    }
    if (mean)
        s->factor = (double)s->out / (double)s->in;
}

bb_status bb_grad_build_reduce(bb_gradient *g, const bb_node *node, bb_error *err) {
    bb_executor *ex = g->ex;
    const bb_nn_tensor *x = bb_nn_input(ex, node, 0);
    reduce_state *s = bb_grad_alloc(g, 1, sizeof(*s));
    bb_nn_arg args[3] = {{0, 0}, {0, 0}, {0, 0}};
    bool keep = bb_node_int(node, "keepdims", 1) != 0;
    int64_t dims[BB_MAX_RANK];
    unsigned mask;
    int rank = 0;
    if (!s)
        return bb_fail_memory(err, "reduction");
    if (x->dtype != BB_DTYPE_F32 || x->rank < 1 || x->elements == 0)
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "no gradient for this input is known");
    BB_TRY(reduced_axes(g, node, x->rank, &mask, err));
    for (int d = 0; d < x->rank; d++) {
        bool reduced = mask >> d & 1u;
        if (!reduced || keep)
            dims[rank++] = reduced ? 1 : x->dims[d];
    }
    BB_TRY(bb_nn_define(ex, node->out[0], BB_DTYPE_F32, rank, dims, err));
    unsigned spatial = ((1u << x->rank) - 1u) & ~3u;
    if (node->op == BB_OP_REDUCE_MEAN && x->rank > 2 && mask == spatial)
        return bb_grad_build_channel_mean(g, node, err);
    plan_reduce(x, mask, node->op == BB_OP_REDUCE_MEAN, s);
    BB_TRY(bb_nn_in_plain(ex, node->in[0], &args[0].buffer, err));
    BB_TRY(bb_nn_new_plain(ex, node->out[0], &args[1].buffer, err));
    BB_TRY(bb_nn_new_buffer(ex, s->out * sizeof(double), &args[2].buffer, err));
    BB_TRY(bb_grad_emit(g, node, run_reduce, s, args, 3, err));
    return bb_grad_push(g, node, reduce_backward, s, err);
}

/* ---- Instance- and LayerNormalization -------------------------------------------------------- */

/* y = (x - mean) / sqrt(variance + epsilon) * scale + shift over rows. Scale and shift of an
 * instance are numbers of its row's channel, of a layer one per column or one in all. */
typedef struct row_norm {
    size_t rows, columns, channels; /* channels: rows share parameters modulo this; 0: per column */
    size_t scale_elements, shift_elements;
    double epsilon;
} row_norm;

typedef struct row_call {
    const row_norm *s;
    const float *x, *dy, *scale;
    float *dx;
    double *dscale, *dshift;
    size_t row;
} row_call;

static size_t parameter_index(const row_norm *s, size_t row, size_t column, size_t elements) {
    return elements == 1 ? 0 : s->channels ? row % s->channels : column;
}

static void row_backward(const row_call *c) {
    const row_norm *s = c->s;
    double n = (double)s->columns, mean = 0.0, variance = 0.0, sum = 0.0, product = 0.0;
    for (size_t i = 0; i < s->columns; i++)
        mean += (double)c->x[i] / n;
    for (size_t i = 0; i < s->columns; i++)
        variance += ((double)c->x[i] - mean) * ((double)c->x[i] - mean) / n;
    double inverse = 1.0 / sqrt(variance + s->epsilon);
    for (size_t i = 0; i < s->columns; i++) {
        size_t p = parameter_index(s, c->row, i, s->scale_elements);
        double normal = ((double)c->x[i] - mean) * inverse, dy = (double)c->dy[i];
        sum += dy * (double)c->scale[p] / n;
        product += dy * (double)c->scale[p] * normal / n;
        c->dscale[p] += dy * normal;
        if (s->shift_elements > 0)
            c->dshift[parameter_index(s, c->row, i, s->shift_elements)] += dy;
    }
    for (size_t i = 0; i < s->columns; i++) {
        size_t p = parameter_index(s, c->row, i, s->scale_elements);
        double normal = ((double)c->x[i] - mean) * inverse;
        c->dx[i] =
            (float)(inverse * ((double)c->dy[i] * (double)c->scale[p] - sum - normal * product));
    }
}

/* args: x, dy, scale, dx, sums, dscale, dshift */
static bb_status run_row_backward(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    const row_norm *s = step->state;
    double *sums = step->data[4];
    row_call c = {s,
                  step->data[0],
                  step->data[1],
                  step->data[2],
                  step->data[3],
                  sums,
                  sums + s->scale_elements,
                  0};
    memset(sums, 0, (s->scale_elements + s->shift_elements) * sizeof(*sums));
    for (; c.row < s->rows; c.row++) {
        row_backward(&c);
        c.x += s->columns;
        c.dy += s->columns;
        c.dx += s->columns;
    }
    for (size_t i = 0; i < s->scale_elements; i++)
        ((float *)step->data[5])[i] = (float)c.dscale[i];
    for (size_t i = 0; i < s->shift_elements; i++)
        ((float *)step->data[6])[i] = (float)c.dshift[i];
    return BB_STATUS_OK;
}

static bb_status parameter_target(bb_gradient *g, const bb_node *node, int i, size_t elements,
                                  int *buffer, bb_error *err) {
    if (bb_grad_wants(g, node, i))
        return bb_grad_target(g, node->in[i], buffer, err);
    return bb_nn_new_buffer(g->ex, (elements + 1) * sizeof(float), buffer, err);
}

static bb_status row_norm_backward(bb_gradient *g, const bb_grad_entry *entry, bb_error *err) {
    const bb_node *node = entry->node;
    const row_norm *s = entry->state;
    bb_nn_arg args[7] = {{0, 0}, {0, 0}, {0, 0}, {0, 0}, {0, 0}, {0, 0}, {0, 0}};
    BB_TRY(new_gradient(g, node, &args[1].buffer, &args[3].buffer, err));
    if (args[1].buffer < 0)
        return BB_STATUS_OK;
    BB_TRY(bb_nn_in_plain(g->ex, node->in[0], &args[0].buffer, err));
    BB_TRY(bb_nn_in_plain(g->ex, node->in[1], &args[2].buffer, err));
    BB_TRY(bb_nn_new_buffer(g->ex, (s->scale_elements + s->shift_elements) * sizeof(double),
                            &args[4].buffer, err));
    BB_TRY(parameter_target(g, node, 1, s->scale_elements, &args[5].buffer, err));
    BB_TRY(parameter_target(g, node, 2, s->shift_elements, &args[6].buffer, err));
    BB_TRY(bb_grad_emit(g, node, run_row_backward, entry->state, args, 7, err));
    for (int i = 1; i < 3; i++)
        if (bb_grad_wants(g, node, i))
            BB_TRY(bb_grad_add(g, node->in[i], NULL, args[4 + i].buffer, err));
    return bb_grad_add(g, node->in[0], NULL, args[3].buffer, err);
}

bb_status bb_grad_build_row_norm(bb_gradient *g, const bb_node *node, bb_error *err) {
    bool layer = node->op == BB_OP_LAYER_NORMALIZATION;
    row_norm *s = bb_grad_alloc(g, 1, sizeof(*s));
    if (!s)
        return bb_fail_memory(err, "normalization");
    for (int i = 1; i < node->n_out; i++)
        if (node->out[i] >= 0)
            return bb_fail(err, BB_STATUS_UNSUPPORTED, "gradient of the mean or deviation");
    BB_TRY(layer ? bb_nn_build_layer_norm(g->ex, node, err)
                 : bb_nn_build_instance_norm(g->ex, node, err));
    const bb_nn_tensor *x = bb_nn_input(g->ex, node, 0), *shift = bb_nn_input(g->ex, node, 2);
    int64_t axis = layer ? bb_node_int(node, "axis", -1) : 2;
    if (axis < 0)
        axis += x->rank;
    s->rows = s->columns = 1;
    for (int d = 0; d < x->rank; d++)
        *(d < axis ? &s->rows : &s->columns) *= (size_t)x->dims[d];
    s->channels = layer ? 0 : (size_t)x->dims[1];
    s->scale_elements = bb_nn_input(g->ex, node, 1)->elements;
    s->shift_elements = shift ? shift->elements : 0;
    s->epsilon = (double)bb_node_float(node, "epsilon", 1e-5f);
    bb_grad_save(g, node->in[0]);
    bb_grad_save(g, node->in[1]);
    return bb_grad_push(g, node, row_norm_backward, s, err);
}

/* ---- LRN ------------------------------------------------------------------------------------- */

typedef struct lrn_state {
    int64_t images, channels, area, size;
    double alpha, beta, bias;
} lrn_state;

/* s_c = bias + alpha/size * sum over the window of x^2 */
static double lrn_sum(const lrn_state *s, const float *x, int64_t c) {
    int64_t from = c - (s->size - 1) / 2, to = c + s->size / 2;
    double sum = 0.0;
    for (int64_t k = from < 0 ? 0 : from; k <= to && k < s->channels; k++)
        sum += (double)x[k * s->area] * (double)x[k * s->area];
    return s->bias + s->alpha / (double)s->size * sum;
}

/* dx_c = dy_c s_c^-beta - 2 alpha beta / size * x_c * sum of dy_j x_j s_j^(-beta-1) over the j
 * whose windows hold c. args: x, dy, dx, one row of doubles */
static bb_status run_lrn_backward(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    const lrn_state *s = step->state;
    double *rows = step->data[3];
    double *power = rows + s->channels;
    for (int64_t p = 0; p < s->images * s->area; p++) {
        size_t at = (size_t)(p / s->area * s->channels * s->area + p % s->area);
        const float *x = (const float *)step->data[0] + at, *dy = (const float *)step->data[1] + at;
        float *dx = (float *)step->data[2] + at;
        for (int64_t c = 0; c < s->channels; c++) {
            double sum = lrn_sum(s, x, c);
            power[c] = pow(sum, -s->beta);
            rows[c] = (double)dy[c * s->area] * (double)x[c * s->area] * power[c] / sum;
        }
        for (int64_t c = 0; c < s->channels; c++) {
            double sum = 0.0;
            int64_t from = c - s->size / 2, to = c + (s->size - 1) / 2;
            for (int64_t j = from < 0 ? 0 : from; j <= to && j < s->channels; j++)
                sum += rows[j];
            dx[c * s->area] =
                (float)((double)dy[c * s->area] * power[c] -
                        2.0 * s->alpha * s->beta / (double)s->size * (double)x[c * s->area] * sum);
        }
    }
    return BB_STATUS_OK;
}

static bb_status lrn_backward(bb_gradient *g, const bb_grad_entry *entry, bb_error *err) {
    const bb_node *node = entry->node;
    const lrn_state *s = entry->state;
    bb_nn_arg args[4] = {{0, 0}, {0, 0}, {0, 0}, {0, 0}};
    BB_TRY(new_gradient(g, node, &args[1].buffer, &args[2].buffer, err));
    if (args[1].buffer < 0)
        return BB_STATUS_OK;
    BB_TRY(bb_nn_in_plain(g->ex, node->in[0], &args[0].buffer, err));
    BB_TRY(bb_nn_new_buffer(g->ex, 2 * (size_t)s->channels * sizeof(double), &args[3].buffer, err));
    BB_TRY(bb_grad_emit(g, node, run_lrn_backward, entry->state, args, 4, err));
    return bb_grad_add(g, node->in[0], NULL, args[2].buffer, err);
}

bb_status bb_grad_build_lrn(bb_gradient *g, const bb_node *node, bb_error *err) {
    lrn_state *s = bb_grad_alloc(g, 1, sizeof(*s));
    if (!s)
        return bb_fail_memory(err, "LRN");
    BB_TRY(bb_nn_build_lrn(g->ex, node, err));
    const bb_nn_tensor *x = bb_nn_input(g->ex, node, 0);
    *s = (lrn_state){.images = x->dims[0],
                     .channels = x->dims[1],
                     .area = 1,
                     .size = bb_node_int(node, "size", 1),
                     .alpha = (double)bb_node_float(node, "alpha", 1e-4f),
                     .beta = (double)bb_node_float(node, "beta", 0.75f),
                     .bias = (double)bb_node_float(node, "bias", 1.0f)};
    for (int d = 2; d < x->rank; d++)
        s->area *= x->dims[d];
    bb_grad_save(g, node->in[0]);
    return bb_grad_push(g, node, lrn_backward, s, err);
}
