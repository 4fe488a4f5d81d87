/* SPDX-License-Identifier: Apache-2.0 */
/* Reductions. Floats accumulate in double in row-major order and are rounded once. */
#include "graph/eval_internal.h"
#include <math.h>
#include <string.h>

/* One group of elements that become one: `n` of them, reached through a walk. */
typedef struct reduction {
    bb_op op;
    const bb_array *x;
    bb_walk kept, reduced; /* operand 0 of kept: output; operand 1 of kept, 0 of reduced: input */
} reduction;

static double start_value(bb_op op) {
    switch (op) {
    case BB_OP_REDUCE_PROD:
        return 1;
    case BB_OP_REDUCE_MAX:
        return -INFINITY;
    case BB_OP_REDUCE_MIN:
        return INFINITY;
    default:
        return 0;
    }
}

static double accumulate(bb_op op, double sum, double v, double shift) {
    switch (op) {
    case BB_OP_REDUCE_L1:
        return sum + fabs(v);
    case BB_OP_REDUCE_L2:
    case BB_OP_REDUCE_SUM_SQUARE:
        return sum + v * v;
    case BB_OP_REDUCE_PROD:
        return sum * v;
    case BB_OP_REDUCE_MAX:
        return v > sum || v != v ? v : sum;
    case BB_OP_REDUCE_MIN:
        return v < sum || v != v ? v : sum;
    case BB_OP_REDUCE_LOG_SUM_EXP:
        return sum + exp(v - shift);
    default:
        return sum + v;
    }
}

static double finish(bb_op op, double sum, double n, double shift) {
    switch (op) {
    case BB_OP_REDUCE_L2:
        return sqrt(sum);
    case BB_OP_REDUCE_MEAN:
        return sum / n;
    case BB_OP_REDUCE_LOG_SUM:
        return log(sum);
    case BB_OP_REDUCE_LOG_SUM_EXP:
        return log(sum) + shift;
    default:
        return sum;
    }
}

static double fold_group(const reduction *r, int64_t base, bb_op op, double shift, double *n) {
    bb_walk w = r->reduced;
    int last = w.rank - 1;
    double sum = start_value(op);
    *n = 0;
    if (bb_walk_empty(&w))
        return sum;
    do {
        for (int64_t i = 0; i < w.dims[last]; i++) {
            size_t at = (size_t)(base + w.offset[0] + i * w.strides[0][last]);
            sum = accumulate(op, sum, bb_array_double(r->x, at), shift);
        }
        *n += (double)w.dims[last];
    } while (bb_walk_next(&w));
    return sum;
}

static int64_t accumulate_int(bb_op op, int64_t sum, int64_t v, bool first) {
    switch (op) {
    case BB_OP_REDUCE_PROD:
        return first ? v : (int64_t)((uint64_t)sum * (uint64_t)v);
    case BB_OP_REDUCE_MAX:
        return first || v > sum ? v : sum;
    case BB_OP_REDUCE_MIN:
        return first || v < sum ? v : sum;
    case BB_OP_REDUCE_SUM_SQUARE:
        return (int64_t)((uint64_t)sum + (uint64_t)v * (uint64_t)v);
    case BB_OP_REDUCE_L1:
        return (int64_t)((uint64_t)sum + (v < 0 ? 0 - (uint64_t)v : (uint64_t)v));
    default:
        return (int64_t)((uint64_t)sum + (uint64_t)v);
    }
}

static int64_t fold_ints(const reduction *r, int64_t base) {
    bb_walk w = r->reduced;
    int last = w.rank - 1;
    int64_t sum = r->op == BB_OP_REDUCE_PROD, n = 0;
    if (bb_walk_empty(&w))
        return sum;
    do {
        for (int64_t i = 0; i < w.dims[last]; i++, n++) {
            size_t at = (size_t)(base + w.offset[0] + i * w.strides[0][last]);
            sum = accumulate_int(r->op, sum, bb_array_int(r->x, at), n == 0);
        }
    } while (bb_walk_next(&w));
    return r->op == BB_OP_REDUCE_MEAN ? sum / n : sum;
}

