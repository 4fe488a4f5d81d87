/* SPDX-License-Identifier: Apache-2.0 */
#include "random_model.h"
#include "random_parts.h"
#include <stdlib.h>

enum { MAX_LIVE = 64 };

/* Tensors that nodes may still read, with their concrete sizes. */
typedef struct live {
    int tensor, height, width, channels;
    bool floats, vector;
    uint32_t bits[2]; /**< by profile */
} live;

typedef struct network {
    maker m;
    live tensors[MAX_LIVE];
    int n;
    /* Grids and requantizers can only be set once the profiles exist: remembered until then. */
    struct made {
        int tensor;
        use use[2];
        uint32_t bits[2];
        bool requant;
        int same_grid; /**< tensor whose grid it shares, or -1 */
    } made[256];
    int n_made;
    struct conv_made {
        size_t node;
        uint32_t planes[2];
    } convs[64];
    int n_convs;
} network;

static live *keep(network *w, int tensor, const live *like, int channels) {
    if (w->n == MAX_LIVE)
        random_die("too many tensors");
    live *t = &w->tensors[w->n++];
    *t = *like;
    t->tensor = tensor;
    t->channels = channels;
    return t;
}

static const live *pick(network *w, bool floats) {
    for (int tries = 0; tries < 100; tries++) {
        const live *t = &w->tensors[random_between(&w->m, 0, w->n - 1)];
        if (t->floats == floats)
            return t;
    }
    return NULL;
}

/* A new output of the running node; conv_use is filled in later where `u` is NULL. */
static int make_output(network *w, live shape, const use u[2], int same_grid) {
    maker *m = &w->m;
    int t = random_add_tensor(m, shape.floats ? BB_TENSOR_FLOAT : BB_TENSOR_CODE,
                              shape.vector ? 2 : 4, shape.channels);
    struct made *made = &w->made[w->n_made++];
    *made = (struct made){.tensor = t, .same_grid = same_grid, .requant = u != NULL};
    for (int p = 0; p < 2; p++) {
        made->bits[p] = shape.bits[p];
        if (u)
            made->use[p] = u[p];
    }
    keep(w, t, &shape, shape.channels);
    return t;
}

static live with_random_bits(network *w, live shape, bool may_float) {
    shape.floats = may_float && random_chance(&w->m, 12);
    for (int p = 0; p < 2; p++)
        shape.bits[p] = (uint32_t)random_between(&w->m, 1, random_chance(&w->m, 85) ? 8 : 16);
    return shape;
}

static void level_uses(const network *w, const live *a, double n, bool second, use u[2]) {
    (void)w;
    for (int p = 0; p < 2; p++)
        u[p] = (use){.spread = 2.0 * (double)(1u << a->bits[p]),
                     .largest = 4.0 * (double)(1u << a->bits[p]),
                     .n = n,
                     .second = second,
                     .thresholds = !second && n == 1,
                     .channels = a->channels};
}

static bool convolvable(const live *t) {
    return t->bits[0] <= 8 && t->bits[1] <= 8;
}

static int random_weights(network *w, const conv_shape *s, const live *x, bool second, use u[2],
                          const bb_planes **weights) {
    maker *m = &w->m;
    const uint32_t planes = (uint32_t)random_between(m, 1, 8);
    const bool native = random_chance(m, 80);
    *weights = random_planes(m, (uint32_t)s->cout,
                             (uint32_t)(s->geometry.kernel[0] * s->geometry.kernel[1]),
                             (uint32_t)(s->cin / s->groups), planes, native);
    struct conv_made *made = &w->convs[w->n_convs];
    for (int p = 0; p < 2; p++) {
        made->planes[p] = native ? (uint32_t)random_between(m, 1, planes) : planes;
        u[p] = random_conv_use(*weights, x->bits[p], &(bb_conv_params){.planes = planes}, s->cout,
                               second);
    }
    return w->n_convs++;
}

