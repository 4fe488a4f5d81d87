/* SPDX-License-Identifier: Apache-2.0 */
/* Insertion of quantizers into a float graph. */
#include "encode/encode.h"
#include "graph/eval.h"
#include "passes/passes.h"
#include "train/lowbit_internal.h"
#include <float.h>
#include <math.h>
#include <string.h>

static const float SMALLEST_STEP = 1e-8f;

/** Insertion in progress. */
typedef struct inserter {
    bb_lowbit *l;
    bb_quantization q; /* decides bits and classes of values */
    bb_histogram *seen;
    /* [profile][class][grid]: quantizer shared by all layers that read it; kind NULL: not yet */
    bb_lowbit_input *inputs;
    int *value_of; /* [base values] in the profile being inserted */
    size_t cap_parameters;
    bb_error *err;
} inserter;

void bb_lowbit_options_init(bb_lowbit_options *options) {
    *options = (bb_lowbit_options){.weights = BB_LOWBIT_WEIGHTS_LEARNED};
    bb_quantize_options_init(&options->quantize);
}

/* ---- kinds ----------------------------------------------------------------------------------- */

const char *bb_lowbit_weight_kind(bb_lowbit_weights weights) {
    switch (weights) {
    case BB_LOWBIT_WEIGHTS_PAPER:
    case BB_LOWBIT_WEIGHTS_MULTI_BRANCH:
        return "hard_tanh";
    case BB_LOWBIT_WEIGHTS_DOREFA:
        return "dorefa";
    case BB_LOWBIT_WEIGHTS_BWN:
        return "bwn";
    case BB_LOWBIT_WEIGHTS_XNOR:
        return "xnor";
    case BB_LOWBIT_WEIGHTS_TWN:
        return "twn";
    case BB_LOWBIT_WEIGHTS_ABC:
        return "abc";
    default:
        return "odd";
    }
}

bool bb_lowbit_weights_by_row(bb_lowbit_weights weights) {
    return weights == BB_LOWBIT_WEIGHTS_BWN || weights == BB_LOWBIT_WEIGHTS_XNOR ||
           weights == BB_LOWBIT_WEIGHTS_TWN;
}

/** Layers of 8 bits (the first and the last) keep learned steps beside binary and ternary ones. */
static bb_status choose_weights(const bb_lowbit *l, bb_lowbit_layer *layer, bb_error *err) {
    uint32_t bits = layer->most_bits;
    layer->weights = l->options.weights;
    bool few = layer->weights >= BB_LOWBIT_WEIGHTS_BWN;
    if (few && bits == BB_MAX_BITS)
        layer->weights = BB_LOWBIT_WEIGHTS_LEARNED;
    else if ((layer->weights == BB_LOWBIT_WEIGHTS_BWN || layer->weights == BB_LOWBIT_WEIGHTS_XNOR)
                 ? bits != 1
                 : layer->weights == BB_LOWBIT_WEIGHTS_TWN && bits != 2)
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT,
                       "layer '%s': %s weights cannot have %u bits", layer->name,
                       bb_lowbit_weight_kind(layer->weights), bits);
    return BB_STATUS_OK;
}

/** The paper's weights live in [-1, 1] and have no scale. */
static bool bounded_weights(bb_lowbit_weights weights) {
    return weights == BB_LOWBIT_WEIGHTS_PAPER || weights == BB_LOWBIT_WEIGHTS_MULTI_BRANCH ||
           weights == BB_LOWBIT_WEIGHTS_XNOR;
}

static const char *fixed_input_kind(bb_lowbit_activations activations) {
    switch (activations) {
    case BB_LOWBIT_ACTIVATIONS_HTANH:
        return "hard_tanh";
    case BB_LOWBIT_ACTIVATIONS_ENCODER:
        return "encoder";
    case BB_LOWBIT_ACTIVATIONS_HRELU:
        return "hard_relu_affine";
    default:
        return NULL;
    }
}

/* ---- the base graph -------------------------------------------------------------------------- */