static bool int_form(bb_op op) {
    return op == BB_OP_REDUCE_SUM || op == BB_OP_REDUCE_PROD || op == BB_OP_REDUCE_MAX ||
           op == BB_OP_REDUCE_MIN || op == BB_OP_REDUCE_MEAN || op == BB_OP_REDUCE_SUM_SQUARE ||
           op == BB_OP_REDUCE_L1;
}

static void reduce_group(const reduction *r, int64_t base, const bb_array *y, size_t at) {
    double n, shift = 0;
    if (!bb_dtype_is_float(r->x->dtype) && int_form(r->op)) {
        bb_array_put_int(y, at, fold_ints(r, base));
        return;
    }
    if (r->op == BB_OP_REDUCE_LOG_SUM_EXP) {
        shift = fold_group(r, base, BB_OP_REDUCE_MAX, 0, &n);
        shift = isfinite(shift) ? shift : 0;
    }
    double sum = fold_group(r, base, r->op, shift, &n);
    bb_array_put_double(y, at, finish(r->op, sum, n, shift));
}

/* Splits the axes of x into those that stay and those of `mask`. */
static void split_axes(const bb_array *x, unsigned mask, bb_walk *kept, bb_walk *reduced) {
    int64_t strides[BB_MAX_RANK], stride = 1;
    bb_array_strides(x, strides);
    *kept = (bb_walk){.n = 2};
    *reduced = (bb_walk){.n = 1};
    for (int i = 0; i < x->rank; i++) {
        bb_walk *w = mask & 1u << i ? reduced : kept;
        w->strides[w == kept][w->rank] = strides[i];
        w->dims[w->rank++] = x->dims[i];
    }
    for (int i = kept->rank - 1; i >= 0; i--) {
        kept->strides[0][i] = stride;
        stride *= kept->dims[i];
    }
    bb_walk_begin(kept);
    bb_walk_begin(reduced);
}

bb_status bb_eval_reduce(const bb_eval *e) {
    const bb_array *x = &e->in[0], *y = &e->out[0];
    bb_shape s = bb_eval_shape(e);
    unsigned mask;
    bb_status status;
    if (!bb_axes_mask(&s, x->rank, &mask, &status))
        return status != BB_STATUS_OK ? status : bb_eval_fail(e, "its axes are not integers");
    if (mask == 0 && !bb_node_int(e->node, "noop_with_empty_axes", 0))
        mask = (1u << x->rank) - 1;
    else if (mask == 0)
        return bb_eval_copy(e);
    reduction r = {.op = e->node->op, .x = x};
    split_axes(x, mask, &r.kept, &r.reduced);
    if (bb_walk_empty(&r.kept))
        return BB_STATUS_OK;
    int last = r.kept.rank - 1;
    do {
        for (int64_t i = 0; i < r.kept.dims[last]; i++)
            reduce_group(&r, r.kept.offset[1] + i * r.kept.strides[1][last], y,
                         (size_t)(r.kept.offset[0] + i * r.kept.strides[0][last]));
    } while (bb_walk_next(&r.kept));
    return BB_STATUS_OK;
}

/* ---- along one axis -------------------------------------------------------------------------- */

/* x seen as [outer][n][inner] around `axis`. */
typedef struct axis_view {
    size_t outer, n, inner;
} axis_view;

static bb_status view_axis(const bb_eval *e, int64_t axis_number, axis_view *v) {
    bb_shape s = bb_eval_shape(e);
    const bb_array *x = &e->in[0];
    int axis;
    BB_TRY(bb_shape_axis(&s, axis_number, x->rank, &axis));
    *v = (axis_view){1, (size_t)x->dims[axis], 1};
    for (int i = 0; i < axis; i++)
        v->outer *= (size_t)x->dims[i];
    for (int i = axis + 1; i < x->rank; i++)
        v->inner *= (size_t)x->dims[i];
    return BB_STATUS_OK;
}

