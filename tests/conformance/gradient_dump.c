/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prints cases for torch_gradients.py, one JSON object per line: a node with its attributes, the
 * data of its inputs, the gradient given to its output, and what bb_gradient computed.
 */
#include "nn/gradient.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_INPUTS = 5 };

/* Inputs are constants that are differentiated, but the first one: that is the graph's input.
 * attributes: "name=1,2;name=0.5;name=text", numbers with a point are floats. */
typedef struct sample {
    bb_op op;
    const char *attributes;
    const char *dims[MOST_INPUTS]; /* "2x3x4x4"; NULL ends; "i:1,2" are i64 constants, "" is left
                                      out, "f:0.5" is an f32 constant without gradient */
    double low, high;
    bool training;
} sample;

static const sample samples[] = {
    {BB_OP_CONV, "pads=1,1,1,1;strides=2,2", {"2x16x9x8", "32x16x3x3", "32"}, -1, 1, false},
    {BB_OP_CONV, "pads=1,0,2,1;dilations=2,1", {"2x3x9x8", "5x3x3x2", "5"}, -1, 1, false},
    {BB_OP_CONV, "group=17;pads=1,1,1,1", {"2x17x6x6", "17x1x3x3"}, -1, 1, false},
    {BB_OP_CONV, "group=3;strides=1,2", {"1x6x7x7", "9x2x3x3", "9"}, -1, 1, false},
    {BB_OP_CONV_TRANSPOSE, "pads=1,1,1,1;strides=2,2", {"2x4x5x4", "4x6x3x3", "6"}, -1, 1, false},
    {BB_OP_GEMM, "transB=1;alpha=0.7;beta=1.3", {"3x4", "5x4", "5"}, -1, 1, false},
    {BB_OP_MATMUL, "", {"2x3x4", "2x4x5"}, -1, 1, false},
    {BB_OP_BATCH_NORMALIZATION, "epsilon=0.001", {"4x5x3x3", "5", "5", "5", "5"}, 0.5, 2, true},
    {BB_OP_BATCH_NORMALIZATION,
     "epsilon=0.001",
     {"4x16x3x3", "16", "16", "16", "16"},
     0.5,
     2,
     false},
    {BB_OP_INSTANCE_NORMALIZATION, "epsilon=0.001", {"2x5x4x3", "5", "5"}, -1, 1, false},
    {BB_OP_LAYER_NORMALIZATION, "epsilon=0.001", {"4x3x5", "5", "5"}, -1, 1, false},
    {BB_OP_LRN, "size=5;alpha=0.9;beta=0.6;bias=1.5", {"2x7x3x2"}, -1, 1, false},
    {BB_OP_RELU, "", {"2x5x4x3"}, -2, 2, false},
    {BB_OP_LEAKY_RELU, "alpha=0.1", {"2x5x4x3"}, -2, 2, false},
    {BB_OP_PRELU, "", {"2x5x4x3", "5x1x1"}, -2, 2, false},
    {BB_OP_CLIP, "", {"2x5x4x3", "f:0", "f:6"}, -9, 9, false},
    {BB_OP_SIGMOID, "", {"2x5x4x3"}, -4, 4, false},
    {BB_OP_TANH, "", {"2x5x4x3"}, -3, 3, false},
    {BB_OP_ELU, "alpha=1.5", {"2x5x4x3"}, -3, 3, false},
    {BB_OP_SELU, "", {"2x5x4x3"}, -3, 3, false},
    {BB_OP_CELU, "alpha=1.5", {"2x5x4x3"}, -3, 3, false},
    {BB_OP_SOFTPLUS, "", {"2x5x4x3"}, -4, 4, false},
    {BB_OP_SOFTSIGN, "", {"2x5x4x3"}, -4, 4, false},
    {BB_OP_HARD_SIGMOID, "alpha=0.16666667;beta=0.5", {"2x5x4x3"}, -5, 5, false},
    {BB_OP_HARD_SWISH, "", {"2x5x4x3"}, -5, 5, false},
    {BB_OP_MISH, "", {"2x5x4x3"}, -4, 4, false},
    {BB_OP_GELU, "", {"2x5x4x3"}, -4, 4, false},
    {BB_OP_EXP, "", {"2x5x4x3"}, -2, 2, false},
    {BB_OP_LOG, "", {"2x5x4x3"}, 0.5, 2, false},
    {BB_OP_SQRT, "", {"2x5x4x3"}, 0.5, 2, false},
    {BB_OP_ABS, "", {"2x5x4x3"}, -2, 2, false},
    {BB_OP_ERF, "", {"2x5x4x3"}, -2, 2, false},
    {BB_OP_POW, "", {"2x5x4x3", "f:1.5"}, 0.5, 2, false},
    {BB_OP_MAX_POOL, "kernel_shape=3,2;strides=2,2;pads=1,0,1,0", {"2x5x7x6"}, -1, 1, false},
    {BB_OP_AVERAGE_POOL,
     "kernel_shape=3,3;strides=2,2;pads=1,1,1,1;count_include_pad=1",
     {"2x5x7x6"},
     -1,
     1,
     false},
    {BB_OP_AVERAGE_POOL, "kernel_shape=3,3;strides=2,2;pads=1,1,1,1", {"2x16x7x6"}, -1, 1, false},
    {BB_OP_GLOBAL_AVERAGE_POOL, "", {"2x5x4x3"}, -1, 1, false},
    {BB_OP_ADD, "", {"2x5x4x3", "5x1x1"}, -1, 1, false},
    {BB_OP_SUB, "", {"2x5x4x3", "2x5x4x3"}, -1, 1, false},
    {BB_OP_MUL, "", {"2x5x4x3", "2x5x1x1"}, -1, 1, false},
    {BB_OP_DIV, "", {"2x5x4x3", "4x1"}, 0.5, 2, false},
    {BB_OP_MAX, "", {"2x5x4x3", "2x5x4x3"}, -1, 1, false},
    {BB_OP_CONCAT, "axis=1", {"2x5x4x3", "2x3x4x3", "2x16x4x3"}, -1, 1, false},
    {BB_OP_TRANSPOSE, "perm=0,2,3,1", {"2x5x4x3"}, -1, 1, false},
    {BB_OP_SLICE, "", {"2x5x4x3", "i:1", "i:4", "i:1"}, -1, 1, false},
    {BB_OP_GATHER, "axis=1", {"2x5x4x3", "i:4,0,4"}, -1, 1, false},
    {BB_OP_PAD, "mode=constant", {"2x5x4x3", "i:0,0,1,2,0,0,2,1"}, -1, 1, false},
    {BB_OP_REDUCE_MEAN, "keepdims=0", {"2x5x4x3", "i:2,3"}, -1, 1, false},
    {BB_OP_REDUCE_SUM, "keepdims=1", {"2x5x4x3", "i:1"}, -1, 1, false},
    {BB_OP_SOFTMAX, "axis=1", {"2x5x4x3"}, -3, 3, false},
    {BB_OP_LOG_SOFTMAX, "axis=-1", {"2x5x4x3"}, -3, 3, false},
    {BB_OP_RESIZE,
     "mode=nearest;coordinate_transformation_mode=asymmetric;nearest_mode=floor",
     {"2x5x4x3", "", "", "i:2,5,8,6"},
     -1,
     1,
     false},
    {BB_OP_RESIZE,
     "mode=linear;coordinate_transformation_mode=half_pixel",
     {"2x5x4x3", "", "", "i:2,5,9,5"},
     -1,
     1,
     false},
    {BB_OP_RESIZE,
     "mode=linear;coordinate_transformation_mode=align_corners",
     {"2x5x4x3", "", "", "i:2,5,3,7"},
     -1,
     1,
     false},
    {BB_OP_FAKE_QUANTIZE, "quantizer=odd;bits=3", {"6x4x3x3", "6"}, 0.05, 0.5, false},
    {BB_OP_FAKE_QUANTIZE, "quantizer=odd;bits=1", {"6x4x3x3", "6"}, 0.05, 0.5, false},
    {BB_OP_FAKE_QUANTIZE, "quantizer=odd_input;bits=2", {"3x5x4x4", "1"}, -1, 1, false},
    {BB_OP_FAKE_QUANTIZE, "quantizer=unsigned;bits=2", {"3x5x4x4", "1"}, -1, 1, false},
    {BB_OP_FAKE_QUANTIZE, "quantizer=affine;bits=3", {"3x5x4x4", "1", "f:3"}, -1, 1, false},
    {BB_OP_FAKE_QUANTIZE, "quantizer=hard_tanh;bits=2", {"3x5x4x4"}, -2, 2, false},
    {BB_OP_FAKE_QUANTIZE, "quantizer=hard_relu;bits=3", {"3x5x4x4"}, -2, 2, false},
    {BB_OP_FAKE_QUANTIZE, "quantizer=hard_relu_affine;bits=2", {"3x5x4x4"}, -2, 2, false},
};