static bool is_product(const bb_node *node) {
    return node->op == BB_OP_CONV || node->op == BB_OP_GEMM;
}

/** Layers are found again by name after the passes. */
static bb_status make_names_unique(bb_graph *graph, bb_error *err) {
    for (size_t i = 0; i < graph->n_nodes; i++) {
        size_t same = 0;
        for (size_t j = 0; j < i; j++)
            same += strcmp(graph->nodes[j].name, graph->nodes[i].name) == 0;
        if (same && !(graph->nodes[i].name =
                          bb_arena_printf(graph->arena, "%s/%zu", graph->nodes[i].name, i)))
            return bb_fail_memory(err, "names of layers");
    }
    return BB_STATUS_OK;
}

/** Table 1's range functions in place of ReLU. */
static bb_status replace_relu(bb_graph *graph, float lo, bb_error *err) {
    const float hi = 1.0f;
    for (size_t i = 0; i < graph->n_nodes; i++) {
        if (graph->nodes[i].op != BB_OP_RELU)
            continue;
        int *in = bb_arena_array(graph->arena, 3, sizeof(*in));
        int low = bb_fake_constant(graph, "lo", &lo, 0);
        int high = bb_fake_constant(graph, "hi", &hi, 0);
        if (!in || low < 0 || high < 0)
            return bb_fail_memory(err, "range functions");
        in[0] = graph->nodes[i].in[0];
        in[1] = low;
        in[2] = high;
        graph->nodes[i].op = BB_OP_CLIP;
        graph->nodes[i].in = in;
        graph->nodes[i].n_in = 3;
    }
    return BB_STATUS_OK;
}

static bb_status make_base(bb_lowbit *l, const bb_graph *graph, bb_error *err) {
    bb_lowbit_activations a = l->options.activations;
    l->base = bb_graph_clone(graph);
    if (!l->base)
        return bb_fail_memory(err, "copy of the graph");
    BB_TRY(bb_graph_fold_constants(l->base, true, err));
    BB_TRY(bb_pass_remove_identities(l->base, err));
    BB_TRY(bb_pass_canonicalise(l->base, err));
    if (a == BB_LOWBIT_ACTIVATIONS_HRELU)
        BB_TRY(replace_relu(l->base, 0.0f, err));
    else if (fixed_input_kind(a))
        BB_TRY(replace_relu(l->base, -1.0f, err));
    return make_names_unique(l->base, err);
}

/* ---- parameters ------------------------------------------------------------------------------ */

static bb_status add_parameter(inserter *in, const bb_lowbit_parameter *p) {
    bb_lowbit *l = in->l;
    for (size_t i = 0; i < l->n_parameters; i++)
        if (l->parameters[i].value == p->value)
            return BB_STATUS_OK;
    if (l->n_parameters == in->cap_parameters) {
        size_t cap = in->cap_parameters ? 2 * in->cap_parameters : 64;
        bb_lowbit_parameter *bigger = bb_realloc_array(l->parameters, cap, sizeof(*bigger));
        if (!bigger)
            return bb_fail_memory(in->err, "parameters");
        l->parameters = bigger;
        in->cap_parameters = cap;
    }
    l->parameters[l->n_parameters++] = *p;
    return BB_STATUS_OK;
}

static bb_status add_step_parameter(inserter *in, int value, float rate) {
    return add_parameter(in, &(bb_lowbit_parameter){value, rate, 0.0f, SMALLEST_STEP, FLT_MAX});
}

const bb_lowbit_parameter *bb_lowbit_parameters(const bb_lowbit *lowbit, size_t *n) {
    *n = lowbit->n_parameters;
    return lowbit->parameters;
}

typedef struct parameter_list {
    const bb_graph *graph;
    bb_lowbit_parameter *items;
    size_t n;
    bool *listed; /* [values] */
} parameter_list;

static void list_constant(parameter_list *list, const bb_node *node, int input, float decay) {
    int v = bb_node_has_input(node, input) ? node->in[input] : -1;
    const bb_value *value = v < 0 ? NULL : &list->graph->values[v];
    if (!value || !bb_value_is_constant(value) || value->dtype != BB_DTYPE_F32 || list->listed[v])
        return;
    list->listed[v] = true;
    list->items[list->n++] = (bb_lowbit_parameter){v, 1.0f, decay, 0.0f, 0.0f};
}