static void add_conv(network *w, const conv_shape *s, int conv, const bb_planes *weights, int n_in,
                     const int *in, int n_out, const int *out) {
    w->convs[conv].node = w->m.model->n_nodes;
    bb_model_node *node = random_add_node(&w->m, BB_NODE_CONV, n_in, in, n_out, out);
    node->geometry = s->geometry;
    node->groups = (uint32_t)s->groups;
    node->planes = weights;
}

static const bb_geometry pointwise = {{1, 1}, {1, 1}, {1, 1}, {0, 0}, {0, 0}, false, false};

static bool append_conv(network *w) {
    maker *m = &w->m;
    const live *found = pick(w, false);
    if (!found || !convolvable(found) || w->n_convs == 64)
        return false;
    live x = *found;
    conv_shape s = {.height = x.height, .width = x.width, .cin = x.channels};
    random_window(m, &s);
    if (x.vector)
        s.geometry = pointwise;
    s.groups = random_chance(m, 25) ? x.channels : 1;
    s.cout = s.groups > 1 ? x.channels : (int)random_between(m, 1, 40);
    live y = x;
    y.height = random_out_size(&s, 0);
    y.width = random_out_size(&s, 1);
    y.channels = s.cout;
    if (y.height < 1 || y.width < 1)
        return false;
    int in[2] = {x.tensor, -1}, n_in = 1, out[2], n_out = 1 + random_chance(m, 25);
    for (int i = 0; i < w->n && n_in == 1; i++) {
        const live *t = &w->tensors[i];
        if (!t->floats && t->height == y.height && t->width == y.width &&
            t->channels == y.channels && t->vector == y.vector && random_chance(m, 50))
            in[n_in++] = t->tensor;
    }
    use u[2];
    const bb_planes *weights;
    const int conv = random_weights(w, &s, &x, n_in == 2, u, &weights);
    for (int i = 0; i < n_out; i++)
        out[i] = make_output(w, with_random_bits(w, y, true), u, -1);
    add_conv(w, &s, conv, weights, n_in, in, n_out, out);
    return true;
}

/* Codes of x's size on the grid of `like` (NULL = a new one), by a pointwise convolution or a
 * REQUANT. */
static int add_branch(network *w, const live *x, const live *like, int *channels) {
    maker *m = &w->m;
    use u[2];
    live y = with_random_bits(w, *x, false);
    const int same_grid = like ? like->tensor : -1;
    for (int p = 0; p < 2 && like; p++)
        y.bits[p] = like->bits[p];
    if (!convolvable(x) || w->n_convs == 64 || random_chance(m, 30)) {
        level_uses(w, x, 1, false, u);
        *channels = x->channels;
        const int out = make_output(w, y, u, same_grid);
        random_add_node(m, BB_NODE_REQUANT, 1, &x->tensor, 1, &out);
        return out;
    }
    const conv_shape s = {.height = x->height,
                          .width = x->width,
                          .cin = x->channels,
                          .cout = (int)random_between(m, 1, 40),
                          .groups = 1,
                          .geometry = pointwise};
    const bb_planes *weights;
    const int conv = random_weights(w, &s, x, false, u, &weights);
    *channels = y.channels = s.cout;
    const int out = make_output(w, y, u, same_grid);
    add_conv(w, &s, conv, weights, 1, &x->tensor, 1, &out);
    return out;
}

/* Two branches that only a CONCAT reads, sometimes beside one that it reads twice. */
static bool append_join(network *w) {
    maker *m = &w->m;
    const live *found = pick(w, false);
    int channels[3], in[4], n_in = 0;
    if (!found || w->n_made > 240)
        return false;
    const live x = *found;
    const int first = w->n;
    in[n_in++] = add_branch(w, &x, NULL, &channels[0]);
    const live a = w->tensors[first];
    in[n_in++] = add_branch(w, &x, &a, &channels[1]);
    live y = a;
    y.channels = channels[0] + channels[1];
    if (random_chance(m, 30)) {
        in[n_in] = add_branch(w, &x, &a, &channels[2]);
        in[n_in + 1] = in[n_in];
        n_in += 2;
        y.channels += 2 * channels[2];
    }
    if (random_chance(m, 70))
        w->n = first; /* nobody else reads the branches */
    const int out = make_output(w, y, NULL, in[0]);
    random_add_node(m, BB_NODE_CONCAT, n_in, in, 1, &out);
    return true;
}

