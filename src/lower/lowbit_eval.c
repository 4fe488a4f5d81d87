/* SPDX-License-Identifier: Apache-2.0 */
/* Values as functions of one root: evaluation with the source's own operators, direction, and
 * affine form. */
#include "lower/lowbit.h"
#include <math.h>
#include <string.h>

uint32_t bb_lb_channels(const bb_lowbit *l, int value) {
    const bb_value *v = &l->graph->values[value];
    return v->rank >= 2 && v->dims[1] > 0 ? (uint32_t)v->dims[1] : 1;
}

/* Operators of one element, and which way they go: see bb_lb_directions. */
static bool is_elementwise(bb_op op) {
    switch (op) {
    case BB_OP_ABS:
    case BB_OP_ADD:
    case BB_OP_BATCH_NORMALIZATION:
    case BB_OP_CAST:
    case BB_OP_CEIL:
    case BB_OP_CLIP:
    case BB_OP_DEQUANTIZE_LINEAR:
    case BB_OP_DIV:
    case BB_OP_DROPOUT:
    case BB_OP_ELU:
    case BB_OP_ERF:
    case BB_OP_EXP:
    case BB_OP_FLOOR:
    case BB_OP_GELU:
    case BB_OP_HARD_SIGMOID:
    case BB_OP_HARD_SWISH:
    case BB_OP_IDENTITY:
    case BB_OP_LEAKY_RELU:
    case BB_OP_LOG:
    case BB_OP_MAX:
    case BB_OP_MIN:
    case BB_OP_MISH:
    case BB_OP_MUL:
    case BB_OP_NEG:
    case BB_OP_POW:
    case BB_OP_PRELU:
    case BB_OP_QUANTIZE_LINEAR:
    case BB_OP_RELU:
    case BB_OP_ROUND:
    case BB_OP_SELU:
    case BB_OP_SIGMOID:
    case BB_OP_SIGN:
    case BB_OP_SOFTPLUS:
    case BB_OP_SOFTSIGN:
    case BB_OP_SQRT:
    case BB_OP_SUB:
    case BB_OP_TANH:
    case BB_OP_THRESHOLDED_RELU:
    case BB_OP_QONNX_QUANT:
    case BB_OP_QONNX_BIPOLAR_QUANT:
    case BB_OP_QONNX_TRUNC:
    case BB_OP_QONNX_MULTI_THRESHOLD:
        return true;
    default:
        return false;
    }
}

/* [N,C,1,1] <-> [N,C] only changes the rank. */
static bool is_rank_change(const bb_lowbit *l, const bb_node *node) {
    if (node->op != BB_OP_RESHAPE && node->op != BB_OP_FLATTEN && node->op != BB_OP_SQUEEZE &&
        node->op != BB_OP_UNSQUEEZE)
        return false;
    int64_t from[4], to[4];
    return bb_image_dims(&l->graph->values[node->in[0]], from) &&
           bb_image_dims(&l->graph->values[node->out[0]], to) &&
           memcmp(from, to, sizeof(from)) == 0;
}

/* Gather from a constant list: a function of the index. */
static bool is_table(bb_lowbit *l, const bb_node *node) {
    const bb_array *table =
        node->op == BB_OP_GATHER && node->n_in == 2 ? bb_lb_constant(l, node->in[0]) : NULL;
    return table && table->rank == 1;
}

/* A parameter holds one number, or one per channel of `value`, or (axis 0) a row per channel. */
static bool broadcasts(const bb_lowbit *l, const bb_node *node, int i, const bb_array *k,
                       int value) {
    const bb_value *v = &l->graph->values[value];
    size_t n = bb_lb_elements(k);
    if (n == 1)
        return true;
    int64_t channels = v->rank >= 2 ? v->dims[1] : -1;
    if (node->op == BB_OP_QONNX_MULTI_THRESHOLD)
        return k->rank == 2 && (k->dims[0] == 1 || k->dims[0] == channels);
    if (node->op == BB_OP_BATCH_NORMALIZATION)
        return (int64_t)n == channels;
    if (node->op == BB_OP_QUANTIZE_LINEAR || node->op == BB_OP_DEQUANTIZE_LINEAR) {
        int64_t axis = bb_node_int(node, "axis", 1);
        return (int64_t)n == channels && k->rank == 1 && (axis < 0 ? axis + v->rank : axis) == 1;
    }
    int axis = k->rank - (v->rank - 1);
    return (int64_t)n == channels && axis >= 0 && k->dims[axis] == channels && i >= 0;
}

