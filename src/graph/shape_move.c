/* SPDX-License-Identifier: Apache-2.0 */
/* Shape rules of operators that move, select or reduce elements. */
#include "graph/shape.h"
#include <math.h>
#include <string.h>

static bb_status unknown_dims(const bb_shape *s, bb_dtype dtype, int rank) {
    int64_t dims[BB_MAX_RANK];
    for (int i = 0; i < BB_MAX_RANK; i++)
        dims[i] = -1;
    if (rank > BB_MAX_RANK)
        return bb_shape_fail(s, "more than %d dimensions", BB_MAX_RANK);
    bb_shape_set(s, 0, dtype, rank, dims);
    return BB_STATUS_OK;
}

/* The length of a 1-D shape input is the rank of what it describes. */
static bb_status rank_from(const bb_shape *s, const bb_array *shape, bb_dtype dtype) {
    if (shape->rank == 1 && shape->dims[0] >= 0)
        return unknown_dims(s, dtype,
                            (int)(shape->dims[0] > BB_MAX_RANK ? BB_MAX_RANK + 1 : shape->dims[0]));
    bb_shape_dtype(s, 0, dtype);
    return BB_STATUS_OK;
}

/* ---- Reshape family ----------------------------------------------------------------------- */

/* Resolves 0 (copy) and -1 (what is left); unknown dims of x that both sides share cancel out. */
static bb_status resolve_reshape(const bb_shape *s, const bb_array *x, int64_t *dims, int rank) {
    bool copy_zero = bb_node_int(s->node, "allowzero", 0) == 0, unknown = x->rank < 0;
    bool cancelled[BB_MAX_RANK] = {false};
    int infer = -1;
    int64_t known = 1, total = 1;
    for (int i = 0; i < rank; i++) {
        if (dims[i] < -1 || dims[i] > BB_MAX_DIM || (dims[i] == -1 && infer >= 0))
            return bb_shape_fail(s, "the new shape is not valid");
        if (dims[i] == -1) {
            infer = i;
            continue;
        }
        if (dims[i] == 0 && copy_zero) {
            if (x->rank >= 0 && i >= x->rank)
                return bb_shape_fail(s, "a 0 of the new shape has no dimension to copy");
            dims[i] = x->rank < 0 ? -1 : x->dims[i];
            if (dims[i] < 0 && x->rank >= 0)
                cancelled[i] = true;
        }
        if (dims[i] > 0 && known > BB_MAX_ELEMENTS / dims[i])
            return bb_shape_fail(s, "the new shape is too large");
        known *= dims[i] < 0 ? 1 : dims[i];
    }
    for (int i = 0; i < x->rank; i++) {
        unknown = unknown || (x->dims[i] < 0 && !cancelled[i]);
        total *= x->dims[i] < 0 ? 1 : x->dims[i];
    }
    if (unknown)
        return BB_STATUS_OK;
    if (infer >= 0 ? known == 0 || total % known != 0 : total != known)
        return bb_shape_fail(s, "%lld elements do not fit the new shape", (long long)total);
    if (infer >= 0)
        dims[infer] = total / known;
    return BB_STATUS_OK;
}

bb_status bb_shape_reshape(const bb_shape *s) {
    int64_t dims[BB_MAX_RANK];
    size_t rank;
    if (!bb_array_ints(&s->in[1], dims, BB_MAX_RANK, &rank))
        return rank_from(s, &s->in[1], s->in[0].dtype);
    BB_TRY(resolve_reshape(s, &s->in[0], dims, (int)rank));
    bb_shape_set(s, 0, s->in[0].dtype, (int)rank, dims);
    return BB_STATUS_OK;
}

bb_status bb_shape_flatten(const bb_shape *s) {
    const bb_array *x = &s->in[0];
    if (x->rank < 0)
        return unknown_dims(s, x->dtype, 2);
    int64_t axis = bb_node_int(s->node, "axis", 1), dims[2] = {1, 1};
    if (axis < -x->rank || axis > x->rank)
        return bb_shape_fail(s, "axis %lld is out of range", (long long)axis);
    axis += axis < 0 ? x->rank : 0;
    for (int i = 0; i < x->rank; i++) {
        int64_t *d = &dims[i >= axis];
        *d = *d < 0 || x->dims[i] < 0 ? -1 : *d * x->dims[i];
    }
    bb_shape_set(s, 0, x->dtype, 2, dims);
    return BB_STATUS_OK;
}

