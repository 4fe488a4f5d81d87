/* SPDX-License-Identifier: Apache-2.0 */
/* Add, Sub, Mul, Div and relatives with broadcasting. Operands of equal dims, single numbers and
 * values per channel work in blocked layouts; anything else row-major. */
#include "nn/clones.h"
#include "nn/gradient_internal.h"
#include <string.h>

/* ---- loops over an index space with a stride per operand ------------------------------------- */

typedef struct space {
    int rank;
    size_t dims[BB_MAX_RANK];
    size_t stride[2][BB_MAX_RANK]; /* in floats; 0 where the operand is broadcast. The result is
                                      dense */
} space;

#define LOOPS(name, expression)                                                                    \
    BB_CLONES static void name(const float *a, size_t as, const float *b, size_t bs, float *y,     \
                               size_t n) {                                                         \
        if (as && bs)                                                                              \
            for (size_t i = 0; i < n; i++) {                                                       \
                float u = a[i], v = b[i];                                                          \
                y[i] = expression;                                                                 \
            }                                                                                      \
        else if (as)                                                                               \
            for (size_t i = 0; i < n; i++) {                                                       \
                float u = a[i], v = b[0];                                                          \
                y[i] = expression;                                                                 \
            }                                                                                      \
        else                                                                                       \
            for (size_t i = 0; i < n; i++) {                                                       \
                float u = a[0], v = b[i * bs];                                                     \
                y[i] = expression;                                                                 \
            }                                                                                      \
    }

LOOPS(row_add, u + v)
LOOPS(row_sub, u - v)
LOOPS(row_mul, u *v)
LOOPS(row_div, u / v)
LOOPS(row_max, u > v ? u : v)
LOOPS(row_min, u < v ? u : v)

typedef void (*row_fn)(const float *a, size_t as, const float *b, size_t bs, float *y, size_t n);
static const row_fn row_fns[] = {
    [BB_DN_ADD] = row_add, [BB_DN_SUB] = row_sub, [BB_DN_MUL] = row_mul,
    [BB_DN_DIV] = row_div, [BB_DN_MAX] = row_max, [BB_DN_MIN] = row_min};

/* Rows of the innermost axis: offsets of operand i in row r. */
static size_t row_offset(const space *s, int i, size_t r) {
    size_t at = 0;
    for (int d = s->rank - 2; d >= 0; d--) {
        at += r % s->dims[d] * s->stride[i][d];
        r /= s->dims[d];
    }
    return at;
}

static size_t count_rows(const space *s) {
    size_t n = 1;
    for (int d = 0; d + 1 < s->rank; d++)
        n *= s->dims[d];
    return n;
}

typedef struct combine_state {
    space space;
    bb_dn_binary kind;
    void *const *data;
    size_t rows;
} combine_state;

/* args: y, a, b. One row (equal dims) is cut anywhere, else whole rows go to the threads. */
static void combine_part(void *user, int part, int parts) {
    const combine_state *s = user;
    const float *a = s->data[1], *b = s->data[2];
    float *y = s->data[0];
    size_t n = s->space.dims[s->space.rank - 1];
    const size_t as = s->space.stride[0][s->space.rank - 1];
    const size_t bs = s->space.stride[1][s->space.rank - 1];
    if (s->rows == 1) {
        size_t begin = n * (size_t)part / (size_t)parts,
               end = n * (size_t)(part + 1) / (size_t)parts;
        row_fns[s->kind](a + begin * as, as, b + begin * bs, bs, y + begin, end - begin);
        return;
    }
    size_t begin = s->rows * (size_t)part / (size_t)parts;
    size_t end = s->rows * (size_t)(part + 1) / (size_t)parts;
    for (size_t r = begin; r < end; r++)
        row_fns[s->kind](a + row_offset(&s->space, 0, r), as, b + row_offset(&s->space, 1, r), bs,
                         y + r * n, n);
}

static bb_status run_combine(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    combine_state s = *(const combine_state *)step->state;
    s.data = step->data;
    bb_dn_parallel(s.rows * s.space.dims[s.space.rank - 1] < 8192 ? 1 : ex->threads, combine_part,
                   &s);
    return BB_STATUS_OK;
}

static bb_status emit_combine(bb_gradient *g, const bb_node *node, bb_dn_binary kind,
                              const space *sp, int y, int a, int b, bb_error *err) {
    combine_state *s = bb_grad_alloc(g, 1, sizeof(*s));
    bb_nn_arg args[3] = {{y, 0}, {a, 0}, {b, 0}};
    if (!s)
        return bb_fail_memory(err, "arithmetic");
    *s = (combine_state){*sp, kind, NULL, count_rows(sp)};
    return bb_grad_emit(g, node, run_combine, s, args, 3, err);
}