bool bb_lb_elementwise(bb_lowbit *l, const bb_node *node, int *root) {
    *root = -1;
    if (node->n_in < 1 || node->n_out < 1)
        return false;
    if (is_rank_change(l, node)) {
        *root = l->root_of[node->in[0]];
        return *root >= 0;
    }
    if (!is_elementwise(node->op) && !is_table(l, node))
        return false;
    if (node->op == BB_OP_BATCH_NORMALIZATION && node->n_in != 5)
        return false;
    int dynamic = -1;
    for (int i = 0; i < node->n_in; i++) {
        int in = node->in[i];
        if (in < 0 || bb_lb_constant(l, in))
            continue;
        if (l->root_of[in] < 0 || (*root >= 0 && l->root_of[in] != *root))
            return false;
        *root = l->root_of[in];
        dynamic = in;
    }
    for (int i = 0; i < node->n_in && dynamic >= 0; i++) {
        const bb_array *k = node->in[i] < 0 ? NULL : bb_lb_constant(l, node->in[i]);
        if (k && !is_table(l, node) && !broadcasts(l, node, i, k, dynamic))
            return false;
    }
    return dynamic >= 0;
}

/* ---- the chain of nodes between the root and a value ---------------------------------------- */

typedef struct chain {
    int *nodes; /* ascending = topological; NULL = the value is the root */
    size_t n;
} chain;

static void mark_producer(const bb_lowbit *l, int value, int root_value, bool *marked) {
    int producer = l->graph->values[value].producer;
    if (value != root_value && producer >= 0 && l->root_of[value] >= 0)
        marked[producer] = true;
}

/* Nodes are in topological order, so one pass backwards reaches all. */
static void mark_chain(const bb_lowbit *l, int value, int root_value, bool *marked) {
    mark_producer(l, value, root_value, marked);
    for (int i = l->graph->values[value].producer; i >= 0; i--)
        for (int k = 0; marked[i] && k < l->graph->nodes[i].n_in; k++)
            if (l->graph->nodes[i].in[k] >= 0)
                mark_producer(l, l->graph->nodes[i].in[k], root_value, marked);
}

static bb_status find_chain(bb_lowbit *l, int value, chain *c) {
    bool *marked = bb_calloc_array(l->graph->n_nodes, sizeof(*marked));
    c->nodes = bb_alloc_array(l->graph->n_nodes, sizeof(*c->nodes));
    c->n = 0;
    if (marked && c->nodes) {
        mark_chain(l, value, l->roots[l->root_of[value]].value, marked);
        for (size_t i = 0; i < l->graph->n_nodes; i++)
            if (marked[i])
                c->nodes[c->n++] = (int)i;
    }
    bb_free(marked);
    return marked && c->nodes ? BB_STATUS_OK : bb_fail_memory(l->err, "an operator chain");
}

/* ---- evaluation ----------------------------------------------------------------------------- */

/* A parameter of channel c: one number for all, or one each. */
static double parameter(const bb_array *a, size_t c) {
    return bb_lb_element(a, bb_lb_elements(a) == 1 ? 0 : c);
}

/* BatchNormalization as ONNX defines it, in float32, operation by operation. */
static void batch_norm(bb_lowbit *l, const bb_node *node, uint32_t channels, bb_array *x) {
    const bb_array *scale = bb_lb_constant(l, node->in[1]), *bias = bb_lb_constant(l, node->in[2]);
    const bb_array *mean = bb_lb_constant(l, node->in[3]), *var = bb_lb_constant(l, node->in[4]);
    float epsilon = bb_node_float(node, "epsilon", 1e-5f);
    float *data = x->data;
    size_t n = bb_lb_elements(x);
    for (size_t i = 0; i < n; i++) {
        size_t c = i % channels;
        float centred = data[i] - (float)parameter(mean, c);
        float unit = centred / sqrtf((float)parameter(var, c) + epsilon);
        data[i] = unit * (float)parameter(scale, c) + (float)parameter(bias, c);
    }
}

static void shape_points(const bb_lowbit *l, int value, size_t n, uint32_t channels, bb_array *a) {
    a->rank = l->graph->values[value].rank == 4 ? 4 : 2;
    a->dims[0] = (int64_t)n;
    a->dims[1] = channels;
    a->dims[2] = a->dims[3] = 1;
}