bool bb_axes_mask(const bb_shape *s, int rank, unsigned *mask, bb_status *status) {
    const bb_array *axes = bb_shape_in(s, 1);
    int64_t v[BB_MAX_RANK];
    size_t n = 0;
    *mask = 0;
    *status = BB_STATUS_OK;
    if (axes && !bb_array_ints(axes, v, BB_MAX_RANK, &n))
        return false;
    for (size_t i = 0; i < n; i++) {
        int axis;
        *status = bb_shape_axis(s, v[i], rank, &axis);
        if (*status == BB_STATUS_OK && *mask & 1u << axis)
            *status = bb_shape_fail(s, "axis %d is named twice", axis);
        if (*status != BB_STATUS_OK)
            return false;
        *mask |= 1u << axis;
    }
    return true;
}

bb_status bb_shape_squeeze(const bb_shape *s) {
    const bb_array *x = &s->in[0];
    unsigned mask;
    bb_status status;
    int64_t dims[BB_MAX_RANK];
    int rank = 0;
    if (x->rank < 0)
        return BB_STATUS_OK;
    if (!bb_axes_mask(s, x->rank, &mask, &status))
        return status;
    for (int i = 0; i < x->rank; i++) {
        if (!bb_shape_in(s, 1) && x->dims[i] < 0)
            return BB_STATUS_OK; /* it may or may not go */
        if (mask & 1u << i && x->dims[i] >= 0 && x->dims[i] != 1)
            return bb_shape_fail(s, "axis %d has %lld elements", i, (long long)x->dims[i]);
        if (mask & 1u << i || (!bb_shape_in(s, 1) && x->dims[i] == 1))
            continue;
        dims[rank++] = x->dims[i];
    }
    bb_shape_set(s, 0, x->dtype, rank, dims);
    return BB_STATUS_OK;
}

bb_status bb_shape_unsqueeze(const bb_shape *s) {
    const bb_array *x = &s->in[0], *axes = &s->in[1];
    if (x->rank < 0 || axes->rank > 1 || axes->rank < 0)
        return BB_STATUS_OK;
    int64_t added = axes->rank ? axes->dims[0] : 1, dims[BB_MAX_RANK];
    if (added < 0)
        return BB_STATUS_OK;
    if (added > BB_MAX_RANK - x->rank)
        return bb_shape_fail(s, "more than %d dimensions", BB_MAX_RANK);
    int rank = x->rank + (int)added, from = 0;
    unsigned mask;
    bb_status status;
    if (!bb_axes_mask(s, rank, &mask, &status))
        return status != BB_STATUS_OK ? status : unknown_dims(s, x->dtype, rank);
    for (int i = 0; i < rank; i++)
        dims[i] = mask & 1u << i ? 1 : x->dims[from++];
    bb_shape_set(s, 0, x->dtype, rank, dims);
    return BB_STATUS_OK;
}

bb_status bb_shape_transpose(const bb_shape *s) {
    const bb_array *x = &s->in[0];
    const bb_attr *perm = bb_node_attr(s->node, "perm");
    if (x->rank < 0)
        return BB_STATUS_OK;
    if (perm && (perm->type != BB_ATTR_INTS || perm->n != (size_t)x->rank))
        return bb_shape_fail(s, "attribute perm does not fit the input");
    int64_t dims[BB_MAX_RANK];
    unsigned seen = 0;
    for (int i = 0; i < x->rank; i++) {
        int64_t from = perm ? perm->ints[i] : x->rank - 1 - i;
        if (from < 0 || from >= x->rank || seen & 1u << from)
            return bb_shape_fail(s, "attribute perm is not a permutation");
        seen |= 1u << from;
        dims[i] = x->dims[from];
    }
    bb_shape_set(s, 0, x->dtype, x->rank, dims);
    return BB_STATUS_OK;
}

