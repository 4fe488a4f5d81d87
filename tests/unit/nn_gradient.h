/* SPDX-License-Identifier: Apache-2.0 */
/** @file nn_gradient.h  Gradients of small graphs against differences of their outputs. */
#ifndef BB_NN_GRADIENT_TEST_H
#define BB_NN_GRADIENT_TEST_H

#include "nn/gradient.h"
#include "nn_net.h"

enum { MOST_INPUTS = 4, MOST_PARAMETERS = 8 };

typedef struct checker {
    net *n;
    bb_gradient *g;
    bb_gradient_options options;
    int parameters[MOST_PARAMETERS];
    int wanted[MOST_INPUTS];
    float *inputs[MOST_INPUTS];
    float *seeds[MOST_INPUTS]; /* per output */
    size_t input_elements[MOST_INPUTS], output_elements[MOST_INPUTS];
    double low, high; /* of random inputs */
    double step, tolerance;
} checker;

static inline checker check_begin(net *n) {
    return (checker){.n = n, .low = -1.0, .high = 1.0, .step = 1e-2, .tolerance = 2e-3};
}

/* A constant that is to be differentiated. */
static inline int check_parameter(checker *c, double low, double high, int rank,
                                  const int64_t *dims) {
    int value = net_random(c->n, low, high, rank, dims);
    c->parameters[c->options.n_parameters++] = value;
    return value;
}

static inline void check_create(checker *c) {
    const int64_t *dims[MOST_INPUTS];
    bb_graph *graph = c->n->graph;
    net_dims(c->n, dims);
    c->options.parameters = c->parameters;
    c->options.wanted = c->wanted;
    for (size_t i = 0; i < graph->n_inputs; i++) {
        size_t count;
        c->wanted[c->options.n_wanted++] = graph->inputs[i];
        assert_true(bb_value_elements(&graph->values[graph->inputs[i]], &count));
        c->input_elements[i] = count;
        c->inputs[i] = malloc((count + 1) * sizeof(float));
        for (size_t k = 0; k < count; k++)
            c->inputs[i][k] = (float)(c->low + (c->high - c->low) * bb_rng_uniform(&c->n->rng));
    }
    if (bb_gradient_create(graph, dims, &c->options, &c->g, &c->n->err) != BB_STATUS_OK)
        fail_msg("%s", c->n->err.message);
}

static inline void check_forward(checker *c) {
    bb_array arrays[MOST_INPUTS];
    for (size_t i = 0; i < c->n->graph->n_inputs; i++)
        arrays[i] = net_array(c->n, i, c->inputs[i]);
    if (bb_gradient_forward(c->g, arrays, &c->n->err) != BB_STATUS_OK)
        fail_msg("%s", c->n->err.message);
}

/* Sum of seed * output. */
static inline double check_loss(checker *c) {
    double loss = 0.0;
    check_forward(c);
    for (size_t o = 0; o < c->n->graph->n_outputs; o++) {
        bb_array array;
        assert_int_equal(bb_gradient_value(c->g, c->n->graph->outputs[o], &array, &c->n->err),
                         BB_STATUS_OK);
        for (size_t k = 0; k < c->output_elements[o]; k++)
            loss += (double)c->seeds[o][k] * (double)((float *)array.data)[k];
    }
    return loss;
}

static inline void check_seeds(checker *c) {
    check_forward(c);
    for (size_t o = 0; o < c->n->graph->n_outputs; o++) {
        bb_array array;
        assert_int_equal(bb_gradient_value(c->g, c->n->graph->outputs[o], &array, &c->n->err),
                         BB_STATUS_OK);
        assert_true(bb_dims_product(array.dims, (size_t)array.rank, &c->output_elements[o]));
        c->seeds[o] = random_floats(c->n, c->output_elements[o]);
    }
}

static inline void check_backward(checker *c) {
    bb_gradient_seed seeds[MOST_INPUTS];
    for (size_t o = 0; o < c->n->graph->n_outputs; o++)
        seeds[o] = (bb_gradient_seed){c->n->graph->outputs[o], c->seeds[o]};
    if (bb_gradient_backward(c->g, seeds, c->n->graph->n_outputs, &c->n->err) != BB_STATUS_OK)
        fail_msg("%s", c->n->err.message);
}

static inline double check_slope(checker *c, float *element, double step) {
    float before = *element;
    *element = before + (float)step;
    double up = check_loss(c), width = (double)*element;
    *element = before - (float)step;
    width -= (double)*element;
    double slope = (up - check_loss(c)) / width;
    *element = before;
    return slope;
}

/* A difference that steps over a kink is tried again with shorter steps. */
static inline void check_elements(checker *c, const char *what, size_t index, float *data,
                                  const float *gradient, size_t count) {
    double largest = 1.0;
    size_t stride = count > 300 ? count / 150 : 1;
    for (size_t k = 0; k < count; k++)
        if (fabs((double)gradient[k]) > largest)
            largest = fabs((double)gradient[k]);
    for (size_t k = 0; k < count; k += stride) {
        double slope = 0.0;
        bool ok = false;
        for (double step = c->step; !ok && step >= c->step / 64.0; step /= 4.0) {
            slope = check_slope(c, &data[k], step);
            ok = fabs(slope - (double)gradient[k]) <= c->tolerance * largest;
        }
        if (!ok)
            fail_msg("%s %zu, element %zu: gradient %g, difference %g", what, index, k,
                     (double)gradient[k], slope);
    }
}

/* Compares every gradient of the finished net with differences; frees all. */
static inline void check_run(checker *c) {
    float *gradients[MOST_PARAMETERS + MOST_INPUTS];
    size_t n_parameters = c->options.n_parameters, n_inputs = c->n->graph->n_inputs;
    check_create(c);
    check_seeds(c);
    check_forward(c);
    check_backward(c);
    for (size_t i = 0; i < n_parameters + n_inputs; i++) {
        const float *from;
        size_t count = i < n_parameters ? bb_gradient_parameter_elements(c->g, i)
                                        : c->input_elements[i - n_parameters];
        if (i < n_parameters)
            from = bb_gradient_of(c->g, i);
        else
            assert_int_equal(
                bb_gradient_input(c->g, c->wanted[i - n_parameters], &from, &c->n->err),
                BB_STATUS_OK);
        gradients[i] = malloc((count + 1) * sizeof(float));
        memcpy(gradients[i], from, count * sizeof(float));
    }
    for (size_t i = 0; i < n_parameters; i++)
        check_elements(c, "parameter", i, bb_gradient_parameter(c->g, i), gradients[i],
                       bb_gradient_parameter_elements(c->g, i));
    for (size_t i = 0; i < n_inputs; i++)
        check_elements(c, "input", i, c->inputs[i], gradients[n_parameters + i],
                       c->input_elements[i]);
    for (size_t i = 0; i < n_parameters + n_inputs; i++)
        free(gradients[i]);
    for (size_t i = 0; i < n_inputs; i++)
        free(c->inputs[i]);
    for (size_t o = 0; o < c->n->graph->n_outputs; o++)
        free(c->seeds[o]);
    bb_gradient_destroy(c->g);
    bb_graph_destroy(c->n->graph);
}

/* The last node's output is the net's. */
static inline void check_finish(checker *c, int output) {
    net_output(c->n, output);
    net_finish(c->n);
    check_run(c);
}

#endif
