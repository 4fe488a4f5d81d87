/* SPDX-License-Identifier: Apache-2.0 */
/* Evaluation of operators that move or make elements without arithmetic. */
#include "graph/eval_internal.h"
#include <math.h>
#include <string.h>

bb_status bb_eval_copy(const bb_eval *e) {
    const bb_array *y = &e->out[0];
    size_t bytes = bb_array_elements(y) * bb_dtype_size(y->dtype);
    if (bytes)
        memcpy(y->data, e->in[0].data, bytes);
    return BB_STATUS_OK;
}

bb_status bb_eval_dropout(const bb_eval *e) {
    if (e->node->n_out > 1 && e->out[1].data)
        memset(e->out[1].data, 1, bb_array_elements(&e->out[1]));
    return bb_eval_copy(e);
}

bb_status bb_eval_transpose(const bb_eval *e) {
    const bb_array *x = &e->in[0], *y = &e->out[0];
    const bb_attr *perm = bb_node_attr(e->node, "perm");
    int64_t strides[BB_MAX_RANK];
    bb_walk w = {.rank = y->rank, .n = 2};
    memcpy(w.dims, y->dims, sizeof(y->dims));
    bb_array_strides(y, w.strides[0]);
    bb_array_strides(x, strides);
    for (int i = 0; i < y->rank; i++)
        w.strides[1][i] = strides[perm ? perm->ints[i] : y->rank - 1 - i];
    bb_walk_copy(&w, bb_dtype_size(y->dtype), y->data, x->data);
    return BB_STATUS_OK;
}

/* A box of dims `part` between a whole array and a dense one, at `start` along `axis`. */
static void copy_part(const bb_array *whole, const bb_array *part, int axis, int64_t start,
                      bool to_whole) {
    size_t size = bb_dtype_size(whole->dtype);
    bb_walk w = {.rank = part->rank, .n = 2};
    int64_t strides[BB_MAX_RANK];
    memcpy(w.dims, part->dims, sizeof(part->dims));
    bb_array_strides(whole, strides);
    char *at = (char *)whole->data + (size_t)(start * strides[axis]) * size;
    bb_array_strides(whole, w.strides[!to_whole]);
    bb_array_strides(part, w.strides[to_whole]);
    bb_walk_copy(&w, size, to_whole ? at : part->data, to_whole ? part->data : at);
}

static bb_status node_axis(const bb_eval *e, int rank, int64_t absent, int *axis) {
    bb_shape s = bb_eval_shape(e);
    return bb_shape_axis(&s, bb_node_int(e->node, "axis", absent), rank, axis);
}

bb_status bb_eval_concat(const bb_eval *e) {
    int axis;
    BB_TRY(node_axis(e, e->out[0].rank, 0, &axis));
    int64_t start = 0;
    for (int i = 0; i < e->node->n_in; i++) {
        copy_part(&e->out[0], &e->in[i], axis, start, true);
        start += e->in[i].dims[axis];
    }
    return BB_STATUS_OK;
}

bb_status bb_eval_split(const bb_eval *e) {
    int axis;
    BB_TRY(node_axis(e, e->in[0].rank, 0, &axis));
    int64_t start = 0;
    for (int i = 0; i < e->node->n_out; i++) {
        copy_part(&e->in[0], &e->out[i], axis, start, false);
        start += e->out[i].dims[axis];
    }
    return BB_STATUS_OK;
}

bb_status bb_eval_slice(const bb_eval *e) {
    const bb_array *x = &e->in[0], *y = &e->out[0];
    bb_slice slices[BB_MAX_RANK];
    bb_status status;
    bb_shape s = bb_eval_shape(e);
    if (!bb_slice_resolve(&s, slices, &status))
        return status != BB_STATUS_OK ? status : bb_eval_fail(e, "its parameters are not integers");
    int64_t strides[BB_MAX_RANK], start = 0;
    bb_walk w = {.rank = y->rank, .n = 2};
    memcpy(w.dims, y->dims, sizeof(y->dims));
    bb_array_strides(y, w.strides[0]);
    bb_array_strides(x, strides);
    for (int i = 0; i < y->rank; i++) {
        w.strides[1][i] = strides[i] * slices[i].step;
        start += slices[i].n > 0 ? strides[i] * slices[i].start : 0;
    }
    size_t size = bb_dtype_size(y->dtype);
    if (bb_array_elements(y))
        bb_walk_copy(&w, size, y->data, (const char *)x->data + start * (int64_t)size);
    return BB_STATUS_OK;
}

/* Index i of `indices`, negative ones from the back; -1 where it is outside 0..n-1. */
static int64_t index_at(const bb_array *indices, size_t i, int64_t n) {
    int64_t v = bb_array_int(indices, i);
    v += v < 0 ? n : 0;
    return v < 0 || v >= n ? -1 : v;
}