bb_status bb_shape_depth_space(const bb_shape *s) {
    const bb_array *x = &s->in[0];
    int64_t b = bb_node_int(s->node, "blocksize", 0);
    if (b < 1 || b > 1 << 15)
        return bb_shape_fail(s, "attribute blocksize is out of range");
    if (x->rank < 0)
        return unknown_dims(s, x->dtype, 4);
    bool to_space = s->node->op == BB_OP_DEPTH_TO_SPACE;
    const int64_t *d = x->dims;
    if (x->rank != 4 || (to_space && d[1] >= 0 && d[1] % (b * b)) ||
        (!to_space && ((d[2] >= 0 && d[2] % b) || (d[3] >= 0 && d[3] % b))))
        return bb_shape_fail(s, "its input does not divide into blocks of %lld", (long long)b);
    int64_t dims[4] = {d[0], -1, -1, -1};
    if (d[1] >= 0)
        dims[1] = to_space ? d[1] / (b * b) : d[1] * b * b;
    for (int i = 2; i < 4; i++)
        if (d[i] >= 0)
            dims[i] = to_space ? d[i] * b : d[i] / b;
    bb_shape_set(s, 0, x->dtype, 4, dims);
    return BB_STATUS_OK;
}

/* ---- Concat, Split, Slice, Gather, Pad, Tile, Expand ---------------------------------------- */

bb_status bb_shape_concat(const bb_shape *s) {
    int rank = -1, axis;
    int64_t dims[BB_MAX_RANK];
    for (int i = 0; i < s->node->n_in; i++) {
        if (!bb_shape_in(s, i))
            return bb_shape_fail(s, "input %d is missing", i);
        if (s->in[i].dtype != s->in[0].dtype)
            return bb_shape_fail(s, "its inputs differ in type");
    }
    for (int i = 0; i < s->node->n_in; i++) {
        const bb_array *x = &s->in[i];
        if (x->rank < 0)
            return BB_STATUS_OK;
        if (rank < 0) {
            rank = x->rank;
            memcpy(dims, x->dims, sizeof(dims));
            BB_TRY(bb_shape_axis(s, bb_node_int(s->node, "axis", 0), rank, &axis));
            continue;
        }
        if (x->rank != rank)
            return bb_shape_fail(s, "its inputs differ in rank");
        for (int k = 0; k < rank; k++) {
            if (k == axis)
                dims[k] = dims[k] < 0 || x->dims[k] < 0 ? -1 : dims[k] + x->dims[k];
            else if (dims[k] < 0)
                dims[k] = x->dims[k];
            else if (x->dims[k] >= 0 && x->dims[k] != dims[k])
                return bb_shape_fail(s, "its inputs differ in axis %d", k);
        }
    }
    bb_shape_set(s, 0, s->in[0].dtype, rank, dims);
    return BB_STATUS_OK;
}

static bb_status split_by_lengths(const bb_shape *s, const bb_array *lengths, int axis) {
    int64_t dims[BB_MAX_RANK], total = 0;
    memcpy(dims, s->in[0].dims, sizeof(dims));
    if (lengths->rank != 1 || (lengths->dims[0] >= 0 && lengths->dims[0] != s->node->n_out))
        return bb_shape_fail(s, "split needs one length per output");
    if (!lengths->data || bb_dtype_is_float(lengths->dtype))
        dims[axis] = -1;
    for (int i = 0; i < s->node->n_out; i++) {
        if (lengths->data && !bb_dtype_is_float(lengths->dtype)) {
            bb_array one = {lengths->dtype, 0, {0}, NULL};
            one.data = (char *)lengths->data + (size_t)i * bb_dtype_size(lengths->dtype);
            size_t n;
            bb_array_ints(&one, &dims[axis], 1, &n);
            if (dims[axis] < 0 || dims[axis] > BB_MAX_DIM)
                return bb_shape_fail(s, "a length is out of range");
            total += dims[axis];
        }
        bb_shape_set(s, i, s->in[0].dtype, s->in[0].rank, dims);
    }
    if (lengths->data && s->in[0].dims[axis] >= 0 && total != s->in[0].dims[axis])
        return bb_shape_fail(s, "its lengths do not add up to axis %d", axis);
    return BB_STATUS_OK;
}

