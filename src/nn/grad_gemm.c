/* SPDX-License-Identifier: Apache-2.0 */
/* Gemm and MatMul: products of row-major matrices, one per batch index. */
#include "nn/gradient_internal.h"
#include <string.h>

typedef struct gemm_state gemm_state;

/* An operand and its gradient, a product of dy and the other operand. */
typedef struct operand {
    const gemm_state *s;
    size_t *at;  /* offset of every batch's matrix, in floats */
    bool *again; /* the matrix of an earlier batch as well */
    bb_dn_product gradient;
    bool dy_first;
} operand;

struct gemm_state {
    bb_dn_product forward; /* y = a b */
    operand operand[2];
    size_t batches, y_step;
    /* Gemm's third input */
    float beta;
    size_t rows, columns, c_rows, c_columns;
};

/* ---- steps ----------------------------------------------------------------------------------- */

static void spread_bias(const gemm_state *s, const float *c, float *y) {
    for (size_t r = 0; r < s->rows; r++)
        for (size_t k = 0; k < s->columns; k++)
            y[r * s->columns + k] =
                s->beta * c[(s->c_rows > 1 ? r * s->c_columns : 0) + (s->c_columns > 1 ? k : 0)];
}

/* args: a, b, y, [c] */
static bb_status run_forward(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    const gemm_state *s = step->state;
    const float *a = step->data[0], *b = step->data[1];
    float *y = step->data[2];
    bb_dn_product p = s->forward;
    if (step->n_args > 3) {
        spread_bias(s, step->data[3], y);
        p.beta = 1.0f;
    }
    for (size_t i = 0; i < s->batches; i++)
        BB_TRY(bb_dn_gemm(&p, a + s->operand[0].at[i], b + s->operand[1].at[i], y + i * s->y_step,
                          err));
    return BB_STATUS_OK;
}

/* args: dy, the other operand, gradient. Batches that share a matrix add up. */
static bb_status run_operand(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    const operand *own = step->state;
    const gemm_state *s = own->s;
    const operand *other = &s->operand[own == s->operand];
    float *to = step->data[2];
    for (size_t i = 0; i < s->batches; i++) {
        bb_dn_product p = own->gradient;
        p.beta = own->again[i] ? 1.0f : 0.0f;
        const float *dy = (const float *)step->data[0] + i * s->y_step;
        const float *x = (const float *)step->data[1] + other->at[i];
        BB_TRY(
            bb_dn_gemm(&p, own->dy_first ? dy : x, own->dy_first ? x : dy, to + own->at[i], err));
    }
    return BB_STATUS_OK;
}

/* args: dy, dc */
static bb_status run_to_c(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    const gemm_state *s = step->state;
    const float *dy = step->data[0];
    float *dc = step->data[1];
    memset(dc, 0, s->c_rows * s->c_columns * sizeof(*dc));
    for (size_t r = 0; r < s->rows; r++)
        for (size_t k = 0; k < s->columns; k++)
            dc[(s->c_rows > 1 ? r * s->c_columns : 0) + (s->c_columns > 1 ? k : 0)] +=
                s->beta * dy[r * s->columns + k];
    return BB_STATUS_OK;
}

/* ---- building -------------------------------------------------------------------------------- */

static bb_status emit_gradient(bb_gradient *g, const bb_node *node, int i, void *state, int dy,
                               bb_nn_run_fn run, bb_error *err) {
    bb_nn_arg args[3] = {{dy, 0}, {0, 0}, {0, 0}};
    int last = i == 2 ? 1 : 2;
    if (!bb_grad_wants(g, node, i))
        return BB_STATUS_OK;
    if (i < 2)
        BB_TRY(bb_nn_in_plain(g->ex, node->in[1 - i], &args[1].buffer, err));
    BB_TRY(bb_grad_target(g, node->in[i], &args[last].buffer, err));
    BB_TRY(bb_grad_emit(g, node, run, state, args, last + 1, err));
    return bb_grad_add(g, node->in[i], NULL, args[last].buffer, err);
}

