/* SPDX-License-Identifier: Apache-2.0 */
/* y = a[c]*x + b[c] after a convolution or matrix product goes into its weights and bias. */
#include "passes/rewrite.h"
#include <math.h>
#include <string.h>

/* A per-channel line; both arrays hold one number per channel. */
typedef struct line {
    size_t n;
    double *a, *b;
} line;

static bool line_alloc(line *l, size_t n) {
    l->n = n;
    l->a = bb_alloc_array(n, sizeof(double));
    l->b = bb_alloc_array(n, sizeof(double));
    for (size_t i = 0; l->a && l->b && i < n; i++) {
        l->a[i] = 1;
        l->b[i] = 0;
    }
    return l->a && l->b;
}

static void line_free(line *l) {
    bb_free(l->a);
    bb_free(l->b);
}

static const float *constant_floats(const bb_graph *graph, int value, size_t *n) {
    const bb_value *v = value < 0 ? NULL : &graph->values[value];
    return bb_value_is_constant(v) && v->dtype == BB_DTYPE_F32 && bb_value_elements(v, n) ? v->data
                                                                                          : NULL;
}

/* ---- reading the line ------------------------------------------------------------------------ */

static bool batch_norm_line(const bb_graph *graph, const bb_node *node, line *l) {
    const float *p[4];
    size_t n;
    for (int i = 0; i < 4; i++) {
        p[i] = node->n_in > i + 1 ? constant_floats(graph, node->in[i + 1], &n) : NULL;
        if (!p[i] || n != l->n)
            return false;
    }
    double epsilon = bb_node_float(node, "epsilon", 1e-5f);
    for (size_t c = 0; c < l->n; c++) {
        double deviation = sqrt((double)p[3][c] + epsilon);
        if (!(deviation > 0))
            return false;
        l->a[c] = p[0][c] / deviation;
        l->b[c] = p[1][c] - p[2][c] * l->a[c];
    }
    return true;
}

/* A constant of one element, or of one per index of axis 1, that does not enlarge the result. */
static const float *channel_constant(const bb_graph *graph, int value, const bb_value *x,
                                     size_t channels, bool *scalar) {
    size_t n;
    const float *data = constant_floats(graph, value, &n);
    if (!data || x->rank < 2 || graph->values[value].rank > x->rank)
        return NULL;
    *scalar = n == 1;
    int at = 1 - (x->rank - graph->values[value].rank); /* its axis that meets axis 1 */
    if (n == 1)
        return data;
    return n == channels && at >= 0 && graph->values[value].dims[at] == (int64_t)n ? data : NULL;
}

static bool arithmetic_line(const bb_graph *graph, const bb_node *node, int side, line *l) {
    const bb_value *x = &graph->values[node->in[side]];
    bool scalar;
    const float *k = channel_constant(graph, node->in[1 - side], x, l->n, &scalar);
    if (!k || (node->op == BB_OP_DIV && side != 0))
        return false;
    for (size_t c = 0; c < l->n; c++) {
        double v = k[scalar ? 0 : c];
        if (node->op == BB_OP_MUL)
            l->a[c] = v;
        else if (node->op == BB_OP_DIV)
            l->a[c] = 1 / v;
        else if (node->op == BB_OP_ADD)
            l->b[c] = v;
        else if (side == 0)
            l->b[c] = -v;
        else {
            l->a[c] = -1;
            l->b[c] = v;
        }
        if (!isfinite(l->a[c]) || !isfinite(l->b[c]))
            return false;
    }
    return true;
}

/* ---- writing the weights --------------------------------------------------------------------- */

/* Where output channels lie in the weights: element i belongs to channel i / inner % n. */
typedef struct weight_view {
    size_t channels, inner, wrap;
} weight_view;

static bool view_weights(const bb_graph *graph, const bb_node *conv, weight_view *v) {
    const bb_value *w = &graph->values[conv->in[1]];
    size_t n;
    if (!bb_value_elements(w, &n) || n == 0)
        return false;
    if (conv->op == BB_OP_CONV) {
        *v = (weight_view){(size_t)w->dims[0], n / (size_t)w->dims[0], (size_t)w->dims[0]};
    } else if (conv->op == BB_OP_GEMM) {
        bool trans = bb_node_int(conv, "transB", 0) != 0;
        size_t rows = (size_t)w->dims[!trans];
        *v = (weight_view){rows, trans ? n / rows : 1, rows};
    } else { /* ConvTranspose: [inputs][outputs per group][taps] */
        size_t group = (size_t)bb_node_int(conv, "group", 1), per = (size_t)w->dims[1];
        *v = (weight_view){per * group, n / ((size_t)w->dims[0] * per), per};
    }
    return true;
}

