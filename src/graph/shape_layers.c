/* SPDX-License-Identifier: Apache-2.0 */
/* Shape rules of convolutions, pools, matrix products, normalisations and Resize. */
#include "graph/shape.h"
#include <math.h>
#include <string.h>

static int64_t elements_or_unknown(const bb_array *a) {
    size_t n;
    if (a->rank < 0 || !bb_dims_product(a->dims, (size_t)a->rank, &n) || n > BB_MAX_ELEMENTS)
        return -1;
    return (int64_t)n;
}

/* A parameter vector of `n` entries (-1: unknown), or where `scalar` is true of one. */
static bb_status check_vector(const bb_shape *s, int input, int64_t n, bool scalar) {
    const bb_array *v = bb_shape_in(s, input);
    int64_t got = v ? elements_or_unknown(v) : -1;
    if (got < 0 || n < 0 || got == n || (scalar && got == 1))
        return BB_STATUS_OK;
    return bb_shape_fail(s, "input %d has %lld elements where %lld are needed", input,
                         (long long)got, (long long)n);
}

static void spatial_dims(const bb_window *w, int rank, int64_t *dims) {
    for (int i = 2; i < rank; i++)
        dims[i] = w->out[4 - rank + i - 2];
}

bb_status bb_shape_conv(const bb_shape *s) {
    bool qlinear = s->node->op == BB_OP_QLINEAR_CONV;
    const bb_array *x = &s->in[0], *w = &s->in[qlinear ? 3 : 1];
    bb_dtype dtype = qlinear                             ? s->in[7].dtype
                     : s->node->op == BB_OP_CONV_INTEGER ? BB_DTYPE_I32
                                                         : x->dtype;
    bb_shape_dtype(s, 0, dtype);
    if (w->rank < 0 || x->rank < 0)
        return BB_STATUS_OK;
    int64_t group = bb_node_int(s->node, "group", 1);
    if (w->rank != x->rank || group < 1)
        return bb_shape_fail(s, "weights and input differ in rank, or group is below 1");
    bb_window window;
    BB_TRY(bb_window_resolve(s->node, w->dims, x->dims, x->rank, &window, s->err));
    if ((x->dims[1] >= 0 && w->dims[1] >= 0 &&
         (group > x->dims[1] || x->dims[1] != w->dims[1] * group)) ||
        (w->dims[0] >= 0 && w->dims[0] % group != 0))
        return bb_shape_fail(s, "%lld input channels, weights for %lld, %lld groups",
                             (long long)x->dims[1], (long long)w->dims[1], (long long)group);
    if (s->node->op != BB_OP_CONV_INTEGER)
        BB_TRY(check_vector(s, qlinear ? 8 : 2, w->dims[0], false));
    int64_t dims[BB_MAX_RANK] = {x->dims[0], w->dims[0]};
    spatial_dims(&window, x->rank, dims);
    bb_shape_set(s, 0, dtype, x->rank, dims);
    return BB_STATUS_OK;
}

bb_status bb_shape_conv_transpose(const bb_shape *s) {
    const bb_array *x = &s->in[0], *w = &s->in[1];
    if (w->rank < 0 || x->rank < 0)
        return BB_STATUS_OK;
    int64_t group = bb_node_int(s->node, "group", 1);
    if (w->rank != x->rank || group < 1 || group > BB_MAX_DIM)
        return bb_shape_fail(s, "weights and input differ in rank, or group is out of range");
    bb_window window;
    BB_TRY(bb_window_resolve(s->node, w->dims, x->dims, x->rank, &window, s->err));
    if ((x->dims[1] >= 0 && w->dims[0] >= 0 && x->dims[1] != w->dims[0]) ||
        (w->dims[0] >= 0 && w->dims[0] % group != 0))
        return bb_shape_fail(s, "%lld input channels, weights for %lld, %lld groups",
                             (long long)x->dims[1], (long long)w->dims[0], (long long)group);
    int64_t channels = w->dims[1] < 0 ? -1 : w->dims[1] * group;
    BB_TRY(check_vector(s, 2, channels, false));
    int64_t dims[BB_MAX_RANK] = {x->dims[0], channels};
    spatial_dims(&window, x->rank, dims);
    bb_shape_set(s, 0, x->dtype, x->rank, dims);
    return BB_STATUS_OK;
}