bb_status bb_eval_gather(const bb_eval *e) {
    const bb_array *x = &e->in[0], *indices = &e->in[1];
    int axis;
    BB_TRY(node_axis(e, x->rank, 0, &axis));
    size_t outer = 1, inner = bb_dtype_size(x->dtype), n = bb_array_elements(indices);
    for (int i = 0; i < axis; i++)
        outer *= (size_t)x->dims[i];
    for (int i = axis + 1; i < x->rank; i++)
        inner *= (size_t)x->dims[i];
    const char *from = x->data;
    char *to = e->out[0].data;
    for (size_t o = 0; o < outer; o++, from += inner * (size_t)x->dims[axis])
        for (size_t i = 0; i < n; i++, to += inner) {
            int64_t k = index_at(indices, i, x->dims[axis]);
            if (k < 0)
                return bb_eval_fail(e, "an index is out of range");
            if (inner)
                memcpy(to, from + (size_t)k * inner, inner);
        }
    return BB_STATUS_OK;
}

bb_status bb_eval_gather_elements(const bb_eval *e) {
    const bb_array *x = &e->in[0], *indices = &e->in[1], *y = &e->out[0];
    int axis;
    BB_TRY(node_axis(e, x->rank, 0, &axis));
    size_t size = bb_dtype_size(x->dtype), n = bb_array_elements(y);
    int64_t strides[BB_MAX_RANK], index[BB_MAX_RANK] = {0};
    bb_array_strides(x, strides);
    for (size_t i = 0; i < n; i++) {
        int64_t at = 0, k = index_at(indices, i, x->dims[axis]);
        if (k < 0)
            return bb_eval_fail(e, "an index is out of range");
        for (int d = 0; d < y->rank; d++)
            at += strides[d] * (d == axis ? k : index[d]);
        memcpy((char *)y->data + i * size, (const char *)x->data + (size_t)at * size, size);
        for (int d = y->rank - 1; d >= 0 && ++index[d] == y->dims[d]; d--)
            index[d] = 0;
    }
    return BB_STATUS_OK;
}

/* ---- Pad ------------------------------------------------------------------------------------- */

/* Where output index i (already minus the begin pad) of an axis of n elements comes from; -1: fill.
 */
static int64_t pad_source(const char *mode, int64_t i, int64_t n) {
    if (i >= 0 && i < n)
        return i;
    if (strcmp(mode, "edge") == 0)
        return i < 0 ? 0 : n - 1;
    if (strcmp(mode, "wrap") == 0)
        return ((i % n) + n) % n;
    if (strcmp(mode, "reflect") == 0) {
        int64_t period = n > 1 ? 2 * (n - 1) : 1;
        i = ((i % period) + period) % period;
        return i < n ? i : period - i;
    }
    return -1;
}

/* maps[axis][i]: offset in x, or -1. All in one allocation. */
static bb_status pad_maps(const bb_eval *e, const int64_t *begin, const char *mode,
                          int64_t *maps[BB_MAX_RANK]) {
    const bb_array *x = &e->in[0], *y = &e->out[0];
    int64_t strides[BB_MAX_RANK];
    size_t total = 0;
    for (int a = 0; a < y->rank; a++)
        total += (size_t)y->dims[a];
    int64_t *all = bb_alloc_array(total, sizeof(*all));
    if (!all)
        return bb_fail_memory(e->err, e->node->name);
    bb_array_strides(x, strides);
    maps[0] = all;
    for (int a = 0; a < y->rank; a++) {
        maps[a] = all;
        for (int64_t i = 0; i < y->dims[a]; i++) {
            int64_t from = x->dims[a] ? pad_source(mode, i - begin[a], x->dims[a]) : -1;
            all[i] = from < 0 ? -1 : from * strides[a];
        }
        all += y->dims[a];
    }
    return BB_STATUS_OK;
}

static void pad_copy(const bb_array *x, const bb_array *y, int64_t *const *maps, const void *fill) {
    size_t size = bb_dtype_size(y->dtype), n = bb_array_elements(y);
    int64_t index[BB_MAX_RANK] = {0};
    char *to = y->data;
    for (size_t i = 0; i < n; i++, to += size) {
        int64_t at = 0;
        for (int a = 0; a < y->rank && at >= 0; a++) {
            int64_t part = maps[a][index[a]];
            at = part < 0 ? -1 : at + part;
        }
        memcpy(to, at < 0 ? fill : (const char *)x->data + (size_t)at * size, size);
        for (int a = y->rank - 1; a >= 0 && ++index[a] == y->dims[a]; a--)
            index[a] = 0;
    }
}

bb_status bb_eval_pad(const bb_eval *e) {
    const bb_array *x = &e->in[0], *value = bb_eval_in(e, 2);
    int64_t begin[BB_MAX_RANK], end[BB_MAX_RANK], *maps[BB_MAX_RANK] = {NULL};
    bb_status status;
    bb_shape s = bb_eval_shape(e);
    if (!bb_pad_resolve(&s, begin, end, &status))
        return status != BB_STATUS_OK ? status : bb_eval_fail(e, "its pads are not integers");
    if (value && (value->dtype != x->dtype || bb_array_elements(value) != 1))
        return bb_eval_fail(e, "the fill value is not one element of the input's type");
    static const uint64_t zero = 0;
    if (x->rank == 0)
        return bb_eval_copy(e);
    BB_TRY(pad_maps(e, begin, bb_node_string(e->node, "mode", "constant"), maps));
    pad_copy(x, &e->out[0], maps, value ? value->data : (const void *)&zero);
    bb_free(maps[0]);
    return BB_STATUS_OK;
}