static bool append_elementwise(network *w) {
    maker *m = &w->m;
    const live *found = pick(w, false);
    if (!found)
        return false;
    live x = *found;
    int in[2] = {x.tensor, -1}, n_in = 1, out[3], n_out = (int)random_between(m, 1, 3);
    bb_node_kind kind = BB_NODE_REQUANT;
    for (int i = 0; i < w->n && n_in == 1; i++) {
        const live *t = &w->tensors[i];
        const bool same = t->height == x.height && t->width == x.width,
                   vector = t->height == 1 && t->width == 1;
        if (t->floats || t->channels != x.channels || random_chance(m, 40))
            continue;
        const bool small = x.bits[0] + t->bits[0] < 24 && x.bits[1] + t->bits[1] < 24;
        if (same && random_chance(m, 60))
            kind = BB_NODE_ADD;
        else if ((same || vector) && small)
            kind = BB_NODE_MUL;
        else
            continue;
        in[n_in++] = t->tensor;
        if (kind == BB_NODE_MUL) /* room for the product: as if the bits were those of both */
            for (int p = 0; p < 2; p++)
                x.bits[p] += t->bits[p] + 2;
    }
    use u[2];
    level_uses(w, &x, 1, kind == BB_NODE_ADD, u);
    for (int i = 0; i < n_out; i++)
        out[i] = make_output(w, with_random_bits(w, x, true), u, -1);
    random_add_node(m, kind, n_in, in, n_out, out);
    return true;
}

static bool pool_shape(network *w, const live *x, bb_geometry *g, live *y) {
    maker *m = &w->m;
    *y = *x;
    y->height = y->width = 1;
    *g = (bb_geometry){0};
    if (x->vector || random_chance(m, 20))
        return true;
    conv_shape s = {.height = x->height, .width = x->width};
    random_window(m, &s);
    for (int axis = 0; axis < 2; axis++) {
        s.geometry.kernel[axis] = (int32_t)random_between(m, 2, 4);
        s.geometry.pad_begin[axis] = (int32_t)random_between(m, 0, 1);
        s.geometry.pad_end[axis] = (int32_t)random_between(m, 0, 1);
    }
    s.geometry.ceil_mode = random_chance(m, 50);
    *g = s.geometry;
    y->height = random_out_size(&s, 0);
    y->width = random_out_size(&s, 1);
    return y->height > 0 && y->width > 0;
}

static bool append_pool(network *w) {
    const live *found = pick(w, false);
    live y;
    bb_geometry g;
    if (!found)
        return false;
    live x = *found;
    if (!pool_shape(w, &x, &g, &y))
        return false;
    if (random_chance(&w->m, 50)) {
        int out = make_output(w, y, NULL, x.tensor);
        random_add_node(&w->m, BB_NODE_MAX_POOL, 1, &x.tensor, 1, &out)->geometry = g;
        return true;
    }
    use u[2];
    int out[2], n_out = (int)random_between(&w->m, 1, 2);
    g.count_include_pad = g.kernel[0] > 0 && random_chance(&w->m, 50);
    level_uses(w, &x, g.kernel[0] ? g.kernel[0] * g.kernel[1] : x.height * x.width, false, u);
    for (int p = 0; p < 2; p++)
        u[p].thresholds = false;
    for (int i = 0; i < n_out; i++)
        out[i] = make_output(w, with_random_bits(w, y, true), u, -1);
    random_add_node(&w->m, BB_NODE_AVERAGE_POOL, 1, &x.tensor, n_out, out)->geometry = g;
    return true;
}