static void list_node(parameter_list *list, const bb_node *node) {
    switch (node->op) {
    case BB_OP_CONV:
    case BB_OP_CONV_TRANSPOSE:
    case BB_OP_GEMM:
        list_constant(list, node, 1, 1.0f);
        list_constant(list, node, 2, 0.0f);
        break;
    case BB_OP_MATMUL:
        list_constant(list, node, 1, 1.0f);
        break;
    case BB_OP_BATCH_NORMALIZATION:
        list_constant(list, node, 1, 0.0f);
        list_constant(list, node, 2, 0.0f);
        break;
    case BB_OP_PRELU:
        list_constant(list, node, 1, 0.0f);
        break;
    default:
        break;
    }
}

const bb_lowbit_parameter *bb_float_parameters(bb_graph *graph, size_t *n) {
    parameter_list list = {.graph = graph};
    list.listed = bb_arena_array(graph->arena, graph->n_values + 1, sizeof(*list.listed));
    list.items = bb_arena_array(graph->arena, graph->n_values + 1, sizeof(*list.items));
    *n = 0;
    if (!list.listed || !list.items)
        return NULL;
    for (size_t i = 0; i < graph->n_nodes; i++)
        list_node(&list, &graph->nodes[i]);
    *n = list.n;
    return list.items;
}

/** Biases, BatchNormalization and float layers of the finished graph. */
static bb_status add_float_parameters(inserter *in) {
    size_t n;
    const bb_lowbit_parameter *p = bb_float_parameters(in->l->graph, &n);
    if (!p)
        return bb_fail_memory(in->err, "parameters");
    for (size_t i = 0; i < n; i++)
        BB_TRY(add_parameter(in, &p[i]));
    return BB_STATUS_OK;
}

/* ---- copies of the network, one a profile ---------------------------------------------------- */

const char *bb_lowbit_profile_name(bb_arena *arena, const char *name, size_t p) {
    return p ? bb_arena_printf(arena, "%s@%zu", name, p) : name;
}

/** A constant of this profile's own, with the same contents. */
static int own_constant(inserter *in, size_t p, int value) {
    bb_lowbit *l = in->l;
    int *own = &l->constant_of[p][value];
    if (p == 0 || *own != value)
        return *own;
    const bb_value v = l->graph->values[value];
    size_t n;
    void *data;
    if (!bb_value_elements(&v, &n))
        return value;
    int copy = bb_graph_add_constant(l->graph, bb_lowbit_profile_name(l->graph->arena, v.name, p),
                                     v.dtype, v.rank, v.dims, &data);
    if (copy < 0)
        return -1;
    memcpy(data, v.data, n * bb_dtype_size(v.dtype));
    return *own = copy;
}

/** True for what each profile has for itself: biases, slopes, and all of BatchNormalization. */
static bool is_own(const bb_node *node, int input) {
    if (node->op == BB_OP_BATCH_NORMALIZATION || node->op == BB_OP_PRELU)
        return input > 0;
    return (is_product(node) || node->op == BB_OP_CONV_TRANSPOSE) && input == 2;
}

