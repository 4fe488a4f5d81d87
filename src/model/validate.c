/* SPDX-License-Identifier: Apache-2.0 */
/* What every profile shares: names, order, producers, node shapes, planes, float tables. */
#include "model/validate.h"
#include <math.h>
#include <string.h>

int64_t bb_tensor_channels(const bb_model_tensor *tensor) {
    return tensor->dims[tensor->rank - 1];
}

static bb_status fail_node(const bb_model_node *node, bb_error *err, const char *what) {
    return bb_fail(err, BB_STATUS_BAD_FILE, "node '%s': %s", node->name, what);
}

static bb_status check_name(const char *name, const char *what, size_t index, bb_error *err) {
    if (!name || strlen(name) > BB_MAX_NAME || !bb_utf8_valid(name))
        return bb_fail(err, BB_STATUS_BAD_FILE,
                       "%s %zu: its name is missing, too long or not UTF-8", what, index);
    return BB_STATUS_OK;
}

static bb_status check_text(const char *text, const char *what, bb_error *err) {
    if (text && !bb_utf8_valid(text))
        return bb_fail(err, BB_STATUS_BAD_FILE, "the %s are not UTF-8", what);
    return BB_STATUS_OK;
}

static bb_status check_counts(const bb_model *model, bb_error *err) {
    const struct {
        const char *what;
        size_t n, max;
    } counts[] = {
        {"tensors", model->n_tensors, BB_MAX_TENSORS},
        {"nodes", model->n_nodes, BB_MAX_NODES},
        {"profiles", model->n_profiles, BB_MAX_PROFILES},
        {"inputs", model->n_inputs, BB_MAX_TENSORS},
        {"outputs", model->n_outputs, BB_MAX_TENSORS},
    };
    for (size_t i = 0; i < BB_COUNT(counts); i++) {
        if (counts[i].n == 0)
            return bb_fail(err, BB_STATUS_BAD_FILE, "the model has no %s", counts[i].what);
        if (counts[i].n > counts[i].max)
            return bb_fail(err, BB_STATUS_LIMIT, "the model has %zu %s, more than %zu", counts[i].n,
                           counts[i].what, counts[i].max);
    }
    return BB_STATUS_OK;
}

static bb_status check_tensor(const bb_model_tensor *t, size_t index, bb_error *err) {
    BB_TRY(check_name(t->name, "tensor", index, err));
    if (t->kind != BB_TENSOR_CODE && t->kind != BB_TENSOR_FLOAT)
        return bb_fail(err, BB_STATUS_BAD_FILE, "tensor '%s': unknown kind %d", t->name,
                       (int)t->kind);
    if (t->rank != 2 && t->rank != 4)
        return bb_fail(err, BB_STATUS_BAD_FILE, "tensor '%s': rank %d is neither 2 nor 4", t->name,
                       t->rank);
    for (int i = 0; i < t->rank; i++) {
        bool open = t->dims[i] == -1 && i < t->rank - 1;
        if (!open && (t->dims[i] < 1 || t->dims[i] > BB_MAX_DIM))
            return bb_fail(err, BB_STATUS_BAD_FILE, "tensor '%s': dimension %lld out of 1..%d",
                           t->name, (long long)t->dims[i], BB_MAX_DIM);
    }
    return BB_STATUS_OK;
}

/* ---- windows --------------------------------------------------------------------------------- */

static bool within(int32_t value, int32_t low) {
    return value >= low && value <= BB_MAX_WINDOW;
}

static bb_status check_window(const bb_model_node *node, bool pool, bb_error *err) {
    const bb_geometry *g = &node->geometry;
    /* A kernel of 0x0 is the whole image; its stride and dilation do not matter. */
    int32_t low = pool && g->kernel[0] == 0 && g->kernel[1] == 0 ? 0 : 1;
    for (int i = 0; i < 2; i++)
        if (!within(g->kernel[i], low) || !within(g->stride[i], low) ||
            !within(g->dilation[i], low) || !within(g->pad_begin[i], 0) ||
            !within(g->pad_end[i], 0))
            return fail_node(node, err, "kernel, stride, dilation or padding out of range");
    if ((int64_t)g->kernel[0] * g->kernel[1] > BB_MAX_TAPS)
        return fail_node(node, err, "the window has too many taps");
    if (!pool && (g->ceil_mode || g->count_include_pad))
        return fail_node(node, err, "a convolution with pooling options");
    return BB_STATUS_OK;
}

