/* SPDX-License-Identifier: Apache-2.0 */
#include "train/network.h"
#include <math.h>
#include <string.h>

typedef struct builder {
    const bb_network_options *o;
    bb_graph *g;
    bb_rng rng;
    int x;              /* value the next layer reads, -1 after a failure */
    int channels, side; /* of x; side is the shorter one */
} builder;

/* A name that is never NULL; without memory the network fails. */
static const char *named(builder *b, const char *name) {
    if (!name)
        b->x = -1;
    return name ? name : "";
}

static const char *join(builder *b, const char *layer, const char *what) {
    return named(b, bb_arena_printf(b->g->arena, "%s.%s", layer, what));
}

static int constant(builder *b, const char *layer, const char *what, int rank, const int64_t *dims,
                    double mean, double deviation) {
    void *data;
    size_t n;
    const char *name = join(b, layer, what);
    if (!bb_dims_product(dims, (size_t)rank, &n))
        return -1;
    int value = bb_graph_add_constant(b->g, name, BB_DTYPE_F32, rank, dims, &data);
    float *f = data;
    for (size_t i = 0; value >= 0 && i < n; i++)
        f[i] = (float)(deviation > 0 ? mean + deviation * bb_rng_normal(&b->rng) : mean);
    return value;
}

/* Adds a node that reads b->x first; b->x becomes its result. */
static bb_node *add(builder *b, bb_op op, const char *name, int n_in, int *in) {
    in[0] = b->x;
    for (int i = 0; i < n_in; i++)
        if (in[i] < 0)
            b->x = -1;
    if (b->x < 0)
        return NULL;
    int out = bb_graph_add_value(b->g, name, BB_DTYPE_F32, -1, NULL);
    int node = out < 0 ? -1 : bb_graph_add_node(b->g, name, op, n_in, in, 1, &out);
    b->x = node < 0 ? -1 : out;
    return node < 0 ? NULL : &b->g->nodes[node];
}

static void check(builder *b, bool ok) {
    if (!ok)
        b->x = -1;
}

static void conv(builder *b, const char *name, int out, int kernel, int stride) {
    int64_t dims[4] = {out, b->channels, kernel, kernel};
    int64_t strides[2] = {stride, stride}, k[2] = {kernel, kernel};
    int64_t pad = kernel / 2, pads[4] = {pad, pad, pad, pad};
    double fan_in = (double)b->channels * kernel * kernel;
    int in[2] = {0, constant(b, name, "weight", 4, dims, 0, sqrt(2 / fan_in))};
    bb_node *node = add(b, BB_OP_CONV, name, 2, in);
    check(b, node && bb_node_set_ints(b->g, node, "kernel_shape", k, 2) &&
                 bb_node_set_ints(b->g, node, "strides", strides, 2) &&
                 bb_node_set_ints(b->g, node, "pads", pads, 4));
    b->channels = out;
    b->side = (b->side - 1) / stride + 1;
}

static void batch_norm(builder *b, const char *layer) {
    static const char *const what[4] = {"scale", "shift", "mean", "variance"};
    int64_t dims[1] = {b->channels};
    int in[5] = {0};
    const char *name = join(b, layer, "norm");
    for (int i = 0; i < 4; i++)
        in[i + 1] = constant(b, name, what[i], 1, dims, i % 3 == 0 ? 1 : 0, 0);
    bb_node *node = add(b, BB_OP_BATCH_NORMALIZATION, name, 5, in);
    check(b, node && bb_node_set_float(b->g, node, "epsilon", 1e-5f) &&
                 bb_node_set_float(b->g, node, "momentum", 0.9f));
}

static void clip(builder *b, const char *name, float low, float high) {
    int in[3] = {0};
    const char *limit = join(b, name, "limits");
    in[1] = constant(b, limit, "low", 0, NULL, (double)low, 0);
    in[2] = constant(b, limit, "high", 0, NULL, (double)high, 0);
    add(b, BB_OP_CLIP, name, 3, in);
}

static void activation(builder *b, const char *layer) {
    int in[1];
    const char *name = join(b, layer, "act");
    if (b->o->activation == BB_NETWORK_RELU)
        add(b, BB_OP_RELU, name, 1, in);
    else
        clip(b, name, b->o->activation == BB_NETWORK_HTANH ? -1 : 0, 1);
}

static void conv_norm_act(builder *b, const char *name, int out, int kernel, int stride) {
    conv(b, name, out, kernel, stride);
    batch_norm(b, name);
    activation(b, name);
}

