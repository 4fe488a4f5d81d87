/* SPDX-License-Identifier: Apache-2.0 */
/* Functions of one tensor, in whatever layout it has: Relu by own loops, common ones by oneDNN, the
 * rest by a table of functions and their derivatives. */
#include "nn/clones.h"
#include "nn/gradient_internal.h"
#include <math.h>
#include <string.h>

static bb_status finish(bb_gradient *g, const bb_node *node, const bb_dn_layout *layout, int buffer,
                        bb_error *err) {
    const bb_nn_tensor *x = bb_nn_input(g->ex, node, 0);
    BB_TRY(bb_nn_define(g->ex, node->out[0], BB_DTYPE_F32, x->rank, x->dims, err));
    return bb_nn_store(g->ex, node->out[0], layout, buffer, err);
}

/* ---- Relu: its result says where the gradient passes ----------------------------------------- */

BB_CLONES static void relu(const float *x, float *y, size_t n) {
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] > 0.0f ? x[i] : 0.0f;
}

BB_CLONES static void relu_backward(const float *y, const float *dy, float *dx, size_t n) {
    for (size_t i = 0; i < n; i++)
        dx[i] = y[i] > 0.0f ? dy[i] : 0.0f;
}

static void run_relu(const bb_nn_step *step, size_t begin, size_t end) {
    relu((const float *)step->data[0] + begin, (float *)step->data[1] + begin, end - begin);
}

static void run_relu_backward(const bb_nn_step *step, size_t begin, size_t end) {
    relu_backward((const float *)step->data[0] + begin, (const float *)step->data[1] + begin,
                  (float *)step->data[2] + begin, end - begin);
}

bb_status bb_grad_relu_backward(bb_gradient *g, const bb_node *node, int value, int *buffer,
                                bool *writable, bb_error *err) {
    const bb_dn_layout *layout = bb_nn_layout(g->ex, value);
    bb_nn_arg args[3] = {{g->ex->tensors[value].forms->buffer, 0}, {0, 0}, {0, 0}};
    if (!layout)
        return bb_fail_memory(err, "Relu");
    BB_TRY(bb_grad_read(g, value, layout, &args[1].buffer, writable, err));
    *buffer = args[1].buffer;
    if (*buffer < 0)
        return BB_STATUS_OK;
    if (!*writable)
        BB_TRY(bb_nn_new_buffer(g->ex, bb_dn_bytes(layout), buffer, err));
    args[2].buffer = *buffer;
    *writable = true;
    return bb_grad_emit_range(g, node, run_relu_backward, bb_dn_bytes(layout) / sizeof(float), NULL,
                              args, 3, err);
}

static bb_status relu_node_backward(bb_gradient *g, const bb_grad_entry *entry, bb_error *err) {
    const bb_node *node = entry->node;
    int buffer;
    bool writable;
    BB_TRY(bb_grad_relu_backward(g, node, node->out[0], &buffer, &writable, err));
    if (buffer < 0)
        return BB_STATUS_OK;
    return bb_grad_add(g, node->in[0], bb_nn_layout(g->ex, node->out[0]), buffer, err);
}

static bb_status build_relu(bb_gradient *g, const bb_node *node, const bb_dn_layout *layout,
                            bb_error *err) {
    int src = g->ex->tensors[node->in[0]].forms->buffer;
    bb_nn_arg args[2] = {{src, 0}, {src, 0}};
    if (!bb_grad_may_overwrite(g, node->in[0]))
        BB_TRY(bb_nn_new_buffer(g->ex, bb_dn_bytes(layout), &args[1].buffer, err));
    BB_TRY(bb_grad_emit_range(g, node, run_relu, bb_dn_bytes(layout) / sizeof(float), NULL, args, 2,
                              err));
    BB_TRY(finish(g, node, layout, args[1].buffer, err));
    bb_grad_save(g, node->out[0]);
    return bb_grad_push(g, node, relu_node_backward, NULL, err);
}

/* ---- oneDNN ---------------------------------------------------------------------------------- */

typedef struct function_state {
    bb_dn_post post;
    const bb_dn_layout *layout;
    int src;
} function_state;