bb_status bb_shape_pool(const bb_shape *s) {
    const bb_array *x = &s->in[0];
    if (s->node->n_out > 1)
        bb_shape_dtype(s, 1, BB_DTYPE_I64);
    if (x->rank < 0)
        return BB_STATUS_OK;
    bb_window window;
    BB_TRY(bb_window_resolve(s->node, NULL, x->dims, x->rank, &window, s->err));
    int64_t dims[BB_MAX_RANK] = {x->dims[0], x->dims[1]};
    spatial_dims(&window, x->rank, dims);
    bb_shape_set(s, 0, x->dtype, x->rank, dims);
    bb_shape_set(s, 1, BB_DTYPE_I64, x->rank, dims);
    return BB_STATUS_OK;
}

bb_status bb_shape_global_pool(const bb_shape *s) {
    const bb_array *x = &s->in[0];
    if (x->rank < 0)
        return BB_STATUS_OK;
    if (x->rank < 3)
        return bb_shape_fail(s, "its input has no spatial dimensions");
    int64_t dims[BB_MAX_RANK] = {x->dims[0], x->dims[1]};
    for (int i = 2; i < x->rank; i++)
        dims[i] = 1;
    bb_shape_set(s, 0, x->dtype, x->rank, dims);
    return BB_STATUS_OK;
}

bb_status bb_shape_gemm(const bb_shape *s) {
    const bb_array *a = &s->in[0], *b = &s->in[1], *c = bb_shape_in(s, 2);
    if (a->rank < 0 || b->rank < 0)
        return BB_STATUS_OK;
    if (a->rank != 2 || b->rank != 2)
        return bb_shape_fail(s, "its matrices must have two dimensions");
    bool ta = bb_node_int(s->node, "transA", 0) != 0, tb = bb_node_int(s->node, "transB", 0) != 0;
    int64_t k_a = a->dims[!ta], k_b = b->dims[tb];
    if (k_a >= 0 && k_b >= 0 && k_a != k_b)
        return bb_shape_fail(s, "inner dimensions %lld and %lld differ", (long long)k_a,
                             (long long)k_b);
    int64_t dims[BB_MAX_RANK] = {a->dims[ta], b->dims[!tb]};
    if (c && c->rank >= 0) {
        int64_t wide[BB_MAX_RANK] = {dims[0], dims[1]};
        int rank = 2;
        bool fits = c->rank <= 2 && bb_broadcast_dims(wide, &rank, c->dims, c->rank);
        if (!fits || (dims[0] == 1 && wide[0] > 1) || (dims[1] == 1 && wide[1] > 1))
            return bb_shape_fail(s, "C does not broadcast to the product");
    }
    bb_shape_set(s, 0, a->dtype, 2, dims);
    return BB_STATUS_OK;
}