static bb_status copy_node(inserter *in, size_t p, size_t index) {
    bb_lowbit *l = in->l;
    int ins[BB_MAX_NODE_INPUTS + 8], outs[BB_MAX_NODE_INPUTS + 8];
    const bb_node node = l->base->nodes[index];
    if (node.n_in > (int)BB_COUNT(ins) || node.n_out > (int)BB_COUNT(outs))
        return bb_fail(in->err, BB_STATUS_UNSUPPORTED, "%s: node '%s' has too many inputs",
                       l->base->name, node.name);
    for (int i = 0; i < node.n_in; i++) {
        int v = node.in[i];
        ins[i] = v < 0 ? -1 : in->value_of[v];
        if (v >= 0 && is_own(&node, i) && l->graph->values[v].data &&
            (ins[i] = own_constant(in, p, v)) < 0)
            return bb_fail_memory(in->err, "a profile");
    }
    for (int i = 0; i < node.n_out; i++) {
        outs[i] = -1;
        if (node.out[i] < 0)
            continue;
        const bb_value v = l->base->values[node.out[i]];
        outs[i] = bb_graph_add_value(l->graph, bb_lowbit_profile_name(l->graph->arena, v.name, p),
                                     v.dtype, v.rank, v.dims);
        if (outs[i] < 0)
            return bb_fail_memory(in->err, "a profile");
        in->value_of[node.out[i]] = outs[i];
    }
    int copy = bb_graph_add_node(l->graph, bb_lowbit_profile_name(l->graph->arena, node.name, p),
                                 node.op, node.n_in, ins, node.n_out, outs);
    if (copy < 0)
        return bb_fail_memory(in->err, "a profile");
    l->graph->nodes[copy].n_attrs = node.n_attrs;
    l->graph->nodes[copy].attrs = node.attrs;
    return BB_STATUS_OK;
}

/** value_of: the base graph's values in profile p; its nodes are appended where p > 0. */
static bb_status copy_network(inserter *in, size_t p) {
    bb_lowbit *l = in->l;
    for (size_t v = 0; v < l->base->n_values; v++) {
        in->value_of[v] = (int)v;
        l->constant_of[p][v] = l->base->values[v].data ? (int)v : -1;
    }
    for (size_t i = 0; i < l->base->n_nodes && p > 0; i++)
        BB_TRY(copy_node(in, p, i));
    for (size_t i = 0; i < l->base->n_outputs; i++)
        l->graph->outputs[p * l->base->n_outputs + i] = in->value_of[l->base->outputs[i]];
    return BB_STATUS_OK;
}

static int find_node(const bb_graph *graph, const char *name) {
    for (size_t i = 0; i < graph->n_nodes; i++)
        if (strcmp(graph->nodes[i].name, name) == 0)
            return (int)i;
    return -1;
}

/* ---- activations ----------------------------------------------------------------------------- */

/** The grid to begin with, as constants of the graph. */
static bb_status make_learned_input(inserter *in, const bb_value_class *k, uint32_t bits,
                                    const bb_histogram *seen, bb_lowbit_input *input) {
    bb_grid grid = bb_lowbit_start_grid(seen, bits, k->lo, k->hi);
    float step = bb_fake_step(&grid), zero = bb_fake_zero(&grid);
    input->kind = bb_fake_kind(&grid);
    input->step = bb_fake_constant(in->l->graph, "step", &step, 0);
    if (strcmp(input->kind, "affine") == 0)
        input->zero = bb_fake_constant(in->l->graph, "zero", &zero, 0);
    if (input->step < 0 || (strcmp(input->kind, "affine") == 0 && input->zero < 0))
        return bb_fail_memory(in->err, "activation steps");
    return add_step_parameter(in, input->step, 1.0f);
}

static bb_status make_input(inserter *in, size_t p, size_t block, bb_lowbit_input *input) {
    const bb_quantization *q = &in->q;
    int value = q->plan.blocks[block].in[0], class = q->class_of[value];
    int g = q->profiles[p].blocks[block].in_grid[0];
    bb_lowbit_input *shared =
        &in->inputs[(p * q->n_classes + (size_t) class) * BB_MAX_GRIDS + (size_t)g];
    *input = (bb_lowbit_input){.step = -1, .zero = -1};
    if (q->classes[class].fixed || in->l->options.activations == BB_LOWBIT_ACTIVATIONS_FLOAT)
        return BB_STATUS_OK;
    if (!shared->kind) {
        *shared = *input;
        shared->bits = q->profiles[p].values[value].grids[g].bits;
        const char *kind = fixed_input_kind(in->l->options.activations);
        if (kind)
            shared->kind = kind;
        else
            BB_TRY(
                make_learned_input(in, &q->classes[class], shared->bits, &in->seen[class], shared));
    }
    *input = *shared;
    return BB_STATUS_OK;
}