static bb_status function_backward(bb_gradient *g, const bb_grad_entry *entry, bb_error *err) {
    const function_state *s = entry->state;
    const bb_node *node = entry->node;
    bb_nn_arg args[3] = {{s->src, BB_DN_SRC}, {0, BB_DN_DIFF_DST}, {0, BB_DN_DIFF_SRC}};
    bool writable;
    bb_dn_op *op;
    BB_TRY(bb_grad_read(g, node->out[0], s->layout, &args[1].buffer, &writable, err));
    if (args[1].buffer < 0)
        return BB_STATUS_OK;
    args[2].buffer = args[1].buffer;
    if (!writable)
        BB_TRY(bb_nn_new_buffer(g->ex, bb_dn_bytes(s->layout), &args[2].buffer, err));
    BB_TRY(bb_dn_make_function_backward(g->ex->dn, &s->post, s->layout, &op, err));
    BB_TRY(bb_nn_emit_op(g->ex, node, op, args, 3, err));
    return bb_grad_add(g, node->in[0], s->layout, args[2].buffer, err);
}

static bb_status build_post(bb_gradient *g, const bb_node *node, const bb_dn_layout *layout,
                            const bb_dn_post *post, bb_error *err) {
    function_state *s = bb_grad_alloc(g, 1, sizeof(*s));
    bb_nn_arg args[2] = {{0, BB_DN_SRC}, {0, BB_DN_DST}};
    bb_dn_op *op;
    if (!s)
        return bb_fail_memory(err, "elementwise function");
    *s = (function_state){*post, layout, g->ex->tensors[node->in[0]].forms->buffer};
    args[0].buffer = s->src;
    BB_TRY(bb_dn_make_function(g->ex->dn, post, layout, &op, err));
    BB_TRY(bb_nn_new_buffer(g->ex, bb_dn_bytes(layout), &args[1].buffer, err));
    BB_TRY(bb_nn_emit_op(g->ex, node, op, args, 2, err));
    bb_grad_save(g, node->in[0]);
    BB_TRY(finish(g, node, layout, args[1].buffer, err));
    return bb_grad_push(g, node, function_backward, s, err);
}

/* ---- the table ------------------------------------------------------------------------------- */

/* p: up to two attributes. Derivatives at a kink are those of one side. */
typedef struct own_function {
    bb_op op;
    float (*value)(float x, const float *p);
    float (*slope)(float x, const float *p);
    struct {
        const char *attribute;
        float absent;
    } p[2];
} own_function;

static float sigmoid(float x) {
    return 1.0f / (1.0f + expf(-x));
}
static float hard_sigmoid(float x, const float *p) {
    float y = p[0] * x + p[1];
    return y < 0.0f ? 0.0f : y > 1.0f ? 1.0f : y;
}
static float hard_sigmoid_slope(float x, const float *p) {
    float y = p[0] * x + p[1];
    return y > 0.0f && y < 1.0f ? p[0] : 0.0f;
}
static float softplus(float x, const float *p) {
    return x > 0.0f ? x + log1pf(expf(-x)) : log1pf(expf(x));
}
static float softplus_slope(float x, const float *p) {
    return sigmoid(x);
}
static float softsign(float x, const float *p) {
    return x / (1.0f + fabsf(x));
}
static float softsign_slope(float x, const float *p) {
    float d = 1.0f + fabsf(x);
    return 1.0f / (d * d);
}
static float selu(float x, const float *p) {
    return p[1] * (x > 0.0f ? x : p[0] * expm1f(x));
}
static float selu_slope(float x, const float *p) {
    return p[1] * (x > 0.0f ? 1.0f : p[0] * expf(x));
}
static float celu(float x, const float *p) {
    return x > 0.0f ? x : p[0] * expm1f(x / p[0]);
}
static float celu_slope(float x, const float *p) {
    return x > 0.0f ? 1.0f : expf(x / p[0]);
}
static float thresholded(float x, const float *p) {
    return x > p[0] ? x : 0.0f;
}
static float thresholded_slope(float x, const float *p) {
    return x > p[0] ? 1.0f : 0.0f;
}
static float absolute(float x, const float *p) {
    return fabsf(x);
}
static float absolute_slope(float x, const float *p) {
    return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : 0.0f;
}
static float negative(float x, const float *p) {
    return -x;
}
static float negative_slope(float x, const float *p) {
    return -1.0f;
}
static float exponential(float x, const float *p) {
    return expf(x);
}
static float logarithm(float x, const float *p) {
    return logf(x);
}
static float reciprocal(float x, const float *p) {
    return 1.0f / x;
}
static float reciprocal_slope(float x, const float *p) {
    return -1.0f / (x * x);
}
static float root(float x, const float *p) {
    return sqrtf(x);
}
static float root_slope(float x, const float *p) {
    return 0.5f / sqrtf(x);
}
static float error_function(float x, const float *p) {
    return erff(x);
}
static float error_function_slope(float x, const float *p) {
    return 1.1283791671f * expf(-x * x);
}
static float sine(float x, const float *p) {
    return sinf(x);
}
static float cosine(float x, const float *p) {
    return cosf(x);
}
static float cosine_slope(float x, const float *p) {
    return -sinf(x);
}
static float arc_tangent(float x, const float *p) {
    return atanf(x);
}
static float arc_tangent_slope(float x, const float *p) {
    return 1.0f / (1.0f + x * x);
}