/* A convolution whose outputs max pools read, mostly nobody else and with the same windows. */
static bool append_pooled_conv(network *w) {
    maker *m = &w->m;
    const live *found = pick(w, false);
    if (!found || !convolvable(found) || found->vector || w->n_convs == 64 || w->n_made > 240)
        return false;
    const live x = *found;
    conv_shape s = {.height = x.height,
                    .width = x.width,
                    .cin = x.channels,
                    .cout = (int)random_between(m, 1, 40),
                    .groups = 1};
    random_window(m, &s);
    live y = x, pooled[2];
    y.height = random_out_size(&s, 0);
    y.width = random_out_size(&s, 1);
    y.channels = s.cout;
    bb_geometry g[2];
    if (y.height < 1 || y.width < 1 || !pool_shape(w, &y, &g[0], &pooled[0]) ||
        !pool_shape(w, &y, &g[1], &pooled[1]))
        return false;
    if (random_chance(m, 80)) {
        g[1] = g[0];
        pooled[1] = pooled[0];
    }
    use u[2];
    const bb_planes *weights;
    const int conv = random_weights(w, &s, &x, false, u, &weights), first = w->n;
    const int n_out = (int)random_between(m, 1, 2);
    int out[2];
    live made[2];
    for (int i = 0; i < n_out; i++) {
        out[i] = make_output(w, with_random_bits(w, y, false), u, -1);
        made[i] = w->tensors[w->n - 1];
    }
    add_conv(w, &s, conv, weights, 1, &x.tensor, n_out, out);
    if (random_chance(m, 80))
        w->n = first;
    for (int i = 0; i < n_out; i++) {
        for (int p = 0; p < 2; p++)
            pooled[i].bits[p] = made[i].bits[p];
        const int to = make_output(w, pooled[i], NULL, out[i]);
        random_add_node(m, BB_NODE_MAX_POOL, 1, &out[i], 1, &to)->geometry = g[i];
    }
    return true;
}

static bool append_copy(network *w) {
    maker *m = &w->m;
    const live *found = pick(w, false);
    if (!found)
        return false;
    const live x = *found;
    live y = x;
    int in[3] = {x.tensor, x.tensor, x.tensor};
    if (random_chance(m, 30)) {
        const int n_in = (int)random_between(m, 1, 3);
        y.channels *= n_in;
        if (y.channels > 200)
            return false;
        int out = make_output(w, y, NULL, x.tensor);
        random_add_node(m, BB_NODE_CONCAT, n_in, in, 1, &out);
    } else if (random_chance(m, 40)) {
        y.channels = (int)random_between(m, 1, 50);
        int out = make_output(w, y, NULL, x.tensor);
        bb_model_node *node = random_add_node(m, BB_NODE_GATHER_CHANNELS, 1, in, 1, &out);
        int32_t *index = random_array(m, (size_t)y.channels, sizeof(*index));
        for (int c = 0; c < y.channels; c++)
            index[c] = (int32_t)random_between(m, 0, x.channels - 1);
        node->channel_index = index;
        node->n_channel_index = (uint32_t)y.channels;
    } else if (random_chance(m, 50) && !x.vector) {
        const int fy = (int)random_between(m, 1, 3), fx = (int)random_between(m, 1, 3);
        y.height *= fy;
        y.width *= fx;
        if (y.height * y.width > 600)
            return false;
        int out = make_output(w, y, NULL, x.tensor);
        bb_model_node *node = random_add_node(m, BB_NODE_RESIZE_NEAREST, 1, in, 1, &out);
        node->resize_factor[0] = fy;
        node->resize_factor[1] = fx;
    } else {
        y.channels = x.height * x.width * x.channels;
        if (y.channels > 600)
            return false;
        y.height = y.width = 1;
        y.vector = true;
        int out = make_output(w, y, NULL, x.tensor);
        random_add_node(m, BB_NODE_RESHAPE, 1, in, 1, &out);
    }
    return true;
}

static bool append_quantize(network *w) {
    const live *found = pick(w, true);
    if (!found)
        return false;
    live x = *found;
    int out[2], n_out = (int)random_between(&w->m, 1, 2);
    for (int i = 0; i < n_out; i++)
        out[i] = make_output(w, with_random_bits(w, x, false), NULL, -1);
    random_add_node(&w->m, BB_NODE_QUANTIZE, 1, &x.tensor, n_out, out);
    return true;
}