bb_status bb_shape_split(const bb_shape *s) {
    const bb_array *x = &s->in[0], *lengths = bb_shape_in(s, 1);
    int axis, n = s->node->n_out;
    if (x->rank < 0)
        return BB_STATUS_OK;
    BB_TRY(bb_shape_axis(s, bb_node_int(s->node, "axis", 0), x->rank, &axis));
    if (lengths)
        return split_by_lengths(s, lengths, axis);
    if (bb_node_int(s->node, "num_outputs", n) != n)
        return bb_shape_fail(s, "num_outputs contradicts its outputs");
    int64_t dims[BB_MAX_RANK], size = x->dims[axis], chunk = size < 0 ? -1 : (size + n - 1) / n;
    memcpy(dims, x->dims, sizeof(dims));
    for (int i = 0; i < n; i++) {
        int64_t left = size - i * chunk;
        dims[axis] = left > chunk || size < 0 ? chunk : left > 0 ? left : 0;
        bb_shape_set(s, i, x->dtype, x->rank, dims);
    }
    return BB_STATUS_OK;
}

static int64_t clamp(int64_t v, int64_t lo, int64_t hi) {
    return v < lo ? lo : v > hi ? hi : v;
}

/* One axis: negative ends count from the back, everything is clamped to the axis. */
static bb_slice slice_axis(int64_t size, int64_t start, int64_t end, int64_t step) {
    start = start < 0 ? (start < -size ? -1 : start + size) : start;
    end = end < 0 ? (end < -size ? -1 : end + size) : end;
    bb_slice r = {.step = step};
    if (step > 0) {
        r.start = clamp(start, 0, size);
        end = clamp(end, 0, size);
        r.n = end > r.start ? (end - r.start - 1) / step + 1 : 0;
    } else {
        r.start = clamp(start, 0, size - 1);
        end = clamp(end, -1, size - 1);
        r.n = size > 0 && r.start > end ? (r.start - end - 1) / -step + 1 : 0;
    }
    return r;
}

bool bb_slice_resolve(const bb_shape *s, bb_slice slices[BB_MAX_RANK], bb_status *status) {
    const bb_array *x = &s->in[0], *axes_in = bb_shape_in(s, 3), *steps_in = bb_shape_in(s, 4);
    int64_t start[BB_MAX_RANK], end[BB_MAX_RANK], axes[BB_MAX_RANK], step[BB_MAX_RANK];
    size_t n = 0, n_end = 0, n_axes = 0, n_steps = 0;
    *status = BB_STATUS_OK;
    if (!bb_array_ints(&s->in[1], start, BB_MAX_RANK, &n) ||
        !bb_array_ints(&s->in[2], end, BB_MAX_RANK, &n_end) ||
        (axes_in && !bb_array_ints(axes_in, axes, BB_MAX_RANK, &n_axes)) ||
        (steps_in && !bb_array_ints(steps_in, step, BB_MAX_RANK, &n_steps)))
        return false;
    bool bad =
        n_end != n || (axes_in && n_axes != n) || (steps_in && n_steps != n) || n > (size_t)x->rank;
    for (int i = 0; i < x->rank; i++)
        slices[i] = (bb_slice){0, 1, x->dims[i]};
    for (size_t i = 0; i < n && !bad; i++) {
        int axis;
        int64_t by = steps_in ? step[i] : 1;
        *status = bb_shape_axis(s, axes_in ? axes[i] : (int64_t)i, x->rank, &axis);
        if (*status != BB_STATUS_OK)
            return false;
        bad = by == 0;
        by = clamp(by, -BB_MAX_DIM, BB_MAX_DIM);
        slices[axis] = (bb_slice){0, by, -1};
        if (x->dims[axis] >= 0 && !bad)
            slices[axis] = slice_axis(x->dims[axis], start[i], end[i], by);
    }
    if (bad)
        *status = bb_shape_fail(s, "starts, ends, axes and steps do not fit together");
    return !bad;
}