static float power(float x, const float *p) {
    return p[0] == 2.0f ? x * x : powf(x, p[0]);
}
static float power_slope(float x, const float *p) {
    return p[0] == 2.0f ? 2.0f * x : p[0] * powf(x, p[0] - 1.0f);
}

static const own_function table[] = {
    {BB_OP_POW, power, power_slope, {{NULL, 0.0f}, {NULL, 0.0f}}}, /* p[0]: the exponent */
    {BB_OP_HARD_SIGMOID, hard_sigmoid, hard_sigmoid_slope, {{"alpha", 0.2f}, {"beta", 0.5f}}},
    {BB_OP_SOFTPLUS, softplus, softplus_slope, {{NULL, 0.0f}, {NULL, 0.0f}}},
    {BB_OP_SOFTSIGN, softsign, softsign_slope, {{NULL, 0.0f}, {NULL, 0.0f}}},
    {BB_OP_SELU, selu, selu_slope, {{"alpha", 1.67326319f}, {"gamma", 1.05070102f}}},
    {BB_OP_CELU, celu, celu_slope, {{"alpha", 1.0f}, {NULL, 0.0f}}},
    {BB_OP_THRESHOLDED_RELU, thresholded, thresholded_slope, {{"alpha", 1.0f}, {NULL, 0.0f}}},
    {BB_OP_ABS, absolute, absolute_slope, {{NULL, 0.0f}, {NULL, 0.0f}}},
    {BB_OP_NEG, negative, negative_slope, {{NULL, 0.0f}, {NULL, 0.0f}}},
    {BB_OP_EXP, exponential, exponential, {{NULL, 0.0f}, {NULL, 0.0f}}},
    {BB_OP_LOG, logarithm, reciprocal, {{NULL, 0.0f}, {NULL, 0.0f}}},
    {BB_OP_RECIPROCAL, reciprocal, reciprocal_slope, {{NULL, 0.0f}, {NULL, 0.0f}}},
    {BB_OP_SQRT, root, root_slope, {{NULL, 0.0f}, {NULL, 0.0f}}},
    {BB_OP_ERF, error_function, error_function_slope, {{NULL, 0.0f}, {NULL, 0.0f}}},
    {BB_OP_SIN, sine, cosine, {{NULL, 0.0f}, {NULL, 0.0f}}},
    {BB_OP_COS, cosine, cosine_slope, {{NULL, 0.0f}, {NULL, 0.0f}}},
    {BB_OP_ATAN, arc_tangent, arc_tangent_slope, {{NULL, 0.0f}, {NULL, 0.0f}}},
};

typedef struct own_state {
    const own_function *function;
    float p[2];
    const bb_dn_layout *layout;
    int src;
} own_state;

static void run_own(const bb_nn_step *step, size_t begin, size_t end) {
    const own_state *s = bb_grad_range_state(step);
    const float *x = step->data[0];
    float *y = step->data[1];
    for (size_t i = begin; i < end; i++)
        y[i] = s->function->value(x[i], s->p);
}