static bb_status run_node(bb_lowbit *l, const bb_node *node, size_t n, uint32_t channels,
                          bb_arena *arena) {
    bb_array in[BB_MAX_NODE_INPUTS] = {{0}}, out[2] = {{0}};
    if (node->n_in > BB_MAX_NODE_INPUTS)
        return bb_lb_fail(l, node, "it has too many inputs");
    for (int i = 0; i < node->n_in; i++) {
        if (node->in[i] < 0)
            continue;
        const bb_array *k = bb_lb_constant(l, node->in[i]);
        in[i] = k ? *k : l->slots[node->in[i]];
    }
    bb_array *result = &l->slots[node->out[0]];
    if (is_rank_change(l, node) || node->op == BB_OP_DROPOUT) {
        *result = in[0];
        shape_points(l, node->out[0], n, channels, result);
        return BB_STATUS_OK;
    }
    if (node->op == BB_OP_BATCH_NORMALIZATION) {
        *result = in[0];
        result->data = bb_arena_alloc(arena, n * channels * sizeof(float));
        if (!result->data || in[0].dtype != BB_DTYPE_F32)
            return bb_lb_fail(l, node, "its input is not float32");
        memcpy(result->data, in[0].data, n * channels * sizeof(float));
        batch_norm(l, node, channels, result);
        return BB_STATUS_OK;
    }
    BB_TRY(bb_eval_node(l->graph, node, in, out, arena, l->err));
    *result = out[0];
    return BB_STATUS_OK;
}

static bb_status root_points(bb_lowbit *l, const bb_root *root, const int64_t *z, size_t n,
                             uint32_t channels, bb_arena *arena) {
    bb_array *a = &l->slots[root->value];
    bool wide = l->graph->values[root->value].dtype == BB_DTYPE_F64;
    void *data = bb_arena_array(arena, n * channels, wide ? sizeof(double) : sizeof(float));
    if (!data)
        return bb_fail_memory(l->err, "evaluation points");
    for (size_t i = 0; i < n * channels; i++) {
        size_t c = root->channels == 1 ? 0 : i % channels;
        double x = (double)z[i] * root->scale[c] + root->bias[c];
        if (wide)
            ((double *)data)[i] = x;
        else
            ((float *)data)[i] = (float)x;
    }
    *a = (bb_array){.dtype = wide ? BB_DTYPE_F64 : BB_DTYPE_F32, .data = data};
    shape_points(l, root->value, n, channels, a);
    return BB_STATUS_OK;
}

static bb_status evaluate_chain(bb_lowbit *l, const chain *c, const bb_root *root, int value,
                                const int64_t *z, size_t n, uint32_t channels, float *out) {
    bb_arena *arena = bb_arena_create();
    bb_status status = arena ? root_points(l, root, z, n, channels, arena)
                             : bb_fail_memory(l->err, "evaluation points");
    for (size_t i = 0; i < c->n && status == BB_STATUS_OK; i++)
        status = run_node(l, &l->graph->nodes[c->nodes[i]], n, channels, arena);
    const bb_array *result = &l->slots[value];
    if (status == BB_STATUS_OK && bb_lb_elements(result) != n * channels)
        status = bb_fail(l->err, BB_STATUS_INTERNAL, "%s: value '%s' is not elementwise",
                         l->graph->name, l->graph->values[value].name);
    for (size_t i = 0; i < n * channels && status == BB_STATUS_OK; i++)
        out[i] = (float)bb_lb_element(result, i);
    bb_arena_destroy(arena);
    return status;
}

bb_status bb_lb_evaluate(bb_lowbit *l, int value, const int64_t *z, size_t n, uint32_t channels,
                         float *out) {
    chain c;
    const bb_root root = l->roots[l->root_of[value]];
    bb_status status = find_chain(l, value, &c);
    if (status == BB_STATUS_OK)
        status = evaluate_chain(l, &c, &root, value, z, n, channels, out);
    bb_free(c.nodes);
    return status;
}

/* ---- properties of the chain ---------------------------------------------------------------- */

bool bb_lb_uniform(bb_lowbit *l, int value) {
    const bb_root *root = &l->roots[l->root_of[value]];
    chain c;
    if (root->channels != 1 || find_chain(l, value, &c) != BB_STATUS_OK)
        return false;
    bool uniform = true;
    for (size_t i = 0; i < c.n; i++) {
        const bb_node *node = &l->graph->nodes[c.nodes[i]];
        if (is_rank_change(l, node) || is_table(l, node))
            continue;
        for (int k = 0; k < node->n_in; k++) {
            const bb_array *a = node->in[k] < 0 ? NULL : bb_lb_constant(l, node->in[k]);
            bool row = node->op == BB_OP_QONNX_MULTI_THRESHOLD && a && a->dims[0] == 1;
            uniform = uniform && (!a || bb_lb_elements(a) == 1 || row);
        }
    }
    bb_free(c.nodes);
    return uniform;
}