/* ---- sums over what was broadcast ------------------------------------------------------------ */

typedef struct reduce_state {
    space space;
    int operand;
    size_t elements;
    float sign;
} reduce_state;

BB_CLONES static void accumulate(const float *x, double *sum, size_t n) {
    for (size_t i = 0; i < n; i++)
        sum[i] += (double)x[i];
}

static double total(const float *x, size_t n) {
    double sum[8] = {0};
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (size_t k = 0; k < 8; k++)
            sum[k] += (double)x[i + k];
    for (; i < n; i++)
        sum[0] += (double)x[i];
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

/* args: full gradient, sums in double, result */
static bb_status run_reduce(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    const reduce_state *s = step->state;
    const float *x = step->data[0];
    double *sums = step->data[1];
    float *to = step->data[2];
    size_t n = s->space.dims[s->space.rank - 1], rows = count_rows(&s->space);
    memset(sums, 0, s->elements * sizeof(*sums));
    for (size_t r = 0; r < rows; r++, x += n) {
        double *sum = sums + row_offset(&s->space, s->operand, r);
        if (s->space.stride[s->operand][s->space.rank - 1])
            accumulate(x, sum, n);
        else
            *sum += total(x, n);
    }
    for (size_t i = 0; i < s->elements; i++)
        to[i] = s->sign * (float)sums[i];
    return BB_STATUS_OK;
}

static void run_negate(const bb_nn_step *step, size_t begin, size_t end) {
    const float *x = step->data[0];
    float *y = step->data[1];
    for (size_t i = begin; i < end; i++)
        y[i] = -x[i];
}

/* args: y, x0, x1, dy, dx: passes dy to the operand that was taken (the first of equals) */
static void run_select(const bb_nn_step *step, size_t begin, size_t end) {
    const float *y = step->data[0], *x = step->data[1], *dy = step->data[2];
    float *dx = step->data[3];
    for (size_t i = begin; i < end; i++)
        dx[i] = y[i] == x[i] ? dy[i] : 0.0f;
}

/* ---- the node -------------------------------------------------------------------------------- */

typedef struct binary_state {
    bb_dn_binary kind;
    space space;
    const bb_dn_layout *layout;     /* of the result; NULL: row-major */
    const bb_dn_layout *operand[2]; /* layout each operand is read in; NULL: row-major */
    size_t stored[2], result;       /* floats in those layouts */
    int x[2], y;
    const bb_node *relu;
} binary_state;

static bool same_dims(const bb_nn_tensor *a, const bb_nn_tensor *b) {
    return a->rank == b->rank && memcmp(a->dims, b->dims, (size_t)a->rank * sizeof(*a->dims)) == 0;
}

static void set_flat(binary_state *s, size_t n) {
    s->space = (space){.rank = 1, .dims = {n}, .stride = {{1}, {1}}};
    s->result = s->stored[0] = s->stored[1] = n;
}

/* Equal dims: one row in the layout of the operand that is blocked. */
static bool plan_equal(bb_gradient *g, const bb_node *node, binary_state *s) {
    const bb_nn_tensor *a = bb_nn_input(g->ex, node, 0), *b = bb_nn_input(g->ex, node, 1);
    if (!same_dims(a, b))
        return false;
    s->layout = a->forms->layout ? a->forms->layout : b->forms->layout;
    s->operand[0] = s->operand[1] = s->layout;
    set_flat(s, s->layout ? bb_dn_bytes(s->layout) / sizeof(float) : a->elements);
    return true;
}

/* One operand is a single number: one row in the other's layout. */
static bool plan_scalar(bb_gradient *g, const bb_node *node, binary_state *s) {
    for (int i = 0; i < 2; i++) {
        const bb_nn_tensor *big = bb_nn_input(g->ex, node, i);
        const bb_nn_tensor *small = bb_nn_input(g->ex, node, 1 - i);
        if (small->elements != 1 || small->rank > big->rank)
            continue;
        s->layout = s->operand[i] = big->forms->layout;
        set_flat(s, s->layout ? bb_dn_bytes(s->layout) / sizeof(float) : big->elements);
        s->space.stride[1 - i][0] = 0;
        s->stored[1 - i] = 1;
        return true;
    }
    return false;
}

/* One operand has values per channel (and image): in blocks as the other one. */
static bool plan_channels(bb_gradient *g, const bb_node *node, binary_state *s) {
    for (int i = 0; i < 2; i++) {
        const bb_nn_tensor *big = bb_nn_input(g->ex, node, i);
        const bb_nn_tensor *small = bb_nn_input(g->ex, node, 1 - i);
        bb_dn_channels f, q;
        if (!big->forms->layout || small->rank != big->rank || small->dims[1] != big->dims[1] ||
            (small->dims[0] != 1 && small->dims[0] != big->dims[0]) ||
            small->elements != (size_t)(small->dims[0] * small->dims[1]) ||
            !bb_dn_as_channels(big->forms->layout, &f))
            continue;
        const bb_dn_layout *layout =
            bb_dn_blocked_like(g->ex->dn, big->forms->layout, small->rank, small->dims);
        if (layout ? !bb_dn_as_channels(layout, &q) : bb_nn_has_padding(&f))
            continue;
        s->layout = s->operand[i] = big->forms->layout;
        s->operand[1 - i] = layout;
        s->result = s->stored[i] = f.images * f.blocks * f.pixels * f.lanes;
        s->stored[1 - i] = (size_t)small->dims[0] * f.blocks * f.lanes;
        s->space = (space){.rank = 4, .dims = {f.images, f.blocks, f.pixels, f.lanes}};
        size_t image = f.blocks * f.pixels * f.lanes;
        memcpy(s->space.stride[i], (size_t[]){image, f.pixels * f.lanes, f.lanes, 1},
               4 * sizeof(size_t));
        memcpy(s->space.stride[1 - i],
               (size_t[]){small->dims[0] > 1 ? f.blocks * f.lanes : 0, f.lanes, 0, 1},
               4 * sizeof(size_t));
        return true;
    }
    return false;
}

static bool plan_plain(bb_gradient *g, const bb_node *node, const int64_t *dims, int rank,
                       binary_state *s) {
    s->space = (space){.rank = rank > 0 ? rank : 1, .dims = {1}};
    s->result = 1;
    for (int d = 0; d < rank; d++) {
        s->space.dims[d] = (size_t)dims[d];
        s->result *= (size_t)dims[d];
    }
    for (int i = 0; i < 2; i++) {
        const bb_nn_tensor *x = bb_nn_input(g->ex, node, i);
        size_t stride = 1;
        for (int d = x->rank - 1; d >= 0; d--) {
            s->space.stride[i][rank - x->rank + d] = x->dims[d] > 1 ? stride : 0;
            stride *= (size_t)x->dims[d];
        }
        s->stored[i] = x->elements;
    }
    return true;
}

static bool result_dims(bb_gradient *g, const bb_node *node, int64_t *dims, int *rank) {
    const bb_nn_tensor *a = bb_nn_input(g->ex, node, 0), *b = bb_nn_input(g->ex, node, 1);
    *rank = a->rank > b->rank ? a->rank : b->rank;
    for (int d = 0; d < *rank; d++) {
        int i = d - (*rank - a->rank), j = d - (*rank - b->rank);
        int64_t x = i >= 0 ? a->dims[i] : 1, y = j >= 0 ? b->dims[j] : 1;
        if (x != y && x != 1 && y != 1)
            return false;
        dims[d] = x == 1 ? y : x;
    }
    return true;
}

static bb_status operand_arg(bb_gradient *g, int value, const bb_dn_layout *layout, int *buffer,
                             bb_error *err) {
    return layout ? bb_nn_in_layout(g->ex, value, layout, buffer, err)
                  : bb_nn_in_plain(g->ex, value, buffer, err);
}

/* ---- backward -------------------------------------------------------------------------------- */

static bool is_broadcast(const binary_state *s, int i) {
    return s->stored[i] != s->result;
}

static bb_status reduce(bb_gradient *g, const bb_node *node, const binary_state *s, int i, int full,
                        float sign, bb_error *err) {
    reduce_state *r = bb_grad_alloc(g, 1, sizeof(*r));
    bb_nn_arg args[3] = {{full, 0}, {0, 0}, {0, 0}};
    if (!r)
        return bb_fail_memory(err, "arithmetic");
    *r = (reduce_state){s->space, i, s->stored[i], sign};
    BB_TRY(bb_nn_new_buffer(g->ex, s->stored[i] * sizeof(double), &args[1].buffer, err));
    if (s->operand[i])
        BB_TRY(bb_nn_new_buffer(g->ex, s->stored[i] * sizeof(float), &args[2].buffer, err));
    else
        BB_TRY(bb_grad_target(g, node->in[i], &args[2].buffer, err));
    BB_TRY(bb_grad_emit(g, node, run_reduce, r, args, 3, err));
    return bb_grad_add(g, node->in[i], s->operand[i], args[2].buffer, err);
}

/* Hands on a full-size gradient of operand i, times `sign`. */
static bb_status deliver(bb_gradient *g, const bb_node *node, const binary_state *s, int i,
                         int full, float sign, bb_error *err) {
    if (is_broadcast(s, i))
        return reduce(g, node, s, i, full, sign, err);
    if (sign < 0.0f) {
        bb_nn_arg args[2] = {{full, 0}, {0, 0}};
        BB_TRY(bb_nn_new_buffer(g->ex, s->result * sizeof(float), &args[1].buffer, err));
        BB_TRY(bb_grad_emit_range(g, node, run_negate, s->result, NULL, args, 2, err));
        full = args[1].buffer;
    }
    return bb_grad_add(g, node->in[i], s->layout, full, err);
}

/* full = dy (kind) operand `other`, or dy (kind) result where other < 0. */
static bb_status times(bb_gradient *g, const bb_node *node, const binary_state *s,
                       bb_dn_binary kind, int dy, int other, int *full, bb_error *err) {
    space sp = s->space;
    size_t stride = 1;
    for (int d = sp.rank - 1; d >= 0; d--) {
        sp.stride[0][d] = stride;
        sp.stride[1][d] = other < 0 ? stride : s->space.stride[other][d];
        stride *= sp.dims[d];
    }
    BB_TRY(bb_nn_new_buffer(g->ex, s->result * sizeof(float), full, err));
    BB_TRY(emit_combine(g, node, kind, &sp, *full, dy, other < 0 ? s->y : s->x[other], err));
    /* A quotient of unused channels is not a number. */
    return kind == BB_DN_DIV ? bb_grad_emit_clear(g, s->layout, *full, err) : BB_STATUS_OK;
}

static bb_status select_backward(bb_gradient *g, const bb_node *node, const binary_state *s, int i,
                                 int dy, bb_error *err) {
    bb_nn_arg args[4] = {{s->y, 0}, {s->x[i], 0}, {dy, 0}, {0, 0}};
    if (is_broadcast(s, i))
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "gradient of a broadcast Max or Min");
    BB_TRY(bb_nn_new_buffer(g->ex, s->result * sizeof(float), &args[3].buffer, err));
    BB_TRY(bb_grad_emit_range(g, node, run_select, s->result, NULL, args, 4, err));
    return bb_grad_add(g, node->in[i], s->layout, args[3].buffer, err);
}