typedef struct built {
    bb_graph *graph;
    bb_rng rng;
    int inputs[MOST_INPUTS], n_inputs, parameters[MOST_INPUTS];
    size_t n_parameters;
    int64_t dims[BB_MAX_RANK];
    int rank;
} built;

static _Noreturn void fail(const char *what, const bb_error *err) {
    fprintf(stderr, "gradient_dump: %s: %s\n", what, err ? err->message : "out of memory");
    exit(1);
}

static void print_floats(const char *name, const float *data, size_t n) {
    printf(", \"%s\": [", name);
    for (size_t i = 0; i < n; i++)
        printf("%s%.9g", i ? ", " : "", (double)data[i]);
    printf("]");
}

static void print_dims(const int64_t *dims, int rank) {
    printf(", \"dims\": [");
    for (int d = 0; d < rank; d++)
        printf("%s%lld", d ? ", " : "", (long long)dims[d]);
    printf("]");
}

static int parse_dims(const char *text, int64_t *dims) {
    int rank = 0;
    for (const char *at = text; rank < BB_MAX_RANK && *at; rank++) {
        char *end;
        dims[rank] = strtoll(at, &end, 10);
        at = *end ? end + 1 : end;
    }
    return rank;
}

static int add_ints(built *b, const char *text) {
    int64_t values[16], n = 0;
    void *data;
    for (const char *at = text; *at && n < 16;) {
        char *end;
        values[n++] = strtoll(at, &end, 10);
        at = *end ? end + 1 : end;
    }
    int value = bb_graph_add_constant(b->graph, "ints", BB_DTYPE_I64, 1, &n, &data);
    if (value < 0)
        fail("constant", NULL);
    memcpy(data, values, (size_t)n * sizeof(*values));
    return value;
}