static void pool(builder *b, bb_op op, const char *name, int kernel, int stride, int pad) {
    int64_t k[2] = {kernel, kernel}, s[2] = {stride, stride}, p[4] = {pad, pad, pad, pad};
    int in[1];
    bb_node *node = add(b, op, name, 1, in);
    check(b, node && bb_node_set_ints(b->g, node, "kernel_shape", k, 2) &&
                 bb_node_set_ints(b->g, node, "strides", s, 2) &&
                 bb_node_set_ints(b->g, node, "pads", p, 4));
    b->side = (b->side + 2 * pad - kernel) / stride + 1;
}

static void add_shortcut(builder *b, const char *block, int shortcut) {
    int in[2] = {0, shortcut};
    const char *name = join(b, block, "add");
    add(b, BB_OP_ADD, name, 2, in);
}

static void fully_connected(builder *b, const char *name, int inputs, int outputs) {
    int64_t dims[2] = {outputs, inputs}, bias[1] = {outputs};
    int in[3] = {0, constant(b, name, "weight", 2, dims, 0, sqrt(1 / (double)inputs)),
                 constant(b, name, "bias", 1, bias, 0, 0)};
    bb_node *node = add(b, BB_OP_GEMM, name, 3, in);
    check(b, node && bb_node_set_int(b->g, node, "transB", 1));
    b->channels = outputs;
}

static void flatten(builder *b, const char *name) {
    int in[1];
    add(b, BB_OP_FLATTEN, name, 1, in);
}

/* Mean over all positions, then the classifier. */
static void classifier(builder *b) {
    int in[1];
    add(b, BB_OP_GLOBAL_AVERAGE_POOL, "pool", 1, in);
    flatten(b, "features");
    fully_connected(b, "scores", b->channels, b->o->classes);
}

/* ---- bodies ---------------------------------------------------------------------------------- */

/* The shortcut of a block that changes the size: a 1x1 convolution. */
static int project(builder *b, const builder *before, const char *block, int out, int stride) {
    builder side = *before;
    side.rng = b->rng;
    if (stride == 1 && before->channels == out)
        return before->x;
    const char *name = join(b, block, "shortcut");
    conv(&side, name, out, 1, stride);
    batch_norm(&side, name);
    b->rng = side.rng;
    return side.x;
}

static void basic_block(builder *b, const char *block, int out, int stride) {
    builder before = *b;
    const char *name = join(b, block, "conv1");
    conv_norm_act(b, name, out, 3, stride);
    name = join(b, block, "conv2");
    conv(b, name, out, 3, 1);
    batch_norm(b, name);
    add_shortcut(b, block, project(b, &before, block, out, stride));
    activation(b, block);
}

static void residual_body(builder *b, const int *widths, int stages, int blocks) {
    for (int s = 0; s < stages; s++) {
        for (int i = 0; i < blocks; i++) {
            const char *name =
                named(b, bb_arena_printf(b->g->arena, "stage%d.block%d", s + 1, i + 1));
            basic_block(b, name, widths[s], s > 0 && i == 0 ? 2 : 1);
        }
    }
}

static void resnet20(builder *b, const int *widths) {
    conv_norm_act(b, "stem", widths[0], 3, 1);
    residual_body(b, widths, 3, b->o->blocks);
    classifier(b);
}

static void resnet18(builder *b, const int *widths) {
    bool large = b->side >= 64;
    conv_norm_act(b, "stem", widths[0], large ? 7 : 3, large ? 2 : 1);
    if (large)
        pool(b, BB_OP_MAX_POOL, "stem.pool", 3, 2, 1);
    residual_body(b, widths, 4, 2);
    classifier(b);
}

/* One convolution of a Bi-Real body: its input is clipped to -1..1 (the sign function's range in
 * which gradients pass), its output is added to the unclipped input, averaged where the size
 * halves. */
static void bireal_unit(builder *b, const char *unit, int out, int stride) {
    builder before = *b;
    const char *name = join(b, unit, "act");
    clip(b, name, -1, 1);
    name = join(b, unit, "conv");
    conv(b, name, out, 3, stride);
    batch_norm(b, name);
    if (stride > 1) {
        builder side = before;
        name = join(b, unit, "average");
        pool(&side, BB_OP_AVERAGE_POOL, name, stride, stride, 0);
        before = side;
    }
    add_shortcut(b, unit, project(b, &before, unit, out, 1));
}

static void bireal20(builder *b, const int *widths) {
    conv(b, "stem", widths[0], 3, 1);
    batch_norm(b, "stem");
    for (int s = 0; s < 3; s++) {
        for (int i = 0; i < 2 * b->o->blocks; i++) {
            const char *name =
                named(b, bb_arena_printf(b->g->arena, "stage%d.unit%d", s + 1, i + 1));
            bireal_unit(b, name, widths[s], s > 0 && i == 0 ? 2 : 1);
        }
    }
    activation(b, "body");
    classifier(b);
}