static size_t channel_of(const bb_node *conv, const bb_value *w, const weight_view *v, size_t i) {
    size_t c = i / v->inner % v->wrap;
    if (conv->op == BB_OP_CONV_TRANSPOSE) {
        size_t row = i / (v->inner * v->wrap), groups = v->channels / v->wrap;
        c += row / ((size_t)w->dims[0] / groups) * v->wrap;
    }
    return c;
}

static bb_status fold_line(bb_graph *graph, bb_node *conv, const weight_view *v, const line *l,
                           bb_error *err) {
    const bb_value w = graph->values[conv->in[1]];
    int old_bias = conv->n_in > 2 ? conv->in[2] : -1;
    int64_t dims[1] = {(int64_t)v->channels};
    float *weights, *bias;
    size_t n, n_bias = 0;
    bb_value_elements(&w, &n);
    int new_w = bb_add_floats(graph, conv, "weight", w.rank, w.dims, &weights);
    int new_b = bb_add_floats(graph, conv, "bias", 1, dims, &bias);
    int *in = bb_arena_array(graph->arena, 3, sizeof(*in));
    if (new_w < 0 || new_b < 0 || !in)
        return bb_fail_memory(err, conv->name);
    for (size_t i = 0; i < n; i++)
        weights[i] = (float)((double)((const float *)w.data)[i] * l->a[channel_of(conv, &w, v, i)]);
    const float *b = constant_floats(graph, old_bias, &n_bias);
    for (size_t c = 0; c < v->channels; c++)
        bias[c] = (float)((b ? b[n_bias == 1 ? 0 : c] : 0.0) * l->a[c] + l->b[c]);
    in[0] = conv->in[0];
    in[1] = new_w;
    in[2] = new_b;
    conv->in = in;
    conv->n_in = 3;
    return BB_STATUS_OK;
}

/* The bias must be absent or a constant vector, and a Gemm plain. */
static bool foldable_product(const bb_graph *graph, const bb_node *conv, const weight_view *v) {
    int bias = conv->n_in > 2 ? conv->in[2] : -1;
    size_t n;
    if (!constant_floats(graph, conv->in[1], &n))
        return false;
    if (conv->op == BB_OP_GEMM &&
        (bb_node_float(conv, "alpha", 1) != 1 || bb_node_float(conv, "beta", 1) != 1))
        return false;
    if (bias < 0)
        return true;
    const bb_value *c = &graph->values[bias];
    return constant_floats(graph, bias, &n) &&
           (n == 1 || (n == v->channels && c->dims[c->rank - 1] == (int64_t)n));
}

static bb_node *product_before(const bb_graph *graph, int value) {
    bb_node *node = bb_sole_producer(graph, value, BB_OP_CONV);
    if (!node)
        node = bb_sole_producer(graph, value, BB_OP_CONV_TRANSPOSE);
    return node ? node : bb_sole_producer(graph, value, BB_OP_GEMM);
}

/* The data input of the affine node, or -1 where the node is none. */
static int affine_side(const bb_graph *graph, const bb_node *node) {
    if (node->op == BB_OP_BATCH_NORMALIZATION)
        return 0;
    if (node->op != BB_OP_ADD && node->op != BB_OP_SUB && node->op != BB_OP_MUL &&
        node->op != BB_OP_DIV)
        return -1;
    for (int side = 0; side < 2; side++)
        if (!graph->values[node->in[side]].data && graph->values[node->in[1 - side]].data)
            return side;
    return -1;
}

static bb_status fold_affine(bb_graph *graph, size_t index, bool *changed, bb_error *err) {
    bb_node *node = &graph->nodes[index];
    weight_view v;
    int side = affine_side(graph, node);
    bb_node *conv = side < 0 ? NULL : product_before(graph, node->in[side]);
    if (!conv || !view_weights(graph, conv, &v) || !foldable_product(graph, conv, &v))
        return BB_STATUS_OK;
    line l = {0};
    bb_status status = BB_STATUS_OK;
    if (!line_alloc(&l, v.channels))
        status = bb_fail_memory(err, node->name);
    else if (node->op == BB_OP_BATCH_NORMALIZATION ? batch_norm_line(graph, node, &l)
                                                   : arithmetic_line(graph, node, side, &l)) {
        status = fold_line(graph, conv, &v, &l, err);
        node = &graph->nodes[index];
        *changed = bb_bypass(graph, node, node->in[side]) || *changed;
    }
    line_free(&l);
    return status;
}

bb_status bb_pass_fold_batch_norm(bb_graph *graph, bb_error *err) {
    bool changed = false;
    return bb_apply(graph, fold_affine, &changed, err);
}
