/* SPDX-License-Identifier: Apache-2.0 */
#include "nn/program.h"
#include <float.h>
#include <string.h>

static void push(bb_dn_posts *posts, bb_dn_function function, float alpha, float beta) {
    posts->post[posts->n++] = (bb_dn_post){function, alpha, beta};
}

/* A bound of Clip: left out = no bound; one that is not known yet is not fusible. */
static bool clip_bound(bb_executor *ex, const bb_node *node, int i, float absent, float *bound) {
    *bound = absent;
    if (!bb_nn_input(ex, node, i))
        return true;
    const float *fixed = bb_nn_fixed_f32(ex, node, i);
    if (fixed && ex->tensors[node->in[i]].elements == 1)
        *bound = fixed[0];
    return fixed != NULL;
}

/* Arithmetic with one number, as far as it is exact whether or not oneDNN fuses the two steps. */
static bool linear_post(bb_executor *ex, const bb_node *node, int value, int rank,
                        bb_dn_posts *posts) {
    if (node->n_in != 2 || node->in[0] == node->in[1])
        return false;
    int other = node->in[0] == value ? 1 : 0;
    const float *fixed = bb_nn_fixed_f32(ex, node, other);
    const bb_nn_tensor *constant = bb_nn_input(ex, node, other);
    if (!fixed || constant->elements != 1 || constant->rank > rank)
        return false;
    switch (node->op) {
    case BB_OP_ADD:
    case BB_OP_SUM:
        push(posts, BB_DN_LINEAR, 1.0f, fixed[0]);
        return true;
    case BB_OP_SUB:
        push(posts, BB_DN_LINEAR, other == 1 ? 1.0f : -1.0f, other == 1 ? -fixed[0] : fixed[0]);
        return true;
    case BB_OP_MUL:
        push(posts, BB_DN_LINEAR, fixed[0], 0.0f);
        return true;
    default:
        return false;
    }
}

bool bb_nn_function_posts(bb_executor *ex, const bb_node *node, int value, int rank,
                          bb_dn_posts *posts) {
    float low, high;
    const char *mode;
    if (posts->n + 2 > BB_DN_MAX_POSTS)
        return false;
    if (linear_post(ex, node, value, rank, posts))
        return true;
    if (node->in[0] != value)
        return false;
    switch (node->op) {
    case BB_OP_RELU:
        push(posts, BB_DN_RELU, 0.0f, 0.0f);
        return true;
    case BB_OP_LEAKY_RELU:
        push(posts, BB_DN_RELU, bb_node_float(node, "alpha", 0.01f), 0.0f);
        return true;
    case BB_OP_CLIP:
        if (!clip_bound(ex, node, 1, -FLT_MAX, &low) || !clip_bound(ex, node, 2, FLT_MAX, &high) ||
            low > high)
            return false;
        push(posts, BB_DN_CLIP, low, high);
        return true;
    case BB_OP_SIGMOID:
        push(posts, BB_DN_LOGISTIC, 0.0f, 0.0f);
        return true;
    case BB_OP_TANH:
        push(posts, BB_DN_TANH, 0.0f, 0.0f);
        return true;
    case BB_OP_ELU:
        push(posts, BB_DN_ELU, bb_node_float(node, "alpha", 1.0f), 0.0f);
        return true;
    case BB_OP_HARD_SWISH:
        push(posts, BB_DN_HARD_SWISH, 0.0f, 0.0f);
        return true;
    case BB_OP_HARD_SIGMOID:
        push(posts, BB_DN_LINEAR, bb_node_float(node, "alpha", 0.2f),
             bb_node_float(node, "beta", 0.5f));
        push(posts, BB_DN_CLIP, 0.0f, 1.0f);
        return true;
    case BB_OP_MISH:
        push(posts, BB_DN_MISH, 0.0f, 0.0f);
        return true;
    case BB_OP_ROUND:
        push(posts, BB_DN_ROUND, 0.0f, 0.0f);
        return true;
    case BB_OP_GELU:
        mode = bb_node_string(node, "approximate", "none");
        push(posts, strcmp(mode, "tanh") == 0 ? BB_DN_GELU_TANH : BB_DN_GELU_ERF, 0.0f, 0.0f);
        return true;
    default:
        return false;
    }
}

/* The node that alone reads `value`, or -1 where its contents are wanted for themselves. */
static int only_reader(const bb_executor *ex, int value) {
    const bb_nn_tensor *tensor = &ex->tensors[value];
    return tensor->uses_left == 1 && !tensor->is_output && !tensor->tapped ? tensor->reader : -1;
}

static bool foldable_norm(bb_executor *ex, const bb_node *node, int value, int64_t channels) {
    if (node->op != BB_OP_BATCH_NORMALIZATION || node->n_in != 5 || node->in[0] != value ||
        bb_node_int(node, "training_mode", 0) != 0)
        return false;
    for (int i = 1; i < 5; i++) {
        const bb_nn_tensor *tensor = bb_nn_input(ex, node, i);
        if (!bb_nn_fixed_f32(ex, node, i) || (int64_t)tensor->elements != channels)
            return false;
    }
    return true;
}

/* The other operand of an Add where it is a computed f32 tensor of the same dims, or -1. */
static int sum_operand(bb_executor *ex, const bb_node *node, int value, int rank,
                       const int64_t *dims) {
    if ((node->op != BB_OP_ADD && node->op != BB_OP_SUM) || node->n_in != 2)
        return -1;
    int other = node->in[0] == value ? node->in[1] : node->in[0];
    if (other < 0 || other == value)
        return -1;
    const bb_nn_tensor *tensor = &ex->tensors[other];
    bool same = tensor->known && !tensor->fixed && tensor->dtype == BB_DTYPE_F32 &&
                tensor->rank == rank &&
                memcmp(tensor->dims, dims, (size_t)rank * sizeof(*dims)) == 0;
    return same ? other : -1;
}

/* A sum is taken only as the first post-operation: oneDNN's fast kernels all do that. */
void bb_nn_collect(bb_executor *ex, int value, int rank, const int64_t *dims, bool norm, bool sum,
                   bb_nn_chain *chain) {
    *chain = (bb_nn_chain){.value = value, .sum = -1};
    for (;;) {
        int reader = only_reader(ex, chain->value);
        if (reader < 0 || ex->built[reader] || chain->n_nodes == (int)BB_COUNT(chain->nodes))
            return;
        const bb_node *node = &ex->graph->nodes[reader];
        if (node->n_out < 1 || node->out[0] < 0)
            return;
        if (norm && chain->n_nodes == 0 && foldable_norm(ex, node, chain->value, dims[1])) {
            chain->norm = node;
        } else if (sum && chain->posts.n == 0 &&
                   (chain->sum = sum_operand(ex, node, chain->value, rank, dims)) >= 0) {
            push(&chain->posts, BB_DN_SUM, 1.0f, 0.0f);
        } else if (!bb_nn_function_posts(ex, node, chain->value, rank, &chain->posts)) {
            return;
        }
        chain->nodes[chain->n_nodes++] = reader;
        chain->value = node->out[0];
    }
}

void bb_nn_consume_chain(bb_executor *ex, const bb_nn_chain *chain) {
    for (int i = 0; i < chain->n_nodes; i++) {
        ex->built[chain->nodes[i]] = true;
        bb_nn_consume(ex, &ex->graph->nodes[chain->nodes[i]]);
    }
}