bb_status bb_shape_slice(const bb_shape *s) {
    const bb_array *x = &s->in[0];
    bb_slice slices[BB_MAX_RANK];
    bb_status status;
    int64_t dims[BB_MAX_RANK];
    if (x->rank < 0)
        return BB_STATUS_OK;
    if (!bb_slice_resolve(s, slices, &status))
        return status != BB_STATUS_OK ? status : unknown_dims(s, x->dtype, x->rank);
    for (int i = 0; i < x->rank; i++)
        dims[i] = slices[i].n;
    bb_shape_set(s, 0, x->dtype, x->rank, dims);
    return BB_STATUS_OK;
}

bb_status bb_shape_gather(const bb_shape *s) {
    const bb_array *x = &s->in[0], *indices = &s->in[1];
    if (x->rank < 0 || indices->rank < 0)
        return BB_STATUS_OK;
    int axis, rank = x->rank - 1 + indices->rank;
    BB_TRY(bb_shape_axis(s, bb_node_int(s->node, "axis", 0), x->rank, &axis));
    if (rank > BB_MAX_RANK)
        return bb_shape_fail(s, "more than %d dimensions", BB_MAX_RANK);
    if (bb_dtype_is_float(indices->dtype))
        return bb_shape_fail(s, "its indices are not integers");
    int64_t dims[BB_MAX_RANK];
    memcpy(dims, x->dims, (size_t)axis * sizeof(*dims));
    memcpy(dims + axis, indices->dims, (size_t)indices->rank * sizeof(*dims));
    memcpy(dims + axis + indices->rank, x->dims + axis + 1,
           (size_t)(x->rank - axis - 1) * sizeof(*dims));
    bb_shape_set(s, 0, x->dtype, rank, dims);
    return BB_STATUS_OK;
}

bb_status bb_shape_gather_elements(const bb_shape *s) {
    const bb_array *x = &s->in[0], *indices = &s->in[1];
    if (x->rank >= 0 && indices->rank >= 0 && x->rank != indices->rank)
        return bb_shape_fail(s, "data and indices differ in rank");
    if (bb_dtype_is_float(indices->dtype))
        return bb_shape_fail(s, "its indices are not integers");
    int axis;
    if (x->rank >= 0)
        BB_TRY(bb_shape_axis(s, bb_node_int(s->node, "axis", 0), x->rank, &axis));
    for (int i = 0; i < x->rank && indices->rank >= 0; i++)
        if (i != axis && x->dims[i] >= 0 && indices->dims[i] > x->dims[i])
            return bb_shape_fail(s, "indices reach beyond the data in axis %d", i);
    bb_shape_set(s, 0, x->dtype, indices->rank, indices->dims);
    return BB_STATUS_OK;
}

bool bb_pad_resolve(const bb_shape *s, int64_t *begin, int64_t *end, bb_status *status) {
    int64_t pads[2 * BB_MAX_RANK];
    size_t n;
    int rank = s->in[0].rank;
    const bb_array *axes_in = bb_shape_in(s, 3);
    int64_t axes[BB_MAX_RANK];
    size_t n_axes = (size_t)rank;
    *status = BB_STATUS_OK;
    if (!bb_array_ints(&s->in[1], pads, BB_COUNT(pads), &n) ||
        (axes_in && !bb_array_ints(axes_in, axes, BB_MAX_RANK, &n_axes)))
        return false;
    if (n != 2 * n_axes || n_axes > (size_t)rank) {
        *status = bb_shape_fail(s, "%zu pads for %zu axes", n, n_axes);
        return false;
    }
    memset(begin, 0, (size_t)rank * sizeof(*begin));
    memset(end, 0, (size_t)rank * sizeof(*end));
    for (size_t i = 0; i < n_axes; i++) {
        int axis;
        *status = bb_shape_axis(s, axes_in ? axes[i] : (int64_t)i, rank, &axis);
        if (*status == BB_STATUS_OK &&
            (pads[i] > BB_MAX_DIM || pads[i] < -BB_MAX_DIM || pads[n_axes + i] > BB_MAX_DIM ||
             pads[n_axes + i] < -BB_MAX_DIM))
            *status = bb_shape_fail(s, "a pad is out of range");
        if (*status != BB_STATUS_OK)
            return false;
        begin[axis] = pads[i];
        end[axis] = pads[n_axes + i];
    }
    return true;
}