/** The quantizer behind value x that other layers of this profile may have put there already. */
static int quantized_input(bb_graph *graph, int x, const bb_lowbit_input *input, const char *name) {
    for (size_t i = 0; i < graph->n_nodes; i++) {
        const bb_node *node = &graph->nodes[i];
        if (node->op == BB_OP_FAKE_QUANTIZE && node->in[0] == x &&
            bb_node_int(node, "bits", 0) == (int64_t)input->bits &&
            (input->step < 0 || (node->n_in > 1 && node->in[1] == input->step)))
            return node->out[0];
    }
    bb_fake fake = {input->kind, name, input->bits, x, input->step, input->zero, false};
    return bb_fake_add(graph, &fake);
}

/* ---- weights --------------------------------------------------------------------------------- */

/** Pixels are codes themselves and mean and std go into the first weights, so these are quantized
 *  in pixel units; with equal stds the scale takes care of that. */
static bb_status make_unit(inserter *in, bb_lowbit_layer *layer) {
    const bb_quantization *q = &in->q;
    const bb_quantize_options *o = q->options;
    const bb_conv_shape *s = &q->targets[layer->block].shape;
    bool even = true;
    for (int c = 1; c < 4 && c < (int)(s->depth * s->groups); c++)
        even = even && o->std[c] == o->std[0];
    if (!bb_quantize_is_pixels(q, q->plan.blocks[layer->block].in[0]) || even)
        return BB_STATUS_OK;
    layer->unit = bb_arena_array(in->l->arena, layer->rows * layer->d, sizeof(float));
    if (!layer->unit)
        return bb_fail_memory(in->err, "pixel units");
    /* Relative to the first channel, so that steps and bounds keep the size of the weights. */
    for (size_t i = 0; i < layer->rows * layer->d; i++) {
        size_t row = i / layer->d, channel = i % layer->d / s->taps;
        channel += row / (s->rows / s->groups) * s->depth;
        layer->unit[i] = o->std[channel % 4] / o->std[0];
    }
    return BB_STATUS_OK;
}

static int add_latent(inserter *in, const bb_lowbit_layer *layer, float **data) {
    const bb_value w = in->l->base->values[layer->base_w];
    void *raw;
    int value = bb_graph_add_constant(in->l->graph, w.name, BB_DTYPE_F32, w.rank, w.dims, &raw);
    *data = raw;
    return value;
}

/** Latents of plane k + 1: its encoder wave, whose sign is the bit and which lies in [-1, 1]. */
static void start_branch(const float *w, size_t n, uint32_t bits, uint32_t k, float *latent) {
    for (size_t i = 0; i < n; i++) {
        double x = fmin(fmax((double)w[i], -1.0), 1.0);
        float wave = (float)fabs(bb_encoder_wave(x, bits, k + 1));
        latent[i] = bb_encoder_sign(x, bits, k + 1) > 0 ? wave : -wave - FLT_MIN;
    }
}

static bb_status make_latents(inserter *in, bb_lowbit_layer *layer) {
    const float *w = in->l->base->values[layer->base_w].data;
    bool branches = layer->weights == BB_LOWBIT_WEIGHTS_MULTI_BRANCH;
    bool bounded = bounded_weights(layer->weights);
    size_t n = layer->rows * layer->d;
    layer->n_latent = branches ? layer->most_bits : 1;
    for (size_t k = 0; k < layer->n_latent; k++) {
        float *data;
        layer->latent[k] = add_latent(in, layer, &data);
        if (layer->latent[k] < 0)
            return bb_fail_memory(in->err, "latent weights");
        for (size_t i = 0; i < n; i++)
            data[i] = layer->unit ? w[i] / layer->unit[i] : w[i];
        if (branches)
            start_branch(data, n, layer->most_bits, (uint32_t)k, data);
        bb_lowbit_parameter p = {layer->latent[k], 1.0f, 1.0f, bounded ? -1.0f : 0.0f,
                                 bounded ? 1.0f : 0.0f};
        BB_TRY(add_parameter(in, &p));
    }
    return BB_STATUS_OK;
}

