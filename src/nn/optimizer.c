/* SPDX-License-Identifier: Apache-2.0 */
#include "nn/optimizer.h"
#include <math.h>
#include <string.h>

struct bb_optimizer {
    bb_optimizer_options options;
    bb_parameter *parameters;
    size_t n;
    float *state; /* per parameter: its moments, one array after the other */
    size_t n_state;
    uint64_t steps;
};

void bb_optimizer_options_init(bb_optimizer_options *options) {
    *options = (bb_optimizer_options){.kind = BB_OPTIMIZER_SGD,
                                      .momentum = 0.9f,
                                      .nesterov = true,
                                      .beta1 = 0.9f,
                                      .beta2 = 0.999f,
                                      .epsilon = 1e-8f};
}

static size_t moments_of(const bb_optimizer_options *options) {
    return options->kind == BB_OPTIMIZER_ADAM ? 2 : 1;
}

bb_status bb_optimizer_create(const bb_optimizer_options *options, const bb_parameter *parameters,
                              size_t n, bb_optimizer **result, bb_error *err) {
    bb_optimizer *o = bb_calloc_array(1, sizeof(*o));
    if (!o)
        return bb_fail_memory(err, "optimiser");
    o->options = *options;
    o->n = n;
    for (size_t i = 0; i < n; i++)
        o->n_state += moments_of(options) * parameters[i].n;
    o->parameters = bb_alloc_array(n, sizeof(*parameters));
    o->state = bb_calloc_array(o->n_state, sizeof(*o->state));
    if (!o->parameters || !o->state) {
        bb_optimizer_destroy(o);
        return bb_fail_memory(err, "optimiser");
    }
    if (n)
        memcpy(o->parameters, parameters, n * sizeof(*parameters));
    *result = o;
    return BB_STATUS_OK;
}

void bb_optimizer_destroy(bb_optimizer *o) {
    if (!o)
        return;
    bb_free(o->parameters);
    bb_free(o->state);
    bb_free(o);
}

float *bb_optimizer_state(bb_optimizer *o, size_t *n) {
    *n = o->n_state;
    return o->state;
}

uint64_t bb_optimizer_steps(const bb_optimizer *o) {
    return o->steps;
}

void bb_optimizer_set_steps(bb_optimizer *o, uint64_t steps) {
    o->steps = steps;
}

/* Weight decay as a part of the gradient, and as a factor of the weight. */
typedef struct decay {
    float gradient, factor;
} decay;

static decay decay_of(const bb_optimizer_options *options, const bb_parameter *p, float rate) {
    float amount = options->weight_decay * p->decay;
    return options->decoupled ? (decay){0, 1 - rate * amount} : (decay){amount, 1};
}

static inline float limited(float x, float most) {
    return x > most ? most : x < -most ? -most : x;
}

static void step_sgd(const bb_optimizer_options *options, const bb_parameter *p, float rate,
                     float *restrict velocity) {
    float *restrict w = p->value;
    const float *restrict g = p->gradient;
    const decay d = decay_of(options, p, rate);
    /* most_change 0: no limit; nor is one needed where nothing moves. */
    const float share = rate > 0 ? p->most_change / rate : 0, unlimited = share > 0 ? 0 : INFINITY;
    const float momentum = options->momentum;
    /* Nesterov: g + momentum * v. Else v alone. */
    const float from_g = options->nesterov ? 1 : 0, from_v = options->nesterov ? momentum : 1;
    for (size_t i = 0; i < p->n; i++) {
        float most = share * fabsf(w[i]) + unlimited;
        float full = limited(g[i] + d.gradient * w[i], most);
        float v = limited(momentum * velocity[i] + full, most);
        velocity[i] = v;
        w[i] = d.factor * w[i] - rate * (from_g * full + from_v * v);
    }
}

static void step_adam(const bb_optimizer_options *options, const bb_parameter *p, float rate,
                      uint64_t step, float *restrict first, float *restrict second) {
    float *restrict w = p->value;
    const float *restrict g = p->gradient;
    const decay d = decay_of(options, p, rate);
    const float b1 = options->beta1, b2 = options->beta2, epsilon = options->epsilon;
    /* Bias correction: m/(1-b1^t) / (sqrt(v/(1-b2^t)) + epsilon). */
    const float scale = rate / (float)(1 - pow((double)b1, (double)step));
    const float root = (float)(1 / sqrt(1 - pow((double)b2, (double)step)));
    for (size_t i = 0; i < p->n; i++) {
        float full = g[i] + d.gradient * w[i];
        float m = b1 * first[i] + (1 - b1) * full;
        float v = b2 * second[i] + (1 - b2) * full * full;
        first[i] = m;
        second[i] = v;
        w[i] = d.factor * w[i] - scale * m / (sqrtf(v) * root + epsilon);
    }
}

static void clip(const bb_parameter *p) {
    if (!(p->min < p->max))
        return;
    for (size_t i = 0; i < p->n; i++) {
        float w = p->value[i];
        w = w < p->min ? p->min : w;
        p->value[i] = w > p->max ? p->max : w;
    }
}

void bb_optimizer_step(bb_optimizer *o, float learning_rate) {
    float *state = o->state;
    o->steps++;
    for (size_t i = 0; i < o->n; i++) {
        const bb_parameter *p = &o->parameters[i];
        float rate = learning_rate * p->rate;
        if (o->options.kind == BB_OPTIMIZER_ADAM)
            step_adam(&o->options, p, rate, o->steps, state, state + p->n);
        else
            step_sgd(&o->options, p, rate, state);
        clip(p);
        state += moments_of(&o->options) * p->n;
    }
}