/* Where nothing flows, nothing must come of an infinite derivative (unused channels). */
static void run_own_backward(const bb_nn_step *step, size_t begin, size_t end) {
    const own_state *s = bb_grad_range_state(step);
    const float *x = step->data[0], *dy = step->data[1];
    float *dx = step->data[2];
    for (size_t i = begin; i < end; i++)
        dx[i] = dy[i] == 0.0f ? 0.0f : dy[i] * s->function->slope(x[i], s->p);
}

static bb_status own_backward(bb_gradient *g, const bb_grad_entry *entry, bb_error *err) {
    own_state *s = entry->state;
    bb_nn_arg args[3] = {{s->src, 0}, {0, 0}, {0, 0}};
    bool writable;
    BB_TRY(bb_grad_read(g, entry->node->out[0], s->layout, &args[1].buffer, &writable, err));
    if (args[1].buffer < 0)
        return BB_STATUS_OK;
    args[2].buffer = args[1].buffer;
    if (!writable)
        BB_TRY(bb_nn_new_buffer(g->ex, bb_dn_bytes(s->layout), &args[2].buffer, err));
    BB_TRY(bb_grad_emit_range(g, entry->node, run_own_backward,
                              bb_dn_bytes(s->layout) / sizeof(float), s, args, 3, err));
    return bb_grad_add(g, entry->node->in[0], s->layout, args[2].buffer, err);
}

static bb_status build_own(bb_gradient *g, const bb_node *node, const bb_dn_layout *layout,
                           const own_function *function, bb_error *err) {
    own_state *s = bb_grad_alloc(g, 1, sizeof(*s));
    bb_nn_arg args[2] = {{0, 0}, {0, 0}};
    if (!s)
        return bb_fail_memory(err, "elementwise function");
    s->function = function;
    s->layout = layout;
    s->src = args[0].buffer = g->ex->tensors[node->in[0]].forms->buffer;
    for (int i = 0; i < 2; i++)
        if (function->p[i].attribute)
            s->p[i] = bb_node_float(node, function->p[i].attribute, function->p[i].absent);
    if (node->op == BB_OP_POW) {
        const float *exponent = bb_nn_fixed_f32(g->ex, node, 1);
        if (!exponent || bb_nn_input(g->ex, node, 1)->elements != 1)
            return bb_fail(err, BB_STATUS_UNSUPPORTED, "the exponent is not one constant number");
        s->p[0] = *exponent;
    }
    BB_TRY(bb_nn_new_buffer(g->ex, bb_dn_bytes(layout), &args[1].buffer, err));
    BB_TRY(
        bb_grad_emit_range(g, node, run_own, bb_dn_bytes(layout) / sizeof(float), s, args, 2, err));
    BB_TRY(bb_grad_emit_clear(g, layout, args[1].buffer, err));
    bb_grad_save(g, node->in[0]);
    BB_TRY(finish(g, node, layout, args[1].buffer, err));
    return bb_grad_push(g, node, own_backward, s, err);
}

bb_status bb_grad_build_function(bb_gradient *g, const bb_node *node, bb_error *err) {
    bb_executor *ex = g->ex;
    bb_dn_posts posts = {0};
    const bb_nn_tensor *x = bb_nn_input(ex, node, 0);
    if (!x || x->dtype != BB_DTYPE_F32 || x->elements == 0 || !bb_grad_wants(g, node, 0))
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "no gradient of this operator is known");
    const bb_dn_layout *layout = bb_nn_layout(ex, node->in[0]);
    if (!layout)
        return bb_fail_memory(err, "elementwise function");
    if (node->op == BB_OP_RELU)
        return build_relu(g, node, layout, err);
    for (size_t i = 0; i < BB_COUNT(table); i++)
        if (table[i].op == node->op)
            return build_own(g, node, layout, &table[i], err);
    if (bb_nn_function_posts(ex, node, node->in[0], x->rank, &posts) && posts.n == 1 &&
        posts.post[0].function != BB_DN_ROUND)
        return build_post(g, node, layout, &posts.post[0], err);
    return bb_fail(err, BB_STATUS_UNSUPPORTED, "no gradient of this operator is known");
}
