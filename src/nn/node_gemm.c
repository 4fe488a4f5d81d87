/* SPDX-License-Identifier: Apache-2.0 */
/* Gemm and MatMul of f32 tensors. */
#include "nn/program.h"
#include <string.h>

/* ---- constant right-hand side: packed inner product ------------------------------------------ */

typedef struct product {
    int64_t m, n, k;
    int64_t row_stride, column_stride; /* of B[k][n] */
    float alpha, beta;
    const float *bias; /* n values, or one, or NULL */
    size_t n_bias;
} product;

static bb_status pack_weights(bb_executor *ex, const bb_node *node, const product *p, bb_dn_op *op,
                              int *buffer, bb_error *err) {
    const bb_nn_tensor *b = bb_nn_input(ex, node, 1);
    int64_t dims[2] = {p->n, p->k}, strides[2] = {p->column_stride, p->row_stride};
    const bb_dn_layout *from = bb_dn_strided(ex->dn, 2, dims, strides);
    const bb_dn_layout *wanted = bb_dn_op_layout(ex->dn, op, BB_DN_WEIGHTS);
    if (!from || !wanted)
        return bb_fail_memory(err, "matrix product");
    const float *data = b->fixed;
    if (p->alpha != 1.0f) {
        float *scaled = bb_arena_array(ex->arena, b->elements, sizeof(*scaled));
        if (!scaled)
            return bb_fail_memory(err, "matrix product");
        for (size_t i = 0; i < b->elements; i++)
            scaled[i] = data[i] * p->alpha;
        data = scaled;
    }
    void *packed;
    BB_TRY(bb_nn_keep(ex, bb_dn_bytes(wanted), &packed, buffer, err));
    return bb_dn_convert(ex->dn, from, data, wanted, packed, err);
}

static bb_status pack_bias(bb_executor *ex, const product *p, int *buffer, bb_error *err) {
    void *data;
    BB_TRY(bb_nn_keep(ex, (size_t)p->n * sizeof(float), &data, buffer, err));
    for (int64_t i = 0; i < p->n; i++)
        ((float *)data)[i] = p->beta * p->bias[p->n_bias == 1 ? 0 : i];
    return BB_STATUS_OK;
}

static bb_status emit_inner_product(bb_executor *ex, const bb_node *node, const product *p,
                                    int rank, const int64_t *dims, bb_error *err) {
    bb_nn_chain chain;
    bb_dn_op *op;
    bb_nn_arg args[4] = {{0, BB_DN_SRC}, {0, BB_DN_WEIGHTS}, {0, BB_DN_DST}, {0, BB_DN_BIAS}};
    bb_nn_collect(ex, node->out[0], rank, dims, false, false, &chain);
    BB_TRY(bb_dn_make_inner_product(ex->dn, p->m, p->n, p->k, p->bias != NULL, &chain.posts, &op,
                                    err));
    BB_TRY(bb_nn_in_plain(ex, node->in[0], &args[0].buffer, err));
    BB_TRY(pack_weights(ex, node, p, op, &args[1].buffer, err));
    if (p->bias)
        BB_TRY(pack_bias(ex, p, &args[3].buffer, err));
    BB_TRY(bb_nn_define(ex, chain.value, BB_DTYPE_F32, rank, dims, err));
    BB_TRY(bb_nn_new_plain(ex, chain.value, &args[2].buffer, err));
    BB_TRY(bb_nn_emit_op(ex, node, op, args, p->bias ? 4 : 3, err));
    bb_nn_consume_chain(ex, &chain);
    return BB_STATUS_OK;
}

/* ---- any operands ---------------------------------------------------------------------------- */

/* One operand of a product as oneDNN sees it: `rank` axes, the last two of them the matrix. */
typedef struct operand {
    int64_t dims[BB_DN_MAX_RANK], strides[BB_DN_MAX_RANK];
} operand;

/* Row-major dims with ones in front up to `rank`; transposes the last two axes if asked. */
static operand make_operand(int rank, const int64_t *dims, int own_rank, bool transpose) {
    operand o;
    int64_t stride = 1;
    for (int i = rank - 1; i >= 0; i--) {
        int from = i - (rank - own_rank);
        o.dims[i] = from >= 0 ? dims[from] : 1;
        o.strides[i] = stride;
        stride *= o.dims[i] > 0 ? o.dims[i] : 1;
    }
    if (transpose) {
        int64_t dim = o.dims[rank - 1], step = o.strides[rank - 1];
        o.dims[rank - 1] = o.dims[rank - 2];
        o.strides[rank - 1] = o.strides[rank - 2];
        o.dims[rank - 2] = dim;
        o.strides[rank - 2] = step;
    }
    return o;
}