/* ---- weights --------------------------------------------------------------------------------- */

static bb_status check_plane_weights(const bb_model_node *node, bb_error *err) {
    const bb_planes *planes = node->planes;
    int32_t sum = 0; /* <= 8 * 2^15 */
    for (uint32_t p = 0; p < planes->count; p++) {
        if (planes->weight[p] < 1)
            return fail_node(node, err, "a plane weight below 1");
        sum += planes->weight[p];
    }
    return sum > BB_MAX_WEIGHT ? fail_node(node, err, "plane weights are too large") : BB_STATUS_OK;
}

/* Kernels may count bits of whole words, so those beyond a row must be 0. */
static bb_status check_unused_bits(const bb_model_node *node, bb_error *err) {
    const bb_planes *planes = node->planes;
    uint32_t tail = planes->taps * planes->depth % 64;
    if (tail == 0)
        return BB_STATUS_OK;
    uint64_t unused = ~UINT64_C(0) << tail;
    size_t n = (size_t)planes->count * planes->rows;
    for (size_t i = 0; i < n; i++)
        if (planes->words[(i + 1) * planes->row_words - 1] & unused)
            return fail_node(node, err, "unused bits of a weight plane are set");
    return BB_STATUS_OK;
}

static bb_status check_planes(const bb_model_node *node, bb_error *err) {
    const bb_planes *planes = node->planes;
    if (!planes || !planes->words || planes->count < 1 || planes->count > BB_MAX_PLANES)
        return fail_node(node, err, "1..8 weight planes are needed");
    uint64_t row = (uint64_t)planes->taps * planes->depth;
    if (planes->rows < 1 || planes->rows > BB_MAX_DIM || row < 1 || row > BB_MAX_ROW ||
        planes->row_words != (row + 63) / 64)
        return fail_node(node, err, "weight planes of a wrong size");
    BB_TRY(check_plane_weights(node, err));
    return check_unused_bits(node, err);
}

static bb_status check_groups(const bb_model_node *node, int64_t cin, int64_t cout, bb_error *err) {
    if (node->groups < 1 || cin % node->groups != 0 || cout % node->groups != 0)
        return fail_node(node, err, "channels are not a multiple of its groups");
    return BB_STATUS_OK;
}

static bb_status check_conv(const bb_model_node *node, int64_t cin, int64_t cout, bb_error *err) {
    BB_TRY(check_window(node, false, err));
    BB_TRY(check_planes(node, err));
    BB_TRY(check_groups(node, cin, cout, err));
    const bb_planes *planes = node->planes;
    if (planes->taps != (uint32_t)(node->geometry.kernel[0] * node->geometry.kernel[1]) ||
        planes->depth != cin / node->groups || planes->rows != cout)
        return bb_fail(err, BB_STATUS_BAD_FILE,
                       "node '%s': weights %ux%ux%u do not fit %lld to %lld channels in %u groups",
                       node->name, planes->rows, planes->taps, planes->depth, (long long)cin,
                       (long long)cout, node->groups);
    return BB_STATUS_OK;
}

/* ---- float nodes ----------------------------------------------------------------------------- */

static bb_status check_table(const bb_model_node *node, const float *table, uint32_t n,
                             uint64_t wanted, bool optional, bb_error *err) {
    if (optional && n == 0)
        return table ? fail_node(node, err, "a float table without size") : BB_STATUS_OK;
    if (!table || n != wanted)
        return fail_node(node, err, "a float table of a wrong size");
    for (uint32_t i = 0; i < n; i++)
        if (!isfinite(table[i]))
            return fail_node(node, err, "a float table holds a value that is not finite");
    return BB_STATUS_OK;
}

