/* SPDX-License-Identifier: Apache-2.0 */
#include "random_model.h"
#include "random_parts.h"
#include <string.h>

static void random_channels(maker *m, conv_shape *s) {
    const int kind = (int)random_between(m, 0, 9);
    s->groups = 1;
    s->cin = (int)random_between(m, 1, random_chance(m, 50) ? 20 : 140);
    s->cout = (int)random_between(m, 1, random_chance(m, 50) ? 20 : 140);
    if (kind == 0) {
        s->groups = s->cout = s->cin;
    } else if (kind == 1) {
        s->groups = (int)random_between(m, 2, 4);
        s->cin = s->groups * (int)random_between(m, 1, 12);
        s->cout = s->groups * (int)random_between(m, 1, 12);
    } else if (kind == 2) {
        s->cin = 16 * (int)random_between(m, 1, 8);
        s->cout = 16 * (int)random_between(m, 1, 8);
    }
}

/* Kept small enough for plain loops; a tenth are fully connected with up to 5000 inputs. */
static conv_shape random_shape(maker *m) {
    conv_shape s;
    for (;;) {
        random_channels(m, &s);
        random_window(m, &s);
        s.height = (int)random_between(m, 1, 12);
        s.width = (int)random_between(m, 1, 20);
        if (random_chance(m, 10)) {
            s.geometry = (bb_geometry){{1, 1}, {1, 1}, {1, 1}, {0, 0}, {0, 0}, false, false};
            s.groups = s.height = s.width = 1;
            s.cin = (int)random_between(m, 1, 5000);
            s.cout = (int)random_between(m, 1, 80);
        }
        const double macs = (double)random_out_size(&s, 0) * random_out_size(&s, 1) * s.cout *
                            (s.cin / s.groups) * s.geometry.kernel[0] * s.geometry.kernel[1];
        if (macs > 0 && macs < 600e3)
            return s;
    }
}

/* Inputs x (and a residual), one to three outputs of which one may be float. */
static void build_conv_nodes(maker *m, const conv_shape *s, bool second, uint32_t planes,
                             bool native) {
    int in[2], out[3];
    const int n_out = random_chance(m, 70) ? 1 : (int)random_between(m, 2, 3);
    const int64_t batch = random_between(m, 1, 3);
    in[0] = random_add_tensor(m, BB_TENSOR_CODE, 4, s->cin);
    random_fix_dims(m->model, in[0], (int64_t[]){batch, s->height, s->width, s->cin});
    bb_model_add_input(m->model, in[0]);
    if (second) {
        in[1] = random_add_tensor(m, BB_TENSOR_CODE, 4, s->cout);
        random_fix_dims(m->model, in[1],
                        (int64_t[]){batch, random_out_size(s, 0), random_out_size(s, 1), s->cout});
        bb_model_add_input(m->model, in[1]);
    }
    for (int i = 0; i < n_out; i++) {
        out[i] = random_add_tensor(m, random_chance(m, 12) ? BB_TENSOR_FLOAT : BB_TENSOR_CODE, 4,
                                   s->cout);
        bb_model_add_output(m->model, out[i]);
    }
    bb_model_node *node = random_add_node(m, BB_NODE_CONV, second ? 2 : 1, in, n_out, out);
    node->geometry = s->geometry;
    node->groups = (uint32_t)s->groups;
    node->planes = random_planes(m, (uint32_t)s->cout,
                                 (uint32_t)(s->geometry.kernel[0] * s->geometry.kernel[1]),
                                 (uint32_t)(s->cin / s->groups), planes, native);
}

static bb_model *try_conv_model(uint64_t seed, uint32_t activation_bits, uint32_t weight_bits) {
    maker m = {.model = bb_model_create()};
    if (!m.model)
        random_die("out of memory");
    bb_rng_seed(&m.rng, seed);
    const conv_shape s = random_shape(&m);
    const bool second = random_chance(&m, 30), native = random_chance(&m, 75);
    const uint32_t planes = native && random_chance(&m, 20)
                                ? (uint32_t)random_between(&m, weight_bits, 8)
                                : weight_bits;
    m.model->name = bb_arena_strdup(m.model->arena, "conv");
    build_conv_nodes(&m, &s, second, planes, native);
    bb_profile *profile = bb_model_add_profile(m.model, weight_bits, activation_bits);
    const bb_model_node *node = &m.model->nodes[0];
    random_grid(&m, &profile->tensors[node->in[0]], activation_bits);
    if (second)
        random_grid(&m, &profile->tensors[node->in[1]], (uint32_t)random_between(&m, 1, 16));
    random_conv_params(&m, &profile->convs[0], node->planes, weight_bits);
    const use u =
        random_conv_use(node->planes, activation_bits, &profile->convs[0], s.cout, second);
    for (int i = 0; i < node->n_out; i++) {
        bb_tensor_params *p = &profile->tensors[node->out[i]];
        const bool floats = m.model->tensors[node->out[i]].kind == BB_TENSOR_FLOAT;
        if (!floats)
            random_grid(&m, p, (uint32_t)random_between(&m, 1, random_chance(&m, 80) ? 8 : 16));
        random_requant(&m, p, floats, &u);
    }
    if (random_valid(m.model))
        return m.model;
    bb_model_destroy(m.model);
    return NULL;
}

bb_model *random_conv_model(uint64_t seed, uint32_t activation_bits, uint32_t weight_bits) {
    for (uint64_t attempt = 0; attempt < 100; attempt++) {
        bb_model *model = try_conv_model(seed + attempt * UINT64_C(0x9e3779b97f4a7c15),
                                         activation_bits, weight_bits);
        if (model)
            return model;
    }
    random_die("no convolution within the bounds");
    return NULL;
}