bb_status bb_shape_matmul(const bb_shape *s) {
    bool qlinear = s->node->op == BB_OP_QLINEAR_MATMUL;
    const bb_array *a = &s->in[0], *b = &s->in[qlinear ? 3 : 1];
    bb_dtype dtype = qlinear                               ? s->in[7].dtype
                     : s->node->op == BB_OP_MATMUL_INTEGER ? BB_DTYPE_I32
                                                           : a->dtype;
    bb_shape_dtype(s, 0, dtype);
    if (a->rank < 0 || b->rank < 0)
        return BB_STATUS_OK;
    if (a->rank < 1 || b->rank < 1)
        return bb_shape_fail(s, "a scalar is no matrix");
    int64_t m = a->rank > 1 ? a->dims[a->rank - 2] : 1, n = b->rank > 1 ? b->dims[b->rank - 1] : 1;
    int64_t k_a = a->dims[a->rank - 1], k_b = b->rank > 1 ? b->dims[b->rank - 2] : b->dims[0];
    if (k_a >= 0 && k_b >= 0 && k_a != k_b)
        return bb_shape_fail(s, "inner dimensions %lld and %lld differ", (long long)k_a,
                             (long long)k_b);
    int64_t dims[BB_MAX_RANK];
    int rank = a->rank > 2 ? a->rank - 2 : 0;
    memcpy(dims, a->dims, (size_t)rank * sizeof(*dims));
    if (b->rank > 2 && !bb_broadcast_dims(dims, &rank, b->dims, b->rank - 2))
        return bb_shape_fail(s, "the batch dimensions do not broadcast");
    if (a->rank > 1)
        dims[rank++] = m;
    if (b->rank > 1)
        dims[rank++] = n;
    bb_shape_set(s, 0, dtype, rank, dims);
    return BB_STATUS_OK;
}

bb_status bb_shape_normalization(const bb_shape *s) {
    const bb_array *x = &s->in[0];
    if (x->rank == 0)
        return bb_shape_fail(s, "its input is a scalar");
    int64_t channels = x->rank > 1 ? x->dims[1] : x->rank == 1 ? 1 : -1;
    for (int i = 1; i < s->node->n_in; i++)
        BB_TRY(check_vector(s, i, channels, false));
    bb_shape_like(s, 0, 0);
    return BB_STATUS_OK;
}

bb_status bb_shape_layer_normalization(const bb_shape *s) {
    const bb_array *x = &s->in[0];
    bb_shape_like(s, 0, 0);
    if (x->rank < 0)
        return BB_STATUS_OK;
    int axis, rank = x->rank;
    BB_TRY(bb_shape_axis(s, bb_node_int(s->node, "axis", -1), rank, &axis));
    int64_t dims[BB_MAX_RANK];
    for (int i = 0; i < rank; i++)
        dims[i] = i < axis ? x->dims[i] : 1;
    bb_shape_set(s, 1, BB_DTYPE_F32, rank, dims);
    bb_shape_set(s, 2, BB_DTYPE_F32, rank, dims);
    for (int i = 1; i < s->node->n_in && i < 3; i++) {
        memcpy(dims, x->dims, sizeof(dims));
        const bb_array *p = bb_shape_in(s, i);
        if (p && p->rank >= 0 &&
            (p->rank > rank || !bb_broadcast_dims(dims, &rank, p->dims, p->rank)))
            return bb_shape_fail(s, "input %d does not fit", i);
    }
    return BB_STATUS_OK;
}

/* ---- Resize ---------------------------------------------------------------------------------- */

/* Axes that scales and sizes speak of, in their order. */
static bb_status resize_axes(const bb_shape *s, int rank, int *axes, int *n) {
    const bb_attr *attr = bb_node_attr(s->node, "axes");
    *n = attr ? (int)(attr->n > BB_MAX_RANK ? BB_MAX_RANK + 1 : attr->n) : rank;
    if (*n > rank)
        return bb_shape_fail(s, "attribute axes is too long");
    unsigned seen = 0;
    for (int i = 0; i < *n; i++) {
        axes[i] = i;
        if (attr)
            BB_TRY(bb_shape_axis(s, attr->type == BB_ATTR_INTS ? attr->ints[i] : rank, rank,
                                 &axes[i]));
        if (seen & 1u << axes[i])
            return bb_shape_fail(s, "attribute axes names axis %d twice", axes[i]);
        seen |= 1u << axes[i];
    }
    return BB_STATUS_OK;
}