static bb_status check_float_conv(const bb_model_node *node, int64_t cin, int64_t cout,
                                  bb_error *err) {
    BB_TRY(check_window(node, false, err));
    BB_TRY(check_groups(node, cin, cout, err));
    uint64_t row = (uint64_t)node->geometry.kernel[0] * (uint64_t)node->geometry.kernel[1] *
                   ((uint64_t)cin / node->groups);
    if (row > BB_MAX_ROW)
        return fail_node(node, err, "too many weights in a row");
    BB_TRY(check_table(node, node->float_weights, node->n_float_weights, row * (uint64_t)cout,
                       false, err));
    return check_table(node, node->float_bias, node->n_float_bias, (uint64_t)cout, true, err);
}

static bb_status check_float_tables(const bb_model_node *node, int64_t cin, int64_t cout,
                                    bb_error *err) {
    uint64_t c = (uint64_t)cin;
    switch (node->float_op) {
    case BB_FLOAT_CONV:
        return check_float_conv(node, cin, cout, err);
    case BB_FLOAT_AFFINE:
        BB_TRY(check_table(node, node->float_weights, node->n_float_weights, c, false, err));
        return check_table(node, node->float_bias, node->n_float_bias, c, true, err);
    case BB_FLOAT_LEAKY_RELU:
        BB_TRY(check_table(node, node->float_weights, node->n_float_weights, c, true, err));
        return check_table(node, node->float_bias, node->n_float_bias, 0, true, err);
    case BB_FLOAT_MAX_POOL:
    case BB_FLOAT_AVERAGE_POOL:
        BB_TRY(check_window(node, true, err));
        break;
    default:
        break;
    }
    BB_TRY(check_table(node, node->float_weights, node->n_float_weights, 0, true, err));
    return check_table(node, node->float_bias, node->n_float_bias, 0, true, err);
}

static bb_status check_float(const bb_model_node *node, int64_t cin, int64_t cout, bb_error *err) {
    if (node->float_op < BB_FLOAT_CONV || node->float_op > BB_FLOAT_AFFINE)
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "node '%s': unknown float operation %d",
                       node->name, (int)node->float_op);
    bool two = node->float_op == BB_FLOAT_ADD || node->float_op == BB_FLOAT_MUL;
    if (node->float_op != BB_FLOAT_CONCAT && node->n_in != (two ? 2 : 1))
        return fail_node(node, err, "wrong number of inputs");
    if (isnan(node->alpha) || isnan(node->beta))
        return fail_node(node, err, "a parameter that is not a number");
    if (node->reason && (!bb_utf8_valid(node->reason) || strlen(node->reason) > BB_MAX_NAME))
        return fail_node(node, err, "its reason is too long or not UTF-8");
    return check_float_tables(node, cin, cout, err);
}

/* ---- nodes ----------------------------------------------------------------------------------- */

typedef enum tensor_rule { CODES, FLOATS, EITHER } tensor_rule;

static const struct node_rule {
    int min_in, max_in, max_out;
    tensor_rule in, out;
} node_rules[] = {
    [BB_NODE_CONV] = {1, 2, BB_MAX_NODE_OUTPUTS, CODES, EITHER},
    [BB_NODE_ADD] = {2, 2, BB_MAX_NODE_OUTPUTS, CODES, EITHER},
    [BB_NODE_MUL] = {2, 2, BB_MAX_NODE_OUTPUTS, CODES, EITHER},
    [BB_NODE_REQUANT] = {1, 1, BB_MAX_NODE_OUTPUTS, CODES, EITHER},
    [BB_NODE_CONCAT] = {1, BB_MAX_NODE_INPUTS, 1, CODES, CODES},
    [BB_NODE_MAX_POOL] = {1, 1, 1, CODES, CODES},
    [BB_NODE_AVERAGE_POOL] = {1, 1, BB_MAX_NODE_OUTPUTS, CODES, EITHER},
    [BB_NODE_GATHER_CHANNELS] = {1, 1, 1, CODES, CODES},
    [BB_NODE_RESHAPE] = {1, 1, 1, CODES, CODES},
    [BB_NODE_RESIZE_NEAREST] = {1, 1, 1, CODES, CODES},
    [BB_NODE_QUANTIZE] = {1, 1, BB_MAX_NODE_OUTPUTS, FLOATS, CODES},
    [BB_NODE_FLOAT] = {1, BB_MAX_NODE_INPUTS, 1, FLOATS, FLOATS},
};