static bool append_float_window(network *w, const live *x) {
    maker *m = &w->m;
    live y = *x;
    if (random_chance(m, 50)) {
        bb_geometry g;
        if (!pool_shape(w, x, &g, &y))
            return false;
        const bool average = random_chance(m, 50);
        g.count_include_pad = average && g.kernel[0] > 0 && random_chance(m, 50);
        int out = make_output(w, y, NULL, -1);
        bb_model_node *node = random_add_node(m, BB_NODE_FLOAT, 1, &x->tensor, 1, &out);
        node->float_op = average ? BB_FLOAT_AVERAGE_POOL : BB_FLOAT_MAX_POOL;
        node->geometry = g;
        return true;
    }
    conv_shape s = {.height = x->height, .width = x->width};
    random_window(m, &s);
    if (x->vector)
        s.geometry = (bb_geometry){{1, 1}, {1, 1}, {1, 1}, {0, 0}, {0, 0}, false, false};
    const int groups = random_chance(m, 25) ? x->channels : 1;
    y.channels = groups > 1 ? x->channels : (int)random_between(m, 1, 20);
    y.height = random_out_size(&s, 0);
    y.width = random_out_size(&s, 1);
    if (y.height < 1 || y.width < 1)
        return false;
    int out = make_output(w, y, NULL, -1);
    bb_model_node *node = random_add_node(m, BB_NODE_FLOAT, 1, &x->tensor, 1, &out);
    node->float_op = BB_FLOAT_CONV;
    node->geometry = s.geometry;
    node->groups = (uint32_t)groups;
    node->n_float_weights = (uint32_t)(y.channels * (x->channels / groups) * s.geometry.kernel[0] *
                                       s.geometry.kernel[1]);
    node->float_weights = random_floats(m, node->n_float_weights, 0.1);
    if (random_chance(m, 70)) {
        node->n_float_bias = (uint32_t)y.channels;
        node->float_bias = random_floats(m, node->n_float_bias, 1);
    }
    return true;
}

static bool append_float_pointwise(network *w, const live *x) {
    static const bb_float_op ops[] = {BB_FLOAT_ADD,        BB_FLOAT_MUL,     BB_FLOAT_RELU,
                                      BB_FLOAT_LEAKY_RELU, BB_FLOAT_SIGMOID, BB_FLOAT_HARD_SIGMOID,
                                      BB_FLOAT_HARD_SWISH, BB_FLOAT_SILU,    BB_FLOAT_TANH,
                                      BB_FLOAT_SOFTMAX,    BB_FLOAT_CONCAT,  BB_FLOAT_RESHAPE,
                                      BB_FLOAT_AFFINE};
    maker *m = &w->m;
    const bb_float_op op = ops[random_between(m, 0, (int64_t)BB_COUNT(ops) - 1)];
    const int in[2] = {x->tensor, x->tensor};
    const int n_in = op == BB_FLOAT_ADD || op == BB_FLOAT_MUL || op == BB_FLOAT_CONCAT ? 2 : 1;
    live y = *x;
    if (op == BB_FLOAT_CONCAT)
        y.channels *= 2;
    if (op == BB_FLOAT_RESHAPE) {
        y.channels *= y.height * y.width;
        y.height = y.width = 1;
        y.vector = true;
    }
    if (y.channels > 600)
        return false;
    int out = make_output(w, y, NULL, -1);
    bb_model_node *node = random_add_node(m, BB_NODE_FLOAT, n_in, in, 1, &out);
    node->float_op = op;
    node->alpha = op == BB_FLOAT_RELU ? 0.0f : 0.2f;
    node->beta = op == BB_FLOAT_RELU ? 6.0f : 0.5f;
    if (op == BB_FLOAT_AFFINE || (op == BB_FLOAT_LEAKY_RELU && random_chance(m, 50))) {
        node->n_float_weights = (uint32_t)x->channels;
        node->float_weights = random_floats(m, node->n_float_weights, 1);
    }
    if (op == BB_FLOAT_AFFINE && random_chance(m, 50)) {
        node->n_float_bias = (uint32_t)x->channels;
        node->float_bias = random_floats(m, node->n_float_bias, 1);
    }
    return true;
}