static void add_input(built *b, const sample *s, int i) {
    const char *text = s->dims[i];
    int64_t dims[BB_MAX_RANK];
    void *data;
    size_t n;
    int *slot = &b->inputs[b->n_inputs++];
    if (text[0] == 0) {
        *slot = -1;
    } else if (text[0] == 'i') {
        *slot = add_ints(b, text + 2);
    } else if (text[0] == 'f') {
        *slot = bb_graph_add_constant(b->graph, "number", BB_DTYPE_F32, 0, NULL, &data);
        if (*slot < 0)
            fail("constant", NULL);
        *(float *)data = strtof(text + 2, NULL);
    } else if (i == 0) {
        b->rank = parse_dims(text, b->dims);
        *slot = bb_graph_add_value(b->graph, "x", BB_DTYPE_F32, b->rank, b->dims);
    } else {
        int rank = parse_dims(text, dims);
        *slot = bb_graph_add_constant(b->graph, "p", BB_DTYPE_F32, rank, dims, &data);
        if (*slot < 0 || !bb_dims_product(dims, (size_t)rank, &n))
            fail("constant", NULL);
        double low = s->op == BB_OP_FAKE_QUANTIZE ? 0.1 : s->low;
        double high = s->op == BB_OP_FAKE_QUANTIZE ? 0.3 : s->high;
        for (size_t k = 0; k < n; k++)
            ((float *)data)[k] = (float)(low + (high - low) * bb_rng_uniform(&b->rng));
        if (s->op != BB_OP_BATCH_NORMALIZATION || i < 3)
            b->parameters[b->n_parameters++] = *slot;
    }
}

static void set_attribute(built *b, bb_node *node, char *text) {
    char *equals = strchr(text, '=');
    int64_t ints[8];
    size_t n = 0;
    *equals = 0;
    const char *value = equals + 1;
    if ((value[0] >= 'a' && value[0] <= 'z')) {
        bb_node_set_string(b->graph, node, text, value);
    } else if (strchr(value, '.')) {
        bb_node_set_float(b->graph, node, text, strtof(value, NULL));
    } else {
        for (const char *at = value; *at && n < BB_COUNT(ints);) {
            char *end;
            ints[n++] = strtoll(at, &end, 10);
            at = *end ? end + 1 : end;
        }
        bool list = n > 1;
        if (list)
            bb_node_set_ints(b->graph, node, text, ints, n);
        else
            bb_node_set_int(b->graph, node, text, ints[0]);
    }
    *equals = '=';
}

static void build(built *b, const sample *s) {
    bb_error err;
    char attributes[256];
    *b = (built){.graph = bb_graph_create()};
    if (!b->graph)
        fail("graph", NULL);
    b->graph->name = bb_op_name(s->op);
    b->graph->opset = 21;
    bb_rng_seed(&b->rng, (uint64_t)(s - samples));
    for (int i = 0; i < MOST_INPUTS && s->dims[i]; i++)
        add_input(b, s, i);
    int out = bb_graph_add_value(b->graph, "y", BB_DTYPE_F32, -1, NULL);
    int node = bb_graph_add_node(b->graph, "node", s->op, b->n_inputs, b->inputs, 1, &out);
    if (out < 0 || node < 0)
        fail("node", NULL);
    snprintf(attributes, sizeof(attributes), "%s", s->attributes);
    for (char *at = attributes; *at;) {
        char *end = strchr(at, ';');
        if (end)
            *end = 0;
        set_attribute(b, &b->graph->nodes[node], at);
        at = end ? end + 1 : at + strlen(at);
    }
    b->graph->n_inputs = b->graph->n_outputs = 1;
    b->graph->inputs = bb_arena_array(b->graph->arena, 1, sizeof(int));
    b->graph->outputs = bb_arena_array(b->graph->arena, 1, sizeof(int));
    b->graph->inputs[0] = b->inputs[0];
    b->graph->outputs[0] = out;
    if (bb_graph_link(b->graph, &err) != BB_STATUS_OK ||
        bb_graph_infer_shapes(b->graph, NULL, 0, &err) != BB_STATUS_OK)
        fail(b->graph->name, &err);
}