static bool rule_allows(tensor_rule rule, bb_tensor_kind kind) {
    return rule == EITHER || (rule == CODES) == (kind == BB_TENSOR_CODE);
}

static bb_status check_arity(const bb_model_node *node, bb_error *err) {
    if (node->kind < BB_NODE_CONV || node->kind > BB_NODE_FLOAT)
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "node '%s': unknown kind %d", node->name,
                       (int)node->kind);
    const struct node_rule *rule = &node_rules[node->kind];
    if (node->n_in < rule->min_in || node->n_in > rule->max_in || node->n_out < 1 ||
        node->n_out > rule->max_out)
        return fail_node(node, err, "wrong number of inputs or outputs");
    return BB_STATUS_OK;
}

/* Inputs exist already, outputs not yet: topological order and one producer. */
static bb_status check_edges(const bb_model *model, const bb_model_node *node, bool *made,
                             bb_error *err) {
    const struct node_rule *rule = &node_rules[node->kind];
    for (int i = 0; i < node->n_in; i++) {
        int t = node->in[i];
        if (t < 0 || (size_t)t >= model->n_tensors || !made[t])
            return fail_node(node, err, "an input that no earlier node makes");
        if (!rule_allows(rule->in, model->tensors[t].kind))
            return fail_node(node, err, "an input of the wrong kind (codes or float)");
    }
    for (int i = 0; i < node->n_out; i++) {
        int t = node->out[i];
        if (t < 0 || (size_t)t >= model->n_tensors || made[t])
            return fail_node(node, err, "an output that does not exist or was made before");
        if (!rule_allows(rule->out, model->tensors[t].kind))
            return fail_node(node, err, "an output of the wrong kind (codes or float)");
        made[t] = true;
    }
    return BB_STATUS_OK;
}

static bb_status check_gather(const bb_model_node *node, int64_t cin, int64_t cout, bb_error *err) {
    if (!node->channel_index || node->n_channel_index != cout)
        return fail_node(node, err, "one channel index is needed for each output channel");
    for (uint32_t i = 0; i < node->n_channel_index; i++)
        if (node->channel_index[i] < 0 || node->channel_index[i] >= cin)
            return fail_node(node, err, "a channel index out of range");
    return BB_STATUS_OK;
}

static bb_status check_concat(const bb_model *model, const bb_model_node *node, int64_t cout,
                              bb_error *err) {
    int64_t sum = 0; /* <= 16 * 2^20 */
    for (int i = 0; i < node->n_in; i++)
        sum += bb_tensor_channels(&model->tensors[node->in[i]]);
    return sum == cout ? BB_STATUS_OK : fail_node(node, err, "its channels do not add up");
}

static bb_status check_node_detail(const bb_model *model, const bb_model_node *node, int64_t cin,
                                   int64_t cout, bb_error *err) {
    switch (node->kind) {
    case BB_NODE_CONV:
        return check_conv(node, cin, cout, err);
    case BB_NODE_CONCAT:
        return check_concat(model, node, cout, err);
    case BB_NODE_MAX_POOL:
    case BB_NODE_AVERAGE_POOL:
        return check_window(node, true, err);
    case BB_NODE_GATHER_CHANNELS:
        return check_gather(node, cin, cout, err);
    case BB_NODE_RESIZE_NEAREST:
        if (!within(node->resize_factor[0], 1) || !within(node->resize_factor[1], 1))
            return fail_node(node, err, "a resize factor out of range");
        return BB_STATUS_OK;
    case BB_NODE_FLOAT:
        if (node->float_op == BB_FLOAT_CONCAT)
            BB_TRY(check_concat(model, node, cout, err));
        return check_float(node, cin, cout, err);
    default:
        return BB_STATUS_OK;
    }
}

/* Nodes that may change the number of channels; all others keep that of their inputs. */
static bool changes_channels(const bb_model_node *node) {
    switch (node->kind) {
    case BB_NODE_CONV:
    case BB_NODE_CONCAT:
    case BB_NODE_GATHER_CHANNELS:
    case BB_NODE_RESHAPE:
        return true;
    case BB_NODE_FLOAT:
        return node->float_op == BB_FLOAT_CONV || node->float_op == BB_FLOAT_CONCAT ||
               node->float_op == BB_FLOAT_RESHAPE;
    default:
        return false;
    }
}