static bb_status backward(bb_gradient *g, const bb_grad_entry *entry, bb_error *err) {
    gemm_state *s = entry->state;
    int dy;
    BB_TRY(bb_grad_read(g, entry->node->out[0], NULL, &dy, NULL, err));
    if (dy < 0)
        return BB_STATUS_OK;
    for (int i = 0; i < 2; i++)
        BB_TRY(emit_gradient(g, entry->node, i, &s->operand[i], dy, run_operand, err));
    return emit_gradient(g, entry->node, 2, s, dy, run_to_c, err);
}

static bb_status finish(bb_gradient *g, const bb_node *node, gemm_state *s, int rank,
                        const int64_t *dims, bb_error *err) {
    bb_executor *ex = g->ex;
    bb_nn_arg args[4] = {{0, 0}, {0, 0}, {0, 0}, {0, 0}};
    bool bias = bb_nn_input(ex, node, 2) != NULL;
    for (int i = 0; i < 2; i++) {
        BB_TRY(bb_nn_in_plain(ex, node->in[i], &args[i].buffer, err));
        bb_grad_save(g, node->in[i]);
    }
    if (bias)
        BB_TRY(bb_nn_in_plain(ex, node->in[2], &args[3].buffer, err));
    BB_TRY(bb_nn_define(ex, node->out[0], BB_DTYPE_F32, rank, dims, err));
    BB_TRY(bb_nn_new_plain(ex, node->out[0], &args[2].buffer, err));
    BB_TRY(bb_grad_emit(g, node, run_forward, s, args, bias ? 4 : 3, err));
    return bb_grad_push(g, node, backward, s, err);
}

/* Products of the gradients of y = alpha op(a) op(b), m x k times k x n. */
static void plan_products(gemm_state *s, bool ta, bool tb, int64_t m, int64_t n, int64_t k,
                          float alpha) {
    int64_t lda = ta ? m : k, ldb = tb ? k : n;
    s->forward = (bb_dn_product){ta, tb, m, n, k, lda, ldb, n, alpha, 0.0f};
    s->operand[0].dy_first = !ta;
    s->operand[0].gradient = ta ? (bb_dn_product){tb, true, k, m, n, ldb, n, lda, alpha, 0.0f}
                                : (bb_dn_product){false, !tb, m, k, n, n, ldb, lda, alpha, 0.0f};
    s->operand[1].dy_first = tb;
    s->operand[1].gradient = tb ? (bb_dn_product){true, ta, n, k, m, n, lda, ldb, alpha, 0.0f}
                                : (bb_dn_product){!ta, false, k, n, m, lda, n, ldb, alpha, 0.0f};
    s->rows = (size_t)m;
    s->columns = (size_t)n;
    s->y_step = (size_t)(m * n);
}

static bool all_f32(bb_gradient *g, const bb_node *node) {
    for (int i = 0; i < node->n_in; i++) {
        const bb_nn_tensor *x = bb_nn_input(g->ex, node, i);
        if (x && (x->dtype != BB_DTYPE_F32 || x->elements == 0))
            return false;
    }
    return true;
}

static gemm_state *new_state(bb_gradient *g, size_t batches) {
    gemm_state *s = bb_grad_alloc(g, 1, sizeof(*s));
    if (!s)
        return NULL;
    s->batches = batches;
    for (int i = 0; i < 2; i++) {
        s->operand[i].s = s;
        s->operand[i].at = bb_grad_alloc(g, batches, sizeof(*s->operand[i].at));
        s->operand[i].again = bb_grad_alloc(g, batches, sizeof(*s->operand[i].again));
        if (!s->operand[i].at || !s->operand[i].again)
            return NULL;
    }
    return s;
}