static void vgg_small(builder *b, const int *widths) {
    const char *name;
    for (int s = 0; s < 3; s++) {
        for (int i = 0; i < 2; i++) {
            name = named(b, bb_arena_printf(b->g->arena, "stage%d.conv%d", s + 1, i + 1));
            conv_norm_act(b, name, widths[s], 3, 1);
        }
        name = named(b, bb_arena_printf(b->g->arena, "stage%d.pool", s + 1));
        pool(b, BB_OP_MAX_POOL, name, 2, 2, 0);
    }
    int height = b->o->height / 8, width = b->o->width / 8;
    int inputs = b->channels * height * width;
    flatten(b, "features");
    for (int i = 0; i < b->o->n_hidden; i++) {
        name = named(b, bb_arena_printf(b->g->arena, "hidden%d", i + 1));
        fully_connected(b, name, inputs, b->o->hidden[i]);
        batch_norm(b, name);
        activation(b, name);
        inputs = b->o->hidden[i];
    }
    fully_connected(b, "scores", inputs, b->o->classes);
}

static void fashion_small(builder *b, const int *widths) {
    conv_norm_act(b, "conv1", widths[0], 3, 1);
    pool(b, BB_OP_MAX_POOL, "pool1", 2, 2, 0);
    conv_norm_act(b, "conv2", widths[0], 3, 1);
    conv_norm_act(b, "conv3", widths[1], 3, 1);
    pool(b, BB_OP_MAX_POOL, "pool2", 2, 2, 0);
    conv_norm_act(b, "conv4", widths[1], 3, 1);
    conv_norm_act(b, "conv5", widths[1], 3, 1);
    classifier(b);
}

/* ---- the whole ------------------------------------------------------------------------------- */

static const struct {
    void (*body)(builder *b, const int *widths);
    int n_widths, widths[BB_NETWORK_MAX_WIDTHS];
    int halvings; /* each side is at least 2 to this power */
} kinds[] = {
    [BB_NETWORK_RESNET20] = {resnet20, 3, {16, 32, 64}, 2},
    [BB_NETWORK_RESNET18] = {resnet18, 4, {64, 128, 256, 512}, 3},
    [BB_NETWORK_VGG_SMALL] = {vgg_small, 3, {128, 256, 512}, 3},
    [BB_NETWORK_FASHION_SMALL] = {fashion_small, 2, {32, 64}, 2},
    [BB_NETWORK_BIREAL20] = {bireal20, 3, {16, 32, 64}, 2},
};

int bb_network_widths(bb_network_kind kind) {
    return kinds[kind].n_widths;
}

static bb_status set_ends(builder *b, int input, bb_error *err) {
    bb_graph *g = b->g;
    g->inputs = bb_arena_array(g->arena, 1, sizeof(int));
    g->outputs = bb_arena_array(g->arena, 1, sizeof(int));
    if (b->x < 0 || !g->inputs || !g->outputs)
        return bb_fail_memory(err, "network");
    g->inputs[0] = input;
    g->outputs[0] = b->x;
    g->n_inputs = g->n_outputs = 1;
    BB_TRY(bb_graph_link(g, err));
    return bb_graph_infer_shapes(g, NULL, 0, err);
}

static bb_status build(builder *b, bb_error *err) {
    const bb_network_options *o = b->o;
    int64_t dims[4] = {-1, o->channels, o->height, o->width};
    int widths[BB_NETWORK_MAX_WIDTHS];
    for (int i = 0; i < kinds[o->kind].n_widths; i++)
        widths[i] = o->widths[i] > 0 ? o->widths[i] : kinds[o->kind].widths[i];
    bb_rng_seed(&b->rng, o->seed);
    b->channels = o->channels;
    b->side = o->height < o->width ? o->height : o->width;
    if (b->side < 1 << kinds[o->kind].halvings)
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT,
                       "images of %dx%d are too small for this network", o->width, o->height);
    int input = b->x = bb_graph_add_value(b->g, "image", BB_DTYPE_F32, 4, dims);
    kinds[o->kind].body(b, widths);
    return set_ends(b, input, err);
}

bb_status bb_network_build(const bb_network_options *options, bb_graph **graph, bb_error *err) {
    bb_network_options o = *options;
    o.blocks = o.blocks > 0 ? o.blocks : 3;
    builder b = {.o = &o, .g = bb_graph_create()};
    if (!b.g)
        return bb_fail_memory(err, "network");
    b.g->name = "network";
    b.g->opset = 21;
    bb_status status = build(&b, err);
    if (status == BB_STATUS_OK)
        *graph = b.g;
    else
        bb_graph_destroy(b.g);
    return status;
}
