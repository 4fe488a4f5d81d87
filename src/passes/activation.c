/* SPDX-License-Identifier: Apache-2.0 */
/* Activations written out as arithmetic -> the operator they are. */
#include "passes/rewrite.h"
#include <math.h>

/* The input of a commutative node that is the number `wanted` (NaN: any number); the other one is
 * *x. */
static bool number_and_x(const bb_graph *graph, const bb_node *node, double wanted, double *number,
                         int *x) {
    for (int side = 0; side < 2 && node->n_in == 2; side++) {
        if (!bb_constant_number(graph, node->in[side], number) ||
            graph->values[node->in[1 - side]].data)
            continue;
        /* A constant of higher rank would add dimensions. */
        if (graph->values[node->in[side]].rank > graph->values[node->in[1 - side]].rank)
            continue;
        *x = node->in[1 - side];
        return isnan(wanted) || fabs(*number - wanted) < 1e-6 * fabs(wanted);
    }
    return false;
}

static bool clip_limits(const bb_graph *graph, const bb_node *node, double *lo, double *hi) {
    *lo = -INFINITY;
    *hi = INFINITY;
    return (!bb_node_has_input(node, 1) || bb_constant_number(graph, node->in[1], lo)) &&
           (!bb_node_has_input(node, 2) || bb_constant_number(graph, node->in[2], hi));
}

/* Clip(x + 3, 0, 6): the node must be read only here. */
static bool is_relu6_of_plus_3(const bb_graph *graph, int value, int *x) {
    double lo, hi, three;
    const bb_node *clip = bb_sole_producer(graph, value, BB_OP_CLIP);
    if (!clip || !clip_limits(graph, clip, &lo, &hi) || lo != 0 || hi != 6)
        return false;
    const bb_node *add = bb_sole_producer(graph, clip->in[0], BB_OP_ADD);
    return add && number_and_x(graph, add, 3, &three, x);
}

/* value / 6, written as Div by 6 or Mul by 1/6. */
static bool is_sixth(const bb_graph *graph, const bb_node *node, int *of) {
    double number;
    if (node->op == BB_OP_MUL)
        return number_and_x(graph, node, 1.0 / 6, &number, of);
    *of = node->in[0];
    return node->op == BB_OP_DIV && !graph->values[node->in[0]].data &&
           bb_constant_number(graph, node->in[1], &number) && number == 6 &&
           graph->values[node->in[1]].rank <= graph->values[node->in[0]].rank;
}

static bb_status to_hard_swish(bb_graph *graph, bb_node *node, int x, bool *changed,
                               bb_error *err) {
    *changed = true;
    return bb_turn_into(graph, node, BB_OP_HARD_SWISH, 1, &x) ? BB_STATUS_OK
                                                              : bb_fail_memory(err, node->name);
}

/* clip(x + 3, 0, 6) / 6, or x * clip(x + 3, 0, 6) / 6 with the division last. */
static bb_status rewrite_sixth(bb_graph *graph, bb_node *node, bool *changed, bb_error *err) {
    int of, x;
    if (!is_sixth(graph, node, &of))
        return BB_STATUS_OK;
    if (is_relu6_of_plus_3(graph, of, &x)) {
        *changed = true;
        if (!bb_turn_into(graph, node, BB_OP_HARD_SIGMOID, 1, &x) ||
            !bb_node_set_float(graph, node, "alpha", 1.0f / 6) ||
            !bb_node_set_float(graph, node, "beta", 0.5f))
            return bb_fail_memory(err, node->name);
        return BB_STATUS_OK;
    }
    const bb_node *mul = bb_sole_producer(graph, of, BB_OP_MUL);
    for (int side = 0; mul && side < 2; side++)
        if (is_relu6_of_plus_3(graph, mul->in[side], &x) && x == mul->in[1 - side])
            return to_hard_swish(graph, node, x, changed, err);
    return BB_STATUS_OK;
}

/* x * HardSigmoid(x) with slope 1/6 and offset 1/2. */
static bb_status rewrite_hard_swish(bb_graph *graph, bb_node *node, bool *changed, bb_error *err) {
    for (int side = 0; side < 2; side++) {
        const bb_node *gate = bb_sole_producer(graph, node->in[side], BB_OP_HARD_SIGMOID);
        if (gate && gate->in[0] == node->in[1 - side] &&
            fabs(bb_node_float(gate, "alpha", 0.2f) - 1.0 / 6) < 1e-6 &&
            bb_node_float(gate, "beta", 0.5f) == 0.5f)
            return to_hard_swish(graph, node, gate->in[0], changed, err);
    }
    return BB_STATUS_OK;
}

static bb_status min_max_to_clip(bb_graph *graph, bb_node *node, bool *changed, bb_error *err) {
    double number;
    int x;
    if (!number_and_x(graph, node, NAN, &number, &x) || graph->values[x].dtype != BB_DTYPE_F32)
        return BB_STATUS_OK;
    bool is_min = node->op == BB_OP_MIN;
    float *limit;
    int value = bb_add_floats(graph, node, "limit", 0, NULL, &limit);
    if (value < 0)
        return bb_fail_memory(err, node->name);
    *limit = (float)number;
    int in[3] = {x, is_min ? -1 : value, value};
    *changed = true;
    return bb_turn_into(graph, node, BB_OP_CLIP, is_min ? 3 : 2, in)
               ? BB_STATUS_OK
               : bb_fail_memory(err, node->name);
}