bb_status bb_shape_pad(const bb_shape *s) {
    const bb_array *x = &s->in[0];
    int64_t begin[BB_MAX_RANK], end[BB_MAX_RANK], dims[BB_MAX_RANK];
    bb_status status;
    if (x->rank < 0)
        return BB_STATUS_OK;
    if (!bb_pad_resolve(s, begin, end, &status))
        return status != BB_STATUS_OK ? status : unknown_dims(s, x->dtype, x->rank);
    for (int i = 0; i < x->rank; i++) {
        dims[i] = x->dims[i] < 0 ? -1 : x->dims[i] + begin[i] + end[i];
        if (x->dims[i] >= 0 && dims[i] < 0)
            return bb_shape_fail(s, "more is cut off than there is");
    }
    bb_shape_set(s, 0, x->dtype, x->rank, dims);
    return BB_STATUS_OK;
}

bb_status bb_shape_tile(const bb_shape *s) {
    const bb_array *x = &s->in[0];
    int64_t repeats[BB_MAX_RANK], dims[BB_MAX_RANK];
    size_t n;
    if (x->rank < 0)
        return BB_STATUS_OK;
    if (!bb_array_ints(&s->in[1], repeats, BB_MAX_RANK, &n))
        return unknown_dims(s, x->dtype, x->rank);
    if (n != (size_t)x->rank)
        return bb_shape_fail(s, "repeats do not fit the input");
    for (int i = 0; i < x->rank; i++) {
        if (repeats[i] < 0 || repeats[i] > BB_MAX_DIM)
            return bb_shape_fail(s, "a repeat is out of range");
        dims[i] = x->dims[i] < 0 ? -1 : x->dims[i] * repeats[i];
    }
    bb_shape_set(s, 0, x->dtype, x->rank, dims);
    return BB_STATUS_OK;
}

bb_status bb_shape_expand(const bb_shape *s) {
    const bb_array *x = &s->in[0];
    int64_t shape[BB_MAX_RANK], dims[BB_MAX_RANK];
    size_t n;
    int rank = x->rank;
    if (rank < 0)
        return BB_STATUS_OK;
    if (!bb_array_ints(&s->in[1], shape, BB_MAX_RANK, &n)) {
        bb_shape_dtype(s, 0, x->dtype);
        return BB_STATUS_OK;
    }
    memcpy(dims, x->dims, sizeof(dims));
    for (size_t i = 0; i < n; i++)
        if (shape[i] < 0 || shape[i] > BB_MAX_DIM)
            return bb_shape_fail(s, "the shape is out of range");
    if (!bb_broadcast_dims(dims, &rank, shape, (int)n))
        return bb_shape_fail(s, "its input does not broadcast to the shape");
    bb_shape_set(s, 0, x->dtype, rank, dims);
    return BB_STATUS_OK;
}

/* ---- values made from shapes ----------------------------------------------------------------- */

static bool scalar_number(const bb_array *a, double *v) {
    int64_t i;
    size_t n;
    if (a->data && a->dtype == BB_DTYPE_F32)
        *v = *(const float *)a->data;
    else if (a->data && a->dtype == BB_DTYPE_F64)
        *v = *(const double *)a->data;
    else if (bb_array_ints(a, &i, 1, &n) && n == 1)
        *v = (double)i;
    else
        return false;
    return true;
}