static bb_status operand_backward(bb_gradient *g, const bb_node *node, const binary_state *s, int i,
                                  int dy, bb_error *err) {
    int full = dy;
    switch (s->kind) {
    case BB_DN_ADD:
        return deliver(g, node, s, i, dy, 1.0f, err);
    case BB_DN_SUB:
        return deliver(g, node, s, i, dy, i == 0 ? 1.0f : -1.0f, err);
    case BB_DN_MUL:
        BB_TRY(times(g, node, s, BB_DN_MUL, dy, 1 - i, &full, err));
        return deliver(g, node, s, i, full, 1.0f, err);
    case BB_DN_DIV: /* da = dy / b, db = -(dy * y) / b */
        if (i == 1)
            BB_TRY(times(g, node, s, BB_DN_MUL, dy, -1, &full, err));
        BB_TRY(times(g, node, s, BB_DN_DIV, full, 1, &full, err));
        return deliver(g, node, s, i, full, i == 0 ? 1.0f : -1.0f, err);
    case BB_DN_MAX:
    case BB_DN_MIN:
        break;
    }
    return select_backward(g, node, s, i, dy, err);
}

static bb_status backward(bb_gradient *g, const bb_grad_entry *entry, bb_error *err) {
    const binary_state *s = entry->state;
    const bb_node *node = entry->node;
    int dy;
    bool writable;
    if (s->relu)
        BB_TRY(bb_grad_relu_backward(g, s->relu, s->relu->out[0], &dy, &writable, err));
    else
        BB_TRY(bb_grad_read(g, node->out[0], s->layout, &dy, &writable, err));
    for (int i = 0; dy >= 0 && i < 2; i++)
        if (bb_grad_wants(g, node, i))
            BB_TRY(operand_backward(g, node, s, i, dy, err));
    return BB_STATUS_OK;
}