static int8_t sign_of(double x) {
    return (int8_t)((x > 0) - (x < 0));
}

/* Direction of an operator with one dynamic input at position `at`. */
static int8_t unary_direction(bb_lowbit *l, const bb_node *node, int at, size_t c) {
    const bb_array *other = NULL;
    if (node->n_in == 2 && node->in[1 - at] >= 0)
        other = bb_lb_constant(l, node->in[1 - at]);
    switch (node->op) {
    case BB_OP_NEG:
        return -1;
    case BB_OP_MUL:
        return other ? sign_of(parameter(other, c)) : 2;
    case BB_OP_DIV:
        return other && at == 0 ? sign_of(parameter(other, c)) : 2;
    case BB_OP_SUB:
        return at == 0 ? 1 : -1;
    case BB_OP_BATCH_NORMALIZATION:
        return sign_of(parameter(bb_lb_constant(l, node->in[1]), c));
    case BB_OP_PRELU:
        return other && parameter(other, c) >= 0 ? 1 : 2;
    case BB_OP_LEAKY_RELU:
        return bb_node_float(node, "alpha", 0.01f) >= 0 ? 1 : 2;
    case BB_OP_ELU:
    case BB_OP_THRESHOLDED_RELU:
        return bb_node_float(node, "alpha", 1.0f) >= 0 ? 1 : 2;
    case BB_OP_QONNX_MULTI_THRESHOLD:
        return bb_node_float(node, "out_scale", 1.0f) >= 0 ? 1 : 2;
    case BB_OP_ABS:
    case BB_OP_GATHER:
    case BB_OP_GELU:
    case BB_OP_HARD_SWISH:
    case BB_OP_MISH:
    case BB_OP_POW:
    case BB_OP_SELU:
        return 2;
    default:
        return at == 0 || node->op == BB_OP_ADD || node->op == BB_OP_MIN || node->op == BB_OP_MAX
                   ? 1
                   : 2;
    }
}

/* Two inputs of the same root: sums, minima and maxima of functions that go the same way. */
static int8_t combined(bb_op op, int8_t a, int8_t b) {
    if (op == BB_OP_SUB)
        b = b == 2 ? 2 : (int8_t)-b;
    else if (op != BB_OP_ADD && op != BB_OP_MIN && op != BB_OP_MAX)
        return 2;
    if (a == 2 || b == 2 || a * b < 0)
        return 2;
    return a ? a : b;
}

static void node_directions(bb_lowbit *l, const bb_node *node, uint32_t channels,
                            int8_t *const *by_value) {
    int8_t *out = by_value[node->out[0]];
    int first = -1, second = -1;
    for (int i = 0; i < node->n_in; i++) {
        if (node->in[i] < 0 || !by_value[node->in[i]])
            continue;
        *(first < 0 ? &first : &second) = i;
    }
    bool plain = is_rank_change(l, node);
    for (uint32_t c = 0; c < channels; c++) {
        int8_t a = by_value[node->in[first]][c];
        if (second >= 0) {
            out[c] = node->n_in == 2 ? combined(node->op, a, by_value[node->in[second]][c]) : 2;
            continue;
        }
        int8_t d = plain ? 1 : unary_direction(l, node, first, c);
        out[c] = a == 0 || d == 0 ? 0 : a == 2 || d == 2 ? 2 : (int8_t)(a * d);
    }
}

static bb_status chain_directions(bb_lowbit *l, const chain *c, int value, uint32_t channels,
                                  int8_t *direction, bb_arena *arena) {
    const bb_root *root = &l->roots[l->root_of[value]];
    int8_t **by_value = bb_arena_array(arena, l->graph->n_values, sizeof(*by_value));
    int8_t *first = bb_arena_alloc(arena, channels);
    if (!by_value || !first)
        return bb_fail_memory(l->err, "an operator chain");
    for (uint32_t i = 0; i < channels; i++)
        first[i] = sign_of(root->scale[root->channels == 1 ? 0 : i]);
    by_value[root->value] = first;
    for (size_t i = 0; i < c->n; i++) {
        const bb_node *node = &l->graph->nodes[c->nodes[i]];
        by_value[node->out[0]] = bb_arena_alloc(arena, channels);
        if (!by_value[node->out[0]])
            return bb_fail_memory(l->err, "an operator chain");
        node_directions(l, node, channels, by_value);
    }
    memcpy(direction, by_value[value], channels);
    return BB_STATUS_OK;
}

