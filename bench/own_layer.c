/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One convolution as a whole model on the engine: codes in, codes out, requantizer included. The
 * layer itself is timed: that a run checks and copies the input of a network, and copies its
 * output, happens once in a network and not in every layer.
 */
#include "bench.h"
#include "engine/internal.h"
#include "model/model.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct layer_state {
    bb_model *model;
    bb_engine *engine;
    bb_context *context;
    uint8_t *input, *output;
} layer_state;

static void destroy_layer(void *state) {
    layer_state *s = state;
    bb_context_destroy(s->context);
    bb_engine_destroy(s->engine);
    bb_model_destroy(s->model);
    free(s->input);
    free(s->output);
    free(s);
}

static void run_layer(void *state) {
    layer_state *s = state;
    const bb_plan_node *node = &s->engine->nodes[0];
    node->run(s->context, node);
}

/* Requantizer that spreads the accumulators (about sqrt(depth) levels wide) over all codes. As in
 * networks, every channel has a scale of its own, which meets no integer by construction. */
static void set_requant(bb_model *model, bb_tensor_params *params, uint32_t channels,
                        double spread) {
    int32_t *mult = bb_arena_array(model->arena, channels, sizeof(*mult));
    int64_t *add = bb_arena_array(model->arena, channels, sizeof(*add));
    uint8_t *shift = bb_arena_array(model->arena, channels, sizeof(*shift));
    double codes = (double)((1u << params->bits) - 1);
    bb_rng rng;
    bb_rng_seed(&rng, 3);
    for (uint32_t c = 0; c < channels; c++) {
        shift[c] = 30;
        double scale = codes / (4 * spread) * (double)(1 << 30);
        scale *= 0.75 + (double)bb_rng_below(&rng, 1 << 20) / (1 << 21);
        while (scale >= (double)(1 << 21)) {
            scale /= 2;
            shift[c]--;
        }
        mult[c] = (int32_t)scale;
        add[c] = ((int64_t)1 << shift[c]) * (int64_t)(codes / 2) + ((int64_t)1 << shift[c]) / 2;
    }
    params->requant = (bb_requant){
        .kind = BB_REQUANT_LINEAR, .channels = channels, .mult = mult, .add = add, .shift = shift};
}

static bb_model *build_model(const bench_shape *s, uint32_t k, uint32_t m) {
    uint32_t rows = (uint32_t)s->out_channels, depth = (uint32_t)(s->in_channels / s->groups);
    uint32_t taps = (uint32_t)(s->kernel * s->kernel);
    bb_model *model = bb_model_create();
    int64_t in_dims[4] = {1, s->height, s->width, s->in_channels};
    int64_t out_dims[4] = {-1, -1, -1, s->out_channels};
    int in = bb_model_add_tensor(model, "in", BB_TENSOR_CODE, 4, in_dims);
    int out = bb_model_add_tensor(model, "out", BB_TENSOR_CODE, 4, out_dims);
    bb_model_node *node = bb_model_add_node(model, s->name, BB_NODE_CONV, 1, &in, 1, &out);
    int32_t pad = s->kernel / 2;
    node->geometry = (bb_geometry){.kernel = {s->kernel, s->kernel},
                                   .stride = {1, 1},
                                   .dilation = {1, 1},
                                   .pad_begin = {pad, pad},
                                   .pad_end = {pad, pad}};
    node->groups = (uint32_t)s->groups;
    bb_rng rng;
    bb_rng_seed(&rng, 1);
    size_t n = (size_t)rows * taps * depth;
    uint8_t *codes = bb_arena_alloc(model->arena, n);
    for (size_t i = 0; i < n; i++)
        codes[i] = (uint8_t)bb_rng_below(&rng, 1u << k);
    node->planes = bb_planes_from_codes(model->arena, codes, rows, taps, depth, k);
    bb_model_add_input(model, in);
    bb_model_add_output(model, out);
    bb_profile *profile = bb_model_add_profile(model, k, m);
    profile->tensors[in] = (bb_tensor_params){.bits = m, .step = 1, .a0 = -((1 << m) - 1)};
    profile->tensors[out] = (bb_tensor_params){.bits = m, .step = 1, .a0 = -((1 << m) - 1)};
    profile->convs[0].planes = k;
    double spread = 1;
    while (spread * spread < (double)taps * depth)
        spread++;
    set_requant(model, &profile->tensors[out], rows,
                spread * (double)((1 << k) - 1) * (double)((1 << m) - 1));
    return model;
}

bool bench_own_layer(const bench_shape *shape, int weight_bits, int activation_bits,
                     const char *kernel, bench_runner *runner) {
    layer_state *s = calloc(1, sizeof(*s));
    bb_error err = {0};
    bb_engine_options options;
    bb_engine_options_init(&options);
    options.kernel = kernel;
    options.packed_limit = SIZE_MAX; /* a layer alone is no measure of memory */
    s->model = build_model(shape, (uint32_t)weight_bits, (uint32_t)activation_bits);
    bb_tensor_desc in, out;
    bb_plan_info plan;
    if (bb_model_validate(s->model, &err) ||
        bb_engine_create(s->model, &options, &s->engine, &err) ||
        bb_context_create(s->engine, &s->context, &err) ||
        bb_engine_input(s->engine, 0, &in, &err) || bb_engine_output(s->engine, 0, &out, &err) ||
        bb_engine_get_plan(s->engine, 0, &plan, &err)) {
        fprintf(stderr, "%s w%da%d: %s\n", shape->name, weight_bits, activation_bits, err.message);
        destroy_layer(s);
        return false;
    }
    s->input = malloc(in.bytes);
    s->output = malloc(out.bytes);
    bb_rng rng;
    bb_rng_seed(&rng, 2);
    for (size_t i = 0; i < in.bytes; i++)
        s->input[i] = (uint8_t)bb_rng_below(&rng, 1u << activation_bits);
    if (bb_context_run(s->context, (const void *[]){s->input}, (void *[]){s->output}, &err)) {
        fprintf(stderr, "%s: %s\n", shape->name, err.message);
        destroy_layer(s);
        return false;
    }
    *runner = (bench_runner){.state = s, .run = run_layer, .destroy = destroy_layer};
    snprintf(runner->name, sizeof(runner->name), "w%da%d", weight_bits, activation_bits);
    snprintf(runner->implementation, sizeof(runner->implementation), "%s", plan.kernel);
    return true;
}