static bb_status emit_matmul(bb_executor *ex, const bb_node *node, int rank, const operand *a,
                             const operand *b, const bb_dn_posts *posts, int value, bb_error *err) {
    int64_t dims[BB_DN_MAX_RANK];
    for (int i = 0; i < rank - 2; i++)
        dims[i] = a->dims[i] > b->dims[i] ? a->dims[i] : b->dims[i];
    dims[rank - 2] = a->dims[rank - 2];
    dims[rank - 1] = b->dims[rank - 1];
    const bb_dn_layout *src = bb_dn_strided(ex->dn, rank, a->dims, a->strides);
    const bb_dn_layout *weights = bb_dn_strided(ex->dn, rank, b->dims, b->strides);
    const bb_dn_layout *dst = bb_dn_plain(ex->dn, rank, dims);
    if (!src || !weights || !dst)
        return bb_fail_memory(err, "matrix product");
    bb_dn_op *op;
    bb_nn_arg args[3] = {{0, BB_DN_SRC}, {0, BB_DN_WEIGHTS}, {0, BB_DN_DST}};
    BB_TRY(bb_dn_make_matmul(ex->dn, src, weights, dst, posts, &op, err));
    BB_TRY(bb_nn_in_plain(ex, node->in[0], &args[0].buffer, err));
    BB_TRY(bb_nn_in_plain(ex, node->in[1], &args[1].buffer, err));
    BB_TRY(bb_nn_new_plain(ex, value, &args[2].buffer, err));
    return bb_nn_emit_op(ex, node, op, args, 3, err);
}

/* ---- Gemm ------------------------------------------------------------------------------------ */

typedef struct add_state {
    int64_t m, n, row_step, column_step; /* steps through C: 0 where it is broadcast */
    float beta;
} add_state;

static bb_status run_add(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    const add_state *s = step->state;
    float *out = step->data[0];
    const float *c = step->data[1];
    for (int64_t i = 0; i < s->m; i++)
        for (int64_t j = 0; j < s->n; j++)
            out[i * s->n + j] += s->beta * c[i * s->row_step + j * s->column_step];
    return BB_STATUS_OK;
}

static bool broadcasts(const bb_nn_tensor *c, int64_t m, int64_t n, add_state *state) {
    int64_t rows = c->rank >= 2 ? c->dims[c->rank - 2] : 1;
    int64_t columns = c->rank >= 1 ? c->dims[c->rank - 1] : 1;
    *state = (add_state){
        .m = m, .n = n, .row_step = rows == 1 ? 0 : columns, .column_step = columns == 1 ? 0 : 1};
    return c->rank <= 2 && c->dtype == BB_DTYPE_F32 && (rows == 1 || rows == m) &&
           (columns == 1 || columns == n);
}

static bb_status emit_add(bb_executor *ex, const bb_node *node, const add_state *state, int out,
                          bb_error *err) {
    bb_nn_step step = {.run = run_add, .node = node, .tap = -1};
    add_state *kept = bb_arena_alloc(ex->arena, sizeof(*kept));
    bb_nn_arg args[2] = {{out, 0}, {0, 0}};
    if (!kept)
        return bb_fail_memory(err, "matrix product");
    *kept = *state;
    step.state = kept;
    BB_TRY(bb_nn_in_plain(ex, node->in[2], &args[1].buffer, err));
    return bb_nn_emit(ex, &step, args, 2, err);
}

static bb_status general_gemm(bb_executor *ex, const bb_node *node, const operand *a,
                              const operand *b, const add_state *state, float alpha,
                              bb_error *err) {
    bb_dn_posts posts = {.n = alpha != 1.0f, .post = {{BB_DN_LINEAR, alpha, 0.0f}}};
    int64_t dims[2] = {a->dims[0], b->dims[1]};
    BB_TRY(bb_nn_define(ex, node->out[0], BB_DTYPE_F32, 2, dims, err));
    BB_TRY(emit_matmul(ex, node, 2, a, b, &posts, node->out[0], err));
    if (!bb_nn_input(ex, node, 2))
        return BB_STATUS_OK;
    int out = ex->tensors[node->out[0]].forms->buffer;
    return emit_add(ex, node, state, out, err);
}