static bb_status make_weight_step(inserter *in, bb_lowbit_layer *layer) {
    uint32_t bits[BB_QUANTIZE_MAX_PROFILES];
    size_t n = 0;
    uint32_t fewest = layer->most_bits;
    layer->step = -1;
    if (layer->weights != BB_LOWBIT_WEIGHTS_LEARNED)
        return BB_STATUS_OK;
    for (size_t p = 0; p < in->l->n_profiles; p++) {
        bool again = false;
        fewest = layer->bits[p] < fewest ? layer->bits[p] : fewest;
        for (size_t i = 0; i < n; i++)
            again |= bits[i] == layer->bits[p];
        if (!again)
            bits[n++] = layer->bits[p];
    }
    float *steps = bb_alloc_array(layer->rows, sizeof(*steps));
    if (!steps)
        return bb_fail_memory(in->err, "weight steps");
    const float *w = in->l->graph->values[layer->latent[0]].data;
    for (size_t r = 0; r < layer->rows; r++)
        steps[r] = bb_lowbit_row_step(w + r * layer->d, layer->d, bits, n, layer->most_bits);
    layer->step = bb_fake_constant(in->l->graph, "weight_step", steps, layer->rows);
    bb_free(steps);
    if (layer->step < 0)
        return bb_fail_memory(in->err, "weight steps");
    /* The profile of the fewest bits has steps 2^t times as large. Its gradient arrives 2^t times
     * as large at one that is 2^t times as small: the rate that suits it is 4^t times as low. */
    return add_step_parameter(in, layer->step, ldexpf(1.0f, -2 * (int)(layer->most_bits - fewest)));
}

static int add_binary_node(bb_graph *graph, bb_op op, const char *name, int a, int b) {
    const bb_value v = graph->values[a];
    int in[2] = {a, b}, out = bb_graph_add_value(graph, name, BB_DTYPE_F32, v.rank, v.dims);
    return out >= 0 && bb_graph_add_node(graph, name, op, 2, in, 1, &out) >= 0 ? out : -1;
}

/** sum over the branches of 2^k / L * sign(latent_k). */
static int add_branches(bb_graph *graph, const bb_lowbit_layer *layer) {
    int sum = -1;
    for (size_t k = 0; k < layer->n_latent; k++) {
        float weight = (float)(1u << k) / (float)((1u << layer->n_latent) - 1);
        bb_fake fake = {"hard_tanh", "branch", 1, layer->latent[k], -1, -1, false};
        int factor = bb_fake_constant(graph, "plane", &weight, 0), y = bb_fake_add(graph, &fake);
        if (factor < 0 || y < 0)
            return -1;
        y = add_binary_node(graph, BB_OP_MUL, "branch_scale", y, factor);
        sum = sum < 0 || y < 0 ? y : add_binary_node(graph, BB_OP_ADD, "branch_sum", sum, y);
        if (sum < 0)
            return -1;
    }
    return sum;
}

/** Quantized weights of `bits` bits. Fewer than most_bits: a step so much larger that the codes
 *  are the first planes, floor(v / 2^t) = v >> t. */
static int quantized_weights(bb_lowbit *l, const bb_lowbit_layer *layer, uint32_t bits) {
    bb_graph *graph = l->graph;
    int step = layer->step, y;
    if (layer->weights == BB_LOWBIT_WEIGHTS_MULTI_BRANCH) {
        y = add_branches(graph, layer);
    } else {
        float wider = (float)(1u << (layer->most_bits - bits));
        if (step >= 0 && bits < layer->most_bits) {
            int factor = bb_fake_constant(graph, "planes", &wider, 0);
            step = factor < 0 ? -1 : add_binary_node(graph, BB_OP_MUL, "step", step, factor);
            if (step < 0)
                return -1;
        }
        bb_fake fake = {.quantizer = bb_lowbit_weight_kind(layer->weights),
                        .name = "weights",
                        .bits = bits,
                        .x = layer->latent[0],
                        .step = step,
                        .zero = -1,
                        .by_row = bb_lowbit_weights_by_row(layer->weights)};
        y = bb_fake_add(graph, &fake);
    }
    if (!layer->unit || y < 0)
        return y;
    const bb_value w = l->base->values[layer->base_w];
    void *data;
    int unit = bb_graph_add_constant(graph, "pixel_units", BB_DTYPE_F32, w.rank, w.dims, &data);
    if (unit < 0)
        return -1;
    memcpy(data, layer->unit, layer->rows * layer->d * sizeof(float));
    return add_binary_node(graph, BB_OP_MUL, "pixel_weights", y, unit);
}