/* ---- Add and the Relu after it in one pass --------------------------------------------------- */

BB_CLONES static void add_relu(const float *a, const float *b, float *y, size_t n) {
    for (size_t i = 0; i < n; i++) {
        float v = a[i] + b[i];
        y[i] = v > 0.0f ? v : 0.0f;
    }
}

static void run_add_relu(const bb_nn_step *step, size_t begin, size_t end) {
    add_relu((const float *)step->data[1] + begin, (const float *)step->data[2] + begin,
             (float *)step->data[0] + begin, end - begin);
}

static const bb_node *following_relu(bb_gradient *g, const bb_node *node, const binary_state *s) {
    int reader = bb_grad_only_reader(g, node->out[0]);
    if (s->kind != BB_DN_ADD || is_broadcast(s, 0) || is_broadcast(s, 1) || s->space.rank != 1 ||
        reader < 0 || g->ex->built[reader] || g->ex->graph->nodes[reader].op != BB_OP_RELU)
        return NULL;
    g->ex->built[reader] = true;
    return &g->ex->graph->nodes[reader];
}

static bb_status emit_forward(bb_gradient *g, const bb_node *node, binary_state *s, bb_error *err) {
    bb_nn_arg args[3] = {{s->y, 0}, {s->x[0], 0}, {s->x[1], 0}};
    if (s->relu)
        return bb_grad_emit_range(g, node, run_add_relu, s->result, NULL, args, 3, err);
    BB_TRY(emit_combine(g, node, s->kind, &s->space, s->y, s->x[0], s->x[1], err));
    bool zero = s->kind == BB_DN_MUL ||
                (is_broadcast(s, 0) || is_broadcast(s, 1) ? false : s->kind != BB_DN_DIV);
    return zero ? BB_STATUS_OK : bb_grad_emit_clear(g, s->layout, s->y, err);
}