/* not_larger and not_smaller: one scale for all resized axes, sizes rounded from it. */
static void keep_aspect(const char *policy, const int *axes, int n, const int64_t *dims,
                        double *scales, int64_t *sizes) {
    bool larger = strcmp(policy, "not_larger") == 0;
    if (!larger && strcmp(policy, "not_smaller") != 0)
        return;
    double scale = larger ? INFINITY : 0;
    for (int i = 0; i < n; i++)
        scale = larger ? fmin(scale, scales[axes[i]]) : fmax(scale, scales[axes[i]]);
    for (int i = 0; i < n; i++) {
        scales[axes[i]] = scale;
        sizes[axes[i]] = (int64_t)floor(scale * (double)dims[axes[i]] + 0.5);
    }
}

static bool resize_by_sizes(const bb_shape *s, const bb_array *a, const int *axes, int n,
                            double *scales, int64_t *sizes, bb_status *status) {
    int64_t v[BB_MAX_RANK];
    size_t count;
    const int64_t *dims = s->in[0].dims;
    if (!bb_array_ints(a, v, BB_MAX_RANK, &count))
        return false;
    bool known = true;
    for (int i = 0; i < n && (size_t)n == count; i++) {
        if (v[i] < 0 || v[i] > BB_MAX_DIM)
            count = SIZE_MAX;
        sizes[axes[i]] = v[i];
        scales[axes[i]] = dims[axes[i]] > 0 ? (double)v[i] / (double)dims[axes[i]] : 1;
        known = known && dims[axes[i]] > 0;
    }
    if (count != (size_t)n) {
        *status = bb_shape_fail(s, "sizes do not fit the input");
        return false;
    }
    const char *policy = bb_node_string(s->node, "keep_aspect_ratio_policy", "stretch");
    if (!known && strcmp(policy, "stretch") != 0)
        return false;
    keep_aspect(policy, axes, n, dims, scales, sizes);
    return true;
}

static bool resize_by_scales(const bb_shape *s, const bb_array *a, const int *axes, int n,
                             double *scales, int64_t *sizes, bb_status *status) {
    if (!a || !a->data || a->rank != 1 || a->dtype != BB_DTYPE_F32)
        return false;
    if (a->dims[0] != n) {
        *status = bb_shape_fail(s, "scales do not fit the input");
        return false;
    }
    for (int i = 0; i < n; i++) {
        double scale = ((const float *)a->data)[i];
        int64_t dim = s->in[0].dims[axes[i]];
        double size = floor(scale * (double)dim);
        if (!(scale > 0) || !(size <= BB_MAX_DIM)) {
            *status = bb_shape_fail(s, "a scale is out of range");
            return false;
        }
        scales[axes[i]] = scale;
        sizes[axes[i]] = dim < 0 ? -1 : (int64_t)size;
    }
    return true;
}

bool bb_resize_factors(const bb_shape *s, double *scales, int64_t *sizes, bb_status *status) {
    const bb_array *x = &s->in[0], *by_scale = bb_shape_in(s, 2), *by_size = bb_shape_in(s, 3);
    int axes[BB_MAX_RANK], n;
    *status = resize_axes(s, x->rank, axes, &n);
    if (*status != BB_STATUS_OK)
        return false;
    for (int i = 0; i < x->rank; i++) {
        scales[i] = 1;
        sizes[i] = x->dims[i];
    }
    if (by_size && by_size->rank == 1 && by_size->dims[0] != 0)
        return resize_by_sizes(s, by_size, axes, n, scales, sizes, status);
    return resize_by_scales(s, by_scale, axes, n, scales, sizes, status);
}

bb_status bb_shape_resize(const bb_shape *s) {
    double scales[BB_MAX_RANK];
    int64_t sizes[BB_MAX_RANK];
    bb_status status = BB_STATUS_OK;
    const bb_array *x = &s->in[0];
    if (x->rank < 0)
        return BB_STATUS_OK;
    if (!bb_resize_factors(s, scales, sizes, &status)) {
        for (int i = 0; i < x->rank; i++)
            sizes[i] = -1;
        if (status != BB_STATUS_OK)
            return status;
    }
    bb_shape_set(s, 0, x->dtype, x->rank, sizes);
    return BB_STATUS_OK;
}