bb_status bb_grad_build_gemm(bb_gradient *g, const bb_node *node, bb_error *err) {
    bb_executor *ex = g->ex;
    const bb_nn_tensor *a = bb_nn_input(ex, node, 0), *b = bb_nn_input(ex, node, 1);
    const bb_nn_tensor *c = bb_nn_input(ex, node, 2);
    gemm_state *s = new_state(g, 1);
    if (!s)
        return bb_fail_memory(err, "matrix product");
    bool ta = bb_node_int(node, "transA", 0) != 0, tb = bb_node_int(node, "transB", 0) != 0;
    if (!all_f32(g, node) || a->rank != 2 || b->rank != 2 || a->dims[!ta] != b->dims[tb])
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "these matrices do not fit each other");
    int64_t dims[2] = {a->dims[ta], b->dims[!tb]};
    plan_products(s, ta, tb, dims[0], dims[1], a->dims[!ta], bb_node_float(node, "alpha", 1.0f));
    s->beta = bb_node_float(node, "beta", 1.0f);
    s->c_rows = s->c_columns = 1;
    if (c) {
        s->c_columns = c->rank > 0 ? (size_t)c->dims[c->rank - 1] : 1;
        s->c_rows = c->elements / s->c_columns;
        if (c->rank > 2 || (s->c_columns != 1 && s->c_columns != s->columns) ||
            (s->c_rows != 1 && s->c_rows != s->rows))
            return bb_fail(err, BB_STATUS_BAD_FILE, "the bias does not fit the product");
    }
    return finish(g, node, s, 2, dims, err);
}

/* Offsets of the matrices of an operand for every batch index of the result. Index 0 along all
 * dimensions that the operand is broadcast over comes first. */
static void find_batches(const bb_nn_tensor *x, int rank, const int64_t *dims, size_t batches,
                         operand *of) {
    size_t *at = of->at;
    size_t matrix = (size_t)(x->dims[x->rank - 2] * x->dims[x->rank - 1]);
    for (size_t i = 0; i < batches; i++) {
        size_t rest = i, stride = matrix;
        at[i] = 0;
        for (int d = rank - 3; d >= 0; d--) {
            int own = d - (rank - x->rank);
            size_t index = rest % (size_t)dims[d];
            rest /= (size_t)dims[d];
            if (own < 0 || x->dims[own] == 1) {
                of->again[i] |= index > 0;
                continue;
            }
            at[i] += index * stride;
            stride *= (size_t)x->dims[own];
        }
    }
}

bb_status bb_grad_build_matmul(bb_gradient *g, const bb_node *node, bb_error *err) {
    bb_executor *ex = g->ex;
    const bb_nn_tensor *a = bb_nn_input(ex, node, 0), *b = bb_nn_input(ex, node, 1);
    if (!all_f32(g, node) || a->rank < 2 || b->rank < 2 ||
        a->dims[a->rank - 1] != b->dims[b->rank - 2])
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "gradients of this matrix product");
    int64_t dims[BB_MAX_RANK], m = a->dims[a->rank - 2], n = b->dims[b->rank - 1];
    int rank = a->rank > b->rank ? a->rank : b->rank;
    size_t batches = 1;
    for (int d = 0; d < rank - 2; d++) {
        int i = d - (rank - a->rank), j = d - (rank - b->rank);
        int64_t x = i >= 0 ? a->dims[i] : 1, y = j >= 0 ? b->dims[j] : 1;
        if (x != y && x != 1 && y != 1)
            return bb_fail(err, BB_STATUS_BAD_FILE, "batch dimensions do not fit each other");
        dims[d] = x == 1 ? y : x;
        batches *= (size_t)dims[d];
    }
    dims[rank - 2] = m;
    dims[rank - 1] = n;
    if (b->rank == 2) { /* one product of all rows */
        m *= (int64_t)batches;
        batches = 1;
    }
    gemm_state *s = new_state(g, batches);
    if (!s)
        return bb_fail_memory(err, "matrix product");
    plan_products(s, false, false, m, n, a->dims[a->rank - 1], 1.0f);
    if (batches > 1) {
        find_batches(a, rank, dims, batches, &s->operand[0]);
        find_batches(b, rank, dims, batches, &s->operand[1]);
    }
    return finish(g, node, s, rank, dims, err);
}
