/* SPDX-License-Identifier: Apache-2.0 */
/* Activations that a block takes in: recognition in the graph and the functions behind TABLE. */
#include "lower/blocks.h"

#include <math.h>

static double fn_sigmoid(double x, double alpha, double beta) {
    return 1.0 / (1.0 + exp(-x));
}
static double fn_hard_sigmoid(double x, double alpha, double beta) {
    return fmin(fmax(alpha * x + beta, 0.0), 1.0);
}
static double fn_hard_swish(double x, double alpha, double beta) {
    return x * fn_hard_sigmoid(x, alpha, beta);
}
static double fn_silu(double x, double alpha, double beta) {
    return x / (1.0 + exp(-x));
}
static double fn_tanh(double x, double alpha, double beta) {
    return tanh(x);
}
static double fn_elu(double x, double alpha, double beta) {
    return x >= 0 ? x : alpha * expm1(x);
}
static double fn_selu(double x, double alpha, double beta) {
    return beta * fn_elu(x, alpha, 0);
}
static double fn_softplus(double x, double alpha, double beta) {
    return x > 30 ? x : log1p(exp(x));
}
static double fn_softsign(double x, double alpha, double beta) {
    return x / (1.0 + fabs(x));
}
static double fn_mish(double x, double alpha, double beta) {
    return x * tanh(fn_softplus(x, 0, 0));
}
static double fn_gelu(double x, double alpha, double beta) {
    return 0.5 * x * (1.0 + erf(x / sqrt(2.0)));
}
static double fn_gelu_tanh(double x, double alpha, double beta) {
    return 0.5 * x * (1.0 + tanh(sqrt(2.0 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
}

typedef double (*scalar_fn)(double x, double alpha, double beta);

static void set_table(bb_activation *act, scalar_fn fn, double alpha, double beta, bool monotone) {
    *act = (bb_activation){.kind = BB_ACTIVATION_TABLE,
                           .lo = -INFINITY,
                           .hi = INFINITY,
                           .function = fn,
                           .alpha = alpha,
                           .beta = beta,
                           .monotone = monotone};
}

static void set_clip(bb_activation *act, float lo, float hi) {
    *act = (bb_activation){.kind = BB_ACTIVATION_CLIP, .lo = lo, .hi = hi, .monotone = true};
}

static bool constant_scalar(const bb_graph *graph, const bb_node *node, int i, float absent,
                            float *out) {
    const bb_value *value = bb_node_input(graph, node, i);
    size_t n;
    *out = absent;
    if (!value)
        return true;
    if (!bb_value_is_constant(value) || value->dtype != BB_DTYPE_F32 ||
        !bb_value_elements(value, &n) || n != 1)
        return false;
    *out = *(const float *)value->data;
    return true;
}

/* PRelu slopes as one number or one per channel of a [C,1,1]-like constant. */
static bool match_prelu(const bb_graph *graph, const bb_node *node, bb_activation *act) {
    const bb_value *data = bb_node_input(graph, node, 0), *slope = bb_node_input(graph, node, 1);
    size_t n;
    if (!slope || !bb_value_is_constant(slope) || slope->dtype != BB_DTYPE_F32 ||
        !bb_value_elements(slope, &n) || data->rank < 2)
        return false;
    int64_t channels = data->dims[1];
    int axis = data->rank == 4 ? slope->rank - 3 : slope->rank - 1;
    if (n != 1 && ((int64_t)n != channels || axis < 0 || slope->dims[axis] != channels))
        return false;
    *act = (bb_activation){.kind = BB_ACTIVATION_LEAKY,
                           .lo = -INFINITY,
                           .hi = INFINITY,
                           .slopes = slope->data,
                           .n_slopes = n,
                           .monotone = true};
    for (size_t i = 0; i < n; i++)
        act->monotone = act->monotone && act->slopes[i] >= 0;
    return true;
}

static bool match_leaky(bb_graph *graph, const bb_node *node, bb_activation *act) {
    float *slope = bb_arena_alloc(graph->arena, sizeof(*slope));
    if (!slope)
        return false;
    *slope = bb_node_float(node, "alpha", 0.01f);
    *act = (bb_activation){.kind = BB_ACTIVATION_LEAKY,
                           .lo = -INFINITY,
                           .hi = INFINITY,
                           .slopes = slope,
                           .n_slopes = 1,
                           .monotone = *slope >= 0};
    return true;
}

bool bb_activation_of_node(bb_graph *graph, const bb_node *node, bb_activation *act) {
    float lo, hi;
    switch (node->op) {
    case BB_OP_RELU:
        set_clip(act, 0, INFINITY);
        return true;
    case BB_OP_CLIP:
        if (!constant_scalar(graph, node, 1, -INFINITY, &lo) ||
            !constant_scalar(graph, node, 2, INFINITY, &hi))
            return false;
        set_clip(act, lo, hi);
        return true;
    case BB_OP_LEAKY_RELU:
        return match_leaky(graph, node, act);
    case BB_OP_PRELU:
        return match_prelu(graph, node, act);
    case BB_OP_SIGMOID:
        set_table(act, fn_sigmoid, 0, 0, true);
        return true;
    case BB_OP_HARD_SIGMOID:
        set_table(act, fn_hard_sigmoid, (double)bb_node_float(node, "alpha", 0.2f),
                  (double)bb_node_float(node, "beta", 0.5f), true);
        return true;
    case BB_OP_HARD_SWISH:
        set_table(act, fn_hard_swish, 1.0 / 6, 0.5, false);
        return true;
    case BB_OP_TANH:
        set_table(act, fn_tanh, 0, 0, true);
        return true;
    case BB_OP_ELU:
        set_table(act, fn_elu, (double)bb_node_float(node, "alpha", 1.0f), 0, true);
        return true;
    case BB_OP_SELU:
        set_table(act, fn_selu, (double)bb_node_float(node, "alpha", 1.67326319217681884765625f),
                  (double)bb_node_float(node, "gamma", 1.05070102214813232421875f), true);
        return true;
    case BB_OP_SOFTPLUS:
        set_table(act, fn_softplus, 0, 0, true);
        return true;
    case BB_OP_SOFTSIGN:
        set_table(act, fn_softsign, 0, 0, true);
        return true;
    case BB_OP_MISH:
        set_table(act, fn_mish, 0, 0, false);
        return true;
    case BB_OP_GELU: {
        const char *form = bb_node_string(node, "approximate", "none");
        set_table(act, form[0] == 't' ? fn_gelu_tanh : fn_gelu, 0, 0, false);
        return true;
    }
    default:
        return false;
    }
}

/* x * f(x): the gate f and the product are one function of x. */
static bool gated(bb_graph *graph, const bb_node *gate, bb_activation *act) {
    if (gate->op == BB_OP_SIGMOID)
        set_table(act, fn_silu, 0, 0, false);
    else if (gate->op == BB_OP_HARD_SIGMOID)
        set_table(act, fn_hard_swish, (double)bb_node_float(gate, "alpha", 0.2f),
                  (double)bb_node_float(gate, "beta", 0.5f), false);
    else
        return false;
    return true;
}

int bb_sole_consumer(const bb_graph *graph, int value) {
    if (value < 0 || bb_graph_uses(graph, value) != 1)
        return -1;
    for (size_t i = 0; i < graph->n_nodes; i++)
        for (int k = 0; k < graph->nodes[i].n_in; k++)
            if (graph->nodes[i].in[k] == value)
                return (int)i;
    return -1;
}

/* The product x * f(x) where x is used by f and the product only; *gate_node gets f's node. */
static int find_gate(const bb_graph *graph, int value, int *gate_node) {
    if (bb_graph_uses(graph, value) != 2)
        return -1;
    for (size_t i = 0; i < graph->n_nodes; i++) {
        const bb_node *gate = &graph->nodes[i];
        if (gate->n_in < 1 || gate->in[0] != value ||
            (gate->op != BB_OP_SIGMOID && gate->op != BB_OP_HARD_SIGMOID))
            continue;
        int product = bb_sole_consumer(graph, gate->out[0]);
        if (product < 0 || graph->nodes[product].op != BB_OP_MUL)
            continue;
        const bb_node *mul = &graph->nodes[product];
        int other = mul->in[0] == gate->out[0] ? mul->in[1] : mul->in[0];
        if (other != value)
            continue;
        *gate_node = (int)i;
        return product;
    }
    return -1;
}

bool bb_match_activation(bb_graph *graph, int value, bb_activation *act, int nodes[2]) {
    nodes[0] = nodes[1] = -1;
    int gate = -1, product = find_gate(graph, value, &gate);
    if (product >= 0 && gated(graph, &graph->nodes[gate], act)) {
        nodes[0] = gate;
        nodes[1] = product;
        return true;
    }
    int consumer = bb_sole_consumer(graph, value);
    if (consumer < 0 || graph->nodes[consumer].in[0] != value)
        return false;
    if (!bb_activation_of_node(graph, &graph->nodes[consumer], act))
        return false;
    nodes[1] = consumer;
    return true;
}

bool bb_affine_of_op(bb_op op, int side, double v, double *gain, double *shift) {
    *gain = 1;
    *shift = 0;
    switch (op) {
    case BB_OP_MUL:
        *gain = v;
        return true;
    case BB_OP_DIV:
        *gain = 1 / v;
        return side == 1;
    case BB_OP_ADD:
        *shift = v;
        return true;
    case BB_OP_SUB:
        *gain = side == 1 ? 1 : -1;
        *shift = side == 1 ? -v : v;
        return true;
    default:
        return false;
    }
}