bb_status bb_shape_range(const bb_shape *s) {
    double start, limit, delta;
    size_t one;
    for (int i = 0; i < 3; i++)
        if (s->in[i].rank >= 0 &&
            (!bb_dims_product(s->in[i].dims, (size_t)s->in[i].rank, &one) || one != 1))
            return bb_shape_fail(s, "input %d is not a scalar", i);
    if (!scalar_number(&s->in[0], &start) || !scalar_number(&s->in[1], &limit) ||
        !scalar_number(&s->in[2], &delta))
        return unknown_dims(s, s->in[0].dtype, 1);
    double n = ceil((limit - start) / delta);
    if (!(n <= BB_MAX_DIM) || delta == 0)
        return bb_shape_fail(s, "the range is not valid or too long");
    int64_t dims[1] = {n > 0 ? (int64_t)n : 0};
    bb_shape_set(s, 0, s->in[0].dtype, 1, dims);
    return BB_STATUS_OK;
}

bb_status bb_shape_constant_of_shape(const bb_shape *s) {
    const bb_array *value = bb_shape_in(s, 1);
    bb_dtype dtype = value ? value->dtype : BB_DTYPE_F32;
    int64_t dims[BB_MAX_RANK];
    size_t n;
    if (!bb_array_ints(&s->in[0], dims, BB_MAX_RANK, &n))
        return rank_from(s, &s->in[0], dtype);
    for (size_t i = 0; i < n; i++)
        if (dims[i] < 0)
            return bb_shape_fail(s, "a dimension is negative");
    bb_shape_set(s, 0, dtype, (int)n, dims);
    return BB_STATUS_OK;
}

bb_status bb_shape_shape(const bb_shape *s) {
    int64_t rank = s->in[0].rank;
    bb_shape_dtype(s, 0, BB_DTYPE_I64);
    if (rank < 0)
        return unknown_dims(s, BB_DTYPE_I64, 1);
    int64_t start = bb_node_int(s->node, "start", 0), end = bb_node_int(s->node, "end", rank);
    start = clamp(start < 0 ? clamp(start, -rank, 0) + rank : start, 0, rank);
    end = clamp(end < 0 ? clamp(end, -rank, 0) + rank : end, 0, rank);
    int64_t dims[1] = {end > start ? end - start : 0};
    bb_shape_set(s, 0, BB_DTYPE_I64, 1, dims);
    return BB_STATUS_OK;
}

bb_status bb_shape_size(const bb_shape *s) {
    bb_shape_set(s, 0, BB_DTYPE_I64, 0, NULL);
    return BB_STATUS_OK;
}

/* ---- reductions ------------------------------------------------------------------------------ */

bb_status bb_shape_reduce(const bb_shape *s) {
    const bb_array *x = &s->in[0];
    bool keep = bb_node_int(s->node, "keepdims", 1) != 0;
    unsigned mask;
    bb_status status;
    if (x->rank < 0)
        return BB_STATUS_OK;
    if (!bb_axes_mask(s, x->rank, &mask, &status))
        return status != BB_STATUS_OK || !keep ? status : unknown_dims(s, x->dtype, x->rank);
    if (mask == 0 && !bb_node_int(s->node, "noop_with_empty_axes", 0))
        mask = (1u << x->rank) - 1;
    int64_t dims[BB_MAX_RANK];
    int rank = 0;
    for (int i = 0; i < x->rank; i++) {
        if (!(mask & 1u << i))
            dims[rank++] = x->dims[i];
        else if (keep)
            dims[rank++] = 1;
    }
    bb_shape_set(s, 0, x->dtype, rank, dims);
    return BB_STATUS_OK;
}

bb_status bb_shape_arg(const bb_shape *s) {
    const bb_array *x = &s->in[0];
    bb_shape_dtype(s, 0, BB_DTYPE_I64);
    if (x->rank < 0)
        return BB_STATUS_OK;
    int axis, rank = 0;
    BB_TRY(bb_shape_axis(s, bb_node_int(s->node, "axis", 0), x->rank, &axis));
    int64_t dims[BB_MAX_RANK];
    for (int i = 0; i < x->rank; i++) {
        if (i != axis)
            dims[rank++] = x->dims[i];
        else if (bb_node_int(s->node, "keepdims", 1))
            dims[rank++] = 1;
    }
    bb_shape_set(s, 0, BB_DTYPE_I64, rank, dims);
    return BB_STATUS_OK;
}