/* ---- layers ---------------------------------------------------------------------------------- */

static bb_status open_layer(inserter *in, size_t block, bb_lowbit_layer *layer) {
    bb_lowbit *l = in->l;
    const bb_quantization *q = &in->q;
    layer->block = block;
    layer->name = bb_arena_strdup(l->arena, q->graph->nodes[q->plan.blocks[block].node].name);
    if (!layer->name)
        return bb_fail_memory(in->err, "layers");
    int node = find_node(l->base, layer->name);
    layer->base_w =
        node < 0 || !is_product(&l->base->nodes[node]) ? -1 : l->base->nodes[node].in[1];
    size_t n = 0;
    if (layer->base_w < 0 || !l->base->values[layer->base_w].data ||
        !bb_value_elements(&l->base->values[layer->base_w], &n))
        return bb_fail(in->err, BB_STATUS_UNSUPPORTED,
                       "%s: the weights of layer '%s' are no constant", l->base->name, layer->name);
    layer->rows = q->targets[block].shape.rows;
    layer->d = n / layer->rows;
    for (size_t p = 0; p < l->n_profiles; p++) {
        layer->bits[p] = bb_quantize_bits(q, block, p).weight;
        layer->most_bits = layer->bits[p] > layer->most_bits ? layer->bits[p] : layer->most_bits;
        if (layer->bits[p] != layer->bits[0] && l->options.weights != BB_LOWBIT_WEIGHTS_LEARNED)
            return bb_fail(in->err, BB_STATUS_UNSUPPORTED,
                           "only learned steps can have profiles of different weight bits");
    }
    BB_TRY(choose_weights(l, layer, in->err));
    BB_TRY(make_unit(in, layer));
    BB_TRY(make_latents(in, layer));
    return make_weight_step(in, layer);
}

static bb_status connect_layer(inserter *in, size_t p, bb_lowbit_layer *layer) {
    bb_graph *graph = in->l->graph;
    const char *name = bb_lowbit_profile_name(graph->arena, layer->name, p);
    int node = name ? find_node(graph, name) : -1;
    if (node < 0)
        return bb_fail_memory(in->err, "layers");
    BB_TRY(make_input(in, p, layer->block, &layer->input[p]));
    int x = graph->nodes[node].in[0];
    if (layer->input[p].kind)
        x = quantized_input(graph, x, &layer->input[p], "activations");
    int w = x < 0 ? -1 : quantized_weights(in->l, layer, layer->bits[p]);
    if (w < 0 || !bb_fake_redirect(graph, node, 0, x) || !bb_fake_redirect(graph, node, 1, w))
        return bb_fail_memory(in->err, "quantizers");
    return BB_STATUS_OK;
}

static bb_status insert_layers(inserter *in) {
    bb_lowbit *l = in->l;
    const bb_block_plan *plan = &in->q.plan;
    l->layers = bb_arena_array(l->arena, plan->n + 1, sizeof(*l->layers));
    if (!l->layers)
        return bb_fail_memory(in->err, "layers");
    for (size_t b = 0; b < plan->n; b++)
        if (plan->blocks[b].kind == BB_BLOCK_CONV)
            BB_TRY(open_layer(in, b, &l->layers[l->n_layers++]));
    for (size_t p = 0; p < l->n_profiles; p++) {
        BB_TRY(copy_network(in, p));
        for (size_t i = 0; i < l->n_layers; i++)
            BB_TRY(connect_layer(in, p, &l->layers[i]));
    }
    return BB_STATUS_OK;
}