static bb_status check_channels(const bb_model *model, const bb_model_node *node, bb_error *err) {
    int64_t cin = bb_tensor_channels(&model->tensors[node->in[0]]);
    int64_t cout = bb_tensor_channels(&model->tensors[node->out[0]]);
    for (int i = 1; i < node->n_out; i++)
        if (bb_tensor_channels(&model->tensors[node->out[i]]) != cout)
            return fail_node(node, err, "outputs of different channel counts");
    if (!changes_channels(node)) {
        if (cin != cout)
            return fail_node(node, err, "input and output differ in channels");
        if (node->n_in == 2 && bb_tensor_channels(&model->tensors[node->in[1]]) != cin)
            return fail_node(node, err, "operands of different channel counts");
    }
    if (node->kind == BB_NODE_CONV && node->n_in == 2 &&
        bb_tensor_channels(&model->tensors[node->in[1]]) != cout)
        return fail_node(node, err, "the residual input has other channels than the output");
    return check_node_detail(model, node, cin, cout, err);
}

static bb_status check_node(const bb_model *model, size_t index, bool *made, bb_error *err) {
    const bb_model_node *node = &model->nodes[index];
    BB_TRY(check_name(node->name, "node", index, err));
    BB_TRY(check_arity(node, err));
    BB_TRY(check_edges(model, node, made, err));
    return check_channels(model, node, err);
}

/* ---- model ----------------------------------------------------------------------------------- */

static bb_status check_inputs(const bb_model *model, bool *made, bb_error *err) {
    for (size_t i = 0; i < model->n_inputs; i++) {
        int t = model->inputs[i];
        if (t < 0 || (size_t)t >= model->n_tensors || made[t])
            return bb_fail(err, BB_STATUS_BAD_FILE, "model input %zu: no such tensor, or twice", i);
        made[t] = true;
    }
    return BB_STATUS_OK;
}

static bb_status check_nodes(const bb_model *model, bool *made, bb_error *err) {
    BB_TRY(check_inputs(model, made, err));
    for (size_t i = 0; i < model->n_nodes; i++)
        BB_TRY(check_node(model, i, made, err));
    for (size_t t = 0; t < model->n_tensors; t++)
        if (!made[t])
            return bb_fail(err, BB_STATUS_BAD_FILE, "tensor '%s': nothing makes it",
                           model->tensors[t].name);
    return BB_STATUS_OK;
}

/* `seen` starts as the inputs: an output must come from a node, and be listed once. */
static bb_status check_outputs(const bb_model *model, bool *seen, bb_error *err) {
    memset(seen, 0, model->n_tensors * sizeof(*seen));
    for (size_t i = 0; i < model->n_inputs; i++)
        seen[model->inputs[i]] = true;
    for (size_t i = 0; i < model->n_outputs; i++) {
        int t = model->outputs[i];
        if (t < 0 || (size_t)t >= model->n_tensors || seen[t])
            return bb_fail(err, BB_STATUS_BAD_FILE,
                           "model output %zu: no such tensor, an input, or listed twice", i);
        seen[t] = true;
    }
    return BB_STATUS_OK;
}

static bb_status check_structure(const bb_model *model, bool *flags, bb_error *err) {
    BB_TRY(check_text(model->config_json, "task settings", err));
    BB_TRY(check_text(model->labels, "labels", err));
    BB_TRY(check_name(model->name, "model", 0, err));
    for (size_t t = 0; t < model->n_tensors; t++)
        BB_TRY(check_tensor(&model->tensors[t], t, err));
    BB_TRY(check_nodes(model, flags, err));
    return check_outputs(model, flags, err);
}

bb_status bb_model_validate(const bb_model *model, bb_error *err) {
    BB_TRY(check_counts(model, err));
    bool *flags = bb_calloc_array(model->n_tensors, sizeof(*flags));
    if (!flags)
        return bb_fail_memory(err, "the model check");
    bb_status status = check_structure(model, flags, err);
    bb_free(flags);
    return status == BB_STATUS_OK ? bb_validate_profiles(model, err) : status;
}