static bool append_float(network *w) {
    const live *found = pick(w, true);
    if (!found)
        return false;
    const live x = *found;
    return random_chance(&w->m, 35) ? append_float_window(w, &x) : append_float_pointwise(w, &x);
}

static void append_node(network *w) {
    static bool (*const kinds[])(network *) = {
        append_conv,     append_conv,  append_elementwise, append_pool, append_copy,
        append_quantize, append_float, append_elementwise, append_join, append_pooled_conv};
    while (!kinds[random_between(&w->m, 0, (int64_t)BB_COUNT(kinds) - 1)](w))
        ;
}

static void add_input(network *w, bool floats) {
    maker *m = &w->m;
    live x = {.height = (int)random_between(m, 3, 12),
              .width = (int)random_between(m, 3, 12),
              .channels = (int)random_between(m, 1, 20),
              .floats = floats,
              .bits = {8, (uint32_t)random_between(m, 1, 8)}};
    const int t = make_output(w, x, NULL, -1);
    random_fix_dims(m->model, t,
                    (int64_t[]){random_between(m, 1, 2), x.height, x.width, x.channels});
    bb_model_add_input(m->model, t);
}

/* Every tensor that no node reads is an output. */
static void add_outputs(network *w) {
    bb_model *model = w->m.model;
    for (int t = (int)model->n_inputs; t < (int)model->n_tensors; t++) {
        bool used = false;
        for (size_t i = 0; i < model->n_nodes; i++)
            for (int k = 0; k < model->nodes[i].n_in; k++)
                used = used || model->nodes[i].in[k] == t;
        if (!used || random_chance(&w->m, 10))
            bb_model_add_output(model, t);
    }
}

static void fill_profile(network *w, int index) {
    maker *m = &w->m;
    bb_profile *profile = &m->model->profiles[index];
    for (int i = 0; i < w->n_made; i++) {
        const struct made *made = &w->made[i];
        bb_tensor_params *p = &profile->tensors[made->tensor];
        const bool floats = m->model->tensors[made->tensor].kind == BB_TENSOR_FLOAT;
        if (!floats && made->same_grid >= 0)
            *p = (bb_tensor_params){.bits = profile->tensors[made->same_grid].bits,
                                    .step = profile->tensors[made->same_grid].step,
                                    .a0 = profile->tensors[made->same_grid].a0};
        else if (!floats)
            random_grid(m, p, made->bits[index]);
        if (made->requant)
            random_requant(m, p, floats, &made->use[index]);
    }
    for (int i = 0; i < w->n_convs; i++)
        random_conv_params(m, &profile->convs[w->convs[i].node],
                           m->model->nodes[w->convs[i].node].planes, w->convs[i].planes[index]);
}

static bb_model *try_network(uint64_t seed) {
    network *w = calloc(1, sizeof(*w));
    if (!w || !(w->m.model = bb_model_create()))
        random_die("out of memory");
    bb_rng_seed(&w->m.rng, seed);
    w->m.model->name = bb_arena_strdup(w->m.model->arena, "network");
    add_input(w, random_chance(&w->m, 30));
    const int nodes = (int)random_between(&w->m, 3, 14);
    for (int i = 0; i < nodes; i++)
        append_node(w);
    add_outputs(w);
    for (int p = 0; p < 2; p++)
        if (!bb_model_add_profile(w->m.model, p ? 4 : 8, 8))
            random_die("profile");
    for (int p = 0; p < 2; p++)
        fill_profile(w, p);
    bb_model *model = w->m.model;
    free(w);
    if (random_valid(model))
        return model;
    bb_model_destroy(model);
    return NULL;
}

bb_model *random_network(uint64_t seed) {
    for (uint64_t attempt = 0; attempt < 100; attempt++) {
        bb_model *model = try_network(seed + attempt * UINT64_C(0x9e3779b97f4a7c15));
        if (model)
            return model;
    }
    random_die("no network within the bounds");
    return NULL;
}
