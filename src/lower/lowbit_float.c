/* SPDX-License-Identifier: Apache-2.0 */
/* Float tensors of values: results, and the inputs of what stays float. */
#include "lower/lowbit.h"
#include <math.h>
#include <string.h>

enum { MAX_DEPTH = 1000 }; /* of recursion over float operators: bounds the stack */

bb_status bb_lb_float_node(bb_lowbit *l, const bb_node *source, bb_float_op op, int n_in,
                           const int *in, int out, const char *reason, bb_model_node **node) {
    BB_TRY(bb_lb_node(l, source->name, "", BB_NODE_FLOAT, n_in, in, 1, &out, node));
    (*node)->float_op = op;
    (*node)->reason = reason;
    return BB_STATUS_OK;
}

/* y = (float)(Z1*scale + Z2*scale2 + bias) as one more output of the root's node. */
static bb_status float_output(bb_lowbit *l, const bb_root *root, int value, const double *scale,
                              const double *bias, int *tensor) {
    bool uniform = root->channels == 1 && bb_lb_uniform(l, value);
    uint32_t channels = uniform ? 1 : bb_lb_channels(l, value);
    bb_arena *arena = l->model->arena;
    float *tables = bb_arena_array(arena, 3 * (size_t)channels, sizeof(*tables));
    if (!tables)
        return bb_fail_memory(l->err, "requantizers");
    float *s1 = tables, *s2 = tables + channels, *b = tables + 2 * (size_t)channels;
    bool second = root->kind == BB_ROOT_ADD || root->kind == BB_ROOT_PAIR;
    for (uint32_t c = 0; c < channels; c++) {
        uint32_t from = root->channels == 1 ? 0 : c;
        double gain = root->scale[from] != 0 ? scale[c] / root->scale[from] : 1;
        s1[c] = (float)(root->kind == BB_ROOT_ADD       ? scale[c] * root->k1
                        : root->kind == BB_ROOT_AVERAGE ? scale[c] * (double)root->count
                                                        : scale[c]);
        s2[c] = (float)(root->kind == BB_ROOT_ADD    ? scale[c] * root->k2
                        : root->kind == BB_ROOT_PAIR ? gain * root->scale2[from]
                                                     : 0);
        b[c] = (float)bias[c];
    }
    BB_TRY(bb_lb_tensor(l, value, "#float", NULL, tensor));
    l->params[*tensor].requant = (bb_requant){.kind = BB_REQUANT_FLOAT,
                                              .channels = channels,
                                              .scale = s1,
                                              .scale2 = second ? s2 : NULL,
                                              .bias = b};
    bb_model_node *node;
    if (root->kind == BB_ROOT_CODES)
        return bb_lb_node(l, l->graph->values[value].name, "/dequantize", BB_NODE_REQUANT, 1,
                          &root->tensor, 1, tensor, &node);
    node = &l->model->nodes[root->node];
    if (node->n_out == BB_MAX_NODE_OUTPUTS)
        return bb_fail(l->err, BB_STATUS_LIMIT, "%s: node '%s' has too many different uses",
                       l->graph->name, node->name);
    node->out[node->n_out++] = *tensor;
    return BB_STATUS_OK;
}

static bb_status affine_output(bb_lowbit *l, int value, int *tensor) {
    const bb_root root = l->roots[l->root_of[value]];
    uint32_t channels = bb_lb_channels(l, value);
    double *scale = bb_alloc_array(2 * (size_t)channels, sizeof(*scale));
    *tensor = -1;
    if (!scale)
        return bb_fail_memory(l->err, "requantizers");
    bb_status status = BB_STATUS_OK;
    bool usable = root.flat_pixels == 0 || root.channels == 1;
    if (usable && bb_lb_affine(l, value, scale, scale + channels))
        status = float_output(l, &root, value, scale, scale + channels, tensor);
    bb_free(scale);
    return status;
}