bb_status bb_eval_tile(const bb_eval *e) {
    const bb_array *x = &e->in[0], *y = &e->out[0];
    int64_t in_strides[BB_MAX_RANK], out_strides[BB_MAX_RANK];
    bb_walk w = {.rank = 2 * x->rank, .n = 2};
    bb_array_strides(x, in_strides);
    bb_array_strides(y, out_strides);
    if (bb_array_elements(y) == 0)
        return BB_STATUS_OK;
    for (int i = 0; i < x->rank; i++) {
        w.dims[2 * i] = y->dims[i] / x->dims[i];
        w.dims[2 * i + 1] = x->dims[i];
        w.strides[0][2 * i] = out_strides[i] * x->dims[i];
        w.strides[0][2 * i + 1] = out_strides[i];
        w.strides[1][2 * i + 1] = in_strides[i];
    }
    bb_walk_copy(&w, bb_dtype_size(y->dtype), y->data, x->data);
    return BB_STATUS_OK;
}

/* Both directions are a transposition of a 6-D view. */
bb_status bb_eval_depth_space(const bb_eval *e) {
    bool to_space = e->node->op == BB_OP_DEPTH_TO_SPACE;
    const bb_array *space = to_space ? &e->out[0] : &e->in[0];
    const bb_array *depth = to_space ? &e->in[0] : &e->out[0];
    int64_t b = bb_node_int(e->node, "blocksize", 1);
    bool crd = to_space && strcmp(bb_node_string(e->node, "mode", "DCR"), "CRD") == 0;
    int64_t c = space->dims[1], h = depth->dims[2], width = depth->dims[3];
    /* Walk order: n, c, h, block row, w, block column. */
    bb_walk w = {.rank = 6, .n = 2, .dims = {space->dims[0], c, h, b, width, b}};
    int64_t plane = h * width, *s = w.strides[!to_space], *d = w.strides[to_space];
    int64_t space_strides[6] = {c * plane * b * b, plane * b * b, width * b * b, width * b, b, 1};
    int64_t block = crd ? plane : c * plane; /* step of one block column in depth */
    int64_t depth_strides[6] = {
        c * plane * b * b, crd ? plane * b * b : plane, width, block * b, 1, block};
    memcpy(s, space_strides, sizeof(space_strides));
    memcpy(d, depth_strides, sizeof(depth_strides));
    bb_walk_copy(&w, bb_dtype_size(space->dtype), e->out[0].data, e->in[0].data);
    return BB_STATUS_OK;
}

/* ---- values made from little ----------------------------------------------------------------- */

bb_status bb_eval_range(const bb_eval *e) {
    const bb_array *y = &e->out[0];
    for (int64_t i = 0; i < y->dims[0]; i++) {
        if (bb_dtype_is_float(y->dtype)) {
            double v = bb_array_double(&e->in[0], 0) + (double)i * bb_array_double(&e->in[2], 0);
            bb_array_put_double(y, (size_t)i, v);
        } else {
            uint64_t v = (uint64_t)bb_array_int(&e->in[0], 0) +
                         (uint64_t)i * (uint64_t)bb_array_int(&e->in[2], 0);
            bb_array_put_int(y, (size_t)i, (int64_t)v);
        }
    }
    return BB_STATUS_OK;
}

bb_status bb_eval_constant_of_shape(const bb_eval *e) {
    const bb_array *value = bb_eval_in(e, 1), *y = &e->out[0];
    size_t size = bb_dtype_size(y->dtype), n = bb_array_elements(y);
    if (value && bb_array_elements(value) != 1)
        return bb_eval_fail(e, "attribute value is not one element");
    for (size_t i = 0; i < n; i++) {
        if (value)
            memcpy((char *)y->data + i * size, value->data, size);
        else
            memset((char *)y->data + i * size, 0, size);
    }
    return BB_STATUS_OK;
}

bb_status bb_eval_shape_of(const bb_eval *e) {
    int64_t rank = e->in[0].rank, start = bb_node_int(e->node, "start", 0);
    start += start < 0 ? rank : 0;
    start = start < 0 ? 0 : start > rank ? rank : start;
    for (int64_t i = 0; i < e->out[0].dims[0]; i++)
        ((int64_t *)e->out[0].data)[i] = e->in[0].dims[start + i];
    return BB_STATUS_OK;
}

bb_status bb_eval_size(const bb_eval *e) {
    *(int64_t *)e->out[0].data = (int64_t)bb_array_elements(&e->in[0]);
    return BB_STATUS_OK;
}