/* -1, 0, 1 as element i is below, equal to or above element k. */
static int order(const bb_array *x, size_t i, size_t k) {
    if (bb_dtype_is_float(x->dtype)) {
        double a = bb_array_double(x, i), b = bb_array_double(x, k);
        return (a > b) - (a < b);
    }
    int64_t a = bb_array_int(x, i), b = bb_array_int(x, k);
    return (a > b) - (a < b);
}

bb_status bb_eval_arg(const bb_eval *e) {
    axis_view v;
    BB_TRY(view_axis(e, bb_node_int(e->node, "axis", 0), &v));
    const bb_array *x = &e->in[0];
    int want = e->node->op == BB_OP_ARGMAX ? 1 : -1;
    bool last = bb_node_int(e->node, "select_last_index", 0) != 0;
    int64_t *out = e->out[0].data;
    if (v.n == 0 && v.outer * v.inner > 0)
        return bb_eval_fail(e, "there is nothing to choose from");
    for (size_t o = 0; o < v.outer; o++)
        for (size_t i = 0; i < v.inner; i++) {
            size_t base = o * v.n * v.inner + i, best = 0;
            for (size_t k = 1; k < v.n; k++) {
                int c = order(x, base + k * v.inner, base + best * v.inner) * want;
                if (c > 0 || (c == 0 && last))
                    best = k;
            }
            out[o * v.inner + i] = (int64_t)best;
        }
    return BB_STATUS_OK;
}

bb_status bb_eval_cum_sum(const bb_eval *e) {
    axis_view v;
    if (bb_array_elements(&e->in[1]) != 1)
        return bb_eval_fail(e, "its axis is not a scalar");
    BB_TRY(view_axis(e, bb_array_int(&e->in[1], 0), &v));
    const bb_array *x = &e->in[0], *y = &e->out[0];
    bool exclusive = bb_node_int(e->node, "exclusive", 0) != 0;
    bool reverse = bb_node_int(e->node, "reverse", 0) != 0, floats = bb_dtype_is_float(x->dtype);
    for (size_t o = 0; o < v.outer * v.inner; o++) {
        size_t base = o / v.inner * v.n * v.inner + o % v.inner;
        double sum = 0;
        uint64_t whole = 0;
        for (size_t k = 0; k < v.n; k++) {
            size_t at = base + (reverse ? v.n - 1 - k : k) * v.inner;
            double before = sum;
            uint64_t whole_before = whole;
            sum += floats ? bb_array_double(x, at) : 0;
            whole += floats ? 0 : (uint64_t)bb_array_int(x, at);
            if (floats)
                bb_array_put_double(y, at, exclusive ? before : sum);
            else
                bb_array_put_int(y, at, (int64_t)(exclusive ? whole_before : whole));
        }
    }
    return BB_STATUS_OK;
}

bb_status bb_eval_lp_normalization(const bb_eval *e) {
    axis_view v;
    BB_TRY(view_axis(e, bb_node_int(e->node, "axis", -1), &v));
    const bb_array *x = &e->in[0], *y = &e->out[0];
    bool l1 = bb_node_int(e->node, "p", 2) == 1;
    for (size_t o = 0; o < v.outer * v.inner; o++) {
        size_t base = o / v.inner * v.n * v.inner + o % v.inner;
        double sum = 0;
        for (size_t k = 0; k < v.n; k++) {
            double d = bb_array_double(x, base + k * v.inner);
            sum += l1 ? fabs(d) : d * d;
        }
        double norm = l1 ? sum : sqrt(sum);
        for (size_t k = 0; k < v.n; k++) {
            size_t at = base + k * v.inner;
            bb_array_put_double(y, at, norm != 0 ? bb_array_double(x, at) / norm : 0);
        }
    }
    return BB_STATUS_OK;
}