static float *random_data(built *b, size_t n, double low, double high) {
    float *data = malloc((n + 1) * sizeof(*data));
    if (!data)
        fail("data", NULL);
    for (size_t i = 0; i < n; i++)
        data[i] = (float)(low + (high - low) * bb_rng_uniform(&b->rng));
    return data;
}

/* A quantizer's input spans both sides of its range, whatever its step is drawn from. */
static double input_low(const sample *s) {
    return s->op == BB_OP_FAKE_QUANTIZE ? -2.0 : s->low;
}

static void print_parameters(built *b, bb_gradient *g, const float *x, const float *dx, size_t n) {
    printf(", \"inputs\": [{\"kind\": \"x\"");
    print_dims(b->dims, b->rank);
    print_floats("data", x, n);
    print_floats("gradient", dx, n);
    printf("}");
    for (int i = 1; i < b->n_inputs; i++) {
        const bb_value *v = b->inputs[i] < 0 ? NULL : &b->graph->values[b->inputs[i]];
        size_t count = 0;
        printf(", {\"kind\": \"%s\"", !v ? "none" : v->dtype == BB_DTYPE_I64 ? "ints" : "floats");
        if (v && bb_value_elements(v, &count))
            print_dims(v->dims, v->rank);
        if (v && v->dtype == BB_DTYPE_I64) {
            printf(", \"data\": [");
            for (size_t k = 0; k < count; k++)
                printf("%s%lld", k ? ", " : "", (long long)((const int64_t *)v->data)[k]);
            printf("]");
        } else if (v) {
            print_floats("data", v->data, count);
        }
        for (size_t p = 0; p < b->n_parameters; p++)
            if (b->parameters[p] == b->inputs[i])
                print_floats("gradient", bb_gradient_of(g, p), count);
        printf("}");
    }
    printf("]");
}

static void run(const sample *s) {
    built b;
    bb_error err;
    build(&b, s);
    const int64_t *dims[1] = {b.dims};
    bb_gradient_options options = {.training = s->training,
                                   .parameters = b.parameters,
                                   .n_parameters = b.n_parameters,
                                   .wanted = b.inputs,
                                   .n_wanted = 1};
    bb_gradient *g;
    bb_array out, in = {.dtype = BB_DTYPE_F32, .rank = b.rank};
    size_t n, n_out;
    if (!bb_dims_product(b.dims, (size_t)b.rank, &n) ||
        bb_gradient_create(b.graph, dims, &options, &g, &err) != BB_STATUS_OK)
        fail(b.graph->name, &err);
    float *x = random_data(&b, n, input_low(s), s->op == BB_OP_FAKE_QUANTIZE ? 2.0 : s->high);
    in.data = x;
    memcpy(in.dims, b.dims, sizeof(in.dims));
    if (bb_gradient_forward(g, &in, &err) != BB_STATUS_OK ||
        bb_gradient_value(g, b.graph->outputs[0], &out, &err) != BB_STATUS_OK ||
        !bb_dims_product(out.dims, (size_t)out.rank, &n_out))
        fail(b.graph->name, &err);
    float *seed = random_data(&b, n_out, -1.0, 1.0);
    bb_gradient_seed given = {b.graph->outputs[0], seed};
    printf("{\"op\": \"%s\", \"attributes\": \"%s\", \"training\": %s", b.graph->name,
           s->attributes, s->training ? "true" : "false");
    print_dims(out.dims, out.rank);
    print_floats("output", out.data, n_out);
    print_floats("seed", seed, n_out);
    const float *dx;
    if (bb_gradient_backward(g, &given, 1, &err) != BB_STATUS_OK ||
        bb_gradient_input(g, b.inputs[0], &dx, &err) != BB_STATUS_OK)
        fail(b.graph->name, &err);
    print_parameters(&b, g, x, dx, n);
    for (size_t i = 0; i < bb_gradient_n_statistics(g); i++) {
        size_t count;
        const float *data = bb_gradient_statistic(g, i, NULL, &count);
        print_floats(i ? "running_variance" : "running_mean", data, count);
    }
    printf("}\n");
    free(x);
    free(seed);
    bb_gradient_destroy(g);
    bb_graph_destroy(b.graph);
}

int main(void) {
    for (size_t i = 0; i < BB_COUNT(samples); i++)
        run(&samples[i]);
    return 0;
}