static bb_status dequantized(bb_lowbit *l, int value, int *tensor) {
    bb_lb_codes codes;
    *tensor = -1;
    BB_TRY(bb_lb_codes_of(l, value, BB_MAX_CODE_BITS, &codes));
    if (codes.tensor < 0)
        return BB_STATUS_OK;
    float *tables = bb_arena_array(l->model->arena, 2, sizeof(*tables));
    if (!tables)
        return bb_fail_memory(l->err, "requantizers");
    tables[0] = (float)(codes.grid.unit / 2);
    BB_TRY(bb_lb_tensor(l, value, "#float", NULL, tensor));
    l->params[*tensor].requant =
        (bb_requant){.kind = BB_REQUANT_FLOAT, .channels = 1, .scale = tables, .bias = tables + 1};
    bb_model_node *node;
    return bb_lb_node(l, l->graph->values[value].name, "/dequantize", BB_NODE_REQUANT, 1,
                      &codes.tensor, 1, tensor, &node);
}

/* ---- float operators ------------------------------------------------------------------------ */

static bool activation_op(const bb_node *node, const bb_activation *act, bb_float_op *op) {
    switch (act->kind) {
    case BB_ACTIVATION_CLIP:
        *op = BB_FLOAT_RELU;
        return true;
    case BB_ACTIVATION_LEAKY:
        *op = BB_FLOAT_LEAKY_RELU;
        return true;
    default:
        *op = node->op == BB_OP_SIGMOID        ? BB_FLOAT_SIGMOID
              : node->op == BB_OP_HARD_SIGMOID ? BB_FLOAT_HARD_SIGMOID
              : node->op == BB_OP_HARD_SWISH   ? BB_FLOAT_HARD_SWISH
                                               : BB_FLOAT_TANH;
        return *op != BB_FLOAT_TANH || node->op == BB_OP_TANH;
    }
}

static bb_status float_activation(bb_lowbit *l, const bb_node *node, const bb_activation *act,
                                  bb_float_op op, int *tensor) {
    int in;
    bb_model_node *made;
    BB_TRY(bb_lb_real_of(l, node->in[0], &in));
    BB_TRY(bb_lb_tensor(l, node->out[0], "#float", NULL, tensor));
    BB_TRY(bb_lb_float_node(l, node, op, 1, &in, *tensor, "works on floats in the source", &made));
    made->alpha = act->kind == BB_ACTIVATION_CLIP ? act->lo : (float)act->alpha;
    made->beta = act->kind == BB_ACTIVATION_CLIP ? act->hi : (float)act->beta;
    if (act->kind != BB_ACTIVATION_LEAKY)
        return BB_STATUS_OK;
    return bb_lower_set_slopes(l->model, act, made, l->err);
}

static double parameter(const bb_array *a, size_t c) {
    return bb_lb_element(a, bb_lb_elements(a) == 1 ? 0 : c);
}

/* scale and bias of Add, Sub, Mul, Div with a constant, or BatchNormalization. */
static bool affine_tables(bb_lowbit *l, const bb_node *node, uint32_t channels, float *scale,
                          float *bias, int *data) {
    const bb_array *k[5] = {NULL};
    for (int i = 0; i < node->n_in && i < 5; i++)
        k[i] = node->in[i] >= 0 ? bb_lb_constant(l, node->in[i]) : NULL;
    bool norm = node->op == BB_OP_BATCH_NORMALIZATION;
    if (norm && (!k[1] || !k[2] || !k[3] || !k[4]))
        return false;
    int side = k[0] ? 0 : 1;
    *data = node->in[norm ? 0 : 1 - side];
    if (!norm && (node->n_in != 2 || !k[side] || k[1 - side]))
        return false;
    for (uint32_t c = 0; c < channels; c++) {
        double gain, shift;
        if (norm) {
            gain = parameter(k[1], c) /
                   sqrt(parameter(k[4], c) + (double)bb_node_float(node, "epsilon", 1e-5f));
            shift = parameter(k[2], c) - parameter(k[3], c) * gain;
        } else if (!bb_affine_of_op(node->op, side, parameter(k[side], c), &gain, &shift)) {
            return false;
        }
        scale[c] = (float)gain;
        bias[c] = (float)shift;
    }
    return true;
}