/* The result may go where an operand was, unless a later step reads that. */
static bb_status result_buffer(bb_gradient *g, const bb_node *node, binary_state *s,
                               bb_error *err) {
    for (int i = 0; i < 2; i++) {
        bool free = (s->kind == BB_DN_ADD || s->kind == BB_DN_SUB) && !is_broadcast(s, i) &&
                    g->ex->tensors[node->in[i]].forms->buffer == s->x[i] &&
                    bb_grad_may_overwrite(g, node->in[i]);
        s->y = s->x[i];
        if (free)
            return BB_STATUS_OK;
    }
    return bb_nn_new_buffer(g->ex, s->result * sizeof(float), &s->y, err);
}

bb_status bb_grad_build_binary(bb_gradient *g, const bb_node *node, bb_error *err) {
    bb_executor *ex = g->ex;
    const bb_nn_tensor *a = bb_nn_input(ex, node, 0), *b = bb_nn_input(ex, node, 1);
    binary_state *s = bb_grad_alloc(g, 1, sizeof(*s));
    int64_t dims[BB_MAX_RANK];
    int rank;
    if (!s)
        return bb_fail_memory(err, "arithmetic");
    if (node->n_in != 2 || !a || !b || !bb_nn_binary_kind(node->op, &s->kind) ||
        a->dtype != BB_DTYPE_F32 || b->dtype != BB_DTYPE_F32 || a->elements == 0 ||
        b->elements == 0 || !result_dims(g, node, dims, &rank))
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "no gradient for these operands is known");
    if (!plan_equal(g, node, s) && !plan_scalar(g, node, s) && !plan_channels(g, node, s))
        plan_plain(g, node, dims, rank, s);
    for (int i = 0; i < 2; i++)
        BB_TRY(operand_arg(g, node->in[i], s->operand[i], &s->x[i], err));
    BB_TRY(result_buffer(g, node, s, err));
    s->relu = following_relu(g, node, s);
    BB_TRY(emit_forward(g, node, s, err));
    int value = s->relu ? s->relu->out[0] : node->out[0];
    BB_TRY(bb_nn_define(ex, value, BB_DTYPE_F32, rank, dims, err));
    BB_TRY(bb_nn_store(ex, value, s->layout, s->y, err));
    if (s->relu)
        bb_nn_consume(ex, s->relu);
    if (s->relu || s->kind >= BB_DN_DIV)
        bb_grad_save(g, value);
    for (int i = 0; i < 2 && s->kind >= BB_DN_MUL; i++)
        bb_grad_save(g, node->in[i]);
    return bb_grad_push(g, node, backward, s, err);
}