bb_status bb_nn_build_gemm(bb_executor *ex, const bb_node *node, bb_error *err) {
    const bb_nn_tensor *a = bb_nn_input(ex, node, 0), *b = bb_nn_input(ex, node, 1);
    const bb_nn_tensor *c = bb_nn_input(ex, node, 2);
    if (a->dtype != BB_DTYPE_F32 || b->dtype != BB_DTYPE_F32 || a->rank != 2 || b->rank != 2)
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "only f32 matrices are supported");
    bool trans_a = bb_node_int(node, "transA", 0) != 0, trans_b = bb_node_int(node, "transB", 0);
    operand left = make_operand(2, a->dims, 2, trans_a),
            right = make_operand(2, b->dims, 2, trans_b);
    product p = {.m = left.dims[0],
                 .k = left.dims[1],
                 .n = right.dims[1],
                 .row_stride = right.strides[0],
                 .column_stride = right.strides[1],
                 .alpha = bb_node_float(node, "alpha", 1.0f),
                 .beta = bb_node_float(node, "beta", 1.0f)};
    add_state state = {0};
    if (right.dims[0] != p.k)
        return bb_fail(err, BB_STATUS_BAD_FILE, "inner dimensions %lld and %lld differ",
                       (long long)p.k, (long long)right.dims[0]);
    if (c && !broadcasts(c, p.m, p.n, &state))
        return bb_fail(err, BB_STATUS_BAD_FILE, "C does not broadcast to the product");
    state.beta = p.beta;
    bool vector = !c || (c->fixed && state.row_step == 0);
    if (!b->fixed || trans_a || !vector)
        return general_gemm(ex, node, &left, &right, &state, p.alpha, err);
    p.bias = c ? c->fixed : NULL;
    p.n_bias = c ? c->elements : 0;
    int64_t dims[2] = {p.m, p.n};
    return emit_inner_product(ex, node, &p, 2, dims, err);
}

/* ---- MatMul ---------------------------------------------------------------------------------- */

/* Dims of the result by the rules of numpy.matmul, and both operands at a common rank >= 2. */
static bool matmul_dims(const bb_nn_tensor *a, const bb_nn_tensor *b, operand *left, operand *right,
                        int *common, int64_t *dims, int *rank) {
    int64_t a_dims[BB_MAX_RANK + 1], b_dims[BB_MAX_RANK + 1];
    int a_rank = a->rank, b_rank = b->rank;
    memcpy(a_dims, a->dims, sizeof(a->dims));
    memcpy(b_dims, b->dims, sizeof(b->dims));
    if (a_rank == 1) { /* a row */
        a_dims[1] = a_dims[0];
        a_dims[0] = 1;
        a_rank = 2;
    }
    if (b_rank == 1) { /* a column */
        b_dims[1] = 1;
        b_rank = 2;
    }
    *common = a_rank > b_rank ? a_rank : b_rank;
    *left = make_operand(*common, a_dims, a_rank, false);
    *right = make_operand(*common, b_dims, b_rank, false);
    *rank = 0;
    for (int i = 0; i < *common - 2; i++) {
        int64_t x = left->dims[i], y = right->dims[i];
        if (x != y && x != 1 && y != 1)
            return false;
        dims[(*rank)++] = x == 1 ? y : x;
    }
    if (a->rank > 1)
        dims[(*rank)++] = left->dims[*common - 2];
    if (b->rank > 1)
        dims[(*rank)++] = right->dims[*common - 1];
    return left->dims[*common - 1] == right->dims[*common - 2];
}

bb_status bb_nn_build_matmul(bb_executor *ex, const bb_node *node, bb_error *err) {
    const bb_nn_tensor *a = bb_nn_input(ex, node, 0), *b = bb_nn_input(ex, node, 1);
    operand left, right;
    int common, rank;
    int64_t dims[BB_DN_MAX_RANK];
    if (a->dtype != BB_DTYPE_F32 || b->dtype != BB_DTYPE_F32)
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "product of %s and %s is not supported",
                       bb_dtype_name(a->dtype), bb_dtype_name(b->dtype));
    if (a->rank < 1 || b->rank < 1 || !matmul_dims(a, b, &left, &right, &common, dims, &rank))
        return bb_fail(err, BB_STATUS_BAD_FILE, "the operands' dims do not fit each other");
    if (b->fixed && b->rank == 2 && a->rank >= 2 && b->elements > 0) {
        product p = {.k = b->dims[0],
                     .n = b->dims[1],
                     .row_stride = b->dims[1],
                     .column_stride = 1,
                     .alpha = 1.0f,
                     .beta = 1.0f};
        p.m = (int64_t)a->elements / p.k;
        return emit_inner_product(ex, node, &p, rank, dims, err);
    }
    BB_TRY(bb_nn_define(ex, node->out[0], BB_DTYPE_F32, rank, dims, err));
    return emit_matmul(ex, node, common, &left, &right, NULL, node->out[0], err);
}