bb_status bb_lb_directions(bb_lowbit *l, int value, uint32_t channels, int8_t *direction) {
    chain c;
    bb_arena *arena = bb_arena_create();
    bb_status status = arena ? find_chain(l, value, &c) : bb_fail_memory(l->err, "a chain");
    if (status == BB_STATUS_OK)
        status = chain_directions(l, &c, value, channels, direction, arena);
    if (arena)
        bb_free(c.nodes);
    bb_arena_destroy(arena);
    return status;
}

/* ---- affine form ---------------------------------------------------------------------------- */

static bool affine_batch_norm(bb_lowbit *l, const bb_node *node, uint32_t channels, double *scale,
                              double *bias) {
    double epsilon = (double)bb_node_float(node, "epsilon", 1e-5f);
    for (uint32_t c = 0; c < channels; c++) {
        double gain = parameter(bb_lb_constant(l, node->in[1]), c) /
                      sqrt(parameter(bb_lb_constant(l, node->in[4]), c) + epsilon);
        scale[c] *= gain;
        bias[c] = (bias[c] - parameter(bb_lb_constant(l, node->in[3]), c)) * gain +
                  parameter(bb_lb_constant(l, node->in[2]), c);
    }
    return true;
}

static bool affine_node(bb_lowbit *l, const bb_node *node, uint32_t channels, double *scale,
                        double *bias) {
    if (is_rank_change(l, node) || node->op == BB_OP_IDENTITY || node->op == BB_OP_DROPOUT)
        return true;
    if (node->op == BB_OP_CAST)
        return true;
    if (node->op == BB_OP_BATCH_NORMALIZATION)
        return affine_batch_norm(l, node, channels, scale, bias);
    if (node->op != BB_OP_NEG && (node->n_in != 2 || node->in[0] < 0 || node->in[1] < 0))
        return false;
    const bb_array *k = NULL;
    int side = 0;
    for (int i = 0; i < node->n_in && node->op != BB_OP_NEG; i++)
        if (bb_lb_constant(l, node->in[i])) {
            k = bb_lb_constant(l, node->in[i]);
            side = i;
        }
    if (!k && node->op != BB_OP_NEG)
        return false;
    for (uint32_t c = 0; c < channels; c++) {
        double gain = -1, shift = 0; /* Neg */
        if (k && !bb_affine_of_op(node->op, side, parameter(k, c), &gain, &shift))
            return false;
        scale[c] *= gain;
        bias[c] = bias[c] * gain + shift;
    }
    return true;
}

/* gain*x + shift is a whole number wherever the root can be. */
static bool whole_numbers(const bb_root *root, uint32_t channels, const double *gain,
                          const double *shift) {
    for (uint32_t i = 0; i < channels; i++) {
        uint32_t c = root->channels == 1 ? 0 : i;
        double first = (double)root->low[c] * root->scale[c] + root->bias[c];
        double low = gain[i] * first + shift[i];
        double step = gain[i] * root->scale[c] * (double)root->stride;
        if (low != floor(low) || step != floor(step))
            return false;
    }
    return root->kind != BB_ROOT_PAIR && root->kind != BB_ROOT_FLOAT;
}

bool bb_lb_gain(bb_lowbit *l, int value, double *gain, double *shift) {
    uint32_t channels = bb_lb_channels(l, value);
    chain c;
    if (find_chain(l, value, &c) != BB_STATUS_OK)
        return false;
    for (uint32_t i = 0; i < channels; i++) {
        gain[i] = 1;
        shift[i] = 0;
    }
    const bb_root *root = &l->roots[l->root_of[value]];
    bool affine = true;
    for (size_t i = 0; i < c.n && affine; i++) {
        const bb_node *node = &l->graph->nodes[c.nodes[i]];
        bool rounds =
            node->op == BB_OP_CAST && !bb_dtype_is_float(l->graph->values[node->out[0]].dtype);
        affine = rounds ? whole_numbers(root, channels, gain, shift)
                        : affine_node(l, node, channels, gain, shift);
    }
    bb_free(c.nodes);
    return affine;
}

bool bb_lb_affine(bb_lowbit *l, int value, double *scale, double *bias) {
    const bb_root *root = &l->roots[l->root_of[value]];
    if (root->kind == BB_ROOT_FLOAT || root->kind == BB_ROOT_TAPS ||
        !bb_lb_gain(l, value, scale, bias))
        return false;
    for (uint32_t i = 0; i < bb_lb_channels(l, value); i++) {
        uint32_t c = root->channels == 1 ? 0 : i;
        bias[i] += scale[i] * root->bias[c];
        scale[i] *= root->scale[c];
    }
    return true;
}