/* ---- all of it ------------------------------------------------------------------------------- */

/** Ranges are needed only where steps are learned. */
static bb_status observe(inserter *in, bb_calibration_fn calibration, void *user, size_t count) {
    bb_quantization *q = &in->q;
    q->calibration = calibration;
    q->user = user;
    q->count = count;
    for (size_t c = 0; c < q->n_classes; c++)
        bb_histogram_init(&in->seen[c]);
    if (in->l->options.activations != BB_LOWBIT_ACTIVATIONS_LEARNED)
        return BB_STATUS_OK;
    if (!count)
        return bb_fail(in->err, BB_STATUS_INVALID_ARGUMENT, "there are no calibration images");
    return bb_quantize_observe(q, q->graph, in->seen, in->err);
}

static bb_status allocate(inserter *in) {
    bb_lowbit *l = in->l;
    size_t n = l->base->n_values;
    l->graph = bb_graph_clone(l->base);
    in->seen = bb_alloc_array(in->q.n_classes, sizeof(*in->seen));
    in->inputs = bb_arena_array(l->arena, in->q.n_classes * l->n_profiles,
                                BB_MAX_GRIDS * sizeof(*in->inputs));
    in->value_of = bb_arena_array(l->arena, n, sizeof(*in->value_of));
    bool ok = l->graph && in->seen && in->inputs && in->value_of;
    for (size_t p = 0; p < l->n_profiles && ok; p++)
        ok = (l->constant_of[p] = bb_arena_array(l->arena, n, sizeof(int))) != NULL;
    int *outputs =
        ok ? bb_arena_array(l->graph->arena, l->base->n_outputs * l->n_profiles, sizeof(*outputs))
           : NULL;
    if (!outputs)
        return bb_fail_memory(in->err, "low-bit graph");
    l->graph->outputs = outputs;
    l->graph->n_outputs = l->base->n_outputs * l->n_profiles;
    return BB_STATUS_OK;
}

static bb_status create(inserter *in, const bb_graph *graph, bb_calibration_fn calibration,
                        void *user, size_t count) {
    bb_lowbit *l = in->l;
    l->arena = bb_arena_create();
    if (!l->arena)
        return bb_fail_memory(in->err, "low-bit graph");
    BB_TRY(make_base(l, graph, in->err));
    BB_TRY(bb_quantize_open(&in->q, l->base, &l->options.quantize, in->err));
    l->n_profiles = in->q.n_profiles;
    BB_TRY(allocate(in));
    BB_TRY(observe(in, calibration, user, count));
    BB_TRY(insert_layers(in));
    BB_TRY(bb_graph_link(l->graph, in->err));
    return add_float_parameters(in);
}

bb_status bb_lowbit_create(const bb_graph *graph, const bb_lowbit_options *options,
                           bb_calibration_fn calibration, void *user, size_t count,
                           bb_lowbit **lowbit, bb_error *err) {
    inserter in = {.err = err};
    *lowbit = in.l = bb_calloc_array(1, sizeof(**lowbit));
    if (!in.l)
        return bb_fail_memory(err, "low-bit graph");
    in.l->options = *options;
    bb_status status = create(&in, graph, calibration, user, count);
    if (in.q.arena)
        bb_quantize_close(&in.q);
    bb_free(in.seen);
    if (status != BB_STATUS_OK) {
        bb_lowbit_destroy(*lowbit);
        *lowbit = NULL;
    }
    return status;
}

void bb_lowbit_destroy(bb_lowbit *lowbit) {
    if (!lowbit)
        return;
    bb_graph_destroy(lowbit->graph);
    bb_graph_destroy(lowbit->base);
    bb_arena_destroy(lowbit->arena);
    bb_free(lowbit->parameters);
    bb_free(lowbit);
}

const bb_graph *bb_lowbit_graph(const bb_lowbit *lowbit) {
    return lowbit->graph;
}