static bb_status float_affine(bb_lowbit *l, const bb_node *node, int *tensor, bool *done) {
    uint32_t channels = bb_lb_channels(l, node->out[0]);
    float *tables = bb_arena_array(l->model->arena, 2 * (size_t)channels, sizeof(*tables));
    int data, in;
    if (!tables)
        return bb_fail_memory(l->err, "float scales");
    *done = affine_tables(l, node, channels, tables, tables + channels, &data);
    if (!*done)
        return BB_STATUS_OK;
    bb_model_node *made;
    BB_TRY(bb_lb_real_of(l, data, &in));
    BB_TRY(bb_lb_tensor(l, node->out[0], "#float", NULL, tensor));
    BB_TRY(bb_lb_float_node(l, node, BB_FLOAT_AFFINE, 1, &in, *tensor,
                            "works on floats in the source", &made));
    made->float_weights = tables;
    made->float_bias = tables + channels;
    made->n_float_weights = made->n_float_bias = channels;
    return BB_STATUS_OK;
}

static bb_status float_pair(bb_lowbit *l, const bb_node *node, int *tensor) {
    int in[2];
    bb_model_node *made;
    BB_TRY(bb_lb_real_of(l, node->in[0], &in[0]));
    BB_TRY(bb_lb_real_of(l, node->in[1], &in[1]));
    BB_TRY(bb_lb_tensor(l, node->out[0], "#float", NULL, tensor));
    return bb_lb_float_node(l, node, node->op == BB_OP_MUL ? BB_FLOAT_MUL : BB_FLOAT_ADD, 2, in,
                            *tensor, "works on floats in the source", &made);
}

static bb_status float_reshape(bb_lowbit *l, const bb_node *node, int *tensor) {
    int in;
    bb_model_node *made;
    BB_TRY(bb_lb_real_of(l, node->in[0], &in));
    BB_TRY(bb_lb_tensor(l, node->out[0], "#float", NULL, tensor));
    return bb_lb_float_node(l, node, BB_FLOAT_RESHAPE, 1, &in, *tensor, "its input is float",
                            &made);
}

static bb_status float_operator(bb_lowbit *l, int value, int *tensor) {
    int producer = l->graph->values[value].producer;
    if (producer < 0)
        return bb_fail(l->err, BB_STATUS_UNSUPPORTED, "%s: value '%s' has no float form",
                       l->graph->name, l->graph->values[value].name);
    const bb_node *node = &l->graph->nodes[producer];
    bb_activation act;
    bb_float_op op;
    bool done = false;
    if (node->op == BB_OP_IDENTITY || node->op == BB_OP_DROPOUT)
        return bb_lb_real_of(l, node->in[0], tensor);
    if (bb_activation_of_node(l->graph, node, &act) && activation_op(node, &act, &op))
        return float_activation(l, node, &act, op, tensor);
    BB_TRY(float_affine(l, node, tensor, &done));
    if (done)
        return BB_STATUS_OK;
    if ((node->op == BB_OP_ADD || node->op == BB_OP_MUL) && node->n_in == 2)
        return float_pair(l, node, tensor);
    if (bb_is_movement(node->op) && l->graph->values[node->in[0]].rank == 4 &&
        l->graph->values[value].rank == 2)
        return float_reshape(l, node, tensor);
    return bb_lb_fail(l, node, "no layer computes it, and no quantizer follows it");
}

bb_status bb_lb_real_of(bb_lowbit *l, int value, int *tensor) {
    *tensor = l->real[value];
    if (*tensor >= 0)
        return BB_STATUS_OK;
    if (l->root_of[value] < 0)
        return bb_fail(l->err, BB_STATUS_UNSUPPORTED, "%s: value '%s' has no float form",
                       l->graph->name, l->graph->values[value].name);
    const bb_root root = l->roots[l->root_of[value]];
    if (root.kind == BB_ROOT_FLOAT && value == root.value)
        *tensor = root.tensor;
    else if (root.kind != BB_ROOT_FLOAT)
        BB_TRY(affine_output(l, value, tensor));
    if (*tensor < 0)
        BB_TRY(dequantized(l, value, tensor));
    if (*tensor < 0) {
        if (l->depth == MAX_DEPTH)
            return bb_fail(l->err, BB_STATUS_LIMIT, "%s: more than %d float operators in a row",
                           l->graph->name, MAX_DEPTH);
        l->depth++;
        BB_TRY(float_operator(l, value, tensor));
        l->depth--;
    }
    l->real[value] = *tensor;
    return BB_STATUS_OK;
}