static bb_status clip_to_relu(bb_graph *graph, bb_node *node, bool *changed, bb_error *err) {
    double lo, hi;
    if (!clip_limits(graph, node, &lo, &hi) || lo != 0 || hi < 3.4e38)
        return BB_STATUS_OK;
    int x = node->in[0];
    *changed = true;
    return bb_turn_into(graph, node, BB_OP_RELU, 1, &x) ? BB_STATUS_OK
                                                        : bb_fail_memory(err, node->name);
}

/* Clip of Relu, Relu of Clip, Clip of Clip: one Clip. */
static bb_status merge_clips(bb_graph *graph, bb_node *node, bool *changed, bb_error *err) {
    const bb_node *inner = bb_sole_producer(graph, node->in[0], BB_OP_CLIP);
    double lo, hi, inner_lo = 0, inner_hi = INFINITY;
    if (!inner)
        inner = bb_sole_producer(graph, node->in[0], BB_OP_RELU);
    if (!inner || graph->values[inner->in[0]].dtype != BB_DTYPE_F32)
        return BB_STATUS_OK;
    if (node->op == BB_OP_RELU) {
        lo = 0;
        hi = INFINITY;
    } else if (!clip_limits(graph, node, &lo, &hi)) {
        return BB_STATUS_OK;
    }
    if (inner->op == BB_OP_CLIP && !clip_limits(graph, inner, &inner_lo, &inner_hi))
        return BB_STATUS_OK;
    lo = fmax(lo, inner_lo);
    hi = fmin(hi, inner_hi);
    if (!(lo <= hi)) /* the order would matter */
        return BB_STATUS_OK;
    float *limits[2];
    int in[3] = {inner->in[0], bb_add_floats(graph, node, "lo", 0, NULL, &limits[0]), -1};
    in[2] = bb_add_floats(graph, node, "hi", 0, NULL, &limits[1]);
    if (in[1] < 0 || in[2] < 0 || !bb_turn_into(graph, node, BB_OP_CLIP, 3, in))
        return bb_fail_memory(err, node->name);
    *limits[0] = (float)lo;
    *limits[1] = (float)hi;
    *changed = true;
    return BB_STATUS_OK;
}

static bb_status sum_to_add(bb_graph *graph, bb_node *node, bool *changed, bb_error *err) {
    (void)graph;
    (void)err;
    if (node->n_in == 2) {
        node->op = BB_OP_ADD;
        *changed = true;
    }
    return BB_STATUS_OK;
}

static bool same_known_dims(const bb_value *a, const bb_value *b) {
    bool same = a->rank >= 1 && a->rank == b->rank;
    for (int i = 0; i < a->rank && same; i++)
        same = a->dims[i] >= 0 && a->dims[i] == b->dims[i];
    return same;
}

/* Softmax as opsets below 13 define it, where only the last axis was meant. */
static bb_status flat_softmax(bb_graph *graph, bb_node *node, bool *changed, bb_error *err) {
    const bb_node *soft = bb_sole_producer(graph, node->in[0], BB_OP_SOFTMAX);
    if (!soft)
        soft = bb_sole_producer(graph, node->in[0], BB_OP_LOG_SOFTMAX);
    const bb_node *flat = soft ? bb_sole_producer(graph, soft->in[0], BB_OP_FLATTEN) : NULL;
    if (!flat || bb_node_int(soft, "axis", -1) != -1)
        return BB_STATUS_OK;
    const bb_value *x = &graph->values[flat->in[0]];
    int in[1] = {flat->in[0]};
    if (!same_known_dims(x, &graph->values[node->out[0]]) ||
        bb_node_int(flat, "axis", 1) != x->rank - 1)
        return BB_STATUS_OK;
    if (!bb_turn_into(graph, node, soft->op, 1, in) || !bb_node_set_int(graph, node, "axis", -1))
        return bb_fail_memory(err, node->name);
    *changed = true;
    return BB_STATUS_OK;
}

bb_status bb_rewrite_activation(bb_graph *graph, size_t index, bool *changed, bb_error *err) {
    bb_node *node = &graph->nodes[index];
    switch (node->op) {
    case BB_OP_MIN:
    case BB_OP_MAX:
        return min_max_to_clip(graph, node, changed, err);
    case BB_OP_CLIP:
        BB_TRY(merge_clips(graph, node, changed, err));
        return clip_to_relu(graph, node, changed, err);
    case BB_OP_RELU:
        return merge_clips(graph, node, changed, err);
    case BB_OP_RESHAPE:
        return flat_softmax(graph, node, changed, err);
    case BB_OP_SUM:
        return sum_to_add(graph, node, changed, err);
    case BB_OP_DIV:
        return rewrite_sixth(graph, node, changed, err);
    case BB_OP_MUL:
        BB_TRY(rewrite_sixth(graph, node, changed, err));
        return node->op == BB_OP_MUL ? rewrite_hard_swish(graph, node, changed, err) : BB_STATUS_OK;
    default:
        return BB_STATUS_OK;
    }
}

bool bb_node_is_silu(const bb_graph *graph, const bb_node *node, int *sigmoid) {
    for (int side = 0; side < 2 && node->op == BB_OP_MUL; side++) {
        const bb_node *gate = bb_sole_producer(graph, node->in[side], BB_OP_SIGMOID);
        if (gate && gate->in[0] == node->in[1 - side]) {
            *sigmoid = (int)(gate - graph->nodes);
            return true;
        }
    }
    return false;
}
